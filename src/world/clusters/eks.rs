//! EKS: where a cluster is, and who we are to it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use aws_credential_types::provider::ProvideCredentials;
use aws_sdk_eks::types::ClusterStatus;
use jiff::{SignedDuration, Timestamp};
use kube::{
    Client,
    config::{
        AuthInfo, Cluster, Config, Context, KubeConfigOptions, Kubeconfig, KubeconfigError,
        NamedAuthInfo, NamedCluster, NamedContext,
    },
};
use zeroize::Zeroizing;

use super::{Access, Connection, Now, bearer};
use crate::{
    error::{Error, Kind, causes},
    spec::EksCluster,
    world::aws::{Aws, failed},
};

/// EKS clusters of the function's own account and region.
///
/// Clients of clusters are made when first needed. What DescribeCluster answered is kept for the
/// life of the process, until an API server does not answer or does not know us.
pub(super) struct Eks {
    aws: Arc<Aws>,
    path: String,
    now: Now,
    clusters: Mutex<BTreeMap<String, Arc<futures::lock::Mutex<Known>>>>,
}

impl Eks {
    /// Clusters as the parameters below `CHANGEOVER_CLUSTERS` describe them, reached with AWS's
    /// credentials. Tokens are dated `now`.
    pub(super) fn new(aws: Arc<Aws>, config: &crate::config::Config, now: Now) -> Self {
        Self { aws, path: config.clusters.clone(), now, clusters: Mutex::default() }
    }

    fn known(&self, cluster: &str) -> Arc<futures::lock::Mutex<Known>> {
        let mut clusters = self.clusters.lock().unwrap_or_else(PoisonError::into_inner);
        clusters.entry(cluster.to_owned()).or_default().clone()
    }

    /// The EKS cluster that goes by this name: what its parameter says, else the one so named.
    async fn described(&self, cluster: &str) -> Result<EksCluster, Error> {
        let parameter = format!("{}/{cluster}", self.path.trim_end_matches('/'));
        match self.aws.ssm().get_parameter().name(&parameter).send().await {
            Ok(answer) => {
                let json = answer.parameter().and_then(|parameter| parameter.value());
                EksCluster::parse(cluster, json.unwrap_or_default())
            }
            Err(error)
                if error.as_service_error().is_some_and(|error| error.is_parameter_not_found()) =>
            {
                Ok(EksCluster { name: cluster.to_owned() })
            }
            Err(error) => {
                let attempted = "read the parameter of a cluster,";
                Err(failed("ssm:GetParameter", attempted, &parameter, &error))
            }
        }
    }

    /// Where the cluster is.
    async fn endpoint(&self, eks: &EksCluster) -> Result<Endpoint, Error> {
        let attempted = "describe the EKS cluster";
        let name = &eks.name;
        let answer = match self.aws.eks().describe_cluster().name(name).send().await {
            Ok(answer) => answer,
            Err(error)
                if error
                    .as_service_error()
                    .is_some_and(|error| error.is_resource_not_found_exception()) =>
            {
                return Err(Error::new(
                    Kind::BadSpec,
                    attempted,
                    "there is no such cluster in the function's account and region",
                    "correct the workload's cluster, or describe it in a parameter below \
                     CHANGEOVER_CLUSTERS",
                )
                .on(name));
            }
            Err(error) => return Err(failed("eks:DescribeCluster", attempted, name, &error)),
        };
        let cluster = answer.cluster();
        let url = cluster.and_then(|cluster| cluster.endpoint());
        let authority = cluster
            .and_then(|cluster| cluster.certificate_authority())
            .and_then(|authority| authority.data());
        match (url, authority) {
            (Some(url), Some(authority)) => {
                Ok(Endpoint { url: url.to_owned(), authority: authority.to_owned() })
            }
            _ => {
                let status = cluster
                    .and_then(|cluster| cluster.status())
                    .map_or("unknown", ClusterStatus::as_str);
                let because = format!("it has no endpoint yet: its status is {status}");
                let fix = "wait until the cluster is ACTIVE";
                Err(Error::new(Kind::Unreachable, attempted, because, fix).on(name))
            }
        }
    }

    /// A token for the cluster, and until when it is used.
    async fn identity(&self, eks: &EksCluster) -> Result<Identity, Error> {
        let unknown = |because: &str| {
            Error::new(
                Kind::AccessDenied,
                "sign a token for the EKS cluster",
                because,
                "give the function a role and a region",
            )
            .on(&eks.name)
        };
        let configuration = self.aws.config();
        let provider = configuration
            .credentials_provider()
            .ok_or_else(|| unknown("there are no credentials"))?;
        let region = configuration.region().ok_or_else(|| unknown("there is no region"))?;
        let credentials = tokio::time::timeout(CREDENTIALS_WITHIN, provider.provide_credentials())
            .await
            .map_err(|_| unknown("the credentials did not come in time"))?
            .map_err(|error| unknown("there are no credentials").caused_by(&error))?;
        let now = (self.now)();
        let ends = credentials.expiry().and_then(|expiry| Timestamp::try_from(expiry).ok());
        let used_until = later(now, bearer::USED_FOR).min(ends.unwrap_or(Timestamp::MAX));
        let token = bearer::token(&credentials, region.as_ref(), &eks.name, now)?;
        Ok(Identity { token, used_until })
    }
}

