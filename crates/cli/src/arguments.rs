//! The command's arguments, as they are parsed and as its help describes them.

use std::{path::PathBuf, time::Duration};

use changeover_core::spec::{self, LONGEST_DURATION};
use changeover_token::TokenName;
use clap::{
    Args, Parser, Subcommand,
    builder::{NonEmptyStringValueParser, StringValueParser, TypedValueParser},
    error::ErrorKind,
};
use clap_complete::Shell;

/// Rotates the shared tokens of services without a failed request, by the deployed function
#[derive(Clone, Debug, Parser)]
#[command(name = "changeover", version, arg_required_else_help = true, after_help = EXIT_CODES)]
pub struct Arguments {
    /// Print the function's answer as it came: one JSON document
    #[arg(long, global = true)]
    pub json: bool,
    /// The function to invoke.
    #[command(flatten)]
    pub target: Target,
    /// The action.
    #[command(subcommand)]
    pub action: Action,
}

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed, or refused by preflight
  2  wrong usage
  3  held: it waits for help
  4  still in progress at the time limit, or deferred";

/// The function that is invoked, and the credentials for it.
#[derive(Clone, Debug, Args)]
pub struct Target {
    /// Name or ARN of the deployed function
    #[arg(
        long,
        global = true,
        value_name = "FUNCTION",
        env = "CHANGEOVER_FUNCTION",
        default_value = "changeover-rotator",
        value_parser = NonEmptyStringValueParser::new(),
    )]
    pub function: String,
    /// AWS region of the function [default: that of the environment, else of the profile]
    #[arg(long, global = true, value_parser = NonEmptyStringValueParser::new())]
    pub region: Option<String>,
    /// Profile of ~/.aws whose credentials to use [default: the credentials of the environment]
    #[arg(long, global = true, value_parser = NonEmptyStringValueParser::new())]
    pub profile: Option<String>,
}

/// An action of the command.
#[derive(Clone, Debug, Subcommand)]
pub enum Action {
    /// Roll out a new version of a token, or join the rotation in progress
    Rotate(Rotation),
    /// Adopt or create a token that has no version yet, and write its current views
    Publish {
        /// Name of the token
        #[arg(value_parser = NameParser)]
        name: TokenName,
        /// Take over a value that was written in the token's place by someone else
        #[arg(long)]
        adopt: bool,
    },
    /// Give up a pending version that no presenter can have yet
    Drop {
        /// Name of the token
        #[arg(value_parser = NameParser)]
        name: TokenName,
    },
    /// End the record of a token whose spec is deleted; published views stay
    Forget {
        /// Name of the token
        #[arg(value_parser = NameParser)]
        name: TokenName,
    },
    /// Show the status of one token, or of all of them
    Status {
        /// Name of the token [default: all of them]
        #[arg(value_parser = NameParser)]
        name: Option<TokenName>,
    },
    /// Draw the newest rotation of a token, as SVG
    Timeline {
        /// Name of the token
        #[arg(value_parser = NameParser)]
        name: TokenName,
        /// File to write the picture to, or - for standard output
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
        /// File of requests that were sent meanwhile, to be drawn below it: a JSON list of {"at": TIME,
        /// "version": NUMBER, "accepted": NUMBER, "failed": NUMBER}
        #[arg(long, value_name = "FILE")]
        requests: Option<PathBuf>,
    },
    /// Find everything that would stop a rotation, without rotating
    Preflight {
        /// Name of the token
        #[arg(value_parser = NameParser)]
        name: TokenName,
    },
    /// Resume every token that owes a step, as the function does each minute by itself
    Sweep {
        /// Name of the token [default: all of them]
        #[arg(value_parser = NameParser)]
        name: Option<TokenName>,
    },
    /// Print a script that completes this command in a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the manual page, or write those of all subcommands into a directory
    Man {
        /// Directory to write the pages into
        directory: Option<PathBuf>,
    },
}

