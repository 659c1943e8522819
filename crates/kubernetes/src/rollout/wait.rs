//! The wait for all workloads of one namespace that are rolled together.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use changeover_core::{
    error::{Error, Kind},
    ports::{Progress, Stamp},
    record::Held,
    spec::{Workload, WorkloadKind},
};
use futures::{
    StreamExt,
    stream::{BoxStream, select_all},
};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use kube::{
    Api,
    core::Selector,
    runtime::watcher::{self, Event as Watched},
};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::{
    Rolled, annotation,
    owners::ReplicaSetOwners,
    pods::{PodOwnership, Pods, selecting},
    progress::{RolloutAction, RolloutEvent, RolloutWait},
    refusals,
};
use crate::{
    KubernetesClusters,
    call::Target,
    watch::watch,
    workload::{Pod, PodState, Rollout, RolloutStatus, WorkloadObject, deployment::revision},
};

/// See [`changeover_core::ports::Workloads::rolled_out`].
///
/// It returns as soon as one of them is stuck, with the progress of the others.
pub(super) async fn rolled_out(
    kubernetes: &KubernetesClusters,
    workloads: &[&Workload],
    stamp: &Stamp,
    within: Duration,
) -> Vec<Result<Progress<()>, Error>> {
    let deadline = Instant::now() + within;
    let Some(beside) = workloads.first() else { return Vec::new() };
    let annotation = annotation(stamp);
    let by_name = workloads.iter().enumerate().map(|(at, it)| ((it.kind, &*it.name), at));
    let mut wait = Wait {
        kubernetes,
        beside,
        annotation: &annotation,
        stamp,
        by_name: by_name.collect(),
        subjects: workloads.iter().map(|it| Subject::new(it)).collect(),
        selector: None,
        pods: Pods::of(Vec::new(), &annotation),
        owners: ReplicaSetOwners::default(),
        confirm_at: None,
    };
    let error = match timeout_at(deadline, wait.until_rolled_out()).await {
        Ok(Err(error)) => Some(error),
        Ok(Ok(())) | Err(_) => None,
    };
    let answers = wait.subjects.into_iter().map(|subject| match &error {
        Some(error) if !subject.wait.has_ended() => Err(error.clone()),
        _ => Ok(subject.wait.progress()),
    });
    answers.collect()
}

/// One wait for some workloads of one namespace.
struct Wait<'a> {
    kubernetes: &'a KubernetesClusters,
    /// One of them, which determines the cluster and the namespace.
    beside: &'a Workload,
    /// The annotation that carries the stamp.
    annotation: &'a str,
    stamp: &'a Stamp,
    /// The index of each among the subjects, by its kind and name.
    by_name: BTreeMap<(WorkloadKind, &'a str), usize>,
    subjects: Vec<Subject<'a>>,
    /// The selector of their pods, if they have a label in common. Known once all of them were seen.
    selector: Option<String>,
    pods: Pods<'a>,
    owners: ReplicaSetOwners,
    /// The time at which those that are complete are confirmed.
    confirm_at: Option<Instant>,
}

/// One workload that is waited for.
struct Subject<'a> {
    workload: &'a Workload,
    /// Its name in reports.
    object: String,
    /// The workload as it was last seen.
    live: Option<WorkloadObject>,
    /// True if the list in progress has shown it.
    is_listed: bool,
    /// Its revision when ReplicaSets were last listed.
    listed_at: Option<String>,
    wait: RolloutWait,
}

/// An event of a workload of this kind.
type Happened = (WorkloadKind, Watched<WorkloadObject>);

