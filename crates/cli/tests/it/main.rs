//! The command, over a service that is a function from a request to an answer.
#![expect(clippy::unwrap_used, reason = "a test may stop at what it did not expect")]

mod behind_a_proxy;
mod function;
