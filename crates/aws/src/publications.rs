//! The places that readers read: parameters of Parameter Store, and attributes of DynamoDB items.

use std::sync::Arc;

use async_trait::async_trait;
use changeover_core::{
    error::Error,
    ports::{Described, Publications, StoredValue, WriteError, Written},
    spec::{Place, Publication, Side},
};
use changeover_token::Content;

use crate::Aws;

mod items;
mod parameters;
mod unanswered;

use items::Items;
use parameters::Parameters;

/// Publications in the function's own account and region.
pub struct AwsPublications {
    parameters: Parameters,
    items: Items,
}

impl AwsPublications {
    /// Publications that are reached with these clients. New SecureStrings that name no KMS key are
    /// encrypted with `key`.
    pub fn new(aws: Arc<Aws>, key: String) -> Self {
        Self { parameters: Parameters::new(Arc::clone(&aws), key), items: Items::new(aws) }
    }
}

#[async_trait]
impl Publications for AwsPublications {
    async fn read(&self, place: &Place, side: Side) -> Result<Option<StoredValue>, Error> {
        match place {
            Place::Parameter(name) => self.parameters.read(name).await,
            Place::Item { table, key } => self.items.read(table, key, side).await,
        }
    }

    async fn describe(&self, place: &Place) -> Result<Option<Described>, Error> {
        match place {
            Place::Parameter(name) => self.parameters.described(name).await,
            Place::Item { .. } => Ok(None),
        }
    }

    async fn write(
        &self,
        publication: &Publication,
        known_key: Option<&str>,
        view: &Content,
    ) -> Result<Written, WriteError> {
        match &publication.place {
            Place::Parameter(name) => {
                let value = view.bytes(publication.form);
                self.parameters.write(name, publication.key.as_deref(), known_key, &value).await
            }
            Place::Item { table, key } => {
                self.items.write(table, key, publication.form, view).await
            }
        }
    }

    async fn label(
        &self,
        place: &Place,
        label: &'static str,
        store_version: u64,
    ) -> Result<Written, WriteError> {
        match place {
            Place::Parameter(name) => self.parameters.label(name, label, store_version).await,
            Place::Item { .. } => Ok(Written { store_version, key: None, unanswered: false }),
        }
    }

    async fn labelled(&self, place: &Place, label: &'static str) -> Result<Option<u64>, Error> {
        match place {
            Place::Parameter(name) => self.parameters.labelled(name, label).await,
            Place::Item { .. } => Ok(None),
        }
    }
}

/// The error of a write that was refused for good, or of which no attempt is in doubt.
fn answered(error: Error) -> WriteError {
    WriteError { error, unanswered: false, ahead: None, is_gone: false }
}
