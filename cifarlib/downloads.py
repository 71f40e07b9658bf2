"""One downloader for every large file: verified, continued after a break, bounded, and on to the next mirror.

A file arrives as `.<name>.part` beside its target, is hashed there, and only then gets the target's name: what has
that name was whole when it got it, and it is hashed again each time before it is used. What a broken download or a
killed process leaves is continued by the next mirror or the next call, which the hash makes safe, whoever sent
which part. What a mirror does wrong is told and leads to the next mirror; what the disk refuses stops at once.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import requests

from cifarlib import locks, progress

CONNECT_SECONDS = 10.0  # to connect
STALL_SECONDS = 30.0  # to the answer, and between two pieces of it
SLOW_SECONDS = 60.0  # over which a mirror must send SLOWEST bytes a second: one that drips never stalls
SLOWEST = 1024
RESUMES = 3  # how often a mirror that broke off is asked to go on
MAX_REDIRECTS = 10
MAX_BYTES = 1 << 30  # of a file whose size is not known: ImageNet weights have up to some hundred MiB

_PIECE = 1 << 16
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def fetch(
    urls: Sequence[str], target: Path, *, digest: str, size: int | str = "", elsewhere: str, otherwise: str
) -> Path:
    """Return `target` once it holds the wanted file, downloaded from the first of `urls` that has it.

    A target that is there is hashed; one with another digest is told, and replaced once the right file has
    come. Of several processes one downloads, and the others wait. Lines about what happens go to stderr, with a
    live bar where someone watches.

    Args:
        urls: The addresses of the file, http or https, in the order in which they are tried.
        target: Where it is to be. The folder is made.
        digest: What the content must have: `md5:` or `sha256:` and hexadecimal digits, all or the first of them.
        size: The file's size in bytes, which it must then have; or text for the reader where only that is known.
        elsewhere: How to choose another folder, such as "choose another data_root".
        otherwise: What else helps where no mirror does, such as "use profile='demo'".

    Raises:
        ValueError: an address is neither http nor https.
        FileNotFoundError: no mirror gave the file; the message names each failure and the way by hand.
        OSError: the folder cannot be written to, or is full; the message says what is needed and what is free.
    """
    for url in urls:
        if not is_address(url):
            raise ValueError(f"{url!r} is no address of a file: it must begin with https:// or http://")
    download = _Download(target, digest, size if isinstance(size, int) else None, elsewhere)
    failures = []
    if found := download.hash(target):
        if found == download.digest:
            return target
        failures.append(
            f"{target}: is there, but its {download.algorithm} is {found}, not {download.digest}; it was not "
            "opened"
        )
        _say(f"{failures[-1]}. Downloading it again.")
    with download.alone():
        if download.hash(target) == download.digest:  # by the process that was waited for
            return target
        whole = _amount(size) if isinstance(size, int) else size
        have = download.have()
        _say(
            f"Downloading {target.name}{f' ({whole})' if whole else ''} to {target.parent}."
            + (f" Of an earlier download {_amount(have)} are there." if have else "")
        )
        began = time.monotonic()
        for number, url in enumerate(urls, 1):
            try:
                download.take(url)
            except _Failure as failure:
                failures.append(f"{shown(url)}: {failure}")
                _say(failures[-1] + (". Trying the next mirror." if number < len(urls) else "."))
            else:
                download.finish()
                seconds = progress.duration(time.monotonic() - began)
                _say(f"{target.name}: came in {seconds}, with the right {download.algorithm}.")
                return target
        have = download.have()
    lines = [f"{target.name} could not be had:", *(f"  {failure}" for failure in failures)]
    if have:
        lines.append(
            f"{_amount(have)} have come; they are kept in {download.part}, and the next call goes on there."
        )
    lines.append(
        f"By hand: download it ({download.algorithm} {download.digest}) and put it at {target.resolve()}. "
        f"Otherwise {otherwise}."
    )
    raise FileNotFoundError("\n".join(lines))


def is_address(url: str) -> bool:
    """Say whether a text is an http or https address."""
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # no number as the port, or half of an IPv6 address
        return False


def shown(url: str) -> str:
    """Return an address without the password or token it may carry: what is said ends up in reports.

    What is no address comes back, too, without what would be its password or token.
    """
    return re.sub(r"^([^/]*//)?[^/]*@", r"\1", re.split(r"[?#]", url, maxsplit=1)[0])


class _Failure(Exception):
    """A mirror did not give the file; the message continues "<address>: "."""


class _BrokeOff(_Failure):
    """It stopped before the end: what came may be continued."""


class _Session(requests.Session):
    """Follows no redirect: requests would read the body of each to its end, which need not come."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        return None


