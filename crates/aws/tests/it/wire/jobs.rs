//! Results of CodePipeline jobs.

use std::collections::BTreeMap;

use changeover_aws::CodePipelineJobs;
use changeover_core::{
    error::Kind,
    job_result::{Failure, JobResult},
    ports::Pipeline,
};

use changeover_testkit_aws::{Answer, Wire, ok, refused};
use serde_json::json;

fn rotated() -> JobResult {
    JobResult::Succeeded(BTreeMap::from([("version", "7".to_owned())]))
}

#[tokio::test(start_paused = true)]
async fn job_result_maps_to_its_codepipeline_call() {
    let goes_on = JobResult::GoesOn { continuation: "1".to_owned() };
    let message = "x".repeat(6_000);
    let failed = JobResult::Failed { failure: Failure::PermissionError, message: message.clone() };
    let table = [
        (
            rotated(),
            "PutJobSuccessResult",
            json!({"jobId": "j", "outputVariables": {"version": "7"}}),
        ),
        (goes_on, "PutJobSuccessResult", json!({"jobId": "j", "continuationToken": "1"})),
        (
            failed,
            "PutJobFailureResult",
            json!({
                "jobId": "j",
                "failureDetails": {"type": "PermissionError", "message": &message[..5_000]},
            }),
        ),
    ];
    for (job_result, operation, body) in table {
        let wire = Wire::script([ok(json!({}))]);
        CodePipelineJobs::new(wire.aws()).answer("j", &job_result).await.expect("an answer");
        let call = wire.only_call();
        assert_eq!((call.operation.as_str(), call.body), (operation, body));
    }
}

#[tokio::test(start_paused = true)]
async fn closed_or_missing_job_counts_as_answered() {
    for code in ["InvalidJobStateException", "JobNotFoundException"] {
        let wire = Wire::script([Answer::Lost, refused(code)]);
        let answered = CodePipelineJobs::new(wire.aws()).answer("j", &rotated()).await;
        assert_eq!(answered, Ok(()), "{code}");
    }
}

#[tokio::test(start_paused = true)]
async fn missing_permission_is_named_and_not_retried() {
    let wire = Wire::script([refused("AccessDeniedException")]);
    let error = CodePipelineJobs::new(wire.aws()).answer("j", &rotated()).await.unwrap_err();
    assert_eq!(error.kind, Kind::AccessDenied);
    assert!(error.fix.contains("codepipeline:PutJobSuccessResult"), "{error}");
    assert_eq!(wire.calls().len(), 1);
}
