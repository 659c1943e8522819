//! Each adapter over a service that is a function from a request to an answer.

mod damaged;
mod error_codes;
mod event_bus;
mod inboxes;
mod invocations;
mod items;
mod jobs;
mod parameters;
mod records;
mod requests;
mod specs;

use changeover_aws::Kept;

/// Configuration of the record store.
pub(crate) fn kept() -> Kept {
    Kept {
        table: "changeover".to_owned(),
        key: "alias/sealing".to_owned(),
        scope: "changeover".to_owned(),
    }
}

/// Path of the specs.
pub(crate) fn specs() -> String {
    "/changeover/tokens".to_owned()
}

/// Key of publications that name none.
pub(crate) fn publication_key() -> String {
    "alias/publication".to_owned()
}
