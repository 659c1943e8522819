//! Records in DynamoDB, sealed by KMS.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use changeover_aws::DynamoDbRecords;
use changeover_core::{
    clock::Clock,
    error::{Error, Kind},
    ports::{RecordStore, Save, Saved},
    record::{Failing, Record},
    spec::Side,
};
use changeover_testkit::sample::{
    at, audit, bare_record, begun_record, fence, key, key_entry, life, named, token,
};
use changeover_token::{Digest, Fence, Sealed, Secret, VersionNumber};

use super::kept;
use changeover_testkit_aws::{Answer, Call, Wire, error_body, ok, refused};
use serde_json::{Value, json};

fn records(wire: &Wire) -> DynamoDbRecords {
    let random_source = Arc::new(|buffer: &mut [u8]| {
        buffer.fill(0xab);
        Ok(())
    });
    DynamoDbRecords::new(wire.aws(), kept(), Clock::starting_at(at(0)), random_source)
}

/// The id of every write, because the random bytes above are fixed.
const WRITE_ID: &str = "abababababababababababababababab";

fn save(record: &Record, replaces: Option<u64>) -> Save<'_> {
    Save { replaces: replaces.map(fence), record, key: None, audit: &[] }
}

/// The item that a record is saved as, in the form in which DynamoDB returns it.
pub(super) async fn item_of(record: &Record) -> Value {
    let wire = Wire::script([ok(json!({}))]);
    let saved = records(&wire).save(save(record, None)).await.expect("an answer");
    assert_eq!(saved, Saved::Saved);
    wire.only_call().body["Item"].clone()
}

#[tokio::test(start_paused = true)]
async fn record_put_is_conditional_on_replaced_revision() {
    let record = begun_record(&token()).to_save();
    let wire = Wire::script([ok(json!({}))]);
    let saved = records(&wire).save(save(&record, Some(1))).await.expect("an answer");
    assert_eq!(saved, Saved::Saved);
    let call = wire.only_call();
    assert_eq!(call.operation, "PutItem");
    assert_eq!(call.body["TableName"], "changeover");
    assert_eq!(call.body["ConditionExpression"], "revision = :revision AND life = :life");
    assert_eq!(
        call.body["ExpressionAttributeValues"],
        json!({":revision": {"N": "1"}, ":life": {"S": life(0).to_string()}})
    );
    assert_eq!(call.body["ReturnValuesOnConditionCheckFailure"], "ALL_OLD");
    let item = &call.body["Item"];
    assert_eq!(item["pk"], json!({"S": "token#datastore-token"}));
    assert_eq!(item["sk"], json!({"S": "record"}));
    assert_eq!(item["revision"], json!({"N": "2"}));
    assert_eq!(item["life"], json!({"S": life(0).to_string()}));
    assert_eq!(item["write_id"], json!({"S": WRITE_ID}));
    assert_eq!(item["owed"], json!({"S": "1"}));
    assert_eq!(item["due_at"], json!({"S": "2026-11-01T00:00:35.000Z"}));
}

#[tokio::test(start_paused = true)]
async fn first_save_requires_no_record_and_owes_nothing() {
    let wire = Wire::script([ok(json!({}))]);
    let record = bare_record(&token());
    let saved = records(&wire).save(save(&record, None)).await.expect("an answer");
    assert_eq!(saved, Saved::Saved);
    let call = wire.only_call();
    let condition = "attribute_not_exists(pk) OR attribute_exists(forgotten_at)";
    assert_eq!(call.body["ConditionExpression"], condition);
    assert!(call.body.get("ExpressionAttributeValues").is_none());
    assert!(call.body["Item"].get("owed").is_none() && call.body["Item"].get("due_at").is_none());
}

