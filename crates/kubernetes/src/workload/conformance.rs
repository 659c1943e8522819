//! kubectl's answer to each state of a rollout, beside ours.
//!
//! The rows named after a test are kubectl's own, of `pkg/polymorphichelpers/rollout_status_test.go` in
//! k8s.io/kubectl v0.36.3. The others are states that it has no row for: `rollout_status.go` beside it
//! gives kubectl's answer. If the answers differ, the row gives the reason.

use changeover_token::Fence;
use serde_json::{Value, json};

use super::{KubectlStatus, Pod, PodState, Rollout, RolloutStatus, WorkloadObject};

const STAMP: &str = "verifier.changeover.dev/token";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    Done,
    Waits,
    Fails,
}
use Expected::{Done, Fails, Waits};

struct Row {
    state: &'static str,
    kind: &'static str,
    generation: i64,
    spec: Value,
    status: Value,
    /// The stamps of its pods. Stamp 7 is the one that is rolled out. The stamp of a pod that ends has a
    /// `-` before it.
    pods: &'static [i64],
    kubectl: Expected,
    ours: Expected,
    why: &'static str,
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn table() -> Vec<Row> {
    // Our answer is the same as that of kubectl, unless `differs` says otherwise.
    let row = |kind, state, generation, spec, status, kubectl| Row {
        state,
        kind,
        generation,
        spec,
        status,
        pods: &[],
        kubectl,
        ours: kubectl,
        why: "",
    };
    let deployment = |state,
                      generation,
                      replicas: i32,
                      [observed, all, updated, available]: [i32; 4],
                      kubectl| {
        let status = json!({"observedGeneration": observed, "replicas": all,
            "updatedReplicas": updated, "availableReplicas": available});
        row("Deployment", state, generation, json!({"replicas": replicas}), status, kubectl)
    };
    let daemon_set =
        |state, generation, [observed, updated, desired, available]: [i32; 4], kubectl| {
            let spec = json!({"updateStrategy": {"type": "RollingUpdate"}});
            let status = json!({"observedGeneration": observed, "updatedNumberScheduled": updated,
            "desiredNumberScheduled": desired, "numberAvailable": available,
            "currentNumberScheduled": desired, "numberMisscheduled": 0, "numberReady": available});
            row("DaemonSet", state, generation, spec, status, kubectl)
        };
    let stateful_set = |state,
                        generation,
                        strategy: Value,
                        [observed, all, ready, current, updated]: [i32; 5],
                        kubectl| {
        let spec = json!({"replicas": 3, "serviceName": "foo", "updateStrategy": strategy});
        let status = json!({"observedGeneration": observed, "replicas": all,
            "readyReplicas": ready, "currentReplicas": current, "updatedReplicas": updated});
        row("StatefulSet", state, generation, spec, status, kubectl)
    };
    let rolling = json!({"type": "RollingUpdate"});
    let partition = |it: i32| json!({"type": "RollingUpdate", "rollingUpdate": {"partition": it}});
    let with = |mut row: Row, field: &str, value: Value| {
        row.status[field] = value;
        row
    };
    let differs = |row: Row, ours, why| Row { ours, why, ..row };
    const BELOW: &str = "pods below the partition are not replaced: they stay on an older view";
    const AVAILABLE: &str = "kubectl counts pods that are ready; we wait until they are available, \
                             which is later by minReadySeconds";
    vec![
        deployment("test1", 0, 1, [1, 1, 0, 1], Waits),
        deployment("test2", 1, 1, [1, 2, 1, 2], Waits),
        deployment("test3", 1, 2, [1, 2, 2, 1], Waits),
        deployment("test4", 1, 2, [1, 2, 2, 2], Done),
        deployment("test5", 2, 2, [1, 2, 2, 2], Waits),
        daemon_set("test1", 0, [1, 0, 1, 0], Waits),
        daemon_set("test2", 1, [1, 2, 2, 1], Waits),
        daemon_set("test3", 1, [1, 2, 2, 2], Done),
        daemon_set("test4", 2, [1, 2, 2, 2], Waits),
        stateful_set(
            "on delete returns an error",
            1,
            json!({"type": "OnDelete"}),
            [1, 0, 1, 0, 0],
            Fails,
        ),
        stateful_set(
            "unobserved update is not complete",
            2,
            rolling.clone(),
            [1, 3, 3, 3, 0],
            Waits,
        ),
        stateful_set(
            "if all pods are not ready the update is not complete",
            1,
            rolling.clone(),
            [2, 3, 2, 3, 0],
            Waits,
        ),
        differs(
            stateful_set(
                "partition update completes when all replicas above the partition are updated",
                1,
                partition(2),
                [2, 3, 3, 2, 1],
                Done,
            ),
            Fails,
            BELOW,
        ),
        differs(
            stateful_set(
                "partition update is in progress if all pods above the partition have not been updated",
                1,
                partition(2),
                [2, 3, 3, 3, 0],
                Waits,
            ),
            Fails,
            BELOW,
        ),
        differs(
            with(
                with(
                    stateful_set(
                        "update completes when all replicas are current",
                        1,
                        rolling.clone(),
                        [2, 3, 3, 3, 3],
                        Done,
                    ),
                    "currentRevision",
                    json!("foo"),
                ),
                "updateRevision",
                json!("foo"),
            ),
            Waits,
            AVAILABLE,
        ),
        differs(
            Row {
                spec: json!({"updateStrategy": {"type": "OnDelete"}}),
                ..daemon_set(
                    "TestDaemonSetStatusViewerStatusWithWrongUpdateStrategyType",
                    0,
                    [0, 0, 0, 0],
                    Fails,
                )
            },
            Done,
            "kubectl refuses the strategy; we look whether a pod is left on an older view",
        ),
        // States that kubectl's own table has no row for.
        with(
            deployment("its deadline is exceeded", 1, 2, [1, 2, 2, 1], Fails),
            "conditions",
            json!([{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}]),
        ),
        with(
            deployment(
                "the deadline of the template before is exceeded",
                2,
                2,
                [1, 2, 2, 1],
                Waits,
            ),
            "conditions",
            json!([{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}]),
        ),
        deployment("it is scaled to zero", 1, 0, [1, 0, 0, 0], Done),
        differs(
            Row {
                spec: json!({"replicas": 2, "paused": true}),
                ..deployment("it is paused midway", 1, 2, [1, 2, 1, 2], Waits)
            },
            Fails,
            "kubectl waits until it is resumed",
        ),
        differs(
            Row {
                pods: &[7, 7, -6],
                ..deployment("an older pod is Terminating", 1, 2, [1, 2, 2, 2], Done)
            },
            Waits,
            "kubectl does not count pods that end; they still send or check an older view",
        ),
        differs(
            Row { pods: &[7, 6], ..daemon_set("an older pod is left", 1, [1, 2, 2, 2], Done) },
            Waits,
            "kubectl believes the numbers; we look at the pods",
        ),
        daemon_set("no node takes a pod", 1, [1, 0, 0, 0], Done),
        stateful_set("it was never observed", 0, rolling.clone(), [0, 3, 3, 3, 3], Waits),
        with(
            stateful_set("all are available", 1, partition(0), [1, 3, 3, 3, 3], Done),
            "availableReplicas",
            json!(3),
        ),
        differs(
            with(
                stateful_set(
                    "ready, and minReadySeconds not over",
                    1,
                    partition(0),
                    [1, 3, 3, 3, 3],
                    Done,
                ),
                "availableReplicas",
                json!(2),
            ),
            Waits,
            AVAILABLE,
        ),
        differs(
            with(
                stateful_set("a partition above all pods", 1, partition(5), [1, 3, 3, 3, 0], Done),
                "availableReplicas",
                json!(3),
            ),
            Fails,
            BELOW,
        ),
        differs(
            Row {
                pods: &[7, 7, 7],
                ..with(
                    stateful_set(
                        "on delete, and every pod was deleted",
                        1,
                        json!({"type": "OnDelete"}),
                        [1, 3, 3, 3, 3],
                        Fails,
                    ),
                    "availableReplicas",
                    json!(3),
                )
            },
            Done,
            "kubectl refuses the strategy; we look whether a pod is left on an older view",
        ),
    ]
}

#[test]
fn verdicts_match_table_and_differences_are_explained() {
    for row in table() {
        let description = format!("{} {:?}", row.kind, row.state);
        let live = row.live();
        let kubectl = match live.by_kubectl() {
            KubectlStatus::Complete => Done,
            KubectlStatus::Unobserved | KubectlStatus::Waiting(_) => Waits,
            KubectlStatus::DeadlineExceeded | KubectlStatus::NotRolling => Fails,
        };
        assert_eq!(kubectl, row.kubectl, "kubectl's answer to {description}");
        let rollout = Rollout { object: "foo", annotation: STAMP, fence: Fence::bare(7) };
        let replicas = row.replicas();
        let verdict = rollout.judge(&live, Some("1"), &replicas.iter().collect::<Vec<_>>());
        let ours = match &verdict {
            RolloutStatus::Done => Done,
            RolloutStatus::UnderWay(_)
            | RolloutStatus::Missing(_)
            | RolloutStatus::Suspect { .. } => Waits,
            RolloutStatus::Stuck(_) | RolloutStatus::Ahead(_) => Fails,
        };
        assert_eq!(ours, row.ours, "our answer to {description}: {verdict:?}");
        assert_eq!(row.why.is_empty(), row.kubectl == row.ours, "why {description} differs");
    }
}

impl Row {
    fn live(&self) -> WorkloadObject {
        let mut spec = self.spec.clone();
        spec["selector"] = json!({});
        spec["template"] = json!({"metadata": {"annotations": {STAMP: "7"}}});
        let object = json!({
            "metadata": {"name": "foo", "generation": self.generation},
            "spec": spec,
            "status": self.status,
        });
        super::tests::live(self.kind, object)
    }

    fn replicas(&self) -> Vec<PodState> {
        let pod = |(number, stamp): (usize, &i64)| {
            let ends = (*stamp < 0).then_some("2026-01-01T00:00:00Z");
            let pod: Pod = serde_json::from_value(json!({
                "metadata": {
                    "name": format!("foo-{number}"),
                    "annotations": {STAMP: stamp.abs().to_string()},
                    "deletionTimestamp": ends,
                    "ownerReferences": [{
                        "apiVersion": "apps/v1", "kind": "StatefulSet", "name": "foo", "uid": "1",
                        "controller": true,
                    }],
                },
            }))
            .unwrap();
            PodState::of(pod, STAMP).unwrap()
        };
        self.pods.iter().enumerate().map(pod).collect()
    }
}
