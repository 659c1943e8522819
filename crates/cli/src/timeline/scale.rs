//! The time axis: the position of each moment.

use std::time::Duration;

use jiff::Timestamp;

/// Largest share of the axis that the longest quiet stretch takes at its true length. A longer one is drawn
/// shorter.
const MOST_QUIET: f64 = 0.5;
/// Width of a quiet stretch that is drawn shorter.
const QUIET_WIDTH: f64 = 90.0;
/// Least distance between two marks.
const MARKS_APART: f64 = 70.0;
/// Seconds between two marks.
const STEPS: [u32; 17] =
    [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 21_600, 43_200, 86_400];
/// Most marks, however long the axis is.
const MOST_MARKS: usize = 40;

/// Positions of moments between `left` and `left + width`. A later moment is never further left.
pub(super) struct Scale {
    begin: Timestamp,
    /// First and last moment of the axis, in seconds after `begin`.
    from: f64,
    to: f64,
    left: f64,
    width: f64,
    /// A stretch in which nothing happens and that is drawn shorter than it is, in seconds.
    quiet: Option<(f64, f64)>,
}

impl Scale {
    /// An axis that shows `begin` to `end` and a little time around it. `busy` are the stretches in which
    /// something happens.
    pub(super) fn new(
        (begin, end): (Timestamp, Timestamp),
        busy: &[(Timestamp, Timestamp)],
        left: f64,
        width: f64,
    ) -> Self {
        let total = seconds(begin, end).max(0.001);
        let quiet =
            longest_gap(begin, end, busy).filter(|(from, to)| to - from > MOST_QUIET * total);
        let drawn = total - quiet.map_or(0.0, |(from, to)| to - from);
        let around = (drawn * 0.04).max(0.001);
        Self { begin, from: -around, to: total + around, left, width, quiet }
    }

    /// Position of a moment. A moment outside the axis is at the nearer end.
    pub(super) fn x(&self, at: Timestamp) -> f64 {
        self.place(seconds(self.begin, at))
    }

    /// The first and the last moment of the axis.
    pub(super) fn ends(&self) -> (Timestamp, Timestamp) {
        (self.moment(self.from), self.moment(self.to))
    }

    /// Number of seconds that the axis shows, without the stretch that is drawn shorter.
    pub(super) fn seconds_drawn(&self) -> f64 {
        self.to - self.from - self.quiet.map_or(0.0, |(from, to)| to - from)
    }

    /// The marks of the axis: their positions, and the time since the beginning.
    pub(super) fn marks(&self) -> Vec<(f64, Duration)> {
        let rate = self.rate();
        let step = STEPS.iter().copied().find(|step| f64::from(*step) * rate >= MARKS_APART);
        let step = step.unwrap_or(STEPS[STEPS.len() - 1]);
        let mut marks: Vec<(f64, Duration)> = Vec::new();
        for number in 0..MOST_MARKS as u32 {
            // In the quiet stretch marks would overlap, so the next one comes after it.
            let mut at = f64::from(step) * f64::from(number);
            if let Some((from, to)) = self.quiet
                && at > from
            {
                let skipped = ((to - from) / f64::from(step)).ceil();
                at += skipped * f64::from(step);
            }
            if at > self.to {
                break;
            }
            let far_enough =
                marks.last().is_none_or(|(x, _)| self.place(at) - x >= MARKS_APART / 2.0);
            if far_enough {
                marks.push((self.place(at), Duration::from_secs_f64(at)));
            }
        }
        marks
    }

    /// Position and length of the stretch that is drawn shorter.
    pub(super) fn quiet(&self) -> Option<(f64, f64, Duration)> {
        let (from, to) = self.quiet?;
        Some((self.place(from), self.place(to), Duration::from_secs_f64(to - from)))
    }

    fn place(&self, at: f64) -> f64 {
        let at = at.clamp(self.from, self.to);
        let rate = self.rate();
        let drawn = match self.quiet {
            None => (at - self.from) * rate,
            Some((from, _)) if at <= from => (at - self.from) * rate,
            Some((from, to)) if at < to => {
                (from - self.from) * rate + (at - from) / (to - from) * QUIET_WIDTH
            }
            Some((from, to)) => (from - self.from + at - to) * rate + QUIET_WIDTH,
        };
        (self.left + drawn).clamp(self.left, self.left + self.width)
    }

    /// Width of one second in the picture.
    fn rate(&self) -> f64 {
        let quiet = self.quiet.map_or(0.0, |_| QUIET_WIDTH);
        (self.width - quiet) / self.seconds_drawn()
    }

    fn moment(&self, at: f64) -> Timestamp {
        let milliseconds = (at * 1000.0) as i64;
        let moment = self.begin.as_millisecond().saturating_add(milliseconds);
        Timestamp::from_millisecond(moment).unwrap_or(self.begin)
    }
}

/// Seconds from one moment to another.
pub(super) fn seconds(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64()
}

/// The longest stretch in which nothing happens, in seconds after `begin`.
fn longest_gap(
    begin: Timestamp,
    end: Timestamp,
    busy: &[(Timestamp, Timestamp)],
) -> Option<(f64, f64)> {
    let mut busy = busy.to_vec();
    busy.sort();
    busy.push((end, end));
    let mut reached = begin;
    let mut longest: Option<(f64, f64)> = None;
    for (from, to) in busy {
        if from > reached {
            let gap = (seconds(begin, reached), seconds(begin, from));
            if longest.is_none_or(|(from, to)| gap.1 - gap.0 > to - from) {
                longest = Some(gap);
            }
        }
        reached = reached.max(to);
    }
    longest
}
