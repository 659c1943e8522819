//! What subscribers are told: what a save made true of a token, and nothing that no save made true.
//!
//! Two records, the one before a save and the one after it, say all of it. Never a value, never a digest.

use changeover_token::{
    Fence, Life, Stage, TokenName, VersionNumber,
    time::{in_milliseconds, optional_milliseconds},
};
use jiff::Timestamp;
use serde::Serialize;

use crate::{
    record::{Leg, Purpose, Record, RotationId, Step},
    report::Reason,
};

/// Who tells it: an event's `source`.
pub const SOURCE: &str = "changeover";

/// One thing that became so. As JSON it is an event's `detail`; `events/schema` has the schemas.
///
/// It may arrive twice, and after a later one: of one token, life and revision tell which is which.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Notice {
    /// Of which token.
    pub token: TokenName,
    /// The life of the record that says so: of two, the greater is the later, as text too. `None` of a record
    /// that has none yet.
    pub life: Option<Life>,
    /// The revision of that record.
    pub revision: u64,
    /// When that was saved.
    #[serde(with = "in_milliseconds")]
    pub at: Timestamp,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

/// What may become so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum What {
    /// A rotation took the token's slot.
    RotationStarted {
        /// Its name.
        rotation: RotationId,
        /// The version that it brings, or writes anew.
        version: VersionNumber,
        /// What it is for.
        purpose: Purpose,
    },
    /// It waits for help, for another reason than before.
    RotationHeld {
        /// The rotation, or the one that brought what the token still owes a step of.
        rotation: RotationId,
        /// Its version.
        version: VersionNumber,
        /// The leg that is held.
        leg: Leg,
        /// The step of it.
        step: Step,
        /// On what, why, and what to do.
        held: Reason,
    },
    /// It waits for help no more.
    RotationResumed {
        /// The rotation.
        rotation: RotationId,
        /// Its version.
        version: VersionNumber,
    },
    /// Presenters are proved to be on its version.
    RotationCompleted {
        /// The rotation.
        rotation: RotationId,
        /// Its version.
        version: VersionNumber,
        /// What it was for.
        purpose: Purpose,
        /// When it took the slot.
        #[serde(with = "in_milliseconds")]
        began_at: Timestamp,
        /// Where presenters find the token.
        selectors: Vec<String>,
        /// When the version before stops being accepted.
        #[serde(with = "optional_milliseconds")]
        previous_valid_until: Option<Timestamp>,
    },
    /// Its version was given up.
    RotationDropped {
        /// The rotation.
        rotation: RotationId,
        /// The version that nobody presented.
        version: VersionNumber,
    },
    /// A version is in another stage than before.
    VersionStageChanged {
        /// The version.
        version: VersionNumber,
        /// The rotation that brought it.
        rotation: RotationId,
        /// What it is now; `retired` where it left the set, dropped ones included.
        stage: Stage,
        /// What it was; `None` of a new one.
        stage_before: Option<Stage>,
        /// When it was minted or adopted.
        #[serde(with = "in_milliseconds")]
        created_at: Timestamp,
        /// When verifiers stop accepting it.
        #[serde(with = "optional_milliseconds")]
        not_after: Option<Timestamp>,
    },
    /// Publications hold a value that is none of the token's.
    DriftFound {
        /// Their places.
        places: Vec<String>,
    },
}

impl Notice {
    /// An event's `detail-type`.
    pub fn detail_type(&self) -> &'static str {
        match self.what {
            What::RotationStarted { .. } => "Rotation Started",
            What::RotationHeld { .. } => "Rotation Held",
            What::RotationResumed { .. } => "Rotation Resumed",
            What::RotationCompleted { .. } => "Rotation Completed",
            What::RotationDropped { .. } => "Rotation Dropped",
            What::VersionStageChanged { .. } => "Version Stage Changed",
            What::DriftFound { .. } => "Drift Found",
        }
    }
}

/// What a save made true, in an order in which it can be told. `selectors` say where presenters find the
/// token as of this save.
pub fn between(
    before: Option<&Record>,
    after: &Record,
    at: Timestamp,
    selectors: Vec<String>,
) -> Vec<Notice> {
    let started = started(before, after).into_iter();
    let resumed = resumed(before, after).into_iter();
    let stages = stages_changed(before, after).into_iter();
    let ended = ended(before, after, selectors).into_iter();
    let held = held(before, after).into_iter();
    let drift = drift(before, after).into_iter();
    let all = started.chain(resumed).chain(stages).chain(ended).chain(held).chain(drift);
    let (token, Fence { life, revision }) = (after.token(), after.fence());
    all.map(|what| Notice { token: token.clone(), life, revision, at, what }).collect()
}

fn started(before: Option<&Record>, after: &Record) -> Option<What> {
    let rotation = after.rotation()?;
    let is_new = before.and_then(Record::rotation).is_none_or(|it| it.id != rotation.id);
    is_new.then(|| What::RotationStarted {
        rotation: rotation.id.clone(),
        version: rotation.version,
        purpose: rotation.purpose,
    })
}

fn stages_changed(before: Option<&Record>, after: &Record) -> Vec<What> {
    let live = after.versions().iter().map(|version| (version, version.stage));
    let gone = before.map(|before| after.ended_since(before)).unwrap_or_default();
    let gone = gone.into_iter().map(|version| (version, Stage::Retired));
    live.chain(gone)
        .filter_map(|(version, stage)| {
            let mut before = before.map(Record::versions).unwrap_or_default().iter();
            let before = before.find(|it| it.version == version.version).map(|it| it.stage);
            (before != Some(stage)).then(|| What::VersionStageChanged {
                version: version.version,
                rotation: version.rotation.clone(),
                stage,
                stage_before: before,
                created_at: version.created_at,
                not_after: version.not_after,
            })
        })
        .collect()
}

/// Of a rotation that took the slot before and has it no more: a version that is live was brought to all.
fn ended(before: Option<&Record>, after: &Record, selectors: Vec<String>) -> Option<What> {
    let ended = before?.rotation()?;
    if after.rotation().is_some_and(|it| it.id == ended.id) {
        return None;
    }
    let (rotation, version) = (ended.id.clone(), ended.version);
    if !after.versions().iter().any(|it| it.version == version) {
        return Some(What::RotationDropped { rotation, version });
    }
    Some(What::RotationCompleted {
        rotation,
        version,
        purpose: ended.purpose,
        began_at: ended.began_at,
        selectors,
        previous_valid_until: after.in_stage(Stage::Previous).and_then(|it| it.not_after),
    })
}

fn held(before: Option<&Record>, after: &Record) -> Option<What> {
    let held = Reason::from(after.held()?);
    let is_known = before.and_then(Record::held).is_some_and(|it| Reason::from(it) == held);
    let (owed, (rotation, version)) = (after.owed()?, after.subject()?);
    (!is_known).then(|| What::RotationHeld {
        rotation: rotation.clone(),
        version,
        leg: owed.leg,
        step: owed.step,
        held,
    })
}

/// What was given up does not go on.
fn resumed(before: Option<&Record>, after: &Record) -> Option<What> {
    let before = before.filter(|before| before.held().is_some() && after.held().is_none())?;
    let (rotation, version) = before.subject()?;
    let goes_on = after.versions().iter().any(|it| it.version == version);
    goes_on.then(|| What::RotationResumed { rotation: rotation.clone(), version })
}

fn drift(before: Option<&Record>, after: &Record) -> Option<What> {
    let places = after.drift();
    let is_new = !places.is_empty() && before.is_none_or(|before| before.drift() != places);
    is_new.then(|| What::DriftFound { places: places.to_vec() })
}
