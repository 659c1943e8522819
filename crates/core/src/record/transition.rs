//! The transitions of a record. One `match` holds them all.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use changeover_token::{Digest, Fence, Life, Sealed, Stage};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    Entry, Held, Imported, LEASE_GRACE, LastWrite, Lease, Leg, Owed, Purpose, Queued, Record,
    Rotation, RotationId, Step, TIMELINE, Version, Wait, back_off,
};
use crate::spec::{COMPARE_EVERY, Side, SpecId};

/// A requested transition of a record.
#[derive(Clone, Debug)]
pub enum Transition {
    /// Take the slot, for a rotation with a minted version, or for one that only writes.
    Begin(Box<Begin>),
    /// Take a free lease, take over an expired one, or renew one's own.
    Lease {
        /// The new lease.
        lease: Lease,
        /// The time for which a write in doubt may still land, if the owed step writes to a store that
        /// cannot fence; `None` if it does not.
        late_write: Option<Duration>,
    },
    /// The spec has changed: expand runs again, in full, for the same version.
    Respecify(SpecId),
    /// Every publication of the leg was written and acknowledged.
    Published(BTreeMap<String, LastWrite>),
    /// A write's reply was lost. The write may land until this time.
    Unanswered(Timestamp),
    /// Every copy equals what was published.
    Synced(BTreeMap<String, Wait>),
    /// Nothing on the leg's side runs on an older view.
    RolledOut {
        /// Time for which the version before stays valid from now on.
        overlap: Duration,
    },
    /// Leave these clusters out too, on request: their workloads are no longer waited for.
    LeaveOut(BTreeSet<String>),
    /// The published view was changed meanwhile: publish it again, as a new revision of the view.
    Repeat,
    /// A place carries a later fence than the view, and no newer record wrote it. Either this record was
    /// restored from a backup, or it got its life since the view changed. Continue above that fence, and
    /// publish the view of the owed leg again.
    Surpass(Fence),
    /// Remove versions past their end from the set.
    Retire,
    /// Drop the pending version.
    Drop,
    /// Release the lease, and resume at `due_at`. If there is a watcher, that invocation works on the
    /// token until then.
    Await {
        /// Time at which an invocation must process the record again.
        due_at: Timestamp,
        /// The invocation that watches until then, if any.
        watcher: Option<String>,
    },
    /// Release the lease, and hold the token until an operator applies the fix.
    Hold(Held),
    /// Drift detection compared all publications with the record, and found `drift`.
    Compared {
        /// The places that hold a value of another writer.
        drift: Vec<String>,
        /// The places of the spec. The record forgets every other place.
        places: BTreeSet<String>,
        /// Time until the next drift detection, if no write is in doubt.
        again_after: Duration,
    },
    /// Queue this rotation: it begins as soon as it can, without another request. `None` clears the queue.
    Queue(Option<Queued>),
    /// Keep this value as the next version: it was written by someone else, and is about to be published
    /// over.
    Edited(Minted),
    /// Note an arrival that was taken from the inbox and is no new version.
    Imported(Imported),
}

/// The rotation that takes the slot, and its terms.
#[derive(Clone, Debug)]
pub struct Begin {
    /// The id of the rotation.
    pub id: RotationId,
    /// The purpose of the rotation.
    pub purpose: Purpose,
    /// The value that presenters already have, of a token without a current version.
    pub adopted: Option<Minted>,
    /// The new value. Without a current or adopted version it becomes current at once.
    pub minted: Option<Minted>,
    /// The sides whose view differs from what was published, if that is a reason to begin.
    pub repaired: Vec<Side>,
    /// A side that a repair does not write, because one of its places holds a value of another writer.
    pub leaves_alone: Option<Side>,
    /// True if presenters may have the new value already, because someone else published it.
    pub is_presented: bool,
    /// The arrival of the new value, if it is issued elsewhere.
    pub imported: Option<Imported>,
    /// The rotation that was requested, if this one must come first.
    pub queued: Option<Queued>,
    /// The spec that the rotation works from.
    pub spec: SpecId,
    /// The life of a record that has none yet.
    pub life: Option<Life>,
    /// The longest time until the next drift detection.
    pub compare_within: Duration,
    /// The lease, which the same write takes.
    pub lease: Lease,
}

impl Begin {
    /// A rotation that changes nothing yet except the spec and the lease.
    pub fn new(id: RotationId, purpose: Purpose, spec: SpecId, lease: Lease) -> Self {
        Self {
            id,
            purpose,
            adopted: None,
            minted: None,
            repaired: Vec::new(),
            leaves_alone: None,
            is_presented: false,
            imported: None,
            queued: None,
            spec,
            life: None,
            compare_within: COMPARE_EVERY,
            lease,
        }
    }
}

