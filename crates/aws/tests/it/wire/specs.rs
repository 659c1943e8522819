//! Specs in Parameter Store.

use changeover_aws::SsmSpecs;
use changeover_core::{
    error::Kind,
    ports::{SpecText, Specs},
};
use changeover_testkit::sample::{at, token};

use super::specs;
use changeover_testkit_aws::{Wire, ok, refused};
use serde_json::{Value, json};

fn parameter(name: &str, kind: &str, version: i64) -> Value {
    let name = format!("/changeover/tokens/{name}");
    json!({"Name": name, "Type": kind, "Value": "{\"a\": 1}", "Version": version,
           "LastModifiedDate": 1_793_491_200.25})
}

#[tokio::test(start_paused = true)]
async fn spec_has_text_and_version_of_its_parameter() {
    let wire = Wire::script([ok(json!({"Parameter": parameter("datastore-token", "String", 4)}))]);
    let spec = SsmSpecs::new(wire.aws(), specs()).spec(&token()).await.expect("an answer");
    assert_eq!(
        spec,
        Some(SpecText {
            version: 4,
            modified_at: Some(at(0) + std::time::Duration::from_millis(250)),
            json: "{\"a\": 1}".to_owned(),
        })
    );
    let call = wire.only_call();
    assert_eq!(call.operation, "GetParameter");
    assert_eq!(call.body, json!({"Name": "/changeover/tokens/datastore-token"}));
}

#[tokio::test(start_paused = true)]
async fn missing_parameter_yields_no_spec() {
    for code in ["ParameterNotFound", "ParameterVersionNotFound"] {
        let wire = Wire::script([refused(code)]);
        let spec = SsmSpecs::new(wire.aws(), specs()).spec(&token()).await;
        assert_eq!(spec.expect("an answer"), None);
    }
}

#[tokio::test(start_paused = true)]
async fn empty_answer_is_not_a_missing_spec() {
    let wire = Wire::script([ok(json!({}))]);
    let error = SsmSpecs::new(wire.aws(), specs()).spec(&token()).await.expect_err("nothing");
    assert_eq!(error.kind, Kind::Unreachable);
}

#[tokio::test(start_paused = true)]
async fn secure_string_or_list_spec_is_refused() {
    for kind in ["SecureString", "StringList"] {
        let found = json!({"Parameter": parameter("datastore-token", kind, 1)});
        let wire = Wire::script([ok(found)]);
        let error = SsmSpecs::new(wire.aws(), specs()).spec(&token()).await.expect_err("refused");
        assert_eq!(error.kind, Kind::BadSpec);
        assert!(error.to_string().contains(kind), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn paged_specs_are_returned_sorted_by_name() {
    let wire = Wire::new(|call| {
        ok(match call.body["NextToken"].as_str() {
            None => json!({
                "Parameters": [parameter("b", "String", 2), parameter("Not-a-token", "String", 1)],
                "NextToken": "more",
            }),
            Some(_) => json!({
                "Parameters": [parameter("a", "String", 1), parameter("c", "SecureString", 1)],
            }),
        })
    });
    let all = SsmSpecs::new(wire.aws(), specs()).all().await.expect("an answer");
    let reported = all.iter().map(|(token, spec)| {
        (token.as_str(), spec.as_ref().map(|spec| spec.version).map_err(|error| error.kind))
    });
    let reported: Vec<_> = reported.collect();
    assert_eq!(reported, [("a", Ok(1)), ("b", Ok(2)), ("c", Err(Kind::BadSpec))]);
    assert_eq!(
        wire.calls()[0].body,
        json!({"Path": "/changeover/tokens", "Recursive": false, "MaxResults": 10})
    );
}
