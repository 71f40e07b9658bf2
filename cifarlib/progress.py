"""Live progress where someone can watch it, silence where output is saved; times as people say them."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


def live() -> bool:
    """Say whether a bar that redraws itself makes sense: in a terminal or an interactive kernel.

    A kernel's stderr is no terminal, so a kernel is recognised by what runs it; a process that only starts kernels
    has other parts of ipykernel. CIFARLIB_PROGRESS=0 switches bars off: our notebook runner sets it, so that saved
    outputs hold finished lines only.
    """
    if os.environ.get("CIFARLIB_PROGRESS") == "0":
        return False
    return sys.stderr.isatty() or "ipykernel.kernelapp" in sys.modules


def bar(items: Iterable[T], *, what: str, total: int | None = None, unit: str = "it") -> Iterator[T]:
    """Iterate over `items` under a bar that vanishes when it is done."""
    yield from tqdm(items, desc=what, total=total, unit=unit, leave=False, disable=not live(), mininterval=0.5)


@contextlib.contextmanager
def transfer(*, what: str, total: int | None, done: int = 0) -> Iterator[Callable[[int], object]]:
    """Give a function that takes the bytes that have come since its last call, under a bar that vanishes.

    Args:
        what: The bar's name.
        total: All bytes, or None where that is not known.
        done: Bytes that were there before.
    """
    with tqdm(
        desc=what,
        total=total,
        initial=done,
        unit="B",
        unit_scale=True,
        unit_divisor=1024,
        leave=False,
        disable=not live(),
        mininterval=0.5,
    ) as shown:
        yield shown.update


def worth_a_line(epoch: int, epochs: int) -> bool:
    """Say whether an epoch, counted from 1, is told: all of a short training, about 20 of a long one."""
    return epoch in (1, epochs) or epoch % -(-epochs // 20) == 0


def duration(seconds: float) -> str:
    """Write a time: 5.6 s, 48 s, 1 min 44 s, 2 h 5 min."""
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
