"""The pages in a real browser: on a screen and a phone, light and dark, on paper; readable by everyone.

They are written by the present templates from the committed notebooks and results.
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import subprocess
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import bs4
import matplotlib.figure
import numpy as np
import pytest
import websocket
from PIL import Image

from cifarlib import plotting, reports

RECORD = Path(__file__).resolve().parents[1] / "reports" / "photographs"
PAGES = ["index", *sorted(path.stem for path in RECORD.glob("level*.html"))]
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--remote-debugging-port=0"]
MOST_BYTES = 2_000_000
A4 = {"paperWidth": 8.27, "paperHeight": 11.69}  # inches


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The committed reports' pages, made anew."""
    out = tmp_path_factory.mktemp("pages")
    for notebook in RECORD.glob("*.ipynb"):
        shutil.copy(notebook, out)
    reports.write_pages(out, json.loads((RECORD / "results.json").read_text(encoding="utf-8")))
    return out


class Tab:
    """One tab of a headless browser, driven over its debugging protocol; it keeps the events it is told."""

    def __init__(self, profile: Path) -> None:
        assert BROWSER is not None
        self.process = subprocess.Popen(
            [BROWSER, *FLAGS, "--remote-allow-origins=*", f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        port_file = profile / "DevToolsActivePort"
        for _ in range(600):
            if port_file.exists() and port_file.read_text().count("\n"):
                break
            assert self.process.poll() is None, f"{BROWSER} ended with {self.process.returncode}"
            time.sleep(0.1)
        port = port_file.read_text().split("\n")[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=30) as answer:
            (tab,) = [tab for tab in json.load(answer) if tab["type"] == "page"]
        self.socket = websocket.create_connection(tab["webSocketDebuggerUrl"], timeout=120)
        self.number = 0
        self.events: list[dict[str, Any]] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> Any:
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.socket.recv())
            if message.get("id") == self.number:
                assert "error" not in message, message
                return message["result"]
            self.events.append(message)

    def evaluate(self, expression: str) -> Any:
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def open(self, page: Path, width: int = 1280, *, dark: bool = False, media: str = "") -> None:
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **screen)
        self.call("Emulation.setEmulatedMedia", media=media, features=[scheme])
        self.events.clear()
        self.call("Page.navigate", url=page.as_uri())
        for _ in range(400):
            if self.evaluate("document.readyState + location.href") == f"complete{page.as_uri()}":
                return
            time.sleep(0.05)
        raise AssertionError(f"{page} did not load")

    def close(self) -> None:
        try:
            self.call("Browser.close")  # a signal would leave its folder for temporary files behind
            self.socket.close()
            self.process.wait(timeout=60)
        finally:
            self.process.kill()


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    if BROWSER is None:
        message = "no Chromium on this machine: install it to have the pages looked at in a browser"
        if os.environ.get("CIFARLIB_REQUIRE_BROWSER", "0") not in ("", "0"):
            pytest.fail(message)
        pytest.skip(message)
    opened = Tab(tmp_path_factory.mktemp("browser"))
    yield opened
    opened.close()


def test_there_are_pages_to_look_at() -> None:
    assert [name[:6] for name in PAGES] == ["index", "level1", "level2", "level3", "level4"]


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_light(folder: Path, name: str) -> None:
    for page in (folder / f"{name}.html", RECORD / f"{name}.html"):
        assert page.stat().st_size < MOST_BYTES


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_the_screen_and_keeps_to_itself(
    tab: Tab, folder: Path, name: str, width: int, dark: bool
) -> None:
    page = folder / f"{name}.html"
    tab.open(page, width, dark=dark)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.evaluate("[...document.images].filter(i => !i.naturalWidth || !i.alt).length") == 0
    frames = "figure" if width == 390 else "img"  # on a phone a wide figure scrolls within its own frame
    beside = (
        f"[...document.querySelectorAll({frames!r})].filter(e => e.getBoundingClientRect().right > innerWidth)"
    )
    assert tab.evaluate(f"{beside}.map(i => i.outerHTML.slice(-200))") == []
    if width == 1280:  # and so does a wide table
        wide = "[...document.querySelectorAll('.table')].filter(t => t.scrollWidth > t.clientWidth + 1)"
        assert tab.evaluate(f"{wide}.map(t => t.innerText.slice(0, 80))") == []
    asked = [e["params"]["request"]["url"] for e in tab.events if e["method"] == "Network.requestWillBeSent"]
    assert page.as_uri() in asked
    assert [url for url in asked if url != page.as_uri() and not url.startswith("data:")] == []
    kinds = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
    assert [event for event in tab.events if event["method"] in kinds] == []


