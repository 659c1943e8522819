//! Observations of the cluster: a rollout is complete by kubectl's rule, and if no older pod is left.

use std::{collections::BTreeMap, time::Duration};

use changeover_core::{
    finding::{Finding, Severity},
    ports::{Progress, Stamp},
    record::{Held, SecretRevision},
    spec::{ParameterName, Place, Side, Workload},
};
use changeover_token::{Digest, Fence, TokenName};

use super::{
    cluster::{ObjectName, copy_of, deployment_of},
    state::State,
};

impl State {
    /// The progress of an External Secret.
    pub(super) fn copy_progress(
        &self,
        name: &ObjectName,
        before: &str,
        intended: &BTreeMap<ParameterName, Digest>,
    ) -> Progress<SecretRevision> {
        let Some(copy) = self.cluster.copies.get(name) else {
            return Progress::Stuck(Held::new(name, "it does not exist", "create it"));
        };
        if copy.synced == before {
            return Progress::UnderWay("it has not synced since".into());
        }
        let Some((_, data)) = copy.data.last() else {
            return Progress::UnderWay("it has no Secret".into());
        };
        let intended = copy.parameter.as_ref().and_then(|parameter| intended.get(parameter));
        if intended != Some(&Digest::of(data)) {
            return Progress::UnderWay("its Secret holds something else".into());
        }
        self.secret_revision(name)
            .map_or(Progress::UnderWay("it has no Secret".into()), Progress::Done)
    }

    /// The revision of the last write of a Secret.
    pub(super) fn secret_revision(&self, name: &ObjectName) -> Option<SecretRevision> {
        let writes = self.cluster.copies.get(name)?.data.len();
        (writes > 0).then(|| SecretRevision(format!("{name}@{writes}")))
    }

    /// The digest of the value that a Secret holds.
    pub(super) fn written_secret(&self, name: &ObjectName) -> Option<Digest> {
        let (_, value) = self.cluster.copies.get(name)?.data.last()?;
        Some(Digest::of(value))
    }

    /// The progress of a rollout.
    pub(super) fn roll_progress(&self, name: &ObjectName, stamp: &Stamp) -> Progress<()> {
        let Some(deployment) = self.cluster.deployments.get(name) else {
            return Progress::Stuck(Held::new(name, "it does not exist", "create it"));
        };
        let key = (stamp.token.clone(), stamp.side);
        let is_stamped = |stamps: &BTreeMap<_, Fence>| stamps.get(&key) == Some(&stamp.fence);
        let standing = deployment.template.get(&key).copied();
        if let Some(later) = standing.filter(|standing| *standing > stamp.fence) {
            return Progress::Ahead(later);
        }
        if !is_stamped(&deployment.template) && deployment.is_put_back {
            let held = Held::new(name, "the pod template has lost its stamp", "leave it alone");
            return Progress::Stuck(Held { is_undone: true, ..held });
        }
        if !is_stamped(&deployment.template) {
            return Progress::UnderWay("its template is not stamped".into());
        }
        if let Some(reason) = deployment.broken
            && let Some(pod) = deployment.pods.iter().find(|pod| !pod.is_ready)
            && pod.started_at + PROGRESS_DEADLINE <= self.now
        {
            return Progress::Stuck(Held::new(name, reason, "fix the workload"));
        }
        let is_done = deployment.pods.len() == deployment.replicas
            && deployment
                .pods
                .iter()
                .all(|pod| pod.is_ready && !pod.is_terminating && is_stamped(&pod.stamps));
        if is_done {
            return Progress::Done(());
        }
        Progress::UnderWay(format!("{} pods, not all of them new", deployment.pods.len()))
    }

    /// The findings that would keep a workload from ever taking up a view.
    pub(super) fn findings(&self, workload: &Workload, stamp: &Stamp) -> Vec<Finding> {
        let finding = |severity, object: &str, reason: &str| Finding {
            severity,
            object: object.to_owned(),
            reason: reason.to_owned(),
            fix: "see to it".to_owned(),
        };
        let mut findings = Vec::new();
        let name = deployment_of(workload);
        match self.cluster.deployments.get(&name) {
            None => findings.push(finding(Severity::Missing, &name, "it does not exist")),
            Some(deployment) if deployment.is_paused => {
                findings.push(finding(Severity::Refusal, &name, "it is paused"));
            }
            Some(_) => {}
        }
        // A Secret that changeover writes is created by the first publication.
        if let Some(copy) = copy_of(workload)
            && match self.cluster.copies.get(&copy) {
                None => workload.written_key().is_none() || stamp.side == Side::Presenters,
                Some(copy) => copy.data.is_empty() && stamp.side == Side::Presenters,
            }
        {
            findings.push(finding(Severity::Missing, &copy, "it does not exist"));
        }
        let stamped = self.cluster.deployments.get(&name).and_then(|deployment| {
            deployment.template.get(&(stamp.token.clone(), stamp.side)).copied()
        });
        let written = copy_of(workload)
            .filter(|_| workload.written_key().is_some())
            .and_then(|copy| Some(self.cluster.copies.get(&copy)?.fence));
        for fence in [stamped, written].into_iter().flatten() {
            let Stamp { side, token, fence: view } = stamp;
            if view.life.is_some() && fence.life > view.life {
                let object = workload.to_string();
                findings.push(Finding::of_another_record(token, *side, object, fence, *view));
            }
        }
        findings
    }

    /// The token that publishes to a place.
    pub(super) fn owner_of(&self, place: &Place) -> TokenName {
        let publishes = |spec: &changeover_core::spec::Spec| {
            let sides = [&spec.verifiers, &spec.presenters];
            sides.iter().any(|side| side.publications.iter().any(|it| it.place == *place))
        };
        let mut specs = self.specs.values();
        let owner = specs.find(|(_, spec)| publishes(spec)).map(|(_, spec)| spec.token.clone());
        owner.unwrap_or_else(|| TokenName::parse("nobody").expect("a name"))
    }
}

/// The `progressDeadlineSeconds` of every Deployment in this world.
const PROGRESS_DEADLINE: Duration = Duration::from_secs(60);
