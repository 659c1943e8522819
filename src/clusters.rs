//! Clusters by the names that specs give them: the description, the endpoint, the identity and the
//! connection of each.

mod token_parameter;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use changeover_aws::{Aws, eks, sdk::parameter};
use changeover_core::{
    error::{Error, Kind},
    spec::ClusterDescription,
};
use changeover_kubernetes::{
    Access, Connection, Home, KubernetesClusters, Now, account,
    client::{Endpoint, Identity, client},
};
use changeover_token::Digest;
use jiff::{SignedDuration, Timestamp};

use crate::config::Config;

/// Clusters as the parameters below `CHANGEOVER_CLUSTERS` describe them.
///
/// Clients are made when first needed. The state of a cluster is kept for the life of the process, until
/// its API server does not answer or does not know us.
pub struct NamedClusters {
    aws: Arc<Aws>,
    path: String,
    now: Now,
    clusters: Mutex<BTreeMap<String, Arc<futures::lock::Mutex<Known>>>>,
}

impl NamedClusters {
    /// The clusters that the parameters below this path describe, and EKS clusters of the function's own
    /// account and region. Tokens are dated `now`.
    pub fn new(aws: Arc<Aws>, path: String, now: Now) -> Self {
        Self { aws, path, now, clusters: Mutex::default() }
    }

    /// All clusters of a function that publishes in its own region with this KMS key.
    pub fn of_function(aws: Arc<Aws>, config: &Config, now: Now) -> KubernetesClusters {
        let home = Home {
            region: aws.config().region().map(ToString::to_string),
            account: account(&config.publication_key),
        };
        KubernetesClusters::reached_by(Arc::new(Self::new(aws, config.clusters.clone(), now)), home)
    }

    fn known(&self, cluster: &str) -> Arc<futures::lock::Mutex<Known>> {
        let mut clusters = self.clusters.lock().unwrap_or_else(PoisonError::into_inner);
        clusters.entry(cluster.to_owned()).or_default().clone()
    }

    /// The text of the cluster's parameter; empty if it has none.
    async fn text(&self, cluster: &str) -> Result<String, Error> {
        let name = format!("{}/{cluster}", self.path);
        let attempted = "read the parameter of a cluster,";
        let parameter = parameter::plain(&self.aws, attempted, &name, "a description").await;
        // The parameter's name ends with the cluster's.
        let parameter = parameter.map_err(|error| error.on_cluster(&name))?;
        Ok(parameter.and_then(|parameter| parameter.value).unwrap_or_default())
    }

    /// The description in such a text. Without a text, it is the EKS cluster of the same name.
    fn described(&self, cluster: &str, text: &str) -> Result<ClusterDescription, Error> {
        match text {
            "" => Ok(ClusterDescription::undescribed(cluster)),
            text => ClusterDescription::parse(&self.path, cluster, text),
        }
    }

    /// The identity for the cluster, and its endpoint if that is not known yet.
    async fn reached(
        &self,
        description: &ClusterDescription,
        endpoint: Option<Endpoint>,
    ) -> Result<(Endpoint, Identity), Error> {
        match description {
            ClusterDescription::Eks(cluster) => {
                let session = eks::Session::open(&self.aws, cluster).await?;
                let endpoint = match endpoint {
                    Some(endpoint) => endpoint,
                    None => {
                        let eks::Endpoint { url, authority, introduce } =
                            session.endpoint().await?;
                        Endpoint { url, authority, introduce: introduce.into() }
                    }
                };
                let eks::BearerToken { token, used_until } = session.bearer_token((self.now)())?;
                Ok((endpoint, Identity { token, used_until }))
            }
            ClusterDescription::ApiServer(server) => {
                let identity =
                    token_parameter::identity(&self.aws, &server.token_parameter).await?;
                let authority = STANDARD.encode(&server.authority);
                let introduce = format!(
                    "put a token that the API server knows into {}, its token_parameter",
                    server.token_parameter
                );
                let (url, introduce) = (server.endpoint.clone(), introduce.into());
                Ok((Endpoint { url, authority, introduce }, identity))
            }
        }
    }
}

