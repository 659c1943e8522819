//! Events for subscribers, compared with the saved records and with `events/schema`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    time::Duration,
};

use changeover_core::{
    event::Request,
    record::Record,
    spec::Side,
    token_event::{SOURCE, TokenEvent, TokenEventKind},
};
use changeover_testkit::{
    scene::*,
    schema::Schema,
    world::{Bus, MemoryWorld, place},
};
use changeover_token::{Stage, VersionNumber};

use serde_json::{Value, json};

#[tokio::test(start_paused = true)]
async fn stage_changes_are_published_once_as_saved() {
    for (kind, spec) in kinds() {
        let world = in_service(40, &spec).await;
        world.replayed_by(kind);
        world.assert_outcome(&world.invoke("a", rotate("a")).await, "rotated");
        world.assert_outcome(&world.invoke("b", rotate_without_waiting("b")).await, "in_progress");
        world.invoke("drop", drop_pending()).await;
        world.sweep_until_rest(&subject()).await;

        let mut expected = Vec::new();
        let mut before = BTreeMap::new();
        for record in world.saved(&subject()) {
            let now = stages(&record);
            for number in before.keys().chain(now.keys()).collect::<BTreeSet<_>>() {
                let (was, is) = (before.get(number).copied(), now.get(number).copied());
                if was != is {
                    expected.push((record.revision(), *number, is.unwrap_or(Stage::Retired), was));
                }
            }
            before = now;
        }
        let mut reported: Vec<_> = world
            .told_of(&subject())
            .into_iter()
            .filter_map(|token_event| match token_event.kind {
                TokenEventKind::VersionStageChanged { version, stage, stage_before, .. } => {
                    Some((token_event.revision, version, stage, stage_before))
                }
                _ => None,
            })
            .collect();
        reported.sort_by_key(|(revision, number, ..)| (*revision, *number));
        assert_eq!(reported, expected, "{kind}");
        assert!(reported.len() >= 6, "{kind}: {reported:?}");
    }
}

fn stages(record: &Record) -> BTreeMap<VersionNumber, Stage> {
    record.versions().iter().map(|version| (version.version, version.stage)).collect()
}

#[tokio::test(start_paused = true)]
async fn events_cover_a_rotation_to_its_end() {
    for (kind, spec) in kinds() {
        let world = in_service(41, &spec).await;
        world.replayed_by(kind);
        let before = world.told_of(&subject()).len();
        let ending = world.invoke("a", rotate("a")).await;
        world.assert_outcome(&ending, "rotated");
        world.sweep_until_rest(&subject()).await;
        let mut reported = world.told_of(&subject()).split_off(before);
        // A slow operator holds the rotation for a while.
        reported.retain(|token_event| {
            !matches!(
                token_event.kind,
                TokenEventKind::RotationHeld { .. } | TokenEventKind::RotationResumed { .. }
            )
        });
        let lines: Vec<_> = reported.iter().map(line).collect();
        let expected = [
            "Rotation Started",
            "Version Stage Changed 2 pending",
            "Version Stage Changed 2 current",
            "Version Stage Changed 1 previous",
            "Rotation Completed",
            "Version Stage Changed 1 retired",
        ];
        assert_eq!(lines, expected, "{kind}: {reported:#?}");
        let TokenEventKind::RotationCompleted { rotation, version, selectors, .. } =
            &reported[4].kind
        else {
            panic!("{reported:?}");
        };
        let answer = ending.answer();
        assert_eq!(answer["rotation"], rotation.to_string(), "{kind}");
        assert_eq!(answer["version"], version.get(), "{kind}");
        assert_eq!(answer["selectors"], json!(selectors), "{kind}");
    }
}

#[tokio::test(start_paused = true)]
async fn hold_is_published_once_per_hold() {
    let world = in_service(42, &workloads()).await;
    world.break_workload(&deployed("backend"), "CrashLoopBackOff");
    let before = world.told_of(&subject()).len();
    world.assert_outcome(&world.invoke("a", rotate("a")).await, "held");
    for _ in 0..5 {
        world.pass(Duration::from_secs(60 * 60)).await;
        world.invoke("sweep", Request::Sweep).await;
    }
    world.fix_workload(&deployed("backend"));
    world.sweep_until_rest(&subject()).await;
    let reported = &world.told_of(&subject())[before..];
    let of_a_hold: Vec<_> = reported
        .iter()
        .map(line)
        .filter(|it| it.contains("Held") || it.contains("Resumed"))
        .collect();
    assert_eq!(of_a_hold, ["Rotation Held", "Rotation Resumed"], "{reported:#?}");
}

