//! Input that people write becomes something that can be carried out, or a message that says what to
//! change.

mod clusters;
mod properties;

use std::time::Duration;

use changeover_core::{
    error::Kind,
    event::Request,
    spec::{PicksUp, Reserved, SecretCopy, Side, Spec, conflicts},
};
use changeover_token::{AcceptedForm, Generation, Prefix, TokenName};
use serde_json::{Value, json};

/// The example of the contract.
fn example() -> Value {
    json!({
        "token": {"bytes": 32, "prefix": "ds_"},
        "source": "generated",
        "overlap": "15m",
        "verifiers": {
            "publish": [
                {"ssm": "/coilysiren/backend/datastore-token/accepted"},
                {"dynamodb": {
                    "table": "my-service-prod-config",
                    "key": {"id": "service_token_accepted"}
                }}
            ],
            "within": "5s",
            "workloads": [{
                "cluster": "prod", "namespace": "backend",
                "deployment": "datastore", "external_secret": "datastore-accepted"
            }]
        },
        "presenters": {
            "publish": [
                {"ssm": "/coilysiren/backend/datastore-token", "key": "alias/backend"},
                {"dynamodb": {"table": "my-service-prod-config", "key": {"id": "service_token"}}}
            ],
            "within": "5s",
            "workloads": [{
                "cluster": "prod", "namespace": "backend",
                "deployment": "backend", "external_secret": "datastore-token"
            }]
        },
        "rollout_timeout": "10m"
    })
}

/// The smallest valid spec.
fn smallest(place: &str) -> Value {
    json!({"overlap": "5s", "presenters": {"publish": [{"ssm": place}], "within": "0s"}})
}

fn name(name: &str) -> TokenName {
    TokenName::parse(name).expect("it is a token's name")
}

fn parse(json: &Value) -> Result<Spec, changeover_core::error::Error> {
    Spec::parse(&name("datastore-token"), 3, &json.to_string())
}

/// The message of the fault when `value` is at `pointer` of the example. `null` removes the field.
fn fault_of(pointer: &str, value: Value) -> String {
    let mut spec = example();
    let (parent, field) = pointer.rsplit_once('/').expect("a pointer has a slash");
    let parent = spec.pointer_mut(parent).expect("the example has the parent");
    match (parent, value) {
        (Value::Object(parent), Value::Null) => drop(parent.remove(field)),
        (Value::Object(parent), value) => drop(parent.insert(field.to_owned(), value)),
        (parent, value) => parent[field.parse::<usize>().expect("a list has numbers")] = value,
    }
    let error = parse(&spec).expect_err(pointer);
    assert_eq!(error.kind, Kind::BadSpec);
    error.to_string()
}

#[test]
fn contract_example_parses_as_intended() {
    let spec = parse(&example()).expect("the contract's example is a spec");
    assert_eq!((spec.token.as_str(), spec.id.version), ("datastore-token", 3));
    assert_eq!(spec.overlap, Duration::from_secs(15 * 60));
    assert_eq!(spec.rollout_timeout, Duration::from_secs(10 * 60));
    assert_eq!(spec.generation, Generation::new(32, Prefix::parse("ds_")).expect("it is allowed"));

    let places = |side| -> Vec<String> {
        spec.side(side).publications.iter().map(|it| it.place.to_string()).collect()
    };
    assert_eq!(
        places(Side::Verifiers),
        [
            "ssm:/coilysiren/backend/datastore-token/accepted",
            "dynamodb:my-service-prod-config/id=service_token_accepted",
        ]
    );
    assert_eq!(
        places(Side::Presenters),
        [
            "ssm:/coilysiren/backend/datastore-token",
            "dynamodb:my-service-prod-config/id=service_token",
        ]
    );
    assert_eq!(spec.presenters.publications[0].key.as_deref(), Some("alias/backend"));
    assert!(spec.verifiers.publications.iter().all(|it| it.form == AcceptedForm::Digests));
    assert_eq!(spec.verifiers.within, Some(Duration::from_secs(5)));

    let [datastore] = spec.verifiers.workloads.as_slice() else {
        panic!("the example has one workload of verifiers");
    };
    assert_eq!(datastore.to_string(), "prod/backend/deployment/datastore");
    let copy =
        SecretCopy::ExternalSecret { name: "datastore-accepted".to_owned(), secret_key: None };
    assert_eq!(datastore.copy, Some(copy));
    assert_eq!(datastore.picks_up, PicksUp::Restart);
    assert_eq!(datastore.settle, Duration::from_secs(2));
}

