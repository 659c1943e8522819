//! Single writes to DynamoDB that meet a transaction on the same item.

use std::error::Error;

use aws_sdk_dynamodb::{config::Builder, error::ProvideErrorMetadata};

use crate::sdk::also_retrying;

/// Makes the SDK repeat a single write that was refused because a transaction was under way on the same item.
/// The SDK itself takes that refusal as final.
pub(crate) fn retrying_conflicts<E>() -> Builder
where
    E: Error + ProvideErrorMetadata + Send + Sync + 'static,
{
    aws_sdk_dynamodb::Config::builder().retry_classifier(also_retrying::<E>(CONFLICT))
}

const CONFLICT: &[&str] = &["TransactionConflictException"];
