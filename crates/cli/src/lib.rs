//! The command `changeover`: invokes the deployed function, and shows its answer to people and deploy
//! steps.
//!
//! ```text
//! arguments ─► request ─► function (Lambda's API) ─► answer ─┬─► verdict: the exit code
//!                  ▲          follow: again and again        └─► render: text for people, or the JSON
//!                  └─────────────────────┘
//! ```
//!
//! A rotation does not depend on the command: the record names the step that is owed, and the function's
//! sweep carries it out even if the command stops waiting.

pub mod answer;
pub mod arguments;
mod follow;
pub mod function;
pub mod progress;
mod render;
mod timeline;
pub mod exit_status;

use std::{
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
};

use changeover_core::{
    clock::Clock,
    error::{Error, Kind},
    ports::RandomSource,
};
use clap::CommandFactory;
use serde_json::{Value, json};

use self::{
    answer::Answer,
    arguments::{Action, Arguments, Rotation},
    exit_status::ExitStatus,
    function::{Function, Reply},
    progress::Progress,
};

/// The environment of a command while it runs.
pub struct Context<'a> {
    /// Output for answers, and nothing else.
    pub out: &'a mut dyn io::Write,
    /// Output for everything else.
    pub progress: Progress<'a>,
    /// Columns of the terminal or file behind `out`. Text is wrapped there.
    pub width: u16,
    /// The clock.
    pub clock: Clock,
    /// The source of randomness.
    pub random_source: RandomSource,
}

/// Carries out the action of the arguments, and returns its verdict.
pub async fn run(arguments: &Arguments, mut here: Context<'_>) -> ExitStatus {
    let done = match &arguments.action {
        Action::Completions { shell } => {
            // Made in memory first: the generator panics if it cannot write.
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Arguments::command(), NAME, &mut script);
            here.out.write_all(&script).map_err(Failure::from)
        }
        Action::Man { directory: Some(directory) } => {
            clap_mangen::generate_to(Arguments::command(), directory).map_err(Failure::from)
        }
        Action::Man { directory: None } => {
            clap_mangen::Man::new(Arguments::command()).render(&mut here.out).map_err(Failure::from)
        }
        asking => {
            let target = &arguments.target;
            let region = target.region.clone();
            return match Function::load(&target.function, region, target.profile.as_deref()).await {
                Ok(function) => ask(&function, asking, arguments.json, here).await,
                Err(error) => ended(Err(error.into()), &mut here.progress),
            };
        }
    };
    ended(done.map(|()| ExitStatus::Done), &mut here.progress)
}

/// Invokes the function for one action, and shows its answer.
pub async fn ask(
    function: &Function,
    action: &Action,
    as_json: bool,
    mut here: Context<'_>,
) -> ExitStatus {
    let reply = match action {
        Action::Rotate(rotation) => rotate(function, rotation, &mut here).await,
        Action::Status { name: None } => {
            here.progress.stands(&format!("waiting for {}", function.name()));
            every_page(function, event(action)).await.map(Some).map_err(Failure::from)
        }
        _ => {
            here.progress.stands(&format!("waiting for {}", function.name()));
            function.invoke(&event(action)).await.map(Some).map_err(Failure::from)
        }
    };
    let result = reply.and_then(|reply| match action {
        Action::Timeline { output, requests, .. } => {
            picture(reply, output, requests.as_ref(), &mut here)
        }
        Action::Rotate(_) => show(reply, ExitStatus::of_rotation, as_json, &mut here),
        _ => show(reply, ExitStatus::of, as_json, &mut here),
    });
    ended(result, &mut here.progress)
}

/// The name of the program.
const NAME: &str = "changeover";

/// Rotates by a key that is shown before anything is sent. If the command is run again with that key, it
/// joins the same rotation.
async fn rotate(
    function: &Function,
    rotation: &Rotation,
    here: &mut Context<'_>,
) -> Result<Option<Reply>, Failure> {
    let key = match &rotation.key {
        Some(key) => key.clone(),
        None => own_key(&here.random_source)?,
    };
    here.progress.say(&format!("rotating {} with --key {key}", rotation.name));
    let limit = here.clock.now() + rotation.timeout;
    let followed = if rotation.follow {
        follow::follow(function, rotation, &key, limit, here).await
    } else {
        here.progress.stands(&format!("waiting for {}", function.name()));
        let event = rotation_event(rotation, &key, rotation.wait);
        match tokio::time::timeout(rotation.timeout, function.invoke(&event)).await {
            Ok(replied) => replied.map(Some),
            Err(_) => Ok(None),
        }
    };
    let reply = followed.map_err(|error| Failure::joinable(error, &key))?;
    if reply.as_ref().is_none_or(|reply| ExitStatus::of(reply) == ExitStatus::InProgress) {
        here.progress.say(&format!(
            "not through yet; the function carries it on, and the same command with --key {key} joins it"
        ));
    }
    Ok(reply)
}

