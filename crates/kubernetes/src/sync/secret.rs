//! The contents of a Secret, without its values.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use changeover_core::{error::Error, record::SecretRevision, spec::Workload};
use changeover_token::{Digest, Fence};
use kube::core::ObjectMeta;
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::{
    KubernetesClusters,
    call::{Target, call, found},
};

/// A Secret, with its values as digests.
pub(crate) struct Secret {
    pub(super) metadata: ObjectMeta,
    pub(super) is_immutable: bool,
    /// `type`, which shows the other user of the Secret, if it has one.
    pub(super) kind: String,
    /// Values that are not base64 are left out.
    pub(super) digests: BTreeMap<String, Digest>,
}

impl Secret {
    /// The fence that an annotation of it carries.
    pub(super) fn fence(&self, annotation: &str) -> Option<Fence> {
        self.metadata.annotations.as_ref()?.get(annotation)?.parse().ok()
    }

    /// The revision of these keys' values.
    ///
    /// It is not the Secret's resourceVersion. External Secrets copies the annotation that forces a
    /// refresh, so the resourceVersion moves with every refresh, including those that others force. Other
    /// tokens may also have keys of their own here.
    pub(super) fn revision<'a>(&self, keys: impl IntoIterator<Item = &'a str>) -> SecretRevision {
        // The uid is part of the hash and is not published: without it, a reader of the revision cannot
        // test guesses of the values.
        let uid = self.metadata.uid.as_deref().unwrap_or_default();
        let digests = keys.into_iter().map(|key| (key, self.digests.get(key).copied()));
        revision(uid, digests)
    }
}

/// The revision of a Secret with this uid in which these keys have these values.
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

/// Reads a Secret; `None` if it does not exist.
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

/// The path of a Secret at the API server.
pub(super) fn path(workload: &Workload, name: &str) -> String {
    format!("/api/v1/namespaces/{}/secrets/{name}", workload.namespace)
}

/// The type of a Secret that holds arbitrary data, and of a Secret that names no type.
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
