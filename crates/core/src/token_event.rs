//! Events for subscribers: exactly what a save made true of a token, and nothing that no save made true.
//!
//! They are derived from two records, the one before a save and the one after it. They never contain a
//! value or a digest.

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

/// The `source` of an event.
pub const SOURCE: &str = "changeover";

/// One change of a token. As JSON it is an event's `detail`; `events/schema` has the schemas.
///
/// It may arrive twice, and after a later one. Life and revision order the events of one token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TokenEvent {
    /// The token.
    pub token: TokenName,
    /// The life of the record after the change: of two, the greater is the later, as text too. `None` if
    /// the record has none yet.
    pub life: Option<Life>,
    /// The revision of that record.
    pub revision: u64,
    /// The time at which that revision was saved.
    #[serde(with = "in_milliseconds")]
    pub at: Timestamp,
    /// The change.
    #[serde(flatten)]
    pub kind: TokenEventKind,
}

/// The kinds of changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum TokenEventKind {
    /// A rotation took the token's slot.
    RotationStarted {
        /// The name of the rotation.
        rotation: RotationId,
        /// The version that it brings, or writes again.
        version: VersionNumber,
        /// The purpose of the rotation.
        purpose: Purpose,
    },
    /// The rotation waits for help, for another reason than before.
    RotationHeld {
        /// The rotation, or the one that brought the version for which the token still owes a step.
        rotation: RotationId,
        /// Its version.
        version: VersionNumber,
        /// The leg that is held.
        leg: Leg,
        /// The step of that leg.
        step: Step,
        /// The object that is held, the reason, and the fix.
        held: Reason,
    },
    /// The rotation no longer waits for help.
    RotationResumed {
        /// The rotation.
        rotation: RotationId,
        /// Its version.
        version: VersionNumber,
    },
    /// Presenters are proved to be on the version of the rotation.
    RotationCompleted {
        /// The rotation.
        rotation: RotationId,
        /// Its version.
        version: VersionNumber,
        /// The purpose of the rotation.
        purpose: Purpose,
        /// The time at which it took the slot.
        #[serde(with = "in_milliseconds")]
        began_at: Timestamp,
        /// The selectors with which presenters find the token.
        selectors: Vec<String>,
        /// The time at which the version before stops being accepted.
        #[serde(with = "optional_milliseconds")]
        previous_valid_until: Option<Timestamp>,
    },
    /// The version of the rotation was given up.
    RotationDropped {
        /// The rotation.
        rotation: RotationId,
        /// The version, which was never presented.
        version: VersionNumber,
    },
    /// The stage of a version changed.
    VersionStageChanged {
        /// The version.
        version: VersionNumber,
        /// The rotation that brought it.
        rotation: RotationId,
        /// The stage now; `retired` if it left the set, which includes dropped versions.
        stage: Stage,
        /// The stage before; `None` for a new version.
        stage_before: Option<Stage>,
        /// The time at which it was minted or adopted.
        #[serde(with = "in_milliseconds")]
        created_at: Timestamp,
        /// The time at which verifiers stop accepting it.
        #[serde(with = "optional_milliseconds")]
        not_after: Option<Timestamp>,
    },
    /// Publications hold a value that is not one of the token's.
    DriftFound {
        /// Their places.
        places: Vec<String>,
    },
}

impl TokenEvent {
    /// Returns the event's `detail-type`.
    pub fn detail_type(&self) -> &'static str {
        match self.kind {
            TokenEventKind::RotationStarted { .. } => "Rotation Started",
            TokenEventKind::RotationHeld { .. } => "Rotation Held",
            TokenEventKind::RotationResumed { .. } => "Rotation Resumed",
            TokenEventKind::RotationCompleted { .. } => "Rotation Completed",
            TokenEventKind::RotationDropped { .. } => "Rotation Dropped",
            TokenEventKind::VersionStageChanged { .. } => "Version Stage Changed",
            TokenEventKind::DriftFound { .. } => "Drift Found",
        }
    }
}

