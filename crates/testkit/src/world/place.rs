//! Places that readers read: parameters with versions and labels, items with attributes.
//!
//! Every place remembers what it held and until when, because a reader with a cache may still hold it.

use std::{collections::BTreeMap, time::Duration};

use changeover_core::{
    ports::{StoredValue, Written},
    spec::{Place, Publication, Side},
};
use changeover_token::{Content, Digest, Fence, Secret, TokenName, VersionNumber};

use super::state::State;
use jiff::Timestamp;

/// The current content of a place, and its earlier content.
#[derive(Default)]
pub struct Stored {
    /// The views that each side could read, oldest first.
    views: BTreeMap<Side, Vec<View>>,
    /// Parameter: its last version.
    last_version: u64,
    /// Parameter: the last hundred values, by version.
    values: BTreeMap<u64, String>,
    /// Parameter: the key that it is encrypted with.
    key: Option<String>,
    /// Parameter: the version that each label is on.
    labels: BTreeMap<String, u64>,
    /// Parameter: the values that a reader by the label `current` could read, oldest first.
    labelled: Vec<View>,
    /// Item: the token that owns it.
    owner: Option<TokenName>,
    /// Item: the version of the presented token.
    version: Option<VersionNumber>,
}

/// A value that a reader could read from a time on.
#[derive(Clone)]
struct View {
    since: Timestamp,
    /// Item: the fence of the view.
    fence: Fence,
    value: String,
}

impl Stored {
    /// The value that a side can read now.
    pub(super) fn value(&self, side: Side) -> Option<&str> {
        self.views.get(&side)?.last().map(|view| view.value.as_str())
    }

    /// All values that a reader may hold at `now` if it reads at least once `within`.
    pub(super) fn readable(&self, side: Side, within: Duration, now: Timestamp) -> Vec<&str> {
        let views = self.views.get(&side).map_or(&[][..], Vec::as_slice);
        let labelled = if side == Side::Presenters { &self.labelled[..] } else { &[] };
        [views, labelled].into_iter().flat_map(|views| held(views, within, now)).collect()
    }

    /// The values that the labels point at.
    pub fn labels(&self) -> BTreeMap<&str, Option<&str>> {
        let value = |version| self.values.get(version).map(String::as_str);
        self.labels.iter().map(|(label, version)| (label.as_str(), value(version))).collect()
    }

    fn put(&mut self, side: Side, fence: Fence, value: String, now: Timestamp) {
        self.views.entry(side).or_default().push(View { since: now, fence, value });
    }
}

/// The last of these views, and the earlier ones that were the last one less than `within` ago.
fn held(views: &[View], within: Duration, now: Timestamp) -> impl Iterator<Item = &str> {
    let replaced = views.iter().skip(1).map(|next| Some(next.since)).chain([None]);
    views
        .iter()
        .zip(replaced)
        .filter(move |(_, replaced)| replaced.is_none_or(|at| at + within > now))
        .map(|(view, _)| view.value.as_str())
}

