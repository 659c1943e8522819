//! Stages of versions, and forms of accepted documents.

use serde::{Deserialize, Serialize};

/// The stage of a version, by Secrets Manager's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Accepted, not yet known to be presented by all.
    Pending,
    /// Presented.
    Current,
    /// Accepted until its end.
    Previous,
    /// No longer accepted; its value is deleted.
    Retired,
}

/// The form in which the accepted view names a token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AcceptedForm {
    /// By its SHA-256: `"as": "sha256"`.
    #[default]
    Digests,
    /// By itself: `"as": "plain"`.
    Plain,
}
