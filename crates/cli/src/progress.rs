//! What is told while a command runs: on a terminal one line that moves, elsewhere one line a step.

use std::{io::Write, time::Duration};

use indicatif::{ProgressBar, ProgressStyle};

/// Where progress is told.
pub enum Progress<'a> {
    /// A terminal: a line that shows what is awaited and for how long, below what was said.
    Live(ProgressBar),
    /// A log: what was said, a line each.
    Plain(&'a mut dyn Write),
}

impl<'a> Progress<'a> {
    /// On standard error, if that is a terminal; else to `log`.
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

    /// Says a line that stays.
    pub(crate) fn say(&mut self, line: &str) {
        // Where nobody can be told there is nobody to tell that to.
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

    /// Shows what is awaited, until something else is.
    pub(crate) fn stands(&mut self, awaited: &str) {
        if let Progress::Live(bar) = self {
            bar.enable_steady_tick(Duration::from_millis(120));
            bar.set_message(awaited.to_owned());
        }
    }

    /// Takes away the line that moves.
    pub(crate) fn end(&mut self) {
        if let Progress::Live(bar) = self {
            bar.finish_and_clear();
        }
    }
}
