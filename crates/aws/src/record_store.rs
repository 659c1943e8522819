//! Records in DynamoDB, one item per token. The values in them are sealed by KMS.
//!
//! ```text
//! pk             sk                     content
//! token#<name>   record                 the record, beside life, revision, write_id, owed, due_at and failing
//! token#<name>   key#<sha256>           an idempotency key -> rotation, version; expires_at (TTL)
//! token#<name>   rotation#<version>     the audit of a version, for ever
//! ```
//!
//! Every write carries a write id of its own. The SDK repeats a call whose reply was lost. If the lost
//! attempt was applied, the repeated one fails its own condition (github.com/aws/aws-sdk-java/issues/2667).
//! DynamoDB returns the item with the failure, and the write id in it distinguishes our own write from that
//! of another invocation.

use std::sync::Arc;

use async_trait::async_trait;
use aws_sdk_dynamodb::{
    error::SdkError,
    operation::{
        put_item::PutItemError, transact_write_items::TransactWriteItemsError,
        update_item::UpdateItemError,
    },
    types::{
        ConditionCheck, Get, Put, ReturnValuesOnConditionCheckFailure::AllOld, TransactGetItem,
        TransactWriteItem,
    },
};
use changeover_core::{
    clock::Clock,
    error::{Error, Kind},
    ports::RandomSource,
    ports::{RecordStore, Save, Saved},
    record::{Audit, Failing, KeyDigest, KeyEntry, Loaded},
};
use changeover_token::{
    Digest, Fence, Sealed, Secret, TokenName, VersionNumber, time::milliseconds,
};
use jiff::Timestamp;

use crate::{
    Aws,
    attributes::Attributes,
    conflicts::retrying_conflicts,
    sdk::{failed, incomplete},
};

mod cancelled;
mod item;
mod sealing;

use cancelled::{RetryTransactionConflicts, passes, was_cancelled_for_now};
use item::{
    AUDIT, DUE_AT, FAILING, FORGOTTEN_AT, LAST_VERSION, OWED, OWNER, PK, RECORD, REPORT, REVISION,
    SAVE_RECORD, WRITE_ID, audit_in, audit_item, audit_sort, bad_record, failing_attribute,
    failing_in, item_key, key_entry_in, key_item, key_sort, loaded_in, number, number_in,
    record_item, text, text_in,
};
use sealing::Sealing;

/// The table and the key of records.
#[derive(Clone, Debug)]
pub struct Kept {
    /// The DynamoDB table.
    pub table: String,
    /// The KMS key that seals values.
    pub key: String,
    /// The name in the encryption context.
    pub scope: String,
}

/// Records in a DynamoDB table, sealed with a KMS key. A new one is made for every invocation, for its
/// clock. The clients outlive it.
pub struct DynamoDbRecords {
    aws: Arc<Aws>,
    table: String,
    sealing: Sealing,
    clock: Clock,
    random_source: RandomSource,
}

impl DynamoDbRecords {
    /// The records that are stored in this table and sealed with this key.
    pub fn new(aws: Arc<Aws>, kept: Kept, clock: Clock, random_source: RandomSource) -> Self {
        let Kept { table, key, scope } = kept;
        let sealing = Sealing::new(Arc::clone(&aws), key, scope);
        Self { aws, table, sealing, clock, random_source }
    }
}

