//! Clusters at the HTTP seam of kube's client: the requests to an API server, and the meaning of its
//! answers.

mod admission;
mod api_server;
mod copies;
mod damaged;
mod examining;
mod keeping;
mod together;
mod watching;
mod writing;

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use changeover_core::{
    error::Kind,
    finding::{Severity, Subject},
    ports::{Clusters, Progress, SecretCopies, Stamp, Workloads},
    record::SecretRevision,
    spec::{ParameterName, PicksUp, SecretCopy, Side, Workload, WorkloadKind},
};
use changeover_kubernetes::{Home, KubernetesClusters};
use changeover_testkit::sample::{fence, life};
use changeover_token::{Digest, Fence, TokenName};
use http::Method;
use serde_json::{Value, json};
use tokio::time::Instant;

use self::api_server::{ApiServer, Fault, Reached, Recorded};

const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/web/deployments/backend";
const REPLICA_SETS: &str = "/apis/apps/v1/namespaces/web/replicasets";
const PODS: &str = "/api/v1/namespaces/web/pods";
const EXTERNAL_SECRET: &str =
    "/apis/external-secrets.io/v1/namespaces/web/externalsecrets/datastore-token";
const EVERYWHERE: &str = "/apis/external-secrets.io/v1/clusterexternalsecrets/everywhere";
const SECRET: &str = "/api/v1/namespaces/web/secrets/datastore-token";
const REVISION: &str = "deployment.kubernetes.io/revision";
const STAMP: &str = "presenter.changeover.dev/datastore";
const MINUTE: Duration = Duration::from_secs(60);

fn clusters(server: &Arc<ApiServer>) -> KubernetesClusters {
    let home =
        Home { region: Some("eu-west-1".to_owned()), account: Some("123456789012".to_owned()) };
    KubernetesClusters::reached_by(Arc::new(Reached(Arc::clone(server))), home)
}

fn workload() -> Workload {
    Workload {
        cluster: "prod".to_owned(),
        namespace: "web".to_owned(),
        kind: WorkloadKind::Deployment,
        name: "backend".to_owned(),
        copy: Some(SecretCopy::ExternalSecret {
            name: "datastore-token".to_owned(),
            secret_key: None,
        }),
        picks_up: PicksUp::Restart,
        settle: Duration::ZERO,
    }
}

/// A workload whose ExternalSecret a ClusterExternalSecret keeps.
fn everywhere() -> Workload {
    let name = "everywhere".to_owned();
    let copy = SecretCopy::ClusterExternalSecret { name, secret_key: None };
    Workload { copy: Some(copy), ..workload() }
}

/// A workload whose Secret changeover writes itself.
fn written() -> Workload {
    let copy = SecretCopy::Secret { name: "datastore-token".to_owned(), key: "token".to_owned() };
    Workload { copy: Some(copy), ..workload() }
}

/// A workload of presenters of the token `datastore`, whose side publishes to these parameters.
fn subject<'a>(workload: &'a Workload, parameters: &[ParameterName]) -> Subject<'a> {
    static TOKEN: LazyLock<TokenName> = LazyLock::new(|| TokenName::parse("datastore").unwrap());
    Subject {
        workload,
        token: &TOKEN,
        side: Side::Presenters,
        view: Fence::default(),
        parameters: parameters.to_vec(),
    }
}

fn parameters() -> [ParameterName; 1] {
    [ParameterName::parse("/backend/token").unwrap()]
}

/// The stamp of a record without a life.
fn stamp(revision: u64) -> Stamp {
    Stamp {
        side: Side::Presenters,
        token: TokenName::parse("datastore").unwrap(),
        fence: Fence::bare(revision),
    }
}

fn stamp_of(fence: Fence) -> Stamp {
    Stamp { fence, ..stamp(0) }
}

/// The only answer of a call about one workload.
fn one<T>(answers: Vec<T>) -> T {
    let [answer] = <[T; 1]>::try_from(answers).unwrap_or_else(|_| panic!("not one answer"));
    answer
}

/// Lets every other task run until it waits: the paused clock advances only when all tasks wait.
async fn all_wait() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

mod stamping {
    use super::*;

    fn deployment(server: &ApiServer, stamp: Option<&str>) {
        server.put(
            DEPLOYMENT,
            json!({"spec": {"selector": {}, "template": {"metadata": {
                "annotations": {"team": "a", STAMP: stamp},
            }}}}),
        );
    }

    fn live(server: &ApiServer) -> Value {
        server.object(DEPLOYMENT)["spec"]["template"]["metadata"]["annotations"].clone()
    }

