//! Events: the shapes in which an invocation arrives, and the one request that each means.

mod body;
mod job;
mod request;

use jiff::Timestamp;
use serde_json::Value;

use crate::error::{Error, Kind};
pub use job::Job;
pub use request::Request;

/// The alias of callers that may read and change nothing.
pub const STATUS_ALIAS: &str = "status";

/// The payload of an invocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A request.
    Request(Request),
    /// A job of a CodePipeline action that carries one.
    Job(Job),
}

impl Event {
    /// Reads the payload of an invocation.
    ///
    /// # Errors
    /// See [`Request::parse`]. The request that a job carries is not read yet: its faults are returned to
    /// its sender in the answer to the job.
    pub fn parse(event: &Value) -> Result<Self, Error> {
        match event.get("CodePipeline.job") {
            Some(job) => Job::parse(job).map(Event::Job),
            None => Request::parse(event).map(Event::Request),
        }
    }

    /// Refuses an event that could change something if it came through the alias [`STATUS_ALIAS`]. IAM can
    /// restrict who may invoke an alias, but not for which requests.
    ///
    /// `function` is the ARN that was invoked, with the alias at its end if there was one.
    ///
    /// # Errors
    /// `AccessDenied`. Nothing was done.
    pub fn allowed_through(&self, function: &str) -> Result<(), Error> {
        // arn:aws:lambda:<region>:<account>:function:<name>:<alias>
        let alias = function.split(':').nth(7);
        let reads_only =
            matches!(self, Event::Request(Request::Status { .. } | Request::Preflight { .. }));
        if reads_only || alias != Some(STATUS_ALIAS) {
            return Ok(());
        }
        Err(Error::new(
            Kind::AccessDenied,
            "carry out the event",
            format!("through the alias `{STATUS_ALIAS}` only status and preflight are answered"),
            "invoke the alias `live`, with an identity that may",
        ))
    }
}

impl From<Request> for Event {
    fn from(request: Request) -> Self {
        Event::Request(request)
    }
}

/// The facts that Lambda provides about an invocation.
#[derive(Clone, Debug)]
pub struct Invocation {
    /// The request id. Lambda keeps it in its own retries of an asynchronous invocation.
    pub id: String,
    /// Time at which the function is killed.
    pub deadline: Timestamp,
    /// The ARN that was invoked, with the alias.
    pub function: String,
}
