//! What happens by itself: copies are made, pods start, time passes, writes land late.

use changeover::record::Leg;

use super::{
    Protocol,
    checker::{Action, Kind},
    omission::Omission,
    records::Edit,
    shell::{Nexts, action, rotates},
    state::State,
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
        // Somebody puts back what was presented before, while the end of it is not set.
        let is_undecided = rotates(&stored)
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

    /// Time passes only as far as somebody awaits it, in any order that is possible.
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
                let told = state.sides[0].place.ends & !state.ended;
                (told != 0).then(|| told.trailing_zeros() as u8)
            })
            .flatten();
        if let Some(version) = stored.ends_next.or(ends_early) {
            push("the oldest version ends", Edit::VersionEnds(version));
        }
    }
}
