//! Events: the shapes an invocation arrives in, and the one request that each means.

mod body;
mod job;
mod request;

use jiff::Timestamp;
use serde_json::Value;

use crate::error::{Error, Kind};
pub use job::Job;
pub use request::Request;

/// The alias of whoever may look and change nothing.
pub const STATUS_ALIAS: &str = "status";

/// What invokes the function.
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
    /// See [`Request::parse`]. What a job carries is not read yet: whoever sent it learns of its
    /// faults from the answer to the job.
    pub fn parse(event: &Value) -> Result<Self, Error> {
        match event.get("CodePipeline.job") {
            Some(job) => Job::parse(job).map(Event::Job),
            None => Request::parse(event).map(Event::Request),
        }
    }

    /// Refuses what could change something where it came through the alias [`STATUS_ALIAS`]: IAM says who
    /// may invoke an alias, and cannot say what for.
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
            "invoke the alias `live`, as somebody who may",
        ))
    }
}

impl From<Request> for Event {
    fn from(request: Request) -> Self {
        Event::Request(request)
    }
}

/// What Lambda says of an invocation.
#[derive(Clone, Debug)]
pub struct Invocation {
    /// Its request id, which Lambda's own retries of an asynchronous invocation keep.
    pub id: String,
    /// When the function is killed.
    pub deadline: Timestamp,
    /// The ARN that it came in on, with the alias.
    pub function: String,
}
