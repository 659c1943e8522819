//! What to do about a request, given the record and the time.
//!
//! Pure: nothing is read here and nothing is done. Whatever the answer, it is carried out by a save
//! that is conditional on the record that it was made from; who loses that save plans again.

use std::{collections::BTreeSet, fmt};

use jiff::Timestamp;

use crate::{
    record::{LEASE_GRACE, Leg, Purpose, Record, Step},
    world::{KeyEntry, Loaded},
};

/// What is asked of one token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// A new version at all presenters.
    Rotate,
    /// The current version at every publication.
    Publish,
    /// The pending version given up.
    Drop,
    /// Whatever is owed.
    Resume,
}

/// What to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Move {
    /// Look at the presented publications and the workloads, then take the slot.
    Begin(Purpose),
    /// Take the lease and carry out what is owed. With `joins`, the trigger's key is saved with it:
    /// it asked for the rotation that is in progress already.
    CarryOn {
        /// Whether the trigger's key joins the rotation.
        joins: bool,
    },
    /// Somebody is at it: save the trigger's key beside the rotation, and answer `in_progress`.
    Join {
        /// Whether the key is not saved yet.
        joins: bool,
    },
    /// Nothing may be changed before `until`.
    Defer {
        /// When to ask again.
        until: Timestamp,
        /// What for.
        because: Deferred,
    },
    /// Give the pending version up.
    Drop,
    /// Compare the publications with the record.
    Compare,
    /// This key did it already.
    Unchanged(KeyEntry),
    /// Nothing is owed.
    Nothing,
    /// It cannot be done any more; why, and what to do instead.
    Refuse {
        /// Why.
        because: &'static str,
        /// What to do.
        fix: &'static str,
    },
}

impl Move {
    /// Its name, for the log.
    pub fn name(&self) -> &'static str {
        match self {
            Move::Begin(_) => "begin",
            Move::CarryOn { .. } => "carry_on",
            Move::Join { .. } => "join",
            Move::Defer { .. } => "defer",
            Move::Drop => "drop",
            Move::Compare => "compare",
            Move::Unchanged(_) => "unchanged",
            Move::Nothing => "nothing",
            Move::Refuse { .. } => "refuse",
        }
    }
}

/// What has to pass before the set of live versions may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deferred {
    /// Somebody holds the lease.
    Leased,
    /// A write to a store that cannot fence was not answered, and may still land.
    Unanswered,
    /// The accepted set is as deep as its smallest store takes.
    Full,
    /// Something other than a rotation takes the slot.
    Occupied,
    /// Others saved first, each time that it was tried.
    Contended,
}

impl fmt::Display for Deferred {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Deferred::Leased => "deferred: another invocation is writing",
            Deferred::Unanswered => {
                "deferred: a write to Parameter Store was not answered, and may still land"
            }
            Deferred::Full => {
                "deferred: the accepted set is full; raise the period, or lower the overlap"
            }
            Deferred::Occupied => "deferred: the publications are being written or repaired",
            Deferred::Contended => {
                "deferred: others were first each time; whatever is in progress goes on"
            }
        })
    }
}

/// Decides. `depth` is how many versions the accepted set may hold.
pub fn plan(ask: Ask, loaded: &Loaded, depth: usize, now: Timestamp) -> Move {
    let Some(record) = &loaded.record else {
        return match ask {
            Ask::Rotate => Move::Begin(Purpose::Rotate),
            Ask::Publish => Move::Begin(Purpose::Publish),
            Ask::Drop | Ask::Resume => Move::Nothing,
        };
    };
    let attended = record.is_attended(now);
    match ask {
        Ask::Rotate => rotate(record, loaded.key.as_ref(), depth, attended, now),

        Ask::Publish if attended => Move::Join { joins: false },
        Ask::Publish if record.rotation().is_some() || record.lease().is_some() => {
            Move::CarryOn { joins: false }
        }
        Ask::Publish => Move::Begin(Purpose::Publish),

        Ask::Drop => match record.rotation() {
            Some(rotation) if rotation.purpose == Purpose::Rotate && rotation.presented => {
                Move::Refuse {
                    because: "presenters may have its version already",
                    fix: "let it go on, forward is the only safe direction; rotate again afterwards",
                }
            }
            Some(rotation) if rotation.purpose == Purpose::Rotate => {
                not_before(record, now).unwrap_or(Move::Drop)
            }
            _ => Move::Nothing,
        },

        Ask::Resume if attended => Move::Join { joins: false },
        Ask::Resume if record.due_at().is_some_and(|due_at| due_at > now) => Move::Nothing,
        // A token at rest, or one that only waits for the end of a version, has time to be looked at.
        Ask::Resume if record.compare_at() <= now && is_at_rest(record) => Move::Compare,
        Ask::Resume if record.owed().is_some() => Move::CarryOn { joins: false },
        Ask::Resume => Move::Nothing,
    }
}

