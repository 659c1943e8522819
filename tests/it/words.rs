//! Plain technical English: comments, messages and documents name who acts and what is done.

use std::fs;

use crate::sources;

/// Words that hide who acts, what is done, or under which condition.
const VAGUE: [&str; 13] = [
    "told",
    "tells",
    "somebody",
    "nobody",
    "whoever",
    "knowingly",
    "befall",
    "goes on",
    "is through",
    "see to",
    "for want of",
    "lets go",
    "shall",
];
/// Documents that people read. tests/README.md names tests, some of which have such words in their names.
const DOCUMENTS: [&str; 11] = [
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "README.md",
    "benches/README.md",
    "infra/README.md",
    "infra/runbooks.md",
    "infra/threat-model.md",
    "infra/token.yaml",
    "infra/pipeline.yaml",
    "template.yaml",
    "tests/testbed/README.md",
];

#[test]
fn comments_name_who_acts_and_what_is_done() {
    let mut found = Vec::new();
    for path in rust_files() {
        let text = fs::read_to_string(&path).unwrap();
        for (number, line) in text.lines().enumerate() {
            let comment = line.trim_start().strip_prefix("//");
            if let Some(word) = comment.and_then(vague) {
                found.push(format!("{path}:{}: `{word}`", number + 1));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn messages_name_who_acts_and_what_is_done() {
    let mut found = Vec::new();
    let is_product = |path: &String| {
        path.contains("src/") && !path.contains("testkit") && !path.ends_with("/tests.rs")
    };
    for path in rust_files().into_iter().filter(is_product) {
        let text = fs::read_to_string(&path).unwrap();
        let product = text.split("#[cfg(test)]").next().unwrap_or_default();
        for (number, line) in product.lines().enumerate() {
            let is_comment = line.trim_start().starts_with("//");
            if let Some(word) = texts(line).find_map(vague).filter(|_| !is_comment) {
                found.push(format!("{path}:{}: `{word}`", number + 1));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn documents_name_who_acts_and_what_is_done() {
    let mut found = Vec::new();
    for path in DOCUMENTS {
        for (number, line) in fs::read_to_string(path).unwrap().lines().enumerate() {
            found.extend(vague(line).map(|word| format!("{path}:{}: `{word}`", number + 1)));
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

fn rust_files() -> Vec<String> {
    // A package's tests run in its own directory, and that of this one is the root.
    ["benches", "crates", "src", "tests"].into_iter().flat_map(sources::paths_under).collect()
}

/// The first vague word of a text, as a word of its own.
fn vague(text: &str) -> Option<&'static str> {
    let text = without_names(&text.to_lowercase());
    let is_word = |at: usize, word: &str| {
        let is_letter = |c: char| c.is_alphanumeric() || c == '_';
        !text[..at].ends_with(is_letter) && !text[at + word.len()..].starts_with(is_letter)
    };
    VAGUE.into_iter().find(|word| text.match_indices(word).any(|(at, _)| is_word(at, word)))
}

/// The text without what is interpolated into it: names of variables.
fn without_names(text: &str) -> String {
    let mut parts = text.split('{');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + part.split_once('}').map_or(part, |(_, rest)| rest))
}

/// The texts in quotes of a line of code.
fn texts(line: &str) -> impl Iterator<Item = &str> {
    line.split('"').skip(1).step_by(2)
}

#[test]
fn vague_words_are_found_as_words() {
    assert_eq!(vague("Nobody knows"), Some("nobody"));
    assert_eq!(vague("shallow, untold, `nobody_knows`, {told:?}"), None);
}
