//! One invocation's hold on one token: the record in hand, its lease, its saves, and the events and metrics
//! of each save.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    pin::pin,
    time::Duration,
};

use changeover_token::{Life, Secret, Stage, TokenName, VersionNumber};
use futures::future::join_all;
use jiff::Timestamp;
use tracing::{info, warn};

use crate::{
    error::{Error, Kind},
    metrics::MetricPoint,
    plan::{Ask, Deferred},
    ports::{EventsLost, Ports, Save, Saved, StoredValue},
    record::{
        Audit, Entry, Held, IllegalTransition, KeyDigest, KeyEntry, Lease, Leg, Loaded, Minted,
        Owed, Purpose, Queued, Record, Rotation, RotationId, Transition, Version,
    },
    report::{Outcome, Report},
    spec::{Place, Publication, Reserved, Side, Spec, Workload},
    token_event,
};

/// Time for which the key of a trigger is remembered.
const KEY_LIFETIME: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Time for which a session waits for the event bus.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(2);

/// Settings from the environment.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Duration of a lease.
    pub lease: Duration,
    /// Time during which a write whose reply was lost may still be applied.
    pub late_write: Duration,
    /// Places to which no token may be published.
    pub reserved: Reserved,
}

impl Settings {
    /// Returns the time for which a heartbeat of an invocation that watches a cluster is valid: two leases.
    pub fn watch(&self) -> Duration {
        self.lease * 2
    }
}

/// One request for one token.
#[derive(Clone, Debug)]
pub struct Asking<'a> {
    /// The kind of request.
    pub ask: Ask,
    /// The token.
    pub token: &'a TokenName,
    /// The trigger's idempotency key.
    pub key: &'a str,
    /// No step begins after this.
    pub stop_at: Timestamp,
    /// Clusters to leave out, as requested.
    pub without: &'a BTreeSet<String>,
}

/// One invocation's hold on one token: it owns the record in hand, the lease and the saves.
pub(crate) struct Session<'a> {
    ports: &'a Ports,
    settings: &'a Settings,
    spec: &'a Spec,
    asking: &'a Asking<'a>,
    /// The trigger's key, unless it is saved already.
    key: Option<&'a KeyDigest>,
    /// Random, not the request id: Lambda's retries keep that id, and are another holder.
    holder: String,
    /// The life of a record that this session creates, or that has none yet.
    life: Life,
    /// The record as the store has it; `None` if it has none.
    stored: Option<Record>,
    /// The record as it is saved next.
    record: Record,
    /// The entry that the next save has the trigger's key resolve to, if it is to add the key.
    joins: Option<KeyEntry>,
    /// Values that were minted or opened in this session.
    values: BTreeMap<VersionNumber, Secret>,
    /// The content of the presented publications when this session observed them.
    found: BTreeMap<Place, StoredValue>,
    warnings: Vec<String>,
    /// The steps done in the rotation that `subject` names.
    timeline: Vec<Entry>,
    /// The step that was worked on last.
    last: Option<Owed>,
    /// The rotation and version that the report, events and log lines are attributed to.
    subject: Option<(RotationId, VersionNumber)>,
}

impl<'a> Session<'a> {
    pub(crate) fn new(
        ports: &'a Ports,
        settings: &'a Settings,
        spec: &'a Spec,
        asking: &'a Asking<'a>,
        loaded: Loaded,
        key: Option<&'a KeyDigest>,
    ) -> Result<Self, Error> {
        let Loaded { record: stored, last_version, .. } = loaded;
        let life = ports.random_life()?;
        let record = match &stored {
            Some(record) => record.clone(),
            None => Record::new(asking.token.clone(), life, ports.clock.now()),
        };
        let record = record.numbered_after(last_version);
        let mut session = Self {
            life,
            ports,
            settings,
            spec,
            asking,
            key,
            holder: ports.random_name()?,
            stored,
            record,
            joins: None,
            values: BTreeMap::new(),
            found: BTreeMap::new(),
            warnings: Vec::new(),
            timeline: Vec::new(),
            last: None,
            subject: None,
        };
        if spec.verifiers.is_empty() {
            session.warn(
                "the spec names no verifiers: no verifier learns of the new version before it is \
                 presented",
            );
        }
        session.remember_subject();
        Ok(session)
    }

