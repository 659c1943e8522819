//! The answer to a CodePipeline job: the result of the request that the job carried.
//!
//! CodePipeline invokes the function without waiting for its return value, and learns the result from a
//! call that the function makes. A job that is not answered hangs for twenty minutes (CodePipeline user
//! guide, "Invoke an AWS Lambda function in a pipeline"). So every job is answered, whatever it asks for,
//! and an invocation whose job was answered never fails: Lambda would repeat it.

use std::collections::BTreeMap;

use tracing::{error, info};

use crate::{
    error::{Error, Kind},
    event::{Job, Request},
    job_result::{Failure, JobResult},
    ports::Ports,
    report::{Answer, Outcome, Report, Results},
};

/// Answers a job with the result of its request.
///
/// A crash before the answer: Lambda's own retry, or the next job of the same action, resumes under the
/// same key. A crash after it: CodePipeline refuses a second answer, and the job counts as answered.
///
/// # Errors
/// Only if the job could not be answered and a retry may help. The retry does not carry out the request
/// twice.
pub(crate) async fn answer(
    ports: &Ports,
    job: &Job,
    answered: &Result<Answer, Error>,
) -> Result<Answer, Error> {
    let job_result = job_result(answered, job);
    info!(job = job.id, job_result = job_result.name(), "answer the job");
    match ports.pipeline.answer(&job.id, &job_result).await {
        Ok(()) => {}
        Err(unanswered) if matches!(unanswered.kind, Kind::Throttled | Kind::Unreachable) => {
            return Err(unanswered);
        }
        // Another attempt would be refused again.
        Err(unanswered) => error!(job = job.id, error = %unanswered, "the job hangs unanswered"),
    }
    Ok(Answer::Job(job_result))
}

/// Converts the result of a request to the verdict for its job.
fn job_result(answered: &Result<Answer, Error>, job: &Job) -> JobResult {
    let rotates = matches!(job.request(), Ok(Request::Rotate { .. }));
    match answered {
        Ok(Answer::One(report)) if rotates && report.outcome == Outcome::Dropped => {
            let message = format!("dropped: {}", report.warnings.join("; "));
            JobResult::Failed { failure: Failure::JobFailed, message }
        }
        // Nothing of the request was saved. CodePipeline asks again with the continuation.
        Err(Error { kind: Kind::Throttled, .. }) if rotates => goes_on(job),
        Ok(Answer::One(report)) => of_report(report, job),
        Ok(Answer::Preflight(inspections)) if inspections.outcome == Outcome::Refused => {
            let findings = inspections.results.iter().flat_map(|it| &it.findings);
            let messages: Vec<_> =
                findings.map(|it| format!("{}: {}; {}", it.object, it.reason, it.fix)).collect();
            JobResult::Failed { failure: Failure::ConfigurationError, message: messages.join("\n") }
        }
        Ok(Answer::Preflight(Results { outcome, .. })) => succeeded(*outcome, BTreeMap::new()),
        Ok(Answer::Sweep(Results { outcome, .. })) => succeeded(*outcome, BTreeMap::new()),
        Ok(Answer::Status(Results { outcome, .. })) => succeeded(*outcome, BTreeMap::new()),
        Ok(Answer::Job(job_result)) => job_result.clone(),
        Err(error) => {
            JobResult::Failed { failure: failure(error.kind), message: error.to_string() }
        }
    }
}

fn of_report(report: &Report, job: &Job) -> JobResult {
    match (report.outcome, &report.held) {
        (Outcome::InProgress | Outcome::Deferred, _) => goes_on(job),
        (Outcome::Held, held) => {
            let held = held.iter().map(|it| format!(": {}: {}; {}", it.object, it.reason, it.fix));
            let message = format!("held{}", held.collect::<String>());
            JobResult::Failed { failure: Failure::JobFailed, message }
        }
        (outcome, _) => succeeded(outcome, variables(report)),
    }
}

/// Verdict for a request that continues: the next job of the action brings the key of the first.
fn goes_on(job: &Job) -> JobResult {
    JobResult::GoesOn { continuation: job.key().to_owned() }
}

fn succeeded(outcome: Outcome, mut variables: BTreeMap<&'static str, String>) -> JobResult {
    variables.insert("outcome", outcome.as_str().to_owned());
    JobResult::Succeeded(variables)
}

fn failure(kind: Kind) -> Failure {
    match kind {
        Kind::BadEvent
        | Kind::UnknownToken
        | Kind::BadSpec
        | Kind::BadToken
        | Kind::PreflightFailed => Failure::ConfigurationError,
        Kind::AccessDenied => Failure::PermissionError,
        Kind::Throttled | Kind::Unreachable => Failure::SystemUnavailable,
        Kind::BadRecord | Kind::TooLarge | Kind::Internal => Failure::JobFailed,
    }
}

/// Output variables for later actions of the pipeline: selectors and numbers.
fn variables(report: &Report) -> BTreeMap<&'static str, String> {
    let version = report.version.map(|version| version.to_string());
    let rotation = report.rotation.as_ref().map(ToString::to_string);
    let selectors = (!report.selectors.is_empty()).then(|| report.selectors.join(" "));
    let optional = [("version", version), ("rotation", rotation), ("selectors", selectors)];
    let mut variables = BTreeMap::from([("token", report.token.to_string())]);
    variables.extend(optional.into_iter().filter_map(|(name, value)| Some((name, value?))));
    variables
}
