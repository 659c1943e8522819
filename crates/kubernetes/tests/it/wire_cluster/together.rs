//! Workloads of one namespace that are waited for together, of every kind.

use std::{sync::Arc, time::Duration};

use changeover_core::{
    error::{Error, Kind},
    ports::{Progress, Workloads},
    spec::{Workload, WorkloadKind},
};

use super::{
    MINUTE, PODS, REPLICA_SETS, REVISION, STAMP, all_wait,
    api_server::{ApiServer, Fault},
    clusters, stamp, workload,
};
use http::Method;
use serde_json::{Value, json};
use tokio::time::Instant;

fn path(kind: WorkloadKind, name: &str) -> String {
    format!("/apis/apps/v1/namespaces/web/{kind}s/{name}")
}

fn named(kind: WorkloadKind, name: &str) -> Workload {
    Workload { kind, name: name.to_owned(), ..workload() }
}

/// Creates a workload of one pod, stamped 7 and observed. Its pod of revision 6 runs.
fn begun(server: &ApiServer, kind: WorkloadKind, name: &str, labels: &Value) {
    server.put(
        &path(kind, name),
        json!({
            "metadata": {"generation": 2, "annotations": {
                REVISION: "2", "deprecated.daemonset.template.generation": "new",
            }},
            "spec": {
                "replicas": 1,
                "serviceName": "",
                "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"annotations": {STAMP: "7"}}},
            },
            "status": {"observedGeneration": 2, "updateRevision": "new"},
        }),
    );
    status(server, kind, name, 0);
    if kind == WorkloadKind::Deployment {
        for (replica_set, revision) in [("old", "1"), ("new", "2")] {
            server.put(
                &format!("{REPLICA_SETS}/{name}-{replica_set}"),
                json!({"metadata": {
                    "labels": labels,
                    "annotations": {REVISION: revision},
                    "ownerReferences": [{
                        "apiVersion": "apps/v1", "kind": "Deployment", "name": name,
                        "uid": format!("uid-{name}"), "controller": true,
                    }],
                }}),
            );
        }
    }
    pod(server, kind, name, "old", labels);
}

fn status(server: &ApiServer, kind: WorkloadKind, name: &str, updated: u32) {
    server.put(
        &path(kind, name),
        json!({"status": {
            "replicas": 1, "updatedReplicas": updated, "readyReplicas": 1, "availableReplicas": 1,
            "desiredNumberScheduled": 1, "updatedNumberScheduled": updated, "numberAvailable": 1,
            "currentNumberScheduled": 1, "numberMisscheduled": 0, "numberReady": 1,
        }}),
    );
}

fn pod(server: &ApiServer, kind: WorkloadKind, name: &str, template: &str, labels: &Value) {
    let (owner, owned_by) = match kind {
        WorkloadKind::Deployment => ("ReplicaSet", format!("{name}-{template}")),
        WorkloadKind::StatefulSet => ("StatefulSet", name.to_owned()),
        WorkloadKind::DaemonSet => ("DaemonSet", name.to_owned()),
    };
    let mut labels = labels.clone();
    labels["controller-revision-hash"] = json!(template);
    labels["pod-template-generation"] = json!(template);
    server.put(
        &format!("{PODS}/{name}-{template}"),
        json!({
            "metadata": {
                "labels": labels,
                "annotations": {STAMP: if template == "new" { "7" } else { "6" }},
                "ownerReferences": [{
                    "apiVersion": "apps/v1", "kind": owner, "name": owned_by,
                    "uid": format!("uid-{owned_by}"), "controller": true,
                }],
            },
            "spec": {"nodeName": "node-1"},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
        }),
    );
}

fn renamed(server: &ApiServer, from: &str, to: &str) {
    let from = format!("{PODS}/{from}");
    let mut pod = server.object(&from);
    server.delete(&from);
    pod["metadata"]["name"] = json!(to);
    server.put(&format!("{PODS}/{to}"), pod);
}

/// Replaces the workload's pod.
fn replaced(server: &ApiServer, kind: WorkloadKind, name: &str, labels: &Value) {
    server.delete(&format!("{PODS}/{name}-old"));
    pod(server, kind, name, "new", labels);
    status(server, kind, name, 1);
}

