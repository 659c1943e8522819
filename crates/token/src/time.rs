//! The text form of times, in records and in answers.

use jiff::Timestamp;

/// RFC 3339 in UTC with milliseconds: the form of all times that changeover writes.
pub fn milliseconds(time: Timestamp) -> String {
    format!("{time:.3}")
}

/// The time in a text of that form, if changeover may have written it: durations can be added to it without
/// overflow.
pub fn read(text: &str) -> Option<Timestamp> {
    text.parse().ok().filter(|time| (EARLIEST..LATEST).contains(time))
}

/// 2000-01-01T00:00:00Z.
pub const EARLIEST: Timestamp = Timestamp::constant(946_684_800, 0);
/// 3000-01-01T00:00:00Z.
pub const LATEST: Timestamp = Timestamp::constant(32_503_680_000, 0);

/// Serde form of times in the record: RFC 3339 with milliseconds. All have the same width, so that they
/// sort as text.
pub mod in_milliseconds {
    use jiff::Timestamp;
    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    /// Writes the time as text.
    pub fn serialize<S: Serializer>(time: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&super::milliseconds(*time))
    }

    /// Reads a time that `serialize` wrote.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Timestamp, D::Error> {
        let text = String::deserialize(from)?;
        super::read(&text).ok_or_else(|| D::Error::custom("no time, or one out of the question"))
    }
}

/// The same for times that may be absent.
pub mod optional_milliseconds {
    use jiff::Timestamp;
    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes the time as text, or nothing.
    pub fn serialize<S: Serializer>(time: &Option<Timestamp>, to: S) -> Result<S::Ok, S::Error> {
        match time {
            Some(time) => super::in_milliseconds::serialize(time, to),
            None => to.serialize_none(),
        }
    }

    /// Reads a time that `serialize` wrote.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Timestamp>, D::Error> {
        #[derive(Deserialize)]
        struct Present(#[serde(with = "super::in_milliseconds")] Timestamp);

        Ok(Option::<Present>::deserialize(from)?.map(|Present(time)| time))
    }
}
