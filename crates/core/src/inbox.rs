//! Values that are issued elsewhere: detects an arrival, and checks that it is fit to be a version.
//!
//! An inbox is a SecureString that an issuer writes. The record names what was taken from it last, by the
//! parameter's version and the time at which that was written. An arrival becomes a version once, however
//! often it is announced. An arrival that is not announced is found by the sweep. An arrival in the middle
//! of a rotation stays where it is until that rotation is complete.

use changeover_token::{Digest, Secret};

use crate::{
    error::{Error, Kind},
    ports::InboxValue,
    record::{Imported, InboxValueId, Transition},
    session::{Session, Stop},
    spec::ParameterName,
};

/// Content of an inbox.
pub(crate) enum Received {
    /// Nothing that was not examined before.
    Nothing,
    /// The value that is already current.
    Same(InboxValueId),
    /// The value of the next version.
    New(Secret, InboxValueId),
}

/// True if an inbox holds a value that was not examined before. Has no effect.
pub(crate) async fn has_arrival(
    session: &Session<'_>,
    inbox: &ParameterName,
) -> Result<bool, Error> {
    let arrival = session.ports().inboxes.read(inbox).await?;
    let seen = session.record().imported().map(|imported| &imported.arrival);
    Ok(arrival.is_some_and(|arrival| seen.is_none_or(|seen| id(inbox, &arrival).follows(seen))))
}

/// Reads what has arrived. A value that cannot become a version is saved as refused: every later request
/// returns the refusal, and the sweep does not examine the value again.
///
/// # Errors
/// `BadToken` if what arrived cannot become a version.
pub(crate) async fn arrived(
    session: &mut Session<'_>,
    inbox: &ParameterName,
    current: Option<Digest>,
) -> Result<Received, Stop> {
    let Some(arrival) = session.ports().inboxes.read(inbox).await? else {
        return Ok(Received::Nothing);
    };
    let id = id(inbox, &arrival);
    match session.record().imported() {
        Some(seen) if id.follows(&seen.arrival) => {}
        Some(Imported { arrival: seen, refused: Some(because) }) if *seen == id => {
            return Err(Stop::Failed(refusal(inbox, &arrival, because.clone())));
        }
        Some(_) => return Ok(Received::Nothing),
        None => {}
    }
    let because = match fault(session, &arrival, current).await? {
        Some(because) => because,
        None if current == Some(arrival.value.digest()) => return Ok(Received::Same(id)),
        None => return Ok(Received::New(arrival.value, id)),
    };
    // Without a record, no sweep processes the token, and there is no place to save the refusal.
    if session.stored().is_some() {
        let refused = Some(because.clone());
        session.apply(Transition::Imported(Imported { arrival: id, refused }))?;
        session.save().await?;
    }
    Err(Stop::Failed(refusal(inbox, &arrival, because)))
}

/// The reason that an arrival cannot become a version; `None` if it can.
async fn fault(
    session: &Session<'_>,
    arrival: &InboxValue,
    current: Option<Digest>,
) -> Result<Option<String>, Error> {
    if !arrival.is_secure {
        let because = "it is not a SecureString: everyone who may read parameters can have read it";
        return Ok(Some(because.to_owned()));
    }
    if let Err(unfit) = Secret::adopt(arrival.value.expose().to_owned()) {
        return Ok(Some(unfit.to_string()));
    }
    if let Some(weakness) =
        session.spec().generation.weakness(&arrival.value, session.spec().least_bits())
    {
        return Ok(Some(weakness));
    }
    let digest = arrival.value.digest();
    if current == Some(digest) {
        return Ok(None);
    }
    let mut live = session.record().versions().iter();
    if let Some(version) = live.find(|version| version.sha256 == digest) {
        return Ok(Some(format!("version {} has its value", version.version)));
    }
    let ended = session.ports().records.version_of(session.asking().token, &digest).await?;
    Ok(ended.map(|version| format!("it is the value of version {version}, which has ended")))
}

/// Refuses a value that was a version before and has ended: an edit by hand does not make it one again.
pub(crate) async fn refuse_ended(session: &Session<'_>, value: &Secret) -> Result<(), Error> {
    let digest = value.digest();
    match session.ports().records.version_of(session.asking().token, &digest).await? {
        None => Ok(()),
        Some(version) => Err(Error::new(
            Kind::PreflightFailed,
            "adopt the value that was written by hand for",
            format!("it is that of version {version}, which has ended"),
            "put the current value back, or a new one",
        )
        .on(session.asking().token)),
    }
}

fn id(inbox: &ParameterName, arrival: &InboxValue) -> InboxValueId {
    InboxValueId {
        parameter: inbox.to_string(),
        version: arrival.version,
        written_at: arrival.written_at,
    }
}

/// Error for a value that was written by hand and is too weak to become a version by itself.
pub(crate) fn weak_edit(weakness: String) -> Error {
    let fix = "write a longer random value, or put the current one back";
    Error::new(Kind::BadToken, "adopt the value that was written by hand for", weakness, fix)
}

fn refusal(inbox: &ParameterName, arrival: &InboxValue, because: String) -> Error {
    let fix = "have the issuer make another value, and put it there as a SecureString, or lower \
               `source.least_bits` if it is too short and its issuer makes no longer ones; nothing was changed, \
               and the current version stays";
    let on = format!("{inbox} version {}", arrival.version);
    Error::new(Kind::BadToken, "import the value that arrived in", because, fix).on(on)
}
