//! One invocation's turn at one token: carry out what is owed, save, until it is done, under way,
//! held, overtaken or out of time.
//!
//! ```text
//!   load ─► plan ─┬─► begin: look, mint, seal, save ─┐
//!                 ├─► lease: take it, save ──────────┼─► step ─► step ─► … ─► save, answer
//!                 └─► join, defer, refuse, unchanged └─ each publish only as saved
//! ```
//!
//! A turn changes nothing outside that a saved record does not name as owed. It may stop between
//! any two calls: the next turn reads the record and carries on from there.

use std::{collections::BTreeMap, future::Future, pin::pin, time::Duration};

use jiff::Timestamp;
use tracing::{info, warn};

use crate::{
    error::{Error, Kind},
    plan::{self, Ask, Deferred, Move},
    record::{
        Change, Entry, Held, Illegal, KeyDigest, Lease, Leg, Owed, Purpose, Record, RotationId,
        Stage, Step, WATCH,
    },
    report::{Outcome, Report},
    spec::{Place, Reserved, Side, Spec},
    token::{Secret, TokenName, VersionNumber},
    world::{Audit, Holding, KeyEntry, Save, Saved, World},
};

/// How often a turn plans again because somebody else was first.
const PLANS: usize = 10;
/// How often a turn looks again whether somebody else has let the lease go, a second apart.
const LOOKS_AT_A_LEASE: usize = 60;
/// How long the key of a trigger is remembered.
const KEY_LIFETIME: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// What the environment decides.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long a lease lasts.
    pub lease: Duration,
    /// How long a write whose reply was lost may still land.
    pub late_write: Duration,
    /// Where no token may be published.
    pub reserved: Reserved,
}

/// One asking for one token.
#[derive(Clone, Debug)]
pub struct Asking<'a> {
    /// What is asked.
    pub ask: Ask,
    /// Of which token.
    pub token: &'a TokenName,
    /// The trigger's idempotency key.
    pub key: &'a str,
    /// No step begins after this.
    pub stop_at: Timestamp,
}

/// Does what is asked, as far as it comes.
///
/// # Errors
/// One of the contract's. What was saved stays owed, and is carried on by the sweep.
pub async fn run(world: &World, settings: &Settings, asking: Asking<'_>) -> Result<Report, Error> {
    let key = KeyDigest::of(asking.key);
    let key = (asking.ask == Ask::Rotate).then_some(&key);
    let mut looks = 0;
    let mut plans = 0;
    while plans < PLANS {
        let loaded = world.records.load(asking.token, key).await?;
        // Read after the record: whoever saved it worked from this spec or from an earlier one, and
        // a later save of theirs would overtake ours.
        let spec = spec(world, settings, asking.token).await?;
        let now = world.clock.now();
        let decision = plan::plan(asking.ask, &loaded, spec.accepted_depth(), now);
        info!(token = %asking.token, action = ?asking.ask, decision = decision.name(), "plan");
        let entry = loaded.key.clone();
        let mut turn = Turn::new(world, settings, &spec, &asking, loaded.record, key)?;
        let done = match decision {
            Move::Begin(purpose) => match turn.begin(purpose).await {
                Ok(()) => turn.carry_on().await,
                Err(stop) => Err(stop),
            },
            Move::CarryOn { joins } => {
                turn.joins = joins;
                // What is in the way of what is asked is carried on first, and then that begins.
                let purpose = turn.record.rotation().map(|rotation| rotation.purpose);
                let in_the_way = match asking.ask {
                    Ask::Rotate => !joins && entry.is_none(),
                    Ask::Publish => purpose != Some(Purpose::Publish),
                    Ask::Drop | Ask::Resume => false,
                };
                match turn.carry_on().await {
                    Ok(report) if in_the_way && report.is_through() => Err(Stop::Overtaken),
                    ended => ended,
                }
            }
            Move::Join { joins } => turn.join(joins).await,
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
            Move::Defer { until, because } => Ok(turn.deferred(until, because)),
            Move::Unchanged(entry) => return unchanged(world, asking.token, &entry).await,
            Move::Nothing => Ok(turn.report(Outcome::NothingOwed)),
            Move::Refuse { because, fix } => Err(Stop::Failed(
                Error::new(Kind::PreflightFailed, "drop the pending version of", because, fix)
                    .on(asking.token),
            )),
        };
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
            Err(Stop::Overtaken) => plans += 1,
            Err(Stop::Failed(error)) => return Err(error),
        }
    }
    Err(Error::new(
        Kind::Internal,
        "take a turn at",
        format!("somebody else was first {PLANS} times in a row"),
        "invoke it again; the rotation goes on meanwhile",
    )
    .on(asking.token))
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
    let audit = world.records.audit(token, entry.version).await?;
    Ok(Report {
        version: Some(entry.version),
        rotation: Some(entry.rotation.clone()),
        selectors: audit.as_ref().map(|audit| audit.selectors.clone()).unwrap_or_default(),
        timeline: audit.map(|audit| audit.timeline).unwrap_or_default(),
        ..Report::bare(Outcome::Unchanged, token)
    })
}

