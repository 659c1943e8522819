//! The other actors that restart a workload or write its pod template. Pure.

use std::collections::BTreeMap;

use changeover_core::finding::Finding;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use kube::core::ObjectMeta;

use super::serving;
use crate::MANAGER;

/// Finds each other actor that acts on this workload when the Secret changes, or removes our stamp.
pub(super) fn judge(
    object: &str,
    workload: &ObjectMeta,
    template: Option<&ObjectMeta>,
    secret: Option<&str>,
) -> Vec<Finding> {
    let nothing = BTreeMap::new();
    let of_workload = workload.annotations.as_ref().unwrap_or(&nothing);
    let of_template = template.and_then(|it| it.annotations.as_ref()).unwrap_or(&nothing);
    let value = |annotation: &str| {
        of_workload.get(annotation).or_else(|| of_template.get(annotation)).map(String::as_str)
    };

    // Actors that restart the pods beside us.
    let restarter = reloader(value, secret)
        .or_else(|| (value(WAVE) == Some("true")).then(|| ("Wave", WAVE.to_owned())));
    let mut findings = Vec::new();
    if let Some((who, annotation)) = restarter {
        findings.push(Finding::warning(
            object,
            format!("{who} restarts it when its Secret changes ({annotation}), beside changeover"),
            format!("take {annotation} away: every change is rolled out twice, and {who} waits for no rollout"),
        ));
    }
    // The Vault Secrets Operator leaves this on the pod template (vault-secrets-operator
    // `helpers/rollout_restart.go`).
    if of_template.contains_key(VAULT) {
        findings.push(Finding::warning(
            object,
            "the Vault Secrets Operator has restarted it, beside changeover",
            "take it out of rolloutRestartTargets: every change is rolled out twice",
        ));
    }
    // Actors that may remove the stamp, or bring an old one back.
    let replaces = value(ARGO_OPTIONS).unwrap_or_default().split(',').map(str::trim);
    if replaces.into_iter().any(|option| option == "Replace=true") {
        findings.push(Finding::warning(
            object,
            "Argo CD replaces it as a whole (Replace=true): each sync takes changeover's stamps \
             away, and rolls the pods again",
            "let Argo CD apply it (ServerSideApply=true), with ignoreDifferences for \
             /spec/template/metadata/annotations and RespectIgnoreDifferences=true",
        ));
    }
    if let Some(controller) = serving::controller(workload) {
        findings.push(Finding::warning(
            object,
            format!("{controller} controls it, and may take the stamp away or put the pod template back"),
            format!(
                "have {controller} keep annotations of the pod template that it does not know, or let its pods \
                 read the token without a restart (`picks_up`)"
            ),
        ));
    }
    for manager in owners_of_stamps(workload) {
        findings.push(Finding::warning(
            object,
            format!("{manager} sets an annotation of changeover on the pod template, too"),
            "take annotations of changeover.dev out of the manifest that it applies: it would \
             bring an old stamp back",
        ));
    }
    findings
}

/// Detects Stakater Reloader by its annotations on the workload, then on the pod template (its
/// documentation, "Annotation Reference"). Annotations about ConfigMaps do not concern us.
fn reloader<'a>(
    value: impl Fn(&str) -> Option<&'a str>,
    secret: Option<&str>,
) -> Option<(&'static str, String)> {
    let is_true = |annotation: &&str| value(annotation) == Some("true");
    let of_any = [
        "reloader.stakater.com/auto",
        "secret.reloader.stakater.com/auto",
        "reloader.stakater.com/search",
    ];
    let named = "secret.reloader.stakater.com/reload";
    let names_ours = value(named).is_some_and(|names| {
        secret.is_none_or(|secret| names.split(',').any(|name| name.trim() == secret))
    });
    let found = of_any.iter().find(|it| is_true(it)).copied().or(names_ours.then_some(named))?;
    Some(("Stakater Reloader", found.to_owned()))
}

