"""`cifarlib doctor`: what it finds on this machine, and what it says of machines that lack something."""

from __future__ import annotations

import functools
import json
import math
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from cifarlib import data, doctor, models, progress, recipes, training
from cifarlib.__main__ import main

Call = Callable[..., tuple[int, dict[str, list[dict[str, Any]]]]]


@pytest.fixture
def call(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    """Run doctor in an empty folder without timing; returns its exit status and the checks by name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))

    def run(*arguments: object) -> tuple[int, dict[str, list[dict[str, Any]]]]:
        status = main(["doctor", "--no-timing", "--json", *map(str, arguments)])
        found: dict[str, list[dict[str, Any]]] = {}
        for check in json.loads(capsys.readouterr().out):
            found.setdefault(check["name"], []).append(check)
        return status, found

    return run


def test_a_machine_that_passes_the_tests_is_ready_for_the_demo(call: Call, tmp_path: Path) -> None:
    status, found = call("--profile", "demo")
    assert status == 0
    for name in (
        "Python",
        "packages",
        "packages of reports",
        "packages of export",
        "images",
        "weights",
        "run_root",
    ):
        assert [check["state"] for check in found[name]] == ["ok"], found[name]
    assert torch.__version__ in found["packages"][0]["found"]
    precision = training.choose_precision(recipes.LEVEL1, training.choose_device())
    assert found["precision"][0]["found"].startswith(precision)
    assert "network" not in found
    assert list(tmp_path.iterdir()) == []  # nothing is made


def test_the_full_study_names_its_downloads_and_what_is_damaged(call: Call, tmp_path: Path) -> None:
    status, found = call("--profile", "full")
    assert status == 0  # to be downloaded is no problem
    (images,), weights = found["images"], found["weights"]
    assert (images["state"], images["found"]) == ("note", "CIFAR-10 will be downloaded to data, 163 MiB")
    assert [check["state"] for check in weights] == ["note", "note"]
    assert [check["found"].rpartition(", ")[2] for check in weights] == ["98 MiB", "20 MiB"]  # 97.8, 20.5
    assert found["torch's cache"][0]["state"] == "ok"

    (tmp_path / "data").mkdir()
    (tmp_path / "data" / data.CIFAR10.name).write_bytes(b"cut short")
    name = weights[0]["found"].split()[0]
    cached = tmp_path / "torch" / "hub" / "checkpoints" / name
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"cut short")
    _, found = call("--profile", "full")
    assert "damaged" in found["images"][0]["found"]
    assert "damaged" in found["weights"][0]["found"]
    assert all(check["remedy"] for check in (*found["images"], *found["weights"]))


# --- Images of one's own -----------------------------------------------------------------------------------


def pictures(root: Path, counts: Mapping[str, int], side: int = 40) -> None:
    """Draw so many pictures into each of these folders."""
    rng = np.random.default_rng(0)
    for folder, count in counts.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels = rng.integers(0, 256, (side, side + 8, 3), np.uint8)
            Image.fromarray(pixels).save(root / folder / f"{number}.png")


@pytest.mark.skipif(training.choose_device().type == "cuda", reason="auto means the full profile here")
def test_own_images_that_the_demo_would_not_look_at_are_a_problem_as_they_are_for_train(
    call: Call, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures(tmp_path / "leaves", {"beech": 6, "oak": 6})
    assert main(["train", "1", "--data-root", "leaves"]) == 2
    refusal = capsys.readouterr().err
    status, found = call("--data-root", "leaves")
    assert status == 1
    (images,) = found["images"]
    assert images["state"] == "problem"
    assert "data_root" not in found  # nothing would be written there
    assert f"cifarlib: {images['found']}: {images['remedy']}\n" == refusal
    assert "use them with profile='full' (--profile full)" in refusal
    assert call("--data-root", "leaves", "--profile", "full")[0] == 0
    assert call("--data-root", "leaves", "--profile", "demo")[0] == 0


@pytest.mark.parametrize(
    ("counts", "overrides"),
    [
        ({"beech": 24, "oak": 16}, {}),
        ({"beech": 24, "oak": 16}, {"train_size": 10, "val_size": 3, "store_size": 16}),
        ({"train/beech": 11, "train/oak": 9, "val/beech": 2, "val/oak": 1}, {"test_size": 1}),
        ({f"{part}/{name}": 3 for part in ("train", "valid", "test") for name in ("beech", "oak")}, {}),
    ],
)
def test_an_image_folder_is_counted_as_a_study_splits_it(
    tmp_path: Path, counts: dict[str, int], overrides: dict[str, int]
) -> None:
    leaves = tmp_path / "leaves"
    pictures(leaves, counts)
    profile, by_name = recipes.resolve("full", overrides=overrides | {"image_size": 48})
    split = data.load(profile, leaves, image_size=48)
    sizes, stored = (len(split.train), len(split.val), len(split.test)), split.train.images.shape[-1]
    source = doctor._images("full", profile, by_name, leaves)
    assert (source.counts, source.stored, source.download) == (sizes, stored, 0)
    assert source.check.found.startswith(
        f"an image folder, {leaves}: 2 classes, {sizes[0]} images to train on, {sizes[1]} to validate and "
        f"{sizes[2]} to test, stored at {stored} px"
    )


def test_small_pictures_are_stored_as_they_are(tmp_path: Path) -> None:
    for name in ("beech", "oak"):
        (tmp_path / name).mkdir()
        for number in range(6):
            Image.new("RGB", (32, 32), (number, 0, 0)).save(tmp_path / name / f"{number}.png")
    assert doctor._images("full", *recipes.resolve("full"), tmp_path).stored == 32


def _empty(root: Path) -> None:
    pictures(root, {"beech": 6, "oak": 6})
    (root / "oak" / "0.png").write_bytes(b"")


def _no_picture(root: Path) -> None:
    pictures(root, {"beech": 6, "oak": 6})
    for name in ("beech", "oak"):
        (root / name / "0.png").write_text("no picture")


def _loose(root: Path) -> None:
    pictures(root, {".": 1, "beech": 6, "oak": 6})


def _link(root: Path) -> None:
    pictures(root, {"beech": 6, "oak": 6})
    (root / "oak" / "again.png").symlink_to("0.png")


def _drawn(**counts: int) -> Callable[[Path], None]:
    return lambda root: pictures(root, {name.replace("__", "/"): count for name, count in counts.items()})


@pytest.mark.parametrize(
    "make",
    [
        _empty,
        _no_picture,
        _loose,
        _link,
        _drawn(beech=6),
        _drawn(beech=6, oak=5),
        _drawn(beech=6, oak=0, elm=6),
        _drawn(test__beech=6, test__oak=6),
        _drawn(train__beech=6, train__oak=6, test__beech=6, test__elm=6),
        _drawn(train__beech=6, train__oak=6, elm=6),
    ],
)
def test_an_image_folder_that_a_study_refuses_is_a_problem_in_its_words(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    make(tmp_path / "leaves")
    with pytest.raises(ValueError, match="leaves") as refused:
        data.load(recipes.FULL, tmp_path / "leaves")
    source = doctor._images("full", *recipes.resolve("full"), tmp_path / "leaves")
    assert source.counts is None
    assert source.check.state == "problem"
    assert f"{source.check.found}: {source.check.remedy}".removesuffix(": mend that") == str(refused.value)


def test_memory_is_that_of_the_images_and_the_settings() -> None:
    _, by_name = recipes.resolve("full", overrides={"batch_size": 16, "image_size": 112})
    source = doctor._Source(doctor.Check("images", "ok", ""), "", (900, 50, 50), 1000)
    found = doctor._memory(by_name, source, torch.device("cpu")).found
    # A batch of a quarter, at a quarter of the pixels: 7/16 GiB, beside 2 GiB and 1,000 images of 3 MB.
    assert found.partition("; ")[2].partition("; ")[0] == f"training may want {2 + 7 / 16 + 3e9 / 2**30:.1f} GiB"


def test_settings_are_checked_as_a_study_does(call: Call, tmp_path: Path) -> None:
    torch.save({"fc.weight": torch.ones(2)}, tmp_path / "other.pth")
    for name, setting, words in (
        ("images", "store_size=40", "leave store_size out"),
        ("weights", "weights=imagenet1k_v2", "has no imagenet1k_v2 weights for efficientnet_b0"),
        ("weights", "weights=nowhere.pth", "is no file"),
        ("weights", "level1.weights=other.pth", "other.pth"),
    ):
        status, found = call("--profile", "full", "--set", setting)
        check = found[name][0]
        assert (status, check["state"]) == (1, "problem"), setting
        assert words in f"{check['found']}: {check['remedy']}", check
    assert main(["doctor", "--no-timing", "--set", "epoch=1"]) == 2
    if training.choose_device().type == "cpu":  # and what cannot be trained is not timed
        said: list[str] = []
        checks = {
            check.name: check for check in doctor.examine(overrides={"precision": "16-mixed"}, say=said.append)
        }
        assert (checks["precision"].state, checks["time"].remedy) == ("problem", "mend the problems first")
        assert not said


# --- A machine that lacks something ------------------------------------------------------------------------


def test_what_stops_a_study_is_a_problem_with_a_remedy(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(
        doctor,
        "_declared",
        lambda: {"requires-python": ["3.99"], "": ["torch>=99.0", "no-such-package>=1.0", "numpy>=1.0"]},
    )
    status, found = call(
        "--run-root", tmp_path / "file" / "runs", "--data-root", tmp_path / "file", "--profile", "full"
    )
    assert status == 1
    for name in ("Python", "packages", "run_root", "images"):
        assert found[name][0]["state"] == "problem", name
        assert found[name][0]["remedy"], name
    packages = found["packages"][0]["found"]
    assert "torch is 2" in packages
    assert "99.0 is needed" in packages
    assert "no-such-package is missing" in packages
    assert "numpy" not in packages


def test_no_room_is_a_problem(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_room_for_runs", lambda chosen, by_name: 2**60)
    status, found = call()
    assert status == 1
    assert "free there" in found["run_root"][0]["found"]
    assert found["run_root"][0]["remedy"].startswith("make room")


def test_an_unknown_profile_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--profile", "fast", "--no-timing"]) == 2
    assert "unknown profile 'fast'" in capsys.readouterr().err


def test_the_declared_bounds_are_those_of_pyproject_and_of_what_is_installed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    declared = doctor._declared()
    assert "torch>=2.6" in declared[""]
    assert "papermill>=2.6" in declared["notebooks"]
    assert declared["requires-python"] == ["3.11"]
    monkeypatch.setattr(doctor, "ROOT", tmp_path)  # as where only the package is installed
    installed = doctor._declared()
    assert installed["requires-python"] == ["3.11"]
    assert {line.partition(">=")[0] for line in installed[""]} >= {"torch", "numpy", "filelock"}
    assert "torch>=2.6" not in installed["notebooks"]


def test_weights_of_ones_own_have_to_fit_what_is_trained_and_no_more(call: Call, tmp_path: Path) -> None:
    """A ResNet-50's do not fit ConvNeXt, which is trained only when it is asked for."""
    path = tmp_path / "own.safetensors"
    state = models.build(recipes.LEVEL1, 10).torchvision_state()
    kept = {name: value.contiguous() for name, value in state.items() if not name.startswith("fc.")}
    safetensors.torch.save_file(kept, path)
    own = ["--profile", "demo", "--set", f"weights={path}"]
    status, found = call(*own, "--set", "efficientnet.weights=none")
    (check,) = found["weights"]
    assert (status, check["state"]) == (0, "ok") and f"{path}: they fit " in check["found"]
    status, found = call(*own)
    fits, refused = found["weights"]
    assert (status, fits["state"], refused["state"]) == (1, "ok", "problem")
    assert "do not fit efficientnet_b0" in refused["found"]


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("2.13.0+cpu", (2, 13)), ("3.11", (3, 11)), ("2026.9.0rc1", (2026, 9)), ("10", (10,)), ("x", ())],
)
def test_versions_are_compared_by_their_numbers(text: str, numbers: tuple[int, ...]) -> None:
    assert doctor._version(text) == numbers


