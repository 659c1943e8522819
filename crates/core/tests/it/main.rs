//! Tests of the core in a world in memory. No SDK is built for them.
#![expect(clippy::unwrap_used, reason = "a test may stop at what it did not expect")]

mod asked;
mod clusters;
mod contract;
mod crash;
mod drift;
mod events;
mod fake_self_test;
mod fence;
mod forget;
mod fresh;
mod hostile;
mod import;
mod lifecycle;
mod lives;
mod metrics;
mod model;
mod names;
mod parse;
mod pipeline;
mod race;
mod simulation;
mod spec_change;
mod stuck;
mod sweep;
mod token_events;
mod transitions;