    pub(crate) fn ports(&self) -> &'a Ports {
        self.ports
    }

    pub(crate) fn settings(&self) -> &'a Settings {
        self.settings
    }

    pub(crate) fn spec(&self) -> &'a Spec {
        self.spec
    }

    pub(crate) fn asking(&self) -> &'a Asking<'a> {
        self.asking
    }

    /// The record in hand, which the next save saves.
    pub(crate) fn record(&self) -> &Record {
        &self.record
    }

    /// The record as the store has it.
    pub(crate) fn stored(&self) -> Option<&Record> {
        self.stored.as_ref()
    }

    pub(crate) fn is_saved(&self) -> bool {
        self.stored.as_ref() == Some(&self.record)
    }

    /// The trigger's key, unless it is saved already.
    pub(crate) fn key(&self) -> Option<&'a KeyDigest> {
        self.key
    }

    /// The name by which this session holds leases, and forces refreshes that are its own.
    pub(crate) fn holder(&self) -> &str {
        &self.holder
    }

    /// The life of a record that this session creates, or that has none yet.
    pub(crate) fn life(&self) -> Life {
        self.life
    }

    /// The rotation and version that the report is attributed to.
    pub(crate) fn subject(&self) -> Option<&(RotationId, VersionNumber)> {
        self.subject.as_ref()
    }

    /// The step that was worked on last.
    pub(crate) fn last(&self) -> Option<Owed> {
        self.last
    }

    /// Sets the step that is worked on now.
    pub(crate) fn work_on(&mut self, owed: Owed) {
        self.last = Some(owed);
    }

    pub(crate) fn has_done_steps(&self) -> bool {
        !self.timeline.is_empty()
    }

    pub(crate) fn warn(&mut self, warning: impl Into<String>) {
        self.warnings.push(warning.into());
    }

    pub(crate) fn warn_all(&mut self, warnings: impl IntoIterator<Item = String>) {
        self.warnings.extend(warnings);
    }

    /// The content of the presented publications when they were observed.
    pub(crate) fn observed(&self) -> &BTreeMap<Place, StoredValue> {
        &self.found
    }

    /// Keeps what was observed. A record that does not exist yet begins with a life above all that were
    /// found.
    pub(crate) fn keep_observed(
        &mut self,
        found: BTreeMap<Place, StoredValue>,
        highest: Option<Life>,
    ) {
        self.found = found;
        self.life = self.life.above(highest);
        if self.stored.is_none() {
            let last_version = self.record.last_version();
            self.record = Record::new(self.asking.token.clone(), self.life, self.now())
                .numbered_after(last_version);
        }
    }

    /// Forgets what was observed: it was published over.
    pub(crate) fn forget_observed(&mut self) {
        self.found.clear();
    }

    /// Has the next save resolve the trigger's key to this rotation, unless it resolves to another already.
    pub(crate) fn join_rotation(&mut self) {
        if self.joins.is_none() {
            self.joins = self.record.rotation().map(|rotation| self.key_entry(rotation));
        }
    }

    /// Opens the values of these versions that this session has not seen yet.
    pub(crate) async fn open_values(&mut self, versions: &[Version]) -> Result<(), Error> {
        let sealed = versions.iter().filter(|it| !self.values.contains_key(&it.version));
        let sealed: Vec<_> = sealed.collect();
        let (token, records) = (self.record.token(), &self.ports.records);
        let opened = sealed.iter().map(|it| records.open(token, it.version, &it.sealed));
        let opened = sealed.iter().map(|it| it.version).zip(join_all(opened).await);
        let opened: Vec<_> =
            opened.map(|(version, value)| Ok((version, value?))).collect::<Result<_, Error>>()?;
        self.values.extend(opened);
        Ok(())
    }

    /// The value of a version that this session minted or opened.
    pub(crate) fn value(&self, version: VersionNumber) -> Option<&Secret> {
        self.values.get(&version)
    }

    /// Returns the workloads of a side, except those of clusters that are left out.
    pub(crate) fn workloads(&self, side: Side) -> Vec<&'a Workload> {
        let spec: &'a Spec = self.spec;
        let workloads = spec.side(side).workloads.iter();
        workloads.filter(|it| !self.record.without().contains(&it.cluster)).collect()
    }

    /// Reads what each publication of a side holds now, in the spec's order.
    pub(crate) async fn stored_values(
        &self,
        side: Side,
    ) -> Vec<(&'a Publication, Result<Option<StoredValue>, Error>)> {
        let spec: &'a Spec = self.spec;
        let publications = &spec.side(side).publications;
        let reads = publications.iter().map(|it| self.ports.publications.read(&it.place, side));
        publications.iter().zip(join_all(reads).await).collect()
    }

    /// Leaves these clusters out of what is owed; the next save keeps it.
    pub(crate) fn exclude_clusters(&mut self, without: &BTreeSet<String>) -> Result<(), Stop> {
        if without.is_subset(self.record.without()) || self.record.owed().is_none() {
            return Ok(());
        }
        self.apply(Transition::LeaveOut(without.clone()))
    }

    /// The clusters that a start with this purpose leaves out: those of this request, and those of the
    /// queued rotation if that one begins.
    pub(crate) fn without_for(&self, purpose: Purpose) -> BTreeSet<String> {
        let queued = self.record.queued().filter(|_| purpose == Purpose::Rotate);
        let queued = queued.into_iter().flat_map(|queued| &queued.without);
        self.asking.without.iter().chain(queued).cloned().collect()
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.ports.clock.now()
    }

    /// Returns a lease of this session from now on.
    pub(crate) fn new_lease(&self) -> Lease {
        Lease { holder: self.holder.clone(), until: self.now() + self.settings.lease }
    }

    /// Takes the lease on the record in memory; the save that follows proves it.
    pub(crate) fn lease(&mut self, leg: Leg) -> Result<(), Stop> {
        let publications = &self.spec.side(leg.side()).publications;
        let unfenced = publications.iter().any(|publication| !publication.place.is_fenced());
        self.apply(Transition::Lease {
            lease: self.new_lease(),
            late_write: unfenced.then_some(self.settings.late_write),
        })
    }

    /// Makes sure that the record is saved as it is, and that half of the lease is left: enough for a call
    /// to a store that cannot fence.
    pub(crate) async fn save_with_lease(&mut self, leg: Leg) -> Result<(), Stop> {
        // Twice, if the save itself took too long: the second one has no audit to read.
        for _ in 0..2 {
            let enough = self.record.lease().is_some_and(|lease| {
                lease.holder == self.holder && lease.until >= self.now() + self.settings.lease / 2
            });
            if enough && self.is_saved() {
                break;
            }
            self.lease(leg)?;
            self.save().await?;
        }
        Ok(())
    }

    /// Releases the lease and saves that this session watches a cluster.
    pub(crate) async fn save_as_watcher(&mut self) -> Result<(), Stop> {
        let due_at = self.now() + self.settings.watch();
        self.apply(Transition::Await { due_at, watcher: Some(self.holder.clone()) })?;
        self.save().await
    }

    /// Runs `work`, and renews the heartbeat each time that half of its validity has passed.
    pub(crate) async fn with_heartbeat<T>(&self, work: impl Future<Output = T>) -> Result<T, Stop> {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return Ok(done),
                () = tokio::time::sleep(self.settings.watch() / 2) => {
                    let (token, fence) = (self.record.token(), self.record.fence());
                    let due_at = self.now() + self.settings.watch();
                    match self.ports.records.heartbeat(token, fence, due_at).await {
                        Ok(Saved::Saved) => {}
                        Ok(Saved::Overtaken) => return Err(Stop::Overtaken),
                        // Another invocation may take over now; the revision keeps the two apart.
                        Err(error) => warn!(%token, %error, "heartbeat not saved"),
                    }
                }
            }
        }
    }

    pub(crate) async fn release(&mut self, due_at: Timestamp) -> Result<(), Stop> {
        self.apply(Transition::Await { due_at, watcher: None })?;
        self.save().await
    }

    /// Saves the record, with the trigger's key and the audit entries that its changes require.
    pub(crate) async fn save(&mut self) -> Result<(), Stop> {
        let record = self.record.to_save();
        let now = self.now();
        let mut audit = Vec::new();
        if let Some(stored) = &self.stored {
            // The change that freed the slot proved that presenters are on it.
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
            let ended = record.ended_since(stored);
            let records = &self.ports.records;
            let reads = ended.iter().map(|it| records.audit(record.token(), it.version));
            for (version, before) in ended.iter().zip(join_all(reads).await) {
                let before = before?.unwrap_or_else(|| record.audit_of(version, Vec::new()));
                audit.push(Audit {
                    stage: Stage::Retired,
                    not_after: version.not_after,
                    ended_at: Some(now),
                    ..before
                });
            }
        }
        let save = Save {
            replaces: self.stored.as_ref().map(Record::fence),
            record: &record,
            key: self.key.zip(self.joins.as_ref()),
            audit: &audit,
        };
        match self.ports.records.save(save).await? {
            Saved::Overtaken => Err(Stop::Overtaken),
            Saved::Saved => {
                self.publish_events(self.stored.as_ref(), &record, now).await;
                self.joins = None;
                self.record = record.clone();
                self.stored = Some(record);
                Ok(())
            }
        }
    }

    /// Publishes the events of this save, best effort, within [`PUBLISH_TIMEOUT`]. A failure is logged and counted,
    /// never returned: the audit is authoritative.
    async fn publish_events(&self, before: Option<&Record>, after: &Record, saved_at: Timestamp) {
        let Some(event_publisher) = &self.ports.event_publisher else { return };
        let token_events = token_event::between(before, after, saved_at, self.selectors());
        if token_events.is_empty() {
            return;
        }
        let published =
            tokio::time::timeout(PUBLISH_TIMEOUT, event_publisher.publish(&token_events)).await;
        let (count, error) = match published {
            Ok(Ok(())) => return,
            Ok(Err(EventsLost { count, error })) => (count, error.to_string()),
            Err(_) => (token_events.len(), format!("no answer within {PUBLISH_TIMEOUT:?}")),
        };
        warn!(token = %after.token(), count, error, "events not sent");
        self.ports.metrics_sink.write(&MetricPoint::of_lost_events(
            self.now(),
            after.token(),
            count,
        ));
    }

    /// Seals a value as a version. The value is decided only once the record that has it is saved.
    pub(crate) async fn seal(
        &mut self,
        number: VersionNumber,
        value: Secret,
        held_at: BTreeMap<String, u64>,
    ) -> Result<Minted, Error> {
        let sealed = self.ports.records.seal(self.asking.token, number, &value).await?;
        let sha256 = value.digest();
        self.values.insert(number, value);
        Ok(Minted { sha256, sealed, held_at })
    }

    /// The entry of a key that begins or joins this rotation.
    pub(crate) fn key_entry(&self, rotation: &Rotation) -> KeyEntry {
        self.key_entry_of(rotation.id.clone(), rotation.version)
    }

    /// The entry of a key that requests a rotation which is to bring this version.
    pub(crate) fn key_entry_of(&self, rotation: RotationId, version: VersionNumber) -> KeyEntry {
        KeyEntry { rotation, version, expires_at: self.now() + KEY_LIFETIME }
    }

    /// Returns the rotation that begins as soon as it can, to be saved as queued. The next save has the
    /// trigger's key resolve to it. One that waits already begins later than this request, and serves it
    /// too.
    pub(crate) fn follow(&mut self, version: VersionNumber) -> Result<Queued, Error> {
        let mut queued = match self.record.queued() {
            Some(queued) => queued.clone(),
            None => Queued::new(RotationId(self.ports.random_name()?), self.now()),
        };
        queued.without.extend(self.asking.without.iter().cloned());
        self.joins = Some(self.key_entry_of(queued.rotation.clone(), version));
        Ok(queued)
    }

    /// Makes a change on the record in memory, and logs and measures the step that it ends.
    pub(crate) fn apply(&mut self, change: Transition) -> Result<(), Stop> {
        let ends_step = matches!(
            change,
            Transition::Published(_)
                | Transition::Synced(_)
                | Transition::RolledOut { .. }
                | Transition::Retire
        );
        let now = self.now();
        let next = self.record.after(change, now)?;
        if let Some(owed) = self.record.owed().filter(|_| ends_step) {
            self.log(owed, "done", "");
            let took = now.as_millisecond().saturating_sub(owed.since.as_millisecond());
            let took_ms = took.try_into().unwrap_or(0);
            let done = Entry { leg: owed.leg, step: owed.step, at: now, took_ms };
            self.ports.metrics_sink.write(&MetricPoint::of_step(&self.record, &done));
            self.timeline.push(done);
        }
        self.record = next;
        self.remember_subject();
        Ok(())
    }

    fn remember_subject(&mut self) {
        let subject = self.record.subject().map(|(rotation, version)| (rotation.clone(), version));
        if let Some(rotation) = self.record.rotation()
            && self.subject != subject
        {
            self.timeline.clone_from(&rotation.timeline);
        }
        self.subject = subject;
    }

    pub(crate) fn log(&self, owed: Owed, outcome: &str, detail: &str) {
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

    pub(crate) fn deferred(&self, until: Timestamp, because: Deferred) -> Report {
        let mut report = self.report(Outcome::Deferred);
        report.not_before = Some(until);
        report.warnings.push(because.to_string());
        report
    }

    /// The selectors with which presenters find the token, as `<parameter>:<version>` for SSM.
    pub(crate) fn selectors(&self) -> Vec<String> {
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

    /// Warnings about the clusters that are left out, with the effect on each side.
    fn told_of_left_out(&self) -> impl Iterator<Item = String> {
        let meaning = |cluster: &String, side: Side, means: &str| {
            let mut workloads = self.spec.side(side).workloads.iter();
            workloads.any(|it| it.cluster == *cluster).then(|| format!("; {side} there {means}"))
        };
        self.record.without().iter().map(move |cluster| {
            let verifiers =
                meaning(cluster, Side::Verifiers, "are not waited for, and may refuse it");
            let presenters =
                meaning(cluster, Side::Presenters, "may send the one before beyond its end");
            format!(
                "cluster {cluster} is left out of bringing this version, as was asked{}{}",
                verifiers.unwrap_or_default(),
                presenters.unwrap_or_default(),
            )
        })
    }

    pub(crate) fn report(&self, outcome: Outcome) -> Report {
        let (rotation, version) = self.subject.clone().unzip();
        let queued = self
            .record
            .queued()
            .map(|_| "a rotation that was asked for begins by itself as soon as it can".to_owned());
        let warnings = self.warnings.iter().cloned().chain(self.told_of_left_out()).chain(queued);
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
            warnings: warnings.collect(),
            held: self.record.held().map(Into::into),
        }
    }
}

/// Reason that a session ends without an answer.
pub(crate) enum Stop {
    /// Another invocation saved the record: plan again.
    Overtaken,
    /// It failed.
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Stop::Failed(error)
    }
}

impl From<IllegalTransition> for Stop {
    fn from(illegal: IllegalTransition) -> Self {
        Stop::Failed(Error::new(
            Kind::Internal,
            "change the record",
            illegal.to_string(),
            "report it; the record is as it was, and the token keeps working",
        ))
    }
}

/// Continuation of a request after a decision was carried out.
pub(crate) enum Next {
    /// The request is answered.
    Answer(Box<Report>),
    /// A prerequisite is complete: the record is read and planned again.
    PlanAgain,
    /// Another invocation holds the lease: read it again at this time.
    LookAgain {
        /// The time.
        at: Timestamp,
    },
}

impl Next {
    pub(crate) fn answer(report: Report) -> Self {
        Self::Answer(Box::new(report))
    }
}

/// A step that is not done.
pub(crate) enum UnderWay {
    /// It continues by itself; names what is awaited.
    Waiting(String),
    /// It needs help.
    Held(Held),
}