#[test]
fn side_is_optional() {
    let spec = parse(&smallest("/a/b")).expect("presenters alone are a spec");
    assert!(spec.side(Side::Verifiers).is_empty());
    assert_eq!(spec.accepted_depth(), Spec::DEEPEST);
    assert_eq!(spec.generation, Generation::new(32, None).expect("it is the default"));
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn faults_name_field_value_and_fix() {
    let verifier = "/verifiers/workloads/0";
    let at = |field: &str| format!("{verifier}/{field}");
    for (pointer, value, reported) in [
        // The token itself.
        ("/token/bytes", json!(31), "`token.bytes` is 31; write a whole number from 32 to 64"),
        ("/token/bytes", json!(65), "`token.bytes` is 65;"),
        ("/token/bytes", json!(32.5), "`token.bytes` is 32.5;"),
        ("/token/bytes", json!(1e308), "`token.bytes` is 1e+308;"),
        ("/token/bytes", json!("32"), "`token.bytes` is \"32\";"),
        ("/token/prefix", json!("DS_"), "`token.prefix` is not a prefix; write"),
        ("/token/size", json!(32), "`token.size`: unknown field `size`"),
        ("/token", json!([32]), "`token`: invalid type: sequence, expected an object"),
        // Its source.
        (
            "/source",
            json!("minted"),
            "`source` is \"minted\"; write \"generated\", or {\"parameter\"",
        ),
        ("/source", json!({"parameter": "inbox"}), "`source.parameter` is \"inbox\": it does not"),
        ("/source", json!({"parameter": "/a", "as": "b"}), "`source` is an object; write"),
        (
            "/source",
            json!({"parameter": "/coilysiren/backend/datastore-token"}),
            "`source.parameter` names /coilysiren/backend/datastore-token, which the spec publishes",
        ),
        (
            "/source",
            json!({"parameter": "/a", "least_bits": 63}),
            "`source.least_bits` is 63; write a whole number from 64 to 512",
        ),
        ("/source", json!({"parameter": "/a", "least_bits": 513}), "`source.least_bits` is 513;"),
        (
            "/source",
            json!({"parameter": "/a", "least_bits": "128"}),
            "`source.least_bits` is \"128\"",
        ),
        (
            "/source",
            json!({"parameter": "/a", "least_bits": 127}),
            "`source.least_bits` is 127, and a reader of a digest",
        ),
        ("/source", json!({"least_bits": 128}), "`source` is an object; write"),
        // Times, and the limits that depend on each other.
        ("/overlap", json!(null), "`overlap` is missing;"),
        ("/overlap", json!("4s"), "`overlap` is \"4s\", which is too short; write \"5s\""),
        ("/overlap", json!("-5s"), "`overlap` is \"-5s\", which is not a duration;"),
        ("/overlap", json!("NaNs"), "`overlap` is \"NaNs\", which is not a duration;"),
        ("/overlap", json!("99999999999999999999y"), "which is not a duration;"),
        (
            "/overlap",
            json!("2y"),
            "`overlap` is \"2y\", which is too long; write \"1year\" or less",
        ),
        ("/overlap", json!(900), "`overlap` is 900, which is not a duration; write one such as"),
        ("/rollout_timeout", json!("0s"), "`rollout_timeout` is \"0s\", which is too short;"),
        (&at("picks_up"), json!({"within": "10m"}), "`rollout_timeout` is 10m, and prod/backend/"),
        (&at("settle"), json!("10m"), "alone takes 10m by its `picks_up` and `settle`; write more"),
        // Drift, and names of fields.
        ("/on_drift", json!("ignore"), "`on_drift` is \"ignore\"; write \"refuse\" or"),
        ("/verifers", json!({}), "`verifers`: unknown field `verifers`, expected one of"),
        // Publications: one place each, and a place that its readers can use.
        ("/verifiers", json!({}), "`verifiers.publish` names no place; name one, or leave"),
        ("/verifiers/publish", json!([]), "`verifiers.publish` names no place;"),
        ("/verifiers/publish/0", json!({}), "`verifiers.publish[0]` names no place; write"),
        ("/verifiers/publish/0/as", json!("md5"), "`verifiers.publish[0].as` is \"md5\"; write"),
        ("/verifiers/publish/0/key", json!("my key"), "`verifiers.publish[0].key` is \"my key\";"),
        ("/verifiers/publish/1/key", json!("alias/a"), "leave it out"),
        ("/verifiers/publish/0/ssm", json!("a/b"), "is \"a/b\": it does not begin with '/';"),
        ("/verifiers/publish/0/ssm", json!("/aws/b"), "which AWS keeps for itself"),
        ("/verifiers/publish/0/ssm", json!(7), "`verifiers.publish[0].ssm` is 7:"),
        (
            "/verifiers/publish/0/ssm",
            json!("/coilysiren/backend/datastore-token"),
            "`presenters.publish[0].ssm` is \"/coilysiren/backend/datastore-token\", which",
        ),
        (
            "/verifiers/publish/1",
            json!({"ssm": "/coilysiren/backend/datastore-token/accepted"}),
            "`verifiers.publish[1]` names ssm:/coilysiren/backend/datastore-token/accepted a second",
        ),
        (
            "/verifiers/publish/0/dynamodb",
            json!({"table": "table", "key": {"id": 1}}),
            "names two places; write two publications",
        ),
        (
            "/verifiers/publish/1/dynamodb/table",
            json!("t"),
            "`verifiers.publish[1].dynamodb.table`",
        ),
        ("/verifiers/publish/1/dynamodb/key", json!({}), "it has 0 attributes"),
        ("/verifiers/publish/1/dynamodb/key", json!({"a": 1, "b": 2, "c": 3}), "3 attributes"),
        ("/verifiers/publish/1/dynamodb/key", json!({"id": 1.5}), "`verifiers.publish[1]"),
        ("/verifiers/publish/1/dynamodb/key", json!({"id": {"S": "a"}}), "is an object; write"),
        ("/verifiers/publish/1/dynamodb/key", json!({"accepted": "a"}), "publications write"),
        ("/verifiers/publish/1/dynamodb/key", json!({"id": ""}), "1 to 2048 bytes"),
        ("/verifiers/within", json!("5"), "`verifiers.within` is \"5\", which is not a duration"),
        ("/presenters/publish/0/as", json!("plain"), "leave it out"),
        // Workloads: one object each, and one way into its Secret.
        (&at("cluster"), json!("a/b"), "`verifiers.workloads[0].cluster` is \"a/b\"; write"),
        (&at("cluster"), json!(null), "`verifiers.workloads[0].cluster` is missing; write"),
        (&at("namespace"), json!("Backend"), "`verifiers.workloads[0].namespace` is \"Backend\";"),
        (&at("deployment"), json!("-a"), "`verifiers.workloads[0].deployment` is \"-a\"; write"),
        (&at("deployment"), json!(null), "`verifiers.workloads[0]` names no object; write"),
        (&at("external_secret"), json!("a..b"), "external_secret` is \"a..b\"; write"),
        (&at("secret_key"), json!("a b"), "secret_key` is \"a b\"; write a key of the Secret"),
        (&at("external_secret"), json!(true), "external_secret` is true;"),
        (&at("picks_up"), json!("reload"), "picks_up` is \"reload\"; write \"restart\""),
        (&at("picks_up"), json!({"within": "119s"}), "picks_up.within` is \"119s\", which is too"),
        (&at("settle"), json!("1h"), "settle` is \"1h\", which is too long;"),
        ("/verifiers/publish/0", json!(null), "expected an object"),
        (
            "/verifiers/publish",
            json!([{"dynamodb": {"table": "table", "key": {"id": 1}}}]),
            "`verifiers.workloads[0].external_secret` copies from a parameter, and",
        ),
    ] {
        let message = fault_of(pointer, value.clone());
        assert!(message.contains(reported), "{pointer} = {value}: {message}");
        assert!(message.contains("the spec of token \"datastore-token\" (version 3"), "{message}");
    }
}

#[test]
fn action_of_later_version_is_reported_as_unavailable() {
    let message = fault_of("/verifiers/publish/0/region", json!("us-east-1"));
    assert!(message.contains("`verifiers.publish[0].region`"), "{message}");
    assert!(message.contains("not available in this version"), "{message}");
}

#[test]
fn workload_names_one_object_of_three_kinds() {
    for (field, object) in [
        ("deployment", "prod/backend/deployment/datastore"),
        ("stateful_set", "prod/backend/statefulset/datastore"),
        ("daemon_set", "prod/backend/daemonset/datastore"),
    ] {
        let mut spec = example();
        let workload = &mut spec["verifiers"]["workloads"][0];
        workload["cluster"] = json!("prod");
        workload["namespace"] = json!("backend");
        workload.as_object_mut().expect("an object").remove("deployment");
        workload[field] = json!("datastore");
        let spec = parse(&spec).unwrap_or_else(|error| panic!("{field}: {error}"));
        assert_eq!(spec.verifiers.workloads[0].to_string(), object);
    }
    let mut spec = example();
    spec["verifiers"]["workloads"][0]["daemon_set"] = json!("datastore");
    let message = parse(&spec).expect_err("two objects").to_string();
    assert!(message.contains("names a `deployment` and a `daemon_set`; write two"), "{message}");
    let workload = spec["verifiers"]["workloads"][0].as_object_mut().expect("an object");
    workload.retain(|field, _| !["deployment", "daemon_set"].contains(&field.as_str()));
    let message = parse(&spec).expect_err("no object").to_string();
    assert!(message.contains("`verifiers.workloads[0]` names no object; write one"), "{message}");
    // `null` is a value: it names an object, and an invalid one.
    let mut spec = example();
    spec["verifiers"]["workloads"][0]["stateful_set"] = json!(null);
    let message = parse(&spec).expect_err("two objects").to_string();
    assert!(message.contains("names a `deployment` and a `stateful_set`"), "{message}");
}

#[test]
fn null_is_not_the_absence_of_a_field() {
    for field in ["verifiers", "overlap", "token", "rollout_timeout", "on_drift"] {
        let mut spec = example();
        spec[field] = json!(null);
        let error = parse(&spec).expect_err(field);
        assert!(error.because.contains(field), "{error}");
    }
}

#[test]
fn repeated_field_is_refused() {
    let twice = r#"{"overlap": "5s", "overlap": "6s"}"#;
    let error = Spec::parse(&name("a"), 1, twice).expect_err("the field stands twice");
    assert!(error.because.contains("duplicate field `overlap`"), "{error}");
    let key = r#"{"overlap": "5s", "presenters": {"within": "0s", "publish": [
        {"dynamodb": {"table": "table", "key": {"id": "a", "id": "b"}}}]}}"#;
    let error = Spec::parse(&name("a"), 1, key).expect_err("the attribute stands twice");
    assert!(error.because.contains("names the same attribute twice"), "{error}");
}

