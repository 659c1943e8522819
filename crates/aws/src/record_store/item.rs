//! The layout of the table's items, and how they are read.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;
use changeover_core::{
    error::{Error, Kind},
    record::{Audit, Failing, KeyDigest, KeyEntry, Loaded, Record, RotationId},
};
use changeover_token::{
    TokenName, VersionNumber,
    time::{self, milliseconds},
};
use jiff::Timestamp;
use serde::{Serialize, de::DeserializeOwned};

use crate::attributes::{Attributes, from_json, to_json};

/// The item of a record.
pub(super) fn record_item(record: &Record, write_id: &str) -> Result<Attributes, Error> {
    let mut item = item_key(record.token(), RECORD);
    item.insert(REVISION.to_owned(), number(record.revision()));
    if let Some(life) = record.life() {
        item.insert(LIFE.to_owned(), text(life.to_string()));
    }
    item.insert(WRITE_ID.to_owned(), text(write_id));
    item.insert(RECORD.to_owned(), to_attributes(record)?);
    if let Some(due_at) = record.due_at() {
        item.insert("owed".to_owned(), text(OWED));
        item.insert(DUE_AT.to_owned(), text(milliseconds(due_at)));
    }
    Ok(item)
}

/// The content of a record's item, without a key; `BadRecord` if it is damaged or belongs to another token.
pub(super) fn loaded_in(item: Attributes, token: &TokenName) -> Result<Loaded, Error> {
    if item.contains_key(FORGOTTEN_AT) && !item.contains_key(RECORD) {
        let last_version = number_in(&item, LAST_VERSION).map(VersionNumber::new);
        let last_version = last_version.ok_or_else(|| {
            bad_record(token, RECORD, format!("it has no attribute `{LAST_VERSION}`"))
        })?;
        return Ok(Loaded { last_version, ..Loaded::default() });
    }
    let failing = failing_in(&item);
    Ok(Loaded { record: Some(record_in(item, token)?), failing, ..Loaded::default() })
}

/// The failed runs that an item counts. A damaged count is read as none, because it is only ever
/// overwritten.
pub(super) fn failing_in(item: &Attributes) -> Option<Failing> {
    from_attributes(item.get(FAILING)?).ok()
}

/// The attribute that counts failed runs.
pub(super) fn failing_attribute(failing: &Failing) -> Result<AttributeValue, Error> {
    to_attributes(failing)
}

/// The record that an item holds; `BadRecord` if it is damaged or belongs to another token.
fn record_in(item: Attributes, token: &TokenName) -> Result<Record, Error> {
    let bad = |because| bad_record(token, RECORD, because);
    let stored = item.get(RECORD).ok_or_else(|| bad("it has no attribute `record`".to_owned()))?;
    let record: Record = from_attributes(stored).map_err(bad)?;
    if record.token() != token {
        return Err(bad(format!("it is that of the token {}", record.token())));
    }
    if number_in(&item, REVISION) != Some(record.revision()) {
        return Err(bad("its attribute `revision` is not the record's".to_owned()));
    }
    let life = record.life().map(|life| life.to_string());
    if text_in(&item, LIFE) != life.as_deref() {
        return Err(bad("its attribute `life` is not the record's".to_owned()));
    }
    let Some(due_at) = item.get(DUE_AT) else {
        return Ok(record);
    };
    // The attribute may be later than the time in the record: a heartbeat changes the attribute alone.
    let due_at = due_at.as_s().ok().and_then(|text| time::read(text));
    match due_at {
        Some(due_at) if record.due_at() != Some(due_at) => Ok(record.with_due_at(due_at)),
        Some(_) => Ok(record),
        None => Err(bad("its attribute `due_at` is not a time".to_owned())),
    }
}

/// The item of a trigger's key.
pub(super) fn key_item(
    token: &TokenName,
    key: &KeyDigest,
    entry: &KeyEntry,
    write_id: &str,
) -> Attributes {
    let mut item = item_key(token, &key_sort(key));
    item.insert("rotation".to_owned(), text(&entry.rotation.0));
    item.insert("version".to_owned(), number(entry.version.get()));
    item.insert(EXPIRES_AT.to_owned(), number(entry.expires_at.as_second()));
    item.insert(WRITE_ID.to_owned(), text(write_id));
    item
}

/// The rotation and version that a key's item resolves to.
pub(super) fn key_entry_in(item: &Attributes, token: &TokenName) -> Result<KeyEntry, Error> {
    let entry = || {
        Some(KeyEntry {
            rotation: RotationId(text_in(item, "rotation")?.to_owned()),
            version: VersionNumber::new(number_in(item, "version")?),
            expires_at: Timestamp::from_second(number_in(item, EXPIRES_AT)?).ok()?,
        })
    };
    let sort = text_in(item, SK).unwrap_or("key#");
    entry().ok_or_else(|| {
        let because = "it lacks `rotation`, `version` or `expires_at`, or one has another type";
        bad_record(token, sort, because.to_owned())
    })
}