#[tokio::test(start_paused = true)]
async fn key_and_audit_are_saved_in_one_transaction() {
    let record = begun_record(&token());
    let (digest, entry) = (key("k"), key_entry(at(604_800)));
    let wire = Wire::script([ok(json!({}))]);
    let save = Save {
        replaces: None,
        record: &record,
        key: Some((&digest, &entry)),
        audit: &[audit(&token(), 1)],
    };
    assert_eq!(records(&wire).save(save).await.expect("an answer"), Saved::Saved);
    let call = wire.only_call();
    assert_eq!(call.operation, "TransactWriteItems");
    assert_eq!(call.body["ClientRequestToken"], WRITE_ID);
    let writes = call.body["TransactItems"].as_array().expect("items");
    assert_eq!(writes.len(), 3);
    let condition = "attribute_not_exists(pk) OR attribute_exists(forgotten_at)";
    assert_eq!(writes[0]["Put"]["ConditionExpression"], condition);
    assert_eq!(writes[0]["Put"]["ReturnValuesOnConditionCheckFailure"], "ALL_OLD");
    let put = &writes[1]["Put"];
    assert_eq!(put["ConditionExpression"], "attribute_not_exists(pk) OR expires_at <= :now");
    assert_eq!(put["ExpressionAttributeValues"], json!({":now": {"N": "1793491200"}}));
    assert_eq!(
        put["Item"],
        json!({
            "pk": {"S": "token#datastore-token"}, "sk": {"S": digest_sort(&digest)},
            "rotation": {"S": "3f0c"}, "version": {"N": "2"}, "expires_at": {"N": "1794096000"},
            "write_id": {"S": WRITE_ID},
        })
    );
    let audited = &writes[2]["Put"]["Item"];
    assert_eq!(audited["sk"], json!({"S": "rotation#0000000001"}));
    assert_eq!(audited["not_after"], json!({"S": "2026-11-01T00:15:00.000Z"}));
    assert!(audited.get("expires_at").is_none(), "the audit is for ever");
}

fn digest_sort(key: &changeover_core::record::KeyDigest) -> String {
    format!("key#{}", key.as_str())
}

#[tokio::test(start_paused = true)]
async fn revision_out_of_sequence_is_not_saved() {
    let wire = Wire::script([ok(json!({}))]);
    let record = bare_record(&token());
    let error = records(&wire).save(save(&record, Some(1))).await.expect_err("refused");
    assert_eq!(error.kind, Kind::Internal);
    assert!(wire.calls().is_empty());
}

/// A table of one item that evaluates conditions on the revision and loses the first reply.
fn losing_the_first_reply(stored: Option<Value>) -> Wire {
    let stored = Mutex::new(stored);
    let mut puts = 0;
    Wire::new(move |call| {
        let mut stored = stored.lock().expect("nobody panicked");
        puts += 1;
        let is = stored.as_ref().map(|item| item["revision"].clone());
        let must_be = call.body["ExpressionAttributeValues"].get(":revision").cloned();
        if is == must_be {
            *stored = Some(call.body["Item"].clone());
            return if puts == 1 { Answer::Lost } else { ok(json!({})) };
        }
        let mut body = error_body("ConditionalCheckFailedException", "no");
        body["Item"] = stored.clone().unwrap_or_default();
        Answer::With(400, body)
    })
}

#[tokio::test(start_paused = true)]
async fn own_write_with_lost_reply_counts_as_saved() {
    let wire = losing_the_first_reply(None);
    let saved = records(&wire).save(save(&bare_record(&token()), None)).await;
    assert_eq!(saved.expect("an answer"), Saved::Saved);
    assert_eq!(wire.operations(), ["PutItem", "PutItem"]);
}

#[tokio::test(start_paused = true)]
async fn foreign_record_is_not_mistaken_for_own() {
    let theirs = json!({"revision": {"N": "3"}, "write_id": {"S": "another"}});
    for stored in [theirs, json!({"revision": {"N": "3"}})] {
        let wire = losing_the_first_reply(Some(stored));
        let record = bare_record(&token()).to_save();
        let saved = records(&wire).save(save(&record, Some(1))).await;
        assert_eq!(saved.expect("an answer"), Saved::Overtaken);
    }
}

/// A transaction cancelled for these reasons, with the existing items.
fn cancelled(reasons: &[(&str, Option<Value>)]) -> Answer {
    let reasons: Vec<_> = reasons
        .iter()
        .map(|(code, item)| json!({"Code": code, "Message": "so it is", "Item": item}))
        .collect();
    let mut body = error_body("TransactionCanceledException", "cancelled");
    body["CancellationReasons"] = reasons.into();
    Answer::With(400, body)
}

async fn save_with_key(wire: &Wire) -> Result<Saved, Error> {
    let record = begun_record(&token());
    let (digest, entry) = (key("k"), key_entry(at(604_800)));
    let key = Some((&digest, &entry));
    records(wire).save(Save { replaces: None, record: &record, key, audit: &[] }).await
}

