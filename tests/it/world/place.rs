//! Places that readers read: parameters with versions and labels, items with attributes.
//!
//! Every place remembers what it held and until when, since a reader with a cache may still hold it.

use std::{collections::BTreeMap, time::Duration};

use changeover::{
    spec::{Place, Publication, Side},
    token::{Digest, Secret, TokenName, VersionNumber},
    world::{Content, Holding, Written},
};
use jiff::Timestamp;

use super::state::State;

/// What a place holds and held.
#[derive(Default)]
pub(crate) struct Stored {
    /// What each side can read, oldest first.
    views: BTreeMap<Side, Vec<View>>,
    /// Parameter: its last version.
    last_version: u64,
    /// Parameter: the last hundred values, by version.
    values: BTreeMap<u64, String>,
    /// Parameter: what it is encrypted with.
    key: Option<String>,
    /// Parameter: which version has which label.
    labels: BTreeMap<String, u64>,
    /// Parameter: what a reader by the label `current` reads, oldest first.
    labelled: Vec<View>,
    /// Item: whose it is.
    owner: Option<TokenName>,
    /// Item: the version of the presented token.
    version: Option<VersionNumber>,
}

/// What a reader could read from a time on.
#[derive(Clone)]
struct View {
    since: Timestamp,
    /// Item: the revision of the view.
    revision: u64,
    value: String,
}

impl Stored {
    /// What it holds now.
    pub(super) fn value(&self, side: Side) -> Option<&str> {
        self.views.get(&side)?.last().map(|view| view.value.as_str())
    }

    /// Everything that a reader may hold at `now` that reads at least once `within`.
    pub(super) fn readable(&self, side: Side, within: Duration, now: Timestamp) -> Vec<&str> {
        let views = self.views.get(&side).map_or(&[][..], Vec::as_slice);
        let labelled = if side == Side::Presenters { &self.labelled[..] } else { &[] };
        [views, labelled].into_iter().flat_map(|views| held(views, within, now)).collect()
    }

    /// What the labels point at.
    pub(crate) fn labels(&self) -> BTreeMap<&str, Option<&str>> {
        let value = |version| self.values.get(version).map(String::as_str);
        self.labels.iter().map(|(label, version)| (label.as_str(), value(version))).collect()
    }

    fn put(&mut self, side: Side, revision: u64, value: String, now: Timestamp) {
        self.views.entry(side).or_default().push(View { since: now, revision, value });
    }
}

/// The last of these views, and those before it that were the last less than `within` ago.
fn held(views: &[View], within: Duration, now: Timestamp) -> impl Iterator<Item = &str> {
    let replaced = views.iter().skip(1).map(|next| Some(next.since)).chain([None]);
    views
        .iter()
        .zip(replaced)
        .filter(move |(_, replaced)| replaced.is_none_or(|at| at + within > now))
        .map(|(view, _)| view.value.as_str())
}

/// Why a write was not applied.
pub(crate) enum Refused {
    Overtaken,
    Broken(&'static str),
}

impl State {
    /// What a side reads at a place.
    pub(super) fn holding(&self, place: &Place, side: Side) -> Option<Holding> {
        let stored = self.places.get(place)?;
        let view = stored.views.get(&side)?.last()?;
        Some(Holding {
            value: Secret::verbatim(view.value.clone()),
            store_version: match place {
                Place::Parameter(_) => stored.last_version,
                Place::Item { .. } => view.revision,
            },
            token: stored.owner.clone(),
        })
    }

    /// Writes a view, as the store would.
    pub(super) fn publish(
        &mut self,
        publication: &Publication,
        known_key: Option<&str>,
        content: &Content,
    ) -> Result<Written, Refused> {
        let (side, token) = match content {
            Content::Accepted { token, .. } => (Side::Verifiers, token),
            Content::Presented { token, .. } => (Side::Presenters, token),
        };
        let bytes = content.bytes(publication.form).expose().to_owned();
        let revision = content.revision();
        let now = self.now;
        let stored = self.places.entry(publication.place.clone()).or_default();
        let written = match &publication.place {
            Place::Item { .. } => {
                if stored.owner.as_ref().is_some_and(|owner| owner != token) {
                    return Err(Refused::Broken("another token publishes to it"));
                }
                let last = stored.views.get(&side).and_then(|views| views.last());
                if last.is_some_and(|view| view.revision > revision) {
                    return Err(Refused::Overtaken);
                }
                stored.owner = Some(token.clone());
                if let Content::Presented { version, .. } = content {
                    stored.version = Some(*version);
                }
                stored.put(side, revision, bytes, now);
                Written { store_version: revision, key: None, unanswered: false }
            }
            Place::Parameter(_) => {
                let key = publication.key.clone().or_else(|| known_key.map(str::to_owned));
                let key = key.unwrap_or_else(|| stored.key.clone().unwrap_or(DEFAULT_KEY.into()));
                let version = stored.put_parameter(side, bytes, now).map_err(Refused::Broken)?;
                stored.key = Some(key.clone());
                Written { store_version: version, key: Some(key), unanswered: false }
            }
        };
        self.published(content);
        // Pods that could not start without it start now.
        let names: Vec<_> = self.cluster.deployments.keys().cloned().collect();
        names.iter().for_each(|name| self.progress(name));
        Ok(written)
    }

