//! Requests, as read from the body of an invocation.

use std::{collections::BTreeSet, time::Duration};

use changeover_token::TokenName;
use serde_json::{Value, json};

use super::body::{Body, bad_event};
use crate::{
    error::{Error, displayed_value},
    spec::ParameterName,
};

/// The request of an invocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Bring a new version of the token to all verifiers and presenters, or join the rotation in progress.
    Rotate {
        /// The token.
        token: TokenName,
        /// The caller's idempotency key. See [`Request::key_or`].
        key: Option<String>,
        /// Time after which no further step begins. If absent, it is as long as the invocation has time.
        wait: Option<Duration>,
        /// Clusters to leave out on request.
        without: BTreeSet<String>,
        /// True if the version must begin after this request: a rotation in progress is not joined, but
        /// followed.
        fresh: bool,
    },
    /// Bring the value that arrived in an inbox to all verifiers and presenters, as a rotation of the
    /// token whose spec names the inbox.
    Import {
        /// The inbox.
        parameter: ParameterName,
    },
    /// Adopt or create the token if it has no version, and write the current views.
    Publish {
        /// The token.
        token: TokenName,
        /// True if a value that was written by someone else to a presented publication becomes the next
        /// version.
        adopt: bool,
    },
    /// Drop a pending version that no presenter can present yet.
    Drop {
        /// The token.
        token: TokenName,
    },
    /// Forget the record of a token whose spec is gone.
    Forget {
        /// The token.
        token: TokenName,
    },
    /// Resume everything that owes a step, end what is due, and reconcile.
    Sweep,
    /// Sweep one token alone, if it owes anything. A sweep hands tokens on with this request.
    SweepOne {
        /// The token.
        token: TokenName,
    },
    /// Report the state of tokens.
    Status {
        /// Only this token; all tokens if absent.
        token: Option<TokenName>,
        /// In a list of all tokens, only those after this one in the order of names: the next page.
        after: Option<TokenName>,
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
    /// `BadEvent` that names the field. It repeats neither a token's name nor a key that it refuses,
    /// because a token itself may have been passed by mistake.
    pub fn parse(event: &Value) -> Result<Self, Error> {
        let Value::Object(body) = event else {
            return Err(bad_event(
                format!("it is {}", displayed_value(event)),
                "send an object such as {\"action\": \"sweep\"}",
            ));
        };
        // An untransformed event of a rule is a common mistake, so its error names the fix.
        if body.contains_key("detail-type") {
            return Err(bad_event(
                "it is the event of an EventBridge rule, and not a request made from it",
                "give the rule's target an input transformer that writes \
                 {\"action\", \"token\", \"key\"}, with the key made of the rule's ARN and $.time",
            ));
        }
        // The action decides which fields may be present.
        let Some(action) = body.get("action") else {
            return Err(bad_event("`action` is missing", ACTIONS));
        };
        Self::of_action(action, &Body(body))
    }

    /// Reads the fields of an action. An unknown field is refused: it may be a misspelt one, and the request
    /// would mean something else.
    fn of_action(action: &Value, body: &Body<'_>) -> Result<Self, Error> {
        match action.as_str() {
            Some("rotate") => {
                body.check("rotate", &["token", "key", "wait", "without", "fresh"])?;
                Ok(Request::Rotate {
                    token: body.token()?,
                    key: body.key()?,
                    wait: body.wait()?,
                    without: body.without()?,
                    fresh: body.flag("fresh")?,
                })
            }
            Some("import") => {
                body.check("import", &["parameter"])?;
                Ok(Request::Import { parameter: body.parameter()? })
            }
            Some("publish") => {
                body.check("publish", &["token", "adopt"])?;
                Ok(Request::Publish { token: body.token()?, adopt: body.flag("adopt")? })
            }
            Some("drop") => {
                body.check("drop", &["token"])?;
                let token = body.token()?;
                Ok(Request::Drop { token })
            }
            Some("forget") => {
                body.check("forget", &["token"])?;
                let token = body.token()?;
                Ok(Request::Forget { token })
            }
            Some("sweep") => {
                body.check("sweep", &["token"])?;
                if body.0.contains_key("token") {
                    Ok(Request::SweepOne { token: body.token()? })
                } else {
                    Ok(Request::Sweep)
                }
            }
            Some("status") => {
                body.check("status", &["token", "after"])?;
                let named =
                    |field| body.0.contains_key(field).then(|| body.name(field)).transpose();
                match (named("token")?, named("after")?) {
                    (Some(_), Some(_)) => Err(bad_event(
                        "`after` is a place in the list of all tokens, and `token` asks for one",
                        "leave one of them out",
                    )),
                    (token, after) => Ok(Request::Status { token, after }),
                }
            }
            Some("preflight") => {
                body.check("preflight", &["token"])?;
                let token = body.token()?;
                Ok(Request::Preflight { token })
            }
            Some(later @ "revoke") => Err(unavailable(&format!("the action \"{later}\""))),
            _ => Err(bad_event(format!("`action` is {}", displayed_value(action)), ACTIONS)),
        }
    }

    /// The body that requests the sweep of one token. [`Request::parse`] reads it as
    /// [`Request::SweepOne`].
    pub fn sweep_of(token: &TokenName) -> Value {
        json!({"action": "sweep", "token": token})
    }

    /// The idempotency key of a rotation: the caller's, or else the Lambda request id. Lambda keeps that
    /// id in its own retries of an asynchronous invocation. The same key never mints twice.
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
            | Request::Publish { token, .. }
            | Request::Drop { token }
            | Request::Forget { token }
            | Request::SweepOne { token }
            | Request::Preflight { token } => Some(token),
            Request::Status { token, .. } => token.as_ref(),
            Request::Sweep | Request::Import { .. } => None,
        }
    }

    /// The name of the request's action in its body.
    pub fn action(&self) -> &'static str {
        match self {
            Request::Rotate { .. } => "rotate",
            Request::Import { .. } => "import",
            Request::Publish { .. } => "publish",
            Request::Drop { .. } => "drop",
            Request::Forget { .. } => "forget",
            Request::Sweep | Request::SweepOne { .. } => "sweep",
            Request::Status { .. } => "status",
            Request::Preflight { .. } => "preflight",
        }
    }
}

