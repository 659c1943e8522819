//! What is true of a token, and the only moves that may change it.
//!
//! The record names the step that is *owed*, never one that is done: whoever reads it carries out
//! what is owed, and doing so twice is harmless. It is saved before a publish, so that every value
//! that a reader can see was decided by a saved record:
//!
//! ```text
//!          ┌ rotation in progress ──────────────────────────┐
//!  begin ─►│ expand: publish sync roll-out ─►               │
//!          │ migrate: publish sync roll-out ─► (N current) ─┼─► overlap: publish sync roll-out ─►
//!          └────────────────────────────────────────────────┘   contract: retire publish sync ─► ∎
//! ```
//!
//! Everything here is pure. A change is asked for as a [`Change`]; [`Record::after`] is the one
//! function that answers with the record after it, or with [`Illegal`].

mod audit;
mod change;
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
pub use change::{Begin, Change, Illegal, Minted};
pub use failing::{Failing, back_off};
pub use imported::{ArrivalId, Imported};
pub use queued::Queued;
pub use rotation::{Entry, Leg, Owed, Purpose, Rotation, RotationId, Step};

/// How long after its end a lease is still honoured, for clocks that disagree.
pub const LEASE_GRACE: Duration = Duration::from_secs(5);
/// How often a leg is published again because what it published did not stand.
pub const REPEATS: u8 = 3;
/// The largest revision that is read: JSON's numbers are exact up to there (RFC 8259, section 6).
const LARGEST_COUNTER: u64 = 1 << 53;
/// The longest timeline of a rotation: what comes after it is left out.
const TIMELINE: usize = 64;

/// All that is known of a token, as saved.
///
/// A field that is not known was written by a later version of changeover: such a record is not read,
/// because saving it would lose that field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    token: TokenName,
    /// `None` in a record that an earlier version of changeover created: its next rotation gives it one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    life: Option<Life>,
    #[serde(deserialize_with = "counter")]
    revision: u64,
    /// Live versions, newest first.
    versions: Vec<Version>,
    /// The highest number ever used: a dropped one is never used again.
    last_version: VersionNumber,
    accepted_revision: u64,
    /// The life that the record had when the view changed: giving it one changes no view.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    accepted_life: Option<Life>,
    presented_revision: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    presented_life: Option<Life>,
    rotation: Option<Rotation>,
    owed: Option<Owed>,
    /// How often this leg was published again since it was last held.
    repeats: u8,
    /// How far each workload of this leg has come.
    waits: BTreeMap<String, Wait>,
    /// What each publication was last seen to hold.
    publications: BTreeMap<String, Seen>,
    lease: Option<Lease>,
    /// Who watches a cluster without a lease; believed until `due_at`.
    watcher: Option<String>,
    #[serde(with = "optional_milliseconds", default, skip_serializing_if = "Option::is_none")]
    due_at: Option<Timestamp>,
    #[serde(with = "optional_milliseconds", default, skip_serializing_if = "Option::is_none")]
    unanswered_until: Option<Timestamp>,
    #[serde(with = "in_milliseconds")]
    compare_at: Timestamp,
    held: Option<Held>,
    /// Places that hold a value that is none of ours.
    drift: Vec<String>,
    spec_version: i64,
    /// Which spec it works from. `None` in a record that an earlier version of changeover saved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    spec: Option<SpecId>,
    /// Clusters that the last rotation goes without, knowingly, and whatever is owed after it.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    without: BTreeSet<String>,
    /// A rotation that is asked for, and begins once the one in progress is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    queued: Option<Queued>,
    /// The value that somebody else wrote to a publication in the middle of a rotation, which had to
    /// be published over: it is the next version, and sealed as such.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    edited: Option<Minted>,
    /// What was taken from the inbox last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    imported: Option<Imported>,
}

/// One value, from its mint to its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Version {
    /// Its number; greater than that of every version before it.
    pub version: VersionNumber,
    /// Its stage.
    pub stage: Stage,
    /// Digest of its value.
    pub sha256: Digest,
    /// When it was minted or adopted.
    #[serde(with = "in_milliseconds")]
    pub created_at: Timestamp,
    /// When verifiers stop accepting it; `None` before a newer one is current.
    #[serde(with = "optional_milliseconds", default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<Timestamp>,
    /// Its value, for the function alone.
    pub sealed: Sealed,
    /// The rotation that brought it.
    pub rotation: RotationId,
}

/// A record as it stands, and what a key resolved to.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// `None` where the token has none yet.
    pub record: Option<Record>,
    /// `None` where the key was not seen in the last seven days.
    pub key: Option<KeyEntry>,
    /// The runs that failed since the record was last saved.
    pub failing: Option<Failing>,
    /// The highest version number of a record of this token that was forgotten; 0 if none was.
    pub last_version: VersionNumber,
}

