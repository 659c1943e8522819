//! Configuration: every variable that the function itself reads. Each is read once, and all faults are
//! reported together.

use std::env::VarError;
use std::ops::RangeInclusive;
use std::time::Duration;

use changeover_core::{
    error::{error_chain, quote_for_log},
    spec::{self, ParameterName, Reserved, TABLE_RULE, is_kms_key, is_name_character, is_table},
};
use tracing_subscriber::filter::Targets;

/// The function's name. Lambda sets it, no template can, and the runtime needs it too. Required.
pub const FUNCTION_NAME: &str = "AWS_LAMBDA_FUNCTION_NAME";
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
/// Time for which AWS may still apply a call whose reply was lost. Default `5m`.
pub const LATE_WRITE: &str = "CHANGEOVER_LATE_WRITE";
/// The tracing filter. Default `info`.
pub const LOG: &str = "CHANGEOVER_LOG";

/// Every variable that [`Config`] is read from: Lambda's own, then the contract's in its order.
pub fn variables() -> [&'static str; 11] {
    [
        FUNCTION_NAME,
        TABLE,
        KEY,
        PUBLICATION_KEY,
        SCOPE,
        SPECS,
        CLUSTERS,
        EVENT_BUS,
        LEASE,
        LATE_WRITE,
        LOG,
    ]
}

/// The function's configuration, from its environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The function's name. It distinguishes its metrics from those of other functions.
    pub function_name: String,
    /// The DynamoDB table of records, keys, audit and feed.
    pub table: String,
    /// The KMS key that seals values in the record, and nothing else.
    pub key: String,
    /// The KMS key that encrypts new SecureStrings that name no key.
    pub publication_key: String,
    /// The name in the encryption context. It stays valid if the table is restored under another name.
    pub scope: String,
    /// The path that holds one parameter per token, without a slash at its end.
    pub specs: String,
    /// The path that holds one parameter per named cluster, without a slash at its end.
    pub clusters: String,
    /// The EventBridge bus of rotation events. If there is none, no events are sent.
    pub event_bus: Option<String>,
    /// The length of the lease.
    pub lease: Duration,
    /// Time for which AWS may still apply a call whose reply was lost.
    pub late_write: Duration,
    /// The tracing filter: levels by target.
    pub log: String,
}

impl Config {
    /// The places that no token may be published to.
    pub fn reserved(&self) -> Reserved {
        Reserved {
            table: self.table.clone(),
            paths: vec![self.specs.clone(), self.clusters.clone()],
        }
    }

