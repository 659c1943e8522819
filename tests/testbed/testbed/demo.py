"""`make demo` and `make demo-cluster`: three rotations of a token under load, shown as they happen, and counted.

    create and publish  →  a schedule fires the first rotation  →  two more are invoked  →  the timeline, a picture and the verdict

The platform makes the difference: processes that read the token by themselves, or workloads in a cluster.
"""

from __future__ import annotations

import json
import threading
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Self

from testbed.command import Command
from testbed.load import Span, timeline
from testbed.local_platform import LocalPlatform
from testbed.platform import TokenUnderLoad, wait_until
from testbed.small_platform import SmallPlatform

ROTATIONS = 3

# The emulator looks at its schedules every 10 s; the rest is the rotation itself.
SCHEDULED_ROTATION_SECONDS = 90


def main(platform: LocalPlatform | SmallPlatform, drawn: Path) -> int:
    """Runs the demo on a platform that is not created yet. 0 if three rotations completed and no request failed, else 1.

    The picture of the last rotation is written to the file `drawn`.
    """
    began = time.monotonic()
    with Narrator(platform) as narrator:
        narrator.say(platform.introduction)
        answer = platform.create()
        narrator.say(f"{answer['outcome']}: version {answer['version']}; the backend sends, the datastore accepts")
        rotations = 0
        for number in range(1, ROTATIONS + 1):
            how = "fired by a one-time EventBridge schedule" if number == 1 else "invoked"
            narrator.say(f"rotation {number} of {ROTATIONS}, {how}")
            answer = scheduled(platform) if number == 1 else platform.invoke("rotate")
            rotations += (answer["outcome"], answer["version"]) in (("rotated", number + 1), ("unchanged", number + 1))
            narrator.say(in_one_line(answer))
        narrator.say("the sweep, which comes once a minute by itself, ends what is owed")
        platform.sweep_until_nothing_is_owed()
        platform.wait_under_load()
    load = platform.load
    load.read()

    print(f"\n{timeline(load, narrator.spans())}\n")
    print("  E expand: verifiers learn the new version   M migrate: presenters change over")
    print("  O overlap: verifiers learn the old one's end   C contract: verifiers forget it\n")
    draw(platform, drawn)
    print(f"The last rotation as a picture: {drawn}")
    print(f"Requests a second: {load.rate:.0f}\n")
    for failure in filter(None, [load.failures()]):
        print(f"failed: {failure}")
    seconds = round(time.monotonic() - began)
    print(
        f"demo: rotations={rotations} requests={len(load.requests)} failed={len(load.failed)} seconds={seconds}",
        flush=True,
    )
    return 0 if rotations >= ROTATIONS and not load.failed else 1


def draw(platform: TokenUnderLoad, drawn: Path) -> None:
    """Has the command draw the newest rotation with the requests beside it."""
    testbed = platform.testbed
    requests = testbed.directory / "demo-requests.json"
    requests.write_text(json.dumps(platform.load.each_tenth()))
    changeover = Command(testbed, testbed.directory / "demo-home")
    ran = changeover("timeline", platform.token, "--output", str(drawn), "--requests", str(requests))
    if ran.code != 0:
        raise RuntimeError(f"the picture could not be drawn: {ran.log}")


def scheduled(platform: TokenUnderLoad) -> dict:
    """The answer about a rotation that a one-time schedule fires within seconds."""
    testbed = platform.testbed
    at = (datetime.now(timezone.utc) + timedelta(seconds=1)).strftime("%Y-%m-%dT%H:%M:%S")
    before = platform.current_version() or 0
    function = testbed.boto3("lambda").get_function_configuration(FunctionName=testbed.function)
    # AWS fills `<aws.scheduler.scheduled-time>` in; the emulator does not, so it is written out here.
    event = {"action": "rotate", "token": platform.token, "key": f"{at}Z"}
    testbed.boto3("scheduler").create_schedule(
        Name=f"rotate-{platform.token}",
        ScheduleExpression=f"at({at})",
        FlexibleTimeWindow={"Mode": "OFF"},
        Target={"Arn": function["FunctionArn"], "RoleArn": testbed.role, "Input": json.dumps(event)},
    )
    wait_until(
        lambda: (platform.current_version() or 0) > before,
        SCHEDULED_ROTATION_SECONDS,
        f"the scheduled rotation of {platform.token}: read {testbed.function_log}",
        every=1,
    )
    # The same key never mints twice: the second answer is about what the first invocation did.
    return platform.rotate(event["key"])


def in_one_line(answer: dict) -> str:
    if held := answer.get("held"):
        return f"{answer['outcome']}: {held['object']}: {held['reason']}; {held['fix']}"
    line = f"{answer['outcome']}: version {answer['version']}"
    if answer["outcome"] == "unchanged":
        line += ", which this key has brought already"
    if ends := answer.get("previous_valid_until"):
        line += f", the one before is valid until {ends}"
    return line


class Narrator:
    """Prints what happens when: lines of the demo, and each step that the function's log reports as done."""

    EVERY_SECONDS = 0.2

    def __init__(self, platform: TokenUnderLoad) -> None:
        self._log = platform.testbed.function_log.open("rb")
        self._pending = b""
        self._one_at_a_time = threading.Lock()
        self._token = platform.token
        self._began = time.time()
        self._spans: list[Span] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="narrator", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._over.set()
        self._thread.join(timeout=10)
        self._log.close()

    def say(self, line: str) -> None:
        """Prints the steps in the log so far, and then this line."""
        with self._one_at_a_time:
            self._catch_up()
            self._print(line)

    def spans(self) -> list[Span]:
        """The steps that were done so far, by leg."""
        return list(self._spans)

    def _follow(self) -> None:
        while not self._over.wait(self.EVERY_SECONDS):
            with self._one_at_a_time:
                self._catch_up()

    def _catch_up(self) -> None:
        *lines, self._pending = (self._pending + self._log.read()).split(b"\n")
        for line in lines:
            self._print_step(line)

    def _print_step(self, line: bytes) -> None:
        try:
            entry = json.loads(line)
        except ValueError:  # The runtime's own words, and a panic's, are not JSON.
            return
        if (entry.get("message"), entry.get("token"), entry.get("outcome")) != ("step", self._token, "done"):
            return
        end = datetime.fromisoformat(entry["timestamp"]).timestamp()
        seconds = entry["duration_ms"] / 1000
        self._spans.append(Span("legs", entry["leg"][0].upper(), end - seconds, end))
        step = entry["step"].replace("_", " ")
        # What is left of a rotation after its end is owed by the token, not by a version.
        version = f"version {entry['version']}" if "version" in entry else ""
        self._print(f"    {version:<11}{entry['leg']:<9} {step:<9} {seconds:5.1f} s")

    def _print(self, line: str) -> None:
        print(f"{time.time() - self._began:6.1f} s  {line}", flush=True)
