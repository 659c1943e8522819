"""External Secrets takes its time, or is down: the rotation waits, says for what, and goes on by itself."""

import time
from concurrent.futures import ThreadPoolExecutor

from testbed import platform as platforms
from testbed.other_operator import CopiedPlatform, OtherOperator

QUEUED = 300


def rotation_waits_for_busy_or_stopped_operator(testbed, tell):
    with CopiedPlatform(testbed, "other-operator") as platform, ThreadPoolExecutor() as executor:
        platform.create_namespace()
        with OtherOperator(testbed, platform.name) as operator:
            platform.create(operator)

            # Busy: it takes one at a time, and hundreds of others come before ours.
            operator.pause()
            platform.apply(*(platform.other(f"queued-{number:03}") for number in range(QUEUED)))
            forced_before = platform.copy()["metadata"].get("annotations", {}).get("force-sync")
            rotation = executor.submit(platform.invoke, "rotate", key="busy")
            while platform.copy()["metadata"].get("annotations", {}).get("force-sync") == forced_before:
                assert not rotation.done(), rotation.result()
                time.sleep(0.1)
            assert platform.unsynced() == QUEUED
            operator.resume()
            answer = rotation.result()
            assert (answer["outcome"], answer["version"]) == ("rotated", 2)
            assert not any("meanwhile" in warning for warning in answer["warnings"]), "nothing was repeated"
            (sync,) = (each for each in answer["timeline"] if (each["leg"], each["step"]) == ("migrate", "sync"))
            tell(f"behind {QUEUED} others, {platform.unsynced()} of them left, the sync took {sync['took_ms'] / 1000:.1f} s")

            # Those that came after ours are not to be waited for once more.
            platforms.wait_until(lambda: platform.unsynced() == 0, 120, "the operator has nothing left to do")

            # Down: under way until its time is up, then held, and told what does not come. Ready=True stands there all along.
            operator.pause()
            platform.put_spec(platform.spec("6s"))
            before = platform.copy()["status"]
            assert platform.invoke("rotate", key="down", wait="3s")["outcome"] == "in_progress"
            held = platform.rotate_until_held("down", 60)
            tell(f"held: {held['object']}: {held['reason']}")
            assert "ExternalSecret token has not synced since its refresh was requested" in held["reason"]
            assert platform.copy()["status"] == before and before["conditions"][0]["status"] == "True"

            # Back: once it has caught up the next run finds it so, and it is the same version that goes on.
            operator.resume()

            def gone_on() -> dict | None:
                answer = platform.rotate("down")
                return answer if answer["outcome"] != "held" else None

            answer = platforms.wait_until(gone_on, 120, "the rotation goes on", every=1)
            assert (answer["outcome"], answer["version"]) in (("rotated", 3), ("unchanged", 3))
            assert platform.current_version() == 3
