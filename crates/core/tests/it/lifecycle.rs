//! Rotations that nothing disturbs.

use std::time::Duration;

use changeover_core::event::Request;
use changeover_testkit::{
    amount,
    scene::*,
    world::{Ending, Fault, Faults, LONG, MemoryWorld, place, token},
};
use serde_json::{Value, json};

#[tokio::test(start_paused = true)]
async fn rotation_moves_all_readers_then_ends_old_version() {
    for (kind, spec) in kinds() {
        for seed in amount::few_seeds(4) {
            let world = in_service(seed, &spec).await;
            world.replayed_by(format!("kind {kind}, seed {seed}"));

            let ending = world.invoke("a", rotate("a")).await;
            world.assert_outcome(&ending, "rotated");
            let answer = ending.answer();
            assert_eq!(answer["version"], 2, "{kind}");
            assert_eq!(answer["token"], "datastore-token");
            assert!(answer["held"].is_null(), "{kind}: {answer}");
            let presented = spec["presenters"]["publish"].as_array().map_or(0, Vec::len);
            assert_eq!(answer["selectors"].as_array().map(Vec::len), Some(presented), "{kind}");
            assert_eq!(legs(answer)[..6], LEGS[..6], "{kind}: {answer:#}");
            if spec["verifiers"].is_null() {
                assert_eq!(answer["warnings"].as_array().map(Vec::len), Some(1), "{answer}");
            } else {
                // Every verifier received the end of the old version.
                assert_eq!(legs(answer)[6], LEGS[6], "{kind}: {answer:#}");
                assert!(answer["previous_valid_until"].is_string(), "{kind}: {answer:#}");
                for (view, held) in world.rest(&subject()).places {
                    if view.starts_with("verifiers") {
                        assert_eq!(held, "2 current, 1 previous", "{kind}: {view}");
                    }
                }
            }

            world.sweep_until_rest(&subject()).await;
            world.assert_settled_on(2);
            let ended = world.audit(&subject(), 1).expect("an audit entry");
            assert!(ended.ended_at.is_some() && ended.not_after.is_some(), "{kind}: {ended:?}");
            let current = world.audit(&subject(), 2).expect("an audit entry");
            assert!(current.rotated_at.is_some() && !current.selectors.is_empty(), "{current:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn rotations_follow_one_another_with_numbers_that_grow() {
    let world = in_service(7, &everything()).await;
    for version in 2..6 {
        let ending = world.invoke("next", rotate(&format!("key {version}"))).await;
        world.assert_outcome(&ending, "rotated");
        assert_eq!(ending.answer()["version"], version);
        world.sweep_until_rest(&subject()).await;
        world.assert_settled_on(version);
    }
}

#[tokio::test(start_paused = true)]
async fn missing_token_is_created_by_publish_and_rotate() {
    for (kind, spec) in kinds() {
        for request in [publish(), rotate("a")] {
            let world = MemoryWorld::new(3);
            world.replayed_by(format!("kind {kind}, {request:?}"));
            world.specify(&subject(), &spec);
            let ending = world.invoke("first", request).await;
            world.assert_outcome(&ending, "published");
            assert_eq!(ending.answer()["version"], 1, "{kind}");
            world.sweep_until_rest(&subject()).await;
            world.pass(Duration::from_secs(60)).await;
            world.assert_settled_on(1);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn value_in_use_is_adopted_with_an_overlap() {
    let world = MemoryWorld::new(4);
    world.specify(&subject(), &everything());
    for at in ["ssm:/backend/token", "dynamodb:configuration/id=presented"] {
        world.in_use_before(&place(at), "issued-by-hand");
    }
    let ending = world.invoke("a", rotate("a")).await;
    world.assert_outcome(&ending, "rotated");
    assert_eq!(ending.answer()["version"], 2);
    assert!(ending.answer()["previous_valid_until"].is_string());
    world.sweep_until_rest(&subject()).await;
    world.assert_settled_on(2);
    assert_eq!(world.minted(&subject()), 2);
}

#[tokio::test(start_paused = true)]
async fn value_in_one_of_two_publications_is_adopted() {
    let world = MemoryWorld::new(5);
    world.specify(&subject(), &everything());
    world.in_use_before(&place("ssm:/backend/token"), "issued-by-hand");
    let ending = world.invoke("a", publish()).await;
    world.assert_outcome(&ending, "published");
    world.sweep_until_rest(&subject()).await;
    world.assert_settled_on(1);
    assert_eq!(world.minted(&subject()), 1);
}

#[tokio::test(start_paused = true)]
async fn values_that_disagree_are_not_adopted() {
    let world = MemoryWorld::new(6);
    world.specify(&subject(), &everything());
    world.in_use_before(&place("ssm:/backend/token"), "one");
    world.in_use_before(&place("dynamodb:configuration/id=presented"), "other");
    for request in [publish(), rotate("a")] {
        let ending = world.invoke("a", request).await;
        world.assert_outcome(&ending, "PreflightFailed");
    }
    assert_eq!(world.minted(&subject()), 0);
}

#[tokio::test(start_paused = true)]
async fn dropped_version_number_is_never_reused() {
    for (kind, spec) in kinds() {
        let world = in_service(9, &spec).await;
        world.replayed_by(kind);
        let ending = world.invoke("a", rotate_without_waiting("a")).await;
        world.assert_outcome(&ending, "in_progress");
        assert_eq!(ending.answer()["version"], 2);
        let ending = world.invoke("drop", drop_pending()).await;
        world.assert_outcome(&ending, "dropped");
        world.sweep_until_rest(&subject()).await;
        world.assert_settled_on(1);

        let ending = world.invoke("b", rotate("b")).await;
        world.assert_outcome(&ending, "rotated");
        assert_eq!(ending.answer()["version"], 3, "{kind}");
    }
}

#[tokio::test(start_paused = true)]
async fn version_that_may_be_presented_is_not_dropped() {
    let world = in_service(10, &workloads()).await;
    world.break_workload(&deployed("backend"), "CrashLoopBackOff");
    let ending = world.invoke("a", rotate("a")).await;
    world.assert_outcome(&ending, "held");
    let ending = world.invoke("drop", drop_pending()).await;
    world.assert_outcome(&ending, "PreflightFailed");
    world.fix_workload(&deployed("backend"));
    world.sweep_until_rest(&subject()).await;
    world.assert_settled_on(2);
}

#[tokio::test(start_paused = true)]
async fn same_key_never_mints_again() {
    for (kind, spec) in kinds() {
        let world = in_service(11, &spec).await;
        world.replayed_by(kind);
        let first = world.invoke("a", rotate("a")).await;
        world.assert_outcome(&first, "rotated");
        let again = world.invoke("a again", rotate("a")).await;
        world.assert_outcome(&again, "unchanged");
        world.sweep_until_rest(&subject()).await;
        let later = world.invoke("a later", rotate("a")).await;
        world.assert_outcome(&later, "unchanged");
        for answer in [again.answer(), later.answer()] {
            assert_eq!(answer["version"], 2, "{kind}");
            assert_eq!(answer["selectors"], first.answer()["selectors"], "{kind}");
        }
        assert_eq!(world.minted(&subject()), 2, "{kind}");
        world.assert_settled_on(2);
    }
}

#[tokio::test(start_paused = true)]
async fn forgotten_key_mints_again() {
    let world = in_service(12, &items()).await;
    world.invoke("a", rotate("a")).await;
    world.sweep_until_rest(&subject()).await;
    world.pass(Duration::from_secs(7 * 24 * 60 * 60)).await;
    let ending = world.invoke("a", rotate("a")).await;
    world.assert_outcome(&ending, "rotated");
    assert_eq!(ending.answer()["version"], 3);
}

#[tokio::test(start_paused = true)]
async fn another_key_joins_the_rotation_in_progress() {
    for (kind, spec) in kinds() {
        let world = in_service(13, &spec).await;
        world.replayed_by(kind);
        world.assert_outcome(&world.invoke("a", rotate_without_waiting("a")).await, "in_progress");
        let ending = world.invoke("b", rotate("b")).await;
        world.assert_outcome(&ending, "rotated");
        assert_eq!(ending.answer()["version"], 2, "{kind}");
        for key in ["a", "b"] {
            let ending = world.invoke(key, rotate(key)).await;
            world.assert_outcome(&ending, "unchanged");
            assert_eq!(ending.answer()["version"], 2, "{kind}");
        }
        assert_eq!(world.minted(&subject()), 2, "{kind}");
    }
}

#[tokio::test(start_paused = true)]
async fn token_rotates_during_an_overlap() {
    for (kind, spec) in kinds() {
        let world = in_service(14, &spec).await;
        world.replayed_by(kind);
        for version in 2..5 {
            let ending = world.invoke("next", rotate(&format!("key {version}"))).await;
            world.assert_outcome(&ending, "rotated");
            assert_eq!(ending.answer()["version"], version, "{kind}");
        }
        world.sweep_until_rest(&subject()).await;
        world.assert_settled_on(4);
    }
}

#[tokio::test(start_paused = true)]
async fn rotation_waits_while_accepted_set_is_full() {
    let mut spec = items();
    spec["overlap"] = json!("12h");
    let world = in_service(15, &spec).await;
    let next = |world: &MemoryWorld| rotate(&format!("key {}", world.minted(&subject())));
    let deferred = loop {
        assert!(world.minted(&subject()) <= 32, "more versions than the set may hold");
        let ending = world.invoke("next", next(&world)).await;
        if ending.outcome() == "deferred" {
            break ending;
        }
        world.assert_outcome(&ending, "rotated");
    };
    let depth = world.minted(&subject());
    assert!(depth > 20, "the set took only {depth}");
    assert!(deferred.answer()["not_before"].is_string(), "{deferred:?}");
    // Repeated requests and other requests wait for the same version.
    world.assert_outcome(&world.invoke("again", next(&world)).await, "deferred");
    world.assert_outcome(&world.invoke("other", rotate("other")).await, "deferred");
    let asked = [next(&world), rotate("other")];

    let overlap = Duration::from_secs(12 * 60 * 60);
    world.pass(overlap).await;
    world.invoke("sweep", Request::Sweep).await;
    for asked in asked {
        let ending = world.invoke("later", asked).await;
        world.assert_outcome(&ending, "unchanged");
        assert_eq!(ending.answer()["version"].as_u64(), Some(depth as u64 + 1));
    }
    world.pass(overlap).await;
    world.sweep_until_rest(&subject()).await;
    world.assert_settled_on(depth as u64 + 1);
}

#[tokio::test(start_paused = true)]
async fn held_rotation_resumes_with_both_versions() {
    for broken in ["datastore", "backend", "jobs"] {
        let world = in_service(16, &workloads()).await;
        world.replayed_by(broken);
        world.break_workload(&deployed(broken), "CrashLoopBackOff");
        let ending = world.invoke("a", rotate("a")).await;
        world.assert_outcome(&ending, "held");
        let held = &ending.answer()["held"];
        assert!(held["object"].as_str().is_some_and(|it| it.contains(broken)), "{held}");
        assert_eq!(held["reason"], "CrashLoopBackOff");

        // Both versions stay for as long as the hold lasts, and no third value is minted.
        for _ in 0..90 {
            world.pass(Duration::from_secs(60)).await;
            world.invoke("sweep", Request::Sweep).await;
        }
        let versions = world.rest(&subject()).versions;
        assert_eq!(versions, ["2 Pending", "1 Current"], "{broken}");
        world.assert_outcome(&world.invoke("b", rotate("b")).await, "held");
        assert_eq!(world.minted(&subject()), 2);

        world.fix_workload(&deployed(broken));
        world.sweep_until_rest(&subject()).await;
        world.assert_settled_on(2);
    }
}

#[tokio::test(start_paused = true)]
async fn impossible_rollout_is_refused_before_a_mint() {
    for paused in ["datastore", "backend"] {
        let world = in_service(17, &workloads()).await;
        world.pause_workload(&deployed(paused), true);
        let ending = world.invoke("a", rotate("a")).await;
        world.assert_outcome(&ending, "PreflightFailed");
        assert_eq!(world.minted(&subject()), 1);
        world.pause_workload(&deployed(paused), false);
        world.assert_outcome(&world.invoke("a", rotate("a")).await, "rotated");
    }
}

#[tokio::test(start_paused = true)]
async fn spec_with_forbidden_places_is_refused() {
    let mut own = items();
    own["presenters"]["publish"] = json!([{"ssm": "/changeover/tokens/another"}]);
    // The item belongs to the token in service.
    let taken = items();
    for (spec, reported) in [(own, "ssm:/changeover/tokens/another"), (taken, "datastore-token")] {
        let world = in_service(18, &items()).await;
        let other = token("other-token");
        world.specify(&other, &spec);
        for request in [
            Request::Rotate {
                token: other.clone(),
                key: None,
                wait: None,
                without: [].into(),
                fresh: false,
            },
            Request::Publish { token: other.clone(), adopt: false },
        ] {
            let ending = world.invoke("a", request).await;
            world.assert_outcome(&ending, "BadSpec");
            assert!(
                matches!(&ending, Ending::Failed(error) if error.to_string().contains(reported)),
                "{ending:?}"
            );
        }
        assert_eq!(world.minted(&other), 0);
    }
}

const MEASUREMENTS: &str = include_str!("../../../../benches/README.md");

#[tokio::test(start_paused = true)]
async fn rotation_stays_within_its_call_budget() {
    for (row, mut spec) in [("DynamoDB", items()), ("SSM", parameters())] {
        let said = MEASUREMENTS.split(&format!("\n| {row}, ")).nth(1).unwrap();
        let said: usize = said.split(" | ").nth(1).unwrap().parse().unwrap();
        // There is nothing to wait for.
        spec["verifiers"]["within"] = json!("0s");
        spec["presenters"]["within"] = json!("0s");
        let world = in_service(22, &spec).await;
        world.assert_outcome(&world.invoke("warm", rotate("warm")).await, "rotated");
        world.sweep_until_rest(&subject()).await;
        let before = world.calls(None);
        world.assert_outcome(&world.invoke("a", rotate("a")).await, "rotated");
        let calls = world.calls(None) - before;
        // Two more calls publish the events.
        assert_eq!(calls, said + 2, "{row}\n{}", world.journal());
    }
}

#[tokio::test(start_paused = true)]
async fn unknown_token_is_reported() {
    let world = MemoryWorld::new(23);
    for request in [rotate("a"), publish(), drop_pending()] {
        let ending = world.invoke("a", request).await;
        assert!(matches!(&ending, Ending::Failed(_)), "{ending:?}");
        world.assert_outcome(&ending, "UnknownToken");
    }
}

/// Steps that an answer names, in order, without the repetitions of a leg.
fn legs(answer: &Value) -> Vec<(&str, &str)> {
    let timeline = answer["timeline"].as_array().expect("a timeline");
    let text = |entry: &'_ Value, name: &str| entry[name].as_str().map(str::to_owned);
    let mut steps = Vec::new();
    for entry in timeline {
        let step = (text(entry, "leg"), text(entry, "step"));
        let known =
            LEGS.iter().find(|known| step == (Some(known.0.to_owned()), Some(known.1.to_owned())));
        if let Some(known) = known
            && !steps.contains(known)
        {
            steps.push(*known);
        }
    }
    steps
}

const LEGS: [(&str, &str); 7] = [
    ("expand", "publish"),
    ("expand", "sync"),
    ("expand", "roll_out"),
    ("migrate", "publish"),
    ("migrate", "sync"),
    ("migrate", "roll_out"),
    ("overlap", "publish"),
];

#[tokio::test(start_paused = true)]
async fn status_of_all_reports_bad_spec_beside_others() {
    let world = in_service(1, &items()).await;
    world.specify_badly(&token("a-bad-one"), "{}");
    let status = world.invoke("status", Request::Status { token: None, after: None }).await;
    let results = &status.answer()["results"];
    assert_eq!(results[0]["token"], "a-bad-one", "{status:?}");
    assert_eq!(results[0]["error"], "BadSpec", "{status:?}");
    assert_eq!(results[1]["token"], subject().as_str(), "{status:?}");
    assert_eq!(results[1]["versions"][0]["version"], 1, "{status:?}");
}

#[tokio::test(start_paused = true)]
async fn status_of_all_tokens_is_paged() {
    let world = in_service(1, &items()).await;
    let mut expected = vec![subject().to_string()];
    for number in 0..6_000 {
        let name = format!("token-{number:04}");
        world.specify(&token(&name), &items());
        expected.push(name);
    }
    let (mut reported, mut after, mut pages) = (Vec::new(), None, 0);
    loop {
        let request = Request::Status { token: None, after: after.clone() };
        let ending = world.invoke("status", request).await;
        assert!(ending.answer().to_string().len() < 3_000_000, "Lambda returns 6 MB");
        let results = ending.answer()["results"].as_array().unwrap();
        reported.extend(results.iter().map(|it| it["token"].as_str().unwrap().to_owned()));
        pages += 1;
        match ending.answer()["next"].as_str() {
            Some(next) => after = Some(token(next)),
            None => break,
        }
    }
    assert!(pages > 1, "one page: this shows nothing");
    assert_eq!(reported, expected);
}

#[tokio::test(start_paused = true)]
async fn status_of_one_token_has_newest_versions_history() {
    let status = async |world: &MemoryWorld| {
        let ending =
            world.invoke("status", Request::Status { token: Some(subject()), after: None }).await;
        ending.answer()["results"][0].clone()
    };
    for (kind, spec) in kinds() {
        let world = in_service(5, &spec).await;
        let first = status(&world).await["newest"].clone();
        assert_eq!((&first["version"], &first["replaced"]), (&json!(1), &json!(null)), "{kind}");

        // During the rotation, the status comes from the record, with the owed step.
        world.assert_outcome(&world.invoke("a", rotate_without_waiting("a")).await, "in_progress");
        let coming = status(&world).await["newest"].clone();
        assert_eq!(
            (&coming["version"], &coming["rotated_at"]),
            (&json!(2), &json!(null)),
            "{kind}"
        );
        assert!(coming["owed_since"].is_string(), "{kind}: {coming}");
        assert_eq!(coming["replaced"]["version"], 1, "{kind}: {coming}");

        // After the rotation, the status comes from the audit, even if nothing is owed any more.
        world.assert_outcome(&world.invoke("a", rotate("a")).await, "rotated");
        let came = status(&world).await["newest"].clone();
        assert_eq!(legs(&came)[..6], LEGS[..6], "{kind}: {came:#}");
        assert!(came["rotated_at"].is_string(), "{kind}: {came}");
        assert_eq!(came["replaced"]["ended_at"], json!(null), "{kind}: {came}");
        world.sweep_until_rest(&subject()).await;
        let over = status(&world).await["newest"].clone();
        assert_eq!(over["timeline"], came["timeline"], "{kind}");
        assert_eq!(over["replaced"]["not_after"], came["replaced"]["not_after"], "{kind}");
        assert!(over["replaced"]["ended_at"].is_string(), "{kind}: {over}");
    }
}

#[tokio::test(start_paused = true)]
async fn status_works_without_the_newest_versions_history() {
    let world = in_service(5, &items()).await;
    let request = Request::Status { token: Some(subject()), after: None };
    let counted = world.run("status", request.clone(), LONG, Faults::none()).await;
    let last = counted.calls;
    let ran = world.run("status", request, LONG, Faults::at(last, Fault::FailBefore)).await;
    world.assert_outcome(&ran.ending, "reported");
    let standing = &ran.ending.answer()["results"][0];
    assert_eq!(
        (&standing["newest"], &standing["versions"][0]["version"]),
        (&json!(null), &json!(1))
    );
}
