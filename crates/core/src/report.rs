//! Answers: the results of requests, for their callers. Never a token's value.

use std::collections::BTreeSet;

use changeover_token::{Stage, TokenName, VersionNumber, time::milliseconds};
use jiff::Timestamp;
use serde::{Serialize, Serializer};

use crate::{
    error::Error,
    finding::Finding,
    job_result::JobResult,
    record::{Entry, Failing, Held, Imported, Leg, Queued, RotationId, Step},
};

/// The answer of an invocation.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Answer {
    /// The result for one token that was to be changed.
    One(Box<Report>),
    /// The result of a sweep: one entry for each token that was due, in three shapes:
    ///
    /// ```json
    /// {"outcome": "swept", "results": [
    ///   {"outcome": "completed", "token": "a", ...},
    ///   {"outcome": "handed_on", "token": "b", ...},
    ///   {"token": "c", "error": "Throttled", "message": "could not start an invocation of ..."}]}
    /// ```
    ///
    /// The first was resumed, and is reported as a direct request for it would be. The second is resumed by
    /// an invocation of its own (`deferred`: by the next sweep, because time ran out). The third failed,
    /// and is due again after its back-off, or could not be handed on, and stays due. Clients may rely on
    /// these fields; others may be added.
    Sweep(Results<Each<Report>>),
    /// The result of a status: the state of each token.
    Status(Results<Each<TokenStatus>>),
    /// The result of a preflight: everything that would stop a rotation.
    Preflight(Results<PreflightReport>),
    /// The answer to a CodePipeline job: the verdict that was sent.
    Job(JobResult),
}

impl Answer {
    /// Returns the outcome of the request; `None` for a job, which was sent a verdict.
    pub fn outcome(&self) -> Option<Outcome> {
        match self {
            Answer::One(report) => Some(report.outcome),
            Answer::Sweep(results) => Some(results.outcome),
            Answer::Status(results) => Some(results.outcome),
            Answer::Preflight(results) => Some(results.outcome),
            Answer::Job(_) => None,
        }
    }
}

/// Outcome of a request, or for one token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Presenters are on the new version.
    Rotated,
    /// It continues by itself.
    InProgress,
    /// It waits for help.
    Held,
    /// It cannot begin before `not_before`.
    Deferred,
    /// An earlier request with this key did it already.
    Unchanged,
    /// Only live versions are left in every copy.
    Completed,
    /// The current views are written everywhere.
    Published,
    /// The pending version is given up.
    Dropped,
    /// The record is ended. What is published stays.
    Forgotten,
    /// There was nothing to do.
    NothingOwed,
    /// An invocation of its own resumes it.
    HandedOn,
    /// A sweep is complete.
    Swept,
    /// A status was returned.
    Reported,
    /// Nothing blocks a rotation.
    Passed,
    /// Nothing blocks a rotation, but something is worth knowing.
    Warned,
    /// Something blocks a rotation.
    Refused,
}

impl Outcome {
    /// Returns the contract's name of it.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Rotated => "rotated",
            Outcome::InProgress => "in_progress",
            Outcome::Held => "held",
            Outcome::Deferred => "deferred",
            Outcome::Unchanged => "unchanged",
            Outcome::Completed => "completed",
            Outcome::Published => "published",
            Outcome::Dropped => "dropped",
            Outcome::Forgotten => "forgotten",
            Outcome::NothingOwed => "nothing_owed",
            Outcome::HandedOn => "handed_on",
            Outcome::Swept => "swept",
            Outcome::Reported => "reported",
            Outcome::Passed => "passed",
            Outcome::Warned => "warned",
            Outcome::Refused => "refused",
        }
    }
}

impl Serialize for Outcome {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.as_str())
    }
}

