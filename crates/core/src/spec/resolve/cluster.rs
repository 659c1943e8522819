//! Resolution of the description of a cluster.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value;

use super::{
    super::{
        ApiServer, ClusterDescription, EksCluster, ParameterName,
        raw::{self, Field, Object},
        rules::{CLUSTER_RULE, REGION_RULE, ROLE_RULE, is_cluster, is_region, is_role},
    },
    Faults,
};
use crate::error::{Error, Kind, displayed_value, quote_for_log};

/// See [`ClusterDescription::parse`].
pub(in crate::spec) fn cluster(
    path: &str,
    name: &str,
    json: &str,
) -> Result<ClusterDescription, Error> {
    let described = raw::read(json).and_then(|raw: raw::RawCluster| {
        let mut faults = Faults::default();
        let has_server =
            [&raw.endpoint, &raw.ca, &raw.token_parameter].iter().any(|field| field.0.is_some());
        let description = match raw.eks.0 {
            Some(_) if has_server => faults.add(
                "eks",
                "stands beside `endpoint`, `ca` or `token_parameter`: a cluster is an EKS cluster \
                 or another API server; leave one out",
            ),
            Some(Object(eks)) => faults.eks(eks).map(ClusterDescription::Eks),
            None if has_server => {
                faults.api_server(path, name, raw).map(ClusterDescription::ApiServer)
            }
            None => faults.add(
                "eks",
                "is missing; write {\"eks\": {\"name\": \"<cluster>\"}}, or \"endpoint\", \"ca\" and \
                 \"token_parameter\" of any other API server",
            ),
        };
        description.ok_or_else(|| faults.summary())
    });
    described.map_err(|because| {
        Error::new(
            Kind::BadSpec,
            "read the description of cluster",
            because,
            "correct the parameter of that name under CHANGEOVER_CLUSTERS",
        )
        .on_cluster(quote_for_log(name))
    })
}

impl Faults {
    fn eks(&mut self, raw: raw::RawEks) -> Option<EksCluster> {
        let name = self.name("eks.name", raw.name, is_cluster, CLUSTER_RULE);
        let mut optional = |path, field: Field<Value>, keeps: fn(&str) -> bool, rule| match field {
            Field(None) => Some(None),
            given => self.name(path, given, keeps, rule).map(Some),
        };
        let region = optional("eks.region", raw.region, is_region, REGION_RULE);
        let role = optional("eks.role", raw.role, is_role, ROLE_RULE);
        Some(EksCluster { name: name?, region: region?, role: role? })
    }

    fn api_server(&mut self, path: &str, name: &str, raw: raw::RawCluster) -> Option<ApiServer> {
        let endpoint = self.name("endpoint", raw.endpoint, is_endpoint, ENDPOINT_RULE);
        let authority = match raw.ca.0 {
            None => self.add("ca", format!("is missing; write {AUTHORITY_RULE}")),
            Some(value) => match value.as_str().and_then(authority) {
                Some(authority) => Some(authority),
                None => self
                    .add("ca", format!("is {}; write {AUTHORITY_RULE}", displayed_value(&value))),
            },
        };
        let token_parameter = match raw.token_parameter.0 {
            None => self.add("token_parameter", format!("is missing; name {TOKEN_RULE}")),
            Some(value) => {
                let own = format!("{path}/{name}");
                let parsed = match value.as_str().map(ParameterName::parse) {
                    Some(Ok(parameter)) if parameter.as_str() == own => {
                        Err("it is this description itself".to_owned())
                    }
                    Some(Ok(parameter)) if parameter.is_within(&own) => Ok(parameter),
                    Some(Ok(_)) => Err(format!("it is not below {own}/")),
                    Some(Err(because)) => Err(because),
                    None => Err("it is not a text".to_owned()),
                };
                match parsed {
                    Ok(parameter) => Some(parameter),
                    Err(because) => self.add(
                        "token_parameter",
                        format!("is {}: {because}; name {TOKEN_RULE}", displayed_value(&value)),
                    ),
                }
            }
        };
        Some(ApiServer {
            endpoint: endpoint?,
            authority: authority?,
            token_parameter: token_parameter?,
        })
    }
}

/// True for a URL that credentials may be sent to: they must be encrypted, and must reach only the host
/// that is named.
fn is_endpoint(url: &str) -> bool {
    let Ok(uri) = url.parse::<http::Uri>() else {
        return false;
    };
    let is_plain = |authority: &http::uri::Authority| !authority.as_str().contains('@');
    uri.scheme_str() == Some("https")
        && uri.authority().is_some_and(is_plain)
        && uri.query().is_none()
        && !url.contains('#')
}

/// Reads PEM, from PEM itself or from its base64, which is the form in a kubeconfig and in EKS. The client
/// that is made with it checks if it is a certificate.
fn authority(text: &str) -> Option<String> {
    let text = text.trim();
    let pem = if text.starts_with(PEM) {
        text.to_owned()
    } else {
        let encoded: String = text.split_whitespace().collect();
        String::from_utf8(STANDARD.decode(encoded).ok()?).ok()?
    };
    pem.contains(PEM).then_some(pem)
}

const PEM: &str = "-----BEGIN CERTIFICATE-----";

const ENDPOINT_RULE: &str =
    "the URL of its API server, such as \"https://10.0.0.1:6443\": https, no user, no query";

const AUTHORITY_RULE: &str =
    "the certificate authority of its API server: PEM, or PEM in base64 as a kubeconfig holds it";

const TOKEN_RULE: &str = "a SecureString below the parameter of this description";
