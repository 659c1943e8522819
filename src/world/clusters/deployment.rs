//! What a Deployment and its pods say about a rollout. Pure.

use k8s_openapi::api::{
    apps::v1::{Deployment, DeploymentCondition},
    core::v1::{ContainerStatus, Pod},
};
use kube::core::ObjectMeta;

use crate::{record::Held, spec::Side, world::Stamp};

/// The annotation of the pod template that carries this stamp.
pub(super) fn annotation(stamp: &Stamp) -> String {
    format!("{}.changeover.dev/{}", singular(stamp.side), stamp.token)
}

/// The field manager that owns it: one per side and token, because what a manager owned and leaves
/// out of its next apply is removed.
pub(super) fn manager(stamp: &Stamp) -> String {
    format!("{}-{}-{}", super::MANAGER, singular(stamp.side), stamp.token)
}

fn singular(side: Side) -> &'static str {
    match side {
        Side::Verifiers => "verifier",
        Side::Presenters => "presenter",
    }
}

/// The stamp that a Deployment's pod template carries; `None` where it has none that can be read.
pub(super) fn stamped(deployment: &Deployment, annotation: &str) -> Option<u64> {
    let template = deployment.spec.as_ref()?.template.metadata.as_ref()?;
    template.annotations.as_ref()?.get(annotation)?.parse().ok()
}

/// A pod that runs, or may, on behalf of a ReplicaSet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Replica {
    /// Its name.
    pub(super) name: String,
    /// The uid of the ReplicaSet that controls it.
    pub(super) replica_set: String,
    /// The stamp of the template that it was made from.
    pub(super) stamp: Option<u64>,
    /// Whether it was told to end.
    is_terminating: bool,
    /// What keeps it from being ready.
    trouble: Option<Trouble>,
}

/// What keeps a pod from being ready.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Trouble {
    /// The container, or nothing where it is the pod itself.
    container: Option<String>,
    /// In words.
    what: String,
    /// What it means.
    weight: Weight,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Weight {
    /// It may go by.
    Told,
    /// It seldom goes by.
    Suspicious,
    /// It does not go by.
    Certain,
}

impl Replica {
    /// Reads a pod; `None` where it has ended, or is not a ReplicaSet's.
    pub(super) fn of(pod: &Pod, annotation: &str) -> Option<Self> {
        let status = pod.status.as_ref();
        if let Some("Succeeded" | "Failed") = status.and_then(|status| status.phase.as_deref()) {
            return None;
        }
        let metadata = &pod.metadata;
        let mut owners = metadata.owner_references.iter().flatten();
        let owner =
            owners.find(|owner| owner.controller == Some(true) && owner.kind == "ReplicaSet")?;
        let stamp = metadata.annotations.as_ref().and_then(|it| it.get(annotation)?.parse().ok());

        let containers = status.into_iter().flat_map(|status| {
            let main = status.container_statuses.iter().flatten();
            status.init_container_statuses.iter().flatten().chain(main)
        });
        let conditions = status.into_iter().flat_map(|status| status.conditions.iter().flatten());
        let unschedulable = conditions
            .filter(|it| it.type_ == "PodScheduled" && it.status == "False")
            .map(|it| Trouble {
                container: None,
                what: words(it.reason.as_deref().unwrap_or("Unschedulable"), it.message.as_deref()),
                weight: Weight::Told,
            });
        let trouble = containers
            .filter_map(container_trouble)
            .chain(unschedulable)
            .max_by_key(|trouble| trouble.weight);
        Some(Self {
            name: metadata.name.clone().unwrap_or_default(),
            replica_set: owner.uid.clone(),
            stamp,
            is_terminating: metadata.deletion_timestamp.is_some(),
            trouble,
        })
    }

    /// Whether something keeps it from being ready that may be the rollout's end.
    pub(super) fn is_in_trouble(&self) -> bool {
        self.trouble.as_ref().is_some_and(|trouble| trouble.weight > Weight::Told)
    }

