//! Publish: writes a side's view to each of its publications.

use std::collections::BTreeMap;

use changeover_token::{Content, Secret, VersionNumber};
use futures::future::join_all;
use jiff::Timestamp;

use super::{ahead::continue_above, view::view_of};
use crate::{
    error::Kind,
    inbox::{refuse_ended, weak_edit},
    ports::{StoredValue, WriteError, Written},
    record::{LastWrite, Leg, Transition},
    session::{Session, Stop, UnderWay},
    spec::{OnDrift, Place, Publication, Side},
};

/// Writes the view of this leg's side to each of its publications, whole, all at once.
pub(super) async fn publish(session: &mut Session<'_>, leg: Leg) -> Result<Option<UnderWay>, Stop> {
    let side = leg.side();
    let publications = &session.spec().side(side).publications;
    if publications.is_empty() {
        session.apply(Transition::Published(BTreeMap::new()))?;
        return Ok(None);
    }
    if side == Side::Presenters && session.spec().on_drift == OnDrift::Adopt {
        keep_edited(session).await?;
    }
    // The view is built before the lease is taken: opening values takes time, and a write to a store that
    // cannot fence begins only while enough of the lease is left.
    let content = view_of(session, side).await?;
    session.save_with_lease(leg).await?;
    let writes = publications.iter().map(|publication| write(session, publication, &content));
    let results = join_all(writes).await;
    let answered_at = session.now();
    note_lost_replies(session, &results)?;

    let carried = publications.iter().zip(&results).filter_map(|(publication, result)| {
        Some((publication.place.to_string(), result.as_ref().err()?.ahead?))
    });
    let ahead: Vec<_> = carried.collect();
    if !ahead.is_empty() {
        return continue_above(session, side, ahead).await;
    }

    let mut seen = BTreeMap::new();
    for (publication, result) in publications.iter().zip(results) {
        let written = result.map_err(|failed| Stop::Failed(failed.error))?;
        seen.insert(
            publication.place.to_string(),
            last_write(session, side, publication, &content, written, answered_at),
        );
    }
    if side == Side::Presenters {
        move_labels(session, leg, &seen).await?;
        // A reader by label sees the new version only from now on.
        let answered_at = session.now();
        seen.values_mut().for_each(|it| it.answered_at = answered_at);
    }
    session.apply(Transition::Published(seen))?;
    // What was observed is gone now: if this leg is published again, the view is written again.
    if side == Side::Presenters {
        session.forget_observed();
    }
    Ok(None)
}

/// Keeps a value that was written by hand since a rotation began, before it is published over. It is the
/// next version, once this rotation is complete.
async fn keep_edited(session: &mut Session<'_>) -> Result<(), Stop> {
    for (publication, holding) in session.stored_values(Side::Presenters).await {
        let Some(StoredValue { value, .. }) = holding? else { continue };
        let digest = value.digest();
        let is_kept = session.record().edited().is_some_and(|edited| edited.sha256 == digest);
        if is_kept || session.record().holds(&digest) {
            continue;
        }
        let place = &publication.place;
        let value = Secret::adopt(value.expose().to_owned());
        let fit = match value {
            Ok(value) => match value.weakness(session.spec().least_bits()) {
                Some(weakness) => Err(weak_edit(weakness)),
                None => refuse_ended(session, &value).await.map(|()| value),
            },
            Err(unfit) => Err(unfit.into()),
        };
        match fit {
            Ok(value) => {
                let kept =
                    session.seal(session.record().next_version(), value, BTreeMap::new()).await?;
                session.warn(format!("{place}: the value that was written there by hand is next"));
                session.apply(Transition::Edited(kept))?;
            }
            Err(error) if matches!(error.kind, Kind::BadToken | Kind::PreflightFailed) => {
                session.warn(format!("{place} is published over: {error}"));
            }
            Err(error) => return Err(Stop::Failed(error)),
        }
    }
    Ok(())
}

