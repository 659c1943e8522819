"""Starts the testbed's processes, and sees to it that none outlives it.

Three things end them, each for the case that the one before it did not run:

1. `Processes.stop()`, in the reverse order of their start: a request to end, then, after a grace, a kill.
2. The guardian, a process of its own session that waits for the testbed's death in whatever form and then kills all that
   still carries the testbed's mark in its environment: descendants at any depth inherit it.
3. The kernel, which kills direct children when their parent dies (`PR_SET_PDEATHSIG`), the guardian being dead too.
"""

import contextlib
import ctypes
import os
import random
import re
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

MARK = "TESTBED_MARK"
# Seconds between the request to end and the kill. No part has anything to save.
GRACE = 1


class StartFailed(Exception):
    """A part of the testbed ended, or was not ready in time."""


class Processes:
    """The processes of one testbed. Starting and stopping may be called from any thread."""

    def __init__(self, logs: Path) -> None:
        self.logs = logs
        self.mark = secrets.token_hex(16)
        # Inherited by every process that we start; our own environment, as the system shows it, stays without it.
        os.environ[MARK] = self.mark
        # Memory is plentiful here, and the cores are not: a sixth of the API server's time was its garbage.
        os.environ.setdefault("GOGC", "400")
        self._running: list[tuple[str, subprocess.Popen[bytes]]] = []
        self._lock = threading.Lock()
        self._stopped = False
        # The kernel's death signal follows the thread that started the child, not its process. This one lives long enough.
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="starter")
        self._guardian = subprocess.Popen(
            [sys.executable, "-m", "testbed.guardian", self.mark],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    def start(
        self,
        name: str,
        command: Sequence[str | Path],
        environment: Mapping[str, str] | None = None,
        directory: Path | None = None,
    ) -> None:
        """Starts a process whose output goes to `<logs>/<name>.log`. Its environment is exactly the given one, or ours."""
        inherited = os.environ if environment is None else environment
        with self._lock, open(self.logs / f"{name}.log", "ab") as log:
            if self._stopped:
                raise StartFailed(f"{name}: not started, the testbed is ending")
            self._running.append((name, self._spawn(command, inherited, directory, log)))

    def wait_until(self, what: str, ready: Callable[[], bool], name: str, seconds: float = 60) -> None:
        """Waits until `ready` holds. Gives up, with the end of its log, when the process of that name ends instead."""
        process = next(process for known, process in self._running if known == name)
        deadline = time.monotonic() + seconds
        while not ready():
            ended = process.poll()
            if ended is not None:
                raise StartFailed(f"{what}: not so, {name} ended with {ended}; it said:\n{self._tail(name)}")
            if time.monotonic() > deadline:
                raise StartFailed(f"{what}: not so after {seconds:.0f} s; {name} said:\n{self._tail(name)}")
            time.sleep(0.03)

    def kill(self, name: str) -> None:
        """Kills the process of that name at once, and returns when it is gone. Another may then be started so named."""
        with self._lock:
            index = next(index for index, (known, _) in enumerate(self._running) if known == name)
            _, process = self._running.pop(index)
        _signal(process, signal.SIGKILL)
        process.wait()

    def stop(self) -> None:
        """Ends all processes and what they started, and returns when nothing is left."""
        with self._lock:
            self._stopped = True
        running = self._running[::-1]
        for _, process in running:
            _signal(process, signal.SIGTERM)
        deadline = time.monotonic() + GRACE
        for _, process in running:
            try:
                process.wait(max(0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                _signal(process, signal.SIGKILL)
                process.wait()
        # The guardian sees the end of its input and kills what is left, such as the functions of the AWS emulator.
        assert self._guardian.stdin is not None
        self._guardian.stdin.close()
        self._guardian.wait()
        self._starter.shutdown()

    def _spawn(
        self, command: Sequence[str | Path], environment: Mapping[str, str], directory: Path | None, log: IO[bytes]
    ) -> subprocess.Popen[bytes]:
        def spawn() -> subprocess.Popen[bytes]:
            return subprocess.Popen(
                [str(word) for word in command],
                cwd=directory,
                env={**environment, MARK: self.mark},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C at a terminal is for us alone.
                process_group=0,
                preexec_fn=_die_with_parent,
            )

        return self._starter.submit(spawn).result()

    def _tail(self, name: str, lines: int = 20) -> str:
        return "\n".join((self.logs / f"{name}.log").read_text(errors="replace").splitlines()[-lines:])


# Below the range from which the kernel serves outgoing connections (32768 and up by default), one of which could come first.
PORTS = range(15_000, 32_000)
# The testbed has the first slice of them, each worker of pytest-xdist the next: two processes that probe at the same moment
# never pick the same port.
SLICE = 1_500
WORKER = re.compile(r"gw(\d+)")
_taken: set[int] = set()


def free_port() -> int:
    """A port of 127.0.0.1 on which nothing listens, and which was not returned before in this process."""
    worker = WORKER.fullmatch(os.environ.get("PYTEST_XDIST_WORKER", ""))
    ports = PORTS[SLICE * (1 + int(worker[1])) :][:SLICE] if worker else PORTS[:SLICE]
    for _ in range(1000):
        port = random.choice(ports)
        if port in _taken:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _taken.add(port)
        return port
    raise StartFailed(f"no free port on 127.0.0.1 from {ports.start} to {ports.stop - 1}")


def listening(port: int) -> bool:
    """Whether something accepts connections there."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Signals the process group that the process leads."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)


PR_SET_PDEATHSIG = 1
# Looked up before any fork: after it, in the child, only the call itself is safe.
_prctl = ctypes.CDLL(None, use_errno=True).prctl


def _die_with_parent() -> None:
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    # A child of a shell's background job would ignore SIGINT, and handlers of ours mean nothing to it.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
