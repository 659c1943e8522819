//! Integration tests: one binary, because each one links the SDKs anew.
#![expect(clippy::unwrap_used, reason = "a test may stop at what it did not expect")]

mod amount;
mod clusters;
mod contract;
mod costs;
mod crash;
mod damage;
mod drift;
mod events;
mod fresh;
mod hostile;
mod import;
mod layers;
mod metrics;
mod model;
mod moves;
mod notices;
mod parse;
mod pipeline;
mod race;
mod readme;
mod real_cluster;
mod respecified;
mod sample;
mod scene;
mod schema;
mod simulation;
mod sources;
mod story;
mod sweep;
mod template;
mod terraform;
mod trust;
mod wire;
mod wire_cluster;
mod world;
