//! All ports of one invocation, over the world in memory.
//!
//! A call takes some time. It is carried out at one moment in the middle of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use changeover_core::{
    error::{Error, Kind},
    event::Request,
    finding::{Examination, Finding, Subject},
    job_result::JobResult,
    metrics::MetricPoint,
    ports::{
        Clusters, Described, EventPublisher, EventsLost, InboxValue, Inboxes, Invocations,
        MetricsSink, Pipeline, Progress, Publications, RecordStore, Save, Saved, SecretCopies,
        SpecText, Specs, Stamp, StoredValue, Workloads, WriteError, Written,
    },
    record::{Audit, Failing, KeyDigest, KeyEntry, Loaded, SecretRevision},
    spec::{ParameterName, Place, Publication, Side, Workload},
    token_event::TokenEvent,
};
use changeover_token::{Content, Digest, Fence, Sealed, Secret, TokenName, VersionNumber};

use super::{
    FUNCTION,
    cluster::{ObjectName, copy_of},
    faults::{Actor, Fault},
    place::Refused,
    records::{OwnedSave, open, sealed},
    state::{Bus, Job, State},
};

use async_trait::async_trait;
use futures::future::join_all;
use jiff::Timestamp;
use serde_json::Value;

/// All ports of one invocation.
pub(super) struct MemoryPorts {
    pub(super) state: Arc<Mutex<State>>,
    pub(super) actor: Arc<Actor>,
}

impl MemoryPorts {
    fn state(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.catch_up();
        state
    }

