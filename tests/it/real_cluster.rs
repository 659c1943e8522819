//! Clusters on a real API server, with real controllers and External Secrets. They belong to the testbed
//! that `CHANGEOVER_TESTBED` names. The tests use a presigned token, and have only the rights that the
//! manifest grants.

mod admission;
mod copies;
mod rollouts;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write as _,
    process::{Command, Output, Stdio},
    sync::{Arc, LazyLock},
    time::Duration,
};

use aws_config::{BehaviorVersion, Region, SdkConfig, sts::AssumeRoleProvider};
use aws_credential_types::{Credentials, provider::SharedCredentialsProvider};
use aws_sdk_ssm::types::ParameterType;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use changeover::{
    clusters::NamedClusters,
    config::{self, Config},
};
use changeover_aws::Aws;
use changeover_core::{
    error::Kind,
    finding::{Examination, Severity, Subject},
    ports::{Clusters, Progress, SecretCopies, Stamp, Workloads},
    record::SecretRevision,
    spec::{ParameterName, PicksUp, SecretCopy, Side, Workload, WorkloadKind},
};
use changeover_kubernetes::KubernetesClusters;
use changeover_testkit::amount::testbed_description;
use changeover_token::{Digest, Fence, TokenName};
use jiff::Timestamp;
use serde_json::{Value, json};

const LONG: Duration = Duration::from_secs(120);
/// Limits of the repeated waits for an expected message. The first one lets a fast cluster pass early, and
/// the sum is enough for a busy one.
const LOOKS: [Duration; 4] = [
    Duration::from_secs(6),
    Duration::from_secs(12),
    Duration::from_secs(24),
    Duration::from_secs(48),
];

/// A running testbed, and a namespace of it for one test.
struct Testbed {
    description: Value,
    namespace: String,
    administrator: SdkConfig,
    clusters: KubernetesClusters,
}

