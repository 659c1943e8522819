//! One request for one token: load, plan, carry out the decision, and plan again if another invocation
//! saved first, until there is an answer.
//!
//! ```text
//!   load ─► plan ─┬─► start: observe, mint, seal, save ─┐
//!                 ├─► resume: take the lease, save ─────┼─► step ─► step ─► … ─► save, answer
//!                 └─► join, defer, refuse, unchanged    └─ each publish only as saved
//! ```
//!
//! A session changes nothing outside that a saved record does not name as owed. It may stop between
//! any two calls: the next session reads the record and resumes from there.

use std::{collections::BTreeSet, time::Duration};

use changeover_token::{TokenName, VersionNumber};
use jiff::Timestamp;
use tracing::info;

pub use crate::session::{Asking, Settings};
use crate::{
    admit,
    drift::{detect_drift, due_at_rest},
    ends,
    error::{Error, Kind},
    metrics::MetricPoint,
    plan::{self, Ask, Decision, Deferred, Limits, Relation},
    ports::{Ports, Saved},
    record::{KeyDigest, KeyEntry, Leg, Purpose, Record, Transition},
    report::{Outcome, Report},
    session::{Next, Session, Stop},
    spec::Spec,
    start::{Started, start},
    steps::{note_unfinished_publish, resume, resume_prerequisite},
};

/// Plans of one request, at most.
const PLANS: u32 = 20;
/// Base of the longest pause before another plan: doubled for each plan, up to [`LONGEST_PAUSE`].
const PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Reads of a lease that another invocation holds, at most, a second apart.
const LOOKS_AT_A_LEASE: usize = 60;
/// Values written by hand that may become versions before a queued rotation, at most.
const VALUES_BEFORE: usize = 3;

/// Carries out a request for one token, as far as it can.
///
/// # Errors
/// One of the contract's. What was saved stays owed, and the sweep resumes it.
pub async fn run(ports: &Ports, settings: &Settings, asking: Asking<'_>) -> Result<Report, Error> {
    let key = KeyDigest::of(asking.key);
    let key = asking.ask.is_rotate().then_some(&key);
    // Plans that were followed by another plan, and reads of a lease that another invocation held.
    let (mut plans, mut looks) = (0, 0);
    while plans < PLANS {
        match attempt(ports, settings, &asking, key, looks < LOOKS_AT_A_LEASE).await {
            Ok(Next::Answer(report)) => {
                info!(
                    token = %report.token,
                    version = report.version.map(VersionNumber::get),
                    rotation = report.rotation.as_ref().map(tracing::field::display),
                    outcome = ?report.outcome,
                    "answer"
                );
                return Ok(*report);
            }
            Ok(Next::PlanAgain) => plans += 1,
            Ok(Next::LookAgain { at }) => {
                looks += 1;
                ports.clock.sleep_until(at).await;
            }
            Err(Stop::Overtaken) => {
                // The second plan follows at once, even for a caller that does not wait. Later ones pause,
                // so that many callers spread out.
                if plans > 0 {
                    if ports.clock.now() >= asking.stop_at {
                        break;
                    }
                    let doubled = PAUSE.saturating_mul(1 << plans.min(16));
                    let pause = ports.random_pause(doubled.min(LONGEST_PAUSE))?;
                    tokio::time::sleep(pause).await;
                }
                plans += 1;
            }
            Err(Stop::Failed(error)) => return Err(error),
        }
    }
    info!(token = %asking.token, plans, "others were first each time");
    if asking.ask.is_rotate() {
        return Err(unsaved(asking.token, "other invocations saved its record first each time"));
    }
    Ok(Report {
        not_before: Some(ports.clock.now() + LONGEST_PAUSE),
        warnings: vec![Deferred::Contended.to_string()],
        ..Report::bare(Outcome::Deferred, asking.token)
    })
}

