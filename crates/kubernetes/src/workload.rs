//! The state of a rollout, judged from a workload of any kind and its pods. Pure.

mod daemon_set;
pub(super) mod deployment;
mod pod;
mod stateful_set;

use changeover_core::record::Held;
use changeover_token::Fence;
use k8s_openapi::{
    api::{
        apps::v1::{DaemonSet, Deployment, StatefulSet},
        core::v1::PodTemplateSpec,
    },
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use kube::{Resource, core::ObjectMeta};

use self::pod::Weight;
pub(super) use self::pod::{Pod, PodState};

/// The part that all names of our annotations contain.
pub(super) const ANNOTATIONS: &str = "changeover.dev/";

/// A workload, as the API server holds it.
#[derive(Clone, Debug)]
pub(super) enum WorkloadObject {
    Deployment(Box<Deployment>),
    StatefulSet(Box<StatefulSet>),
    DaemonSet(Box<DaemonSet>),
}

impl From<Deployment> for WorkloadObject {
    fn from(deployment: Deployment) -> Self {
        WorkloadObject::Deployment(Box::new(deployment))
    }
}

impl From<StatefulSet> for WorkloadObject {
    fn from(stateful_set: StatefulSet) -> Self {
        WorkloadObject::StatefulSet(Box::new(stateful_set))
    }
}

impl From<DaemonSet> for WorkloadObject {
    fn from(daemon_set: DaemonSet) -> Self {
        WorkloadObject::DaemonSet(Box::new(daemon_set))
    }
}

impl WorkloadObject {
    pub(super) fn metadata(&self) -> &ObjectMeta {
        match self {
            WorkloadObject::Deployment(it) => it.meta(),
            WorkloadObject::StatefulSet(it) => it.meta(),
            WorkloadObject::DaemonSet(it) => it.meta(),
        }
    }

    /// The selector of its pods. It may match other pods, too.
    pub(super) fn selector(&self) -> Option<&LabelSelector> {
        match self {
            WorkloadObject::Deployment(it) => it.spec.as_ref().map(|spec| &spec.selector),
            WorkloadObject::StatefulSet(it) => it.spec.as_ref().map(|spec| &spec.selector),
            WorkloadObject::DaemonSet(it) => it.spec.as_ref().map(|spec| &spec.selector),
        }
    }

    pub(super) fn template(&self) -> Option<&PodTemplateSpec> {
        match self {
            WorkloadObject::Deployment(it) => it.spec.as_ref().map(|spec| &spec.template),
            WorkloadObject::StatefulSet(it) => it.spec.as_ref().map(|spec| &spec.template),
            WorkloadObject::DaemonSet(it) => it.spec.as_ref().map(|spec| &spec.template),
        }
    }

    /// The stamp that its pod template carries. `None` if it has none that can be parsed.
    pub(super) fn stamped(&self, annotation: &str) -> Option<Fence> {
        let template = self.template()?.metadata.as_ref()?;
        template.annotations.as_ref()?.get(annotation)?.parse().ok()
    }

    /// The answer that `kubectl rollout status` would give.
    pub(super) fn by_kubectl(&self) -> KubectlStatus {
        match self {
            WorkloadObject::Deployment(it) => deployment::by_kubectl(it),
            WorkloadObject::StatefulSet(it) => stateful_set::by_kubectl(it),
            WorkloadObject::DaemonSet(it) => daemon_set::by_kubectl(it),
        }
    }

    /// The work that is left by its own numbers. `None` if they say that it is rolled out.
    fn left(&self) -> Option<String> {
        match (self.by_kubectl(), self) {
            (KubectlStatus::Unobserved, _) => Some(UNOBSERVED.to_owned()),
            (KubectlStatus::Waiting(left), _) => Some(left),
            (KubectlStatus::DeadlineExceeded, _) => Some("no progress was made".to_owned()),
            (
                KubectlStatus::Complete | KubectlStatus::NotRolling,
                WorkloadObject::StatefulSet(it),
            ) => stateful_set::beyond_kubectl(it),
            (KubectlStatus::NotRolling, WorkloadObject::DaemonSet(it)) => {
                daemon_set::beyond_kubectl(it)
            }
            (KubectlStatus::Complete | KubectlStatus::NotRolling, _) => None,
        }
    }

    /// True if by its own numbers nothing is left but pods that end.
    pub(super) fn is_complete(&self) -> bool {
        self.left().is_none()
    }

    /// The work that is left, in words, while nothing is known of its pods yet.
    pub(super) fn awaited(&self) -> String {
        self.left().unwrap_or_else(|| "its pods were not looked at yet".to_owned())
    }

    fn obstacle(&self) -> Option<Obstacle> {
        match self {
            WorkloadObject::Deployment(it) => deployment::obstacle(it),
            WorkloadObject::StatefulSet(it) => stateful_set::obstacle(it),
            WorkloadObject::DaemonSet(it) => daemon_set::obstacle(it),
        }
    }

    /// The template that its pods must be made from, in the form in which pods name it: see [`PodState`].
    /// `replica_set` is the uid of the current ReplicaSet, if there is one.
    fn current<'a>(&'a self, replica_set: Option<&'a str>) -> Option<&'a str> {
        match self {
            WorkloadObject::Deployment(_) => replica_set,
            WorkloadObject::StatefulSet(it) => it.status.as_ref()?.update_revision.as_deref(),
            WorkloadObject::DaemonSet(it) => daemon_set::template(it),
        }
    }

    /// The number of pods that its controller should have made by now. If the controller may not make them,
    /// only an event says so. `None` if the controller waits for the pods that exist, or says itself why
    /// pods are missing.
    fn wanted(&self, replicas: &[&PodState]) -> Option<usize> {
        let wanted = match self {
            WorkloadObject::Deployment(_) => return None,
            WorkloadObject::StatefulSet(it) => {
                // It makes one pod after the other, unless its pods are managed in parallel.
                if !replicas.iter().all(|it| it.is_ready && !it.is_terminating) {
                    return None;
                }
                stateful_set::wanted(it)
            }
            WorkloadObject::DaemonSet(it) => daemon_set::wanted(it),
        };
        usize::try_from(wanted).ok()
    }
}

/// The answers of `kubectl rollout status`.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum KubectlStatus {
    /// "successfully rolled out".
    Complete,
    /// "Waiting for ... spec update to be observed".
    Unobserved,
    /// "Waiting for ...".
    Waiting(String),
    /// "exceeded its progress deadline".
    DeadlineExceeded,
    /// "only available for RollingUpdate strategy type".
    NotRolling,
}

