"""Run folders damaged in every way we could think of: found, named, and never loaded as a result.

Most of it on small arrays in a `RunFolder`, where thousands of damages cost seconds; then the kinds that a whole
study must stand, on real runs.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from harness import ONE, ONE_TINY, POSIX, RESULTS, assert_same_run, cleaned_up, ended, snapshot, start, train

from cifarlib import Study, recipes, training
from cifarlib.runs import Run, RunError, RunFolder

CLASSES = ("cat", "dog")
CHECKPOINTS = ("checkpoints/0001-000000.pt", "checkpoints/0001-000002.pt")
AGAIN = r"delete the folder, or move it away, to train this run again"


def folder(root: Path, **changes: Any) -> RunFolder:
    values = {"recipe": recipes.LEVEL1, "data": "images-1", "weights": "weights-1", "classes": CLASSES} | changes
    return RunFolder(root, values.pop("recipe"), **values)


def results(number: float) -> dict[str, Any]:
    """Results of a run; another number, other results."""
    labels = np.array([0, 1, 1], dtype=np.int64)
    probs = np.array([[0.5, 0.5], [0.25, 0.75], [number, 1 - number]], dtype=np.float32)
    return {
        "weights": {"fc.weight": torch.full((2, 3), number), "fc.bias": torch.zeros(2)},
        "history": pd.DataFrame({"epoch": [1, 2], "train_loss": [0.7, number], "seconds": [1.5, 2.0]}),
        "predictions": {"test_probs": probs, "test_labels": labels},
        "metrics": {"test_accuracy": number},
        "environment": {"torch": "2"},
    }


def finished(root: Path, number: float = 0.125, **changes: Any) -> RunFolder:
    run = folder(root, **changes)
    with run.lock():
        run.finish(**results(number))
    return run


def state(number: int) -> bytes:
    content = io.BytesIO()
    torch.save({"number": number, "tail": torch.full((4,), float(number))}, content)
    return content.getvalue()


def interrupted(root: Path, **changes: Any) -> RunFolder:
    """A run with two checkpoints: after one epoch, and after two steps more."""
    run = folder(root, **changes)
    with run.lock():
        run.save_checkpoint(1, 0, state(0))
        run.save_checkpoint(1, 2, state(2))
    return run


def resumed_at(run: RunFolder) -> list[int]:
    """Which checkpoint a training would go on from, if any."""
    found: list[int] = []

    def load(path: Path) -> None:
        content = training._read_checkpoint(path, {"number", "tail"})
        assert content["tail"].tolist() == [float(content["number"])] * 4
        found.append(content["number"])

    with run.lock():
        run.load_checkpoint(load)
    return found


def assert_true(run: Run, number: float = 0.125) -> None:
    """Hold a loaded run to what was written."""
    expected = results(number)
    assert run.recipe == recipes.LEVEL1
    assert run.metrics == expected["metrics"] and run.environment == expected["environment"]
    pd.testing.assert_frame_equal(run.history, expected["history"], check_exact=True)
    assert run.predictions.keys() == expected["predictions"].keys()
    for name, array in expected["predictions"].items():
        np.testing.assert_array_equal(run.predictions[name], array, strict=True)
    weights = run.weights()
    assert weights.keys() == expected["weights"].keys()
    assert all(torch.equal(value, weights[name]) for name, value in expected["weights"].items())


def forge(run: RunFolder, *names: str) -> None:
    """Make the manifest say that these files are as they should be, as someone would who wants them loaded."""
    path = run.path / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["sha256"]
    for name in names:
        manifest["files"][name] = hashlib.sha256((run.path / name).read_bytes()).hexdigest()
    manifest["sha256"] = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps(manifest))


class Bomb:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


# Each takes a file and damages it.
def missing(path: Path) -> None:
    path.unlink()


def truncated(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def one_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.with_name("nowhere"))


DAMAGES = (missing, truncated, emptied, one_bit, longer, a_folder, dangling)


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run_root with three other runs."""
    root = tmp_path_factory.mktemp("elsewhere")
    finished(root, 0.75, data="images-2")
    interrupted(root, weights="weights-2")
    finished(root, 0.875, recipe=replace(recipes.LEVEL2, seed=4))
    return root


