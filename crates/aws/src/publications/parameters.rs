//! Views in Parameter Store: SecureStrings, and labels on their versions.
//!
//! Parameter Store has no conditional put, so these writes are not fenced. Each of them reports whether an
//! attempt is still in doubt. Rules and error codes: BOTO ssm 2014-11-06.

use std::{sync::Arc, time::Duration};

use aws_sdk_ssm::{
    error::ProvideErrorMetadata,
    operation::{
        label_parameter_version::LabelParameterVersionError, put_parameter::PutParameterError,
    },
    types::{ParameterInlinePolicy, ParameterMetadata, ParameterStringFilter, ParameterType},
};
use changeover_core::{
    error::{Error, Kind},
    ports::{Described, StoredValue, WriteError, Written},
    spec::ParameterName,
};
use changeover_token::{LARGEST_VALUE, Secret};
use serde_json::Value;
use tokio::time::Instant;

use super::{answered, unanswered::Unanswered};
use crate::{
    Aws,
    sdk::{OPERATION_TIMEOUT, also_retrying, failed, incomplete, parameter, timeouts},
};

/// Parameters that hold views.
pub(super) struct Parameters {
    aws: Arc<Aws>,
    /// The KMS key of new parameters whose publication names no key.
    default_key: String,
}

impl Parameters {
    pub(super) fn new(aws: Arc<Aws>, default_key: String) -> Self {
        Self { aws, default_key }
    }

    pub(super) async fn read(&self, name: &ParameterName) -> Result<Option<StoredValue>, Error> {
        let Some(stored) = parameter::secret(&self.aws, READ, name).await? else {
            return Ok(None);
        };
        check_type(READ, name, stored.kind.as_ref())?;
        Ok(Some(StoredValue {
            value: stored.value,
            store_version: stored.version,
            fence: None,
            token: None,
        }))
    }

    /// The KMS key that a parameter is encrypted with, by the name that its last put gave, and the time at
    /// which a policy deletes the parameter, if one does.
    pub(super) async fn described(&self, name: &ParameterName) -> Result<Option<Described>, Error> {
        let Some(found) = self.describe(name).await? else { return Ok(None) };
        let deleted_at = found.policies().iter().find_map(deleted_at);
        Ok(Some(Described { key: found.key_id, deleted_at }))
    }

    /// The version that has a label. Its value is not decrypted for that.
    pub(super) async fn labelled(
        &self,
        name: &ParameterName,
        label: &str,
    ) -> Result<Option<u64>, Error> {
        parameter::version(&self.aws, READ, &format!("{name}:{label}")).await
    }

    /// Puts a new version. It is encrypted with the first of these keys that is known:
    ///
    /// 1. the key that the spec names,
    /// 2. the key that the last write used,
    /// 3. the key that the parameter has,
    /// 4. the configured key.
    ///
    /// A put without a key would encrypt with the account's default key, and cut off readers that may use
    /// only the former key.
    pub(super) async fn write(
        &self,
        name: &ParameterName,
        spec_key: Option<&str>,
        known_key: Option<&str>,
        value: &Secret,
    ) -> Result<Written, WriteError> {
        let began = Instant::now();
        if value.expose().len() > LARGEST_ADVANCED_VALUE {
            return Err(answered(too_large(name, value)));
        }
        let key = self.key_for(name, spec_key, known_key).await.map_err(answered)?;

        // The look at the parameter has used part of the write's ten seconds. Only the rest is left for the
        // put.
        let attempts = Unanswered::default();
        let answer = self
            .aws
            .ssm()
            .put_parameter()
            .name(name.as_str())
            .r#type(ParameterType::SecureString)
            .overwrite(true)
            .key_id(&key)
            .value(value.expose())
            .customize()
            .interceptor(attempts.clone())
            .config_override(
                aws_sdk_ssm::Config::builder()
                    .timeout_config(timeouts(remaining(began)))
                    .retry_classifier(also_retrying::<PutParameterError>(CONCURRENT)),
            )
            .send()
            .await;
        let unanswered = attempts.may_land();
        // A version is the only proof of success. An answer without one leaves the put in doubt.
        match answer {
            Ok(answer) if answer.version() > 0 => Ok(Written {
                store_version: answer.version().unsigned_abs(),
                key: Some(key),
                unanswered,
            }),
            Ok(_) => Err(WriteError {
                error: incomplete("ssm:PutParameter", WRITE, name, "version"),
                unanswered: true,
                ahead: None,
                is_gone: false,
            }),
            Err(error) => {
                let failed = failed("ssm:PutParameter", WRITE, name, &error);
                let is_invalid = error.code() == Some("ValidationException");
                let error = if is_invalid && value.expose().len() > LARGEST_VALUE {
                    too_large(name, value)
                } else {
                    explained(error.code(), failed)
                };
                let error = without(value, error);
                Err(WriteError { error, unanswered, ahead: None, is_gone: false })
            }
        }
    }

