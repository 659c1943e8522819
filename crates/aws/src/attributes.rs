//! Conversion of JSON to attributes of DynamoDB items, and back.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};

/// Attributes of an item, or of a map in one.
pub(crate) type Attributes = HashMap<String, AttributeValue>;

/// The attribute that holds a JSON value. [`to_json`] returns the value.
pub(crate) fn from_json(value: Value) -> AttributeValue {
    match value {
        Value::Null => AttributeValue::Null(true),
        Value::Bool(is_true) => AttributeValue::Bool(is_true),
        Value::Number(number) => AttributeValue::N(number.to_string()),
        Value::String(text) => AttributeValue::S(text),
        Value::Array(values) => AttributeValue::L(values.into_iter().map(from_json).collect()),
        Value::Object(fields) => AttributeValue::M(
            fields.into_iter().map(|(name, value)| (name, from_json(value))).collect(),
        ),
    }
}

/// The JSON value that an attribute holds. An attribute that JSON cannot express (bytes, sets, a number
/// outside its range) becomes a value that no record and no view of ours contains, so that it is noticed.
pub(crate) fn to_json(attribute: &AttributeValue) -> Value {
    match attribute {
        AttributeValue::Null(_) => Value::Null,
        AttributeValue::Bool(is_true) => Value::Bool(*is_true),
        AttributeValue::N(number) => {
            number.parse().map_or_else(|_| Value::String(number.clone()), Value::Number)
        }
        AttributeValue::S(text) => Value::String(text.clone()),
        AttributeValue::L(values) => values.iter().map(to_json).collect(),
        AttributeValue::M(fields) => fields
            .iter()
            .map(|(name, value)| (name.clone(), to_json(value)))
            .collect::<Map<_, _>>()
            .into(),
        AttributeValue::B(bytes) => json!({"B": STANDARD.encode(bytes)}),
        AttributeValue::Bs(set) => {
            let set: Vec<_> = set.iter().map(|bytes| STANDARD.encode(bytes)).collect();
            json!({"BS": set})
        }
        AttributeValue::Ns(set) => json!({"NS": set}),
        AttributeValue::Ss(set) => json!({"SS": set}),
        // The SDK's variant for a type of attribute that is newer than the SDK.
        _ => json!({"unknown": null}),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".*".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::vec((".{1,8}", inner), 0..6)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn json_round_trips_through_attributes(value in any_json()) {
            prop_assert_eq!(to_json(&from_json(value.clone())), value);
        }
    }
}