#[test]
fn all_faults_of_a_spec_are_reported_together() {
    let mut spec = example();
    spec["overlap"] = json!("1s");
    spec["token"]["bytes"] = json!(16);
    spec["presenters"]["publish"][1]["dynamodb"]["table"] = json!("t");
    let message = parse(&spec).expect_err("three fields are wrong").to_string();
    for field in ["`overlap`", "`token.bytes`", "`presenters.publish[1].dynamodb.table`"] {
        assert!(message.contains(field), "{message}");
    }
}

#[test]
fn readers_that_are_not_restarted_need_a_bound() {
    let mut spec = example();
    spec["presenters"]["workloads"][0]["picks_up"] = json!({"within": "2m"});
    let sides = spec["presenters"].as_object_mut().expect("it is an object");
    sides.remove("within");
    let error = parse(&spec).expect_err("nothing bounds the presenters' copies");
    assert!(error.because.contains("`presenters.within` is missing"), "{error}");
    spec["presenters"]["workloads"][0]["picks_up"] = json!("restart");
    parse(&spec).expect("a workload that restarts reads the new view");
}

#[test]
fn pick_up_time_depends_on_its_kind() {
    let mut spec = example();
    let workload = &mut spec["presenters"]["workloads"][0];
    workload["picks_up"] = json!({"within": "1s"});
    assert!(parse(&spec).is_err());
    let workload = spec["presenters"]["workloads"][0].as_object_mut().expect("it is an object");
    workload.remove("external_secret");
    let spec = parse(&spec).expect("the workload reads the parameter itself");
    assert_eq!(spec.presenters.workloads[0].picks_up, PicksUp::Within(Duration::from_secs(1)));
}