/// The reason why a write was not applied.
pub enum Refused {
    /// The place carries this later fence.
    Ahead(Fence),
    /// The item is another token's: its owner, and the token that was to be written.
    Another(TokenName, TokenName),
    /// The parameter has no such version.
    Gone,
    Broken(&'static str),
}

impl State {
    /// The view of a side at a place.
    pub(super) fn holding(&self, place: &Place, side: Side) -> Option<StoredValue> {
        let stored = self.places.get(place)?;
        let view = stored.views.get(&side)?.last()?;
        Some(StoredValue {
            value: Secret::verbatim(view.value.clone()),
            store_version: match place {
                Place::Parameter(_) => stored.last_version,
                Place::Item { .. } => view.fence.revision,
            },
            fence: (!matches!(place, Place::Parameter(_))).then_some(view.fence),
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
        let fence = content.fence();
        let now = self.now;
        let stored = self.places.entry(publication.place.clone()).or_default();
        // Only an item is fenced and owned. A parameter takes every write as its next version.
        let written = match &publication.place {
            Place::Item { .. } => {
                if let Some(owner) = stored.owner.as_ref().filter(|owner| *owner != token) {
                    return Err(Refused::Another(owner.clone(), token.clone()));
                }
                let last = stored.views.get_mut(&side).and_then(|views| views.last_mut());
                let last = last.map(|view| {
                    if self.rivalled.as_ref() == Some(&publication.place) {
                        view.fence = Fence { revision: fence.revision + 1_000, ..fence };
                    }
                    &*view
                });
                if let Some(later) = last.map(|view| view.fence).filter(|last| *last > fence) {
                    return Err(Refused::Ahead(later));
                }
                stored.owner = Some(token.clone());
                if let Content::Presented { version, .. } = content {
                    stored.version = Some(*version);
                }
                stored.put(side, fence, bytes, now);
                Written { store_version: fence.revision, key: None, unanswered: false }
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
        // Pods that could not start without this view start now.
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
        if let Place::Parameter(_) = place {
            let stored = self.places.get_mut(place).ok_or(Refused::Gone)?;
            let Some(value) = stored.values.get(&version).cloned() else {
                return Err(Refused::Gone);
            };
            stored.labels.insert(label.to_owned(), version);
            if label == "current" {
                stored.labelled.push(View { since: now, fence: Fence::bare(version), value });
            }
        }
        Ok(Written { store_version: version, key: None, unanswered: false })
    }

    /// The version of a parameter that a label is on.
    pub(super) fn labelled(&self, place: &Place, label: &str) -> Option<u64> {
        self.places.get(place)?.labels.get(label).copied()
    }

    /// Marks an item as written by another record of the token.
    pub(super) fn mark_item(&mut self, place: &Place, side: Side, fence: Fence) {
        let stored = self.places.get_mut(place).expect("an item of a spec");
        let views = stored.views.get_mut(&side).expect("a view");
        views.last_mut().expect("a view").fence = fence;
        self.happened(&format!("another record marks {place} with {fence}"));
    }

    /// Deletes a parameter with its versions and labels, as an operator does.
    pub(super) fn delete_parameter(&mut self, place: &Place) {
        self.places.remove(place);
        self.happened(&format!("{place} is deleted"));
    }

    /// Writes a value by hand.
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
                let last = views.and_then(|views| views.last());
                let fence = last.map_or(Fence::default(), |view| view.fence);
                stored.put(side, fence, value.to_owned(), now);
            }
        }
        self.happened(&format!("somebody edits {place}"));
    }

    /// Checks a view that readers can receive from now on: its content must be what a saved record decided
    /// for its fence.
    fn published(&mut self, content: &Content) {
        let broken = match content {
            Content::Presented { token, fence, version, value } => {
                let saved = self.records.presented_at(token, *fence);
                (saved != Some((*version, value.digest()))).then(|| {
                    format!(
                        "version {version} was presented as {fence}, \
                         and no saved record says so"
                    )
                })
            }
            Content::Accepted { token, fence, entries } => {
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
                let saved = self.records.accepted_at(token, *fence);
                (saved != Some(&entries) || wrong_value).then(|| {
                    format!(
                        "{entries:?} was published as accepted at {fence}, \
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
    /// Removes the life from everything that it holds.
    pub(super) fn downgrade(&mut self) {
        for (side, views) in &mut self.views {
            for view in views {
                view.fence.life = None;
                if *side == Side::Verifiers {
                    view.value = without_a_fence(&view.value);
                }
            }
        }
        if self.views.contains_key(&Side::Verifiers) {
            self.values.values_mut().for_each(|value| *value = without_a_fence(value));
        }
    }

    /// Adds a version of a parameter. The hundred and first version pushes out the oldest one.
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
        self.put(side, Fence::bare(self.last_version), value, now);
        Ok(self.last_version)
    }
}

/// A document of changeover as versions without lives wrote it, or any other text unchanged.
pub(super) fn without_a_fence(value: &str) -> String {
    value
        .split_once(r#","life":"#)
        .map_or_else(|| value.to_owned(), |(before, _)| format!("{before}}}"))
}

/// The most by which a verifier's clock may be ahead.
pub(super) const SKEW: Duration = Duration::from_millis(500);
const MOST_VERSIONS: usize = 100;
const DEFAULT_KEY: &str = "alias/publications";

/// SHA-256 of a bare token, as accepted documents spell it.
pub(super) fn digest_of(value: &str) -> String {
    Digest::of(value).to_string()
}
