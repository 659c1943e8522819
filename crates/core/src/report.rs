//! How it went: the answer to whoever asked. Never a token's value.

use std::collections::BTreeSet;

use changeover_token::{Stage, TokenName, VersionNumber, time::milliseconds};
use jiff::Timestamp;
use serde::{Serialize, Serializer};

use crate::{
    error::Error,
    finding::Finding,
    record::{Entry, Failing, Held, Imported, Leg, Queued, RotationId, Step},
    verdict::Verdict,
};

/// What an invocation answers.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Answer {
    /// About one token that was to be changed.
    One(Box<Report>),
    /// Of a sweep: what became of each token that was due, in three shapes:
    ///
    /// ```json
    /// {"outcome": "swept", "results": [
    ///   {"outcome": "completed", "token": "a", ...},
    ///   {"outcome": "handed_on", "token": "b", ...},
    ///   {"token": "c", "error": "Throttled", "message": "could not start an invocation of ..."}]}
    /// ```
    ///
    /// The first was carried on, and is told as whoever invokes the function about it is told; a second
    /// is carried on by an invocation of its own (`deferred`: by the next sweep, for want of time); what
    /// failed, or could not be handed on, stays due. Clients may rely on these fields; others may be
    /// added.
    Sweep(Results<Each<Report>>),
    /// Of a status: how each token stands.
    Status(Results<Each<Standing>>),
    /// Of a preflight: what would stop a rotation.
    Preflight(Results<Inspection>),
    /// To a CodePipeline job: what the job was told.
    Job(Verdict),
}

impl Answer {
    /// How what was asked for ended; `None` of a job, which was told a verdict.
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

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Presenters are on the new version.
    Rotated,
    /// It goes on by itself.
    InProgress,
    /// It waits for help.
    Held,
    /// It cannot begin before `not_before`.
    Deferred,
    /// This key did it already.
    Unchanged,
    /// Only live versions are left in every copy.
    Completed,
    /// The current views are written everywhere.
    Published,
    /// The pending version is given up.
    Dropped,
    /// The record is ended; what is published stays.
    Forgotten,
    /// There was nothing to do.
    NothingOwed,
    /// An invocation of its own carries it on.
    HandedOn,
    /// A sweep is through.
    Swept,
    /// A status was told.
    Reported,
    /// Nothing stands in the way.
    Passed,
    /// Nothing stands in the way; something is worth knowing.
    Warned,
    /// Something stands in the way.
    Refused,
}

impl Outcome {
    /// The contract's name of it.
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

/// What became of one token.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// How it ended.
    pub outcome: Outcome,
    /// The token.
    pub token: TokenName,
    /// The version that it is about.
    pub version: Option<VersionNumber>,
    /// The rotation that brings this version.
    pub rotation: Option<RotationId>,
    /// The leg that it stands on: the last one carried out, or the one owed.
    pub leg: Option<Leg>,
    /// The step of it.
    pub step: Option<Step>,
    /// Where presenters find the token: `<parameter>:<version>`, or `<place>:<token version>`.
    pub selectors: Vec<String>,
    /// When the version before stops being accepted.
    #[serde(serialize_with = "optional_time")]
    pub previous_valid_until: Option<Timestamp>,
    /// When to ask again.
    #[serde(serialize_with = "optional_time", skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// What was done when.
    pub timeline: Vec<Entry>,
    /// What is worth knowing.
    pub warnings: Vec<String>,
    /// Why it waits for help.
    pub held: Option<Reason>,
}

impl Report {
    /// An outcome about a token of which nothing more is to be said.
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

    /// Whether what was carried on is over, so that something else may begin.
    pub(crate) fn is_through(&self) -> bool {
        !matches!(self.outcome, Outcome::InProgress | Outcome::Held | Outcome::Deferred)
    }
}

/// Why something waits for help, and for what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// On what.
    pub object: String,
    /// What is the matter.
    pub reason: String,
    /// What to do.
    pub fix: String,
}

impl From<&Held> for Reason {
    fn from(held: &Held) -> Self {
        Self { object: held.object.clone(), reason: held.reason.clone(), fix: held.fix.clone() }
    }
}

/// An outcome, and one entry a token.
#[derive(Clone, Debug, Serialize)]
pub struct Results<T> {
    /// How it ended.
    pub outcome: Outcome,
    /// One entry a token, in order of name.
    pub results: Vec<T>,
    /// The last token of these, if there are more than one answer holds: `after` it the next page begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<TokenName>,
}