async fn write(
    session: &Session<'_>,
    publication: &Publication,
    content: &Content,
) -> Result<Written, WriteError> {
    let place = publication.place.to_string();
    // A value that was found in place, and is to stay, needs no further version of its parameter.
    if let (Place::Parameter(_), Some(found)) =
        (&publication.place, session.observed().get(&publication.place))
        && matches!(content, Content::Presented { value, .. }
            if value.digest() == found.value.digest())
    {
        return Ok(Written { store_version: found.store_version, key: None, unanswered: false });
    }
    let known_key = session.record().seen(&place).and_then(|seen| seen.key.as_deref());
    session.ports().publications.write(publication, known_key, content).await
}

fn last_write(
    session: &Session<'_>,
    side: Side,
    publication: &Publication,
    content: &Content,
    written: Written,
    answered_at: Timestamp,
) -> LastWrite {
    let before = session.record().seen(&publication.place.to_string());
    let mut held_at = before.map(|seen| seen.held_at.clone()).unwrap_or_default();
    if let Content::Presented { version, .. } = content {
        let found_there = held_at.get(version) == Some(&written.store_version);
        // Versions are numbered per parameter: one that was deleted and created again counts from 1.
        if before.is_some_and(|seen| written.store_version <= seen.store_version) && !found_there {
            held_at.clear();
        }
        held_at.insert(*version, written.store_version);
    }
    held_at.retain(|number, _| {
        side == Side::Presenters
            && session.record().versions().iter().any(|live| live.version == *number)
    });
    LastWrite {
        revision: content.fence().revision,
        life: content.fence().life,
        store_version: written.store_version,
        sha256: content.bytes(publication.form).digest(),
        key: written.key.or_else(|| before.and_then(|seen| seen.key.clone())),
        answered_at,
        held_at,
    }
}

/// Moves the label `previous` first: after a crash between the two, both are readable.
async fn move_labels(
    session: &mut Session<'_>,
    leg: Leg,
    seen: &BTreeMap<String, LastWrite>,
) -> Result<(), Stop> {
    let presented = session.record().presented().map(|version| version.version);
    let before = session
        .record()
        .versions()
        .iter()
        .map(|version| version.version)
        .find(|number| Some(*number) < presented);
    for (label, number) in [("previous", before), ("current", presented)] {
        let moves: Vec<_> = session
            .spec()
            .presenters
            .publications
            .iter()
            .filter(|publication| matches!(publication.place, Place::Parameter(_)))
            .filter_map(|publication| {
                let seen = seen.get(&publication.place.to_string())?;
                Some((&publication.place, *seen.held_at.get(&number?)?))
            })
            .collect();
        if moves.is_empty() {
            continue;
        }
        session.save_with_lease(leg).await?;
        let calls = moves
            .iter()
            .map(|(place, version)| session.ports().publications.label(place, label, *version));
        let results = join_all(calls).await;
        note_lost_replies(session, &results)?;
        for ((place, version), result) in moves.iter().zip(results) {
            match result {
                Ok(_) => {}
                // Readers by this label keep what they have: the version is deleted, and no other version
                // holds the value.
                Err(failed) if failed.is_gone && label == "previous" => {
                    session.warn(format!(
                        "{place}: version {version} of the parameter, which held token version {},                              does not exist any more: the label `previous` is not moved",
                        number.map_or(0, VersionNumber::get)
                    ));
                }
                Err(failed) => return Err(Stop::Failed(failed.error)),
            }
        }
    }
    Ok(())
}

fn note_lost_replies(
    session: &mut Session<'_>,
    results: &[Result<Written, WriteError>],
) -> Result<(), Stop> {
    let lost = |result: &Result<Written, WriteError>| match result {
        Ok(written) => written.unanswered,
        Err(error) => error.unanswered,
    };
    if results.iter().any(lost) {
        session.apply(Transition::Unanswered(session.now() + session.settings().late_write))?;
    }
    Ok(())
}
