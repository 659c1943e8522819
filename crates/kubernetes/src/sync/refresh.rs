//! The forced refresh of the ExternalSecrets of a namespace, and the wait for them, by one watch.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use changeover_core::{
    error::Error,
    ports::Progress,
    record::{Held, SecretRevision},
    spec::{ParameterName, Workload},
};
use changeover_token::Digest;
use futures::{Stream, StreamExt, future::join_all};
use kube::runtime::watcher::{self, Event as Watched};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::{
    Source, failure,
    force::{force, force_again, last_force},
    needs_prefixes, object,
    progress::{CopyAction, CopyEvent, CopyWait},
    read_keeper, secret, secret_key,
};
use crate::{
    KubernetesClusters,
    call::Target,
    cluster_external_secret::why_absent,
    external_secret::{self, ExternalSecret, Prefixes, copies, obstacles, secret_name},
    external_secrets_api, store,
    watch::watch,
};

/// See [`changeover_core::ports::SecretCopies::refresh`].
///
/// An ExternalSecret that synced an older value than the published one is forced to refresh again, a few
/// times: a store may answer with the value that it held a moment ago. The wait ends early if one of them
/// is stuck.
pub(crate) async fn refresh(
    kubernetes: &KubernetesClusters,
    workloads: &[&Workload],
    force: &str,
    intended: &BTreeMap<ParameterName, Digest>,
    within: Duration,
) -> Vec<RefreshResult> {
    let deadline = Instant::now() + within;
    let mut refresh = Refresh {
        kubernetes,
        workloads,
        intended,
        parameters: intended.keys().cloned().collect(),
        awaited: Vec::new(),
        ended: workloads.iter().map(|_| None).collect(),
    };
    refresh.force_all(force).await;
    if let Ok(Err(error)) = timeout_at(deadline, refresh.until_synced()).await {
        refresh.ended.iter_mut().for_each(|ended| {
            ended.get_or_insert_with(|| Err(error.clone()));
        });
    }
    refresh.answers()
}

/// The result for one workload. `None` if what its spec names does not exist.
type RefreshResult = Result<Option<Progress<SecretRevision>>, Error>;

/// One refresh of all ExternalSecrets of a namespace.
struct Refresh<'a> {
    kubernetes: &'a KubernetesClusters,
    workloads: &'a [&'a Workload],
    intended: &'a BTreeMap<ParameterName, Digest>,
    parameters: Vec<ParameterName>,
    awaited: Vec<Awaited<'a>>,
    /// The result for each workload; `None` while it is waited for.
    ended: Vec<Option<RefreshResult>>,
}

/// One ExternalSecret that is waited for.
struct Awaited<'a> {
    source: Source<'a>,
    /// A workload that it is for. It determines the namespace and the keeper.
    workload: &'a Workload,
    /// The workloads that it is for, by their index among those that are waited for.
    readers: Vec<usize>,
    /// The prefixes that its stores put before each key, once they are known.
    prefixes: Option<Prefixes>,
    /// The value that forced it last.
    force: String,
    wait: CopyWait,
}

impl<'a> Refresh<'a> {
    /// Forces each ExternalSecret to refresh, all at once.
    async fn force_all(&mut self, value: &str) {
        let mut by_copy: BTreeMap<_, Vec<usize>> = BTreeMap::new();
        for (index, workload) in self.workloads.iter().enumerate() {
            let copy = workload.copy.as_ref().map(ToString::to_string);
            by_copy.entry(copy).or_default().push(index);
        }
        let (kubernetes, workloads) = (self.kubernetes, self.workloads);
        let forced = by_copy.values().map(|it| force(kubernetes, workloads[it[0]], value));
        let forced = join_all(forced).await;
        for (readers, forced) in by_copy.into_values().zip(forced) {
            let (source, synced) = match forced {
                Ok(Some(forced)) => forced,
                Ok(None) => {
                    self.end(&readers, &Ok(None));
                    continue;
                }
                Err(error) => {
                    self.end(&readers, &Err(error));
                    continue;
                }
            };
            // Two specs may name one ExternalSecret, by itself and by its ClusterExternalSecret.
            match self.awaited.iter_mut().find(|it| it.source.name == source.name) {
                Some(awaited) => awaited.readers.extend(readers),
                None => {
                    let workload = workloads[readers[0]];
                    let object = object(workload, &source.name);
                    let wait = CopyWait::new(object, source.keeper.is_some(), synced);
                    let (prefixes, force) = (None, String::new());
                    self.awaited.push(Awaited { source, workload, readers, prefixes, force, wait });
                }
            }
        }
    }