/// Reads what is stored, plans from it, and carries the decision out. If another invocation holds the lease,
/// `may_look` decides between another look at it and an answer.
async fn attempt(
    ports: &Ports,
    settings: &Settings,
    asking: &Asking<'_>,
    key: Option<&KeyDigest>,
    may_look: bool,
) -> Result<Next, Stop> {
    let loaded = ports.records.load(asking.token, key).await?;
    // Read after the record: the invocation that saved the record worked from this spec or from an earlier
    // one, and a later save of that invocation would overtake this one.
    let record = loaded.record.as_ref();
    let read = admit::read(ports, settings, asking.token, record).await;
    let mut spec = or_ends(read, ports, settings, asking, record).await?;
    let now = ports.clock.now();
    let decision = plan::plan(asking.ask, &loaded, Limits::of(&spec), now);
    let decision = plan::leaving_out(decision, asking.without, &loaded, now);
    if decision.needs_spec() {
        let admitted = admit::admit(ports, &mut spec, record, asking.without).await;
        or_ends(admitted, ports, settings, asking, record).await?;
    }
    if !matches!(decision, Decision::Ended(_)) {
        check_known(&spec, asking.without)?;
    }
    info!(token = %asking.token, action = ?asking.ask, decision = decision.name(), "plan");
    match decision {
        Decision::Ended(entry) => return Ok(Next::answer(ended(ports, &spec, &entry).await?)),
        Decision::Defer { until, because: Deferred::Leased }
            if may_look && now < asking.stop_at =>
        {
            // The holder usually releases it within a second or two, long before it expires.
            let again = now + Duration::from_secs(1);
            return Ok(Next::LookAgain { at: again.min(until).min(asking.stop_at) });
        }
        _ => {}
    }
    // A key that is saved already is not saved again.
    let key = key.filter(|_| loaded.key.is_none());
    let mut session = Session::new(ports, settings, &spec, asking, loaded, key)?;
    let done = execute(&mut session, decision).await;
    // An attempt that is followed by another one is measured by the last.
    let is_last = matches!(done, Ok(Next::Answer(_)) | Err(Stop::Failed(_)));
    if let Some(record) = session.stored().filter(|_| is_last) {
        ports.metrics_sink.write(&MetricPoint::of_token(ports.clock.now(), record));
    }
    done
}

/// Carries out a decision.
async fn execute(session: &mut Session<'_>, decision: Decision) -> Result<Next, Stop> {
    let report = match decision {
        Decision::Start(purpose) => match start(session, purpose).await? {
            Started::Requested => resume(session).await?,
            Started::Prerequisite => return resume_prerequisite(session).await,
            Started::NoOp(report) => *report,
        },
        Decision::Resume(relation) => return resume_as(session, relation).await,
        Decision::Join(relation) => join(session, relation).await?,
        Decision::Drop => drop_pending(session).await?,
        Decision::TakeBack => take_back(session).await?,
        Decision::DetectDrift => return detect_drift(session).await,
        Decision::Defer { until, because } => defer(session, until, because).await?,
        Decision::Nothing | Decision::Forget => session.report(Outcome::NothingOwed),
        Decision::Ended(_) => unreachable!("it is answered without a session"),
        Decision::Refuse { because, fix } => {
            let attempted = "drop the pending version of";
            let error = Error::new(Kind::PreflightFailed, attempted, because, fix);
            return Err(Stop::Failed(error.on(session.asking().token)));
        }
    };
    Ok(Next::answer(report))
}

/// Returns what was read. If a sweep's token has no spec that can be used, the ends of its versions are
/// resumed before the error is returned.
async fn or_ends<T>(
    read: Result<T, Error>,
    ports: &Ports,
    settings: &Settings,
    asking: &Asking<'_>,
    record: Option<&Record>,
) -> Result<T, Error> {
    if let (Err(error), Some(record), Ask::Resume) = (&read, record, asking.ask) {
        ends::without_spec(ports, settings, asking, record, error.kind).await?;
    }
    read
}

