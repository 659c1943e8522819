"""A token under load, and a namespace with workloads that share one, as a team sets them up.

Objects, parameters and tables are created the way the team does it; changeover learns of them from its spec alone.
`small_platform.py` and `dynamic_service.py` run the workloads in a cluster, `local_platform.py` runs them without one.
"""

from __future__ import annotations

import json
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Self

from testbed.load import Load
from testbed.testbed import FunctionFailed, Testbed

PROJECT = Path(__file__).resolve().parents[3]
APPLICATIONS = PROJECT / "tests" / "testbed" / "apps"


class TokenUnderLoad:
    """The token `token`, the requests that its presenters send, and the function's answers about it.

    `name` is that of the environment in which verifiers and presenters run, whatever runs them.
    """

    def __init__(self, testbed: Testbed, name: str, token: str | None = None) -> None:
        self.testbed = testbed
        self.name = name
        self.token = token or f"{name}-token"
        self.load = Load(testbed.directory / f"{name}-requests.jsonl")

    def wait_under_load(self, seconds: float = 30) -> None:
        """Returns when requests arrive, so that what follows happens under load."""
        self.load.wait_until(lambda new: len(new) > 5, seconds, f"requests of {self.name}")

    def put_spec(self, spec: dict) -> None:
        self.testbed.boto3("ssm").put_parameter(
            Name=f"{self.testbed.specs}/{self.token}", Type="String", Value=json.dumps(spec), Overwrite=True
        )

    def invoke(self, action: str, **event) -> dict:
        """The function's answer about this token."""
        return ask(self.testbed, {"action": action, "token": self.token, **event})

    def rotate(self, key: str, seconds: float = 120) -> dict:
        """The final answer about the rotation of this key: asks again while another invocation carries it out."""

        def through() -> dict | None:
            answer = self.invoke("rotate", key=key)
            return answer if answer["outcome"] != "in_progress" else None

        return wait_until(through, seconds, f"the rotation of {self.token}: read {self.testbed.function_log}", every=1)

    def sweep(self) -> dict:
        """The function's answer to a sweep, which is about every token that owes a step."""
        return ask(self.testbed, {"action": "sweep"})

    def status(self) -> dict:
        """The token's state, as the function's `status` reports it."""
        (standing,) = self.invoke("status")["results"]
        return standing

    def current_version(self) -> int | None:
        """The version that presenters are on; None before the first is."""
        return next((each["version"] for each in self.status()["versions"] if each["stage"] == "current"), None)

    def sweep_until(self, condition, seconds: float, what: str) -> dict:
        """Sweeps once a second, as the schedule does once a minute, until `condition(status)` holds; that status."""

        def swept() -> dict | None:
            self.sweep()
            standing = self.status()
            return standing if condition(standing) else None

        return wait_until(swept, seconds, f"{what}: read {self.testbed.function_log}", every=1)

    def sweep_until_nothing_is_owed(self, seconds: float = 90) -> dict:
        """The status once the overlap has ended and the old version is forgotten everywhere."""
        return self.sweep_until(
            lambda standing: standing["leg"] is None and len(standing["versions"]) == 1,
            seconds,
            f"{self.token} owes nothing",
        )