/// Requests all pages of a reply, and returns them as one reply. A reply that is no page is returned as it
/// is.
async fn every_page(function: &Function, mut event: Value) -> Result<Reply, Error> {
    let mut results = Vec::new();
    for _ in 0..MOST_PAGES {
        let reply = function.invoke(&event).await?;
        let page = serde_json::from_str::<Value>(&reply.text).ok().filter(|_| !reply.is_error);
        let Some(mut page) = page.filter(|page| page["results"].is_array()) else {
            return Ok(reply);
        };
        let next = page.as_object_mut().and_then(|page| page.remove("next"));
        if next.is_none() && results.is_empty() {
            return Ok(reply);
        }
        if let Some(more) = page["results"].as_array_mut() {
            results.append(more);
        }
        let Some(next) = next else {
            page["results"] = results.into();
            return Ok(Reply { text: page.to_string(), is_error: false });
        };
        event["after"] = next;
    }
    Err(Error::new(
        Kind::TooLarge,
        "read the status of all tokens of",
        format!("there are more than {MOST_PAGES} pages of them"),
        "ask for tokens by their names",
    )
    .on(function.name()))
}

/// Ten thousand tokens, the most that a function manages, take a dozen pages.
const MOST_PAGES: usize = 100;

/// A unique key: 128 random bits.
fn own_key(random_source: &RandomSource) -> Result<String, Error> {
    let mut bytes = [0; 16];
    random_source(&mut bytes)?;
    Ok(format!("{NAME}-{}", hex::encode(bytes)))
}

/// The event of a rotation. `wait` is sent as a duration in human-readable form.
fn rotation_event(rotation: &Rotation, key: &str, wait: Option<std::time::Duration>) -> Value {
    let mut event = json!({"action": "rotate", "token": rotation.name.as_str(), "key": key});
    if let Some(wait) = wait {
        event["wait"] = humantime::format_duration(wait).to_string().into();
    }
    if rotation.fresh {
        event["fresh"] = true.into();
    }
    if !rotation.without.is_empty() {
        event["without"] = rotation.without.clone().into();
    }
    event
}

/// The event of any other action.
fn event(action: &Action) -> Value {
    match action {
        Action::Publish { name, adopt: true } => {
            json!({"action": "publish", "token": name.as_str(), "adopt": true})
        }
        Action::Publish { name, .. } => json!({"action": "publish", "token": name.as_str()}),
        Action::Drop { name } => json!({"action": "drop", "token": name.as_str()}),
        Action::Forget { name } => json!({"action": "forget", "token": name.as_str()}),
        Action::Preflight { name } => json!({"action": "preflight", "token": name.as_str()}),
        Action::Status { name: Some(name) } => json!({"action": "status", "token": name.as_str()}),
        Action::Timeline { name, .. } => json!({"action": "status", "token": name.as_str()}),
        Action::Sweep { name: Some(name) } => json!({"action": "sweep", "token": name.as_str()}),
        Action::Status { name: None } => json!({"action": "status"}),
        _ => json!({"action": "sweep"}),
    }
}

/// Writes the answer. With `--json` a function error is written too: it is the function's answer.
fn show(
    reply: Option<Reply>,
    judge: fn(&Reply) -> ExitStatus,
    as_json: bool,
    here: &mut Context<'_>,
) -> Result<ExitStatus, Failure> {
    here.progress.end();
    let Some(reply) = reply else { return Ok(ExitStatus::InProgress) };
    let exit_status = judge(&reply);
    if as_json {
        writeln!(here.out, "{}", reply.text.trim_end())?;
    }
    match Answer::read(&reply) {
        Ok(_) if as_json => {}
        Ok(answer) => {
            here.out.write_all(render::text(&answer, here.clock.now(), here.width).as_bytes())?;
        }
        Err(failed) => here.progress.say(&render::visible(&format!("{NAME}: {failed}"))),
    }
    here.out.flush()?;
    Ok(exit_status)
}

/// Draws the picture of an answer, and writes it to the output.
fn picture(
    reply: Option<Reply>,
    output: &Path,
    requests: Option<&PathBuf>,
    here: &mut Context<'_>,
) -> Result<ExitStatus, Failure> {
    here.progress.end();
    let failure = |message: String| Failure(Some(message));
    let answer = reply.as_ref().map(Answer::read).transpose();
    let answer = answer.map_err(|failed| failure(failed.to_string()))?.unwrap_or_default();
    let standing = answer.results.first().cloned().unwrap_or_default();
    let drawn = timeline::draw(&standing, requests.map(PathBuf::as_path), here.clock.now());
    let drawn = drawn.map_err(failure)?;
    if output == Path::new("-") {
        here.out.write_all(drawn.as_bytes())?;
        here.out.flush()?;
    } else {
        let written = fs::write(output, drawn);
        let file = output.display();
        written
            .map_err(|error| failure(format!("could not write the picture to {file}: {error}")))?;
        here.progress.say(&render::visible(&format!("the picture is in {file}")));
    }
    Ok(ExitStatus::Done)
}

/// Reports a failed command, and returns its verdict.
fn ended(done: Result<ExitStatus, Failure>, progress: &mut Progress<'_>) -> ExitStatus {
    progress.end();
    done.unwrap_or_else(|Failure(message)| {
        if let Some(message) = message {
            progress.say(&render::visible(&format!("{NAME}: {message}")));
        }
        ExitStatus::Failed
    })
}

/// The reason why a command has nothing to show; `None` if its reader has closed the output.
struct Failure(Option<String>);

impl Failure {
    fn joinable(error: Error, key: &str) -> Self {
        let mut message = error.to_string();
        let _ = write!(message, "; the same command with --key {key} joins what has begun");
        Self(Some(message))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self(Some(error.to_string()))
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        // A reader that closes the pipe has read enough.
        let is_wanted = error.kind() != io::ErrorKind::BrokenPipe;
        Self(is_wanted.then(|| format!("could not write the output: {error}")))
    }
}
