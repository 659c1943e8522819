"""One pod of the process node: its containers as processes, its status as a kubelet reports it."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import shutil
import signal
import time
from pathlib import Path

import aiohttp

from testbed.api import ApiError, now
from testbed.processes import MARK, free_port

LOG = logging.getLogger("node")

# The kubelet starts a crashed container again at once, then after 10 s, doubling up to 5 min; ten minutes of running
# without a crash forgive all (https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#restart-policy). Here the
# first pause is a second, so that no story waits for a kubelet; `make verify` sets ten.
BACK_OFF_SECONDS = float(os.environ.get("TESTBED_BACK_OFF_SECONDS", "1"))
BACK_OFF_LIMIT_SECONDS = 300
FORGIVEN_SECONDS = 600

# How often a container that lacks a Secret looks for it again.
CONFIGURATION_RETRY_SECONDS = 1

# How often a container that is not ready is probed.
STARTING_PROBE_SECONDS = 0.2

PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None, use_errno=True)


class NotConfigured(Exception):
    """A container cannot start as its pod stands: the kubelet's CreateContainerConfigError, with its message."""


class Container:
    """One container: its process, and the three things its status tells (state, last state, restarts)."""

    def __init__(self, spec: dict):
        self.spec = spec
        self.process: asyncio.subprocess.Process | None = None
        self.state = {"waiting": {"reason": "ContainerCreating"}}
        self.last_state: dict = {}
        self.restarts = 0
        self.ready = False

    @property
    def name(self) -> str:
        return self.spec["name"]

    def status(self) -> dict:
        running = "running" in self.state
        return {
            "name": self.name,
            "image": self.spec.get("image", ""),
            "imageID": "",
            "state": self.state,
            "lastState": self.last_state,
            "ready": self.ready and running,
            "started": running,
            "restartCount": self.restarts,
        }


