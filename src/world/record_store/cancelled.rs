//! Which cancelled transactions are worth repeating.

use aws_sdk_dynamodb::{
    config::retry::{ClassifyRetry, RetryAction},
    operation::{
        transact_get_items::TransactGetItemsError, transact_write_items::TransactWriteItemsError,
    },
    types::CancellationReason,
};
use aws_smithy_runtime_api::client::interceptors::context::InterceptorContext;

/// Has the SDK repeat a transaction that was cancelled because another one was under way on the same
/// items, or for its rate. The SDK itself takes every cancellation for final.
#[derive(Debug)]
pub(super) struct CancelledForNow;

impl ClassifyRetry for CancelledForNow {
    fn classify_retry(&self, context: &InterceptorContext) -> RetryAction {
        let Some(Err(error)) = context.output_or_error() else {
            return RetryAction::NoActionIndicated;
        };
        let Some(error) = error.as_operation_error() else {
            return RetryAction::NoActionIndicated;
        };
        let write = error.downcast_ref().and_then(|error| match error {
            TransactWriteItemsError::TransactionCanceledException(cancelled) => {
                Some(cancelled.cancellation_reasons())
            }
            _ => None,
        });
        let read = error.downcast_ref().and_then(|error| match error {
            TransactGetItemsError::TransactionCanceledException(cancelled) => {
                Some(cancelled.cancellation_reasons())
            }
            _ => None,
        });
        match write.or(read) {
            Some(reasons) if reasons.iter().all(passes) => RetryAction::transient_error(),
            _ => RetryAction::NoActionIndicated,
        }
    }

    fn name(&self) -> &'static str {
        "cancelled for now"
    }
}

/// Whether a cancelled transaction's item was not refused for good.
pub(super) fn passes(reason: &CancellationReason) -> bool {
    // "None" is a literal string there (API reference, `CancellationReason`).
    let code = reason.code().unwrap_or("None");
    matches!(
        code,
        "None" | "TransactionConflict" | "ThrottlingError" | "ProvisionedThroughputExceeded"
    )
}
