//! Classification of cancelled transactions: those that are worth repeating.

use aws_sdk_dynamodb::{
    config::retry::{ClassifyRetry, RetryAction},
    operation::{
        transact_get_items::TransactGetItemsError, transact_write_items::TransactWriteItemsError,
    },
    types::CancellationReason,
};
use aws_smithy_runtime_api::client::interceptors::context::InterceptorContext;

/// Makes the SDK repeat a transaction that was cancelled because another one was under way on the same
/// items, or because of its rate. The SDK itself takes every cancellation as final.
#[derive(Debug)]
pub(super) struct RetryTransactionConflicts;

impl ClassifyRetry for RetryTransactionConflicts {
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
        let for_now = match write {
            Some(reasons) => reasons.iter().all(passes),
            None => error.downcast_ref().is_some_and(was_cancelled_for_now),
        };
        if for_now { RetryAction::transient_error() } else { RetryAction::NoActionIndicated }
    }

    fn name(&self) -> &'static str {
        "cancelled for now"
    }
}

/// True if a read in a transaction was cancelled for a temporary reason.
pub(super) fn was_cancelled_for_now(error: &TransactGetItemsError) -> bool {
    match error {
        TransactGetItemsError::TransactionCanceledException(cancelled) => {
            cancelled.cancellation_reasons().iter().all(passes)
        }
        _ => false,
    }
}

/// True if this item of a cancelled transaction was not refused for good.
pub(super) fn passes(reason: &CancellationReason) -> bool {
    // "None" is a literal string there (API reference, `CancellationReason`).
    let code = reason.code().unwrap_or("None");
    matches!(
        code,
        "None" | "TransactionConflict" | "ThrottlingError" | "ProvisionedThroughputExceeded"
    )
}
