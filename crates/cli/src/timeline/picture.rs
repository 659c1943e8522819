//! The picture of a story: its rows, and the content of each row.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{
    page::{LEFT, PLOT, SvgPage, label, line, rectangle},
    requests::Sent,
    scale::{self, Scale},
    story::{Is, Story, clock, time, took},
};

/// Height of a row, and of the columns of requests.
const ROW: f64 = 22.0;
const RATES: f64 = 110.0;
/// Most columns that requests are counted in.
const COLUMNS: f64 = 180.0;
/// Most rows of steps, and of versions.
const MOST_ROWS: usize = 24;

/// Draws a story, and the requests that were sent meanwhile.
pub(super) fn draw(story: &Story<'_>, sent: &[Sent]) -> String {
    // Waits do not count as busy: the longest may be drawn shorter than it is.
    let busy = story.steps.iter().filter(|step| step.is != Is::Wait);
    let busy: Vec<_> = busy.map(|step| (step.from, step.to)).collect();
    let scale = Scale::new((story.begin, story.end), &busy, LEFT, PLOT);
    let mut page = SvgPage::new(scale);
    legs(story, &mut page);
    page.y += 16.0;
    versions(story, &mut page);
    if !sent.is_empty() {
        page.y += 24.0;
        rates(&mut page, sent, story.newest.version);
    }
    page.axis();
    page.document(&story.title(), &story.summary(), &story.description())
}

/// Draws a row for each step of each leg, in the order in which they first came.
fn legs(story: &Story<'_>, page: &mut SvgPage) {
    let mut rows: Vec<(&str, &str)> = Vec::new();
    for step in &story.steps {
        let row = (step.leg.as_str(), step.what.as_str());
        if !rows.contains(&row) && rows.len() < MOST_ROWS {
            rows.push(row);
        }
    }
    // The rows of one leg stay together, although a leg may run twice.
    let mut legs: Vec<&str> = Vec::new();
    for (leg, _) in &rows {
        if !legs.contains(leg) {
            legs.push(leg);
        }
    }
    for leg in legs {
        page.group(leg);
        for (_, what) in rows.iter().filter(|(of, _)| *of == leg) {
            page.row(what);
            let bars = story.steps.iter().filter(|it| it.leg == leg && it.what == *what);
            for bar in bars {
                let title = bar.title();
                let class = match bar.is {
                    Is::Done => class_of(leg).to_owned(),
                    Is::Wait | Is::UnderWay => format!("waits {}", class_of(leg)),
                };
                page.bar((bar.from, bar.to), &class, &title);
            }
            let last = story.steps.iter().rfind(|it| it.leg == leg && it.what == *what);
            if let Some(last) = last.filter(|it| it.from < it.to) {
                page.beside((last.from, last.to), &took(last.from, last.to));
            }
            page.y += ROW;
        }
        page.y += 4.0;
    }
}

/// Draws a row for each version that verifiers accepted meanwhile, with its stages.
fn versions(story: &Story<'_>, page: &mut SvgPage) {
    let (first, last) = page.scale.ends();
    page.group("versions");
    let newest = story.newest.version;
    let mut stages =
        vec![(newest, time(&story.newest.created_at).unwrap_or(first), "pending", "waits newer")];
    if let Some(rotated_at) = story.rotated_at {
        stages.push((newest, rotated_at, "current", "newer"));
    }
    let mut ends = BTreeMap::from([(newest, last)]);
    if let Some(replaced) = &story.newest.replaced {
        stages.push((replaced.version, first, "current", "older"));
        stages.extend(story.rotated_at.map(|at| (replaced.version, at, "previous", "waits older")));
        ends.insert(replaced.version, time(&replaced.not_after).unwrap_or(last));
    }
    for version in &story.standing.versions {
        if !ends.contains_key(&version.version) && version.stage == "previous" {
            stages.push((version.version, first, "previous", "waits older"));
            ends.insert(version.version, time(&version.not_after).unwrap_or(last));
        }
    }
    for (version, end) in ends.iter().rev().take(MOST_ROWS) {
        page.row(&format!("version {version}"));
        let own: Vec<_> = stages.iter().filter(|(of, ..)| of == version).collect();
        for (number, (_, from, stage, class)) in own.iter().enumerate() {
            let to = own.get(number + 1).map_or(*end, |(_, next, ..)| *next);
            // If a stage begins or ends beyond the axis, its time is not in the picture.
            let since =
                if *from > first { format!(" from {}", clock(*from)) } else { String::new() };
            let until = if to < last { format!(" until {}", clock(to)) } else { String::new() };
            let title = format!("version {version} {stage}{since}{until}");
            page.bar((*from, to.max(*from)), class, &title);
            page.inside((*from, to.max(*from)), stage, class.starts_with("waits"));
        }
        page.y += ROW;
    }
}

