//! The clusters of `changeover-core` over the Kubernetes API: External Secrets and workloads.
//!
//! ```text
//! client            a client of one API server: its address, and our identity
//! call, watch       one call, one watch: time-outs, retries, and the meaning of a failure
//! events            the reasons that controllers report in events alone
//! external_secret   an ExternalSecret, judged                     (pure)
//! external_secrets_api     the API of External Secrets, in the version that a cluster serves
//! cluster_external_secret  the ExternalSecret that it keeps in each namespace  (pure)
//! sync              a Secret that is written or forced to refresh, and confirmed by digest
//! workload          a workload and its pods, judged               (pure)
//! rollout           workloads, stamped and waited for
//! inspect           the obstacles to a rotation
//! ```

mod call;
pub mod client;
mod cluster_external_secret;
mod events;
mod external_secret;
mod external_secrets_api;
mod inspect;
mod rollout;
mod store;
mod sync;
mod watch;
mod workload;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use changeover_core::error::Error;
use changeover_token::Digest;
use jiff::Timestamp;

/// The connections to clusters.
#[async_trait]
pub trait Access: Send + Sync {
    /// Returns a connection to this cluster, on which the next calls are made. It is kept until it is too
    /// old, or was [discarded](Access::discard). Has no effect on the cluster.
    ///
    /// # Errors
    /// The answer of AWS, if the cluster cannot be found or its identity cannot be proved.
    async fn connect(&self, cluster: &str) -> Result<Connection, Error>;

    /// The digest of the cluster's description as it is written now, or of nothing if it has none. If it
    /// differs from the description that connections were made by, they are not used again.
    ///
    /// # Errors
    /// If it cannot be read.
    async fn describe(&self, cluster: &str) -> Result<Digest, Error>;

    /// Reports that the API server did not answer on this connection, or did not accept its identity. The
    /// next [`Access::connect`] discovers everything about the cluster anew.
    async fn discard(&self, cluster: &str, connection: &Connection);
}

/// The clock: returns the current time.
pub type Now = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// A client of one cluster, made with one identity.
#[derive(Clone)]
pub struct Connection {
    /// The client. Its identity ends within minutes, so a connection is requested anew for every call.
    pub client: kube::Client,
    /// The fix to report if the API server does not know that identity. It depends on the kind of cluster,
    /// and on how the cluster identifies its callers.
    pub introduce: Arc<str>,
    /// Distinguishes connections to the same cluster.
    pub generation: u64,
}

/// The place in which tokens are published, as far as it is known. A store that copies from elsewhere
/// copies other values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Home {
    /// The region.
    pub region: Option<String>,
    /// The account.
    pub account: Option<String>,
}

/// The account of a KMS key that is named by its ARN: `arn:aws:kms:<region>:<account>:key/<id>`.
pub fn account(key: &str) -> Option<String> {
    let of_arn = key.strip_prefix("arn:")?.split(':').nth(3)?;
    Some(of_arn.to_owned()).filter(|account| !account.is_empty())
}

/// The ports [`Clusters`](changeover_core::ports::Clusters), [`SecretCopies`](changeover_core::ports::SecretCopies)
/// and [`Workloads`](changeover_core::ports::Workloads) over the Kubernetes API.
///
/// Every call must be answered within ten seconds, and is made again if that can help. A call that changes
/// something changes nothing more when it is made again.
pub struct KubernetesClusters {
    access: Arc<dyn Access>,
    /// The version of External Secrets' API that each cluster serves.
    versions: Mutex<BTreeMap<String, &'static str>>,
    /// The place in which tokens are published.
    home: Home,
    /// The number of refreshes that were forced.
    refreshes: AtomicU64,
}

impl KubernetesClusters {
    /// Clusters that are reached through `access`, for a function that publishes in `home`.
    pub fn reached_by(access: Arc<dyn Access>, home: Home) -> Self {
        Self { access, versions: Mutex::default(), home, refreshes: AtomicU64::new(0) }
    }

    /// Returns a value for the annotation that no ExternalSecret had before: the caller's, numbered. An
    /// annotation whose value stays the same forces nothing.
    fn forcing(&self, force: &str) -> String {
        format!("{force}.{}", self.refreshes.fetch_add(1, Ordering::Relaxed))
    }

    fn known_version(&self, cluster: &str) -> Option<&'static str> {
        let versions = self.versions.lock().unwrap_or_else(PoisonError::into_inner);
        versions.get(cluster).copied()
    }

    fn remember_version(&self, cluster: &str, version: &'static str) {
        let mut versions = self.versions.lock().unwrap_or_else(PoisonError::into_inner);
        versions.insert(cluster.to_owned(), version);
    }
}

/// The prefix of our field managers' names.
const MANAGER: &str = "changeover";
