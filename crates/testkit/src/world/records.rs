//! Records: conditional writes that really fail, and the invariants of every saved record.

use std::collections::{BTreeMap, BTreeSet};

use changeover_core::{
    error::{Error, Kind},
    ports::Saved,
    record::{Audit, Failing, KeyDigest, KeyEntry, Loaded, Purpose, Record, RotationId, Version},
    spec::Side,
};
use changeover_token::{Digest, Fence, Sealed, Secret, Stage, TokenName, VersionNumber};

use super::state::State;

use jiff::Timestamp;
use serde_json::{Value, json};

/// Records, keys, audit and index, and everything that was ever saved.
#[derive(Clone, Default)]
pub(super) struct Records {
    /// As JSON: what does not survive serialization is lost here too.
    pub(super) stored: BTreeMap<TokenName, Value>,
    pub(super) keys: BTreeMap<(TokenName, String), KeyEntry>,
    pub(super) audit: BTreeMap<(TokenName, VersionNumber), Audit>,
    /// Every record ever saved, in order, with `None` for each deletion.
    pub(super) saved: BTreeMap<TokenName, Vec<Option<Record>>>,
    /// The failed runs that are stored beside a record.
    pub(super) failing: BTreeMap<TokenName, Failing>,
    /// The last version of each record that was forgotten.
    forgotten: BTreeMap<TokenName, VersionNumber>,
    /// The index entries of a token: since when, its `due_at`, and true if it fails. The index lags behind.
    pub(super) index: BTreeMap<TokenName, Vec<(Timestamp, Option<Timestamp>, bool)>>,
    /// Every version ever saved, with its digest.
    pub(super) minted: BTreeMap<TokenName, BTreeMap<VersionNumber, Digest>>,
    /// The entries of each fence of the accepted view that was ever saved.
    pub(super) accepted: BTreeMap<(TokenName, Fence), Vec<Entry>>,
    /// Every rotation that ever began.
    begun: BTreeSet<RotationId>,
    /// Every arrival that ever became a version.
    imported: BTreeSet<(TokenName, String)>,
    /// The version and digest of each fence of the presented view that was ever saved.
    pub(super) presented: BTreeMap<(TokenName, Fence), (VersionNumber, Digest)>,
}

/// One entry of the accepted view.
pub(super) type Entry = (VersionNumber, Stage, Digest, Option<Timestamp>);

/// A [`changeover_core::ports::Save`] that owns its content, because it may be applied late.
pub(super) struct OwnedSave {
    pub(super) replaces: Option<Fence>,
    pub(super) record: Record,
    pub(super) key: Option<(KeyDigest, KeyEntry)>,
    pub(super) audit: Vec<Audit>,
}

impl Records {
    /// The record of a token, read back from what was written.
    pub(super) fn record(&self, token: &TokenName) -> Option<Record> {
        let stored = self.stored.get(token)?;
        Some(serde_json::from_value(stored.clone()).expect("a saved record reads back"))
    }

    /// Replaces the stored record of a token.
    pub(super) fn replace(&mut self, token: &TokenName, record: &Record) {
        let json = serde_json::to_value(record).expect("a record serializes");
        self.stored.insert(token.clone(), json);
    }

    /// The number of versions that were ever minted or adopted.
    pub(super) fn minted(&self, token: &TokenName) -> usize {
        self.minted.get(token).map_or(0, BTreeMap::len)
    }

    /// The records of a token that were saved under a revision, each with the one that it replaced.
    pub(super) fn saved_as(
        &self,
        token: &TokenName,
        revision: u64,
    ) -> impl Iterator<Item = (Option<&Record>, &Record)> {
        let saved = self.saved.get(token).map_or(&[][..], Vec::as_slice);
        let before = [None].into_iter().chain(saved.iter().map(Option::as_ref));
        before.zip(saved).filter_map(move |(before, after)| {
            let after = after.as_ref().filter(|after| after.revision() == revision)?;
            Some((before, after))
        })
    }

    /// Every record of a token that was ever saved, in order.
    pub(super) fn saved(&self, token: &TokenName) -> Vec<Record> {
        self.saved.get(token).into_iter().flatten().flatten().cloned().collect()
    }

    /// The digest of every version that was ever minted or adopted.
    pub(super) fn digests(&self, token: &TokenName) -> Vec<String> {
        let minted = self.minted.get(token);
        minted.into_iter().flat_map(BTreeMap::values).map(ToString::to_string).collect()
    }

    /// The version whose value has this digest.
    pub(super) fn version_of(&self, token: &TokenName, digest: &str) -> Option<VersionNumber> {
        let minted = self.minted.get(token)?;
        minted.iter().find(|(_, known)| known.to_string() == digest).map(|(version, _)| *version)
    }

