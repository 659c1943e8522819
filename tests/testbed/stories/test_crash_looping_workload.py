"""A workload does not come up on the new token: the rotation holds, nobody is cut off, and the repair is all it takes."""

import pytest

from testbed.small_platform import SmallPlatform


@pytest.mark.parametrize("broken", ["datastore", "backend"])
def crash_looping_workload_holds_rotation_until_repaired(testbed, tell, broken):
    with SmallPlatform(testbed, f"broken-{broken}") as platform:
        switch = testbed.directory / f"broken-{broken}"
        platform.create(spec=platform.spec(rollout_timeout="2m"))
        settings = {"CRASH_IF_EXISTS": str(switch)}
        platform.apply(platform.datastore(**settings) if broken == "datastore" else platform.backend(**settings))
        platform.wait_available(broken)

        switch.touch()
        answer = platform.invoke("rotate")
        assert (answer["outcome"], answer["version"]) == ("held", 2)
        held = answer["held"]
        assert broken in held["object"] and platform.name in held["object"]
        assert "CrashLoopBackOff" in held["reason"]
        assert held["fix"]
        tell(f"held: {held['object']}: {held['reason']}; {held['fix']}")

        # Nothing is withdrawn: whatever a presenter may have got hold of is accepted by every verifier.
        platform.load.wait_until(lambda new: len(new) > 200, 30, "requests while the rotation is held")
        tokens = _presented(platform)
        assert len(tokens) == (1 if broken == "datastore" else 2)
        for token in tokens:
            verdicts = platform.verdicts(token)
            assert set(verdicts.values()) == {200} and verdicts
        standing = platform.status()
        assert [(each["version"], each["stage"]) for each in standing["versions"]] == [(2, "pending"), (1, "current")]
        assert all(each["not_after"] is None for each in standing["versions"])
        untouched = "backend" if broken == "datastore" else "datastore"
        assert all(_restarts(pod) == 0 for pod in platform.pods(untouched))

        # A build that is no longer broken, and the next run: the same version, not a third value.
        platform.apply(platform.datastore() if broken == "datastore" else platform.backend())
        platform.wait_available(broken)
        answer = platform.rotate("again")
        assert (answer["outcome"], answer["version"]) in (("rotated", 2), ("unchanged", 2))
        assert len(_presented(platform)) == 2

        platform.sweep_until_nothing_is_owed()
        platform.wait_under_load()
        tell(platform.load.summary())
        assert platform.load.failed == [], platform.load.failures()
        assert list(platform.load.by_version()) == [1, 2]


def _presented(platform: SmallPlatform) -> list[str]:
    """Every token that presenters could have read so far."""
    pages = platform.testbed.boto3("ssm").get_paginator("get_parameter_history")
    history = pages.paginate(Name=platform.token_parameter, WithDecryption=True)
    return list(dict.fromkeys(each["Value"] for page in history for each in page["Parameters"]))


def _restarts(pod: dict) -> int:
    return sum(container["restartCount"] for container in pod["status"]["containerStatuses"])
