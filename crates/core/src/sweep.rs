//! The sweep: resumes every token that owes a step, whichever invocation left it there.
//!
//! A few due tokens it resumes itself. If there are more, it resumes those that have been due for longest,
//! and starts an invocation for each further one, so that a thousand do not wait in line:
//!
//! ```text
//! {"action": "sweep"} ─► what is due? ─┬─► the first 8 ─► resumed
//!                                      └─► each further one ─► {"action": "sweep", "token": "<name>"}
//! ```
//!
//! Whatever happens to such an invocation, and however many of them there are, nothing is lost or done
//! twice: a token is due until a save says otherwise, and the invocation that comes second finds that save.
//!
//! A token whose run fails, for whatever reason, is due again after a back-off of a minute at first and an
//! hour at most. The index keeps such tokens apart, and a sweep takes them on after all others: a thousand
//! that fail delay none that does not.

use std::{collections::BTreeSet, time::Duration};

use changeover_token::TokenName;
use futures::{StreamExt, stream};
use jiff::Timestamp;
use tracing::{info, warn};

use crate::{
    error::{Error, catch_panic},
    event::{Invocation, Request},
    metrics::MetricPoint,
    plan::Ask,
    ports::Ports,
    report::{Answer, Each, Outcome, Report, Results},
    rotate::{self, Asking, Settings},
};

/// Tokens that a sweep resumes itself, all at the same time: a small installation is spared the calls to
/// Lambda.
const BY_ITSELF: usize = 8;
/// Tokens that a sweep takes on, at most; the next one, a minute later, continues. As many invocations may
/// run at the same time in an account with the default quota
/// (<https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html>).
const MOST: usize = 1000;
/// Failing tokens that a sweep counts, at most.
const MOST_FAILING: usize = 10_000;
/// Tokens that are handed on at the same time.
const HANDED_ON_AT_ONCE: usize = 8;
/// The longest pause before each of those is started. Some thirty invocations begin in a second, because
/// each begins with a read of its spec, and Parameter Store answers forty such reads in a second
/// (<https://docs.aws.amazon.com/general/latest/gr/ssm.html>).
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// Time for which a sweep hands on. The next one finds the rest.
const HANDS_ON_FOR: Duration = Duration::from_secs(60);

/// Resumes everything that owed a step when the sweep read the index, tokens whose last run failed after
/// the others. One that fails does not stop the others: it is reported in the answer, and due again after
/// its back-off. One that cannot be handed on is reported too, and stays due.
///
/// # Errors
/// If the due tokens cannot be listed.
pub(crate) async fn all(
    ports: &Ports,
    settings: &Settings,
    invocation: &Invocation,
    stop_at: Timestamp,
) -> Result<Answer, Error> {
    let now = ports.clock.now();
    let (due, failing) =
        tokio::join!(ports.records.due(now, MOST), ports.records.failing(MOST_FAILING));
    let (due, failing) = (due?, failing?);
    let stuck = failing.len();
    let mut own: Vec<_> = due.into_iter().map(|(token, _)| token).collect();
    // After all others, however long they have been due: a thousand of them delay none.
    let again = failing.into_iter().filter(|(_, due_at)| *due_at <= now).map(|(token, _)| token);
    let again: Vec<_> = again.filter(|token| !own.contains(token)).collect();
    own.extend(again);
    own.truncate(MOST);
    let count = own.len();
    let further = own.split_off(own.len().min(BY_ITSELF));
    info!(own = own.len(), further = further.len(), "sweep");
    let own = stream::iter(own)
        .map(|token| carry_on(ports, settings, token, invocation, stop_at))
        .buffer_unordered(BY_ITSELF)
        .collect();
    let hand_on_until = (now + HANDS_ON_FOR).min(stop_at);
    let further = stream::iter(further)
        .map(|token| hand_on(ports, token, &invocation.function, hand_on_until))
        .buffer_unordered(HANDED_ON_AT_ONCE)
        .collect();
    let (mut results, further): (Vec<_>, Vec<_>) = tokio::join!(own, further);
    results.extend(further);
    ports.metrics_sink.write(&MetricPoint::of_sweep(ports.clock.now(), count, stuck));
    Ok(answer(results))
}

/// Resumes one token, if it owes anything. Never lists any, and starts no further invocation.
pub(crate) async fn one(
    ports: &Ports,
    settings: &Settings,
    token: &TokenName,
    invocation: &Invocation,
    stop_at: Timestamp,
) -> Answer {
    answer(vec![carry_on(ports, settings, token.clone(), invocation, stop_at).await])
}

/// A token and its result.
type Swept = (TokenName, Each<Report>);

fn answer(mut results: Vec<Swept>) -> Answer {
    results.sort_by(|(one, _), (other, _)| one.cmp(other));
    let results = results.into_iter().map(|(_, each)| each).collect();
    Answer::Sweep(Results { outcome: Outcome::Swept, results, next: None })
}

async fn carry_on(
    ports: &Ports,
    settings: &Settings,
    token: TokenName,
    invocation: &Invocation,
    stop_at: Timestamp,
) -> Swept {
    let without = &BTreeSet::new();
    let key = &invocation.id;
    let asking = Asking { ask: Ask::Resume, token: &token, key, stop_at, without };
    let report = catch_panic(rotate::run(ports, settings, asking)).await;
    if let Err(error) = &report {
        back_off(ports, &token, error).await;
    }
    ports.metrics_sink.write(&MetricPoint::of_swept_token(ports.clock.now(), &token, &report));
    (token.clone(), Each::of(token, report))
}

/// Makes a token whose run failed due again after its back-off, for whatever reason it failed, and measures
/// its state. If that fails too, the token stays due.
async fn back_off(ports: &Ports, token: &TokenName, error: &Error) {
    let record = ports.records.load(token, None).await.map(|loaded| loaded.record);
    let now = ports.clock.now();
    // The end of a version needs less than what failed, so the back-off must not delay it.
    let next_end = match &record {
        Ok(Some(record)) => record.ends().filter(|end| *end > now).min(),
        _ => None,
    };
    match ports.records.back_off(token, error, now, next_end).await {
        Ok(Some(failing)) => {
            warn!(%token, tries = failing.tries, since = %failing.since, %error, "failed; backs off");
            let measurement = match &record {
                Ok(Some(record)) => MetricPoint::of_failing_token(now, record),
                _ => MetricPoint::of_unreadable(now, token, failing.since),
            };
            ports.metrics_sink.write(&measurement);
        }
        Ok(None) => {}
        Err(second) => warn!(%token, error = %second, "back-off not saved; it stays due"),
    }
}

/// Starts an invocation that resumes this token, after a pause.
async fn hand_on(ports: &Ports, token: TokenName, function: &str, until: Timestamp) -> Swept {
    let started = async {
        tokio::time::sleep(ports.random_pause(LONGEST_PAUSE)?).await;
        let now = ports.clock.now();
        if now >= until {
            return Ok(Report {
                not_before: Some(now),
                warnings: vec!["not handed on in time; the next sweep carries it on".to_owned()],
                ..Report::bare(Outcome::Deferred, &token)
            });
        }
        ports.invocations.start(function, &Request::sweep_of(&token)).await?;
        Ok(Report::bare(Outcome::HandedOn, &token))
    };
    let started = started.await;
    if let Err(error) = &started {
        warn!(%token, %error, "not handed on; it stays due");
    }
    ports.metrics_sink.write(&MetricPoint::of_swept_token(ports.clock.now(), &token, &started));
    (token.clone(), Each::of(token, started))
}
