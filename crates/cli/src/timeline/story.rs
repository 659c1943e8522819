//! The steps of a rotation and the waits between them, derived from the status of its token.

use std::time::Duration;

use jiff::Timestamp;

use crate::{
    answer::{Answer, Done, Newest, Reason},
    render::{duration, words},
};

/// The rotation that brought a version, and its result.
pub(super) struct Story<'a> {
    pub(super) standing: &'a Answer,
    pub(super) newest: &'a Newest,
    pub(super) steps: Vec<Stretch>,
    pub(super) begin: Timestamp,
    pub(super) end: Timestamp,
    pub(super) rotated_at: Option<Timestamp>,
}

/// A span of time that a step or a wait took, or has taken so far.
pub(super) struct Stretch {
    pub(super) leg: String,
    pub(super) what: String,
    pub(super) from: Timestamp,
    pub(super) to: Timestamp,
    pub(super) is: Is,
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Is {
    /// A step that was done.
    Done,
    /// A wait without any step to do.
    Wait,
    /// The step that is owed now.
    UnderWay,
}

impl<'a> Story<'a> {
    pub(super) fn of(standing: &'a Answer, now: Timestamp) -> Option<Self> {
        let newest = standing.newest.as_ref()?;
        let rotated_at = time(&newest.rotated_at);
        let mut steps: Vec<_> = newest.timeline.iter().filter_map(Stretch::done).collect();
        steps.extend(under_way(standing, newest, now));
        steps.extend(after(standing, newest, rotated_at, now));
        steps.sort_by_key(|step| (step.from, step.to));
        let began_at = time(&newest.created_at);
        let begin = steps.iter().map(|step| step.from).chain(began_at).min()?;
        // If nothing was done for a version yet, the story is its wait until now.
        let end = steps.iter().map(|step| step.to).chain(rotated_at).max().unwrap_or(now);
        Some(Self { standing, newest, steps, begin, end: end.max(begin), rotated_at })
    }

    pub(super) fn title(&self) -> String {
        format!("{}: version {}", self.standing.token, self.newest.version)
    }

    /// The result in one line.
    pub(super) fn summary(&self) -> String {
        let began = format!("began {}", clock(self.begin));
        let became = match (self.rotated_at, &self.standing.held) {
            (Some(at), _) => format!("rotated in {}", took(self.begin, at)),
            (None, Some(Reason { object, reason, .. })) => format!("held: {object}: {reason}"),
            (None, None) => "under way".to_owned(),
        };
        let replaced = self.newest.replaced.as_ref();
        let before = replaced.and_then(|it| Some((it.version, time(&it.not_after)?)));
        match before {
            Some((version, end)) => {
                format!("{became}, {began}; version {version} accepted until {}", clock(end))
            }
            None => format!("{became}, {began}"),
        }
    }

    /// The whole picture in words, for readers who cannot see it.
    pub(super) fn description(&self) -> String {
        let steps: Vec<_> = self.steps.iter().map(Stretch::title).collect();
        format!("{}. {}.", self.summary(), steps.join("; "))
    }
}

impl Stretch {
    fn done(done: &Done) -> Option<Self> {
        let to: Timestamp = done.at.parse().ok()?;
        let began = to.as_millisecond().saturating_sub_unsigned(done.took_ms);
        let from = Timestamp::from_millisecond(began).unwrap_or(to);
        Some(Self { leg: words(&done.leg), what: words(&done.step), from, to, is: Is::Done })
    }

    /// The stretch in words, without a duration if it had none.
    pub(super) fn title(&self) -> String {
        let Self { leg, what, from, to, .. } = self;
        if from < to {
            format!("{leg} {what}: {}", took(*from, *to))
        } else {
            format!("{leg} {what}")
        }
    }
}

/// The step that is owed. Retiring is owed during the whole overlap, which is drawn as a wait instead.
fn under_way(standing: &Answer, newest: &Newest, now: Timestamp) -> Option<Stretch> {
    let from = time(&newest.owed_since)?;
    let (leg, step) = (standing.leg.as_ref()?, standing.step.as_ref()?);
    if step == "retire" {
        return None;
    }
    let to = now.max(from);
    Some(Stretch { leg: words(leg), what: words(step), from, to, is: Is::UnderWay })
}

/// The stretches after every presenter was proved to send the new version: the overlap, and the end of the
/// version before. They have no timeline of their own. Their times are derived from the last write to the
/// verifiers' publications.
fn after(
    standing: &Answer,
    newest: &Newest,
    rotated_at: Option<Timestamp>,
    now: Timestamp,
) -> Vec<Stretch> {
    let Some((rotated_at, replaced)) = rotated_at.zip(newest.replaced.as_ref()) else {
        return Vec::new();
    };
    let published_at = standing.publications.iter().filter(|it| it.side == "verifiers");
    let published_at = published_at.filter_map(|it| time(&it.answered_at)).max();
    let ended_at = time(&replaced.ended_at);
    let step = |leg: &str, what: &str, from, to, is| Stretch {
        leg: leg.to_owned(),
        what: what.to_owned(),
        from,
        to,
        is,
    };
    let mut stretches = Vec::new();
    let of_overlap = published_at.filter(|published_at| {
        *published_at > rotated_at && ended_at.is_none_or(|end| *published_at < end)
    });
    if let Some(published_at) = of_overlap {
        stretches.push(step("overlap", "publish", rotated_at, published_at, Is::Done));
        // Retiring is owed from the moment when the verifiers' copies and pods had the new view.
        let retires = standing.leg.as_deref() == Some("contract");
        let since = time(&newest.owed_since).filter(|since| retires && *since > published_at);
        stretches.extend(
            since.map(|since| step("overlap", "copies, pods", published_at, since, Is::Done)),
        );
    }
    if let Some(not_after) = time(&replaced.not_after).filter(|end| *end > rotated_at) {
        stretches.push(step("overlap", "until the end", rotated_at, not_after, Is::Wait));
        if let Some(ended_at) = ended_at.filter(|ended| *ended >= not_after && *ended <= now) {
            stretches.push(step("contract", "retire", ended_at, ended_at, Is::Done));
            if let Some(published_at) = published_at.filter(|published_at| *published_at > ended_at)
            {
                stretches.push(step("contract", "publish", ended_at, published_at, Is::Done));
            }
        }
    }
    stretches
}

pub(super) fn time(text: &Option<String>) -> Option<Timestamp> {
    text.as_ref()?.parse().ok()
}

/// A moment in human-readable form.
pub(super) fn clock(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

pub(super) fn took(from: Timestamp, to: Timestamp) -> String {
    let milliseconds = to.as_millisecond().saturating_sub(from.as_millisecond());
    let took = Duration::from_millis(milliseconds.try_into().unwrap_or(0));
    match took.as_secs() {
        1..60 => format!("{:.1}s", took.as_secs_f64()),
        _ => duration(took),
    }
}