#[test]
fn workload_is_allowed_once_on_each_side() {
    let mut spec = example();
    spec["presenters"]["workloads"] = spec["verifiers"]["workloads"].clone();
    parse(&spec).expect("one workload may do both");
    let workload = spec["presenters"]["workloads"][0].clone();
    spec["presenters"]["workloads"] = json!([workload.clone(), workload]);
    let error = parse(&spec).expect_err("it would roll twice");
    assert!(error.because.contains("prod/backend/deployment/datastore a second time"), "{error}");
}

/// The example, with these fields instead of `external_secret` in its presenters' workload.
fn copied_by(fields: &Value) -> Value {
    let mut spec = example();
    let workload = spec["presenters"]["workloads"][0].as_object_mut().expect("it is an object");
    workload.remove("external_secret");
    workload.extend(fields.as_object().expect("it is an object").clone());
    spec
}

#[test]
fn each_way_into_a_secret_is_read() {
    let (name, key) = ("a".to_owned(), "b".to_owned());
    for (fields, expected) in [
        (
            json!({"external_secret": "a", "secret_key": "b"}),
            SecretCopy::ExternalSecret { name: name.clone(), secret_key: Some(key.clone()) },
        ),
        (
            json!({"cluster_external_secret": "a"}),
            SecretCopy::ClusterExternalSecret { name: name.clone(), secret_key: None },
        ),
        (
            json!({"cluster_external_secret": "a", "secret_key": "b"}),
            SecretCopy::ClusterExternalSecret { name: name.clone(), secret_key: Some(key.clone()) },
        ),
        (json!({"secret": {"name": "a", "key": "b"}}), SecretCopy::Secret { name, key }),
    ] {
        let spec = parse(&copied_by(&fields)).expect("it is a spec");
        assert_eq!(spec.presenters.workloads[0].copy, Some(expected));
    }
}

