"""The function's own binary, run by us under Lambda's runtime interface: for what the emulator's Lambda cannot be asked.

    with Function(testbed.rotator, environment(testbed, CHANGEOVER_LEASE="1s"), log) as function:
        answer = function.invoke({"action": "status"})

The interface is the small part of it that a runtime needs: next, response, error
(https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html).
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple, Self

from botocore.credentials import Credentials

from testbed import grants
from testbed.aws import ACCOUNT, REGION
from testbed.processes import MARK
from testbed.testbed import FunctionFailed, Testbed

ROOT = "/2018-06-01/runtime/invocation"
# Lambda's longest.
TIMEOUT_SECONDS = 900


class FunctionDied(Exception):
    """The process ended before it answered: `code` as `subprocess` tells it, a signal's number below zero."""

    def __init__(self, code: int) -> None:
        super().__init__(f"the function ended with {code} before it answered")
        self.code = code


def environment(testbed: Testbed, credentials: Credentials | None = None, **changes: str) -> dict[str, str]:
    """The whole environment of the deployed function, with these credentials or those of a session of its own role. `changes`
    replace or add variables."""
    deployed = testbed.boto3("lambda").get_function_configuration(FunctionName=testbed.function)
    credentials = credentials or grants.session(testbed)
    return {
        **deployed["Environment"]["Variables"],
        "AWS_REGION": testbed.aws.region,
        "AWS_ACCESS_KEY_ID": credentials.access_key,
        "AWS_SECRET_ACCESS_KEY": credentials.secret_key,
        "AWS_SESSION_TOKEN": credentials.token,
        "AWS_LAMBDA_FUNCTION_NAME": testbed.function,
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(deployed["MemorySize"]),
        "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
        **changes,
    }


class Function:
    """One execution environment: a process that answers one invocation after the other, as the function that its environment
    names: what a sweep hands on goes to the deployed one. Its output is appended to `log`, what
    it answers to the file beside it that ends in `.answers`.

    It may be used from any thread, and killed while another one waits in `invoke`.
    """

    def __init__(self, binary: Path, environment: dict[str, str], log: Path) -> None:
        self.log = log
        self._invoking = threading.Lock()
        name = environment["AWS_LAMBDA_FUNCTION_NAME"]
        self._interface = _Interface(f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{name}", log.with_suffix(".answers"))
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [binary],
                env={
                    **environment,
                    "AWS_LAMBDA_RUNTIME_API": self._interface.address,
                    # By it the testbed's guardian finds the process if we cannot end it ourselves.
                    MARK: os.environ.get(MARK, ""),
                },
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                process_group=0,
            )
        threading.Thread(target=self._tell_of_its_end, daemon=True).start()

    def invoke(self, event: dict[str, Any], seconds: float = TIMEOUT_SECONDS) -> dict[str, Any]:
        """The answer to one invocation, which may last so long and is killed then, as Lambda does it.

        Raises FunctionFailed for an error that the function answered, FunctionDied where it answered nothing.
        """
        with self._invoking:
            deadline = time.time() + seconds
            self._interface.events.put(_Event(str(uuid.uuid4()), int(deadline * 1000), json.dumps(event).encode()))
            try:
                kind, payload = self._interface.outcomes.get(timeout=seconds)
            except queue.Empty:
                self.kill()
                kind, payload = self._interface.outcomes.get()
            if kind == "died":
                # Whoever asks next is told the same.
                self._interface.outcomes.put((kind, payload))
                raise FunctionDied(self._process.returncode)
        answer = json.loads(payload)
        if kind == "error":
            raise FunctionFailed(answer.get("errorType", "unknown"), answer.get("errorMessage", str(answer)))
        return answer

    def kill(self) -> None:
        """Kills the process with SIGKILL, and returns when it is gone. Harmless to repeat."""
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._interface.close()

    def _tell_of_its_end(self) -> None:
        self._process.wait()
        self._interface.outcomes.put(("died", b""))


class _Event(NamedTuple):
    request_id: str
    deadline_milliseconds: int
    payload: bytes


class _Interface(ThreadingHTTPServer):
    """The runtime interface of one process, on a port of its own: what it is to answer, and what came of that."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, function: str, answers: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.function = function
        self.answers = answers
        self.address = f"127.0.0.1:{self.server_port}"
        self.events: queue.Queue[_Event | None] = queue.Queue()
        self.outcomes: queue.Queue[tuple[str, bytes]] = queue.Queue()
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()

    def handle_error(self, *_: object) -> None:
        """A process that dies hangs up as it likes; what came of it is told by its end."""

    def close(self) -> None:
        self.events.put(None)
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and body leave as one.
    wbufsize = -1
    server: _Interface

    def do_GET(self) -> None:
        if self.path != f"{ROOT}/next":
            return self._answer(404)
        event = self.server.events.get()
        if event is None:
            self.close_connection = True
            return None
        headers = {
            "Lambda-Runtime-Aws-Request-Id": event.request_id,
            "Lambda-Runtime-Deadline-Ms": str(event.deadline_milliseconds),
            "Lambda-Runtime-Invoked-Function-Arn": self.server.function,
        }
        return self._answer(200, headers, event.payload)

    def do_POST(self) -> None:
        payload = self.rfile.read(int(self.headers["Content-Length"]))
        kind = self.path.rpartition("/")[2]
        if not self.path.startswith(f"{ROOT}/") or kind not in ("response", "error"):
            return self._answer(404)
        with self.server.answers.open("ab") as answers:
            answers.write(payload + b"\n")
        self._answer(202, {}, b'{"status": "OK"}')
        self.wfile.flush()
        self.server.outcomes.put((kind, payload))

    def _answer(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        self.send_response_only(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """The function says enough."""
