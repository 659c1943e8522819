//! rotator.
fn main() {}
