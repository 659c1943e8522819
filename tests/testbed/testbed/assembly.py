"""Puts the parts together: the whole testbed, started, described, and ended."""

import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from testbed import aws as emulator
from testbed import cache, deployment, external_secrets, node, policy
from testbed.cache import Binaries
from testbed.deployment import Deployment
from testbed.plane import Plane
from testbed.processes import Processes
from testbed.testbed import Testbed
from testbed.tokens import TokenWebhook

SPECS = "/changeover/tokens"
CLUSTERS = "/changeover/clusters"


@contextmanager
def started(rotator: Path | None = None, command: Path | None = None) -> Iterator[Testbed]:
    """A running testbed, which ends with the block; the function is the given binary, or built.

    The command `changeover` is the given binary, or the one beside the function's, where a test needs it.

    Builds what is missing first. When the block ends with an exception, the directory with all logs stays, and is named.
    """
    binaries = cache.binaries()
    # Absolute: stories run them from directories of their own.
    rotator = (rotator or deployment.build_rotator()).absolute()
    command = (command or rotator.with_name("changeover")).absolute()
    began = time.monotonic()
    directory = Path(tempfile.mkdtemp(prefix="changeover-testbed-"))
    (directory / "logs").mkdir()
    processes = Processes(directory / "logs")
    executor = ThreadPoolExecutor(thread_name_prefix="start")
    process_node = None
    keep = True
    try:
        testbed = _start(executor, processes, binaries, rotator, command, directory)
        process_node = node.start(testbed)
        print(f"testbed: ready after {time.monotonic() - began:.1f} s", flush=True)
        yield testbed
        keep = False
    finally:
        # Whoever asks again while it ends gets the same end.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        if process_node:
            process_node.stop()
        processes.stop()
        # What still waits for a part sees that it has ended.
        executor.shutdown(cancel_futures=True)
        if keep:
            print(f"testbed: its logs stay in {directory / 'logs'}", file=sys.stderr, flush=True)
        else:
            shutil.rmtree(directory, ignore_errors=True)


def _start(
    executor: ThreadPoolExecutor,
    processes: Processes,
    binaries: Binaries,
    rotator: Path,
    command: Path,
    directory: Path,
) -> Testbed:
    plane = Plane(processes, binaries, directory)
    aws = emulator.emulated()
    webhook = TokenWebhook(directory)
    function_log = processes.logs / "function.log"
    function_log.touch()

    def account() -> Deployment:
        emulator.start_ministack(processes, aws, directory, plane.api_server, plane.certificate_authority)
        webhook.start(processes, binaries, plane, aws)
        deployed = deployment.deploy(aws, deployment.package(rotator, directory, function_log))
        webhook.admit(deployed.role)
        return deployed

    def cluster() -> None:
        plane.start_api_server(plane.token_webhook(webhook.url))
        controllers = executor.submit(plane.start_controllers)
        external_secrets.install_definitions(binaries, plane)
        external_secrets.start_operator(processes, binaries, plane, aws)
        controllers.result()

    accounts, clusters = executor.submit(account), executor.submit(cluster)
    moto = executor.submit(emulator.start_moto, processes)
    clusters.result()
    deployed = accounts.result()
    external_secrets.create_store(plane, aws)
    policy.put_in_force(plane)

    description = {
        "directory": str(directory),
        "logs": str(processes.logs),
        "kubeconfig": str(plane.kubeconfig),
        "kubectl": str(plane.kubectl),
        "api_server": plane.api_server,
        "certificate_authority": str(plane.certificate_authority),
        "audit_log": str(plane.audit_log),
        "aws": asdict(aws),
        "moto": moto.result(),
        "cluster": emulator.CLUSTER,
        **asdict(deployed),
        "qualifier": "live",
        "specs": SPECS,
        "clusters": CLUSTERS,
        "access_entries": str(webhook.entries),
        "function_log": str(function_log),
        "rotator": str(rotator),
        "command": str(command),
        "node": node.NAME,
    }
    path = directory / "testbed.json"
    path.touch(mode=0o600)
    path.write_text(json.dumps(description, indent=2))
    return Testbed(description)
