//! An EventBridge bus. Its rules deliver the events of tokens.

use std::{sync::Arc, time::SystemTime};

use async_trait::async_trait;
use aws_sdk_eventbridge::types::{PutEventsRequestEntry, PutEventsResultEntry};
use changeover_core::{
    error::{Error, Kind},
    ports::{EventPublisher, EventsLost},
    token_event::{SOURCE, TokenEvent},
};

use crate::{
    Aws,
    sdk::{failed, incomplete},
};

/// [`EventPublisher`] over EventBridge's API.
pub struct EventBus {
    aws: Arc<Aws>,
    bus: String,
}

impl EventBus {
    /// The bus of this name or ARN.
    pub fn new(aws: Arc<Aws>, bus: String) -> Self {
        Self { aws, bus }
    }
}

#[async_trait]
impl EventPublisher for EventBus {
    async fn publish(&self, token_events: &[TokenEvent]) -> Result<(), EventsLost> {
        let mut entries: Vec<_> =
            token_events.iter().map(|token_event| self.entry(token_event)).collect();
        let mut accepted = 0;
        let mut refusal = None;
        for _ in 0..ROUNDS {
            let mut refused = Vec::new();
            for batch in entries.chunks(MOST_ENTRIES) {
                let results = match self.put(batch).await {
                    Ok(results) => results,
                    Err(error) => {
                        return Err(EventsLost { count: token_events.len() - accepted, error });
                    }
                };
                for (entry, result) in batch.iter().zip(results) {
                    if result.error_code().is_some() {
                        refused.push(entry.clone());
                        refusal = Some(result);
                    } else {
                        accepted += 1;
                    }
                }
            }
            entries = refused;
        }
        match refusal.filter(|_| !entries.is_empty()) {
            None => Ok(()),
            Some(refusal) => {
                Err(EventsLost { count: entries.len(), error: self.refused(&refusal) })
            }
        }
    }
}

impl EventBus {
    fn entry(&self, token_event: &TokenEvent) -> PutEventsRequestEntry {
        let detail =
            serde_json::to_string(token_event).expect("an event of plain fields serializes");
        PutEventsRequestEntry::builder()
            .event_bus_name(&self.bus)
            .source(SOURCE)
            .detail_type(token_event.detail_type())
            .detail(detail)
            .time(SystemTime::from(token_event.at).into())
            .build()
    }

    /// Sends these entries, and returns their results in the same order. The SDK has already repeated a
    /// call that fails.
    async fn put(
        &self,
        entries: &[PutEventsRequestEntry],
    ) -> Result<Vec<PutEventsResultEntry>, Error> {
        let put = self.aws.eventbridge().put_events().set_entries(Some(entries.to_vec()));
        match put.send().await {
            Ok(answer) => answer
                .entries
                .filter(|results| results.len() == entries.len())
                .ok_or_else(|| incomplete(ACTION, ATTEMPTED, &self.bus, "entry for each event")),
            Err(error) => Err(failed(ACTION, ATTEMPTED, &self.bus, &error)),
        }
    }

    /// The error of an entry that EventBridge refused in a call that it answered.
    fn refused(&self, result: &PutEventsResultEntry) -> Error {
        let code = result.error_code().unwrap_or("no code");
        let message = result.error_message().unwrap_or("no message");
        let because = format!("EventBridge refused an event: {code}: {message}");
        let fix = "check the bus and the account's rate of events:PutEvents; the audit in the table \
                   has what the event would have said";
        Error::new(Kind::Unreachable, ATTEMPTED, because, fix).on(&self.bus)
    }
}

const ACTION: &str = "events:PutEvents";
const ATTEMPTED: &str = "send events to the bus";
/// Largest number of entries in a call (API reference, `PutEvents`).
const MOST_ENTRIES: usize = 10;
/// Number of times that an entry is sent if it is refused while others are accepted.
const ROUNDS: usize = 3;
