//! Identity behind a name: parameters, specs and clusters that are deleted, created again or described anew
//! under the same name, and places that two specs claim.

use std::time::Duration;

use changeover_core::{
    event::Request,
    record::{Leg, Record, Step},
    spec::Side,
};
use changeover_testkit::{
    amount,
    scene::*,
    world::{Ending, Fault, Faults, LONG, MemoryWorld, place, token},
};
use changeover_token::TokenName;
use serde_json::{Value, json};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const MINUTE: Duration = Duration::from_secs(60);
const PRESENTED: &str = "ssm:/backend/token";
const ACCEPTED: &str = "ssm:/backend/token/accepted";

/// A world in which versions 2 and 3 were in service, so that the parameters have higher version numbers.
async fn rotated_twice(spec: &Value) -> MemoryWorld {
    let world = in_service(110, spec).await;
    for key in ["first", "second"] {
        world.assert_outcome(&world.invoke(key, rotate(key)).await, "rotated");
        world.sweep_until_rest(&subject()).await;
    }
    world
}

#[tokio::test(start_paused = true)]
async fn labels_of_a_parameter_that_was_created_again() {
    let calls = {
        let world = rotated_twice(&parameters()).await;
        world.run("a", rotate("a"), LONG, Faults::none()).await.calls
    };
    for call in amount::calls(1..=calls) {
        let world = rotated_twice(&parameters()).await;
        world.replayed_by(format!("deleted after call {call}"));
        world.run("a", rotate("a"), LONG, Faults::at(call, Fault::CutAfter)).await;
        world.delete_parameter(&place(PRESENTED));
        world.sweep_until_rest(&subject()).await;
        // If the rotation was complete before the deletion, the daily drift detection finds the parameter
        // missing.
        world.pass(DAY).await;
        world.sweep_until_rest(&subject()).await;
        world.assert_settled();
        let before = world.record(&subject()).and_then(|it| Some(it.presented()?.version.get()));
        let before = before.expect("a current version");
        // The recorded number of the previous version belongs to the deleted parameter, or to the new one.
        let ending = world.invoke("b", rotate("b")).await;
        world.assert_outcome(&ending, "rotated");
        let labels = world.rest(&subject()).labels;
        assert_eq!(labels[&format!("{PRESENTED}:current")], (before + 1).to_string());
        assert_eq!(labels[&format!("{PRESENTED}:previous")], before.to_string());
        world.sweep_until_rest(&subject()).await;
        world.assert_settled_on(before + 1);
    }
}

#[tokio::test(start_paused = true)]
async fn label_previous_is_never_on_the_current_token() {
    let mut spec = parameters();
    spec["overlap"] = json!("10m");
    let world = rotated_twice(&spec).await;
    world.delete_parameter(&place(PRESENTED));
    world.assert_outcome(&world.invoke("a", rotate("a")).await, "rotated");
    // The version numbers of the new parameter pass those of the deleted one.
    for _ in 0..4 {
        let value = world.value(&place(PRESENTED), Side::Presenters);
        world.edit(&place(PRESENTED), Side::Presenters, &value);
        world.assert_outcome(&world.invoke("publish", publish()).await, "published");
        let labels = world.rest(&subject()).labels;
        assert_eq!(labels[&format!("{PRESENTED}:current")], "4");
        assert_ne!(labels.get(&format!("{PRESENTED}:previous")).map(String::as_str), Some("4"));
    }
}

#[tokio::test(start_paused = true)]
async fn label_of_evicted_version_blocks_no_rotation() {
    let world = rotated_twice(&parameters()).await;
    // Writes of others push out the version that holds the current token. The last write holds its value
    // again.
    let value = world.value(&place(PRESENTED), Side::Presenters);
    world.delete_parameter(&place(PRESENTED));
    for _ in 0..110 {
        world.edit(&place(PRESENTED), Side::Presenters, &value);
    }
    let ending = world.invoke("a", rotate("a")).await;
    world.assert_outcome(&ending, "rotated");
    world.sweep_until_rest(&subject()).await;
    world.assert_settled_on(4);
}

