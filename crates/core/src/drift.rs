//! Drift detection for a token that owes nothing: every publication must still hold what the record says.
//!
//! It runs daily, and after the time in which a write whose reply was lost may have been applied. A value
//! of the token's own, an older view or none, is repaired: the rotation's slot is taken, and both sides are
//! published, synced and rolled out, since a pod may have started on what was found. An unknown value was
//! written by someone else: it is reported as drift, and never overwritten. Its side is left alone, and the
//! other side is repaired. A Secret that changeover writes is a copy that no other process keeps: whatever
//! it holds instead is repaired.

use std::time::Duration;

use changeover_token::{AcceptedForm, Digest, Fence, Secret, Stage, VersionNumber};
use futures::future::join_all;
use jiff::Timestamp;
use serde::{Deserialize, Deserializer};
use tracing::warn;

use crate::{
    error::Error,
    inbox::has_arrival,
    observe::{self, cluster_unavailable},
    plan::{self, Decision, Limits},
    ports::{Progress, StoredValue},
    record::{Begin, Purpose, RotationId, Transition},
    report::{Outcome, Report},
    session::{Next, Session, Stop, UnderWay},
    spec::{OnDrift, Place, Side, Spec},
    start::{Started, slot, start, take_slot},
    steps::{
        ahead::{continue_above, held_by_newer_record},
        follow_spec, resume, resume_prerequisite,
        view::{stamp_of, view_of},
    },
};

/// Compares every publication, and every Secret that is written, with the record, and repairs or
/// reports what differs.
pub(crate) async fn detect_drift(session: &mut Session<'_>) -> Result<Next, Stop> {
    follow_spec(session)?;
    let mut drift = Drift::default();
    for side in Side::BOTH {
        if !session.spec().side(side).is_empty() {
            compare_side(session, side, &mut drift).await?;
        }
    }
    drift.repaired.dedup();
    let (drifted, places): (Vec<Side>, Vec<String>) = drift.strange.drain(..).unzip();
    drift.repaired.retain(|side| !drifted.contains(side));
    let repairs = !drift.repaired.is_empty();

    // Labels and the inbox are read only if nothing is repaired: a repair writes the labels anyway, and what has
    // arrived waits for it.
    let relabels = !repairs
        && !drifted.contains(&Side::Presenters)
        && drift.unless_failed(is_label_elsewhere(session).await);
    let arrives = match session.spec().inbox() {
        Some(inbox) if !repairs => drift.unless_failed(has_arrival(session, inbox).await),
        _ => false,
    };
    let adopts = drift.is_edited && session.spec().on_drift == OnDrift::Adopt;

    // Drift detection that is incomplete is due again. It is saved only if it found anything: each save
    // ends the back-off.
    let is_news = places != session.record().drift();
    if drift.failed.is_none() || repairs || relabels || is_news {
        // A value that was written by hand becomes a version as soon as the other side is repaired.
        let again_after = match drift.failed {
            None if !(repairs && adopts) => session.spec().resync_interval(),
            _ => Duration::ZERO,
        };
        let publications = observe::publications(session.spec(), &Side::BOTH).into_iter();
        let compared = publications.map(|(_, it)| it.place.to_string()).collect();
        session.apply(Transition::Compared { drift: places, places: compared, again_after })?;
    }

    if repairs {
        return repair(session, drift.repaired, drifted.first().copied()).await;
    }
    if relabels {
        return relabel(session).await;
    }
    let is_brought = adopts || arrives || session.record().is_rotation_waiting();
    let now = session.now();
    let has_ended = session.record().versions().iter().any(|version| version.has_ended(now));
    // Accepted documents that were not read may still hold what a late write left there.
    let may_be_written =
        !(drift.is_accepted_set_unread && session.record().is_late_write_uncompared());
    match (has_ended && may_be_written, is_brought, drift.failed) {
        // The ends come first: what starts after them may be refused each time.
        (true, true, _) => resume_prerequisite(session).await,
        (true, false, _) => Ok(Next::answer(resume(session).await?)),
        (false, true, _) => Ok(Next::answer(start_what_is_brought(session).await?)),
        (false, false, None) => {
            Ok(Next::answer(rest_until_due(session, Outcome::Completed).await?))
        }
        (false, false, Some(error)) => {
            if is_news {
                session.save().await?;
            }
            Err(Stop::Failed(error))
        }
    }
}

/// Begins a repair of these sides, and carries it out.
async fn repair(
    session: &mut Session<'_>,
    repaired: Vec<Side>,
    leaves_alone: Option<Side>,
) -> Result<Next, Stop> {
    let id = RotationId(session.ports().random_name()?);
    let begin = Begin { repaired, leaves_alone, ..slot(session, id, Purpose::Repair) };
    take_slot(session, begin).await?;
    Ok(Next::answer(resume(session).await?))
}

