//! Invocations of the function that the function itself starts.

use std::sync::Arc;

use async_trait::async_trait;
use aws_sdk_lambda::{primitives::Blob, types::InvocationType};
use changeover_core::{error::Error, ports::Invocations};
use serde_json::Value;

use crate::{Aws, sdk::failed};

/// [`Invocations`] over Lambda's API.
pub struct LambdaInvocations {
    aws: Arc<Aws>,
}

impl LambdaInvocations {
    /// Invocations of functions in the function's own account and region.
    pub fn new(aws: Arc<Aws>) -> Self {
        Self { aws }
    }
}

#[async_trait]
impl Invocations for LambdaInvocations {
    async fn start(&self, function: &str, event: &Value) -> Result<(), Error> {
        let invoke = self.aws.lambda().invoke();
        let invoke = invoke.function_name(function).invocation_type(InvocationType::Event);
        match invoke.payload(Blob::new(event.to_string())).send().await {
            Ok(_) => Ok(()),
            Err(error) => {
                Err(failed("lambda:InvokeFunction", "start an invocation of", function, &error))
            }
        }
    }
}
