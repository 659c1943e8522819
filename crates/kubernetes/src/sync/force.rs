//! The forced refresh of an ExternalSecret.

use changeover_core::{error::Error, spec::Workload};

use super::{Source, get, source};
use crate::{
    KubernetesClusters,
    call::{Failed, Mode, Target, call, found},
    external_secret::{self, ExternalSecret},
    external_secrets_api,
};

/// Forces the ExternalSecret of a workload to refresh. Returns it, and its `syncedResourceVersion` before,
/// which is empty if it never synced. `None` if what the spec names does not exist.
pub(super) async fn force<'a>(
    kubernetes: &KubernetesClusters,
    workload: &'a Workload,
    value: &str,
) -> Result<Option<(Source<'a>, String)>, Error> {
    let Some(source) = source(kubernetes, workload).await? else { return Ok(None) };
    let synced = |external_secret: ExternalSecret| {
        external_secret.status.unwrap_or_default().synced_resource_version
    };
    if source.keeper.is_none() {
        // The answer to a patch is the object as the patch left it, with its status: no sync has followed
        // it yet.
        let patched = force_again(kubernetes, workload, &source, value).await?;
        return Ok(patched.map(|it| (source, synced(it))));
    }
    // Read before the patch of its ClusterExternalSecret, whose answer does not contain it. A sync between
    // this read and the patch is recognised by its digest. The ClusterExternalSecret may not have made it
    // yet.
    let before = get(kubernetes, workload, &source.name).await?;
    force_again(kubernetes, workload, &source, value).await?;
    Ok(Some((source, before.map(synced).unwrap_or_default())))
}

/// Sets the annotation to a new value that begins with `force`. Returns the ExternalSecret if it was
/// patched itself. `None` if it is gone, which the watch reports, or if a ClusterExternalSecret keeps it.
pub(super) async fn force_again(
    kubernetes: &KubernetesClusters,
    workload: &Workload,
    source: &Source<'_>,
    force: &str,
) -> Result<Option<ExternalSecret>, Error> {
    let patched = annotate(kubernetes, workload, source, force, Mode::Persist).await;
    found(patched).map(Option::flatten)
}

/// Submits the annotation that forces a refresh as a dry run: admission judges it, and nothing changes.
/// `keeper` is the ClusterExternalSecret that keeps the ExternalSecret `name`.
pub(crate) async fn dry_run(
    kubernetes: &KubernetesClusters,
    workload: &Workload,
    name: &str,
    keeper: Option<&str>,
) -> Result<(), Failed> {
    let source = Source { name: name.to_owned(), keeper };
    annotate(kubernetes, workload, &source, "dry-run", Mode::DryRun).await.map(drop)
}

/// Sets the annotation, and returns the ExternalSecret as the patch left it; `None` if its keeper was
/// patched.
async fn annotate(
    kubernetes: &KubernetesClusters,
    workload: &Workload,
    source: &Source<'_>,
    force: &str,
    mode: Mode,
) -> Result<Option<ExternalSecret>, Failed> {
    let version = external_secrets_api::version(kubernetes, workload).await?;
    // A sync may already have followed an attempt whose reply was lost. Each attempt sets another value, so
    // that a sync is still to follow the state that this attempt returns as "before".
    let force = || kubernetes.forcing(force);
    let Some(keeper) = source.keeper else {
        let name = source.name.as_str();
        let target = Target::beside(workload, "patch", external_secret::RESOURCE, name);
        let patched = call(&*kubernetes.access, target, |connection| {
            let (objects, force) = (
                external_secrets_api::external_secrets(connection.client, workload, version),
                force(),
            );
            async move { external_secrets_api::annotate(objects, name, ANNOTATION, &force, mode).await }
        });
        return patched.await.map(Some);
    };
    // A ClusterExternalSecret would remove an annotation from its children again, and copies its own to
    // them.
    let target = external_secrets_api::of_cluster(workload, "patch", keeper);
    let patched = call(&*kubernetes.access, target, |connection| {
        let (objects, force) =
            (external_secrets_api::cluster_external_secrets(connection.client, version), force());
        async move {
            external_secrets_api::annotate(objects, keeper, ANNOTATION_OF_CLUSTER, &force, mode)
                .await
        }
    });
    patched.await.map(|_| None)
}

/// The value that forced this ExternalSecret last, without the number that was appended to it.
pub(super) fn last_force(external_secret: &ExternalSecret) -> &str {
    let annotations = external_secret.metadata.annotations.as_ref();
    let value = annotations
        .and_then(|it| it.get(ANNOTATION).or_else(|| it.get(ANNOTATION_OF_CLUSTER)))
        .map_or("", String::as_str);
    value.split('.').next().unwrap_or_default()
}

/// The annotation that forces a refresh. A change of any annotation does; this is the one that the
/// documentation names (external-secrets `docs/introduction/faq.md`).
const ANNOTATION: &str = "force-sync";

/// The annotation that a ClusterExternalSecret copies to its children (`AnnotationForceSync`).
const ANNOTATION_OF_CLUSTER: &str = "external-secrets.io/force-sync";