const ACTIONS: &str = "write \"rotate\", \"publish\", \"drop\", \"forget\", \"import\", \"sweep\", \"status\" \
                       or \"preflight\"";

fn unavailable(feature: &str) -> Error {
    bad_event(format!("it asks for {feature}, which is not available in this version"), ACTIONS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    fn token() -> TokenName {
        TokenName::parse("datastore-token").expect("it is a name")
    }

    fn rotate(key: Option<&str>) -> Request {
        Request::Rotate {
            token: token(),
            key: key.map(str::to_owned),
            wait: None,
            without: BTreeSet::new(),
            fresh: false,
        }
    }

    #[test]
    fn actions_parse_to_their_requests() {
        let token = token();
        // Each action, with and without most of its optional fields.
        for (event, request) in [
            (json!({"action": "rotate", "token": "datastore-token"}), rotate(None)),
            (
                json!({"action": "rotate", "token": "datastore-token", "key": "k", "wait": "0s",
                       "without": ["b", "a", "b"], "fresh": true}),
                Request::Rotate {
                    token: token.clone(),
                    key: Some("k".into()),
                    wait: Some(Duration::ZERO),
                    without: ["a", "b"].map(str::to_owned).into(),
                    fresh: true,
                },
            ),
            (
                json!({"action": "import", "parameter": "/inbox/datastore-token"}),
                Request::Import {
                    parameter: ParameterName::parse("/inbox/datastore-token").expect("a name"),
                },
            ),
            (
                json!({"action": "publish", "token": "datastore-token", "adopt": false}),
                Request::Publish { token: token.clone(), adopt: false },
            ),
            (
                json!({"action": "publish", "token": "datastore-token", "adopt": true}),
                Request::Publish { token: token.clone(), adopt: true },
            ),
            (
                json!({"action": "drop", "token": "datastore-token"}),
                Request::Drop { token: token.clone() },
            ),
            (
                json!({"action": "forget", "token": "datastore-token"}),
                Request::Forget { token: token.clone() },
            ),
            (json!({"action": "sweep"}), Request::Sweep),
            (Request::sweep_of(&token), Request::SweepOne { token: token.clone() }),
            (json!({"action": "status"}), Request::Status { token: None, after: None }),
            (
                json!({"action": "status", "token": "datastore-token"}),
                Request::Status { token: Some(token.clone()), after: None },
            ),
            (
                json!({"action": "preflight", "token": "datastore-token"}),
                Request::Preflight { token },
            ),
        ] {
            assert_eq!(Request::parse(&event), Ok(request), "{event}");
        }
    }

    #[test]
    fn invalid_request_error_names_its_fault() {
        let rotate = |field: &str, value: Value| {
            let mut event = json!({"action": "rotate", "token": "datastore-token"});
            event[field] = value;
            event
        };
        // Each faulty event is paired with a text that its error must contain.
        for (event, named) in [
            (json!(null), "null"),
            (json!("rotate"), "an object"),
            (json!([{"action": "sweep"}]), "an array"),
            (json!({}), "`action` is missing"),
            (json!({"action": 7}), "`action` is 7"),
            (json!({"action": "rotat"}), "\"rotat\""),
            (json!({"action": "rotate"}), "`token`"),
            (json!({"action": "status", "token": null}), "`token`"),
            (json!({"action": "sweep", "token": null}), "`token`"),
            (json!({"action": "sweep", "tokens": ["a"]}), "\"tokens\""),
            (json!({"action": "publish", "token": "a", "key": "k"}), "\"key\""),
            (rotate("tokn", json!("a")), "\"tokn\""),
            (rotate("key", json!(null)), "`key`"),
            (rotate("key", json!("")), "1 to 1,024 bytes"),
            (rotate("key", json!("k".repeat(1025))), "1 to 1,024 bytes"),
            (rotate("key", json!("<aws.scheduler.scheduled-time>")), "placeholder"),
            (rotate("without", json!("prod")), "`without`"),
            (rotate("without", json!(null)), "`without`"),
            (rotate("without", json!(["prod", 7])), "`without`"),
            (rotate("without", json!(["prod cluster"])), "`without`"),
            (rotate("without", json!(vec!["prod"; 101])), "`without`"),
            (rotate("fresh", json!("true")), "`fresh` is \"true\""),
            (json!({"action": "publish", "token": "a", "adopt": null}), "`adopt` is null"),
            (json!({"action": "import"}), "`parameter`"),
            (json!({"action": "import", "parameter": "inbox"}), "`parameter`"),
            (rotate("wait", json!(10)), "`wait` is 10"),
            (rotate("wait", json!("-1s")), "`wait`"),
            (rotate("wait", json!("9999999999999999999999y")), "`wait`"),
            (json!({"detail-type": "Scheduled Event", "detail": {}}), "input transformer"),
        ] {
            let error = Request::parse(&event).expect_err(named);
            assert_eq!(error.kind, Kind::BadEvent);
            assert!(error.to_string().contains(named), "{event}: {error}");
        }
    }

    #[test]
    fn action_of_later_version_is_reported_as_unavailable() {
        let event = json!({"action": "revoke", "token": "a", "version": 6});
        let error = Request::parse(&event).expect_err("revoke");
        assert_eq!(error.kind, Kind::BadEvent);
        let message = error.to_string();
        assert!(message.contains("\"revoke\""), "{message}");
        assert!(message.contains("not available in this version"), "{message}");
    }

    #[test]
    fn rotation_without_key_uses_invocation_id() {
        let (keyed, bare) = (rotate(Some("k")), rotate(None));
        assert_eq!((keyed.key_or("id"), bare.key_or("id")), ("k", "id"));
    }
}