#[async_trait]
impl Access for NamedClusters {
    async fn connect(&self, cluster: &str) -> Result<Connection, Error> {
        let known = self.known(cluster);
        // The lock is held over the calls: other connections to the same cluster wait for their answers.
        let mut known = known.lock().await;
        let now = (self.now)();
        let is_known = known.identity.as_ref().is_some_and(|identity| now < identity.used_until);
        if let Some(open) = &mut known.open
            && is_known
            && now < open.idle_until
        {
            open.idle_until = later(now, IDLE_FOR);
            return Ok(open.connection.clone());
        }
        // The text is kept only after it has led to the cluster. A description that did not may be
        // corrected.
        let text = match known.text.take() {
            Some(text) => text,
            None => self.text(cluster).await?,
        };
        let description = self.described(cluster, &text)?;
        // The endpoint is kept while only the identity has ended, so that renewing it does not describe the
        // cluster again.
        let (endpoint, identity) = match (&known.endpoint, &known.identity) {
            (Some(endpoint), Some(identity)) if is_known => (endpoint.clone(), identity.clone()),
            (endpoint, _) => {
                let reached = self.reached(&description, endpoint.clone()).await;
                // An EKS cluster may have another name than the one that specs use.
                reached.map_err(|error| {
                    let names_cluster = error.on.as_deref() == Some(cluster);
                    Error { names_cluster, ..error }
                })?
            }
        };
        let client = client(&endpoint, &identity).await.map_err(|because| {
            let object = match description {
                ClusterDescription::Eks(_) => "what eks:DescribeCluster answers",
                ClusterDescription::ApiServer(_) => "its description",
            };
            Error::new(
                Kind::BadSpec,
                "make a client for the cluster",
                format!("{object} cannot be used: {because}"),
                format!("compare {object} with the cluster's endpoint and certificate authority"),
            )
            .on_cluster(cluster)
        })?;
        // A new generation distinguishes this connection from one that another caller discards late.
        known.text = Some(text);
        known.generation += 1;
        let introduce = Arc::clone(&endpoint.introduce);
        let connection = Connection { client, introduce, generation: known.generation };
        known.endpoint = Some(endpoint);
        known.identity = Some(identity);
        known.open =
            Some(Open { connection: connection.clone(), idle_until: later(now, IDLE_FOR) });
        Ok(connection)
    }

    async fn describe(&self, cluster: &str) -> Result<Digest, Error> {
        let known = self.known(cluster);
        let mut known = known.lock().await;
        let text = self.text(cluster).await?;
        let digest = Digest::of(&text);
        if known.text.as_ref() != Some(&text) {
            let generation = known.generation;
            *known = Known { text: Some(text), generation, ..Known::default() };
        }
        Ok(digest)
    }

    async fn discard(&self, cluster: &str, connection: &Connection) {
        let known = self.known(cluster);
        let mut known = known.lock().await;
        let is_open = known
            .open
            .as_ref()
            .is_some_and(|open| open.connection.generation == connection.generation);
        // Another caller may have discarded it first, and a new connection may exist.
        if is_open {
            *known = Known { generation: known.generation, ..Known::default() };
        }
    }
}

/// The time `by` after `now`.
fn later(now: Timestamp, by: Duration) -> Timestamp {
    SignedDuration::try_from(by)
        .ok()
        .and_then(|by| now.checked_add(by).ok())
        .unwrap_or(Timestamp::MAX)
}

/// The known state of a cluster.
#[derive(Default)]
struct Known {
    /// The description's text.
    text: Option<String>,
    endpoint: Option<Endpoint>,
    identity: Option<Identity>,
    open: Option<Open>,
    generation: u64,
}

/// A connection that is in use.
struct Open {
    connection: Connection,
    idle_until: Timestamp,
}

/// Time after which an unused connection is replaced. A function that was frozen for longer may find its
/// connections closed without notice, and hyper's own idle time-out uses a clock that may have stopped.
const IDLE_FOR: Duration = Duration::from_secs(50);

#[cfg(test)]
mod tests {
    use aws_config::{BehaviorVersion, Region, SdkConfig};
    use aws_credential_types::{Credentials, provider::SharedCredentialsProvider};
    use aws_smithy_http_client::test_util::infallible_client_fn;
    use aws_smithy_types::body::SdkBody;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde_json::{Value, json};

    use super::*;

    /// SSM, EKS and STS, as far as the tests call them: parameters, clusters, and the calls that were made.
    #[derive(Default)]
    struct Account {
        /// Parameters with their types.
        parameters: BTreeMap<String, (&'static str, String)>,
        clusters: BTreeMap<String, Value>,
        calls: Vec<String>,
        now: Timestamp,
    }

