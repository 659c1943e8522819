"""Both demos: three rotations under load, without a failed request, and the picture of the last one."""

import contextlib
import os
import re
import subprocess
import xml.etree.ElementTree
from pathlib import Path

from testbed import demo
from testbed.platform import PROJECT
from testbed.small_platform import SmallPlatform

CLOSING_LINE = re.compile(r"demo: rotations=(\d+) requests=(\d+) failed=(\d+) seconds=\d+")
DEMO_SECONDS = 300


def demo_on_lone_account_fails_no_request(testbed, tmp_path, tell):
    picture = tmp_path / "demo.svg"
    command = [PROJECT / "tests" / "testbed" / "run", "demo", "--picture", picture]
    command += ["--rotator", testbed.rotator, "--command", testbed.command]
    # Each process that it starts works below its temporary directory.
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    ran = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=DEMO_SECONDS
    )

    assert ran.returncode == 0, ran.stdout
    tell(_ended_well(ran.stdout))
    _is_drawn(picture)
    assert [each.name for each in tmp_path.iterdir()] == [picture.name]
    assert _processes_that_know(tmp_path) == []


def demo_in_cluster_fails_no_request(testbed, tmp_path, capsys, tell):
    picture = tmp_path / "demo.svg"
    with SmallPlatform(testbed, "demo") as platform:
        code = demo.main(platform, picture)
    said = capsys.readouterr().out
    assert code == 0, said
    tell(_ended_well(said))
    _is_drawn(picture)


def _ended_well(said: str) -> str:
    """The closing line, which is the last one, after three rotations under load without a failed request."""
    closing_line = said.splitlines()[-1]
    counts = CLOSING_LINE.fullmatch(closing_line)
    assert counts, said
    rotations, requests, failed = map(int, counts.groups())
    assert (rotations, failed) == (demo.ROTATIONS, 0) and requests > 0, said
    return closing_line


def _processes_that_know(directory: Path) -> list[str]:
    """The processes whose environment names the directory."""
    found = []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if str(directory).encode() in environment.read_bytes():
                found.append(environment.parent.name)
    return found


def _is_drawn(picture: Path) -> None:
    assert xml.etree.ElementTree.parse(picture).getroot().tag == "{http://www.w3.org/2000/svg}svg"
