//! What is measured: values in, one measurement out, for whoever writes it.
//!
//! A metric is one function's: what another stack of the account does is not counted with it. Each other
//! dimension has a handful of values, because each combination of them is a metric of its own and is
//! paid for. What there are many of, tokens and versions, stands beside the values, to be searched for.

use std::time::Duration;

use changeover_token::{Stage, TokenName};
use jiff::Timestamp;

use crate::{
    error::Error,
    record::{Entry, Leg, Purpose, Record, Rotation, Step},
    report::{Answer, Outcome, Report},
};

/// What all metrics stand under.
pub const NAMESPACE: &str = "changeover";
/// The dimension that each metric has, whatever else it is told by: whose it is, as Lambda's own metrics
/// say it.
pub const FUNCTION_NAME: &str = "FunctionName";

/// What is counted or timed. README's table says what each of them means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// Requests, and tokens that a sweep saw to, by how they ended.
    Outcomes,
    /// Those that failed.
    Errors,
    /// From when a step was owed until it was done.
    StepDuration,
    /// From when expand or migrate began until its last step was done.
    LegDuration,
    /// From the mint until presenters were proved to be on the new version.
    RotationDuration,
    /// Since the current version was minted.
    CurrentAge,
    /// How long a token has waited for what it owes.
    Overdue,
    /// Requests that an invocation sent to AWS.
    AwsCalls,
    /// Sweeps that came to their end.
    Sweeps,
    /// Tokens that a sweep found to owe something.
    DueTokens,
    /// Tokens whose last run by a sweep failed.
    StuckTokens,
    /// Events that the bus did not take.
    EventsNotSent,
}

impl Metric {
    /// Every metric, in README's order.
    pub const ALL: [Metric; 12] = [
        Metric::Outcomes,
        Metric::Errors,
        Metric::StepDuration,
        Metric::LegDuration,
        Metric::RotationDuration,
        Metric::CurrentAge,
        Metric::Overdue,
        Metric::AwsCalls,
        Metric::Sweeps,
        Metric::DueTokens,
        Metric::StuckTokens,
        Metric::EventsNotSent,
    ];

    /// As CloudWatch knows it.
    pub fn name(self) -> &'static str {
        match self {
            Metric::Outcomes => "Outcomes",
            Metric::Errors => "Errors",
            Metric::StepDuration => "StepDuration",
            Metric::LegDuration => "LegDuration",
            Metric::RotationDuration => "RotationDuration",
            Metric::CurrentAge => "CurrentAge",
            Metric::Overdue => "Overdue",
            Metric::AwsCalls => "AwsCalls",
            Metric::Sweeps => "Sweeps",
            Metric::DueTokens => "DueTokens",
            Metric::StuckTokens => "StuckTokens",
            Metric::EventsNotSent => "EventsNotSent",
        }
    }

    /// CloudWatch's name of its unit.
    pub fn unit(self) -> &'static str {
        match self {
            Metric::StepDuration | Metric::LegDuration | Metric::RotationDuration => "Milliseconds",
            Metric::CurrentAge | Metric::Overdue => "Seconds",
            Metric::Outcomes
            | Metric::Errors
            | Metric::AwsCalls
            | Metric::Sweeps
            | Metric::DueTokens
            | Metric::StuckTokens
            | Metric::EventsNotSent => "Count",
        }
    }

    /// The sets of dimensions that it is told by besides [`FUNCTION_NAME`], each of them a metric of its own.
    pub fn dimensions(self) -> &'static [&'static [Dimension]] {
        match self {
            Metric::Outcomes => &[&[Dimension::Outcome]],
            Metric::Errors => &[&[], &[Dimension::ErrorType]],
            Metric::StepDuration => &[&[Dimension::Leg, Dimension::Step]],
            Metric::LegDuration => &[&[Dimension::Leg]],
            Metric::RotationDuration
            | Metric::CurrentAge
            | Metric::Overdue
            | Metric::AwsCalls
            | Metric::Sweeps
            | Metric::DueTokens
            | Metric::StuckTokens
            | Metric::EventsNotSent => &[&[]],
        }
    }
}

/// What a metric is told by besides [`FUNCTION_NAME`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dimension {
    /// The contract's `outcome`, or `failed`.
    Outcome,
    /// The contract's `errorType`.
    ErrorType,
    /// The leg.
    Leg,
    /// The step of it.
    Step,
}

impl Dimension {
    /// As CloudWatch knows it.
    pub fn name(self) -> &'static str {
        match self {
            Dimension::Outcome => "Outcome",
            Dimension::ErrorType => "ErrorType",
            Dimension::Leg => "Leg",
            Dimension::Step => "Step",
        }
    }
}