/// The item of an audit entry.
pub(super) fn audit_item(audit: &Audit) -> Result<Attributes, Error> {
    let mut item = item_key(&audit.token, &audit_sort(audit.version));
    if let AttributeValue::M(fields) = to_attributes(audit)? {
        item.extend(fields);
    }
    Ok(item)
}

/// The audit entry that an item of this version holds.
pub(super) fn audit_in(
    mut item: Attributes,
    token: &TokenName,
    version: VersionNumber,
) -> Result<Audit, Error> {
    let sort = audit_sort(version);
    item.remove(PK);
    item.remove(SK);
    let audit: Audit = from_attributes(&AttributeValue::M(item))
        .map_err(|because| bad_record(token, &sort, because))?;
    if audit.token != *token || audit.version != version {
        return Err(bad_record(token, &sort, "it is that of another version".to_owned()));
    }
    Ok(audit)
}

fn to_attributes(value: &impl Serialize) -> Result<AttributeValue, Error> {
    serde_json::to_value(value).map(from_json).map_err(|error| {
        let because = "it cannot be written as JSON";
        Error::new(Kind::Internal, SAVE_RECORD, because, REPORT).caused_by(&error)
    })
}

/// Reads a value from an attribute. The error names the field that cannot be read, and no value.
fn from_attributes<T: DeserializeOwned>(attribute: &AttributeValue) -> Result<T, String> {
    serde_path_to_error::deserialize(to_json(attribute))
        .map_err(|error| format!("its field `{}` is missing or not as expected", error.path()))
}

/// The error of an item that this version of changeover did not write.
pub(super) fn bad_record(token: &TokenName, sort: &str, because: String) -> Error {
    let fix = "deploy the version of changeover that wrote it, or restore the table to a point in \
               time before the damage";
    Error::new(Kind::BadRecord, "read the item", because, fix).on(format!("{OWNER}{token} {sort}"))
}

/// The primary key of an item.
pub(super) fn item_key(token: &TokenName, sort: &str) -> Attributes {
    HashMap::from([(PK.to_owned(), text(format!("{OWNER}{token}"))), (SK.to_owned(), text(sort))])
}

/// The sort key of a trigger's key.
pub(super) fn key_sort(key: &KeyDigest) -> String {
    format!("key#{}", key.as_str())
}

/// The sort key of an audit entry.
pub(super) fn audit_sort(version: VersionNumber) -> String {
    format!("{AUDIT}{:010}", version.get())
}

pub(super) fn text(text: impl Into<String>) -> AttributeValue {
    AttributeValue::S(text.into())
}

pub(super) fn number(number: impl ToString) -> AttributeValue {
    AttributeValue::N(number.to_string())
}

/// The String that an attribute holds.
pub(super) fn text_in<'a>(item: &'a Attributes, name: &str) -> Option<&'a str> {
    item.get(name)?.as_s().ok().map(String::as_str)
}

/// The Number that an attribute holds.
pub(super) fn number_in<N: std::str::FromStr>(item: &Attributes, name: &str) -> Option<N> {
    item.get(name)?.as_n().ok()?.parse().ok()
}

/// The prefix of a token's name in the partition key.
pub(super) const OWNER: &str = "token#";
/// The partition key.
pub(super) const PK: &str = "pk";
/// The prefix of an audit entry's sort key.
pub(super) const AUDIT: &str = "rotation#";
/// The index's hash key of records whose last run did not fail.
pub(super) const OWED: &str = "1";
/// The attribute that counts failed runs, and the index's hash key of records that have it. A sweep queries
/// the other records first, so that failing records never delay them.
pub(super) const FAILING: &str = "failing";
/// Time at which a record was forgotten. The item has this attribute instead of the record.
pub(super) const FORGOTTEN_AT: &str = "forgotten_at";
/// The number of the last version of a record that was forgotten.
pub(super) const LAST_VERSION: &str = "last_version";
/// The sort key of a record, and the attribute that holds all of it. The item's other attributes repeat the
/// fields that conditions, the index and the time to live need.
pub(super) const RECORD: &str = "record";
/// Identifies the write that an item comes from.
pub(super) const WRITE_ID: &str = "write_id";
/// Time at which the record is due.
pub(super) const DUE_AT: &str = "due_at";
/// The attempted action in errors of saving a record.
pub(super) const SAVE_RECORD: &str = "save the record";
/// The fix for a fault of changeover itself.
pub(super) const REPORT: &str = "report this as a fault of changeover";
/// The revision of the record's fence.
pub(super) const REVISION: &str = "revision";
const SK: &str = "sk";
const LIFE: &str = "life";
const EXPIRES_AT: &str = "expires_at";
