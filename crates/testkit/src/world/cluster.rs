//! Clusters: External Secrets that sync at times of their own, and workloads that replace their pods one at
//! a time.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use changeover_core::{
    ports::{Progress, Stamp},
    spec::{ParameterName, PicksUp, Place, SecretCopy, Side, Spec, Workload},
};
use changeover_token::{Digest, Fence, TokenName};

use super::{place::without_a_fence, state::State};
use jiff::Timestamp;

/// Everything that runs in clusters.
#[derive(Default)]
pub(super) struct Cluster {
    pub(super) copies: BTreeMap<ObjectName, Copy>,
    pub(super) deployments: BTreeMap<ObjectName, Deployment>,
    /// Clusters whose API servers do not answer.
    pub(super) lost: BTreeSet<String>,
    /// Clusters whose pods are excluded from the checks.
    pub(super) given_up: BTreeSet<String>,
    pods: u64,
}

/// `<cluster>/<namespace>/<name>`.
pub(super) type ObjectName = String;

/// The name of a workload's object.
pub(super) fn deployment_of(workload: &Workload) -> ObjectName {
    workload.to_string()
}

/// The name of the External Secret of a workload, or of the key that is written for it.
pub(super) fn copy_of(workload: &Workload) -> Option<ObjectName> {
    let copy = match workload.copy.as_ref()? {
        // It makes no difference here which object maintains an External Secret.
        SecretCopy::ExternalSecret { name, .. }
        | SecretCopy::ClusterExternalSecret { name, .. } => name.clone(),
        SecretCopy::Secret { name, key } => format!("{name}#{key}"),
    };
    Some(format!("{}/{}/{copy}", workload.cluster, workload.namespace))
}

/// A copy of a view in a Secret.
pub(super) struct Copy {
    pub(super) side: Side,
    /// The parameter that an External Secret reads, or `None` if only changeover writes the Secret.
    pub(super) parameter: Option<ParameterName>,
    /// The fence of the view that was written.
    pub(super) fence: Fence,
    interval: Duration,
    /// The value of its `force-sync` annotation: a new one each time.
    force: u64,
    /// `status.syncedResourceVersion`.
    pub(super) synced: String,
    /// The Secret's data, each with the time since when it is there. Its resourceVersion is the count.
    pub(super) data: Vec<(Timestamp, String)>,
    is_busy: bool,
    again: bool,
}

/// A Deployment and its pods.
pub(super) struct Deployment {
    pub(super) replicas: usize,
    /// The stamps of its template.
    pub(super) template: BTreeMap<(TokenName, Side), Fence>,
    mounts: Vec<Mount>,
    pub(super) pods: Vec<Pod>,
    /// The reason why new pods do not become ready, if they do not.
    pub(super) broken: Option<&'static str>,
    pub(super) is_paused: bool,
    /// True if a controller removes stamps a moment after they were set.
    pub(super) is_put_back: bool,
}

/// The path by which a token reaches the pods of a Deployment.
#[derive(Clone)]
pub(super) struct Mount {
    pub(super) token: TokenName,
    pub(super) side: Side,
    pub(super) copy: Option<ObjectName>,
    pub(super) place: Place,
    pub(super) picks_up: PicksUp,
}

/// A process that verifies or presents.
pub(super) struct Pod {
    id: u64,
    pub(super) started_at: Timestamp,
    pub(super) stamps: BTreeMap<(TokenName, Side), Fence>,
    /// The values that it read when it started.
    environment: BTreeMap<(TokenName, Side), String>,
    pub(super) is_ready: bool,
    pub(super) is_terminating: bool,
}

