"""The command `changeover` as a deploy step and a person use it: by a role that may only invoke the function."""

import re
import shutil
import subprocess
from xml.etree import ElementTree

import pytest

from testbed.command import Command
from testbed.small_platform import SmallPlatform

STEP = re.compile(r"^\S+Z  (\w+) +(publish|sync|roll out) +\d+", re.MULTILINE)
LEGS = [(leg, step) for leg in ("expand", "migrate") for step in ("publish", "sync", "roll out")]


@pytest.fixture(scope="module")
def changeover(testbed, tmp_path_factory) -> Command:
    return Command(testbed, tmp_path_factory.mktemp("command"))


def deploy_step_follows_rotation_to_completion(testbed, changeover, tell):
    with SmallPlatform(testbed, "command") as platform:
        platform.create(spec=platform.spec(overlap="10s"))
        looked = changeover("preflight", platform.token)
        assert looked.code == 0 and looked.out.startswith((f"{platform.token}: passed", f"{platform.token}: warned")), looked

        # A log: one line a step, in order, and what came of it.
        ran = changeover("rotate", platform.token, "--follow", "--key", "release-1")
        assert ran.code == 0, ran
        assert STEP.findall(ran.log)[:6] == LEGS
        assert f"{platform.token}: rotated, version 2" in ran.out
        assert "previous until" in ran.out
        tell(ran.log.splitlines()[-1])

        # The same key again: the same rotation.
        again = changeover("--json", "rotate", platform.token, "--follow", "--key", "release-1")
        assert (again.code, again.json()["outcome"], again.json()["version"]) == (0, "unchanged", 2)

        shown = changeover("status", platform.token)
        assert shown.code == 0
        assert re.search(r"version +2 current, since .* ago\)", shown.out), shown.out
        assert re.search(r"version +1 previous, .*, until .* \(in \d+s\)", shown.out), shown.out
        assert platform.token_parameter in shown.out and platform.accepted_parameter in shown.out
        drawn = changeover("timeline", platform.token, "--output", "-")
        assert drawn.code == 0, drawn
        told = {title.text for title in ElementTree.fromstring(drawn.out).iter("{http://www.w3.org/2000/svg}title")}
        assert f"{platform.token}: version 2" in told
        assert all(any(each.startswith(f"{leg} {step}: ") for each in told) for leg, step in LEGS), told
        token = testbed.boto3("ssm").get_parameter(Name=platform.token_parameter, WithDecryption=True)
        assert token["Parameter"]["Value"] not in drawn.out
        answer = changeover("status", "--json").json()
        assert platform.token in [each["token"] for each in answer["results"]]

        # A terminal: the same steps above a line that moves, and without one when it is through.
        platform.sweep_until_nothing_is_owed()
        ran = changeover.on_a_terminal("rotate", platform.token, "--follow")
        assert ran.code == 0, ran
        assert "waiting for" in ran.out and "\x1b[" in ran.out
        assert f"{platform.token}: rotated, version 3" in ran.out

        # It is about other stories' tokens, too: one of them may have lost its spec.
        ran = changeover("--json", "sweep")
        results = ran.json()["results"]
        assert (ran.code == 1) == any("error" in each for each in results), ran
        assert not any("error" in each for each in results if each["token"] == platform.token), ran
        platform.sweep_until_nothing_is_owed()
        platform.wait_under_load()
        tell(platform.load.summary())
        assert platform.load.failed == [], platform.load.failures()


def deploy_step_exits_with_three_if_workload_crashes(testbed, changeover, tell):
    with SmallPlatform(testbed, "command-held") as platform:
        switch = testbed.directory / "command-held"
        platform.create()
        platform.apply(platform.datastore(CRASH_IF_EXISTS=str(switch)))
        platform.wait_available("datastore")
        switch.touch()

        ran = changeover("rotate", platform.token, "--follow")
        assert ran.code == 3, ran
        assert "CrashLoopBackOff" in ran.out and re.search(r"^ +fix +\S", ran.out, re.MULTILINE)
        tell(" ".join(ran.out.split()))
        shown = changeover("status", platform.token)
        assert (shown.code, "CrashLoopBackOff" in shown.out) == (0, True), shown

        # Mended, the same command and the key that it named go on with what is there.
        key = re.search(r"--key (\S+)", ran.log)[1]
        platform.apply(platform.datastore())
        platform.wait_available("datastore")
        ran = changeover("rotate", platform.token, "--follow", "--key", key)
        assert (ran.code, platform.current_version()) == (0, 2), ran
        platform.wait_under_load()
        assert platform.load.failed == [], platform.load.failures()


