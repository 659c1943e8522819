//! Test support that several crates share. No SDK is named here, so the core's tests build none.
#![expect(clippy::unwrap_used, reason = "a test may stop at what it did not expect")]

pub mod amount;
pub mod contract;
pub mod damage;
pub mod measured;
pub mod sample;
pub mod scene;
pub mod schema;
pub mod world;