#[tokio::test(start_paused = true)]
async fn bus_failures_leave_rotation_unchanged_and_timely() {
    for (kind, spec) in kinds() {
        for bus in [Bus::Refuses, Bus::Silent] {
            let world = in_service(43, &spec).await;
            world.replayed_by(format!("kind {kind}, the bus: {bus:?}"));
            world.break_bus(bus);
            let began = world.now();
            world.assert_outcome(&world.invoke("a", rotate("a")).await, "rotated");
            let took = world.now().duration_since(began);
            // The bus delays the rotation by two seconds at its start and two when presenters have the
            // version. The rest is the readers' waiting time.
            assert!(kind != "items" || took.as_secs() < 12, "a rotation of {took:#}");
            let lines = world.measured();
            let lines = lines.iter().map(|line| serde_json::from_str::<Value>(line).unwrap());
            let untold: u64 = lines.filter_map(|line| line["EventsNotSent"].as_u64()).sum();
            assert_eq!(untold, 5, "{kind}, {bus:?}");
            world.sweep_until_rest(&subject()).await;
            world.assert_settled_on(2);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn events_match_schema_of_their_detail_type() {
    let schemas = schemas();
    let mut seen = BTreeSet::new();
    for world in worlds().await {
        for token_event in world.told_of(&subject()) {
            let detail_type = token_event.detail_type();
            let schema = &schemas[detail_type];
            let event = event(&token_event);
            schema.assert_valid(&event);
            for member in event["detail"].as_object().unwrap().keys() {
                let mut without = event.clone();
                without["detail"].as_object_mut().unwrap().remove(member);
                assert!(!schema.takes(&without), "{detail_type} may lack {member}");
            }
            let mut more = event.clone();
            more["detail"]["value"] = json!("a token");
            assert!(!schema.takes(&more), "{detail_type} may have any member");
            seen.insert(detail_type.to_owned());
        }
    }
    assert_eq!(seen, schemas.into_keys().collect());
}

#[test]
fn readme_lists_all_detail_types_with_valid_event() {
    let readme = include_str!("../../../../README.md");
    let section = readme.split("\n## Events\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let schemas = schemas();
    for detail_type in schemas.keys() {
        assert!(section.contains(&format!("| `{detail_type}` |")), "no row about {detail_type}");
    }
    let example = section.split("```json\n").nth(1).unwrap().split("```").next().unwrap();
    let example: Value = serde_json::from_str(example).unwrap();
    schemas[example["detail-type"].as_str().unwrap()].assert_valid(&example);
}

/// Worlds that publish every kind of event.
async fn worlds() -> Vec<MemoryWorld> {
    let mut worlds = Vec::new();
    for (kind, spec) in kinds() {
        let world = in_service(44, &spec).await;
        world.replayed_by(kind);
        world.assert_outcome(&world.invoke("a", rotate("a")).await, "rotated");
        world.sweep_until_rest(&subject()).await;
        worlds.push(world);
    }

    let world = in_service(45, &workloads()).await;
    world.break_workload(&deployed("datastore"), "CrashLoopBackOff");
    world.assert_outcome(&world.invoke("a", rotate("a")).await, "held");
    world.fix_workload(&deployed("datastore"));
    world.sweep_until_rest(&subject()).await;
    world.invoke("b", rotate_without_waiting("b")).await;
    world.invoke("drop", drop_pending()).await;
    worlds.push(world);

    // A person who edits the token by hand also updates the verifiers by hand, so the spec has none.
    let world = in_service(46, &no_verifiers()).await;
    world.edit(&place("dynamodb:configuration/id=presented"), Side::Presenters, "by hand");
    world.pass(Duration::from_secs(24 * 60 * 60)).await;
    world.invoke("sweep", Request::Sweep).await;
    worlds.push(world);
    worlds
}

/// An event as the target of a rule receives it, without the fields that EventBridge adds.
fn event(token_event: &TokenEvent) -> Value {
    json!({"source": SOURCE, "detail-type": token_event.detail_type(), "detail": token_event})
}

/// The shipped schemas, by detail-type. Each file is named after its detail-type.
fn schemas() -> BTreeMap<String, Schema> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../events/schema");
    let files = fs::read_dir(directory).unwrap().map(|file| file.unwrap().path());
    files
        .map(|path| {
            let schema: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
            let title = schema["title"].as_str().unwrap().to_owned();
            let name = format!("{}.json", title.to_lowercase().replace(' ', "-"));
            assert_eq!(path.file_name().and_then(|it| it.to_str()), Some(&*name));
            (title, Schema::of(&schema))
        })
        .collect()
}

fn line(token_event: &TokenEvent) -> String {
    match &token_event.kind {
        TokenEventKind::VersionStageChanged { version, stage, .. } => {
            let stage = serde_json::to_value(stage).unwrap();
            format!("{} {version} {}", token_event.detail_type(), stage.as_str().unwrap())
        }
        _ => token_event.detail_type().to_owned(),
    }
}
