//! Hostile input: damaged records, endless events, clocks that jump, deadlines that have passed. Each ends
//! in an answer or in one clear error. Nothing panics or loops for ever.

use std::{collections::BTreeSet, time::Duration};

use changeover_core::{
    error::Kind,
    event::Request,
    plan::{self, Ask, Limits},
    record::{Held, Lease, Loaded, Record, Transition},
    spec::{Spec, SpecId},
};
use changeover_testkit::{
    amount,
    damage::{assert_clear, damages, paused},
    scene::*,
    world::{Ending, Faults},
};
use changeover_token::TokenName;

use jiff::Timestamp;
use proptest::{
    collection::vec,
    prelude::*,
    sample::{Index, select},
    test_runner::Config,
};
use serde_json::json;

/// More calls than any invocation makes, unless it is caught in a loop.
const MANY_CALLS: usize = 2_000;

proptest! {
    #![proptest_config(Config { cases: amount::cases(300), failure_persistence: None, ..Config::default() })]

    #[test]
    fn damaged_record_causes_no_panic_or_unclear_error(
        moment in 0..40_usize,
        damages in damages(),
        requests in vec(request(), 1..4),
    ) {
        paused().block_on(async {
            let world = in_service(1, &everything()).await;
            let faults = Faults::at(moment, changeover_testkit::world::Fault::CutBefore);
            world.run("cut", rotate("a"), Duration::from_secs(120), faults).await;
            let record = world.record(&subject()).expect("a record");
            let mut json = serde_json::to_value(&record).expect("JSON");
            damages.befall(&mut json);
            // A record that cannot be parsed is `BadRecord`, which the tests of the wire cover.
            let Ok(damaged) = serde_json::from_value::<Record>(json) else { return };
            if damaged.token() != &subject() {
                return;
            }
            pure_functions_take(&damaged, world.now());
            world.damage(&subject(), &damaged);
            for request in requests {
                let run = world.run("after", request, Duration::from_secs(900), Faults::none()).await;
                assert!(run.calls < MANY_CALLS, "{} calls", run.calls);
                if let Ending::Failed(error) = run.ending {
                    assert_clear(&error);
                }
            }
        });
    }

    #[test]
    fn passed_deadline_yields_answer_or_clear_error(request in request(), kind in any::<Index>()) {
        paused().block_on(async {
            let (_, spec) = &few_kinds()[kind.index(4)];
            let world = in_service(1, spec).await;
            let run = world.run_until("late", request, world.now() - Duration::from_secs(24 * 3600)).await;
            assert!(run.calls < MANY_CALLS, "{} calls", run.calls);
            if let Ending::Failed(error) = run.ending {
                assert_clear(&error);
            }
            world.sweep_until_rest(&subject()).await;
            world.assert_settled();
        });
    }
}

proptest! {
    // Each case runs a sweep a minute for several days.
    #![proptest_config(Config { cases: amount::cases(12), failure_persistence: None, ..Config::default() })]

    #[test]
    fn token_recovers_from_clock_jumps_of_one_day(
        jumps in vec((select(vec![-24, -1, 0, 1, 24]), request()), 1..5),
        kind in any::<Index>(),
    ) {
        paused().block_on(async {
            let (_, spec) = &few_kinds()[kind.index(4)];
            let world = in_service(1, spec).await;
            for (hours, request) in jumps {
                let run = world.run_with_clock("skewed", request, hours).await;
                assert!(run.calls < MANY_CALLS, "{} calls", run.calls);
                if let Ending::Failed(error) = run.ending {
                    assert_clear(&error);
                }
            }
            // Leases, ends and due times that were written a day ahead expire too.
            world.pass(Duration::from_secs(3 * 24 * 60 * 60)).await;
            world.sweep_until_rest(&subject()).await;
            let rotated = world.invoke("afterwards", rotate("afterwards")).await;
            world.assert_outcome(&rotated, "rotated");
        });
    }
}

#[test]
fn six_megabytes_are_refused_in_a_sentence() {
    let long = "\u{1f511}x".repeat(6 << 20 >> 3);
    let deep = (0..120).fold(json!(1), |inner, _| json!({ "a": [inner] }));
    let events = [
        json!(long),
        json!({ "action": long }),
        json!({ "action": "rotate", "token": long }),
        json!({ "action": "rotate", "token": "a", "key": long }),
        json!({ "action": "rotate", "token": "a", "wait": long }),
        json!({ "action": "rotate", "token": "a", long.as_str(): 1 }),
        json!({ "action": "rotate", "token": "a", "key": deep }),
        json!(vec![json!({}); 1 << 20]),
        deep.clone(),
    ];
    for event in events {
        let error = Request::parse(&event).expect_err("nobody means that");
        assert_eq!(error.kind, Kind::BadEvent);
        assert_clear(&error);
    }
    let name = TokenName::parse("a").expect("a name");
    for spec in [
        long.clone(),
        json!({ "overlap": long }).to_string(),
        json!({ long.as_str(): 1 }).to_string(),
        json!({ "verifiers": { "publish": vec![json!({ "ssm": "/a/b" }); 100_000] } }).to_string(),
        "[".repeat(1 << 20),
        deep.to_string(),
    ] {
        let error = Spec::parse(&name, 1, &spec).expect_err("nobody means that");
        assert_eq!(error.kind, Kind::BadSpec);
        assert_clear(&error);
    }
}

fn request() -> impl Strategy<Value = Request> {
    prop_oneof![
        (0..3).prop_map(|key| rotate(&format!("key {key}"))),
        Just(rotate_without_waiting("b")),
        Just(publish()),
        Just(drop_pending()),
        Just(Request::Sweep),
        Just(Request::SweepOne { token: subject() }),
        Just(Request::Status { token: None, after: None }),
        Just(Request::Preflight { token: subject() }),
    ]
}

/// Checks that the pure core is total: it answers for every record.
fn pure_functions_take(record: &Record, now: Timestamp) {
    let loaded = Loaded { record: Some(record.clone()), ..Loaded::default() };
    let asks = [
        Ask::Rotate { fresh: false },
        Ask::Rotate { fresh: true },
        Ask::Publish { adopt: false },
        Ask::Publish { adopt: true },
        Ask::Drop,
        Ask::Resume,
    ];
    for ask in asks {
        for (depth, is_imported) in [(0, true), (1, false), (27, true), (27, false)] {
            let _ = plan::plan(ask, &loaded, Limits { depth, is_imported }, now);
        }
    }
    let lease = Lease { holder: "somebody".to_owned(), until: now + Duration::from_secs(30) };
    let late_write = Some(Duration::from_secs(300));
    for change in [
        Transition::Lease { lease, late_write },
        Transition::Respecify(SpecId::of(7, "{}")),
        Transition::Published(Default::default()),
        Transition::Synced(Default::default()),
        Transition::RolledOut { overlap: Duration::from_secs(365 * 24 * 3600) },
        Transition::Repeat,
        Transition::Retire,
        Transition::Drop,
        Transition::Await { due_at: now, watcher: None },
        Transition::Hold(Held::new("object", "reason", "fix")),
        Transition::Compared {
            drift: Vec::new(),
            places: BTreeSet::new(),
            again_after: Duration::from_secs(365 * 24 * 3600),
        },
        Transition::Queue(None),
    ] {
        if let Ok(after) = record.after(change, now) {
            let _ = after.to_save();
        }
    }
}