    /// Makes one call of a port. `unfenced` names the token whose set of versions a late arrival of the
    /// call endangers.
    #[expect(
        clippy::too_many_lines,
        reason = "one call, with its faults in the order in which they strike"
    )]
    async fn call<T: Send + 'static>(
        &self,
        port: &'static str,
        on: impl Into<String>,
        unfenced: Option<TokenName>,
        effect: impl Fn(&mut State) -> T + Send + Sync + 'static,
    ) -> Result<(T, bool), Lost> {
        let fault = self.actor.call().await;
        let name = format!("{}: {port} {}", self.actor.name, on.into());
        let (there, back) = {
            let mut state = self.state();
            *state.calls.entry(port).or_default() += 1;
            // Some calls to stores that cannot fence take almost as long as they may.
            let is_slow = unfenced.is_some() && state.dice.one_in(60);
            let longest = if is_slow { 9_000 } else { 40 };
            let (there, back) =
                (state.dice.milliseconds(1..longest), state.dice.milliseconds(1..20));
            match fault {
                Some(Fault::Slow(time)) => (time, back),
                _ => (there, back),
            }
        };
        let fault = fault.filter(|fault| !matches!(fault, Fault::Slow(_)));
        // A call that was not sent has no effect, now or later.
        if matches!(fault, Some(Fault::CutBefore | Fault::FailBefore)) {
            self.state().happened(&format!("{name}: not sent"));
        }
        if fault == Some(Fault::CutBefore) {
            self.actor.cut().await;
        }
        tokio::time::sleep(there).await;
        // The effect happens now, unless the fault of the call delays it. Late effects are in flight until
        // then.
        match fault {
            Some(Fault::FailBefore) => return Err(Lost { may_land: false }),
            Some(Fault::CutLate(after) | Fault::FailLate(after) | Fault::Twice(after)) => {
                let mut state = self.state();
                state.happened(&format!("{name}: its reply is lost"));
                if let Some(token) = &unfenced {
                    *state.in_flight.entry(token.clone()).or_default() += 1;
                }
                if fault == Some(Fault::Twice(after)) {
                    let result = effect(&mut state);
                    state.happened(&name);
                    self.arrive_late(&mut state, name, after, unfenced.clone(), effect);
                    return Ok((result, unfenced.is_some()));
                }
                self.arrive_late(&mut state, name, after, unfenced, effect);
            }
            _ => {
                let result = {
                    let mut state = self.state();
                    let result = effect(&mut state);
                    if LOOKS.contains(&port) {
                        state.note(&name)
                    } else {
                        state.happened(&name)
                    }
                    result
                };
                if fault.is_none() {
                    tokio::time::sleep(back).await;
                    return Ok((result, false));
                }
                if let Some(Fault::Panics(words)) = fault {
                    panic!("{words}");
                }
            }
        }
        // No reply from here on: the invocation ends, or it must assume that the call may land.
        if let Some(Fault::CutAfter | Fault::CutLate(_)) = fault {
            self.actor.cut().await;
        }
        Err(Lost { may_land: true })
    }

    fn arrive_late<T>(
        &self,
        state: &mut State,
        name: String,
        after: Duration,
        unfenced: Option<TokenName>,
        effect: impl Fn(&mut State) -> T + Send + Sync + 'static,
    ) {
        state.later(after, format!("{name}, late"), move |state| {
            effect(state);
            if let Some(token) = unfenced {
                *state.in_flight.entry(token).or_default() -= 1;
            }
        });
    }

    /// Makes a call whose late arrival endangers no token.
    async fn plain<T: Send + 'static>(
        &self,
        port: &'static str,
        on: impl std::fmt::Display,
        effect: impl Fn(&mut State) -> T + Send + Sync + 'static,
    ) -> Result<T, Error> {
        let on = on.to_string();
        let done = self.call(port, on.clone(), None, effect).await;
        done.map(|(result, _)| result).map_err(|_| unreachable(port, &on))
    }

    /// Forces a copy to refresh, and returns the version that was synced before.
    async fn force(&self, workload: &Workload, name: ObjectName) -> Result<Option<String>, Error> {
        self.reach(workload)?;
        self.plain("force_sync", name.clone(), move |it| it.force(&name)).await
    }

    /// Fails if the object with this name is unreadable.
    fn check_readable(&self, name: impl std::fmt::Display) -> Result<(), Error> {
        if !self.state().unreadable.contains(&name.to_string()) {
            return Ok(());
        }
        let fix = "allow it";
        Err(Error::new(Kind::AccessDenied, "read", "the world says so", fix).on_cluster(name))
    }

    /// Fails if the API server of a workload's cluster does not answer.
    fn reach(&self, workload: &Workload) -> Result<(), Error> {
        let is_lost = self.state().cluster.lost.contains(&workload.cluster);
        if is_lost { Err(unreachable("api server", &workload.to_string())) } else { Ok(()) }
    }

    /// Polls `look` until its progress is no longer under way, for at most `within`.
    async fn watch<T>(
        &self,
        workload: &Workload,
        within: Duration,
        look: impl Fn(&State) -> Progress<T>,
    ) -> Result<Progress<T>, Error> {
        let until = self.state().clock() + within;
        loop {
            self.reach(workload)?;
            let (progress, now, next) = {
                let state = self.state();
                (look(&state), state.clock(), state.next_event())
            };
            if !matches!(progress, Progress::UnderWay(_)) || now >= until {
                return Ok(progress);
            }
            // Other invocations may act meanwhile, so an event may come earlier than is known now.
            let next = next.unwrap_or(until).min(until).min(now + Duration::from_secs(1));
            let pause = Duration::try_from(next.duration_since(now)).unwrap_or_default();
            tokio::time::sleep(pause.max(Duration::from_millis(1))).await;
        }
    }
}

/// Calls that change nothing.
const LOOKS: [&str; 19] = [
    "spec",
    "specs",
    "inbox",
    "version_of",
    "load",
    "due",
    "failing",
    "audit",
    "seal",
    "open",
    "read",
    "key",
    "inspect",
    "examine",
    "synced",
    "secret_revision",
    "rolled_out",
    "editors",
    "publish",
];

/// A call that got no reply.
struct Lost {
    may_land: bool,
}

fn unreachable(port: &str, on: &str) -> Error {
    Error::new(
        Kind::Unreachable,
        format!("call {port}"),
        "the world in memory lost the call or its reply",
        "invoke again",
    )
    .on(on)
}

