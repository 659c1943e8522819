//! Deployments: stamped, so that their pods are replaced, and waited for.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures::{Stream, StreamExt, stream::BoxStream};
use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet},
    core::v1::Pod,
};
use kube::{
    Api,
    api::{ListParams, Patch, PatchParams},
    core::{PartialObjectMeta, Selector},
    runtime::watcher::{self, Event},
};
use serde_json::json;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::{
    KubernetesClusters,
    call::{Failed, Target, call, spread},
    deployment::{
        ByKubectl, Replica, Rollout, Verdict, annotation, by_kubectl, manager, revision, stamped,
    },
    sync::found,
    watch::watch,
};
use crate::{
    error::{Error, Kind},
    record::Held,
    spec::Workload,
    world::{Progress, Stamp},
};

/// What a Role lists under `resources`.
pub(super) const DEPLOYMENTS: &str = "deployments.apps";

/// See [`crate::world::Clusters::stamp`].
///
/// It reads before it writes, and writes only if nothing changed in between: a stamp never goes
/// back, whoever else stamps at the same time.
pub(super) async fn stamp(
    kubernetes: &KubernetesClusters,
    workload: &Workload,
    stamp: &Stamp,
) -> Result<Option<()>, Error> {
    let annotation = annotation(stamp);
    for attempt in 1..=STAMP_ATTEMPTS {
        let Some(deployment) = read(kubernetes, workload).await? else {
            return Ok(None);
        };
        if stamped(&deployment, &annotation).is_some_and(|live| live >= stamp.revision) {
            return Ok(Some(()));
        }
        // With uid and resourceVersion an apply neither creates a Deployment that was deleted
        // meanwhile nor overwrites a newer stamp: both are conflicts.
        let apply = json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {
                "name": workload.name,
                "namespace": workload.namespace,
                "uid": deployment.metadata.uid,
                "resourceVersion": deployment.metadata.resource_version,
            },
            "spec": {"template": {"metadata": {"annotations": {
                annotation.as_str(): stamp.revision.to_string(),
            }}}},
        });
        let apply = &apply;
        // Forced: whoever else set this annotation by hand has nothing to say about it.
        let parameters = &PatchParams::apply(&manager(stamp)).force();
        let target = Target::beside(workload, "patch", DEPLOYMENTS, &workload.name);
        let applied = call(&*kubernetes.access, target, |connection| async move {
            let deployments: Api<PartialObjectMeta<Deployment>> =
                Api::namespaced(connection.client, &workload.namespace);
            deployments.patch(&workload.name, parameters, &Patch::Apply(apply)).await
        })
        .await;
        match applied {
            // Its status changes all the time while another rollout of it goes on.
            Err(Failed { code: 409, .. }) => {
                let pause = Duration::from_millis(50) * attempt;
                sleep(spread(pause, &workload.to_string())).await;
            }
            applied => return found(applied).map(|applied| applied.map(|_| ())),
        }
    }
    Err(Error::new(
        Kind::Unreachable,
        "stamp the pod template of",
        format!("it changed between reading and writing, {STAMP_ATTEMPTS} times"),
        "see who keeps changing it (kubectl get --show-managed-fields); the next run tries again",
    )
    .on(workload))
}

/// The workload's Deployment; `None` where there is none.
pub(super) async fn read(
    kubernetes: &KubernetesClusters,
    workload: &Workload,
) -> Result<Option<Deployment>, Error> {
    let target = Target::beside(workload, "get", DEPLOYMENTS, &workload.name);
    let answer = call(&*kubernetes.access, target, |connection| async move {
        let deployments: Api<Deployment> = Api::namespaced(connection.client, &workload.namespace);
        deployments.get(&workload.name).await
    });
    found(answer.await)
}

/// See [`crate::world::Clusters::rolled_out`].
pub(super) async fn rolled_out(
    kubernetes: &KubernetesClusters,
    workload: &Workload,
    stamp: &Stamp,
    within: Duration,
) -> Result<Progress<()>, Error> {
    let deadline = Instant::now() + within;
    let mut words = "the Deployment was not looked at yet".to_owned();
    let object = workload.to_string();
    let annotation = annotation(stamp);
    let rollout = Rollout { object: &object, annotation: &annotation, revision: stamp.revision };
    let wait = Wait { kubernetes, workload, rollout };
    match timeout_at(deadline, wait.until_rolled_out(&mut words)).await {
        Ok(progress) => progress,
        Err(_) => Ok(Progress::UnderWay(words)),
    }
}

/// One wait for one Deployment.
struct Wait<'a> {
    kubernetes: &'a KubernetesClusters,
    workload: &'a Workload,
    rollout: Rollout<'a>,
}

