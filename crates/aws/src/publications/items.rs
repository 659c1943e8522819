//! Views in DynamoDB: a few attributes of an item. Its other attributes are never changed.
//!
//! These writes are fenced: each is conditional on the life and the revision that the item carries. A late
//! write is refused, and so is a write of an older record of the same token.

use std::{collections::HashMap, sync::Arc};

use aws_sdk_dynamodb::{
    error::ProvideErrorMetadata, operation::update_item::UpdateItemError, types::AttributeValue,
};
use changeover_core::{
    error::{Error, Kind},
    ports::{StoredValue, WriteError, Written},
    spec::{ItemKey, KeyValue, Place, Side, WRITTEN_ATTRIBUTES},
};
use changeover_token::{AcceptedForm, Content, Fence, Secret, TokenName};
use serde::{Serialize, Serializer, ser::SerializeMap as _};
use serde_json::Value;

use super::answered;
use crate::{
    Aws,
    attributes::{Attributes, from_json, to_json},
    conflicts::retrying_conflicts,
    sdk::failed,
};

/// Items that hold views.
pub(super) struct Items {
    aws: Arc<Aws>,
}

impl Items {
    pub(super) fn new(aws: Arc<Aws>) -> Self {
        Self { aws }
    }

    pub(super) async fn read(
        &self,
        table: &str,
        key: &ItemKey,
        side: Side,
    ) -> Result<Option<StoredValue>, Error> {
        let place = place_of(table, key);
        let Some(item) = self.item(table, key, &place).await? else {
            return Ok(None);
        };
        holding_in(&item, side).map_err(|because| {
            let fix = "correct the item by hand, or name another in the spec";
            Error::new(Kind::PreflightFailed, READ, because, fix).on(&place)
        })
    }

    pub(super) async fn write(
        &self,
        table: &str,
        key: &ItemKey,
        form: AcceptedForm,
        view: &Content,
    ) -> Result<Written, WriteError> {
        let place = place_of(table, key);
        let written = attributes_to_write(form, view);
        // One assignment per attribute of the view. The condition needs fixed placeholders for owner,
        // revision and life.
        let side = side_of(view);
        let mut assignments = Vec::new();
        let mut update = self
            .aws
            .dynamodb()
            .update_item()
            .table_name(table)
            .set_key(Some(attributes_of(key)))
            .expression_attribute_names("#token", OWNER)
            .expression_attribute_names("#revision", revision_name(side))
            .expression_attribute_names("#life", life_name(side));
        for (index, (name, value)) in written.into_iter().enumerate() {
            // `token` is a reserved word of DynamoDB's expressions, so every name is a placeholder.
            let placeholder = match name {
                OWNER => "token".to_owned(),
                name if name == revision_name(side) => "revision".to_owned(),
                name if name == life_name(side) => "life".to_owned(),
                _ => index.to_string(),
            };
            assignments.push(format!("#{placeholder} = :{placeholder}"));
            update = update
                .expression_attribute_names(format!("#{placeholder}"), name)
                .expression_attribute_values(format!(":{placeholder}"), value);
        }
        // The fence of the view decides the condition: a record without a life must not overwrite one with
        // a life.
        let answer = update
            .update_expression(format!("SET {}", assignments.join(", ")))
            .condition_expression(match view.fence().life {
                Some(_) => OF_A_LIFE,
                None => WITHOUT_A_LIFE,
            })
            .customize()
            .config_override(retrying_conflicts::<UpdateItemError>())
            .send()
            .await;
        // The write is fenced, so no outcome counts as in doubt. A failed condition is explained by a
        // second read.
        match answer {
            Ok(_) => {
                let store_version = view.fence().revision;
                Ok(Written { store_version, key: None, unanswered: false })
            }
            Err(error)
                if error
                    .as_service_error()
                    .is_some_and(UpdateItemError::is_conditional_check_failed_exception) =>
            {
                Err(self.refusal(table, key, view, &place).await)
            }
            Err(error) => {
                let failed = failed("dynamodb:UpdateItem", WRITE, &place, &error);
                Err(answered(without(view, explained(error.code(), failed))))
            }
        }
    }

