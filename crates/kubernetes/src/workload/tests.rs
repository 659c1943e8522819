use changeover_token::Fence;
use serde_json::{Value, json};

use super::{KubectlStatus, Pod, PodState, Rollout, RolloutStatus, WorkloadObject};

const STAMP: &str = "presenter.changeover.dev/datastore-token";
const KINDS: [&str; 3] = ["Deployment", "StatefulSet", "DaemonSet"];

/// Parses a workload of this kind.
pub(super) fn live(kind: &str, object: Value) -> WorkloadObject {
    match kind {
        "Deployment" => WorkloadObject::Deployment(serde_json::from_value(object).unwrap()),
        "StatefulSet" => WorkloadObject::StatefulSet(serde_json::from_value(object).unwrap()),
        "DaemonSet" => WorkloadObject::DaemonSet(serde_json::from_value(object).unwrap()),
        other => panic!("{other}"),
    }
}

/// A workload of three pods, all of them updated and available, stamped 7 and made from the template "new".
fn rolled_out(kind: &str) -> Value {
    let status = match kind {
        "DaemonSet" => json!({
            "desiredNumberScheduled": 3, "currentNumberScheduled": 3, "numberMisscheduled": 0,
            "updatedNumberScheduled": 3, "numberReady": 3, "numberAvailable": 3,
        }),
        _ => json!({
            "replicas": 3, "updatedReplicas": 3, "readyReplicas": 3, "availableReplicas": 3,
            "updateRevision": "new", "currentRevision": "new",
        }),
    };
    let mut object = json!({
        "metadata": {
            "name": "backend",
            "generation": 4,
            "annotations": {"deprecated.daemonset.template.generation": "new"},
        },
        "spec": {
            "serviceName": "",
            "selector": {"matchLabels": {"app": "backend"}},
            "template": {"metadata": {"annotations": {STAMP: "7"}}},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {}},
        },
        "status": status,
    });
    object["status"]["observedGeneration"] = json!(4);
    if kind != "DaemonSet" {
        object["spec"]["replicas"] = json!(3);
    }
    object
}

/// A rolled-out workload with some fields changed, each named by a JSON pointer.
fn with(kind: &str, changes: &[(&str, Value)]) -> WorkloadObject {
    let mut object = rolled_out(kind);
    for (pointer, value) in changes {
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        object.pointer_mut(parent).unwrap()[field] = value.clone();
    }
    live(kind, object)
}

/// A workload of which one of three pods is updated.
fn under_way_of(kind: &str) -> WorkloadObject {
    let updated = match kind {
        "DaemonSet" => "/status/updatedNumberScheduled",
        _ => "/status/updatedReplicas",
    };
    with(kind, &[(updated, json!(1))])
}

/// A ready pod of the template "new" of a workload of this kind.
fn pod(kind: &str, name: &str, stamp: &str, changes: Value) -> Pod {
    let owner = if kind == "Deployment" { "ReplicaSet" } else { kind };
    let mut pod = json!({
        "metadata": {
            "name": name,
            "annotations": {STAMP: stamp, "somebody/elses": "annotation"},
            "labels": {"controller-revision-hash": "new", "pod-template-generation": "new"},
            "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": owner, "name": "backend", "uid": "new",
                "controller": true,
            }],
        },
        "spec": {"nodeName": "node-1"},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
    });
    merge(&mut pod, changes);
    serde_json::from_value(pod).unwrap()
}

fn merge(into: &mut Value, changes: Value) {
    match (into, changes) {
        (Value::Object(into), Value::Object(changes)) => {
            for (field, change) in changes {
                merge(into.entry(field).or_insert(Value::Null), change);
            }
        }
        (into, change) => *into = change,
    }
}

fn container(status: Value) -> Value {
    let mut container = json!({"name": "main", "ready": false, "restartCount": 0});
    merge(&mut container, status);
    json!({"status": {
        "conditions": [{"type": "Ready", "status": "False"}],
        "containerStatuses": [container],
    }})
}

fn waiting(reason: &str, restarts: u32) -> Value {
    container(json!({
        "restartCount": restarts,
        "state": {"waiting": {"reason": reason, "message": "why"}},
    }))
}

fn judge(live: &WorkloadObject, pods: &[Pod]) -> RolloutStatus {
    let rollout =
        Rollout { object: "prod/web/deployment/backend", annotation: STAMP, fence: Fence::bare(7) };
    let replicas: Vec<_> = pods.iter().filter_map(|it| PodState::of(it.clone(), STAMP)).collect();
    rollout.judge(live, Some("new"), &replicas.iter().collect::<Vec<_>>())
}

