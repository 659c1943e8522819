//! The arrival of a value that was issued elsewhere.

use changeover_token::time::in_milliseconds;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The arrival of a value in an inbox, and the reason if the value was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Imported {
    /// The identity of the arrival: its inbox, and its time.
    pub arrival: InboxValueId,
    /// The reason why the value did not become a version. `None` if it did, or if the current version has
    /// the same value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// The identity of one arrival in an inbox. The version number alone is not enough: a parameter that is
/// deleted and created again counts from 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InboxValueId {
    /// The inbox.
    pub parameter: String,
    /// The version of the parameter.
    pub version: u64,
    /// Time at which that version was written.
    #[serde(with = "in_milliseconds")]
    pub written_at: Timestamp,
}

impl InboxValueId {
    /// True if this arrived after an earlier arrival, or in another inbox. The check is needed because a
    /// read may be slightly stale.
    pub fn follows(&self, earlier: &InboxValueId) -> bool {
        self.parameter != earlier.parameter
            || (self.written_at, self.version) > (earlier.written_at, earlier.version)
    }
}
