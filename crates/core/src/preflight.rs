//! Everything that would stop or endanger a rotation, found without rotating.
//!
//! A mint is preceded by the checks that its own reads allow (see [`crate::start`]). A preflight has time
//! to examine more: every place, right and neighbour. What cannot be read is a finding like any other, so
//! that one unreachable cluster does not hide the other findings.

use std::{collections::BTreeSet, time::Duration};

use changeover_token::TokenName;
use futures::{StreamExt, stream};

use crate::{
    admit,
    error::Error,
    finding::{Examination, Finding, Severity},
    observe::{self, Snapshot},
    ports::{Described, Ports},
    report::{Checked, Outcome, PreflightReport, Results},
    rotate::Settings,
    spec::{OnDrift, ParameterName, PicksUp, Publication, Side, Spec},
};

/// Reports what would stop a rotation of this token.
///
/// # Errors
/// If there is no spec that can be read, or if the record cannot be read.
pub(crate) async fn run(
    ports: &Ports,
    settings: &Settings,
    token: &TokenName,
) -> Result<Results<PreflightReport>, Error> {
    let spec = admit::spec(ports, settings, token).await?;
    let record = ports.records.load(token, None).await?.record;
    let adopts = spec.on_drift == OnDrift::Adopt;
    let mut result = Examination::default();

    let published = compare_with_other_specs(ports, &spec, &mut result).await;

    // Places and clusters are independent of each other, and are read at the same time.
    let publications = observe::publications(&spec, &Side::BOTH);
    let looks = stream::iter(&publications).map(|(side, publication)| async move {
        let read = ports.publications.read(&publication.place, *side).await;
        let described = ports.publications.describe(&publication.place).await;
        (*side, *publication, read, described)
    });
    let subjects = observe::subjects(&spec, record.as_ref());
    // Renews the connections: one to what a cluster's name meant before would be used otherwise.
    let clusters = spec.clusters();
    if !clusters.is_empty() {
        ports.clusters.describe(&clusters).await;
    }
    let (looks, examination) = tokio::join!(
        looks.buffered(AT_ONCE).collect::<Vec<_>>(),
        ports.clusters.examine(&subjects, &published)
    );

    // A place that cannot be read is a finding. Any other counts as checked.
    let mut stored_values = Vec::new();
    for (side, publication, read, described) in looks {
        let place = publication.place.to_string();
        match read {
            Ok(holding) => {
                let what = if holding.is_some() { "it can be read" } else { "it may be read" };
                result.right(&place, what);
                stored_values.extend(holding.map(|holding| (side, &publication.place, holding)));
            }
            Err(error) => result.findings.push(Finding::failed(&place, error)),
        }
        match described {
            Ok(Some(described)) => result.add(kept(publication, &described)),
            Ok(None) => {}
            Err(error) => result.findings.push(Finding::failed(&place, error)),
        }
    }
    result.findings.extend(Snapshot::at(&spec, record.as_ref(), adopts, stored_values).findings);
    if let Some(inbox) = spec.inbox() {
        result.add(look_into(ports, inbox).await);
    }
    result.findings.extend(both_views_in_one(&spec));
    result.findings.extend(too_short(&spec, &examination));
    result.add(examination);

    let (outcome, report) = judged(token, result);
    Ok(Results { outcome, results: vec![report], next: None })
}

/// Looks for another token that publishes to the same places, and returns the parameters of all tokens. If
/// the other specs cannot be listed, this one is still checked.
async fn compare_with_other_specs(
    ports: &Ports,
    spec: &Spec,
    result: &mut Examination,
) -> BTreeSet<ParameterName> {
    let mut are_listed = true;
    let (mut specs, broken) = match admit::others(ports, spec).await {
        Ok(others) => others,
        Err(error) => {
            result.findings.push(Finding::failed("the specs of other tokens", error));
            are_listed = false;
            (Vec::new(), Vec::new())
        }
    };
    specs.push(spec.clone());
    let object = format!("the spec of {}", spec.token);
    match admit::conflict_among(ports, spec, &specs, &broken).await {
        Ok(Some(conflict)) | Err(conflict) => {
            result.findings.push(Finding::failed(&object, conflict));
        }
        Ok(None) if are_listed => result.right(&object, "no other token publishes to its places"),
        Ok(None) => {}
    }
    specs
        .iter()
        .flat_map(|spec| observe::publications(spec, &Side::BOTH))
        .filter_map(|(_, publication)| observe::parameter(publication))
        .collect()
}