/// What a trigger's key resolves to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyEntry {
    /// The rotation that the trigger began or joined.
    pub rotation: RotationId,
    /// The version that this rotation minted.
    pub version: VersionNumber,
    /// When the entry may be forgotten: seven days after it was made.
    pub expires_at: Timestamp,
}

/// SHA-256 of an idempotency key: keys are the caller's words and may be long.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyDigest(String);

impl KeyDigest {
    /// The digest of a key.
    pub fn of(key: &str) -> Self {
        Self(hex::encode(sha2::Sha256::digest(key.as_bytes())))
    }

    /// In lower-case hex.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// How far a workload has come on this leg.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wait {
    /// The Secret as of which it is synced; `None` for a workload without one.
    pub secret: Option<SecretRevision>,
    /// When it was synced.
    #[serde(with = "in_milliseconds")]
    pub synced_at: Timestamp,
}

/// Which Secret holds which view, as one digest: another Secret, or other data under the keys that are
/// copies of the view, is another revision. A refresh that changes no data is not, nor is another
/// token's key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretRevision(pub String);

/// What a publication was last seen to hold: what its last answered write put there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seen {
    /// The revision of the view.
    pub revision: u64,
    /// The life that goes with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub life: Option<Life>,
    /// SSM: the version of the parameter. DynamoDB: the revision of the view.
    pub store_version: u64,
    /// Digest of its bytes.
    pub sha256: Digest,
    /// The KMS key that SSM encrypts it with.
    pub key: Option<String>,
    /// When the write was answered.
    #[serde(with = "in_milliseconds")]
    pub answered_at: Timestamp,
    /// Presented view: which version of the parameter holds which live version of the token.
    pub held_at: BTreeMap<VersionNumber, u64>,
}

/// The right to write to stores that cannot fence, for a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lease {
    /// Who has it: random per invocation.
    pub holder: String,
    /// Until when.
    #[serde(with = "in_milliseconds")]
    pub until: Timestamp,
}

/// Why nothing moves, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Held {
    /// On what.
    pub object: String,
    /// What is the matter.
    pub reason: String,
    /// What to do.
    pub fix: String,
    /// How often it was tried.
    #[serde(default)]
    pub attempts: u32,
    /// Whether what was done is taken back each time, so that each further try does harm: after [`Held::TRIES`]
    /// of them it is tried only on request.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_undone: bool,
}

impl Seen {
    /// The fence of the view.
    pub fn fence(&self) -> Fence {
        Fence { life: self.life, revision: self.revision }
    }
}

impl Held {
    /// How often the sweep tries what is taken back each time.
    pub const TRIES: u32 = 3;

    /// Held on an object, for a reason, until somebody does something.
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
    /// A record of a token that nothing is known of. Its life is above that of every record before it, so
    /// that what it writes supersedes whatever it finds.
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

    /// This record with the revision that it is to be saved under.
    pub fn to_save(&self) -> Record {
        Record { revision: self.revision + 1, ..self.clone() }
    }

    /// This record with a sign of life of whoever watches: not a change, and no new revision.
    pub fn postponed(&self, due_at: Timestamp) -> Record {
        Record { due_at: Some(due_at), ..self.clone() }
    }

    /// Whose it is.
    pub fn token(&self) -> &TokenName {
        &self.token
    }

    /// What saves of this record are conditional on: each save raises the revision.
    pub fn fence(&self) -> Fence {
        Fence { life: self.life, revision: self.revision }
    }

    /// The revision: each save raises it.
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

    /// Whether a value is that of a live version.
    pub fn holds(&self, sha256: &Digest) -> bool {
        self.versions.iter().any(|version| version.sha256 == *sha256)
    }

    /// The version in this stage, the newest of them.
    pub fn in_stage(&self, stage: Stage) -> Option<&Version> {
        self.versions.iter().find(|version| version.stage == stage)
    }

    /// The version that presenters are given: the pending one from migrate on, else the current.
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
    /// token that was forgotten: a number is never used twice, and its audit never written over.
    #[must_use]
    pub fn numbered_after(self, last: VersionNumber) -> Self {
        Self { last_version: self.last_version.max(last), ..self }
    }

    /// What is in progress.
    pub fn rotation(&self) -> Option<&Rotation> {
        self.rotation.as_ref()
    }

    /// The rotation under whose name it is told what becomes of the token, and its version: the one in
    /// progress, or the one that brought the current version, since what is owed after it is its.
    pub fn subject(&self) -> Option<(&RotationId, VersionNumber)> {
        let current = || self.in_stage(Stage::Current).map(|it| (&it.rotation, it.version));
        self.rotation.as_ref().map(|it| (&it.id, it.version)).or_else(current)
    }

    /// What is owed.
    pub fn owed(&self) -> Option<Owed> {
        self.owed
    }

