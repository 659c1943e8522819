//! Tests of the core in a world in memory. No SDK is built for them.
#![expect(clippy::unwrap_used, reason = "a test may stop at what it did not expect")]

mod asked;
mod clusters;
mod contract;
mod crash;
mod drift;
mod events;
mod fence;
mod forget;
mod fresh;
mod hostile;
mod import;
mod lives;
mod metrics;
mod model;
mod moves;
mod names;
mod token_events;
mod parse;
mod pipeline;
mod race;
mod respecified;
mod simulation;
mod story;
mod stuck;
mod sweep;
mod trust;
