//! Preflight of the workloads: finds what would keep a workload from ever taking up a view, before anything
//! is minted.
//!
//! ```text
//! rollout_strategy          its ability to replace its pods            (pure)
//! secret_usage              the path from the Secret to its containers (pure)
//! conflicting_controllers   the other actors that act on it            (pure)
//! admission                 the verdict of policies and webhooks on our changes
//! copy                      the stores behind an ExternalSecret, and the other views that it copies
//! rights                    the function's rights
//! other_consumers           the other users of the Secret
//! serving                   the pods that serve beside a workload, or in place of one without replicas
//! ```

mod admission;
mod secret_usage;
mod copy;
mod other_consumers;
mod conflicting_controllers;
mod rollout_strategy;
mod rights;
mod serving;

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use changeover_core::{
    error::{Error, Kind},
    finding::{Examination, Finding, Severity, Subject},
    ports::{Clusters, Stamp},
    spec::{ParameterName, PicksUp, SecretCopy, Side, Workload, WorkloadKind},
};
use changeover_token::{Digest, Fence};
use futures::{StreamExt, future::join_all, stream};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};

use tracing::warn;

use self::{other_consumers::NamespaceScan, rights::SoleWatcher, secret_usage::SecretSource};
use crate::{
    KubernetesClusters,
    call::{Target, call},
    cluster_external_secret::{child, why_absent},
    external_secret::{ExternalSecret, copies, obstacles, secret_name},
    rollout,
    sync::{self, Found},
    workload::WorkloadObject,
};

#[async_trait]
impl Clusters for KubernetesClusters {
    async fn describe(&self, clusters: &BTreeSet<String>) -> BTreeMap<String, Digest> {
        let reads = clusters.iter().map(|cluster| self.access.describe(cluster));
        let read = clusters.iter().zip(join_all(reads).await);
        read.filter_map(|(cluster, read)| match read {
            Ok(digest) => Some((cluster.clone(), digest)),
            Err(error) => {
                // The call that needs the cluster reports the error, under the cluster's name.
                warn!(cluster, %error, "not described");
                None
            }
        })
        .collect()
    }

    async fn inspect(&self, subject: &Subject<'_>) -> Result<Vec<Finding>, Error> {
        let Looked { examination, forbidden, .. } = look(self, subject).await?;
        Ok([examination.findings, forbidden].concat())
    }

    async fn examine(
        &self,
        subjects: &[Subject<'_>],
        published: &BTreeSet<ParameterName>,
    ) -> Examination {
        // Clusters first: nothing can be asked about a workload whose API server does not answer.
        let mut examination = Examination::default();
        let reached = reach_clusters(self, subjects, &mut examination).await;

        // Then the workloads of the clusters that answered. Each also adds to the rights and the Secrets that
        // are asked about below, once for all workloads.
        let mut reachable = subjects.to_vec();
        reachable.retain(|it| reached.contains(it.workload.cluster.as_str()));
        let looks = reachable.iter().map(|it| look(self, it)).collect();
        let mut needed = BTreeSet::new();
        let mut scans: BTreeMap<(&str, &str), NamespaceScan> = BTreeMap::new();
        for (subject, looked) in reachable.iter().zip(a_few(looks).await) {
            let workload = subject.workload;
            let mut looked = looked.unwrap_or_else(|error| {
                let mut looked = Looked::default();
                looked.examination.findings.push(Finding::failed(workload.to_string(), error));
                looked
            });
            if let Some((name, external_secret)) = &looked.external_secret {
                let object = sync::object(workload, name);
                looked.examination.findings.extend(copy::torn(&object, external_secret, published));
            }
            let place = (workload.cluster.as_str(), workload.namespace.as_str());
            let scan = scans.entry(place).or_default();
            scan.known.insert(format!("{}/{}", workload.kind, workload.name));
            scan.secrets.extend(looked.secret.clone());
            let alone = sole_watcher(&reachable, workload);
            let external_secret = looked.external_secret.as_ref().map(|(name, _)| name.as_str());
            let secret = looked.secret.as_deref();
            needed.extend(rights::needed(workload, alone, external_secret, secret));
            looked.examination.findings.extend(looked.unread);
            examination.add(looked.examination);
        }
        // Without a Secret there are no users to look for.
        scans.retain(|_, scan| !scan.secrets.is_empty());

        let (rights, consumers) =
            tokio::join!(rights::examine(self, &needed), other_consumers::examine(self, &scans),);
        for part in [rights, consumers] {
            examination.add(part);
        }
        examination
    }
}

/// Reaches the clusters of these workloads, and returns those that answer.
async fn reach_clusters<'a>(
    kubernetes: &KubernetesClusters,
    subjects: &[Subject<'a>],
    examination: &mut Examination,
) -> BTreeSet<&'a str> {
    let clusters: BTreeSet<&str> = subjects.iter().map(|it| it.workload.cluster.as_str()).collect();
    let reaches = clusters.iter().map(|cluster| reach(kubernetes, cluster)).collect();
    let mut reached = BTreeSet::new();
    for (cluster, answer) in clusters.iter().zip(a_few(reaches).await) {
        let object = format!("cluster {cluster}");
        match answer {
            Ok(()) => {
                reached.insert(*cluster);
                examination.right(object, "it answers, and knows the function");
            }
            Err(error) => examination.findings.push(Finding::failed(object, error)),
        }
    }
    reached
}