    /// Chooses the key of a put.
    async fn key_for(
        &self,
        name: &ParameterName,
        spec_key: Option<&str>,
        known_key: Option<&str>,
    ) -> Result<String, Error> {
        // If none of our writes to the parameter is known, it may be of another type.
        let existing = match known_key {
            Some(_) => None,
            None => tokio::time::timeout(LOOK_TIMEOUT, self.describe(name))
                .await
                .unwrap_or_else(|_| Err(unanswered_look(name)))?,
        };
        let key = spec_key.or(known_key).or(existing.as_ref().and_then(ParameterMetadata::key_id));
        Ok(key.unwrap_or(&self.default_key).to_owned())
    }

    /// Moves a label. `InvalidLabels` in an answer of 200 is an error too.
    pub(super) async fn label(
        &self,
        name: &ParameterName,
        label: &'static str,
        store_version: u64,
    ) -> Result<Written, WriteError> {
        // Moving a label is not fenced either, so its attempts are recorded as those of a put are.
        let attempts = Unanswered::default();
        let answer = self
            .aws
            .ssm()
            .label_parameter_version()
            .name(name.as_str())
            .parameter_version(store_version.try_into().unwrap_or(i64::MAX))
            .labels(label)
            .customize()
            .interceptor(attempts.clone())
            .config_override(aws_sdk_ssm::Config::builder().retry_classifier(also_retrying::<
                LabelParameterVersionError,
            >(
                CONCURRENT
            )))
            .send()
            .await;
        // A version that is gone is reported apart from other failures: it is published again.
        let unanswered = attempts.may_land();
        let on = format!("{name}:{store_version}");
        let mut is_gone = false;
        let error = match answer {
            Ok(answer) if answer.invalid_labels().is_empty() => {
                return Ok(Written { store_version, key: None, unanswered });
            }
            Ok(_) => Error::new(
                Kind::Internal,
                format!("put the label `{label}` on"),
                "Parameter Store calls the label invalid",
                "report this as a fault of changeover",
            )
            .on(on),
            Err(error) => {
                let attempted = format!("put the label `{label}` on");
                let failed = failed("ssm:LabelParameterVersion", &attempted, on, &error);
                let gone = ["ParameterNotFound", "ParameterVersionNotFound"];
                is_gone = error.code().is_some_and(|code| gone.contains(&code));
                explained(error.code(), failed)
            }
        };
        Err(WriteError { error, unanswered, ahead: None, is_gone })
    }

