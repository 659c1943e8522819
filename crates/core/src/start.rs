//! The start of a rotation: observe, refuse what could not end well, then mint.
//!
//! A mint is always the same: generate, seal, save. Until the save is applied, the value is unknown outside
//! and a crash loses nothing. Once it is applied, the value is decided, and every effect may run again.

use std::collections::BTreeMap;

use changeover_token::{Content, Digest, Generation, LARGEST_VALUE, Secret, Stage};

use crate::{
    error::{Error, Kind},
    finding::{Finding, Severity},
    inbox::{Received, arrived, refuse_ended, weak_edit},
    observe::observe,
    plan::{Ask, Deferred},
    ports::StoredValue,
    record::{Begin, Imported, Minted, Purpose, Record, RotationId, Transition},
    report::{Outcome, Report},
    session::{Session, Stop},
    spec::{OnDrift, Place, Side, Source},
    steps::view::view_of,
};

/// Result of taking the slot.
pub(crate) enum Started {
    /// The rotation that was requested has the slot.
    Requested,
    /// A rotation that must come before it has the slot.
    Prerequisite,
    /// There is no reason for a rotation.
    NoOp(Box<Report>),
}

/// Takes the slot. Adopts or creates the first version of a token that has none, takes over a value that
/// another writer put there if that is wanted, and mints or imports a pending version for a rotation.
pub(crate) async fn start(session: &mut Session<'_>, purpose: Purpose) -> Result<Started, Stop> {
    let without = &session.without_for(purpose);
    let adopts = adopts(session);
    let mut snapshot =
        observe(session.ports(), session.spec(), session.stored(), adopts, without).await?;
    let first = session.stored().is_none();
    let refused = snapshot.findings.iter().find(|finding| match finding.severity {
        Severity::Refusal => true,
        // Pods cannot start before the Secret exists, nor can the Secret exist before the first
        // publication.
        Severity::Missing => purpose == Purpose::Rotate && snapshot.has_current,
        Severity::Warning => false,
    });
    if let Some(finding) = refused {
        return Err(refusal(session, finding).await?);
    }
    session.warn_all(snapshot.findings.iter().map(|it| format!("{}: {}", it.object, it.reason)));
    session.keep_observed(std::mem::take(&mut snapshot.found), snapshot.highest_life);
    // A value that presenters were given by hand comes before anything that would be published over it.
    if let Some(edited) = edited_value(session, snapshot.edited.take()).await? {
        return take_over(session, edited).await;
    }
    let adopted = snapshot.adopted.filter(|_| first);
    if let Some(bits) = adopted.as_ref().and_then(weak) {
        session.warn(format!(
            "the value that is adopted has at most {bits} bits: a reader of its digest may find it \
             by trying, until its end"
        ));
    }
    let purpose = if snapshot.has_current { purpose } else { Purpose::Publish };
    let mut next = Candidate::default();
    if purpose == Purpose::Rotate || !snapshot.has_current {
        let current = session.record().in_stage(Stage::Current).map(|current| current.sha256);
        next = next_value(session, current.or(adopted.as_ref().map(Secret::digest))).await?;
    }
    session.warn_all(next.warning.take());
    // Nothing new has arrived, or no new value was requested.
    let purpose = match next.value {
        None if first && adopted.is_some() => Purpose::Publish,
        None if purpose == Purpose::Rotate => return nothing_new(session, next).await,
        _ => purpose,
    };

    let begin = sealed(session, adopted, next, purpose).await?;
    take_slot(session, begin).await?;
    Ok(Started::Requested)
}

/// Returns the end of a session whose rotation this finding refuses. The publications were read after the
/// record: another invocation may have changed both since.
async fn refusal(session: &Session<'_>, finding: &Finding) -> Result<Stop, Error> {
    let now = session.ports().records.load(session.asking().token, None).await?.record;
    if now.as_ref().map(Record::fence) != session.stored().map(Record::fence) {
        return Ok(Stop::Overtaken);
    }
    let Finding { object, reason, fix, .. } = finding;
    let error =
        Error::new(Kind::PreflightFailed, "begin a rotation with", reason.clone(), fix.clone());
    Ok(Stop::Failed(error.on(object)))
}

