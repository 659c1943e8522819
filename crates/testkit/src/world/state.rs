//! The state of the world in memory at a time, and the events that happen in it by themselves.
//!
//! Nothing runs in the background. The events that happen by themselves are a queue, each with its time.
//! Every access to the world, to read it or to change it, first runs all events that were due before.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use changeover_core::{
    event::Request,
    job_result::JobResult,
    metrics::MetricPoint,
    ports::{InboxValue, SpecText},
    spec::{ParameterName, Place, Spec},
    token_event::TokenEvent,
};
use changeover_token::TokenName;

use super::{cluster::Cluster, place::Stored, records::Records};
use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

/// The whole state.
pub(super) struct State {
    /// The time of the event that is being carried out.
    pub(super) now: Timestamp,
    pub(super) dice: Dice,
    pub(super) specs: BTreeMap<TokenName, (SpecText, Spec)>,
    /// Specs that do not parse.
    pub(super) bad_specs: BTreeMap<TokenName, SpecText>,
    /// The text that a read of a spec returns instead of the newest one, and the number of reads that still
    /// do.
    pub(super) stale_specs: BTreeMap<TokenName, (SpecText, usize)>,
    /// The descriptions of clusters. A cluster that is not in here has an empty one.
    pub(super) descriptions: BTreeMap<String, String>,
    /// Tokens whose spec was deleted. Their readers keep to what it said.
    pub(super) unspecified: BTreeSet<TokenName>,
    /// Inboxes, places and records that cannot be read, by name.
    pub(super) unreadable: BTreeSet<String>,
    pub(super) records: Records,
    /// The place at which a second copy of a record is always ahead.
    pub(super) rivalled: Option<Place>,
    /// The table after each save, if backups are enabled.
    pub(super) backups: Option<Vec<Records>>,
    pub(super) places: BTreeMap<Place, Stored>,
    pub(super) cluster: Cluster,
    /// The last arrival in each inbox.
    pub(super) inboxes: BTreeMap<ParameterName, InboxValue>,
    /// Digests of values that were written to presented places by hand, and that no verifier accepts yet.
    pub(super) by_hand: BTreeSet<String>,
    /// Jobs of pipelines.
    pub(super) jobs: BTreeMap<String, Job>,
    /// Further invocations that were started.
    pub(super) started: Vec<(Timestamp, Request)>,
    /// The started invocations that do not run yet.
    pub(super) to_run: Vec<Request>,
    /// Tokens for which no invocation may be started.
    pub(super) refused: BTreeSet<TokenName>,
    /// The index of the token that is checked next, if there are too many to check all of them.
    pub(super) looked_at: usize,
    /// Digests of tokens that verifiers without any view accept: they were in use before changeover was.
    pub(super) legacy: BTreeSet<String>,
    /// Places of verifiers that are not in service before their first view.
    pub(super) joining: BTreeSet<Place>,
    /// For each token, the number of writes in flight to places that cannot fence: sent, and not yet
    /// applied.
    pub(super) in_flight: BTreeMap<TokenName, usize>,
    pub(super) bus: Bus,
    /// The notices that subscribers received.
    pub(super) published: Vec<TokenEvent>,
    /// The measurements that were written.
    pub(super) measured: Vec<MetricPoint>,
    /// The number of calls of each port.
    pub(super) calls: BTreeMap<&'static str, usize>,
    /// The command that replays this world.
    pub(super) replay: String,
    /// True if the test damaged the world, so that it violates invariants by itself.
    pub(super) is_damaged: bool,
    violation: Option<String>,
    journal: VecDeque<String>,
    /// True if the event that is being carried out changes nothing that a reader reads.
    pub(super) is_quiet: bool,
    /// The outcome of the last invocation with each id.
    pub(super) endings: BTreeMap<String, String>,
    began: Instant,
    events: BTreeMap<(Timestamp, u64), Event>,
    scheduled: u64,
}

/// The behaviour of the bus of notices.
#[derive(Clone, Copy, Debug)]
pub enum Bus {
    /// It delivers notices to subscribers.
    Takes,
    /// It answers each notice with an error.
    Refuses,
    /// It never answers.
    Silent,
}

/// A job of a pipeline.
pub(super) enum Job {
    /// It has no answer yet.
    Waiting,
    /// It received this verdict, and takes no second one.
    Answered(JobResult),
}

struct Event {
    what: String,
    run: Box<dyn FnOnce(&mut State) + Send>,
}

