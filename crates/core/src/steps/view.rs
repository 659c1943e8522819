//! The view of a side: the content for its readers, from the record alone.

use std::collections::BTreeMap;

use changeover_token::{Accepted, AcceptedForm, Content, Digest, Secret};
use jiff::Timestamp;

use crate::{
    error::{Error, Kind},
    ports::Stamp,
    session::Session,
    spec::{ParameterName, Place, Side},
};

/// Returns the view of a side, from the record alone.
pub(crate) async fn view_of(session: &mut Session<'_>, side: Side) -> Result<Content, Error> {
    let plain = side == Side::Verifiers
        && session.spec().verifiers.publications.iter().any(|it| it.form == AcceptedForm::Plain);
    let versions: Vec<_> = match side {
        Side::Verifiers if plain => session.record().versions().to_vec(),
        Side::Verifiers => Vec::new(),
        Side::Presenters => session.record().presented().cloned().into_iter().collect(),
    };
    session.open_values(&versions).await?;
    let token = session.record().token().clone();
    let fence = session.record().view(side);
    Ok(match (side, session.record().presented()) {
        (Side::Presenters, Some(presented)) => Content::Presented {
            token,
            fence,
            version: presented.version,
            value: session.value(presented.version).cloned().expect("it was opened above"),
        },
        // An accepted document is not something that a presenter could send.
        (Side::Presenters, None) => {
            return Err(Error::new(
                Kind::BadRecord,
                "publish the presented token of",
                "its record has no current version",
                "restore the table to a point in time, or the record from a backup",
            )
            .on(session.record().token()));
        }
        (Side::Verifiers, _) => Content::Accepted {
            token,
            fence,
            // Exactly the live versions, newest first.
            entries: session
                .record()
                .versions()
                .iter()
                .map(|version| Accepted {
                    version: version.version,
                    stage: version.stage,
                    sha256: version.sha256,
                    value: session.value(version.version).cloned(),
                    not_after: version.not_after,
                })
                .collect(),
        },
    })
}

/// Returns the fence of a side's view, as workloads and Secrets carry it.
pub(crate) fn stamp_of(session: &Session<'_>, side: Side) -> Stamp {
    Stamp { side, token: session.record().token().clone(), fence: session.record().view(side) }
}

/// Returns what copies of a side's view must hold.
pub(super) async fn copied_view(
    session: &mut Session<'_>,
    side: Side,
) -> Result<CopiedView, Error> {
    let audience = session.spec().side(side);
    // Values are opened for a Secret that is written, and for nothing else.
    let is_written = audience.workloads.iter().any(|it| it.written_key().is_some());
    let value = match audience.written_form().filter(|_| is_written) {
        Some(form) => Some(view_of(session, side).await?.bytes(form)),
        None => None,
    };
    Ok(CopiedView {
        stamp: stamp_of(session, side),
        intended: intended_digests(session, side),
        value,
    })
}

pub(super) fn intended_digests(
    session: &Session<'_>,
    side: Side,
) -> BTreeMap<ParameterName, Digest> {
    let publications = &session.spec().side(side).publications;
    publications
        .iter()
        .filter_map(|publication| match &publication.place {
            Place::Parameter(name) => {
                let seen = session.record().seen(&publication.place.to_string())?;
                Some((name.clone(), seen.sha256))
            }
            Place::Item { .. } => None,
        })
        .collect()
}

/// The time at which the last write of this side's view was answered.
pub(super) fn answered_at(session: &Session<'_>, side: Side) -> Option<Timestamp> {
    let publications = &session.spec().side(side).publications;
    publications
        .iter()
        .filter_map(|it| Some(session.record().seen(&it.place.to_string())?.answered_at))
        .max()
}

/// Content that copies of a view must hold.
pub(super) struct CopiedView {
    pub(super) stamp: Stamp,
    /// For copies of parameters: the digest of the bytes that each parameter was given.
    pub(super) intended: BTreeMap<ParameterName, Digest>,
    /// For Secrets that are written: these bytes. `None` if there are no such Secrets.
    pub(super) value: Option<Secret>,
}
