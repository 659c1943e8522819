//! A rotation that waits until it can begin.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::RotationId;

/// A rotation that was requested earlier. It begins without another request, on the terms of the first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "StoredQueued")]
pub struct Queued {
    /// Its id, to which the keys of its triggers resolve.
    pub rotation: RotationId,
    /// Time of its first request; `None` if an earlier version of changeover saved it.
    #[serde(
        with = "changeover_token::time::optional_milliseconds",
        skip_serializing_if = "Option::is_none"
    )]
    pub since: Option<Timestamp>,
    /// Clusters that it leaves out, as requested.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub without: BTreeSet<String>,
}

impl Queued {
    /// A rotation that is requested at `since`.
    pub fn new(rotation: RotationId, since: Timestamp) -> Self {
        Self { rotation, since: Some(since), without: BTreeSet::new() }
    }
}

/// The stored form. Earlier versions of changeover stored the id alone.
#[derive(Deserialize)]
#[serde(untagged)]
enum StoredQueued {
    Id(RotationId),
    Whole(Whole),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Whole {
    rotation: RotationId,
    #[serde(with = "changeover_token::time::optional_milliseconds", default)]
    since: Option<Timestamp>,
    #[serde(default)]
    without: BTreeSet<String>,
}

impl From<StoredQueued> for Queued {
    fn from(written: StoredQueued) -> Self {
        match written {
            StoredQueued::Id(rotation) => Self { rotation, since: None, without: BTreeSet::new() },
            StoredQueued::Whole(Whole { rotation, since, without }) => {
                Self { rotation, since, without }
            }
        }
    }
}
