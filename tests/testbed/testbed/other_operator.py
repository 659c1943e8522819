"""A second External Secrets operator beside the testbed's, which one test may slow down and stop: it is about the stores of its
own class in one namespace, and about nothing else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from typing import Self

from testbed import cache, external_secrets
from testbed.platform import wait_until
from testbed.processes import MARK, free_port, listening
from testbed.testbed import Testbed


class OtherOperator:
    """Reconciles the ExternalSecrets of a namespace, one at a time, whose SecretStore is `STORE` there."""

    STORE = "other"

    def __init__(self, testbed: Testbed, namespace: str) -> None:
        self._testbed, self._namespace = testbed, namespace
        metrics, live = free_port(), free_port()
        flags = [f"--metrics-addr=127.0.0.1:{metrics}", f"--live-addr=127.0.0.1:{live}", "--concurrent=1"]
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

    def create_store(self) -> None:
        """The testbed's store once more, for this operator alone."""
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


# What a second operator would take from the first.
CLUSTER_WIDE = ["cluster-store", "cluster-external-secret", "cluster-push-secret", "push-secret"]