    /// Reads the environment of this process. Nothing else does.
    ///
    /// # Errors
    /// [`Faults`]: everything that is wrong.
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the edge at which the environment enters"
    )]
    pub fn from_environment() -> Result<Self, Faults> {
        Self::from(|variable| match std::env::var(variable) {
            Ok(value) => Some(value),
            Err(VarError::NotPresent) => None,
            // A value that is not Unicode is not valid for any variable, and is reported as such.
            Err(VarError::NotUnicode(value)) => Some(value.to_string_lossy().into_owned()),
        })
    }

    /// Reads the variables through `lookup`. An empty variable counts as one that is not set, because a
    /// template cannot leave a variable out.
    ///
    /// # Errors
    /// [`Faults`]: everything that is wrong.
    #[expect(clippy::too_many_lines, reason = "one statement a variable")]
    pub fn from(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, Faults> {
        let mut reader = Reader { lookup, faults: Vec::new() };
        let function_name = reader.required(FUNCTION_NAME, |name| {
            // CloudWatch's rule for a dimension's value. Names in Lambda are narrower, but those that
            // `cargo lambda watch` gives are not.
            let is_value = name.chars().all(|c| c.is_ascii_graphic()) && !name.starts_with(':');
            if is_value && name.len() <= 1024 {
                Ok(())
            } else {
                Err("is not the name of a function".into())
            }
        });
        let table = reader.required(TABLE, |table| {
            if is_table(table) { Ok(()) } else { Err(format!("is not {TABLE_RULE}")) }
        });
        let key = reader.required(KEY, kms_key);
        let publication_key = reader.required(PUBLICATION_KEY, kms_key);
        let scope = reader.text(SCOPE, "changeover", |scope| {
            if (1..=128).contains(&scope.len()) && scope.chars().all(is_name_character) {
                Ok(())
            } else {
                Err("does not have 1 to 128 of a-z, A-Z, 0-9, '_', '.' and '-'".into())
            }
        });
        let specs = reader.text(SPECS, "/changeover/tokens", path);
        let clusters = reader.text(CLUSTERS, "/changeover/clusters", path);
        if specs == clusters && !reader.has_fault(CLUSTERS) {
            reader.fault(CLUSTERS, format!("is the same path as {SPECS}; write another"));
        }
        let event_bus = reader.optional(EVENT_BUS, |bus| {
            // BOTO eventbridge 2015-10-07, `EventBusNameOrArn`.
            let is_allowed = |c: char| is_name_character(c) || matches!(c, '/' | ':');
            if (1..=1600).contains(&bus.len()) && bus.chars().all(is_allowed) {
                Ok(())
            } else {
                Err("is not the name or ARN of an event bus".into())
            }
        });
        let lease = reader.duration(LEASE, Duration::from_secs(30), SHORTEST_LEASE..=LONGEST_LEASE);
        let late_write = reader.duration(
            LATE_WRITE,
            Duration::from_secs(5 * 60),
            Duration::ZERO..=LONGEST_LATE_WRITE,
        );
        let log = reader.text(LOG, "info", |log| {
            // A directive with a blank would be taken for a target of that name, and filter nothing.
            if !log.chars().all(|c| c.is_ascii_graphic()) {
                return Err("is not a tracing filter: write one without blanks, in ASCII".into());
            }
            log.parse::<Targets>()
                .map(drop)
                .map_err(|error| format!("is not a tracing filter: {}", error_chain(&error)))
        });

        if !reader.faults.is_empty() {
            return Err(Faults(reader.faults));
        }
        Ok(Self {
            function_name,
            table,
            key,
            publication_key,
            scope,
            specs,
            clusters,
            event_bus,
            lease,
            late_write,
            log,
        })
    }
}

/// Everything that is wrong with the environment. The process exits 64.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("could not read the configuration: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub struct Faults(pub Vec<Fault>);

/// One thing that is wrong with the environment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{variable} {because}")]
pub struct Fault {
    /// The variable.
    pub variable: &'static str,
    /// The fault and its fix, as the rest of a sentence that begins with the variable's name.
    pub because: String,
}

/// Reads variables one after the other and collects their faults. What its methods return counts only if
/// there is no fault in the end.
struct Reader<L> {
    lookup: L,
    faults: Vec<Fault>,
}

impl<L: Fn(&str) -> Option<String>> Reader<L> {
    fn required(
        &mut self,
        variable: &'static str,
        check: impl Fn(&str) -> Result<(), String>,
    ) -> String {
        if self.value(variable).is_none() {
            self.fault(variable, "is not set, and has no default".to_owned());
        }
        self.optional(variable, check).unwrap_or_default()
    }

    fn text(
        &mut self,
        variable: &'static str,
        default: &str,
        check: impl Fn(&str) -> Result<(), String>,
    ) -> String {
        self.optional(variable, check).unwrap_or_else(|| default.to_owned())
    }

    fn duration(
        &mut self,
        variable: &'static str,
        default: Duration,
        bounds: RangeInclusive<Duration>,
    ) -> Duration {
        let read = |text: &str| spec::duration(text, bounds.clone());
        let text = self.optional(variable, |text| read(text).map(drop));
        text.and_then(|text| read(&text).ok()).unwrap_or(default)
    }

    fn optional(
        &mut self,
        variable: &'static str,
        check: impl Fn(&str) -> Result<(), String>,
    ) -> Option<String> {
        let value = self.value(variable)?;
        if let Err(because) = check(&value) {
            self.fault(variable, format!("is {}, which {because}", quote_for_log(&value)));
        }
        Some(value)
    }

    fn value(&self, variable: &str) -> Option<String> {
        (self.lookup)(variable).filter(|value| !value.is_empty())
    }

