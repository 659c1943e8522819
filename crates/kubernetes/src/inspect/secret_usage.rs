//! Judges the chain from a Secret's key into a workload's containers. Pure.
//!
//! ```text
//! Secret key ─► env, envFrom                    a new pod sees a new value
//!            ─► volume, projected volume        running pods see it too, within two minutes
//!            ─► either of them by subPath       a new pod sees it
//! ```

use changeover_core::{finding::Finding, spec::PicksUp};
use k8s_openapi::api::core::v1::{Container, KeyToPath, PodSpec, SecretEnvSource, Volume};

/// A way in which a container of a pod gets at keys of a Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Use {
    /// In words: `container backend has it as variable TOKEN`.
    words: String,
    /// True if a running container sees a new value.
    is_live: bool,
}

/// A Secret, and the keys of it that hold what is published.
#[derive(Clone, Copy, Debug)]
pub(super) struct SecretSource<'a> {
    /// The Secret's name.
    pub(super) secret: &'a str,
    /// The keys.
    pub(super) keys: &'a [&'a str],
    /// True if other keys of the Secret are made out of these.
    pub(super) is_templated: bool,
}

/// Judges the uses of the Secret in this pod template. Returns them in words, or the finding if something
/// is wrong.
pub(super) fn judge(
    object: &str,
    pod: &PodSpec,
    source: SecretSource<'_>,
    picks_up: PicksUp,
) -> Result<Vec<String>, Finding> {
    let SecretSource { secret, keys, is_templated } = source;
    let named = keys.join(", ");
    let of_keys = uses(pod, secret, Some(keys));
    let of_any = uses(pod, secret, None);
    let used = if of_keys.is_empty() && is_templated { &of_any } else { &of_keys };

    // Judged first: a workload that never picks the value up is refused, whatever else is right.
    if let (PicksUp::Within(_), Some(once)) = (picks_up, used.iter().find(|it| !it.is_live)) {
        return Err(Finding::refusal(
            object,
            format!("its spec says picks_up within a time, and {}: that never changes", once.words),
            "mount the Secret as a volume without subPath, or let it pick up by restart",
        ));
    }
    if !used.is_empty() {
        return Ok(used.iter().map(|it| it.words.clone()).collect());
    }
    if !of_any.is_empty() {
        return Err(Finding::warning(
            object,
            format!("its containers use Secret {secret}, but not its key {named}"),
            "let them use that key, or name the Secret's key that they use as secret_key",
        ));
    }
    // The template is all that can be judged here: pods may still read the Secret in another way.
    let reason = format!("no container of it uses Secret {secret}");
    match may_read_otherwise(pod) {
        Some(otherwise) => Err(Finding::warning(
            object,
            format!("{reason}; {otherwise}"),
            "see that it does, and when; or take the workload out of the spec",
        )),
        None => Err(Finding::refusal(
            object,
            format!("{reason}: whatever is published, its pods do not see it"),
            format!(
                "use key {named} of the Secret in env, envFrom or a volume, or take the workload \
                 out of the spec"
            ),
        )),
    }
}

/// True if containers of this pod use the Secret in any way.
pub(super) fn is_used(pod: &PodSpec, secret: &str) -> bool {
    !uses(pod, secret, None).is_empty()
}

/// Every way in which the pod's containers get at one of these keys, or at any key if `keys` is `None`.
fn uses(pod: &PodSpec, secret: &str, keys: Option<&[&str]>) -> Vec<Use> {
    let wanted = |key: &str| keys.is_none_or(|keys| keys.contains(&key));
    let mut uses = Vec::new();
    let containers = pod.init_containers.iter().flatten().chain(&pod.containers);
    for container in containers {
        let name = &container.name;
        let mut note = |words: String, is_live| {
            uses.push(Use { words: format!("container {name} {words}"), is_live });
        };
        for variable in container.env.iter().flatten() {
            let key = variable.value_from.as_ref().and_then(|from| from.secret_key_ref.as_ref());
            if key.is_some_and(|it| it.name == secret && wanted(&it.key)) {
                note(format!("has it as variable {}", variable.name), false);
            }
        }
        let all = |from: &SecretEnvSource| from.name == secret;
        if container.env_from.iter().flatten().any(|it| it.secret_ref.as_ref().is_some_and(all)) {
            note(format!("has all keys of Secret {secret} as variables"), false);
        }
        for volume in pod.volumes.iter().flatten() {
            for file in files(volume, secret, keys) {
                if let Some((path, is_live)) = mounted(container, &volume.name, &file) {
                    let how = if is_live { "" } else { " by subPath" };
                    note(format!("mounts it at {path}{how}"), is_live);
                }
            }
        }
    }
    uses
}

