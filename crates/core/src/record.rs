//! The record of a token, and the only transitions that may change it.
//!
//! The record names the step that is *owed*, never one that is done. A reader of the record carries out
//! the step that is owed, and doing so twice is harmless. The record is saved before a publish, so that
//! every value that a reader can see was decided by a saved record:
//!
//! ```text
//!          ┌ rotation in progress ──────────────────────────┐
//!  begin ─►│ expand: publish sync roll-out ─►               │
//!          │ migrate: publish sync roll-out ─► (N current) ─┼─► overlap: publish sync roll-out ─►
//!          └────────────────────────────────────────────────┘   contract: retire publish sync ─► ∎
//! ```
//!
//! Everything here is pure. A [`Transition`] requests a transition. [`Record::after`] is the one function that
//! returns the record after it, or [`IllegalTransition`].

mod audit;
mod transition;
mod failing;
mod imported;
mod queued;
mod rotation;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use changeover_token::{
    Digest, Fence, Life, Sealed, Stage, TokenName, VersionNumber,
    time::{in_milliseconds, optional_milliseconds},
};
use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use sha2::Digest as _;

use crate::spec::{COMPARE_EVERY, Side, SpecId};
pub use audit::Audit;
pub use failing::{Failing, back_off};
pub use imported::{Imported, InboxValueId};
pub use queued::Queued;
pub use rotation::{Entry, Leg, Owed, Purpose, Rotation, RotationId, Step};
pub use transition::{Begin, IllegalTransition, Minted, Transition};

/// Grace period after the end of a lease in which it is still honoured, for clocks that disagree.
pub const LEASE_GRACE: Duration = Duration::from_secs(5);
/// Most times that a leg is published again because what it published was changed meanwhile.
pub const REPEATS: u8 = 3;
/// The largest revision that is read: JSON's numbers are exact up to there (RFC 8259, section 6).
const LARGEST_COUNTER: u64 = 1 << 53;
/// The longest timeline of a rotation. Later entries are left out.
const TIMELINE: usize = 64;

/// The saved state of a token.
///
/// An unknown field was written by a later version of changeover. Such a record is not read, because
/// saving it would lose that field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    token: TokenName,
    /// `None` in a record that an earlier version of changeover created: its next rotation sets it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    life: Option<Life>,
    #[serde(deserialize_with = "counter")]
    revision: u64,
    /// Live versions, newest first.
    versions: Vec<Version>,
    /// The highest number ever used. The number of a dropped version is never used again.
    last_version: VersionNumber,
    accepted_revision: u64,
    /// The life that the record had when the view changed. A record that gets its life later keeps its
    /// views.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    accepted_life: Option<Life>,
    presented_revision: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    presented_life: Option<Life>,
    rotation: Option<Rotation>,
    owed: Option<Owed>,
    /// Number of times that this leg was published again since it was last held.
    repeats: u8,
    /// Progress of each workload on this leg.
    waits: BTreeMap<String, Wait>,
    /// Last known content of each publication.
    publications: BTreeMap<String, LastWrite>,
    lease: Option<Lease>,
    /// The invocation that watches a cluster without a lease. It is considered alive until `due_at`.
    watcher: Option<String>,
    #[serde(with = "optional_milliseconds", default, skip_serializing_if = "Option::is_none")]
    due_at: Option<Timestamp>,
    #[serde(with = "optional_milliseconds", default, skip_serializing_if = "Option::is_none")]
    unanswered_until: Option<Timestamp>,
    #[serde(with = "in_milliseconds")]
    compare_at: Timestamp,
    held: Option<Held>,
    /// Places that hold a value that was written by someone else.
    drift: Vec<String>,
    spec_version: i64,
    /// The spec that the record works from. `None` in a record that an earlier version of changeover
    /// saved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    spec: Option<SpecId>,
    /// Clusters that the last rotation leaves out on request, in every step that is owed after it too.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    without: BTreeSet<String>,
    /// A rotation that was requested, and begins once the one in progress is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    queued: Option<Queued>,
    /// A value that was written by someone else to a publication in the middle of a rotation, and had to
    /// be published over. It is the next version, and is sealed as such.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    edited: Option<Minted>,
    /// The last arrival that was taken from the inbox.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    imported: Option<Imported>,
}

