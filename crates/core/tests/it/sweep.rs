//! A sweep of many tokens: it resumes a few itself, hands on the others, and loses none.

use std::{collections::BTreeSet, time::Duration};

use changeover_core::event::Request;
use changeover_testkit::{
    amount,
    scene::item,
    world::{Ending, Fault, Faults, Intruder, LONG, MemoryWorld, token},
};
use changeover_token::TokenName;
use serde_json::{Value, json};

/// A number of tokens that exceeds what a sweep resumes itself.
const MANY: usize = 12;

#[tokio::test(start_paused = true)]
async fn thousand_due_tokens_are_spread_by_one_sweep() {
    let (world, tokens) = minted(if amount::is_little() { 100 } else { 1000 }).await;
    let swept = world.invoke("sweep", Request::Sweep).await;
    assert_eq!(results(&swept).len(), tokens.len());
    for token in &tokens {
        assert_is_in_service(&world, token);
    }
    // All are started within a minute. The rate stays close to the forty reads a second that Parameter
    // Store answers.
    let times: Vec<_> = world.started().into_iter().map(|(at, _)| at).collect();
    assert!(times[times.len() - 1].duration_since(times[0]).as_secs() < 60);
    for (at, first) in times.iter().enumerate() {
        let within = times[at..].iter().take_while(|it| it.duration_since(*first).as_secs() < 1);
        let within = within.count();
        assert!(within < 60, "{within} invocations were started in the second from {first}");
    }
}

#[tokio::test(start_paused = true)]
async fn few_due_tokens_are_resumed_without_lambda_calls() {
    let (world, tokens) = minted(8).await;
    let swept = world.invoke("sweep", Request::Sweep).await;
    assert_eq!(outcomes(&swept), BTreeSet::from(["completed"]));
    assert_eq!(world.started(), []);
    for token in &tokens {
        assert_is_in_service(&world, token);
    }
}

#[tokio::test(start_paused = true)]
async fn sweep_of_one_token_resumes_only_it() {
    let (world, tokens) = minted(MANY).await;
    let request = Request::SweepOne { token: tokens[3].clone() };
    let swept = world.invoke("sweep", request).await;
    let answer = &results(&swept)[0];
    assert_eq!((&answer["token"], &answer["outcome"]), (&json!("token-0003"), &json!("completed")));
    assert_eq!(results(&swept).len(), 1);
    world.pass(LONG).await;
    assert_eq!(world.started(), []);
    for (number, token) in tokens.iter().enumerate() {
        assert_eq!(world.is_at_rest(token), number == 3, "{token}");
    }
}

#[tokio::test(start_paused = true)]
async fn failed_dispatch_stays_due_and_stops_no_other() {
    let (world, tokens) = minted(2 * MANY).await;
    let refused = [&tokens[MANY], &tokens[MANY + 1]];
    world.refuse_invocations_for(refused.into_iter().cloned());
    let swept = world.invoke("sweep", Request::Sweep).await;
    world.pass(LONG).await;
    for (token, reported) in tokens.iter().zip(results(&swept)) {
        assert_eq!(reported["token"], token.to_string());
        let is_refused = refused.contains(&token);
        assert_eq!(reported["error"] == "Throttled", is_refused, "{reported}");
        assert_eq!(world.is_at_rest(token), !is_refused, "{token}");
    }
    world.refuse_invocations_for([]);
    world.invoke("next sweep", Request::Sweep).await;
    for token in &tokens {
        assert_is_in_service(&world, token);
    }
}

#[tokio::test(start_paused = true)]
async fn sweep_out_of_time_reports_what_it_deferred() {
    let (world, tokens) = minted(MANY).await;
    let swept = world.run("sweep", Request::Sweep, Duration::from_secs(10), Faults::none()).await;
    let reported = outcomes(&swept.ending);
    assert!(reported.is_subset(&BTreeSet::from(["in_progress", "deferred"])), "{reported:?}");
    assert_eq!(world.started(), []);
    world.sweep_until_rest(&tokens[MANY - 1]).await;
    world.pass(LONG).await;
    for token in &tokens {
        assert_is_in_service(&world, token);
    }
}

#[tokio::test(start_paused = true)]
async fn sweep_cut_at_any_call_loses_no_token() {
    let calls = {
        let (world, _) = minted(MANY).await;
        world.run("sweep", Request::Sweep, LONG, Faults::none()).await.calls
    };
    for call in amount::calls(1..=calls) {
        for fault in [Fault::CutBefore, Fault::CutAfter, Fault::FailAfter] {
            let (world, tokens) = minted(MANY).await;
            world.replayed_by(format!("{fault:?} at call {call} of the sweep"));
            world.run("sweep", Request::Sweep, LONG, Faults::at(call, fault)).await;
            come_to_rest(&world, &tokens).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn concurrent_sweeps_and_invocations_are_harmless() {
    let calls = {
        let (world, _) = minted(MANY).await;
        world.run("sweep", Request::Sweep, LONG, Faults::none()).await.calls
    };
    for call in amount::calls(1..=calls) {
        let again = Intruder::new("another sweep", Request::Sweep);
        let late = Fault::Twice(Duration::from_secs(40));
        for faults in [Faults::intruded(call, again), Faults::at(call, late)] {
            let (world, tokens) = minted(MANY).await;
            world.replayed_by(format!("{faults:?} in the sweep"));
            world.run("sweep", Request::Sweep, LONG, faults).await;
            come_to_rest(&world, &tokens).await;
        }
    }
}

/// Creates this many tokens. The first version of each is minted and its rotation is left owed, so that all
/// are due.
async fn minted(count: usize) -> (MemoryWorld, Vec<TokenName>) {
    let world = MemoryWorld::new(1);
    let tokens: Vec<_> = (0..count).map(|number| token(&format!("token-{number:04}"))).collect();
    for token in &tokens {
        world.specify(token, &spec(token));
        let request = Request::Rotate {
            token: token.clone(),
            key: None,
            wait: Some(Duration::ZERO),
            without: BTreeSet::new(),
            fresh: false,
        };
        world.assert_outcome(&world.invoke("mint", request).await, "in_progress");
    }
    // The index lags behind the table.
    world.pass(Duration::from_secs(1)).await;
    (world, tokens)
}

/// A spec for readers that fetch from items of the token's own.
fn spec(token: &TokenName) -> Value {
    json!({
        "token": {"bytes": 32},
        "overlap": "15s",
        "verifiers": {"publish": [item(&format!("{token}-accepted"))], "within": "1s"},
        "presenters": {"publish": [item(&format!("{token}-presented"))], "within": "1s"},
    })
}

/// Asserts that the sweeps of every minute complete all rotations, whatever happened to the first sweep.
async fn come_to_rest(world: &MemoryWorld, tokens: &[TokenName]) {
    for token in tokens {
        world.sweep_until_rest(token).await;
    }
    world.pass(LONG).await;
    for token in tokens {
        assert_is_in_service(world, token);
    }
}

#[track_caller]
fn assert_is_in_service(world: &MemoryWorld, token: &TokenName) {
    let rest = world.rest(token);
    if !world.is_at_rest(token) || rest.versions != ["1 Current"] || world.minted(token) != 1 {
        world.fail(&format!("{token} is not in service with its only version: {rest:#?}"));
    }
}

fn results(swept: &Ending) -> &Vec<Value> {
    assert_eq!(swept.outcome(), "swept", "{swept:?}");
    swept.answer()["results"].as_array().expect("results")
}

fn outcomes(swept: &Ending) -> BTreeSet<&str> {
    results(swept).iter().filter_map(|result| result["outcome"].as_str()).collect()
}
