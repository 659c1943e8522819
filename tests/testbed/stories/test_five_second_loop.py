"""A new token every five seconds, with an overlap twice as long, for readers that are never restarted."""

import time

from testbed import sample
from testbed.dynamic_service import DynamicService

PERIOD_SECONDS = 5
# Four rotations, so that three overlap; a dozen where everything is tried.
LOOP_SECONDS = 60 if sample.is_everything() else 20


def rotation_every_five_seconds_fails_no_request(testbed, tell):
    with DynamicService(testbed, "five-seconds") as service:
        assert service.create(service.spec(overlap="10s"))["outcome"] == "published"
        began = time.monotonic()
        due, version = began, 1
        took = []
        while due < began + LOOP_SECONDS:
            time.sleep(max(0, due - time.monotonic()))
            started = time.monotonic()
            answer = service.invoke("rotate")
            took.append(time.monotonic() - started)
            version += 1
            assert (answer["outcome"], answer["version"]) == ("rotated", version)
            # The rhythm of a schedule, which does not hurry to make up for lost time.
            due += PERIOD_SECONDS * max(1, -(-int((time.monotonic() - due) * 1000) // (PERIOD_SECONDS * 1000)))

        standing = service.sweep_until_nothing_is_owed()
        assert [(each["version"], each["stage"]) for each in standing["versions"]] == [(version, "current")]
        service.wait_under_load()
        tell(f"{version - 1} rotations, {sum(took) / len(took):.1f} s each; {service.load.summary()}")
        assert service.load.failed == [], service.load.failures()
        assert list(service.load.by_version()) == list(range(1, version + 1))
