//! Rollouts of every kind, including changes and failures midway.

use std::time::Instant;

use changeover_core::error::Error;

use super::*;

const KINDS: [(WorkloadKind, &str); 3] = [
    (WorkloadKind::Deployment, "Deployment"),
    (WorkloadKind::StatefulSet, "StatefulSet"),
    (WorkloadKind::DaemonSet, "DaemonSet"),
];

const SLEEPS: &str = "sleep 3600";

impl Testbed {
    async fn all_rolled_out(
        &self,
        workloads: &[Workload],
        stamp: &Stamp,
        within: Duration,
    ) -> Vec<Result<Progress<()>, Error>> {
        let workloads: Vec<&Workload> = workloads.iter().collect();
        self.clusters.rolled_out(&workloads, stamp, within).await
    }

    fn patch(&self, kind: &str, name: &str, patch: &Value) {
        let patch = patch.to_string();
        self.in_namespace(&["patch", kind, name, "--type=merge", "--patch", &patch]);
    }

    /// Numbers of requests that the function has sent to the API server in this namespace, by verb and
    /// resource.
    fn asked(&self) -> BTreeMap<(String, String), usize> {
        let log = std::fs::read_to_string(text(&self.description["audit_log"])).expect("the log");
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let ours = lines.filter(|entry| {
            let user = entry["user"]["username"].as_str().unwrap_or_default();
            user.starts_with("changeover:")
                && entry["objectRef"]["namespace"] == json!(self.namespace)
        });
        // The audit log has two entries for a watch: one when it begins and one when it ends.
        let requests: BTreeSet<(String, String, String)> = ours
            .map(|entry| {
                let id = text(&entry["auditID"]).to_owned();
                let resource = text(&entry["objectRef"]["resource"]).to_owned();
                (text(&entry["verb"]).to_owned(), resource, id)
            })
            .collect();
        let mut asked = BTreeMap::new();
        for (verb, resource, _) in requests {
            *asked.entry((verb, resource)).or_default() += 1;
        }
        asked
    }
}

#[tokio::test]
#[ignore = "needs a testbed: `make test`"]
async fn each_workload_kind_drains_pods_with_few_calls() {
    let testbed = Testbed::with_namespace("kinds").await;
    // Two workloads of each kind, so that the test shows which requests they share.
    let mut workloads = Vec::new();
    for (kind, object) in KINDS {
        for number in 1..=2 {
            let name = format!("{kind}-{number}");
            testbed.deploy_as(object, &name, DRAINS, json!({}));
            workloads.push(testbed.workload_of(kind, &name));
        }
    }
    // A rollout evicts nothing, so a budget that allows no disruption does not block it.
    testbed.create(json!({
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "none"},
        "spec": {"maxUnavailable": 0, "selector": {}},
    }));
    let stamp_5 = stamp(Side::Presenters, "a", 5);
    let older: Vec<_> = workloads.iter().map(|it| testbed.stamps(&it.name, PRESENTED)).collect();
    for workload in &workloads {
        testbed.stamp(workload, &stamp_5).await;
    }
    for progress in testbed.all_rolled_out(&workloads, &stamp_5, LONG).await {
        assert_eq!(progress, Ok(Progress::Done(())));
    }
    for (workload, older) in workloads.iter().zip(older) {
        let stamps = testbed.stamps(&workload.name, PRESENTED);
        assert!(!older.is_empty() && stamps.len() == older.len(), "{workload}: {stamps:?}");
        assert!(stamps.values().all(|stamp| stamp.as_deref() == Some("5")), "{stamps:?}");
    }

    let asked = testbed.asked();
    let requests = |verb: &str, resource: &str| {
        asked.get(&(verb.to_owned(), resource.to_owned())).copied().unwrap_or_default()
    };
    for resource in ["deployments", "statefulsets", "daemonsets"] {
        assert_eq!(requests("patch", resource), 2, "{asked:?}");
        assert_eq!(requests("list", resource), 1, "{asked:?}");
        assert_eq!(requests("watch", resource), 1, "{asked:?}");
        // A workload that changed between the read and the write is read again.
        assert!(requests("get", resource) >= 2, "{asked:?}");
    }
    assert_eq!(requests("watch", "pods"), 1, "{asked:?}");
    // One list at the start, and one for each batch of workloads that are rolled out.
    assert!((2..=1 + workloads.len()).contains(&requests("list", "pods")), "{asked:?}");
    testbed.tidied();
}

