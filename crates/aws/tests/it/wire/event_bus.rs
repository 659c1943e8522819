//! Events, as they are sent to a bus.

use changeover_aws::EventBus;
use changeover_core::{
    ports::EventPublisher,
    record::RotationId,
    token_event::{TokenEvent, TokenEventKind},
};
use changeover_testkit::scene::subject;
use changeover_token::{Stage, VersionNumber};

use changeover_testkit_aws::{Answer, Call, Wire, ok, refused};

use jiff::Timestamp;
use serde_json::{Value, json};

/// Events about this many versions, which were retired one after the other.
fn token_events(count: u64) -> Vec<TokenEvent> {
    let at: Timestamp = "2026-11-22T12:00:31.400Z".parse().unwrap();
    let retired = |version| TokenEventKind::VersionStageChanged {
        version: VersionNumber::new(version),
        rotation: RotationId("r".to_owned()),
        stage: Stage::Retired,
        stage_before: Some(Stage::Previous),
        created_at: at,
        not_after: Some(at),
    };
    (1..=count)
        .map(|it| TokenEvent { token: subject(), life: None, revision: it, at, kind: retired(it) })
        .collect()
}

/// A bus that accepts every event except those for which `refuse` returns true.
fn bus(mut refuse: impl FnMut(&Value) -> bool + Send + 'static) -> Wire {
    Wire::new(move |call| {
        let entries = call.body["Entries"].as_array().unwrap();
        let results: Vec<_> = entries
            .iter()
            .map(|entry| {
                if refuse(&detail(entry)) {
                    json!({"ErrorCode": "ThrottlingException", "ErrorMessage": "slow down"})
                } else {
                    json!({"EventId": "e"})
                }
            })
            .collect();
        let failed = results.iter().filter(|result| result["EventId"].is_null()).count();
        ok(json!({"FailedEntryCount": failed, "Entries": results}))
    })
}

fn detail(entry: &Value) -> Value {
    serde_json::from_str(entry["Detail"].as_str().unwrap()).unwrap()
}

fn versions(call: &Call) -> Vec<u64> {
    let entries = call.body["Entries"].as_array().unwrap();
    entries.iter().map(|entry| detail(entry)["version"].as_u64().unwrap()).collect()
}

fn event_bus(wire: &Wire) -> EventBus {
    EventBus::new(wire.aws(), "tokens".to_owned())
}

#[tokio::test(start_paused = true)]
async fn token_event_is_published_with_json_detail() {
    let wire = bus(|_| false);
    let token_events = token_events(1);
    event_bus(&wire).publish(&token_events).await.unwrap();
    let call = wire.only_call();
    assert_eq!(call.operation, "PutEvents");
    let entry = &call.body["Entries"][0];
    assert_eq!(detail(entry), serde_json::to_value(&token_events[0]).unwrap());
    assert_eq!(entry["EventBusName"], "tokens");
    assert_eq!(entry["Source"], "changeover");
    assert_eq!(entry["DetailType"], "Version Stage Changed");
    assert_eq!(entry["Time"], 1_795_348_831.4);
}

#[tokio::test(start_paused = true)]
async fn events_are_sent_in_ordered_batches_of_ten() {
    let wire = bus(|_| false);
    event_bus(&wire).publish(&token_events(23)).await.unwrap();
    let sent: Vec<_> = wire.calls().iter().map(versions).collect();
    let all: Vec<_> = (1..=23).collect();
    assert_eq!(sent, all.chunks(10).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn only_refused_events_are_sent_again() {
    let mut refusals = 0;
    let wire = bus(move |detail| {
        refusals += usize::from(detail["version"] == 3);
        detail["version"] == 3 && refusals == 1
    });
    event_bus(&wire).publish(&token_events(4)).await.unwrap();
    let sent: Vec<_> = wire.calls().iter().map(versions).collect();
    assert_eq!(sent, [vec![1, 2, 3, 4], vec![3]]);
}

#[tokio::test(start_paused = true)]
async fn persistently_refused_events_are_counted_and_explained() {
    let wire = bus(|detail| detail["version"] == 3 || detail["version"] == 4);
    let untold = event_bus(&wire).publish(&token_events(4)).await.unwrap_err();
    assert_eq!(untold.count, 2);
    let error = untold.error.to_string();
    assert!(
        error.contains("tokens") && error.contains("ThrottlingException: slow down"),
        "{error}"
    );
    assert_eq!(wire.calls().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn failed_call_counts_its_events_as_unpublished() {
    let mut calls = 0;
    let wire = Wire::new(move |call| {
        calls += 1;
        let taken = vec![json!({"EventId": "e"}); call.body["Entries"].as_array().unwrap().len()];
        match calls {
            1 => ok(json!({"FailedEntryCount": 0, "Entries": taken})),
            _ => refused("AccessDeniedException"),
        }
    });
    let untold = event_bus(&wire).publish(&token_events(14)).await.unwrap_err();
    assert_eq!(untold.count, 4);
    assert!(untold.error.fix.contains("events:PutEvents"), "{}", untold.error);

    // An answer without a result for each event confirms none of them.
    let wire = Wire::script([Answer::With(200, json!({"FailedEntryCount": 0, "Entries": []}))]);
    assert_eq!(event_bus(&wire).publish(&token_events(2)).await.unwrap_err().count, 2);
}