    /// Reads only those attributes of an item that belong to changeover. The function's permissions may
    /// allow no others.
    async fn item(
        &self,
        table: &str,
        key: &ItemKey,
        place: &Place,
    ) -> Result<Option<Attributes>, Error> {
        let mut get = self
            .aws
            .dynamodb()
            .get_item()
            .table_name(table)
            .set_key(Some(attributes_of(key)))
            .consistent_read(true);
        let mut projection = Vec::new();
        for (index, name) in WRITTEN_ATTRIBUTES.iter().enumerate() {
            let placeholder = format!("#{index}");
            projection.push(placeholder.clone());
            get = get.expression_attribute_names(placeholder, *name);
        }
        let answer = get.projection_expression(projection.join(", ")).send().await;
        let answer = answer.map_err(|error| {
            explained(error.code(), failed("dynamodb:GetItem", READ, place, &error))
        })?;
        Ok(answer.item)
    }

    /// Re-reads the item to explain a failed condition (cold path).
    async fn refusal(
        &self,
        table: &str,
        key: &ItemKey,
        view: &Content,
        place: &Place,
    ) -> WriteError {
        let item = match self.item(table, key, place).await {
            Ok(item) => item.unwrap_or_default(),
            Err(error) => return answered(error),
        };
        let ours = owner(view);
        let (because, fix) = match (owner_in(&item), fence_in(&item, side_of(view))) {
            (Ok(Some(theirs)), _) if theirs != *ours => (
                format!("it is published to by the token {theirs}, and this is {ours}"),
                "name another item in one of the two specs, or remove its attribute \
                 `changeover_token` if that token is gone",
            ),
            (Ok(_), Ok(found)) if found > view.fence() => {
                let because =
                    format!("it carries {found} of this view, and this is {}", view.fence());
                let fix = "run it again";
                return WriteError {
                    error: Error::new(Kind::Internal, WRITE, because, fix).on(place),
                    unanswered: false,
                    ahead: Some(found),
                    is_gone: false,
                };
            }
            (Err(because), _) | (_, Err(because)) => (because, "remove that attribute by hand"),
            (Ok(_), Ok(_)) => ("it was changed meanwhile".to_owned(), "run it again"),
        };
        answered(Error::new(Kind::PreflightFailed, WRITE, because, fix).on(place))
    }
}

/// The view of a side that an item holds; `None` if the item has no attribute for that side.
fn holding_in(item: &Attributes, side: Side) -> Result<Option<StoredValue>, String> {
    let value = match (side, item.get(view_name(side))) {
        (_, None) => return Ok(None),
        (Side::Verifiers, Some(accepted)) => document(accepted, fence_in(item, side)?),
        (Side::Presenters, Some(AttributeValue::S(token))) => token.clone(),
        (Side::Presenters, Some(_)) => {
            return Err(format!("its attribute `{PRESENTED}` is not a String"));
        }
    };
    let fence = fence_in(item, side)?;
    Ok(Some(StoredValue {
        value: Secret::verbatim(value),
        store_version: fence.revision,
        fence: Some(fence),
        token: owner_in(item)?,
    }))
}

/// The token that the item names as its owner.
fn owner_in(item: &Attributes) -> Result<Option<TokenName>, String> {
    match item.get(OWNER) {
        None => Ok(None),
        Some(AttributeValue::S(name)) => TokenName::parse(name).map(Some).map_err(|error| {
            format!("its attribute `{OWNER}` is not the name of a token: {error}")
        }),
        Some(_) => Err(format!("its attribute `{OWNER}` is not a String")),
    }
}

/// The fence of a side's view in an item; the lowest fence if it has none.
fn fence_in(item: &Attributes, side: Side) -> Result<Fence, String> {
    let name = revision_name(side);
    let revision = match item.get(name) {
        None => 0,
        Some(AttributeValue::N(number)) => number
            .parse()
            .ok()
            .filter(|revision| *revision <= Fence::LARGEST_REVISION)
            .ok_or_else(|| format!("its attribute `{name}` is not a whole number below 2^52"))?,
        Some(_) => return Err(format!("its attribute `{name}` is not a Number")),
    };
    let name = life_name(side);
    let life = match item.get(name) {
        None => None,
        Some(AttributeValue::S(text)) => {
            let life = text.parse().map_err(|error| format!("its attribute `{name}`: {error}"))?;
            Some(life)
        }
        Some(_) => return Err(format!("its attribute `{name}` is not a String")),
    };
    Ok(Fence { life, revision })
}

fn place_of(table: &str, key: &ItemKey) -> Place {
    Place::Item { table: table.to_owned(), key: key.clone() }
}