    /// The newest version whose audit has this digest.
    pub(super) fn audited(&self, token: &TokenName, digest: &Digest) -> Option<VersionNumber> {
        let audits = self.audit.values().filter(|it| it.token == *token && it.sha256 == *digest);
        audits.map(|audit| audit.version).max()
    }

    /// The entries that a saved record decided for a fence of the accepted view.
    pub(super) fn accepted_at(&self, token: &TokenName, fence: Fence) -> Option<&Vec<Entry>> {
        self.accepted.get(&(token.clone(), fence))
    }

    /// The version that a saved record decided for a fence of the presented view.
    pub(super) fn presented_at(
        &self,
        token: &TokenName,
        fence: Fence,
    ) -> Option<(VersionNumber, Digest)> {
        self.presented.get(&(token.clone(), fence)).copied()
    }
}

impl State {
    pub(super) fn load(&self, token: &TokenName, key: Option<&KeyDigest>) -> Loaded {
        let records = &self.records;
        let entry = key.and_then(|key| {
            let entry = records.keys.get(&(token.clone(), key.as_str().to_owned()))?;
            (entry.expires_at > self.now).then(|| entry.clone())
        });
        Loaded {
            record: records.record(token),
            key: entry,
            failing: records.failing.get(token).cloned(),
            last_version: records.forgotten.get(token).copied().unwrap_or_default(),
        }
    }

    /// Saves in one transaction: all of it, or nothing.
    pub(super) fn save(&mut self, save: &OwnedSave) -> Saved {
        let token = save.record.token().clone();
        let before = self.records.record(&token);
        if before.as_ref().map(Record::fence) != save.replaces {
            return Saved::Overtaken;
        }
        if let Some((key, entry)) = &save.key {
            let item = (token.clone(), key.as_str().to_owned());
            if self.records.keys.get(&item).is_some_and(|old| old.expires_at > self.now) {
                return Saved::Overtaken;
            }
            self.records.keys.insert(item, entry.clone());
        }
        for audit in &save.audit {
            self.records.audit.insert((audit.token.clone(), audit.version), audit.clone());
        }
        let broken = self.broken_by(before.as_ref(), save);
        let json = serde_json::to_value(&save.record).expect("a record serializes");
        self.records.stored.insert(token.clone(), json);
        self.records.failing.remove(&token);
        self.records.saved.entry(token.clone()).or_default().push(Some(save.record.clone()));
        if self.records.record(&token).as_ref() != Some(&save.record) {
            self.violated("a record reads back as another than was saved");
        }
        self.index(&token, save.record.due_at());
        self.back_up_save();
        for broken in broken {
            self.violated(&broken);
        }
        Saved::Saved
    }

    pub(super) fn join(
        &mut self,
        token: &TokenName,
        fence: Fence,
        key: &KeyDigest,
        entry: &KeyEntry,
    ) -> Saved {
        let stored = self.records.record(token).map(|record| record.fence());
        let item = (token.clone(), key.as_str().to_owned());
        let is_known = self.records.keys.get(&item).is_some_and(|old| old.expires_at > self.now);
        if stored != Some(fence) || is_known {
            return Saved::Overtaken;
        }
        self.records.keys.insert(item, entry.clone());
        Saved::Saved
    }

    pub(super) fn heartbeat(&mut self, token: &TokenName, fence: Fence, to: Timestamp) -> Saved {
        match self.records.record(token) {
            Some(record) if record.fence() == fence => {
                let record = record.with_due_at(to);
                let json = serde_json::to_value(&record).expect("a record serializes");
                self.records.stored.insert(token.clone(), json);
                self.index(token, record.due_at());
                Saved::Saved
            }
            _ => Saved::Overtaken,
        }
    }

    pub(super) fn back_off(
        &mut self,
        token: &TokenName,
        error: &Error,
        now: Timestamp,
        latest: Option<Timestamp>,
    ) -> Option<Failing> {
        let record = self.records.record(token)?;
        record.due_at().filter(|due_at| *due_at <= now)?;
        let before = self.records.failing.get(token).cloned();
        let failing = Failing::after(before, error, now);
        self.records.replace(token, &record.with_due_at(failing.due_at(now, latest)));
        self.records.failing.insert(token.clone(), failing.clone());
        self.index(token, Some(failing.due_at(now, latest)));
        Some(failing)
    }

    /// Removes a record. The audit, the keys and the number of the last version remain. Another record of
    /// the token may adopt the value that is current.
    pub(super) fn forget(
        &mut self,
        token: &TokenName,
        fence: Fence,
        last_version: VersionNumber,
    ) -> Saved {
        match self.records.record(token) {
            Some(record) if record.fence() == fence => {}
            _ => return Saved::Overtaken,
        }
        if self.in_flight.get(token).is_some_and(|count| *count > 0) {
            self.violated("a record was forgotten while a write may still land");
        }
        let records = &mut self.records;
        records.stored.remove(token);
        records.failing.remove(token);
        records.forgotten.insert(token.clone(), last_version);
        records.saved.entry(token.clone()).or_default().push(None);
        self.index(token, None);
        Saved::Saved
    }

