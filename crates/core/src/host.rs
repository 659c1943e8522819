//! The computer that it runs on: the one place where time and randomness enter, and lines leave.

use std::io::{self, Write};

use jiff::Timestamp;
use rand::{TryRng, rngs::SysRng};

use crate::error::{Error, Kind};

/// What time it is.
#[expect(clippy::disallowed_methods, reason = "everything else is told the time by this")]
pub fn now() -> Timestamp {
    Timestamp::now()
}

/// Fills the bytes with the operating system's randomness.
///
/// # Errors
/// `Internal` where it has none.
pub fn fill(bytes: &mut [u8]) -> Result<(), Error> {
    SysRng.try_fill_bytes(bytes).map_err(|cause| {
        Error::new(
            Kind::Internal,
            "draw random bytes",
            "the operating system has none",
            "invoke it again",
        )
        .caused_by(&cause)
    })
}

/// Prints a line to where the log goes, whole. Where that is not taken, there is nobody to tell.
pub fn print(line: &str) {
    let _ = io::stdout().lock().write_all(format!("{line}\n").as_bytes());
}