/// Determines which watches beside this workload are for it alone. A right on one object by its name is
/// enough only if no other workload in its namespace needs the same watch.
fn sole_watcher(reachable: &[Subject<'_>], workload: &Workload) -> SoleWatcher {
    let beside = reachable.iter().map(|it| it.workload).filter(|other| {
        (&other.cluster, &other.namespace) == (&workload.cluster, &workload.namespace)
    });
    let rolled = beside
        .clone()
        .filter(|other| other.kind == workload.kind && other.picks_up == PicksUp::Restart);
    let synced = beside.filter(
        |other| matches!(&other.copy, Some(copy) if !matches!(copy, SecretCopy::Secret { .. })),
    );
    SoleWatcher { in_rolling: rolled.count() == 1, in_syncing: synced.count() == 1 }
}

/// Checks that the API server answers and accepts our identity. The content of its answer does not matter:
/// a 403 passes, too.
async fn reach(kubernetes: &KubernetesClusters, cluster: &str) -> Result<(), Error> {
    let resource = "its version";
    let target = Target { cluster, namespace: "", verb: "get", resource, name: "" };
    let answer = call(&*kubernetes.access, target, |connection| async move {
        let request = http::Request::get("/version").body(Vec::new());
        connection.client.request_text(request.map_err(kube::Error::HttpError)?).await
    });
    match answer.await {
        Err(failed) if failed.code != 403 => Err(failed.error),
        _ => Ok(()),
    }
}

/// The results of the two reads: of a workload, and of what is copied for it.
#[derive(Default)]
struct Looked {
    examination: Examination,
    /// Missing rights, as the dry run of a change showed them. Preflight asks about each right instead.
    forbidden: Vec<Finding>,
    /// Stores that may not be read. That stops no rotation.
    unread: Vec<Finding>,
    /// The ExternalSecret, with its name.
    external_secret: Option<(String, ExternalSecret)>,
    /// The name of the Secret that holds the copy.
    secret: Option<String>,
}

async fn look(kubernetes: &KubernetesClusters, subject: &Subject<'_>) -> Result<Looked, Error> {
    let mut looked = Looked::default();
    let object = subject.workload.to_string();
    let live = match readable(&object, read(kubernetes, subject.workload).await)? {
        Ok(live) => {
            looked.examination.right(&object, "it exists");
            Some(live)
        }
        Err(finding) => {
            looked.examination.findings.push(finding);
            None
        }
    };
    if let Some(live) = live.as_ref().filter(|_| subject.workload.picks_up == PicksUp::Restart) {
        looked.rolls(kubernetes, subject, live).await?;
    }
    looked.copies(kubernetes, subject).await?;
    if let Some(live) = &live {
        looked.reaches(subject, live);
    }
    Ok(looked)
}

impl Looked {
    /// Checks that the workload can be rolled out, and that its rollout proves something.
    async fn rolls(
        &mut self,
        kubernetes: &KubernetesClusters,
        subject: &Subject<'_>,
        live: &WorkloadObject,
    ) -> Result<(), Error> {
        let (workload, stamp) = (subject.workload, &stamp_of(subject));
        let object = workload.to_string();
        let findings = rollout_strategy::judge(&object, live);
        if findings.is_empty() {
            self.examination.right(&object, "it can replace its pods");
        }
        self.examination.findings.extend(findings);
        self.examination.findings.extend(serving::look(kubernetes, workload, live).await?);
        self.examination.rollouts.insert(object.clone(), rollout_strategy::takes(live));
        let stamped = live.stamped(&rollout::annotation(stamp)).unwrap_or_default();
        self.examination.findings.extend(newer(subject, &object, stamped));
        let judged = rollout::dry_run(kubernetes, workload, live, stamp).await;
        self.note(&object, "admission lets it be stamped", judged)
    }

    /// Checks that the view can get into the workload's Secret.
    async fn copies(
        &mut self,
        kubernetes: &KubernetesClusters,
        subject: &Subject<'_>,
    ) -> Result<(), Error> {
        let workload = subject.workload;
        match &workload.copy {
            None => Ok(()),
            Some(SecretCopy::ExternalSecret { name, secret_key }) => {
                let copying = Copying { name, keeper: None, secret_key: secret_key.as_deref() };
                let absent = || Finding::missing(sync::object(workload, name));
                copying.look(kubernetes, subject, absent, self).await?;
                // An ExternalSecret that could not be read is a finding already, and cannot be refreshed.
                if self.external_secret.is_none() {
                    return Ok(());
                }
                let judged = sync::dry_run_of_force(kubernetes, workload, name, None).await;
                self.note(&sync::object(workload, name), REFRESHED, judged)
            }
            Some(SecretCopy::ClusterExternalSecret { name, secret_key }) => {
                // The keeper is read first, since it gives its ExternalSecret the name.
                let object = format!("{}/clusterexternalsecret/{name}", workload.cluster);
                let keeper = sync::read_keeper(kubernetes, workload).await;
                let keeper = match readable(&object, keeper)? {
                    Ok(keeper) => keeper,
                    Err(finding) => {
                        self.examination.findings.push(finding);
                        return Ok(());
                    }
                };
                let (child, secret_key) = (child(&keeper), secret_key.as_deref());
                let copying = Copying { name: child, keeper: Some(name), secret_key };
                let absent = || {
                    let (reason, fix) = why_absent(&keeper, &workload.namespace);
                    Finding { severity: Severity::Missing, object: object.clone(), reason, fix }
                };
                copying.look(kubernetes, subject, absent, self).await?;
                // The refresh is forced on the keeper, which overwrites annotations of its
                // ExternalSecret.
                let judged = sync::dry_run_of_force(kubernetes, workload, child, Some(name)).await;
                self.note(&object, REFRESHED, judged)
            }
            Some(SecretCopy::Secret { name, key }) => {
                // A Secret that is not ours to write is never changed, so no write is tried.
                self.secret = Some(name.clone());
                let (object, stamp) = (sync::secret_object(workload, name), &stamp_of(subject));
                let found = sync::look_at_written(kubernetes, workload, name, key, stamp).await;
                let (exists, finding) = match readable(&object, found.map(Some))? {
                    Err(finding) | Ok(Found::InTheWay(finding)) => {
                        self.examination.findings.push(finding);
                        return Ok(());
                    }
                    Ok(Found::Ours(standing)) => (true, newer(subject, &object, standing)),
                    Ok(Found::Nothing) => (false, unwritten(subject, &object, "it does not exist")),
                };
                self.examination.findings.extend(finding);
                let judged = sync::dry_run_of_write(kubernetes, workload, stamp, exists).await;
                self.note(&object, "admission lets its key be written", judged)
            }
        }
    }

    /// Checks that the content of the Secret reaches the workload's containers, and looks for other actors
    /// that act on the workload.
    fn reaches(&mut self, subject: &Subject<'_>, live: &WorkloadObject) {
        let workload = subject.workload;
        let object = workload.to_string();
        let Some(template) = live.template() else { return };
        self.examination.findings.extend(conflicting_controllers::judge(
            &object,
            live.metadata(),
            template.metadata.as_ref(),
            self.secret.as_deref(),
        ));
        let copied;
        let (keys, is_templated) = match (&workload.copy, &self.external_secret) {
            (Some(SecretCopy::Secret { key, .. }), _) => (vec![key.as_str()], false),
            (_, Some((_, external_secret))) => {
                let spec = &external_secret.spec;
                let secret_key = sync::secret_key(workload);
                copied = copies(spec, secret_key, subject.parameters.iter());
                (copied.iter().map(|copy| copy.secret_key).collect(), spec.is_templated())
            }
            _ => (Vec::new(), false),
        };
        // If the ExternalSecret copies none of its parameters, the keys that hold the view are unknown.
        // `copies` has refused that already.
        if let (Some(secret), Some(pod), false) = (&self.secret, &template.spec, keys.is_empty()) {
            let source = SecretSource { secret, keys: &keys, is_templated };
            match secret_usage::judge(&object, pod, source, workload.picks_up) {
                Ok(uses) => uses.into_iter().for_each(|it| self.examination.right(&object, it)),
                Err(finding) => self.examination.findings.push(finding),
            }
        }
    }
}

/// The stamp of the subject's view, which also gives the fence of a written Secret.
fn stamp_of(subject: &Subject<'_>) -> Stamp {
    Stamp { side: subject.side, token: subject.token.clone(), fence: subject.view }
}

/// An ExternalSecret that must copy a view.
struct Copying<'a> {
    name: &'a str,
    /// The ClusterExternalSecret that keeps it.
    keeper: Option<&'a str>,
    secret_key: Option<&'a str>,
}

