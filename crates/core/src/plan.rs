//! What to do about a request, given the record and the time.
//!
//! Pure: nothing is read here and nothing is done. Whatever the answer, it is carried out by a save
//! that is conditional on the record that it was made from; who loses that save plans again.

use std::{collections::BTreeSet, fmt, time::Duration};

use jiff::Timestamp;

use crate::{
    record::{KeyEntry, LEASE_GRACE, Leg, Loaded, Purpose, Record, Step},
    spec::Spec,
};

/// What is asked of one token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// A new version at all presenters.
    Rotate {
        /// Whether it has to begin after this was asked: a rotation in progress is followed, not joined.
        fresh: bool,
    },
    /// The current version at every publication.
    Publish {
        /// Whether a value that somebody else wrote becomes the next version.
        adopt: bool,
    },
    /// The pending version given up, and the rotation that waits taken back.
    Drop,
    /// Whatever is owed.
    Resume,
}

impl Ask {
    /// Whether a new version is asked for.
    pub fn is_rotate(self) -> bool {
        matches!(self, Ask::Rotate { .. })
    }
}

/// What a spec says that a plan depends on.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// How many versions the accepted set may hold.
    pub depth: usize,
    /// Whether new versions are issued elsewhere.
    pub is_imported: bool,
}

impl Terms {
    /// Those of a spec.
    pub fn of(spec: &Spec) -> Self {
        Self { depth: spec.accepted_depth(), is_imported: spec.inbox().is_some() }
    }
}

/// What to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Look at the presented publications and the workloads, then take the slot.
    Start(Purpose),
    /// Take the lease and carry out what is owed.
    Resume(Relation),
    /// Somebody is at it: answer `in_progress`.
    Join(Relation),
    /// Nothing may be changed before `until`.
    Defer {
        /// When to ask again.
        until: Timestamp,
        /// What for.
        because: Deferred,
    },
    /// Give the pending version up.
    Drop,
    /// Take back the rotation that waits.
    TakeBack,
    /// End the record.
    Forget,
    /// Compare the publications with the record.
    DetectDrift,
    /// This key did it already, and its rotation has ended.
    Ended(KeyEntry),
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

impl Decision {
    /// Whether what is carried out works from the spec, so that it has to be admitted.
    pub fn needs_spec(&self) -> bool {
        matches!(
            self,
            Decision::Start(_) | Decision::Resume(_) | Decision::Drop | Decision::DetectDrift
        )
    }

    /// Its name, for the log.
    pub fn name(&self) -> &'static str {
        match self {
            Decision::Start(_) => "begin",
            Decision::Resume(_) => "carry_on",
            Decision::Join(_) => "join",
            Decision::Defer { .. } => "defer",
            Decision::Drop => "drop",
            Decision::TakeBack => "take_back",
            Decision::Forget => "forget",
            Decision::DetectDrift => "compare",
            Decision::Ended(_) => "ended",
            Decision::Nothing => "nothing",
            Decision::Refuse { .. } => "refuse",
        }
    }
}

/// What is in progress, to whoever asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// What is asked, or nobody's in particular.
    Same,
    /// What is asked too, from now on: the trigger's key is saved beside it.
    Joined,
    /// It comes first; what is asked begins afterwards.
    Before,
    /// It comes first. That a rotation is to follow it is saved, with the trigger's key: it begins
    /// whether or not this invocation lives to see it.
    BeforeQueued,
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
            Deferred::Contended => {
                "deferred: others were first each time; whatever is in progress goes on"
            }
        })
    }
}

