//! The ports of `changeover-core` over AWS. Each service is a feature, so that a program builds only the
//! SDKs that it calls.
//!
//! ```text
//! sdk               clients, time-outs, retries, and the meaning of a failed call
//! specs, inboxes    Parameter Store, read
//! publications      Parameter Store and DynamoDB, as readers see them
//! record_store      DynamoDB items, sealed with KMS
//! invocations       Lambda
//! jobs              CodePipeline
//! event_bus         EventBridge
//! eks               the endpoint of an EKS cluster, and the token that authenticates us to it
//! ```

#[cfg(feature = "dynamodb")]
mod attributes;
#[cfg(feature = "dynamodb")]
mod conflicts;
#[cfg(feature = "eks")]
pub mod eks;
#[cfg(feature = "eventbridge")]
mod event_bus;
#[cfg(feature = "ssm")]
mod inboxes;
#[cfg(feature = "lambda")]
mod invocations;
#[cfg(feature = "codepipeline")]
mod jobs;
#[cfg(all(feature = "dynamodb", feature = "ssm"))]
mod publications;
#[cfg(feature = "dynamodb")]
mod record_store;
pub mod sdk;
#[cfg(feature = "ssm")]
mod specs;

#[cfg(feature = "eventbridge")]
pub use event_bus::EventBus;
#[cfg(feature = "ssm")]
pub use inboxes::SsmInboxes;
#[cfg(feature = "lambda")]
pub use invocations::LambdaInvocations;
#[cfg(feature = "codepipeline")]
pub use jobs::CodePipelineJobs;
#[cfg(all(feature = "dynamodb", feature = "ssm"))]
pub use publications::AwsPublications;
#[cfg(feature = "dynamodb")]
pub use record_store::{DynamoDbRecords, Kept};
pub use sdk::Aws;
#[cfg(feature = "ssm")]
pub use specs::SsmSpecs;
