//! Observation before anything changes: presented publications, workloads and other specs.
//!
//! Observing has no effect. Its results are findings: what blocks a rotation, and what is worth knowing.
//! Every mint and every preflight is preceded by it; a preflight examines more.

use std::collections::{BTreeMap, BTreeSet};

use changeover_token::{Life, Secret};
use futures::future::join_all;

use crate::{
    error::{Error, Kind},
    finding::{Finding, Severity, Subject},
    ports::{Ports, StoredValue},
    record::{Held, Record},
    spec::{ParameterName, Place, Publication, Side, Spec, Workload},
};

/// Result of an observation before a mint.
pub(crate) struct Snapshot {
    /// The content of the presented publications.
    pub(crate) found: BTreeMap<Place, StoredValue>,
    /// True if there is a current version: in the record, or to be adopted.
    pub(crate) has_current: bool,
    /// The one value that presenters already have, for a token without a record.
    pub(crate) adopted: Option<Secret>,
    /// The one value that another writer put there since, if it is to become the next version.
    pub(crate) edited: Option<Secret>,
    /// The highest life of a record that any publication carries.
    pub(crate) highest_life: Option<Life>,
    /// Blockers of a rotation, and what is worth knowing; the worst first.
    pub(crate) findings: Vec<Finding>,
}

/// Reads the presented publications once, or all publications of a token without a record, and inspects the
/// workloads, except those of clusters that are left out. Has no effect.
///
/// # Errors
/// Those of the reads. A cluster that cannot be asked is a finding instead.
pub(crate) async fn observe(
    ports: &Ports,
    spec: &Spec,
    record: Option<&Record>,
    adopts: bool,
    without: &BTreeSet<String>,
) -> Result<Snapshot, Error> {
    let sides: &[Side] = if record.is_some() { &[Side::Presenters] } else { &Side::BOTH };
    let publications = publications(spec, sides);
    let reads = publications.iter().map(|(side, it)| ports.publications.read(&it.place, *side));
    let mut subjects = subjects(spec, record);
    subjects.retain(|subject| !without.contains(&subject.workload.cluster));
    let inspections = subjects
        .into_iter()
        .map(|subject| async move { (subject.workload, ports.clusters.inspect(&subject).await) });
    let (reads, inspections) = tokio::join!(join_all(reads), join_all(inspections));

    let mut stored_values = Vec::new();
    for ((side, publication), holding) in publications.into_iter().zip(reads) {
        stored_values.extend(holding?.map(|holding| (side, &publication.place, holding)));
    }
    let mut snapshot = Snapshot::at(spec, record, adopts, stored_values);
    for (workload, findings) in inspections {
        let findings = findings.or_else(|error| {
            let Held { object, reason, fix, .. } = cluster_unavailable(workload, error)?;
            Ok::<_, Error>(vec![Finding { severity: Severity::Refusal, object, reason, fix }])
        });
        for finding in findings? {
            if !snapshot.findings.contains(&finding) {
                snapshot.findings.push(finding);
            }
        }
    }
    snapshot.findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    Ok(snapshot)
}

/// Converts an error of a workload's cluster to a hold: what waits for the cluster is held under the
/// cluster's name, and nothing else is held.
///
/// # Errors
/// The error itself, if it is not the fault of the cluster.
pub(crate) fn cluster_unavailable(workload: &Workload, error: Error) -> Result<Held, Error> {
    // An object that blocks is no reason to leave out its cluster.
    if let (Kind::PreflightFailed, Some(on)) = (error.kind, &error.on) {
        return Ok(Held::new(on.clone(), error.because.clone(), error.fix.clone()));
    }
    let cluster = &workload.cluster;
    let object = match (error.kind, error.on.as_ref()) {
        (Kind::Unreachable | Kind::Throttled, _) => format!("cluster {cluster}"),
        (Kind::AccessDenied | Kind::BadSpec, Some(on)) if error.names_cluster => on.clone(),
        (Kind::AccessDenied | Kind::BadSpec, Some(on)) => format!("cluster {cluster}, {on}"),
        (Kind::AccessDenied | Kind::BadSpec, None) => format!("cluster {cluster}"),
        _ => return Err(error),
    };
    let fix =
        format!("{}; to continue without it, rotate with \"without\": [\"{cluster}\"]", error.fix);
    Ok(Held::new(object, error.because, fix))
}

/// Returns the publications of these sides.
pub(crate) fn publications<'a>(spec: &'a Spec, sides: &[Side]) -> Vec<(Side, &'a Publication)> {
    let of = |side: Side| spec.side(side).publications.iter().map(move |it| (side, it));
    sides.iter().copied().flat_map(of).collect()
}

/// Returns the workloads of both sides.
pub(crate) fn subjects<'a>(spec: &'a Spec, record: Option<&Record>) -> Vec<Subject<'a>> {
    let of = |side| {
        let view = record.map(|record| record.view(side)).unwrap_or_default();
        let audience = spec.side(side);
        let parameters: Vec<_> = audience.publications.iter().filter_map(parameter).collect();
        audience.workloads.iter().map(move |workload| Subject {
            workload,
            token: &spec.token,
            side,
            view,
            parameters: parameters.clone(),
        })
    };
    Side::BOTH.into_iter().flat_map(of).collect()
}

/// Finding for a place whose value is none of this token's live versions: someone else wrote it.
fn drift(place: &Place) -> Finding {
    Finding::refusal(
        place.to_string(),
        "drift: it holds a value that is not a live version of this token",
        "find out who wrote it; put the current value back, remove it, or publish with \"adopt\": true \
         to make it the next version",
    )
}

