//! ExternalSecrets: told to refresh, and confirmed by what the Secret holds.
//!
//! `Ready=True` proves nothing: it also stands for the sync before. What proves a sync is that
//! `status.syncedResourceVersion` moved after the annotation was set, and that the Secret's data has
//! the digest of what was published (external-secrets `externalsecret_controller.go`, `markAsDone`).

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1,
    apimachinery::pkg::apis::meta::v1::{APIGroup, ManagedFieldsEntry},
};
use kube::{
    Api, Client,
    api::{ListParams, Patch, PatchParams},
    core::{ObjectMeta, PartialObjectMeta},
    runtime::watcher::{self, Event},
};
use serde::Deserialize;
use serde_json::json;
use tokio::time::{Instant, sleep_until, timeout_at};
use zeroize::Zeroizing;

use super::{
    KubernetesClusters, MANAGER,
    call::{Failed, Target, call, spread},
    external_secret::{self, ExternalSecret, copies, obstacles, secret_name},
    watch::watch,
};
use crate::{
    error::{Error, Kind},
    record::Held,
    spec::{ParameterName, SecretCopy, Workload},
    token::Digest,
    world::{Progress, SecretRevision, SyncedBefore},
};

/// See [`crate::world::Clusters::force_sync`].
pub(super) async fn force_sync(
    kubernetes: &KubernetesClusters,
    workload: &Workload,
    force: &str,
) -> Result<Option<SyncedBefore>, Error> {
    let Some(SecretCopy::ExternalSecret { name, .. }) = &workload.copy else {
        return Ok(None);
    };
    let version = api_version(kubernetes, workload).await?;
    let target = Target::beside(workload, "patch", external_secret::RESOURCE, name);
    let patched = call(&*kubernetes.access, target, |connection| {
        // An attempt whose reply was lost may already have been followed by a sync. Another value
        // makes this attempt's answer a "before" that a sync is still to follow.
        let force = kubernetes.forcing(force);
        annotate(api(connection.client, workload, version), name.clone(), force)
    })
    .await;
    // The answer to a patch is the object as the patch left it, its status included: nobody has
    // synced it since.
    let synced = |patched: ExternalSecret| SyncedBefore {
        synced_resource_version: patched.status.unwrap_or_default().synced_resource_version,
    };
    found(patched).map(|patched| patched.map(synced))
}

/// See [`crate::world::Clusters::synced`].
///
/// What synced an older value than the one published is told to refresh again, a few times: a
/// store may answer with what it held a moment ago.
pub(super) async fn synced(
    kubernetes: &KubernetesClusters,
    workload: &Workload,
    before: &SyncedBefore,
    intended: &BTreeMap<ParameterName, Digest>,
    within: Duration,
) -> Result<Progress<SecretRevision>, Error> {
    let deadline = Instant::now() + within;
    let Some(SecretCopy::ExternalSecret { name, secret_key }) = &workload.copy else {
        return Err(Error::new(
            Kind::Internal,
            "wait for a sync of",
            "the workload names no external_secret",
            "report this message",
        )
        .on(workload));
    };
    let mut words = format!("ExternalSecret {name} was not looked at yet");
    let waiting = async {
        let version = api_version(kubernetes, workload).await?;
        let secret_key = secret_key.as_deref();
        let wait = Wait { kubernetes, workload, version, name, secret_key, before, intended };
        wait.until_synced(&mut words).await
    };
    match timeout_at(deadline, waiting).await {
        Ok(progress) => progress,
        Err(_) => Ok(Progress::UnderWay(words)),
    }
}

/// See [`crate::world::Clusters::secret_revision`].
pub(super) async fn secret_revision(
    kubernetes: &KubernetesClusters,
    workload: &Workload,
) -> Result<Option<SecretRevision>, Error> {
    let Some(external_secret) = read(kubernetes, workload).await? else { return Ok(None) };
    let secret = secret_name(&external_secret);
    Ok(copied(kubernetes, workload, secret).await?.map(|copied| copied.revision))
}

