//! Tokens that services share: their names, version numbers, values and digests, and the documents in which
//! verifiers read which of them are valid. A value is minted here, and is never shown.
//!
//! Everything here is a value or a pure function: no I/O, no clock, no generator of its own.
#![warn(missing_docs)]

mod accepted;
mod fence;
mod token;
pub mod time;

pub use accepted::{Accepted, Content};
pub use fence::{Fence, Life, NotAFence};
pub use token::{
    AcceptedForm, Digest, Generation, LARGEST_VALUE, NotADigest, NotAName, Prefix, Sealed, Secret,
    Stage, TokenName, Unfit, VersionNumber,
};
