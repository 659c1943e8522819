//! What a look at the world before a rotation comes to.

use std::{collections::BTreeMap, time::Duration};

use changeover_token::{Fence, TokenName, time::milliseconds};
use serde::Serialize;

use crate::{
    error::Error,
    spec::{ParameterName, Side, Workload},
};

/// Something that a look before a rotation found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// On what.
    pub object: String,
    /// What is the matter.
    pub reason: String,
    /// What to do.
    pub fix: String,
}

impl Finding {
    /// It would never finish, or harm somebody.
    pub fn refusal(
        object: impl Into<String>,
        reason: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        let (object, reason, fix) = (object.into(), reason.into(), fix.into());
        Self { severity: Severity::Refusal, object, reason, fix }
    }

    /// It is worth knowing.
    pub fn warning(
        object: impl Into<String>,
        reason: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self { severity: Severity::Warning, ..Self::refusal(object, reason, fix) }
    }

    /// The object is not there.
    pub fn missing(object: impl Into<String>) -> Self {
        let missing = Self::refusal(object, "it does not exist", "create it, or correct the spec");
        Self { severity: Severity::Missing, ..missing }
    }

    /// A newer record of this token wrote to the object. `ours` is the fence of this record's view.
    pub fn of_another_record(
        token: &TokenName,
        side: Side,
        object: String,
        found: Fence,
        ours: Fence,
    ) -> Self {
        let record = |fence: Fence| match fence.life {
            Some(life) => format!("created {} (fence {fence})", milliseconds(life.created_at())),
            None => format!("of an earlier version of changeover (fence {fence})"),
        };
        let reason = format!(
            "it belongs to another record of this token, {}; this record is older, {}",
            record(found),
            record(ours),
        );
        let (annotation, attributes) = match side {
            Side::Verifiers => ("verifier", "`accepted_life` and `accepted_revision`"),
            Side::Presenters => ("presenter", "`token_life` and `token_revision`"),
        };
        let mark = match object.split(':').next() {
            Some("dynamodb") => format!("its attributes {attributes}"),
            Some("ssm") => "`life` and `revision` from its document".to_owned(),
            _ => format!("its annotation {annotation}.changeover.dev/{token}"),
        };
        let fix = format!(
            "If that record is gone, or this was copied from where it writes, remove {mark}. If its function \
             still runs, take this object out of one of the two specs. Then run it again"
        );
        Self::refusal(object, reason, fix)
    }

    /// Of a look that failed: what could not be looked at cannot be relied on.
    pub fn failed(object: impl Into<String>, error: Error) -> Self {
        Self::refusal(object, error.because, error.fix)
    }
}

/// Whether a finding stops a rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// It is told.
    Warning,
    /// The object is not there. Stops a rotation, not a first publication.
    Missing,
    /// It would never finish: nothing is minted.
    Refusal,
}

/// A workload of a token's spec, and what it is to be examined with.
#[derive(Clone, Debug)]
pub struct Subject<'a> {
    /// The workload.
    pub workload: &'a Workload,
    /// The token whose view it takes up.
    pub token: &'a TokenName,
    /// Whose view that is.
    pub side: Side,
    /// The fence of that view, as the token's record has it; the least one of a token without a record.
    pub view: Fence,
    /// The parameters that its side publishes to.
    pub parameters: Vec<ParameterName>,
}

/// What a look at all workloads of a token comes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Examination {
    /// What was found.
    pub findings: Vec<Finding>,
    /// What was looked at and found right, by the object that it is about.
    pub checked: BTreeMap<String, Vec<String>>,
    /// How long the rollout of a workload takes at most while nothing goes wrong, by the workload.
    pub rollouts: BTreeMap<String, Duration>,
}

impl Examination {
    /// Notes that this is right about an object.
    pub fn right(&mut self, object: impl Into<String>, what: impl Into<String>) {
        let (checked, what) = (self.checked.entry(object.into()).or_default(), what.into());
        if !checked.contains(&what) {
            checked.push(what);
        }
    }

    /// What both came to. What was found twice is told once.
    pub fn add(&mut self, other: Self) {
        for finding in other.findings {
            if !self.findings.contains(&finding) {
                self.findings.push(finding);
            }
        }
        for (object, what) in other.checked {
            what.into_iter().for_each(|what| self.right(object.clone(), what));
        }
        self.rollouts.extend(other.rollouts);
    }
}
