"""A process node: runs the pods bound to it as processes of this computer.

It is test equipment: simple, and no more than that. Towards the API server it does what a kubelet does:

    registers a Node and renews its Lease  →  watches the pods bound to it  →  one `Pod` (pod.py) runs each of them

and in place of the cluster's network it keeps one file, `endpoints.json` in the testbed's directory: the pods that
have a port, whether each is ready, and whether it is going away. Clients read that file the way kube-proxy reads
EndpointSlices. (EndpointSlices themselves refuse loopback addresses, and all pods share 127.0.0.1 here.)

Not done, because nothing here needs it: images, init containers, limits, logs and exec through the API, updates of
mounted Secrets while a pod runs, pods that may end (`restartPolicy` is taken to be `Always`).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import aiohttp

from testbed.api import Api, ApiError, connect, now
from testbed.pod import Pod

NAME = "process-node"

LOG = logging.getLogger("node")

# A lease of 40 s renewed every 10 s is the kubelet's own setting (nodeLeaseDurationSeconds).
LEASE_SECONDS = 40
RENEW_SECONDS = 10


def start(testbed) -> "Handle":
    """Starts the node for a running control plane and returns once the API server knows it.

    `testbed` needs `directory`, `logs`, `kubeconfig` and `kubectl`. The node ends with `Handle.stop()`, and also when
    this process ends in any way: it reads a pipe that closes then. Raises RuntimeError, naming the log, where the node
    cannot be registered within 15 s.
    """
    log_path = Path(testbed.logs) / "node.log"
    package = Path(__file__).resolve().parent.parent
    command = [sys.executable, "-m", "testbed.node", "--directory", str(testbed.directory), "--logs", str(testbed.logs)]
    command += ["--kubeconfig", str(testbed.kubeconfig), "--kubectl", str(testbed.kubectl)]
    with log_path.open("ab") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(package)},
        )
    handle = Handle(process)
    # The node says one line when it is registered, gives up by itself after 15 s, and closes the pipe when it dies.
    if process.stdout.readline().strip() != b"registered":
        handle.stop()
        raise RuntimeError(f"the process node did not register with {testbed.kubeconfig}: read {log_path}")
    return handle


class Handle:
    """The node's process, and with it every process of its pods."""

    def __init__(self, process: subprocess.Popen):
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    def stop(self) -> None:
        """Ends the node and its pods at once, without their grace period. Harmless to repeat."""
        self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(timeout=10)
        self._process.stdout.close()


