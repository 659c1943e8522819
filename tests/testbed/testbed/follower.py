"""The least that follows a token by restarting: one pod that presents it, and nobody who verifies it.

    SSM parameter  →  ExternalSecret  →  Secret;  a workload `follower` is restarted for it, and runs a script
"""

from __future__ import annotations

from testbed.platform import Platform, from_secret
from testbed.small_platform import external_secret

# How a spec names a workload of each kind.
FIELDS = {"Deployment": "deployment", "StatefulSet": "stateful_set", "DaemonSet": "daemon_set"}
# Ends two seconds after it was told to: older pods are seen to be there for a while.
DRAINS = "trap 'sleep 2; exit 0' TERM; sleep 600 & wait"


class Follower(Platform):
    """Quick to start and to rotate, for what is about the rights of changeover or its words, not about requests."""

    def __init__(self, testbed, name: str, kind: str = "Deployment") -> None:
        super().__init__(testbed, name)
        self.kind = kind
        self.token_parameter = f"/coilysiren/{name}/token"

    def spec(self, **changes) -> dict:
        """The token's spec: one presenter, which picks up by a restart. `changes` replace its fields."""
        workload = {
            "cluster": self.testbed.cluster,
            "namespace": self.name,
            FIELDS[self.kind]: "follower",
            "external_secret": "token",
        }
        return {
            "token": {"bytes": 32, "prefix": "ft_"},
            "source": "generated",
            "overlap": "5s",
            "presenters": {"publish": [{"ssm": self.token_parameter}], "workloads": [workload]},
        } | changes

    def create(self) -> None:
        """Sets all of it up, of the kind that it is to be. Nothing is published yet."""
        self.create_namespace()
        self.put_spec(self.spec())
        self.apply(external_secret(self.name, "token", "token", self.token_parameter), self.workload())

    def workload(self) -> dict:
        """The same as a Deployment, a StatefulSet or a DaemonSet."""
        workload = self.deployment() | {"kind": self.kind}
        if self.kind == "StatefulSet":
            workload["spec"]["serviceName"] = "follower"
        elif self.kind == "DaemonSet":
            del workload["spec"]["replicas"]
        return workload

    def deployment(self, script: str = DRAINS) -> dict:
        """The Deployment, whose pod runs the script."""
        container = {
            "name": "main",
            "image": "local/process",
            "command": ["/bin/sh", "-c", script],
            "env": [from_secret("TOKEN", "token", "token")],
        }
        labels = {"app": "follower"}
        return {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "follower", "namespace": self.name},
            "spec": {
                "replicas": 1,
                "selector": {"matchLabels": labels},
                "template": {
                    "metadata": {"labels": labels, "annotations": {"team": "a"}},
                    "spec": {"containers": [container]},
                },
            },
        }
