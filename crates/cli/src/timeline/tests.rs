use jiff::Timestamp;
use proptest::prelude::*;
use roxmltree::{Document, Node};
use serde_json::{Value, json};

use super::{
    draw,
    page::{LEFT, NARROWEST, PLOT, WIDTH},
    picture,
    requests::Sent,
    scale::Scale,
    story::Story,
};
use crate::{answer::Answer, function::Reply};

const NOW: &str = "2026-11-22T12:30:00Z";

fn at(seconds: f64) -> String {
    let began: Timestamp = "2026-11-22T12:00:00Z".parse().expect("a time");
    let milliseconds = began.as_millisecond() + (seconds * 1000.0) as i64;
    Timestamp::from_millisecond(milliseconds).expect("a time").to_string()
}

fn step(leg: &str, step: &str, ended: f64, took: f64) -> Value {
    json!({"leg": leg, "step": step, "at": at(ended), "took_ms": (took * 1000.0) as u64})
}

/// A rotation of half a minute that is over, with an overlap of so many seconds.
fn rotated(overlap: f64) -> Value {
    json!({
        "token": "datastore-token", "leg": null, "step": null, "held": null,
        "versions": [{"version": 7, "stage": "current", "created_at": at(0.0)}],
        "publications": [
            {"side": "verifiers", "place": "ssm:/a", "answered_at": at(32.9 + overlap)},
            {"side": "presenters", "place": "ssm:/b", "answered_at": at(14.2)},
        ],
        "newest": {
            "version": 7, "created_at": at(0.0), "rotated_at": at(29.0), "owed_since": null,
            "timeline": [
                step("expand", "publish", 0.1, 0.1), step("expand", "sync", 2.4, 2.3),
                step("expand", "roll_out", 14.0, 11.6), step("migrate", "publish", 14.2, 0.2),
                step("migrate", "sync", 16.5, 2.3), step("migrate", "roll_out", 29.0, 12.5),
            ],
            "replaced": {"version": 6, "not_after": at(29.0 + overlap), "ended_at": at(32.4 + overlap)},
        },
    })
}

fn drawn(standing: &Value, sent: &[Sent]) -> String {
    let text = json!({"outcome": "reported", "results": [standing]}).to_string();
    let answer = Answer::read(&Reply { text, is_error: false }).expect("an answer");
    let now = NOW.parse().expect("a time");
    picture::draw(&Story::of(&answer.results[0], now).expect("something to draw"), sent)
}

#[test]
fn style_sets_known_properties() {
    const KNOWN: [&str; 9] = [
        "color-scheme",
        "fill",
        "fill-opacity",
        "font-family",
        "font-size",
        "font-variant-numeric",
        "font-weight",
        "stroke",
        "stroke-dasharray",
    ];
    let picture = drawn(&rotated(60.0), &[]);
    let document = Document::parse(&picture).expect("well-formed");
    let style = document.descendants().find(|it| it.has_tag_name("style")).expect("a style");
    let style = style.text().expect("rules");
    let declarations = style.split('{').skip(1).filter_map(|rule| rule.split('}').next());
    let declarations = declarations.flat_map(|rule| rule.split(';')).map(str::trim);
    let names: Vec<_> = declarations.filter_map(|it| it.split_once(':')).map(|it| it.0).collect();
    assert!(names.len() > 50, "{names:?}");
    for name in names {
        assert!(KNOWN.contains(&name), "no program that shows SVG knows the property {name}");
    }
}

fn number(node: &Node<'_, '_>, name: &str) -> f64 {
    node.attribute(name).expect(name).parse().expect("a number")
}

fn texts<'a>(picture: &'a Document<'_>) -> Vec<&'a str> {
    picture.descendants().filter(|it| it.has_tag_name("text")).filter_map(|it| it.text()).collect()
}