/// Sorts the findings. The worst one decides the outcome.
fn judged(token: &TokenName, result: Examination) -> (Outcome, PreflightReport) {
    let Examination { mut findings, checked, .. } = result;
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    let outcome = match findings.first().map(|finding| finding.severity) {
        None => Outcome::Passed,
        Some(Severity::Warning) => Outcome::Warned,
        Some(Severity::Missing | Severity::Refusal) => Outcome::Refused,
    };
    let checked = checked.into_iter().map(|(object, what)| Checked { object, what }).collect();
    (outcome, PreflightReport { token: token.clone(), findings, checked })
}

/// Examines an inbox: values that are issued elsewhere must be able to arrive there.
async fn look_into(ports: &Ports, inbox: &ParameterName) -> Examination {
    let mut result = Examination::default();
    match ports.inboxes.read(inbox).await {
        Ok(Some(arrival)) if arrival.is_secure => result.right(inbox.as_str(), "it can be read"),
        Ok(Some(_)) => result.findings.push(Finding::refusal(
            inbox.as_str(),
            "it is not a SecureString: everyone who may read parameters can read what arrives",
            "delete it, and have the issuer put a new value there as a SecureString",
        )),
        Ok(None) => result.findings.push(Finding::warning(
            inbox.as_str(),
            "nothing has arrived there yet",
            "have the issuer put the next value there as a SecureString",
        )),
        Err(error) => result.findings.push(Finding::failed(inbox.as_str(), error)),
    }
    result
}

/// Evaluates the storage settings of a place.
fn kept(publication: &Publication, described: &Described) -> Examination {
    let mut result = Examination::default();
    let place = publication.place.to_string();
    if let Some(at) = &described.deleted_at {
        result.findings.push(Finding::warning(
            &place,
            format!("its policy Expiration deletes it at {at}, whatever is published until then"),
            "take the policy away (aws ssm put-parameter --overwrite --policies '[]' with its value), or publish to \
             another parameter",
        ));
    }
    if let (Some(_), Some(key)) = (&publication.key, &described.key) {
        match encrypted_anew(publication, key) {
            Some(finding) => result.findings.push(finding),
            None => result.right(&place, "it is encrypted with the key that the spec names"),
        }
    }
    result
}

/// Warns of a KMS key other than the one that the parameter has. A put that names another key encrypts the
/// parameter anew, and readers that may decrypt with the former key only lose access.
fn encrypted_anew(publication: &Publication, has: &str) -> Option<Finding> {
    let named = publication.key.as_deref()?;
    // `arn:aws:kms:<region>:<account>:key/<id>` and `<id>`, `...:alias/<name>` and `alias/<name>`.
    let short = |key: &str| {
        let name = key.rsplit(':').next().unwrap_or_default();
        name.strip_prefix("key/").unwrap_or(name).to_owned()
    };
    let (named, has) = (short(named), short(has));
    if named == has {
        return None;
    }
    let is_alias = |key: &str| key.starts_with("alias/");
    let reason = if is_alias(&named) == is_alias(&has) {
        format!("it is encrypted with the KMS key {has}, and the spec names {named}")
    } else {
        format!(
            "it is encrypted with the KMS key {has}, and the spec names {named}, which may or may \
             not be the same key"
        )
    };
    Some(Finding::warning(
        publication.place.to_string(),
        format!("{reason}: the next publication encrypts it anew"),
        format!("let its readers decrypt with {named} first, or name {has} in the spec"),
    ))
}

