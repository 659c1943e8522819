//! The identity of a spec. The version number of its parameter is not enough: a parameter that is deleted
//! and created again counts from 1, and the meaning of a spec depends on the descriptions of its clusters
//! too.

use std::collections::BTreeMap;

use changeover_token::Digest;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The identity of the spec that a record works from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpecId {
    /// The version of the parameter. It is unique until the parameter is deleted.
    pub version: i64,
    /// Time at which the parameter was last written.
    #[serde(
        with = "changeover_token::time::optional_milliseconds",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub modified_at: Option<Timestamp>,
    /// Digest of the text.
    pub sha256: Digest,
    /// Digest of the description of each cluster that the spec names, for those that could be read.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub clusters: BTreeMap<String, Digest>,
}

impl SpecId {
    /// The identity of this text. Its time of writing and its clusters are not known yet.
    pub fn of(version: i64, json: &str) -> Self {
        Self { version, modified_at: None, sha256: Digest::of(json), clusters: BTreeMap::new() }
    }

    /// True if both mean the same: the same text, and no cluster that both know with different
    /// descriptions.
    pub fn means(&self, other: &Self) -> bool {
        let is_same = |(name, digest): (&String, &Digest)| {
            other.clusters.get(name).is_none_or(|other| other == digest)
        };
        self.sha256 == other.sha256 && self.clusters.iter().all(is_same)
    }

    /// True if this is a different text that was written before `newer`. Parameter Store does not promise
    /// that a read returns what was written last.
    pub fn is_stale_beside(&self, newer: &Self) -> bool {
        self.sha256 != newer.sha256
            && match (self.modified_at, newer.modified_at) {
                (Some(own), Some(newer_at)) if own == newer_at => self.version < newer.version,
                (Some(own), Some(newer_at)) => own < newer_at,
                _ => false,
            }
    }
}