/// Why a turn ends before it has an answer.
pub(crate) enum Stop {
    /// The record moved on under it: plan again.
    Overtaken,
    /// It failed.
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Stop::Failed(error)
    }
}

impl From<Illegal> for Stop {
    fn from(illegal: Illegal) -> Self {
        Stop::Failed(Error::new(
            Kind::Internal,
            "change the record",
            illegal.to_string(),
            "report it; the record is as it was, and the token keeps working",
        ))
    }
}

/// One invocation's turn at one token.
pub(crate) struct Turn<'a> {
    pub(crate) world: &'a World,
    pub(crate) settings: &'a Settings,
    pub(crate) spec: &'a Spec,
    pub(crate) asking: &'a Asking<'a>,
    pub(crate) key: Option<&'a KeyDigest>,
    /// Random, not the request id: Lambda's retries keep that one, and are somebody else.
    pub(crate) holder: String,
    /// As the store has it; `None` where it has none.
    pub(crate) stored: Option<Record>,
    /// As it is to be saved next.
    pub(crate) record: Record,
    /// Whether the next save adds the trigger's key.
    pub(crate) joins: bool,
    /// Values that were minted or opened on this turn.
    pub(crate) values: BTreeMap<VersionNumber, Secret>,
    /// What the presented publications held when this turn looked.
    pub(crate) found: BTreeMap<Place, Holding>,
    pub(crate) warnings: Vec<String>,
    timeline: Vec<Entry>,
    last: Option<Owed>,
    subject: Option<(RotationId, VersionNumber)>,
}

impl<'a> Turn<'a> {
    fn new(
        world: &'a World,
        settings: &'a Settings,
        spec: &'a Spec,
        asking: &'a Asking<'a>,
        stored: Option<Record>,
        key: Option<&'a KeyDigest>,
    ) -> Result<Self, Error> {
        let record = match &stored {
            Some(record) => record.clone(),
            None => Record::new(asking.token.clone(), 0, world.clock.now()),
        };
        let mut turn = Self {
            world,
            settings,
            spec,
            asking,
            key,
            holder: world.random_name()?,
            stored,
            record,
            joins: false,
            values: BTreeMap::new(),
            found: BTreeMap::new(),
            warnings: Vec::new(),
            timeline: Vec::new(),
            last: None,
            subject: None,
        };
        if spec.verifiers.is_empty() {
            turn.warnings.push(
                "the spec names no verifiers: nobody is told of the new version before it is \
                 presented"
                    .to_owned(),
            );
        }
        turn.remember_subject();
        Ok(turn)
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.world.clock.now()
    }

