"""EKS's authentication: the token webhook and the access entries it maps roles by."""

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from testbed.aws import ACCOUNT, CLUSTER, Aws
from testbed.cache import Binaries
from testbed.deployment import CLUSTER_ROLE
from testbed.plane import Plane
from testbed.processes import Processes, free_port, listening
from testbed.testbed import Testbed

# The group that `infra/eks-rbac.yaml` gives its rights to.
GROUP = "changeover"
# Whom the API server takes the function for, by the name of its session.
FUNCTION_USER = "changeover:{{SessionName}}"


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
        admit(self.entries, role, FUNCTION_USER, GROUP)


def create_cluster_role(testbed: Testbed) -> None:
    """Creates, once, the role that template.yaml lets the function assume: it finds the cluster, and is known to it."""
    identities = testbed.boto3("iam")
    name = CLUSTER_ROLE.rpartition("/")[2]

    def policy(**statement: object) -> str:
        return json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", **statement}]})

    # Which roles of the account may assume it is up to their own policies: the functions of all stacks share it.
    trust = policy(Principal={"AWS": f"arn:aws:iam::{ACCOUNT}:root"}, Action="sts:AssumeRole")
    with _locked(testbed.access_entries):
        try:
            identities.create_role(RoleName=name, AssumeRolePolicyDocument=trust)
        except identities.exceptions.EntityAlreadyExistsException:
            return
        clusters = f"arn:aws:eks:*:{ACCOUNT}:cluster/{CLUSTER}"
        describe = policy(Action="eks:DescribeCluster", Resource=clusters)
        identities.put_role_policy(RoleName=name, PolicyName="describe", PolicyDocument=describe)
        _add(testbed.access_entries, CLUSTER_ROLE, FUNCTION_USER, GROUP)


def admit(entries: Path, role: str, username: str, *groups: str) -> None:
    """Adds an access entry, as `aws eks create-access-entry` does; the webhook reads them for every token."""
    with _locked(entries):
        _add(entries, role, username, *groups)


def _add(entries: Path, role: str, username: str, *groups: str) -> None:
    entry = {"principalArn": role, "username": username, "kubernetesGroups": list(groups)}
    whole = entries.with_suffix(".new")
    whole.write_text(json.dumps([*json.loads(entries.read_text()), entry]))
    whole.rename(entries)


@contextmanager
def _locked(entries: Path) -> Iterator[None]:
    """Keeps other processes from changing the access entries meanwhile: stories run beside each other."""
    with entries.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