/// A new value that was decided: minted, adopted, imported or edited.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Minted {
    /// The digest of the value.
    pub sha256: Digest,
    /// The value, sealed.
    pub sealed: Sealed,
    /// The publications that hold it, each with the version of the publication.
    pub held_at: BTreeMap<String, u64>,
}

/// A change that this record cannot make.
#[derive(Clone, Debug, thiserror::Error)]
#[error("a record that owes {owed} cannot make the change `{change}`: {because}")]
pub struct IllegalTransition {
    owed: String,
    change: &'static str,
    because: &'static str,
}

impl Record {
    /// Returns the record after a change. It is total: an illegal transition returns [`IllegalTransition`], and this
    /// record is unchanged.
    ///
    /// [`Record::to_save`] raises the revision. A view that changes gets the revision that the next save
    /// will have, which is at least [`Life::least_revision`].
    #[expect(clippy::too_many_lines, reason = "the table of all transitions")]
    pub fn after(&self, change: Transition, now: Timestamp) -> Result<Record, IllegalTransition> {
        let mut next = self.clone();
        let name = change.name();
        let illegal =
            |because| IllegalTransition { owed: self.owed_in_words(), change: name, because };
        let step = self.owed.map(|owed| (owed.leg, owed.step));
        match (step, change) {
            // A rotation begins alone: with no other rotation or lease holder, and no earlier write that
            // could still overwrite a new version.
            (_, Transition::Begin(begin)) => {
                if self.rotation.is_some() {
                    return Err(illegal("a rotation is in progress"));
                }
                if self.is_leased(now) {
                    return Err(illegal("another invocation holds the lease"));
                }
                if self.lease.is_some() && matches!(step, Some((_, Step::Publish))) {
                    return Err(illegal("a publish was left unfinished, and comes first"));
                }
                if begin.minted.is_some() && self.is_unanswered(now) {
                    return Err(illegal("a write to a store that cannot fence is unanswered"));
                }
                next.begin(*begin, now);
            }

            (_, Transition::Lease { lease, late_write }) => {
                match &self.lease {
                    Some(held) if held.holder == lease.holder => {}
                    Some(_) if self.is_leased(now) => {
                        return Err(illegal("another invocation holds the lease"));
                    }
                    // The previous holder did not save the outcome of its last write: it may still land.
                    Some(held) if matches!(step, Some((_, Step::Publish))) => {
                        if let Some(late_write) = late_write {
                            next.unanswered_until =
                                self.unanswered_until.max(Some(held.until + late_write));
                            next.compare_at = self.compare_at.min(held.until + late_write);
                        }
                    }
                    _ => {}
                }
                next.lease_to(lease);
            }

            (Some((leg, _)), Transition::Respecify(spec)) if self.rotation.is_some() => {
                // A verifier that was added meanwhile must receive the pending version before any
                // presenter that was added meanwhile presents it.
                next.work_from(spec);
                if leg <= Leg::Migrate {
                    next.owe(self.first_leg(), Step::Publish, now);
                }
            }
            (_, Transition::Respecify(spec)) => {
                next.work_from(spec);
                // Drift detection writes a place that the spec did not have before, so it is due now.
                next.compare_at = self.compare_at.min(now);
            }

            // Completion of an owed step moves to the next step of its leg, and from there to the next
            // leg.
            (Some((leg, Step::Publish)), Transition::Published(seen)) => {
                next.done(now);
                next.publications.extend(seen);
                next.owe(leg, Step::Sync, now);
            }

            (_, Transition::Unanswered(until)) => {
                next.unanswered_until = self.unanswered_until.max(Some(until));
                next.compare_at = self.compare_at.min(until);
            }

            (Some((leg, Step::Sync)), Transition::Synced(waits)) => {
                next.done(now);
                next.waits = waits;
                match leg {
                    Leg::Contract => next.contract_or_rest(now),
                    leg => next.owe_keeping_waits(leg, Step::RollOut, now),
                }
            }

            (Some((leg, Step::RollOut)), Transition::RolledOut { overlap }) => {
                next.done(now);
                match leg {
                    Leg::Expand => {
                        if let Some(rotation) = &mut next.rotation
                            && rotation.purpose == Purpose::Rotate
                            && !rotation.presented
                        {
                            rotation.presented = true;
                            next.renew(Side::Presenters, now);
                        }
                        match self.leaves_alone() {
                            Some(Side::Presenters) => next.end_rotation(overlap, now),
                            _ => next.owe(Leg::Migrate, Step::Publish, now),
                        }
                    }
                    Leg::Migrate => next.end_rotation(overlap, now),
                    Leg::Overlap | Leg::Contract => next.contract_or_rest(now),
                }
            }

            (Some(_), Transition::LeaveOut(clusters)) => next.without.extend(clusters),

            (Some((leg, Step::Sync | Step::RollOut)), Transition::Repeat) => {
                next.repeats = self.repeats.saturating_add(1);
                next.renew(leg.side(), now);
                next.owe(leg, Step::Publish, now);
            }

            (_, Transition::Surpass(found)) => {
                if found.life > self.life {
                    return Err(illegal("a newer record wrote what was found"));
                }
                if found.revision > Fence::LARGEST_REVISION {
                    return Err(illegal("what was found is no revision"));
                }
                // A fence of an older life is ahead only of a view that changed before this record had its
                // life. The next fence has that life, and is above it at any revision.
                if found.life == self.life {
                    next.revision = self.revision.max(found.revision);
                }
                if let Some((leg, Step::Publish | Step::Sync | Step::RollOut)) = step {
                    // Two copies of one record surpass each other without end, so repeats are bounded.
                    next.repeats = self.repeats.saturating_add(1);
                    next.renew(leg.side(), now);
                    next.owe(leg, Step::Publish, now);
                }
            }

            // Versions leave the set only under the lease, with no write in doubt that could bring them
            // back.
            (Some((Leg::Contract, Step::Retire)), Transition::Retire) => {
                if !self.is_held_by_lease(now) {
                    return Err(illegal("the lease is not held"));
                }
                if self.is_unanswered(now) {
                    return Err(illegal("a write to a store that cannot fence is unanswered"));
                }
                if self.expired(now).next().is_none() {
                    return Err(illegal("no version is past its end"));
                }
                next.retire(now);
                next.owe(Leg::Contract, Step::Publish, now);
            }

            (_, Transition::Drop) => {
                let droppable = self.rotation.as_ref().is_some_and(|rotation| {
                    rotation.purpose == Purpose::Rotate && !rotation.presented
                });
                if !droppable {
                    return Err(illegal("no pending version is still unpresented"));
                }
                if !self.is_held_by_lease(now) {
                    return Err(illegal("the lease is not held"));
                }
                if self.is_unanswered(now) {
                    return Err(illegal("a write to a store that cannot fence is unanswered"));
                }
                next.versions.retain(|version| version.stage != Stage::Pending);
                next.renew(Side::Verifiers, now);
                next.rotation = None;
                next.held = None;
                next.owe(Leg::Overlap, Step::Publish, now);
            }

            // An invocation that waits or stops releases the lease, so that another one can resume at
            // `due_at`.
            (Some(_), Transition::Await { due_at, watcher }) => {
                next.lease = None;
                next.due_at = Some(due_at);
                next.watcher = watcher;
            }
            (None, Transition::Await { .. }) => {
                next.lease = None;
                next.watcher = None;
                next.due_at = Some(self.due_at_rest(now));
            }

            (Some(_), Transition::Hold(held)) => {
                let attempts = self.held.as_ref().map_or(0, |held| held.attempts);
                next.lease = None;
                next.watcher = None;
                next.due_at = Some(now + back_off(attempts));
                next.held = Some(Held { attempts: attempts.saturating_add(1), ..held });
                next.repeats = 0;
            }

            // With nothing owed, no step needs the lease any more, so it is released too.
            (None, Transition::Compared { drift, places, again_after }) => {
                next.compared(drift, &places, again_after, now);
                next.lease = None;
                next.watcher = None;
                next.due_at = Some(next.due_at_rest(now));
            }
            (Some(_), Transition::Compared { drift, places, again_after }) => {
                next.compared(drift, &places, again_after, now);
            }

            (_, Transition::Queue(queued)) => next.queued = queued,
            (_, Transition::Edited(value)) => next.edited = Some(value),
            (_, Transition::Imported(imported)) => next.imported = Some(imported),

            // Every other change does not match what is owed, and is illegal.
            (
                _,
                Transition::Published(_) | Transition::Synced(_) | Transition::RolledOut { .. },
            ) => {
                return Err(illegal("that step is not owed"));
            }
            (_, Transition::Repeat | Transition::Retire) => {
                return Err(illegal("not on this step"));
            }
            (None, Transition::Hold(_) | Transition::LeaveOut(_)) => {
                return Err(illegal("nothing is owed"));
            }
        }
        Ok(next)
    }