impl State {
    /// Creates everything that a spec names in clusters and that does not exist yet.
    pub(super) fn deploy(&mut self, spec: &Spec) {
        for side in Side::BOTH {
            let audience = spec.side(side);
            for workload in &audience.workloads {
                let places = audience.publications.iter().map(|publication| &publication.place);
                let parameter = places.clone().find_map(|place| match place {
                    Place::Parameter(name) => Some(name.clone()),
                    Place::Item { .. } => None,
                });
                let copy = copy_of(workload);
                if let (Some(copy), Some(parameter)) = (copy.clone(), parameter)
                    && workload.written_key().is_none()
                    && !self.cluster.copies.contains_key(&copy)
                {
                    self.create_copy(copy, side, parameter);
                }
                let Some(place) = places.clone().next().cloned() else { continue };
                let mount = Mount {
                    token: spec.token.clone(),
                    side,
                    copy,
                    place,
                    picks_up: workload.picks_up,
                };
                let name = deployment_of(workload);
                let replicas = 1 + self.dice.below(3);
                let deployment = self.cluster.deployments.entry(name.clone());
                let deployment = deployment.or_insert_with(|| Deployment::new(replicas));
                let is_it = |it: &Mount| (&it.token, it.side) == (&mount.token, side);
                deployment.mounts.retain(|it| !is_it(it));
                deployment.mounts.push(mount);
                self.progress(&name);
            }
        }
    }

    /// A Deployment that some spec names.
    pub(super) fn deployment(&mut self, name: &str) -> &mut Deployment {
        self.cluster.deployments.get_mut(name).expect("a workload of a spec")
    }

    /// Sets the `force-sync` annotation, and returns the version that was synced before.
    pub(super) fn force(&mut self, name: &ObjectName) -> Option<String> {
        let delay = self.dice.milliseconds(100..2_000);
        let copy = self.cluster.copies.get_mut(name)?;
        let before = copy.synced.clone();
        copy.force += 1;
        let copy = name.clone();
        self.later(delay, format!("{name} is forced to refresh"), move |it| it.sync(&copy));
        Some(before)
    }

    /// Stamps a template. A stamp that is earlier than the template's changes nothing.
    pub(super) fn stamp(&mut self, name: &ObjectName, stamp: &Stamp) -> Option<Progress<()>> {
        let Stamp { side, token, fence } = stamp;
        let deployment = self.cluster.deployments.get_mut(name)?;
        let standing = deployment.template.entry((token.clone(), *side)).or_default();
        if *standing > *fence {
            return Some(Progress::Ahead(*standing));
        }
        *standing = *fence;
        if deployment.is_put_back {
            let (name, key) = (name.clone(), (token.clone(), *side));
            self.later(PUT_BACK_AFTER, format!("a controller puts {name} back"), move |it| {
                it.deployment(&name).template.remove(&key);
                it.progress(&name);
            });
        }
        self.progress(name);
        Some(Progress::Done(()))
    }

    /// Applies a manifest that carries this stamp, as an operator does: the pods are replaced.
    pub(super) fn apply_stamp(&mut self, name: &str, stamp: Stamp) {
        let Stamp { side, token, fence } = stamp;
        let name = name.to_owned();
        self.deployment(&name).template.insert((token, side), fence);
        self.progress(&name);
        self.happened(&format!("an operator applies {name} with the stamp {fence}"));
    }

    /// The stamp of a template.
    pub(super) fn stamp_of(&self, name: &str, token: &TokenName, side: Side) -> Option<Fence> {
        self.cluster.deployments.get(name)?.template.get(&(token.clone(), side)).copied()
    }

    /// Copies a Secret with its annotation from another cluster, as an operator does.
    pub(super) fn mark_secret(&mut self, name: &str, side: Side, fence: Fence) {
        let copy = self.cluster.copies.entry(name.to_owned()).or_insert_with(|| Copy::new(side));
        copy.fence = fence;
        self.happened(&format!("an operator marks the Secret {name} with {fence}"));
    }

    /// Restarts a container of a random pod: it reads newer values, and its stamps stay as they are.
    pub(super) fn restart_some_pod(&mut self) {
        let names: Vec<_> = self.cluster.deployments.keys().cloned().collect();
        if names.is_empty() {
            return;
        }
        let name = self.dice.pick(&names).clone();
        let pods = self.cluster.deployments[&name].pods.len();
        if pods == 0 {
            return;
        }
        let chosen = self.dice.below(pods);
        if let Some(environment) = self.environment(&name) {
            let now = self.now;
            let deployment = self.cluster.deployments.get_mut(&name).expect("it was there");
            deployment.pods[chosen].environment = environment;
            deployment.pods[chosen].started_at = now;
            self.happened(&format!("a container of {name} starts anew"));
        }
    }

