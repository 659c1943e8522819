//! The state of a DaemonSet's rollout, as its status shows it. Pure.

use k8s_openapi::api::apps::v1::DaemonSet;

use super::{KubectlStatus, Obstacle};

/// kubectl's rule for DaemonSets, in kubectl's order (kubectl
/// `pkg/polymorphichelpers/rollout_status.go`, `DaemonSetStatusViewer`).
pub(super) fn by_kubectl(daemon_set: &DaemonSet) -> KubectlStatus {
    let strategy = daemon_set.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref());
    if strategy.and_then(|it| it.type_.as_deref()).is_some_and(|it| it != "RollingUpdate") {
        return KubectlStatus::NotRolling;
    }
    match left(daemon_set) {
        _ if !is_observed(daemon_set) => KubectlStatus::Unobserved,
        Some(left) => KubectlStatus::Waiting(left),
        None => KubectlStatus::Complete,
    }
}

/// The work that is left, for a strategy that kubectl does not judge.
pub(super) fn beyond_kubectl(daemon_set: &DaemonSet) -> Option<String> {
    if is_observed(daemon_set) { left(daemon_set) } else { Some(super::UNOBSERVED.to_owned()) }
}

fn left(daemon_set: &DaemonSet) -> Option<String> {
    let status = daemon_set.status.clone().unwrap_or_default();
    let wanted = status.desired_number_scheduled;
    let updated = status.updated_number_scheduled.unwrap_or_default();
    let available = status.number_available.unwrap_or_default();
    if updated < wanted {
        return Some(format!("{updated} of {wanted} pods are updated"));
    }
    (available < wanted).then(|| format!("{available} of {wanted} updated pods are available"))
}

/// The setting that keeps it from replacing its pods.
pub(super) fn obstacle(daemon_set: &DaemonSet) -> Option<Obstacle> {
    let strategy = daemon_set.spec.as_ref()?.update_strategy.as_ref()?;
    (strategy.type_.as_deref() == Some("OnDelete")).then(super::on_delete)
}

/// The number of pods that there should be: one for each node that takes one.
pub(super) fn wanted(daemon_set: &DaemonSet) -> i32 {
    daemon_set.status.as_ref().map_or(0, |status| status.desired_number_scheduled)
}

/// The template that it is at: the same value as the label `pod-template-generation` of its current pods
/// (kubernetes `pkg/controller/daemon/util`, `IsPodUpdated`).
pub(super) fn template(daemon_set: &DaemonSet) -> Option<&str> {
    let annotations = daemon_set.metadata.annotations.as_ref()?;
    annotations.get("deprecated.daemonset.template.generation").map(String::as_str)
}

pub(super) fn is_observed(daemon_set: &DaemonSet) -> bool {
    let status = daemon_set.status.as_ref();
    let observed = status.and_then(|status| status.observed_generation).unwrap_or_default();
    daemon_set.metadata.generation.unwrap_or_default() <= observed
}