impl Testbed {
    /// Connects to the testbed that the environment names. Creates a namespace in which the function's
    /// group has the rights of `infra/eks-rbac.yaml`.
    #[expect(
        clippy::disallowed_methods,
        reason = "the edge of these tests: where their time comes from"
    )]
    async fn with_namespace(name: &str) -> Self {
        let description = testbed_description();
        let namespace = format!("{name}-{:x}", Timestamp::now().as_millisecond());
        let administrator = administrator(&description).await;
        let role = AssumeRoleProvider::builder(text(&description["role"]))
            .session_name("tests")
            .configure(&administrator)
            .build_from_provider(administrator.credentials_provider().expect("credentials"))
            .await;
        let function = administrator
            .to_builder()
            .credentials_provider(SharedCredentialsProvider::new(role))
            .build();
        let testbed = Self {
            clusters: NamedClusters::of_function(
                Arc::new(Aws::new(function)),
                &configuration(&description),
                Arc::new(Timestamp::now),
            ),
            description,
            namespace,
            administrator,
        };
        testbed.kubectl(&["create", "namespace", &testbed.namespace], "");
        let rights = include_str!("../../infra/eks-rbac.yaml");
        let of_the_example = "namespace: backend";
        assert!(rights.contains(of_the_example));
        let rights = rights.replace(of_the_example, &format!("namespace: {}", testbed.namespace));
        testbed.kubectl(&["apply", "--filename=-"], &rights);
        testbed
    }

    /// Runs kubectl with the administrator's rights and returns its output.
    fn kubectl(&self, arguments: &[&str], input: &str) -> String {
        let output = self.run_kubectl(arguments, input);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "kubectl {arguments:?}: {said}");
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// True if kubectl succeeds.
    fn try_kubectl(&self, arguments: &[&str], input: &str) -> bool {
        self.run_kubectl(arguments, input).status.success()
    }

    fn run_kubectl(&self, arguments: &[&str], input: &str) -> Output {
        let mut kubectl = Command::new(text(&self.description["kubectl"]))
            .arg(format!("--kubeconfig={}", text(&self.description["kubeconfig"])))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl starts");
        let mut stdin = kubectl.stdin.take().expect("a pipe");
        stdin.write_all(input.as_bytes()).expect("kubectl reads");
        drop(stdin);
        kubectl.wait_with_output().expect("kubectl ends")
    }

    fn in_namespace(&self, arguments: &[&str]) -> String {
        let namespace = format!("--namespace={}", self.namespace);
        self.kubectl(&[&[namespace.as_str()], arguments].concat(), "")
    }

    fn object(&self, kind: &str, name: &str) -> Value {
        let json = self.in_namespace(&["get", kind, name, "--output=json"]);
        serde_json::from_str(&json).expect("JSON")
    }

    fn create(&self, mut object: Value) {
        object["metadata"]["namespace"] = json!(self.namespace);
        self.kubectl(&["create", "--filename=-"], &object.to_string());
    }

    /// Creates a Deployment whose pods run this script, and waits until it is rolled out.
    fn deploy(&self, name: &str, script: &str, spec: Value) {
        self.deploy_as("Deployment", name, script, spec);
    }

    /// Does the same for a workload of another kind. A DaemonSet has one pod.
    fn deploy_as(&self, kind: &str, name: &str, script: &str, spec: Value) {
        let mut workload = json!({
            "apiVersion": "apps/v1",
            "kind": kind,
            "metadata": {"name": name},
            "spec": {
                "selector": {"matchLabels": {"app": name}},
                "template": {
                    "metadata": {"labels": {"app": name}},
                    "spec": {
                        "terminationGracePeriodSeconds": 20,
                        "containers": [{
                            "name": "main",
                            "image": "local/process",
                            "command": ["/bin/sh", "-c", script],
                        }],
                    },
                },
            },
        });
        if kind != "DaemonSet" {
            workload["spec"]["replicas"] = json!(2);
        }
        if kind == "StatefulSet" {
            workload["spec"]["serviceName"] = json!(name);
        }
        for (field, value) in spec.as_object().expect("an object") {
            workload["spec"][field] = value.clone();
        }
        self.create(workload);
        self.in_namespace(&["rollout", "status", &format!("{kind}/{name}"), "--timeout=60s"]);
    }

    fn workload(&self, name: &str) -> Workload {
        self.workload_of(WorkloadKind::Deployment, name)
    }

    fn workload_of(&self, kind: WorkloadKind, name: &str) -> Workload {
        Workload {
            cluster: text(&self.description["cluster"]).to_owned(),
            namespace: self.namespace.clone(),
            kind,
            name: name.to_owned(),
            copy: None,
            picks_up: PicksUp::Restart,
            settle: Duration::ZERO,
        }
    }

    async fn stamp(&self, workload: &Workload, stamp: &Stamp) {
        let stamped = self.clusters.stamp(workload, stamp).await;
        assert_eq!(stamped.unwrap_or_else(|error| panic!("{error}")), Some(Progress::Done(())));
    }

    async fn rolled_out(&self, workload: &Workload, stamp: &Stamp) -> Progress<()> {
        let progress = self.clusters.rolled_out(&[workload], stamp, LONG).await.remove(0);
        progress.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Stamps of a Deployment's pods, by the pods' names. Pods that are ending count. A pod whose
    /// containers have all ended does not count, although the API server may still list it for a moment.
    fn stamps(&self, name: &str, annotation: &str) -> BTreeMap<String, Option<String>> {
        let selector = format!("--selector=app={name}");
        let pods = self.in_namespace(&["get", "pods", &selector, "--output=json"]);
        let pods: Value = serde_json::from_str(&pods).expect("JSON");
        let pods = pods["items"].as_array().expect("a list").iter();
        let runs = |pod: &&Value| !matches!(text(&pod["status"]["phase"]), "Succeeded" | "Failed");
        pods.filter(runs)
            .map(|pod| {
                let stamp = &pod["metadata"]["annotations"][annotation];
                (text(&pod["metadata"]["name"]).to_owned(), stamp.as_str().map(str::to_owned))
            })
            .collect()
    }

    async fn put_parameter(&self, name: &ParameterName, value: &str) {
        let ssm = aws_sdk_ssm::Client::new(&self.administrator);
        let put = ssm.put_parameter().name(name.as_str()).value(value).overwrite(true);
        put.r#type(ParameterType::SecureString).send().await.expect("put");
    }

    fn parameter(&self) -> ParameterName {
        ParameterName::parse(&format!("/{}/token", self.namespace)).expect("a name")
    }

    /// `spec` of an ExternalSecret that copies the parameter into key `token` of Secret `copy`, with these
    /// changes.
    fn copying(&self, changes: &Value) -> Value {
        let mut spec = json!({
            "refreshInterval": "1h",
            "secretStoreRef": {"kind": "ClusterSecretStore", "name": "parameter-store"},
            "target": {"name": "copy"},
            "data": [{"secretKey": "token", "remoteRef": {"key": self.parameter().as_str()}}],
        });
        for (field, value) in changes.as_object().expect("an object") {
            spec[field] = value.clone();
        }
        spec
    }

    fn create_external_secret(&self, changes: &Value) {
        self.create(json!({
            "apiVersion": "external-secrets.io/v1",
            "kind": "ExternalSecret",
            "metadata": {"name": "token"},
            "spec": self.copying(changes),
        }));
    }

    fn copied_by(&self, copy: SecretCopy) -> Workload {
        Workload { copy: Some(copy), ..self.workload("backend") }
    }

    fn copied(&self, secret_key: Option<&str>) -> Workload {
        let secret_key = secret_key.map(str::to_owned);
        self.copied_by(SecretCopy::ExternalSecret { name: "token".to_owned(), secret_key })
    }

    /// Forces a sync and waits for it. `None` if there is no such copy.
    async fn refreshed(
        &self,
        workload: &Workload,
        value: &str,
        within: Duration,
    ) -> Result<Option<Progress<SecretRevision>>, changeover_core::error::Error> {
        let intended = BTreeMap::from([(self.parameter(), Digest::of(value))]);
        self.clusters.refresh(&[workload], "me", &intended, within).await.remove(0)
    }

    /// Forces a sync of a copy that exists, and waits for it.
    async fn synced(
        &self,
        workload: &Workload,
        value: &str,
        within: Duration,
    ) -> Progress<SecretRevision> {
        let progress = self.refreshed(workload, value, within).await;
        progress.unwrap_or_else(|error| panic!("{error}")).expect("the copy exists")
    }

    /// Forces a sync until its progress is under way with these words. Any other progress fails the test.
    async fn under_way(&self, workload: &Workload, value: &str, words: &[&str]) {
        let mut found = String::new();
        for within in LOOKS {
            found = under_way(self.synced(workload, value, within).await);
            if words.iter().all(|expected| found.contains(expected)) {
                return;
            }
        }
        panic!("it is under way without {words:?}: {found}");
    }

    /// Ends the processes of the namespace's pods, without waiting for them.
    fn tidied(self) {
        self.kubectl(&["delete", "namespace", &self.namespace, "--wait=false"], "");
    }
}