/// One value, from its mint to its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Version {
    /// The version's number. It is greater than that of every version before it.
    pub version: VersionNumber,
    /// The stage of the version.
    pub stage: Stage,
    /// Digest of the value.
    pub sha256: Digest,
    /// Time at which the value was minted or adopted.
    #[serde(with = "in_milliseconds")]
    pub created_at: Timestamp,
    /// Time from which verifiers no longer accept the value; `None` before a newer version is current.
    #[serde(with = "optional_milliseconds", default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<Timestamp>,
    /// The sealed value, which only the function can open.
    pub sealed: Sealed,
    /// The rotation that created the version.
    pub rotation: RotationId,
}

/// The stored record of a token, and the rotation that a key resolved to.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// `None` if the token has no record yet.
    pub record: Option<Record>,
    /// `None` if the key was not seen in the last seven days.
    pub key: Option<KeyEntry>,
    /// The runs that failed since the record was last saved.
    pub failing: Option<Failing>,
    /// The highest version number of a record of this token that was forgotten; 0 if none was.
    pub last_version: VersionNumber,
}

/// The rotation and version that a trigger's key resolves to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyEntry {
    /// The rotation that the trigger began or joined.
    pub rotation: RotationId,
    /// The version that this rotation minted.
    pub version: VersionNumber,
    /// Time from which the entry may be deleted: seven days after it was created.
    pub expires_at: Timestamp,
}

/// SHA-256 of an idempotency key. Keys are chosen by the caller and may be long.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyDigest(String);

impl KeyDigest {
    /// The digest of a key.
    pub fn of(key: &str) -> Self {
        Self(hex::encode(sha2::Sha256::digest(key.as_bytes())))
    }

    /// The digest in lower-case hex.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Progress of a workload on this leg.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wait {
    /// The revision of the Secret with which the workload is synced; `None` for a workload without a
    /// Secret.
    pub secret: Option<SecretRevision>,
    /// Time at which it was synced.
    #[serde(with = "in_milliseconds")]
    pub synced_at: Timestamp,
}

/// The identity of a Secret and of the view that it holds, as one digest. A different Secret is a
/// different revision, and so is different data under the keys that are copies of the view. A refresh that
/// changes no data is the same revision, and so is a change of another token's key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretRevision(pub String);

/// The last known content of a publication, as its last acknowledged write left it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LastWrite {
    /// The revision of the view.
    pub revision: u64,
    /// The life that belongs to the revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub life: Option<Life>,
    /// SSM: the version of the parameter. DynamoDB: the revision of the view.
    pub store_version: u64,
    /// Digest of the published bytes.
    pub sha256: Digest,
    /// The KMS key that SSM encrypts it with.
    pub key: Option<String>,
    /// Time at which the store acknowledged the write.
    #[serde(with = "in_milliseconds")]
    pub answered_at: Timestamp,
    /// Presented view: the version of the parameter that holds each live version of the token.
    pub held_at: BTreeMap<VersionNumber, u64>,
}

/// The right to write to stores that cannot fence, for a limited time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lease {
    /// The invocation that holds the lease: random per invocation.
    pub holder: String,
    /// The end of the lease.
    #[serde(with = "in_milliseconds")]
    pub until: Timestamp,
}

/// The reason why the token makes no progress, and the fix.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Held {
    /// The object that blocks progress.
    pub object: String,
    /// The problem.
    pub reason: String,
    /// The action that fixes it.
    pub fix: String,
    /// Number of attempts so far.
    #[serde(default)]
    pub attempts: u32,
    /// True if another actor undoes each attempt, so that each further one does harm. After
    /// [`Held::TRIES`] attempts it is tried only on request.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_undone: bool,
}

impl LastWrite {
    /// The fence of the view.
    pub fn fence(&self) -> Fence {
        Fence { life: self.life, revision: self.revision }
    }
}

impl Held {
    /// Number of times that the sweep attempts a step that is undone each time.
    pub const TRIES: u32 = 3;

    /// A hold on an object, for a reason, until an operator applies the fix.
    pub fn new(
        object: impl Into<String>,
        reason: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        let (object, reason, fix) = (object.into(), reason.into(), fix.into());
        Self { object, reason, fix, attempts: 0, is_undone: false }
    }
}

