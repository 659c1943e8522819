//! A rotation, step by step, until it is rotated, held or out of time.
//!
//! Each invocation is short and says what was done since. By the rotation's key each one joins what
//! the first began, so that a reply that is lost costs nothing, and no network between needs to keep
//! a quiet connection for as long as a rotation takes. What passes by itself, a refusal for the rate
//! or an answer that did not come, is asked again, until the time limit.

use std::time::Duration;

use changeover_core::{
    error::{Error, Kind},
    ports::Fill,
};
use jiff::Timestamp;

use crate::{
    Surroundings,
    answer::{Answer, Done},
    arguments::Rotation,
    function::{Function, Reply},
    render,
};

/// How long an invocation waits where nobody says otherwise: how old what is shown may be.
const WAIT: Duration = Duration::from_secs(10);
/// The pause between two invocations. One answers at once while somebody else is at it.
const PAUSE: Duration = Duration::from_secs(2);
/// The pause after a failure that may pass: doubled with each one after it, up to the longest.
const BACK_OFF: Duration = Duration::from_secs(2);
const LONGEST_BACK_OFF: Duration = Duration::from_secs(60);
/// An invocation is told to end at the time limit. How much longer its reply is awaited.
const LAST_REPLY: Duration = Duration::from_secs(5);

/// Follows a rotation; its last reply, `None` where the time limit came before the first.
///
/// # Errors
/// Where the function cannot be invoked; if that could have passed, only at the time limit. A refusal after
/// a reply is none: the session has ended, and the rotation continues.
pub(super) async fn follow(
    function: &Function,
    rotation: &Rotation,
    key: &str,
    limit: Timestamp,
    here: &mut Surroundings<'_>,
) -> Result<Option<Reply>, Error> {
    let clock = here.clock;
    let mut told: Vec<Done> = Vec::new();
    let mut last = None;
    let mut failures = 0;
    here.progress.stands(&format!("waiting for {}", function.name()));
    loop {
        let left = clock.until(limit);
        let wait = rotation.wait.unwrap_or(WAIT).min(left);
        let event = super::rotation_event(rotation, key, Some(whole(wait)));
        let replied = tokio::time::timeout(left + LAST_REPLY, function.invoke(&event)).await;
        let Ok(replied) = replied else { return Ok(last) };
        if let Some(failure) = passing(&replied) {
            let again = clock.now() + back_off(failures, &here.fill)?;
            if again >= limit {
                return replied.map(Some);
            }
            failures += 1;
            here.progress.say(&render::visible(&format!("{failure}; asking again")));
            clock.sleep_until(again).await;
            continue;
        }
        failures = 0;
        // It was let in before. A session that was taken on lasts an hour, and a rotation may last longer.
        if let (Err(error), Some(_)) = (&replied, &last)
            && error.kind == Kind::AccessDenied
        {
            here.progress.say(&render::visible(&format!("{error}")));
            return Ok(last);
        }
        let reply = replied?;
        let Ok(answer) = Answer::read(&reply) else { return Ok(Some(reply)) };
        for done in &answer.timeline {
            if !told.contains(done) {
                here.progress.say(&render::step(done));
                told.push(done.clone());
            }
        }
        last = Some(reply);
        let again = clock.now() + PAUSE;
        let again = match answer.outcome.as_str() {
            "in_progress" => again,
            "deferred" => {
                let not_before = answer.not_before.as_deref().and_then(|time| time.parse().ok());
                not_before.unwrap_or(again).max(again)
            }
            _ => return Ok(last),
        };
        here.progress.stands(&render::standing(&answer));
        if again >= limit {
            // Nothing would come of it: what is deferred beyond the limit is told at once.
            return Ok(last);
        }
        clock.sleep_until(again).await;
    }
}

/// What failed, if it may pass by itself. By its key the rotation can be asked for again, whatever
/// became of it.
fn passing(replied: &Result<Reply, Error>) -> Option<String> {
    let (kind, message) = match replied {
        Err(error) => (error.kind.as_str().to_owned(), error.to_string()),
        Ok(reply) => {
            let failed = Answer::read(reply).err()?;
            (failed.kind.clone()?, failed.to_string())
        }
    };
    [Kind::Throttled, Kind::Unreachable].iter().any(|it| it.as_str() == kind).then_some(message)
}

/// A random pause, at least half as long as it may be: a crowd that failed together spreads out.
fn back_off(failures: u32, fill: &Fill) -> Result<Duration, Error> {
    let mut byte = [0];
    fill(&mut byte)?;
    let longest = BACK_OFF.saturating_mul(1 << failures.min(16)).min(LONGEST_BACK_OFF);
    Ok(longest.mul_f64(0.5 + f64::from(byte[0]) / 510.0))
}

/// As a message of the function's can say it.
fn whole(wait: Duration) -> Duration {
    Duration::from_millis(wait.as_millis().try_into().unwrap_or(u64::MAX))
}
