//! Resolution of a spec: raw shapes are checked field by field, and become types that cannot hold invalid
//! values.

mod cluster;
mod publication;
mod workload;

use std::collections::BTreeSet;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use changeover_token::{AcceptedForm, Generation, Prefix, TokenName};
use serde_json::Value;

use super::{
    OnDrift, ParameterName, PicksUp, Place, Publication, SecretCopy, Side, SideSpec, Source, Spec,
    SpecId, Workload, WrittenKey,
    raw::{self, Field, Object},
    rules::{LONGEST_DURATION, duration},
};
use crate::error::{Error, Kind, displayed_value};

pub(super) use cluster::cluster;

/// See [`Spec::parse`].
pub(super) fn spec(name: &TokenName, version: i64, json: &str) -> Result<Spec, Error> {
    let raw: raw::RawSpec = raw::read(json).map_err(|fault| bad_spec(name, version, &fault))?;
    let mut faults = Faults::default();

    // Each field is checked even after a fault, so that all faults are reported at once.
    let generation = faults.generation(raw.token);
    let source = faults.source(raw.source);
    let overlap = match raw.overlap.0 {
        Some(overlap) => faults.duration("overlap", &overlap, SHORTEST_OVERLAP..=LONGEST_DURATION),
        None => faults.add("overlap", "is missing; say how long the previous token stays valid"),
    };
    let verifiers = faults.audience(Side::Verifiers, raw.verifiers);
    let presenters = faults.audience(Side::Presenters, raw.presenters);
    let rollout_timeout = match raw.rollout_timeout.0 {
        Some(timeout) => faults.duration("rollout_timeout", &timeout, SECOND..=LONGEST_DURATION),
        None => Some(DEFAULT_ROLLOUT_TIMEOUT),
    };
    let on_drift = faults.on_drift(raw.on_drift);
    faults.across_fields(name, source.as_ref(), [&verifiers, &presenters], rollout_timeout);

    // A fault across fields leaves every field present, so the list of faults must be empty too.
    let (
        true,
        Some(source),
        Some(generation),
        Some(overlap),
        Some(verifiers),
        Some(presenters),
        Some(rollout_timeout),
        Some(on_drift),
    ) = (
        faults.0.is_empty(),
        source,
        generation,
        overlap,
        verifiers,
        presenters,
        rollout_timeout,
        on_drift,
    )
    else {
        return Err(bad_spec(name, version, &faults.summary()));
    };
    Ok(Spec {
        token: name.clone(),
        id: SpecId::of(version, json),
        source,
        generation,
        overlap,
        verifiers,
        presenters,
        rollout_timeout,
        on_drift,
    })
}

/// The error of a spec that cannot be carried out.
pub(super) fn bad_spec(name: &TokenName, version: i64, because: &str) -> Error {
    Error::new(Kind::BadSpec, "use the spec of token", because, "correct the spec's parameter")
        .on(format!("\"{name}\" (version {version} of its parameter)"))
}

/// The allowed values of `source.least_bits`.
const LEAST_BITS: RangeInclusive<u16> = 64..=512;
const SECOND: Duration = Duration::from_secs(1);
const SHORTEST_OVERLAP: Duration = Duration::from_secs(5);
const DEFAULT_ROLLOUT_TIMEOUT: Duration = Duration::from_secs(10 * 60);
const DEFAULT_BYTES: u8 = 32;

/// The faults of a spec, in the order in which they were found.
#[derive(Default)]
struct Faults(Vec<String>);

impl Faults {
    /// Notes a fault: a field, and the rest of the sentence. Returns `None` in place of the value of the
    /// field.
    fn add<T>(&mut self, path: impl Display, fault: impl Display) -> Option<T> {
        self.0.push(format!("`{path}` {fault}"));
        None
    }

    fn unavailable(&mut self, path: impl Display, feature: &str) {
        self.add::<()>(
            path,
            format!("asks for {feature}, which is not available in this version; leave it out"),
        );
    }

    fn summary(&self) -> String {
        const LISTED: usize = 10;
        let mut listed = self.0.iter().take(LISTED).cloned().collect::<Vec<_>>();
        if self.0.len() > LISTED {
            listed.push(format!("and {} more", self.0.len() - LISTED));
        }
        listed.join("; ")
    }

