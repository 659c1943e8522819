"""A second cluster, which AWS knows nothing of: a control plane, External Secrets and a process node of its own.

    spec: "cluster": "homelab"  →  parameter {"endpoint", "ca", "token_parameter"}  →  the API server, by a bearer token

Started by the stories that need it, and by them alone; it ends with whoever started it.
"""

from __future__ import annotations

import copy
import json
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from testbed import cache, external_secrets, node
from testbed.plane import Plane
from testbed.processes import Processes
from testbed.testbed import Testbed
from testbed.tokens import GROUP

NAME = "homelab"


class Homelab(Testbed):
    """The testbed as it is seen from that cluster: the same account and function, and its own API server and pods."""

    def __init__(self, testbed: Testbed, plane: Plane) -> None:
        self.__dict__ |= copy.copy(testbed.__dict__)
        self.plane = plane
        self.cluster = NAME
        self.directory = testbed.directory / NAME
        self.logs = testbed.logs / NAME
        self.kubeconfig, self.kubectl = plane.kubeconfig, plane.kubectl
        self.api_server, self.audit_log = plane.api_server, plane.audit_log
        self.certificate_authority = plane.certificate_authority

    def describe(self, token: str) -> None:
        """Tells the function where the cluster is, and the token that it is known by there."""
        parameters = self.boto3("ssm")
        name = f"{self.clusters}/{NAME}"
        description = {
            "endpoint": self.api_server,
            "ca": self.certificate_authority.read_text(),
            "token_parameter": f"{name}/token",
        }
        parameters.put_parameter(
            Name=f"{name}/token", Type="SecureString", KeyId=self.publication_key, Value=token, Overwrite=True
        )
        parameters.put_parameter(Name=name, Type="String", Value=json.dumps(description), Overwrite=True)


@contextmanager
def started(testbed: Testbed) -> Iterator[Homelab]:
    """The running cluster, of which the function knows."""
    binaries = cache.binaries()
    directory, logs = testbed.directory / NAME, testbed.logs / NAME
    directory.mkdir()
    logs.mkdir()
    processes = Processes(logs)
    process_node = None
    try:
        plane = Plane(processes, binaries, directory)
        homelab = Homelab(testbed, plane)
        token = secrets.token_urlsafe(32)
        plane.start_api_server(plane.token_file(token, "changeover:homelab", GROUP))
        with ThreadPoolExecutor() as executor:
            controllers = executor.submit(plane.start_controllers)
            external_secrets.install_definitions(binaries, plane)
            external_secrets.start_operator(processes, binaries, plane, testbed.aws)
            external_secrets.create_store(plane, testbed.aws, f"external-secrets-{NAME}")
            controllers.result()
        process_node = node.start(homelab)
        homelab.describe(token)
        yield homelab
    finally:
        if process_node:
            process_node.stop()
        processes.stop()