/// A setting that keeps a workload from replacing its pods.
struct Obstacle {
    what: String,
    fix: &'static str,
}

fn on_delete() -> Obstacle {
    Obstacle {
        what: "its strategy OnDelete replaces no pod until it is deleted by hand".to_owned(),
        fix: "set spec.updateStrategy.type to RollingUpdate, or delete its pods one by one; the \
              next run carries on",
    }
}

const UNOBSERVED: &str = "the new pod template was not observed yet";

/// The state of a rollout, as one observation of a workload and its pods shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RolloutStatus {
    /// It is rolled out, and no older pod is left.
    Done,
    /// It is not rolled out yet. Holds what is left, in words.
    UnderWay(String),
    /// It is not rolled out yet, and pods are missing that its controller should have made. Holds what is
    /// left, in words. The reason is found only in events.
    Missing(String),
    /// A state that seldom recovers. It counts as stuck if it lasts for a while.
    Suspect {
        /// The cause of the trouble. It stays the same as long as the trouble does.
        problem: String,
        /// The hold to report.
        held: Held,
    },
    /// The rollout does not continue by itself.
    Stuck(Held),
    /// Its pod template carries this later stamp.
    Ahead(Fence),
}

/// One rollout: a workload, and the stamp that it is rolled out to.
pub(super) struct Rollout<'a> {
    /// The workload, as reports name it.
    pub(super) object: &'a str,
    /// The annotation that carries the stamp.
    pub(super) annotation: &'a str,
    /// The stamp.
    pub(super) fence: Fence,
}

