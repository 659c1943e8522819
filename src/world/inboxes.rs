//! Inboxes in Parameter Store: SecureStrings that issuers write.

use std::sync::Arc;

use async_trait::async_trait;
use aws_sdk_ssm::{error::ProvideErrorMetadata, types::ParameterType};
use jiff::Timestamp;

use super::{
    Arrival, Inboxes,
    aws::{Aws, failed, incomplete},
};
use crate::{error::Error, spec::ParameterName, token::Secret};

/// Parameters in which values arrive.
pub struct SsmInboxes {
    aws: Arc<Aws>,
}

impl SsmInboxes {
    /// Those that these clients can read.
    pub fn new(aws: Arc<Aws>) -> Self {
        Self { aws }
    }
}

#[async_trait]
impl Inboxes for SsmInboxes {
    async fn read(&self, inbox: &ParameterName) -> Result<Option<Arrival>, Error> {
        let answer =
            self.aws.ssm().get_parameter().name(inbox.as_str()).with_decryption(true).send().await;
        let parameter = match answer {
            Ok(answer) => answer.parameter,
            Err(error) if error.code() == Some("ParameterNotFound") => return Ok(None),
            Err(error) => return Err(failed("ssm:GetParameter", READ, inbox, &error)),
        };
        let lacking = |what| incomplete("ssm:GetParameter", READ, inbox, what);
        let parameter = parameter.ok_or_else(|| lacking("parameter"))?;
        let written_at = parameter
            .last_modified_date()
            .and_then(|time| Timestamp::from_millisecond(time.to_millis().ok()?).ok());
        Ok(Some(Arrival {
            is_secure: parameter.r#type() == Some(&ParameterType::SecureString),
            version: parameter.version().try_into().unwrap_or_default(),
            written_at: written_at.ok_or_else(|| lacking("date"))?,
            value: Secret::verbatim(parameter.value.unwrap_or_default()),
        }))
    }
}

const READ: &str = "read the inbox";