class _Download:
    """One file on its way: what it must be, where it is to go, and the part that has come."""

    def __init__(self, target: Path, digest: str, size: int | None, elsewhere: str) -> None:
        self.target, self.size, self.elsewhere = target, size, elsewhere
        self.algorithm, _, self.digest = digest.partition(":")
        self.part = target.with_name(f".{target.name}.part")
        self.expected = size  # or what a mirror says, where the size is not known

    # --- the disk ---

    @contextlib.contextmanager
    def _storing(self) -> Iterator[None]:
        """Turn an error of the disk into one that says what to do. Nothing in here may reach for the network."""
        try:
            yield
        except OSError as error:
            name, folder = self.target.name, self.target.parent
            why = error.strerror or str(error)
            needed = "room" if self.expected is None else _amount(self.expected)
            if error.errno in _NO_ROOM:
                with contextlib.suppress(OSError):  # a full disk stops more than this download
                    os.truncate(self.part, 0)  # the file may still be open, and would keep its room
                    self.part.unlink()
                text = (
                    f"{folder.resolve()} is too full for {name} ({why}): it needs {needed}, and {_free(folder)}. "
                    f"Make room, or {self.elsewhere}; what had come of it was deleted"
                )
            elif error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
                text = (
                    f"{folder.resolve()} cannot be used for {name} ({why}): it needs {needed}, and "
                    f"{_free(folder)}. Get the right to write there, or {self.elsewhere}"
                )
            else:
                text = f"{name} cannot be kept in {folder.resolve()} ({why}): mend that, or {self.elsewhere}"
            told = type(error)(text)
            told.errno = error.errno
            raise told from error

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Make the folder and keep other processes from downloading the same file."""
        with contextlib.ExitStack() as held:
            with self._storing():
                self.target.parent.mkdir(parents=True, exist_ok=True)
                held.enter_context(locks.one_writer(self.target.parent, self.target.name, say=_say))
            yield

    def hash(self, path: Path) -> str:
        """Return as many digits of a file's digest as are known of the wanted one, "" where there is no file."""
        with self._storing():
            try:
                file = path.open("rb")
            except FileNotFoundError:
                return ""
            with file:
                # md5 is here against damage, not against attack: a strict system need not forbid it.
                found = hashlib.file_digest(file, lambda: hashlib.new(self.algorithm, usedforsecurity=False))
        return found.hexdigest()[: len(self.digest)]

    def have(self) -> int:
        """Return how many bytes have come."""
        with self._storing():
            return self.part.stat().st_size if self.part.exists() else 0

    @contextlib.contextmanager
    def _writing(self, mode: str) -> Iterator[Callable[[bytes], None]]:
        """Open the part and give a function that writes to it, past all buffers: a kill loses nothing."""
        with self._storing():
            file = self.part.open(mode, buffering=0)

        def write(piece: bytes) -> None:
            rest = memoryview(piece)
            with self._storing():
                while rest:
                    rest = rest[file.write(rest) :]

        try:
            yield write
        finally:
            with self._storing():
                file.close()

    def finish(self) -> None:
        """Give the verified part the target's name."""
        with self._storing():
            os.replace(self.part, self.target)

    def _drop(self) -> None:
        with self._storing():
            self.part.unlink(missing_ok=True)

    # --- the network ---

    def take(self, url: str) -> None:
        """Bring the part to its end from one mirror and verify it.

        Raises:
            _Failure: the mirror does not give the file. The part is kept if it may still become the file.
        """
        resumes, restarted = 0, False
        while True:
            have = self.have()
            # A process can be killed between the last byte and the name, and a mirror announce more than there is.
            if have and (self.size is None or have >= self.size):
                if self.hash(self.part) == self.digest:
                    return
                if self.size is not None:
                    self._drop()
                    have = 0
            try:
                continued = self._receive(url, have)
            except _BrokeOff as failure:
                if self.have() <= have or resumes == RESUMES:
                    raise
                resumes += 1
                _say(f"{shown(url)}: {failure}. Going on from there ({resumes} of {RESUMES}).")
                continue
            found = self.hash(self.part)
            if found == self.digest:
                return
            self._drop()
            if restarted or not continued:
                raise _Failure(f"sends another file: its {self.algorithm} is {found}, not {self.digest}")
            restarted = True  # the wrong bytes may be those that were there before
            _say(f"{shown(url)}: continued, the file has another {self.algorithm}. Once more from the start.")

    def _receive(self, url: str, start: int) -> bool:
        """Write what a mirror sends to the part, from byte `start` on if it can; return whether it could."""
        with contextlib.ExitStack() as closing:
            session = closing.enter_context(_Session())
            response = closing.enter_context(_ask(session, url, start))
            offered = re.fullmatch(
                r"bytes (\d{1,15})-\d+/(\d{1,15}|\*)", response.headers.get("Content-Range", "")
            )
            if start and (
                response.status_code == 416
                or (response.status_code == 206 and (offered is None or int(offered[1]) != start))
            ):
                start = 0
                response = closing.enter_context(_ask(session, url, 0))
            if response.status_code == 200:
                start, offered = 0, None
            elif response.status_code != 206 or not start:
                raise _Failure(f"answers {response.status_code} {response.reason or ''}".rstrip())

            total = None
            if offered and offered[2] != "*":
                total = int(offered[2])
            elif re.fullmatch(r"\d{1,15}", length := response.headers.get("Content-Length", "")):
                total = start + int(length)
            if self.size is not None and total not in (None, self.size):
                page = response.headers.get("Content-Type", "").startswith("text/html")
                raise _Failure(
                    f"offers {'a web page of ' if page else ''}{total} bytes instead of the file's {self.size}"
                )
            limit = self.size or total or MAX_BYTES
            if limit > MAX_BYTES and self.size is None:
                raise _Failure(f"offers {_amount(limit)}, and {_amount(MAX_BYTES)} are the most that is taken")
            self.expected = self.size or total
            self._write(response, start, limit)
            return start > 0

    def _write(self, response: requests.Response, start: int, limit: int) -> None:
        """Append the answer's body to the first `start` bytes of the part, up to `limit` bytes in all."""
        # As the bytes come, so that little is lost when they stop (urllib3 before 2.2 waits for the whole piece);
        # and as they are: a server may well call a .tar.gz a tar file in gzip's encoding.
        read = getattr(response.raw, "read1", response.raw.read)
        of = "" if self.expected is None else f" of {_amount(self.expected)}"
        done, mark, since = start, start, time.monotonic()
        with contextlib.ExitStack() as closing:
            advance = closing.enter_context(
                progress.transfer(what=self.target.name, total=self.expected, done=start)
            )
            write = None
            while True:
                try:
                    piece = read(_PIECE, decode_content=False)
                except (OSError, requests.exceptions.BaseHTTPError) as error:
                    timeout = "timed out" in str(error)
                    how = f"stalled for {STALL_SECONDS:g} s" if timeout else "broke off"
                    raise _BrokeOff(f"{how} after {_amount(done)}{of}") from error
                if not piece:
                    break
                if done == 0 and piece.lstrip()[:1] == b"<":  # neither an archive nor weights begin like that
                    raise _Failure("sends a web page instead of the file, perhaps a network's page to log in")
                if done + len(piece) > limit:
                    self._drop()
                    raise _Failure(f"sends more than the {_amount(limit)} that the file can have")
                if write is None:  # only now, so that what was there before outlives an answer that is of no use
                    write = closing.enter_context(self._writing("ab" if start else "wb"))
                write(piece)
                done += len(piece)
                advance(len(piece))
                if (now := time.monotonic()) - since >= SLOW_SECONDS:
                    if done - mark < SLOWEST * (now - since):
                        raise _BrokeOff(
                            f"sent less than {_amount(SLOWEST)} a second; it was left after {_amount(done)}{of}"
                        )
                    mark, since = done, now
        if done == 0 or (self.expected is not None and done < self.expected):
            raise _BrokeOff(f"broke off after {_amount(done)}{of}")


