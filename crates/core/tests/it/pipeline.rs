//! Jobs of CodePipeline: their input, their results, and one mint per action.

use std::time::Duration;

use changeover_core::{
    event::{Event, Job},
    job_result::{Failure, JobResult},
};
use changeover_testkit::{
    scene::*,
    world::{Fault, Faults, LONG, MemoryWorld},
};
use serde_json::{Value, json};

const ROTATE: &str = r#"{"action": "rotate", "token": "datastore-token"}"#;

/// A job as CodePipeline sends it, reduced to the fields that it always has.
fn job(id: &str, parameters: Option<&str>, continuation: Option<&str>) -> Job {
    let mut job = json!({
        "id": id,
        "accountId": "123456789012",
        "data": {"actionConfiguration": {"configuration": {"FunctionName": "changeover-rotator"}}},
    });
    if let Some(parameters) = parameters {
        job["data"]["actionConfiguration"]["configuration"]["UserParameters"] = json!(parameters);
    }
    if let Some(continuation) = continuation {
        job["data"]["continuationToken"] = json!(continuation);
    }
    match Event::parse(&json!({"CodePipeline.job": job})) {
        Ok(Event::Job(job)) => job,
        other => panic!("{other:?}"),
    }
}

/// Runs a job and returns its verdict.
async fn reported(world: &MemoryWorld, job: Job) -> JobResult {
    let id = job.id.clone();
    world.start_job(&id);
    let ending = world.invoke("an invocation", Event::Job(job)).await;
    world.job_result(&id).unwrap_or_else(|| world.fail(&format!("the job hangs: {ending:?}")))
}

fn variable<'a>(job_result: &'a JobResult, name: &str) -> &'a str {
    match job_result {
        JobResult::Succeeded(variables) => variables.get(name).map_or("", String::as_str),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn finished_job_reports_version_and_selectors() {
    for (kind, spec) in kinds() {
        let world = in_service(1, &spec).await;
        let job_result = reported(&world, job("1", Some(ROTATE), None)).await;
        let version = ["outcome", "token", "version"].map(|name| variable(&job_result, name));
        assert_eq!(version, ["rotated", "datastore-token", "2"], "{kind}");
        let selectors = variable(&job_result, "selectors").split(' ').count();
        assert_eq!(Some(selectors), spec["presenters"]["publish"].as_array().map(Vec::len));
    }
}

#[tokio::test(start_paused = true)]
async fn continued_action_mints_once() {
    let world = in_service(1, &everything()).await;
    let impatient = r#"{"action": "rotate", "token": "datastore-token", "wait": "1s"}"#;
    let mut job_result = reported(&world, job("1", Some(impatient), None)).await;
    for number in 2..100 {
        let JobResult::GoesOn { continuation } = &job_result else { break };
        assert_eq!(continuation, "1");
        world.pass(Duration::from_secs(30)).await;
        let next = job(&number.to_string(), Some(impatient), Some(continuation));
        job_result = reported(&world, next).await;
    }
    assert_eq!(variable(&job_result, "version"), "2");
    world.sweep_until_rest(&subject()).await;
    world.assert_settled_on(2);
}

#[tokio::test(start_paused = true)]
async fn repeated_or_killed_job_mints_once() {
    let event = || Event::Job(job("1", Some(ROTATE), None));
    let calls = {
        let world = in_service(1, &parameters()).await;
        world.start_job("1");
        world.run("a", event(), LONG, Faults::none()).await.calls
    };
    for call in 1..=calls {
        for fault in [Fault::CutBefore, Fault::CutAfter, Fault::FailBefore] {
            let world = in_service(1, &parameters()).await;
            world.replayed_by(format!("{fault:?} at call {call}"));
            world.start_job("1");
            world.run("a", event(), LONG, Faults::at(call, fault)).await;
            // Lambda retries an invocation that died or failed.
            world.pass(Duration::from_secs(60)).await;
            let ending = world.run("a", event(), LONG, Faults::none()).await.ending;
            if world.job_result("1").is_none() {
                world.fail(&format!("the job hangs: {ending:?}"));
            }
            world.sweep_until_rest(&subject()).await;
            world.assert_settled_on(2);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn blocker_fails_the_action_by_name() {
    let unreadable = "{\"action\": \"rotate\", \"token\": ds_0123456789}";
    let table = [
        (None, Failure::ConfigurationError, "UserParameters"),
        (Some(unreadable), Failure::ConfigurationError, "not JSON, at line 1"),
        (Some("[]"), Failure::ConfigurationError, "an array"),
        (Some(r#"{"action": "rotat"}"#), Failure::ConfigurationError, "rotat"),
        (Some(r#"{"action": "rotate", "token": "nobody"}"#), Failure::ConfigurationError, "nobody"),
    ];
    for (parameters, kind, words) in table {
        let world = in_service(1, &everything()).await;
        match reported(&world, job("1", parameters, None)).await {
            JobResult::Failed { failure, message } => {
                assert_eq!(failure, kind, "{message}");
                assert!(message.contains(words), "{message}");
                assert!(!message.contains("ds_0123456789"), "{message}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn failed_rollout_is_resumed_by_the_next_execution() {
    let world = in_service(1, &everything()).await;
    world.break_workload(&deployed("backend"), "it crashes");
    let held = reported(&world, job("1", Some(ROTATE), None)).await;
    let JobResult::Failed { failure: Failure::JobFailed, message } = held else {
        panic!("{held:?}");
    };
    assert!(message.contains("backend") && message.contains("it crashes"), "{message}");

    world.fix_workload(&deployed("backend"));
    let retried = reported(&world, job("2", Some(ROTATE), None)).await;
    assert_eq!(variable(&retried, "version"), "2");
}

#[test]
fn job_without_id_is_no_event() {
    for event in [json!({"CodePipeline.job": {}}), json!({"CodePipeline.job": "1"})] {
        assert!(Event::parse(&event).is_err(), "{event}");
    }
}

#[test]
fn other_job_data_is_not_kept() {
    let whole: Value =
        serde_json::from_str(include_str!("../../../../events/codepipeline.json")).unwrap();
    let Ok(Event::Job(job)) = Event::parse(&whole) else { panic!("it is a job") };
    let kept = format!("{job:?}");
    let credentials = &whole["CodePipeline.job"]["data"]["artifactCredentials"];
    for secret in credentials.as_object().unwrap().values() {
        assert!(!kept.contains(secret.as_str().unwrap()), "{kept}");
    }
    assert_eq!(job.request().unwrap().action(), "rotate");
    assert_eq!(job.key(), job.id);
}
