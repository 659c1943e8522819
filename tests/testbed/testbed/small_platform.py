"""A small platform: a datastore and a backend that learn of a new token by a restart.

    SSM parameters  →  ExternalSecrets  →  Secrets  →  env of the datastore (verifier) and the backend (presenter)
"""

from __future__ import annotations

from testbed.platform import Platform, deployment, from_secret, literals
from testbed.testbed import Testbed


class SmallPlatform(Platform):
    """Two pods each of a datastore and a backend, which send at least a hundred requests a second together."""

    introduction = "a datastore and a backend, two pods each, need the Secrets of a token that does not exist yet"

    def __init__(self, testbed: Testbed, name: str, token: str | None = None) -> None:
        super().__init__(testbed, name, token)
        self.token_parameter = f"/coilysiren/{name}/{self.token}"
        self.accepted_parameter = f"{self.token_parameter}/accepted"

    def spec(self, **changes) -> dict:
        """The token's spec: both views in SSM, both picked up by a restart. `changes` replace its fields."""

        def workload(name: str, external_secret: str) -> dict:
            cluster = self.testbed.cluster
            return {"cluster": cluster, "namespace": self.name, "deployment": name, "external_secret": external_secret}

        return {
            "token": {"bytes": 32, "prefix": "ds_"},
            "source": "generated",
            "overlap": "5s",
            "verifiers": {
                "publish": [{"ssm": self.accepted_parameter}],
                "workloads": [workload("datastore", "datastore-accepted")],
            },
            "presenters": {
                "publish": [{"ssm": self.token_parameter}],
                "workloads": [workload("backend", "datastore-token")],
            },
            "rollout_timeout": "2m",
        } | changes

    def external_secrets(self) -> list[dict]:
        return [
            external_secret(self.name, "datastore-accepted", "accepted", self.accepted_parameter),
            external_secret(self.name, "datastore-token", "token", self.token_parameter),
        ]

    def datastore(self, **settings) -> dict:
        """The verifier, with the accepted document in its environment."""
        settings = {"START_SECONDS": "1", "DRAIN_SECONDS": "1.5"} | settings
        environment = [from_secret("ACCEPTED", "datastore-accepted", "accepted"), *literals(settings)]
        return deployment(self.name, "datastore", "datastore.py", environment)

    def backend(self, **settings) -> dict:
        """The presenter, with the token in its environment. It starts and drains faster than the datastore does, or
        both would change over in step and a wrong order would go unseen."""
        settings = {"START_SECONDS": "0.5", "DRAIN_SECONDS": "1", "RATE": "55", "REQUESTS": str(self.load.path)} | settings
        environment = [from_secret("TOKEN", "datastore-token", "token"), *literals(settings)]
        return deployment(self.name, "backend", "backend.py", environment)

    def create(self, spec: dict | None = None, **settings: str) -> dict:
        """Sets all of it up at once, the way a repository is applied, and has the first token published.

        The pods wait for their Secrets, which exist once `publish` has answered; its answer is returned. `settings` are
        those of both applications.
        """
        self.create_namespace()
        self.put_spec(spec or self.spec())
        self.apply(*self.external_secrets(), self.datastore(**settings), self.backend(**settings))
        answer = self.invoke("publish")
        self.wait_available("datastore", "backend")
        self.wait_under_load()
        return answer


def external_secret(namespace: str, name: str, key: str, parameter: str) -> dict:
    """An ExternalSecret that copies one SSM parameter into the key of the Secret of the same name."""
    return {
        "apiVersion": "external-secrets.io/v1",
        "kind": "ExternalSecret",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "refreshInterval": "1h",
            "secretStoreRef": {"kind": "ClusterSecretStore", "name": "parameter-store"},
            "target": {"name": name},
            "data": [{"secretKey": key, "remoteRef": {"key": parameter}}],
        },
    }
