//! Metrics in the format that CloudWatch receives.

use std::{collections::BTreeSet, time::Duration};

use changeover_core::{
    error::Kind,
    event::{Invocation, Request},
    invoke,
    metrics::Metric,
};
use changeover_testkit::{
    measured::{metrics_in, parsed, worlds},
    scene::*,
    schema::Schema,
    world::{Faults, LONG, MemoryWorld, settings},
};
use serde_json::{Value, json};

#[tokio::test(start_paused = true)]
async fn metric_lines_follow_embedded_format_without_secrets() {
    let format = Schema::of(&embedded_metric_format());
    let mut emitted = BTreeSet::new();
    for world in worlds().await {
        let secrets = world.secrets(&subject());
        for line in world.measured() {
            let strays = secrets.iter().filter(|secret| line.contains(*secret)).count();
            assert_eq!(strays, 0, "a line tells a value or its digest");
            let line: Value = serde_json::from_str(&line).unwrap();
            format.assert_valid(&line);
            let mut damaged = line.clone();
            damaged["_aws"].as_object_mut().unwrap().remove("Timestamp");
            assert!(!format.takes(&damaged), "the schema takes anything");
            for directive in line["_aws"]["CloudWatchMetrics"].as_array().unwrap() {
                let name = directive["Metrics"][0]["Name"].as_str().unwrap();
                let metric = Metric::ALL.into_iter().find(|metric| metric.name() == name).unwrap();
                assert_eq!(directive["Namespace"], "changeover");
                assert_eq!(directive["Metrics"], json!([{"Name": name, "Unit": metric.unit()}]));
                // Every member that the directive names is on the line, with the required type.
                assert!(line[name].is_u64(), "{name} is no number: {line}");
                for dimension in directive["Dimensions"].as_array().unwrap() {
                    for key in dimension.as_array().unwrap() {
                        let value = line[key.as_str().unwrap()].as_str().unwrap();
                        assert!((1..=1024).contains(&value.len()), "{key}: {line}");
                    }
                }
                emitted.insert(name.to_owned());
            }
            let at = line["_aws"]["Timestamp"].as_i64().unwrap();
            let age = world.now().as_millisecond() - at;
            assert!((0..14 * 24 * 60 * 60 * 1000).contains(&age), "{line}");
        }
    }
    let known: BTreeSet<_> = Metric::ALL.iter().map(|metric| metric.name().to_owned()).collect();
    assert_eq!(emitted, known, "what is emitted, and what there is");
}

#[tokio::test(start_paused = true)]
async fn two_functions_share_no_metric() {
    for world in worlds().await {
        let [one, other] = ["changeover-rotator", "staging-rotator"]
            .map(|function| metrics_in(&world.measured_by(function)));
        assert!(!one.is_empty() && one.len() == other.len());
        let shared: Vec<_> = one.intersection(&other).collect();
        assert!(shared.is_empty(), "{shared:#?}");
    }
}

/// The rules of the specification as a schema: every object's required members, every bound.
/// <https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html>
fn embedded_metric_format() -> Value {
    let name = json!({"type": "string", "minLength": 1, "maxLength": 250});
    json!({
        "type": "object",
        "required": ["_aws"],
        "properties": {"_aws": {
            "type": "object",
            "required": ["Timestamp", "CloudWatchMetrics"],
            "additionalProperties": false,
            "properties": {
                "Timestamp": {"type": "integer"},
                "CloudWatchMetrics": {"type": "array", "minItems": 1, "items": {
                    "type": "object",
                    "required": ["Namespace", "Dimensions", "Metrics"],
                    "additionalProperties": false,
                    "properties": {
                        "Namespace": {"type": "string", "minLength": 1, "maxLength": 255},
                        "Dimensions": {"type": "array", "minItems": 1, "items": {
                            "type": "array", "maxItems": 30, "uniqueItems": true, "items": name,
                        }},
                        "Metrics": {"type": "array", "minItems": 1, "maxItems": 100, "items": {
                            "type": "object",
                            "required": ["Name", "Unit"],
                            "additionalProperties": false,
                            "properties": {
                                "Name": name,
                                "Unit": {"enum": ["Count", "Milliseconds", "Seconds"]},
                            },
                        }},
                    },
                }},
            },
        }},
        // Further members can be searched for, which is impossible for nested ones.
        "additionalProperties": {"type": ["string", "integer"]},
    })
}

#[tokio::test(start_paused = true)]
async fn invocation_outcome_is_counted_with_its_calls() {
    let world = in_service(32, &items()).await;
    let cases: [(Request, &str); 4] = [
        (rotate("a"), "rotated"),
        (rotate("a"), "unchanged"),
        (Request::Sweep, "swept"),
        (Request::Preflight { token: subject() }, "passed"),
    ];
    for (request, outcome) in cases {
        let before = world.measured().len();
        let action = request.action();
        let run = world.run("x", request, LONG, Faults::none()).await;
        world.assert_outcome(&run.ending, outcome);
        let lines = parsed(&world.measured()[before..]);
        let [line] = lines.iter().filter(|it| it["action"] == action).collect::<Vec<_>>()[..]
        else {
            panic!("one line about the invocation: {lines:#?}");
        };
        assert_eq!((&line["Outcomes"], &line["Outcome"]), (&json!(1), &json!(outcome)));
        assert_eq!(line["AwsCalls"], run.calls, "{line}");
    }
}

