//! The decision about a request, given the record and the time.
//!
//! This module is pure: it reads nothing and carries out nothing. A decision is carried out by a save that
//! is conditional on the record that it was made from. An invocation that loses that save plans again.

use std::{collections::BTreeSet, fmt, time::Duration};

use jiff::Timestamp;

use crate::{
    record::{KeyEntry, LEASE_GRACE, Leg, Loaded, Purpose, Record, Step},
    spec::Spec,
};

/// The operation that is requested for one token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Bring a new version to all presenters.
    Rotate {
        /// True if the rotation must begin after this request: a rotation in progress is followed, not
        /// joined.
        fresh: bool,
    },
    /// Write the current version to every publication.
    Publish {
        /// True if a value that was written by someone else becomes the next version.
        adopt: bool,
    },
    /// Drop the pending version, and take back the queued rotation.
    Drop,
    /// Carry out whatever is owed.
    Resume,
}

impl Ask {
    /// True if a new version is requested.
    pub fn is_rotate(self) -> bool {
        matches!(self, Ask::Rotate { .. })
    }
}

/// The terms of a spec that a plan depends on.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The most versions that the accepted set may hold.
    pub depth: usize,
    /// True if new versions are issued elsewhere.
    pub is_imported: bool,
}

impl Limits {
    /// The terms of a spec.
    pub fn of(spec: &Spec) -> Self {
        Self { depth: spec.accepted_depth(), is_imported: spec.inbox().is_some() }
    }
}

/// The decision about a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Examine the presented publications and the workloads, then take the slot.
    Start(Purpose),
    /// Take the lease and carry out what is owed.
    Resume(Relation),
    /// Another invocation works on the token: answer `in_progress`.
    Join(Relation),
    /// Nothing may be changed before `until`.
    Defer {
        /// Time at which to ask again.
        until: Timestamp,
        /// The reason for the delay.
        because: Deferred,
    },
    /// Drop the pending version.
    Drop,
    /// Take back the queued rotation.
    TakeBack,
    /// Forget the record.
    Forget,
    /// Run drift detection: compare the publications with the record.
    DetectDrift,
    /// The rotation of this key has ended already.
    Ended(KeyEntry),
    /// Nothing is owed.
    Nothing,
    /// The request can no longer be carried out.
    Refuse {
        /// The reason.
        because: &'static str,
        /// The fix.
        fix: &'static str,
    },
}

impl Decision {
    /// True if the decision works from the spec, so that the spec must pass admission.
    pub fn needs_spec(&self) -> bool {
        matches!(
            self,
            Decision::Start(_) | Decision::Resume(_) | Decision::Drop | Decision::DetectDrift
        )
    }

    /// The name of the decision, for the log.
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

/// The relation between a request and the work in progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// The work in progress is what is requested, or belongs to no request in particular.
    Same,
    /// The work in progress also serves this request from now on: the trigger's key is saved beside it.
    Joined,
    /// The work in progress comes first, and the requested work begins afterwards.
    Before,
    /// The work in progress comes first. The queued rotation is saved with the trigger's key, so that it
    /// begins even if this invocation ends before.
    BeforeQueued,
}

/// The reason why the set of live versions cannot change yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deferred {
    /// Another invocation holds the lease.
    Leased,
    /// A write to a store that cannot fence is in doubt, and may still land.
    Unanswered,
    /// The accepted set is as deep as its smallest store accepts.
    Full,
    /// Other invocations saved first, at each attempt.
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
                "deferred: other invocations saved first each time; whatever is in progress continues"
            }
        })
    }
}