/// True if the rotation to version 2 returned to the start of expand after it had reached migrate.
fn went_back(world: &MemoryWorld) -> bool {
    let saved = world.saved(&subject()).into_iter();
    let saved = saved.filter(|record| record.rotation().is_some_and(|it| it.version.get() == 2));
    let owed = saved.filter_map(|record| record.owed());
    let mut at_migrate = owed.skip_while(|owed| owed.leg != Leg::Migrate);
    at_migrate.any(|owed| (owed.leg, owed.step) == (Leg::Expand, Step::Publish))
}

#[tokio::test(start_paused = true)]
async fn spec_that_was_created_again_is_another() {
    let mut spec = everything();
    spec["verifiers"]["publish"] = json!([{"ssm": "/backend/token/accepted"}, item("accepted")]);
    let mut changed = spec.clone();
    changed["verifiers"]["publish"].as_array_mut().unwrap().push(item("added"));
    let world = in_service(111, &spec).await;
    assert_eq!(world.record(&subject()).unwrap().spec_version(), 1);
    world.break_workload(&deployed("backend"), "CrashLoopBackOff");
    world.assert_outcome(&world.invoke("a", rotate("a")).await, "held");
    world.unspecify(&subject());
    world.specify(&subject(), &changed);
    world.joins_with_its_first_view(&place("dynamodb:configuration/id=added"));
    world.fix_workload(&deployed("backend"));
    world.sweep_until_rest(&subject()).await;
    world.assert_settled_on(2);
    assert!(
        world.rest(&subject()).places.contains_key("verifiers dynamodb:configuration/id=added")
    );
    assert!(went_back(&world), "the verifier that was added learns the version first");
}

#[tokio::test(start_paused = true)]
async fn identical_spec_text_does_not_restart_rotation() {
    let world = in_service(112, &everything()).await;
    world.break_workload(&deployed("backend"), "CrashLoopBackOff");
    world.assert_outcome(&world.invoke("a", rotate("a")).await, "held");
    for _ in 0..3 {
        world.specify(&subject(), &everything());
    }
    world.fix_workload(&deployed("backend"));
    world.sweep_until_rest(&subject()).await;
    world.assert_settled_on(2);
    assert!(!went_back(&world));
}

#[tokio::test(start_paused = true)]
async fn stale_spec_read_does_not_revert_spec() {
    for reads in [1, 2, 40] {
        let world = in_service(113, &everything()).await;
        world.replayed_by(format!("{reads} stale reads"));
        let earlier = world.spec_text(&subject());
        let mut changed = everything();
        changed["verifiers"]["publish"].as_array_mut().unwrap().push(item("added"));
        world.joins_with_its_first_view(&place("dynamodb:configuration/id=added"));
        world.pass(MINUTE).await;
        world.specify(&subject(), &changed);
        world.assert_outcome(&world.invoke("publish", publish()).await, "published");
        world.serve_stale(&subject(), earlier.clone(), reads);
        let ending = world.invoke("a", rotate("a")).await;
        world.assert_outcome(&ending, if reads < 3 { "rotated" } else { "Throttled" });
        world.serve_stale(&subject(), earlier, 0);
        assert_eq!(world.record(&subject()).unwrap().spec_version(), 2);
        world.assert_outcome(&world.invoke("b", rotate("b")).await, "rotated");
        world.sweep_until_rest(&subject()).await;
        world.assert_settled();
    }
}

fn other() -> TokenName {
    token("other-token")
}

/// Puts another token into service, which publishes to these places only.
async fn with_another_token(world: &MemoryWorld) -> Value {
    let spec = json!({
        "token": {"bytes": 32},
        "overlap": "15s",
        "verifiers": {"publish": [{"ssm": "/other/accepted"}], "within": "2s"},
        "presenters": {"publish": [{"ssm": "/other/token"}], "within": "2s"},
    });
    world.specify(&other(), &spec);
    let ending = world.invoke("other", Request::Publish { token: other(), adopt: false }).await;
    world.assert_outcome(&ending, "published");
    world.sweep_until_rest(&other()).await;
    spec
}

