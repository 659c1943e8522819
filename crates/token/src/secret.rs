//! Values of tokens, which no text shows.

use std::fmt;

use zeroize::Zeroizing;

use crate::{
    Digest,
    generation::{most_bits, weakness},
};

/// The value of a token. It is wiped from memory when dropped. Neither `Debug` nor `Display` show it:
/// [`Secret::expose`] is the only access to it.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes over a value that was issued elsewhere or found in a publication.
    ///
    /// # Errors
    /// [`Unfit`], without the value, if it could not be presented, published or stored as it is: empty,
    /// above 4,096 bytes (the size of a standard SSM parameter), with `{{`, which SSM refuses in a
    /// parameter's value, or with anything but visible ASCII, `!` to `~`. A token must fit a header, and
    /// clients refuse to send other characters (RFC 9110, section 5.5).
    pub fn adopt(value: String) -> Result<Self, Unfit> {
        let value = Zeroizing::new(value);
        let stranger = value.chars().enumerate().find(|(_, c)| !c.is_ascii_graphic());
        match stranger {
            _ if value.is_empty() => Err(Unfit::Empty),
            _ if value.len() > LARGEST_VALUE => Err(Unfit::TooLong { bytes: value.len() }),
            Some((before, character)) => {
                Err(Unfit::Character { position: before + 1, code: u32::from(character) })
            }
            None if value.contains("{{") => Err(Unfit::Braces),
            None => Ok(Self(value)),
        }
    }

    /// Takes over a value that was just made.
    pub(crate) fn of(value: Zeroizing<String>) -> Self {
        Self(value)
    }

    /// Takes a text without any check: the stored content of a publication, or the content to be stored.
    pub fn verbatim(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The value. Callers must pass it to a store or a cipher, and nowhere else.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// SHA-256 of the value's UTF-8 bytes.
    pub fn digest(&self) -> Digest {
        Digest::of(self.expose())
    }

    /// Upper bound of its random bits, by its length and its alphabet.
    pub fn bits(&self) -> u16 {
        most_bits(self.expose())
    }

    /// The reason why it has fewer than so many random bits; `None` if its length and its alphabet do not
    /// show that. The source of its bits cannot be seen.
    pub fn weakness(&self, least_bits: u16) -> Option<String> {
        weakness(self.expose(), least_bits)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(REDACTED)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(REDACTED)
    }
}

const REDACTED: &str = "[redacted]";

/// The reason why a value cannot be a token. It does not repeat the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// It has no characters.
    #[error("it is empty")]
    Empty,
    /// It does not fit a standard SSM parameter.
    #[error("it has {bytes} bytes and a standard SSM parameter holds {LARGEST_VALUE}")]
    TooLong {
        /// Its length in bytes.
        bytes: usize,
    },
    /// It holds a character that is not visible ASCII.
    #[error("character {position} is U+{code:04X}, and a token is visible ASCII, from ! to ~")]
    Character {
        /// Position of the character, counted from 1.
        position: usize,
        /// Its code point.
        code: u32,
    },
    /// SSM would take it for a reference to another parameter.
    #[error("it contains \"{{{{\", which SSM refuses in a value")]
    Braces,
}

/// Size of a standard SSM parameter, in bytes (BOTO ssm 2014-11-06, `PutParameter`).
pub const LARGEST_VALUE: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unpublishable_values_are_not_adopted() {
        let too_long = "x".repeat(LARGEST_VALUE + 1);
        let unfit =
            ["", "a b", "a\n", "\u{a0}a", "a\u{7}", "a{{b", "ä", "\u{feff}a", "a\u{200b}b", "a…"];
        for value in unfit.into_iter().chain([too_long.as_str()]) {
            Secret::adopt(value.to_owned()).expect_err(value);
        }
        let longest = "x".repeat(LARGEST_VALUE);
        for value in ["x", "{}", "!~", longest.as_str()] {
            assert_eq!(Secret::adopt(value.to_owned()).expect(value).expose(), value);
        }
    }
}