#[async_trait]
impl RecordStore for DynamoDbRecords {
    async fn load(&self, token: &TokenName, key: Option<&KeyDigest>) -> Result<Loaded, Error> {
        let record = item_key(token, RECORD);
        let Some(key) = key else {
            let found = self.item(READ_RECORD, token, record).await?;
            let loaded = found.map(|item| loaded_in(item, token)).transpose()?;
            return Ok(loaded.unwrap_or_default());
        };
        // Both are read in one snapshot. A key without its rotation would look like one that was carried
        // out long ago.
        let gets = [record, item_key(token, &key_sort(key))].map(|key| {
            let get = Get::builder().table_name(&self.table).set_key(Some(key)).build();
            get.map(|get| TransactGetItem::builder().get(get).build())
        });
        let gets = gets.into_iter().collect::<Result<Vec<_>, _>>().map_err(unbuildable)?;
        let answer = self
            .aws
            .dynamodb()
            .transact_get_items()
            .set_transact_items(Some(gets))
            .customize()
            .config_override(
                aws_sdk_dynamodb::Config::builder().retry_classifier(RetryTransactionConflicts),
            )
            .send()
            .await
            .map_err(|error| {
                let failed = failed("dynamodb:GetItem", READ_RECORD, self.named(token), &error);
                let is_for_now = error.as_service_error().is_some_and(was_cancelled_for_now);
                if is_for_now { busy(failed) } else { failed }
            })?;
        let items = answer.responses.unwrap_or_default().into_iter().map(|answer| answer.item);
        let Ok([record, key]) = <[_; 2]>::try_from(items.collect::<Vec<_>>()) else {
            let on = self.named(token);
            return Err(incomplete("dynamodb:GetItem", READ_RECORD, on, "answer for each item"));
        };
        let loaded = record.map(|item| loaded_in(item, token)).transpose()?;
        Ok(Loaded {
            key: key
                .map(|item| key_entry_in(&item, token))
                .transpose()?
                .filter(|entry| entry.expires_at > self.clock.now()),
            ..loaded.unwrap_or_default()
        })
    }

    async fn save(&self, save: Save<'_>) -> Result<Saved, Error> {
        let token = save.record.token();
        // A fence that does not grow is a mistake of the caller: its condition could still hold.
        if save.replaces.is_some_and(|replaces| save.record.fence() <= replaces) {
            return Err(Error::new(
                Kind::Internal,
                SAVE_RECORD,
                "its revision does not follow the one that it replaces",
                REPORT,
            )
            .on(self.named(token)));
        }
        // A new record replaces nothing, or only what a forgotten record has left.
        let write_id = self.write_id()?;
        let item = record_item(save.record, &write_id)?;
        let (condition, values) = match save.replaces {
            None => ("attribute_not_exists(pk) OR attribute_exists(forgotten_at)", None),
            Some(fence) => (still_at(fence), Some(values_of(fence))),
        };
        if save.key.is_none() && save.audit.is_empty() {
            return self.put(token, item, condition, values, &write_id).await;
        }

        // Record, key and audit are written together or not at all.
        let put = Put::builder()
            .table_name(&self.table)
            .set_item(Some(item))
            .condition_expression(condition)
            .set_expression_attribute_values(values)
            .return_values_on_condition_check_failure(AllOld)
            .build()
            .map_err(unbuildable)?;
        let mut writes = vec![TransactWriteItem::builder().put(put).build()];
        if let Some((key, entry)) = save.key {
            writes.push(self.put_key(token, key, entry, &write_id)?);
        }
        for audit in save.audit {
            let put = Put::builder()
                .table_name(&self.table)
                .set_item(Some(audit_item(audit)?))
                .build()
                .map_err(unbuildable)?;
            writes.push(TransactWriteItem::builder().put(put).build());
        }
        self.transact(SAVE_RECORD, token, writes, &write_id).await
    }

    async fn join(
        &self,
        token: &TokenName,
        fence: Fence,
        key: &KeyDigest,
        entry: &KeyEntry,
    ) -> Result<Saved, Error> {
        let write_id = self.write_id()?;
        let check = ConditionCheck::builder()
            .table_name(&self.table)
            .set_key(Some(item_key(token, RECORD)))
            .condition_expression(still_at(fence))
            .set_expression_attribute_values(Some(values_of(fence)))
            .build()
            .map_err(unbuildable)?;
        let writes = vec![
            TransactWriteItem::builder().condition_check(check).build(),
            self.put_key(token, key, entry, &write_id)?,
        ];
        self.transact("add a trigger's key to the record", token, writes, &write_id).await
    }

