//! The whole function in seeded worlds: any spec, any requests and any faults, some of them at once, under
//! a paused clock.
//!
//! A world that breaks a promise is shrunk to the smallest schedule that still breaks one. The failure
//! names the seed: `CHANGEOVER_SEEDS=17..18` runs that world, and `CHANGEOVER_SEEDS=5000` runs that many.
//! Without it the commit draws a few hundred, and `make verify` runs 20,000.

mod schedule;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use changeover_core::{
    error::Error,
    event::Request,
    spec::{Place, Side},
};
use changeover_testkit::{
    amount::seeds,
    sample::life,
    scene::*,
    world::{Ending, LATE_WRITE, MemoryWorld, place},
};
use changeover_token::Fence;
use futures::future::join_all;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};
use serde_json::Value;

use schedule::{Happening, Planned, Schedule, schedules};

/// The number of worlds that the commit draws.
const SAMPLE: u64 = 400;
/// The number of worlds that `make verify` runs.
const EVERYTHING: u64 = 20_000;
/// The number of schedules that are tried while a failing one is made smaller.
const SHRINKS: u32 = 400;

// Two tests, so that they run in parallel.
#[test]
fn no_request_fails_in_worlds_of_even_seeds() {
    play_all(seeds(SAMPLE, EVERYTHING).filter(|seed| seed % 2 == 0));
}

#[test]
fn no_request_fails_in_worlds_of_odd_seeds() {
    play_all(seeds(SAMPLE, EVERYTHING).filter(|seed| seed % 2 == 1));
}

#[test]
fn broken_promise_shrinks_to_its_cause() {
    // A stand-in for a defect: every schedule fails in which a pod is restarted.
    let play = |schedule: &Schedule| {
        let broken = schedule.turns.iter().any(|turn| matches!(turn, Happening::PodRestarts));
        if broken { Err("a pod restarted".to_owned()) } else { Ok(()) }
    };
    let found = (0..100).find_map(|seed| simulate(seed, play).err());
    let (least, _) = *found.expect("some pod restarts in a hundred worlds");
    assert!(matches!(least.turns[..], [Happening::PodRestarts]), "{least:#?}");
}

fn play_all(seeds: impl Iterator<Item = u64>) {
    let mut played = 0;
    for seed in seeds {
        if let Err(failure) = simulate(seed, play) {
            let (least, broken) = *failure;
            panic!(
                "{broken}\nthe least schedule that breaks it: {least:#?}\n\
                 replay with: CHANGEOVER_SEEDS={seed}..{} cargo test --test it simulation",
                seed + 1
            );
        }
        played += 1;
    }
    tell(&format!("{played} worlds"));
}

#[expect(clippy::print_stdout, reason = "how much was tried is part of the answer")]
fn tell(line: &str) {
    println!("{line}");
}

/// Draws the schedule of a seed and plays it. If that fails, returns the smallest schedule that fails too,
/// and its failure.
fn simulate(
    seed: u64,
    play: impl Fn(&Schedule) -> Result<(), String>,
) -> Result<(), Box<(Schedule, String)>> {
    let config = Config {
        cases: 1,
        max_shrink_iters: SHRINKS,
        failure_persistence: None,
        ..Config::default()
    };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let chance = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let played = TestRunner::new_with_rng(config, chance)
        .run(&schedules(), |schedule| play(&schedule).map_err(TestCaseError::fail));
    played.map_err(|failure| match failure {
        TestError::Fail(broken, least) => Box::new((least, broken.message().to_owned())),
        TestError::Abort(reason) => panic!("seed {seed} was not played: {reason}"),
    })
}

/// Plays a schedule from the first publication to rest. Fails with the promise that was broken.
fn play(schedule: &Schedule) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    let played = catch_unwind(AssertUnwindSafe(|| runtime.block_on(live(schedule))));
    played.map_err(|panic| match panic.downcast::<String>() {
        Ok(broken) => *broken,
        Err(panic) => format!("a panic: {:?}", panic.downcast_ref::<&str>()),
    })
}

