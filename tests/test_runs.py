"""The run folder: what is written comes back, and what is damaged or foreign is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from cifarlib import recipes
from cifarlib.runs import RunError, RunFolder

CLASSES = ("cat", "dog")


def folder(root: Path, **changes: Any) -> RunFolder:
    values = {"recipe": recipes.LEVEL1, "data": "images-1", "weights": "weights-1", "classes": CLASSES} | changes
    return RunFolder(root, values.pop("recipe"), **values)


def finish(run: RunFolder, **changes: Any) -> None:
    results: dict[str, Any] = {
        "weights": {"fc.weight": torch.arange(6.0).reshape(2, 3).t()},  # not contiguous
        "history": pd.DataFrame({"epoch": [1, 2], "train_loss": [0.1 + 0.2, 1 / 3], "seconds": [1.5, 2.0]}),
        "predictions": {
            "test_probs": np.array([[0.25, 0.75]], dtype=np.float32),
            "test_labels": np.array([1], dtype=np.int64),
        },
        "metrics": {"test_accuracy": 1.0},
        "environment": {"torch": "2"},
    }
    run.finish(**(results | changes))


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    written = folder(tmp_path)
    assert not written.finished()
    finish(written)
    assert folder(tmp_path).finished()
    run = folder(tmp_path).load()
    assert run.recipe == recipes.LEVEL1
    assert run.classes == CLASSES
    assert run.history["train_loss"].tolist() == [0.1 + 0.2, 1 / 3]  # every bit of it
    assert run.history["epoch"].tolist() == [1, 2]
    assert run.predictions["test_probs"].dtype == np.float32
    assert run.predictions["test_probs"].tolist() == [[0.25, 0.75]]
    assert run.metrics == {"test_accuracy": 1.0}
    assert torch.equal(run.weights()["fc.weight"], torch.arange(6.0).reshape(2, 3).t())
    assert not [path for path in run.path.rglob("*") if path.name.endswith(".part")]


@pytest.mark.parametrize(
    "change",
    [
        {"recipe": replace(recipes.LEVEL1, epochs=6)},
        {"data": "images-2"},
        {"weights": "weights-2"},
        {"classes": ("cat", "horse")},
    ],
)
def test_another_recipe_images_or_weights_are_another_run(tmp_path: Path, change: dict[str, Any]) -> None:
    finish(folder(tmp_path))
    other = folder(tmp_path, **change)
    assert not other.finished()
    # Moved into its place by hand, the first run is refused by name.
    folder(tmp_path).path.rename(other.path)
    with pytest.raises(RunError, match="another recipe, other images or other weights"):
        other.finished()


def test_the_path_of_the_weights_does_not_count_but_their_content_does(tmp_path: Path) -> None:
    a = folder(tmp_path, recipe=replace(recipes.LEVEL1, weights="here.pth"), weights="sha256-1")
    b = folder(tmp_path, recipe=replace(recipes.LEVEL1, weights="there.pth"), weights="sha256-1")
    assert a.path == b.path


@pytest.mark.parametrize(
    "name",
    ["recipe.json", "environment.json", "history.csv", "metrics.json", "predictions.npz", "model.safetensors"],
)
@pytest.mark.parametrize("damage", ["missing", "truncated", "one bit"])
def test_damage_is_named_and_nothing_is_loaded(tmp_path: Path, name: str, damage: str) -> None:
    run = folder(tmp_path)
    finish(run)
    path = run.path / name
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(RunError, match=rf"{name} is missing or damaged: delete .* to train this run again"):
        run.load()


def test_a_damaged_manifest_is_named(tmp_path: Path) -> None:
    run = folder(tmp_path)
    finish(run)
    (run.path / "manifest.json").write_text("{")
    with pytest.raises(RunError, match=r"manifest\.json is damaged"):
        run.load()


def test_metrics_must_be_numbers(tmp_path: Path) -> None:
    run = folder(tmp_path)
    with pytest.raises(ValueError, match="JSON"):
        finish(run, metrics={"test_accuracy": float("nan")})
    assert not run.finished()
    assert [path.name for path in run.path.iterdir() if path.name.endswith(".part")] == []


def saver(text: str) -> Callable[[Path], None]:
    return lambda path: path.write_text(text) and None


def loaded(run: RunFolder) -> list[str]:
    found: list[str] = []
    run.load_checkpoint(lambda path: found.append(path.read_text()))
    return found


def test_the_two_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    run = folder(tmp_path)
    assert loaded(run) == []
    for epoch in (1, 2, 3):
        run.save_checkpoint(epoch, saver(f"after {epoch}"))
    assert sorted(os.listdir(run.path / "checkpoints")) == ["epoch0002.pt", "epoch0003.pt"]
    assert loaded(run) == ["after 3"]
    assert not run.finished()


@pytest.mark.parametrize("damage", ["truncated", "missing", "not in the manifest"])
def test_the_newest_whole_checkpoint_wins(tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    run = folder(tmp_path)
    run.save_checkpoint(1, saver("after 1"))
    run.save_checkpoint(2, saver("after 2"))
    newest = run.path / "checkpoints" / "epoch0002.pt"
    if damage == "truncated":
        newest.write_text("aft")
    elif damage == "missing":
        newest.unlink()
    else:  # written, but the machine went away before the manifest was
        (run.path / "checkpoints" / "epoch0003.pt").write_text("after 3, half of it")
    assert loaded(run) == (["after 2"] if damage == "not in the manifest" else ["after 1"])
    assert ("damaged or missing" in capsys.readouterr().out) == (damage != "not in the manifest")


def test_checkpoints_go_when_the_run_is_finished(tmp_path: Path) -> None:
    run = folder(tmp_path)
    run.save_checkpoint(1, saver("after 1"))
    finish(run)
    assert not (run.path / "checkpoints").exists()
    assert set(json.loads((run.path / "manifest.json").read_text())["files"]) == {
        path.name for path in run.path.iterdir() if path.name != "manifest.json"
    }


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    run = folder(tmp_path)
    run.save_checkpoint(1, saver("after 1"))

    def break_off(path: Path) -> None:
        path.write_text("half")
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        run.save_checkpoint(1, break_off)
    assert loaded(run) == ["after 1"]
    assert os.listdir(run.path / "checkpoints") == ["epoch0001.pt"]


def test_a_second_writer_waits_and_says_so(tmp_path: Path) -> None:
    """Two processes, one folder: the second gets in only after the first is out."""
    script = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from cifarlib import recipes
        from cifarlib.runs import RunFolder
        run = RunFolder(sys.argv[1], recipes.LEVEL1, data="images-1", weights="weights-1", classes=("cat", "dog"))
        with run.lock():
            print("in", (run.path / "first.txt").read_text(), flush=True)
        """
    )
    run = folder(tmp_path)
    with run.lock():
        second = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert second.stdout is not None
        assert "another process; waiting" in second.stdout.readline()
        (run.path / "first.txt").write_text("first is done")
    assert second.stdout.readline() == "in first is done\n"
    assert second.wait() == 0
    second.stdout.close()
