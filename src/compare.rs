//! The look at a token that owes nothing: do all publications still hold what the record says?
//!
//! Done daily, and after a write whose reply was lost may have landed. A value of the token's own,
//! an older view or none, is repaired: the rotation's slot is taken, and both sides are published,
//! synced and rolled, since a pod may have started on what was found. A strange value is
//! somebody's hand: it is told, and never overwritten. A Secret that changeover writes is a copy, which
//! nobody else keeps: whatever it holds instead is repaired.

use futures::future::join_all;
use serde::Deserialize;

use crate::{
    begin::Begun,
    fence::{Fence, Life},
    look::away,
    plan::{self, Move, Terms},
    record::{Begin, Change, Purpose, Record, RotationId, Stage},
    report::{Outcome, Report},
    spec::{AcceptedForm, OnDrift, Side},
    token::{Digest, VersionNumber},
    turn::{Stop, Turn, UnderWay},
    world::{Holding, Progress},
};

impl Turn<'_> {
    /// Compares every publication, and every Secret that is written, with the record, and repairs or
    /// tells what differs.
    pub(crate) async fn compare(&mut self) -> Result<Report, Stop> {
        let mut drift = Vec::new();
        let mut is_edited = false;
        let mut repaired = Vec::new();
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
                let found = match holding? {
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
                    drift.push(place);
                } else if found.is_none_or(|found| is_own(&self.record, side, &found)) {
                    repaired.push(side);
                } else {
                    is_edited |= side == Side::Presenters;
                    drift.push(publication.place.to_string());
                }
            }

            if let Some(form) = self.spec.side(side).written_form() {
                let intended = content.as_ref().map(|it| it.bytes(form).digest()).or(presented);
                let differs = self.rewrite_what_differs(side, form, intended).await?;
                repaired.extend(differs.then_some(side));
            }
        }
        repaired.dedup();
        let repairs = drift.is_empty() && !repaired.is_empty();
        let again_after = self.spec.looked_at_every();
        self.apply(Change::Compared { drift, again_after })?;
        if repairs {
            let id = RotationId(self.world.random_name()?);
            let begin = Begin { repaired, ..self.slot(id, Purpose::Repair) };
            self.take_slot(begin).await?;
            return self.carry_on().await;
        }
        let adopts = is_edited && self.spec.on_drift == OnDrift::Adopt;
        let arrives = match self.spec.inbox() {
            Some(inbox) => self.has_arrival(inbox).await?,
            None => false,
        };
        let is_brought = adopts || arrives;
        let now = self.now();
        if !is_brought && self.record.versions().iter().any(|version| version.has_ended(now)) {
            // Whoever is looked at each minute is looked at whenever a version has ended.
            return self.carry_on().await;
        }
        let due_at = match self.record.owed() {
            Some(_) => self.record.next_end().unwrap_or(self.record.compare_at()),
            None => self.record.compare_at(),
        };
        self.release(due_at.min(self.record.compare_at())).await?;
        if !is_brought {
            return Ok(self.report(Outcome::Completed));
        }
        match plan::mint(&self.record, Terms::of(self.spec), self.now()) {
            Move::Begin(purpose) => match self.begin(purpose).await? {
                Begun::Nothing(report) => Ok(*report),
                Begun::Asked | Begun::Before => self.carry_on().await,
            },
            // The next look, a minute later, tries again.
            Move::Defer { until, because } => Ok(self.deferred(until, because)),
            _ => Ok(self.report(Outcome::Completed)),
        }
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

    /// The fence of a newer record of this token, if that wrote what was found.
    fn other_record(&self, side: Side, found: &Holding) -> Option<Fence> {
        found.fence_of(side).filter(|fence| fence.life > self.record.life())
    }
}

/// Whether a value that differs is one of the token's own: a live version, or an accepted document
/// that names no version which was never minted.
fn is_own(record: &Record, side: Side, found: &Holding) -> bool {
    match side {
        Side::Presenters => record.holds(&found.value.digest()),
        // An older record of this token wrote it, whatever its numbers.
        Side::Verifiers if older_life(record, found).is_some() => true,
        Side::Verifiers => {
            let highest = record.next_version();
            serde_json::from_str::<Document>(found.value.expose())
                .is_ok_and(|document| document.accepted.iter().all(|entry| entry.version < highest))
        }
    }
}

fn older_life(record: &Record, found: &Holding) -> Option<Life> {
    let life = found.fence_of(Side::Verifiers)?.life?;
    (Some(life) < record.life()).then_some(life)
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
}
