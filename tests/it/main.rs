//! Integration tests: one binary, because each one links the SDKs anew.
#![expect(clippy::unwrap_used, reason = "a test may stop at what it did not expect")]

mod contract;
mod events;
mod layers;
mod parse;
mod readme;
mod real_cluster;
mod sample;
mod sources;
mod template;
mod wire;
mod wire_cluster;