#[tokio::test(start_paused = true)]
async fn failure_is_counted_with_its_error_type() {
    let world = in_service(33, &workloads()).await;
    world.pause_workload(&deployed("backend"), true);
    world.assert_outcome(&world.invoke("a", rotate("a")).await, "PreflightFailed");
    let lines = parsed(&world.measured());
    let failed: Vec<_> = lines.iter().filter(|line| line["Outcome"] == "failed").collect();
    assert_eq!(failed.len(), 1, "{lines:#?}");
    assert_eq!(
        (&failed[0]["Errors"], &failed[0]["ErrorType"]),
        (&json!(1), &json!("PreflightFailed"))
    );

    // An unreadable request is an error as well.
    let payload = json!({"action": "revolve", "token": "datastore-token"});
    let invocation = Invocation {
        id: "b".to_owned(),
        deadline: world.now() + LONG,
        function: "rotator".to_owned(),
    };
    let answered = invoke::answer(&world.ports(), &settings(), &payload, &invocation).await;
    assert_eq!(answered.unwrap_err().kind, Kind::BadEvent);
    let last = parsed(&world.measured()).pop().unwrap();
    assert_eq!((&last["Errors"], &last["ErrorType"]), (&json!(1), &json!("BadEvent")));
}

#[tokio::test(start_paused = true)]
async fn sweep_is_counted_with_nothing_due() {
    let world = in_service(34, &items()).await;
    let before = world.measured().len();
    world.assert_outcome(&world.invoke("sweep", Request::Sweep).await, "swept");
    let lines = parsed(&world.measured()[before..]);
    let sweep = lines.iter().find(|line| !line["Sweeps"].is_null()).expect("a sweep");
    assert_eq!((&sweep["Sweeps"], &sweep["DueTokens"]), (&json!(1), &json!(0)));
}

#[tokio::test(start_paused = true)]
async fn step_leg_and_rotation_durations_match_timeline() {
    for (kind, spec) in kinds() {
        let world = in_service(35, &spec).await;
        world.replayed_by(kind);
        let before = world.measured().len();
        let ending = world.invoke("a", rotate("a")).await;
        world.assert_outcome(&ending, "rotated");
        let lines = parsed(&world.measured()[before..]);
        let timeline = ending.answer()["timeline"].as_array().unwrap();
        let steps: Vec<_> = lines.iter().filter(|it| !it["StepDuration"].is_null()).collect();
        assert_eq!(steps.len(), timeline.len(), "{kind}: {lines:#?}");
        let mut legs = 0;
        let mut leg_took = 0;
        for (line, entry) in steps.iter().zip(timeline) {
            assert_eq!((&line["Leg"], &line["Step"]), (&entry["leg"], &entry["step"]), "{kind}");
            assert_eq!(line["StepDuration"], entry["took_ms"], "{kind}");
            leg_took += entry["took_ms"].as_u64().unwrap();
            if let Some(took) = line["LegDuration"].as_u64() {
                // No time passes between the steps of a leg.
                assert_eq!(took, leg_took, "{kind}: {line}");
                legs += 1;
                leg_took = 0;
            }
        }
        assert_eq!(legs, 2, "{kind}: expand and migrate");
        let rotations: Vec<_> =
            lines.iter().filter_map(|line| line["RotationDuration"].as_u64()).collect();
        let [took] = rotations[..] else { panic!("{kind}: one rotation: {rotations:?}") };
        let legs: u64 = lines.iter().filter_map(|line| line["LegDuration"].as_u64()).sum();
        assert!((legs..legs + 60_000).contains(&took), "{kind}: {took} for legs of {legs}");
    }
}

#[tokio::test(start_paused = true)]
async fn held_rotation_becomes_more_overdue_until_completion() {
    let world = in_service(36, &workloads()).await;
    world.break_workload(&deployed("backend"), "CrashLoopBackOff");
    world.assert_outcome(&world.invoke("a", rotate("a")).await, "held");
    let began = overdue(&world);
    let mut last = began;
    for _ in 0..6 {
        world.pass(Duration::from_secs(60 * 60)).await;
        world.invoke("sweep", Request::Sweep).await;
        let now = overdue(&world);
        assert!(now >= last + 60 * 60, "{now} seconds, and {last} an hour ago");
        last = now;
    }
    world.fix_workload(&deployed("backend"));
    world.sweep_until_rest(&subject()).await;
    assert_eq!(overdue(&world), 0);
}

#[tokio::test(start_paused = true)]
async fn wait_for_version_end_is_not_overdue() {
    let mut spec = items();
    spec["overlap"] = json!("36h");
    let world = in_service(37, &spec).await;
    world.assert_outcome(&world.invoke("a", rotate("a")).await, "rotated");
    // The daily drift detection measures in the middle of the wait.
    world.pass(Duration::from_secs(25 * 60 * 60)).await;
    let measured = world.measured().len();
    world.invoke("sweep", Request::Sweep).await;
    assert!(world.measured().len() > measured);
    assert_eq!(overdue(&world), 0);
}

#[tokio::test(start_paused = true)]
async fn current_version_age_is_measured_daily() {
    let world = in_service(38, &items()).await;
    for day in 1..4 {
        world.pass(Duration::from_secs(24 * 60 * 60)).await;
        world.invoke("sweep", Request::Sweep).await;
        let age = last(&world, "CurrentAge");
        assert!((day * 86_400..(day + 1) * 86_400).contains(&age), "day {day}: {age} seconds");
    }
    world.assert_outcome(&world.invoke("a", rotate("a")).await, "rotated");
    assert!(last(&world, "CurrentAge") < 600);
}

fn overdue(world: &MemoryWorld) -> u64 {
    last(world, "Overdue")
}

/// Last written value of a metric.
fn last(world: &MemoryWorld, metric: &str) -> u64 {
    let lines = parsed(&world.measured());
    lines.iter().rev().find_map(|line| line[metric].as_u64()).expect("it was measured")
}
