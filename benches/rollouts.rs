//! Delay between the end of a rollout's last older pod and the report that it is rolled out, compared with
//! `kubectl rollout status`, and the cost of thousands of other pods: `tests/testbed/run with -- cargo
//! bench --bench rollouts`, or `make bench`.
//!
//! Measured on the testbed's control plane, whose pods are processes. Without a testbed nothing is
//! measured. Compare the differences and ratios: absolute times depend on this computer.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use changeover_core::{
    error::Error,
    ports::{Progress, Stamp, Workloads},
    spec::{PicksUp, Side, Workload, WorkloadKind},
};
use changeover_kubernetes::{Access, Connection, Home, KubernetesClusters};
use changeover_token::{Digest, Fence, TokenName};
use futures::{StreamExt, TryStreamExt, future::join_all, stream};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Namespace, Pod},
};
use kube::{
    Api, Client, Config,
    api::{ListParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
    core::PartialObjectMeta,
    runtime::watcher::{self, Event, watcher},
};
use serde_json::{Value, json};

/// Deployments that roll at the same time. Each is waited for separately.
const AT_ONCE: usize = 5;
const ROUNDS: usize = 10;
/// Pods of other applications, which no scheduler looks at.
const OTHERS: usize = 2_000;
const LONG: Duration = Duration::from_secs(120);

/// Drains for a second, so that something is left to wait for when kubectl reports the rollout as complete.
const DRAINS: &str = "trap 'sleep 1; exit 0' TERM; sleep 3600 & wait";
/// Makes this program wait for one roll of all Deployments and print its duration.
const ONCE: &str = "--once";

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let Some(testbed) = Testbed::of_the_environment().await else {
        return print("rollouts: not measured, for there is no testbed");
    };
    let arguments: Vec<String> = env::args().collect();
    if let Some(at) = arguments.iter().position(|argument| argument == ONCE) {
        let revision = arguments[at + 2].parse().expect("a revision");
        return once(&testbed, &arguments[at + 1], revision).await;
    }
    beside_kubectl(&testbed).await;
    beside_others(&testbed).await;
}

async fn beside_kubectl(testbed: &Testbed) {
    let namespace = testbed.namespace("bench-rollouts").await;
    let names = testbed.deploy(&namespace, |name| json!({"app": name})).await;
    let mut after_ended = Vec::new();
    let mut kubectl_after_ended = Vec::new();
    let mut after_both = Vec::new();
    // Each round rolls all Deployments once. Our wait and kubectl's run side by side, so that both see the
    // same pods.
    for round in 1..=ROUNDS {
        let stamp = stamp(round as u64);
        let workloads: Vec<_> = names.iter().map(|name| workload(&namespace, name)).collect();
        let older: Vec<_> = join_all(names.iter().map(|it| testbed.pods_of(&namespace, it))).await;
        let all: BTreeSet<String> = older.iter().flatten().cloned().collect();
        let ended = testbed.ended(&namespace, all);
        let waits = workloads.iter().map(async |workload| {
            testbed.clusters.stamp(workload, &stamp).await.expect("it is stamped");
            let kubectl = testbed.kubectl_rollout_status(&namespace, &workload.name);
            let ours = async {
                let answers = testbed.clusters.rolled_out(&[workload], &stamp, LONG).await;
                assert_eq!(answers, [Ok(Progress::Done(()))]);
                Instant::now()
            };
            tokio::join!(ours, kubectl)
        });
        let (ended, answered) = tokio::join!(ended, join_all(waits));
        // Times are relative to the end of the last older pod, or to the later of that and kubectl's
        // report.
        for (older, (ours, kubectl)) in older.iter().zip(answered) {
            let ended = older.iter().map(|pod| ended[pod]).max().expect("it had pods");
            after_ended.push(milliseconds(ours, ended));
            kubectl_after_ended.push(milliseconds(kubectl, ended));
            after_both.push(milliseconds(ours, ended.max(kubectl)));
        }
    }
    print(&format!("{} rollouts of 2 pods, {AT_ONCE} at the same time:", after_ended.len()));
    report("rolled out, after the last older pod had ended", after_ended);
    report("kubectl rollout status, after the last older pod had ended", kubectl_after_ended);
    report("rolled out, after both", after_both);
}

