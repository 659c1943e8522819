//! What a Secret holds, without its values.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use changeover_core::{error::Error, record::SecretRevision, spec::Workload};
use changeover_token::{Digest, Fence};
use kube::core::ObjectMeta;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::found;
use crate::{
    KubernetesClusters,
    call::{Target, call},
};

/// A Secret, its values as digests.
pub(in super::super) struct Secret {
    pub(super) metadata: ObjectMeta,
    pub(super) is_immutable: bool,
    /// `type`, which says who else uses it.
    pub(super) kind: String,
    /// Values that are not base64 are left out.
    pub(super) digests: BTreeMap<String, Digest>,
}

impl Secret {
    /// The fence that an annotation of it carries.
    pub(super) fn fence(&self, annotation: &str) -> Option<Fence> {
        self.metadata.annotations.as_ref()?.get(annotation)?.parse().ok()
    }

    /// Which values these keys have.
    ///
    /// Not the Secret's resourceVersion: External Secrets copies the annotation that forces a
    /// refresh, so that it moves with every refresh of anybody, and other tokens may have keys of
    /// their own here.
    pub(super) fn revision<'a>(&self, keys: impl IntoIterator<Item = &'a str>) -> SecretRevision {
        // The uid goes in and does not come out: without it nobody can try what the keys may hold.
        let uid = self.metadata.uid.as_deref().unwrap_or_default();
        let digests = keys.into_iter().map(|key| (key, self.digests.get(key).copied()));
        revision(uid, digests)
    }
}

/// The revision of a Secret with this uid, as of which these keys have these values.
pub(super) fn revision<'a>(
    uid: &str,
    digests: impl IntoIterator<Item = (&'a str, Option<Digest>)>,
) -> SecretRevision {
    let mut holds = uid.to_owned();
    let digests: BTreeMap<_, _> = digests.into_iter().collect();
    for (key, digest) in digests {
        holds += &format!("\n{key}={}", digest.map(|it| it.to_string()).unwrap_or_default());
    }
    SecretRevision(Digest::of(holds).to_string())
}

/// Reads a Secret; `None` where it does not exist.
pub(super) async fn read(
    kubernetes: &KubernetesClusters,
    workload: &Workload,
    name: &str,
) -> Result<Option<Secret>, Error> {
    let target = Target::beside(workload, "get", "secrets", name);
    let path = path(workload, name);
    let answer = call(&*kubernetes.access, target, |connection| {
        let request = http::Request::get(&path).body(Vec::new());
        async move {
            let request = request.map_err(kube::Error::HttpError)?;
            // Not `Api::get`: kube logs an answer that it cannot read, and this one is secret.
            let text = Zeroizing::new(connection.client.request_text(request).await?);
            serde_json::from_str::<Object>(&text).map_err(kube::Error::SerdeError)
        }
    });
    let Some(secret) = found(answer.await)? else { return Ok(None) };
    let digests = secret.data.unwrap_or_default().into_iter().filter_map(|(key, value)| {
        let bytes = Zeroizing::new(STANDARD.decode(value.0.as_bytes()).ok()?);
        Some((key, Digest::of(&*bytes)))
    });
    Ok(Some(Secret {
        digests: digests.collect(),
        metadata: secret.metadata,
        is_immutable: secret.immutable.unwrap_or_default(),
        kind: secret.kind.unwrap_or_else(|| OPAQUE.to_owned()),
    }))
}

/// Where the API server has it.
pub(super) fn path(workload: &Workload, name: &str) -> String {
    format!("/api/v1/namespaces/{}/secrets/{name}", workload.namespace)
}

/// The type of a Secret that holds whatever somebody puts into it, and of one that says none.
pub(super) const OPAQUE: &str = "Opaque";

#[derive(Deserialize)]
struct Object {
    metadata: ObjectMeta,
    immutable: Option<bool>,
    #[serde(rename = "type")]
    kind: Option<String>,
    data: Option<BTreeMap<String, Hidden>>,
}

/// A value of a Secret in base64.
struct Hidden(Zeroizing<String>);

impl<'de> Deserialize<'de> for Hidden {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|value| Self(Zeroizing::new(value)))
    }
}