    async fn heartbeat(
        &self,
        token: &TokenName,
        fence: Fence,
        due_at: Timestamp,
    ) -> Result<Saved, Error> {
        let answer = self
            .aws
            .dynamodb()
            .update_item()
            .table_name(&self.table)
            .set_key(Some(item_key(token, RECORD)))
            .update_expression("SET owed = :owed, due_at = :due_at")
            .condition_expression(still_at(fence))
            .set_expression_attribute_values(Some(values_of(fence)))
            .expression_attribute_values(":owed", text(OWED))
            .expression_attribute_values(":due_at", text(milliseconds(due_at)))
            .customize()
            .config_override(retrying_conflicts::<UpdateItemError>())
            .send()
            .await;
        match answer {
            Ok(_) => Ok(Saved::Saved),
            Err(error) if is_refused_by_condition(&error) => Ok(Saved::Overtaken),
            Err(error) => {
                let on = self.named(token);
                Err(failed("dynamodb:UpdateItem", "renew the heartbeat of", on, &error))
            }
        }
    }

    async fn back_off(
        &self,
        token: &TokenName,
        error: &Error,
        now: Timestamp,
        latest: Option<Timestamp>,
    ) -> Result<Option<Failing>, Error> {
        let attempted = "count a failed run beside the record";
        // Reads only attributes beside the record, so that this works for a record that cannot be read.
        let answer = self
            .aws
            .dynamodb()
            .get_item()
            .table_name(&self.table)
            .set_key(Some(item_key(token, RECORD)))
            .projection_expression("revision, due_at, failing")
            .consistent_read(true)
            .send()
            .await
            .map_err(|error| failed("dynamodb:GetItem", attempted, self.named(token), &error))?;
        let item = answer.item.unwrap_or_default();
        // A token that is not due any more was saved by another invocation: there is nothing to count.
        let Some(due_at) = item.get(DUE_AT) else { return Ok(None) };
        let is_due = |time: &String| time.parse::<Timestamp>().map_or(true, |time| time <= now);
        if !due_at.as_s().is_ok_and(is_due) {
            return Ok(None);
        }
        let failing = Failing::after(failing_in(&item), error, now);
        // The conditions compare with the attributes as they were read, whatever they are: the record may
        // be damaged.
        let revision = item.get(REVISION).cloned();
        let condition = match revision {
            Some(_) => "due_at = :read AND revision = :revision",
            None => "due_at = :read AND attribute_not_exists(revision)",
        };
        let mut values = Attributes::from([
            (":owed".to_owned(), text(FAILING)),
            (":due_at".to_owned(), text(milliseconds(failing.due_at(now, latest)))),
            (":failing".to_owned(), failing_attribute(&failing)?),
            (":read".to_owned(), due_at.clone()),
        ]);
        values.extend(revision.map(|revision| (":revision".to_owned(), revision)));
        // Conditional on the attributes that were read. If they changed, another invocation made progress.
        let answer = self
            .aws
            .dynamodb()
            .update_item()
            .table_name(&self.table)
            .set_key(Some(item_key(token, RECORD)))
            .update_expression("SET owed = :owed, due_at = :due_at, failing = :failing")
            .condition_expression(condition)
            .set_expression_attribute_values(Some(values))
            .customize()
            .config_override(retrying_conflicts::<UpdateItemError>())
            .send()
            .await;
        match answer {
            Ok(_) => Ok(Some(failing)),
            Err(error) if is_refused_by_condition(&error) => Ok(None),
            Err(error) => Err(failed("dynamodb:UpdateItem", attempted, self.named(token), &error)),
        }
    }

