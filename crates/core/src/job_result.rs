//! The verdict that is sent to a job of a pipeline.

use std::collections::BTreeMap;

use serde::Serialize;

/// The answer to a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum JobResult {
    /// The action succeeded. Its output variables are names of what was done, never a token.
    Succeeded(BTreeMap<&'static str, String>),
    /// The action continues: a later job brings this continuation, and with it the key of the first.
    GoesOn {
        /// The idempotency key of the first job.
        continuation: String,
    },
    /// The action failed, and with it the stage.
    Failed {
        /// The kind of failure, in CodePipeline's words.
        failure: Failure,
        /// The failure, its reason and the fix. Safe to display.
        message: String,
    },
}

/// CodePipeline's kinds of failure that apply (API reference, `FailureDetails`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Failure {
    /// The request cannot be carried out as it was made.
    ConfigurationError,
    /// It was tried, and did not work.
    JobFailed,
    /// A right is missing.
    PermissionError,
    /// A dependency did not answer.
    SystemUnavailable,
}

impl JobResult {
    /// Returns its name in logs.
    pub fn name(&self) -> &'static str {
        match self {
            JobResult::Succeeded(_) => "succeeded",
            JobResult::GoesOn { .. } => "continues",
            JobResult::Failed { .. } => "failed",
        }
    }
}
