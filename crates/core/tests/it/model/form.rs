//! The one form of all records that cannot be distinguished. A time is its meaning now: it has passed, or
//! it is awaited. A holder is the session that has this copy, or another one. A revision is the same in
//! each record.

use std::time::Duration;

use changeover_core::record::LEASE_GRACE;
use changeover_token::time::milliseconds;

use super::records::Edit;

use jiff::Timestamp;
use serde_json::{Value, json};

/// The moment at which every question is asked. Time passes by changes of the times in the record.
pub(super) const NOW: Timestamp = Timestamp::constant(1_793_491_200, 0);
pub(super) const LEASE: Duration = Duration::from_secs(30);
pub(super) const LATE_WRITE: Duration = Duration::from_secs(300);
/// The time for which a reader without restarts holds its copy.
pub(super) const WITHIN: Duration = Duration::from_secs(5);
pub(super) const HOUR: Duration = Duration::from_secs(3600);
pub(super) const DAY: Duration = Duration::from_secs(24 * 3600);
/// The revision that every record has.
pub(super) const REVISION: u64 = 10;
/// The revision of a view that did not change since the last save.
const SAVED: u64 = 1;
/// The holder of the lease: the session that has this copy, or another one.
pub(super) const MINE: &str = "mine";
const SOMEBODYS: &str = "somebody's";
/// Names of the publications and of the workloads.
pub(super) const PLACES: [&str; 2] = ["accepted", "presented"];
pub(super) const WORKLOADS: [&str; 2] = ["verifier", "presenter"];

/// Writes into the record what passes by itself and is no change of any session.
pub(super) fn pass(json: &mut Value, edit: Edit) {
    // A past moment means the same however long ago it was, so all past moments are written as one.
    let past = json!(milliseconds(NOW - HOUR));
    let is_leased = !json["lease"].is_null();
    match edit {
        Edit::Loaded => {
            if !json["lease"].is_null() {
                json["lease"]["holder"] = json!(SOMEBODYS);
            }
        }
        Edit::LeaseEnds => {
            if !json["lease"].is_null() {
                json["lease"]["until"] = past.clone();
                json["due_at"] = past;
            }
        }
        Edit::NothingIsInTheAir => {
            let compares = time(&json["compare_at"]) <= time(&json["unanswered_until"]);
            json["unanswered_until"] = Value::Null;
            if compares {
                json["compare_at"] = past.clone();
            }
            if !is_leased && !json["due_at"].is_null() {
                json["due_at"] = past;
            }
        }
        Edit::VersionEnds(number) => {
            let versions = json["versions"].as_array_mut().expect("versions");
            for version in versions.iter_mut().filter(|it| it["version"] == number) {
                if !version["not_after"].is_null() {
                    version["not_after"] = past.clone();
                }
            }
            if !is_leased && json["owed"]["step"] == "retire" {
                json["due_at"] = past;
            }
        }
        Edit::ReadersRead { side } => {
            if let Some(seen) = json["publications"].get_mut(PLACES[side]) {
                seen["answered_at"] = past;
            }
        }
        Edit::PlaceChanges { side } => {
            if let Some(seen) = json["publications"].get_mut(PLACES[side]) {
                seen["store_version"] = json!(0);
            }
        }
        // The last four are what a shell makes of a record if it leaves something out.
        Edit::WithoutLease => json["lease"] = Value::Null,
        Edit::Undecided => json["rotation"]["presented"] = json!(false),
        Edit::Unoccupied => json["rotation"] = Value::Null,
        Edit::RepeatOldView => json["owed"]["step"] = json!("publish"),
        _ => unreachable!("a change is asked of the transition function"),
    }
}

/// Writes a record in the one form of all records with the same meaning.
#[expect(clippy::too_many_lines, reason = "one statement a field")]
pub(super) fn normalise(json: &mut Value) {
    let revision = json["revision"].as_u64().expect("a revision");
    for view in ["accepted_revision", "presented_revision"] {
        let is_new = json[view] == revision + 1;
        json[view] = json!(if is_new { REVISION + 1 } else { SAVED });
    }
    json["revision"] = json!(REVISION);
    let past = NOW - HOUR;
    for version in json["versions"].as_array_mut().expect("versions") {
        let number = version["version"].as_u64().expect("a number");
        set(&mut version["created_at"], NOW);
        version["rotation"] = json!("r");
        if !version["not_after"].is_null() {
            // The older a version is, the sooner it ends.
            let has_ended = time(&version["not_after"]) <= NOW;
            let base = if has_ended { past } else { NOW + HOUR };
            set(&mut version["not_after"], base + Duration::from_secs(number));
        }
    }
    if !json["rotation"].is_null() {
        set(&mut json["rotation"]["began_at"], NOW);
        json["rotation"]["timeline"] = json!([]);
    }
    if !json["owed"].is_null() {
        set(&mut json["owed"]["since"], NOW);
    }
    for wait in json["waits"].as_object_mut().expect("waits").values_mut() {
        set(&mut wait["synced_at"], NOW);
    }
    for seen in json["publications"].as_object_mut().expect("publications").values_mut() {
        let lags = time(&seen["answered_at"]) + WITHIN > NOW;
        set(&mut seen["answered_at"], if lags { NOW } else { past });
    }
    if !json["lease"].is_null() {
        let is_live = time(&json["lease"]["until"]) + LEASE_GRACE > NOW;
        // It is over, but for so short a time that a write under it could still land.
        set(&mut json["lease"]["until"], if is_live { NOW + LEASE } else { NOW - 2 * LEASE });
    }
    if !json["unanswered_until"].is_null() {
        if time(&json["unanswered_until"]) > NOW {
            set(&mut json["unanswered_until"], NOW + LATE_WRITE);
        } else {
            json["unanswered_until"] = Value::Null;
        }
    }
    let compare_at = match time(&json["compare_at"]) {
        at if at <= NOW => past,
        at if at <= NOW + LATE_WRITE => NOW + LATE_WRITE,
        _ => NOW + DAY,
    };
    set(&mut json["compare_at"], compare_at);
    if !json["due_at"].is_null() {
        let is_due = time(&json["due_at"]) <= NOW;
        // The pause of a held token may be over at any time, and a watcher may miss its heartbeat.
        let waits_for_time = json["owed"].is_null() || json["owed"]["step"] == "retire";
        let is_leased = !json["lease"].is_null();
        let is_due = is_due || !(waits_for_time || is_leased);
        set(&mut json["due_at"], if is_due { past } else { NOW + HOUR });
    }
    json["watcher"] = Value::Null;
    // The reason is only reported. No decision reads it.
    json["held"] = Value::Null;
    // The count is only for the report: a session that is held here may as well be one that continues.
    json["repeats"] = json!(0);
    // The result of the last publish is needed until its leg is complete.
    if !matches!(json["owed"]["step"].as_str(), Some("sync" | "roll_out")) {
        json["publications"] = json!({});
    }
}

fn time(json: &Value) -> Timestamp {
    let text = json.as_str();
    text.map_or(Timestamp::MIN, |text| text.parse().expect("a time"))
}

fn set(json: &mut Value, at: Timestamp) {
    *json = json!(milliseconds(at));
}