#[async_trait]
impl Access for Eks {
    async fn connect(&self, cluster: &str) -> Result<Connection, Error> {
        let known = self.known(cluster);
        // Held over the calls: whoever else wants the same cluster waits for their answers.
        let mut known = known.lock().await;
        let now = (self.now)();
        if let Some(open) = &mut known.open
            && now < open.used_until
            && now < open.idle_until
        {
            open.idle_until = later(now, IDLE_FOR);
            return Ok(open.connection.clone());
        }
        let eks = match &known.eks {
            Some(eks) => eks.clone(),
            None => known.eks.insert(self.described(cluster).await?).clone(),
        };
        let endpoint = match &known.endpoint {
            Some(endpoint) => endpoint.clone(),
            None => known.endpoint.insert(self.endpoint(&eks).await?).clone(),
        };
        let identity = self.identity(&eks).await?;
        known.generation += 1;
        let connection = Connection {
            client: client(&eks, &endpoint, &identity).await?,
            generation: known.generation,
        };
        known.open = Some(Open {
            connection: connection.clone(),
            used_until: identity.used_until,
            idle_until: later(now, IDLE_FOR),
        });
        Ok(connection)
    }

    async fn discard(&self, cluster: &str, connection: &Connection) {
        let known = self.known(cluster);
        let mut known = known.lock().await;
        let is_open = known
            .open
            .as_ref()
            .is_some_and(|open| open.connection.generation == connection.generation);
        // Somebody else may have been first, and have made a new one.
        if is_open {
            known.open = None;
            known.endpoint = None;
        }
    }
}

/// A client of the cluster. It trusts the cluster's own certificate authority and nothing else, and
/// goes through no proxy that the environment names.
async fn client(
    eks: &EksCluster,
    endpoint: &Endpoint,
    identity: &Identity,
) -> Result<Client, Error> {
    let unfit = |cause: &dyn std::error::Error| {
        Error::new(
            Kind::Unreachable,
            "make a client for the EKS cluster",
            format!("what EKS says of it cannot be used: {}", causes(cause)),
            "compare the cluster's endpoint and certificate authority with what \
             eks:DescribeCluster answers",
        )
        .on(&eks.name)
    };
    let mut configuration =
        configuration(endpoint, identity).await.map_err(|error| unfit(&error))?;
    configuration.proxy_url = None;
    configuration.connect_timeout = Some(CONNECT_WITHIN);
    // Calls are made again by `call` and `watch`, which know how long they have.
    configuration.default_retry = false;
    Client::try_from(configuration).map_err(|error| unfit(&error))
}

/// What `aws eks update-kubeconfig` writes into a file, with the token in place of a command.
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

/// What is known of a cluster.
#[derive(Default)]
struct Known {
    eks: Option<EksCluster>,
    endpoint: Option<Endpoint>,
    open: Option<Open>,
    generation: u64,
}

/// What DescribeCluster answered.
#[derive(Clone)]
struct Endpoint {
    /// Where the API server is.
    url: String,
    /// Who signs its certificate: PEM in base64.
    authority: String,
}

/// Who we are.
struct Identity {
    token: Zeroizing<String>,
    used_until: Timestamp,
}

/// A connection that is in use.
struct Open {
    connection: Connection,
    used_until: Timestamp,
    idle_until: Timestamp,
}

fn later(now: Timestamp, by: Duration) -> Timestamp {
    SignedDuration::try_from(by)
        .ok()
        .and_then(|by| now.checked_add(by).ok())
        .unwrap_or(Timestamp::MAX)
}

/// A function that was frozen for longer may find its connections dead without a word, and hyper's
/// own idle time-out counts on a clock that may have stood still.
const IDLE_FOR: Duration = Duration::from_secs(50);

/// How long credentials may take to come. From the environment they come at once.
const CREDENTIALS_WITHIN: Duration = Duration::from_secs(5);