/// Measures the cost of a namespace full of other applications' pods. It runs this program again, because
/// memory only grows.
async fn beside_others(testbed: &Testbed) {
    let empty = testbed.namespace("bench-alone").await;
    let full = testbed.namespace("bench-beside").await;
    // No single selector could match these labels, so every pod of the namespace is read.
    let labels = |name: &str| json!({name: "yes"});
    for namespace in [&empty, &full] {
        testbed.deploy(namespace, labels).await;
    }
    testbed.create_others(&full).await;
    let mut medians = Vec::new();
    for namespace in [&empty, &full] {
        let mut took = Vec::new();
        let mut resident = Vec::new();
        for revision in 1..=3_u32 {
            let output = Command::new(env::current_exe().expect("this program has a path"))
                .args([ONCE, namespace, &revision.to_string()])
                .stderr(Stdio::inherit())
                .output()
                .expect("it runs");
            assert!(output.status.success(), "it ends well");
            let said = String::from_utf8(output.stdout).expect("text");
            let numbers: Vec<f64> =
                said.split_whitespace().map(|number| number.parse().expect("a number")).collect();
            took.push(numbers[0]);
            resident.push(numbers[1]);
        }
        medians.push((median(&mut took), median(&mut resident)));
    }
    let [(alone, alone_resident), (beside, beside_resident)] = medians[..] else { return };
    print(&format!(
        "{AT_ONCE} together: {alone:.2} s, {alone_resident:.1} MB resident at most (medians of 3)"
    ));
    print(&format!(
        "the same beside {OTHERS} pods of others: {beside:.2} s, {beside_resident:.1} MB; ratios \
         {:.2} and {:.2}",
        beside / alone,
        beside_resident / alone_resident,
    ));
}

/// One roll of all Deployments of a namespace. Prints its duration in seconds and the peak resident memory
/// in MB.
async fn once(testbed: &Testbed, namespace: &str, revision: u64) {
    let stamp = stamp(revision);
    let deployments: Api<PartialObjectMeta<Deployment>> =
        Api::namespaced(testbed.client.clone(), namespace);
    let listed = deployments.list(&ListParams::default()).await.expect("they are listed");
    let names = listed.items.into_iter().filter_map(|it| it.metadata.name);
    let workloads: Vec<_> = names.map(|name| workload(namespace, &name)).collect();
    let began = Instant::now();
    for workload in &workloads {
        testbed.clusters.stamp(workload, &stamp).await.expect("it is stamped");
    }
    let all: Vec<&Workload> = workloads.iter().collect();
    for answer in testbed.clusters.rolled_out(&all, &stamp, LONG).await {
        assert_eq!(answer, Ok(Progress::Done(())));
    }
    let took = began.elapsed().as_secs_f64();
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    let kilobytes: f64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    print(&format!("{took} {}", kilobytes / 1e3));
}

struct Testbed {
    client: Client,
    clusters: KubernetesClusters,
    kubectl: String,
    kubeconfig: String,
}

/// The administrator of the testbed's cluster, under the name of every cluster.
struct Administrator(Client);

#[async_trait]
impl Access for Administrator {
    async fn connect(&self, _: &str) -> Result<Connection, Error> {
        Ok(Connection { client: self.0.clone(), introduce: "".into(), generation: 1 })
    }

    async fn describe(&self, cluster: &str) -> Result<Digest, Error> {
        Ok(Digest::of(cluster))
    }

    async fn discard(&self, _: &str, _: &Connection) {}
}

impl Testbed {
    #[expect(clippy::disallowed_methods, reason = "where the testbed is")]
    async fn of_the_environment() -> Option<Self> {
        let path = env::var("CHANGEOVER_TESTBED").ok()?;
        let description = std::fs::read_to_string(path).expect("the testbed's description");
        let description: Value = serde_json::from_str(&description).expect("JSON");
        let text = |field: &str| description[field].as_str().expect("a text").to_owned();
        let kubeconfig = Kubeconfig::read_from(text("kubeconfig")).expect("a kubeconfig");
        let options = KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
        let client = Client::try_from(config.expect("a configuration")).expect("a client");
        Some(Self {
            clusters: KubernetesClusters::reached_by(
                Arc::new(Administrator(client.clone())),
                Home::default(),
            ),
            client,
            kubectl: text("kubectl"),
            kubeconfig: text("kubeconfig"),
        })
    }

    async fn namespace(&self, name: &str) -> String {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let namespace = json!({"metadata": {"generateName": format!("{name}-")}});
        let namespace = serde_json::from_value(namespace).expect("a namespace");
        let created = namespaces.create(&PostParams::default(), &namespace).await;
        created.expect("it is created").metadata.name.expect("a name")
    }

    /// Creates the Deployments, waits until they are rolled out, and returns their names.
    async fn deploy(&self, namespace: &str, labels: impl Fn(&str) -> Value) -> Vec<String> {
        let deployments: Api<Deployment> = Api::namespaced(self.client.clone(), namespace);
        let names: Vec<String> = (0..AT_ONCE).map(|number| format!("backend-{number}")).collect();
        for name in &names {
            let labels = labels(name);
            let deployment = json!({
                "metadata": {"name": name},
                "spec": {
                    "replicas": 2,
                    "selector": {"matchLabels": labels},
                    "template": {
                        "metadata": {"labels": labels},
                        "spec": {
                            "containers": [{
                                "name": "main",
                                "image": "local/process",
                                "command": ["/bin/sh", "-c", DRAINS],
                            }],
                        },
                    },
                },
            });
            let deployment = serde_json::from_value(deployment).expect("a Deployment");
            deployments.create(&PostParams::default(), &deployment).await.expect("it is created");
        }
        for name in &names {
            self.kubectl_rollout_status(namespace, name).await;
        }
        names
    }

