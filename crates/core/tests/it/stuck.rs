//! Tokens that cannot be resumed: they back off, are measured, and delay nothing else.

use std::time::Duration;

use changeover_core::{event::Request, spec::Side};
use changeover_testkit::{
    amount,
    scene::*,
    world::{Fault, Faults, LONG, MemoryWorld, place, token},
};
use changeover_token::{Stage, TokenName};

use serde_json::{Value, json};

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(25 * 60 * 60);
/// Places of the views of [`items`].
const ACCEPTED: &str = "dynamodb:configuration/id=accepted";
const PRESENTED: &str = "dynamodb:configuration/id=presented";

/// A cause that keeps a token from being resumed, with its start and its repair.
struct Trouble {
    error: &'static str,
    begin: fn(&MemoryWorld),
    mend: fn(&MemoryWorld),
}

const TROUBLES: [Trouble; 5] = [
    Trouble {
        error: "UnknownToken",
        begin: |world| world.unspecify(&subject()),
        mend: |world| world.specify(&subject(), &from_inbox()),
    },
    Trouble {
        error: "BadSpec",
        begin: |world| world.specify_badly(&subject(), "{}"),
        mend: |world| world.specify(&subject(), &from_inbox()),
    },
    Trouble {
        error: "BadRecord",
        begin: |world| world.make_unreadable(subject()),
        mend: |world| world.make_readable(subject()),
    },
    Trouble {
        error: "AccessDenied",
        begin: |world| world.make_unreadable(INBOX),
        mend: |world| world.make_readable(INBOX),
    },
    Trouble {
        error: "AccessDenied",
        begin: |world| world.make_unreadable(PRESENTED),
        mend: |world| world.make_readable(PRESENTED),
    },
];

#[tokio::test(start_paused = true)]
async fn failing_token_is_retried_hourly_at_last() {
    for trouble in TROUBLES {
        let world = imported(&from_inbox()).await;
        (trouble.begin)(&world);
        let mut tried = Vec::new();
        for minute in 0..5 * 60 {
            world.pass(MINUTE).await;
            if let Some(error) = swept(&world).await {
                assert_eq!(error, trouble.error);
                tried.push(minute);
            }
        }
        let pauses: Vec<_> = tried.windows(2).map(|pair| pair[1] - pair[0]).collect();
        // A sweep that runs just before the due time leaves the token to the next one.
        let expected = [1, 2, 4, 8, 16, 32, 60, 60, 60];
        for (pause, expected) in pauses.iter().zip(expected) {
            assert!((expected..=expected + 1).contains(pause), "{}: {pauses:?}", trouble.error);
        }
        assert!((8..=10).contains(&tried.len()), "{}: {tried:?}", trouble.error);
        let failing = world.failing(&subject()).expect("it fails");
        assert_eq!(failing.tries as usize, tried.len(), "{}", trouble.error);
        assert_eq!(failing.error, trouble.error);

        (trouble.mend)(&world);
        world.pass(Duration::from_secs(62 * 60)).await;
        assert_eq!(swept(&world).await, None, "{}", trouble.error);
        assert_eq!(world.failing(&subject()), None, "the save ends the back-off");
        assert!(world.is_at_rest(&subject()));
    }
}

#[tokio::test(start_paused = true)]
async fn refused_rotation_backs_off() {
    // Every arrival is refused before it is minted.
    let mut spec = workloads();
    spec["source"] = json!({"parameter": INBOX});
    let world = imported(&spec).await;
    world.pause_workload(&deployed("backend"), true);
    world.arrive(INBOX, &issued(2), true);
    let mut tries = 0;
    for _ in 0..60 {
        world.pass(MINUTE).await;
        tries += usize::from(swept(&world).await.as_deref() == Some("PreflightFailed"));
    }
    assert!((4..8).contains(&tries), "{tries} tries in an hour");
    world.pause_workload(&deployed("backend"), false);
    world.pass(Duration::from_secs(62 * 60)).await;
    world.sweep_until_rest(&subject()).await;
    world.assert_settled_on(2);
}