#[async_trait]
impl Specs for MemoryPorts {
    async fn spec(&self, token: &TokenName) -> Result<Option<SpecText>, Error> {
        let name = token.clone();
        self.plain("spec", token, move |it| {
            if let Some((text, reads)) =
                it.stale_specs.get_mut(&name).filter(|(_, reads)| *reads > 0)
            {
                *reads -= 1;
                return Some(text.clone());
            }
            let bad = it.bad_specs.get(&name).cloned();
            let good = it.specs.get(&name).filter(|_| !it.unspecified.contains(&name));
            bad.or(good.map(|(text, _)| text.clone()))
        })
        .await
    }

    async fn all(&self) -> Result<Vec<(TokenName, Result<SpecText, Error>)>, Error> {
        self.plain("specs", "all", |it| {
            let specs = it.specs.iter().map(|(token, (text, _))| (token, text));
            let all: BTreeMap<_, _> = specs.chain(&it.bad_specs).collect();
            let there = all.into_iter().filter(|(token, _)| !it.unspecified.contains(token));
            there.map(|(token, text)| (token.clone(), Ok(text.clone()))).collect()
        })
        .await
    }
}

#[async_trait]
impl Inboxes for MemoryPorts {
    async fn read(&self, inbox: &ParameterName) -> Result<Option<InboxValue>, Error> {
        self.check_readable(inbox)?;
        let name = inbox.clone();
        self.plain("inbox", inbox, move |it| it.inboxes.get(&name).cloned()).await
    }
}

#[async_trait]
impl RecordStore for MemoryPorts {
    async fn load(&self, token: &TokenName, key: Option<&KeyDigest>) -> Result<Loaded, Error> {
        let (name, key) = (token.clone(), key.cloned());
        let loaded = self.plain("load", token, move |it| it.load(&name, key.as_ref())).await?;
        match loaded.record {
            Some(_) if self.state().unreadable.contains(token.as_str()) => {
                let because = "its field `versions` is missing or not as expected";
                Err(Error::new(Kind::BadRecord, "read the item", because, "restore it").on(token))
            }
            _ => Ok(loaded),
        }
    }

    async fn save(&self, save: Save<'_>) -> Result<Saved, Error> {
        let owned = OwnedSave {
            replaces: save.replaces,
            record: save.record.clone(),
            key: save.key.map(|(key, entry)| (key.clone(), entry.clone())),
            audit: save.audit.to_vec(),
        };
        let owed = save.record.owed().map(|owed| format!("{:?}/{:?}", owed.leg, owed.step));
        let on = format!(
            "{} revision {} owing {}",
            save.record.token(),
            save.record.revision(),
            owed.as_deref().unwrap_or("nothing")
        );
        self.plain("save", on, move |it| it.save(&owned)).await
    }

    async fn join(
        &self,
        token: &TokenName,
        fence: Fence,
        key: &KeyDigest,
        entry: &KeyEntry,
    ) -> Result<Saved, Error> {
        let (name, key, entry) = (token.clone(), key.clone(), entry.clone());
        self.plain("join", token, move |it| it.join(&name, fence, &key, &entry)).await
    }

    async fn heartbeat(
        &self,
        token: &TokenName,
        fence: Fence,
        due_at: Timestamp,
    ) -> Result<Saved, Error> {
        let name = token.clone();
        self.plain("heartbeat", token, move |it| it.heartbeat(&name, fence, due_at)).await
    }

    async fn back_off(
        &self,
        token: &TokenName,
        error: &Error,
        now: Timestamp,
        latest: Option<Timestamp>,
    ) -> Result<Option<Failing>, Error> {
        let (name, error) = (token.clone(), error.clone());
        self.plain("back_off", token, move |it| it.back_off(&name, &error, now, latest)).await
    }

    async fn forget(
        &self,
        token: &TokenName,
        fence: Fence,
        last_version: VersionNumber,
    ) -> Result<Saved, Error> {
        let name = token.clone();
        self.plain("forget", token, move |it| it.forget(&name, fence, last_version)).await
    }

