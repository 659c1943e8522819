//! The back-off of a token whose runs fail before anything could be saved.

use std::time::Duration;

use changeover_token::time::in_milliseconds;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// The longest message that is kept, in characters.
const LONGEST_MESSAGE: usize = 1000;

/// The runs of a token that failed since its record was last saved. They are kept beside the record, so
/// that they can be kept even if the record cannot be read. The next save clears them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failing {
    /// Number of runs that failed in a row.
    pub tries: u32,
    /// Time at which the first of them failed.
    #[serde(with = "in_milliseconds")]
    pub since: Timestamp,
    /// The contract's `errorType` of the last failed run.
    pub error: String,
    /// The contract's `errorMessage` of the last failed run.
    pub message: String,
}

impl Failing {
    /// The failures before, with one more failed run.
    pub fn after(before: Option<Self>, error: &Error, now: Timestamp) -> Self {
        let (tries, since) = before.map_or((0, now), |before| (before.tries, before.since));
        Self {
            tries: tries.saturating_add(1),
            since,
            error: error.kind.as_str().to_owned(),
            message: error.to_string().chars().take(LONGEST_MESSAGE).collect(),
        }
    }

    /// Time of the next attempt: after the back-off, and no later than `latest`.
    pub fn due_at(&self, now: Timestamp, latest: Option<Timestamp>) -> Timestamp {
        let due_at = now + back_off(self.tries.saturating_sub(1));
        latest.map_or(due_at, |latest| due_at.min(latest))
    }
}

/// The pause before the next attempt, after this number of earlier attempts: one minute, doubled each
/// time, at most one hour.
pub fn back_off(attempts: u32) -> Duration {
    Duration::from_secs((60 << attempts.min(6)).min(3600))
}
