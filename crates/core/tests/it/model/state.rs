//! The state at one moment: the record, and all readers of what it decided.

use std::fmt;

use changeover_core::spec::Side;

use super::records::Id;

/// Everything at one moment. Two moments that cannot be distinguished are equal: revisions are ranks, time
/// is the set of ends that have passed, and sessions have no names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct State {
    /// The record as it is stored.
    pub(crate) stored: Copy,
    /// Invocations, each with the record in its hand.
    pub(crate) turns: Vec<Turn>,
    /// Writes in flight, whose reply was lost and which may still land.
    pub(crate) air: Vec<Write>,
    /// The readers of the verifiers' view and of the presenters' view.
    pub(crate) sides: [Readers; 2],
    /// Versions whose end has passed.
    pub(crate) ended: Versions,
    /// True if a session asked for a change that is not legal.
    pub(crate) is_refused: bool,
    /// The number of times that an operator may still put back what was presented before.
    pub(crate) reverts: u8,
}

/// A copy of the record, and the rank of the revision at which each side's view last changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Copy {
    pub(crate) record: Id,
    pub(crate) revisions: [u8; 2],
}

/// The session of one invocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Turn {
    pub(crate) at: At,
    pub(crate) hand: Copy,
    /// True if no other session has saved since this one loaded or saved.
    pub(crate) is_current: bool,
    /// True if the record in hand is as it was saved.
    pub(crate) is_saved: bool,
    /// True if it noted a lost reply that is not saved yet.
    pub(crate) has_noted: bool,
}

/// The request that a session carries out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Asks {
    Rotate,
    Resume,
    Drop,
}

/// The next effect of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum At {
    /// Check the presented place, mint, save.
    Begin,
    /// Save that the pending version is dropped.
    Drop,
    /// Compare the publications with the record, save.
    Compare,
    /// Begin the step that the record in hand owes.
    Loop,
    /// Write the view.
    Write,
    /// Watch until copies hold what was published.
    Sync,
    /// Stamp the workload.
    Stamp,
    /// Watch until nothing runs on an older view.
    Rolled,
    /// Carry out what was already saved as done.
    Belated,
    /// Save that the step is held.
    Fail,
    /// Nothing: it asked for a change that is not legal.
    Refused,
}

/// The readers of one side's view, one behind the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Readers {
    /// The view in the publication.
    pub(crate) place: View,
    /// Its revision, if the store fences.
    pub(crate) revision: u8,
    /// The view that the publication held before.
    pub(crate) before: View,
    /// The view in the Secret that copies the publication.
    pub(crate) secret: View,
    /// The stamp of the pod template.
    pub(crate) template: u8,
    /// The stamp of the pod.
    pub(crate) stamp: u8,
    /// The view that the pod read when it started.
    pub(crate) pod: View,
    /// The view that a reader without restarts holds.
    pub(crate) cached: View,
}

/// A write in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Write {
    pub(crate) side: u8,
    pub(crate) view: View,
    pub(crate) revision: u8,
    /// True if a saved record remembers that it may land.
    pub(crate) is_remembered: bool,
}

/// A set of versions.
pub(crate) type Versions = u8;

/// One view: the accepted versions, and which of them have an end; or the presented version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct View {
    pub(crate) versions: Versions,
    pub(crate) ends: Versions,
}

impl View {
    /// The versions that a verifier with this view accepts by its clock.
    pub(crate) fn accepted(self, ended: Versions) -> Versions {
        self.versions & !(self.ends & ended)
    }
}

impl fmt::Display for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let versions = (0..8).rev().filter(|it| self.versions & 1 << it != 0);
        let ends = |it: &u8| if self.ends & 1 << it != 0 { " until its end" } else { "" };
        let words: Vec<_> = versions.map(|it| format!("{it}{}", ends(&it))).collect();
        f.write_str(&words.join(" and "))
    }
}

impl State {
    /// Reduces stamps to the view's own or an old one, and drops revisions of writes to a store without a
    /// fence.
    pub(crate) fn forget_old_stamps(&mut self, fenced: [bool; 2]) {
        for (side, is_fenced) in fenced.into_iter().enumerate() {
            let newest = self.stored.revisions[side];
            let readers = &mut self.sides[side];
            for stamp in [&mut readers.template, &mut readers.stamp] {
                if *stamp < newest {
                    *stamp = 0;
                }
            }
            if !is_fenced {
                let writes = self.air.iter_mut().filter(|write| usize::from(write.side) == side);
                writes.for_each(|write| write.revision = 0);
            }
        }
    }

    /// Replaces revisions by their ranks, and sorts sessions and writes, because only the order of
    /// revisions counts.
    pub(crate) fn normalised(mut self) -> Self {
        for side in 0..2 {
            let mut used = [false; 64];
            self.each_revision(side, &mut |revision| used[usize::from(*revision)] = true);
            let mut ranks = [0; 64];
            let mut rank = 0;
            for (revision, is_used) in used.into_iter().enumerate() {
                ranks[revision] = rank;
                rank += u8::from(is_used);
            }
            self.each_revision(side, &mut |revision| *revision = ranks[usize::from(*revision)]);
        }
        self.turns.sort_unstable();
        self.air.sort_unstable();
        self
    }

    fn each_revision(&mut self, side: usize, with: &mut impl FnMut(&mut u8)) {
        let readers = &mut self.sides[side];
        with(&mut readers.revision);
        with(&mut readers.template);
        with(&mut readers.stamp);
        with(&mut self.stored.revisions[side]);
        self.turns.iter_mut().for_each(|turn| with(&mut turn.hand.revisions[side]));
        let writes = self.air.iter_mut().filter(|write| usize::from(write.side) == side);
        writes.for_each(|write| with(&mut write.revision));
    }
}

/// The index of a side in an array of both.
pub(crate) fn index(side: Side) -> usize {
    match side {
        Side::Verifiers => 0,
        Side::Presenters => 1,
    }
}
