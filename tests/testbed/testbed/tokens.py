"""EKS's authentication: the token webhook and the access entries it maps roles by."""

import json
from pathlib import Path

from testbed.aws import CLUSTER, Aws
from testbed.cache import Binaries
from testbed.plane import Plane
from testbed.processes import Processes, free_port, listening

# The group that `infra/eks-rbac.yaml` gives its rights to.
GROUP = "changeover"


class TokenWebhook:
    """Where the webhook is going to be reached, and its access entries, none at first."""

    def __init__(self, directory: Path) -> None:
        self._port = free_port()
        self._entries = directory / "access-entries.json"
        self._entries.write_text("[]")
        self.url = f"https://127.0.0.1:{self._port}"

    def start(self, processes: Processes, binaries: Binaries, plane: Plane, aws: Aws) -> None:
        """Starts it, and returns when it listens."""
        certificate, key = plane.serving
        processes.start(
            "token-webhook",
            [
                binaries.token_webhook,
                f"--listen=127.0.0.1:{self._port}",
                f"--certificate={certificate}",
                f"--key={key}",
                f"--cluster={CLUSTER}",
                f"--region={aws.region}",
                f"--sts={aws.endpoint.removeprefix('http://')}",
                f"--access-entries={self._entries}",
            ],
        )
        processes.wait_until("the token webhook listens", lambda: listening(self._port), "token-webhook")

    def admit(self, role: str) -> None:
        """Gives the role an access entry, as `aws eks create-access-entry` does, in the place of all others."""
        entry = {"principalArn": role, "username": "changeover:{{SessionName}}", "kubernetesGroups": [GROUP]}
        whole = self._entries.with_suffix(".new")
        whole.write_text(json.dumps([entry]))
        whole.rename(self._entries)
