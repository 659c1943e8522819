//! Sealed values.

use std::fmt;

use serde::{Deserialize, Serialize};

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