/// See [`crate::world::Clusters::editors`].
pub(super) async fn editors(
    kubernetes: &KubernetesClusters,
    workload: &Workload,
) -> Result<Vec<String>, Error> {
    let Some((external_secret, secret)) = metadata(kubernetes, workload).await? else {
        return Ok(Vec::new());
    };
    let fields = [Some(external_secret), secret].into_iter().flatten();
    let mut fields: Vec<ManagedFieldsEntry> =
        fields.flat_map(|metadata| metadata.managed_fields.unwrap_or_default()).collect();
    fields.sort_by_key(|entry| {
        std::cmp::Reverse(entry.time.as_ref().map_or(Timestamp::MIN, |time| time.0))
    });
    let mut told = BTreeSet::new();
    Ok(fields
        .into_iter()
        .filter_map(|entry| entry.manager)
        .filter(|manager| !manager.starts_with(MANAGER) && told.insert(manager.clone()))
        .collect())
}

/// The metadata of the ExternalSecret and of its Secret; `None` where the first does not exist.
async fn metadata(
    kubernetes: &KubernetesClusters,
    workload: &Workload,
) -> Result<Option<(ObjectMeta, Option<ObjectMeta>)>, Error> {
    let Some(external_secret) = read(kubernetes, workload).await? else {
        return Ok(None);
    };
    let secret = secret_name(&external_secret);
    let target = Target::beside(workload, "get", "secrets", secret);
    let secret = call(&*kubernetes.access, target, |connection| async move {
        let secrets: Api<PartialObjectMeta<v1::Secret>> =
            Api::namespaced(connection.client, &workload.namespace);
        secrets.get(secret).await
    })
    .await;
    Ok(Some((external_secret.metadata, found(secret)?.map(|secret| secret.metadata))))
}

/// What a Secret holds, as digests; `None` where it does not exist.
async fn copied(
    kubernetes: &KubernetesClusters,
    workload: &Workload,
    secret: &str,
) -> Result<Option<Copied>, Error> {
    let target = Target::beside(workload, "get", "secrets", secret);
    let path = format!("/api/v1/namespaces/{}/secrets/{secret}", workload.namespace);
    let answer = call(&*kubernetes.access, target, |connection| {
        let request = http::Request::get(&path).body(Vec::new());
        async move {
            let request = request.map_err(kube::Error::HttpError)?;
            // Not `Api::get`: kube logs an answer that it cannot read, and this one is secret.
            let text = Zeroizing::new(connection.client.request_text(request).await?);
            serde_json::from_str::<SecretObject>(&text).map_err(kube::Error::SerdeError)
        }
    });
    let Some(secret) = found(answer.await)? else { return Ok(None) };
    let digests: BTreeMap<String, Digest> = secret
        .data
        .unwrap_or_default()
        .into_iter()
        .filter_map(|(key, value)| {
            let bytes = Zeroizing::new(STANDARD.decode(value.0.as_bytes()).ok()?);
            Some((key, Digest::of(&*bytes)))
        })
        .collect();
    // Not its resourceVersion: External Secrets copies the annotation that forces a refresh, so that
    // it moves with every refresh of anybody. The uid goes in and does not come out: without it
    // nobody can try what the Secret's other keys may hold.
    let mut holds = secret.metadata.uid.unwrap_or_default();
    for (key, digest) in &digests {
        holds += &format!("\n{key}={digest}");
    }
    let revision = SecretRevision(Digest::of(holds).to_string());
    Ok(Some(Copied { revision, digests }))
}