impl State {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            now: BEGINNING,
            dice: Dice(seed),
            specs: BTreeMap::new(),
            bad_specs: BTreeMap::new(),
            stale_specs: BTreeMap::new(),
            descriptions: BTreeMap::new(),
            unspecified: BTreeSet::new(),
            unreadable: BTreeSet::new(),
            inboxes: BTreeMap::new(),
            by_hand: BTreeSet::new(),
            jobs: BTreeMap::new(),
            started: Vec::new(),
            to_run: Vec::new(),
            refused: BTreeSet::new(),
            looked_at: 0,
            records: Records::default(),
            rivalled: None,
            backups: None,
            places: BTreeMap::new(),
            cluster: Cluster::default(),
            legacy: BTreeSet::new(),
            joining: BTreeSet::new(),
            in_flight: BTreeMap::new(),
            bus: Bus::Takes,
            published: Vec::new(),
            measured: Vec::new(),
            calls: BTreeMap::new(),
            replay: format!("seed {seed}"),
            is_damaged: false,
            violation: None,
            journal: VecDeque::new(),
            is_quiet: false,
            endings: BTreeMap::new(),
            began: Instant::now(),
            events: BTreeMap::new(),
            scheduled: 0,
        }
    }

    /// Runs all events that were due by now.
    pub(super) fn catch_up(&mut self) {
        let now = self.clock();
        while let Some(entry) = self.events.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let ((at, _), event) = entry.remove_entry();
            self.now = self.now.max(at);
            self.is_quiet = false;
            (event.run)(self);
            if self.is_quiet { self.note(&event.what) } else { self.happened(&event.what) }
        }
        self.now = now;
    }

    /// Notes that an invocation ended.
    pub(super) fn ended(&mut self, id: &str, outcome: &str) {
        self.endings.insert(id.to_owned(), outcome.to_owned());
        self.happened(&format!("{id}: ends with {outcome}"));
    }

    /// Notes an event, and checks the invariants.
    pub(super) fn happened(&mut self, what: &str) {
        self.note(what);
        if let Err(broken) = self.check() {
            self.violated(&broken);
        }
    }

    /// Notes an event that changed nothing.
    pub(super) fn note(&mut self, what: &str) {
        if self.journal.len() == JOURNAL {
            self.journal.pop_front();
        }
        let line = format!("{:.3} {what}", self.now);
        self.journal.push_back(line);
    }

    /// Notes that an invariant was violated. Only the first violation counts.
    pub(super) fn violated(&mut self, broken: &str) {
        if self.violation.is_none() && !self.is_damaged {
            self.violation = Some(format!("{broken}\n  {}", self.journal()));
        }
    }

    pub(super) fn violation(&self) -> Option<&str> {
        self.violation.as_deref()
    }

    /// The latest entries of the journal.
    pub(super) fn journal(&self) -> String {
        Vec::from(self.journal.clone()).join("\n  ")
    }

    /// Schedules an event after a delay.
    pub(super) fn later(
        &mut self,
        after: Duration,
        what: impl Into<String>,
        run: impl FnOnce(&mut State) + Send + 'static,
    ) {
        self.at(self.now + after, what, run);
    }

    /// Schedules an event at a time, or at once if that time has passed.
    pub(super) fn at(
        &mut self,
        time: Timestamp,
        what: impl Into<String>,
        run: impl FnOnce(&mut State) + Send + 'static,
    ) {
        self.scheduled += 1;
        // The runtime's timers have a resolution of milliseconds.
        let time = Timestamp::from_millisecond(time.as_millisecond()).expect("a time of this age");
        let event = Event { what: what.into(), run: Box::new(run) };
        self.events.insert((time.max(self.now), self.scheduled), event);
    }

    /// The time of the next event that happens by itself.
    pub(super) fn next_event(&self) -> Option<Timestamp> {
        self.events.first_key_value().map(|((at, _), _)| *at)
    }

    /// The current time, in whole milliseconds.
    pub(super) fn clock(&self) -> Timestamp {
        let elapsed = i64::try_from(self.began.elapsed().as_millis()).expect("less than an age");
        BEGINNING + SignedDuration::from_millis(elapsed)
    }
}

/// The time at which every world begins: 2026-11-01T00:00:00Z.
const BEGINNING: Timestamp = Timestamp::constant(1_793_491_200, 0);
/// The number of events that the message of a violation shows.
const JOURNAL: usize = 120;

/// The only source of randomness: splitmix64, so that a seed replays.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        (self.roll() % bound as u64) as usize
    }

    /// True once in `n` times.
    pub(super) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// Milliseconds between two bounds, the first included.
    pub(super) fn milliseconds(&mut self, range: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(range.start + self.roll() % (range.end - range.start))
    }

    /// One of these values.
    pub(super) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}
