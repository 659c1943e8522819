//! Which spec it is. The version number of a parameter does not say it: a parameter that is deleted and
//! created again counts from 1, and what a spec means depends on the descriptions of its clusters too.

use std::collections::BTreeMap;

use changeover_token::Digest;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// What a record pins of the spec that it works from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpecId {
    /// The version of the parameter, valid for one life of it.
    pub version: i64,
    /// When the parameter was written last.
    #[serde(
        with = "changeover_token::time::optional_milliseconds",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub modified_at: Option<Timestamp>,
    /// Digest of the text.
    pub sha256: Digest,
    /// Digest of the description of each cluster that it names, as far as that could be read.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub clusters: BTreeMap<String, Digest>,
}

impl SpecId {
    /// That of this text. When it was written, and what its clusters are, is not known yet.
    pub fn of(version: i64, json: &str) -> Self {
        Self { version, modified_at: None, sha256: Digest::of(json), clusters: BTreeMap::new() }
    }

    /// Whether both mean the same: the same text, and no cluster that is known to be another.
    pub fn means(&self, other: &Self) -> bool {
        let is_same = |(name, digest): (&String, &Digest)| {
            other.clusters.get(name).is_none_or(|other| other == digest)
        };
        self.sha256 == other.sha256 && self.clusters.iter().all(is_same)
    }

    /// Whether another text was written before this one. Parameter Store does not promise that a read
    /// returns what was written last.
    pub fn is_stale_beside(&self, newer: &Self) -> bool {
        self.sha256 != newer.sha256
            && match (self.modified_at, newer.modified_at) {
                (Some(own), Some(newer_at)) if own == newer_at => self.version < newer.version,
                (Some(own), Some(newer_at)) => own < newer_at,
                _ => false,
            }
    }
}
