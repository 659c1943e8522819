//! One call of a Kubernetes API server: its time-out, its retries, and what its failure means.

use std::{fmt, future::Future, time::Duration};

use changeover_core::{
    error::{Error, Kind, causes},
    spec::Workload,
};
use kube::core::Status;
use tokio::time::{Instant, sleep, timeout};

use crate::{Access, Connection};

/// How long the API server may take to answer one attempt.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// No attempt begins later than this after the first.
const ATTEMPTS_WITHIN: Duration = Duration::from_secs(15);

/// How often a call is attempted.
const ATTEMPTS: u32 = 4;

/// What a call is made on, in the terms of a Role: a verb, a resource, a namespace.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target<'a> {
    /// The cluster, by the name that specs give it.
    pub(super) cluster: &'a str,
    /// The namespace; empty where the object is in none.
    pub(super) namespace: &'a str,
    /// What a Role lists under `verbs`.
    pub(super) verb: &'a str,
    /// What a Role lists under `resources`, with its API group: `deployments.apps`.
    pub(super) resource: &'a str,
    /// The object's name; empty where the call is about all of them.
    pub(super) name: &'a str,
}

impl<'a> Target<'a> {
    /// A call on an object beside this workload.
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
        match name.is_empty() {
            false if namespace.is_empty() => write!(f, "{resource} {name} of cluster {cluster}"),
            true => write!(f, "{resource} in namespace {namespace} of cluster {cluster}"),
            false => write!(f, "{resource} {namespace}/{name} of cluster {cluster}"),
        }
    }
}

/// Whether a change is persisted, or a dry run: one that all of admission judges, and that changes nothing
/// (Kubernetes documentation, "API concepts", "Dry-run").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// It is persisted.
    Persist,
    /// It is judged.
    DryRun,
}

/// A call that failed for good: what to report, and the server's answer where there was one.
#[derive(Debug)]
pub(super) struct Failed {
    /// What to report.
    pub(super) error: Error,
    /// The HTTP status of the answer; 0 where there was none.
    pub(super) code: u16,
}

impl From<Failed> for Error {
    fn from(failed: Failed) -> Self {
        failed.error
    }
}

/// Of what a call needs, and could not be had: no server answered.
impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self { error, code: 0 }
    }
}

/// Makes a call on a connection to its cluster. An attempt that was not answered, or refused for the
/// server's own reasons, is made again after a pause; one whose identity was not taken, once more
/// with a new one.
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

/// What became of an attempt.
#[derive(Debug)]
pub(super) enum Failure {
    /// The server does not know who we are.
    Unauthorized,
    /// The server did not answer in time. It may work in a moment.
    Silence,
    /// It may work in a moment.
    Passing {
        /// What the server said; `None` where it said nothing.
        code: Option<u16>,
        /// In words.
        because: String,
        /// How long the server asks us to wait.
        retry_after: Duration,
    },
    /// It will not work by being asked again.
    Final {
        /// What the server said; `None` where its answer was not understood.
        code: Option<u16>,
        /// In words.
        because: String,
    },
}

