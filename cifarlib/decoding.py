"""Anyone's picture files, PNG, JPEG and WebP: looked at before they are decoded, and refused by name.

Whatever a file holds, what comes of it is pixels or a ValueError that names the file and says what to do.
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from cifarlib import progress
from cifarlib.text import printable

_READ = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp")
NOT_READ = (".avif", ".bmp", ".gif", ".heic", ".heif", ".jp2", ".ppm", ".tif", ".tiff")
_MAX_PIXELS = 50_000_000  # a larger picture is more likely a mistake or an attack than a photograph
_MAX_BYTES = 256 * 2**20  # more than so many pixels take even where nothing is compressed
_MIN_SIDE = 8  # pixels; what is smaller is a spacer or a broken thumbnail
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX")
_NAMED, _COLLECTED = 5, 1000  # images that an error names, and after how many bad ones reading stops
_SMALL = 32  # pixels: decoding such pictures takes the interpreter's lock, and threads only hinder one another


def is_image(name: str) -> bool:
    """Say whether a file's name is that of an image, of a format that is read or of one that is not."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in _READ + NOT_READ


class _UnfitError(Exception):
    """A picture that can be read and is refused all the same; the text goes on from its file's name."""


def _regular(path: str, flags: int) -> int:
    """Open a file that is one: a pipe or a device could wait for ever, or never end."""
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode) and 0 < status.st_size <= _MAX_BYTES:
        return descriptor
    os.close(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise _UnfitError("is no regular file: remove it")
    if not status.st_size:
        raise _UnfitError("cannot be read, it is empty: replace or remove it")
    raise _UnfitError(f"has {status.st_size / 2**20:,.0f} MiB, which no photograph needs: shrink or remove it")


def _check_picture(image: Image.Image, head: bytes) -> None:
    """Refuse a picture by what its header says; `head` is the file's beginning."""
    (width, height), png = image.size, head.startswith(b"\x89PNG")
    if width * height > _MAX_PIXELS:
        raise _UnfitError(f"has {width} x {height} pixels, over {_MAX_PIXELS:,}: shrink or remove it")
    if min(width, height) < _MIN_SIDE:
        raise _UnfitError(f"has {width} x {height} pixels, under {_MIN_SIDE} on a side: replace or remove it")
    # Not a JPEG with several pictures: there the first is the photograph, the others are previews and depth maps.
    if image.format in ("PNG", "WEBP") and getattr(image, "is_animated", False):
        raise _UnfitError("is animated: save one frame")
    if image.mode == "CMYK":  # which colours these are depends on a printer
        raise _UnfitError("is CMYK: save it as RGB")
    # Pillow opens 16-bit colour as 8-bit, and cuts 16-bit grey off above 255: the header tells.
    if (png and head[24:25] == b"\x10") or image.mode not in _MODES:
        raise _UnfitError("has more than 8 bits per channel: save it with 8")


@contextlib.contextmanager
def opened(file: str) -> Iterator[Image.Image]:
    """Open an image, not decoded yet; whatever goes wrong, here or within, is a ValueError that names the file.

    Damaged bytes make decoders raise nearly anything: OSError, SyntaxError, struct.error, zlib.error, IndexError,
    OverflowError, MemoryError and more have been seen. This is the one place where they are caught.
    """
    failed = "cannot be read as PNG, JPEG or WebP"
    try:
        with open(file, "rb", opener=_regular) as content:
            head = content.read(32)
            with Image.open(content, formats=("PNG", "JPEG", "WEBP")) as image:
                _check_picture(image, head)
                failed = "is damaged"
                yield image
    except _UnfitError as error:
        raise ValueError(f"{printable(file)} {error}") from None
    except UnidentifiedImageError as error:  # its message says no more than the file's name
        raise ValueError(f"{printable(file)} {failed}: replace or remove it") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"{printable(file)} has over {_MAX_PIXELS:,} pixels: shrink or remove it") from error
    except Exception as error:
        reason = printable(getattr(error, "strerror", None) or str(error) or type(error).__name__)[:200]
        remedy = "make it readable" if isinstance(error, PermissionError) else "replace"
        raise ValueError(f"{printable(file)} {failed} ({reason}): {remedy} or remove it") from error


def all_of_size(files: Sequence[str], side: int) -> bool:
    """Say whether all images have `side` x `side` pixels; what cannot be read is left for `decode` to report."""

    def fits(file: str) -> bool:
        try:
            with opened(file) as image:
                return image.size == (side, side)
        except ValueError:
            return True

    with quiet():
        return all(map(fits, files))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence Pillow's warnings about metadata; around threads and never in them, as they share the filters."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def decode_one(file: str, size: int) -> np.ndarray:
    """Return one picture upright, in RGB, as uint8 `[size, size, 3]`; one of that size is left as it is."""
    with opened(file) as image:
        image.draft(None, (2 * size, 2 * size))  # a large JPEG may be decoded at 1/2, 1/4 or 1/8
        image.load()
        with contextlib.suppress(Exception):  # damaged metadata, of a picture that is not: as it is stored
            ImageOps.exif_transpose(image, in_place=True)
        picture = image.convert("RGBA") if "transparency" in image.info else image
        picture = picture.convert("RGB")
        if picture.size != (size, size):
            picture = ImageOps.fit(picture, (size, size), Image.Resampling.BICUBIC)
        return np.asarray(picture)


def decode(files: list[str], size: int) -> np.ndarray:
    """Decode pictures to uint8 `[N, 3, size, size]`; ValueError names the first of those that cannot be."""
    out = np.empty((len(files), 3, size, size), np.uint8)
    faults: dict[str, str] = {}
    stop = threading.Event()

    def chunk(start: int) -> None:
        for i, file in enumerate(files[start : start + 64], start):
            if stop.is_set():
                return
            try:
                out[i] = decode_one(file, size).transpose(2, 0, 1)
            except ValueError as error:
                faults[file] = str(error)
                if len(faults) >= _COLLECTED:
                    stop.set()

    workers = 1 if size <= _SMALL else min(8, os.cpu_count() or 1)
    starts = range(0, len(files), 64)
    with quiet(), ThreadPoolExecutor(workers) as pool:
        try:
            for _ in progress.bar(pool.map(chunk, starts), what="reading images", total=len(starts), unit="batch"):
                pass
        finally:  # after an interrupt, no thread reads on
            stop.set()
            pool.shutdown(cancel_futures=True)
    if faults:
        raise ValueError(together([faults[file] for file in sorted(faults)]))
    return out


def together(faults: Sequence[str]) -> str:
    """Return one message for what is wrong with one image or more."""
    if len(faults) == 1:
        return faults[0]
    count = f"{len(faults):,}{' or more' if len(faults) >= _COLLECTED else ''}"
    more = len(faults) - _NAMED
    lines = [*faults[:_NAMED], *([f"and {more:,} more"] if more > 0 else [])]
    return "\n  ".join([f"{count} images cannot be used:", *lines])
