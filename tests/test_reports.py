from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import bs4
import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from PIL import Image

from cifarlib import Study, documented, recipes, reports
from cifarlib.__main__ import main

METADATA = {
    "accelerator": "GPU",
    "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
    "language_info": {"name": "python"},
}
PARAMETERS = """\
# parameters
profile: str = "auto"
seed: int = 0
run_root: str = "runs"          # relative
data_root: str = "data"
overrides: dict = {}
drive: bool = False
"""
# One white pixel; what a figure shows does not matter here, its alternative text does.
PIXEL = base64.b64encode(
    bytes.fromhex(
        "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de"
        "0000000c49444154789c63f8ffff3f0005fe02fe0def46b80000000049454e44ae426082"
    )
).decode()
FIGURE = f"""\
from IPython.display import display
alt = {{"image/png": {{"alt": 'up & "down" <now>'}}}}
display({{"image/png": "{PIXEL}"}}, raw=True, metadata=alt)
display({{"image/png": "{PIXEL}"}}, raw=True)
"""
TABLE = """\
from IPython.display import HTML
HTML('<style>p {color: red}</style><script>alert(1)</script>'
     '<table border="1" class="dataframe"><thead><tr style="text-align: right;">'
     '<th></th><th>class</th><th>recall</th></tr></thead><tbody>'
     '<tr><th>0</th><td>&lt;script&gt;</td><td>0.95</td></tr>'
     '<tr><th>1</th><td onclick="f()">cat</td><td>-1.5 %</td></tr></tbody></table>')
"""
PRINTS = """\
import os, sys
print("epoch 1/2")
print("epoch 2/2", flush=True)
print("progress", os.environ["CIFARLIB_PROGRESS"], "here", os.getcwd(), "python", sys.executable)
print(os.path.abspath(data_root), "<script>alert(2)</script>")
print(profile, seed, overrides, drive)
"""
# Few images and no pretraining: collecting the results draws the built-in images.
SMALL = ["--set", "weights=none", "--set", "train_size=40", "--set", "val_size=20", "--set", "test_size=20"]


def write(folder: Path, level: str, cells: list[Any], parameters: str = PARAMETERS) -> Path:
    head = [
        new_markdown_cell(f"# About {level}\n\n[![Open](https://example.org/b.svg)](https://example.org)"),
        new_code_cell(parameters, metadata={"tags": ["parameters"]}),
    ]
    for number, cell in enumerate([*head, *cells]):
        cell.id = f"c{number}"
    folder.mkdir(exist_ok=True)
    path = folder / f"{level}_x.ipynb"
    nbformat.write(new_notebook(cells=[*head, *cells], metadata=METADATA), path)
    return path


