//! Damaged answers of AWS: each is read, or is one clear error.

use std::sync::Arc;

use changeover_aws::{AwsPublications, DynamoDbRecords, SsmSpecs};
use changeover_core::{
    clock::Clock,
    error::{Error, Kind},
    ports::{Publications, RecordStore, Specs},
    spec::{ParameterName, Place, Side},
};
use changeover_testkit::{
    amount,
    damage::{Damages, assert_clear, damages, paused},
    sample::{at, audit, begun_record, key, key_entry, token},
};
use changeover_token::{Sealed, VersionNumber};

use super::{kept, publication_key, specs};
use changeover_testkit_aws::{Wire, ok};
use proptest::{prelude::*, test_runner::Config};
use serde_json::{Value, json};

/// The value that no error may repeat: any value of an answer can be a token.
const VALUE: &str = "S3CRET-VALUE-OF-A-TOKEN";

proptest! {
    #![proptest_config(Config { cases: amount::cases(400), failure_persistence: None, ..Config::default() })]

    #[test]
    fn damaged_answer_is_read_or_clearly_reported(
        read in proptest::sample::select(READS.to_vec()),
        damages in damages(),
    ) {
        paused().block_on(answered_with(read, &damages));
    }
}

/// Every kind of call whose answer is parsed.
const READS: [&str; 11] = [
    "record",
    "record and key",
    "due",
    "failing",
    "back off",
    "audit",
    "open",
    "parameter",
    "token",
    "accepted",
    "spec",
];

async fn answered_with(read: &str, damages: &Damages) {
    let mut answer = good(read).await;
    damages.befall(&mut answer);
    let wire = Wire::script([ok(answer)]);
    let random_source = Arc::new(|buffer: &mut [u8]| {
        buffer.fill(0xab);
        Ok(())
    });
    let records =
        DynamoDbRecords::new(wire.aws(), kept(), Clock::starting_at(at(0)), random_source);
    let publications = AwsPublications::new(wire.aws(), publication_key());
    let read: Result<(), Error> = match read {
        "record" => records.load(&token(), None).await.map(drop),
        "record and key" => records.load(&token(), Some(&key("k"))).await.map(drop),
        "due" => records.due(at(0), 100).await.map(drop),
        "failing" => records.failing(100).await.map(drop),
        "back off" => {
            let error = Error::new(Kind::BadRecord, "read", "it is damaged", "restore it");
            records.back_off(&token(), &error, at(9), None).await.map(drop)
        }
        "audit" => records.audit(&token(), VersionNumber::new(7)).await.map(drop),
        "open" => {
            let sealed = Sealed(b"sealed".to_vec());
            records.open(&token(), VersionNumber::new(7), &sealed).await.map(drop)
        }
        "parameter" => publications.read(&parameter(), Side::Presenters).await.map(drop),
        "token" => publications.read(&item(), Side::Presenters).await.map(drop),
        "accepted" => publications.read(&item(), Side::Verifiers).await.map(drop),
        _ => SsmSpecs::new(wire.aws(), specs()).spec(&token()).await.map(drop),
    };
    if let Err(error) = read {
        assert_clear(&error);
        assert!(!error.to_string().contains(VALUE), "{error}");
    }
    // Paging stops even if every page names a next one.
    assert!(wire.calls().len() < 200, "{} calls", wire.calls().len());
}

/// An undamaged answer.
async fn good(read: &str) -> Value {
    let record = super::records::item_of(&begun_record(&token())).await;
    match read {
        "record" => json!({ "Item": record }),
        "record and key" => {
            let entry = key_entry(at(9));
            let key = json!({
                "rotation": {"S": entry.rotation.0},
                "version": {"N": entry.version.get().to_string()},
                "expires_at": {"N": entry.expires_at.as_second().to_string()},
            });
            json!({ "Responses": [{ "Item": record }, { "Item": key }] })
        }
        "back off" => json!({"Item": {
            "revision": {"N": "4"}, "due_at": {"S": "2026-11-01T00:00:00.000Z"},
            "failing": {"M": {"tries": {"N": "3"}, "since": {"S": "2026-11-01T00:00:00.000Z"},
                "error": {"S": "BadSpec"}, "message": {"S": "before"}}},
        }}),
        "due" | "failing" => json!({
            "Items": [{"pk": {"S": "token#datastore-token"}, "sk": {"S": "record"},
                "owed": {"S": "1"}, "due_at": {"S": "2026-11-01T00:00:00.000Z"}}],
            "Count": 1, "ScannedCount": 1, "LastEvaluatedKey": {},
        }),
        "audit" => {
            let audit = serde_json::to_value(audit(&token(), 7)).expect("JSON");
            let rotation = audit["rotation"].as_str().expect("a name");
            json!({ "Item": {
                "token": {"S": "datastore-token"}, "version": {"N": "7"}, "stage": {"S": "current"},
                "rotation": {"S": rotation}, "sha256": {"S": audit["sha256"]},
                "created_at": {"S": audit["created_at"]}, "selectors": {"L": []},
                "timeline": {"L": []},
            } })
        }
        // Base64 of the value that no error may repeat.
        "open" => json!({ "Plaintext": "UzNDUkVULVZBTFVFLU9GLUEtVE9LRU4=", "KeyId": "key" }),
        "parameter" => json!({ "Parameter": {
            "Name": "/backend/token", "Type": "SecureString", "Value": VALUE, "Version": 3,
        } }),
        "token" => json!({ "Item": {
            "token": {"S": VALUE}, "token_version": {"N": "7"}, "token_revision": {"N": "9"},
            "changeover_token": {"S": "datastore-token"},
        } }),
        "accepted" => json!({ "Item": {
            "accepted": {"L": [{"M": {
                "version": {"N": "7"}, "stage": {"S": "current"}, "token": {"S": VALUE},
            }}]},
            "accepted_revision": {"N": "9"}, "changeover_token": {"S": "datastore-token"},
        } }),
        _ => json!({ "Parameter": {
            "Name": "/changeover/tokens/datastore-token", "Type": "String",
            "Value": "{\"overlap\": \"15m\"}", "Version": 4,
        } }),
    }
}

fn parameter() -> Place {
    Place::Parameter(ParameterName::parse("/backend/token").expect("a name"))
}

fn item() -> Place {
    "dynamodb:configuration/id=service_token".parse().expect("a place")
}
