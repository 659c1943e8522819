//! A Secret that changeover writes itself: one key of it, and the revision of the view that it holds.

use std::{collections::BTreeMap, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use changeover_core::{
    error::{Error, Kind},
    finding::Finding,
    ports::{Progress, Stamp},
    record::{Held, SecretRevision},
    spec::{SecretCopy, Workload},
};
use changeover_token::Fence;
use kube::core::{ObjectMeta, PartialObjectMeta};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::sleep;
use zeroize::Zeroizing;

use super::secret::{self, OPAQUE, Secret, path, revision};
use crate::{
    KubernetesClusters, MANAGER,
    call::{Failed, Mode, Target, call, spread},
    external_secret::GROUP,
    rollout::{annotation, manager},
};

/// See [`changeover_core::ports::SecretCopies::write_secret`].
///
/// It reads before it writes, and writes only if nothing changed in between. So a view never goes back,
/// even if another writer is active at the same time, and a write that arrives late is a conflict.
pub(crate) async fn write_secret(
    kubernetes: &KubernetesClusters,
    workload: &Workload,
    stamp: &Stamp,
    value: &changeover_token::Secret,
) -> Result<Progress<SecretRevision>, Error> {
    let Some(SecretCopy::Secret { name, key }) = &workload.copy else {
        return Err(Error::new(
            Kind::Internal,
            "write the Secret of",
            "the workload names none",
            "report this message",
        )
        .on(workload));
    };
    let (annotation, manager) = (annotation(stamp), manager(stamp));
    let mode = Mode::Persist;
    let write =
        Write { kubernetes, workload, name, key, annotation: &annotation, stamp, value, mode };
    let object = object(workload, name);
    // An apply is conditional on the state that was read, so each conflict takes another read.
    for attempt in 1..=ATTEMPTS {
        match write.attempt(&object, &manager).await {
            Ok(Some(progress)) => return Ok(progress),
            // The next attempt reads the uid of what was made, which distinguishes it from a Secret that is
            // made after it.
            Ok(None) => {}
            // Another writer changed, made or deleted it.
            Err(Failed { code: 409, .. }) => {
                let pause = Duration::from_millis(50) * attempt;
                // The pauses differ, so that tokens which write one Secret at once separate.
                sleep(spread(pause, &format!("{object} {annotation}"))).await;
            }
            Err(failed) => return Err(failed.error),
        }
    }
    Err(Error::new(
        Kind::Unreachable,
        "write",
        format!("it changed between reading and writing, {ATTEMPTS} times"),
        "see who keeps changing it (kubectl get --show-managed-fields); the next run tries again",
    )
    .on(object))
}

/// Submits the write of a Secret's key, with a dummy value, as a dry run: admission judges it, and nothing
/// changes. For a Secret that does not exist, admission judges that it is made.
pub(crate) async fn dry_run_of_write(
    kubernetes: &KubernetesClusters,
    workload: &Workload,
    stamp: &Stamp,
    exists: bool,
) -> Result<(), Failed> {
    let Some(SecretCopy::Secret { name, key }) = &workload.copy else { return Ok(()) };
    let (annotation, manager) = (annotation(stamp), manager(stamp));
    let value = &changeover_token::Secret::verbatim("dry-run".to_owned());
    let mode = Mode::DryRun;
    let write =
        Write { kubernetes, workload, name, key, annotation: &annotation, stamp, value, mode };
    if exists {
        write.apply(&ObjectMeta::default(), &manager).await.map(drop)
    } else {
        write.make(&manager).await.map(drop)
    }
}

/// See [`changeover_core::ports::SecretCopies::written_secret`].
pub(crate) async fn written_secret(
    kubernetes: &KubernetesClusters,
    workload: &Workload,
) -> Result<Option<changeover_token::Digest>, Error> {
    let Some(SecretCopy::Secret { name, key }) = &workload.copy else { return Ok(None) };
    let found = secret::read(kubernetes, workload, name).await?;
    Ok(found.and_then(|found| found.digests.get(key).copied()))
}

/// The state of a Secret that must be written.
pub(crate) enum Found {
    /// There is none yet.
    Nothing,
    /// Its key can be written, and it carries this fence.
    Ours(Fence),
    /// This obstacle keeps it from being written.
    InTheWay(Finding),
}

/// Observes the Secret of this workload that must be written.
pub(crate) async fn look_at_written(
    kubernetes: &KubernetesClusters,
    workload: &Workload,
    name: &str,
    key: &str,
    stamp: &Stamp,
) -> Result<Found, Error> {
    let Some(found) = secret::read(kubernetes, workload, name).await? else {
        return Ok(Found::Nothing);
    };
    Ok(match obstacle(&found, key, None) {
        Some((reason, fix)) => {
            Found::InTheWay(Finding::refusal(object(workload, name), reason, fix))
        }
        None => Found::Ours(found.fence(&annotation(stamp)).unwrap_or_default()),
    })
}

/// The reason that this key of this Secret is not ours to write, and the fix. `manager` is our field
/// manager, if it is known.
fn obstacle(secret: &Secret, key: &str, manager: Option<&str>) -> Option<(String, &'static str)> {
    if secret.is_immutable {
        return Some((
            "it is immutable".to_owned(),
            "delete it once: changeover makes it again, mutable",
        ));
    }
    if secret.kind != OPAQUE {
        return Some((
            format!("its type is {}, and not {OPAQUE}", secret.kind),
            "name a Secret of type Opaque, or one that does not exist yet",
        ));
    }
    let metadata = &secret.metadata;
    let of_external_secrets = |owner: &str| owner.starts_with(&format!("externalsecrets.{GROUP}"));
    let owners = owners(metadata, key);
    let mut kinds = metadata.owner_references.iter().flatten();
    if kinds.any(|owner| owner.api_version.starts_with(GROUP))
        || owners.iter().any(|owner| of_external_secrets(owner))
    {
        return Some((
            format!("External Secrets writes its key {key}"),
            "name that ExternalSecret as external_secret in the workload, or another Secret",
        ));
    }
    // A value that a person or a manifest put there is taken over. Two tokens would take it over from each
    // other for ever.
    let of_others =
        |owner: &&str| owner.starts_with(MANAGER) && manager.is_some_and(|it| it != *owner);
    owners.into_iter().find(of_others).map(|owner| {
        (
            format!("its key {key} is written by {owner}, another token or side of changeover"),
            "name another key in one of the two specs",
        )
    })
}

/// The field managers that own a key of a Secret.
fn owners<'a>(metadata: &'a ObjectMeta, key: &str) -> Vec<&'a str> {
    let field = format!("f:{key}");
    let entries = metadata.managed_fields.iter().flatten();
    let owns = entries.filter(|entry| {
        let data = entry.fields_v1.as_ref().and_then(|fields| fields.0.get("f:data"));
        data.is_some_and(|data| data.get(&field).is_some())
    });
    owns.filter_map(|entry| entry.manager.as_deref()).collect()
}