#[tokio::test(start_paused = true)]
async fn thousand_failing_tokens_delay_no_other() {
    let world = MemoryWorld::new(81);
    let count = if amount::is_little() { 100 } else { 1000 };
    let failing: Vec<_> = (0..count).map(|number| token(&format!("stuck-{number:04}"))).collect();
    for token in &failing {
        mint(&world, token).await;
        world.unspecify(token);
    }
    for minutes in [1, 2, 3] {
        world.pass(minutes * MINUTE).await;
        let swept = world.invoke("sweep", Request::Sweep).await;
        assert_eq!(swept.answer()["results"].as_array().unwrap().len(), count);
    }
    // All of them are due again before another token becomes due.
    world.pass(5 * MINUTE).await;
    let healthy = token("healthy");
    mint(&world, &healthy).await;
    world.pass(Duration::from_secs(1)).await;
    let started = world.started().len();
    world.invoke("sweep", Request::Sweep).await;
    assert!(world.is_at_rest(&healthy), "it is carried on");
    let handed_on = world.started()[started..].iter().any(|(_, it)| it.token() == Some(&healthy));
    assert!(!handed_on, "by the sweep itself");
    for token in &failing {
        assert!(world.failing(token).is_some_and(|it| it.tries >= 3), "{token}");
    }
}

