//! The state of a StatefulSet's rollout, as its status shows it. Pure.

use k8s_openapi::api::apps::v1::StatefulSet;

use super::{KubectlStatus, Obstacle};

/// kubectl's rule for StatefulSets, in kubectl's order (kubectl
/// `pkg/polymorphichelpers/rollout_status.go`, `StatefulSetStatusViewer`).
pub(super) fn by_kubectl(stateful_set: &StatefulSet) -> KubectlStatus {
    let status = stateful_set.status.clone().unwrap_or_default();
    let spec = stateful_set.spec.as_ref();
    let strategy = spec.and_then(|spec| spec.update_strategy.as_ref());
    if strategy.and_then(|it| it.type_.as_deref()).is_some_and(|it| it != "RollingUpdate") {
        return KubectlStatus::NotRolling;
    }
    if !is_observed(stateful_set) {
        return KubectlStatus::Unobserved;
    }
    let wanted = spec.and_then(|spec| spec.replicas);
    let ready = status.ready_replicas.unwrap_or_default();
    let updated = status.updated_replicas.unwrap_or_default();
    if let Some(wanted) = wanted.filter(|wanted| ready < *wanted) {
        return KubectlStatus::Waiting(format!("{ready} of {wanted} pods are ready"));
    }
    if let Some(rolling) = strategy.and_then(|strategy| strategy.rolling_update.as_ref()) {
        let above = wanted.zip(rolling.partition).map(|(wanted, it)| wanted.saturating_sub(it));
        return match above {
            Some(above) if updated < above => {
                KubectlStatus::Waiting(format!("{updated} of {above} pods are updated"))
            }
            _ => KubectlStatus::Complete,
        };
    }
    if status.update_revision == status.current_revision {
        KubectlStatus::Complete
    } else {
        KubectlStatus::Waiting(format!("{updated} pods are updated"))
    }
}

/// The work that is left beyond kubectl's rule, which stops at a partition and ignores `minReadySeconds`.
pub(super) fn beyond_kubectl(stateful_set: &StatefulSet) -> Option<String> {
    if !is_observed(stateful_set) {
        return Some(super::UNOBSERVED.to_owned());
    }
    let status = stateful_set.status.clone().unwrap_or_default();
    let wanted = wanted(stateful_set);
    let updated = status.updated_replicas.unwrap_or_default();
    let available = status.available_replicas.unwrap_or_default();
    if updated < wanted {
        return Some(format!("{updated} of {wanted} pods are updated"));
    }
    (available < wanted).then(|| format!("{available} of {wanted} pods are available"))
}

/// The setting that keeps it from replacing its pods.
pub(super) fn obstacle(stateful_set: &StatefulSet) -> Option<Obstacle> {
    let strategy = stateful_set.spec.as_ref()?.update_strategy.as_ref()?;
    if strategy.type_.as_deref() == Some("OnDelete") {
        return Some(super::on_delete());
    }
    let partition = strategy.rolling_update.as_ref()?.partition.filter(|it| *it > 0)?;
    Some(Obstacle {
        what: format!("the StatefulSet's partition is {partition}: pods below it are not replaced"),
        fix: "set spec.updateStrategy.rollingUpdate.partition to 0; the next run carries on",
    })
}

/// The number of pods that there should be.
pub(super) fn wanted(stateful_set: &StatefulSet) -> i32 {
    stateful_set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

/// True if the current template was observed. As in kubectl, 0 means "not yet", whatever the generation.
pub(super) fn is_observed(stateful_set: &StatefulSet) -> bool {
    let status = stateful_set.status.as_ref();
    let observed = status.and_then(|status| status.observed_generation).unwrap_or_default();
    observed != 0 && stateful_set.metadata.generation.unwrap_or_default() <= observed
}
