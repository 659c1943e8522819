//! The command over Lambda's API: its requests and retries, its output, and its exit codes.

use std::{collections::BTreeSet, sync::Arc};

use changeover_cli::{
    Context,
    arguments::{Action, Arguments},
    exit_status::ExitStatus,
    function::Function,
    progress::Progress,
};
use changeover_core::{
    clock::Clock,
    finding::{Finding, Severity},
    record::{Entry, Failing, Imported, InboxValueId, Leg, Queued, RotationId, Step},
    report::{
        self, Checked, Each, LiveVersion, Outcome, PreflightReport, Published, Reason, Report,
        Results, TokenStatus,
    },
};
use changeover_testkit::sample::{at, token};
use changeover_testkit_aws::{Answer, Wire, ok, refused};
use changeover_token::{Stage, VersionNumber};

use clap::Parser;
use serde_json::{Value, json};

/// Verdict and output of a command.
struct Ran {
    exit_status: ExitStatus,
    out: String,
    log: String,
}

/// Runs `changeover` with these arguments against the service. An argument with spaces is in quotes.
async fn run(wire: &Wire, words: &str) -> Ran {
    let quote_for_log = words.split('"').enumerate();
    let words = quote_for_log.flat_map(|(number, part)| match number % 2 {
        0 => part.split(' ').filter(|word| !word.is_empty()).collect(),
        _ => vec![part],
    });
    let words = ["changeover"].into_iter().chain(words);
    let arguments = Arguments::try_parse_from(words).expect("they are right");
    let (mut out, mut log) = (Vec::new(), Vec::new());
    let here = Context {
        out: &mut out,
        progress: Progress::new(false, &mut log),
        width: 160,
        clock: Clock::starting_at(at(0)),
        random_source: Arc::new(|bytes| {
            bytes.fill(7);
            Ok(())
        }),
    };
    let exit_status = match &arguments.action {
        Action::Completions { .. } | Action::Man { .. } => {
            changeover_cli::run(&arguments, here).await
        }
        action => {
            let function = Function::new(&arguments.target.function, &wire.config());
            changeover_cli::ask(&function, action, arguments.json, here).await
        }
    };
    let text = |bytes| String::from_utf8(bytes).expect("a text");
    Ran { exit_status, out: text(out), log: text(log) }
}

fn answer(outcome: &str, more: Value) -> Answer {
    let mut body = json!({
        "outcome": outcome, "token": "datastore-token", "version": 7, "rotation": "3f0c",
        "leg": "expand", "step": "roll_out", "selectors": ["/backend/datastore-token:12"],
        "previous_valid_until": null, "timeline": [], "warnings": [], "held": null,
    });
    let fields = body.as_object_mut().expect("an object");
    fields.extend(more.as_object().expect("an object").clone());
    ok(body)
}

fn done(leg: &str, step: &str) -> Value {
    json!({"leg": leg, "step": step, "at": "2026-11-01T00:00:00.000Z", "took_ms": 1234})
}

fn failed(kind: &str) -> Answer {
    Answer::FunctionError(json!({"errorType": kind, "errorMessage": "could not do it; mend it"}))
}

const OWN_KEY: &str = "changeover-07070707070707070707070707070707";