# --- Network -----------------------------------------------------------------------------------------------


class _Mirror(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.send_response(404 if "gone" in self.path else 200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), _Mirror) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()
        thread.join()


def test_mirrors_are_asked_only_when_it_is_wished(
    server: str, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    with HTTPServer(("127.0.0.1", 0), _Mirror) as closed:
        refused = f"http://127.0.0.1:{closed.server_address[1]}/refused"
    mirrors = (f"{server}/there", f"{server}/gone", refused)
    monkeypatch.setattr(data, "CIFAR10", replace(data.CIFAR10, mirrors=mirrors))
    monkeypatch.setattr(doctor, "_weights_files", lambda by_name: [])
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("CIFARLIB_MIRROR", f"{server.replace('//', '//me:s3cret@')}/mine?token=s3cret")
    status, found = call("--network")
    assert status == 0
    assert "s3cret" not in str(found)
    assert [check["state"] for check in found["network"]] == ["ok", "ok", "note", "note"]
    assert [check["found"].partition(" ")[2] for check in found["network"]] == [
        "answers",
        "answers",
        "answers 404",
        "does not answer (ConnectionError)",
    ]


# --- Time --------------------------------------------------------------------------------------------------

# What the notebooks train besides by default; in the demo all but level3_plain, which is level 2 there.
ARMS = ("level1_probe", "level2_noaug_frozen", "level2_frozen", "level2_noaug")
PACE = training.Pace(forward=0.003, judge=0.001, step=0.004, resident=0.008, real=0.010, stall_ratio=0.8)


def test_times_are_counted_from_a_pace() -> None:
    """Worked by hand, for 1,000 training, 100 validation and 10 test images; 4 ms an image without training."""
    sizes = (1000, 100, 10)
    # Each image once through the frozen network, whatever the epochs.
    assert doctor.training_seconds(recipes.LEVEL1, PACE, *sizes) == pytest.approx(1110 * 0.004)
    # Ten epochs of 1,000 trained and 100 judged; then training and test images once more.
    assert doctor.training_seconds(recipes.LEVEL2, PACE, *sizes) == pytest.approx(10 * (10 + 0.4) + 1010 * 0.004)
    frozen = replace(recipes.LEVEL2, trainable="head")  # with augmentation nothing can be kept
    assert doctor.training_seconds(frozen, PACE, *sizes) == pytest.approx((10 * 1100 + 1010) * 0.004)


def test_a_pace_is_measured_on_built_in_images() -> None:
    small = replace(recipes.resolve("demo")[1]["level2"], image_size=32, batch_size=8)
    pace = doctor._pace(small, torch.device("cpu"), 48)
    for seconds in (pace.forward, pace.judge, pace.real):
        assert math.isfinite(seconds)
        assert seconds > 0


def seconds_of(words: str) -> float:
    """Read a duration as `progress.duration` writes it."""
    units = {"s": 1, "min": 60, "h": 3600}
    numbers = words.split()
    return sum(float(n) * units[unit] for n, unit in zip(numbers[::2], numbers[1::2], strict=True))


def test_a_small_study_is_timed_and_the_whole_is_the_sum_of_its_parts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    small = {
        "weights": "none",
        "image_size": 32,
        "efficientnet.image_size": 32,
        "batch_size": 4,
        "train_size": 200,
    }
    settings = [part for name in small for part in ("--set", f"{name}={small[name]}")]
    assert main(["doctor", "--profile", "demo", *settings]) == 0
    said, errors = capsys.readouterr()
    assert errors.startswith("Timing a few batches of 2 kinds of training")
    (line,) = (line for line in said.splitlines() if " time: " in line)
    whole, parts, more = re.fullmatch(
        r"ok +time: training the four levels on built-in images, 200 to train on, at 32 px: about (.+?) \((.+)\), "
        r"and about (.+?) more for the arms .*",
        line,
    ).groups()  # type: ignore[union-attr]
    by_name = {name: seconds_of(words) for name, words in (part.split(" ", 1) for part in parts.split(", "))}
    assert list(by_name) == ["level1", "level2", "level3", "efficientnet"]
    assert seconds_of(whole) == pytest.approx(sum(by_name.values()), abs=2.5)  # every number is rounded
    assert by_name["level3"] == by_name["level2"]  # as many epochs each in the demo, at the same pace
    assert min(by_name.values()) > 0
    assert seconds_of(more) > 0


def test_the_time_is_that_of_the_profile_the_images_and_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one pace for all, every part follows from `training_seconds`."""
    timed = []

    def pace(recipe: recipes.Recipe, device: torch.device, stored: int) -> training.Pace:
        timed.append((recipe.model, recipe.image_size, recipe.batch_size, stored))
        return PACE

    monkeypatch.setattr(doctor, "_pace", pace)
    overrides = {"seeds": 3, "image_size": 64, "level1.image_size": 96, "level2.epochs": 2, "batch_size": 16}
    chosen, by_name = recipes.resolve("full", overrides=overrides)
    source = doctor._Source(doctor.Check("images", "ok", ""), "the images in leaves", (26, 7, 7), 96)
    times = functools.partial(doctor._times, device=torch.device("cpu"), say=lambda text: None)
    found = times(chosen, by_name, source).found
    seconds = {name: doctor.training_seconds(by_name[name], PACE, 26, 7, 7) for name in by_name}
    arms = (*ARMS, "level3_plain")
    main_four = {name: 3 * seconds[name] for name in ("level1", "level2", "level3", "efficientnet")}
    parts = ", ".join(f"{name} {progress.duration(of)}" for name, of in main_four.items())
    assert found == (
        "training the four levels on the images in leaves, 26 to train on, at 96 px, under 3 seeds: about "
        f"{progress.duration(sum(main_four.values()))} ({parts}), and about "
        f"{progress.duration(sum(seconds[name] for name in arms))} more for the arms that the notebooks add by "
        "default"
    )
    sizes = [("resnet50", size, 16, 96) for size in (64, 96)] + [("efficientnet_b0", 64, 16, 96)]
    assert sorted(timed) == sorted(sizes)

    timed.clear()
    chosen, by_name = recipes.resolve("demo")
    source = doctor._Source(doctor.Check("images", "ok", ""), "built-in images", (1000, 250, 1000))
    pretraining = doctor.training_seconds(by_name["pretrain"], PACE, chosen.pretrain_size, data.STAND_IN_VAL, 0)
    assert f", pretrain_resnet50 {progress.duration(pretraining)})" in times(chosen, by_name, source).found
    assert [size for _, size, _, _ in timed] == [48, 48, 32]  # pretraining last

    chosen, by_name = recipes.resolve("full")
    source = doctor._Source(doctor.Check("images", "ok", ""), "CIFAR-10", (40_000, 10_000, 10_000))
    monkeypatch.setattr(doctor, "_pace", lambda *_: replace(PACE, real=0.1))
    check = times(chosen, by_name, source)
    assert (check.state, "--set train_size=5000" in check.remedy) == ("note", True)


def test_the_room_is_that_of_the_runs_of_a_report() -> None:
    """Weights in fp32 of every run, and three checkpoints of weights and two moments of the largest at work."""

    @functools.cache
    def sizes(model: str, trainable: str) -> tuple[int, int]:
        with torch.device("meta"):
            parameters = list(
                models.build(recipes.Recipe(name="-", model=model, trainable=trainable), 2).parameters()
            )
        return sum(p.numel() for p in parameters), sum(p.numel() for p in parameters if p.requires_grad)

    def room(runs: list[recipes.Recipe]) -> int:
        numbers = [sizes(each.model, each.trainable) for each in runs]
        return sum(4 * whole for whole, _ in numbers) + 3 * 3 * 4 * max(trained for _, trained in numbers)

    chosen, by_name = recipes.resolve("full")
    main_four = [by_name[name] for name in ("level1", "level2", "level3", "efficientnet")]
    once = [by_name[name] for name in (*ARMS, "level3_plain")]
    assert doctor._room_for_runs(chosen, by_name) == room(main_four + once)
    seeds = replace(chosen, seeds=3)
    assert doctor._room_for_runs(seeds, by_name) == room(3 * main_four + once)
    demo = recipes.resolve("demo")  # and the stand-in for ImageNet's weights, of which all is trained
    runs = [demo[1][each.name] for each in main_four] + [demo[1][name] for name in ARMS] + [demo[1]["pretrain"]]
    assert doctor._room_for_runs(*demo) == room(runs)
