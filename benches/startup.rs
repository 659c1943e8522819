//! Time from the start of the function to its first request for work, compared with empty functions on the
//! same runtime: `cargo bench --bench startup`, or `make bench`.
//!
//! Each is a process of its own. They are started in turn, against the same stand-in for Lambda's runtime
//! interface. Compare the ratios: absolute times depend on this computer.

use std::{
    env,
    io::Read,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use lambda_runtime::{LambdaEvent, service_fn};
use serde_json::Value;

const RUNS: usize = 40;
const WARM_UP: usize = 3;
/// Makes this program the function that `cargo lambda new` writes.
const EMPTY: &str = "--empty-function";
/// Makes this program the smallest possible function: one thread, and no log.
const BARE: &str = "--bare-function";

fn main() {
    let own = env::current_exe().expect("this program has a path");
    if env::args().any(|argument| argument == EMPTY) {
        return serve_empty();
    }
    if env::args().any(|argument| argument == BARE) {
        return serve_bare();
    }
    let rotator = PathBuf::from(env!("CARGO_BIN_EXE_rotator"));
    let programs = [
        ("rotator", &rotator, None),
        ("empty function", &own, Some(EMPTY)),
        ("bare function", &own, Some(BARE)),
    ];
    let mut starts = programs.map(|_| Vec::new());
    for run in 0..RUNS + WARM_UP {
        for ((_, program, argument), starts) in programs.iter().zip(&mut starts) {
            let start = start(program, *argument);
            if run >= WARM_UP {
                starts.push(start);
            }
        }
    }
    let [rotator_took, empty_took, bare_took] = std::array::from_fn(|which| {
        let (name, ..) = programs[which];
        report(name, &mut starts[which])
    });
    print(&format!("startup ratio (rotator / empty): {:.2}", rotator_took / empty_took));
    print(&format!("startup ratio (rotator / bare): {:.2}", rotator_took / bare_took));
    let size = rotator.metadata().map(|file| file.len()).unwrap_or_default();
    print(&format!("rotator binary: {:.1} MB", size as f64 / 1e6));
}

/// One start: the time until the first request for work, and the peak resident memory by then.
struct Start {
    took: Duration,
    resident_kilobytes: u64,
}

fn start(program: &Path, argument: Option<&str>) -> Start {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it is bound").to_string();
    let began = Instant::now();
    let mut child = Command::new(program)
        .args(argument)
        .env_clear()
        .envs([
            ("AWS_LAMBDA_RUNTIME_API", address.as_str()),
            ("AWS_LAMBDA_FUNCTION_NAME", "bench"),
            ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256"),
            ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST"),
            ("AWS_REGION", "eu-west-1"),
            ("AWS_ACCESS_KEY_ID", "bench"),
            ("AWS_SECRET_ACCESS_KEY", "bench"),
            ("CHANGEOVER_TABLE", "bench"),
            ("CHANGEOVER_KEY", "bench"),
            ("CHANGEOVER_PUBLICATION_KEY", "bench"),
        ])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program starts");
    let (mut connection, _) = listener.accept().expect("the program asks for work");
    let mut request = [0; 64];
    let read = connection.read(&mut request).expect("it sends a request");
    let took = began.elapsed();
    assert!(request[..read].starts_with(b"GET /2018-06-01/runtime/invocation/next"));
    let resident_kilobytes = most_resident(&child);
    child.kill().expect("it can be ended");
    child.wait().expect("it ends");
    Start { took, resident_kilobytes }
}

fn most_resident(child: &Child) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id()));
    let status = status.unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or_default()
}

/// Prints the medians. Returns the seconds that a start took.
fn report(name: &str, starts: &mut [Start]) -> f64 {
    let took = median(starts, |it| it.took).as_secs_f64();
    let resident = median(starts, |it| it.resident_kilobytes);
    print(&format!(
        "{name}: {:.2} ms to the first request for work, {:.1} MB resident (medians of {RUNS})",
        took * 1e3,
        resident as f64 / 1e3,
    ));
    took
}

fn median<T: Ord + Copy>(starts: &mut [Start], of: impl Fn(&Start) -> T) -> T {
    starts.sort_by_key(|start| of(start));
    of(&starts[starts.len() / 2])
}

#[expect(clippy::print_stdout, reason = "a benchmark's output is what it prints")]
fn print(line: &str) {
    println!("{line}");
}

#[tokio::main]
async fn serve_empty() {
    tracing_subscriber::fmt().json().with_max_level(tracing::Level::INFO).init();
    echo().await;
}

#[tokio::main(flavor = "current_thread")]
async fn serve_bare() {
    echo().await;
}

async fn echo() {
    let echo = service_fn(|event: LambdaEvent<Value>| async move {
        Ok::<_, lambda_runtime::Error>(event.payload)
    });
    lambda_runtime::run(echo).await.expect("the runtime serves until it is killed");
}
