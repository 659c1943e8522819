//! The record in a session's hand: its changes and its saves. Everything pure happens together with the
//! effect before it.

use changeover_core::record::{Leg, Step};

use super::{
    Protocol,
    omission::Omission,
    records::Edit,
    state::{At, State, Turn},
};

impl Protocol {
    fn omits_sync(&self, leg: Leg) -> bool {
        match leg {
            Leg::Expand => self.omits(Omission::VerifiersSync),
            Leg::Migrate => self.omits(Omission::PresentersSync),
            Leg::Overlap | Leg::Contract => false,
        }
    }

    pub(super) fn note_lost_reply(&self, turn: &mut Turn, side: usize) {
        let forgets = self.omits(Omission::LateWrites) || self.omits(Omission::LateWriteOfOneself);
        if !self.fenced[side] && !forgets {
            self.apply(turn, Edit::Unanswered);
            turn.has_noted = true;
        }
    }

    /// Takes or renews the lease in the record in hand.
    pub(super) fn lease(&self, turn: &mut Turn) {
        let facts = self.facts(turn.hand.record);
        let forgets = self.omits(Omission::LateWrites) || self.omits(Omission::LateWriteOfOthers);
        let side = self.side(&facts);
        let unfenced = !self.fenced[side] && !forgets;
        let publishes = matches!(facts.owed, Some((_, Step::Publish)));
        turn.has_noted |= facts.was_left && unfenced && publishes;
        self.apply(turn, Edit::Lease { unfenced });
    }

    pub(super) fn apply(&self, turn: &mut Turn, edit: Edit) {
        match self.records.edit(turn.hand.record, edit) {
            Some(record) => turn.hand.record = record,
            None => turn.at = At::Refused,
        }
        turn.is_saved = false;
    }

    /// Passes the steps that need no call.
    pub(super) fn settle(&self, turn: &mut Turn) {
        if turn.at == At::Refused {
            return;
        }
        turn.at = At::Loop;
        loop {
            let facts = self.facts(turn.hand.record);
            match facts.owed {
                Some((leg, Step::Sync))
                    if self.fenced[self.side(&facts)] || self.omits_sync(leg) =>
                {
                    self.apply(turn, Edit::Synced { side: self.side(&facts), secret: None });
                }
                Some((_, Step::Retire)) if facts.can_retire => {
                    self.lease(turn);
                    self.apply(turn, Edit::Retire);
                }
                Some((leg, Step::Publish)) => {
                    let skips_save = leg == Leg::Migrate && self.omits(Omission::SaveBeforeMigrate);
                    if (turn.is_saved && facts.has_my_lease) || skips_save {
                        turn.at = At::Write;
                    }
                    return;
                }
                _ => return,
            }
        }
    }

    /// Applies a change in hand, and then passes the steps that need no call.
    pub(super) fn went_on(&self, state: &State, number: usize, edit: Edit) -> State {
        let mut next = state.clone();
        let turn = &mut next.turns[number];
        self.apply(turn, edit);
        self.settle(turn);
        next
    }

    /// Applies changes in hand and saves. A save that is based on an older record ends the session.
    pub(super) fn saved(&self, state: &State, number: usize, edits: &[Edit]) -> State {
        let mut next = state.clone();
        let turn = &mut next.turns[number];
        if !turn.is_current && !self.omits(Omission::ConditionalSave) {
            next.turns.remove(number);
            return next;
        }
        for edit in edits {
            self.apply(turn, *edit);
        }
        if turn.at == At::Refused {
            return next;
        }
        for side in 0..2 {
            let is_new = self.facts(turn.hand.record).has_new_view[side];
            turn.hand.revisions[side] += u8::from(is_new);
        }
        turn.hand.record = self.edit(turn.hand.record, Edit::Saved);
        let noted = std::mem::take(&mut turn.has_noted);
        turn.is_saved = true;
        next.stored = turn.hand;
        next.stored.record = self.edit(turn.hand.record, Edit::Loaded);
        self.settle(turn);
        next.air.iter_mut().for_each(|write| write.is_remembered |= noted);
        for (other, turn) in next.turns.iter_mut().enumerate() {
            turn.is_current = other == number;
        }
        next
    }

    /// Saves with this change, and ends the session.
    pub(super) fn ended(&self, state: &State, number: usize, edit: Edit) -> State {
        let turns = state.turns.len();
        let mut next = self.saved(state, number, &[edit]);
        if next.turns.len() == turns && next.turns[number].at != At::Refused {
            next.turns.remove(number);
        }
        next
    }

    /// True if the session can still have an effect. A session whose record is no longer the stored one
    /// ends with its next save.
    pub(super) fn matters(&self, turn: &Turn) -> bool {
        let saves = turn.is_current || self.omits(Omission::ConditionalSave);
        (saves && turn.at != At::Refused) || matches!(turn.at, At::Write | At::Stamp | At::Belated)
    }
}