    /// Carries out what is owed until there is an answer.
    pub(crate) async fn carry_on(&mut self) -> Result<Report, Stop> {
        if self.record.spec_version() != self.spec.version {
            self.apply(Change::Respecify(self.spec.version))?;
        }
        while let Some(owed) = self.record.owed() {
            self.last = Some(owed);
            if self.now() >= self.asking.stop_at {
                return self.give_way().await;
            }
            let carried_out = match owed.step {
                Step::Retire => match self.retire().await? {
                    Some(report) => return Ok(report),
                    None => Ok(None),
                },
                Step::Publish => self.publish(owed.leg).await,
                Step::Sync => self.sync(owed).await,
                Step::RollOut => self.roll_out(owed).await,
            };
            match carried_out {
                Ok(None) => {}
                Ok(Some(UnderWay::Waiting(awaited))) => {
                    self.log(owed, "under_way", &awaited);
                    self.warnings.push(awaited);
                    return self.give_way().await;
                }
                Ok(Some(UnderWay::Held(held))) => return self.hold(owed, held).await,
                Err(Stop::Failed(error)) => return Err(self.fail(owed, error).await),
                Err(Stop::Overtaken) => return Err(Stop::Overtaken),
            }
            // Whoever asked for a rotation is answered when presenters are proved to be on it and
            // verifiers were told when the old one ends. Restarting verifiers for that is left to
            // the sweep.
            let answered = (owed.leg, owed.step) == (Leg::Overlap, Step::Publish)
                && self.asking.ask == Ask::Rotate;
            if answered && !self.spec.verifiers.workloads.is_empty() {
                self.release(self.now()).await?;
                return Ok(self.report(Outcome::Rotated));
            }
        }
        // At rest: nothing but the daily comparison is due.
        self.release(self.record.compare_at()).await?;
        Ok(self.report(self.outcome_at_rest()))
    }

    fn outcome_at_rest(&self) -> Outcome {
        match self.asking.ask {
            Ask::Rotate if self.last.is_some_and(|owed| owed.leg >= Leg::Overlap) => {
                Outcome::Rotated
            }
            Ask::Rotate | Ask::Publish => Outcome::Published,
            Ask::Drop => Outcome::Dropped,
            Ask::Resume => Outcome::Completed,
        }
    }

    /// Ends what is past its end, or waits for the next end without a lease.
    async fn retire(&mut self) -> Result<Option<Report>, Stop> {
        let now = self.now();
        let end = self.record.next_end().unwrap_or(now);
        if end > now || self.record.is_unanswered(now) {
            let until = end.max(self.record.unanswered_until().unwrap_or(end));
            self.release(until.min(self.record.compare_at())).await?;
            let outcome = match self.asking.ask {
                Ask::Resume if self.timeline.is_empty() => Outcome::InProgress,
                Ask::Resume => Outcome::Rotated,
                _ => self.outcome_at_rest(),
            };
            return Ok(Some(self.report(outcome)));
        }
        self.lease(Leg::Contract)?;
        self.apply(Change::Retire)?;
        Ok(None)
    }

    /// Takes the lease on the record in memory; the save that follows proves it.
    pub(crate) fn lease(&mut self, leg: Leg) -> Result<(), Stop> {
        let publications = &self.spec.side(leg.side()).publications;
        let unfenced = publications.iter().any(|publication| !publication.place.is_fenced());
        let lease = Lease { holder: self.holder.clone(), until: self.now() + self.settings.lease };
        self.apply(Change::Lease {
            lease,
            late_write: unfenced.then_some(self.settings.late_write),
        })
    }

    /// Makes sure that the record is saved as it is, and that enough of the lease is left for a
    /// call to a store that cannot fence: half of it.
    pub(crate) async fn save_with_lease(&mut self, leg: Leg) -> Result<(), Stop> {
        let enough = self.record.lease().is_some_and(|lease| {
            lease.holder == self.holder && lease.until >= self.now() + self.settings.lease / 2
        });
        if enough && self.stored.as_ref() == Some(&self.record) {
            return Ok(());
        }
        self.lease(leg)?;
        self.save().await
    }

    /// Saves that this turn watches a cluster, without a lease.
    pub(crate) async fn save_as_watcher(&mut self) -> Result<(), Stop> {
        let due_at = self.now() + WATCH;
        self.apply(Change::Await { due_at, watcher: Some(self.holder.clone()) })?;
        self.save().await
    }