/// Seals the values of a rotation, and returns the rotation. Values are sealed before the record that holds
/// them is saved.
async fn sealed(
    session: &mut Session<'_>,
    adopted: Option<Secret>,
    next: Candidate,
    purpose: Purpose,
) -> Result<Begin, Error> {
    let mut number = session.record().next_version();
    let adopted = match adopted {
        Some(value) => {
            let held_at = held_at(session.observed(), &value);
            let sealed = session.seal(number, value, held_at).await?;
            number = number.next();
            Some(sealed)
        }
        None => None,
    };
    let minted = match next.value {
        Some(value) => Some(session.seal(number, value, BTreeMap::new()).await?),
        None => None,
    };
    let id = match session.record().queued() {
        Some(queued) if minted.is_some() => queued.rotation.clone(),
        _ => RotationId(session.ports().random_name()?),
    };
    Ok(Begin { adopted, minted, imported: next.imported, ..slot(session, id, purpose) })
}

/// Returns a rotation under this session's lease and spec that changes nothing yet.
pub(crate) fn slot(session: &Session<'_>, id: RotationId, purpose: Purpose) -> Begin {
    let compare_within = session.spec().resync_interval();
    let begin = Begin::new(id, purpose, session.spec().id.clone(), session.new_lease());
    Begin { life: Some(session.life()), compare_within, ..begin }
}

/// Saves the rotation, its version, its trigger's key and the lease, all or nothing.
pub(crate) async fn take_slot(session: &mut Session<'_>, begin: Begin) -> Result<(), Stop> {
    let without = session.without_for(begin.purpose);
    session.apply(Transition::Begin(Box::new(begin)))?;
    session.exclude_clusters(&without)?;
    refuse_what_does_not_fit(session).await?;
    session.join_rotation();
    session.save().await
}

/// True if a value that another writer put there becomes the next version.
fn adopts(session: &Session<'_>) -> bool {
    session.spec().on_drift == OnDrift::Adopt
        || session.asking().ask == Ask::Publish { adopt: true }
}

/// Seals the value that another writer put there as the next version: the value that is found now, or else
/// the one that was kept before it was published over.
async fn edited_value(
    session: &mut Session<'_>,
    found: Option<Secret>,
) -> Result<Option<Minted>, Stop> {
    let Some(value) = found else { return Ok(session.record().edited().cloned()) };
    refuse_ended(session, &value).await?;
    if session.spec().on_drift == OnDrift::Adopt
        && let Some(weakness) = value.weakness(session.spec().least_bits())
    {
        return Err(Stop::Failed(weak_edit(weakness).on(session.asking().token)));
    }
    let held_at = held_at(session.observed(), &value);
    Ok(Some(session.seal(session.record().next_version(), value, held_at).await?))
}

/// Makes a value that presenters may have already the next version. If a rotation is requested, it is saved
/// to follow.
async fn take_over(session: &mut Session<'_>, edited: Minted) -> Result<Started, Stop> {
    // `publish` with `adopt` is planned before it is known that it mints.
    let unanswered = session.record().unanswered_until().filter(|until| *until > session.now());
    if let Some(until) = unanswered {
        let report = session.deferred(until, Deferred::Unanswered);
        return Ok(Started::NoOp(Box::new(report)));
    }
    let id = RotationId(session.ports().random_name()?);
    let mut begin =
        Begin { minted: Some(edited), is_presented: true, ..slot(session, id, Purpose::Rotate) };
    if !session.asking().ask.is_rotate() {
        take_slot(session, begin).await?;
        return Ok(Started::Requested);
    }
    begin.queued = Some(session.follow(session.record().next_version().next())?);
    take_slot(session, begin).await?;
    Ok(Started::Prerequisite)
}

