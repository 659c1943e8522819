"""`make test`: every test on one testbed, several at once.

    stories, by three workers with a stack each    ─┐
    tests in Rust: on the testbed, then in memory; ─┴─►  what must stay secret is looked for in all that they wrote
    then planted mistakes

The stories mostly wait, for pods, leases and ends; what runs in memory takes only what they leave of the cores.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as xml
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

from testbed import sample
from testbed.platform import PROJECT
from testbed.testbed import DESCRIPTION, Testbed

TESTS = PROJECT / "tests" / "testbed"
# Looks into what all others have written, and so comes last.
SECRETS = TESTS / "stories" / "test_tokens_stay_secret.py"
# Two cores bear three, which wait for a third of their time: with more, each only becomes slower.
WORKERS = 3
PYTEST = [sys.executable, "-m", "pytest"]
RUST = PROJECT / "tests" / "rust"
PLANTED = PROJECT / "tests" / "planted" / "run"
# Of more than 160, each of which takes up to a minute beside the stories; `make verify` plants all.
MISTAKES = 2
# The niceness of what takes only what is left.
LEAST = 19
# How a test in Rust, and a planted mistake, report that they failed.
FAILED = re.compile(r"^test (?P<test>\S+) \.\.\. FAILED|^(?P<mistake>NOT caught|does not build|moved) +(?P<name>\S+)")


def main(testbed: Testbed) -> int:
    """Runs everything; 0 if all of it passed, else 1. What the tests in Rust write is printed when the stories are over.

    The last lines name what failed: where only the end of a log is kept, they are what is left.
    """
    results = [testbed.logs / "stories.xml", testbed.logs / "secrets.xml"]
    # Ended early, the commands end first: the executor waits for them.
    with (testbed.logs / "tests-in-rust.log").open("w+") as log, ThreadPoolExecutor() as executor, Commands(testbed) as commands:
        rust = executor.submit(_tests_in_rust, commands, log)
        several = [f"--numprocesses={WORKERS}", "--dist=loadgroup"]
        codes = [commands.run("stories", [*PYTEST, *several, f"--junit-xml={results[0]}", f"--ignore={SECRETS}", TESTS])]
        codes += rust.result()
        log.seek(0)
        said = log.read()
        print(said, end="", flush=True)
        codes.append(commands.run("secrets", [*PYTEST, f"--junit-xml={results[1]}", SECRETS]))
        commands.report()
    for failure in [*_failed_in_rust(said), *(name for file in results for name in _failed_stories(file))]:
        print(f"failed: {failure}", flush=True)
    return 1 if any(codes) else 0


def _failed_in_rust(said: str) -> Iterator[str]:
    for found in filter(None, map(FAILED.match, said.splitlines())):
        yield found["test"] or f"{found['name']} ({found['mistake']})"


def _failed_stories(file: Path) -> Iterator[str]:
    if not file.exists():
        return
    for case in xml.parse(file).iter("testcase"):
        if case.find("failure") is not None or case.find("error") is not None:
            yield f"{case.get('classname')}::{case.get('name')}"


def _tests_in_rust(commands: Commands, log: IO[str]) -> list[int]:
    codes = [
        # These wait for the cluster, as stories do.
        commands.run("rust-on-the-testbed", [RUST, "--ignored", "--test-threads=2"], log),
        commands.run("rust-in-memory", [RUST], log, gives_way=True),
    ]
    if not sample.is_everything():
        planted = [PLANTED, f"--sample={MISTAKES}", f"--seed={sample.drawn_by()}"]
        codes.append(commands.run("planted-mistakes", planted, log, gives_way=True))
    return codes


class Commands:
    """Commands that run beside each other, how long each took, and their end when the block ends early."""

    def __init__(self, testbed: Testbed) -> None:
        self._environment = os.environ | {DESCRIPTION: str(testbed.directory / "testbed.json")}
        self._running: list[subprocess.Popen[bytes]] = []
        self._ended = threading.Event()
        self._seconds: dict[str, float] = {}
        self._failed: dict[str, int] = {}

    def run(
        self, phase: str, command: Sequence[str | Path], log: IO[str] | None = None, *, gives_way: bool = False
    ) -> int:
        """Runs it to its end, and returns its exit code; 1 for one that was to begin after the block's end.

        One that gives way takes a core only while nothing else wants it.
        """
        if self._ended.is_set():
            return 1
        began = time.monotonic()
        process = subprocess.Popen(
            command,
            cwd=PROJECT,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=gives_way,
        )
        self._running.append(process)
        if gives_way:
            _give_way(process.pid)
        code = process.wait()
        self._seconds[phase] = time.monotonic() - began
        if code != 0:
            self._failed[phase] = code
        return code

    def report(self) -> None:
        """Prints how long each took, and with which exit code those ended that failed."""
        for phase, seconds in self._seconds.items():
            print(f"phase {phase}: {seconds:.0f} s", flush=True)
        for phase, code in self._failed.items():
            print(f"failed: phase {phase}, exit code {code}", flush=True)

    def __enter__(self) -> Commands:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for process in self._running:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()


def _give_way(session: int) -> None:
    """Gives the process that leads this session, and all that it starts, the least share of the cores.

    Where the kernel shares the cores among sessions first (sched(7), "The autogroup feature"), a process's own niceness counts within
    its session only, and the session has one of its own.
    """
    with contextlib.suppress(ProcessLookupError):
        os.setpriority(os.PRIO_PROCESS, session, LEAST)
    with contextlib.suppress(OSError):
        Path(f"/proc/{session}/autogroup").write_text(str(LEAST))