    fn generation(&mut self, token: Field<Object<raw::RawToken>>) -> Option<Generation> {
        let token = token.0.map(|Object(token)| token).unwrap_or_default();
        let bytes = match token.bytes.0 {
            None => Some(DEFAULT_BYTES),
            Some(value) => {
                let bytes = value.as_u64().and_then(|bytes| u8::try_from(bytes).ok());
                match bytes.filter(|bytes| Generation::BYTES.contains(bytes)) {
                    None => self.add(
                        "token.bytes",
                        format!(
                            "is {}; write a whole number from 32 to 64",
                            displayed_value(&value)
                        ),
                    ),
                    bytes => bytes,
                }
            }
        };
        let prefix = match token.prefix.0 {
            None => Some(None),
            Some(value) => match value.as_str().and_then(Prefix::parse) {
                // The value is not shown: a whole token may have been written there by mistake.
                None => self.add(
                    "token.prefix",
                    "is not a prefix; write 1 to 16 of a-z and 0-9, and then '_'",
                ),
                prefix => Some(prefix),
            },
        };
        Generation::new(bytes?, prefix?)
    }

    fn source(&mut self, source: Field<Value>) -> Option<Source> {
        match source.0 {
            None => Some(Source::Generated),
            Some(Value::String(source)) if source == "generated" => Some(Source::Generated),
            Some(Value::Object(fields))
                if fields.contains_key("parameter")
                    && fields
                        .keys()
                        .all(|key| ["least_bits", "parameter"].contains(&key.as_str())) =>
            {
                let parameter = self.parameter("source.parameter", &fields["parameter"]);
                let least_bits = self.least_bits(fields.get("least_bits"));
                Some(Source::Inbox { parameter: parameter?, least_bits: least_bits? })
            }
            Some(other) => self.add(
                "source",
                format!(
                    "is {}; write \"generated\", or {{\"parameter\": \"<name>\"}} where values are \
                     issued elsewhere, and `least_bits` beside it if they are shorter",
                    displayed_value(&other)
                ),
            ),
        }
    }

    fn least_bits(&mut self, value: Option<&Value>) -> Option<u16> {
        let Some(value) = value else { return Some(Source::LEAST_BITS) };
        let bits = value.as_u64().and_then(|bits| u16::try_from(bits).ok());
        match bits.filter(|bits| LEAST_BITS.contains(bits)) {
            None => self.add(
                "source.least_bits",
                format!("is {}; write a whole number from 64 to 512", displayed_value(value)),
            ),
            bits => bits,
        }
    }

    /// Refuses digests of short values: a digest of a short value can be reversed by trying all values.
    fn digests(&mut self, source: &Source, verifiers: &SideSpec) {
        let Source::Inbox { least_bits, .. } = source else { return };
        let forms = verifiers.publications.iter().map(|publication| publication.form);
        let has_digests = forms.into_iter().any(|form| form == AcceptedForm::Digests);
        if *least_bits < Source::LEAST_BITS && has_digests {
            self.add::<()>(
                "source.least_bits",
                format!(
                    "is {least_bits}, and a reader of a digest of so few bits finds the token by \
                     trying; write \"as\": \"plain\" on every publication of verifiers, or 128 and more"
                ),
            );
        }
    }

    /// Refuses a `rollout_timeout` that is not longer than a workload's own `picks_up` and `settle`.
    /// Otherwise the workload would be held though nothing is wrong.
    fn time_outs(&mut self, audience: &SideSpec, timeout: Duration) {
        for workload in &audience.workloads {
            let within = match workload.picks_up {
                PicksUp::Restart => Duration::ZERO,
                PicksUp::Within(within) => within,
            };
            if within.max(workload.settle) >= timeout {
                self.add::<()>(
                    "rollout_timeout",
                    format!(
                        "is {}, and {workload} alone takes {} by its `picks_up` and `settle`; write more",
                        humantime::format_duration(timeout),
                        humantime::format_duration(within.max(workload.settle)),
                    ),
                );
            }
        }
    }

    /// Refuses an inbox that the spec publishes to. Otherwise an arrival would be taken for a publication,
    /// and a publication for an arrival.
    fn inbox(&mut self, inbox: &ParameterName, sides: [&SideSpec; 2]) {
        let mut published = sides.into_iter().flat_map(|side| &side.publications);
        if published.any(|it| matches!(&it.place, Place::Parameter(name) if name == inbox)) {
            self.add::<()>(
                "source.parameter",
                format!("names {inbox}, which the spec publishes to; let values arrive elsewhere"),
            );
        }
    }

