//! changeover.

pub mod config;
pub mod error;
pub mod event;
pub mod spec;
pub mod token;
