//! What stands behind an ExternalSecret: its store, and what else it copies.

use std::collections::{BTreeMap, BTreeSet};

use kube::{
    Api,
    core::{ApiResource, GroupVersionKind, Object},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    super::{
        KubernetesClusters,
        call::{Failed, Target, call},
        external_secret::{Condition, ExternalSecret, GROUP, StoreReference},
        sync,
    },
    a_few,
};
use crate::{
    spec::{ParameterName, Workload},
    world::{Examination, Finding},
};

/// What an ExternalSecret copies beside this token's view, and may copy torn: External Secrets reads
/// one entry after the other (`externalsecret_controller_secret.go`, `GetProviderSecretData`).
///
/// Entries of `data` come after those of `dataFrom` and win over them, so that `dataFrom` cannot
/// replace a key that an entry names.
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

/// A store that an ExternalSecret reads.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Store<'a> {
    pub(super) workload: &'a Workload,
    pub(super) reference: StoreReference,
    /// Whether External Secrets has ever looked at the ExternalSecret.
    pub(super) is_used: bool,
}

/// Looks at these stores, each one once.
pub(super) async fn examine(
    kubernetes: &KubernetesClusters,
    stores: &BTreeSet<Store<'_>>,
) -> Examination {
    let reads = stores.iter().map(|store| read(kubernetes, store)).collect();
    let mut examination = Examination::default();
    for (store, read) in stores.iter().zip(a_few(reads).await) {
        let object = store.object();
        match read {
            Ok(found) => match judge(&object, &found, store.is_used) {
                Some(finding) => examination.findings.push(finding),
                None => examination.right(object, "it is ready"),
            },
            Err(Failed { code: 404, .. }) => examination.findings.push(Finding::refusal(
                object,
                "it does not exist, and the ExternalSecret reads from it",
                "create it, or correct the ExternalSecret's secretStoreRef",
            )),
            Err(Failed { code: 403, error }) => examination.findings.push(Finding::warning(
                object,
                "whether it is ready was not looked at: changeover may not read it",
                error.fix,
            )),
            Err(failed) => examination.findings.push(Finding::failed(object, failed.error)),
        }
    }
    examination
}

/// What keeps a store from being read.
fn judge(object: &str, store: &StoreObject, is_used: bool) -> Option<Finding> {
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
    if let Some(prefix) = store.spec.prefix() {
        return Some(Finding::warning(
            object,
            format!("it puts its prefix {prefix} before each key that it is asked for"),
            "write remoteRef.key without that prefix, and name the Secret's key in the spec (`secret_key`)",
        ));
    }
    // A controller passes over stores of another class without a word (`ShouldProcessStore`); one of
    // ours has looked at the ExternalSecret, or at the store.
    let class = store.spec.controller.as_str();
    if !class.is_empty() && ready.is_none() && !is_used {
        return Some(Finding::refusal(
            object,
            format!("no controller of its class {class} has ever looked at it"),
            "run External Secrets with that --controller-class, or take spec.controller away",
        ));
    }
    None
}

impl Store<'_> {
    fn is_of_cluster(&self) -> bool {
        self.reference.kind == "ClusterSecretStore"
    }

    fn object(&self) -> String {
        let Workload { cluster, namespace, .. } = self.workload;
        let name = &self.reference.name;
        match self.is_of_cluster() {
            true => format!("{cluster}/clustersecretstore/{name}"),
            false => format!("{cluster}/{namespace}/secretstore/{name}"),
        }
    }
}

