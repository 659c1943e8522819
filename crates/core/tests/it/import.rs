//! Values that are issued elsewhere.

use std::time::Duration;

use changeover_core::{
    error::Kind,
    event::Request,
    spec::{ParameterName, Side},
};
use changeover_testkit::{
    amount,
    scene::*,
    world::{Ending, Fault, Faults, LONG, MemoryWorld, place},
};
use futures::future::join_all;
use serde_json::{Value, json};

#[tokio::test(start_paused = true)]
async fn imported_value_becomes_current_version() {
    for (kind, spec) in kinds() {
        let world = imported(50, &spec).await;
        world.replayed_by(kind);
        world.arrive(INBOX, &issued(2), true);
        let ending = world.invoke("a", import()).await;
        world.assert_outcome(&ending, "rotated");
        assert_eq!(ending.answer()["version"], 2, "{kind}");
        world.sweep_until_rest(&subject()).await;
        world.assert_settled_on(2);
        let presented = &world.spec(&subject()).presenters.publications[0].place;
        assert_eq!(world.value(presented, Side::Presenters), issued(2), "{kind}");
    }
}

#[tokio::test(start_paused = true)]
async fn repeated_import_of_arrival_mints_one_version() {
    for (kind, spec) in few_kinds() {
        let world = imported(51, &spec).await;
        world.replayed_by(kind);
        world.arrive(INBOX, &issued(2), true);
        join_all((0..5).map(|_| world.invoke("event", import()))).await;
        world.sweep_until_rest(&subject()).await;
        for request in [import(), rotate("by hand"), rotate_fresh("fresh")] {
            world.assert_outcome(&world.invoke("late", request).await, "unchanged");
        }
        assert_eq!(world.minted(&subject()), 2, "{kind}");
        world.assert_settled_on(2);
    }
}

#[tokio::test(start_paused = true)]
async fn unannounced_arrival_is_found_by_sweep() {
    let world = imported(52, &everything()).await;
    world.arrive(INBOX, &issued(2), true);
    sweeps(&world, 2).await;
    assert_eq!(world.minted(&subject()), 2);
    world.sweep_until_rest(&subject()).await;
    world.assert_settled_on(2);
    // An inbox that was deleted and created again counts its versions from one.
    for version in 3..5 {
        world.delete_inbox(INBOX);
        sweeps(&world, 2).await;
        world.arrive(INBOX, &issued(version), true);
        sweeps(&world, 2).await;
        world.sweep_until_rest(&subject()).await;
        world.assert_settled_on(version.into());
    }
}