fn under_way(verdict: &RolloutStatus, words: &str) {
    assert!(
        matches!(verdict, RolloutStatus::UnderWay(left) if left.contains(words)),
        "{verdict:?}"
    );
}

fn stuck(verdict: &RolloutStatus, words: &str) {
    assert!(
        matches!(verdict, RolloutStatus::Stuck(held) if held.reason.contains(words)
            && held.object == "prod/web/deployment/backend" && !held.fix.is_empty()),
        "{verdict:?}"
    );
}

fn suspect(verdict: &RolloutStatus, words: &str) {
    assert!(
        matches!(verdict, RolloutStatus::Suspect { held, .. } if held.reason.contains(words)),
        "{verdict:?}"
    );
}

#[test]
fn completed_rollout_with_stamped_pods_is_done() {
    for kind in KINDS {
        let pods = [pod(kind, "a", "7", json!({})), pod(kind, "b", "7", json!({}))];
        assert_eq!(judge(&with(kind, &[]), &pods), RolloutStatus::Done, "{kind}");
    }
}

#[test]
fn pod_of_a_later_stamp_is_no_proof() {
    for kind in KINDS {
        let pods = [pod(kind, "a", "7", json!({})), pod(kind, "b", "8", json!({}))];
        under_way(&judge(&with(kind, &[]), &pods), "pod b on node node-1");
    }
}

#[test]
fn template_of_a_later_stamp_is_ahead() {
    let stamp = "/spec/template/metadata/annotations";
    for kind in KINDS {
        let live = with(kind, &[(stamp, json!({STAMP: "8"}))]);
        let verdict = judge(&live, &[pod(kind, "a", "8", json!({}))]);
        assert_eq!(verdict, RolloutStatus::Ahead(Fence::bare(8)), "{kind}");
    }
}

#[test]
fn kubectl_waiting_status_gives_pod_counts() {
    let cases = [
        ("Deployment", "/status/updatedReplicas", "1 of 3 pods are updated"),
        ("Deployment", "/status/availableReplicas", "1 of 3 updated pods are available"),
        ("StatefulSet", "/status/readyReplicas", "1 of 3 pods are ready"),
        ("DaemonSet", "/status/updatedNumberScheduled", "1 of 3 pods are updated"),
        ("DaemonSet", "/status/numberAvailable", "1 of 3 updated pods are available"),
    ];
    for (kind, number, words) in cases {
        let expected = KubectlStatus::Waiting(words.to_owned());
        assert_eq!(with(kind, &[(number, json!(1))]).by_kubectl(), expected, "{kind} {number}");
    }
    let more = with("Deployment", &[("/status/replicas", json!(5))]);
    assert_eq!(more.by_kubectl(), KubectlStatus::Waiting("2 older pods are to end".to_owned()));
}

#[test]
fn older_pod_is_awaited_by_name_and_node() {
    for kind in KINDS {
        let live = with(kind, &[]);
        let ending = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
        let verdict = judge(&live, &[pod(kind, "a", "6", ending)]);
        under_way(&verdict, "all pods are replaced; pod a on node node-1 is Terminating");
        let verdict = judge(&live, &[pod(kind, "a", "6", json!({}))]);
        under_way(&verdict, "pod a on node node-1 runs on an older view");
        let bare = pod(kind, "a", "none", json!({"spec": {"nodeName": null}}));
        under_way(&judge(&live, &[bare]), "pod a runs on an older view");
    }
}

#[test]
fn ended_and_unowned_pods_are_not_awaited() {
    for kind in KINDS {
        let failed = pod(kind, "a", "6", json!({"status": {"phase": "Failed"}}));
        let succeeded = pod(kind, "b", "6", json!({"status": {"phase": "Succeeded"}}));
        let by_hand = pod(kind, "c", "6", json!({"metadata": {"ownerReferences": []}}));
        assert_eq!(judge(&with(kind, &[]), &[failed, succeeded, by_hand]), RolloutStatus::Done);
    }
}

#[test]
fn without_replicas_nothing_runs_on_an_older_view() {
    for kind in KINDS {
        let status = json!({
            "observedGeneration": 4, "replicas": 0, "desiredNumberScheduled": 0,
            "currentNumberScheduled": 0, "numberMisscheduled": 0, "numberReady": 0,
        });
        let none = with(kind, &[("/spec/replicas", json!(0)), ("/status", status)]);
        assert_eq!(judge(&none, &[]), RolloutStatus::Done, "{kind}");
        under_way(&judge(&none, &[pod(kind, "a", "6", json!({}))]), "pod a");
    }
}