impl Failure {
    /// Reads an error. Its words are the server's message, or those of its chain of causes: never
    /// its `Debug` form, which may hold an object.
    pub(super) fn of(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::answered(&status),
            kube::Error::Service(cause) => Self::unanswered(causes(&*cause)),
            kube::Error::HyperError(cause) => Self::unanswered(causes(&cause)),
            kube::Error::ReadEvents(cause) => Self::unanswered(causes(&cause)),
            // The text of a syntax error could repeat the answer, and with it a value.
            kube::Error::SerdeError(cause) => Self::Final {
                code: None,
                because: format!(
                    "its answer could not be read, at line {} column {}",
                    cause.line(),
                    cause.column()
                ),
            },
            other => Self::Final { code: None, because: causes(&other) },
        }
    }

    /// Reads what the server answered.
    pub(super) fn answered(status: &Status) -> Self {
        let because = match status.message.trim() {
            "" => format!("it answered {}", status.code),
            message => message.chars().take(LONGEST_MESSAGE).collect(),
        };
        let asked = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
        let asked = Duration::from_secs(asked.into()).min(LONGEST_ASKED_PAUSE);
        match status.code {
            401 => Self::Unauthorized,
            410 | 429 | 500 | 502 | 503 | 504 => {
                Self::Passing { code: Some(status.code), because, retry_after: asked }
            }
            code => Self::Final { code: Some(code), because },
        }
    }

    /// The same, after so many failures in a row. An API server that has just started knows nobody's
    /// rights yet: what it forbids after it was away, it may grant in a moment.
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

    /// Whether to learn anew where the cluster is and who we are to it, when this is the failure of
    /// so many in a row. The first broken connection tells nothing of the cluster, and the second is
    /// enough.
    pub(super) fn spoils_the_connection(&self, in_a_row: u32) -> bool {
        match self {
            Self::Unauthorized => true,
            Self::Silence | Self::Passing { code: None, .. } => in_a_row == 2,
            _ => false,
        }
    }

    /// How long to wait before attempt `number + 1`: a tenth of a second, four times as long each
    /// time, and a part of that again that differs from object to object, so that many workloads
    /// that fail together do not come back together.
    pub(super) fn pause(&self, target: Target<'_>, number: u32) -> Duration {
        let retry_after = match self {
            Self::Unauthorized => return Duration::ZERO,
            Self::Passing { retry_after, .. } => *retry_after,
            Self::Silence | Self::Final { .. } => Duration::ZERO,
        };
        let pause = Duration::from_millis(100) * 4_u32.saturating_pow(number.saturating_sub(1));
        retry_after.max(spread(pause.min(LONGEST_PAUSE), &format!("{target}{number}")))
    }

    /// The words of the failure, for a wait that goes on in spite of it.
    pub(super) fn because(&self) -> &str {
        match self {
            Self::Unauthorized => "it did not take our identity",
            Self::Silence => "no answer in time",
            Self::Passing { because, .. } | Self::Final { because, .. } => because,
        }
    }

    /// What to report.
    pub(super) fn into_failed(self, target: Target<'_>, connection: &Connection) -> Failed {
        let Target { cluster, namespace, verb, resource, .. } = target;
        let server = "the API server refused";
        let within = ANSWER_WITHIN.as_secs();
        let (kind, code, because, fix) = match self {
            // The object was read a moment ago: what is not answered is the change. A webhook may take three
            // times as long as we wait (Kubernetes documentation, "Dynamic Admission Control", "Timeouts").
            Self::Silence if matches!(verb, "patch" | "create") => (
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
                let (refuses, fix) = match admission(&because) {
                    // Ours lets pass all that we change, so another process changes the object with us.
                    Some(Admission::Denied) if because.contains(OWN_POLICY) => (
                        "a mutating webhook or policy adds a change of its own to ours, which infra/eks-policy.yaml \
                         refuses",
                        "change the object once as somebody else, so that the addition is there already (kubectl \
                         annotate it), or exempt the function's Kubernetes group, changeover, from what adds it",
                    ),
                    Some(Admission::Denied) => (
                        "admission refuses the change",
                        "make the object meet that policy or quota, or exempt the function's Kubernetes group, \
                         changeover, from it",
                    ),
                    _ => ("an admission webhook does not answer", MEND_WEBHOOK),
                };
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
        Failed { error: Error::new(kind, verb, because, fix).on(target), code }
    }
}

/// What admission does with a change that the function has the right to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Admission {
    /// A policy, a webhook or a quota refuses it.
    Denied,
    /// A webhook that has to be asked does not answer.
    Unanswered,
}

/// What a failure tells of admission: by its words, since its code is that of a missing right (403), of a bad
/// request (400, 422) or of a broken server (500). They are the API server's own: `ToStatusErr` in
/// apiserver's `pkg/admission/plugin/webhook/errors/statuserror.go`, `NewForbidden` of its validating policies
/// and of its quota, `ErrCallingWebhook` in `pkg/util/webhook/error.go`.
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

/// `pause`, and up to half of it again, chosen by `name`.
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

/// What the names of the policies in infra/eks-policy.yaml begin with, as the API server quotes them.
const OWN_POLICY: &str = "ValidatingAdmissionPolicy 'changeover-";

const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The longest pause that a server asks for and gets: what priority and fairness asks for at most
/// (apiserver `pkg/util/flowcontrol/dropped_requests_tracker.go`, `maxRetryAfter`).
const LONGEST_ASKED_PAUSE: Duration = Duration::from_secs(32);

/// Characters of a server's message that are worth repeating.
const LONGEST_MESSAGE: usize = 500;