/// The tooltip of each bar, and its left and right edges.
fn bars<'a>(picture: &'a Document<'_>) -> Vec<(&'a str, f64, f64)> {
    let bars = picture.descendants().filter(|it| it.has_tag_name("rect"));
    let title = bars.filter_map(|bar| Some((bar, bar.first_element_child()?.text()?)));
    title
        .map(|(bar, title)| (title, number(&bar, "x"), number(&bar, "x") + number(&bar, "width")))
        .collect()
}

/// Checks that everything lies within the picture, and everything that shows a time within the axis.
fn check_bounds(text: &str) {
    let picture = Document::parse(text).expect("well-formed XML");
    let height: f64 = picture
        .root_element()
        .attribute("viewBox")
        .expect("a size")
        .rsplit(' ')
        .next()
        .expect("a height")
        .parse()
        .expect("a number");
    for node in picture.descendants().filter(Node::is_element) {
        for (name, most) in [
            ("x", WIDTH),
            ("x1", WIDTH),
            ("x2", WIDTH),
            ("y", height),
            ("y1", height),
            ("y2", height),
        ] {
            if let Some(value) = node.attribute(name) {
                let value: f64 = value.parse().expect("a number");
                assert!((-0.1..=most + 0.1).contains(&value), "{name}={value} of {node:?}");
            }
        }
    }
    for (title, from, to) in bars(&picture) {
        assert!(
            from >= LEFT - 0.1 && to <= LEFT + PLOT + 0.1 && from < to,
            "{title}: {from} to {to}"
        );
    }
}

#[test]
fn version_without_steps_is_drawn() {
    let mut standing = rotated(10.0);
    standing["newest"]["timeline"] = json!([]);
    standing["newest"]["rotated_at"] = Value::Null;
    standing["newest"]["replaced"] = Value::Null;
    check_bounds(&drawn(&standing, &[]));
}

#[test]
fn step_bars_are_drawn_in_chronological_order() {
    let text = drawn(&rotated(10.0), &[]);
    let picture = Document::parse(&text).expect("well-formed XML");
    let bars = bars(&picture);
    let title: Vec<_> = bars.iter().map(|(title, ..)| *title).collect();
    assert_eq!(
        title,
        [
            "expand publish: 100ms",
            "expand sync: 2.3s",
            "expand roll out: 11.6s",
            "migrate publish: 200ms",
            "migrate sync: 2.3s",
            "migrate roll out: 12.5s",
            "overlap until the end: 10.0s",
            "contract retire",
            "contract publish: 500ms",
            "version 7 pending from 2026-11-22 12:00:00 UTC until 2026-11-22 12:00:29 UTC",
            "version 7 current from 2026-11-22 12:00:29 UTC",
            "version 6 current until 2026-11-22 12:00:29 UTC",
            "version 6 previous from 2026-11-22 12:00:29 UTC until 2026-11-22 12:00:39 UTC",
        ]
    );
    for (one, next) in bars[..9].iter().zip(&bars[1..9]) {
        assert!(one.1 <= next.1 && one.2 <= next.1 + NARROWEST, "{one:?} is before {next:?}");
    }
    let texts = texts(&picture);
    for word in
        ["expand", "migrate", "overlap", "contract", "pending", "current", "previous", "11.6s"]
    {
        assert!(texts.contains(&word), "{word} is not in {texts:?}");
    }
}

#[test]
fn picture_is_described_and_contains_no_script() {
    let text = drawn(&rotated(10.0), &[]);
    let picture = Document::parse(&text).expect("well-formed XML");
    let root = picture.root_element();
    assert_eq!(
        (root.attribute("role"), root.attribute("aria-labelledby")),
        (Some("img"), Some("title"))
    );
    let of = |id| {
        picture.descendants().find(|it| it.attribute("id") == Some(id)).and_then(|it| it.text())
    };
    assert_eq!(of("title"), Some("datastore-token: version 7"));
    let title = of("description").expect("a description");
    for words in [
        "rotated in 29.0s",
        "version 6 accepted until 2026-11-22 12:00:39 UTC",
        "migrate roll out: 12.5s",
    ] {
        assert!(title.contains(words), "{words} is not in {title}");
    }
    assert!(text.contains("prefers-color-scheme: dark"));
    assert!(!text.contains(char::REPLACEMENT_CHARACTER), "its own words are all of XML's");
    for element in picture.descendants().filter(Node::is_element) {
        assert!(!["script", "foreignObject", "image", "a"].contains(&element.tag_name().name()));
        assert!(element.attributes().iter().all(|it| !it.name().starts_with("on")), "{element:?}");
    }
}