#[test]
fn template_without_stamp_is_stuck() {
    for kind in KINDS {
        let older = [("/spec/template/metadata/annotations", json!({STAMP: "6"}))];
        stuck(&judge(&with(kind, &older), &[]), "lost its stamp");
        let removed = [("/spec/template", json!({"metadata": {}}))];
        stuck(&judge(&with(kind, &removed), &[]), "lost its stamp");
    }
}

#[test]
fn replacement_obstacle_is_stuck_only_with_older_pods() {
    let obstacles = [
        ("Deployment", "/spec/paused", json!(true), "is paused"),
        ("StatefulSet", "/spec/updateStrategy/type", json!("OnDelete"), "OnDelete replaces no"),
        ("StatefulSet", "/spec/updateStrategy/rollingUpdate/partition", json!(1), "partition is 1"),
        ("DaemonSet", "/spec/updateStrategy/type", json!("OnDelete"), "OnDelete replaces no"),
    ];
    for (kind, field, value, words) in obstacles {
        let obstacle = (field, value);
        let older = pod(kind, "a", "6", json!({}));
        stuck(&judge(&with(kind, std::slice::from_ref(&obstacle)), &[older]), words);
        let newer = pod(kind, "a", "7", json!({}));
        assert_eq!(
            judge(&with(kind, &[obstacle]), &[newer]),
            RolloutStatus::Done,
            "{kind} {field}"
        );
    }
}

#[test]
fn exceeded_deadline_is_reported_with_pod_trouble() {
    let exceeded = json!([{
        "type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded",
    }]);
    let live = with(
        "Deployment",
        &[("/status/updatedReplicas", json!(1)), ("/status/conditions", exceeded)],
    );
    let pods = [pod("Deployment", "a", "7", waiting("ImagePullBackOff", 0))];
    let words = "progressDeadlineSeconds: pod a on node node-1, container main: ImagePullBackOff";
    stuck(&judge(&live, &pods), words);
}

/// One case for each trouble of a pod, with the verdict on it and its words.
#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn pod_trouble_is_reported_with_container_and_reason() {
    // The message `hush` is the container's own: no verdict may repeat it.
    let killed = json!({"terminated": {"reason": "OOMKilled", "exitCode": 137, "message": "hush"}});
    let unready = |conditions: Value| {
        json!({"status": {"conditions": conditions,
            "containerStatuses": [{"name": "main", "ready": true, "state": {"running": {}}}]}})
    };
    let not_placed = json!([{
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
        "message": "0/3 nodes are available: 3 Insufficient cpu.",
    }]);
    type Says = fn(&RolloutStatus, &str);
    let crashing = container(json!({
        "restartCount": 2, "lastState": killed,
        "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 20s"}},
    }));
    let cases: Vec<(Value, Says, &str)> = vec![
        (
            crashing,
            stuck,
            "pod a on node node-1, container main: CrashLoopBackOff: back-off 20s; it last ended \
             with OOMKilled, exit code 137 (2 restarts)",
        ),
        (waiting("CrashLoopBackOff", 2), stuck, "CrashLoopBackOff: why (2 restarts)"),
        (waiting("CrashLoopBackOff", 1), under_way, "CrashLoopBackOff: why (1 restarts)"),
        (waiting("ImagePullBackOff", 0), suspect, "container main: ImagePullBackOff: why"),
        (waiting("ErrImagePull", 0), suspect, "container main: ErrImagePull: why"),
        (waiting("InvalidImageName", 0), suspect, "container main: InvalidImageName: why"),
        (waiting("CreateContainerConfigError", 0), suspect, "CreateContainerConfigError: why"),
        (waiting("CreateContainerError", 0), suspect, "container main: CreateContainerError"),
        (waiting("RunContainerError", 0), suspect, "container main: RunContainerError"),
        (
            container(json!({"state": {"running": {}}, "lastState": killed, "restartCount": 1})),
            under_way,
            "container main: it last ended with OOMKilled, exit code 137 (1 restarts)",
        ),
        (
            container(json!({"state": {"running": {}}})),
            under_way,
            "container main: it runs and is not ready",
        ),
        (
            json!({"status": {"phase": "Pending", "conditions": not_placed}}),
            under_way,
            "pod a on node node-1: Unschedulable: 0/3 nodes are available: 3 Insufficient cpu.",
        ),
        (
            unready(json!([{"type": "Ready", "status": "False"}])),
            under_way,
            "pod a on node node-1: its containers are ready and it is not: its node does not answer",
        ),
        (json!({"status": {"reason": "NodeLost"}}), under_way, "pod a on node node-1: NodeLost"),
        (waiting("ContainerCreating", 0), under_way, "1 of 3 pods are updated"),
        (waiting("PodInitializing", 0), under_way, "1 of 3 pods are updated"),
    ];
    for kind in KINDS {
        for (status, says, words) in &cases {
            let names = ["a", "b", "c"];
            let changed = |name: &&str| if *name == "a" { status.clone() } else { json!({}) };
            let pods: Vec<_> = names.iter().map(|it| pod(kind, it, "7", changed(it))).collect();
            let verdict = judge(&under_way_of(kind), &pods);
            says(&verdict, words);
            assert!(!format!("{verdict:?}").contains("hush"), "{verdict:?}");
        }
    }
}

