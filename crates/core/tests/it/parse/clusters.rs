//! Descriptions of named clusters.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use changeover_core::{
    error::{Error, Kind},
    spec::{ApiServer, ClusterDescription, EksCluster, ParameterName},
};
use serde_json::{Value, json};

const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----";

fn cluster(json: &Value) -> Result<ClusterDescription, Error> {
    ClusterDescription::parse("/changeover/clusters", "prod", &json.to_string())
}

fn api_server() -> Value {
    json!({
        "endpoint": "https://10.0.0.1:6443", "ca": CERTIFICATE,
        "token_parameter": "/changeover/clusters/prod/token",
    })
}

#[test]
fn cluster_is_eks_or_any_api_server() {
    let eks = |region: Option<&str>, role: Option<&str>| {
        ClusterDescription::Eks(EksCluster {
            name: "prod-1".into(),
            region: region.map(Into::into),
            role: role.map(Into::into),
        })
    };
    let role = "arn:aws-us-gov:iam::123456789012:role/path/cluster@prod";
    let server = ClusterDescription::ApiServer(ApiServer {
        endpoint: "https://10.0.0.1:6443".into(),
        authority: CERTIFICATE.into(),
        token_parameter: ParameterName::parse("/changeover/clusters/prod/token").unwrap(),
    });
    let mut in_base64 = api_server();
    in_base64["ca"] = json!(STANDARD.encode(CERTIFICATE));
    let mut wrapped = api_server();
    wrapped["ca"] = json!(STANDARD.encode(CERTIFICATE).replacen('S', "S\n", 2));
    for (json, described) in [
        (json!({"eks": {"name": "prod-1"}}), eks(None, None)),
        (json!({"eks": {"name": "prod-1", "region": "eu-west-1"}}), eks(Some("eu-west-1"), None)),
        (
            json!({"eks": {"name": "prod-1", "region": "us-gov-west-1", "role": role}}),
            eks(Some("us-gov-west-1"), Some(role)),
        ),
        (api_server(), server.clone()),
        (in_base64, server.clone()),
        (wrapped, server),
    ] {
        assert_eq!(cluster(&json), Ok(described), "{json}");
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn bad_cluster_description_names_field_value_and_fix() {
    let eks = |field: &str, value: &str| {
        let mut json = json!({"eks": {"name": "a"}});
        json["eks"][field] = json!(value);
        json
    };
    let server = |field: &str, value: Value| {
        let mut json = api_server();
        json[field] = value;
        json
    };
    let mut lacking = api_server();
    lacking.as_object_mut().unwrap().remove("ca");
    let mut both = api_server();
    both["eks"] = json!({"name": "a"});
    for (json, reported) in [
        (eks("region", "evil.example/"), "`eks.region` is \"evil.example/\"; write the name"),
        (
            eks("role", "arn:aws:iam::1:role/a"),
            "`eks.role` is \"arn:aws:iam::1:role/a\"; write the",
        ),
        (eks("role", "arn:aws:iam::123456789012:user/a"), "`eks.role` is"),
        (eks("role", "arn:aws:iam::123456789012:role/"), "`eks.role` is"),
        (eks("name", "a b"), "`eks.name` is \"a b\""),
        (json!({"eks": {}}), "`eks.name` is missing"),
        (json!({"eks": null}), "`eks`"),
        (json!({}), "`eks` is missing"),
        (json!({"gke": {}}), "unknown field `gke`"),
        (json!(""), "an object"),
        (both, "`eks` stands beside `endpoint`"),
        (lacking, "`ca` is missing; write the certificate authority"),
        (server("ca", json!("MIIB")), "`ca` is \"MIIB\"; write the certificate authority"),
        (server("endpoint", json!("http://10.0.0.1")), "`endpoint` is \"http://10.0.0.1\"; write"),
        (server("endpoint", json!("https://me:secret@a")), "`endpoint` is"),
        (server("endpoint", json!("https://a/?b")), "`endpoint` is"),
        (server("endpoint", json!("https://a/#b")), "`endpoint` is"),
        (server("endpoint", json!(6443)), "`endpoint` is 6443"),
        (server("token_parameter", json!(null)), "`token_parameter` is null: it is not a text"),
        (
            server("token_parameter", json!("token")),
            "it does not begin with '/'; name a SecureString",
        ),
        // A published token, and another cluster's token.
        (
            server("token_parameter", json!("/backend/token")),
            "is not below /changeover/clusters/prod/",
        ),
        (server("token_parameter", json!("/changeover/clusters/production/t")), "it is not below"),
        (server("token_parameter", json!("/changeover/clusters/prod")), "this description itself"),
    ] {
        let error = cluster(&json).expect_err(reported);
        assert_eq!(error.kind, Kind::BadSpec);
        assert!(
            error.because.contains(reported) && error.to_string().contains("\"prod\""),
            "{error}"
        );
    }
    let many = json!({"endpoint": 1, "ca": 2, "token_parameter": 3});
    let reported = cluster(&many).expect_err("it is no cluster").because;
    assert!(
        ["`endpoint`", "`ca`", "`token_parameter`"].iter().all(|it| reported.contains(it)),
        "{reported}"
    );
}
