//! A breadth-first check of every reachable state, explicit and exact.

use std::{
    collections::HashMap,
    fmt,
    hash::{BuildHasherDefault, Hash, Hasher},
    rc::Rc,
};

use super::state::View;

/// A system of which every execution is checked.
pub(crate) trait Model {
    /// Everything that distinguishes two situations.
    type State: Eq + Hash;

    /// The state in which every execution begins.
    fn initial(&self) -> Self::State;

    /// All actions that are possible next, each with the state that it leads to.
    fn next(&self, state: &Self::State) -> Vec<(Action, Self::State)>;

    /// The promise that this state breaks.
    fn broken(&self, state: &Self::State) -> Option<&'static str>;

    /// True if everything that was begun is complete in this state.
    fn is_completed(&self, state: &Self::State) -> bool;
}

/// One action.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Action {
    /// The actor.
    pub(crate) who: &'static str,
    /// The act.
    pub(crate) what: &'static str,
    /// The view that it carries, if any.
    pub(crate) view: Option<View>,
    /// The kind of the action.
    pub(crate) kind: Kind,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.who, self.what)?;
        self.view.map_or(Ok(()), |view| write!(f, " ({view})"))
    }
}

/// The kinds of actions, by how far they can be relied on to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Happens by itself: sessions, sweeps, clusters, time.
    Progress,
    /// A pod starts, which may need help from outside.
    Start,
    /// A session saves that it is held.
    Held,
    /// A failure, or a new request.
    Disturbance,
}

/// All states that were reached, until the first one that breaks a promise.
pub(crate) struct Explored<M: Model> {
    states: Vec<Rc<M::State>>,
    /// The state from which each state was reached first, by the fewest actions.
    reached_from: Vec<u32>,
    /// The transitions from state to state, other than by a disturbance.
    edges: Vec<(u32, u32, Kind)>,
    /// The first state that breaks a promise, and the promise.
    pub(crate) broken: Option<(usize, &'static str)>,
}

impl<M: Model> Explored<M> {
    /// Explores all states, nearest first. The shortest way to a broken promise is found first, and ends
    /// the search.
    pub(crate) fn of(model: &M) -> Self {
        let first = Rc::new(model.initial());
        let mut found = Explored {
            states: vec![Rc::clone(&first)],
            reached_from: vec![0],
            edges: Vec::new(),
            broken: model.broken(&first).map(|promise| (0, promise)),
        };
        let mut ids: HashMap<_, _, Quick> = HashMap::from_iter([(first, 0)]);
        let mut at = 0;
        while at < found.states.len() && found.broken.is_none() {
            let state = Rc::clone(&found.states[at]);
            for (action, next) in model.next(&state) {
                let next = Rc::new(next);
                let id = *ids.entry(Rc::clone(&next)).or_insert_with(|| {
                    found.states.push(Rc::clone(&next));
                    found.reached_from.push(at as u32);
                    found.states.len() as u32 - 1
                });
                if action.kind != Kind::Disturbance {
                    found.edges.push((at as u32, id, action.kind));
                }
                if id as usize + 1 == found.states.len()
                    && let Some(promise) = model.broken(&next)
                {
                    found.broken = Some((id as usize, promise));
                    break;
                }
            }
            at += 1;
        }
        found
    }

    /// The number of states.
    pub(crate) fn len(&self) -> usize {
        self.states.len()
    }

    /// The actions that lead to a state, in words, by the shortest way.
    pub(crate) fn trace(&self, model: &M, to: usize) -> Vec<String> {
        let mut words = Vec::new();
        let mut at = to;
        while at != 0 {
            let from = self.reached_from[at] as usize;
            let mut steps = model.next(&self.states[from]).into_iter();
            let step = steps.find(|(_, next)| *next == *self.states[at]);
            words.push(step.expect("a state is reached by an action").0.to_string());
            at = from;
        }
        words.reverse();
        words
    }

    /// The states from which no undisturbed execution completes, nearest first.
    pub(crate) fn never_completed(&self, model: &M) -> Vec<usize> {
        let completed = self.states.iter().map(|state| model.is_completed(state)).collect();
        self.never(completed, |kind| kind != Kind::Disturbance)
    }

    /// The states from which no undisturbed execution completes or is held, if no pod ever starts again.
    pub(crate) fn never_answered(&self, model: &M) -> Vec<usize> {
        let mut ends: Vec<_> = self.states.iter().map(|state| model.is_completed(state)).collect();
        for (from, _, kind) in &self.edges {
            ends[*from as usize] |= *kind == Kind::Held;
        }
        self.never(ends, |kind| kind == Kind::Progress)
    }

    fn never(&self, mut ends: Vec<bool>, by: impl Fn(Kind) -> bool) -> Vec<usize> {
        // Searches backwards from the ends, along the transitions that lead to them.
        let mut leads_to = vec![Vec::new(); self.states.len()];
        for (from, to, _) in self.edges.iter().filter(|(_, _, kind)| by(*kind)) {
            leads_to[*to as usize].push(*from);
        }
        let mut ahead: Vec<_> = (0..self.states.len()).filter(|at| ends[*at]).collect();
        while let Some(at) = ahead.pop() {
            for from in &leads_to[at] {
                if !std::mem::replace(&mut ends[*from as usize], true) {
                    ahead.push(*from as usize);
                }
            }
        }
        (0..self.states.len()).filter(|at| !ends[*at]).collect()
    }
}

/// Hashes small keys that no outsider chooses, millions of times in a build that is not optimised.
pub(crate) type Quick = BuildHasherDefault<QuickHasher>;

#[derive(Default)]
pub(crate) struct QuickHasher(u64);

impl Hasher for QuickHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u8(&mut self, value: u8) {
        self.write_u64(u64::from(value));
    }

    fn write_u32(&mut self, value: u32) {
        self.write_u64(u64::from(value));
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0.rotate_left(5) ^ value).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }

    fn write_isize(&mut self, value: isize) {
        self.write_u64(value as u64);
    }

    fn finish(&self) -> u64 {
        self.0.rotate_left(26)
    }
}
