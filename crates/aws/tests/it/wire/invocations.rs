//! Invocations that the function starts of itself.

use changeover_aws::LambdaInvocations;
use changeover_core::{error::Kind, ports::Invocations};

use changeover_testkit_aws::{Answer, Wire, error_body};
use serde_json::json;

const FUNCTION: &str = "arn:aws:lambda:eu-west-1:123456789012:function:changeover-rotator:sweep";

#[tokio::test(start_paused = true)]
async fn invocation_starts_asynchronously_under_alias() {
    let event = json!({"action": "sweep", "token": "datastore-token"});
    let wire = Wire::script([Answer::With(202, json!(null))]);
    LambdaInvocations::new(wire.aws()).start(FUNCTION, &event).await.expect("it is started");
    let call = wire.only_call();
    assert!(call.operation.contains("changeover-rotator%3Asweep/invocations"), "{call:?}");
    assert_eq!(call.invocation_type.as_deref(), Some("Event"));
    assert_eq!(call.body, event);
}

#[tokio::test(start_paused = true)]
async fn refused_invocation_is_reported_and_retried_if_transient() {
    for (status, code, kind, is_tried_again) in [
        (403, "AccessDeniedException", Kind::AccessDenied, false),
        (429, "TooManyRequestsException", Kind::Throttled, true),
        (500, "ServiceException", Kind::Unreachable, true),
    ] {
        let wire = Wire::script([Answer::With(status, error_body(code, "so it is"))]);
        let started = LambdaInvocations::new(wire.aws()).start(FUNCTION, &json!({})).await;
        let error = started.expect_err(code);
        assert_eq!(error.kind, kind, "{error}");
        assert!(error.to_string().contains(FUNCTION), "{error}");
        assert_eq!(wire.calls().len() > 1, is_tried_again, "{code}");
    }
    let wire = Wire::script([Answer::Lost, Answer::With(202, json!(null))]);
    let started = LambdaInvocations::new(wire.aws()).start(FUNCTION, &json!({})).await;
    assert_eq!(started, Ok(()));
}