impl Record {
    /// A new record, for a token without one. Its life is above that of every record before it, so that
    /// its writes supersede whatever they find.
    pub fn new(token: TokenName, life: Life, now: Timestamp) -> Self {
        Self {
            token,
            life: Some(life),
            revision: 0,
            versions: Vec::new(),
            last_version: VersionNumber::default(),
            accepted_revision: 0,
            accepted_life: None,
            presented_revision: 0,
            presented_life: None,
            rotation: None,
            owed: None,
            repeats: 0,
            waits: BTreeMap::new(),
            publications: BTreeMap::new(),
            lease: None,
            watcher: None,
            due_at: None,
            unanswered_until: None,
            compare_at: now + COMPARE_EVERY,
            held: None,
            drift: Vec::new(),
            spec_version: 0,
            spec: None,
            without: BTreeSet::new(),
            queued: None,
            edited: None,
            imported: None,
        }
    }

    /// This record with the revision under which it is saved.
    pub fn to_save(&self) -> Record {
        Record { revision: self.revision + 1, ..self.clone() }
    }

    /// This record with the watcher's heartbeat. It is not a change, and keeps the revision.
    pub fn with_due_at(&self, due_at: Timestamp) -> Record {
        Record { due_at: Some(due_at), ..self.clone() }
    }

    /// The token that the record belongs to.
    pub fn token(&self) -> &TokenName {
        &self.token
    }

    /// The fence that saves of this record are conditional on. Each save raises the revision.
    pub fn fence(&self) -> Fence {
        Fence { life: self.life, revision: self.revision }
    }

    /// The revision. Each save raises it.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The identity of this record among those that the token had or has.
    pub fn life(&self) -> Option<Life> {
        self.life
    }

    /// Live versions, newest first.
    pub fn versions(&self) -> &[Version] {
        &self.versions
    }

    /// True if a live version has this value.
    pub fn holds(&self, sha256: &Digest) -> bool {
        self.versions.iter().any(|version| version.sha256 == *sha256)
    }

    /// The newest version in this stage.
    pub fn in_stage(&self, stage: Stage) -> Option<&Version> {
        self.versions.iter().find(|version| version.stage == stage)
    }

    /// The version that presenters are given: the pending one from migrate on, and before that the current
    /// one.
    pub fn presented(&self) -> Option<&Version> {
        let pending = self.rotation.as_ref().filter(|rotation| rotation.presented);
        pending
            .and_then(|_| self.in_stage(Stage::Pending))
            .or_else(|| self.in_stage(Stage::Current))
    }

    /// The number that the next version gets.
    pub fn next_version(&self) -> VersionNumber {
        self.last_version.next()
    }

    /// The fence of a side's view: the life and the revision at which it last changed.
    pub fn view(&self, side: Side) -> Fence {
        let (life, revision) = match side {
            Side::Verifiers => (self.accepted_life, self.accepted_revision),
            Side::Presenters => (self.presented_life, self.presented_revision),
        };
        Fence { life, revision }
    }

    /// The highest number ever used.
    pub fn last_version(&self) -> VersionNumber {
        self.last_version
    }

    /// This record with its versions numbered above `last`, the highest number of a record of the same
    /// token that was forgotten. A number is never used twice, so that its audit item is never
    /// overwritten.
    #[must_use]
    pub fn numbered_after(self, last: VersionNumber) -> Self {
        Self { last_version: self.last_version.max(last), ..self }
    }

    /// The rotation in progress.
    pub fn rotation(&self) -> Option<&Rotation> {
        self.rotation.as_ref()
    }

    /// The rotation and version under which events about the token are reported. This is the rotation in
    /// progress, or else the one that created the current version, because the steps that are owed after
    /// it belong to it.
    pub fn subject(&self) -> Option<(&RotationId, VersionNumber)> {
        let current = || self.in_stage(Stage::Current).map(|it| (&it.rotation, it.version));
        self.rotation.as_ref().map(|it| (&it.id, it.version)).or_else(current)
    }

    /// The step that is owed.
    pub fn owed(&self) -> Option<Owed> {
        self.owed
    }

    /// True if this leg was published again as often as it may be.
    pub fn has_repeated_enough(&self) -> bool {
        self.repeats >= REPEATS
    }

    /// The progress of a workload on this leg.
    pub fn wait(&self, workload: &str) -> Option<&Wait> {
        self.waits.get(workload)
    }

    /// The last known content of a publication.
    pub fn seen(&self, place: &str) -> Option<&LastWrite> {
        self.publications.get(place)
    }

    /// Every publication that was written so far, with its last known content.
    pub fn published(&self) -> impl Iterator<Item = (&str, &LastWrite)> {
        self.publications.iter().map(|(place, seen)| (place.as_str(), seen))
    }

    /// The reason why the token makes no progress.
    pub fn held(&self) -> Option<&Held> {
        self.held.as_ref()
    }

