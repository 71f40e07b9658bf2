"""Processes killed at any moment: the runs they leave are resumed to the very same result."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import psutil
import pytest
from harness import (
    LEVELS,
    POSIX,
    TINY,
    assert_same_runs,
    checkpoints,
    cleaned_up,
    ended,
    kill,
    parts,
    start,
    train,
)

pytestmark = pytest.mark.skipif(not POSIX, reason="SIGKILL and the fork server are POSIX's")

ROOT = Path(__file__).resolve().parents[2]
PRETRAINED = {
    "weights": "pretrain",
    "pretrain_size": 32,
    "pretrain.epochs": 2,
    "pretrain.batch_size": 16,
    "efficientnet.weights": "none",
}
# By name: what the study is, the runs in the order in which they are trained, the kills, those inside a write. A
# quick part in every run of the tests; with the stand-in for ImageNet weights, killed too, in the full one.
SETTINGS = {
    "quick": (TINY, LEVELS[1:3], 4, 1),
    "quick, all levels": (TINY, LEVELS, 6, 2),
    "full": (TINY, LEVELS, 14, 4),
    "full, pretrained on the spot": (TINY | PRETRAINED, ("pretrain_resnet50", *LEVELS[:3]), 6, 2),
}


def undisturbed(root: Path, overrides: dict[str, Any], names: Sequence[str]) -> None:
    """Train without a checkpoint within an epoch."""
    train(root, overrides, names, checkpoint_seconds=1000.0)


def wait_for_the_moment(process: BaseProcess, root: Path, how: str, names: Sequence[str], delay: float) -> None:
    """Return when a process is to be killed that has come to one of the runs `names`: after so many seconds,
    and then at once, in the midst of a write, or as soon as a checkpoint counts, after a step or an epoch."""

    def folders() -> list[Path]:
        """Where it is at work by now: its lock has its number in it."""
        found = []
        for lock in (lock for name in names for lock in root.glob(f"{name}-*/.lock")):
            with suppress(FileNotFoundError):  # given up in this very moment
                if f"process {process.pid} " in lock.read_text():
                    found.append(lock.parent)
        return found

    while process.is_alive() and not folders():
        time.sleep(0.005)
    process.join(delay)
    known = checkpoints(root)
    if how == "moment":
        return
    while process.is_alive():
        if how == "write" and any(".json." not in part.name for folder in folders() for part in parts(folder)):
            return  # of a file that takes some time to be written
        new = [name for name in checkpoints(root) - known if name.startswith(tuple(names))]
        if how in ("step", "epoch") and any(name.endswith("-000000.pt") is (how == "epoch") for name in new):
            return


@pytest.mark.parametrize(
    "setting", [pytest.param(name, marks=[pytest.mark.slow] * (name == "quick, all levels")) for name in SETTINGS]
)
def test_killed_runs_are_resumed_to_the_same_bits(
    setting: str, full: bool, tmp_path: Path, tally: Callable[..., None]
) -> None:
    if full != setting.startswith("full"):
        pytest.skip("belongs to the full suite: make faults" if not full else "the full suite has more of it")
    overrides, names, wanted, wanted_inside = SETTINGS[setting]
    trained = [name for name in names if name in LEVELS]
    truth, log = tmp_path / "truth", tmp_path / "truth.log"
    began = time.monotonic()
    process = start(undisturbed, log, truth, overrides, trained)
    with cleaned_up([process]):
        ended(process, log)
    duration = (time.monotonic() - began) / len(names)

    seeded = random.Random(0)
    log = tmp_path / "killed.log"
    log.touch()
    roots = [tmp_path / "killed0"]
    counts: Counter[str] = Counter()

    def resumed(within: bool) -> int:
        found = re.findall(r"resumed after epoch \d+ of \d+( and \d+ of \d+ steps.*)?$", log.read_text(), re.M)
        return sum(bool(steps) is within for steps in found)

    def enough() -> bool:
        """Whether as many were killed as is wanted, inside writes too, and resumed both ways."""
        kills = counts["kills"] >= wanted and counts["inside_a_write"] >= wanted_inside
        return kills and resumed(within=True) > 0 and resumed(within=False) > 0

    attempts = 0
    while not enough():
        if attempts < wanted:  # the kills go through all levels
            how = ("moment", "write", "step", "write", "epoch", "moment")[attempts % 6]
            onwards, delay = names[attempts * len(names) // wanted :], seeded.uniform(0, duration / 2)
        else:  # what is still wanting, wherever it comes next
            how = (
                "write"
                if counts["inside_a_write"] < wanted_inside
                else "epoch"
                if resumed(within=True)
                else "step"
            )
            onwards, delay = names, 0.0
        attempts += 1
        assert attempts <= 4 * wanted, f"after {attempts} processes: {counts}\n{log.read_text()}"
        process = start(train, log, roots[-1], overrides, trained)
        with cleaned_up([process]):
            wait_for_the_moment(process, roots[-1], how, onwards, delay)
            if process.is_alive() and kill(process):
                counts["kills"] += 1
                counts["inside_a_write"] += any(parts(folder) for folder in roots[-1].glob("*"))
                continue
            ended(process, log)  # done before it could be killed: another one begins elsewhere
        roots.append(tmp_path / f"killed{len(roots)}")

    compared = 0
    for root in roots:
        process = start(train, log, root, overrides, trained)
        with cleaned_up([process]):
            ended(process, log)
        compared += assert_same_runs(root, truth)
    tally(
        "kills",
        **counts,
        resumed_within_an_epoch=resumed(within=True),
        resumed_after_an_epoch=resumed(within=False),
        run_roots=len(roots),
        arrays_identical=compared,
    )


@pytest.mark.usefixtures("only_in_full")
def test_a_killed_kernel_costs_one_command(tmp_path: Path, tally: Callable[..., None]) -> None:
    """`cifarlib report`, the Python process of its notebook killed in mid-training: it says so and ends with 1;
    the same command again goes on, and its results are an undisturbed training's."""
    overrides = TINY | {"epochs": 3}
    root, out, truth, log = (tmp_path / name for name in ("runs", "out", "truth", "truth.log"))
    fields = [text for name, value in overrides.items() for text in ("--set", f"{name}={value}")]
    command = [sys.executable, "-m", "cifarlib", "report", "2", "--profile", "demo", *fields]
    command += ["--run-root", str(root), "--out", str(out), "-p", "shift_images", "8"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

    def report() -> subprocess.Popen[str]:
        streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(command, cwd=ROOT, env=environment, **streams)

    with report() as first:
        while first.poll() is None and not checkpoints(root):
            time.sleep(0.01)
        kernels = [
            child for child in psutil.Process(first.pid).children() if "ipykernel" in " ".join(child.cmdline())
        ]
        assert len(kernels) == 1
        os.kill(kernels[0].pid, signal.SIGKILL)
        said, _ = first.communicate(timeout=120)
    assert first.returncode == 1, said
    assert "process died" in said
    assert "process died" in (out / "level2_augmentation.html").read_text(encoding="utf-8")
    assert json.loads((out / "results.json").read_text())["pages"]["level2"]["failure"]
    with report() as second:
        said, _ = second.communicate(timeout=300)
    assert second.returncode == 0, said
    assert "level2: resumed after epoch" in said
    names = [path.name.rpartition("-")[0] for path in root.iterdir()]
    process = start(train, log, truth, overrides, names)
    with cleaned_up([process]):
        ended(process, log)
    tally("kills", kernels_killed=1, arrays_identical=assert_same_runs(root, truth))