    /// Whether it was made from a template with an older stamp, or with none.
    pub(super) fn is_older(&self, revision: u64) -> bool {
        self.stamp.is_none_or(|stamp| stamp < revision)
    }
}

/// Why a container waits (kubelet `pkg/kubelet/kuberuntime`, `pkg/kubelet/images/types.go`).
fn container_trouble(container: &ContainerStatus) -> Option<Trouble> {
    let Some(waiting) = container.state.as_ref()?.waiting.as_ref() else {
        // Between two restarts it runs for a moment, and its trouble is not over.
        let ended = container.last_state.as_ref()?.terminated.as_ref()?;
        let restarts = container.restart_count;
        let what = format!("it ended with exit code {} ({restarts} restarts)", ended.exit_code);
        let trouble =
            Trouble { container: Some(container.name.clone()), what, weight: Weight::Told };
        return (!container.ready).then_some(trouble);
    };
    let reason = waiting.reason.as_deref()?;
    let weight = match reason {
        "ContainerCreating" | "PodInitializing" => return None,
        // The first restarts may be a race with something that starts at the same time.
        "CrashLoopBackOff" if container.restart_count >= CERTAIN_RESTARTS => Weight::Certain,
        "ImagePullBackOff"
        | "ErrImagePull"
        | "InvalidImageName"
        | "ErrImageNeverPull"
        | "CreateContainerConfigError"
        | "CreateContainerError" => Weight::Suspicious,
        _ => Weight::Told,
    };
    let mut what = words(reason, waiting.message.as_deref());
    if container.restart_count > 0 {
        what = format!("{what} ({} restarts)", container.restart_count);
    }
    Some(Trouble { container: Some(container.name.clone()), what, weight })
}

fn words(reason: &str, message: Option<&str>) -> String {
    match message {
        Some(message) => {
            let message: String = message.chars().take(LONGEST_MESSAGE).collect();
            format!("{reason}: {message}")
        }
        None => reason.to_owned(),
    }
}

/// What a look at a Deployment and its pods shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is rolled out, and no older pod is left.
    Done,
    /// Not yet, in words.
    UnderWay(String),
    /// It seldom goes on from here: stuck, if it stays so for a while.
    Suspect {
        /// What it is about: the same as long as it is the same trouble.
        culprit: String,
        /// What to report.
        held: Held,
    },
    /// It does not go on from here.
    Stuck(Held),
}

/// One rollout: of what, to which stamp.
pub(super) struct Rollout<'a> {
    /// The Deployment, as reports name it.
    pub(super) object: &'a str,
    /// The annotation that carries the stamp.
    pub(super) annotation: &'a str,
    /// The stamp.
    pub(super) revision: u64,
}

