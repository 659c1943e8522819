//! Tokens that services share: their names, version numbers, values and digests, and the documents in which
//! verifiers read which of them are valid. A value is minted here, and is never shown.
//!
//! Everything here is a value or a pure function: no I/O, no clock, no generator of its own.
#![warn(missing_docs)]

mod accepted;
mod digest;
mod fence;
mod generation;
mod name;
mod sealed;
mod secret;
mod stage;
pub mod time;
mod version;

pub use accepted::{Accepted, Content};
pub use digest::{Digest, NotADigest};
pub use fence::{Fence, Life, NotAFence};
pub use generation::{Generation, Prefix};
pub use name::{NotAName, TokenName};
pub use sealed::Sealed;
pub use secret::{LARGEST_VALUE, Secret, Unfit};
pub use stage::{AcceptedForm, Stage};
pub use version::VersionNumber;
