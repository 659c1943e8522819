//! Checks before a rotation: the requests to an API server, and the findings from its answers.

use std::{collections::BTreeSet, sync::Arc};

use changeover_core::{
    finding::{Examination, Severity},
    ports::{Clusters, SecretCopies},
    spec::{ParameterName, PicksUp, SecretCopy, Workload},
};

use super::{
    DEPLOYMENT, EXTERNAL_SECRET, MINUTE,
    api_server::{ApiServer, Fault},
    clusters, subject, syncing, workload,
};
use http::Method;
use serde_json::{Value, json};

const STORE: &str = "/apis/external-secrets.io/v1/clustersecretstores/parameter-store";
const APPS: &str = "/apis/apps/v1/namespaces/web";
const BATCH: &str = "/apis/batch/v1/namespaces/web";
const REVIEWS: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";

/// Creates a Deployment of two available pods that have the Secret's key `token` as a variable, the
/// ExternalSecret that copies it, and its store.
pub(super) fn connected(server: &ApiServer) {
    let spec = json!({"selector": {}, "replicas": 2, "template": template()});
    server.put(DEPLOYMENT, json!({"spec": spec, "status": {"availableReplicas": 2}}));
    syncing::external_secret(server);
    let store = json!({"kind": "ClusterSecretStore", "name": "parameter-store"});
    server.put(EXTERNAL_SECRET, json!({"spec": {"secretStoreRef": store}}));
    server.put(STORE, json!({"spec": {}, "status": {}}));
}

fn template() -> Value {
    let key = json!({"secretKeyRef": {"name": "datastore-token", "key": "token"}});
    let container = json!({"name": "main", "env": [{"name": "TOKEN", "valueFrom": key}]});
    json!({"spec": {"containers": [container]}})
}

fn parameter() -> ParameterName {
    ParameterName::parse("/backend/token").unwrap()
}

async fn examined(server: &Arc<ApiServer>, workloads: &[Workload]) -> Examination {
    let subjects: Vec<_> =
        workloads.iter().map(|workload| subject(workload, &[parameter()])).collect();
    clusters(server).examine(&subjects, &BTreeSet::from([parameter()])).await
}

fn reported(examination: &Examination) -> Vec<(Severity, String)> {
    let findings = examination.findings.iter();
    findings.map(|it| (it.severity, format!("{}: {}; {}", it.object, it.reason, it.fix))).collect()
}

