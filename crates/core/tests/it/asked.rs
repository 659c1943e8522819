//! Rotations requested once, by a sender that does not repeat the request. Each yields a version or an
//! error, whatever is in progress. Owed steps are not delayed by it.

use std::time::Duration;

use changeover_core::{event::Request, record::Record, spec::Side};
use changeover_testkit::{
    amount,
    scene::*,
    world::{Ending, Fault, Faults, Intruder, LONG, MemoryWorld, place},
};

use serde_json::json;

/// The work in progress when a rotation is requested. The request for this work has a key of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Occupant {
    Rotation,
    Publication,
    Repair,
    Overlap,
}

use Occupant::{Overlap, Publication, Repair, Rotation};

const OCCUPANTS: [Occupant; 4] = [Rotation, Publication, Repair, Overlap];
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const ACCEPTED: &str = "ssm:/backend/token/accepted";

impl Occupant {
    /// A world in which the next request begins this work, or resumes it.
    async fn about_to_begin(self) -> MemoryWorld {
        let world = in_service(100, &workloads()).await;
        match self {
            Rotation | Publication => {}
            Repair => {
                // The same document in other bytes, as after a write of an earlier version.
                let document = world.value(&place(ACCEPTED), Side::Verifiers);
                world.edit(&place(ACCEPTED), Side::Verifiers, &format!("{document} "));
                world.pass(DAY).await;
            }
            Overlap => {
                world.assert_outcome(&world.invoke("old", rotate("old")).await, "rotated");
                // The index lags behind the table.
                world.pass(Duration::from_secs(1)).await;
            }
        }
        world
    }

    fn request(self) -> Request {
        match self {
            Rotation => rotate("occupant"),
            Publication => publish(),
            Repair | Overlap => Request::Sweep,
        }
    }

    /// Number of calls of the undisturbed work.
    async fn calls(self) -> usize {
        let world = self.about_to_begin().await;
        world.run("occupant", self.request(), LONG, Faults::none()).await.calls
    }
}

/// Number of the current version.
fn current(world: &MemoryWorld) -> u64 {
    let record = world.record(&subject()).expect("a record");
    record.in_stage(changeover_token::Stage::Current).expect("a current one").version.get()
}

fn waits() -> [Option<Duration>; 2] {
    [Some(Duration::ZERO), None]
}

/// One of the waits for each call, alternating, or both if everything is tried.
fn waits_at(call: usize) -> impl Iterator<Item = Option<Duration>> {
    let chosen =
        move |(number, wait)| (amount::is_everything() || number == (call / 2) % 2).then_some(wait);
    waits().into_iter().enumerate().filter_map(chosen)
}

/// Asserts that the rotation requested under this key was not forgotten. `before` is the version that was
/// current at the request, and `outcome` is the outcome of the requesting invocation.
async fn assert_kept(world: &MemoryWorld, key: &str, before: u64, outcome: &str) {
    if outcome == "Throttled" {
        return;
    }
    let is_answer = ["rotated", "unchanged", "in_progress", "held", "deferred"].contains(&outcome);
    assert!(is_answer, "{outcome}");
    world.sweep_until_rest(&subject()).await;
    let again = world.invoke("asked again", rotate(key)).await;
    world.assert_outcome(&again, "unchanged");
    let version = again.answer()["version"].as_u64().expect("a version");
    if version <= before {
        world.fail(&format!("{key} brought version {version}, and {before} was current"));
    }
    world.assert_settled();
}

