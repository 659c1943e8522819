//! changeover rotates the shared tokens that services authenticate each other with, without one
//! failed request.
//!
//! A rotation is a parallel change of one token with two sides: verifiers, who check it, and
//! presenters, who send it.
//!
//! ```text
//!      EXPAND (verifiers)   MIGRATE (presenters)   OVERLAP (verifiers)            CONTRACT
//! mint publish sync roll ─► publish sync roll ───► publish sync roll ─► until T ─► publish sync
//!      accept N and N-1     present N              accept N, N-1 until T          accept N only
//! ```
//!
//! What it keeps, in every execution, however often it is killed:
//!
//! - Some token is accepted by every verifier and presented by every presenter, always.
//! - A value is sealed and saved before anybody can see it; what is published equals the record.
//! - Version numbers grow, none is minted twice, and one trigger's key mints once.
//! - The record names the step owed, never the step done: carrying on from it is harmless.
//! - The previous version gets its end when presenters are proved to be on the new one.
//!
//! The modules, in the order in which a request passes through them: each uses what is listed below it, and
//! what comes in. `tests/it/layers.rs` holds that.

// What comes in.
pub mod event;

// What carries it out, from the event down to the ports.
pub mod invoke;
mod pipeline;
mod sweep;
mod status;
mod preflight;
mod forget;
pub mod rotate;
mod admit;
mod ends;
mod drift;
mod start;
mod steps;
mod inbox;
mod session;
pub mod plan;
mod look;
pub mod embedded_metrics;
pub mod random;
pub mod ports;

// What is told of it.
pub mod metrics;
pub mod notice;
pub mod report;
pub mod verdict;
pub mod finding;

// Time, randomness and the log, which enter and leave at the edge.
pub mod clock;
pub mod host;

// What it is about.
pub mod record;
pub mod spec;
pub mod error;