/// Warns of an item that holds both views: the readers of one can see the other.
fn both_views_in_one(spec: &Spec) -> impl Iterator<Item = Finding> {
    let presented = &spec.presenters.publications;
    let both = spec.verifiers.publications.iter().filter(|accepted| {
        accepted.place.is_fenced() && presented.iter().any(|it| it.place == accepted.place)
    });
    both.map(|accepted| {
        Finding::warning(
            accepted.place.to_string(),
            "it holds both views: a reader of the accepted tokens can read the one that \
             is presented",
            "publish to two items, or nothing, if its readers may know the token",
        )
    })
}

/// Warns of times in the spec that are shorter than what they are for. The estimates assume that nothing
/// goes wrong, and a warning names their parts.
fn too_short(spec: &Spec, examination: &Examination) -> Vec<Finding> {
    let object = format!("the spec of {}", spec.token);
    let human = |time: Duration| humantime::format_duration(Duration::from_secs(time.as_secs()));
    let mut findings = Vec::new();
    for side in Side::BOTH {
        for workload in &spec.side(side).workloads {
            let Some(rollout) = examination.rollouts.get(&workload.to_string()) else { continue };
            if *rollout > spec.rollout_timeout {
                findings.push(Finding::warning(
                    &object,
                    format!(
                        "its rollout_timeout of {} is over before {workload} is rolled out, which \
                         may take {}",
                        human(spec.rollout_timeout),
                        human(*rollout)
                    ),
                    format!("a rollout_timeout of at least {}", human(*rollout * 2)),
                ));
            }
        }
    }

    // The end of the previous token reaches verifiers by a publication of its own, after migrate. If it
    // arrives late, they accept that token longer than the spec says, and no presenter is cut off.
    let restarted = spec.verifiers.workloads.iter().filter(|it| it.picks_up == PicksUp::Restart);
    let slowest = restarted
        .filter_map(|workload| {
            let rollout = *examination.rollouts.get(&workload.to_string())?;
            Some((workload.settle + rollout, workload.to_string()))
        })
        .max();
    if let Some((rolled, workload)) = slowest {
        let takes = SWEPT_WITHIN + SYNCED_WITHIN + rolled;
        if spec.overlap < takes {
            findings.push(Finding::warning(
                &object,
                format!(
                    "its overlap of {} may be over before all verifiers know its end, and then \
                     they accept the previous token longer than that: {} until a sweep comes, {} \
                     for a sync, {} for {workload} to roll out",
                    human(spec.overlap),
                    human(SWEPT_WITHIN),
                    human(SYNCED_WITHIN),
                    human(rolled)
                ),
                format!("an overlap of at least {}, or nothing, if that is no harm", human(takes)),
            ));
        }
    }
    findings
}

