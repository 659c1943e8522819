"""The function's binary as a process of one's own, with the environment and the credentials that one gives it.

The deployed function is everybody's: its role, its log filter and its life are not for one test to change. This one is
the same program with the same variables, behind a runtime interface of ours instead of the emulator's.
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
from typing import Any, Self

from botocore.credentials import Credentials

from testbed.testbed import FunctionFailed, Testbed


class FunctionProcess:
    """Runs for the length of a `with` block. What it writes goes to `<logs>/<name>.log`, its answers to `<name>.answers`."""

    def __init__(self, testbed: Testbed, name: str, credentials: Credentials, **variables: str) -> None:
        self.log = testbed.logs / f"{name}.log"
        self._testbed = testbed
        self._credentials = credentials
        self._variables = variables
        self._one_at_a_time = threading.Lock()

    def __enter__(self) -> Self:
        configured = self._testbed.boto3("lambda").get_function_configuration(FunctionName=self._testbed.function)
        self._interface = _RuntimeInterface(configured, self.log.with_suffix(".answers"))
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "CHANGEOVER_"))}
        environment |= configured["Environment"]["Variables"] | {
            "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{self._interface.server_port}",
            "AWS_LAMBDA_FUNCTION_NAME": self._testbed.function,
            "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(configured["MemorySize"]),
            "AWS_REGION": self._testbed.aws.region,
            "AWS_ACCESS_KEY_ID": self._credentials.access_key,
            "AWS_SECRET_ACCESS_KEY": self._credentials.secret_key,
            "AWS_SESSION_TOKEN": self._credentials.token,
        }
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [self._testbed.rotator], env=environment | self._variables, stdout=log, stderr=subprocess.STDOUT
            )
        self._interface.begin(self._process)
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._interface.end()

    def kill(self) -> None:
        """Ends it with SIGKILL, in the middle of whatever it does; `invoke` then raises FunctionFailed."""
        self._process.kill()
        self._process.wait()

    def invoke(self, event: object) -> dict[str, Any]:
        """Its answer to one invocation. Raises FunctionFailed for an error, and when it ends instead."""
        with self._one_at_a_time:
            self._interface.events.put(json.dumps(event).encode())
            succeeded, payload = self._interface.answers.get(timeout=self._interface.timeout_seconds)
        if not succeeded:
            raise FunctionFailed(payload["errorType"], payload["errorMessage"])
        return payload


class _RuntimeInterface(ThreadingHTTPServer):
    """Lambda's runtime interface, as far as a function needs it.

    https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html
    """

    daemon_threads = True

    def __init__(self, configured: dict[str, Any], record: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Request)
        self.arn: str = configured["FunctionArn"]
        self.timeout_seconds: int = configured["Timeout"]
        self.record = record
        self.events: queue.Queue[bytes] = queue.Queue()
        self.answers: queue.Queue[tuple[bool, Any]] = queue.Queue()

    def begin(self, process: subprocess.Popen) -> None:
        def tell_its_end() -> None:
            ended = f"it ended with {process.wait()}"
            self.answers.put((False, {"errorType": "Runtime.ExitError", "errorMessage": ended}))

        for work in (self.serve_forever, tell_its_end):
            threading.Thread(target=work, daemon=True).start()

    def end(self) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, *_: object) -> None:
        """Nothing: a killed function leaves its connection without a word."""


class _Request(BaseHTTPRequestHandler):
    server: _RuntimeInterface
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """The next invocation, as soon as there is one."""
        self._answer(
            200,
            self.server.events.get(),
            {
                "Lambda-Runtime-Aws-Request-Id": str(uuid.uuid4()),
                "Lambda-Runtime-Deadline-Ms": str(int((time.time() + self.server.timeout_seconds) * 1000)),
                "Lambda-Runtime-Invoked-Function-Arn": self.server.arn,
            },
        )

    def do_POST(self) -> None:
        """How an invocation, or the start, ended."""
        payload = self.rfile.read(int(self.headers["Content-Length"]))
        with self.server.record.open("ab") as record:
            record.write(payload + b"\n")
        self.server.answers.put((self.path.endswith("/response"), json.loads(payload)))
        self._answer(202, b"", {})

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Type": "application/json", "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing: invocations are the test's own."""
