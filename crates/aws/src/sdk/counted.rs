//! A count of HTTP requests, taken as they are sent: repeated attempts count too.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use aws_smithy_runtime_api::{
    box_error::BoxError,
    client::{
        connector_metadata::ConnectorMetadata,
        http::{
            HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings,
            SharedHttpClient, SharedHttpConnector,
        },
        orchestrator::HttpRequest,
        runtime_components::{RuntimeComponents, RuntimeComponentsBuilder},
    },
};
use aws_smithy_types::config_bag::ConfigBag;

/// A client, or a connection of one, that counts the requests that it sends.
#[derive(Clone, Debug)]
pub(super) struct CountingHttpClient<T> {
    /// The client or connection that sends them.
    pub(super) by: T,
    /// Number of requests so far.
    pub(super) requests: Arc<AtomicU64>,
}

impl HttpClient for CountingHttpClient<SharedHttpClient> {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        let by = self.by.http_connector(settings, components);
        SharedHttpConnector::new(CountingHttpClient { by, requests: Arc::clone(&self.requests) })
    }

    fn validate_base_client_config(
        &self,
        components: &RuntimeComponentsBuilder,
        config: &ConfigBag,
    ) -> Result<(), BoxError> {
        self.by.validate_base_client_config(components, config)
    }

    fn validate_final_config(
        &self,
        components: &RuntimeComponents,
        config: &ConfigBag,
    ) -> Result<(), BoxError> {
        self.by.validate_final_config(components, config)
    }

    fn connector_metadata(&self) -> Option<ConnectorMetadata> {
        self.by.connector_metadata()
    }
}

impl HttpConnector for CountingHttpClient<SharedHttpConnector> {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.by.call(request)
    }
}
