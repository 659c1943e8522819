//! The wait for one workload, as states. Pure: requests and clocks belong to the wait that drives it.
//!
//! ```text
//! Awaited ◄──► Complete ──► Ended, as done: a list of all pods has confirmed it
//!    │            │
//!    └────────────┴───────► Ended, as stuck or ahead
//! ```

use std::time::Duration;

use changeover_core::{ports::Progress, record::Held};
use tokio::time::Instant;

use crate::workload::RolloutStatus;

/// The wait for one workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RolloutWait {
    /// It is not rolled out.
    Awaited {
        /// What is awaited, in words.
        words: String,
        suspicion: Option<Suspicion>,
    },
    /// It is rolled out, as far as the watches have reported.
    Complete,
    /// It has its final answer.
    Ended(Progress<()>),
}

/// Trouble that seldom passes by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Suspicion {
    problem: String,
    certain_at: Instant,
}

/// What is learned of a workload.
#[derive(Clone, Debug)]
pub(super) enum RolloutEvent {
    /// It was judged with its pods.
    Judged(RolloutStatus),
    /// Its object is gone, or is another one.
    Lost(Held),
    /// The reason that its pods are not made was read; `None` if there is none.
    RefusalRead(Option<Held>),
    /// A list of all pods left the last judgement in place.
    Confirmed,
}

/// The next action of the one who waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RolloutAction {
    /// Wait for the next event, or until [`RolloutWait::wakes_at`].
    Wait,
    /// Read why its pods are not made, then [`RolloutEvent::RefusalRead`].
    ReadRefusal,
}

impl RolloutWait {
    /// A wait that begins.
    pub(super) fn new() -> Self {
        Self::Awaited { words: "it was not looked at yet".to_owned(), suspicion: None }
    }

    pub(super) fn has_ended(&self) -> bool {
        matches!(self, Self::Ended(_))
    }

    pub(super) fn is_complete(&self) -> bool {
        matches!(self, Self::Complete)
    }

    /// True if it ended otherwise than rolled out.
    pub(super) fn is_stopped(&self) -> bool {
        matches!(self, Self::Ended(ended) if *ended != Progress::Done(()))
    }

    /// The time of the next action that needs no event.
    pub(super) fn wakes_at(&self) -> Option<Instant> {
        match self {
            Self::Awaited { suspicion, .. } => suspicion.as_ref().map(|it| it.certain_at),
            Self::Complete | Self::Ended(_) => None,
        }
    }

    /// Its progress when the wait is over.
    pub(super) fn progress(self) -> Progress<()> {
        match self {
            Self::Ended(ended) => ended,
            Self::Awaited { words, .. } => Progress::UnderWay(words),
            Self::Complete => {
                Progress::UnderWay("all pods are replaced, by all that is known".to_owned())
            }
        }
    }

    /// Returns the wait after an event, and the action that it calls for.
    pub(super) fn on(self, event: RolloutEvent, now: Instant) -> (Self, RolloutAction) {
        match (self, event) {
            // Even after it was rolled out: the others of its side are still waited for.
            (_, RolloutEvent::Lost(held)) => (Self::stuck(held), RolloutAction::Wait),
            (ended @ Self::Ended(_), _) => (ended, RolloutAction::Wait),
            (before, RolloutEvent::Judged(status)) => before.judged(status, now),
            (before, RolloutEvent::RefusalRead(read)) => {
                (before.explained(read, now), RolloutAction::Wait)
            }
            (Self::Complete, RolloutEvent::Confirmed) => {
                (Self::Ended(Progress::Done(())), RolloutAction::Wait)
            }
            (before, RolloutEvent::Confirmed) => (before, RolloutAction::Wait),
        }
    }

    fn judged(self, status: RolloutStatus, now: Instant) -> (Self, RolloutAction) {
        let after = match status {
            RolloutStatus::Done => Self::Complete,
            RolloutStatus::Stuck(held) => Self::stuck(held),
            RolloutStatus::Ahead(found) => Self::Ended(Progress::Ahead(found)),
            RolloutStatus::UnderWay(words) => Self::Awaited { words, suspicion: None },
            RolloutStatus::Suspect { problem, held } => {
                let suspicion = self.suspicion(problem, now);
                if suspicion.certain_at <= now {
                    Self::stuck(held)
                } else {
                    Self::Awaited { words: held.reason, suspicion: Some(suspicion) }
                }
            }
            // The reason is in an event alone.
            RolloutStatus::Missing(words) => {
                let suspicion = self.suspicion(MISSING.to_owned(), now);
                let is_certain = suspicion.certain_at <= now;
                let after = Self::Awaited { words, suspicion: Some(suspicion) };
                return (
                    after,
                    if is_certain { RolloutAction::ReadRefusal } else { RolloutAction::Wait },
                );
            }
        };
        (after, RolloutAction::Wait)
    }

    /// Without a reason for the missing pods, the suspicion starts anew.
    fn explained(self, read: Option<Held>, now: Instant) -> Self {
        match (self, read) {
            (_, Some(held)) => Self::stuck(held),
            (Self::Awaited { words, .. }, None) => {
                Self::Awaited { words, suspicion: Some(Suspicion::new(MISSING.to_owned(), now)) }
            }
            (before, None) => before,
        }
    }

