//! The world in memory: all ports over one state, under the runtime's paused clock.
//!
//! It keeps the guarantees that the real services give, and no others. A conditional save really fails if
//! its condition does not hold. Pods are replaced one at a time, and only as time passes. External Secrets
//! sync at times of their own. Readers hold old copies for as long as they are allowed to. An invocation
//! can be cut at any call. A reply can be lost, and its call can land later. Another invocation can run
//! between any two calls.
//!
//! After every call that may change something, and after every event that happens by itself, the world
//! checks two invariants. Every verifier accepts every token that any presenter presents. Everything that
//! is saved and published follows from what was saved before.

mod cluster;
mod faults;
mod invariants;
mod lives;
mod looks;
mod token_events;
pub mod place;
mod ports;
mod records;
mod rest;
mod state;

use std::{
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    time::Duration,
};

use changeover_core::embedded_metrics::EmbeddedMetrics;
use changeover_core::{
    clock::Clock,
    error::Error,
    event::{Event, Invocation, Request},
    invoke,
    job_result::JobResult,
    ports::{InboxValue, MetricsSink, Ports, SpecText},
    record::{Audit, Failing, Record},
    rotate::Settings,
    spec::{ParameterName, Place, Reserved, Side, Spec},
    token_event::TokenEvent,
};
use changeover_token::{Secret, TokenName};
use futures::{FutureExt, StreamExt, future::LocalBoxFuture, stream::FuturesUnordered};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

pub use faults::{Fault, Faults, Intruder};
pub use lives::Backup;
pub use rest::Rest;

use faults::{Actor, Signal};
use ports::MemoryPorts;
pub use state::Bus;
use state::{Job, State};

/// One world in memory, with its own state.
#[derive(Clone)]
pub struct MemoryWorld(Arc<Mutex<State>>);

/// The end of an invocation.
#[derive(Debug)]
pub enum Ending {
    /// It returned an answer.
    Answered(Value),
    /// It returned an error.
    Failed(Error),
    /// It was cut, or killed at its deadline.
    Cut,
}

impl Ending {
    /// The `outcome` of its answer, the kind of its error, or `cut`.
    pub fn outcome(&self) -> &str {
        match self {
            Ending::Answered(answer) => answer["outcome"].as_str().unwrap_or("none"),
            Ending::Failed(error) => error.kind.as_str(),
            Ending::Cut => "cut",
        }
    }

    /// The whole answer, or null if there is none.
    pub fn answer(&self) -> &Value {
        match self {
            Ending::Answered(answer) => answer,
            _ => &Value::Null,
        }
    }
}

/// An ending, and the number of calls that the invocation made.
#[derive(Debug)]
pub struct Run {
    pub ending: Ending,
    pub calls: usize,
}

