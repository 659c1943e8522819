//! The effects of a session between two saves, in the order of `rotate.rs`, `start.rs` and `steps/`, one
//! effect at a time.

use changeover_core::{
    plan::Decision,
    record::{Leg, Step},
};

use super::{
    Protocol,
    checker::{Action, Kind},
    facts::Facts,
    omission::Omission,
    records::Edit,
    state::{Asks, At, State, Turn, View, Write, index},
};

/// The actions that are possible next, each with the state that it leads to.
pub(super) type Nexts = Vec<(Action, State)>;

impl Protocol {
    /// Adds each new invocation. It loads the record and plans, and its first effect is a later action.
    pub(super) fn invocations(&self, state: &State, nexts: &mut Nexts) {
        if state.turns.len() + state.air.len() >= self.at_once {
            return;
        }
        for asks in [Asks::Rotate, Asks::Resume, Asks::Drop] {
            let mut hand = state.stored;
            if self.omits(Omission::Lease) {
                hand.record = self.edit(hand.record, Edit::WithoutLease);
            }
            if asks == Asks::Drop && self.omits(Omission::DropOnlyBeforeMigrate) {
                let facts = self.facts(hand.record);
                if facts.owed == Some((Leg::Migrate, Step::Publish)) && facts.pending == 1 {
                    hand.record = self.edit(hand.record, Edit::Undecided);
                }
            }
            let facts = self.facts(hand.record);
            if asks == Asks::Rotate && self.omits(Omission::OneSlot) && facts.pending == 1 {
                hand.record = self.edit(hand.record, Edit::Unoccupied);
            }
            let facts = self.facts(hand.record);
            let at = match self.records.plan(hand.record, asks) {
                Decision::Start(_) if facts.newest < self.versions => At::Begin,
                Decision::Resume(_) => At::Loop,
                Decision::Drop => At::Drop,
                Decision::DetectDrift if !self.omits(Omission::Comparison) => At::Compare,
                _ => continue,
            };
            // No sweep resumes a token that is not due.
            if asks == Asks::Resume && !facts.is_due {
                continue;
            }
            let mut turn = Turn { at, hand, is_current: true, is_saved: true, has_noted: false };
            if at == At::Loop {
                if facts.was_left && facts.owed.is_some_and(|(_, step)| step == Step::Publish) {
                    self.lease(&mut turn);
                }
                self.settle(&mut turn);
            }
            let mut next = state.clone();
            next.turns.push(turn);
            let (what, kind) = match asks {
                Asks::Rotate => ("asks for a rotation", Kind::Disturbance),
                Asks::Resume => ("sweeps", Kind::Progress),
                Asks::Drop => ("asks for a drop", Kind::Disturbance),
            };
            nexts.push((action("somebody", what, kind), next));
        }
    }

