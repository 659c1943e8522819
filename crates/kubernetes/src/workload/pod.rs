//! Pods, reduced to the fields that a rollout is judged by.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use changeover_token::Fence;
use k8s_openapi::{
    NamespaceResourceScope,
    apimachinery::pkg::apis::meta::v1::{OwnerReference, Time},
};
use kube::{Resource, core::ObjectMeta};
use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, Visitor},
};

/// A pod without the fields that nothing here reads: there may be thousands of pods in a namespace.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Pod {
    #[serde(deserialize_with = "what_matters")]
    metadata: ObjectMeta,
    spec: Option<PodSpecFields>,
    status: Option<PodStatusFields>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PodSpecFields {
    node_name: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PodStatusFields {
    phase: Option<String>,
    /// The reason for the state of the pod as a whole: `NodeLost`, `Evicted`.
    reason: Option<String>,
    conditions: Option<Vec<PodCondition>>,
    init_container_statuses: Option<Vec<ContainerStatus>>,
    container_statuses: Option<Vec<ContainerStatus>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct PodCondition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
    reason: Option<String>,
    message: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ContainerStatus {
    name: String,
    ready: bool,
    restart_count: i32,
    state: Option<ContainerState>,
    last_state: Option<ContainerState>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct ContainerState {
    waiting: Option<Waiting>,
    terminated: Option<Terminated>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Waiting {
    reason: Option<String>,
    message: Option<String>,
}

/// The end of a container. Its `message` is not read: it is what the container itself wrote to its
/// termination log, or the end of what it logged.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Terminated {
    reason: Option<String>,
    exit_code: i32,
}

/// The same resource as the `Pod` of `k8s_openapi`.
impl Resource for Pod {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        "Pod".into()
    }

    fn group((): &()) -> Cow<'_, str> {
        "".into()
    }

    fn version((): &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        "pods".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

fn what_matters<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    #[derive(Default, Deserialize)]
    #[serde(default, rename_all = "camelCase")]
    struct Metadata {
        name: Option<String>,
        resource_version: Option<String>,
        labels: Option<BTreeMap<String, String>>,
        annotations: Option<Stamps>,
        owner_references: Option<Vec<OwnerReference>>,
        deletion_timestamp: Option<Time>,
    }
    let read = Metadata::deserialize(deserializer)?;
    Ok(ObjectMeta {
        name: read.name,
        resource_version: read.resource_version,
        labels: read.labels,
        annotations: read.annotations.map(|Stamps(stamps)| stamps),
        owner_references: read.owner_references,
        deletion_timestamp: read.deletion_timestamp,
        ..ObjectMeta::default()
    })
}

/// Our own annotations. Those of others are dropped, since they may be long.
#[derive(Default)]
struct Stamps(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Stamps {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OnlyOurs;
        impl<'de> Visitor<'de> for OnlyOurs {
            type Value = Stamps;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("annotations")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Stamps, A::Error> {
                let mut stamps = BTreeMap::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name.contains(super::ANNOTATIONS) {
                        stamps.insert(name, map.next_value()?);
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(Stamps(stamps))
            }
        }
        deserializer.deserialize_map(OnlyOurs)
    }
}

/// A pod that runs, or may run, on behalf of a controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PodState {
    /// Its name.
    pub(crate) name: String,
    /// Its labels.
    pub(crate) labels: BTreeMap<String, String>,
    /// Its controller.
    pub(crate) controller: Controller,
    /// The template that it was made from: the uid of its ReplicaSet, or the label that its controller puts
    /// on it.
    pub(super) template: Option<String>,
    /// The stamp of that template.
    pub(super) stamp: Option<Fence>,
    /// The node that it runs on.
    pub(super) node: Option<String>,
    /// True if its deletion was requested.
    pub(super) is_terminating: bool,
    /// True if it is ready, as far as the API server knows.
    pub(super) is_ready: bool,
    /// The problem that keeps it from being ready.
    pub(super) trouble: Option<PodProblem>,
}

/// The controller of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Controller {
    /// `ReplicaSet`, `StatefulSet` or `DaemonSet`.
    pub(crate) kind: String,
    /// Its name.
    pub(crate) name: String,
    /// Its uid.
    pub(crate) uid: String,
}

/// A problem that keeps a pod from being ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PodProblem {
    /// The container. `None` if the problem is that of the pod itself.
    container: Option<String>,
    /// The problem in words.
    what: String,
    /// Its weight for the rollout.
    pub(super) weight: Weight,
}

