"""What the fault tests work with: processes that can be killed and stopped, disks that fill, folders compared.

Workers come out of a server process that has imported the library once (multiprocessing's "forkserver"), so that a
kill costs a tenth of a second and not an import of torch. They compute on one thread: bits are to be compared.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from safetensors.torch import load_file

from cifarlib import Study, locks, runs

POSIX = sys.platform != "win32"
# Levels 1 to 4 (level 4 votes over level 3 and EfficientNet-B0) in seconds: two steps an epoch, two epochs.
LEVELS = ("level1", "level2", "level3", "efficientnet")
TINY: dict[str, Any] = {
    "weights": "none",
    "image_size": 32,
    "train_size": 32,
    "val_size": 12,
    "test_size": 12,
    "epochs": 2,
    "batch_size": 16,
}
# One run in a second, where the run folder is what is tested: EfficientNet-B0 with only its head to train. A model
# of 16 MB, checkpoints of 160 kB.
ONE = "efficientnet"
ONE_TINY = TINY | {"efficientnet.trainable": "head", "augment": False}
RESULTS = {
    "recipe.json",
    "environment.json",
    "history.csv",
    "metrics.json",
    "predictions.npz",
    "model.safetensors",
    "manifest.json",
}
_TIMES = {"seconds", "cache_seconds", "seconds_per_epoch", "images_per_second", "peak_memory_bytes", "stall_ratio"}
_PATIENCE = 120  # seconds until a process that should have done something long ago is given up


# --- Processes ---------------------------------------------------------------------------------------------


def start(work: Callable[..., None], log: Path, *arguments: Any) -> BaseProcess:
    """Start `work(*arguments)` in a process of its own that appends what it prints to `log`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["cifarlib.study"])
    process = context.Process(target=_logged, args=(work, log, *arguments))
    process.start()
    return process


def _logged(work: Callable[..., None], log: Path, *arguments: Any) -> None:
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    torch.set_num_threads(1)
    work(*arguments)


def ended(process: BaseProcess, log: Path, status: int = 0) -> None:
    """Wait for a process to end with `status`; else show what it printed."""
    process.join(_PATIENCE)
    assert process.exitcode == status, f"exit status {process.exitcode}, not {status}:\n{log.read_text()}"
    process.close()


def kill(process: BaseProcess) -> bool:
    """Send SIGKILL; False where the process had ended by itself."""
    process.kill()
    process.join()
    killed = process.exitcode == -signal.SIGKILL
    process.close()
    return killed


def until(ready: Callable[[], bool], what: str, *logs: Path) -> None:
    """Wait until something is so; give up long after it should have been."""
    deadline = time.monotonic() + _PATIENCE
    while not ready():
        printed = "\n".join(log.read_text() for log in logs if log.exists())
        assert time.monotonic() < deadline, f"in vain: {what}\n{printed}"
        time.sleep(0.01)


def says(log: Path, text: str) -> bool:
    """Whether a process has printed `text` into its log."""
    return log.exists() and text in log.read_text()


@contextmanager
def cleaned_up(processes: Sequence[BaseProcess]) -> Iterator[None]:
    """Leave no process behind, whatever fails."""
    try:
        yield
    finally:
        for process in processes:
            with suppress(ValueError):  # closed already
                process.kill()
                process.join()
                process.close()


class _Watched:
    """A standard output that does something once a line holds a text."""

    def __init__(self, at: str, act: Callable[[], None]) -> None:
        self._out, self._at, self._act, self._line = sys.stdout, at, act, ""

    def write(self, text: str) -> int:
        self._line += text
        self._out.write(text)
        if "\n" in text:
            self._out.flush()
            line, self._line = self._line, ""
            if self._at in line:
                self._act()
        return len(text)

    def flush(self) -> None:
        self._out.flush()


def train(
    root: Path,
    overrides: Mapping[str, Any],
    names: Sequence[str] = LEVELS,
    *,
    checkpoint_seconds: float = 0.0,
    at: str = "",
    gate: Path | None = None,
    lease: float | None = None,
) -> None:
    """Be a user's process: train, resume or load runs.

    Args:
        root: The study's run_root.
        overrides: The study's.
        names: The runs, in turn.
        checkpoint_seconds: The study's; 0 for a checkpoint after every step.
        at: Act when a printed line holds this text.
        gate: What to do then: wait until this file exists; None to be killed, as by the system.
        lease: Take the folder for a mounted one, with leases of so many seconds.
    """

    def act() -> None:
        if gate is None:
            os.kill(os.getpid(), signal.SIGKILL)
        else:
            until(gate.exists, f"{gate} to exist")

    if at:
        sys.stdout = _Watched(at, act)  # type: ignore[assignment]
    if lease is not None:
        locks.LEASE_SECONDS = lease
        locks.on_mount = lambda folder: True
    study = Study("demo", run_root=root, overrides=overrides, checkpoint_seconds=checkpoint_seconds)
    for name in names:
        study.run(name)


# --- Folders -----------------------------------------------------------------------------------------------


def snapshot(*folders: Path) -> dict[str, str]:
    """Return what lies in folders: path -> sha256, "folder" or "link"; without locks, which come and go."""
    found = {}
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.name in locks.FILES:
                continue
            kind = "link" if path.is_symlink() else "folder"
            if path.is_file() and kind != "link":
                with path.open("rb") as file:
                    kind = hashlib.file_digest(file, "sha256").hexdigest()
            found[str(path)] = kind
    return found


def parts(run: Path) -> list[Path]:
    """Return the temporary files of writes to a run folder that have begun and not ended."""
    found: list[Path] = []
    for place in (run, run / "checkpoints"):
        with suppress(OSError):  # they come and go
            found += [Path(entry.path) for entry in os.scandir(place) if entry.name.endswith(".part")]
    return found