/// A rotation to begin or to join.
#[derive(Clone, Debug, Args)]
pub struct Rotation {
    /// Name of the token
    #[arg(value_parser = NameParser)]
    pub name: TokenName,
    /// Wait until it is rotated, held or out of time, and show each step
    #[arg(long)]
    pub follow: bool,
    /// Key of this rotation: the same key never rotates twice, and joins the rotation that it began
    /// [default: a random one, which is shown]
    #[arg(long, value_parser = key)]
    pub key: Option<String>,
    /// Rotate to a version of its own, after the rotation in progress if there is one, not with it
    #[arg(long)]
    pub fresh: bool,
    /// Time after which one invocation begins no further step
    /// [default: when the function's time is up; with --follow, 10s]
    #[arg(long, value_name = "DURATION", value_parser = wait)]
    pub wait: Option<Duration>,
    /// Cluster to leave behind although it is unreachable; may be given several times
    #[arg(long, value_name = "CLUSTER", value_parser = NonEmptyStringValueParser::new())]
    pub without: Vec<String>,
    /// Time after which to stop waiting; the rotation itself continues
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = timeout)]
    pub timeout: Duration,
}

fn wait(text: &str) -> Result<Duration, String> {
    spec::duration(text, Duration::ZERO..=LONGEST_DURATION)
}

fn timeout(text: &str) -> Result<Duration, String> {
    spec::duration(text, Duration::from_secs(1)..=LONGEST_DURATION)
}

/// Checks a key by the function's rule: a text of 1 to 1,024 bytes.
fn key(text: &str) -> Result<String, String> {
    match text.len() {
        1..=1024 => Ok(text.to_owned()),
        _ => Err("it has 1 to 1,024 bytes".to_owned()),
    }
}

/// Reads a token's name. An error does not repeat the text, as clap's own would: the token itself may have
/// been passed by mistake.
#[derive(Clone, Debug)]
pub struct NameParser;

impl TypedValueParser for NameParser {
    type Value = TokenName;

    fn parse_ref(
        &self,
        command: &clap::Command,
        argument: Option<&clap::Arg>,
        value: &std::ffi::OsStr,
    ) -> Result<TokenName, clap::Error> {
        let name = StringValueParser::new().parse_ref(command, argument, value)?;
        TokenName::parse(&name).map_err(|fault| {
            let mut command = command.clone();
            command.error(ErrorKind::ValueValidation, format!("<NAME> names no token: {fault}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(words.split(' '))
    }

    #[test]
    fn command_definition_is_consistent() {
        <Arguments as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn actions_are_parsed_with_their_options() {
        for words in [
            "changeover rotate datastore-token",
            "changeover rotate datastore-token --follow --key k --wait 5s --timeout 10m",
            "changeover rotate datastore-token --without prod --without staging",
            "changeover rotate datastore-token --fresh",
            "changeover publish datastore-token --json",
            "changeover publish datastore-token --adopt",
            "changeover --json --function f --region eu-west-1 --profile p drop datastore-token",
            "changeover forget datastore-token",
            "changeover status",
            "changeover status datastore-token",
            "changeover preflight datastore-token",
            "changeover timeline datastore-token -o picture.svg",
            "changeover timeline datastore-token --output - --requests requests.json",
            "changeover sweep",
            "changeover sweep datastore-token",
            "changeover completions zsh",
            "changeover man",
            "changeover man pages",
        ] {
            assert!(read(words).is_ok(), "{words}");
        }
    }

    #[test]
    fn wrong_usage_exits_with_two() {
        for words in [
            "changeover",
            "changeover revolve",
            "changeover rotate",
            "changeover rotate Datastore",
            "changeover rotate datastore-token --wait 5",
            "changeover rotate datastore-token --timeout 0s",
            "changeover rotate datastore-token --key ",
            "changeover rotate datastore-token other-token",
            "changeover forget",
            "changeover status --follow",
            "changeover preflight",
            "changeover timeline datastore-token",
            "changeover --function  sweep",
        ] {
            assert_eq!(read(words).expect_err(words).exit_code(), 2, "{words}");
        }
    }

    #[test]
    fn help_and_version_exit_with_zero() {
        for words in ["changeover --help", "changeover rotate --help", "changeover --version"] {
            assert_eq!(read(words).expect_err(words).exit_code(), 0, "{words}");
        }
    }

    #[test]
    fn token_passed_by_mistake_is_not_repeated() {
        let error = read("changeover rotate ds_S3cretS3cret").expect_err("'_' is not of a name");
        assert!(!error.render().to_string().contains("S3cret"), "{error}");
    }
}
