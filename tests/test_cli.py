"""The command line beyond `report`: train, predict, runs and export, on small runs that are really trained."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from cifarlib import Study, __main__, data, evaluation, exporting, predicting, progress, recipes, reports, runs
from cifarlib.__main__ import main, parser
from cifarlib.runs import RunFolder

# Seconds for all four; maps of more than one pixel for Grad-CAM.
SMALL = {
    "weights": "none",
    "image_size": 32,
    "store_size": 32,
    "efficientnet.image_size": 48,
    "train_size": 40,
    "val_size": 20,
    "test_size": 30,
    "epochs": 1,
    "batch_size": 20,
}
SETTING = ["--profile", "demo", *(part for name in SMALL for part in ("--set", f"{name}={SMALL[name]}"))]


class Made:
    """Runs that the command line trained, and the study's test images as files."""

    def __init__(self, base: Path) -> None:
        self.root, self.pictures = base / "runs", base / "pictures"
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            self.status = main(["train", "1", "level4", *SETTING, "--run-root", str(self.root)])
            self.study = Study("demo", run_root=self.root, overrides=SMALL)
            self.runs = {name: self.study.run(name) for name in ("level1", "level3", "efficientnet")}
        self.said = said.getvalue()
        self.pictures.mkdir()
        for number, image in enumerate(self.study.split.test.images):
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(self.pictures / f"{number:02d}.png")
        self.labels = self.runs["level3"].predictions["val_labels"]

    def calibrated(self, *names: str) -> np.ndarray:
        """What the vote of these runs says about the test images, from what training kept."""
        test, val = (
            evaluation.soft_vote([self.runs[name].predictions[f"{part}_probs"] for name in names])
            for part in ("test", "val")
        )
        return evaluation.calibrate(test, val, self.labels)[1]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("cli"))


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command line; returns its exit status, output and errors."""

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            status = main([*map(str, arguments)])
        except SystemExit as ended:
            status = int(str(ended.code))
        return status, *capsys.readouterr()

    return run


Call = Callable[..., tuple[int, str, str]]


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in sorted(folder.rglob("*"))}


def lines(text: str) -> list[dict[str, Any]]:
    """Strict JSON, an object a line: NaN and infinities are none."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


# --- Help --------------------------------------------------------------------------------------------------


def test_every_command_has_a_help_worth_reading(call: Call) -> None:
    status, said, _ = call("--help")
    assert status == 0
    commands = ("report", "evaluate", "train", "predict", "runs", "doctor", "export")
    for command in commands:
        assert re.search(rf"^    {command} +\w.{{10,}}$", said, flags=re.MULTILINE), command
        status, about, _ = call(command, "--help")
        assert status == 0
        assert "exit status" in about
        assert max(map(len, about.splitlines())) <= 115
        examples = re.findall(r"^  cifarlib (.+?)(?:  .*)?$", about, flags=re.MULTILINE)
        assert examples or command == "runs"
        for line in examples:  # what they say can be typed
            assert parser().parse_args(shlex.split(line.partition(" > ")[0])).command == command, line
    for line in re.findall(r"^  cifarlib (.+?)(?:  .*)?$", said, flags=re.MULTILINE):
        assert parser().parse_args(line.split()).command == line.split()[0]


