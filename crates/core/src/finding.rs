//! The results of a preflight: the examination of everything external before a rotation.

use std::{collections::BTreeMap, time::Duration};

use changeover_token::{Fence, TokenName, time::milliseconds};
use serde::Serialize;

use crate::{
    error::Error,
    spec::{ParameterName, Side, Workload},
};

/// A problem that an examination before a rotation found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The severity of the problem.
    pub severity: Severity,
    /// The object of the problem.
    pub object: String,
    /// The problem.
    pub reason: String,
    /// The fix.
    pub fix: String,
}

impl Finding {
    /// A refusal: the rotation would never finish, or would do harm.
    pub fn refusal(
        object: impl Into<String>,
        reason: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        let (object, reason, fix) = (object.into(), reason.into(), fix.into());
        Self { severity: Severity::Refusal, object, reason, fix }
    }

    /// A warning: the problem is reported, and stops nothing.
    pub fn warning(
        object: impl Into<String>,
        reason: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self { severity: Severity::Warning, ..Self::refusal(object, reason, fix) }
    }

    /// A missing object.
    pub fn missing(object: impl Into<String>) -> Self {
        let missing = Self::refusal(object, "it does not exist", "create it, or correct the spec");
        Self { severity: Severity::Missing, ..missing }
    }

    /// A refusal because a newer record of this token wrote to the object. `ours` is the fence of this
    /// record's view.
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

    /// A refusal because an examination failed: an object that could not be examined cannot be relied on.
    pub fn failed(object: impl Into<String>, error: Error) -> Self {
        Self::refusal(object, error.because, error.fix)
    }
}

/// The effect of a finding on a rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The problem is reported, and stops nothing.
    Warning,
    /// The object does not exist. This stops a rotation, but not a first publication.
    Missing,
    /// The rotation would never finish or would do harm: nothing is minted.
    Refusal,
}

/// A workload of a token's spec, and the inputs of its examination.
#[derive(Clone, Debug)]
pub struct Subject<'a> {
    /// The workload.
    pub workload: &'a Workload,
    /// The token whose view the workload picks up.
    pub token: &'a TokenName,
    /// The side of that view.
    pub side: Side,
    /// The fence of that view in the token's record. For a token without a record it is the least fence.
    pub view: Fence,
    /// The parameters that its side publishes to.
    pub parameters: Vec<ParameterName>,
}

/// The result of the examination of all workloads of a token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Examination {
    /// The problems that were found.
    pub findings: Vec<Finding>,
    /// The facts that were checked and found right, by the object that they are about.
    pub checked: BTreeMap<String, Vec<String>>,
    /// The longest time of a rollout in which nothing fails, by the workload.
    pub rollouts: BTreeMap<String, Duration>,
}

impl Examination {
    /// Notes a fact that was found right about an object.
    pub fn right(&mut self, object: impl Into<String>, what: impl Into<String>) {
        let (checked, what) = (self.checked.entry(object.into()).or_default(), what.into());
        if !checked.contains(&what) {
            checked.push(what);
        }
    }

    /// Adds another examination. A finding of both is kept once.
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
