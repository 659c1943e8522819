//! Roll out: no reader is left that holds an older view, and what was published is unchanged.

use std::time::Duration;

use futures::future::join_all;
use jiff::Timestamp;

use super::{
    ahead::continue_above,
    verify::{Verification, publish_again, verify_still_published},
    view::{answered_at, stamp_of},
    wait::{Waited, by_namespace, deadline_of, first_blocker, still_waiting, time_until},
};
use crate::{
    error::Error,
    observe::cluster_unavailable,
    plan::Ask,
    ports::{Progress, Stamp},
    record::{Held, Leg, Owed, Purpose, Transition},
    session::{Session, Stop, UnderWay},
    spec::{PicksUp, Side, Workload},
};

/// Replaces workloads that pick up by restart, waits for those that pick up within a time, and then
/// verifies that what was published is unchanged.
pub(super) async fn roll_out(
    session: &mut Session<'_>,
    owed: Owed,
) -> Result<Option<UnderWay>, Stop> {
    let side = owed.leg.side();
    let audience = session.spec().side(side);
    let purpose = session.record().rotation().map(|rotation| rotation.purpose);
    let rolls = purpose != Some(Purpose::Publish);
    let undone =
        session.record().held().filter(|held| held.is_undone && held.attempts >= Held::TRIES);
    if let (Some(held), Ask::Resume, true) = (undone, session.asking().ask, rolls) {
        return Ok(Some(UnderWay::Held(held.clone())));
    }
    let give_up_at = deadline_of(session, owed);

    // Readers' own caches. At overlap nothing waits for them: each reader ends the old token by the clock,
    // from whichever copy it has.
    let cached_until = audience
        .within
        .filter(|_| owed.leg != Leg::Overlap)
        .and_then(|within| Some(answered_at(session, side)? + within));
    let workloads = if rolls { session.workloads(side) } else { Vec::new() };
    let cached_for =
        cached_until.map_or(Duration::ZERO, |until| session.ports().clock.until(until));
    // During a short wait for readers' own caches the lease is kept, which avoids a save. The publish that
    // follows renews it.
    if !workloads.is_empty() || cached_for > session.settings().lease / 3 {
        session.save_as_watcher().await?;
    }

    let readers = wait_for_readers(session, cached_until);
    let stamp = stamp_of(session, side);
    let restarts = |it: &&Workload| it.picks_up == PicksUp::Restart;
    let rollouts = by_namespace(workloads.iter().copied().filter(restarts))
        .into_iter()
        .map(|restarted| roll_in_namespace(session, restarted, &stamp, give_up_at));
    let mounted = workloads.iter().copied().filter(|it| !restarts(it));
    let mounted = mounted.map(|it| wait_for_mounted(session, it, side));
    let waits = async { tokio::join!(readers, join_all(rollouts), join_all(mounted)) };
    let (cached, rolled, mounted) = session.with_heartbeat(waits).await?;

    let results = rolled.into_iter().flatten().chain(mounted);
    if let Some(waits) = unfinished(session, owed, results, give_up_at).await? {
        return Ok(Some(waits));
    }
    if let Some(awaited) = cached {
        return Ok(Some(UnderWay::Waiting(awaited.to_owned())));
    }

    // The end of migrate gives the old version its end, so what every reader reads is verified, not only
    // what restarted workloads read.
    let ends = owed.leg == Leg::Migrate && purpose == Some(Purpose::Rotate);
    if ends || !workloads.is_empty() {
        match verify_still_published(session, side).await? {
            Verification::Unchanged => {}
            Verification::Changed(changed) => return publish_again(session, side, changed).await,
            Verification::Unreadable(held) => return Ok(Some(UnderWay::Held(held))),
        }
    }
    session.apply(Transition::RolledOut { overlap: session.spec().overlap })?;
    Ok(None)
}

/// Waits until the copies of readers that are not restarted have run out, or until this session must stop:
/// then returns what is still awaited.
async fn wait_for_readers(
    session: &Session<'_>,
    cached_until: Option<Timestamp>,
) -> Option<&'static str> {
    let until = cached_until?;
    session.ports().clock.sleep_until(until.min(session.asking().stop_at)).await;
    (until > session.now()).then_some("readers that are not restarted may still hold their copy")
}

