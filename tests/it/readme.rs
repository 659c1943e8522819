//! Checks of what the README shows.

use changeover_core::{error::Kind, event::Request, metrics::Metric, spec::Spec};
use changeover_token::TokenName;
use serde_json::Value;

use crate::layers;

const README: &str = include_str!("../../README.md");
const TEMPLATE: &str = include_str!("../../template.yaml");
const MAKEFILE: &str = include_str!("../../Makefile");

#[test]
fn each_spec_in_it_is_one() {
    let name = TokenName::parse("datastore-token").unwrap();
    let json = README.split("```json\n").skip(1).filter_map(|rest| rest.split("```").next());
    let specs = json.filter(|json| json.contains("\"overlap\"")).map(|json| {
        let spec = Spec::parse(&name, 1, json).unwrap();
        assert!(!spec.verifiers.is_empty() && !spec.presenters.is_empty());
    });
    // The spec at the beginning of Deploy, and the example of every field.
    assert_eq!(specs.count(), 2);
}

#[test]
fn its_schedules_send_what_the_template_sends() {
    let section = README.split("## From a schedule").nth(1).unwrap();
    let target: Value = serde_json::from_str(between(section, "```json\n", "```")).unwrap();
    let rule = between(section, "InputTemplate: '", "'");
    for sent in [target["Input"].as_str().unwrap(), rule] {
        let words: Vec<_> = sent.split_whitespace().collect();
        let in_one_line = TEMPLATE.split_whitespace().collect::<Vec<_>>().join(" ");
        let sent_by_the_template = words.join(" ").replace("datastore-token", "${ScheduledToken}");
        assert!(in_one_line.contains(&sent_by_the_template), "the template does not send {sent}");
        let filled_in = sent.replace("<aws.", "filled in <");
        let request = Request::parse(&serde_json::from_str(&filled_in).unwrap()).unwrap();
        assert_eq!(request.action(), "rotate");
        assert_ne!(request.key_or("none"), "none");
    }
}

/// The text between the first `begin` and the next `end`.
fn between<'a>(text: &'a str, begin: &str, end: &str) -> &'a str {
    text.split(begin).nth(1).and_then(|rest| rest.split(end).next()).unwrap()
}

#[test]
fn readme_lists_every_error() {
    for kind in Kind::ALL {
        assert!(README.contains(&format!("| `{kind}` |")), "the table of errors lacks {kind}");
    }
}

#[test]
fn readme_lists_exactly_the_metrics() {
    let section = README.split("## Metrics\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let listed: Vec<_> = rows.map(|row| row.split(" | ").take(3).collect::<Vec<_>>()).collect();
    let known = Metric::ALL.map(|metric| {
        // The dimensions besides the function's name, which each metric has.
        let sets = metric.dimensions().iter().map(|set| match set {
            [] => "none".to_owned(),
            set => set.iter().map(|it| format!("`{}`", it.name())).collect::<Vec<_>>().join(", "),
        });
        let sets = sets.collect::<Vec<_>>().join("; ");
        [format!("| `{}`", metric.name()), metric.unit().to_owned(), sets]
    });
    assert_eq!(listed, known);
}

#[test]
fn its_commands_are_targets_of_the_makefile() {
    let named = README.split("`make ").skip(1).filter_map(|rest| rest.split(['`', ' ']).next());
    let mut count = 0;
    for target in named {
        assert!(MAKEFILE.contains(&format!("\n{target}:")), "the Makefile has no target {target}");
        count += 1;
    }
    assert!(count > 4, "the README names its commands");
}

#[test]
fn readme_explains_direct_dependencies() {
    let notes = README.split("## Design notes").nth(1).unwrap();
    let explained = |name: &str| {
        notes.contains(&format!("`{name}`"))
            || notes.split('`').filter_map(|word| word.split_once('{')).any(|(prefix, rest)| {
                let suffixes = rest.trim_end_matches('}').split(',');
                suffixes.into_iter().any(|suffix| format!("{prefix}{suffix}") == name)
            })
    };
    let crates =
        [".", "crates/aws", "crates/cli", "crates/core", "crates/kubernetes", "crates/token"];
    for name in crates.into_iter().flat_map(layers::dependencies) {
        let is_ours = name.starts_with("changeover-");
        assert!(is_ours || explained(&name), "the README does not say why {name} is there");
    }
}