impl Rollout<'_> {
    /// Judges a workload together with its pods, as they were observed. `replica_set` is the uid of the
    /// current ReplicaSet of a Deployment.
    #[expect(clippy::too_many_lines, reason = "one judgement, whose order is the rule")]
    pub(super) fn judge(
        &self,
        live: &WorkloadObject,
        replica_set: Option<&str>,
        replicas: &[&PodState],
    ) -> RolloutStatus {
        let stamped = live.stamped(self.annotation);
        if let Some(later) = stamped.filter(|stamp| *stamp > self.fence) {
            return RolloutStatus::Ahead(later);
        }
        // Without the stamp on the template, no pod can prove that it runs on the view.
        if stamped != Some(self.fence) {
            let held = self.held(
                format!("the pod template has lost its stamp {}: {}", self.annotation, self.fence),
                "let whatever applies this workload leave annotations of changeover.dev on the pod \
                 template alone, then run it again: the sweep stamps it anew three times only, since \
                 each time replaces pods",
            );
            return RolloutStatus::Stuck(Held { is_undone: true, ..held });
        }
        let by_kubectl = live.by_kubectl();
        let trouble = match by_kubectl {
            // What is known of its pods' templates still belongs to the previous template.
            KubectlStatus::Unobserved => None,
            _ => self.trouble(live, replica_set, replicas),
        };
        let description = trouble.as_ref().map(|trouble| trouble.description.clone());
        if by_kubectl == KubectlStatus::DeadlineExceeded {
            let why =
                description.map_or_else(String::new, |description| format!(": {description}"));
            return RolloutStatus::Stuck(self.held(
                format!("the rollout made no progress within its progressDeadlineSeconds{why}"),
                "see why the new pods do not become ready (kubectl describe pod), and repair it; \
                 both tokens stay valid, and the next run carries on",
            ));
        }
        // Complete numbers alone are no proof: a pod of an older view may still run.
        let older = replicas.iter().find(|replica| replica.is_of_another_view(self.fence));
        let left = match (live.left(), older) {
            (None, None) => return RolloutStatus::Done,
            (Some(left), _) => left,
            (None, Some(_)) => "all pods are replaced".to_owned(),
        };
        // Judged after completion: an obstacle does not matter once every pod is replaced.
        if let Some(Obstacle { what, fix }) = live.obstacle() {
            return RolloutStatus::Stuck(self.held(what, fix));
        }
        match trouble {
            Some(WorstProblem { weight: Weight::Fatal, description, fix, .. }) => {
                return RolloutStatus::Stuck(self.held(description, fix));
            }
            Some(WorstProblem { weight: Weight::Suspect, description, fix, problem }) => {
                return RolloutStatus::Suspect { problem, held: self.held(description, fix) };
            }
            _ => {}
        }
        // A quota or a webhook may let the pods pass later, so this is stuck only if it lasts.
        if let WorkloadObject::Deployment(deployment) = live
            && let Some(refused) = deployment::refused(deployment)
        {
            return RolloutStatus::Suspect {
                problem: "ReplicaFailure".to_owned(),
                held: self.not_created(&refused),
            };
        }
        // Nothing holds the rollout: describe what it waits for.
        let is_early = by_kubectl == KubectlStatus::Unobserved || live.is_complete();
        let missing = live
            .wanted(replicas)
            .filter(|wanted| !is_early && replicas.len() < *wanted)
            .map(|wanted| format!("{} of {wanted} pods exist", replicas.len()));
        let is_missing = missing.is_some();
        let words = [Some(left), missing, older.map(|it| it.remainder()), description];
        let words = words.into_iter().flatten().collect::<Vec<_>>().join("; ");
        if is_missing { RolloutStatus::Missing(words) } else { RolloutStatus::UnderWay(words) }
    }

    /// The hold to report if the API server does not let its controller create pods.
    pub(super) fn not_created(&self, why: &str) -> Held {
        self.held(
            why.to_owned(),
            "let the cluster create the pods: raise the quota, or correct what the admission \
             webhook refuses; the next run carries on",
        )
    }

    fn held(&self, reason: String, fix: &str) -> Held {
        Held::new(self.object, reason, fix)
    }

    /// The worst trouble of a pod that can show that the rollout is stuck.
    ///
    /// Only pods of the current template can. Pods of a template that was repaired since have the same
    /// stamp, and are ended whether they are ready or not. A StatefulSet ends no pod before all existing
    /// pods are ready (kubernetes issue 67250), so every pod of a StatefulSet can.
    fn trouble(
        &self,
        live: &WorkloadObject,
        replica_set: Option<&str>,
        replicas: &[&PodState],
    ) -> Option<WorstProblem> {
        let current = live.current(replica_set);
        let waits_for_all = matches!(live, WorkloadObject::StatefulSet(_));
        let troubles = replicas.iter().filter(|it| !it.is_terminating).filter_map(|replica| {
            let trouble = replica.trouble.as_ref()?;
            let is_current = current.is_some() && current == replica.template.as_deref();
            // Informational trouble counts for every pod of the current stamp. It holds no rollout,
            // although its template may have been repaired since.
            let is_informational =
                trouble.weight == Weight::Info && !replica.is_of_another_view(self.fence);
            if !is_current && !waits_for_all && !is_informational {
                return None;
            }
            Some(WorstProblem {
                description: replica.describe_with(trouble),
                problem: replica.problem(trouble),
                weight: if is_current {
                    trouble.weight
                } else {
                    // Its controller may still be about to end it.
                    trouble.weight.min(Weight::Suspect)
                },
                fix: match (is_current, trouble.weight) {
                    (false, _) => {
                        "delete that pod: a StatefulSet replaces none while another is not ready; \
                         the next run carries on"
                    }
                    (true, Weight::Fatal) => {
                        "repair the workload (kubectl logs --previous shows why it ends); both \
                         tokens stay valid, and the next run carries on"
                    }
                    (true, _) => {
                        "repair the workload's image, its Secrets or its ConfigMaps; both tokens \
                         stay valid, and the next run carries on"
                    }
                },
            })
        });
        troubles.max_by_key(|trouble| trouble.weight)
    }
}

/// A problem that may keep a rollout from completing.
struct WorstProblem {
    description: String,
    problem: String,
    weight: Weight,
    fix: &'static str,
}

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod tests;
