//! One call of a Kubernetes API server: its time-out, its retries, and the meaning of its failure.

use std::{fmt, future::Future, time::Duration};

use changeover_core::{
    error::{Error, Kind, error_chain},
    spec::Workload,
};
use kube::core::Status;
use tokio::time::{Instant, sleep, timeout};

use crate::{Access, Connection};

/// The time in which the API server must answer one attempt.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// No attempt begins later than this after the first.
const ATTEMPTS_WITHIN: Duration = Duration::from_secs(15);

/// The number of attempts of a call.
const ATTEMPTS: u32 = 4;

/// The target of a call, in the terms of a Role: a verb, a resource, a namespace.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target<'a> {
    /// The cluster, by the name that specs give it.
    pub(super) cluster: &'a str,
    /// The namespace. It is empty if the object is in none.
    pub(super) namespace: &'a str,
    /// The entry of a Role's `verbs`.
    pub(super) verb: &'a str,
    /// The entry of a Role's `resources`, with its API group: `deployments.apps`.
    pub(super) resource: &'a str,
    /// The object's name. It is empty if the call is about all of them.
    pub(super) name: &'a str,
}

impl<'a> Target<'a> {
    /// A call on an object in the namespace of this workload.
    pub(super) fn beside(
        workload: &'a Workload,
        verb: &'a str,
        resource: &'a str,
        name: &'a str,
    ) -> Self {
        Self { cluster: &workload.cluster, namespace: &workload.namespace, verb, resource, name }
    }
}

impl fmt::Display for Target<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cluster, namespace, resource, name, .. } = self;
        if name.is_empty() {
            write!(f, "{resource} in namespace {namespace} of cluster {cluster}")
        } else if namespace.is_empty() {
            write!(f, "{resource} {name} of cluster {cluster}")
        } else {
            write!(f, "{resource} {namespace}/{name} of cluster {cluster}")
        }
    }
}

impl Target<'_> {
    /// True if it asks the API server about rights. No admission webhook is called for that.
    fn is_review(&self) -> bool {
        self.resource.ends_with("reviews.authorization.k8s.io")
    }
}

/// The mode of a change: persisted, or a dry run, which all of admission judges and which changes nothing
/// (Kubernetes documentation, "API concepts", "Dry-run").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// The change is persisted.
    Persist,
    /// The change is judged only.
    DryRun,
}

/// A call that failed for good: the error to report, and the server's answer if there was one.
#[derive(Debug)]
pub(super) struct Failed {
    /// The error to report.
    pub(super) error: Error,
    /// The HTTP status of the answer; 0 if there was none.
    pub(super) code: u16,
}

impl From<Failed> for Error {
    fn from(failed: Failed) -> Self {
        failed.error
    }
}

/// The failure of a call that lacked a prerequisite: no server answered.
impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self { error, code: 0 }
    }
}

/// Makes a call on a connection to its cluster. An attempt that was not answered, or that was refused for
/// the server's own reasons, is made again after a pause. One whose identity was not accepted is made once
/// more, with a new identity.
pub(super) async fn call<T, F>(
    access: &dyn Access,
    target: Target<'_>,
    attempt: impl Fn(Connection) -> F,
) -> Result<T, Failed>
where
    F: Future<Output = Result<T, kube::Error>>,
{
    let began = Instant::now();
    let mut identity_renewed = false;
    for number in 1.. {
        let connection = access.connect(target.cluster).await?;
        let failure = match timeout(ANSWER_WITHIN, attempt(connection.clone())).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => Failure::of(error).after(number - 1),
            Err(_) => Failure::Silence,
        };
        if failure.spoils_the_connection(number) {
            access.discard(target.cluster, &connection).await;
        }
        let again = match failure {
            Failure::Unauthorized => !std::mem::replace(&mut identity_renewed, true),
            Failure::Silence | Failure::Passing { .. } => number < ATTEMPTS,
            Failure::Final { .. } => false,
        };
        let pause = failure.pause(target, number);
        if !again || began.elapsed() + pause > ATTEMPTS_WITHIN {
            return Err(failure.into_failed(target, &connection));
        }
        sleep(pause).await;
    }
    unreachable!("the last attempt returns")
}

/// Converts the failure of a missing object to `None`.
pub(super) fn found<T>(answer: Result<T, Failed>) -> Result<Option<T>, Error> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(Failed { code: 404, .. }) => Ok(None),
        Err(failed) => Err(failed.error),
    }
}

/// The failure of an attempt.
#[derive(Debug)]
pub(super) enum Failure {
    /// The server does not know our identity.
    Unauthorized,
    /// The server did not answer in time. A later attempt may succeed.
    Silence,
    /// A later attempt may succeed.
    Passing {
        /// The HTTP status of the answer; `None` if there was no answer.
        code: Option<u16>,
        /// The reason in words.
        because: String,
        /// The pause that the server asks for.
        retry_after: Duration,
    },
    /// Another attempt will not succeed.
    Final {
        /// The HTTP status of the answer; `None` if the answer was not understood.
        code: Option<u16>,
        /// The reason in words.
        because: String,
    },
}

