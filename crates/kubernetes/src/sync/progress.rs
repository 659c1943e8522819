//! The wait for one ExternalSecret, as states. Pure: requests and clocks belong to the wait that drives it.
//!
//! ```text
//!                    ┌──────── its refresh is forced again ────────┐
//!                    ▼                                             │
//! Unlisted ──► Unsynced ──► a new sync: the Secret is compared ─► Stale
//!     │         ▲    │                    │
//!     ▼         │    ▼                    ▼
//!   Absent ─────┘  Failing              Done
//! ```

use std::time::Duration;

use tokio::time::Instant;

use crate::call::spread;

/// The wait for one ExternalSecret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CopyWait {
    /// Its name in reports, by which pauses are spread.
    object: String,
    /// True if a ClusterExternalSecret makes it, so that its absence may pass.
    is_kept: bool,
    /// The `syncedResourceVersion` whose Secret was compared last.
    compared: String,
    /// The number of refreshes that were forced again.
    refreshes: u32,
    state: CopyState,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CopyState {
    /// No list has shown it yet.
    Unlisted,
    /// It does not exist, although a ClusterExternalSecret must make it.
    Absent { since: Instant },
    /// It has not synced since its refresh was requested.
    Unsynced,
    /// Its last attempt failed. External Secrets tries again by itself.
    Failing {
        since: Instant,
        /// The message of its condition.
        message: String,
        /// The reason, as its newest event gives it.
        reason: String,
        /// The state before, if it had synced another value.
        stale: Option<Stale>,
    },
    /// It synced another value than the published one.
    Stale(Stale),
    /// Its Secret holds what was published.
    Done,
}

/// A Secret that holds another value than the published one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stale {
    pub(super) reason: String,
    /// The time at which a refresh is forced again; `None` after that.
    pub(super) refresh_at: Option<Instant>,
}

/// What is learned of an ExternalSecret.
#[derive(Clone, Debug)]
pub(super) enum CopyEvent {
    /// It does not exist.
    Absent,
    /// It exists.
    Present {
        /// Its `syncedResourceVersion`.
        synced: String,
        /// The message of its condition if that is `Ready=False`.
        failure: Option<String>,
    },
    /// The reason of its failure was read.
    FailureRead(String),
    /// Its Secret was compared with what was published: the reason if it holds something else.
    Compared(Option<String>),
    /// Time has passed.
    Woken,
}

/// The next action of the one who waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CopyAction {
    /// Wait for the next event, or until [`CopyWait::wakes_at`].
    Wait,
    /// Compare the Secret, then [`CopyEvent::Compared`].
    Compare,
    /// Read the reason of this failure, then [`CopyEvent::FailureRead`].
    ReadFailure(String),
    /// Force a refresh.
    Refresh,
    /// Give up: read from its ClusterExternalSecret why it is absent.
    ReadKeeper,
    /// Give up: it keeps failing, with this message.
    GiveUp(String),
    /// Give up, for this reason.
    Block { reason: String, fix: &'static str },
}

impl CopyWait {
    /// A wait that begins. `synced` is its `syncedResourceVersion` before its refresh was forced.
    pub(super) fn new(object: String, is_kept: bool, synced: String) -> Self {
        let state = CopyState::Unlisted;
        Self { object, is_kept, compared: synced, refreshes: 0, state }
    }

    pub(super) fn is_done(&self) -> bool {
        self.state == CopyState::Done
    }

    /// Returns the wait after an event, and the action that it calls for.
    pub(super) fn on(self, event: CopyEvent, now: Instant) -> (Self, CopyAction) {
        if self.is_done() {
            return (self, CopyAction::Wait);
        }
        match event {
            CopyEvent::Absent => self.absent(now),
            CopyEvent::Present { synced, failure } if synced == self.compared => {
                self.unsynced(failure, now)
            }
            // A new sync proves nothing by itself: the Secret must hold the published values.
            CopyEvent::Present { synced, .. } => {
                (Self { compared: synced, state: CopyState::Unsynced, ..self }, CopyAction::Compare)
            }
            CopyEvent::FailureRead(read) => self.explained(read),
            CopyEvent::Compared(None) => (self.with(CopyState::Done), CopyAction::Wait),
            CopyEvent::Compared(Some(reason)) => self.stale(reason, now),
            CopyEvent::Woken => self.woken(now),
        }
    }

    /// One that nothing makes again is blocked at once.
    fn absent(self, now: Instant) -> (Self, CopyAction) {
        if !self.is_kept {
            let reason = "it does not exist".to_owned();
            return (self, CopyAction::Block { reason, fix: "create it, or correct the spec" });
        }
        let since = match self.state {
            CopyState::Absent { since } => since,
            _ => now,
        };
        (self.with(CopyState::Absent { since }), CopyAction::Wait)
    }