fn assert_one(examination: &Examination, severity: Severity, words: &[&str]) {
    let reported = reported(examination);
    assert_eq!(reported.len(), 1, "{reported:?}");
    assert_eq!(reported[0].0, severity, "{reported:?}");
    for word in words {
        assert!(reported[0].1.contains(word), "{word}: {reported:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn passed_examination_lists_checks_and_changes_nothing() {
    let server = ApiServer::new();
    connected(&server);
    let examination = examined(&server, &[workload()]).await;
    assert_eq!(examination.findings, []);
    let checked = json!(examination.checked);
    // Every check that passes is listed, so that a reader sees what the result covers.
    let expected = json!({
        "cluster prod": ["it answers, and knows the function"],
        "prod/clustersecretstore/parameter-store": ["it is ready"],
        "prod/web": [
            "changeover may list, watch pods",
            "changeover may get secrets",
            "changeover may get, list, patch, watch deployments.apps",
            "changeover may get, list, patch, watch externalsecrets.external-secrets.io",
            "changeover may list replicasets.apps",
            "no workload beside the spec's uses Secret datastore-token",
        ],
        "prod/web/deployment/backend": [
            "it exists",
            "it can replace its pods",
            "admission lets it be stamped",
            "container main has it as variable TOKEN",
        ],
        "prod/web/externalsecret/datastore-token": [
            "it copies what is published as it is",
            "admission allows its refresh",
        ],
    });
    // The order of an object's checks is not part of the result.
    for (object, what) in expected.as_object().unwrap() {
        let sorted = |what: &Value| -> BTreeSet<String> {
            what.as_array()
                .into_iter()
                .flatten()
                .map(|it| it.as_str().unwrap().to_owned())
                .collect()
        };
        assert_eq!(sorted(&checked[object]), sorted(what), "{object}");
    }
    assert_eq!(checked.as_object().unwrap().len(), expected.as_object().unwrap().len());
    // Only reads, access reviews and dry runs are allowed.
    for request in server.requests() {
        let only_asks =
            request.method == Method::GET || request.path == REVIEWS || request.is_dry_run();
        assert!(only_asks, "{request:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn only_a_ready_copy_counts_as_synced() {
    let success = "its last sync succeeded";
    for (status, is_success, warns) in [
        (Some("True"), true, false),
        (Some("False"), false, true),
        (Some("Unknown"), false, false),
        (None, false, false),
    ] {
        let server = ApiServer::new();
        connected(&server);
        let ready = status.map(|status| json!({"type": "Ready", "status": status, "message": "m"}));
        let conditions: Vec<_> = ready.into_iter().collect();
        server.put(EXTERNAL_SECRET, json!({"status": {"conditions": conditions}}));
        let examination = examined(&server, &[workload()]).await;
        let checked = json!(examination.checked).to_string();
        assert_eq!(checked.contains(success), is_success, "{status:?}: {checked}");
        let warned =
            reported(&examination).iter().any(|(_, words)| words.contains("last sync failed"));
        assert_eq!(warned, warns, "{status:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn missing_right_is_refused_by_name() {
    let cases = [
        ("patch", "deployments", "deployments.apps"),
        ("watch", "deployments", "deployments.apps"),
        ("watch", "pods", "pods"),
        ("get", "secrets", "secrets"),
        ("patch", "externalsecrets", "externalsecrets.external-secrets.io"),
    ];
    for (verb, resource, named) in cases {
        let server = ApiServer::new();
        connected(&server);
        server.deny(verb, resource);
        let examination = examined(&server, &[workload()]).await;
        let fix = format!("grant the verb {verb} on {named} in namespace web");
        assert_one(&examination, Severity::Refusal, &[&fix, "infra/eks-rbac.yaml"]);
    }
}

#[tokio::test(start_paused = true)]
async fn right_is_reviewed_once_across_workloads() {
    let server = ApiServer::new();
    connected(&server);
    let within = Workload { picks_up: PicksUp::Within(MINUTE * 2), ..workload() };
    examined(&server, &[workload(), workload(), within]).await;
    let asked = server.requests().into_iter().filter(|it| it.path == REVIEWS);
    let asked: Vec<_> = asked.map(|it| it.body["spec"]["resourceAttributes"].to_string()).collect();
    let different: BTreeSet<_> = asked.iter().collect();
    assert_eq!(different.len(), asked.len(), "{asked:?}");
}

#[tokio::test(start_paused = true)]
async fn consumers_outside_spec_are_warned_about() {
    let server = ApiServer::new();
    connected(&server);
    let pods = json!({"spec": {"selector": {}, "serviceName": "", "template": template()}});
    server.put(&format!("{APPS}/deployments/forgotten"), pods.clone());
    server.put(&format!("{APPS}/statefulsets/store"), pods.clone());
    server.put(&format!("{BATCH}/jobs/migration"), pods);
    let job = json!({"jobTemplate": {"spec": {"template": template()}}, "schedule": "@daily"});
    server.put(&format!("{BATCH}/cronjobs/nightly"), json!({"spec": job}));
    let other = json!({"selector": {}, "template": {"spec": {"containers": [{"name": "main"}]}}});
    server.put(&format!("{APPS}/deployments/other"), json!({"spec": other}));
    let examination = examined(&server, &[workload()]).await;
    let mut objects: Vec<_> = examination.findings.iter().map(|it| it.object.as_str()).collect();
    objects.sort_unstable();
    assert_eq!(
        objects,
        [
            "prod/web/cronjob/nightly",
            "prod/web/deployment/forgotten",
            "prod/web/job/migration",
            "prod/web/statefulset/store",
        ]
    );
    assert!(examination.findings.iter().all(|it| it.severity == Severity::Warning));
}

#[tokio::test(start_paused = true)]
async fn unlistable_kinds_are_one_warning_with_fix() {
    let server = ApiServer::new();
    connected(&server);
    server.deny("list", "cronjobs");
    server.deny("list", "jobs");
    let examination = examined(&server, &[workload()]).await;
    let fix = "grant the verb list on cronjobs.batch, jobs.batch in namespace web";
    assert_one(&examination, Severity::Warning, &["Secret datastore-token", fix]);
}

#[tokio::test(start_paused = true)]
async fn unready_or_missing_store_is_refused() {
    let server = ApiServer::new();
    connected(&server);
    let ready = json!({"type": "Ready", "status": "False", "reason": "Bad", "message": "no role"});
    server.put(STORE, json!({"status": {"conditions": [ready]}}));
    let examination = examined(&server, &[workload()]).await;
    assert_one(&examination, Severity::Refusal, &["clustersecretstore/parameter-store", "no role"]);

    let server = ApiServer::new();
    connected(&server);
    server.delete(STORE);
    let examination = examined(&server, &[workload()]).await;
    assert_one(&examination, Severity::Refusal, &["clustersecretstore/parameter-store", "exist"]);
}

/// Refusals of the inspection before a mint.
async fn refused(server: &Arc<ApiServer>) -> Vec<String> {
    let found = clusters(server).inspect(&subject(&workload(), &[parameter()])).await.unwrap();
    let refused = found.into_iter().filter(|it| it.severity == Severity::Refusal);
    refused.map(|it| format!("{}: {}", it.object, it.reason)).collect()
}

#[tokio::test(start_paused = true)]
async fn store_reading_elsewhere_is_refused_before_mint() {
    let aws = |service: &str, region: &str| json!({"aws": {"service": service, "region": region}});
    let table = [
        (aws("ParameterStore", "eu-west-1"), None),
        (aws("SecretsManager", "eu-west-1"), Some("it reads Secrets Manager")),
        (aws("ParameterStore", "us-east-1"), Some("it reads region us-east-1")),
        (json!({"vault": {}}), Some("it reads from provider vault")),
    ];
    for (provider, expected) in table {
        let server = ApiServer::new();
        connected(&server);
        server.put(STORE, json!({"spec": {"provider": provider}}));
        let refused = refused(&server).await;
        assert_eq!(refused.len(), usize::from(expected.is_some()), "{provider}: {refused:?}");
        if let Some(words) = expected {
            assert!(refused[0].contains("clustersecretstore/parameter-store"), "{refused:?}");
            assert!(refused[0].contains(words), "{refused:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn store_prefix_is_part_of_parameter_name() {
    // The prefix, the key of the entry, true if the two name `/backend/token`, and the reason of the
    // refusal otherwise.
    let table = [
        ("/backend/", "token", true, ""),
        ("/backend", "/token", true, ""),
        ("/prod/", "/backend/token", false, "it reads /prod//backend/token"),
        ("/prod/", "token", false, "it reads /prod/token"),
    ];
    for (prefix, key, is_it, words) in table {
        let server = ApiServer::new();
        connected(&server);
        let aws = json!({"service": "ParameterStore", "region": "eu-west-1", "prefix": prefix});
        server.put(STORE, json!({"spec": {"provider": {"aws": aws}}}));
        let data = json!([{"secretKey": "token", "remoteRef": {"key": key}}]);
        server.put(EXTERNAL_SECRET, json!({"spec": {"data": data}}));
        let refused = refused(&server).await;
        assert_eq!(refused.is_empty(), is_it, "{prefix} {key}: {refused:?}");
        assert!(refused.iter().all(|it| it.contains(words)), "{prefix} {key}: {refused:?}");
        if !is_it {
            continue;
        }
        // The wait for a sync and the Secret's revision resolve the name in the same way.
        server.operate(EXTERNAL_SECRET, [syncing::sync("2-b", "new")]);
        let clusters = clusters(&server);
        let revision = syncing::done(syncing::refreshed(&clusters).await.unwrap());
        let standing = clusters.secret_revision(&workload(), &[parameter()]).await;
        assert_eq!(standing, Ok(Some(revision)));
    }
}

#[tokio::test(start_paused = true)]
async fn unreadable_store_is_warned_about_without_refusal() {
    let server = ApiServer::new();
    connected(&server);
    server.hide_object(STORE);
    assert_eq!(refused(&server).await, [""; 0]);
    let examination = examined(&server, &[workload()]).await;
    assert_one(&examination, Severity::Warning, &["changeover may not read it"]);
    let checked = json!(examination.checked).to_string();
    assert!(!checked.contains("it copies what is published"), "{checked}");
}

#[tokio::test(start_paused = true)]
async fn unanswered_review_of_rights_blames_no_webhook() {
    let server = ApiServer::new();
    connected(&server);
    server.admit(REVIEWS, Fault::Silence);
    let reported = reported(&examined(&server, &[workload()]).await);
    assert!(
        reported.iter().any(|(_, reported)| reported.contains("did not answer")),
        "{reported:?}"
    );
    assert!(reported.iter().all(|(_, reported)| !reported.contains("webhook")), "{reported:?}");
}

#[tokio::test(start_paused = true)]
async fn list_that_fails_proves_no_absence_of_users() {
    let server = ApiServer::new();
    connected(&server);
    server.break_reads(&format!("{BATCH}/jobs"), Fault::Status(500));
    let examination = examined(&server, &[workload()]).await;
    let reported = reported(&examination);
    assert!(reported.iter().any(|(_, reported)| reported.contains("500")), "{reported:?}");
    let checked = json!(examination.checked).to_string();
    assert!(!checked.contains("beside the spec's uses"), "{checked}");
}

#[tokio::test(start_paused = true)]
async fn unreachable_cluster_is_one_refusal_without_further_requests() {
    for (fault, words) in [(Fault::Silence, "did not answer"), (Fault::Status(401), "(401)")] {
        let server = ApiServer::new();
        connected(&server);
        server.fail(vec![fault; 8]);
        let examination = examined(&server, &[workload(), workload()]).await;
        assert_one(&examination, Severity::Refusal, &["cluster prod", words]);
        assert!(server.requests().iter().all(|it| it.path == "/version"));
    }
}

#[tokio::test(start_paused = true)]
async fn workload_without_secret_is_refused_before_mint() {
    let server = ApiServer::new();
    connected(&server);
    let nothing = json!({"spec": {"containers": [{"name": "main"}]}});
    server.put(DEPLOYMENT, json!({"spec": {"template": nothing}}));
    let findings = clusters(&server).inspect(&subject(&workload(), &[parameter()])).await.unwrap();
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(findings[0].severity, Severity::Refusal);
    assert!(findings[0].reason.contains("no container of it uses Secret datastore-token"));
}

#[tokio::test(start_paused = true)]
async fn reviewed_rights_depend_on_copy_kind() {
    let secret = SecretCopy::Secret { name: "datastore-token".to_owned(), key: "token".to_owned() };
    let kept =
        SecretCopy::ClusterExternalSecret { name: "datastore-token".to_owned(), secret_key: None };
    let (secrets, keepers) = ("secrets", "clusterexternalsecrets");
    let cases = [
        (secret.clone(), "create", secrets, true),
        (secret.clone(), "patch", secrets, true),
        (secret, "patch", "externalsecrets", false),
        (kept.clone(), "patch", keepers, true),
        (kept.clone(), "watch", "externalsecrets", true),
        (kept, "patch", "externalsecrets", false),
    ];
    for (copy, verb, resource, is_needed) in cases {
        let server = ApiServer::new();
        connected(&server);
        let keeper = "/apis/external-secrets.io/v1/clusterexternalsecrets/datastore-token";
        server.put(keeper, json!({"spec": {}}));
        server.deny(verb, resource);
        let workload = Workload { copy: Some(copy.clone()), ..workload() };
        let examination = examined(&server, &[workload]).await;
        let named = format!("changeover may not {verb} {resource}");
        let is_told = reported(&examination).iter().any(|(_, it)| it.contains(&named));
        assert_eq!(is_told, is_needed, "{copy} {verb} {resource}: {:?}", reported(&examination));
    }
}