class Pod:
    """Runs from its creation until its containers have ended and the API server has been told; then `finished()`."""

    def __init__(self, node, pod: dict, finished):
        self._node = node
        self._object = pod
        self._containers = [Container(spec) for spec in pod["spec"]["containers"]]
        self._port: int | None = None
        self._started_at = now()
        self._transitions: dict[str, tuple[str, str]] = {}
        self._changed = asyncio.Event()
        self._ending = asyncio.Event()
        self._gone = asyncio.Event()
        # The loop itself holds tasks weakly.
        self._task = asyncio.create_task(self._run(finished))
        self.seen(pod)

    # What the node tells it.

    def seen(self, pod: dict) -> None:
        """The API server's newest picture of this pod."""
        self._object = pod
        if pod["metadata"].get("deletionTimestamp"):
            self._ending.set()

    def gone(self) -> None:
        """The API server no longer has this pod: nobody is owed a grace period or a report."""
        self._gone.set()
        self._ending.set()
        self.kill()

    def kill(self) -> None:
        """Ends all processes of the pod at once."""
        for container in self._containers:
            self._signal(container, signal.SIGKILL)

    def endpoint(self) -> dict | None:
        """What a Service's endpoints would hold of this pod."""
        if self._port is None:
            return None
        metadata = self._object["metadata"]
        return {
            "namespace": metadata["namespace"],
            "pod": metadata["name"],
            "labels": metadata.get("labels", {}),
            "address": f"127.0.0.1:{self._port}",
            "ready": all(container.ready for container in self._containers) and not self._ending.is_set(),
            "terminating": self._ending.is_set(),
        }

    # Its life.

    async def _run(self, finished) -> None:
        reporter = asyncio.create_task(self._report_changes())
        try:
            if any(container.spec.get("ports") for container in self._containers):
                self._port = free_port()
            self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
            async with asyncio.TaskGroup() as group:
                for container in self._containers:
                    group.create_task(self._keep_running(container))
                group.create_task(self._end_when_told())
            # The last report must not be overtaken by an earlier one.
            reporter.cancel()
            await asyncio.wait([reporter])
            await self._report_until_accepted()
            await self._delete()
        except Exception as error:  # Whatever it was, it concerns this pod alone and belongs in the node's log.
            LOG.error("%s given up: %r", self, error)
        finally:
            reporter.cancel()
            self.kill()
            shutil.rmtree(self._root, ignore_errors=True)
            finished()
            self._node.publish_endpoints()

    async def _keep_running(self, container: Container) -> None:
        """Starts the container again whenever it ends, with the kubelet's back-off, until the pod ends."""
        back_off = 0
        while not self._ending.is_set():
            try:
                command, environment = await self._prepare(container)
            except NotConfigured as error:
                self._becomes(container, {"waiting": {"reason": "CreateContainerConfigError", "message": str(error)}})
                await self._wait_or_end(CONFIGURATION_RETRY_SECONDS)
                continue
            except (ApiError, aiohttp.ClientError, asyncio.TimeoutError) as error:
                LOG.warning("%s %s: the API server did not help: %r", self, container.name, error)
                await self._wait_or_end(CONFIGURATION_RETRY_SECONDS)
                continue
            if self._ending.is_set():
                break
            started, began = now(), time.monotonic()
            code = await self._run_once(container, command, environment, started)
            del environment
            ended = {"exitCode": code, "reason": "Completed" if code == 0 else "Error"}
            ended |= {"startedAt": started, "finishedAt": now()}
            self._becomes(container, {"terminated": ended})
            if self._ending.is_set():
                return
            LOG.info("%s %s: ended with exit code %s", self, container.name, code)
            container.last_state = {"terminated": ended}
            if time.monotonic() - began > FORGIVEN_SECONDS:
                back_off = 0
            if back_off:
                message = f"back-off {back_off}s restarting failed container={container.name} pod={self._name}"
                self._becomes(container, {"waiting": {"reason": "CrashLoopBackOff", "message": message}})
                await self._wait_or_end(back_off)
            back_off = min(back_off * 2 or BACK_OFF_SECONDS, BACK_OFF_LIMIT_SECONDS)
            container.restarts += 1
        if container.last_state:
            self._becomes(container, container.last_state)

    async def _run_once(self, container: Container, command: list[str], environment: dict, started: str) -> int:
        """One life of the process; answers its exit code as a shell would (128 + signal)."""
        with self._log_path(container).open("ab") as log:
            try:
                container.process = await asyncio.create_subprocess_exec(
                    *command,
                    env=environment,
                    cwd=self._root,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    # Not a session of its own: Linux shares the cores among sessions first, and thirty pods would leave the
                    # control plane and the emulator a thirtieth.
                    process_group=0,
                    preexec_fn=die_with_parent(os.getpid()),
                )
            except OSError as error:
                LOG.error("%s %s: %s does not start: %s", self, container.name, command[0], error.strerror)
                return 128
        if self._ending.is_set():
            # Told to end while it was being started: it has nothing to finish.
            self._signal(container, signal.SIGKILL)
        self._becomes(container, {"running": {"startedAt": started}})
        probe = asyncio.create_task(self._probe(container))
        try:
            code = await container.process.wait()
        finally:
            probe.cancel()
            # Processes that it left behind in its group are part of the container.
            self._signal(container, signal.SIGKILL)
            container.process = None
            container.ready = False
        return 128 - code if code < 0 else code

    async def _probe(self, container: Container) -> None:
        """Keeps `ready` true to the readiness probe; a container without one is ready when it runs."""
        probe = container.spec.get("readinessProbe")
        if not probe or "httpGet" not in probe:
            container.ready = True
            self._changes()
            return
        await asyncio.sleep(probe.get("initialDelaySeconds", 0))
        url = f"http://127.0.0.1:{self._port}{probe['httpGet'].get('path', '/')}"
        timeout = aiohttp.ClientTimeout(total=probe.get("timeoutSeconds", 1))
        successes = failures = 0
        async with aiohttp.ClientSession(timeout=timeout) as session:
            while True:
                try:
                    async with session.get(url, allow_redirects=False) as response:
                        passed = 200 <= response.status < 400
                except (aiohttp.ClientError, asyncio.TimeoutError):
                    passed = False
                successes, failures = (successes + 1, 0) if passed else (0, failures + 1)
                if passed and not container.ready and successes >= probe.get("successThreshold", 1):
                    container.ready = True
                    self._changes()
                elif not passed and container.ready and failures >= probe.get("failureThreshold", 3):
                    container.ready = False
                    self._changes()
                # The API has whole seconds only; a start is watched more closely, or it would cost one by itself.
                await asyncio.sleep(probe.get("periodSeconds", 10) if container.ready else STARTING_PROBE_SECONDS)

    async def _end_when_told(self) -> None:
        """SIGTERM when the pod is deleted, SIGKILL when its grace period is over."""
        await self._ending.wait()
        # New connections stop first, as far as clients have noticed: a Service drops terminating pods.
        self._changes()
        deadline = time.monotonic() + self._object["metadata"].get("deletionGracePeriodSeconds", 0)
        for container in self._containers:
            self._signal(container, signal.SIGTERM)
        while any(container.process for container in self._containers):
            if time.monotonic() >= deadline or self._gone.is_set():
                self.kill()
            await asyncio.sleep(0.02)

    async def _wait_or_end(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._ending.wait(), seconds)
        except asyncio.TimeoutError:
            pass

    def _signal(self, container: Container, number: int) -> None:
        """Signals the container's whole process group; one that has ended already needs no signal."""
        if container.process is not None:
            try:
                os.killpg(container.process.pid, number)
            except (ProcessLookupError, PermissionError):
                pass

    # What its containers are given.

    async def _prepare(self, container: Container) -> tuple[list[str], dict[str, str]]:
        """The container's command and environment, its volumes written, all as the API server's objects stand now."""
        spec = container.spec
        if self._object["spec"].get("initContainers"):
            raise NotConfigured("the process node runs no init containers")
        command = spec.get("command", []) + spec.get("args", [])
        if not command:
            raise NotConfigured("the process node pulls no images: the container needs a command")
        environment = {name: os.environ[name] for name in ("PATH", "LANG", MARK) if name in os.environ}
        for source in spec.get("envFrom", []):
            prefix = source.get("prefix", "")
            for key, value in (await self._data(source.get("secretRef"), source.get("configMapRef"))).items():
                environment[prefix + key] = os.fsdecode(value)
        for variable in spec.get("env", []):
            value = await self._value(variable)
            if value is not None:
                environment[variable["name"]] = value
        for mount in spec.get("volumeMounts", []):
            await self._write_volume(mount)
        # The node's stand-ins for the pod's network: which port is its own, and where the others are.
        if self._port is not None:
            environment["PORT"] = str(self._port)
        environment["ENDPOINTS"] = str(self._node.endpoints_path)
        return command, environment

    async def _value(self, variable: dict) -> str | None:
        source = variable.get("valueFrom")
        if not source:
            return variable.get("value", "")
        if "fieldRef" in source:
            field = source["fieldRef"]["fieldPath"]
            fields = {
                "metadata.name": self._name,
                "metadata.namespace": self._namespace,
                "metadata.uid": self._object["metadata"]["uid"],
                "spec.nodeName": self._object["spec"]["nodeName"],
                "status.podIP": "127.0.0.1",
            }
            if field not in fields:
                raise NotConfigured(f"the process node does not know the field {field}")
            return fields[field]
        reference = source.get("secretKeyRef") or source.get("configMapKeyRef")
        if not reference:
            raise NotConfigured(f"the process node does not know the source of env {variable['name']}")
        data = await self._data(source.get("secretKeyRef"), source.get("configMapKeyRef"))
        if reference["key"] in data:
            return os.fsdecode(data[reference["key"]])
        if reference.get("optional"):
            return None
        kind = "Secret" if "secretKeyRef" in source else "ConfigMap"
        raise NotConfigured(f"couldn't find key {reference['key']} in {kind} {self._namespace}/{reference['name']}")

    async def _data(self, secret: dict | None, config_map: dict | None) -> dict[str, bytes]:
        """The data that a reference names; nothing for an optional object that is missing."""
        kind, reference = ("secrets", secret) if secret else ("configmaps", config_map)
        found = await self._node.api.data_of(kind, self._namespace, reference["name"])
        if found is None and not reference.get("optional"):
            raise NotConfigured(f'{kind[:-1]} "{reference["name"]}" not found')
        return found or {}

    async def _write_volume(self, mount: dict) -> None:
        """Writes a volume where the container finds it: `mountPath` below its working directory."""
        volume = next(each for each in self._object["spec"]["volumes"] if each["name"] == mount["name"])
        place = self._root / mount["mountPath"].lstrip("/")
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        if "emptyDir" in volume:
            return
        source = volume.get("secret") or volume.get("configMap")
        if not source:
            raise NotConfigured(f"the process node does not know the kind of volume {volume['name']}")
        reference = {"name": source.get("secretName") or source.get("name"), "optional": source.get("optional")}
        data = await self._data(reference if "secret" in volume else None, reference)
        paths = {item["key"]: item["path"] for item in source.get("items", [])} or {key: key for key in data}
        for key, path in paths.items():
            if key not in data:
                raise NotConfigured(f"references non-existent secret key: {key}")
            with open(place / path, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
                file.write(data[key])

    # What the API server is told.

    def _becomes(self, container: Container, state: dict) -> None:
        container.state = state
        self._changes()

    def _changes(self) -> None:
        self._changed.set()
        self._node.publish_endpoints()

    async def _report_changes(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            await self._report_until_accepted()

    async def _report_until_accepted(self) -> None:
        """Tells the API server the pod's status; a pod that it no longer has is gone."""
        path = f"/api/v1/namespaces/{self._namespace}/pods/{self._name}"
        while not self._gone.is_set():
            body = {"metadata": {"uid": self._object["metadata"]["uid"]}, "status": self._status()}
            try:
                await self._node.api.call("PATCH", f"{path}/status", body, "application/merge-patch+json")
                return
            except (aiohttp.ClientError, asyncio.TimeoutError) as error:
                LOG.warning("%s status not reported, tried again: %r", self, error)
            except ApiError as error:
                # 404: deleted; 409: the name belongs to another pod by now.
                if error.status in (404, 409):
                    self.gone()
                    return
                LOG.warning("%s status refused, tried again: %s", self, error)
            await asyncio.sleep(0.5)

    async def _delete(self) -> None:
        """The last word on a pod: deletion with no grace, which only its node may say."""
        path = f"/api/v1/namespaces/{self._namespace}/pods/{self._name}"
        body = {"gracePeriodSeconds": 0, "preconditions": {"uid": self._object["metadata"]["uid"]}}
        while not self._gone.is_set():
            try:
                await self._node.api.call("DELETE", path, body)
                return
            except (aiohttp.ClientError, asyncio.TimeoutError) as error:
                LOG.warning("%s not deleted, tried again: %r", self, error)
            except ApiError as error:
                if error.status in (404, 409):
                    return
                LOG.warning("%s deletion refused, tried again: %s", self, error)
            await asyncio.sleep(0.5)

    def _status(self) -> dict:
        states = [container.state for container in self._containers]
        if all("terminated" in state for state in states) and self._ending.is_set():
            phase = "Succeeded" if all(state["terminated"]["exitCode"] == 0 for state in states) else "Failed"
        elif all("waiting" in state and not container.restarts for state, container in zip(states, self._containers)):
            phase = "Pending"
        else:
            phase = "Running"
        ready = all(container.ready for container in self._containers)
        conditions = [self._condition(kind, True) for kind in ("PodReadyToStartContainers", "Initialized")]
        conditions += [self._condition(kind, ready) for kind in ("ContainersReady", "Ready")]
        # Conditions of others (PodScheduled, the scheduler's) stay: a merge patch replaces the list.
        own = {condition["type"] for condition in conditions}
        found = self._object.get("status", {}).get("conditions") or []
        return {
            "phase": phase,
            "hostIP": "127.0.0.1",
            "podIP": "127.0.0.1",
            "podIPs": [{"ip": "127.0.0.1"}],
            "startTime": self._started_at,
            "conditions": [condition for condition in found if condition["type"] not in own] + conditions,
            "containerStatuses": [container.status() for container in self._containers],
        }

    def _condition(self, kind: str, holds: bool) -> dict:
        status = "True" if holds else "False"
        if self._transitions.get(kind, ("",))[0] != status:
            self._transitions[kind] = (status, now())
        condition = {"type": kind, "status": status, "lastTransitionTime": self._transitions[kind][1]}
        if not holds:
            unready = " ".join(container.name for container in self._containers if not container.ready)
            condition |= {"reason": "ContainersNotReady", "message": f"containers with unready status: [{unready}]"}
        return condition

    @property
    def _name(self) -> str:
        return self._object["metadata"]["name"]

    @property
    def _namespace(self) -> str:
        return self._object["metadata"]["namespace"]

    @property
    def _root(self) -> Path:
        return self._node.directory / "pods" / self._object["metadata"]["uid"]

    def _log_path(self, container: Container) -> Path:
        directory = self._node.logs / "pods"
        directory.mkdir(parents=True, exist_ok=True)
        return directory / f"{self._namespace}_{self._name}_{container.name}.log"

    def __str__(self) -> str:
        return f"pod {self._namespace}/{self._name}"


def die_with_parent(parent: int):
    """For a child between fork and exec: the kernel kills it when the node dies, however that happens."""

    def arrange() -> None:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    return arrange
