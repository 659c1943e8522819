//! Seeded worlds: any spec, any requests, anything that may befall them, some of it at once.
//!
//! `CHANGEOVER_SEEDS=5000` runs that many worlds; a failure names the seed that replays it, and
//! `CHANGEOVER_SEEDS=17..18` runs that one.

use std::{collections::BTreeMap, time::Duration};

use changeover::event::Request;
use futures::future::join_all;
use serde_json::{Value, json};

use crate::{
    scene::*,
    world::{Dice, Ending, Fault, Faults, Intruder, LATE_WRITE, MemoryWorld, place},
};

#[test]
fn no_request_fails_in_any_world() {
    for seed in seeds() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime");
        runtime.block_on(live(seed));
    }
}

/// The seeds to run: a number of them, or a range.
#[expect(clippy::disallowed_methods, reason = "how long a test runs is up to whoever runs it")]
fn seeds() -> std::ops::Range<u64> {
    let asked = std::env::var("CHANGEOVER_SEEDS").unwrap_or_else(|_| "200".to_owned());
    let number = |text: &str| text.parse().expect("CHANGEOVER_SEEDS is a number, or two as 3..7");
    match asked.split_once("..") {
        Some((first, end)) => number(first)..number(end),
        None => 0..number(&asked),
    }
}

/// One world, from its first publication to rest.
async fn live(seed: u64) {
    let dice = &mut Dice::new(seed ^ 0x5eed);
    let world = MemoryWorld::new(seed);
    let spec = some_spec(dice);
    world.replayed_by(format!("CHANGEOVER_SEEDS={seed}..{}, spec {spec}", seed + 1));
    world.specify(&subject(), &spec);
    if dice.one_in(3) {
        for publication in spec["presenters"]["publish"].as_array().expect("publications") {
            world.in_use_before(&place_of(publication), "issued-by-hand");
        }
    }
    let mut broken = None;
    for turn in 0..3 + dice.below(6) {
        match dice.below(9) {
            0 => world.pass(dice.milliseconds(1..200_000)).await,
            1 => world.restart_some_pod(),
            2 if broken.is_none() => {
                if let Some(name) = some_workload(dice, &spec) {
                    world.break_workload(&name, "CrashLoopBackOff");
                    broken = Some(name);
                }
            }
            3 => {
                if let Some(name) = broken.take() {
                    world.fix_workload(&name);
                }
            }
            _ => {
                // Mostly one at a time, sometimes a few at once.
                let at_once = if dice.one_in(3) { 2 + dice.below(2) } else { 1 };
                let runs: Vec<_> = (0..at_once).map(|which| some_run(dice, turn, which)).collect();
                let runs = runs.into_iter().map(|run| disturbed(&world, run));
                join_all(runs).await;
            }
        }
    }
    if let Some(name) = broken {
        world.fix_workload(&name);
    }
    // Whatever befell it: from here on nothing does, and a sweep a minute is enough.
    world.sweep_until_rest(&subject()).await;
    let mut rotated = world.invoke("last", rotate("last")).await;
    for _ in 0..3 {
        if matches!(rotated.outcome(), "rotated" | "unchanged") {
            break;
        }
        // A first publication comes before a rotation; a write in the air defers one.
        world.pass(LATE_WRITE).await;
        world.sweep_until_rest(&subject()).await;
        rotated = world.invoke("last", rotate("very last")).await;
    }
    if !matches!(rotated.outcome(), "rotated" | "unchanged") {
        world.fail(&format!("the last rotation ended so: {rotated:?}"));
    }
    world.sweep_until_rest(&subject()).await;
    world.pass(Duration::from_secs(4 * 60)).await;
    world.assert_settled();
}

/// What an invocation is, and what befalls it.
struct Planned {
    id: String,
    request: Request,
    begins_after: Duration,
    time: Duration,
    faults: Faults,
}

async fn disturbed(world: &MemoryWorld, planned: Planned) {
    tokio::time::sleep(planned.begins_after).await;
    let undisturbed = planned.faults.is_none();
    let run = world.run(&planned.id, planned.request, planned.time, planned.faults).await;
    // A refusal is an answer; a promise of one's own that was broken never is.
    let fails_well = |error: &changeover::error::Error| {
        let is_refusal = error.kind.as_str() == "PreflightFailed";
        is_refusal || (!undisturbed && error.kind.as_str() == "Unreachable")
    };
    if let Ending::Failed(error) = &run.ending
        && !fails_well(error)
    {
        world.fail(&format!("{} failed: {error}", planned.id));
    }
}