/// What was measured at one moment of one thing. It has a value for each dimension of its metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measurement {
    /// When.
    pub at: Timestamp,
    /// What, in the unit of each.
    pub values: Vec<(Metric, u64)>,
    /// What the values are told by.
    pub dimensions: Vec<(Dimension, &'static str)>,
    /// What it is about, by the names that the log uses.
    pub about: Vec<(&'static str, String)>,
}

impl Measurement {
    /// How an invocation ended that did this, and how many requests it sent to AWS.
    pub fn of_invocation(
        at: Timestamp,
        action: &'static str,
        answered: &Result<Answer, Error>,
        calls: u64,
    ) -> Self {
        let outcome = answered.as_ref().map(Answer::outcome);
        let mut measurement = Self::ended(at, outcome);
        measurement.values.push((Metric::AwsCalls, calls));
        measurement.about.push(("action", action.to_owned()));
        measurement
    }

    /// An event that is no request.
    pub fn of_no_request(at: Timestamp, why: &Error) -> Self {
        Self::ended(at, Err(why))
    }

    /// How a token came out of a sweep.
    pub fn of_swept_token(
        at: Timestamp,
        token: &TokenName,
        came_to: &Result<Report, Error>,
    ) -> Self {
        let outcome = came_to.as_ref().map(|report| Some(report.outcome));
        let mut measurement = Self::ended(at, outcome);
        measurement.about.push(("token", token.to_string()));
        measurement
    }

    /// A sweep that is complete, how many tokens it found to owe something, and how many tokens had failed
    /// in their last run, due again or not.
    pub fn of_sweep(at: Timestamp, due: usize, stuck: usize) -> Self {
        let count = |tokens: usize| tokens.try_into().unwrap_or(u64::MAX);
        let values = vec![
            (Metric::Sweeps, 1),
            (Metric::DueTokens, count(due)),
            (Metric::StuckTokens, count(stuck)),
        ];
        Self { at, values, dimensions: Vec::new(), about: Vec::new() }
    }

    /// Events about a token that the bus may not have.
    pub fn of_untold(at: Timestamp, token: &TokenName, count: usize) -> Self {
        let values = vec![(Metric::EventsNotSent, count.try_into().unwrap_or(u64::MAX))];
        Self { at, values, dimensions: Vec::new(), about: vec![("token", token.to_string())] }
    }

    /// A step of this record's that was just done; the last of a leg tells of the leg too, and the last
    /// of a rotation of the rotation.
    pub fn of_step(record: &Record, done: &Entry) -> Self {
        let Entry { leg, step, at, took_ms } = *done;
        let mut values = vec![(Metric::StepDuration, took_ms)];
        if let (Leg::Expand | Leg::Migrate, Step::RollOut, Some(rotation)) =
            (leg, step, record.rotation())
        {
            values.push((Metric::LegDuration, milliseconds(leg_began_at(rotation, done), at)));
            if leg == Leg::Migrate && rotation.purpose == Purpose::Rotate {
                values.push((Metric::RotationDuration, milliseconds(rotation.began_at, at)));
            }
        }
        Self {
            at,
            values,
            dimensions: vec![(Dimension::Leg, leg.as_str()), (Dimension::Step, step.as_str())],
            about: about(record),
        }
    }

    /// How a token stands.
    pub fn of_token(at: Timestamp, record: &Record) -> Self {
        Self::standing(at, record, overdue(record, at))
    }

    /// How a token stands whose run failed: a rotation that waits is overdue since it was asked for.
    pub fn of_failing_token(at: Timestamp, record: &Record) -> Self {
        let since = record.queued().and_then(|queued| queued.since);
        let waits = since.map_or(0, |since| milliseconds(since, at));
        Self::standing(at, record, overdue(record, at).max(Duration::from_millis(waits)))
    }

    fn standing(at: Timestamp, record: &Record, overdue: Duration) -> Self {
        let mut values = vec![(Metric::Overdue, overdue.as_secs())];
        if let Some(current) = record.in_stage(Stage::Current) {
            let age = milliseconds(current.created_at, at) / 1000;
            values.push((Metric::CurrentAge, age));
        }
        Self { at, values, dimensions: Vec::new(), about: about(record) }
    }

    /// A token whose record cannot be read: what it owes is not known, so it counts from its first failed
    /// run.
    pub fn of_unreadable(at: Timestamp, token: &TokenName, since: Timestamp) -> Self {
        let values = vec![(Metric::Overdue, milliseconds(since, at) / 1000)];
        Self { at, values, dimensions: Vec::new(), about: vec![("token", token.to_string())] }
    }

    fn ended(at: Timestamp, outcome: Result<Option<Outcome>, &Error>) -> Self {
        let (values, dimensions) = match outcome {
            Ok(outcome) => outcome
                .map(|it| ((Metric::Outcomes, 1), (Dimension::Outcome, it.as_str())))
                .into_iter()
                .unzip(),
            Err(error) => (
                vec![(Metric::Outcomes, 1), (Metric::Errors, 1)],
                vec![(Dimension::Outcome, "failed"), (Dimension::ErrorType, error.kind.as_str())],
            ),
        };
        Self { at, values, dimensions, about: Vec::new() }
    }
}

/// Since when the leg of a step was gone through that was just done: its entries are the last ones.
fn leg_began_at(rotation: &Rotation, done: &Entry) -> Timestamp {
    let before = rotation.timeline.iter().rev().take_while(|entry| entry.leg == done.leg);
    let first = before.last().unwrap_or(done);
    first.at.checked_sub(Duration::from_millis(first.took_ms)).unwrap_or(first.at)
}

/// How long what a token owes has been waited for. Waiting for the end of a version is not: that is as
/// it should be until the end has passed.
fn overdue(record: &Record, now: Timestamp) -> Duration {
    let Some(owed) = record.owed() else { return Duration::ZERO };
    let since = match (record.rotation(), owed.step) {
        (Some(rotation), _) => rotation.began_at,
        (None, Step::Retire) => record.next_end().map_or(owed.since, |end| end.max(owed.since)),
        (None, _) => owed.since,
    };
    Duration::from_millis(milliseconds(since, now))
}

/// From one moment to another; zero where they are the other way round.
fn milliseconds(from: Timestamp, to: Timestamp) -> u64 {
    to.as_millisecond().saturating_sub(from.as_millisecond()).try_into().unwrap_or(0)
}

fn about(record: &Record) -> Vec<(&'static str, String)> {
    let mut about = vec![("token", record.token().to_string())];
    about.extend(record.subject().map(|(_, version)| ("version", version.to_string())));
    about
}