#[tokio::test(start_paused = true)]
async fn version_ends_although_the_spec_is_gone() {
    let gone = |world: &MemoryWorld| world.unspecify(&subject());
    let broken = |world: &MemoryWorld| world.specify_badly(&subject(), "{");
    for (kind, spec) in kinds() {
        for begin in [gone as fn(&MemoryWorld), broken] {
            let world = in_service(82, &spec).await;
            world.replayed_by(kind);
            world.assert_outcome(&world.invoke("a", rotate("a")).await, "rotated");
            // Let the sweep run the overlap's rollout of verifiers.
            world.pass(Duration::from_secs(1)).await;
            world.invoke("roll", Request::Sweep).await;
            begin(&world);
            world.pass(5 * MINUTE).await;
            world.invoke("sweep", Request::Sweep).await;
            let rest = world.rest(&subject());
            assert_eq!(rest.versions, ["2 Current"], "{kind}");
            let accepted = rest.places.iter().filter(|(place, _)| place.starts_with("verifiers"));
            for (place, held) in accepted {
                assert_eq!(held, "2 current", "{kind}: {place}");
            }
            assert!(world.audit(&subject(), 1).expect("an audit").ended_at.is_some());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn place_without_own_document_is_left_alone() {
    let mut spec = parameters();
    spec["verifiers"]["publish"] = json!([{"ssm": "/backend/accepted"}, item("accepted")]);
    let world = in_service(83, &spec).await;
    world.assert_outcome(&world.invoke("a", rotate("a")).await, "rotated");
    world.unspecify(&subject());
    let accepted = place("ssm:/backend/accepted");
    // Another token uses this place now. It has other versions, of other values.
    let theirs = world.value(&accepted, Side::Verifiers);
    let theirs = theirs.replace("\"not_after\"", "\"of another\": 1, \"not_after\"");
    world.edit(&accepted, Side::Verifiers, &theirs);
    world.pass(5 * MINUTE).await;
    world.invoke("sweep", Request::Sweep).await;
    assert_eq!(world.rest(&subject()).versions, ["2 Current"]);
    assert_eq!(world.value(&accepted, Side::Verifiers), theirs);
    let own = world.value(&place("dynamodb:configuration/id=accepted"), Side::Verifiers);
    assert!(!own.contains("not_after"), "{own}");
}

#[tokio::test(start_paused = true)]
async fn version_ends_although_reads_fail() {
    for unreadable in [INBOX, PRESENTED, ACCEPTED] {
        let mut spec = from_inbox();
        spec["overlap"] = json!("25h");
        let world = imported(&spec).await;
        world.arrive(INBOX, &issued(2), true);
        world.assert_outcome(&world.invoke("a", import()).await, "rotated");
        world.make_unreadable(unreadable);
        for _ in 0..26 {
            world.pass(Duration::from_secs(60 * 60)).await;
            world.invoke("sweep", Request::Sweep).await;
        }
        assert_eq!(world.rest(&subject()).versions, ["2 Current"], "{unreadable}");
        assert!(world.failing(&subject()).is_some(), "{unreadable}");
    }
}

#[tokio::test(start_paused = true)]
async fn unread_accepted_set_keeps_late_write() {
    let late = Fault::Twice(Duration::from_secs(4 * 60 + 40));
    let calls = {
        let world = in_service(90, &parameters()).await;
        world.run("a", rotate("a"), LONG, Faults::none()).await.calls
    };
    let mut kept = 0;
    for call in 1..=calls {
        let world = in_service(90, &parameters()).await;
        world.replayed_by(format!("{late:?} at call {call}"));
        world.run("a", rotate("a"), LONG, Faults::at(call, late)).await;
        world.make_unreadable("ssm:/backend/token/accepted");
        world.pass(6 * MINUTE).await;
        let record = world.record(&subject()).expect("a record");
        if record.is_late_write_uncompared() && record.rotation().is_none() {
            assert_eq!(swept(&world).await.as_deref(), Some("AccessDenied"), "call {call}");
            assert_eq!(world.rest(&subject()).versions, ["2 Current", "1 Previous"]);
            kept += 1;
        }
        world.make_readable("ssm:/backend/token/accepted");
        world.pass(2 * MINUTE).await;
        world.sweep_until_rest(&subject()).await;
        world.assert_settled_on(2);
    }
    assert!(kept > 0, "no reply was lost");
}

#[tokio::test(start_paused = true)]
async fn version_ends_while_a_waiting_rotation_is_refused() {
    let world = in_service(84, &workloads()).await;
    world.assert_outcome(&world.invoke("a", rotate_without_waiting("a")).await, "in_progress");
    let fresh = Request::Rotate {
        token: subject(),
        key: Some("b".to_owned()),
        wait: Some(Duration::ZERO),
        without: [].into(),
        fresh: true,
    };
    world.assert_outcome(&world.invoke("b", fresh).await, "in_progress");
    for _ in 0..30 {
        world.pass(Duration::from_secs(10)).await;
        world.invoke("sweep", Request::Sweep).await;
        let is_current = |number| {
            let record = world.record(&subject()).expect("a record");
            record.in_stage(Stage::Current).is_some_and(|it| it.version.get() == number)
        };
        if is_current(2) {
            world.pause_workload(&deployed("datastore"), true);
        }
    }
    let record = world.record(&subject()).expect("a record");
    assert!(record.queued().is_some(), "it waits");
    assert_eq!(world.rest(&subject()).versions, ["2 Current"]);
    world.pause_workload(&deployed("datastore"), false);
    world.sweep_until_rest(&subject()).await;
    world.assert_settled_on(3);
}

#[tokio::test(start_paused = true)]
async fn version_without_spec_leaves_all_places_or_none() {
    let world = in_service(95, &everything()).await;
    world.assert_outcome(&world.invoke("a", rotate("a")).await, "rotated");
    // Let the sweep run the overlap's rollout of verifiers.
    world.pass(Duration::from_secs(1)).await;
    world.invoke("roll", Request::Sweep).await;
    let unreadable = place("ssm:/backend/token/accepted");
    world.make_unreadable(&unreadable);
    world.unspecify(&subject());
    for _ in 0..5 {
        world.pass(MINUTE).await;
        swept(&world).await;
    }
    assert_eq!(world.rest(&subject()).versions, ["2 Current", "1 Previous"]);
    world.make_readable(&unreadable);
    world.pass(2 * 60 * MINUTE).await;
    world.invoke("sweep", Request::Sweep).await;
    let rest = world.rest(&subject());
    assert_eq!(rest.versions, ["2 Current"]);
    let accepted = rest.places.iter().filter(|(place, _)| place.starts_with("verifiers"));
    assert!(accepted.clone().count() == 2 && accepted.into_iter().all(|(_, it)| it == "2 current"));
}

#[tokio::test(start_paused = true)]
async fn unreadable_place_hides_no_other() {
    let world = in_service(85, &everything()).await;
    let unreadable = place("ssm:/backend/token");
    world.make_unreadable(&unreadable);
    let edited = place("dynamodb:configuration/id=presented");
    world.edit_presented(&edited, "a-value-that-was-written-by-hand");
    world.pass(DAY).await;
    assert_eq!(swept(&world).await.as_deref(), Some("AccessDenied"));
    let record = world.record(&subject()).expect("a record");
    assert_eq!(record.drift(), [edited.to_string()]);
    assert!(record.compare_at() <= world.now(), "the comparison is still due");
}

#[tokio::test(start_paused = true)]
async fn stuck_tokens_are_counted_by_each_sweep() {
    let world = in_service(86, &items()).await;
    world.pass(DAY).await;
    world.unspecify(&subject());
    assert_eq!(swept(&world).await.as_deref(), Some("UnknownToken"));
    world.pass(MINUTE / 2).await;
    assert_eq!(swept(&world).await, None, "its back-off lasts");
    assert_eq!(last(&world, "StuckTokens"), 1, "it is stuck all the same");
    world.specify(&subject(), &items());
    world.pass(4 * MINUTE).await;
    assert_eq!(swept(&world).await, None);
    world.pass(MINUTE).await;
    swept(&world).await;
    assert_eq!(last(&world, "StuckTokens"), 0);
}

#[tokio::test(start_paused = true)]
async fn token_that_fails_before_its_turn_is_overdue() {
    // The spec becomes invalid in the middle of a rotation.
    let world = in_service(87, &items()).await;
    world.assert_outcome(&world.invoke("a", rotate_without_waiting("a")).await, "in_progress");
    world.specify_badly(&subject(), "{}");
    assert!(overdue_after_hours(&world).await > 3 * 60 * 60);
    // The record cannot be read.
    let world = in_service(88, &items()).await;
    world.pass(DAY).await;
    world.make_unreadable(subject());
    assert!(overdue_after_hours(&world).await > 3 * 60 * 60);
}

#[tokio::test(start_paused = true)]
async fn failing_sweep_cut_at_any_call_loses_nothing() {
    for trouble in TROUBLES {
        let failing = async |faults| {
            let world = imported(&from_inbox()).await;
            world.replayed_by(format!("{}, {faults:?}", trouble.error));
            (trouble.begin)(&world);
            world.pass(MINUTE).await;
            let run = world.run("sweep", Request::Sweep, LONG, faults).await;
            (world, run.calls)
        };
        let (_, calls) = failing(Faults::none()).await;
        for call in 1..=calls {
            for fault in [
                Fault::CutBefore,
                Fault::CutAfter,
                Fault::CutLate(Duration::from_secs(7)),
                Fault::FailBefore,
                Fault::FailAfter,
            ] {
                let (world, _) = failing(Faults::at(call, fault)).await;
                world.pass(3 * MINUTE).await;
                swept(&world).await;
                assert!(world.failing(&subject()).is_some(), "it is counted in the end");
                (trouble.mend)(&world);
                world.pass(Duration::from_secs(5 * 60)).await;
                world.sweep_until_rest(&subject()).await;
                assert_eq!(world.failing(&subject()), None);
                world.arrive(INBOX, &issued(2), true);
                world.assert_outcome(&world.invoke("a", import()).await, "rotated");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn status_shows_failures_and_missing_specs() {
    let world = in_service(89, &items()).await;
    let other = token("other-token");
    mint(&world, &other).await;
    world.pass(DAY).await;
    world.unspecify(&subject());
    swept(&world).await;
    let all = world.invoke("status", Request::Status { token: None, after: None }).await;
    let results = all.answer()["results"].as_array().unwrap();
    assert_eq!(results.len(), 2, "{results:#?}");
    let [gone, healthy] = [&results[0], &results[1]];
    assert_eq!(gone["token"], "datastore-token");
    assert!(gone.as_object().unwrap()["spec"].is_null());
    assert_eq!(gone["failing"]["tries"], 1);
    assert_eq!(gone["failing"]["error"], "UnknownToken");
    let places: Vec<_> = gone["publications"].as_array().unwrap().iter().collect();
    assert_eq!(
        places.iter().map(|it| (&it["side"], &it["place"])).collect::<Vec<_>>(),
        [
            (&json!("verifiers"), &json!("dynamodb:configuration/id=accepted")),
            (&json!("presenters"), &json!("dynamodb:configuration/id=presented")),
        ]
    );
    assert_eq!((&healthy["token"], &healthy["spec"]), (&json!("other-token"), &json!(1)));
    assert!(healthy.get("failing").is_none());

    let one = world.invoke("status", Request::Status { token: Some(subject()), after: None }).await;
    let one = &one.answer()["results"][0];
    assert!(one["spec"].is_null());
    assert_eq!(one["newest"]["version"], 1);
    let unknown = Request::Status { token: Some(token("unknown")), after: None };
    world.assert_outcome(&world.invoke("status", unknown).await, "UnknownToken");
}

/// A spec with a value from an inbox and views in items. A sweep reads the inbox each minute.
fn from_inbox() -> Value {
    let mut spec = items();
    spec["token"] = json!({"bytes": 32});
    spec["source"] = json!({"parameter": INBOX});
    spec
}

async fn imported(spec: &Value) -> MemoryWorld {
    let world = MemoryWorld::new(80);
    world.arrive(INBOX, &issued(1), true);
    world.specify(&subject(), spec);
    world.assert_outcome(&world.invoke("first", publish()).await, "published");
    world.sweep_until_rest(&subject()).await;
    world.pass(MINUTE).await;
    world
}

/// Mints a first version and leaves its rotation owed.
async fn mint(world: &MemoryWorld, token: &TokenName) {
    let spec = json!({
        "token": {"bytes": 32},
        "overlap": "15s",
        "verifiers": {"publish": [item(&format!("{token}-accepted"))], "within": "1s"},
        "presenters": {"publish": [item(&format!("{token}-presented"))], "within": "1s"},
    });
    world.specify(token, &spec);
    let request = Request::Rotate {
        token: token.clone(),
        key: None,
        wait: Some(Duration::ZERO),
        without: [].into(),
        fresh: false,
    };
    world.assert_outcome(&world.invoke("mint", request).await, "in_progress");
}

/// Sweeps once, and returns the error of the tests' token if it failed.
async fn swept(world: &MemoryWorld) -> Option<String> {
    let swept = world.invoke("sweep", Request::Sweep).await;
    world.assert_outcome(&swept, "swept");
    let results = swept.answer()["results"].as_array().unwrap();
    let about = results.iter().find(|it| it["token"] == subject().as_str())?;
    about["error"].as_str().map(str::to_owned)
}

/// Sweeps each minute for four hours, and returns how long the token is overdue then.
async fn overdue_after_hours(world: &MemoryWorld) -> u64 {
    for _ in 0..4 * 60 {
        world.pass(MINUTE).await;
        swept(world).await;
    }
    last(world, "Overdue")
}

/// Last written value of a metric.
fn last(world: &MemoryWorld, metric: &str) -> u64 {
    let lines = world.measured().into_iter().rev();
    let mut lines = lines.map(|line| serde_json::from_str::<Value>(&line).unwrap());
    lines.find_map(|line| line[metric].as_u64()).expect("it was measured")
}

#[tokio::test(start_paused = true)]
async fn workload_reverted_each_time_is_not_restarted_forever() {
    let world = in_service(60, &workloads()).await;
    let workload = deployed("backend");
    world.put_back(&workload, true);
    world.assert_outcome(&world.invoke("a", rotate("a")).await, "held");
    let stamps = world.calls(Some("stamp"));
    for _ in 0..DAY.as_secs() / MINUTE.as_secs() {
        world.pass(MINUTE).await;
        world.invoke("sweep", Request::Sweep).await;
    }
    // Each try stamps the workload and another one on its side.
    let more = world.calls(Some("stamp")) - stamps;
    assert!((2..=6).contains(&more), "{more} stamps in a day");
    assert!(world.record(&subject()).is_some_and(|it| it.held().is_some()));
    // Follow the fix: the controller leaves stamps alone, and the rotation is requested again.
    world.put_back(&workload, false);
    world.assert_outcome(&world.invoke("a again", rotate("a")).await, "rotated");
    world.sweep_until_rest(&subject()).await;
    world.assert_settled_on(2);
}
