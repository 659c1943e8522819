//! Plain technical English: words that name no actor and no act are not in comments, and become fewer elsewhere.

use std::{fs, path::Path};

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
/// Documents with such words, and how many each still has. A number only becomes smaller.
const STILL_IN_DOCUMENTS: [(&str, usize); 0] = [];
/// How many lines of code still have one in a text: a message, an assertion, a reason.
const STILL_IN_TEXTS: usize = 0;

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
fn vague_words_in_texts_become_fewer() {
    let is_code = |line: &&str| !line.trim_start().starts_with("//");
    let lines = rust_files().into_iter().filter(|path| !path.ends_with("words.rs")).map(|path| {
        let text = fs::read_to_string(&path).unwrap();
        text.lines()
            .filter(is_code)
            .filter(|line| texts(line).any(|it| vague(it).is_some()))
            .count()
    });
    assert_fewer("texts in Rust", lines.sum(), STILL_IN_TEXTS);
}

#[test]
fn vague_words_in_documents_become_fewer() {
    for (path, still) in STILL_IN_DOCUMENTS {
        let text = fs::read_to_string(path).unwrap();
        assert_fewer(path, text.lines().filter(|line| vague(line).is_some()).count(), still);
    }
}

#[track_caller]
fn assert_fewer(what: &str, found: usize, still: usize) {
    assert!(found <= still, "{what}: {found} lines with vague words, and {still} are allowed");
    assert!(found == still, "{what}: only {found} lines are left: lower its number to that");
}

fn rust_files() -> Vec<String> {
    ["benches", "crates", "src", "tests"].into_iter().flat_map(sources::paths_under).collect()
}

/// The first vague word of a text, as a word of its own.
fn vague(text: &str) -> Option<&'static str> {
    let text = text.to_lowercase();
    let is_word = |at: usize, word: &str| {
        let is_letter = |c: char| c.is_alphanumeric() || c == '_';
        !text[..at].ends_with(is_letter) && !text[at + word.len()..].starts_with(is_letter)
    };
    VAGUE.into_iter().find(|word| text.match_indices(word).any(|(at, _)| is_word(at, word)))
}

/// The texts in quotes of a line of code.
fn texts(line: &str) -> impl Iterator<Item = &str> {
    line.split('"').skip(1).step_by(2)
}

#[test]
fn vague_words_are_found_as_words() {
    assert_eq!(vague("Nobody knows"), Some("nobody"));
    assert_eq!(vague("shallow, untold, `nobody_knows`"), None);
    assert!(Path::new("README.md").exists(), "tests run in the root of the repository");
}
