//! The deployed function, invoked through Lambda's API.
//!
//! The AWS CLI stops waiting for a reply after a minute, invokes again, and exits with success although the
//! function failed. This client waits for longer than a function may run, repeats only events that may
//! arrive twice, and returns an error of the function as an error.

use std::time::Duration;

use aws_config::{
    SdkConfig,
    environment::EnvironmentVariableRegionProvider,
    meta::region::RegionProviderChain,
    profile::{ProfileFileCredentialsProvider, ProfileFileRegionProvider},
    provider_config::ProviderConfig,
    retry::RetryConfig,
    timeout::TimeoutConfig,
};
use aws_sdk_lambda::{
    Client,
    config::{
        Region,
        retry::{RetryPartition, TokenBucket},
    },
    error::ProvideErrorMetadata,
    operation::invoke::InvokeError,
    primitives::Blob,
};
use aws_smithy_runtime_api::client::{
    interceptors::context::InterceptorContext,
    orchestrator::HttpResponse,
    result::SdkError,
    retries::classifiers::{ClassifyRetry, RetryAction, RetryClassifierPriority},
};
use changeover_aws::sdk;
use changeover_core::error::{Error, Kind};
use serde_json::Value;

/// Time limit for making a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time limit for a reply: a minute longer than Lambda lets a function run.
/// <https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html>
const REPLY_TIMEOUT: Duration = Duration::from_secs(16 * 60);

/// A deployed function.
pub struct Function {
    client: Client,
    name: String,
}

/// A reply of the function.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The text, unchanged: an answer, or an error of the function.
    pub text: String,
    /// True if it is an error of the function.
    pub is_error: bool,
}

impl Function {
    /// The function of this name or ARN, with the region and credentials of the environment and `~/.aws`. A
    /// profile that is named takes precedence over credentials in the environment. Makes no call.
    ///
    /// # Errors
    /// `Unreachable` if no region is set; `BadSpec` if `AWS_CA_BUNDLE` names no file of certificates.
    pub async fn load(
        name: &str,
        region: Option<String>,
        profile: Option<&str>,
    ) -> Result<Self, Error> {
        let mut region_of_profile = ProfileFileRegionProvider::builder();
        if let Some(profile) = profile {
            region_of_profile = region_of_profile.profile_name(profile);
        }
        let region = RegionProviderChain::first_try(region.map(Region::new))
            .or_else(EnvironmentVariableRegionProvider::new())
            .or_else(region_of_profile.build());
        let mut loader = sdk::loader()?;
        if let Some(profile) = profile {
            // The SDK's own chain would prefer credentials of the environment.
            let provider = ProviderConfig::without_region()
                .with_region(region.region().await)
                .with_http_client(sdk::http_client()?)
                .with_behavior_version(Some(sdk::behavior_version()));
            let credentials = ProfileFileCredentialsProvider::builder()
                .profile_name(profile)
                .configure(&provider);
            loader = loader.profile_name(profile).credentials_provider(credentials.build());
        }
        let config = sdk::checked(loader.region(region).load().await)?;
        Ok(Self::new(name, &config))
    }

    /// The function of this name, by this configuration, with the command's time-outs and retries.
    pub fn new(name: &str, config: &SdkConfig) -> Self {
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .operation_attempt_timeout(REPLY_TIMEOUT)
            .operation_timeout(REPLY_TIMEOUT * 2)
            .build();
        let retries = RetryConfig::standard()
            .with_max_attempts(5)
            .with_initial_backoff(Duration::from_millis(500))
            .with_max_backoff(Duration::from_secs(10));
        // By default the SDK's retry budget is shared by all clients of the process.
        let own = RetryPartition::custom("invoke").token_bucket(TokenBucket::default()).build();
        let config = aws_sdk_lambda::config::Builder::from(config)
            .timeout_config(timeouts)
            .retry_partition(own)
            .retry_config(retries);
        Self { client: Client::from_conf(config.build()), name: name.to_owned() }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Sends an event, and returns the function's reply.
    ///
    /// A call that Lambda itself throttles or fails is sent again after a pause. An event whose reply was
    /// lost is sent again only if it may arrive twice.
    ///
    /// # Errors
    /// The contract's error if there is no reply.
    pub async fn invoke(&self, event: &Value) -> Result<Reply, Error> {
        let mut config = aws_sdk_lambda::Config::builder();
        if !may_come_twice(event) {
            config = config.retry_classifier(NoRetryAfterSend);
        }
        let invoke = self.client.invoke().function_name(&self.name);
        let invoke = invoke.payload(Blob::new(event.to_string())).customize();
        let replied = invoke.config_override(config).send().await;
        let replied = replied.map_err(|error| self.failed(event, &error))?;
        let is_error = replied.function_error().is_some();
        let payload = replied.payload.map(Blob::into_inner).unwrap_or_default();
        Ok(Reply { text: String::from_utf8_lossy(&payload).into_owned(), is_error })
    }

    fn failed(&self, event: &Value, error: &SdkError<InvokeError, HttpResponse>) -> Error {
        let attempted = "invoke the function";
        let failed = sdk::failed("lambda:InvokeFunction", attempted, &self.name, error);
        let fix = match (error.code(), failed.kind) {
            (Some("ResourceNotFoundException"), _) => {
                "name the deployed function by --function, and where it is by --region"
            }
            (Some("ExpiredToken" | "ExpiredTokenException"), _) => {
                "the session of this shell has ended: sign in again, and run the same command with the same \
                 --key; the rotation continues meanwhile"
            }
            (_, Kind::AccessDenied) => {
                "allow the caller lambda:InvokeFunction on it, or name a --profile that may"
            }
            (_, Kind::Throttled) => "run it again later, or raise the function's concurrency",
            (_, Kind::Unreachable) if !may_come_twice(event) => {
                "it may have been done: look at `changeover status`, and then run it again"
            }
            (_, Kind::Unreachable) => {
                "run it again; if it stays so, check network and AWS's health"
            }
            _ => "check --function against the name that the deployment gave it",
        };
        Error { fix: fix.to_owned(), ..failed }
    }
}

/// True if an event that arrives twice does no more than one that arrives once: a rotation by its key, and
/// actions that only read or only resume. A second `forget` finds nothing. A second `drop` could give up a
/// version that was minted since.
fn may_come_twice(event: &Value) -> bool {
    match event["action"].as_str() {
        Some("rotate") => event["key"].is_string(),
        Some("publish" | "forget" | "status" | "preflight" | "sweep") => true,
        _ => false,
    }
}

/// Keeps the SDK from repeating a call that may have arrived.
#[derive(Debug)]
struct NoRetryAfterSend;

impl ClassifyRetry for NoRetryAfterSend {
    fn classify_retry(&self, context: &InterceptorContext) -> RetryAction {
        // Only a refusal proves that the function was not started.
        match context.response() {
            Some(response) if response.status().is_client_error() => RetryAction::NoActionIndicated,
            _ => RetryAction::RetryForbidden,
        }
    }

    fn name(&self) -> &'static str {
        "not after a lost reply"
    }

    fn priority(&self) -> RetryClassifierPriority {
        RetryClassifierPriority::run_after(RetryClassifierPriority::transient_error_classifier())
    }
}