/// Accepted view of the other token's verifiers.
fn of_the_other(world: &MemoryWorld) -> String {
    world.value(&place("ssm:/other/accepted"), Side::Verifiers)
}

/// A spec with verifiers that read this place. Presenters get the token elsewhere, so that none is refused
/// when verifiers read another token's view.
fn verifiers_at(place: &str) -> Value {
    let mut spec = parameters();
    spec.as_object_mut().unwrap().remove("presenters");
    spec["verifiers"]["publish"] = json!([{"ssm": place}]);
    spec
}

#[tokio::test(start_paused = true)]
async fn edit_cannot_claim_another_tokens_place() {
    // The edit is made in an overlap, at rest, and in the middle of a rotation.
    for when in ["overlap", "rest", "pending"] {
        let spec = verifiers_at("/backend/token/accepted");
        let world = in_service(114, &spec).await;
        world.replayed_by(when);
        with_another_token(&world).await;
        match when {
            "overlap" => {
                world.assert_outcome(&world.invoke("a", rotate("a")).await, "rotated");
            }
            "pending" => {
                let begun = world.invoke("a", rotate_without_waiting("a")).await;
                world.assert_outcome(&begun, "in_progress");
            }
            _ => {}
        }
        let before = of_the_other(&world);
        world.specify(&subject(), &verifiers_at("/other/accepted"));
        for _ in 0..30 {
            world.pass(MINUTE).await;
            world.invoke("sweep", Request::Sweep).await;
        }
        world.pass(DAY).await;
        world.invoke("sweep", Request::Sweep).await;
        let ending = world.invoke("b", rotate("b")).await;
        world.assert_outcome(&ending, "BadSpec");
        let reported = format!("{ending:?}");
        assert!(
            reported.contains("/other/accepted") && reported.contains("other-token"),
            "{reported}"
        );
        assert_eq!(of_the_other(&world), before, "{when}");
        // Work that does not need the spec continues: the version whose overlap is over has ended.
        let versions = world.rest(&subject()).versions;
        match when {
            "overlap" => assert_eq!(versions, ["2 Current"]),
            "pending" => assert_eq!(versions, ["2 Pending", "1 Current"]),
            _ => assert_eq!(versions, ["1 Current"]),
        }
        world.specify(&subject(), &spec);
        world.pass(Duration::from_secs(60 * 60)).await;
        world.sweep_until_rest(&subject()).await;
        world.assert_settled();
    }
}

#[tokio::test(start_paused = true)]
async fn read_that_failed_proves_nothing_in_preflight() {
    let asks = || Request::Preflight { token: subject() };
    let all = in_service(116, &workloads()).await.run("asks", asks(), LONG, Faults::none()).await;
    let is_claimed = |ending: &Ending| format!("{ending:?}").contains("no other token publishes");
    assert!(is_claimed(&all.ending), "{:?}", all.ending);
    let mut unlisted = 0;
    for call in 1..=all.calls {
        let world = in_service(116, &workloads()).await;
        let run = world.run("asks", asks(), LONG, Faults::at(call, Fault::FailBefore)).await;
        let reported = format!("{:?}", run.ending);
        if reported.contains("the specs of other tokens") {
            unlisted += 1;
            assert!(!is_claimed(&run.ending), "call {call}: {reported}");
        }
    }
    assert_eq!(unlisted, 1, "one call lists the specs");
}