    async fn forget(
        &self,
        token: &TokenName,
        fence: Fence,
        last_version: VersionNumber,
    ) -> Result<Saved, Error> {
        // The item remains, with the last version, so that a new record of the token does not use a number
        // twice.
        let write_id = self.write_id()?;
        let values = [
            (":now".to_owned(), text(milliseconds(self.clock.now()))),
            (":last".to_owned(), number(last_version.get())),
            (":write_id".to_owned(), text(write_id.as_str())),
        ];
        let answer = self
            .aws
            .dynamodb()
            .update_item()
            .table_name(&self.table)
            .set_key(Some(item_key(token, RECORD)))
            .update_expression(format!(
                "REMOVE #record, life, revision, owed, due_at, failing SET {FORGOTTEN_AT} = :now, \
                 {LAST_VERSION} = :last, {WRITE_ID} = :write_id"
            ))
            .condition_expression(still_at(fence))
            .expression_attribute_names("#record", RECORD)
            .set_expression_attribute_values(Some(
                values_of(fence).into_iter().chain(values).collect(),
            ))
            .return_values_on_condition_check_failure(AllOld)
            .customize()
            .config_override(retrying_conflicts::<UpdateItemError>())
            .send()
            .await;
        // A repeated call finds the item already forgotten. The write id shows that this call did it.
        let error = match answer {
            Ok(_) => return Ok(Saved::Saved),
            Err(error) => error,
        };
        match error.as_service_error() {
            Some(UpdateItemError::ConditionalCheckFailedException(refusal)) => {
                Ok(saved_if_ours(refusal.item(), &write_id))
            }
            _ => {
                let on = self.named(token);
                Err(failed("dynamodb:UpdateItem", "forget the record", on, &error))
            }
        }
    }

    async fn due(
        &self,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<(TokenName, Timestamp)>, Error> {
        self.indexed(OWED, Some(now), limit).await
    }

    async fn failing(&self, limit: usize) -> Result<Vec<(TokenName, Timestamp)>, Error> {
        self.indexed(FAILING, None, limit).await
    }

    async fn audit(
        &self,
        token: &TokenName,
        version: VersionNumber,
    ) -> Result<Option<Audit>, Error> {
        let key = item_key(token, &audit_sort(version));
        let found = self.item("read the audit of", token, key).await?;
        found.map(|item| audit_in(item, token, version)).transpose()
    }

    async fn version_of(
        &self,
        token: &TokenName,
        sha256: &Digest,
    ) -> Result<Option<VersionNumber>, Error> {
        let mut pages = self
            .aws
            .dynamodb()
            .query()
            .table_name(&self.table)
            .key_condition_expression("pk = :owner AND begins_with(sk, :audit)")
            .filter_expression("sha256 = :sha256")
            .projection_expression("version")
            .expression_attribute_values(":owner", text(format!("{OWNER}{token}")))
            .expression_attribute_values(":audit", text(AUDIT))
            .expression_attribute_values(":sha256", text(sha256.to_string()))
            .consistent_read(true)
            .scan_index_forward(false)
            .limit(AUDIT_PAGE)
            .into_paginator()
            .send();
        for _ in 0..AUDIT_PAGES {
            let Some(page) = pages.next().await else { break };
            let page = page.map_err(|error| {
                failed("dynamodb:Query", "look for a value in the audit of", token, &error)
            })?;
            if let Some(item) = page.items().first() {
                let number = number_in(item, "version").map(VersionNumber::new);
                return number.map(Some).ok_or_else(|| {
                    bad_record(token, AUDIT, "an entry has no `version`".to_owned())
                });
            }
        }
        Ok(None)
    }

    async fn seal(
        &self,
        token: &TokenName,
        version: VersionNumber,
        value: &Secret,
    ) -> Result<Sealed, Error> {
        self.sealing.seal(token, version, value).await
    }

    async fn open(
        &self,
        token: &TokenName,
        version: VersionNumber,
        sealed: &Sealed,
    ) -> Result<Secret, Error> {
        self.sealing.open(token, version, sealed).await
    }
}

/// The condition that the stored record still has this fence.
fn still_at(fence: Fence) -> &'static str {
    match fence.life {
        Some(_) => "revision = :revision AND life = :life",
        None => "revision = :revision AND attribute_not_exists(life)",
    }
}

/// The values of that condition.
fn values_of(fence: Fence) -> Attributes {
    let revision = (":revision".to_owned(), number(fence.revision));
    let life = fence.life.map(|life| (":life".to_owned(), text(life.to_string())));
    [revision].into_iter().chain(life).collect()
}

