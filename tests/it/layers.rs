//! Who may know whom: a request goes down the list of modules, what decides asks nobody, what carries
//! out names no SDK, and adapters know nothing of rotations.

use std::collections::{BTreeMap, BTreeSet};

use crate::sources::{self, Source};

/// Modules that say what comes in: whoever needs it may use them.
const COMING_IN: [&str; 2] = ["config", "event"];

/// Modules that decide: values in, values out.
const PURE: [&str; 14] = [
    "config", "error", "event", "fence", "finding", "metrics", "notice", "plan", "record",
    "report", "spec", "time", "token", "verdict",
];
/// Modules that carry decisions out through the ports.
const SHELL: [&str; 15] = [
    "admit",
    "begin",
    "compare",
    "ends",
    "forget",
    "import",
    "invoke",
    "look",
    "pipeline",
    "preflight",
    "rotate",
    "status",
    "steps",
    "sweep",
    "turn",
];
/// The other binary's modules, below `command`, which nothing else knows of.
const COMMAND: &str = "command";
/// What reads answers, judges and shows them: it asks nobody.
const SHOWING: [&str; 3] = ["answer", "render", "verdict"];
/// How the methods of a turn, and whoever has one, name it.
const TURN: &str = "Turn<";
/// The command's own crates.
const COMMANDS_CRATES: [&str; 4] = ["clap", "comfy_table", "console", "indicatif"];
/// What AWS's and Kubernetes' crates are called.
const SDKS: [&str; 5] = ["aws_", "k8s_openapi", "kube::", "lambda_runtime", "hyper"];

#[test]
fn a_request_goes_down_the_list_of_modules() {
    let listed = listed();
    for (module, used) in uses() {
        let at = |name: &str| listed.iter().position(|listed| listed == name);
        for used in used.iter().filter(|used| !COMING_IN.contains(&used.as_str())) {
            assert!(at(&module) < at(used), "{module} uses {used}, which is listed above it");
        }
    }
}

#[test]
fn no_two_modules_need_each_other() {
    let mut left = uses();
    while !left.is_empty() {
        let needed: BTreeSet<_> = left.keys().cloned().collect();
        let is_free = |used: &BTreeSet<String>| used.is_disjoint(&needed);
        left.retain(|_, used| !is_free(used));
        assert!(left.len() < needed.len(), "they are in a circle, or use what is: {left:?}");
    }
}

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
            || ["world", COMMAND].contains(&module)
            || source.path == "src/lib.rs"
            || source.path.starts_with("src/bin/");
        assert!(is_placed, "{} is in no layer: put its module into one above", source.path);
    }
}

/// The modules of `src/lib.rs`, in its order; not the command, which stands apart.
fn listed() -> Vec<String> {
    let source = sources::under("src").into_iter().find(|source| source.path == "src/lib.rs");
    let modules = source.expect("the crate has a root").code;
    let modules = modules.lines().filter_map(|line| line.split_once("mod ")?.1.strip_suffix(';'));
    modules.filter(|module| *module != COMMAND).map(str::to_owned).collect()
}

/// What each listed module uses of the others: by their names, and by what they add to a turn.
fn uses() -> BTreeMap<String, BTreeSet<String>> {
    let listed = listed();
    let methods = turn_methods();
    let mut uses: BTreeMap<_, BTreeSet<_>> =
        listed.iter().map(|module| (module.clone(), BTreeSet::new())).collect();
    for source in sources::under("src") {
        let module = module(&source);
        if let Some(used) = uses.get_mut(module) {
            let code = source.without_spaces();
            let called = methods.iter().filter(|(method, _)| calls(&code, method));
            let others = used_modules(&code).into_iter().chain(called.map(|(_, of)| of.clone()));
            used.extend(others.filter(|other| other != module && listed.contains(other)));
        }
    }
    uses
}

/// The methods of `Turn`, which has some in each module of a rotation, and the module of each.
fn turn_methods() -> BTreeMap<String, String> {
    let mut methods = BTreeMap::new();
    for source in sources::under("src").iter().filter(|source| source.code.contains(TURN)) {
        for (at, found) in source.code.match_indices("fn ") {
            let name = identifier(&source.code[at + found.len()..]);
            methods.insert(name, module(source).to_owned());
        }
    }
    methods
}

/// Whether this code, without spaces, calls a method of the turn that it has.
fn calls(code: &str, method: &str) -> bool {
    let of = |receiver: &str| code.contains(&format!("{receiver}.{method}("));
    code.contains(TURN) && of("self") || of("turn")
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
