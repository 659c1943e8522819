//! Records that are older or newer than the stamps that they find. A stamp of another record proves
//! nothing, and nothing of a newer record is overwritten.

use std::time::Duration;

use changeover_core::{event::Request, record::Record, spec::Side};
use changeover_testkit::{
    amount,
    sample::{at, life},
    scene::*,
    world::{Backup, Ending, LATE_WRITE, MemoryWorld, place},
};
use changeover_token::{Fence, Life};
use serde_json::Value;

/// Fence of a record that was created a year before every other one here, and has a higher revision.
fn older() -> Fence {
    Fence { life: Some(life(-365 * 24 * 3600)), revision: 4_000_000_000 }
}

/// Fence of a record that is created a year after every other one here.
fn newer() -> Fence {
    Fence { life: Some(life(365 * 24 * 3600)), revision: 1 }
}

/// A world after a day of rotations and the daily drift detection.
async fn used_for_a_day(seed: u64, spec: &Value) -> MemoryWorld {
    let world = in_service(seed, spec).await;
    for key in ["first", "second"] {
        world.pass(Duration::from_secs(6 * 3600)).await;
        world.assert_outcome(&world.invoke(key, rotate(key)).await, "rotated");
        world.sweep_until_rest(&subject()).await;
    }
    world.pass(LATE_WRITE).await;
    world.assert_settled_on(3);
    world
}

/// Rotates until presenters have a new version, with every step that the documents ask of an operator.
async fn rotated_at_last(world: &MemoryWorld) {
    let before = world.record(&subject()).and_then(|it| Some(it.presented()?.sha256));
    for attempt in 0..6 {
        let ending = world.invoke("again", rotate(&format!("attempt {attempt}"))).await;
        match ending.outcome() {
            "rotated" => {
                let after = world.record(&subject()).and_then(|it| Some(it.presented()?.sha256));
                if after != before {
                    break;
                }
            }
            // Presenters hold a version that this record does not know.
            "PreflightFailed" => drop(world.invoke("adopt", adopt()).await),
            _ => {}
        }
        world.pass(LATE_WRITE).await;
        world.sweep_until_rest(&subject()).await;
    }
    world.sweep_until_rest(&subject()).await;
    world.pass(Duration::from_secs(5 * 60)).await;
    world.assert_settled();
}

fn life_of(world: &MemoryWorld) -> Option<Life> {
    world.record(&subject()).as_ref().and_then(Record::life)
}

#[tokio::test(start_paused = true)]
async fn new_stack_rolls_pods_that_carry_old_stamps() {
    for (kind, spec) in kinds() {
        let world = used_for_a_day(70, &spec).await;
        world.replayed_by(format!("kind {kind}"));
        let before = world.record(&subject()).expect("a record");
        world.create_stack_again();
        world.assert_outcome(&world.invoke("adopt", publish()).await, "published");
        world.sweep_until_rest(&subject()).await;
        world.assert_settled_on(1);
        world.assert_outcome(&world.invoke("new", rotate("new")).await, "rotated");
        world.sweep_until_rest(&subject()).await;
        world.pass(Duration::from_secs(5 * 60)).await;
        world.assert_settled_on(2);
        let after = world.record(&subject()).expect("a record");
        assert!(after.fence() > before.fence(), "{kind}");
        assert!(after.revision() < before.revision(), "{kind}: or it would prove nothing");
    }
}

#[tokio::test(start_paused = true)]
async fn deleted_record_begins_above_what_it_left() {
    for (kind, spec) in kinds() {
        let world = used_for_a_day(71, &spec).await;
        world.replayed_by(format!("kind {kind}"));
        let before = life_of(&world);
        world.delete_record(&subject());
        // The first rotation adopts the presented value, and mints.
        world.assert_outcome(&world.invoke("new", rotate("new")).await, "rotated");
        world.sweep_until_rest(&subject()).await;
        world.pass(Duration::from_secs(5 * 60)).await;
        world.assert_settled_on(2);
        assert!(life_of(&world) > before, "{kind}");
    }
}

