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
/// Documents that people read.
const DOCUMENTS: [&str; 12] = [
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
    "tests/README.md",
    "tests/testbed/README.md",
];

#[test]
fn comments_contain_no_vague_words() {
    let paths = RUST.into_iter().flat_map(sources::paths_under);
    assert_plain(paths.map(with_text), |line| line.trim_start().strip_prefix("//").and_then(vague));
}

#[test]
fn messages_contain_no_vague_words() {
    let is_product = |path: &str| {
        path.contains("src/") && !path.contains("testkit") && !path.ends_with("/tests.rs")
    };
    let sources = RUST.into_iter().flat_map(sources::under);
    let product = sources.filter(|source| is_product(&source.path));
    let product = product.map(|source| (source.path, source.code));
    assert_plain(product, |line| texts(line).find_map(vague));
}

#[test]
fn documents_contain_no_vague_words() {
    assert_plain(DOCUMENTS.map(str::to_owned).map(with_text), vague);
}

#[test]
fn test_names_are_short_claims() {
    let paths = RUST.into_iter().flat_map(sources::paths_under);
    let mut found = Vec::new();
    let mut tests = 0;
    for (path, text) in paths.map(with_text) {
        let mut lines = text.lines().map(str::trim_start);
        while lines.any(|line| line.starts_with("#[test]") || line.starts_with("#[tokio::test")) {
            let signature = lines.find(|line| line.contains("fn ")).unwrap_or_default();
            let (_, rest) = signature.split_once("fn ").unwrap_or_default();
            let name = rest.split('(').next().unwrap_or_default();
            tests += 1;
            found.extend((!is_short_claim(name)).then(|| format!("{path}: {name}")));
        }
    }
    assert!(tests > 500, "only {tests} tests were found");
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// True if a test's name has at most eight words, and does not open with an article or a question.
fn is_short_claim(name: &str) -> bool {
    let first = name.split('_').next().unwrap_or_default();
    name.split('_').count() <= 8 && !OPENINGS.contains(&first)
}

const OPENINGS: [&str; 11] =
    ["a", "an", "how", "the", "what", "when", "where", "whether", "who", "whoever", "why"];

/// Fails if a vague word is found in a line of these texts, with the path of the text and the line.
#[track_caller]
fn assert_plain(
    texts: impl IntoIterator<Item = (String, String)>,
    word: impl Fn(&str) -> Option<&'static str>,
) {
    let mut found = Vec::new();
    for (path, text) in texts {
        for line in text.lines() {
            found.extend(word(line).map(|word| format!("{path}: `{word}` in: {}", line.trim())));
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// A file's path and its text. A package's tests run in its own directory, and that of this one is the root.
fn with_text(path: String) -> (String, String) {
    let text = fs::read_to_string(&path).unwrap();
    (path, text)
}

/// The directories of Rust source.
const RUST: [&str; 4] = ["benches", "crates", "src", "tests"];

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
fn rules_match_as_they_must() {
    assert_eq!(vague("Nobody knows"), Some("nobody"));
    assert!(is_short_claim("stale_stamp_is_not_proof"));
    assert!(!is_short_claim("a_stale_stamp_is_not_proof"));
    assert!(!is_short_claim("stale_stamp_is_not_proof_of_what_a_pod_runs_on"));
    assert_eq!(vague("shallow, untold, `nobody_knows`, {told:?}"), None);
}