/// Decides.
pub fn plan(ask: Ask, loaded: &Loaded, terms: Terms, now: Timestamp) -> Decision {
    let Some(record) = &loaded.record else {
        return match (ask, &loaded.key) {
            // The record in which this key brought its version was forgotten.
            (Ask::Rotate { .. }, Some(entry)) => Decision::Ended(entry.clone()),
            (Ask::Rotate { .. }, None) => Decision::Start(Purpose::Rotate),
            (Ask::Publish { .. }, _) => Decision::Start(Purpose::Publish),
            (Ask::Drop | Ask::Resume, _) => Decision::Nothing,
        };
    };
    let attended = record.is_attended(now);
    let purpose = record.rotation().map(|rotation| rotation.purpose);
    match ask {
        Ask::Rotate { fresh } => {
            let asked = Asked { key: loaded.key.as_ref(), fresh, terms };
            rotate(record, asked, attended, now)
        }

        Ask::Publish { .. } if attended => Decision::Join(Relation::Same),
        Ask::Publish { adopt: false } if purpose == Some(Purpose::Publish) => {
            Decision::Resume(Relation::Same)
        }
        Ask::Publish { .. } if purpose.is_some() || record.lease().is_some() => {
            Decision::Resume(Relation::Before)
        }
        Ask::Publish { .. } => Decision::Start(Purpose::Publish),

        Ask::Drop => drop_pending(record, now),

        Ask::Resume if attended => Decision::Join(Relation::Same),
        Ask::Resume if record.due_at().is_some_and(|due_at| due_at > now) => Decision::Nothing,
        // A token at rest, or one that only waits for the end of a version, has time to be looked at: before
        // an end is published, since that writes over what a late write may have left.
        Ask::Resume if record.compare_at() <= now && is_at_rest(record) => Decision::DetectDrift,
        // Ends before a rotation that waits: it may be refused each time.
        Ask::Resume if is_end_due(record, now) => match record.is_rotation_waiting() {
            true => Decision::Resume(Relation::Before),
            false => Decision::Resume(Relation::Same),
        },
        Ask::Resume if is_at_rest(record) && record.is_rotation_waiting() => {
            mint(record, terms, now)
        }
        Ask::Resume if record.owed().is_some() => Decision::Resume(Relation::Same),
        Ask::Resume => Decision::Nothing,
    }
}

/// A rotation that is asked for.
#[derive(Clone, Copy)]
struct Asked<'a> {
    key: Option<&'a KeyEntry>,
    fresh: bool,
    terms: Terms,
}

fn rotate(record: &Record, asked: Asked<'_>, attended: bool, now: Timestamp) -> Decision {
    let is_queued =
        |entry: &&KeyEntry| record.queued().is_some_and(|it| it.rotation == entry.rotation);
    let queued = asked.key.filter(is_queued);
    if let Some(entry) = asked.key.filter(|_| queued.is_none()) {
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
            (true, true) => Decision::Join(Relation::Same),
            (true, false) => Decision::Resume(Relation::Same),
            (false, _) => Decision::Ended(entry.clone()),
        };
    }
    let purpose = record.rotation().map(|rotation| rotation.purpose);
    let relation = match purpose {
        // What arrived meanwhile is another version: it is looked at once this one is through.
        _ if queued.is_some() || asked.terms.is_imported => Relation::Before,
        Some(Purpose::Rotate) if !asked.fresh => Relation::Joined,
        _ => Relation::BeforeQueued,
    };
    match purpose {
        // Only whoever holds the record can save what is to follow: it is taken over from a watcher,
        // and awaited from who holds the lease.
        Some(_) if attended && relation == Relation::BeforeQueued => {
            take_over(record, relation, now)
        }
        Some(_) if attended => Decision::Join(relation),
        Some(_) => Decision::Resume(relation),
        None => match mint(record, asked.terms, now) {
            // What is owed is not put off by what waits for another reason.
            Decision::Defer { because: Deferred::Full | Deferred::Unanswered, .. }
                if !is_at_rest(record) =>
            {
                take_over(record, relation, now)
            }
            Decision::Resume(_) => Decision::Resume(relation),
            decision => decision,
        },
    }
}

