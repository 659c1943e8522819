//! The pods of the workloads that are waited for.

use std::collections::{BTreeMap, BTreeSet};

use changeover_core::{
    error::Error,
    spec::{Workload, WorkloadKind},
};
use kube::{
    Api, Resource,
    api::ListParams,
    core::{Expression, Selector, SelectorExt},
    runtime::watcher::Event,
};

use crate::{
    KubernetesClusters,
    call::{Target, call},
    workload::{Pod, PodState},
};

/// The criteria by which pods belong to one workload.
pub(super) struct PodOwnership {
    pub(super) kind: WorkloadKind,
    pub(super) name: String,
    pub(super) selector: Selector,
}

impl PodOwnership {
    /// True if a pod may belong to this workload: the Deployment that owns a ReplicaSet is not visible
    /// here.
    fn may_be(&self, replica: &PodState) -> bool {
        match self.kind {
            WorkloadKind::Deployment => {
                replica.controller.kind == "ReplicaSet" && self.selector.matches(&replica.labels)
            }
            WorkloadKind::StatefulSet => {
                replica.controller.kind == "StatefulSet" && replica.controller.name == self.name
            }
            WorkloadKind::DaemonSet => {
                replica.controller.kind == "DaemonSet" && replica.controller.name == self.name
            }
        }
    }
}

/// A selector of the pods of all of these, and of as few others as one selector can. It is the selector of
/// the only one, or the values of a label that all of them require. `None` if they have no label in common.
pub(super) fn selecting(all: &[PodOwnership]) -> Option<String> {
    if let [only] = all {
        return Some(only.selector.to_string());
    }
    let required = |mine: &PodOwnership| -> BTreeMap<String, String> {
        let expressions = mine.selector.clone().into_iter();
        let equals = expressions.filter_map(|expression| match expression {
            Expression::Equal(label, value) => Some((label, value)),
            _ => None,
        });
        equals.collect()
    };
    let required: Vec<_> = all.iter().map(required).collect();
    let common =
        required.first()?.keys().find(|label| required.iter().all(|it| it.contains_key(*label)));
    let label = common?;
    let values: BTreeSet<String> = required.iter().map(|it| it[label].clone()).collect();
    Some(Expression::In(label.clone(), values).to_string())
}

/// The pods of each workload, as far as the watch has reported. Pods of other workloads are not kept.
pub(super) struct Pods<'a> {
    annotation: &'a str,
    all: Vec<PodOwnership>,
    /// True if the first list is complete.
    pub(super) are_complete: bool,
    pods: Vec<BTreeMap<String, PodState>>,
    /// The pods of a list that is in progress.
    listing: Vec<BTreeMap<String, PodState>>,
}

impl<'a> Pods<'a> {
    pub(super) fn of(all: Vec<PodOwnership>, annotation: &'a str) -> Self {
        let none = vec![BTreeMap::new(); all.len()];
        Self { annotation, are_complete: false, pods: none.clone(), listing: none, all }
    }

    /// The pods of the workload at this index.
    pub(super) fn of_workload(&self, at: usize) -> &BTreeMap<String, PodState> {
        &self.pods[at]
    }

    /// Records an event of the watch, and returns the indices of the workloads that it is about.
    pub(super) fn note(&mut self, event: Event<Pod>) -> Vec<usize> {
        match event {
            Event::Init => self.listing.iter_mut().for_each(BTreeMap::clear),
            Event::InitApply(pod) => {
                if let Some(replica) = PodState::of(pod, self.annotation) {
                    add(&self.all, &mut self.listing, replica);
                }
            }
            Event::InitDone => {
                self.pods =
                    std::mem::replace(&mut self.listing, vec![BTreeMap::new(); self.all.len()]);
                self.are_complete = true;
                return (0..self.all.len()).collect();
            }
            Event::Apply(pod) => {
                let name = pod.meta().name.clone().unwrap_or_default();
                let mut about = self.remove(&name);
                if let Some(replica) = PodState::of(pod, self.annotation) {
                    about.extend(add(&self.all, &mut self.pods, replica));
                }
                about.sort_unstable();
                about.dedup();
                return about;
            }
            Event::Delete(pod) => {
                return self.remove(pod.meta().name.as_deref().unwrap_or_default());
            }
        }
        Vec::new()
    }

    fn remove(&mut self, name: &str) -> Vec<usize> {
        let pods = self.pods.iter_mut().enumerate();
        pods.filter_map(|(at, pods)| pods.remove(name).map(|_| at)).collect()
    }

    /// Lists the pods that exist now, not those that existed a moment ago.
    pub(super) async fn list(
        &mut self,
        kubernetes: &KubernetesClusters,
        beside: &Workload,
        selector: Option<&str>,
    ) -> Result<(), Error> {
        let mut listed = vec![BTreeMap::new(); self.all.len()];
        let mut page = ListParams {
            label_selector: selector.map(str::to_owned),
            limit: Some(PAGE),
            ..ListParams::default()
        };
        // The pages of a continued list show the state of the moment at which the list began.
        loop {
            let target = Target::beside(beside, "list", "pods", "");
            let selected = &page;
            let answer = call(&*kubernetes.access, target, |connection| async move {
                let pods: Api<Pod> = Api::namespaced(connection.client, &beside.namespace);
                pods.list(selected).await
            });
            let answer = answer.await?;
            for replica in
                answer.items.into_iter().filter_map(|it| PodState::of(it, self.annotation))
            {
                add(&self.all, &mut listed, replica);
            }
            page.continue_token = answer.metadata.continue_.filter(|token| !token.is_empty());
            if page.continue_token.is_none() {
                break;
            }
        }
        self.pods = listed;
        Ok(())
    }
}

fn add(
    all: &[PodOwnership],
    pods: &mut [BTreeMap<String, PodState>],
    replica: PodState,
) -> Vec<usize> {
    let of: Vec<usize> =
        all.iter().enumerate().filter(|(_, it)| it.may_be(&replica)).map(|(at, _)| at).collect();
    for at in &of {
        pods[*at].insert(replica.name.clone(), replica.clone());
    }
    of
}

/// The most pods that an answer may hold, as kube's and Kubernetes' own watchers request.
const PAGE: u32 = 500;
