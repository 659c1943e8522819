"""`make test`: every test on one testbed, several at once.

    stories, by three workers with a stack each    ─┐
    tests in Rust: on the testbed, then in memory; ─┴─►  what must stay secret is looked for in all that they wrote
    then planted mistakes

The stories mostly wait, for pods, leases and ends; what runs in memory takes only what they leave of the cores.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
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


def main(testbed: Testbed) -> int:
    """Runs everything; 0 if all of it passed, else 1. What the tests in Rust write is printed when the stories are over."""
    # Ended early, the commands end first: the executor waits for them.
    with (testbed.logs / "tests-in-rust.log").open("w+") as log, ThreadPoolExecutor() as executor, Commands(testbed) as commands:
        rust = executor.submit(_tests_in_rust, commands, log)
        codes = [commands.run("stories", [*PYTEST, f"--numprocesses={WORKERS}", "--dist=loadgroup", f"--ignore={SECRETS}", TESTS])]
        codes += rust.result()
        log.seek(0)
        print(log.read(), end="", flush=True)
        codes.append(commands.run("secrets", [*PYTEST, SECRETS]))
        commands.tell()
    return 1 if any(codes) else 0


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
        return code

    def tell(self) -> None:
        for phase, seconds in self._seconds.items():
            print(f"phase {phase}: {seconds:.0f} s", flush=True)

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
