//! Forgetting a token: its record ends, and nothing else.

use std::time::Duration;

use changeover_core::event::Request;
use changeover_testkit::{
    scene::*,
    world::{Ending, Fault, Faults, LONG, MemoryWorld, token},
};
use serde_json::json;

#[tokio::test(start_paused = true)]
async fn forgotten_token_keeps_its_audit_and_publications() {
    for (kind, spec) in kinds() {
        let world = rotated_once(&spec).await;
        world.replayed_by(kind);
        let (places, audit) = (world.rest(&subject()).places, world.audit(&subject(), 2));
        world.unspecify(&subject());
        let ending = world.invoke("forget", forget()).await;
        world.assert_outcome(&ending, "forgotten");
        assert_eq!(ending.answer()["version"], 2, "{kind}");
        assert!(ending.answer()["warnings"][0].as_str().unwrap().contains("is published stays"));
        assert!(world.record(&subject()).is_none());
        assert_eq!(world.rest(&subject()).places, places, "{kind}");
        assert!(audit.is_some() && world.audit(&subject(), 2) == audit, "{kind}");
        // No step is due any more, and no list contains the token.
        world.pass(Duration::from_secs(25 * 60 * 60)).await;
        for request in [Request::Sweep, Request::Status { token: None, after: None }] {
            let ending = world.invoke("all", request).await;
            assert_eq!(ending.answer()["results"], json!([]), "{kind}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn forgetting_twice_is_harmless() {
    let world = in_service(71, &items()).await;
    world.unspecify(&subject());
    world.assert_outcome(&world.invoke("forget", forget()).await, "forgotten");
    world.assert_outcome(&world.invoke("forget", forget()).await, "nothing_owed");
    let unknown = Request::Forget { token: token("unknown") };
    world.assert_outcome(&world.invoke("forget", unknown).await, "nothing_owed");
}

#[tokio::test(start_paused = true)]
async fn token_with_a_spec_is_not_forgotten() {
    let world = in_service(72, &items()).await;
    assert!(refused(&world).await.contains("delete the parameter of the spec first"));
    world.specify_badly(&subject(), "{}");
    refused(&world).await;
    world.assert_settled_on(1);
    // Follow the fix: delete the parameter of the spec.
    world.unspecify(&subject());
    world.assert_outcome(&world.invoke("forget", forget()).await, "forgotten");
}

#[tokio::test(start_paused = true)]
async fn unfinished_rotation_is_not_forgotten_before_its_fix() {
    // A version that cannot be presented yet is dropped. One that is presented completes its rotation.
    for is_presented in [false, true] {
        let world = in_service(73, &workloads()).await;
        if is_presented {
            world.break_workload(&deployed("backend"), "CrashLoopBackOff");
            world.assert_outcome(&world.invoke("a", rotate("a")).await, "held");
        } else {
            let ending = world.invoke("a", rotate_without_waiting("a")).await;
            world.assert_outcome(&ending, "in_progress");
        }
        world.unspecify(&subject());
        let fix = refused(&world).await;
        for step in ["create the parameter of the spec again", "`drop`", "delete the parameter"] {
            assert!(fix.contains(step), "{fix}");
        }
        world.specify(&subject(), &workloads());
        let dropped = if is_presented { "PreflightFailed" } else { "dropped" };
        world.assert_outcome(&world.invoke("drop", drop_pending()).await, dropped);
        world.fix_workload(&deployed("backend"));
        world.sweep_until_rest(&subject()).await;
        world.unspecify(&subject());
        world.assert_outcome(&world.invoke("forget", forget()).await, "forgotten");
    }
}

#[tokio::test(start_paused = true)]
async fn forgetting_waits_for_writes_that_may_land() {
    let late = Duration::from_secs(4 * 60 + 40);
    let spec = parameters();
    let calls = {
        let world = overlap_over(&spec).await;
        world.run("end", Request::Sweep, LONG, Faults::none()).await.calls
    };
    let mut deferred = 0;
    for call in 1..=calls {
        let world = overlap_over(&spec).await;
        world.replayed_by(format!("cut at call {call} of the sweep that ends a version"));
        world.run("end", Request::Sweep, LONG, Faults::at(call, Fault::CutLate(late))).await;
        world.unspecify(&subject());
        for minute in 0.. {
            assert!(minute < 20, "it is never forgotten");
            let ending = world.invoke("forget", forget()).await;
            match ending.outcome() {
                "deferred" => {
                    assert!(ending.answer()["not_before"].is_string());
                    deferred += 1;
                }
                outcome => {
                    assert_eq!(outcome, "forgotten");
                    break;
                }
            }
            world.pass(Duration::from_secs(60)).await;
        }
        world.pass(2 * late).await;
    }
    assert!(deferred > 5, "{deferred} were deferred");
}

#[tokio::test(start_paused = true)]
async fn cut_forget_is_completed_by_retry() {
    let calls = {
        let world = in_service(74, &parameters()).await;
        world.unspecify(&subject());
        world.run("forget", forget(), LONG, Faults::none()).await.calls
    };
    for call in 1..=calls {
        for fault in [
            Fault::CutBefore,
            Fault::CutAfter,
            Fault::CutLate(Duration::from_secs(7)),
            Fault::FailBefore,
            Fault::FailAfter,
            Fault::Twice(Duration::from_secs(7)),
        ] {
            let world = in_service(74, &parameters()).await;
            world.replayed_by(format!("{fault:?} at call {call}"));
            world.unspecify(&subject());
            world.run("forget", forget(), LONG, Faults::at(call, fault)).await;
            let again = world.invoke("forget again", forget()).await;
            assert!(["forgotten", "nothing_owed"].contains(&again.outcome()), "{again:?}");
            world.pass(Duration::from_secs(10)).await;
            assert!(world.record(&subject()).is_none());
            assert!(world.audit(&subject(), 1).is_some());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn reused_name_gets_new_version_numbers() {
    let world = rotated_once(&items()).await;
    world.unspecify(&subject());
    let audits = [1, 2].map(|version| world.audit(&subject(), version));
    world.assert_outcome(&world.invoke("forget", forget()).await, "forgotten");
    world.specify(&subject(), &items());
    world.assert_outcome(&world.invoke("publish", publish()).await, "published");
    world.sweep_until_rest(&subject()).await;
    assert_eq!(world.rest(&subject()).versions, ["3 Current"]);
    let ending = world.invoke("b", rotate("b")).await;
    world.assert_outcome(&ending, "rotated");
    assert_eq!(ending.answer()["version"], 4);
    assert_eq!([1, 2].map(|version| world.audit(&subject(), version)), audits);
    // A key of the former record does not rotate again.
    let ending = world.invoke("a again", rotate("a")).await;
    world.assert_outcome(&ending, "unchanged");
    assert_eq!(ending.answer()["version"], 2);
}

#[tokio::test(start_paused = true)]
async fn key_outlives_the_record_that_it_began() {
    let world = rotated_once(&items()).await;
    world.unspecify(&subject());
    world.assert_outcome(&world.invoke("forget", forget()).await, "forgotten");
    world.specify(&subject(), &items());
    world.assert_outcome(&world.invoke("a", rotate("a")).await, "unchanged");
    assert!(world.record(&subject()).is_none());
}

/// A request to forget the token.
fn forget() -> Request {
    Request::Forget { token: subject() }
}

/// Asserts that the request is refused, and returns the fix.
async fn refused(world: &MemoryWorld) -> String {
    match world.invoke("forget", forget()).await {
        Ending::Failed(error) if error.kind.as_str() == "PreflightFailed" => error.fix,
        ending => world.fail(&format!("it is not refused: {ending:?}")),
    }
}

/// A world in which version 2 is in service and version 1 has ended.
async fn rotated_once(spec: &serde_json::Value) -> MemoryWorld {
    let world = in_service(70, spec).await;
    world.assert_outcome(&world.invoke("a", rotate("a")).await, "rotated");
    world.sweep_until_rest(&subject()).await;
    world
}

/// A world in which the overlap of a rotation is over.
async fn overlap_over(spec: &serde_json::Value) -> MemoryWorld {
    let world = in_service(75, spec).await;
    world.assert_outcome(&world.invoke("a", rotate("a")).await, "rotated");
    world.pass(Duration::from_secs(5 * 60)).await;
    world
}
