//! A job of CodePipeline, and the request that it carries.

use serde_json::Value;

use super::{body::bad_event, request::Request};
use crate::error::Error;

/// The parts of a CodePipeline job that matter. The rest, artifacts and the credentials for them, is not
/// read: it may be absent (AWS CodePipeline user guide, "JSON event example").
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// The id that the answer to the job names.
    pub id: String,
    /// `UserParameters` of the action: a request's body as text.
    parameters: Option<String>,
    /// The continuation token with which an earlier job of the same action was answered.
    continuation: Option<String>,
}

impl Job {
    pub(super) fn parse(job: &Value) -> Result<Self, Error> {
        let text = |pointer| job.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        let Some(id) = text("/id") else {
            return Err(bad_event(
                "it is a CodePipeline job without an `id`, which cannot be answered",
                "send what CodePipeline sends",
            ));
        };
        Ok(Self {
            id,
            parameters: text("/data/actionConfiguration/configuration/UserParameters"),
            continuation: text("/data/continuationToken"),
        })
    }

    /// Reads the request that the job carries.
    ///
    /// # Errors
    /// `BadEvent` that names the field. It repeats nothing of a text that it could not read.
    pub fn request(&self) -> Result<Request, Error> {
        let because = match self.parameters.as_deref().map(serde_json::from_str) {
            Some(Ok(body)) => return Request::parse(&body),
            Some(Err(fault)) => format!(
                "the action's UserParameters are not JSON, at line {} column {}",
                fault.line(),
                fault.column()
            ),
            None => "the action has no UserParameters".to_owned(),
        };
        let fix = "write {\"action\": \"rotate\", \"token\": \"<name>\"} into the action's UserParameters";
        Err(bad_event(because, fix))
    }

    /// The idempotency key of everything that the action does: the id of its first job. Later jobs carry
    /// that id as their continuation token.
    pub fn key(&self) -> &str {
        self.continuation.as_deref().unwrap_or(&self.id)
    }
}
