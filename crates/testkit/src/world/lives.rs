//! Operations that make a record older or younger than its world: a table that is deleted, restored or
//! copied, objects that are copied from elsewhere, and a world that an earlier version of changeover left
//! behind.

use std::collections::BTreeMap;

use changeover_core::{
    ports::Stamp,
    record::Record,
    spec::{Place, Side},
};
use changeover_token::{Fence, TokenName};

use super::{MemoryWorld, records::Records, state::State};
use serde_json::Value;

/// A copy of the table at one moment.
#[derive(Clone)]
pub struct Backup(Records);

impl MemoryWorld {
    /// Copies the table as it is now.
    pub fn back_up(&self) -> Backup {
        Backup(self.state().records.clone())
    }

    /// Backs the table up after each save, from now on.
    pub fn back_up_each_save(&self) {
        self.state().backups = Some(Vec::new());
    }

    /// Returns the backups so far, in order, and stops making them.
    pub fn backups(&self) -> Vec<Backup> {
        self.state().backups.take().unwrap_or_default().into_iter().map(Backup).collect()
    }

    /// Restores the table from a backup, as an operator does.
    pub fn restore(&self, Backup(records): Backup) {
        let mut state = self.state();
        state.records.restore(records);
        let due: Vec<_> = state.records.all().map(|it| (it.token().clone(), it.due_at())).collect();
        for (token, due_at) in due {
            state.index(&token, due_at);
        }
        state.happened("the table is restored from a backup");
    }

    /// The last backups that lack nothing that a record cannot regain. Since such a backup, the record was
    /// not created again, no version was minted, dropped or ended, and presenters received none. There are
    /// no such backups while a write is in flight or in doubt, because only the record remembers it.
    pub fn harmless_backups(&self, token: &TokenName) -> Vec<Backup> {
        let state = self.state();
        let Some(now) = state.records.record(token) else { return Vec::new() };
        if state.in_flight.values().any(|count| *count > 0) || now.unanswered_until().is_some() {
            return Vec::new();
        }
        let numbers = |record: &Record| -> Vec<_> {
            record.versions().iter().map(|version| version.version).collect()
        };
        let presented = |record: &Record| record.presented().map(|version| version.version);
        let known = |record: &Record| {
            let values = (record.imported().cloned(), record.edited().cloned());
            (record.life(), numbers(record), presented(record), values)
        };
        let is_harmless = |backup: &&Records| {
            backup.record(token).is_some_and(|before| known(&before) == known(&now))
        };
        let backups = state.backups.iter().flatten();
        backups.filter(is_harmless).cloned().map(Backup).collect()
    }

    /// Deletes the record of a token that owes nothing, as an operator does, if presenters agree on their
    /// token.
    pub fn delete_record_at_rest(&self, token: &TokenName) {
        let Some(current) = self.record(token).and_then(|it| Some(it.presented()?.version)) else {
            return;
        };
        let rest = self.rest(token);
        // Only the record knows a value that no place holds any more.
        let places = self.spec(token).presenters.publications;
        let mut places = places.iter().map(|it| format!("presenters {}", it.place));
        if !places.all(|place| rest.places.contains_key(&place)) {
            return;
        }
        let presented = rest.places.iter().filter(|(view, _)| view.starts_with("presenters"));
        let held = presented.map(|(_, held)| held).chain(
            rest.pods
                .iter()
                .filter(|(view, _)| view.starts_with("presenters"))
                .flat_map(|(_, it)| it),
        );
        let agree = held.into_iter().all(|held| *held == current.to_string());
        if self.is_at_rest(token) && agree && rest.versions.len() == 1 {
            self.delete_record(token);
        }
    }

    /// Deletes the record of a token and its keys, as an operator does. Its audit remains.
    pub fn delete_record(&self, token: &TokenName) {
        let mut state = self.state();
        state.records.delete(token);
        state.index(token, None);
        state.happened(&format!("the record of {token} is deleted"));
    }

