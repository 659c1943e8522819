//! The planted mistakes are mistakes of this source. `tests/planted/run` shows that each is caught,
//! which takes a while; this holds that each can be planted, and that `tests/README.md` tells of it.

use std::{fs, path::Path};

use crate::sources;

const README: &str = include_str!("../README.md");

/// A patch of `src/` or `infra/terraform/`, below the headers that say what it breaks.
struct Mistake {
    name: String,
    promise: String,
    mistake: String,
    caught_by: String,
    diff: String,
}

#[test]
fn every_mistake_can_be_planted_in_one_place() {
    for Mistake { name, diff, .. } in mistakes() {
        let files: Vec<_> = diff.split("\n--- a/").skip(1).collect();
        assert!(!files.is_empty(), "{name} changes nothing");
        for file in files {
            let (path, hunks) = file.split_once('\n').unwrap();
            let is_ours = path.starts_with("src/") || path.starts_with("infra/terraform/");
            assert!(is_ours, "{name} changes {path}");
            let source = format!("\n{}", fs::read_to_string(root().join(path)).unwrap());
            for hunk in hunks.split("\n@@ ").skip(1) {
                let replaced: Vec<_> =
                    hunk.lines().skip(1).filter_map(|line| line.strip_prefix([' ', '-'])).collect();
                let replaced = format!("\n{}\n", replaced.join("\n"));
                let count = source.matches(&replaced).count();
                assert_eq!(
                    count, 1,
                    "what {name} replaces stands {count} times in {path}:{replaced}"
                );
            }
        }
    }
}

#[test]
fn every_mistake_names_a_test_that_there_is() {
    let tests = sources::under("tests/it");
    for Mistake { name, caught_by, .. } in mistakes() {
        let (module, test) = caught_by.rsplit_once("::").unwrap();
        let is_there = tests.iter().any(|source| {
            let file = source.path.trim_start_matches("tests/it/").trim_end_matches(".rs");
            format!("{module}::").starts_with(&format!("{}::", file.replace('/', "::")))
                && source.code.contains(&format!("fn {test}("))
        });
        assert!(is_there, "{name} is caught by {caught_by}, which there is not");
    }
}

#[test]
fn the_table_tells_of_every_mistake_and_of_no_other() {
    let section = README.split("## Planted mistakes").nth(1).unwrap();
    let mut told = Vec::new();
    let mut last_promise = "";
    for row in section.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let ["", promise, mistake, name, caught_by, ""] = cells[..] else {
            panic!("a row of four has other cells: {row}");
        };
        // The rows below a promise are about the same one.
        if !promise.is_empty() {
            last_promise = promise;
        }
        if name.starts_with('`') {
            let caught_by = caught_by.trim_matches('`').trim_end_matches('…');
            told.push((name.trim_matches('`'), last_promise, mistake, caught_by));
        }
    }
    let mistakes = mistakes();
    for it in &mistakes {
        let row = told.iter().find(|(name, ..)| *name == it.name);
        let (_, promise, mistake, caught_by) =
            row.unwrap_or_else(|| panic!("{} is not in the table", it.name));
        assert_eq!((*promise, *mistake), (&*it.promise, &*it.mistake), "{}", it.name);
        assert!(it.caught_by.starts_with(caught_by), "{} is caught by {}", it.name, it.caught_by);
    }
    assert_eq!(told.len(), mistakes.len(), "the table tells of a mistake that there is not");
}

/// All of them; one without its headers is refused.
fn mistakes() -> Vec<Mistake> {
    let files =
        fs::read_dir(root().join("tests/planted")).unwrap().map(|file| file.unwrap().path());
    let patches = files.filter(|path| path.extension().is_some_and(|it| it == "patch"));
    let mistakes: Vec<_> = patches.map(|path| mistake(&path)).collect();
    assert!(!mistakes.is_empty());
    mistakes
}

fn mistake(path: &Path) -> Mistake {
    let diff = fs::read_to_string(path).unwrap();
    let header = |name: &str| {
        let headers = diff.lines().take_while(|line| !line.is_empty());
        let mut found = headers.filter_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        found.next().unwrap_or_else(|| panic!("{} lacks `{name}: `", path.display())).to_owned()
    };
    Mistake {
        name: path.file_stem().unwrap().display().to_string(),
        promise: header("Promise"),
        mistake: header("Mistake"),
        caught_by: header("Caught-by"),
        diff,
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
