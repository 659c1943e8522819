//! Tokens: their names, values, digests, and the generation of new values.

use std::{collections::BTreeSet, fmt};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::TryCryptoRng;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

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

/// The stage of a version, by Secrets Manager's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Accepted, not yet known to be presented by all.
    Pending,
    /// Presented.
    Current,
    /// Accepted until its end.
    Previous,
    /// No longer accepted; its value is deleted.
    Retired,
}

/// The form in which the accepted view names a token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AcceptedForm {
    /// By its SHA-256: `"as": "sha256"`.
    #[default]
    Digests,
    /// By itself: `"as": "plain"`.
    Plain,
}

/// Ciphertext of a value.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed(
    /// The ciphertext that KMS returned; base64 in the record.
    #[serde(with = "base64_text")]
    pub Vec<u8>,
);

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealed([redacted])")
    }
}

/// SHA-256 of a token's UTF-8 bytes: all that verifiers need to know. Compared in constant time.
#[derive(Clone, Copy)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of these bytes.
    pub fn of(bytes: impl AsRef<[u8]>) -> Self {
        Self(Sha256::digest(bytes.as_ref()).into())
    }

    /// Reads sixty-four hexadecimal digits.
    ///
    /// # Errors
    /// [`NotADigest`] for everything else.
    pub fn parse(text: &str) -> Result<Self, NotADigest> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| NotADigest)?;
        Ok(Self(bytes))
    }

    /// The digest's bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl PartialEq for Digest {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Digest {}

impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Digest({self})")
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// The error of a text that is not a SHA-256 digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a SHA-256 digest is 64 hexadecimal digits")]
pub struct NotADigest;

/// The rule by which the values of a token are made: the spec's `token`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generation {
    bytes: u8,
    prefix: Option<Prefix>,
}

impl Generation {
    /// The fewest and the most bytes of randomness that a token may have.
    pub const BYTES: std::ops::RangeInclusive<u8> = 32..=64;

    /// Tokens of so many bytes of randomness; `None` if [`Generation::BYTES`] does not contain that number.
    pub fn new(bytes: u8, prefix: Option<Prefix>) -> Option<Self> {
        Self::BYTES.contains(&bytes).then_some(Self { bytes, prefix })
    }

    /// Makes a new value:
    ///
    /// ```text
    /// <prefix> <randomness, base64url without padding> <checksum, 6 characters>
    /// ```
    ///
    /// The checksum is the base64url form of the first 4 bytes of the SHA-256 of everything before it. It
    /// neither adds nor removes entropy. With it a secret scanner, or a reader of logs, can distinguish a
    /// token from a text that looks like one, without any request.
    ///
    /// # Errors
    /// The error of the source of randomness. Nothing was made then.
    pub fn mint<R: TryCryptoRng + ?Sized>(&self, random: &mut R) -> Result<Secret, R::Error> {
        let mut entropy = Zeroizing::new([0_u8; *Self::BYTES.end() as usize]);
        let entropy = &mut entropy[..usize::from(self.bytes)];
        random.try_fill_bytes(entropy)?;
        // The capacity holds the whole token, so that growing never leaves a copy behind.
        let mut value = Zeroizing::new(String::with_capacity(self.length()));
        value.push_str(self.prefix.as_ref().map_or("", Prefix::as_str));
        URL_SAFE_NO_PAD.encode_string(entropy, &mut value);
        let checksum = Sha256::digest(value.as_bytes());
        URL_SAFE_NO_PAD.encode_string(&checksum[..CHECKSUM_BYTES], &mut value);
        Ok(Secret(value))
    }

    /// The reason why a value that was issued elsewhere does not fit this token, or is
    /// [weaker](Secret::weakness) than so many bits.
    pub fn weakness(&self, value: &Secret, least_bits: u16) -> Option<String> {
        let prefix = self.prefix.as_ref().map_or("", Prefix::as_str);
        match value.expose().strip_prefix(prefix) {
            Some(random) => weakness(random, least_bits),
            None => {
                Some(format!("it does not begin with {prefix}, as the spec's `token.prefix` says"))
            }
        }
    }

    /// Number of bytes of a minted value.
    pub fn length(&self) -> usize {
        let prefix = self.prefix.as_ref().map_or(0, |prefix| prefix.as_str().len());
        let encoded = |bytes: usize| (bytes * 4).div_ceil(3);
        prefix + encoded(usize::from(self.bytes)) + encoded(CHECKSUM_BYTES)
    }
}

fn weakness(text: &str, least_bits: u16) -> Option<String> {
    let distinct: BTreeSet<_> = text.chars().collect();
    if distinct.len() < FEWEST_DISTINCT {
        return Some(format!("it has fewer than {FEWEST_DISTINCT} different characters"));
    }
    let bits = most_bits(text);
    (bits < least_bits).then(|| {
        let length = text.chars().count();
        format!(
            "its {length} characters are at most {bits} bits, and {least_bits} are the least that is taken"
        )
    })
}

