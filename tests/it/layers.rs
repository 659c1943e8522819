//! Dependency rules of the workspace. Between crates, the manifests decide and are compared with a table
//! here. Within the core, a request goes down the list of modules, and modules that decide do no I/O.
//! Adapters do not depend on rotations.

use std::collections::{BTreeMap, BTreeSet};

use crate::sources::{self, Source};

/// The crates of this workspace that each crate may depend on.
const CRATES: [(&str, &[&str]); 8] = [
    (".", &["aws", "core", "kubernetes", "token"]),
    ("crates/aws", &["core", "token"]),
    ("crates/cli", &["aws", "core", "token"]),
    ("crates/core", &["token"]),
    ("crates/kubernetes", &["core", "token"]),
    ("crates/testkit", &["core", "token"]),
    ("crates/testkit-aws", &["aws"]),
    ("crates/token", &[]),
];
/// Prefixes of dependencies that do I/O or belong to one adapter.
const SDKS: [&str; 7] =
    ["aws-", "hyper", "k8s-openapi", "kube", "lambda_runtime", "rustls", "tower"];

/// Modules of the core that define its input: every module may use them.
const COMING_IN: [&str; 1] = ["event"];

/// Modules of the core that decide: values in, values out.
const PURE: [&str; 10] = [
    "error",
    "event",
    "finding",
    "job_result",
    "metrics",
    "plan",
    "record",
    "report",
    "spec",
    "token_event",
];
/// Modules of the core that carry decisions out through the ports.
const SHELL: [&str; 15] = [
    "admit",
    "drift",
    "ends",
    "forget",
    "inbox",
    "invoke",
    "observe",
    "pipeline",
    "preflight",
    "rotate",
    "session",
    "start",
    "status",
    "steps",
    "sweep",
];
/// Modules of the core in neither group: the ports, and implementations at the edge for hosts that bring
/// none of their own.
const EDGE: [&str; 5] = ["clock", "embedded_metrics", "host", "ports", "random"];
/// Modules of the command that read answers, judge them and show them. They send no requests.
const SHOWING: [&str; 3] = ["answer", "render", "exit_status"];

#[test]
fn manifests_are_the_layers() {
    for (directory, allowed) in CRATES {
        let named = dependencies(directory);
        let ours = named.iter().filter_map(|name| name.strip_prefix("changeover-"));
        let allowed: BTreeSet<_> = allowed.iter().copied().collect();
        assert_eq!(ours.collect::<BTreeSet<_>>(), allowed, "{directory}");
    }
}

#[test]
fn core_and_token_name_no_sdk() {
    for directory in ["crates/core", "crates/testkit", "crates/token"] {
        for name in dependencies(directory) {
            let is_sdk = SDKS.iter().any(|sdk| name.starts_with(sdk));
            assert!(!is_sdk, "{directory} depends on {name}");
        }
    }
    let of_the_token = dependencies("crates/token");
    assert!(!of_the_token.iter().any(|name| name == "tokio"), "a token waits for nothing");
}

#[test]
fn type_names_are_unique_in_a_crate() {
    for (directory, _) in CRATES {
        let mut seen = BTreeMap::new();
        for source in sources::under(&format!("{directory}/src")) {
            for name in source.code.lines().filter_map(type_name) {
                let before = seen.insert(name.to_owned(), source.path.clone());
                assert!(before.is_none(), "{name} is in {} and in {before:?}", source.path);
            }
        }
    }
}

/// The type that a line of code defines, outside of any other item.
fn type_name(line: &str) -> Option<&str> {
    let line = match line.strip_prefix("pub") {
        Some(rest) => rest.split_once(' ')?.1,
        None => line,
    };
    let (keyword, rest) = line.split_once(' ')?;
    let is_type = ["struct", "enum", "trait", "type"].contains(&keyword);
    rest.split(|c: char| !(c.is_alphanumeric() || c == '_')).next().filter(|_| is_type)
}

#[test]
fn requests_follow_the_list_of_modules() {
    let listed = listed();
    for (module, used) in uses() {
        let at = |name: &str| listed.iter().position(|listed| listed == name);
        for used in used.iter().filter(|used| !COMING_IN.contains(&used.as_str())) {
            assert!(at(&module) < at(used), "{module} uses {used}, which is listed above it");
        }
    }
}

#[test]
fn modules_have_no_circles() {
    let mut left = uses();
    while !left.is_empty() {
        let needed: BTreeSet<_> = left.keys().cloned().collect();
        let is_free = |used: &BTreeSet<String>| used.is_disjoint(&needed);
        left.retain(|_, used| !is_free(used));
        assert!(left.len() < needed.len(), "they are in a circle, or use what is: {left:?}");
    }
}

