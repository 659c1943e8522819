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

use std::{collections::BTreeMap, fmt, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::Digest as _;

use crate::{
    spec::Side,
    token::{Digest, TokenName, VersionNumber},
    world::{Audit, Sealed, SecretRevision},
};

/// How long after its end a lease is still honoured, for clocks that disagree.
pub const LEASE_GRACE: Duration = Duration::from_secs(5);
/// How long a sign of life of somebody who watches a cluster is believed.
pub const WATCH: Duration = Duration::from_secs(60);
/// How often the publications of a token that owes nothing are compared with its record.
pub const COMPARE_EVERY: Duration = Duration::from_secs(24 * 60 * 60);
/// How often a leg is published again because what it published did not stand.
pub const REPEATS: u8 = 3;
/// The longest timeline of a rotation: what comes after it is left out.
const TIMELINE: usize = 64;

/// All that is known of a token, as saved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    token: TokenName,
    revision: u64,
    /// Live versions, newest first.
    versions: Vec<Version>,
    /// The highest number ever used: a dropped one is never used again.
    last_version: VersionNumber,
    accepted_revision: u64,
    presented_revision: u64,
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
    #[serde(
        with = "optional_milliseconds",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    due_at: Option<Timestamp>,
    #[serde(
        with = "optional_milliseconds",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    unanswered_until: Option<Timestamp>,
    #[serde(with = "in_milliseconds")]
    compare_at: Timestamp,
    held: Option<Held>,
    /// Places that hold a value that is none of ours.
    drift: Vec<String>,
    spec_version: i64,
}

/// One value, from its mint to its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    #[serde(
        with = "optional_milliseconds",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub not_after: Option<Timestamp>,
    /// Its value, for the function alone.
    pub sealed: Sealed,
    /// The rotation that brought it.
    pub rotation: RotationId,
}

/// Secrets Manager's names for what a version is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Accepted, not yet known to be presented by all.
    Pending,
    /// Presented.
    Current,
    /// Accepted until its end.
    Previous,
    /// No longer accepted; its value is deleted.
    Retired,
}

/// Names one rotation. Random.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RotationId(pub String);

impl fmt::Display for RotationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
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

/// What is in progress until presenters are on the version that it is about. It takes the token's
/// one slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotation {
    /// Its name.
    pub id: RotationId,
    /// What it is for.
    pub purpose: Purpose,
    /// The version that presenters present at its end.
    pub version: VersionNumber,
    /// When it began.
    #[serde(with = "in_milliseconds")]
    pub began_at: Timestamp,
    /// Whether its version may have been presented: from then on it cannot be dropped.
    pub presented: bool,
    /// What was done when.
    pub timeline: Vec<Entry>,
}

/// Why both sides are gone through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Purpose {
    /// A pending version becomes current.
    Rotate,
    /// The current version is written to every publication; rolls are passed over, since pods
    /// cannot start before what they read exists.
    Publish,
    /// A publication was found to differ: the side is published, synced and rolled again.
    Repair,
}

/// One line of a timeline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Leg of the step.
    pub leg: Leg,
    /// The step.
    pub step: Step,
    /// When it was done.
    #[serde(with = "in_milliseconds")]
    pub at: Timestamp,
    /// How long it took since it was owed.
    pub took_ms: u64,
}

/// The next thing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owed {
    /// On which leg.
    pub leg: Leg,
    /// Which step of it.
    pub step: Step,
    /// Since when.
    #[serde(with = "in_milliseconds")]
    pub since: Timestamp,
}

/// The legs of a parallel change, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Leg {
    /// Verifiers accept the new version beside the old.
    Expand,
    /// Presenters present the new version.
    Migrate,
    /// Verifiers learn when the old version ends.
    Overlap,
    /// Verifiers forget versions that have ended.
    Contract,
}

impl Leg {
    /// As the contract writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Leg::Expand => "expand",
            Leg::Migrate => "migrate",
            Leg::Overlap => "overlap",
            Leg::Contract => "contract",
        }
    }

    /// Whose view it carries.
    pub fn side(self) -> Side {
        match self {
            Leg::Expand | Leg::Overlap | Leg::Contract => Side::Verifiers,
            Leg::Migrate => Side::Presenters,
        }
    }
}

