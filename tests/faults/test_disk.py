"""A disk that fills: what does not fit is said, what was written before stays whole, and with room it goes on.

Real disks, a few megabytes of memory mounted by a process for itself; where the system does not permit that, its
limit on the size of a file stands in for them.
"""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from harness import (
    ONE,
    ONE_TINY,
    POSIX,
    TINY,
    assert_same_runs,
    cleaned_up,
    ended,
    free_memory,
    parts,
    protect_disk,
    refused,
    resize_disk,
    run_on_a_disk,
    snapshot,
    start,
    train,
)

from cifarlib import Study, recipes, runs
from cifarlib.runs import RunFolder

pytestmark = pytest.mark.skipif(not POSIX, reason="disk limits and the fork server are POSIX's")

MIB = 2**20
NAMES = ("checkpoints/0001-000002.pt", "manifest.json")


# --- At every size of the rest -----------------------------------------------------------------------------


def save(number: int) -> bytes:
    """A checkpoint of 20 kB: five pages of the disk."""
    content = io.BytesIO()
    torch.save({"number": number, "tail": torch.full((5000,), float(number))}, content)
    return content.getvalue()


def _fill(disk: Path) -> dict[str, int]:
    """Leave room for 0, 1, 2 ... pages, and try to write: a checkpoint, then the results."""
    page = os.statvfs(disk).f_frsize
    counts = {"refused": 0, "written": 0}
    for pages in range(24):
        folder = RunFolder(disk / str(pages), recipes.LEVEL1, data="d", weights="w", classes=("cat", "dog"))
        with folder.lock():
            folder.save_checkpoint(1, 0, save(1))
            before = snapshot(folder.path)
            filler = disk / "filler"
            with filler.open("wb", buffering=0) as file:
                for size in (MIB, page):
                    try:
                        while file.write(b"\0" * size) == size:
                            pass
                    except OSError:
                        continue
                file.truncate(file.tell() // page * page - pages * page)
            try:
                folder.save_checkpoint(1, 2, save(2))
                expected = 2
                counts["written"] += 1
            except runs.RunError as error:
                said, expected = str(error), 1
                counts["refused"] += 1
            assert not parts(folder.path)
            found: list[int] = []
            folder.load_checkpoint(lambda path, found=found: found.append(torch.load(path)["number"]))  # type: ignore[misc]
            assert found == [expected], pages
            after = snapshot(folder.path)
            if expected == 1:
                assert any(f"{folder.path / name} could not be written: " in said for name in NAMES), said
                assert "make room, or choose another run_root" in said
                kept = {path: digest for path, digest in after.items() if "000002.pt" not in path}
                assert kept == before
            filler.unlink()
            folder.save_checkpoint(1, 2, save(2))  # there is room again
            folder.load_checkpoint(lambda path, found=found: found.append(torch.load(path)["number"]))  # type: ignore[misc]
            assert found[-1] == 2
    return counts


def test_a_checkpoint_on_a_disk_with_any_room_left(tmp_path: Path, tally: Callable[..., None]) -> None:
    counts = run_on_a_disk(_fill, tmp_path, 4 * MIB)
    assert counts["refused"] >= 5 and counts["written"] >= 5
    tally("full disk", **counts)


# --- Real trainings ----------------------------------------------------------------------------------------

SETTINGS = {"head": ONE_TINY, "whole": TINY}


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """EfficientNet-B0, its head trained and all of it, each alone in a run_root with all the room in the world."""
    base = tmp_path_factory.mktemp("truth")
    processes = [start(train, base / f"{name}.log", base / name, SETTINGS[name], [ONE]) for name in SETTINGS]
    with cleaned_up(processes):
        for process, name in zip(processes, SETTINGS, strict=True):
            ended(process, base / f"{name}.log")
    return base


def _train_and_resume(disk: Path, truth: Path, setting: str, unfit: str, size: int) -> dict[str, int]:
    """Train until the disk is full; then once more, with as little room; then with room."""
    root = disk / "runs"
    for _ in range(2):
        study = Study("demo", run_root=root, overrides=SETTINGS[setting], checkpoint_seconds=0.0)
        message = refused(lambda study=study: study.run(ONE))  # type: ignore[misc]
        print(message)
        assert unfit in message and str(root) in message and "MiB are free there" in message
        assert "make room, or choose another run_root" in message
        (folder,) = root.iterdir()
        assert not parts(folder)
        files = json.loads((folder / "manifest.json").read_text())["files"]
        assert len(files) == 2 and all((folder / file).is_file() for file in files)
    resize_disk(disk, size)
    study = Study("demo", run_root=root, overrides=SETTINGS[setting], checkpoint_seconds=0.0)
    study.run(ONE)
    return {"refused": 2, "resumed": 1, "arrays_identical": assert_same_runs(root, truth / setting)}


@pytest.mark.parametrize(
    ("setting", "unfit", "small", "large"),
    [
        # Its checkpoints are small, and the model of 16 MB is what does not fit.
        ("head", "model.safetensors", 8 * MIB, 24 * MIB),
        # Two checkpoints of 48 MB fit, and a third beside them does not.
        ("whole", "checkpoints/0001-000001.pt", 120 * MIB, 240 * MIB),
    ],
    ids=["the result", "a checkpoint"],
)
def test_a_training_that_fills_the_disk_goes_on_with_more_room(
    setting: str, unfit: str, small: int, large: int, truth: Path, tmp_path: Path, tally: Callable[..., None]
) -> None:
    if free_memory() < 4 * large:
        pytest.skip("too little memory for a disk in it")
    counts = run_on_a_disk(_train_and_resume, tmp_path, small, truth, setting, unfit, large)
    said = (tmp_path / "disk.log").read_text()
    assert len(re.findall(rf"^{ONE}: resumed after epoch [12] of 2", said, re.M)) == 2
    tally("full disk", **counts)


def _limited(root: Path) -> None:
    """Train where no file may be larger than 100 kB: the checkpoints are."""
    import resource

    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, most))
    study = Study("demo", run_root=root, overrides=ONE_TINY, checkpoint_seconds=0.0)
    message = refused(lambda: study.run(ONE))
    assert "checkpoints/0000-000001.pt could not be written" in message and "make room" in message, message
    assert not any(parts(folder) for folder in root.iterdir())
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    study.run(ONE)


