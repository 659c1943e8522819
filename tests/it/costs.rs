//! Costs that `infra/README.md` states. Sums are compared with their parts, and counts with the function
//! and its template. Prices are AWS's and are not checked.

use std::{collections::BTreeSet, time::Duration};

use changeover_core::event::Request;
use changeover_testkit::{
    measured::{metrics_in, worlds},
    scene::*,
    world::{LEASE, MemoryWorld},
};

use crate::template::{TOKEN, template};
use serde_json::Value;

const README: &str = include_str!("../../infra/README.md");
/// Days in an average month.
const DAYS: f64 = 30.4;
/// Write units of a save: a record of 4 kB, and its index entry, which is deleted and written again.
const SAVE: usize = 4 + 2;
/// Additional write units of the mint, the new current version and the end of the old version. They are
/// transactions: they count twice, and write up to two items of 1 kB, the key and the audit.
const TRANSACTIONS: usize = 3 * (SAVE + 2 * 2);

#[test]
fn every_sum_is_that_of_its_parts() {
    let [month, million, tokens] = tables();
    let (together, parts) = month.split_last().unwrap();
    for [what, product, dollars] in parts.iter().map(|row| cells(row)) {
        let (product, millionth) = match product.strip_suffix(" / 10⁶") {
            Some(product) => (product, 1e6),
            None => (product.as_str(), 1.0),
        };
        let product: f64 = product.split(" × ").map(number).product();
        assert_eq!(*dollars, in_dollars(product / millionth), "{what}");
    }
    let sum = parts.iter().map(|row| number(&row[2])).sum();
    assert_eq!(number(&together[2]), rounded(sum));

    let (together, parts) = million.split_last().unwrap();
    for column in 2..5 {
        let sum = parts.iter().map(|row| number(&row[1]) * number(&row[column])).sum();
        assert_eq!(number(&together[column]), rounded(sum), "column {column}");
    }
    let [sweep, rotation, look] = [2, 3, 4].map(|column| together[column].trim_matches('*'));
    let stack = number(&month.last().unwrap()[2]);
    assert!(cells::<3>(&month[4])[1].contains(&format!(" × {sweep} / ")));
    assert!(README.contains(&format!("`{stack} + n × (r × {rotation} + {DAYS} × {look}) / 10⁶`")));
    for [count, monthly, daily] in tokens.iter().map(|row| cells(row)) {
        for (dollars, times) in [(monthly, 1.0), (daily, DAYS)] {
            let each = (times * number(rotation) + DAYS * number(look)) / 1e6;
            let expected = in_dollars(stack + number(count) * each);
            assert_eq!(dollars.trim_start_matches('$'), expected, "{count}, {times} times");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn stack_costs_match_their_count() {
    let [month, ..] = tables();
    let template = template();
    let count = |template: &Value, kind: &str| {
        let resources = template["Resources"].as_object().unwrap().values();
        resources.filter(|it| it["Type"] == kind && it["Condition"].is_null()).count()
    };
    let mut metrics = BTreeSet::new();
    for world in worlds().await {
        metrics.extend(metrics_in(&world.measured()));
    }
    let of_a_quiet_sweep = metrics_in(&quiet_sweep(&in_service(91, &items()).await).await);
    for (row, count) in [
        (0, count(&template, "AWS::KMS::Key")),
        (1, metrics.len()),
        (2, count(&template, "AWS::CloudWatch::Alarm")),
    ] {
        let [what, product, _] = cells(&month[row]);
        assert!(product.starts_with(&format!("{count} × ")), "{count} in {what}");
    }
    let quiet = format!("when nothing happens {} of them are", of_a_quiet_sweep.len());
    assert!(month[1][0].ends_with(&quiet), "{quiet}");

    let token: Value = serde_saphyr::from_str(TOKEN).unwrap();
    let kinds = token["Resources"].as_object().unwrap().values().map(|it| it["Type"].as_str());
    let [metrics, alarms] = ["AWS::Logs::MetricFilter", "AWS::CloudWatch::Alarm"]
        .map(|kind| kinds.clone().filter(|it| *it == Some(kind)).count());
    assert_eq!((metrics, alarms), (2, 3));
    let dollars = metrics as f64 * price(&month[1]) + alarms as f64 * price(&month[2]);
    let reported = format!("two metrics and three alarms,\n${} a token", in_dollars(dollars));
    assert!(README.contains(&reported), "{reported}");
}

#[tokio::test(start_paused = true)]
async fn sweep_rotation_and_status_costs_match_their_count() {
    let [_, million, _] = tables();
    let world = in_service(92, &workloads()).await;
    let counted = |before: &[usize]| -> Vec<usize> {
        let now = ["load", "save", "read", "write", "seal"].map(|port| world.calls(Some(port)));
        now.iter().zip(before).map(|(now, before)| now - before).collect()
    };
    let nothing = [0; 5];

    let sweep = quiet_sweep(&world).await;
    let (calls, lines) = (counted(&nothing), world.measured().len());
    world.assert_outcome(&world.invoke("a", rotate("a")).await, "rotated");
    world.sweep_until_rest(&subject()).await;
    let rotation = counted(&calls);
    let saved = format!("It saves the\nrecord {} times", rotation[1]);
    assert!(README.contains(&saved), "{saved}");
    let rotation_lines = world.measured()[lines..].to_vec();

    world.pass(Duration::from_secs(25 * 60 * 60)).await;
    let (calls, lines) = (counted(&nothing), world.measured().len());
    world.assert_outcome(&world.invoke("sweep", Request::Sweep).await, "swept");
    let look = counted(&calls);
    let look_lines = world.measured()[lines + sweep.len()..].to_vec();

    // Heartbeats of three minutes of rollouts. The world in memory finishes its rollouts sooner.
    let signs_of_life = 3 * 60 / LEASE.as_secs() as usize;
    // A read that also looks up a key is a transaction of two items.
    for (row, column, counted) in [
        (2, 3, 5 * rotation[0] / 2 + rotation[2]),
        (2, 4, look[0] + look[2]),
        (3, 3, (rotation[1] + signs_of_life) * SAVE + TRANSACTIONS + rotation[3]),
        (3, 4, look[1] * SAVE),
        (4, 3, rotation[4] + rotation[2] + rotation[3]),
        (4, 4, look[2]),
    ] {
        assert_about(&million[row], column, counted as f64);
    }
    // The log has twice the bytes of the metrics, including the lines that Lambda writes.
    for (column, lines) in [(2, sweep), (3, rotation_lines), (4, look_lines)] {
        let bytes: usize = lines.iter().map(String::len).sum();
        assert_about(&million[5], column, 2.0 * bytes as f64 / 1000.0);
    }
}

/// Lines measured by a sweep that finds nothing to do.
async fn quiet_sweep(world: &MemoryWorld) -> Vec<String> {
    let before = world.measured().len();
    world.assert_outcome(&world.invoke("sweep", Request::Sweep).await, "swept");
    world.measured()[before..].to_vec()
}

/// Asserts that the stated number covers the count, and exceeds it by at most half.
fn assert_about(row: &[String], column: usize, counted: f64) {
    let said = number(&row[column]);
    assert!((counted..=counted * 1.5).contains(&said), "{}: {said}, counted {counted}", row[0]);
}

/// Rows of the section's three tables, without their headings.
fn tables() -> [Vec<Vec<String>>; 3] {
    let section = README.split("## What it costs\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let tables = section.split("\n\n").filter(|paragraph| paragraph.starts_with("| "));
    let rows = tables.map(|table| {
        let rows = table.lines().skip(2).map(|row| row.trim_matches('|').split('|'));
        rows.map(|row| row.map(|cell| cell.trim().to_owned()).collect()).collect()
    });
    rows.collect::<Vec<_>>().try_into().unwrap()
}

fn cells<const COUNT: usize>(row: &[String]) -> &[String; COUNT] {
    row.try_into().unwrap()
}

/// Price per unit of a product.
fn price(row: &[String]) -> f64 {
    number(row[1].rsplit(' ').next().unwrap())
}

fn number(text: &str) -> f64 {
    let digits = text.trim_matches('*').replace([',', '$'], "");
    digits.parse().unwrap_or_else(|_| panic!("{text} is no number"))
}

fn rounded(dollars: f64) -> f64 {
    (dollars * 100.0).round() / 100.0
}

fn in_dollars(dollars: f64) -> String {
    format!("{dollars:.2}")
}