/// How long a connection to an API server may take to be made.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use aws_config::{BehaviorVersion, Region, SdkConfig};
    use aws_credential_types::{Credentials, provider::SharedCredentialsProvider};
    use aws_smithy_http_client::test_util::infallible_client_fn;
    use aws_smithy_types::body::SdkBody;
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use serde_json::{Value, json};

    use super::*;

    /// SSM and EKS, as far as they are asked: parameters, clusters, and the calls that were made.
    #[derive(Default)]
    struct Account {
        parameters: BTreeMap<String, String>,
        clusters: BTreeMap<String, Value>,
        calls: Vec<String>,
        now: Timestamp,
    }

    impl Account {
        fn answer(&mut self, request: &http::Request<SdkBody>) -> http::Response<String> {
            let body: Value = serde_json::from_slice(request.body().bytes().unwrap_or_default())
                .unwrap_or_default();
            let (call, found, missing) = match request.uri().path().strip_prefix("/clusters/") {
                Some(name) => {
                    let cluster = self.clusters.get(name);
                    let found = cluster.map(|cluster| json!({"cluster": cluster}));
                    (format!("DescribeCluster {name}"), found, (404, "ResourceNotFoundException"))
                }
                None => {
                    let name = body["Name"].as_str().unwrap();
                    let value = self.parameters.get(name);
                    let found = value.map(|value| json!({"Parameter": {"Value": value}}));
                    (format!("GetParameter {name}"), found, (400, "ParameterNotFound"))
                }
            };
            self.calls.push(call);
            let (status, error) = missing;
            let answer = match found {
                Some(found) => http::Response::builder().status(200).body(found.to_string()),
                None => http::Response::builder()
                    .status(status)
                    .header("x-amzn-errortype", error)
                    .body(json!({"__type": error, "message": "none"}).to_string()),
            };
            answer.unwrap()
        }
    }

    fn eks(account: Account) -> (Eks, Arc<Mutex<Account>>) {
        let account = Arc::new(Mutex::new(account));
        let (asked, clock) = (Arc::clone(&account), Arc::clone(&account));
        let credentials = Credentials::new("AKID", "secret", None, None, "test");
        let sdk = SdkConfig::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .region(Region::new("eu-west-1"))
            .credentials_provider(SharedCredentialsProvider::new(credentials))
            .http_client(infallible_client_fn(move |request| {
                asked.lock().unwrap().answer(&request)
            }))
            .build();
        let eks = Eks {
            aws: Arc::new(Aws::new(sdk)),
            path: "/changeover/clusters".to_owned(),
            now: Arc::new(move || clock.lock().unwrap().now),
            clusters: Mutex::default(),
        };
        (eks, account)
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

    /// A certificate whose key nobody has.
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

    const ASKED: [&str; 2] = ["GetParameter /changeover/clusters/prod", "DescribeCluster prod"];

    #[tokio::test(start_paused = true)]
    async fn a_cluster_without_a_parameter_is_the_eks_cluster_of_its_name_and_is_asked_for_once() {
        let (eks, account) = eks(with_cluster());
        let connections = [eks.connect("prod"), eks.connect("prod"), eks.connect("prod")];
        for connection in futures::future::join_all(connections).await {
            assert_eq!(connection.unwrap().generation, 1);
        }
        assert_eq!(calls(&account), ASKED);
    }

    #[tokio::test(start_paused = true)]
    async fn a_parameter_says_which_eks_cluster_is_meant() {
        let mut account = with_cluster();
        let parameter = "/changeover/clusters/production".to_owned();
        account.parameters.insert(parameter, r#"{"eks": {"name": "prod"}}"#.to_owned());
        let (eks, account) = eks(account);
        eks.connect("production").await.unwrap();
        assert_eq!(
            calls(&account),
            ["GetParameter /changeover/clusters/production", "DescribeCluster prod"]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_identity_is_renewed_before_it_ends_and_the_cluster_is_not_described_again() {
        let (eks, account) = eks(with_cluster());
        let mut generations = Vec::new();
        // Used every 40 s, for 27 minutes.
        for _ in 0..41 {
            generations.push(eks.connect("prod").await.unwrap().generation);
            pass(&account, 40);
        }
        assert_eq!(generations.last(), Some(&3), "{generations:?}");
        assert_eq!(generations.iter().filter(|generation| **generation == 1).count(), 20);
        assert_eq!(calls(&account), ASKED);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_was_not_used_for_a_while_is_made_anew() {
        let (eks, account) = eks(with_cluster());
        eks.connect("prod").await.unwrap();
        pass(&account, 51);
        assert_eq!(eks.connect("prod").await.unwrap().generation, 2);
        assert_eq!(calls(&account), ASKED);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_discarded_is_described_again_once() {
        let (eks, account) = eks(with_cluster());
        let first = eks.connect("prod").await.unwrap();
        calls(&account);
        eks.discard("prod", &first).await;
        let second = eks.connect("prod").await.unwrap();
        // Somebody else, who was refused on the first one too, is late.
        eks.discard("prod", &first).await;
        assert_eq!(eks.connect("prod").await.unwrap().generation, second.generation);
        assert_eq!(calls(&account), [ASKED[1]]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_cluster_that_is_not_or_not_yet_is_told() {
        let mut account = with_cluster();
        let creating = json!({"name": "new", "status": "CREATING"});
        account.clusters.insert("new".to_owned(), creating);
        let broken = r#"{"eks": {"nam": "prod"}}"#.to_owned();
        account.parameters.insert("/changeover/clusters/broken".to_owned(), broken);
        let (eks, _) = eks(account);
        let table = [
            ("none", Kind::BadSpec, "there is no such cluster"),
            ("new", Kind::Unreachable, "its status is CREATING"),
            ("broken", Kind::BadSpec, "nam"),
        ];
        for (cluster, kind, words) in table {
            let error = eks.connect(cluster).await.err().unwrap();
            assert_eq!(error.kind, kind, "{error}");
            assert!(error.to_string().contains(words), "{error}");
        }
    }
}
