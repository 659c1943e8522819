"""A running testbed as its users see it: `testbed.json`, with clients for what it names."""

import json
import os
from pathlib import Path
from typing import Any

from testbed.aws import PATIENT, Aws
from testbed.kubectl import Kubectl

DESCRIPTION = "CHANGEOVER_TESTBED"

# Attributes of the parts that run beside the account. An account that runs alone has none of them.
BESIDE_THE_ACCOUNT = (
    "kubeconfig",
    "kubectl",
    "api_server",
    "certificate_authority",
    "audit_log",
    "cluster",
    "access_entries",
    "node",
    "moto",
)


class FunctionFailed(Exception):
    """The function answered an invocation with an error."""

    def __init__(self, error_type: str, message: str) -> None:
        super().__init__(f"{error_type}: {message}")
        self.error_type = error_type
        self.message = message


class Testbed:
    """The keys of `testbed.json` as attributes. A secret access key among them opens the emulator and nothing else."""

    # pytest would otherwise take it for a class of tests.
    __test__ = False

    def __init__(self, description: dict[str, Any]) -> None:
        self._description = description
        self.directory = Path(description["directory"])
        self.logs = Path(description["logs"])
        self.aws = Aws(**description["aws"])
        self.stack: str = description["stack"]
        self.function: str = description["function"]
        self.qualifier: str = description["qualifier"]
        self.role: str = description["role"]
        self.table: str = description["table"]
        self.key: str = description["key"]
        self.publication_key: str = description["publication_key"]
        self.specs: str = description["specs"]
        self.clusters: str = description["clusters"]
        self.function_log = Path(description["function_log"])
        self.rotator = Path(description["rotator"])
        self.command = Path(description["command"])
        if self.has_cluster:
            self._describe_cluster(description)

    def _describe_cluster(self, description: dict[str, Any]) -> None:
        self.kubeconfig = Path(description["kubeconfig"])
        self.kubectl = Kubectl(Path(description["kubectl"]), self.kubeconfig)
        self.api_server: str = description["api_server"]
        self.certificate_authority = Path(description["certificate_authority"])
        self.audit_log = Path(description["audit_log"])
        self.cluster: str = description["cluster"]
        self.access_entries = Path(description["access_entries"])
        self.node: str = description["node"]
        self.moto: str = description["moto"]

    @property
    def has_cluster(self) -> bool:
        """False for an account that runs alone, which has no attribute of `BESIDE_THE_ACCOUNT`."""
        return "kubeconfig" in self._description

    def __getattr__(self, name: str) -> Any:
        """Called for attributes that are missing only: says of a part that runs elsewhere how to start it."""
        if name in BESIDE_THE_ACCOUNT:
            raise AttributeError(f"this testbed is an AWS account alone, it has no {name}: `run with` and `run up` start all")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @classmethod
    def from_environment(cls) -> "Testbed":
        """The testbed that `run with` started for this process."""
        path = os.environ.get(DESCRIPTION)
        if not path:
            raise LookupError(f"{DESCRIPTION} names no testbed: start this by `tests/testbed/run with -- ...`")
        return cls(json.loads(Path(path).read_text()))

    def of(self, **changes: Any) -> "Testbed":
        """The same parts, but for these keys: with another stack's function, say."""
        return Testbed({**self._description, **changes})

    def boto3(self, service: str, **options: Any) -> Any:
        """A boto3 client of the emulated account's administrator."""
        return self.aws.client(service, **options)

    def invoke(self, event: dict[str, Any], qualifier: str = "") -> dict[str, Any]:
        """The function's answer to one invocation, which is never repeated. Raises FunctionFailed for an error."""
        answer = self.boto3("lambda", config=PATIENT).invoke(
            FunctionName=self.function, Qualifier=qualifier or self.qualifier, Payload=json.dumps(event).encode()
        )
        payload = json.loads(answer["Payload"].read())
        if answer.get("FunctionError"):
            raise FunctionFailed(payload.get("errorType", "unknown"), payload.get("errorMessage", str(payload)))
        return payload
