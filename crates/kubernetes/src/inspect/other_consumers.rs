//! The other users of a Secret that a token's view is copied into, in its namespace.

use std::collections::{BTreeMap, BTreeSet};

use changeover_core::{
    error::Error,
    finding::{Examination, Finding},
};
use k8s_openapi::{
    NamespaceResourceScope, Resource,
    api::{
        apps::v1::{DaemonSet, Deployment, StatefulSet},
        batch::v1::{CronJob, Job},
        core::v1::{PodSpec, PodTemplateSpec},
    },
};
use kube::{Api, api::ListParams, core::ObjectMeta};
use serde::de::DeserializeOwned;

use super::{a_few, secret_usage};
use crate::{
    KubernetesClusters,
    call::{Failed, Target, call},
};

/// A namespace: the Secrets that views are copied into, and the workloads that are known to read them.
#[derive(Clone, Debug, Default)]
pub(super) struct NamespaceScan {
    /// Names of Secrets.
    pub(super) secrets: BTreeSet<String>,
    /// `deployment/backend`: the workloads of the spec.
    pub(super) known: BTreeSet<String>,
}

/// Looks for workloads that use one of these Secrets and are not known, by cluster and namespace.
pub(super) async fn examine(
    kubernetes: &KubernetesClusters,
    neighbourhoods: &BTreeMap<(&str, &str), NamespaceScan>,
) -> Examination {
    let looks = neighbourhoods.iter().map(|((cluster, namespace), scan)| {
        ScannedNamespace { kubernetes, cluster, namespace }.look(scan)
    });
    let mut examination = Examination::default();
    for namespace in a_few(looks.collect()).await {
        examination.add(namespace);
    }
    examination
}

#[derive(Clone, Copy)]
struct ScannedNamespace<'a> {
    kubernetes: &'a KubernetesClusters,
    cluster: &'a str,
    namespace: &'a str,
}

impl ScannedNamespace<'_> {
    async fn look(self, scan: &NamespaceScan) -> Examination {
        let secrets = &scan.secrets;
        let listed = self.users(secrets).await;
        let object = format!("{}/{}", self.cluster, self.namespace);
        let mut examination = Examination::default();
        let mut unlisted = Vec::new();
        for users in listed {
            match users {
                Ok(users) => {
                    for user in users.into_iter().filter(|it| !scan.known.contains(&it.name)) {
                        examination.findings.push(user.finding(&object));
                    }
                }
                Err(Unlisted::Forbidden(resource)) => unlisted.push(resource),
                Err(Unlisted::TooMany(resource)) => examination.findings.push(Finding::warning(
                    &object,
                    format!("of its {resource} only the first {LONGEST_LIST} were looked at"),
                    "look through the others yourself for those that use the Secret",
                )),
                Err(Unlisted::Failed(error)) => {
                    examination.findings.push(Finding::failed(&object, error));
                }
            }
        }
        // A kind that may not be listed may have users that were not found.
        if !unlisted.is_empty() {
            let resources = unlisted.join(", ");
            examination.findings.push(Finding::warning(
                &object,
                format!(
                    "who else uses {} was not looked for: changeover may not list {resources}",
                    names(secrets)
                ),
                format!(
                    "grant the verb list on {resources} in namespace {} to the function's \
                     Kubernetes group (infra/eks-rbac.yaml, feature discovery)",
                    self.namespace
                ),
            ));
        // A list that failed or was cut short may have had users too.
        } else if examination.findings.is_empty() {
            examination
                .right(object, format!("no workload beside the spec's uses {}", names(secrets)));
        }
        examination
    }

    /// The objects of each kind whose pods use one of the Secrets. One kind is listed after the other: a list
    /// may be large, but few of its objects are kept.
    async fn users(self, secrets: &BTreeSet<String>) -> [Result<Vec<User>, Unlisted>; 5] {
        [
            self.using("deployment", "deployments.apps", secrets, |it: &Deployment| {
                of_template(it.spec.as_ref().map(|spec| &spec.template))
            })
            .await,
            self.using("statefulset", "statefulsets.apps", secrets, |it: &StatefulSet| {
                of_template(it.spec.as_ref().map(|spec| &spec.template))
            })
            .await,
            self.using("daemonset", "daemonsets.apps", secrets, |it: &DaemonSet| {
                of_template(it.spec.as_ref().map(|spec| &spec.template))
            })
            .await,
            self.using("cronjob", "cronjobs.batch", secrets, |it: &CronJob| {
                let job = it.spec.job_template.spec.as_ref();
                of_template(job.map(|job| &job.template))
            })
            .await,
            self.using("job", "jobs.batch", secrets, running_job).await,
        ]
    }

    /// The objects of one kind whose pods use one of the Secrets.
    async fn using<K>(
        &self,
        kind: &str,
        resource: &'static str,
        secrets: &BTreeSet<String>,
        pod: impl Fn(&K) -> Option<&PodSpec>,
    ) -> Result<Vec<User>, Unlisted>
    where
        K: Resource<Scope = NamespaceResourceScope>
            + k8s_openapi::Metadata<Ty = ObjectMeta>
            + kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + DeserializeOwned,
    {
        let Self { cluster, namespace, .. } = *self;
        let target = Target { cluster, namespace, verb: "list", resource, name: "" };
        let mut users = Vec::new();
        let mut page = ListParams::default().limit(PAGE);
        // Page by page, and no more than `LONGEST_LIST` objects: a namespace may have very many.
        for _ in 0..LONGEST_LIST / PAGE {
            let parameters = &page;
            let listed = call(&*self.kubernetes.access, target, |connection| async move {
                Api::<K>::namespaced(connection.client, namespace).list(parameters).await
            });
            let listed = listed.await.map_err(|failed| match failed {
                Failed { code: 403, .. } => Unlisted::Forbidden(resource),
                Failed { error, .. } => Unlisted::Failed(error),
            })?;
            for object in &listed.items {
                let Some(pod) = pod(object) else { continue };
                let used = secrets.iter().filter(|secret| secret_usage::is_used(pod, secret));
                let used: Vec<_> = used.cloned().collect();
                if !used.is_empty() {
                    let name = k8s_openapi::Metadata::metadata(object).name.as_deref();
                    let name = format!("{kind}/{}", name.unwrap_or_default());
                    users.push(User { name, secrets: used });
                }
            }
            match listed.metadata.continue_.filter(|next| !next.is_empty()) {
                Some(next) => page = page.continue_token(&next),
                None => return Ok(users),
            }
        }
        Err(Unlisted::TooMany(resource))
    }
}