#[tokio::test(start_paused = true)]
async fn cancelled_transaction_is_read_item_by_item() {
    let failed = "ConditionalCheckFailed";
    let ours = || Some(json!({"write_id": {"S": WRITE_ID}}));
    let theirs = || Some(json!({"write_id": {"S": "another"}}));
    let table = [
        ("another record", cancelled(&[(failed, theirs()), ("None", None)]), Saved::Overtaken),
        ("the key is there", cancelled(&[("None", None), (failed, theirs())]), Saved::Overtaken),
        ("both are ours", cancelled(&[(failed, ours()), (failed, ours())]), Saved::Saved),
        ("only one is", cancelled(&[(failed, ours()), (failed, theirs())]), Saved::Overtaken),
        (
            "and a conflict",
            cancelled(&[(failed, theirs()), ("TransactionConflict", None)]),
            Saved::Overtaken,
        ),
    ];
    for (what, answer, expected) in table {
        let wire = Wire::script([answer]);
        assert_eq!(save_with_key(&wire).await.expect(what), expected, "{what}");
        assert_eq!(wire.calls().len(), 1, "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn conflicting_transaction_is_retried_with_same_token() {
    let conflict = || cancelled(&[("TransactionConflict", None), ("None", None)]);
    let throttled = || cancelled(&[("ThrottlingError", None), ("None", None)]);
    let in_progress = || refused("TransactionInProgressException");
    let wire = Wire::script([conflict(), throttled(), in_progress(), ok(json!({}))]);
    assert_eq!(save_with_key(&wire).await.expect("an answer"), Saved::Saved);
    let tokens: Vec<_> =
        wire.calls().iter().map(|call| call.body["ClientRequestToken"].clone()).collect();
    assert_eq!(tokens, vec![json!(WRITE_ID); 4]);

    for answer in [conflict(), in_progress()] {
        let wire = Wire::script([answer]);
        assert_eq!(save_with_key(&wire).await.expect_err("throttled").kind, Kind::Throttled);
        assert!((2..=5).contains(&wire.calls().len()));
    }
}

#[tokio::test(start_paused = true)]
async fn item_refused_by_dynamodb_is_named() {
    let reasons = [("None", None), ("ValidationError", None)];
    let error = save_with_key(&Wire::script([cancelled(&reasons)])).await.expect_err("refused");
    assert_eq!(error.kind, Kind::Internal);
    assert!(error.to_string().contains("item 1"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn save_error_code_maps_to_its_kind() {
    let table = [
        ("ProvisionedThroughputExceededException", Kind::Throttled),
        ("TransactionConflictException", Kind::Throttled),
        ("AccessDeniedException", Kind::AccessDenied),
        ("ResourceNotFoundException", Kind::Internal),
    ];
    for (code, kind) in table {
        let wire = Wire::script([refused(code)]);
        let error = records(&wire).save(save(&bare_record(&token()), None)).await;
        let error = error.expect_err("refused");
        assert_eq!(error.kind, kind, "{error}");
        assert!(error.to_string().contains("token#datastore-token in the table changeover"));
    }
}

#[tokio::test(start_paused = true)]
async fn record_is_loaded_consistently_in_one_call() {
    let record = begun_record(&token());
    let item = item_of(&record).await;
    let wire = Wire::script([ok(json!({"Item": item}))]);
    let loaded = records(&wire).load(&token(), None).await.expect("an answer");
    assert_eq!(loaded.record, Some(record));
    let call = wire.only_call();
    assert_eq!(call.operation, "GetItem");
    assert_eq!(call.body["ConsistentRead"], true);
    let expected = json!({"pk": {"S": "token#datastore-token"}, "sk": {"S": "record"}});
    assert_eq!(call.body["Key"], expected);
}

#[tokio::test(start_paused = true)]
async fn record_and_key_are_loaded_in_one_snapshot() {
    let record = begun_record(&token());
    let entry = key_entry(at(604_800));
    let responses = json!([
        {"Item": item_of(&record).await},
        {"Item": {
            "rotation": {"S": "3f0c"}, "version": {"N": "2"}, "expires_at": {"N": "1794096000"},
        }},
    ]);
    let wire = Wire::script([
        cancelled(&[("TransactionConflict", None), ("None", None)]),
        ok(json!({"Responses": responses})),
    ]);
    let digest = key("k");
    let loaded = records(&wire).load(&token(), Some(&digest)).await.expect("an answer");
    assert_eq!(loaded.record, Some(record));
    assert_eq!(loaded.key, Some(entry));
    assert_eq!(wire.operations(), ["TransactGetItems", "TransactGetItems"]);
    let keys: Vec<_> = wire.calls()[0].body["TransactItems"]
        .as_array()
        .expect("items")
        .iter()
        .map(|item| item["Get"]["Key"]["sk"]["S"].clone())
        .collect();
    assert_eq!(keys, [json!("record"), json!(digest_sort(&digest))]);
}

#[tokio::test(start_paused = true)]
async fn incomplete_snapshot_is_not_a_missing_record() {
    let conflict = || cancelled(&[("TransactionConflict", None), ("None", None)]);
    let table = [
        ("no responses", ok(json!({})), Kind::Unreachable),
        ("one response", ok(json!({"Responses": [{}]})), Kind::Unreachable),
        ("unreadable", Answer::Garbled("<html>".to_owned()), Kind::Unreachable),
        ("always met others", conflict(), Kind::Throttled),
    ];
    for (what, answer, kind) in table {
        let wire = Wire::script([answer]);
        let error = records(&wire).load(&token(), Some(&key("k"))).await.expect_err(what);
        assert_eq!(error.kind, kind, "{what}: {error}");
    }
}

#[tokio::test(start_paused = true)]
async fn missing_record_and_expired_key_load_as_none() {
    let wire = Wire::script([ok(json!({}))]);
    let loaded = records(&wire).load(&token(), None).await.expect("an answer");
    assert!(loaded.record.is_none() && loaded.key.is_none());
    let expired = json!({
        "rotation": {"S": "3f0c"}, "version": {"N": "2"}, "expires_at": {"N": "1793491200"},
    });
    let wire = Wire::script([ok(json!({"Responses": [{}, {"Item": expired}]}))]);
    let loaded = records(&wire).load(&token(), Some(&key("k"))).await.expect("an answer");
    assert!(loaded.record.is_none() && loaded.key.is_none());
}

#[tokio::test(start_paused = true)]
async fn damaged_record_is_named_as_bad_record() {
    let good = item_of(&begun_record(&token())).await;
    let another = item_of(&begun_record(&named("another"))).await;
    let with = |path: &str, value: Value| {
        let mut item = good.clone();
        *item.pointer_mut(path).expect("a path") = value;
        item
    };
    let mut without = good.clone();
    without.as_object_mut().expect("an item").remove("record");
    let mut newer = good.clone();
    newer["record"]["M"]["of_a_later_version"] = json!({"S": "which would be lost"});
    let table = [
        ("no record", without),
        ("of another token", another),
        ("no map", with("/record", json!({"S": "{}"}))),
        ("empty", with("/record", json!({"M": {}}))),
        ("bytes", with("/record", json!({"B": "AAAA"}))),
        ("another revision", with("/revision", json!({"N": "9"}))),
        ("another life", with("/life", json!({"S": life(60).to_string()}))),
        ("a life that is none", with("/record/M/life", json!({"S": "zz"}))),
        ("no number", with("/revision", json!({"S": "1"}))),
        ("no time", with("/due_at", json!({"S": "tomorrow"}))),
        ("no text", with("/due_at", json!({"N": "5"}))),
        ("a stage that is not known", with("/record/M/versions", json!({"L": [{"S": "new"}]}))),
        ("a number too large", with("/record/M/spec_version", json!({"N": "1e300"}))),
        ("a field of a later version", newer),
        ("the end of time", with("/record/M/compare_at", json!({"S": "9999-12-30T22:00:00.000Z"}))),
        ("due at the end of time", with("/due_at", json!({"S": "9999-12-30T22:00:00.000Z"}))),
        ("a value's secret", with("/record/M/token", json!({"S": "S3CRET VALUE"}))),
    ];
    for (what, item) in table {
        let wire = Wire::script([ok(json!({"Item": item}))]);
        let error = records(&wire).load(&token(), None).await.expect_err(what);
        assert_eq!(error.kind, Kind::BadRecord, "{what}");
        let message = error.to_string();
        assert!(message.contains("token#datastore-token record"), "{what}: {message}");
        assert!(!message.contains("S3CRET"), "{what}: {message}");
    }
}

#[tokio::test(start_paused = true)]
async fn damaged_key_is_reported_as_bad_record() {
    for item in [json!({}), json!({"rotation": {"S": "x"}, "version": {"N": "-1"}})] {
        let wire = Wire::script([ok(json!({"Responses": [{}, {"Item": item}]}))]);
        let error = records(&wire).load(&token(), Some(&key("k"))).await.expect_err("damaged");
        assert_eq!(error.kind, Kind::BadRecord);
    }
}

#[tokio::test(start_paused = true)]
async fn record_without_life_loads_and_saves_without_it() {
    let mut item = item_of(&begun_record(&token())).await;
    item.as_object_mut().expect("an item").remove("life");
    for field in ["life", "accepted_life", "presented_life"] {
        item["record"]["M"].as_object_mut().expect("a record").remove(field);
    }
    let wire = Wire::script([ok(json!({"Item": item})), ok(json!({}))]);
    let loaded = records(&wire).load(&token(), None).await.expect("an answer");
    let record = loaded.record.expect("a record");
    assert_eq!((record.fence(), record.view(Side::Verifiers)), (Fence::bare(1), Fence::bare(1)));
    let next = record.to_save();
    let save = Save { replaces: Some(record.fence()), ..save(&next, None) };
    assert_eq!(records(&wire).save(save).await.expect("an answer"), Saved::Saved);
    let call = &wire.calls()[1];
    let condition = "revision = :revision AND attribute_not_exists(life)";
    assert_eq!(call.body["ConditionExpression"], condition);
    assert!(!call.body["Item"].to_string().contains("life"), "{}", call.body["Item"]);
}

#[tokio::test(start_paused = true)]
async fn join_checks_revision_and_adds_key() {
    let wire = Wire::script([ok(json!({}))]);
    let saved = records(&wire).join(&token(), fence(4), &key("k"), &key_entry(at(604_800))).await;
    assert_eq!(saved.expect("an answer"), Saved::Saved);
    let call = wire.only_call();
    let check = &call.body["TransactItems"][0]["ConditionCheck"];
    assert_eq!(check["ConditionExpression"], "revision = :revision AND life = :life");
    assert_eq!(
        check["ExpressionAttributeValues"],
        json!({":revision": {"N": "4"}, ":life": {"S": life(0).to_string()}})
    );
    assert_eq!(check["Key"]["sk"], json!({"S": "record"}));
    assert!(call.body["TransactItems"][1].get("Put").is_some());
}

#[tokio::test(start_paused = true)]
async fn heartbeat_moves_due_time_and_load_returns_it() {
    let wire = Wire::script([ok(json!({}))]);
    let saved = records(&wire).heartbeat(&token(), fence(4), at(60)).await.expect("an answer");
    assert_eq!(saved, Saved::Saved);
    let call = wire.only_call();
    assert_eq!(call.operation, "UpdateItem");
    assert_eq!(call.body["UpdateExpression"], "SET owed = :owed, due_at = :due_at");
    assert_eq!(call.body["ConditionExpression"], "revision = :revision AND life = :life");
    assert_eq!(
        call.body["ExpressionAttributeValues"],
        json!({
            ":owed": {"S": "1"}, ":due_at": {"S": "2026-11-01T00:01:00.000Z"},
            ":revision": {"N": "4"}, ":life": {"S": life(0).to_string()},
        })
    );
    let wire = Wire::script([refused("ConditionalCheckFailedException")]);
    let saved = records(&wire).heartbeat(&token(), fence(4), at(60)).await.expect("an answer");
    assert_eq!(saved, Saved::Overtaken);

    let record = begun_record(&token());
    let mut item = item_of(&record).await;
    item["due_at"] = json!({"S": "2026-11-01T00:01:00.000Z"});
    let wire = Wire::script([ok(json!({"Item": item}))]);
    let loaded = records(&wire).load(&token(), None).await.expect("an answer");
    assert_eq!(loaded.record, Some(record.with_due_at(at(60))));
}

/// The attributes beside a record that are read even if the record itself cannot be parsed.
fn beside(due_at: &str, tries: Option<u32>) -> Value {
    let mut item = json!({"due_at": {"S": due_at}, "revision": {"N": "4"}});
    if let Some(tries) = tries {
        item["failing"] = json!({"M": {
            "tries": {"N": tries.to_string()}, "since": {"S": "2026-10-31T23:00:00.000Z"},
            "error": {"S": "BadSpec"}, "message": {"S": "before"},
        }});
    }
    item
}

async fn back_off(wire: &Wire, latest: Option<jiff::Timestamp>) -> Option<Failing> {
    let error = Error::new(Kind::BadRecord, "read the item", "it is damaged", "restore it");
    let failing = records(wire).back_off(&token(), &error, at(0), latest).await;
    failing.expect("an answer")
}

#[tokio::test(start_paused = true)]
async fn failed_run_is_counted_if_record_is_unchanged() {
    let due = "2026-10-31T23:59:00.000Z";
    let wire = Wire::script([ok(json!({"Item": beside(due, Some(3))})), ok(json!({}))]);
    let failing = back_off(&wire, None).await.expect("it was due");
    assert_eq!((failing.tries, failing.since), (4, at(-3600)));
    let calls = wire.calls();
    assert_eq!(wire.operations(), ["GetItem", "UpdateItem"]);
    assert_eq!(calls[0].body["ConsistentRead"], true);
    assert_eq!(calls[0].body["ProjectionExpression"], "revision, due_at, failing");
    let update = &calls[1].body;
    assert_eq!(update["Key"]["sk"], json!({"S": "record"}));
    assert_eq!(
        update["UpdateExpression"],
        "SET owed = :owed, due_at = :due_at, failing = :failing"
    );
    assert_eq!(update["ConditionExpression"], "due_at = :read AND revision = :revision");
    let message = "could not read the item: it is damaged; restore it";
    assert_eq!(
        update["ExpressionAttributeValues"],
        json!({
            ":owed": {"S": "failing"}, ":due_at": {"S": "2026-11-01T00:08:00.000Z"},
            ":read": {"S": due}, ":revision": {"N": "4"},
            ":failing": {"M": {
                "tries": {"N": "4"}, "since": {"S": "2026-10-31T23:00:00.000Z"},
                "error": {"S": "BadRecord"}, "message": {"S": message},
            }},
        })
    );
}

#[tokio::test(start_paused = true)]
async fn back_off_never_exceeds_hour_or_version_end() {
    let due = "2026-10-31T23:59:00.000Z";
    for (tries, latest, due_at) in [
        (None, None, "2026-11-01T00:01:00.000Z"),
        (Some(5), None, "2026-11-01T00:32:00.000Z"),
        (Some(6), None, "2026-11-01T01:00:00.000Z"),
        (Some(u32::MAX), None, "2026-11-01T01:00:00.000Z"),
        (Some(6), Some(at(90)), "2026-11-01T00:01:30.000Z"),
    ] {
        let wire = Wire::script([ok(json!({"Item": beside(due, tries)})), ok(json!({}))]);
        back_off(&wire, latest).await.expect("it was due");
        let values = wire.calls()[1].body["ExpressionAttributeValues"].clone();
        assert_eq!(values[":due_at"], json!({"S": due_at}), "{tries:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn failed_run_is_not_counted_unless_due() {
    let no_time = json!({"revision": {"N": "4"}});
    for item in [json!(null), no_time, beside("2026-11-01T00:00:01.000Z", None)] {
        let wire = Wire::script([ok(json!({"Item": item})), ok(json!({}))]);
        assert_eq!(back_off(&wire, None).await, None);
        assert_eq!(wire.operations(), ["GetItem"], "nothing is written");
    }
    // Another invocation saved the record between the read and the write.
    let item = json!({"Item": beside("2026-10-31T23:59:00.000Z", None)});
    let wire = Wire::script([ok(item), refused("ConditionalCheckFailedException")]);
    assert_eq!(back_off(&wire, None).await, None);
    // A record in which every attribute is damaged backs off too.
    let damaged = json!({"due_at": {"S": "0"}, "failing": {"S": "x"}});
    let wire = Wire::script([ok(json!({"Item": damaged})), ok(json!({}))]);
    assert_eq!(back_off(&wire, None).await.expect("it is due").tries, 1);
    let condition = &wire.calls()[1].body["ConditionExpression"];
    assert_eq!(condition, "due_at = :read AND attribute_not_exists(revision)");
}

#[tokio::test(start_paused = true)]
async fn forgotten_record_keeps_number_of_last_version() {
    let wire = Wire::script([ok(json!({}))]);
    let forgotten = records(&wire).forget(&token(), fence(4), VersionNumber::new(7)).await;
    assert_eq!(forgotten.expect("an answer"), Saved::Saved);
    let call = wire.only_call();
    assert_eq!(call.operation, "UpdateItem");
    assert_eq!(
        call.body["UpdateExpression"],
        "REMOVE #record, life, revision, owed, due_at, failing SET forgotten_at = :now, \
         last_version = :last, write_id = :write_id"
    );
    assert_eq!(call.body["ExpressionAttributeNames"], json!({"#record": "record"}));
    assert_eq!(call.body["ConditionExpression"], "revision = :revision AND life = :life");
    assert_eq!(call.body["ReturnValuesOnConditionCheckFailure"], "ALL_OLD");
    assert_eq!(
        call.body["ExpressionAttributeValues"],
        json!({
            ":now": {"S": "2026-11-01T00:00:00.000Z"}, ":last": {"N": "7"},
            ":write_id": {"S": WRITE_ID}, ":revision": {"N": "4"}, ":life": {"S": life(0).to_string()},
        })
    );

    // The remaining item reads as no record, and a new record may replace it.
    let left = json!({
        "pk": {"S": "token#datastore-token"}, "sk": {"S": "record"}, "write_id": {"S": WRITE_ID},
        "forgotten_at": {"S": "2026-11-01T00:00:00.000Z"}, "last_version": {"N": "7"},
    });
    let wire = Wire::script([ok(json!({"Item": left.clone()}))]);
    let loaded = records(&wire).load(&token(), None).await.expect("an answer");
    assert_eq!((loaded.record, loaded.last_version), (None, VersionNumber::new(7)));
    let mut damaged = left;
    damaged["last_version"] = json!({"S": "7"});
    let wire = Wire::script([ok(json!({"Item": damaged}))]);
    let error = records(&wire).load(&token(), None).await.expect_err("damaged");
    assert_eq!(error.kind, Kind::BadRecord);
}

#[tokio::test(start_paused = true)]
async fn lost_forget_reply_is_resolved_by_write_id() {
    for (write_id, saved) in [(WRITE_ID, Saved::Saved), ("another", Saved::Overtaken)] {
        let mut refusal = error_body("ConditionalCheckFailedException", "no");
        refusal["Item"] = json!({"write_id": {"S": write_id}});
        let wire = Wire::script([Answer::Lost, Answer::With(400, refusal)]);
        let forgotten = records(&wire).forget(&token(), fence(4), VersionNumber::new(7)).await;
        assert_eq!(forgotten.expect("an answer"), saved, "{write_id}");
    }
}

#[tokio::test(start_paused = true)]
async fn failing_records_have_their_own_index_partition() {
    let row = json!({"pk": {"S": "token#a"}, "sk": {"S": "record"}, "owed": {"S": "failing"},
                     "due_at": {"S": "2026-11-01T00:01:00.000Z"}});
    let wire = Wire::script([ok(json!({"Items": [row]}))]);
    let failing = records(&wire).failing(1000).await.expect("an answer");
    assert_eq!(failing, [(named("a"), at(60))]);
    let call = wire.only_call();
    assert_eq!(call.body["IndexName"], "owed");
    assert_eq!(call.body["KeyConditionExpression"], "owed = :owed");
    assert_eq!(call.body["ExpressionAttributeValues"], json!({":owed": {"S": "failing"}}));
}

#[tokio::test(start_paused = true)]
async fn due_tokens_are_queried_page_by_page() {
    let row = |name: &str, due_at: &str| {
        json!({"pk": {"S": format!("token#{name}")}, "sk": {"S": "record"},
               "owed": {"S": "1"}, "due_at": {"S": due_at}})
    };
    let first = json!({
        "Items": [row("a", "2026-11-01T00:00:00.000Z"), row("NOT A TOKEN", "x")],
        "LastEvaluatedKey": row("a", "2026-11-01T00:00:00.000Z"),
    });
    let second = json!({
        "Items": [row("b", "2026-11-01T00:00:01.000Z"), row("c", "2026-11-01T00:00:02.000Z")],
    });
    let wire = Wire::new(move |call: &Call| {
        let is_first = call.body.get("ExclusiveStartKey").is_none();
        ok(if is_first { first.clone() } else { second.clone() })
    });
    let due = records(&wire).due(at(60), 2).await.expect("an answer");
    assert_eq!(due, [(named("a"), at(0)), (named("b"), at(1))]);
    let call = &wire.calls()[0];
    assert_eq!(call.operation, "Query");
    assert_eq!(call.body["IndexName"], "owed");
    assert_eq!(call.body["KeyConditionExpression"], "owed = :owed AND due_at <= :now");
    assert_eq!(call.body["ScanIndexForward"], true);
    assert_eq!(
        call.body["ExpressionAttributeValues"],
        json!({":owed": {"S": "1"}, ":now": {"S": "2026-11-01T00:01:00.000Z"}})
    );
}

#[tokio::test(start_paused = true)]
async fn audit_reads_back_only_for_its_version() {
    let written = audit(&token(), 1);
    let wire = Wire::script([ok(json!({}))]);
    let record = bare_record(&token());
    let save = Save { audit: std::slice::from_ref(&written), ..save(&record, None) };
    assert_eq!(records(&wire).save(save).await.expect("an answer"), Saved::Saved);
    let item = wire.only_call().body["TransactItems"][1]["Put"]["Item"].clone();

    let wire = Wire::script([ok(json!({"Item": item.clone()}))]);
    let read = records(&wire).audit(&token(), VersionNumber::new(1)).await.expect("an answer");
    assert_eq!(read, Some(written));
    let expected =
        json!({"pk": {"S": "token#datastore-token"}, "sk": {"S": "rotation#0000000001"}});
    assert_eq!(wire.only_call().body["Key"], expected);

    let wire = Wire::script([ok(json!({"Item": item}))]);
    let error = records(&wire).audit(&token(), VersionNumber::new(2)).await;
    assert_eq!(error.expect_err("another").kind, Kind::BadRecord);

    let wire = Wire::script([ok(json!({}))]);
    let read = records(&wire).audit(&token(), VersionNumber::new(1)).await.expect("an answer");
    assert_eq!(read, None);
}

#[tokio::test(start_paused = true)]
async fn value_search_stops_after_thousand_audit_entries() {
    // The answer of DynamoDB if a filter removes every item of a page.
    let wire = Wire::new(|call| {
        let before = call.body["ExclusiveStartKey"]["sk"]["S"].as_str().unwrap_or("z").to_owned();
        let last = json!({"pk": {"S": "a"}, "sk": {"S": format!("{before}a")}});
        ok(json!({"Items": [], "LastEvaluatedKey": last}))
    });
    let found = records(&wire).version_of(&token(), &Digest::of("a")).await;
    assert_eq!(found.expect("an answer"), None);
    let calls = wire.calls();
    let looked_at: u64 = calls.iter().map(|call| call.body["Limit"].as_u64().expect("one")).sum();
    assert_eq!(looked_at, 1000);
    assert_eq!(calls[0].operation, "Query");
    assert_eq!(calls[0].body["ConsistentRead"], true);
    assert_eq!(calls[0].body["ScanIndexForward"], false, "the newest first");
    assert_eq!(
        calls[0].body["ExpressionAttributeValues"],
        json!({
            ":owner": {"S": "token#datastore-token"},
            ":audit": {"S": "rotation#"},
            ":sha256": {"S": Digest::of("a").to_string()},
        })
    );
}

#[tokio::test(start_paused = true)]
async fn sealed_value_opens_only_under_its_encryption_context() {
    // A key that, like KMS, decrypts only under the encryption context of the encryption.
    let sealed_under = Mutex::new(HashMap::new());
    let wire = Wire::new(move |call| {
        let mut sealed_under = sealed_under.lock().expect("nobody panicked");
        let context = call.body["EncryptionContext"].clone();
        match call.operation.as_str() {
            "Encrypt" => {
                sealed_under.insert("c2VhbGVk", (context, call.body["Plaintext"].clone()));
                ok(json!({"CiphertextBlob": "c2VhbGVk", "KeyId": "key"}))
            }
            _ => match sealed_under.get("c2VhbGVk") {
                Some((under, plain)) if *under == context => ok(json!({"Plaintext": plain})),
                _ => refused("InvalidCiphertextException"),
            },
        }
    });
    let records = records(&wire);
    let value = Secret::verbatim("ds_s3cret".to_owned());
    let version = VersionNumber::new(7);
    let sealed = records.seal(&token(), version, &value).await.expect("sealed");
    assert_eq!(sealed, Sealed(b"sealed".to_vec()));
    let call = &wire.calls()[0];
    assert_eq!(call.body["KeyId"], "alias/sealing");
    assert_eq!(
        call.body["EncryptionContext"],
        json!({"changeover:scope": "changeover", "token": "datastore-token", "version": "7"})
    );
    let opened = records.open(&token(), version, &sealed).await.expect("opened");
    assert_eq!(opened.expose(), "ds_s3cret");

    for (token, version) in [(token(), version.next()), (named("another"), version)] {
        let error = records.open(&token, version, &sealed).await.expect_err("refused");
        assert_eq!(error.kind, Kind::BadRecord, "{error}");
        assert!(!error.to_string().contains("s3cret"), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn kms_error_code_maps_to_its_kind() {
    let table = [
        ("AccessDeniedException", Kind::AccessDenied),
        ("DisabledException", Kind::AccessDenied),
        ("KMSInvalidStateException", Kind::AccessDenied),
        ("NotFoundException", Kind::AccessDenied),
        ("KeyUnavailableException", Kind::AccessDenied),
        ("ThrottlingException", Kind::Throttled),
    ];
    for (code, kind) in table {
        let wire = Wire::script([refused(code)]);
        let value = Secret::verbatim("ds_s3cret".to_owned());
        let error = records(&wire).seal(&token(), VersionNumber::new(7), &value).await;
        let error = error.expect_err("refused");
        assert_eq!(error.kind, kind, "{error}");
        let sealed = Sealed(b"sealed".to_vec());
        let error = records(&wire).open(&token(), VersionNumber::new(7), &sealed).await;
        assert_eq!(error.expect_err("refused").kind, kind);
    }
}
