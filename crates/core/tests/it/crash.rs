//! Every rotation, cut or disturbed at every call: the invocation that resumes it reaches the same end.

use std::time::Duration;

use changeover_core::{error::Kind, event::Request};
use changeover_testkit::{
    amount,
    scene::*,
    world::{Ending, Fault, Faults, LONG, MemoryWorld, Rest},
};
use serde_json::{Value, json};

#[tokio::test(start_paused = true)]
async fn rotation_cut_at_any_call_reaches_same_end() {
    for (kind, spec) in kinds() {
        every_call(kind, &spec, &[Fault::CutBefore, Fault::CutAfter]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn rotation_cut_before_late_effect_reaches_same_end() {
    let [soon, late] = late();
    for (kind, spec) in few_kinds() {
        every_call(kind, &spec, &[Fault::CutLate(soon), Fault::CutLate(late)]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn rotation_with_failed_call_reaches_same_end() {
    for (kind, spec) in few_kinds() {
        every_call(kind, &spec, &[Fault::FailBefore, Fault::FailAfter]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn rotation_with_late_call_attempt_reaches_same_end() {
    let [soon, late] = late();
    let faults =
        [Fault::FailLate(soon), Fault::FailLate(late), Fault::Twice(soon), Fault::Twice(late)];
    for (kind, spec) in few_kinds() {
        every_call(kind, &spec, &faults).await;
    }
}

#[tokio::test(start_paused = true)]
async fn rotation_with_slow_call_reaches_same_end() {
    for (kind, spec) in few_kinds() {
        every_call(kind, &spec, &[Fault::Slow(Duration::from_secs(9))]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn rotation_with_all_calls_slow_settles() {
    let slow = Fault::Slow(Duration::from_secs(9));
    let all = Faults { calls: (1..=100).map(|call| (call, slow)).collect(), ..Faults::none() };
    for (kind, spec) in kinds() {
        for is_carried_on in [false, true] {
            let world = in_service(1, &spec).await;
            world.replayed_by(format!("kind {kind}, all calls slow, carried on {is_carried_on}"));
            if is_carried_on {
                // The resuming invocation must open the values that another one minted.
                let ending = world.invoke("a", rotate_without_waiting("a")).await;
                world.assert_outcome(&ending, "in_progress");
            }
            world.run("a", rotate("a"), LONG, all.clone()).await;
            world.sweep_until_rest(&subject()).await;
            world.assert_settled_on(2);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn token_settles_despite_late_write_of_cut_rotation() {
    let mixed = json!({
        "token": {"bytes": 32},
        "overlap": "5s",
        "verifiers": {"publish": [item("accepted")], "within": "1s"},
        "presenters": {"publish": [{"ssm": "/backend/token"}], "within": "1s"},
    });
    let calls = {
        let world = in_service(1, &mixed).await;
        world.run("a", rotate("a"), LONG, Faults::none()).await.calls
    };
    let late = Fault::CutLate(Duration::from_secs(4 * 60 + 40));
    for spec in [parameters(), mixed] {
        for call in amount::calls(1..=calls) {
            for is_respecified in [false, true] {
                let world = in_service(1, &spec).await;
                world.replayed_by(format!("{late:?} at call {call}, respecified {is_respecified}"));
                world.run("a", rotate("a"), LONG, Faults::at(call, late)).await;
                world.pass(Duration::from_secs(40)).await;
                if is_respecified {
                    let mut respecified = spec.clone();
                    respecified["overlap"] = json!("6s");
                    world.specify(&subject(), &respecified);
                }
                // First an invocation that has no time for a step, and then others that would change the
                // set.
                world.invoke("b", rotate_without_waiting("b")).await;
                world.invoke("drop", drop_pending()).await;
                for key in ["c", "d", "e"] {
                    world.invoke(key, rotate(key)).await;
                    world.pass(Duration::from_secs(20)).await;
                    world.invoke("sweep", Request::Sweep).await;
                }
                world.sweep_until_rest(&subject()).await;
                world.assert_settled();
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn panicked_rotation_hides_panic_text_and_is_resumed() {
    const WORDS: &str = "the words of a panic may hold a token";
    for (kind, spec) in few_kinds() {
        let calls = {
            let world = in_service(1, &spec).await;
            world.run("a", rotate("a"), LONG, Faults::none()).await.calls
        };
        for call in amount::calls(1..=calls) {
            let world = in_service(1, &spec).await;
            world.replayed_by(format!("kind {kind}, a panic at call {call}"));
            let faults = Faults::at(call, Fault::Panics(WORDS));
            let run = world.run("a", rotate("a"), LONG, faults).await;
            let Ending::Failed(error) = run.ending else {
                world.fail(&format!("it ended so: {:?}", run.ending));
            };
            assert_eq!(error.kind, Kind::Internal);
            assert!(!error.to_string().contains(WORDS), "{error}");
            world.sweep_until_rest(&subject()).await;
            world.invoke("a again", rotate("a")).await;
            world.sweep_until_rest(&subject()).await;
            world.assert_settled_on(2);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn first_publication_cut_at_any_call_settles() {
    for (kind, spec) in kinds() {
        let calls = {
            let world = MemoryWorld::new(1);
            world.specify(&subject(), &spec);
            world.run("first", publish(), LONG, Faults::none()).await.calls
        };
        for call in amount::calls(1..=calls) {
            for fault in [Fault::CutBefore, Fault::CutAfter, Fault::FailAfter] {
                let world = MemoryWorld::new(1);
                world.replayed_by(format!("kind {kind}, {fault:?} at call {call}"));
                world.specify(&subject(), &spec);
                world.run("first", publish(), LONG, Faults::at(call, fault)).await;
                world.sweep_until_rest(&subject()).await;
                world.invoke("again", publish()).await;
                world.sweep_until_rest(&subject()).await;
                world.pass(Duration::from_secs(60)).await;
                world.assert_settled_on(1);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn cut_overlap_end_reaches_same_end() {
    for (kind, spec) in kinds() {
        let (undisturbed, calls) = overlap_ended(kind, &spec, Faults::none()).await;
        for call in amount::calls(1..=calls) {
            for fault in [Fault::CutBefore, Fault::CutAfter, Fault::FailAfter] {
                let faults = Faults::at(call, fault);
                let (rest, _) = overlap_ended(kind, &spec, faults).await;
                assert_eq!(rest, undisturbed, "kind {kind}, {fault:?} at call {call}");
            }
        }
    }
}

/// Runs a rotation until its overlap is over, and then the sweep that ends it.
async fn overlap_ended(kind: &str, spec: &Value, faults: Faults) -> (Rest, usize) {
    let world = in_service(2, spec).await;
    world.replayed_by(format!("kind {kind}, {faults:?} in the sweep after the overlap"));
    world.assert_outcome(&world.invoke("a", rotate("a")).await, "rotated");
    // The overlap begins with a rollout of verifiers, if there are any.
    world.pass(Duration::from_secs(1)).await;
    world.invoke("roll", Request::Sweep).await;
    world.pass(Duration::from_secs(5 * 60)).await;
    let sweep = Request::Sweep;
    let calls = world.run("end", sweep, LONG, faults).await.calls;
    world.sweep_until_rest(&subject()).await;
    world.assert_settled_on(2);
    (world.rest(&subject()), calls)
}

/// Runs one undisturbed rotation, and then one for each fault at each call.
async fn every_call(kind: &str, spec: &Value, faults: &[Fault]) {
    let seed = 1;
    let (undisturbed, calls) = rotated(seed, spec, Faults::none(), kind).await;
    assert!(calls > 5, "{kind}: a rotation of {calls} calls");
    for call in amount::calls(1..=calls) {
        for fault in faults {
            let replay = format!("kind {kind}, seed {seed}, {fault:?} at call {call}");
            let faults = Faults::at(call, *fault);
            let (rest, _) = rotated(seed, spec, faults, &replay).await;
            assert_eq!(rest, undisturbed, "{replay}");
        }
    }
}

/// Runs one rotation under these faults. Its trigger is then retried, as by Lambda, and the sweep runs
/// until rest.
async fn rotated(seed: u64, spec: &Value, faults: Faults, replay: &str) -> (Rest, usize) {
    let world = in_service(seed, spec).await;
    world.replayed_by(replay);
    let run = world.run("a", rotate("a"), LONG, faults).await;
    for attempt in 0.. {
        world.sweep_until_rest(&subject()).await;
        let again = world.invoke("a again", rotate("a")).await;
        match again.outcome() {
            "unchanged" => break,
            "rotated" | "in_progress" | "deferred" if attempt < 3 => {}
            _ => world.fail(&format!("the trigger's retry ended so: {again:?}")),
        }
    }
    world.sweep_until_rest(&subject()).await;
    world.assert_settled_on(2);
    if world.minted(&subject()) != 2 {
        world.fail("more than one version was minted");
    }
    (world.rest(&subject()), run.calls)
}

/// Delays until a call whose reply was lost is applied: a short one, and nearly the longest possible.
fn late() -> [Duration; 2] {
    [Duration::from_secs(7), Duration::from_secs(4 * 60 + 40)]
}
