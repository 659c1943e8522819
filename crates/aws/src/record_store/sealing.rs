//! Values in records, sealed by KMS for one scope, token and version.

use std::{collections::HashMap, sync::Arc};

use aws_sdk_kms::{operation::decrypt::DecryptError, primitives::Blob};
use changeover_core::error::{Error, Kind};
use changeover_token::{Sealed, Secret, TokenName, VersionNumber};

use crate::{
    Aws,
    sdk::{failed, incomplete},
};

/// Seals with one key, and opens values that were sealed with any of ours.
pub(super) struct Sealing {
    aws: Arc<Aws>,
    key: String,
    scope: String,
}

impl Sealing {
    pub(super) fn new(aws: Arc<Aws>, key: String, scope: String) -> Self {
        Self { aws, key, scope }
    }

    /// See [`changeover_core::ports::RecordStore::seal`].
    pub(super) async fn seal(
        &self,
        token: &TokenName,
        version: VersionNumber,
        value: &Secret,
    ) -> Result<Sealed, Error> {
        let answer = self
            .aws
            .kms()
            .encrypt()
            .key_id(&self.key)
            .plaintext(Blob::new(value.expose()))
            .set_encryption_context(Some(self.context(token, version)))
            .send()
            .await
            .map_err(|error| {
                let on = format!("{token} {version} with {}", self.key);
                failed("kms:Encrypt", "seal the value of", on, &error)
            })?;
        let sealed = answer.ciphertext_blob.map(Blob::into_inner).unwrap_or_default();
        if sealed.is_empty() {
            return Err(incomplete("kms:Encrypt", "seal the value of", token, "ciphertext"));
        }
        Ok(Sealed(sealed))
    }

    /// See [`changeover_core::ports::RecordStore::open`].
    pub(super) async fn open(
        &self,
        token: &TokenName,
        version: VersionNumber,
        sealed: &Sealed,
    ) -> Result<Secret, Error> {
        const OPEN: &str = "open the value of";
        let on = format!("{token} {version}");
        // The ciphertext names its key, so values that were sealed before the configured key was replaced
        // can still be opened. The role's policy says which keys are ours.
        let answer = self
            .aws
            .kms()
            .decrypt()
            .ciphertext_blob(Blob::new(sealed.0.clone()))
            .set_encryption_context(Some(self.context(token, version)))
            .send()
            .await;
        let because = match answer {
            Ok(answer) => {
                let plain = answer.plaintext.map(Blob::into_inner).unwrap_or_default();
                match String::from_utf8(plain) {
                    Ok(value) if !value.is_empty() => return Ok(Secret::verbatim(value)),
                    Ok(_) => return Err(incomplete("kms:Decrypt", OPEN, on, "plaintext")),
                    Err(_) => "what was sealed is not a token",
                }
            }
            Err(error) => match error.as_service_error() {
                Some(DecryptError::InvalidCiphertextException(_)) => {
                    "it was sealed for another token, version or scope, or was damaged"
                }
                _ => return Err(failed("kms:Decrypt", OPEN, on, &error)),
            },
        };
        let fix = "set CHANGEOVER_SCOPE to what it was when the value was sealed, or restore the \
                   table to a point in time before the damage";
        Err(Error::new(Kind::BadRecord, OPEN, because, fix).on(on))
    }

    fn context(&self, token: &TokenName, version: VersionNumber) -> HashMap<String, String> {
        HashMap::from([
            ("changeover:scope".to_owned(), self.scope.clone()),
            ("token".to_owned(), token.to_string()),
            ("version".to_owned(), version.to_string()),
        ])
    }
}
