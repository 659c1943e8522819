//! Events: the shapes an invocation arrives in, and the one request that each means.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::error::{Error, Kind, quoted, shown};
use crate::spec::{self, ParameterName};
use crate::token::TokenName;

/// The alias of whoever may look and change nothing.
pub const STATUS_ALIAS: &str = "status";

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

/// A job of a CodePipeline action, as far as it matters. The rest, artifacts and the credentials for
/// them, is not read: it need not be there (AWS CodePipeline user guide, "JSON event example").
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// What the answer to it names.
    pub id: String,
    /// `UserParameters` of the action: a request's body as text.
    parameters: Option<String>,
    /// What an earlier job of the same action was answered to go on with.
    continuation: Option<String>,
}

impl Job {
    fn parse(job: &Value) -> Result<Self, Error> {
        let text = |pointer| job.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        let Some(id) = text("/id") else {
            return Err(bad_event(
                "it is a CodePipeline job without an `id`, which nobody can answer",
                "send what CodePipeline sends",
            ));
        };
        Ok(Self {
            id,
            parameters: text("/data/actionConfiguration/configuration/UserParameters"),
            continuation: text("/data/continuationToken"),
        })
    }

    /// The request that it carries.
    ///
    /// # Errors
    /// `BadEvent` that names the field. It repeats nothing of what it could not read.
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

    /// The idempotency key of everything that the action does: the first job's id, which later ones
    /// bring as what they continue.
    pub fn key(&self) -> &str {
        self.continuation.as_deref().unwrap_or(&self.id)
    }
}

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
        /// Clusters to leave out, knowingly.
        without: BTreeSet<String>,
        /// Whether it has to be a version that begins after this request: a rotation in progress is
        /// not joined, but followed.
        fresh: bool,
    },
    /// Bring the value that arrived in an inbox to everybody, as a rotation of the token whose spec
    /// names the inbox.
    Import {
        /// The inbox.
        parameter: ParameterName,
    },
    /// Adopt or create the token where it has no version, and write the current views.
    Publish {
        /// The token.
        token: TokenName,
        /// Whether a value that somebody else wrote to a presented publication becomes the next version.
        adopt: bool,
    },
    /// Give up a pending version that nobody can present yet.
    Drop {
        /// The token.
        token: TokenName,
    },
    /// Carry on everything that owes a step, end what is due, reconcile.
    Sweep,
    /// The same for one token alone, if it owes anything: what a sweep hands on.
    SweepOne {
        /// The token.
        token: TokenName,
    },
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
        let Value::Object(body) = event else {
            return Err(bad_event(
                format!("it is {}", shown(event)),
                "send an object such as {\"action\": \"sweep\"}",
            ));
        };
        if body.contains_key("detail-type") {
            return Err(bad_event(
                "it is the event of an EventBridge rule, and not a request made from it",
                "give the rule's target an input transformer that writes \
                 {\"action\", \"token\", \"key\"}, with the key made of the rule's ARN and $.time",
            ));
        }
        let Some(action) = body.get("action") else {
            return Err(bad_event("`action` is missing", ACTIONS));
        };
        let body = Body(body);
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
            Some("sweep") => {
                body.check("sweep", &["token"])?;
                match body.0.contains_key("token") {
                    true => Ok(Request::SweepOne { token: body.token()? }),
                    false => Ok(Request::Sweep),
                }
            }
            Some("status") => {
                body.check("status", &["token"])?;
                let token = body.0.contains_key("token").then(|| body.token());
                Ok(Request::Status { token: token.transpose()? })
            }
            Some("preflight") => {
                body.check("preflight", &["token"])?;
                let token = body.token()?;
                Ok(Request::Preflight { token })
            }
            Some(later @ ("revoke" | "forget")) => {
                Err(unavailable(&format!("the action \"{later}\"")))
            }
            _ => Err(bad_event(format!("`action` is {}", shown(action)), ACTIONS)),
        }
    }

    /// The body that asks for one token's sweep: what [`Request::parse`] reads as
    /// [`Request::SweepOne`].
    pub fn sweep_of(token: &TokenName) -> Value {
        json!({"action": "sweep", "token": token})
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
            | Request::Publish { token, .. }
            | Request::Drop { token }
            | Request::SweepOne { token }
            | Request::Preflight { token } => Some(token),
            Request::Status { token } => token.as_ref(),
            Request::Sweep | Request::Import { .. } => None,
        }
    }

    /// The request's action, as its body names it.
    pub fn action(&self) -> &'static str {
        match self {
            Request::Rotate { .. } => "rotate",
            Request::Import { .. } => "import",
            Request::Publish { .. } => "publish",
            Request::Drop { .. } => "drop",
            Request::Sweep | Request::SweepOne { .. } => "sweep",
            Request::Status { .. } => "status",
            Request::Preflight { .. } => "preflight",
        }
    }
}

/// The fields of a request's body.
struct Body<'a>(&'a Map<String, Value>);

