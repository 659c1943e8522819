//! The wait for the ExternalSecrets of a namespace, by one watch.

use std::{borrow::Cow, collections::BTreeMap, time::Duration};

use changeover_core::{
    error::{Error, Kind},
    ports::{Progress, SyncedBefore},
    record::{Held, SecretRevision},
    spec::{ParameterName, Workload},
};
use changeover_token::Digest;
use futures::StreamExt;
use kube::runtime::watcher::{self, Event};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::{
    Source, failure,
    force::{force_again, last_force},
    needs_prefixes, object, read_keeper, secret, secret_key, source,
};
use crate::{
    KubernetesClusters,
    call::{Target, spread},
    cluster_external_secret::why_absent,
    external_secret::{self, ExternalSecret, Prefixes, copies, obstacles, secret_name},
    external_secrets_api, store,
    watch::watch,
};

/// See [`changeover_core::ports::SecretCopies::synced`].
///
/// An ExternalSecret that synced an older value than the published one is forced to refresh again, a few
/// times: a store may answer with the value that it held a moment ago. The wait ends early if one of them
/// is stuck.
pub(crate) async fn synced(
    kubernetes: &KubernetesClusters,
    told: &[(&Workload, SyncedBefore)],
    intended: &BTreeMap<ParameterName, Digest>,
    within: Duration,
) -> Vec<Result<Progress<SecretRevision>, Error>> {
    let deadline = Instant::now() + within;
    let parameters = intended.keys().cloned().collect();
    let mut waits = Waits {
        kubernetes,
        told,
        intended,
        parameters,
        awaited: Vec::new(),
        ended: told.iter().map(|_| None).collect(),
    };
    if let Ok(Err(error)) = timeout_at(deadline, waits.until_synced()).await {
        waits.ended.iter_mut().for_each(|ended| {
            ended.get_or_insert_with(|| Err(error.clone()));
        });
    }
    waits.answers()
}

/// One wait for all ExternalSecrets of a namespace.
struct Waits<'a> {
    kubernetes: &'a KubernetesClusters,
    told: &'a [(&'a Workload, SyncedBefore)],
    intended: &'a BTreeMap<ParameterName, Digest>,
    parameters: Vec<ParameterName>,
    awaited: Vec<Awaited<'a>>,
    /// The result of the wait for each workload; `None` while the wait continues.
    ended: Vec<Option<Result<Progress<SecretRevision>, Error>>>,
}

/// One ExternalSecret, and its progress.
struct Awaited<'a> {
    source: Source<'a>,
    /// A workload that it is for. It determines the namespace and the keeper.
    workload: &'a Workload,
    /// The prefixes that its stores put before each key, once they are known.
    prefixes: Option<Prefixes>,
    /// The workloads that it is for, by their index among those that are waited for.
    readers: Vec<usize>,
    /// True if a list has shown it.
    is_there: bool,
    /// The time since which it is absent although a ClusterExternalSecret must make it.
    absent_since: Option<Instant>,
    /// The `syncedResourceVersion` that was examined last.
    looked_at: String,
    /// The number of refreshes that were forced again.
    refreshes: u32,
    /// The time at which the next refresh is forced.
    refresh_at: Option<Instant>,
    /// The value that forced it last.
    force: String,
    failing: Option<Failing>,
    /// The condition that is awaited, in words.
    words: String,
    is_done: bool,
}

struct Failing {
    since: Instant,
    message: String,
}

