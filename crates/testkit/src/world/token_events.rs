//! Notices to subscribers: each must follow from a saved record.

use changeover_core::{
    record::Record,
    report::Reason,
    token_event::{TokenEvent, TokenEventKind},
};
use changeover_token::Stage;

use super::state::State;

impl State {
    /// Delivers notices. Each must be true as of the revision that it names, and must contain no digest.
    pub(super) fn deliver(&mut self, token_events: &[TokenEvent]) {
        for token_event in token_events {
            if !self.is_so(token_event) {
                self.violated(&format!(
                    "published, and not so in any saved record: {token_event:?}"
                ));
            }
            let text = serde_json::to_string(token_event).expect("an event serializes");
            let digests = self.records.digests(&token_event.token);
            if digests.iter().any(|digest| text.contains(digest)) {
                self.violated("an event has a digest in it");
            }
            self.published.push(token_event.clone());
        }
    }

    fn is_so(&self, token_event: &TokenEvent) -> bool {
        let mut saved = self.records.saved_as(&token_event.token, token_event.revision);
        saved.any(|(before, after)| Self::follows(token_event, before, after))
    }

    fn follows(token_event: &TokenEvent, before: Option<&Record>, after: &Record) -> bool {
        // A notice is about one save, so the records before and after that save decide.
        let rotation = |record: Option<&Record>| record.and_then(Record::rotation).cloned();
        let (rotated_before, rotates) = (rotation(before), rotation(Some(after)));
        let stage_of = |record: Option<&Record>, number| {
            let versions = record.map(Record::versions).unwrap_or_default();
            versions.iter().find(|it| it.version == number).map(|it| (it.stage, it.not_after))
        };
        // Most kinds need a change between the two, because a state that is not new must not be published
        // again.
        match &token_event.kind {
            TokenEventKind::RotationStarted { rotation, version, purpose } => {
                rotates.is_some_and(|it| {
                    it.id == *rotation && it.version == *version && it.purpose == *purpose
                }) && rotated_before.is_none_or(|it| it.id != *rotation)
            }
            TokenEventKind::RotationHeld { leg, step, held, .. } => {
                after.owed().is_some_and(|owed| owed.leg == *leg && owed.step == *step)
                    && after.held().is_some_and(|it| Reason::from(it) == *held)
            }
            TokenEventKind::RotationResumed { .. } => {
                before.is_some_and(|before| before.held().is_some()) && after.held().is_none()
            }
            TokenEventKind::RotationCompleted {
                rotation, version, previous_valid_until, ..
            } => {
                let previous = after.in_stage(Stage::Previous).and_then(|it| it.not_after);
                rotated_before.is_some_and(|it| it.id == *rotation)
                    && rotates.is_none_or(|it| it.id != *rotation)
                    && after.in_stage(Stage::Current).is_some_and(|it| it.version == *version)
                    && previous == *previous_valid_until
            }
            TokenEventKind::RotationDropped { rotation, version } => {
                rotated_before.is_some_and(|it| it.id == *rotation && !it.presented)
                    && stage_of(before, *version).is_some_and(|(it, _)| it == Stage::Pending)
                    && stage_of(Some(after), *version).is_none()
            }
            TokenEventKind::VersionStageChanged {
                version, stage, stage_before, not_after, ..
            } => {
                let (is, was) = (stage_of(Some(after), *version), stage_of(before, *version));
                let is_there = match stage {
                    Stage::Retired => is.is_none(),
                    stage => is == Some((*stage, *not_after)),
                };
                is_there && was.map(|(stage, _)| stage) == *stage_before
            }
            TokenEventKind::DriftFound { places } => !places.is_empty() && after.drift() == places,
        }
    }
}
