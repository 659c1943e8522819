//! The world in memory: all ports over one state, under the runtime's paused clock.
//!
//! It keeps the promises that the real parts keep, and no others. Conditional saves really fail.
//! Pods are replaced one at a time and only as time passes; External Secrets sync when they like;
//! readers hold old copies as long as they may. An invocation can be cut at any call, a reply can be
//! lost and the call land later, and somebody else can step in between any two calls. After every
//! call that it carries out, and after everything that happens by itself, it checks that every
//! token that anybody presents is accepted by every verifier, and that what is saved and published
//! follows from what was saved before.

mod cluster;
mod faults;
mod invariants;
mod lives;
mod looks;
mod notices;
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
    notice::Notice,
    ports::{Arrival, Meter, SpecText, World},
    record::{Audit, Failing, Record},
    rotate::Settings,
    spec::{ParameterName, Place, Reserved, Side, Spec},
    verdict::Verdict,
};
use changeover_token::{Secret, TokenName};
use futures::{FutureExt, StreamExt, future::LocalBoxFuture, stream::FuturesUnordered};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

pub use faults::{Fault, Faults, Intruder};
pub use lives::Backup;
pub use rest::Rest;

use faults::{Actor, Signal};
use ports::Ports;
pub use state::Bus;
use state::{Job, State};

/// A world of its own.
#[derive(Clone)]
pub struct MemoryWorld(Arc<Mutex<State>>);

/// How an invocation ended.
#[derive(Debug)]
pub enum Ending {
    /// It answered.
    Answered(Value),
    /// It failed.
    Failed(Error),
    /// It was cut, or killed at its deadline.
    Cut,
}

impl Ending {
    /// The `outcome` that it answered.
    pub fn outcome(&self) -> &str {
        match self {
            Ending::Answered(answer) => answer["outcome"].as_str().unwrap_or("none"),
            Ending::Failed(error) => error.kind.as_str(),
            Ending::Cut => "cut",
        }
    }

    /// The whole answer; null where there is none.
    pub fn answer(&self) -> &Value {
        match self {
            Ending::Answered(answer) => answer,
            _ => &Value::Null,
        }
    }
}

/// An ending, and after how many calls.
#[derive(Debug)]
pub struct Run {
    pub ending: Ending,
    pub calls: usize,
}

