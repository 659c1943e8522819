//! The steps that are owed, carried out one by one until all are done, or one is under way, held, overtaken
//! or out of time.
//!
//! Publish, sync and roll out are written once, and used by every leg. Each step may run again after a
//! crash anywhere, in whole or in part, and leads to the same end: a publish writes bytes that the saved
//! record decides, a sync forces one more refresh, and a stamp that is set is not changed. A step that has
//! nothing to do passes without a call.

pub(crate) mod ahead;
mod publish;
mod roll_out;
mod verify;
mod sync;
pub(crate) mod view;
mod wait;

use tracing::warn;

use self::{publish::publish, roll_out::roll_out, sync::sync};
use crate::{
    error::Error,
    plan::Ask,
    record::{Held, Leg, Owed, Step, Transition, back_off},
    report::{Outcome, Report},
    session::{Next, Session, Stop, UnderWay},
};

/// Carries out what is owed until there is an answer.
pub(crate) async fn resume(session: &mut Session<'_>) -> Result<Report, Stop> {
    note_unfinished_publish(session)?;
    follow_spec(session)?;
    while let Some(owed) = session.record().owed() {
        session.work_on(owed);
        if session.now() >= session.asking().stop_at {
            return checkpoint(session).await;
        }
        let carried_out = match owed.step {
            Step::Retire => match retire(session).await? {
                Some(report) => return Ok(report),
                None => Ok(None),
            },
            Step::Publish => publish(session, owed.leg).await,
            Step::Sync => sync(session, owed).await,
            Step::RollOut => roll_out(session, owed).await,
        };
        match carried_out {
            Ok(None) => {}
            Ok(Some(UnderWay::Waiting(awaited))) => {
                session.log(owed, "under_way", &awaited);
                session.warn(awaited);
                return checkpoint(session).await;
            }
            Ok(Some(UnderWay::Held(held))) => return save_hold(session, owed, held).await,
            Err(Stop::Failed(error)) => return Err(save_failure(session, owed, error).await),
            Err(Stop::Overtaken) => return Err(Stop::Overtaken),
        }
        // A request for a rotation is answered when presenters are proved to be on it and the end of the
        // old version is published to verifiers. Restarting verifiers for that end is left to the sweep.
        let answered = (owed.leg, owed.step) == (Leg::Overlap, Step::Publish)
            && session.asking().ask.is_rotate();
        if answered && !session.spec().verifiers.workloads.is_empty() {
            session.release(session.now()).await?;
            return Ok(session.report(Outcome::Rotated));
        }
    }
    // At rest: only the daily drift detection is due.
    session.release(session.record().compare_at()).await?;
    Ok(session.report(outcome_at_rest(session)))
}

/// Notes that a publish which another invocation left unfinished may still have a write in flight. It must
/// come before anything else, because an invocation that yields, or follows a new spec, releases the lease.
pub(crate) fn note_unfinished_publish(session: &mut Session<'_>) -> Result<(), Stop> {
    match (session.record().owed(), session.record().lease()) {
        (Some(owed), Some(lease))
            if owed.step == Step::Publish && lease.holder != session.holder() =>
        {
            session.lease(owed.leg)
        }
        _ => Ok(()),
    }
}

/// Makes the record work from the spec of this session, which was admitted.
pub(crate) fn follow_spec(session: &mut Session<'_>) -> Result<(), Stop> {
    if session.record().works_from(&session.spec().id) {
        Ok(())
    } else {
        session.apply(Transition::Respecify(session.spec().id.clone()))
    }
}

/// Resumes what comes before the request. Plans the request once that is complete.
pub(crate) async fn resume_prerequisite(session: &mut Session<'_>) -> Result<Next, Stop> {
    let report = resume(session).await?;
    if report.is_through() { Ok(Next::PlanAgain) } else { Ok(Next::answer(report)) }
}

fn outcome_at_rest(session: &Session<'_>) -> Outcome {
    match session.asking().ask {
        Ask::Rotate { .. } if session.last().is_some_and(|owed| owed.leg >= Leg::Overlap) => {
            Outcome::Rotated
        }
        Ask::Rotate { .. } | Ask::Publish { .. } => Outcome::Published,
        Ask::Drop => Outcome::Dropped,
        Ask::Resume => Outcome::Completed,
    }
}

/// Ends the versions that are past their end, or waits for the next end without a lease.
async fn retire(session: &mut Session<'_>) -> Result<Option<Report>, Stop> {
    let now = session.now();
    let end = session.record().next_end().unwrap_or(now);
    if end > now || session.record().is_unanswered(now) {
        let until = end.max(session.record().unanswered_until().unwrap_or(end));
        session.release(until.min(session.record().due_at_rest(now))).await?;
        let outcome = match session.asking().ask {
            Ask::Resume if !session.has_done_steps() => Outcome::InProgress,
            Ask::Resume => Outcome::Rotated,
            _ => outcome_at_rest(session),
        };
        return Ok(Some(session.report(outcome)));
    }
    session.lease(Leg::Contract)?;
    session.apply(Transition::Retire)?;
    Ok(None)
}

async fn checkpoint(session: &mut Session<'_>) -> Result<Report, Stop> {
    if let Some(held) = session.record().held() {
        // It was held before, and this invocation had too little time to see more: that is not another
        // attempt.
        let tried = session.now() + back_off(held.attempts.saturating_sub(1));
        let due_at =
            session.record().due_at().filter(|due_at| *due_at > session.now()).unwrap_or(tried);
        session.release(due_at).await?;
        return Ok(session.report(Outcome::Held));
    }
    session.release(session.now()).await?;
    Ok(session.report(Outcome::InProgress))
}

async fn save_hold(session: &mut Session<'_>, owed: Owed, held: Held) -> Result<Report, Stop> {
    session.log(owed, "held", &held.reason);
    session.apply(Transition::Hold(held))?;
    session.save().await?;
    Ok(session.report(Outcome::Held))
}

/// Saves a failure, so that the sweep retries the step after a back-off, and returns the error.
async fn save_failure(session: &mut Session<'_>, owed: Owed, error: Error) -> Stop {
    session.log(owed, "failed", &error.to_string());
    let object = error.on.clone().unwrap_or_else(|| session.record().token().to_string());
    let held = Held::new(object, error.because.clone(), error.fix.clone());
    let saved = match session.apply(Transition::Hold(held)) {
        Ok(()) => session.save().await,
        Err(stop) => Err(stop),
    };
    match saved {
        Ok(()) => {}
        Err(Stop::Overtaken) => return Stop::Overtaken,
        // The lease then expires by itself, and the sweep resumes from there.
        Err(Stop::Failed(second)) => warn!(error = %second, "failure not saved"),
    }
    Stop::Failed(error)
}
