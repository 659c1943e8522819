"""`make demo`: three rotations of a token under load, shown as they happen, and counted.

    create and publish  →  a schedule fires the first rotation  →  two more are invoked  →  the timeline and the verdict
"""

from __future__ import annotations

import json
import threading
import time
from datetime import datetime, timedelta, timezone

from testbed.load import Span, timeline
from testbed.platform import ask, wait_until
from testbed.small_platform import SmallPlatform
from testbed.testbed import Testbed

ROTATIONS = 3

# The emulator looks at its schedules every 10 s; the rest is the rotation itself.
SCHEDULED_ROTATION_SECONDS = 90


def main(testbed: Testbed, keep: bool) -> int:
    """Runs the demo on a running testbed. 0 if three rotations completed and no request failed, else 1.

    With `keep` the caller leaves everything running, and is told how to rotate by hand.
    """
    began = time.monotonic()
    platform = SmallPlatform(testbed, "backend", "datastore-token")
    with Narrator(platform) as narrator:
        narrator.say("a datastore and a backend, two pods each, ask for a token that does not exist yet")
        answer = platform.create()
        narrator.say(f"{answer['outcome']}: version {answer['version']}; the backend sends, the datastore accepts")
        rotations = 0
        for number in range(1, ROTATIONS + 1):
            how = "fired by a one-time EventBridge schedule" if number == 1 else "invoked"
            narrator.say(f"rotation {number} of {ROTATIONS}, {how}")
            answer = scheduled(platform) if number == 1 else platform.invoke("rotate")
            rotations += (answer["outcome"], answer["version"]) in (("rotated", number + 1), ("unchanged", number + 1))
            narrator.say(told(answer))
        platform.wait_under_load()
    load = platform.load
    load.read()

    print(f"\n{timeline(load, narrator.spans())}\n")
    print("  E expand: verifiers learn the new version   M migrate: presenters change over")
    print("  O overlap: verifiers learn the old one's end   C contract: verifiers forget it\n")
    for failure in filter(None, [load.failures()]):
        print(f"failed: {failure}")
    if keep:
        print(f"To rotate again: aws lambda invoke --function-name {testbed.function} --cli-read-timeout 0 \\")
        print("    --cli-binary-format raw-in-base64-out /dev/stdout \\")
        print(f"""    --payload '{{"action": "rotate", "token": "{platform.token}"}}'\n""")
    seconds = round(time.monotonic() - began)
    print(
        f"demo: rotations={rotations} requests={len(load.requests)} failed={len(load.failed)} seconds={seconds}",
        flush=True,
    )
    return 0 if rotations >= ROTATIONS and not load.failed else 1


def scheduled(platform: SmallPlatform) -> dict:
    """A rotation that a one-time schedule fires within seconds: what became of it."""
    testbed = platform.testbed
    at = (datetime.now(timezone.utc) + timedelta(seconds=1)).strftime("%Y-%m-%dT%H:%M:%S")
    before = platform.current_version()
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
        f"version {before + 1} of {platform.token} is current: read {testbed.function_log}",
        every=1,
    )
    # The same key never mints twice: asking again tells what became of the first time.
    return ask(testbed, event)


def told(answer: dict) -> str:
    """An answer in one line."""
    if held := answer.get("held"):
        return f"{answer['outcome']}: {held['object']}: {held['reason']}; {held['fix']}"
    line = f"{answer['outcome']}: version {answer['version']}"
    if ends := answer.get("previous_valid_until"):
        line += f", the one before is valid until {ends}"
    return line


class Narrator:
    """Tells what happens when, and remembers which leg ran when: it asks for the token's status all the time."""

    EVERY_SECONDS = 0.5

    def __init__(self, platform: SmallPlatform):
        self._platform = platform
        self._began = time.time()
        self._seen: list[tuple[float, str | None, str | None, int | None]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="narrator", daemon=True)

    def __enter__(self) -> "Narrator":
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._over.set()
        self._thread.join(timeout=30)

    def say(self, line: str) -> None:
        print(f"{time.time() - self._began:6.1f} s  {line}", flush=True)

    def spans(self) -> list[Span]:
        """The legs as they were seen, each until the next thing was seen."""
        ends = [at for at, *_ in self._seen[1:]] + [time.time()]
        return [
            Span("legs", leg[0].upper(), at, end) for (at, leg, _, _), end in zip(self._seen, ends) if leg is not None
        ]

    def _watch(self) -> None:
        while not self._over.wait(self.EVERY_SECONDS):
            try:
                standing = self._platform.status()
            except Exception:  # Before the spec exists, and when the function is busy: there is nothing to tell.
                continue
            leg, step = standing["leg"], standing["step"]
            version = max((each["version"] for each in standing["versions"]), default=None)
            if self._seen and self._seen[-1][1:] == (leg, step, version):
                continue
            self._seen.append((time.time(), leg, step, version))
            if leg:
                self.say(f"    version {version}  {leg:<9} {step.replace('_', ' ')}")