impl MemoryWorld {
    /// An empty world in which all chance comes from the seed.
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State::new(seed))))
    }

    /// The world as an invocation has it that nothing befalls.
    pub fn world(&self) -> World {
        let (actor, _) = Actor::new("somebody", Faults::none());
        self.world_of(Arc::new(actor))
    }

    /// Says what replays this world, for the message when a promise is broken.
    pub fn replayed_by(&self, replay: impl Into<String>) {
        self.state().replay = replay.into();
    }

    /// Writes the spec of a token, as a new version of its parameter, and creates what it names in
    /// clusters.
    pub fn specify(&self, token: &TokenName, json: &Value) {
        let mut state = self.state();
        // A parameter that was deleted counts from 1 again.
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

    /// What bears this name cannot be read, from now on: an inbox, a place, or the record of a token.
    pub fn make_unreadable(&self, name: impl ToString) {
        self.state().unreadable.insert(name.to_string());
    }

    /// What bears this name can be read again.
    pub fn make_readable(&self, name: impl ToString) {
        self.state().unreadable.remove(&name.to_string());
    }

    /// The failed runs that are kept beside a record.
    pub fn failing(&self, token: &TokenName) -> Option<Failing> {
        self.state().records.failing.get(token).cloned()
    }

    /// Writes what is no spec where a token's spec belongs.
    pub fn specify_badly(&self, token: &TokenName, json: &str) {
        let mut state = self.state();
        let modified_at = Some(state.now);
        let text = SpecText { version: 1, modified_at, json: json.to_owned() };
        state.bad_specs.insert(token.clone(), text);
    }

    /// The text of a token's spec, as it was written last.
    pub fn spec_text(&self, token: &TokenName) -> SpecText {
        self.state().specs[token].0.clone()
    }

    /// The next so many reads of a token's spec return this earlier text.
    pub fn serve_stale(&self, token: &TokenName, text: SpecText, reads: usize) {
        self.state().stale_specs.insert(token.clone(), (text, reads));
    }

    /// An operator writes another description of a cluster.
    pub fn describe(&self, cluster: &str, description: &str) {
        self.state().descriptions.insert(cluster.to_owned(), description.to_owned());
    }

    /// A pipeline waits for an answer to this job.
    pub fn start_job(&self, id: &str) {
        self.state().jobs.insert(id.to_owned(), Job::Waiting);
    }

    /// What this job was told; `None` while it waits.
    pub fn told(&self, job: &str) -> Option<Verdict> {
        match self.state().jobs.get(job) {
            Some(Job::Answered(verdict)) => Some(verdict.clone()),
            _ => None,
        }
    }

    /// The spec of a token.
    pub fn spec(&self, token: &TokenName) -> Spec {
        self.state().specs[token].1.clone()
    }

    /// Verifiers that read this place come into service with their first view, not before.
    pub fn joins_with_its_first_view(&self, place: &Place) {
        self.state().joining.insert(place.clone());
    }

    /// An operator deletes a parameter.
    pub fn delete_parameter(&self, place: &Place) {
        self.state().delete_parameter(place);
    }

    /// Somebody puts a label on another version of a parameter.
    pub fn move_label(&self, place: &Place, label: &'static str, version: u64) {
        assert!(self.state().put_label(place, label, version).is_ok(), "there is such a version");
    }

    /// Somebody writes a value by hand.
    pub fn edit(&self, place: &Place, side: Side, value: &str) {
        self.state().edit(place, side, value);
    }

    /// Somebody writes a new token to where presenters read it, before any verifier knows it.
    pub fn edit_presented(&self, place: &Place, value: &str) {
        let mut state = self.state();
        state.by_hand.insert(place::digest_of(value));
        state.edit(place, Side::Presenters, value);
    }

    /// An issuer puts a value into an inbox, as a SecureString or in plain.
    pub fn arrive(&self, inbox: &str, value: &str, is_secure: bool) {
        let mut state = self.state();
        let inbox = ParameterName::parse(inbox).expect("a name");
        let version = state.inboxes.get(&inbox).map_or(1, |arrival| arrival.version + 1);
        let (value, written_at) = (Secret::verbatim(value.to_owned()), state.now);
        state.inboxes.insert(inbox.clone(), Arrival { value, is_secure, version, written_at });
        state.happened(&format!("a value arrives in {inbox}"));
    }

    /// Somebody deletes an inbox: what arrives next is version 1 again.
    pub fn delete_inbox(&self, inbox: &str) {
        self.state().inboxes.remove(&ParameterName::parse(inbox).expect("a name"));
    }

    /// What a Secret holds.
    pub fn secret(&self, name: &str) -> String {
        self.state().secret(name)
    }

    /// Somebody writes a value into a Secret by hand.
    pub fn edit_secret(&self, name: &str, value: &str) {
        self.state().edit_secret(name, value);
    }

    /// Somebody copies what a side reads at one place to another.
    pub fn copy_view(&self, from: &Place, to: &Place, side: Side) {
        let value = self.value(from, side);
        self.edit(to, side, &value);
    }

    /// What a side reads at a place.
    pub fn value(&self, place: &Place, side: Side) -> String {
        let state = self.state();
        let value = state.places.get(place).and_then(|it| it.value(side));
        value.expect("a value").to_owned()
    }

    /// A token that was in use before changeover came: all verifiers without a view accept it.
    pub fn in_use_before(&self, place: &Place, value: &str) {
        let mut state = self.state();
        state.legacy.insert(place::digest_of(value));
        state.edit(place, Side::Presenters, value);
        state.copied_before(place, value);
    }

    /// A controller owns a workload, and puts back what others change of it; or it leaves stamps alone.
    pub fn put_back(&self, name: &str, is_put_back: bool) {
        self.state().deployment(name).is_put_back = is_put_back;
    }

    /// New pods of a workload do not become ready, from now on.
    pub fn break_workload(&self, name: &str, reason: &'static str) {
        self.state().deployment(name).broken = Some(reason);
    }

    /// New pods of a workload become ready again.
    pub fn fix_workload(&self, name: &str) {
        self.state().deployment(name).broken = None;
    }

    /// The API server of a cluster does not answer, from now on; its pods go on.
    pub fn lose_cluster(&self, name: &str) {
        self.state().cluster.lost.insert(name.to_owned());
    }

    /// The API server of a cluster answers again.
    pub fn find_cluster(&self, name: &str) {
        self.state().cluster.lost.remove(name);
    }

    /// Whether pods of a cluster fail is nobody's business any more.
    pub fn give_up_cluster(&self, name: &str) {
        self.state().cluster.given_up.insert(name.to_owned());
    }

    /// Nobody is told anything, from now on.
    pub fn break_bus(&self, bus: Bus) {
        self.state().bus = bus;
    }

    /// Nobody may start further invocations for these tokens, from now on.
    pub fn refuse_invocations_for(&self, tokens: impl IntoIterator<Item = TokenName>) {
        self.state().refused = tokens.into_iter().collect();
    }

    /// For which token each further invocation was started, when.
    pub fn started(&self) -> Vec<(Timestamp, Request)> {
        self.state().started.clone()
    }

    /// Pauses a workload, so that a restart would never finish, or resumes it.
    pub fn pause_workload(&self, name: &str, is_paused: bool) {
        let mut state = self.state();
        state.deployment(name).is_paused = is_paused;
        state.progress(&name.to_owned());
    }

    /// A container of some pod starts anew by itself.
    pub fn restart_some_pod(&self) {
        self.state().restart_some_pod();
    }

    /// What time it is.
    pub fn now(&self) -> Timestamp {
        self.state().now
    }

    /// Lets time pass, and whatever happens in it.
    pub async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
        drop(self.state());
        self.assert_sound();
    }

    /// The record of a token as it is stored.
    pub fn record(&self, token: &TokenName) -> Option<Record> {
        self.state().records.record(token)
    }

    /// Somebody replaces a record by hand. From then on the world breaks promises by itself, and holds
    /// nobody to them.
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

    /// How many versions were ever minted or adopted.
    pub fn minted(&self, token: &TokenName) -> usize {
        self.state().records.minted(token)
    }

    /// What must not be told: each value that presenters were given last, and each digest there was.
    pub fn secrets(&self, token: &TokenName) -> Vec<String> {
        let spec = self.spec(token);
        let places = spec.presenters.publications.iter().map(|publication| &publication.place);
        let mut secrets = self.state().records.digests(token);
        secrets.extend(places.map(|place| self.value(place, Side::Presenters)));
        secrets
    }

    /// What subscribers were told, in order.
    pub fn told_of(&self, token: &TokenName) -> Vec<Notice> {
        let told = &self.state().told;
        told.iter().filter(|notice| notice.token == *token).cloned().collect()
    }

    /// Every record of a token that was ever saved, in order.
    pub fn saved(&self, token: &TokenName) -> Vec<Record> {
        self.state().records.saved(token)
    }

    /// The lines that were written for whoever watches, in order.
    pub fn measured(&self) -> Vec<String> {
        self.measured_by(FUNCTION_NAME)
    }

    /// The same, as the function of this name would have written them.
    pub fn measured_by(&self, function_name: &str) -> Vec<String> {
        let (print, lines) = mpsc::channel();
        let print = Arc::new(move |line: &str| print.send(line.to_owned()).unwrap());
        let meter = EmbeddedMetrics::new(function_name.to_owned(), print);
        for measurement in &self.state().measured {
            meter.write(measurement);
        }
        lines.try_iter().collect()
    }

    /// What happened last.
    pub fn journal(&self) -> String {
        self.state().journal()
    }

    /// How often a port was called; all calls but those to clusters where it is `None`.
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

    /// What was broken first, if anything was.
    pub fn violation(&self) -> Option<String> {
        self.state().violation().map(str::to_owned)
    }

    /// Fails the test if a promise was ever broken.
    pub fn assert_sound(&self) {
        let state = self.state();
        if let Some(violation) = state.violation() {
            let message = format!("{violation}\nreplay with: {}", state.replay);
            drop(state);
            panic!("{message}");
        }
    }

    /// Fails the test, saying what replays it.
    pub fn fail(&self, why: &str) -> ! {
        let state = self.state();
        let (replay, journal) = (state.replay.clone(), state.journal());
        drop(state);
        panic!("{why}\n  {journal}\nreplay with: {replay}");
    }

    /// How the last invocation of this id ended.
    pub fn ending_of(&self, id: &str) -> Option<String> {
        self.state().endings.get(id).cloned()
    }

    /// One invocation that nothing befalls, with a quarter of an hour.
    pub async fn invoke(&self, id: &str, event: impl Into<Event>) -> Ending {
        self.run(id, event, LONG, Faults::none()).await.ending
    }

    /// One invocation, and what befalls it. It is killed at its deadline. Those that it starts run
    /// beside it, and have ended too when this returns.
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

    /// The same, where its clock and the deadline that it is told are off by so much.
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
                            // Whoever steps in is whole; whoever is interrupted stands still.
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
        // They live on whatever becomes of who started them.
        others.extend(self.run_started());
        while others.next().await.is_some() {}
        self.assert_sound();
        Run { ending, calls: actor.calls() }
    }

    /// The invocations that somebody started and nobody runs yet.
    fn run_started(&self) -> Vec<LocalBoxFuture<'_, Ending>> {
        let mut state = self.state();
        let first = state.started.len() - state.to_run.len() + 1;
        let to_run = std::mem::take(&mut state.to_run).into_iter().zip(first..);
        let run = |(request, number)| async move {
            self.invoke(&format!("started {number}"), request).await
        };
        to_run.map(|each| run(each).boxed_local()).collect()
    }

    fn world_of(&self, actor: Arc<Actor>) -> World {
        let ports = Arc::new(Ports { state: self.0.clone(), actor });
        let state = self.0.clone();
        World {
            specs: ports.clone(),
            inboxes: ports.clone(),
            records: ports.clone(),
            publications: ports.clone(),
            clusters: ports.clone(),
            pipeline: ports.clone(),
            invocations: ports.clone(),
            subscribers: Some(ports.clone()),
            meter: ports.clone(),
            calls: Arc::new(move || ports.actor.calls() as u64),
            clock: Clock::starting_at(self.now()),
            fill: Arc::new(move |buffer| {
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

/// The function's name.
const FUNCTION_NAME: &str = "changeover-rotator";
/// What every invocation comes in on.
const FUNCTION: &str = "arn:aws:lambda:eu-west-1:123456789012:function:changeover-rotator:sweep";
/// The defaults of the contract.
pub const LEASE: Duration = Duration::from_secs(30);
pub const LATE_WRITE: Duration = Duration::from_secs(5 * 60);
/// The time of an invocation that has plenty.
pub const LONG: Duration = Duration::from_secs(15 * 60);

/// What an invocation is told by its environment.
pub fn settings() -> Settings {
    // Real calls take seconds at most; numbers fit an emulator and the real thing alike.
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
    /// One invocation on a computer whose clock is off by so many hours.
    pub async fn run_with_clock(&self, id: &str, request: Request, hours: i64) -> Run {
        let off = SignedDuration::from_hours(hours);
        self.run_as(id, request.into(), Duration::from_secs(900), Faults::none(), off, off).await
    }

    /// One invocation whose deadline is said to be then.
    pub async fn run_until(&self, id: &str, request: Request, deadline: Timestamp) -> Run {
        let time = Duration::from_secs(900);
        let off = deadline.duration_since(self.now() + time);
        self.run_as(id, request.into(), time, Faults::none(), SignedDuration::ZERO, off).await
    }
}