#[tokio::test(start_paused = true)]
async fn arrival_during_rotation_is_not_lost() {
    for (kind, spec) in few_kinds() {
        for is_told in [true, false] {
            let world = imported(53, &spec).await;
            world.replayed_by(format!("{kind}, reported {is_told}"));
            world.arrive(INBOX, &issued(2), true);
            world.assert_outcome(
                &world.invoke("a", rotate_without_waiting("a")).await,
                "in_progress",
            );
            world.arrive(INBOX, &issued(3), true);
            if is_told {
                let ending = world.invoke("b", import()).await;
                world.assert_outcome(&ending, "rotated");
                assert_eq!(ending.answer()["version"], 3, "{kind}");
            }
            world.sweep_until_rest(&subject()).await;
            sweeps(&world, 2).await;
            world.sweep_until_rest(&subject()).await;
            world.assert_settled_on(3);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn unfit_arrival_is_refused_and_its_reason_reported() {
    let mut spec = everything();
    spec["overlap"] = json!("1h");
    let world = imported(54, &spec).await;
    world.arrive(INBOX, &issued(2), true);
    world.assert_outcome(&world.invoke("a", import()).await, "rotated");
    let unfit = [
        ("hunter2".to_owned(), true, "characters"),
        ("a".repeat(64), true, "different characters"),
        (format!("{}\n", issued(9)), true, "U+000A"),
        (format!("\u{feff}{}", issued(9)), true, "character 1 is U+FEFF"),
        (format!("{}\u{200b}{}", &issued(9)[..8], issued(8)), true, "character 9 is U+200B"),
        (format!("{}\u{2026}", issued(9)), true, "U+2026"),
        (format!("{}\u{e9}", issued(9)), true, "U+00E9"),
        (issued(9), false, "not a SecureString"),
        (issued(1), true, "version 1 has its value"),
    ];
    for (value, is_secure, because) in unfit {
        world.arrive(INBOX, &value, is_secure);
        refused(&world, because, &value).await;
    }
    world.sweep_until_rest(&subject()).await;
    // The end of the first version has passed.
    world.arrive(INBOX, &issued(1), true);
    refused(&world, "has ended", &issued(1)).await;
    assert_eq!(world.minted(&subject()), 2);

    world.arrive(INBOX, &issued(2), true);
    world.assert_outcome(&world.invoke("same", import()).await, "unchanged");
    world.arrive(INBOX, &issued(3), true);
    world.assert_outcome(&world.invoke("good", import()).await, "rotated");
    world.sweep_until_rest(&subject()).await;
    world.assert_settled_on(3);
}

/// Typical values of issuers: Keycloak, UUIDs, keys of 128 bits, a classic forge token, and openssl.
const ISSUED: [&str; 5] = [
    "ZmJq3xVwR8sYtN2kLhPd6uCgA9eTbXfQ",
    "3f2b8c1e-9a74-4d0e-b6f5-1c2d3e4a5b69",
    "9f86d081884c7d659a2feaa0c55ad015",
    "ghp_f83kLmZp0QvXs7TgYh2NwRb4CdEuJaKi1oMx",
    "q1Z7sX0vKc+9LmNbT3hYgR5eWjU8pD2f",
];

#[tokio::test(start_paused = true)]
async fn typical_issuer_value_is_imported_with_warning() {
    for value in ISSUED {
        let world = imported(59, &items()).await;
        world.arrive(INBOX, value, true);
        let ending = world.invoke("a", import()).await;
        world.assert_outcome(&ending, "rotated");
        let warnings = ending.answer()["warnings"].to_string();
        assert!(warnings.contains("bits"), "{warnings}");
        assert!(!warnings.contains(value));
        world.sweep_until_rest(&subject()).await;
        world.assert_settled_on(2);
    }
}

#[tokio::test(start_paused = true)]
async fn least_bits_decide_what_is_taken() {
    let short = "k7Qw2ZxP4mTb";
    for (least_bits, outcome) in [(None, "BadToken"), (Some(72), "rotated"), (Some(73), "BadToken")]
    {
        let mut spec = items();
        for publication in spec["verifiers"]["publish"].as_array_mut().unwrap() {
            publication["as"] = json!("plain");
        }
        let mut spec = from_inbox(&spec);
        if let Some(bits) = least_bits {
            spec["source"]["least_bits"] = json!(bits);
        }
        let world = MemoryWorld::new(60);
        world.specify(&subject(), &spec);
        world.arrive(INBOX, &issued(1), true);
        world.assert_outcome(&world.invoke("first", publish()).await, "published");
        world.arrive(INBOX, short, true);
        world.assert_outcome(&world.invoke("a", import()).await, outcome);
    }
}

#[tokio::test(start_paused = true)]
async fn weak_value_in_use_is_adopted_with_warning() {
    let world = MemoryWorld::new(61);
    world.specify(&subject(), &items());
    world.in_use_before(&place("dynamodb:configuration/id=presented"), "hunter2hunter2");
    let ending = world.invoke("a", rotate("a")).await;
    world.assert_outcome(&ending, "rotated");
    let warnings = ending.answer()["warnings"].to_string();
    assert!(warnings.contains("by trying, until its end"), "{warnings}");
}

#[tokio::test(start_paused = true)]
async fn weak_value_is_not_adopted_by_itself() {
    let mut spec = items();
    spec["on_drift"] = json!("adopt");
    let world = in_service(62, &spec).await;
    world.edit_presented(&place("dynamodb:configuration/id=presented"), "hunter2hunter2");
    let ending = world.invoke("a", rotate("a")).await;
    world.assert_outcome(&ending, "BadToken");
    assert_eq!(world.minted(&subject()), 1);
}

#[tokio::test(start_paused = true)]
async fn token_starts_with_value_in_use_before_arrivals() {
    let world = MemoryWorld::new(55);
    world.specify(&subject(), &from_inbox(&items()));
    let refused = world.invoke("nothing", publish()).await;
    world.assert_outcome(&refused, "PreflightFailed");
    // The value was in use before changeover, and was issued once more since.
    world.in_use_before(&place("dynamodb:configuration/id=presented"), &issued(1));
    world.arrive(INBOX, &issued(1), true);
    world.assert_outcome(&world.invoke("same", rotate("same")).await, "published");
    world.sweep_until_rest(&subject()).await;
    world.assert_settled_on(1);
    world.arrive(INBOX, &issued(2), true);
    world.assert_outcome(&world.invoke("a", rotate("a")).await, "rotated");
    world.sweep_until_rest(&subject()).await;
    world.assert_settled_on(2);
}

#[tokio::test(start_paused = true)]
async fn import_cut_at_any_call_mints_one_version() {
    for (kind, spec) in few_kinds() {
        for fault in [Fault::CutBefore, Fault::CutAfter, Fault::FailAfter] {
            for call in amount::calls(1..) {
                let world = imported(56, &spec).await;
                world.replayed_by(format!("{kind}, {fault:?} at {call}"));
                world.arrive(INBOX, &issued(2), true);
                let run = world.run("a", import(), LONG, Faults::at(call, fault)).await;
                sweeps(&world, 2).await;
                world.sweep_until_rest(&subject()).await;
                // A write in doubt defers the arrival.
                sweeps(&world, 8).await;
                world.sweep_until_rest(&subject()).await;
                assert_eq!(world.minted(&subject()), 2, "{kind} {fault:?} at {call}");
                world.assert_settled_on(2);
                if run.calls < call {
                    break;
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn import_from_unknown_inbox_is_refused() {
    let world = imported(57, &items()).await;
    let parameter = ParameterName::parse("/inbox/another").expect("a name");
    let ending = world.invoke("a", Request::Import { parameter }).await;
    world.assert_outcome(&ending, "UnknownToken");
}

/// Asserts that the arrival is refused with this reason, that no version is minted, and that later sweeps
/// do not report it again.
async fn refused(world: &MemoryWorld, because: &str, value: &str) {
    let minted = world.minted(&subject());
    sweeps(world, 2).await;
    for _ in 0..2 {
        let Ending::Failed(error) = world.invoke("asks", import()).await else {
            world.fail(&format!("it was not refused, though: {because}"));
        };
        assert_eq!(error.kind, Kind::BadToken, "{error}");
        let reported = error.to_string();
        assert!(reported.contains(because) && !reported.contains(value), "{reported}");
    }
    let status =
        world.invoke("status", Request::Status { token: Some(subject()), after: None }).await;
    let reported = status.answer()["results"][0]["imported"]["refused"].to_string();
    assert!(reported.contains(because), "{status:?}");
    world.pass(Duration::from_secs(61)).await;
    let sweep = world.invoke("sweep", Request::Sweep).await;
    assert!(!sweep.answer().to_string().contains("BadToken"), "{sweep:?}");
    assert_eq!(world.minted(&subject()), minted);
}

/// A world in which the value that was issued first is in service.
async fn imported(seed: u64, spec: &Value) -> MemoryWorld {
    let world = MemoryWorld::new(seed);
    world.arrive(INBOX, &issued(1), true);
    world.specify(&subject(), &from_inbox(spec));
    world.assert_outcome(&world.invoke("first", publish()).await, "published");
    world.sweep_until_rest(&subject()).await;
    world.pass(Duration::from_secs(60)).await;
    world.assert_settled_on(1);
    world
}

fn from_inbox(spec: &Value) -> Value {
    let mut spec = spec.clone();
    spec["source"] = json!({"parameter": INBOX});
    spec["token"] = json!({"bytes": 32});
    spec
}

async fn sweeps(world: &MemoryWorld, minutes: usize) {
    for _ in 0..minutes {
        world.pass(Duration::from_secs(60)).await;
        world.invoke("sweep", Request::Sweep).await;
    }
}
