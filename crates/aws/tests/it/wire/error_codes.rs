//! Meanings of AWS's error codes, which are the same for every adapter.

use changeover_aws::SsmSpecs;
use changeover_core::{error::Kind, ports::Specs};
use changeover_testkit::sample::token;

use super::specs;
use changeover_testkit_aws::{Answer, Wire, error_body};
use serde_json::json;

async fn kind_of(answer: Answer) -> (Kind, String, usize) {
    let wire = Wire::script([answer]);
    let specs = SsmSpecs::new(wire.aws(), specs());
    let error = specs.spec(&token()).await.expect_err("it fails");
    (error.kind, error.to_string(), wire.calls().len())
}

#[tokio::test(start_paused = true)]
async fn error_code_maps_to_its_kind() {
    let table = [
        (400, "AccessDeniedException", Kind::AccessDenied),
        (400, "UnrecognizedClientException", Kind::AccessDenied),
        (400, "ExpiredTokenException", Kind::AccessDenied),
        (400, "InvalidKeyId", Kind::AccessDenied),
        (400, "DisabledException", Kind::AccessDenied),
        (400, "KMSInvalidStateException", Kind::AccessDenied),
        (400, "ThrottlingException", Kind::Throttled),
        (400, "ProvisionedThroughputExceededException", Kind::Throttled),
        (400, "RequestLimitExceeded", Kind::Throttled),
        (400, "TooManyUpdates", Kind::Throttled),
        (500, "InternalServerError", Kind::Unreachable),
        (503, "ServiceUnavailable", Kind::Unreachable),
        (400, "ValidationException", Kind::Internal),
        (400, "SomethingNew", Kind::Internal),
    ];
    for (status, code, kind) in table {
        let (found, message, _) = kind_of(Answer::With(status, error_body(code, "why"))).await;
        assert_eq!(found, kind, "{message}");
        assert!(message.contains(code) && message.contains("why"), "{message}");
        assert!(message.contains("request-1"), "{message}");
        assert!(message.contains("/changeover/tokens/datastore-token"), "{message}");
    }
}

#[tokio::test(start_paused = true)]
async fn oversized_item_is_reported_as_too_large() {
    let message = "Item size has exceeded the maximum allowed size";
    let (kind, _, _) = kind_of(Answer::With(400, error_body("ValidationException", message))).await;
    assert_eq!(kind, Kind::TooLarge);
}

#[tokio::test(start_paused = true)]
async fn missing_reply_is_unreachable_after_bounded_retries() {
    for answer in [Answer::Lost, Answer::Silence] {
        let (kind, message, calls) = kind_of(answer).await;
        assert_eq!(kind, Kind::Unreachable, "{message}");
        assert!((2..=5).contains(&calls), "{calls} calls");
    }
}

#[tokio::test(start_paused = true)]
async fn unreadable_answer_is_not_repeated_in_error() {
    let body = r#"{"Parameter": {"Value": "s3cret", "Version": "not a number"}}"#;
    let (kind, message, _) = kind_of(Answer::Garbled(body.to_owned())).await;
    assert_eq!(kind, Kind::Unreachable, "{message}");
    assert!(!message.contains("s3cret"), "{message}");
}

#[tokio::test(start_paused = true)]
async fn throttled_call_is_retried_until_answered() {
    let parameter = json!({"Parameter": {"Value": "{}", "Version": 1, "Type": "String"}});
    let wire = Wire::script([
        changeover_testkit_aws::refused("ThrottlingException"),
        changeover_testkit_aws::refused("ThrottlingException"),
        changeover_testkit_aws::ok(parameter),
    ]);
    let specs = SsmSpecs::new(wire.aws(), specs());
    assert!(specs.spec(&token()).await.expect("an answer").is_some());
}