    /// Deletes the stack and creates it again, as an operator does: its table is empty.
    pub fn create_stack_again(&self) {
        self.restore(Backup(Records::default()));
    }

    /// Applies a manifest that carries this stamp, as an operator does.
    pub fn apply_stamp(&self, workload: &str, token: &TokenName, side: Side, fence: Fence) {
        let stamp = Stamp { side, token: token.clone(), fence };
        self.state().apply_stamp(workload, stamp);
    }

    /// The stamp of a workload.
    pub fn stamp(&self, workload: &str, token: &TokenName, side: Side) -> Option<Fence> {
        self.state().stamp_of(workload, token, side)
    }

    /// Marks an item as written by another record of the token.
    pub fn mark_item(&self, place: &Place, side: Side, fence: Fence) {
        self.state().mark_item(place, side, fence);
    }

    /// Keeps a second copy of the record ahead at this place, whatever revision this one reaches.
    pub fn rival(&self, place: Option<&Place>) {
        self.state().rivalled = place.cloned();
    }

    /// Marks a Secret as copied by an operator from another cluster.
    pub fn mark_secret(&self, name: &str, side: Side, fence: Fence) {
        self.state().mark_secret(name, side, fence);
    }

    /// Turns the record and everything that it wrote into what a version of changeover without lives would
    /// have left behind.
    pub fn downgrade(&self, token: &TokenName) {
        let mut state = self.state();
        state.records.downgrade(token);
        state.cluster.downgrade();
        state.places.values_mut().for_each(super::place::Stored::downgrade);
    }
}

impl Records {
    fn all(&self) -> impl Iterator<Item = Record> {
        self.stored.keys().filter_map(|token| self.record(token))
    }

    /// Restores a backup. Published state stays published, and the meaning of each fence is remembered.
    fn restore(&mut self, mut backup: Records) {
        backup.accepted = std::mem::take(&mut self.accepted);
        backup.presented = std::mem::take(&mut self.presented);
        backup.index = std::mem::take(&mut self.index);
        backup.saved = std::mem::take(&mut self.saved);
        *self = backup;
        // The next save follows the backup.
        for (token, saved) in &mut self.saved {
            let restored = self.stored.get(token).cloned();
            saved.push(restored.map(|json| serde_json::from_value(json).expect("a record")));
        }
    }

    fn delete(&mut self, token: &TokenName) {
        self.stored.remove(token);
        self.failing.remove(token);
        self.keys.retain(|(owner, _), _| owner != token);
        self.saved.entry(token.clone()).or_default().push(None);
        self.minted.remove(token);
    }

    fn downgrade(&mut self, token: &TokenName) {
        let json = self.stored.get_mut(token).expect("a record");
        without_lives(json);
        let bare = |fence: &Fence| Fence::bare(fence.revision);
        let accepted = self.accepted.iter();
        let accepted: BTreeMap<_, _> = accepted
            .map(|((owner, fence), view)| ((owner.clone(), bare(fence)), view.clone()))
            .collect();
        self.accepted.extend(accepted);
        let presented = self.presented.iter();
        let presented: BTreeMap<_, _> =
            presented.map(|((owner, fence), view)| ((owner.clone(), bare(fence)), *view)).collect();
        self.presented.extend(presented);
    }
}

/// Removes every life from a record.
fn without_lives(json: &mut Value) {
    match json {
        Value::Object(fields) => {
            fields
                .retain(|name, _| !matches!(&**name, "life" | "accepted_life" | "presented_life"));
            fields.values_mut().for_each(without_lives);
        }
        Value::Array(list) => list.iter_mut().for_each(without_lives),
        _ => {}
    }
}

impl State {
    /// Keeps a copy of the table after a save, if backups are enabled.
    pub(super) fn back_up_save(&mut self) {
        if let Some(backups) = &mut self.backups {
            backups.push(self.records.clone());
            // A simulation needs only the last ones.
            if backups.len() > MOST_BACKUPS {
                backups.remove(0);
            }
        }
    }
}

/// More saves than a rotation makes.
const MOST_BACKUPS: usize = 60;
