"""Bad input: refused with exit status 2, a message that names it and the remedy, and not a byte changed."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from harness import ONE, ONE_TINY, POSIX, TINY, checkpoints, parts, protect_disk, run_on_a_disk, snapshot
from PIL import Image

from cifarlib import Study, reports, training
from cifarlib.__main__ import main
from cifarlib._torchvision import torchvision

ROOT = Path(__file__).resolve().parents[2]
DEMO = ("--profile", "demo")
FULL = ("--profile", "full", "--set", "weights=none", "--set", "image_size=32", "--data-root", "images")
LEVEL4 = ("report", "4", *DEMO, "--set", "weights=none", "--set")  # whose EfficientNet-B0 has the smallest weights


@dataclass(frozen=True)
class Case:
    """A command line, what must be in its message, and what lies in the working directory before it."""

    arguments: tuple[str, ...]
    words: tuple[str, ...]
    make: Callable[[Path], None] = lambda here: None


# --- What lies there ---------------------------------------------------------------------------------------


def nothing(here: Path) -> None:
    pass


def a_file(name: str) -> Callable[[Path], None]:
    return lambda here: (here / name).write_text("a file") and None


def picture(path: Path, mode: str = "RGB", size: tuple[int, int] = (40, 40), **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    with Image.fromarray(pixels[:, :, :3]) as image:
        image.convert(mode).save(path, **options)


def images(here: Path, classes: tuple[str, ...] = ("cat", "dog"), count: int = 6) -> None:
    """A small image folder, good but for what a case does to it."""
    for name in classes:
        for number in range(count):
            picture(here / "images" / name / f"{number}.png")


def with_one(name: str, make: Callable[[Path], Any]) -> Callable[[Path], None]:
    """The small folder, and in a class of it one image that `make` writes."""

    def lay(here: Path) -> None:
        images(here)
        make(here / "images" / "cat" / name)

    return lay


def sixteen_bits(path: Path) -> None:
    Image.fromarray(np.full((40, 40), 40_000, dtype=np.uint16)).save(path)


def animated(path: Path) -> None:
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "green", "blue")]
    frames[0].save(path, save_all=True, append_images=frames[1:])


def huge(path: Path) -> None:
    Image.new("1", (9000, 9000)).save(path)  # 81 megapixels in 10 kB


def outside(path: Path) -> None:
    picture(path.parents[3] / "elsewhere" / "secret.png")
    path.symlink_to(path.parents[3] / "elsewhere" / "secret.png")


def empty_class(here: Path) -> None:
    images(here)
    (here / "images" / "emu").mkdir()


def other_test_classes(here: Path) -> None:
    images(here)
    for part, classes in (("train", ("cat", "dog")), ("test", ("cat", "emu"))):
        for name in classes:
            shutil.copytree(here / "images" / "cat", here / "images" / part / name)
    for name in ("cat", "dog"):
        shutil.rmtree(here / "images" / name)


def auto_with_images(here: Path) -> None:
    images(here)
    (here / "images").rename(here / "data")


@functools.cache
def _whole_state() -> dict[str, torch.Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return dict(torchvision.models.efficientnet_b0().state_dict())


def efficientnet(here: Path, change: Callable[[dict[str, torch.Tensor]], Any] | None = None) -> Path:
    """A whole state dict of EfficientNet-B0, changed."""
    state = dict(_whole_state())
    if change is not None:
        change(state)
    torch.save(state, here / "weights.pth")
    return here / "weights.pth"


def truncated_weights(here: Path) -> None:
    path = efficientnet(here)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def pickled_object(here: Path) -> None:
    torch.save({"features": Path("an object")}, here / "weights.pth")


def other_architecture(here: Path) -> None:
    torch.save(torchvision.models.squeezenet1_0().state_dict(), here / "weights.pth")


def without_some(here: Path) -> None:
    efficientnet(here, lambda state: [state.pop(name) for name in list(state) if name.startswith("features.3.")])


def with_more(here: Path) -> None:
    efficientnet(here, lambda state: state.update({"attention.weight": torch.zeros(3)}))


def with_nan(here: Path) -> None:
    efficientnet(
        here, lambda state: state.update({"features.0.0.weight": torch.full((32, 3, 3, 3), float("nan"))})
    )


def of_another_shape(here: Path) -> None:
    efficientnet(here, lambda state: state.update({"features.0.0.weight": torch.zeros(32, 1, 3, 3)}))


def photos_of(name: str) -> Callable[[Path], None]:
    return lambda here: picture(here / "photos" / name / "1.png")


# --- The cases ---------------------------------------------------------------------------------------------

CASES = {
    # Names
    "level": Case(("report", "5", *DEMO), ("unknown level '5'", "use 1 to 4")),
    "level's name": Case(("report", "levle2", *DEMO), ("unknown level 'levle2'", "did you mean 'level2'")),
    "profile": Case(("report", "1", "--profile", "dmeo"), ("unknown profile 'dmeo'", "did you mean 'demo'")),
    "parameter": Case(
        ("report", "2", *DEMO, "-p", "ablations", "true"), ("'ablations'", "level2", "did you mean 'ablation'")
    ),
    "parameter with an option": Case(("report", "1", *DEMO, "-p", "seed", "3"), ("'seed'", "use --seed")),
    "override": Case(("report", "1", *DEMO, "--set", "epoch=2"), ("'epoch'", "did you mean 'epochs'")),
    "recipe in an override": Case(
        ("report", "1", *DEMO, "--set", "levl1.epochs=2"), ("'levl1'", "did you mean 'level1'")
    ),
    "option": Case(("report", "1", *DEMO, "--sede", "3"), ("unrecognized arguments: --sede",)),
    "command": Case(("reprot", "1"), ("'reprot'", "report")),
    # Types
    "flag given as text": Case(
        ("report", "2", *DEMO, "-p", "ablation", "'true'"), ("ablation='true' is str", "declares bool")
    ),
    "number given as text": Case(
        ("report", "2", *DEMO, "-p", "shift_images", "many"), ("shift_images='many' is str", "declares int")
    ),
    "text for a number": Case(
        ("report", "1", *DEMO, "--set", "learning_rate=fast"),
        ("learning_rate='fast' must be a number above 0",),
    ),
    "half an epoch": Case(("report", "1", *DEMO, "--set", "epochs=2.5"), ("epochs=2.5 must be an integer",)),
    "text for a seed": Case(("report", "1", *DEMO, "--seed", "one"), ("--seed", "invalid int value: 'one'")),
    "number for a flag": Case(("report", "2", *DEMO, "--set", "augment=1"), ("augment=1 must be true or false",)),
    "no value": Case(("report", "1", *DEMO, "--set", "epochs"), ("--set epochs", "write FIELD=VALUE")),
    "empty value": Case(("report", "1", *DEMO, "--set", "epochs="), ("epochs=None must be an integer",)),
    "no YAML": Case(("report", "1", *DEMO, "--set", "epochs=[2"), ("cannot read the value '[2'",)),
    # Ranges
    "no epoch": Case(("report", "1", *DEMO, "--set", "epochs=0"), ("epochs=0 must be an integer of at least 1",)),
    "negative seed": Case(
        ("report", "1", *DEMO, "--seed", "-1"), ("seed=-1 must be an integer from 0 to 2**63 - 1",)
    ),
    "a huge seed": Case(("report", "1", *DEMO, "--seed", str(2**63)), (f"seed={2**63} must be an integer from",)),
    "small images": Case(("report", "1", *DEMO, "--set", "image_size=16"), ("image_size=16", "at least 32")),
    "batches of one": Case(("report", "1", *DEMO, "--set", "batch_size=1"), ("batch_size=1", "at least 2")),
    "no images": Case(("report", "1", *DEMO, "--set", "train_size=0"), ("train_size=0", "at least 2")),
    "no training images": Case(
        ("report", "1", *DEMO, "--set", "train_size=null"), ("train_size=None", "must be a number")
    ),
    "infinite rate": Case(("report", "1", *DEMO, "--set", "learning_rate=.inf"), ("learning_rate=inf", "above 0")),
    "hue": Case(("report", "2", *DEMO, "--set", "hue=0.7"), ("hue=0.7", "from 0 up to 0.5")),
    # Combinations
    "model": Case(("report", "1", *DEMO, "--set", "model=resnet18"), ("model='resnet18'", "one of resnet50")),
    "cut": Case(
        ("report", "4", *DEMO, "--set", "efficientnet.trainable=layer4"),
        ("trainable='layer4' needs a ResNet", "use 'head' or 'all'"),
    ),
    "ratio": Case(("report", "3", *DEMO, "--set", "se_ratio=7"), ("se_ratio=7", "must divide", "2048")),
    # Weights
    "no weights file": Case(
        (*LEVEL4, "efficientnet.weights=missing.pth"), ("'missing.pth' is no file", "give the path")
    ),
    "weights a folder": Case(
        (*LEVEL4, "efficientnet.weights=folder"),
        ("'folder' is no file", "give the path"),
        lambda here: (here / "folder").mkdir(),
    ),
    "weights a text": Case((*LEVEL4, "efficientnet.weights=w.txt"), ("'w.txt'", "it is text"), a_file("w.txt")),
    "weights empty": Case(
        (*LEVEL4, "efficientnet.weights=weights.pth"),
        ("'weights.pth'", "empty file", "again"),
        lambda here: (here / "weights.pth").touch(),
    ),
    "weights truncated": Case(
        (*LEVEL4, "efficientnet.weights=weights.pth"), ("'weights.pth'", "copy it again"), truncated_weights
    ),
    "weights with an object": Case(
        (*LEVEL4, "efficientnet.weights=weights.pth"),
        ("'weights.pth'", "could run code", "state_dict()"),
        pickled_object,
    ),
    "weights of another architecture": Case(
        (*LEVEL4, "efficientnet.weights=weights.pth"),
        ("'weights.pth'", "do not fit efficientnet_b0", "Give a state dict of torchvision's efficientnet_b0"),
        other_architecture,
    ),
    "weights with names missing": Case(
        (*LEVEL4, "efficientnet.weights=weights.pth"),
        ("missing", "features.3.", "Give a state dict"),
        without_some,
    ),
    "weights with other names": Case(
        (*LEVEL4, "efficientnet.weights=weights.pth"), ("1 unknown (attention.weight)", "Give a state"), with_more
    ),
    "weights of another shape": Case(
        (*LEVEL4, "efficientnet.weights=weights.pth"),
        ("1 of another shape (features.0.0.weight)", "Give a state dict"),
        of_another_shape,
    ),
    "weights with NaN": Case(
        (*LEVEL4, "efficientnet.weights=weights.pth"),
        ("'weights.pth'", "NaN", "features.0.0.weight", "use weights from before"),
        with_nan,
    ),
    "weights that do not exist": Case(
        (*LEVEL4, "efficientnet.weights=imagenet1k_v2"), ("no imagenet1k_v2 weights", "use imagenet1k_v1")
    ),
    # Images
    "one class": Case(
        ("report", "1", *FULL), ("images", "only one, 'cat'", "two or more"), lambda here: images(here, ("cat",))
    ),
    "an empty class": Case(("report", "1", *FULL), ("emu", "holds no", "add some or remove it"), empty_class),
    "few images": Case(
        ("report", "1", *FULL), ("'cat'", "2 images", "needs 6"), lambda here: images(here, count=2)
    ),
    "classes that differ": Case(("report", "1", *FULL), ("dog", "emu", "train/", "test/"), other_test_classes),
    "text as an image": Case(
        ("report", "1", *FULL), ("bad.jpg", "remove"), with_one("bad.jpg", lambda path: path.write_text("text"))
    ),
    "an empty image": Case(("report", "1", *FULL), ("bad.png", "remove"), with_one("bad.png", Path.touch)),
    "half an image": Case(
        ("report", "1", *FULL),
        ("bad.jpg", "remove"),
        with_one("bad.jpg", lambda p: (picture(p, size=(90, 90)), os.truncate(p, 900))),
    ),
    "one pixel": Case(
        ("report", "1", *FULL), ("bad.png", "1 x 1"), with_one("bad.png", lambda p: picture(p, size=(1, 1)))
    ),
    "81 megapixels": Case(
        ("report", "1", *FULL), ("bad.png", "50,000,000", "remove it"), with_one("bad.png", huge)
    ),
    "animation": Case(("report", "1", *FULL), ("bad.webp", "animated", "one"), with_one("bad.webp", animated)),
    "CMYK": Case(
        ("report", "1", *FULL), ("bad.jpg", "CMYK", "RGB"), with_one("bad.jpg", lambda p: picture(p, "CMYK"))
    ),
    "16 bits": Case(("report", "1", *FULL), ("bad.png", "8 bits"), with_one("bad.png", sixteen_bits)),
    "a link out": Case(("report", "1", *FULL), ("bad.png", "outside", "copy"), with_one("bad.png", outside)),
    "another format": Case(
        ("report", "1", *FULL), ("bad.gif", "save it as PNG"), with_one("bad.gif", lambda p: picture(p, "P"))
    ),
    "images that auto would not see": Case(
        ("report", "1"), ("'data'", "use them with profile='full'"), auto_with_images
    ),
    # Folders
    "images a file": Case(
        ("report", "1", "--profile", "full", "--data-root", "file"),
        ("data_root='file' is a file", "give"),
        a_file("file"),
    ),
    "runs a file": Case(
        ("report", "1", *DEMO, "--run-root", "file"),
        ("run_root='file' is a file", "give a folder"),
        a_file("file"),
    ),
    "runs below a file": Case(
        ("report", "1", *DEMO, "--run-root", "file/runs"), ("file", "folder"), a_file("file")
    ),
    "reports a file": Case(("report", "1", *DEMO, "--out", "file"), ("file", "folder"), a_file("file")),
    "reports below a file": Case(("report", "1", *DEMO, "--out", "file/out"), ("file", "folder"), a_file("file")),
    "reports over the notebooks": Case(
        ("report", "1", *DEMO, "--out", str(ROOT / "notebooks")), ("would overwrite them", "choose another folder")
    ),
    "no notebooks": Case(
        ("report", "1", *DEMO, "--notebooks", "nowhere"), ("level1_*.ipynb in nowhere", "--notebooks")
    ),
    "no README": Case(("report", "1", *DEMO, "--readme", "nowhere.md"), ("nowhere.md",)),
    "nothing to check": Case(("report", "--check", "nowhere"), ("nowhere holds no results.json", "report folder")),
    "checking a file": Case(("report", "--check", "file"), ("file", "report folder"), a_file("file")),
    # Evaluating
    "no test set": Case(("evaluate", "nowhere", *DEMO), ("'nowhere' does not exist", "give a folder")),
    "a test set of another kind": Case(("evaluate", "file", *DEMO), ("file", "*_data.npy"), a_file("file")),
    "a class that is not known": Case(
        ("evaluate", "photos", *DEMO),
        ("classes that the study does not know: emu", "it knows airplane"),
        photos_of("emu"),
    ),
    "nothing has been run": Case(
        ("evaluate", "photos", *DEMO),
        ("no level has been run under runs", "train one first", "cifarlib runs"),
        photos_of("cat"),
    ),
}
if not torch.cuda.is_available():
    CASES["half precision on a CPU"] = Case(
        ("report", "1", *DEMO, "--set", "precision=16-mixed"), ("'16-mixed' needs a GPU", "use 'auto'")
    )


def status_of(arguments: tuple[str, ...]) -> int:
    """The exit status of the command line, argparse's own included."""
    try:
        return main(arguments)
    except SystemExit as ended:
        return int(str(ended.code))