impl<'a> Waits<'a> {
    /// Returns when all are done, or one is stuck. An error concerns all that did not end.
    async fn until_synced(&mut self) -> Result<(), Error> {
        self.find_out().await;
        if !self.goes_on() {
            return Ok(());
        }
        let (kubernetes, workload) = (self.kubernetes, self.awaited[0].workload);
        let version = external_secrets_api::version(kubernetes, workload).await?;
        // A single one is watched alone. With several, events of the namespace's other ExternalSecrets are
        // ignored.
        let (name, configuration) = match self.awaited.as_slice() {
            [only] => (only.source.name.clone(), watcher::Config::default()),
            _ => (String::new(), watcher::Config::default()),
        };
        let configuration = match name.as_str() {
            "" => configuration,
            name => configuration.fields(&format!("metadata.name={name}")),
        };
        let target = Target::beside(workload, "watch", external_secret::RESOURCE, &name);
        let events = watch(&*kubernetes.access, target, configuration, move |client| {
            external_secrets_api::external_secrets(client, workload, version)
        });
        let mut events = std::pin::pin!(events);

        // Timers run beside the watch: a refresh that is due, a failure that lasts, an absence that lasts.
        while self.goes_on() {
            let wake_at = self.awaited.iter().filter_map(Awaited::wakes_at).min();
            let event = tokio::select! {
                event = events.next() => event,
                () = sleep_until(wake_at.unwrap_or_else(Instant::now)), if wake_at.is_some() => None,
            };
            match event.transpose()? {
                Some(Event::Init) => self.awaited.iter_mut().for_each(|it| it.is_there = false),
                Some(Event::InitApply(seen) | Event::Apply(seen)) => {
                    if let Some(index) = self.awaits(&seen) {
                        self.seen(index, &seen).await;
                    }
                }
                Some(Event::InitDone) => {
                    for index in 0..self.awaited.len() {
                        if !self.awaited[index].is_there {
                            self.absent(index);
                        }
                    }
                }
                Some(Event::Delete(gone)) => {
                    if let Some(index) = self.awaits(&gone) {
                        self.absent(index);
                    }
                }
                None => self.wake().await,
            }
        }
        Ok(())
    }

    /// Finds the ExternalSecrets to wait for. Each one that a ClusterExternalSecret keeps costs a read.
    async fn find_out(&mut self) {
        for (index, (workload, before)) in self.told.iter().enumerate() {
            // A workload whose ExternalSecret is not found ends here, and with it the wait for all.
            let source = match source(self.kubernetes, workload).await {
                Ok(Some(source)) => source,
                Ok(None) => {
                    self.ended[index] = Some(match &workload.copy {
                        Some(_) => Ok(stuck(
                            workload.copy_told(),
                            "it does not exist",
                            "create it, or correct the spec",
                        )),
                        None => Err(Error::new(
                            Kind::Internal,
                            "wait for a sync of",
                            "the workload names no ExternalSecret",
                            "report this message",
                        )
                        .on(workload)),
                    });
                    continue;
                }
                Err(error) => {
                    self.ended[index] = Some(Err(error));
                    continue;
                }
            };
            // Workloads that share an ExternalSecret share its wait, so that each refresh is forced once.
            match self.awaited.iter_mut().find(|it| it.source.name == source.name) {
                Some(awaited) => awaited.readers.push(index),
                None => self.awaited.push(Awaited {
                    words: format!("ExternalSecret {} was not looked at yet", source.name),
                    source,
                    workload,
                    prefixes: None,
                    readers: vec![index],
                    is_there: false,
                    absent_since: None,
                    looked_at: before.synced_resource_version.clone(),
                    refreshes: 0,
                    refresh_at: None,
                    force: String::new(),
                    failing: None,
                    is_done: false,
                }),
            }
        }
    }

    fn goes_on(&self) -> bool {
        let is_over = |ended: &Option<_>| matches!(ended, Some(Ok(Progress::Stuck(_)) | Err(_)));
        self.awaited.iter().any(|it| !it.is_done) && !self.ended.iter().any(is_over)
    }

    fn awaits(&self, seen: &ExternalSecret) -> Option<usize> {
        let name = seen.metadata.name.as_deref();
        let is_it = |it: &Awaited<'_>| Some(it.source.name.as_str()) == name && !it.is_done;
        self.awaited.iter().position(is_it)
    }

    fn ends_with(&mut self, index: usize, ending: &Result<Progress<SecretRevision>, Error>) {
        for reader in &self.awaited[index].readers {
            self.ended[*reader] = Some(ending.clone());
        }
    }

    fn is_stuck(&mut self, index: usize, reason: &str, fix: &str) {
        let awaited = &self.awaited[index];
        let object = object(awaited.workload, &awaited.source.name);
        self.ends_with(index, &Ok(stuck(object, reason, fix)));
    }

    /// Handles its absence. An ExternalSecret that nothing makes again is stuck at once.
    fn absent(&mut self, index: usize) {
        let awaited = &mut self.awaited[index];
        if awaited.is_done {
            return;
        }
        awaited.is_there = false;
        match awaited.source.keeper {
            None => self.is_stuck(index, "it does not exist", "create it, or correct the spec"),
            Some(keeper) => {
                awaited.words = format!(
                    "ClusterExternalSecret {keeper} has not made ExternalSecret {} here",
                    awaited.source.name
                );
                awaited.absent_since.get_or_insert_with(Instant::now);
            }
        }
    }

