"""Every file of events/, sent by the commands that the README shows, word for word."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Container
from pathlib import Path

import pytest

from testbed import command, platform, processes, sample
from testbed.code_pipeline import CodePipeline
from testbed.lone_account import LoneAccount, LoneToken
from testbed.platform import PROJECT, Platform
from testbed.testbed import Testbed

EVENTS = {file.stem: json.loads(file.read_text()) for file in sorted((PROJECT / "events").glob("*.json"))}
TOKEN = "datastore-token"
JOB = EVENTS["codepipeline"]["CodePipeline.job"]["id"]
# What each comes to for a token that is new, in an order in which each of them makes sense.
OUTCOMES = {
    "preflight": ["passed", "warned"],
    "publish": ["published"],
    "status": ["reported"],
    "status-all": ["reported"],
    "rotate": ["rotated"],
    "rotate-with-key": ["rotated"],
    "rotate-fresh": ["rotated"],
    "publish-adopt": ["published"],
    "scheduler": ["rotated"],
    "eventbridge-rule": ["rotated"],
    "drop": ["nothing_owed"],
    "sweep": ["swept"],
    "sweep-one": ["swept"],
}
# What each comes to once the spec is deleted: one is refused before.
WITHOUT_A_SPEC = {"forget": ["forgotten"]}
# What nobody sends by the command: services do.
BY_SERVICES = {"codepipeline", "import"}


@pytest.fixture
def testbed() -> Testbed:
    """The testbed with its own stack, which is the one that README's commands name."""
    return Testbed.from_environment()


def aws_cli_and_command_send_each_event(testbed, tmp_path, tell):
    (invoke,) = _shown("aws lambda invoke")
    # The CLI takes seconds to start: it sends some, and the others arrive as the same bytes.
    by_the_cli = sample.drawn(list(OUTCOMES), one_in=4)
    (tmp_path / "events").symlink_to(PROJECT / "events")
    environment = _deployer(testbed, tmp_path)
    token = Platform(testbed, "by-hand", TOKEN)
    token.put_spec(_spec())

    def sent(event: str) -> dict:
        if event not in by_the_cli:
            return platform.ask(testbed, EVENTS[event])
        said = _run(invoke.replace("events/rotate.json", f"events/{event}.json"), environment, tmp_path)
        assert json.loads(said)["StatusCode"] == 200, said
        assert "FunctionError" not in said, (tmp_path / "answer.json").read_text()
        return json.loads((tmp_path / "answer.json").read_text())

    for event, outcomes in OUTCOMES.items():
        answer = sent(event)
        assert answer["outcome"] in outcomes, (event, answer)
    version = token.current_version()
    assert version == 6, "each of five events rotated once"
    assert sent("rotate-with-key")["outcome"] == "unchanged"

    # The same by the command: what has a key is known already, what has none has one of its own.
    commands = _commands()
    assert commands.keys() == EVENTS.keys() - BY_SERVICES == OUTCOMES.keys() | WITHOUT_A_SPEC.keys()
    for event in OUTCOMES:
        # A sweep ends as the worst of its tokens, and those of other stories may be left without a spec.
        codes = range(5) if event == "sweep" else (0,)
        said = _run(commands[event], environment, tmp_path, codes=codes)
        tell(f"{commands[event]}: {said.splitlines()[0]}")
    assert token.current_version() == version + 2

    # The CLI ends well when the function failed.
    testbed.boto3("ssm").delete_parameter(Name=f"{testbed.specs}/{TOKEN}")
    said = _run(invoke, environment, tmp_path)
    assert json.loads(said)["FunctionError"] == "Unhandled"
    assert json.loads((tmp_path / "answer.json").read_text())["errorType"] == "UnknownToken"
    for event, outcomes in WITHOUT_A_SPEC.items():

        def answered(event: str = event) -> dict | None:
            """The sweep may be writing at this moment."""
            answer = sent(event)
            return answer if answer["outcome"] != "deferred" else None

        answer = platform.wait_until(answered, 60, f"{event} is answered")
        assert answer["outcome"] in outcomes, (event, answer)
        said = _run(commands[event], environment, tmp_path)
        tell(f"{commands[event]}: {said.splitlines()[0]}")


