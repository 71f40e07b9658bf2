"""Live progress where someone can watch it, silence where output is saved."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


def live() -> bool:
    """Say whether a bar that redraws itself makes sense: in a terminal or an interactive kernel.

    A kernel's stderr is no terminal, so a kernel is recognised as such. CIFARLIB_PROGRESS=0 switches bars off:
    our notebook runner sets it, so that saved outputs hold finished lines only.
    """
    if os.environ.get("CIFARLIB_PROGRESS") == "0":
        return False
    return sys.stderr.isatty() or "ipykernel" in sys.modules


def bar(items: Iterable[T], *, what: str, total: int | None = None, unit: str = "it") -> Iterator[T]:
    """Iterate over `items` under a bar that vanishes when it is done."""
    yield from tqdm(items, desc=what, total=total, unit=unit, leave=False, disable=not live(), mininterval=0.5)