/// Returns every spec that can be read.
///
/// # Errors
/// If they cannot be listed.
pub(crate) async fn specs(ports: &Ports) -> Result<Vec<Spec>, Error> {
    let all = ports.specs.all().await?.into_iter();
    let specs = all.filter_map(|(token, text)| {
        let text = text.ok()?;
        Spec::parse(&token, text.version, &text.json).ok()
    });
    Ok(specs.collect())
}

impl Snapshot {
    /// Evaluates what these places hold, and adds the findings about it.
    pub(crate) fn at(
        spec: &Spec,
        record: Option<&Record>,
        adopts: bool,
        stored_values: Vec<(Side, &Place, StoredValue)>,
    ) -> Self {
        let mut snapshot = Snapshot {
            found: BTreeMap::new(),
            has_current: record.is_some(),
            adopted: None,
            edited: None,
            highest_life: None,
            findings: Vec::new(),
        };
        // The life and the owner show who wrote a place. Only presented values are compared below.
        let mut values: Vec<(&Place, Secret)> = Vec::new();
        for (side, place, holding) in stored_values {
            let fence = holding.fence_of(side).unwrap_or_default();
            snapshot.highest_life = snapshot.highest_life.max(fence.life);
            if let Some(record) = record.filter(|record| fence.life > record.life()) {
                let (place, ours) = (place.to_string(), record.view(side));
                let other = Finding::of_another_record(&spec.token, side, place, fence, ours);
                snapshot.findings.push(other);
            }
            if let Some(owner) = holding.token.as_ref().filter(|owner| **owner != spec.token) {
                snapshot.findings.push(Finding::refusal(
                    place.to_string(),
                    format!("it belongs to the token {owner}"),
                    "publish to a place of its own",
                ));
            }
            if side == Side::Presenters {
                values.push((place, holding.value.clone()));
                snapshot.found.insert(place.clone(), holding);
            }
        }
        // A value that the record does not hold is drift, unless it is to be adopted. Without a record, the
        // value in place becomes the first version.
        match record {
            Some(record) => {
                values.retain(|(_, value)| !record.holds(&value.digest()));
                if adopts {
                    snapshot.edited = snapshot.one_value(&values)
                } else {
                    snapshot.findings.extend(values.iter().map(|(place, _)| drift(place)))
                }
            }
            None => {
                snapshot.adopted = snapshot.one_value(&values);
                snapshot.has_current = snapshot.adopted.is_some();
            }
        }
        snapshot
    }

    /// Returns the one value that these places hold, to become a version. A place that holds nothing does
    /// not disagree. Two places that hold different values do.
    fn one_value(&mut self, values: &[(&Place, Secret)]) -> Option<Secret> {
        let (first, value) = values.first()?;
        let other = values.iter().find(|(_, other)| other.digest() != value.digest());
        let finding = match (other, Secret::adopt(value.expose().to_owned())) {
            (None, Ok(value)) => return Some(value),
            (Some((other, _)), _) => Finding::refusal(
                first.to_string(),
                format!("it holds another value than {other}"),
                "make the presented publications agree, or empty all but the right one",
            ),
            (None, Err(unfit)) => Finding::failed(first.to_string(), unfit.into()),
        };
        self.findings.push(finding);
        None
    }
}

/// Returns the parameter of a publication, if its place is one.
pub(crate) fn parameter(publication: &Publication) -> Option<ParameterName> {
    match &publication.place {
        Place::Parameter(name) => Some(name.clone()),
        Place::Item { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::spec::{PicksUp, WorkloadKind};

    #[test]
    fn unavailable_cluster_is_named_once() {
        let workload = Workload {
            cluster: "prod".to_owned(),
            namespace: "web".to_owned(),
            kind: WorkloadKind::Deployment,
            name: "backend".to_owned(),
            copy: None,
            picks_up: PicksUp::Restart,
            settle: Duration::ZERO,
        };
        let error = |kind| Error::new(kind, "reach", "it is refused", "allow it");
        let role = "arn:aws:iam::123456789012:role/production-reader";
        let table = [
            (error(Kind::Unreachable).on(&workload), "cluster prod"),
            (error(Kind::Throttled), "cluster prod"),
            (error(Kind::AccessDenied).on_cluster("/clusters/prod"), "/clusters/prod"),
            (error(Kind::BadSpec).on_cluster("\"prod\""), "\"prod\""),
            // The name of the role has the name of the cluster in it, and does not name the cluster.
            (error(Kind::AccessDenied).on(role), &format!("cluster prod, {role}")),
            (error(Kind::BadSpec), "cluster prod"),
        ];
        for (error, object) in table {
            let held = cluster_unavailable(&workload, error.clone()).expect("a hold");
            assert_eq!(held.object, object, "{error}");
            assert!(held.fix.contains("\"without\": [\"prod\"]"), "{}", held.fix);
        }
        // What blocks an object is no fault of its cluster, and neither is a fault of our own.
        let blocked = error(Kind::PreflightFailed).on_cluster(&workload);
        let held = cluster_unavailable(&workload, blocked).expect("a hold");
        assert_eq!((&*held.object, &*held.fix), ("prod/web/deployment/backend", "allow it"));
        assert!(cluster_unavailable(&workload, error(Kind::Internal)).is_err());
    }
}