class Node:
    """The pods of this node, by uid, and what the API server is told about the node itself."""

    def __init__(self, api: Api, directory: Path, logs: Path):
        self.api = api
        self.directory = directory
        self.logs = logs
        self._pods: dict[str, Pod] = {}

    async def register(self) -> None:
        """Creates the Node and its Lease, Ready from the first moment."""
        addresses = [{"type": "InternalIP", "address": "127.0.0.1"}, {"type": "Hostname", "address": NAME}]
        capacity = {"cpu": "64", "memory": "64Gi", "pods": "256"}
        conditions = [
            {
                "type": "Ready",
                "status": "True",
                "reason": "ProcessNodeReady",
                "message": "pods run as local processes",
                "lastHeartbeatTime": now(),
                "lastTransitionTime": now(),
            }
        ]
        node = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": NAME, "labels": {"kubernetes.io/hostname": NAME, "kubernetes.io/os": "linux"}},
        }
        status = {"addresses": addresses, "capacity": capacity, "allocatable": capacity, "conditions": conditions}
        await self._create("/api/v1/nodes", node)
        await self.api.call(
            "PATCH", f"/api/v1/nodes/{NAME}/status", {"status": status}, "application/merge-patch+json"
        )
        lease = {"holderIdentity": NAME, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": now(micro=True)}
        await self._create(
            "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases",
            {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {"name": NAME, "namespace": "kube-node-lease"},
                "spec": lease,
            },
        )

    async def _create(self, path: str, body: dict) -> None:
        try:
            await self.api.call("POST", path, body)
        except ApiError as error:
            if error.status != 409:
                raise

    async def heartbeat(self) -> None:
        """Renews the Lease for ever; the node lifecycle controller believes it."""
        path = f"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{NAME}"
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            try:
                body = {"spec": {"renewTime": now(micro=True)}}
                await self.api.call("PATCH", path, body, "application/merge-patch+json")
            except (ApiError, aiohttp.ClientError, asyncio.TimeoutError) as error:
                LOG.warning("lease not renewed, next try in %s s: %r", RENEW_SECONDS, error)

    async def follow(self) -> None:
        """Runs what is bound to this node, for ever.

        A watch that ends is taken up where it ended; one that fails in any way (410 Gone included) is replaced by a
        new list, and pods that are missing there are gone.
        """
        mine = {"fieldSelector": f"spec.nodeName={NAME}"}
        version = None
        while True:
            try:
                if version is None:
                    listed = await self.api.call("GET", "/api/v1/pods", **mine)
                    version = listed["metadata"]["resourceVersion"]
                    present = {pod["metadata"]["uid"] for pod in listed["items"]}
                    for pod in listed["items"]:
                        self._seen(pod)
                    for uid in self._pods.keys() - present:
                        self._pods[uid].gone()
                async for event in self.api.watch("/api/v1/pods", resourceVersion=version, **mine):
                    pod = event["object"]
                    if event["type"] == "ERROR":
                        raise ApiError(pod.get("code", 0), f"watch pods: {pod.get('message')}")
                    version = pod["metadata"]["resourceVersion"]
                    if event["type"] in ("ADDED", "MODIFIED"):
                        self._seen(pod)
                    elif event["type"] == "DELETED" and pod["metadata"]["uid"] in self._pods:
                        self._pods[pod["metadata"]["uid"]].gone()
            except (ApiError, aiohttp.ClientError, asyncio.TimeoutError, ValueError) as error:
                LOG.warning("pods are listed again: %r", error)
                version = None
                await asyncio.sleep(0.5)

    def _seen(self, pod: dict) -> None:
        uid = pod["metadata"]["uid"]
        if uid in self._pods:
            self._pods[uid].seen(pod)
            return
        self._pods[uid] = Pod(self, pod, finished=lambda: self._pods.pop(uid, None))

    def publish_endpoints(self) -> None:
        """Writes `endpoints.json` anew, in one rename, so that no reader sees half of it."""
        endpoints = [endpoint for pod in self._pods.values() if (endpoint := pod.endpoint())]
        with tempfile.NamedTemporaryFile("w", dir=self.directory, prefix=".endpoints-", delete=False) as file:
            json.dump(endpoints, file, indent=1)
        os.replace(file.name, self.endpoints_path)

    @property
    def endpoints_path(self) -> Path:
        return self.directory / "endpoints.json"

    def kill_all(self) -> None:
        for pod in self._pods.values():
            pod.kill()


async def run(arguments: argparse.Namespace) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    # The parent never writes: the pipe becomes readable when the parent is gone or asks for the end by closing it.
    loop.add_reader(sys.stdin.fileno(), stop.set)

    server, tls, headers = connect(arguments.kubectl, arguments.kubeconfig)
    connector = aiohttp.TCPConnector(ssl=tls, limit=0)
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
        node = Node(Api(session, server), Path(arguments.directory), Path(arguments.logs))
        node.publish_endpoints()
        async with asyncio.timeout(15):
            await node.register()
        print("registered", flush=True)
        work = [asyncio.create_task(node.follow()), asyncio.create_task(node.heartbeat())]
        ended = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait([*work, ended], return_when=asyncio.FIRST_COMPLETED)
            for task in work:
                # Neither ever returns: what is done here has failed, and its exception is the node's end.
                if task.done():
                    task.result()
        finally:
            node.kill_all()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("directory", "logs", "kubeconfig", "kubectl"):
        parser.add_argument(f"--{name}", required=True)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