/// One file of a volume, or all of its files.
enum File {
    Named(String),
    All,
}

/// The files of a volume that hold one of these keys of the Secret.
fn files(volume: &Volume, secret: &str, keys: Option<&[&str]>) -> Vec<File> {
    let of = |items: Option<&Vec<KeyToPath>>| -> Vec<File> {
        match (items, keys) {
            (Some(items), keys) => items
                .iter()
                .filter(|item| keys.is_none_or(|keys| keys.contains(&item.key.as_str())))
                .map(|item| File::Named(item.path.clone()))
                .collect(),
            (None, Some(keys)) => keys.iter().map(|key| File::Named((*key).to_owned())).collect(),
            (None, None) => vec![File::All],
        }
    };
    let plain = volume.secret.iter().filter(|it| it.secret_name.as_deref() == Some(secret));
    let plain = plain.flat_map(|it| of(it.items.as_ref()));
    let projected = volume.projected.iter().flat_map(|it| it.sources.iter().flatten());
    let projected = projected
        .filter_map(|source| source.secret.as_ref())
        .filter(|it| it.name == secret)
        .flat_map(|it| of(it.items.as_ref()));
    plain.chain(projected).collect()
}

/// The path at which a container sees a file of this volume, and true if it sees the file change. A file
/// that is mounted by subPath keeps the content that it had when the container started
/// (kubernetes/kubernetes issue 50345).
fn mounted(container: &Container, volume: &str, file: &File) -> Option<(String, bool)> {
    let mounts = container.volume_mounts.iter().flatten().filter(|mount| mount.name == volume);
    let seen = mounts.filter_map(|mount| {
        // The value of an expression is known in the pod only.
        let is_expression = mount.sub_path_expr.as_ref().is_some_and(|it| !it.is_empty());
        let part = mount.sub_path.as_deref().unwrap_or_default().trim_matches('/');
        let is_within = match file {
            _ if part.is_empty() => true,
            File::All => true,
            File::Named(path) => {
                path == part || path.strip_prefix(part).is_some_and(|rest| rest.starts_with('/'))
            }
        };
        is_within.then(|| (mount.mount_path.clone(), part.is_empty() && !is_expression))
    });
    // If it sees the file twice, the mount that does not change counts.
    seen.min_by_key(|(_, is_live)| *is_live)
}

