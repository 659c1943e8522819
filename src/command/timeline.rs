//! A picture of a token's newest rotation: each step of its legs as a bar on a time axis, and below it
//! what verifiers and presenters were on meanwhile.
//!
//! ```text
//! status of one token ─► steps and waits, versions ─┐
//! requests, of a file ──────────────────────────────┴─► scale ─► SVG
//! ```
//!
//! It holds names, numbers and times, and nothing of a token's value: the function's answers do not
//! either. It is one file without scripts, for light and dark pages.

mod requests;
mod scale;
mod svg;

use std::{collections::BTreeMap, path::Path, time::Duration};

use jiff::Timestamp;

use self::{requests::Sent, scale::Scale, svg::Element};
use super::{
    answer::{Answer, Done, Newest, Reason},
    render::{duration, words},
};

/// Draws how a token stands, as the function's `status` of this one token tells it, with the requests
/// in a file, if one is named.
///
/// # Errors
/// What to tell where there is nothing to draw, or the file cannot be read.
pub(super) fn draw(
    standing: &Answer,
    requests: Option<&Path>,
    now: Timestamp,
) -> Result<String, String> {
    let sent = requests.map(requests::read).transpose()?.unwrap_or_default();
    let Some(story) = Story::of(standing, now) else {
        return Err(format!(
            "nothing is known of how {} came to where it is; rotate it first, or read the function's log",
            standing.token
        ));
    };
    Ok(story.draw(&sent))
}

/// Where things are in the picture, and how large they are.
const WIDTH: f64 = 960.0;
const LEFT: f64 = 170.0;
const PLOT: f64 = WIDTH - LEFT - 30.0;
const ROW: f64 = 22.0;
const BAR: f64 = 12.0;
const RATES: f64 = 110.0;
/// A bar that is shorter cannot be seen.
const NARROWEST: f64 = 2.0;
/// How wide a character of a label is at most.
const CHARACTER: f64 = 6.8;
/// The most columns that requests are counted in.
const COLUMNS: f64 = 180.0;
/// The most rows of steps, and of versions.
const MOST_ROWS: usize = 24;