/// What one token came to, where there are several: one that fails does not hide the others.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Each<T> {
    /// What was asked for.
    Done(Box<T>),
    /// It failed.
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
    /// The entry of this token.
    pub(crate) fn of(token: TokenName, came_to: Result<T, Error>) -> Self {
        match came_to {
            Ok(done) => Each::Done(Box::new(done)),
            Err(error) => {
                Each::Failed { token, error: error.kind.as_str(), message: error.to_string() }
            }
        }
    }
}

/// How a token stands.
#[derive(Clone, Debug, Serialize)]
pub struct Standing {
    /// The token.
    pub token: TokenName,
    /// The version of its spec's parameter; `None` if the spec is gone.
    pub spec: Option<i64>,
    /// The revision of its record; `None` where it has none yet.
    pub revision: Option<u64>,
    /// Its live versions, newest first.
    pub versions: Vec<LiveVersion>,
    /// The rotation in progress.
    pub rotation: Option<RotationId>,
    /// The leg owed.
    pub leg: Option<Leg>,
    /// The step owed.
    pub step: Option<Step>,
    /// When somebody looks at it again.
    #[serde(serialize_with = "optional_time")]
    pub due_at: Option<Timestamp>,
    /// Until when a write whose reply was lost may still land.
    #[serde(serialize_with = "optional_time")]
    pub unanswered_until: Option<Timestamp>,
    /// Where its views are published.
    pub publications: Vec<Published>,
    /// Why nothing moves.
    pub held: Option<Reason>,
    /// The sweep's runs that failed since its record was last saved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failing: Option<Failing>,
    /// Places that hold a value that is none of this token's.
    pub drift: Vec<String>,
    /// Clusters that the last rotation was told to go without, and so does what it owes.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub without: BTreeSet<String>,
    /// The rotation that begins by itself as soon as it can.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queued: Option<Queued>,
    /// What was taken from its inbox last: parameter, version, when it was written, and why it did not
    /// become a version where it did not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub imported: Option<Imported>,
    /// How the newest version came to everybody. Only of a token that was asked for by its name, and
    /// that has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub newest: Option<Newest>,
}

/// How the newest version came, or is coming, to everybody.
#[derive(Clone, Debug, Serialize)]
pub struct Newest {
    /// Its number.
    pub version: VersionNumber,
    /// When it was minted or adopted.
    #[serde(serialize_with = "time")]
    pub created_at: Timestamp,
    /// When presenters were proved to be on it; `None` while it is pending.
    #[serde(serialize_with = "optional_time")]
    pub rotated_at: Option<Timestamp>,
    /// Since when the step owed is owed.
    #[serde(serialize_with = "optional_time")]
    pub owed_since: Option<Timestamp>,
    /// What was done when, until presenters were on it.
    pub timeline: Vec<Entry>,
    /// The version that it replaces; `None` where there was none, or where it is no longer known.
    pub replaced: Option<Replaced>,
}

/// The version before the newest.
#[derive(Clone, Debug, Serialize)]
pub struct Replaced {
    /// Its number.
    pub version: VersionNumber,
    /// When verifiers stop accepting it; `None` before presenters are off it.
    #[serde(serialize_with = "optional_time")]
    pub not_after: Option<Timestamp>,
    /// When its value was deleted.
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
    /// When it was minted or adopted.
    #[serde(serialize_with = "time")]
    pub created_at: Timestamp,
    /// When verifiers stop accepting it.
    #[serde(serialize_with = "optional_time")]
    pub not_after: Option<Timestamp>,
}

/// A place, and what was last written to it.
#[derive(Clone, Debug, Serialize)]
pub struct Published {
    /// `verifiers` or `presenters`.
    pub side: &'static str,
    /// The place.
    pub place: String,
    /// The revision of the view that it holds; `None` where nothing was written yet.
    pub revision: Option<u64>,
    /// The store's own version of it.
    pub store_version: Option<u64>,
    /// When that was answered.
    #[serde(serialize_with = "optional_time")]
    pub answered_at: Option<Timestamp>,
}

/// What would stop a rotation of a token, as `results[]` of a preflight tells it:
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
pub struct Inspection {
    /// The token.
    pub token: TokenName,
    /// What was found, the worst first.
    pub findings: Vec<Finding>,
    /// What was looked at and found right: what a pass stands on. In order of the objects' names.
    pub checked: Vec<Checked>,
}

/// What was found right about one object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Checked {
    /// The object.
    pub object: String,
    /// Each a short sentence.
    pub what: Vec<String>,
}

fn time<S: Serializer>(time: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&milliseconds(*time))
}

fn optional_time<S: Serializer>(time: &Option<Timestamp>, to: S) -> Result<S::Ok, S::Error> {
    time.map(milliseconds).serialize(to)
}
