"""kubectl as a function."""

import subprocess
from pathlib import Path


class KubectlFailed(Exception):
    """kubectl ended with an error; the message is what it said."""


class Kubectl:
    """kubectl as an administrator of the cluster. As a string it is the program's path."""

    def __init__(self, program: Path, kubeconfig: Path) -> None:
        self._program = program
        self._kubeconfig = kubeconfig

    def __call__(self, *arguments: str, stdin: str | None = None, seconds: float = 60) -> str:
        """What it printed. Raises KubectlFailed, and TimeoutExpired after that many seconds."""
        ended = subprocess.run(
            [str(self._program), f"--kubeconfig={self._kubeconfig}", *arguments],
            input=stdin, text=True, capture_output=True, timeout=seconds,
        )
        if ended.returncode != 0:
            raise KubectlFailed(f"kubectl {' '.join(arguments)} ended with {ended.returncode}: {ended.stderr.strip()}")
        return ended.stdout

    def __str__(self) -> str:
        return str(self._program)