// Colours are written out twice: not everything that shows SVG knows variables.
const STYLE: &str = "
svg { color-scheme: light dark; }
text { font-family: system-ui, sans-serif; font-size: 12px; font-variant-numeric: tabular-nums; fill: #1d2433; }
.heading { font-size: 17px; font-weight: 600; } .group { font-weight: 600; }
.page { fill: #fff; } text.muted { fill: #5a6478; } text.inside { font-size: 11px; fill: #fff; }
.grid { stroke: #e3e7ee; } .quiet { stroke: #5a6478; stroke-dasharray: 2 4; }
.expand { fill: #2f6fde; } .migrate { fill: #8b46d6; } .overlap { fill: #b96a00; } .contract { fill: #1f8a55; }
.older { fill: #6b7890; } .newer { fill: #0c7a8a; } .failed { fill: #d6293e; } .other { fill: #5a6478; }
rect.waits { fill-opacity: 0.2; stroke-dasharray: 3 2; }
rect.waits.expand { stroke: #2f6fde; } rect.waits.migrate { stroke: #8b46d6; } rect.waits.overlap { stroke: #b96a00; }
rect.waits.contract { stroke: #1f8a55; } rect.waits.older { stroke: #6b7890; } rect.waits.newer { stroke: #0c7a8a; }
rect.waits.other { stroke: #5a6478; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6eaf2; } .page { fill: #12161f; } text.muted { fill: #9aa5b8; } text.inside { fill: #12161f; }
  .grid { stroke: #2a3140; } .quiet { stroke: #9aa5b8; }
  .expand { fill: #7aa7ff; } .migrate { fill: #c594ff; } .overlap { fill: #f0b35a; } .contract { fill: #63cf98; }
  .older { fill: #97a4bb; } .newer { fill: #4cc9dc; } .failed { fill: #ff6b7d; } .other { fill: #9aa5b8; }
  rect.waits.expand { stroke: #7aa7ff; } rect.waits.migrate { stroke: #c594ff; } rect.waits.overlap { stroke: #f0b35a; }
  rect.waits.contract { stroke: #63cf98; } rect.waits.older { stroke: #97a4bb; } rect.waits.newer { stroke: #4cc9dc; }
  rect.waits.other { stroke: #9aa5b8; }
}
";

/// What is drawn.
struct Story<'a> {
    standing: &'a Answer,
    newest: &'a Newest,
    steps: Vec<Stretch>,
    begin: Timestamp,
    end: Timestamp,
    rotated_at: Option<Timestamp>,
}

/// Something that took, or takes, its time.
struct Stretch {
    leg: String,
    what: String,
    from: Timestamp,
    to: Timestamp,
    is: Is,
}

#[derive(Clone, Copy, PartialEq)]
enum Is {
    /// A step that was done.
    Done,
    /// Nothing was to be done but to wait.
    Wait,
    /// The step that is owed now.
    UnderWay,
}

impl<'a> Story<'a> {
    fn of(standing: &'a Answer, now: Timestamp) -> Option<Self> {
        let newest = standing.newest.as_ref()?;
        let rotated_at = time(&newest.rotated_at);
        let mut steps: Vec<_> = newest.timeline.iter().filter_map(Stretch::done).collect();
        steps.extend(under_way(standing, newest, now));
        steps.extend(after(standing, newest, rotated_at, now));
        steps.sort_by_key(|step| (step.from, step.to));
        let began_at = time(&newest.created_at);
        let begin = steps.iter().map(|step| step.from).chain(began_at).min()?;
        // Of a version that nothing was done for yet there is its wait until now.
        let end = steps.iter().map(|step| step.to).chain(rotated_at).max().unwrap_or(now);
        Some(Self { standing, newest, steps, begin, end: end.max(begin), rotated_at })
    }

    fn draw(&self, sent: &[Sent]) -> String {
        // A wait draws nobody's eye: it may be the stretch that is drawn shorter than it is.
        let busy = self.steps.iter().filter(|step| step.is != Is::Wait);
        let busy: Vec<_> = busy.map(|step| (step.from, step.to)).collect();
        let scale = Scale::new((self.begin, self.end), &busy, LEFT, PLOT);
        let mut page = Page { scale, elements: Vec::new(), y: 74.0 };
        self.legs(&mut page);
        page.y += 16.0;
        self.versions(&mut page);
        if !sent.is_empty() {
            page.y += 24.0;
            rates(&mut page, sent, self.newest.version);
        }
        page.axis(74.0 - 8.0);
        self.page(page)
    }

    /// The whole document.
    fn page(&self, page: Page) -> String {
        let height = page.y + 14.0;
        let (title, told) = (self.title(), self.told());
        let mut picture = Element::new("svg")
            .set("xmlns", "http://www.w3.org/2000/svg")
            .set("viewBox", &format!("0 0 {WIDTH} {height:.0}"))
            .set("role", "img")
            .set("aria-labelledby", "title")
            .set("aria-describedby", "description")
            .with(Element::new("title").set("id", "title").text(&title))
            .with(Element::new("desc").set("id", "description").text(&self.description()))
            .with(Element::new("style").text(STYLE))
            .with(rectangle(0.0, 0.0, WIDTH, height).set("class", "page"))
            .with(label(20.0, 30.0, &title).set("class", "heading"))
            .with(label(20.0, 50.0, &clipped(&told, 130)).set("class", "muted"));
        for element in page.elements {
            picture = picture.with(element);
        }
        format!("{picture}\n")
    }

    fn title(&self) -> String {
        format!("{}: version {}", self.standing.token, self.newest.version)
    }

    /// What came of it, in a line.
    fn told(&self) -> String {
        let began = format!("began {}", clock(self.begin));
        let became = match (self.rotated_at, &self.standing.held) {
            (Some(at), _) => format!("rotated in {}", took(self.begin, at)),
            (None, Some(Reason { object, reason, .. })) => format!("held: {object}: {reason}"),
            (None, None) => "under way".to_owned(),
        };
        let replaced = self.newest.replaced.as_ref();
        let before = replaced.and_then(|it| Some((it.version, time(&it.not_after)?)));
        match before {
            Some((version, end)) => {
                format!("{became}, {began}; version {version} accepted until {}", clock(end))
            }
            None => format!("{became}, {began}"),
        }
    }

    /// All of the picture in words, for whoever cannot see it.
    fn description(&self) -> String {
        let steps: Vec<_> = self.steps.iter().map(Stretch::told).collect();
        format!("{}. {}.", self.told(), steps.join("; "))
    }

    /// A row for each step of each leg, in the order in which they first came.
    fn legs(&self, page: &mut Page) {
        let mut rows: Vec<(&str, &str)> = Vec::new();
        for step in &self.steps {
            let row = (step.leg.as_str(), step.what.as_str());
            if !rows.contains(&row) && rows.len() < MOST_ROWS {
                rows.push(row);
            }
        }
        // What belongs to one leg stands together, though a leg may be gone through twice.
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
                let bars = self.steps.iter().filter(|it| it.leg == leg && it.what == *what);
                for bar in bars {
                    let told = bar.told();
                    let class = match bar.is {
                        Is::Done => class_of(leg).to_owned(),
                        Is::Wait | Is::UnderWay => format!("waits {}", class_of(leg)),
                    };
                    page.bar((bar.from, bar.to), &class, &told);
                }
                let last = self.steps.iter().rfind(|it| it.leg == leg && it.what == *what);
                if let Some(last) = last.filter(|it| it.from < it.to) {
                    page.beside((last.from, last.to), &took(last.from, last.to));
                }
                page.y += ROW;
            }
            page.y += 4.0;
        }
    }

    /// A row for each version that verifiers accepted meanwhile, with its stages.
    fn versions(&self, page: &mut Page) {
        let (first, last) = page.scale.ends();
        page.group("versions");
        let newest = self.newest.version;
        let mut stages = vec![(
            newest,
            time(&self.newest.created_at).unwrap_or(first),
            "pending",
            "waits newer",
        )];
        if let Some(rotated_at) = self.rotated_at {
            stages.push((newest, rotated_at, "current", "newer"));
        }
        let mut ends = BTreeMap::from([(newest, last)]);
        if let Some(replaced) = &self.newest.replaced {
            stages.push((replaced.version, first, "current", "older"));
            stages.extend(
                self.rotated_at.map(|at| (replaced.version, at, "previous", "waits older")),
            );
            ends.insert(replaced.version, time(&replaced.not_after).unwrap_or(last));
        }
        for version in &self.standing.versions {
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
                // What begins or ends beyond the axis does so at a time that the picture does not know.
                let since =
                    if *from > first { format!(" from {}", clock(*from)) } else { String::new() };
                let until = if to < last { format!(" until {}", clock(to)) } else { String::new() };
                let told = format!("version {version} {stage}{since}{until}");
                page.bar((*from, to.max(*from)), class, &told);
                page.inside((*from, to.max(*from)), stage, class.starts_with("waits"));
            }
            page.y += ROW;
        }
    }
}

impl Stretch {
    fn done(done: &Done) -> Option<Self> {
        let to: Timestamp = done.at.parse().ok()?;
        let began = to.as_millisecond().saturating_sub_unsigned(done.took_ms);
        let from = Timestamp::from_millisecond(began).unwrap_or(to);
        Some(Self { leg: words(&done.leg), what: words(&done.step), from, to, is: Is::Done })
    }

    /// In words. Of a moment that had no length nothing is told but that it was.
    fn told(&self) -> String {
        let Self { leg, what, from, to, .. } = self;
        match from < to {
            true => format!("{leg} {what}: {}", took(*from, *to)),
            false => format!("{leg} {what}"),
        }
    }
}

/// The step that is owed. Retiring is owed all through the overlap, which is drawn as such.
fn under_way(standing: &Answer, newest: &Newest, now: Timestamp) -> Option<Stretch> {
    let from = time(&newest.owed_since)?;
    let (leg, step) = (standing.leg.as_ref()?, standing.step.as_ref()?);
    if step == "retire" {
        return None;
    }
    let to = now.max(from);
    Some(Stretch { leg: words(leg), what: words(step), from, to, is: Is::UnderWay })
}

/// What came after presenters were proved to be on it: the overlap, and that verifiers forgot the version
/// before. No timeline is kept of it; the last write to the verifiers' publications is.
fn after(
    standing: &Answer,
    newest: &Newest,
    rotated_at: Option<Timestamp>,
    now: Timestamp,
) -> Vec<Stretch> {
    let Some((rotated_at, replaced)) = rotated_at.zip(newest.replaced.as_ref()) else {
        return Vec::new();
    };
    let told = standing.publications.iter().filter(|it| it.side == "verifiers");
    let told = told.filter_map(|it| time(&it.answered_at)).max();
    let ended_at = time(&replaced.ended_at);
    let step = |leg: &str, what: &str, from, to, is| Stretch {
        leg: leg.to_owned(),
        what: what.to_owned(),
        from,
        to,
        is,
    };
    let mut stretches = Vec::new();
    let of_overlap =
        told.filter(|told| *told > rotated_at && ended_at.is_none_or(|end| *told < end));
    if let Some(told) = of_overlap {
        stretches.push(step("overlap", "publish", rotated_at, told, Is::Done));
        // Retiring is owed from when the verifiers' copies and pods were on it.
        let retires = standing.leg.as_deref() == Some("contract");
        let since = time(&newest.owed_since).filter(|since| retires && *since > told);
        stretches.extend(since.map(|since| step("overlap", "copies, pods", told, since, Is::Done)));
    }
    if let Some(not_after) = time(&replaced.not_after).filter(|end| *end > rotated_at) {
        stretches.push(step("overlap", "until the end", rotated_at, not_after, Is::Wait));
        if let Some(ended_at) = ended_at.filter(|ended| *ended >= not_after && *ended <= now) {
            stretches.push(step("contract", "retire", ended_at, ended_at, Is::Done));
            if let Some(told) = told.filter(|told| *told > ended_at) {
                stretches.push(step("contract", "publish", ended_at, told, Is::Done));
            }
        }
    }
    stretches
}

/// The picture, as far as it is drawn.
struct Page {
    scale: Scale,
    elements: Vec<Element>,
    /// Where the next row is.
    y: f64,
}

impl Page {
    /// Names what follows.
    fn group(&mut self, name: &str) {
        let y = self.y + BAR - 1.0;
        self.elements.push(label(20.0, y, &clipped(name, 10)).set("class", "group"));
    }

    /// Names a row.
    fn row(&mut self, name: &str) {
        let y = self.y + BAR - 1.0;
        let label = label(LEFT - 10.0, y, &clipped(name, 14)).set("text-anchor", "end");
        self.elements.push(label.set("class", "muted"));
    }

    /// Something that took its time, in the present row; what it tells whoever points at it.
    fn bar(&mut self, span: (Timestamp, Timestamp), class: &str, told: &str) {
        let (x, width) = self.place(span);
        let bar = rectangle(x, self.y, width, BAR).set("class", class).set("rx", "2");
        self.elements.push(bar.with(Element::new("title").text(told)));
    }

    /// A word beside a bar, on the side that has room.
    fn beside(&mut self, span: (Timestamp, Timestamp), word: &str) {
        let (x, width) = self.place(span);
        let room = LEFT + PLOT - (x + width);
        let (x, anchor) = match room > 8.0 + word.chars().count() as f64 * CHARACTER {
            true => (x + width + 6.0, "start"),
            false => (x - 6.0, "end"),
        };
        let label = label(x, self.y + BAR - 2.0, word).set("text-anchor", anchor);
        self.elements.push(label.set("class", "muted"));
    }

    /// A word in a bar, if it has room.
    fn inside(&mut self, span: (Timestamp, Timestamp), word: &str, is_pale: bool) {
        let (x, width) = self.place(span);
        if width > 12.0 + word.chars().count() as f64 * CHARACTER {
            let label = label(x + 6.0, self.y + BAR - 2.5, word);
            self.elements.push(label.set("class", if is_pale { "" } else { "inside" }));
        }
    }

    /// Left edge and width, within the plot.
    fn place(&self, (from, to): (Timestamp, Timestamp)) -> (f64, f64) {
        let (from, to) = (self.scale.x(from), self.scale.x(to));
        let width = (to - from).max(NARROWEST);
        (from.min(LEFT + PLOT - width), width)
    }

    /// The time axis from here up to `top`, behind what is drawn already.
    fn axis(&mut self, top: f64) {
        let mut axis = Vec::new();
        for (x, since) in self.scale.marks() {
            axis.push(line(x, top, x, self.y).set("class", "grid"));
            let mark = label(x, self.y + 16.0, &short(since)).set("text-anchor", "middle");
            axis.push(mark.set("class", "muted"));
        }
        if let Some((from, to, took)) = self.scale.quiet() {
            for x in [from, to] {
                axis.push(line(x, top, x, self.y).set("class", "quiet"));
            }
            let told = label((from + to) / 2.0, top - 4.0, &format!("⋯ {} ⋯", short(took)));
            axis.push(told.set("text-anchor", "middle").set("class", "muted"));
        }
        axis.append(&mut self.elements);
        self.elements = axis;
        self.y += 22.0;
    }
}

/// Requests a second, by the version of their token, and those that failed.
fn rates(page: &mut Page, sent: &[Sent], newest: u64) {
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

fn rectangle(x: f64, y: f64, width: f64, height: f64) -> Element {
    Element::new("rect").at("x", x).at("y", y).at("width", width).at("height", height)
}

fn line(x1: f64, y1: f64, x2: f64, y2: f64) -> Element {
    Element::new("line").at("x1", x1).at("y1", y1).at("x2", x2).at("y2", y2)
}

fn label(x: f64, y: f64, text: &str) -> Element {
    Element::new("text").at("x", x).at("y", y).text(text)
}

fn time(text: &Option<String>) -> Option<Timestamp> {
    text.as_ref()?.parse().ok()
}

/// A moment as people read it.
fn clock(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

fn took(from: Timestamp, to: Timestamp) -> String {
    let milliseconds = to.as_millisecond().saturating_sub(from.as_millisecond());
    let took = Duration::from_millis(milliseconds.try_into().unwrap_or(0));
    match took.as_secs() {
        1..60 => format!("{:.1}s", took.as_secs_f64()),
        _ => duration(took),
    }
}

fn short(since: Duration) -> String {
    duration(Duration::from_secs(since.as_secs())).replace(' ', "")
}

/// At most so many characters of it.
fn clipped(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests;
