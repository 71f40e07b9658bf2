"""Class folders, data roots and files with hostile names: nothing raises, nothing runs, nothing comes apart.

The oracle is a page about the same images under plain names: a name may change what is written on a page, never
which elements it consists of.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import bs4
import nbformat
import numpy as np
import pandas as pd
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.display import Markdown, display
from IPython.utils.capture import capture_output
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from cifarlib import Study, data, evaluation, plotting, reports, tables
from cifarlib.recipes import FULL

NAMES = (
    "\x1b[31mred",
    '"quoted"',
    "$\\frac$",
    "$x$",
    "'",
    "*bold*",
    "1" * 60 + "a",  # a pattern for numbers that goes back and forth would never end
    "<img src=x onerror=alert(1)>",
    "<script>alert(1)",
    "[a](javascript:alert(1))",
    "_under_",
    "`tick`",
    "a&b",
    "l" * 200,
    "two\nlines",
    "x\u202egnp",  # from right to left, from here on
    "|pipe|",
    "~..",
    "قطة",
    "猫",
    "🦊 smile",
)
ROOT = "<b>$x$ *data* `` `root`"
OVERRIDES = {"weights": "none", "image_size": 32, "epochs": 1, "batch_size": 42}


def a_pixel() -> str:
    out = io.BytesIO()
    Image.new("RGB", (1, 1)).save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()


def write_classes(root: Path, names: Sequence[str]) -> None:
    rng = np.random.default_rng(0)
    for name in names:
        (root / name).mkdir(parents=True)
        for i in range(6):
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(root / name / f"{i}.png")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Study:
    root = tmp_path_factory.mktemp("images") / ROOT
    write_classes(root, NAMES)
    return Study("full", data_root=root, run_root=root.parent / "runs", overrides=OVERRIDES)


@pytest.fixture(scope="module")
def drawn(hostile: Study) -> list[Figure]:
    return list(figures(hostile.split.test, hostile.classes))


def figures(images: data.ImageSet, classes: Sequence[str]) -> Iterator[Figure]:
    """Every figure that shows class names, as the notebooks draw it."""
    count, labels = len(classes), images.labels.numpy()
    probs = np.random.default_rng(1).dirichlet(np.full(count, 0.3), (2, len(labels)))
    first, second = (evaluation.confusion(each, labels) for each in probs)
    yield plotting.samples(images.images, images.labels, classes)
    yield plotting.confusion(first, classes, title="Level 1, test images")
    yield plotting.confusion_difference(first, second, classes, ("Level 1", "Level 2"))
    yield plotting.per_class(evaluation.per_class_report(probs[0], labels, classes))
    yield plotting.gates(np.random.default_rng(2).normal(1, 0.1, (count, 40)), classes)
    captions = [
        f"{classes[p.argmax()]} {p.max():.1%}\nis {classes[y]}" for p, y in zip(probs[0], labels, strict=True)
    ]
    yield plotting.gallery(images.images, captions, correct=[False] * len(captions))
    maps = {"Level 2": np.random.default_rng(3).random((len(labels), 4, 4))}
    captions = [f"is {classes[y]}\nlevel 2: {classes[y]}\nlevel 3: {classes[y]}" for y in labels]
    yield plotting.cams(images.images, maps, captions)


def frames(split: data.Split, classes: Sequence[str]) -> Iterator[pd.DataFrame]:
    """Every table that shows class names."""
    labels = split.test.labels.numpy()
    probs = np.random.default_rng(1).dirichlet(np.full(len(classes), 0.3), (2, len(labels)))
    matrices = {f"Level {i}": evaluation.confusion(each, labels) for i, each in enumerate(probs, 1)}
    yield tables.split(split)
    yield tables.per_class(evaluation.per_class_report(probs[0], labels, classes))
    yield tables.confused_pairs(matrices["Level 1"], classes)
    yield tables.pair_counts(matrices, classes)
    yield tables.recall_differences(evaluation.recall_differences(*probs, labels, classes))


def names_in_a_table(classes: Sequence[str]) -> pd.DataFrame:
    """Names as rows, columns and cells at once."""
    return pd.DataFrame([classes] * len(classes), index=list(classes), columns=list(classes))


def outputs(split: data.Split, classes: Sequence[str], notice: str, alts: Sequence[str]) -> list[Any]:
    """What the cells of a notebook would show: `alts` are the figures' alternative texts."""
    InteractiveShell.instance()
    with capture_output() as captured:
        display(Markdown(notice + " "))  # not the page's own, which is shown once
        for alt in alts:
            display({"image/png": a_pixel(), "text/plain": alt}, raw=True, metadata={"image/png": {"alt": alt}})
        for frame in [*frames(split, classes), names_in_a_table(classes)]:
            tables.show(frame)
        display(", ".join(classes))
    shown = captured.outputs
    return [nbformat.v4.new_output("display_data", each.data, metadata=each.metadata) for each in shown]


def publish(folder: Path, results: dict[str, Any], shown: list[Any]) -> dict[str, bs4.BeautifulSoup]:
    """Write a report's pages about these outputs and return them."""
    folder.mkdir()
    head = nbformat.v4.new_markdown_cell("# A level", id="head")
    code = nbformat.v4.new_code_cell("shown", id="code", outputs=shown)
    nbformat.write(nbformat.v4.new_notebook(cells=[head, code]), folder / "level1_x.ipynb")
    page = {"notebook": "level1_x.ipynb", "page": "level1_x.html", "failure": "", "parameters": {}, "seconds": 1.0}
    more = {"profile": "full", "seed": 0, "overrides": {}, "notebooks": {}, "pages": {"level1": page}}
    reports.write_pages(folder, results | more)
    return {
        path.name: bs4.BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
        for path in sorted(folder.glob("*.html"))
    }


