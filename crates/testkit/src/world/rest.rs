//! The state of a token when nothing is owed any more, and the sweeps that lead to it.

use std::{collections::BTreeMap, time::Duration};

use changeover_core::{event::Request, record::Record, spec::Side};
use changeover_token::TokenName;

use super::{Faults, LONG, MemoryWorld, cluster::Deployment, place::digest_of, state::State};

use jiff::Timestamp;
use serde_json::Value;

/// Result of a token's rotations: everything that a reader can see, by version numbers.
#[derive(Debug, PartialEq, Eq)]
pub struct Rest {
    /// Live versions with their stages.
    pub versions: Vec<String>,
    /// The content of each place.
    pub places: BTreeMap<String, String>,
    /// The version that each label of each parameter is on.
    pub labels: BTreeMap<String, String>,
    /// The views that the pods of each workload hold.
    pub pods: BTreeMap<String, Vec<String>>,
}

impl MemoryWorld {
    /// Sweeps once a minute until nothing is owed and no write is in flight.
    pub async fn sweep_until_rest(&self, token: &TokenName) {
        for sweep in 0..MOST_SWEEPS {
            if self.is_at_rest(token) {
                return;
            }
            self.pass(Duration::from_secs(60)).await;
            let id = format!("sweep {sweep}");
            self.run(&id, Request::Sweep, LONG, Faults::none()).await;
        }
        let record = self.record(token);
        let owed = record.as_ref().and_then(Record::owed);
        let held = record.as_ref().and_then(Record::held).cloned();
        let broken =
            format!("{MOST_SWEEPS} sweeps did not bring {token} to rest: {owed:?} {held:?}");
        self.fail(&broken);
    }

    /// True if a token owes nothing and only the daily drift detection is left.
    pub fn is_at_rest(&self, token: &TokenName) -> bool {
        let state = self.state();
        if state.in_flight.values().any(|count| *count > 0) {
            return false;
        }
        let Some(record) = state.records.record(token) else { return true };
        // Drift detection looks for a write in doubt once it may have landed. A token that waits only for
        // its next drift detection, daily or in the next minute, is at rest.
        let is_certain = record.unanswered_until().is_none_or(|until| until < record.compare_at());
        let is_looked_after = record.compare_at() > state.now;
        record.owed().is_none()
            && record.lease().is_none()
            && !record.is_rotation_waiting()
            && is_certain
            && is_looked_after
    }

    /// The state that the rotations of a token led to.
    pub fn rest(&self, token: &TokenName) -> Rest {
        let state = self.state();
        let (_, spec) = &state.specs[token];
        let versions = state.records.record(token).map_or(Vec::new(), |record| {
            let versions = record.versions().iter();
            versions.map(|it| format!("{} {:?}", it.version, it.stage)).collect()
        });
        let mut places = BTreeMap::new();
        let mut labels = BTreeMap::new();
        let mut pods: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for side in Side::BOTH {
            for publication in &spec.side(side).publications {
                let Some(stored) = state.places.get(&publication.place) else { continue };
                let value = stored.value(side).unwrap_or_default();
                places.insert(
                    format!("{side} {}", publication.place),
                    state.in_words(token, side, value, false),
                );
                for (label, value) in stored.labels() {
                    let value = value.unwrap_or_default();
                    labels.insert(
                        format!("{}:{label}", publication.place),
                        state.in_words(token, Side::Presenters, value, false),
                    );
                }
            }
            for (name, deployment) in &state.cluster.deployments {
                let held = Deployment::held(deployment, &state, token, side);
                let held = held.into_iter().map(|it| state.in_words(token, side, it, true));
                pods.entry(format!("{side} {name}")).or_default().extend(held);
            }
        }
        Rest { versions, places, labels, pods }
    }
}

impl State {
    /// A view in words, by the numbers of its versions.
    fn in_words(&self, token: &TokenName, side: Side, value: &str, is_copy: bool) -> String {
        let number = |digest: &str| {
            let version = self.records.version_of(token, digest);
            version.map_or("a stranger".to_owned(), |version| version.to_string())
        };
        match side {
            Side::Presenters => number(&digest_of(value)),
            Side::Verifiers => {
                let document: Value = serde_json::from_str(value).unwrap_or_default();
                // No restart follows the end of a version, so a verifier ends it in its copy by its own
                // clock.
                let lives = |entry: &Value| {
                    let end = entry["not_after"].as_str().and_then(|end| end.parse().ok());
                    !is_copy || end.is_none_or(|end: Timestamp| end > self.now)
                };
                let entries = document["accepted"].as_array().cloned().unwrap_or_default();
                let entries: Vec<_> = entries
                    .iter()
                    .filter(|entry| lives(entry))
                    .map(|entry| {
                        let plain = entry["token"].as_str().map(digest_of);
                        let digest = entry["sha256"].as_str().map(str::to_owned).or(plain);
                        let number = number(&digest.unwrap_or_default());
                        format!("{number} {}", entry["stage"].as_str().unwrap_or_default())
                    })
                    .collect();
                entries.join(", ")
            }
        }
    }
}

/// More sweeps than any rotation takes, held ones included.
const MOST_SWEEPS: usize = 400;
