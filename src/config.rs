//! Configuration: every variable of the function's own, read once, all faults told together.

use std::time::Duration;

/// The DynamoDB table of records, keys, audit and feed. Required.
pub const TABLE: &str = "CHANGEOVER_TABLE";
/// The KMS key that seals values in the record. Required.
pub const KEY: &str = "CHANGEOVER_KEY";
/// The KMS key that encrypts new SecureStrings that name no key. Required.
pub const PUBLICATION_KEY: &str = "CHANGEOVER_PUBLICATION_KEY";
/// The name in the encryption context. Default `changeover`.
pub const SCOPE: &str = "CHANGEOVER_SCOPE";
/// The path of the specs. Default `/changeover/tokens`.
pub const SPECS: &str = "CHANGEOVER_SPECS";
/// The path of the named clusters. Default `/changeover/clusters`.
pub const CLUSTERS: &str = "CHANGEOVER_CLUSTERS";
/// The EventBridge bus of rotation events. Default: none, and no events.
pub const EVENT_BUS: &str = "CHANGEOVER_EVENT_BUS";
/// The length of the lease. Default `30s`.
pub const LEASE: &str = "CHANGEOVER_LEASE";
/// How long AWS may still apply a call whose reply was lost. Default `5m`.
pub const LATE_WRITE: &str = "CHANGEOVER_LATE_WRITE";
/// The tracing filter. Default `info`.
pub const LOG: &str = "CHANGEOVER_LOG";

/// Every variable that [`Config`] is read from, in the contract's order.
pub fn variables() -> [&'static str; 10] {
    [TABLE, KEY, PUBLICATION_KEY, SCOPE, SPECS, CLUSTERS, EVENT_BUS, LEASE, LATE_WRITE, LOG]
}

/// What the function is told by its environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The DynamoDB table of records, keys, audit and feed.
    pub table: String,
    /// The KMS key that seals values in the record, and nothing else.
    pub key: String,
    /// The KMS key that encrypts new SecureStrings that name no key.
    pub publication_key: String,
    /// The name in the encryption context. It survives a restore of the table under another name.
    pub scope: String,
    /// The path that holds one parameter per token, without a slash at its end.
    pub specs: String,
    /// The path that holds one parameter per named cluster, without a slash at its end.
    pub clusters: String,
    /// The EventBridge bus of rotation events; none: no events are sent.
    pub event_bus: Option<String>,
    /// The length of the lease.
    pub lease: Duration,
    /// How long AWS may still apply a call whose reply was lost.
    pub late_write: Duration,
    /// The tracing filter's directives.
    pub log: String,
}

impl Config {
    /// Reads the environment of this process: the only place that does.
    ///
    /// # Errors
    /// [`Faults`]: all that is wrong.
    pub fn from_environment() -> Result<Self, Faults> {
        todo!()
    }

    /// Reads the variables through `lookup`. An empty variable counts as one that is not set, because
    /// templates cannot leave a variable out.
    ///
    /// # Errors
    /// [`Faults`]: all that is wrong.
    pub fn from(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, Faults> {
        let _ = lookup;
        todo!()
    }
}

/// All that is wrong with the environment. The process exits 64.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("could not read the configuration: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub struct Faults(pub Vec<Fault>);

/// One thing that is wrong with the environment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{variable} {because}")]
pub struct Fault {
    /// The variable.
    pub variable: &'static str,
    /// What is wrong with it and what to write, as the rest of a sentence that begins with its name.
    pub because: String,
}
