"""The run folder: what is written comes back, and what is damaged or foreign is refused."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import subprocess
import sys
import textwrap
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from cifarlib import recipes, runs, training
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


def test_the_environment_says_why_two_records_differ(tmp_path: Path) -> None:
    """Another processor, or as here the same one with other kernels of torch's, in a process of its own."""
    here = runs.environment(torch.device("cpu"))
    if Path("/proc/cpuinfo").exists() and platform.machine() == "x86_64":
        assert f"\t: {here['processor']}\n" in Path("/proc/cpuinfo").read_text()
    assert here["processor"].strip() and here["machine"] == platform.machine()
    code = (
        "import json, torch; from cifarlib import runs; print(json.dumps(runs.environment(torch.device('cpu'))))"
    )
    command, oldest = [sys.executable, "-c", code], os.environ | {"ATEN_CPU_CAPABILITY": "default"}
    done = subprocess.run(command, env=oldest, capture_output=True, text=True, check=True)
    there = json.loads(done.stdout)
    assert {key for key in here if here[key] != there[key]} <= {"cpu_capability", "threads"}
    assert there["cpu_capability"] == "DEFAULT"
    finish(folder(tmp_path), environment=here)
    assert folder(tmp_path).load().environment == here


def test_a_run_whose_environment_has_fewer_entries_is_loaded(tmp_path: Path) -> None:
    """As runs were kept before the processor's model was."""
    finish(folder(tmp_path), environment={"torch": "2", "processor": "x86_64"})
    assert runs.open_run(folder(tmp_path).path).environment == {"torch": "2", "processor": "x86_64"}


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


@dataclass(frozen=True, kw_only=True)
class Wider(recipes.Recipe):
    """A recipe as a later version may have it: with a field more, which is off by default."""

    mixup: float = recipes._number(0.0, 0, 1)


def test_a_new_field_of_recipes_orphans_no_finished_run(tmp_path: Path) -> None:
    finish(folder(tmp_path))
    wider = folder(tmp_path, recipe=Wider(**recipes.LEVEL1.to_dict()))
    assert wider.finished()
    assert wider.load().history.equals(folder(tmp_path).load().history)
    other = folder(tmp_path, recipe=Wider(**recipes.LEVEL1.to_dict() | {"mixup": 0.2}))
    assert other.path != wider.path and not other.finished()


@pytest.mark.parametrize(
    ("recipe", "name"),
    [  # where these were kept
        (recipes.LEVEL1, "level1-129cfe0d3148"),
        (replace(recipes.LEVEL2, seed=3, image_size=64), "level2-1709662316c5"),
    ],
)
def test_a_run_of_number_3_is_found_and_loaded_as_long_as_results_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: recipes.Recipe, name: str
) -> None:
    known: dict[str, Any] = {"data": "images", "weights": "w", "classes": ("cat", "dog")}
    new = RunFolder(tmp_path, recipe, **known)
    finish(new)
    # Its manifest says no more than this; the files are the same.
    identity = {"results": 3, "recipe": recipe.to_dict() | {"weights": "w"}, "data": "images"}
    manifest = json.loads((new.path / "manifest.json").read_text())
    manifest |= {"identity": identity | {"classes": ["cat", "dog"]}}
    del manifest["sha256"]
    manifest["sha256"] = runs._digest(manifest)
    (new.path / "manifest.json").write_text(json.dumps(manifest))
    new.path.rename(tmp_path / name)

    old = RunFolder(tmp_path, recipe, **known)
    assert old.path.name == name and old.finished()
    assert old.load().metrics == runs.open_run(tmp_path / name).metrics == {"test_accuracy": 1.0}
    (listed,) = runs.survey(tmp_path)
    assert (listed.state, listed.recipe) == ("finished", replace(recipe, weights="w"))
    with monkeypatch.context() as patch:
        patch.setattr(runs, "SCHEMA", 5)
        assert not RunFolder(tmp_path, recipe, **known).finished()
        assert [found.state for found in runs.survey(tmp_path)] == ["foreign"]
    # A recipe that could not have been trained then is another run, and what is there by now comes first.
    later = Wider(**recipe.to_dict() | {"mixup": 0.2})
    assert not RunFolder(tmp_path, later, **known).finished()
    finish(RunFolder(tmp_path / "elsewhere", recipe, **known))
    next((tmp_path / "elsewhere").iterdir()).rename(new.path)
    assert RunFolder(tmp_path, recipe, **known).path == new.path


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
    with pytest.raises(RunError, match=rf"{name} is missing or damaged: delete the folder"):
        run.load()


def test_a_damaged_manifest_is_named(tmp_path: Path) -> None:
    run = folder(tmp_path)
    finish(run)
    manifest = run.path / "manifest.json"
    whole = manifest.read_bytes()
    broken = [whole[:-20], b"{", b"", b"[]", b"null", whole.replace(b'"finished"', b'"finishee"'), b"\xff" + whole]
    for content in broken:
        manifest.write_bytes(content)
        with pytest.raises(RunError, match=r"manifest\.json is damaged: delete the folder"):
            run.load()
        with pytest.raises(RunError, match="is damaged"), run.lock():
            pytest.fail("a writer must not be let in")
        assert manifest.read_bytes() == content