async fn read(kubernetes: &KubernetesClusters, store: &Store<'_>) -> Result<StoreObject, Failed> {
    let failed = |error| Failed { error, code: 0 };
    let version = sync::api::version(kubernetes, store.workload).await.map_err(failed)?;
    let (kind, plural, resource, namespace) = match store.is_of_cluster() {
        true => ("ClusterSecretStore", "clustersecretstores", CLUSTER_SECRET_STORES, ""),
        false => ("SecretStore", "secretstores", SECRET_STORES, store.workload.namespace.as_str()),
    };
    let kind = GroupVersionKind::gvk(GROUP, version, kind);
    let api = &ApiResource::from_gvk_with_plural(&kind, plural);
    let name = store.reference.name.as_str();
    let target =
        Target { cluster: &store.workload.cluster, namespace, verb: "get", resource, name };
    call(&*kubernetes.access, target, |connection| async move {
        let stores: Api<StoreObject> = match namespace {
            "" => Api::all_with(connection.client, api),
            namespace => Api::namespaced_with(connection.client, namespace, api),
        };
        stores.get(name).await
    })
    .await
}

/// A SecretStore or a ClusterSecretStore, as far as it matters.
type StoreObject = Object<StoreSpec, StoreStatus>;

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct StoreSpec {
    controller: String,
    /// One field, by the provider's name.
    provider: BTreeMap<String, Value>,
}

impl StoreSpec {
    /// What it reads, if that is known not to be Parameter Store. What a plugin, a webhook or a fake reads,
    /// is not known.
    fn reads_elsewhere(&self) -> Option<String> {
        let (provider, settings) = self.provider.first_key_value()?;
        match provider.as_str() {
            "aws" => match settings["service"].as_str() {
                Some("ParameterStore") | None => None,
                Some("SecretsManager") => Some("Secrets Manager".to_owned()),
                Some(other) => Some(other.to_owned()),
            },
            "fake" | "webhook" | "kubernetes" => None,
            other => Some(format!("from provider {other}")),
        }
    }

    /// What its provider puts before each name that it is asked for (External Secrets,
    /// `providers/v1/aws/parameterstore/parameterstore.go`).
    fn prefix(&self) -> Option<&str> {
        let prefix = self.provider.get("aws")?["prefix"].as_str();
        prefix.filter(|prefix| !prefix.is_empty())
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct StoreStatus {
    conditions: Option<Vec<Condition>>,
}

const SECRET_STORES: &str = "secretstores.external-secrets.io";
const CLUSTER_SECRET_STORES: &str = "clustersecretstores.external-secrets.io";

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::world::Severity;

    #[test]
    fn a_store_that_nobody_can_read_from_is_refused() {
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
            let finding = judge("it", &store.unwrap(), is_used);
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
        let cases: [(Value, Option<(Severity, &str)>); 6] = [
            (aws(json!({"service": "ParameterStore", "region": "eu-west-1"})), None),
            (
                aws(json!({"service": "SecretsManager", "region": "us-east-1"})),
                Some((Severity::Refusal, "reads Secrets Manager")),
            ),
            (
                json!({"provider": {"vault": {"server": "https://vault"}}}),
                Some((Severity::Refusal, "from provider vault")),
            ),
            (
                aws(json!({"service": "ParameterStore", "prefix": "/prod/shop/"})),
                Some((Severity::Warning, "its prefix /prod/shop/")),
            ),
            (json!({"provider": {"fake": {"data": []}}}), None),
            (json!({"provider": {"webhook": {"url": "https://it"}}}), None),
        ];
        for (spec, expected) in cases {
            let store = serde_json::from_value(json!({
                "apiVersion": "external-secrets.io/v1", "kind": "SecretStore",
                "metadata": {"name": "it"}, "spec": spec,
                "status": {"conditions": [{"type": "Ready", "status": "True"}]},
            }));
            let finding = judge("it", &store.unwrap(), true);
            assert_eq!(finding.is_some(), expected.is_some(), "{spec}: {finding:?}");
            if let (Some(finding), Some((severity, words))) = (finding, expected) {
                assert_eq!(finding.severity, severity, "{finding:?}");
                assert!(finding.reason.contains(words), "{finding:?}");
            }
        }
    }

    #[test]
    fn a_secret_of_several_views_may_be_torn() {
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
