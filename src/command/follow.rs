//! A rotation, step by step, until it is rotated, held or out of time.
//!
//! Each invocation is short and says what was done since. By the rotation's key each one joins what
//! the first began, so that a reply that is lost costs nothing, and no network between needs to keep
//! a quiet connection for as long as a rotation takes.

use std::time::Duration;

use jiff::Timestamp;

use super::{
    Surroundings,
    answer::{Answer, Done},
    arguments::Rotation,
    function::{Function, Reply},
    render,
};
use crate::error::Error;

/// How long an invocation waits where nobody says otherwise: how old what is shown may be.
const WAIT: Duration = Duration::from_secs(10);
/// The pause between two invocations. One answers at once while somebody else is at it.
const PAUSE: Duration = Duration::from_secs(2);
/// An invocation is told to end at the time limit. How much longer its reply is awaited.
const LAST_REPLY: Duration = Duration::from_secs(5);

/// Follows a rotation; its last reply, `None` where the time limit came before the first.
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
    here.progress.stands(&format!("waiting for {}", function.name()));
    loop {
        let left = clock.until(limit);
        let wait = rotation.wait.unwrap_or(WAIT).min(left);
        let event = super::rotation_event(rotation, key, Some(whole(wait)));
        let replied = tokio::time::timeout(left + LAST_REPLY, function.invoke(&event)).await;
        let Ok(reply) = replied else { return Ok(last) };
        let reply = reply?;
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

/// As a message of the function's can say it.
fn whole(wait: Duration) -> Duration {
    Duration::from_millis(wait.as_millis().try_into().unwrap_or(u64::MAX))
}