def _ask(session: requests.Session, url: str, start: int) -> requests.Response:
    """Ask for a file from byte `start` on and follow redirects; the answer's body is still to be read."""
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    for _ in range(MAX_REDIRECTS + 1):
        try:
            response = session.get(url, headers=headers, stream=True, timeout=(CONNECT_SECONDS, STALL_SECONDS))
            if not response.is_redirect:
                return response
            response.close()
            url = urljoin(url, response.headers["Location"])
        except (OSError, ValueError, requests.exceptions.BaseHTTPError) as error:
            raise _Failure(_why(error)) from error
        if not is_address(url):
            raise _Failure(f"redirects to {url[:100]!r}, which is neither http nor https")
    raise _Failure(f"redirects in a circle, or more than {MAX_REDIRECTS} times")


def _why(error: BaseException) -> str:
    """Say in few words why there was no answer: what requests says wraps the reason in two or three others."""
    if isinstance(error, requests.ConnectTimeout):
        return f"no connection within {CONNECT_SECONDS:g} s"
    if isinstance(error, requests.ReadTimeout):
        return f"no answer within {STALL_SECONDS:g} s"
    within: object = error
    while isinstance(within, BaseException):
        error = within
        within = next((each for each in reversed(error.args) if isinstance(each, BaseException)), None)
        within = within or getattr(error, "reason", None)
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return re.sub(r"^.*?(?=Failed to )", "", " ".join(text.split()))  # without the connection's name


def _free(folder: Path) -> str:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        return f"{_amount(shutil.disk_usage(folder).free)} are free there"
    except OSError:
        return "what is free there is not known"


def _amount(size: int) -> str:
    """Write a number of bytes: 512 bytes, 1.5 KiB, 163 MiB."""
    for unit, bytes_each in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= bytes_each:
            return f"{size / bytes_each:.{0 if size >= 10 * bytes_each else 1}f} {unit}"
    return f"{size} bytes"


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
