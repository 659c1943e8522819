//! New values, and the strength of values that are issued elsewhere.

use std::collections::BTreeSet;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use rand::TryCryptoRng;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::Secret;

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
        Ok(Secret::of(value))
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

pub(crate) fn weakness(text: &str, least_bits: u16) -> Option<String> {
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
pub(crate) fn most_bits(text: &str) -> u16 {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_end_with_their_only_underscore() {
        for prefix in ["ds_", "a_", "0123456789abcdef_"] {
            assert_eq!(Prefix::parse(prefix).expect(prefix).as_str(), prefix);
        }
        for prefix in ["", "_", "ds", "DS_", "d_s_", "ds_x", "0123456789abcdefg_"] {
            assert_eq!(Prefix::parse(prefix), None, "{prefix}");
        }
    }

    #[test]
    fn random_values_are_strong_in_every_usual_form() {
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
    fn weak_values_are_reported_without_being_shown() {
        let prefix = Prefix::parse("ds_");
        let generation = Generation::new(32, prefix).expect("a generation");
        let long = "S3cretS3cret".repeat(2);
        let same = format!("ds_{}", "ab".repeat(200));
        let other = format!("xx_{}", "Ab3dEf6hIj".repeat(9));
        let cases =
            [("hunter2", "begin with ds_"), (&other, "begin with ds_"), (&same, "different")];
        for (value, words) in cases {
            let weakness =
                generation.weakness(&Secret::verbatim(value.to_owned()), 256).expect(value);
            assert!(weakness.contains(words) && !weakness.contains(&value[3..]), "{weakness}");
        }
        let short = Secret::verbatim(format!("ds_{long}"));
        assert!(
            generation.weakness(&short, 256).is_some_and(|weakness| !weakness.contains("S3cret"))
        );
    }
}
