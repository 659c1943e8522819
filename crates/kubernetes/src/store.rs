//! The stores that ExternalSecrets read from: their source, and the prefix that they put before each key.
//!
//! Fields as in external-secrets `apis/externalsecrets/v1/secretstore_types.go` and
//! `secretstore_aws_types.go`. Those named here are the same in `v1beta1`.

use std::collections::{BTreeMap, BTreeSet};

use changeover_core::{error::Error, spec::Workload};
use kube::{
    Api,
    core::{ApiResource, GroupVersionKind, Object},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    KubernetesClusters,
    call::{Failed, Target, call},
    external_secret::{
        ExternalSecretCondition, ExternalSecretSpec, GROUP, Prefixes, StoreReference,
    },
    external_secrets_api,
};

/// A SecretStore or a ClusterSecretStore, reduced to the fields that matter here.
pub(super) type Store = Object<StoreSpec, StoreStatus>;

/// Reads a store of an ExternalSecret in the namespace of this workload.
pub(super) async fn read(
    kubernetes: &KubernetesClusters,
    workload: &Workload,
    reference: &StoreReference,
) -> Result<Store, Failed> {
    let version = external_secrets_api::version(kubernetes, workload).await?;
    let (kind, plural, resource, namespace) = if is_of_cluster(reference) {
        ("ClusterSecretStore", "clustersecretstores", CLUSTER_SECRET_STORES, "")
    } else {
        ("SecretStore", "secretstores", SECRET_STORES, workload.namespace.as_str())
    };
    let kind = GroupVersionKind::gvk(GROUP, version, kind);
    let api = &ApiResource::from_gvk_with_plural(&kind, plural);
    let (cluster, name) = (workload.cluster.as_str(), reference.name.as_str());
    let target = Target { cluster, namespace, verb: "get", resource, name };
    call(&*kubernetes.access, target, |connection| async move {
        let stores: Api<Store> = match namespace {
            "" => Api::all_with(connection.client, api),
            namespace => Api::namespaced_with(connection.client, namespace, api),
        };
        stores.get(name).await
    })
    .await
}

/// A store, as reports name it.
pub(super) fn object(workload: &Workload, reference: &StoreReference) -> String {
    let Workload { cluster, namespace, .. } = workload;
    let name = &reference.name;
    if is_of_cluster(reference) {
        format!("{cluster}/clustersecretstore/{name}")
    } else {
        format!("{cluster}/{namespace}/secretstore/{name}")
    }
}

/// Reads the prefixes that the stores of an ExternalSecret put before each key. The prefix of a store that
/// does not exist or may not be read is unknown: preflight reports either.
pub(super) async fn prefixes(
    kubernetes: &KubernetesClusters,
    workload: &Workload,
    spec: &ExternalSecretSpec,
) -> Result<Prefixes, Error> {
    let mut prefixes = Prefixes::new();
    for reference in spec.stores().collect::<BTreeSet<_>>() {
        match read(kubernetes, workload, reference).await {
            Ok(store) => {
                prefixes.extend(store.spec.prefix().map(|it| (reference.clone(), it.to_owned())))
            }
            Err(Failed { code: 403 | 404, .. }) => {}
            Err(failed) => return Err(failed.error),
        }
    }
    Ok(prefixes)
}

fn is_of_cluster(reference: &StoreReference) -> bool {
    reference.kind == "ClusterSecretStore"
}

/// `spec` of a store.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct StoreSpec {
    /// The class of the controller that handles it; empty for every class.
    pub(super) controller: String,
    /// One field, by the provider's name.
    provider: BTreeMap<String, Value>,
}

impl StoreSpec {
    /// The source that it reads, if that is known not to be Parameter Store. The source of a plugin, a
    /// webhook or a fake is not known.
    pub(super) fn reads_elsewhere(&self) -> Option<String> {
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

    /// The region that it reads.
    pub(super) fn region(&self) -> Option<&str> {
        self.of_aws("region")
    }

    /// The role that it reads with, if it names one.
    pub(super) fn role(&self) -> Option<&str> {
        self.of_aws("role")
    }

    /// The prefix that its provider puts before each name that is requested (External Secrets,
    /// `providers/v1/aws/parameterstore/parameterstore.go`).
    pub(super) fn prefix(&self) -> Option<&str> {
        self.of_aws("prefix")
    }

    fn of_aws(&self, field: &str) -> Option<&str> {
        self.provider.get("aws")?[field].as_str().filter(|it| !it.is_empty())
    }
}

/// `status` of a store.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct StoreStatus {
    pub(super) conditions: Option<Vec<ExternalSecretCondition>>,
}

const SECRET_STORES: &str = "secretstores.external-secrets.io";
const CLUSTER_SECRET_STORES: &str = "clustersecretstores.external-secrets.io";