#[tokio::test]
#[ignore = "needs a testbed: `make test`"]
async fn repaired_stateful_set_is_held_until_pod_deletion() {
    let testbed = Testbed::with_namespace("ordered").await;
    testbed.deploy_as("StatefulSet", "database", SLEEPS, json!({}));
    let workload = testbed.workload_of(WorkloadKind::StatefulSet, "database");
    let reads = |secret: Value| {
        json!({"spec": {"template": {"spec": {"containers": [{
            "name": "main", "image": "local/process", "command": ["/bin/sh", "-c", SLEEPS],
            "env": secret,
        }]}}}})
    };
    let absent = json!([{
        "name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "absent", "key": "token"}},
    }]);
    let stamp = stamp(Side::Presenters, "a", 5);
    testbed.patch("statefulset", "database", &reads(absent));
    testbed.stamp(&workload, &stamp).await;
    let reason = stuck(testbed.rolled_out(&workload, &stamp).await);
    assert!(
        reason
            .contains("pod database-1 on node process-node, container main: CreateContainerConfig"),
        "{reason}"
    );

    testbed.patch("statefulset", "database", &reads(json!([])));
    let progress = testbed.rolled_out(&workload, &stamp).await;
    assert!(
        matches!(&progress, Progress::Stuck(held) if held.fix.starts_with("delete that pod")),
        "{progress:?}"
    );
    testbed.in_namespace(&["delete", "pod", "database-1"]);
    assert_eq!(testbed.rolled_out(&workload, &stamp).await, Progress::Done(()));
    testbed.tidied();
}

#[tokio::test]
#[ignore = "needs a testbed: `make test`"]
async fn each_kind_is_held_with_pod_admission_message() {
    let testbed = Testbed::with_namespace("refuses").await;
    for (kind, object) in KINDS {
        testbed.deploy_as(object, &kind.to_string(), SLEEPS, json!({}));
    }
    let stamped = format!("!('{PRESENTED}' in object.metadata.?annotations.orValue({{}}))");
    let pods = json!([{
        "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"],
    }]);
    testbed.create_policy(&pods, &stamped, "no stamps here");
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "x", "namespace": testbed.namespace, "annotations": {PRESENTED: "1"}},
        "spec": {"containers": [{"name": "main", "image": "local/process"}]},
    });
    testbed.wait_until_refused(&["create", "--filename=-"], &pod);

    let stamp = stamp(Side::Presenters, "a", 5);
    let reported = KINDS.iter().map(async |(kind, _)| {
        let workload = testbed.workload_of(*kind, &kind.to_string());
        testbed.stamp(&workload, &stamp).await;
        stuck(testbed.rolled_out(&workload, &stamp).await)
    });
    for reason in futures::future::join_all(reported).await {
        assert!(reason.contains("no stamps here"), "{reason}");
    }
    testbed.delete_policy();
    testbed.tidied();
}

#[tokio::test]
#[ignore = "needs a testbed: `make test`"]
async fn disturbed_rollout_is_reported_with_its_reason() {
    let testbed = Testbed::with_namespace("midway").await;
    let stamp_5 = stamp(Side::Presenters, "a", 5);
    let unready = json!({"spec": {"template": {"spec": {"containers": [{
        "name": "main", "image": "local/process", "command": ["/bin/sh", "-c", SLEEPS],
        "ports": [{"containerPort": 80}],
        "readinessProbe": {"httpGet": {"port": 80}, "periodSeconds": 1},
    }]}}}});
    let too_large = json!({"spec": {"template": {"spec": {"containers": [{
        "name": "main", "image": "local/process", "command": ["/bin/sh", "-c", SLEEPS],
        "resources": {"requests": {"cpu": "1000"}},
    }]}}}});
    let drained = json!({"spec": {"replicas": 0}});
    let strategy = |strategy: Value| json!({"spec": {"updateStrategy": strategy}});
    let by_hand = strategy(json!({"type": "OnDelete", "rollingUpdate": null}));
    let partition = strategy(json!({"rollingUpdate": {"partition": 1}}));
    // Name, kind, change before the stamp, change after the stamp, and the expected answer.
    type Case<'a> = (&'a str, WorkloadKind, &'a Value, &'a Value, &'a str);
    let nothing = json!({});
    let cases: Vec<Case<'_>> = vec![
        ("unready", WorkloadKind::Deployment, &unready, &nothing, "it runs and is not ready"),
        ("too-large", WorkloadKind::Deployment, &too_large, &nothing, "Insufficient cpu"),
        ("to-zero", WorkloadKind::StatefulSet, &nothing, &drained, "Done"),
        ("by-hand", WorkloadKind::StatefulSet, &nothing, &by_hand, "OnDelete replaces no pod"),
        ("in-part", WorkloadKind::StatefulSet, &nothing, &partition, "partition is 1"),
        ("by-hand-too", WorkloadKind::DaemonSet, &nothing, &by_hand, "OnDelete replaces no pod"),
    ];
    for (name, kind, before, after, _) in &cases {
        testbed.deploy_as(&kind_of_object(*kind), name, DRAINS, json!({}));
        testbed.patch(&kind.to_string(), name, before);
        // The rollout is midway in every case: the stamp does not end a pod that drains for seconds.
        testbed.stamp(&testbed.workload_of(*kind, name), &stamp_5).await;
        testbed.patch(&kind.to_string(), name, after);
    }
    // Only the waits run concurrently. A blocking kubectl call would stop the other tasks but not their
    // time limits.
    let looks = cases.iter().map(async |(name, kind, _, _, words)| {
        let workload = testbed.workload_of(*kind, name);
        let mut reported = String::new();
        for within in LOOKS {
            let within = if *words == "Done" { LONG } else { within };
            let looked_at = std::slice::from_ref(&workload);
            let progress = testbed.all_rolled_out(looked_at, &stamp_5, within).await.remove(0);
            reported = format!("{progress:?}");
            if reported.contains(words) {
                return;
            }
        }
        panic!("{name}: {reported}");
    });
    futures::future::join_all(looks).await;

    let workload = testbed.workload_of(WorkloadKind::StatefulSet, "to-zero");
    let newer = stamp(Side::Presenters, "a", 6);
    testbed.stamp(&workload, &newer).await;
    testbed.in_namespace(&["rollout", "undo", "statefulset/to-zero"]);
    let reason = stuck(testbed.rolled_out(&workload, &newer).await);
    assert!(reason.contains("lost its stamp"), "{reason}");
    testbed.in_namespace(&["delete", "statefulset", "to-zero"]);
    let reason = stuck(testbed.rolled_out(&workload, &newer).await);
    assert!(reason.contains("deleted"), "{reason}");
    testbed.tidied();
}

