//! Telling External Secrets to refresh.

use changeover_core::{error::Error, ports::SyncedBefore, spec::Workload};

use super::{Source, api, found, get, source};
use crate::{
    KubernetesClusters,
    call::{Failed, Mode, Target, call},
    external_secret::{self, ExternalSecret},
};

/// See [`changeover_core::ports::Clusters::force_sync`].
pub(in super::super) async fn force_sync(
    kubernetes: &KubernetesClusters,
    workload: &Workload,
    force: &str,
) -> Result<Option<SyncedBefore>, Error> {
    let Some(source) = source(kubernetes, workload).await? else { return Ok(None) };
    let synced = |external_secret: ExternalSecret| SyncedBefore {
        synced_resource_version: external_secret.status.unwrap_or_default().synced_resource_version,
    };
    if source.keeper.is_none() {
        // The answer to a patch is the object as the patch left it, its status included: nobody has
        // synced it since.
        let patched = force_again(kubernetes, workload, &source, force).await?;
        return Ok(patched.map(synced));
    }
    // Looked at first: what is synced between this look and the patch is told apart by its digest. It
    // may be that the ClusterExternalSecret has not made it yet.
    let before = get(kubernetes, workload, &source.name).await?;
    let before = before.map_or(SyncedBefore { synced_resource_version: String::new() }, synced);
    force_again(kubernetes, workload, &source, force).await?;
    Ok(Some(before))
}

/// Sets the annotation to a new value that begins with `force`. Answers the ExternalSecret where it
/// was patched itself; `None` where it is gone, which the watch tells, or is somebody's child.
pub(super) async fn force_again(
    kubernetes: &KubernetesClusters,
    workload: &Workload,
    source: &Source<'_>,
    force: &str,
) -> Result<Option<ExternalSecret>, Error> {
    let patched = annotate(kubernetes, workload, source, force, Mode::Persist).await;
    found(patched).map(Option::flatten)
}

/// Has admission judge the annotation that forces a refresh, and changes nothing. `keeper` is the
/// ClusterExternalSecret that keeps the ExternalSecret `name`.
pub(in super::super) async fn dry_run(
    kubernetes: &KubernetesClusters,
    workload: &Workload,
    name: &str,
    keeper: Option<&str>,
) -> Result<(), Failed> {
    let source = Source { name: name.to_owned(), keeper };
    annotate(kubernetes, workload, &source, "dry-run", Mode::DryRun).await.map(drop)
}

/// Sets the annotation; the ExternalSecret as the patch left it, `None` where its keeper was patched.
async fn annotate(
    kubernetes: &KubernetesClusters,
    workload: &Workload,
    source: &Source<'_>,
    force: &str,
    mode: Mode,
) -> Result<Option<ExternalSecret>, Failed> {
    let version = api::version(kubernetes, workload).await?;
    // An attempt whose reply was lost may already have been followed by a sync. Another value makes
    // this attempt's answer a "before" that a sync is still to follow.
    let force = || kubernetes.forcing(force);
    let Some(keeper) = source.keeper else {
        let name = source.name.as_str();
        let target = Target::beside(workload, "patch", external_secret::RESOURCE, name);
        let patched = call(&*kubernetes.access, target, |connection| {
            let (objects, force) =
                (api::external_secrets(connection.client, workload, version), force());
            async move { api::annotate(objects, name, ANNOTATION, &force, mode).await }
        });
        return patched.await.map(Some);
    };
    // It would take an annotation off its children again, and hands them its own.
    let target = api::of_cluster(workload, "patch", keeper);
    let patched = call(&*kubernetes.access, target, |connection| {
        let (objects, force) = (api::cluster_external_secrets(connection.client, version), force());
        async move { api::annotate(objects, keeper, ANNOTATION_OF_CLUSTER, &force, mode).await }
    });
    patched.await.map(|_| None)
}

/// The value that forced this ExternalSecret last, as far as the caller chose it.
pub(super) fn last_force(external_secret: &ExternalSecret) -> &str {
    let annotations = external_secret.metadata.annotations.as_ref();
    let value = annotations
        .and_then(|it| it.get(ANNOTATION).or_else(|| it.get(ANNOTATION_OF_CLUSTER)))
        .map_or("", String::as_str);
    value.split('.').next().unwrap_or_default()
}

/// Whatever annotation changes makes External Secrets refresh; this is the one that its
/// documentation names (external-secrets `docs/introduction/faq.md`).
const ANNOTATION: &str = "force-sync";

/// The one that a ClusterExternalSecret copies to its children (`AnnotationForceSync`).
const ANNOTATION_OF_CLUSTER: &str = "external-secrets.io/force-sync";
