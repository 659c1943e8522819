//! A picture of a token's newest rotation. Each step of its legs is a bar on a time axis. Below it are the
//! versions that verifiers and presenters used meanwhile.
//!
//! ```text
//! status of one token ─► story ─┐
//! requests, of a file ──────────┴─► picture ─► page, on a scale ─► SVG
//! ```
//!
//! It holds names, numbers and times, and nothing of a token's value, because the function's answers hold
//! nothing of it either. It is one file without scripts, for light and dark pages.

mod page;
mod picture;
mod requests;
mod scale;
mod story;
mod svg;

use std::path::Path;

use jiff::Timestamp;

use self::story::Story;
use crate::answer::Answer;

/// Draws the status of one token, as the function's `status` returns it, with the requests in a file, if
/// one is named.
///
/// # Errors
/// The message to show if there is nothing to draw, or the file cannot be read.
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
    Ok(picture::draw(&story, &sent))
}

#[cfg(test)]
mod tests;