#[tokio::test(start_paused = true)]
async fn restored_table_completes_from_every_save() {
    let kinds = if amount::is_everything() { kinds() } else { few_kinds() };
    for (kind, spec) in kinds {
        for backup in amount::calls(0..) {
            let world = used_for_a_day(72, &spec).await;
            world.replayed_by(format!("kind {kind}, backup {backup}"));
            let first = world.back_up();
            world.back_up_each_save();
            world.assert_outcome(&world.invoke("lost", rotate("lost")).await, "rotated");
            world.sweep_until_rest(&subject()).await;
            let mut backups: Vec<Backup> = [first].into_iter().chain(world.backups()).collect();
            if backup >= backups.len() {
                assert!(backup > 3, "{kind}: {backup} backups");
                break;
            }
            world.pass(Duration::from_secs(60 * 60)).await;
            world.restore(backups.swap_remove(backup));
            rotated_at_last(&world).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn restored_table_never_gives_a_revision_twice() {
    // The lost and the new sessions make the same saves in the same order, with other values. Revisions
    // alone would coincide.
    for (kind, spec) in few_kinds() {
        let world = used_for_a_day(73, &spec).await;
        world.replayed_by(format!("kind {kind}"));
        let backup = world.back_up();
        let lost = world.invoke("lost", rotate_without_waiting("lost")).await;
        world.assert_outcome(&lost, "in_progress");
        // The pending version reaches verifiers only.
        let expanded =
            world.invoke("expands", rotate_for(Some(Duration::from_secs(1)), "lost", []));
        world.assert_outcome(&expanded.await, "in_progress");
        world.pass(Duration::from_secs(10 * 60)).await;
        world.restore(backup);
        rotated_at_last(&world).await;
    }
}

#[tokio::test(start_paused = true)]
async fn copied_manifest_of_an_older_record_proves_nothing() {
    let world = used_for_a_day(74, &workloads()).await;
    for stamp in [older(), Fence::bare(4_000_000_000)] {
        world.apply_stamp(&deployed("datastore"), &subject(), Side::Verifiers, stamp);
        world.apply_stamp(&deployed("backend"), &subject(), Side::Presenters, stamp);
        world.pass(Duration::from_secs(5 * 60)).await;
        let key = format!("over {stamp}");
        world.assert_outcome(&world.invoke("over it", rotate(&key)).await, "rotated");
        world.sweep_until_rest(&subject()).await;
        world.pass(Duration::from_secs(5 * 60)).await;
        world.assert_settled();
        let record = world.record(&subject()).expect("a record");
        let stamped = world.stamp(&deployed("backend"), &subject(), Side::Presenters);
        assert_eq!(stamped, Some(record.view(Side::Presenters)));
    }
}

#[tokio::test(start_paused = true)]
async fn copied_manifest_of_newer_record_holds_leg() {
    let world = used_for_a_day(75, &workloads()).await;
    let workload = deployed("backend");
    let mark = |fence| world.apply_stamp(&workload, &subject(), Side::Presenters, fence);
    let ending = refused_before_the_mint_and_held_after(&world, mark).await;
    assert_held_by_both(&world, &ending.answer()["held"], "backend");
    let fix = ending.answer()["held"]["fix"].to_string();
    assert!(fix.contains("presenter.changeover.dev/datastore-token"), "{fix}");
    assert_stays_held(&world).await;
    // Follow the fix: remove the annotation.
    world.apply_stamp(&workload, &subject(), Side::Presenters, Fence::default());
    world.sweep_until_rest(&subject()).await;
    world.pass(Duration::from_secs(5 * 60)).await;
    world.assert_settled_on(4);
}

#[tokio::test(start_paused = true)]
async fn item_of_an_older_record_is_overwritten() {
    for stamp in [older(), Fence::bare(4_000_000_000)] {
        let world = used_for_a_day(76, &items()).await;
        for (side, item) in [(Side::Verifiers, "accepted"), (Side::Presenters, "presented")] {
            world.mark_item(&place(&format!("dynamodb:configuration/id={item}")), side, stamp);
        }
        world.assert_outcome(&world.invoke("over it", rotate("over it")).await, "rotated");
        world.sweep_until_rest(&subject()).await;
        world.pass(Duration::from_secs(5 * 60)).await;
        world.assert_settled_on(4);
    }
}

#[tokio::test(start_paused = true)]
async fn item_of_a_newer_record_holds_the_leg() {
    let sides =
        [(Side::Verifiers, "accepted", "accepted"), (Side::Presenters, "presented", "token")];
    for (side, item, attribute) in sides {
        let world = used_for_a_day(77, &items()).await;
        let item = place(&format!("dynamodb:configuration/id={item}"));
        let mark = |fence| world.mark_item(&item, side, fence);
        let ending = match side {
            // The inspection before a mint reads only the presenters' publications.
            Side::Presenters => refused_before_the_mint_and_held_after(&world, mark).await,
            Side::Verifiers => {
                mark(newer());
                world.invoke("held", rotate("held")).await
            }
        };
        assert_held_by_both(&world, &ending.answer()["held"], &item.to_string());
        let fix = ending.answer()["held"]["fix"].to_string();
        assert!(fix.contains(&format!("`{attribute}_life`")), "{fix}");
        assert_stays_held(&world).await;
        // Follow the fix: remove the attributes.
        world.mark_item(&item, side, Fence::default());
        world.sweep_until_rest(&subject()).await;
        world.pass(Duration::from_secs(5 * 60)).await;
        world.assert_settled_on(4);
    }
}

#[tokio::test(start_paused = true)]
async fn secret_of_an_older_record_is_overwritten() {
    for stamp in [older(), Fence::bare(4_000_000_000)] {
        let world = used_for_a_day(78, &written_secrets()).await;
        for secret in ["mesh#accepted", "mesh#token", "datastore#token"] {
            let side =
                if secret.ends_with("accepted") { Side::Verifiers } else { Side::Presenters };
            world.mark_secret(&format!("{CLUSTER}/backend/{secret}"), side, stamp);
        }
        world.assert_outcome(&world.invoke("over it", rotate("over it")).await, "rotated");
        world.sweep_until_rest(&subject()).await;
        world.pass(Duration::from_secs(5 * 60)).await;
        world.assert_settled_on(4);
    }
}

#[tokio::test(start_paused = true)]
async fn secret_of_a_newer_record_holds_the_leg() {
    let world = used_for_a_day(79, &written_secrets()).await;
    let secret = format!("{CLUSTER}/backend/datastore#token");
    let mark = |fence| world.mark_secret(&secret, Side::Presenters, fence);
    let ending = refused_before_the_mint_and_held_after(&world, mark).await;
    assert_held_by_both(&world, &ending.answer()["held"], "datastore");
    assert_stays_held(&world).await;
    world.mark_secret(&secret, Side::Presenters, Fence::default());
    world.sweep_until_rest(&subject()).await;
    world.pass(Duration::from_secs(5 * 60)).await;
    world.assert_settled_on(4);
}

#[tokio::test(start_paused = true)]
async fn document_of_newer_record_is_reported_and_kept() {
    let world = used_for_a_day(80, &parameters()).await;
    let accepted = place("ssm:/backend/token/accepted");
    let document = world.value(&accepted, Side::Verifiers);
    let ours = life_of(&world).expect("a life").to_string();
    let theirs = document.replace(&ours, &newer().life.expect("a life").to_string());
    assert_ne!(document, theirs);
    world.edit(&accepted, Side::Verifiers, &theirs);
    world.pass(Duration::from_secs(25 * 3600)).await;
    let ending = world.invoke("compare", Request::SweepOne { token: subject() }).await;
    let warnings = ending.answer()["results"][0]["warnings"].to_string();
    assert!(warnings.contains("another record of this token"), "{:#}", ending.answer());
    assert_eq!(world.value(&accepted, Side::Verifiers), theirs);
    assert_eq!(world.record(&subject()).expect("a record").drift(), [accepted.to_string()]);
}

#[tokio::test(start_paused = true)]
async fn document_of_an_older_record_is_repaired() {
    let world = used_for_a_day(81, &parameters()).await;
    let accepted = place("ssm:/backend/token/accepted");
    let document = world.value(&accepted, Side::Verifiers);
    let ours = life_of(&world).expect("a life").to_string();
    // The document names a version that this record never had.
    let theirs = document
        .replace(&ours, &older().life.expect("a life").to_string())
        .replace(r#""version":3"#, r#""version":300"#);
    assert_ne!(document, theirs);
    world.edit(&accepted, Side::Verifiers, &theirs);
    world.pass(Duration::from_secs(25 * 3600)).await;
    world.sweep_until_rest(&subject()).await;
    world.assert_settled_on(3);
    let record = world.record(&subject()).expect("a record");
    assert_eq!(record.drift(), [] as [&str; 0]);
    assert!(world.value(&accepted, Side::Verifiers).contains(&ours));
}

#[tokio::test(start_paused = true)]
async fn upgrade_restarts_nothing() {
    for (kind, spec) in kinds() {
        let world = used_for_a_day(82, &spec).await;
        world.replayed_by(format!("kind {kind}"));
        world.downgrade(&subject());
        assert_eq!(life_of(&world), None);
        let counted = || ["write", "write_secret", "stamp"].map(|port| world.calls(Some(port)));
        let before = counted();
        world.pass(Duration::from_secs(25 * 3600)).await;
        world.sweep_until_rest(&subject()).await;
        assert_eq!(counted(), before, "{kind}: a comparison of what stands writes nothing");
        assert_eq!(life_of(&world), None);
        world.assert_outcome(&world.invoke("new", rotate("new")).await, "rotated");
        world.sweep_until_rest(&subject()).await;
        world.pass(Duration::from_secs(5 * 60)).await;
        world.assert_settled_on(4);
        let record = world.record(&subject()).expect("a record");
        assert!(Side::BOTH.iter().all(|side| record.view(*side).life == record.life()), "{kind}");
    }
}

#[tokio::test(start_paused = true)]
async fn upgrade_during_rotation_continues_it() {
    for (kind, spec) in kinds() {
        let world = used_for_a_day(83, &spec).await;
        world.replayed_by(format!("kind {kind}"));
        world.invoke("before", rotate_for(Some(Duration::from_secs(3)), "before", [])).await;
        world.downgrade(&subject());
        world.sweep_until_rest(&subject()).await;
        world.pass(Duration::from_secs(5 * 60)).await;
        world.assert_settled_on(4);
        assert_eq!(life_of(&world), None, "{kind}");
    }
}

#[tokio::test(start_paused = true)]
async fn dropped_rotation_after_an_upgrade_restarts_no_presenter() {
    let world = used_for_a_day(85, &workloads()).await;
    world.downgrade(&subject());
    let stamp = || world.stamp(&deployed("backend"), &subject(), Side::Presenters);
    let before = stamp();
    world.invoke("dropped", rotate_without_waiting("dropped")).await;
    world.assert_outcome(&world.invoke("drop", drop_pending()).await, "dropped");
    world.sweep_until_rest(&subject()).await;
    assert!(life_of(&world).is_some());
    // The presenters' view did not change, so it keeps the fence of its stamp.
    let record = world.record(&subject()).expect("a record");
    assert_eq!((stamp(), Some(record.view(Side::Presenters))), (before, before));
}

#[tokio::test(start_paused = true)]
async fn older_stamp_is_replaced_under_view_without_life() {
    let world = used_for_a_day(87, &workloads()).await;
    world.downgrade(&subject());
    // The record gets its life, but the presenters' view keeps its fence.
    world.invoke("dropped", rotate_without_waiting("dropped")).await;
    world.assert_outcome(&world.invoke("drop", drop_pending()).await, "dropped");
    world.sweep_until_rest(&subject()).await;
    world.apply_stamp(&deployed("backend"), &subject(), Side::Presenters, older());
    world.pass(Duration::from_secs(5 * 60)).await;
    // A repair of the other side runs both legs.
    let accepted = place("ssm:/backend/token/accepted");
    world.edit(&accepted, Side::Verifiers, r#"{"accepted":[]}"#);
    world.pass(Duration::from_secs(25 * 3600)).await;
    world.sweep_until_rest(&subject()).await;
    world.assert_settled_on(3);
    let record = world.record(&subject()).expect("a record");
    let stamped = world.stamp(&deployed("backend"), &subject(), Side::Presenters);
    assert_eq!(stamped, Some(record.view(Side::Presenters)));
    assert_eq!(record.view(Side::Presenters).life, record.life());
}

#[tokio::test(start_paused = true)]
async fn clock_that_is_behind_creates_a_newer_record() {
    let world = used_for_a_day(86, &items()).await;
    // The former record was created by a function whose clock was half an hour ahead.
    let ahead = world.now().duration_since(at(0)).as_secs() + 1_800;
    let ahead = Fence { life: Some(life(ahead)), revision: 7 };
    for (side, item) in [(Side::Verifiers, "accepted"), (Side::Presenters, "presented")] {
        world.mark_item(&place(&format!("dynamodb:configuration/id={item}")), side, ahead);
    }
    world.delete_record(&subject());
    world.assert_outcome(&world.invoke("new", rotate("new")).await, "rotated");
    assert!(life_of(&world) > ahead.life);
    world.sweep_until_rest(&subject()).await;
    world.assert_settled_on(2);
}

#[tokio::test(start_paused = true)]
async fn second_copy_of_a_record_holds_the_leg() {
    let world = used_for_a_day(84, &items()).await;
    let accepted = place("dynamodb:configuration/id=accepted");
    world.rival(Some(&accepted));
    let writes = world.calls(Some("write"));
    let ending = world.invoke("held", rotate("held")).await;
    world.assert_outcome(&ending, "held");
    let reason = ending.answer()["held"]["reason"].to_string();
    assert!(reason.contains("another copy of this record"), "{reason}");
    assert!(world.calls(Some("write")) - writes <= 4, "it is tried a few times, and no more");
    assert_stays_held(&world).await;
    world.rival(None);
    world.sweep_until_rest(&subject()).await;
    world.assert_settled_on(4);
}

/// Marks an object as written by a newer record. A rotation is refused before anything is minted. A
/// rotation that began before the mark is held, and its ending is returned.
async fn refused_before_the_mint_and_held_after(
    world: &MemoryWorld,
    mark: impl Fn(Fence),
) -> Ending {
    let minted = world.minted(&subject());
    mark(newer());
    world.pass(Duration::from_secs(5 * 60)).await;
    let refused = world.invoke("refused", rotate("refused")).await;
    world.assert_outcome(&refused, "PreflightFailed");
    assert!(format!("{refused:?}").contains(&newer().to_string()), "{refused:?}");
    assert_eq!(world.minted(&subject()), minted);

    mark(Fence::default());
    let begun = world.invoke("begins", rotate_without_waiting("held")).await;
    world.assert_outcome(&begun, "in_progress");
    mark(newer());
    world.pass(Duration::from_secs(5 * 60)).await;
    world.invoke("held", rotate("held")).await
}

/// Asserts that the report names the object and the lives of both records.
#[track_caller]
fn assert_held_by_both(world: &MemoryWorld, held: &Value, object: &str) {
    assert!(held["object"].as_str().is_some_and(|it| it.contains(object)), "{held:#}");
    let reason = held["reason"].as_str().unwrap_or_default();
    let record = world.record(&subject()).expect("a record");
    let ours = record.life().expect("a life").to_string();
    let theirs = newer().to_string();
    assert!(reason.contains(&ours) && reason.contains(&theirs), "{held:#}");
}

/// Asserts that an hour of sweeps saves a few times, by the back-off, and that the rotation stays held.
async fn assert_stays_held(world: &MemoryWorld) {
    let before = world.saved(&subject()).len();
    for _ in 0..60 {
        world.pass(Duration::from_secs(60)).await;
        world.invoke("sweep", Request::Sweep).await;
    }
    let saves = world.saved(&subject()).len() - before;
    assert!((1..=40).contains(&saves), "{saves} saves in an hour");
    assert!(world.record(&subject()).is_some_and(|it| it.held().is_some()));
}
