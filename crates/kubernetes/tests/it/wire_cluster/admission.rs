//! Refusals by policies, webhooks and quotas of a change that the caller has the right to make.

use super::{
    syncing::{external_secret, refreshed_within},
    *,
};

const PREFLIGHT: [Severity; 1] = [Severity::Refusal];

/// Findings of the inspection before a mint, with their texts.
async fn found(server: &Arc<ApiServer>, workload: &Workload) -> Vec<(Severity, String)> {
    let found = clusters(server).inspect(&subject(workload, &parameters())).await.unwrap();
    found
        .into_iter()
        .map(|it| (it.severity, format!("{}: {}; {}", it.object, it.reason, it.fix)))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn rotation_changes_are_dry_run_without_patches() {
    let server = ApiServer::new();
    examining::connected(&server);
    server.put(EVERYWHERE, json!({"spec": {}, "status": {}}));
    for workload in [workload(), everywhere(), written()] {
        found(&server, &workload).await;
    }
    assert_eq!(server.patches().len(), 0);
    let tried = server.dry_runs().into_iter();
    let tried: Vec<_> =
        tried.map(|it| (it.path, it.body["metadata"]["annotations"].clone())).collect();
    let stamped = |path: &str| (path.to_owned(), json!(null));
    assert_eq!(
        tried,
        [
            stamped(DEPLOYMENT),
            (EXTERNAL_SECRET.to_owned(), json!({"force-sync": "dry-run.0"})),
            stamped(DEPLOYMENT),
            (EVERYWHERE.to_owned(), json!({"external-secrets.io/force-sync": "dry-run.0"})),
            stamped(DEPLOYMENT),
            (SECRET.to_owned(), json!({STAMP: "0"})),
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn dry_run_stamp_differs_from_current_stamp() {
    for (standing, tried) in [(None, "1"), (Some("7".to_owned()), "8")] {
        let server = ApiServer::new();
        examining::connected(&server);
        let annotations = json!({"annotations": {STAMP: standing}});
        server.put(DEPLOYMENT, json!({"spec": {"template": {"metadata": annotations}}}));
        found(&server, &workload()).await;
        let stamp = &server.dry_runs()[0].body["spec"]["template"]["metadata"]["annotations"];
        assert_eq!(stamp, &json!({STAMP: tried}));
        let left = &server.object(DEPLOYMENT)["spec"]["template"]["metadata"]["annotations"][STAMP];
        assert_eq!(*left, json!(standing));
    }
}

#[tokio::test(start_paused = true)]
#[expect(clippy::too_many_lines, reason = "a table")]
async fn refused_change_is_reported_in_preflight_by_object() {
    let kyverno = "admission webhook \"validate.kyverno.svc-fail\" denied the request: unsigned";
    let quota = "secrets \"datastore-token\" is forbidden: exceeded quota: small";
    let dead =
        "Internal error occurred: failed calling webhook \"validate\": no endpoints available";
    let own = "deployments.apps \"backend\" is forbidden: ValidatingAdmissionPolicy 'changeover-workloads' \
               with binding 'changeover-workloads' denied request: changeover sets annotations of its own";
    let deployment = "prod/web/deployment/backend";
    let external_secret = "prod/web/externalsecret/datastore-token";
    let table = [
        (
            workload(),
            DEPLOYMENT,
            Fault::Says(400, kyverno),
            deployment,
            "unsigned",
            "exempt the function's",
        ),
        (
            workload(),
            DEPLOYMENT,
            Fault::Says(422, own),
            deployment,
            "adds a change of its own",
            "with another identity",
        ),
        (
            workload(),
            DEPLOYMENT,
            Fault::Silence,
            deployment,
            "though it can be read",
            "mend that webhook",
        ),
        (
            workload(),
            EXTERNAL_SECRET,
            Fault::Says(500, dead),
            external_secret,
            "no endpoints",
            "mend that webhook",
        ),
        (
            workload(),
            EXTERNAL_SECRET,
            Fault::Silence,
            external_secret,
            "webhook",
            "mend that webhook",
        ),
        (
            everywhere(),
            EVERYWHERE,
            Fault::Says(500, dead),
            "prod/clusterexternalsecret/everywhere",
            "no endpoints",
            "mend that webhook",
        ),
        (
            written(),
            SECRET,
            Fault::Says(403, quota),
            "prod/web/secret/datastore-token",
            "small",
            "quota",
        ),
        // Refused neither by a policy nor for a missing right: the server's own words are repeated.
        (
            workload(),
            DEPLOYMENT,
            Fault::Says(422, "it is invalid"),
            deployment,
            "it is invalid",
            "message",
        ),
        (
            workload(),
            DEPLOYMENT,
            Fault::Says(403, "cannot patch"),
            deployment,
            "cannot patch",
            "grant the verb patch",
        ),
    ];
    for (workload, path, fault, object, reason, fix) in table {
        let server = ApiServer::new();
        examining::connected(&server);
        server.put(EVERYWHERE, json!({"spec": {}, "status": {}}));
        server.admit(path, fault.clone());
        let refused: Vec<_> = found(&server, &workload).await;
        let refused: Vec<_> =
            refused.into_iter().filter(|(it, _)| *it == Severity::Refusal).collect();
        let severities: Vec<_> = refused.iter().map(|(severity, _)| *severity).collect();
        assert_eq!(severities, PREFLIGHT, "{fault:?}: {refused:?}");
        for words in [object, reason, fix] {
            assert!(refused[0].1.contains(words), "{words}: {refused:?}");
        }
        // The cluster answers, so the fix must not propose to rotate without it.
        assert!(!refused[0].1.contains("without"), "{refused:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn inconclusive_dry_run_is_not_refused() {
    let unsupported = "admission webhook \"old\" does not support dry run";
    for (fault, expected) in [
        (Fault::Says(400, unsupported), &[Severity::Warning][..]),
        // The object was created again after it was read.
        (Fault::Status(409), &[]),
        (Fault::Status(404), &[Severity::Missing]),
    ] {
        let server = ApiServer::new();
        examining::connected(&server);
        server.admit(DEPLOYMENT, fault.clone());
        let found = found(&server, &workload()).await;
        let severities: Vec<_> = found.iter().map(|(severity, _)| *severity).collect();
        assert_eq!(severities, expected, "{fault:?}: {found:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn unavailable_server_is_error_not_refusal() {
    for (fault, kind) in [(503, Kind::Unreachable), (429, Kind::Throttled)] {
        let server = ApiServer::new();
        examining::connected(&server);
        server.admit(DEPLOYMENT, Fault::Status(fault));
        let failed = clusters(&server).inspect(&subject(&workload(), &parameters())).await;
        assert_eq!(failed.unwrap_err().kind, kind);
    }
}

#[tokio::test(start_paused = true)]
async fn denied_patch_is_excluded_from_admission_refusals() {
    for (fault, found) in
        [(Fault::Says(422, "it is invalid"), 1), (Fault::Says(403, "cannot patch"), 0)]
    {
        let server = ApiServer::new();
        examining::connected(&server);
        server.admit(DEPLOYMENT, fault);
        let (workload, published) = (workload(), parameters().into());
        let subjects = [subject(&workload, &parameters())];
        let examination = clusters(&server).examine(&subjects, &published).await;
        // The right itself is reviewed separately, and is granted here.
        assert_eq!(examination.findings.len(), found, "{:?}", examination.findings);
    }
}

#[tokio::test(start_paused = true)]
async fn unanswered_change_fails_object_and_not_cluster() {
    let server = ApiServer::new();
    examining::connected(&server);
    external_secret(&server);
    server.admit(DEPLOYMENT, Fault::Silence);
    server.admit(EXTERNAL_SECRET, Fault::Silence);
    let clusters = clusters(&server);
    let stamped = clusters.stamp(&workload(), &stamp(7)).await.unwrap_err();
    let forced = refreshed_within(MINUTE, &clusters, &workload()).await.unwrap_err();
    for failed in [stamped, forced] {
        assert_eq!(failed.kind, Kind::PreflightFailed, "{failed}");
        assert!(failed.to_string().contains("an admission webhook may not answer"), "{failed}");
    }
}