impl DynamoDbRecords {
    /// The records in one partition of the index, the earliest due first, up to a time if one is given.
    async fn indexed(
        &self,
        owed: &str,
        until: Option<Timestamp>,
        limit: usize,
    ) -> Result<Vec<(TokenName, Timestamp)>, Error> {
        let (condition, values) = match until {
            Some(until) => {
                let until = (":now".to_owned(), text(milliseconds(until)));
                ("owed = :owed AND due_at <= :now", Some(until))
            }
            None => ("owed = :owed", None),
        };
        let values = values.into_iter().chain([(":owed".to_owned(), text(owed))]);
        let mut due = Vec::new();
        // The index sorts by due time, so a limit keeps the records that are due first.
        let mut pages = self
            .aws
            .dynamodb()
            .query()
            .table_name(&self.table)
            .index_name(INDEX)
            .key_condition_expression(condition)
            .set_expression_attribute_values(Some(values.collect()))
            .scan_index_forward(true)
            .limit(limit.clamp(1, 1000).try_into().unwrap_or(i32::MAX))
            .into_paginator()
            .send();
        while due.len() < limit
            && let Some(page) = pages.next().await
        {
            let page = page.map_err(|error| {
                let on = format!("{}/{INDEX}", self.table);
                failed("dynamodb:Query", "find the records that are due in", on, &error)
            })?;
            for item in page.items() {
                let owner = text_in(item, PK).and_then(|pk| pk.strip_prefix(OWNER));
                let Some(token) = owner.and_then(|name| TokenName::parse(name).ok()) else {
                    // One unknown item must not keep the sweep from all the others.
                    tracing::warn!(table = self.table, "an item in the index is no token's record");
                    continue;
                };
                // A record whose time is damaged is reported when it is read again.
                let due_at = text_in(item, DUE_AT).and_then(|time| time.parse().ok());
                due.push((token, due_at.unwrap_or(self.clock.now())));
            }
        }
        due.truncate(limit);
        Ok(due)
    }

    async fn item(
        &self,
        attempted: &str,
        token: &TokenName,
        key: Attributes,
    ) -> Result<Option<Attributes>, Error> {
        let answer = self
            .aws
            .dynamodb()
            .get_item()
            .table_name(&self.table)
            .set_key(Some(key))
            .consistent_read(true)
            .send()
            .await
            .map_err(|error| failed("dynamodb:GetItem", attempted, self.named(token), &error))?;
        Ok(answer.item)
    }

    async fn put(
        &self,
        token: &TokenName,
        item: Attributes,
        condition: &str,
        values: Option<Attributes>,
        write_id: &str,
    ) -> Result<Saved, Error> {
        let answer = self
            .aws
            .dynamodb()
            .put_item()
            .table_name(&self.table)
            .set_item(Some(item))
            .condition_expression(condition)
            .set_expression_attribute_values(values)
            .return_values_on_condition_check_failure(AllOld)
            .customize()
            .config_override(retrying_conflicts::<PutItemError>())
            .send()
            .await;
        let error = match answer {
            Ok(_) => return Ok(Saved::Saved),
            Err(error) => error,
        };
        match error.as_service_error() {
            Some(PutItemError::ConditionalCheckFailedException(refusal)) => {
                Ok(saved_if_ours(refusal.item(), write_id))
            }
            _ => Err(failed("dynamodb:PutItem", SAVE_RECORD, self.named(token), &error)),
        }
    }

