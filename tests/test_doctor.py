"""`cifarlib doctor`: what it finds on this machine, and what it says of machines that lack something."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from cifarlib import data, doctor, models, recipes, training
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
    assert (images["state"], images["found"]) == ("note", "CIFAR-10 will be downloaded to data, 170 MB")
    assert [check["state"] for check in weights] == ["note", "note"]
    assert [check["found"].rpartition(", ")[2] for check in weights] == ["98 MB", "20 MB"]
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


def test_an_image_folder_is_seen(call: Call, tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "a.png").write_bytes(b"")
    _, found = call("--profile", "full")
    assert found["images"][0]["found"].startswith("an image folder, data")


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
    monkeypatch.setattr(doctor, "_room_for_runs", lambda by_name: 2**60)
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


@pytest.mark.parametrize(
    ("text", "numbers"), [("2.13.0+cpu", (2, 13, 0)), ("3.11", (3, 11)), ("2026.9.0rc1", (2026, 9, 0)), ("x", ())]
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
    status, found = call("--network")
    assert status == 0
    assert [check["state"] for check in found["network"]] == ["ok", "note", "note"]
    assert [check["found"].partition(" ")[2] for check in found["network"]] == [
        "answers",
        "answers 404",
        "does not answer (ConnectionError)",
    ]


# --- Time --------------------------------------------------------------------------------------------------

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
    pace = doctor._pace(small, torch.device("cpu"))
    for seconds in (pace.forward, pace.judge, pace.real):
        assert math.isfinite(seconds)
        assert seconds > 0


def test_the_room_is_that_of_the_runs_of_a_report() -> None:
    by_name = recipes.resolve("full")[1]
    total, trainable = models.count_parameters(models.build(recipes.LEVEL3, 10))
    assert doctor._room_for_runs(by_name) > 4 * total + 36 * trainable
