//! Checks that the function has the rights that a rotation needs, before it needs them.

use std::collections::{BTreeMap, BTreeSet};

use changeover_core::{
    error::Error,
    finding::{Examination, Finding},
    spec::{PicksUp, SecretCopy, Workload, WorkloadKind},
};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use kube::{Api, api::PostParams};

use super::a_few;
use crate::{
    KubernetesClusters,
    call::{Target, call},
    cluster_external_secret, external_secret, rollout,
};

/// One verb on one resource, in the terms of a Role.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Right {
    cluster: String,
    namespace: String,
    /// The resource with its API group: `deployments.apps`.
    resource: &'static str,
    verb: &'static str,
    /// The object. Empty if the verb is used on all objects of the resource.
    name: String,
}

/// The two waits, each true if no other workload of the namespace is waited for at the same time. One
/// object is listed and watched by its name, which a Role can grant. If there are several, all objects are
/// listed.
#[derive(Clone, Copy, Debug)]
pub(super) struct SoleWatcher {
    /// True if no other workload of its kind is restarted.
    pub(super) in_rolling: bool,
    /// True if no other workload has an ExternalSecret.
    pub(super) in_syncing: bool,
}

/// The rights that this workload's rotation uses. `kept` is the ExternalSecret that a ClusterExternalSecret
/// keeps for it, if it gets its view that way.
///
/// The right to list events is not included. Without it, the reason of a failed sync is reported in fewer
/// words.
pub(super) fn needed(
    workload: &Workload,
    alone: SoleWatcher,
    kept: Option<&str>,
    secret: Option<&str>,
) -> Vec<Right> {
    let Workload { cluster, namespace, .. } = workload;
    let right = |resource: &'static str, name: &str, verbs: &[&'static str]| {
        let right = |verb: &&'static str| Right {
            cluster: cluster.clone(),
            namespace: namespace.clone(),
            resource,
            verb,
            name: name.to_owned(),
        };
        verbs.iter().map(right).collect::<Vec<_>>()
    };
    let mut rights: Vec<Right> = Vec::new();
    let name = workload.name.as_str();
    let resource = match workload.kind {
        WorkloadKind::Deployment => rollout::DEPLOYMENTS,
        WorkloadKind::StatefulSet => rollout::STATEFUL_SETS,
        WorkloadKind::DaemonSet => rollout::DAEMON_SETS,
    };
    rights.extend(right(resource, name, &["get"]));
    if workload.picks_up == PicksUp::Restart {
        rights.extend(right(resource, name, &["patch"]));
        rights.extend(right(
            resource,
            if alone.in_rolling { name } else { "" },
            &["list", "watch"],
        ));
        rights.extend(right("pods", "", &["list", "watch"]));
        if workload.kind == WorkloadKind::Deployment {
            rights.extend(right("replicasets.apps", "", &["list"]));
        }
    }
    let of_secret: &[&str] = match &workload.copy {
        Some(SecretCopy::Secret { .. }) => &["get", "create", "patch"],
        _ => &["get"],
    };
    rights.extend(secret.into_iter().flat_map(|it| right("secrets", it, of_secret)));
    // An ExternalSecret that a ClusterExternalSecret keeps is never patched: the ClusterExternalSecret is.
    match &workload.copy {
        Some(SecretCopy::ExternalSecret { name, .. }) => {
            rights.extend(right(external_secret::RESOURCE, name, &["get", "patch"]));
            let watched = if alone.in_syncing { name } else { "" };
            rights.extend(right(external_secret::RESOURCE, watched, &["list", "watch"]));
        }
        Some(SecretCopy::ClusterExternalSecret { name, .. }) => {
            let of_cluster = right(cluster_external_secret::RESOURCE, name, &["get", "patch"]);
            let anywhere = |right: Right| Right { namespace: String::new(), ..right };
            rights.extend(of_cluster.into_iter().map(anywhere));
            let child = kept.unwrap_or_default();
            rights.extend(right(external_secret::RESOURCE, child, &["get"]));
            let watched = if alone.in_syncing { child } else { "" };
            rights.extend(right(external_secret::RESOURCE, watched, &["list", "watch"]));
        }
        Some(SecretCopy::Secret { .. }) | None => {}
    }
    rights
}