#[test]
fn workload_has_one_secret_source() {
    let secret = json!({"name": "a", "key": "b"});
    for (fields, reported) in [
        (
            json!({"external_secret": "a", "cluster_external_secret": "a"}),
            "`presenters.workloads[0]` has external_secret and cluster_external_secret, which each",
        ),
        (
            json!({"external_secret": "a", "cluster_external_secret": "a", "secret": secret}),
            "has external_secret and cluster_external_secret and secret, which",
        ),
        (
            json!({"secret": secret, "secret_key": "b"}),
            "`presenters.workloads[0].secret_key` names",
        ),
        (json!({"secret_key": "b"}), "`presenters.workloads[0].secret_key` names a key of an"),
        (json!({"secret": {"name": "a"}}), "`presenters.workloads[0].secret.key` is missing"),
        (json!({"secret": {"key": "a"}}), "`presenters.workloads[0].secret.name` is missing"),
        (json!({"secret": {"name": "a", "key": "b c"}}), "secret.key` is \"b c\"; write"),
        (json!({"secret": {"name": "A", "key": "b"}}), "secret.name` is \"A\"; write"),
        (json!({"secret": {"name": "a", "key": "b", "type": "c"}}), "unknown field `type`"),
        (json!({"secret": "a"}), "expected an object"),
        (json!({"cluster_external_secret": 1}), "cluster_external_secret` is 1; write"),
        (json!({"secret": secret, "picks_up": {"within": "1m"}}), "picks_up.within` is \"1m\""),
    ] {
        let error = parse(&copied_by(&fields)).expect_err("it is no spec").to_string();
        assert!(error.contains(reported), "{fields}: {error}");
    }
}

