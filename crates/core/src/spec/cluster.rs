//! The description of a named cluster: an EKS cluster, or any other API server.

use super::{ParameterName, resolve};
use crate::error::Error;

/// The content of the parameter `<CHANGEOVER_CLUSTERS>/<name>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClusterDescription {
    /// `{"eks": {"name", "region", "role"}}`: AWS provides its endpoint, and the function's identity to
    /// it.
    Eks(EksCluster),
    /// `{"endpoint", "ca", "token_parameter"}`: any Kubernetes API server.
    ApiServer(ApiServer),
}

/// A cluster of EKS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EksCluster {
    /// The cluster's name in EKS.
    pub name: String,
    /// The cluster's region; `None` is the function's own region.
    pub region: Option<String>,
    /// The role that is assumed to find the cluster and to authenticate to it; `None` is the function's
    /// own role.
    pub role: Option<String>,
}

/// An API server outside EKS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiServer {
    /// The server's URL, which is always https.
    pub endpoint: String,
    /// The certificate authority that signs the server's certificate, in PEM.
    pub authority: String,
    /// The SecureString that holds the bearer token for the server. It must be below the parameter of the
    /// description. Therefore a description can send neither the token of another cluster nor a published
    /// one to its endpoint, and the function may read the SecureString by the same grant.
    pub token_parameter: ParameterName,
}

impl ClusterDescription {
    /// Reads the parameter `<path>/<name>`, where `path` is `CHANGEOVER_CLUSTERS`.
    ///
    /// # Errors
    /// `BadSpec` that lists the faults together, each with its field, value and fix. It lists the first
    /// ten and the number of the others.
    pub fn parse(path: &str, name: &str, json: &str) -> Result<Self, Error> {
        resolve::cluster(path, name, json)
    }

    /// The cluster of a name that no parameter describes: the EKS cluster of that name in the function's
    /// own account and region.
    pub fn undescribed(name: &str) -> Self {
        Self::Eks(EksCluster { name: name.to_owned(), region: None, role: None })
    }
}