impl MemoryWorld {
    /// An empty world in which the seed determines everything random.
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State::new(seed))))
    }

    /// The ports as an invocation without faults has them.
    pub fn ports(&self) -> Ports {
        let (actor, _) = Actor::new("somebody", Faults::none());
        self.world_of(Arc::new(actor))
    }

    /// Sets the command that replays this world. The message of a violated invariant shows it.
    pub fn replayed_by(&self, replay: impl Into<String>) {
        self.state().replay = replay.into();
    }

    /// Writes the spec of a token as a new version of its parameter, and creates the objects in clusters
    /// that it names.
    pub fn specify(&self, token: &TokenName, json: &Value) {
        let mut state = self.state();
        // The versions of a parameter that was deleted start at 1 again.
        let before = state.specs.get(token).filter(|_| !state.unspecified.contains(token));
        let version = before.map_or(1, |(text, _)| text.version + 1);
        let json = json.to_string();
        let spec = Spec::parse(token, version, &json).expect("a spec");
        let modified_at = Some(state.now);
        let text = SpecText { version, modified_at, json };
        state.specs.insert(token.clone(), (text, spec.clone()));
        state.unspecified.remove(token);
        state.bad_specs.remove(token);
        state.deploy(&spec);
    }

    /// Deletes the spec of a token. Its readers stay.
    pub fn unspecify(&self, token: &TokenName) {
        let mut state = self.state();
        state.bad_specs.remove(token);
        state.unspecified.insert(token.clone());
    }

    /// Makes the object with this name unreadable from now on: an inbox, a place, or the record of a token.
    pub fn make_unreadable(&self, name: impl ToString) {
        self.state().unreadable.insert(name.to_string());
    }

    /// Makes the object with this name readable again.
    pub fn make_readable(&self, name: impl ToString) {
        self.state().unreadable.remove(&name.to_string());
    }

    /// The failed runs that are stored beside a record.
    pub fn failing(&self, token: &TokenName) -> Option<Failing> {
        self.state().records.failing.get(token).cloned()
    }

    /// Writes a text that is not a valid spec as the spec of a token.
    pub fn specify_badly(&self, token: &TokenName, json: &str) {
        let mut state = self.state();
        let modified_at = Some(state.now);
        let text = SpecText { version: 1, modified_at, json: json.to_owned() };
        state.bad_specs.insert(token.clone(), text);
    }

    /// The text of a token's spec as it was last written.
    pub fn spec_text(&self, token: &TokenName) -> SpecText {
        self.state().specs[token].0.clone()
    }

    /// Makes the next `reads` reads of a token's spec return this earlier text.
    pub fn serve_stale(&self, token: &TokenName, text: SpecText, reads: usize) {
        self.state().stale_specs.insert(token.clone(), (text, reads));
    }

    /// Replaces the description of a cluster, as an operator does.
    pub fn describe(&self, cluster: &str, description: &str) {
        self.state().descriptions.insert(cluster.to_owned(), description.to_owned());
    }

    /// Starts a pipeline job that waits for an answer.
    pub fn start_job(&self, id: &str) {
        self.state().jobs.insert(id.to_owned(), Job::Waiting);
    }

    /// The verdict that this job received, or `None` while it waits.
    pub fn job_result(&self, job: &str) -> Option<JobResult> {
        match self.state().jobs.get(job) {
            Some(Job::Answered(job_result)) => Some(job_result.clone()),
            _ => None,
        }
    }

    /// The spec of a token.
    pub fn spec(&self, token: &TokenName) -> Spec {
        self.state().specs[token].1.clone()
    }

    /// Makes the verifiers that read this place come into service with their first view, and not before.
    pub fn joins_with_its_first_view(&self, place: &Place) {
        self.state().joining.insert(place.clone());
    }

    /// Deletes a parameter, as an operator does.
    pub fn delete_parameter(&self, place: &Place) {
        self.state().delete_parameter(place);
    }

    /// Puts a label on another version of a parameter by hand.
    pub fn move_label(&self, place: &Place, label: &'static str, version: u64) {
        assert!(self.state().put_label(place, label, version).is_ok(), "there is such a version");
    }

    /// Writes a value by hand.
    pub fn edit(&self, place: &Place, side: Side, value: &str) {
        self.state().edit(place, side, value);
    }

    /// Writes a new token by hand to a place that presenters read, before any verifier accepts it.
    pub fn edit_presented(&self, place: &Place, value: &str) {
        let mut state = self.state();
        state.by_hand.insert(place::digest_of(value));
        state.edit(place, Side::Presenters, value);
    }

    /// Puts a value into an inbox, as an issuer does: as a SecureString or in plain text.
    pub fn arrive(&self, inbox: &str, value: &str, is_secure: bool) {
        let mut state = self.state();
        let inbox = ParameterName::parse(inbox).expect("a name");
        let version = state.inboxes.get(&inbox).map_or(1, |arrival| arrival.version + 1);
        let (value, written_at) = (Secret::verbatim(value.to_owned()), state.now);
        state.inboxes.insert(inbox.clone(), InboxValue { value, is_secure, version, written_at });
        state.happened(&format!("a value arrives in {inbox}"));
    }

    /// Deletes an inbox. The next value that arrives in it has version 1 again.
    pub fn delete_inbox(&self, inbox: &str) {
        self.state().inboxes.remove(&ParameterName::parse(inbox).expect("a name"));
    }

    /// The value that a Secret holds.
    pub fn secret(&self, name: &str) -> String {
        self.state().secret(name)
    }

    /// Writes a value into a Secret by hand.
    pub fn edit_secret(&self, name: &str, value: &str) {
        self.state().edit_secret(name, value);
    }

    /// Copies the view of one side by hand from one place to another.
    pub fn copy_view(&self, from: &Place, to: &Place, side: Side) {
        let value = self.value(from, side);
        self.edit(to, side, &value);
    }

    /// The value that a side reads at a place.
    pub fn value(&self, place: &Place, side: Side) -> String {
        let state = self.state();
        let value = state.places.get(place).and_then(|it| it.value(side));
        value.expect("a value").to_owned()
    }

    /// Writes a token that was in use before changeover was. All verifiers without a view accept it.
    pub fn in_use_before(&self, place: &Place, value: &str) {
        let mut state = self.state();
        state.legacy.insert(place::digest_of(value));
        state.edit(place, Side::Presenters, value);
        state.copied_before(place, value);
    }

    /// Makes the controller that owns a workload undo the changes of others, or leave stamps alone.
    pub fn put_back(&self, name: &str, is_put_back: bool) {
        self.state().deployment(name).is_put_back = is_put_back;
    }

    /// Makes new pods of a workload fail to become ready from now on.
    pub fn break_workload(&self, name: &str, reason: &'static str) {
        self.state().deployment(name).broken = Some(reason);
    }

    /// Makes new pods of a workload become ready again.
    pub fn fix_workload(&self, name: &str) {
        self.state().deployment(name).broken = None;
    }

    /// Makes the API server of a cluster stop answering from now on. The pods of the cluster keep running.
    pub fn lose_cluster(&self, name: &str) {
        self.state().cluster.lost.insert(name.to_owned());
    }

    /// Makes the API server of a cluster answer again.
    pub fn find_cluster(&self, name: &str) {
        self.state().cluster.lost.remove(name);
    }

    /// Excludes the pods of a cluster from the checks from now on.
    pub fn give_up_cluster(&self, name: &str) {
        self.state().cluster.given_up.insert(name.to_owned());
    }

    /// Replaces the behaviour of the bus of notices from now on.
    pub fn break_bus(&self, bus: Bus) {
        self.state().bus = bus;
    }

    /// Refuses to start further invocations for these tokens from now on.
    pub fn refuse_invocations_for(&self, tokens: impl IntoIterator<Item = TokenName>) {
        self.state().refused = tokens.into_iter().collect();
    }

    /// The further invocations that were started, each with its time.
    pub fn started(&self) -> Vec<(Timestamp, Request)> {
        self.state().started.clone()
    }

    /// Pauses a workload, so that a restart of it never finishes, or resumes it.
    pub fn pause_workload(&self, name: &str, is_paused: bool) {
        let mut state = self.state();
        state.deployment(name).is_paused = is_paused;
        state.progress(&name.to_owned());
    }

    /// Restarts a container of a random pod.
    pub fn restart_some_pod(&self) {
        self.state().restart_some_pod();
    }

    /// The current time.
    pub fn now(&self) -> Timestamp {
        self.state().now
    }

    /// Lets time pass, with every event that happens by itself meanwhile.
    pub async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
        drop(self.state());
        self.assert_sound();
    }

    /// The record of a token as it is stored.
    pub fn record(&self, token: &TokenName) -> Option<Record> {
        self.state().records.record(token)
    }

    /// Replaces a record by hand. From then on the world violates invariants by itself, so violations are
    /// not noted any more.
    pub fn damage(&self, token: &TokenName, record: &Record) {
        let mut state = self.state();
        state.is_damaged = true;
        state.records.replace(token, record);
        let due_at = record.due_at();
        state.index(token, due_at);
    }

    /// The audit entry of a version.
    pub fn audit(&self, token: &TokenName, version: u64) -> Option<Audit> {
        let item = (token.clone(), changeover_token::VersionNumber::new(version));
        self.state().records.audit.get(&item).cloned()
    }

    /// The number of versions that were ever minted or adopted.
    pub fn minted(&self, token: &TokenName) -> usize {
        self.state().records.minted(token)
    }

    /// The values that no message may contain: each value that presenters read last, and every digest that
    /// ever existed.
    pub fn secrets(&self, token: &TokenName) -> Vec<String> {
        let spec = self.spec(token);
        let places = spec.presenters.publications.iter().map(|publication| &publication.place);
        let mut secrets = self.state().records.digests(token);
        secrets.extend(places.map(|place| self.value(place, Side::Presenters)));
        secrets
    }

    /// The notices that subscribers received, in order.
    pub fn told_of(&self, token: &TokenName) -> Vec<TokenEvent> {
        let published = &self.state().published;
        published.iter().filter(|token_event| token_event.token == *token).cloned().collect()
    }

    /// Every record of a token that was ever saved, in order.
    pub fn saved(&self, token: &TokenName) -> Vec<Record> {
        self.state().records.saved(token)
    }

    /// The metric lines that were written for monitoring, in order.
    pub fn measured(&self) -> Vec<String> {
        self.measured_by(FUNCTION_NAME)
    }

    /// The same lines, as the function of this name would have written them.
    pub fn measured_by(&self, function_name: &str) -> Vec<String> {
        let (print, lines) = mpsc::channel();
        let print = Arc::new(move |line: &str| print.send(line.to_owned()).unwrap());
        let metrics_sink = EmbeddedMetrics::new(function_name.to_owned(), print);
        for measurement in &self.state().measured {
            metrics_sink.write(measurement);
        }
        lines.try_iter().collect()
    }

    /// The latest entries of the journal.
    pub fn journal(&self) -> String {
        self.state().journal()
    }

    /// The number of calls of a port. `None` counts all calls except those to clusters.
    pub fn calls(&self, port: Option<&str>) -> usize {
        let of_clusters = [
            "inspect",
            "examine",
            "force_sync",
            "synced",
            "secret_revision",
            "stamp",
            "rolled_out",
            "editors",
        ];
        let state = self.state();
        let counted = state.calls.iter().filter(|(name, _)| match port {
            Some(port) => port == **name,
            None => !of_clusters.contains(name),
        });
        counted.map(|(_, count)| count).sum()
    }

    /// The first violation of an invariant, if there was one.
    pub fn violation(&self) -> Option<String> {
        self.state().violation().map(str::to_owned)
    }

    /// Fails the test if an invariant was ever violated.
    pub fn assert_sound(&self) {
        let state = self.state();
        if let Some(violation) = state.violation() {
            let message = format!("{violation}\nreplay with: {}", state.replay);
            drop(state);
            panic!("{message}");
        }
    }

    /// Fails the test, and shows the command that replays it.
    pub fn fail(&self, why: &str) -> ! {
        let state = self.state();
        let (replay, journal) = (state.replay.clone(), state.journal());
        drop(state);
        panic!("{why}\n  {journal}\nreplay with: {replay}");
    }

    /// The outcome of the last invocation with this id.
    pub fn ending_of(&self, id: &str) -> Option<String> {
        self.state().endings.get(id).cloned()
    }

    /// Runs one invocation without faults, with a quarter of an hour of time.
    pub async fn invoke(&self, id: &str, event: impl Into<Event>) -> Ending {
        self.run(id, event, LONG, Faults::none()).await.ending
    }

    /// Runs one invocation with its faults. It is killed at its deadline. The invocations that it starts
    /// run beside it, and have ended too when this returns.
    pub async fn run(
        &self,
        id: &str,
        event: impl Into<Event>,
        time: Duration,
        faults: Faults,
    ) -> Run {
        self.run_as(id, event.into(), time, faults, SignedDuration::ZERO, SignedDuration::ZERO)
            .await
    }

    /// Does the same, with a clock and a reported deadline that are off by this much.
    pub async fn run_as(
        &self,
        id: &str,
        event: Event,
        time: Duration,
        faults: Faults,
        clock_off: SignedDuration,
        deadline_off: SignedDuration,
    ) -> Run {
        let (actor, mut signals) = Actor::new(id, faults);
        let actor = Arc::new(actor);
        let mut world = self.world_of(actor.clone());
        world.clock = Clock::starting_at(self.now() + clock_off);
        if clock_off != SignedDuration::ZERO {
            self.state().is_damaged = true;
        }
        let settings = settings();
        let invocation = Invocation {
            id: id.to_owned(),
            deadline: self.now() + time + deadline_off,
            function: FUNCTION.to_owned(),
        };
        let mut others = FuturesUnordered::new();
        let ending = {
            let mut handled = pin!(invoke::handle(&world, &settings, event, &invocation));
            let mut deadline = pin!(tokio::time::sleep(time));
            loop {
                tokio::select! {
                    biased;
                    signal = signals.next() => match signal {
                        Some(Signal::Intrude(intruder, through)) => {
                            let Intruder { id, request, spec } = intruder;
                            if let (Some(spec), Some(token)) = (spec, request.token()) {
                                self.specify(token, &spec);
                            }
                            // The intruder has no faults, and the interrupted invocation waits for it.
                            Box::pin(self.run(&id, request, LONG, Faults::none())).await;
                            let _ = through.send(());
                        }
                        Some(Signal::Start) => others.extend(self.run_started()),
                        Some(Signal::Cut) | None => break Ending::Cut,
                    },
                    Some(_) = others.next() => {}
                    answered = &mut handled => break match answered {
                        Ok(answer) => Ending::Answered(
                            serde_json::to_value(&answer).expect("an answer serializes"),
                        ),
                        Err(error) => Ending::Failed(error),
                    },
                    () = &mut deadline => break Ending::Cut,
                }
            }
        };
        self.state().ended(id, ending.outcome());
        // Started invocations outlive the one that started them, whatever its ending was.
        others.extend(self.run_started());
        while others.next().await.is_some() {}
        self.assert_sound();
        Run { ending, calls: actor.calls() }
    }

    /// The invocations that were started and do not run yet.
    fn run_started(&self) -> Vec<LocalBoxFuture<'_, Ending>> {
        let mut state = self.state();
        let first = state.started.len() - state.to_run.len() + 1;
        let to_run = std::mem::take(&mut state.to_run).into_iter().zip(first..);
        let run = |(request, number)| async move {
            self.invoke(&format!("started {number}"), request).await
        };
        to_run.map(|each| run(each).boxed_local()).collect()
    }

    fn world_of(&self, actor: Arc<Actor>) -> Ports {
        let ports = Arc::new(MemoryPorts { state: self.0.clone(), actor });
        let state = self.0.clone();
        Ports {
            specs: ports.clone(),
            inboxes: ports.clone(),
            records: ports.clone(),
            publications: ports.clone(),
            clusters: ports.clone(),
            copies: ports.clone(),
            workloads: ports.clone(),
            pipeline: ports.clone(),
            invocations: ports.clone(),
            event_publisher: Some(ports.clone()),
            metrics_sink: ports.clone(),
            calls: Arc::new(move || ports.actor.calls() as u64),
            clock: Clock::starting_at(self.now()),
            random_source: Arc::new(move |buffer| {
                let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
                buffer.fill_with(|| state.dice.roll() as u8);
                Ok(())
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.catch_up();
        state
    }
}

/// The name of the function.
const FUNCTION_NAME: &str = "changeover-rotator";
/// The ARN by which every invocation is invoked.
const FUNCTION: &str = "arn:aws:lambda:eu-west-1:123456789012:function:changeover-rotator:sweep";
/// The defaults of the contract.
pub const LEASE: Duration = Duration::from_secs(30);
pub const LATE_WRITE: Duration = Duration::from_secs(5 * 60);
/// The time limit of an invocation that has plenty of time.
pub const LONG: Duration = Duration::from_secs(15 * 60);

/// The settings that an invocation gets from its environment.
pub fn settings() -> Settings {
    // Real calls take seconds at most, so these numbers fit an emulator and AWS alike.
    let reserved = Reserved {
        table: "changeover".to_owned(),
        paths: vec!["/changeover/tokens".to_owned(), "/changeover/clusters".to_owned()],
    };
    Settings { lease: LEASE, late_write: LATE_WRITE, reserved }
}

/// The name of a token, in tests.
pub fn token(name: &str) -> TokenName {
    TokenName::parse(name).expect("a name")
}

/// A place, in tests.
pub fn place(text: &str) -> Place {
    text.parse().expect("a place")
}

impl MemoryWorld {
    /// Runs one invocation on a computer whose clock is off by this many hours.
    pub async fn run_with_clock(&self, id: &str, request: Request, hours: i64) -> Run {
        let off = SignedDuration::from_hours(hours);
        self.run_as(id, request.into(), Duration::from_secs(900), Faults::none(), off, off).await
    }

    /// Runs one invocation whose reported deadline is this time.
    pub async fn run_until(&self, id: &str, request: Request, deadline: Timestamp) -> Run {
        let time = Duration::from_secs(900);
        let off = deadline.duration_since(self.now() + time);
        self.run_as(id, request.into(), time, Faults::none(), SignedDuration::ZERO, off).await
    }
}
