"""The function is killed at any call that a rotation makes, before it leaves and after it was applied: the end is the same."""

from __future__ import annotations

import asyncio
import dataclasses
import queue
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from testbed import light_platform, sample
from testbed.cutting_proxy import Background, Cut, CuttingProxy
from testbed.end_of_rotation import Cluster, Observed
from testbed.light_platform import LightPlatform
from testbed.readers import Readers
from testbed.runtime_interface import FunctionDied

# As many as two cores bear: most of the time is waiting, for pods, leases and overlaps.
TOKENS = 16
# So that a takeover fits a test; the emulator applies no call late.
QUICKLY = {"CHANGEOVER_LEASE": "1s", "CHANGEOVER_LATE_WRITE": "2s"}
# A call that changes nothing is cut before it leaves only where everything is tried: it leaves behind what the call before it left.
CHANGES = ("PATCH ", ".PutItem", ".UpdateItem", ".TransactWriteItems", ".PutParameter", ".LabelParameterVersion")


@pytest.mark.xdist_group("heavy")
@pytest.mark.slow
def kill_at_any_call_preserves_rotation_result(testbed, tell):
    began = time.monotonic()
    with (
        light_platform.light_platforms(testbed, "killed", TOKENS, **QUICKLY) as platforms,
        Readers(platforms) as readers,
        Background() as loop,
    ):
        undisturbed = Rotations(platforms[0], loop).run(None)
        calls = undisturbed.calls
        both = [Cut(call, after) for call in range(1, len(calls) + 1) for after in (False, True)]
        every_cut = [cut for cut in both if _leaves_a_trace(calls, cut)]
        drawn = sample.drawn(every_cut, one_in=4)
        cuts: queue.SimpleQueue[Cut] = queue.SimpleQueue()
        for cut in drawn:
            cuts.put(cut)

        def runs(platform: LightPlatform) -> list[Run]:
            rotations, found = Rotations(platform, loop), []
            while True:
                try:
                    found.append(rotations.run(cuts.get_nowait()))
                except queue.Empty:
                    return found

        with ThreadPoolExecutor(TOKENS) as executor:
            killed = [run for found in executor.map(runs, platforms) for run in found]
        loads = [platform.load for platform in platforms]

    tell(
        f"calls={len(calls)} cuts={len(drawn)} of {len(every_cut)} kills={sum(run.killed for run in killed)} "
        f"requests={sum(len(load.requests) for load in loads)} failed={sum(len(load.failed) for load in loads)} "
        f"pairs={readers.asked} refused={len(readers.refused)} seconds={time.monotonic() - began:.0f}"
    )
    # Not every rotation makes as many calls as another: a watch may show at once what another one has to wait for.
    assert [run.cut for run in killed if not run.killed and run.cut.call <= len(run.calls)] == []
    assert [run.differs_from(undisturbed) for run in killed if run.end != undisturbed.end] == []
    assert [load.failures() for load in loads if load.failed] == []
    assert readers.failure is None
    assert readers.refused == []


def _leaves_a_trace(calls: list[str], cut: Cut) -> bool:
    """Whether this cut can leave behind anything that the cut before it did not."""
    return cut.after or sample.is_everything() or any(change in calls[cut.call - 1] for change in CHANGES)


@dataclasses.dataclass(frozen=True)
class Run:
    """What one rotation came to: whether the function was killed, what it had called until then, how all stood in the end."""

    cut: Cut | None
    killed: bool
    calls: list[str]
    end: dict

    def differs_from(self, other: Run) -> str:
        found = [f"{what}: {self.end[what]}, not {other.end[what]}" for what in self.end if self.end[what] != other.end[what]]
        return f"{self.cut} ({self.calls[-1]}): {'; '.join(found)}"


class Rotations:
    """Rotations of one token, one after the other, each from rest to rest."""

    def __init__(self, platform: LightPlatform, loop: asyncio.AbstractEventLoop) -> None:
        self._platform = platform
        self._loop = loop
        self._cluster = Cluster(platform.testbed)

    def run(self, cut: Cut | None) -> Run:
        platform, key = self._platform, str(cut)
        before = Observed(platform, self._cluster)
        with (
            CuttingProxy(platform.testbed, self._loop) as proxy,
            platform.function(AWS_ENDPOINT_URL=proxy.endpoint) as function,
        ):
            if cut:
                proxy.cut(cut, function.kill)
            try:
                function.invoke({"action": "rotate", "token": platform.token, "key": key})
                platform.sweep_to_rest(function)
            except FunctionDied:
                if not proxy.has_cut:
                    raise
        # It is carried on by the sweep or by the trigger, which Lambda delivers again, whichever comes first.
        if cut and cut.call % 2:
            platform.rotate(key)
        platform.sweep_to_rest()
        # Where the trigger comes last it finds that it was done, or was forgotten before anything was saved.
        answer = platform.rotate(key)
        assert (answer["outcome"] in ("unchanged", "rotated"), answer["version"]) == (True, before.version + 1)
        platform.sweep_to_rest()
        return Run(cut, proxy.has_cut, list(proxy.calls), before.end())
