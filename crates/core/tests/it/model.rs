//! Every execution of a small world, by the real transition function and the real planner: anything can be
//! cut, lost, late, duplicated or slow, in any order.
//!
//! The world has a verifier and a presenter that are restarted, one of each that are not, the publications
//! and Secrets that they read, and sessions that do between two saves what the shell does. Two rotations
//! overlap. `make verify` explores more sessions at once, and `make check` fewer.
//!
//! Then each wait and each order that the design requires is left out, and the shortest execution that
//! breaks a promise is found. `--show-output` shows the table of them.

mod checker;
mod facts;
mod form;
mod hand;
mod omission;
mod promises;
mod records;
mod shell;
mod state;
mod table;
mod world;

use std::fmt;

use changeover_testkit::amount;
use checker::{Action, Explored, Model};
use facts::Facts;
use omission::Omission;
use promises::{ANSWERS, AUTHENTICATES, COMPLETES, ENDS, IS_LEGAL, MOVES, ONE_PENDING};
use records::{Edit, Id, Records};
use state::{Copy, Readers, State, View};

/// The protocol that is checked.
struct Protocol {
    records: Records,
    /// True for the accepted and for the presented view if it is on a store that fences.
    fenced: [bool; 2],
    omits: Option<Omission>,
    /// The highest version that is minted.
    versions: u8,
    /// The number of sessions and late writes that exist at once, at most.
    at_once: usize,
    /// The number of times that an operator puts back what was presented before.
    reverts: u8,
    /// The promises that are checked.
    judges: &'static [&'static str],
}

/// A broken promise, and the shortest way to it.
struct Broken {
    promise: &'static str,
    trace: Vec<String>,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.trace.iter().try_for_each(|line| writeln!(f, "  {line}"))?;
        write!(f, "  => {}", self.promise)
    }
}

impl Protocol {
    /// The whole design, with two rotations.
    fn of(fenced: [bool; 2]) -> Self {
        Protocol {
            records: Records::default(),
            fenced,
            omits: None,
            versions: 3,
            at_once: 2,
            reverts: 0,
            judges: &EVERY_PROMISE,
        }
    }

    /// Explores every execution. Returns the number of states, and the first broken promise.
    fn check(&self) -> (usize, Option<Broken>) {
        let explored = Explored::of(self);
        let never = |promise, states: &dyn Fn() -> Vec<usize>| {
            let first = self.judges.contains(&promise).then(|| states().first().copied());
            Some((first.flatten()?, promise))
        };
        let broken = explored
            .broken
            .or_else(|| never(COMPLETES, &|| explored.never_completed(self)))
            .or_else(|| never(ANSWERS, &|| explored.never_answered(self)));
        let broken =
            broken.map(|(at, promise)| Broken { promise, trace: explored.trace(self, at) });
        (explored.len(), broken)
    }

    fn omits(&self, omission: Omission) -> bool {
        self.omits == Some(omission)
    }

    fn facts(&self, id: Id) -> Facts {
        self.records.facts(id)
    }

    /// # Panics
    /// If the shell asks for a change that is not legal.
    fn edit(&self, id: Id, edit: Edit) -> Id {
        match self.records.edit(id, edit) {
            Some(id) => id,
            None => panic!("{edit:?} is not legal on {:?}", self.facts(id)),
        }
    }
}

impl Model for Protocol {
    type State = State;

    fn initial(&self) -> State {
        let stored = Copy { record: self.records.at_rest(), revisions: [0, 0] };
        let facts = self.facts(stored.record);
        let readers = |side: usize| {
            let view = facts.views[side];
            Readers {
                place: view,
                revision: 0,
                before: view,
                secret: if self.fenced[side] { View::default() } else { view },
                template: 0,
                stamp: 0,
                pod: view,
                cached: view,
            }
        };
        State {
            stored,
            turns: Vec::new(),
            air: Vec::new(),
            sides: [readers(0), readers(1)],
            ended: 0,
            is_refused: false,
            reverts: self.reverts,
        }
    }

    fn next(&self, state: &State) -> Vec<(Action, State)> {
        let mut nexts = Vec::new();
        self.invocations(state, &mut nexts);
        for number in 0..state.turns.len() {
            self.turn(state, number, &mut nexts);
        }
        self.by_itself(state, &mut nexts);
        nexts.into_iter().map(|(action, next)| (action, self.normalised(next))).collect()
    }

    fn broken(&self, state: &State) -> Option<&'static str> {
        let broken = self.promises_broken(state);
        broken.into_iter().find(|promise| self.judges.contains(promise))
    }

    fn is_completed(&self, state: &State) -> bool {
        self.is_clean(state)
    }
}

const FENCED: [bool; 2] = [true, true];
const UNFENCED: [bool; 2] = [false, false];
const EVERY_PROMISE: [&str; 7] =
    [AUTHENTICATES, ENDS, MOVES, ONE_PENDING, IS_LEGAL, COMPLETES, ANSWERS];

#[test]
fn invariants_hold_in_executions_on_parameters() {
    holds(UNFENCED);
}

#[test]
fn invariants_hold_in_executions_on_items() {
    holds(FENCED);
}

#[test]
#[expect(clippy::print_stdout, reason = "the table is what this test is for")]
fn whatever_is_left_out_breaks_a_promise() {
    let rows: Vec<_> = amount::calls(table::VARIANTS.iter()).map(table::Variant::check).collect();
    println!("{}", table::in_words(&rows));
    let wrong: Vec<_> = rows.iter().filter(|row| !row.is_as_expected()).collect();
    assert!(wrong.is_empty(), "{}", table::in_words(wrong));
}

#[expect(clippy::print_stdout, reason = "how much was looked at is part of the result")]
fn holds(fenced: [bool; 2]) {
    let at_once = match () {
        // On parameters, three at once were never tried, because of the memory that the states would need.
        () if amount::is_everything() && fenced == FENCED => 3,
        () if amount::is_little() => 1,
        () => 2,
    };
    let protocol = Protocol { at_once, ..Protocol::of(fenced) };
    let (states, broken) = protocol.check();
    println!("{states} states, {} records", protocol.records.len());
    assert!(broken.is_none(), "{}", broken.map(|it| it.to_string()).unwrap_or_default());
}
