//! A watch of objects of one kind: list, watch, and list again if the server lost our place.

use std::time::Duration;

use changeover_core::error::{Error, Kind};
use futures::{Stream, StreamExt, stream, stream::BoxStream};
use kube::{
    Api, Client, Resource,
    runtime::watcher::{self, Event, watcher},
};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep, timeout_at};

use crate::{
    Access, Connection,
    call::{ANSWER_WITHIN, Failure, Target},
};

/// Streams the events of the objects that `configuration` selects, without end. After [`Event::Init`] all
/// of them follow once more. That is also so after the server lost our place (410) or a new connection was
/// made.
///
/// Failures that may pass are retried, at most five in a row. The stream ends with any other failure. An
/// identity that is about to end is replaced in the middle of the wait.
pub(super) fn watch<'a, K>(
    access: &'a dyn Access,
    target: Target<'a>,
    configuration: watcher::Config,
    api: impl Fn(Client) -> Api<K> + Send + 'a,
) -> impl Stream<Item = Result<Event<K>, Error>> + Send + 'a
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    // A connection that was dropped silently is noticed after this time and a little more.
    let configuration = configuration.timeout(WATCH_SECONDS);
    let state = WatchState {
        current: None,
        failures: 0,
        refused: false,
        listing: true,
        asked_at: Instant::now(),
    };
    stream::try_unfold((state, api), move |(mut state, api)| {
        let configuration = configuration.clone();
        async move {
            loop {
                let (connection, events) = match &mut state.current {
                    Some(current) => current,
                    none => match access.connect(target.cluster).await {
                        Ok(connection) => {
                            let client = connection.client.clone();
                            let events = watcher(api(client), configuration.clone()).boxed();
                            state.listing = true;
                            state.asked_at = Instant::now();
                            none.insert((connection, events))
                        }
                        Err(error) => {
                            state.failures += 1;
                            let may_pass =
                                matches!(error.kind, Kind::Unreachable | Kind::Throttled);
                            if !may_pass || state.failures > FAILURES {
                                return Err(error);
                            }
                            sleep(Failure::Silence.pause(target, state.failures)).await;
                            continue;
                        }
                    },
                };
                if !state.listing && state.asked_at.elapsed() >= ASKED_AGAIN_AFTER {
                    state.asked_at = Instant::now();
                    // This returns the same connection, unless our identity is about to end. If no
                    // connection can be made now, the watch keeps the present one until the server refuses
                    // it.
                    if let Ok(renewed) = access.connect(target.cluster).await
                        && renewed.generation != connection.generation
                    {
                        state.current = None;
                    }
                    continue;
                }
                // A list must be answered soon. An event may take any time.
                let until = if state.listing {
                    Instant::now() + ANSWER_WITHIN
                } else {
                    state.asked_at + ASKED_AGAIN_AFTER
                };
                let next = match timeout_at(until, events.next()).await {
                    Err(_) if !state.listing => continue,
                    next => next,
                };
                // A list that was not answered is requested anew, like one whose place is lost.
                let mut is_lost = next.is_err();
                let failure = match next {
                    Ok(Some(Ok(event))) => {
                        match event {
                            Event::Init => state.listing = true,
                            Event::InitDone => state.listing = false,
                            _ => {}
                        }
                        if !matches!(event, Event::Init) {
                            state.failures = 0;
                            state.refused = false;
                        }
                        return Ok(Some((event, (state, api))));
                    }
                    Ok(Some(Err(error))) => match failure(error) {
                        Some(failure) => failure.after(state.failures),
                        None => continue,
                    },
                    Ok(None) | Err(_) => Failure::Silence,
                };
                // kube's watcher would request the same lost place again.
                is_lost |= matches!(failure, Failure::Passing { code: Some(410), .. });
                state.failures += 1;
                let fatal = match failure {
                    Failure::Final { .. } => true,
                    Failure::Unauthorized => std::mem::replace(&mut state.refused, true),
                    Failure::Silence | Failure::Passing { .. } => state.failures > FAILURES,
                };
                if fatal {
                    return Err(failure.into_failed(target, connection).into());
                }
                tracing::debug!(%target, because = failure.because(), "watching continues");
                let pause = failure.pause(target, state.failures);
                if failure.spoils_the_connection(state.failures) {
                    access.discard(target.cluster, connection).await;
                    is_lost = true;
                }
                if is_lost {
                    state.current = None;
                }
                sleep(pause).await;
            }
        }
    })
}

/// Converts an error of the watcher; `None` if the watcher itself has already acted on it.
fn failure(error: watcher::Error) -> Option<Failure> {
    match error {
        watcher::Error::WatchError(status) if status.code == 410 => None,
        watcher::Error::WatchError(status) => Some(Failure::answered(&status)),
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => Some(Failure::of(error)),
        watcher::Error::NoResourceVersion => Some(Failure::Final {
            code: None,
            because: "the answer has no resourceVersion to go on from".to_owned(),
        }),
    }
}

struct WatchState<K> {
    /// The connection, and the open watch on it.
    current: Option<(Connection, BoxStream<'static, watcher::Result<Event<K>>>)>,
    /// Failures since the last event.
    failures: u32,
    /// True if one of them was a refusal of our identity.
    refused: bool,
    /// True if the answer to a list is awaited.
    listing: bool,
    /// The time at which the connection was last requested.
    asked_at: Instant,
}

/// The interval at which a watch requests its connection again: shorter than the time after which an idle
/// one is discarded.
const ASKED_AGAIN_AFTER: Duration = Duration::from_secs(40);

/// The duration of one watch, after which the server ends it and it is resumed.
const WATCH_SECONDS: u32 = 55;

/// The number of failures in a row that are retried.
const FAILURES: u32 = 5;
