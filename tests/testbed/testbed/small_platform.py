"""A small platform: a datastore, a backend, and the token between them, as a team would have set them up.

    SSM parameters  →  ExternalSecrets  →  Secrets  →  env of the datastore (verifier) and the backend (presenter)

Everything is told to the API server and to AWS the way the team would; changeover learns of it from its spec alone.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from testbed.load import Load

PROJECT = Path(__file__).resolve().parents[3]
APPLICATIONS = PROJECT / "tests" / "testbed" / "apps"


class SmallPlatform:
    """The namespace `name` with its workloads, and the token `token` with its parameters and its spec."""

    def __init__(self, testbed, name: str, token: str = "datastore-token"):
        self.testbed = testbed
        self.name = name
        self.token = token
        self.token_parameter = f"/coilysiren/{name}/{token}"
        self.accepted_parameter = f"{self.token_parameter}/accepted"
        self.load = Load(Path(testbed.directory) / f"{name}-requests.jsonl")

    def spec(self, **changes) -> dict:
        """The token's spec: both sides in SSM, both picked up by a restart. `changes` replace its fields."""

        def workload(deployment: str, external_secret: str) -> dict:
            return {
                "cluster": self.testbed.cluster,
                "namespace": self.name,
                "deployment": deployment,
                "external_secret": external_secret,
            }

        return {
            "token": {"bytes": 32, "prefix": "ds_"},
            "source": "generated",
            "overlap": "10s",
            "verifiers": {
                "publish": [{"ssm": self.accepted_parameter}],
                "workloads": [workload("datastore", "datastore-accepted")],
            },
            "presenters": {
                "publish": [{"ssm": self.token_parameter}],
                "workloads": [workload("backend", "datastore-token")],
            },
            "rollout_timeout": "2m",
        } | changes

    def put_spec(self, spec: dict) -> None:
        self.testbed.boto3("ssm").put_parameter(
            Name=f"{self.testbed.specs}/{self.token}", Type="String", Value=json.dumps(spec), Overwrite=True
        )

    def external_secrets(self) -> list[dict]:
        return [
            external_secret(self.name, "datastore-accepted", "accepted", self.accepted_parameter),
            external_secret(self.name, "datastore-token", "token", self.token_parameter),
        ]

    def datastore(self, **settings) -> dict:
        """The verifier: two pods with the accepted document in their environment."""
        settings = {"START_SECONDS": "1", "DRAIN_SECONDS": "1.5"} | settings
        environment = [from_secret("ACCEPTED", "datastore-accepted", "accepted"), *literals(settings)]
        return deployment(self.name, "datastore", "datastore.py", environment)

    def backend(self, **settings) -> dict:
        """The presenter: two pods with the token in their environment, each sending 55 requests a second."""
        settings = {"START_SECONDS": "0.5", "DRAIN_SECONDS": "1.2", "RATE": "55"} | settings
        environment = [from_secret("TOKEN", "datastore-token", "token"), *literals(settings)]
        return deployment(self.name, "backend", "backend.py", [*environment, *literals({"REQUESTS": str(self.load.path)})])

    def apply(self, *objects: dict) -> None:
        """Makes the objects so, as `kubectl apply` does."""
        manifest = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
        self.testbed.kubectl("apply", "--filename=-", stdin=manifest)

    def create_namespace(self) -> None:
        """Creates it with the rights that changeover needs in it: those of infra/eks-rbac.yaml, to the letter."""
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.name}})
        rights = self.testbed.kubectl(
            "create", "--dry-run=client", "--output=json", f"--filename={PROJECT / 'infra' / 'eks-rbac.yaml'}"
        )
        for part in documents(rights):
            part["metadata"]["namespace"] = self.name
            self.apply(part)

    def create(self) -> dict:
        """Sets all of it up at once, the way a repository is applied, and has the first token published.

        The pods wait for their Secrets, which exist once `publish` has answered; its answer is returned.
        """
        self.create_namespace()
        self.put_spec(self.spec())
        self.apply(*self.external_secrets(), self.datastore(), self.backend())
        answer = self.invoke("publish")
        self.wait_available("datastore", "backend")
        self.wait_under_load()
        return answer

    def invoke(self, action: str, **event) -> dict:
        """The function's answer about this token."""
        return self.testbed.invoke({"action": action, "token": self.token, **event})

    def status(self) -> dict:
        """How the token stands, as the function's `status` tells it."""
        (standing,) = self.invoke("status")["results"]
        return standing

    def current_version(self) -> int | None:
        return next((each["version"] for each in self.status()["versions"] if each["stage"] == "current"), None)

    def wait_available(self, *deployments: str, seconds: float = 60) -> None:
        """Until all pods of the deployments are ready."""
        for name in deployments:
            self.testbed.kubectl(
                "rollout", "status", f"deployment/{name}", f"--namespace={self.name}", f"--timeout={seconds:.0f}s"
            )

    def pods(self, application: str) -> list[dict]:
        """The pods with that label `app`, those that are going away included."""
        listed = self.testbed.kubectl(
            "get", "pods", f"--namespace={self.name}", f"--selector=app={application}", "--output=json"
        )
        return json.loads(listed)["items"]

    def wait_under_load(self, seconds: float = 30) -> None:
        """Until the backend's requests arrive, so that what follows happens under load."""
        self.load.wait_until(lambda new: len(new) > 5, seconds, "requests of the backend")

    def delete(self) -> None:
        self.testbed.kubectl("delete", "namespace", self.name, "--wait=false")


def external_secret(namespace: str, name: str, key: str, parameter: str) -> dict:
    """An ExternalSecret that copies one SSM parameter into the key of the Secret of the same name."""
    return {
        "apiVersion": "external-secrets.io/v1",
        "kind": "ExternalSecret",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "refreshInterval": "1h",
            "secretStoreRef": {"kind": "ClusterSecretStore", "name": "parameter-store"},
            "target": {"name": name},
            "data": [{"secretKey": key, "remoteRef": {"key": parameter}}],
        },
    }


def deployment(namespace: str, name: str, program: str, environment: list[dict], **spec) -> dict:
    """Two pods of an application of the testbed. `spec` adds to the Deployment's spec, or replaces parts of it."""
    container = {
        "name": name,
        "image": "local/process",
        "command": [sys.executable, str(APPLICATIONS / program)],
        "env": [from_field("POD", "metadata.name"), from_field("NAMESPACE", "metadata.namespace"), *environment],
        "ports": [{"name": "http", "containerPort": 8080}],
        "readinessProbe": {"httpGet": {"path": "/ready", "port": "http"}, "periodSeconds": 1, "failureThreshold": 3},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [container], "terminationGracePeriodSeconds": 10},
            },
        }
        | spec,
    }


def documents(text: str) -> list[dict]:
    """kubectl's JSON objects, which stand one after the other or in a List."""
    decoder, found = json.JSONDecoder(), []
    while text := text.lstrip():
        part, end = decoder.raw_decode(text)
        found += part["items"] if part["kind"] == "List" else [part]
        text = text[end:]
    return found


def from_secret(variable: str, secret: str, key: str) -> dict:
    return {"name": variable, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}}


def from_field(variable: str, field: str) -> dict:
    return {"name": variable, "valueFrom": {"fieldRef": {"fieldPath": field}}}


def literals(settings: dict[str, str]) -> list[dict]:
    return [{"name": name, "value": value} for name, value in settings.items()]


def wait_until(condition, seconds: float, what: str, every: float = 0.2):
    """The first true value of `condition()`; TimeoutError naming `what` where there is none in time."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds:.0f} s: {what}")
        time.sleep(every)
    return value