/// Puts the label `current` back. Readers by label are not restarted: the views are written again, and the
/// labels with them.
async fn relabel(session: &mut Session<'_>) -> Result<Next, Stop> {
    session.warn("the label `current` was on another version, and is put back");
    let id = RotationId(session.ports().random_name()?);
    let begin = slot(session, id, Purpose::Publish);
    take_slot(session, begin).await?;
    Ok(Next::answer(resume(session).await?))
}

/// Result of drift detection.
#[derive(Default)]
struct Drift {
    /// The places that hold a value of another writer, with their side.
    strange: Vec<(Side, String)>,
    /// True if one of them is presented and was not written by another record.
    is_edited: bool,
    /// The sides that hold an older view of the token's own, or none.
    repaired: Vec<Side>,
    /// The first read that failed. It does not stop the detection, and is returned at the end.
    failed: Option<Error>,
    is_accepted_set_unread: bool,
}

impl Drift {
    /// Returns what was read. If the read failed, keeps the error and returns `false`.
    fn unless_failed(&mut self, read: Result<bool, Error>) -> bool {
        read.unwrap_or_else(|error| {
            self.failed.get_or_insert(error);
            false
        })
    }
}

/// Compares the publications and written Secrets of one side with its view.
async fn compare_side(
    session: &mut Session<'_>,
    side: Side,
    drift: &mut Drift,
) -> Result<(), Stop> {
    let content = match side {
        Side::Verifiers => Some(view_of(session, side).await?),
        // The digest is in the record: no value must be opened for it.
        Side::Presenters => None,
    };
    let presented = session.record().presented().map(|version| version.sha256);
    for (publication, holding) in session.stored_values(side).await {
        let found = match holding {
            Ok(found) => found,
            Err(error) => {
                warn!(token = %session.record().token(), %error, "not compared");
                drift.failed.get_or_insert(error);
                drift.is_accepted_set_unread |= side == Side::Verifiers;
                continue;
            }
        };
        let intended = content.as_ref().map(|it| it.bytes(publication.form).digest()).or(presented);
        if let Some(found) = &found
            && Some(found.value.digest()) == intended
        {
            continue;
        }
        let other = found.as_ref().and_then(|found| other_record(session, side, found));
        if let Some(other) = other {
            let place = publication.place.to_string();
            let held = held_by_newer_record(session, side, place.clone(), other);
            session.warn(format!("{place}: {}. {}", held.reason, held.fix));
            drift.strange.push((side, place));
        } else if is_own(session, side, found.as_ref()).await? {
            drift.repaired.push(side);
        } else {
            drift.is_edited |= side == Side::Presenters;
            drift.strange.push((side, publication.place.to_string()));
        }
    }
    if let Some(form) = session.spec().side(side).written_form() {
        let intended = content.as_ref().map(|it| it.bytes(form).digest()).or(presented);
        let differs = rewrite_what_differs(session, side, form, intended).await?;
        drift.repaired.extend(differs.then_some(side));
    }
    Ok(())
}

/// Starts what drift detection found: an edit that is adopted, an arrival, or a rotation that waits.
async fn start_what_is_brought(session: &mut Session<'_>) -> Result<Report, Stop> {
    match plan::mint(session.record(), Limits::of(session.spec()), session.now()) {
        // Nothing is saved before this, because the start may be refused each time.
        Decision::Start(purpose) => match start(session, purpose).await? {
            Started::NoOp(report) => {
                rest_until_due(session, report.outcome).await?;
                Ok(*report)
            }
            Started::Requested | Started::Prerequisite => resume(session).await,
        },
        // The next sweep, a minute later, tries again.
        Decision::Defer { until, because } => {
            rest_until_due(session, Outcome::Deferred).await?;
            Ok(session.deferred(until, because))
        }
        _ => rest_until_due(session, Outcome::Completed).await,
    }
}

/// Saves the result, and releases the token until its next end or drift detection.
async fn rest_until_due(session: &mut Session<'_>, outcome: Outcome) -> Result<Report, Stop> {
    session.release(due_at_rest(session)).await?;
    Ok(session.report(outcome))
}

/// Time at which a token at rest is due.
pub(crate) fn due_at_rest(session: &Session<'_>) -> Timestamp {
    let due_at = match session.record().owed() {
        Some(_) => session.record().next_end().unwrap_or(session.record().compare_at()),
        None => session.record().compare_at(),
    };
    due_at.min(session.record().due_at_rest(session.now()))
}

