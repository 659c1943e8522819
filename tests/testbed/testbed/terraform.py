"""Terraform as a person runs it, against the emulated account, with a provider that is looked for once."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from testbed.aws import Aws
from testbed.deployment import PROJECT

MODULE = PROJECT / "infra" / "terraform"
# A directory of providers, as `terraform providers mirror` makes one.
PLUGINS = "CHANGEOVER_TERRAFORM_PLUGINS"
# A registry hands the provider over in this time, or counts as out of reach.
FETCH_SECONDS = 120
# The longest is an apply, of which half a minute is the provider's own wait for each queue.
RUN_SECONDS = 180


class Unavailable(Exception):
    """Terraform, or the provider that the module asks for, is not to be had here."""


class TerraformFailed(Exception):
    """Terraform ended with an error, which is told."""


def provider(directory: Path) -> Path:
    """The module's provider, found or fetched into `directory`; what is returned is for `Terraform`.

    It comes from the directory that `CHANGEOVER_TERRAFORM_PLUGINS` names, where Unavailable is never raised; without it from
    wherever Terraform itself finds it: its own configuration, a directory that it knows, a registry.
    """
    named = os.environ.get(PLUGINS)
    if not shutil.which("terraform"):
        raise (TerraformFailed if named else Unavailable)("there is no terraform on PATH")
    shutil.copy(MODULE / "versions.tf", directory)
    try:
        if named:
            _run(directory, ["init", f"-plugin-dir={Path(named).absolute()}"], _environment(), FETCH_SECONDS)
        else:
            # Where providers come from may be said there.
            configuration = {name: os.environ[name] for name in ("TF_CLI_CONFIG_FILE",) if name in os.environ}
            _run(directory, ["init"], _environment() | configuration, FETCH_SECONDS)
    except TerraformFailed as failure:
        if named:
            raise
        # Its first words: the rest is advice.
        raise Unavailable(f"no provider was found: {str(failure).rpartition('Error: ')[2][:200]}…") from None
    return directory / ".terraform" / "providers"


class Terraform:
    """Terraform in one directory, as the account's administrator."""

    def __init__(self, aws: Aws, directory: Path, provider: Path) -> None:
        self.directory = directory
        self._provider = provider
        self._environment = _environment() | aws.environment

    def __call__(self, command: str, *arguments: str) -> str:
        """What the command says. Raises TerraformFailed where it ends with an error."""
        return _run(self.directory, [command, *arguments], self._environment, RUN_SECONDS)

    def init(self, *arguments: str) -> None:
        self("init", f"-plugin-dir={self._provider}", *arguments)

    def plan(self, **variables: Any) -> dict[str, str]:
        """What would be done with which resource, by its address; the plan itself is the file `plan`."""
        path = self.directory / "variables.json"
        path.write_text(json.dumps(variables))
        told = self("plan", "-json", "-out=plan", f"-var-file={path}", "-parallelism=30")
        messages = [json.loads(line) for line in told.splitlines()]
        changes = (message["change"] for message in messages if message["type"] == "planned_change")
        return {change["resource"]["addr"]: change["action"] for change in changes}

    def planned(self) -> dict[str, Any]:
        """The last plan in full, in Terraform's JSON format for plans."""
        return json.loads(self("show", "-json", "plan"))

    def apply(self) -> None:
        self("apply", "-auto-approve", "-parallelism=30")

    def outputs(self) -> dict[str, Any]:
        return {name: output["value"] for name, output in json.loads(self("output", "-json")).items()}

    def resources(self) -> dict[str, dict[str, Any]]:
        """What a module has made, by its address in the module: the attributes of each. Asks the state, which needs no
        provider."""
        made = {}
        for each in json.loads(self("state", "pull") or '{"resources": []}')["resources"]:
            for instance in each["instances"] if each["mode"] == "managed" else []:
                index = f"[{json.dumps(instance['index_key'])}]" if "index_key" in instance else ""
                made[f"{each['type']}.{each['name']}{index}"] = instance["attributes"]
        return made


def _run(directory: Path, words: list[str], environment: dict[str, str], seconds: float) -> str:
    command = " ".join(["terraform", words[0]])
    try:
        ran = subprocess.run(
            ["terraform", *words], cwd=directory, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        raise TerraformFailed(f"{command} was not through after {seconds:.0f} s") from None
    if ran.returncode != 0:
        # With -json what is wrong is on stdout, beside what is not.
        said = ran.stderr or "\n".join(line for line in ran.stdout.splitlines() if '"@level":"error"' in line)
        raise TerraformFailed(f"{command} ended with {ran.returncode}: {' '.join(said.split())}")
    return ran.stdout


def _environment() -> dict[str, str]:
    """Nothing of the caller's AWS and Terraform settings."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "TF_", "CHANGEOVER_"))}
    # What -no-color and -input=false would say once a command; and nobody is asked for the newest version.
    return inherited | {"TF_CLI_ARGS": "-no-color", "TF_INPUT": "0", "TF_IN_AUTOMATION": "1", "CHECKPOINT_DISABLE": "1"}
