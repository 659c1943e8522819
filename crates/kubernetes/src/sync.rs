//! The delivery of a view into a Secret, and the proof that it arrived.
//!
//! ```text
//! refresh    all ExternalSecrets of a namespace are forced to refresh, and waited for by one watch
//! progress   the wait for one of them, as states
//! force      the annotation of an ExternalSecret, or of the ClusterExternalSecret that keeps it
//! write      a Secret that has no other writer
//! secret     the contents of a Secret, as digests
//! ```
//!
//! `Ready=True` proves nothing, since it may describe the sync before. Two facts together prove a sync:
//! `status.syncedResourceVersion` moved after the annotation was set, and the Secret's data has the digest
//! of the published value (external-secrets `externalsecret_controller.go`, `markAsDone`).

mod force;
mod progress;
mod refresh;
mod secret;
mod write;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use async_trait::async_trait;
use changeover_core::{
    error::Error,
    ports::{Progress, SecretCopies, Stamp},
    record::SecretRevision,
    spec::{ParameterName, SecretCopy, Workload},
};
use changeover_token::Digest;
use jiff::Timestamp;
use k8s_openapi::{api::core::v1, apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry};
use kube::{Api, Client, core::ObjectMeta};

pub(super) use self::{
    force::dry_run as dry_run_of_force,
    refresh::refresh,
    write::{
        Found, dry_run_of_write, look_at_written, object as secret_object, write_secret,
        written_secret,
    },
};
use crate::{
    KubernetesClusters, MANAGER,
    call::{Target, call, found},
    cluster_external_secret::{self, ClusterExternalSecret},
    events,
    external_secret::{self, ExternalSecret, copies, secret_name},
    external_secrets_api, store,
};

#[async_trait]
impl SecretCopies for KubernetesClusters {
    async fn refresh(
        &self,
        workloads: &[&Workload],
        force: &str,
        intended: &BTreeMap<ParameterName, Digest>,
        within: Duration,
    ) -> Vec<Result<Option<Progress<SecretRevision>>, Error>> {
        refresh(self, workloads, force, intended, within).await
    }

    async fn write_secret(
        &self,
        workload: &Workload,
        stamp: &Stamp,
        value: &changeover_token::Secret,
    ) -> Result<Progress<SecretRevision>, Error> {
        write_secret(self, workload, stamp, value).await
    }

    async fn secret_revision(
        &self,
        workload: &Workload,
        parameters: &[ParameterName],
    ) -> Result<Option<SecretRevision>, Error> {
        if let Some(SecretCopy::Secret { name, key }) = &workload.copy {
            let secret = secret::read(self, workload, name).await?;
            return Ok(secret.map(|secret| secret.revision([key.as_str()])));
        }
        let Some(mut external_secret) = read(self, workload).await? else { return Ok(None) };
        if needs_prefixes(&external_secret.spec, secret_key(workload), parameters) {
            let prefixes = store::prefixes(self, workload, &external_secret.spec).await?;
            external_secret.spec.put_before(&prefixes);
        }
        let secret = secret::read(self, workload, secret_name(&external_secret)).await?;
        let copies = copies(&external_secret.spec, secret_key(workload), parameters.iter());
        Ok(secret.map(|secret| secret.revision(copies.iter().map(|copy| copy.secret_key))))
    }

    async fn written_secret(&self, workload: &Workload) -> Result<Option<Digest>, Error> {
        written_secret(self, workload).await
    }

    async fn editors(&self, workload: &Workload) -> Result<Vec<String>, Error> {
        let external_secret = read(self, workload).await?;
        let secret = match (&workload.copy, &external_secret) {
            (Some(SecretCopy::Secret { name, .. }), _) => Some(name.as_str()),
            (_, Some(external_secret)) => Some(secret_name(external_secret)),
            _ => None,
        };
        let secret = match secret {
            Some(name) => metadata(self, workload, name).await?,
            None => None,
        };
        let objects = [external_secret.map(|it| it.metadata), secret].into_iter().flatten();
        let mut fields: Vec<ManagedFieldsEntry> =
            objects.flat_map(|metadata| metadata.managed_fields.unwrap_or_default()).collect();
        fields.sort_by_key(|entry| {
            std::cmp::Reverse(entry.time.as_ref().map_or(Timestamp::MIN, |time| time.0))
        });
        let mut seen = BTreeSet::new();
        Ok(fields
            .into_iter()
            .filter_map(|entry| entry.manager)
            .filter(|manager| !manager.starts_with(MANAGER) && seen.insert(manager.clone()))
            .collect())
    }
}

/// The reason that an ExternalSecret fails, from its newest event, since the condition's message is always
/// the same. Without the right to read events, it is the condition's message.
pub(super) async fn failure(
    kubernetes: &KubernetesClusters,
    workload: &Workload,
    name: &str,
    message: &str,
) -> String {
    let fields =
        format!("involvedObject.kind=ExternalSecret,involvedObject.name={name},type=Warning");
    let last = events::newest(kubernetes, workload, &fields).await;
    let text = last.and_then(|event| event.message);
    text.as_deref().unwrap_or(message).chars().take(LONGEST_EVENT).collect()
}

