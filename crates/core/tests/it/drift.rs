//! Writes of others to a publication, at rest and in the middle of a rotation.

use std::time::Duration;

use changeover_core::{event::Request, spec::Side};
use changeover_testkit::{
    amount,
    scene::*,
    world::{Ending, Fault, Faults, LONG, place},
};
use serde_json::{Value, json};

#[tokio::test(start_paused = true)]
async fn foreign_value_is_kept_and_blocks_rotation() {
    for at in ["ssm:/backend/token", "dynamodb:configuration/id=presented"] {
        let mut spec = everything();
        // A person who edits the token by hand also updates the verifiers by hand, so the spec has none.
        spec["verifiers"] = Value::Null;
        spec.as_object_mut().expect("an object").remove("verifiers");
        let world = in_service(20, &spec).await;
        world.edit(&place(at), Side::Presenters, "by-hand");
        let ending = world.invoke("a", rotate("a")).await;
        world.assert_outcome(&ending, "PreflightFailed");
        // The daily drift detection reports the value and leaves it unchanged.
        for _ in 0..26 {
            world.pass(Duration::from_secs(60 * 60)).await;
            world.invoke("sweep", Request::Sweep).await;
        }
        assert_eq!(world.minted(&subject()), 1);
        assert_eq!(world.rest(&subject()).places[&format!("presenters {at}")], "a stranger");
        let status =
            world.invoke("status", Request::Status { token: Some(subject()), after: None }).await;
        assert_eq!(status.answer()["results"][0]["drift"], json!([at]), "{status:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn misplaced_own_value_is_repaired_by_sweep() {
    let world = in_service(21, &everything()).await;
    world.assert_outcome(&world.invoke("a", rotate("a")).await, "rotated");
    let old = world.value(&place("dynamodb:configuration/id=presented"), Side::Presenters);
    world.assert_outcome(&world.invoke("b", rotate("b")).await, "rotated");
    // Version 2 has its end and is still accepted when a person restores it.
    world.edit(&place("dynamodb:configuration/id=presented"), Side::Presenters, &old);
    world.edit(&place("dynamodb:configuration/id=presented"), Side::Presenters, &old);
    let current = world.value(&place("ssm:/backend/token"), Side::Presenters);
    world.edit(&place("dynamodb:configuration/id=presented"), Side::Presenters, &current);
    world.sweep_until_rest(&subject()).await;
    world.assert_settled_on(3);

    let accepted = place("ssm:/backend/token/accepted");
    let view = world.value(&accepted, Side::Verifiers);
    world.assert_outcome(&world.invoke("c", rotate("c")).await, "rotated");
    world.sweep_until_rest(&subject()).await;
    let mut stale: Value = serde_json::from_str(&view).expect("a document");
    let now: Value =
        serde_json::from_str(&world.value(&accepted, Side::Verifiers)).expect("a document");
    stale["accepted"].as_array_mut().expect("entries").insert(0, now["accepted"][0].clone());
    world.edit(&accepted, Side::Verifiers, &stale.to_string());
    for _ in 0..26 {
        world.pass(Duration::from_secs(60 * 60)).await;
        world.invoke("sweep", Request::Sweep).await;
    }
    world.sweep_until_rest(&subject()).await;
    world.assert_settled_on(4);
}

#[tokio::test(start_paused = true)]
async fn verifiers_are_repaired_beside_foreign_value() {
    let (accepted, presented) =
        (place("ssm:/backend/token/accepted"), place("dynamodb:configuration/id=presented"));
    let world = in_service(23, &everything()).await;
    let begun = world.value(&accepted, Side::Verifiers);
    world.assert_outcome(&world.invoke("a", rotate("a")).await, "rotated");
    world.sweep_until_rest(&subject()).await;
    let view = world.value(&accepted, Side::Verifiers);
    world.edit_presented(&presented, &issued(9));
    // The edit makes verifiers accept version 1 again, beside the presented version.
    let mut stale: Value = serde_json::from_str(&begun).expect("a document");
    let now: Value = serde_json::from_str(&view).expect("a document");
    stale["accepted"].as_array_mut().expect("entries").insert(0, now["accepted"][0].clone());
    world.edit(&accepted, Side::Verifiers, &stale.to_string());
    for _ in 0..26 {
        world.pass(Duration::from_secs(60 * 60)).await;
        world.invoke("sweep", Request::Sweep).await;
    }
    let repaired: Value =
        serde_json::from_str(&world.value(&accepted, Side::Verifiers)).expect("a document");
    assert_eq!(repaired["accepted"], now["accepted"], "version 1 is accepted no more");
    assert_eq!(world.value(&presented, Side::Presenters), issued(9), "it is left alone");
    let record = world.record(&subject()).expect("a record");
    assert_eq!((record.drift(), record.owed()), ([presented.to_string()].as_slice(), None));
}

#[tokio::test(start_paused = true)]
async fn label_moved_by_hand_is_restored_within_day() {
    let world = in_service(24, &parameters()).await;
    let presented = place("ssm:/backend/token");
    // The previous version is still accepted.
    let mut spec = parameters();
    spec["overlap"] = json!("3d");
    world.specify(&subject(), &spec);
    world.assert_outcome(&world.invoke("a", rotate("a")).await, "rotated");
    // From here on the rotation waits for the end of version 1.
    world.invoke("sweep", Request::Sweep).await;
    let labels = || world.rest(&subject()).labels;
    let before = labels();
    assert_eq!(before["ssm:/backend/token:current"], "2");
    world.move_label(&presented, "current", 1);
    assert_ne!(labels(), before);
    for _ in 0..26 {
        world.pass(Duration::from_secs(60 * 60)).await;
        world.invoke("sweep", Request::Sweep).await;
    }
    assert_eq!(labels(), before);
    let record = world.record(&subject()).expect("a record");
    assert_eq!((record.presented().map(|it| it.version.get()), record.drift().len()), (Some(2), 0));
}

#[tokio::test(start_paused = true)]
async fn reverted_view_is_republished_before_next_leg() {
    // The accepted view is reverted while verifiers' pods are replaced, or the presented view while
    // presenters' are.
    let legs = [
        ("datastore", "ssm:/backend/token/accepted", Side::Verifiers),
        ("backend", "ssm:/backend/token", Side::Presenters),
    ];
    for (broken, reverted, side) in legs {
        for seed in amount::few_seeds(8) {
            let world = in_service(seed, &workloads()).await;
            world.replayed_by(format!("{reverted} is reverted, seed {seed}"));
            let old = world.value(&place(reverted), side);
            world.break_workload(&deployed(broken), "CrashLoopBackOff");
            world.assert_outcome(&world.invoke("a", rotate("a")).await, "held");
            world.edit(&place(reverted), side, &old);
            // External Secrets sync the reverted view on their own. Pods that start then start on the old
            // view.
            world.pass(Duration::from_secs(2 * 60 * 60)).await;
            world.fix_workload(&deployed(broken));
            world.restart_some_pod();
            world.sweep_until_rest(&subject()).await;
            world.assert_settled_on(2);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn reverted_secret_is_rewritten_before_next_leg() {
    for (broken, secret) in [("mesh", "mesh#accepted"), ("backend", "datastore#token")] {
        for seed in amount::few_seeds(8) {
            let world = in_service(seed, &written_secrets()).await;
            world.replayed_by(format!("{secret} is reverted, seed {seed}"));
            let secret = format!("{CLUSTER}/backend/{secret}");
            let old = world.secret(&secret);
            world.break_workload(&deployed(broken), "CrashLoopBackOff");
            world.assert_outcome(&world.invoke("a", rotate("a")).await, "held");
            assert_ne!(world.secret(&secret), old);
            world.edit_secret(&secret, &old);
            world.fix_workload(&deployed(broken));
            // Pods that start then start on the old view.
            world.restart_some_pod();
            world.sweep_until_rest(&subject()).await;
            world.assert_settled_on(2);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn edited_secret_is_repaired_within_day() {
    for secret in ["mesh#accepted", "mesh#token", "datastore#token"] {
        let secret = format!("{CLUSTER}/backend/{secret}");
        let world = in_service(1, &written_secrets()).await;
        world.replayed_by(format!("{secret} is edited"));
        world.assert_outcome(&world.invoke("a", rotate("a")).await, "rotated");
        world.sweep_until_rest(&subject()).await;
        let written = world.secret(&secret);
        world.edit_secret(&secret, "somebody's own");
        world.pass(Duration::from_secs(24 * 60 * 60)).await;
        world.sweep_until_rest(&subject()).await;
        // A repair publishes a later view, with a later fence.
        let view = |document: &str| document.split(r#","life""#).next().map(str::to_owned);
        assert_eq!(view(&world.secret(&secret)), view(&written));
        world.assert_settled_on(2);
    }
}

#[tokio::test(start_paused = true)]
async fn restored_token_under_migrate_ends_after_next_replacement() {
    for (mut spec, reverted) in
        [(items(), "dynamodb:configuration/id=presented"), (parameters(), "ssm:/backend/token")]
    {
        spec["presenters"]["within"] = json!("1m");
        for seed in amount::few_seeds(4) {
            let world = in_service(seed, &spec).await;
            world.replayed_by(format!("{reverted} is reverted, seed {seed}"));
            let old = world.value(&place(reverted), Side::Presenters);
            // Readers that are not restarted may hold their copy for longer than this session lasts.
            let wait = Some(Duration::from_secs(30));
            let rotate = rotate_for(wait, "a", []);
            world.assert_outcome(&world.invoke("a", rotate).await, "in_progress");
            world.edit(&place(reverted), Side::Presenters, &old);
            world.pass(Duration::from_secs(2 * 60)).await;
            world.sweep_until_rest(&subject()).await;
            world.assert_settled_on(2);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn repeatedly_reverted_view_holds_rotation() {
    let mut spec = parameters();
    spec["presenters"]["within"] = json!("1m");
    let world = in_service(22, &spec).await;
    let reverted = place("ssm:/backend/token");
    let old = world.value(&reverted, Side::Presenters);
    // Each session is shorter than readers may hold their copy, so that the next one finds the old view.
    let wait = Some(Duration::from_secs(30));
    let rotate = || rotate_for(wait, "a", []);
    for _ in 0..4 {
        world.assert_outcome(&world.invoke("a", rotate()).await, "in_progress");
        world.edit(&reverted, Side::Presenters, &old);
        world.pass(Duration::from_secs(40)).await;
    }
    let ending = world.invoke("a", rotate()).await;
    world.assert_outcome(&ending, "held");
    let held = &ending.answer()["held"];
    assert_eq!(held["object"], "ssm:/backend/token");
    assert!(held["reason"].as_str().is_some_and(|it| it.contains("keeps changing")), "{held}");
    // Once the view is left alone, the same version is resumed.
    world.sweep_until_rest(&subject()).await;
    world.assert_settled_on(2);
}

#[tokio::test(start_paused = true)]
async fn each_adopted_edit_gets_its_overlap() {
    for (kind, mut spec) in kinds() {
        spec["on_drift"] = json!("adopt");
        let world = in_service(30, &spec).await;
        world.replayed_by(kind);
        let presented = world.spec(&subject()).presenters.publications[0].place.clone();
        for version in 2..4 {
            world.edit_presented(&presented, &issued(version));
            // No event announces the edit. Verifiers know the value within two minutes, and the old version
            // gets its overlap.
            for _ in 0..2 {
                world.pass(Duration::from_secs(60)).await;
                world.invoke("sweep", Request::Sweep).await;
            }
            assert_eq!(world.minted(&subject()), usize::from(version), "{kind}");
            world.sweep_until_rest(&subject()).await;
            world.assert_settled_on(version.into());
            assert_eq!(world.value(&presented, Side::Presenters), issued(version), "{kind}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn rotation_adopts_manual_edit_before_mint() {
    for (kind, mut spec) in few_kinds() {
        spec["on_drift"] = json!("adopt");
        for wait in [None, Some(Duration::ZERO)] {
            let world = in_service(31, &spec).await;
            world.replayed_by(format!("{kind}, waits {wait:?}"));
            let presented = world.spec(&subject()).presenters.publications[0].place.clone();
            world.edit_presented(&presented, &issued(2));
            world.invoke("a", rotate_for(wait, "a", [])).await;
            world.sweep_until_rest(&subject()).await;
            world.assert_settled_on(3);
            let ending = world.invoke("a", rotate("a")).await;
            world.assert_outcome(&ending, "unchanged");
            assert_eq!(ending.answer()["version"], 3, "{kind}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn edit_during_rotation_is_adopted_after_it() {
    for (kind, mut spec) in few_kinds() {
        spec["on_drift"] = json!("adopt");
        for call in (1..60).step_by(3) {
            let world = in_service(32, &spec).await;
            world.replayed_by(format!("{kind}, edited after call {call}"));
            let presented = world.spec(&subject()).presenters.publications[0].place.clone();
            world.run("a", rotate("a"), LONG, Faults::at(call, Fault::CutAfter)).await;
            world.edit_presented(&presented, &issued(9));
            for _ in 0..8 {
                world.pass(Duration::from_secs(60)).await;
                world.invoke("sweep", Request::Sweep).await;
            }
            world.sweep_until_rest(&subject()).await;
            world.assert_settled();
            assert_eq!(world.value(&presented, Side::Presenters), issued(9), "{kind} {call}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn edit_is_adopted_once_on_request() {
    for (kind, spec) in few_kinds() {
        let world = in_service(33, &spec).await;
        world.replayed_by(kind);
        let presented = world.spec(&subject()).presenters.publications[0].place.clone();
        world.edit_presented(&presented, &issued(2));
        world.assert_outcome(&world.invoke("a", rotate("a")).await, "PreflightFailed");
        world.assert_outcome(&world.invoke("b", publish()).await, "PreflightFailed");
        world.assert_outcome(&world.invoke("c", adopt()).await, "published");
        world.sweep_until_rest(&subject()).await;
        world.assert_settled_on(2);
        world.assert_outcome(&world.invoke("d", adopt()).await, "published");
        assert_eq!(world.minted(&subject()), 2, "{kind}");
    }
}

#[tokio::test(start_paused = true)]
async fn conflicting_edits_and_ended_values_are_not_adopted() {
    let mut spec = everything();
    spec["on_drift"] = json!("adopt");
    // A person who restores an old token also updates the verifiers by hand, so the spec has none.
    spec.as_object_mut().expect("an object").remove("verifiers");
    let world = in_service(34, &spec).await;
    let [parameter, item] =
        ["ssm:/backend/token", "dynamodb:configuration/id=presented"].map(place);
    let old = world.value(&item, Side::Presenters);
    world.assert_outcome(&world.invoke("a", rotate("a")).await, "rotated");
    world.sweep_until_rest(&subject()).await;
    let current = world.value(&item, Side::Presenters);

    world.edit_presented(&item, &old);
    let Ending::Failed(error) = world.invoke("ended", rotate("ended")).await else {
        world.fail("a value that has ended was adopted");
    };
    assert!(error.to_string().contains("version 1, which has ended"), "{error}");
    world.edit_presented(&item, &issued(3));
    world.edit_presented(&parameter, &issued(4));
    world.assert_outcome(&world.invoke("two", rotate("two")).await, "PreflightFailed");
    assert_eq!(world.minted(&subject()), 2);
    for place in [&item, &parameter] {
        world.edit(place, Side::Presenters, &current);
    }
    world.assert_outcome(&world.invoke("b", rotate("b")).await, "rotated");
}
