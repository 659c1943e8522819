//! Before anything changes: look, refuse what could not end well, then mint.
//!
//! A mint is only ever this: generate, seal, save. Until the save stands, nobody has seen the value
//! and a crash loses nothing; once it stands, the value is decided, and every effect may run again.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::join_all;

use crate::{
    error::{Error, Kind},
    record::{Begin, Change, Held, Lease, Minted, Purpose, Record, RotationId},
    spec::{self, ParameterName, Place, Publication, Side, Spec, Workload},
    token::{LARGEST_VALUE, Secret, VersionNumber},
    turn::{Stop, Turn},
    world::{Finding, Holding, Severity, Subject, World},
};

impl Turn<'_> {
    /// Takes the slot: adopts or creates the token's first version where it has none, and mints a
    /// pending one for a rotation.
    pub(crate) async fn begin(&mut self, purpose: Purpose) -> Result<(), Stop> {
        if self.stored.as_ref().map(Record::spec_version) != Some(self.spec.version)
            && let Some(conflict) = conflict(self.world, self.spec).await?
        {
            return Err(Stop::Failed(conflict));
        }
        let without = self.asking.without;
        let look = look(self.world, self.spec, self.stored.as_ref(), without).await?;
        let first = self.stored.is_none();
        let refused = look.findings.iter().find(|finding| match finding.severity {
            Severity::Refusal => true,
            // Pods cannot start before the Secret exists, nor it before the first publication.
            Severity::Missing => purpose == Purpose::Rotate && look.has_current,
            Severity::Warning => false,
        });
        if let Some(finding) = refused {
            // The publications were read after the record: somebody may have moved both since.
            let now = self.world.records.load(self.asking.token, None).await?.record;
            let revision = |record: &Option<Record>| record.as_ref().map(Record::revision);
            if revision(&now) != revision(&self.stored) {
                return Err(Stop::Overtaken);
            }
            return Err(Stop::Failed(
                Error::new(
                    Kind::PreflightFailed,
                    "begin a rotation with",
                    finding.reason.clone(),
                    finding.fix.clone(),
                )
                .on(&finding.object),
            ));
        }
        self.warnings
            .extend(look.findings.iter().map(|it| format!("{}: {}", it.object, it.reason)));
        if first {
            let now = self.now();
            self.record = Record::new(self.asking.token.clone(), look.highest_revision, now);
        }

        let mut number = self.record.next_version();
        let adopted = match look.adopted.filter(|_| first) {
            Some(value) => {
                let minted = self.seal(number, value, held_at(&look.found)).await?;
                number = number.next();
                Some(minted)
            }
            None => None,
        };
        let purpose = if look.has_current { purpose } else { Purpose::Publish };
        let minted = if purpose == Purpose::Rotate || !look.has_current {
            let generation = &self.spec.generation;
            let value = generation.mint(&mut self.world.random())?;
            Some(self.seal(number, value, BTreeMap::new()).await?)
        } else {
            None
        };
        self.found = look.found;
        self.take_slot(purpose, adopted, minted, Vec::new()).await
    }

    /// Saves the rotation, its version, its trigger's key and the lease, all or nothing.
    pub(crate) async fn take_slot(
        &mut self,
        purpose: Purpose,
        adopted: Option<Minted>,
        minted: Option<Minted>,
        repaired: Vec<Side>,
    ) -> Result<(), Stop> {
        let begin = Begin {
            id: RotationId(self.world.random_name()?),
            purpose,
            adopted,
            minted,
            repaired,
            spec_version: self.spec.version,
            lease: Lease { holder: self.holder.clone(), until: self.now() + self.settings.lease },
        };
        self.apply(Change::Begin(begin))?;
        self.leave_out()?;
        self.refuse_what_does_not_fit().await?;
        self.joins = self.key.is_some();
        self.save().await
    }

    /// An accepted document that no parameter takes would be found out after the mint, when it can
    /// only be dropped again.
    async fn refuse_what_does_not_fit(&mut self) -> Result<(), Error> {
        let accepted = self.content(Side::Verifiers).await?;
        for publication in &self.spec.verifiers.publications {
            let bytes = accepted.bytes(publication.form).expose().len();
            if !publication.place.is_fenced() && bytes > LARGEST_VALUE {
                return Err(Error::new(
                    Kind::TooLarge,
                    "publish the accepted tokens to",
                    format!("they take {bytes} bytes, and a standard parameter {LARGEST_VALUE}"),
                    "publish digests, shorten the overlap, or rotate less often",
                )
                .on(&publication.place));
            }
        }
        Ok(())
    }

    async fn seal(
        &mut self,
        number: VersionNumber,
        value: Secret,
        held_at: BTreeMap<String, u64>,
    ) -> Result<Minted, Error> {
        let sealed = self.world.records.seal(self.asking.token, number, &value).await?;
        let sha256 = value.digest();
        self.values.insert(number, value);
        Ok(Minted { sha256, sealed, held_at })
    }
}