    /// No sync since the last one that was compared. A failure may pass, so its time starts here.
    fn unsynced(self, failure: Option<String>, now: Instant) -> (Self, CopyAction) {
        match (self.state.clone(), failure) {
            (CopyState::Failing { .. }, Some(_)) => (self, CopyAction::Wait),
            (before, Some(message)) => {
                let stale = match before {
                    CopyState::Stale(stale) => Some(stale),
                    _ => None,
                };
                let reason = message.clone();
                let state =
                    CopyState::Failing { since: now, message: reason.clone(), reason, stale };
                (self.with(state), CopyAction::ReadFailure(message))
            }
            (CopyState::Stale(stale) | CopyState::Failing { stale: Some(stale), .. }, None)
                if stale.refresh_at.is_some() =>
            {
                (self.with(CopyState::Stale(stale)), CopyAction::Wait)
            }
            (_, None) => (self.with(CopyState::Unsynced), CopyAction::Wait),
        }
    }

    fn explained(mut self, read: String) -> (Self, CopyAction) {
        if let CopyState::Failing { reason, .. } = &mut self.state {
            *reason = read;
        }
        (self, CopyAction::Wait)
    }

    /// It synced another value. The store may lag, so it is forced again until the attempts are used up.
    fn stale(self, reason: String, now: Instant) -> (Self, CopyAction) {
        if self.refreshes == REFRESHES {
            let reason = format!("it synced {} times and {reason}", self.refreshes + 1);
            return (self, CopyAction::Block { reason, fix: SEE_WRITERS });
        }
        let pause = FIRST_REFRESH_AFTER * 2_u32.pow(self.refreshes);
        let refresh_at = Some(now + spread(pause, &self.object));
        (self.with(CopyState::Stale(Stale { reason, refresh_at })), CopyAction::Wait)
    }

    /// Acts on the timer that has expired, if one has. A refresh comes before giving up.
    fn woken(mut self, now: Instant) -> (Self, CopyAction) {
        if let CopyState::Stale(stale) | CopyState::Failing { stale: Some(stale), .. } =
            &mut self.state
            && stale.refresh_at.take_if(|at| *at <= now).is_some()
        {
            self.refreshes += 1;
            return (self, CopyAction::Refresh);
        }
        let action = match &self.state {
            CopyState::Absent { since } if *since + ABSENT_FOR <= now => CopyAction::ReadKeeper,
            CopyState::Failing { since, message, .. } if *since + FAILING_FOR <= now => {
                CopyAction::GiveUp(message.clone())
            }
            _ => CopyAction::Wait,
        };
        (self, action)
    }

    /// The time of the next action that needs no event.
    pub(super) fn wakes_at(&self) -> Option<Instant> {
        match &self.state {
            CopyState::Absent { since } => Some(*since + ABSENT_FOR),
            CopyState::Stale(stale) => stale.refresh_at,
            CopyState::Failing { since, stale, .. } => {
                let refresh_at = stale.as_ref().and_then(|it| it.refresh_at);
                refresh_at.into_iter().chain([*since + FAILING_FOR]).min()
            }
            CopyState::Unlisted | CopyState::Unsynced | CopyState::Done => None,
        }
    }

    /// The condition that is awaited of the ExternalSecret `name`, which `keeper` keeps, in words.
    pub(super) fn awaited(&self, name: &str, keeper: Option<&str>) -> String {
        match &self.state {
            CopyState::Unlisted => format!("ExternalSecret {name} was not looked at yet"),
            CopyState::Absent { .. } => format!(
                "ClusterExternalSecret {} has not made ExternalSecret {name} here",
                keeper.unwrap_or_default()
            ),
            CopyState::Unsynced => {
                format!("ExternalSecret {name} has not synced since its refresh was requested")
            }
            CopyState::Failing { reason, .. } => {
                format!("ExternalSecret {name} fails to sync: {reason}")
            }
            CopyState::Stale(stale) => {
                format!("ExternalSecret {name} has synced, and {}", stale.reason)
            }
            CopyState::Done => format!("ExternalSecret {name} has synced"),
        }
    }

    fn with(self, state: CopyState) -> Self {
        Self { state, ..self }
    }
}

/// The number of times that an ExternalSecret which synced another value is forced to refresh again, with
/// pauses of 1, 2, 4, 8 and 16 s and a little more.
const REFRESHES: u32 = 5;

/// The first of these pauses.
const FIRST_REFRESH_AFTER: Duration = Duration::from_secs(1);

/// The time after which a failing ExternalSecret is reported as stuck: External Secrets itself tries again
/// after 1, 2, 4, ... s.
const FAILING_FOR: Duration = Duration::from_secs(60);

/// The time in which a ClusterExternalSecret that was just patched must make its ExternalSecret.
const ABSENT_FOR: Duration = Duration::from_secs(15);

const SEE_WRITERS: &str = "see who else writes the parameter or the Secret, and whether its SecretStore reads \
                           the account and region that changeover publishes to";

#[cfg(test)]
mod tests {
    use super::{CopyAction::*, CopyState::*, *};

