//! Starting points of the tests of the loop: specs of each kind, requests, and a token in service.

use std::time::Duration;

use changeover_core::{event::Request, spec::ParameterName};
use changeover_token::{Digest, TokenName};

use crate::world::{Ending, MemoryWorld, Rest, token};
use serde_json::{Value, json};

/// Every kind of spec, by name.
pub fn kinds() -> Vec<(&'static str, Value)> {
    vec![
        ("items", items()),
        ("parameters", parameters()),
        ("workloads", workloads()),
        ("one workload on both sides", one_workload_on_both_sides()),
        ("mounted secrets", mounted_secrets()),
        ("written secrets", written_secrets()),
        ("no verifiers", no_verifiers()),
        ("plain form", plain_form()),
        ("everything", everything()),
    ]
}

/// The kinds that differ most, for tests that run each of them hundreds of times.
pub fn few_kinds() -> Vec<(&'static str, Value)> {
    let few = ["items", "parameters", "one workload on both sides", "everything"];
    kinds().into_iter().filter(|(kind, _)| few.contains(kind)).collect()
}

/// Both views in DynamoDB.
pub fn items() -> Value {
    json!({
        "token": {"bytes": 32, "prefix": "ds_"},
        "overlap": "15s",
        "verifiers": {"publish": [item("accepted")], "within": "2s"},
        "presenters": {"publish": [item("presented")], "within": "2s"},
    })
}

/// Both views in Parameter Store.
pub fn parameters() -> Value {
    json!({
        "token": {"bytes": 32},
        "overlap": "5s",
        "verifiers": {"publish": [{"ssm": "/backend/token/accepted"}], "within": "1s"},
        "presenters": {"publish": [{"ssm": "/backend/token"}], "within": "8s"},
    })
}

/// Workloads that restart, on both sides.
pub fn workloads() -> Value {
    json!({
        "token": {"bytes": 32},
        "overlap": "1m",
        "verifiers": {
            "publish": [{"ssm": "/backend/token/accepted"}],
            "workloads": [workload("datastore", "datastore-accepted")],
        },
        "presenters": {
            "publish": [{"ssm": "/backend/token"}],
            "workloads": [workload("backend", "datastore-token"), workload("jobs", "jobs-token")],
        },
    })
}

/// A workload that presents the token to itself.
pub fn one_workload_on_both_sides() -> Value {
    json!({
        "token": {"bytes": 32},
        "overlap": "30s",
        "verifiers": {
            "publish": [{"ssm": "/mesh/token/accepted"}],
            "workloads": [workload("mesh", "mesh-accepted")],
        },
        "presenters": {
            "publish": [{"ssm": "/mesh/token"}],
            "workloads": [workload("mesh", "mesh-token")],
        },
    })
}

/// Workloads that see a new Secret without a restart.
pub fn mounted_secrets() -> Value {
    let mounted = |name: &str, external_secret: &str| {
        let mut workload = workload(name, external_secret);
        workload["picks_up"] = json!({"within": "2m"});
        workload
    };
    json!({
        "token": {"bytes": 32},
        "overlap": "30s",
        "verifiers": {
            "publish": [{"ssm": "/backend/token/accepted"}],
            "within": "5s",
            "workloads": [mounted("datastore", "datastore-accepted")],
        },
        "presenters": {
            "publish": [{"ssm": "/backend/token"}],
            "within": "5s",
            "workloads": [mounted("backend", "datastore-token")],
        },
    })
}

/// Secrets that only changeover writes. One is for two workloads, and one is for both sides.
pub fn written_secrets() -> Value {
    let written = |name: &str, secret: &str, key: &str| {
        let secret = json!({"name": secret, "key": key});
        json!({"cluster": "prod", "namespace": "backend", "deployment": name, "secret": secret})
    };
    json!({
        "token": {"bytes": 32},
        "overlap": "30s",
        "verifiers": {
            "publish": [item("accepted")],
            "workloads": [written("mesh", "mesh", "accepted")],
        },
        "presenters": {
            "publish": [item("presented")],
            "workloads": [
                written("mesh", "mesh", "token"),
                written("backend", "datastore", "token"),
                written("jobs", "datastore", "token"),
            ],
        },
    })
}

/// Presenters only.
pub fn no_verifiers() -> Value {
    json!({
        "token": {"bytes": 32},
        "overlap": "15s",
        "presenters": {"publish": [item("presented")], "within": "2s"},
    })
}

/// Verifiers that receive the tokens themselves.
pub fn plain_form() -> Value {
    json!({
        "token": {"bytes": 48},
        "overlap": "15s",
        "verifiers": {
            "publish": [
                {"ssm": "/backend/token/accepted", "as": "plain"},
                {"dynamodb": {"table": "configuration", "key": {"id": "accepted"}}, "as": "plain"},
            ],
            "within": "2s",
        },
        "presenters": {"publish": [item("presented")], "within": "2s"},
    })
}