#[tokio::test(start_paused = true)]
async fn rotation_requested_between_calls_is_not_lost() {
    for occupant in OCCUPANTS {
        let mut ended = std::collections::BTreeMap::<String, usize>::new();
        for call in amount::calls(1..=occupant.calls().await) {
            for wait in waits_at(call) {
                let world = occupant.about_to_begin().await;
                world.replayed_by(format!("{occupant:?}, asked before call {call}, {wait:?}"));
                let before = current(&world);
                let asks = Intruder::new("asks", rotate_for(wait, "asked", []));
                world.run("occupant", occupant.request(), LONG, Faults::intruded(call, asks)).await;
                let outcome = world.ending_of("asks").expect("it ran");
                assert_kept(&world, "asked", before, &outcome).await;
                *ended.entry(outcome).or_default() += 1;
            }
        }
        let kept: usize = ended.iter().filter(|(it, _)| *it != "Throttled").map(|(_, n)| n).sum();
        // A rotation is refused at a few calls. If only a few calls are tried, they may be just those.
        let are_most = kept * 2 > ended.values().sum() || amount::is_little();
        assert!(are_most, "{occupant:?}: most are kept: {ended:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn rotation_requested_after_any_cut_is_not_lost() {
    for occupant in OCCUPANTS {
        let calls = occupant.calls().await;
        for (number, fault) in [Fault::CutAfter, Fault::FailAfter].into_iter().enumerate() {
            let is_tried = |call: &usize| amount::is_everything() || call % 2 == number;
            for call in amount::calls((1..=calls).filter(is_tried)) {
                for wait in waits_at(call) {
                    let world = occupant.about_to_begin().await;
                    world.replayed_by(format!("{occupant:?}, {fault:?} at {call}, {wait:?}"));
                    let before = current(&world);
                    let faults = Faults::at(call, fault);
                    world.run("occupant", occupant.request(), LONG, faults).await;
                    let due_at = world.record(&subject()).expect("a record").due_at();
                    let ending = world.invoke("asks", rotate_for(wait, "asked", [])).await;
                    let due_again = world.record(&subject()).expect("a record").due_at();
                    if wait.is_some() && due_again > due_at.max(Some(world.now())) {
                        world.fail(&format!("put off from {due_at:?} to {due_again:?}"));
                    }
                    assert_kept(&world, "asked", before, ending.outcome()).await;
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn held_work_is_followed_by_requested_rotation() {
    // A publication skips rollouts, so it is not held by one.
    for occupant in [Rotation, Repair, Overlap] {
        for wait in waits() {
            let world = occupant.about_to_begin().await;
            world.replayed_by(format!("{occupant:?} is held, {wait:?}"));
            let before = current(&world);
            world.break_workload(&deployed("datastore"), "CrashLoopBackOff");
            world.invoke("occupant", occupant.request()).await;
            let record = world.record(&subject()).expect("a record");
            assert!(record.held().is_some(), "{occupant:?}");
            let asked = world.invoke("asks", rotate_for(wait, "asked", [])).await;
            let is_held = occupant != Overlap && wait.is_none();
            world.assert_outcome(&asked, if is_held { "held" } else { asked.outcome() });
            // A second delivery of the same request changes nothing.
            world.invoke("asks again", rotate_for(wait, "asked", [])).await;
            world.fix_workload(&deployed("datastore"));
            assert_kept(&world, "asked", before, asked.outcome()).await;
        }
    }
}

/// A token whose accepted set is full, and whose last overlap is still owed.
async fn full() -> MemoryWorld {
    let mut spec = workloads();
    spec["overlap"] = json!("2h");
    let world = in_service(101, &spec).await;
    for number in 0.. {
        let depth = world.spec(&subject()).accepted_depth();
        if world.record(&subject()).expect("a record").versions().len() == depth {
            break;
        }
        let ending = world.invoke("burst", rotate(&format!("burst {number}"))).await;
        world.assert_outcome(&ending, "rotated");
    }
    world
}

#[tokio::test(start_paused = true)]
async fn deferred_rotation_postpones_no_owed_work() {
    for wait in waits() {
        let world = full().await;
        world.replayed_by(format!("full, {wait:?}"));
        let before = current(&world);
        let owed = |world: &MemoryWorld| {
            let owed = world.record(&subject()).and_then(|record| record.owed());
            owed.map(|owed| format!("{}/{}", owed.leg.as_str(), owed.step.as_str()))
        };
        assert_eq!(owed(&world).as_deref(), Some("overlap/sync"), "it is still owed");
        let asked = world.invoke("asks", rotate_for(wait, "asked", [])).await;
        let expected = if wait.is_some() { "in_progress" } else { "deferred" };
        world.assert_outcome(&asked, expected);
        world.pass(Duration::from_secs(60)).await;
        world.invoke("sweep", Request::Sweep).await;
        assert_eq!(owed(&world).as_deref(), Some("contract/retire"), "verifiers are told");
        let record = world.record(&subject()).expect("a record");
        assert!(record.queued().is_some());
        assert_kept(&world, "asked", before, asked.outcome()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn rotation_requested_during_late_write_is_not_lost() {
    let late = Fault::Twice(Duration::from_secs(4 * 60 + 40));
    let mut deferred = 0;
    for call in amount::calls(1..=Rotation.calls().await) {
        for wait in waits_at(call) {
            let world = Rotation.about_to_begin().await;
            world.replayed_by(format!("{late:?} at {call}, {wait:?}"));
            world.run("occupant", Rotation.request(), LONG, Faults::at(call, late)).await;
            let before = current(&world);
            let asked = world.invoke("asks", rotate_for(wait, "asked", [])).await;
            deferred += usize::from(asked.outcome() == "deferred");
            assert_kept(&world, "asked", before, asked.outcome()).await;
        }
    }
    assert!(deferred > 0 || amount::is_little(), "no reply was lost");
}

/// Requests a fresh version, to follow the work in progress, without waiting for it.
async fn queue(world: &MemoryWorld, key: &str, without: &[&str]) -> Ending {
    let asked = Request::Rotate {
        token: subject(),
        key: Some(key.to_owned()),
        wait: Some(Duration::ZERO),
        without: without.iter().map(|&cluster| cluster.to_owned()).collect(),
        fresh: true,
    };
    world.invoke(key, asked).await
}

fn is_queued(world: &MemoryWorld) -> bool {
    world.record(&subject()).as_ref().and_then(Record::queued).is_some()
}

#[tokio::test(start_paused = true)]
async fn drop_withdraws_queued_rotation() {
    // One rotation waits behind a pending version, which is dropped with it. The other waits behind a
    // version that presenters may have.
    for is_presented in [false, true] {
        let world = in_service(102, &workloads()).await;
        if is_presented {
            world.break_workload(&deployed("backend"), "CrashLoopBackOff");
            world.assert_outcome(&world.invoke("a", rotate("a")).await, "held");
        } else {
            let begun = world.invoke("a", rotate_without_waiting("a")).await;
            world.assert_outcome(&begun, "in_progress");
        }
        queue(&world, "b", &[]).await;
        assert!(is_queued(&world));
        let dropped = world.invoke("drop", drop_pending()).await;
        world.assert_outcome(&dropped, "dropped");
        let warnings = dropped.answer()["warnings"].to_string();
        let reported = if is_presented { "version 2 continues" } else { "taken back too" };
        assert!(warnings.contains(reported), "{warnings}");
        assert!(!is_queued(&world));
        world.fix_workload(&deployed("backend"));
        world.sweep_until_rest(&subject()).await;
        let (version, of_a) = if is_presented { (2, "unchanged") } else { (1, "dropped") };
        world.assert_settled_on(version);
        for (key, outcome) in [("a", of_a), ("b", "dropped")] {
            world.assert_outcome(&world.invoke(key, rotate(key)).await, outcome);
        }
        assert_eq!(world.minted(&subject()), 2);
        world.assert_outcome(&world.invoke("c", rotate("c")).await, "rotated");
    }
}

#[tokio::test(start_paused = true)]
async fn drop_of_waiting_rotation_survives_any_cut() {
    for fault in [Fault::CutBefore, Fault::CutAfter, Fault::FailAfter] {
        for call in 1..8 {
            let world = in_service(103, &workloads()).await;
            world.replayed_by(format!("{fault:?} at call {call}"));
            world.break_workload(&deployed("backend"), "CrashLoopBackOff");
            world.invoke("a", rotate("a")).await;
            queue(&world, "b", &[]).await;
            world.run("drop", drop_pending(), LONG, Faults::at(call, fault)).await;
            world.invoke("drop again", drop_pending()).await;
            world.fix_workload(&deployed("backend"));
            world.sweep_until_rest(&subject()).await;
            world.assert_settled_on(2);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn queued_rotation_keeps_its_excluded_clusters() {
    let mut spec = workloads();
    let mut away = workload("away", "away-token");
    away["cluster"] = json!("homelab");
    spec["presenters"]["workloads"].as_array_mut().unwrap().push(away);
    let world = in_service(104, &spec).await;
    // The work in progress is resumed first, also without the cluster, so that the cluster is not waited
    // for twice.
    world.assert_outcome(&world.invoke("publish", publish()).await, "published");
    world.break_workload(&deployed("datastore"), "CrashLoopBackOff");
    world.assert_outcome(&world.invoke("a", rotate("a")).await, "held");
    queue(&world, "b", &["homelab"]).await;
    let status =
        world.invoke("status", Request::Status { token: Some(subject()), after: None }).await;
    let queued = &status.answer()["results"][0]["queued"];
    assert_eq!(queued["without"], json!(["homelab"]), "{status:?}");
    assert!(queued["since"].is_string(), "{status:?}");
    world.give_up_cluster("homelab");
    world.fix_workload(&deployed("datastore"));
    world.sweep_until_rest(&subject()).await;
    let asked = world.invoke("b", rotate("b")).await;
    world.assert_outcome(&asked, "unchanged");
    assert_eq!(asked.answer()["version"], 3);
    let audit = world.audit(&subject(), 3).expect("an audit");
    assert_eq!(audit.without, ["homelab".to_owned()].into());
}

#[tokio::test(start_paused = true)]
async fn refused_queued_rotation_is_reported_as_overdue() {
    let world = in_service(105, &workloads()).await;
    world.assert_outcome(&world.invoke("a", rotate_without_waiting("a")).await, "in_progress");
    queue(&world, "b", &[]).await;
    while current(&world) == 1 {
        world.pass(Duration::from_secs(10)).await;
        world.invoke("sweep", Request::Sweep).await;
    }
    world.pause_workload(&deployed("backend"), true);
    for _ in 0..3 * 60 {
        world.pass(Duration::from_secs(60)).await;
        world.invoke("sweep", Request::Sweep).await;
    }
    assert!(is_queued(&world));
    let measured = world.measured().into_iter().rev();
    let mut measured =
        measured.map(|line| serde_json::from_str::<serde_json::Value>(&line).unwrap());
    let overdue = measured.find_map(|line| line["Overdue"].as_u64()).expect("it was measured");
    assert!(overdue > 60 * 60, "{overdue} s");
    let status =
        world.invoke("status", Request::Status { token: Some(subject()), after: None }).await;
    let failing = &status.answer()["results"][0]["failing"];
    assert_eq!(failing["error"], "PreflightFailed", "{status:?}");
    world.pause_workload(&deployed("backend"), false);
    world.pass(Duration::from_secs(60 * 60)).await;
    world.sweep_until_rest(&subject()).await;
    world.assert_settled_on(3);
}

#[tokio::test(start_paused = true)]
async fn requests_do_not_delay_retry_of_held_rotation() {
    let world = in_service(106, &workloads()).await;
    world.break_workload(&deployed("datastore"), "CrashLoopBackOff");
    world.assert_outcome(&world.invoke("a", rotate("a")).await, "held");
    let attempts = |world: &MemoryWorld| {
        world.record(&subject()).as_ref().and_then(Record::held).expect("held").attempts
    };
    let (before, due_at) = (attempts(&world), world.record(&subject()).unwrap().due_at());
    for _ in 0..20 {
        world.invoke("a", rotate_without_waiting("a")).await;
    }
    assert_eq!(attempts(&world), before);
    assert_eq!(world.record(&subject()).unwrap().due_at(), due_at);
}
