//! The wait for all workloads of one namespace that are rolled together.

use std::{collections::BTreeSet, time::Duration};

use changeover_core::{
    error::{Error, Kind},
    ports::Progress,
    record::Held,
    spec::{Workload, WorkloadKind},
};
use changeover_token::Fence;
use futures::{
    StreamExt,
    stream::{BoxStream, select_all},
};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use kube::{
    Api,
    core::Selector,
    runtime::watcher::{self, Event},
};
use tokio::time::{Instant, sleep_until};

use super::{
    ByName, Rolled,
    owners::Owners,
    pods::{Mine, Pods, selecting},
    refusals,
};
use crate::{
    KubernetesClusters,
    call::Target,
    watch::watch,
    workload::{Live, Pod, Replica, Rollout, Verdict, deployment::revision},
};

/// One wait for some workloads of one namespace.
pub(super) struct Wait<'a> {
    pub(super) kubernetes: &'a KubernetesClusters,
    /// One of them, which determines the cluster and the namespace.
    pub(super) beside: &'a Workload,
    /// The annotation that carries the stamp.
    pub(super) annotation: &'a str,
    /// The fence of the stamp.
    pub(super) fence: Fence,
    /// The index of each among the subjects.
    pub(super) by_name: ByName<'a>,
}

/// One workload that is waited for.
pub(super) struct Subject<'a> {
    workload: &'a Workload,
    /// Its name in reports.
    object: String,
    /// The workload as it was last seen.
    live: Option<Live>,
    /// True if the list in progress has shown it.
    is_listed: bool,
    /// Its revision when ReplicaSets were last listed.
    listed_at: Option<String>,
    suspicion: Option<Suspicion>,
    state: State,
}

enum State {
    /// Not rolled out; the condition that is awaited, in words.
    Awaited(String),
    /// Rolled out, as far as the watches have reported.
    Complete,
    /// Has its final answer.
    Ended(Result<Progress<()>, Error>),
}

/// Trouble that seldom passes by itself.
struct Suspicion {
    culprit: String,
    certain_at: Instant,
}

/// An event of a workload of this kind.
type Happened = (WorkloadKind, Event<Live>);

impl<'a> Subject<'a> {
    pub(super) fn new(workload: &'a Workload) -> Self {
        Self {
            workload,
            object: workload.to_string(),
            live: None,
            is_listed: false,
            listed_at: None,
            suspicion: None,
            state: State::Awaited("it was not looked at yet".to_owned()),
        }
    }

    /// Its progress. `error` is the one that ended the wait for all of them.
    pub(super) fn answer(self, error: Option<&Error>) -> Result<Progress<()>, Error> {
        match (self.state, error) {
            (State::Ended(ended), _) => ended,
            (_, Some(error)) => Err(error.clone()),
            (State::Awaited(words), None) => Ok(Progress::UnderWay(words)),
            (State::Complete, None) => {
                Ok(Progress::UnderWay("all pods are replaced, by all that is known".to_owned()))
            }
        }
    }

    fn has_ended(&self) -> bool {
        matches!(self.state, State::Ended(_))
    }

    /// True if it ended otherwise than rolled out.
    fn is_stopped(&self) -> bool {
        matches!(&self.state, State::Ended(ended) if *ended != Ok(Progress::Done(())))
    }

    fn is_complete(&self) -> bool {
        matches!(self.state, State::Complete)
    }

    fn stuck(&mut self, reason: &str, fix: &str) {
        self.end(Held::new(&self.object, reason, fix));
    }

    fn end(&mut self, held: Held) {
        self.state = State::Ended(Ok(Progress::Stuck(held)));
    }

    /// The revision that its Deployment is at.
    fn revision(&self) -> Option<&str> {
        revision(self.live.as_ref()?.metadata())
    }

    fn is_deployment(&self) -> bool {
        self.workload.kind == WorkloadKind::Deployment
    }

