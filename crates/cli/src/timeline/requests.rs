//! Requests that were sent meanwhile, as their sender counted them.

use std::{fs::File, io::Read as _, path::Path};

use jiff::Timestamp;
use serde::Deserialize;

/// Size of the largest file that is read. A day of a hundred versions, counted by the second, fits.
const LARGEST_FILE: u64 = 64 << 20;

/// Requests of one moment that carried one version of the token.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Sent {
    /// Time at which they were sent. Those of one second may be counted at its beginning.
    pub(super) at: Timestamp,
    /// The version of their token, if it is known.
    #[serde(default)]
    pub(super) version: Option<u64>,
    /// Number of requests that were accepted.
    #[serde(default)]
    pub(super) accepted: u32,
    /// Number of requests that were refused or had no answer.
    #[serde(default)]
    pub(super) failed: u32,
}

/// Reads a file of requests: a list of `{"at", "version", "accepted", "failed"}`.
///
/// # Errors
/// The message to show for a file that cannot be read.
pub(super) fn read(path: &Path) -> Result<Vec<Sent>, String> {
    let failed =
        |fault: String| format!("could not read the requests in {}: {fault}", path.display());
    let file = File::open(path).map_err(|fault| failed(fault.to_string()))?;
    let mut text = String::new();
    file.take(LARGEST_FILE + 1)
        .read_to_string(&mut text)
        .map_err(|fault| failed(fault.to_string()))?;
    if text.len() as u64 > LARGEST_FILE {
        return Err(failed(
            "it is larger than 64 MiB; count the requests of each second".to_owned(),
        ));
    }
    serde_json::from_str(&text).map_err(|fault| failed(fault.to_string()))
}
