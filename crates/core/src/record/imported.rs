//! What is known of a value that was issued elsewhere.

use changeover_token::time::in_milliseconds;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A value that arrived in an inbox: which one, and whether it became a version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Imported {
    /// Where and when it arrived.
    pub arrival: ArrivalId,
    /// Why it did not become a version; `None` where it did, or where the current one has its value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// Names one arrival in an inbox. The number alone would not: a parameter that is deleted and made
/// anew counts from 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArrivalId {
    /// The inbox.
    pub parameter: String,
    /// The version of the parameter.
    pub version: u64,
    /// When that version was written.
    #[serde(with = "in_milliseconds")]
    pub written_at: Timestamp,
}

impl ArrivalId {
    /// Whether this arrived after an earlier one, or in another inbox: a read may be a little stale.
    pub fn follows(&self, earlier: &ArrivalId) -> bool {
        self.parameter != earlier.parameter
            || (self.written_at, self.version) > (earlier.written_at, earlier.version)
    }
}