impl Wait<'_> {
    /// Keeps in `words` what is awaited.
    async fn until_rolled_out(&self, words: &mut String) -> Result<Progress<()>, Error> {
        let mut deployments = std::pin::pin!(self.deployments());
        let mut pods: Option<BoxStream<'_, Result<Event<Pod>, Error>>> = None;
        let mut selector = String::new();

        let mut deployment: Option<Deployment> = None;
        let mut is_there = false;
        let mut replicas = Replicas::default();
        let mut owners = Owners::default();
        let mut suspicion: Option<Suspicion> = None;
        loop {
            let certain_at = suspicion.as_ref().map(|suspicion| suspicion.certain_at);
            tokio::select! {
                event = deployments.next() => match event.transpose()? {
                    Some(Event::InitApply(seen) | Event::Apply(seen)) => {
                        is_there = true;
                        deployment = Some(seen);
                    }
                    Some(Event::Init) => {
                        is_there = false;
                        continue;
                    }
                    Some(Event::InitDone) if is_there => continue,
                    Some(Event::InitDone | Event::Delete(_)) | None => {
                        return Ok(Progress::Stuck(Held::new(
                            self.rollout.object,
                            "the Deployment was deleted",
                            "create it again, or take it out of the spec",
                        )));
                    }
                },
                event = next(&mut pods) => match event.transpose()? {
                    Some(event) => replicas.note(event, self.rollout.annotation),
                    None => continue,
                },
                () = sleep_until(certain_at.unwrap_or_else(Instant::now)),
                    if certain_at.is_some() => {}
            }
            let Some(deployment) = &deployment else {
                continue;
            };
            if pods.is_none() {
                selector = self.selector(deployment)?;
                pods = Some(self.pods(&selector).boxed());
            }
            let Some(seen) = &replicas.complete else {
                continue;
            };

            // Whose the ReplicaSets are matters only for pods that something depends on.
            let complete = by_kubectl(deployment) == ByKubectl::Complete;
            let matters = |replica: &&Replica| {
                complete && replica.is_older(self.rollout.revision) || replica.is_in_trouble()
            };
            let at = revision(&deployment.metadata);
            if !seen.values().filter(matters).all(|it| owners.knows(at, &it.replica_set)) {
                owners = self.owners(deployment, &selector, seen).await?;
            }
            let judge = |replicas: &BTreeMap<String, Replica>| {
                let ours = replicas.values().filter(|it| !owners.foreign.contains(&it.replica_set));
                let ours: Vec<_> = ours.collect();
                self.rollout.judge(deployment, owners.current.as_deref(), &ours)
            };
            let mut verdict = judge(seen);
            if verdict == Verdict::Done {
                // The two watches do not keep step: a pod of the older template may have been made
                // just before the Deployment was observed. One look at all pods, after it.
                let listed = self.listed(&selector).await?;
                verdict = judge(&listed);
                replicas.complete = Some(listed);
            }
            match verdict {
                Verdict::Done => return Ok(Progress::Done(())),
                Verdict::Stuck(held) => return Ok(Progress::Stuck(held)),
                Verdict::UnderWay(left) => {
                    *words = left;
                    suspicion = None;
                }
                Verdict::Suspect { culprit, held } => {
                    words.clone_from(&held.reason);
                    let now = Instant::now();
                    let known = suspicion.take().filter(|known| known.culprit == culprit);
                    let certain_at = known.map_or(now + SUSPECTED_FOR, |known| known.certain_at);
                    if certain_at <= now {
                        return Ok(Progress::Stuck(held));
                    }
                    suspicion = Some(Suspicion { culprit, certain_at });
                }
            }
        }
    }

    fn deployments(&self) -> impl Stream<Item = Result<Event<Deployment>, Error>> + Send {
        let workload = self.workload;
        let target = Target::beside(workload, "watch", DEPLOYMENTS, &workload.name);
        let selected =
            watcher::Config::default().fields(&format!("metadata.name={}", workload.name));
        watch(&*self.kubernetes.access, target, selected, |client| {
            Api::namespaced(client, &workload.namespace)
        })
    }

    fn pods(
        &self,
        selector: &str,
    ) -> impl Stream<Item = Result<Event<Pod>, Error>> + Send + use<'_> {
        let workload = self.workload;
        let target = Target::beside(workload, "watch", "pods", "");
        let selected = watcher::Config::default().labels(selector);
        watch(&*self.kubernetes.access, target, selected, |client| {
            Api::namespaced(client, &workload.namespace)
        })
    }

    /// The pods that there are now, not those that there were a moment ago.
    async fn listed(&self, selector: &str) -> Result<BTreeMap<String, Replica>, Error> {
        let target = Target::beside(self.workload, "list", "pods", "");
        let selected = &ListParams::default().labels(selector);
        let listed = call(&*self.kubernetes.access, target, |connection| async move {
            let pods: Api<Pod> = Api::namespaced(connection.client, &self.workload.namespace);
            pods.list(selected).await
        });
        let replicas = listed.await?.items;
        let replicas = replicas.iter().filter_map(|pod| Replica::of(pod, self.rollout.annotation));
        Ok(replicas.map(|replica| (replica.name.clone(), replica)).collect())
    }

    /// Whose the ReplicaSets of these pods are. One that is gone already (`revisionHistoryLimit`
    /// removes it while its pods are Terminating) counts as ours: the pods bear our labels.
    async fn owners(
        &self,
        deployment: &Deployment,
        selector: &str,
        replicas: &BTreeMap<String, Replica>,
    ) -> Result<Owners, Error> {
        let target = Target::beside(self.workload, "list", "replicasets.apps", "");
        let selected = &ListParams::default().labels(selector);
        let listed = call(&*self.kubernetes.access, target, |connection| async move {
            let replica_sets: Api<PartialObjectMeta<ReplicaSet>> =
                Api::namespaced(connection.client, &self.workload.namespace);
            replica_sets.list(selected).await
        });
        let mut owners = Owners {
            revision: revision(&deployment.metadata).map(str::to_owned),
            known: replicas.values().map(|replica| replica.replica_set.clone()).collect(),
            ..Owners::default()
        };
        for replica_set in listed.await?.items {
            let metadata = replica_set.metadata;
            let is_ours = metadata.owner_references.iter().flatten().any(|owner| {
                owner.controller == Some(true)
                    && Some(&owner.uid) == deployment.metadata.uid.as_ref()
            });
            let is_current = is_ours && revision(&metadata) == owners.revision.as_deref();
            let uid = metadata.uid.unwrap_or_default();
            if !is_ours {
                owners.foreign.insert(uid);
            } else if is_current {
                owners.current = Some(uid);
            }
        }
        Ok(owners)
    }

    fn selector(&self, deployment: &Deployment) -> Result<String, Error> {
        let selector = deployment.spec.as_ref().map(|spec| spec.selector.clone());
        let selector = Selector::try_from(selector.unwrap_or_default());
        selector.map(|selector| selector.to_string()).map_err(|error| {
            Error::new(
                Kind::Internal,
                "select the pods of",
                "its selector is not understood",
                "report this message",
            )
            .on(self.workload)
            .caused_by(&error)
        })
    }
}