    /// Puts a label on a version of a parameter.
    pub(super) fn put_label(
        &mut self,
        place: &Place,
        label: &'static str,
        version: u64,
    ) -> Result<Written, Refused> {
        let now = self.now;
        if let (Place::Parameter(_), Some(stored)) = (place, self.places.get_mut(place)) {
            let Some(value) = stored.values.get(&version).cloned() else {
                return Err(Refused::Broken("ParameterVersionNotFound"));
            };
            stored.labels.insert(label.to_owned(), version);
            if label == "current" {
                stored.labelled.push(View { since: now, revision: version, value });
            }
        }
        Ok(Written { store_version: version, key: None, unanswered: false })
    }

    /// Somebody writes a value by hand.
    pub(super) fn edit(&mut self, place: &Place, side: Side, value: &str) {
        let now = self.now;
        let stored = self.places.entry(place.clone()).or_default();
        match place {
            Place::Parameter(_) => {
                stored.put_parameter(side, value.to_owned(), now).expect("room for a version");
                stored.key.get_or_insert_with(|| DEFAULT_KEY.into());
            }
            Place::Item { .. } => {
                let views = stored.views.get(&side);
                let revision = views.and_then(|views| views.last()).map_or(0, |view| view.revision);
                stored.put(side, revision, value.to_owned(), now);
            }
        }
        self.happened(&format!("somebody edits {place}"));
    }

    /// What the readers of a place could have been given: each view's bytes must follow from its
    /// revision, and be what a saved record decided.
    fn published(&mut self, content: &Content) {
        let broken = match content {
            Content::Presented { token, revision, version, value } => {
                let saved = self.records.presented_at(token, *revision);
                (saved != Some((*version, value.digest()))).then(|| {
                    format!(
                        "version {version} was presented as revision {revision}, \
                         and no saved record says so"
                    )
                })
            }
            Content::Accepted { token, revision, entries } => {
                let entries: Vec<_> = entries
                    .iter()
                    .map(|entry| (entry.version, entry.stage, entry.sha256, entry.not_after))
                    .collect();
                let wrong_value = match content {
                    Content::Accepted { entries, .. } => entries.iter().any(|entry| {
                        entry.value.as_ref().is_some_and(|value| value.digest() != entry.sha256)
                    }),
                    Content::Presented { .. } => false,
                };
                for (_, _, _, not_after) in &entries {
                    if let Some(not_after) = not_after {
                        let end = *not_after - SKEW;
                        self.at(end.max(self.now), "a verifier's clock ends a version", |_| {});
                    }
                }
                let saved = self.records.accepted_at(token, *revision);
                (saved != Some(&entries) || wrong_value).then(|| {
                    format!(
                        "{entries:?} was published as accepted at revision {revision}, \
                         and the saved records say {saved:?}"
                    )
                })
            }
        };
        if let Some(broken) = broken {
            self.violated(&broken);
        }
    }
}

impl Stored {
    /// A new version of a parameter; the hundred and first pushes out the oldest.
    fn put_parameter(
        &mut self,
        side: Side,
        value: String,
        now: Timestamp,
    ) -> Result<u64, &'static str> {
        if let Some((&oldest, _)) = self.values.first_key_value()
            && self.values.len() == MOST_VERSIONS
        {
            if self.labels.values().any(|&version| version == oldest) {
                return Err("ParameterMaxVersionLimitExceeded");
            }
            self.values.remove(&oldest);
        }
        self.last_version += 1;
        self.values.insert(self.last_version, value.clone());
        self.put(side, self.last_version, value, now);
        Ok(self.last_version)
    }
}

/// How far a verifier's clock may be ahead.
pub(super) const SKEW: Duration = Duration::from_millis(500);
const MOST_VERSIONS: usize = 100;
const DEFAULT_KEY: &str = "alias/publications";

/// SHA-256 of a bare token, as accepted documents say it.
pub(super) fn digest_of(value: &str) -> String {
    Digest::of(value).to_string()
}