    impl Account {
        fn answer(&mut self, request: &http::Request<SdkBody>) -> http::Response<String> {
            let body = request.body().bytes().unwrap_or_default();
            let json: Value = serde_json::from_slice(body).unwrap_or_default();
            let host = request.uri().host().unwrap();
            // The path or the host identifies the service: EKS, STS, or else SSM.
            let (call, found, missing) = if let Some(name) =
                request.uri().path().strip_prefix("/clusters/")
            {
                let cluster = self.clusters.get(name);
                let found = cluster.map(|cluster| json!({"cluster": cluster}).to_string());
                let who = request.headers()["authorization"].to_str().unwrap();
                let who = who.split(['=', '/']).nth(1).unwrap().to_owned();
                let call = format!("DescribeCluster {name} of {host} by {who}");
                (call, found, (404, "ResourceNotFoundException"))
            } else if host.starts_with("sts.") {
                let body = String::from_utf8_lossy(body).replace("%3A", ":").replace("%2F", "/");
                let role = body.split('&').find_map(|pair| pair.strip_prefix("RoleArn=")).unwrap();
                let ends = self.now + SignedDuration::from_mins(60);
                let found = (!role.ends_with("closed")).then(|| {
                    format!(
                        "<AssumeRoleResponse><AssumeRoleResult><Credentials>\
                         <AccessKeyId>ASSUMED</AccessKeyId><SecretAccessKey>s</SecretAccessKey>\
                         <SessionToken>t</SessionToken><Expiration>{ends}</Expiration>\
                         </Credentials></AssumeRoleResult></AssumeRoleResponse>"
                    )
                });
                (format!("AssumeRole {role} of {host}"), found, (403, "AccessDenied"))
            } else {
                let name = json["Name"].as_str().unwrap();
                let decrypted = json["WithDecryption"] == true;
                let found = self.parameters.get(name).map(|(kind, value)| {
                    assert_eq!(decrypted, name.split('/').count() > 4, "descriptions are plain");
                    json!({"Parameter": {"Type": kind, "Value": value}}).to_string()
                });
                (format!("GetParameter {name}"), found, (400, "ParameterNotFound"))
            };
            // Each service has its own form of a refusal: STS answers in XML, the others in JSON.
            self.calls.push(call);
            let (status, error) = missing;
            let refusal = if host.starts_with("sts.") {
                format!("<ErrorResponse><Error><Code>{error}</Code></Error></ErrorResponse>")
            } else {
                json!({"__type": error, "message": "none"}).to_string()
            };
            let answer = match found {
                Some(found) => http::Response::builder().status(200).body(found),
                None => http::Response::builder()
                    .status(status)
                    .header("x-amzn-errortype", error)
                    .body(refusal),
            };
            answer.unwrap()
        }
    }

    fn clusters(account: Account) -> (NamedClusters, Arc<Mutex<Account>>) {
        let account = Arc::new(Mutex::new(account));
        let (requests, clock) = (Arc::clone(&account), Arc::clone(&account));
        let credentials = Credentials::new("AKID", "secret", None, None, "test");
        let sdk = SdkConfig::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .region(Region::new("eu-west-1"))
            .credentials_provider(SharedCredentialsProvider::new(credentials))
            .http_client(infallible_client_fn(move |request| {
                requests.lock().unwrap().answer(&request)
            }))
            .build();
        let clusters = NamedClusters {
            aws: Arc::new(Aws::new(sdk)),
            path: "/changeover/clusters".to_owned(),
            now: Arc::new(move || clock.lock().unwrap().now),
            clusters: Mutex::default(),
        };
        (clusters, account)
    }

    fn described(status: &str) -> Value {
        let authority = STANDARD.encode(AUTHORITY);
        json!({
            "name": "prod",
            "status": status,
            "endpoint": "https://127.0.0.1:1",
            "certificateAuthority": {"data": authority},
        })
    }

    fn with_cluster() -> Account {
        Account {
            clusters: BTreeMap::from([("prod".to_owned(), described("ACTIVE"))]),
            ..Account::default()
        }
    }

    fn pass(account: &Mutex<Account>, seconds: i64) {
        account.lock().unwrap().now += SignedDuration::from_secs(seconds);
    }

    fn calls(account: &Mutex<Account>) -> Vec<String> {
        std::mem::take(&mut account.lock().unwrap().calls)
    }