@pytest.mark.slow
def test_pages_consist_of_the_same_elements_whatever_the_names(
    hostile: Study, drawn: list[Figure], tmp_path: Path
) -> None:
    split, found = hostile.split, reports.collect(hostile)
    assert set(split.classes) == set(NAMES)
    plain = [f"class {i}" for i in range(len(NAMES))]
    tame = found | {"data": found["data"] | {"classes": plain}, "notice": found["notice"].replace(ROOT, "root")}
    alts = [str(figure.get_label()) for figure in drawn]
    bad = publish(tmp_path / "bad", found, outputs(split, split.classes, found["notice"], alts))
    good = publish(tmp_path / "good", tame, outputs(split, plain, tame["notice"], ["a figure"] * len(alts)))
    assert list(bad) == list(good) == ["index.html", "level1_x.html"]
    for name, page in bad.items():
        elements = [element.name for element in page.find_all(True)]
        assert elements == [element.name for element in good[name].find_all(True)]
        assert not page.find_all(["script", "iframe", "b"])
        assert all(str(image["src"]).startswith("data:") for image in page.find_all("img"))
        for element in page.find_all(True):
            assert not [key for key in element.attrs if key.startswith("on")], element
            assert "javascript:" not in str(element.get("href", ""))
        assert ROOT in page.find(class_="notice").find("code").get_text()
    headers = [cell.get_text() for cell in bad["level1_x.html"].find_all("table")[-1].thead.find_all("th")]
    assert headers == list(split.classes)
    for name in split.classes:
        assert name in bad["index.html"].get_text()


def test_a_run_keeps_the_names(hostile: Study) -> None:
    run = hostile.run("level1")
    assert run.classes == hostile.classes
    again = Study("full", data_root=hostile.data_root, run_root=hostile.run_root, overrides=OVERRIDES)
    assert again.find("level1").classes == hostile.classes
    assert list(again.results()) == ["level1"]
    tables.show_claims(again.claims("level1"))


def test_figures_draw_names_as_they_are(drawn: list[Figure]) -> None:
    """No formula, no missing character, no second line, and alternative text in one line."""
    for figure in drawn:
        assert plotting.png(figure)
        assert str(figure.get_label()).isprintable()
        texts = figure.findobj(Text)
        assert not [text for text in texts if "$" in text.get_text() and text.get_parse_math()]
        assert not [text for text in texts if "猫" in text.get_text() or "\x1b" in text.get_text()]
    names = {text.get_text() for text in drawn[0].findobj(Text)}  # of the rows of samples
    assert {
        "$x$",
        "$\\frac$",
        "U+732B",
        "U+1F98A smile",
        "two lines",
        "xgnp",
        "قطة",
        "llllllllll…lllllllll",
    } <= names


def test_notice_is_markdown_in_which_names_are_code(hostile: Study) -> None:
    notice = reports._markdown(hostile.notice())
    soup = bs4.BeautifulSoup(str(notice), "html.parser")
    assert [element.name for element in soup.find_all(True)] == ["p", "strong", "code"]
    assert soup.code.get_text() == ROOT
    named_here = Study("full", data_root=".", overrides=OVERRIDES)
    named_here.__dict__["split"] = hostile.split
    assert f"the folder `{Path.cwd().name}`" in named_here.notice()


def test_an_error_about_hostile_names_stays_text(tmp_path: Path) -> None:
    root = tmp_path / "*root*"
    write_classes(root, ("<b>cat", "dog"))
    for name in ("<img src=x onerror=alert(1)>.png", "`$x$`\n# title.png", "\udcff.png"):
        (root / "<b>cat" / name).write_bytes(b"damaged")
    study = Study("full", data_root=root, run_root=tmp_path / "runs", overrides=OVERRIDES)
    found = reports.collect(study)
    assert found["levels"] == {}
    soup = bs4.BeautifulSoup(str(reports._markdown(found["notice"])), "html.parser")
    assert [element.name for element in soup.find_all(True)] == ["p", "strong", "code"]
    assert "3 images cannot be used" in soup.code.get_text()
    assert "<img src=x onerror=alert(1)>.png cannot be read" in soup.code.get_text()
    found["notice"].encode()  # and can be written


def test_a_data_root_may_have_a_hostile_name_too(tmp_path: Path) -> None:
    root = tmp_path / ROOT
    write_classes(root, ("cat",))
    with pytest.raises(ValueError, match="there is only one, 'cat'") as raised:
        data.load(FULL, root)
    assert ROOT in str(raised.value)


def test_a_page_keeps_no_address_that_runs() -> None:
    """Browsers read a scheme over line breaks and blanks within it."""
    for address in (
        "javascript:alert(1)",
        " JavaScript:alert(1)",
        "java\nscript:alert(1)",
        "\x01javascript:alert(1)",
    ):
        assert reports._safe(f'<a href="{address}">x</a>').a.attrs == {}
    assert reports._safe('<a href="level1.html">x</a>').a["href"] == "level1.html"


def test_a_long_number_is_told_in_no_time() -> None:
    """Going back and forth over it would take longer than the universe is old."""
    assert not reports._NUMBER.fullmatch("1" * 200 + "a")
    for number in (
        "1,234",
        "82.06 % (81.30 to 82.80)",
        "-0.40",
        "+1.20 (-0.40 to +2.80)",
        "1.5e-3",
        "3 / 4",
    ):
        assert reports._NUMBER.fullmatch(number), number
