//! Publish, sync, roll out: written once, used by every leg.
//!
//! Each step may run again after a crash anywhere, in whole or in part, and leads to the same end:
//! a publish writes bytes that the saved record decides, a sync asks for one refresh more, a stamp
//! that stands is left as it is. A step that has nothing to do passes without a call.

use std::{collections::BTreeMap, time::Duration};

use futures::future::join_all;
use jiff::Timestamp;

use crate::{
    error::{Error, Kind},
    look::away,
    record::{Change, Held, Leg, Owed, Purpose, Seen, Wait},
    spec::{AcceptedForm, OnDrift, ParameterName, PicksUp, Place, Publication, Side, Workload},
    token::{Digest, Secret},
    turn::{Stop, Turn, UnderWay},
    world::{Accepted, Content, Holding, Progress, SecretRevision, Stamp, WriteError, Written},
};

impl Turn<'_> {
    /// Writes the view of this leg's side to each of its publications, whole, all at once.
    pub(crate) async fn publish(&mut self, leg: Leg) -> Result<Option<UnderWay>, Stop> {
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

        let mut seen = BTreeMap::new();
        for (publication, result) in publications.iter().zip(results) {
            let written = result.map_err(stop)?;
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
                Ok(value) => self.refuse_ended(&value).await.map(|()| value),
                unfit => unfit,
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

    /// Waits until each Secret that copies this side's view holds what was published.
    pub(crate) async fn sync(&mut self, owed: Owed) -> Result<Option<UnderWay>, Stop> {
        let workloads = self.workloads(owed.leg.side()).into_iter();
        let copied: Vec<_> = workloads.filter(|it| it.copy.is_some()).collect();
        let mut waits = BTreeMap::new();
        if !copied.is_empty() {
            let give_up_at = self.give_up_at(owed);
            let view = self.copied_view(owed.leg.side()).await?;
            self.save_as_watcher().await?;
            let syncs = by_namespace(copied)
                .into_iter()
                .map(|copied| self.sync_in_namespace(copied, &view, give_up_at));
            let synced = self.attended(join_all(syncs)).await?;
            let mut under_way = Vec::new();
            let mut stuck = Vec::new();
            for (workload, progress) in synced.into_iter().flatten() {
                let progress = progress
                    .or_else(|error| away(workload, error).map(|held| Some(Progress::Stuck(held))));
                match progress? {
                    Some(Progress::Done(secret)) => {
                        let wait = Wait { secret: Some(secret), synced_at: self.now() };
                        waits.insert(workload.to_string(), wait);
                    }
                    Some(Progress::UnderWay(awaited)) => {
                        under_way.push((workload.to_string(), awaited));
                    }
                    Some(Progress::Stuck(held)) => stuck.push(held),
                    None => {
                        let object = workload.copy_told();
                        if self.passes_over_absent(owed) {
                            self.warnings.push(format!("{object} does not exist yet"));
                        } else {
                            let fix = "create it, or name another in the spec";
                            stuck.push(Held::new(object, "it does not exist", fix));
                        }
                    }
                }
            }
            if let Some(held) = self.first(stuck, &under_way) {
                return Ok(Some(UnderWay::Held(held)));
            }
            // A copy never comes to hold what its parameter no longer holds.
            if !under_way.is_empty()
                && let Some(changed) = self.publication_that_changed(owed.leg.side()).await?
            {
                return self.repeat(owed.leg.side(), changed).await;
            }
            if let Some(waiting) = self.waiting(owed, under_way, give_up_at) {
                return Ok(Some(waiting));
            }
        }
        self.apply(Change::Synced(waits))?;
        Ok(None)
    }

    /// Replaces what picks up by restart, sits out what picks up within a time, and then makes sure
    /// that what was published still stands.
    pub(crate) async fn roll_out(&mut self, owed: Owed) -> Result<Option<UnderWay>, Stop> {
        let side = owed.leg.side();
        let audience = self.spec.side(side);
        let purpose = self.record.rotation().map(|rotation| rotation.purpose);
        let rolls = purpose != Some(Purpose::Publish);
        let give_up_at = self.give_up_at(owed);

        // Readers' own caches. At overlap nothing waits for them: each ends the old token by the
        // clock, from whichever copy it has.
        let cached_until = audience
            .within
            .filter(|_| owed.leg != Leg::Overlap)
            .and_then(|within| Some(self.answered_at(side)? + within));
        let workloads = if rolls { self.workloads(side) } else { Vec::new() };
        let cached_for = cached_until.map_or(Duration::ZERO, |until| self.world.clock.until(until));
        // A short wait for readers' own caches is sat out holding the lease, which saves a save; the
        // publish that follows renews it.
        if !workloads.is_empty() || cached_for > self.settings.lease / 3 {
            self.save_as_watcher().await?;
        }

        let stop_at = self.asking.stop_at;
        let readers = async {
            match cached_until {
                Some(until) => {
                    self.world.clock.sleep_until(until.min(stop_at)).await;
                    let words = "readers that are not restarted may still hold their copy";
                    (until > self.now()).then(|| words.to_owned())
                }
                None => None,
            }
        };
        let stamp = self.stamp(side);
        let restarts = |it: &&Workload| it.picks_up == PicksUp::Restart;
        let rollouts = by_namespace(workloads.iter().copied().filter(restarts))
            .into_iter()
            .map(|restarted| self.roll_in_namespace(restarted, &stamp, give_up_at));
        let mounted = workloads.iter().copied().filter(|it| !restarts(it));
        let mounted = mounted.map(|it| self.sit_out(it, side));
        let waits = async { tokio::join!(readers, join_all(rollouts), join_all(mounted)) };
        let (cached, rolled, mounted) = self.attended(waits).await?;

        let mut under_way = Vec::new();
        let mut stuck = Vec::new();
        for (workload, progress) in rolled.into_iter().flatten().chain(mounted) {
            match progress.or_else(|error| away(workload, error).map(Progress::Stuck))? {
                Progress::Done(()) => {}
                Progress::UnderWay(awaited) => under_way.push((workload.to_string(), awaited)),
                Progress::Stuck(held) => stuck.push(held),
            }
        }
        if let Some(held) = self.first(stuck, &under_way) {
            return Ok(Some(UnderWay::Held(held)));
        }
        if let Some(waiting) = self.waiting(owed, under_way, give_up_at) {
            return Ok(Some(waiting));
        }
        if let Some(awaited) = cached {
            return Ok(Some(UnderWay::Waiting(awaited)));
        }

        // What migrate ends with gives the old version its end: looked at for every reader, not only
        // for those that were restarted.
        let ends = owed.leg == Leg::Migrate && purpose == Some(Purpose::Rotate);
        if ends || !workloads.is_empty() {
            match self.what_does_not_stand(side).await? {
                Standing::Stands => {}
                Standing::Changed(changed) => return self.repeat(side, changed).await,
                Standing::Unknown(held) => return Ok(Some(UnderWay::Held(held))),
            }
        }
        self.apply(Change::RolledOut { overlap: self.spec.overlap })?;
        Ok(None)
    }

    /// The view of a side, from the record alone.
    pub(crate) async fn content(&mut self, side: Side) -> Result<Content, Error> {
        let plain = side == Side::Verifiers
            && self.spec.verifiers.publications.iter().any(|it| it.form == AcceptedForm::Plain);
        let versions: Vec<_> = match side {
            Side::Verifiers if plain => self.record.versions().to_vec(),
            Side::Verifiers => Vec::new(),
            Side::Presenters => self.record.presented().cloned().into_iter().collect(),
        };
        for version in versions {
            if !self.values.contains_key(&version.version) {
                let records = &self.world.records;
                let opened = records.open(self.record.token(), version.version, &version.sealed);
                self.values.insert(version.version, opened.await?);
            }
        }
        let token = self.record.token().clone();
        let revision = self.record.view(side);
        Ok(match (side, self.record.presented()) {
            (Side::Presenters, Some(presented)) => Content::Presented {
                token,
                revision,
                version: presented.version,
                value: self.values[&presented.version].clone(),
            },
            _ => Content::Accepted {
                token,
                revision,
                // Exactly the live versions, newest first.
                entries: self
                    .record
                    .versions()
                    .iter()
                    .map(|version| Accepted {
                        version: version.version,
                        stage: version.stage,
                        sha256: version.sha256,
                        value: self.values.get(&version.version).cloned(),
                        not_after: version.not_after,
                    })
                    .collect(),
            },
        })
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
            held_at.insert(*version, written.store_version);
        }
        held_at.retain(|number, _| {
            side == Side::Presenters
                && self.record.versions().iter().any(|live| live.version == *number)
        });
        Seen {
            revision: content.revision(),
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
            for result in results {
                result.map_err(stop)?;
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

    /// Writes the Secrets of these workloads, or tells their copies to refresh, all at once, and waits
    /// for them together. `None` is what does not exist.
    async fn sync_in_namespace<'a>(
        &self,
        workloads: Vec<&'a Workload>,
        view: &CopiedView,
        give_up_at: Timestamp,
    ) -> Vec<Waited<'a, Option<Progress<SecretRevision>>>> {
        let clusters = &self.world.clusters;
        let (written, copied): (Vec<_>, Vec<_>) =
            workloads.into_iter().partition(|workload| workload.written_key().is_some());
        let writes = written.into_iter().map(async |workload| {
            let Some(value) = &view.value else { return (workload, Ok(None)) };
            let written = clusters.write_secret(workload, &view.stamp, value).await;
            (workload, written.map(Some))
        });
        let syncs = async {
            // One that several workloads read is told once.
            let mut copies: BTreeMap<_, Vec<_>> = BTreeMap::new();
            for workload in copied {
                let copy = workload.copy.as_ref().map(ToString::to_string);
                copies.entry(copy).or_default().push(workload);
            }
            let forced = copies.values().map(|it| clusters.force_sync(it[0], &self.holder));
            let forced = join_all(forced).await;
            let mut told = Vec::new();
            let mut ended = Vec::new();
            for (workloads, forced) in copies.into_values().zip(forced) {
                for workload in workloads {
                    match forced.clone() {
                        Ok(Some(before)) => told.push((workload, before)),
                        Ok(None) => ended.push((workload, Ok(None))),
                        Err(error) => ended.push((workload, Err(error))),
                    }
                }
            }
            if !told.is_empty() {
                let within = self.time_until(give_up_at);
                let synced = clusters.synced(&told, &view.intended, within).await;
                let synced = synced.into_iter().map(|progress| progress.map(Some));
                ended.extend(told.into_iter().map(|(workload, _)| workload).zip(synced));
            }
            ended
        };
        let (written, mut ended) = tokio::join!(join_all(writes), syncs);
        ended.extend(written);
        ended
    }

    /// Stamps these workloads, each once its Secret has settled, and waits for them together.
    async fn roll_in_namespace<'a>(
        &self,
        workloads: Vec<&'a Workload>,
        stamp: &Stamp,
        give_up_at: Timestamp,
    ) -> Vec<Waited<'a, Progress<()>>> {
        let stamps = workloads.iter().map(|workload| self.stamp_settled(workload, stamp));
        let mut rolling = Vec::new();
        let mut ended = Vec::new();
        for (workload, stamped) in workloads.iter().zip(join_all(stamps).await) {
            match stamped {
                Ok(Progress::Done(())) => rolling.push(*workload),
                stopped => ended.push((*workload, stopped)),
            }
        }
        if !rolling.is_empty() {
            let within = self.time_until(give_up_at);
            let rolled = self.world.clusters.rolled_out(&rolling, stamp, within).await;
            ended.extend(rolling.into_iter().zip(rolled));
        }
        ended
    }

    async fn stamp_settled(
        &self,
        workload: &Workload,
        stamp: &Stamp,
    ) -> Result<Progress<()>, Error> {
        let clock = &self.world.clock;
        let settled_at = self.synced_at(workload, stamp.side) + workload.settle;
        clock.sleep_until(settled_at.min(self.asking.stop_at)).await;
        if settled_at > self.now() {
            return Ok(Progress::UnderWay("its Secret is settling".to_owned()));
        }
        Ok(match self.world.clusters.stamp(workload, stamp).await? {
            Some(()) => Progress::Done(()),
            None => Progress::Stuck(Held::new(
                workload.to_string(),
                "the workload does not exist",
                "create it, or take it out of the spec",
            )),
        })
    }

    /// Waits for as long as pods that are not restarted may hold what they mounted.
    async fn sit_out<'a>(&self, workload: &'a Workload, side: Side) -> Waited<'a, Progress<()>> {
        let PicksUp::Within(within) = workload.picks_up else {
            return (workload, Ok(Progress::Done(())));
        };
        let until = self.synced_at(workload, side) + within;
        self.world.clock.sleep_until(until.min(self.asking.stop_at)).await;
        let progress = match until <= self.now() {
            true => Progress::Done(()),
            false => Progress::UnderWay("its pods may still hold their mounted copy".to_owned()),
        };
        (workload, Ok(progress))
    }

    /// Since when what this workload reads is this side's view.
    fn synced_at(&self, workload: &Workload, side: Side) -> Timestamp {
        let synced_at = self.record.wait(&workload.to_string()).map(|wait| wait.synced_at);
        synced_at.or_else(|| self.answered_at(side)).unwrap_or_else(|| self.now())
    }

    /// What changed under a leg since it was published and synced: a pod may have started on it.
    async fn what_does_not_stand(&self, side: Side) -> Result<Standing, Error> {
        let workloads = self.workloads(side).into_iter();
        let copied: Vec<_> = workloads.filter(|it| it.copy.is_some()).collect();
        let parameters: Vec<_> = self.intended(side).into_keys().collect();
        let clusters = &self.world.clusters;
        let secrets = join_all(copied.iter().map(|it| clusters.secret_revision(it, &parameters)));
        let (changed, secrets) = tokio::join!(self.publication_that_changed(side), secrets);
        if let Some(place) = changed? {
            return Ok(Standing::Changed(place));
        }
        let mut standing = Standing::Stands;
        for (workload, revision) in copied.into_iter().zip(secrets) {
            let synced: Option<&SecretRevision> =
                self.record.wait(&workload.to_string()).and_then(|wait| wait.secret.as_ref());
            match revision {
                Ok(revision) if revision.as_ref() == synced => {}
                Ok(_) => return Ok(Standing::Changed(format!("the Secret of {workload}"))),
                Err(error) => standing = Standing::Unknown(away(workload, error)?),
            }
        }
        Ok(standing)
    }

    /// A place of this side that no longer holds what was written to it.
    async fn publication_that_changed(&self, side: Side) -> Result<Option<String>, Error> {
        for (publication, holding) in self.holdings(side).await {
            let place = publication.place.to_string();
            let stands = match (holding?, self.record.seen(&place)) {
                (Some(holding), Some(seen)) => {
                    holding.store_version == seen.store_version
                        && holding.value.digest() == seen.sha256
                }
                _ => false,
            };
            if !stands {
                return Ok(Some(place));
            }
        }
        Ok(None)
    }

    async fn repeat(&mut self, side: Side, changed: String) -> Result<Option<UnderWay>, Stop> {
        let enough = self.record.has_repeated_enough();
        self.apply(Change::Repeat)?;
        if !enough {
            self.warnings.push(format!("{changed} was changed meanwhile, and is published again"));
            return Ok(None);
        }
        let mut editors = Vec::new();
        for workload in self.workloads(side) {
            match self.world.clusters.editors(workload).await {
                Ok(of_workload) => editors.extend(of_workload),
                Err(error) => drop(away(workload, error)?),
            }
        }
        editors.dedup();
        let editors = match editors.as_slice() {
            [] => String::new(),
            editors => format!("; its field managers are {}", editors.join(", ")),
        };
        Ok(Some(UnderWay::Held(Held::new(
            changed,
            format!("somebody keeps changing what was published{editors}"),
            "stop whatever else writes to it, then rotate again: the same version goes on",
        ))))
    }

    /// What copies of a side's view are to hold.
    async fn copied_view(&mut self, side: Side) -> Result<CopiedView, Error> {
        let audience = self.spec.side(side);
        // Values are opened for a Secret that is written, and for nothing else.
        let is_written = audience.workloads.iter().any(|it| it.written_key().is_some());
        let value = match audience.written_form().filter(|_| is_written) {
            Some(form) => Some(self.content(side).await?.bytes(form)),
            None => None,
        };
        Ok(CopiedView { stamp: self.stamp(side), intended: self.intended(side), value })
    }

    /// The revision of a side's view, as workloads and Secrets bear it.
    pub(crate) fn stamp(&self, side: Side) -> Stamp {
        let revision = self.record.view(side);
        Stamp { side, token: self.record.token().clone(), revision }
    }

    fn intended(&self, side: Side) -> BTreeMap<ParameterName, Digest> {
        let publications = &self.spec.side(side).publications;
        publications
            .iter()
            .filter_map(|publication| match &publication.place {
                Place::Parameter(name) => {
                    let seen = self.record.seen(&publication.place.to_string())?;
                    Some((name.clone(), seen.sha256))
                }
                Place::Item { .. } => None,
            })
            .collect()
    }

    /// When the last write of this side's view was answered.
    fn answered_at(&self, side: Side) -> Option<Timestamp> {
        let publications = &self.spec.side(side).publications;
        publications
            .iter()
            .filter_map(|it| Some(self.record.seen(&it.place.to_string())?.answered_at))
            .max()
    }

    /// Until when a wait of this step is believed to end well. What was held gets a new chance on
    /// every turn.
    fn give_up_at(&self, owed: Owed) -> Timestamp {
        let since = if self.record.held().is_some() { self.now() } else { owed.since };
        since + self.spec.rollout_timeout
    }

    fn time_until(&self, give_up_at: Timestamp) -> Duration {
        self.world.clock.until(give_up_at.min(self.asking.stop_at))
    }

    fn waiting(
        &self,
        owed: Owed,
        under_way: Vec<(String, String)>,
        give_up_at: Timestamp,
    ) -> Option<UnderWay> {
        let (object, awaited) = under_way.into_iter().next()?;
        if self.now() < give_up_at {
            return Some(UnderWay::Waiting(format!("{object}: {awaited}")));
        }
        let timeout = humantime::format_duration(self.spec.rollout_timeout);
        Some(UnderWay::Held(Held::new(
            object,
            format!("{} not done within {timeout}: {awaited}", owed.step.as_str()),
            "see why the cluster does not follow; the rotation goes on by itself once it does",
        )))
    }

    /// The first of what is in the way; what else is, or is not done, is told beside it.
    fn first(&mut self, stuck: Vec<Held>, under_way: &[(String, String)]) -> Option<Held> {
        let mut stuck = stuck.into_iter();
        let first = stuck.next()?;
        let others = stuck.filter(|other| *other != first);
        let others = others.map(|other| format!("{}: {}", other.object, other.reason));
        let under_way = under_way.iter().map(|(object, awaited)| format!("{object}: {awaited}"));
        self.warnings.extend(others.chain(under_way));
        Some(first)
    }

    /// The first publication comes before the objects that copy it may exist.
    fn passes_over_absent(&self, owed: Owed) -> bool {
        owed.leg <= Leg::Migrate
            && self.record.rotation().is_some_and(|it| it.purpose == Purpose::Publish)
    }
}

/// Whether what was published and synced is still so.
enum Standing {
    Stands,
    /// What is not.
    Changed(String),
    /// Somebody cannot be asked.
    Unknown(Held),
}

/// What copies of a view are to hold.
struct CopiedView {
    stamp: Stamp,
    /// Those of parameters: the digest of the bytes that each parameter was given.
    intended: BTreeMap<ParameterName, Digest>,
    /// Those that are written: these bytes. `None` where there is none of them.
    value: Option<Secret>,
}

/// What a wait for a workload came to.
type Waited<'a, T> = (&'a Workload, Result<T, Error>);

/// Workloads that one watch can see together.
fn by_namespace<'a>(workloads: impl IntoIterator<Item = &'a Workload>) -> Vec<Vec<&'a Workload>> {
    let mut namespaces: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for workload in workloads {
        namespaces.entry((&workload.cluster, &workload.namespace)).or_default().push(workload);
    }
    namespaces.into_values().collect()
}

fn stop(failed: WriteError) -> Stop {
    if failed.overtaken { Stop::Overtaken } else { Stop::Failed(failed.error) }
}
