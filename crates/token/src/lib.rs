//! Tokens that services share: how they are named, numbered, minted, digested and never shown, and the documents in which
//! verifiers read which of them are valid.
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
