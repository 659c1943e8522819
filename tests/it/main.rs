//! Tests of the whole: its files, its templates, and real clusters.
#![expect(clippy::unwrap_used, reason = "a test may stop at what it did not expect")]

mod costs;
mod environment;
mod layers;
mod readme;
mod real_cluster;
mod sources;
mod template;
mod terraform;
mod words;
