//! Tests of each adapter at the SDK's HTTP seam, and on the testbed's emulator.
#![expect(clippy::unwrap_used, reason = "a test may stop at what it did not expect")]

mod contract;
mod emulator;
mod wire;
