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
        self.entries = directory / "access-entries.json"
        self.entries.write_text("[]")
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
                f"--access-entries={self.entries}",
            ],
        )
        processes.wait_until("the token webhook listens", lambda: listening(self._port), "token-webhook")

    def admit(self, role: str) -> None:
        """Gives the function's role an access entry."""
        admit(self.entries, role, "changeover:{{SessionName}}", GROUP)


def admit(entries: Path, role: str, username: str, *groups: str) -> None:
    """Adds an access entry, as `aws eks create-access-entry` does; the webhook reads them for every token."""
    entry = {"principalArn": role, "username": username, "kubernetesGroups": list(groups)}
    whole = entries.with_suffix(".new")
    whole.write_text(json.dumps([*json.loads(entries.read_text()), entry]))
    whole.rename(entries)
