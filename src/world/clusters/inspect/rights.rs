//! Whether the function has the rights that a rotation needs, asked before it needs them.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use kube::{Api, api::PostParams};

use super::{
    super::{
        KubernetesClusters,
        call::{Target, call},
        external_secret, rollout,
    },
    a_few,
};
use crate::{
    error::Error,
    spec::{PicksUp, SecretCopy, Workload, WorkloadKind},
    world::{Examination, Finding},
};

/// One verb on one resource, in the terms of a Role.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Right {
    cluster: String,
    namespace: String,
    /// With its API group: `deployments.apps`.
    resource: &'static str,
    verb: &'static str,
    /// The object; empty where the verb is used on all of them.
    name: String,
}

/// The rights that this workload's rotation makes use of; `is_alone` says whether no other of its
/// kind and namespace is waited for.
///
/// To list events is not among them: without it, why a sync fails is told in fewer words.
pub(super) fn needed(workload: &Workload, is_alone: bool, secret: Option<&str>) -> Vec<Right> {
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
        rights.extend(right(resource, if is_alone { name } else { "" }, &["list", "watch"]));
        rights.extend(right("pods", "", &["list", "watch"]));
        if workload.kind == WorkloadKind::Deployment {
            rights.extend(right("replicasets.apps", "", &["list"]));
        }
    }
    match &workload.copy {
        Some(SecretCopy::ExternalSecret { name, .. }) => {
            let verbs = &["get", "list", "watch", "patch"];
            rights.extend(right(external_secret::RESOURCE, name, verbs));
            rights.extend(secret.into_iter().flat_map(|it| right("secrets", it, &["get"])));
        }
        Some(SecretCopy::Secret { name, .. }) => {
            rights.extend(right("secrets", name, &["get", "create", "patch"]));
        }
        Some(SecretCopy::ClusterExternalSecret { .. }) | None => {}
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
        let object = format!("{cluster}/{namespace}");
        let finding = match answer {
            Ok(Granted::Yes) => {
                granted.entry((object, *resource)).or_default().insert(*verb);
                continue;
            }
            Ok(Granted::No) => {
                let of = if name.is_empty() { String::new() } else { format!(" {name}") };
                Finding::refusal(
                    object,
                    format!("changeover may not {verb} {resource}{of} in namespace {namespace}"),
                    format!(
                        "grant the verb {verb} on {resource} in namespace {namespace} to the \
                         function's Kubernetes group (infra/eks-rbac.yaml)"
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
        // One cluster that answers none of them is told once.
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
            namespace: Some(self.namespace.clone()),
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