def test_the_version_is_that_of_the_package_if_it_is_installed(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert call("--version")[:2] == (0, f"cifarlib {metadata.version('cifarlib')}\n")

    def absent(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", absent)
    assert call("--version")[:2] == (0, "cifarlib not installed\n")
    assert call("runs", "--run-root", tmp_path)[0] == 0


def test_every_field_that_set_takes_is_listed(call: Call) -> None:
    _, about, _ = call("train", "--help")
    listed = re.findall(r"\w+", about.partition("Fields of recipes:")[2].partition("exit status")[0])
    assert {*recipes.RECIPE_FIELDS, *recipes.PROFILE_FIELDS} <= set(listed)


@pytest.mark.parametrize(
    "command", [("train", "level1"), ("report",), ("evaluate", "shots"), ("doctor", "--no-timing")]
)
def test_a_folder_of_images_that_is_not_there_is_not_filled_with_cifar_10(
    command: tuple[str, ...], tmp_path: Path, call: Call
) -> None:
    """A typing error in the name of one's own images would train on others."""
    missing = tmp_path / "leavs"
    status, _, said = call(*command, "--profile", "full", "--data-root", missing)
    assert (status, missing.exists()) == (2, False)
    assert f"--data-root {missing} does not exist: give the folder of your images" in said
    status, _, said = call("evaluate", missing / "shots", "--profile", "demo", "--data-root", missing)
    assert f"profile demo draws its own images: --data-root {missing} is not used" in said


def test_what_a_terminal_cannot_show_ends_no_command(tmp_path: Path) -> None:
    folder = tmp_path / "\u6a39"
    folder.mkdir()
    process = subprocess.run(
        [sys.executable, "-m", "cifarlib", "runs", "--run-root", folder],
        env=os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (process.returncode, process.stderr) == (0, "")
    assert f"No runs under {tmp_path}/\\u6a39." in process.stdout


@pytest.mark.parametrize(
    ("arguments", "resumes"),
    [
        ("train level1", True),
        ("report 1", True),
        ("report --check made", False),
        ("predict cat.jpg", False),
        ("evaluate photos", False),
        ("runs", False),
        ("doctor", False),
        ("export runs/level1-0", False),
    ],
)
def test_only_what_goes_on_says_so_when_it_is_interrupted(
    arguments: str, resumes: bool, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(options: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setitem(__main__._COMMANDS, arguments.split()[0], interrupted)
    status, _, said = call(*arguments.split())
    assert status == 130
    more = "; the same command goes on where it stopped" if resumes else ""
    assert said == f"\ncifarlib: interrupted{more}\n"


def test_help_does_not_wait_for_torch() -> None:
    code = "import sys, cifarlib.__main__ as m; m.parser().format_help(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# --- train -------------------------------------------------------------------------------------------------


def test_train_prints_results_and_where_the_runs_lie(made: Made) -> None:
    assert made.status == 0
    for name, run in made.runs.items():
        accuracy = f"{100 * run.metrics['test_accuracy']:.2f}"
        assert re.search(
            rf"^{name}: test accuracy {accuracy} .* on 30 images, .*{run.path}$", made.said, re.MULTILINE
        )
    members = ("level3", "efficientnet")
    vote = evaluation.soft_vote([made.runs[name].predictions["test_probs"] for name in members])
    labels = made.runs["level3"].predictions["test_labels"]
    assert (
        f"level4: the members' vote has test accuracy {100 * evaluation.accuracy(vote, labels):.2f}" in made.said
    )


def test_train_loads_what_is_finished(made: Made, call: Call) -> None:
    before = snapshot(made.root)
    status, said, _ = call("train", "level1", *SETTING, "--run-root", made.root)
    assert status == 0
    assert "epoch  1/1" not in said
    assert str(made.runs["level1"].path) in said
    assert snapshot(made.root) == before


def test_train_takes_every_seed_that_is_asked_for(made: Made, call: Call) -> None:
    status, said, _ = call("train", "level1", *SETTING, "--set", "seeds=2", "--run-root", made.root)
    assert status == 0
    paths = re.findall(r"^level1, seed (\d): test accuracy .*; it lies in (.*)$", said, flags=re.MULTILINE)
    assert [(seed, runs.open_run(path).recipe.seed) for seed, path in paths] == [("0", 0), ("1", 1)]


def test_train_announces_what_it_trains(tmp_path: Path, call: Call) -> None:
    """Level 3 alone, and not level 2, with which its notebook compares it."""
    asked = ["--set", "train_size=1000000000000", "--profile", "demo", "--run-root", tmp_path]
    for names, announced in ((["3"], "level3"), (["1", "4", "level3"], "level1, level3, efficientnet")):
        status, said, refused = call("train", *names, *asked)
        assert status == 2 and "lower train_size" in refused
        assert f"To train, unless finished: {announced}\n" in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["level5"], ["unknown run 'level5'", "known are level1, level2, level3, level4, level1_probe"]),
        (["7"], ["unknown run '7'"]),
        (["pretrain"], ["unknown run 'pretrain'"]),
        (["level1", "levle2"], ["unknown run 'levle2'"]),  # before level1 is trained
        (["level1", "--set", "epochs"], ["write FIELD=VALUE"]),
    ],
)
def test_train_refuses_before_it_trains(
    arguments: list[str], words: list[str], tmp_path: Path, call: Call
) -> None:
    status, _, said = call("train", *arguments, "--profile", "demo", "--run-root", tmp_path / "runs")
    assert status == 2
    assert all(word in said for word in words), said
    assert not (tmp_path / "runs").exists()


def test_a_training_that_fails_says_what_is_next(tmp_path: Path, call: Call) -> None:
    diverging = ["--set", "level1.learning_rate=1e38", "--set", "level1.epochs=3"]
    status, _, said = call("train", "level1", *SETTING, *diverging, "--run-root", tmp_path)
    assert status == 1
    assert "level1 was not trained" in said
    assert "Try a lower learning_rate" in said
    assert "give the same command again" in said


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run root with levels 1 and 4 on a folder of 24 and 12 pictures of 32 px, and what train said."""
    base = tmp_path_factory.mktemp("uneven")
    rng = np.random.default_rng(0)
    for name, count in (("beech", 24), ("oak", 12)):
        (base / "leaves" / name).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 256, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(base / "leaves" / name / f"{number}.png")
    settings = ("weights=none", "image_size=32", "batch_size=12", "epochs=1")
    chosen = ["--profile", "full", "--data-root", str(base / "leaves"), "--run-root", str(base / "runs")]
    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert main(["train", "1", "4", *chosen, *(part for each in settings for part in ("--set", each))]) == 0
    return base / "runs", said.getvalue()


def test_balanced_accuracy_stands_beside_the_accuracy_where_classes_are_uneven(
    made: Made, uneven: tuple[Path, str]
) -> None:
    root, said = uneven
    found = {each.recipe.name: runs.open_run(each.path) for each in runs.survey(root) if each.recipe}
    votes = {name: run.predictions["test_probs"] for name, run in found.items()}
    votes["level4"] = evaluation.soft_vote([votes["level3"], votes["efficientnet"]])
    labels = found["level1"].predictions["test_labels"]
    assert np.bincount(labels).tolist() == [4, 2]
    for name, probs in votes.items():
        right = probs.argmax(axis=1) == labels
        balanced = f"{100 * (right[labels == 0].mean() + right[labels == 1].mean()) / 2:.2f} %"
        assert re.search(rf"^{name}: .*test accuracy .*, balanced accuracy {balanced}(,|$)", said, re.MULTILINE), (
            name
        )
        if name in found:
            text = exporting.card(found[name], "0" * 64, 1, 0.0)
            assert f"| balanced test accuracy, the mean of the classes' recalls | {balanced} |" in text
            assert "| balanced validation accuracy" in text
    # Not where they have as many images each.
    assert not evaluation.unbalanced(made.runs["level1"].predictions["test_labels"])
    assert "balanced" not in made.said
    assert "balanced test" not in exporting.card(made.runs["level1"], "0" * 64, 1, 0.0)


# --- predict -----------------------------------------------------------------------------------------------


def test_predict_takes_the_ensemble_and_says_what_the_training_said(made: Made, call: Call) -> None:
    """The stored images as files give the calibrated probabilities that the runs kept of them."""
    status, said, errors = call("predict", made.pictures, "--run-root", made.root, "--json")
    assert status == 0
    assert "the ensemble of" in errors
    found = lines(said)
    assert [Path(each["file"]).name for each in found] == [f"{number:02d}.png" for number in range(30)]
    wanted = made.calibrated("level3", "efficientnet")
    classes = made.study.classes
    np.testing.assert_allclose([[each["probabilities"][c] for c in classes] for each in found], wanted, atol=1e-5)
    for each, probs in zip(found, wanted, strict=True):
        second, first = np.sort(probs)[-2:]
        assert each["probability"] == pytest.approx(first, abs=1e-5)
        assert each["probabilities"][each["class"]] == each["probability"]
        assert each["runner_up"]["probability"] == pytest.approx(second, abs=1e-5)
        assert each["low_confidence"] == (each["probability"] < 0.5)


def test_predict_with_a_named_run_prints_a_table(made: Made, call: Call) -> None:
    run = made.runs["level1"]
    picture = made.pictures / "03.png"
    status, said, _ = call("predict", picture, "--run", run.path)
    assert status == 0
    head, row, *notes = said.splitlines()
    assert head.split() == ["file", "class", "probability", "runner-up"]
    probs = made.calibrated("level1")[3]
    best = made.study.classes[probs.argmax()]
    assert re.search(rf"03\.png  {best} +{100 * probs.max():.1f} %  ", row)
    assert row.endswith("low confidence") == (probs.max() < 0.5)
    assert bool(notes) == (probs.max() < 0.5)


def test_what_cannot_be_read_is_named_and_the_rest_predicted(made: Made, tmp_path: Path, call: Call) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.png").write_text("no picture")
    shutil.copy(made.pictures / "00.png", tmp_path / "a\nb.png")
    arguments = ("--run", made.runs["level1"].path, "--json")
    missing = tmp_path / "missing.png"
    status, said, errors = call("predict", tmp_path, tmp_path / "empty", missing, *arguments)
    assert status == 1
    assert [each["file"] for each in lines(said)] == [f"{tmp_path}/a\\nb.png"]
    for words in ("text.png cannot be read", "empty holds no", "missing.png does not exist"):
        assert words in errors
    for nothing in (missing, tmp_path / "text.png"):
        status, said, _ = call("predict", nothing, *arguments)
        assert (status, said) == (2, "")


def test_overlays_are_pictures_one_each_and_replaced_with_a_word(made: Made, tmp_path: Path, call: Call) -> None:
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(made.pictures / "01.png", other / "00.png")
    cams = tmp_path / "cams"
    arguments = (made.pictures / "00.png", other / "00.png", "--run-root", made.root, "--cam", cams)
    status, _, errors = call("predict", *arguments)
    assert status == 0, errors
    assert sorted(path.name for path in cams.iterdir()) == ["00-2.cam.png", "00.cam.png"]
    assert "Replacing" not in errors
    pictures = [np.asarray(Image.open(path)) for path in sorted(cams.iterdir())]
    assert all(picture.ndim == 3 and min(picture.shape[:2]) > 100 for picture in pictures)
    assert not np.array_equal(pictures[0], pictures[1])
    _, _, errors = call("predict", *arguments)
    assert errors.count("Replacing") == 2
    # In a folder of pictures, overlays are not predicted.
    assert predicting.find_images([str(cams)]) == ([], {str(cams): f"{cams} holds no PNG, JPEG or WebP image"})


def test_maps_of_one_pixel_are_refused_once_and_before_anything_is_predicted(
    made: Made, uneven: tuple[Path, str], tmp_path: Path, call: Call
) -> None:
    for image_run in ("level1", "level3"):
        (path,) = uneven[0].glob(f"{image_run}-*")
        status, said, errors = call("predict", made.pictures, "--run", path, "--cam", tmp_path / "cams")
        assert (status, said) == (2, "")
        assert len(errors.splitlines()) == 1
        assert "image_size=32" in errors
        assert "leave out --cam" in errors
        assert not (tmp_path / "cams").exists()
    status, said, _ = call("predict", made.pictures / "00.png", "--run", path)
    assert status == 0  # without --cam


def test_what_predict_cannot_use_is_named_with_a_remedy(made: Made, tmp_path: Path, call: Call) -> None:
    file, picture = tmp_path / "a.txt", made.pictures / "00.png"
    file.write_text("")
    for arguments, words in (
        (("--run-root", made.root, "--cam", file), f"--cam {file} is a file: give a folder"),
        (("--run-root", made.root, "--cam", file / "cams"), f"--cam {file / 'cams'} cannot be made"),
        (("--run-root", file), f"{file} is a file: give the folder of the runs as --run-root"),
        (("--run-root", tmp_path / "none"), f"there is no folder {tmp_path / 'none'}: give that of the runs"),
        (("--run-root", tmp_path), f"no finished run of a level under {tmp_path}: train one first"),
        (("--run", tmp_path), f"{tmp_path} holds no run: give the folder of one run (cifarlib runs lists them)"),
    ):
        status, said, errors = call("predict", picture, *arguments)
        assert (status, said) == (2, "")
        assert words in errors
        assert "Errno" not in errors


def test_a_bar_shows_how_many_pictures_are_read(made: Made, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("predict", made.pictures, "--run", made.runs["level1"].path, "--json")
    _, wanted, silent = call(*arguments)
    assert "reading pictures" not in silent
    monkeypatch.setattr(progress, "live", lambda: True)
    monkeypatch.setattr(predicting, "PIECE", 20)
    status, said, errors = call(*arguments)
    assert status == 0
    for total in (20, 10):
        assert re.search(rf"reading pictures: .* 0/{total} ", errors)
    assert [each["class"] for each in lines(said)] == [each["class"] for each in lines(wanted)]


def test_the_threshold_says_how_often_it_is_right() -> None:
    probs = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.49, 0.51]])
    three = np.array([[0.4, 0.3, 0.3], [0.3, 0.4, 0.3], [0.3, 0.3, 0.4], [0.8, 0.1, 0.1]])
    assert predicting.threshold(three, np.array([0, 0, 0, 0])) == predicting.Threshold(4, 3, 1 / 3, 1.0)
    assert str(predicting.threshold(probs, np.array([0, 1, 0, 0]))).startswith("None of the 4")


# --- which runs there are ----------------------------------------------------------------------------------


def fake(root: Path, name: str, *, images: str = "images", classes: tuple[str, ...] = ("cat", "dog")) -> RunFolder:
    """A whole run folder with weights that nobody builds a model from."""
    folder = RunFolder(root, recipes.documented_recipe(name), data=images, weights="imagenet", classes=classes)
    with folder.lock():
        folder.finish(
            weights={"fc.weight": torch.ones(2)},
            history=pd.DataFrame({"epoch": [1]}),
            predictions={"val_probs": np.full((2, 2), 0.5, np.float32), "val_labels": np.array([0, 1])},
            metrics={"test_accuracy": 0.875, "stored_size": 32},
            environment={},
        )
    return folder


def test_the_best_that_is_there_is_chosen(tmp_path: Path) -> None:
    said: list[str] = []

    def chosen() -> list[str]:
        said.clear()
        return [run.recipe.name for run in predicting.choose(tmp_path, said.append)]

    with pytest.raises(runs.RunError, match="train one first"):
        chosen()
    fake(tmp_path, "level1")
    fake(tmp_path, "level2_noaug")  # an arm of an experiment is not the level
    assert chosen() == ["level1"]
    fake(tmp_path, "efficientnet", images="others")
    assert chosen() == ["efficientnet"]  # the newest images count: a level knows nothing of others
    level3 = fake(tmp_path, "level3")
    assert chosen() == ["level3"]  # a member of other images is none
    fake(tmp_path, "efficientnet")
    assert chosen() == ["level3", "efficientnet"]
    assert said[0].startswith("Predicting with the ensemble of ")
    (level3.path / "metrics.json").write_text("{}")
    assert chosen() == ["level1"]
    assert "metrics.json is missing or damaged" in said[0]


def test_runs_that_do_not_fit_are_refused(tmp_path: Path, made: Made, call: Call) -> None:
    other = fake(tmp_path, "level1", classes=("cat", "horse")).path
    picture = made.pictures / "00.png"
    status, _, said = call("predict", picture, "--run", made.runs["level1"].path, "--run", other)
    assert status == 2
    assert "runs that vote must have the same" in said
    status, _, said = call("predict", picture, "--run", tmp_path / "nothing")
    assert status == 2
    assert "does not exist: give the folder of a run" in said


def test_runs_lists_every_state_and_touches_nothing(
    tmp_path: Path, call: Call, request: pytest.FixtureRequest
) -> None:
    fake(tmp_path, "level1")
    broken = fake(tmp_path, "level2").path
    content = (broken / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(content[:-1] + b"x")
    alone, held = (
        RunFolder(tmp_path, recipes.documented_recipe(name), data="images", weights="w", classes=("cat", "dog"))
        for name in ("level3", "convnext")
    )
    with alone.lock():
        alone.save_checkpoint(4, 17, b"state")
        name = (alone.path / ".lock").read_text()
    # As a killed process leaves it: the one that is named is alive, this very one, and no longer there.
    (alone.path / ".lock").write_text(name)
    holding = contextlib.ExitStack()
    request.addfinalizer(holding.close)
    holding.enter_context(held.lock())
    held.save_checkpoint(4, 17, b"state")
    older = fake(tmp_path, "efficientnet").path
    manifest = json.loads((older / "manifest.json").read_text())
    manifest["identity"]["schema"] = runs.SCHEMA + 1
    (older / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / ("x" * 60 + "\n")).mkdir()
    (tmp_path / "file.txt").write_text("not a folder")

    before = snapshot(tmp_path)
    status, said, _ = call("runs", "--run-root", tmp_path)
    assert status == 1
    assert snapshot(tmp_path) == before
    states = {line.split()[0].split("-")[0]: line.split()[1:] for line in said.splitlines()[1:7]}
    assert states["level1"][:3] == ["finished", "5/5", "87.50"]
    assert states["level2"][:2] == ["damaged", "10/10"]
    assert states["level3"][:2] == ["interrupted", "4/12"]
    assert states["convnext"][:2] == ["training", "4/10"]
    assert states["efficientnet"][0] == "foreign"
    table, rest = said.splitlines()[:7], "\n".join(said.splitlines()[7:])
    assert max(map(len, table)) <= 100
    assert "model.safetensors is missing or damaged" in rest
    assert f"rm -r {broken}" in rest
    assert "written by another version of cifarlib" in rest
    assert "goes on where it stopped" in rest
    assert f"in {tmp_path}" in rest

    status, said, _ = call("runs", "--run-root", tmp_path, "--json")
    records = {each["recipe"]: each for each in json.loads(said)}
    assert status == 1
    assert records["level1"]["test_accuracy"] == 0.875
    assert records["level1"]["bytes"] == sum(
        p.stat().st_size for p in Path(records["level1"]["path"]).rglob("*") if p.is_file()
    )
    assert (records["level3"]["epochs"], records["level3"]["epochs_of"]) == (4, 12)


def test_runs_of_no_folder_or_a_file(tmp_path: Path, call: Call) -> None:
    status, said, errors = call("runs", "--run-root", tmp_path / "none")
    assert status == 0
    assert "No runs under" in said
    assert "cifarlib train" in errors
    (tmp_path / "file").write_text("")
    assert call("runs", "--run-root", tmp_path / "file")[0] == 2


def test_a_run_is_opened_wherever_it_lies(tmp_path: Path) -> None:
    path = fake(tmp_path, "level1").path
    moved = path.rename(tmp_path / "the best one")
    run = runs.open_run(moved)
    assert (run.recipe.name, run.classes, run.path) == ("level1", ("cat", "dog"), moved)
    assert runs.images_of(run) == "images"
    folder = RunFolder(tmp_path, recipes.LEVEL2, data="images", weights="w", classes=("cat", "dog"))
    with folder.lock():
        pass
    with pytest.raises(runs.RunError, match="interrupted after 0 of 10 epochs"):
        runs.open_run(folder.path)
    with pytest.raises(runs.RunError, match="is a file: give the folder"):
        runs.open_run(moved / "model.safetensors")
    with pytest.raises(runs.RunError, match="holds no run"):
        runs.open_run(tmp_path)
    (moved / "manifest.json").write_text("{}")
    with pytest.raises(runs.RunError, match="is damaged"):
        runs.open_run(moved)


# --- report ------------------------------------------------------------------------------------------------


def test_a_readme_that_cannot_be_used_is_named_with_a_remedy(tmp_path: Path, call: Call) -> None:
    (tmp_path / "binary.md").write_bytes(b"\xff\xfe\x80")
    (tmp_path / "plain.md").write_text("no marks")
    for name, words in (
        ("nope.md", "cannot be read (No such file or directory): give a Markdown file"),
        ("binary.md", "cannot be read (it is no text in UTF-8): give a Markdown file"),
        ("plain.md", "has no place for the results: it needs the lines"),
    ):
        status, _, said = call("report", "1", "--readme", tmp_path / name, "--out", tmp_path / "out")
        assert status == 2
        assert words in said
        assert name in said
        assert "Errno" not in said
    assert not (tmp_path / "out").exists()


def test_the_table_of_reports_that_are_there_is_put_into_a_readme(tmp_path: Path, call: Call) -> None:
    """The committed record's results, as if the present notebooks had given them."""
    out, readme = tmp_path / "out", tmp_path / "README.md"
    out.mkdir()
    results = json.loads((reports.ROOT / "reports" / "photographs" / "results.json").read_text(encoding="utf-8"))
    for level, page in results["pages"].items():
        notebook = shutil.copy(reports.find_notebook(level), out / page["notebook"])
        (out / page["page"]).write_text("")
        results["notebooks"][page["notebook"]] = reports._sha256(notebook)
    (out / "results.json").write_text(json.dumps(results))
    readme.write_text("before\n" + "\n".join(reports._MARKS) + "\nafter\n")
    status, said, _ = call("report", "--check", out, "--readme", readme)
    assert (status, said) == (0, f"{out}: up to date\n")
    text = readme.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "7,124 of 10,000" in text


# --- export ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["level3", "efficientnet"])
def test_what_is_exported_computes_what_was_trained(made: Made, name: str) -> None:
    run, images = made.runs[name], made.study.split.test.images
    with torch.no_grad():
        logits = made.study.model(name).cpu()(data.prepare(images, run.recipe))
        probs, own = exporting.Deployed(run, 1.5).eval()(images.permute(0, 2, 3, 1))
    torch.testing.assert_close(own, logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(probs, (logits / 1.5).softmax(dim=1), rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def exported(made: Made, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Level 1 as the command line exports it, and what was said."""
    out = tmp_path_factory.mktemp("export") / "out"
    state = torch.get_rng_state()
    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert main(["export", str(made.runs["level1"].path), "--out", str(out)]) == 0
    assert torch.equal(torch.get_rng_state(), state)  # the caller's generator, and its seed
    return out, said.getvalue()


def test_an_exported_model_agrees_with_the_original_in_onnxruntime(made: Made, exported: tuple[Path, str]) -> None:
    import onnxruntime

    run, images = made.runs["level1"], made.study.split.test.images
    out, said = exported
    assert sorted(path.name for path in out.iterdir()) == ["MODEL_CARD.md", "model.onnx"]
    assert [line.split()[0] for line in said.splitlines()[:3]] == ["Exporting", "Checking", "Written:"]
    session = onnxruntime.InferenceSession(out / "model.onnx", providers=["CPUExecutionProvider"])
    for count in (1, 7, 30):  # any number of pictures
        pictures = images[:count].permute(0, 2, 3, 1).numpy()
        probs, logits = session.run(["probabilities", "logits"], {"images": pictures})
        with torch.no_grad():
            wanted = made.study.model("level1").cpu()(data.prepare(images[:count], run.recipe)).numpy()
        np.testing.assert_allclose(logits, wanted, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(probs, made.calibrated("level1")[:count], atol=1e-4)
    kept = session.get_modelmeta().custom_metadata_map
    assert json.loads(kept["classes"]) == list(run.classes)
    assert kept["image_size"] == "32"
    softened = np.exp(logits / float(kept["temperature"]))
    np.testing.assert_allclose(probs, softened / softened.sum(axis=1, keepdims=True), atol=1e-5)

    text = (out / "MODEL_CARD.md").read_text()
    digests = re.findall(r"sha256 `([0-9a-f]{64})`", text)
    paths = (out / "model.onnx", run.path / "model.safetensors")
    assert digests == [runs._sha256(path) for path in paths]
    labels = run.predictions["test_labels"]
    correct = round(run.metrics["test_accuracy"] * len(labels))
    low, high = evaluation.wilson_interval(correct, len(labels))
    accuracy = f"{100 * correct / 30:.2f} % ({100 * low:.2f} to {100 * high:.2f}), {correct} of 30"
    for words in (accuracy, "| learning_rate | 0.001 |", "## Limits", "## Licence", "`airplane`"):
        assert words in text, words


def test_the_code_of_a_model_card_predicts_a_photograph_as_predict_does(
    made: Made, exported: tuple[Path, str], tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The camera was turned: the pixels lie on their side, and orientation 6 in the EXIF data says so."""
    out, _ = exported
    pixels = made.study.split.test.images[5].permute(1, 2, 0).numpy()
    exif = Image.Exif()
    exif[0x0112] = 6
    photograph = Image.fromarray(pixels).resize((60, 48))
    photograph.save(tmp_path / "picture.jpg", exif=exif, quality=95)
    photograph.save(tmp_path / "lying.jpg", quality=95)  # the same without a word on how it was held
    shutil.copy(out / "model.onnx", tmp_path)
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", (out / "MODEL_CARD.md").read_text(), flags=re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    _, said, _ = call("predict", "picture.jpg", "lying.jpg", "--run", made.runs["level1"].path, "--json")
    upright, lying = ([*each["probabilities"].values()] for each in lines(said))
    np.testing.assert_allclose(names["probabilities"][0], upright, atol=2e-5)
    assert np.abs(names["probabilities"][0] - lying).max() > 2e-4  # after one epoch, all pictures look alike


def test_export_refuses_and_says_what_is_next(
    made: Made, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = made.runs["level1"].path
    before = snapshot(run)
    status, _, said = call("export", run, "--out", run)
    assert status == 2
    assert "choose another" in said
    status, _, said = call("export", tmp_path, "--out", tmp_path / "out")
    assert status == 2
    assert "holds no run: give the folder of one run (cifarlib runs lists them)" in said
    monkeypatch.setitem(sys.modules, "onnxscript", None)  # what an import finds where it is not installed
    status, _, said = call("export", run, "--out", tmp_path / "out")
    assert status == 2
    assert "pip install 'cifarlib[export]'" in said
    assert snapshot(run) == before
    assert not (tmp_path / "out").exists()


def test_an_export_that_differs_is_not_written(
    made: Made, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A faulty conversion is found by running it: here the graph gives every class the pictures' mean."""
    import onnx
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["images"], ["x"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["x"], ["m"], keepdims=0),
            helper.make_node("Expand", ["m", "shape"], ["probabilities"]),
            helper.make_node("Expand", ["m", "shape"], ["logits"]),
        ],
        "wrong",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["n", 32, 32, 3])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [3, 10]) for name in ("probabilities", "logits")],
        [helper.make_tensor("shape", TensorProto.INT64, [2], [3, 10])],
    )
    wrong = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(wrong)
    program = type("Program", (), {"model_proto": wrong})()
    monkeypatch.setattr(exporting, "_convert", lambda deployed, pictures: program)
    status, _, said = call("export", made.runs["level1"].path, "--out", tmp_path / "out")
    assert status == 2
    assert "nothing was written" in said
    assert not (tmp_path / "out").exists()
