//! An ExternalSecret, and the obstacles in it that would defeat a rotation for ever. Pure.
//!
//! Fields as in external-secrets `apis/externalsecrets/v1/externalsecret_types.go`. Those named here are
//! the same in `v1beta1`. Rules as in `pkg/controllers/externalsecret`.

use std::collections::BTreeMap;

use changeover_core::{finding::Finding, spec::ParameterName};
use kube::core::{ApiResource, GroupVersionKind, Object};
use serde::{Deserialize, Serialize};

/// An ExternalSecret, reduced to the fields that matter here.
pub(super) type ExternalSecret = Object<ExternalSecretSpec, ExternalSecretStatus>;

/// The API group of External Secrets.
pub(super) const GROUP: &str = "external-secrets.io";

/// The entry of a Role's `resources`.
pub(super) const RESOURCE: &str = "externalsecrets.external-secrets.io";

/// The resource in this version of the API.
pub(super) fn resource(version: &str) -> ApiResource {
    let kind = GroupVersionKind::gvk(GROUP, version, "ExternalSecret");
    ApiResource::from_gvk_with_plural(&kind, "externalsecrets")
}

/// The Secret that an ExternalSecret writes.
pub(super) fn secret_name(external_secret: &ExternalSecret) -> &str {
    match external_secret.spec.target.name.as_str() {
        "" => external_secret.metadata.name.as_deref().unwrap_or_default(),
        named => named,
    }
}

/// A key of the Secret, and the parameters whose value it may be a copy of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Copy<'a> {
    /// The key of the Secret.
    pub(super) secret_key: &'a str,
    /// The value is a copy of one of these.
    pub(super) parameters: Vec<&'a ParameterName>,
}

/// Finds the keys of the Secret that hold copies of these parameters.
///
/// They are found from `data[].remoteRef.key`, the name of a parameter or its ARN. A key that the spec
/// names need not be found: it may hold any of them.
pub(super) fn copies<'a>(
    spec: &'a ExternalSecretSpec,
    secret_key: Option<&'a str>,
    parameters: impl Iterator<Item = &'a ParameterName> + Clone,
) -> Vec<Copy<'a>> {
    let found = spec.data.iter().filter_map(|entry| {
        let parameter = parameters.clone().find(|parameter| entry.reads(parameter))?;
        Some(Copy { secret_key: &entry.secret_key, parameters: vec![parameter] })
    });
    match secret_key {
        None => found.collect(),
        Some(named) => {
            let any = || Copy { secret_key: named, parameters: parameters.clone().collect() };
            vec![found.into_iter().find(|copy| copy.secret_key == named).unwrap_or_else(any)]
        }
    }
}

/// Finds everything in an ExternalSecret that would keep it from ever copying these parameters as they are,
/// each with its fix. `keeper` is the ClusterExternalSecret that must keep it.
pub(super) fn obstacles(
    object: &str,
    external_secret: &ExternalSecret,
    secret_key: Option<&str>,
    keeper: Option<&str>,
    parameters: &[ParameterName],
) -> Vec<Finding> {
    let spec = &external_secret.spec;
    let refused = obstacle_of_keeper(external_secret, keeper)
        .into_iter()
        .chain(obstacle_of_refresh(spec))
        .chain(obstacles_of_target(&spec.target))
        .chain(obstacles_of_copies(spec, secret_key, parameters));
    refused.map(|(reason, fix)| Finding::refusal(object.to_owned(), reason, fix)).collect()
}