/// Compares the Secrets that are written for this side, and rewrites those that differ. This happens at
/// once, before the repair rolls anything out, since every pod that starts reads them. Returns true if any
/// differed.
async fn rewrite_what_differs(
    session: &mut Session<'_>,
    side: Side,
    form: AcceptedForm,
    intended: Option<Digest>,
) -> Result<bool, Stop> {
    let written = session.workloads(side).into_iter().filter(|it| it.written_key().is_some());
    let written: Vec<_> = written.collect();
    let reads = written.iter().map(|it| session.ports().copies.written_secret(it));
    let mut differ = false;
    for (workload, held) in written.iter().zip(join_all(reads).await) {
        let rewritten = match held {
            Ok(held) if held == intended => continue,
            Ok(_) => {
                differ = true;
                let value = view_of(session, side).await?.bytes(form);
                session
                    .ports()
                    .copies
                    .write_secret(workload, &stamp_of(session, side), &value)
                    .await
            }
            Err(error) => Err(error),
        };
        // A blocker holds the repair, so it is only a warning here. A cluster that cannot be reached is
        // read again by the next drift detection.
        let held = match rewritten {
            Ok(Progress::Stuck(held)) => held,
            // The repair meets the newer record again, and is held by it.
            Ok(Progress::Ahead(found)) => {
                match continue_above(session, side, vec![(workload.describe_copy(), found)]).await?
                {
                    Some(UnderWay::Held(held)) => held,
                    _ => continue,
                }
            }
            Ok(Progress::Done(_) | Progress::UnderWay(_)) => continue,
            Err(error) => cluster_unavailable(workload, error)?,
        };
        session.warn(format!("{}: {}", held.object, held.reason));
    }
    Ok(differ)
}

/// True if the label `current` of a parameter is on another version than the one that was published last.
/// Readers by label then have another value.
async fn is_label_elsewhere(session: &Session<'_>) -> Result<bool, Error> {
    let Some(presented) = session.record().presented().map(|version| version.version) else {
        return Ok(false);
    };
    let labelled = session.spec().presenters.publications.iter().filter_map(|publication| {
        let seen = session.record().seen(&publication.place.to_string())?;
        let expected = *seen.held_at.get(&presented)?;
        matches!(publication.place, Place::Parameter(_)).then_some((&publication.place, expected))
    });
    let labelled: Vec<_> = labelled.collect();
    let reads =
        labelled.iter().map(|(place, _)| session.ports().publications.labelled(place, "current"));
    for ((_, expected), found) in labelled.iter().zip(join_all(reads).await) {
        if found? != Some(*expected) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// True if what differs is the token's own, or nothing. A live version is its own, and so is an accepted
/// document that was written for this token. A document with the life of another record, or with none, is
/// its own if any entry of it is a version that this token has or had. Entries are compared by digest,
/// because any token has the same version numbers.
async fn is_own(
    session: &Session<'_>,
    side: Side,
    found: Option<&StoredValue>,
) -> Result<bool, Error> {
    let Some(found) = found else { return Ok(true) };
    if side == Side::Presenters {
        return Ok(session.record().holds(&found.value.digest()));
    }
    let life = found.fence_of(side).and_then(|fence| fence.life);
    if found.token.as_ref() == Some(session.record().token())
        || (life.is_some() && life == session.record().life())
    {
        return Ok(true);
    }
    let Ok(document) = serde_json::from_str::<Document>(found.value.expose()) else {
        return Ok(false);
    };
    let entries = document.accepted.iter().take(Spec::DEEPEST);
    let entries = entries.filter_map(|entry| Some((entry.version, entry.digest()?)));
    let entries: Vec<_> = entries.collect();
    if document.accepted.is_empty() || entries.iter().any(|(_, it)| session.record().holds(it)) {
        return Ok(true);
    }
    let audits = entries
        .iter()
        .map(|(version, _)| session.ports().records.audit(session.record().token(), *version));
    for ((_, digest), audit) in entries.iter().zip(join_all(audits).await) {
        if audit?.is_some_and(|audit| audit.sha256 == *digest) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Returns the fence of a newer record of this token, if that record wrote what was found.
fn other_record(session: &Session<'_>, side: Side, found: &StoredValue) -> Option<Fence> {
    found.fence_of(side).filter(|fence| fence.life > session.record().life())
}

/// Returns the form of an accepted document; `None` if the value is not one.
pub(crate) fn form_of(value: &Secret) -> Option<AcceptedForm> {
    let document = serde_json::from_str::<Document>(value.expose()).ok()?;
    let is_plain = document.accepted.iter().any(|entry| entry.token.is_some());
    Some(if is_plain { AcceptedForm::Plain } else { AcceptedForm::Digests })
}

/// The fields of an accepted document that show that changeover wrote it.
#[derive(Deserialize)]
struct Document {
    accepted: Vec<AcceptedEntry>,
}

#[derive(Deserialize)]
struct AcceptedEntry {
    version: VersionNumber,
    #[serde(rename = "stage")]
    _stage: Stage,
    sha256: Option<Digest>,
    /// The digest of the token, in the form `plain`.
    #[serde(default, deserialize_with = "digest_of_value")]
    token: Option<Digest>,
}

impl AcceptedEntry {
    fn digest(&self) -> Option<Digest> {
        self.token.or(self.sha256)
    }
}

/// Reads a token as its digest: the token itself is never kept beside it.
fn digest_of_value<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Digest>, D::Error> {
    String::deserialize(from).map(|value| Some(Secret::verbatim(value).digest()))
}
