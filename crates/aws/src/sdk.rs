//! The AWS SDKs as every adapter uses them: clients that share one pool of connections, time-outs on every
//! call, and one mapping of failures to errors.

mod counted;
mod http;
#[cfg(feature = "ssm")]
pub mod parameter;

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use aws_config::{
    BehaviorVersion, ConfigLoader, Region, SdkConfig,
    environment::EnvironmentVariableRegionProvider, identity::IdentityCache,
    meta::region::RegionProviderChain, profile::ProfileFileRegionProvider, retry::RetryConfig,
    timeout::TimeoutConfig,
};
use aws_credential_types::{
    Credentials,
    provider::{SharedCredentialsProvider, error::CredentialsError},
};
use aws_runtime::retries::classifiers::{AwsErrorCodeClassifier, THROTTLING_ERRORS};
use aws_smithy_runtime_api::{
    client::{http::SharedHttpClient, orchestrator::HttpResponse, result::SdkError},
    http::StatusCode,
};
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use aws_types::request_id::RequestId;
use changeover_core::error::{Error, Kind, error_chain};

use self::counted::CountingHttpClient;
pub use self::http::client as http_client;

/// Time limit of a call, its retries included. It is the longest time that an unfenced call may last, and
/// the lease is calculated with it.
pub const OPERATION_TIMEOUT: Duration = Duration::from_secs(10);
/// Time limit of one attempt of a call.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(4);
/// Time limit for making a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The clients of AWS's services. Each is made when it is first needed.
pub struct Aws {
    config: SdkConfig,
    requests: Arc<AtomicU64>,
    #[cfg(feature = "codepipeline")]
    codepipeline: OnceLock<aws_sdk_codepipeline::Client>,
    #[cfg(feature = "dynamodb")]
    dynamodb: OnceLock<aws_sdk_dynamodb::Client>,
    #[cfg(feature = "eks")]
    eks: OnceLock<aws_sdk_eks::Client>,
    #[cfg(feature = "eventbridge")]
    eventbridge: OnceLock<aws_sdk_eventbridge::Client>,
    #[cfg(feature = "dynamodb")]
    kms: OnceLock<aws_sdk_kms::Client>,
    #[cfg(feature = "lambda")]
    lambda: OnceLock<aws_sdk_lambda::Client>,
    #[cfg(feature = "ssm")]
    ssm: OnceLock<aws_sdk_ssm::Client>,
    #[cfg(feature = "eks")]
    sts: OnceLock<aws_sdk_sts::Client>,
}

impl Aws {
    /// Reads AWS's own variables (`AWS_REGION`, `AWS_ENDPOINT_URL_SSM`, ...) and profile files. Makes no
    /// call: credentials are fetched by the first call that needs them.
    ///
    /// # Errors
    /// `Unreachable` if no region is set. The instance metadata service is not queried for one, because
    /// Lambda sets the variable. `BadSpec` if `AWS_CA_BUNDLE` names no file of certificates.
    pub async fn load() -> Result<Self, Error> {
        let region = RegionProviderChain::first_try(EnvironmentVariableRegionProvider::new())
            .or_else(ProfileFileRegionProvider::new());
        checked(loader()?.region(region).load().await).map(Self::new)
    }

    /// Clients of this configuration, with changeover's time-outs and retries.
    pub fn new(config: SdkConfig) -> Self {
        let requests = Arc::new(AtomicU64::new(0));
        let counted = config.http_client().map(|by| {
            SharedHttpClient::new(CountingHttpClient { by, requests: Arc::clone(&requests) })
        });
        let mut builder = config.into_builder();
        builder.set_http_client(counted);
        Self::counting(builder.build(), requests)
    }

    fn counting(config: SdkConfig, requests: Arc<AtomicU64>) -> Self {
        let config = config
            .into_builder()
            .timeout_config(timeouts(OPERATION_TIMEOUT))
            .retry_config(
                RetryConfig::standard()
                    .with_max_attempts(5)
                    .with_initial_backoff(Duration::from_millis(300))
                    .with_max_backoff(Duration::from_secs(2)),
            )
            .build();
        Self {
            config,
            requests,
            #[cfg(feature = "codepipeline")]
            codepipeline: OnceLock::new(),
            #[cfg(feature = "dynamodb")]
            dynamodb: OnceLock::new(),
            #[cfg(feature = "eks")]
            eks: OnceLock::new(),
            #[cfg(feature = "eventbridge")]
            eventbridge: OnceLock::new(),
            #[cfg(feature = "dynamodb")]
            kms: OnceLock::new(),
            #[cfg(feature = "lambda")]
            lambda: OnceLock::new(),
            #[cfg(feature = "ssm")]
            ssm: OnceLock::new(),
            #[cfg(feature = "eks")]
            sts: OnceLock::new(),
        }
    }

