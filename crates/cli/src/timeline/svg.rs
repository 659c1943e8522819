//! SVG elements as text: every attribute and every text is escaped here, and nowhere else.

use std::fmt::{self, Write as _};

/// An element with its attributes and content.
pub(super) struct Element {
    name: &'static str,
    attributes: String,
    content: String,
}

impl Element {
    pub(super) fn new(name: &'static str) -> Self {
        Self { name, attributes: String::new(), content: String::new() }
    }

    /// Adds an attribute. For coordinates see [`Self::at`].
    pub(super) fn set(mut self, name: &'static str, value: &str) -> Self {
        // Writing to a String cannot fail.
        let _ = write!(self.attributes, " {name}=\"{}\"", escaped(value));
        self
    }

    /// Adds a coordinate or a length, in tenths of the picture's unit.
    pub(super) fn at(self, name: &'static str, value: f64) -> Self {
        let rounded = (value * 10.0).round() / 10.0;
        self.set(name, &rounded.to_string())
    }

    /// Adds a text.
    pub(super) fn text(mut self, text: &str) -> Self {
        self.content += &escaped(text);
        self
    }

    /// Adds another element.
    pub(super) fn with(mut self, child: Element) -> Self {
        let _ = write!(self.content, "\n{child}");
        self
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, attributes, content } = self;
        if content.is_empty() {
            write!(f, "<{name}{attributes}/>")
        } else {
            write!(f, "<{name}{attributes}>{content}</{name}>")
        }
    }
}

/// The text, escaped for content and for attribute values. A character that XML does not allow is shown as
/// unknown (Extensible Markup Language 1.0, production 2).
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