@pytest.mark.parametrize("name", CASES)
def test_it_is_refused_and_nothing_is_touched(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tally: Callable[..., None],
) -> None:
    case = CASES[name]
    here = tmp_path / "here"
    here.mkdir()
    case.make(here)
    monkeypatch.chdir(here)
    before = snapshot(tmp_path)
    status = status_of(case.arguments)
    said = capsys.readouterr().err
    assert status == 2, said
    assert all(word in said for word in case.words), said
    assert "Traceback" not in said
    assert snapshot(tmp_path) == before
    tally("bad input", refused=1)


@pytest.mark.parametrize("name", ["no weights file", "level", "no value", "text as an image"])
@pytest.mark.usefixtures("only_in_full")  # an import of torch each
def test_it_is_so_for_the_real_command(name: str, tmp_path: Path, tally: Callable[..., None]) -> None:
    case = CASES[name]
    case.make(tmp_path)
    before = snapshot(tmp_path)
    command = [sys.executable, "-m", "cifarlib", *case.arguments]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert found.returncode == 2, found.stderr
    assert found.stderr.startswith("cifarlib: ") and all(word in found.stderr for word in case.words)
    assert "Traceback" not in found.stderr
    assert snapshot(tmp_path) == before
    tally("bad input", commands=1)