/// Why an ExternalSecret fails: the condition's message is always the same, the event's tells.
/// Without the right to read events, the condition's.
pub(super) async fn failure(
    kubernetes: &KubernetesClusters,
    workload: &Workload,
    name: &str,
    message: &str,
) -> String {
    let target = Target::beside(workload, "list", "events", "");
    let selected = ListParams::default().fields(&format!(
        "involvedObject.kind=ExternalSecret,involvedObject.name={name},type=Warning"
    ));
    let selected = &selected;
    let events = call(&*kubernetes.access, target, |connection| async move {
        let events: Api<v1::Event> = Api::namespaced(connection.client, &workload.namespace);
        events.list(selected).await
    });
    let events = events.await.map(|events| events.items).unwrap_or_default();
    let last = events.into_iter().max_by_key(|event| {
        let last = event.last_timestamp.as_ref().map(|time| time.0);
        last.or(event.event_time.as_ref().map(|time| time.0))
    });
    let text = last.and_then(|event| event.message);
    text.as_deref().unwrap_or(message).chars().take(LONGEST_EVENT).collect()
}

/// An ExternalSecret beside a workload, as reports name it.
pub(super) fn object(workload: &Workload, name: &str) -> String {
    format!("{}/{}/externalsecret/{name}", workload.cluster, workload.namespace)
}

/// The workload's ExternalSecret; `None` where it names none or none is there.
pub(super) async fn read(
    kubernetes: &KubernetesClusters,
    workload: &Workload,
) -> Result<Option<ExternalSecret>, Error> {
    let Some(SecretCopy::ExternalSecret { name, .. }) = &workload.copy else {
        return Ok(None);
    };
    let version = api_version(kubernetes, workload).await?;
    let target = Target::beside(workload, "get", external_secret::RESOURCE, name);
    let answer = call(&*kubernetes.access, target, |connection| async move {
        api(connection.client, workload, version).get(name).await
    });
    found(answer.await)
}

/// One wait for one ExternalSecret.
struct Wait<'a> {
    kubernetes: &'a KubernetesClusters,
    workload: &'a Workload,
    version: &'static str,
    name: &'a str,
    secret_key: Option<&'a str>,
    before: &'a SyncedBefore,
    intended: &'a BTreeMap<ParameterName, Digest>,
}

