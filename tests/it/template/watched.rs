//! Alarms and the dashboard, against the metrics that the function writes and against the runbooks.

use std::collections::{BTreeMap, BTreeSet};

use changeover_core::{
    metrics::{FUNCTION_NAME, Metric, NAMESPACE},
    report::Outcome,
};

use super::{TEMPLATE, TOKEN, resource, strings, template};
use serde_json::{Value, json};

const RUNBOOKS: &str = include_str!("../../../infra/runbooks.md");

#[test]
fn alarms_and_runbooks_match_each_other() {
    let mut alarms = BTreeSet::new();
    for template in [TEMPLATE, TOKEN] {
        let template: Value = serde_saphyr::from_str(template).unwrap();
        for alarm in template["Resources"].as_object().unwrap().values() {
            if alarm["Type"] == "AWS::CloudWatch::Alarm" {
                let properties = &alarm["Properties"];
                let described = properties["AlarmDescription"].as_str().unwrap().trim_end();
                let runbook = described.rsplit("infra/runbooks.md#").next().unwrap();
                let name = properties["AlarmName"].as_str().unwrap();
                assert!(name.ends_with(&format!("}}-{runbook}")), "{name} says: {described}");
                alarms.insert(runbook.to_owned());
            }
        }
    }
    let headings = RUNBOOKS.lines().filter_map(|line| line.strip_prefix("## ").map(str::to_owned));
    assert_eq!(alarms, headings.collect());
}

#[test]
fn alarms_and_dashboard_use_only_written_metrics() {
    let alarms = asked_by_alarms(TEMPLATE, NAMESPACE);
    let graphs = asked_by_graphs();
    for (asked, metric) in [(&alarms, "Sweeps"), (&alarms, "Outcomes"), (&graphs, "CurrentAge")] {
        assert!(asked.iter().any(|it| it.metric == metric), "nobody watches {metric}");
    }
    for asked in alarms.into_iter().chain(graphs) {
        let mut names: BTreeSet<_> = asked.dimensions.keys().map(String::as_str).collect();
        assert!(names.remove(FUNCTION_NAME), "{asked:?} is that of all stacks");
        let of_this_one = ["Rotator", "${Rotator}"].map(|name| Some(name.to_owned()));
        assert!(of_this_one.contains(&asked.dimensions[FUNCTION_NAME]), "{asked:?} is another's");
        let is_written = Metric::ALL.iter().any(|metric| {
            let mut sets = metric.dimensions().iter();
            metric.name() == asked.metric
                && sets.any(|set| set.iter().map(|it| it.name()).collect::<BTreeSet<_>>() == names)
        });
        assert!(is_written, "nothing writes {asked:?}");
        let outcome = asked.dimensions.get("Outcome").cloned().flatten();
        assert!(outcome.is_none_or(|it| it == Outcome::Held.as_str()), "nothing ends so");
    }
}

#[test]
fn token_metrics_and_alarms_name_their_function() {
    let token: Value = serde_saphyr::from_str(TOKEN).unwrap();
    let mut written = BTreeSet::new();
    for resource in token["Resources"].as_object().unwrap().values() {
        let properties = &resource["Properties"];
        for metric in properties["MetricTransformations"].as_array().into_iter().flatten() {
            let by_both = json!([
                {"Key": FUNCTION_NAME, "Value": format!("$.{FUNCTION_NAME}")},
                {"Key": "token", "Value": "$.token"},
            ]);
            assert_eq!(metric["Dimensions"], by_both);
            let name = metric["MetricName"].as_str().unwrap();
            assert!(Metric::ALL.iter().any(|it| it.name() == name), "nothing writes {name}");
            written.insert(name.to_owned());
        }
        if let Some(name) = properties["AlarmName"].as_str() {
            assert!(name.starts_with("${Function}-${Token}-"), "{name}");
        }
    }
    let by_both = BTreeMap::from([(FUNCTION_NAME, "Function"), ("token", "Token")]);
    let by_both = by_both.iter().map(|(name, it)| ((*name).to_owned(), Some((*it).to_owned())));
    let by_both: BTreeMap<_, _> = by_both.collect();
    let asked = asked_by_alarms(TOKEN, "changeover/token");
    for asked in &asked {
        assert_eq!(asked.dimensions, by_both, "{}", asked.metric);
    }
    assert_eq!(asked.into_iter().map(|it| it.metric).collect::<BTreeSet<_>>(), written);
}

