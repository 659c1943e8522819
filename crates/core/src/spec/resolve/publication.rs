//! The publications of a spec: the place of each, and its form.

use changeover_token::AcceptedForm;
use serde_json::Value;

use super::{
    super::{
        ItemKey, KeyValue, ParameterName, Place, Publication, Side,
        raw::{self, Attributes, Object},
        rules::{TABLE_RULE, is_kms_key, is_table},
    },
    Faults,
};
use crate::error::displayed_value;

impl Faults {
    pub(super) fn publication(
        &mut self,
        side: Side,
        path: &str,
        raw: raw::RawPublication,
    ) -> Option<Publication> {
        if raw.region.0.is_some() {
            self.unavailable(format!("{path}.region"), "a publication in another region");
        }
        // A publication is exactly one place.
        let is_parameter = raw.ssm.0.is_some();
        let place = match (raw.ssm.0, raw.dynamodb.0) {
            (Some(name), None) => {
                self.parameter(&format!("{path}.ssm"), &name).map(Place::Parameter)
            }
            (None, Some(Object(item))) => self.item(&format!("{path}.dynamodb"), item),
            (Some(_), Some(_)) => self.add(path, "names two places; write two publications"),
            (None, None) => self.add(path, "names no place; write \"ssm\" or \"dynamodb\""),
        };
        // Only a parameter has a KMS key of its own.
        let key = match raw.key.0 {
            None => Some(None),
            Some(_) if !is_parameter => self.add(
                format!("{path}.key"),
                "is for parameters, and an item has the key of its table; leave it out",
            ),
            Some(key) => match key.as_str().filter(|key| is_kms_key(key)) {
                Some(key) => Some(Some(key.to_owned())),
                None => self.add(
                    format!("{path}.key"),
                    format!(
                        "is {}; write the id, ARN or alias of a KMS key",
                        displayed_value(&key)
                    ),
                ),
            },
        };
        // Only the accepted view has a choice of forms.
        let form = match raw.form.0.as_ref().map(|form| (form, form.as_str())) {
            None => Some(AcceptedForm::Digests),
            Some(_) if side == Side::Presenters => self.add(
                format!("{path}.as"),
                "is for verifiers, and presenters read the bare token; leave it out",
            ),
            Some((_, Some("sha256"))) => Some(AcceptedForm::Digests),
            Some((_, Some("plain"))) => Some(AcceptedForm::Plain),
            Some((form, _)) => self.add(
                format!("{path}.as"),
                format!("is {}; write \"sha256\" or \"plain\"", displayed_value(form)),
            ),
        };
        Some(Publication { place: place?, key: key?, form: form? })
    }

    pub(super) fn parameter(&mut self, path: &str, name: &Value) -> Option<ParameterName> {
        let parsed = match name.as_str() {
            Some(name) => ParameterName::parse(name),
            None => Err("it is not a text".into()),
        };
        match parsed {
            Ok(name) => Some(name),
            Err(because) => self.add(
                path,
                format!(
                    "is {}: {because}; write the full name of a parameter",
                    displayed_value(name)
                ),
            ),
        }
    }

    fn item(&mut self, path: &str, raw: raw::RawItem) -> Option<Place> {
        let table = self.name(format!("{path}.table"), raw.table, is_table, TABLE_RULE);
        let path = format!("{path}.key");
        let Some(Attributes(attributes)) = raw.key.0 else {
            return self.add(path, "is missing; write the item's primary key");
        };
        let attributes: Option<Vec<_>> = attributes
            .into_iter()
            .map(|(name, value)| {
                let known = match &value {
                    Value::String(text) => Some(KeyValue::Text(text.clone())),
                    value => value.as_i64().map(KeyValue::Number),
                };
                match known {
                    Some(known) => Some((name, known)),
                    None => self.add(
                        format!("{path}.{name}"),
                        format!("is {}; write a text or a whole number", displayed_value(&value)),
                    ),
                }
            })
            .collect();
        let key = match ItemKey::new(attributes?) {
            Ok(key) => Some(key),
            Err(because) => self.add(
                path,
                format!("is not a primary key: {because}; write its one or two attributes"),
            ),
        };
        Some(Place::Item { table: table?, key: key? })
    }
}
