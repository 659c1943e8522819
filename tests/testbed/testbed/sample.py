"""How much of what could be tried exhaustively is tried: a sample that the commit draws, or everything.

`CHANGEOVER_SAMPLE` is the text that a sample is drawn by, the commit's hash in `make test`; `all` tries everything, as
`make verify` does. The same text draws the same sample, here and in the tests in Rust (tests/it/amount.rs).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from typing import TypeVar

VARIABLE = "CHANGEOVER_SAMPLE"
EVERYTHING = "all"

Case = TypeVar("Case")


def is_everything() -> bool:
    return drawn_by() == EVERYTHING


def described() -> str:
    """What draws the samples, in words that say how to draw them again."""
    return "everything is tried" if is_everything() else f"drawn by {VARIABLE}={drawn_by()}"


def drawn(cases: Sequence[Case], one_in: int) -> list[Case]:
    """One case of so many, at least one, in their order; all of them where everything is tried.

    Which ones depends on the text and on each case's position alone, so that over many commits each has its turn.
    """
    if is_everything():
        return list(cases)
    ranked = sorted(range(len(cases)), key=lambda at: hashlib.sha256(f"{drawn_by()} {at}".encode()).digest())
    chosen = sorted(ranked[: -(-len(cases) // one_in)])
    return [cases[at] for at in chosen]


def drawn_by() -> str:
    """The text that draws the samples."""
    return os.environ.get(VARIABLE) or "by-hand"