fn rotate(
    record: &Record,
    key: Option<&KeyEntry>,
    depth: usize,
    attended: bool,
    now: Timestamp,
) -> Move {
    if let Some(entry) = key {
        let is_its_own = match (record.rotation(), record.owed()) {
            (Some(rotation), _) => rotation.id == entry.rotation,
            // Its presenters are on the new version, but it was never answered.
            (None, Some(owed)) => {
                (owed.leg, owed.step) == (Leg::Overlap, Step::Publish)
                    && record.presented().is_some_and(|current| current.version == entry.version)
            }
            (None, None) => false,
        };
        return match (is_its_own, attended) {
            (true, true) => Move::Join { joins: false },
            (true, false) => Move::CarryOn { joins: false },
            (false, _) => Move::Unchanged(entry.clone()),
        };
    }
    match record.rotation().map(|rotation| rotation.purpose) {
        Some(Purpose::Rotate) if attended => Move::Join { joins: true },
        Some(Purpose::Rotate) => Move::CarryOn { joins: true },
        Some(_) if attended => {
            Move::Defer { until: record.due_at().unwrap_or(now), because: Deferred::Occupied }
        }
        Some(_) => Move::CarryOn { joins: false },
        None => {
            if record.is_leased(now) {
                return leased(record, now);
            }
            if record.lease().is_some() {
                // A publish was left unfinished by somebody whose lease ran out: it comes first.
                return Move::CarryOn { joins: false };
            }
            if let Some(deferred) = not_before(record, now) {
                return deferred;
            }
            let live = record.versions().iter().filter(|version| !version.has_ended(now)).count();
            if live < depth {
                return Move::Begin(Purpose::Rotate);
            }
            let ends = record.versions().iter().filter_map(|version| version.not_after);
            let until = ends.filter(|end| *end > now).min().unwrap_or(now);
            Move::Defer { until, because: Deferred::Full }
        }
    }
}

/// The same, where clusters are to be left out that whoever is at it waits for: it is taken over from a
/// watcher, and awaited from who holds the lease.
pub fn leaving_out(
    decision: Move,
    without: &BTreeSet<String>,
    loaded: &Loaded,
    now: Timestamp,
) -> Move {
    match (decision, &loaded.record) {
        (Move::Join { joins }, Some(record)) if !without.is_subset(record.without()) => {
            match record.is_leased(now) {
                true => leased(record, now),
                false => Move::CarryOn { joins },
            }
        }
        (decision, _) => decision,
    }
}

/// What keeps the set of live versions from being changed now.
fn not_before(record: &Record, now: Timestamp) -> Option<Move> {
    if record.is_leased(now) {
        return Some(leased(record, now));
    }
    let until = record.unanswered_until().filter(|until| *until > now)?;
    Some(Move::Defer { until, because: Deferred::Unanswered })
}

fn leased(record: &Record, now: Timestamp) -> Move {
    let until = record.lease().map_or(now, |lease| lease.until + LEASE_GRACE);
    Move::Defer { until, because: Deferred::Leased }
}

fn is_at_rest(record: &Record) -> bool {
    record.owed().is_none_or(|owed| owed.step == Step::Retire)
}