    /// Notes the result of drift detection and sets the time of the next one: after `again_after`, or as
    /// soon as a write whose reply was lost may have landed.
    fn compared(
        &mut self,
        drift: Vec<String>,
        places: &BTreeSet<String>,
        again_after: Duration,
        now: Timestamp,
    ) {
        self.drift = drift;
        self.publications.retain(|place, _| places.contains(place));
        let landed = self.unanswered_until.filter(|until| *until > now);
        let again = now + again_after;
        self.compare_at = landed.map_or(again, |until| until.min(again));
    }

    fn expired(&self, now: Timestamp) -> impl Iterator<Item = &Version> {
        self.versions.iter().filter(move |version| version.has_ended(now))
    }

    fn is_held_by_lease(&self, now: Timestamp) -> bool {
        self.lease.as_ref().is_some_and(|lease| lease.until > now)
    }

    fn begin(&mut self, begin: Begin, now: Timestamp) {
        self.life = self.life.or(begin.life);
        let before = self.versions.len();
        if begin.minted.is_some() {
            // The expand leg of a newer rotation also does the contract leg of an older one.
            self.versions.retain(|version| !version.has_ended(now));
        }
        let mut changed = self.versions.len() != before;
        let values = begin.adopted.into_iter().map(|adopted| (adopted, Stage::Current));
        let minted = begin.minted.map(|minted| (minted, Stage::Pending));
        for (value, stage) in values.chain(minted) {
            self.add_version(value, stage, &begin.id, now);
            changed = true;
        }
        // A view that differs from the published one gets the fence of the next save, so that no stamp of
        // the earlier view proves it.
        if changed || begin.repaired.contains(&Side::Verifiers) {
            self.renew(Side::Verifiers, now);
        }
        if self.presented_revision == 0
            || begin.is_presented
            || begin.repaired.contains(&Side::Presenters)
        {
            self.renew(Side::Presenters, now);
        }
        // This rotation is no longer queued, and an edit that is now a version is used up.
        self.queued.take_if(|queued| queued.rotation == begin.id);
        if begin.is_presented {
            self.edited = None;
        }
        self.queued = begin.queued.or(self.queued.take());
        self.imported = begin.imported.or(self.imported.take());
        self.compare_at = self.compare_at.min(now + begin.compare_within);
        // The slot is taken, the first leg is owed, and the same save takes the lease.
        self.rotation = Some(Rotation {
            id: begin.id,
            purpose: begin.purpose,
            version: self.versions.first().map_or(self.last_version, |newest| newest.version),
            began_at: now,
            presented: begin.is_presented,
            leaves_alone: begin.leaves_alone.filter(|_| begin.purpose == Purpose::Repair),
            timeline: Vec::new(),
        });
        self.held = None;
        if begin.purpose != Purpose::Repair {
            self.drift.clear();
            self.without.clear();
        }
        self.work_from(begin.spec);
        self.owe(self.first_leg(), Step::Publish, now);
        self.lease_to(begin.lease);
    }

