//! Views in Parameter Store.

use std::{net::TcpListener, sync::Arc, time::Duration};

use changeover_aws::{Aws, AwsPublications};
use changeover_core::{
    error::Kind,
    ports::{Publications, WriteError, Written},
    spec::{ParameterName, Place, Publication, Side},
};
use changeover_testkit::sample::{accepted, presented, token};
use changeover_token::AcceptedForm;

use super::publication_key;
use changeover_testkit_aws::{Answer, Wire, error_body, ok, refused, sdk_config};

use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use serde_json::{Value, json};
use tokio::time::Instant;

const NAME: &str = "/backend/datastore-token";

fn place() -> Place {
    Place::Parameter(ParameterName::parse(NAME).expect("a name"))
}

fn publication(key: Option<&str>) -> Publication {
    Publication { place: place(), key: key.map(str::to_owned), form: AcceptedForm::Digests }
}

fn publications(wire: &Wire) -> AwsPublications {
    AwsPublications::new(wire.aws(), publication_key())
}

async fn write(wire: &Wire) -> Result<Written, WriteError> {
    let view = presented(&token(), 5, "ds_s3cret");
    publications(wire).write(&publication(None), Some("alias/known"), &view).await
}

fn put_as(version: u64) -> Answer {
    ok(json!({"Version": version, "Tier": "Standard"}))
}

#[tokio::test(start_paused = true)]
async fn view_is_put_as_secure_string_with_key() {
    let wire = Wire::script([put_as(12)]);
    let written = write(&wire).await.expect("written");
    let key = Some("alias/known".to_owned());
    assert_eq!(written, Written { store_version: 12, key, unanswered: false });
    let call = wire.only_call();
    assert_eq!(call.operation, "PutParameter");
    assert_eq!(
        call.body,
        json!({
            "Name": NAME, "Type": "SecureString", "Overwrite": true,
            "KeyId": "alias/known", "Value": "ds_s3cret",
        })
    );
}

#[tokio::test(start_paused = true)]
async fn key_precedence_is_spec_known_existing_configured() {
    let existing = json!({"Parameters": [
        {"Name": NAME, "Type": "SecureString", "KeyId": "alias/existing"}
    ]});
    let none = json!({"Parameters": []});
    let table = [
        (Some("alias/spec"), Some("alias/known"), &existing, "alias/spec"),
        (Some("alias/spec"), None, &existing, "alias/spec"),
        (None, Some("alias/known"), &existing, "alias/known"),
        (None, None, &existing, "alias/existing"),
        (None, None, &none, "alias/publication"),
    ];
    for (spec, known, found, expected) in table {
        let found = found.clone();
        let wire = Wire::new(move |call| match call.operation.as_str() {
            "DescribeParameters" => ok(found.clone()),
            _ => put_as(1),
        });
        let view = accepted(&token(), 5);
        let written = publications(&wire).write(&publication(spec), known, &view).await;
        assert_eq!(written.expect("written").key.as_deref(), Some(expected));
        let put = wire.calls().pop().expect("a put");
        assert_eq!(put.body["KeyId"], expected);
        let looks = wire.calls().len() - 1;
        assert_eq!(looks, usize::from(known.is_none()));
    }
}

#[tokio::test(start_paused = true)]
async fn plain_parameter_is_neither_read_nor_written() {
    let wire = Wire::new(|call| match call.operation.as_str() {
        "DescribeParameters" => ok(json!({"Parameters": [{"Name": NAME, "Type": "String"}]})),
        _ => ok(json!({"Parameter": {"Type": "String", "Value": "plain", "Version": 1}})),
    });
    let publications = publications(&wire);
    let view = presented(&token(), 5, "ds_s3cret");
    let error = publications.write(&publication(None), None, &view).await.expect_err("refused");
    assert_eq!(error.error.kind, Kind::PreflightFailed);
    assert!(!error.unanswered && error.ahead.is_none());
    let error = publications.read(&place(), Side::Presenters).await.expect_err("refused");
    assert_eq!(error.kind, Kind::PreflightFailed);
    assert_eq!(wire.operations(), ["DescribeParameters", "GetParameter"]);
}

