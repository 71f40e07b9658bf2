"""Two processes on one run folder: one works, the other waits and says for whom, and the result is right.

The holder stands still at a line that it prints, until a file, the gate, exists: nothing depends on who is faster.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from harness import (
    ONE,
    ONE_TINY,
    POSIX,
    assert_same_runs,
    cleaned_up,
    ended,
    kill,
    says,
    snapshot,
    start,
    train,
    until,
)

from cifarlib import locks, recipes
from cifarlib.runs import RunFolder

pytestmark = pytest.mark.skipif(not POSIX, reason="signals and the fork server are POSIX's")

LEASE = 2.0  # seconds; the library's own is two minutes


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run_root on which one process worked, undisturbed."""
    base = tmp_path_factory.mktemp("truth")
    process = start(train, base / "log", base / "runs", ONE_TINY, [ONE])
    with cleaned_up([process]):
        ended(process, base / "log")
    return base / "runs"


class Pair:
    """A holder that stands still in mid-training, and a waiter that wants the same run."""

    def __init__(self, base: Path, **options: Any) -> None:
        self.root, self.gate, self.options = base / "runs", base / "gate", options
        self.holder_log, self.waiter_log = base / "holder.log", base / "waiter.log"
        self.holder = start(_train, self.holder_log, self.root, options | {"at": "epoch  1/2", "gate": self.gate})
        self.others: list[BaseProcess] = []

    def wait(self, text: str) -> BaseProcess:
        """Start the waiter once the holder stands still, and return when it has printed `text`."""
        until(lambda: says(self.holder_log, "epoch  1/2"), "the holder trains", self.holder_log)
        waiter = start(_train, self.waiter_log, self.root, self.options)
        self.others.append(waiter)
        until(lambda: says(self.waiter_log, text), text, self.waiter_log)
        return waiter

    @property
    def epochs(self) -> list[str]:
        """The epochs that were finished, by the one and by the other."""
        return [
            f"{who} {epoch}"
            for who, log in (("holder", self.holder_log), ("waiter", self.waiter_log))
            for epoch in re.findall(rf"{ONE} epoch +(\d)/2", log.read_text())
        ]


def _train(root: Path, options: dict[str, Any]) -> None:
    train(root, ONE_TINY, [ONE], **options)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Callable[..., Pair]]:
    with ExitStack() as stack:

        def make(**options: Any) -> Pair:
            made = Pair(tmp_path, **options)
            stack.enter_context(cleaned_up([made.holder]))
            stack.enter_context(cleaned_up(made.others))
            return made

        yield make


@pytest.mark.parametrize("lease", [None, LEASE], ids=["lock", "lease"])
def test_the_second_waits_and_loads_what_the_first_trained(
    lease: float | None, pair: Callable[..., Pair], truth: Path, full: bool, tally: Callable[..., None]
) -> None:
    if lease and not full:
        pytest.skip("belongs to the full suite: make faults")
    both = pair(lease=lease)
    waiter = both.wait("waiting for it to finish")
    said = both.waiter_log.read_text()
    assert f"is being written by process {both.holder.pid} on {socket.gethostname()}" in said
    assert str(both.root) in said
    # Longer than a lease lasts without its holder's heartbeat: the waiter has not come in.
    time.sleep(1.5 * (lease or 0))
    assert waiter.is_alive() and both.epochs == ["holder 1"]
    both.gate.touch()
    ended(both.holder, both.holder_log)
    ended(waiter, both.waiter_log)
    assert both.epochs == ["holder 1", "holder 2"]  # trained once
    tally("two writers", pairs=1, arrays_identical=assert_same_runs(both.root, truth))


@pytest.mark.parametrize("lease", [None, LEASE, 1000.0], ids=["lock", "lease", "a long lease"])
def test_a_killed_holders_run_is_taken_over_and_resumed(
    lease: float | None, pair: Callable[..., Pair], truth: Path, full: bool, tally: Callable[..., None]
) -> None:
    """At once: on one machine it is known that the process is gone, however long its lease would last."""
    if lease == LEASE and not full:
        pytest.skip("belongs to the full suite: make faults")
    both = pair(lease=lease)
    waiter = both.wait("waiting for it to finish")
    assert kill(both.holder)
    ended(waiter, both.waiter_log)
    assert f"{ONE}: resumed after epoch" in both.waiter_log.read_text()
    assert both.epochs in (["holder 1", "waiter 1", "waiter 2"], ["holder 1", "waiter 2"])
    tally("two writers", pairs=1, taken_over=1, arrays_identical=assert_same_runs(both.root, truth))