/// The other managers that own a stamp of ours.
///
/// `annotations` is a granular map. An actor that applies a pod template, by server-side apply or by
/// kubectl's three-way merge, removes only keys that it set itself (Kubernetes documentation, "Server-Side
/// Apply", merge strategy). So Argo CD, Flux and Helm leave our stamps alone, unless one of them has a
/// stamp in its own manifest, copied from the live object, or replaces the object as a whole.
fn owners_of_stamps(workload: &ObjectMeta) -> Vec<String> {
    let owns_stamp = |entry: &&ManagedFieldsEntry| {
        let fields = entry.fields_v1.as_ref().map(|fields| &fields.0);
        let annotations = fields
            .and_then(|it| it.pointer("/f:spec/f:template/f:metadata/f:annotations")?.as_object());
        annotations.is_some_and(|it| {
            it.keys().any(|key| STAMPS.iter().any(|stamp| key.starts_with(stamp)))
        })
    };
    let entries = workload.managed_fields.iter().flatten();
    let managers = entries.filter(owns_stamp).filter_map(|entry| entry.manager.clone());
    managers.filter(|manager| !manager.starts_with(MANAGER)).collect()
}

const WAVE: &str = "wave.pusher.com/update-on-config-change";
const VAULT: &str = "vso.secrets.hashicorp.com/restartedAt";
const ARGO_OPTIONS: &str = "argocd.argoproj.io/sync-options";
const STAMPS: [&str; 2] = ["f:verifier.changeover.dev/", "f:presenter.changeover.dev/"];

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn found(workload: Value, template: Value) -> Vec<String> {
        let workload = serde_json::from_value(workload).unwrap();
        let template = serde_json::from_value(template).unwrap();
        let findings = judge("it", &workload, Some(&template), Some("copy"));
        findings.into_iter().map(|finding| finding.reason).collect()
    }

    fn annotated(annotation: &str, value: &str) -> Value {
        json!({"annotations": {annotation: value}})
    }

    #[test]
    fn controller_of_a_workload_is_named() {
        let owned = |controller: bool| {
            json!({"ownerReferences": [{
                "apiVersion": "monitoring.coreos.com/v1", "kind": "Alertmanager", "name": "main",
                "uid": "u", "controller": controller,
            }]})
        };
        let reasons = found(owned(true), json!({}));
        assert_eq!(reasons.len(), 1, "{reasons:?}");
        assert!(reasons[0].starts_with("Alertmanager main controls it"), "{reasons:?}");
        assert_eq!(found(owned(false), json!({})), [""; 0]);
    }

    #[test]
    fn restart_annotations_of_other_controllers_are_reported() {
        let cases = [
            ("reloader.stakater.com/auto", "true", true),
            ("secret.reloader.stakater.com/auto", "true", true),
            ("reloader.stakater.com/search", "true", true),
            ("secret.reloader.stakater.com/reload", "other, copy", true),
            ("wave.pusher.com/update-on-config-change", "true", true),
            ("argocd.argoproj.io/sync-options", "Prune=false, Replace=true", true),
            ("reloader.stakater.com/auto", "false", false),
            ("secret.reloader.stakater.com/reload", "other", false),
            ("configmap.reloader.stakater.com/reload", "copy", false),
            ("configmap.reloader.stakater.com/auto", "true", false),
            ("argocd.argoproj.io/sync-options", "ServerSideApply=true", false),
            ("argocd.argoproj.io/tracking-id", "backend:apps/Deployment:a/b", false),
        ];
        for (annotation, value, is_told) in cases {
            let on_workload = found(annotated(annotation, value), json!({}));
            let on_template = found(json!({}), annotated(annotation, value));
            assert_eq!(on_workload.len(), usize::from(is_told), "{annotation}: {on_workload:?}");
            assert_eq!(on_workload, on_template);
        }
        let restarted = annotated("vso.secrets.hashicorp.com/restartedAt", "2026-01-01T00:00:00Z");
        assert!(found(json!({}), restarted)[0].contains("Vault"));
    }

    #[test]
    fn foreign_owner_is_reported_only_for_stamp() {
        let owned_by = |manager: &str, annotation: &str| {
            let annotations = json!({"f:annotations": {".": {}, format!("f:{annotation}"): {}}});
            json!({"managedFields": [{
                "manager": manager,
                "operation": "Apply",
                "fieldsType": "FieldsV1",
                "fieldsV1": {"f:spec": {"f:template": {"f:metadata": annotations}}},
            }]})
        };
        let stamp = "presenter.changeover.dev/datastore-token";
        let reasons = found(owned_by("argocd-controller", stamp), json!({}));
        assert!(reasons[0].starts_with("argocd-controller sets an annotation"), "{reasons:?}");
        let ours = owned_by("changeover-presenter-datastore-token", stamp);
        assert_eq!(found(ours, json!({})), [""; 0]);
        let team = owned_by("kustomize-controller", "team");
        assert_eq!(found(team, json!({})), [""; 0]);
    }
}