#[tokio::test(start_paused = true)]
async fn parameter_value_is_read_decrypted_with_version() {
    let wire = Wire::script([ok(json!({
        "Parameter": {"Name": NAME, "Type": "SecureString", "Value": "ds_s3cret", "Version": 12}
    }))]);
    let holding = publications(&wire).read(&place(), Side::Presenters).await;
    let holding = holding.expect("an answer").expect("a value");
    assert_eq!(holding.value.expose(), "ds_s3cret");
    assert_eq!(holding.store_version, 12);
    assert_eq!(wire.only_call().body, json!({"Name": NAME, "WithDecryption": true}));

    for code in ["ParameterNotFound", "ParameterVersionNotFound"] {
        let wire = Wire::script([refused(code)]);
        let holding = publications(&wire).read(&place(), Side::Presenters).await;
        assert!(holding.expect("an answer").is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn lost_reply_leaves_write_unanswered_despite_later_answer() {
    let failing = |status| Answer::With(status, error_body("InternalServerError", "why"));
    let throttled = || refused("ThrottlingException");
    let denied = || refused("AccessDeniedException");
    let table = [
        ("answered", vec![put_as(1)], true, false),
        ("refused", vec![denied()], false, false),
        ("throttled first", vec![throttled(), put_as(1)], true, false),
        ("another writer first", vec![refused("TooManyUpdates"), put_as(1)], true, false),
        ("lost first", vec![Answer::Lost, put_as(1)], true, true),
        ("lost first, then refused", vec![Answer::Lost, denied()], false, true),
        ("500 first", vec![failing(500), put_as(1)], true, true),
        ("503 first", vec![failing(503), put_as(1)], true, true),
        ("silence first", vec![Answer::Silence, put_as(1)], true, true),
        ("unreadable", vec![Answer::Garbled("<html>".to_owned())], false, true),
        ("answered without a version", vec![ok(json!({}))], false, true),
        ("always lost", vec![Answer::Lost], false, true),
        ("always silent", vec![Answer::Silence], false, true),
        ("always throttled", vec![throttled()], false, false),
    ];
    for (what, script, succeeds, unanswered) in table {
        let wire = Wire::script(script);
        let began = Instant::now();
        let found = match write(&wire).await {
            Ok(written) => (true, written.unanswered),
            Err(error) => (false, error.unanswered),
        };
        assert_eq!(found, (succeeds, unanswered), "{what}");
        assert!(began.elapsed() <= Duration::from_secs(10), "{what}: {:?}", began.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn write_returns_within_ten_seconds_despite_silent_lookup() {
    let wire = Wire::new(|_| Answer::Silence);
    let began = Instant::now();
    let view = presented(&token(), 5, "ds_s3cret");
    let error = publications(&wire).write(&publication(None), None, &view).await;
    assert!(!error.expect_err("unreachable").unanswered, "nothing was written");
    assert!(began.elapsed() <= Duration::from_secs(10));
}

#[tokio::test]
async fn refused_connection_leaves_nothing_unanswered() {
    let free = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let http_client = aws_smithy_http_client::Builder::new()
        .tls_provider(Provider::Rustls(CryptoMode::Ring))
        .build_https();
    let of_nobody = sdk_config()
        .into_builder()
        .http_client(http_client)
        .endpoint_url(format!("http://{free}"))
        .build();
    let publications = AwsPublications::new(Arc::new(Aws::new(of_nobody)), publication_key());
    let view = presented(&token(), 5, "ds_s3cret");
    let written = publications.write(&publication(None), Some("alias/known"), &view).await;
    let error = written.expect_err("nobody there");
    assert_eq!(error.error.kind, Kind::Unreachable, "{}", error.error);
    assert!(!error.unanswered, "{}", error.error);
}

#[tokio::test(start_paused = true)]
async fn parameter_refusal_is_reported_with_its_fix() {
    let table = [
        ("HierarchyTypeMismatchException", Kind::PreflightFailed, "type cannot be changed"),
        ("ParameterMaxVersionLimitExceeded", Kind::PreflightFailed, "label"),
        ("ParameterLimitExceeded", Kind::PreflightFailed, "higher limit"),
        ("InvalidKeyId", Kind::AccessDenied, "KMS key"),
        ("AccessDeniedException", Kind::AccessDenied, "ssm:PutParameter"),
    ];
    for (code, kind, fix) in table {
        let error = write(&Wire::script([refused(code)])).await.expect_err("refused").error;
        assert_eq!(error.kind, kind, "{error}");
        assert!(error.fix.contains(fix), "{error}");
        assert!(error.to_string().contains(NAME), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn value_echoed_by_aws_is_not_repeated() {
    let body = error_body("ValidationException", "Value 'ds_s3cret' at 'value' is bad");
    let error = write(&Wire::script([Answer::With(400, body)])).await.expect_err("refused").error;
    assert!(!error.to_string().contains("s3cret"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn oversized_value_is_reported_as_too_large() {
    let wire = Wire::script([refused("ValidationException")]);
    for (length, calls) in [(5_000, 1), (9_000, 1)] {
        let view = presented(&token(), 5, &"x".repeat(length));
        let error = publications(&wire).write(&publication(None), Some("k"), &view).await;
        let error = error.expect_err("too large").error;
        assert_eq!(error.kind, Kind::TooLarge, "{error}");
        assert_eq!(wire.calls().len(), calls, "above 8 KB nobody is asked");
    }
}

#[tokio::test(start_paused = true)]
async fn label_is_put_on_given_version() {
    let wire = Wire::script([ok(json!({"InvalidLabels": [], "ParameterVersion": 12}))]);
    let written = publications(&wire).label(&place(), "current", 12).await.expect("labelled");
    assert_eq!(written, Written { store_version: 12, key: None, unanswered: false });
    let call = wire.only_call();
    assert_eq!(call.operation, "LabelParameterVersion");
    assert_eq!(call.body, json!({"Name": NAME, "ParameterVersion": 12, "Labels": ["current"]}));
}

#[tokio::test(start_paused = true)]
async fn failed_label_is_reported_by_its_kind() {
    let invalid = ok(json!({"InvalidLabels": ["current"], "ParameterVersion": 12}));
    let table: [(Answer, Kind); 4] = [
        (invalid, Kind::Internal),
        (refused("ParameterVersionLabelLimitExceeded"), Kind::PreflightFailed),
        (refused("ParameterVersionNotFound"), Kind::PreflightFailed),
        (refused("TooManyUpdates"), Kind::Throttled),
    ];
    for (answer, kind) in table {
        let wire = Wire::script([answer]);
        let error = publications(&wire).label(&place(), "current", 12).await.expect_err("refused");
        assert_eq!(error.error.kind, kind, "{}", error.error);
        assert_eq!(error.is_gone, error.error.because.contains("NotFound"), "{}", error.error);
        assert!(!error.unanswered);
    }
    let wire = Wire::script([Answer::Lost, ok(Value::Object(Default::default()))]);
    assert!(publications(&wire).label(&place(), "current", 12).await.expect("put").unanswered);
}

#[tokio::test(start_paused = true)]
async fn parameter_expiration_policy_is_read() {
    let policy = |kind: &str| {
        let text = json!({
            "Type": kind, "Version": "1.0", "Attributes": {"Timestamp": "2027-01-01T00:00:00.000Z"},
        });
        json!({"PolicyType": kind, "PolicyStatus": "Pending", "PolicyText": text.to_string()})
    };
    for (kind, expected) in
        [("Expiration", Some("2027-01-01T00:00:00.000Z")), ("NoChangeNotification", None)]
    {
        let policy = policy(kind);
        let wire = Wire::new(move |_| {
            let found = json!({"Name": NAME, "Type": "SecureString", "Tier": "Advanced",
                "KeyId": "alias/it", "Policies": [policy]});
            ok(json!({"Parameters": [found]}))
        });
        let described = publications(&wire).describe(&place()).await.expect("an answer");
        let described = described.expect("it is there");
        assert_eq!(described.deleted_at.as_deref(), expected, "{kind}");
        assert_eq!(described.key.as_deref(), Some("alias/it"));
    }
}