/// Returns the value that the next version is to have. `current` is the digest of the one before.
async fn next_value(session: &mut Session<'_>, current: Option<Digest>) -> Result<Candidate, Stop> {
    let inbox = match &session.spec().source {
        Source::Inbox { parameter, .. } => parameter,
        // A resume mints nothing.
        Source::Generated
            if session.asking().ask == Ask::Resume && session.record().queued().is_none() =>
        {
            return Ok(Candidate::default());
        }
        Source::Generated => {
            let value = session.spec().generation.mint(&mut session.ports().random())?;
            return Ok(Candidate { value: Some(value), ..Candidate::default() });
        }
    };
    match arrived(session, inbox, current).await? {
        Received::New(value, arrival) => Ok(Candidate {
            warning: weak(&value)
                .map(|bits| format!("the value that arrived in {inbox} has at most {bits} bits")),
            value: Some(value),
            imported: Some(Imported { arrival, refused: None }),
        }),
        Received::Same(arrival) => Ok(Candidate {
            imported: Some(Imported { arrival, refused: None }),
            warning: Some(format!("{inbox} holds the value that is current")),
            value: None,
        }),
        Received::Nothing if current.is_none() => Err(Stop::Failed(
            Error::new(
                Kind::PreflightFailed,
                "import the first value from",
                "nothing has arrived there",
                "put the value there as a SecureString; the rotation then begins by itself if \
                 changes of the inbox are sent on, else invoke again",
            )
            .on(inbox),
        )),
        Received::Nothing => Ok(Candidate {
            warning: Some(format!("nothing new has arrived in {inbox}")),
            ..Candidate::default()
        }),
    }
}

/// Saves what was examined, and that nothing is to follow.
async fn nothing_new(session: &mut Session<'_>, next: Candidate) -> Result<Started, Stop> {
    if let Some(imported) = next.imported {
        session.apply(Transition::Imported(imported))?;
    }
    if session.record().queued().is_some() {
        session.apply(Transition::Queue(None))?;
    }
    if !session.is_saved() {
        session.save().await?;
    }
    Ok(Started::NoOp(Box::new(session.report(Outcome::Unchanged))))
}

/// Refuses an accepted document that no parameter can hold. It would otherwise be found after the mint,
/// when the version can only be dropped again.
async fn refuse_what_does_not_fit(session: &mut Session<'_>) -> Result<(), Error> {
    // The current version gets an end once presenters have left it.
    let ends_at = Some(session.now() + session.spec().overlap);
    let mut accepted = view_of(session, Side::Verifiers).await?;
    if let Content::Accepted { entries, .. } = &mut accepted {
        let replaced = entries.iter_mut().skip(1);
        replaced.for_each(|entry| entry.not_after = entry.not_after.or(ends_at));
    }
    for publication in &session.spec().verifiers.publications {
        let bytes = accepted.bytes(publication.form).expose().len();
        if !publication.place.is_fenced() && bytes > LARGEST_VALUE {
            return Err(Error::new(
                Kind::TooLarge,
                "publish the accepted tokens to",
                format!(
                    "they take {bytes} bytes, and a parameter {LARGEST_VALUE}, whatever its tier"
                ),
                "publish digests, shorten the overlap, or rotate less often",
            )
            .on(&publication.place));
        }
    }
    Ok(())
}

/// Candidate for the next version's value.
#[derive(Default)]
struct Candidate {
    /// `None` if there is no reason for a next version.
    value: Option<Secret>,
    /// The value that was taken from the inbox, by its id.
    imported: Option<Imported>,
    /// The reason that there is no value, or a weakness of the value.
    warning: Option<String>,
}

/// Returns the bits of a value that has fewer than the values that changeover mints.
fn weak(value: &Secret) -> Option<u16> {
    let bits = value.bits();
    (bits < u16::from(*Generation::BYTES.start()) * 8).then_some(bits)
}

/// Returns the version of each parameter that holds this value.
fn held_at(found: &BTreeMap<Place, StoredValue>, value: &Secret) -> BTreeMap<String, u64> {
    let digest = value.digest();
    let holds = |place: &Place, holding: &StoredValue| {
        matches!(place, Place::Parameter(_)) && holding.value.digest() == digest
    };
    let parameters = found.iter().filter(|(place, holding)| holds(place, holding));
    parameters.map(|(place, holding)| (place.to_string(), holding.store_version)).collect()
}
