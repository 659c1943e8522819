//! The ability of a workload to replace its pods, and the time that it takes. Pure.
//!
//! The rules of each kind are those of kubectl's `rollout_status.go`, and of the controllers.

use std::time::Duration;

use changeover_core::finding::Finding;
use k8s_openapi::{
    api::{
        apps::v1::{DaemonSet, Deployment, StatefulSet},
        core::v1::PodTemplateSpec,
    },
    apimachinery::pkg::util::intstr::IntOrString,
};

use crate::workload::{WorkloadObject, deployment::condition};

/// Finds what keeps a workload from replacing its pods, and what its next rollout must cope with.
pub(super) fn judge(object: &str, live: &WorkloadObject) -> Vec<Finding> {
    match live {
        WorkloadObject::Deployment(it) => of_deployment(object, it),
        WorkloadObject::StatefulSet(it) => of_stateful_set(object, it),
        WorkloadObject::DaemonSet(it) => of_daemon_set(object, it),
    }
}

/// The longest time that a rollout takes if nothing goes wrong and pods are ready at once. Every batch is
/// available after `minReadySeconds`, and the pods that it replaces end within their grace period.
pub(super) fn takes(live: &WorkloadObject) -> Duration {
    match live {
        WorkloadObject::Deployment(it) => deployment_takes(it),
        WorkloadObject::StatefulSet(it) => stateful_set_takes(it),
        WorkloadObject::DaemonSet(it) => daemon_set_takes(it),
    }
}

fn of_deployment(object: &str, deployment: &Deployment) -> Vec<Finding> {
    let mut findings = Vec::new();
    let Some(spec) = &deployment.spec else { return findings };
    if spec.paused == Some(true) {
        findings.push(Finding::refusal(
            object,
            "it is paused: its pods would never be replaced",
            "kubectl rollout resume it",
        ));
    }
    let strategy = spec.strategy.as_ref().and_then(|strategy| strategy.type_.as_deref());
    if strategy == Some("Recreate") {
        findings.push(Finding::warning(
            object,
            "its strategy Recreate ends all pods before it starts new ones: no pod answers \
             meanwhile, whatever the token",
            "set spec.strategy.type to RollingUpdate, or accept that",
        ));
    }
    let status = deployment.status.clone().unwrap_or_default();
    let available = status.available_replicas.unwrap_or_default();
    findings.extend(of_numbers(object, spec.replicas.unwrap_or(1), available));
    let failed = condition(deployment, "Progressing").filter(|it| it.status == "False");
    if let Some(failed) = failed {
        let why = failed.message.as_deref().or(failed.reason.as_deref()).unwrap_or_default();
        findings.push(Finding::warning(
            object,
            format!("its last rollout failed: {why}"),
            "repair it: a rotation rolls it again, and is held where that fails",
        ));
    }
    let refused = condition(deployment, "ReplicaFailure").filter(|it| it.status == "True");
    if let Some(refused) = refused {
        let why = refused.message.as_deref().or(refused.reason.as_deref()).unwrap_or_default();
        findings.push(Finding::warning(
            object,
            format!("its pods cannot be created: {why}"),
            "raise the quota, or correct what the admission webhook refuses",
        ));
    }
    findings
}

fn of_stateful_set(object: &str, stateful_set: &StatefulSet) -> Vec<Finding> {
    let mut findings = Vec::new();
    let Some(spec) = &stateful_set.spec else { return findings };
    let replicas = spec.replicas.unwrap_or(1);
    let strategy = spec.update_strategy.as_ref();
    if strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("OnDelete") {
        findings.push(on_delete(object));
    }
    let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
    let partition = rolling.and_then(|rolling| rolling.partition).unwrap_or_default();
    if partition > 0 {
        findings.push(Finding::refusal(
            object,
            format!(
                "its partition is {partition}: pods below that number keep the token that they \
                 have, {} of {replicas}",
                partition.min(replicas)
            ),
            "set spec.updateStrategy.rollingUpdate.partition to 0",
        ));
    }
    let status = stateful_set.status.clone().unwrap_or_default();
    let ready = status.ready_replicas.unwrap_or_default();
    findings.extend(of_numbers(object, replicas, ready));
    findings
}

fn of_daemon_set(object: &str, daemon_set: &DaemonSet) -> Vec<Finding> {
    let strategy = daemon_set.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref());
    let mut findings = Vec::new();
    if strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("OnDelete") {
        findings.push(on_delete(object));
    }
    let status = daemon_set.status.clone().unwrap_or_default();
    let available = status.number_available.unwrap_or_default();
    findings.extend(of_numbers(object, status.desired_number_scheduled, available));
    findings
}

fn on_delete(object: &str) -> Finding {
    Finding::refusal(
        object,
        "its strategy OnDelete replaces no pod until it is deleted by hand",
        "set spec.updateStrategy.type to RollingUpdate",
    )
}

