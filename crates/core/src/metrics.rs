//! Metrics: values in, one measurement out, for a sink to write.
//!
//! A metric belongs to one function: the activity of another stack of the account is not counted with it.
//! Each other dimension has a handful of values, because each combination of them is a metric of its own
//! and is paid for. Tokens and versions are many, so they are written beside the values, to be searched
//! for.

use std::time::Duration;

use changeover_token::{Stage, TokenName};
use jiff::Timestamp;

use crate::{
    error::Error,
    record::{Entry, Leg, Purpose, Record, Rotation, Step},
    report::{Answer, Outcome, Report},
};

/// Namespace of all metrics.
pub const NAMESPACE: &str = "changeover";
/// Dimension that each metric has besides its own: the name of the function, as in Lambda's own metrics.
pub const FUNCTION_NAME: &str = "FunctionName";

/// A value that is counted or timed. README's table defines each of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// Requests, and tokens that a sweep processed, by outcome.
    Outcomes,
    /// Requests and tokens that failed.
    Errors,
    /// Time from when a step was owed until it was done.
    StepDuration,
    /// Time from when expand or migrate began until its last step was done.
    LegDuration,
    /// Time from the mint until presenters were proved to be on the new version.
    RotationDuration,
    /// Time since the current version was minted.
    CurrentAge,
    /// Time that a token has waited for what it owes.
    Overdue,
    /// Requests that an invocation sent to AWS.
    AwsCalls,
    /// Sweeps that completed.
    Sweeps,
    /// Tokens that a sweep found to owe something.
    DueTokens,
    /// Tokens whose last run by a sweep failed.
    StuckTokens,
    /// Events that the bus did not accept.
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

    /// Returns its name in CloudWatch.
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

    /// Returns CloudWatch's name of its unit.
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

    /// Returns the sets of its dimensions besides [`FUNCTION_NAME`]. Each set is a metric of its own.
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

/// A dimension of a metric besides [`FUNCTION_NAME`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dimension {
    /// The contract's `outcome`, or `failed`.
    Outcome,
    /// The contract's `errorType`.
    ErrorType,
    /// The leg.
    Leg,
    /// The step of that leg.
    Step,
}

impl Dimension {
    /// Returns its name in CloudWatch.
    pub fn name(self) -> &'static str {
        match self {
            Dimension::Outcome => "Outcome",
            Dimension::ErrorType => "ErrorType",
            Dimension::Leg => "Leg",
            Dimension::Step => "Step",
        }
    }
}

/// Values that were measured at one moment of one subject, with a value for each dimension of their
/// metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetricPoint {
    /// The time of the measurement.
    pub at: Timestamp,
    /// The metrics and their values, in the unit of each.
    pub values: Vec<(Metric, u64)>,
    /// The dimensions of the values.
    pub dimensions: Vec<(Dimension, &'static str)>,
    /// The subject, by the names that the log uses.
    pub about: Vec<(&'static str, String)>,
}

impl MetricPoint {
    /// Measures the outcome of an invocation with this action, and the number of requests that it sent to
    /// AWS.
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

    /// Measures an event that is not a request.
    pub fn of_no_request(at: Timestamp, why: &Error) -> Self {
        Self::ended(at, Err(why))
    }

    /// Measures the outcome of a token in a sweep.
    pub fn of_swept_token(
        at: Timestamp,
        token: &TokenName,
        result: &Result<Report, Error>,
    ) -> Self {
        let outcome = result.as_ref().map(|report| Some(report.outcome));
        let mut measurement = Self::ended(at, outcome);
        measurement.about.push(("token", token.to_string()));
        measurement
    }

    /// Measures a sweep that completed: the number of tokens that it found to owe something, and the number
    /// of tokens whose last run had failed, due again or not.
    pub fn of_sweep(at: Timestamp, due: usize, stuck: usize) -> Self {
        let count = |tokens: usize| tokens.try_into().unwrap_or(u64::MAX);
        let values = vec![
            (Metric::Sweeps, 1),
            (Metric::DueTokens, count(due)),
            (Metric::StuckTokens, count(stuck)),
        ];
        Self { at, values, dimensions: Vec::new(), about: Vec::new() }
    }

    /// Measures events about a token that may not have reached the bus.
    pub fn of_lost_events(at: Timestamp, token: &TokenName, count: usize) -> Self {
        let values = vec![(Metric::EventsNotSent, count.try_into().unwrap_or(u64::MAX))];
        Self { at, values, dimensions: Vec::new(), about: vec![("token", token.to_string())] }
    }

    /// Measures a step of this record that was just done. The last step of a leg measures the leg too, and
    /// the last step of a rotation measures the rotation.
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

    /// Measures the state of a token.
    pub fn of_token(at: Timestamp, record: &Record) -> Self {
        Self::standing(at, record, overdue(record, at))
    }

    /// Measures the state of a token whose run failed. A rotation that waits is overdue since it was
    /// requested.
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

    /// Measures a token whose record cannot be read. What it owes is not known, so its time counts from its
    /// first failed run.
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

/// Start of the leg whose step was just done. The entries of that leg are the last ones.
fn leg_began_at(rotation: &Rotation, done: &Entry) -> Timestamp {
    let before = rotation.timeline.iter().rev().take_while(|entry| entry.leg == done.leg);
    let first = before.last().unwrap_or(done);
    first.at.checked_sub(Duration::from_millis(first.took_ms)).unwrap_or(first.at)
}

/// Time for which a token has waited for what it owes. Waiting for the end of a version does not count
/// until that end has passed.
fn overdue(record: &Record, now: Timestamp) -> Duration {
    let Some(owed) = record.owed() else { return Duration::ZERO };
    let since = match (record.rotation(), owed.step) {
        (Some(rotation), _) => rotation.began_at,
        (None, Step::Retire) => record.next_end().map_or(owed.since, |end| end.max(owed.since)),
        (None, _) => owed.since,
    };
    Duration::from_millis(milliseconds(since, now))
}

/// Milliseconds from one moment to another; zero if they are in the reverse order.
fn milliseconds(from: Timestamp, to: Timestamp) -> u64 {
    to.as_millisecond().saturating_sub(from.as_millisecond()).try_into().unwrap_or(0)
}

fn about(record: &Record) -> Vec<(&'static str, String)> {
    let mut about = vec![("token", record.token().to_string())];
    about.extend(record.subject().map(|(_, version)| ("version", version.to_string())));
    about
}