/// Several stores a side, readers and workloads.
pub fn everything() -> Value {
    json!({
        "token": {"bytes": 32, "prefix": "ds_"},
        "overlap": "45s",
        "verifiers": {
            "publish": [{"ssm": "/backend/token/accepted"}, item("accepted")],
            "within": "4s",
            "workloads": [workload("datastore", "datastore-accepted")],
        },
        "presenters": {
            "publish": [{"ssm": "/backend/token"}, item("presented")],
            "within": "4s",
            "workloads": [workload("backend", "datastore-token")],
        },
    })
}

/// An item of one table.
pub fn item(id: &str) -> Value {
    json!({"dynamodb": {"table": "configuration", "key": {"id": id}}})
}

/// A Deployment that restarts, with an External Secret.
pub fn workload(name: &str, external_secret: &str) -> Value {
    json!({
        "cluster": CLUSTER,
        "namespace": "backend",
        "deployment": name,
        "external_secret": external_secret,
    })
}

/// The cluster of these specs.
pub const CLUSTER: &str = "prod";

/// The name of a workload of these specs in the world.
pub fn deployed(name: &str) -> String {
    format!("{CLUSTER}/backend/deployment/{name}")
}

/// The token that the tests are about.
pub fn subject() -> TokenName {
    token("datastore-token")
}

/// Requests a new version.
pub fn rotate(key: &str) -> Request {
    rotate_for(None, key, [])
}

/// Requests a version that begins after this request.
pub fn rotate_fresh(key: &str) -> Request {
    let (wait, without) = (None, [].into());
    Request::Rotate { token: subject(), key: Some(key.to_owned()), wait, without, fresh: true }
}

/// Requests a new version, and begins no step.
pub fn rotate_without_waiting(key: &str) -> Request {
    rotate_for(Some(Duration::ZERO), key, [])
}

/// Requests a new version, waits for this long, and leaves these clusters out.
pub fn rotate_for<const N: usize>(
    wait: Option<Duration>,
    key: &str,
    without: [&str; N],
) -> Request {
    let without = without.map(str::to_owned).into();
    Request::Rotate { token: subject(), key: Some(key.to_owned()), wait, without, fresh: false }
}

/// Requests that the current views be written.
pub fn publish() -> Request {
    Request::Publish { token: subject(), adopt: false }
}

/// Requests that a value that was written to a publication by hand become the next version.
pub fn adopt() -> Request {
    Request::Publish { token: subject(), adopt: true }
}

/// Reports that a value arrived in the inbox.
pub fn import() -> Request {
    Request::Import { parameter: ParameterName::parse(INBOX).expect("a name") }
}

/// The inbox of these specs.
pub const INBOX: &str = "/inbox/datastore-token";

/// Requests that the pending version be dropped.
pub fn drop_pending() -> Request {
    Request::Drop { token: subject() }
}

/// A value of another issuer: strong, and different for each number.
pub fn issued(number: u8) -> String {
    Digest::of([number]).to_string()
}

/// A world in which version 1 of the token is in service.
pub async fn in_service(seed: u64, spec: &Value) -> MemoryWorld {
    let world = MemoryWorld::new(seed);
    world.specify(&subject(), spec);
    let ending = world.invoke("first", publish()).await;
    if ending.outcome() != "published" {
        world.fail(&format!("the first publication ended so: {ending:?}"));
    }
    world.sweep_until_rest(&subject()).await;
    // Pods start at times of their own.
    world.pass(Duration::from_secs(60)).await;
    world.assert_settled_on(1);
    world
}

impl MemoryWorld {
    /// Asserts that all readers are on the current version and that no other version is left anywhere.
    pub fn assert_settled(&self) {
        let current = self.record(&subject()).and_then(|it| Some(it.presented()?.version.get()));
        match current {
            Some(current) => self.assert_settled_on(current),
            None => self.fail("no version is current"),
        }
    }

    /// Asserts that all readers are on this version and that no other version is left anywhere.
    pub fn assert_settled_on(&self, version: u64) {
        let Rest { versions, places, labels, pods } = self.rest(&subject());
        let expected = |view: &str| {
            if view.starts_with("verifiers") {
                format!("{version} current")
            } else {
                version.to_string()
            }
        };
        let strays = places.iter().filter(|(place, held)| **held != expected(place)).count()
            + labels
                .iter()
                .filter(|(label, held)| {
                    label.ends_with(":current") && **held != version.to_string()
                })
                .count()
            + pods
                .iter()
                .filter(|(workload, held)| held.iter().any(|it| *it != expected(workload)))
                .count();
        if versions != [format!("{version} Current")] || strays > 0 {
            let rest = self.rest(&subject());
            self.fail(&format!("not settled on version {version}: {rest:#?}"));
        }
    }

    /// Asserts that the invocation ended with this outcome.
    #[track_caller]
    pub fn assert_outcome(&self, ending: &Ending, outcome: &str) {
        if ending.outcome() != outcome {
            self.fail(&format!("expected {outcome}, and it ended so: {ending:#?}"));
        }
    }
}
