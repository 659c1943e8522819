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

use jiff::Timestamp;
use tracing::info;

pub use crate::turn::{Asking, Settings};
use crate::{
    begin::Begun,
    ends,
    error::{Error, Kind},
    metrics::Measurement,
    plan::{self, Ask, Deferred, Move, Relation, Terms},
    record::{Change, KeyDigest, Leg},
    report::{Outcome, Report},
    spec::{Side, Spec},
    token::{TokenName, VersionNumber},
    turn::{Stop, Turn},
    world::{KeyEntry, Saved, World},
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
        let spec = match (spec(world, settings, asking.token).await, &loaded.record) {
            (Err(error), Some(record)) if asking.ask == Ask::Resume => {
                ends::without_spec(world, settings, &asking, record, error.kind).await?;
                return Err(error);
            }
            (spec, _) => spec?,
        };
        let now = world.clock.now();
        let decision = plan::plan(asking.ask, &loaded, Terms::of(&spec), now);
        let decision = plan::leaving_out(decision, asking.without, &loaded, now);
        if !matches!(decision, Move::Unchanged(_)) {
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
            Move::Compare => turn.compare().await,
            Move::Defer { until, because: Deferred::Leased | Deferred::Occupied }
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
            Move::Unchanged(entry) => return unchanged(world, asking.token, &entry).await,
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
    Ok(Report {
        not_before: Some(world.clock.now() + LONGEST_PAUSE),
        warnings: vec![Deferred::Contended.to_string()],
        ..Report::bare(Outcome::Deferred, asking.token)
    })
}

/// A cluster that nobody knows may be one that is misspelt: then the wrong thing would be waited for.
fn check_known(spec: &Spec, without: &BTreeSet<String>) -> Result<(), Error> {
    let workloads = Side::BOTH.iter().flat_map(|side| &spec.side(*side).workloads);
    let known: BTreeSet<_> = workloads.map(|workload| &workload.cluster).collect();
    let Some(unknown) = without.iter().find(|cluster| !known.contains(cluster)) else {
        return Ok(());
    };
    let known: Vec<_> = known.into_iter().map(String::as_str).collect();
    let fix = match known.is_empty() {
        true => "leave `without` out: the spec names no workload".to_owned(),
        false => format!("name clusters of the spec: {}", known.join(", ")),
    };
    let because = format!("no workload of its spec is in cluster \"{unknown}\"");
    Err(Error::new(Kind::BadEvent, "leave a cluster out of", because, fix).on(&spec.token))
}

/// Reads and parses the spec of a token.
///
/// # Errors
/// `UnknownToken` where there is none, `BadSpec` where it says what cannot be carried out.
pub async fn spec(world: &World, settings: &Settings, token: &TokenName) -> Result<Spec, Error> {
    let text = world.specs.spec(token).await?.ok_or_else(|| {
        Error::new(
            Kind::UnknownToken,
            "find the spec of",
            "no parameter under the path of specs bears its name",
            "create the parameter, or correct the name in the event",
        )
        .on(token)
    })?;
    let spec = Spec::parse(token, text.version, &text.json)?;
    spec.check_reserved(&settings.reserved)?;
    Ok(spec)
}

async fn unchanged(world: &World, token: &TokenName, entry: &KeyEntry) -> Result<Report, Error> {
    let mut version = entry.version;
    let mut audit = world.records.audit(token, version).await?;
    // A rotation that was queued has a later number than was foreseen where somebody's own values came
    // first.
    for _ in 0..VALUES_BEFORE {
        if audit.as_ref().is_none_or(|audit| audit.rotation == entry.rotation) {
            break;
        }
        version = version.next();
        audit = world.records.audit(token, version).await?;
    }
    Ok(Report {
        version: Some(version),
        rotation: Some(entry.rotation.clone()),
        selectors: audit.as_ref().map(|audit| audit.selectors.clone()).unwrap_or_default(),
        timeline: audit.map(|audit| audit.timeline).unwrap_or_default(),
        ..Report::bare(Outcome::Unchanged, token)
    })
}

impl Turn<'_> {
    /// Carries on what stands in this relation to what is asked.
    async fn carry_on_as(&mut self, relation: Relation) -> Result<Report, Stop> {
        match relation {
            Relation::Joined => self.joins = self.record.rotation().map(|it| self.key_entry(it)),
            Relation::BeforeQueued => self.queue()?,
            Relation::Same | Relation::Before => {}
        }
        self.leave_out()?;
        match relation {
            Relation::Same | Relation::Joined => self.carry_on().await,
            Relation::Before | Relation::BeforeQueued => self.carry_on_first().await,
        }
    }

    /// Has a rotation that cannot begin yet begin by itself once it can, whether or not anybody asks again.
    async fn defer(&mut self, until: Timestamp, because: Deferred) -> Result<Report, Stop> {
        // Where others are writing, it is theirs to save.
        let passes_by_itself = matches!(because, Deferred::Full | Deferred::Unanswered);
        // Only a rotation has a key, and one that is saved is waited for already; what arrives in an
        // inbox is looked for anyway.
        if passes_by_itself && self.key.is_some() && self.spec.inbox().is_none() {
            self.queue()?;
            self.release(until).await?;
        } else if passes_by_itself && self.asking.ask == Ask::Resume {
            self.leave_until(until).await?;
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
        let id = self.follow(self.record.next_version())?;
        self.apply(Change::Queue(Some(id)))
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
        self.save().await?;
        let report = Report { rotation, version, ..self.carry_on().await? };
        Ok(match report.outcome {
            Outcome::Held | Outcome::InProgress => report,
            _ => Report { outcome: Outcome::Dropped, ..report },
        })
    }
}
