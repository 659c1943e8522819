//! Events: the shapes an invocation arrives in, and the one request that each means.

use std::time::Duration;

use serde_json::Value;

use crate::error::Error;
use crate::token::TokenName;

/// What an invocation asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Bring a new version of the token to everybody, or join the rotation in progress.
    Rotate {
        /// The token.
        token: TokenName,
        /// The caller's idempotency key. See [`Request::key_or`].
        key: Option<String>,
        /// After how long no further step begins. Absent: as long as the invocation has time.
        wait: Option<Duration>,
    },
    /// Adopt or create the token where it has no version, and write the current views.
    Publish {
        /// The token.
        token: TokenName,
    },
    /// Give up a pending version that nobody can present yet.
    Drop {
        /// The token.
        token: TokenName,
    },
    /// Carry on everything that owes a step, end what is due, reconcile.
    Sweep,
    /// Tell how tokens stand.
    Status {
        /// Only this token; all of them where absent.
        token: Option<TokenName>,
    },
    /// Find everything that would stop a rotation, without rotating.
    Preflight {
        /// The token.
        token: TokenName,
    },
}

impl Request {
    /// Reads the body of an invocation.
    ///
    /// # Errors
    /// `BadEvent` that names the field. It repeats neither a token's name nor a key that it refuses:
    /// a token itself may have been passed by mistake.
    pub fn parse(event: &Value) -> Result<Self, Error> {
        let _ = event;
        todo!()
    }

    /// The idempotency key of a rotation: the caller's, else the Lambda request id, which Lambda's own
    /// retries of an asynchronous invocation keep. The same key never mints twice.
    pub fn key_or<'a>(&'a self, request_id: &'a str) -> &'a str {
        match self {
            Request::Rotate { key: Some(key), .. } => key,
            _ => request_id,
        }
    }

    /// The token that the request names.
    pub fn token(&self) -> Option<&TokenName> {
        match self {
            Request::Rotate { token, .. }
            | Request::Publish { token }
            | Request::Drop { token }
            | Request::Preflight { token } => Some(token),
            Request::Status { token } => token.as_ref(),
            Request::Sweep => None,
        }
    }

    /// The request's action, as its body names it.
    pub fn action(&self) -> &'static str {
        match self {
            Request::Rotate { .. } => "rotate",
            Request::Publish { .. } => "publish",
            Request::Drop { .. } => "drop",
            Request::Sweep => "sweep",
            Request::Status { .. } => "status",
            Request::Preflight { .. } => "preflight",
        }
    }
}