def test_a_request_or_an_error_would_be_noticed(tab: Tab, tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text("<!DOCTYPE html><title>x</title><img src='gone.png' alt='x'><script>nothing()</script>")
    tab.open(page)
    urls = [e["params"]["request"]["url"] for e in tab.events if e["method"] == "Network.requestWillBeSent"]
    assert (tmp_path / "gone.png").as_uri() in urls
    assert {"Log.entryAdded", "Runtime.exceptionThrown"} <= {event["method"] for event in tab.events}


# --- Accessibility -----------------------------------------------------------------------------------------

AXE = """
axe.run(document, {resultTypes: ["violations", "incomplete"], rules: {"color-contrast": {enabled: CONTRAST}}})
.then(found => Object.fromEntries(["violations", "incomplete"].map(kind => [kind, found[kind].flatMap(
    rule => rule.nodes.map(node => [rule.id, rule.impact, node.target.join(" "), node.failureSummary]))])))
"""


def barriers(tab: Tab, *, contrast: bool = True) -> dict[str, list[list[str]]]:
    """What axe-core finds on the page that is open, its folded code unfolded."""
    tab.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    tab.evaluate(resources.files("axe_core_python").joinpath("axe.min.js").read_text(encoding="utf-8") + "; 0")
    found: dict[str, list[list[str]]] = tab.evaluate(AXE.replace("CONTRAST", str(contrast).lower()))
    return found


@pytest.mark.parametrize("dark", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_no_barrier(tab: Tab, folder: Path, name: str, dark: bool) -> None:
    tab.open(folder / f"{name}.html", dark=dark)
    found = barriers(tab)
    assert found["violations"] == []  # neither serious nor moderate ones
    assert [node for node in found["incomplete"] if node[0] == "color-contrast"] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_no_barrier_on_a_phone(tab: Tab, folder: Path, name: str) -> None:
    """Colours are those of the screen, and dark or light changes nothing else."""
    tab.open(folder / f"{name}.html", 390)
    assert barriers(tab, contrast=False)["violations"] == []


def test_axe_would_find_one(tab: Tab, tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text(
        "<!DOCTYPE html><title>x</title><img src='data:,'><p style='color: #bbb; background: #fff'>pale"
    )
    tab.open(page)
    rules = {node[0] for node in barriers(tab)["violations"]}
    assert {"image-alt", "color-contrast", "html-has-lang"} <= rules


@pytest.mark.parametrize("name", PAGES)
def test_dark_pages_do_not_glare(tab: Tab, folder: Path, name: str) -> None:
    """What is shown is dark, figures of lines too: they are turned over, pictures dimmed."""
    tab.open(folder / f"{name}.html", dark=True)
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 24, 28)"
    filters = tab.evaluate("[...document.images].map(i => [i.className, getComputedStyle(i).filter])")
    assert filters and all("invert" in f if c == "drawing" else "brightness" in f for c, f in filters)
    box = "document.querySelector('.drawing').getBoundingClientRect()"
    x, y, wide, high = tab.evaluate(f"(r => [r.x, r.y + scrollY, r.width, r.height])({box})")
    clip = {"x": x, "y": y, "width": wide, "height": high, "scale": 1}
    shot = tab.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)["data"]
    with Image.open(io.BytesIO(base64.b64decode(shot))) as picture:
        grey = picture.convert("L").histogram()
    assert sum(grey[:40]) > 0.85 * sum(grey), "the figure's ground is the page's"
    assert sum(grey[180:]) > 0, "and its words are light on it"


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in PAGES if name != "index"])
def test_a_wide_figure_keeps_its_text_readable_on_a_phone(tab: Tab, folder: Path, name: str) -> None:
    """It scrolls within its own frame, also by the keyboard, and the page does not."""
    wide = "[...document.querySelectorAll('figure')].filter(f => f.firstElementChild.getAttribute('width') > 600)"
    drawn = f"{wide}.map(f => [f.firstElementChild.clientWidth, f.scrollWidth > f.clientWidth, f.tabIndex])"
    tab.open(folder / f"{name}.html", 390)
    figures = tab.evaluate(drawn)
    assert figures and figures == [[600, True, 0]] * len(figures)
    assert tab.evaluate("document.documentElement.scrollWidth") == 390
    tab.open(folder / f"{name}.html", 1280)
    assert not any(scrolls for _, scrolls, _ in tab.evaluate(drawn))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in PAGES if name != "index"])
