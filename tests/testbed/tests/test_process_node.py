"""The process node keeps what a kubelet promises: the stories believe what it reports."""

import json
import sys
import time
from pathlib import Path

from testbed import platform as platforms

PARENT = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", sys.argv[1]])
time.sleep(600)
"""


def pod_reports_wait_for_missing_secret(testbed):
    with _Pods(testbed, "node-secret") as pods:
        pods.start("waits", ["sleep", "600"], env=[platforms.from_secret("VALUE", "late", "key")])
        waiting = pods.until("waits", lambda status: _state(status).get("waiting", {}).get("message"))
        assert _state(waiting)["waiting"] == {
            "reason": "CreateContainerConfigError",
            "message": 'secret "late" not found',
        }
        pods.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "late"}, "stringData": {"key": "x"}})
        ready = pods.until("waits", lambda status: _condition(status, "Ready").get("status") == "True")
        assert "running" in _state(ready)


def failing_container_is_reported_as_crash_looping(testbed):
    with _Pods(testbed, "node-crash") as pods:
        pods.start("fails", ["sh", "-c", "exit 3"])
        failed = pods.until("fails", lambda status: _state(status).get("waiting", {}).get("reason") == "CrashLoopBackOff")
        (container,) = failed["containerStatuses"]
        assert container["restartCount"] >= 1 and not container["ready"]
        assert container["lastState"]["terminated"]["exitCode"] == 3


def deleted_pod_leaves_no_process_after_grace_period(testbed):
    with _Pods(testbed, "node-grace") as pods:
        mark = f"mark-of-{testbed.directory.name}"
        pods.start("stays", [sys.executable, "-c", PARENT, mark], terminationGracePeriodSeconds=2)
        pods.until("stays", lambda status: "running" in _state(status))
        platforms.wait_until(lambda: len(_processes(mark)) == 2, 10, "parent and child run")
        began = time.monotonic()
        testbed.kubectl("delete", "pod", "stays", "--namespace=node-grace", "--wait=true")
        assert time.monotonic() - began >= 2
        assert _processes(mark) == []


class _Pods(platforms.Platform):
    """Single pods in a namespace of their own."""

    def __enter__(self):
        self.testbed.kubectl("create", "namespace", self.name)
        return self

    def apply(self, *objects: dict) -> None:
        for each in objects:
            each["metadata"]["namespace"] = self.name
        super().apply(*objects)

    def start(self, name: str, command: list[str], env: list[dict] | None = None, **spec) -> None:
        container = {"name": name, "image": "local/process", "command": command, "env": env or []}
        pod = {"containers": [container], **spec}
        self.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": pod})

    def until(self, name: str, condition) -> dict:
        """The pod's status as soon as the condition holds for it."""

        def reported() -> dict | None:
            output = self.testbed.kubectl("get", "pod", name, f"--namespace={self.name}", "--output=json")
            status = json.loads(output)["status"]
            return status if status.get("containerStatuses") and condition(status) else None

        return platforms.wait_until(reported, 20, f"the expected status of pod {self.name}/{name}")


def _condition(status: dict, kind: str) -> dict:
    return next((each for each in status.get("conditions", []) if each["type"] == kind), {})


def _state(status: dict) -> dict:
    return status["containerStatuses"][0]["state"]


def _processes(mark: str) -> list[str]:
    """The processes that have this word on their command line, by pid."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (process / "cmdline").read_bytes().split(b"\0"):
                found.append(process.name)
        except OSError:
            continue
    return found
