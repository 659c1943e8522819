//! Measurements of worlds in which everything that is measured happened.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use changeover_core::event::Request;
use serde_json::Value;

use crate::{
    scene::*,
    schema::strings,
    world::{Bus, MemoryWorld, token},
};

/// The metrics that CloudWatch makes of the lines: each namespace, name and set of dimensions is a separate
/// metric.
pub fn metrics_in(lines: &[String]) -> BTreeSet<(String, String, BTreeMap<String, String>)> {
    let mut metrics = BTreeSet::new();
    for line in parsed(lines) {
        for directive in line["_aws"]["CloudWatchMetrics"].as_array().unwrap() {
            for dimensions in directive["Dimensions"].as_array().unwrap() {
                let valued = strings(dimensions).into_iter().map(|name| {
                    let value = line[&name].as_str().unwrap().to_owned();
                    (name, value)
                });
                let namespace = directive["Namespace"].as_str().unwrap().to_owned();
                let name = directive["Metrics"][0]["Name"].as_str().unwrap().to_owned();
                metrics.insert((namespace, name, valued.collect()));
            }
        }
    }
    metrics
}

/// Worlds in which everything that is measured happened.
pub async fn worlds() -> Vec<MemoryWorld> {
    let mut worlds = Vec::new();
    for (kind, spec) in kinds() {
        let world = in_service(30, &spec).await;
        world.replayed_by(kind);
        world.assert_outcome(&world.invoke("a", rotate("a")).await, "rotated");
        world.sweep_until_rest(&subject()).await;
        worlds.push(world);
    }
    let world = in_service(31, &workloads()).await;
    world.break_bus(Bus::Refuses);
    world.break_workload(&deployed("backend"), "CrashLoopBackOff");
    world.assert_outcome(&world.invoke("a", rotate("a")).await, "held");
    world.pass(Duration::from_secs(60)).await;
    world.invoke("sweep", Request::Sweep).await;
    world.assert_outcome(
        &world.invoke("status", Request::Status { token: None, after: None }).await,
        "reported",
    );
    let unknown = Request::Publish { token: token("unknown"), adopt: false };
    world.assert_outcome(&world.invoke("b", unknown).await, "UnknownToken");
    worlds.push(world);
    worlds
}

pub fn parsed(lines: &[String]) -> Vec<Value> {
    lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect()
}