    /// The metadata of an existing parameter, read without its value.
    async fn describe(&self, name: &ParameterName) -> Result<Option<ParameterMetadata>, Error> {
        let filter = ParameterStringFilter::builder()
            .key("Name")
            .option("Equals")
            .values(name.as_str())
            .build()
            .map_err(|error| {
                let because = "a part of the call is missing";
                let fix = "report this as a fault of changeover";
                Error::new(Kind::Internal, DESCRIBE, because, fix).caused_by(&error)
            })?;
        let mut pages =
            self.aws.ssm().describe_parameters().parameter_filters(filter).into_paginator().send();
        // A page may be empty although a later one is not (API reference, `DescribeParameters`).
        for _ in 0..MOST_PAGES {
            let Some(page) = pages.next().await else {
                break;
            };
            let page =
                page.map_err(|error| failed("ssm:DescribeParameters", DESCRIBE, name, &error))?;
            if let Some(found) = page.parameters.unwrap_or_default().into_iter().next() {
                check_type(WRITE, name, found.r#type())?;
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}

fn check_type(
    attempted: &str,
    name: &ParameterName,
    found: Option<&ParameterType>,
) -> Result<(), Error> {
    match parameter::in_plain(found) {
        None => Ok(()),
        Some(because) => {
            Err(Error::new(Kind::PreflightFailed, attempted, because, OTHER_PARAMETER).on(name))
        }
    }
}

/// Replaces the fix for those refusals that are caused by this parameter's own state.
fn explained(code: Option<&str>, error: Error) -> Error {
    let fix = match code {
        Some("HierarchyTypeMismatchException" | "UnsupportedParameterType") => OTHER_PARAMETER,
        Some("ParameterMaxVersionLimitExceeded") => {
            "take the label off the oldest of its hundred versions, or move it to a newer one"
        }
        Some("ParameterVersionLabelLimitExceeded") => "take one of the ten labels off that version",
        Some("ParameterNotFound" | "ParameterVersionNotFound") => {
            "nothing: it was deleted meanwhile, and is published again within a minute"
        }
        Some("ParameterLimitExceeded") => "delete unused parameters, or ask AWS for a higher limit",
        _ => return error,
    };
    Error { kind: Kind::PreflightFailed, fix: fix.to_owned(), ..error }
}

/// Time at which a parameter policy deletes its parameter. An advanced parameter may have such a policy
/// (Systems Manager User Guide, "Assigning parameter policies"). It takes effect whatever was written
/// since.
fn deleted_at(policy: &ParameterInlinePolicy) -> Option<String> {
    if policy.policy_type() != Some("Expiration") {
        return None;
    }
    let text: Value = serde_json::from_str(policy.policy_text()?).ok()?;
    let at = text["Attributes"]["Timestamp"].as_str();
    Some(at.unwrap_or("a time that it does not name").to_owned())
}

fn too_large(name: &ParameterName, value: &Secret) -> Error {
    let because = format!(
        "it would hold {} bytes, and at most {LARGEST_VALUE} are published to a parameter, whatever its tier",
        value.expose().len()
    );
    let fix = "shorten the overlap, so that fewer tokens are valid at a time, or publish digests";
    Error::new(Kind::TooLarge, WRITE, because, fix).on(name)
}

fn unanswered_look(name: &ParameterName) -> Error {
    let because = format!("Parameter Store did not answer within {LOOK_TIMEOUT:?}");
    Error::new(Kind::Unreachable, DESCRIBE, because, "run it again").on(name)
}

/// The error without the value, in case AWS has repeated it in a message.
fn without(value: &Secret, error: Error) -> Error {
    let because = error.because.replace(value.expose(), "[redacted]");
    Error { because, ..error }
}

/// The rest of the ten seconds that a write may take.
fn remaining(began: Instant) -> Duration {
    OPERATION_TIMEOUT.saturating_sub(began.elapsed()).max(Duration::from_millis(100))
}

/// Another caller is writing the same parameter.
const CONCURRENT: &[&str] = &["TooManyUpdates"];
const LARGEST_ADVANCED_VALUE: usize = 8192;
const MOST_PAGES: usize = 10;
/// Time limit for a look at a parameter, out of the ten seconds that a write has.
const LOOK_TIMEOUT: Duration = Duration::from_secs(4);
const READ: &str = "read the parameter";
const WRITE: &str = "write the parameter";
const DESCRIBE: &str = "look at the parameter";
const OTHER_PARAMETER: &str =
    "delete it, or name another parameter in the spec: its type cannot be changed";