    /// The same AWS in another region and with these credentials.
    pub fn with(&self, region: &str, credentials: Credentials) -> Self {
        let config = self.config.to_builder().region(Region::new(region.to_owned()));
        let credentials = SharedCredentialsProvider::new(credentials);
        // The cache of the original credentials must not answer for these.
        let config =
            config.credentials_provider(credentials).identity_cache(IdentityCache::no_cache());
        Self::counting(config.build(), Arc::clone(&self.requests))
    }

    /// Number of requests that were sent. Repeated requests and those to other regions count too.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Region, credentials and endpoints, for callers that sign requests themselves.
    pub fn config(&self) -> &SdkConfig {
        &self.config
    }

    /// The client of CodePipeline.
    #[cfg(feature = "codepipeline")]
    pub fn codepipeline(&self) -> &aws_sdk_codepipeline::Client {
        self.codepipeline.get_or_init(|| aws_sdk_codepipeline::Client::new(&self.config))
    }

    /// The client of DynamoDB.
    #[cfg(feature = "dynamodb")]
    pub fn dynamodb(&self) -> &aws_sdk_dynamodb::Client {
        self.dynamodb.get_or_init(|| aws_sdk_dynamodb::Client::new(&self.config))
    }

    /// The client of EKS.
    #[cfg(feature = "eks")]
    pub fn eks(&self) -> &aws_sdk_eks::Client {
        self.eks.get_or_init(|| aws_sdk_eks::Client::new(&self.config))
    }

    /// The client of EventBridge.
    #[cfg(feature = "eventbridge")]
    pub fn eventbridge(&self) -> &aws_sdk_eventbridge::Client {
        self.eventbridge.get_or_init(|| aws_sdk_eventbridge::Client::new(&self.config))
    }

    /// The client of KMS.
    #[cfg(feature = "dynamodb")]
    pub fn kms(&self) -> &aws_sdk_kms::Client {
        self.kms.get_or_init(|| aws_sdk_kms::Client::new(&self.config))
    }

    /// The client of Lambda.
    #[cfg(feature = "lambda")]
    pub fn lambda(&self) -> &aws_sdk_lambda::Client {
        self.lambda.get_or_init(|| aws_sdk_lambda::Client::new(&self.config))
    }

    /// The client of Parameter Store.
    #[cfg(feature = "ssm")]
    pub fn ssm(&self) -> &aws_sdk_ssm::Client {
        self.ssm.get_or_init(|| aws_sdk_ssm::Client::new(&self.config))
    }

    /// The client of the Security Token Service.
    #[cfg(feature = "eks")]
    pub fn sts(&self) -> &aws_sdk_sts::Client {
        self.sts.get_or_init(|| aws_sdk_sts::Client::new(&self.config))
    }
}

/// The base of every configuration.
///
/// # Errors
/// `BadSpec` if `AWS_CA_BUNDLE` names no file of certificates.
pub fn loader() -> Result<ConfigLoader, Error> {
    Ok(aws_config::defaults(behavior_version()).http_client(http::client()?))
}

/// The version of the SDKs' defaults.
pub fn behavior_version() -> BehaviorVersion {
    BehaviorVersion::v2026_01_12()
}

/// The configuration, if it names a region.
pub fn checked(config: SdkConfig) -> Result<SdkConfig, Error> {
    if config.region().is_none() {
        return Err(Error::new(
            Kind::Unreachable,
            "find AWS",
            "no region is set",
            "set AWS_REGION",
        ));
    }
    Ok(config)
}

/// The time-outs of a call that may take this long, its retries included.
pub fn timeouts(operation: Duration) -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .operation_attempt_timeout(ATTEMPT_TIMEOUT)
        .operation_timeout(operation)
        .build()
}

/// Makes the SDK also repeat a call that was refused with one of these codes.
pub fn also_retrying<E>(codes: &'static [&'static str]) -> AwsErrorCodeClassifier<E> {
    AwsErrorCodeClassifier::builder().transient_errors(codes).build()
}