/// An ExternalSecret in the namespace of a workload, as reports name it.
pub(super) fn object(workload: &Workload, name: &str) -> String {
    format!("{}/{}/externalsecret/{name}", workload.cluster, workload.namespace)
}

/// Reads the workload's ExternalSecret: its own, or the one that a ClusterExternalSecret keeps for it.
/// `None` if it names none or if there is none.
pub(super) async fn read(
    kubernetes: &KubernetesClusters,
    workload: &Workload,
) -> Result<Option<ExternalSecret>, Error> {
    match source(kubernetes, workload).await? {
        Some(source) => get(kubernetes, workload, &source.name).await,
        None => Ok(None),
    }
}

/// Reads the workload's ClusterExternalSecret; `None` if it names none or if there is none.
pub(super) async fn read_keeper(
    kubernetes: &KubernetesClusters,
    workload: &Workload,
) -> Result<Option<ClusterExternalSecret>, Error> {
    let Some(SecretCopy::ClusterExternalSecret { name, .. }) = &workload.copy else {
        return Ok(None);
    };
    let target = external_secrets_api::of_cluster(workload, "get", name);
    by_served_version(kubernetes, workload, target, |client, version| async move {
        external_secrets_api::cluster_external_secrets(client, version).get(name).await
    })
    .await
}

/// The ExternalSecret that a workload's Secret comes from.
struct Source<'a> {
    /// Its name.
    name: String,
    /// The ClusterExternalSecret that keeps it.
    keeper: Option<&'a str>,
}

/// Finds the ExternalSecret that a workload's Secret comes from. `None` if the workload names no
/// ExternalSecret, or a ClusterExternalSecret that does not exist.
async fn source<'a>(
    kubernetes: &KubernetesClusters,
    workload: &'a Workload,
) -> Result<Option<Source<'a>>, Error> {
    Ok(match &workload.copy {
        Some(SecretCopy::ExternalSecret { name, .. }) => {
            Some(Source { name: name.clone(), keeper: None })
        }
        Some(SecretCopy::ClusterExternalSecret { name, .. }) => {
            let found = read_keeper(kubernetes, workload).await?;
            found.map(|found| Source {
                name: cluster_external_secret::child(&found).to_owned(),
                keeper: Some(name),
            })
        }
        Some(SecretCopy::Secret { .. }) | None => None,
    })
}

/// True if the keys that hold copies may depend on the prefixes that stores put before names. Few stores
/// have a prefix, so stores are read only if nothing is found without it.
fn needs_prefixes(
    spec: &external_secret::ExternalSecretSpec,
    secret_key: Option<&str>,
    parameters: &[ParameterName],
) -> bool {
    secret_key.is_none() && !parameters.iter().any(|it| spec.reads(it))
}

/// The key that the workload's spec names.
pub(super) fn secret_key(workload: &Workload) -> Option<&str> {
    match workload.copy.as_ref()? {
        SecretCopy::ExternalSecret { secret_key, .. }
        | SecretCopy::ClusterExternalSecret { secret_key, .. } => secret_key.as_deref(),
        SecretCopy::Secret { key, .. } => Some(key),
    }
}

/// Reads an ExternalSecret in the namespace of a workload; `None` if it does not exist.
pub(super) async fn get(
    kubernetes: &KubernetesClusters,
    workload: &Workload,
    name: &str,
) -> Result<Option<ExternalSecret>, Error> {
    let target = Target::beside(workload, "get", external_secret::RESOURCE, name);
    by_served_version(kubernetes, workload, target, |client, version| async move {
        external_secrets_api::external_secrets(client, workload, version).get(name).await
    })
    .await
}

/// Reads an object of External Secrets by the remembered version of its API. If the object does not exist
/// there, reads it by the version that is served now.
async fn by_served_version<T, F>(
    kubernetes: &KubernetesClusters,
    workload: &Workload,
    target: Target<'_>,
    get: impl Fn(Client, &'static str) -> F,
) -> Result<Option<T>, Error>
where
    F: Future<Output = Result<T, kube::Error>>,
{
    let remembered = kubernetes.known_version(&workload.cluster).is_some();
    let version = external_secrets_api::version(kubernetes, workload).await?;
    let read = async |version| {
        let answer =
            call(&*kubernetes.access, target, |connection| get(connection.client, version));
        found(answer.await)
    };
    match read(version).await? {
        None if remembered
            && external_secrets_api::has_changed(kubernetes, workload, version).await? =>
        {
            read(external_secrets_api::version(kubernetes, workload).await?).await
        }
        answer => Ok(answer),
    }
}

async fn metadata(
    kubernetes: &KubernetesClusters,
    workload: &Workload,
    secret: &str,
) -> Result<Option<ObjectMeta>, Error> {
    let target = Target::beside(workload, "get", "secrets", secret);
    let answer = call(&*kubernetes.access, target, |connection| async move {
        let secrets: Api<v1::Secret> = Api::namespaced(connection.client, &workload.namespace);
        // Without its data, which kube would log if it could not read the answer.
        secrets.get_metadata(secret).await
    });
    Ok(found(answer.await)?.map(|secret| secret.metadata))
}

/// Characters of an event that are worth repeating.
const LONGEST_EVENT: usize = 300;