    /// Checks the rules across fields, on the fields that are valid by themselves.
    fn across_fields(
        &mut self,
        name: &TokenName,
        source: Option<&Source>,
        sides: [&Option<SideSpec>; 2],
        rollout_timeout: Option<Duration>,
    ) {
        if let Some(timeout) = rollout_timeout {
            for side in sides.into_iter().flatten() {
                self.time_outs(side, timeout);
            }
        }
        if let [Some(verifiers), Some(presenters)] = sides {
            self.both_sides(name, verifiers, presenters);
            if let Some(source) = source {
                self.digests(source, verifiers);
                if let Source::Inbox { parameter, .. } = source {
                    self.inbox(parameter, [verifiers, presenters]);
                }
            }
        }
    }

    fn on_drift(&mut self, on_drift: Field<Value>) -> Option<OnDrift> {
        match on_drift.0.as_ref().map(|value| (value, value.as_str())) {
            None | Some((_, Some("refuse"))) => Some(OnDrift::Refuse),
            Some((_, Some("adopt"))) => Some(OnDrift::Adopt),
            Some((other, _)) => self.add(
                "on_drift",
                format!("is {}; write \"refuse\" or \"adopt\"", displayed_value(other)),
            ),
        }
    }

    fn audience(&mut self, side: Side, raw: Field<Object<raw::RawSideSpec>>) -> Option<SideSpec> {
        let Some(Object(raw)) = raw.0 else {
            return Some(SideSpec::default());
        };
        // Each entry is checked by itself first, with its index in the path of its faults.
        let publish = raw.publish.0.unwrap_or_default();
        if publish.is_empty() {
            self.add::<()>(
                format!("{side}.publish"),
                format!("names no place; name one, or leave `{side}` out"),
            );
        }
        let publications: Vec<_> = publish
            .into_iter()
            .enumerate()
            .map(|(index, Object(raw))| {
                self.publication(side, &format!("{side}.publish[{index}]"), raw)
            })
            .collect();
        let within = match raw.within.0 {
            None => Some(None),
            Some(within) => self
                .duration(format!("{side}.within"), &within, Duration::ZERO..=LONGEST_DURATION)
                .map(Some),
        };
        let workloads: Vec<_> = raw
            .workloads
            .0
            .unwrap_or_default()
            .into_iter()
            .enumerate()
            .map(|(index, Object(raw))| self.workload(&format!("{side}.workloads[{index}]"), raw))
            .collect();

        let audience = SideSpec {
            publications: publications.into_iter().collect::<Option<_>>()?,
            within: within?,
            workloads: workloads.into_iter().collect::<Option<_>>()?,
        };
        self.within_or_restart(side, &audience);
        self.duplicate_places(side, &audience.publications);
        self.workloads_of(side, &audience);
        Some(audience)
    }

    fn within_or_restart(&mut self, side: Side, audience: &SideSpec) {
        // Without a restart, only `within` bounds the time for which a reader may use an old copy.
        let restarts = |workload: &Workload| workload.picks_up == PicksUp::Restart;
        if audience.within.is_none() && !audience.workloads.iter().any(restarts) {
            self.add::<()>(
                format!("{side}.within"),
                "is missing, and no workload of this side restarts; say how long a reader may hold \
                 its copy",
            );
        }
    }

    fn duplicate_places(&mut self, side: Side, publications: &[Publication]) {
        // Duplicates would be written twice, or stamped twice, in one step.
        let mut places = BTreeSet::new();
        for (index, publication) in publications.iter().enumerate() {
            if !places.insert(&publication.place) {
                self.add::<()>(
                    format!("{side}.publish[{index}]"),
                    format!("names {} a second time; remove one", publication.place),
                );
            }
        }
    }

