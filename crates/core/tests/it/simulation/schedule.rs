//! The events of a world, as data: drawn from a seed, and made smaller if they fail.

use std::{collections::BTreeMap, time::Duration};

use changeover_core::event::Request;
use changeover_testkit::{
    scene::*,
    world::{Fault, Faults, Intruder, LATE_WRITE},
};
use proptest::{
    bool::weighted,
    collection::vec,
    option,
    prelude::*,
    sample::{Index, select},
};
use serde_json::{Value, json};

/// A world, and everything that is done to it.
#[derive(Clone, Debug)]
pub(super) struct Schedule {
    /// The seed of what the world itself leaves to chance: latencies, pods, syncs.
    pub(super) chance: u64,
    pub(super) spec: Value,
    /// True if the token was in use before changeover was.
    pub(super) is_in_use: bool,
    /// True if its objects carry what another record wrote, before this one is created.
    pub(super) is_marked: bool,
    pub(super) turns: Vec<Happening>,
}

/// One of the events, which follow one another.
#[derive(Clone, Debug)]
pub(super) enum Happening {
    TimePasses(Duration),
    PodRestarts,
    WorkloadBreaks(Index),
    WorkloadIsFixed,
    ClusterGoesAway,
    ClusterIsBack,
    SpecIsSavedAgain,
    /// The token is unknown until its spec is created again.
    SpecIsDeleted,
    SpecIsCreatedAgain,
    /// The cluster of all workloads gets one of a few descriptions, which all describe the same cluster.
    ClusterIsDescribedAnew(u8),
    /// A parameter that presenters read is deleted. Its next version is the first one of another parameter.
    ParameterIsDeleted(Index),
    /// A value arrives in the inbox: one of a few, strong or weak, kept secret or not.
    ValueArrives {
        which: u8,
        is_fit: bool,
    },
    /// A value is written by hand to a place that presenters read, if the spec adopts such values.
    SomebodyEdits(Index),
    /// A manifest of an older record is applied to a workload, with its stamps.
    ManifestIsCopied(Index),
    /// The record of a token at rest is deleted.
    RecordIsDeleted,
    /// The table is restored to one of its last saves, if no knowledge is lost that a record cannot regain:
    /// of a version, or that presenters may have one.
    TableIsRestored(Index),
    /// Mostly one invocation, sometimes a few at once.
    Invocations(Vec<Planned>),
}

/// An invocation, with its faults.
#[derive(Clone, Debug)]
pub(super) struct Planned {
    pub(super) id: String,
    pub(super) request: Request,
    pub(super) begins_after: Duration,
    pub(super) time: Duration,
    pub(super) faults: Faults,
}

pub(super) fn schedules() -> impl Strategy<Value = Schedule> {
    let before = (weighted(1.0 / 3.0), weighted(1.0 / 4.0));
    (any::<u64>(), specs(), before, vec(happenings(), 1..9)).prop_map(
        |(chance, spec, (is_in_use, is_marked), mut turns)| {
            // The ids distinguish invocations in answers and in the journal.
            for (turn, happening) in turns.iter_mut().enumerate() {
                if let Happening::Invocations(planned) = happening {
                    for (which, planned) in planned.iter_mut().enumerate() {
                        planned.id = format!("invocation {turn}.{which}");
                    }
                }
            }
            Schedule { chance, spec, is_in_use, is_marked, turns }
        },
    )
}

fn happenings() -> impl Strategy<Value = Happening> {
    prop_oneof![
        2 => milliseconds(1..200_000).prop_map(Happening::TimePasses),
        2 => Just(Happening::PodRestarts),
        2 => any::<Index>().prop_map(Happening::WorkloadBreaks),
        2 => Just(Happening::WorkloadIsFixed),
        1 => Just(Happening::ClusterGoesAway),
        1 => Just(Happening::ClusterIsBack),
        1 => Just(Happening::SpecIsSavedAgain),
        1 => Just(Happening::SpecIsDeleted),
        2 => Just(Happening::SpecIsCreatedAgain),
        1 => (0..3_u8).prop_map(Happening::ClusterIsDescribedAnew),
        1 => any::<Index>().prop_map(Happening::ParameterIsDeleted),
        2 => (0..5_u8, weighted(0.8))
            .prop_map(|(which, is_fit)| Happening::ValueArrives { which, is_fit }),
        2 => any::<Index>().prop_map(Happening::SomebodyEdits),
        1 => any::<Index>().prop_map(Happening::ManifestIsCopied),
        1 => Just(Happening::RecordIsDeleted),
        2 => any::<Index>().prop_map(Happening::TableIsRestored),
        7 => vec(invocations(), 1..2).prop_map(Happening::Invocations),
        3 => vec(invocations(), 2..5).prop_map(Happening::Invocations),
    ]
}

fn invocations() -> impl Strategy<Value = Planned> {
    let time = select(vec![15, 40, 120, 900]).prop_map(Duration::from_secs);
    (requests(), milliseconds(1..5_000), time, faults()).prop_map(
        |(request, begins_after, time, faults)| Planned {
            id: String::new(),
            request,
            begins_after,
            time,
            faults,
        },
    )
}