impl<'a> Wait<'a> {
    /// Returns when all are rolled out, or when one of them has ended otherwise, so that it is reported soon.
    async fn until_rolled_out(&mut self) -> Result<(), Error> {
        let mut workloads = select_all(self.watches());
        let mut pods: Option<BoxStream<'a, Result<Watched<Pod>, Error>>> = None;
        while !self.is_over() {
            let suspected = self.subjects.iter().filter_map(|it| it.wait.wakes_at());
            let wake_at = suspected.chain(self.confirm_at).min();
            let about = tokio::select! {
                event = workloads.next() => match event.transpose()? {
                    Some(happened) => self.note(happened),
                    None => Vec::new(),
                },
                event = next(&mut pods) => match event.transpose()? {
                    Some(event) => self.pods.note(event),
                    None => Vec::new(),
                },
                () = sleep_until(wake_at.unwrap_or_else(Instant::now)), if wake_at.is_some() => {
                    (0..self.subjects.len()).collect()
                }
            };
            // The pods are watched as soon as every workload was seen, since its object names its selector.
            if pods.is_none() && self.subjects.iter().all(|it| it.live.is_some()) {
                pods = Some(self.watch_pods()?);
            }
            if self.pods.are_complete {
                self.judge(&about).await?;
            }
            if self.is_time_to_confirm() {
                self.confirm().await?;
            }
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.subjects.iter().any(|it| it.wait.is_stopped())
            || self.subjects.iter().all(|it| it.wait.has_ended())
    }

    /// Records an event of a workload, and returns the indices of the subjects that it is about.
    fn note(&mut self, (kind, event): Happened) -> Vec<usize> {
        let by_name = &self.by_name;
        let ours = |live: &WorkloadObject| {
            let name = live.metadata().name.as_deref()?;
            by_name.get(&(kind, name)).copied()
        };
        match event {
            Watched::Init => {
                self.subjects.iter_mut().filter(|it| it.workload.kind == kind).for_each(
                    |subject| {
                        subject.is_listed = false;
                    },
                );
            }
            Watched::InitApply(live) | Watched::Apply(live) => {
                if let Some(at) = ours(&live) {
                    self.subjects[at].note(live);
                    return vec![at];
                }
            }
            Watched::InitDone => {
                let unlisted =
                    self.subjects.iter_mut().filter(|it| it.workload.kind == kind && !it.is_listed);
                unlisted.for_each(Subject::is_deleted);
            }
            Watched::Delete(live) => {
                if let Some(at) = ours(&live) {
                    self.subjects[at].is_deleted();
                }
            }
        }
        Vec::new()
    }

    /// Judges these with their pods.
    async fn judge(&mut self, about: &[usize]) -> Result<(), Error> {
        if about.iter().any(|at| self.depends_on_owners(*at)) {
            self.list_owners().await?;
        }
        for at in about {
            let subject = &self.subjects[*at];
            let Some(live) = subject.live.as_ref().filter(|_| !subject.wait.has_ended()) else {
                continue;
            };
            let replicas: Vec<&PodState> = self
                .pods
                .of_workload(*at)
                .values()
                .filter(|replica| !subject.is_of_another(replica, &self.owners))
                .collect();
            let uid = live.metadata().uid.as_deref();
            let current = self.owners.current(uid, subject.revision());
            let object = subject.object.clone();
            let (annotation, fence) = (self.annotation, self.stamp.fence);
            let rollout = Rollout { object: &object, annotation, fence };
            let status = rollout.judge(live, current, &replicas);
            match self.subjects[*at].on(RolloutEvent::Judged(status)) {
                RolloutAction::Wait => {}
                RolloutAction::ReadRefusal => {
                    let subject = &mut self.subjects[*at];
                    let read = match subject.live.as_ref().map(WorkloadObject::metadata) {
                        Some(live) => {
                            refusals::newest(self.kubernetes, subject.workload, live).await
                        }
                        None => None,
                    };
                    subject
                        .on(RolloutEvent::RefusalRead(read.map(|why| rollout.not_created(&why))));
                }
            }
        }
        Ok(())
    }

    /// True if the judgement of one of them depends on ReplicaSets whose owners are not known. Owners matter
    /// only for pods that the judgement depends on.
    fn depends_on_owners(&self, at: usize) -> bool {
        let subject = &self.subjects[at];
        let Some(live) = subject.live.as_ref().filter(|_| subject.is_deployment()) else {
            return false;
        };
        let is_complete = live.is_complete();
        let matters = |replica: &&PodState| {
            is_complete && replica.is_of_another_view(self.stamp.fence) || replica.is_in_trouble()
        };
        let is_current = subject.listed_at.as_deref() == subject.revision();
        let mut depended_on = self.pods.of_workload(at).values().filter(matters);
        depended_on.any(|it| !(is_current && self.owners.knows(&it.controller.uid)))
    }

    async fn list_owners(&mut self) -> Result<(), Error> {
        let numbered = self.subjects.iter().enumerate().filter(|(_, it)| it.is_deployment());
        let seen: BTreeSet<String> = numbered
            .flat_map(|(at, _)| self.pods.of_workload(at).values())
            .map(|replica| replica.controller.uid.clone())
            .collect();
        let selector = self.selector.as_deref();
        self.owners = ReplicaSetOwners::list(self.kubernetes, self.beside, selector, seen).await?;
        for subject in &mut self.subjects {
            subject.listed_at = subject.revision().map(str::to_owned);
        }
        Ok(())
    }

    /// True if those that are complete are to be confirmed now: together with those that soon will be, but
    /// not much later.
    fn is_time_to_confirm(&mut self) -> bool {
        if self.is_over() || !self.subjects.iter().any(|it| it.wait.is_complete()) {
            self.confirm_at = None;
            return false;
        }
        let now = Instant::now();
        let at = *self.confirm_at.get_or_insert(now + CONFIRMED_WITHIN);
        let mut subjects = self.subjects.iter();
        at <= now || subjects.all(|it| it.wait.is_complete() || it.wait.has_ended())
    }

    /// Confirms those that are complete. The watches are not in step: a pod of the older template may have
    /// been made just before its workload was observed. One list of all pods, made after that observation,
    /// shows it.
    async fn confirm(&mut self) -> Result<(), Error> {
        self.confirm_at = None;
        let numbered = self.subjects.iter().enumerate();
        let complete: Vec<usize> =
            numbered.filter(|(_, it)| it.wait.is_complete()).map(|(at, _)| at).collect();
        self.pods.list(self.kubernetes, self.beside, self.selector.as_deref()).await?;
        self.judge(&complete).await?;
        for at in complete {
            self.subjects[at].on(RolloutEvent::Confirmed);
        }
        Ok(())
    }

    /// Opens one watch of each kind: of the only one that is waited for, or of all in the namespace.
    fn watches(&self) -> Vec<BoxStream<'a, Result<Happened, Error>>> {
        let kinds: BTreeSet<WorkloadKind> = self.by_name.keys().map(|(kind, _)| *kind).collect();
        let watch = |kind: &WorkloadKind| match kind {
            WorkloadKind::Deployment => self.watch_of::<Deployment>(*kind),
            WorkloadKind::StatefulSet => self.watch_of::<StatefulSet>(*kind),
            WorkloadKind::DaemonSet => self.watch_of::<DaemonSet>(*kind),
        };
        kinds.iter().map(watch).collect()
    }

