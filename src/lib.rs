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
//! The modules, in the order in which a request passes through them:

pub mod config;
pub mod event;
pub mod pipeline;
pub mod invoke;
mod sweep;
mod preflight;
pub mod spec;
pub mod plan;
pub mod rotate;
mod begin;
mod look;
mod import;
mod steps;
mod compare;
mod turn;
pub mod record;
pub mod token;
pub mod report;
pub mod notice;
pub mod metrics;
pub mod time;
pub mod error;
pub mod world;

/// The other binary's: what a person or a deploy step has at hand. Nothing above knows of it.
#[cfg(feature = "command")]
pub mod command;
