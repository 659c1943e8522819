//! Inboxes in Parameter Store.

use changeover_aws::SsmInboxes;
use changeover_core::{
    error::Kind,
    ports::{InboxValue, Inboxes},
    spec::ParameterName,
};

use changeover_testkit_aws::{Wire, ok, refused};
use serde_json::{Value, json};

fn parameter(kind: &str) -> Value {
    json!({"Parameter": {
        "Name": "/inbox/token", "Type": kind, "Value": "s3cret", "Version": 4,
        "LastModifiedDate": 1_793_491_200.25,
    }})
}

async fn read(wire: &Wire) -> Result<Option<InboxValue>, changeover_core::error::Error> {
    let inbox = ParameterName::parse("/inbox/token").expect("a name");
    SsmInboxes::new(wire.aws()).read(&inbox).await
}

#[tokio::test(start_paused = true)]
async fn arrival_is_read_with_version_and_time() {
    let wire = Wire::script([ok(parameter("SecureString"))]);
    let arrival = read(&wire).await.expect("an answer").expect("an arrival");
    assert_eq!(arrival.value.expose(), "s3cret");
    assert!(arrival.is_secure);
    assert_eq!(arrival.version, 4);
    assert_eq!(arrival.written_at.to_string(), "2026-11-01T00:00:00.25Z");
    let call = wire.only_call();
    assert_eq!(call.operation, "GetParameter");
    assert_eq!(call.body, json!({"Name": "/inbox/token", "WithDecryption": true}));
}

#[tokio::test(start_paused = true)]
async fn plain_arrival_is_not_marked_secure() {
    for kind in ["String", "StringList"] {
        let wire = Wire::script([ok(parameter(kind))]);
        let arrival = read(&wire).await.expect("an answer").expect("an arrival");
        assert!(!arrival.is_secure, "{kind}");
    }
}

#[tokio::test(start_paused = true)]
async fn missing_inbox_is_empty_and_denied_inbox_fails() {
    let wire = Wire::script([refused("ParameterNotFound")]);
    assert!(read(&wire).await.expect("an answer").is_none());
    let wire = Wire::script([refused("AccessDeniedException")]);
    let error = read(&wire).await.expect_err("denied");
    assert_eq!(error.kind, Kind::AccessDenied);
    assert!(error.to_string().contains("/inbox/token"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn incomplete_answer_is_reported_as_unreachable() {
    let mut undated = parameter("SecureString");
    undated["Parameter"].as_object_mut().expect("an object").remove("LastModifiedDate");
    for answer in [json!({}), undated] {
        let error = read(&Wire::script([ok(answer)])).await.expect_err("half an answer");
        assert_eq!(error.kind, Kind::Unreachable);
        assert!(!error.to_string().contains("s3cret"), "{error}");
    }
}