fn done(progress: Progress<SecretRevision>) -> SecretRevision {
    match progress {
        Progress::Done(revision) => revision,
        other => panic!("{other:?}"),
    }
}

async fn administrator(description: &Value) -> SdkConfig {
    let aws = &description["aws"];
    let credentials = Credentials::new(
        text(&aws["access_key_id"]),
        text(&aws["secret_access_key"]),
        None,
        None,
        "testbed",
    );
    let http_client = aws_smithy_http_client::Builder::new()
        .tls_provider(Provider::Rustls(CryptoMode::Ring))
        .build_https();
    aws_config::defaults(BehaviorVersion::v2026_01_12())
        .region(Region::new(text(&aws["region"]).to_owned()))
        .credentials_provider(credentials)
        .endpoint_url(text(&aws["endpoint"]))
        .http_client(http_client)
        .load()
        .await
}

fn configuration(description: &Value) -> Config {
    let found = |variable: &str| {
        let key = match variable {
            config::FUNCTION_NAME => return Some("contract".to_owned()),
            config::TABLE => "table",
            config::KEY => "key",
            config::PUBLICATION_KEY => "publication_key",
            config::CLUSTERS => "clusters",
            _ => return None,
        };
        Some(text(&description[key]).to_owned())
    };
    Config::from(found).expect("a configuration")
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}

fn stamp(side: Side, token: &str, revision: u64) -> Stamp {
    Stamp { side, token: TokenName::parse(token).expect("a name"), fence: Fence::bare(revision) }
}

