"""A verifier and a presenter that run as processes of this computer and read their views by themselves: no cluster.

    DynamoDB item  →  the datastore (verifier), which reads it again within a second
    SSM parameter  →  the backend (presenter), which does too
"""

from __future__ import annotations

import json
import os
import sys
from typing import Self

from testbed import tables
from testbed.deployment import PUBLICATION_PATH
from testbed.platform import APPLICATIONS, TokenUnderLoad
from testbed.processes import Processes, free_port, listening
from testbed.testbed import Testbed

INSTANCES = 2


class LocalPlatform(TokenUnderLoad):
    """Two processes each of a datastore and a backend, which send at least a hundred requests a second together.

    The processes end with the block.
    """

    introduction = "a datastore and a backend, two processes each, read their views of a token from DynamoDB and SSM"

    def __init__(self, testbed: Testbed, name: str, token: str | None = None) -> None:
        super().__init__(testbed, name, token)
        self.table = f"my-service-{name}-config"
        self.accepted_item = f"{self.token}-accepted"
        self.token_parameter = f"{PUBLICATION_PATH}/{name}/{self.token}"
        self._endpoints = testbed.directory / f"{name}-endpoints.json"
        self._processes = Processes(testbed.logs)

    def spec(self) -> dict:
        """The token's spec: both views are read again within a second."""
        accepted = {"dynamodb": {"table": self.table, "key": {"id": self.accepted_item}}}
        return {
            "token": {"bytes": 32, "prefix": "ds_"},
            "source": "generated",
            "overlap": "5s",
            "verifiers": {"publish": [accepted], "within": "1s"},
            "presenters": {"publish": [{"ssm": self.token_parameter}], "within": "1s"},
        }

    def create(self) -> dict:
        """Has the first token published, whose answer is returned, and starts the processes that read it."""
        tables.create_configuration(self.testbed.boto3("dynamodb"), self.table)
        self.put_spec(self.spec())
        answer = self.invoke("publish")
        verifiers = self._start("datastore", ACCEPTED_TABLE=self.table, ACCEPTED_ITEM=self.accepted_item)
        # The presenters' list of verifiers has the form of the process node's, and does not change.
        self._endpoints.write_text(json.dumps(verifiers))
        self._start("backend", TOKEN_PARAMETER=self.token_parameter, RATE="55", REQUESTS=str(self.load.path))
        self.wait_under_load()
        return answer

    def _start(self, application: str, **settings: str) -> list[dict]:
        """Starts the processes of an application, and returns their endpoints when all of them serve."""
        endpoints = {f"{application}-{number}": free_port() for number in range(1, INSTANCES + 1)}
        for instance, port in endpoints.items():
            environment = {
                "PATH": os.environ["PATH"],
                "PORT": str(port),
                "POD": instance,
                "NAMESPACE": self.name,
                "ENDPOINTS": str(self._endpoints),
                **self.testbed.aws.environment,
                **settings,
            }
            command = [sys.executable, APPLICATIONS / f"{application}.py"]
            self._processes.start(instance, command, environment)
        for instance, port in endpoints.items():
            self._processes.wait_until(f"{instance} serves", lambda port=port: listening(port), instance)
        labels = {"app": application}
        return [
            {"pod": instance, "namespace": self.name, "labels": labels, "address": f"127.0.0.1:{port}", "ready": True}
            for instance, port in endpoints.items()
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self._processes.stop()