/// The steps of a leg, in order. Each may run again after a crash anywhere, with the same effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Contract only: wait for the end of a version, and delete it from the record.
    Retire,
    /// Write this side's view to each of its publications.
    Publish,
    /// Wait until each copy equals what was published.
    Sync,
    /// Replace what picks up by restart, and wait until nothing runs on an older view.
    RollOut,
}

impl Step {
    /// As the contract writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Step::Retire => "retire",
            Step::Publish => "publish",
            Step::Sync => "sync",
            Step::RollOut => "roll_out",
        }
    }
}

/// How far a workload has come on this leg.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wait {
    /// The Secret as of which it is synced; `None` for a workload without one.
    pub secret: Option<SecretRevision>,
    /// When it was synced.
    #[serde(with = "in_milliseconds")]
    pub synced_at: Timestamp,
}

/// What a publication was last seen to hold: what its last answered write put there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// The revision of the view.
    pub revision: u64,
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
pub struct Lease {
    /// Who has it: random per invocation.
    pub holder: String,
    /// Until when.
    #[serde(with = "in_milliseconds")]
    pub until: Timestamp,
}

/// Why nothing moves, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
}

impl Held {
    /// Held on an object, for a reason, until somebody does something.
    pub fn new(
        object: impl Into<String>,
        reason: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            object: object.into(),
            reason: reason.into(),
            fix: fix.into(),
            attempts: 0,
        }
    }
}

/// A change to ask of a record.
#[derive(Clone, Debug)]
pub enum Change {
    /// Take the slot: for a rotation with a minted version, or for one that only writes.
    Begin(Begin),
    /// Take the lease, or take it over from one who let it run out, or renew one's own.
    Lease {
        /// The new lease.
        lease: Lease,
        /// How long an unanswered write may still land, where the step owed writes to a store that
        /// cannot fence; `None` where it does not.
        late_write: Option<Duration>,
    },
    /// The spec is another: expand runs again, in full, for the same version.
    Respecify(i64),
    /// Every publication of the leg was written and answered.
    Published(BTreeMap<String, Seen>),
    /// A write's reply was lost; it may land until then.
    Unanswered(Timestamp),
    /// Every copy equals what was published.
    Synced(BTreeMap<String, Wait>),
    /// Nothing of the leg's side runs on an older view.
    RolledOut {
        /// How long the version before stays valid from now on.
        overlap: Duration,
    },
    /// What was published does not stand: publish again, as a new revision of the view.
    Repeat,
    /// Versions past their end leave the set.
    Retire,
    /// Give up the pending version.
    Drop,
    /// Let the lease go; carry on at `due_at`. With a watcher, somebody is at it until then.
    Await {
        /// When somebody has to look again.
        due_at: Timestamp,
        /// Who watches meanwhile.
        watcher: Option<String>,
    },
    /// Let the lease go, and wait for help.
    Hold(Held),
    /// All publications were compared with the record: these hold somebody else's value.
    Compared {
        /// Their places.
        drift: Vec<String>,
    },
}

/// What takes the slot.
#[derive(Clone, Debug)]
pub struct Begin {
    /// The rotation.
    pub id: RotationId,
    /// What it is for.
    pub purpose: Purpose,
    /// The value that presenters already have, of a token without a current version.
    pub adopted: Option<Minted>,
    /// The new value. Without a current or adopted version it becomes current at once.
    pub minted: Option<Minted>,
    /// The sides whose view differs from what was published, where that is a reason to begin.
    pub repaired: Vec<Side>,
    /// The version of the spec that it works from.
    pub spec_version: i64,
    /// The lease, taken by the same write.
    pub lease: Lease,
}

/// A value that was decided.
#[derive(Clone, Debug)]
pub struct Minted {
    /// Its digest.
    pub sha256: Digest,
    /// Itself.
    pub sealed: Sealed,
    /// Where it was found: which version of which publication holds it.
    pub held_at: BTreeMap<String, u64>,
}

