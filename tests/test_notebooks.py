"""The notebooks: their form, a run of all four through papermill, and nbval over what papermill wrote."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import NamedTuple

import bs4
import nbformat
import numpy as np
import papermill
import pytest
from IPython.core.inputtransformer2 import TransformerManager

from cifarlib import __main__

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NAMES = ["level1_baseline", "level2_augmentation", "level3_attention", "level4_ensemble"]
SHARED = {
    "profile": "str",
    "seed": "int",
    "run_root": "str",
    "data_root": "str",
    "overrides": "dict",
    "drive": "bool",
}
OWN = {
    "level1_baseline": {"probe", "batchnorm", "at_32px"},
    "level2_augmentation": {"ablation", "shift_images", "all_shifts"},
    "level3_attention": {"plain", "full_finetuning", "cam_images", "road_images"},
    "level4_ensemble": {"second_seed", "convnext", "second_test", "shift_images"},
}
METADATA = {
    "accelerator": "GPU",
    "colab": {"provenance": [], "gpuType": "T4"},
    "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
    "language_info": {"name": "python"},
}
# All four levels in a minute or two. Pretraining is in, so that the demo's own path is what is tested.
SMOKE = {
    "image_size": 40,
    "train_size": 60,
    "val_size": 30,
    "test_size": 40,
    "epochs": 1,
    "batch_size": 20,
    "pretrain_size": 60,
    "pretrain.epochs": 1,
}
FEW = {"cam_images": 12, "road_images": 2, "shift_images": 8}


def code_of(notebook: nbformat.NotebookNode) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def tree(source: str) -> ast.Module:
    return ast.parse(TransformerManager().transform_cell(source))


def project(root: Path) -> tuple[str, str, str]:
    """The repository's address, its owner/name, and the tag of the version, as pyproject.toml has them."""
    found = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    address = found["urls"]["Repository"]
    return address, address.removeprefix("https://github.com/"), f"v{found['version']}"


def test_there_are_the_four_levels() -> None:
    assert [path.stem for path in NOTEBOOKS] == NAMES


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
class TestForm:
    def test_valid_and_empty(self, path: Path) -> None:
        notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
        nbformat.validate(notebook)
        assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
        assert notebook.metadata == METADATA
        assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                assert cell.outputs == [] and cell.execution_count is None

    def test_parameters_are_annotated_literals(self, path: Path) -> None:
        notebook = nbformat.read(path, as_version=4)
        tagged = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
        assert len(tagged) == 1
        body = tree(tagged[0].source).body
        assert all(isinstance(node, ast.AnnAssign) for node in body)
        found = {node.target.id: ast.unparse(node.annotation) for node in body}  # type: ignore[attr-defined]
        for node in body:
            ast.literal_eval(node.value)  # type: ignore[attr-defined]
        assert {name: found.get(name) for name in SHARED} == SHARED
        assert set(found) - set(SHARED) == OWN.get(path.stem, set())
        assert set(papermill.inspect_notebook(str(path))) == set(found)

    def test_it_tells_and_the_library_does(self, path: Path) -> None:
        cells = code_of(nbformat.read(path, as_version=4))
        assert 14 <= len(cells) <= 24
        for source in cells:
            assert len([line for line in source.splitlines() if line.strip()]) <= 12, source
            for node in ast.walk(tree(source)):
                forbidden = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda, ast.Try, ast.With)
                assert not isinstance(node, forbidden), source
                if isinstance(node, ast.Call):
                    assert ast.unparse(node.func).rpartition(".")[2] not in {"open", "savefig", "to_csv", "write"}

    def test_no_result_is_typed_into_prose(self, path: Path) -> None:
        """Percentages in prose: only those of the outside facts about CIFAR-10, named with their source, and
        thresholds of a definition."""
        notebook = nbformat.read(path, as_version=4)
        prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
        allowed = {"3 %", "0.5 %", "95 %", "90 %"}
        assert set(re.findall(r"\d+(?:\.\d+)? ?%", prose)) <= allowed
        assert not re.findall(r"\b0\.\d{2,}\b", prose)

    def test_sections_are_numbered_in_order(self, path: Path) -> None:
        notebook = nbformat.read(path, as_version=4)
        prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
        numbers = [int(number) for number in re.findall(r"^## (\d+)\.", prose, flags=re.M)]
        assert numbers == list(range(1, len(numbers) + 1)) and len(numbers) >= 8
        assert len(re.findall(r"^# ", prose, flags=re.M)) == 1

    def test_the_address_is_the_projects(self, path: Path) -> None:
        """The repository and the version, whose tag it is, stand in pyproject; badge and set-up cell follow."""
        address, slug, tag = project(ROOT)
        notebook = nbformat.read(path, as_version=4)
        badge = notebook.cells[0].source
        assert f"https://colab.research.google.com/github/{slug}/blob/{tag}/notebooks/{path.name}" in badge
        assert f'"git+{address}@{tag}"' in notebook.cells[1].source
        assert "google.colab" in notebook.cells[1].source
        everything = "\n".join(cell.source for cell in notebook.cells)
        assert set(re.findall(r"github\.com/([\w-]+/[\w-]+)", everything)) == {slug}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.parametrize(("where", "installs"), [("here", 0), ("Colab", 1), ("Kaggle", 1)])
