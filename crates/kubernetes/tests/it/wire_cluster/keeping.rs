//! ExternalSecrets that a ClusterExternalSecret keeps.

use super::{
    syncing::{
        cluster_external_secret, done, external_secret, external_secret_of, stuck, synced_to,
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

async fn synced(server: &Arc<ApiServer>, before: &str) -> Progress<SecretRevision> {
    let before = SyncedBefore { synced_resource_version: before.to_owned() };
    let intended = BTreeMap::from([(parameters()[0].clone(), Digest::of("new"))]);
    one(clusters(server).synced(&[(&everywhere(), before)], &intended, MINUTE).await).unwrap()
}

#[tokio::test(start_paused = true)]
async fn the_parent_is_told_and_not_the_child_which_it_would_overwrite() {
    let server = ApiServer::new();
    owned(&server);
    let before = clusters(&server).force_sync(&everywhere(), "me").await.unwrap().unwrap();
    assert_eq!(before.synced_resource_version, "1-a");
    let [patch] = server.patches().try_into().unwrap();
    assert_eq!(patch.path, EVERYWHERE);
    let annotations = json!({"external-secrets.io/force-sync": "me.0"});
    assert_eq!(patch.body, json!({"metadata": {"annotations": annotations}}));
}

#[tokio::test(start_paused = true)]
async fn the_child_is_waited_for_like_any_other() {
    let server = ApiServer::new();
    owned(&server);
    // The child syncs an older value first.
    synced_to(&server, "2-b", "old");
    let refreshing = async {
        while server.patches().is_empty() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        synced_to(&server, "3-c", "new");
    };
    let (progress, ()) = tokio::join!(synced(&server, "1-a"), refreshing);
    let revision = clusters(&server).secret_revision(&everywhere(), &parameters()).await.unwrap();
    assert_eq!(Some(done(progress)), revision);
    assert_eq!(server.patches()[0].path, EVERYWHERE);
}

#[tokio::test(start_paused = true)]
async fn a_namespace_that_it_does_not_select_is_told_with_the_fix() {
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
        let told = clusters(&server).force_sync(&everywhere(), "me").await.unwrap().unwrap();
        assert_eq!(told.synced_resource_version, "");
        let Progress::Stuck(held) = synced(&server, "").await else { panic!("not stuck") };
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
async fn a_namespace_that_is_selected_a_moment_later_is_waited_for() {
    let server = ApiServer::new();
    cluster_external_secret(&server);
    let operator = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        owned(&server);
        synced_to(&server, "1-b", "new");
    };
    let (progress, ()) = tokio::join!(synced(&server, ""), operator);
    done(progress);
}

#[tokio::test(start_paused = true)]
async fn one_that_is_not_there_is_told() {
    let server = ApiServer::new();
    let clusters = clusters(&server);
    assert_eq!(clusters.force_sync(&everywhere(), "me").await, Ok(None));
    assert_eq!(clusters.secret_revision(&everywhere(), &parameters()).await, Ok(None));
    assert!(stuck(synced(&server, "").await).contains("does not exist"));
}

#[tokio::test(start_paused = true)]
async fn an_external_secret_of_that_name_that_it_does_not_keep_is_not_waited_for() {
    let server = ApiServer::new();
    external_secret(&server);
    cluster_external_secret(&server);
    let reason = stuck(synced(&server, "1-a").await);
    assert!(reason.contains("not one that ClusterExternalSecret everywhere keeps"), "{reason}");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_names_the_right_that_is_missing_in_the_cluster() {
    let server = ApiServer::new();
    clusters(&server).force_sync(&workload(), "warm").await.unwrap();
    let clusters = clusters(&server);
    clusters.force_sync(&workload(), "warm").await.unwrap();
    server.fail([Fault::Status(403)]);
    let error = clusters.force_sync(&everywhere(), "me").await.unwrap_err().to_string();
    let right = "grant the verb get on clusterexternalsecrets.external-secrets.io in a ClusterRole";
    assert!(error.contains(right), "{error}");
}