    /// The due tokens by the index, which is half a second behind.
    pub(super) fn due(&self, now: Timestamp, limit: usize) -> Vec<(TokenName, Timestamp)> {
        self.indexed(false, limit, |due_at| due_at <= now)
    }

    pub(super) fn failing(&self, limit: usize) -> Vec<(TokenName, Timestamp)> {
        self.indexed(true, limit, |_| true)
    }

    fn indexed(
        &self,
        fails: bool,
        limit: usize,
        is_wanted: impl Fn(Timestamp) -> bool,
    ) -> Vec<(TokenName, Timestamp)> {
        let seen = self.now - INDEX_LAG;
        let mut due: Vec<_> = self
            .records
            .index
            .iter()
            .filter_map(|(token, entries)| {
                let (_, due_at, failing) =
                    entries.iter().rev().find(|(since, ..)| *since <= seen)?;
                let due_at = due_at.filter(|due_at| *failing == fails && is_wanted(*due_at));
                due_at.map(|due_at| (token.clone(), due_at))
            })
            .collect();
        due.sort_by_key(|(_, due_at)| *due_at);
        due.truncate(limit);
        due
    }

    pub(super) fn index(&mut self, token: &TokenName, due_at: Option<Timestamp>) {
        let now = self.now;
        let fails = self.records.failing.contains_key(token);
        self.records.index.entry(token.clone()).or_default().push((now, due_at, fails));
    }

