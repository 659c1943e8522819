//! Every way to fill a Secret, and every state that External Secrets reports for it.

use changeover_token::Secret;

use super::*;

impl Testbed {
    fn create_secret(&self, data: Value) {
        let metadata = json!({"name": "copy"});
        self.create(
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": data}),
        );
    }

    async fn write(&self, token: &str, key: &str, revision: u64) -> Progress<SecretRevision> {
        let copy = SecretCopy::Secret { name: "copy".to_owned(), key: key.to_owned() };
        let value = Secret::verbatim(format!("{token} {revision}"));
        let stamp = stamp(Side::Presenters, token, revision);
        let written = self.clusters.write_secret(&self.copied_by(copy), &stamp, &value).await;
        written.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Value of a key of the Secret.
    fn held(&self, key: &str) -> String {
        let template = format!("go-template={{{{index .data \"{key}\" | base64decode}}}}");
        self.in_namespace(&["get", "secret", "copy", "--output", &template])
    }

    /// Grants the rule to the function's group: in the namespace for scope `Role`, in the whole cluster for
    /// `ClusterRole`.
    fn grant(&self, scope: &str, rule: Value) {
        let name = format!("{}-{}", self.namespace, scope.to_lowercase());
        let api = "rbac.authorization.k8s.io";
        let group = json!({"kind": "Group", "apiGroup": api, "name": "changeover"});
        let metadata = json!({"name": name, "namespace": self.namespace});
        let objects = json!({"apiVersion": "v1", "kind": "List", "items": [
            {"apiVersion": format!("{api}/v1"), "kind": scope, "metadata": metadata, "rules": [rule]},
            {
                "apiVersion": format!("{api}/v1"),
                "kind": format!("{scope}Binding"),
                "metadata": metadata,
                "roleRef": {"apiGroup": api, "kind": scope, "name": name},
                "subjects": [group],
            },
        ]});
        self.kubectl(&["create", "--filename=-"], &objects.to_string());
    }

    fn grant_secret(&self) {
        let verbs = ["get", "create", "patch"];
        let rule = json!({"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["copy"], "verbs": verbs});
        self.grant("Role", rule);
    }
}

#[tokio::test]
#[ignore = "needs a testbed: `make test`"]
async fn refresh_of_cluster_external_secret_syncs_its_child() {
    let testbed = Testbed::with_namespace("kept").await;
    let name = testbed.namespace.clone();
    let rule = json!({
        "apiGroups": ["external-secrets.io"], "resources": ["clusterexternalsecrets"],
        "resourceNames": [name], "verbs": ["get", "patch"],
    });
    testbed.put_parameter(&testbed.parameter(), "one").await;
    let keeper = json!({
        "apiVersion": "external-secrets.io/v1",
        "kind": "ClusterExternalSecret",
        "metadata": {"name": name},
        "spec": {
            "externalSecretName": "token",
            "namespaceSelectors": [{"matchLabels": {"has-token": name}}],
            "externalSecretSpec": testbed.copying(&json!({})),
        },
    });
    testbed.kubectl(&["create", "--filename=-"], &keeper.to_string());
    let copy = SecretCopy::ClusterExternalSecret { name: name.clone(), secret_key: None };
    let workload = testbed.copied_by(copy);
    let error = testbed.refreshed(&workload, "one", LONG).await.expect_err("no right to it");
    let fix = "grant the verb get on clusterexternalsecrets.external-secrets.io in a ClusterRole";
    assert!(error.fix.contains(fix), "{error}");
    testbed.grant("ClusterRole", rule);

    // The ClusterExternalSecret does not select the namespace yet.
    let reason = stuck(testbed.synced(&workload, "one", LONG).await);
    assert!(reason.contains(&format!("does not select the namespace {name}")), "{reason}");
    testbed.kubectl(&["label", "namespace", &name, &format!("has-token={name}")], "");
    let first = done(testbed.synced(&workload, "one", LONG).await);

    testbed.put_parameter(&testbed.parameter(), "two").await;
    let second = done(testbed.synced(&workload, "two", LONG).await);
    assert_ne!(first, second);
    let parameters = [testbed.parameter()];
    assert_eq!(testbed.clusters.secret_revision(&workload, &parameters).await, Ok(Some(second)));
    let reason = stuck(testbed.synced(&testbed.copied(None), "two", LONG).await);
    assert!(reason.contains("it belongs to ClusterExternalSecret"), "{reason}");
    let findings = testbed.clusters.inspect(&subject(&testbed.copied(None), &parameters)).await;
    let findings = findings.expect("an answer");
    assert!(findings.iter().any(|it| it.fix.contains("cluster_external_secret")), "{findings:?}");

    let rights = format!("{name}-clusterrole");
    for (kind, object) in [
        ("clusterexternalsecret", &name),
        ("clusterrole", &rights),
        ("clusterrolebinding", &rights),
    ] {
        testbed.kubectl(&["delete", kind, object, "--wait=false"], "");
    }
    testbed.tidied();
}

#[tokio::test]
#[ignore = "needs a testbed: `make test`"]
async fn interval_sync_before_forced_refresh_is_accepted() {
    let testbed = Testbed::with_namespace("interval").await;
    testbed.put_parameter(&testbed.parameter(), "one").await;
    testbed.create_external_secret(&json!({"refreshInterval": "1s"}));
    let workload = testbed.copied(None);
    done(testbed.synced(&workload, "one", LONG).await);
    testbed.put_parameter(&testbed.parameter(), "two").await;
    let synced = async {
        while testbed.held("token") != "two" {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(LONG, synced).await.expect("its own interval syncs");
    done(testbed.synced(&workload, "two", LONG).await);
    testbed.tidied();
}

#[tokio::test]
#[ignore = "needs a testbed: `make test`"]
async fn sync_error_of_missing_store_is_reported() {
    let testbed = Testbed::with_namespace("broken").await;
    testbed.put_parameter(&testbed.parameter(), "one").await;
    testbed.create_external_secret(&json!({}));
    let workload = testbed.copied(None);
    done(testbed.synced(&workload, "one", LONG).await);
    let nowhere = r#"{"spec": {"secretStoreRef": {"name": "nowhere"}}}"#;
    testbed.in_namespace(&["patch", "externalsecret", "token", "--type=merge", "--patch", nowhere]);
    // Ready=True belongs to the previous sync until the next sync fails.
    testbed.under_way(&workload, "one", &["fails to sync", "\"nowhere\" not found"]).await;
    testbed.tidied();
}

#[tokio::test]
#[ignore = "needs a testbed: `make test`"]
async fn ready_without_secret_is_not_done() {
    let testbed = Testbed::with_namespace("missing").await;
    testbed.put_parameter(&testbed.parameter(), "one").await;
    let target = json!({"name": "copy", "creationPolicy": "Merge", "deletionPolicy": "Retain"});
    testbed.create_external_secret(&json!({"target": target}));
    let has_said = "--for=jsonpath={.status.conditions[0].reason}=SecretMissing";
    testbed.in_namespace(&["wait", "externalsecret/token", has_said, "--timeout=30s"]);
    let ready = testbed.object("externalsecret", "token");
    assert_eq!(ready["status"]["conditions"][0]["status"], "True");
    let workload = testbed.copied(None);
    let words = under_way(testbed.synced(&workload, "one", Duration::from_secs(2)).await);
    assert!(
        words.contains("Secret copy does not exist") || words.contains("has not synced"),
        "{words}"
    );
    testbed.create_secret(json!({"other": "kept"}));
    done(testbed.synced(&workload, "one", LONG).await);
    assert_eq!(testbed.held("other"), "kept");
    testbed.tidied();
}

#[tokio::test]
#[ignore = "needs a testbed: `make test`"]
async fn ready_on_retained_secret_is_not_done() {
    let testbed = Testbed::with_namespace("retained").await;
    testbed.put_parameter(&testbed.parameter(), "one").await;
    testbed.create_external_secret(&json!({}));
    // A store without matching values, and a deletion policy that retains the existing Secret.
    let nothing = json!({
        "refreshInterval": "1h",
        "secretStoreRef": {"kind": "SecretStore", "name": "empty"},
        "target": {"name": "copy", "creationPolicy": "Merge", "deletionPolicy": "Retain"},
        "dataFrom": [{"find": {"name": {"regexp": "nothing"}}}],
        "data": null,
    });
    testbed.create(json!({
        "apiVersion": "external-secrets.io/v1",
        "kind": "SecretStore",
        "metadata": {"name": "empty"},
        "spec": {"provider": {"fake": {"data": [{"key": "other", "value": "other"}]}}},
    }));
    done(testbed.synced(&testbed.copied(None), "one", LONG).await);
    testbed.create(json!({
        "apiVersion": "external-secrets.io/v1",
        "kind": "ExternalSecret",
        "metadata": {"name": "retaining"},
        "spec": nothing,
    }));
    let copy = SecretCopy::ExternalSecret {
        name: "retaining".to_owned(),
        secret_key: Some("token".to_owned()),
    };
    let workload = testbed.copied_by(copy);
    let is_ready = "--for=condition=Ready";
    testbed.in_namespace(&["wait", "externalsecret/retaining", is_ready, "--timeout=60s"]);
    let words = under_way(testbed.synced(&workload, "two", Duration::from_secs(2)).await);
    let ready = &testbed.object("externalsecret", "retaining")["status"]["conditions"][0];
    assert_eq!(ready["status"], "True");
    assert!(text(&ready["message"]).contains("retained"), "{ready}");
    assert!(
        words.contains("does not hold what was published") || words.contains("has not synced"),
        "{words}"
    );
    assert_eq!(testbed.held("token"), "one");
    testbed.tidied();
}

#[tokio::test]
#[ignore = "needs a testbed: `make test`"]
async fn push_secret_of_copied_secret_stays_unchanged() {
    let testbed = Testbed::with_namespace("pushed").await;
    testbed.put_parameter(&testbed.parameter(), "one").await;
    testbed.create_external_secret(&json!({}));
    let workload = testbed.copied(None);
    done(testbed.synced(&workload, "one", LONG).await);
    testbed.create(json!({
        "apiVersion": "external-secrets.io/v1",
        "kind": "SecretStore",
        "metadata": {"name": "elsewhere"},
        "spec": {"provider": {"fake": {"data": []}}},
    }));
    let matched = json!({"secretKey": "token", "remoteRef": {"remoteKey": "token"}});
    testbed.create(json!({
        "apiVersion": "external-secrets.io/v1alpha1",
        "kind": "PushSecret",
        "metadata": {"name": "pushes"},
        "spec": {
            "refreshInterval": "1h",
            "secretStoreRefs": [{"name": "elsewhere", "kind": "SecretStore"}],
            "selector": {"secret": {"name": "copy"}},
            "data": [{"match": matched}],
        },
    }));
    testbed.in_namespace(&["wait", "pushsecret/pushes", "--for=condition=Ready", "--timeout=30s"]);
    let before = testbed.object("pushsecret", "pushes");
    for value in ["two", "three"] {
        testbed.put_parameter(&testbed.parameter(), value).await;
        done(testbed.synced(&workload, value, LONG).await);
    }
    // The comparison includes the status: nothing was pushed in between.
    assert_eq!(testbed.object("pushsecret", "pushes"), before);
    testbed.tidied();
}

#[tokio::test]
#[ignore = "needs a testbed: `make test`"]
async fn secret_write_changes_only_its_own_key() {
    let testbed = Testbed::with_namespace("written").await;
    // The right is limited to the Secret's name, also for its creation.
    testbed.grant_secret();
    let first = done(testbed.write("a", "a", 3).await);
    assert_eq!(testbed.object("secret", "copy")["type"], "Opaque");
    let at_once = ["b", "c", "d", "e"].map(|token| testbed.write(token, token, 7));
    futures::future::join_all(at_once).await.into_iter().for_each(|it| drop(done(it)));
    assert_eq!(done(testbed.write("a", "a", 3).await), first, "others' keys are no change");
    testbed.in_namespace(&[
        "patch",
        "secret",
        "copy",
        "--patch",
        r#"{"stringData": {"x": "theirs"}}"#,
    ]);

    // An edit by hand is detected and reverted.
    let by_hand = r#"{"stringData": {"a": "by hand"}}"#;
    testbed.in_namespace(&[
        "patch",
        "secret",
        "copy",
        "--field-manager=somebody",
        "--patch",
        by_hand,
    ]);
    let copy = SecretCopy::Secret { name: "copy".to_owned(), key: "a".to_owned() };
    let workload = testbed.copied_by(copy);
    assert_ne!(testbed.clusters.secret_revision(&workload, &[]).await, Ok(Some(first.clone())));
    let editors = testbed.clusters.editors(&workload).await.expect("an answer");
    assert!(editors.iter().any(|it| it == "somebody"), "{editors:?}");
    assert_eq!(done(testbed.write("a", "a", 3).await), first);
    assert_ne!(done(testbed.write("a", "a", 4).await), first);
    assert_eq!(testbed.write("a", "a", 3).await, Progress::Ahead(Fence::bare(4)));

    let held = ["a", "b", "c", "d", "e", "x"].map(|key| testbed.held(key));
    assert_eq!(held, ["a 4", "b 7", "c 7", "d 7", "e 7", "theirs"]);
    // A key of another name replaces the former key.
    done(testbed.write("a", "renamed", 5).await);
    let secret = testbed.object("secret", "copy");
    assert_eq!((testbed.held("renamed").as_str(), &secret["data"]["a"]), ("a 5", &Value::Null));
    assert!(stuck(testbed.write("f", "b", 1).await).contains("changeover-presenter-b"));

    // A deleted Secret is created again by the next write.
    testbed.in_namespace(&["delete", "secret", "copy"]);
    done(testbed.write("a", "renamed", 5).await);
    assert_eq!(testbed.held("renamed"), "a 5");
    testbed.tidied();
}

#[tokio::test]
#[ignore = "needs a testbed: `make test`"]
async fn key_of_secret_keeps_newest_view() {
    let testbed = Testbed::with_namespace("newest").await;
    testbed.grant_secret();
    let written = |key: &str| {
        testbed.copied_by(SecretCopy::Secret { name: "copy".to_owned(), key: key.to_owned() })
    };
    changeover_testkit::contract::secrets::key_of_secret_keeps_newest_view(
        &testbed.clusters,
        written,
    )
    .await;
    testbed.tidied();
}

#[tokio::test]
#[ignore = "needs a testbed: `make test`"]
async fn unwritable_secret_is_held_with_its_reason() {
    let testbed = Testbed::with_namespace("theirs").await;
    testbed.grant_secret();
    testbed.put_parameter(&testbed.parameter(), "one").await;
    testbed.create_external_secret(&json!({}));
    done(testbed.synced(&testbed.copied(None), "one", LONG).await);
    assert!(stuck(testbed.write("a", "token", 1).await).contains("External Secrets"));
    assert!(stuck(testbed.write("a", "own", 1).await).contains("External Secrets"));
    testbed.in_namespace(&["delete", "externalsecret", "token"]);

    for (fields, words) in [
        (json!({"immutable": true}), "immutable"),
        (json!({"type": "kubernetes.io/basic-auth", "stringData": {"username": "u"}}), "type"),
    ] {
        testbed.in_namespace(&["delete", "secret", "copy", "--ignore-not-found"]);
        let mut secret =
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "copy"}});
        for (field, value) in fields.as_object().expect("an object") {
            secret[field] = value.clone();
        }
        testbed.create(secret);
        assert!(stuck(testbed.write("a", "token", 1).await).contains(words));
    }
    testbed.tidied();
}
