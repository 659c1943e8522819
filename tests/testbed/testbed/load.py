"""What the presenters' requests came to: read from the file to which they append one line each."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Request:
    """One request: when it was sent (seconds since the epoch), by whom, and how it ended.

    `status` is the verifier's answer, 0 where none came (then `error` says why); `version` is the token's version as
    the verifier recognised it.
    """

    at: float
    presenter: str
    status: int
    version: int | None = None
    verifier: str | None = None
    error: str | None = None
    attempts: int = 1

    @property
    def failed(self) -> bool:
        return self.status != 200


class Load:
    """All requests written to `path` so far; `read()` takes in the new ones."""

    def __init__(self, path: Path):
        self.path = Path(path)
        self.requests: list[Request] = []
        self._offset = 0

    def read(self) -> list[Request]:
        """The requests that ended since the last call."""
        if not self.path.exists():
            return []
        with self.path.open("rb") as file:
            file.seek(self._offset)
            whole, _, _ = file.read().rpartition(b"\n")
        if not whole:
            return []
        self._offset += len(whole) + 1
        new = [Request(**json.loads(line)) for line in whole.splitlines()]
        self.requests += new
        return new

    @property
    def failed(self) -> list[Request]:
        return [request for request in self.requests if request.failed]

    @property
    def rate(self) -> float:
        """Requests a second, from the first to the last."""
        times = [request.at for request in self.requests]
        return len(times) / (max(times) - min(times))

    def by_version(self) -> dict[int, int]:
        """How many requests were accepted, by the version of their token."""
        return dict(sorted(Counter(request.version for request in self.requests if not request.failed).items()))

    def each_tenth(self) -> list[dict[str, Any]]:
        """The requests as `changeover timeline --requests` reads them: counted by tenth of a second and by version.

        Counted by second they would be drawn up to a second early, which is half of a short rotation.
        """
        counts: dict[tuple[int, int | None], Counter[str]] = {}
        for request in self.requests:
            kind = "failed" if request.failed else "accepted"
            counts.setdefault((round(request.at * 1000) // 100, request.version), Counter())[kind] += 1
        return [
            {
                "at": datetime.fromtimestamp(tenth / 10, timezone.utc).isoformat(timespec="milliseconds"),
                "version": version,
                **count,
            }
            for (tenth, version), count in counts.items()
        ]

    def failures(self) -> str:
        """Every kind of failure with its number and its span, for people; empty where there is none."""
        kinds: dict[str, list[float]] = {}
        for request in self.failed:
            kinds.setdefault(request.error or f"HTTP {request.status}", []).append(request.at)
        return ", ".join(
            f"{len(times)} × {kind} from {clock(min(times))} to {clock(max(times))}" for kind, times in kinds.items()
        )

    def summary(self) -> str:
        versions = ", ".join(f"version {version}: {count}" for version, count in self.by_version().items())
        return f"requests={len(self.requests)} failed={len(self.failed)} ({versions or 'none accepted'})"

    def wait_until(self, condition, seconds: float, what: str) -> None:
        """Reads until `condition(new)` holds for some newly read requests; raises TimeoutError naming `what`."""
        end = time.monotonic() + seconds
        while not condition(self.read()):
            if time.monotonic() > end:
                raise TimeoutError(f"not within {seconds:.0f} s: {what}; {self.summary()}; {self.failures()}")
            time.sleep(0.1)


@dataclass(frozen=True)
class Span:
    """A leg of a rotation on the time axis, in seconds since the epoch."""

    row: str
    letter: str
    begin: float
    end: float


def timeline(load: Load, spans: list[Span], width: int = 72) -> str:
    """The whole run in text: one column a slice of time, one row for the legs, each token version, and failures.

    A block's height is the share of the slice's requests that carried that version.
    """
    times = [request.at for request in load.requests] + [time for span in spans for time in (span.begin, span.end)]
    if not times:
        return "no requests"
    begin, end = min(times), max(times)
    slice_seconds = max((end - begin) / width, 0.001)

    def column(at: float) -> int:
        return min(int((at - begin) / slice_seconds), width - 1)

    sent = Counter(column(request.at) for request in load.requests)
    rows: dict[str, str] = {}
    for row in dict.fromkeys(span.row for span in spans):
        cells = [" "] * width
        for span in (span for span in spans if span.row == row):
            for cell in range(column(span.begin), column(span.end) + 1):
                cells[cell] = span.letter
        rows[row] = "".join(cells)
    for version, count in load.by_version().items():
        accepted = Counter(column(request.at) for request in load.requests if request.version == version)
        rows[f"version {version}"] = "".join(block(accepted[cell], sent[cell]) for cell in range(width)) + f" {count}"
    failed = Counter(column(request.at) for request in load.failed)
    rows["failed"] = "".join("x" if failed[cell] else "." for cell in range(width)) + f" {len(load.failed)}"

    margin = max(map(len, rows)) + 2
    ticks = "".join(f"{round(cell * slice_seconds):<12d}" for cell in range(0, width, 12))
    lines = [f"{'seconds':<{margin}}{ticks}".rstrip()] + [f"{name:<{margin}}{cells}" for name, cells in rows.items()]
    return "\n".join(lines)


def block(part: int, whole: int) -> str:
    """A part as the height of one character; a part above zero is never invisible."""
    return " ▁▂▃▄▅▆▇█"[-(-8 * part // whole)] if part else " "


def clock(at: float) -> str:
    return datetime.fromtimestamp(at, timezone.utc).strftime("%H:%M:%S.%f")[:-3]