#[test]
fn long_overlap_leaves_room_for_steps() {
    let text = drawn(&rotated(900.0), &[]);
    check_bounds(&text);
    let picture = Document::parse(&text).expect("well-formed XML");
    let bars = bars(&picture);
    let width = |name: &str| {
        let bar = bars.iter().find(|(title, ..)| title.starts_with(name)).expect(name);
        bar.2 - bar.1
    };
    assert!(width("expand roll out") > 150.0 && width("overlap until") < 150.0);
    assert!(texts(&picture).contains(&"⋯ 15m3s ⋯"), "{:?}", texts(&picture));
}

#[test]
fn unfinished_overlap_shows_publication_to_verifiers() {
    let mut standing = rotated(900.0);
    standing["leg"] = json!("contract");
    standing["step"] = json!("retire");
    standing["publications"][0]["answered_at"] = json!(at(29.2));
    standing["newest"]["owed_since"] = json!(at(40.0));
    standing["newest"]["replaced"]["ended_at"] = Value::Null;
    let text = drawn(&standing, &[]);
    check_bounds(&text);
    let picture = Document::parse(&text).expect("well-formed XML");
    let bars = bars(&picture);
    let title: Vec<_> = bars.iter().map(|(title, ..)| *title).collect();
    assert_eq!(
        title[6..9],
        ["overlap publish: 200ms", "overlap until the end: 15m", "overlap copies, pods: 10.8s"]
    );
    assert!(!title.iter().any(|title| title.starts_with("contract")), "{title:?}");
}

#[test]
fn held_step_is_drawn_up_to_now() {
    let mut standing = rotated(10.0);
    standing["leg"] = json!("migrate");
    standing["step"] = json!("roll_out");
    standing["held"] =
        json!({"object": "deployment backend/backend", "reason": "it crashes", "fix": "mend it"});
    let newest = &mut standing["newest"];
    newest["rotated_at"] = Value::Null;
    newest["owed_since"] = json!(at(16.5));
    newest["timeline"].as_array_mut().expect("a list").pop();
    newest["replaced"] = json!({"version": 6});
    let text = drawn(&standing, &[]);
    check_bounds(&text);
    assert!(text.contains("held: deployment backend/backend: it crashes"));
    assert!(text.contains("migrate roll out: 29m 43s") && !text.contains("contract publish"));
}

#[test]
fn requests_are_columns_and_failures_are_marked() {
    let second = |second: f64, version, accepted, failed| Sent {
        at: at(second).parse().expect("a time"),
        version: Some(version),
        accepted,
        failed,
    };
    let sent = [
        second(1.0, 6, 110, 0),
        second(20.0, 6, 60, 0),
        second(20.0, 7, 50, 0),
        second(21.0, 7, 90, 3),
    ];
    let text = drawn(&rotated(10.0), &sent);
    check_bounds(&text);
    let picture = Document::parse(&text).expect("well-formed XML");
    let texts = texts(&picture);
    for word in ["110/s", "version 6: 170", "version 7: 140", "3 failed"] {
        assert!(texts.contains(&word), "{word} is not in {texts:?}");
    }
    assert!(bars(&picture).iter().any(|(title, ..)| *title == "3 requests failed"));
}

#[test]
fn unpublished_token_has_no_picture() {
    let standing = Answer { token: "datastore-token".to_owned(), ..Answer::default() };
    let title = draw(&standing, None, NOW.parse().expect("a time")).expect_err("nothing to draw");
    assert!(title.contains("nothing is known of how datastore-token came"), "{title}");
}

