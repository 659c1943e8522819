//! A Secret that changeover writes itself.

use changeover_token::Secret;

use super::{syncing::stuck, *};

async fn write(server: &Arc<ApiServer>, revision: u64, value: &str) -> Progress<SecretRevision> {
    let value = Secret::verbatim(value.to_owned());
    clusters(server).write_secret(&written(), &stamp(revision), &value).await.unwrap()
}

fn existing(server: &ApiServer, change: Value) {
    server.put(SECRET, json!({"type": "Opaque", "data": {"other": "eA=="}}));
    server.put(SECRET, change);
}

fn held(server: &ApiServer, key: &str) -> String {
    let secret = server.object(SECRET);
    let value = secret["data"][key].as_str().unwrap_or_default();
    String::from_utf8(STANDARD.decode(value).unwrap()).unwrap()
}

fn revision(server: &ApiServer) -> Value {
    server.object(SECRET)["metadata"]["annotations"][STAMP].clone()
}

/// A fault that leaves the answer normal.
fn nothing() -> Fault {
    Fault::After(DEPLOYMENT.to_owned(), json!({}))
}

fn owned_by(manager: &str, field: &str) -> Value {
    json!({"metadata": {"managedFields": [
        {"manager": manager, "operation": "Update", "fieldsV1": {"f:data": {field: {}}}},
    ]}})
}

#[tokio::test(start_paused = true)]
async fn missing_secret_is_made_then_written() {
    let server = ApiServer::new();
    let Progress::Done(written_as) = write(&server, 7, "new").await else { panic!("not written") };
    let [made, applied] = server.patches().try_into().unwrap();
    assert_eq!(made.path, SECRET);
    // Neither forced nor by a manager that owns other fields, so that it removes nothing.
    assert_eq!(made.query, "fieldManager=changeover-create-presenter-datastore");
    assert_eq!(made.content_type, "application/apply-patch+yaml");
    let metadata =
        json!({"name": "datastore-token", "namespace": "web", "annotations": {STAMP: "0"}});
    assert_eq!(made.body, json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata}));
    assert_eq!(applied.body["metadata"]["resourceVersion"], "1");
    assert_eq!((held(&server, "token"), revision(&server)), ("new".into(), json!("7")));
    let now = clusters(&server).secret_revision(&written(), &[]).await.unwrap();
    assert_eq!(now, Some(written_as));
}

#[tokio::test(start_paused = true)]
async fn existing_secret_gets_one_conditional_apply() {
    let server = ApiServer::new();
    existing(&server, json!({}));
    write(&server, 7, "new").await;
    let [apply] = server.patches().try_into().unwrap();
    assert_eq!(apply.path, SECRET);
    assert_eq!(apply.query, "fieldManager=changeover-presenter-datastore&force=true");
    assert_eq!(apply.content_type, "application/apply-patch+yaml");
    // The response contains only metadata, because the full Secret must not be repeated.
    assert_eq!(apply.accept, "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1");
    let golden = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": "datastore-token", "namespace": "web", "uid": "uid-datastore-token",
            "resourceVersion": "2", "annotations": {STAMP: "7"},
        },
        "data": {"token": STANDARD.encode("new")},
    });
    assert_eq!(apply.body, golden);
    assert_eq!((held(&server, "token"), held(&server, "other")), ("new".into(), "x".into()));
}

#[tokio::test(start_paused = true)]
async fn unchanged_secret_is_not_written_again() {
    let server = ApiServer::new();
    let first = write(&server, 7, "new").await;
    assert_eq!(write(&server, 7, "new").await, first);
    assert_eq!(server.patches().len(), 2);
    // A value that was edited by hand meanwhile is replaced.
    server.put(SECRET, json!({"data": {"token": STANDARD.encode("by hand")}}));
    assert_eq!(write(&server, 7, "new").await, first);
    assert_eq!(held(&server, "token"), "new");
}

