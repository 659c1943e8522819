//! One invocation, from its event to its answer.

use std::{collections::BTreeSet, panic::AssertUnwindSafe, time::Duration};

use futures::{FutureExt, StreamExt, stream};
use jiff::Timestamp;
use serde_json::Value;
use tracing::{info, warn};

use crate::{
    error::{Error, Kind},
    event::{Event, Request},
    look,
    metrics::Measurement,
    pipeline,
    plan::Ask,
    preflight,
    record::{Purpose, Record, Stage},
    report::{
        Answer, Each, LiveVersion, Newest, Outcome, Published, Replaced, Report, Results, Standing,
    },
    rotate::{self, Asking, Settings},
    spec::{ParameterName, Side, Spec},
    sweep,
    token::{TokenName, VersionNumber},
    world::World,
};

/// What the runtime keeps of an invocation's time for saving and answering.
const RESERVE: Duration = Duration::from_secs(10);
/// How many tokens are looked at at once.
const AT_ONCE: usize = 8;

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

/// Does what an event asks, as it came.
///
/// # Errors
/// `BadEvent` where it asks for nothing that is known, and those of [`handle`].
pub async fn answer(
    world: &World,
    settings: &Settings,
    payload: &Value,
    invocation: &Invocation,
) -> Result<Answer, Error> {
    let event = Event::parse(payload)
        .and_then(|event| event.allowed_through(&invocation.function).map(|()| event));
    match event {
        Ok(event) => handle(world, settings, event, invocation).await,
        Err(error) => {
            world.meter.write(&Measurement::of_no_request(world.clock.now(), &error));
            Err(error)
        }
    }
}

/// Does what an event asks.
///
/// # Errors
/// One of the contract's. A crash anywhere leaves what was saved, and the sweep carries it on.
pub async fn handle(
    world: &World,
    settings: &Settings,
    event: Event,
    invocation: &Invocation,
) -> Result<Answer, Error> {
    match event {
        Event::Request(request) => carry_out(world, settings, request, invocation).await,
        Event::Job(job) => pipeline::run(world, settings, &job, invocation).await,
    }
}

/// Does what a request asks.
///
/// # Errors
/// As above.
pub(crate) async fn carry_out(
    world: &World,
    settings: &Settings,
    request: Request,
    invocation: &Invocation,
) -> Result<Answer, Error> {
    info!(action = request.action(), request_id = %invocation.id, "invoke");
    let (now, calls) = (world.clock.now(), (world.calls)());
    let last_moment = invocation.deadline.checked_sub(RESERVE).unwrap_or(now);
    let stop_at = match &request {
        Request::Rotate { wait: Some(wait), .. } => {
            now.checked_add(*wait).unwrap_or(last_moment).min(last_moment)
        }
        _ => last_moment,
    };
    let one = async |ask, token: &TokenName| {
        let key = request.key_or(&invocation.id);
        let without = match &request {
            Request::Rotate { without, .. } => without,
            _ => &BTreeSet::new(),
        };
        let asking = Asking { ask, token, key, stop_at, without };
        let report = rotate::run(world, settings, asking).await?;
        Ok(Answer::One(Box::new(report)))
    };
    let answered = async {
        match &request {
            Request::Rotate { token, fresh, .. } => one(Ask::Rotate { fresh: *fresh }, token).await,
            Request::Import { parameter } => {
                let token = importer(world, parameter).await?;
                one(Ask::Rotate { fresh: false }, &token).await
            }
            Request::Publish { token, adopt } => one(Ask::Publish { adopt: *adopt }, token).await,
            Request::Drop { token } => one(Ask::Drop, token).await,
            Request::Sweep => sweep::all(world, settings, invocation, stop_at).await,
            Request::SweepOne { token } => {
                Ok(sweep::one(world, settings, token, invocation, stop_at).await)
            }
            Request::Status { token } => status(world, settings, token.as_ref()).await,
            Request::Preflight { token } => {
                preflight::run(world, settings, token).await.map(Answer::Preflight)
            }
        }
    };
    let answered = caught(answered).await;
    let calls = (world.calls)().saturating_sub(calls);
    let action = request.action();
    let measurement = Measurement::of_invocation(world.clock.now(), action, &answered, calls);
    world.meter.write(&measurement);
    answered
}

/// The token whose spec names this inbox.
async fn importer(world: &World, inbox: &ParameterName) -> Result<TokenName, Error> {
    let mut specs = look::specs(world).await?.into_iter();
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

/// A panic is an error like any other, in fixed words: its own may hold a value. Like a crash, it leaves
/// what was saved.
pub(crate) async fn caught<T>(work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|_| {
        Err(Error::new(
            Kind::Internal,
            "carry out the invocation",
            "it panicked; the log says where",
            "report it; what was saved is carried on by the sweep, and both tokens keep working",
        ))
    })
}

