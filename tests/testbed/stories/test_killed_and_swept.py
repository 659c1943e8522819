"""The function is killed in the middle, again and again; the sweep brings every rotation to the end that it would have had."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from pathlib import Path

from testbed import platform as platforms
from testbed.small_platform import SmallPlatform

# After the kill the lease has to run out before somebody else may go on; the rest is the rotation.
RESUMED_SECONDS = 120


def a_killed_rotation_is_carried_on_by_the_sweep_to_the_same_end(testbed, tell):
    with SmallPlatform(testbed, "killed") as platform, ThreadPoolExecutor() as executor:
        platform.create()
        # Told by their effect outside, so that nothing but the order of the protocol is taken for granted.
        moments = {
            "the accepted set is published": _parameter(platform, platform.accepted_parameter, changes=1),
            "the datastore restarts": _generation(platform, "datastore", changes=1),
            "the token is published": _parameter(platform, platform.token_parameter, changes=1),
            "the backend restarts": _generation(platform, "backend", changes=1),
            "the end of the old token is published": _parameter(platform, platform.accepted_parameter, changes=2),
        }
        for version, (moment, begin) in enumerate(moments.items(), start=2):
            # A killed call may still land: until it no longer can, the next rotation would be deferred.
            platforms.wait_until(
                lambda: (platform.status()["unanswered_until"] or "") < _now(), RESUMED_SECONDS, "no call may still land"
            )
            reached = begin()
            rotation = executor.submit(platform.invoke, "rotate", key=moment)
            platforms.wait_until(lambda: reached() or rotation.done(), 60, moment, every=0.01)
            killed = _kill_functions(testbed)
            died = rotation.exception(timeout=60) is not None
            # Only after its last publication may it have been quicker than the kill.
            assert died or moment == list(moments)[-1], f"nothing was in the middle when {moment}"

            # It goes on with the version that it had, and never mints another one in its place.
            standing = platform.sweep_until(
                lambda standing: standing["rotation"] is None
                and any((each["version"], each["stage"]) == (version, "current") for each in standing["versions"]),
                RESUMED_SECONDS,
                f"version {version} is current",
            )
            assert max(each["version"] for each in standing["versions"]) == version
            again = platform.rotate(moment)
            assert again["outcome"] in ("unchanged", "rotated") and again["version"] == version
            platform.load.read()
            tell(f"{killed} killed when {moment}: {platform.load.summary()}")
            assert platform.load.failed == [], platform.load.failures()

        standing = platform.sweep_until_nothing_is_owed()
        assert [each["version"] for each in standing["versions"]] == [1 + len(moments)]
        platform.wait_under_load()
        tell(platform.load.summary())
        assert platform.load.failed == [], platform.load.failures()


def _parameter(platform: SmallPlatform, name: str, changes: int):
    """A moment: the parameter has been written so many times since."""
    parameters = platform.testbed.boto3("ssm")

    def begin():
        before = parameters.get_parameter(Name=name)["Parameter"]["Version"]
        return lambda: parameters.get_parameter(Name=name)["Parameter"]["Version"] >= before + changes

    return begin


def _generation(platform: SmallPlatform, deployment: str, changes: int):
    """A moment: the Deployment's spec has been changed so many times since."""

    def generation() -> int:
        namespace, output = f"--namespace={platform.name}", "--output=jsonpath={.metadata.generation}"
        return int(platform.testbed.kubectl("get", "deployment", deployment, namespace, output))

    def begin():
        before = generation()
        return lambda: generation() >= before + changes

    return begin


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")


def _kill_functions(testbed) -> int:
    """Kills every process of the function with SIGKILL; returns how many there were."""
    killed = 0
    for entry in Path("/proc").iterdir():
        try:
            program = Path(os.readlink(entry / "exe"))
        except (OSError, ValueError):
            continue
        if program.name == "rotator" and program.is_relative_to(testbed.directory):
            os.kill(int(entry.name), signal.SIGKILL)
            killed += 1
    return killed