/// What was seen before a mint.
pub(crate) struct Look {
    /// What the presented publications hold.
    pub(crate) found: BTreeMap<Place, Holding>,
    /// Whether there is a current version: in the record, or to be adopted.
    pub(crate) has_current: bool,
    /// The one value that presenters already have, of a token without a record.
    pub(crate) adopted: Option<Secret>,
    /// The highest revision of a view that any publication carries.
    pub(crate) highest_revision: u64,
    /// What stands in the way, and what is worth knowing; the worst first.
    pub(crate) findings: Vec<Finding>,
}

/// Looks at the presented publications once, at all publications of a token without a record, and
/// at the workloads, but for those of clusters to be left out. Has no effect.
///
/// # Errors
/// What could not be read.
pub(crate) async fn look(
    world: &World,
    spec: &Spec,
    record: Option<&Record>,
    without: &BTreeSet<String>,
) -> Result<Look, Error> {
    let sides: &[Side] = if record.is_some() { &[Side::Presenters] } else { &Side::BOTH };
    let publications = publications(spec, sides);
    let reads = publications.iter().map(|(side, it)| world.publications.read(&it.place, *side));
    let mut subjects = subjects(spec);
    subjects.retain(|subject| !without.contains(&subject.workload.cluster));
    let inspections = subjects.into_iter().map(|Subject { workload, parameters }| async move {
        (workload, world.clusters.inspect(workload, &parameters).await)
    });
    let (reads, inspections) = tokio::join!(join_all(reads), join_all(inspections));

    let mut holdings = Vec::new();
    for ((side, publication), holding) in publications.into_iter().zip(reads) {
        holdings.extend(holding?.map(|holding| (side, &publication.place, holding)));
    }
    let mut look = Look::at(spec, record, holdings);
    for (workload, findings) in inspections {
        let findings = findings.or_else(|error| {
            let Held { object, reason, fix, .. } = away(workload, error)?;
            Ok::<_, Error>(vec![Finding { severity: Severity::Refusal, object, reason, fix }])
        });
        for finding in findings? {
            if !look.findings.contains(&finding) {
                look.findings.push(finding);
            }
        }
    }
    look.findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    Ok(look)
}

/// What keeps a workload's cluster from being asked: it holds what waits for it, under the cluster's
/// name, and nothing else.
///
/// # Errors
/// What is no fault of the cluster's.
pub(crate) fn away(workload: &Workload, error: Error) -> Result<Held, Error> {
    let cluster = &workload.cluster;
    let object = match (error.kind, error.on.as_ref()) {
        (Kind::Unreachable | Kind::Throttled, _) => format!("cluster {cluster}"),
        (Kind::AccessDenied | Kind::BadSpec, Some(on)) if on.contains(cluster) => on.clone(),
        (Kind::AccessDenied | Kind::BadSpec, Some(on)) => format!("cluster {cluster}, {on}"),
        (Kind::AccessDenied | Kind::BadSpec, None) => format!("cluster {cluster}"),
        _ => return Err(error),
    };
    let fix = format!(
        "{}; to go on without it, knowingly, rotate with \"without\": [\"{cluster}\"]",
        error.fix
    );
    Ok(Held::new(object, error.because, fix))
}

/// The publications of these sides.
pub(crate) fn publications<'a>(spec: &'a Spec, sides: &[Side]) -> Vec<(Side, &'a Publication)> {
    let of = |side: Side| spec.side(side).publications.iter().map(move |it| (side, it));
    sides.iter().copied().flat_map(of).collect()
}

