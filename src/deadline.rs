//! The deadline of an invocation, from the runtime's value.

use std::time::Duration;

use jiff::Timestamp;

/// Time at which the invocation that begins now is ended by force. Lambda sends a time, in milliseconds
/// since the epoch. `cargo lambda watch` sends the number of milliseconds that are left, which as a time is
/// long past.
pub fn deadline(sent: u64, now: Timestamp) -> Timestamp {
    let milliseconds = i64::try_from(sent).unwrap_or(i64::MAX);
    let time = Timestamp::from_millisecond(milliseconds).unwrap_or(Timestamp::MAX);
    if time > now {
        return time;
    }
    now.checked_add(Duration::from_millis(sent)).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadline_is_a_time_or_a_duration() {
        let at = |milliseconds| Timestamp::from_millisecond(milliseconds).expect("a time");
        let now = at(1_790_000_000_000);
        assert_eq!(deadline(1_790_000_900_000, now), at(1_790_000_900_000));
        assert_eq!(deadline(600_000, now), at(1_790_000_600_000));
        assert_eq!(deadline(u64::MAX, now), Timestamp::MAX);
    }
}