/// Places that are read at the same time.
const AT_ONCE: usize = 8;
/// Time until a sweep resumes what its invocation had no time for.
const SWEPT_WITHIN: Duration = Duration::from_mins(1);
/// Usual time of a forced refresh, if the controller has little to do.
const SYNCED_WITHIN: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(json: &serde_json::Value) -> Spec {
        let name = TokenName::parse("datastore-token").unwrap();
        Spec::parse(&name, 1, &json.to_string()).unwrap()
    }

    #[test]
    fn different_or_uncertain_key_is_reported() {
        let account = "arn:aws:kms:eu-west-1:123456789012";
        let (one, other) = (
            "11111111-2222-3333-4444-555555555555".to_owned(),
            "66666666-7777-8888-9999-000000000000".to_owned(),
        );
        let cases = [
            (one.clone(), format!("{account}:key/{one}"), None),
            ("alias/backend".to_owned(), format!("{account}:alias/backend"), None),
            (one.clone(), format!("{account}:key/{other}"), Some("names 1111")),
            ("alias/backend".to_owned(), "alias/aws/ssm".to_owned(), Some("names alias/backend:")),
            ("alias/backend".to_owned(), one, Some("may or may not be the same")),
        ];
        for (named, has, expected) in cases {
            let spec = spec(&serde_json::json!({
                "token": {"bytes": 32}, "source": "generated", "overlap": "15m",
                "presenters": {"publish": [{"ssm": "/backend/token", "key": named}], "within": "5s"},
            }));
            let finding = encrypted_anew(&spec.presenters.publications[0], &has);
            assert_eq!(finding.is_some(), expected.is_some(), "{named} {has}: {finding:?}");
            if let (Some(finding), Some(words)) = (finding, expected) {
                assert_eq!(finding.severity, Severity::Warning);
                assert!(finding.reason.contains(words), "{finding:?}");
            }
        }
    }

    #[test]
    fn parameter_with_expiration_policy_is_reported() {
        let spec = spec(&serde_json::json!({
            "token": {"bytes": 32}, "overlap": "15m",
            "presenters": {"publish": [{"ssm": "/backend/token"}], "within": "5s"},
        }));
        let publication = &spec.presenters.publications[0];
        let at = Some("2027-01-01T00:00:00.000Z".to_owned());
        let found = kept(publication, &Described { deleted_at: at, ..Described::default() });
        assert_eq!(found.findings.len(), 1, "{found:?}");
        assert_eq!(found.findings[0].severity, Severity::Warning);
        assert!(found.findings[0].reason.contains("2027-01-01"), "{found:?}");
        assert_eq!(kept(publication, &Described::default()), Examination::default());
    }

    #[test]
    fn item_with_both_views_is_reported() {
        let item = |name: &str| serde_json::json!({"dynamodb": {"table": "services", "key": {"id": name}}});
        let with = |accepted: &str| {
            spec(&serde_json::json!({
                "token": {"bytes": 32}, "source": "generated", "overlap": "15m",
                "verifiers": {"publish": [item(accepted)], "within": "5s"},
                "presenters": {"publish": [item("token")], "within": "5s"},
            }))
        };
        assert_eq!(both_views_in_one(&with("accepted")).count(), 0);
        let findings: Vec<_> = both_views_in_one(&with("token")).collect();
        assert_eq!(findings.len(), 1);
        assert!(findings[0].object.starts_with("dynamodb:services/"), "{findings:?}");
    }

    #[test]
    fn overlap_or_timeout_below_rollout_time_is_reported() {
        let with = |overlap: &str, timeout: &str| {
            spec(&serde_json::json!({
                "token": {"bytes": 32}, "source": "generated", "overlap": overlap,
                "verifiers": {"publish": [{"ssm": "/a/accepted"}], "workloads": [{
                    "cluster": "prod", "namespace": "a", "deployment": "datastore",
                    "external_secret": "accepted", "settle": "2s",
                }]},
                "rollout_timeout": timeout,
            }))
        };
        let rollouts = [("prod/a/deployment/datastore".to_owned(), Duration::from_secs(48))];
        let examination = Examination { rollouts: rollouts.into(), ..Examination::default() };
        // 60 s for the sweep, 10 s for the sync, 2 s to settle.
        let cases: [(&str, &str, &[&str]); 4] = [
            ("120s", "10m", &[]),
            ("119s", "10m", &["overlap of 1m 59s"]),
            ("120s", "47s", &["rollout_timeout of 47s"]),
            ("5s", "30s", &["rollout_timeout of 30s", "overlap of 5s"]),
        ];
        for (overlap, timeout, expected) in cases {
            let findings = too_short(&with(overlap, timeout), &examination);
            assert_eq!(findings.len(), expected.len(), "{overlap} {timeout}: {findings:?}");
            for (finding, words) in findings.iter().zip(expected) {
                assert_eq!(finding.severity, Severity::Warning);
                assert!(finding.reason.contains(words), "{finding:?}");
            }
        }
    }
}
