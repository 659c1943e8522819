//! How long the function takes from its start to its first request for work, beside an empty
//! function on the same runtime: `cargo bench --bench startup`, or `make bench`.
//!
//! Both are processes of their own, started in turn, and meet the same stand-in for Lambda's runtime
//! interface. The ratio of the two is what counts: absolute times are this computer's.

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
/// Asks this program to be the empty function.
const EMPTY: &str = "--empty-function";

fn main() {
    let own = env::current_exe().expect("this program has a path");
    if env::args().any(|argument| argument == EMPTY) {
        return serve_empty();
    }
    let rotator = PathBuf::from(env!("CARGO_BIN_EXE_rotator"));
    let mut ours = Vec::new();
    let mut empty = Vec::new();
    for run in 0..RUNS + WARM_UP {
        let pair = (start(&rotator, None), start(&own, Some(EMPTY)));
        if run >= WARM_UP {
            ours.push(pair.0);
            empty.push(pair.1);
        }
    }
    let size = rotator.metadata().map(|file| file.len()).unwrap_or_default();
    report("rotator", &mut ours);
    report("empty function", &mut empty);
    let ratio = median(&mut ours, |it| it.took).as_secs_f64()
        / median(&mut empty, |it| it.took).as_secs_f64();
    print(&format!("startup ratio (rotator / empty): {ratio:.2}"));
    print(&format!("rotator binary: {:.1} MB", size as f64 / 1e6));
}

/// One start: until the first request for work, and the most memory that was resident by then.
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

fn report(name: &str, starts: &mut [Start]) {
    let took = median(starts, |it| it.took);
    let resident = median(starts, |it| it.resident_kilobytes);
    print(&format!(
        "{name}: {:.2} ms to the first request for work, {:.1} MB resident (medians of {RUNS})",
        took.as_secs_f64() * 1e3,
        resident as f64 / 1e3,
    ));
}

fn median<T: Ord + Copy>(starts: &mut [Start], of: impl Fn(&Start) -> T) -> T {
    starts.sort_by_key(|start| of(start));
    of(&starts[starts.len() / 2])
}

#[expect(clippy::print_stdout, reason = "a benchmark's output is what it prints")]
fn print(line: &str) {
    println!("{line}");
}

#[tokio::main(flavor = "current_thread")]
async fn serve_empty() {
    let echo = service_fn(|event: LambdaEvent<Value>| async move {
        Ok::<_, lambda_runtime::Error>(event.payload)
    });
    lambda_runtime::run(echo).await.expect("the runtime serves until it is killed");
}
