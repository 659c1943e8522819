//! Several clusters, one of which is unreachable. It holds the rotations that wait for it, and is named in
//! their report. It is left out only if a request says so.

use std::time::Duration;

use changeover_core::{event::Request, record::Record, spec::Side};
use changeover_testkit::{
    amount, sample,
    scene::*,
    world::{MemoryWorld, place},
};
use serde_json::{Value, json};

const HOMELAB: &str = "homelab";

/// Verifiers and presenters in `prod`, and a presenter or a verifier in `homelab`.
fn in_two_clusters(side: &str) -> Value {
    let mut spec = workloads();
    let mut away = workload("away", "away-token");
    away["cluster"] = json!(HOMELAB);
    spec[side]["workloads"].as_array_mut().unwrap().push(away);
    spec
}

fn stages(world: &MemoryWorld) -> Vec<String> {
    world.rest(&subject()).versions
}

fn held_object(answer: &Value) -> &str {
    answer["held"]["object"].as_str().unwrap_or_default()
}

fn record(world: &MemoryWorld) -> Record {
    world.record(&subject()).expect("a record")
}

#[tokio::test(start_paused = true)]
async fn unreachable_cluster_fails_preflight_before_mint() {
    for side in ["verifiers", "presenters"] {
        let world = in_service(1, &in_two_clusters(side)).await;
        world.lose_cluster(HOMELAB);
        let ending = world.invoke("a", rotate("a")).await;
        world.assert_outcome(&ending, "PreflightFailed");
        let refusal = format!("{ending:?}");
        assert!(refusal.contains("cluster homelab"), "{refusal}");
        assert_eq!(world.minted(&subject()), 1);

        world.find_cluster(HOMELAB);
        world.assert_outcome(&world.invoke("a", rotate("a")).await, "rotated");
        world.sweep_until_rest(&subject()).await;
        world.assert_settled_on(2);
    }
}