impl Failure {
    /// Reads an error. The reason is the server's message, or the messages of the chain of causes. It is
    /// never the `Debug` form, which may hold an object.
    pub(super) fn of(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::answered(&status),
            kube::Error::Service(cause) => Self::unanswered(error_chain(&*cause)),
            kube::Error::HyperError(cause) => Self::unanswered(error_chain(&cause)),
            kube::Error::ReadEvents(cause) => Self::unanswered(error_chain(&cause)),
            // The text of a syntax error could repeat the answer, and with it a value.
            kube::Error::SerdeError(cause) => Self::Final {
                code: None,
                because: format!(
                    "its answer could not be read, at line {} column {}",
                    cause.line(),
                    cause.column()
                ),
            },
            other => Self::Final { code: None, because: error_chain(&other) },
        }
    }

    /// Reads an answer of the server.
    pub(super) fn answered(status: &Status) -> Self {
        let because = match status.message.trim() {
            "" => format!("it answered {}", status.code),
            message => message.chars().take(LONGEST_MESSAGE).collect(),
        };
        let wanted = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
        let wanted = Duration::from_secs(wanted.into()).min(LONGEST_ASKED_PAUSE);
        match status.code {
            401 => Self::Unauthorized,
            410 | 429 | 500 | 502 | 503 | 504 => {
                Self::Passing { code: Some(status.code), because, retry_after: wanted }
            }
            code => Self::Final { code: Some(code), because },
        }
    }

    /// Returns this failure as it counts after `failures` others in a row. An API server that has just
    /// started does not know any caller's rights yet: a call that it forbids after it was away may be
    /// granted in a moment.
    pub(super) fn after(self, failures: u32) -> Self {
        match self {
            Self::Final { code: code @ Some(403), because } if failures > 0 => {
                Self::Passing { code, because, retry_after: Duration::ZERO }
            }
            other => other,
        }
    }

    fn unanswered(because: String) -> Self {
        Self::Passing { code: None, because, retry_after: Duration::ZERO }
    }

    /// True if the cluster's address and our identity must be discovered anew, given that this is failure
    /// number `in_a_row` in a row. The first broken connection proves nothing about the cluster, and the
    /// second is enough.
    pub(super) fn spoils_the_connection(&self, in_a_row: u32) -> bool {
        match self {
            Self::Unauthorized => true,
            Self::Silence | Self::Passing { code: None, .. } => in_a_row == 2,
            _ => false,
        }
    }

    /// The pause before attempt `number + 1`: a tenth of a second, four times as long each time, and a part
    /// of that again. The part differs from object to object, so that many workloads that fail together do
    /// not return together.
    pub(super) fn pause(&self, target: Target<'_>, number: u32) -> Duration {
        let retry_after = match self {
            Self::Unauthorized => return Duration::ZERO,
            Self::Passing { retry_after, .. } => *retry_after,
            Self::Silence | Self::Final { .. } => Duration::ZERO,
        };
        let pause = Duration::from_millis(100) * 4_u32.saturating_pow(number.saturating_sub(1));
        retry_after.max(spread(pause.min(LONGEST_PAUSE), &format!("{target}{number}")))
    }

    /// The reason for the failure in words, for a wait that continues in spite of it.
    pub(super) fn because(&self) -> &str {
        match self {
            Self::Unauthorized => "it did not take our identity",
            Self::Silence => "no answer in time",
            Self::Passing { because, .. } | Self::Final { because, .. } => because,
        }
    }

    /// Returns the error to report.
    #[expect(clippy::too_many_lines, reason = "the table of all failures")]
    pub(super) fn into_failed(self, target: Target<'_>, connection: &Connection) -> Failed {
        let Target { cluster, namespace, verb, resource, .. } = target;
        let server = "the API server refused";
        let within = ANSWER_WITHIN.as_secs();
        let (kind, code, because, fix) = match self {
            // The object was read a moment ago, so only the change remains without an answer. A webhook may
            // take three times as long as we wait (Kubernetes documentation, "Dynamic Admission Control",
            // "Timeouts").
            Self::Silence if matches!(verb, "patch" | "create") && !target.is_review() => (
                Kind::PreflightFailed,
                0,
                format!(
                    "no answer within {within} s, though it can be read: an admission webhook may not answer"
                ),
                MEND_WEBHOOK.to_owned(),
            ),
            Self::Silence => (
                Kind::Unreachable,
                0,
                format!("the API server did not answer: no answer within {within} s"),
                CHECK_CLUSTER.to_owned(),
            ),
            Self::Final { code, because } | Self::Passing { code, because, .. }
                if admission(&because).is_some() =>
            {
                let (refuses, fix) = refused_by_admission(&because);
                let because = format!("{refuses}: {because}");
                (Kind::PreflightFailed, code.unwrap_or(0), because, fix.to_owned())
            }
            Self::Unauthorized => (
                Kind::AccessDenied,
                401,
                "the API server does not know the function's identity (401)".to_owned(),
                format!(
                    "{}; check that {cluster} is the cluster meant, and that no clock is off",
                    connection.introduce
                ),
            ),
            Self::Final { code: Some(403), because }
            | Self::Passing { code: Some(403), because, .. } => (
                Kind::AccessDenied,
                403,
                format!("{server}: {because}"),
                format!(
                    "grant the verb {verb} on {resource} {} to the function's Kubernetes group \
                     (infra/eks-rbac.yaml)",
                    match namespace {
                        "" => "in a ClusterRole".to_owned(),
                        namespace => format!("in namespace {namespace}"),
                    }
                ),
            ),
            Self::Passing { code: Some(429), because, .. } => (
                Kind::Throttled,
                429,
                format!("the API server is too busy: {because}"),
                "run again later; nothing is lost".to_owned(),
            ),
            Self::Passing { code, because, .. } => (
                Kind::Unreachable,
                code.unwrap_or(0),
                match code {
                    Some(code) => format!("the API server failed ({code}): {because}"),
                    None => format!("the API server did not answer: {because}"),
                },
                CHECK_CLUSTER.to_owned(),
            ),
            Self::Final { code: Some(404), because } => (
                Kind::PreflightFailed,
                404,
                format!("it is not there: {because}"),
                "create it, or correct the spec".to_owned(),
            ),
            Self::Final { code, because } => (
                Kind::Internal,
                code.unwrap_or(0),
                match code {
                    Some(code) => format!("{server} ({code}): {because}"),
                    None => format!("it could not be called: {because}"),
                },
                "read the API server's message; if the request is at fault, report it".to_owned(),
            ),
        };
        Failed { error: Error::new(kind, verb, because, fix).on_cluster(target), code }
    }
}

