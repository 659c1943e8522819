//! A ClusterExternalSecret, and the ExternalSecret that it keeps in a namespace. Pure.
//!
//! Fields as in external-secrets `apis/externalsecrets/v1/clusterexternalsecret_types.go`. Those named here
//! are the same in `v1beta1`.

use kube::core::{ApiResource, GroupVersionKind, Object};
use serde::{Deserialize, Serialize};

use crate::external_secret::GROUP;

/// A ClusterExternalSecret, reduced to the fields that matter here.
pub(super) type ClusterExternalSecret =
    Object<ClusterExternalSecretSpec, ClusterExternalSecretStatus>;

/// The entry of a ClusterRole's `resources`.
pub(super) const RESOURCE: &str = "clusterexternalsecrets.external-secrets.io";

/// The resource in this version of the API.
pub(super) fn resource(version: &str) -> ApiResource {
    let kind = GroupVersionKind::gvk(GROUP, version, "ClusterExternalSecret");
    ApiResource::from_gvk_with_plural(&kind, "clusterexternalsecrets")
}

/// The name of the ExternalSecrets that it keeps, one in each namespace that it selects.
pub(super) fn child(keeper: &ClusterExternalSecret) -> &str {
    match keeper.spec.external_secret_name.as_deref() {
        None | Some("") => keeper.metadata.name.as_deref().unwrap_or_default(),
        Some(named) => named,
    }
}

/// The reason that it has no ExternalSecret in this namespace, and the fix.
pub(super) fn why_absent(keeper: &ClusterExternalSecret, namespace: &str) -> (String, String) {
    let status = keeper.status.as_ref();
    let failed = status.and_then(|it| it.failed_namespaces.as_ref()).into_iter().flatten();
    if let Some(failure) = failed.into_iter().find(|it| it.namespace == namespace) {
        return (
            format!("it could not make its ExternalSecret in {namespace}: {}", failure.reason),
            "repair what it says; once the ExternalSecret is there, the next run carries on".into(),
        );
    }
    let provisioned = status.and_then(|it| it.provisioned_namespaces.as_ref());
    if provisioned.is_some_and(|it| it.iter().any(|it| it == namespace)) {
        return (
            format!("its ExternalSecret {} in {namespace} is gone", child(keeper)),
            "see whether External Secrets runs: it makes it again".into(),
        );
    }
    (
        format!("it does not select the namespace {namespace}"),
        format!(
            "give {namespace} the labels that its spec.namespaceSelectors ask for, or name another \
             in the spec"
        ),
    )
}

/// `spec` of a ClusterExternalSecret.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ClusterExternalSecretSpec {
    external_secret_name: Option<String>,
}

/// `status` of a ClusterExternalSecret.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ClusterExternalSecretStatus {
    failed_namespaces: Option<Vec<NamespaceFailure>>,
    provisioned_namespaces: Option<Vec<String>>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct NamespaceFailure {
    namespace: String,
    reason: String,
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn keeper(spec: Value, status: Value) -> ClusterExternalSecret {
        serde_json::from_value(json!({
            "apiVersion": "external-secrets.io/v1",
            "kind": "ClusterExternalSecret",
            "metadata": {"name": "everywhere"},
            "spec": spec,
            "status": status,
        }))
        .unwrap()
    }

    #[test]
    fn child_name_defaults_to_its_parents() {
        assert_eq!(child(&keeper(json!({}), json!({}))), "everywhere");
        assert_eq!(child(&keeper(json!({"externalSecretName": "copy"}), json!({}))), "copy");
    }

    #[test]
    fn missing_child_is_explained_by_namespace() {
        let failed = json!({"failedNamespaces": [
            {"namespace": "other", "reason": "something else"},
            {"namespace": "web", "reason": "external secret already exists in namespace"},
        ]});
        let cases = [
            (failed, "already exists in namespace"),
            (json!({"provisionedNamespaces": ["other", "web"]}), "is gone"),
            (json!({"provisionedNamespaces": ["other"]}), "does not select the namespace web"),
            (json!({}), "does not select the namespace web"),
        ];
        for (status, words) in cases {
            let (reason, fix) = why_absent(&keeper(json!({}), status), "web");
            assert!(reason.contains(words), "{reason}");
            assert!(!fix.is_empty());
        }
    }
}
