"""That nothing of a testbed outlives it, however it ends. These start testbeds of their own."""

import contextlib
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from testbed import guardian, processes
from testbed.testbed import Testbed

RUN = Path(__file__).resolve().parent.parent / "run"

# A child that ignores the request to end and has a child of its own, in a session of its own, that ignores it too.
IGNORE = "trap '' TERM INT HUP"
STUBBORN = f'{IGNORE}; setsid sh -c "{IGNORE}; while :; do sleep 1000; done" & while :; do sleep 1000; done'

PARENT = f"""
import pathlib, signal, sys
from testbed.processes import Processes
processes = Processes(pathlib.Path(sys.argv[1]))
processes.start("stubborn", ["sh", "-c", {STUBBORN!r}])
print(processes.mark, flush=True)
signal.pause()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def no_descendant_outlives_signalled_parent(tmp_path: Path, number: signal.Signals) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, tmp_path], stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    left = _marked(parent.stdout.readline().strip(), at_least=2)
    parent.send_signal(number)
    parent.wait(30)
    _wait_for_the_end_of(left)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def no_process_outlives_its_testbed(testbed: Testbed, number: signal.Signals) -> None:
    program = subprocess.Popen(
        [RUN, "up", "--rotator", testbed.rotator], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert program.stdout
    said = []
    for line in program.stdout:
        said.append(line)
        if directory := re.search(r"KUBECONFIG=(\S+)/[^/\s]+ ", line):
            break
    else:
        pytest.fail(f"the testbed did not start: {''.join(said)}")
    left = _marked(_mark_of(program.pid), at_least=8)

    program.send_signal(number)
    program.wait(60)
    _wait_for_the_end_of(left)
    # Logs are kept of what did not end by request.
    assert Path(directory[1]).exists() == (number == signal.SIGKILL)
    shutil.rmtree(directory[1], ignore_errors=True)


def _mark_of(parent: int) -> str:
    """The mark that the children of a testbed's program carry."""
    for status in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):
            if f"\nPPid:\t{parent}\n" in status.read_text():
                if found := re.search(rf"{processes.MARK}=(\w+)", status.with_name("environ").read_text(errors="replace")):
                    return found[1]
    pytest.fail(f"no child of process {parent} carries a mark")


def _marked(mark: str, at_least: int) -> list[int]:
    """The processes that carry the mark, as soon as there are that many; the guardian is one of them."""
    deadline = time.monotonic() + 30
    while len(found := guardian.marked(f"{processes.MARK}={mark}".encode())) <= at_least:
        assert time.monotonic() < deadline, found
    return found


def _wait_for_the_end_of(left: list[int]) -> None:
    """Returns when all of them have ended, and fails when one has not within half a minute."""
    ended = select.poll()
    waited_for = set()
    for pid in left:
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        waited_for.add(descriptor)
        ended.register(descriptor, select.POLLIN)
    deadline = time.monotonic() + 30
    while waited_for:
        for descriptor, _ in ended.poll(max(0, deadline - time.monotonic()) * 1000):
            ended.unregister(descriptor)
            os.close(descriptor)
            waited_for.discard(descriptor)
        assert not waited_for or time.monotonic() < deadline, "a process outlived its testbed"