#[test]
fn only_what_copies_from_a_parameter_needs_one() {
    let mut spec = copied_by(&json!({"secret": {"name": "a", "key": "b"}}));
    let item = json!({"dynamodb": {"table": "table", "key": {"id": "a"}}});
    spec["presenters"]["publish"] = json!([item.clone()]);
    parse(&spec).expect("a Secret is written from the record");
    let mut spec = copied_by(&json!({"cluster_external_secret": "a"}));
    spec["presenters"]["publish"] = json!([item]);
    let error = parse(&spec).expect_err("it copies nothing").to_string();
    let reported = "`presenters.workloads[0].cluster_external_secret` copies from a parameter";
    assert!(error.contains(reported), "{error}");
}

#[test]
fn secret_key_and_view_are_one_to_one() {
    let written = |key: &str| json!({"name": "a", "key": key});
    let mut spec = copied_by(&json!({"secret": written("token")}));
    let mut second = spec["presenters"]["workloads"][0].clone();
    second["deployment"] = json!("second");
    let first = spec["presenters"]["workloads"][0].clone();
    spec["presenters"]["workloads"] = json!([first, second]);
    parse(&spec).expect("two workloads may read one key");
    spec["presenters"]["workloads"][1]["secret"] = written("other");
    let error = parse(&spec).expect_err("applying one takes the other away").to_string();
    assert!(error.contains("`presenters.workloads[1].secret.key` is a second key of"), "{error}");
    spec["presenters"]["workloads"][1]["namespace"] = json!("elsewhere");
    parse(&spec).expect("it is another Secret");

    let mut spec = copied_by(&json!({"secret": written("token")}));
    let workload = spec["presenters"]["workloads"][0].clone();
    spec["verifiers"]["workloads"] = json!([workload]);
    let error = parse(&spec).expect_err("a key holds one view").to_string();
    assert!(error.contains("key token of Secret backend/a of cluster prod, which"), "{error}");
    spec["verifiers"]["workloads"][0]["secret"] = written("accepted");
    parse(&spec).expect("each side has a key of its own");
}

#[test]
fn item_may_hold_both_views_but_parameter_not() {
    let mut spec = example();
    spec["verifiers"]["publish"][1] = spec["presenters"]["publish"][1].clone();
    parse(&spec).expect("the views have attributes of their own");
}

#[test]
fn name_unfit_for_annotations_has_no_workloads() {
    let edged = name("-token");
    assert!(Spec::parse(&edged, 1, &example().to_string()).is_err());
    assert!(Spec::parse(&edged, 1, &smallest("/a/b").to_string()).is_ok());
}

