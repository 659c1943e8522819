"""External Secrets takes its time, or is down: the rotation waits, says for what, and goes on by itself."""

import json

from testbed.other_operator import OtherOperator
from testbed.platform import Platform, wait_until
from testbed.small_platform import external_secret

QUEUED = 300


class Copied(Platform):
    """A token whose presenters' view is copied by an operator of its own."""

    def __init__(self, testbed, name: str) -> None:
        super().__init__(testbed, name)
        self.parameter = f"/coilysiren/{name}/{self.token}"

    def external_secret(self, name: str) -> dict:
        copying = external_secret(self.name, name, "token", self.parameter)
        copying["spec"]["secretStoreRef"] = {"kind": "SecretStore", "name": OtherOperator.STORE}
        return copying

    def spec(self, timeout: str) -> dict:
        workload = {"cluster": self.testbed.cluster, "namespace": self.name, "deployment": "backend", "settle": "0s"}
        presenters = {"publish": [{"ssm": self.parameter}], "workloads": [workload | {"external_secret": "token"}]}
        return {"token": {"bytes": 32}, "overlap": "5s", "presenters": presenters, "rollout_timeout": timeout}

    def backend(self) -> dict:
        """It has no pods: this is about the copy."""
        container = {"name": "backend", "image": "local/process", "command": ["sleep", "3600"]}
        template = {"metadata": {"labels": {"app": "backend"}}, "spec": {"containers": [container]}}
        spec = {"replicas": 0, "selector": {"matchLabels": {"app": "backend"}}, "template": template}
        metadata = {"name": "backend", "namespace": self.name}
        return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec}

    def create(self, operator: OtherOperator) -> None:
        operator.create_store()
        self.put_spec(self.spec("2m"))
        self.apply(self.external_secret("token"), self.backend())
        assert self.invoke("publish")["outcome"] == "published"

    def synced_version(self, name: str) -> str:
        found = self.testbed.kubectl("get", "externalsecret", name, f"--namespace={self.name}", "--output=json")
        return json.loads(found).get("status", {}).get("syncedResourceVersion", "")


def a_rotation_waits_for_an_operator_that_is_busy_and_for_one_that_is_down(testbed, tell):
    with Copied(testbed, "other-operator") as platform:
        platform.create_namespace()
        with OtherOperator(testbed, platform.name) as operator:
            platform.create(operator)

            # Busy: hundreds of others are in front of it, one at a time.
            operator.pause()
            queued = [f"queued-{number:03}" for number in range(QUEUED)]
            platform.apply(*(platform.external_secret(name) for name in queued))
            operator.resume()
            answer = platform.invoke("rotate", key="busy")
            assert (answer["outcome"], answer["version"], answer["warnings"]) == ("rotated", 2, [])
            (sync,) = (each for each in answer["timeline"] if (each["leg"], each["step"]) == ("migrate", "sync"))
            tell(f"behind {QUEUED} others, migrate's sync took {sync['took_ms'] / 1000:.1f} s")
            platform.sweep_until_nothing_is_owed()

            # Down: under way until its time is up, then held, and it says what does not come.
            operator.pause()
            platform.put_spec(platform.spec("6s"))
            before = platform.synced_version("token")
            answer = platform.invoke("rotate", key="down", wait="3s")
            assert answer["outcome"] == "in_progress", "under way"
            held = wait_until(lambda: _held(platform), 60, "it is held", every=1)
            tell(f"held: {held['object']}: {held['reason']}")
            assert "ExternalSecret token has not synced since it was told to" in held["reason"]
            assert platform.synced_version("token") == before

            # Back: the next run finds it so, and nothing was lost.
            operator.resume()
            platform.put_spec(platform.spec("2m"))
            standing = platform.sweep_until(lambda now: now["leg"] is None and len(now["versions"]) == 1, 60, "it goes on")
            assert [(each["version"], each["stage"]) for each in standing["versions"]] == [(3, "current")]


def _held(platform: Copied) -> dict | None:
    answer = platform.invoke("rotate", key="down")
    assert answer["outcome"] in ("in_progress", "held"), answer
    return answer["held"]
