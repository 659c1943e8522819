//! changeover.