#[test]
fn runtime_message_of_container_is_not_repeated() {
    for reason in ["CreateContainerError", "RunContainerError", "PostStartHookError"] {
        let verdict =
            judge(&under_way_of("Deployment"), &[pod("Deployment", "a", "7", waiting(reason, 0))]);
        let description = format!("{verdict:?}");
        assert!(description.contains(reason) && !description.contains("why"), "{description}");
    }
}

#[test]
fn other_template_trouble_of_replaced_pods_is_ignored() {
    for kind in ["Deployment", "DaemonSet"] {
        for stamp in ["6", "7"] {
            let mut crashing = waiting("CrashLoopBackOff", 40);
            crashing["metadata"] = json!({
                "labels": {"pod-template-generation": "old"},
                "ownerReferences": [{
                    "apiVersion": "apps/v1", "name": "backend", "uid": "old", "controller": true,
                    "kind": if kind == "Deployment" { "ReplicaSet" } else { kind },
                }],
            });
            let names = ["a", "b", "c"];
            let pods: Vec<_> =
                names.iter().map(|it| pod(kind, it, stamp, crashing.clone())).collect();
            under_way(&judge(&under_way_of(kind), &pods), "1 of 3 pods are updated");
        }
    }
}

#[test]
fn transient_trouble_is_reported_before_owner_is_known() {
    let starting = container(json!({"state": {"running": {}}}));
    let replica = PodState::of(pod("Deployment", "a", "7", starting), STAMP).unwrap();
    let rollout = Rollout { object: "a", annotation: STAMP, fence: Fence::bare(7) };
    let verdict = rollout.judge(&under_way_of("Deployment"), None, &[&replica]);
    under_way(&verdict, "container main: it runs and is not ready");
}

#[test]
fn other_template_trouble_is_suspect_for_stateful_set() {
    let mut crashing = waiting("CrashLoopBackOff", 40);
    crashing["metadata"] = json!({"labels": {"controller-revision-hash": "old"}});
    let verdict =
        judge(&under_way_of("StatefulSet"), &[pod("StatefulSet", "backend-2", "7", crashing)]);
    suspect(&verdict, "pod backend-2 on node node-1, container main: CrashLoopBackOff");
    let RolloutStatus::Suspect { held, .. } = verdict else { panic!("{verdict:?}") };
    assert!(held.fix.starts_with("delete that pod"), "{}", held.fix);
}

#[test]
fn trouble_is_ignored_before_template_is_observed() {
    for kind in KINDS {
        let unobserved = with(kind, &[("/metadata/generation", json!(5))]);
        let pods = [pod(kind, "a", "6", waiting("CrashLoopBackOff", 40))];
        under_way(&judge(&unobserved, &pods), "the new pod template was not observed yet");
    }
}

#[test]
fn pods_that_are_refused_are_suspected() {
    let refused = json!([{
        "type": "ReplicaFailure", "status": "True", "reason": "FailedCreate",
        "message": "exceeded quota",
    }]);
    let failing = [("/status/updatedReplicas", json!(1)), ("/status/conditions", refused)];
    suspect(&judge(&with("Deployment", &failing), &[]), "FailedCreate: exceeded quota");
}

#[test]
fn pods_that_should_have_been_made_are_missed() {
    let pods =
        |kind, changes: Value| [pod(kind, "a", "7", json!({})), pod(kind, "b", "7", changes)];
    let ending = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
    for kind in ["StatefulSet", "DaemonSet"] {
        let verdict = judge(&under_way_of(kind), &pods(kind, json!({})));
        let words = "1 of 3 pods are updated; 2 of 3 pods exist";
        assert_eq!(verdict, RolloutStatus::Missing(words.to_owned()), "{kind}");
    }
    // A StatefulSet makes the next pod when this one is ready, or gone.
    for changes in [container(json!({"state": {"running": {}}})), ending] {
        let verdict = judge(&under_way_of("StatefulSet"), &pods("StatefulSet", changes));
        under_way(&verdict, "1 of 3 pods are updated");
    }
}
