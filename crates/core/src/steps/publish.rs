//! Publish: a side's view is written to each of its publications.

use std::collections::BTreeMap;

use changeover_token::{Content, Secret, VersionNumber};
use futures::future::join_all;
use jiff::Timestamp;

use crate::{
    error::Kind,
    import::weak_edit,
    ports::{Holding, WriteError, Written},
    record::{Change, Leg, Seen},
    spec::{OnDrift, Place, Publication, Side},
    turn::{Stop, Turn, UnderWay},
};

impl Turn<'_> {
    /// Writes the view of this leg's side to each of its publications, whole, all at once.
    pub(super) async fn publish(&mut self, leg: Leg) -> Result<Option<UnderWay>, Stop> {
        let side = leg.side();
        let publications = &self.spec.side(side).publications;
        if publications.is_empty() {
            self.apply(Change::Published(BTreeMap::new()))?;
            return Ok(None);
        }
        if side == Side::Presenters && self.spec.on_drift == OnDrift::Adopt {
            self.keep_edited().await?;
        }
        // Before the lease is taken: values are opened one by one, and a write to a store that cannot
        // fence begins only while enough of the lease is left.
        let content = self.content(side).await?;
        self.save_with_lease(leg).await?;
        let writes = publications.iter().map(|publication| self.write(publication, &content));
        let results = join_all(writes).await;
        let answered_at = self.now();
        self.note_lost_replies(&results)?;

        let carried = publications.iter().zip(&results).filter_map(|(publication, result)| {
            Some((publication.place.to_string(), result.as_ref().err()?.ahead?))
        });
        let ahead: Vec<_> = carried.collect();
        if !ahead.is_empty() {
            return self.surpass(side, ahead).await;
        }

        let mut seen = BTreeMap::new();
        for (publication, result) in publications.iter().zip(results) {
            let written = result.map_err(|failed| Stop::Failed(failed.error))?;
            seen.insert(
                publication.place.to_string(),
                self.seen(side, publication, &content, written, answered_at),
            );
        }
        if side == Side::Presenters {
            self.label(leg, &seen).await?;
            // A reader by label sees the new version only from now on.
            let answered_at = self.now();
            seen.values_mut().for_each(|it| it.answered_at = answered_at);
        }
        self.apply(Change::Published(seen))?;
        // It was what the look found: if this leg is published again, that is written again.
        if side == Side::Presenters {
            self.found.clear();
        }
        Ok(None)
    }

    /// Keeps what somebody wrote by hand since a rotation began, before it is published over: it is the
    /// next version, once this one is through.
    async fn keep_edited(&mut self) -> Result<(), Stop> {
        for (publication, holding) in self.holdings(Side::Presenters).await {
            let Some(Holding { value, .. }) = holding? else { continue };
            let digest = value.digest();
            let is_kept = self.record.edited().is_some_and(|edited| edited.sha256 == digest);
            if is_kept || self.record.holds(&digest) {
                continue;
            }
            let place = &publication.place;
            let value = Secret::adopt(value.expose().to_owned());
            let fit = match value {
                Ok(value) => match value.weakness(self.spec.least_bits()) {
                    Some(weakness) => Err(weak_edit(weakness)),
                    None => self.refuse_ended(&value).await.map(|()| value),
                },
                Err(unfit) => Err(unfit.into()),
            };
            match fit {
                Ok(value) => {
                    let kept =
                        self.seal(self.record.next_version(), value, BTreeMap::new()).await?;
                    self.warnings.push(format!("{place}: what somebody wrote there is next"));
                    self.apply(Change::Edited(kept))?;
                }
                Err(error) if matches!(error.kind, Kind::BadToken | Kind::PreflightFailed) => {
                    self.warnings.push(format!("{place} is published over: {error}"));
                }
                Err(error) => return Err(Stop::Failed(error)),
            }
        }
        Ok(())
    }

    async fn write(
        &self,
        publication: &Publication,
        content: &Content,
    ) -> Result<Written, WriteError> {
        let place = publication.place.to_string();
        // A value that was found in place, and is to stay, needs no version of its parameter more.
        if let (Place::Parameter(_), Some(found)) =
            (&publication.place, self.found.get(&publication.place))
            && matches!(content, Content::Presented { value, .. }
                if value.digest() == found.value.digest())
        {
            return Ok(Written {
                store_version: found.store_version,
                key: None,
                unanswered: false,
            });
        }
        let known_key = self.record.seen(&place).and_then(|seen| seen.key.as_deref());
        self.world.publications.write(publication, known_key, content).await
    }

    fn seen(
        &self,
        side: Side,
        publication: &Publication,
        content: &Content,
        written: Written,
        answered_at: Timestamp,
    ) -> Seen {
        let before = self.record.seen(&publication.place.to_string());
        let mut held_at = before.map(|seen| seen.held_at.clone()).unwrap_or_default();
        if let Content::Presented { version, .. } = content {
            let found_there = held_at.get(version) == Some(&written.store_version);
            // Numbers are those of one parameter: one that was deleted and created again counts from 1.
            if before.is_some_and(|seen| written.store_version <= seen.store_version)
                && !found_there
            {
                held_at.clear();
            }
            held_at.insert(*version, written.store_version);
        }
        held_at.retain(|number, _| {
            side == Side::Presenters
                && self.record.versions().iter().any(|live| live.version == *number)
        });
        Seen {
            revision: content.fence().revision,
            life: content.fence().life,
            store_version: written.store_version,
            sha256: content.bytes(publication.form).digest(),
            key: written.key.or_else(|| before.and_then(|seen| seen.key.clone())),
            answered_at,
            held_at,
        }
    }

    /// Moves the label `previous` first: a crash between the two leaves both readable.
    async fn label(&mut self, leg: Leg, seen: &BTreeMap<String, Seen>) -> Result<(), Stop> {
        let presented = self.record.presented().map(|version| version.version);
        let before = self
            .record
            .versions()
            .iter()
            .map(|version| version.version)
            .find(|number| Some(*number) < presented);
        for (label, number) in [("previous", before), ("current", presented)] {
            let moves: Vec<_> = self
                .spec
                .presenters
                .publications
                .iter()
                .filter(|publication| matches!(publication.place, Place::Parameter(_)))
                .filter_map(|publication| {
                    let seen = seen.get(&publication.place.to_string())?;
                    Some((&publication.place, *seen.held_at.get(&number?)?))
                })
                .collect();
            if moves.is_empty() {
                continue;
            }
            self.save_with_lease(leg).await?;
            let calls = moves
                .iter()
                .map(|(place, version)| self.world.publications.label(place, label, *version));
            let results = join_all(calls).await;
            self.note_lost_replies(&results)?;
            for ((place, version), result) in moves.iter().zip(results) {
                match result {
                    Ok(_) => {}
                    // Readers by this label keep what they have: the version is deleted, and no other holds it.
                    Err(failed) if failed.is_gone && label == "previous" => {
                        self.warnings.push(format!(
                            "{place}: version {version} of the parameter, which held token version {},                              does not exist any more: the label `previous` is not moved",
                            number.map_or(0, VersionNumber::get)
                        ));
                    }
                    Err(failed) => return Err(Stop::Failed(failed.error)),
                }
            }
        }
        Ok(())
    }

    fn note_lost_replies(&mut self, results: &[Result<Written, WriteError>]) -> Result<(), Stop> {
        let lost = |result: &Result<Written, WriteError>| match result {
            Ok(written) => written.unanswered,
            Err(error) => error.unanswered,
        };
        if results.iter().any(lost) {
            self.apply(Change::Unanswered(self.now() + self.settings.late_write))?;
        }
        Ok(())
    }
}