def time_limit_ends_wait_but_not_rotation(testbed, changeover):
    with SmallPlatform(testbed, "command-late") as platform:
        platform.create(START_SECONDS="4")
        ran = changeover("--json", "rotate", platform.token, "--follow", "--timeout", "2s", "--key", "late")
        assert (ran.code, ran.json()["outcome"]) == (4, "in_progress"), ran
        assert changeover("rotate", platform.token, "--wait", "0s", "--key", "late").code == 4
        ran = changeover("rotate", platform.token, "--follow", "--key", "late")
        assert (ran.code, platform.current_version()) == (0, 2), ran
        platform.wait_under_load()
        assert platform.load.failed == [], platform.load.failures()


def failure_exits_with_one_and_misuse_with_two(testbed, changeover):
    for arguments in (["rotate"], ["rotate", "No_Name"], ["rotate", "a", "--wait", "soon"], ["revolve"], []):
        ran = changeover(*arguments)
        assert (ran.code, ran.out, "--help" in ran.log) == (2, "", True), ran

    for arguments in (["rotate", "unknown", "--follow"], ["preflight", "unknown"], ["status", "unknown"]):
        ran = changeover(*arguments)
        assert (ran.code, ran.out) == (1, ""), ran
        assert "UnknownToken: could not find the spec of unknown" in ran.log
    error = changeover("--json", "publish", "unknown")
    assert (error.code, error.json()["errorType"]) == (1, "UnknownToken")

    ran = changeover("--function", "another", "sweep")
    assert (ran.code, ran.out) == (1, ""), ran
    ran = changeover("sweep", AWS_PROFILE="", AWS_REGION=testbed.aws.region, AWS_EC2_METADATA_DISABLED="true")
    assert (ran.code, ran.out) == (1, ""), ran
    assert "credentials" in ran.log or "--profile" in ran.log
    # A profile that is named is used, whatever credentials the environment holds.
    useless = {"AWS_ACCESS_KEY_ID": "AKIAUSELESS", "AWS_SECRET_ACCESS_KEY": "useless"}
    assert changeover("--profile", "people", "status", **useless).code == 0


def refused_preflight_is_shown_as_table(testbed, changeover):
    with SmallPlatform(testbed, "command-refused") as platform:
        platform.create()
        platform.testbed.kubectl("rollout", "pause", "deployment/backend", f"--namespace={platform.name}")
        ran = changeover("preflight", platform.token)
        assert ran.code == 1, ran
        assert f"{platform.token}: refused" in ran.out and "severity" in ran.out and "paused" in ran.out
        on_terminal = changeover.on_a_terminal("preflight", platform.token)
        assert on_terminal.code == 1 and "paused" in on_terminal.out
        assert changeover("rotate", platform.token).code == 1


def completions_and_manual_are_written(changeover, tmp_path):
    script = changeover("completions", "bash")
    assert script.code == 0
    subprocess.run(["bash", "-n"], input=script.out, text=True, check=True)
    assert "--follow" in script.out

    assert changeover("man").out.count(".TH changeover 1") == 1
    assert changeover("man", str(tmp_path)).code == 0
    assert {"changeover.1", "changeover-rotate.1", "changeover-status.1"} <= {page.name for page in tmp_path.iterdir()}
    if groff := shutil.which("groff"):
        page = tmp_path / "changeover-rotate.1"
        subprocess.run([groff, "-man", "-Tutf8", "-ww", str(page)], check=True, stdout=subprocess.DEVNULL)
