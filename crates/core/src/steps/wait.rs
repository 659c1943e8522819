//! Waiting for workloads, and the result of a wait that is not over.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;

use crate::{
    error::Error,
    record::{Held, Owed},
    session::{Session, UnderWay},
    spec::Workload,
};

/// Result of a wait for a workload.
pub(super) type Waited<'a, T> = (&'a Workload, Result<T, Error>);

/// Groups the workloads that one watch can see together.
pub(super) fn by_namespace<'a>(
    workloads: impl IntoIterator<Item = &'a Workload>,
) -> Vec<Vec<&'a Workload>> {
    let mut namespaces: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for workload in workloads {
        namespaces.entry((&workload.cluster, &workload.namespace)).or_default().push(workload);
    }
    namespaces.into_values().collect()
}

/// Time until which a wait of this step may still end well. A step that was held gets a new time-out on
/// every invocation.
pub(super) fn deadline_of(session: &Session<'_>, owed: Owed) -> Timestamp {
    let since = if session.record().held().is_some() { session.now() } else { owed.since };
    since + session.spec().rollout_timeout
}

pub(super) fn time_until(session: &Session<'_>, give_up_at: Timestamp) -> Duration {
    session.ports().clock.until(give_up_at.min(session.asking().stop_at))
}

pub(super) fn still_waiting(
    session: &Session<'_>,
    owed: Owed,
    under_way: Vec<(String, String)>,
    give_up_at: Timestamp,
) -> Option<UnderWay> {
    let (object, awaited) = under_way.into_iter().next()?;
    if session.now() < give_up_at {
        return Some(UnderWay::Waiting(format!("{object}: {awaited}")));
    }
    let timeout = humantime::format_duration(session.spec().rollout_timeout);
    Some(UnderWay::Held(Held::new(
        object,
        format!("{} not done within {timeout}: {awaited}", owed.step.as_str()),
        "see why the cluster does not follow; the rotation continues by itself once it does",
    )))
}

/// Returns the first blocker. Other blockers, and what is not done, are reported beside it.
pub(super) fn first_blocker(
    session: &mut Session<'_>,
    stuck: Vec<Held>,
    under_way: &[(String, String)],
) -> Option<Held> {
    let mut stuck = stuck.into_iter();
    let first = stuck.next()?;
    let others = stuck.filter(|other| *other != first);
    let others = others.map(|other| format!("{}: {}", other.object, other.reason));
    let under_way = under_way.iter().map(|(object, awaited)| format!("{object}: {awaited}"));
    session.warn_all(others.chain(under_way));
    Some(first)
}
