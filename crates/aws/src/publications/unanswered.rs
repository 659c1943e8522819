//! Detection of calls, and attempts of them, that are in doubt: AWS may still apply them.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use aws_smithy_runtime_api::{
    box_error::BoxError,
    client::{
        interceptors::{
            Intercept,
            context::{BeforeTransmitInterceptorContextRef, FinalizerInterceptorContextRef},
            dyn_dispatch_hint,
        },
        orchestrator::OrchestratorError,
        runtime_components::RuntimeComponents,
    },
};
use aws_smithy_types::config_bag::ConfigBag;

use crate::sdk::sources;

/// Records for each attempt of a call whether it was answered. It is an interceptor of the SDK, because the
/// SDK repeats a call by itself and reports its last attempt only.
///
/// An attempt counts as answered if AWS said that it was applied or refused. It is in doubt after a
/// time-out, a connection that broke, an answer that could not be read, or an answer of 500 and above: AWS
/// may have accepted it, and may apply it later. An attempt that was never sent, because there were no
/// credentials or no connection, counts as answered.
#[derive(Clone, Debug, Default)]
pub(super) struct Unanswered(Arc<Attempts>);

#[derive(Debug, Default)]
struct Attempts {
    one_is_under_way: AtomicBool,
    one_was_lost: AtomicBool,
}

impl Unanswered {
    /// True if an attempt is in doubt. An attempt that was cut off by the time-out of the whole call never
    /// finishes, and counts too.
    pub(super) fn may_land(&self) -> bool {
        self.0.one_was_lost.load(Relaxed) || self.0.one_is_under_way.load(Relaxed)
    }
}

#[dyn_dispatch_hint]
impl Intercept for Unanswered {
    fn name(&self) -> &'static str {
        "unanswered"
    }

    fn read_before_transmit(
        &self,
        _context: &BeforeTransmitInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        self.0.one_is_under_way.store(true, Relaxed);
        Ok(())
    }

    fn read_after_attempt(
        &self,
        context: &FinalizerInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let was_sent = self.0.one_is_under_way.swap(false, Relaxed);
        let is_answered = match context.output_or_error() {
            Some(Ok(_)) => true,
            Some(Err(error)) if error.is_operation_error() => {
                context.response().is_some_and(|response| response.status().is_client_error())
            }
            Some(Err(error)) => was_never_connected(error),
            None => false,
        };
        if was_sent && !is_answered {
            self.0.one_was_lost.store(true, Relaxed);
        }
        Ok(())
    }
}

/// True if the attempt failed because no connection could be made, so that nothing was sent.
fn was_never_connected<E>(error: &OrchestratorError<E>) -> bool {
    let Some(error) = error.as_connector_error() else {
        return false;
    };
    sources(error)
        .filter_map(|cause| cause.downcast_ref::<hyper_util::client::legacy::Error>())
        .any(hyper_util::client::legacy::Error::is_connect)
}
