//! The raw shapes of a spec's JSON, read field by field.
//!
//! Objects and lists are read by serde. An unknown field, a repeated field, or an object in the place of a
//! list ends the read with the path of the field. Everything else is kept as its JSON value, for
//! [`super::resolve`] to check, so that many faults can be reported at once.

use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Unexpected, Visitor};
use serde_json::Value;

/// Reads JSON into a raw shape.
///
/// # Errors
/// The fault, beginning with the path of the field. It shows no value of `token`, because the token itself
/// may have been put there by mistake.
pub(super) fn read<T: for<'de> Deserialize<'de>>(json: &str) -> Result<T, String> {
    // Nothing larger fits in a parameter, not even one of the advanced tier.
    if json.len() > LARGEST_PARAMETER {
        return Err(format!(
            "it has {} bytes and a parameter holds at most {LARGEST_PARAMETER}",
            json.len()
        ));
    }
    let mut deserializer = serde_json::Deserializer::from_str(json);
    let object: Object<T> =
        serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
            let message = error.inner().to_string();
            let message: String = message.chars().take(LONGEST_MESSAGE).collect();
            // A syntax error has a line and a column. An error in a field has the field's path too.
            let has_path = error.inner().is_data() && error.path().iter().next().is_some();
            if has_path { format!("`{}`: {message}", error.path()) } else { message }
        })?;
    deserializer.end().map_err(|error| error.to_string())?;
    Ok(object.0)
}

const LARGEST_PARAMETER: usize = 8192;
const LONGEST_MESSAGE: usize = 400;

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawSpec {
    pub(super) token: Field<Object<RawToken>>,
    pub(super) source: Field<Value>,
    pub(super) overlap: Field<Value>,
    pub(super) verifiers: Field<Object<RawSideSpec>>,
    pub(super) presenters: Field<Object<RawSideSpec>>,
    pub(super) rollout_timeout: Field<Value>,
    pub(super) on_drift: Field<Value>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawToken {
    pub(super) bytes: Field<Value>,
    pub(super) prefix: Field<Value>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawSideSpec {
    pub(super) publish: Field<Vec<Object<RawPublication>>>,
    pub(super) within: Field<Value>,
    pub(super) workloads: Field<Vec<Object<RawWorkload>>>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawPublication {
    pub(super) ssm: Field<Value>,
    pub(super) dynamodb: Field<Object<RawItem>>,
    pub(super) key: Field<Value>,
    #[serde(rename = "as")]
    pub(super) form: Field<Value>,
    pub(super) region: Field<Value>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawItem {
    pub(super) table: Field<Value>,
    pub(super) key: Field<Attributes>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawWorkload {
    pub(super) cluster: Field<Value>,
    pub(super) namespace: Field<Value>,
    pub(super) deployment: Field<Value>,
    pub(super) stateful_set: Field<Value>,
    pub(super) daemon_set: Field<Value>,
    pub(super) external_secret: Field<Value>,
    pub(super) cluster_external_secret: Field<Value>,
    pub(super) secret: Field<Object<RawSecret>>,
    pub(super) secret_key: Field<Value>,
    pub(super) picks_up: Field<Value>,
    pub(super) settle: Field<Value>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawSecret {
    pub(super) name: Field<Value>,
    pub(super) key: Field<Value>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawCluster {
    pub(super) eks: Field<Object<RawEks>>,
    pub(super) endpoint: Field<Value>,
    pub(super) ca: Field<Value>,
    pub(super) token_parameter: Field<Value>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawEks {
    pub(super) name: Field<Value>,
    pub(super) region: Field<Value>,
    pub(super) role: Field<Value>,
}

/// A field that may be left out. `null` is a value, not an absence: a template that fails to fill in
/// `verifiers` must not turn the verifiers off.
pub(super) struct Field<T>(pub(super) Option<T>);

impl<T> Default for Field<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Field<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        T::deserialize(deserializer).map(|value| Self(Some(value)))
    }
}

/// An object, and nothing else. Shapes that serde derives accept lists too, and their messages show the
/// value that they found instead.
pub(super) struct Object<T>(pub(super) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ObjectVisitor(PhantomData))
    }
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = Object<T>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(Object)
    }

    fn visit_str<E: serde::de::Error>(self, _: &str) -> Result<Object<T>, E> {
        Err(E::invalid_type(Unexpected::Other("a string"), &self))
    }
}

/// The attributes of a key as they are written, including the same name twice.
pub(super) struct Attributes(pub(super) Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Attributes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AttributesVisitor)
    }
}

struct AttributesVisitor;

impl<'de> Visitor<'de> for AttributesVisitor {
    type Value = Attributes;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object of one or two attributes")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Attributes, A::Error> {
        let mut attributes = Vec::new();
        while let Some(attribute) = map.next_entry()? {
            attributes.push(attribute);
        }
        Ok(Attributes(attributes))
    }
}
