"""The action of infra/github-action as a workflow uses it: its steps are run as GitHub's runner runs them."""

import re
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from testbed import command, github_actions
from testbed.aws import ACCOUNT
from testbed.github_actions import EXPRESSION, Job
from testbed.platform import PROJECT
from testbed.small_platform import SmallPlatform

ACTION = PROJECT / "infra" / "github-action"


class Workflow:
    """A job whose credentials are those that the step before took on: of a role that may do what README tells to allow."""

    def __init__(self, testbed, directory: Path) -> None:
        self.testbed = testbed
        self.arguments = directory / "arguments"
        self.directory = directory
        region = testbed.aws.region
        readable = [
            {"Effect": "Allow", "Action": "ssm:GetParameter", "Resource": f"arn:aws:ssm:{region}:{ACCOUNT}:parameter/coilysiren/*"},
            {"Effect": "Allow", "Action": "kms:Decrypt", "Resource": testbed.publication_key},
        ]
        role = command.deployer(testbed, *readable)
        session = testbed.boto3("sts").assume_role(RoleArn=role, RoleSessionName="workflow")["Credentials"]
        self.command = directory / "bin" / "changeover"
        self.environment = {
            "HOME": str(directory),
            "PATH": github_actions.path_with(
                directory / "bin", self.arguments,
                changeover=testbed.command, aws=shutil.which("aws"), python3=sys.executable,
            ),
            "AWS_ENDPOINT_URL": testbed.aws.endpoint,
        }
        self.role = {
            "AWS_ACCESS_KEY_ID": session["AccessKeyId"],
            "AWS_SECRET_ACCESS_KEY": session["SecretAccessKey"],
            "AWS_SESSION_TOKEN": session["SessionToken"],
        }

    def run(self, run_id: int = 7219, **inputs: str):
        """One attempt of the run, as the role: by the action, or by the job before it. What it wrote is kept in the logs but for
        commands to mask: no token may be found there."""
        before = {} if "role_to_assume" in inputs else self.role
        job = Job(ACTION, self.directory / "job", self.environment | before, run_id, self.role)
        inputs = {"function": self.testbed.function, "region": self.testbed.aws.region, "command": str(self.command)} | inputs
        ran = job.uses(**inputs)
        with (self.testbed.logs / "github-action.log").open("a") as file:
            file.write(ran.log + ran.summary)
        return ran


@pytest.fixture(scope="module")
def workflow(testbed, tmp_path_factory) -> Workflow:
    return Workflow(testbed, tmp_path_factory.mktemp("workflow"))


def workflow_rotates_and_outputs_masked_token(testbed, workflow, tell):
    with SmallPlatform(testbed, "workflow") as platform:
        platform.create()
        ran = workflow.run(token=platform.token, read_value="true", role_to_assume="arn:aws:iam::000000000000:role/r")
        assert ran.code == 0, ran
        # "unchanged" where the sweep was the one that ended it.
        assert ran.outputs["outcome"] in ("rotated", "unchanged") and ran.outputs["version"] == "2", ran.outputs
        (selector,) = ran.outputs["selectors"].split(" ")
        assert re.fullmatch(rf"{platform.token_parameter}:\d+", selector)
        ((_, given),) = ran.used
        assert given["role-to-assume"] == "arn:aws:iam::000000000000:role/r" and given["aws-region"] == testbed.aws.region
        # Steps after it are who they were, and where.
        assert not ran.environment.keys() & {*workflow.role, "AWS_REGION", "AWS_DEFAULT_REGION"}, ran.environment.keys()
        tell(ran.log.splitlines()[-1])

        # The value is what presenters send, was masked before anything could show it, and is in no argument.
        value = testbed.boto3("ssm").get_parameter(Name=selector, WithDecryption=True)["Parameter"]["Value"]
        assert ran.outputs["value"] == value
        assert ran.masks == [value] and ran.raw.count(value) == 1 and f"::add-mask::{value}" in ran.raw
        assert value not in ran.log and value not in ran.summary
        arguments = workflow.arguments.read_text()
        assert value not in arguments and "ssm get-parameter" in arguments

        for words in (selector, "expand publish", "migrate roll_out"):
            assert words in ran.summary, ran.summary

        # An attempt that is run again joins; another run rotates once more; nobody reads what nobody asked for.
        again = workflow.run(token=platform.token)
        assert (again.outputs["outcome"], again.outputs["version"], again.outputs["value"]) == ("unchanged", "2", ""), again
        assert again.used == [] and again.masks == []
        other = workflow.run(token=platform.token, run_id=7220, follow="false", timeout="5m")
        assert (other.code, other.outputs["version"]) == (0, "3"), other
        platform.wait_under_load()
        assert platform.load.failed == [], platform.load.failures()