/// Asks the API servers about each of these rights, once each and a few at a time.
pub(super) async fn examine(
    kubernetes: &KubernetesClusters,
    rights: &BTreeSet<Right>,
) -> Examination {
    let asks = rights.iter().map(|right| right.is_granted(kubernetes)).collect();
    let answers = rights.iter().zip(a_few(asks).await);
    let mut examination = Examination::default();
    let mut granted: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for (right, answer) in answers {
        let Right { cluster, namespace, resource, verb, name } = right;
        let (object, place) = if namespace.is_empty() {
            (format!("cluster {cluster}"), String::new())
        } else {
            (format!("{cluster}/{namespace}"), format!(" in namespace {namespace}"))
        };
        let manifest = if namespace.is_empty() { "eks-policy" } else { "eks-rbac" };
        let finding = match answer {
            Ok(Granted::Yes) => {
                granted.entry((object, *resource)).or_default().insert(*verb);
                continue;
            }
            Ok(Granted::No) => {
                let of = if name.is_empty() { String::new() } else { format!(" {name}") };
                Finding::refusal(
                    object,
                    format!("changeover may not {verb} {resource}{of}{place}"),
                    format!(
                        "grant the verb {verb} on {resource}{place} to the function's Kubernetes \
                         group (infra/{manifest}.yaml)"
                    ),
                )
            }
            Ok(Granted::NotAsked) => Finding::warning(
                format!("cluster {cluster}"),
                "whether changeover has its rights there was not looked at: it may not ask",
                "let system:authenticated create selfsubjectaccessreviews (the ClusterRole \
                 system:basic-user does)",
            ),
            Err(error) => Finding::failed(format!("cluster {cluster}"), error),
        };
        // A cluster that answers none of the requests is reported once.
        if !examination.findings.contains(&finding) {
            examination.findings.push(finding);
        }
    }
    for ((object, resource), verbs) in granted {
        let verbs: Vec<_> = verbs.into_iter().collect();
        examination.right(object, format!("changeover may {} {resource}", verbs.join(", ")));
    }
    examination
}

enum Granted {
    Yes,
    No,
    NotAsked,
}

impl Right {
    async fn is_granted(&self, kubernetes: &KubernetesClusters) -> Result<Granted, Error> {
        let (resource, group) = self.resource.split_once('.').unwrap_or((self.resource, ""));
        let attributes = ResourceAttributes {
            namespace: Some(self.namespace.clone()).filter(|it| !it.is_empty()),
            group: Some(group.to_owned()),
            resource: Some(resource.to_owned()),
            verb: Some(self.verb.to_owned()),
            name: Some(self.name.clone()).filter(|name| !name.is_empty()),
            ..ResourceAttributes::default()
        };
        let review = SelfSubjectAccessReview {
            spec: SelfSubjectAccessReviewSpec {
                resource_attributes: Some(attributes),
                ..SelfSubjectAccessReviewSpec::default()
            },
            ..SelfSubjectAccessReview::default()
        };
        let target = Target {
            cluster: &self.cluster,
            namespace: &self.namespace,
            verb: "create",
            resource: "selfsubjectaccessreviews.authorization.k8s.io",
            name: "",
        };
        let review = &review;
        let answer = call(&*kubernetes.access, target, |connection| async move {
            let reviews: Api<SelfSubjectAccessReview> = Api::all(connection.client);
            reviews.create(&PostParams::default(), review).await
        });
        match answer.await {
            Ok(answer) if answer.status.as_ref().is_some_and(|it| it.allowed) => Ok(Granted::Yes),
            Ok(_) => Ok(Granted::No),
            Err(failed) if failed.code == 403 => Ok(Granted::NotAsked),
            Err(failed) => Err(failed.error),
        }
    }
}
