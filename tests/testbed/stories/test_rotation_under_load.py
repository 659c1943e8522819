"""The promise itself: verifier and presenter restart for a new token, and nobody notices."""

import time

from testbed.small_platform import SmallPlatform

EVERY_STEP = [
    (leg, step) for leg in ("expand", "migrate") for step in ("publish", "sync", "roll_out")
] + [("overlap", "publish")]


def no_request_fails_while_both_sides_restart(testbed, tell):
    with SmallPlatform(testbed, "under-load") as platform:
        published = platform.create(spec=platform.spec(overlap="10s"))
        assert (published["outcome"], published["version"]) == ("published", 1)

        for version in (2, 3):
            answer = platform.invoke("rotate")
            answered = time.time()
            assert (answer["outcome"], answer["version"]) == ("rotated", version)
            assert [(entry["leg"], entry["step"]) for entry in answer["timeline"]][-7:] == EVERY_STEP
            platform.load.wait_until(lambda new: len(new) > 200, 30, "requests after the rotation")
            # Answered means proved: from here on nobody presents an older version.
            late = [each for each in platform.load.requests if each.at > answered and (each.version or version) < version]
            assert late == []

        standing = platform.sweep_until_nothing_is_owed()
        assert [(each["version"], each["stage"]) for each in standing["versions"]] == [(3, "current")]
        platform.wait_under_load()
        tell(platform.load.summary())
        assert platform.load.failed == [], platform.load.failures()
        assert list(platform.load.by_version()) == [1, 2, 3]


def old_token_is_accepted_only_until_its_end(testbed, tell):
    with SmallPlatform(testbed, "overlap-ends") as platform:
        platform.create(spec=platform.spec(overlap="20s"))
        parameters = testbed.boto3("ssm")

        def presented() -> str:
            return parameters.get_parameter(Name=platform.token_parameter, WithDecryption=True)["Parameter"]["Value"]

        old = presented()
        answer = platform.invoke("rotate")
        verdicts = platform.verdicts(old)
        assert set(verdicts.values()) == {200} and verdicts, "within the overlap"

        platform.sweep_until_nothing_is_owed()
        assert answer["previous_valid_until"] < time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        verdicts = platform.verdicts(old)
        assert set(verdicts.values()) == {401} and verdicts, "after its end"
        verdicts = platform.verdicts(presented())
        assert set(verdicts.values()) == {200} and verdicts, "the new token"
        platform.load.read()
        tell(platform.load.summary())
        assert platform.load.failed == [], platform.load.failures()
