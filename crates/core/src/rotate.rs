//! One invocation's turn at one token: load, plan, do what is planned, and plan again where somebody
//! else was first, until there is an answer.
//!
//! ```text
//!   load ─► plan ─┬─► begin: look, mint, seal, save ─┐
//!                 ├─► lease: take it, save ──────────┼─► step ─► step ─► … ─► save, answer
//!                 └─► join, defer, refuse, unchanged └─ each publish only as saved
//! ```
//!
//! A turn changes nothing outside that a saved record does not name as owed. It may stop between
//! any two calls: the next turn reads the record and carries on from there.

use std::{collections::BTreeSet, time::Duration};

use changeover_token::{TokenName, VersionNumber};
use jiff::Timestamp;
use tracing::info;

pub use crate::turn::{Asking, Settings};
use crate::{
    admit,
    begin::Begun,
    ends,
    error::{Error, Kind},
    metrics::Measurement,
    plan::{self, Ask, Deferred, Move, Relation, Terms},
    ports::{Saved, World},
    record::{Change, KeyDigest, KeyEntry, Leg, Purpose, Record},
    report::{Outcome, Report},
    spec::Spec,
    turn::{Stop, Turn},
};

/// How often a turn plans again because somebody else was first.
const PLANS: u32 = 20;
/// How long it pauses at most before it plans again: doubled each time, up to the longest.
const PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How often a turn looks again whether somebody else has let the lease go, a second apart.
const LOOKS_AT_A_LEASE: usize = 60;
/// How many values of somebody's own are believed to have come before a rotation that was queued.
const VALUES_BEFORE: usize = 3;

