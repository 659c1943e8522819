//! The invariant that holds at any time: every verifier accepts every token that any presenter presents.

use std::collections::BTreeSet;

use changeover_core::{
    record::{Leg, Record},
    spec::{Place, Side, SideSpec, Spec},
};
use changeover_token::TokenName;

use super::{
    LEASE,
    place::{SKEW, digest_of},
    state::State,
};
use jiff::Timestamp;
use serde::Deserialize;

/// The accepted view, as a verifier reads it.
#[derive(Deserialize)]
struct Document {
    accepted: Vec<ReadEntry>,
}

#[derive(Deserialize)]
struct ReadEntry {
    sha256: Option<String>,
    token: Option<String>,
    not_after: Option<Timestamp>,
}

/// A verifier, and the document that it goes by, or `None` before its first view.
type Verifier<'a> = (String, Option<&'a str>);

impl State {
    /// Checks all tokens, or, if there are too many, the next few of them. Fails with the violated
    /// invariant.
    pub(super) fn check(&mut self) -> Result<(), String> {
        let next = self.specs.values().cycle().skip(self.looked_at);
        let few = self.specs.len().min(CROWD);
        next.take(few).try_for_each(|(_, spec)| self.check_token(spec))?;
        self.looked_at = (self.looked_at + few) % self.specs.len().max(1);
        Ok(())
    }

    /// Every value that a presenter of a token holds.
    pub(super) fn presented(&self, spec: &Spec) -> BTreeSet<(String, &str)> {
        let mut presented = self.read_by_readers(spec, Side::Presenters);
        presented.extend(self.held_by_pods(spec, Side::Presenters));
        presented
    }

    /// Every document that a verifier of a token holds.
    pub(super) fn accepted(&self, spec: &Spec) -> BTreeSet<(String, &str)> {
        let mut accepted = self.read_by_readers(spec, Side::Verifiers);
        accepted.extend(self.held_by_pods(spec, Side::Verifiers));
        accepted
    }

    /// Checks that a write to a store that cannot fence begins only while a lease outlasts it.
    pub(super) fn begin_unfenced(&mut self, token: &TokenName, place: &Place) {
        let record = self.records.record(token);
        let until = record.and_then(|record| record.lease().map(|lease| lease.until));
        if until.is_none_or(|until| until < self.now + LEASE / 2) {
            self.violated(&format!("a write to {place} begins, and the lease ends: {until:?}"));
        }
    }

    fn check_token(&self, spec: &Spec) -> Result<(), String> {
        let verifiers = self.verifiers(spec);
        for (presenter, value) in self.presented(spec) {
            let digest = digest_of(value);
            for (verifier, document) in &verifiers {
                let refusal = match document {
                    None => (!self.legacy.contains(&digest)).then(|| "nothing yet".to_owned()),
                    Some(document) => self.refusal(&digest, document)?,
                };
                if let Some(accepts) =
                    refusal.filter(|_| !self.is_not_yet_ours(&spec.token, &digest))
                {
                    let version = self.name(&spec.token, &digest);
                    return Err(format!(
                        "{presenter} presents {version} of {}, and {verifier} accepts {accepts}",
                        spec.token
                    ));
                }
            }
        }
        Ok(())
    }

    /// True if this value was written by hand and verifiers need not accept it yet: it is no version, or
    /// its own rotation is still bringing it to them.
    fn is_not_yet_ours(&self, token: &TokenName, digest: &str) -> bool {
        if !self.by_hand.contains(digest) {
            return false;
        }
        let Some(version) = self.records.version_of(token, digest) else { return true };
        let record = self.records.record(token);
        let leg = record.as_ref().and_then(Record::owed).map(|owed| owed.leg);
        let brings = record.as_ref().and_then(Record::rotation).map(|rotation| rotation.version);
        (leg, brings) == (Some(Leg::Expand), Some(version))
    }

    fn verifiers<'a>(&'a self, spec: &'a Spec) -> Vec<Verifier<'a>> {
        let held = self.accepted(spec).into_iter().map(|(who, held)| (who, Some(held)));
        let without = dynamic(&spec.verifiers).filter_map(|place| {
            let has_view =
                self.places.get(place).is_some_and(|it| it.value(Side::Verifiers).is_some());
            (!has_view && !self.joining.contains(place))
                .then(|| (format!("a verifier that reads {place}"), None))
        });
        held.chain(without).collect()
    }

    fn read_by_readers(&self, spec: &Spec, side: Side) -> BTreeSet<(String, &str)> {
        let audience = spec.side(side);
        let within = audience.within.unwrap_or_default();
        dynamic(audience)
            .filter_map(|place| Some((place, self.places.get(place)?)))
            .flat_map(|(place, stored)| {
                let values = stored.readable(side, within, self.now);
                values.into_iter().map(move |it| (format!("a reader of {place}"), it))
            })
            .collect()
    }

    fn held_by_pods(&self, spec: &Spec, side: Side) -> BTreeSet<(String, &str)> {
        self.cluster
            .deployments
            .iter()
            .filter(|(name, _)| {
                let cluster = name.split('/').next().unwrap_or_default();
                !self.cluster.given_up.contains(cluster)
            })
            .flat_map(|(name, deployment)| {
                let held = deployment.held(self, &spec.token, side);
                held.into_iter().map(move |it| (format!("a pod of {name}"), it))
            })
            .collect()
    }

    /// The words for what a verifier accepts if it refuses this token, or `None` if it accepts the token.
    fn refusal(&self, digest: &str, document: &str) -> Result<Option<String>, String> {
        let document: Document = serde_json::from_str(document)
            .map_err(|error| format!("a verifier cannot read what it was given: {error}"))?;
        let mut accepts = Vec::new();
        for entry in document.accepted {
            let digest_of_entry = entry.sha256.or(entry.token.as_deref().map(digest_of));
            let digest_of_entry =
                digest_of_entry.ok_or("an entry with neither digest nor token")?;
            // The fastest of the verifiers' clocks decides.
            if entry.not_after.is_some_and(|end| end <= self.now + SKEW) {
                continue;
            }
            if digest_of_entry == digest {
                return Ok(None);
            }
            accepts.push(digest_of_entry);
        }
        Ok(Some(format!("{} others", accepts.len())))
    }

    fn name(&self, token: &TokenName, digest: &str) -> String {
        match self.records.version_of(token, digest) {
            Some(version) => format!("version {version}"),
            None => "a value of nobody's".to_owned(),
        }
    }
}

/// The number of tokens that are checked after each effect.
const CROWD: usize = 8;

/// The places of a side that readers read without a restart.
fn dynamic(audience: &SideSpec) -> impl Iterator<Item = &Place> {
    let places = audience.publications.iter().map(|publication| &publication.place);
    places.filter(|_| audience.within.is_some())
}
