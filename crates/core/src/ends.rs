//! The ends of versions of a token whose spec is gone or cannot be read.
//!
//! A rotation needs the spec, and cannot continue without it. The end of a version that presenters have
//! left does not need it: the record says where accepted documents were written last.

use changeover_token::Generation;
use futures::future::join_all;
use jiff::Timestamp;
use tracing::info;

use crate::{
    drift::form_of,
    error::{Error, Kind},
    ports::Ports,
    record::{Leg, Loaded, Record, Step},
    session::{Asking, Session, Settings, Stop},
    spec::{OnDrift, Place, Publication, Side, SideSpec, Source, Spec, SpecId},
    steps::resume,
};

/// Resumes what a record owes to verifiers after a rotation, as far as that needs no spec. `because` is the
/// reason that there is none.
///
/// # Errors
/// Those of the step that failed. It is saved as held.
pub(crate) async fn without_spec(
    ports: &Ports,
    settings: &Settings,
    asking: &Asking<'_>,
    record: &Record,
    because: Kind,
) -> Result<(), Error> {
    if !needs_no_spec(record, because, ports.clock.now()) {
        return Ok(());
    }
    let spec = spec_of(ports, record).await?;
    info!(token = %record.token(), "versions end without a spec");
    let loaded = Loaded { record: Some(record.clone()), ..Loaded::default() };
    let mut session = Session::new(ports, settings, &spec, asking, loaded, None)?;
    match resume(&mut session).await {
        Ok(_) | Err(Stop::Overtaken) => Ok(()),
        Err(Stop::Failed(error)) => Err(error),
    }
}

/// True if what is owed now concerns verifiers only, after a rotation. A spec that could not be read this
/// time exists, and is read again.
fn needs_no_spec(record: &Record, because: Kind, now: Timestamp) -> bool {
    if !matches!(because, Kind::UnknownToken | Kind::BadSpec) {
        return false;
    }
    let is_due = record.due_at().is_some_and(|due_at| due_at <= now);
    if !is_due || record.rotation().is_some() || record.is_active(now) {
        return false;
    }
    let Some(owed) = record.owed() else { return false };
    match (owed.leg, owed.step) {
        // A broken spec will be corrected, and names the workloads to restart: for the overlap, and because
        // of a late write. A spec that is gone no longer names them.
        (_, Step::Retire) => {
            record.next_end().is_some_and(|end| end <= now)
                && (because == Kind::UnknownToken || !record.is_late_write_uncompared())
        }
        (Leg::Contract, _) => true,
        _ => because == Kind::UnknownToken,
    }
}

/// Returns a spec that names the verifiers' publications only: the places that still hold an accepted
/// document of this token.
///
/// # Errors
/// If one of these places cannot be read: a version leaves all of them or none.
async fn spec_of(ports: &Ports, record: &Record) -> Result<Spec, Error> {
    let places = record.published().filter_map(|(place, seen)| Some((place.parse().ok()?, seen)));
    let places: Vec<(Place, _)> = places.collect();
    let reads = places.iter().map(|(place, _)| ports.publications.read(place, Side::Verifiers));
    let reads = join_all(reads).await;
    let mut publications = Vec::new();
    for ((place, seen), read) in places.into_iter().zip(reads) {
        let Some(holding) = read? else { continue };
        // A place that left the spec earlier may belong to another token now.
        let is_ours =
            holding.value.digest() == seen.sha256 || holding.token.as_ref() == Some(record.token());
        if let Some(form) = form_of(&holding.value).filter(|_| is_ours) {
            publications.push(Publication { place, key: None, form });
        }
    }
    let generation = Generation::new(*Generation::BYTES.start(), None).ok_or_else(|| {
        let because = "the fewest bytes of a token are too few";
        Error::new(Kind::Internal, "end versions of", because, "report it").on(record.token())
    })?;
    Ok(Spec {
        token: record.token().clone(),
        id: match record.spec() {
            Some(spec) => spec.clone(),
            None => SpecId::of(record.spec_version(), ""),
        },
        source: Source::Generated,
        generation,
        overlap: std::time::Duration::ZERO,
        verifiers: SideSpec { publications, ..SideSpec::default() },
        presenters: SideSpec::default(),
        rollout_timeout: std::time::Duration::ZERO,
        on_drift: OnDrift::Refuse,
    })
}