impl Wait<'_> {
    /// Keeps in `words` what is awaited.
    async fn until_synced(&self, words: &mut String) -> Result<Progress<SecretRevision>, Error> {
        let target = Target::beside(self.workload, "watch", external_secret::RESOURCE, self.name);
        let configuration =
            watcher::Config::default().fields(&format!("metadata.name={}", self.name));
        let (workload, version) = (self.workload, self.version);
        let events = watch(&*self.kubernetes.access, target, configuration, move |client| {
            api(client, workload, version)
        });
        let mut events = std::pin::pin!(events);

        // Whether a list has shown it, which sync was looked at last, how often it was told to
        // refresh again and when that is next, and since when it fails.
        let mut is_there = false;
        let mut looked_at = self.before.synced_resource_version.clone();
        let mut refreshes = 0;
        let mut refresh_at: Option<Instant> = None;
        let mut failing: Option<Failing> = None;
        let mut force = String::new();
        loop {
            let give_up_at = failing.as_ref().map(|failing| failing.since + FAILING_FOR);
            let wake_at = [refresh_at, give_up_at].into_iter().flatten().min();
            let event = tokio::select! {
                event = events.next() => event,
                () = sleep_until(wake_at.unwrap_or_else(Instant::now)), if wake_at.is_some() => None,
            };
            let external_secret = match event.transpose()? {
                Some(Event::Init) => {
                    is_there = false;
                    continue;
                }
                Some(Event::InitDone) if is_there => continue,
                Some(Event::InitDone | Event::Delete(_)) => {
                    return Ok(self.stuck("it does not exist", "create it, or correct the spec"));
                }
                Some(Event::InitApply(external_secret) | Event::Apply(external_secret)) => {
                    external_secret
                }
                None => {
                    if refresh_at.is_some_and(|at| at <= Instant::now()) {
                        refresh_at = None;
                        refreshes += 1;
                        self.refresh_again(&force).await?;
                    } else if let Some(failing) = &failing {
                        let reason = self.failure(&failing.message).await;
                        return Ok(self.stuck(
                            &format!("it cannot be synced: {reason}"),
                            "read its events and its SecretStore's; once it syncs, the next run \
                             carries on",
                        ));
                    }
                    continue;
                }
            };
            is_there = true;

            let parameters: Vec<ParameterName> = self.intended.keys().cloned().collect();
            let secret_key = self.secret_key;
            let object = self.object();
            let obstacles = obstacles(&object, &external_secret, secret_key, &parameters);
            if let Some(obstacle) = obstacles.into_iter().next() {
                return Ok(self.stuck(&obstacle.reason, &obstacle.fix));
            }
            let status = external_secret.status.clone().unwrap_or_default();
            let annotations = external_secret.metadata.annotations.as_ref();
            force = annotations.and_then(|it| it.get(ANNOTATION).cloned()).unwrap_or_default();

            if status.synced_resource_version == looked_at {
                match status.ready().filter(|ready| ready.status == "False") {
                    None => failing = None,
                    Some(_) if failing.is_some() => {}
                    Some(ready) => {
                        let message = ready.message.clone();
                        *words = format!(
                            "ExternalSecret {} fails to sync: {}",
                            self.name,
                            self.failure(&message).await
                        );
                        failing = Some(Failing { since: Instant::now(), message });
                    }
                }
                if failing.is_none() && refresh_at.is_none() {
                    *words =
                        format!("ExternalSecret {} has not synced since it was told to", self.name);
                }
                continue;
            }
            failing = None;
            looked_at = status.synced_resource_version;

            let secret = secret_name(&external_secret);
            let parameters = self.intended.keys();
            let copies = copies(&external_secret.spec, secret_key, parameters);
            let reason = match copied(self.kubernetes, self.workload, secret).await? {
                None => format!("Secret {secret} does not exist"),
                Some(copied) => {
                    let holds = |copy: &external_secret::Copy<'_>| {
                        let held = copied.digests.get(copy.secret_key);
                        copy.parameters.iter().any(|name| held == self.intended.get(*name))
                    };
                    match copies.iter().find(|copy| !holds(copy)) {
                        None => return Ok(Progress::Done(copied.revision)),
                        Some(copy) => format!(
                            "key {} of Secret {secret} does not hold what was published",
                            copy.secret_key
                        ),
                    }
                }
            };
            if refreshes == REFRESHES {
                return Ok(self.stuck(
                    &format!("it synced {} times and {reason}", refreshes + 1),
                    "see who else writes the parameter or the Secret, and whether its SecretStore \
                     reads the account and region that changeover publishes to",
                ));
            }
            *words = format!("ExternalSecret {} has synced, and {reason}", self.name);
            let pause = FIRST_REFRESH_AFTER * 2_u32.pow(refreshes);
            refresh_at = Some(Instant::now() + spread(pause, &self.object()));
        }
    }

    async fn refresh_again(&self, force: &str) -> Result<(), Error> {
        let target = Target::beside(self.workload, "patch", external_secret::RESOURCE, self.name);
        let patched = call(&*self.kubernetes.access, target, |connection| {
            let external_secrets = api(connection.client, self.workload, self.version);
            let force = self.kubernetes.forcing(force.split('.').next().unwrap_or_default());
            annotate(external_secrets, self.name.to_owned(), force)
        });
        // Where it is gone, the watch tells.
        found(patched.await).map(|_| ())
    }

    async fn failure(&self, message: &str) -> String {
        failure(self.kubernetes, self.workload, self.name, message).await
    }

    fn object(&self) -> String {
        object(self.workload, self.name)
    }

    fn stuck(&self, reason: &str, fix: &str) -> Progress<SecretRevision> {
        Progress::Stuck(Held::new(self.object(), reason, fix))
    }
}

struct Failing {
    since: Instant,
    message: String,
}

