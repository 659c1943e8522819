//! The function's answer as the command reads it. Fields that later versions add are ignored, and fields
//! that an answer leaves out are absent.

use std::fmt;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::function::Reply;

/// An answer about one token, or with one result per token.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Answer {
    /// Outcome; empty in results that have no outcome of their own.
    pub(crate) outcome: String,
    pub(crate) token: String,
    pub(crate) version: Option<u64>,
    pub(crate) rotation: Option<String>,
    pub(crate) leg: Option<String>,
    pub(crate) step: Option<String>,
    pub(crate) selectors: Vec<String>,
    pub(crate) previous_valid_until: Option<String>,
    pub(crate) not_before: Option<String>,
    #[serde(deserialize_with = "readable")]
    pub(crate) timeline: Vec<Done>,
    pub(crate) warnings: Vec<String>,
    pub(crate) held: Option<Reason>,
    /// Error of one token among several.
    pub(crate) error: Option<String>,
    pub(crate) message: Option<String>,
    /// Results of sweep, status and preflight: one per token.
    pub(crate) results: Vec<Answer>,
    // Fields of status.
    /// The version of its spec; null if the spec is gone, absent if the function does not report it.
    #[serde(deserialize_with = "present")]
    pub(crate) spec: Option<Value>,
    pub(crate) failing: Option<Failing>,
    pub(crate) versions: Vec<Version>,
    pub(crate) due_at: Option<String>,
    pub(crate) unanswered_until: Option<String>,
    pub(crate) publications: Vec<Publication>,
    pub(crate) drift: Vec<String>,
    pub(crate) without: Vec<String>,
    pub(crate) queued: Option<Queued>,
    pub(crate) imported: Option<Imported>,
    pub(crate) newest: Option<Newest>,
    // Fields of preflight.
    pub(crate) findings: Vec<Finding>,
    pub(crate) checked: Vec<Checked>,
}

/// A rotation that waits until it can begin.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Queued {
    pub(crate) rotation: String,
    pub(crate) since: Option<String>,
    #[serde(default)]
    pub(crate) without: Vec<String>,
}

/// A step that was done.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Done {
    pub(crate) leg: String,
    pub(crate) step: String,
    pub(crate) at: String,
    pub(crate) took_ms: u64,
}

/// The reason why a token is held.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Reason {
    pub(crate) object: String,
    pub(crate) reason: String,
    pub(crate) fix: String,
}

/// Runs of the sweep that failed since the record was last saved.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Failing {
    pub(crate) tries: u32,
    pub(crate) since: String,
    pub(crate) error: String,
    pub(crate) message: String,
}

/// A live version.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Version {
    pub(crate) version: u64,
    pub(crate) stage: String,
    pub(crate) created_at: Option<String>,
    pub(crate) not_after: Option<String>,
}

/// The value that was last taken from the token's inbox.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Imported {
    pub(crate) arrival: InboxValue,
    pub(crate) refused: Option<String>,
}

/// A value that arrived in an inbox.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct InboxValue {
    pub(crate) parameter: String,
    pub(crate) version: u64,
    pub(crate) written_at: String,
}

/// The rotation that brought the newest version.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Newest {
    pub(crate) version: u64,
    pub(crate) created_at: Option<String>,
    pub(crate) rotated_at: Option<String>,
    pub(crate) owed_since: Option<String>,
    #[serde(deserialize_with = "readable")]
    pub(crate) timeline: Vec<Done>,
    pub(crate) replaced: Option<Replaced>,
}

/// The version before the newest.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Replaced {
    pub(crate) version: u64,
    pub(crate) not_after: Option<String>,
    pub(crate) ended_at: Option<String>,
}

/// A place that a view is published to.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Publication {
    pub(crate) side: String,
    pub(crate) place: String,
    pub(crate) revision: Option<u64>,
    pub(crate) store_version: Option<u64>,
    pub(crate) answered_at: Option<String>,
}

/// A finding of a preflight.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Finding {
    pub(crate) severity: String,
    pub(crate) object: String,
    pub(crate) reason: String,
    pub(crate) fix: String,
}

/// The checks of one object that a preflight found right.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Checked {
    pub(crate) object: String,
    pub(crate) what: Vec<String>,
}

/// An error of the function, or a reply that is no answer. Lambda's own errors, for example of a function
/// that timed out, may lack the type.
#[derive(Debug, Deserialize)]
pub(crate) struct Failed {
    /// The contract's `errorType`.
    #[serde(rename = "errorType")]
    pub(crate) kind: Option<String>,
    #[serde(rename = "errorMessage")]
    message: String,
}

impl Failed {
    fn because(message: &str) -> Self {
        Self { kind: None, message: message.to_owned() }
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Some(kind) => write!(f, "{kind}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl Answer {
    /// Reads a reply.
    ///
    /// # Errors
    /// The message to show if the reply is an error of the function, or no answer of changeover's.
    pub(crate) fn read(reply: &Reply) -> Result<Self, Failed> {
        if reply.is_error {
            return Err(serde_json::from_str(&reply.text).unwrap_or_else(|_| {
                Failed::because("the function failed and does not say why; read its log")
            }));
        }
        match serde_json::from_str::<Self>(&reply.text) {
            Ok(answer) if !answer.outcome.is_empty() => Ok(answer),
            _ => Err(Failed::because(
                "the reply is no answer of changeover's rotator; check --function",
            )),
        }
    }
}

/// Reads a value that is present, null included.
fn present<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(from).map(Some)
}

/// Reads the entries that can be read. One that cannot is no reason to show none.
fn readable<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Done>, D::Error> {
    let entries = Vec::<Value>::deserialize(from)?;
    Ok(entries.into_iter().filter_map(|entry| serde_json::from_value(entry).ok()).collect())
}
