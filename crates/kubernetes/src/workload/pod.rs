//! Pods, as far as a rollout is judged by them.

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

/// A pod without all that nobody here asks for: there may be thousands in a namespace.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Pod {
    #[serde(deserialize_with = "what_matters")]
    metadata: ObjectMeta,
    spec: Option<Spec>,
    status: Option<Status>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    node_name: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Status {
    phase: Option<String>,
    /// Why the pod as a whole is as it is: `NodeLost`, `Evicted`.
    reason: Option<String>,
    conditions: Option<Vec<Condition>>,
    init_container_statuses: Option<Vec<Container>>,
    container_statuses: Option<Vec<Container>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
    reason: Option<String>,
    message: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Container {
    name: String,
    ready: bool,
    restart_count: i32,
    state: Option<State>,
    last_state: Option<State>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct State {
    waiting: Option<Waiting>,
    terminated: Option<Terminated>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Waiting {
    reason: Option<String>,
    message: Option<String>,
}

/// Its `message` is not read: it is what the container itself wrote to its termination log, or the
/// end of what it logged.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Terminated {
    reason: Option<String>,
    exit_code: i32,
}

/// The same object as `k8s_openapi`'s.
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

/// Annotations that are ours: those of others may be long.
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

/// A pod that runs, or may, on behalf of a controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Replica {
    /// Its name.
    pub(crate) name: String,
    /// Its labels.
    pub(crate) labels: BTreeMap<String, String>,
    /// What controls it.
    pub(crate) controller: Controller,
    /// Which template it was made from: the uid of its ReplicaSet, or the label that its controller
    /// puts on it.
    pub(super) template: Option<String>,
    /// The stamp of that template.
    pub(super) stamp: Option<Fence>,
    /// The node that it runs on.
    pub(super) node: Option<String>,
    /// Whether it was told to end.
    pub(super) is_terminating: bool,
    /// Whether it is ready, as the API server knows.
    pub(super) is_ready: bool,
    /// What keeps it from being ready.
    pub(super) trouble: Option<Trouble>,
}

/// What controls a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Controller {
    /// `ReplicaSet`, `StatefulSet` or `DaemonSet`.
    pub(crate) kind: String,
    /// Its name.
    pub(crate) name: String,
    /// Its uid.
    pub(crate) uid: String,
}

/// What keeps a pod from being ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    /// The container, or nothing where it is the pod itself.
    container: Option<String>,
    /// In words.
    what: String,
    /// What it means.
    pub(super) weight: Weight,
}

/// Whether trouble goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Weight {
    /// It may.
    Told,
    /// It seldom does.
    Suspicious,
    /// It does not.
    Certain,
}

impl Replica {
    /// Reads a pod; `None` where it has ended, or is nobody's.
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
            .filter_map(Container::trouble)
            .chain(containers.clone().filter_map(Container::trouble))
            .max_by_key(|trouble| trouble.weight);
        let told = |what| Some(Trouble { container: None, what, weight: Weight::Told });
        let of_itself = || {
            let scheduled = condition("PodScheduled").filter(|it| it.status == "False");
            if let Some(Condition { reason, message, .. }) = scheduled {
                let reason = reason.as_deref().unwrap_or("Unschedulable");
                return told(words(reason, message.as_deref()));
            }
            if let Some(reason) = &status.reason {
                return told(reason.clone());
            }
            // A kubelet that is not there cannot say so: the node controller marks its pods.
            let says_ready =
                containers.clone().count() > 0 && containers.clone().all(|it| it.ready);
            match says_ready && condition("Ready").is_some_and(|it| it.status == "False") {
                true => told(
                    "its containers are ready and it is not: its node does not answer, or a \
                     readiness gate is closed"
                        .to_owned(),
                ),
                false => None,
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

    /// Whether something keeps it from being ready that may be the rollout's end.
    pub(crate) fn is_in_trouble(&self) -> bool {
        self.trouble.as_ref().is_some_and(|trouble| trouble.weight > Weight::Told)
    }

    /// Whether it was made from a template with another stamp, or with none. A later stamp proves nothing:
    /// it is that of another view.
    pub(crate) fn is_of_another_view(&self, fence: Fence) -> bool {
        self.stamp != Some(fence)
    }

    /// Which pod it is, and where.
    pub(super) fn told(&self) -> String {
        match &self.node {
            Some(node) => format!("pod {} on node {node}", self.name),
            None => format!("pod {}", self.name),
        }
    }

    /// What keeps it from being ready, in words.
    pub(super) fn told_with(&self, trouble: &Trouble) -> String {
        match &trouble.container {
            Some(container) => format!("{}, container {container}: {}", self.told(), trouble.what),
            None => format!("{}: {}", self.told(), trouble.what),
        }
    }

    /// What is the same as long as it is the same trouble.
    pub(super) fn culprit(&self, trouble: &Trouble) -> String {
        format!("{} {:?}", self.name, trouble.container)
    }
}

impl Container {
    /// Why it waits (kubelet `pkg/kubelet/kuberuntime`, `pkg/kubelet/images/types.go`), or is not
    /// ready while it runs.
    fn trouble(&self) -> Option<Trouble> {
        let trouble =
            |what, weight| Some(Trouble { container: Some(self.name.clone()), what, weight });
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
            // Between two restarts it runs for a moment, and its trouble is not over.
            let what = ended.unwrap_or_else(|| "it runs and is not ready".to_owned());
            return trouble(what, Weight::Told);
        };
        let reason = waiting.reason.as_deref()?;
        let weight = match reason {
            "ContainerCreating" | "PodInitializing" => return None,
            // The first restarts may be a race with something that starts at the same time.
            "CrashLoopBackOff" if self.restart_count >= CERTAIN_RESTARTS => Weight::Certain,
            "ImagePullBackOff"
            | "ErrImagePull"
            | "InvalidImageName"
            | "ErrImageNeverPull"
            | "CreateContainerConfigError"
            | "CreateContainerError"
            | "RunContainerError" => Weight::Suspicious,
            _ => Weight::Told,
        };
        // Only what the kubelet itself wrote is repeated: a runtime may repeat the command.
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

/// From this restart on, a container that ends again and again is not waited for: the kubelet's
/// back-off, 10 s and then 20 s, has gone by.
const CERTAIN_RESTARTS: i32 = 2;

/// Characters of somebody else's message that are worth repeating.
const LONGEST_MESSAGE: usize = 300;

/// Reasons whose message names images, Secrets, ConfigMaps, keys and times, and nothing else.
const KUBELETS_OWN: [&str; 6] = [
    "CrashLoopBackOff",
    "ImagePullBackOff",
    "ErrImagePull",
    "InvalidImageName",
    "ErrImageNeverPull",
    "CreateContainerConfigError",
];
