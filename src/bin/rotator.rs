//! The function `rotator`: makes the real adapters and passes them to the runtime.

use std::{panic, process::ExitCode, sync::Arc};

use changeover::{clusters::NamedClusters, config::Config, deadline::deadline};
use changeover_aws::{
    Aws, AwsPublications, CodePipelineJobs, DynamoDbRecords, EventBus, Kept, LambdaInvocations,
    SsmInboxes, SsmSpecs,
};
use changeover_core::{
    clock::Clock, embedded_metrics::EmbeddedMetrics, error::Error, event::Invocation, host, invoke,
    ports::Ports, report::Answer, rotate::Settings,
};
use changeover_kubernetes::KubernetesClusters;
use lambda_runtime::{Diagnostic, LambdaEvent, service_fn};
use serde_json::Value;
use tokio::sync::OnceCell;
use tracing::{Instrument, Level, error, info_span};
use tracing_subscriber::{
    filter::{Targets, filter_fn},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

/// `EX_USAGE` of sysexits.h: the environment holds an invalid configuration.
const USAGE: u8 = 64;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let config = Config::from_environment();
    start_log(config.as_ref().map_or("info", |config| config.log.as_str()));
    let config = match config {
        Ok(config) => config,
        Err(faults) => {
            error!(%faults, "not started");
            return ExitCode::from(USAGE);
        }
    };
    let edge = Edge { config, connections: OnceCell::new() };
    let served = lambda_runtime::run(service_fn(|event| edge.answer(event))).await;
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            error!(error = %fault, "the runtime ended");
            ExitCode::FAILURE
        }
    }
}

/// Starts the log: one JSON line per event, to standard output, which Lambda collects. `filter` was found
/// to be valid.
///
/// Only our own targets are logged at `trace`. At that level the SDKs and the runtime print whole requests
/// and answers, and tokens with them. Of a panic only the location is logged, because its message may hold
/// anything.
fn start_log(filter: &str) {
    let lines = tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(false);
    let filter: Targets = filter.parse().unwrap_or_default();
    let without_wire = filter_fn(|metadata| {
        let is_own = ["changeover", "rotator"].iter().any(|own| metadata.target().starts_with(own));
        is_own || *metadata.level() <= Level::DEBUG
    });
    tracing_subscriber::registry().with(lines).with(filter).with(without_wire).init();
    panic::set_hook(Box::new(|panic| {
        let at = panic.location().map(ToString::to_string);
        error!(at, "panicked");
    }));
}

/// State that outlives an invocation: the configuration, and the connections once they are made.
struct Edge {
    config: Config,
    connections: OnceCell<Connections>,
}

/// Connections to AWS and to clusters. They are made by the first invocation, so that the start does not
/// wait for them.
struct Connections {
    aws: Arc<Aws>,
    clusters: Arc<KubernetesClusters>,
}

impl Edge {
    /// Answers one invocation, from the runtime's event to its result.
    async fn answer(&self, event: LambdaEvent<Value>) -> Result<Answer, Failure> {
        let context = event.context;
        let span = info_span!("invocation", request_id = %context.request_id);
        let invocation = Invocation {
            id: context.request_id,
            deadline: deadline(context.deadline, host::now()),
            function: context.invoked_function_arn,
        };
        let settings = Settings {
            lease: self.config.lease,
            late_write: self.config.late_write,
            reserved: self.config.reserved(),
        };
        let answered = async {
            invoke::answer(&self.ports().await?, &settings, &event.payload, &invocation).await
        };
        answered.instrument(span).await.map_err(|error| {
            error!(error_type = error.kind.as_str(), %error, "failed");
            Failure(error)
        })
    }

    /// The adapters of one invocation. Its clock starts when it begins.
    async fn ports(&self) -> Result<Ports, Error> {
        let config = &self.config;
        let Connections { aws, clusters } =
            self.connections.get_or_try_init(|| connect(config)).await?;
        let clock = Clock::starting_at(host::now());
        Ok(Ports {
            specs: Arc::new(SsmSpecs::new(Arc::clone(aws), config.specs.clone())),
            inboxes: Arc::new(SsmInboxes::new(Arc::clone(aws))),
            records: Arc::new(DynamoDbRecords::new(
                Arc::clone(aws),
                Kept {
                    table: config.table.clone(),
                    key: config.key.clone(),
                    scope: config.scope.clone(),
                },
                clock,
                Arc::new(host::random_source),
            )),
            publications: Arc::new(AwsPublications::new(
                Arc::clone(aws),
                config.publication_key.clone(),
            )),
            clusters: Arc::clone(clusters) as _,
            copies: Arc::clone(clusters) as _,
            workloads: Arc::clone(clusters) as _,
            pipeline: Arc::new(CodePipelineJobs::new(Arc::clone(aws))),
            invocations: Arc::new(LambdaInvocations::new(Arc::clone(aws))),
            event_publisher: config
                .event_bus
                .clone()
                .map(|bus| Arc::new(EventBus::new(Arc::clone(aws), bus)) as _),
            metrics_sink: Arc::new(EmbeddedMetrics::new(
                config.function_name.clone(),
                Arc::new(host::print),
            )),
            calls: Arc::new({
                let aws = Arc::clone(aws);
                move || aws.requests()
            }),
            clock,
            random_source: Arc::new(host::random_source),
        })
    }
}

async fn connect(config: &Config) -> Result<Connections, Error> {
    let aws = Arc::new(Aws::load().await?);
    let clusters =
        Arc::new(NamedClusters::of_function(Arc::clone(&aws), config, Arc::new(host::now)));
    Ok(Connections { aws, clusters })
}

/// An error as the runtime reports it: the contract's `errorType` and `errorMessage`.
#[derive(Debug)]
struct Failure(Error);

impl From<Failure> for Diagnostic {
    fn from(Failure(error): Failure) -> Self {
        Self { error_type: error.kind.as_str().to_owned(), error_message: error.to_string() }
    }
}