/// The result for one token.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The outcome.
    pub outcome: Outcome,
    /// The token.
    pub token: TokenName,
    /// The version that the report is about.
    pub version: Option<VersionNumber>,
    /// The rotation that brings this version.
    pub rotation: Option<RotationId>,
    /// The leg of the step that was carried out last, or of the step owed.
    pub leg: Option<Leg>,
    /// The step of that leg.
    pub step: Option<Step>,
    /// The selectors with which presenters find the token: `<parameter>:<version>`, or `<place>:<token
    /// version>`.
    pub selectors: Vec<String>,
    /// The time at which the version before stops being accepted.
    #[serde(serialize_with = "optional_time")]
    pub previous_valid_until: Option<Timestamp>,
    /// The earliest time to ask again.
    #[serde(serialize_with = "optional_time", skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// The steps that were done, and when.
    pub timeline: Vec<Entry>,
    /// Everything else that is worth knowing.
    pub warnings: Vec<String>,
    /// The reason that it waits for help.
    pub held: Option<Reason>,
}

impl Report {
    /// Returns a report of an outcome for a token, without further details.
    pub fn bare(outcome: Outcome, token: &TokenName) -> Self {
        Self {
            outcome,
            token: token.clone(),
            version: None,
            rotation: None,
            leg: None,
            step: None,
            selectors: Vec::new(),
            previous_valid_until: None,
            not_before: None,
            timeline: Vec::new(),
            warnings: Vec::new(),
            held: None,
        }
    }

    /// True if what was resumed is complete, so that something else may begin.
    pub(crate) fn is_through(&self) -> bool {
        !matches!(self.outcome, Outcome::InProgress | Outcome::Held | Outcome::Deferred)
    }
}

/// The reason that something waits for help, and the fix.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// The object.
    pub object: String,
    /// The problem.
    pub reason: String,
    /// The fix.
    pub fix: String,
}

impl From<&Held> for Reason {
    fn from(held: &Held) -> Self {
        Self { object: held.object.clone(), reason: held.reason.clone(), fix: held.fix.clone() }
    }
}

/// An outcome, and one entry per token.
#[derive(Clone, Debug, Serialize)]
pub struct Results<T> {
    /// The outcome.
    pub outcome: Outcome,
    /// One entry per token, in order of name.
    pub results: Vec<T>,
    /// The last token of these, if there are more than one answer holds. The next page begins `after` it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<TokenName>,
}

/// The result for one token among several: one that fails does not hide the others.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Each<T> {
    /// The result that was asked for.
    Done(Box<T>),
    /// The token failed.
    Failed {
        /// The token.
        token: TokenName,
        /// The contract's `errorType`.
        error: &'static str,
        /// The contract's `errorMessage`.
        message: String,
    },
}

impl<T> Each<T> {
    /// Returns the entry of this token.
    pub(crate) fn of(token: TokenName, result: Result<T, Error>) -> Self {
        match result {
            Ok(done) => Each::Done(Box::new(done)),
            Err(error) => {
                Each::Failed { token, error: error.kind.as_str(), message: error.to_string() }
            }
        }
    }
}

/// The state of a token.
#[derive(Clone, Debug, Serialize)]
pub struct TokenStatus {
    /// The token.
    pub token: TokenName,
    /// The version of its spec's parameter; `None` if the spec is gone.
    pub spec: Option<i64>,
    /// The revision of its record; `None` if it has none yet.
    pub revision: Option<u64>,
    /// Its live versions, newest first.
    pub versions: Vec<LiveVersion>,
    /// The rotation in progress.
    pub rotation: Option<RotationId>,
    /// The leg owed.
    pub leg: Option<Leg>,
    /// The step owed.
    pub step: Option<Step>,
    /// The time at which the sweep resumes it next.
    #[serde(serialize_with = "optional_time")]
    pub due_at: Option<Timestamp>,
    /// The time until which a write whose reply was lost may still be applied.
    #[serde(serialize_with = "optional_time")]
    pub unanswered_until: Option<Timestamp>,
    /// The places where its views are published.
    pub publications: Vec<Published>,
    /// The reason that it is held.
    pub held: Option<Reason>,
    /// The runs by a sweep that failed since its record was last saved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failing: Option<Failing>,
    /// The places that hold a value that is none of this token's.
    pub drift: Vec<String>,
    /// The clusters that the last rotation leaves out, as was requested, and so does what it owes.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub without: BTreeSet<String>,
    /// The rotation that begins by itself as soon as it can.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queued: Option<Queued>,
    /// The last value that was taken from its inbox: parameter, version, the time at which it was written,
    /// and the reason if it did not become a version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub imported: Option<Imported>,
    /// The history of the newest version. Only for a token that was asked for by its name and has a
    /// version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub newest: Option<Newest>,
}