/// A reason and its fix.
type Refused = (String, &'static str);

fn obstacle_of_keeper(external_secret: &ExternalSecret, keeper: Option<&str>) -> Option<Refused> {
    // The annotation of a child is overwritten by its ClusterExternalSecret, so the spec must name the
    // object that keeps it.
    let mut owners = external_secret.metadata.owner_references.iter().flatten();
    let owner = owners.find(|owner| owner.kind == "ClusterExternalSecret");
    match (keeper, owner.map(|owner| owner.name.as_str())) {
        (Some(keeper), Some(owner)) if keeper == owner => None,
        (Some(keeper), _) => Some((
            format!("it is not one that ClusterExternalSecret {keeper} keeps"),
            "delete it, or name it as external_secret in the workload",
        )),
        (None, Some(owner)) => Some((
            format!(
                "it belongs to ClusterExternalSecret {owner}, which overwrites the annotation that \
                 forces a refresh"
            ),
            "name that as cluster_external_secret in the workload, instead of external_secret",
        )),
        (None, None) => None,
    }
}

fn obstacle_of_refresh(spec: &ExternalSecretSpec) -> Option<Refused> {
    // These policies never read the value again, or ignore a forced refresh.
    match spec.refresh_policy.as_str() {
        "CreatedOnce" => Some((
            "its refreshPolicy CreatedOnce never reads a value again".to_owned(),
            "set spec.refreshPolicy to Periodic or OnChange",
        )),
        "OnChange" => None,
        _ if spec.refresh_interval.as_deref().is_some_and(is_zero) => Some((
            "its refreshInterval is 0, and then a forced refresh is ignored too \
             (external-secrets issue 4447)"
                .to_owned(),
            "set spec.refreshInterval to a time, 1h for instance, or spec.refreshPolicy to OnChange",
        )),
        _ => None,
    }
}

/// The settings that keep the Secret from being written.
fn obstacles_of_target(target: &SecretTarget) -> impl Iterator<Item = Refused> {
    let immutable = target.immutable.then(|| {
        (
            "its Secret is immutable".to_owned(),
            "set spec.target.immutable to false, and delete the Secret once",
        )
    });
    let no_secret = (target.creation_policy == "None").then(|| {
        (
            "its creationPolicy None writes no Secret".to_owned(),
            "set spec.target.creationPolicy to Owner",
        )
    });
    immutable.into_iter().chain(no_secret)
}

fn obstacles_of_copies(
    spec: &ExternalSecretSpec,
    secret_key: Option<&str>,
    parameters: &[ParameterName],
) -> Vec<Refused> {
    let mut obstacles = Vec::new();
    let mut refuse = |reason: String, fix: &'static str| obstacles.push((reason, fix));
    // A copy is confirmed by digest, so it must be the whole latest value under a key of its own.
    let copies = copies(spec, secret_key, parameters.iter());
    if copies.is_empty() {
        let names: Vec<_> = parameters.iter().map(ParameterName::as_str).collect();
        refuse(
            format!(
                "no entry of its data has one of {} as remoteRef.key{}",
                names.join(", "),
                spec.reads_instead()
            ),
            "add one, publish to the parameter that it reads, or name the Secret's key as \
             secret_key in the workload",
        );
    }
    for copy in copies {
        let key = copy.secret_key;
        let mut entries = spec.data.iter().filter(|entry| entry.secret_key == key);
        let entry = entries.next();
        if entries.next().is_some() {
            refuse(
                format!(
                    "several entries of its data write the Secret's key {key}, and the last wins"
                ),
                "give each entry a secretKey of its own",
            );
        }
        if let Some(change) = entry.and_then(Entry::change) {
            refuse(
                format!("its data entry {key} {change}"),
                "let the entry copy the whole latest value as it is; a template can make a second \
                 key out of it",
            );
        }
        if secret_key.is_none() && spec.target.template.as_ref().is_some_and(|it| it.changes(key)) {
            refuse(
                format!("its template rewrites the Secret's key {key}"),
                "add a key that holds the value as it is, and name it as secret_key in the workload",
            );
        }
    }
    obstacles
}

/// True if a Go duration is zero or less.
fn is_zero(duration: &str) -> bool {
    duration.starts_with('-') || !duration.contains(|c: char| matches!(c, '1'..='9'))
}

/// `spec` of an ExternalSecret.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ExternalSecretSpec {
    refresh_interval: Option<String>,
    refresh_policy: String,
    pub(super) secret_store_ref: StoreReference,
    target: SecretTarget,
    data: Vec<Entry>,
    /// True if the prefix of a store was put before any key.
    #[serde(skip)]
    is_prefixed: bool,
}