#[test]
fn pure_modules_await_nothing() {
    for source in sources::under(CORE).iter().filter(|source| PURE.contains(&module(source))) {
        for word in ["async ", ".await", "tokio::"] {
            assert!(!source.code.contains(word), "{} has `{word}`", source.path);
        }
    }
}

#[test]
fn pure_modules_do_not_import_the_shell() {
    for source in sources::under(CORE).iter().filter(|source| PURE.contains(&module(source))) {
        assert_knows_nothing_of(source, "crate", &SHELL);
    }
}

#[test]
fn adapters_know_nothing_of_rotations() {
    for source in ["crates/aws/src", "crates/kubernetes/src"].into_iter().flat_map(sources::under) {
        assert_knows_nothing_of(&source, "changeover_core", &SHELL);
        assert_knows_nothing_of(&source, "changeover_core", &["plan", "report"]);
    }
}

#[test]
fn command_knows_the_function_by_its_answers_only() {
    for source in sources::under(COMMAND) {
        assert_knows_nothing_of(&source, "changeover_core", &SHELL);
        let decided = ["event", "plan", "record", "report"];
        assert_knows_nothing_of(&source, "changeover_core", &decided);
    }
}

#[test]
fn rendering_modules_send_nothing() {
    for source in sources::under(COMMAND) {
        if SHOWING.contains(&module(&source)) {
            for word in ["async ", ".await", "tokio::", "io::"] {
                assert!(!source.code.contains(word), "{} has `{word}`", source.path);
            }
        }
    }
}

#[test]
fn every_module_is_in_one_layer() {
    for source in sources::under(CORE) {
        let module = module(&source);
        let layers: [&[&str]; 3] = [&PURE, &SHELL, &EDGE];
        let placed = layers.iter().filter(|layer| layer.contains(&module)).count();
        let is_root = module == "lib";
        assert!(placed == usize::from(!is_root), "{} is in {placed} layers", source.path);
    }
}

const CORE: &str = "crates/core/src";
const COMMAND: &str = "crates/cli/src";

/// Names of the direct dependencies of a crate, without those of its tests.
pub(crate) fn dependencies(directory: &str) -> Vec<String> {
    let path = format!("{}/{directory}/Cargo.toml", env!("CARGO_MANIFEST_DIR"));
    let manifest = std::fs::read_to_string(path).unwrap();
    let section = manifest.split("\n[dependencies]\n").nth(1).unwrap();
    let section = section.split("\n[").next().unwrap();
    let lines = section.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| Some(line.split(['.', ' ']).next()?.to_owned())).collect()
}

/// Modules of the core, in the order of its root.
fn listed() -> Vec<String> {
    let root = format!("{CORE}/lib.rs");
    let source = sources::under(CORE).into_iter().find(|source| source.path == root);
    let modules = source.expect("the crate has a root").code;
    let modules = modules.lines().filter_map(|line| line.split_once("mod ")?.1.strip_suffix(';'));
    modules.map(str::to_owned).collect()
}

/// The other modules that each listed module uses.
fn uses() -> BTreeMap<String, BTreeSet<String>> {
    let listed = listed();
    let mut uses: BTreeMap<_, BTreeSet<_>> =
        listed.iter().map(|module| (module.clone(), BTreeSet::new())).collect();
    for source in sources::under(CORE) {
        let module = module(&source);
        if let Some(used) = uses.get_mut(module) {
            let others = used_modules("crate", &source.code).into_iter();
            used.extend(others.filter(|other| other != module && listed.contains(other)));
        }
    }
    uses
}

/// Module below the crate's root that a file belongs to: `spec` of `src/spec/place.rs`.
fn module(source: &Source) -> &str {
    let below = source.path.split("/src/").nth(1).unwrap_or_default();
    below.split('/').next().unwrap_or_default().trim_end_matches(".rs")
}

fn assert_knows_nothing_of(source: &Source, of: &str, modules: &[&str]) {
    let used = used_modules(of, &source.code);
    for module in modules {
        assert!(!used.iter().any(|used| used == module), "{} uses {module}", source.path);
    }
}

/// Modules named after `crate::` or the name of another crate, including those in the braces of a `use`.
fn used_modules(of: &str, code: &str) -> Vec<String> {
    let mut used = Vec::new();
    for (at, found) in code.match_indices(&format!("{of}::")) {
        let rest = &code[at + found.len()..];
        let Some(group) = rest.strip_prefix('{') else {
            used.push(identifier(rest));
            continue;
        };
        let mut depth = 1;
        let mut is_expected = true;
        for (at, character) in group.char_indices() {
            if is_expected && depth == 1 && !character.is_whitespace() {
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
            is_expected = character == ',' || (is_expected && character.is_whitespace());
        }
    }
    used
}

fn identifier(code: &str) -> String {
    code.chars().take_while(|it| it.is_alphanumeric() || *it == '_').collect()
}