    /// A certificate whose private key was discarded.
    const AUTHORITY: &str = "-----BEGIN CERTIFICATE-----
MIIBdDCCARugAwIBAgIUHDhxuI6AZXhxtv2CpkB0x6HfM2IwCgYIKoZIzj0EAwIw
DzENMAsGA1UEAwwEdGVzdDAgFw0yNjExMjIwOTQ4MDBaGA8yMTI2MTAyOTA5NDgw
MFowDzENMAsGA1UEAwwEdGVzdDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABBVB
amVP2S7nkz/pM6CpboXAMrLMO0qWS1L3cx5uIo7T01V0MDSLy3N7f3Aj8AyPDAsT
RTxUjYtgcBEWmfLd642jUzBRMB0GA1UdDgQWBBSKin2v/owf7HqipZk55iDUJ46c
ZTAfBgNVHSMEGDAWgBSKin2v/owf7HqipZk55iDUJ46cZTAPBgNVHRMBAf8EBTAD
AQH/MAoGCCqGSM49BAMCA0cAMEQCIB7Zeep8sw/d0/Ox+eJuPHPKTCGTMcK5llKX
ux6tlaK/AiBuJbKBKUlbWrD5ok+hSD0udcE08GN11s57nJ2mkOLX+g==
-----END CERTIFICATE-----";

    const ASKED: [&str; 2] = [
        "GetParameter /changeover/clusters/prod",
        "DescribeCluster prod of eks.eu-west-1.amazonaws.com by AKID",
    ];

    fn describe(account: &mut Account, cluster: &str, description: Value) {
        let name = format!("/changeover/clusters/{cluster}");
        account.parameters.insert(name, ("String", description.to_string()));
    }

    #[tokio::test(start_paused = true)]
    async fn cluster_without_parameter_is_eks_and_described_once() {
        let (clusters, account) = clusters(with_cluster());
        let connections =
            [clusters.connect("prod"), clusters.connect("prod"), clusters.connect("prod")];
        for connection in futures::future::join_all(connections).await {
            assert_eq!(connection.unwrap().generation, 1);
        }
        assert_eq!(calls(&account), ASKED);
    }