/// A workload of presenters of token `a`, whose side publishes to these parameters.
fn subject<'a>(workload: &'a Workload, parameters: &[ParameterName]) -> Subject<'a> {
    static TOKEN: LazyLock<TokenName> = LazyLock::new(|| TokenName::parse("a").expect("a name"));
    Subject {
        workload,
        token: &TOKEN,
        side: Side::Presenters,
        view: Fence::default(),
        parameters: parameters.to_vec(),
    }
}

const PRESENTED: &str = "presenter.changeover.dev/a";

/// Runs until it receives SIGTERM, and then drains for three seconds.
const DRAINS: &str = "trap 'sleep 3; exit 0' TERM; while :; do sleep 0.1; done";

#[tokio::test]
#[ignore = "needs a testbed: `make test`"]
async fn rollout_ends_with_last_drained_pod() {
    let testbed = Testbed::with_namespace("drains").await;
    testbed.deploy("backend", DRAINS, json!({}));
    let (workload, stamp_5) = (testbed.workload("backend"), stamp(Side::Presenters, "a", 5));
    let older = testbed.stamps("backend", PRESENTED);
    testbed.stamp(&workload, &stamp_5).await;

    testbed.in_namespace(&["rollout", "status", "deployment/backend", "--timeout=60s"]);
    let draining = testbed.stamps("backend", PRESENTED);
    let is_older = |pods: &BTreeMap<_, _>| pods.keys().any(|pod| older.contains_key(pod));
    assert!(is_older(&draining), "kubectl waited for pods that drain: this shows nothing");

    assert_eq!(testbed.rolled_out(&workload, &stamp_5).await, Progress::Done(()));
    let rolled_out = testbed.stamps("backend", PRESENTED);
    assert!(!is_older(&rolled_out), "{rolled_out:?}");
    assert_eq!(rolled_out.values().collect::<Vec<_>>(), [&Some("5".to_owned()); 2]);

    let generation = || testbed.object("deployment", "backend")["metadata"]["generation"].clone();
    let before = generation();
    testbed.stamp(&workload, &stamp_5).await;
    assert_eq!(testbed.rolled_out(&workload, &stamp_5).await, Progress::Done(()));
    // A later stamp proves nothing for an earlier one. The earlier one changes nothing.
    let earlier = stamp(Side::Presenters, "a", 4);
    let stamped = testbed.clusters.stamp(&workload, &earlier).await.expect("an answer");
    assert_eq!(stamped, Some(Progress::Ahead(Fence::bare(5))));
    assert_eq!(generation(), before);
    assert_eq!(testbed.stamps("backend", PRESENTED), rolled_out);
    testbed.tidied();
}

#[tokio::test]
#[ignore = "needs a testbed: `make test`"]
async fn stamps_of_sides_tokens_and_kubectl_coexist() {
    let testbed = Testbed::with_namespace("beside").await;
    testbed.deploy("backend", "sleep 3600", json!({}));
    let workload = testbed.workload("backend");
    testbed.in_namespace(&["rollout", "restart", "deployment/backend"]);
    let stamps = [
        stamp(Side::Presenters, "a", 1),
        stamp(Side::Verifiers, "a", 2),
        stamp(Side::Presenters, "b", 3),
        stamp(Side::Presenters, "a", 4),
    ];
    // The stamps are written concurrently: each finds the Deployment changed by the others, and none goes
    // back.
    let all = stamps.iter().map(|stamp| testbed.clusters.stamp(&workload, stamp));
    for stamped in futures::future::join_all(all).await {
        let stamped = stamped.unwrap_or_else(|error| panic!("{error}"));
        assert!(matches!(stamped, Some(Progress::Done(()) | Progress::Ahead(_))), "{stamped:?}");
    }
    let live = testbed.object("deployment", "backend");
    let live = &live["spec"]["template"]["metadata"]["annotations"];
    assert_eq!(live[PRESENTED], "4");
    assert_eq!(live["verifier.changeover.dev/a"], "2");
    assert_eq!(live["presenter.changeover.dev/b"], "3");
    assert!(live["kubectl.kubernetes.io/restartedAt"].is_string());
    let last = stamp(Side::Presenters, "a", 4);
    assert_eq!(testbed.rolled_out(&workload, &last).await, Progress::Done(()));
    let object = testbed.in_namespace(&[
        "get",
        "deployment",
        "backend",
        "--show-managed-fields",
        "--output=jsonpath={.metadata.managedFields[*].manager}",
    ]);
    let managers: BTreeSet<_> =
        object.split(' ').filter(|manager| manager.starts_with("changeover")).collect();
    let expected = ["changeover-presenter-a", "changeover-presenter-b", "changeover-verifier-a"];
    assert_eq!(managers, expected.into());
    testbed.tidied();
}