/// The pod spec of a job that runs, or may run. A job of a CronJob is skipped, since its CronJob is
/// reported.
fn running_job(job: &Job) -> Option<&PodSpec> {
    let is_over =
        job.status.as_ref().is_some_and(|status| status.completion_time.is_some())
            || job.status.iter().flat_map(|status| status.conditions.iter().flatten()).any(|it| {
                matches!(it.type_.as_str(), "Complete" | "Failed") && it.status == "True"
            });
    let mut owners = job.metadata.owner_references.iter().flatten();
    if is_over || owners.any(|owner| owner.kind == "CronJob") {
        return None;
    }
    of_template(job.spec.as_ref().map(|spec| &spec.template))
}

fn of_template(template: Option<&PodTemplateSpec>) -> Option<&PodSpec> {
    template.and_then(|template| template.spec.as_ref())
}

enum Unlisted {
    Forbidden(&'static str),
    TooMany(&'static str),
    Failed(Error),
}

/// An object whose pods use Secrets.
struct User {
    /// `deployment/backend`.
    name: String,
    secrets: Vec<String>,
}

impl User {
    fn finding(&self, namespace: &str) -> Finding {
        let used = names(&self.secrets.iter().cloned().collect());
        let fix = match self.name.split_once('/') {
            Some(("cronjob", _)) => {
                "nothing, if each run ends within the overlap: a run reads the Secret of its start"
            }
            Some(("job", _)) => {
                "nothing, if it ends within the overlap; else start it again after it"
            }
            _ => "add it to the spec's workloads, or make sure that it reads the Secret anew",
        };
        Finding::warning(
            format!("{namespace}/{}", self.name),
            format!("it uses {used}, and is not in the spec: no rotation waits for it"),
            fix,
        )
    }
}

fn names(secrets: &BTreeSet<String>) -> String {
    let secrets: Vec<_> = secrets.iter().map(|secret| format!("Secret {secret}")).collect();
    secrets.join(" and ")
}

const PAGE: u32 = 100;

/// The number of objects of one kind that are looked at in a namespace.
const LONGEST_LIST: u32 = 2_000;

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn finished_or_cron_job_owned_job_is_excluded() {
        let job = |metadata: Value, status: Value| -> Job {
            let template = json!({"spec": {"containers": []}});
            let job =
                json!({"metadata": metadata, "spec": {"template": template}, "status": status});
            serde_json::from_value(job).unwrap()
        };
        assert!(running_job(&job(json!({}), json!({}))).is_some());
        assert!(running_job(&job(json!({}), json!({"active": 1}))).is_some());
        for kind in ["Complete", "Failed"] {
            let over = json!({"conditions": [{"type": kind, "status": "True"}]});
            assert!(running_job(&job(json!({}), over)).is_none(), "{kind}");
        }
        let owner = json!({"apiVersion": "batch/v1", "kind": "CronJob", "name": "a", "uid": "1"});
        assert!(running_job(&job(json!({"ownerReferences": [owner]}), json!({}))).is_none());
    }
}