    #[tokio::test(start_paused = true)]
    async fn stamp_is_one_conditional_server_side_apply() {
        let server = ApiServer::new();
        deployment(&server, None);
        assert_eq!(
            clusters(&server).stamp(&workload(), &stamp(7)).await,
            Ok(Some(Progress::Done(())))
        );
        let [apply] = server.patches().try_into().unwrap();
        assert_eq!(apply.path, DEPLOYMENT);
        assert_eq!(apply.query, "&force=true&fieldManager=changeover-presenter-datastore");
        assert_eq!(apply.content_type, "application/apply-patch+yaml");
        let golden = json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {
                "name": "backend", "namespace": "web", "uid": "uid-backend", "resourceVersion": "1",
            },
            "spec": {"template": {"metadata": {"annotations": {STAMP: "7"}}}},
        });
        assert_eq!(apply.body, golden);
        assert_eq!(live(&server), json!({"team": "a", STAMP: "7"}));
    }

    #[tokio::test(start_paused = true)]
    async fn exactly_its_own_stamp_is_proof() {
        let server = ApiServer::new();
        deployment(&server, Some("7"));
        assert_eq!(
            clusters(&server).stamp(&workload(), &stamp(7)).await,
            Ok(Some(Progress::Done(())))
        );
        assert_eq!(server.patches().len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn later_stamp_is_reported_and_not_overwritten() {
        let ours = fence(7);
        let later = [fence(8), fence(10), Fence { life: Some(life(60)), revision: 1 }];
        for later in later {
            let server = ApiServer::new();
            deployment(&server, Some(&later.to_string()));
            let stamped = clusters(&server).stamp(&workload(), &stamp_of(ours)).await;
            assert_eq!(stamped, Ok(Some(Progress::Ahead(later))));
            assert_eq!(server.patches().len(), 0, "{later}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn older_record_is_overwritten_whatever_its_revision() {
        let older = Fence { life: Some(life(-60)), revision: 4_000 };
        for older in [older, Fence::bare(4_000)] {
            let server = ApiServer::new();
            deployment(&server, Some(&older.to_string()));
            let stamped = clusters(&server).stamp(&workload(), &stamp_of(fence(7))).await;
            assert_eq!(stamped, Ok(Some(Progress::Done(()))));
            assert_eq!(live(&server)[STAMP], fence(7).to_string());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn unreadable_stamp_is_overwritten() {
        for text in ["", "x", "-1", "7.7", "99999999999999999999"] {
            let server = ApiServer::new();
            deployment(&server, Some(text));
            let stamped = clusters(&server).stamp(&workload(), &stamp(7)).await;
            assert_eq!(stamped, Ok(Some(Progress::Done(()))));
            assert_eq!(live(&server)[STAMP], "7");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn concurrent_later_stamp_is_not_overwritten() {
        let server = ApiServer::new();
        deployment(&server, Some("5"));
        let newer = json!({"spec": {"template": {"metadata": {"annotations": {STAMP: "9"}}}}});
        // The read is answered normally. The write finds the newer stamp.
        let unchanged = Fault::After(DEPLOYMENT.to_owned(), json!({}));
        server.fail([unchanged, Fault::After(DEPLOYMENT.to_owned(), newer)]);
        assert_eq!(
            clusters(&server).stamp(&workload(), &stamp(7)).await,
            Ok(Some(Progress::Ahead(Fence::bare(9))))
        );
        assert_eq!(live(&server)[STAMP], "9");
        assert_eq!(server.patches().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn stamp_is_retried_after_concurrent_change() {
        let server = ApiServer::new();
        deployment(&server, Some("5"));
        let touch = || Fault::After(DEPLOYMENT.to_owned(), json!({"status": {"replicas": 1}}));
        server.fail([touch(), touch(), touch(), touch()]);
        assert_eq!(
            clusters(&server).stamp(&workload(), &stamp(7)).await,
            Ok(Some(Progress::Done(())))
        );
        assert_eq!(live(&server)[STAMP], "7");
        assert_eq!(server.patches().len(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn stamp_is_done_despite_lost_reply() {
        let server = ApiServer::new();
        deployment(&server, None);
        server.fail([Fault::After(DEPLOYMENT.to_owned(), json!({})), Fault::LostReply]);
        assert_eq!(
            clusters(&server).stamp(&workload(), &stamp(7)).await,
            Ok(Some(Progress::Done(())))
        );
        assert_eq!(live(&server)[STAMP], "7");
    }

    #[tokio::test(start_paused = true)]
    async fn missing_deployment_is_not_created() {
        let server = ApiServer::new();
        assert_eq!(clusters(&server).stamp(&workload(), &stamp(7)).await, Ok(None));
        assert_eq!(server.patches().len(), 0);
    }
}

mod failing {
    use super::*;

    async fn kind_of(faults: Vec<Fault>) -> (Kind, String) {
        let server = ApiServer::new();
        server.fail(faults);
        let error = clusters(&server).stamp(&workload(), &stamp(7)).await.unwrap_err();
        (error.kind, error.to_string())
    }

    #[tokio::test(start_paused = true)]
    async fn response_fault_maps_to_error_kind() {
        let table = [
            (Fault::Status(400), Kind::Internal),
            (Fault::Status(401), Kind::AccessDenied),
            (Fault::Status(403), Kind::AccessDenied),
            (Fault::Status(422), Kind::Internal),
            (Fault::Status(429), Kind::Throttled),
            (Fault::Status(500), Kind::Unreachable),
            (Fault::Status(503), Kind::Unreachable),
            (Fault::Status(504), Kind::Unreachable),
            (Fault::Silence, Kind::Unreachable),
            (Fault::Garbage("<html>"), Kind::Internal),
        ];
        for (fault, expected) in table {
            let (kind, message) = kind_of(vec![fault.clone(); 8]).await;
            assert_eq!(kind, expected, "{fault:?}: {message}");
            assert!(message.contains("web/backend of cluster prod"), "{message}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn admission_refusal_is_preflight_failure_with_its_message() {
        let kyverno = "admission webhook \"validate.kyverno.svc-fail\" denied the request: \
                       resource Deployment/web/backend was blocked: check-image: unsigned";
        let policy = "deployments.apps \"backend\" is forbidden: ValidatingAdmissionPolicy 'limits' with \
                      binding 'limits' denied request: every container has limits";
        let quota = "deployments.apps \"backend\" is forbidden: exceeded quota: small";
        let webhook = "Internal error occurred: failed calling webhook \"validate.externalsecret\": failed \
                       to call webhook: Post \"https://external-secrets-webhook\": no endpoints available";
        let table = [
            (400, kyverno, "unsigned"),
            (403, kyverno, "unsigned"),
            (403, policy, "every container has limits"),
            (422, policy, "every container has limits"),
            (403, quota, "exceeded quota: small"),
            (500, webhook, "no endpoints available"),
        ];
        for (code, words, reported) in table {
            let (kind, message) = kind_of(vec![Fault::Says(code, words); 8]).await;
            assert_eq!(kind, Kind::PreflightFailed, "{message}");
            assert!(message.contains(reported), "{message}");
            let fix = if code == 500 { "mend that webhook" } else { "exempt the function's" };
            assert!(message.contains(fix), "{message}");
            assert!(
                !message.contains("grant the verb") && !message.contains("report"),
                "{message}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn forbidden_request_reports_verb_resource_and_namespace() {
        let (_, message) = kind_of(vec![Fault::Status(403)]).await;
        let fix = "grant the verb get on deployments.apps in namespace web";
        assert!(message.contains(fix), "{message}");
    }

    #[tokio::test(start_paused = true)]
    async fn transient_fault_is_retried() {
        for fault in [Fault::Status(429), Fault::Status(500), Fault::Status(503), Fault::Silence] {
            let server = ApiServer::new();
            server.fail([fault]);
            assert_eq!(clusters(&server).stamp(&workload(), &stamp(7)).await, Ok(None));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn unauthorized_identity_is_renewed_once() {
        let server = ApiServer::new();
        server.fail([Fault::Status(401)]);
        assert_eq!(clusters(&server).stamp(&workload(), &stamp(7)).await, Ok(None));
        assert_eq!(server.connections(), (2, 1));

        let server = ApiServer::new();
        server.fail([Fault::Status(401), Fault::Status(401)]);
        let refused = clusters(&server).stamp(&workload(), &stamp(7)).await.unwrap_err();
        assert_eq!(refused.kind, Kind::AccessDenied);
        assert_eq!(server.connections(), (2, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn unreadable_response_is_not_repeated_in_error() {
        let server = ApiServer::new();
        syncing::external_secret(&server);
        server.put(EXTERNAL_SECRET, json!({"status": {"syncedResourceVersion": "2-b"}}));
        let clusters = clusters(&server);
        // The version of External Secrets' API is read once, and is known from here on.
        clusters.secret_revision(&workload(), &parameters()).await.unwrap();
        let answered = || Fault::After(EXTERNAL_SECRET.to_owned(), json!({}));
        server.operate(EXTERNAL_SECRET, [syncing::sync("3-c", "new")]);
        let garbage = Fault::Garbage(r#"{"metadata": {}, "data": "c2VjcmV0"}"#);
        server.fail([answered(), answered(), garbage]);
        let error = syncing::refreshed(&clusters).await.unwrap_err();
        assert_eq!(error.kind, Kind::Internal);
        assert!(!error.to_string().contains("c2VjcmV0"), "{error}");
    }
}

mod syncing {
    use super::*;

    pub(super) fn external_secret(server: &ApiServer) {
        external_secret_of(server, json!({}));
    }

    pub(super) fn external_secret_of(server: &ApiServer, metadata: Value) {
        server.put(
            EXTERNAL_SECRET,
            json!({
                "metadata": metadata,
                "spec": {
                    "refreshInterval": "1h0m0s",
                    "data": [{"secretKey": "token", "remoteRef": {"key": "/backend/token"}}],
                },
                "status": {"syncedResourceVersion": "1-a"},
            }),
        );
    }

    /// A ClusterExternalSecret that keeps the ExternalSecret in `web`, and others in other namespaces.
    pub(super) fn cluster_external_secret(server: &ApiServer) {
        server.put(
            EVERYWHERE,
            json!({
                "spec": {"externalSecretName": "datastore-token"},
                "status": {"provisionedNamespaces": ["web", "other"]},
            }),
        );
    }

    /// What External Secrets changes when it syncs this token.
    pub(super) fn sync(version: &str, token: &str) -> Vec<(String, Value)> {
        let ready = json!({"type": "Ready", "status": "True", "reason": "SecretSynced"});
        let status = json!({"syncedResourceVersion": version, "conditions": [ready]});
        vec![
            (SECRET.to_owned(), json!({"data": {"token": STANDARD.encode(token)}})),
            (EXTERNAL_SECRET.to_owned(), json!({"status": status})),
        ]
    }

    pub(super) fn synced_to(server: &ApiServer, version: &str, token: &str) {
        for (path, change) in sync(version, token) {
            server.put(&path, change);
        }
    }

    /// Forces the copy of the workload to refresh, and waits for the value `new`.
    pub(super) async fn refreshed_within(
        within: Duration,
        clusters: &KubernetesClusters,
        workload: &Workload,
    ) -> Result<Option<Progress<SecretRevision>>, changeover_core::error::Error> {
        let intended = BTreeMap::from([(parameters()[0].clone(), Digest::of("new"))]);
        one(clusters.refresh(&[workload], "me", &intended, within).await)
    }

    pub(super) async fn refreshed(
        clusters: &KubernetesClusters,
    ) -> Result<Progress<SecretRevision>, changeover_core::error::Error> {
        let answer = refreshed_within(MINUTE, clusters, &workload()).await;
        answer.map(|it| it.expect("the copy exists"))
    }

    pub(super) fn done(progress: Progress<SecretRevision>) -> SecretRevision {
        match progress {
            Progress::Done(revision) => revision,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn stuck(progress: Progress<SecretRevision>) -> String {
        match progress {
            Progress::Stuck(held) => held.reason,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn forcing_patches_one_annotation() {
        let server = ApiServer::new();
        external_secret(&server);
        server.operate(EXTERNAL_SECRET, [sync("2-b", "new")]);
        done(refreshed(&clusters(&server)).await.unwrap());
        let [patch] = server.patches().try_into().unwrap();
        assert_eq!(patch.query, "&fieldManager=changeover");
        assert_eq!(patch.content_type, "application/merge-patch+json");
        assert_eq!(patch.body, json!({"metadata": {"annotations": {"force-sync": "me.0"}}}));
    }

    #[tokio::test(start_paused = true)]
    async fn force_annotation_value_is_unique_per_attempt() {
        let server = ApiServer::new();
        external_secret(&server);
        let clusters = clusters(&server);
        server.operate(EXTERNAL_SECRET, [sync("2-b", "new")]);
        done(refreshed(&clusters).await.unwrap());
        server.fail([Fault::LostReply]);
        server.operate(EXTERNAL_SECRET, [sync("3-c", "new"), sync("4-d", "new")]);
        done(refreshed(&clusters).await.unwrap());
        let values: Vec<Value> = server
            .patches()
            .iter()
            .map(|patch| patch.body["metadata"]["annotations"]["force-sync"].clone())
            .collect();
        assert_eq!(values, ["me.0", "me.1", "me.2"]);
    }

    #[tokio::test(start_paused = true)]
    async fn missing_external_secret_is_reported_as_none() {
        let server = ApiServer::new();
        let clusters = clusters(&server);
        assert_eq!(refreshed_within(MINUTE, &clusters, &workload()).await, Ok(None));
        assert_eq!(clusters.secret_revision(&workload(), &parameters()).await, Ok(None));
    }

    #[tokio::test(start_paused = true)]
    async fn sync_proof_requires_new_sync_and_published_value() {
        let server = ApiServer::new();
        external_secret(&server);
        let clusters = clusters(&server);
        // Ready, and the right bytes, but of the previous sync.
        synced_to(&server, "1-a", "new");
        let waiting = async {
            all_wait().await;
            let asked = server.requests().iter().filter(|it| it.path == SECRET).count();
            assert_eq!(asked, 0, "it was looked at before it synced");
            synced_to(&server, "2-b", "new");
        };
        let (progress, ()) = tokio::join!(refreshed(&clusters), waiting);
        let revision = clusters.secret_revision(&workload(), &parameters()).await.unwrap().unwrap();
        assert_eq!(done(progress.unwrap()), revision);
        // A new sync, but the bytes of the former value.
        server.operate(EXTERNAL_SECRET, [sync("3-c", "old")]);
        let progress = refreshed(&clusters).await.unwrap();
        assert!(matches!(progress, Progress::UnderWay(_)), "{progress:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn scheduled_sync_completes_refresh() {
        let server = ApiServer::new();
        external_secret(&server);
        let clusters = clusters(&server);
        // The operator is busy: it syncs at its interval, long after the force.
        let operator = async {
            tokio::time::sleep(MINUTE / 2).await;
            synced_to(&server, "2-b", "new");
        };
        let (progress, ()) = tokio::join!(refreshed(&clusters), operator);
        done(progress.unwrap());
        assert_eq!(server.patches().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn stale_sync_is_forced_again() {
        let server = ApiServer::new();
        external_secret(&server);
        server.operate(EXTERNAL_SECRET, [sync("2-b", "old"), sync("3-c", "new")]);
        done(refreshed(&clusters(&server)).await.unwrap());
        assert_eq!(server.patches().len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn stale_sync_is_stuck_after_bounded_refreshes() {
        let server = ApiServer::new();
        external_secret(&server);
        let syncs = (2..20).map(|number| sync(&format!("{number}-c"), "old"));
        server.operate(EXTERNAL_SECRET, syncs);
        let reason = stuck(refreshed(&clusters(&server)).await.unwrap());
        assert!(reason.contains("does not hold what was published"), "{reason}");
        assert_eq!(server.patches().len(), 6);
    }

    #[tokio::test(start_paused = true)]
    async fn sync_failure_reports_event_and_becomes_stuck() {
        let server = ApiServer::new();
        external_secret(&server);
        server.put(
            EXTERNAL_SECRET,
            json!({"status": {"conditions": [{
                "type": "Ready", "status": "False", "reason": "SecretSyncedError",
                "message": "could not get secret data from provider",
            }]}}),
        );
        server.put(
            "/api/v1/namespaces/web/events/1",
            json!({
                "type": "Warning", "reason": "UpdateFailed", "message": "ParameterNotFound: gone",
                "involvedObject": {"kind": "ExternalSecret", "name": "datastore-token"},
            }),
        );
        let clusters = clusters(&server);
        let (short, long) = (Duration::from_secs(30), MINUTE * 5);
        let progress = refreshed_within(short, &clusters, &workload()).await.unwrap().unwrap();
        assert!(
            matches!(&progress, Progress::UnderWay(words) if words.contains("ParameterNotFound")),
            "{progress:?}"
        );
        let progress = refreshed_within(long, &clusters, &workload()).await.unwrap().unwrap();
        assert!(stuck(progress).contains("ParameterNotFound: gone"));
    }

    #[tokio::test(start_paused = true)]
    async fn refresh_wait_ends_at_deadline() {
        let server = ApiServer::new();
        external_secret(&server);
        let began = Instant::now();
        let progress = refreshed(&clusters(&server)).await.unwrap();
        assert!(matches!(progress, Progress::UnderWay(words) if words.contains("not synced")));
        assert!(began.elapsed() <= MINUTE + Duration::from_millis(10));
    }

    #[tokio::test(start_paused = true)]
    async fn deleted_or_unrefreshable_external_secret_is_stuck() {
        let server = ApiServer::new();
        external_secret(&server);
        let clusters = clusters(&server);
        let deleting = async {
            all_wait().await;
            server.delete(EXTERNAL_SECRET);
        };
        let (progress, ()) = tokio::join!(refreshed(&clusters), deleting);
        assert!(stuck(progress.unwrap()).contains("not exist"));

        external_secret(&server);
        let changing = async {
            all_wait().await;
            server.put(EXTERNAL_SECRET, json!({"spec": {"refreshInterval": "0"}}));
        };
        let (progress, ()) = tokio::join!(refreshed(&clusters), changing);
        assert!(stuck(progress.unwrap()).contains("refreshInterval"));
    }

    #[tokio::test(start_paused = true)]
    async fn secret_revision_follows_value_and_uid_not_annotations() {
        let server = ApiServer::new();
        external_secret(&server);
        synced_to(&server, "2-b", "new");
        let clusters = clusters(&server);
        let workload = workload();
        let revision =
            async || clusters.secret_revision(&workload, &parameters()).await.unwrap().unwrap();
        let first = revision().await;
        // External Secrets copies the annotation that forces a refresh to the Secret.
        server.put(SECRET, json!({"metadata": {"annotations": {"force-sync": "me.1"}}}));
        assert_eq!(revision().await, first);
        server.put(SECRET, json!({"data": {"token": STANDARD.encode("other")}}));
        assert_ne!(revision().await, first);
        synced_to(&server, "3-c", "new");
        assert_eq!(revision().await, first);
        server.put(SECRET, json!({"metadata": {"uid": "made-again"}}));
        assert_ne!(revision().await, first);
    }

    #[tokio::test(start_paused = true)]
    async fn editors_are_other_field_managers_newest_first() {
        let server = ApiServer::new();
        external_secret(&server);
        synced_to(&server, "2-b", "new");
        let managed = |entries: &[(&str, &str)]| -> Value {
            let entries = entries.iter().map(|(manager, time)| {
                json!({
                    "manager": manager, "operation": "Update", "time": time,
                })
            });
            json!({"metadata": {"managedFields": entries.collect::<Vec<_>>()}})
        };
        server.put(
            SECRET,
            managed(&[
                ("externalsecrets.external-secrets.io/datastore-token", "2026-01-01T00:00:01Z"),
                ("kubectl-edit", "2026-01-01T00:00:09Z"),
            ]),
        );
        server.put(
            EXTERNAL_SECRET,
            managed(&[
                ("changeover", "2026-01-01T00:00:10Z"),
                ("argocd-controller", "2026-01-01T00:00:05Z"),
                ("kubectl-edit", "2026-01-01T00:00:02Z"),
            ]),
        );
        assert_eq!(
            clusters(&server).editors(&workload()).await.unwrap(),
            [
                "kubectl-edit",
                "argocd-controller",
                "externalsecrets.external-secrets.io/datastore-token",
            ]
        );
    }
}

mod rolling {
    use super::*;

    /// Two replicas, stamped 7 and observed. Pods of revision 6 run.
    pub(super) fn rolling() -> Arc<ApiServer> {
        let server = ApiServer::new();
        begun(&server);
        server
    }

    pub(super) fn begun(server: &ApiServer) {
        server.put(
            DEPLOYMENT,
            json!({
                "metadata": {"generation": 2, "annotations": {REVISION: "2"}},
                "spec": {
                    "replicas": 2,
                    "selector": {"matchLabels": {"app": "backend"}},
                    "template": {"metadata": {"annotations": {STAMP: "7"}}},
                },
                "status": {
                    "observedGeneration": 2,
                    "replicas": 2, "updatedReplicas": 0, "availableReplicas": 2,
                },
            }),
        );
        let owner = json!([{
            "apiVersion": "apps/v1", "kind": "Deployment", "name": "backend",
            "uid": "uid-backend", "controller": true,
        }]);
        for (replica_set, revision) in [("old", "1"), ("new", "2")] {
            server.put(
                &format!("{REPLICA_SETS}/{replica_set}"),
                json!({"metadata": {
                    "labels": {"app": "backend"},
                    "annotations": {REVISION: revision},
                    "ownerReferences": owner,
                }}),
            );
        }
        for name in ["old-1", "old-2"] {
            pod(server, name, "old", "6");
        }
    }

    fn pod(server: &ApiServer, name: &str, replica_set: &str, stamp: &str) {
        server.put(
            &format!("{PODS}/{name}"),
            json!({
                "metadata": {
                    "labels": {"app": "backend"},
                    "annotations": {STAMP: stamp},
                    "ownerReferences": [{
                        "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": replica_set,
                        "uid": format!("uid-{replica_set}"), "controller": true,
                    }],
                },
                "status": {"phase": "Running"},
            }),
        );
    }

    pub(super) fn status(server: &ApiServer, replicas: u32, updated: u32, available: u32) {
        server.put(
            DEPLOYMENT,
            json!({"status": {
                "replicas": replicas, "updatedReplicas": updated, "availableReplicas": available,
            }}),
        );
    }

    /// Replaces the pods. The older ones are Terminating when kubectl says "rolled out".
    pub(super) fn replaced(server: &ApiServer) {
        for name in ["new-1", "new-2"] {
            pod(server, name, "new", "7");
        }
        for name in ["old-1", "old-2"] {
            let ending = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
            server.put(&format!("{PODS}/{name}"), ending);
        }
        status(server, 2, 2, 2);
    }

    pub(super) fn gone(server: &ApiServer) {
        for name in ["old-1", "old-2"] {
            server.delete(&format!("{PODS}/{name}"));
        }
    }

    async fn rolled_out(server: &Arc<ApiServer>) -> Progress<()> {
        one(clusters(server).rolled_out(&[&workload()], &stamp(7), MINUTE).await).unwrap()
    }

    /// The progress, and the moment at which it was returned.
    async fn rolled_out_at(server: &Arc<ApiServer>) -> (Progress<()>, Instant) {
        let progress = rolled_out(server).await;
        (progress, Instant::now())
    }

    fn stuck(progress: Progress<()>) -> String {
        match progress {
            Progress::Stuck(held) => {
                assert_eq!(held.object, "prod/web/deployment/backend");
                held.reason
            }
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn pod_of_a_later_stamp_is_waited_for() {
        let server = rolling();
        replaced(&server);
        gone(&server);
        pod(&server, "new-2", "new", "8");
        let Progress::UnderWay(left) = rolled_out(&server).await else { panic!("it counts") };
        assert!(left.contains("pod new-2"), "{left}");
    }

    #[tokio::test(start_paused = true)]
    async fn template_of_a_later_stamp_is_ahead() {
        let server = rolling();
        replaced(&server);
        gone(&server);
        let later = json!({"spec": {"template": {"metadata": {"annotations": {STAMP: "8"}}}}});
        server.put(DEPLOYMENT, later);
        assert_eq!(rolled_out(&server).await, Progress::Ahead(Fence::bare(8)));
    }

    #[tokio::test(start_paused = true)]
    async fn rollout_is_done_when_last_older_pod_ends() {
        let server = rolling();
        let rollout = async {
            all_wait().await;
            replaced(&server);
            tokio::time::sleep(Duration::from_secs(20)).await;
            gone(&server);
            Instant::now()
        };
        let (rolled_out, gone_at) = tokio::join!(rolled_out_at(&server), rollout);
        assert_eq!(rolled_out, (Progress::Done(()), gone_at));
    }

    #[tokio::test(start_paused = true)]
    async fn status_of_previous_template_is_not_proof() {
        let server = rolling();
        replaced(&server);
        gone(&server);
        server.put(DEPLOYMENT, json!({"metadata": {"generation": 3}}));
        let progress = rolled_out(&server).await;
        let Progress::UnderWay(left) = &progress else { panic!("{progress:?}") };
        assert!(left.contains("not observed"), "{left}");
    }

    #[tokio::test(start_paused = true)]
    async fn expired_rollout_wait_reports_remaining_pods() {
        let server = rolling();
        let progress = rolled_out(&server).await;
        assert!(
            matches!(&progress, Progress::UnderWay(left)
            if left == "0 of 2 pods are updated; pod old-1 runs on an older view"),
            "{progress:?}"
        );
        replaced(&server);
        let progress = rolled_out(&server).await;
        assert!(
            matches!(&progress, Progress::UnderWay(left)
            if left == "all pods are replaced; pod old-1 is Terminating"),
            "{progress:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn rollout_wait_watches_without_polling() {
        let server = rolling();
        rolled_out(&server).await;
        let lists = server.requests().iter().filter(|it| !it.query.contains("watch=true")).count();
        assert_eq!(lists, 2, "{:?}", server.requests());
    }

    #[tokio::test(start_paused = true)]
    async fn pod_missed_by_watch_is_found_before_done() {
        let server = rolling();
        let rollout = async {
            all_wait().await;
            gone(&server);
            for name in ["new-1", "new-2"] {
                pod(&server, name, "new", "7");
            }
            all_wait().await;
            server.hold_watches_of(Some(PODS));
            pod(&server, "late", "old", "6");
            status(&server, 2, 2, 2);
            tokio::time::sleep(Duration::from_secs(5)).await;
            server.delete(&format!("{PODS}/late"));
            server.hold_watches_of(None);
            Instant::now()
        };
        let (rolled_out, gone_at) = tokio::join!(rolled_out_at(&server), rollout);
        assert_eq!(rolled_out, (Progress::Done(()), gone_at));
    }

    #[tokio::test(start_paused = true)]
    async fn foreign_pods_with_same_labels_are_not_awaited() {
        let server = rolling();
        replaced(&server);
        gone(&server);
        server.put(
            &format!("{REPLICA_SETS}/foreign"),
            json!({"metadata": {
                "labels": {"app": "backend"},
                "ownerReferences": [{
                    "apiVersion": "apps/v1", "kind": "Deployment", "name": "other",
                    "uid": "uid-other", "controller": true,
                }],
            }}),
        );
        pod(&server, "other-1", "foreign", "none");
        assert_eq!(rolled_out(&server).await, Progress::Done(()));
    }

    #[tokio::test(start_paused = true)]
    async fn pod_of_deleted_replica_set_is_awaited() {
        let server = rolling();
        replaced(&server);
        server.delete(&format!("{REPLICA_SETS}/old"));
        assert!(matches!(rolled_out(&server).await, Progress::UnderWay(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn rollout_wait_survives_expired_watch_history() {
        let server = rolling();
        let rollout = async {
            all_wait().await;
            server.forget_history();
            all_wait().await;
            replaced(&server);
            server.forget_history();
            all_wait().await;
            gone(&server);
            server.forget_history();
        };
        let (progress, ()) = tokio::join!(rolled_out(&server), rollout);
        assert_eq!(progress, Progress::Done(()));
    }

    #[tokio::test(start_paused = true)]
    async fn rollout_wait_survives_temporarily_refused_watch() {
        let server = rolling();
        let rollout = async {
            all_wait().await;
            for code in [500, 503, 429, 401, 410] {
                // The change of status ends both watches with an event, and the next request is refused.
                server.fail([Fault::Status(code)]);
                status(&server, 2, 0, 1);
                tokio::time::sleep(Duration::from_secs(10)).await;
            }
            replaced(&server);
            gone(&server);
        };
        let (progress, ()) = tokio::join!(rolled_out(&server), rollout);
        assert_eq!(progress, Progress::Done(()));
    }

    #[tokio::test(start_paused = true)]
    async fn forbidden_watch_reports_missing_right() {
        let server = rolling();
        server.fail([Fault::Status(403)]);
        let rolled_out = clusters(&server).rolled_out(&[&workload()], &stamp(7), MINUTE).await;
        let error = one(rolled_out).unwrap_err();
        assert_eq!(error.kind, Kind::AccessDenied);
        assert!(error.fix.contains("watch on deployments.apps in namespace web"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn obstacle_during_rollout_is_reported_at_once() {
        let paused = json!({"spec": {"paused": true}});
        let reverted = json!({"spec": {"template": {"metadata": {"annotations": {STAMP: null}}}}});
        let exceeded = json!({"status": {"conditions": [{
            "type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded",
        }]}});
        let changes = [(paused, "paused"), (reverted, "lost its stamp"), (exceeded, "no progress")];
        for (change, words) in changes {
            let server = rolling();
            let changing = async {
                all_wait().await;
                server.put(DEPLOYMENT, change);
                Instant::now()
            };
            let ((progress, told_at), changed_at) = tokio::join!(rolled_out_at(&server), changing);
            assert_eq!(told_at, changed_at);
            assert!(stuck(progress).contains(words), "{words}");
        }
        let server = rolling();
        let deleting = async {
            all_wait().await;
            server.delete(DEPLOYMENT);
        };
        let (progress, ()) = tokio::join!(rolled_out(&server), deleting);
        assert!(stuck(progress).contains("deleted"));
    }

    fn waiting(server: &ApiServer, reason: &str, restarts: u32) {
        pod(server, "new-1", "new", "7");
        server.put(&format!("{PODS}/new-1"), json!({"status": {"containerStatuses": [{
            "name": "main", "image": "i", "imageID": "", "ready": false, "restartCount": restarts,
            "state": {"waiting": {"reason": reason}},
        }]}}));
    }

    #[tokio::test(start_paused = true)]
    async fn crash_loop_is_stuck_before_deadline() {
        let server = rolling();
        let crashing = async {
            all_wait().await;
            waiting(&server, "CrashLoopBackOff", 1);
            tokio::time::sleep(Duration::from_secs(20)).await;
            waiting(&server, "CrashLoopBackOff", 3);
            Instant::now()
        };
        let ((progress, told_at), crashed_at) = tokio::join!(rolled_out_at(&server), crashing);
        assert_eq!(told_at, crashed_at);
        assert_eq!(stuck(progress), "pod new-1, container main: CrashLoopBackOff (3 restarts)");
    }

    #[tokio::test(start_paused = true)]
    async fn trouble_of_replaced_template_is_ignored() {
        let server = rolling();
        waiting(&server, "CrashLoopBackOff", 5);
        assert!(stuck(rolled_out(&server).await).contains("CrashLoopBackOff"));
        let next = json!({"metadata": {"annotations": {REVISION: "3"}}});
        server.put(DEPLOYMENT, next.clone());
        let repaired = json!({"metadata": {
            "labels": {"app": "backend"},
            "ownerReferences": server.object(&format!("{REPLICA_SETS}/new"))["metadata"]["ownerReferences"],
        }});
        server.put(&format!("{REPLICA_SETS}/repaired"), repaired);
        server.put(&format!("{REPLICA_SETS}/repaired"), next);
        assert!(matches!(rolled_out(&server).await, Progress::UnderWay(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn trouble_is_reported_only_when_it_lasts() {
        let server = rolling();
        let pulling = async {
            all_wait().await;
            waiting(&server, "ImagePullBackOff", 0);
            tokio::time::sleep(Duration::from_secs(10)).await;
            waiting(&server, "ContainerCreating", 0);
            tokio::time::sleep(Duration::from_secs(10)).await;
            waiting(&server, "ErrImagePull", 0);
            tokio::time::sleep(Duration::from_secs(1)).await;
            waiting(&server, "ImagePullBackOff", 0);
        };
        let began = Instant::now();
        let (progress, ()) = tokio::join!(rolled_out(&server), pulling);
        assert!(stuck(progress).contains("ImagePullBackOff"));
        assert_eq!(began.elapsed().as_secs(), 10 + 10 + 15);
    }
}

mod looking {
    use super::*;

    async fn found(server: &Arc<ApiServer>) -> Vec<(Severity, String)> {
        let parameters = [ParameterName::parse("/backend/token").unwrap()];
        let findings = clusters(server).inspect(&subject(&workload(), &parameters)).await.unwrap();
        findings
            .into_iter()
            .map(|it| (it.severity, format!("{}: {}", it.object, it.reason)))
            .collect()
    }

    #[tokio::test(start_paused = true)]
    async fn rollable_workload_has_no_findings_at_fixed_cost() {
        let server = ApiServer::new();
        examining::connected(&server);
        let clusters = clusters(&server);
        let parameters = [ParameterName::parse("/backend/token").unwrap()];
        for calls in [6, 11] {
            let findings = clusters.inspect(&subject(&workload(), &parameters)).await.unwrap();
            assert_eq!(findings, []);
            assert_eq!(server.requests().len(), calls, "the API's version is asked for once");
        }
        let changes = |it: &Recorded| it.method != Method::GET && !it.is_dry_run();
        assert!(!server.requests().iter().any(changes));
    }

    #[tokio::test(start_paused = true)]
    async fn missing_or_unfinishable_object_is_reported() {
        let server = ApiServer::new();
        assert_eq!(
            found(&server).await,
            [
                (Severity::Missing, "prod/web/deployment/backend: it does not exist".to_owned()),
                (
                    Severity::Missing,
                    "prod/web/externalsecret/datastore-token: it does not exist".to_owned()
                ),
            ]
        );
        let spec = json!({"selector": {}, "replicas": 0, "paused": true, "template": {}});
        server.put(DEPLOYMENT, json!({"spec": spec}));
        syncing::external_secret(&server);
        server.put(EXTERNAL_SECRET, json!({"spec": {"refreshPolicy": "CreatedOnce"}}));
        let severities: Vec<_> = found(&server).await.into_iter().map(|(it, _)| it).collect();
        assert_eq!(severities, [Severity::Refusal, Severity::Warning, Severity::Refusal]);
    }

    /// A Deployment that is scaled to 0.
    fn without_replicas(server: &Arc<ApiServer>) {
        examining::connected(server);
        let selector = json!({"matchLabels": {"app": "backend"}});
        server.put(DEPLOYMENT, json!({"spec": {"replicas": 0, "selector": selector}}));
        server.put(DEPLOYMENT, json!({"status": {"replicas": 0, "availableReplicas": 0}}));
    }

    async fn refusals(server: &Arc<ApiServer>) -> Vec<String> {
        let found = found(server).await.into_iter();
        found.filter(|(it, _)| *it == Severity::Refusal).map(|(_, reported)| reported).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn workload_at_zero_with_foreign_pods_is_refused() {
        let server = ApiServer::new();
        without_replicas(&server);
        let pod = |name: &str, change: Value| {
            server.put(
                &format!("{PODS}/{name}"),
                json!({"metadata": {"labels": {"app": "backend"}}, "status": {"phase": "Running"}}),
            );
            server.put(&format!("{PODS}/{name}"), change);
        };
        // Its own pods are ending, and pods that have ended serve no request.
        pod("own", json!({"metadata": {"deletionTimestamp": "2026-11-01T00:00:00Z"}}));
        pod("done", json!({"status": {"phase": "Succeeded"}}));
        pod("other", json!({"metadata": {"labels": {"app": "other"}}}));
        assert_eq!(refusals(&server).await, [""; 0]);
        let owner = json!([{
            "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "backend-7d9f", "uid": "u",
            "controller": true,
        }]);
        pod("backend-7d9f-x2x", json!({"metadata": {"ownerReferences": owner}}));
        let refused = refusals(&server).await;
        assert_eq!(refused.len(), 1, "{refused:?}");
        let serves = "pod backend-7d9f-x2x of ReplicaSet backend-7d9f runs with its labels";
        assert!(refused[0].contains(serves), "{refused:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn deployment_beside_scaled_rollout_is_refused() {
        let server = ApiServer::new();
        examining::connected(&server);
        let selector = json!({"matchLabels": {"app": "backend"}});
        server.put(DEPLOYMENT, json!({"spec": {"selector": selector}}));
        let set = |kind: &str, name: &str, replicas: u32| {
            let owner = json!([{
                "apiVersion": "x", "kind": kind, "name": name, "uid": "u", "controller": true,
            }]);
            let metadata = json!({"labels": {"app": "backend"}, "ownerReferences": owner});
            server.put(
                &format!("{REPLICA_SETS}/{name}-{replicas}"),
                json!({"metadata": metadata, "spec": {"replicas": replicas, "selector": {}}}),
            );
        };
        set("Deployment", "backend", 2);
        set("Rollout", "former", 0);
        assert_eq!(refusals(&server).await, [""; 0]);
        set("Rollout", "shop", 3);
        let refused = refusals(&server).await;
        assert_eq!(refused.len(), 1, "{refused:?}");
        assert!(refused[0].contains("Rollout shop runs with its labels"), "{refused:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn workload_at_zero_with_canary_primary_is_refused() {
        let primary = "/apis/apps/v1/namespaces/web/deployments/backend-primary";
        let server = ApiServer::new();
        without_replicas(&server);
        server.put(primary, json!({"metadata": {"labels": {"app": "backend-primary"}}}));
        assert_eq!(refusals(&server).await, [""; 0], "one of this name alone says nothing");
        let owner = json!([{
            "apiVersion": "flagger.app/v1beta1", "kind": "Canary", "name": "backend", "uid": "u",
            "controller": true,
        }]);
        server.put(primary, json!({"metadata": {"ownerReferences": owner}}));
        let refused = refusals(&server).await;
        assert_eq!(refused.len(), 1, "{refused:?}");
        for reported in ["deployment backend-primary", "Canary backend"] {
            assert!(refused[0].contains(reported), "{refused:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn unreadable_workload_is_refused_with_missing_verb() {
        let server = ApiServer::new();
        syncing::external_secret(&server);
        server.fail([Fault::Status(403)]);
        let parameters = [ParameterName::parse("/backend/token").unwrap()];
        let findings = clusters(&server).inspect(&subject(&workload(), &parameters)).await.unwrap();
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].severity, Severity::Refusal);
        assert!(
            findings[0].fix.contains("grant the verb get on deployments.apps in namespace web")
        );
    }

    #[tokio::test(start_paused = true)]
    async fn already_failing_sync_is_warning() {
        let server = ApiServer::new();
        examining::connected(&server);
        server.put(EXTERNAL_SECRET, json!({"status": {"conditions": [{
            "type": "Ready", "status": "False", "reason": "SecretSyncedError", "message": "no store",
        }]}}));
        let found = found(&server).await;
        assert!(matches!(&found[..], [(Severity::Warning, reason)] if reason.contains("no store")));
    }
}