/// The attributes of a view, by name.
fn attributes_to_write(form: AcceptedForm, view: &Content) -> Vec<(&'static str, AttributeValue)> {
    let number = |number: u64| AttributeValue::N(number.to_string());
    let mut attributes = vec![
        (OWNER, AttributeValue::S(owner(view).to_string())),
        (revision_name(side_of(view)), number(view.fence().revision)),
    ];
    // A view without a life is written only if the item has none, so there is nothing to remove.
    let life = view.fence().life;
    attributes.extend(life.map(|it| (life_name(side_of(view)), AttributeValue::S(it.to_string()))));
    match view {
        Content::Presented { version, value, .. } => {
            attributes.push((PRESENTED, AttributeValue::S(value.expose().to_owned())));
            attributes.push((PRESENTED_VERSION, number(version.get())));
        }
        Content::Accepted { .. } => {
            let bytes = view.bytes(form);
            let document: Value = serde_json::from_str(bytes.expose()).unwrap_or_default();
            let entries = document.get(ACCEPTED).cloned().unwrap_or_default();
            attributes.push((ACCEPTED, from_json(entries)));
        }
    }
    attributes
}

/// The accepted document of which this attribute is the list, in the bytes of [`Content::bytes`]. Fields
/// that someone else added are kept, so that the drift is visible.
fn document(accepted: &AttributeValue, fence: Fence) -> String {
    let mut document = serde_json::json!({ACCEPTED: to_json(accepted)});
    if let Some(life) = fence.life {
        document["life"] = Value::String(life.to_string());
        document["revision"] = fence.revision.into();
    }
    serde_json::to_string(&Ordered(document)).unwrap_or_default()
}

/// JSON with its fields in the contract's order, followed by unknown fields in the order of their names.
struct Ordered(Value);

impl Serialize for Ordered {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            Value::Object(fields) => {
                let known = FIELDS.iter().filter_map(|name| fields.get_key_value(*name));
                let unknown = fields.iter().filter(|(name, _)| !FIELDS.contains(&name.as_str()));
                let mut map = serializer.serialize_map(Some(fields.len()))?;
                for (name, value) in known.chain(unknown) {
                    map.serialize_entry(name, &Ordered(value.clone()))?;
                }
                map.end()
            }
            Value::Array(values) => {
                serializer.collect_seq(values.iter().map(|value| Ordered(value.clone())))
            }
            scalar => scalar.serialize(serializer),
        }
    }
}

/// The fields of the accepted document and of its entries (contract, "What is published").
const FIELDS: [&str; 8] =
    [ACCEPTED, "life", "revision", "version", "stage", "sha256", "token", "not_after"];

fn attributes_of(key: &ItemKey) -> HashMap<String, AttributeValue> {
    let value = |value: &KeyValue| match value {
        KeyValue::Text(text) => AttributeValue::S(text.clone()),
        KeyValue::Number(number) => AttributeValue::N(number.to_string()),
    };
    key.attributes().iter().map(|(name, given)| (name.clone(), value(given))).collect()
}

fn owner(view: &Content) -> &TokenName {
    match view {
        Content::Accepted { token, .. } | Content::Presented { token, .. } => token,
    }
}

fn side_of(view: &Content) -> Side {
    match view {
        Content::Accepted { .. } => Side::Verifiers,
        Content::Presented { .. } => Side::Presenters,
    }
}

fn view_name(side: Side) -> &'static str {
    match side {
        Side::Verifiers => ACCEPTED,
        Side::Presenters => PRESENTED,
    }
}

fn revision_name(side: Side) -> &'static str {
    match side {
        Side::Verifiers => "accepted_revision",
        Side::Presenters => "token_revision",
    }
}

fn life_name(side: Side) -> &'static str {
    match side {
        Side::Verifiers => "accepted_life",
        Side::Presenters => "token_life",
    }
}

/// Replaces the fix for those refusals that are caused by the spec.
fn explained(code: Option<&str>, error: Error) -> Error {
    let fix = match code {
        Some("ResourceNotFoundException") => "create the table, or correct its name in the spec",
        Some("ValidationException") if error.kind == Kind::Internal => {
            "give the item's key in the spec the attributes and types of the table's own key"
        }
        _ => return error,
    };
    Error { kind: Kind::BadSpec, fix: fix.to_owned(), ..error }
}

