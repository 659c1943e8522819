//! A client of one API server, made from its endpoint and our identity.

use std::{sync::Arc, time::Duration};

use changeover_core::error::error_chain;
use http::{
    Response, StatusCode,
    header::{CONTENT_TYPE, RETRY_AFTER},
};
use jiff::Timestamp;
use kube::{
    Client,
    client::ClientBuilder,
    config::{
        AuthInfo, Cluster, Config, Context, KubeConfigOptions, Kubeconfig, KubeconfigError,
        NamedAuthInfo, NamedCluster, NamedContext,
    },
    core::{Status, response::StatusDetails},
};
use tower::{BoxError, util::MapResultLayer};
use zeroize::Zeroizing;

/// The endpoint of an API server.
#[derive(Clone)]
pub struct Endpoint {
    /// Its URL.
    pub url: String,
    /// The authority that signs its certificate: PEM in base64.
    pub authority: String,
    /// The fix to report if it does not know our identity.
    pub introduce: Arc<str>,
}

/// The identity that we present to it.
#[derive(Clone)]
pub struct Identity {
    /// The bearer token.
    pub token: Zeroizing<String>,
    /// The time at which another token is made.
    pub used_until: Timestamp,
}

/// Makes a client that trusts the cluster's own certificate authority and nothing else, and that uses no
/// proxy named by the environment.
///
/// # Errors
/// The fault of the endpoint, in words.
pub async fn client(endpoint: &Endpoint, identity: &Identity) -> Result<Client, String> {
    let mut configuration =
        configuration(endpoint, identity).await.map_err(|error| error_chain(&error))?;
    configuration.proxy_url = None;
    configuration.connect_timeout = Some(CONNECT_WITHIN);
    // `call` and `watch` retry, since they know how much time they have.
    configuration.default_retry = false;
    let builder = ClientBuilder::try_from(configuration).map_err(|error| error_chain(&error))?;
    Ok(builder.with_layer(&MapResultLayer::new(keep_retry_after)).build())
}

/// The configuration that `aws eks update-kubeconfig` writes into a file, with the token in place of a
/// command.
async fn configuration(
    endpoint: &Endpoint,
    identity: &Identity,
) -> Result<Config, KubeconfigError> {
    let name = || "changeover".to_owned();
    let kubeconfig = Kubeconfig {
        clusters: vec![NamedCluster {
            name: name(),
            cluster: Some(Cluster {
                server: Some(endpoint.url.clone()),
                certificate_authority_data: Some(endpoint.authority.clone()),
                ..Cluster::default()
            }),
            ..NamedCluster::default()
        }],
        auth_infos: vec![NamedAuthInfo {
            name: name(),
            auth_info: Some(AuthInfo {
                token: Some(identity.token.as_str().to_owned().into()),
                ..AuthInfo::default()
            }),
            ..NamedAuthInfo::default()
        }],
        contexts: vec![NamedContext {
            name: name(),
            context: Some(Context { cluster: name(), user: Some(name()), ..Context::default() }),
            ..NamedContext::default()
        }],
        current_context: Some(name()),
        ..Kubeconfig::default()
    };
    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await
}

/// Keeps the header `Retry-After` of a refusal that has no `Status`. Kube returns nothing of a refusal but
/// its `Status`. Priority and fairness refuses so, in plain text (apiserver
/// `pkg/server/filters/priority-and-fairness.go`, `tooManyRequests`), and so do proxies.
fn keep_retry_after<B>(answer: Result<Response<B>, BoxError>) -> Result<Response<B>, BoxError> {
    let response = answer?;
    let status = response.status();
    let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
    let is_later =
        matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
    let is_a_status = header(CONTENT_TYPE).is_some_and(|it| it.starts_with("application/json"));
    // The header may be a date, a form that no API server or proxy uses here.
    match header(RETRY_AFTER).and_then(|seconds| seconds.trim().parse().ok()) {
        Some(retry_after_seconds) if is_later && !is_a_status => {
            let words = status.canonical_reason().unwrap_or_default();
            let details = StatusDetails {
                name: String::new(),
                group: String::new(),
                kind: String::new(),
                uid: String::new(),
                causes: Vec::new(),
                retry_after_seconds,
            };
            let status = Status::failure(words, "").with_code(status.as_u16());
            Err(kube::Error::Api(status.with_details(details).boxed()).into())
        }
        _ => Ok(response),
    }
}

/// The time in which a connection to an API server must be made.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use http::Request;
    use http_body_util::Full;
    use kube::client::Body;

    use super::*;

    #[tokio::test]
    async fn plain_text_refusal_keeps_its_retry_after() {
        let status = r#"{"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 429,
            "message": "hotspot", "details": {"retryAfterSeconds": 3}}"#;
        let busy = "Too many requests, please try again later.";
        for (code, kind, body, code_and_seconds) in [
            (429, "text/plain", busy, Some((429, 7))),
            (503, "", "", Some((503, 7))),
            (429, "application/json", status, Some((429, 3))),
            (500, "text/plain", "oops", Some((500, 0))),
            (200, "application/json", "{}", None),
        ] {
            let service = tower::service_fn(move |_: Request<Body>| async move {
                let response = Response::builder().status(code).header(RETRY_AFTER, 7);
                let response = response.header(CONTENT_TYPE, kind).body(Full::from(body)).unwrap();
                Ok::<_, BoxError>(response)
            });
            let builder = ClientBuilder::new(service, "default");
            let client = builder.with_layer(&MapResultLayer::new(keep_retry_after)).build();
            let request = Request::get("/api").body(Vec::new()).unwrap();
            let refused = match client.request_text(request).await {
                Ok(_) => None,
                Err(kube::Error::Api(status)) => {
                    let seconds = status.details.map_or(0, |details| details.retry_after_seconds);
                    Some((status.code, seconds))
                }
                Err(other) => panic!("{other}"),
            };
            assert_eq!(refused, code_and_seconds, "{code} {kind}");
        }
    }
}
