//! The number of cases that these tests try, and the testbed that they use. The environment decides both.
//!
//! `CHANGEOVER_SAMPLE` is the text from which a sample is drawn. In `make test`, it is the hash of the
//! commit. `all` tries everything, as `make verify` does. A text that begins with `few` tries little, as
//! `make check` does. tests/testbed/testbed/sample.py reads the variable too.
#![expect(
    clippy::disallowed_methods,
    reason = "the edge of these tests: their amount and their testbed come from who runs them"
)]

use std::{env, fs, ops::Range};

use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// Samples of seeds are drawn below this bound. `make verify` also runs seeds beyond it.
const DRAWN_BELOW: u64 = 2_000;

/// True if everything is tried, however long it takes.
pub fn is_everything() -> bool {
    drawn_by() == "all"
}

/// True if so little is tried that the tests can run after every edit.
pub fn is_little() -> bool {
    drawn_by().starts_with("few")
}

/// The calls at which a test tries something: all of them, or one in ten from a first call that the sample
/// text determines.
pub fn calls<Call>(calls: impl Iterator<Item = Call>) -> impl Iterator<Item = Call> {
    let (first, every) = if is_little() { (usize::from(drawn()[4] % 10), 10) } else { (0, 1) };
    calls.skip(first).step_by(every)
}

/// The number of random cases to try: `all`, or a quarter of it if little is tried.
pub fn cases(all: u32) -> u32 {
    if is_little() { all.div_ceil(4) } else { all }
}

/// Seeds below `all`, or below a quarter of it if little is tried.
pub fn few_seeds(all: u64) -> Range<u64> {
    0..if is_little() { all.div_ceil(4) } else { all }
}

/// The seeds to run, as a range. A sample has `sample` seeds in a row, or a quarter of them if little is
/// tried, and the sample text determines the first one. If everything is tried, the range is all seeds
/// below `everything`. `CHANGEOVER_SEEDS`, a number or a range, overrides all of that.
pub fn seeds(sample: u64, everything: u64) -> Range<u64> {
    if let Ok(range) = env::var("CHANGEOVER_SEEDS") {
        let number = |text: &str| text.parse().expect("CHANGEOVER_SEEDS: a number, or two as 3..7");
        return match range.split_once("..") {
            Some((first, end)) => number(first)..number(end),
            None => 0..number(&range),
        };
    }
    if is_everything() {
        return 0..everything;
    }
    let count = if is_little() { sample / 4 } else { sample };
    let drawn = drawn();
    let drawn = u64::from(u32::from_be_bytes([drawn[0], drawn[1], drawn[2], drawn[3]]));
    let first = drawn % (DRAWN_BELOW - count);
    first..first + count
}

/// The description of the running testbed. Tests that call this are ignored unless `make test` runs them.
pub fn testbed_description() -> Value {
    let path = env::var("CHANGEOVER_TESTBED")
        .expect("CHANGEOVER_TESTBED names no testbed: run this by `tests/testbed/run with -- ...`");
    let description = fs::read_to_string(path).expect("the testbed's description");
    serde_json::from_str(&description).expect("JSON")
}

fn drawn() -> [u8; 32] {
    Sha256::digest(drawn_by()).into()
}

fn drawn_by() -> String {
    env::var("CHANGEOVER_SAMPLE").unwrap_or_else(|_| "by-hand".to_owned())
}