#[expect(clippy::too_many_lines, reason = "one world, from its making to its checks")]
async fn live(schedule: &Schedule) {
    let spec = &schedule.spec;
    let world = MemoryWorld::new(schedule.chance);
    world.specify(&subject(), spec);
    let is_imported = spec["source"].is_object();
    // If edits are not adopted, nothing rotates any more until an operator undoes an edit.
    let adopts = spec["on_drift"] == "adopt";
    let publications = spec["presenters"]["publish"].as_array().expect("publications");
    let places: Vec<_> = publications.iter().map(place_of).collect();
    if schedule.is_in_use {
        places.iter().for_each(|place| world.in_use_before(place, "issued-by-hand"));
    }
    // An older fence, by a year, with a higher revision.
    let older = Fence { life: Some(life(-365 * 24 * 3600)), revision: 4_000_000_000 };
    // Objects of another record are there before this one is created.
    let workloads: Vec<_> = Side::BOTH
        .into_iter()
        .flat_map(|side| workloads_of(spec, side).into_iter().map(move |name| (side, name)))
        .collect();
    if schedule.is_marked {
        for (side, name) in &workloads {
            world.apply_stamp(name, &subject(), *side, older);
        }
        if schedule.is_in_use {
            let items = places.iter().filter(|place| place.is_fenced());
            items.for_each(|item| world.mark_item(item, Side::Presenters, older));
        }
        for (side, secret) in written_by(spec) {
            world.mark_secret(&secret, side, older);
        }
    }
    if schedule.turns.iter().any(|it| matches!(it, Happening::TableIsRestored(_))) {
        world.back_up_each_save();
    }
    let mut edits = 100;
    let mut is_deleted = false;
    let mut broken = None;
    // An event that does not fit the spec or the state does nothing, so that any schedule can be played.
    for turn in &schedule.turns {
        match turn {
            Happening::TimePasses(time) => world.pass(*time).await,
            Happening::PodRestarts => world.restart_some_pod(),
            Happening::SpecIsSavedAgain if is_deleted => {}
            Happening::SpecIsSavedAgain => world.specify(&subject(), spec),
            Happening::SpecIsDeleted => {
                is_deleted = true;
                world.unspecify(&subject());
            }
            Happening::SpecIsCreatedAgain => {
                is_deleted = false;
                world.specify(&subject(), spec);
            }
            Happening::ClusterIsDescribedAnew(number) => {
                world.describe(CLUSTER, &format!(r#"{{"eks": {{"name": "{number}"}}}}"#));
            }
            Happening::ParameterIsDeleted(which) => {
                let parameters: Vec<_> = places.iter().filter(|it| !it.is_fenced()).collect();
                // The record keeps its value.
                if !parameters.is_empty() && world.record(&subject()).is_some() {
                    world.delete_parameter(parameters[which.index(parameters.len())]);
                }
            }
            Happening::WorkloadBreaks(which) => {
                if broken.is_none() && !workloads.is_empty() {
                    let (_, name) = workloads[which.index(workloads.len())].clone();
                    world.break_workload(&name, "CrashLoopBackOff");
                    broken = Some(name);
                }
            }
            Happening::WorkloadIsFixed => {
                if let Some(name) = broken.take() {
                    world.fix_workload(&name);
                }
            }
            Happening::ValueArrives { which, is_fit: true } => {
                world.arrive(INBOX, &issued(*which), true);
            }
            Happening::ValueArrives { which, is_fit: false } if which % 2 == 0 => {
                world.arrive(INBOX, "hunter2", true);
            }
            Happening::ValueArrives { which, is_fit: false } => {
                world.arrive(INBOX, &issued(*which), false);
            }
            Happening::SomebodyEdits(which) => {
                if adopts && world.record(&subject()).is_some() {
                    edits += 1;
                    world.edit_presented(&places[which.index(places.len())], &issued(edits));
                }
            }
            Happening::ManifestIsCopied(which) => {
                if !workloads.is_empty() {
                    let (side, name) = &workloads[which.index(workloads.len())];
                    world.apply_stamp(name, &subject(), *side, older);
                }
            }
            Happening::RecordIsDeleted => world.delete_record_at_rest(&subject()),
            Happening::TableIsRestored(which) => {
                let backups = world.harmless_backups(&subject());
                if !backups.is_empty() {
                    world.restore(backups[which.index(backups.len())].clone());
                }
            }
            Happening::ClusterGoesAway => world.lose_cluster(CLUSTER),
            Happening::ClusterIsBack => world.find_cluster(CLUSTER),
            Happening::Invocations(planned) => {
                join_all(planned.iter().map(|planned| disturbed(&world, planned))).await;
            }
        }
    }
    // Everything that would keep the token from rest is repaired.
    world.find_cluster(CLUSTER);
    if is_deleted {
        world.specify(&subject(), spec);
    }
    if let Some(name) = broken {
        world.fix_workload(&name);
    }
    // A valid value replaces one that was refused.
    if is_imported {
        world.arrive(INBOX, &issued(200), true);
    }
    if adopts && world.record(&subject()).is_some() {
        places.iter().for_each(|place| world.edit_presented(place, &issued(201)));
    }
    // Whatever happened before, there are no faults from here on, and one sweep a minute is enough.
    world.sweep_until_rest(&subject()).await;
    let mut rotated = world.invoke("last", rotate("last")).await;
    for _ in 0..3 {
        if matches!(rotated.outcome(), "rotated" | "unchanged") {
            break;
        }
        // A first publication comes before a rotation, and a write in flight defers one.
        world.pass(LATE_WRITE).await;
        world.sweep_until_rest(&subject()).await;
        if rotated.outcome() == "PreflightFailed" {
            world.invoke("first", publish()).await;
            world.sweep_until_rest(&subject()).await;
        }
        rotated = world.invoke("last", rotate("very last")).await;
    }
    if !matches!(rotated.outcome(), "rotated" | "unchanged") {
        world.fail(&format!("the last rotation ended so: {rotated:?}"));
    }
    world.sweep_until_rest(&subject()).await;
    world.pass(Duration::from_secs(4 * 60)).await;
    world.assert_settled();
}

async fn disturbed(world: &MemoryWorld, planned: &Planned) {
    tokio::time::sleep(planned.begins_after).await;
    let Planned { id, request, time, faults, .. } = planned;
    let run = world.run(id, request.clone(), *time, faults.clone()).await;
    // A refusal is a valid answer. A broken promise of the function itself is never one.
    let fails_well = |error: &Error| {
        let kind = error.kind.as_str();
        matches!(kind, "PreflightFailed" | "BadToken")
            // Its spec is deleted, or names no inbox.
            || kind == "UnknownToken"
            // Nothing of it was saved, so its sender asks again.
            || (kind == "Throttled" && matches!(request, Request::Rotate { .. }))
            || (!faults.is_none() && kind == "Unreachable")
    };
    if let Ending::Failed(error) = &run.ending
        && !fails_well(error)
    {
        world.fail(&format!("{id} failed: {error}"));
    }
}

fn workloads_of(spec: &Value, side: Side) -> Vec<String> {
    let workloads = spec[side.as_str()]["workloads"].as_array().into_iter().flatten();
    workloads.filter_map(|workload| workload["deployment"].as_str()).map(deployed).collect()
}

/// The Secrets that are written for the workloads of each side.
fn written_by(spec: &Value) -> Vec<(Side, String)> {
    let of = |side: Side| {
        let workloads = spec[side.as_str()]["workloads"].as_array().into_iter().flatten();
        workloads.filter_map(move |it| Some((side, it["secret"].as_object()?)))
    };
    let name = |(side, secret): (Side, &serde_json::Map<String, Value>)| {
        let part = |field: &str| secret[field].as_str().expect("a text").to_owned();
        (side, format!("{CLUSTER}/backend/{}#{}", part("name"), part("key")))
    };
    Side::BOTH.into_iter().flat_map(of).map(name).collect()
}

fn place_of(publication: &Value) -> Place {
    match publication["ssm"].as_str() {
        Some(name) => place(&format!("ssm:{name}")),
        None => {
            let id = publication["dynamodb"]["key"]["id"].as_str().expect("a key");
            place(&format!("dynamodb:configuration/id={id}"))
        }
    }
}
