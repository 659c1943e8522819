//! One invocation, from its event to its answer.

use std::{collections::BTreeSet, time::Duration};

use changeover_token::TokenName;
use jiff::Timestamp;
use serde_json::Value;
use tracing::info;

use crate::{
    error::{Error, Kind, catch_panic},
    event::{Event, Invocation, Request},
    forget,
    metrics::MetricPoint,
    observe, pipeline,
    plan::Ask,
    ports::Ports,
    preflight,
    report::Answer,
    rotate::{self, Asking, Settings},
    spec::ParameterName,
    status, sweep,
};

/// Time before an invocation's deadline in which nothing begins. It covers the longest step that may have
/// begun just before (a call to a cluster with its retries), and the saves and the answer after it.
const RESERVE: Duration = Duration::from_secs(40);
/// The least reserve of a short invocation: it covers saving and answering only.
const LEAST_RESERVE: Duration = Duration::from_secs(10);

/// Parses the payload of an invocation, and carries it out.
///
/// # Errors
/// `BadEvent` if it asks for nothing that is known, `AccessDenied` if its alias does not allow it, and
/// those of [`handle`].
pub async fn answer(
    ports: &Ports,
    settings: &Settings,
    payload: &Value,
    invocation: &Invocation,
) -> Result<Answer, Error> {
    let event = Event::parse(payload)
        .and_then(|event| event.allowed_through(&invocation.function).map(|()| event));
    match event {
        Ok(event) => handle(ports, settings, event, invocation).await,
        Err(error) => {
            ports.metrics_sink.write(&MetricPoint::of_no_request(ports.clock.now(), &error));
            Err(error)
        }
    }
}

/// Carries out an event.
///
/// # Errors
/// One of the contract's. A crash at any point leaves what was saved, and the sweep resumes it.
pub async fn handle(
    ports: &Ports,
    settings: &Settings,
    event: Event,
    invocation: &Invocation,
) -> Result<Answer, Error> {
    match event {
        Event::Request(request) => carry_out(ports, settings, request, invocation).await,
        Event::Job(job) => {
            let invocation = Invocation { id: job.key().to_owned(), ..invocation.clone() };
            let answered = match job.request() {
                Ok(request) => carry_out(ports, settings, request, &invocation).await,
                Err(error) => Err(error),
            };
            pipeline::answer(ports, &job, &answered).await
        }
    }
}

/// Carries out a request.
async fn carry_out(
    ports: &Ports,
    settings: &Settings,
    request: Request,
    invocation: &Invocation,
) -> Result<Answer, Error> {
    info!(action = request.action(), request_id = %invocation.id, "invoke");
    // A caller may wait for less time than the invocation has.
    let (now, calls) = (ports.clock.now(), (ports.calls)());
    let last_moment = last_moment(now, invocation.deadline);
    let stop_at = match &request {
        Request::Rotate { wait: Some(wait), .. } => {
            now.checked_add(*wait).unwrap_or(last_moment).min(last_moment)
        }
        _ => last_moment,
        // The actions on one token differ only in what they ask for.
    };
    let one = async |ask, token: &TokenName| {
        let key = request.key_or(&invocation.id);
        let without = match &request {
            Request::Rotate { without, .. } => without,
            _ => &BTreeSet::new(),
        };
        let asking = Asking { ask, token, key, stop_at, without };
        let report = rotate::run(ports, settings, asking).await?;
        Ok(Answer::One(Box::new(report)))
    };
    let answered = async {
        match &request {
            Request::Rotate { token, fresh, .. } => one(Ask::Rotate { fresh: *fresh }, token).await,
            Request::Import { parameter } => {
                let token = importer(ports, parameter).await?;
                one(Ask::Rotate { fresh: false }, &token).await
            }
            Request::Publish { token, adopt } => one(Ask::Publish { adopt: *adopt }, token).await,
            Request::Drop { token } => one(Ask::Drop, token).await,
            Request::Forget { token } => {
                let report = forget::run(ports, settings, token).await?;
                Ok(Answer::One(Box::new(report)))
            }
            Request::Sweep => sweep::all(ports, settings, invocation, stop_at).await,
            Request::SweepOne { token } => {
                Ok(sweep::one(ports, settings, token, invocation, stop_at).await)
            }
            Request::Status { token, after } => {
                status::run(ports, settings, token.as_ref(), after.as_ref())
                    .await
                    .map(Answer::Status)
            }
            Request::Preflight { token } => {
                preflight::run(ports, settings, token).await.map(Answer::Preflight)
            }
        }
    };
    // A panic becomes an error here, so that it is measured and returned like any other.
    let answered = catch_panic(answered).await;
    let calls = (ports.calls)().saturating_sub(calls);
    let action = request.action();
    let measurement = MetricPoint::of_invocation(ports.clock.now(), action, &answered, calls);
    ports.metrics_sink.write(&measurement);
    answered
}

/// Latest time at which a step of an invocation may begin. A function with a short time-out keeps a third
/// of it in reserve.
fn last_moment(now: Timestamp, deadline: Timestamp) -> Timestamp {
    let left = Duration::try_from(deadline.duration_since(now)).unwrap_or_default();
    now + left.saturating_sub((left / 3).clamp(LEAST_RESERVE, RESERVE))
}

/// Returns the token whose spec names this inbox.
async fn importer(ports: &Ports, inbox: &ParameterName) -> Result<TokenName, Error> {
    let mut specs = observe::specs(ports).await?.into_iter();
    let importer = specs.find(|spec| spec.inbox() == Some(inbox));
    importer.map(|spec| spec.token).ok_or_else(|| {
        Error::new(
            Kind::UnknownToken,
            "find the token that imports from",
            "no spec that can be read names it as its `source`",
            "write {\"parameter\": \"<the inbox>\"} as the `source` of the token's spec, or send changes \
             of inboxes only",
        )
        .on(inbox)
    })
}
