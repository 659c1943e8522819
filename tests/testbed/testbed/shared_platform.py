"""Ten tokens whose views share one Secret a side, which one Deployment reads.

    SSM parameters  →  one ExternalSecret a side  →  one Secret a side  →  env of one verifier and of one presenter
    DynamoDB items, and changeover itself         →  the same
"""

from __future__ import annotations

import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from testbed import runtime_interface, tables
from testbed.light_platform import LIGHT
from testbed.platform import Platform, deployment, from_secret, literals, wait_until
from testbed.runtime_interface import Function
from testbed.testbed import Testbed

TOKENS = 10
SIDES = {"verifiers": "verifier", "presenters": "presenter"}


class SharedPlatform(Platform):
    """Ten tokens, two Deployments, and the two Secrets that these read: copied from ten parameters each, or written."""

    def __init__(self, testbed: Testbed, way: str, stack: ExitStack) -> None:
        super().__init__(testbed, f"ten-{way}")
        self.is_copied = way == "copied"
        self.tokens = [f"{self.name}-{number}" for number in range(TOKENS)]
        self.published = f"my-service-{self.name}-config"
        tables.create_configuration(testbed.boto3("dynamodb"), self.published)
        (records,) = stack.enter_context(tables.records(testbed, self.name))
        environment = runtime_interface.environment(testbed, CHANGEOVER_TABLE=records)
        log = testbed.logs / f"function-{self.name}.log"
        self.functions = [stack.enter_context(Function(testbed.rotator, environment, log)) for _ in self.tokens]
        stack.enter_context(self)

    def place(self, token: str, side: str) -> dict:
        if self.is_copied:
            return {"ssm": f"/coilysiren/{self.name}/{token}/{side}"}
        return {"dynamodb": {"table": self.published, "key": {"id": f"{token}-{side}"}}}

    def put_specs(self) -> None:
        def side(token: str, side: str, name: str) -> dict:
            copy = {"external_secret": name} if self.is_copied else {"secret": {"name": name, "key": token}}
            workload = {"cluster": self.testbed.cluster, "namespace": self.name, "deployment": name, "settle": "0s"}
            return {"publish": [self.place(token, side)], "workloads": [workload | copy]}

        for self.token in self.tokens:
            sides = {each: side(self.token, each, name) for each, name in SIDES.items()}
            self.put_spec({"token": {"bytes": 32}, "overlap": "5s", "rollout_timeout": "3m"} | sides)

    def objects(self) -> list[dict]:
        requests = {"RATE": "40", "VERIFIER": "verifier", "REQUESTS": str(self.load.path)}
        # The verifier takes longer to start and to drain, or a wrong order would go unseen.
        verifying = self.pods("verifier", "ACCEPTED", {"START_SECONDS": "0.4", "DRAIN_SECONDS": "0.5"})
        presenting = self.pods("presenter", "TOKEN", {"DRAIN_SECONDS": "0.2"} | requests)
        (container,) = presenting["spec"]["template"]["spec"]["containers"]
        del container["readinessProbe"], container["ports"]
        return [verifying, presenting, *(self.rights_to_secrets() if not self.is_copied else self.external_secrets())]

    def pods(self, name: str, variable: str, settings: dict[str, str]) -> dict:
        views = [from_secret(f"{variable}_{number}", name, token) for number, token in enumerate(self.tokens)]
        pods = deployment(self.name, name, "light.py", [*views, *literals(settings)], replicas=2, revisionHistoryLimit=100)
        (container,) = pods["spec"]["template"]["spec"]["containers"]
        container["command"] = [*LIGHT, name]
        return pods

    def external_secrets(self) -> list[dict]:
        def copies(side: str) -> list[dict]:
            return [{"secretKey": token, "remoteRef": {"key": self.place(token, side)["ssm"]}} for token in self.tokens]

        return [
            {
                "apiVersion": "external-secrets.io/v1",
                "kind": "ExternalSecret",
                "metadata": {"name": name, "namespace": self.name},
                "spec": {
                    "refreshInterval": "1h",
                    "secretStoreRef": {"kind": "ClusterSecretStore", "name": "parameter-store"},
                    "target": {"name": name},
                    "data": copies(side),
                },
            }
            for side, name in SIDES.items()
        ]

    def rights_to_secrets(self) -> list[dict]:
        """To the two Secrets, by their names."""
        metadata = {"name": "written-secrets", "namespace": self.name}
        api = "rbac.authorization.k8s.io"
        names = list(SIDES.values())
        verbs = ["get", "create", "patch"]
        rule = {"apiGroups": [""], "resources": ["secrets"], "resourceNames": names, "verbs": verbs}
        group = {"kind": "Group", "apiGroup": api, "name": "changeover"}
        role = {"kind": "Role", "apiGroup": api, "name": metadata["name"]}
        return [
            {"apiVersion": f"{api}/v1", "kind": "Role", "metadata": metadata, "rules": [rule]},
            {"apiVersion": f"{api}/v1", "kind": "RoleBinding", "metadata": metadata, "roleRef": role, "subjects": [group]},
        ]

    def all_at_once(self, action: str) -> list[dict]:
        """The answers of as many invocations as there are tokens, which begin together."""
        together = threading.Barrier(TOKENS, timeout=60)

        def ask(function: Function, token: str) -> dict:
            together.wait()
            return function.invoke({"action": action, "token": token})

        with ThreadPoolExecutor(TOKENS) as executor:
            return list(executor.map(ask, self.functions, self.tokens))

    def sweep_all_to_rest(self, seconds: float = 90) -> None:
        """Sweeps once a second until no token owes a step or has a version more than one."""

        def is_at_rest() -> bool:
            self.functions[0].invoke({"action": "sweep"})
            standing = self.functions[0].invoke({"action": "status"})["results"]
            ours = [each for each in standing if each["token"] in self.tokens]
            return all(each["leg"] is None and len(each["versions"]) == 1 for each in ours)

        wait_until(is_at_rest, seconds, f"{self.name} is at rest: read {self.testbed.logs}", every=1)


class Watch:
    """Every state of an object, from beginning to end, as kubectl's watch tells it through a template."""

    def __init__(self, platform: Platform, kind: str, name: str, template: str, file: Path) -> None:
        self._file = file
        command = [str(platform.testbed.kubectl), f"--kubeconfig={platform.testbed.kubeconfig}"]
        command += [f"--namespace={platform.name}", "get", kind, name, "--watch", f"--output=go-template={template}"]
        with file.open("wb") as output:
            self._process = subprocess.Popen(command, stdout=output)

    def states(self) -> list[dict[str, str]]:
        lines = self._file.read_text().splitlines()
        return [dict(pair.split("=", 1) for pair in line.split()) for line in lines]

    def __enter__(self) -> Self:
        wait_until(self.states, 10, f"kubectl watches: {self._file}")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()