/// Draws the requests per second, by the version of their token, and those that failed.
fn rates(page: &mut SvgPage, sent: &[Sent], newest: u64) {
    // Count in columns of whole seconds, so that even a long picture has few of them.
    let (first, last) = page.scale.ends();
    let column = (page.scale.seconds_drawn() / COLUMNS).ceil().max(1.0);
    let mut columns: BTreeMap<i64, BTreeMap<Option<u64>, u64>> = BTreeMap::new();
    let (mut failed, mut accepted) =
        (BTreeMap::<i64, u64>::new(), BTreeMap::<Option<u64>, u64>::new());
    for each in sent.iter().filter(|each| first <= each.at && each.at < last) {
        let number = (scale::seconds(first, each.at) / column) as i64;
        *columns.entry(number).or_default().entry(each.version).or_default() +=
            u64::from(each.accepted);
        *accepted.entry(each.version).or_default() += u64::from(each.accepted);
        if each.failed > 0 {
            *failed.entry(number).or_default() += u64::from(each.failed);
        }
    }
    let most = columns.values().map(|versions| versions.values().sum::<u64>()).max();
    let most = most.unwrap_or(0).max(1);
    let edges = |number: i64| {
        let edge = |number: i64| {
            let moment = first.as_millisecond() as f64 + number as f64 * column * 1000.0;
            Timestamp::from_millisecond(moment as i64).unwrap_or(last).min(last)
        };
        (edge(number), edge(number + 1))
    };

    // The columns, one part for each version, with the newest version on top.
    page.group("requests");
    let per_second = format!("{:.0}/s", most as f64 / column);
    page.row(&per_second);
    let bottom = page.y + RATES;
    for (number, versions) in &columns {
        let (from, to) = edges(*number);
        let (x, width) = (page.scale.x(from), page.scale.x(to) - page.scale.x(from));
        let mut top = bottom;
        for (version, count) in versions.iter().filter(|(_, count)| **count > 0) {
            let height = *count as f64 / most as f64 * RATES;
            top -= height;
            let class = if *version == Some(newest) { "newer" } else { "older" };
            let column = rectangle(x, top, width, height).set("class", class);
            page.elements.push(column.set("shape-rendering", "crispEdges"));
        }
    }
    page.elements.push(line(LEFT, bottom, LEFT + PLOT, bottom).set("class", "grid"));
    // The legend, as far as it has room.
    let mut y = page.y + 30.0;
    for (version, count) in accepted.iter().rev().filter(|(_, count)| **count > 0) {
        let class = if *version == Some(newest) { "newer" } else { "older" };
        let name = version.map_or("no version".to_owned(), |version| format!("version {version}"));
        page.elements.push(rectangle(20.0, y - 9.0, 9.0, 9.0).set("class", class));
        page.elements.push(label(34.0, y, &format!("{name}: {count}")).set("class", "muted"));
        y += 16.0;
        if y > bottom {
            break;
        }
    }
    // Failures have a row of their own: in the columns a few of them would not be visible.
    page.y = bottom + 8.0;
    page.row(&format!("{} failed", failed.values().sum::<u64>()));
    for (number, count) in &failed {
        page.bar(edges(*number), "failed", &format!("{count} requests failed"));
    }
    page.y += ROW;
}

fn class_of(leg: &str) -> &'static str {
    match leg {
        "expand" => "expand",
        "migrate" => "migrate",
        "overlap" => "overlap",
        "contract" => "contract",
        _ => "other",
    }
}
