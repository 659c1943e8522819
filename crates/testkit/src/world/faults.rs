//! What may befall an invocation: its calls are counted, and at a chosen one it is cut, the call
//! fails, or somebody else steps in.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use changeover_core::event::Request;
use futures::channel::{mpsc, oneshot};
use serde_json::Value;

/// What befalls one invocation, at which of its calls, counted from 1.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    pub calls: BTreeMap<usize, Fault>,
    /// Another whole invocation runs just before this call.
    pub intruders: BTreeMap<usize, Intruder>,
}

/// What befalls a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The invocation ends here; the call was never sent.
    CutBefore,
    /// The invocation ends here; the call was carried out.
    CutAfter,
    /// The invocation ends here; the call is carried out after this time.
    CutLate(Duration),
    /// The call fails and was not carried out.
    FailBefore,
    /// The call was carried out, and its reply was lost.
    FailAfter,
    /// The call's reply was lost, and it is carried out after this time.
    FailLate(Duration),
    /// The call succeeds; an attempt of it whose reply was lost is carried out after this time.
    Twice(Duration),
    /// The call is carried out, and takes this time before.
    Slow(Duration),
    /// The call was carried out, and whoever reads its reply panics, with these words.
    Panics(&'static str),
}

/// Another whole invocation.
#[derive(Clone, Debug)]
pub struct Intruder {
    pub id: String,
    pub request: Request,
    /// The token's spec is changed before it.
    pub spec: Option<Value>,
}

impl Intruder {
    /// An invocation that nothing comes before.
    pub fn new(id: &str, request: Request) -> Self {
        Self { id: id.to_owned(), request, spec: None }
    }
}

impl Faults {
    /// Nothing befalls it.
    pub fn none() -> Self {
        Self::default()
    }

    /// One fault at one call.
    pub fn at(call: usize, fault: Fault) -> Self {
        Self { calls: BTreeMap::from([(call, fault)]), intruders: BTreeMap::new() }
    }

    /// Somebody else just before one call.
    pub fn intruded(call: usize, intruder: Intruder) -> Self {
        Self { calls: BTreeMap::new(), intruders: BTreeMap::from([(call, intruder)]) }
    }

    /// Whether nothing befalls it.
    pub fn is_none(&self) -> bool {
        self.calls.is_empty() && self.intruders.is_empty()
    }
}

/// One invocation, as its ports see it.
pub(super) struct Actor {
    pub name: String,
    faults: Faults,
    calls: Mutex<usize>,
    signals: mpsc::UnboundedSender<Signal>,
}

/// What the ports tell whoever runs the invocation.
pub(super) enum Signal {
    /// It ends here.
    Cut,
    /// It started others, which run beside it.
    Start,
    /// It stands still until somebody else is through.
    Intrude(Intruder, oneshot::Sender<()>),
}

impl Actor {
    pub(super) fn new(name: &str, faults: Faults) -> (Self, mpsc::UnboundedReceiver<Signal>) {
        let (signals, received) = mpsc::unbounded();
        (Self { name: name.to_owned(), faults, calls: Mutex::new(0), signals }, received)
    }

    /// Counts a call, lets others step in before it, and says what befalls it.
    pub(super) async fn call(&self) -> Option<Fault> {
        let call = {
            let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
            *calls += 1;
            *calls
        };
        if let Some(intruder) = self.faults.intruders.get(&call) {
            let (through, done) = oneshot::channel();
            if self.signals.unbounded_send(Signal::Intrude(intruder.clone(), through)).is_ok() {
                let _ = done.await;
            }
        }
        self.faults.calls.get(&call).copied()
    }

    /// Ends the invocation: whoever runs it drops it, so this never returns.
    pub(super) async fn cut(&self) {
        let _ = self.signals.unbounded_send(Signal::Cut);
        std::future::pending::<()>().await;
    }

    /// Says that there are others to run.
    pub(super) fn starts_others(&self) {
        let _ = self.signals.unbounded_send(Signal::Start);
    }

    /// How many calls it made.
    pub(super) fn calls(&self) -> usize {
        *self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
