//! Several ExternalSecrets of a namespace, waited for together.

use super::{syncing::external_secret, *};

const OTHER: &str = "/apis/external-secrets.io/v1/namespaces/web/externalsecrets/other";
const COLLECTION: &str = "/apis/external-secrets.io/v1/namespaces/web/externalsecrets";

fn both(server: &ApiServer) {
    external_secret(server);
    server.put(
        OTHER,
        json!({
            "spec": {"data": [{"secretKey": "key", "remoteRef": {"key": "/backend/token"}}]},
            "status": {"syncedResourceVersion": "1-a"},
        }),
    );
}

fn named(name: &str, external_secret: &str, secret_key: Option<&str>) -> Workload {
    let copy = SecretCopy::ExternalSecret {
        name: external_secret.to_owned(),
        secret_key: secret_key.map(str::to_owned),
    };
    Workload { name: name.to_owned(), copy: Some(copy), ..workload() }
}

/// What External Secrets changes when it syncs this data.
fn sync(external_secret: &str, data: Value) -> Vec<(String, Value)> {
    let secret = external_secret.rsplit('/').next().unwrap();
    vec![
        (format!("/api/v1/namespaces/web/secrets/{secret}"), json!({"data": data})),
        (external_secret.to_owned(), json!({"status": {"syncedResourceVersion": "2-b"}})),
    ]
}

fn is_synced(server: &ApiServer, external_secret: &str, data: Value) {
    for (path, change) in sync(external_secret, data) {
        server.put(&path, change);
    }
}

async fn refreshed(server: &Arc<ApiServer>, workloads: &[Workload]) -> Vec<Answer> {
    refreshed_within(MINUTE, server, workloads).await
}

async fn refreshed_within(
    within: Duration,
    server: &Arc<ApiServer>,
    workloads: &[Workload],
) -> Vec<Answer> {
    let workloads: Vec<&Workload> = workloads.iter().collect();
    let intended = BTreeMap::from([(parameters()[0].clone(), Digest::of("new"))]);
    clusters(server).refresh(&workloads, "me", &intended, within).await
}

type Answer = Result<Option<Progress<SecretRevision>>, changeover_core::error::Error>;

fn new() -> String {
    STANDARD.encode("new")
}

#[tokio::test(start_paused = true)]
async fn shared_watch_serves_all_copies_in_order() {
    let server = ApiServer::new();
    both(&server);
    let workloads = [named("a", "other", None), named("b", "datastore-token", None)];
    let operator = async {
        all_wait().await;
        is_synced(&server, EXTERNAL_SECRET, json!({"token": new()}));
        all_wait().await;
        is_synced(&server, OTHER, json!({"key": new()}));
    };
    let (answers, ()) = tokio::join!(refreshed(&server, &workloads), operator);
    let clusters = clusters(&server);
    for (workload, answer) in workloads.iter().zip(answers) {
        let revision = clusters.secret_revision(workload, &parameters()).await.unwrap().unwrap();
        assert_eq!(answer, Ok(Some(Progress::Done(revision))), "{workload}");
    }
    let watches = server.requests().into_iter().filter(|it| it.path == COLLECTION);
    assert!(watches.clone().all(|it| !it.query.contains("fieldSelector")));
    assert!(watches.count() < 6);
}

#[tokio::test(start_paused = true)]
async fn first_stuck_copy_ends_wait_with_others_reported() {
    let server = ApiServer::new();
    both(&server);
    server.operate(EXTERNAL_SECRET, [sync(EXTERNAL_SECRET, json!({"token": new()}))]);
    let third = OTHER.replace("other", "third");
    server.put(&third, json!({"spec": server.object(OTHER)["spec"].clone()}));
    let began = Instant::now();
    let workloads =
        [named("a", "third", None), named("b", "datastore-token", None), named("c", "other", None)];
    let breaking = async {
        all_wait().await;
        server.put(OTHER, json!({"spec": {"refreshPolicy": "CreatedOnce"}}));
    };
    let (answers, ()) = tokio::join!(refreshed(&server, &workloads), breaking);
    let [under_way, done, stuck] = <[_; 3]>::try_from(answers).unwrap();
    assert!(
        matches!(&under_way, Ok(Some(Progress::UnderWay(it))) if it.contains("third")),
        "{under_way:?}"
    );
    assert!(matches!(done, Ok(Some(Progress::Done(_)))), "{done:?}");
    assert!(
        matches!(&stuck, Ok(Some(Progress::Stuck(it))) if it.reason.contains("CreatedOnce")),
        "{stuck:?}"
    );
    assert!(began.elapsed() < Duration::from_secs(1), "it went on waiting");
}