    /// Adds the next actions of the session with this number, and the disturbances that it can meet.
    #[expect(clippy::too_many_lines, reason = "the table of effects of a session")]
    pub(super) fn turn(&self, state: &State, number: usize, nexts: &mut Nexts) {
        let turn = state.turns[number];
        let facts = self.facts(turn.hand.record);
        let repeat =
            if self.omits(Omission::RepeatIsNewView) { Edit::RepeatOldView } else { Edit::Repeat };
        let mut push = |what, kind, next| nexts.push((action(TURNS[number], what, kind), next));

        // A session can be killed before any effect. Its deadline matters only while it begins a step or
        // watches one.
        push("is killed", Kind::Disturbance, without(state, number));
        if matches!(turn.at, At::Loop | At::Sync | At::Rolled) {
            let next = self.ended(state, number, Edit::Release { is_due: true });
            push("is out of time", Kind::Progress, next);
        }

        // Each position has one effect, together with the save that follows it.
        match turn.at {
            At::Begin => {
                // Nothing is minted if the presented place holds a version that verifiers do not accept.
                let is_ours = state.sides[1].place.versions & facts.views[0].versions != 0;
                let next = if is_ours {
                    self.saved(state, number, &[Edit::Rotate])
                } else {
                    without(state, number)
                };
                push("mints and saves", Kind::Progress, next);
            }
            At::Drop => {
                // A drop changes the set of versions, so it waits while a write may still land.
                let mut turn = turn;
                self.lease(&mut turn);
                let mut leased = state.clone();
                leased.turns[number] = turn;
                let next = if self.facts(turn.hand.record).is_unanswered {
                    self.ended(&leased, number, Edit::Release { is_due: false })
                } else {
                    self.saved(&leased, number, &[Edit::Drop])
                };
                push("gives the pending version up", Kind::Progress, next);
            }
            At::Compare => {
                // A presented value that no verifier accepts is reported as drift. Any other difference is
                // repaired.
                let differs = |side: usize| state.sides[side].place != facts.views[side];
                let is_strange =
                    differs(1) && state.sides[1].place.versions & facts.views[0].versions == 0;
                let sides = [differs(0), differs(1) && !is_strange];
                let compared = Edit::Compared { drift: is_strange };
                let next = if sides.contains(&true) {
                    let leaves_presenters = is_strange;
                    let repair = Edit::Repair { sides, leaves_presenters };
                    self.saved(state, number, &[compared, repair])
                } else {
                    let mut next = state.clone();
                    self.apply(&mut next.turns[number], compared);
                    self.ended(&next, number, Edit::Release { is_due: facts.can_retire })
                };
                push("compares", Kind::Progress, next);
            }
            At::Loop => match facts.owed {
                None | Some((_, Step::Retire)) => {
                    let is_due = facts.is_to_be_compared || facts.can_retire;
                    let release = Edit::Release { is_due };
                    let next = self.ended(state, number, release);
                    push("lets the record rest", Kind::Progress, next);
                }
                Some((_, Step::Publish)) => {
                    // A view is sent only after a save under the lease.
                    let mut leased = state.clone();
                    self.lease(&mut leased.turns[number]);
                    let next = self.saved(&leased, number, &[]);
                    push("saves with the lease", Kind::Progress, next);
                }
                Some((_, Step::RollOut)) if self.omits(Omission::StepSavedWhenDone) => {
                    let next = self.saved(state, number, &[Edit::RolledOut, Edit::Watch]);
                    let next = at(next, number, state, At::Belated);
                    push("saves the roll as done", Kind::Progress, next);
                }
                Some((_, step)) => {
                    let next = self.saved(state, number, &[Edit::Watch]);
                    let then = if step == Step::Sync { At::Sync } else { At::Stamp };
                    let next = at(next, number, state, then);
                    push("saves that it watches", Kind::Progress, next);
                }
            },
            At::Write => self.write(state, number, nexts),
            At::Sync => {
                // The session waits until the Secret holds what was published. An overwritten publication
                // is repeated.
                let side = self.side(&facts);
                let readers = &state.sides[side];
                if Some(readers.secret) == facts.seen[side] {
                    let edit = Edit::Synced { side, secret: Some(readers.secret) };
                    let next = self.went_on(state, number, edit);
                    push("sees the Secret synced", Kind::Progress, next);
                } else if !self.stands(state, &facts, side) {
                    let next = self.went_on(state, number, repeat);
                    push("sees another publication", Kind::Progress, next);
                }
            }
            At::Stamp => {
                // A stamp never goes back, so a late one changes nothing.
                let side = self.side(&facts);
                let mut next = state.clone();
                let template = &mut next.sides[side].template;
                *template = (*template).max(self.stamp(&turn, &facts, side));
                next.turns[number].at = At::Rolled;
                push("stamps the workload", Kind::Progress, next);
            }
            At::Rolled => {
                // A roll is complete without old pods and without lagging caches, if what was published is
                // still there.
                let side = self.side(&facts);
                let leg = facts.owed.map(|(leg, _)| leg);
                let readers = &state.sides[side];
                let has_old_pods = readers.stamp < self.stamp(&turn, &facts, side);
                let waits_for_caches = leg != Some(Leg::Overlap)
                    && !self.omits(match side {
                        0 => Omission::VerifiersCaches,
                        _ => Omission::PresentersCaches,
                    });
                if has_old_pods {
                    let mut next = state.clone();
                    next.turns[number].at = At::Fail;
                    push("sees the rollout fail", Kind::Progress, next);
                }
                let waits_for_pods = !self.omits_roll(leg);
                if (has_old_pods && waits_for_pods) || (waits_for_caches && facts.readers_lag[side])
                {
                    return;
                }
                let secret_stands =
                    self.fenced[side] || facts.synced[side].is_none_or(|it| it == readers.secret);
                let stands = self.stands(state, &facts, side) && secret_stands;
                let next = if stands || self.omits(Omission::LastLook) {
                    self.went_on(state, number, Edit::RolledOut)
                } else {
                    self.went_on(state, number, repeat)
                };
                push("sees it rolled out", Kind::Progress, next);
            }
            At::Belated => {
                // Only `Omission::StepSavedWhenDone` leads here.
                let side = match facts.owed {
                    Some((Leg::Migrate, _)) => 0,
                    _ => 1,
                };
                let mut next = state.clone();
                let template = &mut next.sides[side].template;
                *template = (*template).max(turn.hand.revisions[side]);
                let is_rolled = state.sides[side].stamp >= *template
                    && !facts.readers_lag[side]
                    && state.sides[side].template == *template;
                if is_rolled {
                    next.turns[number].at = At::Loop;
                }
                push("rolls what it saved as rolled", Kind::Progress, next);
            }
            At::Refused => {}
            At::Fail => {
                let next = self.ended(state, number, Edit::Hold);
                push("saves that it is held", Kind::Held, next);
            }
        }
    }