impl Copying<'_> {
    async fn look(
        &self,
        kubernetes: &KubernetesClusters,
        subject: &Subject<'_>,
        absent: impl FnOnce() -> Finding,
        looked: &mut Looked,
    ) -> Result<(), Error> {
        let Self { name, keeper, secret_key } = *self;
        let Subject { workload, parameters, .. } = subject;
        let object = sync::object(workload, name);
        let examination = &mut looked.examination;
        // The caller words an absence: it knows which actor creates the ExternalSecret.
        let mut external_secret = match sync::get(kubernetes, workload, name).await {
            Ok(None) => {
                examination.findings.push(absent());
                return Ok(());
            }
            found => match readable(&object, found)? {
                Ok(external_secret) => external_secret,
                Err(finding) => {
                    examination.findings.push(finding);
                    return Ok(());
                }
            },
        };
        // Stores come before entries: a store may put a prefix before each key that an entry reads.
        let stores = copy::look(kubernetes, workload, &external_secret).await?;
        external_secret.spec.put_before(&stores.prefixes);
        examination.add(stores.examination);
        let are_stores_read = stores.unread.is_empty();
        looked.unread.extend(stores.unread);
        let found = obstacles(&object, &external_secret, secret_key, keeper, parameters);
        // A store that was not read may put a prefix before the keys.
        if found.is_empty() && are_stores_read {
            examination.right(&object, "it copies what is published as it is");
        }
        examination.findings.extend(found);
        // A failed sync is only a warning: a rotation forces another one, and waits for it.
        let status = external_secret.status.clone().unwrap_or_default();
        match status.ready().map(|ready| (ready.status.as_str(), &ready.message)) {
            Some(("False", message)) => {
                let why = sync::failure(kubernetes, workload, name, message).await;
                examination.findings.push(Finding::warning(
                    &object,
                    format!("its last sync failed: {why}"),
                    "repair it or its SecretStore: a rotation will wait for its sync",
                ));
            }
            Some(("True", _)) => examination.right(&object, "its last sync succeeded"),
            Some(_) | None => {}
        }
        if status.synced_resource_version.is_empty() {
            examination.findings.extend(unwritten(subject, &object, "it has never synced"));
        }
        looked.secret = Some(secret_name(&external_secret).to_owned());
        looked.external_secret = Some((name.to_owned(), external_secret));
        Ok(())
    }
}