impl Rollout<'_> {
    /// Judges a Deployment together with its pods, as they were seen. Only pods of its `current`
    /// ReplicaSet can show that it is stuck: those of a template that was repaired since have the
    /// same stamp.
    pub(super) fn judge(
        &self,
        deployment: &Deployment,
        current: Option<&str>,
        replicas: &[&Replica],
    ) -> Verdict {
        let held = |reason: String, fix: &str| Held::new(self.object, reason, fix);
        if stamped(deployment, self.annotation).is_none_or(|stamp| stamp < self.revision) {
            return Verdict::Stuck(held(
                format!(
                    "the pod template has lost its stamp {}: {}",
                    self.annotation, self.revision
                ),
                "let whatever applies this Deployment leave annotations of changeover.dev on the \
                 pod template alone",
            ));
        }
        let is_paused = deployment.spec.as_ref().and_then(|spec| spec.paused) == Some(true);
        let trouble = replicas
            .iter()
            .filter(|replica| current == Some(&replica.replica_set))
            .filter_map(|replica| Some((replica, replica.trouble.as_ref()?)))
            .max_by_key(|(_, trouble)| trouble.weight);
        let told = trouble.map(|(replica, trouble)| trouble.told(&replica.name));

        let (left, exceeded) = match by_kubectl(deployment) {
            ByKubectl::Complete => (None, false),
            ByKubectl::Waiting(left) => (Some(left), false),
            ByKubectl::DeadlineExceeded => (None, true),
        };
        if exceeded {
            let why = told.map_or_else(String::new, |told| format!(": {told}"));
            return Verdict::Stuck(held(
                format!("the rollout made no progress within its progressDeadlineSeconds{why}"),
                "see why the new pods do not become ready (kubectl describe pod), and repair it; \
                 both tokens stay valid, and the next run carries on",
            ));
        }
        let older = replicas.iter().find(|replica| replica.is_older(self.revision));
        let left = match (left, older) {
            (None, None) => return Verdict::Done,
            (Some(left), _) => left,
            (None, Some(_)) => "all pods are replaced".to_owned(),
        };
        if is_paused {
            return Verdict::Stuck(held(
                "the Deployment is paused".to_owned(),
                "kubectl rollout resume it; the next run carries on",
            ));
        }
        match trouble {
            Some((replica, trouble)) if trouble.weight == Weight::Certain => {
                return Verdict::Stuck(held(
                    trouble.told(&replica.name),
                    "repair the workload (kubectl logs --previous shows why it ends); both tokens \
                     stay valid, and the next run carries on",
                ));
            }
            Some((replica, trouble)) if trouble.weight == Weight::Suspicious => {
                return Verdict::Suspect {
                    culprit: format!("{} {:?}", replica.name, trouble.container),
                    held: held(
                        trouble.told(&replica.name),
                        "repair the workload's image, its Secrets or its ConfigMaps; both tokens \
                         stay valid, and the next run carries on",
                    ),
                };
            }
            _ => {}
        }
        if let Some(failure) =
            condition(deployment, "ReplicaFailure").filter(|it| it.status == "True")
        {
            return Verdict::Suspect {
                culprit: "ReplicaFailure".to_owned(),
                held: held(
                    words(
                        failure.reason.as_deref().unwrap_or("ReplicaFailure"),
                        failure.message.as_deref(),
                    ),
                    "let the cluster create the pods: raise the quota, or correct what the \
                     admission webhook refuses; the next run carries on",
                ),
            };
        }
        let older = older.map(|replica| match replica.is_terminating {
            true => format!("pod {} is Terminating", replica.name),
            false => format!("pod {} runs on an older view", replica.name),
        });
        let words: Vec<String> = [Some(left), older, told].into_iter().flatten().collect();
        Verdict::UnderWay(words.join("; "))
    }
}

impl Trouble {
    fn told(&self, pod: &str) -> String {
        match &self.container {
            Some(container) => format!("pod {pod}, container {container}: {}", self.what),
            None => format!("pod {pod}: {}", self.what),
        }
    }
}

/// What `kubectl rollout status` would say.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ByKubectl {
    /// "successfully rolled out".
    Complete,
    /// "Waiting for ...".
    Waiting(String),
    /// "exceeded its progress deadline".
    DeadlineExceeded,
}

