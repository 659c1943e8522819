//! The command `changeover`: reads its arguments and runs it.

use std::{
    io::{self, IsTerminal},
    process::ExitCode,
    sync::Arc,
};

use changeover_cli::{Context, arguments::Arguments, progress::Progress};
use changeover_core::{clock::Clock, host};
use clap::Parser;
use console::Term;

/// Exit code of wrong usage, in shells, getopt and the contract.
const USAGE: u8 = 2;

/// Columns of an output that is no terminal: a file, or the log of a deploy step.
const WIDTH_OF_A_LOG: u16 = 160;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(usage) => {
            // Help and version are returned as errors too, and are no mistake.
            let is_mistake = usage.use_stderr();
            return match usage.print() {
                Ok(()) if !is_mistake => ExitCode::SUCCESS,
                _ => ExitCode::from(USAGE),
            };
        }
    };
    let (mut out, mut log) = (io::stdout(), io::stderr());
    let here = Context {
        progress: Progress::new(log.is_terminal(), &mut log),
        out: &mut out,
        width: Term::stdout().size_checked().map_or(WIDTH_OF_A_LOG, |(_, columns)| columns),
        clock: Clock::starting_at(host::now()),
        random_source: Arc::new(host::random_source),
    };
    changeover_cli::run(&arguments, here).await.into()
}
