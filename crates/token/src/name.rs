//! Names of tokens.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The name of a token: `[a-z0-9-]{1,63}`. It identifies the token everywhere and reveals nothing of its
/// value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TokenName(String);

impl TokenName {
    /// Reads a name.
    ///
    /// # Errors
    /// [`NotAName`], which does not repeat the text: a token itself may have been passed by mistake.
    pub fn parse(name: &str) -> Result<Self, NotAName> {
        let length = name.chars().count();
        let stranger = name.chars().position(|c| !matches!(c, 'a'..='z' | '0'..='9' | '-'));
        match stranger {
            Some(position) => Err(NotAName::Character { position: position + 1 }),
            None if !(1..=63).contains(&length) => Err(NotAName::Length { length }),
            None => Ok(Self(name.to_owned())),
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TokenName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::str::FromStr for TokenName {
    type Err = NotAName;

    fn from_str(name: &str) -> Result<Self, NotAName> {
        Self::parse(name)
    }
}

impl TryFrom<String> for TokenName {
    type Error = NotAName;

    fn try_from(name: String) -> Result<Self, NotAName> {
        Self::parse(&name)
    }
}

impl From<TokenName> for String {
    fn from(name: TokenName) -> String {
        name.0
    }
}

/// The reason why a text is not the name of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAName {
    /// It is empty or too long.
    #[error("a token's name has 1 to 63 characters and this has {length}")]
    Length {
        /// Number of its characters.
        length: usize,
    },
    /// It holds a character that names do not have.
    #[error("a token's name has only a-z, 0-9 and '-', and character {position} is none of these")]
    Character {
        /// Position of the character, counted from 1.
        position: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_the_contract_says() {
        let longest = "n".repeat(63);
        for name in ["datastore-token", "7", "-", longest.as_str()] {
            assert_eq!(TokenName::parse(name).expect(name).to_string(), name);
        }
        let too_long = "n".repeat(64);
        for name in ["", "Token", "a_b", "a/b", "a b", "ä", too_long.as_str()] {
            assert!(TokenName::parse(name).is_err(), "{name}");
        }
    }

    #[test]
    fn refused_name_is_not_repeated() {
        let error = TokenName::parse("ds_S3cretS3cret").expect_err("'_' is not of a name");
        assert!(!format!("{error} {error:?}").contains("S3cret"));
    }
}