    /// Whether this leg was published again as often as it may be.
    pub fn has_repeated_enough(&self) -> bool {
        self.repeats >= REPEATS
    }

    /// How far a workload has come on this leg.
    pub fn wait(&self, workload: &str) -> Option<&Wait> {
        self.waits.get(workload)
    }

    /// What a publication was last seen to hold.
    pub fn seen(&self, place: &str) -> Option<&Seen> {
        self.publications.get(place)
    }

    /// Every publication that was ever written, and what it was last seen to hold.
    pub fn published(&self) -> impl Iterator<Item = (&str, &Seen)> {
        self.publications.iter().map(|(place, seen)| (place.as_str(), seen))
    }

    /// Why nothing moves.
    pub fn held(&self) -> Option<&Held> {
        self.held.as_ref()
    }

    /// Who may write, until when.
    pub fn lease(&self) -> Option<&Lease> {
        self.lease.as_ref()
    }

    /// When somebody has to look at this record again.
    pub fn due_at(&self) -> Option<Timestamp> {
        self.due_at
    }

    /// When the publications are compared with the record.
    pub fn compare_at(&self) -> Timestamp {
        self.compare_at
    }

    /// Until when an unanswered write to a store that cannot fence may land.
    pub fn unanswered_until(&self) -> Option<Timestamp> {
        self.unanswered_until
    }

    /// Places that were last seen to hold somebody else's value.
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

    /// Whether this is the spec that the record works from.
    pub fn works_from(&self, id: &SpecId) -> bool {
        match &self.spec {
            Some(spec) => spec.means(id),
            None => self.spec_version == id.version,
        }
    }

    /// Clusters whose workloads are left out, until a rotation begins that is not told to.
    pub fn without(&self) -> &BTreeSet<String> {
        &self.without
    }

    /// The rotation that begins by itself, once what it waits for has passed: the one in progress, or what
    /// keeps the set of live versions from being changed.
    pub fn queued(&self) -> Option<&Queued> {
        self.queued.as_ref()
    }

    /// The value that somebody else wrote, sealed as the next version.
    pub fn edited(&self) -> Option<&Minted> {
        self.edited.as_ref()
    }

    /// What was taken from the inbox last.
    pub fn imported(&self) -> Option<&Imported> {
        self.imported.as_ref()
    }

    /// Whether a rotation is to begin that nobody has to ask for again.
    pub fn is_rotation_waiting(&self) -> bool {
        self.queued.is_some() || self.edited.is_some()
    }

    /// When somebody has to look at a token that owes nothing.
    pub fn due_at_rest(&self, now: Timestamp) -> Timestamp {
        if self.is_rotation_waiting() { now } else { self.compare_at }
    }

    /// Whether a lease is live: its holder may be about to write.
    pub fn is_leased(&self, now: Timestamp) -> bool {
        self.lease.as_ref().is_some_and(|lease| lease.until + LEASE_GRACE > now)
    }

    /// Whether somebody is at it: a live lease, or a watcher who gave a sign of life.
    pub fn is_attended(&self, now: Timestamp) -> bool {
        let watched = self.watcher.is_some() && self.due_at.is_some_and(|due_at| due_at > now);
        self.is_leased(now) || watched
    }

    /// Whether a write to a store that cannot fence may still land.
    pub fn is_unanswered(&self, now: Timestamp) -> bool {
        self.unanswered_until.is_some_and(|until| until > now)
    }

    /// Whether a write whose reply was lost may have landed since the publications were last compared. Until
    /// they are, nothing is written over what it left: a pod may have started on that.
    pub fn is_late_write_uncompared(&self) -> bool {
        self.unanswered_until.is_some_and(|until| self.compare_at <= until)
    }

    /// The ends of versions, passed or not.
    pub fn ends(&self) -> impl Iterator<Item = Timestamp> {
        self.versions.iter().filter_map(|version| version.not_after)
    }

    /// The next end of a version.
    pub fn next_end(&self) -> Option<Timestamp> {
        self.ends().min()
    }

    /// Versions that left the set between an earlier record and this one.
    pub fn ended_since<'a>(&self, earlier: &'a Record) -> Vec<&'a Version> {
        let lives = |number| self.versions.iter().any(|version| version.version == number);
        earlier.versions.iter().filter(|version| !lives(version.version)).collect()
    }
}

/// A number that only grows, one by one: one that could not be counted up any more is damage.
fn counter<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    let number = u64::deserialize(from)?;
    let is_plausible = number <= LARGEST_COUNTER;
    if is_plausible { Ok(number) } else { Err(D::Error::custom("too large a number")) }
}

impl Version {
    /// Whether its end has passed.
    pub fn has_ended(&self, now: Timestamp) -> bool {
        self.not_after.is_some_and(|not_after| not_after <= now)
    }
}