def report(*arguments: str) -> int:
    return main(["report", "--profile", "demo", *SMALL, *arguments])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The reports of three levels of which the third fails, made once: folder, exit status, printed text."""
    base = tmp_path_factory.mktemp("made {0}")  # papermill formats paths: braces must survive
    notebooks = base / "notebooks"
    write(notebooks, "level1", [new_code_cell(PRINTS), new_code_cell(FIGURE), new_code_cell(TABLE)])
    more = "## Results\n\n##### Deep\n\n# A second title\n\nSee [one](level1_x.ipynb).\n\n|a|b|\n|-|-|\n|c|7|\n"
    write(
        notebooks,
        "level2",
        [new_markdown_cell(more), new_code_cell("print(ablation, type(rate).__name__, rate)")],
        PARAMETERS + "ablation: bool = False\nrate: float = 0.1\ncount: int = 3\n",
    )
    failing = "items = {}\nitems['<b>key</b>']"
    write(notebooks, "level3", [new_code_cell("1 + 1"), new_code_cell(failing), new_code_cell("print('after')")])
    write(notebooks, "level4", [])
    out = base / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(base)
        process = subprocess.run(
            [
                *(sys.executable, "-m", "cifarlib", "report", "--profile", "demo", *SMALL),
                *("--notebooks", str(notebooks), "--out", str(out), "--data-root", str(base / "my data")),
                *("--seed", "3", "-p", "ablation", "true", "-p", "rate", "1e-3"),
            ],
            env=os.environ | {"PYTHONPATH": str(reports.ROOT)},
            capture_output=True,
            text=True,
        )
    return base, out, process


def soup(path: Path) -> bs4.BeautifulSoup:
    return bs4.BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


def output_text(path: Path) -> str:
    cells = nbformat.read(path, as_version=4).cells
    return "".join(o.get("text", "") for c in cells if c.cell_type == "code" for o in c.outputs)


def test_levels_run_until_one_fails(made: Any) -> None:
    _, out, process = made
    assert process.returncode == 1, process.stderr
    assert {path.name for path in out.iterdir()} == {
        "index.html",
        "results.json",
        *(f"level{i}_x{end}" for i in (1, 2, 3) for end in (".ipynb", ".html")),
    }
    said = process.stdout
    assert "epoch 1/2\nepoch 2/2\n" in said
    # A section is named as its first code is run, and before what that prints; "About level2" has parameters only.
    assert re.search(r"level2: level2_x.ipynb\n  \[cell 2 of 4\] About level2\n", said)
    assert re.search(r"\n  \[cell 4 of 4\] A second title\nTrue float 0.001\n", said)
    assert "Deep" not in said and "Results" not in said  # without code before the next heading
    assert re.search(r"level2: done in \d", said)
    assert "cell 4 of 5 (items = {}): KeyError: '<b>key</b>'" in said
    assert "level4" not in said
    assert (out / "index.html").resolve().as_uri() in said


def test_what_is_asked_for_by_default_is_what_the_notebooks_say() -> None:
    for level, parameters in recipes.ASKED_FOR.items():
        declared = reports._declared(reports.find_notebook(level))
        defaults = {name: declared[name]["default"] for name in parameters}
        assert defaults == {name: str(name in recipes.BY_DEFAULT) for name in parameters}


@pytest.mark.parametrize(
    ("parameters", "arms"),
    [
        ({}, "level1_probe, level2_noaug_frozen, level2_frozen, level2_noaug"),
        (
            {"ablation": False, "probe": False, "at_32px": True, "full_finetuning": True, "convnext": True},
            "level1_32px, level3_full, convnext",
        ),
    ],
)
def test_all_that_the_notebooks_train_is_announced(
    parameters: dict[str, bool], arms: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = {"weights": "none", "train_size": 40, "val_size": 20, "test_size": 20}
    folders = {"out": tmp_path / "out", "run_root": tmp_path / "runs"}
    reports.plan((), profile="demo", overrides=overrides, parameters=parameters, **folders)
    said = capsys.readouterr().out
    assert f"To train, unless finished: level1, level2, level3, efficientnet, {arms}\n" in said


def test_a_notebook_saved_by_colab_is_executed_too(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Colab saves version 4.0, whose cells have no identifiers."""
    shown = [new_markdown_cell("## Mine"), new_code_cell("print('as changed in Colab')")]
    path = write(tmp_path / "saved", "level1", shown)
    saved = json.loads(path.read_text())
    saved["nbformat_minor"] = 0
    for cell in saved["cells"]:
        del cell["id"]
    path.write_text(json.dumps(saved))
    out = tmp_path / "out"
    asked = ["level1", "--notebooks", str(path.parent), "--out", str(out)]
    assert report(*asked, "--seed", "2") == 0
    assert "  [cell 4 of 4] Mine\nas changed in Colab\n" in capfd.readouterr().out
    executed = nbformat.read(out / path.name, as_version=4)
    nbformat.validate(executed)
    assert [cell.id for cell in executed.cells] == ["cell-1", "cell-2", "injected-parameters", "cell-3", "cell-4"]
    assert "Mine" in (out / "level1_x.html").read_text()


def test_the_partial_notebook_and_its_page_show_the_error(made: Any) -> None:
    _, out, _ = made
    cells = nbformat.read(out / "level3_x.ipynb", as_version=4).cells
    kinds = [[o.output_type for o in c.outputs] for c in cells if c.cell_type == "code"]
    assert kinds == [[], [], ["execute_result"], ["error"], []]
    page = soup(out / "level3_x.html")
    assert "cell 4 of 5" in page.find(class_="failure").get_text()
    assert "KeyError: '<b>key</b>'" in page.find("pre", class_="error").get_text()
    assert page.b is None  # the key's text is text


def test_parameters_reach_the_kernel_with_their_types(made: Any) -> None:
    out = made[1]
    assert output_text(out / "level2_x.ipynb") == "True float 0.001\n"
    printed = output_text(out / "level1_x.ipynb")
    assert "demo 3 {'weights': 'none', 'train_size': 40, 'val_size': 20, 'test_size': 20} False" in printed
    python = sys.executable.replace(sys.prefix, "{environment}", 1)
    assert f"progress 0 here . python {python}\n" in printed, "the caller's folder and interpreter"
    assert "ablation" not in (out / "level1_x.ipynb").read_text(encoding="utf-8")


