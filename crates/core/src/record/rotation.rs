//! A rotation: its purpose, and the steps of its legs.

use std::fmt;

use changeover_token::{VersionNumber, time::in_milliseconds};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::spec::Side;

/// The work in progress until presenters are on its version. It takes the token's one slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rotation {
    /// The id of the rotation.
    pub id: RotationId,
    /// The purpose of the rotation.
    pub purpose: Purpose,
    /// The version that presenters present at its end.
    pub version: VersionNumber,
    /// Time at which it began.
    #[serde(with = "in_milliseconds")]
    pub began_at: Timestamp,
    /// True once its version may have been presented. From then on it cannot be dropped.
    pub presented: bool,
    /// The side that a repair leaves alone, because one of its places holds a value of another writer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leaves_alone: Option<Side>,
    /// The completed steps, with their times.
    pub timeline: Vec<Entry>,
}

/// The id of one rotation. It is random.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RotationId(pub String);

impl fmt::Display for RotationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The reason to publish to both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Purpose {
    /// A pending version becomes current.
    Rotate,
    /// The current version is written to every publication. Rollouts are skipped, because pods cannot
    /// start before what they read exists.
    Publish,
    /// A publication was found to differ. Both sides are published, synced and rolled out again, except a
    /// side on which a place holds a value of another writer.
    Repair,
}

/// One line of a timeline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// The leg of the step.
    pub leg: Leg,
    /// The step.
    pub step: Step,
    /// Time at which it was done.
    #[serde(with = "in_milliseconds")]
    pub at: Timestamp,
    /// Time in milliseconds from when it was owed until it was done.
    pub took_ms: u64,
}

/// The next step to carry out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Owed {
    /// The leg of the step.
    pub leg: Leg,
    /// The step of that leg.
    pub step: Step,
    /// Time since which it is owed.
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
    /// Verifiers receive the end of the old version.
    Overlap,
    /// Verifiers stop accepting versions that have ended.
    Contract,
}

impl Leg {
    /// The leg in the contract's spelling.
    pub fn as_str(self) -> &'static str {
        match self {
            Leg::Expand => "expand",
            Leg::Migrate => "migrate",
            Leg::Overlap => "overlap",
            Leg::Contract => "contract",
        }
    }

    /// The side whose view the leg publishes.
    pub fn side(self) -> Side {
        match self {
            Leg::Expand | Leg::Overlap | Leg::Contract => Side::Verifiers,
            Leg::Migrate => Side::Presenters,
        }
    }
}

/// The steps of a leg, in order. A step may run again after a crash at any point, with the same effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Contract only: wait for the end of a version, and delete it from the record.
    Retire,
    /// Write the side's view to each of its publications.
    Publish,
    /// Wait until each copy equals what was published.
    Sync,
    /// Restart the workloads that pick up a new view by restart, and wait until nothing runs on an older
    /// view.
    RollOut,
}

impl Step {
    /// The step in the contract's spelling.
    pub fn as_str(self) -> &'static str {
        match self {
            Step::Retire => "retire",
            Step::Publish => "publish",
            Step::Sync => "sync",
            Step::RollOut => "roll_out",
        }
    }
}