    /// Writes a key of a Secret, as a write that arrives now does. If the Secret holds a later view, fails
    /// with the fence of that view.
    pub(super) fn write_copy(
        &mut self,
        name: &ObjectName,
        stamp: &Stamp,
        value: &str,
    ) -> Result<(), Fence> {
        let Stamp { side, token, fence } = stamp;
        let now = self.now;
        let copy = self.cluster.copies.entry(name.clone()).or_insert_with(|| Copy::new(*side));
        if copy.fence > *fence {
            return Err(copy.fence);
        }
        copy.fence = *fence;
        if copy.data.last().is_none_or(|(_, data)| data != value) {
            copy.data.push((now, value.to_owned()));
        }
        if *side == Side::Presenters {
            let saved = self.records.presented_at(token, *fence);
            if saved.map(|(_, digest)| digest) != Some(Digest::of(value)) {
                self.violated(&format!(
                    "a value was written to {name} as {fence}, and no saved record says so"
                ));
            }
        }
        let deployments: Vec<_> = self.cluster.deployments.keys().cloned().collect();
        deployments.iter().for_each(|deployment| self.progress(deployment));
        Ok(())
    }

    /// The value that a Secret holds.
    pub(super) fn secret(&self, name: &str) -> String {
        let copy = self.cluster.copies.get(name).expect("a Secret of a spec");
        copy.data.last().map(|(_, value)| value.clone()).unwrap_or_default()
    }

    /// Writes a value into a Secret by hand.
    pub(super) fn edit_secret(&mut self, name: &str, value: &str) {
        let now = self.now;
        let copy = self.cluster.copies.get_mut(name).expect("a Secret of a spec");
        copy.data.push((now, value.to_owned()));
        self.happened(&format!("somebody edits the Secret {name}"));
    }

    fn create_copy(&mut self, name: ObjectName, side: Side, parameter: ParameterName) {
        let interval = *self.dice.pick(&[20, 60, 3_600]);
        let mut copy = Copy::new(side);
        copy.parameter = Some(parameter);
        copy.interval = Duration::from_secs(interval);
        self.cluster.copies.insert(name.clone(), copy);
        self.refresh(name, Duration::ZERO);
    }

    /// Puts a value into the Secrets that copy a parameter, as if they had copied it before.
    pub(super) fn copied_before(&mut self, place: &Place, value: &str) {
        let Place::Parameter(parameter) = place else { return };
        let now = self.now;
        let copies = self.cluster.copies.values_mut();
        for copy in copies.filter(|it| it.parameter.as_ref() == Some(parameter)) {
            copy.data.push((now, value.to_owned()));
        }
    }

    /// Syncs after a time, and then at each interval, or sooner while it never succeeded.
    fn refresh(&mut self, name: ObjectName, after: Duration) {
        self.later(after, format!("{name} refreshes"), move |it| {
            it.sync(&name);
            let copy = &it.cluster.copies[&name];
            let again = if copy.data.is_empty() { RETRY } else { copy.interval };
            it.refresh(name, again);
            it.is_quiet = true;
        });
    }

    /// Reconciles once: reads the parameter now, and writes the Secret a moment later.
    fn sync(&mut self, name: &ObjectName) {
        let took = self.dice.milliseconds(20..400);
        let copy = self.cluster.copies.get_mut(name).expect("it was created");
        if copy.is_busy {
            copy.again = true;
            return;
        }
        copy.is_busy = true;
        let force = copy.force;
        let parameter = copy.parameter.clone().expect("an External Secret reads a parameter");
        let place = Place::Parameter(parameter);
        let side = copy.side;
        let value = self.places.get(&place).and_then(|it| it.value(side)).map(str::to_owned);
        let name = name.clone();
        self.later(took, format!("{name} was refreshed"), move |it| {
            let now = it.now;
            let copy = it.cluster.copies.get_mut(&name).expect("it was created");
            copy.is_busy = false;
            let mut changes = false;
            if let Some(value) = value {
                copy.synced = format!("1-{force}");
                changes = copy.data.last().is_none_or(|(_, data)| *data != value);
                if changes {
                    copy.data.push((now, value));
                }
            }
            if std::mem::take(&mut copy.again) {
                it.sync(&name);
            }
            if changes {
                let deployments: Vec<_> = it.cluster.deployments.keys().cloned().collect();
                deployments.iter().for_each(|deployment| it.progress(deployment));
            }
            it.is_quiet = !changes;
        });
    }