fn drop_pending(record: &Record, now: Timestamp) -> Decision {
    let rotation = record.rotation().filter(|rotation| rotation.purpose == Purpose::Rotate);
    match rotation {
        Some(rotation) if !rotation.presented => not_before(record, now).unwrap_or(Decision::Drop),
        _ if record.queued().is_some() && record.is_leased(now) => leased(record, now),
        _ if record.queued().is_some() => Decision::TakeBack,
        Some(_) => Decision::Refuse {
            because: "presenters may have its version already",
            fix: "let it go on, forward is the only safe direction; rotate again afterwards",
        },
        None => Decision::Nothing,
    }
}

/// A new version, unless something else comes first or has to pass.
pub fn mint(record: &Record, terms: Terms, now: Timestamp) -> Decision {
    if record.is_leased(now) {
        return leased(record, now);
    }
    if record.lease().is_some() {
        // A publish was left unfinished by somebody whose lease ran out: it comes first.
        return Decision::Resume(Relation::Before);
    }
    if let Some(deferred) = not_before(record, now) {
        return deferred;
    }
    let live = record.versions().iter().filter(|version| !version.has_ended(now)).count();
    if live < terms.depth {
        return Decision::Start(Purpose::Rotate);
    }
    let ends = record.versions().iter().filter_map(|version| version.not_after);
    let until = ends.filter(|end| *end > now).min().unwrap_or(now);
    Decision::Defer { until, because: Deferred::Full }
}

/// The same, where clusters are to be left out that whoever is at it waits for: it is taken over from a
/// watcher, and awaited from who holds the lease.
pub fn leaving_out(
    decision: Decision,
    without: &BTreeSet<String>,
    loaded: &Loaded,
    now: Timestamp,
) -> Decision {
    match (decision, &loaded.record) {
        (Decision::Join(relation), Some(record)) if !without.is_subset(record.without()) => {
            take_over(record, relation, now)
        }
        (decision, _) => decision,
    }
}

fn take_over(record: &Record, relation: Relation, now: Timestamp) -> Decision {
    match record.is_leased(now) {
        true => leased(record, now),
        false => Decision::Resume(relation),
    }
}

/// What keeps the set of live versions from being changed now.
fn not_before(record: &Record, now: Timestamp) -> Option<Decision> {
    if record.is_leased(now) {
        return Some(leased(record, now));
    }
    let until = record.unanswered_until().filter(|until| *until > now)?;
    Some(Decision::Defer { until, because: Deferred::Unanswered })
}

fn leased(record: &Record, now: Timestamp) -> Decision {
    let until = record.lease().map_or(now, |lease| lease.until + LEASE_GRACE);
    Decision::Defer { until, because: Deferred::Leased }
}

/// Whether nothing is owed, or only the end of a version.
pub(crate) fn is_at_rest(record: &Record) -> bool {
    record.owed().is_none_or(|owed| owed.step == Step::Retire)
}

/// Whether a version is past its end, and may leave the set.
fn is_end_due(record: &Record, now: Timestamp) -> bool {
    record.owed().is_some_and(|owed| owed.step == Step::Retire)
        && record.next_end().is_some_and(|end| end <= now)
        && !record.is_unanswered(now)
}

/// Whether a record may be forgotten whose spec is gone. `late_write` is how long a write whose reply was
/// lost may still land: on what another record of this token has published by then, if it is not awaited.
pub fn forget(record: &Record, late_write: Duration, now: Timestamp) -> Decision {
    if record.rotation().is_some() {
        return Decision::Refuse {
            because: "a rotation is in progress, and without the spec it stands still",
            fix: "create the parameter of the spec again; give the rotation up with `drop`, or let it \
                  come to its end if that is refused; then delete the parameter and forget the token",
        };
    }
    if record.is_leased(now) {
        return leased(record, now);
    }
    let was_publishing = record.owed().is_some_and(|owed| owed.step == Step::Publish);
    let unfinished = record.lease().filter(|_| was_publishing).map(|it| it.until + late_write);
    match record.unanswered_until().max(unfinished).filter(|until| *until > now) {
        Some(until) => Decision::Defer { until, because: Deferred::Unanswered },
        None => Decision::Forget,
    }
}