/// Upper bound of the random bits of a text, by its length and the smallest usual alphabet that has all of
/// its characters.
fn most_bits(text: &str) -> u16 {
    let all = |of: fn(&char) -> bool| text.chars().all(|c| of(&c));
    let has = |of: fn(&char) -> bool| text.chars().any(|c| of(&c));
    let is_mixed = has(char::is_ascii_lowercase) && has(char::is_ascii_uppercase);
    let alphabet: u8 = match () {
        () if all(char::is_ascii_digit) => 10,
        () if all(char::is_ascii_hexdigit) && !is_mixed => 16,
        () if all(char::is_ascii_alphanumeric) && !is_mixed => 36,
        () if all(|c| c.is_ascii_alphanumeric() || "+/-_=.".contains(*c)) => 64,
        () => 95,
    };
    let length = u16::try_from(text.chars().count()).unwrap_or(u16::MAX);
    let bits = f64::from(length) * f64::from(alphabet).log2();
    // 4,096 bytes have fewer than 65,536 bits, so the number fits.
    format!("{bits:.0}").parse().unwrap_or(u16::MAX)
}

const CHECKSUM_BYTES: usize = 4;
/// A text with fewer different characters is no random value of 32 bytes, in any alphabet from ten digits
/// on.
const FEWEST_DISTINCT: usize = 8;

/// The prefix of a token, by which people and scanners recognize its owner: `[a-z0-9]{1,16}_`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prefix(String);

impl Prefix {
    /// Reads a prefix, its underscore included; `None` if it is not one.
    pub fn parse(text: &str) -> Option<Self> {
        let name = text.strip_suffix('_')?;
        let plain = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        (plain && (1..=16).contains(&name.len())).then(|| Self(text.to_owned()))
    }

    /// The prefix with its underscore.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Bytes as base64, with padding.
mod base64_text {
    use base64::{Engine, engine::general_purpose::STANDARD};
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        STANDARD.decode(String::deserialize(from)?).map_err(D::Error::custom)
    }
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
    fn a_refused_name_is_not_repeated() {
        let error = TokenName::parse("ds_S3cretS3cret").expect_err("'_' is not of a name");
        assert!(!format!("{error} {error:?}").contains("S3cret"));
    }

    #[test]
    fn prefixes_end_with_an_underscore_and_hold_no_other() {
        for prefix in ["ds_", "a_", "0123456789abcdef_"] {
            assert_eq!(Prefix::parse(prefix).expect(prefix).as_str(), prefix);
        }
        for prefix in ["", "_", "ds", "DS_", "d_s_", "ds_x", "0123456789abcdefg_"] {
            assert_eq!(Prefix::parse(prefix), None, "{prefix}");
        }
    }

    #[test]
    fn values_that_cannot_be_published_as_they_are_are_not_adopted() {
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

    #[test]
    fn random_values_of_enough_bytes_are_strong_in_every_usual_form() {
        use base64::engine::general_purpose::STANDARD;
        let generation = Generation::new(32, None).expect("a generation");
        let mut state = 1_u64;
        for _ in 0..2_000 {
            let bytes: Vec<u8> = (0..32)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    (state >> 33) as u8
                })
                .collect();
            let upper = hex::encode_upper(&bytes);
            for form in [
                hex::encode(&bytes),
                upper,
                URL_SAFE_NO_PAD.encode(&bytes),
                STANDARD.encode(&bytes),
            ] {
                let shorter = Secret::verbatim(form[..form.len() - 4].to_owned());
                assert_eq!(generation.weakness(&Secret::verbatim(form), 256), None);
                assert!(generation.weakness(&shorter, 256).is_some());
            }
        }
    }

    #[test]
    fn weak_values_are_told_without_being_shown() {
        let prefix = Prefix::parse("ds_");
        let generation = Generation::new(32, prefix).expect("a generation");
        let long = "S3cretS3cret".repeat(2);
        let same = format!("ds_{}", "ab".repeat(200));
        let other = format!("xx_{}", "Ab3dEf6hIj".repeat(9));
        let cases =
            [("hunter2", "begin with ds_"), (&other, "begin with ds_"), (&same, "different")];
        for (value, words) in cases {
            let told = generation.weakness(&Secret::verbatim(value.to_owned()), 256).expect(value);
            assert!(told.contains(words) && !told.contains(&value[3..]), "{told}");
        }
        let short = Secret::verbatim(format!("ds_{long}"));
        assert!(generation.weakness(&short, 256).is_some_and(|told| !told.contains("S3cret")));
    }

    #[test]
    fn digests_are_sha_256_in_lower_case_hexadecimal() {
        // FIPS 180-2, appendix B.1.
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(Digest::of("abc").to_string(), abc);
        assert_eq!(Digest::parse(abc), Ok(Digest::of("abc")));
        assert_eq!(Digest::parse(&abc[1..]), Err(NotADigest));
        assert_ne!(Digest::of("abc"), Digest::of("abd"));
    }
}
