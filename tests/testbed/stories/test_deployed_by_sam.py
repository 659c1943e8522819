"""The stack as a new user makes it: README's commands, with the SAM command line, in a checkout without a build.

In `make test` the function that SAM deploys is the testbed's, handed over where cargo-lambda would build it; `make verify` builds it.
Rules, schedules, inboxes and pipelines invoke the alias `live` of the testbed's own stack: their stories are not repeated here.
"""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from botocore.exceptions import ClientError

from testbed import another_stack, deployment, sample
from testbed.platform import PROJECT
from testbed.testbed import Testbed

# The tests follow each other in one account.
pytestmark = [pytest.mark.xdist_group("sam"), pytest.mark.slow]

STACK = "by-sam"
# The testbed's own stack has another, and README's token may be there too.
SPECS = deployment.paths(STACK)["Specs"]
TOKEN = f"{STACK}-token"
NOT_CHECKED_OUT = (".git", ".aws-sam", ".cache", "__pycache__", "samconfig.toml", "target")
# A release build of everything, on a computer that has not built it before.
BUILD_SECONDS = 1800
# Stands for cargo where it is asked for the function: what cargo-lambda would build lies there already.
PREPARED = """#!/bin/bash
set -euo pipefail
if [ "$1 $2" = "lambda build" ]; then
    mkdir -p "$CARGO_TARGET_DIR/lambda/rotator"
    exec cp {rotator} "$CARGO_TARGET_DIR/lambda/rotator/bootstrap"
fi
exec {cargo} "$@"
"""


class Checkout:
    """A copy of the project beside what its builds keep, and a shell in it whose account is the emulated one."""

    def __init__(self, testbed: Testbed, directory: Path) -> None:
        programs = directory / "bin"
        programs.mkdir()
        (programs / "changeover").symlink_to(testbed.command)
        if sample.is_everything():
            builds = Path(os.environ.get("CARGO_TARGET_DIR", PROJECT / "target")).absolute()
        else:
            builds = directory / "target"
            builds.mkdir()
            cargo = programs / "cargo"
            cargo.write_text(PREPARED.format(rotator=testbed.rotator, cargo=shutil.which("cargo")))
            cargo.chmod(0o755)
        # At the same place each time: cargo takes a package elsewhere for another one, and keeps both.
        self.directory = builds / "checkout"
        shutil.rmtree(self.directory, ignore_errors=True)
        shutil.copytree(PROJECT, self.directory, ignore=shutil.ignore_patterns(*NOT_CHECKED_OUT))
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "SAM_", "CHANGEOVER_"))},
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "CARGO_TARGET_DIR": str(builds),
            # The function as it is released takes three times as long to build; what is deployed of it is the same.
            "CARGO_PROFILE_RELEASE_CODEGEN_UNITS": "16",
            "CARGO_PROFILE_RELEASE_LTO": "off",
            "CARGO_PROFILE_RELEASE_OPT_LEVEL": "0",
            **testbed.aws.environment,
            "CHANGEOVER_FUNCTION": f"{STACK}-rotator:live",
        }
        if cache := os.environ.get("CHANGEOVER_CACHE"):
            self.environment["CHANGEOVER_CACHE"] = str(Path(cache).absolute())
        self.log = testbed.logs / "sam.log"

    def run(self, line: str, answers: str = "", seconds: float = 300) -> str:
        """Runs a line as it is pasted into a shell, and answers what it asks; what it wrote, which is kept in the logs too."""
        done = subprocess.run(
            ["bash", "-c", line], cwd=self.directory, env=self.environment, input=answers, timeout=seconds,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        with self.log.open("a") as file:
            file.write(f"$ {line}\n{done.stdout}")
        assert done.returncode == 0, f"{line}:\n{done.stdout[-4000:]}"
        return done.stdout


@pytest.fixture(scope="module")
def checkout(testbed_itself, tmp_path_factory) -> Checkout:
    return Checkout(testbed_itself, tmp_path_factory.mktemp("sam"))


@pytest.fixture(scope="module")
def testbed_itself() -> Testbed:
    return Testbed.from_environment()


@pytest.fixture(scope="module")
def testbed(testbed_itself, checkout) -> Testbed:
    """The testbed, whose function is the one that README's first command makes."""
    aws = testbed_itself.aws
    asked = {**deployment.parameters(aws), **deployment.paths(STACK)}
    prompts = yaml.load((PROJECT / "template.yaml").read_text(), Loader=yaml.BaseLoader)["Parameters"]
    assert asked.keys() <= prompts.keys()
    answers = [STACK, aws.region, *(asked.get(name, "") for name in prompts)]
    # Confirm changes? Let it make roles? Keep what failed? Remember the answers? Where, and as what?
    answers += ["n", "y", "n", "y", "", ""]
    checkout.run(f"{_commands()[0]} ARCHITECTURE=x86_64", "\n".join(answers) + "\n", BUILD_SECONDS)
    return another_stack.found(testbed_itself, STACK)


def readme_commands_deploy_and_rotate_token(testbed, checkout, tell):
    _, put_spec, publish, rotate = _commands()
    (checkout.directory / "spec.json").write_text(_spec())
    checkout.run(put_spec.replace("/changeover/tokens/datastore-token", f"{SPECS}/{TOKEN}"))
    checkout.run(publish.replace("datastore-token", TOKEN))
    said = checkout.run(rotate.replace("datastore-token", TOKEN))
    assert f"{TOKEN}: rotated, version 2" in said, said
    (standing,) = testbed.invoke({"action": "status", "token": TOKEN})["results"]
    assert [(each["version"], each["stage"]) for each in standing["versions"]] == [(2, "current"), (1, "previous")]
    tell(said.splitlines()[-1].strip())


def repeated_deployment_changes_nothing(testbed, checkout):
    before = testbed.boto3("lambda").get_alias(FunctionName=testbed.function, Name="live")["FunctionVersion"]
    assert "No changes to deploy" in checkout.run(_commands()[0], seconds=BUILD_SECONDS)
    assert testbed.boto3("lambda").get_alias(FunctionName=testbed.function, Name="live")["FunctionVersion"] == before


def stack_removal_keeps_records_and_keys(testbed, checkout):
    (remove,) = re.findall(r"`(make remove)`", (PROJECT / "infra" / "README.md").read_text())
    checkout.run(remove, "y\ny\ny\n")
    with pytest.raises(ClientError, match="ResourceNotFoundException"):
        testbed.invoke({"action": "status"})
    record = {"pk": {"S": f"token#{TOKEN}"}, "sk": {"S": "record"}}
    assert "Item" in testbed.boto3("dynamodb").get_item(TableName=testbed.table, Key=record)
    for key in (testbed.key, testbed.publication_key):
        assert testbed.boto3("kms").describe_key(KeyId=key)["KeyMetadata"]["KeyState"] == "Enabled"


def _commands() -> list[str]:
    """README's way from an empty account to a rotation."""
    return _deploy_page().split("```sh\n")[1].split("```")[0].splitlines()


def _spec() -> str:
    spec = _deploy_page().split("```json\n")[1].split("```")[0]
    return json.dumps(json.loads(spec)).replace("datastore-token", TOKEN)


def _deploy_page() -> str:
    return (PROJECT / "README.md").read_text().split("\n## Deploy\n")[1].split("\n## ")[0]
