//! The owners of ReplicaSets: pods belong to a Deployment through them.

use std::collections::{BTreeMap, BTreeSet};

use changeover_core::{error::Error, spec::Workload};
use k8s_openapi::api::apps::v1::ReplicaSet;
use kube::{Api, api::ListParams};

use crate::{
    KubernetesClusters,
    call::{Target, call},
    workload::deployment::revision,
};

/// The ReplicaSets, as of their last list.
#[derive(Default)]
pub(super) struct ReplicaSetOwners {
    listed: BTreeMap<String, Owned>,
    /// The ReplicaSets of all pods that existed then. One that is not listed was gone already.
    known: BTreeSet<String>,
}

struct Owned {
    /// The name of the Deployment; `None` if another object owns it, or none does.
    deployment: Option<String>,
    /// The Deployment's uid.
    uid: String,
    /// The Deployment's revision when this ReplicaSet was the current one.
    revision: Option<String>,
}

impl ReplicaSetOwners {
    /// Lists them all. `seen` are those that pods name.
    pub(super) async fn list(
        kubernetes: &KubernetesClusters,
        beside: &Workload,
        selector: Option<&str>,
        seen: BTreeSet<String>,
    ) -> Result<Self, Error> {
        let target = Target::beside(beside, "list", "replicasets.apps", "");
        let selected =
            &ListParams { label_selector: selector.map(str::to_owned), ..ListParams::default() };
        let listed = call(&*kubernetes.access, target, |connection| async move {
            let replica_sets: Api<ReplicaSet> =
                Api::namespaced(connection.client, &beside.namespace);
            replica_sets.list_metadata(selected).await
        });
        let listed = listed.await?.items.into_iter().map(|replica_set| {
            let metadata = replica_set.metadata;
            let revision = revision(&metadata).map(str::to_owned);
            let mut owners = metadata.owner_references.into_iter().flatten();
            let owner = owners.find(|owner| owner.controller == Some(true));
            let owned = match owner {
                Some(owner) => Owned {
                    deployment: (owner.kind == "Deployment").then_some(owner.name),
                    uid: owner.uid,
                    revision,
                },
                None => Owned { deployment: None, uid: String::new(), revision },
            };
            (metadata.uid.unwrap_or_default(), owned)
        });
        Ok(Self { listed: listed.collect(), known: seen })
    }

    pub(super) fn knows(&self, replica_set: &str) -> bool {
        self.known.contains(replica_set) || self.listed.contains_key(replica_set)
    }

    /// True if it does not belong to this Deployment, by name: the pods of a Deployment that was deleted
    /// and created anew are its too. One that is gone already (`revisionHistoryLimit` removes it while its
    /// pods are Terminating) counts as its own, because the pods bear its labels.
    pub(super) fn is_foreign(&self, replica_set: &str, deployment: &str) -> bool {
        let owned = self.listed.get(replica_set);
        owned.is_some_and(|owned| owned.deployment.as_deref() != Some(deployment))
    }

    /// The uid of the ReplicaSet of this revision of a Deployment.
    pub(super) fn current(&self, deployment: Option<&str>, revision: Option<&str>) -> Option<&str> {
        let mut listed = self.listed.iter();
        let current = listed.find(|(_, owned)| {
            owned.deployment.is_some()
                && Some(&*owned.uid) == deployment
                && owned.revision.as_deref() == revision
        });
        current.map(|(uid, _)| uid.as_str())
    }
}