@pytest.fixture
def others(elsewhere: Path, tmp_path: Path) -> Iterator[Path]:
    """A run_root that holds other runs too, of which no damage to ours may change a byte."""
    root = tmp_path / "runs"
    shutil.copytree(elsewhere, root)
    runs = list(root.iterdir())
    before = snapshot(*runs)
    yield root
    assert snapshot(*runs) == before


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("name", sorted(RESULTS))
def test_a_damaged_file_of_a_finished_run(
    others: Path, name: str, damage: Callable[[Path], None], tally: Callable[..., None]
) -> None:
    run = finished(others)
    damage(run.path / name)
    before = snapshot(others)
    with pytest.raises(RunError) as refusal:
        folder(others).load()
    assert name in str(refusal.value) and str(run.path) in str(refusal.value)
    if not (name == "manifest.json" and damage is a_folder):
        assert AGAIN in str(refusal.value)
    assert snapshot(others) == before
    tally("damage", kinds=name == "history.csv", cases=1, refused=1)


@pytest.mark.parametrize("name", sorted(RESULTS - {"manifest.json"}))
@pytest.mark.parametrize("every", [11])
def test_every_bit_of_a_result_counts(others: Path, name: str, every: int, tally: Callable[..., None]) -> None:
    run = finished(others)
    path = run.path / name
    content = path.read_bytes()
    for at in range(0, len(content), every):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :])
        with pytest.raises(RunError, match=name):
            folder(others).load()
        tally("damage", cases=1, refused=1)
    path.write_bytes(content)
    assert_true(folder(others).load())


def test_every_seventh_byte_of_a_manifest(others: Path, full: bool, tally: Callable[..., None]) -> None:
    """A flipped bit is found; were it one of white space, the result would have to be the true one."""
    run = finished(others)
    path = run.path / "manifest.json"
    content = path.read_bytes()
    harmless = refused = 0
    messages: set[str] = set()
    for at in range(0, len(content), 7):
        for bit in range(8) if full else [at % 8]:
            path.write_bytes(content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :])
            try:
                loaded = folder(others).load()
            except RunError as error:
                messages.add(str(error))
                refused += 1
            else:
                assert_true(loaded)
                harmless += 1
    path.write_bytes(content)
    assert_true(folder(others).load())
    assert messages == {f"{path} is damaged: {AGAIN}"}
    assert refused > 10 * harmless
    tally("damage", kinds=1, cases=harmless + refused, refused=refused, harmless=harmless)