/// The workloads of both sides.
pub(crate) fn subjects(spec: &Spec) -> Vec<Subject<'_>> {
    let of = |side| {
        let audience = spec.side(side);
        let parameters: Vec<_> = audience.publications.iter().filter_map(parameter).collect();
        audience
            .workloads
            .iter()
            .map(move |workload| Subject { workload, parameters: parameters.clone() })
    };
    Side::BOTH.into_iter().flat_map(of).collect()
}

/// Places whose value is none of this token's live versions: somebody's hand.
fn drift(record: &Record, values: &[(&Place, Secret)]) -> Vec<Finding> {
    let strange = values.iter().filter(|(_, value)| {
        let digest = value.digest();
        !record.versions().iter().any(|version| version.sha256 == digest)
    });
    strange
        .map(|(place, _)| {
            Finding::refusal(
                place.to_string(),
                "drift: it holds a value that is not a live version of this token",
                "find out who wrote it; put the current value back, or remove it",
            )
        })
        .collect()
}

/// Two specs that write the same place would undo each other. Looked for when a spec is used for
/// the first time, and by every preflight: it reads all specs.
///
/// # Errors
/// What could not be read; a conflict is not an error of this function, but its result.
pub(crate) async fn conflict(world: &World, spec: &Spec) -> Result<Option<Error>, Error> {
    let mut specs = others(world, spec).await?;
    specs.push(spec.clone());
    Ok(spec::conflicts(&specs).remove(&spec.token))
}

/// The specs of all other tokens. What is wrong with one is theirs to be told.
pub(crate) async fn others(world: &World, spec: &Spec) -> Result<Vec<Spec>, Error> {
    let all = world.specs.all().await?.into_iter();
    let others = all.filter(|(name, _)| *name != spec.token);
    Ok(others
        .filter_map(|(name, text)| {
            let text = text.ok()?;
            Spec::parse(&name, text.version, &text.json).ok()
        })
        .collect())
}

impl Look {
    /// What these places hold, and what is to be said of it.
    pub(crate) fn at(
        spec: &Spec,
        record: Option<&Record>,
        holdings: Vec<(Side, &Place, Holding)>,
    ) -> Self {
        let mut look = Look {
            found: BTreeMap::new(),
            has_current: record.is_some(),
            adopted: None,
            highest_revision: 0,
            findings: Vec::new(),
        };
        let mut values: Vec<(&Place, Secret)> = Vec::new();
        for (side, place, holding) in holdings {
            if place.is_fenced() {
                look.highest_revision = look.highest_revision.max(holding.store_version);
            }
            if let Some(owner) = holding.token.as_ref().filter(|owner| **owner != spec.token) {
                look.findings.push(Finding::refusal(
                    place.to_string(),
                    format!("it belongs to the token {owner}"),
                    "publish to a place of its own",
                ));
            }
            if side == Side::Presenters {
                values.push((place, holding.value.clone()));
                look.found.insert(place.clone(), holding);
            }
        }
        match record {
            Some(record) => look.findings.extend(drift(record, &values)),
            None => look.adopt(values),
        }
        look
    }

    /// Where the presented publications hold one value, it becomes the token's first version. A
    /// place that holds nothing does not disagree.
    fn adopt(&mut self, values: Vec<(&Place, Secret)>) {
        let Some((first, value)) = values.first() else {
            return;
        };
        let other = values.iter().find(|(_, other)| other.digest() != value.digest());
        let finding = match (other, Secret::adopt(value.expose().to_owned())) {
            (Some((other, _)), _) => Finding::refusal(
                first.to_string(),
                format!("it holds another value than {other}"),
                "make the presented publications agree, or empty all but the right one",
            ),
            (None, Err(error)) => Finding::failed(first.to_string(), error),
            (None, Ok(value)) => {
                self.has_current = true;
                self.adopted = Some(value);
                return;
            }
        };
        self.findings.push(finding);
    }
}

/// Which version of which parameter holds an adopted value.
fn held_at(found: &BTreeMap<Place, Holding>) -> BTreeMap<String, u64> {
    let parameters = found.iter().filter(|(place, _)| matches!(place, Place::Parameter(_)));
    parameters.map(|(place, holding)| (place.to_string(), holding.store_version)).collect()
}

/// The parameter that a publication is, where it is one.
pub(crate) fn parameter(publication: &Publication) -> Option<ParameterName> {
    match &publication.place {
        Place::Parameter(name) => Some(name.clone()),
        Place::Item { .. } => None,
    }
}
