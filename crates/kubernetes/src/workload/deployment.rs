//! The state of a Deployment's rollout, as its status shows it. Pure.

use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition};
use kube::core::ObjectMeta;

use super::{KubectlStatus, Obstacle, pod::words};

/// kubectl's rule for Deployments, in kubectl's order. The deadline is looked at only once this template
/// was observed: until then, its condition belongs to the previous rollout (kubectl
/// `pkg/polymorphichelpers/rollout_status.go`, `DeploymentStatusViewer`).
pub(super) fn by_kubectl(deployment: &Deployment) -> KubectlStatus {
    let status = deployment.status.clone().unwrap_or_default();
    let generation = deployment.metadata.generation.unwrap_or_default();
    if generation > status.observed_generation.unwrap_or_default() {
        return KubectlStatus::Unobserved;
    }
    let progressing = condition(deployment, "Progressing");
    if progressing.and_then(|it| it.reason.as_deref()) == Some("ProgressDeadlineExceeded") {
        return KubectlStatus::DeadlineExceeded;
    }
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas);
    let updated = status.updated_replicas.unwrap_or_default();
    let available = status.available_replicas.unwrap_or_default();
    let all = status.replicas.unwrap_or_default();
    match wanted {
        Some(wanted) if updated < wanted => {
            KubectlStatus::Waiting(format!("{updated} of {wanted} pods are updated"))
        }
        _ if all > updated => {
            KubectlStatus::Waiting(format!("{} older pods are to end", all.saturating_sub(updated)))
        }
        _ if available < updated => {
            KubectlStatus::Waiting(format!("{available} of {updated} updated pods are available"))
        }
        _ => KubectlStatus::Complete,
    }
}

/// The setting that keeps it from replacing its pods.
pub(super) fn obstacle(deployment: &Deployment) -> Option<Obstacle> {
    let is_paused = deployment.spec.as_ref().and_then(|spec| spec.paused) == Some(true);
    is_paused.then(|| Obstacle {
        what: "the Deployment is paused".to_owned(),
        fix: "kubectl rollout resume it; the next run carries on",
    })
}

/// The reason for which its pods cannot be created.
pub(super) fn refused(deployment: &Deployment) -> Option<String> {
    let failure = condition(deployment, "ReplicaFailure").filter(|it| it.status == "True")?;
    Some(words(failure.reason.as_deref().unwrap_or("ReplicaFailure"), failure.message.as_deref()))
}

/// The revision that a Deployment is at, or that a ReplicaSet is. It is the same for a Deployment and its
/// current ReplicaSet (kubernetes `pkg/controller/deployment/util`, `RevisionAnnotation`).
pub(crate) fn revision(metadata: &ObjectMeta) -> Option<&str> {
    metadata.annotations.as_ref()?.get("deployment.kubernetes.io/revision").map(String::as_str)
}

/// A condition of a Deployment.
pub(crate) fn condition<'a>(
    deployment: &'a Deployment,
    kind: &str,
) -> Option<&'a DeploymentCondition> {
    let conditions = deployment.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == kind)
}
