"""The comparison of `make bench`: rotations by hand, the way it is done today, and changeover's, under the same load.

    for each way: a platform of its own  →  two rotations under load  →  one row of the table

A request counts as refused when a verifier answered 401; whatever else failed is told below the table.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from dataclasses import dataclass

from testbed.load import Load
from testbed.platform import wait_until
from testbed.small_platform import SmallPlatform
from testbed.testbed import Testbed

ROTATIONS = 2
APPLICATIONS = ("datastore", "backend")

# Refusals that follow each other more closely than this are one span.
SPAN_GAP_SECONDS = 1.0


def main(testbed: Testbed) -> int:
    """Measures one way after the other on a running testbed, and prints the table.

    1 if changeover had a request refused, else 0: what the others cost decides nothing. Raises TimeoutError where a
    rotation did not come about.
    """
    ways = {
        "put-parameter, force-sync, wait Ready, restart both, wait both": ByHand(testbed, "restart-both", APPLICATIONS),
        "the same, verifiers first, then presenters": ByHand(testbed, "verifiers-first", *zip(APPLICATIONS)),
        "changeover, its overlap of 10 s and the contract included": Changeover(testbed, "changeover"),
    }
    rows = [measured(how, platform) for how, platform in ways.items()]
    slowest = min(row.load.rate for row in rows)
    print(f"\n{table(rows)}\n\n{ROTATIONS} rotations each, at {slowest:.0f} requests/s or more", flush=True)
    for row in rows:
        if others := sum(request.failed for request in row.load.requests) - len(row.refused):
            print(f"failed otherwise: {others} with {row.how}: {row.load.failures()}", flush=True)
    return 1 if rows[-1].refused else 0


class ByHand(SmallPlatform):
    """Rotated by kubectl and boto3, without an overlap: the accepted document holds the one token that is in use.

    `restarts` are the Deployments that are restarted together, and waited for, one group after the other. The wait for
    the ExternalSecrets is a careful one: `Ready` stays true while a refresh is under way, and alone is no wait at all.
    """

    def __init__(self, testbed: Testbed, name: str, *restarts: tuple[str, ...]) -> None:
        super().__init__(testbed, name)
        self._restarts = restarts
        self._external_secrets = [f"externalsecret/{each['metadata']['name']}" for each in self.external_secrets()]

    def set_up(self) -> None:
        self.create_namespace()
        self._put_parameters(1)
        self.apply(*self.external_secrets(), self.datastore(), self.backend())
        self.wait_available(*APPLICATIONS)
        self.wait_under_load()

    def rotate_to(self, version: int) -> None:
        self._put_parameters(version)
        self._force_sync()
        for names in self._restarts:
            self._kubectl("rollout", "restart", *(f"deployment/{name}" for name in names))
            self.wait_available(*names, seconds=120)

    def _put_parameters(self, version: int) -> None:
        token = f"ds_{secrets.token_urlsafe(32)}"
        digest = hashlib.sha256(token.encode()).hexdigest()
        accepted = json.dumps({"accepted": [{"version": version, "stage": "current", "sha256": digest}]})
        parameters = self.testbed.boto3("ssm")
        for name, value in ((self.accepted_parameter, accepted), (self.token_parameter, token)):
            parameters.put_parameter(Name=name, Type="SecureString", Value=value, Overwrite=True)

    def _force_sync(self) -> None:
        before = self._synced()
        self._kubectl("annotate", *self._external_secrets, f"force-sync={time.time_ns()}", "--overwrite")
        wait_until(
            lambda: not set(before) & set(self._synced()), 60, f"the ExternalSecrets of {self.name} are refreshed"
        )
        self._kubectl("wait", "--for=condition=Ready", "--timeout=60s", *self._external_secrets, seconds=70)

    def _synced(self) -> list[tuple[str, str]]:
        """What each ExternalSecret was last refreshed for, by its name."""
        listed = json.loads(self._kubectl("get", *self._external_secrets, "--output=json"))["items"]
        return [(each["metadata"]["name"], each["status"]["syncedResourceVersion"]) for each in listed]

    def _kubectl(self, *arguments: str, seconds: float = 60) -> str:
        return self.testbed.kubectl(*arguments, f"--namespace={self.name}", seconds=seconds)


class Changeover(SmallPlatform):
    """Rotated by the function."""

    def set_up(self) -> None:
        self.create(spec=self.spec(overlap="10s"))

    def rotate_to(self, version: int) -> None:
        self.rotate(f"version-{version}")
        self.sweep_until_nothing_is_owed()


@dataclass(frozen=True)
class Row:
    """What came of a way to rotate: every request from before the first rotation until after the last."""

    how: str
    load: Load
    rotation_seconds: float

    @property
    def refused(self) -> list[float]:
        """When each refused request was sent, in order."""
        return sorted(request.at for request in self.load.requests if request.status == 401)

    @property
    def longest_span(self) -> float:
        """Seconds from the first to the last refusal of the longest span; 0 where nothing was refused."""
        longest, begin, last = 0.0, None, None
        for at in self.refused:
            if last is None or at - last > SPAN_GAP_SECONDS:
                begin = at
            longest, last = max(longest, at - begin), at
        return longest


def measured(how: str, platform: ByHand | Changeover) -> Row:
    """Rotates on a platform of its own, which goes away afterwards.

    A rotation takes as long as whoever does it that way waits for it. Before the next one the old pods are gone, those
    that drain included, and every request carries the new version.
    """
    print(f"compare: {how}", flush=True)
    load, seconds = platform.load, []
    with platform:
        platform.set_up()
        for version in range(2, 2 + ROTATIONS):
            began = time.monotonic()
            platform.rotate_to(version)
            seconds.append(time.monotonic() - began)
            wait_until(
                lambda: all(len(platform.pods(name)) == 2 for name in APPLICATIONS),
                60,
                f"the old pods of {platform.name} are gone",
            )
            load.wait_until(
                lambda new: new and all(request.version == version for request in new),
                30,
                f"every request in namespace {platform.name} carries version {version}",
            )
    return Row(how, load, sum(seconds) / ROTATIONS)


def table(rows: list[Row]) -> str:
    """The rows in Markdown, aligned."""
    cells = [["how", "requests", "refused (401)", "longest failing span", "a rotation takes"]]
    for row in rows:
        counts = [f"{len(row.load.requests):,}", f"{len(row.refused):,}"]
        span = f"{row.longest_span:.2f} s" if row.refused else "none"
        cells.append([row.how, *counts, span, f"{row.rotation_seconds:.1f} s"])
    widths = [max(map(len, column)) for column in zip(*cells)]
    cells.insert(1, ["-" * width for width in widths])
    return "\n".join(f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, widths))} |" for line in cells)