@pytest.mark.verify
def function_runs_locally_under_cargo_lambda(testbed, tmp_path, tell):
    (watch,), (invoke,) = _shown("cargo lambda watch"), _shown("cargo lambda invoke")
    account = LoneAccount(testbed)
    token = LoneToken(account, TOKEN)
    token.put_spec()
    port = processes.free_port()
    with CodePipeline(lambda event: None) as pipeline:
        pipeline.wait_for(JOB)
        variables = account.environment(testbed.aws.endpoint, AWS_ENDPOINT_URL_CODEPIPELINE=pipeline.endpoint)
        # Those are cargo-lambda's to set.
        variables = {name: value for name, value in variables.items() if not name.startswith("AWS_LAMBDA_")}
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "CHANGEOVER_"))} | variables

        def sent(event: str) -> dict:
            line = f"{invoke.replace('events/status.json', f'events/{event}.json')} --invoke-port {port}"
            return json.loads(_run(line, environment, PROJECT, seconds=600))

        with _running(f"{watch} --invoke-port {port}", environment, testbed.logs / "cargo-lambda.log", port):
            for event, outcomes in OUTCOMES.items():
                answer = sent(event)
                assert answer["outcome"] in outcomes, (event, answer)
                tell(f"{event}: {answer['outcome']}")
            assert token.standing().record["last_version"] == 6, "each of five events rotated once"
            sent("codepipeline")
        variables = pipeline.answered(JOB)["outputVariables"]
        assert (variables["outcome"], variables["version"]) == ("rotated", "7"), variables
        assert token.standing().broken_promises() == []


def _spec() -> dict:
    """A token that nobody has to be restarted for."""
    return {
        "token": {"bytes": 32, "prefix": "bh_"},
        "overlap": "5s",
        "verifiers": {"publish": [{"ssm": "/coilysiren/by-hand/accepted"}], "within": "0s"},
        "presenters": {"publish": [{"ssm": "/coilysiren/by-hand/token"}], "within": "0s"},
    }


def _section() -> str:
    """What the README says under "By hand"."""
    return (PROJECT / "README.md").read_text().split("\n## By hand\n")[1].split("\n## ")[0]


def _shown(beginning: str) -> list[str]:
    """The commands of the section that begin so, as they are pasted."""
    blocks = re.findall(r"```sh\n(.*?)\n```", _section(), re.DOTALL)
    return [block for block in blocks if block.startswith(beginning)]


def _commands() -> dict[str, str]:
    """For each file of the section's table that has one, the command that is the same."""
    return dict(re.findall(r"^\| `([\w-]+)\.json` \| `(changeover .*?)` \|", _section(), re.MULTILINE))


def _run(line: str, environment: dict[str, str], directory: Path, seconds: float = 120, codes: Container[int] = (0,)) -> str:
    """Runs a line as it is pasted into a shell, which has to end with one of these codes; what it printed."""
    done = subprocess.run(
        ["bash", "-c", line], env=environment, cwd=directory, stdin=subprocess.DEVNULL, timeout=seconds,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )
    assert done.returncode in codes, (line, done.stdout, done.stderr)
    return done.stdout


def _deployer(testbed, home: Path) -> dict[str, str]:
    """The environment of somebody who may invoke the function, and has both commands."""
    role = command.deployer(testbed)
    session = testbed.boto3("sts").assume_role(RoleArn=role, RoleSessionName="by-hand")["Credentials"]
    programs = home / "bin"
    programs.mkdir()
    (programs / "changeover").symlink_to(testbed.command)
    (programs / "aws").symlink_to(shutil.which("aws"))
    return {
        "HOME": str(home),
        "PATH": os.pathsep.join([str(programs), os.environ["PATH"]]),
        "AWS_ACCESS_KEY_ID": session["AccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": session["SecretAccessKey"],
        "AWS_SESSION_TOKEN": session["SessionToken"],
        "AWS_REGION": testbed.aws.region,
        "AWS_DEFAULT_REGION": testbed.aws.region,
        "AWS_ENDPOINT_URL": testbed.aws.endpoint,
    }


class _running:
    """A program in the background, from when it listens to the block's end, with all that it started."""

    def __init__(self, line: str, environment: dict[str, str], log: Path, port: int) -> None:
        self._line, self._environment, self._log, self._port = line, environment, log, port

    def __enter__(self) -> None:
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                ["bash", "-c", f"exec {self._line}"], env=self._environment, cwd=PROJECT, process_group=0,
                stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            )
        platform.wait_until(self._listens, 60, f"{self._line}: read {self._log}", every=0.2)

    def __exit__(self, *_: object) -> None:
        os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _listens(self) -> bool:
        assert self._process.poll() is None, self._log.read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._port)) == 0