/// What a Secret holds.
struct Copied {
    revision: SecretRevision,
    digests: BTreeMap<String, Digest>,
}

#[derive(Deserialize)]
struct SecretObject {
    metadata: ObjectMeta,
    data: Option<BTreeMap<String, Hidden>>,
}

/// A value of a Secret in base64.
struct Hidden(Zeroizing<String>);

impl<'de> Deserialize<'de> for Hidden {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|value| Self(Zeroizing::new(value)))
    }
}

async fn annotate(
    external_secrets: Api<ExternalSecret>,
    name: String,
    force: String,
) -> Result<ExternalSecret, kube::Error> {
    let manager = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
    let patch = Patch::Merge(json!({"metadata": {"annotations": {ANNOTATION: force}}}));
    external_secrets.patch(&name, &manager, &patch).await
}

fn api(client: Client, workload: &Workload, version: &str) -> Api<ExternalSecret> {
    Api::namespaced_with(client, &workload.namespace, &external_secret::resource(version))
}

/// The version of External Secrets' API to speak with the workload's cluster: the stable one where
/// it is served. Asked once per process and cluster.
async fn api_version(
    kubernetes: &KubernetesClusters,
    workload: &Workload,
) -> Result<&'static str, Error> {
    let cluster = &workload.cluster;
    if let Some(known) = kubernetes.known_version(cluster) {
        return Ok(known);
    }
    let target = Target { name: "", ..Target::beside(workload, "get", external_secret::GROUP, "") };
    let group = call(&*kubernetes.access, target, |connection| async move {
        let request = http::Request::get(format!("/apis/{}", external_secret::GROUP));
        let request = request.body(Vec::new()).map_err(kube::Error::HttpError)?;
        connection.client.request::<APIGroup>(request).await
    })
    .await;
    let served: Vec<String> = match group {
        Ok(group) => group.versions.into_iter().map(|version| version.version).collect(),
        // Who may not ask which versions there are can still use one.
        Err(Failed { code: 403, .. }) => vec![VERSIONS[0].to_owned()],
        Err(Failed { code: 404, .. }) => Vec::new(),
        Err(failed) => return Err(failed.error),
    };
    let version = VERSIONS.into_iter().find(|version| served.iter().any(|it| it == version));
    let version = version.ok_or_else(|| {
        let because = match served.is_empty() {
            true => "the cluster does not know ExternalSecrets".to_owned(),
            false => format!("the cluster knows them only as {}", served.join(", ")),
        };
        Error::new(
            Kind::PreflightFailed,
            "use External Secrets in the cluster",
            because,
            format!("install External Secrets with its API {}", VERSIONS.join(" or ")),
        )
        .on(cluster)
    })?;
    kubernetes.remember_version(cluster, version);
    Ok(version)
}

/// What is not there is `None`.
pub(super) fn found<T>(answer: Result<T, Failed>) -> Result<Option<T>, Error> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(Failed { code: 404, .. }) => Ok(None),
        Err(failed) => Err(failed.error),
    }
}

/// The annotation that makes External Secrets refresh when its value changes
/// (external-secrets `docs/introduction/faq.md`).
const ANNOTATION: &str = "force-sync";

/// The versions of External Secrets' API that are spoken, the better one first.
const VERSIONS: [&str; 2] = ["v1", "v1beta1"];

/// How often an ExternalSecret that synced something else is told to refresh again, with pauses of
/// 1, 2, 4, 8 and 16 s and a little more.
const REFRESHES: u32 = 5;

/// The first of these pauses.
const FIRST_REFRESH_AFTER: Duration = Duration::from_secs(1);

/// An ExternalSecret that failed for this long is given up: External Secrets itself tries again
/// after 1, 2, 4, ... s.
const FAILING_FOR: Duration = Duration::from_secs(60);

/// Characters of an event that are worth repeating.
const LONGEST_EVENT: usize = 300;