@pytest.mark.parametrize("at", range(0, 12))
def test_a_truncated_manifest(others: Path, at: int, tally: Callable[..., None]) -> None:
    run = finished(others)
    path = run.path / "manifest.json"
    content = path.read_bytes()
    path.write_bytes(content[: at * len(content) // 12])
    with pytest.raises(RunError, match=rf"manifest\.json is damaged: {AGAIN}"):
        folder(others).load()
    tally("damage", cases=1, refused=1)


FOREIGN = {
    "a list": b"[1, 2]",
    "a list that ends as ours": b'[{"sha256": "0"}]',
    "a number": b"7",
    "a text": b'"manifest"',
    "nothing": b"null",
    "an empty mapping": b"{}",
    "another mapping": b'{"identity": {}, "sha256": 3}',
    "no text": bytes(range(256)),
    "a pickle": pickle.dumps({"state": "finished"}),
    "UTF-16": '{"state": "finished"}'.encode("utf-16"),
    "nested deeply": b"[" * 100_000,
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_a_manifest_that_is_something_else(others: Path, content: bytes, tally: Callable[..., None]) -> None:
    run = finished(others)
    (run.path / "manifest.json").write_bytes(content)
    with pytest.raises(RunError, match=rf"manifest\.json is damaged: {AGAIN}"):
        folder(others).load()
    tally("damage", kinds=content == b"[1, 2]", cases=1, refused=1)


@pytest.mark.parametrize("name", sorted(RESULTS - {"manifest.json", "recipe.json", "environment.json"}))
def test_a_file_swapped_with_another_runs(others: Path, name: str, tally: Callable[..., None]) -> None:
    run, other = finished(others), finished(others, 0.25, recipe=replace(recipes.LEVEL1, seed=3))
    mine, theirs = run.path / name, other.path / name
    aside = others.parent / name
    shutil.move(mine, aside)
    shutil.move(theirs, mine)
    shutil.move(aside, theirs)
    for damaged in (run, other):
        with pytest.raises(RunError, match=rf"{name} is missing or damaged: {AGAIN}"):
            damaged.load()
    tally("damage", kinds=name == "history.csv", cases=2, refused=2)


def test_all_files_of_another_run_but_the_manifest(others: Path, tally: Callable[..., None]) -> None:
    run, other = finished(others), finished(others, 0.25, recipe=replace(recipes.LEVEL1, seed=3))
    for name in RESULTS - {"manifest.json"}:
        shutil.copy(other.path / name, run.path / name)
    with pytest.raises(RunError, match="missing or damaged") as refusal:
        folder(others).load()
    assert all(name in str(refusal.value) for name in ("history.csv", "predictions.npz", "model.safetensors"))
    tally("damage", cases=1, refused=1)


@pytest.mark.parametrize("whole", [False, True], ids=["its manifest", "the whole folder"])
@pytest.mark.parametrize(
    "changes",
    [
        {"recipe": replace(recipes.LEVEL1, epochs=6)},
        {"recipe": replace(recipes.LEVEL1, seed=1)},
        {"data": "images-3"},
        {"weights": "weights-3"},
        {"classes": ("cat", "horse")},
    ],
    ids=["epochs", "seed", "images", "weights", "classes"],
)
@pytest.mark.parametrize("make", [finished, interrupted], ids=lambda make: make.__name__)
def test_a_run_of_something_else(
    others: Path,
    make: Callable[..., RunFolder],
    changes: dict[str, Any],
    whole: bool,
    tally: Callable[..., None],
) -> None:
    """Its folder moved here by hand, or its manifest alone."""
    mine, other = finished(others), make(others, **changes)
    if whole:
        shutil.rmtree(mine.path)
        shutil.copytree(other.path, mine.path)
    else:
        shutil.copy(other.path / "manifest.json", mine.path / "manifest.json")
    before = snapshot(others)
    for ask in (mine.finished, mine.load, lambda: resumed_at(mine)):
        with pytest.raises(
            RunError, match="another recipe, other images or other weights: move it away, or choose"
        ):
            ask()
    assert snapshot(others) == before
    tally("damage", kinds=make is finished and not whole, cases=3, refused=3)


def test_an_older_manifest_over_a_finished_run(
    others: Path, tally: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    """As a synchronising disk brings it back: the run counts as interrupted, without a checkpoint any more."""
    run = interrupted(others)
    older = (run.path / "manifest.json").read_bytes()
    with run.lock():
        run.finish(**results(0.125))
    (run.path / "manifest.json").write_bytes(older)
    assert not folder(others).finished()
    assert resumed_at(folder(others)) == []
    assert (
        "holds no whole checkpoint any more: the training starts again from the beginning"
        in capsys.readouterr().out
    )
    again = finished(others)  # what a training does then
    assert_true(again.load())
    assert {path.name for path in again.path.iterdir()} - {".lock"} == RESULTS
    tally("damage", kinds=1, cases=1, started_anew=1)


def test_the_first_manifest_over_a_finished_run(others: Path, tally: Callable[..., None]) -> None:
    run = folder(others)
    with run.lock():
        first = (run.path / "manifest.json").read_bytes()
        run.finish(**results(0.125))
    (run.path / "manifest.json").write_bytes(first)
    assert not folder(others).finished()
    assert resumed_at(folder(others)) == []
    assert_true(finished(others).load())
    tally("damage", cases=1, started_anew=1)


def test_a_finished_manifest_over_an_interrupted_run(others: Path, tally: Callable[..., None]) -> None:
    run = finished(others)
    manifest = (run.path / "manifest.json").read_bytes()
    shutil.rmtree(run.path)
    run = interrupted(others)
    (run.path / "manifest.json").write_bytes(manifest)
    before = snapshot(others)
    with pytest.raises(RunError, match=rf"missing or damaged.*{AGAIN}"):
        folder(others).load()
    assert snapshot(others) == before  # its checkpoints are the good part
    tally("damage", cases=1, refused=1)


@pytest.mark.parametrize("damage", [d for d in DAMAGES if d is not a_folder], ids=lambda damage: damage.__name__)
def test_damaged_checkpoints(
    others: Path,
    damage: Callable[[Path], None],
    tally: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The newest: the one before is taken. Both: the training starts again. Either way it is said."""
    run = interrupted(others)
    older, newest = (run.path / name for name in CHECKPOINTS)
    damage(older)
    assert resumed_at(run) == [2]
    assert capsys.readouterr().out == ""
    damage(newest)
    assert resumed_at(run) == []
    said = capsys.readouterr().out
    assert f"{newest} is damaged or missing: not used" in said and f"{older} is damaged" in said
    assert "the training starts again from the beginning" in said
    shutil.rmtree(run.path)
    run = interrupted(others)
    damage(newest)
    assert resumed_at(run) == [0]
    said = capsys.readouterr().out
    assert said == f"{newest} is damaged or missing: not used\n"
    # What is damaged stands in nobody's way: new checkpoints are written in its place, and the run is finished.
    with run.lock():
        run.save_checkpoint(1, 2, state(2))
        run.save_checkpoint(2, 0, state(4))
    assert resumed_at(run) == [4]
    assert_true(finished(others).load())
    assert {path.name for path in run.path.iterdir()} - {".lock"} == RESULTS
    tally("damage", kinds=1, cases=3, older_checkpoint_used=2, started_anew=1)


def test_checkpoints_swapped_with_one_another_and_with_another_runs(
    others: Path, tally: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    run = interrupted(others)
    older, newest = (run.path / name for name in CHECKPOINTS)
    content = older.read_bytes(), newest.read_bytes()
    older.write_bytes(content[1])
    newest.write_bytes(content[0])
    assert resumed_at(run) == []  # neither is what the manifest says
    torch.save({"number": 7, "tail": torch.full((4,), 7.0)}, newest)
    older.write_bytes(content[0])
    assert resumed_at(run) == [0]
    assert capsys.readouterr().out.count("not used") == 3
    tally("damage", kinds=1, cases=2, older_checkpoint_used=1, started_anew=1)


def hostile(path: Path, mark: Path) -> None:
    with path.open("wb") as file:
        pickle.dump({"number": 2, "tail": Bomb(mark)}, file, protocol=2)  # torch's own


def hostile_zip(path: Path, mark: Path) -> None:
    torch.save({"number": 2, "tail": Bomb(mark)}, path)


def words(path: Path, mark: Path) -> None:
    path.write_text("no checkpoint at all\n" * 20)


def nothing(path: Path, mark: Path) -> None:
    path.write_bytes(b"")


def half(path: Path, mark: Path) -> None:
    truncated(path)


def another_kind(path: Path, mark: Path) -> None:
    torch.save([1, 2, 3], path)


def other_names(path: Path, mark: Path) -> None:
    torch.save({"epoch": 3}, path)


@pytest.mark.parametrize("make", [hostile, hostile_zip, words, nothing, half, another_kind, other_names])
def test_a_foreign_checkpoint_that_the_manifest_vouches_for(
    others: Path, make: Callable[[Path, Path], None], tally: Callable[..., None]
) -> None:
    """Whoever can write a checkpoint can write its checksum too: no code of it runs, and it is no result."""
    run = interrupted(others)
    mark = others.parent / "it ran"
    make(run.path / CHECKPOINTS[1], mark)
    forge(run, CHECKPOINTS[1])
    before = snapshot(others)
    with pytest.raises(RunError, match=rf"{run.path / CHECKPOINTS[1]} is no checkpoint of this run: {AGAIN}"):
        resumed_at(run)
    assert not mark.exists()
    assert snapshot(others) == before
    tally("damage", kinds=make is hostile, cases=1, refused=1)


def test_the_bomb_would_go_off(tmp_path: Path) -> None:
    """The tests above can fail: a plain unpickling does run it."""
    hostile(tmp_path / "bomb.pkl", tmp_path / "it ran")
    with (tmp_path / "bomb.pkl").open("rb") as file:
        pickle.load(file)
    assert (tmp_path / "it ran").is_dir()


@pytest.mark.parametrize("kind", ["pickle", "pickled arrays", "pickled array in an archive", "text"])
def test_foreign_predictions_that_the_manifest_vouches_for(
    others: Path, kind: str, tally: Callable[..., None]
) -> None:
    run = finished(others)
    mark, path = others.parent / "it ran", run.path / "predictions.npz"
    if kind == "pickle":
        hostile(path, mark)
    elif kind == "text":
        path.write_text("test_probs")
    else:
        array = np.array([Bomb(mark)], dtype=object)
        with path.open("wb") as file:
            if kind == "pickled arrays":
                np.save(file, array, allow_pickle=True)
            else:
                np.savez(file, test_probs=array)
    forge(run, "predictions.npz")
    with pytest.raises(RunError, match=AGAIN):
        folder(others).load()
    assert not mark.exists()
    tally("damage", kinds=kind == "pickle", cases=1, refused=1)


@pytest.mark.parametrize("name", ["recipe.json", "metrics.json", "environment.json", "history.csv"])
@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00"], ids=["empty", "no text"])
def test_foreign_texts_that_the_manifest_vouches_for(
    others: Path, name: str, content: bytes, tally: Callable[..., None]
) -> None:
    run = finished(others)
    (run.path / name).write_bytes(content)
    forge(run, name)
    with pytest.raises(RunError, match=AGAIN):
        folder(others).load()
    tally("damage", cases=1, refused=1)


@pytest.mark.parametrize("left", [sorted(RESULTS - {"manifest.json"}), ["checkpoints"], ["model.safetensors"]])
def test_files_without_a_manifest(others: Path, left: list[str], tally: Callable[..., None]) -> None:
    run = interrupted(others) if left == ["checkpoints"] else finished(others)
    for path in run.path.iterdir():
        if path.name not in left:
            path.unlink()
    before = snapshot(others)
    for ask in (run.finished, run.load, lambda: resumed_at(run)):
        with pytest.raises(RunError, match=rf"manifest\.json is missing, and with it .*{left[-1]}.*{AGAIN}"):
            ask()
    assert snapshot(others) == before
    tally("damage", kinds=left == ["checkpoints"], cases=3, refused=3)


def test_an_empty_folder_is_a_run_that_has_not_begun(others: Path, tally: Callable[..., None]) -> None:
    run = folder(others)
    run.path.mkdir(parents=True)
    assert not run.finished()
    assert resumed_at(run) == []
    assert_true(finished(others).load())
    tally("damage", kinds=1, cases=1, started_anew=1)


def test_a_file_in_the_folders_place(others: Path, tally: Callable[..., None]) -> None:
    run = folder(others)
    run.path.write_text("not a folder")
    before = snapshot(others)
    for ask in (run.finished, run.load, lambda: resumed_at(run)):
        with pytest.raises(RunError, match=str(run.path)):
            ask()
    assert snapshot(others) == before
    tally("damage", kinds=1, cases=3, refused=3)


def test_leftovers_of_a_write_are_removed_and_never_read(others: Path, tally: Callable[..., None]) -> None:
    run = interrupted(others)
    left = [".manifest.json.part", ".model.safetensors.part", "checkpoints/.0001-000002.pt.part"]
    for name in left:
        (run.path / name).write_bytes(b"half of it")
    assert resumed_at(run) == [2]
    assert not any((run.path / name).exists() for name in left)
    # Written and renamed, but the manifest that names it was not: it does not count.
    torch.save({"number": 9, "tail": torch.full((4,), 9.0)}, run.path / "checkpoints" / "0009-000000.pt")
    assert resumed_at(run) == [2]
    assert_true(finished(others).load())
    assert {path.name for path in run.path.iterdir()} - {".lock"} == RESULTS
    tally("damage", kinds=1, cases=2, removed=len(left))


@pytest.mark.parametrize("name", [".lock", ".lease"])
@pytest.mark.parametrize("content", [b"", b"process 4194305 on elsewhere since 12:00", bytes(range(256))])
def test_a_lock_file_left_behind_holds_nobody_up(
    others: Path, name: str, content: bytes, tally: Callable[..., None]
) -> None:
    run = interrupted(others)
    (run.path / name).write_bytes(content)
    assert resumed_at(run) == [2]
    assert_true(finished(others).load())
    tally("damage", kinds=name == ".lock" and content == b"", cases=1, ignored=1)


def test_checkpoints_left_beside_a_finished_run(others: Path, tally: Callable[..., None]) -> None:
    """Killed between the last manifest and the removal of what it makes needless."""
    run = finished(others)
    (run.path / "checkpoints").mkdir()
    (run.path / "checkpoints" / "0001-000000.pt").write_bytes(b"old")
    assert_true(folder(others).load())
    assert {path.name for path in run.path.iterdir()} - {".lock"} == RESULTS
    tally("damage", kinds=1, cases=1, removed=1)


# --- Real runs ---------------------------------------------------------------------------------------------

REAL = ONE_TINY | {"epochs": 3}


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run_root with a finished EfficientNet-B0, and one with one that was killed in its third epoch."""
    if not POSIX:
        pytest.skip("SIGKILL and the fork server are POSIX's")
    base = tmp_path_factory.mktemp("real")
    whole, broken = base / "whole", base / "broken"
    processes = [start(train, base / "whole.log", whole, REAL, [ONE])]
    with cleaned_up(processes):
        ended(processes[0], base / "whole.log")
    processes = [start(_train_and_be_killed, base / "broken.log", broken)]
    with cleaned_up(processes):
        ended(processes[0], base / "broken.log", -signal.SIGKILL)
    return whole, broken


def _train_and_be_killed(root: Path) -> None:
    train(root, REAL, [ONE], at="epoch  3/3")


def one_folder(root: Path) -> Path:
    (found,) = root.iterdir()
    return found


def train_again(root: Path, *, status: int = 0) -> str:
    """Have a process train, resume or load the run; returns what it printed."""
    log = root.parent / f"{root.name}.log"
    process = start(train, log, root, REAL, [ONE])
    with cleaned_up([process]):
        ended(process, log, status)
    return log.read_text()


def test_real_runs_damaged(real: tuple[Path, Path], tmp_path: Path, tally: Callable[..., None]) -> None:
    """A study refuses every damaged result by name, leaves it alone, and has the true one once it is whole."""
    root = tmp_path / "runs"
    shutil.copytree(real[0], root)
    run = one_folder(root)
    for name in sorted(RESULTS):
        content = (run / name).read_bytes()
        for damage in (missing, truncated, one_bit):
            damage(run / name)
            before = snapshot(root)
            study = Study("demo", run_root=root, overrides=REAL)
            with pytest.raises(RunError, match=name):
                study.run(ONE)
            assert study.find(ONE) is None
            assert study.results() == {}
            assert snapshot(root) == before
            (run / name).write_bytes(content)
            tally("damage", cases=1, refused=1)
    assert_same_run(Study("demo", run_root=root, overrides=REAL).run(ONE).path, one_folder(real[0]))


def test_real_checkpoints_damaged(real: tuple[Path, Path], tmp_path: Path, tally: Callable[..., None]) -> None:
    """The newest, then both: resumed from the one before, or trained again, to the same bits."""
    for count, said in (
        (1, "resumed after epoch 2 of 3\n"),
        (2, "starts again from the beginning"),
    ):
        root = tmp_path / f"damaged{count}"
        shutil.copytree(real[1], root)
        run = one_folder(root)
        kept = sorted((run / "checkpoints").glob("*.pt"))
        assert [path.name for path in kept] == ["0002-000000.pt", "0002-000001.pt"]
        for path in kept[-count:]:
            one_bit(path)
        printed = train_again(root)
        assert said in printed and printed.count("not used") == count
        tally("damage", cases=1, arrays_identical=assert_same_run(run, one_folder(real[0])))


@pytest.mark.parametrize("kind", ["of another architecture", "hostile"])
def test_a_real_checkpoint_of_another_run_that_the_manifest_vouches_for(
    kind: str, real: tuple[Path, Path], tmp_path: Path, tally: Callable[..., None]
) -> None:
    """Another architecture's state does not enter the model in part, and code in one does not run."""
    root = tmp_path / "runs"
    shutil.copytree(real[1], root)
    run = one_folder(root)
    foreign = {"tail": {"fc.weight": torch.zeros(10, 2048)}, "optimizer": {}, "epoch": 2, "history": []}
    newest = max((run / "checkpoints").glob("*.pt"))
    torch.save(foreign, newest)
    if kind == "hostile":
        hostile_zip(newest, tmp_path / "it ran")
    name = f"checkpoints/{newest.name}"
    manifest = json.loads((run / "manifest.json").read_text())
    del manifest["sha256"]
    manifest["files"][name] = hashlib.sha256(newest.read_bytes()).hexdigest()
    manifest["sha256"] = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    (run / "manifest.json").write_text(json.dumps(manifest))
    before = snapshot(root)
    printed = train_again(root, status=1)
    assert not (tmp_path / "it ran").exists()
    assert "RunError" in printed and f"{newest.name} is no checkpoint of this run" in printed
    assert snapshot(root) == before
    tally("damage", cases=1, refused=1)


def test_a_real_run_behind_an_older_manifest(
    real: tuple[Path, Path], tmp_path: Path, tally: Callable[..., None]
) -> None:
    root = tmp_path / "runs"
    shutil.copytree(real[0], root)
    shutil.copy(one_folder(real[1]) / "manifest.json", one_folder(root) / "manifest.json")
    assert "starts again from the beginning" in train_again(root)
    tally(
        "damage", cases=1, started_anew=1, arrays_identical=assert_same_run(one_folder(root), one_folder(real[0]))
    )