/// Mostly times of one afternoon, and sometimes a value that is no time.
fn moment() -> impl Strategy<Value = Value> {
    prop_oneof![
        8 => (0u32..200_000).prop_map(|seconds| json!(at(f64::from(seconds) / 100.0))),
        1 => (0i64..4_000_000_000_000).prop_map(|at| json!(Timestamp::from_millisecond(at).expect("a time").to_string())),
        1 => Just(Value::Null),
        1 => any::<String>().prop_map(Value::from),
    ]
}

fn word(known: &'static [&'static str]) -> impl Strategy<Value = String> {
    prop_oneof![4 => prop::sample::select(known).prop_map(str::to_owned), 1 => any::<String>()]
}

prop_compose! {
    fn entries()(entries in prop::collection::vec(
        (word(&["expand", "migrate", "overlap", "contract"]), word(&["publish", "sync", "roll_out"]), moment(), any::<u32>()),
        0..64,
    )) -> Vec<Value> {
        let entry = |(leg, step, at, took)| json!({"leg": leg, "step": step, "at": at, "took_ms": took});
        entries.into_iter().map(entry).collect()
    }
}

prop_compose! {
    fn standing()(
        token in any::<String>(),
        (leg, step) in (word(&["expand"]), word(&["sync"])),
        reason in any::<String>(),
        timeline in entries(),
        moments in prop::collection::vec(moment(), 8),
        versions in prop::collection::vec((0u64..40, word(&["current", "previous"]), moment()), 0..40),
    ) -> Value {
        let versions: Vec<_> = versions
            .into_iter()
            .map(|(version, stage, end)| json!({"version": version, "stage": stage, "not_after": end}))
            .collect();
        json!({
            "token": token, "leg": leg, "step": step, "versions": versions,
            "held": {"object": "o", "reason": reason, "fix": "f"},
            "publications": [{"side": "verifiers", "place": "ssm:/a", "answered_at": moments[0]}],
            "newest": {
                "version": 7, "created_at": at(0.0), "rotated_at": moments[1], "owed_since": moments[2],
                "timeline": timeline,
                "replaced": {"version": 6, "not_after": moments[3], "ended_at": moments[4]},
            },
        })
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn timeline_is_well_formed_and_within_bounds(
        standing in standing(),
        sent in prop::collection::vec((0u32..200_000, prop::option::of(0u64..9), any::<u32>(), any::<u32>()), 0..50),
    ) {
        let sent: Vec<_> = sent
            .into_iter()
            .map(|(seconds, version, accepted, failed)| Sent {
                at: at(f64::from(seconds) / 100.0).parse().expect("a time"),
                version,
                accepted,
                failed,
            })
            .collect();
        check_bounds(&drawn(&standing, &sent));
    }

    #[test]
    fn later_moment_is_never_drawn_further_left(
        mut moments in prop::collection::vec(0i64..10_000_000, 4..12),
        busy in prop::collection::vec((0i64..10_000_000, 0i64..100_000), 0..8),
    ) {
        let moment = |at| Timestamp::from_millisecond(at).expect("a time");
        moments.sort_unstable();
        let busy: Vec<_> = busy.into_iter().map(|(from, took)| (moment(from), moment(from + took))).collect();
        let ends = (moment(moments[1]), moment(moments[moments.len() - 2]));
        let scale = Scale::new(ends, &busy, LEFT, PLOT);
        let places: Vec<_> = moments.iter().map(|at| scale.x(moment(*at))).collect();
        prop_assert!(places.is_sorted(), "{places:?}");
        prop_assert!(places.iter().all(|x| (LEFT..=LEFT + PLOT).contains(x)), "{places:?}");
        let marks = scale.marks();
        prop_assert!(marks.iter().map(|(x, _)| x).is_sorted(), "{marks:?}");
    }
}
