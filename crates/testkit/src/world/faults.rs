//! Faults of an invocation: its calls are counted, and at a chosen call it is cut, the call fails, or
//! another invocation runs.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use changeover_core::event::Request;
use futures::channel::{mpsc, oneshot};
use serde_json::Value;

/// The faults of one invocation, by the number of the call, counted from 1.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    pub calls: BTreeMap<usize, Fault>,
    /// Another whole invocation runs just before this call.
    pub intruders: BTreeMap<usize, Intruder>,
}

/// A fault of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The invocation ends here. The call is never sent.
    CutBefore,
    /// The invocation ends here. The call is carried out.
    CutAfter,
    /// The invocation ends here. The call is carried out after this time.
    CutLate(Duration),
    /// The call fails and is not carried out.
    FailBefore,
    /// The call is carried out, and its reply is lost.
    FailAfter,
    /// The reply of the call is lost, and the call is carried out after this time.
    FailLate(Duration),
    /// The call succeeds. An attempt of it whose reply was lost is carried out after this time.
    Twice(Duration),
    /// The call is carried out, and takes this time before.
    Slow(Duration),
    /// The call is carried out, and the code that reads its reply panics with these words.
    Panics(&'static str),
}

/// Another whole invocation.
#[derive(Clone, Debug)]
pub struct Intruder {
    pub id: String,
    pub request: Request,
    /// The token's spec is changed to this before the invocation.
    pub spec: Option<Value>,
}

impl Intruder {
    /// An invocation without a change of the spec before it.
    pub fn new(id: &str, request: Request) -> Self {
        Self { id: id.to_owned(), request, spec: None }
    }
}

impl Faults {
    /// No faults.
    pub fn none() -> Self {
        Self::default()
    }

    /// One fault at one call.
    pub fn at(call: usize, fault: Fault) -> Self {
        Self { calls: BTreeMap::from([(call, fault)]), intruders: BTreeMap::new() }
    }

    /// One other invocation, just before one call.
    pub fn intruded(call: usize, intruder: Intruder) -> Self {
        Self { calls: BTreeMap::new(), intruders: BTreeMap::from([(call, intruder)]) }
    }

    /// True if there are no faults.
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

/// A signal from the ports to the code that runs the invocation.
pub(super) enum Signal {
    /// The invocation ends here.
    Cut,
    /// The invocation started others, which run beside it.
    Start,
    /// The invocation waits until the intruder has ended.
    Intrude(Intruder, oneshot::Sender<()>),
}

impl Actor {
    pub(super) fn new(name: &str, faults: Faults) -> (Self, mpsc::UnboundedReceiver<Signal>) {
        let (signals, received) = mpsc::unbounded();
        (Self { name: name.to_owned(), faults, calls: Mutex::new(0), signals }, received)
    }

    /// Counts a call, lets an intruder run before it, and returns the fault of the call.
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

    /// Ends the invocation. Its runner drops it, so this never returns.
    pub(super) async fn cut(&self) {
        let _ = self.signals.unbounded_send(Signal::Cut);
        std::future::pending::<()>().await;
    }

    /// Signals that there are started invocations to run.
    pub(super) fn starts_others(&self) {
        let _ = self.signals.unbounded_send(Signal::Start);
    }

    /// The number of calls that it made.
    pub(super) fn calls(&self) -> usize {
        *self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