/// The error without the values, in case AWS has repeated one in a message.
fn without(view: &Content, error: Error) -> Error {
    let values: Vec<&Secret> = match view {
        Content::Presented { value, .. } => vec![value],
        Content::Accepted { entries, .. } => {
            entries.iter().filter_map(|entry| entry.value.as_ref()).collect()
        }
    };
    let because = values.iter().fold(error.because.clone(), |because, value| {
        because.replace(value.expose(), "[redacted]")
    });
    Error { because, ..error }
}

/// Allows a write over the view of an older record, whatever its revision, and over an earlier view of the
/// same record.
const OF_A_LIFE: &str = "(attribute_not_exists(#life) OR #life < :life OR (#life = :life \
     AND (attribute_not_exists(#revision) OR #revision <= :revision))) \
     AND (attribute_not_exists(#token) OR #token = :token)";
/// The same for a record that has no life yet: every life is above it.
const WITHOUT_A_LIFE: &str = "attribute_not_exists(#life) \
     AND (attribute_not_exists(#revision) OR #revision <= :revision) \
     AND (attribute_not_exists(#token) OR #token = :token)";
const OWNER: &str = "changeover_token";
const ACCEPTED: &str = "accepted";
const PRESENTED: &str = "token";
const PRESENTED_VERSION: &str = "token_version";
const READ: &str = "read the item";
const WRITE: &str = "write the item";

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use proptest::prelude::*;

    use super::*;
    use changeover_token::{Accepted, Life, Stage, VersionNumber};

    fn any_value() -> impl Strategy<Value = Secret> {
        "[!-~]{1,64}".prop_map(Secret::verbatim)
    }

    fn any_entry() -> impl Strategy<Value = Accepted> {
        let stage = prop_oneof![Just(Stage::Current), Just(Stage::Pending), Just(Stage::Previous)];
        let not_after = prop::option::of(0_i64..4_102_444_800_000);
        (any::<u64>(), stage, any_value(), not_after).prop_map(|(version, stage, value, end)| {
            Accepted {
                version: VersionNumber::new(version),
                stage,
                sha256: value.digest(),
                value: Some(value),
                not_after: end.and_then(|end| Timestamp::from_millisecond(end).ok()),
            }
        })
    }

    fn any_fence() -> impl Strategy<Value = Fence> {
        let created = Timestamp::constant(1_793_491_200, 0);
        let life = any::<u32>().prop_map(move |random| Life::new(created, random));
        (prop::option::of(life), 0..=Fence::LARGEST_REVISION)
            .prop_map(|(life, revision)| Fence { life, revision })
    }

    fn any_view() -> impl Strategy<Value = Content> {
        let token = TokenName::parse("datastore-token").expect("a name");
        let owner = token.clone();
        prop_oneof![
            (any_fence(), prop::collection::vec(any_entry(), 0..6)).prop_map(
                move |(fence, entries)| Content::Accepted { token: token.clone(), fence, entries }
            ),
            (any_fence(), any::<u64>(), any_value()).prop_map(move |(fence, version, value)| {
                Content::Presented {
                    token: owner.clone(),
                    fence,
                    version: VersionNumber::new(version),
                    value,
                }
            }),
        ]
    }

    proptest! {
        #[test]
        fn written_view_reads_back_byte_for_byte(view in any_view(), plain: bool) {
            let form = if plain { AcceptedForm::Plain } else { AcceptedForm::Digests };
            let item: Attributes = attributes_to_write(form, &view)
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect();
            let holding = holding_in(&item, side_of(&view)).expect("sound").expect("a view");
            let written = view.bytes(form);
            prop_assert_eq!(holding.value.expose(), written.expose());
            prop_assert_eq!(holding.fence, Some(view.fence()));
            prop_assert_eq!(holding.token.as_ref(), Some(owner(&view)));
        }

        #[test]
        fn unknown_field_of_accepted_entry_is_preserved(version: u64, note in "[a-z]{1,8}") {
            let entries = serde_json::json!([{"note": note, "version": version}]);
            let item = Attributes::from([(ACCEPTED.to_owned(), from_json(entries))]);
            let holding = holding_in(&item, Side::Verifiers).expect("sound").expect("a view");
            let expected =
                format!("{{\"accepted\":[{{\"version\":{version},\"note\":\"{note}\"}}]}}");
            prop_assert_eq!(holding.value.expose(), expected);
        }
    }
}