def test_no_machine_path_and_no_time_stamp_is_kept(made: Any) -> None:
    base, out, _ = made
    homes = [f"{home}/" for home in [Path.home()] if len(home.parts) > 1]  # "/" would be in every text
    for path in out.iterdir():
        text = path.read_text(encoding="utf-8")
        for secret in (str(base), *homes, sys.prefix, "ipykernel_", "start_time", "iopub"):
            assert secret not in text, (path.name, secret)
    assert "{data_root} <script>" in output_text(out / "level1_x.ipynb")


def test_executed_notebooks_are_valid_and_keep_ids_and_metadata(made: Any) -> None:
    base, out, _ = made
    executed = nbformat.read(out / "level1_x.ipynb", as_version=4)
    source = nbformat.read(base / "notebooks" / "level1_x.ipynb", as_version=4)
    nbformat.validate(executed)
    assert (executed.nbformat, executed.nbformat_minor) == (4, 5)
    assert executed.metadata == source.metadata
    kept = [cell for cell in executed.cells if cell.id != "injected-parameters"]
    assert [(c.id, c.metadata, c.source) for c in kept] == [(c.id, c.metadata, c.source) for c in source.cells]
    assert [c.id for c in executed.cells][:3] == ["c0", "c1", "injected-parameters"]
    streams = [o for o in executed.cells[3].outputs if o.output_type == "stream"]
    assert len(streams) == 1, "one stream is one output, however it was cut"


@pytest.mark.parametrize("name", ["index.html", "level1_x.html", "level2_x.html", "level3_x.html"])
def test_pages_stand_by_themselves(made: Any, name: str) -> None:
    page = soup(made[1] / name)
    assert page.html["lang"] == "en"
    assert page.title.get_text(strip=True)
    assert page.find("meta", attrs={"name": "viewport"})
    assert not page.find_all(["script", "iframe", "object", "embed"])
    for element in page.find_all(True):
        assert not [a for a in element.attrs if a.startswith("on")], element
        for attribute in ("src", "href"):
            value = element.get(attribute, "")
            fetched = element.name != "a" and not value.startswith("data:") and attribute in element.attrs
            assert not fetched, element
    assert not re.search(r"url\(|@import", page.style.get_text())
    assert all(image.get("alt") for image in page.find_all("img"))
    headings = [int(h.name[1]) for h in page.find_all(re.compile("^h[1-6]$"))]
    assert headings[0] == 1
    assert headings.count(1) == 1
    assert all(b <= a + 1 for a, b in pairwise(headings)), headings
    assert all(th.get("scope") in ("col", "row") and th.get_text(strip=True) for th in page.find_all("th"))
    assert all(table.parent["class"] == ["table"] for table in page.find_all("table"))
    assert page.find("a", class_="skip")["href"] == f"#{page.main['id']}"
    notice = page.find(class_="notice").get_text()
    assert "Built-in images, not CIFAR-10" in notice
    links = {a.get_text(strip=True).replace("\u00a0", " "): a["href"] for a in page.nav.find_all("a")}
    assert links == {"Overview": "index.html"} | {f"Level {i}": f"level{i}_x.html" for i in (1, 2, 3)}
    assert "not run" in page.nav.find(class_="absent").get_text()
    assert page.nav.find(attrs={"aria-current": "page"})["href"] == name


def test_what_a_notebook_shows_is_escaped_and_readable(made: Any) -> None:
    page = soup(made[1] / "level1_x.html")
    assert "<script>alert(2)</script>" in page.find("pre", tabindex=True).get_text()
    assert [image["alt"] for image in page.find_all("img")] == [
        'up & "down" <now>',
        "Figure without a description",
    ]
    table = page.find("table")
    assert [cell.get_text() for cell in table.find_all("td")] == ["", "<script>", "0.95", "cat", "-1.5 %"]
    assert [cell.get_text() for cell in table.find_all(class_="n")] == ["recall", "0.95", "-1.5 %"]
    assert len(page.find_all("details", class_="code")) == 5
    badge = page.find("a", href="https://example.org")
    assert badge.get_text() == "Open"
    assert soup(made[1] / "level2_x.html").find("a", string="one")["href"] == "level1_x.html"