/// The reason for which a pod may read the Secret although its template does not name it.
fn may_read_otherwise(pod: &PodSpec) -> Option<String> {
    let drivers = pod.volumes.iter().flatten().filter_map(|volume| volume.csi.as_ref());
    if let Some(csi) = drivers.into_iter().next() {
        return Some(format!("a CSI volume of driver {} may bring it in", csi.driver));
    }
    // The account `default` may read nothing unless an operator granted it rights.
    let account = pod.service_account_name.as_deref().unwrap_or("default");
    let has_token = pod.automount_service_account_token != Some(false);
    let of_its_own = account != "default" && !account.is_empty() && has_token;
    of_its_own.then(|| format!("as service account {account} its pods may read it by the API"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;
    use changeover_core::finding::Severity;

    fn pod(spec: Value) -> PodSpec {
        let mut spec = spec;
        if spec["containers"].is_null() {
            spec["containers"] = json!([{"name": "main"}]);
        }
        serde_json::from_value(spec).unwrap()
    }

    fn container(fields: Value) -> Value {
        let mut container = fields;
        container["name"] = json!("main");
        json!({"containers": [container]})
    }

    fn mounting(volume: Value, mount: Value) -> Value {
        let (mut volume, mut mount) = (volume, mount);
        volume["name"] = json!("v");
        mount["name"] = json!("v");
        mount["mountPath"] = json!("/run/token");
        let mut pod = container(json!({"volumeMounts": [mount]}));
        pod["volumes"] = json!([volume]);
        pod
    }

    fn variable(secret: &str, key: &str) -> Value {
        let from = json!({"secretKeyRef": {"name": secret, "key": key}});
        json!({"env": [{"name": "TOKEN", "valueFrom": from}]})
    }

    fn judged(spec: &Value, picks_up: PicksUp) -> Result<Vec<String>, Finding> {
        let source = SecretSource { secret: "copy", keys: &["token"], is_templated: false };
        judge("it", &pod(spec.clone()), source, picks_up)
    }

    const WITHIN: PicksUp = PicksUp::Within(Duration::from_mins(2));

    #[test]
    fn live_update_requires_volume_mount_without_sub_path() {
        let from_all = json!({"envFrom": [{"secretRef": {"name": "copy"}}]});
        let projected = |source: Value| json!({"projected": {"sources": [{"secret": source}]}});
        let init = json!({"initContainers": [{"name": "main", "env": variable("copy", "token")["env"]}],
            "containers": [{"name": "other"}]});
        let items = json!([{"key": "token", "path": "a/b"}]);
        // Each case has a pod, words of its report, and true if a running container sees a new value.
        let cases = [
            (container(variable("copy", "token")), "variable TOKEN", false),
            (init, "variable TOKEN", false),
            (container(from_all), "all keys of Secret copy", false),
            (mounting(json!({"secret": {"secretName": "copy"}}), json!({})), "/run/token", true),
            (
                mounting(json!({"secret": {"secretName": "copy", "items": items}}), json!({})),
                "/run/token",
                true,
            ),
            (mounting(projected(json!({"name": "copy"})), json!({})), "/run/token", true),
            (
                mounting(
                    projected(json!({"name": "copy", "items": items})),
                    json!({"subPath": "a"}),
                ),
                "by subPath",
                false,
            ),
            (
                mounting(json!({"secret": {"secretName": "copy"}}), json!({"subPath": "token"})),
                "by subPath",
                false,
            ),
            (
                mounting(json!({"secret": {"secretName": "copy"}}), json!({"subPathExpr": "$(X)"})),
                "by subPath",
                false,
            ),
        ];
        for (spec, words, is_live) in cases {
            let restarted = judged(&spec, PicksUp::Restart).unwrap();
            assert!(restarted[0].contains(words), "{spec}: {restarted:?}");
            let within = judged(&spec, WITHIN);
            assert_eq!(within.is_ok(), is_live, "{spec}: {within:?}");
            if let Err(finding) = within {
                assert_eq!(finding.severity, Severity::Refusal);
            }
        }
    }

    #[test]
    fn workload_without_use_of_secret_is_refused() {
        let unmounted = json!({"volumes": [{"name": "v", "secret": {"secretName": "copy"}}]});
        let other_file = mounting(
            json!({"secret": {"secretName": "copy", "items": [{"key": "token", "path": "a"}]}}),
            json!({"subPath": "b"}),
        );
        let pulls = json!({"imagePullSecrets": [{"name": "copy"}]});
        let without_token =
            json!({"serviceAccountName": "reader", "automountServiceAccountToken": false});
        let cases = [
            json!({}),
            container(variable("another", "token")),
            unmounted,
            other_file,
            pulls,
            json!({"serviceAccountName": "default"}),
            without_token,
        ];
        for spec in cases {
            let finding = judged(&spec, PicksUp::Restart).unwrap_err();
            assert_eq!(finding.severity, Severity::Refusal, "{spec}");
            assert!(finding.reason.contains("no container of it uses Secret copy"), "{spec}");
        }
    }

    #[test]
    fn unproven_use_of_secret_is_warning() {
        let csi =
            json!({"volumes": [{"name": "v", "csi": {"driver": "secrets-store.csi.k8s.io"}}]});
        let cases = [
            (csi, "secrets-store.csi.k8s.io"),
            (json!({"serviceAccountName": "reader"}), "service account reader"),
            (container(variable("copy", "another")), "not its key token"),
        ];
        for (spec, words) in cases {
            let finding = judged(&spec, PicksUp::Restart).unwrap_err();
            assert_eq!(finding.severity, Severity::Warning, "{spec}");
            assert!(finding.reason.contains(words), "{}", finding.reason);
        }
    }

    #[test]
    fn templated_key_counts_as_use() {
        let source = SecretSource { secret: "copy", keys: &["raw"], is_templated: true };
        let pod = pod(container(variable("copy", "config.yaml")));
        assert!(judge("it", &pod, source, PicksUp::Restart).is_ok());
        assert!(judge("it", &pod, source, WITHIN).is_err());
    }
}
