//! The crate's own source, for tests that read it.

use std::{
    fs,
    path::{Path, PathBuf},
};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// A source file.
pub(crate) struct Source {
    /// Path relative to the crate.
    pub(crate) path: String,
    /// Code without comments and without the module of its tests.
    pub(crate) code: String,
}

impl Source {
    /// The code without white space, so that a chain of calls reads the same however it is wrapped.
    pub(crate) fn without_spaces(&self) -> String {
        self.code.split_whitespace().collect()
    }
}

/// Every source file in a directory of the crate and below it, in order of path.
pub(crate) fn under(directory: &str) -> Vec<Source> {
    let of_path = |path: String| {
        let text = fs::read_to_string(Path::new(ROOT).join(&path)).unwrap();
        let tested = text.split("#[cfg(test)]").next().unwrap_or_default();
        let code = tested.lines().filter(|line| !line.trim_start().starts_with("//"));
        Source { path, code: code.collect::<Vec<_>>().join("\n") }
    };
    paths_under(directory).into_iter().map(of_path).collect()
}

/// The path of each source file in a directory and below it, relative to the crate.
pub(crate) fn paths_under(directory: &str) -> Vec<String> {
    let mut paths = Vec::new();
    collect(&Path::new(ROOT).join(directory), &mut paths);
    paths.sort();
    let relative = |path: PathBuf| path.strip_prefix(ROOT).unwrap().display().to_string();
    paths.into_iter().map(relative).collect()
}

fn collect(directory: &Path, paths: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, paths);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            paths.push(path);
        }
    }
}