    /// Takes the next step towards the template: one new pod, then one old pod less.
    pub(super) fn progress(&mut self, name: &ObjectName) {
        let deployment = &self.cluster.deployments[name];
        if deployment.is_paused && !deployment.pods.is_empty() {
            return;
        }
        let is_moving = deployment.pods.iter().any(|pod| !pod.is_ready || pod.is_terminating);
        if deployment.pods.is_empty() {
            for _ in 0..deployment.replicas {
                self.start_pod(name);
            }
        } else if !is_moving {
            if deployment.pods.len() > deployment.replicas {
                self.terminate_old_pod(name);
            } else if deployment.pods.len() < deployment.replicas
                || deployment.pods.iter().any(|pod| pod.stamps != deployment.template)
            {
                // Too few pods are left if the template was changed back after some of them had ended.
                self.start_pod(name);
            }
        }
    }

    fn start_pod(&mut self, name: &ObjectName) {
        // A pod without its Secret does not start.
        let Some(environment) = self.environment(name) else { return };
        let now = self.now;
        self.cluster.pods += 1;
        let id = self.cluster.pods;
        let deployment = self.cluster.deployments.get_mut(name).expect("it was deployed");
        deployment.pods.push(Pod {
            id,
            started_at: now,
            stamps: deployment.template.clone(),
            environment,
            is_ready: false,
            is_terminating: false,
        });
        self.await_ready(name.clone(), id);
    }

    fn await_ready(&mut self, name: ObjectName, id: u64) {
        let ready = self.dice.milliseconds(300..3_000);
        self.later(ready, format!("pod {id} of {name} is ready"), move |it| {
            let deployment = it.cluster.deployments.get_mut(&name).expect("it was deployed");
            let template = deployment.template.clone();
            let Some(pod) = deployment.pods.iter_mut().find(|pod| pod.id == id) else { return };
            if pod.stamps != template {
                // The template changed while the pod started, so its ReplicaSet is scaled down.
                pod.is_terminating = true;
                pod.is_ready = true;
                it.await_gone(name, id);
            } else if deployment.broken.is_some() {
                it.await_ready(name, id);
            } else {
                pod.is_ready = true;
                it.progress(&name);
            }
        });
    }

    fn terminate_old_pod(&mut self, name: &ObjectName) {
        let deployment = self.cluster.deployments.get_mut(name).expect("it was deployed");
        let template = deployment.template.clone();
        let old = deployment.pods.iter_mut().find(|pod| pod.stamps != template);
        let Some(pod) = old else { return };
        pod.is_terminating = true;
        let id = pod.id;
        self.await_gone(name.clone(), id);
    }

    fn await_gone(&mut self, name: ObjectName, id: u64) {
        let gone = self.dice.milliseconds(200..4_000);
        self.later(gone, format!("pod {id} of {name} is gone"), move |it| {
            let deployment = it.cluster.deployments.get_mut(&name).expect("it was deployed");
            deployment.pods.retain(|pod| pod.id != id);
            it.progress(&name);
        });
    }