def test_a_file_that_the_system_does_not_take(tmp_path: Path, truth: Path, tally: Callable[..., None]) -> None:
    """A quota, or a limit on files: no mount is needed for this, so it is tested wherever signals are."""
    log = tmp_path / "log"
    process = start(_limited, log, tmp_path / "runs")
    with cleaned_up([process]):
        ended(process, log)
    found = assert_same_runs(tmp_path / "runs", truth / "head")
    tally("full disk", refused=1, resumed=1, arrays_identical=found)


def _read_only(disk: Path) -> dict[str, int]:
    folder = RunFolder(disk / "runs", recipes.LEVEL1, data="d", weights="w", classes=("cat", "dog"))
    with folder.lock():
        folder.save_checkpoint(1, 0, save(1))
    protect_disk(disk)
    before = snapshot(disk)
    message = refused(folder.lock().__enter__)
    assert (
        str(folder.path) in message and "Read-only file system" in message and "choose another run_root" in message
    )
    other = RunFolder(disk / "others", recipes.LEVEL1, data="d", weights="w", classes=("cat", "dog"))
    assert "Read-only file system" in refused(other.lock().__enter__)
    assert snapshot(disk) == before
    return {"read_only": 2}


def test_a_disk_that_is_read_only(tmp_path: Path, tally: Callable[..., None]) -> None:
    tally("full disk", **run_on_a_disk(_read_only, tmp_path, MIB))
