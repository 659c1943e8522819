//! The workloads of a spec: their objects, the copies that they read, and the way in which they pick up a
//! view.

use std::time::Duration;

use serde_json::Value;

use super::{
    super::{
        PicksUp, SecretCopy, Workload, WorkloadKind,
        raw::{self, Field, Object},
        rules::{
            CLUSTER_RULE, LABEL_RULE, LONGEST_DURATION, SECRET_KEY_RULE, SUBDOMAIN_RULE,
            is_cluster, is_label, is_secret_key, is_subdomain,
        },
    },
    Faults,
};
use crate::error::displayed_value;

impl Faults {
    pub(super) fn workload(&mut self, path: &str, raw: raw::RawWorkload) -> Option<Workload> {
        let cluster = self.name(format!("{path}.cluster"), raw.cluster, is_cluster, CLUSTER_RULE);
        let namespace = self.name(format!("{path}.namespace"), raw.namespace, is_label, LABEL_RULE);
        let object = self.object(
            path,
            [
                ("deployment", WorkloadKind::Deployment, raw.deployment),
                ("stateful_set", WorkloadKind::StatefulSet, raw.stateful_set),
                ("daemon_set", WorkloadKind::DaemonSet, raw.daemon_set),
            ],
        );
        let copy = self.copy(
            path,
            raw.external_secret,
            raw.cluster_external_secret,
            raw.secret,
            raw.secret_key,
        );
        let is_copied = copy != Some(None);
        let picks_up = self.picks_up(&format!("{path}.picks_up"), raw.picks_up, is_copied);
        let settle = match raw.settle.0 {
            None => Some(DEFAULT_SETTLE),
            Some(settle) => {
                self.duration(format!("{path}.settle"), &settle, Duration::ZERO..=LONGEST_SETTLE)
            }
        };
        let (kind, name) = object?;
        Some(Workload {
            cluster: cluster?,
            namespace: namespace?,
            kind,
            name,
            copy: copy?,
            picks_up: picks_up?,
            settle: settle?,
        })
    }

    /// The copy of the view into the Secret that the workload's pods read; `Some(None)` if the spec names
    /// none.
    fn copy(
        &mut self,
        path: &str,
        external_secret: Field<Value>,
        cluster_external_secret: Field<Value>,
        secret: Field<Object<raw::RawSecret>>,
        secret_key: Field<Value>,
    ) -> Option<Option<SecretCopy>> {
        // Two writers of one Secret would overwrite each other, so only one of the fields may be present.
        let named: Vec<_> = [
            ("external_secret", external_secret.0.is_some()),
            ("cluster_external_secret", cluster_external_secret.0.is_some()),
            ("secret", secret.0.is_some()),
        ]
        .into_iter()
        .filter_map(|(field, is_named)| is_named.then_some(field))
        .collect();
        if named.len() > 1 {
            return self.add(
                path,
                format!("has {}, which each bring the Secret; leave one", named.join(" and ")),
            );
        }
        // `secret_key` selects a key of a Secret that the External Secrets Operator writes.
        let has_external_secret =
            external_secret.0.is_some() || cluster_external_secret.0.is_some();
        let secret_key = match secret_key {
            Field(None) => Some(None),
            Field(Some(_)) if !has_external_secret => self.add(
                format!("{path}.secret_key"),
                "names a key of an ExternalSecret's Secret, and there is no `external_secret` or \
                 `cluster_external_secret`; leave it out",
            ),
            key => self
                .name(format!("{path}.secret_key"), key, is_secret_key, SECRET_KEY_RULE)
                .map(Some),
        };
        // At most one of the three fields is left.
        let mut object = |field: &str, name: Field<Value>| {
            self.name(format!("{path}.{field}"), name, is_subdomain, SUBDOMAIN_RULE)
        };
        if external_secret.0.is_some() {
            let name = object("external_secret", external_secret);
            return Some(Some(SecretCopy::ExternalSecret { name: name?, secret_key: secret_key? }));
        }
        if cluster_external_secret.0.is_some() {
            let name = object("cluster_external_secret", cluster_external_secret);
            let (name, secret_key) = (name?, secret_key?);
            return Some(Some(SecretCopy::ClusterExternalSecret { name, secret_key }));
        }
        let Some(Object(secret)) = secret.0 else {
            return secret_key.map(|_| None);
        };
        let name = object("secret.name", secret.name);
        let key =
            self.name(format!("{path}.secret.key"), secret.key, is_secret_key, SECRET_KEY_RULE);
        Some(Some(SecretCopy::Secret { name: name?, key: key? }))
    }

    /// The object of a workload: exactly one of these fields names it.
    fn object(
        &mut self,
        path: &str,
        fields: [(&str, WorkloadKind, Field<Value>); 3],
    ) -> Option<(WorkloadKind, String)> {
        let mut named = fields.into_iter().filter(|(_, _, name)| name.0.is_some());
        match (named.next(), named.next()) {
            (Some((field, kind, name)), None) => {
                let name =
                    self.name(format!("{path}.{field}"), name, is_subdomain, SUBDOMAIN_RULE)?;
                Some((kind, name))
            }
            (None, _) => self.add(
                path,
                "names no object; write one of \"deployment\", \"stateful_set\" and \"daemon_set\"",
            ),
            (Some((first, ..)), Some((second, ..))) => {
                self.add(path, format!("names a `{first}` and a `{second}`; write two workloads"))
            }
        }
    }

    fn picks_up(&mut self, path: &str, raw: Field<Value>, is_copied: bool) -> Option<PicksUp> {
        let least = if is_copied { SHORTEST_MOUNT } else { Duration::ZERO };
        match raw.0 {
            None => Some(PicksUp::Restart),
            Some(Value::String(text)) if text == "restart" => Some(PicksUp::Restart),
            Some(Value::Object(fields)) if fields.len() == 1 && fields.contains_key("within") => {
                self.duration(format!("{path}.within"), &fields["within"], least..=LONGEST_DURATION)
                    .map(PicksUp::Within)
            }
            Some(other) => self.add(
                path,
                format!(
                    "is {}; write \"restart\" or {{\"within\": \"2m\"}}",
                    displayed_value(&other)
                ),
            ),
        }
    }
}

const DEFAULT_SETTLE: Duration = Duration::from_secs(2);
/// The longest `settle`. It is waited for within one invocation, and no invocation lasts longer (Lambda
/// quotas).
const LONGEST_SETTLE: Duration = Duration::from_secs(15 * 60);
/// The time that a kubelet needs at most, by default, to bring a changed Secret into a running pod's
/// volume.
const SHORTEST_MOUNT: Duration = Duration::from_secs(2 * 60);
