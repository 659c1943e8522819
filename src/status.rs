//! How tokens stand, told from their specs, records and audits. Asking changes nothing.

use futures::{StreamExt, stream};
use tracing::warn;

use crate::{
    error::Error,
    record::{Purpose, Record, Stage},
    report::{Each, LiveVersion, Newest, Outcome, Published, Replaced, Results, Standing},
    rotate::{self, Settings},
    spec::{Side, Spec},
    token::{TokenName, VersionNumber},
    world::World,
};

/// Tells how one token stands, or all.
///
/// # Errors
/// Where the one that is named cannot be read, or specs cannot be listed.
pub(crate) async fn run(
    world: &World,
    settings: &Settings,
    token: Option<&TokenName>,
) -> Result<Results<Each<Standing>>, Error> {
    let standing_of = async |spec: Spec| {
        let loaded = world.records.load(&spec.token, None).await?;
        Ok(standing(&spec, loaded.record.as_ref()))
    };
    let results = match token {
        Some(token) => {
            let spec = rotate::spec(world, settings, token).await?;
            let record = world.records.load(token, None).await?.record;
            let newest = match &record {
                Some(record) => newest(world, record).await.unwrap_or_else(|error| {
                    // How the token stands matters more than how that came.
                    warn!(%token, %error, "not told how the newest version came");
                    None
                }),
                None => None,
            };
            let standing = Standing { newest, ..standing(&spec, record.as_ref()) };
            vec![Each::Done(Box::new(standing))]
        }
        None => {
            let specs = stream::iter(world.specs.all().await?);
            let each = specs.map(async |(token, text)| {
                let spec = text.and_then(|text| Spec::parse(&token, text.version, &text.json));
                let stands = match spec {
                    Ok(spec) => standing_of(spec).await,
                    Err(error) => Err(error),
                };
                Each::of(token, stands)
            });
            each.buffered(AT_ONCE).collect().await
        }
    };
    Ok(Results { outcome: Outcome::Reported, results })
}

/// How the newest version came to everybody: by the rotation in progress, else as the audit has it.
async fn newest(world: &World, record: &Record) -> Result<Option<Newest>, Error> {
    let coming = record.rotation().filter(|rotation| rotation.purpose == Purpose::Rotate);
    let newest = match coming {
        Some(_) => record.in_stage(Stage::Pending),
        None => record.in_stage(Stage::Current),
    };
    let Some(newest) = newest else { return Ok(None) };
    let (rotated_at, timeline) = match coming {
        Some(rotation) => (None, rotation.timeline.clone()),
        None => match world.records.audit(record.token(), newest.version).await? {
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
        // A number that was dropped was never anybody's: nothing is known of what was replaced then.
        (None, Some(number)) => {
            let audit = world.records.audit(record.token(), number).await?;
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

fn standing(spec: &Spec, record: Option<&Record>) -> Standing {
    let owed = record.and_then(Record::owed);
    let versions = record.map(Record::versions).unwrap_or_default();
    let publications = Side::BOTH.into_iter().flat_map(|side| {
        spec.side(side).publications.iter().map(move |publication| {
            let place = publication.place.to_string();
            let seen = record.and_then(|record| record.seen(&place));
            Published {
                side: side.as_str(),
                revision: seen.map(|seen| seen.revision),
                store_version: seen.map(|seen| seen.store_version),
                answered_at: seen.map(|seen| seen.answered_at),
                place,
            }
        })
    });
    Standing {
        token: spec.token.clone(),
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
        drift: record.map(|record| record.drift().to_vec()).unwrap_or_default(),
        without: record.map(|record| record.without().clone()).unwrap_or_default(),
        queued: record.and_then(Record::queued).cloned(),
        imported: record.and_then(Record::imported).cloned(),
        newest: None,
    }
}

/// How many tokens are looked at at once.
const AT_ONCE: usize = 8;