fn requests() -> impl Strategy<Value = Request> {
    let key = || (0..6).prop_map(|key| format!("key {key}"));
    prop_oneof![
        5 => key().prop_map(|key| rotate(&key)),
        1 => key().prop_map(|key| rotate_without_waiting(&key)),
        1 => key().prop_map(|key| rotate_fresh(&key)),
        1 => Just(import()),
        1 => Just(publish()),
        1 => Just(adopt()),
        1 => Just(drop_pending()),
        2 => Just(Request::Sweep),
        1 => Just(Request::SweepOne { token: subject() }),
        1 => Just(Request::Forget { token: subject() }),
        1 => Just(Request::Preflight { token: subject() }),
        1 => Just(Request::Status { token: Some(subject()), after: None }),
    ]
}

fn faults() -> impl Strategy<Value = Faults> {
    let befalls = prop_oneof![
        1 => Just(Vec::new()),
        1 => vec((1..31_usize, fault()), 1..3),
    ];
    let intruder = option::weighted(0.2, (1..31_usize, requests()));
    (befalls, intruder).prop_map(|(befalls, intruder)| Faults {
        calls: befalls.into_iter().collect(),
        intruders: intruder
            .map(|(call, request)| (call, Intruder::new("intruder", request)))
            .into_iter()
            .collect::<BTreeMap<_, _>>(),
    })
}

fn fault() -> impl Strategy<Value = Fault> {
    let late = || milliseconds(1..LATE_WRITE.as_millis() as u64 - 20_000);
    prop_oneof![
        Just(Fault::FailBefore),
        Just(Fault::FailAfter),
        Just(Fault::CutBefore),
        Just(Fault::CutAfter),
        late().prop_map(Fault::FailLate),
        late().prop_map(Fault::CutLate),
        late().prop_map(Fault::Twice),
        milliseconds(1..8_000).prop_map(Fault::Slow),
    ]
}

fn specs() -> impl Strategy<Value = Value> {
    let overlap = select(vec!["5s", "20s", "2m"]);
    let verifiers = option::weighted(7.0 / 8.0, audiences("accepted"));
    let is_plain = weighted(1.0 / 6.0);
    let on_both_sides = weighted(1.0 / 3.0);
    let is_imported = weighted(1.0 / 4.0);
    let adopts = weighted(1.0 / 3.0);
    let values = (overlap, is_plain, is_imported, adopts);
    (values, audiences("presented"), verifiers, on_both_sides).prop_map(
        |((overlap, is_plain, is_imported, adopts), mut presenters, verifiers, on_both_sides)| {
            let mut spec = json!({"token": {"bytes": 32}, "overlap": overlap});
            if is_imported {
                spec["source"] = json!({"parameter": INBOX});
            }
            if adopts {
                spec["on_drift"] = json!("adopt");
            }
            if let Some(mut verifiers) = verifiers {
                if is_plain {
                    let publications = verifiers["publish"].as_array_mut().expect("an array");
                    publications.iter_mut().for_each(|it| it["as"] = json!("plain"));
                }
                let verifier = &verifiers["workloads"][0]["deployment"];
                let presenter = presenters.pointer_mut("/workloads/0/deployment");
                if let Some(presenter) = presenter.filter(|_| on_both_sides && verifier.is_string())
                {
                    *presenter = verifier.clone();
                }
                spec["verifiers"] = verifiers;
            }
            spec["presenters"] = presenters;
            spec
        },
    )
}

/// A side: the places of its view, and the readers of it.
fn audiences(view: &'static str) -> impl Strategy<Value = Value> {
    let parameter = json!({"ssm": format!("/backend/{view}")});
    let elsewhere = json!({"ssm": format!("/elsewhere/{view}")});
    let publications = select(vec![
        vec![item(view)],
        vec![parameter.clone()],
        vec![parameter.clone(), item(view)],
        vec![parameter, elsewhere],
    ]);
    // The workloads decide what else the side must name, so they are drawn as a list of their kinds.
    let is_mounted = vec(weighted(1.0 / 3.0), 0..3);
    let is_written = weighted(1.0 / 4.0);
    let within = (select(vec!["0s", "2s", "12s", "70s"]), any::<bool>());
    let drawn = (publications, is_mounted, is_written, within);
    drawn.prop_map(move |(publications, is_mounted, is_written, within)| {
        // An External Secret copies from a parameter, so a side without one has none.
        let has_parameter = publications[0]["ssm"].is_string();
        let workloads: Vec<_> = is_mounted
            .iter()
            .enumerate()
            .map(|(number, is_mounted)| {
                let name = format!("{view}-{number}");
                let mut workload = workload(&name, &format!("{name}-secret"));
                if is_written || !has_parameter {
                    workload.as_object_mut().expect("an object").remove("external_secret");
                }
                if is_written {
                    workload["secret"] = json!({"name": format!("{view}-written"), "key": view});
                }
                if *is_mounted {
                    workload["picks_up"] = json!({"within": "2m"});
                }
                workload
            })
            .collect();
        // A side without a workload that restarts must have `within`. Any other side may have it too.
        let restarts = is_mounted.contains(&false);
        let (within, is_read_too) = within;
        let mut audience = json!({"publish": publications});
        if !restarts || is_read_too {
            audience["within"] = json!(within);
        }
        if !workloads.is_empty() {
            audience["workloads"] = json!(workloads);
        }
        audience
    })
}

fn milliseconds(range: std::ops::Range<u64>) -> impl Strategy<Value = Duration> {
    range.prop_map(Duration::from_millis)
}
