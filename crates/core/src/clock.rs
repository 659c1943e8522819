//! Wall-clock time, and waiting.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

/// Wall-clock time that advances with the runtime's clock. The system's clock is read once at the edge,
/// when an invocation begins, and everything below adds to that reading. Under a paused runtime a test
/// controls the time.
///
/// Created anew for every invocation, because the monotonic clock of a frozen function may not advance.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    began_at: Timestamp,
    began: Instant,
}

impl Clock {
    /// Returns a clock that shows `now` at this moment.
    pub fn starting_at(now: Timestamp) -> Self {
        Self { began_at: now, began: Instant::now() }
    }

    /// Returns the current time in whole milliseconds, so that a time that is saved reads back the same.
    pub fn now(&self) -> Timestamp {
        let elapsed = SignedDuration::try_from(self.began.elapsed()).unwrap_or(SignedDuration::MAX);
        let now = self.began_at.saturating_add(elapsed).unwrap_or(Timestamp::MAX);
        Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now)
    }

    /// Returns the time left until `time`; zero if it has passed.
    pub fn until(&self, time: Timestamp) -> Duration {
        time.duration_since(self.now()).try_into().unwrap_or(Duration::ZERO)
    }

    /// Sleeps until the clock shows `time`. Returns at once if that has passed.
    pub async fn sleep_until(&self, time: Timestamp) {
        tokio::time::sleep(self.until(time)).await;
    }
}
