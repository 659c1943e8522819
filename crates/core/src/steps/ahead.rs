//! The reaction of a leg that finds a later fence than its own.
//!
//! A later fence proves nothing about what is owed here. The record is read again. If it changed, another
//! invocation was first. If it did not, either the record was restored from a backup and continues above
//! what was found, or a newer record of this token writes there and the leg is held.

use changeover_token::Fence;

use crate::{
    finding::Finding,
    record::{Held, Record, Transition},
    session::{Session, Stop, UnderWay},
    spec::Side,
};

/// Continues above the later fences that these objects carry, or holds the leg. The next write is made by a
/// record that was saved above them.
pub(crate) async fn continue_above(
    session: &mut Session<'_>,
    side: Side,
    ahead: Vec<(String, Fence)>,
) -> Result<Option<UnderWay>, Stop> {
    let Some((object, found)) = ahead.into_iter().max_by_key(|(_, found)| *found) else {
        return Ok(None);
    };
    let now = session.ports().records.load(session.asking().token, None).await?.record;
    if now.as_ref().map(Record::fence) != session.stored().map(Record::fence) {
        return Err(Stop::Overtaken);
    }
    if found.life > session.record().life() {
        return Ok(Some(UnderWay::Held(held_by_newer_record(session, side, object, found))));
    }
    let enough = session.record().has_repeated_enough();
    session.apply(Transition::Surpass(found))?;
    if !enough {
        session.warn(format!(
            "{object} carries the later revision {found}: this record continues above it"
        ));
        return Ok(None);
    }
    Ok(Some(UnderWay::Held(Held::new(
        object,
        format!("it is at {found}, ahead again: another copy of this record is in use"),
        "Stop the function that uses the other copy of the table. Then run it again: the same version \
         continues.",
    ))))
}

/// Hold for an object that a newer record of this token wrote to.
pub(crate) fn held_by_newer_record(
    session: &Session<'_>,
    side: Side,
    object: String,
    found: Fence,
) -> Held {
    let ours = session.record().view(side);
    let Finding { object, reason, fix, .. } =
        Finding::of_another_record(session.record().token(), side, object, found, ours);
    Held::new(object, reason, format!("{fix}: the same version continues"))
}
