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
//! Guarantees of every execution, however often it is killed:
//!
//! - Whatever token a presenter sends, every verifier accepts it, always.
//! - A value is sealed and saved before it is visible outside. What is published equals the record.
//! - Version numbers grow. None is minted twice, and the key of one trigger mints once.
//! - The record names the step owed, never the step done: resuming from it is harmless.
//! - The previous version gets its end when presenters are proved to be on the new one.
//!
//! The modules, in the order in which a request passes through them. Each uses modules that are listed
//! below it, and the input. `tests/it/layers.rs` checks that.

// Input.
pub mod event;

// Execution, from the event down to the ports.
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
mod observe;
pub mod embedded_metrics;
pub mod random;
pub mod ports;

// Output: metrics, events, reports, verdicts and findings.
pub mod metrics;
pub mod token_event;
pub mod report;
pub mod job_result;
pub mod finding;

// Time, randomness and the log, which enter and leave at the edge.
pub mod clock;
pub mod host;

// Data: records, specs and errors.
pub mod record;
pub mod spec;
pub mod error;