    /// Makes a value the newest version. The first value of a token is current at once.
    fn add_version(&mut self, value: Minted, stage: Stage, rotation: &RotationId, now: Timestamp) {
        let number = self.last_version.next();
        let first = self.in_stage(Stage::Current).is_none();
        for (place, store_version) in value.held_at {
            let write = self.publications.entry(place).or_insert_with(|| LastWrite {
                revision: 0,
                life: None,
                store_version,
                sha256: value.sha256,
                key: None,
                answered_at: now,
                held_at: BTreeMap::new(),
            });
            write.held_at.insert(number, store_version);
        }
        let version = Version {
            version: number,
            stage: if first { Stage::Current } else { stage },
            sha256: value.sha256,
            created_at: now,
            not_after: None,
            sealed: value.sealed,
            rotation: rotation.clone(),
        };
        self.versions.insert(0, version);
        self.last_version = number;
    }

    fn leaves_alone(&self) -> Option<Side> {
        self.rotation.as_ref().and_then(|rotation| rotation.leaves_alone)
    }

    /// The leg that a rotation begins with: verifiers come first, unless they are left alone.
    fn first_leg(&self) -> Leg {
        match self.leaves_alone() {
            Some(Side::Verifiers) => Leg::Migrate,
            _ => Leg::Expand,
        }
    }