#[tokio::test(start_paused = true)]
async fn lost_cluster_holds_pending_version_until_its_return() {
    for side in ["verifiers", "presenters"] {
        for seed in amount::few_seeds(6) {
            let world = in_service(seed, &in_two_clusters(side)).await;
            world.replayed_by(format!("{side}, seed {seed}"));
            world.assert_outcome(
                &world.invoke("a", rotate_without_waiting("a")).await,
                "in_progress",
            );
            world.lose_cluster(HOMELAB);
            let ending = world.invoke("a again", rotate("a")).await;
            world.assert_outcome(&ending, "held");
            let answer = ending.answer();
            assert_eq!(held_object(answer), "cluster homelab", "{answer:#}");
            let fix = answer["held"]["fix"].as_str().unwrap_or_default();
            assert!(fix.contains(r#""without": ["homelab"]"#), "{fix}");
            assert_eq!(stages(&world), ["2 Pending", "1 Current"], "nothing is withdrawn");

            // The sweep tries the rotation again, and it stays held.
            world.pass(Duration::from_secs(90)).await;
            world.invoke("sweep", Request::Sweep).await;
            assert_eq!(stages(&world), ["2 Pending", "1 Current"]);

            world.find_cluster(HOMELAB);
            world.sweep_until_rest(&subject()).await;
            world.assert_settled_on(2);
            assert_eq!(world.minted(&subject()), 2);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn reachable_cluster_completes_expand_during_outage() {
    let world = in_service(3, &in_two_clusters("presenters")).await;
    world.assert_outcome(&world.invoke("a", rotate_without_waiting("a")).await, "in_progress");
    world.lose_cluster(HOMELAB);
    world.assert_outcome(&world.invoke("a", rotate("a")).await, "held");
    let pods = world.rest(&subject()).pods;
    // Migrate is held at its sync: the verifiers, all in the other cluster, have completed expand.
    let verifiers = pods.iter().find(|(name, _)| name.contains("datastore")).expect("pods").1;
    assert!(verifiers.iter().all(|it| it.contains("2 pending")), "{pods:?}");
}

#[tokio::test(start_paused = true)]
async fn other_failure_is_reported_beside_unreachable_cluster() {
    let mut spec = in_two_clusters("verifiers");
    spec["verifiers"]["workloads"].as_array_mut().unwrap().reverse();
    let world = in_service(4, &spec).await;
    world.assert_outcome(&world.invoke("a", rotate_without_waiting("a")).await, "in_progress");
    world.break_workload(&deployed("datastore"), "CrashLoopBackOff");
    // The cluster is lost as soon as its workload is synced, so expand is held at its rollout.
    let watching = async {
        loop {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let step = record(&world).owed().map(|owed| owed.step.as_str());
            if step == Some("roll_out") {
                return world.lose_cluster(HOMELAB);
            }
        }
    };
    let (ending, ()) = tokio::join!(world.invoke("a", rotate("a")), watching);
    world.assert_outcome(&ending, "held");
    let reported = ending.answer().to_string();
    assert!(
        reported.contains("cluster homelab") && reported.contains("CrashLoopBackOff"),
        "{reported}"
    );
}

#[tokio::test(start_paused = true)]
async fn rotation_without_cluster_completes_with_warning() {
    let without = |key: &str| rotate_for(None, key, [HOMELAB]);
    for is_begun in [false, true] {
        let world = in_service(5, &in_two_clusters("presenters")).await;
        if is_begun {
            let begun = world.invoke("a", rotate_without_waiting("a")).await;
            world.assert_outcome(&begun, "in_progress");
        }
        world.lose_cluster(HOMELAB);
        if is_begun {
            world.assert_outcome(&world.invoke("a", rotate("a")).await, "held");
        }
        world.give_up_cluster(HOMELAB);
        let ending = world.invoke("b", without("b")).await;
        world.assert_outcome(&ending, "rotated");
        assert_eq!(ending.answer()["version"], 2);
        let warnings = ending.answer()["warnings"].to_string();
        assert!(warnings.contains("cluster homelab is left out"), "{warnings}");
        assert!(warnings.contains("presenters there"), "{warnings}");
        let audit = world.audit(&subject(), 2).expect("an audit entry");
        assert_eq!(audit.without, [HOMELAB.to_owned()].into());

        // The steps owed after the rotation leave out the cluster too.
        let status =
            world.invoke("status", Request::Status { token: Some(subject()), after: None }).await;
        assert_eq!(status.answer()["results"][0]["without"], json!([HOMELAB]));
        world.sweep_until_rest(&subject()).await;
        assert_eq!(stages(&world), ["2 Current"]);

        // The next rotation includes the cluster, unless its request leaves it out again.
        let ending = world.invoke("c", rotate("c")).await;
        world.assert_outcome(&ending, "PreflightFailed");
        world.find_cluster(HOMELAB);
        world.assert_outcome(&world.invoke("c", rotate("c")).await, "rotated");
        assert!(record(&world).without().is_empty());
        world.sweep_until_rest(&subject()).await;
        world.assert_settled_on(3);
        assert!(world.audit(&subject(), 3).expect("an audit entry").without.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn repair_keeps_exclusions_of_previous_rotation() {
    let world = in_service(6, &in_two_clusters("presenters")).await;
    let published = place("ssm:/backend/token/accepted");
    let before = world.value(&published, Side::Verifiers);
    world.lose_cluster(HOMELAB);
    world.give_up_cluster(HOMELAB);
    world.assert_outcome(&world.invoke("a", rotate_for(None, "a", [HOMELAB])).await, "rotated");
    world.sweep_until_rest(&subject()).await;
    world.edit(&published, Side::Verifiers, &before);
    world.pass(Duration::from_secs(25 * 60 * 60)).await;
    world.sweep_until_rest(&subject()).await;
    assert!(record(&world).without().contains(HOMELAB));
    assert_eq!(world.rest(&subject()).places["verifiers ssm:/backend/token/accepted"], "2 current");
}

#[tokio::test(start_paused = true)]
async fn rotation_without_cluster_takes_over_from_waiting_one() {
    let world = in_service(7, &in_two_clusters("presenters")).await;
    // Pods in the cluster never become ready: an invocation that does not leave it out waits for them.
    world.break_workload("homelab/backend/deployment/away", "");
    let waiting = world.invoke("a", rotate("a"));
    let impatient = async {
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let owed = world.record(&subject()).and_then(|record| record.owed());
            if owed.is_some_and(|owed| {
                (owed.leg.as_str(), owed.step.as_str()) == ("migrate", "roll_out")
            }) {
                tokio::time::sleep(Duration::from_secs(20)).await;
                world.give_up_cluster(HOMELAB);
                return world.invoke("b", rotate_for(None, "b", [HOMELAB])).await;
            }
        }
    };
    let (waiting, impatient) = tokio::join!(waiting, impatient);
    world.assert_outcome(&impatient, "rotated");
    assert!(["in_progress", "unchanged", "rotated"].contains(&waiting.outcome()), "{waiting:?}");
    assert_eq!(world.minted(&subject()), 2);
}

#[tokio::test(start_paused = true)]
async fn cluster_missing_from_spec_cannot_be_excluded() {
    let world = in_service(8, &in_two_clusters("presenters")).await;
    let ending = world.invoke("a", rotate_for(None, "a", ["homelap"])).await;
    world.assert_outcome(&ending, "BadEvent");
    let reported = format!("{ending:?}");
    assert!(reported.contains("homelap") && reported.contains("homelab, prod"), "{reported}");
    assert_eq!(world.minted(&subject()), 1);
    // A retry of a completed rotation returns its result, even if the spec no longer names the cluster.
    world.assert_outcome(&world.invoke("b", rotate_for(None, "b", [HOMELAB])).await, "rotated");
    world.specify(&subject(), &workloads());
    world.assert_outcome(&world.invoke("b", rotate_for(None, "b", [HOMELAB])).await, "unchanged");
}

#[test]
fn exclusions_are_optional_in_records_and_audits() {
    let record = serde_json::to_value(sample::begun_record(&sample::token())).unwrap();
    assert!(record.get("without").is_none());
    serde_json::from_value::<Record>(record).expect("it is a record");
    let mut audit = serde_json::to_value(sample::audit(&sample::token(), 1)).unwrap();
    assert_eq!(audit["without"], json!([HOMELAB]));
    audit.as_object_mut().unwrap().remove("without");
    serde_json::from_value::<changeover_core::record::Audit>(audit).expect("it is an audit");
}