    #[tokio::test(start_paused = true)]
    async fn description_that_is_corrected_is_used_at_once() {
        let mut account = with_cluster();
        describe(&mut account, "production", json!({"eks": {"name": "prdo"}}));
        let (clusters, account) = clusters(account);
        assert_eq!(clusters.connect("production").await.err().unwrap().kind, Kind::BadSpec);
        let correct = json!({"eks": {"name": "prod"}});
        describe(&mut account.lock().unwrap(), "production", correct);
        clusters.connect("production").await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn connection_is_not_used_after_its_description_changed() {
        let (clusters, account) = clusters(with_cluster());
        let digest = clusters.describe("prod").await.unwrap();
        let first = clusters.connect("prod").await.unwrap();
        assert_eq!(clusters.describe("prod").await.unwrap(), digest);
        assert_eq!(clusters.connect("prod").await.unwrap().generation, first.generation);
        let role = "arn:aws:iam::210987654321:role/other";
        describe(
            &mut account.lock().unwrap(),
            "prod",
            json!({"eks": {"name": "prod", "role": role}}),
        );
        assert_ne!(clusters.describe("prod").await.unwrap(), digest);
        calls(&account);
        assert_ne!(clusters.connect("prod").await.unwrap().generation, first.generation);
        assert!(calls(&account).iter().any(|call| call.contains(role)), "by the new one");
    }

    #[tokio::test(start_paused = true)]
    async fn parameter_names_the_eks_cluster() {
        let mut account = with_cluster();
        describe(&mut account, "production", json!({"eks": {"name": "prod"}}));
        let (clusters, account) = clusters(account);
        clusters.connect("production").await.unwrap();
        assert_eq!(calls(&account), ["GetParameter /changeover/clusters/production", ASKED[1]]);
    }

    #[tokio::test(start_paused = true)]
    async fn authentication_mode_decides_how_identity_is_introduced() {
        let aws_auth = "in kube-system/aws-auth (mapRoles) to username changeover:{{SessionName}}";
        let entry = "create an access entry for arn:aws:iam::210987654321:role/it";
        let table =
            [("CONFIG_MAP", aws_auth), ("API_AND_CONFIG_MAP", entry), ("API", entry), ("", entry)];
        for (mode, words) in table {
            let mut account = with_cluster();
            let role = "arn:aws:iam::210987654321:role/it";
            describe(&mut account, "prod", json!({"eks": {"name": "prod", "role": role}}));
            if !mode.is_empty() {
                let cluster = account.clusters.get_mut("prod").unwrap();
                cluster["accessConfig"] = json!({"authenticationMode": mode});
            }
            let (clusters, _) = clusters(account);
            let introduce = clusters.connect("prod").await.unwrap().introduce;
            assert!(introduce.contains(words), "{mode}: {introduce}");
            assert!(introduce.contains(role), "{mode}: {introduce}");
        }
        let (clusters, _) = clusters(with_homelab(AUTHORITY));
        let introduce = clusters.connect("homelab").await.unwrap().introduce;
        assert!(introduce.contains(HOMELAB[1].trim_start_matches("GetParameter ")), "{introduce}");
    }

    #[tokio::test(start_paused = true)]
    async fn identity_is_renewed_without_a_describe() {
        let (clusters, account) = clusters(with_cluster());
        let mut generations = Vec::new();
        // Used every 40 s, for 27 minutes.
        for _ in 0..41 {
            generations.push(clusters.connect("prod").await.unwrap().generation);
            pass(&account, 40);
        }
        assert_eq!(generations.last(), Some(&3), "{generations:?}");
        assert_eq!(generations.iter().filter(|generation| **generation == 1).count(), 20);
        assert_eq!(calls(&account), ASKED);
    }

    #[tokio::test(start_paused = true)]
    async fn idle_connection_is_made_anew() {
        let (clusters, account) = clusters(with_cluster());
        clusters.connect("prod").await.unwrap();
        pass(&account, 51);
        assert_eq!(clusters.connect("prod").await.unwrap().generation, 2);
        assert_eq!(calls(&account), ASKED);
    }

    #[tokio::test(start_paused = true)]
    async fn discarded_connection_is_described_again_once() {
        let (clusters, account) = clusters(with_cluster());
        let first = clusters.connect("prod").await.unwrap();
        calls(&account);
        clusters.discard("prod", &first).await;
        let second = clusters.connect("prod").await.unwrap();
        // Another caller, which was refused on the first connection too, discards it late.
        clusters.discard("prod", &first).await;
        assert_eq!(clusters.connect("prod").await.unwrap().generation, second.generation);
        assert_eq!(calls(&account), ASKED);
    }

    #[tokio::test(start_paused = true)]
    async fn foreign_cluster_uses_its_region_and_role() {
        let mut account = with_cluster();
        let role = "arn:aws:iam::210987654321:role/clusters/changeover";
        let described = json!({"eks": {"name": "prod", "region": "us-east-2", "role": role}});
        describe(&mut account, "prod", described);
        let (clusters, account) = clusters(account);
        clusters.connect("prod").await.unwrap();
        let role = format!("AssumeRole {role} of sts.eu-west-1.amazonaws.com");
        let found = "DescribeCluster prod of eks.us-east-2.amazonaws.com by ASSUMED";
        assert_eq!(calls(&account), [ASKED[0], &role, found]);

        let token = clusters.known("prod").lock().await.identity.clone().unwrap().token;
        let signed = URL_SAFE_NO_PAD.decode(token.strip_prefix("k8s-aws-v1.").unwrap()).unwrap();
        let signed = String::from_utf8(signed).unwrap();
        assert!(signed.starts_with("https://sts.us-east-2.amazonaws.com/"), "{signed}");
        assert!(signed.contains("X-Amz-Credential=ASSUMED%2F"), "{signed}");

        // A new connection of the same identity makes no call. A new identity only assumes the role.
        pass(&account, 60);
        clusters.connect("prod").await.unwrap();
        assert_eq!(calls(&account), [""; 0]);
        pass(&account, 13 * 60);
        clusters.connect("prod").await.unwrap();
        assert_eq!(calls(&account), [role]);
    }

    const TOKEN: &str = "eyJhbGciOiJSUzI1NiJ9.c2VjcmV0.c2lnbmF0dXJl";

    /// An API server that is no EKS cluster, and its token.
    fn with_homelab(authority: &str) -> Account {
        let mut account = Account::default();
        let parameter = "/changeover/clusters/homelab/token";
        let described = json!({
            "endpoint": "https://127.0.0.1:6443", "ca": authority, "token_parameter": parameter,
        });
        describe(&mut account, "homelab", described);
        let token = ("SecureString", format!("{TOKEN}\n"));
        account.parameters.insert(parameter.to_owned(), token);
        account
    }

    const HOMELAB: [&str; 2] = [
        "GetParameter /changeover/clusters/homelab",
        "GetParameter /changeover/clusters/homelab/token",
    ];

    #[tokio::test(start_paused = true)]
    async fn api_server_token_is_read_once() {
        for authority in [AUTHORITY.to_owned(), STANDARD.encode(AUTHORITY)] {
            let (clusters, account) = clusters(with_homelab(&authority));
            clusters.connect("homelab").await.unwrap();
            assert_eq!(
                *clusters.known("homelab").lock().await.identity.clone().unwrap().token,
                TOKEN
            );
            for _ in 0..30 {
                pass(&account, 100);
                clusters.connect("homelab").await.unwrap();
            }
            assert_eq!(calls(&account), HOMELAB, "no AWS but Parameter Store is asked, and once");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn refused_api_server_token_is_read_again() {
        let (clusters, account) = clusters(with_homelab(AUTHORITY));
        let refused = clusters.connect("homelab").await.unwrap();
        calls(&account);
        let changed = ("SecureString", "another".to_owned());
        account.lock().unwrap().parameters.insert(HOMELAB[1][13..].to_owned(), changed);
        clusters.discard("homelab", &refused).await;
        assert_ne!(clusters.connect("homelab").await.unwrap().generation, refused.generation);
        assert_eq!(
            *clusters.known("homelab").lock().await.identity.clone().unwrap().token,
            "another"
        );
        assert_eq!(calls(&account), HOMELAB);
    }

    #[tokio::test(start_paused = true)]
    async fn unreachable_cluster_report_hides_its_token() {
        let mut account = with_cluster();
        // EKS clusters that do not exist yet, are described wrongly, or are closed to the function.
        account.clusters.insert("new".to_owned(), json!({"name": "new", "status": "CREATING"}));
        describe(&mut account, "broken", json!({"eks": {"nam": "prod"}}));
        let closed = "arn:aws:iam::210987654321:role/closed";
        describe(&mut account, "closed", json!({"eks": {"name": "prod", "role": closed}}));
        describe(&mut account, "away", json!({"eks": {"name": "none", "region": "us-east-2"}}));
        let sealed = ("SecureString", "{}".to_owned());
        account.parameters.insert("/changeover/clusters/sealed".to_owned(), sealed);
        // API servers whose token or certificate authority cannot be used.
        let mut server = |cluster: &str, authority: &str, token: Option<(&'static str, &str)>| {
            let parameter = format!("/changeover/clusters/{cluster}/token");
            let described = json!({
                "endpoint": "https://127.0.0.1:1", "ca": authority, "token_parameter": parameter,
            });
            describe(&mut account, cluster, described);
            if let Some((kind, value)) = token {
                account.parameters.insert(parameter, (kind, value.to_owned()));
            }
        };
        server("tokenless", AUTHORITY, None);
        server("open", AUTHORITY, Some(("String", TOKEN)));
        server("two", AUTHORITY, Some(("SecureString", "tokens secret")));
        server("blank", AUTHORITY, Some(("SecureString", "\n")));
        let no_certificate = "-----BEGIN CERTIFICATE-----\n%\n-----END CERTIFICATE-----";
        server("forged", no_certificate, Some(("SecureString", TOKEN)));
        let (clusters, _) = clusters(account);
        // Each error names the cause, and none shows a token.
        let table = [
            (
                "none",
                Kind::BadSpec,
                "no such cluster in the function's account and region eu-west-1",
            ),
            ("away", Kind::BadSpec, "region us-east-2"),
            ("new", Kind::Unreachable, "its status is CREATING"),
            ("broken", Kind::BadSpec, "nam"),
            ("closed", Kind::AccessDenied, "name it in the stack's ClusterRoles"),
            ("tokenless", Kind::BadSpec, "/changeover/clusters/tokenless/token: it does not exist"),
            ("open", Kind::BadSpec, "it is a String, which is kept in plain"),
            ("two", Kind::BadSpec, "its value is no bearer token"),
            ("sealed", Kind::BadSpec, "it is a SecureString, and a description is a String"),
            ("blank", Kind::BadSpec, "its value is no bearer token"),
            ("forged", Kind::BadSpec, "its description cannot be used"),
        ];
        for (cluster, kind, words) in table {
            let error = clusters.connect(cluster).await.err().unwrap();
            assert_eq!(error.kind, kind, "{error}");
            let message = error.to_string();
            assert!(message.contains(words), "{cluster}: {message}");
            assert!(!message.contains(TOKEN) && !message.contains("secret"), "{message}");
        }
    }
}
