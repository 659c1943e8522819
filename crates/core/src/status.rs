//! The state of tokens, from their specs, records and audits. Reading it changes nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    pin::pin,
    time::Duration,
};

use changeover_token::{Stage, TokenName, VersionNumber};
use futures::{StreamExt, stream};
use tracing::warn;

use crate::{
    admit,
    error::{Error, Kind},
    ports::{Ports, SpecText},
    record::{Loaded, Purpose, Record},
    report::{Each, LiveVersion, Newest, Outcome, Published, Replaced, Results, TokenStatus},
    rotate::Settings,
    spec::{Side, Spec},
};

/// Returns the state of one token, or of all tokens after another, as many as one answer holds.
///
/// # Errors
/// If the token that is named cannot be read, or the specs cannot be listed.
pub(crate) async fn run(
    ports: &Ports,
    settings: &Settings,
    token: Option<&TokenName>,
    after: Option<&TokenName>,
) -> Result<Results<Each<TokenStatus>>, Error> {
    let mut next = None;
    let results = match token {
        Some(token) => {
            let spec = admit::spec(ports, settings, token).await;
            let loaded = ports.records.load(token, None).await?;
            let spec = match spec {
                Err(error) if error.kind == Kind::UnknownToken && loaded.record.is_some() => None,
                spec => Some(spec?),
            };
            let newest = match &loaded.record {
                Some(record) => newest(ports, record).await.unwrap_or_else(|error| {
                    // The state of the token matters more than the history of its version.
                    warn!(%token, %error, "the audit of the newest version could not be read");
                    None
                }),
                None => None,
            };
            let status = TokenStatus { newest, ..status_of(token, spec.as_ref(), &loaded) };
            vec![Each::Done(Box::new(status))]
        }
        None => {
            let tokens = all(ports).await?.into_iter();
            let tokens = tokens.filter(|(token, _)| after.is_none_or(|after| token > after));
            let each = stream::iter(tokens).map(|(token, text)| async move {
                (token.clone(), stands(ports, token, text).await)
            });
            let mut each = pin!(each.buffered(AT_ONCE));
            let (mut results, mut last, mut bytes) = (Vec::new(), None, 0);
            while let Some((token, stands)) = each.next().await {
                let Some(stands) = stands else { continue };
                bytes += serde_json::to_vec(&stands).map_or(LARGEST_PAGE, |it| it.len());
                if bytes > LARGEST_PAGE && last.is_some() {
                    next = last;
                    break;
                }
                results.push(stands);
                last = Some(token);
            }
            results
        }
    };
    Ok(Results { outcome: Outcome::Reported, results, next })
}

/// Returns every token that has a spec, with its text, or a record.
async fn all(ports: &Ports) -> Result<BTreeMap<TokenName, Option<Result<SpecText, Error>>>, Error> {
    let any_time = ports.clock.now() + LONGEST_WAIT;
    let (specs, due, failing) = tokio::join!(
        ports.specs.all(),
        ports.records.due(any_time, MOST_RECORDS),
        ports.records.failing(MOST_RECORDS),
    );
    let records = due?.into_iter().chain(failing?);
    let mut all: BTreeMap<_, _> = records.map(|(token, _)| (token, None)).collect();
    all.extend(specs?.into_iter().map(|(token, text)| (token, Some(text))));
    Ok(all)
}

/// Returns the state of one of all tokens; `None` if it has neither a spec nor a record, because the index
/// is late.
async fn stands(
    ports: &Ports,
    token: TokenName,
    text: Option<Result<SpecText, Error>>,
) -> Option<Each<TokenStatus>> {
    let spec = text.map(|text| text.and_then(|it| Spec::parse(&token, it.version, &it.json)));
    let spec = match spec.transpose() {
        Ok(spec) => spec,
        Err(error) => return Some(Each::of(token, Err(error))),
    };
    let status = match ports.records.load(&token, None).await {
        Ok(loaded) if spec.is_none() && loaded.record.is_none() => return None,
        Ok(loaded) => Ok(status_of(&token, spec.as_ref(), &loaded)),
        Err(error) => Err(error),
    };
    Some(Each::of(token, status))
}