fn stuck<T: std::fmt::Debug>(progress: Progress<T>) -> String {
    match progress {
        Progress::Stuck(held) => held.reason,
        other => panic!("{other:?}"),
    }
}

fn under_way(progress: Progress<SecretRevision>) -> String {
    match progress {
        Progress::UnderWay(words) => words,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
#[ignore = "needs a testbed: `make test`"]
async fn crashing_pods_hold_rollout_until_workload_is_repaired() {
    let testbed = Testbed::with_namespace("crashes").await;
    testbed.deploy("backend", "sleep 3600", json!({}));
    let workload = testbed.workload("backend");
    let container = |script: &str| {
        json!({"spec": {"template": {"spec": {"containers": [
            {"name": "main", "command": ["/bin/sh", "-c", script]},
        ]}}}})
        .to_string()
    };
    let stamp = stamp(Side::Presenters, "a", 5);
    testbed.in_namespace(&["patch", "deployment", "backend", "--patch", &container("exit 1")]);
    testbed.stamp(&workload, &stamp).await;
    let reason = stuck(testbed.rolled_out(&workload, &stamp).await);
    assert!(reason.contains("container main: CrashLoopBackOff"), "{reason}");
    assert!(reason.contains("it last ended with Error, exit code 1"), "{reason}");

    testbed.in_namespace(&["patch", "deployment", "backend", "--patch", &container("sleep 3600")]);
    testbed.stamp(&workload, &stamp).await;
    assert_eq!(testbed.rolled_out(&workload, &stamp).await, Progress::Done(()));
    testbed.tidied();
}

#[tokio::test]
#[ignore = "needs a testbed: `make test`"]
async fn blocked_rollout_is_held_with_its_reason() {
    let testbed = Testbed::with_namespace("stuck").await;
    let workload = testbed.workload("backend");
    let stamp_5 = stamp(Side::Presenters, "a", 5);
    assert_eq!(testbed.clusters.stamp(&workload, &stamp_5).await, Ok(None));
    assert!(stuck(testbed.rolled_out(&workload, &stamp_5).await).contains("deleted"));

    let no_gap = json!({"strategy": {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}});
    testbed.deploy("backend", "sleep 3600", no_gap);
    testbed.create(json!({
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "pods"},
        "spec": {"hard": {"pods": "2"}},
    }));
    let has_counted = ["wait", "resourcequota/pods", "--for=jsonpath={.status.used.pods}=2"];
    testbed.in_namespace(&has_counted);
    testbed.stamp(&workload, &stamp_5).await;
    let reason = stuck(testbed.rolled_out(&workload, &stamp_5).await);
    assert!(reason.contains("exceeded quota"), "{reason}");

    testbed.in_namespace(&["rollout", "pause", "deployment/backend"]);
    let reason = stuck(testbed.rolled_out(&workload, &stamp_5).await);
    assert!(reason.contains("paused"), "{reason}");
    let findings = testbed.clusters.inspect(&subject(&workload, &[])).await.expect("an answer");
    assert!(findings.iter().any(|it| it.severity == Severity::Refusal), "{findings:?}");

    testbed.in_namespace(&["rollout", "resume", "deployment/backend"]);
    testbed.in_namespace(&["delete", "resourcequota", "pods"]);
    assert_eq!(testbed.rolled_out(&workload, &stamp_5).await, Progress::Done(()));
    testbed.tidied();
}

#[tokio::test]
#[ignore = "needs a testbed: `make test`"]
async fn zero_replica_rollout_completes_after_last_pod_ends() {
    let testbed = Testbed::with_namespace("zero").await;
    testbed.deploy("backend", DRAINS, json!({"revisionHistoryLimit": 0}));
    let workload = testbed.workload("backend");
    testbed.in_namespace(&["scale", "deployment/backend", "--replicas=0"]);
    let stamp = stamp(Side::Presenters, "a", 5);
    testbed.stamp(&workload, &stamp).await;
    assert_eq!(testbed.rolled_out(&workload, &stamp).await, Progress::Done(()));
    assert_eq!(testbed.stamps("backend", PRESENTED), BTreeMap::new());
    testbed.tidied();
}

#[tokio::test]
#[ignore = "needs a testbed: `make test`"]
async fn sync_is_proved_by_content_of_secret() {
    let testbed = Testbed::with_namespace("syncs").await;
    let parameter = testbed.parameter();
    testbed.put_parameter(&parameter, "one").await;
    testbed.create_external_secret(&json!({}));
    let workload = testbed.copied(None);
    let clusters = &testbed.clusters;
    // One invocation forces all of these syncs.
    let synced = async |value: &str, within| testbed.synced(&workload, value, within).await;
    let first = done(synced("one", LONG).await);
    assert_eq!(done(synced("one", LONG).await), first, "a refresh alone is no change");
    testbed.put_parameter(&parameter, "two").await;
    let second = done(synced("two", LONG).await);
    assert_ne!(first, second);
    assert_eq!(
        clusters.secret_revision(&workload, std::slice::from_ref(&parameter)).await,
        Ok(Some(second))
    );

    // The Secret syncs, but holds another value.
    testbed.under_way(&workload, "three", &["does not hold what was published"]).await;

    // The edit is made to the ExternalSecret: External Secrets would remove an edit of the Secret itself.
    testbed.in_namespace(&[
        "annotate",
        "externalsecret",
        "token",
        "--field-manager=somebody",
        "note=edited",
    ]);
    let editors = clusters.editors(&workload).await.expect("an answer");
    assert!(editors.iter().any(|editor| editor == "somebody"), "{editors:?}");
    assert!(editors.iter().all(|editor| !editor.starts_with("changeover")), "{editors:?}");

    let elsewhere =
        r#"[{"op": "replace", "path": "/spec/data/0/remoteRef/key", "value": "/none"}]"#;
    testbed.in_namespace(&[
        "patch",
        "externalsecret",
        "token",
        "--type=json",
        "--patch",
        elsewhere,
    ]);
    testbed.under_way(&testbed.copied(Some("token")), "two", &["fails to sync"]).await;
    let findings = clusters.inspect(&subject(&workload, &[parameter])).await.expect("an answer");
    let severities: Vec<_> = findings.iter().map(|finding| finding.severity).collect();
    assert!(severities.contains(&Severity::Refusal), "{findings:?}");
    assert!(severities.contains(&Severity::Warning), "{findings:?}");
    testbed.tidied();
}

#[tokio::test]
#[ignore = "needs a testbed: `make test`"]
#[expect(clippy::too_many_lines, reason = "one scenario, read from top to bottom")]
async fn preflight_findings_match_cluster_state() {
    let testbed = Testbed::with_namespace("looks").await;
    let parameter = testbed.parameter();
    testbed.put_parameter(&parameter, "one").await;
    testbed.create_external_secret(&json!({}));
    let key = json!({"secretKeyRef": {"name": "copy", "key": "token"}});
    let container = json!({
        "name": "main",
        "image": "local/process",
        "command": ["/bin/sh", "-c", "sleep 3600"],
        "env": [{"name": "TOKEN", "valueFrom": key}],
    });
    let pods = |name: &str| {
        let metadata = json!({"labels": {"app": name}});
        json!({"metadata": metadata, "spec": {"containers": [container]}})
    };
    testbed.deploy("backend", "", json!({"template": pods("backend")}));
    let workload = testbed.copied(None);
    let published = BTreeSet::from([parameter.clone()]);
    let examined = async |workload: &Workload| {
        let subject = subject(workload, std::slice::from_ref(&parameter));
        testbed.clusters.examine(&[subject], &published).await
    };
    let reported = |examination: &Examination| -> Vec<(Severity, String)> {
        let findings = examination.findings.iter();
        findings.map(|it| (it.severity, format!("{}: {}", it.object, it.reason))).collect()
    };

    let passed = examined(&workload).await;
    assert_eq!(reported(&passed), []);
    let namespace = format!("{}/{}", workload.cluster, workload.namespace);
    let about = |object: &str| passed.checked[object].join("; ");
    assert!(about(&namespace).contains("may get, list, patch, watch deployments.apps"));
    assert!(about(&namespace).contains("no workload beside the spec's uses Secret copy"));
    assert!(about(&workload.to_string()).contains("container main has it as variable TOKEN"));
    let store = format!("{}/clustersecretstore/parameter-store", workload.cluster);
    assert_eq!(about(&store), "it is ready");

    // Pods outside the spec use the Secret, and another controller restarts our pods.
    let mut spec = pods("nightly")["spec"].clone();
    spec["restartPolicy"] = json!("Never");
    testbed.create(json!({
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {"name": "nightly"},
        "spec": {"schedule": "0 0 1 1 *", "jobTemplate": {"spec": {"template": {"spec": spec}}}},
    }));
    let reloaded = "reloader.stakater.com/auto=true";
    testbed.in_namespace(&["annotate", "deployment", "backend", reloaded]);
    let stamp_5 = stamp(Side::Presenters, "a", 5);
    testbed.stamp(&workload, &stamp_5).await;
    assert_eq!(testbed.rolled_out(&workload, &stamp_5).await, Progress::Done(()));
    let warned = reported(&examined(&workload).await);
    assert_eq!(warned.len(), 2, "{warned:?}");
    assert!(warned[0].1.contains("Stakater Reloader"), "{warned:?}");
    assert!(warned[1].1.contains("cronjob/nightly"), "{warned:?}");
    assert!(warned.iter().all(|(severity, _)| *severity == Severity::Warning));

    // A field manager that copies the live object into a manifest, stamps included, owns the stamp.
    testbed.in_namespace(&[
        "patch",
        "deployment",
        "backend",
        "--field-manager=argocd-controller",
        r#"--patch={"spec": {"template": {"metadata": {"annotations": {"presenter.changeover.dev/a": "3"}}}}}"#,
    ]);
    let owned = reported(&examined(&workload).await);
    assert!(owned.iter().any(|(_, it)| it.contains("argocd-controller sets")), "{owned:?}");

    // The pods never pick up the change that this workload waits for.
    let within = Workload { picks_up: PicksUp::Within(LONG), ..workload.clone() };
    let refused = reported(&examined(&within).await);
    let never = refused.iter().find(|(severity, _)| *severity == Severity::Refusal);
    assert!(never.is_some_and(|(_, it)| it.contains("that never changes")), "{refused:?}");
    let elsewhere = Workload { namespace: "kube-system".to_owned(), ..workload };
    let refused = reported(&examined(&elsewhere).await);
    for right in ["get deployments.apps backend", "patch deployments.apps", "watch pods"] {
        let right = format!("changeover may not {right}");
        assert!(refused.iter().any(|(_, it)| it.contains(&right)), "{right}: {refused:?}");
    }
    testbed.tidied();
}

#[tokio::test]
#[ignore = "needs a testbed: `make test`"]
async fn missing_right_to_namespace_or_cluster_is_named() {
    let testbed = Testbed::with_namespace("rights").await;
    let elsewhere = Workload { namespace: "kube-system".to_owned(), ..testbed.workload("backend") };
    let error = testbed.clusters.stamp(&elsewhere, &stamp(Side::Presenters, "a", 1)).await;
    let error = error.expect_err("forbidden");
    assert_eq!(error.kind, Kind::AccessDenied, "{error}");
    assert!(error.because.contains(r#"User "changeover:tests""#), "{error}");
    assert!(error.fix.contains("verb get on deployments.apps in namespace kube-system"), "{error}");
    let findings = testbed.clusters.inspect(&subject(&elsewhere, &[])).await.expect("an answer");
    assert_eq!(findings.len(), 1);
    assert_eq!(findings[0].severity, Severity::Refusal);

    let nowhere = Workload { cluster: "nowhere".to_owned(), ..testbed.workload("backend") };
    let findings = testbed.clusters.inspect(&subject(&nowhere, &[])).await.expect("an answer");
    assert!(findings[0].reason.contains("eks:DescribeCluster"), "{findings:?}");
    testbed.tidied();
}