def test_results_are_strict_json_about_this_run(made: Any) -> None:
    base, out, _ = made
    text = (out / "results.json").read_text(encoding="utf-8")
    results = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not strict JSON"))
    assert (results["profile"], results["seed"], results["overrides"]["train_size"]) == ("demo", 3, 40)
    assert results["data"]["source"] == "synthetic"
    assert results["data"]["images"] == {"train": 40, "val": 20, "test": 20}
    assert results["levels"] == {}
    assert {level: page["state"] for level, page in results["pages"].items()} == {
        "level1": "done",
        "level2": "done",
        "level3": "failed",
    }
    assert results["pages"]["level2"]["parameters"] == {"ablation": True, "rate": 0.001}
    digest = reports._sha256(base / "notebooks" / "level1_x.ipynb")
    assert results["notebooks"]["level1_x.ipynb"] == digest


def test_strict_json_has_null_for_what_is_no_number() -> None:
    import numpy as np

    odd = {
        "a": float("nan"),
        "b": (np.float32(0.5), np.int64(2)),
        "c": np.array([1.0, np.inf]),
        "d": Path("x"),
    }
    assert reports._strict(odd) == {"a": None, "b": [0.5, 2], "c": [1.0, None], "d": "x"}


def measured(accuracy: float, **more: Any) -> dict[str, Any]:
    interval = [accuracy - 0.02, accuracy + 0.01]
    return {"test_accuracy": accuracy, "test_interval": interval, "epochs": 4, "seconds": 75.0, **more}


def index(made: Any, folder: Path, **changes: Any) -> bs4.BeautifulSoup:
    """The index of the made reports with other results."""
    shutil.copytree(made[1], folder)
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    reports.write_pages(folder, results | changes)
    return soup(folder / "index.html")


def test_the_index_shows_what_was_measured(made: Any, tmp_path: Path) -> None:
    levels = {"level1": measured(0.6235, images_per_second=1234.4), "level4": measured(0.8, parameters=1_000)}
    page = index(made, tmp_path / "r", levels=levels)
    rows = [
        [" ".join(c.get_text(" ").split()) for c in r.find_all(["th", "td"])] for r in page.table.find_all("tr")
    ]
    assert rows[0][:3] == ["Level", "Measured here", "Documented, CIFAR-10"]
    assert rows[1][1:] == ["62.35 % 60.35 to 63.35 %", "82.06 %", "ResNet-50 (Frozen)", "4", "1 min 15 s"]
    assert rows[2][1:3] == ["not run", "94.64 %"]
    assert rows[3][1] == "failed"
    assert "KeyError: '<b>key</b>'" in rows[3][3]
    assert rows[4][1].startswith("80.00 %")
    assert "must not be compared" in page.main.get_text()
    assert "62.35" in page.find("img")["alt"]
    assert "82.06" not in page.find("img")["alt"], "the figure must not put the documents' beside built-in images"
    cost = page.find_all("table")[1]
    assert [th.get_text() for th in cost.thead.find_all("th")] == [
        "Level",
        "Training time",
        "Images/s",
        "All parameters",
    ]
    assert [td.get_text() for td in cost.tbody.find_all("td")] == [
        "1 min 15 s",
        "1,234",
        "—",
        "1 min 15 s",
        "—",
        "1,000",
    ]


def test_the_index_shows_which_differences_are_real_and_the_verdicts(made: Any, tmp_path: Path) -> None:
    verdicts = ["holds", "holds", "not measurable here"]
    rows = [
        {"claim": f"claim {i}", "section": "1", "evidence": "", "verdict": verdict}
        for i, verdict in enumerate(verdicts)
    ]
    compared = {"model": "level2", "over": "level1", "difference": 0.125, "low": 0.1, "high": 0.15, "images": 25}
    compared |= {"only_model": 30, "only_over": 5, "p": 2e-5, "p_holm": 2e-5}
    page = index(
        made,
        tmp_path / "r",
        levels={"level1": measured(0.5, claims=rows), "level2": measured(0.625)},
        comparisons=[compared],
    )
    alt = page.find("img")["alt"].replace("\u00a0", " ")
    assert "Level 2 less Level 1 +12.50" in alt and "+25 images" in alt
    table = page.find_all("table")[1]
    assert [th.get_text() for th in table.thead.find_all("th")] == [
        "Level",
        "holds",
        "does not hold",
        "not measurable here",
        "claims in all",
    ]
    assert [td.get_text() for td in table.tbody.find_all("td")] == ["2", "0", "1", "3"]
    assert table.find("a")["href"] == "level1_x.html#claims"