/// Returns the history of the newest version: from the rotation in progress, or else from the audit.
async fn newest(ports: &Ports, record: &Record) -> Result<Option<Newest>, Error> {
    let coming = record.rotation().filter(|rotation| rotation.purpose == Purpose::Rotate);
    let newest = match coming {
        Some(_) => record.in_stage(Stage::Pending),
        None => record.in_stage(Stage::Current),
    };
    let Some(newest) = newest else { return Ok(None) };
    let (rotated_at, timeline) = match coming {
        Some(rotation) => (None, rotation.timeline.clone()),
        None => match ports.records.audit(record.token(), newest.version).await? {
            Some(audit) => (audit.rotated_at, audit.timeline),
            None => (None, Vec::new()),
        },
    };
    let before = record.versions().iter().find(|version| version.version < newest.version);
    let number_before = newest.version.get().checked_sub(1).map(VersionNumber::new);
    let replaced = match (before, number_before) {
        (Some(live), _) => {
            Some(Replaced { version: live.version, not_after: live.not_after, ended_at: None })
        }
        // A number that was dropped was never presented: it is not known what was replaced then.
        (None, Some(number)) => {
            let audit = ports.records.audit(record.token(), number).await?;
            audit.filter(|audit| audit.rotated_at.is_some()).map(|audit| Replaced {
                version: number,
                not_after: audit.not_after,
                ended_at: audit.ended_at,
            })
        }
        (None, None) => None,
    };
    Ok(Some(Newest {
        version: newest.version,
        created_at: newest.created_at,
        rotated_at,
        owed_since: record.owed().map(|owed| owed.since),
        timeline,
        replaced,
    }))
}

fn status_of(token: &TokenName, spec: Option<&Spec>, loaded: &Loaded) -> TokenStatus {
    let record = loaded.record.as_ref();
    let owed = record.and_then(Record::owed);
    let versions = record.map(Record::versions).unwrap_or_default();
    let specified = spec.into_iter().flat_map(|spec| {
        Side::BOTH.into_iter().flat_map(|side| {
            let publications = spec.side(side).publications.iter();
            publications.map(move |publication| (side, publication.place.to_string()))
        })
    });
    // Without a spec: every place that was written and may still be read.
    let written = record.into_iter().filter(|_| spec.is_none()).flat_map(Record::published);
    let written = written.map(|(place, seen)| {
        if seen.held_at.is_empty() {
            (Side::Verifiers, place.to_owned())
        } else {
            (Side::Presenters, place.to_owned())
        }
    });
    let publications = specified.chain(written).map(|(side, place)| {
        let seen = record.and_then(|record| record.seen(&place));
        Published {
            side: side.as_str(),
            revision: seen.map(|seen| seen.revision),
            store_version: seen.map(|seen| seen.store_version),
            answered_at: seen.map(|seen| seen.answered_at),
            place,
        }
    });
    TokenStatus {
        token: token.clone(),
        spec: spec.map(|spec| spec.id.version),
        revision: record.map(Record::revision),
        versions: versions
            .iter()
            .map(|version| LiveVersion {
                version: version.version,
                stage: version.stage,
                created_at: version.created_at,
                not_after: version.not_after,
            })
            .collect(),
        rotation: record.and_then(Record::rotation).map(|rotation| rotation.id.clone()),
        leg: owed.map(|owed| owed.leg),
        step: owed.map(|owed| owed.step),
        due_at: record.and_then(Record::due_at),
        unanswered_until: record.and_then(Record::unanswered_until),
        publications: publications.collect(),
        held: record.and_then(Record::held).map(Into::into),
        failing: loaded.failing.clone(),
        drift: record.map(|record| record.drift().to_vec()).unwrap_or_default(),
        without: record.map_or_else(BTreeSet::new, |record| record.without().clone()),
        queued: record.and_then(Record::queued).cloned(),
        imported: record.and_then(Record::imported).cloned(),
        newest: None,
    }
}

/// The most bytes of entries in one answer: Lambda returns no more than 6 MB
/// (<https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html>), and some clients escape
/// them.
const LARGEST_PAGE: usize = 2_000_000;
/// Tokens that are read at the same time.
const AT_ONCE: usize = 8;
/// As many records as there may be specs.
const MOST_RECORDS: usize = 10_000;
/// Longer than any record waits until it is due.
const LONGEST_WAIT: Duration = Duration::from_secs(10 * 366 * 24 * 60 * 60);
