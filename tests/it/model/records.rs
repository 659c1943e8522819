//! The real record, the real transition function and the real planner, each asked once for each
//! question: they are pure.
//!
//! A record is kept in a form in which two that nothing can tell apart are equal: a time is what it
//! means now (it has passed, or it is awaited), a holder is whoever has this copy or somebody else,
//! and a revision is the same in each. What that leaves out of a record is in [`super::state`].

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    rc::Rc,
    time::Duration,
};

use changeover::{
    plan::{self, Ask, Move},
    record::{
        Begin, Change, Held, LEASE_GRACE, Lease, Leg, Minted, Purpose, Record, RotationId,
        SecretRevision, Seen, Stage, Step, Wait,
    },
    spec::Side,
    time::milliseconds,
    token::{Digest, Sealed, VersionNumber},
    world::Loaded,
};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    checker::Quick,
    state::{Asks, Versions, View, index},
};
use crate::scene::subject;

/// The moment at which every question is asked: what passes are the times in the record.
const NOW: Timestamp = Timestamp::constant(1_793_491_200, 0);
const LEASE: Duration = Duration::from_secs(30);
const LATE_WRITE: Duration = Duration::from_secs(300);
const OVERLAP: Duration = Duration::from_secs(900);
/// How long a reader that is not restarted holds its copy.
pub(super) const WITHIN: Duration = Duration::from_secs(5);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
/// The accepted set is never full here.
const DEPTH: usize = 8;
/// The revision that every record in hand has.
const REVISION: u64 = 10;
/// The revision at which a view changed that was saved since.
const SAVED: u64 = 1;

const MINE: &str = "mine";
const SOMEBODYS: &str = "somebody's";
/// Names of the publications and of the workloads.
const PLACES: [&str; 2] = ["accepted", "presented"];
const WORKLOADS: [&str; 2] = ["verifier", "presenter"];

/// Names one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Id(u32);

/// What befalls a copy of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Edit {
    // Changes, asked of the real transition function.
    Rotate,
    Repair {
        sides: [bool; 2],
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
    /// As it is after a save.
    Saved,
    /// As others find it.
    Loaded,
    // What passes by itself.
    LeaseEnds,
    NothingIsInTheAir,
    VersionEnds(u8),
    ReadersRead {
        side: usize,
    },
    PlaceChanges {
        side: usize,
    },
    // What a shell that leaves something out makes of it.
    WithoutLease,
    Undecided,
    Unoccupied,
    RepeatOldView,
}

/// What a record says, as far as a turn and its world ask.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts {
    pub(crate) owed: Option<(Leg, Step)>,
    pub(crate) purpose: Option<Purpose>,
    /// The accepted and the presented view.
    pub(crate) views: [View; 2],
    /// The versions that are pending.
    pub(crate) pending: u32,
    pub(crate) live: Versions,
    pub(crate) newest: u8,
    pub(crate) current: u8,
    pub(crate) has_my_lease: bool,
    pub(crate) is_leased: bool,
    pub(crate) is_due: bool,
    pub(crate) is_unanswered: bool,
    /// Whether somebody let a lease run out.
    pub(crate) was_left: bool,
    /// Whether a comparison is due, or will be when a late write has landed.
    pub(crate) will_be_compared: bool,
    pub(crate) is_to_be_compared: bool,
    pub(crate) has_drift: bool,
    /// The oldest version whose end is awaited.
    pub(crate) ends_next: Option<u8>,
    pub(crate) can_retire: bool,
    /// What each publication was last seen to hold.
    pub(crate) seen: [Option<View>; 2],
    /// Whether it was not written since.
    pub(crate) stands: [bool; 2],
    /// Whether readers may still hold what was there before that.
    pub(crate) readers_lag: [bool; 2],
    /// The Secret as of which each workload is synced.
    pub(crate) synced: [Option<View>; 2],
    /// Whether the side's view changed since it was saved.
    pub(crate) has_new_view: [bool; 2],
}

/// Every record that was met, and every answer that was given.
#[derive(Default)]
pub(crate) struct Records {
    met: RefCell<Met>,
}

#[derive(Default)]
struct Met {
    records: Vec<(Rc<Record>, Facts)>,
    ids: HashMap<String, Id>,
    edited: HashMap<(Id, Edit), Option<Id>, Quick>,
    planned: HashMap<(Id, Asks), Move, Quick>,
    /// Whose bytes each digest is of.
    views: HashMap<[u8; 32], View>,
}

