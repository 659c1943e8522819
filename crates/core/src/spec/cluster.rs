//! What a named cluster is: an EKS cluster, or any API server.

use super::{ParameterName, resolve};
use crate::error::Error;

/// What the parameter `<CHANGEOVER_CLUSTERS>/<name>` says of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClusterDescription {
    /// `{"eks": {"name", "region", "role"}}`: AWS says where it is, and who we are to it.
    Eks(EksCluster),
    /// `{"endpoint", "ca", "token_parameter"}`: any Kubernetes API server.
    ApiServer(ApiServer),
}

/// A cluster of EKS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EksCluster {
    /// Its name in EKS.
    pub name: String,
    /// The region that it is in; `None`: the function's own.
    pub region: Option<String>,
    /// The role that is assumed to find it and to be known to it; `None`: the function's own.
    pub role: Option<String>,
}

/// An API server that AWS knows nothing of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiServer {
    /// Its URL, always https.
    pub endpoint: String,
    /// Who signs its certificate, in PEM.
    pub authority: String,
    /// The SecureString that holds the bearer token it knows us by. It lies below the parameter of
    /// the description: a description can have no other cluster's token, and no published one, sent
    /// to its endpoint, and the function may read it by the same grant.
    pub token_parameter: ParameterName,
}

impl ClusterDescription {
    /// Reads the parameter `<path>/<name>`, where `path` is `CHANGEOVER_CLUSTERS`.
    ///
    /// # Errors
    /// `BadSpec` that tells all faults together, each with its field, value and fix.
    pub fn parse(path: &str, name: &str, json: &str) -> Result<Self, Error> {
        resolve::cluster(path, name, json)
    }

    /// What a name means that no parameter describes: the EKS cluster so named, of the function's own
    /// account and region.
    pub fn undescribed(name: &str) -> Self {
        Self::Eks(EksCluster { name: name.to_owned(), region: None, role: None })
    }
}