/// Tells how one token stands, or all.
async fn status(
    world: &World,
    settings: &Settings,
    token: Option<&TokenName>,
) -> Result<Answer, Error> {
    let standing_of = async |spec: Spec| {
        let loaded = world.records.load(&spec.token, None).await?;
        Ok(standing(&spec, loaded.record.as_ref()))
    };
    let results = match token {
        Some(token) => {
            let spec = rotate::spec(world, settings, token).await?;
            let record = world.records.load(token, None).await?.record;
            let newest = match &record {
                Some(record) => newest(world, record).await.unwrap_or_else(|error| {
                    // How the token stands matters more than how that came.
                    warn!(%token, %error, "not told how the newest version came");
                    None
                }),
                None => None,
            };
            let standing = Standing { newest, ..standing(&spec, record.as_ref()) };
            vec![Each::Done(Box::new(standing))]
        }
        None => {
            let specs = stream::iter(world.specs.all().await?);
            let each = specs.map(async |(token, text)| {
                let spec = text.and_then(|text| Spec::parse(&token, text.version, &text.json));
                let stands = match spec {
                    Ok(spec) => standing_of(spec).await,
                    Err(error) => Err(error),
                };
                Each::of(token, stands)
            });
            each.buffered(AT_ONCE).collect().await
        }
    };
    Ok(Answer::Status(Results { outcome: Outcome::Reported, results }))
}

/// How the newest version came to everybody: by the rotation in progress, else as the audit has it.
async fn newest(world: &World, record: &Record) -> Result<Option<Newest>, Error> {
    let coming = record.rotation().filter(|rotation| rotation.purpose == Purpose::Rotate);
    let newest = match coming {
        Some(_) => record.in_stage(Stage::Pending),
        None => record.in_stage(Stage::Current),
    };
    let Some(newest) = newest else { return Ok(None) };
    let (rotated_at, timeline) = match coming {
        Some(rotation) => (None, rotation.timeline.clone()),
        None => match world.records.audit(record.token(), newest.version).await? {
            Some(audit) => (audit.rotated_at, audit.timeline),
            None => (None, Vec::new()),
        },
    };
    let before = record.versions().iter().find(|version| version.version < newest.version);
    let number_before = newest.version.get().checked_sub(1).map(VersionNumber::new);
    let replaced = match (before, number_before) {
        (Some(live), _) => {
            Some(Replaced { version: live.version, not_after: live.not_after, ended_at: None })
        }
        // A number that was dropped was never anybody's: nothing is known of what was replaced then.
        (None, Some(number)) => {
            let audit = world.records.audit(record.token(), number).await?;
            audit.filter(|audit| audit.rotated_at.is_some()).map(|audit| Replaced {
                version: number,
                not_after: audit.not_after,
                ended_at: audit.ended_at,
            })
        }
        (None, None) => None,
    };
    Ok(Some(Newest {
        version: newest.version,
        created_at: newest.created_at,
        rotated_at,
        owed_since: record.owed().map(|owed| owed.since),
        timeline,
        replaced,
    }))
}

fn standing(spec: &Spec, record: Option<&Record>) -> Standing {
    let owed = record.and_then(Record::owed);
    let versions = record.map(Record::versions).unwrap_or_default();
    let publications = Side::BOTH.into_iter().flat_map(|side| {
        spec.side(side).publications.iter().map(move |publication| {
            let place = publication.place.to_string();
            let seen = record.and_then(|record| record.seen(&place));
            Published {
                side: side.as_str(),
                revision: seen.map(|seen| seen.revision),
                store_version: seen.map(|seen| seen.store_version),
                answered_at: seen.map(|seen| seen.answered_at),
                place,
            }
        })
    });
    Standing {
        token: spec.token.clone(),
        revision: record.map(Record::revision),
        versions: versions
            .iter()
            .map(|version| LiveVersion {
                version: version.version,
                stage: version.stage,
                created_at: version.created_at,
                not_after: version.not_after,
            })
            .collect(),
        rotation: record.and_then(Record::rotation).map(|rotation| rotation.id.clone()),
        leg: owed.map(|owed| owed.leg),
        step: owed.map(|owed| owed.step),
        due_at: record.and_then(Record::due_at),
        unanswered_until: record.and_then(Record::unanswered_until),
        publications: publications.collect(),
        held: record.and_then(Record::held).map(Into::into),
        drift: record.map(|record| record.drift().to_vec()).unwrap_or_default(),
        without: record.map(|record| record.without().clone()).unwrap_or_default(),
        queued: record.and_then(Record::queued).cloned(),
        imported: record.and_then(Record::imported).cloned(),
        newest: None,
    }
}

impl Report {
    /// Whether what was carried on is over, so that something else may begin.
    pub(crate) fn is_through(&self) -> bool {
        !matches!(self.outcome, Outcome::InProgress | Outcome::Held | Outcome::Deferred)
    }
}