    /// Creates pods as they occur in real clusters: with an annotation that nothing here reads.
    async fn create_others(&self, namespace: &str) {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let note = "x".repeat(4_000);
        let created = stream::iter(0..OTHERS).map(|number| {
            let pod = json!({
                "metadata": {
                    "name": format!("other-{number}"),
                    "labels": {"app": format!("other-{}", number % 50)},
                    "annotations": {"somebody/note": note},
                },
                "spec": {
                    "schedulerName": "nobody",
                    "containers": [{"name": "main", "image": "local/process"}],
                },
            });
            let pods = pods.clone();
            async move {
                let pod = serde_json::from_value(pod).expect("a pod");
                pods.create(&PostParams::default(), &pod).await.map(drop)
            }
        });
        created.buffer_unordered(16).try_collect::<()>().await.expect("they are created");
    }

    /// The pods that are not being deleted.
    async fn pods_of(&self, namespace: &str, app: &str) -> Vec<String> {
        let pods: Api<PartialObjectMeta<Pod>> = Api::namespaced(self.client.clone(), namespace);
        let selected = ListParams::default().labels(&format!("app={app}"));
        let listed = pods.list(&selected).await.expect("they are listed");
        let running =
            listed.items.into_iter().filter(|it| it.metadata.deletion_timestamp.is_none());
        running.filter_map(|pod| pod.metadata.name).collect()
    }

    /// Time at which each of these pods ended: it was deleted, or its phase says that none of it runs.
    async fn ended(
        &self,
        namespace: &str,
        mut pods: BTreeSet<String>,
    ) -> BTreeMap<String, Instant> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let mut events = std::pin::pin!(watcher(api, watcher::Config::default()));
        let mut ended = BTreeMap::new();
        while !pods.is_empty() {
            let event = events.next().await.expect("a watch goes on").expect("an event");
            let (pod, is_gone) = match event {
                Event::Delete(pod) => (pod, true),
                Event::Apply(pod) => (pod, false),
                _ => continue,
            };
            let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
            let has_ended = is_gone || matches!(phase, Some("Succeeded" | "Failed"));
            let name = pod.metadata.name.unwrap_or_default();
            if has_ended && pods.remove(&name) {
                ended.insert(name, Instant::now());
            }
        }
        ended
    }

    /// Time at which kubectl reported the Deployment as rolled out.
    async fn kubectl_rollout_status(&self, namespace: &str, deployment: &str) -> Instant {
        let mut kubectl = Command::new(&self.kubectl);
        kubectl
            .arg(format!("--kubeconfig={}", self.kubeconfig))
            .arg(format!("--namespace={namespace}"))
            .args(["rollout", "status", &format!("deployment/{deployment}"), "--timeout=120s"])
            .stdout(Stdio::null());
        let ended = tokio::task::spawn_blocking(move || {
            let status = kubectl.status().expect("kubectl runs");
            assert!(status.success(), "it is rolled out");
            Instant::now()
        });
        ended.await.expect("kubectl ends")
    }
}

fn workload(namespace: &str, name: &str) -> Workload {
    Workload {
        cluster: "testbed".to_owned(),
        namespace: namespace.to_owned(),
        kind: WorkloadKind::Deployment,
        name: name.to_owned(),
        copy: None,
        picks_up: PicksUp::Restart,
        settle: Duration::ZERO,
    }
}

fn stamp(revision: u64) -> Stamp {
    let token = TokenName::parse("bench").expect("a name");
    Stamp { side: Side::Presenters, token, fence: Fence::bare(revision) }
}

/// Negative if `at` is earlier.
fn milliseconds(at: Instant, after: Instant) -> f64 {
    match at.checked_duration_since(after) {
        Some(later) => later.as_secs_f64() * 1e3,
        None => -after.duration_since(at).as_secs_f64() * 1e3,
    }
}

fn report(what: &str, mut milliseconds: Vec<f64>) {
    let median = median(&mut milliseconds);
    let worst = milliseconds.last().copied().unwrap_or_default();
    print(&format!("  {what}: median {median:.0} ms, worst {worst:.0} ms"));
}

fn median(numbers: &mut [f64]) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

#[expect(clippy::print_stdout, reason = "a benchmark's output is what it prints")]
fn print(line: &str) {
    println!("{line}");
}
