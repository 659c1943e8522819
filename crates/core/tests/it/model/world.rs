//! Events that happen by themselves: copies are made, pods start, time passes, writes land late.

use changeover_core::record::{Leg, Purpose};

use super::{
    Protocol,
    checker::{Action, Kind},
    omission::Omission,
    records::Edit,
    shell::{Nexts, action},
    state::{At, State, Turn, Write},
};

impl Protocol {
    pub(super) fn by_itself(&self, state: &State, nexts: &mut Nexts) {
        self.readers(state, nexts);
        self.time(state, nexts);
        for number in 0..state.air.len() {
            let mut next = state.clone();
            let write = next.air.remove(number);
            nexts.push((action("a write in the air", "is lost", Kind::Progress), next.clone()));
            self.land(&mut next, write);
            let (who, what) = ("a write in the air", "lands");
            nexts.push((Action { who, what, view: Some(write.view), kind: Kind::Progress }, next));
        }
    }

    fn readers(&self, state: &State, nexts: &mut Nexts) {
        let stored = self.facts(state.stored.record);
        for (side, of) in ["the verifiers", "the presenters"].into_iter().enumerate() {
            let readers = &state.sides[side];
            let mut push = |what, kind, next: State| {
                if next != *state {
                    nexts.push((Action { who: of, what, view: Some(readers.place), kind }, next));
                }
            };
            let mut next = state.clone();
            if !self.fenced[side] {
                next.sides[side].secret = readers.place;
                push("have their Secret synced", Kind::Progress, next);
            }
            let mut next = state.clone();
            next.sides[side].pod = if self.fenced[side] { readers.place } else { readers.secret };
            next.sides[side].stamp = readers.template;
            push("have a pod started", Kind::Start, next);

            let mut next = state.clone();
            next.sides[side].cached = readers.place;
            push("read again", Kind::Progress, next);
        }
        // An operator puts back what was presented before, while its end is not set.
        let is_undecided = stored.purpose == Some(Purpose::Rotate)
            && state.turns.iter().all(|turn| {
                let owed = self.facts(turn.hand.record).owed;
                owed.is_some_and(|(leg, _)| leg <= Leg::Migrate)
            });
        if state.reverts > 0 && is_undecided && state.sides[1].before != state.sides[1].place {
            let mut next = state.clone();
            next.reverts -= 1;
            next.sides[1].place = state.sides[1].before;
            self.befall(&mut next, Edit::PlaceChanges { side: 1 });
            nexts.push((action("somebody", "puts the old token back", Kind::Disturbance), next));
        }
    }

    /// Lets time pass only as far as something waits for it, in any order that is possible.
    fn time(&self, state: &State, nexts: &mut Nexts) {
        let stored = self.facts(state.stored.record);
        let mut push = |what, edit| {
            let mut next = state.clone();
            self.befall(&mut next, edit);
            if let Edit::VersionEnds(version) = edit {
                next.ended |= 1 << version;
            }
            nexts.push((action("time:", what, Kind::Progress), next));
        };
        if stored.is_unanswered && !state.air.iter().any(|write| write.is_remembered) {
            push("no write can land any more", Edit::NothingIsInTheAir);
        }
        let ends_early = (self.omits(Omission::EndAfterMigrate))
            .then(|| {
                let reported = state.sides[0].place.ends & !state.ended;
                (reported != 0).then(|| reported.trailing_zeros() as u8)
            })
            .flatten();
        if let Some(version) = stored.ends_next.or(ends_early) {
            push("the oldest version ends", Edit::VersionEnds(version));
        }
    }

    /// Applies a write to its place. True if the place accepts it.
    pub(super) fn land(&self, state: &mut State, write: Write) -> bool {
        let side = usize::from(write.side);
        let fenced = self.fenced[side];
        let readers = &mut state.sides[side];
        if fenced && write.revision < readers.revision && !self.omits(Omission::Fence) {
            return false;
        }
        let changes = !fenced || write.revision != readers.revision;
        if self.reverts > 0 && readers.place != write.view {
            readers.before = readers.place;
        }
        readers.place = write.view;
        readers.revision = if fenced { write.revision } else { 0 };
        if changes {
            self.befall(state, Edit::PlaceChanges { side });
        }
        true
    }

    /// Applies an edit to every copy of the record, because all copies share time and the world outside.
    pub(super) fn befall(&self, state: &mut State, edit: Edit) {
        state.stored.record = self.edit(state.stored.record, edit);
        for turn in &mut state.turns {
            if edit == Edit::NothingIsInTheAir && turn.has_noted {
                continue;
            }
            turn.hand.record = self.edit(turn.hand.record, edit);
        }
    }

    /// Brings states that cannot be distinguished into one form.
    pub(super) fn normalised(&self, mut state: State) -> State {
        state.is_refused |= state.turns.iter().any(|turn| turn.at == At::Refused);
        state.turns.retain(|turn| self.matters(turn));
        let stored = self.facts(state.stored.record);
        // A lease without a call under it excludes other sessions for no longer than they may be slow
        // anyway.
        if stored.is_leased && !self.is_calling(&state) {
            self.befall(&mut state, Edit::LeaseEnds);
        }
        for side in 0..2 {
            let readers = &mut state.sides[side];
            // A reader that has read the current content holds nothing older.
            if readers.cached == readers.place && stored.readers_lag[side] {
                self.befall(&mut state, Edit::ReadersRead { side });
            }
        }
        let ranks = [Omission::ConditionalSave, Omission::StampIsRevision];
        if !ranks.iter().any(|it| self.omits(*it)) {
            state.forget_old_stamps(self.fenced);
        }
        state.normalised()
    }

    /// True if a call to a store that cannot fence is under way. Such a call starts with half of the lease
    /// left, and ends before the lease does.
    fn is_calling(&self, state: &State) -> bool {
        let calls = |turn: &Turn| {
            let side = self.side(&self.facts(turn.hand.record));
            turn.at == At::Write && turn.is_current && !self.fenced[side]
        };
        !self.omits(Omission::TimeOfACall) && state.turns.iter().any(calls)
    }
}
