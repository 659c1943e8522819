//! What a look at the world before a rotation comes to.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

use crate::{
    error::Error,
    spec::{ParameterName, Side, Workload},
    token::TokenName,
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
