//! Measurements in the format that CloudWatch reads out of a log.
//!
//! Each is one line of JSON in the embedded metric format
//! (<https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html>):
//! `_aws` names the members of the line that are metrics, and those that are their dimensions.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::{
    metrics::{FUNCTION_NAME, Metric, MetricPoint, NAMESPACE},
    ports::MetricsSink,
};

/// [`MetricsSink`] over the lines that the function prints.
pub struct EmbeddedMetrics {
    function_name: String,
    print: Arc<dyn Fn(&str) + Send + Sync>,
}

impl EmbeddedMetrics {
    /// Returns a sink that prints the measurements of the function of this name, one line each.
    pub fn new(function_name: String, print: Arc<dyn Fn(&str) + Send + Sync>) -> Self {
        Self { function_name, print }
    }
}

impl MetricsSink for EmbeddedMetrics {
    fn write(&self, measurement: &MetricPoint) {
        let MetricPoint { at, values, dimensions, about } = measurement;
        let directives: Vec<Value> = values.iter().map(|(metric, _)| directive(*metric)).collect();
        let mut line = Map::new();
        line.insert(
            "_aws".to_owned(),
            json!({"Timestamp": at.as_millisecond(), "CloudWatchMetrics": directives}),
        );
        let members = [(FUNCTION_NAME, json!(self.function_name))]
            .into_iter()
            .chain(about.iter().map(|(name, what)| (*name, json!(what))))
            .chain(dimensions.iter().map(|(dimension, value)| (dimension.name(), json!(value))))
            .chain(values.iter().map(|(metric, value)| (metric.name(), json!(value))));
        line.extend(members.map(|(name, value)| (name.to_owned(), value)));
        (self.print)(&Value::Object(line).to_string());
    }
}

/// Directive by which CloudWatch reads a member of the line as a metric.
fn directive(metric: Metric) -> Value {
    let sets = metric.dimensions().iter().map(|set| {
        let others = set.iter().map(|dimension| dimension.name());
        [FUNCTION_NAME].into_iter().chain(others).collect::<Vec<_>>()
    });
    json!({
        "Namespace": NAMESPACE,
        "Dimensions": sets.collect::<Vec<_>>(),
        "Metrics": [{"Name": metric.name(), "Unit": metric.unit()}],
    })
}