#[tokio::test(start_paused = true)]
async fn shared_secret_is_read_once_for_both_keys() {
    let server = ApiServer::new();
    both(&server);
    let template = json!({"data": {"raw": "{{ .token }}"}, "mergePolicy": "Merge"});
    server.put(EXTERNAL_SECRET, json!({"spec": {"target": {"template": template}}}));
    server.operate(EXTERNAL_SECRET, [sync(EXTERNAL_SECRET, json!({"token": new(), "raw": new()}))]);
    let workloads =
        [named("a", "datastore-token", None), named("b", "datastore-token", Some("raw"))];
    let answers = refreshed(&server, &workloads).await;
    assert!(answers.iter().all(|it| matches!(it, Ok(Some(Progress::Done(_))))), "{answers:?}");
    assert_ne!(answers[0], answers[1]);
    assert_eq!(server.asked_for(&Method::GET, SECRET), 1);
}

#[tokio::test(start_paused = true)]
async fn whatever_else_the_namespace_has_is_passed_over() {
    let server = ApiServer::new();
    both(&server);
    for number in 0..20 {
        let stranger = OTHER.replace("other", &format!("stranger-{number}"));
        server.put(&stranger, json!({"spec": {"refreshPolicy": "CreatedOnce"}}));
    }
    server.operate(EXTERNAL_SECRET, [sync(EXTERNAL_SECRET, json!({"token": new()}))]);
    server.operate(OTHER, [sync(OTHER, json!({"key": new()}))]);
    let workloads = [named("a", "other", None), named("b", "datastore-token", None)];
    let answers = refreshed(&server, &workloads).await;
    assert!(answers.iter().all(|it| matches!(it, Ok(Some(Progress::Done(_))))), "{answers:?}");
}

#[tokio::test(start_paused = true)]
async fn other_key_does_not_change_secret_revision() {
    let server = ApiServer::new();
    both(&server);
    let data = json!({"token": new(), "other": "eA=="});
    server.operate(EXTERNAL_SECRET, [sync(EXTERNAL_SECRET, data)]);
    let answer = one(refreshed(&server, &[workload()]).await);
    server.put(SECRET, json!({"data": {"other": "eQ=="}}));
    let revision = clusters(&server).secret_revision(&workload(), &parameters()).await.unwrap();
    assert_eq!(answer, Ok(Some(Progress::Done(revision.clone().unwrap()))));
    server.put(SECRET, json!({"data": {"token": "eQ=="}}));
    let edited = clusters(&server).secret_revision(&workload(), &parameters()).await.unwrap();
    assert_ne!(edited, revision);
}

#[tokio::test(start_paused = true)]
async fn ready_message_is_reported_with_unproven_copy() {
    for (ready, words) in [
        ("secret will not be created due to CreationPolicy=Merge", "Secret other does not exist"),
        ("secret retained due to DeletionPolicy=Retain", "does not hold what was published"),
    ] {
        let server = ApiServer::new();
        both(&server);
        let condition = json!({"type": "Ready", "status": "True", "message": ready});
        server.put(OTHER, json!({"status": {"conditions": [condition]}}));
        let secret = "/api/v1/namespaces/web/secrets/other";
        if words.contains("exist") {
            let status = json!({"status": {"syncedResourceVersion": "2-b"}});
            server.operate(OTHER, [vec![(OTHER.to_owned(), status)]]);
        } else {
            server.operate(OTHER, [sync(OTHER, json!({"key": "b2xk"}))]);
        }
        // The wait ends before the next refresh is forced.
        let soon = Duration::from_millis(500);
        let answer = one(refreshed_within(soon, &server, &[named("a", "other", None)]).await);
        let Ok(Some(Progress::UnderWay(said))) = answer else { panic!("{answer:?}") };
        assert!(said.contains(words) && said.contains(ready), "{said}");
        assert_eq!(server.asked_for(&Method::GET, secret), 1);
    }
}
