"""The committed pages in a real browser: nothing wider than the screen, no empty picture, nothing fetched."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import websocket

PAGES = sorted((Path(__file__).resolve().parents[1] / "reports" / "demo").glob("*.html"))
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--remote-debugging-port=0"]

Call = Callable[..., Any]


@pytest.fixture(scope="module")
def call(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Call]:
    """One tab of a headless browser, driven over its debugging protocol: `call(method, **parameters)`."""
    if BROWSER is None:
        pytest.skip("no Chromium on this machine: install it to have the pages looked at in a browser")
    profile = tmp_path_factory.mktemp("browser")
    process = subprocess.Popen(
        [BROWSER, *FLAGS, "--remote-allow-origins=*", f"--user-data-dir={profile}", "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    port_file = profile / "DevToolsActivePort"
    for _ in range(300):
        if port_file.exists() and port_file.read_text().count("\n"):
            break
        time.sleep(0.1)
    port = port_file.read_text().split("\n")[0]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=10) as answer:
        (tab,) = [tab for tab in json.load(answer) if tab["type"] == "page"]
    socket = websocket.create_connection(tab["webSocketDebuggerUrl"], timeout=30)
    number = 0

    def send(method: str, **parameters: Any) -> Any:
        nonlocal number
        number += 1
        socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(socket.recv())
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]

    yield send
    socket.close()
    process.terminate()
    process.wait()


def evaluate(call: Call, expression: str) -> Any:
    return call("Runtime.evaluate", expression=expression, returnByValue=True)["result"]["value"]


def open_page(call: Call, page: Path, width: int) -> None:
    call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600)
    call("Page.navigate", url=page.as_uri())
    for _ in range(100):
        if (
            evaluate(call, "document.readyState") == "complete"
            and evaluate(call, "location.href") == page.as_uri()
        ):
            return
        time.sleep(0.05)
    raise AssertionError(f"{page} did not load")


def test_there_are_pages_to_look_at() -> None:
    assert [page.stem[:6] for page in PAGES] == ["index", "level1", "level2", "level3", "level4"]


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_fits_the_screen(call: Call, page: Path, width: int) -> None:
    open_page(call, page, width)
    assert evaluate(call, "document.documentElement.scrollWidth") <= width
    assert evaluate(call, "[...document.images].filter(i => !i.naturalWidth || !i.alt).length") == 0
    assert (
        evaluate(call, "performance.getEntriesByType('resource').filter(r => !/^data:/.test(r.name)).length") == 0
    )
    if width == 1280:  # on a phone a wide table scrolls within its own frame
        wide = "[...document.querySelectorAll('.table')].filter(t => t.scrollWidth > t.clientWidth + 1)"
        assert evaluate(call, f"{wide}.map(t => t.innerText.slice(0, 80))") == []