    /// The invariants that a save violates.
    #[expect(clippy::too_many_lines, reason = "one statement an invariant")]
    fn broken_by(&mut self, before: Option<&Record>, save: &OwnedSave) -> Vec<String> {
        let after = &save.record;
        let token = after.token();
        let now = self.now;
        let mut broken = Vec::new();
        let mut unless = |holds: bool, promise: String| {
            if !holds {
                broken.push(promise);
            }
        };
        if let Some(replaced) = save.replaces {
            let same_life = replaced.life.is_none() || after.life() == replaced.life;
            unless(same_life, "a record keeps its life".into());
            unless(after.fence() > replaced, "a save raises the revision".into());
        }

        // Versions: at most one is pending, numbers only grow, and each number has one value for ever.
        let numbers: Vec<_> = after.versions().iter().map(|version| version.version).collect();
        unless(
            numbers.windows(2).all(|pair| pair[0] > pair[1]),
            format!("live versions are not newest first: {numbers:?}"),
        );
        let pending = |record: &Record| -> Vec<VersionNumber> {
            let versions = record.versions().iter();
            versions.filter(|it| it.stage == Stage::Pending).map(|it| it.version).collect()
        };
        unless(pending(after).len() <= 1, format!("two pending versions: {numbers:?}"));
        let known = self.records.minted.entry(token.clone()).or_default();
        let last = known.keys().max().copied();
        for version in after.versions() {
            match known.get(&version.version) {
                Some(digest) => unless(
                    *digest == version.sha256,
                    format!("version {} has another value than before", version.version),
                ),
                None => {
                    unless(
                        Some(version.version) > last,
                        format!("number {} was used before", version.version),
                    );
                    let forgotten = self.records.forgotten.get(token).copied().unwrap_or_default();
                    let mut later = known.iter().filter(|(number, _)| **number > forgotten);
                    unless(
                        later.all(|(_, digest)| *digest != version.sha256),
                        format!("version {} has the value of an older one", version.version),
                    );
                    let opened = unsealed(token, version.version, &version.sealed);
                    unless(
                        opened.is_some_and(|value| value.digest() == version.sha256),
                        format!("version {} is saved without its value", version.version),
                    );
                    known.insert(version.version, version.sha256);
                }
            }
        }

        // Ends: a version leaves when it has ended, or while no presenter can present it.
        let lives = |number: VersionNumber| numbers.contains(&number);
        let versions_before = before.map_or(&[][..], Record::versions);
        let was_presented = before.and_then(Record::rotation).is_some_and(|it| it.presented);
        for gone in versions_before.iter().filter(|version| !lives(version.version)) {
            let was_pending = gone.stage == Stage::Pending && !was_presented;
            let has_ended = gone.not_after.is_some_and(|end| end <= now);
            unless(
                was_pending || has_ended,
                format!("live version {} was pushed out", gone.version),
            );
        }
        if was_presented && let Some(before) = before {
            unless(
                pending(before).iter().all(|version| lives(*version)),
                "a version was dropped that presenters may have".into(),
            );
        }

        // Changes of the set: under the lease, by a key, and with no write in flight.
        let set = |versions: &[Version]| -> BTreeSet<VersionNumber> {
            versions.iter().map(|version| version.version).collect()
        };
        if set(versions_before) != set(after.versions()) {
            let minted = set(after.versions()).len() > set(versions_before).len();
            let is_rotation =
                after.rotation().is_some_and(|rotation| rotation.purpose == Purpose::Rotate);
            let begun = after.rotation().map(|rotation| &rotation.id);
            let queued = before.and_then(Record::queued).map(|queued| &queued.rotation);
            let is_queued = begun.is_some() && begun == queued;
            let is_by_hand = after.rotation().is_some_and(|rotation| rotation.presented);
            let arrived =
                after.imported().filter(|it| before.and_then(Record::imported) != Some(it));
            unless(
                !minted
                    || !is_rotation
                    || save.key.is_some()
                    || is_queued
                    || is_by_hand
                    || arrived.is_some(),
                "a version was minted, and nobody asked for it".into(),
            );
            if let Some(begun) = begun.filter(|_| minted) {
                let is_new = self.records.begun.insert(begun.clone());
                unless(is_new, format!("the rotation {begun} minted twice"));
            }
            if let Some(arrived) = arrived.filter(|_| minted) {
                let arrival = (token.clone(), format!("{:?}", arrived.arrival));
                unless(arrived.refused.is_none(), "what was refused became a version".into());
                let is_new = self.records.imported.insert(arrival);
                unless(is_new, format!("{arrived:?} became a version twice"));
            }
            let held = before.and_then(Record::lease).filter(|lease| lease.until > now);
            let holds = after.lease().filter(|lease| lease.until > now);
            unless(
                held.is_none_or(|held| holds.is_none_or(|holds| holds.holder == held.holder)),
                "the set of live versions was changed under somebody else's lease".into(),
            );
            unless(
                after.lease().is_some() || !minted,
                "a version was minted without the lease".into(),
            );
            unless(
                self.in_flight.get(token).is_none_or(|count| *count == 0),
                "the set of live versions was changed while a write may still land".into(),
            );
        }

        // Views: their fences never fall, and the content of a fence never changes.
        for side in Side::BOTH {
            let fell = before.is_some_and(|before| before.view(side) > after.view(side));
            unless(!fell, format!("the fence of the view of {side} fell"));
        }
        let entries: Vec<Entry> = after
            .versions()
            .iter()
            .map(|it| (it.version, it.stage, it.sha256, it.not_after))
            .collect();
        let view = (token.clone(), after.view(Side::Verifiers));
        let decided = self.records.accepted.entry(view).or_insert_with(|| entries.clone());
        unless(
            *decided == entries,
            format!("the accepted view changed under its fence: {decided:?} to {entries:?}"),
        );
        if let Some(presented) = after.presented() {
            let presented = (presented.version, presented.sha256);
            let view = (token.clone(), after.view(Side::Presenters));
            let decided = *self.records.presented.entry(view).or_insert(presented);
            unless(
                decided == presented,
                format!("the presented view changed under its fence: {decided:?}"),
            );
        }
        broken
    }
}

/// Seals a value as KMS would: it cannot be opened without its context.
pub(super) fn sealed(token: &TokenName, version: VersionNumber, value: &Secret) -> Sealed {
    let context = json!({"token": token, "version": version, "value": value.expose()});
    Sealed(context.to_string().bytes().map(|byte| byte ^ PAD).collect())
}

/// The value, if it was sealed for this token and version.
fn unsealed(token: &TokenName, version: VersionNumber, sealed: &Sealed) -> Option<Secret> {
    let plain: Vec<u8> = sealed.0.iter().map(|byte| byte ^ PAD).collect();
    let context: Value = serde_json::from_slice(&plain).ok()?;
    let is_its_own = context["token"] == json!(token) && context["version"] == json!(version);
    let value = context["value"].as_str().filter(|_| is_its_own)?;
    Some(Secret::verbatim(value.to_owned()))
}

/// The value, or the error that a refusal of KMS becomes.
pub(super) fn open(
    token: &TokenName,
    version: VersionNumber,
    sealed: &Sealed,
) -> Result<Secret, Error> {
    unsealed(token, version, sealed).ok_or_else(|| {
        Error::new(
            Kind::BadRecord,
            "open the sealed value of",
            "it was sealed for another token or version",
            "restore the record",
        )
        .on(format!("{token}:{version}"))
    })
}

/// The time by which the index is behind the table.
const INDEX_LAG: std::time::Duration = std::time::Duration::from_millis(500);
const PAD: u8 = 0x5a;