    async fn due(
        &self,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<(TokenName, Timestamp)>, Error> {
        self.plain("due", "now", move |it| it.due(now, limit)).await
    }

    async fn failing(&self, limit: usize) -> Result<Vec<(TokenName, Timestamp)>, Error> {
        self.plain("failing", "all", move |it| it.failing(limit)).await
    }

    async fn audit(
        &self,
        token: &TokenName,
        version: VersionNumber,
    ) -> Result<Option<Audit>, Error> {
        let item = (token.clone(), version);
        self.plain("audit", token, move |it| it.records.audit.get(&item).cloned()).await
    }

    async fn version_of(
        &self,
        token: &TokenName,
        sha256: &Digest,
    ) -> Result<Option<VersionNumber>, Error> {
        let (name, digest) = (token.clone(), *sha256);
        self.plain("version_of", token, move |it| it.records.audited(&name, &digest)).await
    }

    async fn seal(
        &self,
        token: &TokenName,
        version: VersionNumber,
        value: &Secret,
    ) -> Result<Sealed, Error> {
        let ciphertext = sealed(token, version, value);
        let on = format!("{token}:{version}");
        self.plain("seal", on, move |_| ciphertext.clone()).await
    }

    async fn open(
        &self,
        token: &TokenName,
        version: VersionNumber,
        sealed: &Sealed,
    ) -> Result<Secret, Error> {
        let on = format!("{token}:{version}");
        let (token, sealed) = (token.clone(), sealed.clone());
        self.plain("open", on, move |_| open(&token, version, &sealed)).await?
    }
}

#[async_trait]
impl Publications for MemoryPorts {
    async fn read(&self, place: &Place, side: Side) -> Result<Option<StoredValue>, Error> {
        self.check_readable(place)?;
        let from = place.clone();
        self.plain("read", place, move |it| it.holding(&from, side)).await
    }

    async fn describe(&self, place: &Place) -> Result<Option<Described>, Error> {
        self.plain("describe place", place, |_| None).await
    }

    async fn write(
        &self,
        publication: &Publication,
        known_key: Option<&str>,
        view: &Content,
    ) -> Result<Written, WriteError> {
        let token = match view {
            Content::Accepted { token, .. } | Content::Presented { token, .. } => token.clone(),
        };
        let place = publication.place.clone();
        let (to, key, view) = (publication.clone(), known_key.map(str::to_owned), view.clone());
        let on = format!("{place} as {}", view.fence());
        self.written("write", on, &place, token, move |it| it.publish(&to, key.as_deref(), &view))
            .await
    }

    async fn label(
        &self,
        place: &Place,
        label: &'static str,
        store_version: u64,
    ) -> Result<Written, WriteError> {
        let to = place.clone();
        let on = format!("{place}:{store_version} as {label}");
        let token = self.state().owner_of(place);
        self.written("label", on, place, token, move |it| it.put_label(&to, label, store_version))
            .await
    }