/// Returns the events of a save, in an order in which they can be published. `selectors` are those with
/// which presenters find the token as of this save.
pub fn between(
    before: Option<&Record>,
    after: &Record,
    at: Timestamp,
    selectors: Vec<String>,
) -> Vec<TokenEvent> {
    let started = started(before, after).into_iter();
    let resumed = resumed(before, after).into_iter();
    let stages = stages_changed(before, after).into_iter();
    let ended = ended(before, after, selectors).into_iter();
    let held = held(before, after).into_iter();
    let drift = drift(before, after).into_iter();
    let all = started.chain(resumed).chain(stages).chain(ended).chain(held).chain(drift);
    let (token, Fence { life, revision }) = (after.token(), after.fence());
    all.map(|kind| TokenEvent { token: token.clone(), life, revision, at, kind }).collect()
}

fn started(before: Option<&Record>, after: &Record) -> Option<TokenEventKind> {
    let rotation = after.rotation()?;
    let is_new = before.and_then(Record::rotation).is_none_or(|it| it.id != rotation.id);
    is_new.then(|| TokenEventKind::RotationStarted {
        rotation: rotation.id.clone(),
        version: rotation.version,
        purpose: rotation.purpose,
    })
}

fn stages_changed(before: Option<&Record>, after: &Record) -> Vec<TokenEventKind> {
    let live = after.versions().iter().map(|version| (version, version.stage));
    let gone = before.map(|before| after.ended_since(before)).unwrap_or_default();
    let gone = gone.into_iter().map(|version| (version, Stage::Retired));
    live.chain(gone)
        .filter_map(|(version, stage)| {
            let mut before = before.map(Record::versions).unwrap_or_default().iter();
            let before = before.find(|it| it.version == version.version).map(|it| it.stage);
            (before != Some(stage)).then(|| TokenEventKind::VersionStageChanged {
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

/// The end of a rotation that had the slot before and no longer has it. It completed if its version is
/// live, and was dropped if not.
fn ended(
    before: Option<&Record>,
    after: &Record,
    selectors: Vec<String>,
) -> Option<TokenEventKind> {
    let ended = before?.rotation()?;
    if after.rotation().is_some_and(|it| it.id == ended.id) {
        return None;
    }
    let (rotation, version) = (ended.id.clone(), ended.version);
    if !after.versions().iter().any(|it| it.version == version) {
        return Some(TokenEventKind::RotationDropped { rotation, version });
    }
    Some(TokenEventKind::RotationCompleted {
        rotation,
        version,
        purpose: ended.purpose,
        began_at: ended.began_at,
        selectors,
        previous_valid_until: after.in_stage(Stage::Previous).and_then(|it| it.not_after),
    })
}

fn held(before: Option<&Record>, after: &Record) -> Option<TokenEventKind> {
    let held = Reason::from(after.held()?);
    let is_known = before.and_then(Record::held).is_some_and(|it| Reason::from(it) == held);
    let (owed, (rotation, version)) = (after.owed()?, after.subject()?);
    (!is_known).then(|| TokenEventKind::RotationHeld {
        rotation: rotation.clone(),
        version,
        leg: owed.leg,
        step: owed.step,
        held,
    })
}

/// The end of a hold. A rotation whose version was given up does not resume.
fn resumed(before: Option<&Record>, after: &Record) -> Option<TokenEventKind> {
    let before = before.filter(|before| before.held().is_some() && after.held().is_none())?;
    let (rotation, version) = before.subject()?;
    let goes_on = after.versions().iter().any(|it| it.version == version);
    goes_on.then(|| TokenEventKind::RotationResumed { rotation: rotation.clone(), version })
}

fn drift(before: Option<&Record>, after: &Record) -> Option<TokenEventKind> {
    let places = after.drift();
    let is_new = !places.is_empty() && before.is_none_or(|before| before.drift() != places);
    is_new.then(|| TokenEventKind::DriftFound { places: places.to_vec() })
}