def held_rotation_fails_job_with_reason(testbed, workflow, tell):
    with SmallPlatform(testbed, "workflow-held") as platform:
        switch = testbed.directory / "workflow-held"
        platform.create()
        platform.apply(platform.datastore(CRASH_IF_EXISTS=str(switch)))
        platform.wait_available("datastore")
        switch.touch()
        ran = workflow.run(token=platform.token, read_value="true")
        assert (ran.code, ran.outputs["outcome"], ran.outputs["value"]) == (3, "held", ""), ran
        (error,) = ran.errors
        assert "it is held" in error and "CrashLoopBackOff" in error and "CrashLoopBackOff" in ran.summary
        tell(error)

        # Mended, the job that is run again goes on with the same version.
        platform.apply(platform.datastore())
        platform.wait_available("datastore")
        ran = workflow.run(token=platform.token)
        assert (ran.code, ran.outputs["version"]) == (0, "2"), ran
        platform.wait_under_load()
        assert platform.load.failed == [], platform.load.failures()


def job_timeout_is_distinguished_from_failure(testbed, workflow):
    with SmallPlatform(testbed, "workflow-late") as platform:
        platform.create(START_SECONDS="4")
        ran = workflow.run(token=platform.token, timeout="2s")
        assert (ran.code, ran.outputs["outcome"]) == (4, "in_progress"), ran
        assert "still in progress" in ran.errors[0]
        assert workflow.run(token=platform.token).outputs["version"] == "2"
        platform.wait_under_load()
        assert platform.load.failed == [], platform.load.failures()

    ran = workflow.run(token="unknown")
    assert (ran.code, ran.outputs["outcome"]) == (1, ""), ran
    assert "UnknownToken: could not find the spec of unknown" in ran.errors[0] and "UnknownToken" in ran.summary


def inputs_are_neither_executed_nor_parsed_as_options(workflow, tmp_path):
    pwned = tmp_path / "pwned"
    for text in (f'x"; touch {pwned}; "', f"$(touch {pwned})", f"`touch {pwned}`", "--help", "-V", f"a\n::error::{pwned}"):
        for inputs in ({"token": text}, {"token": "unknown", "key": text}, {"token": "unknown", "timeout": text}, {"token": "unknown", "follow": text}):
            ran = workflow.run(**inputs)
            assert ran.code in (1, 2), (inputs, ran)
            assert not pwned.exists() and ran.outputs["outcome"] == "", (inputs, ran)
            assert all(error.startswith("::error title=changeover") for error in ran.errors), ran.errors


def command_is_built_from_action_checkout(workflow, tmp_path):
    # Not for real: that takes minutes. Its arguments are those of a project and a program that exist.
    cargo = tmp_path / "cargo"
    cargo.write_text('#!/bin/bash\ntest -f "$5/Cargo.toml" && grep -qx "name = \\"$7\\"" "$5/Cargo.toml" || exit 9\n'
                     'mkdir -p "$9/bin" && cp "$COMMAND_TO_COPY" "$9/bin/$7"\n')
    cargo.chmod(0o755)
    environment = workflow.environment | workflow.role | {"PATH": f"{tmp_path}:{workflow.environment['PATH']}", "COMMAND_TO_COPY": str(workflow.command)}
    ran = Job(ACTION, tmp_path / "job", environment).uses(
        token="unknown", function=workflow.testbed.function, region=workflow.testbed.aws.region
    )
    assert ran.code == 1 and "UnknownToken" in ran.errors[0], ran


def scripts_interpolate_nothing_and_actions_are_pinned():
    for name in ("action.yml", "example-workflow.yml"):
        text = (ACTION / name).read_text()
        document = yaml.safe_load(text)
        steps = document["runs"]["steps"] if "runs" in document else document["jobs"]["deploy"]["steps"]
        for step in steps:
            assert not EXPRESSION.search(step.get("run", "")), step
            uses = step.get("uses", "./")
            assert uses.startswith("./") or re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", uses), uses


def readme_describes_each_input_and_output():
    section = (PROJECT / "README.md").read_text().split("\n## From GitHub Actions\n")[1].split("\n## ")[0]
    action = yaml.safe_load((ACTION / "action.yml").read_text())
    for name in [*action["inputs"], *action["outputs"]]:
        assert f"`{name}`" in section, name
    # What it shows is what the example is.
    example = (ACTION / "example-workflow.yml").read_text()
    shown = yaml.safe_load(section.split("```yaml\n")[1].split("```")[0])
    steps = {step.get("id"): step for step in yaml.safe_load(example)["jobs"]["deploy"]["steps"]}
    assert shown["steps"][1]["uses"] == steps["rotate"]["uses"]
    assert shown["steps"][1]["with"].items() <= steps["rotate"]["with"].items()
