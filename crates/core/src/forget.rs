//! Forgets a token whose spec is gone: its record ends, by one conditional write.
//!
//! What is published stays as it is, and so do the audit and the keys of triggers. The sealed values are
//! deleted with the record. The number of the last version is kept, so that a token that is specified again
//! under this name uses no number twice.

use changeover_token::TokenName;
use tracing::info;

use crate::{
    error::{Error, Kind},
    plan::{self, Decision},
    ports::{Ports, Saved},
    record::Record,
    report::{Outcome, Report},
    rotate::Settings,
};

/// Attempts, at most: the record is read again each time that another invocation saved it first.
const TRIES: u32 = 5;

/// Ends the record of a token.
///
/// # Errors
/// `PreflightFailed` while the spec exists or a rotation is in progress, `Throttled` if the record keeps
/// changing, and those of its calls.
pub(crate) async fn run(
    ports: &Ports,
    settings: &Settings,
    token: &TokenName,
) -> Result<Report, Error> {
    for _ in 0..TRIES {
        let loaded = ports.records.load(token, None).await?;
        let Some(record) = loaded.record else {
            return Ok(Report::bare(Outcome::NothingOwed, token));
        };
        // Read after the record: if a spec was created since and a rotation starts from it, that start
        // saves a revision, and the write below fails.
        if ports.specs.spec(token).await?.is_some() {
            let fix = "delete the parameter of the spec first, if the token is not to be rotated any more";
            return Err(refusal(token, "its spec exists", fix));
        }
        match plan::forget(&record, settings.late_write, ports.clock.now()) {
            Decision::Refuse { because, fix } => return Err(refusal(token, because, fix)),
            Decision::Defer { until, because } => {
                return Ok(Report {
                    not_before: Some(until),
                    warnings: vec![because.to_string()],
                    ..Report::bare(Outcome::Deferred, token)
                });
            }
            _ => {}
        }
        let last = record.last_version();
        if ports.records.forget(token, record.fence(), last).await? == Saved::Saved {
            info!(%token, last_version = last.get(), "forgotten");
            return Ok(report(&record));
        }
    }
    Err(Error::new(
        Kind::Throttled,
        "forget",
        "other invocations saved its record first each time",
        "run it again later",
    )
    .on(token))
}

/// Reports the current version and what stays published, for a record that was forgotten.
fn report(record: &Record) -> Report {
    let places: Vec<_> = record.published().map(|(place, _)| place).collect();
    let mut warnings = Vec::new();
    if !places.is_empty() {
        warnings.push(format!(
            "what is published stays, and verifiers keep accepting it: {}",
            places.join(", ")
        ));
    }
    if let Some(owed) = record.owed().filter(|_| !plan::is_at_rest(record)) {
        let (leg, step) = (owed.leg.as_str(), owed.step.as_str());
        warnings.push(format!(
            "{leg}/{step} was owed and is not done: verifiers may not know when the version before ends"
        ));
    }
    let current = record.subject();
    Report {
        version: current.map(|(_, version)| version),
        rotation: current.map(|(rotation, _)| rotation.clone()),
        previous_valid_until: record.next_end(),
        warnings,
        ..Report::bare(Outcome::Forgotten, record.token())
    }
}

fn refusal(token: &TokenName, because: &str, fix: &str) -> Error {
    Error::new(Kind::PreflightFailed, "forget", because, fix).on(token)
}
