//! Inboxes in Parameter Store: SecureStrings that issuers write.

use std::sync::Arc;

use async_trait::async_trait;
use aws_sdk_ssm::types::ParameterType;
use changeover_core::{
    error::Error,
    ports::{InboxValue, Inboxes},
    spec::ParameterName,
};

use crate::{
    Aws,
    sdk::{incomplete, parameter},
};

/// Parameters in which values arrive.
pub struct SsmInboxes {
    aws: Arc<Aws>,
}

impl SsmInboxes {
    /// The inboxes that these clients can read.
    pub fn new(aws: Arc<Aws>) -> Self {
        Self { aws }
    }
}

#[async_trait]
impl Inboxes for SsmInboxes {
    async fn read(&self, inbox: &ParameterName) -> Result<Option<InboxValue>, Error> {
        let Some(stored) = parameter::secret(&self.aws, READ, inbox).await? else {
            return Ok(None);
        };
        let lacking = || incomplete("ssm:GetParameter", READ, inbox, "date");
        Ok(Some(InboxValue {
            is_secure: stored.kind == Some(ParameterType::SecureString),
            version: stored.version,
            written_at: stored.written_at.ok_or_else(lacking)?,
            value: stored.value,
        }))
    }
}

const READ: &str = "read the inbox";