/// The likelihood that a problem passes by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Weight {
    /// It may pass.
    Info,
    /// It seldom passes.
    Suspect,
    /// It does not pass.
    Fatal,
}

impl PodState {
    /// Reads a pod. `None` if it has ended, or if it has no controller that rolls pods out.
    pub(crate) fn of(pod: Pod, annotation: &str) -> Option<Self> {
        let Pod { metadata, spec, status } = pod;
        let status = status.unwrap_or_default();
        if let Some("Succeeded" | "Failed") = status.phase.as_deref() {
            return None;
        }
        let mut owners = metadata.owner_references.into_iter().flatten();
        let owner = owners.find(|owner| owner.controller == Some(true))?;
        let labels = metadata.labels.unwrap_or_default();
        let template = match owner.kind.as_str() {
            "ReplicaSet" => Some(owner.uid.clone()),
            "StatefulSet" => labels.get("controller-revision-hash").cloned(),
            "DaemonSet" => labels.get("pod-template-generation").cloned(),
            _ => return None,
        };
        let condition = |kind: &str| {
            let mut conditions = status.conditions.iter().flatten();
            conditions.find(|condition| condition.kind == kind)
        };
        let is_ready = condition("Ready").is_some_and(|it| it.status == "True");
        let init_containers = status.init_container_statuses.iter().flatten();
        let containers = status.container_statuses.iter().flatten();
        let of_containers = init_containers
            .filter_map(ContainerStatus::trouble)
            .chain(containers.clone().filter_map(ContainerStatus::trouble))
            .max_by_key(|trouble| trouble.weight);
        let description = |what| Some(PodProblem { container: None, what, weight: Weight::Info });
        let of_itself = || {
            let scheduled = condition("PodScheduled").filter(|it| it.status == "False");
            if let Some(PodCondition { reason, message, .. }) = scheduled {
                let reason = reason.as_deref().unwrap_or("Unschedulable");
                return description(words(reason, message.as_deref()));
            }
            if let Some(reason) = &status.reason {
                return description(reason.clone());
            }
            // A kubelet that is down cannot report it: the node controller marks its pods.
            let says_ready =
                containers.clone().count() > 0 && containers.clone().all(|it| it.ready);
            if says_ready && condition("Ready").is_some_and(|it| it.status == "False") {
                description(
                    "its containers are ready and it is not: its node does not answer, or a \
                     readiness gate is closed"
                        .to_owned(),
                )
            } else {
                None
            }
        };
        Some(Self {
            name: metadata.name.unwrap_or_default(),
            template,
            stamp: metadata.annotations.and_then(|it| it.get(annotation)?.parse().ok()),
            node: spec.and_then(|spec| spec.node_name).filter(|node| !node.is_empty()),
            is_terminating: metadata.deletion_timestamp.is_some(),
            is_ready,
            trouble: of_containers.or_else(of_itself),
            labels,
            controller: Controller { kind: owner.kind, name: owner.name, uid: owner.uid },
        })
    }

    /// True if something keeps it from being ready that the rollout may not recover from.
    pub(crate) fn is_in_trouble(&self) -> bool {
        self.trouble.as_ref().is_some_and(|trouble| trouble.weight > Weight::Info)
    }

    /// True if it was made from a template with another stamp, or with none. A later stamp proves nothing:
    /// it belongs to another view.
    pub(crate) fn is_of_another_view(&self, fence: Fence) -> bool {
        self.stamp != Some(fence)
    }

