//! The stores behind an ExternalSecret, and the other views that it copies.

use std::collections::BTreeSet;

use changeover_core::{
    error::Error,
    finding::{Examination, Finding},
    spec::{ParameterName, Workload},
};

use crate::{
    Home, KubernetesClusters,
    call::Failed,
    external_secret::{ExternalSecret, Prefixes},
    store::{self, Store},
};

/// Warns of an ExternalSecret that copies other published parameters beside this token's view. It may copy
/// them torn: External Secrets reads one entry after the other (`externalsecret_controller_secret.go`,
/// `GetProviderSecretData`).
///
/// Entries of `data` come after those of `dataFrom` and win over them, so `dataFrom` cannot replace a key
/// that an entry names.
pub(super) fn torn(
    object: &str,
    external_secret: &ExternalSecret,
    published: &BTreeSet<ParameterName>,
) -> Option<Finding> {
    let spec = &external_secret.spec;
    let read: Vec<_> =
        published.iter().filter(|it| spec.reads(it)).map(ParameterName::as_str).collect();
    (read.len() > 1).then(|| {
        Finding::warning(
            object,
            format!(
                "it copies {}, one after the other: written while one of them changes, its Secret \
                 holds the new view of one beside the old view of another",
                read.join(" and ")
            ),
            "copy each with an ExternalSecret of its own, or make sure that no pod needs two of \
             them to match",
        )
    })
}

/// The results of a look at the stores of an ExternalSecret.
#[derive(Default)]
pub(super) struct Stores {
    /// The findings, and what was found right.
    pub(super) examination: Examination,
    /// A finding for each store that may not be read.
    pub(super) unread: Vec<Finding>,
    /// The prefix that each store puts before a key.
    pub(super) prefixes: Prefixes,
}

/// Looks at the stores that an ExternalSecret in this workload's namespace reads from, each one once.
///
/// # Errors
/// If no answer came.
pub(super) async fn look(
    kubernetes: &KubernetesClusters,
    workload: &Workload,
    external_secret: &ExternalSecret,
) -> Result<Stores, Error> {
    let mut stores = Stores::default();
    let is_used = external_secret.status.as_ref().is_some_and(|it| it.ready().is_some());
    for reference in external_secret.spec.stores().collect::<BTreeSet<_>>() {
        let object = store::object(workload, reference);
        match store::read(kubernetes, workload, reference).await {
            Ok(found) => {
                match judge(&object, &found, is_used, &kubernetes.home) {
                    Some(finding) => stores.examination.findings.push(finding),
                    None => stores.examination.right(object, "it is ready"),
                }
                let prefix = found.spec.prefix();
                stores.prefixes.extend(prefix.map(|it| (reference.clone(), it.to_owned())));
            }
            Err(Failed { code: 404, .. }) => stores.examination.findings.push(Finding::refusal(
                object,
                "it does not exist, and the ExternalSecret reads from it",
                "create it, or correct the ExternalSecret's secretStoreRef",
            )),
            Err(Failed { code: 403, error }) => stores.unread.push(Finding::warning(
                object,
                "whether it is ready was not looked at: changeover may not read it",
                error.fix,
            )),
            Err(failed) => return Err(failed.error),
        }
    }
    Ok(stores)
}

