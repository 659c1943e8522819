//! Verification that what was published and synced is unchanged, and the reaction of a leg if it is not.

use changeover_token::Fence;
use futures::future::join_all;

use super::{ahead::continue_above, view::intended_digests};
use crate::{
    error::Error,
    observe::cluster_unavailable,
    record::{Held, SecretRevision, Transition},
    session::{Session, Stop, UnderWay},
    spec::Side,
};

/// State of what a leg published and synced.
pub(super) enum Verification {
    /// Everything holds it still.
    Unchanged,
    /// This has changed.
    Changed(Changed),
    /// A cluster cannot be read.
    Unreadable(Held),
}

/// Object that no longer holds what was published.
pub(super) struct Changed {
    object: String,
    /// The later fence that it carries now, if it does.
    ahead: Option<Fence>,
}

/// Detects changes under a leg since its view was published and synced: a pod may have started on one.
pub(super) async fn verify_still_published(
    session: &Session<'_>,
    side: Side,
) -> Result<Verification, Error> {
    let workloads = session.workloads(side).into_iter();
    let copied: Vec<_> = workloads.filter(|it| it.copy.is_some()).collect();
    let parameters: Vec<_> = intended_digests(session, side).into_keys().collect();
    let copies = &session.ports().copies;
    let secrets = join_all(copied.iter().map(|it| copies.secret_revision(it, &parameters)));
    let (changed, secrets) = tokio::join!(changed_publication(session, side), secrets);
    if let Some(changed) = changed? {
        return Ok(Verification::Changed(changed));
    }
    let mut verification = Verification::Unchanged;
    for (workload, revision) in copied.into_iter().zip(secrets) {
        let synced: Option<&SecretRevision> =
            session.record().wait(&workload.to_string()).and_then(|wait| wait.secret.as_ref());
        match revision {
            Ok(revision) if revision.as_ref() == synced => {}
            Ok(_) => {
                let object = format!("the Secret of {workload}");
                return Ok(Verification::Changed(Changed { object, ahead: None }));
            }
            Err(error) => {
                verification = Verification::Unreadable(cluster_unavailable(workload, error)?)
            }
        }
    }
    Ok(verification)
}

/// Returns a place of this side that no longer holds what was written to it.
pub(super) async fn changed_publication(
    session: &Session<'_>,
    side: Side,
) -> Result<Option<Changed>, Error> {
    let mut changed = None;
    for (publication, holding) in session.stored_values(side).await {
        let object = publication.place.to_string();
        let holding = holding?;
        let stands = match (&holding, session.record().seen(&object)) {
            (Some(holding), Some(seen)) => {
                holding.store_version == seen.store_version
                    && holding.fence.is_none_or(|fence| fence == seen.fence())
                    && holding.value.digest() == seen.sha256
            }
            _ => false,
        };
        if !stands {
            let found = holding.and_then(|holding| holding.fence_of(side));
            let ahead = found.filter(|found| *found > session.record().view(side));
            // A later fence comes first: only a record writes one.
            changed = match (changed, ahead) {
                (Some(first), None) => Some(first),
                _ => Some(Changed { object, ahead }),
            };
        }
    }
    Ok(changed)
}

pub(super) async fn publish_again(
    session: &mut Session<'_>,
    side: Side,
    changed: Changed,
) -> Result<Option<UnderWay>, Stop> {
    let Changed { object: changed, ahead } = changed;
    if let Some(found) = ahead {
        return continue_above(session, side, vec![(changed, found)]).await;
    }
    let enough = session.record().has_repeated_enough();
    session.apply(Transition::Repeat)?;
    if !enough {
        session.warn(format!("{changed} was changed meanwhile, and is published again"));
        return Ok(None);
    }
    let mut editors = Vec::new();
    for workload in session.workloads(side) {
        match session.ports().copies.editors(workload).await {
            Ok(of_workload) => editors.extend(of_workload),
            Err(error) => drop(cluster_unavailable(workload, error)?),
        }
    }
    editors.dedup();
    let editors = match editors.as_slice() {
        [] => String::new(),
        editors => format!("; its field managers are {}", editors.join(", ")),
    };
    Ok(Some(UnderWay::Held(Held::new(
        changed,
        format!("another writer keeps changing what was published{editors}"),
        "stop whatever else writes to it, then rotate again: the same version continues",
    ))))
}