fn some_run(dice: &mut Dice, turn: usize, which: usize) -> Planned {
    let mut faults = Faults::none();
    if dice.one_in(2) {
        for _ in 0..1 + dice.below(2) {
            faults.calls.insert(1 + dice.below(30), some_fault(dice));
        }
    }
    if dice.one_in(5) {
        let id = format!("intruder {turn}.{which}");
        let intruder = Intruder::new(&id, some_request(dice));
        faults.intruders = BTreeMap::from([(1 + dice.below(30), intruder)]);
    }
    Planned {
        id: format!("invocation {turn}.{which}"),
        request: some_request(dice),
        begins_after: dice.milliseconds(1..5_000),
        time: *dice.pick(&[15, 40, 120, 900].map(Duration::from_secs)),
        faults,
    }
}

fn some_request(dice: &mut Dice) -> Request {
    match dice.below(10) {
        0..5 => rotate(&format!("key {}", dice.below(6))),
        5 => rotate_without_waiting(&format!("key {}", dice.below(6))),
        6 => publish(),
        7 => drop_pending(),
        _ => Request::Sweep,
    }
}

fn some_fault(dice: &mut Dice) -> Fault {
    let late = dice.milliseconds(1..LATE_WRITE.as_millis() as u64 - 20_000);
    *dice.pick(&[
        Fault::CutBefore,
        Fault::CutAfter,
        Fault::CutLate(late),
        Fault::FailBefore,
        Fault::FailAfter,
        Fault::FailLate(late),
        Fault::Twice(late),
    ])
}

fn some_spec(dice: &mut Dice) -> Value {
    let mut spec = json!({
        "token": {"bytes": 32},
        "overlap": *dice.pick(&["5s", "20s", "2m"]),
        "presenters": some_audience(dice, "presented"),
    });
    if !dice.one_in(8) {
        spec["verifiers"] = some_audience(dice, "accepted");
        if dice.one_in(6) {
            let publications = spec["verifiers"]["publish"].as_array_mut().expect("an array");
            publications.iter_mut().for_each(|it| it["as"] = json!("plain"));
        }
        // The same workload may stand on both sides.
        if dice.one_in(3) {
            let verifier = spec["verifiers"]["workloads"][0]["deployment"].clone();
            let presenter = spec.pointer_mut("/presenters/workloads/0/deployment");
            if let Some(presenter) = presenter.filter(|_| verifier.is_string()) {
                *presenter = verifier;
            }
        }
    }
    spec
}

fn some_audience(dice: &mut Dice, view: &str) -> Value {
    let parameter = json!({"ssm": format!("/backend/{view}")});
    let publications = match dice.below(4) {
        0 => vec![parameter],
        1 => vec![item(view)],
        2 => vec![parameter, item(view)],
        _ => vec![parameter, json!({"ssm": format!("/elsewhere/{view}")})],
    };
    let has_parameter = publications[0]["ssm"].is_string();
    let mut audience = json!({"publish": publications});
    let mut workloads = Vec::new();
    for number in 0..dice.below(3) {
        let name = format!("{view}-{number}");
        let mut it = workload(&name, &format!("{name}-secret"));
        if !has_parameter {
            it.as_object_mut().expect("an object").remove("external_secret");
        }
        if dice.one_in(3) {
            it["picks_up"] = json!({"within": "2m"});
        }
        workloads.push(it);
    }
    let restarts = workloads.iter().any(|it| it["picks_up"].is_null());
    if !restarts || dice.one_in(2) {
        audience["within"] = json!(*dice.pick(&["0s", "2s", "12s", "70s"]));
    }
    if !workloads.is_empty() {
        audience["workloads"] = json!(workloads);
    }
    audience
}

fn some_workload(dice: &mut Dice, spec: &Value) -> Option<String> {
    let side = *dice.pick(&["verifiers", "presenters"]);
    let workloads = spec[side]["workloads"].as_array()?;
    let workload = dice.pick(workloads);
    workload["deployment"].as_str().map(deployed)
}

fn place_of(publication: &Value) -> changeover::spec::Place {
    match publication["ssm"].as_str() {
        Some(name) => place(&format!("ssm:{name}")),
        None => {
            let id = publication["dynamodb"]["key"]["id"].as_str().expect("a key");
            place(&format!("dynamodb:configuration/id={id}"))
        }
    }
}