def test_a_good_request_is_not_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The cases above can fail: what they all have in common is taken, and even then nothing is written yet."""
    images(tmp_path)
    efficientnet(tmp_path)
    monkeypatch.chdir(tmp_path)
    before = snapshot(tmp_path)
    settings = {"weights": "none", "image_size": 32}
    reports.plan(["1"], profile="full", data_root="images", overrides=settings)
    reports.plan(["4"], profile="demo", overrides=settings | {"efficientnet.weights": "weights.pth"})
    assert snapshot(tmp_path) == before


# --- Disks -------------------------------------------------------------------------------------------------


def _refusals(disk: Path, where: str, words: list[str]) -> dict[str, int]:
    """Ask for a report whose runs, or pages, would lie on this disk."""
    if "read-only" in where:
        protect_disk(disk)
    places = {"--run-root": disk.parent / "runs", "--out": disk.parent / "out"}
    places["--out" if "pages" in where else "--run-root"] = disk / "new"
    options = [text for option, place in places.items() for text in (option, str(place))]
    before = snapshot(disk.parent)
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        status = status_of(("report", "1", *DEMO, *options))
    print(said.getvalue())
    assert status == 2
    assert all(word in said.getvalue() for word in [str(disk / "new"), *words])
    after = snapshot(disk.parent)
    assert {path: kind for path, kind in after.items() if not path.endswith(".log")} == {
        path: kind for path, kind in before.items() if not path.endswith(".log")
    }
    return {"refused": 1}


@pytest.mark.skipif(not POSIX, reason="disk limits and the fork server are POSIX's")
@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("runs on a full disk", ["make room", "or choose another folder"]),
        ("pages on a full disk", ["make room", "or choose another folder"]),
        ("runs on a read-only disk", ["cannot be written to", "Choose another folder"]),
        ("pages on a read-only disk", ["cannot be written to", "Choose another folder"]),
    ],
)
def test_a_disk_that_cannot_take_it(
    where: str, words: list[str], full: bool, tmp_path: Path, tally: Callable[..., None]
) -> None:
    if not full and where not in ("runs on a full disk", "pages on a read-only disk"):
        pytest.skip("belongs to the full suite: make faults")
    tally("bad input", **run_on_a_disk(_refusals, tmp_path, 2**20, where, words))


# --- A training that fails ---------------------------------------------------------------------------------


def test_a_loss_that_is_no_number_ends_the_run_and_keeps_the_folder(
    tmp_path: Path, tally: Callable[..., None]
) -> None:
    """Not bad input but a bad result: said with the step and what to try; the checkpoint before it is whole."""
    overrides = ONE_TINY | {"learning_rate": 1e38, "precision": "32-true"}
    for _ in range(2):  # the same call again comes to the same end
        study = Study("demo", run_root=tmp_path, overrides=overrides, checkpoint_seconds=0.0)
        with pytest.raises(training.DivergedError, match=r"became (nan|inf) at epoch 1, step 2.*Try a lower"):
            study.run(ONE)
        (folder,) = tmp_path.iterdir()
        assert checkpoints(tmp_path) == {f"{folder.name}/checkpoints/0000-000001.pt"}
        assert not parts(folder)
        manifest = json.loads((folder / "manifest.json").read_text())
        assert manifest["state"] == "interrupted"
        assert set(snapshot(folder).values()) >= set(manifest["files"].values())
        assert Study("demo", run_root=tmp_path, overrides=overrides).find(ONE) is None
    tally("bad input", diverged=1)


@pytest.mark.usefixtures("only_in_full")
def test_a_notebook_that_fails_says_what_to_try(tmp_path: Path, tally: Callable[..., None]) -> None:
    fields = [f"{name}={value}" for name, value in (TINY | {"learning_rate": 1e38}).items()]
    options = [text for field in fields for text in ("--set", field)]
    command = [sys.executable, "-m", "cifarlib", "report", "1", *DEMO, *options, "--out", str(tmp_path / "out")]
    command += ["--run-root", str(tmp_path / "runs")]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert found.returncode == 1, found.stderr
    assert "DivergedError" in found.stdout and "Try a lower learning_rate" in found.stdout
    assert "Try a lower learning_rate" in (tmp_path / "out" / "level1_baseline.html").read_text(encoding="utf-8")
    (folder,) = (tmp_path / "runs").iterdir()
    assert not parts(folder) and json.loads((folder / "manifest.json").read_text())["state"] == "interrupted"
    tally("bad input", diverged=1)
