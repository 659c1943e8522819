//! The real record, the real transition function and the real planner. Each question is asked only once,
//! because they are pure.
//!
//! A record is kept in the form of [`super::form`]. What that form leaves out is in [`super::state`].

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    rc::Rc,
    time::Duration,
};

use changeover_core::{
    plan::{self, Ask, Decision, Limits},
    record::{
        Begin, Held, LastWrite, Lease, Loaded, Minted, Purpose, Record, RotationId, SecretRevision,
        Transition, Wait,
    },
    spec::{COMPARE_EVERY, Side, SpecId},
};
use changeover_testkit::scene::subject;
use changeover_token::{Digest, Life, Sealed};

use super::{
    checker::Quick,
    facts::Facts,
    form::{HOUR, LATE_WRITE, LEASE, MINE, NOW, PLACES, WITHIN, WORKLOADS, normalise, pass},
    state::{Asks, View, index},
};

const OVERLAP: Duration = Duration::from_secs(900);
/// Terms under which the accepted set is never full.
const TERMS: Limits = Limits { depth: 8, is_imported: false };

/// The identifier of one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Id(u32);

/// An edit of a copy of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Edit {
    // Changes that the real transition function is asked for.
    Rotate,
    Repair {
        sides: [bool; 2],
        /// True if presenters read a value that is no version.
        leaves_presenters: bool,
    },
    Lease {
        unfenced: bool,
    },
    Published {
        side: usize,
        view: View,
        readers_know: bool,
    },
    Unanswered,
    Synced {
        side: usize,
        secret: Option<View>,
    },
    RolledOut,
    Repeat,
    Retire,
    Drop,
    Watch,
    Release {
        is_due: bool,
    },
    Hold,
    Compared {
        drift: bool,
    },
    /// Makes the copy what it is after a save.
    Saved,
    /// Makes the copy what another session loads.
    Loaded,
    // Events that happen by themselves.
    LeaseEnds,
    NothingIsInTheAir,
    VersionEnds(u8),
    ReadersRead {
        side: usize,
    },
    PlaceChanges {
        side: usize,
    },
    // The effects of a part that a shell leaves out.
    WithoutLease,
    Undecided,
    Unoccupied,
    RepeatOldView,
}

/// All records that were met, and all answers that were given.
#[derive(Default)]
pub(crate) struct Records {
    met: RefCell<Met>,
}

#[derive(Default)]
struct Met {
    records: Vec<(Rc<Record>, Facts)>,
    ids: HashMap<String, Id>,
    edited: HashMap<(Id, Edit), Option<Id>, Quick>,
    planned: HashMap<(Id, Asks), Decision, Quick>,
    /// The view whose bytes have each digest.
    views: HashMap<[u8; 32], View>,
}

impl Records {
    /// A record at rest, with one version.
    pub(crate) fn at_rest(&self) -> Id {
        let record = Record::new(subject(), Life::new(NOW, 0), NOW);
        let begin = Transition::Begin(Box::new(begin(Purpose::Publish, Some(minted(1)))));
        let begun = record.after(begin, NOW).expect("a first publication begins");
        let mut id = self.meet(&begun);
        let accepted = View { versions: 0b10, ends: 0 };
        for side in 0..2 {
            for edit in [
                Edit::Saved,
                Edit::Published { side, view: accepted, readers_know: true },
                Edit::Synced { side, secret: None },
                Edit::RolledOut,
            ] {
                id = self.edit(id, edit).expect("a first publication goes through");
            }
        }
        for edit in [Edit::Release { is_due: false }, Edit::Saved, Edit::Loaded] {
            id = self.edit(id, edit).expect("it rests");
        }
        id
    }

    /// The facts of a record.
    pub(crate) fn facts(&self, id: Id) -> Facts {
        self.met.borrow().records[id.0 as usize].1
    }

    /// The decision of the planner.
    pub(crate) fn plan(&self, id: Id, asks: Asks) -> Decision {
        if let Some(planned) = self.met.borrow().planned.get(&(id, asks)) {
            return planned.clone();
        }
        let ask = match asks {
            Asks::Rotate => Ask::Rotate { fresh: false },
            Asks::Resume => Ask::Resume,
            Asks::Drop => Ask::Drop,
        };
        let record = Some(self.record(id).as_ref().clone());
        let loaded = Loaded { record, ..Loaded::default() };
        let planned = plan::plan(ask, &loaded, TERMS, NOW);
        self.met.borrow_mut().planned.insert((id, asks), planned.clone());
        planned
    }

    /// The record after an edit, or `None` if the transition function refuses it.
    pub(crate) fn edit(&self, id: Id, edit: Edit) -> Option<Id> {
        if let Some(edited) = self.met.borrow().edited.get(&(id, edit)) {
            return *edited;
        }
        let edited = self.edited(&self.record(id), edit).map(|record| self.meet(&record));
        self.met.borrow_mut().edited.insert((id, edit), edited);
        edited
    }