    /// States in words that it is left of an older view.
    pub(super) fn remainder(&self) -> String {
        if self.is_terminating {
            format!("{} is Terminating", self.describe())
        } else {
            format!("{} runs on an older view", self.describe())
        }
    }

    /// The pod and its node, in words.
    pub(super) fn describe(&self) -> String {
        match &self.node {
            Some(node) => format!("pod {} on node {node}", self.name),
            None => format!("pod {}", self.name),
        }
    }

    /// The problem that keeps it from being ready, in words.
    pub(super) fn describe_with(&self, trouble: &PodProblem) -> String {
        match &trouble.container {
            Some(container) => {
                format!("{}, container {container}: {}", self.describe(), trouble.what)
            }
            None => format!("{}: {}", self.describe(), trouble.what),
        }
    }

    /// The identity of a problem: it stays the same as long as the problem does.
    pub(super) fn problem(&self, trouble: &PodProblem) -> String {
        format!("{} {:?}", self.name, trouble.container)
    }
}

impl ContainerStatus {
    /// The reason for which it waits (kubelet `pkg/kubelet/kuberuntime`, `pkg/kubelet/images/types.go`), or
    /// is not ready while it runs.
    fn trouble(&self) -> Option<PodProblem> {
        let trouble =
            |what, weight| Some(PodProblem { container: Some(self.name.clone()), what, weight });
        let state = self.state.as_ref()?;
        let last = self.last_state.as_ref().and_then(|last| last.terminated.as_ref());
        let restarts = self.restart_count;
        let ended = last.or(state.terminated.as_ref()).map(|Terminated { reason, exit_code }| {
            let reason = reason.as_deref().unwrap_or("no reason");
            format!("it last ended with {reason}, exit code {exit_code} ({restarts} restarts)")
        });
        let Some(waiting) = &state.waiting else {
            if self.ready {
                return None;
            }
            // Between two restarts it runs for a moment, but its problem is not over.
            let what = ended.unwrap_or_else(|| "it runs and is not ready".to_owned());
            return trouble(what, Weight::Info);
        };
        let reason = waiting.reason.as_deref()?;
        let weight = match reason {
            "ContainerCreating" | "PodInitializing" => return None,
            // The first restarts may be a race with something that starts at the same time.
            "CrashLoopBackOff" if self.restart_count >= CERTAIN_RESTARTS => Weight::Fatal,
            "ImagePullBackOff"
            | "ErrImagePull"
            | "InvalidImageName"
            | "ErrImageNeverPull"
            | "CreateContainerConfigError"
            | "CreateContainerError"
            | "RunContainerError" => Weight::Suspect,
            _ => Weight::Info,
        };
        // Only the kubelet's own messages are repeated: a message of the runtime may contain the command.
        let message = waiting.message.as_deref().filter(|_| KUBELETS_OWN.contains(&reason));
        let what = words(reason, message);
        let what = match ended {
            Some(ended) => format!("{what}; {ended}"),
            None if restarts > 0 => format!("{what} ({restarts} restarts)"),
            None => what,
        };
        trouble(what, weight)
    }
}

/// A reason, and as much of its message as is worth repeating.
pub(super) fn words(reason: &str, message: Option<&str>) -> String {
    match message {
        Some(message) => {
            let message: String = message.chars().take(LONGEST_MESSAGE).collect();
            format!("{reason}: {message}")
        }
        None => reason.to_owned(),
    }
}

/// The number of restarts from which on a container that keeps ending is not waited for: the back-off of
/// the kubelet, 10 s and then 20 s, has passed.
const CERTAIN_RESTARTS: i32 = 2;

/// The number of characters of another component's message that are worth repeating.
const LONGEST_MESSAGE: usize = 300;

/// The reasons whose message names only images, Secrets, ConfigMaps, keys and times.
const KUBELETS_OWN: [&str; 6] = [
    "CrashLoopBackOff",
    "ImagePullBackOff",
    "ErrImagePull",
    "InvalidImageName",
    "ErrImageNeverPull",
    "CreateContainerConfigError",
];