    /// The suspicion of this problem: the present one if it is of the same, or else one that starts now.
    fn suspicion(self, problem: String, now: Instant) -> Suspicion {
        match self {
            Self::Awaited { suspicion: Some(known), .. } if known.problem == problem => known,
            _ => Suspicion::new(problem, now),
        }
    }

    fn stuck(held: Held) -> Self {
        Self::Ended(Progress::Stuck(held))
    }
}

impl Suspicion {
    fn new(problem: String, now: Instant) -> Self {
        Self { problem, certain_at: now + SUSPECTED_FOR }
    }
}

/// The time that trouble which seldom passes must last to be reported. A kubelet may see a Secret or an
/// image a moment late, and a quota is free again when the older pods are gone.
const SUSPECTED_FOR: Duration = Duration::from_secs(15);

/// The suspicion if pods are not made.
const MISSING: &str = "pods are missing";

#[cfg(test)]
mod tests {
    use changeover_token::Fence;

    use super::{RolloutAction::*, RolloutEvent::*, RolloutWait::*, *};

    fn held() -> Held {
        Held::new("web", "image cannot be pulled", "correct it")
    }

    fn suspect(problem: &str) -> RolloutEvent {
        Judged(RolloutStatus::Suspect { problem: problem.to_owned(), held: held() })
    }

    fn missing() -> RolloutEvent {
        Judged(RolloutStatus::Missing("1 pod".to_owned()))
    }

    /// A wait whose suspicion of this problem is certain after so many seconds.
    fn suspected(words: &str, problem: &str, certain_at: Instant) -> RolloutWait {
        let suspicion = Some(Suspicion { problem: problem.to_owned(), certain_at });
        Awaited { words: words.to_owned(), suspicion }
    }

    #[tokio::test(start_paused = true)]
    async fn rollout_transitions_match_table() {
        let now = Instant::now() + Duration::from_secs(100);
        let later = now + Duration::from_secs(1);
        let (left, pull) = ("1 pod", "image cannot be pulled");
        let awaited = Awaited { words: left.to_owned(), suspicion: None };
        let under_way = Judged(RolloutStatus::UnderWay(left.to_owned()));
        let stuck = Ended(Progress::Stuck(held()));
        let done = Ended(Progress::Done(()));
        let ahead = Fence::bare(8);
        // The state, the event, the state after, and the action.
        let table = [
            (RolloutWait::new(), under_way.clone(), awaited.clone(), Wait),
            // Complete is not done until a list of all pods confirms it, and may pass before that.
            (RolloutWait::new(), Judged(RolloutStatus::Done), Complete, Wait),
            (Complete, under_way.clone(), awaited.clone(), Wait),
            (Complete, Confirmed, done.clone(), Wait),
            (awaited.clone(), Confirmed, awaited.clone(), Wait),
            // Certain at once.
            (Complete, Judged(RolloutStatus::Stuck(held())), stuck.clone(), Wait),
            (
                RolloutWait::new(),
                Judged(RolloutStatus::Ahead(ahead)),
                Ended(Progress::Ahead(ahead)),
                Wait,
            ),
            // Suspicion starts with its problem, lasts as long as the same problem does, and ends with it.
            (awaited.clone(), suspect("a"), suspected(pull, "a", now + SUSPECTED_FOR), Wait),
            (suspected(pull, "a", later), suspect("a"), suspected(pull, "a", later), Wait),
            (
                suspected(pull, "a", later),
                suspect("b"),
                suspected(pull, "b", now + SUSPECTED_FOR),
                Wait,
            ),
            (suspected(pull, "a", now), suspect("a"), stuck.clone(), Wait),
            (suspected(pull, "a", now), under_way.clone(), awaited.clone(), Wait),
            (suspected(pull, "a", now), Judged(RolloutStatus::Done), Complete, Wait),
            // The reason for missing pods is read when they have been missing for long enough.
            (awaited.clone(), missing(), suspected(left, MISSING, now + SUSPECTED_FOR), Wait),
            (suspected(left, MISSING, later), missing(), suspected(left, MISSING, later), Wait),
            (suspected(left, MISSING, now), missing(), suspected(left, MISSING, now), ReadRefusal),
            (suspected(left, MISSING, now), RefusalRead(Some(held())), stuck.clone(), Wait),
            (
                suspected(left, MISSING, now),
                RefusalRead(None),
                suspected(left, MISSING, now + SUSPECTED_FOR),
                Wait,
            ),
            // The end is final, unless the object is lost.
            (done.clone(), under_way, done.clone(), Wait),
            (stuck.clone(), Judged(RolloutStatus::Done), stuck.clone(), Wait),
            (done, Lost(held()), stuck.clone(), Wait),
            (Complete, Lost(held()), stuck, Wait),
        ];
        for (before, event, expected, action) in table {
            let case = format!("{before:?} on {event:?}");
            assert_eq!(before.on(event, now), (expected, action), "{case}");
        }
    }
}