    /// Returns when all are done, or one is stuck. An error concerns all that did not end.
    async fn until_synced(&mut self) -> Result<(), Error> {
        if !self.is_under_way() {
            return Ok(());
        }
        // A single ExternalSecret is watched alone. With several, the namespace's others are ignored.
        let only = match self.awaited.as_slice() {
            [only] => only.source.name.clone(),
            _ => String::new(),
        };
        let mut events = std::pin::pin!(self.watch(&only).await?);
        let mut listed = BTreeSet::new();
        // Timers run beside the watch: a refresh that is due, a failure that lasts, an absence that lasts.
        while self.is_under_way() {
            let wake_at = self.awaited.iter().filter_map(|it| it.wait.wakes_at()).min();
            let event = tokio::select! {
                event = events.next() => event,
                () = sleep_until(wake_at.unwrap_or_else(Instant::now)), if wake_at.is_some() => None,
            };
            match event.transpose()? {
                Some(Watched::Init) => listed.clear(),
                Some(Watched::InitApply(seen) | Watched::Apply(seen)) => {
                    if let Some(index) = self.position(&seen) {
                        listed.insert(index);
                        self.observe(index, &seen).await;
                    }
                }
                Some(Watched::InitDone) => {
                    for index in (0..self.awaited.len()).filter(|it| !listed.contains(it)) {
                        self.on(index, CopyEvent::Absent).await;
                    }
                }
                Some(Watched::Delete(gone)) => {
                    if let Some(index) = self.position(&gone) {
                        self.on(index, CopyEvent::Absent).await;
                    }
                }
                None => {
                    for index in 0..self.awaited.len() {
                        self.on(index, CopyEvent::Woken).await;
                    }
                }
            }
        }
        Ok(())
    }

    /// Opens the watch of the ExternalSecret `only`, or of all in the namespace if it is empty.
    async fn watch<'s>(
        &self,
        only: &'s str,
    ) -> Result<
        impl Stream<Item = Result<Watched<ExternalSecret>, Error>> + Send + use<'a, 's>,
        Error,
    >
    where
        'a: 's,
    {
        let (kubernetes, workload) = (self.kubernetes, self.awaited[0].workload);
        let version = external_secrets_api::version(kubernetes, workload).await?;
        let all = watcher::Config::default();
        let configuration =
            if only.is_empty() { all } else { all.fields(&format!("metadata.name={only}")) };
        let target = Target::beside(workload, "watch", external_secret::RESOURCE, only);
        Ok(watch(&*kubernetes.access, target, configuration, move |client| {
            external_secrets_api::external_secrets(client, workload, version)
        }))
    }

    fn is_under_way(&self) -> bool {
        let stops =
            |ended: &Option<_>| matches!(ended, Some(Ok(Some(Progress::Stuck(_))) | Err(_)));
        self.awaited.iter().any(|it| !it.wait.is_done()) && !self.ended.iter().any(stops)
    }

    fn position(&self, seen: &ExternalSecret) -> Option<usize> {
        let name = seen.metadata.name.as_deref();
        self.awaited.iter().position(|it| Some(it.source.name.as_str()) == name)
    }

    /// Applies an event to one of them, and does what it calls for.
    async fn on(&mut self, index: usize, event: CopyEvent) {
        let action = self.transition(index, event);
        let awaited = &self.awaited[index];
        let (kubernetes, workload) = (self.kubernetes, awaited.workload);
        match action {
            CopyAction::Wait => {}
            CopyAction::Refresh => {
                let forced = force_again(kubernetes, workload, &awaited.source, &awaited.force);
                if let Err(error) = forced.await {
                    self.end_all(index, &Err(error));
                }
            }
            CopyAction::ReadKeeper => match read_keeper(kubernetes, workload).await {
                Err(error) => self.end_all(index, &Err(error)),
                Ok(keeper) => {
                    let (reason, fix) = match keeper {
                        Some(keeper) => why_absent(&keeper, &workload.namespace),
                        None => ("it was deleted".to_owned(), "create it again".to_owned()),
                    };
                    self.block(index, workload.describe_copy(), reason, fix);
                }
            },
            CopyAction::GiveUp(message) => {
                let name = &awaited.source.name;
                let reason = failure(kubernetes, workload, name, &message).await;
                let reason = format!("it cannot be synced: {reason}");
                let fix =
                    "read its events and its SecretStore's; once it syncs, the next run carries on";
                self.block(index, object(workload, name), reason, fix);
            }
            CopyAction::Block { reason, fix } => {
                self.block(index, object(workload, &awaited.source.name), reason, fix);
            }
            // Only the sight of an ExternalSecret calls for these, and `observe` does them.
            CopyAction::Compare | CopyAction::ReadFailure(_) => {}
        }
    }

    fn transition(&mut self, index: usize, event: CopyEvent) -> CopyAction {
        let wait = &mut self.awaited[index].wait;
        let (after, action) = wait.clone().on(event, Instant::now());
        *wait = after;
        action
    }

    /// Handles the sight of one of them in this state.
    async fn observe(&mut self, index: usize, seen: &ExternalSecret) {
        let kubernetes = self.kubernetes;
        let awaited = &mut self.awaited[index];
        if awaited.wait.is_done() {
            return;
        }
        let seen = match with_prefixes(kubernetes, self.workloads, &self.parameters, awaited, seen)
            .await
        {
            Ok(seen) => seen,
            Err(error) => return self.end_all(index, &Err(error)),
        };
        let (workload, name) = (awaited.workload, awaited.source.name.clone());
        last_force(&seen).clone_into(&mut awaited.force);

        // An obstacle never passes by itself, so the wait ends at once.
        let object = object(workload, &name);
        let keys = awaited.readers.iter().map(|reader| secret_key(self.workloads[*reader]));
        let mut found = keys.flat_map(|key| {
            obstacles(&object, &seen, key, awaited.source.keeper, &self.parameters)
        });
        if let Some(obstacle) = found.next() {
            return self.block(index, object, obstacle.reason, obstacle.fix);
        }

        let status = seen.status.clone().unwrap_or_default();
        let failure_message =
            status.ready().filter(|it| it.status == "False").map(|it| it.message.clone());
        let synced = status.synced_resource_version;
        let event =
            match self.transition(index, CopyEvent::Present { synced, failure: failure_message }) {
                CopyAction::Compare => match self.compare(index, &seen).await {
                    Ok(difference) => CopyEvent::Compared(difference),
                    Err(error) => return self.end_all(index, &Err(error)),
                },
                CopyAction::ReadFailure(message) => {
                    CopyEvent::FailureRead(failure(kubernetes, workload, &name, &message).await)
                }
                _ => return,
            };
        self.on(index, event).await;
    }

    /// Compares the Secret of one of them with what was published, for each workload that reads it. Returns
    /// the reason if it is not what one of them must read.
    async fn compare(
        &mut self,
        index: usize,
        seen: &ExternalSecret,
    ) -> Result<Option<String>, Error> {
        let awaited = &self.awaited[index];
        let secret = secret::read(self.kubernetes, awaited.workload, secret_name(seen)).await?;
        let Some(secret) = secret else {
            return Ok(Some(said_by(seen, format!("Secret {} does not exist", secret_name(seen)))));
        };
        let mut difference = None;
        for reader in &awaited.readers {
            let key = secret_key(self.workloads[*reader]);
            let copies = copies(&seen.spec, key, self.parameters.iter());
            let holds = |copy: &external_secret::Copy<'_>| {
                let held = secret.digests.get(copy.secret_key);
                copy.parameters.iter().any(|name| held == self.intended.get(*name))
            };
            match copies.iter().find(|copy| !holds(copy)) {
                None => {
                    let revision = secret.revision(copies.iter().map(|copy| copy.secret_key));
                    self.ended[*reader] = Some(Ok(Some(Progress::Done(revision))));
                }
                Some(copy) => {
                    difference = Some(format!(
                        "key {} of Secret {} does not hold what was published",
                        copy.secret_key,
                        secret_name(seen)
                    ));
                }
            }
        }
        Ok(difference.map(|difference| said_by(seen, difference)))
    }

    fn block(
        &mut self,
        index: usize,
        object: String,
        reason: impl Into<String>,
        fix: impl Into<String>,
    ) {
        self.end_all(index, &Ok(Some(Progress::Stuck(Held::new(object, reason, fix)))));
    }

    fn end_all(&mut self, index: usize, answer: &RefreshResult) {
        let readers = self.awaited[index].readers.clone();
        self.end(&readers, answer);
    }

    fn end(&mut self, readers: &[usize], answer: &RefreshResult) {
        for reader in readers {
            self.ended[*reader] = Some(answer.clone());
        }
    }

    /// Returns the results in the order of the workloads.
    fn answers(self) -> Vec<RefreshResult> {
        let Self { awaited, ended, .. } = self;
        let words = |reader: usize| {
            let awaited = awaited.iter().find(|it| it.readers.contains(&reader));
            let Awaited { source, wait, .. } = awaited?;
            Some(wait.awaited(&source.name, source.keeper))
        };
        let under_way = |reader| Progress::UnderWay(words(reader).unwrap_or_default());
        let ended = ended.into_iter().enumerate();
        ended.map(|(reader, it)| it.unwrap_or_else(|| Ok(Some(under_way(reader))))).collect()
    }
}

