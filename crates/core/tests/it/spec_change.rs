//! Specs that change while a token is in service, or in the middle of a rotation.

use std::time::Duration;

use changeover_core::spec::Side;
use changeover_testkit::{
    scene::*,
    world::{Faults, MemoryWorld, place},
};
use serde_json::{Value, json};

#[tokio::test(start_paused = true)]
async fn publication_added_later_is_written_without_new_version() {
    let world = in_service(8, &items()).await;
    let mut spec = items();
    spec["presenters"]["publish"] = json!([item("presented"), {"ssm": "/added/token"}]);
    spec["verifiers"]["publish"] = json!([item("accepted"), {"ssm": "/added/accepted"}]);
    world.joins_with_its_first_view(&place("ssm:/added/accepted"));
    world.specify(&subject(), &spec);
    let ending = world.invoke("again", publish()).await;
    world.assert_outcome(&ending, "published");
    world.sweep_until_rest(&subject()).await;
    world.assert_settled_on(1);
    assert_eq!(world.minted(&subject()), 1);
    assert_eq!(world.rest(&subject()).places.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn verifier_added_midway_learns_version_before_presenters() {
    let added = "dynamodb:configuration/id=added";
    // In one case the added verifier is in service already, on the current accepted view. In the other it
    // waits for its first view.
    for is_in_service in [true, false] {
        for (kind, stops) in [("at the mint", None), ("at the verifiers", Some("datastore"))] {
            let world = in_service(18, &everything()).await;
            world.replayed_by(format!("in service {is_in_service}, stopped {kind}"));
            if let Some(broken) = stops {
                world.break_workload(&deployed(broken), "CrashLoopBackOff");
                world.assert_outcome(&world.invoke("a", rotate("a")).await, "held");
                world.fix_workload(&deployed(broken));
            } else {
                let ending = world.invoke("a", rotate_without_waiting("a")).await;
                world.assert_outcome(&ending, "in_progress");
            }
            let accepted = place("ssm:/backend/token/accepted");
            if is_in_service {
                world.copy_view(&accepted, &place(added), Side::Verifiers);
            } else {
                world.joins_with_its_first_view(&place(added));
            }
            let mut spec = everything();
            spec["verifiers"]["publish"] =
                json!([{"ssm": "/backend/token/accepted"}, item("accepted"), item("added")]);
            world.specify(&subject(), &spec);
            world.sweep_until_rest(&subject()).await;
            world.assert_settled_on(2);
            assert!(world.rest(&subject()).places.contains_key(&format!("verifiers {added}")));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn verifier_added_during_the_wait_learns_version_first() {
    let mut spec = items();
    spec["verifiers"]["within"] = json!("70s");
    let world = in_service(24, &spec).await;
    let time = Duration::from_secs(40);
    let run = world.run("a", rotate("a"), time, Faults::none()).await;
    world.assert_outcome(&run.ending, "in_progress");
    // The added verifier has been in service since before the rotation, on the view that is published
    // elsewhere.
    let added = place("dynamodb:configuration/id=added");
    let accepted = json!({"accepted": [entry_of_the_current(&world)]});
    world.edit(&added, Side::Verifiers, &accepted.to_string());
    spec["verifiers"]["publish"] = json!([item("accepted"), item("added")]);
    world.specify(&subject(), &spec);
    world.sweep_until_rest(&subject()).await;
    world.assert_settled_on(2);
}

#[tokio::test(start_paused = true)]
async fn verifier_added_during_migration_learns_version() {
    let world = in_service(19, &everything()).await;
    world.break_workload(&deployed("backend"), "CrashLoopBackOff");
    world.assert_outcome(&world.invoke("a", rotate("a")).await, "held");
    let mut spec = everything();
    spec["verifiers"]["publish"] =
        json!([{"ssm": "/backend/token/accepted"}, item("accepted"), item("added")]);
    world.joins_with_its_first_view(&place("dynamodb:configuration/id=added"));
    world.specify(&subject(), &spec);
    world.fix_workload(&deployed("backend"));
    world.sweep_until_rest(&subject()).await;
    world.assert_settled_on(2);
}

/// The entry of the accepted view for the current version.
fn entry_of_the_current(world: &MemoryWorld) -> Value {
    let document = world.value(&place("dynamodb:configuration/id=accepted"), Side::Verifiers);
    let document: Value = serde_json::from_str(&document).unwrap();
    let entries = document["accepted"].as_array().unwrap();
    entries.iter().find(|entry| entry["stage"] == "current").unwrap().clone()
}
