//! Numbers of versions.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The largest number of a version: audit items are named by ten digits.
const LARGEST_VERSION: u64 = 9_999_999_999;

/// The number of a version of a token. Numbers grow by one and are never used again. The default, 0, comes
/// before the first.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(try_from = "u64", into = "u64")]
pub struct VersionNumber(u64);

impl VersionNumber {
    /// The version with this number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number itself.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The number of the version after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl TryFrom<u64> for VersionNumber {
    type Error = &'static str;

    fn try_from(number: u64) -> Result<Self, Self::Error> {
        let is_plausible = number <= LARGEST_VERSION;
        if is_plausible { Ok(Self(number)) } else { Err("too large a version number") }
    }
}

impl From<VersionNumber> for u64 {
    fn from(version: VersionNumber) -> Self {
        version.0
    }
}

impl fmt::Display for VersionNumber {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}