    /// Acts on every timer that has expired.
    async fn wake(&mut self) {
        let now = Instant::now();
        for index in 0..self.awaited.len() {
            let awaited = &mut self.awaited[index];
            if awaited.wakes_at().is_none_or(|at| at > now) {
                continue;
            }
            let (kubernetes, workload) = (self.kubernetes, awaited.workload);
            if awaited.refresh_at.take_if(|at| *at <= now).is_some() {
                awaited.refreshes += 1;
                let again =
                    force_again(kubernetes, workload, &awaited.source, &awaited.force).await;
                if let Err(error) = again {
                    self.ends_with(index, &Err(error));
                }
            } else if awaited.absent_since.is_some_and(|since| since + ABSENT_FOR <= now) {
                match read_keeper(kubernetes, workload).await {
                    Err(error) => self.ends_with(index, &Err(error)),
                    Ok(keeper) => {
                        let (reason, fix) = match keeper {
                            Some(keeper) => why_absent(&keeper, &workload.namespace),
                            None => ("it was deleted".to_owned(), "create it again".to_owned()),
                        };
                        let object = workload.copy_told();
                        self.ends_with(index, &Ok(stuck(object, reason, fix)));
                    }
                }
            } else if let Some(failing) =
                awaited.failing.as_ref().filter(|failing| failing.since + FAILING_FOR <= now)
            {
                let (name, message) = (&awaited.source.name, &failing.message);
                let reason = failure(kubernetes, workload, name, message).await;
                self.is_stuck(
                    index,
                    &format!("it cannot be synced: {reason}"),
                    "read its events and its SecretStore's; once it syncs, the next run carries on",
                );
            }
        }
    }

