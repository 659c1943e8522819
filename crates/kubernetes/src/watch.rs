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
    api: impl Fn(Client) -> Api<K> + Send + Sync + 'a,
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
                state.connect(access, target, &configuration, &api).await?;
                if !state.listing && state.asked_at.elapsed() >= ASKED_AGAIN_AFTER {
                    state.renew(access, target).await;
                    continue;
                }
                let (failure, is_lost) = match state.next().await {
                    Next::Event(event) => return Ok(Some((event, (state, api)))),
                    Next::Again => continue,
                    Next::Failed { failure, is_lost } => (failure, is_lost),
                };
                state.recover(access, target, failure, is_lost).await?;
            }
        }
    })
}

/// Result of the wait for the next event.
enum Next<K> {
    Event(Event<K>),
    /// Nothing, and nothing is wrong.
    Again,
    Failed {
        failure: Failure,
        /// True if the place in the history is lost, or may be.
        is_lost: bool,
    },
}

impl<K> WatchState<K>
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    /// Opens the watch if there is none. Failures to connect that may pass are retried.
    async fn connect(
        &mut self,
        access: &dyn Access,
        target: Target<'_>,
        configuration: &watcher::Config,
        api: &(impl Fn(Client) -> Api<K> + Sync),
    ) -> Result<(), Error> {
        while self.current.is_none() {
            match access.connect(target.cluster).await {
                Ok(connection) => {
                    let client = connection.client.clone();
                    let events = watcher(api(client), configuration.clone()).boxed();
                    self.listing = true;
                    self.asked_at = Instant::now();
                    self.current = Some((connection, events));
                }
                Err(error) => {
                    self.failures += 1;
                    let may_pass = matches!(error.kind, Kind::Unreachable | Kind::Throttled);
                    if !may_pass || self.failures > FAILURES {
                        return Err(error);
                    }
                    sleep(Failure::Silence.pause(target, self.failures)).await;
                }
            }
        }
        Ok(())
    }

    /// Requests the connection again. The same one is returned, unless our identity is about to end. If no
    /// connection can be made now, the watch keeps the present one until the server refuses it.
    async fn renew(&mut self, access: &dyn Access, target: Target<'_>) {
        self.asked_at = Instant::now();
        if let Ok(renewed) = access.connect(target.cluster).await
            && self.current.as_ref().is_some_and(|(it, _)| it.generation != renewed.generation)
        {
            self.current = None;
        }
    }

    /// Waits for the next event. A list must be answered soon. An event may take any time.
    async fn next(&mut self) -> Next<K> {
        let Some((_, events)) = &mut self.current else { return Next::Again };
        let until = if self.listing {
            Instant::now() + ANSWER_WITHIN
        } else {
            self.asked_at + ASKED_AGAIN_AFTER
        };
        let failure = match timeout_at(until, events.next()).await {
            Err(_) if !self.listing => return Next::Again,
            Ok(Some(Ok(event))) => {
                match event {
                    Event::Init => self.listing = true,
                    Event::InitDone => self.listing = false,
                    _ => {}
                }
                if !matches!(event, Event::Init) {
                    self.failures = 0;
                    self.refused = false;
                }
                return Next::Event(event);
            }
            Ok(Some(Err(error))) => match failure(error) {
                Some(failure) => failure.after(self.failures),
                None => return Next::Again,
            },
            Ok(None) => Failure::Silence,
            // A list that was not answered is requested anew, like one whose place is lost.
            Err(_) => return Next::Failed { failure: Failure::Silence, is_lost: true },
        };
        // kube's watcher would request the same lost place again.
        let is_lost = matches!(failure, Failure::Passing { code: Some(410), .. });
        Next::Failed { failure, is_lost }
    }

    /// Pauses after a failure, and discards what it has spoilt.
    ///
    /// # Errors
    /// The failure, if another attempt will not succeed, or if there were too many.
    async fn recover(
        &mut self,
        access: &dyn Access,
        target: Target<'_>,
        failure: Failure,
        is_lost: bool,
    ) -> Result<(), Error> {
        let Some((connection, _)) = &self.current else { return Ok(()) };
        self.failures += 1;
        let fatal = match failure {
            Failure::Final { .. } => true,
            Failure::Unauthorized => std::mem::replace(&mut self.refused, true),
            Failure::Silence | Failure::Passing { .. } => self.failures > FAILURES,
        };
        if fatal {
            return Err(failure.into_failed(target, connection).into());
        }
        tracing::debug!(%target, because = failure.because(), "watching continues");
        let pause = failure.pause(target, self.failures);
        let is_spoilt = failure.spoils_the_connection(self.failures);
        if is_spoilt {
            access.discard(target.cluster, connection).await;
        }
        if is_lost || is_spoilt {
            self.current = None;
        }
        sleep(pause).await;
        Ok(())
    }
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
