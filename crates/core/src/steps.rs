//! What is owed, carried out step by step until it is done, under way, held, overtaken or out of time.
//!
//! Publish, sync, roll out: written once, used by every leg. Each step may run again after a crash
//! anywhere, in whole or in part, and leads to the same end: a publish writes bytes that the saved
//! record decides, a sync asks for one refresh more, a stamp that stands is left as it is. A step that
//! has nothing to do passes without a call.

mod ahead;
mod publish;
mod roll_out;
mod standing;
mod sync;
mod view;
mod wait;

use tracing::warn;

use crate::{
    error::Error,
    plan::Ask,
    record::{Change, Held, Leg, Owed, Step, back_off},
    report::{Outcome, Report},
    turn::{Stop, Turn, UnderWay},
};

impl Turn<'_> {
    /// Carries out what is owed until there is an answer.
    pub(crate) async fn carry_on(&mut self) -> Result<Report, Stop> {
        self.note_unfinished()?;
        self.follow_spec()?;
        while let Some(owed) = self.record.owed() {
            self.last = Some(owed);
            if self.now() >= self.asking.stop_at {
                return self.give_way().await;
            }
            let carried_out = match owed.step {
                Step::Retire => match self.retire().await? {
                    Some(report) => return Ok(report),
                    None => Ok(None),
                },
                Step::Publish => self.publish(owed.leg).await,
                Step::Sync => self.sync(owed).await,
                Step::RollOut => self.roll_out(owed).await,
            };
            match carried_out {
                Ok(None) => {}
                Ok(Some(UnderWay::Waiting(awaited))) => {
                    self.log(owed, "under_way", &awaited);
                    self.warnings.push(awaited);
                    return self.give_way().await;
                }
                Ok(Some(UnderWay::Held(held))) => return self.hold(owed, held).await,
                Err(Stop::Failed(error)) => return Err(self.fail(owed, error).await),
                Err(Stop::Overtaken) => return Err(Stop::Overtaken),
            }
            // Whoever asked for a rotation is answered when presenters are proved to be on it and
            // verifiers were told when the old one ends. Restarting verifiers for that is left to
            // the sweep.
            let answered = (owed.leg, owed.step) == (Leg::Overlap, Step::Publish)
                && self.asking.ask.is_rotate();
            if answered && !self.spec.verifiers.workloads.is_empty() {
                self.release(self.now()).await?;
                return Ok(self.report(Outcome::Rotated));
            }
        }
        // At rest: nothing but the daily comparison is due.
        self.release(self.record.compare_at()).await?;
        Ok(self.report(self.outcome_at_rest()))
    }

    /// Notes that a publish which another invocation left unfinished may still have a write in flight. Before
    /// anything else: who gives way, or follows a new spec, lets the lease go.
    pub(crate) fn note_unfinished(&mut self) -> Result<(), Stop> {
        match (self.record.owed(), self.record.lease()) {
            (Some(owed), Some(lease))
                if owed.step == Step::Publish && lease.holder != self.holder =>
            {
                self.lease(owed.leg)
            }
            _ => Ok(()),
        }
    }

    /// Has the record work from the spec of this turn, which was admitted.
    pub(crate) fn follow_spec(&mut self) -> Result<(), Stop> {
        match self.record.works_from(&self.spec.id) {
            true => Ok(()),
            false => self.apply(Change::Respecify(self.spec.id.clone())),
        }
    }

    /// Carries on what comes before what is asked; once that is complete, plans what is asked.
    pub(crate) async fn carry_on_first(&mut self) -> Result<Report, Stop> {
        let report = self.carry_on().await?;
        if report.is_through() { Err(Stop::Overtaken) } else { Ok(report) }
    }

    fn outcome_at_rest(&self) -> Outcome {
        match self.asking.ask {
            Ask::Rotate { .. } if self.last.is_some_and(|owed| owed.leg >= Leg::Overlap) => {
                Outcome::Rotated
            }
            Ask::Rotate { .. } | Ask::Publish { .. } => Outcome::Published,
            Ask::Drop => Outcome::Dropped,
            Ask::Resume => Outcome::Completed,
        }
    }

    /// Ends what is past its end, or waits for the next end without a lease.
    async fn retire(&mut self) -> Result<Option<Report>, Stop> {
        let now = self.now();
        let end = self.record.next_end().unwrap_or(now);
        if end > now || self.record.is_unanswered(now) {
            let until = end.max(self.record.unanswered_until().unwrap_or(end));
            self.release(until.min(self.record.due_at_rest(now))).await?;
            let outcome = match self.asking.ask {
                Ask::Resume if self.timeline.is_empty() => Outcome::InProgress,
                Ask::Resume => Outcome::Rotated,
                _ => self.outcome_at_rest(),
            };
            return Ok(Some(self.report(outcome)));
        }
        self.lease(Leg::Contract)?;
        self.apply(Change::Retire)?;
        Ok(None)
    }

    async fn give_way(&mut self) -> Result<Report, Stop> {
        if let Some(held) = self.record.held() {
            // It was held before, and the time of this turn was too short to see more: no further attempt.
            let tried = self.now() + back_off(held.attempts.saturating_sub(1));
            let due_at =
                self.record.due_at().filter(|due_at| *due_at > self.now()).unwrap_or(tried);
            self.release(due_at).await?;
            return Ok(self.report(Outcome::Held));
        }
        self.release(self.now()).await?;
        Ok(self.report(Outcome::InProgress))
    }

    async fn hold(&mut self, owed: Owed, held: Held) -> Result<Report, Stop> {
        self.log(owed, "held", &held.reason);
        self.apply(Change::Hold(held))?;
        self.save().await?;
        Ok(self.report(Outcome::Held))
    }

    /// Saves what failed, so that the sweep comes back to it with a back-off, and hands the error on.
    async fn fail(&mut self, owed: Owed, error: Error) -> Stop {
        self.log(owed, "failed", &error.to_string());
        let object = error.on.clone().unwrap_or_else(|| self.record.token().to_string());
        let held = Held::new(object, error.because.clone(), error.fix.clone());
        let saved = match self.apply(Change::Hold(held)) {
            Ok(()) => self.save().await,
            Err(stop) => Err(stop),
        };
        match saved {
            Ok(()) => {}
            Err(Stop::Overtaken) => return Stop::Overtaken,
            // The lease runs out by itself then, and the sweep carries on from there.
            Err(Stop::Failed(second)) => warn!(error = %second, "failure not saved"),
        }
        Stop::Failed(error)
    }
}
