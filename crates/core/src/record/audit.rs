//! The audit item of a version, which outlives the version in the record.

use std::collections::BTreeSet;

use changeover_token::{Digest, Stage, TokenName, VersionNumber};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Entry, Record, RotationId, Version};

/// The permanent audit item of a version: item `rotation#<version>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audit {
    /// The token.
    pub token: TokenName,
    /// The version.
    pub version: VersionNumber,
    /// The stage that the version had when this was written.
    pub stage: Stage,
    /// The rotation that minted it.
    pub rotation: RotationId,
    /// SHA-256 of the value.
    pub sha256: Digest,
    /// Time at which the version was minted.
    #[serde(with = "changeover_token::time::in_milliseconds")]
    pub created_at: Timestamp,
    /// Time at which presenters were proved to be on the version.
    #[serde(with = "changeover_token::time::optional_milliseconds", default)]
    pub rotated_at: Option<Timestamp>,
    /// Time from which verifiers no longer accept the version.
    #[serde(with = "changeover_token::time::optional_milliseconds", default)]
    pub not_after: Option<Timestamp>,
    /// Time at which the value was deleted from the record.
    #[serde(with = "changeover_token::time::optional_milliseconds", default)]
    pub ended_at: Option<Timestamp>,
    /// The places from which presenters read the version, as they were when it was rotated.
    pub selectors: Vec<String>,
    /// The completed steps, with their times.
    pub timeline: Vec<Entry>,
    /// Clusters that its rotation left out on request.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub without: BTreeSet<String>,
}

impl Record {
    /// The audit entry of a version that was just minted, made current, or ended.
    pub fn audit_of(&self, version: &Version, selectors: Vec<String>) -> Audit {
        Audit {
            token: self.token.clone(),
            version: version.version,
            stage: version.stage,
            rotation: version.rotation.clone(),
            sha256: version.sha256,
            created_at: version.created_at,
            rotated_at: None,
            not_after: version.not_after,
            ended_at: None,
            selectors,
            timeline: Vec::new(),
            without: self.without.clone(),
        }
    }
}
