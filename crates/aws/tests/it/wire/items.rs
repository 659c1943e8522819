//! Views in DynamoDB items.

use changeover_aws::AwsPublications;
use changeover_core::{
    error::Kind,
    ports::{Publications, WriteError, Written},
    spec::{ItemKey, KeyValue, Place, Publication, Side},
};
use changeover_testkit::sample::{accepted, fence, life, presented, token, under};
use changeover_token::{AcceptedForm, Content, Fence};

use super::publication_key;
use changeover_testkit_aws::{Answer, Call, Wire, error_body, ok, refused};

use serde_json::{Value, json};

fn place() -> Place {
    let key = vec![("id".to_owned(), KeyValue::Text("service_token".to_owned()))];
    Place::Item { table: "my-service".to_owned(), key: ItemKey::new(key).expect("a key") }
}

fn publication(form: AcceptedForm) -> Publication {
    Publication { place: place(), key: None, form }
}

async fn write(wire: &Wire, form: AcceptedForm, view: &Content) -> Result<Written, WriteError> {
    let publications = AwsPublications::new(wire.aws(), publication_key());
    publications.write(&publication(form), None, view).await
}

/// Values that an update sets, by attribute.
fn assigned(call: &Call) -> Value {
    let update = call.body["UpdateExpression"].as_str().expect("an update");
    let assignments = update.strip_prefix("SET ").expect("only sets");
    let pairs = assignments.split(", ").map(|assignment| {
        let (name, value) = assignment.split_once(" = ").expect("an assignment");
        let name = call.body["ExpressionAttributeNames"][name].as_str().expect("a name");
        (name.to_owned(), call.body["ExpressionAttributeValues"][value].clone())
    });
    Value::Object(pairs.collect())
}

#[tokio::test(start_paused = true)]
async fn presented_view_has_four_attributes_and_owner_mark() {
    let wire = Wire::script([ok(json!({}))]);
    let written = write(&wire, AcceptedForm::Digests, &presented(&token(), 5, "ds_s3cret")).await;
    let expected = Written { store_version: 5, key: None, unanswered: false };
    assert_eq!(written.expect("written"), expected);
    let call = wire.only_call();
    assert_eq!(call.operation, "UpdateItem");
    assert_eq!(call.body["TableName"], "my-service");
    assert_eq!(call.body["Key"], json!({"id": {"S": "service_token"}}));
    assert_eq!(
        assigned(&call),
        json!({
            "token": {"S": "ds_s3cret"},
            "token_version": {"N": "7"},
            "token_life": {"S": life(0).to_string()},
            "token_revision": {"N": "5"},
            "changeover_token": {"S": "datastore-token"},
        })
    );
    let condition = call.body["ConditionExpression"].as_str().expect("a condition");
    assert_eq!(
        condition,
        "(attribute_not_exists(#life) OR #life < :life OR (#life = :life \
         AND (attribute_not_exists(#revision) OR #revision <= :revision))) \
         AND (attribute_not_exists(#token) OR #token = :token)"
    );
    assert_eq!(call.body["ExpressionAttributeNames"]["#life"], "token_life");
    assert_eq!(call.body["ExpressionAttributeNames"]["#revision"], "token_revision");
    assert_eq!(call.body["ExpressionAttributeNames"]["#token"], "changeover_token");
}

#[tokio::test(start_paused = true)]
async fn accepted_view_is_list_of_maps() {
    let digest = |value: &str| {
        let value = changeover_token::Secret::verbatim(value.to_owned());
        json!({"S": value.digest().to_string()})
    };
    let wire = Wire::script([ok(json!({}))]);
    write(&wire, AcceptedForm::Digests, &accepted(&token(), 5)).await.expect("written");
    let call = wire.only_call();
    assert_eq!(
        assigned(&call),
        json!({
            "accepted": {"L": [
                {"M": {
                    "version": {"N": "7"}, "stage": {"S": "current"}, "sha256": digest("ds_new"),
                }},
                {"M": {
                    "version": {"N": "6"}, "stage": {"S": "previous"}, "sha256": digest("ds_old"),
                    "not_after": {"S": "2026-11-01T00:15:00.000Z"},
                }},
            ]},
            "accepted_life": {"S": life(0).to_string()},
            "accepted_revision": {"N": "5"},
            "changeover_token": {"S": "datastore-token"},
        })
    );
    assert_eq!(call.body["ExpressionAttributeNames"]["#revision"], "accepted_revision");
    assert_eq!(call.body["ExpressionAttributeNames"]["#life"], "accepted_life");
}

