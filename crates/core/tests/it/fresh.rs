//! Rotations that must begin after their request.

use std::time::Duration;

use changeover_core::event::Request;
use changeover_testkit::{
    amount,
    scene::*,
    world::{Fault, Faults, LONG},
};
use serde_json::json;

#[tokio::test(start_paused = true)]
async fn fresh_version_follows_version_in_progress() {
    for (kind, spec) in kinds() {
        let world = in_service(40, &spec).await;
        world.replayed_by(kind);
        world.assert_outcome(&world.invoke("a", rotate_without_waiting("a")).await, "in_progress");
        let ending = world.invoke("b", rotate_fresh("b")).await;
        world.assert_outcome(&ending, "rotated");
        assert_eq!(ending.answer()["version"], 3, "{kind}");
        for (key, version) in [("a", 2), ("b", 3)] {
            let ending = world.invoke(key, rotate_fresh(key)).await;
            world.assert_outcome(&ending, "unchanged");
            assert_eq!(ending.answer()["version"], version, "{kind}");
        }
        world.sweep_until_rest(&subject()).await;
        world.assert_settled_on(3);
    }
}

#[tokio::test(start_paused = true)]
async fn fresh_version_at_rest_is_minted_at_once() {
    let world = in_service(41, &items()).await;
    let ending = world.invoke("a", rotate_fresh("a")).await;
    world.assert_outcome(&ending, "rotated");
    assert_eq!(ending.answer()["version"], 2);
}

#[tokio::test(start_paused = true)]
async fn queued_fresh_version_is_minted_by_sweep() {
    for (kind, spec) in few_kinds() {
        let world = in_service(42, &spec).await;
        world.replayed_by(kind);
        world.invoke("a", rotate_without_waiting("a")).await;
        let asked = Request::Rotate {
            token: subject(),
            key: Some("b".to_owned()),
            wait: Some(Duration::ZERO),
            without: [].into(),
            fresh: true,
        };
        let ending = world.invoke("b", asked).await;
        world.assert_outcome(&ending, "in_progress");
        let status =
            world.invoke("status", Request::Status { token: Some(subject()), after: None }).await;
        assert!(
            status.answer()["results"][0]["queued"]["rotation"].is_string(),
            "{kind}: {status:?}"
        );
        world.sweep_until_rest(&subject()).await;
        world.assert_settled_on(3);
        let ending = world.invoke("b", rotate_fresh("b")).await;
        world.assert_outcome(&ending, "unchanged");
        assert_eq!(ending.answer()["version"], 3, "{kind}");
    }
}

#[tokio::test(start_paused = true)]
async fn fresh_requests_during_rotation_share_one_version() {
    let world = in_service(43, &everything()).await;
    world.invoke("a", rotate_without_waiting("a")).await;
    for key in ["b", "c", "d"] {
        let Request::Rotate { token, key, without, fresh, .. } = rotate_fresh(key) else {
            continue;
        };
        let wait = Some(Duration::ZERO);
        world.invoke("fresh", Request::Rotate { token, key, wait, without, fresh }).await;
    }
    world.sweep_until_rest(&subject()).await;
    world.assert_settled_on(3);
    for key in ["b", "c", "d"] {
        let ending = world.invoke(key, rotate(key)).await;
        world.assert_outcome(&ending, "unchanged");
        assert_eq!(ending.answer()["version"], 3, "{key}");
    }
}

#[tokio::test(start_paused = true)]
async fn fresh_version_follows_concurrently_running_rotation() {
    for seed in amount::few_seeds(8) {
        let world = in_service(seed, &workloads()).await;
        world.replayed_by(format!("seed {seed}"));
        let first = world.invoke("a", rotate("a"));
        let fresh = async {
            // The request arrives in the middle of the first rotation, at any point of it.
            tokio::time::sleep(Duration::from_millis(300 + 900 * seed)).await;
            world.invoke("b", rotate_fresh("b")).await
        };
        tokio::join!(first, fresh);
        world.sweep_until_rest(&subject()).await;
        for (key, version) in [("a", json!(2)), ("b", json!(3))] {
            let ending = world.invoke(key, rotate(key)).await;
            world.assert_outcome(&ending, "unchanged");
            assert_eq!(ending.answer()["version"], version, "{seed}");
        }
        world.assert_settled_on(3);
    }
}

#[tokio::test(start_paused = true)]
async fn cut_fresh_request_mints_one_version() {
    for fault in [Fault::CutBefore, Fault::CutAfter, Fault::FailAfter] {
        for call in amount::calls(1..) {
            let world = in_service(44, &parameters()).await;
            world.replayed_by(format!("{fault:?} at {call}"));
            world.invoke("a", rotate_without_waiting("a")).await;
            let run = world.run("b", rotate_fresh("b"), LONG, Faults::at(call, fault)).await;
            world.sweep_until_rest(&subject()).await;
            // The invocation that was cut is retried.
            world.pass(Duration::from_secs(10 * 60)).await;
            let again = world.invoke("b", rotate_fresh("b")).await;
            assert!(matches!(again.outcome(), "rotated" | "unchanged"), "{again:?}");
            assert_eq!(again.answer()["version"], 3, "{fault:?} at {call}");
            world.sweep_until_rest(&subject()).await;
            world.assert_settled_on(3);
            assert_eq!(world.minted(&subject()), 3);
            if run.calls < call {
                break;
            }
        }
    }
}