    fn watch_of<K: Rolled>(&self, kind: WorkloadKind) -> BoxStream<'a, Result<Happened, Error>> {
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
                    Watched::Init => Watched::Init,
                    Watched::InitDone => Watched::InitDone,
                    Watched::InitApply(object) => Watched::InitApply(object.into()),
                    Watched::Apply(object) => Watched::Apply(object.into()),
                    Watched::Delete(object) => Watched::Delete(object.into()),
                };
                (kind, event)
            })
        })
        .boxed()
    }

    /// Opens the watch of their pods, by the selectors that their objects name.
    fn watch_pods(&mut self) -> Result<BoxStream<'a, Result<Watched<Pod>, Error>>, Error> {
        let mine = self
            .subjects
            .iter()
            .map(Subject::pods)
            .collect::<Result<Vec<PodOwnership>, Error>>()?;
        self.selector = selecting(&mine);
        self.pods = Pods::of(mine, self.annotation);
        let configuration = watcher::Config::default();
        let configuration = match &self.selector {
            Some(selector) => configuration.labels(selector),
            None => configuration,
        };
        let namespace = &self.beside.namespace;
        let target = Target::beside(self.beside, "watch", "pods", "");
        Ok(watch(&*self.kubernetes.access, target, configuration, move |client| {
            Api::namespaced(client, namespace)
        })
        .boxed())
    }
}

impl<'a> Subject<'a> {
    fn new(workload: &'a Workload) -> Self {
        Self {
            workload,
            object: workload.to_string(),
            live: None,
            is_listed: false,
            listed_at: None,
            wait: RolloutWait::new(),
        }
    }

    /// Applies an event, and returns the action that it calls for.
    fn on(&mut self, event: RolloutEvent) -> RolloutAction {
        let (after, action) = self.wait.clone().on(event, Instant::now());
        self.wait = after;
        action
    }

    /// Records its present state.
    fn note(&mut self, seen: WorkloadObject) {
        self.is_listed = true;
        let uid = |live: &WorkloadObject| live.metadata().uid.clone();
        if self.live.as_ref().is_some_and(|known| uid(known) != uid(&seen)) {
            let fix = "nothing, if that is meant: the next run stamps the new one";
            return self.is_lost("it was deleted and created anew", fix);
        }
        if self.live.is_none() {
            self.on(RolloutEvent::Judged(RolloutStatus::UnderWay(seen.awaited())));
        }
        self.live = Some(seen);
    }

    fn is_deleted(&mut self) {
        self.is_lost("it was deleted", "create it again, or take it out of the spec");
    }

    fn is_lost(&mut self, reason: &str, fix: &str) {
        let held = Held::new(&self.object, reason, fix);
        self.on(RolloutEvent::Lost(held));
    }

    fn is_deployment(&self) -> bool {
        self.workload.kind == WorkloadKind::Deployment
    }

    /// The revision that its Deployment is at.
    fn revision(&self) -> Option<&str> {
        revision(self.live.as_ref()?.metadata())
    }

    /// True if a pod that its selector matches belongs to another Deployment.
    fn is_of_another(&self, replica: &PodState, owners: &ReplicaSetOwners) -> bool {
        self.is_deployment() && owners.is_foreign(&replica.controller.uid, &self.workload.name)
    }

    /// The criteria by which pods are its own.
    fn pods(&self) -> Result<PodOwnership, Error> {
        let selector =
            self.live.as_ref().and_then(WorkloadObject::selector).cloned().unwrap_or_default();
        let selector = Selector::try_from(selector).map_err(|error| {
            Error::new(
                Kind::Internal,
                "select the pods of",
                "its selector is not understood",
                "report this message",
            )
            .on(self.workload)
            .caused_by(&error)
        })?;
        let Workload { kind, name, .. } = self.workload;
        Ok(PodOwnership { kind: *kind, name: name.clone(), selector })
    }
}

/// The next event of a watch. It never returns while there is no watch yet.
async fn next<T>(events: &mut Option<BoxStream<'_, T>>) -> Option<T> {
    match events {
        Some(events) => events.next().await,
        None => std::future::pending().await,
    }
}

/// The time that a workload which is rolled out waits for others to be confirmed with it.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(1);
