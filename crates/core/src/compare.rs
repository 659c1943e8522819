//! The look at a token that owes nothing: do all publications still hold what the record says?
//!
//! Done daily, and after a write whose reply was lost may have landed. A value of the token's own,
//! an older view or none, is repaired: the rotation's slot is taken, and both sides are published,
//! synced and rolled, since a pod may have started on what was found. A strange value is
//! a person's hand: it is reported, and never overwritten. Its side is left alone, and the other repaired.
//! A Secret that changeover writes is a copy, which no other process keeps: whatever it holds instead is
//! repaired.

use std::time::Duration;

use changeover_token::{AcceptedForm, Digest, Fence, Secret, Stage, VersionNumber};
use futures::future::join_all;
use jiff::Timestamp;
use serde::{Deserialize, Deserializer};
use tracing::warn;

use crate::{
    begin::Begun,
    error::Error,
    look::{self, away},
    plan::{self, Move, Terms},
    ports::{Holding, Progress},
    record::{Begin, Change, Purpose, RotationId},
    report::{Outcome, Report},
    spec::{OnDrift, Place, Side, Spec},
    turn::{Stop, Turn, UnderWay},
};

impl Turn<'_> {
    /// Compares every publication, and every Secret that is written, with the record, and repairs or
    /// tells what differs.
    pub(crate) async fn compare(&mut self) -> Result<Report, Stop> {
        self.follow_spec()?;
        // The places that hold a stranger's value, by their side.
        let mut strange: Vec<(Side, String)> = Vec::new();
        let mut is_edited = false;
        let mut repaired = Vec::new();
        // One read that fails stops nothing else; it is returned in the end.
        let mut failed = None;
        let mut is_accepted_set_unread = false;
        for side in Side::BOTH {
            if self.spec.side(side).is_empty() {
                continue;
            }
            let content = match side {
                Side::Verifiers => Some(self.content(side).await?),
                // The digest is in the record: no value needs to be opened for it.
                Side::Presenters => None,
            };
            let presented = self.record.presented().map(|version| version.sha256);
            for (publication, holding) in self.holdings(side).await {
                let holding = match holding {
                    Ok(holding) => holding,
                    Err(error) => {
                        warn!(token = %self.record.token(), %error, "not compared");
                        failed.get_or_insert(error);
                        is_accepted_set_unread |= side == Side::Verifiers;
                        continue;
                    }
                };
                let found = match holding {
                    Some(holding) => {
                        let accepted =
                            content.as_ref().map(|it| it.bytes(publication.form).digest());
                        if Some(holding.value.digest()) == accepted.or(presented) {
                            continue;
                        }
                        Some(holding)
                    }
                    None => None,
                };
                let other = found.as_ref().and_then(|found| self.other_record(side, found));
                if let Some(other) = other {
                    let place = publication.place.to_string();
                    let held = self.owned_by_another(side, place.clone(), other);
                    self.warnings.push(format!("{place}: {}. {}", held.reason, held.fix));
                    strange.push((side, place));
                } else if self.is_own(side, found.as_ref()).await? {
                    repaired.push(side);
                } else {
                    is_edited |= side == Side::Presenters;
                    strange.push((side, publication.place.to_string()));
                }
            }

            if let Some(form) = self.spec.side(side).written_form() {
                let intended = content.as_ref().map(|it| it.bytes(form).digest()).or(presented);
                let differs = self.rewrite_what_differs(side, form, intended).await?;
                repaired.extend(differs.then_some(side));
            }
        }
        repaired.dedup();
        let (drifted, drift): (Vec<Side>, Vec<String>) = strange.into_iter().unzip();
        repaired.retain(|side| !drifted.contains(side));
        let repairs = !repaired.is_empty();
        let mut relabels = false;
        if !repairs && !drifted.contains(&Side::Presenters) {
            match self.is_label_elsewhere().await {
                Ok(is_elsewhere) => relabels = is_elsewhere,
                Err(error) => drop(failed.get_or_insert(error)),
            }
        }
        let adopts = is_edited && self.spec.on_drift == OnDrift::Adopt;
        let mut arrives = false;
        if let (false, Some(inbox)) = (repairs, self.spec.inbox()) {
            match self.has_arrival(inbox).await {
                Ok(has_arrived) => arrives = has_arrived,
                Err(error) => drop(failed.get_or_insert(error)),
            }
        }
        // A comparison that is not whole is due again. It is saved only if it brought anything: each save
        // ends the back-off.
        let is_news = drift != self.record.drift();
        if failed.is_none() || repairs || relabels || is_news {
            // What was written by hand becomes a version once the other side is repaired.
            let again_after = match failed {
                None if !(repairs && adopts) => self.spec.looked_at_every(),
                _ => Duration::ZERO,
            };
            let publications = look::publications(self.spec, &Side::BOTH).into_iter();
            let places = publications.map(|(_, it)| it.place.to_string()).collect();
            self.apply(Change::Compared { drift, places, again_after })?;
        }
        if repairs {
            let id = RotationId(self.world.random_name()?);
            let leaves_alone = drifted.first().copied();
            let begin = Begin { repaired, leaves_alone, ..self.slot(id, Purpose::Repair) };
            self.take_slot(begin).await?;
            return self.carry_on().await;
        }
        if relabels {
            // Readers by label are not restarted: the views are written anew, and the labels with them.
            self.warnings
                .push("the label `current` was on another version, and is put back".to_owned());
            let id = RotationId(self.world.random_name()?);
            self.take_slot(self.slot(id, Purpose::Publish)).await?;
            return self.carry_on().await;
        }
        let is_brought = adopts || arrives || self.record.is_rotation_waiting();
        let now = self.now();
        let has_ended = self.record.versions().iter().any(|version| version.has_ended(now));
        // An accepted set that was not read keeps what a late write may have left there.
        let may_be_written = !(is_accepted_set_unread && self.record.is_late_write_uncompared());
        if has_ended && may_be_written {
            // What comes after it may be refused each time.
            return match is_brought {
                true => self.carry_on_first().await,
                false => self.carry_on().await,
            };
        }
        if !is_brought {
            return match failed {
                None => self.rest_until_due(Outcome::Completed).await,
                Some(error) => {
                    if is_news {
                        self.save().await?;
                    }
                    Err(Stop::Failed(error))
                }
            };
        }
        match plan::mint(&self.record, Terms::of(self.spec), self.now()) {
            // Nothing is saved before: what begins may be refused, each time.
            Move::Begin(purpose) => match self.begin(purpose).await? {
                Begun::Nothing(report) => {
                    self.rest_until_due(report.outcome).await?;
                    Ok(*report)
                }
                Begun::Asked | Begun::Before => self.carry_on().await,
            },
            // The next look, a minute later, tries again.
            Move::Defer { until, because } => {
                self.rest_until_due(Outcome::Deferred).await?;
                Ok(self.deferred(until, because))
            }
            _ => self.rest_until_due(Outcome::Completed).await,
        }
    }

    /// Saves the comparison, and leaves the token until its next end or comparison.
    async fn rest_until_due(&mut self, outcome: Outcome) -> Result<Report, Stop> {
        self.release(self.next_look()).await?;
        Ok(self.report(outcome))
    }

    /// When a token at rest is due.
    pub(crate) fn next_look(&self) -> Timestamp {
        let due_at = match self.record.owed() {
            Some(_) => self.record.next_end().unwrap_or(self.record.compare_at()),
            None => self.record.compare_at(),
        };
        due_at.min(self.record.due_at_rest(self.now()))
    }

    /// Compares the Secrets that are written for this side, and writes those anew that differ: at once,
    /// before the repair rolls anything, since every pod that starts reads them. Whether there were any.
    async fn rewrite_what_differs(
        &mut self,
        side: Side,
        form: AcceptedForm,
        intended: Option<Digest>,
    ) -> Result<bool, Stop> {
        let written = self.workloads(side).into_iter().filter(|it| it.written_key().is_some());
        let written: Vec<_> = written.collect();
        let reads = written.iter().map(|it| self.world.clusters.written_secret(it));
        let mut differ = false;
        for (workload, held) in written.iter().zip(join_all(reads).await) {
            let rewritten = match held {
                Ok(held) if held == intended => continue,
                Ok(_) => {
                    differ = true;
                    let value = self.content(side).await?.bytes(form);
                    self.world.clusters.write_secret(workload, &self.stamp(side), &value).await
                }
                Err(error) => Err(error),
            };
            // What is in the way holds the repair; a cluster that is away is looked at the next time.
            let held = match rewritten {
                Ok(Progress::Stuck(held)) => held,
                // The repair meets a newer record again, and is held by it.
                Ok(Progress::Ahead(found)) => {
                    match self.surpass(side, vec![(workload.copy_told(), found)]).await? {
                        Some(UnderWay::Held(held)) => held,
                        _ => continue,
                    }
                }
                Ok(Progress::Done(_) | Progress::UnderWay(_)) => continue,
                Err(error) => away(workload, error)?,
            };
            self.warnings.push(format!("{}: {}", held.object, held.reason));
        }
        Ok(differ)
    }

    /// Whether the label `current` of a parameter is on another version than the one that was published last:
    /// who reads by it has another value.
    async fn is_label_elsewhere(&self) -> Result<bool, Error> {
        let Some(presented) = self.record.presented().map(|version| version.version) else {
            return Ok(false);
        };
        let labelled = self.spec.presenters.publications.iter().filter_map(|publication| {
            let seen = self.record.seen(&publication.place.to_string())?;
            let expected = *seen.held_at.get(&presented)?;
            matches!(publication.place, Place::Parameter(_))
                .then_some((&publication.place, expected))
        });
        let labelled: Vec<_> = labelled.collect();
        let reads =
            labelled.iter().map(|(place, _)| self.world.publications.labelled(place, "current"));
        for ((_, expected), found) in labelled.iter().zip(join_all(reads).await) {
            if found? != Some(*expected) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether what differs is the token's own, or nothing: a live version, or an accepted document that was
    /// written for this token. One with another record's life is, or one with none, if any entry of it is a
    /// version that this token has or had: numbers are those of any token.
    async fn is_own(&self, side: Side, found: Option<&Holding>) -> Result<bool, Error> {
        let Some(found) = found else { return Ok(true) };
        if side == Side::Presenters {
            return Ok(self.record.holds(&found.value.digest()));
        }
        let life = found.fence_of(side).and_then(|fence| fence.life);
        if found.token.as_ref() == Some(self.record.token())
            || (life.is_some() && life == self.record.life())
        {
            return Ok(true);
        }
        let Ok(document) = serde_json::from_str::<Document>(found.value.expose()) else {
            return Ok(false);
        };
        let entries = document.accepted.iter().take(Spec::DEEPEST);
        let entries = entries.filter_map(|entry| Some((entry.version, entry.digest()?)));
        let entries: Vec<_> = entries.collect();
        if document.accepted.is_empty() || entries.iter().any(|(_, it)| self.record.holds(it)) {
            return Ok(true);
        }
        let audits = entries
            .iter()
            .map(|(version, _)| self.world.records.audit(self.record.token(), *version));
        for ((_, digest), audit) in entries.iter().zip(join_all(audits).await) {
            if audit?.is_some_and(|audit| audit.sha256 == *digest) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The fence of a newer record of this token, if that wrote what was found.
    fn other_record(&self, side: Side, found: &Holding) -> Option<Fence> {
        found.fence_of(side).filter(|fence| fence.life > self.record.life())
    }
}

/// The form of an accepted document; `None` if a value is none.
pub(crate) fn form_of(value: &Secret) -> Option<AcceptedForm> {
    let document = serde_json::from_str::<Document>(value.expose()).ok()?;
    let is_plain = document.accepted.iter().any(|entry| entry.token.is_some());
    Some(if is_plain { AcceptedForm::Plain } else { AcceptedForm::Digests })
}

/// As much of an accepted document as tells that changeover wrote it.
#[derive(Deserialize)]
struct Document {
    accepted: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    version: VersionNumber,
    #[serde(rename = "stage")]
    _stage: Stage,
    sha256: Option<Digest>,
    /// The digest of the token, in the form `plain`.
    #[serde(default, deserialize_with = "digest_of_value")]
    token: Option<Digest>,
}

impl Entry {
    fn digest(&self) -> Option<Digest> {
        self.token.or(self.sha256)
    }
}

/// A token is never kept beside its digest.
fn digest_of_value<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Digest>, D::Error> {
    String::deserialize(from).map(|value| Some(Secret::verbatim(value).digest()))
}