#[test]
fn tokens_writing_one_secret_key_are_both_refused() {
    let spec = |token: &str, key: &str| {
        let mut spec = copied_by(&json!({"secret": {"name": "shared", "key": key}}));
        for (side, view) in [("verifiers", "accepted"), ("presenters", "token")] {
            spec[side]["publish"] = json!([{"ssm": format!("/{token}/{view}")}]);
        }
        Spec::parse(&name(token), 1, &spec.to_string()).expect("it is a spec")
    };
    let conflicts = conflicts(&[spec("a", "x"), spec("b", "y"), spec("c", "x")]);
    assert_eq!(conflicts.keys().map(TokenName::as_str).collect::<Vec<_>>(), ["a", "c"]);
    let message = conflicts[&name("a")].to_string();
    for word in ["\"c\"", "key x of Secret backend/shared of cluster prod"] {
        assert!(message.contains(word), "{message}");
    }
}

#[test]
fn tokens_writing_one_place_are_both_refused() {
    let spec = |token: &str, place: &str| {
        Spec::parse(&name(token), 1, &smallest(place).to_string()).expect("it is a spec")
    };
    let specs = [spec("a", "/x"), spec("b", "/y"), spec("c", "/x"), spec("d", "/z")];
    let conflicts = conflicts(&specs);
    assert_eq!(conflicts.keys().map(TokenName::as_str).collect::<Vec<_>>(), ["a", "c"]);
    for (token, error) in conflicts {
        let message = error.to_string();
        assert_eq!(error.kind, Kind::BadSpec);
        for word in ["\"a\"", "\"c\"", "ssm:/x"] {
            assert!(message.contains(word), "{token}: {message}");
        }
    }
}

#[test]
fn spec_cannot_use_places_of_the_deployment() {
    let reserved = Reserved {
        table: "records".to_owned(),
        paths: vec!["/changeover/tokens".to_owned(), "/changeover/clusters".to_owned()],
    };
    for place in ["/changeover/tokens/a", "/changeover/clusters/a/b", "/changeover/tokens"] {
        let spec = parse(&smallest(place)).expect("it is a spec");
        let error = spec.check_reserved(&reserved).expect_err(place);
        assert!(error.kind == Kind::BadSpec && error.because.contains(place), "{error}");
    }
    let mut item = example();
    item["presenters"]["publish"][1]["dynamodb"]["table"] = json!("records");
    assert!(parse(&item).expect("it is a spec").check_reserved(&reserved).is_err());
    assert!(parse(&example()).expect("it is a spec").check_reserved(&reserved).is_ok());
}

#[test]
fn huge_and_deep_inputs_are_refused() {
    let huge = format!("{{\"overlap\": \"{}\"}}", "5".repeat(6_000_000));
    let long = format!("{{\"overlap\": \"{}\"}}", "5".repeat(8000));
    let deep = "[".repeat(8000);
    for json in [huge, long, deep] {
        let error = Spec::parse(&name("a"), 1, &json).expect_err("it is no spec");
        assert_eq!(error.kind, Kind::BadSpec);
        assert!(error.to_string().len() < 1000, "{error}");
    }
    let deep = format!("{}1{}", "[".repeat(120), "]".repeat(120));
    let deep: Value = serde_json::from_str(&deep).expect("serde_json reads this deep");
    let event = json!({"action": "rotate", "token": "x".repeat(6_000_000), "key": deep});
    let error = Request::parse(&event).expect_err("it is no request");
    assert!(error.to_string().len() < 1000, "{error}");
}

#[test]
fn accepted_set_is_as_deep_as_smallest_store() {
    let with = |publish: Value| {
        let mut spec = example();
        spec["verifiers"]["publish"] = publish;
        spec["verifiers"]["workloads"] = json!([]);
        parse(&spec).expect("it is a spec").accepted_depth()
    };
    let parameter = json!({"ssm": "/a"});
    let item = json!({"dynamodb": {"table": "table", "key": {"id": 1}}});
    assert_eq!(with(json!([item])), 32);
    assert_eq!(with(json!([parameter, item])), 25);
    assert_eq!(with(json!([{"ssm": "/a", "as": "plain"}])), 28);
}