    /// Seconds after the start of a test.
    fn at(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    fn present(synced: &str, failure: Option<&str>) -> CopyEvent {
        CopyEvent::Present { synced: synced.to_owned(), failure: failure.map(str::to_owned) }
    }

    fn failing(since: Instant, stale: Option<super::Stale>) -> CopyState {
        Failing { since, message: "down".to_owned(), reason: "down".to_owned(), stale }
    }

    fn old(refresh_at: Option<Instant>) -> super::Stale {
        super::Stale { reason: "holds old".to_owned(), refresh_at }
    }

    #[tokio::test(start_paused = true)]
    #[expect(clippy::too_many_lines, reason = "a table")]
    async fn copy_transitions_match_table() {
        let t = Instant::now();
        let now = at(t, 100);
        let refresh_at = Some(now + spread(FIRST_REFRESH_AFTER, "copy"));
        let absent =
            Block { reason: "it does not exist".into(), fix: "create it, or correct the spec" };
        // A copy that was synced at `a` before; whether a ClusterExternalSecret makes it; its state, the
        // event, the state after, and the action.
        let table = [
            // Absence: blocked at once, unless it will be made; the time of an absence starts once.
            (false, Unsynced, CopyEvent::Absent, Unsynced, absent),
            (true, Unlisted, CopyEvent::Absent, Absent { since: now }, Wait),
            (true, Absent { since: t }, CopyEvent::Absent, Absent { since: t }, Wait),
            (
                true,
                Absent { since: at(t, 86) },
                CopyEvent::Woken,
                Absent { since: at(t, 86) },
                Wait,
            ),
            (
                true,
                Absent { since: at(t, 85) },
                CopyEvent::Woken,
                Absent { since: at(t, 85) },
                ReadKeeper,
            ),
            (true, Absent { since: t }, present("a", None), Unsynced, Wait),
            // The sync before the refresh proves nothing; a new one is compared.
            (false, Unlisted, present("a", None), Unsynced, Wait),
            (false, Unsynced, present("b", None), Unsynced, Compare),
            (false, failing(t, None), present("b", None), Unsynced, Compare),
            (false, Unsynced, CopyEvent::Compared(None), Done, Wait),
            // A failure is explained once, may pass, and is given up after a minute.
            (
                false,
                Unsynced,
                present("a", Some("down")),
                failing(now, None),
                ReadFailure("down".into()),
            ),
            (false, failing(t, None), present("a", Some("other")), failing(t, None), Wait),
            (false, failing(t, None), present("a", None), Unsynced, Wait),
            (false, failing(at(t, 41), None), CopyEvent::Woken, failing(at(t, 41), None), Wait),
            (
                false,
                failing(at(t, 40), None),
                CopyEvent::Woken,
                failing(at(t, 40), None),
                GiveUp("down".into()),
            ),
            // Another value: forced again after a pause, which a failure in between does not cancel.
            (
                false,
                Unsynced,
                CopyEvent::Compared(Some("holds old".into())),
                Stale(old(refresh_at)),
                Wait,
            ),
            (
                false,
                Stale(old(Some(at(t, 101)))),
                CopyEvent::Woken,
                Stale(old(Some(at(t, 101)))),
                Wait,
            ),
            (false, Stale(old(Some(now))), CopyEvent::Woken, Stale(old(None)), Refresh),
            (false, Stale(old(Some(now))), present("a", None), Stale(old(Some(now))), Wait),
            (false, Stale(old(None)), present("a", None), Unsynced, Wait),
            (
                false,
                Stale(old(Some(now))),
                present("a", Some("down")),
                failing(now, Some(old(Some(now)))),
                ReadFailure("down".into()),
            ),
            (
                false,
                failing(t, Some(old(Some(now)))),
                CopyEvent::Woken,
                failing(t, Some(old(None))),
                Refresh,
            ),
            (
                false,
                failing(t, Some(old(Some(now)))),
                present("a", None),
                Stale(old(Some(now))),
                Wait,
            ),
            // Nothing that is learned later concerns one that is done.
            (false, Done, CopyEvent::Absent, Done, Wait),
            (false, Done, present("c", Some("down")), Done, Wait),
        ];
        for (is_kept, state, event, expected, action) in table {
            let before = CopyWait::new("copy".to_owned(), is_kept, "a".to_owned()).with(state);
            let case = format!("{before:?} on {event:?}");
            let (after, called_for) = before.on(event, now);
            assert_eq!((after.state, called_for), (expected, action), "{case}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn refreshes_are_bounded_and_their_pauses_grow() {
        let mut wait = CopyWait::new("copy".to_owned(), false, "0".to_owned());
        let mut now = Instant::now();
        let mut pauses = Vec::new();
        let blocked = loop {
            let sync = present(&format!("{}", pauses.len() + 1), None);
            let (synced, action) = wait.on(sync, now);
            assert_eq!(action, Compare);
            let (stale, action) = synced.on(CopyEvent::Compared(Some("holds old".into())), now);
            if let Block { reason, .. } = action {
                break reason;
            }
            let wakes_at = stale.wakes_at().expect("a refresh is due");
            pauses.push((wakes_at - now).as_secs());
            now = wakes_at;
            let (refreshed, action) = stale.on(CopyEvent::Woken, now);
            assert_eq!((action, refreshed.wakes_at()), (Refresh, None));
            wait = refreshed;
        };
        assert_eq!(blocked, "it synced 6 times and holds old");
        assert!(pauses.is_sorted() && pauses.len() == 5, "{pauses:?}");
    }
}