def test_a_table_of_texts_is_a_list_on_a_phone_and_stays_a_table_to_a_screen_reader(
    tab: Tab, folder: Path, name: str
) -> None:
    tab.open(folder / f"{name}.html", 390)
    look = "(t => [t.scrollWidth <= t.parentElement.clientWidth, getComputedStyle(t).display])"
    assert tab.evaluate(f"{look}(document.querySelector('#claims'))") == [True, "block"]
    cell = "document.querySelector('#claims td[data-label=evidence]')"
    assert "evidence" in tab.evaluate(f"getComputedStyle({cell}, '::before').content")
    tree = tab.call("Accessibility.getFullAXTree")["nodes"]
    roles = Counter(node.get("role", {}).get("value") for node in tree)
    rows = tab.evaluate("document.querySelectorAll('tr').length")
    assert roles["row"] == rows and roles["columnheader"] >= 5


@pytest.mark.parametrize("name", PAGES)
def test_what_can_be_tabbed_to_has_a_name_of_its_own(folder: Path, name: str) -> None:
    page = bs4.BeautifulSoup((folder / f"{name}.html").read_text(encoding="utf-8"), "html.parser")
    names = Counter(element.get("aria-label") for element in page.select("[tabindex='0']"))
    assert names and names.pop(None, 0) == 0
    assert set(names.values()) == {1}, names


# --- Paper -------------------------------------------------------------------------------------------------


def images_of_pages(pdf: bytes) -> list[list[bytes]]:
    """The pictures on each page of a PDF that Chromium wrote, by their objects' numbers."""
    objects = dict(re.findall(rb"(?m)^(\d+) 0 obj\n(.*?)\nendobj", pdf, flags=re.DOTALL))
    pages = [body for body in objects.values() if re.match(rb"<</Type /Page\n", body)]
    found = []
    for body in pages:
        named = re.search(rb"/XObject <<(.*?)>>", body, flags=re.DOTALL)
        numbers = re.findall(rb"/X\d+ (\d+) 0 R", named.group(1)) if named else []
        found.append([n for n in numbers if b"/Subtype /Image" in objects[n]])
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
def test_a_printed_page_cuts_no_figure_and_no_row(tab: Tab, folder: Path, name: str) -> None:
    tab.open(folder / f"{name}.html", dark=True)
    figures = tab.evaluate("document.images.length")
    pdf = base64.b64decode(tab.call("Page.printToPDF", preferCSSPageSize=True, **A4)["data"])
    assert pdf.startswith(b"%PDF")
    pages = images_of_pages(pdf)
    # A figure over the end of a page would be drawn on both.
    on = Counter(number for page in pages for number in page)
    assert len(pages) > 1 and len(on) == figures and set(on.values()) == {1}, on

    paper = 720  # pixels between A4's margins, about
    tab.open(folder / f"{name}.html", paper, dark=True, media="print")
    cut = "[...document.querySelectorAll('figure, tr')].filter(e => getComputedStyle(e).breakInside != 'avoid')"
    assert tab.evaluate(f"{cut}.length") == 0
    assert tab.evaluate("Math.max(...[...document.images].map(i => i.getBoundingClientRect().height))") < 900
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert tab.evaluate("[...document.images].every(i => getComputedStyle(i).filter == 'none')")
    assert tab.evaluate("document.documentElement.scrollWidth") <= paper
    code = "[...document.querySelectorAll('details.code')].filter(d => d.getClientRects().length)"
    assert tab.evaluate(f"{code}.length") == 0
    links = "[...document.querySelectorAll('main a[href^=http]')].map(a => getComputedStyle(a, '::after').content)"
    assert all("(" in content for content in tab.evaluate(links))


# --- What is on the index ----------------------------------------------------------------------------------


def text(element: Any) -> str:
    return " ".join(element.get_text(" ").split())


