"""Images damaged at random, hundreds of them: each is read as an image or refused by name, and nothing else.

Everything is read in a process of its own, so that a crash or a hang of a decoder is seen as what it is.
"""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

SIZES = ((32, 32), (64, 48), (257, 131), (12, 200))
GOOD = 6  # undamaged images of a class, so few that a damaged one is always among those chosen
SEED = 20_240


# --- Images, and what is done to them ----------------------------------------------------------------------


def picture(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """Something like a photograph: smooth, with noise, so that every part of a decoder has work."""
    y, x = np.mgrid[: size[1], : size[0]] / 32.0
    phases, waves = rng.uniform(0, 6, 3), rng.uniform(0.3, 2, (3, 2))
    planes = [127 + 90 * np.sin(a * x + b * y + c) for (a, b), c in zip(waves, phases, strict=True)]
    noisy = np.stack(planes, -1) + rng.normal(0, 8, (size[1], size[0], 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def metadata() -> dict[str, Any]:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned
    exif[0x010E] = "a description " * 20
    exif.get_ifd(0x8769)[0x9003] = "2026:01:01 00:00:00"
    exif.get_ifd(0x8825)[2] = (51.0, 30.0, 0.5)
    return {"exif": exif.tobytes()}


def written(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def with_text(image: Image.Image) -> bytes:
    text = PngImagePlugin.PngInfo()
    text.add_itxt("Comment", "lorem ipsum " * 50, zip=True)
    text.add_text("Title", "none")
    return written(image, "PNG", pnginfo=text, **metadata())


def clear(image: Image.Image) -> bytes:
    return written(image.quantize(32), "PNG", transparency=bytes(range(0, 256, 8)))


# By the suffix that its file gets and a name: how a picture is written.
WRITERS: dict[tuple[str, str], Callable[[Image.Image], bytes]] = {
    ("png", "RGB"): lambda image: written(image, "PNG"),
    ("png", "RGBA"): lambda image: written(image.convert("RGBA"), "PNG"),
    ("png", "grey"): lambda image: written(image.convert("L"), "PNG"),
    ("png", "grey and alpha"): lambda image: written(image.convert("LA"), "PNG"),
    ("png", "one bit"): lambda image: written(image.convert("1"), "PNG"),
    ("png", "palette"): clear,
    ("png", "16 bits"): lambda image: written(image.convert("L").convert("I;16"), "PNG"),
    ("png", "metadata"): with_text,
    ("png", "animated"): lambda image: written(image, "PNG", save_all=True, append_images=[image.rotate(9)]),
    ("jpg", "baseline"): lambda image: written(image, "JPEG", quality=85),
    ("jpg", "progressive"): lambda image: written(image, "JPEG", progressive=True, **metadata()),
    ("jpg", "grey"): lambda image: written(image.convert("L"), "JPEG", optimize=True),
    ("jpg", "CMYK"): lambda image: written(image.convert("CMYK"), "JPEG"),
    ("jpeg", "several"): lambda image: written(image, "MPO", save_all=True, append_images=[image], **metadata()),
    ("webp", "lossy"): lambda image: written(image, "WEBP", quality=60),
    ("webp", "lossless"): lambda image: written(image.convert("RGBA"), "WEBP", lossless=True),
    ("webp", "metadata"): lambda image: written(image, "WEBP", **metadata()),
    ("webp", "animated"): lambda image: written(image, "WEBP", save_all=True, append_images=[image.rotate(9)]),
}


def flipped(content: bytes, rng: np.random.Generator, start: int = 0, end: int | None = None) -> bytes:
    damaged, end = bytearray(content), min(end or len(content), len(content))
    for place in rng.integers(start, end, int(2 ** rng.uniform(0, 6.02))):  # 1 to 64, often few
        damaged[place] ^= int(rng.integers(1, 256))
    return bytes(damaged)


def head_flipped(content: bytes, rng: np.random.Generator) -> bytes:
    """Behind the signature, in headers and metadata."""
    return flipped(content, rng, 12, 400)


def cut(content: bytes, rng: np.random.Generator) -> bytes:
    return content[: int(rng.integers(0, len(content)))]


def inserted(content: bytes, rng: np.random.Generator) -> bytes:
    place = int(rng.integers(0, len(content)))
    return content[:place] + rng.bytes(int(rng.integers(1, 2000))) + content[place:]


def other_header(content: bytes, rng: np.random.Generator) -> bytes:
    image = Image.new("RGB", (32, 32))
    other = written(image, str(rng.choice(["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])))
    length = int(rng.integers(4, 64))
    return other[:length] + content[length:]


def blanked(content: bytes, rng: np.random.Generator) -> bytes:
    start, length = int(rng.integers(0, len(content))), int(rng.integers(1, 600))
    end = min(start + length, len(content))
    return content[:start] + bytes(end - start) + content[end:]


def resealed(content: bytes, rng: np.random.Generator) -> bytes:
    """As `flipped`, with a PNG's checksums made right again: or nearly all damage would stop at those."""
    damaged = flipped(content, rng, 8)
    if not damaged.startswith(b"\x89PNG"):
        return damaged
    out, at = [damaged[:8]], 8
    while at + 12 <= len(damaged):
        length = struct.unpack(">I", content[at : at + 4])[0]
        body = damaged[at + 8 : at + 8 + length]
        kind = content[at + 4 : at + 8]
        out.append(struct.pack(">I", length) + kind + body + struct.pack(">I", zlib.crc32(kind + body)))
        at += 12 + length
    return b"".join(out)


DAMAGES: tuple[Callable[[bytes, np.random.Generator], bytes], ...] = (
    flipped,
    head_flipped,
    cut,
    inserted,
    other_header,
    blanked,
    resealed,
)


def damage(folder: Path, count: int) -> list[str]:
    """Write `count` damaged images, the same ones each time, and return their names."""
    folder.mkdir()
    rng = np.random.default_rng(SEED)
    names, writers = [], list(WRITERS.items())
    for i in range(count):
        (suffix, _), write = writers[i % len(writers)]
        # Further on with every round, so that each way of writing meets each way of damaging and each size.
        how = DAMAGES[(i + i // len(writers)) % len(DAMAGES)]
        image = picture(rng, SIZES[(i // len(writers) + i) % len(SIZES)])
        names.append(f"{i:04} {how.__name__}.{suffix}")
        (folder / names[-1]).write_bytes(how(write(image), rng))
    return names


# --- Reading them, in another process ----------------------------------------------------------------------

READ = """
import faulthandler, json, os, shutil, sys, warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from cifarlib import data, decoding
from cifarlib.recipes import FULL

base, names = Path(sys.argv[1]), json.load(sys.stdin)
profile = replace(FULL, store_size=40)

def attempt(read, *arguments):
    try:
        images = read(*arguments)
    except ValueError as error:
        return "refused", str(error)
    return "read", images

def unexpected(what, how, found, file, shape):
    if how == "refused":
        return [] if str(file) in found else [f"{what} does not name {file}: {found}"]
    good = isinstance(found, (np.ndarray, torch.Tensor)) and str(found.dtype).endswith("uint8")
    return [] if good and tuple(found.shape) == shape else [f"{what}: {type(found)} {getattr(found, 'shape', '')}"]

outcomes, wrong = {}, []
with warnings.catch_warnings(record=True) as leaked:
    warnings.simplefilter("always")
    for name in names:
        print(name, flush=True)
        faulthandler.dump_traceback_later(60, exit=True)
        alone = base / "damaged" / name
        among, second = base / "folder" / "cat" / name, base / "second" / "cat" / name
        for copy in (among, second):
            shutil.copyfile(alone, copy)
        size = 24
        one = attempt(decoding.decode, [str(alone)], size)
        split = attempt(lambda: data.load(profile, base / "folder").train.images)
        test = attempt(lambda: data.load_test(base / "second", ("cat", "dog"), size).images)
        wrong += unexpected("decode", *one, alone, (1, 3, size, size))
        wrong += unexpected("load", *split, among, (8, 3, 40, 40))
        wrong += unexpected("load_test", *test, second, (1, 3, size, size))
        if len({how for how, _ in (one, split, test)}) > 1:
            wrong.append(f"{name}: {one[0]} alone, {split[0]} among others, {test[0]} as a second test set")
        outcomes[name] = one[0]
        for copy in (among, second):
            copy.unlink()
    faulthandler.dump_traceback_later(120, exit=True)
    together = attempt(decoding.decode, [str(base / "damaged" / name) for name in names], 240)
wrong += [f"leaked: {warning.message}" for warning in leaked]
Path(sys.argv[2]).write_text(json.dumps({"outcomes": outcomes, "wrong": wrong, "together": str(together[1])}))
"""


def in_another_process(code: str, *arguments: str, told: str = "", seconds: float) -> str:
    """Run Python code and return what it printed; a crash or a hang fails with what it printed last."""
    command = [sys.executable, "-X", "faulthandler", "-c", code, *arguments]
    try:
        done = subprocess.run(command, input=told, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired as error:
        pytest.fail(f"hung after {(error.stdout or b'')[-200:]!r}")
    assert done.returncode == 0, f"{done.stdout[-200:]}\n{done.stderr[-4000:]}"
    assert "Warning" not in done.stderr, done.stderr
    return done.stdout


def class_folder(folder: Path, names: tuple[str, ...], count: int) -> None:
    rng = np.random.default_rng(1)
    for name in names:
        (folder / name).mkdir(parents=True)
        for i in range(count):
            picture(rng, (40, 40)).save(folder / name / f"good {i}.png")


def test_damaged_images_are_read_or_refused_by_name(
    tmp_path: Path, full: bool, tally: Callable[..., None]
) -> None:
    count = 500 if full else 60
    names = damage(tmp_path / "damaged", count)
    class_folder(tmp_path / "folder", ("cat", "dog"), GOOD)
    class_folder(tmp_path / "second", ("cat",), 0)
    out = tmp_path / "found.json"
    in_another_process(READ, str(tmp_path), str(out), told=json.dumps(names), seconds=600)
    found = json.loads(out.read_text())
    assert not found["wrong"], "\n".join(found["wrong"])
    assert list(found["outcomes"]) == names
    counts = Counter(found["outcomes"].values())
    assert counts["read"] >= count // 10 and counts["refused"] >= count // 3, counts
    # All together: the first five by name, and how many more.
    refused = [name for name, how in found["outcomes"].items() if how == "refused"]
    first, *lines = found["together"].splitlines()
    assert first == f"{len(refused)} images cannot be used:"
    assert len(lines) == 6 and lines[-1] == f"  and {len(refused) - 5} more"
    for line, name in zip(lines, sorted(refused)[:5], strict=False):
        assert line.startswith(f"  {tmp_path / 'damaged' / name} ")
    tally("damaged images", **counts)


# --- Bombs -------------------------------------------------------------------------------------------------


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(*more: bytes, width: int = 32, height: int = 32, depth: int = 8, pixels: bytes | None = None) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0))
    rows = bytes((1 + width * 3 * depth // 8) * height) if pixels is None else pixels
    return (
        b"\x89PNG\r\n\x1a\n" + header + b"".join(more) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )


@cache
def bomb() -> bytes:
    """A few bytes that unfold to 200 MB."""
    return zlib.compress(bytes(200 * 2**20), 1)


def text_bomb() -> bytes:
    return png(chunk(b"iTXt", b"Comment\0\1\0\0\0" + bomb()))


def profile_bomb() -> bytes:
    return png(chunk(b"iCCP", b"profile\0\0" + bomb()))


def webp_of(width: int, height: int) -> bytes:
    """The header of an extended WebP of that size, with a picture of another."""
    body = written(Image.new("RGB", (16, 16)), "WEBP")[12:]
    size = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    extended = b"VP8X" + struct.pack("<I", 10) + bytes(4) + size
    return b"RIFF" + struct.pack("<I", 4 + len(extended) + len(body)) + b"WEBP" + extended + body


def jpeg_of(width: int, height: int) -> bytes:
    content = bytearray(written(Image.new("RGB", (16, 16)), "JPEG"))
    at = content.index(b"\xff\xc0") + 5
    content[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(content)


def looping_exif() -> bytes:
    """Metadata whose next directory is itself, with a turn that is no number."""
    entry = struct.pack("<HHII", 0x0112, 2, 4, 0x41414141)
    tiff = b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", 1) + entry + struct.pack("<I", 8)
    return written(Image.new("RGB", (16, 16), (200, 0, 0)), "JPEG", exif=b"Exif\0\0" + tiff)


BOMBS = {
    "text.png": (text_bomb, "cannot be read as PNG, JPEG or WebP|is damaged"),
    "profile.png": (profile_bomb, "cannot be read as PNG, JPEG or WebP|is damaged|^$"),
    "wide.png": (lambda: png(width=2**31 - 1, height=2**31 - 1, pixels=b""), "over 50,000,000"),
    "wide.webp": (lambda: webp_of(16383, 16383), "over 50,000,000|cannot be read"),
    "wider.webp": (lambda: webp_of(2**24, 2**7), "over 50,000,000|cannot be read"),
    "wide.jpg": (lambda: jpeg_of(65500, 65500), "over 50,000,000"),
    "large.jpg": (lambda: jpeg_of(8000, 7000), "8000 x 7000 pixels, over 50,000,000"),
    "large.webp": (lambda: webp_of(8000, 7000), "8000 x 7000 pixels, over 50,000,000|cannot be read"),
    "exif.jpg": (looping_exif, "^$"),  # the picture itself is sound
}

WEIGH = """
import json, resource, sys, warnings
from cifarlib import decoding

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = {}
for file in json.load(sys.stdin):
    try:
        decoding.decode([file], 32)
        found[file] = ""
    except ValueError as error:
        found[file] = str(error)
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(json.dumps({"found": found, "grown": grown}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is counted in kB by Linux alone")
def test_bombs_take_little_memory(tmp_path: Path) -> None:
    for name, (make, _) in BOMBS.items():
        (tmp_path / name).write_bytes(make())
    files = [str(tmp_path / name) for name in BOMBS]
    said = json.loads(in_another_process(WEIGH, told=json.dumps(files), seconds=120))
    for file in files:
        (_, message), found = BOMBS[Path(file).name], said["found"][file]
        assert any(part in found if part != "^$" else not found for part in message.split("|")), (file, found)
        assert not found or found.startswith(file)
    assert said["grown"] < 100 * 1024, said  # kB