/// Does what is asked, as far as it comes.
///
/// # Errors
/// One of the contract's. What was saved stays owed, and is carried on by the sweep.
pub async fn run(world: &World, settings: &Settings, asking: Asking<'_>) -> Result<Report, Error> {
    let key = KeyDigest::of(asking.key);
    let key = asking.ask.is_rotate().then_some(&key);
    let mut looks = 0;
    let mut plans = 0;
    while plans < PLANS {
        let loaded = world.records.load(asking.token, key).await?;
        // Read after the record: whoever saved it worked from this spec or from an earlier one, and
        // a later save of theirs would overtake ours.
        let record = loaded.record.as_ref();
        let read = admit::read(world, settings, asking.token, record).await;
        let mut spec = or_ends(read, world, settings, &asking, record).await?;
        let now = world.clock.now();
        let decision = plan::plan(asking.ask, &loaded, Terms::of(&spec), now);
        let decision = plan::leaving_out(decision, asking.without, &loaded, now);
        if decision.needs_spec() {
            let admitted = admit::admit(world, &mut spec, record, asking.without).await;
            or_ends(admitted, world, settings, &asking, record).await?;
        }
        if !matches!(decision, Move::Ended(_)) {
            check_known(&spec, asking.without)?;
        }
        info!(token = %asking.token, action = ?asking.ask, decision = decision.name(), "plan");
        // A key that is saved already is not saved again.
        let key = key.filter(|_| loaded.key.is_none());
        let last_version = loaded.last_version;
        let mut turn = Turn::new(world, settings, &spec, &asking, loaded.record, key)?;
        turn.record = turn.record.numbered_after(last_version);
        let done = match decision {
            Move::Begin(purpose) => match turn.begin(purpose).await {
                Ok(Begun::Asked) => turn.carry_on().await,
                Ok(Begun::Before) => turn.carry_on_first().await,
                Ok(Begun::Nothing(report)) => Ok(*report),
                Err(stop) => Err(stop),
            },
            Move::CarryOn(relation) => turn.carry_on_as(relation).await,
            Move::Join(relation) => turn.join(relation).await,
            Move::Drop => turn.drop_pending().await,
            Move::TakeBack => turn.take_back().await,
            Move::Compare => turn.compare().await,
            Move::Defer { until, because: Deferred::Leased }
                if looks < LOOKS_AT_A_LEASE && now < asking.stop_at =>
            {
                // Whoever is at it usually lets go within a second or two, long before the lease
                // itself runs out.
                looks += 1;
                let again = now + Duration::from_secs(1);
                world.clock.sleep_until(again.min(until).min(asking.stop_at)).await;
                continue;
            }
            Move::Defer { until, because } => turn.defer(until, because).await,
            Move::Ended(entry) => return ended(world, &spec, &entry).await,
            Move::Nothing | Move::Forget => Ok(turn.report(Outcome::NothingOwed)),
            Move::Refuse { because, fix } => Err(Stop::Failed(
                Error::new(Kind::PreflightFailed, "drop the pending version of", because, fix)
                    .on(asking.token),
            )),
        };
        if let (Some(record), false) = (&turn.stored, matches!(done, Err(Stop::Overtaken))) {
            world.meter.write(&Measurement::of_token(world.clock.now(), record));
        }
        match done {
            Ok(report) => {
                info!(
                    token = %report.token,
                    version = report.version.map(VersionNumber::get),
                    rotation = report.rotation.as_ref().map(tracing::field::display),
                    outcome = ?report.outcome,
                    "answer"
                );
                return Ok(report);
            }
            Err(Stop::Overtaken) => {
                // The first time at once, also for who does not wait; a crowd spreads out.
                if plans > 0 {
                    if world.clock.now() >= asking.stop_at {
                        break;
                    }
                    let longest = PAUSE.saturating_mul(1 << plans.min(16)).min(LONGEST_PAUSE);
                    tokio::time::sleep(world.random_pause(longest)?).await;
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
        not_before: Some(world.clock.now() + LONGEST_PAUSE),
        warnings: vec![Deferred::Contended.to_string()],
        ..Report::bare(Outcome::Deferred, asking.token)
    })
}

/// What was read; or, if a sweep's token has no spec that can be used, its ends are carried on before the
/// error is handed on.
async fn or_ends<T>(
    read: Result<T, Error>,
    world: &World,
    settings: &Settings,
    asking: &Asking<'_>,
    record: Option<&Record>,
) -> Result<T, Error> {
    if let (Err(error), Some(record), Ask::Resume) = (&read, record, asking.ask) {
        ends::without_spec(world, settings, asking, record, error.kind).await?;
    }
    read
}

/// A cluster that nobody knows may be one that is misspelt: then the wrong thing would be waited for.
fn check_known(spec: &Spec, without: &BTreeSet<String>) -> Result<(), Error> {
    let known = spec.clusters();
    let Some(unknown) = without.iter().find(|cluster| !known.contains(*cluster)) else {
        return Ok(());
    };
    let known: Vec<_> = known.iter().map(String::as_str).collect();
    let fix = match known.is_empty() {
        true => "leave `without` out: the spec names no workload".to_owned(),
        false => format!("name clusters of the spec: {}", known.join(", ")),
    };
    let because = format!("no workload of its spec is in cluster \"{unknown}\"");
    Err(Error::new(Kind::BadEvent, "leave a cluster out of", because, fix).on(&spec.token))
}

/// How the rotation of a key ended: presenters were brought to its version, or it was given up.
async fn ended(world: &World, spec: &Spec, entry: &KeyEntry) -> Result<Report, Error> {
    let token = &spec.token;
    let mut version = entry.version;
    let mut audit = world.records.audit(token, version).await?;
    // A rotation that was queued has a later number than was foreseen if values that were written by hand
    // came first.
    for _ in 0..VALUES_BEFORE {
        if audit.as_ref().is_none_or(|audit| audit.rotation == entry.rotation) {
            break;
        }
        version = version.next();
        audit = world.records.audit(token, version).await?;
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
        // It waited for what had arrived by then, and nothing had.
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

/// Why a rotation that was asked for is kept nowhere. An asynchronous invocation is tried again.
fn unsaved(token: &TokenName, because: &str) -> Error {
    let fix = "nothing of this request was saved, and what is in progress continues: ask again";
    Error::new(Kind::Throttled, "begin a rotation of", because, fix).on(token)
}

impl Turn<'_> {
    /// Carries on what stands in this relation to what is asked.
    async fn carry_on_as(&mut self, relation: Relation) -> Result<Report, Stop> {
        match relation {
            Relation::Joined => self.joins = self.record.rotation().map(|it| self.key_entry(it)),
            Relation::BeforeQueued => self.queue()?,
            Relation::Same | Relation::Before => {}
        }
        self.leave_out(self.asking.without)?;
        match relation {
            Relation::Same | Relation::Joined => self.carry_on().await,
            Relation::Before | Relation::BeforeQueued => self.carry_on_first().await,
        }
    }

    /// Has a rotation that cannot begin yet begin by itself once it can, whether or not anybody asks again.
    ///
    /// # Errors
    /// `Throttled` if that cannot be saved, because another invocation holds the lease.
    async fn defer(&mut self, until: Timestamp, because: Deferred) -> Result<Report, Stop> {
        // Only a rotation has a key, and one that is saved is waited for already.
        let is_unsaved = self.key.is_some();
        match because {
            Deferred::Leased | Deferred::Contended if is_unsaved => {
                let because = "another invocation is writing and holds the lease";
                return Err(Stop::Failed(unsaved(self.asking.token, because)));
            }
            Deferred::Leased | Deferred::Contended => {}
            // What arrives in an inbox is looked for anyway.
            Deferred::Full | Deferred::Unanswered if is_unsaved && self.spec.inbox().is_none() => {
                self.queue()?;
                // Never later than what else is due.
                let due_at = self.record.due_at().map_or(until, |due_at| due_at.min(until));
                self.release(due_at).await?;
            }
            Deferred::Full | Deferred::Unanswered if self.asking.ask == Ask::Resume => {
                self.leave_until(until).await?;
            }
            Deferred::Full | Deferred::Unanswered => {}
        }
        Ok(self.deferred(until, because))
    }

    /// Has the sweep leave a token that waits for this time alone until then, or until something else is
    /// due.
    async fn leave_until(&self, until: Timestamp) -> Result<(), Stop> {
        let record = &self.record;
        let others = [Some(record.compare_at()), record.next_end()].into_iter().flatten();
        let next = others.filter(|time| *time > self.now()).fold(until, Timestamp::min);
        match self.world.records.postpone(record.token(), record.fence(), next).await? {
            Saved::Saved => Ok(()),
            Saved::Overtaken => Err(Stop::Overtaken),
        }
    }

    /// Has a rotation follow what it waits for; the next save keeps it, with the trigger's key.
    fn queue(&mut self) -> Result<(), Stop> {
        let queued = self.follow(self.record.next_version())?;
        self.apply(Change::Queue(Some(queued)))
    }

    async fn join(&mut self, relation: Relation) -> Result<Report, Stop> {
        if let (Relation::Joined, Some(key), Some(rotation)) =
            (relation, self.key, self.record.rotation())
        {
            let entry = self.key_entry(rotation);
            let (token, fence) = (self.record.token(), self.record.fence());
            if self.world.records.join(token, fence, key, &entry).await? == Saved::Overtaken {
                return Err(Stop::Overtaken);
            }
        }
        self.last = self.record.owed();
        let outcome = match self.record.held() {
            Some(_) => Outcome::Held,
            None => Outcome::InProgress,
        };
        Ok(self.report(outcome))
    }

    async fn drop_pending(&mut self) -> Result<Report, Stop> {
        self.lease(Leg::Expand)?;
        if let Some(until) = self.record.unanswered_until().filter(|until| *until > self.now()) {
            self.release(until).await?;
            return Ok(self.deferred(until, Deferred::Unanswered));
        }
        let (rotation, version) = self.subject.clone().unzip();
        self.apply(Change::Drop)?;
        if self.record.queued().is_some() {
            self.apply(Change::Queue(None))?;
            self.warnings.push("the rotation that was to follow is taken back too".to_owned());
        }
        self.save().await?;
        let report = Report { rotation, version, ..self.carry_on().await? };
        Ok(match report.outcome {
            Outcome::Held | Outcome::InProgress => report,
            _ => Report { outcome: Outcome::Dropped, ..report },
        })
    }

    /// Gives up the rotation that waits. What is owed is not changed by it.
    async fn take_back(&mut self) -> Result<Report, Stop> {
        let rotation = self.record.queued().map(|queued| queued.rotation.clone());
        self.note_unfinished()?;
        self.apply(Change::Queue(None))?;
        if let Some(rotation) = self.record.rotation().filter(|it| it.purpose == Purpose::Rotate) {
            let version = rotation.version;
            self.warnings
                .push(format!("version {version} continues: presenters may have it already"));
        }
        let due_at = match plan::is_at_rest(&self.record) {
            true => self.next_look(),
            // An invocation that watched is overtaken by this save.
            false => self.now(),
        };
        self.release(due_at).await?;
        Ok(Report { rotation, version: None, ..self.report(Outcome::Dropped) })
    }
}