    fn workloads_of(&mut self, side: Side, audience: &SideSpec) {
        let is_parameter = |it: &Publication| matches!(it.place, Place::Parameter(_));
        let has_parameter = audience.publications.iter().any(is_parameter);
        let mut names = BTreeSet::new();
        for (index, workload) in audience.workloads.iter().enumerate() {
            if !names.insert(workload.to_string()) {
                self.add::<()>(
                    format!("{side}.workloads[{index}]"),
                    format!("names {workload} a second time; remove one"),
                );
            }
            // An ExternalSecret reads from Parameter Store, so its side must publish to a parameter.
            let copier = match &workload.copy {
                Some(SecretCopy::ExternalSecret { .. }) => Some("external_secret"),
                Some(SecretCopy::ClusterExternalSecret { .. }) => Some("cluster_external_secret"),
                Some(SecretCopy::Secret { .. }) | None => None,
            };
            if let Some(field) = copier.filter(|_| !has_parameter) {
                self.add::<()>(
                    format!("{side}.workloads[{index}].{field}"),
                    format!(
                        "copies from a parameter, and `{side}.publish` names none; add an \"ssm\" \
                         publication"
                    ),
                );
            }
            // A field manager owns only what it applies. Applying a second key of the Secret would
            // therefore remove the first one.
            let others = audience.workloads[..index].iter().filter_map(Workload::written_key);
            let is_torn = |written: &WrittenKey<'_>| {
                others.clone().any(|it| it.secret() == written.secret() && it.key != written.key)
            };
            if let Some(written) = workload.written_key().filter(is_torn) {
                self.add::<()>(
                    format!("{side}.workloads[{index}].secret.key"),
                    format!(
                        "is a second key of {written}; a token has one key of a Secret for each side"
                    ),
                );
            }
        }
    }

    fn both_sides(&mut self, name: &TokenName, verifiers: &SideSpec, presenters: &SideSpec) {
        // A token that is published to no side has no reader.
        if verifiers.is_empty() && presenters.is_empty() {
            self.add::<()>(
                "verifiers",
                "is missing, and so is `presenters`: no service would learn of the token; add a side",
            );
        }
        for (index, publication) in presenters.publications.iter().enumerate() {
            let Place::Parameter(parameter) = &publication.place else {
                continue;
            };
            // An item holds each view in attributes of its own. A parameter has one value only.
            let is_same = |other: &Publication| other.place == publication.place;
            if verifiers.publications.iter().any(is_same) {
                self.add::<()>(
                    format!("presenters.publish[{index}].ssm"),
                    format!(
                        "is \"{parameter}\", which `verifiers` publish to as well; a parameter \
                         holds one view, so name another"
                    ),
                );
            }
        }
        // A key of a Secret has one value too, so the two sides cannot share it.
        let accepted: Vec<_> =
            verifiers.workloads.iter().filter_map(Workload::written_key).collect();
        for (index, workload) in presenters.workloads.iter().enumerate() {
            if let Some(written) = workload.written_key().filter(|it| accepted.contains(it)) {
                self.add::<()>(
                    format!("presenters.workloads[{index}].secret.key"),
                    format!(
                        "is {written}, which `verifiers` write as well; a key holds one view, so name \
                         another"
                    ),
                );
            }
        }
        // The stamp of a workload is an annotation that is named after the token.
        let has_workloads = !verifiers.workloads.is_empty() || !presenters.workloads.is_empty();
        let name = name.as_str();
        if has_workloads && (name.starts_with('-') || name.ends_with('-')) {
            self.add::<()>(
                "workloads",
                "need a token whose name begins and ends with a letter or digit: it becomes the name \
                 of an annotation; rename the token",
            );
        }
    }

    /// Reads a required text that keeps a rule of AWS or Kubernetes.
    fn name(
        &mut self,
        path: impl Display,
        value: Field<Value>,
        keeps: impl Fn(&str) -> bool,
        rule: &str,
    ) -> Option<String> {
        match value.0 {
            None => self.add(path, format!("is missing; write {rule}")),
            Some(Value::String(name)) if keeps(&name) => Some(name),
            Some(other) => self.add(path, format!("is {}; write {rule}", displayed_value(&other))),
        }
    }

    fn duration(
        &mut self,
        path: impl Display,
        value: &Value,
        bounds: RangeInclusive<Duration>,
    ) -> Option<Duration> {
        // A number has no unit, and is not a duration.
        match duration(value.as_str().unwrap_or_default(), bounds) {
            Ok(duration) => Some(duration),
            Err(fault) => self.add(path, format!("is {}, which {fault}", displayed_value(value))),
        }
    }
}