/// kubectl's rule for Deployments, in kubectl's order: the deadline is looked at only once this
/// template was observed, for until then it tells of the rollout before (kubectl
/// `pkg/polymorphichelpers/rollout_status.go`, `DeploymentStatusViewer`).
pub(super) fn by_kubectl(deployment: &Deployment) -> ByKubectl {
    let status = deployment.status.clone().unwrap_or_default();
    let generation = deployment.metadata.generation.unwrap_or_default();
    if generation > status.observed_generation.unwrap_or_default() {
        return ByKubectl::Waiting("the new pod template was not observed yet".to_owned());
    }
    let progressing = condition(deployment, "Progressing");
    if progressing.and_then(|it| it.reason.as_deref()) == Some("ProgressDeadlineExceeded") {
        return ByKubectl::DeadlineExceeded;
    }
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas);
    let updated = status.updated_replicas.unwrap_or_default();
    let available = status.available_replicas.unwrap_or_default();
    let all = status.replicas.unwrap_or_default();
    match wanted {
        Some(wanted) if updated < wanted => {
            ByKubectl::Waiting(format!("{updated} of {wanted} pods are updated"))
        }
        _ if all > updated => {
            ByKubectl::Waiting(format!("{} older pods are to end", all - updated))
        }
        _ if available < updated => {
            ByKubectl::Waiting(format!("{available} of {updated} updated pods are available"))
        }
        _ => ByKubectl::Complete,
    }
}

/// Which of its revisions a Deployment is at, or a ReplicaSet is: the same for a Deployment and its
/// current ReplicaSet (kubernetes `pkg/controller/deployment/util`, `RevisionAnnotation`).
pub(super) fn revision(metadata: &ObjectMeta) -> Option<&str> {
    metadata.annotations.as_ref()?.get("deployment.kubernetes.io/revision").map(String::as_str)
}

/// A condition of a Deployment.
pub(super) fn condition<'a>(
    deployment: &'a Deployment,
    kind: &str,
) -> Option<&'a DeploymentCondition> {
    let conditions = deployment.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == kind)
}

/// From this restart on, a container that ends again and again is not waited for: the kubelet's
/// back-off, 10 s and then 20 s, has gone by.
const CERTAIN_RESTARTS: i32 = 2;