    /// The values that a container reads if it starts now, or `None` if something that it mounts is
    /// missing.
    fn environment(&mut self, name: &ObjectName) -> Option<BTreeMap<(TokenName, Side), String>> {
        let mounts = self.cluster.deployments[name].mounts.clone();
        let mut environment = BTreeMap::new();
        for mount in mounts {
            let value = match &mount.copy {
                Some(copy) => {
                    // A kubelet may start a container with the data that the Secret had a moment ago.
                    let is_behind = self.dice.one_in(2);
                    let data = &self.cluster.copies.get(copy)?.data;
                    let (since, value) = data.last()?;
                    let is_fresh = *since + KUBELET_LAG > self.now;
                    let before = data.len().checked_sub(2).map(|last| &data[last].1);
                    before.filter(|_| is_fresh && is_behind).unwrap_or(value).clone()
                }
                None => self.places.get(&mount.place)?.value(mount.side)?.to_owned(),
            };
            environment.insert((mount.token, mount.side), value);
        }
        Some(environment)
    }
}

impl Copy {
    fn new(side: Side) -> Self {
        Self {
            side,
            parameter: None,
            fence: Fence::default(),
            interval: Duration::ZERO,
            force: 0,
            synced: String::new(),
            data: Vec::new(),
            is_busy: false,
            again: false,
        }
    }
}

impl Cluster {
    /// Removes the life from every stamp and from every copy.
    pub(super) fn downgrade(&mut self) {
        for copy in self.copies.values_mut() {
            copy.fence.life = None;
            copy.data.iter_mut().for_each(|(_, value)| *value = without_a_fence(value));
        }
        for deployment in self.deployments.values_mut() {
            let stamps = deployment.pods.iter_mut().flat_map(|pod| pod.stamps.values_mut());
            stamps.chain(deployment.template.values_mut()).for_each(|fence| fence.life = None);
            let environments = deployment.pods.iter_mut().map(|pod| &mut pod.environment);
            environments
                .flat_map(BTreeMap::values_mut)
                .for_each(|value| *value = without_a_fence(value));
        }
    }
}

impl Deployment {
    fn new(replicas: usize) -> Self {
        Self {
            replicas,
            template: BTreeMap::new(),
            mounts: Vec::new(),
            pods: Vec::new(),
            broken: None,
            is_paused: false,
            is_put_back: false,
        }
    }

    /// All values of a token's view that its pods may hold now.
    pub(super) fn held<'a>(
        &'a self,
        state: &'a State,
        token: &TokenName,
        side: Side,
    ) -> BTreeSet<&'a str> {
        let mut held = BTreeSet::new();
        let mounts = self.mounts.iter().filter(|it| &it.token == token && it.side == side);
        for mount in mounts {
            match mount.picks_up {
                PicksUp::Restart => {
                    let serves = |pod: &&Pod| side == Side::Presenters || pod.is_ready;
                    let environments = self.pods.iter().filter(serves).map(|it| &it.environment);
                    let key = (token.clone(), side);
                    held.extend(environments.filter_map(|it| it.get(&key)).map(String::as_str));
                }
                PicksUp::Within(_) if self.pods.is_empty() => {}
                PicksUp::Within(within) => match &mount.copy {
                    Some(copy) => {
                        let data = state.cluster.copies.get(copy).map_or(&[][..], |it| &it.data);
                        held.extend(readable(data, within, state.now));
                    }
                    None => {
                        let place = state.places.get(&mount.place);
                        held.extend(
                            place.into_iter().flat_map(|it| it.readable(side, within, state.now)),
                        );
                    }
                },
            }
        }
        held
    }
}

/// The last of these values, and those that were the last one less than `within` ago.
fn readable(
    data: &[(Timestamp, String)],
    within: Duration,
    now: Timestamp,
) -> impl Iterator<Item = &str> {
    let replaced = data.iter().skip(1).map(|(since, _)| Some(*since)).chain([None]);
    data.iter()
        .zip(replaced)
        .filter(move |(_, replaced)| replaced.is_none_or(|at| at + within > now))
        .map(|((_, value), _)| value.as_str())
}

/// The time after which a controller that owns a workload undoes a change of it.
const PUT_BACK_AFTER: Duration = Duration::from_secs(2);
/// The time after which an External Secret that never synced tries again.
const RETRY: Duration = Duration::from_secs(15);
/// The time after a sync during which a container may start with the previous Secret (kubernetes/kubernetes
/// issue 129645).
const KUBELET_LAG: Duration = Duration::from_millis(1_500);