def test_on_cifar10_the_documents_stand_beside_the_measured(made: Any, tmp_path: Path) -> None:
    data = {
        "source": "cifar10",
        "fingerprint": "0" * 16,
        "images": {"train": 40_000, "val": 10_000, "test": 10_000},
        "stored_size": 32,
        "classes": ["<i>cat</i>", "dog"],
    }
    page = index(
        made,
        tmp_path / "r",
        levels={"level1": measured(0.82)},
        data=data,
        comparable=True,
        notice="CIFAR-10 `<script>x`",
    )
    assert "must not be compared" not in page.main.get_text()
    assert "82.06" in page.find("img")["alt"]
    assert "<i>cat</i>, dog" in page.main.get_text()
    assert "<script>x" in page.find(class_="notice").get_text()
    assert not page.find_all(["script", "i"])


def test_what_a_notebook_would_refuse_is_refused_before_it_runs() -> None:
    counts = []
    for level in reports.LEVELS:
        notebook = reports.find_notebook(level)
        declared = {level: reports._declared(notebook)}
        source = "\n".join(cell.source for cell in reports._read_notebook(notebook).cells)
        for limit, name in re.findall(r"cifarlib\.expect\(int, least=(\d+), (\w+)=\2\)", source):
            least = int(limit)
            counts.append((level, name, least))
            reports._check_parameters({name: least}, declared)
            with pytest.raises(ValueError, match=f"{name}={least - 1} counts something: give {least} or more"):
                reports._check_parameters({name: least - 1}, declared)
        assert source.count("expect(int") == sum(level == each for each, *_ in counts)
    assert counts == [
        ("level2", "shift_images", 1),
        ("level3", "cam_images", 1),
        ("level3", "road_images", 0),
        ("level4", "shift_images", 1),
    ]


def test_several_seeds_stand_in_the_index_and_in_the_table(made: Any, tmp_path: Path) -> None:
    spread = {"accuracies": [0.5, 0.52, 0.54], "mean": 0.52, "seeds": 3, "seed_sd": 0.02}
    levels = {"level1": measured(0.5, seeds=spread), "level2": measured(0.6)}
    page = index(made, tmp_path / "r", levels=levels)
    said = [" ".join(row.get_text(" ").split()) for row in page.main.table.find_all("tr")]
    assert "mean of 3: 52.00 % SD 2.00 points" in said[1] and "SD" not in said[2]
    table = reports.results_table(json.loads((tmp_path / "r" / "results.json").read_text())).splitlines()
    rows = [line for line in table if line.startswith("|")]
    assert len({line.count("|") for line in rows}) == 1
    assert "| mean of 3: 52.00 %, SD 2.00 points |" in rows[2]


def test_what_the_documents_state_is_left_out_beside_other_classes(made: Any, tmp_path: Path) -> None:
    data = {"source": "folder", "fingerprint": "f", "images": {"train": 4, "val": 2, "test": 2}, "stored_size": 32}
    levels = {"level1": measured(0.82)}
    other = index(made, tmp_path / "a", levels=levels, data=data | {"classes": ["beech", "oak"]})
    assert "ocumented" not in other.main.table.get_text() and "82.06" not in other.main.get_text()
    assert "must not be compared" not in other.main.get_text()
    own = index(made, tmp_path / "b", levels=levels, data=data | {"classes": list(documented.PER_CLASS)})
    assert "82.06 %" in own.main.table.get_text()
    assert "on the images named above" in " ".join(own.main.get_text().split())
    columns = [len(row.find_all(["th", "td"])) for row in other.main.table.find_all("tr")]
    assert len(set(columns)) == 1