    async fn labelled(&self, place: &Place, label: &'static str) -> Result<Option<u64>, Error> {
        self.check_readable(place)?;
        let of = place.clone();
        self.plain("labelled", place, move |it| it.labelled(&of, label)).await
    }
}

impl MemoryPorts {
    async fn written(
        &self,
        port: &'static str,
        on: String,
        place: &Place,
        token: TokenName,
        effect: impl Fn(&mut State) -> Result<Written, Refused> + Send + Sync + 'static,
    ) -> Result<Written, WriteError> {
        let unfenced = (!place.is_fenced()).then_some(token);
        if let Some(token) = &unfenced {
            self.state().begin_unfenced(token, place);
        }
        let is_fenced = unfenced.is_none();
        match self.call(port, on.clone(), unfenced, effect).await {
            Ok((Ok(written), unanswered)) => Ok(Written { unanswered, ..written }),
            Ok((Err(refused), unanswered)) => {
                let because = match &refused {
                    Refused::Ahead(found) => format!("it carries {found}"),
                    Refused::Another(owner, token) => format!("it is {owner}'s, not {token}'s"),
                    Refused::Gone => "there is no such version".to_owned(),
                    Refused::Broken(because) => (*because).to_owned(),
                };
                let is_gone = matches!(refused, Refused::Gone);
                Err(WriteError {
                    error: Error::new(Kind::Internal, "write", because, "invoke again").on(place),
                    unanswered,
                    ahead: match refused {
                        Refused::Ahead(found) => Some(found),
                        Refused::Another(..) | Refused::Gone | Refused::Broken(_) => None,
                    },
                    is_gone,
                })
            }
            Err(lost) => Err(WriteError {
                error: unreachable(port, &on),
                unanswered: lost.may_land && !is_fenced,
                ahead: None,
                is_gone: false,
            }),
        }
    }
}

/// The stamp that the view of a subject would bring to its workload.
fn stamp_of(subject: &Subject<'_>) -> Stamp {
    Stamp { side: subject.side, token: subject.token.clone(), fence: subject.view }
}

#[async_trait]
impl Clusters for MemoryPorts {
    async fn describe(&self, clusters: &BTreeSet<String>) -> BTreeMap<String, Digest> {
        let names = clusters.clone();
        let described = self.plain("describe", "clusters", move |it| {
            let described = |name: &String| it.descriptions.get(name).cloned().unwrap_or_default();
            names.iter().map(|name| (name.clone(), Digest::of(described(name)))).collect()
        });
        described.await.unwrap_or_default()
    }

    async fn inspect(&self, subject: &Subject<'_>) -> Result<Vec<Finding>, Error> {
        let workload = subject.workload;
        self.reach(workload)?;
        let (object, stamp) = (workload.clone(), stamp_of(subject));
        self.plain("inspect", workload, move |it| it.findings(&object, &stamp)).await
    }

    async fn examine(
        &self,
        subjects: &[Subject<'_>],
        _published: &BTreeSet<ParameterName>,
    ) -> Examination {
        let mut examination = Examination::default();
        for subject in subjects {
            let object = subject.workload.clone();
            let found = self.plain("examine", &object, {
                let (object, stamp) = (object.clone(), stamp_of(subject));
                move |it| it.findings(&object, &stamp)
            });
            match found.await {
                Ok(findings) => examination.findings.extend(findings),
                Err(error) => {
                    examination.findings.push(Finding::failed(object.to_string(), error));
                }
            }
        }
        examination
    }
}

#[async_trait]
impl SecretCopies for MemoryPorts {
    async fn refresh(
        &self,
        workloads: &[&Workload],
        _force: &str,
        intended: &BTreeMap<ParameterName, Digest>,
        within: Duration,
    ) -> Vec<Result<Option<Progress<SecretRevision>>, Error>> {
        // A copy that several of them read is forced once.
        let by_copy: BTreeMap<_, _> =
            workloads.iter().filter_map(|it| Some((copy_of(it)?, *it))).collect();
        let forced = by_copy.into_iter().map(async |(name, workload)| {
            let before = self.force(workload, name.clone()).await;
            (name, before)
        });
        let forced: BTreeMap<_, _> = join_all(forced).await.into_iter().collect();
        let waits = workloads.iter().map(async |workload| {
            let Some(name) = copy_of(workload) else { return Ok(None) };
            let Some(before) = forced[&name].clone()? else { return Ok(None) };
            self.plain("synced", *workload, |_| ()).await?;
            let progress = |it: &State| it.copy_progress(&name, &before, intended);
            self.watch(workload, within, progress).await.map(Some)
        });
        join_all(waits).await
    }

    async fn write_secret(
        &self,
        workload: &Workload,
        stamp: &Stamp,
        value: &Secret,
    ) -> Result<Progress<SecretRevision>, Error> {
        self.reach(workload)?;
        let name = copy_of(workload).unwrap_or_default();
        let on = format!("{name} as {}", stamp.fence);
        let (stamp, value) = (stamp.clone(), value.clone());
        self.plain("write_secret", on, move |it| {
            match it.write_copy(&name, &stamp, value.expose()) {
                Ok(()) => Progress::Done(it.secret_revision(&name).expect("it was written")),
                Err(later) => Progress::Ahead(later),
            }
        })
        .await
    }