/// Pods, as far as the watch has told.
#[derive(Default)]
struct Replicas {
    /// All of them; `None` until the first list is complete.
    complete: Option<BTreeMap<String, Replica>>,
    /// Those of a list that goes on.
    listing: BTreeMap<String, Replica>,
}

impl Replicas {
    fn note(&mut self, event: Event<Pod>, annotation: &str) {
        let name = |pod: &Pod| pod.metadata.name.clone().unwrap_or_default();
        match event {
            Event::Init => self.listing.clear(),
            Event::InitApply(pod) => {
                self.listing.extend(Replica::of(&pod, annotation).map(|it| (name(&pod), it)));
            }
            Event::InitDone => self.complete = Some(std::mem::take(&mut self.listing)),
            Event::Apply(pod) => {
                let replicas = self.complete.get_or_insert_default();
                match Replica::of(&pod, annotation) {
                    Some(replica) => replicas.insert(name(&pod), replica),
                    None => replicas.remove(&name(&pod)),
                };
            }
            Event::Delete(pod) => {
                self.complete.get_or_insert_default().remove(&name(&pod));
            }
        }
    }
}

/// Whose ReplicaSets are, by uid.
#[derive(Default)]
struct Owners {
    /// The Deployment's revision when they were looked at.
    revision: Option<String>,
    /// Those of all pods that there were then.
    known: BTreeSet<String>,
    /// Those of somebody else.
    foreign: BTreeSet<String>,
    /// The one of that revision.
    current: Option<String>,
}

impl Owners {
    fn knows(&self, revision: Option<&str>, replica_set: &str) -> bool {
        self.revision.as_deref() == revision && self.known.contains(replica_set)
    }
}

/// Trouble that seldom goes by.
struct Suspicion {
    culprit: String,
    certain_at: Instant,
}

/// The next event of a watch, for ever none where there is no watch yet.
async fn next<T>(events: &mut Option<BoxStream<'_, T>>) -> Option<T> {
    match events {
        Some(events) => events.next().await,
        None => std::future::pending().await,
    }
}

/// How often a stamp is tried when the Deployment changes at the same time.
const STAMP_ATTEMPTS: u32 = 12;

/// How long trouble that seldom goes by must last to be reported: a kubelet may see a Secret or an
/// image a moment late, and a quota is free again when the older pods are gone.
const SUSPECTED_FOR: Duration = Duration::from_secs(15);
