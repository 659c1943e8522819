//! Admission of specs: nothing is published from a spec that was not admitted.
//!
//! A spec is checked if it, or what the names of its clusters refer to, differs from what the record works
//! from. The spec of a record is set when a rotation starts, in the middle of a rotation or for a repair,
//! and only to one that was admitted here.

use std::{collections::BTreeSet, time::Duration};

use changeover_token::TokenName;
use futures::future::join_all;
use tracing::info;

use crate::{
    error::{Error, Kind},
    ports::Ports,
    record::Record,
    session::Settings,
    spec::{self, Place, Side, Spec},
};

/// Reads of a spec, at most, while each one returns a text older than the one that the record works from.
const READS: usize = 3;
/// The longest pause after each of these reads.
const PAUSE: Duration = Duration::from_secs(1);

/// Reads and parses the spec of a token. It is never older than the one that the token's record works from.
///
/// # Errors
/// Those of [`fn@spec`]. `Throttled` if Parameter Store keeps returning an earlier text.
pub(crate) async fn read(
    ports: &Ports,
    settings: &Settings,
    token: &TokenName,
    record: Option<&Record>,
) -> Result<Spec, Error> {
    let pinned = record.and_then(Record::spec);
    for _ in 0..READS {
        let spec = spec(ports, settings, token).await?;
        if pinned.is_none_or(|pinned| !spec.id.is_stale_beside(pinned)) {
            return Ok(spec);
        }
        info!(%token, version = spec.id.version, "an earlier text of the spec was read; reads it again");
        tokio::time::sleep(ports.random_pause(PAUSE)?).await;
    }
    Err(Error::new(
        Kind::Throttled,
        "read the spec of",
        "Parameter Store answers a text that was written before the one that is in use",
        "run it again later",
    )
    .on(token))
}

/// Reads and parses the spec of a token.
///
/// # Errors
/// `UnknownToken` if there is none. `BadSpec` if it asks for something that cannot be carried out.
pub(crate) async fn spec(
    ports: &Ports,
    settings: &Settings,
    token: &TokenName,
) -> Result<Spec, Error> {
    let text = ports.specs.spec(token).await?.ok_or_else(|| {
        Error::new(
            Kind::UnknownToken,
            "find the spec of",
            "no parameter under the path of specs bears its name",
            "create the parameter, or correct the name in the event",
        )
        .on(token)
    })?;
    let mut spec = Spec::parse(token, text.version, &text.json)?;
    spec.id.modified_at = text.modified_at;
    spec.check_reserved(&settings.reserved)?;
    Ok(spec)
}

/// Admits a spec for a record. Notes in the spec's id the current descriptions of its clusters. If the spec
/// means something else than what the record works from, checks that no other token has what it claims.
///
/// # Errors
/// `BadSpec`, which names the place and both tokens.
pub(crate) async fn admit(
    ports: &Ports,
    spec: &mut Spec,
    record: Option<&Record>,
    without: &BTreeSet<String>,
) -> Result<(), Error> {
    let left_out = |name: &String| {
        without.contains(name) || record.is_some_and(|record| record.without().contains(name))
    };
    let mut to_describe = spec.clusters();
    to_describe.retain(|name| !left_out(name));
    if !to_describe.is_empty() {
        spec.id.clusters = ports.clusters.describe(&to_describe).await;
    }
    if record.is_some_and(|record| record.works_from(&spec.id)) {
        return Ok(());
    }
    match conflict(ports, spec).await? {
        Some(conflict) => Err(conflict),
        None => Ok(()),
    }
}

/// Returns the conflict of this spec with another one: two specs that write the same place would undo each
/// other. Reads all specs, and the record of each token whose spec cannot be read, because what that token
/// published last is still in place.
///
/// # Errors
/// Those of the reads. A conflict is not an error of this function, but its result.
async fn conflict(ports: &Ports, spec: &Spec) -> Result<Option<Error>, Error> {
    let (mut specs, broken) = others(ports, spec).await?;
    specs.push(spec.clone());
    conflict_among(ports, spec, &specs, &broken).await
}

/// Returns the conflict of a spec among `specs`, which include it, and the tokens whose spec cannot be
/// read.
///
/// # Errors
/// Those of the reads.
pub(crate) async fn conflict_among(
    ports: &Ports,
    spec: &Spec,
    specs: &[Spec],
    broken: &[TokenName],
) -> Result<Option<Error>, Error> {
    if let Some(conflict) = spec::conflicts(specs).remove(&spec.token) {
        return Ok(Some(conflict));
    }
    let places: BTreeSet<String> = Side::BOTH
        .into_iter()
        .flat_map(|side| &spec.side(side).publications)
        .map(|publication| publication.place.to_string())
        .chain(spec.inbox().map(|inbox| Place::Parameter(inbox.clone()).to_string()))
        .collect();
    let records = broken.iter().map(|token| ports.records.load(token, None));
    for (other, loaded) in broken.iter().zip(join_all(records).await) {
        let Some(record) = loaded?.record else { continue };
        if let Some((place, _)) = record.published().find(|(place, _)| places.contains(*place)) {
            return Ok(Some(spec::claimed(
                spec,
                &format!(
                    "it claims {place}, where token \"{other}\" publishes, whose spec cannot be read now"
                ),
            )));
        }
    }
    Ok(None)
}

/// Returns the specs of all other tokens, and the tokens whose spec cannot be read. The fault of such a
/// spec concerns its own token only.
///
/// # Errors
/// If they cannot be listed.
pub(crate) async fn others(
    ports: &Ports,
    spec: &Spec,
) -> Result<(Vec<Spec>, Vec<TokenName>), Error> {
    let (mut specs, mut broken) = (Vec::new(), Vec::new());
    for (token, text) in ports.specs.all().await? {
        if token == spec.token {
            continue;
        }
        match text.and_then(|text| Spec::parse(&token, text.version, &text.json)) {
            Ok(spec) => specs.push(spec),
            Err(_) => broken.push(token),
        }
    }
    Ok((specs, broken))
}