def test_the_setup_cell_installs_where_nothing_can_be_installed_beforehand(
    path: Path, where: str, installs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What its `%pip` really does is seen by `make colab`."""
    source = nbformat.read(path, as_version=4).cells[1].source
    absent = source.replace('find_spec("cifarlib")', 'find_spec("cifarlib_that_is_not_there")')
    assert absent != source
    monkeypatch.delenv("KAGGLE_KERNEL_RUN_TYPE", raising=False)
    if where == "Colab":
        monkeypatch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))
    if where == "Kaggle":
        monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    asked: list[str] = []
    shell = SimpleNamespace(run_line_magic=lambda name, line: asked.append(f"{name} {line}"))
    address, _, tag = project(ROOT)
    words = re.escape(f"git+{address}@{tag} was not installed; pip says") + ".* make badges REPO=owner/name"
    for text in (absent, source):  # where cifarlib is there, nothing is installed
        failing = installs and text is absent
        with pytest.raises(AssertionError, match=words) if failing else contextlib.nullcontext():
            exec(TransformerManager().transform_cell(text), {"get_ipython": lambda: shell})
    assert len(asked) == installs
    assert all(line.startswith('pip install --quiet "cifarlib @ $address" ') for line in asked)


class Clone(NamedTuple):
    """The files of a checkout that `make badges` reads, writes and is."""

    root: Path

    def badges(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(self.root / "tools" / "badges.py"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def texts(self) -> dict[str, str]:
        files = [self.root / "README.md", self.root / "pyproject.toml", *(self.root / "notebooks").glob("*.ipynb")]
        return {path.name: path.read_text(encoding="utf-8") for path in files}


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "tools").mkdir()
    for path in (*NOTEBOOKS, ROOT / "README.md", ROOT / "pyproject.toml", ROOT / "tools" / "badges.py"):
        shutil.copy(path, tmp_path / path.relative_to(ROOT))
    return Clone(tmp_path)


def test_badges_are_stamped_with_another_address_and_back(clone: Clone) -> None:
    """`make badges`: every badge and set-up cell, README's too; another repository's address stays."""
    _, own, tag = project(ROOT)
    before = clone.texts()
    assert all(f"/github/{own}/blob/{tag}/notebooks/{name}.ipynb" in before["README.md"] for name in NAMES)
    for name in ("cifarlib", "a/b/c", "https://github.com/a/b", "a/b.git", 'a/"; import os'):
        for arguments in ([name], ["--check", name]):
            done = clone.badges(*arguments)
            assert done.returncode == 1 and "is no owner/name" in done.stderr, name
    assert clone.badges().stdout == clone.badges("").stdout == "nothing to change\n"
    assert clone.texts() == before
    done = clone.badges(f"{own}-2")  # begins as the former name does
    assert done.returncode == 0, done.stderr
    changed = done.stdout.strip().removeprefix("changed: ").split(", ")
    assert sorted(Path(name).name for name in changed) == sorted(before)
    for name, text in clone.texts().items():
        assert text != before[name] and text.replace(f"{own}-2", own) == before[name], name
        assert not re.search(rf"{own}(?!-2)", text), name
    assert "CIFAR-10.1](https://github.com/modestyachts/CIFAR-10.1)" in clone.texts()["README.md"]
    assert clone.badges(f"{own}-2").stdout == clone.badges().stdout == "nothing to change\n"
    assert clone.badges(own).returncode == 0 and clone.texts() == before


def test_a_new_version_moves_the_tag_in_all_that_leads_there(clone: Clone) -> None:
    _, own, tag = project(ROOT)
    before = clone.texts()
    declared = f'version = "{tag[1:]}"'
    assert before["pyproject.toml"].count(declared) == 1
    (clone.root / "pyproject.toml").write_text(before["pyproject.toml"].replace(declared, 'version = "9.8.0rc1"'))
    assert clone.badges("--check", own).returncode == 1
    assert clone.badges().returncode == 0
    after = clone.texts()
    assert project(clone.root)[1:] == (own, "v9.8.0rc1")
    for name in set(before) - {"pyproject.toml"}:
        former = after[name].replace("/v9.8.0rc1/", f"/{tag}/").replace("@v9.8.0rc1", f"@{tag}")
        assert after[name] != former == before[name], name


@pytest.mark.parametrize(
    ("file", "place", "elsewhere"),
    [
        ("README.md", "/blob/{tag}/", "/blob/main/"),
        ("README.md", "github/{own}/blob", "github/someone/else/blob"),
        ("notebooks/level2_augmentation.ipynb", "@{tag}", ""),
        ("notebooks/level2_augmentation.ipynb", "@{tag}", "@v0.0.1"),
        ("notebooks/level4_ensemble.ipynb", "git+https://github.com/{own}", "git+https://github.com/someone/else"),
        ("pyproject.toml", "github.com/{own}", "github.com/someone/else"),
    ],
)
def test_what_leads_elsewhere_is_found_and_mended(clone: Clone, file: str, place: str, elsewhere: str) -> None:
    """`--check`, as on GitHub: another repository, another tag or none, in one place."""
    _, own, tag = project(ROOT)
    before = clone.texts()
    assert clone.badges("--check", own).returncode == 0
    path = clone.root / file
    text = path.read_text(encoding="utf-8")
    assert place.format(own=own, tag=tag) in text
    path.write_text(text.replace(place.format(own=own, tag=tag), elsewhere, 1), encoding="utf-8")
    done = clone.badges("--check", own)
    assert done.returncode == 1 and file in done.stderr and f"make badges REPO={own}" in done.stderr
    assert done.stderr.count(".ipynb") == file.count(".ipynb")  # the others are right
    assert clone.badges(own).returncode == 0 and clone.texts() == before


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All four levels through the command line and papermill, on the smoke setting."""
    folder = tmp_path_factory.mktemp("smoke")
    settings = [f"--set={name}={value}" for name, value in SMOKE.items()]
    command = [sys.executable, "-W", "error", "-m", "cifarlib", "report", "--profile", "demo"]
    for name, value in FEW.items():
        settings += ["-p", name, str(value)]
    command += ["--out", str(folder / "out"), "--run-root", "runs", *settings]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "out"


def test_the_reports_judge_every_claim_of_the_documents(reports: Path) -> None:
    """In the pages and in results.json, against a list made by reading the documents, apart from the code."""
    listed = json.loads((ROOT / "tests" / "documented_claims.json").read_text())
    levels = json.loads((reports / "results.json").read_text())["levels"]
    for level, least in {"level1": 8, "level2": 10, "level3": 12, "level4": 10}.items():
        rows = levels[level]["claims"]
        expected = [(claim["section"], claim["gist"]) for claim in listed if claim["level"] == level]
        assert [(row["section"], row["claim"]) for row in rows] == expected and len(rows) >= least
        for row in rows:
            assert row["evidence"] and row["rule"]
            assert row["verdict"] in ("holds", "does not hold", "not measurable here")
        page = next(reports.glob(f"{level}_*.html")).read_text()
        shown = bs4.BeautifulSoup(page, "html.parser").find_all("table")[-1].get_text(" ")
        for row in rows:
            assert " ".join(row["claim"].split()) in " ".join(shown.split())


def test_another_test_set_through_the_command_line(
    reports: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = np.random.default_rng(0).integers(256, size=(20, 32, 32, 3), dtype=np.uint8)
    np.save(tmp_path / "mine_data.npy", pixels)
    np.save(tmp_path / "mine_labels.npy", np.arange(20) % 10)
    asked = ["evaluate", "--profile", "demo", "--run-root", str(reports.parent / "runs")]
    asked += [f"--set={name}={value}" for name, value in SMOKE.items()]

    command = [sys.executable, "-W", "error", "-m", "cifarlib", *asked, str(tmp_path), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["images"] == 20 and set(found["levels"]) == {"level1", "level2", "level3", "level4"}
    stated = json.loads((reports / "results.json").read_text())["levels"]
    assert {n: v["own"] for n, v in found["levels"].items()} == {n: v["test_accuracy"] for n, v in stated.items()}

    assert __main__.main([*asked, str(tmp_path / "mine_data.npy")]) == 0
    table = capsys.readouterr().out
    assert "Level 4" in table and "on mine_data.npy, 20 images" in table
    assert __main__.main([*asked, str(tmp_path / "nowhere")]) == 2
    refused = capsys.readouterr()
    assert refused.out == "" and "nowhere' does not exist: give a folder of images" in refused.err


def test_the_smoke_run_leaves_four_good_reports(reports: Path) -> None:
    results = json.loads((reports / "results.json").read_text())
    assert set(results["levels"]) == {"level1", "level2", "level3", "level4"}
    for level in results["levels"].values():
        assert 0 <= level["test_accuracy"] <= 1
        low, high = level["test_interval"]
        assert low <= level["test_accuracy"] <= high
    assert results["data"]["source"] == "synthetic"
    for name in NAMES:
        notebook = nbformat.read(reports / f"{name}.ipynb", as_version=4)
        for cell in notebook.cells:
            for output in cell.get("outputs", []):
                assert output.output_type != "error"
                # A warning or a progress bar in a saved output is a fault.
                assert output.get("name") != "stderr", output.get("text")
        assert (reports / f"{name}.html").stat().st_size < 2_000_000


def nbval(folder: Path, names: list[str]) -> subprocess.CompletedProcess[str]:
    """Run nbval in fresh processes; the kernels' folder is the notebooks', where no run has been kept."""
    command = [sys.executable, "-m", "pytest", "--nbval", "-q", "--color=no", "-p", "no:cacheprovider"]
    command += [
        "-rN",  # no summary: where CI is set, it would print every failure a second time
        "-c",
        os.devnull,
        f"--nbval-sanitize-with={ROOT / 'tests' / 'nbval_sanitize.cfg'}",
        "--nbval-cell-timeout=600",
    ]
    return subprocess.run(
        [*command, f"--rootdir={folder}", *(f"{name}.ipynb" for name in names)],
        cwd=folder,
        env=os.environ | {"CIFARLIB_PROGRESS": "0"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    "names", [NAMES[:1], pytest.param(NAMES, marks=pytest.mark.slow)], ids=["level 1", "all levels"]
)
def test_nbval_finds_the_same_outputs_again_and_one_changed_digit(reports: Path, names: list[str]) -> None:
    """The levels train again from nothing, in another process, to the same printed digit: of all cells only the
    one whose accuracy was changed beforehand disagrees, and what nbval finds there is what stood there."""
    shutil.rmtree(reports / "runs", ignore_errors=True)  # loaded runs print other lines than trained ones
    path = reports / f"{names[0]}.ipynb"
    original = path.read_text()
    notebook = nbformat.reads(original, as_version=4)
    outputs = [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "test accuracy" in json.dumps(output.get("data", {}).get("text/plain", ""))
    ]
    text = outputs[0].data["text/plain"]
    stated = re.search(r"\d+\.\d\d(?= % \()", text)  # before its interval
    assert stated is not None
    changed = stated[0][:-1] + str((int(stated[0][-1]) + 1) % 10)
    outputs[0].data["text/plain"] = text[: stated.start()] + changed + text[stated.end() :]
    try:
        path.write_text(nbformat.writes(notebook))
        done = nbval(reports, names)
    finally:
        path.write_text(original)
    assert (reports / "runs").exists()
    assert done.returncode == 1, done.stdout[-6000:] + done.stderr[-2000:]
    assert re.search(r"^1 failed, \d+ passed", done.stdout, re.M), done.stdout[-6000:]
    differing = re.findall(r"^  [-+] .*_(\d+\.\d\d)_%_\(", done.stdout, re.M)
    assert sorted(differing) == sorted((stated[0], changed)), done.stdout[-6000:]