async fn rolled_out(
    server: &Arc<ApiServer>,
    workloads: &[Workload],
) -> Vec<Result<Progress<()>, Error>> {
    let workloads: Vec<&Workload> = workloads.iter().collect();
    clusters(server).rolled_out(&workloads, &stamp(7), MINUTE).await
}

const KINDS: [WorkloadKind; 3] =
    [WorkloadKind::Deployment, WorkloadKind::StatefulSet, WorkloadKind::DaemonSet];

#[tokio::test(start_paused = true)]
async fn stamped_workload_is_awaited_until_older_pod_ends() {
    for kind in KINDS {
        let server = ApiServer::new();
        let labels = json!({"app": "backend"});
        begun(&server, kind, "backend", &labels);
        let workload = named(kind, "backend");
        let unstamped = json!({"spec": {"template": {"metadata": {"annotations": {STAMP: "6"}}}}});
        server.put(&path(kind, "backend"), unstamped);
        assert_eq!(
            clusters(&server).stamp(&workload, &stamp(7)).await,
            Ok(Some(Progress::Done(())))
        );
        let [apply] = server.patches().try_into().unwrap();
        assert_eq!(apply.path, path(kind, "backend"));
        assert_eq!(apply.body["kind"].as_str().unwrap().to_lowercase(), kind.to_string());

        let rollout = async {
            all_wait().await;
            pod(&server, kind, "backend", "new", &labels);
            let ending = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
            server.put(&format!("{PODS}/backend-old"), ending);
            status(&server, kind, "backend", 1);
            tokio::time::sleep(Duration::from_secs(20)).await;
            server.delete(&format!("{PODS}/backend-old"));
            Instant::now()
        };
        let waited = async { (rolled_out(&server, &[workload]).await, Instant::now()) };
        let ((progress, rolled_out_at), gone_at) = tokio::join!(waited, rollout);
        assert_eq!(progress, [Ok(Progress::Done(()))], "{kind}");
        assert_eq!(rolled_out_at, gone_at, "{kind}");
    }
}

/// Lists and watches after the first `requests` requests, by collection. `true` marks a watch.
fn asked(server: &ApiServer, requests: usize) -> Vec<(String, bool)> {
    let requests = server.requests().into_iter().skip(requests);
    let asked = requests.filter(|it| it.method == Method::GET);
    asked
        .map(|it| {
            let collection = it.path.rsplit('/').next().unwrap().to_owned();
            (collection, it.query.contains("watch=true"))
        })
        .collect()
}

