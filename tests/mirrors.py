"""A web server on the loopback interface whose every answer can be at fault, and a record of what it was asked."""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


class Handler(BaseHTTPRequestHandler):
    """Answers by what `Mirrors.answers` holds for the path."""

    mirrors: Mirrors
    sent = 0

    def do_GET(self) -> None:
        self.mirrors.asked.append(self.path)
        self.mirrors.ranges.append(self.headers.get("Range"))
        answer = self.mirrors.answers.get(self.path, lambda handler: handler.head(404, 0))
        with contextlib.suppress(ConnectionError):
            answer(self)
        self.mirrors.sent.append(self.sent)

    def head(self, status: int, length: int | None, **headers: str) -> None:
        """Send the status line and the headers; a length of None is not announced."""
        self.send_response(status)
        if length is not None:
            self.send_header("Content-Length", str(length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def body(self, content: bytes) -> None:
        """Send some of the body at once."""
        self.wfile.write(content)
        self.sent += len(content)

    def wait(self, seconds: float = 10) -> bool:
        """Send nothing until the test is over, or for a while; True where it is over."""
        return self.mirrors.closing.wait(seconds)

    def log_message(self, *args: object) -> None:
        pass


class Mirrors:
    """The server; `serving` starts and stops it.

    `asked`, `ranges` and `sent` hold the path, the Range header and the bytes of the body of each request, `sent`
    in the order in which they ended.
    """

    def __init__(self) -> None:
        self.answers: dict[str, Callable[[Handler], None]] = {}
        self.asked: list[str] = []
        self.ranges: list[str | None] = []
        self.sent: list[int] = []
        self.closing = threading.Event()
        handler = type("Bound", (Handler,), {"mirrors": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/{name}"

    def answer(self, name: str, answer: Callable[[Handler], None]) -> str:
        """Let a function answer for a path; returns its address."""
        self.answers[f"/{name}"] = answer
        return self.url(name)

    def serve(
        self,
        name: str,
        content: bytes,
        *,
        length: int | None = -1,
        ranges: bool = True,
        stop: int | None = None,
        stall: bool = False,
        pieces: int = 0,
        **headers: str,
    ) -> str:
        """Serve a file; returns its address.

        Args:
            name: Its path.
            content: The file.
            length: What Content-Length says where the whole is asked for: -1 the truth, None nothing.
            ranges: Whether a Range header is honoured.
            stop: After how many bytes each answer ends too early.
            stall: Whether it then leaves the connection open, and silent.
            pieces: The size of the pieces it sends, 10 ms apart; 0 for all at once.
            headers: Further headers, `_` for `-`.
        """

        def answer(handler: Handler) -> None:
            start = 0
            asked = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", "")) if ranges else None
            if asked and int(asked[1]) >= len(content):
                handler.head(416, 0, Content_Range=f"bytes */{len(content)}")
                return
            if asked:
                start = int(asked[1])
                whole = f"bytes {start}-{len(content) - 1}/{len(content)}"
                handler.head(206, len(content) - start, Content_Range=whole, **headers)
            else:
                handler.head(200, len(content) if length == -1 else length, **headers)
            body = content[start:] if stop is None else content[start : start + stop]
            for at in range(0, len(body), pieces or len(body) or 1):
                handler.body(body[at : at + (pieces or len(body))])
                if pieces and handler.wait(0.01):
                    return
            if stall:
                handler.wait()

        return self.answer(name, answer)


@contextlib.contextmanager
def serving() -> Iterator[Mirrors]:
    """Run a server, reached past any proxy, and without a mirror of the user's own."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.lower() in ("http_proxy", "https_proxy", "all_proxy") or name == "CIFARLIB_MIRROR":
                patch.delenv(name)
        mirrors = Mirrors()
        thread = threading.Thread(target=mirrors.server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield mirrors
        finally:
            mirrors.closing.set()
            mirrors.server.shutdown()
            thread.join()
            mirrors.server.server_close()
