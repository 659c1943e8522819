//! Results of CodePipeline's jobs.

use std::sync::Arc;

use async_trait::async_trait;
use aws_sdk_codepipeline::{
    error::{ProvideErrorMetadata, SdkError},
    operation::RequestId,
    types::{FailureDetails, FailureType},
};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use changeover_core::{
    error::Error,
    job_result::{Failure, JobResult},
    ports::Pipeline,
};

use crate::{Aws, sdk::failed};

/// [`Pipeline`] over CodePipeline's API.
pub struct CodePipelineJobs {
    aws: Arc<Aws>,
}

impl CodePipelineJobs {
    /// Jobs of the function's own account and region.
    pub fn new(aws: Arc<Aws>) -> Self {
        Self { aws }
    }
}

#[async_trait]
impl Pipeline for CodePipelineJobs {
    async fn answer(&self, job: &str, job_result: &JobResult) -> Result<(), Error> {
        let success = self.aws.codepipeline().put_job_success_result().job_id(job);
        match job_result {
            JobResult::Succeeded(variables) => {
                let variables =
                    variables.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
                let success = success.set_output_variables(Some(variables.collect()));
                answered("codepipeline:PutJobSuccessResult", job, success.send().await)
            }
            // CodePipeline refuses output variables together with a continuation token (API reference,
            // `PutJobSuccessResult`).
            JobResult::GoesOn { continuation } => {
                let success = success.continuation_token(continuation);
                answered("codepipeline:PutJobSuccessResult", job, success.send().await)
            }
            JobResult::Failed { failure, message } => {
                let details = FailureDetails::builder()
                    .r#type(failure_type(*failure))
                    .message(message.chars().take(LONGEST_MESSAGE).collect::<String>())
                    .build();
                let failure = self.aws.codepipeline().put_job_failure_result().job_id(job);
                let failure = failure.set_failure_details(details.ok());
                answered("codepipeline:PutJobFailureResult", job, failure.send().await)
            }
        }
    }
}

/// Maps the answer to a job's result. A job that is not waiting for a result already has one, from an
/// earlier try of the same invocation, or was given up by its pipeline. Both count as success.
fn answered<T, E>(
    action: &str,
    job: &str,
    answer: Result<T, SdkError<E, HttpResponse>>,
) -> Result<(), Error>
where
    E: std::error::Error + ProvideErrorMetadata + RequestId + 'static,
{
    match answer {
        Ok(_) => Ok(()),
        Err(error)
            if matches!(
                error.code(),
                Some("InvalidJobStateException" | "JobNotFoundException")
            ) =>
        {
            Ok(())
        }
        Err(error) => Err(failed(action, "answer the CodePipeline job", job, &error)),
    }
}

fn failure_type(failure: Failure) -> FailureType {
    match failure {
        Failure::ConfigurationError => FailureType::ConfigurationError,
        Failure::JobFailed => FailureType::JobFailed,
        Failure::PermissionError => FailureType::PermissionError,
        Failure::SystemUnavailable => FailureType::SystemUnavailable,
    }
}

/// Most characters of a failure's message (API reference, `FailureDetails`).
const LONGEST_MESSAGE: usize = 5000;
