//! Requests that were sent meanwhile, as whoever sent them counted them.

use std::{fs::File, io::Read as _, path::Path};

use jiff::Timestamp;
use serde::Deserialize;

/// The largest file that is read: a day of a hundred versions' seconds would fit.
const LARGEST_FILE: u64 = 64 << 20;

/// Requests of one moment that bore one version of the token.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Sent {
    /// When they were sent; those of a second may be counted at its beginning.
    pub(super) at: Timestamp,
    /// The version of their token, where it is known.
    #[serde(default)]
    pub(super) version: Option<u64>,
    /// How many were accepted.
    #[serde(default)]
    pub(super) accepted: u32,
    /// How many were not: refused, or without an answer.
    #[serde(default)]
    pub(super) failed: u32,
}

/// Reads a file of them: a list of `{"at", "version", "accepted", "failed"}`.
///
/// # Errors
/// What to tell of a file that cannot be read.
pub(super) fn read(path: &Path) -> Result<Vec<Sent>, String> {
    let told =
        |fault: String| format!("could not read the requests in {}: {fault}", path.display());
    let file = File::open(path).map_err(|fault| told(fault.to_string()))?;
    let mut text = String::new();
    file.take(LARGEST_FILE + 1)
        .read_to_string(&mut text)
        .map_err(|fault| told(fault.to_string()))?;
    if text.len() as u64 > LARGEST_FILE {
        return Err(told("it is larger than 64 MiB; count the requests of each second".to_owned()));
    }
    serde_json::from_str(&text).map_err(|fault| told(fault.to_string()))
}