    /// The lease: its holder, and its end.
    pub fn lease(&self) -> Option<&Lease> {
        self.lease.as_ref()
    }

    /// Time at which an invocation must process this record again.
    pub fn due_at(&self) -> Option<Timestamp> {
        self.due_at
    }

    /// Time of the next drift detection.
    pub fn compare_at(&self) -> Timestamp {
        self.compare_at
    }

    /// Time until which a write in doubt, to a store that cannot fence, may still land.
    pub fn unanswered_until(&self) -> Option<Timestamp> {
        self.unanswered_until
    }

    /// Places that held a value of another writer at the last drift detection.
    pub fn drift(&self) -> &[String] {
        &self.drift
    }

    /// The version of the spec that the record works from.
    pub fn spec_version(&self) -> i64 {
        self.spec_version
    }

    /// The spec that the record works from; `None` if an earlier version of changeover saved it.
    pub fn spec(&self) -> Option<&SpecId> {
        self.spec.as_ref()
    }

    /// True if this is the spec that the record works from.
    pub fn works_from(&self, id: &SpecId) -> bool {
        match &self.spec {
            Some(spec) => spec.means(id),
            None => self.spec_version == id.version,
        }
    }

    /// Clusters whose workloads are left out, until a rotation begins whose request does not leave them
    /// out.
    pub fn without(&self) -> &BTreeSet<String> {
        &self.without
    }

    /// The rotation that begins without another request, once the condition that it waits for has passed.
    /// That is the end of the rotation in progress, or of what keeps the set of live versions from being
    /// changed.
    pub fn queued(&self) -> Option<&Queued> {
        self.queued.as_ref()
    }

    /// The value that was written by someone else, sealed as the next version.
    pub fn edited(&self) -> Option<&Minted> {
        self.edited.as_ref()
    }

    /// The last arrival that was taken from the inbox.
    pub fn imported(&self) -> Option<&Imported> {
        self.imported.as_ref()
    }

    /// True if a rotation begins without another request.
    pub fn is_rotation_waiting(&self) -> bool {
        self.queued.is_some() || self.edited.is_some()
    }

    /// Time at which an invocation must process a token that owes nothing.
    pub fn due_at_rest(&self, now: Timestamp) -> Timestamp {
        if self.is_rotation_waiting() { now } else { self.compare_at }
    }

    /// True if a lease is live: its holder may be about to write.
    pub fn is_leased(&self, now: Timestamp) -> bool {
        self.lease.as_ref().is_some_and(|lease| lease.until + LEASE_GRACE > now)
    }

    /// True if another invocation works on the token: one with a live lease, or a watcher with a recent
    /// heartbeat.
    pub fn is_active(&self, now: Timestamp) -> bool {
        let watched = self.watcher.is_some() && self.due_at.is_some_and(|due_at| due_at > now);
        self.is_leased(now) || watched
    }

    /// True if a write in doubt, to a store that cannot fence, may still land.
    pub fn is_unanswered(&self, now: Timestamp) -> bool {
        self.unanswered_until.is_some_and(|until| until > now)
    }

    /// True if a write whose reply was lost may have landed since the last drift detection. Until the next
    /// one, nothing is written over what it left, because a pod may have started on that.
    pub fn is_late_write_uncompared(&self) -> bool {
        self.unanswered_until.is_some_and(|until| self.compare_at <= until)
    }

    /// The ends of versions, whether past or not.
    pub fn ends(&self) -> impl Iterator<Item = Timestamp> {
        self.versions.iter().filter_map(|version| version.not_after)
    }

    /// The earliest end of a version.
    pub fn next_end(&self) -> Option<Timestamp> {
        self.ends().min()
    }

    /// Versions that left the set between an earlier record and this one.
    pub fn ended_since<'a>(&self, earlier: &'a Record) -> Vec<&'a Version> {
        let lives = |number| self.versions.iter().any(|version| version.version == number);
        earlier.versions.iter().filter(|version| !lives(version.version)).collect()
    }
}

/// Reads a number that only grows, by one each time. A number that could not be incremented any more is
/// damage.
fn counter<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    let number = u64::deserialize(from)?;
    let is_plausible = number <= LARGEST_COUNTER;
    if is_plausible { Ok(number) } else { Err(D::Error::custom("too large a number")) }
}

impl Version {
    /// True if the version's end has passed.
    pub fn has_ended(&self, now: Timestamp) -> bool {
        self.not_after.is_some_and(|not_after| not_after <= now)
    }
}
