//! An EventBridge bus. Its rules deliver the events of tokens.

use std::{sync::Arc, time::SystemTime};

use async_trait::async_trait;
use aws_sdk_eventbridge::types::{PutEventsRequestEntry, PutEventsResultEntry};
use changeover_core::{
    error::{Error, Kind},
    notice::{Notice, SOURCE},
    ports::{Subscribers, Untold},
};

use crate::{
    Aws,
    sdk::{failed, incomplete},
};

/// [`Subscribers`] over EventBridge's API.
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
impl Subscribers for EventBus {
    async fn tell(&self, notices: &[Notice]) -> Result<(), Untold> {
        let mut entries: Vec<_> = notices.iter().map(|notice| self.entry(notice)).collect();
        let mut told = 0;
        let mut refusal = None;
        for _ in 0..ROUNDS {
            let mut refused = Vec::new();
            for batch in entries.chunks(MOST_ENTRIES) {
                let results = match self.put(batch).await {
                    Ok(results) => results,
                    Err(error) => return Err(Untold { count: notices.len() - told, error }),
                };
                for (entry, result) in batch.iter().zip(results) {
                    if result.error_code().is_some() {
                        refused.push(entry.clone());
                        refusal = Some(result);
                    } else {
                        told += 1;
                    }
                }
            }
            entries = refused;
        }
        match refusal.filter(|_| !entries.is_empty()) {
            None => Ok(()),
            Some(refusal) => Err(Untold { count: entries.len(), error: self.refused(&refusal) }),
        }
    }
}

impl EventBus {
    fn entry(&self, notice: &Notice) -> PutEventsRequestEntry {
        let detail = serde_json::to_string(notice).expect("a notice of plain fields serializes");
        PutEventsRequestEntry::builder()
            .event_bus_name(&self.bus)
            .source(SOURCE)
            .detail_type(notice.detail_type())
            .detail(detail)
            .time(SystemTime::from(notice.at).into())
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