def test_classes_of_different_sizes_get_a_balanced_accuracy(made: Any, tmp_path: Path) -> None:
    levels = {"level1": measured(0.82, balanced_accuracy=0.613), "level2": measured(0.9)}
    page = index(made, tmp_path / "r", levels=levels)
    assert page.main.get_text().count("balanced") == 1
    assert "balanced 61.30 %" in page.main.get_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["7"], "unknown level '7': use 1 to 4"),
        (["lvel2"], "did you mean 'level2'"),
        (["--profile", "dmo"], "did you mean 'demo'"),
        (["2", "-p", "abblation", "true"], "'abblation' of level2: did you mean 'ablation'"),
        (["1", "-p", "ablation", "true"], "unknown notebook parameter 'ablation' of level1"),
        (
            ["2", "-p", "ablation", "yes please"],
            "ablation='yes please' is str, and the notebook declares bool",
        ),
        (["2", "-p", "ablation", "1"], "ablation=1 is int, and the notebook declares bool"),
        (["2", "-p", "rate", "fast"], "declares float"),
        (["2", "-p", "count", "-1"], "count=-1 counts something: give 0 or more"),
        (["2", "-p", "rate", "[1"], "cannot read the value '[1'"),
        (["2", "-p", "seed", "3"], "use --seed"),
        (["2", "-p", "drive", "true"], "use --run-root and --data-root, after mounting Google Drive"),
        (["--set", "epoch=3"], "did you mean 'epochs'"),
        (["--set", "level1.lerning_rate=1"], "did you mean 'learning_rate'"),
        (["--set", "epochs=two"], "epochs='two' must be an integer"),
        (["--set", "epochs"], "write FIELD=VALUE"),
        (["--seed", "-1"], "seed=-1"),
        (["--notebooks", "nowhere"], "no notebook level1_*.ipynb in nowhere"),
    ],
)
def test_a_mistake_is_named_and_nothing_is_written(
    made: Any,
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert report("--notebooks", str(made[0] / "notebooks"), "--out", "out", *arguments) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_values_are_read_as_yaml_and_exponents_as_numbers() -> None:
    texts = ["true", "1e-3", "-2.5E+2", "3", "none", "null", "1e", "[1, 2]"]
    values = [True, 0.001, -250.0, 3, "none", None, "1e", [1, 2]]
    assert [reports.parse_value(text) for text in texts] == values


def test_a_missing_extra_is_named(
    made: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "papermill", None)
    assert report("--notebooks", str(made[0] / "notebooks")) == 2
    assert "papermill, which is not installed: pip install 'cifarlib[notebooks]'" in capsys.readouterr().err


def test_another_study_does_not_mix_into_a_folder(
    made: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(made[1], tmp_path / "out")
    before = (tmp_path / "out" / "index.html").read_bytes()
    arguments = [
        "1",
        "--notebooks",
        str(made[0] / "notebooks"),
        "--out",
        str(tmp_path / "out"),
        "--seed",
        "4",
    ]
    assert report(*arguments) == 2
    assert "another study (seed 3, not 4), and level2, level3 would stay" in capsys.readouterr().err
    assert (tmp_path / "out" / "index.html").read_bytes() == before


def test_other_images_do_not_mix_into_a_folder(
    made: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the same settings, too: what is compared is the images, not where they lie."""
    rng = np.random.default_rng(0)
    for place in ("one", "two"):
        for name in ("cat", "dog"):
            (tmp_path / place / name).mkdir(parents=True)
            for i in range(8):
                pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / place / name / f"{i}.png")
    shutil.copytree(tmp_path / "one", tmp_path / "moved")

    def report_on(place: str, level: str) -> int:
        options = ["--profile", "full", "--set", "weights=none", "--set", "image_size=40"]
        where = ["--notebooks", str(made[0] / "notebooks"), "--out", str(tmp_path / "out")]
        return main(["report", level, *options, *where, "--data-root", str(tmp_path / place)])

    assert report_on("one", "1") == 0
    before = (tmp_path / "out" / "index.html").read_bytes()
    capsys.readouterr()
    assert report_on("two", "2") == 2
    assert "another study (images '" in (said := capsys.readouterr().err) and "level1 would stay" in said
    assert (tmp_path / "out" / "index.html").read_bytes() == before
    assert report_on("moved", "2") == 0


def test_a_page_of_someone_elses_is_not_overwritten(
    made: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "index.html").write_text("my own site")
    assert report("1", "--notebooks", str(made[0] / "notebooks"), "--out", str(tmp_path)) == 2
    assert "index.html that is no report's, and it would be overwritten" in capsys.readouterr().err
    assert (tmp_path / "index.html").read_text() == "my own site"


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ('{"accuracy": 0.93}', "no report's (its profile is missing)"),
        ("[]", "no report's (it is a list)"),
        ("null", "no report's"),
        ("[" * 100_000, "not readable as JSON"),
        ({"data": None, "pages": []}, "no report's (its pages is of another kind)"),
        ({"data": ["cat", "dog"]}, "no report's (its data is of another kind)"),
        ({"data": {"images": 3}}, "no report's (its data has no fingerprint)"),
        ({"note": 3}, "no report's (its note is of another kind)"),
        ({"pages": {"level2": 3}}, "no report's (its page 'level2' names no notebook"),
        *(
            ({"pages": {"level2": {"notebook": name, "page": page}}}, "no report's (its page 'level2' names no")
            for name, page in [
                ("../mine.ipynb", "level2_x.html"),
                ("level2_x.ipynb", "../mine.html"),
                ("..", "level2_x.html"),
                ("level2_x.ipynb", "style.css"),
                (None, "level2_x.html"),
            ]
        ),
    ],
)
def test_results_of_another_programs_are_not_overwritten(
    made: Any, change: str | dict[str, Any], fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor do they say what is deleted: with another seed, what an earlier study left is cleared away."""
    folder = tmp_path / "out"
    shutil.copytree(made[1], folder)
    if isinstance(change, dict):
        change = json.dumps(json.loads((folder / "results.json").read_text()) | change)
    (folder / "results.json").write_text(change)
    for name in ("mine.ipynb", "mine.html", "out/style.css"):
        (tmp_path / name).write_text("mine")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    where = ["--notebooks", str(made[0] / "notebooks")]
    assert report("1", *where, "--out", str(folder), "--seed", "4") == 2
    assert fault in capsys.readouterr().err
    assert main(["report", "--check", str(folder), *where]) == 2
    assert fault in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_two_reports_into_one_folder_leave_each_other_alone(tmp_path: Path) -> None:
    (tmp_path / ".index.html.part").write_text("half of another one's")
    reports.write_text(tmp_path / "index.html", "mine")
    found = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert found == {"index.html": "mine", ".index.html.part": "half of another one's"}


def test_a_user_without_a_home_gets_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs under any number: the system knows no such user, and HOME is not set."""
    import pwd

    def unknown(number: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with pytest.raises(RuntimeError):
        Path.home()
    study = Study("demo", run_root=tmp_path / "runs")
    scrub = reports._scrubber(reports.Plan(study, tmp_path, (), {}, {}))
    assert scrub(f"{tmp_path}/runs/level1 by {sys.prefix}/bin") == "{run_root}/level1 by {environment}/bin"


def test_a_long_row_of_numbers_and_a_word_is_read_at_once() -> None:
    """In a process of its own: what tries every way to split it never ends, and would keep the others waiting."""
    code = """
from cifarlib import reports
for many in ("1 ", "-1", "1-", "1e-12 ", "1 %, "):
    assert not reports._NUMBER.fullmatch(many * 2000 + "x")
    assert reports._NUMBER.fullmatch(many * 2000 + "1")
"""
    subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(reports.ROOT)}, timeout=120, check=True
    )


@pytest.mark.parametrize(
    "text", ["1 (2 to 3)", "1  2", "[0.1, -0.2]", "-1 - -2", "1e-12", "< 5 ms", "3±1", "1\u20132 %"]
)
def test_numbers_and_intervals_are_numbers(text: str) -> None:
    assert reports._NUMBER.fullmatch(text)
    assert not reports._NUMBER.fullmatch(f"{text} x")


def test_a_level_can_be_added_and_check_sees_one_changed_cell(
    made: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, out, _ = made
    notebooks, folder = tmp_path / "notebooks", tmp_path / "out"
    shutil.copytree(base / "notebooks", notebooks)
    shutil.copytree(out, folder)
    write(notebooks, "level3", [new_code_cell("1 + 1")])
    where = ["--notebooks", str(notebooks)]
    first = (folder / "level1_x.ipynb").read_bytes()
    study = [*where, "--out", str(folder), "--seed", "3"]
    assert report("3", *study, "--note", "On *a laptop*.<script>x</script>") == 0
    assert report("level4", *study) == 0
    assert (folder / "level1_x.ipynb").read_bytes() == first
    for name in ("index", "level1_x", "level3_x", "level4_x"):  # a level added later keeps the note
        notice = soup(folder / f"{name}.html").find(class_="notice")
        assert notice.em.get_text() == "a laptop" and not notice.find("script")
        assert "Built-in images, not CIFAR-10" in notice.get_text()
    assert "On *a laptop*." in reports.results_table(json.loads((folder / "results.json").read_text()))
    assert not soup(folder / "level1_x.html").find(class_="absent"), "every page links the new levels"

    capsys.readouterr()
    assert main(["report", "--check", str(folder), *where]) == 0
    write(notebooks, "level3", [new_code_cell("1 + 2")])
    path = notebooks / "level4_x.ipynb"
    path.write_text(path.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    assert main(["report", "--check", str(folder), *where]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:3] == [
        "level3_x.ipynb: cell 3 (1 + 2) changed",
        "level4_x.ipynb: same cells, but the file is not the one that was executed",
    ]


def test_check_names_missing_moved_and_failed(made: Any, tmp_path: Path) -> None:
    base, out, _ = made
    notebooks = tmp_path / "notebooks"
    shutil.copytree(base / "notebooks", notebooks)
    path = notebooks / "level1_x.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[3], notebook.cells[4] = notebook.cells[4], notebook.cells[3]
    nbformat.write(notebook, path)
    found = reports.check(out, notebooks)
    assert found[0] == "level1_x.ipynb: cells changed places"
    assert found[1].startswith("level3_x.ipynb: its report shows a failure, cell 4 of 5")
    assert found[2:] == ["level4_x.ipynb: not in the reports"]
    with pytest.raises(FileNotFoundError, match=r"holds no results\.json"):
        reports.check(tmp_path, notebooks)


@pytest.mark.parametrize(
    ("program", "words"),
    [
        (
            ["sh", "-c", "exec sleep 600"],
            "did not answer within 2 s. If the loopback network is down, on Linux as root: ip link set lo up",
        ),
        ([sys.executable, "-c", "raise SystemExit('its words')"], "ended as it started. What it said is printed"),
    ],
    ids=["silent", "dead"],
)
def test_a_kernel_that_does_not_start_is_named_with_a_remedy(
    program: list[str],
    words: str,
    made: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The notebook's process is a real one that runs another program than ipykernel's."""
    spec = {"argv": program, "display_name": "Python 3", "language": "python"}
    monkeypatch.setattr("ipykernel.kernelspec.get_kernel_dict", lambda **_: spec)
    monkeypatch.setattr(reports, "_START_SECONDS", 2)
    out = tmp_path / "out"
    asked = ["--notebooks", str(made[0] / "notebooks"), "--out", str(out)]
    assert report("1", "2", *asked, "--run-root", str(tmp_path / "runs")) == 1
    said = capfd.readouterr()
    assert re.search(rf"^level1: FAILED after \d.*, no cell ran, .*{re.escape(words)}", said.out, re.MULTILINE)
    assert "level2_x" not in said.out and "Traceback" not in said.out + said.err
    assert ("its words" in said.err) == (program[0] != "sh")
    page = soup(out / "level1_x.html")
    assert words in page.find(class_="failure").get_text()
    assert page.find("pre") is not None, "the notebook's code"
    results = json.loads((out / "results.json").read_text())
    assert words in results["pages"]["level1"]["failure"] and results["pages"]["level1"]["state"] == "failed"
    assert "failed" in soup(out / "index.html").main.get_text()


def test_an_interrupt_ends_cleanly(tmp_path: Path) -> None:
    write(
        tmp_path / "n",
        "level1",
        [new_code_cell("import time\nprint('go', flush=True)\nwhile True: time.sleep(1)")],
    )
    command = [
        sys.executable,
        "-m",
        "cifarlib",
        "report",
        "1",
        "--profile",
        "demo",
        *SMALL,
        "--notebooks",
        "n",
    ]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(reports.ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Run in the background of a shell without job control, tests have SIGINT ignored, and a child inherits it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        try:
            assert any(line == "go\n" for line in process.stdout)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 130
    assert errors.strip().startswith("cifarlib: interrupted")
    assert errors.strip().count("\n") == 0, errors
    assert not list((tmp_path / "reports" / "demo").iterdir())


def test_the_readme_shows_the_committed_results(tmp_path: Path) -> None:
    """README's table is the one of the run on photographs, to the letter."""
    readme = tmp_path / "README.md"
    readme.write_text((reports.ROOT / "README.md").read_text())
    reports.update_readme(readme, reports.ROOT / "reports" / "photographs")
    assert readme.read_text() == (reports.ROOT / "README.md").read_text()
    assert "Level\u00a04" in readme.read_text()


def test_reports_are_never_written_over_the_notebooks(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "1", "--profile", "demo", "--out", str(reports.ROOT / "notebooks")]) == 2
    assert "would overwrite them" in capsys.readouterr().err