fn of_numbers(object: &str, wanted: i32, available: i32) -> Option<Finding> {
    if wanted == 0 {
        return Some(Finding::warning(
            object,
            "it has no replicas: that its pods start on a new view is not proven",
            "nothing, if that is meant: what starts later reads the Secret of then",
        ));
    }
    (available < wanted).then(|| {
        Finding::warning(
            object,
            format!(
                "{available} of its {wanted} pods are available: a rollout waits for all of them"
            ),
            "see why the others are not (kubectl describe pod), and whether quota and nodes have \
             room for one pod more than there are",
        )
    })
}

fn deployment_takes(deployment: &Deployment) -> Duration {
    let Some(spec) = &deployment.spec else { return Duration::ZERO };
    let replicas = spec.replicas.unwrap_or(1);
    let rolling = spec.strategy.as_ref().and_then(|strategy| strategy.rolling_update.as_ref());
    // The API server's default is 25 % for each: the surge is rounded up, the gap is rounded down
    // (kubernetes `pkg/controller/deployment/util`, `ResolveFenceposts`).
    let quarter = IntOrString::String("25%".to_owned());
    let surge = rolling.and_then(|it| it.max_surge.as_ref()).unwrap_or(&quarter);
    let gap = rolling.and_then(|it| it.max_unavailable.as_ref()).unwrap_or(&quarter);
    let batch = scaled(surge, replicas, true) + scaled(gap, replicas, false);
    let batches = seconds(replicas).div_ceil(seconds(batch).max(1));
    let (ready, grace) =
        (seconds(spec.min_ready_seconds.unwrap_or_default()), grace(&spec.template));
    // The pods that a batch replaces end while the next batch starts.
    Duration::from_secs(batches * ready + grace)
}

/// The longest time of a StatefulSet's rollout, which replaces one pod after the other.
fn stateful_set_takes(stateful_set: &StatefulSet) -> Duration {
    let Some(spec) = &stateful_set.spec else { return Duration::ZERO };
    let each = seconds(spec.min_ready_seconds.unwrap_or_default()) + grace(&spec.template);
    Duration::from_secs(seconds(spec.replicas.unwrap_or(1)) * each)
}

/// The longest time of a DaemonSet's rollout, which replaces as many pods at once as `maxUnavailable` and
/// `maxSurge` allow.
fn daemon_set_takes(daemon_set: &DaemonSet) -> Duration {
    let Some(spec) = &daemon_set.spec else { return Duration::ZERO };
    let pods = daemon_set.status.as_ref().map_or(0, |status| status.desired_number_scheduled);
    let rolling = spec.update_strategy.as_ref().and_then(|it| it.rolling_update.as_ref());
    let one = IntOrString::Int(1);
    let gap = rolling.and_then(|it| it.max_unavailable.as_ref()).unwrap_or(&one);
    let surge = rolling.and_then(|it| it.max_surge.as_ref()).unwrap_or(&IntOrString::Int(0));
    let batch = scaled(gap, pods, true) + scaled(surge, pods, true);
    let batches = seconds(pods).div_ceil(seconds(batch).max(1));
    let each = seconds(spec.min_ready_seconds.unwrap_or_default()) + grace(&spec.template);
    Duration::from_secs(batches * each)
}

/// Resolves a number of pods, or a percentage of `pods`, which is rounded up if `up`, and down if not.
fn scaled(number: &IntOrString, pods: i32, up: bool) -> i32 {
    match number {
        IntOrString::Int(number) => (*number).max(0),
        IntOrString::String(text) => {
            let percent = text.trim_end_matches('%').parse::<u8>().unwrap_or_default();
            let parts = seconds(pods) * u64::from(percent);
            let scaled = if up { parts.div_ceil(100) } else { parts / 100 };
            i32::try_from(scaled).unwrap_or(i32::MAX)
        }
    }
}

/// A count or a time of the API, which is never negative, limited to `LARGEST`.
fn seconds(count: impl Into<i64>) -> u64 {
    u64::try_from(count.into()).unwrap_or_default().min(LARGEST)
}

fn grace(template: &PodTemplateSpec) -> u64 {
    let grace = template.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
    seconds(grace.unwrap_or(30))
}