/// The history of the newest version, until all readers have it.
#[derive(Clone, Debug, Serialize)]
pub struct Newest {
    /// Its number.
    pub version: VersionNumber,
    /// The time at which it was minted or adopted.
    #[serde(serialize_with = "time")]
    pub created_at: Timestamp,
    /// The time at which presenters were proved to be on it; `None` while it is pending.
    #[serde(serialize_with = "optional_time")]
    pub rotated_at: Option<Timestamp>,
    /// The time since which the step owed is owed.
    #[serde(serialize_with = "optional_time")]
    pub owed_since: Option<Timestamp>,
    /// The steps that were done, and when, until presenters were on it.
    pub timeline: Vec<Entry>,
    /// The version that it replaces; `None` if there was none, or if it is no longer known.
    pub replaced: Option<Replaced>,
}

/// The version before the newest.
#[derive(Clone, Debug, Serialize)]
pub struct Replaced {
    /// Its number.
    pub version: VersionNumber,
    /// The time at which verifiers stop accepting it; `None` until presenters have left it.
    #[serde(serialize_with = "optional_time")]
    pub not_after: Option<Timestamp>,
    /// The time at which its value was deleted.
    #[serde(serialize_with = "optional_time")]
    pub ended_at: Option<Timestamp>,
}

/// A live version.
#[derive(Clone, Debug, Serialize)]
pub struct LiveVersion {
    /// Its number.
    pub version: VersionNumber,
    /// Its stage.
    pub stage: Stage,
    /// The time at which it was minted or adopted.
    #[serde(serialize_with = "time")]
    pub created_at: Timestamp,
    /// The time at which verifiers stop accepting it.
    #[serde(serialize_with = "optional_time")]
    pub not_after: Option<Timestamp>,
}

/// A place, and the last write to it.
#[derive(Clone, Debug, Serialize)]
pub struct Published {
    /// `verifiers` or `presenters`.
    pub side: &'static str,
    /// The place.
    pub place: String,
    /// The revision of the view that it holds; `None` if nothing was written yet.
    pub revision: Option<u64>,
    /// The store's own version of that write.
    pub store_version: Option<u64>,
    /// The time at which that write was answered.
    #[serde(serialize_with = "optional_time")]
    pub answered_at: Option<Timestamp>,
}

/// The findings that would stop a rotation of a token, as an entry of `results[]` of a preflight:
///
/// ```json
/// {"token": "datastore-token",
///  "findings": [{"severity": "refusal", "object": "prod/backend/deployment/datastore",
///                "reason": "it is paused: ...", "fix": "kubectl rollout resume it"}],
///  "checked": [{"object": "prod/backend/externalsecret/datastore-token", "what": ["it exists"]}]}
/// ```
///
/// `severity` is `warning`, `missing` (stops a rotation, not a first publication) or `refusal`.
/// Clients may rely on these fields; others may be added.
#[derive(Clone, Debug, Serialize)]
pub struct PreflightReport {
    /// The token.
    pub token: TokenName,
    /// The findings, the worst first.
    pub findings: Vec<Finding>,
    /// The checks that passed, on which a pass is based. In order of the objects' names.
    pub checked: Vec<Checked>,
}

/// The checks of one object that passed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Checked {
    /// The object.
    pub object: String,
    /// The checks, each a short sentence.
    pub what: Vec<String>,
}

fn time<S: Serializer>(time: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&milliseconds(*time))
}

fn optional_time<S: Serializer>(time: &Option<Timestamp>, to: S) -> Result<S::Ok, S::Error> {
    time.map(milliseconds).serialize(to)
}