    fn has_fault(&self, variable: &str) -> bool {
        self.faults.iter().any(|fault| fault.variable == variable)
    }

    fn fault(&mut self, variable: &'static str, because: String) {
        self.faults.push(Fault { variable, because });
    }
}

/// Checks a path: parameters are directly below it, each with a name of up to 63 characters.
fn path(path: &str) -> Result<(), String> {
    let name = ParameterName::parse(path)
        .map_err(|because| format!("is not a path of parameters: {because}"))?;
    let longest = format!("{name}/{}", "n".repeat(63));
    ParameterName::parse(&longest)
        .map(drop)
        .map_err(|because| format!("leaves no room for names below it: {because}"))
}

fn kms_key(key: &str) -> Result<(), String> {
    if is_kms_key(key) { Ok(()) } else { Err("is not the id or ARN of a KMS key".into()) }
}

const SHORTEST_LEASE: Duration = Duration::from_secs(1);
const LONGEST_LEASE: Duration = Duration::from_secs(15 * 60);
const LONGEST_LATE_WRITE: Duration = Duration::from_secs(60 * 60);

#[cfg(test)]
mod tests {
    use super::*;

    const REQUIRED: [(&str, &str); 4] = [
        (FUNCTION_NAME, "changeover-rotator"),
        (TABLE, "changeover"),
        (KEY, "arn:aws:kms:eu-west-1:123456789012:key/6f1c9c1e-1111-2222-3333-444455556666"),
        (PUBLICATION_KEY, "alias/publications"),
    ];

    fn read(more: &[(&str, &str)]) -> Result<Config, Faults> {
        let variables = [REQUIRED.as_slice(), more].concat();
        Config::from(|name| {
            let found = variables.iter().rev().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn defaults_are_the_contracts() {
        let config = read(&[]).expect("only four variables are required");
        assert_eq!(config.scope, "changeover");
        assert_eq!(config.specs, "/changeover/tokens");
        assert_eq!(config.clusters, "/changeover/clusters");
        assert_eq!(config.event_bus, None);
        assert_eq!(config.lease, Duration::from_secs(30));
        assert_eq!(config.late_write, Duration::from_secs(300));
        assert_eq!(config.log, "info");
    }

    #[test]
    fn empty_variable_counts_as_unset() {
        let empty: Vec<_> =
            variables()[REQUIRED.len()..].iter().map(|variable| (*variable, "")).collect();
        assert_eq!(read(&empty), read(&[]));
    }

    #[test]
    fn all_faults_of_environment_are_reported_together() {
        let Faults(faults) = Config::from(|_| None).expect_err("four variables are required");
        let names: Vec<_> = faults.iter().map(|fault| fault.variable).collect();
        assert_eq!(names, REQUIRED.map(|(variable, _)| variable));

        let wrong: Vec<_> = variables().iter().map(|variable| (*variable, "{ }=")).collect();
        let faults = read(&wrong).expect_err("no variable takes this");
        let names: Vec<_> = faults.0.iter().map(|fault| fault.variable).collect();
        assert_eq!(names, variables());
        for variable in variables() {
            assert!(faults.to_string().contains(variable), "{faults}");
        }
    }

    #[test]
    fn each_variable_is_judged() {
        for (variable, value) in [
            (FUNCTION_NAME, "a function"),
            (FUNCTION_NAME, ":rotator"),
            (FUNCTION_NAME, "rotätor"),
            (TABLE, "t"),
            (KEY, "a key"),
            (SPECS, "changeover/tokens"),
            (SPECS, "/changeover/tokens/"),
            (SPECS, "/1/2/3/4/5/6/7/8/9/10/11/12/13/14/15"),
            (SPECS, "/changeover/clusters"),
            (EVENT_BUS, "a bus"),
            (LEASE, "30"),
            (LEASE, "0s"),
            (LATE_WRITE, "2h"),
            (LOG, "info,changeover=loud"),
            (LOG, "info, changeover=debug"),
            (LOG, " é=debug"),
        ] {
            assert!(read(&[(variable, value)]).is_err(), "{variable}={value}");
        }
    }
}