fn kind_of_object(kind: WorkloadKind) -> String {
    let (_, object) = KINDS.iter().find(|(of, _)| *of == kind).expect("a kind");
    (*object).to_owned()
}

#[tokio::test]
#[ignore = "needs a testbed: `make test`"]
async fn stateful_set_rollout_waits_for_min_ready_seconds() {
    let testbed = Testbed::with_namespace("minready").await;
    let parallel = json!({"podManagementPolicy": "Parallel", "minReadySeconds": 4, "replicas": 1});
    testbed.deploy_as("StatefulSet", "database", SLEEPS, parallel);
    let workload = testbed.workload_of(WorkloadKind::StatefulSet, "database");
    let stamp = stamp(Side::Presenters, "a", 5);
    testbed.stamp(&workload, &stamp).await;
    assert_eq!(testbed.rolled_out(&workload, &stamp).await, Progress::Done(()));
    let database = testbed.object("statefulset", "database");
    assert_eq!(database["status"]["availableReplicas"], 1, "{database}");
    testbed.tidied();
}

#[tokio::test]
#[ignore = "needs a testbed: `make test`"]
async fn missing_verb_on_workload_kind_is_named() {
    let testbed = Testbed::with_namespace("verbs").await;
    for (kind, object) in &KINDS[1..] {
        testbed.deploy_as(object, "backend", SLEEPS, json!({}));
        for (revision, verb) in (5..).zip(["get", "list", "watch", "patch"]) {
            let resource = format!("{kind}s");
            testbed.give_all_but(verb, &resource);
            let workload = testbed.workload_of(*kind, "backend");
            let stamp = stamp(Side::Presenters, "a", revision);
            let stamped = testbed.clusters.stamp(&workload, &stamp).await;
            let error = match stamped {
                Ok(_) => testbed.clusters.rolled_out(&[&workload], &stamp, LONG).await.remove(0),
                Err(error) => Err(error),
            };
            let error = error.expect_err("forbidden");
            assert_eq!(error.kind, Kind::AccessDenied, "{error}");
            assert!(
                error.because.contains(&format!("cannot {verb} resource \"{resource}\"")),
                "{error}"
            );
        }
    }
    testbed.tidied();
}

impl Testbed {
    /// Removes one verb from the function's rights, and grants every other one of the manifest.
    fn give_all_but(&self, verb: &str, resource: &str) {
        let manifest = include_str!("../../../infra/eks-rbac.yaml");
        let objects: Vec<Value> = serde_saphyr::from_multiple(manifest).expect("YAML");
        // A rule grants its verbs on all of its resources, so each rule is split by resource before the
        // verb is removed.
        for mut role in objects.into_iter().filter(|object| object["kind"] == "Role") {
            role["metadata"]["namespace"] = json!(self.namespace);
            let mut rules = Vec::new();
            for rule in role["rules"].as_array().expect("rules") {
                for of in rule["resources"].as_array().expect("resources") {
                    let mut rule = rule.clone();
                    rule["resources"] = json!([of]);
                    if of == resource {
                        let verbs = rule["verbs"].as_array_mut().expect("verbs");
                        verbs.retain(|granted| granted != verb);
                        if verbs.is_empty() {
                            continue;
                        }
                    }
                    rules.push(rule);
                }
            }
            role["rules"] = json!(rules);
            self.kubectl(&["apply", "--filename=-"], &role.to_string());
        }
        // The API server applies RBAC with a delay: wait until it denies the verb.
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {
                "user": "changeover:tests",
                "groups": ["changeover"],
                "resourceAttributes": {
                    "namespace": self.namespace, "group": "apps", "resource": resource, "verb": verb,
                },
            },
        });
        let began = Instant::now();
        let is_allowed = || {
            let output = "--output=jsonpath={.status.allowed}";
            self.kubectl(&["create", output, "--filename=-"], &review.to_string())
        };
        while is_allowed() == "true" {
            assert!(began.elapsed() < LONG, "it stays allowed");
        }
    }
}
