//! Follows a rotation, step by step, until it is rotated, held or out of time.
//!
//! Each invocation is short and returns the steps that were done since. By the rotation's key each one
//! joins the rotation that the first began. So a lost reply costs nothing, and the network between need not
//! keep a quiet connection open for as long as a rotation takes. Temporary failures, throttling or a
//! missing answer, are retried until the time limit.

use std::time::Duration;

use changeover_core::{
    error::{Error, Kind},
    ports::RandomSource,
};
use jiff::Timestamp;

use crate::{
    Context,
    answer::{Answer, Done},
    arguments::Rotation,
    function::{Function, Reply},
    render,
};

/// Time for which an invocation waits by default. It limits the age of what is shown.
const WAIT: Duration = Duration::from_secs(10);
/// Pause between two invocations. An invocation returns at once while another one holds the lease.
const PAUSE: Duration = Duration::from_secs(2);
/// Pause after a failure that may be temporary. It is doubled with each further failure, up to the longest.
const BACK_OFF: Duration = Duration::from_secs(2);
const LONGEST_BACK_OFF: Duration = Duration::from_secs(60);
/// An invocation is asked to end at the time limit. Its reply is awaited for this much longer.
const LAST_REPLY: Duration = Duration::from_secs(5);

/// Follows a rotation and returns its last reply; `None` if the time limit came before the first.
///
/// # Errors
/// The error of a function that cannot be invoked. A failure that could be temporary is returned only at
/// the time limit. A refusal after a reply is not an error: the caller's session has ended, and the
/// rotation continues.
pub(super) async fn follow(
    function: &Function,
    rotation: &Rotation,
    key: &str,
    limit: Timestamp,
    here: &mut Context<'_>,
) -> Result<Option<Reply>, Error> {
    let clock = here.clock;
    let mut shown_steps: Vec<Done> = Vec::new();
    let mut last = None;
    let mut failures = 0;
    here.progress.stands(&format!("waiting for {}", function.name()));
    loop {
        // One invocation, by the same key. It must end within the time that is left.
        let left = clock.until(limit);
        let wait = rotation.wait.unwrap_or(WAIT).min(left);
        let event = super::rotation_event(rotation, key, Some(whole(wait)));
        let replied = tokio::time::timeout(left + LAST_REPLY, function.invoke(&event)).await;
        let Ok(replied) = replied else { return Ok(last) };
        if let Some(failure) = passing(&replied) {
            let again = clock.now() + back_off(failures, &here.random_source)?;
            if again >= limit {
                return replied.map(Some);
            }
            failures += 1;
            here.progress.say(&render::visible(&format!("{failure}; asking again")));
            clock.sleep_until(again).await;
            continue;
        }
        failures = 0;
        // The caller was authorized before. The session of an assumed role lasts an hour, and a rotation
        // may take longer.
        if let (Err(error), Some(_)) = (&replied, &last)
            && error.kind == Kind::AccessDenied
        {
            here.progress.say(&render::visible(&format!("{error}")));
            return Ok(last);
        }
        let reply = replied?;
        let Ok(answer) = Answer::read(&reply) else { return Ok(Some(reply)) };
        // Each step is shown once, even if several replies contain it.
        for done in &answer.timeline {
            if !shown_steps.contains(done) {
                here.progress.say(&render::step(done));
                shown_steps.push(done.clone());
            }
        }
        last = Some(reply);
        // Ask again after a pause, or when a deferred rotation can begin. Any other outcome is final.
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
            // Waiting would change nothing: a rotation that is deferred beyond the limit is reported at
            // once.
            return Ok(last);
        }
        clock.sleep_until(again).await;
    }
}

/// The message of a failure that may be temporary. The rotation can be requested again by its key, whether
/// or not the failed request was carried out.
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

/// A random pause between half of the current limit and all of it, so that callers that failed together do
/// not retry together.
fn back_off(failures: u32, random_source: &RandomSource) -> Result<Duration, Error> {
    let mut byte = [0];
    random_source(&mut byte)?;
    let longest = BACK_OFF.saturating_mul(1 << failures.min(16)).min(LONGEST_BACK_OFF);
    Ok(longest.mul_f64(0.5 + f64::from(byte[0]) / 510.0))
}

/// The duration in whole milliseconds, as the function's messages express it.
fn whole(wait: Duration) -> Duration {
    Duration::from_millis(wait.as_millis().try_into().unwrap_or(u64::MAX))
}