/// Decides about a request.
pub fn plan(ask: Ask, loaded: &Loaded, terms: Limits, now: Timestamp) -> Decision {
    let Some(record) = &loaded.record else {
        return match (ask, &loaded.key) {
            // This key's rotation belongs to a record that was forgotten since.
            (Ask::Rotate { .. }, Some(entry)) => Decision::Ended(entry.clone()),
            (Ask::Rotate { .. }, None) => Decision::Start(Purpose::Rotate),
            (Ask::Publish { .. }, _) => Decision::Start(Purpose::Publish),
            (Ask::Drop | Ask::Resume, _) => Decision::Nothing,
        };
    };
    let attended = record.is_active(now);
    let purpose = record.rotation().map(|rotation| rotation.purpose);
    match ask {
        Ask::Rotate { fresh } => {
            let request = Asked { key: loaded.key.as_ref(), fresh, terms };
            rotate(record, request, attended, now)
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
        // A token at rest, or one that only waits for the end of a version, has time for drift detection.
        // It comes before an end is published, because that writes over what a late write may have left.
        Ask::Resume if record.compare_at() <= now && is_at_rest(record) => Decision::DetectDrift,
        // An end that is due comes before a queued rotation, because the rotation may be refused each
        // time.
        Ask::Resume if is_end_due(record, now) => {
            if record.is_rotation_waiting() {
                Decision::Resume(Relation::Before)
            } else {
                Decision::Resume(Relation::Same)
            }
        }
        Ask::Resume if is_at_rest(record) && record.is_rotation_waiting() => {
            mint(record, terms, now)
        }
        Ask::Resume if record.owed().is_some() => Decision::Resume(Relation::Same),
        Ask::Resume => Decision::Nothing,
    }
}

/// The request for a rotation.
#[derive(Clone, Copy)]
struct Asked<'a> {
    key: Option<&'a KeyEntry>,
    fresh: bool,
    terms: Limits,
}

fn rotate(record: &Record, request: Asked<'_>, attended: bool, now: Timestamp) -> Decision {
    let is_queued =
        |entry: &&KeyEntry| record.queued().is_some_and(|it| it.rotation == entry.rotation);
    let queued = request.key.filter(is_queued);
    if let Some(entry) = request.key.filter(|_| queued.is_none()) {
        let is_its_own = match (record.rotation(), record.owed()) {
            (Some(rotation), _) => rotation.id == entry.rotation,
            // Its presenters are on the new version, but its completion was never answered.
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
        // A value that arrived meanwhile is another version. It is processed once this rotation is done.
        _ if queued.is_some() || request.terms.is_imported => Relation::Before,
        Some(Purpose::Rotate) if !request.fresh => Relation::Joined,
        _ => Relation::BeforeQueued,
    };
    match purpose {
        // Only the invocation that works on the record can queue the next rotation. The record is taken
        // over from a watcher at once, and from a lease holder once its lease has ended.
        Some(_) if attended && relation == Relation::BeforeQueued => {
            take_over(record, relation, now)
        }
        Some(_) if attended => Decision::Join(relation),
        Some(_) => Decision::Resume(relation),
        None => match mint(record, request.terms, now) {
            // What is owed continues, even if the requested rotation must wait for another reason.
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

/// Decides to mint a new version, unless other work comes first or a delay must pass.
pub fn mint(record: &Record, terms: Limits, now: Timestamp) -> Decision {
    if record.is_leased(now) {
        return leased(record, now);
    }
    if record.lease().is_some() {
        // A publish was left unfinished by an invocation whose lease expired: it comes first.
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

/// Adjusts a decision to a request that leaves out clusters for which another invocation still waits. The
/// record is taken over from a watcher at once, and from a lease holder once its lease has ended.
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
    if record.is_leased(now) { leased(record, now) } else { Decision::Resume(relation) }
}

/// The deferral if the set of live versions cannot change now.
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

/// True if nothing is owed, or only the end of a version.
pub(crate) fn is_at_rest(record: &Record) -> bool {
    record.owed().is_none_or(|owed| owed.step == Step::Retire)
}

/// True if a version is past its end, and may leave the set.
fn is_end_due(record: &Record, now: Timestamp) -> bool {
    record.owed().is_some_and(|owed| owed.step == Step::Retire)
        && record.next_end().is_some_and(|end| end <= now)
        && !record.is_unanswered(now)
}

/// Decides if a record whose spec is gone may be forgotten. `late_write` is the time for which a write
/// whose reply was lost may still land. If that time is not awaited, the write may land on what another
/// record of this token has published by then.
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