impl Body<'_> {
    /// Refuses every field but these.
    fn check(&self, action: &str, known: &[&str]) -> Result<(), Error> {
        for field in self.0.keys().map(String::as_str) {
            if field != "action" && !known.contains(&field) {
                return Err(bad_event(
                    format!("{} is not a field of the action \"{action}\"", quoted(field)),
                    "leave it out",
                ));
            }
        }
        Ok(())
    }

    fn token(&self) -> Result<TokenName, Error> {
        let because = match self.0.get("token") {
            Some(Value::String(name)) => match TokenName::parse(name) {
                Ok(name) => return Ok(name),
                Err(fault) => fault.to_string(),
            },
            Some(_) => "it is not a text".to_owned(),
            None => "it is missing".to_owned(),
        };
        Err(bad_event(
            format!("`token` names no token: {because}"),
            "name the token as its spec's parameter does",
        ))
    }

    fn key(&self) -> Result<Option<String>, Error> {
        let (because, fix) = match self.0.get("key") {
            None => return Ok(None),
            Some(Value::String(key)) if key.contains("<aws.") => (
                "still holds a placeholder of EventBridge Scheduler that was not filled in",
                "write \"<aws.scheduler.scheduled-time>\" in the input of a schedule's target, and \
                 nowhere else",
            ),
            Some(Value::String(key)) if (1..=LONGEST_KEY).contains(&key.len()) => {
                return Ok(Some(key.clone()));
            }
            Some(_) => (
                "is not a text of 1 to 1,024 bytes",
                "write one that is the same in each try of the same rotation, and in no other",
            ),
        };
        Err(bad_event(format!("`key` {because}"), fix))
    }

    /// The inbox that an import is about. Its name is shown: it comes from AWS, and is no secret.
    fn parameter(&self) -> Result<ParameterName, Error> {
        let name = self.0.get("parameter").unwrap_or(&Value::Null);
        let parsed = match name.as_str() {
            Some(name) => ParameterName::parse(name),
            None => Err("it is not a text".into()),
        };
        parsed.map_err(|because| {
            bad_event(
                format!("`parameter` is {}: {because}", shown(name)),
                "give the rule's target an input transformer that writes the name of the parameter \
                 that changed, $.detail.name, there",
            )
        })
    }

    fn flag(&self, field: &str) -> Result<bool, Error> {
        match self.0.get(field) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => Err(bad_event(
                format!("`{field}` is {}", shown(other)),
                "write true, or leave it out",
            )),
        }
    }

    fn without(&self) -> Result<BTreeSet<String>, Error> {
        let cluster =
            |value: &Value| value.as_str().filter(|it| spec::is_cluster(it)).map(str::to_owned);
        let clusters = match self.0.get("without") {
            None => return Ok(BTreeSet::new()),
            Some(Value::Array(list)) if list.len() <= MOST_CLUSTERS => {
                list.iter().map(cluster).collect()
            }
            Some(_) => None,
        };
        clusters.ok_or_else(|| {
            bad_event(
                "`without` is not a list of up to 100 names of clusters",
                "write the names under which the token's spec knows them, such as [\"prod\"]",
            )
        })
    }

    fn wait(&self) -> Result<Option<Duration>, Error> {
        let Some(wait) = self.0.get("wait") else {
            return Ok(None);
        };
        // A number has no unit, and is not a duration.
        let text = wait.as_str().unwrap_or_default();
        spec::duration(text, Duration::ZERO..=spec::LONGEST_DURATION).map(Some).map_err(|fault| {
            bad_event(
                format!("`wait` is {}, which {fault}", shown(wait)),
                "or leave it out, to wait as long as the invocation has time",
            )
        })
    }
}

const MOST_CLUSTERS: usize = 100;
const LONGEST_KEY: usize = 1024;
const ACTIONS: &str = "write \"rotate\", \"publish\", \"drop\", \"import\", \"sweep\", \"status\" or \
                       \"preflight\"";

fn bad_event(because: impl Into<String>, fix: impl Into<String>) -> Error {
    Error::new(Kind::BadEvent, "read the event", because, fix)
}

fn unavailable(feature: &str) -> Error {
    bad_event(format!("it asks for {feature}, which is not available in this version"), ACTIONS)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

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
    fn every_action_is_read() {
        let token = token();
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
            (json!({"action": "sweep"}), Request::Sweep),
            (Request::sweep_of(&token), Request::SweepOne { token: token.clone() }),
            (json!({"action": "status"}), Request::Status { token: None }),
            (
                json!({"action": "status", "token": "datastore-token"}),
                Request::Status { token: Some(token.clone()) },
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
    fn what_is_no_request_is_told_by_name() {
        let rotate = |field: &str, value: Value| {
            let mut event = json!({"action": "rotate", "token": "datastore-token"});
            event[field] = value;
            event
        };
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
    fn what_later_versions_bring_is_named_as_such() {
        for (event, feature) in [
            (json!({"action": "revoke", "token": "a", "version": 6}), "\"revoke\""),
            (json!({"action": "forget", "token": "a"}), "\"forget\""),
        ] {
            let error = Request::parse(&event).expect_err(feature);
            assert_eq!(error.kind, Kind::BadEvent);
            let message = error.to_string();
            assert!(message.contains(feature), "{message}");
            assert!(message.contains("not available in this version"), "{message}");
        }
    }

    #[test]
    fn a_rotation_without_a_key_has_that_of_its_invocation() {
        let (keyed, bare) = (rotate(Some("k")), rotate(None));
        assert_eq!((keyed.key_or("id"), bare.key_or("id")), ("k", "id"));
    }
}
