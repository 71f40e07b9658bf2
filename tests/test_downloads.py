"""The downloader against a server at fault, a disk at fault, and processes that are killed."""

from __future__ import annotations

import hashlib
import random
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from mirrors import Handler, Mirrors, serving

from cifarlib import downloads

BODY = random.Random(0).randbytes(200_000)
HALF = len(BODY) // 2
MD5 = hashlib.md5(BODY).hexdigest()
NAME, PART = "file.bin", ".file.bin.part"


@pytest.fixture
def mirrors() -> Iterator[Mirrors]:
    with serving() as server:
        yield server


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the waiting, where there is something to wait for: a busy machine stalls for moments, too."""
    monkeypatch.setattr(downloads, "STALL_SECONDS", 0.5)
    monkeypatch.setattr(downloads, "SLOW_SECONDS", 0.25)


def fetch(folder: Path, *urls: str, digest: str = f"md5:{MD5}", size: int | str = len(BODY)) -> Path:
    return downloads.fetch(
        urls,
        folder / NAME,
        digest=digest,
        size=size,
        elsewhere="choose another data_root",
        otherwise="use profile='demo'",
    )


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# --- Faults of a mirror ------------------------------------------------------------------------------------


class Fault(NamedTuple):
    serve: Callable[[Mirrors], str]  # makes a mirror that has it; returns the address
    message: str  # a pattern of what is said about it
    kept: int | None = 0  # bytes of the part that may still become the file; None for some
    size: int | str = len(BODY)


def nobody(mirrors: Mirrors) -> str:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}/nobody"


def endless(handler: Handler) -> None:
    handler.head(200, None)
    while not handler.mirrors.closing.is_set():
        handler.body(BODY)


def status(code: int, **headers: str) -> Callable[[Mirrors], str]:
    def answer(handler: Handler) -> None:
        handler.head(code, 5, **headers)
        handler.body(b"sorry")

    return lambda mirrors: mirrors.answer(f"status{code}", answer)


def served(content: bytes, **faults: object) -> Callable[[Mirrors], str]:
    return lambda mirrors: mirrors.serve("served", content, **faults)  # type: ignore[arg-type]


PAGE = b"\n<!DOCTYPE html><title>Please log in</title>"
# Every fault by its name: the test below has one case for each.
FAULTS = {
    "refused connection": Fault(nobody, "Connection refused"),
    "silence": Fault(lambda m: m.answer("silent", lambda h: h.wait() and None), r"no answer within 0\.5 s"),
    "not http": Fault(lambda m: m.answer("ssh", lambda h: h.body(b"SSH-2.0\r\n")), "SSH-2.0"),
    "not tls": Fault(lambda m: served(BODY)(m).replace("http://", "https://"), r"(?i)ssl"),
    "stall": Fault(served(BODY, stop=0, stall=True), r"stalled for 0\.5 s after 0 bytes of 195 KiB"),
    "stall half way": Fault(
        served(BODY, stop=HALF, stall=True, ranges=False), r"stalled for 0\.5 s after 98 KiB of 195 KiB", HALF
    ),
    "drip": Fault(served(BODY, pieces=1), r"sent less than 1\.0 KiB a second; .* of 195 KiB", None),
    "truncated": Fault(served(BODY, stop=HALF, ranges=False), "broke off after 98 KiB of 195 KiB", HALF),
    "truncated, no length": Fault(
        served(BODY, stop=HALF, ranges=False, length=None), "broke off after 98 KiB of 195 KiB", HALF
    ),
    "truncated again and again": Fault(served(BODY, stop=10_000), "broke off after 39 KiB of 195 KiB", 40_000),
    "length too long": Fault(served(BODY, length=200_001), "offers 200001 bytes instead of the file's 200000"),
    "length too short": Fault(served(BODY, length=199_999), "offers 199999 bytes instead of the file's 200000"),
    "length too short, size unknown": Fault(
        served(BODY, length=199_999), f"sends another file: its md5 is [0-9a-f]{{32}}, not {MD5}", size=""
    ),
    "length beyond bounds, size unknown": Fault(
        served(BODY, length=1 << 40), r"offers 1024 GiB, and 1\.0 GiB are the most that is taken", size=""
    ),
    "nothing": Fault(served(b""), "offers 0 bytes instead of the file's 200000"),
    "nothing, size unknown": Fault(served(b""), "broke off after 0 bytes", size=""),
    "endless body": Fault(lambda m: m.answer("endless", endless), "sends more than the 195 KiB"),
    "wrong content": Fault(served(BODY[:-1] + b"?"), f"sends another file: its md5 is [0-9a-f]{{32}}, not {MD5}"),
    "web page": Fault(served(PAGE, Content_Type="text/html"), "offers a web page of 44 bytes"),
    "web page, no length": Fault(served(PAGE, length=None), "sends a web page instead of the file"),
    "status 403": Fault(status(403), "answers 403 Forbidden"),
    "status 404": Fault(status(404), "answers 404 Not Found"),
    "status 500": Fault(status(500), "answers 500 Internal Server Error"),
    "status 503": Fault(status(503), "answers 503 Service Unavailable"),
    "status 206 unasked": Fault(status(206), "answers 206 Partial Content"),
    "status 416 unasked": Fault(status(416), "answers 416"),
    "redirect loop": Fault(status(302, Location="/status302"), "redirects in a circle, or more than 10 times"),
    "redirect to a local file": Fault(
        status(301, Location="file:///etc/passwd"), "redirects to 'file:///etc/passwd', which is neither http"
    ),
    "redirect nowhere": Fault(status(307, Location="http://[/"), r"redirects to 'http://\[/'|Invalid IPv6 URL"),
}


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("name", FAULTS)
def test_a_mirror_at_fault_is_named_and_the_next_one_asked(
    name: str,
    mirrors: Mirrors,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    tally: Callable[..., None],
) -> None:
    fault = FAULTS[name]
    url, folder = fault.serve(mirrors), tmp_path / "new" / "folder"
    with pytest.raises(FileNotFoundError) as refused:
        fetch(folder, url, size=fault.size)
    message = str(refused.value)
    assert message.startswith(f"{NAME} could not be had:\n  {url}: ")
    assert re.search(fault.message, message.splitlines()[1])
    assert f"By hand: download it (md5 {MD5}) and put it at {folder / NAME}. Otherwise use profile" in message
    left = files(folder)
    if fault.kept == 0:
        assert left == {}
        assert "kept" not in message
    else:
        assert list(left) == [PART]
        assert BODY.startswith(left[PART]) and left[PART]
        assert fault.kept is None or len(left[PART]) == fault.kept
        assert f"they are kept in {folder / PART}, and the next call goes on there" in message

    capsys.readouterr()
    assert fetch(folder, url, mirrors.serve("good", BODY), size=fault.size) == folder / NAME
    assert files(folder) == {NAME: BODY}
    said = capsys.readouterr().err
    assert f"{url}: " in said and "Trying the next mirror." in said
    tally("downloads", faults_named_and_the_next_mirror_asked=1)
    assert re.search(r"file\.bin: came in .* s, with the right md5\.\n$", said)


def test_an_endless_body_of_unknown_size_is_left_at_the_bound(
    mirrors: Mirrors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "MAX_BYTES", 300_000)
    with pytest.raises(FileNotFoundError, match="sends more than the 293 KiB that the file can have"):
        fetch(tmp_path, mirrors.answer("endless", endless), size="about 200 KB")
    assert files(tmp_path) == {}


def test_a_redirect_whose_body_never_ends_is_followed_at_once(mirrors: Mirrors, tmp_path: Path) -> None:
    def answer(handler: Handler) -> None:
        handler.head(302, None, Location=mirrors.serve("good", BODY))
        while not mirrors.closing.is_set():
            handler.body(BODY)

    fetch(tmp_path, mirrors.answer("moved", answer))
    assert files(tmp_path) == {NAME: BODY}


def test_a_length_announced_too_long_does_no_harm_where_the_content_is_right(
    mirrors: Mirrors, tmp_path: Path
) -> None:
    fetch(tmp_path, mirrors.serve("long", BODY, length=len(BODY) + 1000), size="")
    assert mirrors.ranges == [None]
    assert files(tmp_path) == {NAME: BODY}


def test_the_file_is_taken_as_it_is_whatever_encoding_the_server_calls_it(
    mirrors: Mirrors, tmp_path: Path
) -> None:
    fetch(tmp_path, mirrors.serve("gzipped", BODY, Content_Encoding="gzip"))
    assert files(tmp_path) == {NAME: BODY}


def test_the_first_digits_of_a_sha256_will_do(mirrors: Mirrors, tmp_path: Path) -> None:
    sha = hashlib.sha256(BODY).hexdigest()
    fetch(tmp_path, mirrors.serve("good", BODY), digest=f"sha256:{sha[:8]}", size="")
    assert files(tmp_path) == {NAME: BODY}
    with pytest.raises(FileNotFoundError, match=f"its sha256 is {sha[:8]}, not 01234567; it was not opened"):
        fetch(tmp_path, digest="sha256:01234567", size="")


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://host/file", "garbage", "", "http://", "https://[::1", "http://host:port/"]
)
def test_only_web_addresses_are_asked(url: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{url!r} is no address of a file: it must begin with https")):
        fetch(tmp_path / "new", url)
    assert files(tmp_path) == {}


def test_passwords_and_tokens_of_an_address_are_not_said(
    mirrors: Mirrors, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = mirrors.url("gone?token=secret").replace("http://", "http://me:secret@")
    with pytest.raises(FileNotFoundError, match="/gone: answers 404") as refused:
        fetch(tmp_path, url)
    assert "secret" not in str(refused.value) + capsys.readouterr().err


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("https://me:secret@host:8080/a/file@2.tar.gz?token=secret#secret", "https://host:8080/a/file@2.tar.gz"),
        ("https://me:sec@ret@host/file", "https://host/file"),
        ("https://host?to=me:secret@host", "https://host"),
        ("https://me:secret@[::1/file", "https://[::1/file"),  # no address
        ("me:secret@host/file", "host/file"),
        ("garbage", "garbage"),
    ],
)
def test_what_is_shown_of_an_address(url: str, said: str) -> None:
    assert downloads.shown(url) == said


def test_a_certificate_that_nobody_vouches_for_is_refused(
    mirrors: Mirrors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    options = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    command = ["openssl", *options.split(), "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    url = mirrors.serve("good", BODY).replace("http://", "https://")
    mirrors.server.socket = context.wrap_socket(mirrors.server.socket, server_side=True)
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "folder"
    with pytest.raises(FileNotFoundError, match="certificate verify failed"):
        fetch(folder, url)
    assert (mirrors.asked, files(folder)) == ([], {})
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    fetch(folder, url)
    assert files(folder) == {NAME: BODY}


# --- Going on ----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("impatient")
def test_a_mirror_that_stalls_half_way_is_asked_for_the_rest(
    mirrors: Mirrors, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fetch(tmp_path, mirrors.serve("stalls", BODY, stop=HALF, stall=True))
    assert mirrors.ranges == [None, f"bytes={HALF}-"]
    assert files(tmp_path) == {NAME: BODY}
    assert "stalled for 0.5 s after 98 KiB of 195 KiB. Going on from there (1 of 3)." in capsys.readouterr().err


def test_the_next_mirror_goes_on_where_the_last_one_broke_off(mirrors: Mirrors, tmp_path: Path) -> None:
    fetch(tmp_path, mirrors.serve("cut", BODY, stop=30_000), mirrors.serve("good", BODY))
    assert mirrors.asked == ["/cut"] * 4 + ["/good"]
    assert mirrors.ranges == [None, *(f"bytes={n}-" for n in (30_000, 60_000, 90_000, 120_000))]
    assert files(tmp_path) == {NAME: BODY}


@pytest.mark.parametrize("size", [len(BODY), ""], ids=["size known", "size unknown"])
@pytest.mark.parametrize(
    ("part", "ranges", "asked"),
    [
        pytest.param(BODY[:HALF], True, [f"bytes={HALF}-"], id="half of it"),
        pytest.param(BODY[:HALF], False, [f"bytes={HALF}-"], id="half of it, no ranges"),
        pytest.param(BODY, True, [], id="all of it"),
        pytest.param(bytes(HALF), True, [f"bytes={HALF}-", None], id="other content"),
        pytest.param(bytes(HALF), False, [f"bytes={HALF}-"], id="other content, no ranges"),
        pytest.param(b"", True, [None], id="nothing"),
    ],
)
def test_what_is_left_of_an_earlier_download_is_used_if_it_is_right(
    part: bytes, ranges: bool, asked: list[str | None], size: int | str, mirrors: Mirrors, tmp_path: Path
) -> None:
    (tmp_path / PART).write_bytes(part)
    fetch(tmp_path, mirrors.serve("good", BODY, ranges=ranges), size=size)
    assert files(tmp_path) == {NAME: BODY}
    assert mirrors.ranges == asked


@pytest.mark.parametrize(
    ("size", "asked"), [(len(BODY), [None]), ("", [f"bytes={len(BODY) + 9}-", None])], ids=["known", "unknown"]
)
def test_a_part_longer_than_the_file_is_begun_again(
    size: int | str, asked: list[str | None], mirrors: Mirrors, tmp_path: Path
) -> None:
    """Where the size is not known, the mirror says so with status 416."""
    (tmp_path / PART).write_bytes(BODY + b"and more!")
    fetch(tmp_path, mirrors.serve("good", BODY), size=size)
    assert files(tmp_path) == {NAME: BODY}
    assert mirrors.ranges == asked


def test_a_mirror_that_continues_elsewhere_than_asked_is_asked_for_all(mirrors: Mirrors, tmp_path: Path) -> None:
    def answer(handler: Handler) -> None:
        if handler.headers.get("Range"):
            handler.head(206, HALF, Content_Range=f"bytes 0-{HALF - 1}/{len(BODY)}")
            handler.body(BODY[:HALF])
        else:
            handler.head(200, len(BODY))
            handler.body(BODY)

    (tmp_path / PART).write_bytes(BODY[:HALF])
    fetch(tmp_path, mirrors.answer("odd", answer))
    assert files(tmp_path) == {NAME: BODY}
    assert mirrors.ranges == [f"bytes={HALF}-", None]


def test_a_page_does_not_cost_what_has_come(mirrors: Mirrors, tmp_path: Path) -> None:
    (tmp_path / PART).write_bytes(BODY[:HALF])
    pages = mirrors.serve("page", PAGE, ranges=False), mirrors.serve("login", PAGE, ranges=False, length=None)
    fetch(tmp_path, *pages, mirrors.serve("good", BODY))
    assert mirrors.ranges == [f"bytes={HALF}-"] * 3
    assert files(tmp_path) == {NAME: BODY}


# --- What is there already ---------------------------------------------------------------------------------


def test_a_verified_file_is_not_fetched_again(mirrors: Mirrors, tmp_path: Path) -> None:
    url = mirrors.serve("good", BODY)
    for _ in range(3):
        assert fetch(tmp_path, url) == tmp_path / NAME
    assert mirrors.asked == ["/good"]


@pytest.mark.parametrize("content", [BODY[:-1] + b"?", BODY[:HALF], b""], ids=["altered", "cut", "empty"])
def test_a_file_that_was_tampered_with_is_said_and_replaced(
    content: bytes, mirrors: Mirrors, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / NAME).write_bytes(content)
    found = hashlib.md5(content).hexdigest()
    message = f"{tmp_path / NAME}: is there, but its md5 is {found}, not {MD5}; it was not opened"
    with pytest.raises(FileNotFoundError, match=re.escape(message)):
        fetch(tmp_path, mirrors.url("gone"))
    assert files(tmp_path) == {NAME: content}  # not ours to delete while there is nothing better
    fetch(tmp_path, mirrors.serve("good", BODY))
    assert files(tmp_path) == {NAME: BODY}
    assert capsys.readouterr().err.count(f"{message}. Downloading it again.") == 2


def test_a_folder_in_the_files_place_is_named(mirrors: Mirrors, tmp_path: Path) -> None:
    (tmp_path / NAME).mkdir()
    with pytest.raises(IsADirectoryError, match=r"file\.bin cannot be kept in .* \(Is a directory\): mend that"):
        fetch(tmp_path, mirrors.serve("good", BODY))
    assert mirrors.asked == []


# --- Disks and processes -----------------------------------------------------------------------------------

# Loads the downloader without the rest of the library, which takes seconds.
CHILD = """
import os, resource, sys, types
from pathlib import Path
package = types.ModuleType("cifarlib")
package.__path__ = [sys.argv[1]]
sys.modules["cifarlib"] = package
from cifarlib import downloads
{before}
try:
    found = downloads.fetch(
        sys.argv[4:], Path(sys.argv[2]), digest=sys.argv[3], size=200_000,
        elsewhere="choose another data_root", otherwise="use profile='demo'",
    )
    print(found.stat().st_size)
