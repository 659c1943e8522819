//! Parsing of the example events, each as the request that its name says.

use std::time::Duration;

use changeover_core::{
    error::Kind,
    event::{Event, Request, STATUS_ALIAS},
};
use serde_json::json;

/// Parses the example of this name.
macro_rules! example {
    ($name:literal) => {{
        let event = include_str!(concat!("../../../../events/", $name, ".json"));
        Request::parse(&serde_json::from_str(event).unwrap()).unwrap()
    }};
}

#[test]
fn rotation_key_is_optional_in_event() {
    let (Request::Rotate { key, wait, .. }, Request::Rotate { key: given, wait: waited, .. }) =
        (example!("rotate"), example!("rotate-with-key"))
    else {
        panic!("one of them is no rotation")
    };
    assert_eq!((key, wait), (None, None));
    assert_eq!(given.as_deref(), Some("deploy-1481-1"));
    assert_eq!(waited, Some(Duration::from_secs(600)));
}

#[test]
fn scheduled_rotation_takes_key_from_its_event() {
    for (request, expected) in [
        (
            example!("eventbridge-rule"),
            "arn:aws:events:eu-west-1:123456789012:rule/changeover-RotationRule-1A2B3C4D \
             2026-12-01T04:00:00Z",
        ),
        (
            example!("scheduler"),
            "arn:aws:scheduler:eu-west-1:123456789012:schedule/default/\
             changeover-RotationSchedule-1A2B3C4D 2026-12-01T04:00:00Z",
        ),
    ] {
        assert_eq!(request.action(), "rotate");
        assert_eq!(request.key_or("the invocation's"), expected);
    }
}

#[test]
fn other_example_events_parse_to_their_actions() {
    for (request, action, token) in [
        (example!("publish"), "publish", Some("datastore-token")),
        (example!("drop"), "drop", Some("datastore-token")),
        (example!("forget"), "forget", Some("datastore-token")),
        (example!("import"), "import", None),
        (example!("rotate-fresh"), "rotate", Some("datastore-token")),
        (example!("publish-adopt"), "publish", Some("datastore-token")),
        (example!("sweep"), "sweep", None),
        (example!("sweep-one"), "sweep", Some("datastore-token")),
        (example!("status"), "status", Some("datastore-token")),
        (example!("status-all"), "status", None),
        (example!("preflight"), "preflight", Some("datastore-token")),
    ] {
        assert_eq!(request.action(), action);
        assert_eq!(request.token().map(ToString::to_string).as_deref(), token);
    }
}

#[test]
fn status_alias_allows_only_read_actions() {
    let function = "arn:aws:lambda:eu-west-1:123456789012:function:status";
    let observed = format!("{function}:{STATUS_ALIAS}");
    for (event, reads_only) in [
        (json!({"action": "status"}), true),
        (json!({"action": "preflight", "token": "a"}), true),
        (json!({"action": "rotate", "token": "a"}), false),
        (json!({"action": "publish", "token": "a"}), false),
        (json!({"action": "drop", "token": "a"}), false),
        (json!({"action": "forget", "token": "a"}), false),
        (json!({"action": "sweep"}), false),
        (json!({"CodePipeline.job": {"id": "1"}}), false),
    ] {
        let parsed = Event::parse(&event).unwrap();
        for through in [function.to_owned(), format!("{function}:live")] {
            assert!(parsed.allowed_through(&through).is_ok(), "{event} through {through}");
        }
        let refused = parsed.allowed_through(&observed).err().map(|error| error.kind);
        assert_eq!(refused, (!reads_only).then_some(Kind::AccessDenied), "{event}");
    }
}

#[test]
fn event_that_specifies_place_is_refused() {
    for action in ["rotate", "publish", "drop", "forget", "sweep", "status", "preflight"] {
        for field in ["publish", "presenters", "verifiers", "parameter", "spec", "without"] {
            let mut event = json!({"action": action, "token": "datastore-token"});
            event[field] = json!({"ssm": "/somewhere/else"});
            let error = Request::parse(&event).unwrap_err();
            assert_eq!(error.kind, Kind::BadEvent, "{event}: {error}");
        }
    }
}