def test_files_without_a_manifest_are_damage_and_not_a_new_run(tmp_path: Path) -> None:
    run = folder(tmp_path)
    finish(run)
    (run.path / "manifest.json").unlink()
    with pytest.raises(RunError, match=r"manifest\.json is missing, .*model\.safetensors.*: delete the folder"):
        run.finished()
    (run.path / "history.csv").rename(tmp_path / "history.csv")
    for name in ("recipe.json", "environment.json", "metrics.json", "predictions.npz", "model.safetensors"):
        (run.path / name).unlink()
    assert not run.finished()  # an empty folder is a new one


def test_the_manifest_is_there_from_the_start(tmp_path: Path) -> None:
    """So that a kill before the first checkpoint's manifest leaves no files that nothing speaks of."""
    run = folder(tmp_path)
    with run.lock():
        assert json.loads((run.path / "manifest.json").read_text())["state"] == "interrupted"
        (run.path / "checkpoints").mkdir()
        (run.path / "checkpoints" / "0001-000000.pt").write_text("the machine went away here")
    assert not run.finished()
    assert loaded(run) == []


def test_a_new_writer_clears_away_what_a_dead_one_left(tmp_path: Path) -> None:
    run = folder(tmp_path)
    run.save_checkpoint(1, 0, b"after 1")
    left = [run.path / ".model.safetensors.part", run.path / "checkpoints" / ".0002-000000.pt.part"]
    for path in left:
        path.write_text("half")
    with run.lock():
        assert not any(path.exists() for path in left)
    assert loaded(run) == ["after 1"]


def test_checkpoints_left_beside_results_are_cleared_away(tmp_path: Path) -> None:
    run = folder(tmp_path)
    finish(run)
    (run.path / "checkpoints").mkdir()
    run.load()
    assert not (run.path / "checkpoints").exists()


def test_what_was_written_but_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    run = folder(tmp_path)
    run.save_checkpoint(1, 0, b"not what torch wrote")
    with pytest.raises(RunError, match=r"0001-000000\.pt is no checkpoint of this run: delete the folder"):
        run.load_checkpoint(lambda path: training._read_checkpoint(path, {"tail"}) and None)

    def short(path: Path) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):  # no fault of the file: it must not be called damaged
        run.load_checkpoint(short)


def test_a_lost_lease_stops_the_writer(tmp_path: Path) -> None:
    run = folder(tmp_path)
    run.save_checkpoint(1, 0, b"after 1")
    run._held = lambda: False
    with pytest.raises(RunError, match=r"is not this process's any more"):
        run.save_checkpoint(2, 0, b"after 2")
    assert loaded(run) == ["after 1"]


def test_metrics_must_be_numbers(tmp_path: Path) -> None:
    run = folder(tmp_path)
    with pytest.raises(ValueError, match="JSON"), run.lock():
        finish(run, metrics={"test_accuracy": float("nan")})
    assert not run.finished()
    assert [path.name for path in run.path.iterdir() if path.name.endswith(".part")] == []


def loaded(run: RunFolder) -> list[str]:
    found: list[str] = []
    run.load_checkpoint(lambda path: found.append(path.read_text()))
    return found


def test_the_two_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    run = folder(tmp_path)
    assert loaded(run) == []
    for epochs, steps in ((1, 0), (1, 7), (1, 12), (2, 0)):
        run.save_checkpoint(epochs, steps, f"after {epochs} and {steps}".encode())
    assert sorted(os.listdir(run.path / "checkpoints")) == ["0001-000012.pt", "0002-000000.pt"]
    assert loaded(run) == ["after 2 and 0"]
    assert not run.finished()


