//! The view of a side: what its readers are to get, from the record alone.

use std::collections::BTreeMap;

use changeover_token::{Accepted, AcceptedForm, Content, Digest, Secret};
use futures::future::join_all;
use jiff::Timestamp;

use crate::{
    error::{Error, Kind},
    ports::Stamp,
    spec::{ParameterName, Place, Side},
    turn::Turn,
};

impl Turn<'_> {
    /// The view of a side, from the record alone.
    pub(crate) async fn content(&mut self, side: Side) -> Result<Content, Error> {
        let plain = side == Side::Verifiers
            && self.spec.verifiers.publications.iter().any(|it| it.form == AcceptedForm::Plain);
        let versions: Vec<_> = match side {
            Side::Verifiers if plain => self.record.versions().to_vec(),
            Side::Verifiers => Vec::new(),
            Side::Presenters => self.record.presented().cloned().into_iter().collect(),
        };
        let sealed = versions.iter().filter(|it| !self.values.contains_key(&it.version));
        let sealed: Vec<_> = sealed.collect();
        let (token, records) = (self.record.token(), &self.world.records);
        let opened = sealed.iter().map(|it| records.open(token, it.version, &it.sealed));
        let opened = sealed.iter().map(|it| it.version).zip(join_all(opened).await);
        let opened: Vec<_> =
            opened.map(|(version, value)| Ok((version, value?))).collect::<Result<_, Error>>()?;
        self.values.extend(opened);
        let token = self.record.token().clone();
        let fence = self.record.view(side);
        Ok(match (side, self.record.presented()) {
            (Side::Presenters, Some(presented)) => Content::Presented {
                token,
                fence,
                version: presented.version,
                value: self.values[&presented.version].clone(),
            },
            // An accepted document is nothing that a presenter could send.
            (Side::Presenters, None) => {
                return Err(Error::new(
                    Kind::BadRecord,
                    "publish the presented token of",
                    "its record has no current version",
                    "restore the table to a point in time, or the record from a backup",
                )
                .on(self.record.token()));
            }
            (Side::Verifiers, _) => Content::Accepted {
                token,
                fence,
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

    /// The fence of a side's view, as workloads and Secrets carry it.
    pub(crate) fn stamp(&self, side: Side) -> Stamp {
        Stamp { side, token: self.record.token().clone(), fence: self.record.view(side) }
    }

    /// What copies of a side's view are to hold.
    pub(super) async fn copied_view(&mut self, side: Side) -> Result<CopiedView, Error> {
        let audience = self.spec.side(side);
        // Values are opened for a Secret that is written, and for nothing else.
        let is_written = audience.workloads.iter().any(|it| it.written_key().is_some());
        let value = match audience.written_form().filter(|_| is_written) {
            Some(form) => Some(self.content(side).await?.bytes(form)),
            None => None,
        };
        Ok(CopiedView { stamp: self.stamp(side), intended: self.intended(side), value })
    }

    pub(super) fn intended(&self, side: Side) -> BTreeMap<ParameterName, Digest> {
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
    pub(super) fn answered_at(&self, side: Side) -> Option<Timestamp> {
        let publications = &self.spec.side(side).publications;
        publications
            .iter()
            .filter_map(|it| Some(self.record.seen(&it.place.to_string())?.answered_at))
            .max()
    }
}

/// What copies of a view are to hold.
pub(super) struct CopiedView {
    pub(super) stamp: Stamp,
    /// Those of parameters: the digest of the bytes that each parameter was given.
    pub(super) intended: BTreeMap<ParameterName, Digest>,
    /// Those that are written: these bytes. `None` where there is none of them.
    pub(super) value: Option<Secret>,
}