#[tokio::test(start_paused = true)]
async fn view_without_life_writes_and_requires_no_life() {
    let wire = Wire::script([ok(json!({}))]);
    let view = under(Fence::bare(5), presented(&token(), 0, "ds_s3cret"));
    write(&wire, AcceptedForm::Digests, &view).await.expect("written");
    let call = wire.only_call();
    assert_eq!(assigned(&call).get("token_life"), None);
    assert_eq!(
        call.body["ConditionExpression"],
        "attribute_not_exists(#life) AND (attribute_not_exists(#revision) OR #revision <= :revision) \
         AND (attribute_not_exists(#token) OR #token = :token)"
    );
}

#[tokio::test(start_paused = true)]
async fn written_view_reads_back_byte_for_byte() {
    let views = [
        (presented(&token(), 5, "ds_s3cret"), Side::Presenters),
        (accepted(&token(), 6), Side::Verifiers),
    ];
    for (view, side) in views {
        for form in [AcceptedForm::Digests, AcceptedForm::Plain] {
            let mut item = None;
            let wire = Wire::new(move |call| match call.operation.as_str() {
                "UpdateItem" => {
                    item = Some(assigned(call));
                    ok(json!({}))
                }
                _ => ok(json!({"Item": item})),
            });
            write(&wire, form, &view).await.expect("written");
            let publications = AwsPublications::new(wire.aws(), publication_key());
            let holding = publications.read(&place(), side).await.expect("an answer");
            let holding = holding.expect("a view");
            assert_eq!(holding.value.expose(), view.bytes(form).expose());
            assert_eq!(holding.fence, Some(view.fence()));
            assert_eq!(holding.token, Some(token()));
            assert_eq!(wire.calls()[1].body["ConsistentRead"], true);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn item_without_view_is_empty_unless_edited_manually() {
    let table = [
        (json!({}), None),
        (json!({"Item": {"other": {"S": "x"}}}), None),
        (json!({"Item": {"token": {"S": "by hand"}}}), Some(("by hand", 0))),
        (json!({"Item": {"token": {"S": "t"}, "token_revision": {"N": "9"}}}), Some(("t", 9))),
    ];
    for (answer, expected) in table {
        let wire = Wire::script([ok(answer)]);
        let publications = AwsPublications::new(wire.aws(), publication_key());
        let holding = publications.read(&place(), Side::Presenters).await.expect("an answer");
        let found = holding.as_ref().map(|it| (it.value.expose(), it.store_version));
        assert_eq!(found, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn edited_accepted_list_differs_from_published_view() {
    let ours = accepted(&token(), 5).bytes(AcceptedForm::Digests);
    let edits = [
        json!({"L": []}),
        json!({"S": "gone"}),
        json!({"L": [{"M": {"version": {"N": "7"}, "note": {"S": "mine"}}}]}),
        json!({"L": [{"M": {"version": {"S": "7"}}}, {"NULL": true}, {"SS": ["a"]}]}),
    ];
    for edit in edits {
        let wire = Wire::script([ok(json!({"Item": {"accepted": edit}}))]);
        let publications = AwsPublications::new(wire.aws(), publication_key());
        let holding = publications.read(&place(), Side::Verifiers).await.expect("an answer");
        assert_ne!(holding.expect("a value").value.expose(), ours.expose());
    }
}

fn refusing(item: Value) -> Wire {
    Wire::new(move |call| match call.operation.as_str() {
        "UpdateItem" => refused("ConditionalCheckFailedException"),
        _ => ok(json!({"Item": item})),
    })
}

#[tokio::test(start_paused = true)]
async fn late_write_is_overtaken() {
    let wire = refusing(json!({
        "token": {"S": "newer"}, "token_revision": {"N": "6"},
        "token_life": {"S": life(0).to_string()},
        "changeover_token": {"S": "datastore-token"},
    }));
    let late = presented(&token(), 5, "ds_s3cret");
    let error = write(&wire, AcceptedForm::Digests, &late).await.expect_err("overtaken");
    assert_eq!((error.ahead, error.unanswered), (Some(fence(6)), false), "{}", error.error);
}

#[tokio::test(start_paused = true)]
async fn item_of_another_token_is_refused_naming_both() {
    let wire = refusing(json!({"changeover_token": {"S": "other-token"}}));
    let view = presented(&token(), 5, "ds_s3cret");
    let error = write(&wire, AcceptedForm::Digests, &view).await.expect_err("refused");
    assert_eq!(error.ahead, None);
    assert_eq!(error.error.kind, Kind::PreflightFailed);
    let message = error.error.to_string();
    let names = ["other-token", "datastore-token", "dynamodb:my-service/id=service_token"];
    assert!(names.iter().all(|name| message.contains(name)), "{message}");
}

#[tokio::test(start_paused = true)]
async fn damaged_attribute_is_named_in_error() {
    let table = [
        (json!({"token": {"N": "5"}}), "token"),
        (json!({"token": {"S": "t"}, "token_revision": {"S": "five"}}), "token_revision"),
        (json!({"token": {"S": "t"}, "token_revision": {"N": "5.5"}}), "token_revision"),
        (json!({"token": {"S": "t"}, "token_revision": {"N": "9e15"}}), "token_revision"),
        (
            json!({"token": {"S": "t"}, "token_revision": {"N": "9007199254740992"}}),
            "token_revision",
        ),
        (json!({"token": {"S": "t"}, "token_life": {"N": "5"}}), "token_life"),
        (json!({"token": {"S": "t"}, "token_life": {"S": "zz"}}), "token_life"),
        (json!({"token": {"S": "t"}, "changeover_token": {"S": "NOT"}}), "changeover_token"),
        (json!({"token": {"S": "t"}, "changeover_token": {"N": "5"}}), "changeover_token"),
    ];
    for (item, attribute) in table {
        let wire = Wire::script([ok(json!({"Item": item}))]);
        let publications = AwsPublications::new(wire.aws(), publication_key());
        let error = publications.read(&place(), Side::Presenters).await.expect_err("damaged");
        assert_eq!(error.kind, Kind::PreflightFailed);
        assert!(error.to_string().contains(&format!("`{attribute}`")), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn write_refusal_has_its_kind_and_hides_value() {
    let view = presented(&token(), 5, "ds_s3cret");
    let table = [
        ("ResourceNotFoundException", "why", Kind::BadSpec),
        ("ValidationException", "the key does not match the schema: ds_s3cret", Kind::BadSpec),
        ("ValidationException", "Item size to update is too much", Kind::TooLarge),
        ("AccessDeniedException", "why", Kind::AccessDenied),
        ("TransactionConflictException", "why", Kind::Throttled),
    ];
    for (code, message, kind) in table {
        let wire = Wire::script([Answer::With(400, error_body(code, message))]);
        let error = write(&wire, AcceptedForm::Digests, &view).await.expect_err("refused").error;
        assert_eq!(error.kind, kind, "{error}");
        assert!(!error.to_string().contains("s3cret"), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn fenced_write_is_not_unanswered_after_lost_reply() {
    let wire = Wire::script([Answer::Lost, ok(json!({}))]);
    let view = presented(&token(), 5, "ds_s3cret");
    assert!(!write(&wire, AcceptedForm::Digests, &view).await.expect("written").unanswered);
    let wire = Wire::script([Answer::Lost]);
    let error = write(&wire, AcceptedForm::Digests, &view).await.expect_err("unreachable");
    assert!(!error.unanswered);
}