def test_the_index_has_everything_at_a_glance(folder: Path) -> None:
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    page = bs4.BeautifulSoup((folder / "index.html").read_text(encoding="utf-8"), "html.parser")
    levels = results["levels"]
    best = max(levels, key=lambda level: levels[level]["test_accuracy"])
    lead = text(page.find(class_="lead"))
    assert f"{best.replace('level', 'Level ')}, {100 * levels[best]['test_accuracy']:.2f} %" in lead
    verdicts = Counter(row["verdict"] for values in levels.values() for row in values["claims"])
    assert f"Of the documents' {sum(verdicts.values())} claims, {verdicts['holds']} hold here" in lead
    alts = [text_of["alt"].replace("\xa0", " ") for text_of in page.find_all("img")]
    assert [alt.split(" ")[0] for alt in alts] == ["Test", "Validation", "Test"]
    for level, values in levels.items():
        assert f"{level.replace('level', 'Level ')} {100 * values['test_accuracy']:.2f} %" in alts[2]
        for name, history in values["history"].items():
            shown = name.replace("level", "Level ").replace("efficientnet", "EfficientNet-B0")
            assert f"{shown} from {100 * history['val_accuracy'][0]:.1f} %" in alts[1]
    _, table = page.find_all("table", class_="wide")
    rows = {row.th.get_text(): row.find_all("td") for row in table.tbody.find_all("tr")}
    assert set(rows) == set(results["data"]["classes"])
    for k, level in enumerate(sorted(levels)):
        recall = {name: c["recall"] for name, c in levels[level]["recall"].items()}
        for name, cells in rows.items():
            expected = f"{100 * recall[name]:.1f} %"
            if recall[name] in (max(recall.values()), min(recall.values())):
                expected = f"{'best' if recall[name] == max(recall.values()) else 'worst'} {expected}"
            assert text(cells[k]) == expected
    claims = {link["href"] for link in page.find_all("a") if "#claims" in link["href"]}
    assert claims == {f"{name}.html#claims" for name in PAGES if name != "index"}
    for name in PAGES[1:]:
        level = bs4.BeautifulSoup((folder / f"{name}.html").read_text(encoding="utf-8"), "html.parser")
        assert level.find(id="claims").name == "table"


def test_of_many_classes_the_ends_are_shown() -> None:
    def one(value: float | None) -> dict[str, Any]:
        return {"recall": value, "low": value, "high": value, "support": 5}

    recall = {f"class {i}": one(i / 40) for i in range(40)} | {"no images": one(None)}
    found = reports._classes({"level2": {"recall": recall}})
    assert found is not None
    assert [row["name"] for row in found["rows"]] == [f"class {i}" for i in (39, 38, 37, 36, 35, 4, 3, 2, 1, 0)]
    assert (found["left_out"], found["columns"]) == (30, ["Level\u00a02"])
    assert [row["cells"][0]["mark"] for row in found["rows"]] == ["best", *[""] * 8, "worst"]
    assert reports._classes({"level1": {"recall": {"no images": one(None)}}}) is None
    assert reports._classes({"level1": {}}) is None


@pytest.mark.parametrize(
    ("cells", "right"),
    [
        (["1,234", "-0.5 %", ""], True),
        (["< 0.001", "0.032"], True),
        (["1.506 (1.451 to 1.562)", "—"], True),
        (["40", "yes"], False),  # aligned right in part, a column would be ragged
        (["64 x 20", "10"], False),
        (["", "—"], False),
    ],
)
def test_a_column_of_numbers_is_aligned_as_one(cells: list[str], right: bool) -> None:
    rows = "".join(f"<tr><th>name</th><td>{cell}</td></tr>" for cell in cells)
    soup = bs4.BeautifulSoup(
        f"<table><thead><tr><th></th><th>x</th></tr></thead><tbody>{rows}</tbody></table>", "html.parser"
    )
    reports._tidy_table(soup, soup.table, "Table 1: Results")
    assert [("n" in (cell.get("class") or "")) for cell in soup.tbody.find_all("td")] == [right] * len(cells)
    assert soup.find("th", scope="col").get("class") == ("n" if right else None)
    assert soup.div["aria-label"] == "Table 1: Results"


def test_only_lines_on_white_are_drawings() -> None:

    def source(figure: matplotlib.figure.Figure) -> str:
        return f"data:image/png;base64,{base64.b64encode(plotting.png(figure)).decode()}"

    assert reports._is_drawing(
        source(plotting.forest([{"name": "a", "accuracy": 0.5, "low": 0.4, "high": 0.6}], []))
    )
    images = np.random.default_rng(0).integers(256, size=(20, 3, 8, 8), dtype=np.uint8)
    names = tuple("abcdefghij")
    assert not reports._is_drawing(source(plotting.samples(images, np.arange(20) % 10, names)))
    assert not reports._is_drawing(source(plotting.confusion(np.full((10, 10), 7), names)))
    assert not reports._is_drawing("data:image/png;base64,bm8gcGljdHVyZQ==")
