"""Many tokens on one computer: each with a workload a side that restarts, and readers of DynamoDB items that do not.

    SSM parameters  →  ExternalSecrets  →  Secrets  →  env of one verifier pod and one presenter pod
    DynamoDB items  →  readers, which hold a copy for a second (`readers.py`)

They share a namespace and a table of published items, and their pods are as light as processes can be. Each has a table of
records of its own, so that a sweep is about one token alone.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta, timezone
from typing import Any

from testbed import runtime_interface, tables
from testbed.load import Load
from testbed.platform import APPLICATIONS, Platform, deployment, from_secret, literals
from testbed.runtime_interface import Function
from testbed.small_platform import external_secret
from testbed.testbed import Testbed

# Python without what it could do without.
LIGHT = [sys.executable, "-I", "-S", str(APPLICATIONS / "light.py")]
# What is due later than that is the daily comparison.
SOON = timedelta(hours=1)
# From a kill on: until the lease may be taken over, the rest of the rotation, its overlap, and all of it on busy cores.
REST_SECONDS = 180


class LightPlatform(Platform):
    """One token of many, with its own pods, publications and records, and a function that nobody disturbs."""

    def __init__(self, testbed: Testbed, name: str, token: str, records: str, environment: dict[str, str]) -> None:
        super().__init__(testbed, name, token)
        self.load = Load(testbed.directory / f"{token}-requests.jsonl")
        self.verifier, self.presenter = f"{token}-verifier", f"{token}-presenter"
        self.token_parameter = f"/coilysiren/{name}/{token}"
        self.accepted_parameter = f"{self.token_parameter}/accepted"
        self.token_item, self.accepted_item = token, f"{token}-accepted"
        self.published, self.records = published(name), records
        self.tables, self.parameters = testbed.boto3("dynamodb"), testbed.boto3("ssm")
        self._environment = environment | {"CHANGEOVER_TABLE": self.records}
        self._undisturbed = self.function()

    def function(self, **changes: str) -> Function:
        """Another execution environment of the function."""
        log = self.testbed.logs / f"function-{self.token}.log"
        return Function(self.testbed.rotator, self._environment | changes, log)

    def invoke(self, action: str, **event: Any) -> dict:
        return self._undisturbed.invoke({"action": action, "token": self.token, **event})

    def due(self) -> datetime | None:
        """When a step is owed; None where all is at rest."""
        key = {"pk": {"S": f"token#{self.token}"}, "sk": {"S": "record"}}
        record = self.tables.get_item(TableName=self.records, Key=key, ConsistentRead=True)
        due = datetime.fromisoformat(record["Item"]["due_at"]["S"])
        return due if due < datetime.now(timezone.utc) + SOON else None

    def sweep_to_rest(self, function: Function | None = None) -> None:
        """Sweeps whenever something is due, until nothing is owed."""
        deadline = time.monotonic() + REST_SECONDS
        while due := self.due():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.token} still owes a step after {REST_SECONDS} s: read {self.testbed.logs}")
            time.sleep(max(0.05, (due - datetime.now(timezone.utc)).total_seconds()))
            (function or self._undisturbed).invoke({"action": "sweep"})

    def spec(self) -> dict:
        """The token's spec: both views in both stores, for pods that restart and for readers that do not."""

        def side(parameter: str, item: str, workload: str) -> dict:
            return {
                "publish": [{"ssm": parameter}, {"dynamodb": {"table": self.published, "key": {"id": item}}}],
                "within": "1s",
                "workloads": [
                    {
                        "cluster": self.testbed.cluster,
                        "namespace": self.name,
                        "deployment": workload,
                        "external_secret": workload,
                        # The process node reads the Secret when it starts a pod, and never a copy of a moment ago.
                        "settle": "0s",
                    }
                ],
            }

        return {
            "token": {"bytes": 32, "prefix": "lt_"},
            "overlap": "5s",
            "verifiers": side(self.accepted_parameter, self.accepted_item, self.verifier),
            "presenters": side(self.token_parameter, self.token_item, self.presenter),
            "rollout_timeout": "2m",
        }

    def objects(self) -> list[dict]:
        """What the team has in the cluster. The verifier takes longer than the presenter to start and to drain: if both
        changed over in step, a wrong order would go unseen."""
        accepted = from_secret("ACCEPTED", self.verifier, "accepted")
        verifying = literals({"START_SECONDS": "0.5", "DRAIN_SECONDS": "0.7"})
        token = from_secret("TOKEN", self.presenter, "token")
        presenting = {"DRAIN_SECONDS": "0.3", "RATE": "4", "VERIFIER": self.verifier, "REQUESTS": str(self.load.path)}
        return [
            external_secret(self.name, self.verifier, "accepted", self.accepted_parameter),
            external_secret(self.name, self.presenter, "token", self.token_parameter),
            _pod(self.name, self.verifier, "verifier", [accepted, *verifying]),
            _pod(self.name, self.presenter, "presenter", [token, *literals(presenting)]),
        ]

    def __exit__(self, *_: object) -> None:
        """Its workloads go with the namespace, which it shares."""
        self._undisturbed.__exit__()
        self.parameters.delete_parameters(Names=[f"{self.testbed.specs}/{self.token}"])


@contextmanager
def light_platforms(testbed: Testbed, name: str, count: int, **changes: str) -> Iterator[list[LightPlatform]]:
    """So many tokens `<name>-<number>` in the namespace `<name>`, each published and under load when the block begins.
    `changes` are of the function's environment."""
    names = [f"{name}-{number:02}" for number in range(count)]
    tables.create_configuration(testbed.boto3("dynamodb"), published(name))
    with tables.records(testbed, *names) as records, ExitStack() as stack:
        environment = runtime_interface.environment(testbed, **changes)
        platforms = [
            stack.enter_context(LightPlatform(testbed, name, token, table, environment))
            for token, table in zip(names, records, strict=True)
        ]
        stack.enter_context(Platform(testbed, name)).create_namespace()
        platforms[0].apply(*(each for platform in platforms for each in platform.objects()))
        with ThreadPoolExecutor(16) as executor:
            list(executor.map(_publish, platforms))
        yield platforms


def published(name: str) -> str:
    """The table of the items that the tokens of a namespace are published to."""
    return f"my-service-{name}-config"


def _publish(platform: LightPlatform) -> None:
    platform.put_spec(platform.spec())
    assert platform.invoke("publish")["outcome"] == "published"
    platform.load.wait_until(lambda new: new, 60, f"requests of {platform.token}")


def _pod(namespace: str, name: str, part: str, environment: list[dict]) -> dict:
    pods = deployment(namespace, name, "light.py", environment, replicas=1)
    (container,) = pods["spec"]["template"]["spec"]["containers"]
    container["command"] = [*LIGHT, part]
    if part == "presenter":
        # It serves nothing, and is ready when it runs.
        del container["readinessProbe"], container["ports"]
    return pods