@pytest.mark.parametrize("damage", ["truncated", "missing", "not in the manifest"])
def test_the_newest_whole_checkpoint_wins(tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    run = folder(tmp_path)
    run.save_checkpoint(1, 0, b"after 1")
    run.save_checkpoint(2, 0, b"after 2")
    newest = run.path / "checkpoints" / "0002-000000.pt"
    if damage == "truncated":
        newest.write_text("aft")
    elif damage == "missing":
        newest.unlink()
    else:  # written, but the machine went away before the manifest was
        (run.path / "checkpoints" / "0003-000000.pt").write_text("after 3, half of it")
    assert loaded(run) == (["after 2"] if damage == "not in the manifest" else ["after 1"])
    assert ("damaged or missing" in capsys.readouterr().out) == (damage != "not in the manifest")


def test_without_a_whole_checkpoint_the_training_starts_anew_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = folder(tmp_path)
    run.save_checkpoint(1, 0, b"after 1")
    (run.path / "checkpoints" / "0001-000000.pt").unlink()
    assert loaded(run) == []
    assert "starts again from the beginning" in capsys.readouterr().out


def test_checkpoints_go_when_the_run_is_finished(tmp_path: Path) -> None:
    run = folder(tmp_path)
    run.save_checkpoint(1, 0, b"after 1")
    finish(run)
    assert not (run.path / "checkpoints").exists()
    assert set(json.loads((run.path / "manifest.json").read_text())["files"]) == {
        path.name for path in run.path.iterdir() if path.name != "manifest.json"
    }


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, r"No space left on device\. [\d,]+ MiB are free there: make room"),
        (errno.EROFS, r"Read-only file system\. Get the right to write there"),
        (errno.EIO, r"Input/output error\. Choose another run_root"),
    ],
)
def test_a_failed_write_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, remedy: str
) -> None:
    run = folder(tmp_path)
    run.save_checkpoint(1, 0, b"after 1")

    def fail(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(
            RunError, match=rf"0001-000000\.pt could not be written: {remedy}.*whole, and the same call"
        ):
            run.save_checkpoint(1, 0, b"again after 1")
    assert loaded(run) == ["after 1"]
    assert os.listdir(run.path / "checkpoints") == ["0001-000000.pt"]


def test_damaged_checkpoints_do_not_push_out_whole_ones(tmp_path: Path) -> None:
    """What lies there damaged is not counted as one of the two that are kept, however new it is."""
    run = folder(tmp_path)
    for epochs in (8, 9, 10):
        run.save_checkpoint(epochs, 0, f"after {epochs}".encode())
    (run.path / "checkpoints" / "0010-000000.pt").write_text("damaged")
    again = folder(tmp_path)
    assert loaded(again) == ["after 9"]
    again.save_checkpoint(9, 5, b"after 9 and 5")
    assert sorted(os.listdir(run.path / "checkpoints")) == ["0009-000000.pt", "0009-000005.pt"]

    for path in (run.path / "checkpoints").iterdir():
        path.write_text("damaged")
    anew = folder(tmp_path)
    assert loaded(anew) == []
    for epochs in (1, 2, 3):
        anew.save_checkpoint(epochs, 0, f"once more {epochs}".encode())
    assert sorted(os.listdir(run.path / "checkpoints")) == ["0002-000000.pt", "0003-000000.pt"]
    assert loaded(folder(tmp_path)) == ["once more 3"]


def test_a_disk_that_cannot_be_read_is_damage_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = folder(tmp_path)
    run.save_checkpoint(1, 0, b"after 1")
    run.save_checkpoint(2, 0, b"after 2")
    digest = hashlib.file_digest

    def fail(file: Any, name: str) -> Any:
        if "0002" in file.name:
            raise OSError(errno.EIO, "Input/output error")
        return digest(file, name)

    monkeypatch.setattr(hashlib, "file_digest", fail)
    assert loaded(folder(tmp_path)) == ["after 1"]


def test_what_is_written_can_be_read_by_others(tmp_path: Path) -> None:
    run = folder(tmp_path)
    mask = os.umask(0o022)
    try:
        finish(run)
    finally:
        os.umask(mask)
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in run.path.iterdir()}
    assert len(modes) == 7
    assert set(modes.values()) == {"0o644"}, modes


def test_a_folder_that_cannot_be_listed_is_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    """A file here, since no mode keeps root out of a folder."""
    assert runs.survey(tmp_path) == runs.survey(tmp_path / "not yet there") == []
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"file cannot be listed \(Not a directory\): get the right to read it, or"):
        runs.survey(tmp_path / "file")


def test_a_killed_training_is_not_under_way_because_its_number_was_given_anew(tmp_path: Path) -> None:
    run = folder(tmp_path)
    with run.lock():
        assert [found.state for found in runs.survey(tmp_path)] == ["training"]
        left = (run.path / ".lock").read_text()
    assert f"process {os.getpid()} on " in left
    (run.path / ".lock").write_text(left)  # as a kill leaves it, and this process is alive
    assert [found.state for found in runs.survey(tmp_path)] == ["interrupted"]
    assert (run.path / ".lock").read_text() == left
    with run.lock():  # having looked keeps nobody out
        assert [found.state for found in runs.survey(tmp_path)] == ["training"]


@pytest.mark.skipif(os.name != "posix", reason="flock is POSIX's")
def test_where_locks_cannot_be_asked_the_number_of_the_process_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    run = folder(tmp_path)
    with run.lock():
        left = (run.path / ".lock").read_text()

    def flock(*_: Any) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", flock)
    (run.path / ".lock").write_text(left)
    assert [found.state for found in runs.survey(tmp_path)] == ["training"]
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        pass
    (run.path / ".lock").write_text(left.replace(f"process {os.getpid()}", f"process {gone.pid}"))
    assert [found.state for found in runs.survey(tmp_path)] == ["interrupted"]


def test_a_second_writer_waits_and_says_so(tmp_path: Path) -> None:
    """Two processes, one folder: the second gets in only after the first is out."""
    script = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from cifarlib import recipes, training
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
        assert f"is being written by process {os.getpid()} on " in second.stdout.readline()
        (run.path / "first.txt").write_text("first is done")
    assert second.stdout.readline() == "in first is done\n"
    assert second.wait() == 0
    second.stdout.close()