/// Returns the ExternalSecret with the prefixes of its stores. Stores are read only if a key cannot be
/// matched without them.
async fn with_prefixes<'s>(
    kubernetes: &KubernetesClusters,
    workloads: &[&Workload],
    parameters: &[ParameterName],
    awaited: &mut Awaited<'_>,
    seen: &'s ExternalSecret,
) -> Result<Cow<'s, ExternalSecret>, Error> {
    let mut keys = awaited.readers.iter().map(|reader| secret_key(workloads[*reader]));
    if !keys.any(|key| needs_prefixes(&seen.spec, key, parameters)) {
        return Ok(Cow::Borrowed(seen));
    }
    let prefixes = match &mut awaited.prefixes {
        Some(prefixes) => prefixes,
        unknown => unknown.insert(store::prefixes(kubernetes, awaited.workload, &seen.spec).await?),
    };
    let mut seen = seen.clone();
    seen.spec.put_before(prefixes);
    Ok(Cow::Owned(seen))
}

/// Appends what External Secrets says. It may consider this state correct, and then states what it did
/// instead.
fn said_by(seen: &ExternalSecret, difference: String) -> String {
    let status = seen.status.clone().unwrap_or_default();
    match status.ready().map_or("", |ready| ready.message.as_str()) {
        "" | "secret synced" => difference,
        said => format!("{difference}; it says: {said}"),
    }
}