#[test]
fn dashboard_shows_each_unconditional_alarm() {
    let displayed_value: BTreeSet<_> =
        strings(&dashboard()["widgets"][0]["properties"]["alarms"]).into_iter().collect();
    let template = template();
    let there: BTreeSet<_> = template["Resources"]
        .as_object()
        .unwrap()
        .iter()
        .filter(|(_, it)| it["Type"] == "AWS::CloudWatch::Alarm" && it["Condition"].is_null())
        .map(|(name, _)| format!("${{{name}.Arn}}"))
        .collect();
    assert_eq!(displayed_value, there);
}

/// A metric that an alarm or a graph reads.
#[derive(Debug)]
struct Asked {
    metric: String,
    /// Its dimensions with their required values. `None` accepts any value.
    dimensions: BTreeMap<String, Option<String>>,
}

fn asked_by_alarms(template: &str, namespace: &str) -> Vec<Asked> {
    let template: Value = serde_saphyr::from_str(template).unwrap();
    let resources = template["Resources"].as_object().unwrap().values();
    let alarms = resources.map(|it| &it["Properties"]).filter(|it| it["Namespace"] == namespace);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    alarms
        .map(|alarm| {
            let dimensions = alarm["Dimensions"].as_array().into_iter().flatten();
            let dimensions = dimensions.map(|it| (text(&it["Name"]), Some(text(&it["Value"]))));
            Asked { metric: text(&alarm["MetricName"]), dimensions: dimensions.collect() }
        })
        .collect()
}

/// Metrics of the dashboard's graphs in the function's namespace.
fn asked_by_graphs() -> Vec<Asked> {
    let mut asked = Vec::new();
    for widget in dashboard()["widgets"].as_array().unwrap() {
        let mut above: Vec<String> = Vec::new();
        for row in widget["properties"]["metrics"].as_array().into_iter().flatten() {
            if let Some(expression) = row[0]["expression"].as_str() {
                asked.push(searched(expression));
                continue;
            }
            // https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/CloudWatch-Dashboard-Body-Structure.html
            let mut named = strings(row);
            if named[0] == "..." {
                named = above[..above.len() + 1 - named.len()]
                    .iter()
                    .cloned()
                    .chain(named.drain(1..))
                    .collect();
            }
            for (name, above) in named.iter_mut().zip(&above) {
                if name == "." {
                    name.clone_from(above);
                }
            }
            if named[0] == NAMESPACE {
                let dimensions =
                    named[2..].chunks(2).map(|it| (it[0].clone(), Some(it[1].clone())));
                asked.push(Asked { metric: named[1].clone(), dimensions: dimensions.collect() });
            }
            above = named;
        }
    }
    asked
}

/// The metric of `SEARCH('{namespace,dimension,…} MetricName="…" dimension="…"', …)`.
fn searched(expression: &str) -> Asked {
    let (schema, rest) = expression.strip_prefix("SEARCH('{").unwrap().split_once("} ").unwrap();
    let terms = rest.split('\'').next().unwrap().split(' ');
    let mut terms: BTreeMap<_, _> = terms
        .map(|term| term.split_once('=').unwrap())
        .map(|(name, value)| (name, value.trim_matches('"').to_owned()))
        .collect();
    let mut schema = schema.split(',');
    assert_eq!(schema.next(), Some(NAMESPACE));
    let metric = terms.remove("MetricName").unwrap();
    let dimensions = schema.map(|name| (name.to_owned(), terms.remove(name))).collect();
    assert!(terms.is_empty(), "{expression} asks for what the schema leaves out");
    Asked { metric, dimensions }
}

fn dashboard() -> Value {
    let body = &resource("Dashboard")["Properties"]["DashboardBody"];
    serde_json::from_str(body.as_str().unwrap()).unwrap()
}