/// Finds what keeps a store from being read, or from reading what is published.
fn judge(object: &str, store: &Store, is_used: bool, home: &Home) -> Option<Finding> {
    let status = store.status.clone().unwrap_or_default();
    let conditions = status.conditions.unwrap_or_default();
    let ready = conditions.iter().find(|condition| condition.kind == "Ready");
    if let Some(ready) = ready.filter(|ready| ready.status == "False") {
        return Some(Finding::refusal(
            object,
            format!("it is not ready ({}): {}", ready.reason, ready.message),
            "repair it: nothing syncs until it is",
        ));
    }
    if let Some(reads) = store.spec.reads_elsewhere() {
        return Some(Finding::refusal(
            object,
            format!("it reads {reads}, and what is published to a parameter is in Parameter Store"),
            "name a store in the ExternalSecret's secretStoreRef whose provider is aws with service \
             ParameterStore; or let changeover write the Secret itself (`secret` in the spec)",
        ));
    }
    let elsewhere =
        |theirs: &str, ours: &Option<String>| ours.as_ref().is_some_and(|it| it != theirs);
    if let Some(region) = store.spec.region().filter(|it| elsewhere(it, &home.region)) {
        return Some(Finding::refusal(
            object,
            format!(
                "it reads region {region}, and what is published is in {}",
                home.region.as_deref().unwrap_or_default()
            ),
            "name a store in the ExternalSecret's secretStoreRef that reads that region",
        ));
    }
    // A controller silently ignores stores of another class (`ShouldProcessStore`). A `Ready` condition on
    // the store, or on the ExternalSecret (`is_used`), shows that one of the right class has looked at it.
    let class = store.spec.controller.as_str();
    if !class.is_empty() && ready.is_none() && !is_used {
        return Some(Finding::refusal(
            object,
            format!("no controller of its class {class} has ever looked at it"),
            "run External Secrets with that --controller-class, or take spec.controller away",
        ));
    }
    // `arn:aws:iam::<account>:role/<name>`
    let account = |role: &str| role.split(':').nth(4).map(str::to_owned);
    let role = store
        .spec
        .role()
        .filter(|role| account(role).is_some_and(|account| elsewhere(&account, &home.account)))?;
    Some(Finding::warning(
        object,
        format!("it reads as {role}, whose account is not the one that is published in"),
        "name a role of that account, or let the role's account read the parameter by its ARN (AWS Resource Access \
         Manager shares advanced parameters)",
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use changeover_core::finding::Severity;

    fn home() -> Home {
        Home { region: Some("eu-west-1".to_owned()), account: Some("123456789012".to_owned()) }
    }

    #[test]
    fn unready_or_unserved_store_is_refused() {
        let condition = |status: &str| {
            let ready = json!({
                "type": "Ready", "status": status, "reason": "InvalidProviderConfig",
                "message": "unable to validate store",
            });
            json!({"conditions": [ready]})
        };
        let cases: [(Value, Value, bool, Option<&str>); 6] = [
            (json!({}), condition("True"), true, None),
            (json!({}), json!({}), true, None),
            (json!({}), condition("False"), true, Some("not ready (InvalidProviderConfig)")),
            (json!({"controller": "dev"}), json!({}), false, Some("class dev")),
            (json!({"controller": "dev"}), json!({}), true, None),
            (json!({"controller": "dev"}), condition("True"), false, None),
        ];
        for (spec, status, is_used, expected) in cases {
            let store = serde_json::from_value(json!({
                "apiVersion": "external-secrets.io/v1", "kind": "SecretStore",
                "metadata": {"name": "it"}, "spec": spec, "status": status,
            }));
            let finding = judge("it", &store.unwrap(), is_used, &home());
            assert_eq!(finding.is_some(), expected.is_some(), "{spec} {status}: {finding:?}");
            if let (Some(finding), Some(words)) = (finding, expected) {
                assert_eq!(finding.severity, Severity::Refusal);
                assert!(finding.reason.contains(words), "{finding:?}");
            }
        }
    }

    #[test]
    fn store_that_reads_elsewhere_is_refused() {
        let aws = |settings: Value| json!({"provider": {"aws": settings}});
        let role = |account: &str| format!("arn:aws:iam::{account}:role/eso");
        // Each case has the `spec` of a store, and the finding if there is one.
        let cases: [(Value, Option<(Severity, &str)>); 9] = [
            (aws(json!({"service": "ParameterStore", "region": "eu-west-1"})), None),
            (
                aws(json!({"service": "SecretsManager", "region": "us-east-1"})),
                Some((Severity::Refusal, "reads Secrets Manager")),
            ),
            (
                json!({"provider": {"vault": {"server": "https://vault"}}}),
                Some((Severity::Refusal, "from provider vault")),
            ),
            (aws(json!({"service": "ParameterStore", "prefix": "/prod/shop/"})), None),
            (
                aws(json!({"service": "ParameterStore", "region": "us-east-1"})),
                Some((
                    Severity::Refusal,
                    "reads region us-east-1, and what is published is in eu-west-1",
                )),
            ),
            (
                aws(json!({"region": "eu-west-1", "role": role("210987654321")})),
                Some((Severity::Warning, "role/eso, whose account is not the one")),
            ),
            (aws(json!({"region": "eu-west-1", "role": role("123456789012")})), None),
            (json!({"provider": {"fake": {"data": []}}}), None),
            (json!({"provider": {"webhook": {"url": "https://it"}}}), None),
        ];
        for (spec, expected) in cases {
            let store = serde_json::from_value(json!({
                "apiVersion": "external-secrets.io/v1", "kind": "SecretStore",
                "metadata": {"name": "it"}, "spec": spec,
                "status": {"conditions": [{"type": "Ready", "status": "True"}]},
            }));
            let finding = judge("it", &store.unwrap(), true, &home());
            assert_eq!(finding.is_some(), expected.is_some(), "{spec}: {finding:?}");
            if let (Some(finding), Some((severity, words))) = (finding, expected) {
                assert_eq!(finding.severity, severity, "{finding:?}");
                assert!(finding.reason.contains(words), "{finding:?}");
            }
        }
    }

    #[test]
    fn secret_of_several_views_is_warned_about() {
        let published: BTreeSet<_> = ["/a/token", "/a/token/accepted", "/b/token"]
            .map(|name| ParameterName::parse(name).unwrap())
            .into();
        let torn_by = |keys: &[&str]| {
            let entry = |key: &&str| json!({"secretKey": "x", "remoteRef": {"key": key}});
            let data: Vec<Value> = keys.iter().map(entry).collect();
            let external_secret = serde_json::from_value(json!({
                "apiVersion": "external-secrets.io/v1", "kind": "ExternalSecret",
                "metadata": {"name": "it"}, "spec": {"data": data},
            }));
            torn("it", &external_secret.unwrap(), &published)
        };
        assert_eq!(torn_by(&["/a/token", "/database/password"]), None);
        assert_eq!(torn_by(&["/a/token", "/a/token"]), None);
        let finding = torn_by(&["/b/token", "/other", "/a/token"]).unwrap();
        assert_eq!(finding.severity, Severity::Warning);
        assert!(finding.reason.contains("/a/token and /b/token"), "{finding:?}");
    }
}