/// The workload's object, of the kind that its spec gives. `None` if it does not exist.
async fn read(
    kubernetes: &KubernetesClusters,
    workload: &Workload,
) -> Result<Option<WorkloadObject>, Error> {
    Ok(match workload.kind {
        WorkloadKind::Deployment => {
            rollout::read::<Deployment>(kubernetes, workload).await?.map(WorkloadObject::from)
        }
        WorkloadKind::StatefulSet => {
            rollout::read::<StatefulSet>(kubernetes, workload).await?.map(WorkloadObject::from)
        }
        WorkloadKind::DaemonSet => {
            rollout::read::<DaemonSet>(kubernetes, workload).await?.map(WorkloadObject::from)
        }
    })
}

/// Turns an object that does not exist, cannot exist or may not be read into a finding, which stops a
/// rotation like any other finding. A read that could not be made is an error.
fn readable<T>(
    object: &str,
    answer: Result<Option<T>, Error>,
) -> Result<Result<T, Finding>, Error> {
    match answer {
        Ok(Some(found)) => Ok(Ok(found)),
        Ok(None) => Ok(Err(Finding::missing(object))),
        Err(error)
            if matches!(error.kind, Kind::AccessDenied | Kind::PreflightFailed | Kind::BadSpec) =>
        {
            Ok(Err(Finding::failed(object, error)))
        }
        Err(error) => Err(error),
    }
}