def checkpoints(root: Path) -> set[str]:
    """Return the checkpoints that the manifests below `root` name, as <run's folder>/checkpoints/<file>."""
    found: set[str] = set()
    for path in root.glob("*/manifest.json"):
        files = json.loads(path.read_bytes())["files"]  # whole at any moment: that is promised
        found |= {f"{path.parent.name}/{name}" for name in files if name.startswith("checkpoints/")}
    return found


def assert_same_runs(root: Path, truth: Path) -> int:
    """Hold every run below `root` to the one below `truth`: the same bits, and no file that does not belong there.

    Returns:
        How many arrays were compared.
    """
    assert sorted(path.name for path in root.iterdir()) == sorted(path.name for path in truth.iterdir())
    return sum(assert_same_run(root / path.name, path) for path in truth.iterdir())


def assert_same_run(run: Path, truth: Path) -> int:
    """Hold a run folder to another one; see `assert_same_runs`."""
    assert {path.name for path in run.iterdir()} - set(locks.FILES) == RESULTS
    weights, true_weights = (load_file(folder / "model.safetensors") for folder in (run, truth))
    predictions, true_predictions = (dict(np.load(folder / "predictions.npz")) for folder in (run, truth))
    assert weights.keys() == true_weights.keys() and predictions.keys() == true_predictions.keys()
    for name, tensor in weights.items():
        assert torch.equal(tensor, true_weights[name]), (run.name, name)
    for name, array in predictions.items():
        np.testing.assert_array_equal(array, true_predictions[name], strict=True)
    history, true_history = (pd.read_csv(folder / "history.csv") for folder in (run, truth))
    lasting = [column for column in true_history if column not in _TIMES]
    pd.testing.assert_frame_equal(history[lasting], true_history[lasting], check_exact=True)
    assert list(history) == list(true_history)
    metrics, true_metrics = (json.loads((folder / "metrics.json").read_text()) for folder in (run, truth))
    assert metrics.keys() == true_metrics.keys()
    assert {key: metrics[key] for key in metrics if key not in _TIMES} == {
        key: true_metrics[key] for key in true_metrics if key not in _TIMES
    }
    return len(weights) + len(predictions)


# --- Disks -------------------------------------------------------------------------------------------------

_NEW_MOUNTS, _NEW_USER = 0x00020000, 0x10000000  # linux/sched.h
_READ_ONLY, _REMOUNT, _RECURSIVE, _PRIVATE = 1, 32, 1 << 14, 1 << 18  # linux/mount.h


class NotPermittedError(OSError):
    """This system does not let its users mount anything."""


def _call(function: str, *arguments: Any) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, function)(*arguments) != 0:
        number = ctypes.get_errno()
        raise NotPermittedError(number, f"{function}: {os.strerror(number)}")


def _mount(kind: str, folder: Path | str, flags: int, options: str) -> None:
    _call("mount", kind.encode(), str(folder).encode(), kind.encode(), ctypes.c_ulong(flags), options.encode())


def mount_disk(folder: Path, size: int) -> None:
    """Mount an empty disk of `size` bytes in memory at a folder, for this process and those it starts alone.

    To be called in a process of its own, before it has any thread. The disk goes with the process.

    Raises:
        NotPermittedError: the system forbids it.
    """
    if not sys.platform.startswith("linux"):
        raise NotPermittedError("only Linux gives a process mounts of its own")
    user, group = os.getuid(), os.getgid()
    try:
        _call("unshare", _NEW_MOUNTS)
    except NotPermittedError:  # not root: be the root of a user namespace
        _call("unshare", _NEW_MOUNTS | _NEW_USER)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    _mount("none", "/", _RECURSIVE | _PRIVATE, "")
    _mount("tmpfs", folder, 0, f"size={size}")


def resize_disk(folder: Path, size: int) -> None:
    """Give a disk made by `mount_disk` another size."""
    _mount("tmpfs", folder, _REMOUNT, f"size={size}")


def protect_disk(folder: Path) -> None:
    """Make a disk made by `mount_disk` read-only."""
    _mount("tmpfs", folder, _REMOUNT | _READ_ONLY, "")


_NOT_PERMITTED = 77  # the exit status of a process that may not mount anything


def run_on_a_disk(work: Callable[..., dict[str, int]], base: Path, size: int, *arguments: Any) -> dict[str, int]:
    """Have a process do `work(disk, *arguments)` on a disk of its own; returns the counts that it gives back."""
    (base / "disk").mkdir()
    log = base / "disk.log"
    process = start(_on_a_disk, log, work, base / "disk", size, base / "counts.json", *arguments)
    with cleaned_up([process]):
        process.join(_PATIENCE)
        if process.exitcode == _NOT_PERMITTED:
            pytest.skip(f"this system does not let a process mount a disk: {log.read_text()}")
        ended(process, log)
    counts: dict[str, int] = json.loads((base / "counts.json").read_text())
    return counts


def _on_a_disk(work: Callable[..., dict[str, int]], disk: Path, size: int, out: Path, *arguments: Any) -> None:
    try:
        mount_disk(disk, size)
    except NotPermittedError as error:
        print(error)
        sys.exit(_NOT_PERMITTED)
    out.write_text(json.dumps(work(disk, *arguments)))


def refused(work: Callable[[], Any]) -> str:
    """Return the message of the RunError that `work` must raise."""
    try:
        work()
    except runs.RunError as error:
        return str(error)
    raise AssertionError("no RunError")


def free_memory() -> int:
    """Return the machine's free memory in bytes: disks in memory take from it."""
    return int(psutil.virtual_memory().available)