#[tokio::test(start_paused = true)]
async fn view_never_goes_back() {
    let server = ApiServer::new();
    write(&server, 7, "new").await;
    assert_eq!(write(&server, 6, "old").await, Progress::Ahead(Fence::bare(7)));
    // Equal bytes do not help: a pod may not have read the later view yet.
    assert_eq!(write(&server, 6, "new").await, Progress::Ahead(Fence::bare(7)));
    assert_eq!((held(&server, "token"), revision(&server)), ("new".into(), json!("7")));

    // The read is answered normally. The write finds the newer view.
    let newer = json!({
        "metadata": {"annotations": {STAMP: "9"}}, "data": {"token": STANDARD.encode("newest")},
    });
    let unchanged = Fault::After(SECRET.to_owned(), json!({}));
    server.fail([unchanged, Fault::After(SECRET.to_owned(), newer)]);
    assert_eq!(write(&server, 8, "newer").await, Progress::Ahead(Fence::bare(9)));
    assert_eq!((held(&server, "token"), revision(&server)), ("newest".into(), json!("9")));
}

#[tokio::test(start_paused = true)]
async fn older_record_is_overwritten_and_newer_is_ahead() {
    let write = async |server: &Arc<ApiServer>, fence| {
        let value = Secret::verbatim("ours".to_owned());
        clusters(server).write_secret(&written(), &stamp_of(fence), &value).await.unwrap()
    };
    let carrying = |fence: Fence| {
        let server = ApiServer::new();
        existing(&server, json!({"metadata": {"annotations": {STAMP: fence.to_string()}}}));
        server
    };
    for older in [Fence { life: Some(life(-60)), revision: 4_000 }, Fence::bare(4_000)] {
        let server = carrying(older);
        assert!(matches!(write(&server, fence(7)).await, Progress::Done(_)));
        assert_eq!(held(&server, "token"), "ours");
        assert_eq!(revision(&server), json!(fence(7).to_string()));
    }
    let newer = Fence { life: Some(life(60)), revision: 1 };
    let server = carrying(newer);
    assert_eq!(write(&server, fence(7)).await, Progress::Ahead(newer));
    assert_eq!(server.patches().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn conflicting_write_is_retried() {
    let server = ApiServer::new();
    existing(&server, json!({}));
    let touch = || Fault::After(SECRET.to_owned(), json!({"data": {"other": "eQ=="}}));
    server.fail([touch(), touch(), touch(), touch()]);
    assert!(matches!(write(&server, 7, "new").await, Progress::Done(_)));
    assert_eq!((held(&server, "token"), held(&server, "other")), ("new".into(), "y".into()));

    // Another client created the Secret between the read and the write.
    let server = ApiServer::new();
    let made = json!({"type": "Opaque", "data": {"other": "eA=="}});
    server.fail([Fault::Status(404), Fault::Status(409), Fault::After(SECRET.to_owned(), made)]);
    assert!(matches!(write(&server, 7, "new").await, Progress::Done(_)));
    assert_eq!((held(&server, "token"), held(&server, "other")), ("new".into(), "x".into()));
}

#[tokio::test(start_paused = true)]
async fn endless_conflict_gives_up_with_a_reason() {
    let server = ApiServer::new();
    existing(&server, json!({}));
    let touch = || Fault::After(SECRET.to_owned(), json!({"data": {"other": "eQ=="}}));
    server.fail((0..100).map(|_| touch()));
    let value = Secret::verbatim("new".to_owned());
    let error = clusters(&server).write_secret(&written(), &stamp(7), &value).await.unwrap_err();
    assert_eq!(error.kind, Kind::Unreachable);
    assert!(error.to_string().contains("prod/web/secret/datastore-token"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn stamp_is_done_despite_lost_reply() {
    // The reply to the creation is lost, or the one to the write.
    for calls_before in [1, 3] {
        let server = ApiServer::new();
        server.fail((0..calls_before).map(|_| nothing()).chain([Fault::LostReply]));
        assert!(matches!(write(&server, 7, "new").await, Progress::Done(_)));
        assert_eq!((held(&server, "token"), revision(&server)), ("new".into(), json!("7")));
    }
}

#[tokio::test(start_paused = true)]
async fn foreign_secret_is_stuck_and_found_before_mint() {
    let owner = |kind: &str, version: &str| {
        json!({"metadata": {"ownerReferences": [
            {"apiVersion": version, "kind": kind, "name": "it", "uid": "1"},
        ]}})
    };
    let cases = [
        (json!({"immutable": true}), Some("immutable")),
        (json!({"type": "kubernetes.io/tls"}), Some("its type is kubernetes.io/tls")),
        (owner("ExternalSecret", "external-secrets.io/v1"), Some("External Secrets writes")),
        (owned_by("externalsecrets.external-secrets.io/it", "f:token"), Some("External Secrets")),
        (owned_by("externalsecrets.external-secrets.io/it", "f:other"), None),
        (owned_by("kubectl-edit", "f:token"), None),
        (owned_by("changeover-presenter-datastore", "f:token"), None),
        (owner("Application", "example.com/v1"), None),
    ];
    for (change, words) in cases {
        let server = ApiServer::new();
        existing(&server, change.clone());
        server.put(DEPLOYMENT, json!({"spec": {"selector": {}}}));
        let mut findings = clusters(&server).inspect(&subject(&written(), &[])).await.unwrap();
        findings.retain(|finding| finding.severity > Severity::Warning);
        let progress = write(&server, 7, "new").await;
        let Some(words) = words else {
            assert!(matches!(progress, Progress::Done(_)), "{change}: {progress:?}");
            assert_eq!(findings, []);
            continue;
        };
        let reason = stuck(progress);
        assert!(reason.contains(words), "{change}: {reason}");
        assert_eq!(findings[0].severity, Severity::Refusal);
        assert_eq!(findings[0].reason, reason);
        assert_eq!(server.patches().len(), 0);
    }
    // A key that another token writes is detected by that token's field manager.
    let server = ApiServer::new();
    existing(&server, owned_by("changeover-presenter-other", "f:token"));
    assert!(stuck(write(&server, 7, "new").await).contains("changeover-presenter-other"));
}

#[tokio::test(start_paused = true)]
async fn missing_namespace_is_reported() {
    let server = ApiServer::new();
    server.fail([Fault::Status(404), Fault::Status(404)]);
    assert!(stuck(write(&server, 7, "new").await).contains("namespace does not exist"));
}

#[tokio::test(start_paused = true)]
async fn errors_and_bad_answers_hide_the_value() {
    let hidden = STANDARD.encode("hidden");
    for faults in [
        vec![nothing(), Fault::Status(422)],
        vec![nothing(), Fault::Garbage(r#"{"metadata": 1, "data": "aGlkZGVu"}"#)],
    ] {
        let server = ApiServer::new();
        existing(&server, json!({}));
        server.fail(faults);
        let value = Secret::verbatim("hidden".to_owned());
        let error = clusters(&server).write_secret(&written(), &stamp(7), &value).await;
        let error = error.unwrap_err().to_string();
        assert!(!error.contains("hidden") && !error.contains(&hidden), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn another_tokens_key_is_no_change() {
    let server = ApiServer::new();
    let first = write(&server, 7, "new").await;
    server.put(SECRET, json!({"data": {"other": "eQ=="}}));
    let revision = clusters(&server).secret_revision(&written(), &[]).await.unwrap().unwrap();
    assert_eq!(Progress::Done(revision.clone()), first);
    server.put(SECRET, json!({"data": {"token": "eQ=="}}));
    let edited = clusters(&server).secret_revision(&written(), &[]).await.unwrap();
    assert_ne!(edited, Some(revision));
}