    /// Does some waiting, with a sign of life every half minute.
    pub(crate) async fn attended<T>(&self, work: impl Future<Output = T>) -> Result<T, Stop> {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return Ok(done),
                () = tokio::time::sleep(WATCH / 2) => {
                    let (token, revision) = (self.record.token(), self.record.revision());
                    let due_at = self.now() + WATCH;
                    match self.world.records.postpone(token, revision, due_at).await {
                        Ok(Saved::Saved) => {}
                        Ok(Saved::Overtaken) => return Err(Stop::Overtaken),
                        // Somebody else may take over now; the revision keeps the two apart.
                        Err(error) => warn!(%token, %error, "sign of life not given"),
                    }
                }
            }
        }
    }

    pub(crate) async fn release(&mut self, due_at: Timestamp) -> Result<(), Stop> {
        self.apply(Change::Await { due_at, watcher: None })?;
        self.save().await
    }

    async fn give_way(&mut self) -> Result<Report, Stop> {
        if let Some(held) = self.record.held().cloned() {
            // It was held before, and the time of this turn was too short to see more.
            self.apply(Change::Hold(held))?;
            self.save().await?;
            return Ok(self.report(Outcome::Held));
        }
        self.release(self.now()).await?;
        Ok(self.report(Outcome::InProgress))
    }

    async fn hold(&mut self, owed: Owed, held: Held) -> Result<Report, Stop> {
        self.log(owed, "held", &held.reason);
        self.apply(Change::Hold(held))?;
        self.save().await?;
        Ok(self.report(Outcome::Held))
    }

    /// Saves what failed, so that the sweep comes back to it with a back-off, and hands the error on.
    async fn fail(&mut self, owed: Owed, error: Error) -> Stop {
        self.log(owed, "failed", &error.to_string());
        let object = error.on.clone().unwrap_or_else(|| self.record.token().to_string());
        let held = Held::new(object, error.because.clone(), error.fix.clone());
        let saved = match self.apply(Change::Hold(held)) {
            Ok(()) => self.save().await,
            Err(stop) => Err(stop),
        };
        match saved {
            Ok(()) => {}
            Err(Stop::Overtaken) => return Stop::Overtaken,
            // The lease runs out by itself then, and the sweep carries on from there.
            Err(Stop::Failed(second)) => warn!(error = %second, "failure not saved"),
        }
        Stop::Failed(error)
    }

    async fn join(&mut self, joins: bool) -> Result<Report, Stop> {
        if let (true, Some(key), Some(rotation)) = (joins, self.key, self.record.rotation()) {
            let entry = KeyEntry {
                rotation: rotation.id.clone(),
                version: rotation.version,
                expires_at: self.now() + KEY_LIFETIME,
            };
            let (token, revision) = (self.record.token(), self.record.revision());
            if self.world.records.join(token, revision, key, &entry).await? == Saved::Overtaken {
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

    /// Saves the record, with what the change before it owes to keys and audit.
    pub(crate) async fn save(&mut self) -> Result<(), Stop> {
        let record = self.record.to_save();
        let now = self.now();
        let mut audit = Vec::new();
        if let Some(stored) = &self.stored {
            // Presenters were proved to be on it by the change that freed the slot.
            if let (Some(ended), None) = (stored.rotation(), record.rotation())
                && let Some(current) = record.in_stage(Stage::Current)
                && current.version == ended.version
                && ended.purpose != Purpose::Repair
            {
                audit.push(Audit {
                    rotated_at: Some(now),
                    timeline: self.timeline.clone(),
                    ..record.audit_of(current, self.selectors())
                });
            }
            for version in record.ended_since(stored) {
                let before = self.world.records.audit(record.token(), version.version).await?;
                let before = before.unwrap_or_else(|| record.audit_of(version, Vec::new()));
                audit.push(Audit {
                    stage: Stage::Retired,
                    not_after: version.not_after,
                    ended_at: Some(now),
                    ..before
                });
            }
        }
        let entry = record.rotation().filter(|_| self.joins).map(|rotation| KeyEntry {
            rotation: rotation.id.clone(),
            version: rotation.version,
            expires_at: now + KEY_LIFETIME,
        });
        let save = Save {
            replaces: self.stored.as_ref().map(Record::revision),
            record: &record,
            key: self.key.zip(entry.as_ref()),
            audit: &audit,
        };
        match self.world.records.save(save).await? {
            Saved::Overtaken => Err(Stop::Overtaken),
            Saved::Saved => {
                self.joins = false;
                self.record = record.clone();
                self.stored = Some(record);
                Ok(())
            }
        }
    }

    /// Makes a change on the record in memory, and logs the step that it ends.
    pub(crate) fn apply(&mut self, change: Change) -> Result<(), Stop> {
        let ends_step = matches!(
            change,
            Change::Published(_) | Change::Synced(_) | Change::RolledOut { .. } | Change::Retire
        );
        let now = self.now();
        let next = self.record.after(change, now)?;
        if let Some(owed) = self.record.owed().filter(|_| ends_step) {
            self.log(owed, "done", "");
            let took = now.as_millisecond().saturating_sub(owed.since.as_millisecond());
            let took_ms = took.try_into().unwrap_or(0);
            self.timeline.push(Entry { leg: owed.leg, step: owed.step, at: now, took_ms });
        }
        self.record = next;
        self.remember_subject();
        Ok(())
    }

    fn remember_subject(&mut self) {
        // After its slot is freed, what a rotation still owes is told under its name.
        let subject = match (self.record.rotation(), self.record.in_stage(Stage::Current)) {
            (Some(rotation), _) => Some((rotation.id.clone(), rotation.version)),
            (None, Some(current)) => Some((current.rotation.clone(), current.version)),
            (None, None) => None,
        };
        if let Some(rotation) = self.record.rotation()
            && self.subject != subject
        {
            self.timeline.clone_from(&rotation.timeline);
        }
        self.subject = subject;
    }

    fn log(&self, owed: Owed, outcome: &str, detail: &str) {
        let took = self.now().as_millisecond().saturating_sub(owed.since.as_millisecond());
        info!(
            token = %self.record.token(),
            version = self.subject.as_ref().map(|(_, version)| version.get()),
            rotation = self.subject.as_ref().map(|(id, _)| tracing::field::display(id)),
            leg = owed.leg.as_str(),
            step = owed.step.as_str(),
            outcome,
            detail,
            duration_ms = took,
            "step"
        );
    }

    fn deferred(&self, until: Timestamp, because: Deferred) -> Report {
        let mut report = self.report(Outcome::Deferred);
        report.not_before = Some(until);
        report.warnings.push(because.to_string());
        report
    }

    /// Where presenters find the token, as `<parameter>:<version>` for SSM.
    fn selectors(&self) -> Vec<String> {
        let number = self.record.presented().map(|version| version.version);
        let publications = &self.spec.side(Side::Presenters).publications;
        publications
            .iter()
            .filter_map(|publication| {
                let seen = self.record.seen(&publication.place.to_string())?;
                Some(match &publication.place {
                    Place::Parameter(name) => format!("{name}:{}", seen.store_version),
                    place @ Place::Item { .. } => format!("{place}:{}", number?),
                })
            })
            .collect()
    }

    pub(crate) fn report(&self, outcome: Outcome) -> Report {
        let (rotation, version) = self.subject.clone().unzip();
        Report {
            outcome,
            token: self.record.token().clone(),
            version,
            rotation,
            leg: self.last.map(|owed| owed.leg),
            step: self.last.map(|owed| owed.step),
            selectors: self.selectors(),
            previous_valid_until: self
                .record
                .in_stage(Stage::Previous)
                .and_then(|previous| previous.not_after),
            not_before: None,
            timeline: self.timeline.clone(),
            warnings: self.warnings.clone(),
            held: self.record.held().map(Into::into),
        }
    }
}

/// A step that is not done.
pub(crate) enum UnderWay {
    /// It goes on by itself; what is awaited.
    Waiting(String),
    /// It needs help.
    Held(Held),
}