#[tokio::test(start_paused = true)]
async fn action_is_sent_as_its_event() {
    for (words, event) in [
        (
            "rotate datastore-token",
            json!({"action": "rotate", "token": "datastore-token", "key": OWN_KEY}),
        ),
        (
            "rotate datastore-token --key k --wait 90s --without prod --without test",
            json!({
                "action": "rotate", "token": "datastore-token", "key": "k", "wait": "1m 30s",
                "without": ["prod", "test"],
            }),
        ),
        (
            "rotate datastore-token --key k --fresh",
            json!({"action": "rotate", "token": "datastore-token", "key": "k", "fresh": true}),
        ),
        ("publish datastore-token", json!({"action": "publish", "token": "datastore-token"})),
        (
            "publish datastore-token --adopt",
            json!({"action": "publish", "token": "datastore-token", "adopt": true}),
        ),
        ("drop datastore-token", json!({"action": "drop", "token": "datastore-token"})),
        ("forget datastore-token", json!({"action": "forget", "token": "datastore-token"})),
        ("status datastore-token", json!({"action": "status", "token": "datastore-token"})),
        ("status", json!({"action": "status"})),
        ("preflight datastore-token", json!({"action": "preflight", "token": "datastore-token"})),
        ("sweep", json!({"action": "sweep"})),
        ("sweep datastore-token", json!({"action": "sweep", "token": "datastore-token"})),
    ] {
        let wire = Wire::script([answer("nothing_owed", json!({}))]);
        let ran = run(&wire, words).await;
        assert_eq!(ran.exit_status, ExitStatus::Done, "{words}: {}", ran.log);
        let call = wire.only_call();
        assert_eq!(call.operation, "/2015-03-31/functions/changeover-rotator/invocations");
        assert_eq!(call.body, event, "{words}");
        let read = changeover_core::event::Request::parse(&call.body);
        assert!(read.is_ok(), "the function reads it: {read:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn event_file_matches_its_readme_command() {
    let readme = include_str!("../../../../README.md");
    let rows = readme.lines().filter_map(|row| {
        let (file, rest) = row.strip_prefix("| `")?.split_once(".json` | `changeover ")?;
        Some((file, rest.split('`').next()?))
    });
    // Events that services send have no command.
    let mut files = BTreeSet::from(["codepipeline", "import"].map(str::to_owned));
    for (file, words) in rows {
        let wire = Wire::script([answer("nothing_owed", json!({}))]);
        run(&wire, words).await;
        let mut sent = wire.only_call().body;
        if sent["key"] == OWN_KEY {
            sent.as_object_mut().expect("an object").remove("key");
        }
        let event = std::fs::read_to_string(format!("../../events/{file}.json")).expect("the file");
        assert_eq!(sent, serde_json::from_str::<Value>(&event).expect("JSON"), "{file}");
        files.insert(file.to_owned());
    }
    let all = std::fs::read_dir("../../events").expect("the directory").filter_map(|entry| {
        let name = entry.expect("an entry").file_name().into_string().expect("a name");
        name.strip_suffix(".json").map(str::to_owned)
    });
    assert_eq!(files, all.collect(), "the README names each file");
}

#[tokio::test(start_paused = true)]
async fn answer_is_shown_and_sets_exit_code() {
    let held = json!({"held": {"object": "deployment backend/datastore", "reason": "it crashes", "fix": "mend it"}});
    for (answer, code, displayed_value) in [
        (answer("rotated", json!({})), 0, "datastore-token: rotated, version 7"),
        (answer("unchanged", json!({})), 0, "/backend/datastore-token:12"),
        (answer("held", held), 3, "it crashes"),
        (answer("in_progress", json!({})), 4, "expand roll out"),
        (
            answer("deferred", json!({"not_before": "2026-11-01T00:05:00.000Z"})),
            4,
            "2026-11-01T00:05:00.000Z (in 5m)",
        ),
        (answer("a later word", json!({"and": ["more"]})), 1, "a later word"),
    ] {
        let ran = run(&Wire::script([answer]), "rotate datastore-token").await;
        assert_eq!(ran.exit_status.code(), code, "{}", ran.out);
        assert!(ran.out.contains(displayed_value), "{}", ran.out);
    }
}

#[tokio::test(start_paused = true)]
async fn function_error_fails_without_retry() {
    let timed_out =
        json!({"errorMessage": "2026-11-01T00:15:00Z 1 Task timed out after 900.00 seconds"});
    for (answer, reported) in [
        (failed("UnknownToken"), "changeover: UnknownToken: could not do it; mend it"),
        (Answer::FunctionError(timed_out), "changeover: 2026-11-01T00:15:00Z 1 Task timed out"),
        (Answer::FunctionError(json!(null)), "does not say why"),
        (Answer::Garbled("<html>".to_owned()), "no answer of changeover's"),
        (ok(json!(null)), "no answer of changeover's"),
    ] {
        for words in ["rotate datastore-token", "rotate datastore-token --follow", "sweep"] {
            let wire = Wire::script([answer.clone()]);
            let ran = run(&wire, words).await;
            assert_eq!(ran.exit_status, ExitStatus::Failed, "{words}");
            assert!(ran.log.contains(reported), "{words}: {}", ran.log);
            assert_eq!(ran.out, "", "{words}");
            assert_eq!(wire.calls().len(), 1, "it is not asked again: {words}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn throttled_invocation_is_retried() {
    for words in ["rotate datastore-token", "drop datastore-token", "status"] {
        let wire = Wire::script([
            Answer::With(
                429,
                changeover_testkit_aws::error_body("TooManyRequestsException", "Rate Exceeded."),
            ),
            Answer::With(
                429,
                changeover_testkit_aws::error_body("TooManyRequestsException", "Rate Exceeded."),
            ),
            answer("rotated", json!({})),
        ]);
        let ran = run(&wire, words).await;
        assert_eq!(ran.exit_status, ExitStatus::Done, "{words}: {}", ran.log);
        assert_eq!(wire.calls().len(), 3);
    }
}

#[tokio::test(start_paused = true)]
async fn unanswered_rotation_is_retried_with_same_key() {
    let failing = changeover_testkit_aws::error_body("ServiceException", "Internal");
    for lost in [Answer::Lost, Answer::Silence, Answer::With(500, failing)] {
        let wire = Wire::script([lost, answer("rotated", json!({}))]);
        let ran = run(&wire, "rotate datastore-token").await;
        assert_eq!(ran.exit_status, ExitStatus::Done, "{}", ran.log);
        let keys: Vec<_> = wire.calls().iter().map(|call| call.body["key"].clone()).collect();
        assert_eq!(keys, [OWN_KEY, OWN_KEY]);
        assert!(ran.log.contains(&format!("--key {OWN_KEY}")), "it is reported: {}", ran.log);
    }
}

#[tokio::test(start_paused = true)]
async fn unanswered_drop_is_not_sent_again() {
    let failing = changeover_testkit_aws::error_body("ServiceException", "Internal");
    for lost in [Answer::Lost, Answer::Silence, Answer::With(500, failing)] {
        let wire = Wire::script([lost, answer("dropped", json!({}))]);
        let ran = run(&wire, "drop datastore-token").await;
        assert_eq!(ran.exit_status, ExitStatus::Failed);
        assert_eq!(wire.calls().len(), 1);
        assert!(ran.log.contains("changeover status"), "{}", ran.log);
    }
}

#[tokio::test(start_paused = true)]
async fn reply_timeout_exceeds_function_time_limit() {
    let wire = Wire::script([Answer::Silence]);
    let began = tokio::time::Instant::now();
    run(&wire, "drop datastore-token").await;
    assert!(began.elapsed().as_secs() > 15 * 60, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn refused_invocation_is_reported_with_its_fix() {
    for (code, fix) in [
        ("AccessDeniedException", "lambda:InvokeFunction"),
        ("ExpiredTokenException", "sign in again"),
        ("ResourceNotFoundException", "--function"),
    ] {
        let wire = Wire::script([refused(code)]);
        let ran = run(&wire, "rotate datastore-token").await;
        assert_eq!((ran.exit_status, wire.calls().len()), (ExitStatus::Failed, 1));
        assert!(ran.log.contains(code) && ran.log.contains(fix), "{}", ran.log);
        assert!(ran.log.contains("changeover-rotator"), "{}", ran.log);
    }
}

#[tokio::test(start_paused = true)]
async fn follow_logs_each_step_once_until_rotated() {
    let first = [done("expand", "publish")];
    let second = [done("expand", "publish"), done("expand", "sync")];
    let wire = Wire::script([
        answer("in_progress", json!({"timeline": first})),
        Answer::Lost,
        answer("in_progress", json!({"timeline": second})),
        // A session of another invocation starts a new timeline.
        answer("rotated", json!({"timeline": [done("overlap", "publish")]})),
    ]);
    let ran = run(&wire, "rotate datastore-token --follow --key k").await;
    assert_eq!(ran.exit_status, ExitStatus::Done, "{}", ran.log);
    let steps: Vec<_> = ran.log.lines().filter(|line| line.starts_with("2026-")).collect();
    assert_eq!(
        steps,
        [
            "2026-11-01T00:00:00.000Z  expand   publish   1s",
            "2026-11-01T00:00:00.000Z  expand   sync      1s",
            "2026-11-01T00:00:00.000Z  overlap  publish   1s",
        ]
    );
    assert_eq!(wire.calls().len(), 4);
    for call in wire.calls() {
        assert_eq!((&call.body["key"], &call.body["wait"]), (&json!("k"), &json!("10s")));
    }
    assert!(ran.out.contains("rotated"), "{}", ran.out);
}

#[tokio::test(start_paused = true)]
async fn follow_retries_transient_failures_with_same_key() {
    let body = changeover_testkit_aws::error_body("TooManyRequestsException", "Rate Exceeded.");
    for trouble in [
        failed("Throttled"),
        failed("Unreachable"),
        Answer::With(429, body),
        Answer::With(503, changeover_testkit_aws::error_body("ServiceException", "Internal")),
        Answer::Lost,
    ] {
        // More failures than the SDK retries within one call.
        let wire = Wire::script(
            std::iter::repeat_n(trouble.clone(), 20)
                .chain([answer("rotated", json!({"timeline": [done("expand", "sync")]}))]),
        );
        let ran = run(&wire, "rotate datastore-token --follow").await;
        assert_eq!(ran.exit_status, ExitStatus::Done, "{trouble:?}: {}", ran.log);
        assert!(ran.log.contains("; asking again"), "{}", ran.log);
        assert!(wire.calls().iter().all(|call| call.body["key"] == OWN_KEY), "the same key");
    }
}

#[tokio::test(start_paused = true)]
async fn lasting_failure_ends_follow_at_time_limit() {
    for (trouble, reported) in [
        (failed("Throttled"), "Throttled: could not do it"),
        (Answer::Lost, "could not invoke the function changeover-rotator"),
    ] {
        let wire = Wire::script([trouble]);
        let began = tokio::time::Instant::now();
        let ran = run(&wire, "rotate datastore-token --follow --timeout 10m").await;
        let seconds = began.elapsed().as_secs();
        assert_eq!(ran.exit_status, ExitStatus::Failed);
        assert!((9 * 60..10 * 60 + 5).contains(&seconds), "{seconds} s");
        assert!(ran.log.lines().last().is_some_and(|line| line.contains(reported)), "{}", ran.log);
        // The pauses grow, so that the function is not polled at a constant rate.
        let asked = ran.log.matches("; asking again").count();
        assert!((5..30).contains(&asked), "{asked} times");
    }
}

#[tokio::test(start_paused = true)]
async fn follow_ends_on_held_rotation() {
    let held = json!({"held": {"object": "o", "reason": "it crashes", "fix": "mend it"}});
    let wire = Wire::script([answer("in_progress", json!({})), answer("held", held)]);
    let ran = run(&wire, "rotate datastore-token --follow").await;
    assert_eq!(ran.exit_status, ExitStatus::Held);
    assert!(ran.out.contains("it crashes") && ran.out.contains("mend it"), "{}", ran.out);
}

#[tokio::test(start_paused = true)]
async fn expired_session_leaves_begun_rotation_in_progress() {
    let wire = Wire::script([answer("in_progress", json!({})), refused("ExpiredTokenException")]);
    let ran = run(&wire, "rotate datastore-token --follow").await;
    assert_eq!(ran.exit_status, ExitStatus::InProgress);
    for reported in ["the session of this shell has ended", &format!("--key {OWN_KEY} joins it")] {
        assert!(ran.log.contains(reported), "{}", ran.log);
    }
    // Without any reply, it is not known that a rotation began.
    let wire = Wire::script([refused("ExpiredTokenException")]);
    assert_eq!(run(&wire, "rotate datastore-token --follow").await.exit_status, ExitStatus::Failed);
}

#[tokio::test(start_paused = true)]
async fn time_limit_reports_key_that_joins_rotation() {
    for (answer, words) in [
        (answer("in_progress", json!({})), "rotate datastore-token --follow --timeout 1m"),
        (Answer::Silence, "rotate datastore-token --follow --timeout 1m"),
        (Answer::Silence, "rotate datastore-token --timeout 1m"),
    ] {
        let began = tokio::time::Instant::now();
        let ran = run(&Wire::script([answer]), words).await;
        assert_eq!(ran.exit_status, ExitStatus::InProgress, "{words}");
        assert!(ran.log.contains(&format!("--key {OWN_KEY} joins it")), "{}", ran.log);
        assert!((55..70).contains(&began.elapsed().as_secs()), "{words}: {:?}", began.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn deferred_rotation_is_retried_if_due_before_timeout() {
    let deferred = || answer("deferred", json!({"not_before": "2026-11-01T00:05:00.000Z"}));
    let wire = Wire::script([deferred(), answer("rotated", json!({}))]);
    let began = tokio::time::Instant::now();
    let ran = run(&wire, "rotate datastore-token --follow").await;
    assert_eq!((ran.exit_status, began.elapsed().as_secs()), (ExitStatus::Done, 300));

    let wire = Wire::script([deferred()]);
    let ran = run(&wire, "rotate datastore-token --follow --timeout 4m").await;
    assert_eq!((ran.exit_status, wire.calls().len()), (ExitStatus::InProgress, 1));
}

#[tokio::test(start_paused = true)]
async fn status_of_all_tokens_is_requested_by_page() {
    let page = |names: &[&str], next: Option<&str>| {
        let results: Vec<_> = names.iter().map(|name| json!({"token": name})).collect();
        let mut page = json!({"outcome": "reported", "results": results});
        if let Some(next) = next {
            page["next"] = json!(next);
        }
        ok(page)
    };
    let wire = Wire::script([page(&["a", "b"], Some("b")), page(&["c"], None)]);
    let ran = run(&wire, "status --json").await;
    let reported: Value = serde_json::from_str(&ran.out).expect("JSON");
    let all = json!([{"token": "a"}, {"token": "b"}, {"token": "c"}]);
    assert_eq!(reported, json!({"outcome": "reported", "results": all}));
    let after: Vec<_> = wire.calls().iter().map(|call| call.body["after"].clone()).collect();
    assert_eq!(after, [Value::Null, json!("b")]);
}

#[tokio::test(start_paused = true)]
async fn json_output_repeats_last_answer_verbatim() {
    let body = json!({"outcome": "held", "token": "datastore-token", "added": {"later": [1]}});
    let wire = Wire::script([answer("in_progress", json!({})), ok(body.clone())]);
    let ran = run(&wire, "rotate datastore-token --follow --json").await;
    assert_eq!((ran.exit_status, ran.out), (ExitStatus::Held, format!("{body}\n")));

    let error = json!({"errorType": "UnknownToken", "errorMessage": "could not find it"});
    let wire = Wire::script([Answer::FunctionError(error.clone())]);
    let ran = run(&wire, "status other-token --json").await;
    assert_eq!((ran.exit_status, ran.out), (ExitStatus::Failed, format!("{error}\n")));
    assert!(ran.log.contains("UnknownToken: could not find it"), "{}", ran.log);
}

#[tokio::test(start_paused = true)]
#[expect(clippy::too_many_lines, reason = "a table")]
async fn output_shows_values_of_each_answer_shape() {
    // The values are serialized by the function's own types, so that the command cannot drift from them.
    let reason = || Reason { object: "o".into(), reason: "it crashes".into(), fix: "f".into() };
    let version = LiveVersion {
        version: VersionNumber::new(7),
        stage: Stage::Pending,
        created_at: at(-60),
        not_after: Some(at(60)),
    };
    let published = Published {
        side: "verifiers",
        place: "ssm:/a".to_owned(),
        revision: Some(12),
        store_version: Some(14),
        answered_at: Some(at(-3)),
    };
    let standing = TokenStatus {
        token: token(),
        spec: None,
        revision: Some(3),
        versions: vec![version],
        rotation: Some(RotationId("3f0c".to_owned())),
        leg: Some(Leg::Expand),
        step: Some(Step::RollOut),
        due_at: Some(at(5)),
        unanswered_until: Some(at(6)),
        publications: vec![published],
        held: Some(reason()),
        failing: Some(Failing {
            tries: 17,
            since: at(-30),
            error: "UnknownToken".to_owned(),
            message: "no parameter bears its name".to_owned(),
        }),
        drift: vec!["ssm:/b".to_owned()],
        without: BTreeSet::from(["far-away".to_owned()]),
        queued: Some(Queued::new(RotationId("51ab".to_owned()), at(-3))),
        imported: Some(Imported {
            arrival: InboxValueId {
                parameter: "/inbox/a".to_owned(),
                version: 3,
                written_at: at(-9),
            },
            refused: Some("it is easy to guess".to_owned()),
        }),
        newest: None,
    };
    let failed =
        Each::Failed { token: token(), error: "BadSpec", message: "could not read it".to_owned() };
    let finding = Finding {
        severity: Severity::Missing,
        object: "secret backend/x".to_owned(),
        reason: "it is not there".to_owned(),
        fix: "create it".to_owned(),
    };
    let entry = Entry { leg: Leg::Migrate, step: Step::Sync, at: at(-1), took_ms: 2_000 };
    let report = Report {
        version: Some(VersionNumber::new(7)),
        leg: Some(Leg::Migrate),
        step: Some(Step::Sync),
        selectors: vec!["/a:1".to_owned()],
        previous_valid_until: Some(at(7)),
        timeline: vec![entry],
        warnings: vec!["a warning".to_owned()],
        held: Some(reason()),
        ..Report::bare(Outcome::Held, &token())
    };
    // One answer of each shape: a list of tokens, a list of inspections, and one report.
    let outcome = Outcome::Reported;
    let each = vec![Each::Done(Box::new(standing)), failed];
    let status = report::Answer::Status(Results { outcome, results: each, next: None });
    let outcome = Outcome::Refused;
    let checked =
        vec![Checked { object: "ssm:/c".to_owned(), what: vec!["it can be read".to_owned()] }];
    let looked = vec![PreflightReport { token: token(), findings: vec![finding], checked }];
    let preflight = report::Answer::Preflight(Results { outcome, results: looked, next: None });
    let rotate = report::Answer::One(Box::new(report));
    // Each list names every value that the output must contain.
    for (answer, words, code, displayed_value) in [
        (
            status,
            "status",
            1,
            [
                "7 pending",
                "(1m ago)",
                "(in 1m)",
                "3f0c",
                "expand roll out",
                "(in 5s)",
                "(in 6s)",
                "ssm:/a",
                "14",
                "(3s ago)",
                "it crashes",
                "changeover forget datastore-token",
                "17 runs",
                "(30s ago)",
                "no parameter bears its name",
                "ssm:/b",
                "far-away",
                "51ab",
                "/inbox/a:3",
                "(9s ago)",
                "it is easy to guess",
                "BadSpec",
                "could not read it",
            ]
            .as_slice(),
        ),
        (
            preflight,
            "preflight datastore-token",
            1,
            &[
                "refused",
                "missing",
                "secret backend/x",
                "it is not there",
                "create it",
                "ssm:/c",
                "it can be read",
            ],
        ),
        (
            rotate,
            "rotate datastore-token --follow",
            3,
            &["held, version 7", "migrate sync", "it crashes", "/a:1", "(in 7s)", "a warning"],
        ),
    ] {
        let wire = Wire::script([ok(serde_json::to_value(&answer).expect("JSON"))]);
        let ran = run(&wire, words).await;
        assert_eq!(ran.exit_status.code(), code, "{}", ran.log);
        for word in displayed_value {
            assert!(ran.out.contains(word), "{word} is not in:\n{}", ran.out);
        }
        let step = "2026-10-31T23:59:59.000Z  migrate  sync      2s";
        assert_eq!(ran.log.contains(step), words.contains("--follow"), "{}", ran.log);
    }
}

#[tokio::test(start_paused = true)]
async fn timeline_is_well_formed_svg_or_reported_failure() {
    let newest = json!({
        "version": 7, "created_at": "2026-11-01T00:00:00.000Z", "timeline": [done("expand", "sync")],
    });
    let standing = json!({"token": "datastore-token", "newest": newest.clone()});
    let reported = |standing: &Value| ok(json!({"outcome": "reported", "results": [standing]}));

    let wire = Wire::script([reported(&standing)]);
    let ran = run(&wire, "timeline datastore-token -o -").await;
    assert_eq!(ran.exit_status, ExitStatus::Done, "{}", ran.log);
    assert!(ran.out.starts_with("<svg ") && ran.out.ends_with("</svg>\n"), "{}", ran.out);
    assert_eq!(wire.only_call().body, json!({"action": "status", "token": "datastore-token"}));

    // Text of others is escaped and never becomes markup.
    let hostile = "\"/><script>alert(1)</script>&\u{1b}";
    let held = json!({"object": hostile, "reason": hostile, "fix": hostile});
    let mut others = newest;
    others["timeline"][0]["step"] = json!(hostile);
    let standing = json!({"token": hostile, "newest": others, "held": held});
    let ran = run(&Wire::script([reported(&standing)]), "timeline datastore-token -o -").await;
    let picture = roxmltree::Document::parse(&ran.out).expect("well-formed XML");
    assert!(!picture.descendants().any(|it| it.has_tag_name("script")), "{}", ran.out);

    let nowhere = run(&wire, "timeline datastore-token -o /nowhere/picture.svg").await;
    assert_eq!((nowhere.exit_status, nowhere.out.as_str()), (ExitStatus::Failed, ""));
    assert!(nowhere.log.contains("could not write the picture to /nowhere"), "{}", nowhere.log);
    let ran = run(&wire, "timeline datastore-token -o - --requests Cargo.toml").await;
    assert_eq!(ran.exit_status, ExitStatus::Failed);
    assert!(ran.log.contains("could not read the requests in Cargo.toml"), "{}", ran.log);

    for (answer, reported) in [
        (
            reported(&json!({"token": "datastore-token"})),
            "nothing is known of how datastore-token came",
        ),
        (failed("UnknownToken"), "UnknownToken: could not do it"),
    ] {
        let ran = run(&Wire::script([answer]), "timeline datastore-token -o -").await;
        assert_eq!((ran.exit_status, ran.out.as_str()), (ExitStatus::Failed, ""), "{}", ran.log);
        assert!(ran.log.contains(reported), "{}", ran.log);
    }
}

#[tokio::test(start_paused = true)]
async fn output_and_log_contain_no_control_characters() {
    let warnings = json!({"warnings": ["back-off \u{1b}[2Jrestarting\u{7}"]});
    for outcome in ["rotated", "held"] {
        let wire = Wire::script([
            answer("in_progress", warnings.clone()),
            answer(outcome, warnings.clone()),
        ]);
        let ran = run(&wire, "rotate datastore-token --follow").await;
        let text = ran.out + &ran.log;
        assert!(text.contains("restarting"), "{text}");
        assert!(text.chars().all(|it| it == '\n' || !it.is_control()), "{text:?}");
    }
    let failed = json!({"errorType": "Internal", "errorMessage": "\u{1b}[2Jgone\u{7}"});
    let ran = run(&Wire::script([Answer::FunctionError(failed)]), "sweep").await;
    assert!(ran.log.contains("gone") && !ran.log.contains('\u{1b}'), "{:?}", ran.log);
}

#[tokio::test]
async fn completions_and_manual_make_no_request() {
    let wire = Wire::script([Answer::Lost]);
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ran = run(&wire, &format!("completions {shell}")).await;
        assert!(ran.exit_status == ExitStatus::Done && ran.out.contains("preflight"), "{shell}");
    }
    let ran = run(&wire, "man").await;
    assert_eq!(ran.exit_status, ExitStatus::Done);
    assert!(ran.out.contains(".TH changeover 1") && ran.out.contains("changeover\\-rotate"));
    assert_eq!(wire.calls().len(), 0);
}
