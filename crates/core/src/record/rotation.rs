//! A rotation: what it is for, and the steps of its legs.

use std::fmt;

use changeover_token::{VersionNumber, time::in_milliseconds};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::spec::Side;

/// What is in progress until presenters are on the version that it is about. It takes the token's
/// one slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rotation {
    /// Its name.
    pub id: RotationId,
    /// What it is for.
    pub purpose: Purpose,
    /// The version that presenters present at its end.
    pub version: VersionNumber,
    /// When it began.
    #[serde(with = "in_milliseconds")]
    pub began_at: Timestamp,
    /// Whether its version may have been presented: from then on it cannot be dropped.
    pub presented: bool,
    /// The side that a repair leaves alone, because a stranger's value stands at one of its places.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leaves_alone: Option<Side>,
    /// What was done when.
    pub timeline: Vec<Entry>,
}

/// Names one rotation. Random.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RotationId(pub String);

impl fmt::Display for RotationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why both sides are gone through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Purpose {
    /// A pending version becomes current.
    Rotate,
    /// The current version is written to every publication; rolls are passed over, since pods
    /// cannot start before what they read exists.
    Publish,
    /// A publication was found to differ: both sides are published, synced and rolled again, but for one where
    /// a stranger's value stands.
    Repair,
}

/// One line of a timeline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Leg of the step.
    pub leg: Leg,
    /// The step.
    pub step: Step,
    /// When it was done.
    #[serde(with = "in_milliseconds")]
    pub at: Timestamp,
    /// How long it took since it was owed.
    pub took_ms: u64,
}

/// The next thing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Owed {
    /// On which leg.
    pub leg: Leg,
    /// Which step of it.
    pub step: Step,
    /// Since when.
    #[serde(with = "in_milliseconds")]
    pub since: Timestamp,
}

/// The legs of a parallel change, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Leg {
    /// Verifiers accept the new version beside the old.
    Expand,
    /// Presenters present the new version.
    Migrate,
    /// Verifiers learn when the old version ends.
    Overlap,
    /// Verifiers forget versions that have ended.
    Contract,
}

impl Leg {
    /// As the contract writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Leg::Expand => "expand",
            Leg::Migrate => "migrate",
            Leg::Overlap => "overlap",
            Leg::Contract => "contract",
        }
    }

    /// Whose view it carries.
    pub fn side(self) -> Side {
        match self {
            Leg::Expand | Leg::Overlap | Leg::Contract => Side::Verifiers,
            Leg::Migrate => Side::Presenters,
        }
    }
}

/// The steps of a leg, in order. Each may run again after a crash anywhere, with the same effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Contract only: wait for the end of a version, and delete it from the record.
    Retire,
    /// Write this side's view to each of its publications.
    Publish,
    /// Wait until each copy equals what was published.
    Sync,
    /// Replace what picks up by restart, and wait until nothing runs on an older view.
    RollOut,
}

impl Step {
    /// As the contract writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Step::Retire => "retire",
            Step::Publish => "publish",
            Step::Sync => "sync",
            Step::RollOut => "roll_out",
        }
    }
}
