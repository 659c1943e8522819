"""The emulated AWS behind a proxy that makes chosen calls of chosen accounts fail as AWS makes them fail.

    function (account 7…1) ─┐
    function (account 7…2) ─┼─► microburst, and a rule set for each account ─► ministack
    function (account 7…n) ─┘

Accounts are told apart by the access key in the signature: a key of twelve digits is the root of the account of that number in
the emulator, whose signatures it does not check. That is needed here, because the proxy is an endpoint with another name than
the emulator's, and a signature covers the name.

microburst (https://github.com/pingedbrain/microburst) knows AWS's errors from AWS's own models. What it lacks is in
`fault_proxy.py`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
from typing import Any, Self

from testbed.processes import free_port
from testbed.testbed import Testbed

Rule = dict[str, Any]
# Where microburst takes rules, and the proxy tells what is under way.
CONTROL = "/_microburst"
UNDER_WAY = "under-way"
# The error that stands for a reply that is none.
VERBATIM = "Verbatim"


class FaultyAws:
    """The running proxy. Its methods may be called from any thread."""

    def __init__(self, testbed: Testbed) -> None:
        port = free_port()
        self._control_at = f"http://127.0.0.1:{port}{CONTROL}"
        # Of a host whose name has dots microburst wants to know which service's it is, and reads all of AWS's models for that.
        self.endpoint = f"http://localhost:{port}"
        command = [sys.executable, "-m", "testbed.fault_proxy", "--upstream", testbed.aws.endpoint, "--port", str(port)]
        with (testbed.logs / "faulty-aws.log").open("ab") as log:
            # It inherits the mark by which the testbed's guardian finds what we could not end ourselves.
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def is_ready(self) -> bool:
        try:
            return self._control("GET", "health")["status"] == "ok"
        except urllib.error.URLError:
            return False

    def disturb(self, account: str, *rules: Rule) -> list[int]:
        """Adds rules for the calls of an account; of those that match a call the first one decides. Returns their names."""
        made = self._control("PATCH", "rules", [{**rule, "headers": _calls_of(account)} for rule in rules])
        return [each["id"] for each in made]

    def mend(self, account: str) -> None:
        """Takes all rules of an account away."""
        self._control("DELETE", "rules", [{"headers": _calls_of(account)}])

    def fired(self, *rules: int) -> int:
        """How often these rules have decided about a call."""
        return sum(each["fired_count"] for each in self._control("GET", "rules") if each["id"] in rules)

    def calls(self, rule: int) -> list[str]:
        """The operations that this rule has decided about, in the order in which they were called."""
        return [each["operation"] for each in self._control("GET", f"fired?limit=2000&rule_id={rule}")]

    def has_settled(self, account: str) -> bool:
        """Whether no call of the account is under way, not even one that was given up and may still be applied."""
        return self._control("GET", UNDER_WAY).get(account, 0) == 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def _control(self, method: str, path: str, body: Any = None) -> Any:
        request = urllib.request.Request(
            f"{self._control_at}/{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)


def verbatim(text: str, times: int = 1, content_type: str = "application/x-amz-json-1.0") -> Rule:
    """The effect of a rule: a reply of 200 whose body is this text, so many times in a row."""
    reply = {"text": text, "times": times, "content_type": content_type}
    return {"error": {"code": VERBATIM, "status": 200, "fields": reply}}


def _calls_of(account: str) -> dict[str, str]:
    return {"authorization": f"Credential={account}/"}