    /// Writes all or nothing. DynamoDB itself recognizes a repeated call by its token for ten minutes (API
    /// reference, `TransactWriteItems`). After that the write id identifies it.
    async fn transact(
        &self,
        attempted: &str,
        token: &TokenName,
        writes: Vec<TransactWriteItem>,
        write_id: &str,
    ) -> Result<Saved, Error> {
        let answer = self
            .aws
            .dynamodb()
            .transact_write_items()
            .client_request_token(write_id)
            .set_transact_items(Some(writes))
            .customize()
            .config_override(
                aws_sdk_dynamodb::Config::builder().retry_classifier(RetryTransactionConflicts),
            )
            .send()
            .await;
        let error = match answer {
            Ok(_) => return Ok(Saved::Saved),
            Err(error) => error,
        };
        // A transaction needs the permission of each of its parts.
        let actions = "dynamodb:PutItem and dynamodb:ConditionCheckItem";
        let failed = || failed(actions, attempted, self.named(token), &error);
        let Some(TransactWriteItemsError::TransactionCanceledException(cancelled)) =
            error.as_service_error()
        else {
            return Err(failed());
        };
        // A failed condition is an answer, not an error. It is our own write if all failed items agree.
        let reasons = cancelled.cancellation_reasons();
        let mut refusals = reasons
            .iter()
            .filter(|reason| reason.code() == Some("ConditionalCheckFailed"))
            .map(|reason| saved_if_ours(reason.item(), write_id));
        if let Some(first) = refusals.next() {
            let is_ours =
                refusals.fold(first, |all, next| if all == next { all } else { Saved::Overtaken });
            return Ok(is_ours);
        }
        Err(match reasons.iter().enumerate().find(|(_, reason)| !passes(reason)) {
            // The error names the item, because every item of a transaction is of another kind.
            Some((index, reason)) => Error {
                kind: match reason.message() {
                    Some(message) if message.contains("size") => Kind::TooLarge,
                    _ => Kind::Internal,
                },
                because: format!(
                    "item {index} of the transaction was refused with {}: {}",
                    reason.code().unwrap_or("no code"),
                    reason.message().unwrap_or("no message")
                ),
                ..failed()
            },
            None => busy(failed()),
        })
    }

    /// Writes a key that must be new, or must have expired.
    fn put_key(
        &self,
        token: &TokenName,
        key: &KeyDigest,
        entry: &KeyEntry,
        write_id: &str,
    ) -> Result<TransactWriteItem, Error> {
        let item = key_item(token, key, entry, write_id);
        let put = Put::builder()
            .table_name(&self.table)
            .set_item(Some(item))
            .condition_expression("attribute_not_exists(pk) OR expires_at <= :now")
            .expression_attribute_values(":now", number(self.clock.now().as_second()))
            .return_values_on_condition_check_failure(AllOld)
            .build()
            .map_err(unbuildable)?;
        Ok(TransactWriteItem::builder().put(put).build())
    }

    fn write_id(&self) -> Result<String, Error> {
        let mut bytes = [0; 16];
        (self.random_source)(&mut bytes)?;
        Ok(hex::encode(bytes))
    }

    fn named(&self, token: &TokenName) -> String {
        format!("{OWNER}{token} in the table {}", self.table)
    }
}

/// `Saved` if an earlier attempt of the same call already made the write that is now refused.
fn saved_if_ours(existing: Option<&Attributes>, write_id: &str) -> Saved {
    match existing.and_then(|item| text_in(item, WRITE_ID)) {
        Some(id) if id == write_id => Saved::Saved,
        _ => Saved::Overtaken,
    }
}

/// The error of a transaction that was cancelled for a temporary reason until the retries ended.
fn busy(failed: Error) -> Error {
    Error {
        kind: Kind::Throttled,
        because: "other calls kept touching the same items, or the table's rate was used up"
            .to_owned(),
        fix: "run it again later".to_owned(),
        ..failed
    }
}

fn is_refused_by_condition<R>(error: &SdkError<UpdateItemError, R>) -> bool {
    error.as_service_error().is_some_and(UpdateItemError::is_conditional_check_failed_exception)
}

fn unbuildable(error: aws_sdk_dynamodb::error::BuildError) -> Error {
    Error::new(Kind::Internal, "compose a call of DynamoDB", "a part is missing", REPORT)
        .caused_by(&error)
}

/// Limits on the audit entries that are searched for a value, newest first: the number of pages, and the
/// entries of a page.
const AUDIT_PAGES: usize = 4;
const AUDIT_PAGE: i32 = 250;
const INDEX: &str = "owed";
const READ_RECORD: &str = "read the record";
