//! Who may know whom: what decides asks nobody, what carries out names no SDK, and adapters know
//! nothing of rotations.

use crate::sources::{self, Source};

/// Modules that decide: values in, values out.
const PURE: [&str; 10] =
    ["config", "error", "event", "metrics", "notice", "plan", "record", "spec", "time", "token"];
/// Modules that carry decisions out through the ports.
const SHELL: [&str; 11] = [
    "begin",
    "compare",
    "import",
    "invoke",
    "look",
    "pipeline",
    "preflight",
    "rotate",
    "steps",
    "sweep",
    "turn",
];
/// The other binary's modules, below `command`, which nothing else knows of.
const COMMAND: &str = "command";
/// What reads answers, judges and shows them: it asks nobody.
const SHOWING: [&str; 3] = ["answer", "render", "verdict"];
/// The command's own crates.
const COMMANDS_CRATES: [&str; 4] = ["clap", "comfy_table", "console", "indicatif"];
/// What AWS's and Kubernetes' crates are called.
const SDKS: [&str; 5] = ["aws_", "k8s_openapi", "kube::", "lambda_runtime", "hyper"];

#[test]
fn the_core_names_no_sdk() {
    for source in sources::under("src").iter().filter(|source| !is_at_the_edge(source)) {
        for sdk in SDKS {
            let named = source.code.lines().find(|line| names(line, sdk));
            assert!(named.is_none(), "{} names {sdk}: {}", source.path, named.unwrap_or_default());
        }
    }
}

#[test]
fn what_decides_waits_for_nothing() {
    for source in sources::under("src").iter().filter(|source| PURE.contains(&module(source))) {
        for word in ["async ", ".await", "tokio::"] {
            assert!(!source.code.contains(word), "{} has `{word}`", source.path);
        }
    }
}

#[test]
fn what_decides_does_not_know_who_carries_it_out() {
    for source in sources::under("src").iter().filter(|source| PURE.contains(&module(source))) {
        assert_knows_nothing_of(source, &SHELL);
    }
}

#[test]
fn adapters_know_nothing_of_rotations() {
    for source in sources::under("src/world") {
        assert_knows_nothing_of(&source, &SHELL);
        assert_knows_nothing_of(&source, &["plan", "report"]);
    }
}

#[test]
fn the_function_does_not_know_the_command() {
    for source in sources::under("src").iter().filter(|source| !is_of_the_command(source)) {
        assert_knows_nothing_of(source, &[COMMAND]);
        for name in COMMANDS_CRATES {
            let named = source.code.lines().find(|line| names(line, &format!("{name}::")));
            assert!(named.is_none(), "{} names {name}: {}", source.path, named.unwrap_or_default());
        }
    }
}

#[test]
fn the_command_knows_the_function_by_its_answers_only() {
    for source in sources::under("src").into_iter().filter(is_of_the_command) {
        assert_knows_nothing_of(&source, &SHELL);
        assert_knows_nothing_of(&source, &["config", "event", "plan", "record", "report"]);
    }
}

#[test]
fn what_shows_an_answer_asks_nobody() {
    for source in sources::under("src/command") {
        let path = source.path.trim_start_matches("src/command/");
        if SHOWING.iter().any(|module| path.starts_with(module)) {
            for word in ["async ", ".await", "tokio::", "io::"] {
                assert!(!source.code.contains(word), "{} has `{word}`", source.path);
            }
        }
    }
}

#[test]
fn every_module_is_in_one_layer() {
    for source in sources::under("src") {
        let module = module(&source);
        let is_placed = PURE.contains(&module)
            || SHELL.contains(&module)
            || ["report", "world", COMMAND].contains(&module)
            || source.path == "src/lib.rs"
            || source.path.starts_with("src/bin/");
        assert!(is_placed, "{} is in no layer: put its module into one above", source.path);
    }
}

/// Adapters and binaries, where SDKs are named; the ports and the clock are not among them.
fn is_at_the_edge(source: &Source) -> bool {
    source.path.starts_with("src/bin/")
        || source.path == "src/command/function.rs"
        || (source.path.starts_with("src/world/") && source.path != "src/world/clock.rs")
}

fn is_of_the_command(source: &Source) -> bool {
    module(source) == COMMAND || source.path == "src/bin/changeover.rs"
}

/// The module below the crate's root that a file belongs to: `spec` of `src/spec/place.rs`.
fn module(source: &Source) -> &str {
    let path = source.path.strip_prefix("src/").unwrap_or_default();
    path.split('/').next().unwrap_or_default().trim_end_matches(".rs")
}

fn assert_knows_nothing_of(source: &Source, modules: &[&str]) {
    let used = used_modules(&source.without_spaces());
    for module in modules {
        assert!(!used.iter().any(|used| used == module), "{} uses {module}", source.path);
    }
}

/// Modules named after `crate::`, those in the braces of a `use` included.
fn used_modules(code: &str) -> Vec<String> {
    let mut used = Vec::new();
    for (at, found) in code.match_indices("crate::") {
        let rest = &code[at + found.len()..];
        let Some(group) = rest.strip_prefix('{') else {
            used.push(identifier(rest));
            continue;
        };
        let mut depth = 1;
        let mut is_expected = true;
        for (at, character) in group.char_indices() {
            if is_expected && depth == 1 {
                used.push(identifier(&group[at..]));
            }
            match character {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                break;
            }
            is_expected = character == ',';
        }
    }
    used
}

fn identifier(code: &str) -> String {
    code.chars().take_while(|it| it.is_alphanumeric() || *it == '_').collect()
}

/// Whether a word that begins like this stands in the line.
fn names(line: &str, beginning: &str) -> bool {
    line.match_indices(beginning).any(|(at, _)| {
        !line[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_')
    })
}
