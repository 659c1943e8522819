"""Readers that are never restarted, of many tokens: whether what they and the pods hold goes together at every moment.

A reader of a DynamoDB item may hold its copy for a second. So at every moment each token that was read within the last second
has to be accepted by each accepted set that was read within the last second, and by every pod that verifies; and each version
that a pod presented, by each accepted set of that second.
"""

from __future__ import annotations

import hashlib
import threading
import time
import urllib.error
from collections import deque
from datetime import datetime
from typing import Any, Self

from testbed.light_platform import LightPlatform
from testbed.load import Request

# The `within` of the spec.
HELD_SECONDS = 1.0
EVERY_SECONDS = 0.5
# Long enough for the lines of the pods' requests to have been read.
KEPT_SECONDS = 3.0


class Readers:
    """Reads all the time, in a thread. `refused` tells what did not go together; `asked` counts the questions."""

    def __init__(self, platforms: list[LightPlatform]) -> None:
        self.asked = 0
        self.refused: list[str] = []
        self.failure: BaseException | None = None
        self._copies = [Copies(platform) for platform in platforms]
        self._tables, self._published = platforms[0].tables, platforms[0].published
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()

    def _read(self) -> None:
        try:
            while not self._ending.wait(EVERY_SECONDS):
                self._once()
        except BaseException as failure:
            self.failure = failure

    def _once(self) -> None:
        read_at, items = time.time(), self._items()
        for copies in self._copies:
            copies.take(read_at, items)
            verdicts = list(copies.verdicts())
            self.asked += len(verdicts)
            self.refused += [refusal for refusal in verdicts if refusal]

    def _items(self) -> dict[str, dict[str, Any]]:
        names = [name for copies in self._copies for name in copies.items]
        found = {}
        for first in range(0, len(names), 100):
            keys = [{"id": {"S": name}} for name in names[first : first + 100]]
            answer = self._tables.batch_get_item(RequestItems={self._published: {"Keys": keys, "ConsistentRead": True}})
            found |= {item["id"]["S"]: item for item in answer["Responses"][self._published]}
        return found


class Copies:
    """What readers of one token's items may hold."""

    def __init__(self, platform: LightPlatform) -> None:
        self.items = (platform.token_item, platform.accepted_item)
        self._platform = platform
        self._presented: deque[tuple[float, str]] = deque()
        self._accepted: deque[tuple[float, list[dict[str, str]]]] = deque()

    def take(self, read_at: float, items: dict[str, dict[str, Any]]) -> None:
        presented, accepted = (items[name] for name in self.items)
        self._presented.append((read_at, presented["token"]["S"]))
        entries = [{name: str(*value.values()) for name, value in each["M"].items()} for each in accepted["accepted"]["L"]]
        self._accepted.append((read_at, entries))
        for copies in (self._presented, self._accepted):
            while copies[0][0] < read_at - KEPT_SECONDS:
                copies.popleft()

    def verdicts(self):
        """Of each question that can be asked now, None, or what was refused."""
        now, token = time.time(), self._platform.token
        for presented in {value for read_at, value in self._presented if now - HELD_SECONDS < read_at}:
            digest = hashlib.sha256(presented.encode()).hexdigest()
            for entries in self._accepted_at(now):
                is_accepted = any(entry["sha256"] == digest and not _has_ended(entry, now) for entry in entries)
                yield None if is_accepted else f"{token}: a reader refused what another one holds"
            try:
                for pod, status in self._platform.verdicts(presented).items():
                    yield None if status == 200 else f"{token}: {pod} refused what a reader holds"
            except (urllib.error.URLError, ConnectionError):
                # A pod that is gone by now refuses nothing.
                continue
        for request in self._platform.load.read():
            for entries in self._accepted_at(request.at):
                yield None if _accepts(entries, request) else f"{token}: a reader refuses version {request.version} of a pod"

    def _accepted_at(self, at: float) -> list[list[dict[str, str]]]:
        return [entries for read_at, entries in self._accepted if at - HELD_SECONDS < read_at <= at]


def _accepts(entries: list[dict[str, str]], request: Request) -> bool:
    # What a pod refused is counted as a failed request.
    known = (entry for entry in entries if entry["version"] == str(request.version))
    return request.failed or any(not _has_ended(entry, request.at) for entry in known)


def _has_ended(entry: dict[str, str], at: float) -> bool:
    return "not_after" in entry and datetime.fromisoformat(entry["not_after"]).timestamp() <= at
