//! Sync: refreshes every copy of what was published, and waits for it.

use std::collections::BTreeMap;

use futures::future::join_all;
use jiff::Timestamp;

use super::{
    ahead::continue_above,
    verify::{changed_publication, publish_again},
    view::{CopiedView, copied_view},
    wait::{Waited, by_namespace, deadline_of, first_blocker, still_waiting, time_until},
};
use crate::{
    observe::cluster_unavailable,
    ports::Progress,
    record::{Held, Leg, Owed, Purpose, SecretRevision, Transition, Wait},
    session::{Session, Stop, UnderWay},
    spec::Workload,
};

/// Waits until each Secret that copies this side's view holds what was published.
pub(super) async fn sync(session: &mut Session<'_>, owed: Owed) -> Result<Option<UnderWay>, Stop> {
    let workloads = session.workloads(owed.leg.side()).into_iter();
    let copied: Vec<_> = workloads.filter(|it| it.copy.is_some()).collect();
    let mut waits = BTreeMap::new();
    if !copied.is_empty() {
        let give_up_at = deadline_of(session, owed);
        let view = copied_view(session, owed.leg.side()).await?;
        // A wait needs no lease. The record names this session as the watcher instead.
        session.save_as_watcher().await?;
        let syncs = by_namespace(copied)
            .into_iter()
            .map(|copied| sync_in_namespace(session, copied, &view, give_up_at));
        let synced = session.with_heartbeat(join_all(syncs)).await?;
        let mut under_way = Vec::new();
        let mut stuck = Vec::new();
        let mut ahead = Vec::new();
        for (workload, progress) in synced.into_iter().flatten() {
            let progress = progress.or_else(|error| {
                cluster_unavailable(workload, error).map(|held| Some(Progress::Stuck(held)))
            });
            match progress? {
                Some(Progress::Done(secret)) => {
                    let wait = Wait { secret: Some(secret), synced_at: session.now() };
                    waits.insert(workload.to_string(), wait);
                }
                Some(Progress::UnderWay(awaited)) => {
                    under_way.push((workload.to_string(), awaited));
                }
                Some(Progress::Stuck(held)) => stuck.push(held),
                Some(Progress::Ahead(found)) => ahead.push((workload.describe_copy(), found)),
                None => {
                    let object = workload.describe_copy();
                    if passes_over_absent(session, owed) {
                        session.warn(format!("{object} does not exist yet"));
                    } else {
                        let fix = "create it, or name another in the spec";
                        stuck.push(Held::new(object, "it does not exist", fix));
                    }
                }
            }
        }
        if !ahead.is_empty() {
            return continue_above(session, owed.leg.side(), ahead).await;
        }
        if let Some(held) = first_blocker(session, stuck, &under_way) {
            return Ok(Some(UnderWay::Held(held)));
        }
        // A copy can never sync what its parameter no longer holds.
        if !under_way.is_empty()
            && let Some(changed) = changed_publication(session, owed.leg.side()).await?
        {
            return publish_again(session, owed.leg.side(), changed).await;
        }
        if let Some(waiting) = still_waiting(session, owed, under_way, give_up_at) {
            return Ok(Some(waiting));
        }
    }
    session.apply(Transition::Synced(waits))?;
    Ok(None)
}

/// Writes the Secrets of these workloads, or forces their copies to refresh, all at once, and waits for
/// them together. `None` marks an object that does not exist.
async fn sync_in_namespace<'a>(
    session: &Session<'_>,
    workloads: Vec<&'a Workload>,
    view: &CopiedView,
    give_up_at: Timestamp,
) -> Vec<Waited<'a, Option<Progress<SecretRevision>>>> {
    let copies = &session.ports().copies;
    let (written, copied): (Vec<_>, Vec<_>) =
        workloads.into_iter().partition(|workload| workload.written_key().is_some());
    let writes = written.into_iter().map(async |workload| {
        let Some(value) = &view.value else { return (workload, Ok(None)) };
        let written = copies.write_secret(workload, &view.stamp, value).await;
        (workload, written.map(Some))
    });
    let refreshes = async {
        if copied.is_empty() {
            return Vec::new();
        }
        let within = time_until(session, give_up_at);
        copies.refresh(&copied, session.holder(), &view.intended, within).await
    };
    let (mut ended, refreshed) = tokio::join!(join_all(writes), refreshes);
    ended.extend(copied.iter().copied().zip(refreshed));
    ended
}

/// True if absent copies are passed over: the first publication comes before the objects that copy it may
/// exist.
fn passes_over_absent(session: &Session<'_>, owed: Owed) -> bool {
    owed.leg <= Leg::Migrate
        && session.record().rotation().is_some_and(|it| it.purpose == Purpose::Publish)
}
