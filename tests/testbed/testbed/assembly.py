"""Puts the parts together: a testbed, started, described, and ended.

    started           the account, a cluster that follows it, and moto
    account_started   the account alone: the emulator with `template.yaml` deployed
"""

import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from testbed import aws as emulator
from testbed import cache, deployment, external_secrets, node, policy
from testbed.aws import Aws
from testbed.cache import Binaries
from testbed.deployment import Deployment
from testbed.plane import Plane
from testbed.processes import Processes
from testbed.testbed import Testbed
from testbed.tokens import TokenWebhook

SPECS = "/changeover/tokens"
CLUSTERS = "/changeover/clusters"


def started(rotator: Path | None = None, command: Path | None = None) -> AbstractContextManager[Testbed]:
    """A running testbed, which ends with the block; the function is the given binary, or built.

    The command `changeover` is the given binary, or the one beside the function's, where a test needs it.

    Builds what is missing first. When the block ends with an exception, the directory with all logs stays, and is named.
    """
    return _running(partial(_start_all, cache.binaries()), rotator, command)


def account_started(rotator: Path | None = None, command: Path | None = None) -> AbstractContextManager[Testbed]:
    """The same without a cluster and moto, so that nothing but the function and the command is built."""
    return _running(_start_account_alone, rotator, command)


@dataclass(frozen=True)
class Site:
    """What every part of one testbed is started with."""

    directory: Path
    processes: Processes
    # For parts that start at once.
    executor: ThreadPoolExecutor
    # Ends the parts that are not in `processes`, before those.
    ending: ExitStack
    rotator: Path
    command: Path

    @property
    def function_log(self) -> Path:
        return self.processes.logs / "function.log"


@contextmanager
def _running(start: Callable[[Site], Testbed], rotator: Path | None, command: Path | None) -> Iterator[Testbed]:
    """The testbed that `start` starts in a directory of its own."""
    # Absolute: stories run them from directories of their own.
    rotator = (rotator or deployment.build_rotator()).absolute()
    command = (command or rotator.with_name("changeover")).absolute()
    began = time.monotonic()
    directory = Path(tempfile.mkdtemp(prefix="changeover-testbed-"))
    (directory / "logs").mkdir()
    executor = ThreadPoolExecutor(thread_name_prefix="start")
    site = Site(directory, Processes(directory / "logs"), executor, ExitStack(), rotator, command)
    keep = True
    try:
        testbed = start(site)
        print(f"testbed: ready after {time.monotonic() - began:.1f} s", flush=True)
        yield testbed
        keep = False
    finally:
        # Whoever asks again while it ends gets the same end.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        site.ending.close()
        site.processes.stop()
        # What still waits for a part sees that it has ended.
        executor.shutdown(cancel_futures=True)
        if keep:
            print(f"testbed: its logs stay in {directory / 'logs'}", file=sys.stderr, flush=True)
        else:
            shutil.rmtree(directory, ignore_errors=True)


def _start_account_alone(site: Site) -> Testbed:
    aws = emulator.emulated()
    return _described(site, aws, _start_account(site, aws))


def _start_all(binaries: Binaries, site: Site) -> Testbed:
    plane = Plane(site.processes, binaries, site.directory)
    aws = emulator.emulated()
    webhook = TokenWebhook(site.directory)

    def account() -> Deployment:
        emulator.save_cluster(site.directory, plane.api_server, plane.certificate_authority)
        webhook.start(site.processes, binaries, plane, aws)
        deployed = _start_account(site, aws)
        webhook.admit(deployed.role)
        return deployed

    def cluster() -> None:
        plane.start_api_server(plane.token_webhook(webhook.url))
        controllers = site.executor.submit(plane.start_controllers)
        external_secrets.install_definitions(binaries, plane)
        external_secrets.start_operator(site.processes, binaries, plane, aws)
        controllers.result()

    accounts, clusters = site.executor.submit(account), site.executor.submit(cluster)
    moto = site.executor.submit(emulator.start_moto, site.processes, aws)
    clusters.result()
    deployed = accounts.result()
    external_secrets.create_store(plane, aws)
    policy.put_in_force(plane)

    testbed = _described(
        site,
        aws,
        deployed,
        kubeconfig=str(plane.kubeconfig),
        kubectl=str(plane.kubectl),
        api_server=plane.api_server,
        certificate_authority=str(plane.certificate_authority),
        audit_log=str(plane.audit_log),
        cluster=emulator.CLUSTER,
        access_entries=str(webhook.entries),
        node=node.NAME,
        moto=moto.result(),
    )
    site.ending.callback(node.start(testbed).stop)
    return testbed


def _start_account(site: Site, aws: Aws) -> Deployment:
    """Starts the emulator and deploys the project's template to it."""
    site.function_log.touch()
    emulator.start_ministack(site.processes, aws, site.directory)
    return deployment.deploy(aws, deployment.package(site.rotator, site.directory, site.function_log))


def _described(site: Site, aws: Aws, deployed: Deployment, **beside_the_account: Any) -> Testbed:
    """Writes `testbed.json`."""
    description = {
        "directory": str(site.directory),
        "logs": str(site.processes.logs),
        "aws": asdict(aws),
        **asdict(deployed),
        "qualifier": "live",
        "specs": SPECS,
        "clusters": CLUSTERS,
        "function_log": str(site.function_log),
        "rotator": str(site.rotator),
        "command": str(site.command),
        **beside_the_account,
    }
    path = site.directory / "testbed.json"
    path.touch(mode=0o600)
    path.write_text(json.dumps(description, indent=2))
    return Testbed(description)