/// Characters of somebody else's message that are worth repeating.
const LONGEST_MESSAGE: usize = 300;

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::token::TokenName;

    const ANNOTATION: &str = "presenter.changeover.dev/datastore-token";

    /// Three replicas, all of them updated and available, stamped 7.
    fn rolled_out() -> Value {
        json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "backend", "generation": 4},
            "spec": {
                "replicas": 3,
                "selector": {"matchLabels": {"app": "backend"}},
                "template": {"metadata": {"annotations": {ANNOTATION: "7"}}},
            },
            "status": {
                "observedGeneration": 4,
                "replicas": 3,
                "updatedReplicas": 3,
                "availableReplicas": 3,
                "conditions": [{
                    "type": "Progressing",
                    "status": "True",
                    "reason": "NewReplicaSetAvailable",
                }],
            },
        })
    }

    /// The same with some fields changed, each named by a JSON pointer.
    fn with(changes: &[(&str, Value)]) -> Deployment {
        let mut deployment = rolled_out();
        for (pointer, value) in changes {
            let (parent, field) = pointer.rsplit_once('/').unwrap();
            deployment.pointer_mut(parent).unwrap()[field] = value.clone();
        }
        serde_json::from_value(deployment).unwrap()
    }

    fn pod(name: &str, stamp: &str, changes: Value) -> Pod {
        let mut pod = json!({
            "metadata": {
                "name": name,
                "annotations": {ANNOTATION: stamp},
                "ownerReferences": [{
                    "apiVersion": "apps/v1",
                    "kind": "ReplicaSet",
                    "name": "backend-1",
                    "uid": "1",
                    "controller": true,
                }],
            },
            "status": {"phase": "Running"},
        });
        merge(&mut pod, changes);
        serde_json::from_value(pod).unwrap()
    }

    fn merge(into: &mut Value, changes: Value) {
        match (into, changes) {
            (Value::Object(into), Value::Object(changes)) => {
                for (field, change) in changes {
                    merge(into.entry(field).or_insert(Value::Null), change);
                }
            }
            (into, change) => *into = change,
        }
    }

    fn waiting(reason: &str, restarts: u32) -> Value {
        json!({"status": {"containerStatuses": [{
            "name": "main",
            "image": "i",
            "imageID": "",
            "ready": false,
            "restartCount": restarts,
            "state": {"waiting": {"reason": reason, "message": "why"}},
        }]}})
    }

    fn judge(deployment: &Deployment, pods: &[Pod]) -> Verdict {
        let rollout =
            Rollout { object: "prod/web/deployment/backend", annotation: ANNOTATION, revision: 7 };
        let replicas: Vec<_> = pods.iter().filter_map(|pod| Replica::of(pod, ANNOTATION)).collect();
        rollout.judge(deployment, Some("1"), &replicas.iter().collect::<Vec<_>>())
    }

    fn under_way(verdict: &Verdict, words: &str) {
        assert!(matches!(verdict, Verdict::UnderWay(left) if left.contains(words)), "{verdict:?}");
    }

    fn stuck(verdict: &Verdict, words: &str) {
        assert!(
            matches!(verdict, Verdict::Stuck(held) if held.reason.contains(words)
                && held.object == "prod/web/deployment/backend" && !held.fix.is_empty()),
            "{verdict:?}"
        );
    }

    fn suspect(verdict: &Verdict, words: &str) {
        assert!(
            matches!(verdict, Verdict::Suspect { held, .. } if held.reason.contains(words)),
            "{verdict:?}"
        );
    }

    #[test]
    fn it_is_done_when_kubectl_says_so_and_every_pod_has_the_stamp_or_a_newer_one() {
        let pods = [pod("a", "7", json!({})), pod("b", "8", json!({}))];
        assert_eq!(judge(&with(&[]), &pods), Verdict::Done);
    }

    #[test]
    fn kubectls_rule_is_applied_in_kubectls_order() {
        let exceeded = json!([{
            "type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded",
        }]);
        let cases = [
            // A deadline that was exceeded before this template was observed is of another rollout.
            (
                vec![("/metadata/generation", json!(5)), ("/status/conditions", exceeded.clone())],
                ByKubectl::Waiting("the new pod template was not observed yet".to_owned()),
            ),
            // The deadline comes before the numbers.
            (vec![("/status/conditions", exceeded)], ByKubectl::DeadlineExceeded),
            (
                vec![("/status/updatedReplicas", json!(1))],
                ByKubectl::Waiting("1 of 3 pods are updated".to_owned()),
            ),
            (
                vec![("/status/replicas", json!(5))],
                ByKubectl::Waiting("2 older pods are to end".to_owned()),
            ),
            (
                vec![("/status/availableReplicas", json!(2))],
                ByKubectl::Waiting("2 of 3 updated pods are available".to_owned()),
            ),
            (
                vec![("/spec/replicas", json!(null)), ("/status/updatedReplicas", json!(3))],
                ByKubectl::Complete,
            ),
            (
                vec![("/spec/replicas", json!(0)), ("/status", json!({"observedGeneration": 4}))],
                ByKubectl::Complete,
            ),
        ];
        for (changes, expected) in cases {
            assert_eq!(by_kubectl(&with(&changes)), expected, "{changes:?}");
        }
    }

    #[test]
    fn an_older_pod_that_is_terminating_is_waited_for() {
        let ending = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
        under_way(&judge(&with(&[]), &[pod("a", "6", ending)]), "pod a is Terminating");
        under_way(&judge(&with(&[]), &[pod("a", "6", json!({}))]), "pod a runs on an older view");
        let bare = pod("a", "none", json!({}));
        under_way(&judge(&with(&[]), &[bare]), "pod a runs on an older view");
    }

    #[test]
    fn pods_that_ended_and_pods_of_others_are_not_waited_for() {
        let failed = pod("a", "6", json!({"status": {"phase": "Failed"}}));
        let succeeded = pod("b", "6", json!({"status": {"phase": "Succeeded"}}));
        let by_hand = pod("c", "6", json!({"metadata": {"ownerReferences": []}}));
        assert_eq!(judge(&with(&[]), &[failed, succeeded, by_hand]), Verdict::Done);
    }

    #[test]
    fn without_replicas_nothing_runs_on_an_older_view() {
        let none = [("/spec/replicas", json!(0)), ("/status", json!({"observedGeneration": 4}))];
        assert_eq!(judge(&with(&none), &[]), Verdict::Done);
        under_way(&judge(&with(&none), &[pod("a", "6", json!({}))]), "pod a");
    }

    #[test]
    fn what_cannot_finish_is_stuck() {
        let unfinished = ("/status/updatedReplicas", json!(1));
        let paused = [unfinished.clone(), ("/spec/paused", json!(true))];
        stuck(&judge(&with(&paused), &[]), "paused");
        let reverted = [("/spec/template/metadata/annotations", json!({ANNOTATION: "6"}))];
        stuck(&judge(&with(&reverted), &[]), "lost its stamp");
        let removed = [("/spec/template", json!({"metadata": {}}))];
        stuck(&judge(&with(&removed), &[]), "lost its stamp");
        let exceeded = json!([{
            "type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded",
        }]);
        let pods = [pod("a", "7", waiting("ImagePullBackOff", 0))];
        let verdict = judge(&with(&[unfinished.clone(), ("/status/conditions", exceeded)]), &pods);
        stuck(&verdict, "progressDeadlineSeconds: pod a, container main: ImagePullBackOff: why");
        let pods = [pod("a", "7", waiting("CrashLoopBackOff", 2))];
        let verdict = judge(&with(&[unfinished]), &pods);
        stuck(&verdict, "pod a, container main: CrashLoopBackOff: why (2 restarts)");
    }

    #[test]
    fn a_paused_deployment_that_was_rolled_out_is_done() {
        assert_eq!(judge(&with(&[("/spec/paused", json!(true))]), &[]), Verdict::Done);
    }

    #[test]
    fn trouble_that_may_go_by_is_only_suspected() {
        let unfinished = ("/status/updatedReplicas", json!(1));
        for reason in ["ImagePullBackOff", "CreateContainerConfigError"] {
            let pods = [pod("a", "7", waiting(reason, 0))];
            suspect(&judge(&with(std::slice::from_ref(&unfinished)), &pods), reason);
        }
        let refused = json!([{
            "type": "ReplicaFailure",
            "status": "True",
            "reason": "FailedCreate",
            "message": "exceeded quota",
        }]);
        let failing = [unfinished.clone(), ("/status/conditions", refused)];
        suspect(&judge(&with(&failing), &[]), "FailedCreate: exceeded quota");
        let pods = [pod("a", "7", waiting("CrashLoopBackOff", 1))];
        under_way(&judge(&with(&[unfinished]), &pods), "CrashLoopBackOff");
    }

    #[test]
    fn trouble_of_another_replica_set_is_none_of_this_rollouts() {
        let unfinished = [("/status/updatedReplicas", json!(1))];
        for stamp in ["6", "7"] {
            let mut pod = pod("a", stamp, waiting("CrashLoopBackOff", 40));
            pod.metadata.owner_references.as_mut().unwrap()[0].uid = "0".to_owned();
            under_way(&judge(&with(&unfinished), &[pod]), "1 of 3 pods are updated");
        }
    }

    #[test]
    fn each_side_and_token_has_an_annotation_and_a_manager_of_its_own() {
        let stamp =
            |side| Stamp { side, token: TokenName::parse("datastore-token").unwrap(), revision: 7 };
        let verifiers = stamp(Side::Verifiers);
        assert_eq!(annotation(&verifiers), "verifier.changeover.dev/datastore-token");
        assert_eq!(manager(&verifiers), "changeover-verifier-datastore-token");
        let presenters = stamp(Side::Presenters);
        assert_eq!(annotation(&presenters), ANNOTATION);
        assert_eq!(manager(&presenters), "changeover-presenter-datastore-token");
    }
}