    fn work_from(&mut self, spec: SpecId) {
        self.spec_version = spec.version;
        self.spec = Some(spec);
    }

    fn end_rotation(&mut self, overlap: Duration, now: Timestamp) {
        let purpose = self.rotation.take().map(|rotation| rotation.purpose);
        if purpose == Some(Purpose::Rotate) {
            for version in &mut self.versions {
                match version.stage {
                    Stage::Pending => version.stage = Stage::Current,
                    Stage::Current => {
                        version.stage = Stage::Previous;
                        version.not_after = Some(now + overlap);
                    }
                    Stage::Previous | Stage::Retired => {}
                }
            }
            self.renew(Side::Verifiers, now);
        }
        if purpose == Some(Purpose::Rotate) || self.next_end().is_some() {
            // An overlap may have been owed before a publish or a repair began, so it is owed again.
            self.owe(Leg::Overlap, Step::Publish, now);
        } else {
            self.rest();
        }
    }

    fn retire(&mut self, now: Timestamp) {
        self.versions.retain(|version| !version.has_ended(now));
        let live: Vec<_> = self.versions.iter().map(|version| version.version).collect();
        for seen in self.publications.values_mut() {
            seen.held_at.retain(|version, _| live.contains(version));
        }
        self.renew(Side::Verifiers, now);
    }

    /// After a leg of the overlap: contract is due at the next end of a version, or nothing is owed.
    fn contract_or_rest(&mut self, now: Timestamp) {
        match self.next_end() {
            Some(end) => {
                self.owe(Leg::Contract, Step::Retire, now);
                self.due_at = Some(end);
            }
            None => self.rest(),
        }
    }

    fn rest(&mut self) {
        self.owed = None;
        self.waits.clear();
        self.held = None;
    }

    fn owe(&mut self, leg: Leg, step: Step, now: Timestamp) {
        if self.owed.is_none_or(|owed| owed.leg != leg) {
            self.repeats = 0;
        }
        self.waits.clear();
        self.owe_keeping_waits(leg, step, now);
    }

    fn owe_keeping_waits(&mut self, leg: Leg, step: Step, now: Timestamp) {
        self.owed = Some(Owed { leg, step, since: now });
        self.watcher = None;
    }

    /// Writes the step that was owed into the timeline, and clears the hold.
    fn done(&mut self, now: Timestamp) {
        self.held = None;
        let Some(owed) = self.owed else { return };
        if let Some(rotation) = &mut self.rotation
            && rotation.timeline.len() < TIMELINE
        {
            let took_ms = now.as_millisecond().saturating_sub(owed.since.as_millisecond());
            rotation.timeline.push(Entry {
                leg: owed.leg,
                step: owed.step,
                at: now,
                took_ms: took_ms.try_into().unwrap_or(0),
            });
        }
    }

    fn lease_to(&mut self, lease: Lease) {
        self.due_at = Some(lease.until + LEASE_GRACE);
        self.lease = Some(lease);
        self.watcher = None;
    }

    /// Gives the view of a side the fence of the next save.
    fn renew(&mut self, side: Side, now: Timestamp) {
        let least = self.life.map_or(0, |life| life.least_revision(now));
        self.revision = self.revision.max(least);
        let (life, revision) = match side {
            Side::Verifiers => (&mut self.accepted_life, &mut self.accepted_revision),
            Side::Presenters => (&mut self.presented_life, &mut self.presented_revision),
        };
        *life = self.life;
        *revision = self.revision + 1;
    }

    fn owed_in_words(&self) -> String {
        self.owed
            .map_or("nothing".to_owned(), |it| format!("{}/{}", it.leg.as_str(), it.step.as_str()))
    }
}

impl Transition {
    fn name(&self) -> &'static str {
        match self {
            Transition::Begin(_) => "begin",
            Transition::Lease { .. } => "lease",
            Transition::Respecify(_) => "respecify",
            Transition::Published(_) => "published",
            Transition::Unanswered(_) => "unanswered",
            Transition::Synced(_) => "synced",
            Transition::RolledOut { .. } => "rolled out",
            Transition::LeaveOut(_) => "leave out",
            Transition::Repeat => "repeat",
            Transition::Surpass(_) => "surpass",
            Transition::Retire => "retire",
            Transition::Drop => "drop",
            Transition::Await { .. } => "await",
            Transition::Hold(_) => "hold",
            Transition::Compared { .. } => "compared",
            Transition::Queue(_) => "queue",
            Transition::Edited(_) => "edited",
            Transition::Imported(_) => "imported",
        }
    }
}