/// Returns what stops or delays the step, if any of these workloads does. A later fence comes first, because
/// nothing else that was seen counts below it. Blockers come next.
async fn unfinished<'a>(
    session: &mut Session<'_>,
    owed: Owed,
    results: impl Iterator<Item = Waited<'a, Progress<()>>>,
    give_up_at: Timestamp,
) -> Result<Option<UnderWay>, Stop> {
    let mut under_way = Vec::new();
    let mut stuck = Vec::new();
    let mut ahead = Vec::new();
    for (workload, progress) in results {
        match progress.or_else(|error| cluster_unavailable(workload, error).map(Progress::Stuck))? {
            Progress::Done(()) => {}
            Progress::UnderWay(awaited) => under_way.push((workload.to_string(), awaited)),
            Progress::Stuck(held) => stuck.push(held),
            Progress::Ahead(found) => ahead.push((workload.to_string(), found)),
        }
    }
    if !ahead.is_empty() {
        return continue_above(session, owed.leg.side(), ahead).await;
    }
    if let Some(held) = first_blocker(session, stuck, &under_way) {
        return Ok(Some(UnderWay::Held(held)));
    }
    Ok(still_waiting(session, owed, under_way, give_up_at))
}

/// Stamps these workloads, each once its Secret has settled, and waits for them together.
async fn roll_in_namespace<'a>(
    session: &Session<'_>,
    workloads: Vec<&'a Workload>,
    stamp: &Stamp,
    give_up_at: Timestamp,
) -> Vec<Waited<'a, Progress<()>>> {
    let stamps = workloads.iter().map(|workload| stamp_settled(session, workload, stamp));
    let mut rolling = Vec::new();
    let mut ended = Vec::new();
    for (workload, stamped) in workloads.iter().zip(join_all(stamps).await) {
        match stamped {
            Ok(Progress::Done(())) => rolling.push(*workload),
            stopped => ended.push((*workload, stopped)),
        }
    }
    if !rolling.is_empty() {
        let within = time_until(session, give_up_at);
        let rolled = session.ports().workloads.rolled_out(&rolling, stamp, within).await;
        ended.extend(rolling.into_iter().zip(rolled));
    }
    ended
}

async fn stamp_settled(
    session: &Session<'_>,
    workload: &Workload,
    stamp: &Stamp,
) -> Result<Progress<()>, Error> {
    let clock = &session.ports().clock;
    let settled_at = synced_at(session, workload, stamp.side) + workload.settle;
    clock.sleep_until(settled_at.min(session.asking().stop_at)).await;
    if settled_at > session.now() {
        return Ok(Progress::UnderWay("its Secret is settling".to_owned()));
    }
    Ok(match session.ports().workloads.stamp(workload, stamp).await? {
        Some(progress) => progress,
        None => Progress::Stuck(Held::new(
            workload.to_string(),
            "the workload does not exist",
            "create it, or take it out of the spec",
        )),
    })
}

/// Waits for as long as pods that are not restarted may hold what they mounted.
async fn wait_for_mounted<'a>(
    session: &Session<'_>,
    workload: &'a Workload,
    side: Side,
) -> Waited<'a, Progress<()>> {
    let PicksUp::Within(within) = workload.picks_up else {
        return (workload, Ok(Progress::Done(())));
    };
    let until = synced_at(session, workload, side) + within;
    session.ports().clock.sleep_until(until.min(session.asking().stop_at)).await;
    let progress = if until <= session.now() {
        Progress::Done(())
    } else {
        Progress::UnderWay("its pods may still hold their mounted copy".to_owned())
    };
    (workload, Ok(progress))
}

/// The time since which this workload reads this side's view.
fn synced_at(session: &Session<'_>, workload: &Workload, side: Side) -> Timestamp {
    let synced_at = session.record().wait(&workload.to_string()).map(|wait| wait.synced_at);
    synced_at.or_else(|| answered_at(session, side)).unwrap_or_else(|| session.now())
}
