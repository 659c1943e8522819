//! The function: its configuration, and the clusters that it reaches. Everything else is below `crates/`.

pub mod clusters;
pub mod config;
pub mod deadline;