/// The largest count, or time in seconds, that is believed. Larger ones come from damaged objects only.
const LARGEST: u64 = 1_000_000;

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use changeover_core::finding::Severity;

    type Expected = &'static [(Severity, &'static str)];
    const REFUSED: Severity = Severity::Refusal;
    const WARNED: Severity = Severity::Warning;

    fn assert_found(findings: &[Finding], expected: Expected, what: &Value) {
        assert_eq!(findings.len(), expected.len(), "{what}: {findings:?}");
        for (finding, (severity, words)) in findings.iter().zip(expected) {
            assert_eq!(finding.severity, *severity, "{what}: {finding:?}");
            assert!(finding.reason.contains(words), "{what}: {finding:?}");
            assert!(!finding.fix.is_empty());
        }
    }

    fn object<T: serde::de::DeserializeOwned>(spec: &Value, status: &Value) -> T {
        let mut spec = spec.clone();
        let defaults = json!({"replicas": 3, "selector": {}, "serviceName": "", "template": {}});
        for (field, value) in defaults.as_object().unwrap() {
            if spec[field].is_null() {
                spec[field] = value.clone();
            }
        }
        serde_json::from_value(json!({"spec": spec, "status": status})).unwrap()
    }

    #[test]
    fn deployment_obstacles_to_next_rollout_are_reported() {
        let all = json!({"availableReplicas": 3});
        let condition = |kind: &str, status: &str| {
            let condition = json!({"type": kind, "status": status, "message": "exceeded quota"});
            json!({"availableReplicas": 3, "conditions": [condition]})
        };
        let cases: [(Value, Value, Expected); 8] = [
            (json!({}), all.clone(), &[]),
            (json!({"paused": true}), all.clone(), &[(REFUSED, "paused")]),
            (json!({"strategy": {"type": "Recreate"}}), all, &[(WARNED, "Recreate")]),
            (json!({"replicas": 0}), json!({}), &[(WARNED, "not proven")]),
            (json!({}), json!({"availableReplicas": 2}), &[(WARNED, "2 of its 3 pods")]),
            (
                json!({}),
                condition("Progressing", "False"),
                &[(WARNED, "last rollout failed: exceeded quota")],
            ),
            (json!({}), condition("Progressing", "True"), &[]),
            (
                json!({}),
                condition("ReplicaFailure", "True"),
                &[(WARNED, "cannot be created: exceeded quota")],
            ),
        ];
        for (spec, status, expected) in cases {
            assert_found(&of_deployment("it", &object(&spec, &status)), expected, &spec);
        }
    }

    #[test]
    fn stateful_set_obstacles_to_next_rollout_are_reported() {
        let partition = |partition: i32| {
            json!({"updateStrategy": {
                "type": "RollingUpdate", "rollingUpdate": {"partition": partition},
            }})
        };
        let all = json!({"replicas": 3, "readyReplicas": 3});
        let cases: [(Value, Value, Expected); 7] = [
            (json!({}), all.clone(), &[]),
            (partition(0), all.clone(), &[]),
            (partition(1), all.clone(), &[(REFUSED, "1 of 3")]),
            (partition(5), all.clone(), &[(REFUSED, "3 of 3")]),
            (json!({"updateStrategy": {"type": "OnDelete"}}), all, &[(REFUSED, "OnDelete")]),
            (json!({"replicas": 0}), json!({"replicas": 0}), &[(WARNED, "not proven")]),
            (json!({}), json!({"replicas": 3, "readyReplicas": 1}), &[(WARNED, "1 of its 3 pods")]),
        ];
        for (spec, status, expected) in cases {
            assert_found(&of_stateful_set("it", &object(&spec, &status)), expected, &spec);
        }
    }

    #[test]
    fn daemon_set_obstacles_to_next_rollout_are_reported() {
        let status = |desired: i32, available: i32| {
            json!({
                "currentNumberScheduled": desired, "numberMisscheduled": 0, "numberReady": available,
                "desiredNumberScheduled": desired, "numberAvailable": available,
            })
        };
        let cases: [(Value, Value, Expected); 4] = [
            (json!({}), status(3, 3), &[]),
            (
                json!({"updateStrategy": {"type": "OnDelete"}}),
                status(3, 3),
                &[(REFUSED, "OnDelete")],
            ),
            (json!({}), status(0, 0), &[(WARNED, "not proven")]),
            (json!({}), status(3, 2), &[(WARNED, "2 of its 3 pods")]),
        ];
        for (spec, status, expected) in cases {
            assert_found(&of_daemon_set("it", &object(&spec, &status)), expected, &spec);
        }
    }

    #[test]
    fn rollout_estimate_counts_batches_and_termination_grace() {
        let template = json!({"spec": {"containers": [], "terminationGracePeriodSeconds": 20}});
        let with = |fields: Value| {
            let mut spec = json!({"template": template, "minReadySeconds": 5});
            for (field, value) in fields.as_object().unwrap() {
                spec[field] = value.clone();
            }
            spec
        };
        let rolling = |surge: Value, gap: Value| json!({"rollingUpdate": {"maxSurge": surge, "maxUnavailable": gap}});
        let none = json!({});
        for (spec, expected) in [
            (with(json!({})), 3 * 5 + 20),
            (with(json!({"replicas": 8})), 2 * 5 + 20),
            (with(json!({"strategy": rolling(json!(1), json!(0)), "replicas": 10})), 10 * 5 + 20),
            (with(json!({"strategy": rolling(json!("100%"), json!(0))})), 5 + 20),
            (json!({}), 30),
        ] {
            let takes = deployment_takes(&object(&spec, &none));
            assert_eq!(takes.as_secs(), expected, "{spec}");
        }
        let one_by_one = stateful_set_takes(&object(&with(json!({})), &json!({"replicas": 3})));
        assert_eq!(one_by_one.as_secs(), 3 * (5 + 20));
        let status = json!({
            "currentNumberScheduled": 10, "numberMisscheduled": 0, "numberReady": 10,
            "desiredNumberScheduled": 10,
        });
        let by_thirds =
            with(json!({"updateStrategy": {"rollingUpdate": {"maxUnavailable": "30%"}}}));
        assert_eq!(daemon_set_takes(&object(&by_thirds, &status)).as_secs(), 4 * (5 + 20));
    }
}
