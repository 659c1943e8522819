//! Fences: the order of two writes, and of two records.
//!
//! A record can be younger than the publications that it finds: a stack was created again, the table was
//! restored, or a manifest was copied from another cluster. So a revision alone orders nothing. A fence is
//! the pair of the record's life and of one of its revisions, and everything that a record writes carries
//! one: items, accepted documents, stamps and Secrets. Fences have a total order, life first.

use std::{fmt, str::FromStr, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::time::{EARLIEST, LATEST};

/// The identity of a record: its time of creation, in milliseconds, and a random number.
///
/// It is written as [`Life::WIDTH`] lower-case hexadecimal digits, 12 of the time and 8 of the number, so
/// that texts compare as lives do: here, in a condition of DynamoDB, and in an annotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Life {
    created_ms: u64,
    random: u32,
}

/// A revision of a record, and the life of the record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fence {
    /// The record's life. `None` is below every life: it was written by a version of changeover without
    /// lives.
    pub life: Option<Life>,
    /// The record's revision.
    pub revision: u64,
}

/// The error of a text that is not a life, or not a fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotAFence(&'static str);

impl Life {
    /// The number of digits of a life.
    pub const WIDTH: usize = 20;

    /// The life of a record that is created now.
    pub fn new(created_at: Timestamp, random: u32) -> Self {
        let created_at = created_at.clamp(EARLIEST, LATEST - Duration::from_millis(1));
        Self { created_ms: created_at.as_millisecond().unsigned_abs(), random }
    }

    /// Time at which the record was created, by the clock that created it.
    pub fn created_at(self) -> Timestamp {
        i64::try_from(self.created_ms)
            .ok()
            .and_then(|ms| Timestamp::from_millisecond(ms).ok())
            .unwrap_or(EARLIEST)
    }

    /// This life, or one just above `found`, if this one is below it only because clocks disagree. A life
    /// that was found further ahead than `CLOCKS_DISAGREE` stays above this one.
    #[must_use]
    pub fn above(self, found: Option<Life>) -> Self {
        let farthest = self.created_at() + CLOCKS_DISAGREE;
        match found {
            Some(found) if found >= self && found.created_at() <= farthest => {
                Self { created_ms: found.created_ms + 1, ..self }
            }
            _ => self,
        }
    }

    /// The least revision of a view that changes now: the tenths of a second since the record was created.
    ///
    /// A record that was restored from a backup has the revision of the backup. If it only counted up from
    /// there, it would give the same revisions to other views, and a stamp of the first view would prove
    /// the second.
    pub fn least_revision(self, now: Timestamp) -> u64 {
        let age_ms = now.as_millisecond() - self.created_at().as_millisecond();
        u64::try_from(age_ms).unwrap_or(0) / 100
    }
}

impl fmt::Display for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:012x}{:08x}", self.created_ms, self.random)
    }
}

impl FromStr for Life {
    type Err = NotAFence;

    fn from_str(text: &str) -> Result<Self, NotAFence> {
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if text.len() != Self::WIDTH || !text.bytes().all(is_digit) {
            return Err(NotAFence("a life has 20 lower-case hexadecimal digits"));
        }
        let (created, random) = text.split_at(12);
        let created_ms = u64::from_str_radix(created, 16).unwrap_or(u64::MAX);
        let random = u32::from_str_radix(random, 16).unwrap_or(u32::MAX);
        let range = EARLIEST.as_millisecond()..LATEST.as_millisecond();
        match i64::try_from(created_ms) {
            Ok(ms) if range.contains(&ms) => Ok(Self { created_ms, random }),
            _ => Err(NotAFence("a life begins between the years 2000 and 3000")),
        }
    }
}

impl Serialize for Life {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Life {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

impl Fence {
    /// The highest revision that is read. A record can still be raised above it: its own revisions may be
    /// twice as high.
    pub const LARGEST_REVISION: u64 = 1 << 52;

    /// A fence of a record without a life.
    pub const fn bare(revision: u64) -> Self {
        Self { life: None, revision }
    }
}

/// `<life>.<revision>`, or the revision alone.
impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.life {
            Some(life) => write!(f, "{life}.{}", self.revision),
            None => write!(f, "{}", self.revision),
        }
    }
}

impl FromStr for Fence {
    type Err = NotAFence;

    fn from_str(text: &str) -> Result<Self, NotAFence> {
        let (life, number) = match text.split_once('.') {
            Some((life, number)) => (Some(life.parse()?), number),
            None => (None, text),
        };
        let revision = number.parse().map_err(|_| NotAFence("a revision is a whole number"))?;
        let fence = Self { life, revision };
        // Equal fences must have equal texts, so neither a sign nor leading zeros are accepted.
        let is_read = revision <= Self::LARGEST_REVISION && fence.to_string() == text;
        is_read.then_some(fence).ok_or(NotAFence("a revision is a whole number below 2^52"))
    }
}

/// The longest time by which the clocks of two functions are assumed to disagree.
const CLOCKS_DISAGREE: Duration = Duration::from_secs(3600);