    fn write(&self, state: &State, number: usize, nexts: &mut Nexts) {
        let turn = state.turns[number];
        let facts = self.facts(turn.hand.record);
        let side = self.side(&facts);
        let view = self.view(&facts, side);
        let new = u8::from(facts.has_new_view[side]);
        let write = Write {
            side: side as u8,
            view,
            revision: turn.hand.revisions[side] + new,
            is_remembered: false,
        };
        // The write may land although its reply is lost, so both results are kept: landed and not landed.
        let mut landed = state.clone();
        let is_accepted = self.land(&mut landed, write);
        let mut push = |what, kind, next| {
            nexts.push((Action { who: TURNS[number], what, view: Some(view), kind }, next));
        };
        // A place that fences refuses an older view, and the session ends.
        if !is_accepted {
            push(
                "writes in vain, the place has a newer view",
                Kind::Progress,
                without(state, number),
            );
            return;
        }
        let published =
            Edit::Published { side, view, readers_know: self.omits(Omission::WithinFromAnswer) };
        // A lost reply is noted in the record in hand, for as long as the write may land.
        let answered = |mut next: State, is_unanswered: bool| {
            if is_unanswered {
                self.note_lost_reply(&mut next.turns[number], side);
            }
            self.went_on(&next, number, published)
        };
        let failed = |mut next: State| {
            self.note_lost_reply(&mut next.turns[number], side);
            next.turns[number].at = At::Fail;
            next
        };
        push(WRITES[side], Kind::Progress, answered(landed.clone(), false));
        push("writes, and the reply is lost", Kind::Disturbance, failed(landed.clone()));
        // A write in flight counts against the same limit as a session.
        if state.turns.len() + state.air.len() < self.at_once {
            let mut flying = state.clone();
            flying.air.push(write);
            push("gets no answer, the write is in the air", Kind::Disturbance, failed(flying));
            landed.air.push(write);
            push(
                "writes twice, the first is in the air",
                Kind::Disturbance,
                answered(landed, true),
            );
        }
    }

    fn view(&self, facts: &Facts, side: usize) -> View {
        let leg = facts.owed.map(|(leg, _)| leg);
        let mut view = facts.views[side];
        if self.omits(Omission::LegsInOrder) && side == 1 && leg == Some(Leg::Expand) {
            view.versions = 1 << facts.newest;
        }
        if self.omits(Omission::EndAfterMigrate) && leg == Some(Leg::Expand) && facts.pending == 1 {
            view.ends |= 1 << facts.current;
        }
        view
    }

    /// The side whose view the owed leg carries.
    pub(super) fn side(&self, facts: &Facts) -> usize {
        match facts.owed {
            Some((Leg::Expand, _)) if self.omits(Omission::LegsInOrder) => 1,
            Some((Leg::Migrate, _)) if self.omits(Omission::LegsInOrder) => 0,
            Some((leg, _)) => index(leg.side()),
            None => 0,
        }
    }

    fn stamp(&self, turn: &Turn, facts: &Facts, side: usize) -> u8 {
        if self.omits(Omission::StampIsRevision) {
            return if side == 0 { facts.newest } else { facts.views[1].versions.ilog2() as u8 };
        }
        turn.hand.revisions[side]
    }

    fn stands(&self, state: &State, facts: &Facts, side: usize) -> bool {
        facts.stands[side] && facts.seen[side] == Some(state.sides[side].place)
    }

    fn omits_roll(&self, leg: Option<Leg>) -> bool {
        match leg {
            Some(Leg::Expand) => self.omits(Omission::VerifiersRoll),
            Some(Leg::Migrate) => self.omits(Omission::PresentersRoll),
            Some(Leg::Overlap) => self.omits(Omission::OverlapRoll),
            _ => false,
        }
    }
}

const TURNS: [&str; 3] = ["one turn", "another turn", "a third turn"];
const WRITES: [&str; 2] = ["writes the accepted view", "writes the presented view"];

fn without(state: &State, number: usize) -> State {
    let mut next = state.clone();
    next.turns.remove(number);
    next
}

/// Sets the position of a session after a save, unless the save ended it.
fn at(mut next: State, number: usize, before: &State, at: At) -> State {
    if next.turns.len() == before.turns.len() && next.turns[number].at != At::Refused {
        next.turns[number].at = at;
    }
    next
}

pub(super) fn action(who: &'static str, what: &'static str, kind: Kind) -> Action {
    Action { who, what, view: None, kind }
}
