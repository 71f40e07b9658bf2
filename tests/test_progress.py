"""Bars show where someone watches, and never in saved output."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cifarlib import progress

# Runs the file alone, without the library's imports, and reports on stdout; bars go to stderr.
CHILD = """
import os, runpy, sys, time
progress = runpy.run_path(sys.argv[1])
print(progress["live"]())
print(sum(progress["bar"](range(4), what="watched")))
with progress["transfer"](what="file", total=2048, done=1024) as advance:
    advance(512)
os.environ["CIFARLIB_PROGRESS"] = "0"
print(progress["live"]())
print(sum(progress["bar"](range(4), what="switched off")))
with progress["transfer"](what="unseen", total=None) as advance:
    advance(512)
"""


def environment(**values: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "CIFARLIB_PROGRESS"}
    return kept | values


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_bar_is_drawn_in_a_terminal_unless_it_is_switched_off() -> None:
    import pty
    import termios

    outer, inner = pty.openpty()
    termios.tcsetwinsize(inner, (24, 80))
    os.set_blocking(outer, False)
    try:
        command = [sys.executable, "-c", CHILD, str(Path(progress.__file__))]
        done = subprocess.run(
            command, env=environment(), stdout=subprocess.PIPE, stderr=inner, text=True, timeout=60
        )
        screen = os.read(outer, 1 << 16).decode()  # before the other end is closed, which may discard it
    finally:
        os.close(inner)
        os.close(outer)
    assert (done.returncode, done.stdout.split()) == (0, ["True", "6", "False", "6"])
    assert "watched" in screen
    assert "file:  50%" in screen and "1.00k/2.00k" in screen  # bytes, from where an earlier download ended
    assert "switched off" not in screen and "unseen" not in screen
    assert screen.endswith("\r")  # the bar wiped itself: no line of it is left


def test_no_bar_is_drawn_into_a_file(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w+") as log:
        command = [sys.executable, "-c", CHILD, str(Path(progress.__file__))]
        done = subprocess.run(
            command, env=environment(), stdout=subprocess.PIPE, stderr=log, text=True, timeout=60
        )
        log.seek(0)
        assert log.read() == ""
    assert done.stdout.split() == ["False", "6", "False", "6"]


def test_a_kernel_is_recognised_though_its_stderr_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", open(os.devnull, "w"))  # noqa: SIM115
    monkeypatch.delenv("CIFARLIB_PROGRESS")
    monkeypatch.setitem(sys.modules, "ipykernel.kernelapp", sys)
    assert progress.live()
    monkeypatch.setenv("CIFARLIB_PROGRESS", "0")
    assert not progress.live()
    monkeypatch.delenv("CIFARLIB_PROGRESS")
    monkeypatch.delitem(sys.modules, "ipykernel.kernelapp")
    assert not progress.live()
    sys.stderr.close()


def test_a_silent_bar_gives_all_items_in_order(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CIFARLIB_PROGRESS", "0")
    items = [3, None, "a", [1], 3]
    assert list(progress.bar(items, what="items", total=9, unit="batch")) == items
    assert list(progress.bar(iter(items), what="items")) == items
    assert list(progress.bar([], what="nothing")) == []
    assert capfd.readouterr() == ("", "")


def test_a_bar_draws_items_one_at_a_time_and_passes_errors_on() -> None:
    drawn = []

    def source() -> Iterator[int]:
        for item in range(3):
            drawn.append(item)
            yield item
        raise KeyboardInterrupt

    bar = progress.bar(source(), what="items")
    assert drawn == []
    assert next(bar) == 0
    assert drawn == [0]
    with pytest.raises(KeyboardInterrupt):
        list(bar)
    assert drawn == [0, 1, 2]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (5.62, "5.6 s"), (48.2, "48 s"), (104, "1 min 44 s"), (7500, "2 h 5 min")],
)
def test_duration(seconds: float, text: str) -> None:
    assert progress.duration(seconds) == text
