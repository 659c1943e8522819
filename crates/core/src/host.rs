//! The host of the process: the only place where time and randomness enter, and where lines leave.

use std::io::{self, Write};

use jiff::Timestamp;
use rand::{TryRng, rngs::SysRng};

use crate::error::{Error, Kind};

/// Returns the current time.
#[expect(clippy::disallowed_methods, reason = "everything else takes the time from here")]
pub fn now() -> Timestamp {
    Timestamp::now()
}

/// Fills the bytes with the operating system's randomness.
///
/// # Errors
/// `Internal` if it has none.
pub fn random_source(bytes: &mut [u8]) -> Result<(), Error> {
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

/// Prints a line to the log, whole. A failure is ignored: there is no other place to report it.
pub fn print(line: &str) {
    let _ = io::stdout().lock().write_all(format!("{line}\n").as_bytes());
}
