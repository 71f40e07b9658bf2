"""Contributors' tools: `make compare` sees what differs and nothing else, and `make mutants` can plant."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))  # scripts, and no package
import compare  # noqa: E402
import mutants  # noqa: E402


def png(shade: int) -> str:
    file = io.BytesIO()
    Image.fromarray(np.full((4, 4, 3), shade, np.uint8)).save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode()


def version(root: Path) -> Path:
    """What a version gave, in small: a run, a report with a page, and what a command printed."""
    run = root / "demo" / "runs" / "level1-0123456789ab"
    run.mkdir(parents=True)
    (run / "recipe.json").write_text(json.dumps({"name": "level1", "seed": 0, "epochs": 2}))
    (run / "history.csv").write_text("epoch,train_loss,seconds\n1,0.5,1.25\n2,0.25,1.5\n")
    (run / "metrics.json").write_text(json.dumps({"test_accuracy": 0.5, "seconds": 3.5, "stall_ratio": None}))
    np.savez(run / "predictions.npz", test_probs=np.array([[0.25, 0.75]], np.float32))
    safetensors.numpy.save_file({"fc.weight": np.ones((2, 2), np.float32)}, run / "model.safetensors")
    report = root / "demo" / "report"
    report.mkdir()
    results = {"levels": {"level1": {"claims": [{"verdict": "holds"}], "seconds": 3.5}}, "notebooks": {"a": "b"}}
    (report / "results.json").write_text(json.dumps(results))
    page = "<table><thead><tr><th>a</th><th>Images/s</th></tr></thead><tr><td>b</td><td>1,250</td></tr></table>"
    page += f'<h1>Level 1</h1><p>trained in 1 min 5 s</p><img alt="A curve." src="data:image/png;base64,{png(9)}">'
    (report / "level1.html").write_text(page)
    (root / "train.txt").write_text("level1: test accuracy 50.00 %, trained in 3.5 s; runs/level1-0123456789ab\n")
    return root


def replaced(path: str, old: str, new: str) -> Callable[[Path], object]:
    def edit(root: Path) -> None:
        text = (root / path).read_text()
        assert old in text
        (root / path).write_text(text.replace(old, new))

    return edit


RUN = "demo/runs/level1-0123456789ab"
SEEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "history": (replaced(f"{RUN}/history.csv", "0.25", "0.2500001"), "level1, seed 0: history: row 1.train_loss"),
    "metrics": (replaced(f"{RUN}/metrics.json", "0.5", "0.6"), "level1, seed 0: metrics: test_accuracy: 0.5"),
    "recipe": (replaced(f"{RUN}/recipe.json", '"epochs": 2', '"epochs": 3'), "level1, seed 0: recipe: epochs: 2"),
    "predictions": (
        lambda root: np.savez(
            root / RUN / "predictions.npz", test_probs=np.array([[0.25, 0.7500001]], np.float32)
        ),
        "level1, seed 0: predictions: test_probs: float32 [1, 2]",
    ),
    "weights": (
        lambda root: safetensors.numpy.save_file(
            {"fc.weight": np.ones((2, 2), np.float64)}, root / RUN / "model.safetensors"
        ),
        "level1, seed 0: weights: fc.weight: float32 [2, 2]",
    ),
    "verdict": (
        replaced("demo/report/results.json", '"holds"', '"does not hold"'),
        "results.json: levels.level1.claims[0].verdict: holds before, does not hold now",
    ),
    "signed numbers": (replaced("demo/report/level1.html", "<p>", "<p>+0.30</p><p>"), "level1.html: text: ++0.30"),
    "text": (replaced("demo/report/level1.html", "Level 1<", "Level one<"), "level1.html: text: -Level 1"),
    "figure": (replaced("demo/report/level1.html", png(9), png(10)), "level1.html: figure: A curve."),
    "printed": (replaced("train.txt", "50.00 %", "51.00 %"), "cifarlib train: -level1: test accuracy 50.00 %"),
}


@pytest.mark.parametrize("name", SEEN)
def test_compare_names_what_differs(tmp_path: Path, name: str) -> None:
    before, after = version(tmp_path / "before"), version(tmp_path / "after")
    change, said = SEEN[name]
    change(after)
    found = compare.differences(compare.contents(before), compare.contents(after))
    assert said in found[0] and 1 <= len(found) <= 2


def test_compare_passes_over_times_and_digests(tmp_path: Path) -> None:
    before, after = version(tmp_path / "before"), version(tmp_path / "after")
    replaced(f"{RUN}/history.csv", "1.25", "7.5")(after)
    replaced(f"{RUN}/metrics.json", "3.5", "9.5")(after)
    replaced("demo/report/results.json", '"b"', '"c"')(after)
    replaced("demo/report/level1.html", "1 min 5 s", "59.9 s")(after)
    replaced("demo/report/level1.html", "1,250", "870")(after)
    replaced("train.txt", "0123456789ab", "ba9876543210")(after)
    replaced("train.txt", "3.5 s", "11 min 2 s")(after)
    (after / RUN).rename(after / "demo/runs/level1-ba9876543210")
    assert compare.differences(compare.contents(before), compare.contents(after)) == []


def test_compare_misses_what_is_gone_and_refuses_what_is_no_revision(tmp_path: Path) -> None:
    before, after = version(tmp_path / "before"), version(tmp_path / "after")
    (after / "train.txt").unlink()
    assert compare.differences(compare.contents(before), compare.contents(after)) == [
        "cifarlib train: only before"
    ]
    command = [sys.executable, str(ROOT / "tools" / "compare.py"), "no-such-revision"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "REV='no-such-revision' is no revision" in done.stderr


def listed() -> Iterator[dict[str, str]]:
    yield from tomllib.loads((ROOT / "tests" / "mutants.toml").read_text())["mutant"]


def test_every_mutant_finds_its_place_and_its_tests() -> None:
    """Whoever rewords the code that a mutant changes moves the mutant along."""
    code = [path.read_text() for path in (ROOT / "cifarlib").rglob("*.py")]
    for mutant in listed():
        assert sum(text.count(mutant["old"]) for text in code) == 1, mutant["what"]
        for name in mutant["tests"].split():
            assert [*(ROOT / "tests").rglob(f"{name}.py")], name


def test_a_mutant_is_planted_and_taken_out_again(tmp_path: Path) -> None:
    (tmp_path / "cifarlib").mkdir()
    (tmp_path / "tests").mkdir()
    code = tmp_path / "cifarlib" / "sums.py"
    code.write_text("def total(a, b):\n    return a + b\n")
    test = tmp_path / "tests" / "test_sums.py"
    mutant = {"what": "a product", "old": "a + b", "new": "a * b", "tests": "test_sums"}
    for answer, outcome in ((3, "caught"), (4, "NOT CAUGHT")):  # 2 + 2 is 4, and so is 2 * 2
        first = answer - 2
        test.write_text(
            f"from cifarlib.sums import total\n\ndef test_it():\n    assert total({first}, 2) == {answer}\n"
        )
        assert mutants.tried(tmp_path, mutant)[0] == outcome
        assert code.read_text() == "def total(a, b):\n    return a + b\n"
    assert mutants.tried(tmp_path, mutant | {"old": "a - b"})[0] == "NOT PLANTED"
