//! The API of External Secrets, in the version that a cluster serves.

use changeover_core::{
    error::{Error, Kind},
    spec::Workload,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::APIGroup;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::{
    KubernetesClusters, MANAGER,
    call::{Failed, Mode, Target, call},
    cluster_external_secret::{self, ClusterExternalSecret},
    external_secret::{self, ExternalSecret},
};

/// The ExternalSecrets in the namespace of a workload.
pub(super) fn external_secrets(
    client: Client,
    workload: &Workload,
    version: &str,
) -> Api<ExternalSecret> {
    Api::namespaced_with(client, &workload.namespace, &external_secret::resource(version))
}

/// All ClusterExternalSecrets.
pub(super) fn cluster_external_secrets(
    client: Client,
    version: &str,
) -> Api<ClusterExternalSecret> {
    Api::all_with(client, &cluster_external_secret::resource(version))
}

/// A call on a ClusterExternalSecret, which is in no namespace.
pub(super) fn of_cluster<'a>(workload: &'a Workload, verb: &'a str, name: &'a str) -> Target<'a> {
    let resource = cluster_external_secret::RESOURCE;
    Target { namespace: "", ..Target::beside(workload, verb, resource, name) }
}

/// Sets an annotation, and returns the object as the patch left it, or would leave it.
pub(super) async fn annotate<K>(
    objects: Api<K>,
    name: &str,
    annotation: &str,
    value: &str,
    mode: Mode,
) -> Result<K, kube::Error>
where
    K: Clone + std::fmt::Debug + DeserializeOwned,
{
    let manager = Some(MANAGER.to_owned());
    let dry_run = mode == Mode::DryRun;
    let parameters = PatchParams { field_manager: manager, dry_run, ..PatchParams::default() };
    let patch = Patch::Merge(json!({"metadata": {"annotations": {annotation: value}}}));
    objects.patch(name, &parameters, &patch).await
}

/// The version of External Secrets' API to use with the workload's cluster: the stable one if it is served.
/// It is requested once per process and cluster, and again if an object is not found by it.
pub(crate) async fn version(
    kubernetes: &KubernetesClusters,
    workload: &Workload,
) -> Result<&'static str, Error> {
    match kubernetes.known_version(&workload.cluster) {
        Some(known) => Ok(known),
        None => served(kubernetes, workload).await,
    }
}

/// True if the served version differs from the one by which an object was not found: External Secrets may
/// have been upgraded since this process asked. Asks the cluster.
pub(super) async fn has_changed(
    kubernetes: &KubernetesClusters,
    workload: &Workload,
    version: &str,
) -> Result<bool, Error> {
    Ok(served(kubernetes, workload).await? != version)
}

/// Asks the cluster for the served version, and remembers it.
async fn served(
    kubernetes: &KubernetesClusters,
    workload: &Workload,
) -> Result<&'static str, Error> {
    let cluster = &workload.cluster;
    let target = Target { name: "", ..Target::beside(workload, "get", external_secret::GROUP, "") };
    let group = call(&*kubernetes.access, target, |connection| async move {
        let request = http::Request::get(format!("/apis/{}", external_secret::GROUP));
        let request = request.body(Vec::new()).map_err(kube::Error::HttpError)?;
        connection.client.request::<APIGroup>(request).await
    })
    .await;
    let served: Vec<String> = match group {
        Ok(group) => group.versions.into_iter().map(|version| version.version).collect(),
        // A caller that may not list the versions can still use one.
        Err(Failed { code: 403, .. }) => vec![VERSIONS[0].to_owned()],
        Err(Failed { code: 404, .. }) => Vec::new(),
        Err(failed) => return Err(failed.error),
    };
    let version = VERSIONS.into_iter().find(|version| served.iter().any(|it| it == version));
    let version = version.ok_or_else(|| {
        let because = if served.is_empty() {
            "the cluster does not know ExternalSecrets".to_owned()
        } else {
            format!("the cluster knows them only as {}", served.join(", "))
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

/// The supported versions of External Secrets' API, the preferred one first.
const VERSIONS: [&str; 2] = ["v1", "v1beta1"];
