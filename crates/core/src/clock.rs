//! What time it is, and waiting.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

/// Wall-clock time that advances with the runtime's clock: one reading of the system's clock is
/// taken at the edge, when an invocation begins, and everything below adds to it. Under a paused
/// runtime a test owns the time.
///
/// Made anew for every invocation: a frozen function's monotonic clock may stand still.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    began_at: Timestamp,
    began: Instant,
}

impl Clock {
    /// A clock that shows `now` now.
    pub fn starting_at(now: Timestamp) -> Self {
        Self { began_at: now, began: Instant::now() }
    }

    /// What it shows, in whole milliseconds: what is saved reads back as the same.
    pub fn now(&self) -> Timestamp {
        let elapsed = SignedDuration::try_from(self.began.elapsed()).unwrap_or(SignedDuration::MAX);
        let now = self.began_at.saturating_add(elapsed).unwrap_or(Timestamp::MAX);
        Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now)
    }

    /// How long it is until `time`; zero when it has passed.
    pub fn until(&self, time: Timestamp) -> Duration {
        time.duration_since(self.now()).try_into().unwrap_or(Duration::ZERO)
    }

    /// Returns when it shows `time`, or at once where that has passed.
    pub async fn sleep_until(&self, time: Timestamp) {
        tokio::time::sleep(self.until(time)).await;
    }
}