/// A change that this record cannot make.
#[derive(Clone, Debug, thiserror::Error)]
#[error("a record that owes {owed} cannot make the change `{change}`: {because}")]
pub struct Illegal {
    owed: String,
    change: &'static str,
    because: &'static str,
}

impl Record {
    /// A record of a token that nothing is known of. `revision` is the highest found in any of its
    /// publications, so that what is written next supersedes them; it is not saved as such.
    pub fn new(token: TokenName, revision: u64, now: Timestamp) -> Self {
        Self {
            token,
            revision,
            versions: Vec::new(),
            last_version: VersionNumber::default(),
            accepted_revision: 0,
            presented_revision: 0,
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
        }
    }

    /// The record after a change. Total: what is not a legal move is [`Illegal`], and the record
    /// is as it was.
    ///
    /// The revision stays; [`Record::to_save`] raises it. A view that changes gets the revision
    /// that the next save will have.
    pub fn after(&self, change: Change, now: Timestamp) -> Result<Record, Illegal> {
        let mut next = self.clone();
        let name = change.name();
        let illegal = |because| Illegal {
            owed: self.owed_in_words(),
            change: name,
            because,
        };
        let step = self.owed.map(|owed| (owed.leg, owed.step));
        match (step, change) {
            (_, Change::Begin(begin)) => {
                if self.rotation.is_some() {
                    return Err(illegal("a rotation is in progress"));
                }
                if self.is_leased(now) {
                    return Err(illegal("somebody else holds the lease"));
                }
                if self.lease.is_some() && matches!(step, Some((_, Step::Publish))) {
                    return Err(illegal("a publish was left unfinished, and comes first"));
                }
                if begin.minted.is_some() && self.is_unanswered(now) {
                    return Err(illegal(
                        "a write to a store that cannot fence is unanswered",
                    ));
                }
                next.begin(begin, now);
            }

            (_, Change::Lease { lease, late_write }) => {
                match &self.lease {
                    Some(held) if held.holder == lease.holder => {}
                    Some(_) if self.is_leased(now) => {
                        return Err(illegal("somebody else holds the lease"));
                    }
                    // Whoever held it never said how its last write ended: it may still land.
                    Some(held) if matches!(step, Some((_, Step::Publish))) => {
                        if let Some(late_write) = late_write {
                            next.unanswered_until =
                                self.unanswered_until.max(Some(held.until + late_write));
                            next.compare_at = self.compare_at.min(held.until + late_write);
                        }
                    }
                    _ => {}
                }
                next.lease_to(lease);
            }

            (Some((leg, _)), Change::Respecify(version)) if self.rotation.is_some() => {
                // A verifier that was added meanwhile must learn of the pending version before
                // any presenter that was added meanwhile presents it.
                next.spec_version = version;
                if leg <= Leg::Migrate {
                    next.owe(Leg::Expand, Step::Publish, now);
                }
            }
            (_, Change::Respecify(version)) => next.spec_version = version,

            (Some((leg, Step::Publish)), Change::Published(seen)) => {
                next.done(now);
                next.publications.extend(seen);
                next.owe(leg, Step::Sync, now);
            }

            (_, Change::Unanswered(until)) => {
                next.unanswered_until = self.unanswered_until.max(Some(until));
                next.compare_at = self.compare_at.min(until);
            }

            (Some((leg, Step::Sync)), Change::Synced(waits)) => {
                next.done(now);
                next.waits = waits;
                match leg {
                    Leg::Contract => next.contract_or_rest(now),
                    leg => next.owe_keeping_waits(leg, Step::RollOut, now),
                }
            }

            (Some((leg, Step::RollOut)), Change::RolledOut { overlap }) => {
                next.done(now);
                match leg {
                    Leg::Expand => {
                        if let Some(rotation) = &mut next.rotation
                            && rotation.purpose == Purpose::Rotate
                            && !rotation.presented
                        {
                            rotation.presented = true;
                            next.presented_revision = self.revision + 1;
                        }
                        next.owe(Leg::Migrate, Step::Publish, now);
                    }
                    Leg::Migrate => next.end_rotation(overlap, now),
                    Leg::Overlap | Leg::Contract => next.contract_or_rest(now),
                }
            }

            (Some((leg, Step::Sync | Step::RollOut)), Change::Repeat) => {
                next.repeats = self.repeats.saturating_add(1);
                *next.view_mut(leg.side()) = self.revision + 1;
                next.owe(leg, Step::Publish, now);
            }

            (Some((Leg::Contract, Step::Retire)), Change::Retire) => {
                if !self.is_held_by_lease(now) {
                    return Err(illegal("the lease is not held"));
                }
                if self.is_unanswered(now) {
                    return Err(illegal(
                        "a write to a store that cannot fence is unanswered",
                    ));
                }
                if self.expired(now).next().is_none() {
                    return Err(illegal("no version is past its end"));
                }
                next.retire(now);
                next.owe(Leg::Contract, Step::Publish, now);
            }

            (_, Change::Drop) => {
                let droppable = self.rotation.as_ref().is_some_and(|rotation| {
                    rotation.purpose == Purpose::Rotate && !rotation.presented
                });
                if !droppable {
                    return Err(illegal("no version is pending that nobody can present yet"));
                }
                if !self.is_held_by_lease(now) {
                    return Err(illegal("the lease is not held"));
                }
                if self.is_unanswered(now) {
                    return Err(illegal(
                        "a write to a store that cannot fence is unanswered",
                    ));
                }
                next.versions
                    .retain(|version| version.stage != Stage::Pending);
                next.accepted_revision = next.revision + 1;
                next.rotation = None;
                next.held = None;
                next.owe(Leg::Overlap, Step::Publish, now);
            }

            (Some(_), Change::Await { due_at, watcher }) => {
                next.lease = None;
                next.due_at = Some(due_at);
                next.watcher = watcher;
            }
            (None, Change::Await { .. }) => {
                next.lease = None;
                next.watcher = None;
                next.due_at = Some(self.compare_at);
            }

            (Some(_), Change::Hold(held)) => {
                let attempts = self.held.as_ref().map_or(0, |held| held.attempts);
                // One minute, doubled each time, an hour at most.
                let pause = Duration::from_secs((60 << attempts.min(6)).min(3600));
                next.lease = None;
                next.watcher = None;
                next.due_at = Some(now + pause);
                next.held = Some(Held {
                    attempts: attempts + 1,
                    ..held
                });
                next.repeats = 0;
            }

            (None, Change::Compared { drift }) => {
                next.drift = drift;
                next.compare_at = now + COMPARE_EVERY;
                next.lease = None;
                next.watcher = None;
                next.due_at = Some(next.compare_at);
            }
            (Some(_), Change::Compared { drift }) => {
                next.drift = drift;
                next.compare_at = now + COMPARE_EVERY;
            }

            (_, Change::Published(_) | Change::Synced(_) | Change::RolledOut { .. }) => {
                return Err(illegal("that step is not owed"));
            }
            (_, Change::Repeat | Change::Retire) => return Err(illegal("not on this step")),
            (None, Change::Hold(_)) => return Err(illegal("nothing is owed")),
        }
        Ok(next)
    }

