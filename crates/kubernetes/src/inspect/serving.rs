//! The pods that serve in place of a workload, or beside it: its rollout would prove nothing about them.
//!
//! Flagger keeps the Deployment that a Canary targets at 0 replicas. It serves by a copy, `<name>-primary`,
//! which reads copies of the Secrets (docs.flagger.app, "How it works", "Canary target"). Argo Rollouts
//! scales a Deployment that a Rollout refers to by `workloadRef` to 0, or leaves it as it is
//! (`scaleDown: never`). It runs the pods, with the labels of the Deployment, by ReplicaSets of its own
//! (argo-rollouts.readthedocs.io, "Migrating to Rollouts").

use std::fmt::Debug;

use changeover_core::{
    error::Error,
    finding::Finding,
    spec::{Workload, WorkloadKind},
};
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::{Deployment, ReplicaSet},
        core::v1::Pod,
    },
};
use kube::{
    Api, Resource,
    api::ListParams,
    core::{ObjectMeta, Selector},
};
use serde::de::DeserializeOwned;

use crate::{
    KubernetesClusters,
    call::{Failed, Target, call},
    workload::WorkloadObject,
};

/// Refuses a Deployment if a Rollout serves beside it, and a workload without replicas if other pods serve
/// in its place. Makes at most one call, or at most two for a workload without replicas. Objects that may
/// not be read are passed over: that the workload has no replicas is reported anyway.
pub(super) async fn look(
    kubernetes: &KubernetesClusters,
    workload: &Workload,
    live: &WorkloadObject,
) -> Result<Option<Finding>, Error> {
    let object = workload.to_string();
    let beside = |pods: &str| {
        Finding::refusal(
            &object,
            format!(
                "{pods} runs with its labels: that such pods take up a new token is proved by nothing"
            ),
            "name the workload in the spec that runs these pods; or, as no spec can name a Rollout of Argo, let its \
             pods read the token without a restart (`within` for its readers), and take this one out of the spec",
        )
    };
    if !is_empty(live) {
        return Ok(rollout_beside(kubernetes, workload, live).await?.map(|it| beside(&it)));
    }
    if let Some(pod) = stranger(kubernetes, workload, live).await? {
        return Ok(Some(beside(&format!("it has no replicas, and {pod}"))));
    }
    let Some(canary) = primary(kubernetes, workload).await? else { return Ok(None) };
    let name = &workload.name;
    Ok(Some(Finding::refusal(
        &object,
        format!(
            "it has no replicas: deployment {name}-primary serves in its place, which {canary} keeps, with a \
             copy of the Secret that is refreshed only when a canary is promoted"
        ),
        format!(
            "name {name}-primary in the spec, and have Flagger leave the Secret alone \
             (annotation flagger.app/config-tracking: disabled on the Secret), so that both read one"
        ),
    )))
}

/// True if a workload wants no pods and has none.
fn is_empty(live: &WorkloadObject) -> bool {
    match live {
        WorkloadObject::Deployment(it) => {
            let wanted = it.spec.as_ref().and_then(|spec| spec.replicas);
            let counted = it.status.as_ref().and_then(|status| status.replicas);
            wanted == Some(0) && counted.unwrap_or_default() == 0
        }
        WorkloadObject::StatefulSet(it) => {
            let wanted = it.spec.as_ref().and_then(|spec| spec.replicas);
            wanted == Some(0) && it.status.as_ref().is_none_or(|status| status.replicas == 0)
        }
        WorkloadObject::DaemonSet(_) => false,
    }
}

/// A pod that the workload's selector matches, with its controller. The workload has no pods of its own,
/// except those that are ending.
async fn stranger(
    kubernetes: &KubernetesClusters,
    workload: &Workload,
    live: &WorkloadObject,
) -> Result<Option<String>, Error> {
    let pods = matched::<Pod>(kubernetes, workload, live, "pods").await?;
    let serves = |pod: &&Pod| {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        pod.metadata.deletion_timestamp.is_none() && !matches!(phase, Some("Succeeded" | "Failed"))
    };
    Ok(pods.iter().find(serves).map(|pod| {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let controller = controller(&pod.metadata).map(|it| format!(" of {it}"));
        format!("pod {name}{}", controller.unwrap_or_default())
    }))
}

/// The Rollout of Argo whose ReplicaSets run pods that the Deployment's selector matches.
async fn rollout_beside(
    kubernetes: &KubernetesClusters,
    workload: &Workload,
    live: &WorkloadObject,
) -> Result<Option<String>, Error> {
    if workload.kind != WorkloadKind::Deployment {
        return Ok(None);
    }
    let sets = matched::<ReplicaSet>(kubernetes, workload, live, "replicasets.apps").await?;
    let serving = sets.into_iter().filter(|it| {
        it.spec.as_ref().is_some_and(|spec| spec.replicas.is_none_or(|replicas| replicas > 0))
    });
    let mut controllers = serving.filter_map(|it| controller(&it.metadata));
    Ok(controllers.find(|it| it.starts_with("Rollout ")))
}

/// The first objects of a kind that the workload's selector matches. None if it matches all objects, or if
/// they may not be listed.
async fn matched<K>(
    kubernetes: &KubernetesClusters,
    workload: &Workload,
    live: &WorkloadObject,
    resource: &str,
) -> Result<Vec<K>, Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned,
{
    let selector = live.selector().and_then(|it| Selector::try_from(it.clone()).ok());
    let Some(selector) = selector.filter(|it| !it.selects_all()) else { return Ok(Vec::new()) };
    let page = &ListParams::default().labels_from(&selector).limit(PAGE);
    let target = Target::beside(workload, "list", resource, "");
    let listed = call(&*kubernetes.access, target, |connection| async move {
        let objects: Api<K> = Api::namespaced(connection.client, &workload.namespace);
        objects.list(page).await
    });
    Ok(readable(listed.await)?.map(|listed| listed.items).unwrap_or_default())
}

/// The Canary that keeps `<name>-primary`.
async fn primary(
    kubernetes: &KubernetesClusters,
    workload: &Workload,
) -> Result<Option<String>, Error> {
    if workload.kind != WorkloadKind::Deployment {
        return Ok(None);
    }
    let name = &format!("{}-primary", workload.name);
    let target = Target::beside(workload, "get", "deployments.apps", name);
    let found = call(&*kubernetes.access, target, |connection| async move {
        let deployments: Api<Deployment> = Api::namespaced(connection.client, &workload.namespace);
        deployments.get_metadata(name).await
    });
    let found = readable(found.await)?;
    let canary = found.as_ref().and_then(|it| controller(&it.metadata));
    Ok(canary.filter(|it| it.starts_with("Canary ")))
}

/// The kind and name of an object's controller.
pub(super) fn controller(metadata: &ObjectMeta) -> Option<String> {
    let mut owners = metadata.owner_references.iter().flatten();
    let owner = owners.find(|owner| owner.controller == Some(true))?;
    Some(format!("{} {}", owner.kind, owner.name))
}

/// The object. `None` if it does not exist, or may not be read.
fn readable<T>(answer: Result<T, Failed>) -> Result<Option<T>, Error> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(Failed { code: 403 | 404, .. }) => Ok(None),
        Err(failed) => Err(failed.error),
    }
}

/// The length of a list. One pod that serves is enough, but those that are ending may come first.
const PAGE: u32 = 100;
