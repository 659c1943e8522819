//! ExternalSecrets that a ClusterExternalSecret keeps.

use super::{
    syncing::{
        cluster_external_secret, done, external_secret, external_secret_of, refreshed_within,
        stuck, sync, synced_to,
    },
    *,
};

fn owned(server: &ApiServer) {
    let owner = json!({
        "apiVersion": "external-secrets.io/v1", "kind": "ClusterExternalSecret",
        "name": "everywhere", "uid": "1",
    });
    cluster_external_secret(server);
    external_secret_of(server, json!({"ownerReferences": [owner]}));
}

async fn refreshed(server: &Arc<ApiServer>) -> Progress<SecretRevision> {
    let answer = refreshed_within(MINUTE, &clusters(server), &everywhere()).await;
    answer.unwrap().expect("the ClusterExternalSecret exists")
}

#[tokio::test(start_paused = true)]
async fn refresh_is_forced_on_cluster_external_secret_only() {
    let server = ApiServer::new();
    owned(&server);
    server.operate(EVERYWHERE, [sync("2-b", "new")]);
    done(refreshed(&server).await);
    let [patch] = server.patches().try_into().unwrap();
    assert_eq!(patch.path, EVERYWHERE);
    let annotations = json!({"external-secrets.io/force-sync": "me.0"});
    assert_eq!(patch.body, json!({"metadata": {"annotations": annotations}}));
}

#[tokio::test(start_paused = true)]
async fn child_sync_of_published_value_is_awaited() {
    let server = ApiServer::new();
    owned(&server);
    // The child syncs an older value first.
    server.operate(EVERYWHERE, [sync("2-b", "old"), sync("3-c", "new")]);
    let progress = refreshed(&server).await;
    let revision = clusters(&server).secret_revision(&everywhere(), &parameters()).await.unwrap();
    assert_eq!(Some(done(progress)), revision);
    assert_eq!(server.patches()[0].path, EVERYWHERE);
}

#[tokio::test(start_paused = true)]
async fn unprovisioned_namespace_is_reported_by_wait_and_preflight() {
    let cases = [
        (json!({"provisionedNamespaces": ["other"]}), "does not select the namespace web"),
        (
            json!({"provisionedNamespaces": null, "failedNamespaces": [
                {"namespace": "web", "reason": "external secret already exists in namespace"},
            ]}),
            "already exists",
        ),
    ];
    for (status, words) in cases {
        let server = ApiServer::new();
        cluster_external_secret(&server);
        server.put(EVERYWHERE, json!({"status": status}));
        server.put(DEPLOYMENT, json!({"spec": {"selector": {}}}));
        let Progress::Stuck(held) = refreshed(&server).await else { panic!("not stuck") };
        assert!(held.reason.contains(words), "{held:?}");
        assert!(held.object.contains("ClusterExternalSecret everywhere"), "{held:?}");
        let findings =
            clusters(&server).inspect(&subject(&everywhere(), &parameters())).await.unwrap();
        let worst = findings.iter().max_by_key(|finding| finding.severity).unwrap();
        assert_eq!(worst.severity, Severity::Missing);
        assert_eq!(worst.reason, held.reason);
    }
}

#[tokio::test(start_paused = true)]
async fn namespace_selected_later_is_awaited() {
    let server = ApiServer::new();
    cluster_external_secret(&server);
    let operator = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        owned(&server);
        synced_to(&server, "1-b", "new");
    };
    let (progress, ()) = tokio::join!(refreshed(&server), operator);
    done(progress);
}

#[tokio::test(start_paused = true)]
async fn missing_cluster_external_secret_is_reported_as_none() {
    let server = ApiServer::new();
    let clusters = clusters(&server);
    assert_eq!(refreshed_within(MINUTE, &clusters, &everywhere()).await, Ok(None));
    assert_eq!(clusters.secret_revision(&everywhere(), &parameters()).await, Ok(None));
}

#[tokio::test(start_paused = true)]
async fn foreign_external_secret_of_same_name_is_stuck() {
    let server = ApiServer::new();
    external_secret(&server);
    cluster_external_secret(&server);
    let reason = stuck(refreshed(&server).await);
    assert!(reason.contains("not one that ClusterExternalSecret everywhere keeps"), "{reason}");
}

#[tokio::test(start_paused = true)]
async fn missing_cluster_wide_right_is_reported() {
    let server = ApiServer::new();
    let clusters = clusters(&server);
    refreshed_within(MINUTE, &clusters, &workload()).await.unwrap();
    server.fail([Fault::Status(403)]);
    let error = refreshed_within(MINUTE, &clusters, &everywhere()).await.unwrap_err().to_string();
    let right = "grant the verb get on clusterexternalsecrets.external-secrets.io in a ClusterRole";
    assert!(error.contains(right), "{error}");
}