@pytest.mark.usefixtures("only_in_full")
def test_a_stopped_holder_loses_its_lease_and_writes_no_more(
    pair: Callable[..., Pair], truth: Path, tally: Callable[..., None]
) -> None:
    """A machine that slept: another took over, worked and finished; awake again, the first must not spoil that."""
    both = pair(lease=LEASE)
    waiter = both.wait("should that be gone, this one takes over within")
    assert both.holder.pid is not None
    os.kill(both.holder.pid, signal.SIGSTOP)
    ended(waiter, both.waiter_log)
    assert both.epochs[-1] == "waiter 2"
    both.gate.touch()
    os.kill(both.holder.pid, signal.SIGCONT)
    ended(both.holder, both.holder_log, status=1)
    assert re.search(r"RunError: .* is not this process's any more", both.holder_log.read_text())
    tally(
        "two writers",
        pairs=1,
        taken_over=1,
        refused_to_write=1,
        arrays_identical=assert_same_runs(both.root, truth),
    )


def test_a_holder_that_wakes_while_the_other_works_writes_no_more(
    pair: Callable[..., Pair], truth: Path, tmp_path: Path, tally: Callable[..., None]
) -> None:
    """The worse case: both live, and the first goes on in the very moment in which the second has begun."""
    both = pair(lease=LEASE)
    until(lambda: says(both.holder_log, "epoch  1/2"), "the holder trains", both.holder_log)
    assert both.holder.pid is not None
    os.kill(both.holder.pid, signal.SIGSTOP)
    second_gate = tmp_path / "second gate"
    waiter = start(_train, both.waiter_log, both.root, both.options | {"at": "epoch  2/2", "gate": second_gate})
    both.others.append(waiter)
    until(lambda: says(both.waiter_log, "epoch  2/2"), "the waiter has taken over", both.waiter_log)
    both.gate.touch()
    os.kill(both.holder.pid, signal.SIGCONT)
    ended(both.holder, both.holder_log, status=1)
    assert re.search(r"RunError: .* is not this process's any more", both.holder_log.read_text())
    second_gate.touch()
    ended(waiter, both.waiter_log)
    tally(
        "two writers",
        pairs=1,
        taken_over=1,
        refused_to_write=1,
        arrays_identical=assert_same_runs(both.root, truth),
    )


def _finish(root: Path, number: float, gate: Path | None) -> None:
    """Be a process that holds a run by a lease and writes its results: to a slow disk where there is a gate, which
    has a file only when the gate exists."""
    locks.LEASE_SECONDS, locks.on_mount = LEASE, lambda folder: True
    if gate is not None:
        sync = os.fsync

        def slow(file: int) -> None:
            sync(file)
            if "history.csv" in os.readlink(f"/proc/self/fd/{file}"):
                print("in the midst of a write")
                until(gate.exists, "the gate")

        os.fsync = slow
    folder = RunFolder(root, recipes.LEVEL1, data="d", weights="w", classes=("cat", "dog"))
    history = pd.DataFrame({"epoch": [1], "train_loss": [number]})
    probs = np.full((1, 2), number, dtype=np.float32)
    with folder.lock():
        folder.finish(
            weights={"fc.bias": torch.full((2,), number)},
            history=history,
            predictions={"test_probs": probs},
            metrics={"test_accuracy": number},
            environment={},
        )


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is Linux's")
def test_a_write_that_slept_while_another_finished_does_not_land(
    tmp_path: Path, tally: Callable[..., None]
) -> None:
    """Stopped within a write, and awake when the run has other results: not one file of them is exchanged."""
    root, gate, logs = tmp_path / "runs", tmp_path / "gate", [tmp_path / "holder.log", tmp_path / "waiter.log"]
    holder = start(_finish, logs[0], root, 0.25, gate)
    processes = [holder]
    with cleaned_up(processes):
        until(lambda: says(logs[0], "in the midst of a write"), "the holder writes", logs[0])
        assert holder.pid is not None
        os.kill(holder.pid, signal.SIGSTOP)
        processes.append(start(_finish, logs[1], root, 0.75, None))
        ended(processes[1], logs[1])
        before = snapshot(root)
        gate.touch()
        os.kill(holder.pid, signal.SIGCONT)
        ended(holder, logs[0], status=1)
    assert re.search(r"RunError: .* (is not this process's any more|could not be written)", logs[0].read_text())
    assert snapshot(root) == before
    run = RunFolder(root, recipes.LEVEL1, data="d", weights="w", classes=("cat", "dog")).load()
    assert run.metrics == {"test_accuracy": 0.75} and run.history["train_loss"].tolist() == [0.75]
    tally("two writers", pairs=1, taken_over=1, refused_to_write=1)


def test_many_at_once_train_once(tmp_path: Path, truth: Path, tally: Callable[..., None]) -> None:
    """Four processes start at the same time on an empty folder."""
    logs = [tmp_path / f"{number}.log" for number in range(4)]
    processes = [start(_train, log, tmp_path / "runs", {}) for log in logs]
    with cleaned_up(processes):
        for process, log in zip(processes, logs, strict=True):
            ended(process, log)
    printed = "".join(log.read_text() for log in logs)
    assert len(re.findall(rf"{ONE} epoch +\d/2", printed)) == 2
    tally("two writers", crowds=1, arrays_identical=assert_same_runs(tmp_path / "runs", truth))