    /// The number of different records that were met.
    pub(crate) fn len(&self) -> usize {
        self.met.borrow().records.len()
    }

    fn record(&self, id: Id) -> Rc<Record> {
        Rc::clone(&self.met.borrow().records[id.0 as usize].0)
    }

    #[expect(clippy::too_many_lines, reason = "the table of edits")]
    fn edited(&self, record: &Record, edit: Edit) -> Option<Record> {
        // Changes go through the real transition function, so that the model cannot differ from it.
        let change = match edit {
            Edit::Rotate => {
                let number = record.next_version().get() as u8;
                Transition::Begin(Box::new(begin(Purpose::Rotate, Some(minted(number)))))
            }
            Edit::Repair { sides, leaves_presenters } => {
                let sides = Side::BOTH.into_iter().filter(|side| sides[index(*side)]).collect();
                let leaves_alone = leaves_presenters.then_some(Side::Presenters);
                Transition::Begin(Box::new(Begin {
                    repaired: sides,
                    leaves_alone,
                    ..begin(Purpose::Repair, None)
                }))
            }
            Edit::Lease { unfenced } => {
                Transition::Lease { lease: lease(), late_write: unfenced.then_some(LATE_WRITE) }
            }
            Edit::Published { side, view, readers_know } => {
                let seen = LastWrite {
                    revision: 0,
                    life: None,
                    store_version: 1,
                    sha256: self.digest(view),
                    key: None,
                    answered_at: if readers_know { NOW - WITHIN } else { NOW },
                    held_at: BTreeMap::new(),
                };
                Transition::Published(BTreeMap::from([(PLACES[side].to_owned(), seen)]))
            }
            Edit::Unanswered => Transition::Unanswered(NOW + LATE_WRITE),
            Edit::Synced { side, secret } => {
                let wait = |view: View| {
                    let secret = Some(SecretRevision(format!("{}.{}", view.versions, view.ends)));
                    (WORKLOADS[side].to_owned(), Wait { secret, synced_at: NOW })
                };
                Transition::Synced(secret.map(wait).into_iter().collect())
            }
            Edit::RolledOut => Transition::RolledOut { overlap: OVERLAP },
            Edit::Repeat => Transition::Repeat,
            Edit::Retire => Transition::Retire,
            Edit::Drop => Transition::Drop,
            Edit::Watch => {
                Transition::Await { due_at: NOW + LEASE * 2, watcher: Some(MINE.to_owned()) }
            }
            Edit::Release { is_due } => {
                let due_at = if is_due { NOW } else { NOW + HOUR };
                Transition::Await { due_at, watcher: None }
            }
            Edit::Hold => Transition::Hold(Held::new("object", "reason", "fix")),
            Edit::Compared { drift } => {
                let drift = drift.then(|| "place".to_owned()).into_iter().collect();
                let places = PLACES.map(str::to_owned).into();
                Transition::Compared { drift, places, again_after: COMPARE_EVERY }
            }
            // The rest is no change: a save, time that passes, or what an omission spoils.
            Edit::Saved => return Some(record.to_save()),
            _ => {
                let mut json = serde_json::to_value(record).expect("a record is JSON");
                pass(&mut json, edit);
                return Some(serde_json::from_value(json).expect("it is still a record"));
            }
        };
        record.after(change, NOW).ok()
    }

    fn digest(&self, view: View) -> Digest {
        let digest = Digest::of([view.versions, view.ends]);
        self.met.borrow_mut().views.insert(*digest.as_bytes(), view);
        digest
    }

    fn meet(&self, record: &Record) -> Id {
        let mut json = serde_json::to_value(record).expect("a record is JSON");
        normalise(&mut json);
        let key = json.to_string();
        let met = &mut *self.met.borrow_mut();
        *met.ids.entry(key).or_insert_with(|| {
            let record: Record = serde_json::from_value(json).expect("it is still a record");
            let facts = Facts::of(&record, &met.views);
            met.records.push((Rc::new(record), facts));
            Id(met.records.len() as u32 - 1)
        })
    }
}

fn begin(purpose: Purpose, minted: Option<Minted>) -> Begin {
    let id = RotationId("r".to_owned());
    Begin { minted, ..Begin::new(id, purpose, SpecId::of(1, "{}"), lease()) }
}

fn minted(number: u8) -> Minted {
    Minted { sha256: Digest::of([number]), sealed: Sealed(vec![number]), held_at: BTreeMap::new() }
}

fn lease() -> Lease {
    Lease { holder: MINE.to_owned(), until: NOW + LEASE }
}