impl ExternalSecretSpec {
    /// True if any entry reads this parameter.
    pub(super) fn reads(&self, parameter: &ParameterName) -> bool {
        self.data.iter().any(|entry| entry.reads(parameter))
    }

    /// The stores that its entries read.
    pub(super) fn stores(&self) -> impl Iterator<Item = &StoreReference> {
        let of_entries = self.data.iter().map(|entry| &entry.source_ref.store_ref);
        of_entries.chain([&self.secret_store_ref]).filter(|store| !store.name.is_empty())
    }

    /// Puts the prefix of its store before the key of each entry. The key is then the name of the parameter
    /// that is read.
    pub(super) fn put_before(&mut self, prefixes: &Prefixes) {
        for entry in &mut self.data {
            let named = &entry.source_ref.store_ref;
            let store = if named.name.is_empty() { &self.secret_store_ref } else { named };
            if let Some(prefix) = prefixes.get(store) {
                entry.remote_ref.key.insert_str(0, prefix);
                self.is_prefixed = true;
            }
        }
    }

    /// The names that its entries read with the prefix of their store, in words.
    fn reads_instead(&self) -> String {
        if !self.is_prefixed {
            return String::new();
        }
        let keys: Vec<_> = self.data.iter().map(|entry| entry.remote_ref.key.as_str()).collect();
        format!("; with the prefix of its store it reads {}", keys.join(", "))
    }

    /// True if keys of the Secret are made out of others.
    pub(super) fn is_templated(&self) -> bool {
        self.target.template.is_some()
    }
}

/// The store that an ExternalSecret reads from.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct StoreReference {
    pub(super) name: String,
    pub(super) kind: String,
}