    /// This record with the revision that it is to be saved under.
    pub fn to_save(&self) -> Record {
        Record {
            revision: self.revision + 1,
            ..self.clone()
        }
    }

    /// This record with a sign of life of whoever watches: not a change, and no new revision.
    pub fn postponed(&self, due_at: Timestamp) -> Record {
        Record {
            due_at: Some(due_at),
            ..self.clone()
        }
    }

    /// Whose it is.
    pub fn token(&self) -> &TokenName {
        &self.token
    }

    /// The fence: each save raises it by one.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Live versions, newest first.
    pub fn versions(&self) -> &[Version] {
        &self.versions
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

    /// The number that the next version gets, `ahead` after it.
    pub fn next_version(&self) -> VersionNumber {
        self.last_version.next()
    }

    /// The revision at which the view of a side last changed.
    pub fn view(&self, side: Side) -> u64 {
        match side {
            Side::Verifiers => self.accepted_revision,
            Side::Presenters => self.presented_revision,
        }
    }

    /// What is in progress.
    pub fn rotation(&self) -> Option<&Rotation> {
        self.rotation.as_ref()
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

    /// Whether a lease is live: its holder may be about to write.
    pub fn is_leased(&self, now: Timestamp) -> bool {
        self.lease
            .as_ref()
            .is_some_and(|lease| lease.until + LEASE_GRACE > now)
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

    /// The next end of a version.
    pub fn next_end(&self) -> Option<Timestamp> {
        self.versions
            .iter()
            .filter_map(|version| version.not_after)
            .min()
    }

    /// Versions that left the set between an earlier record and this one.
    pub fn ended_since<'a>(&self, earlier: &'a Record) -> Vec<&'a Version> {
        let lives = |number| {
            self.versions
                .iter()
                .any(|version| version.version == number)
        };
        earlier
            .versions
            .iter()
            .filter(|version| !lives(version.version))
            .collect()
    }

    /// The audit entry of a version that was just minted, made current, or ended.
    pub fn audit_of(&self, version: &Version, selectors: Vec<String>) -> Audit {
        Audit {
            token: self.token.clone(),
            version: version.version,
            stage: version.stage,
            rotation: version.rotation.clone(),
            sha256: version.sha256,
            created_at: version.created_at,
            rotated_at: None,
            not_after: version.not_after,
            ended_at: None,
            selectors,
            timeline: Vec::new(),
        }
    }

    fn expired(&self, now: Timestamp) -> impl Iterator<Item = &Version> {
        self.versions
            .iter()
            .filter(move |version| version.has_ended(now))
    }

    fn is_held_by_lease(&self, now: Timestamp) -> bool {
        self.lease.as_ref().is_some_and(|lease| lease.until > now)
    }

    fn begin(&mut self, begin: Begin, now: Timestamp) {
        let before = self.versions.len();
        if begin.minted.is_some() {
            // A newer rotation's expand does an older one's contract on its way.
            self.versions.retain(|version| !version.has_ended(now));
        }
        let mut changed = self.versions.len() != before;
        let values = begin
            .adopted
            .into_iter()
            .map(|adopted| (adopted, Stage::Current));
        let minted = begin.minted.map(|minted| (minted, Stage::Pending));
        for (value, stage) in values.chain(minted) {
            let number = self.last_version.next();
            let first = self.in_stage(Stage::Current).is_none();
            for (place, store_version) in value.held_at {
                let seen = Seen {
                    revision: 0,
                    store_version,
                    sha256: value.sha256,
                    key: None,
                    answered_at: now,
                    held_at: BTreeMap::from([(number, store_version)]),
                };
                self.publications.insert(place, seen);
            }
            let version = Version {
                version: number,
                stage: if first { Stage::Current } else { stage },
                sha256: value.sha256,
                created_at: now,
                not_after: None,
                sealed: value.sealed,
                rotation: begin.id.clone(),
            };
            self.versions.insert(0, version);
            self.last_version = number;
            changed = true;
        }
        if changed || begin.repaired.contains(&Side::Verifiers) {
            self.accepted_revision = self.revision + 1;
        }
        if self.presented_revision == 0 || begin.repaired.contains(&Side::Presenters) {
            self.presented_revision = self.revision + 1;
        }
        self.rotation = Some(Rotation {
            id: begin.id,
            purpose: begin.purpose,
            version: self
                .versions
                .first()
                .map_or(self.last_version, |newest| newest.version),
            began_at: now,
            presented: false,
            timeline: Vec::new(),
        });
        self.held = None;
        self.drift.clear();
        self.spec_version = begin.spec_version;
        self.owe(Leg::Expand, Step::Publish, now);
        self.lease_to(begin.lease);
    }

    fn end_rotation(&mut self, overlap: Duration, now: Timestamp) {
        let purpose = self.rotation.take().map(|rotation| rotation.purpose);
        if purpose == Some(Purpose::Rotate) {
            for version in &mut self.versions {
                match version.stage {
                    Stage::Pending => version.stage = Stage::Current,
                    Stage::Current => {
                        version.stage = Stage::Previous;
                        version.not_after = Some(now + overlap);
                    }
                    Stage::Previous | Stage::Retired => {}
                }
            }
            self.accepted_revision = self.revision + 1;
        }
        if purpose == Some(Purpose::Rotate) || self.next_end().is_some() {
            // Where a rotation was not what ended, an overlap may have been owed before it.
            self.owe(Leg::Overlap, Step::Publish, now);
        } else {
            self.rest();
        }
    }

    fn retire(&mut self, now: Timestamp) {
        self.versions.retain(|version| !version.has_ended(now));
        let live: Vec<_> = self
            .versions
            .iter()
            .map(|version| version.version)
            .collect();
        for seen in self.publications.values_mut() {
            seen.held_at.retain(|version, _| live.contains(version));
        }
        self.accepted_revision = self.revision + 1;
    }

    /// After a leg of the overlap: the next end is awaited, or nothing is.
    fn contract_or_rest(&mut self, now: Timestamp) {
        match self.next_end() {
            Some(end) => {
                self.owe(Leg::Contract, Step::Retire, now);
                self.due_at = Some(end);
            }
            None => self.rest(),
        }
    }

    fn rest(&mut self) {
        self.owed = None;
        self.waits.clear();
        self.held = None;
    }

    fn owe(&mut self, leg: Leg, step: Step, now: Timestamp) {
        if self.owed.is_none_or(|owed| owed.leg != leg) {
            self.repeats = 0;
        }
        self.waits.clear();
        self.owe_keeping_waits(leg, step, now);
    }

    fn owe_keeping_waits(&mut self, leg: Leg, step: Step, now: Timestamp) {
        self.owed = Some(Owed {
            leg,
            step,
            since: now,
        });
        self.watcher = None;
    }

    /// Writes the step that was owed into the timeline, and forgets what held it.
    fn done(&mut self, now: Timestamp) {
        self.held = None;
        let Some(owed) = self.owed else { return };
        if let Some(rotation) = &mut self.rotation
            && rotation.timeline.len() < TIMELINE
        {
            let took_ms = now
                .as_millisecond()
                .saturating_sub(owed.since.as_millisecond());
            rotation.timeline.push(Entry {
                leg: owed.leg,
                step: owed.step,
                at: now,
                took_ms: took_ms.try_into().unwrap_or(0),
            });
        }
    }

    fn lease_to(&mut self, lease: Lease) {
        self.due_at = Some(lease.until + LEASE_GRACE);
        self.lease = Some(lease);
        self.watcher = None;
    }

    fn view_mut(&mut self, side: Side) -> &mut u64 {
        match side {
            Side::Verifiers => &mut self.accepted_revision,
            Side::Presenters => &mut self.presented_revision,
        }
    }

    fn owed_in_words(&self) -> String {
        self.owed.map_or("nothing".to_owned(), |it| {
            format!("{}/{}", it.leg.as_str(), it.step.as_str())
        })
    }
}

impl Version {
    /// Whether its end has passed.
    pub fn has_ended(&self, now: Timestamp) -> bool {
        self.not_after.is_some_and(|not_after| not_after <= now)
    }
}

impl Change {
    fn name(&self) -> &'static str {
        match self {
            Change::Begin(_) => "begin",
            Change::Lease { .. } => "lease",
            Change::Respecify(_) => "respecify",
            Change::Published(_) => "published",
            Change::Unanswered(_) => "unanswered",
            Change::Synced(_) => "synced",
            Change::RolledOut { .. } => "rolled out",
            Change::Repeat => "repeat",
            Change::Retire => "retire",
            Change::Drop => "drop",
            Change::Await { .. } => "await",
            Change::Hold(_) => "hold",
            Change::Compared { .. } => "compared",
        }
    }
}

/// Times in the record are RFC 3339 with milliseconds: of one width, so that they sort as text.
pub(crate) mod in_milliseconds {
    use jiff::Timestamp;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(time: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&crate::world::milliseconds(*time))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Timestamp, D::Error> {
        Timestamp::deserialize(from)
    }
}

/// The same for times that may be absent.
pub(crate) mod optional_milliseconds {
    use jiff::Timestamp;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(
        time: &Option<Timestamp>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        match time {
            Some(time) => super::in_milliseconds::serialize(time, to),
            None => to.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Timestamp>, D::Error> {
        Option::<Timestamp>::deserialize(from)
    }
}