impl Records {
    /// A record at rest, with one version.
    pub(crate) fn at_rest(&self) -> Id {
        let record = Record::new(subject(), REVISION, NOW);
        let begin = Begin {
            id: RotationId("r".to_owned()),
            purpose: Purpose::Publish,
            adopted: None,
            minted: Some(minted(1)),
            repaired: Vec::new(),
            spec_version: 1,
            lease: lease(),
        };
        let begun = record.after(Change::Begin(begin), NOW).expect("a first publication begins");
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

    /// What a record says.
    pub(crate) fn facts(&self, id: Id) -> Facts {
        self.met.borrow().records[id.0 as usize].1
    }

    /// What the planner decides.
    pub(crate) fn plan(&self, id: Id, asks: Asks) -> Move {
        if let Some(planned) = self.met.borrow().planned.get(&(id, asks)) {
            return planned.clone();
        }
        let ask = match asks {
            Asks::Rotate => Ask::Rotate,
            Asks::Resume => Ask::Resume,
            Asks::Drop => Ask::Drop,
        };
        let loaded = Loaded { record: Some(self.record(id).as_ref().clone()), key: None };
        let planned = plan::plan(ask, &loaded, DEPTH, NOW);
        self.met.borrow_mut().planned.insert((id, asks), planned.clone());
        planned
    }

    /// The record after something befell it; `None` where the transition function refuses.
    pub(crate) fn edit(&self, id: Id, edit: Edit) -> Option<Id> {
        if let Some(edited) = self.met.borrow().edited.get(&(id, edit)) {
            return *edited;
        }
        let edited = self.edited(&self.record(id), edit).map(|record| self.meet(&record));
        self.met.borrow_mut().edited.insert((id, edit), edited);
        edited
    }

    /// How many different records were met.
    pub(crate) fn len(&self) -> usize {
        self.met.borrow().records.len()
    }

    fn record(&self, id: Id) -> Rc<Record> {
        Rc::clone(&self.met.borrow().records[id.0 as usize].0)
    }

    fn edited(&self, record: &Record, edit: Edit) -> Option<Record> {
        let change = match edit {
            Edit::Rotate => {
                let number = record.next_version().get() as u8;
                begin(Purpose::Rotate, Some(minted(number)), Vec::new())
            }
            Edit::Repair { sides } => {
                let sides = Side::BOTH.into_iter().filter(|side| sides[index(*side)]).collect();
                begin(Purpose::Repair, None, sides)
            }
            Edit::Lease { unfenced } => {
                Change::Lease { lease: lease(), late_write: unfenced.then_some(LATE_WRITE) }
            }
            Edit::Published { side, view, readers_know } => {
                let seen = Seen {
                    revision: 0,
                    store_version: 1,
                    sha256: self.digest(view),
                    key: None,
                    answered_at: if readers_know { NOW - WITHIN } else { NOW },
                    held_at: BTreeMap::new(),
                };
                Change::Published(BTreeMap::from([(PLACES[side].to_owned(), seen)]))
            }
            Edit::Unanswered => Change::Unanswered(NOW + LATE_WRITE),
            Edit::Synced { side, secret } => {
                let wait = |view: View| {
                    let secret = Some(SecretRevision(format!("{}.{}", view.versions, view.ends)));
                    (WORKLOADS[side].to_owned(), Wait { secret, synced_at: NOW })
                };
                Change::Synced(secret.map(wait).into_iter().collect())
            }
            Edit::RolledOut => Change::RolledOut { overlap: OVERLAP },
            Edit::Repeat => Change::Repeat,
            Edit::Retire => Change::Retire,
            Edit::Drop => Change::Drop,
            Edit::Watch => {
                Change::Await { due_at: NOW + LEASE * 2, watcher: Some(MINE.to_owned()) }
            }
            Edit::Release { is_due } => {
                let due_at = if is_due { NOW } else { NOW + HOUR };
                Change::Await { due_at, watcher: None }
            }
            Edit::Hold => Change::Hold(Held::new("object", "reason", "fix")),
            Edit::Compared { drift } => {
                Change::Compared { drift: drift.then(|| "place".to_owned()).into_iter().collect() }
            }
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

impl Facts {
    fn of(record: &Record, views: &HashMap<[u8; 32], View>) -> Self {
        let number = |number: VersionNumber| number.get() as u8;
        let versions = record.versions();
        let bits = |which: &dyn Fn(&&changeover::record::Version) -> bool| -> Versions {
            let chosen = versions.iter().filter(which);
            chosen.map(|it| 1 << number(it.version)).sum()
        };
        let presented = record.presented().map_or(0, |it| 1 << number(it.version));
        let awaited = versions.iter().filter(|it| it.not_after.is_some() && !it.has_ended(NOW));
        let both = |what: &dyn Fn(usize) -> bool| [what(0), what(1)];
        let seen = |side: usize| record.seen(PLACES[side]);
        let synced = |side: usize| {
            let secret = record.wait(WORKLOADS[side])?.secret.as_ref()?;
            let (versions, ends) = secret.0.split_once('.')?;
            Some(View { versions: versions.parse().ok()?, ends: ends.parse().ok()? })
        };
        Facts {
            owed: record.owed().map(|owed| (owed.leg, owed.step)),
            purpose: record.rotation().map(|rotation| rotation.purpose),
            views: [
                View { versions: bits(&|_| true), ends: bits(&|it| it.not_after.is_some()) },
                View { versions: presented, ends: 0 },
            ],
            pending: bits(&|it| it.stage == Stage::Pending).count_ones(),
            live: bits(&|it| !it.has_ended(NOW)),
            newest: number(record.next_version()) - 1,
            current: record.in_stage(Stage::Current).map_or(0, |it| number(it.version)),
            has_my_lease: record.is_leased(NOW)
                && record.lease().is_some_and(|lease| lease.holder == MINE),
            is_leased: record.is_leased(NOW),
            is_due: record.due_at().is_some_and(|due_at| due_at <= NOW),
            is_unanswered: record.is_unanswered(NOW),
            was_left: record.lease().is_some_and(|lease| lease.holder != MINE),
            will_be_compared: record.compare_at() < NOW + DAY,
            is_to_be_compared: record.compare_at() <= NOW,
            has_drift: !record.drift().is_empty(),
            ends_next: awaited.map(|it| number(it.version)).min(),
            can_retire: record.next_end().is_some_and(|end| end <= NOW)
                && !record.is_unanswered(NOW),
            seen: [0, 1].map(|side| views.get(seen(side)?.sha256.as_bytes()).copied()),
            stands: both(&|side| seen(side).is_some_and(|seen| seen.store_version == 1)),
            readers_lag: both(&|side| {
                seen(side).is_some_and(|seen| seen.answered_at + WITHIN > NOW)
            }),
            synced: [synced(0), synced(1)],
            has_new_view: both(&|side| record.view(Side::BOTH[side]) == record.revision() + 1),
        }
    }
}

fn begin(purpose: Purpose, minted: Option<Minted>, repaired: Vec<Side>) -> Change {
    Change::Begin(Begin {
        id: RotationId("r".to_owned()),
        purpose,
        adopted: None,
        minted,
        repaired,
        spec_version: 1,
        lease: lease(),
    })
}

fn minted(number: u8) -> Minted {
    Minted { sha256: Digest::of([number]), sealed: Sealed(vec![number]), held_at: BTreeMap::new() }
}

fn lease() -> Lease {
    Lease { holder: MINE.to_owned(), until: NOW + LEASE }
}

/// What passes by itself, written into the record: no change of anybody's.
fn pass(json: &mut Value, edit: Edit) {
    let past = json!(milliseconds(NOW - HOUR));
    let is_leased = !json["lease"].is_null();
    match edit {
        Edit::Loaded => {
            if !json["lease"].is_null() {
                json["lease"]["holder"] = json!(SOMEBODYS);
            }
        }
        Edit::LeaseEnds => {
            if !json["lease"].is_null() {
                json["lease"]["until"] = past.clone();
                json["due_at"] = past;
            }
        }
        Edit::NothingIsInTheAir => {
            let compares = time(&json["compare_at"]) <= time(&json["unanswered_until"]);
            json["unanswered_until"] = Value::Null;
            if compares {
                json["compare_at"] = past.clone();
            }
            if !is_leased && !json["due_at"].is_null() {
                json["due_at"] = past;
            }
        }
        Edit::VersionEnds(number) => {
            let versions = json["versions"].as_array_mut().expect("versions");
            for version in versions.iter_mut().filter(|it| it["version"] == number) {
                if !version["not_after"].is_null() {
                    version["not_after"] = past.clone();
                }
            }
            if !is_leased && json["owed"]["step"] == "retire" {
                json["due_at"] = past;
            }
        }
        Edit::ReadersRead { side } => {
            if let Some(seen) = json["publications"].get_mut(PLACES[side]) {
                seen["answered_at"] = past;
            }
        }
        Edit::PlaceChanges { side } => {
            if let Some(seen) = json["publications"].get_mut(PLACES[side]) {
                seen["store_version"] = json!(0);
            }
        }
        Edit::WithoutLease => json["lease"] = Value::Null,
        Edit::Undecided => json["rotation"]["presented"] = json!(false),
        Edit::Unoccupied => json["rotation"] = Value::Null,
        Edit::RepeatOldView => json["owed"]["step"] = json!("publish"),
        _ => unreachable!("a change is asked of the transition function"),
    }
}

/// Writes a record in the one form of all that mean the same.
fn normalise(json: &mut Value) {
    let revision = json["revision"].as_u64().expect("a revision");
    for view in ["accepted_revision", "presented_revision"] {
        let is_new = json[view] == revision + 1;
        json[view] = json!(if is_new { REVISION + 1 } else { SAVED });
    }
    json["revision"] = json!(REVISION);
    let past = NOW - HOUR;
    for version in json["versions"].as_array_mut().expect("versions") {
        let number = version["version"].as_u64().expect("a number");
        set(&mut version["created_at"], NOW);
        version["rotation"] = json!("r");
        if !version["not_after"].is_null() {
            // The older a version, the sooner its end.
            let has_ended = time(&version["not_after"]) <= NOW;
            let base = if has_ended { past } else { NOW + HOUR };
            set(&mut version["not_after"], base + Duration::from_secs(number));
        }
    }
    if !json["rotation"].is_null() {
        set(&mut json["rotation"]["began_at"], NOW);
        json["rotation"]["timeline"] = json!([]);
    }
    if !json["owed"].is_null() {
        set(&mut json["owed"]["since"], NOW);
    }
    for wait in json["waits"].as_object_mut().expect("waits").values_mut() {
        set(&mut wait["synced_at"], NOW);
    }
    for seen in json["publications"].as_object_mut().expect("publications").values_mut() {
        let lags = time(&seen["answered_at"]) + WITHIN > NOW;
        set(&mut seen["answered_at"], if lags { NOW } else { past });
    }
    if !json["lease"].is_null() {
        let is_live = time(&json["lease"]["until"]) + LEASE_GRACE > NOW;
        // Over, but not for so long that a write under it could not land any more.
        set(&mut json["lease"]["until"], if is_live { NOW + LEASE } else { NOW - 2 * LEASE });
    }
    if !json["unanswered_until"].is_null() {
        if time(&json["unanswered_until"]) > NOW {
            set(&mut json["unanswered_until"], NOW + LATE_WRITE);
        } else {
            json["unanswered_until"] = Value::Null;
        }
    }
    let compare_at = match time(&json["compare_at"]) {
        at if at <= NOW => past,
        at if at <= NOW + LATE_WRITE => NOW + LATE_WRITE,
        _ => NOW + DAY,
    };
    set(&mut json["compare_at"], compare_at);
    if !json["due_at"].is_null() {
        let is_due = time(&json["due_at"]) <= NOW;
        // The pause of a held one may be over at any time, and a watcher may give no sign of life.
        let waits_for_time = json["owed"].is_null() || json["owed"]["step"] == "retire";
        let is_leased = !json["lease"].is_null();
        let is_due = is_due || !(waits_for_time || is_leased);
        set(&mut json["due_at"], if is_due { past } else { NOW + HOUR });
    }
    json["watcher"] = Value::Null;
    // Said, and asked by nobody.
    json["held"] = Value::Null;
    // How often is for the report: a turn that is held here may as well be one that goes on.
    json["repeats"] = json!(0);
    // What the last publish wrote is asked for until its leg is through.
    if !matches!(json["owed"]["step"].as_str(), Some("sync" | "roll_out")) {
        json["publications"] = json!({});
    }
}

fn time(json: &Value) -> Timestamp {
    let text = json.as_str();
    text.map_or(Timestamp::MIN, |text| text.parse().expect("a time"))
}

fn set(json: &mut Value, at: Timestamp) {
    *json = json!(milliseconds(at));
}
