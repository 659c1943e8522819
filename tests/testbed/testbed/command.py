"""The command `changeover`, as a deploy step runs it: as a role that may invoke the function, and nothing else."""

import json
import os
import pty
import subprocess
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testbed.aws import ACCOUNT
from testbed.testbed import Testbed


@dataclass(frozen=True)
class Ran:
    """How it ended, and what it wrote where."""

    code: int
    out: str
    log: str

    def json(self) -> dict[str, Any]:
        return json.loads(self.out)


class Command:
    """The binary, in a home of its own whose profile `deploy` is the role."""

    def __init__(self, testbed: Testbed, home: Path) -> None:
        if not testbed.command.exists():
            raise LookupError(f"there is no {testbed.command}: build it, or name it by `run with --command`")
        self.testbed = testbed
        (home / ".aws").mkdir(parents=True)
        (home / ".aws" / "credentials").write_text(
            f"[people]\naws_access_key_id = {testbed.aws.access_key_id}\n"
            f"aws_secret_access_key = {testbed.aws.secret_access_key}\n"
        )
        (home / ".aws" / "config").write_text(
            f"[profile people]\nregion = {testbed.aws.region}\n"
            f"[profile deploy]\nregion = {testbed.aws.region}\nsource_profile = people\nrole_arn = {deployer(testbed)}\n"
        )
        self.environment = {
            "HOME": str(home),
            "AWS_ENDPOINT_URL": testbed.aws.endpoint,
            "AWS_PROFILE": "deploy",
            "CHANGEOVER_FUNCTION": testbed.function,
        }

    def __call__(self, *arguments: str, seconds: float = 180, **environment: str) -> Ran:
        """Runs it where there is no terminal, as in CI. What it writes is kept in the logs: no token may be found there."""
        ran = subprocess.run(
            [self.testbed.command, *arguments],
            env=self.environment | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            timeout=seconds,
        )
        with (self.testbed.logs / "command.log").open("a") as file:
            file.write(f"$ changeover {' '.join(arguments)}\n{ran.stdout}{ran.stderr}")
        return Ran(ran.returncode, ran.stdout, ran.stderr)

    def on_a_terminal(self, *arguments: str) -> Ran:
        """Runs it on a terminal; all that it wrote there is `out`."""
        controller, terminal = pty.openpty()
        process = subprocess.Popen(
            [self.testbed.command, *arguments],
            env=self.environment | {"TERM": "xterm"},
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
        )
        os.close(terminal)
        written = b""
        try:
            while part := os.read(controller, 65536):
                written += part
        except OSError:
            # What Linux says when the last program has closed the terminal.
            pass
        finally:
            os.close(controller)
        return Ran(process.wait(30), written.decode(), "")


def deployer(testbed: Testbed, *statements: dict[str, Any]) -> str:
    """A role that anybody of the account may take on, and that may invoke the function, and what else the statements say."""
    identities = testbed.boto3("iam")
    name = f"deployer-{uuid.uuid4()}"
    trust = {"Effect": "Allow", "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}, "Action": "sts:AssumeRole"}
    role = identities.create_role(RoleName=name, AssumeRolePolicyDocument=_policy(trust))["Role"]["Arn"]
    function = f"arn:aws:lambda:{testbed.aws.region}:{ACCOUNT}:function:{testbed.function}"
    invoke = {"Effect": "Allow", "Action": "lambda:InvokeFunction", "Resource": function}
    identities.put_role_policy(RoleName=name, PolicyName="deploy", PolicyDocument=_policy(invoke, *statements))
    return role


def _policy(*statements: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})