/// A Secret beside a workload, as reports name it.
pub(crate) fn object(workload: &Workload, name: &str) -> String {
    format!("{}/{}/secret/{name}", workload.cluster, workload.namespace)
}

/// A write of one key of one Secret.
struct Write<'a> {
    kubernetes: &'a KubernetesClusters,
    workload: &'a Workload,
    name: &'a str,
    key: &'a str,
    annotation: &'a str,
    stamp: &'a Stamp,
    value: &'a changeover_token::Secret,
    mode: Mode,
}

impl Write<'_> {
    /// Reads the Secret and writes it once, on the state that was read. `None` if there was none, and it was
    /// made: its key is still to be written.
    async fn attempt(
        &self,
        object: &str,
        manager: &str,
    ) -> Result<Option<Progress<SecretRevision>>, Failed> {
        let stuck =
            |reason: String, fix: &str| Ok(Some(Progress::Stuck(Held::new(object, reason, fix))));
        let digest = self.value.digest();
        let Some(found) = secret::read(self.kubernetes, self.workload, self.name).await? else {
            return match self.make(manager).await {
                Ok(_) => Ok(None),
                Err(Failed { code: 404, .. }) => {
                    stuck("its namespace does not exist".to_owned(), "create it")
                }
                Err(failed) => Err(failed),
            };
        };
        if let Some((reason, fix)) = obstacle(&found, self.key, Some(manager)) {
            return stuck(reason, fix);
        }
        match found.fence(self.annotation) {
            Some(fence)
                if fence == self.stamp.fence && found.digests.get(self.key) == Some(&digest) =>
            {
                Ok(Some(Progress::Done(found.revision([self.key]))))
            }
            Some(fence) if fence > self.stamp.fence => Ok(Some(Progress::Ahead(fence))),
            _ => {
                let uid = self.apply(&found.metadata, manager).await?.uid.unwrap_or_default();
                Ok(Some(Progress::Done(revision(&uid, [(self.key, Some(digest))]))))
            }
        }
    }

    /// Makes the Secret, without a key yet: an apply can be conditional only on an object that exists. It
    /// is an apply, since the right to it can be limited to a name, and the right to a POST cannot.
    ///
    /// The field manager is specific to this side and token, and is not the one that writes. An apply
    /// removes every field that its manager owned and that it omits, be it another token's annotation or
    /// the key. A create that arrives late finds the Secret made, and conflicts with the manager that owns
    /// the annotation by then.
    async fn make(&self, manager: &str) -> Result<ObjectMeta, Failed> {
        let maker = manager.replacen(MANAGER, &format!("{MANAGER}-create"), 1);
        let metadata = self.annotated(Fence::default());
        self.call("create", &format!("fieldManager={maker}"), metadata, None).await
    }

    /// Applies the key to the Secret that was found.
    async fn apply(&self, found: &ObjectMeta, manager: &str) -> Result<ObjectMeta, Failed> {
        // With uid and resourceVersion an apply neither makes a Secret that was deleted meanwhile nor
        // overwrites a newer view: both are conflicts.
        let metadata = ObjectMeta {
            uid: found.uid.clone(),
            resource_version: found.resource_version.clone(),
            ..self.annotated(self.stamp.fence)
        };
        // Forced, because a value that a person has put under this key is to be replaced.
        let query = format!("fieldManager={manager}&force=true");
        self.call("patch", &query, metadata, Some(self.value)).await
    }

    /// The metadata of an apply that leaves this fence at the Secret.
    fn annotated(&self, fence: Fence) -> ObjectMeta {
        ObjectMeta {
            name: Some(self.name.to_owned()),
            namespace: Some(self.workload.namespace.clone()),
            annotations: Some(BTreeMap::from([(self.annotation.to_owned(), fence.to_string())])),
            ..ObjectMeta::default()
        }
    }

    /// Sends a server-side apply, and returns the Secret's metadata after it.
    async fn call(
        &self,
        verb: &str,
        query: &str,
        metadata: ObjectMeta,
        value: Option<&changeover_token::Secret>,
    ) -> Result<ObjectMeta, Failed> {
        let Self { kubernetes, workload, name, .. } = *self;
        let body = &self.body(json!(metadata), value);
        let dry_run = if self.mode == Mode::DryRun { "&dryRun=All" } else { "" };
        let path = &format!("{}?{query}{dry_run}", path(workload, name));
        let target = Target::beside(workload, verb, "secrets", name);
        let answer = call(&*kubernetes.access, target, |connection| {
            let request = http::Request::patch(path)
                .header(http::header::CONTENT_TYPE, "application/apply-patch+yaml")
                // The answer does not repeat the value.
                .header(http::header::ACCEPT, METADATA)
                .body(body.to_vec());
            async move {
                let request = request.map_err(kube::Error::HttpError)?;
                // The answer is parsed here nevertheless: kube logs an answer that it cannot read.
                let text = Zeroizing::new(connection.client.request_text(request).await?);
                serde_json::from_str::<PartialObjectMeta<()>>(&text)
                    .map_err(kube::Error::SerdeError)
            }
        });
        Ok(answer.await?.metadata)
    }

    fn body(
        &self,
        metadata: Value,
        value: Option<&changeover_token::Secret>,
    ) -> Zeroizing<Vec<u8>> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Body<'a> {
            api_version: &'static str,
            kind: &'static str,
            metadata: Value,
            #[serde(skip_serializing_if = "BTreeMap::is_empty")]
            data: BTreeMap<&'a str, &'a str>,
        }
        // The capacities suffice for everything, so that no growth leaves a copy behind.
        let value = value.map(|value| {
            let value = value.expose().as_bytes();
            let mut encoded = Zeroizing::new(String::with_capacity(value.len().div_ceil(3) * 4));
            STANDARD.encode_string(value, &mut encoded);
            encoded
        });
        let length = value.as_ref().map_or(0, |value| value.len()) + metadata.to_string().len();
        let mut body = Zeroizing::new(Vec::with_capacity(length + self.key.len() + BODY_BESIDE));
        let data = value.iter().map(|value| (self.key, value.as_str())).collect();
        let object = Body { api_version: "v1", kind: "Secret", metadata, data };
        serde_json::to_writer(&mut *body, &object).expect("texts are written to memory");
        body
    }
}

/// The media type of an object with nothing but its metadata (Kubernetes documentation, "API concepts").
const METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";

/// The bytes of a Secret's JSON beside metadata, key and value, with a margin.
const BODY_BESIDE: usize = 100;

/// The number of attempts of a write if the Secret changes at the same time: tokens that share one write
/// one after the other.
const ATTEMPTS: u32 = 15;
