//! Every rotation, with another whole invocation between any two of its calls.

use changeover_core::event::Request;
use changeover_testkit::{
    amount,
    scene::*,
    world::{Fault, Faults, Intruder, LEASE, LONG, MemoryWorld, place},
};
use futures::future::join_all;
use serde_json::{Value, json};

#[tokio::test(start_paused = true)]
async fn sweep_between_calls_changes_nothing() {
    for (kind, spec) in few_kinds() {
        before_every_call(kind, &spec, || Request::Sweep, &[2]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn trigger_delivered_twice_mints_once() {
    for (kind, spec) in few_kinds() {
        before_every_call(kind, &spec, || rotate("a"), &[2]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn trigger_between_calls_joins_or_follows() {
    for (kind, spec) in few_kinds() {
        before_every_call(kind, &spec, || rotate("b"), &[2, 3]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn drop_between_calls_drops_or_is_refused() {
    for (kind, spec) in few_kinds() {
        // A dropped version is followed by that of the trigger's retry, or by none.
        before_every_call(kind, &spec, drop_pending, &[1, 2, 3]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn watcher_is_trusted_for_two_leases() {
    let mut watched = 0;
    for call in 1..40 {
        let world = in_service(1, &workloads()).await;
        world.replayed_by(format!("cut after call {call}"));
        world.run("a", rotate("a"), LONG, Faults::at(call, Fault::CutAfter)).await;
        let record = world.record(&subject()).expect("a record");
        let is_awaited = record.due_at().is_some_and(|due_at| due_at > world.now());
        if record.rotation().is_none() || record.lease().is_some() || !is_awaited {
            continue;
        }
        watched += 1;
        world.assert_outcome(&world.invoke("b", rotate("b")).await, "in_progress");
        world.pass(LEASE * 2).await;
        world.assert_outcome(&world.invoke("b", rotate("b")).await, "rotated");
        assert_eq!(world.minted(&subject()), 2);
    }
    assert!(watched > 4, "a rotation watched only {watched} times");
}

#[tokio::test(start_paused = true)]
async fn publish_between_calls_changes_nothing() {
    for (kind, spec) in few_kinds() {
        before_every_call(kind, &spec, publish, &[2]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn request_without_wait_survives_one_lost_race() {
    for (kind, spec) in few_kinds() {
        let calls = {
            let world = in_service(1, &spec).await;
            world.run("a", rotate_without_waiting("a"), LONG, Faults::none()).await.calls
        };
        for call in amount::calls(1..=calls) {
            let world = in_service(1, &spec).await;
            world.replayed_by(format!("kind {kind}, somebody just before call {call}"));
            let faults = Faults::intruded(call, Intruder::new("b", rotate_without_waiting("b")));
            let run = world.run("a", rotate_without_waiting("a"), LONG, faults).await;
            world.assert_outcome(&run.ending, "in_progress");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn concurrent_requests_mint_once_per_unjoined_rotation() {
    for (kind, spec) in few_kinds() {
        for keys in [1, 50] {
            let world = in_service(1, &spec).await;
            world.replayed_by(format!("kind {kind}, fifty at once with {keys} keys"));
            let runs = (0..50).map(|number| {
                let world = world.clone();
                let key = format!("key {}", number % keys);
                async move {
                    world.run(&format!("caller {number}"), rotate(&key), LONG, Faults::none()).await
                }
            });
            let outcomes: Vec<_> =
                join_all(runs).await.iter().map(|run| run.ending.outcome().to_owned()).collect();
            let expected = ["rotated", "in_progress", "unchanged", "Throttled"];
            if !outcomes.iter().all(|outcome| expected.contains(&outcome.as_str())) {
                world.fail(&format!("they ended so: {outcomes:?}"));
            }
            let rotated = outcomes.iter().filter(|outcome| *outcome == "rotated").count();
            // Version 1 existed before. An invocation that resumed another one's rotation returned
            // `rotated` too.
            if world.minted(&subject()) > 1 + rotated
                || (keys == 1 && world.minted(&subject()) != 2)
            {
                world.fail(&format!("{} versions for {outcomes:?}", world.minted(&subject())));
            }
            world.sweep_until_rest(&subject()).await;
            world.assert_settled();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn spec_changed_between_calls_is_not_forgotten() {
    let (added, changed) = with_a_verifier_added();
    let calls = {
        let world = in_service(1, &everything()).await;
        world.run("a", rotate("a"), LONG, Faults::none()).await.calls
    };
    for call in amount::calls(1..=calls) {
        let world = in_service(1, &everything()).await;
        world.replayed_by(format!("the spec changes just before call {call}"));
        world.joins_with_its_first_view(&place(added));
        // The added verifiers come into service before the new version is presented.
        let mut intruder = Intruder::new("intruder", rotate_without_waiting("b"));
        intruder.spec = Some(changed.clone());
        let published = Intruder::new("publisher", publish());
        let mut faults = Faults::intruded(call, intruder);
        faults.intruders.insert(call + 1, published);
        world.run("a", rotate("a"), LONG, faults).await;
        world.sweep_until_rest(&subject()).await;
        world.assert_settled();
        assert!(world.rest(&subject()).places.contains_key(&format!("verifiers {added}")));
    }
}

#[tokio::test(start_paused = true)]
async fn older_spec_than_the_records_is_never_followed() {
    let (added, changed) = with_a_verifier_added();
    // Another invocation publishes to the added verifier around the calls that read record and spec. From
    // then on the verifier is in service, and must receive the next version too.
    for call in 1..=4 {
        let world = in_service(1, &everything()).await;
        world.replayed_by(format!("the spec changes, and is published, just before call {call}"));
        world.joins_with_its_first_view(&place(added));
        let mut intruder = Intruder::new("intruder", publish());
        intruder.spec = Some(changed.clone());
        world.run("a", rotate("a"), LONG, Faults::intruded(call, intruder)).await;
        world.sweep_until_rest(&subject()).await;
        world.assert_settled();
        assert!(world.rest(&subject()).places.contains_key(&format!("verifiers {added}")));
    }
}

/// A place, and a spec that also publishes to it.
fn with_a_verifier_added() -> (&'static str, Value) {
    let mut changed = everything();
    changed["verifiers"]["publish"] =
        json!([{"ssm": "/backend/token/accepted"}, item("accepted"), item("added")]);
    ("dynamodb:configuration/id=added", changed)
}

/// Rotates with another invocation just before each call. All end on one of these versions.
async fn before_every_call(
    kind: &str,
    spec: &Value,
    request: impl Fn() -> Request,
    versions: &[u64],
) {
    let calls = {
        let world = in_service(1, spec).await;
        world.run("a", rotate("a"), LONG, Faults::none()).await.calls
    };
    for call in amount::calls(1..=calls) {
        let world = in_service(1, spec).await;
        let request = request();
        world.replayed_by(format!("kind {kind}, {request:?} just before call {call}"));
        let intruder = Intruder::new("intruder", request);
        let run = world.run("a", rotate("a"), LONG, Faults::intruded(call, intruder)).await;
        if matches!(&run.ending, changeover_testkit::world::Ending::Failed(_)) {
            world.fail(&format!("it ended so: {:?}", run.ending));
        }
        world.sweep_until_rest(&subject()).await;
        world.invoke("a again", rotate("a")).await;
        world.sweep_until_rest(&subject()).await;
        assert_settled_on_one_of(&world, versions);
    }
}

fn assert_settled_on_one_of(world: &MemoryWorld, versions: &[u64]) {
    let current = world.record(&subject()).and_then(|it| Some(it.presented()?.version.get()));
    match current {
        Some(current) if versions.contains(&current) => world.assert_settled_on(current),
        _ => world.fail(&format!("it came to rest on {current:?}")),
    }
    let minted = world.minted(&subject()) as u64;
    if minted > *versions.last().expect("a version") {
        world.fail(&format!("{minted} versions were minted"));
    }
}