/// Awaits these futures, up to `AT_ONCE` of them at a time. Returns their answers in order.
async fn a_few<F: Future>(requests: Vec<F>) -> Vec<F::Output> {
    stream::iter(requests).buffered(AT_ONCE).collect().await
}

/// The finding for a Secret of presenters that is not written yet. Pods that need it cannot start.
/// Verifiers' pods can start once expand has written it. Presenters' pods could keep that same leg from
/// completing, if they verify too.
fn unwritten(subject: &Subject<'_>, object: &str, why: &str) -> Option<Finding> {
    (subject.side == Side::Presenters).then(|| {
        let reason = format!("{why}, and pods that need its Secret cannot start");
        let fix = "publish the token once: that brings the current value there";
        Finding { severity: Severity::Missing, ..Finding::refusal(object, reason, fix) }
    })
}

/// The finding for a fence that a newer record of this token left here, newer than the record of this
/// session. It does not matter for a token without a record, which gets a later life.
fn newer(subject: &Subject<'_>, object: &str, found: Fence) -> Option<Finding> {
    let Subject { token, side, view, .. } = *subject;
    let is_newer = view.life.is_some() && found.life > view.life;
    is_newer.then(|| Finding::of_another_record(token, side, object.to_owned(), found, view))
}

/// The check that passes if an ExternalSecret, or its keeper, can be made to refresh.
const REFRESHED: &str = "admission allows its refresh";

/// The number of objects of one sort that are looked at concurrently.
const AT_ONCE: usize = 8;