    async fn secret_revision(
        &self,
        workload: &Workload,
        _parameters: &[ParameterName],
    ) -> Result<Option<SecretRevision>, Error> {
        self.reach(workload)?;
        let Some(name) = copy_of(workload) else { return Ok(None) };
        let on = name.clone();
        self.plain("secret_revision", on, move |it| it.secret_revision(&name)).await
    }

    async fn written_secret(&self, workload: &Workload) -> Result<Option<Digest>, Error> {
        self.reach(workload)?;
        let Some(name) = copy_of(workload).filter(|_| workload.written_key().is_some()) else {
            return Ok(None);
        };
        let on = name.clone();
        self.plain("written_secret", on, move |it| it.written_secret(&name)).await
    }

    async fn editors(&self, workload: &Workload) -> Result<Vec<String>, Error> {
        self.reach(workload)?;
        self.plain("editors", workload, |_| vec!["somebody".to_owned()]).await
    }
}

#[async_trait]
impl Workloads for MemoryPorts {
    async fn stamp(
        &self,
        workload: &Workload,
        stamp: &Stamp,
    ) -> Result<Option<Progress<()>>, Error> {
        self.reach(workload)?;
        let name = super::cluster::deployment_of(workload);
        let on = format!("{workload} as {} {}", stamp.side, stamp.fence);
        let stamp = stamp.clone();
        self.plain("stamp", on, move |it| it.stamp(&name, &stamp)).await
    }

    async fn rolled_out(
        &self,
        workloads: &[&Workload],
        stamp: &Stamp,
        within: Duration,
    ) -> Vec<Result<Progress<()>, Error>> {
        let waits = workloads.iter().map(async |workload| {
            self.plain("rolled_out", *workload, |_| ()).await?;
            let name = super::cluster::deployment_of(workload);
            self.watch(workload, within, |it| it.roll_progress(&name, stamp)).await
        });
        join_all(waits).await
    }
}

#[async_trait]
impl Pipeline for MemoryPorts {
    async fn answer(&self, job: &str, job_result: &JobResult) -> Result<(), Error> {
        let (job, job_result) = (job.to_owned(), job_result.clone());
        self.plain("answer", job.clone(), move |it| {
            // A second answer changes nothing.
            if let Some(waiting @ Job::Waiting) = it.jobs.get_mut(&job) {
                *waiting = Job::Answered(job_result.clone());
            }
        })
        .await
    }
}

#[async_trait]
impl EventPublisher for MemoryPorts {
    async fn publish(&self, token_events: &[TokenEvent]) -> Result<(), EventsLost> {
        let bus = self.state().bus;
        let (on, owned) = (token_events.len(), token_events.to_vec());
        let answer = match bus {
            Bus::Takes => self.plain("publish", on, move |it| it.deliver(&owned)).await,
            Bus::Refuses => Err(unreachable("publish", "the bus")),
            Bus::Silent => std::future::pending().await,
        };
        answer.map_err(|error| EventsLost { count: token_events.len(), error })
    }
}

impl MetricsSink for MemoryPorts {
    fn write(&self, measurement: &MetricPoint) {
        self.state().measured.push(measurement.clone());
    }
}

#[async_trait]
impl Invocations for MemoryPorts {
    async fn start(&self, function: &str, event: &Value) -> Result<(), Error> {
        assert_eq!(function, FUNCTION, "an invocation starts others of what it came in on itself");
        let request = Request::parse(event)?;
        let actor = self.actor.clone();
        self.plain("start", event, move |it| {
            if request.token().is_some_and(|token| it.refused.contains(token)) {
                return Err(Error::new(
                    Kind::Throttled,
                    "start",
                    "the world says so",
                    "do it later",
                ));
            }
            it.started.push((it.now, request.clone()));
            it.to_run.push(request.clone());
            actor.starts_others();
            Ok(())
        })
        .await?
    }
}
