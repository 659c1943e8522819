//! The page of a picture: rows below each other, on a time axis.

use std::time::Duration;

use jiff::Timestamp;

use super::{scale::Scale, svg::Element};
use crate::render::duration;

/// Positions and sizes on the page.
pub(super) const WIDTH: f64 = 960.0;
pub(super) const LEFT: f64 = 170.0;
pub(super) const PLOT: f64 = WIDTH - LEFT - 30.0;
/// Position of the first row.
const TOP: f64 = 74.0;
const BAR: f64 = 12.0;
/// A shorter bar would not be visible.
pub(super) const NARROWEST: f64 = 2.0;
/// Largest width of a character in a label.
const CHARACTER: f64 = 6.8;

// Colours are written out twice, because some programs that show SVG do not support variables.
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

/// The picture, as far as it is drawn.
pub(super) struct SvgPage {
    pub(super) scale: Scale,
    pub(super) elements: Vec<Element>,
    /// Position of the next row.
    pub(super) y: f64,
}

impl SvgPage {
    /// An empty page with this axis.
    pub(super) fn new(scale: Scale) -> Self {
        Self { scale, elements: Vec::new(), y: TOP }
    }

    /// Names a group of rows.
    pub(super) fn group(&mut self, name: &str) {
        let y = self.y + BAR - 1.0;
        self.elements.push(label(20.0, y, &clipped(name, 10)).set("class", "group"));
    }

    /// Names a row.
    pub(super) fn row(&mut self, name: &str) {
        let y = self.y + BAR - 1.0;
        let label = label(LEFT - 10.0, y, &clipped(name, 14)).set("text-anchor", "end");
        self.elements.push(label.set("class", "muted"));
    }

    /// Draws a bar for a span of time in the present row. The last argument is its tooltip.
    pub(super) fn bar(&mut self, span: (Timestamp, Timestamp), class: &str, title: &str) {
        let (x, width) = self.place(span);
        let bar = rectangle(x, self.y, width, BAR).set("class", class).set("rx", "2");
        self.elements.push(bar.with(Element::new("title").text(title)));
    }

    /// Writes a word beside a bar, on the side that has room.
    pub(super) fn beside(&mut self, span: (Timestamp, Timestamp), word: &str) {
        let (x, width) = self.place(span);
        let room = LEFT + PLOT - (x + width);
        let (x, anchor) = if room > 8.0 + word.chars().count() as f64 * CHARACTER {
            (x + width + 6.0, "start")
        } else {
            (x - 6.0, "end")
        };
        let label = label(x, self.y + BAR - 2.0, word).set("text-anchor", anchor);
        self.elements.push(label.set("class", "muted"));
    }

    /// Writes a word in a bar, if it has room.
    pub(super) fn inside(&mut self, span: (Timestamp, Timestamp), word: &str, is_pale: bool) {
        let (x, width) = self.place(span);
        if width > 12.0 + word.chars().count() as f64 * CHARACTER {
            let label = label(x + 6.0, self.y + BAR - 2.5, word);
            self.elements.push(label.set("class", if is_pale { "" } else { "inside" }));
        }
    }

    /// Left edge and width of a span, within the plot.
    fn place(&self, (from, to): (Timestamp, Timestamp)) -> (f64, f64) {
        let (from, to) = (self.scale.x(from), self.scale.x(to));
        let width = (to - from).max(NARROWEST);
        (from.min(LEFT + PLOT - width), width)
    }

    /// Draws the time axis from here up to the first row, behind the elements that are drawn already.
    pub(super) fn axis(&mut self) {
        let top = TOP - 8.0;
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
            let gap = label((from + to) / 2.0, top - 4.0, &format!("⋯ {} ⋯", short(took)));
            axis.push(gap.set("text-anchor", "middle").set("class", "muted"));
        }
        axis.append(&mut self.elements);
        self.elements = axis;
        self.y += 22.0;
    }

    /// The whole document: its title, its summary in one line, and its text for readers who cannot see the
    /// picture.
    pub(super) fn document(self, title: &str, subtitle: &str, description: &str) -> String {
        let height = self.y + 14.0;
        let mut picture = Element::new("svg")
            .set("xmlns", "http://www.w3.org/2000/svg")
            .set("viewBox", &format!("0 0 {WIDTH} {height:.0}"))
            .set("role", "img")
            .set("aria-labelledby", "title")
            .set("aria-describedby", "description")
            .with(Element::new("title").set("id", "title").text(title))
            .with(Element::new("desc").set("id", "description").text(description))
            .with(Element::new("style").text(STYLE))
            .with(rectangle(0.0, 0.0, WIDTH, height).set("class", "page"))
            .with(label(20.0, 30.0, title).set("class", "heading"))
            .with(label(20.0, 50.0, &clipped(subtitle, 130)).set("class", "muted"));
        for element in self.elements {
            picture = picture.with(element);
        }
        format!("{picture}\n")
    }
}

pub(super) fn rectangle(x: f64, y: f64, width: f64, height: f64) -> Element {
    Element::new("rect").at("x", x).at("y", y).at("width", width).at("height", height)
}

pub(super) fn line(x1: f64, y1: f64, x2: f64, y2: f64) -> Element {
    Element::new("line").at("x1", x1).at("y1", y1).at("x2", x2).at("y2", y2)
}

pub(super) fn label(x: f64, y: f64, text: &str) -> Element {
    Element::new("text").at("x", x).at("y", y).text(text)
}

fn short(since: Duration) -> String {
    duration(Duration::from_secs(since.as_secs())).replace(' ', "")
}

/// At most so many characters of a text.
fn clipped(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
