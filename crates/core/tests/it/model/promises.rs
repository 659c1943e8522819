//! Promises that hold in every state.

use changeover_core::record::Leg;

use super::{Protocol, omission::Omission, state::State};

/// Every verifier accepts the token of every presenter.
pub(super) const AUTHENTICATES: &str = "authentication fails";
/// Once the leg that publishes an end is complete, no verifier accepts a token past its end.
pub(super) const ENDS: &str = "a token is accepted past its end";
/// Once a rotation is over, no presenter presents a token other than the current one.
pub(super) const MOVES: &str = "a token that is not current is presented";
/// At most one version is pending.
pub(super) const ONE_PENDING: &str = "two versions are pending";
/// A session never asks for a change that the record refuses.
pub(super) const IS_LEGAL: &str = "a turn asks for a change that is not legal";
/// From every state, a rotation completes if nothing more disturbs it.
pub(super) const COMPLETES: &str = "a rotation never completes";
/// From every state, a rotation completes or is held, even if no pod ever starts again.
pub(super) const ANSWERS: &str = "a rotation neither completes nor is held";

impl Protocol {
    /// The promises that this state breaks.
    pub(super) fn promises_broken(&self, state: &State) -> Vec<&'static str> {
        let stored = self.facts(state.stored.record);
        let [verifiers, presenters] = &state.sides;
        let accepted = [verifiers.pod, verifiers.cached].map(|view| view.accepted(state.ended));
        let presented = [presenters.pod, presenters.cached].map(|view| view.versions);
        let mut broken = Vec::new();
        if presented.iter().any(|it| accepted.iter().any(|accepted| accepted & it != *it)) {
            broken.push(AUTHENTICATES);
        }
        if stored.pending > 1 {
            broken.push(ONE_PENDING);
        }
        if state.is_refused {
            broken.push(IS_LEGAL);
        }
        // While a late write may land, drift detection is due after it, and repairs what the write leaves
        // behind.
        if stored.will_be_compared {
            return broken;
        }
        let verifiers_know = match stored.owed {
            None | Some((Leg::Migrate | Leg::Contract, _)) => true,
            Some((Leg::Expand | Leg::Overlap, _)) => false,
        };
        // No leg waits for readers' caches when an end is published, so a cache may learn of it that much
        // later.
        let lags = verifiers.cached != verifiers.place;
        let [pod, cached] = accepted.map(|accepted| accepted & !stored.live != 0);
        if verifiers_know && (pod || (cached && !lags)) {
            broken.push(ENDS);
        }
        let is_over = stored.purpose.is_none();
        if is_over && presented.iter().any(|it| *it != 1 << stored.current) {
            broken.push(MOVES);
        }
        broken
    }

    /// True if nothing is owed and every reader holds what the record says.
    pub(super) fn is_clean(&self, state: &State) -> bool {
        let stored = self.facts(state.stored.record);
        let is_quiet = state.turns.is_empty()
            && state.air.is_empty()
            && stored.owed.is_none()
            && !stored.is_leased
            && (!stored.will_be_compared || self.omits(Omission::Comparison))
            && !stored.has_drift;
        is_quiet
            && (0..2).all(|side| {
                let readers = &state.sides[side];
                let view = stored.views[side];
                let is_synced = self.fenced[side] || readers.secret == view;
                readers.place == view
                    && is_synced
                    && readers.cached == view
                    && readers.pod.accepted(state.ended) == view.accepted(state.ended)
            })
    }
}