class Platform(TokenUnderLoad):
    """The namespace `name`, and the token under load between its workloads."""

    # The label `app` of the pods that verify.
    verifier = "datastore"

    def apply(self, *objects: dict) -> None:
        """Makes the objects so, as `kubectl apply` does."""
        manifest = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
        self.testbed.kubectl("apply", "--filename=-", stdin=manifest)

    def create_namespace(self) -> None:
        """Creates it with the rights that changeover needs in it: those of infra/eks-rbac.yaml, to the letter."""
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.name}}, *self.rights())

    def rights(self) -> list[dict]:
        """The Roles and the RoleBindings of infra/eks-rbac.yaml, for this namespace."""
        manifest = PROJECT / "infra" / "eks-rbac.yaml"
        rights = documents(self.testbed.kubectl("create", "--dry-run=client", "--output=json", f"--filename={manifest}"))
        for right in rights:
            right["metadata"]["namespace"] = self.name
        return rights

    def wait_available(self, *deployments: str, seconds: float = 60) -> None:
        """Until all pods of the deployments are ready."""
        for name in deployments:
            self.testbed.kubectl(
                "rollout", "status", f"deployment/{name}", f"--namespace={self.name}", f"--timeout={seconds:.0f}s",
                seconds=seconds + 10,
            )

    def pods(self, application: str) -> list[dict]:
        """The pods with that label `app`, those that are going away included."""
        listed = self.testbed.kubectl(
            "get", "pods", f"--namespace={self.name}", f"--selector=app={application}", "--output=json"
        )
        return json.loads(listed)["items"]

    def verdicts(self, token: str) -> dict[str, int]:
        """What each ready pod of the verifier answers to this token: its HTTP status, by pod."""
        endpoints = json.loads((self.testbed.directory / "endpoints.json").read_text())
        found = {}
        for each in endpoints:
            if each["ready"] and each["namespace"] == self.name and each["labels"].get("app") == self.verifier:
                question = urllib.request.Request(
                    f"http://{each['address']}/data", headers={"Authorization": f"Bearer {token}"}
                )
                try:
                    with urllib.request.urlopen(question, timeout=5) as answer:
                        found[each["pod"]] = answer.status
                except urllib.error.HTTPError as refusal:
                    found[each["pod"]] = refusal.code
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        """Takes the workloads away, without waiting for their end."""
        self.testbed.kubectl("delete", "namespace", self.name, "--wait=false", "--ignore-not-found")


def ask(testbed: Testbed, event: dict) -> dict:
    """One invocation. What it answered, refusals included, is kept in the logs: no token may ever be found there."""
    answer: dict = {}
    try:
        answer = testbed.invoke(event)
        return answer
    except FunctionFailed as failure:
        answer = {"errorType": failure.error_type, "errorMessage": failure.message}
        raise
    finally:
        with (testbed.logs / "answers.jsonl").open("a") as file:
            file.write(json.dumps({"event": event, "answer": answer}) + "\n")


def deployment(namespace: str, name: str, program: str, environment: list[dict], **spec) -> dict:
    """Two pods of an application of the testbed. `spec` adds to the Deployment's spec, or replaces parts of it."""
    container = {
        "name": name,
        "image": "local/process",
        "command": [sys.executable, str(APPLICATIONS / program)],
        "env": [from_field("POD", "metadata.name"), from_field("NAMESPACE", "metadata.namespace"), *environment],
        "ports": [{"name": "http", "containerPort": 8080}],
        # A pod that was ready stays so while a busy computer answers late: no story is about that.
        "readinessProbe": {
            "httpGet": {"path": "/ready", "port": "http"}, "periodSeconds": 1, "timeoutSeconds": 5, "failureThreshold": 15
        },
    }
    template = {
        "metadata": {"labels": {"app": name}},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 10},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": name}}, "template": template} | spec,
    }


def from_secret(variable: str, secret: str, key: str) -> dict:
    return {"name": variable, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}}


def from_field(variable: str, field: str) -> dict:
    return {"name": variable, "valueFrom": {"fieldRef": {"fieldPath": field}}}


def literals(settings: dict[str, str]) -> list[dict]:
    return [{"name": name, "value": value} for name, value in settings.items()]


def documents(text: str) -> list[dict]:
    """kubectl's JSON objects, which stand one after the other or in a List."""
    decoder, found = json.JSONDecoder(), []
    while text := text.lstrip():
        part, end = decoder.raw_decode(text)
        found += part["items"] if part["kind"] == "List" else [part]
        text = text[end:]
    return found


def wait_until(condition, seconds: float, what: str, every: float = 0.2):
    """The first true value of `condition()`; TimeoutError naming `what` where there is none in time."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds:.0f} s: {what}")
        time.sleep(every)
    return value