#[tokio::test(start_paused = true)]
async fn workloads_need_two_requests_each_and_shared_lists() {
    let server = ApiServer::new();
    let workloads: Vec<Workload> = (0..50)
        .map(|number| named(WorkloadKind::Deployment, &format!("backend-{number}")))
        .collect();
    let labels = |name: &str| json!({"app": name, "tier": "any"});
    for workload in &workloads {
        begun(&server, workload.kind, &workload.name, &labels(&workload.name));
        let unstamped = json!({"spec": {"template": {"metadata": {"annotations": {STAMP: "6"}}}}});
        server.put(&path(workload.kind, &workload.name), unstamped);
    }
    let clusters = clusters(&server);
    for workload in &workloads {
        assert_eq!(clusters.stamp(workload, &stamp(7)).await, Ok(Some(Progress::Done(()))));
    }
    assert_eq!(server.requests().len(), 100, "a GET and a PATCH each");
    let rollout = async {
        all_wait().await;
        for workload in &workloads {
            replaced(&server, workload.kind, &workload.name, &labels(&workload.name));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let (progress, ()) = tokio::join!(rolled_out(&server, &workloads), rollout);
    assert!(progress.iter().all(|it| *it == Ok(Progress::Done(()))), "{progress:?}");
    let asked = asked(&server, 100);
    let lists = |collection: &str| {
        asked.iter().filter(|(of, is_watch)| of == collection && !is_watch).count()
    };
    assert_eq!(lists("deployments"), 1);
    // One list at the start, and then at most one a second for the workloads that are rolled out by then.
    assert_eq!(lists("pods"), 1 + 1);
    assert!(lists("replicasets") <= 1);
    let requests = server.requests();
    let of_pods = requests.iter().find(|it| it.path == PODS).unwrap();
    assert!(of_pods.query.contains("labelSelector=app in (backend-0,backend-1,"), "{of_pods:?}");
}

#[tokio::test(start_paused = true)]
async fn kinds_share_pod_watch_and_count_own_pods() {
    let server = ApiServer::new();
    // Labels that no single selector covers.
    let labels = [json!({"app": "a"}), json!({"name": "b"}), json!({"k8s-app": "c"})];
    let workloads: Vec<Workload> = KINDS.iter().map(|kind| named(*kind, "backend")).collect();
    for (kind, labels) in KINDS.iter().zip(&labels) {
        begun(&server, *kind, "backend", labels);
        renamed(&server, "backend-old", &format!("{kind}-old"));
    }
    let rollout = async {
        all_wait().await;
        for (kind, labels) in KINDS.iter().zip(&labels) {
            server.delete(&format!("{PODS}/{kind}-old"));
            pod(&server, *kind, "backend", "new", labels);
            renamed(&server, "backend-new", &format!("{kind}-new"));
            status(&server, *kind, "backend", 1);
        }
    };
    let (progress, ()) = tokio::join!(rolled_out(&server, &workloads), rollout);
    assert_eq!(progress, [Ok(Progress::Done(())), Ok(Progress::Done(())), Ok(Progress::Done(()))]);
    let requests = server.requests();
    let watches = requests.iter().filter(|it| it.path == PODS && it.query.contains("watch=true"));
    assert!(watches.clone().all(|it| !it.query.contains("labelSelector")));
    let of_one = requests.iter().find(|it| it.path.ends_with("/statefulsets")).unwrap();
    assert!(of_one.query.contains("fieldSelector=metadata.name=backend"), "{of_one:?}");
}

#[tokio::test(start_paused = true)]
async fn stuck_workload_ends_wait_with_progress_of_others() {
    let server = ApiServer::new();
    let labels = |name: &str| json!({"app": name});
    let names = ["done", "moving", "stuck"];
    let workloads: Vec<Workload> =
        names.iter().map(|name| named(WorkloadKind::Deployment, name)).collect();
    for name in names {
        begun(&server, WorkloadKind::Deployment, name, &labels(name));
    }
    let rollout = async {
        all_wait().await;
        replaced(&server, WorkloadKind::Deployment, "done", &labels("done"));
        tokio::time::sleep(Duration::from_secs(2)).await;
        server.put(&path(WorkloadKind::Deployment, "stuck"), json!({"spec": {"paused": true}}));
        Instant::now()
    };
    let waited = async { (rolled_out(&server, &workloads).await, Instant::now()) };
    let ((progress, told_at), paused_at) = tokio::join!(waited, rollout);
    assert_eq!(told_at, paused_at);
    let [done, moving, stuck] = progress.try_into().unwrap();
    assert_eq!(done, Ok(Progress::Done(())));
    assert!(
        matches!(&moving, Ok(Progress::UnderWay(left))
            if left == "0 of 1 pods are updated; pod moving-old on node node-1 runs on an older view"),
        "{moving:?}"
    );
    assert!(
        matches!(&stuck, Ok(Progress::Stuck(held))
            if held.object == "prod/web/deployment/stuck" && held.reason.contains("paused")),
        "{stuck:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn watch_failure_is_returned_for_each_workload() {
    let server = ApiServer::new();
    let names = ["a", "b"];
    for name in names {
        begun(&server, WorkloadKind::StatefulSet, name, &json!({"app": name}));
    }
    server.fail([Fault::Status(403)]);
    let workloads = names.map(|name| named(WorkloadKind::StatefulSet, name));
    for answer in rolled_out(&server, &workloads).await {
        let error = answer.unwrap_err();
        assert_eq!(error.kind, Kind::AccessDenied);
        assert!(error.fix.contains("watch on statefulsets.apps in namespace web"), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn recreated_workload_is_stuck_with_former_pods_awaited() {
    for kind in KINDS {
        let server = ApiServer::new();
        let labels = json!({"app": "backend"});
        begun(&server, kind, "backend", &labels);
        let workload = [named(kind, "backend")];
        let anew = json!({"metadata": {"uid": "anew"}});
        let recreating = async {
            all_wait().await;
            // The watch misses the deletion and sees only the new object.
            server.put(&path(kind, "backend"), anew);
        };
        let (progress, ()) = tokio::join!(rolled_out(&server, &workload), recreating);
        assert!(
            matches!(&progress[0], Ok(Progress::Stuck(held)) if held.reason.contains("anew")),
            "{progress:?}"
        );
        status(&server, kind, "backend", 1);
        pod(&server, kind, "backend", "new", &labels);
        let progress = rolled_out(&server, &workload).await;
        assert!(
            matches!(&progress[0], Ok(Progress::UnderWay(left)) if left.contains("pod backend-old")),
            "{progress:?}"
        );
    }
}

fn event(server: &ApiServer, name: &str, at: &str) {
    server.put(
        &format!("/api/v1/namespaces/web/events/{name}"),
        json!({
            "type": "Warning", "reason": "FailedCreate", "lastTimestamp": at,
            "message": format!("create Pod backend-0 failed error: exceeded quota: {name}"),
            "involvedObject": {"uid": "uid-backend"},
        }),
    );
}

#[tokio::test(start_paused = true)]
async fn refused_pods_are_held_with_event_reason() {
    for kind in [WorkloadKind::StatefulSet, WorkloadKind::DaemonSet] {
        let server = ApiServer::new();
        begun(&server, kind, "backend", &json!({"app": "backend"}));
        server.put(
            &path(kind, "backend"),
            json!({"metadata": {"managedFields": [
                {"manager": "changeover-presenter-datastore", "time": "2026-01-01T00:00:10Z"},
            ]}}),
        );
        // An event of the previous rollout.
        event(&server, "before", "2026-01-01T00:00:09Z");
        let workload = [named(kind, "backend")];
        let refusing = async {
            all_wait().await;
            server.delete(&format!("{PODS}/backend-old"));
            tokio::time::sleep(Duration::from_secs(20)).await;
            event(&server, "since", "2026-01-01T00:00:11Z");
        };
        let began = Instant::now();
        let (progress, ()) = tokio::join!(rolled_out(&server, &workload), refusing);
        assert!(
            matches!(&progress[0], Ok(Progress::Stuck(held))
                if held.reason.ends_with("exceeded quota: since") && held.fix.contains("quota")),
            "{progress:?}"
        );
        assert_eq!(began.elapsed().as_secs(), 30, "it is looked at every 15 s");
    }
}

#[tokio::test(start_paused = true)]
async fn stateful_set_waits_beyond_kubectls_rule() {
    let server = ApiServer::new();
    let kind = WorkloadKind::StatefulSet;
    let labels = json!({"app": "backend"});
    begun(&server, kind, "backend", &labels);
    replaced(&server, kind, "backend", &labels);
    server.put(&path(kind, "backend"), json!({"status": {"availableReplicas": 0}}));
    let workload = [named(kind, "backend")];
    let progress = rolled_out(&server, &workload).await;
    let words = "0 of 1 pods are available";
    assert!(matches!(&progress[0], Ok(Progress::UnderWay(left)) if left == words), "{progress:?}");

    let partition = json!({"spec": {"updateStrategy": {"rollingUpdate": {"partition": 1}}}});
    server.put(&path(kind, "backend"), partition);
    let progress = rolled_out(&server, &workload).await;
    assert!(
        matches!(&progress[0], Ok(Progress::Stuck(held))
            if held.object == "prod/web/statefulset/backend"
                && held.reason.contains("partition is 1") && held.fix.contains("partition to 0")),
        "{progress:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn containers_last_words_are_not_repeated() {
    let server = ApiServer::new();
    let kind = WorkloadKind::DaemonSet;
    let labels = json!({"app": "backend"});
    begun(&server, kind, "backend", &labels);
    pod(&server, kind, "backend", "new", &labels);
    let ended = json!({"reason": "Error", "exitCode": 1, "message": "the token is hush-hush"});
    server.put(
        &format!("{PODS}/backend-new"),
        json!({"status": {
            "conditions": [{"type": "Ready", "status": "False"}],
            "containerStatuses": [{
                "name": "main", "ready": false, "restartCount": 2,
                "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                "lastState": {"terminated": ended},
            }],
        }}),
    );
    let reported = format!("{:?}", rolled_out(&server, &[named(kind, "backend")]).await);
    assert!(reported.contains("it last ended with Error, exit code 1 (2 restarts)"), "{reported}");
    assert!(!reported.contains("hush"), "{reported}");
}
