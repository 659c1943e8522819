"""Many invocations of one token at once, and many tokens at once: one rotation each, and everybody is told what happened."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import datetime, timezone

import pytest

from testbed import runtime_interface, tables
from testbed.runtime_interface import Function
from testbed.testbed import FunctionFailed, Testbed

# Stories that keep both cores busy do not run beside each other.
pytestmark = [pytest.mark.xdist_group("heavy"), pytest.mark.slow]

INVOCATIONS = 50
TOKENS = 200
# How many invocations two cores bear at once.
AT_ONCE = 12


class AtOnce:
    """A table of records, one of configuration, and as many execution environments of the function as are asked at once."""

    def __init__(self, testbed: Testbed, name: str, functions: int, stack: ExitStack) -> None:
        self._testbed, self._stack = testbed, stack
        self._dynamodb, self._parameters = testbed.boto3("dynamodb"), testbed.boto3("ssm")
        self._published = f"my-service-{name}-config"
        tables.create_configuration(self._dynamodb, self._published)
        (self._records,) = stack.enter_context(tables.records(testbed, name))
        environment = runtime_interface.environment(testbed, CHANGEOVER_TABLE=self._records)
        log = testbed.logs / f"function-{name}.log"
        self.functions = [stack.enter_context(Function(testbed.rotator, environment, log)) for _ in range(functions)]

    def put_spec(self, token: str, within: str) -> None:
        """The spec of a token whose readers fetch it for themselves."""

        def side(name: str) -> dict:
            return {"publish": [{"dynamodb": {"table": self._published, "key": {"id": f"{token}-{name}"}}}], "within": within}

        spec = {"token": {"bytes": 32}, "overlap": "5s", "verifiers": side("accepted"), "presenters": side("token")}
        name = f"{self._testbed.specs}/{token}"
        self._parameters.put_parameter(Name=name, Type="String", Value=json.dumps(spec))
        self._stack.callback(self._parameters.delete_parameter, Name=name)

    def put_token(self, token: str) -> None:
        """A token that somebody issued long ago."""
        item = {"id": {"S": f"{token}-token"}, "token": {"S": f"issued-long-ago-for-{token}"}}
        self._dynamodb.put_item(TableName=self._published, Item=item)

    def audit(self, token: str) -> dict[int, dict]:
        """The permanent audit: an item for each version that presenters were ever on, by its number."""
        items = self._dynamodb.query(
            TableName=self._records,
            KeyConditionExpression="pk = :token AND begins_with(sk, :rotation)",
            ExpressionAttributeValues={":token": {"S": f"token#{token}"}, ":rotation": {"S": "rotation#"}},
        )["Items"]
        return {int(item["version"]["N"]): item for item in items}

    def rotated_seconds(self, token: str) -> float:
        """How long it took from the mint of the second version until presenters were proved to be on it."""
        item = self.audit(token)[2]
        created, rotated = (datetime.fromisoformat(item[name]["S"]) for name in ("created_at", "rotated_at"))
        return (rotated - created).total_seconds()

    def due(self) -> list[datetime]:
        """When tokens owe a step, the daily comparison aside."""
        now = datetime.now(timezone.utc)
        pages = self._dynamodb.get_paginator("query").paginate(
            TableName=self._records,
            IndexName="owed",
            KeyConditionExpression="owed = :one",
            ExpressionAttributeValues={":one": {"S": "1"}},
        )
        found = (datetime.fromisoformat(item["due_at"]["S"]) for page in pages for item in page["Items"])
        return [due for due in found if (due - now).total_seconds() < 3600]


@pytest.fixture
def at_once(testbed):
    """Makes an AtOnce, which ends with the test."""
    with ExitStack() as stack:
        yield lambda name, functions: AtOnce(testbed, name, functions, stack)


@pytest.mark.parametrize("keys", ["one-key", "fifty-keys"])
def fifty_concurrent_invocations_cause_one_rotation(at_once, tell, keys):
    at_once = at_once(keys, INVOCATIONS)
    token = f"fifty-{keys}"
    # So long that all of them meet the rotation that the first of them begins.
    at_once.put_spec(token, within="5s")
    at_once.put_token(token)
    together = threading.Barrier(INVOCATIONS, timeout=60)
    events = [
        {"action": "rotate", "token": token, "key": f"number {number if keys == 'fifty-keys' else 0}"}
        for number in range(INVOCATIONS)
    ]

    def rotate(function: Function, event: dict) -> dict:
        # One that had to start first would come late.
        function.invoke({"action": "status", "token": token})
        together.wait()
        try:
            return function.invoke(event)
        except FunctionFailed as failure:
            return {"outcome": failure.error_type}

    with ThreadPoolExecutor(INVOCATIONS) as executor:
        answers = list(executor.map(rotate, at_once.functions, events))
        told = Counter(answer["outcome"] for answer in answers)
        tell(f"{INVOCATIONS} invocations with {keys}: {dict(told)}")
        assert told.keys() <= {"rotated", "in_progress", "unchanged", "Throttled"} and told["rotated"] >= 1
        # A trigger that could not be saved has not been heard yet; every other one was, and begins nothing any more.
        heard = [number for number, answer in enumerate(answers) if answer["outcome"] != "Throttled"]
        assert {answers[number]["version"] for number in heard} == {2}
        again = executor.map(lambda number: at_once.functions[number].invoke(events[number]), heard)
        assert {(answer["outcome"], answer["version"]) for answer in again} == {("unchanged", 2)}
    (standing,) = at_once.functions[0].invoke({"action": "status", "token": token})["results"]
    assert [(each["version"], each["stage"]) for each in standing["versions"]] == [(2, "current"), (1, "previous")]


def two_hundred_concurrent_rotations_complete(at_once, tell):
    at_once = at_once("two-hundred", AT_ONCE)
    tokens = [f"many-{number:03}" for number in range(TOKENS)]
    for token in tokens:
        at_once.put_spec(token, within="0s")
        at_once.put_token(token)

    def mint(number: int, function: Function) -> list[str]:
        # Minted and left at that: all of them are in the middle at once.
        events = ({"action": "rotate", "token": token, "wait": "0s"} for token in tokens[number::AT_ONCE])
        return [function.invoke(event)["outcome"] for event in events]

    began = time.monotonic()
    with ThreadPoolExecutor(AT_ONCE) as executor:
        minted = [outcome for outcomes in executor.map(mint, range(AT_ONCE), at_once.functions) for outcome in outcomes]
    assert Counter(minted) == {"in_progress": TOKENS}
    assert _sweep_each(at_once.functions, tokens) == {"rotated": TOKENS}
    seconds = [at_once.rotated_seconds(token) for token in tokens]
    tell(
        f"{TOKENS} tokens rotated in {time.monotonic() - began:.0f} s; from mint to end {sum(seconds) / TOKENS:.1f} s on "
        f"average, {max(seconds):.1f} s the slowest"
    )
    time.sleep(max(0, (max(at_once.due()) - datetime.now(timezone.utc)).total_seconds()))
    assert _sweep_each(at_once.functions, tokens) == {"completed": TOKENS}
    assert at_once.due() == []
    assert all(at_once.audit(token).keys() == {1, 2} for token in tokens)
    tell(f"{TOKENS} tokens at rest after {time.monotonic() - began:.0f} s")


def _sweep_each(functions: list[Function], tokens: list[str]) -> Counter:
    """What became of the tokens, each carried on by an invocation of its own, as a sweep hands them on to Lambda."""

    def sweep(number: int, function: Function) -> list[dict]:
        answers = [function.invoke({"action": "sweep", "token": token}) for token in tokens[number :: len(functions)]]
        return [result for answer in answers for result in answer["results"]]

    with ThreadPoolExecutor(len(functions)) as executor:
        swept = executor.map(sweep, range(len(functions)), functions)
        return Counter(result.get("outcome", result.get("error")) for results in swept for result in results)
