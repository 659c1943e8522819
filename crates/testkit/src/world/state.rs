//! What is so, at what time: everything that the world in memory knows, and what happens in it by
//! itself.
//!
//! Nothing runs in the background. What happens by itself is a queue of events, each at its time;
//! whoever looks at the world or acts on it first lets everything happen that was due before.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use changeover_core::{
    event::Request,
    metrics::Measurement,
    notice::Notice,
    ports::{Arrival, SpecText},
    spec::{ParameterName, Place, Spec},
    verdict::Verdict,
};
use changeover_token::TokenName;

use super::{cluster::Cluster, place::Stored, records::Records};
use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

/// Everything there is.
pub(super) struct State {
    /// The time as of the event that is being worked on.
    pub(super) now: Timestamp,
    pub(super) dice: Dice,
    pub(super) specs: BTreeMap<TokenName, (SpecText, Spec)>,
    /// Specs that do not parse.
    pub(super) bad_specs: BTreeMap<TokenName, SpecText>,
    /// The text that a read of a spec returns in place of the newest one, and how often yet.
    pub(super) stale_specs: BTreeMap<TokenName, (SpecText, usize)>,
    /// The descriptions of clusters; those without one have their name's.
    pub(super) descriptions: BTreeMap<String, String>,
    /// Tokens whose spec was deleted. Their readers go by what it said.
    pub(super) unspecified: BTreeSet<TokenName>,
    /// Inboxes, places and records that cannot be read, by name.
    pub(super) unreadable: BTreeSet<String>,
    pub(super) records: Records,
    /// Where a second copy of a record is always ahead.
    pub(super) rivalled: Option<Place>,
    /// The table after each save, if that is asked for.
    pub(super) backups: Option<Vec<Records>>,
    pub(super) places: BTreeMap<Place, Stored>,
    pub(super) cluster: Cluster,
    /// What arrived in inboxes.
    pub(super) inboxes: BTreeMap<ParameterName, Arrival>,
    /// Digests of what somebody wrote to presented places by hand: nobody accepts it yet.
    pub(super) by_hand: BTreeSet<String>,
    /// Jobs of pipelines.
    pub(super) jobs: BTreeMap<String, Job>,
    /// Further invocations that were started.
    pub(super) started: Vec<(Timestamp, Request)>,
    /// Those of them that nobody runs yet.
    pub(super) to_run: Vec<Request>,
    /// Tokens for which none may be started.
    pub(super) refused: BTreeSet<TokenName>,
    /// Which token is looked at next, where there is a crowd of them.
    pub(super) looked_at: usize,
    /// Tokens that verifiers without any view accept: they were there before changeover.
    pub(super) legacy: BTreeSet<String>,
    /// Places of verifiers that are not in service before their first view.
    pub(super) joining: BTreeSet<Place>,
    /// Writes to places that cannot fence, sent and not yet applied.
    pub(super) in_flight: BTreeMap<TokenName, usize>,
    pub(super) bus: Bus,
    /// What subscribers were told.
    pub(super) told: Vec<Notice>,
    /// What was measured.
    pub(super) measured: Vec<Measurement>,
    /// How often each port was called.
    pub(super) calls: BTreeMap<&'static str, usize>,
    /// What replays this world.
    pub(super) replay: String,
    /// Somebody damaged it: it breaks promises by itself.
    pub(super) is_damaged: bool,
    violation: Option<String>,
    journal: VecDeque<String>,
    /// Whether the event that is being carried out changes nothing that anybody reads.
    pub(super) is_quiet: bool,
    /// How the last invocation of each id ended.
    pub(super) endings: BTreeMap<String, String>,
    began: Instant,
    events: BTreeMap<(Timestamp, u64), Event>,
    scheduled: u64,
}

/// What becomes of notices.
#[derive(Clone, Copy, Debug)]
pub enum Bus {
    /// Subscribers are told.
    Takes,
    /// It answers that it takes none.
    Refuses,
    /// It never answers.
    Silent,
}

/// A job of a pipeline.
pub(super) enum Job {
    /// Nobody has answered it.
    Waiting,
    /// It was told this, and takes no second answer.
    Answered(Verdict),
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
            told: Vec::new(),
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

    /// Lets everything happen that was due by now.
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
            match self.is_quiet {
                true => self.note(&event.what),
                false => self.happened(&event.what),
            }
        }
        self.now = now;
    }

    /// An invocation ended.
    pub(super) fn ended(&mut self, id: &str, outcome: &str) {
        self.endings.insert(id.to_owned(), outcome.to_owned());
        self.happened(&format!("{id}: ends with {outcome}"));
    }

    /// Notes what happened, and checks that everything still holds.
    pub(super) fn happened(&mut self, what: &str) {
        self.note(what);
        if let Err(broken) = self.check() {
            self.violated(&broken);
        }
    }

    /// Notes what changed nothing.
    pub(super) fn note(&mut self, what: &str) {
        if self.journal.len() == JOURNAL {
            self.journal.pop_front();
        }
        let line = format!("{:.3} {what}", self.now);
        self.journal.push_back(line);
    }

    /// Notes that a promise was broken. The first one counts.
    pub(super) fn violated(&mut self, broken: &str) {
        if self.violation.is_none() && !self.is_damaged {
            self.violation = Some(format!("{broken}\n  {}", self.journal()));
        }
    }

    pub(super) fn violation(&self) -> Option<&str> {
        self.violation.as_deref()
    }

    /// What happened last.
    pub(super) fn journal(&self) -> String {
        Vec::from(self.journal.clone()).join("\n  ")
    }

    /// Has something happen later.
    pub(super) fn later(
        &mut self,
        after: Duration,
        what: impl Into<String>,
        run: impl FnOnce(&mut State) + Send + 'static,
    ) {
        self.at(self.now + after, what, run);
    }

    /// Has something happen at a time, or at once where that has passed.
    pub(super) fn at(
        &mut self,
        time: Timestamp,
        what: impl Into<String>,
        run: impl FnOnce(&mut State) + Send + 'static,
    ) {
        self.scheduled += 1;
        // The runtime's timers have milliseconds.
        let time = Timestamp::from_millisecond(time.as_millisecond()).expect("a time of this age");
        let event = Event { what: what.into(), run: Box::new(run) };
        self.events.insert((time.max(self.now), self.scheduled), event);
    }

    /// When the next thing happens by itself.
    pub(super) fn next_event(&self) -> Option<Timestamp> {
        self.events.first_key_value().map(|((at, _), _)| *at)
    }

    /// What time it is, in whole milliseconds.
    pub(super) fn clock(&self) -> Timestamp {
        let elapsed = i64::try_from(self.began.elapsed().as_millis()).expect("less than an age");
        BEGINNING + SignedDuration::from_millis(elapsed)
    }
}

/// When every world begins: 2026-11-01T00:00:00Z.
const BEGINNING: Timestamp = Timestamp::constant(1_793_491_200, 0);
/// How much of what happened is shown when a promise was broken.
const JOURNAL: usize = 120;

/// All chance there is: splitmix64, so that a seed replays.
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

    /// Whether it comes up, once in `n` times.
    pub(super) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// Milliseconds between two bounds, the first included.
    pub(super) fn milliseconds(&mut self, range: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(range.start + self.roll() % (range.end - range.start))
    }

    /// One of these.
    pub(super) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}