    /// Handles its presence in this state.
    async fn seen(&mut self, index: usize, seen: &ExternalSecret) {
        let (kubernetes, told) = (self.kubernetes, self.told);
        let awaited = &mut self.awaited[index];
        let (workload, source) = (awaited.workload, &awaited.source);
        let name = &source.name;
        awaited.is_there = true;
        awaited.absent_since = None;

        // Stores are read only if a key cannot be matched without their prefix.
        let object = object(workload, name);
        let keys: Vec<_> =
            awaited.readers.iter().map(|reader| secret_key(told[*reader].0)).collect();
        let mut seen = Cow::Borrowed(seen);
        if keys.iter().any(|key| needs_prefixes(&seen.spec, *key, &self.parameters)) {
            if awaited.prefixes.is_none() {
                match store::prefixes(kubernetes, workload, &seen.spec).await {
                    Ok(prefixes) => awaited.prefixes = Some(prefixes),
                    Err(error) => return self.ends_with(index, &Err(error)),
                }
            }
            seen.to_mut().spec.put_before(awaited.prefixes.as_ref().unwrap_or(&Prefixes::new()));
        }
        let seen = &*seen;
        // An obstacle never passes by itself, so the wait ends at once.
        let mut found = keys
            .iter()
            .flat_map(|key| obstacles(&object, seen, *key, source.keeper, &self.parameters));
        if let Some(obstacle) = found.next() {
            return self.is_stuck(index, &obstacle.reason, &obstacle.fix);
        }
        let status = seen.status.clone().unwrap_or_default();
        last_force(seen).clone_into(&mut awaited.force);

        // No sync since the last one examined. A failure may pass, so its time starts here.
        if status.synced_resource_version == awaited.looked_at {
            match status.ready().filter(|ready| ready.status == "False") {
                None => awaited.failing = None,
                Some(_) if awaited.failing.is_some() => {}
                Some(ready) => {
                    let message = ready.message.clone();
                    let why = failure(kubernetes, workload, name, &message).await;
                    awaited.words = format!("ExternalSecret {name} fails to sync: {why}");
                    awaited.failing = Some(Failing { since: Instant::now(), message });
                }
            }
            if awaited.failing.is_none() && awaited.refresh_at.is_none() {
                awaited.words =
                    format!("ExternalSecret {name} has not synced since its refresh was requested");
            }
            return;
        }
        awaited.failing = None;
        awaited.looked_at.clone_from(&status.synced_resource_version);

        // A new sync proves nothing by itself: the digests of the Secret must be those of the published
        // values.
        let secret = match secret::read(kubernetes, workload, secret_name(seen)).await {
            Ok(secret) => secret,
            Err(error) => return self.ends_with(index, &Err(error)),
        };
        let mut reason = None;
        for (reader, key) in awaited.readers.iter().zip(&keys) {
            let copies = copies(&seen.spec, *key, self.parameters.iter());
            let holds = |copy: &external_secret::Copy<'_>| {
                let held = secret.as_ref().and_then(|it| it.digests.get(copy.secret_key));
                copy.parameters.iter().any(|name| held == self.intended.get(*name))
            };
            match (&secret, copies.iter().find(|copy| !holds(copy))) {
                (Some(secret), None) => {
                    let revision = secret.revision(copies.iter().map(|copy| copy.secret_key));
                    self.ended[*reader] = Some(Ok(Progress::Done(revision)));
                }
                (None, _) => {
                    reason = Some(format!("Secret {} does not exist", secret_name(seen)));
                }
                (Some(_), Some(copy)) => {
                    reason = Some(format!(
                        "key {} of Secret {} does not hold what was published",
                        copy.secret_key,
                        secret_name(seen)
                    ));
                }
            }
        }
        let Some(mut reason) = reason else {
            awaited.is_done = true;
            return;
        };
        // External Secrets may consider this state correct. Its message then states what it did instead.
        let said = status.ready().map_or("", |ready| ready.message.as_str());
        if !matches!(said, "" | "secret synced") {
            reason += &format!("; it says: {said}");
        }
        // It synced another value. The store may lag, so it is forced again until the attempts are used up.
        if awaited.refreshes == REFRESHES {
            let reason = format!("it synced {} times and {reason}", awaited.refreshes + 1);
            return self.is_stuck(
                index,
                &reason,
                "see who else writes the parameter or the Secret, and whether its SecretStore reads \
                 the account and region that changeover publishes to",
            );
        }
        awaited.words = format!("ExternalSecret {name} has synced, and {reason}");
        let pause = FIRST_REFRESH_AFTER * 2_u32.pow(awaited.refreshes);
        awaited.refresh_at = Some(Instant::now() + spread(pause, &object));
    }

    /// Returns the results in the order of the workloads.
    fn answers(self) -> Vec<Result<Progress<SecretRevision>, Error>> {
        let Self { awaited, ended, .. } = self;
        let words = |reader: usize| {
            let awaited = awaited.iter().find(|it| it.readers.contains(&reader));
            awaited.map_or("it was not looked at yet".to_owned(), |it| it.words.clone())
        };
        let ended = ended.into_iter().enumerate();
        ended
            .map(|(reader, it)| it.unwrap_or_else(|| Ok(Progress::UnderWay(words(reader)))))
            .collect()
    }
}

impl Awaited<'_> {
    /// The time of the next action that needs no event.
    fn wakes_at(&self) -> Option<Instant> {
        let give_up_at = self.failing.as_ref().map(|failing| failing.since + FAILING_FOR);
        let absent_at = self.absent_since.map(|since| since + ABSENT_FOR);
        let times = [self.refresh_at, give_up_at, absent_at];
        times.into_iter().flatten().min().filter(|_| !self.is_done)
    }
}

fn stuck(
    object: impl Into<String>,
    reason: impl Into<String>,
    fix: impl Into<String>,
) -> Progress<SecretRevision> {
    Progress::Stuck(Held::new(object, reason, fix))
}

/// The number of times that an ExternalSecret which synced another value is forced to refresh again, with
/// pauses of 1, 2, 4, 8 and 16 s and a little more.
const REFRESHES: u32 = 5;

/// The first of these pauses.
const FIRST_REFRESH_AFTER: Duration = Duration::from_secs(1);

/// The time after which a failing ExternalSecret is reported as stuck: External Secrets itself tries again
/// after 1, 2, 4, ... s.
const FAILING_FOR: Duration = Duration::from_secs(60);

/// The time in which a ClusterExternalSecret that was just patched must make its ExternalSecret.
const ABSENT_FOR: Duration = Duration::from_secs(15);