except OSError as error:
    print(type(error).__name__, error.errno, error)
"""


def child(folder: Path, *urls: str, before: str = "") -> subprocess.Popen[str]:
    """Fetch the file in a process of its own, in `folder`."""
    package = str(Path(downloads.__file__).parent)
    code = [sys.executable, "-c", CHILD.format(before=before), package, NAME, f"md5:{MD5}", *urls]
    return subprocess.Popen(code, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that must come soon."""
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.01)
    pytest.fail("it did not come within 30 s")


def test_a_killed_download_goes_on_where_it_was(mirrors: Mirrors, tmp_path: Path) -> None:
    url = mirrors.serve("slow", BODY, pieces=1000)
    part = tmp_path / PART
    with child(tmp_path, url) as process:
        until(lambda: part.exists() and part.stat().st_size >= 50_000)
        process.send_signal(signal.SIGKILL)
        assert process.wait(10) == -signal.SIGKILL
    have = len(part.read_bytes())
    assert 50_000 <= have < len(BODY)
    assert not (tmp_path / NAME).exists()
    mirrors.serve("slow", BODY)
    fetch(tmp_path, url)
    assert files(tmp_path) == {NAME: BODY}  # the lock that the killed process left is gone too
    assert mirrors.ranges == [None, f"bytes={have}-"]
    until(lambda: len(mirrors.sent) == 2)
    assert len(BODY) - have in mirrors.sent  # not a byte was sent twice that had come