/// Refuses to leave out a cluster that the spec does not name. Its name may be misspelt, and then the
/// rotation would wait for the wrong cluster.
fn check_known(spec: &Spec, without: &BTreeSet<String>) -> Result<(), Error> {
    let known = spec.clusters();
    let Some(unknown) = without.iter().find(|cluster| !known.contains(*cluster)) else {
        return Ok(());
    };
    let known: Vec<_> = known.iter().map(String::as_str).collect();
    let fix = if known.is_empty() {
        "leave `without` out: the spec names no workload".to_owned()
    } else {
        format!("name clusters of the spec: {}", known.join(", "))
    };
    let because = format!("no workload of its spec is in cluster \"{unknown}\"");
    Err(Error::new(Kind::BadEvent, "leave a cluster out of", because, fix).on(&spec.token))
}

/// Reports the end of a key's rotation: presenters were brought to its version, or it was given up.
async fn ended(ports: &Ports, spec: &Spec, entry: &KeyEntry) -> Result<Report, Error> {
    let token = &spec.token;
    let mut version = entry.version;
    let mut audit = ports.records.audit(token, version).await?;
    // A queued rotation has a later number than was foreseen if values that were written by hand became
    // versions first.
    for _ in 0..VALUES_BEFORE {
        if audit.as_ref().is_none_or(|audit| audit.rotation == entry.rotation) {
            break;
        }
        version = version.next();
        audit = ports.records.audit(token, version).await?;
    }
    let audit = audit.filter(|audit| audit.rotation == entry.rotation);
    let rotation = Some(entry.rotation.clone());
    match audit {
        Some(audit) if audit.rotated_at.is_some() => Ok(Report {
            version: Some(version),
            rotation,
            selectors: audit.selectors,
            timeline: audit.timeline,
            ..Report::bare(Outcome::Unchanged, token)
        }),
        // The rotation waited for what had arrived by then, and nothing had.
        None if spec.inbox().is_some() => {
            Ok(Report { rotation, ..Report::bare(Outcome::Unchanged, token) })
        }
        audit => Ok(Report {
            version: audit.map(|audit| audit.version),
            rotation,
            warnings: vec![
                "the rotation of this key was given up by `drop`; rotate with another key"
                    .to_owned(),
            ],
            ..Report::bare(Outcome::Dropped, token)
        }),
    }
}

/// Error for a requested rotation that is not saved anywhere. An asynchronous invocation is tried again.
fn unsaved(token: &TokenName, because: &str) -> Error {
    let fix = "nothing of this request was saved, and what is in progress continues: ask again";
    Error::new(Kind::Throttled, "begin a rotation of", because, fix).on(token)
}

/// Resumes what has this relation to the request.
async fn resume_as(session: &mut Session<'_>, relation: Relation) -> Result<Next, Stop> {
    match relation {
        Relation::Joined => session.join_rotation(),
        Relation::BeforeQueued => queue(session)?,
        Relation::Same | Relation::Before => {}
    }
    session.exclude_clusters(session.asking().without)?;
    match relation {
        Relation::Same | Relation::Joined => Ok(Next::answer(resume(session).await?)),
        Relation::Before | Relation::BeforeQueued => resume_prerequisite(session).await,
    }
}

/// Makes a rotation that cannot begin yet begin by itself once it can, even if it is not requested again.
///
/// # Errors
/// `Throttled` if that cannot be saved, because another invocation holds the lease.
async fn defer(
    session: &mut Session<'_>,
    until: Timestamp,
    because: Deferred,
) -> Result<Report, Stop> {
    // Only a rotation has a key, and one whose key is saved is waited for already.
    let is_unsaved = session.key().is_some();
    match because {
        Deferred::Leased | Deferred::Contended if is_unsaved => {
            let because = "another invocation is writing and holds the lease";
            return Err(Stop::Failed(unsaved(session.asking().token, because)));
        }
        Deferred::Leased | Deferred::Contended => {}
        // Every sweep looks for arrivals in an inbox anyway.
        Deferred::Full | Deferred::Unanswered if is_unsaved && session.spec().inbox().is_none() => {
            queue(session)?;
            // Never later than anything else that is due.
            let due_at = session.record().due_at().map_or(until, |due_at| due_at.min(until));
            session.release(due_at).await?;
        }
        Deferred::Full | Deferred::Unanswered if session.asking().ask == Ask::Resume => {
            leave_until(session, until).await?;
        }
        Deferred::Full | Deferred::Unanswered => {}
    }
    Ok(session.deferred(until, because))
}