/// The error of a failed call. `action` is the permission that it needs (`ssm:PutParameter`), `attempted`
/// is its purpose, in the imperative, and `on` is the one object that it was about.
///
/// The SDK's error is rendered here and is not passed on: it can hold a response, and with it a token.
pub fn failed<E>(
    action: &str,
    attempted: &str,
    on: impl fmt::Display,
    error: &SdkError<E, HttpResponse>,
) -> Error
where
    E: std::error::Error + ProvideErrorMetadata + RequestId + 'static,
{
    let kind = kind(error);
    let because = match (error.code(), error.message()) {
        (Some(code), Some(message)) => format!("AWS answered {code}: {message}"),
        (Some(code), None) => format!("AWS answered {code}"),
        (None, _) => error_chain(error),
    };
    let because = match error.request_id() {
        Some(id) => format!("{because} (request {id})"),
        None => because,
    };
    let fix = match kind {
        Kind::AccessDenied if is_about_a_key(error.code()) => {
            "enable the KMS key, or name one that exists and can encrypt".to_owned()
        }
        Kind::AccessDenied if action.starts_with("ssm:") => {
            format!("grant the function's role {action} on it, and the use of its KMS key")
        }
        Kind::AccessDenied => format!("grant the function's role {action} on it"),
        Kind::Throttled => format!("run it again later, or raise the account's rate of {action}"),
        Kind::Unreachable => {
            "run it again; if it stays so, check the function's network and AWS's health".to_owned()
        }
        Kind::TooLarge => "shorten what is to be stored: fewer or shorter tokens".to_owned(),
        _ => format!("check what {action} was given against its API reference"),
    };
    Error::new(kind, attempted, because, fix).on(on)
}

/// The error of an answer of 200 that lacks a field that every such answer has. It did not come from AWS,
/// or was cut off on its way. The result of the call is not known.
pub fn incomplete(action: &str, attempted: &str, on: impl fmt::Display, lacks: &str) -> Error {
    let because = format!("the answer to {action} has no {lacks}");
    let fix = "run it again; if it stays so, check what stands between the function and AWS";
    Error::new(Kind::Unreachable, attempted, because, fix).on(on)
}

/// The contract's error kind for an AWS error code.
fn kind<E>(error: &SdkError<E, HttpResponse>) -> Kind
where
    E: std::error::Error + ProvideErrorMetadata + 'static,
{
    if let SdkError::ServiceError(service) = error {
        let code = error.code().unwrap_or_default();
        let message = error.message().unwrap_or_default();
        return match code {
            _ if is_throttling(code) => Kind::Throttled,
            _ if is_refusal(code) || is_about_a_key(Some(code)) => Kind::AccessDenied,
            // DynamoDB and Parameter Store have no code of their own for a value that is too large.
            "ValidationException" if message.contains("size") => Kind::TooLarge,
            "ItemCollectionSizeLimitExceededException" => Kind::TooLarge,
            // An error in an answer of 200 could not be read, so its origin is not known.
            _ if service.raw().status().is_server_error() => Kind::Unreachable,
            _ if service.raw().status().is_success() => Kind::Unreachable,
            _ => Kind::Internal,
        };
    }
    let is_without_credentials =
        sources(error).any(|cause| cause.downcast_ref::<CredentialsError>().is_some());
    match error {
        _ if is_without_credentials => Kind::AccessDenied,
        // An answer that does not parse, for example from a proxy or from an endpoint that is not AWS's.
        SdkError::ResponseError(response) if is_refused(response.raw().status()) => {
            Kind::AccessDenied
        }
        SdkError::ConstructionFailure(_) => Kind::Internal,
        _ => Kind::Unreachable,
    }
}

/// The causes of an error, outermost first. Chains longer than sixteen are cut there.
pub fn sources<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(error.source(), |cause| (*cause).source()).take(16)
}

fn is_refused(status: StatusCode) -> bool {
    matches!(status.as_u16(), 401 | 403)
}

fn is_throttling(code: &str) -> bool {
    THROTTLING_ERRORS.contains(&code) || OTHER_THROTTLING_ERRORS.contains(&code)
}

/// Codes that mean "later" and that the SDK does not know as such (BOTO ssm 2014-11-06, dynamodb
/// 2012-08-10).
const OTHER_THROTTLING_ERRORS: [&str; 4] =
    ["TooManyUpdates", "ThrottlingError", "TransactionConflictException", "TransactionConflict"];

fn is_refusal(code: &str) -> bool {
    code.starts_with("AccessDenied") || REFUSALS.contains(&code)
}

/// Other codes of a refusal (the "Common errors" page of AWS's API references).
const REFUSALS: [&str; 11] = [
    "ExpiredToken",
    "ExpiredTokenException",
    "IncompleteSignature",
    "InvalidClientTokenId",
    "InvalidSignatureException",
    "MissingAuthenticationToken",
    "MissingAuthenticationTokenException",
    "NotAuthorized",
    "OptInRequired",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
];

fn is_about_a_key(code: Option<&str>) -> bool {
    code.is_some_and(|code| KEY_ERRORS.contains(&code))
}

/// Codes of a KMS key that does not exist or cannot be used (BOTO kms 2014-11-01, `Encrypt`; ssm
/// 2014-11-06, `PutParameter`).
const KEY_ERRORS: [&str; 8] = [
    "DisabledException",
    "InvalidGrantTokenException",
    "InvalidKeyId",
    "InvalidKeyUsageException",
    "KMSInvalidStateException",
    "KeyUnavailableException",
    "KmsInvalidStateException",
    "NotFoundException",
];