    /// Records its present state.
    fn note(&mut self, seen: Live) {
        self.is_listed = true;
        let uid = |live: &Live| live.metadata().uid.clone();
        if self.live.as_ref().is_some_and(|known| uid(known) != uid(&seen)) {
            return self.stuck(
                "it was deleted and created anew",
                "nothing, if that is meant: the next run stamps the new one",
            );
        }
        if self.live.is_none() {
            self.state = State::Awaited(seen.awaited());
        }
        self.live = Some(seen);
    }

    /// Records the suspicion that it is stuck because of `culprit`. True if that suspicion has lasted for
    /// long enough to be certain.
    fn is_certain(&mut self, culprit: &str) -> bool {
        let now = Instant::now();
        let known = self.suspicion.take().filter(|known| known.culprit == culprit);
        let certain_at = known.map_or(now + SUSPECTED_FOR, |known| known.certain_at);
        if certain_at <= now {
            return true;
        }
        self.suspicion = Some(Suspicion { culprit: culprit.to_owned(), certain_at });
        false
    }
}

impl<'a> Wait<'a> {
    /// Returns when all are rolled out, or when one of them has ended otherwise.
    pub(super) async fn until_rolled_out(&self, subjects: &mut [Subject<'a>]) -> Result<(), Error> {
        let mut workloads = select_all(self.watches());
        let mut watched: Option<BoxStream<'_, Result<Event<Pod>, Error>>> = None;
        let mut pods = Pods::of(Vec::new(), self.annotation);
        let mut selector = None;
        let mut owners = Owners::default();
        // A workload that is rolled out is confirmed together with those that soon will be.
        let mut confirm_at: Option<Instant> = None;
        loop {
            let suspected = subjects.iter().filter_map(|it| it.suspicion.as_ref());
            let wake_at = suspected.map(|it| it.certain_at).chain(confirm_at).min();
            let about = tokio::select! {
                event = workloads.next() => match event.transpose()? {
                    Some(happened) => self.note(happened, subjects),
                    None => Vec::new(),
                },
                event = next(&mut watched) => match event.transpose()? {
                    Some(event) => pods.note(event),
                    None => Vec::new(),
                },
                () = sleep_until(wake_at.unwrap_or_else(Instant::now)), if wake_at.is_some() => {
                    (0..subjects.len()).collect()
                }
            };
            // The pods are watched as soon as every workload was seen, since its object names its selector.
            if watched.is_none() && subjects.iter().all(|it| it.live.is_some()) {
                let mine: Result<Vec<Mine>, Error> = subjects.iter().map(mine).collect();
                let mine = mine?;
                selector = selecting(&mine);
                pods = Pods::of(mine, self.annotation);
                watched = Some(self.pods(selector.as_deref()));
            }
            if pods.are_complete {
                self.judge(&about, subjects, &pods, &mut owners, selector.as_deref()).await?;
            }
            // One that is stuck ends the wait for all, so that it is reported soon.
            if subjects.iter().any(Subject::is_stopped) {
                return Ok(());
            }
            if !subjects.iter().any(|it| it.is_complete()) {
                confirm_at = None;
                continue;
            }
            let are_all = subjects.iter().all(|it| it.is_complete() || it.has_ended());
            let at = *confirm_at.get_or_insert_with(|| Instant::now() + CONFIRMED_WITHIN);
            if !are_all && Instant::now() < at {
                continue;
            }
            confirm_at = None;

            // The watches are not in step: a pod of the older template may have been made just before its
            // workload was observed. One list of all pods, made after that observation, shows it.
            let numbered = subjects.iter().enumerate();
            let complete: Vec<usize> =
                numbered.filter(|(_, it)| it.is_complete()).map(|(at, _)| at).collect();
            pods.list(self.kubernetes, self.beside, selector.as_deref()).await?;
            self.judge(&complete, subjects, &pods, &mut owners, selector.as_deref()).await?;
            for at in complete {
                if subjects[at].is_complete() {
                    subjects[at].state = State::Ended(Ok(Progress::Done(())));
                }
            }
            if subjects.iter().all(Subject::has_ended) {
                return Ok(());
            }
        }
    }

    /// Records an event of a workload, and returns the indices of the subjects that it is about.
    fn note(&self, (kind, event): Happened, subjects: &mut [Subject<'_>]) -> Vec<usize> {
        const DELETED: &str = "it was deleted";
        const CREATE: &str = "create it again, or take it out of the spec";
        let ours = |live: &Live| {
            let name = live.metadata().name.as_deref()?;
            self.by_name.get(&(kind, name)).copied()
        };
        match event {
            Event::Init => {
                subjects.iter_mut().filter(|it| it.workload.kind == kind).for_each(|subject| {
                    subject.is_listed = false;
                });
            }
            Event::InitApply(live) | Event::Apply(live) => {
                if let Some(at) = ours(&live) {
                    subjects[at].note(live);
                    return vec![at];
                }
            }
            Event::InitDone => {
                let unlisted =
                    subjects.iter_mut().filter(|it| it.workload.kind == kind && !it.is_listed);
                unlisted.for_each(|subject| subject.stuck(DELETED, CREATE));
            }
            Event::Delete(live) => {
                if let Some(at) = ours(&live) {
                    subjects[at].stuck(DELETED, CREATE);
                }
            }
        }
        Vec::new()
    }

    /// Judges these with their pods.
    async fn judge(
        &self,
        about: &[usize],
        subjects: &mut [Subject<'_>],
        pods: &Pods<'_>,
        owners: &mut Owners,
        selector: Option<&str>,
    ) -> Result<(), Error> {
        // The owners of ReplicaSets matter only for pods that a verdict depends on.
        let is_unknown = |at: &usize| {
            let subject = &subjects[*at];
            let Some(live) = subject.live.as_ref().filter(|_| subject.is_deployment()) else {
                return false;
            };
            let is_complete = live.is_complete();
            let matters = |replica: &&Replica| {
                is_complete && replica.is_of_another_view(self.fence) || replica.is_in_trouble()
            };
            let is_current = subject.listed_at.as_deref() == subject.revision();
            let mut depended_on = pods.of_workload(*at).values().filter(matters);
            depended_on.any(|it| !(is_current && owners.knows(&it.controller.uid)))
        };
        if about.iter().any(is_unknown) {
            let numbered = subjects.iter().enumerate().filter(|(_, it)| it.is_deployment());
            let seen: BTreeSet<String> = numbered
                .flat_map(|(at, _)| pods.of_workload(at).values())
                .map(|replica| replica.controller.uid.clone())
                .collect();
            *owners = Owners::list(self.kubernetes, self.beside, selector, seen).await?;
            for subject in subjects.iter_mut() {
                subject.listed_at = subject.revision().map(str::to_owned);
            }
        }
        for at in about {
            let subject = &mut subjects[*at];
            let Some(live) = subject.live.as_ref().filter(|_| !subject.has_ended()) else {
                continue;
            };
            let is_foreign = |replica: &Replica| {
                subject.is_deployment()
                    && owners.is_foreign(&replica.controller.uid, &subject.workload.name)
            };
            let replicas: Vec<&Replica> =
                pods.of_workload(*at).values().filter(|it| !is_foreign(it)).collect();
            let current = owners.current(live.metadata().uid.as_deref(), subject.revision());
            let object = subject.object.clone();
            let rollout =
                Rollout { object: &object, annotation: self.annotation, fence: self.fence };
            match rollout.judge(live, current, &replicas) {
                Verdict::Done => {
                    subject.suspicion = None;
                    subject.state = State::Complete;
                }
                Verdict::Stuck(held) => subject.end(held),
                Verdict::Ahead(found) => {
                    subject.state = State::Ended(Ok(Progress::Ahead(found)));
                }
                Verdict::UnderWay(left) => {
                    subject.suspicion = None;
                    subject.state = State::Awaited(left);
                }
                Verdict::Suspect { culprit, held } => {
                    subject.state = State::Awaited(held.reason.clone());
                    if subject.is_certain(&culprit) {
                        subject.end(held);
                    }
                }
                // The reason is in an event alone. Without one, the suspicion starts anew.
                Verdict::Missing(left) => {
                    subject.state = State::Awaited(left);
                    if subject.is_certain(MISSING) {
                        let live = subject.live.as_ref().map(Live::metadata);
                        let refused = match live {
                            Some(live) => {
                                refusals::newest(self.kubernetes, subject.workload, live).await
                            }
                            None => None,
                        };
                        match refused {
                            Some(why) => subject.end(rollout.not_created(&why)),
                            None => drop(subject.is_certain(MISSING)),
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Opens one watch of each kind: of the only one that is waited for, or of all in the namespace.
    fn watches(&self) -> Vec<BoxStream<'_, Result<Happened, Error>>> {
        let kinds: BTreeSet<WorkloadKind> = self.by_name.keys().map(|(kind, _)| *kind).collect();
        let watch = |kind: &WorkloadKind| match kind {
            WorkloadKind::Deployment => self.watch_of::<Deployment>(*kind),
            WorkloadKind::StatefulSet => self.watch_of::<StatefulSet>(*kind),
            WorkloadKind::DaemonSet => self.watch_of::<DaemonSet>(*kind),
        };
        kinds.iter().map(watch).collect()
    }

    fn watch_of<K: Rolled>(&self, kind: WorkloadKind) -> BoxStream<'_, Result<Happened, Error>> {
        let names = self.by_name.keys().filter(|(of, _)| *of == kind).map(|(_, name)| *name);
        let names: Vec<&str> = names.collect();
        let (name, configuration) = match names[..] {
            [name] => (name, watcher::Config::default().fields(&format!("metadata.name={name}"))),
            _ => ("", watcher::Config::default()),
        };
        let namespace = &self.beside.namespace;
        let target = Target::beside(self.beside, "watch", K::RESOURCE, name);
        watch(&*self.kubernetes.access, target, configuration, move |client| {
            Api::<K>::namespaced(client, namespace)
        })
        .map(move |event| {
            event.map(|event| {
                let event = match event {
                    Event::Init => Event::Init,
                    Event::InitDone => Event::InitDone,
                    Event::InitApply(object) => Event::InitApply(object.into()),
                    Event::Apply(object) => Event::Apply(object.into()),
                    Event::Delete(object) => Event::Delete(object.into()),
                };
                (kind, event)
            })
        })
        .boxed()
    }

    fn pods(&self, selector: Option<&str>) -> BoxStream<'_, Result<Event<Pod>, Error>> {
        let configuration = watcher::Config::default();
        let configuration = match selector {
            Some(selector) => configuration.labels(selector),
            None => configuration,
        };
        let namespace = &self.beside.namespace;
        let target = Target::beside(self.beside, "watch", "pods", "");
        watch(&*self.kubernetes.access, target, configuration, move |client| {
            Api::namespaced(client, namespace)
        })
        .boxed()
    }
}

fn mine(subject: &Subject<'_>) -> Result<Mine, Error> {
    let selector = subject.live.as_ref().and_then(Live::selector).cloned().unwrap_or_default();
    let selector = Selector::try_from(selector).map_err(|error| {
        Error::new(
            Kind::Internal,
            "select the pods of",
            "its selector is not understood",
            "report this message",
        )
        .on(subject.workload)
        .caused_by(&error)
    })?;
    let Workload { kind, name, .. } = subject.workload;
    Ok(Mine { kind: *kind, name: name.clone(), selector })
}

/// The next event of a watch. It never returns while there is no watch yet.
async fn next<T>(events: &mut Option<BoxStream<'_, T>>) -> Option<T> {
    match events {
        Some(events) => events.next().await,
        None => std::future::pending().await,
    }
}

/// The time that trouble which seldom passes must last to be reported. A kubelet may see a Secret or an
/// image a moment late, and a quota is free again when the older pods are gone.
const SUSPECTED_FOR: Duration = Duration::from_secs(15);

/// The time that a workload which is rolled out waits for others to be confirmed with it.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(1);

/// The suspicion if pods are not made.
const MISSING: &str = "pods are missing";
