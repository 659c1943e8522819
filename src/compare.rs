//! The look at a token that owes nothing: do all publications still hold what the record says?
//!
//! Done daily, and after a write whose reply was lost may have landed. A value of the token's own,
//! an older view or none, is repaired: the rotation's slot is taken, and both sides are published,
//! synced and rolled, since a pod may have started on what was found. A strange value is
//! somebody's hand: it is told, and never overwritten.

use futures::future::join_all;
use serde::Deserialize;

use crate::{
    record::{Change, Purpose, Record, Stage},
    report::{Outcome, Report},
    spec::Side,
    token::VersionNumber,
    turn::{Stop, Turn},
    world::Holding,
};

impl Turn<'_> {
    /// Compares every publication with the record, and repairs or tells what differs.
    pub(crate) async fn compare(&mut self) -> Result<Report, Stop> {
        let mut drift = Vec::new();
        let mut repaired = Vec::new();
        for side in Side::BOTH {
            let publications = &self.spec.side(side).publications;
            if publications.is_empty() {
                continue;
            }
            let content = match side {
                Side::Verifiers => Some(self.content(side).await?),
                // The digest is in the record: no value needs to be opened for it.
                Side::Presenters => None,
            };
            let presented = self.record.presented().map(|version| version.sha256);
            let reads = publications.iter().map(|it| self.world.publications.read(&it.place, side));
            for (publication, holding) in publications.iter().zip(join_all(reads).await) {
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
                if found.is_none_or(|found| is_own(&self.record, side, &found)) {
                    repaired.push(side);
                } else {
                    drift.push(publication.place.to_string());
                }
            }
        }
        repaired.dedup();
        let repairs = drift.is_empty() && !repaired.is_empty();
        self.apply(Change::Compared { drift })?;
        if repairs {
            self.take_slot(Purpose::Repair, None, None, repaired).await?;
            return self.carry_on().await;
        }
        let due_at = match self.record.owed() {
            Some(_) => self.record.next_end().unwrap_or(self.record.compare_at()),
            None => self.record.compare_at(),
        };
        self.release(due_at.min(self.record.compare_at())).await?;
        Ok(self.report(Outcome::Completed))
    }
}

/// Whether a value that differs is one of the token's own: a live version, or an accepted document
/// that names no version which was never minted.
fn is_own(record: &Record, side: Side, found: &Holding) -> bool {
    match side {
        Side::Presenters => {
            let digest = found.value.digest();
            record.versions().iter().any(|version| version.sha256 == digest)
        }
        Side::Verifiers => {
            let highest = record.next_version();
            serde_json::from_str::<Document>(found.value.expose())
                .is_ok_and(|document| document.accepted.iter().all(|entry| entry.version < highest))
        }
    }
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
