//! Progress of a command while it runs: one line that is updated on a terminal, one line per step
//! elsewhere.

use std::{io::Write, time::Duration};

use indicatif::{ProgressBar, ProgressStyle};

/// Output for progress.
pub enum Progress<'a> {
    /// A terminal: a line that shows what is awaited and for how long, below the lines that stay.
    Live(ProgressBar),
    /// A log: one line per message.
    Plain(&'a mut dyn Write),
}

impl<'a> Progress<'a> {
    /// Standard error, if that is a terminal; else `log`.
    pub fn new(is_terminal: bool, log: &'a mut dyn Write) -> Self {
        if !is_terminal {
            return Progress::Plain(log);
        }
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed:>4} {wide_msg}") {
            bar.set_style(style);
        }
        Progress::Live(bar)
    }

    /// Writes a line that stays.
    pub(crate) fn say(&mut self, line: &str) {
        // There is no other place to report that this cannot be written.
        let _ = match self {
            Progress::Live(bar) if bar.is_finished() => {
                writeln!(std::io::stderr(), "{line}")
            }
            Progress::Live(bar) => {
                bar.println(line);
                Ok(())
            }
            Progress::Plain(log) => writeln!(log, "{line}"),
        };
    }

    /// Shows what is awaited, until the next call.
    pub(crate) fn stands(&mut self, awaited: &str) {
        if let Progress::Live(bar) = self {
            bar.enable_steady_tick(Duration::from_millis(120));
            bar.set_message(awaited.to_owned());
        }
    }

    /// Removes the line that is updated.
    pub(crate) fn end(&mut self) {
        if let Progress::Live(bar) = self {
            bar.finish_and_clear();
        }
    }
}