def test_an_interrupted_download_keeps_what_has_come(mirrors: Mirrors, tmp_path: Path) -> None:
    part = tmp_path / PART
    url = mirrors.serve("slow", BODY, pieces=1000)
    # A job in the background is started with SIGINT ignored.
    with child(
        tmp_path, url, before="import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    ) as it:
        until(lambda: part.exists() and part.stat().st_size >= 20_000)
        it.send_signal(signal.SIGINT)
        assert "KeyboardInterrupt" in it.communicate(timeout=30)[1]
    left = files(tmp_path)
    assert list(left) == [PART] and BODY.startswith(left[PART])


def test_of_two_processes_one_downloads_and_the_other_waits(mirrors: Mirrors, tmp_path: Path) -> None:
    go = threading.Event()

    def answer(handler: Handler) -> None:
        handler.head(200, len(BODY))
        handler.body(BODY[:HALF])
        go.wait(30)
        handler.body(BODY[HALF:])

    url = mirrors.answer("held", answer)
    with child(tmp_path, url) as first:
        until(lambda: bool(mirrors.asked))
        with child(tmp_path, url) as second:
            assert second.stderr is not None
            line = second.stderr.readline()
            assert line.startswith(f"{NAME} is being written by process {first.pid} on ")
            assert line.endswith("; waiting for it to finish\n")
            go.set()
            assert second.communicate(timeout=30) == ("200000\n", "")
        assert first.communicate(timeout=30)[0] == "200000\n"
    assert mirrors.asked == ["/held"]
    assert files(tmp_path) == {NAME: BODY}


def test_where_the_other_process_fails_the_one_that_waited_tries(mirrors: Mirrors, tmp_path: Path) -> None:
    go = threading.Event()

    def answer(handler: Handler) -> None:
        go.wait(30)
        handler.head(404, 0)

    with child(tmp_path, mirrors.answer("held", answer)) as first:
        until(lambda: bool(mirrors.asked))
        with child(tmp_path, mirrors.serve("good", BODY)) as second:
            assert second.stderr is not None
            assert "waiting" in second.stderr.readline()
            go.set()
            assert second.communicate(timeout=30)[0] == "200000\n"
        assert first.communicate(timeout=30)[0].startswith("FileNotFoundError None file.bin could not be had")
    assert files(tmp_path) == {NAME: BODY}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("no mount here")
    if done.returncode:
        pytest.skip(f"mounting a small disk is not permitted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX")
def test_a_full_disk_stops_the_download(mirrors: Mirrors, small_disk: Path) -> None:
    with pytest.raises(OSError, match="No space left on device") as refused:
        fetch(small_disk, mirrors.serve("good", BODY), mirrors.serve("unasked", BODY))
    message = str(refused.value)
    assert message.startswith(f"{small_disk} is too full for {NAME} (")
    assert re.search(
        r"needs 195 KiB, and 12\d KiB are free there\. Make room, or choose another data_root", message
    )
    assert "what had come of it was deleted" in message
    assert mirrors.asked == ["/good"]  # no other mirror could do better
    assert files(small_disk) == {}


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX")
def test_a_limit_on_the_size_of_files_stops_the_download(mirrors: Mirrors, tmp_path: Path) -> None:
    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))"
    urls = mirrors.serve("good", BODY), mirrors.serve("unasked", BODY)
    with child(tmp_path, *urls, before=limit) as process:
        said = process.communicate(timeout=30)[0]
    assert re.match(rf"OSError 27 {re.escape(str(tmp_path))} is too full for file\.bin \(File too large\)", said)
    assert "needs 195 KiB" in said
    assert mirrors.asked == ["/good"]
    assert files(tmp_path) == {}


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX")
def test_a_read_only_folder_gives_what_it_has_and_takes_nothing(mirrors: Mirrors, tmp_path: Path) -> None:
    url = mirrors.serve("good", BODY)
    nobody = "if os.geteuid() == 0: os.seteuid(65534)"  # root may write anywhere
    tmp_path.chmod(0o555)
    with child(tmp_path, url, before=nobody) as process:
        said, _ = process.communicate(timeout=30)
    assert re.match(
        r"PermissionError 13 .* cannot be used for file\.bin \(Permission denied\): it needs 195 KiB", said
    )
    assert re.search(r"are free there\. Get the right to write there, or choose another data_root\n$", said)
    assert mirrors.asked == [] and files(tmp_path) == {}
    tmp_path.chmod(0o755)
    (tmp_path / NAME).write_bytes(BODY)
    tmp_path.chmod(0o555)
    with child(tmp_path, url, before=nobody) as process:
        assert process.communicate(timeout=30) == ("200000\n", "")
    tmp_path.chmod(0o755)
    assert mirrors.asked == [] and files(tmp_path) == {NAME: BODY}
