//! Facts of a record, as far as a session and its world need them.

use std::collections::HashMap;

use changeover_core::{
    record::{Leg, Purpose, Record, Step, Version},
    spec::Side,
};
use changeover_token::{Stage, VersionNumber};

use super::{
    form::{DAY, MINE, NOW, PLACES, WITHIN, WORKLOADS},
    state::{Versions, View},
};

/// All facts of one record, read once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts {
    pub(crate) owed: Option<(Leg, Step)>,
    pub(crate) purpose: Option<Purpose>,
    /// The accepted and the presented view.
    pub(crate) views: [View; 2],
    /// The versions that are pending.
    pub(crate) pending: u32,
    pub(crate) live: Versions,
    pub(crate) newest: u8,
    pub(crate) current: u8,
    pub(crate) has_my_lease: bool,
    pub(crate) is_leased: bool,
    pub(crate) is_due: bool,
    pub(crate) is_unanswered: bool,
    /// True if another session left its lease to run out.
    pub(crate) was_left: bool,
    /// True if drift detection is due, or will be when a late write has landed.
    pub(crate) will_be_compared: bool,
    pub(crate) is_to_be_compared: bool,
    pub(crate) has_drift: bool,
    /// The oldest version whose end is awaited.
    pub(crate) ends_next: Option<u8>,
    pub(crate) can_retire: bool,
    /// The view that each publication was last seen to hold.
    pub(crate) seen: [Option<View>; 2],
    /// True if the publication was not written since.
    pub(crate) stands: [bool; 2],
    /// True if readers may still hold what was there before that.
    pub(crate) readers_lag: [bool; 2],
    /// The view in the Secret as of which each workload is synced.
    pub(crate) synced: [Option<View>; 2],
    /// True if the side's view changed since the record was saved.
    pub(crate) has_new_view: [bool; 2],
}

impl Facts {
    pub(super) fn of(record: &Record, views: &HashMap<[u8; 32], View>) -> Self {
        // Sets of versions are bits, because a state must be small and quick to hash.
        let number = |number: VersionNumber| number.get() as u8;
        let versions = record.versions();
        let bits = |which: &dyn Fn(&&Version) -> bool| -> Versions {
            let chosen = versions.iter().filter(which);
            chosen.map(|it| 1 << number(it.version)).sum()
        };
        let presented = record.presented().map_or(0, |it| 1 << number(it.version));
        let awaited = versions.iter().filter(|it| it.not_after.is_some() && !it.has_ended(NOW));
        let both = |what: &dyn Fn(usize) -> bool| [what(0), what(1)];
        // Each side has one publication and one workload. The record names digests, and the model wants
        // their views.
        let seen = |side: usize| record.seen(PLACES[side]);
        let synced = |side: usize| {
            let secret = record.wait(WORKLOADS[side])?.secret.as_ref()?;
            let (versions, ends) = secret.0.split_once('.')?;
            Some(View { versions: versions.parse().ok()?, ends: ends.parse().ok()? })
        };
        // A time counts only as before or after `NOW`, so a fact has only a few values.
        Facts {
            owed: record.owed().map(|owed| (owed.leg, owed.step)),
            purpose: record.rotation().map(|rotation| rotation.purpose),
            views: [
                View { versions: bits(&|_| true), ends: bits(&|it| it.not_after.is_some()) },
                View { versions: presented, ends: 0 },
            ],
            pending: bits(&|it| it.stage == Stage::Pending).count_ones(),
            live: bits(&|it| !it.has_ended(NOW)),
            newest: number(record.next_version()) - 1,
            current: record.in_stage(Stage::Current).map_or(0, |it| number(it.version)),
            has_my_lease: record.is_leased(NOW)
                && record.lease().is_some_and(|lease| lease.holder == MINE),
            is_leased: record.is_leased(NOW),
            is_due: record.due_at().is_some_and(|due_at| due_at <= NOW),
            is_unanswered: record.is_unanswered(NOW),
            was_left: record.lease().is_some_and(|lease| lease.holder != MINE),
            will_be_compared: record.compare_at() < NOW + DAY,
            is_to_be_compared: record.compare_at() <= NOW,
            has_drift: !record.drift().is_empty(),
            ends_next: awaited.map(|it| number(it.version)).min(),
            can_retire: record.next_end().is_some_and(|end| end <= NOW)
                && !record.is_unanswered(NOW),
            seen: [0, 1].map(|side| views.get(seen(side)?.sha256.as_bytes()).copied()),
            stands: both(&|side| seen(side).is_some_and(|seen| seen.store_version == 1)),
            readers_lag: both(&|side| {
                seen(side).is_some_and(|seen| seen.answered_at + WITHIN > NOW)
            }),
            synced: [synced(0), synced(1)],
            has_new_view: both(&|side| record.view(Side::BOTH[side]) == record.to_save().fence()),
        }
    }
}