/// Postpones a token that waits for this time until then, or until something else is due, so that the sweep
/// leaves it alone.
async fn leave_until(session: &Session<'_>, until: Timestamp) -> Result<(), Stop> {
    let record = session.record();
    let others = [Some(record.compare_at()), record.next_end()].into_iter().flatten();
    let next = others.filter(|time| *time > session.now()).fold(until, Timestamp::min);
    match session.ports().records.heartbeat(record.token(), record.fence(), next).await? {
        Saved::Saved => Ok(()),
        Saved::Overtaken => Err(Stop::Overtaken),
    }
}

/// Queues a rotation behind what it waits for. The next save keeps it, with the trigger's key.
fn queue(session: &mut Session<'_>) -> Result<(), Stop> {
    let queued = session.follow(session.record().next_version())?;
    session.apply(Transition::Queue(Some(queued)))
}

async fn join(session: &mut Session<'_>, relation: Relation) -> Result<Report, Stop> {
    if let (Relation::Joined, Some(key), Some(rotation)) =
        (relation, session.key(), session.record().rotation())
    {
        let entry = session.key_entry(rotation);
        let (token, fence) = (session.record().token(), session.record().fence());
        if session.ports().records.join(token, fence, key, &entry).await? == Saved::Overtaken {
            return Err(Stop::Overtaken);
        }
    }
    if let Some(owed) = session.record().owed() {
        session.work_on(owed);
    }
    let outcome = match session.record().held() {
        Some(_) => Outcome::Held,
        None => Outcome::InProgress,
    };
    Ok(session.report(outcome))
}

async fn drop_pending(session: &mut Session<'_>) -> Result<Report, Stop> {
    session.lease(Leg::Expand)?;
    if let Some(until) = session.record().unanswered_until().filter(|until| *until > session.now())
    {
        session.release(until).await?;
        return Ok(session.deferred(until, Deferred::Unanswered));
    }
    let (rotation, version) = session.subject().cloned().unzip();
    session.apply(Transition::Drop)?;
    if session.record().queued().is_some() {
        session.apply(Transition::Queue(None))?;
        session.warn("the rotation that was to follow is taken back too".to_owned());
    }
    session.save().await?;
    let report = Report { rotation, version, ..resume(session).await? };
    Ok(match report.outcome {
        Outcome::Held | Outcome::InProgress => report,
        _ => Report { outcome: Outcome::Dropped, ..report },
    })
}

/// Takes back the rotation that waits. What is owed does not change.
async fn take_back(session: &mut Session<'_>) -> Result<Report, Stop> {
    let rotation = session.record().queued().map(|queued| queued.rotation.clone());
    note_unfinished_publish(session)?;
    session.apply(Transition::Queue(None))?;
    if let Some(rotation) = session.record().rotation().filter(|it| it.purpose == Purpose::Rotate) {
        let version = rotation.version;
        session.warn(format!("version {version} continues: presenters may have it already"));
    }
    let due_at = if plan::is_at_rest(session.record()) {
        due_at_rest(session)
    } else {
        // This save overtakes an invocation that was watching, so what it watched is due at once.
        session.now()
    };
    session.release(due_at).await?;
    Ok(Report { rotation, version: None, ..session.report(Outcome::Dropped) })
}