/// The reaction of admission to a change that the function has the right to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Admission {
    /// A policy, a webhook or a quota refuses it.
    Denied,
    /// A webhook that must be asked does not answer.
    Unanswered,
}

/// The reason and the fix of a change that admission did not let pass, with these words.
fn refused_by_admission(because: &str) -> (&'static str, &'static str) {
    match admission(because) {
        // Our own policy allows every change that we make, so another process adds a change to ours.
        Some(Admission::Denied) if because.contains(OWN_POLICY) => (
            "a mutating webhook or policy adds a change of its own to ours, which infra/eks-policy.yaml refuses",
            "change the object once with another identity, so that the addition is there already (kubectl annotate \
             it), or exempt the function's Kubernetes group, changeover, from what adds it",
        ),
        Some(Admission::Denied) => (
            "admission refuses the change",
            "make the object meet that policy or quota, or exempt the function's Kubernetes group, changeover, from it",
        ),
        _ => ("an admission webhook does not answer", MEND_WEBHOOK),
    }
}

/// Recognises a failure of admission by its words, since its code is that of a missing right (403), of a
/// bad request (400, 422) or of a broken server (500). The words are the API server's own: `ToStatusErr` in
/// apiserver's `pkg/admission/plugin/webhook/errors/statuserror.go`, `NewForbidden` of its validating
/// policies and of its quota, `ErrCallingWebhook` in `pkg/util/webhook/error.go`.
fn admission(because: &str) -> Option<Admission> {
    let says = |words: &[&str]| words.iter().any(|words| because.contains(words));
    match () {
        () if says(&["failed calling webhook", "failed to call webhook"]) => {
            Some(Admission::Unanswered)
        }
        () if says(&["denied the request", "denied request", "exceeded quota"]) => {
            Some(Admission::Denied)
        }
        () => None,
    }
}

/// Returns `pause`, and up to half of it again, chosen by `name`.
pub(super) fn spread(pause: Duration, name: &str) -> Duration {
    use sha2::Digest as _;
    let chosen = sha2::Sha256::digest(name.as_bytes())[0];
    pause + pause / 2 * u32::from(chosen) / 255
}

const MEND_WEBHOOK: &str = "mend that webhook: its Service, endpoints, port and security group (kubectl get \
                            validatingwebhookconfigurations,mutatingwebhookconfigurations); until then nothing can \
                            change the object";

const CHECK_CLUSTER: &str = "check the cluster's endpoint, the function's route to it, and the health of its API \
                             server; nothing is lost, the next run carries on";

/// The prefix of the names of the policies in infra/eks-policy.yaml, as the API server quotes them.
const OWN_POLICY: &str = "ValidatingAdmissionPolicy 'changeover-";

const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The longest pause that a server can ask for and get: the most that priority and fairness asks for
/// (apiserver `pkg/util/flowcontrol/dropped_requests_tracker.go`, `maxRetryAfter`).
const LONGEST_ASKED_PAUSE: Duration = Duration::from_secs(32);

/// Characters of a server's message that are worth repeating.
const LONGEST_MESSAGE: usize = 500;
