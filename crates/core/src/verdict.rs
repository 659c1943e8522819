//! What a job of a pipeline is told.

use std::collections::BTreeMap;

use serde::Serialize;

/// What is answered to a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The action succeeded. Its output variables: names of what was done, never a token.
    Succeeded(BTreeMap<&'static str, String>),
    /// It goes on: a later job brings this token, and with it the key of the first.
    GoesOn {
        /// The idempotency key of the first job.
        continuation: String,
    },
    /// The action failed, and with it the stage.
    Failed {
        /// Whose failure it is, in CodePipeline's words.
        failure: Failure,
        /// What failed, why, and what to do. Safe to show.
        message: String,
    },
}

/// CodePipeline's kinds of failure that apply (API reference, `FailureDetails`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Failure {
    /// What was asked for cannot be done as it was asked for.
    ConfigurationError,
    /// It was tried, and did not work.
    JobFailed,
    /// A right is missing.
    PermissionError,
    /// Something did not answer.
    SystemUnavailable,
}

impl Verdict {
    /// Its name in logs.
    pub fn name(&self) -> &'static str {
        match self {
            Verdict::Succeeded(_) => "succeeded",
            Verdict::GoesOn { .. } => "goes on",
            Verdict::Failed { .. } => "failed",
        }
    }
}
