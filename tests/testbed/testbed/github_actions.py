"""A composite action, run as GitHub's runner runs it: each step in a bash of its own, with what files and log say between them.

    job = Job(PROJECT / "infra" / "github-action", directory, environment)
    ran = job.uses(token="datastore-token", region="eu-west-1")

Only as much of it as an action needs that is told everything by `env:` (workflow commands and environment files: the
documentation "Workflow commands for GitHub Actions"; shells: "Workflow syntax", `jobs.<job_id>.steps[*].shell`). An expression in a
script is refused: text put into a script is run with it.
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

EXPRESSION = re.compile(r"\$\{\{(.*?)\}\}")
TERM = re.compile(r"inputs\.[\w-]+|env\.\w+|steps\.[\w-]+\.outputs\.[\w-]+")


@dataclass
class Ran:
    """What became of the action: `raw` is what its steps wrote, and `log` what the runner shows of it."""

    code: int = 0
    outputs: dict[str, str] = field(default_factory=dict)
    raw: str = ""
    masks: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    summary: str = ""
    # Other actions that it took: their names, and what they were given.
    used: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    # What a step after the action finds in its environment.
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def log(self) -> str:
        shown = "".join(line for line in self.raw.splitlines(True) if not line.startswith("::add-mask::"))
        for mask in self.masks:
            shown = shown.replace(mask, "***")
        return shown


class Job:
    """A job of one run of a workflow: `run_id` is that of all its attempts. `role` is what aws-actions/configure-aws-credentials
    comes to: credentials, as the environment names them."""

    def __init__(
        self, action: Path, directory: Path, environment: dict[str, str], run_id: int = 7219, role: dict[str, str] | None = None
    ) -> None:
        self._role = role or {}
        self._path = action
        self._action: dict[str, Any] = yaml.safe_load((action / "action.yml").read_text())
        self._directory = directory
        self._environment = environment | {
            "CI": "true",
            "GITHUB_ACTIONS": "true",
            "GITHUB_ACTION_PATH": str(action),
            "GITHUB_JOB": "deploy",
            "GITHUB_REPOSITORY": "example/backend",
            "GITHUB_RUN_ID": str(run_id),
            "RUNNER_TEMP": str(directory),
        }
        directory.mkdir(parents=True, exist_ok=True)

    def uses(self, **given: str) -> Ran:
        """One attempt. Inputs have `_` for `-` in their names."""
        given = {name.replace("_", "-"): value for name, value in given.items()}
        known = self._action["inputs"]
        if unknown := given.keys() - known.keys():
            raise ValueError(f"the action has no inputs {unknown}")
        inputs = {name: given.get(name, each.get("default", "")) for name, each in known.items()}
        if missing := [name for name, each in known.items() if each.get("required") and not inputs[name]]:
            raise ValueError(f"the action needs the inputs {missing}")
        ran = Ran()
        values = {f"env.{name}": value for name, value in self._environment.items()}
        values |= {f"inputs.{name}": value for name, value in inputs.items()}
        for step in self._action["runs"]["steps"]:
            if not _holds(step.get("if", "true"), values):
                continue
            if "uses" in step:
                given = {name: _filled(value, values) for name, value in step["with"].items()}
                ran.used.append((step["uses"], given))
                values |= self._take_on(step["id"], given)
                continue
            outputs = self._run(step, values, ran)
            values |= {f"steps.{step['id']}.outputs.{name}": value for name, value in outputs.items()}
            if ran.code != 0:
                break
        ran.environment = dict(self._environment)
        ran.outputs = {name: _filled(each["value"], values) for name, each in self._action["outputs"].items()}
        return ran

    def _take_on(self, step: str, given: dict[str, str]) -> dict[str, str]:
        """The outputs of a step that takes a role on. Unless it is told not to, the whole job is that role from then on."""
        if given.get("output-env-credentials") != "false":
            self._environment |= self._role | {"AWS_REGION": given["aws-region"]}
        if given.get("output-credentials") != "true":
            return {}
        return {f"steps.{step}.outputs.{name.lower().replace('_', '-')}": value for name, value in self._role.items()}

    def _run(self, step: dict[str, Any], values: dict[str, str], ran: Ran) -> dict[str, str]:
        """Runs one step; its outputs."""
        assert step["shell"] == "bash" and not EXPRESSION.search(step["run"]), step
        script, output, summary = (self._directory / name for name in ("step.sh", "output", "summary"))
        script.write_text(step["run"])
        for file in (output, summary):
            file.write_text("")
        environment = self._environment | {"GITHUB_OUTPUT": str(output), "GITHUB_STEP_SUMMARY": str(summary)}
        environment |= {name: _filled(value, values) for name, value in step.get("env", {}).items()}
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)],
            env=environment, cwd=self._directory, stdin=subprocess.DEVNULL, timeout=300,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        ran.code = done.returncode
        ran.raw += done.stdout
        ran.summary += summary.read_text()
        _obey(done.stdout, ran)
        return _outputs(output.read_text())


def _obey(log: str, ran: Ran) -> None:
    """Does what the commands in a log say, but for those that are stopped."""
    stopped = None
    for line in log.splitlines():
        if stopped:
            stopped = None if line == f"::{stopped}::" else stopped
        elif line.startswith("::stop-commands::"):
            stopped = line.removeprefix("::stop-commands::")
        elif line.startswith("::add-mask::"):
            ran.masks.append(line.removeprefix("::add-mask::").replace("%25", "%"))
        elif line.startswith("::error"):
            ran.errors.append(line)


def _outputs(text: str) -> dict[str, str]:
    found, lines = {}, iter(text.splitlines())
    for line in lines:
        if match := re.fullmatch(r"([\w-]+)<<(.+)", line):
            value = []
            while (part := next(lines)) != match[2]:
                value.append(part)
            found[match[1]] = "\n".join(value)
        else:
            name, _, value = line.partition("=")
            found[name] = value
    return found


def _filled(text: str, values: dict[str, str]) -> str:
    return EXPRESSION.sub(lambda match: _value(match[1], values), str(text))


def _value(expression: str, values: dict[str, str]) -> str:
    """A term, or the first of several joined by `||` that is not empty."""
    terms = [term.strip() for term in expression.split("||")]
    if not all(TERM.fullmatch(term) for term in terms):
        raise ValueError(f"the runner of the testbed does not know the expression {expression}")
    return next(filter(None, (values.get(term, "") for term in terms)), "")


def _holds(condition: str, values: dict[str, str]) -> bool:
    if condition == "true":
        return True
    match = re.fullmatch(r"(\S+) (==|!=) '(.*)'", condition)
    if not match:
        raise ValueError(f"the runner of the testbed does not know the condition {condition}")
    return (_value(match[1], values) == match[3]) == (match[2] == "==")


def path_with(directory: Path, log: Path, **programs: Path | str) -> str:
    """A PATH on which these programs note their arguments in `log` before they run."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, program in programs.items():
        shim = directory / name
        shim.write_text(f'#!/bin/bash\nprintf "%s\\n" "$0 $*" >> "{log}"\nexec "{program}" "$@"\n')
        shim.chmod(0o755)
    return os.pathsep.join([str(directory), os.environ["PATH"]])
