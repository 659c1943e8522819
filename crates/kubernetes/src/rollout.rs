//! Workloads: stamped, so that their pods are replaced, and waited for.
//!
//! A roll of a workload costs one GET, one PATCH, and its share of the requests for all of its namespace:
//! one LIST and WATCH of each kind that is waited for, one of pods, a list of ReplicaSets (their metadata
//! alone), and a last LIST of pods.
//!
//! ```text
//! stamp      a pod template is stamped
//! wait       all workloads of a namespace are waited for, by their watches and that of their pods
//! progress   the wait for one of them, as states
//! pods       the pods of each
//! owners     the ReplicaSets between a Deployment and its pods
//! refusals   the reason that pods are not made
//! ```

mod owners;
mod pods;
mod progress;
mod refusals;
mod stamp;
mod wait;

pub(super) use self::stamp::{annotation, manager};
use std::{fmt::Debug, time::Duration};

use async_trait::async_trait;
use changeover_core::{
    error::Error,
    ports::{Progress, Stamp, Workloads},
    spec::{Workload, WorkloadKind},
};
use k8s_openapi::{
    NamespaceResourceScope,
    api::apps::v1::{DaemonSet, Deployment, StatefulSet},
};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;

use self::wait::rolled_out;
use crate::{
    KubernetesClusters,
    call::{Failed, Target, call, found},
    workload::WorkloadObject,
};

/// The entry of a Role's `resources` for Deployments.
pub(super) const DEPLOYMENTS: &str = "deployments.apps";
/// The same for StatefulSets.
pub(super) const STATEFUL_SETS: &str = "statefulsets.apps";
/// The same for DaemonSets.
pub(super) const DAEMON_SETS: &str = "daemonsets.apps";

/// A kind of workload that is rolled by its pod template.
pub(super) trait Rolled:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + Debug
    + DeserializeOwned
    + Into<WorkloadObject>
    + Send
    + Sync
    + 'static
{
    /// The entry of a Role's `resources`.
    const RESOURCE: &'static str;
}

impl Rolled for Deployment {
    const RESOURCE: &'static str = DEPLOYMENTS;
}

impl Rolled for StatefulSet {
    const RESOURCE: &'static str = STATEFUL_SETS;
}

impl Rolled for DaemonSet {
    const RESOURCE: &'static str = DAEMON_SETS;
}

/// Submits the stamp of a workload that was read as a dry run: admission judges it, and nothing changes.
pub(super) async fn dry_run(
    kubernetes: &KubernetesClusters,
    workload: &Workload,
    live: &WorkloadObject,
    stamp: &Stamp,
) -> Result<(), Failed> {
    match workload.kind {
        WorkloadKind::Deployment => {
            stamp::dry_run::<Deployment>(kubernetes, workload, live, stamp).await
        }
        WorkloadKind::StatefulSet => {
            stamp::dry_run::<StatefulSet>(kubernetes, workload, live, stamp).await
        }
        WorkloadKind::DaemonSet => {
            stamp::dry_run::<DaemonSet>(kubernetes, workload, live, stamp).await
        }
    }
}

/// Reads the workload's object, of the kind that the spec names; `None` if there is none.
pub(super) async fn read<K: Rolled>(
    kubernetes: &KubernetesClusters,
    workload: &Workload,
) -> Result<Option<K>, Error> {
    let target = Target::beside(workload, "get", K::RESOURCE, &workload.name);
    let answer = call(&*kubernetes.access, target, |connection| async move {
        let objects: Api<K> = Api::namespaced(connection.client, &workload.namespace);
        objects.get(&workload.name).await
    });
    found(answer.await)
}

#[async_trait]
impl Workloads for KubernetesClusters {
    async fn stamp(
        &self,
        workload: &Workload,
        stamp: &Stamp,
    ) -> Result<Option<Progress<()>>, Error> {
        match workload.kind {
            WorkloadKind::Deployment => stamp::stamp::<Deployment>(self, workload, stamp).await,
            WorkloadKind::StatefulSet => stamp::stamp::<StatefulSet>(self, workload, stamp).await,
            WorkloadKind::DaemonSet => stamp::stamp::<DaemonSet>(self, workload, stamp).await,
        }
    }

    async fn rolled_out(
        &self,
        workloads: &[&Workload],
        stamp: &Stamp,
        within: Duration,
    ) -> Vec<Result<Progress<()>, Error>> {
        rolled_out(self, workloads, stamp, within).await
    }
}
