"""CodePipeline, as far as an action that invokes a function can tell: jobs, with CodePipeline's own rules for their answers.

    with CodePipeline(invoke) as pipeline:
        execution = pipeline.execute('{"action": "rotate", "token": "datastore-token"}')

Rules as in the API reference (PutJobSuccessResult, PutJobFailureResult) and the user guide ("Invoke an AWS Lambda function in a
pipeline"): a job is answered once; a continuation brings no output variables, and is followed by another job with its token; names
and sizes are checked. Lambda's part is played too: the invocation is asynchronous and repeated twice where the function fails.
"""

from __future__ import annotations

import json
import re
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from testbed.aws import ACCOUNT
from testbed.testbed import FunctionFailed

VARIABLE_NAME = re.compile(r"[A-Za-z0-9@\-_]+")
LARGEST_VARIABLES = 122_880
LONGEST_CONTINUATION = 2_048
LONGEST_MESSAGE = 5_000
LONGEST_PARAMETERS = 1_000
FAILURES = ("JobFailed", "ConfigurationError", "PermissionError", "RevisionOutOfSync", "RevisionUnavailable", "SystemUnavailable")


class Hangs(Exception):
    """Nobody answered a job."""


@dataclass
class Execution:
    """What became of an action: `variables` where it succeeded, `failure` where it failed; and how many jobs it took."""

    variables: dict[str, str] | None = None
    failure: dict[str, str] | None = None
    jobs: list[str] = field(default_factory=list)


@dataclass
class _Job:
    answer: dict[str, Any] | None = None
    answers: int = 0
    is_answered: threading.Event = field(default_factory=threading.Event)


class CodePipeline(ThreadingHTTPServer):
    """Serves the answers at `endpoint`. `invoke` is one synchronous invocation of the function."""

    daemon_threads = True

    def __init__(self, invoke: Callable[[dict[str, Any]], Any], port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.endpoint = f"http://127.0.0.1:{self.server_port}"
        # Set to have every answer refused, as for a role without the right to give it.
        self.is_forbidden = False
        self._invoke = invoke
        self._jobs: dict[str, _Job] = {}

    def execute(self, parameters: str | None, deliveries: int = 1, patience: float = 120) -> Execution:
        """Runs an action with these UserParameters to its end. Each job is delivered so many times, one after the other.

        Raises Hangs where a job is not answered by the time that all invocations for it are over.
        """
        assert parameters is None or len(parameters) <= LONGEST_PARAMETERS
        execution = Execution()
        continuation = None
        while True:
            name = str(uuid.uuid4())
            self._jobs[name] = job = _Job()
            execution.jobs.append(name)
            for _ in range(deliveries):
                self._deliver(self.event(name, parameters, continuation))
            if not job.is_answered.is_set() or job.answer is None:
                raise Hangs(f"job {name} was answered {job.answers} times")
            continuation = job.answer.get("continuationToken")
            if continuation is None:
                execution.variables = job.answer.get("outputVariables")
                execution.failure = job.answer.get("failureDetails")
                return execution

    def wait_for(self, job: str) -> None:
        """Starts a job of this name, which somebody else delivers."""
        self._jobs[job] = _Job()

    def answered(self, job: str) -> dict[str, Any] | None:
        """The answer to a job; None where nobody gave one."""
        return self._jobs[job].answer

    def answers(self, job: str) -> int:
        """How often somebody tried to answer this job."""
        return self._jobs[job].answers

    @staticmethod
    def event(job: str, parameters: str | None, continuation: str | None) -> dict[str, Any]:
        """The event of a job, reduced to what CodePipeline always sends."""
        configuration = {"FunctionName": "changeover-rotator"}
        data: dict[str, Any] = {
            "actionConfiguration": {"configuration": configuration},
            "inputArtifacts": [],
            "outputArtifacts": [],
            "artifactCredentials": {"accessKeyId": "A", "secretAccessKey": "S", "sessionToken": "T"},
        }
        if parameters is not None:
            configuration["UserParameters"] = parameters
        if continuation is not None:
            data["continuationToken"] = continuation
        return {"CodePipeline.job": {"id": job, "accountId": ACCOUNT, "data": data}}

    def _deliver(self, event: dict[str, Any]) -> None:
        for _ in range(3):
            try:
                self._invoke(event)
                return
            except FunctionFailed:
                continue

    def answer(self, operation: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """What CodePipeline says to an answer."""
        if self.is_forbidden:
            return _refused("AccessDeniedException", f"not authorized to perform: codepipeline:{operation}")
        job = self._jobs.get(body["jobId"])
        if job is None:
            return _refused("JobNotFoundException", "the job is not known")
        job.answers += 1
        if job.answer is not None:
            return _refused("InvalidJobStateException", "the job is not waiting")
        fault = _fault(operation, body)
        if fault:
            return _refused(*fault)
        job.answer = body
        job.is_answered.set()
        return 200, {}

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


def _fault(operation: str, body: dict[str, Any]) -> tuple[str, str] | None:
    if operation == "PutJobFailureResult":
        details = body["failureDetails"]
        if details["type"] not in FAILURES or not 0 < len(details["message"]) <= LONGEST_MESSAGE:
            return "ValidationException", "failureDetails"
        return None
    continuation, variables = body.get("continuationToken"), body.get("outputVariables", {})
    if continuation is not None and (variables or not 0 < len(continuation) <= LONGEST_CONTINUATION):
        return "ValidationException", "continuationToken"
    if not all(VARIABLE_NAME.fullmatch(name) for name in variables):
        return "ValidationException", "outputVariables"
    if len(json.dumps(variables).encode()) > LARGEST_VARIABLES:
        return "OutputVariablesSizeExceededException", "outputVariables"
    return None


def _refused(code: str, message: str) -> tuple[int, dict[str, Any]]:
    return 400, {"__type": code, "message": message}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: CodePipeline

    def do_POST(self) -> None:
        operation = self.headers["X-Amz-Target"].rpartition(".")[2]
        status, answer = self.server.answer(operation, json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        payload = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/x-amz-json-1.1")
        self.send_header("Content-Length", str(len(payload)))
        # The function would keep the connection, and answer the jobs of the next pipeline to this one.
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, *_: object) -> None:
        """Whoever asks keeps count."""
