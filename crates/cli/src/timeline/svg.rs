//! SVG elements as text: every attribute and every word is escaped here, and nowhere else.

use std::fmt::{self, Write as _};

/// An element with its attributes and what is in it.
pub(super) struct Element {
    name: &'static str,
    attributes: String,
    content: String,
}

impl Element {
    pub(super) fn new(name: &'static str) -> Self {
        Self { name, attributes: String::new(), content: String::new() }
    }

    /// With an attribute. Numbers that are to be coordinates: see [`Self::at`].
    pub(super) fn set(mut self, name: &'static str, value: &str) -> Self {
        // Writing to a String cannot fail.
        let _ = write!(self.attributes, " {name}=\"{}\"", escaped(value));
        self
    }

    /// With a coordinate or a length, in tenths of the picture's unit.
    pub(super) fn at(self, name: &'static str, value: f64) -> Self {
        let rounded = (value * 10.0).round() / 10.0;
        self.set(name, &rounded.to_string())
    }

    /// With a text in it.
    pub(super) fn text(mut self, text: &str) -> Self {
        self.content += &escaped(text);
        self
    }

    /// With another element in it.
    pub(super) fn with(mut self, child: Element) -> Self {
        let _ = write!(self.content, "\n{child}");
        self
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, attributes, content } = self;
        match content.is_empty() {
            true => write!(f, "<{name}{attributes}/>"),
            false => write!(f, "<{name}{attributes}>{content}</{name}>"),
        }
    }
}

/// As text and as the value of an attribute. What XML has no word for is shown as unknown (Extensible
/// Markup Language 1.0, production 2).
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\'' => escaped += "&#39;",
            '\n' => escaped.push(character),
            '\u{FFFE}' | '\u{FFFF}' => escaped.push(char::REPLACEMENT_CHARACTER),
            _ if character.is_control() => escaped.push(char::REPLACEMENT_CHARACTER),
            _ => escaped.push(character),
        }
    }
    escaped
}