#[tokio::test(start_paused = true)]
async fn place_of_token_with_broken_spec_is_protected() {
    let own = verifiers_at("/backend/token/accepted");
    let world = in_service(115, &own).await;
    let spec = with_another_token(&world).await;
    let before = of_the_other(&world);
    world.specify_badly(&other(), "{");
    world.specify(&subject(), &verifiers_at("/other/accepted"));
    for request in [rotate("a"), publish()] {
        let ending = world.invoke("claims", request).await;
        world.assert_outcome(&ending, "BadSpec");
        let reported = format!("{ending:?}");
        assert!(reported.contains("whose spec cannot be read now"), "{reported}");
    }
    let preflight = world.invoke("preflight", Request::Preflight { token: subject() }).await;
    assert!(format!("{preflight:?}").contains("whose spec cannot be read now"), "{preflight:?}");
    assert_eq!(of_the_other(&world), before);
    world.specify(&other(), &spec);
    world.specify(&subject(), &own);
    world.assert_outcome(&world.invoke("b", rotate("b")).await, "rotated");
}

#[tokio::test(start_paused = true)]
async fn inbox_that_another_token_publishes_to_is_refused() {
    let world = in_service(116, &parameters()).await;
    with_another_token(&world).await;
    let mut imports = parameters();
    imports["source"] = json!({"parameter": "/other/token"});
    world.specify(&subject(), &imports);
    let ending = world.invoke("a", rotate("a")).await;
    world.assert_outcome(&ending, "BadSpec");
    let reported = format!("{ending:?}");
    assert!(reported.contains("imports from /other/token"), "{reported}");
    assert_eq!(world.minted(&subject()), 1);
}

#[tokio::test(start_paused = true)]
async fn document_of_another_token_is_drift() {
    let world = in_service(117, &verifiers_at("/backend/token/accepted")).await;
    with_another_token(&world).await;
    for without_its_life in [false, true] {
        let mut document: Value = serde_json::from_str(&of_the_other(&world)).unwrap();
        if without_its_life {
            document.as_object_mut().unwrap().remove("life");
            document.as_object_mut().unwrap().remove("revision");
        }
        world.edit(&place(ACCEPTED), Side::Verifiers, &document.to_string());
        world.pass(DAY).await;
        world.invoke("sweep", Request::Sweep).await;
        let record = world.record(&subject()).expect("a record");
        assert_eq!(record.drift(), [ACCEPTED], "it is told, and not written over");
        assert_eq!(world.value(&place(ACCEPTED), Side::Verifiers), document.to_string());
    }
}

#[tokio::test(start_paused = true)]
async fn cluster_that_is_described_anew_runs_expand_again() {
    let world = in_service(118, &workloads()).await;
    world.break_workload(&deployed("backend"), "CrashLoopBackOff");
    world.assert_outcome(&world.invoke("a", rotate("a")).await, "held");
    world.describe(CLUSTER, r#"{"eks": {"name": "green"}}"#);
    world.fix_workload(&deployed("backend"));
    world.sweep_until_rest(&subject()).await;
    world.assert_settled_on(2);
    assert!(went_back(&world), "expand is run again, in full");
    // An unchanged description is no change.
    let saved = world.saved(&subject()).len();
    world.assert_outcome(&world.invoke("b", rotate("b")).await, "rotated");
    world.sweep_until_rest(&subject()).await;
    let later: Vec<Record> = world.saved(&subject()).split_off(saved);
    let expands = later.iter().filter_map(Record::owed);
    let expands = expands.filter(|it| (it.leg, it.step) == (Leg::Expand, Step::Publish)).count();
    assert!(expands <= 2, "{expands}");
}

#[tokio::test(start_paused = true)]
async fn earlier_record_pins_its_spec_when_it_begins() {
    let world = in_service(119, &everything()).await;
    let mut json = serde_json::to_value(world.record(&subject()).unwrap()).unwrap();
    json.as_object_mut().unwrap().remove("spec").expect("it is pinned");
    world.damage(&subject(), &serde_json::from_value(json).expect("it is read"));
    let writes = world.calls(Some("write"));
    world.pass(DAY).await;
    world.sweep_until_rest(&subject()).await;
    assert_eq!(world.calls(Some("write")), writes, "an upgrade publishes nothing");
    world.assert_outcome(&world.invoke("a", rotate("a")).await, "rotated");
    assert!(world.record(&subject()).unwrap().spec().is_some());
}
