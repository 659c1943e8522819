"""A second External Secrets operator beside the testbed's, which one test may slow down and stop: it is about the stores of its
own class in one namespace, and about nothing else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from typing import Self

from testbed import cache, external_secrets, small_platform
from testbed.platform import Platform, from_secret, wait_until
from testbed.processes import MARK, free_port, listening
from testbed.testbed import Testbed


# What a second operator would take from the first.
CLUSTER_WIDE = ["cluster-store", "cluster-external-secret", "cluster-push-secret", "push-secret"]


class OtherOperator:
    """Reconciles the ExternalSecrets of a namespace, one at a time, whose SecretStore is `STORE` or `QUICK_STORE` there."""

    STORE = "other"
    QUICK_STORE = "quick"

    def __init__(self, testbed: Testbed, namespace: str) -> None:
        self._testbed, self._namespace = testbed, namespace
        metrics, live = free_port(), free_port()
        flags = [f"--metrics-addr=127.0.0.1:{metrics}", f"--live-addr=127.0.0.1:{live}", "--concurrent=1", "--client-qps=200"]
        flags += ["--enable-leader-election=false", f"--controller-class={namespace}", f"--namespace={namespace}"]
        flags += [f"--enable-{each}-reconciler=false" for each in CLUSTER_WIDE]
        with (testbed.logs / f"external-secrets-{namespace}.log").open("ab") as log:
            self._process = subprocess.Popen(
                [cache.binaries().external_secrets, *flags],
                env={
                    **{name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
                    "KUBECONFIG": str(testbed.kubeconfig),
                    "AWS_SSM_ENDPOINT": testbed.aws.endpoint,
                    "AWS_STS_ENDPOINT": testbed.aws.endpoint,
                    MARK: os.environ.get(MARK, ""),
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
            )
        wait_until(lambda: listening(metrics), 30, "the other operator is running")

    def create_stores(self) -> None:
        """For this operator alone: the testbed's store once more, and one that has its value in itself."""
        kubectl = self._testbed.kubectl
        store = json.loads(kubectl("get", "clustersecretstore", external_secrets.STORE, "--output=json"))
        secret = json.loads(
            kubectl("get", "secret", external_secrets.STORE, f"--namespace={external_secrets.NAMESPACE}", "--output=json")
        )
        for reference in store["spec"]["provider"]["aws"]["auth"]["secretRef"].values():
            del reference["namespace"]
        objects = [
            {**secret, "metadata": {"name": external_secrets.STORE, "namespace": self._namespace}},
            {
                "apiVersion": store["apiVersion"],
                "kind": "SecretStore",
                "metadata": {"name": self.STORE, "namespace": self._namespace},
                "spec": {**store["spec"], "controller": self._namespace},
            },
        ]
        quick = {"fake": {"data": [{"key": "key", "value": "value"}]}}
        objects.append(
            {
                "apiVersion": store["apiVersion"],
                "kind": "SecretStore",
                "metadata": {"name": self.QUICK_STORE, "namespace": self._namespace},
                "spec": {"provider": quick, "controller": self._namespace},
            }
        )
        kubectl("apply", "--filename=-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))

    def pause(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()



class CopiedPlatform(Platform):
    """A token whose presenters' view is copied by an operator of its own."""

    def __init__(self, testbed: Testbed, name: str) -> None:
        super().__init__(testbed, name)
        self.parameter = f"/coilysiren/{name}/{self.token}"

    def external_secret(self, name: str) -> dict:
        copying = small_platform.external_secret(self.name, name, "token", self.parameter)
        copying["spec"]["secretStoreRef"] = {"kind": "SecretStore", "name": OtherOperator.STORE}
        return copying

    def other(self, name: str) -> dict:
        """An ExternalSecret that has nothing to do with the token."""
        copying = small_platform.external_secret(self.name, name, "key", "key")
        copying["spec"]["secretStoreRef"] = {"kind": "SecretStore", "name": OtherOperator.QUICK_STORE}
        return copying

    def spec(self, timeout: str) -> dict:
        workload = {"cluster": self.testbed.cluster, "namespace": self.name, "deployment": "backend", "settle": "0s"}
        presenters = {"publish": [{"ssm": self.parameter}], "workloads": [workload | {"external_secret": "token"}]}
        return {"token": {"bytes": 32}, "overlap": "5s", "presenters": presenters, "rollout_timeout": timeout}

    def backend(self) -> dict:
        """It has no pods: this is about the copy."""
        environment = [from_secret("TOKEN", "token", "token")]
        container = {"name": "backend", "image": "local/process", "command": ["sleep", "3600"], "env": environment}
        template = {"metadata": {"labels": {"app": "backend"}}, "spec": {"containers": [container]}}
        spec = {"replicas": 0, "selector": {"matchLabels": {"app": "backend"}}, "template": template}
        metadata = {"name": "backend", "namespace": self.name}
        return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec}

    def create(self, operator: OtherOperator) -> None:
        operator.create_stores()
        self.put_spec(self.spec("2m"))
        self.apply(self.external_secret("token"), self.backend())
        assert self.invoke("publish")["outcome"] == "published"

    def copy(self) -> dict:
        """The ExternalSecret of the token, as it stands."""
        found = self.testbed.kubectl("get", "externalsecret", "token", f"--namespace={self.name}", "--output=json")
        return json.loads(found)

    def unsynced(self) -> int:
        """How many ExternalSecrets of the namespace have not synced yet."""
        found = self.testbed.kubectl("get", "externalsecrets", f"--namespace={self.name}", "--output=json")
        return sum(not each.get("status", {}).get("syncedResourceVersion") for each in json.loads(found)["items"])

    def rotate_until_held(self, key: str, seconds: float) -> dict:
        """What holds the rotation of this key, asked again while it is under way."""

        def held() -> dict | None:
            answer = self.invoke("rotate", key=key)
            assert answer["outcome"] in ("in_progress", "held"), answer
            return answer["held"]

        return wait_until(held, seconds, f"the rotation of {self.token} is held", every=1)
