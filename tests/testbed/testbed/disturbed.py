"""One rotation from its trigger to its contract, with a fault at one of its calls or without, and what came of it."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, Self

from testbed.faults import Call, Fault
from testbed.faulty_aws import FaultyAws
from testbed.lone_account import RECORDS, LoneAccount, LoneToken, Standing
from testbed.platform import wait_until
from testbed.runtime_interface import Function, FunctionDied
from testbed.testbed import FunctionFailed, Testbed

LEASE = "3s"
CONVERGED_SECONDS = 120
# What was attempted on what, why it failed, and what to do.
MESSAGE = re.compile(r"could not \w+ .+: .+; .+", re.DOTALL)


@dataclass(frozen=True)
class Pace:
    """How long an invocation may last, and for how long a call whose reply was lost counts as one that may still land."""

    seconds: float
    late_write: str


STEADY = Pace(seconds=40, late_write="1s")
# The function begins no step in its last ten seconds, and a slow call lasts as long: some are cut off by the deadline. Their
# last attempt is applied twelve seconds after it was sent, and counted from the lease, which is shorter here than a call.
SLOW = Pace(seconds=12, late_write="24s")


@dataclass
class Course:
    """What was answered, what is wrong with that, and what it came to."""

    answers: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    end: dict[str, Any] = field(default_factory=dict)


class Bench:
    """An account and a function of its own, on which one rotation after the other is tried.

    `at_work` bounds how many benches call anybody at the same time, so that no call waits for a processor until it times out.
    """

    def __init__(self, testbed: Testbed, aws: FaultyAws, at_work: threading.Semaphore) -> None:
        self.aws = aws
        self.at_work = at_work
        with at_work:
            self.account = LoneAccount(testbed)
        self._log = testbed.logs / f"function-{self.account.number}.log"
        self._log.touch()
        self._running = contextlib.ExitStack()
        self._function: Function | None = None
        self._pace: Pace | None = None

    def undisturbed(self, name: str) -> tuple[list[Call], Course]:
        """What a rotation calls, and what it comes to."""
        rotation = _Rotation(self, name, STEADY)
        (recording,) = self.aws.disturb(self.account.number, {})
        rotation.carry_through(by_sweep=True)
        operations = self.aws.calls(recording)
        self.aws.mend(self.account.number)
        calls = [Call(each, operations[: at + 1].count(each)) for at, each in enumerate(operations)]
        return calls, rotation.conclude()

    def disturbed(self, name: str, call: Call, fault: Fault, by_sweep: bool) -> Course:
        """The same with a fault at a call. It is mended when the invocation has ended that met it; then the sweep goes on,
        or the trigger is repeated."""
        rotation = _Rotation(self, name, SLOW if fault.lands_late else STEADY)
        passing, failing = fault.rules(call)
        try:
            self.aws.disturb(self.account.number, *passing)
            rotation.suffer(fault, self.aws.disturb(self.account.number, *failing))
            rotation.carry_through(by_sweep)
        finally:
            self.aws.mend(self.account.number)
        return rotation.conclude()

    def function(self, pace: Pace) -> Function:
        """The running function; another one where it was killed or has other settings."""
        if self._function is None or self._pace != pace:
            self.stop()
            environment = self.account.environment(
                self.aws.endpoint, CHANGEOVER_LEASE=LEASE, CHANGEOVER_LATE_WRITE=pace.late_write
            )
            self._function = self._running.enter_context(Function(self.account.testbed.rotator, environment, self._log))
            self._pace = pace
        return self._function

    def stop(self) -> None:
        """Ends the function. The next one that is asked for is another."""
        self._running.close()
        self._function = None

    def log_length(self) -> int:
        return self._log.stat().st_size

    def said_since(self, length: int) -> str:
        """The function's log from there on."""
        with self._log.open("rb") as log:
            log.seek(length)
            return log.read().decode(errors="replace")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class _Rotation:
    """A fresh token's rotation to version 2."""

    def __init__(self, bench: Bench, name: str, pace: Pace) -> None:
        self._bench = bench
        self._pace = pace
        self._course = Course()
        self._fault: Fault | None = None
        self._rules: list[int] = []
        self._log_from = bench.log_length()
        self._token = LoneToken(bench.account, name)
        with bench.at_work:
            self._token.put_spec()
            created = bench.function(pace).invoke({"action": "publish", "token": name})
        assert created["outcome"] == "published", created

    def suffer(self, fault: Fault, rules: list[int]) -> None:
        """From here on these rules make calls fail."""
        self._fault, self._rules = fault, rules

    def carry_through(self, by_sweep: bool) -> None:
        """From the trigger until nothing is owed."""
        end = time.monotonic() + CONVERGED_SECONDS
        while not (standing := self._look()).owes_nothing or standing.record["last_version"] == 1:
            if time.monotonic() > end:
                self._course.problems.append(f"not at its end after {CONVERGED_SECONDS} s: owes {standing.record['owed']}")
                break
            self._invoke(self._next_event(standing, by_sweep))
        if self._fault and not self._is_met():
            self._course.problems.append("the fault never came about")
        self._fault = None

    def conclude(self) -> Course:
        """What it came to: the trigger, repeated, must find it done, and nothing may have been said that must not be."""
        course = self._course
        aws, account = self._bench.aws, self._bench.account
        wait_until(lambda: aws.has_settled(account.number), CONVERGED_SECONDS, "every call was applied or refused")
        again = self._invoke(self._trigger())
        if (again.get("outcome"), again.get("version")) != ("unchanged", 2):
            course.problems.append(f"the trigger, repeated: {again}")
        standing = self._look()
        with self._bench.at_work:
            history = self._token.history()
        values = [each["Value"] for each in history]
        course.end = {
            "live": {number: each["stage"] for number, each in standing.live.items()},
            "kept for ever": {
                number: (each["stage"], each["rotated_at"] is not None) for number, each in standing.audit.items()
            },
            "accepted": [[(int(each["version"]), each["stage"]) for each in document] for document in standing.accepted],
            "presented": [standing.version_of(value) for value in standing.presented],
            "ever presented": list(dict.fromkeys(standing.version_of(value) for value in values)),
            "labels": {label: standing.version_of(each["Value"]) for each in history for label in each["Labels"]},
            "drift": standing.record["drift"],
        }
        said = self._bench.said_since(self._log_from)
        if "panicked" in said:
            course.problems.append("it panicked")
        if any(value in said or value in " ".join(course.answers) for value in values):
            course.problems.append("it said a token")
        course.problems = list(dict.fromkeys(course.problems))
        return course

    def _look(self) -> Standing:
        """How it stands; whatever is published must be right at any moment."""
        with self._bench.at_work:
            standing = self._token.standing()
        self._course.problems += standing.broken_promises()
        return standing

    def _trigger(self) -> dict[str, Any]:
        return {"action": "rotate", "token": self._token.name, "key": "the trigger"}

    def _next_event(self, standing: Standing, by_sweep: bool) -> dict[str, Any]:
        """What a caller who asks again, or the schedule, sends next, when it is time for that."""
        record = standing.record
        rotation, owed = record["rotation"] or {}, record["owed"] or {}
        is_unanswered = rotation.get("purpose") == "rotate" or (owed.get("leg"), owed.get("step")) == ("overlap", "publish")
        # While somebody holds the lease a caller could only be told so.
        if record["last_version"] == 1 or (is_unanswered and not by_sweep and not record["lease"]):
            return self._trigger()
        if record["held"]:
            self._token.let_back_off_pass()
        elif standing.due_at:
            time.sleep(max(0, (standing.due_at - datetime.now(timezone.utc)).total_seconds()))
        return {"action": "sweep"}

    def _invoke(self, event: dict[str, Any]) -> dict[str, Any]:
        """One invocation, after which a fault that it met is mended. What is wrong with its answer is noted."""
        course, fault = self._course, self._fault
        answer: dict[str, Any] = {}
        errors: list[tuple[str, str]] = []
        try:
            # What waits for a slow call needs no processor.
            with contextlib.nullcontext() if fault and fault.lands_late else self._bench.at_work:
                answer = self._bench.function(self._pace).invoke(event, self._pace.seconds)
            told = [answer, *answer.get("results", [])]
            errors = [(each["error"], each["message"]) for each in told if "error" in each]
            course.answers += [each["outcome"] for each in told if "outcome" in each]
        except FunctionFailed as failure:
            errors = [(failure.error_type, failure.message)]
        except FunctionDied:
            self._bench.stop()
            course.answers.append("killed")
            if not fault or not fault.lands_late:
                course.problems.append(f"{event['action']} was not answered within {self._pace.seconds} s")
        for kind, message in errors:
            course.answers.append(f"{kind}: {message}")
            if not fault or kind not in fault.told_as:
                course.problems.append(f"{kind} was not expected")
            # A sweep that finds nothing to work on has only the table to name.
            if not MESSAGE.fullmatch(message) or not (self._token.name in message or RECORDS in message):
                course.problems.append(f"not clear: {message}")
        if fault and fault.times is None and self._is_met():
            self._bench.aws.mend(self._bench.account.number)
            self._fault = None
        return answer

    def _is_met(self) -> bool:
        return self._bench.aws.fired(*self._rules) > 0