/// The prefix that each store puts before the keys that are requested from it. Stores without a prefix are
/// not in it.
pub(super) type Prefixes = BTreeMap<StoreReference, String>;

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SecretTarget {
    name: String,
    creation_policy: String,
    immutable: bool,
    template: Option<Template>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Template {
    merge_policy: String,
    data: BTreeMap<String, String>,
    template_from: Vec<serde_json::Value>,
}

impl Template {
    /// True if the store's answer for this key is kept out of the Secret, or may be
    /// (`externalsecret_controller_template.go`, `ApplyTemplate`).
    fn changes(&self, key: &str) -> bool {
        let has_template = !self.data.is_empty() || !self.template_from.is_empty();
        let merges = self.merge_policy == "Merge"
            && self.template_from.is_empty()
            && !self.data.contains_key(key);
        has_template && !merges
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Entry {
    secret_key: String,
    remote_ref: RemoteReference,
    source_ref: SourceReference,
}

/// The store of one entry, if it is not the store of all.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SourceReference {
    store_ref: StoreReference,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RemoteReference {
    key: String,
    property: String,
    version: String,
    decoding_strategy: String,
    metadata_policy: String,
}

impl Entry {
    /// True if this entry reads the parameter, by its name or by its ARN.
    fn reads(&self, parameter: &ParameterName) -> bool {
        let key = self.remote_ref.key.as_str();
        let of_arn = key.strip_prefix("arn:").and_then(|arn| arn.split_once(":parameter"));
        of_arn.map_or(key, |(_, name)| name) == parameter.as_str()
    }

    /// The reason that the Secret would not hold the whole latest value as it is.
    fn change(&self) -> Option<String> {
        let RemoteReference { property, version, decoding_strategy, metadata_policy, .. } =
            &self.remote_ref;
        if !version.is_empty() {
            Some(format!("is pinned to version {version}"))
        } else if !property.is_empty() {
            Some(format!("takes only the property {property}"))
        } else if !matches!(decoding_strategy.as_str(), "" | "None") {
            Some(format!("is decoded ({decoding_strategy})"))
        } else if metadata_policy == "Fetch" {
            Some("takes the parameter's tags (metadataPolicy Fetch)".to_owned())
        } else {
            None
        }
    }
}

/// `status` of an ExternalSecret.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ExternalSecretStatus {
    pub(super) synced_resource_version: String,
    conditions: Option<Vec<ExternalSecretCondition>>,
}

impl ExternalSecretStatus {
    /// The condition `Ready`.
    pub(super) fn ready(&self) -> Option<&ExternalSecretCondition> {
        self.conditions.iter().flatten().find(|condition| condition.kind == "Ready")
    }
}

/// A condition of an ExternalSecret or of a store.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct ExternalSecretCondition {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) status: String,
    pub(super) reason: String,
    pub(super) message: String,
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn parameter(name: &str) -> ParameterName {
        ParameterName::parse(name).unwrap()
    }

    fn external_secret(spec: Value) -> ExternalSecret {
        serde_json::from_value(json!({
            "apiVersion": "external-secrets.io/v1",
            "kind": "ExternalSecret",
            "metadata": {"name": "datastore-token"},
            "spec": spec,
        }))
        .unwrap()
    }

    /// The obstacles in an ExternalSecret that copies `/backend/token` into `token`, with these changes.
    fn found(changes: Value, secret_key: Option<&str>) -> Vec<String> {
        let mut spec = json!({
            "refreshInterval": "1h0m0s",
            "data": [{"secretKey": "token", "remoteRef": {"key": "/backend/token"}}],
        });
        for (field, change) in changes.as_object().unwrap() {
            spec[field] = change.clone();
        }
        let parameters = [parameter("/backend/token")];
        obstacles("es", &external_secret(spec), secret_key, None, &parameters)
            .into_iter()
            .map(|finding| {
                assert_eq!(finding.severity, changeover_core::finding::Severity::Refusal);
                assert!(!finding.fix.is_empty());
                finding.reason
            })
            .collect()
    }

    fn entry(reference: Value) -> Value {
        let mut reference = reference;
        reference["key"] = json!("/backend/token");
        json!({"data": [{"secretKey": "token", "remoteRef": reference}]})
    }

    #[test]
    fn plain_copy_has_no_obstacle() {
        assert_eq!(found(json!({}), None), [""; 0]);
        let defaults = json!({
            "conversionStrategy": "Default", "decodingStrategy": "None", "metadataPolicy": "None",
        });
        assert_eq!(found(entry(defaults), None), [""; 0]);
        let labels_only = json!({"target": {"template": {"metadata": {"labels": {"a": "b"}}}}});
        assert_eq!(found(labels_only, None), [""; 0]);
    }

    #[test]
    fn impossible_sync_is_found() {
        let cases = [
            (json!({"refreshInterval": "0"}), "refreshInterval is 0"),
            (json!({"refreshInterval": "0h0m0s"}), "refreshInterval is 0"),
            (json!({"refreshPolicy": "Periodic", "refreshInterval": "-1h"}), "refreshInterval"),
            (json!({"refreshPolicy": "CreatedOnce"}), "CreatedOnce"),
            (json!({"target": {"immutable": true}}), "immutable"),
            (json!({"target": {"creationPolicy": "None"}}), "creationPolicy None"),
            (json!({"data": []}), "no entry of its data"),
            (
                json!({"data": [
                    {"secretKey": "token", "remoteRef": {"key": "/backend/token"}},
                    {"secretKey": "token", "remoteRef": {"key": "/backend/other"}},
                ]}),
                "several entries",
            ),
            (entry(json!({"version": "3"})), "pinned to version 3"),
            (entry(json!({"property": "password"})), "property password"),
            (entry(json!({"decodingStrategy": "Base64"})), "decoded (Base64)"),
            (entry(json!({"metadataPolicy": "Fetch"})), "tags"),
            (json!({"target": {"template": {"data": {"x": "{{ .token }}"}}}}), "template"),
            (
                json!({"target": {"template": {"mergePolicy": "Merge", "data": {"token": "x"}}}}),
                "template",
            ),
            (json!({"target": {"template": {"templateFrom": [{"literal": "x"}]}}}), "template"),
        ];
        for (changes, words) in cases {
            let reasons = found(changes.clone(), None);
            assert!(reasons.iter().any(|reason| reason.contains(words)), "{changes}: {reasons:?}");
        }
    }

    #[test]
    fn annotation_change_suffices_for_policy_on_change() {
        let on_change = json!({"refreshPolicy": "OnChange", "refreshInterval": "0"});
        assert_eq!(found(on_change, None), [""; 0]);
    }

    #[test]
    fn named_key_may_come_from_a_template() {
        let template = json!({"target": {"template": {"data": {"raw": "{{ .token }}"}}}});
        assert_eq!(found(template, Some("raw")), [""; 0]);
        assert_eq!(found(json!({"data": []}), Some("raw")), [""; 0]);
        assert_eq!(found(entry(json!({"property": "p"})), Some("token")).len(), 1);
    }

    #[test]
    fn child_is_refused_unless_spec_names_its_parent() {
        let mut child = external_secret(json!({
            "data": [{"secretKey": "token", "remoteRef": {"key": "/backend/token"}}],
        }));
        child.metadata.owner_references = Some(vec![
            serde_json::from_value(json!({
                "apiVersion": "external-secrets.io/v1",
                "kind": "ClusterExternalSecret",
                "name": "everywhere",
                "uid": "1",
            }))
            .unwrap(),
        ]);
        let parameters = [parameter("/backend/token")];
        let found = |keeper| obstacles("es", &child, None, keeper, &parameters);
        assert!(found(None)[0].reason.contains("ClusterExternalSecret everywhere"));
        assert_eq!(found(Some("everywhere")), []);
        assert!(found(Some("elsewhere"))[0].reason.contains("not one that"));
        child.metadata.owner_references = None;
        let found = obstacles("es", &child, None, Some("everywhere"), &parameters);
        assert!(found[0].reason.contains("not one that"));
    }

    #[test]
    fn entry_reads_parameter_by_name_or_arn() {
        let reads = |key: &str, name: &str| {
            let reference = RemoteReference { key: key.to_owned(), ..RemoteReference::default() };
            Entry { remote_ref: reference, ..Entry::default() }.reads(&parameter(name))
        };
        let arn = "arn:aws:ssm:eu-west-1:123456789012:parameter/backend/token";
        assert!(reads("/backend/token", "/backend/token"));
        assert!(reads(arn, "/backend/token"));
        assert!(!reads("/backend/token:3", "/backend/token"));
        assert!(!reads("/other/backend/token", "/backend/token"));
        assert!(!reads("/backend/tok", "/backend/token"));
        assert!(!reads(arn, "/token"));
    }

    #[test]
    fn all_entries_of_published_parameters_are_confirmed_copies() {
        let (one, two) = (parameter("/one"), parameter("/two"));
        let spec: ExternalSecretSpec = serde_json::from_value(json!({"data": [
            {"secretKey": "a", "remoteRef": {"key": "/one"}},
            {"secretKey": "b", "remoteRef": {"key": "/elsewhere"}},
            {"secretKey": "c", "remoteRef": {"key": "/two"}},
        ]}))
        .unwrap();
        let parameters = [&one, &two];
        let copy = |secret_key, parameters| Copy { secret_key, parameters };
        assert_eq!(
            copies(&spec, None, parameters.into_iter()),
            [copy("a", vec![&one]), copy("c", vec![&two])]
        );
        assert_eq!(copies(&spec, Some("c"), parameters.into_iter()), [copy("c", vec![&two])]);
        assert_eq!(copies(&spec, Some("d"), parameters.into_iter()), [copy("d", vec![&one, &two])]);
    }

    #[test]
    fn secret_name_defaults_to_external_secret_name() {
        let named = |target| secret_name(&external_secret(json!({"target": target}))).to_owned();
        assert_eq!(named(json!({})), "datastore-token");
        assert_eq!(named(json!({"name": "copy"})), "copy");
    }
}
