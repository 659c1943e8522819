//! What a spec's JSON says, and what it means.

use super::{EksCluster, Spec};
use crate::error::Error;
use crate::token::TokenName;

pub(super) fn parse(name: &TokenName, version: i64, json: &str) -> Result<Spec, Error> {
    let _ = (name, version, json);
    todo!()
}

pub(super) fn parse_cluster(name: &str, json: &str) -> Result<EksCluster, Error> {
    let _ = (name, json);
    todo!()
}
