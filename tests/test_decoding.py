"""Picture files of every kind: what is read, what is refused by name, and that reading stops when it should."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_data import png_chunk

from cifarlib import decoding


def test_a_folder_of_nothing_but_damage_is_not_read_to_its_end(tmp_path: Path) -> None:
    files = [str(tmp_path / f"{i:04}.png") for i in range(1300)]
    for file in files:
        Path(file).write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"1,0\d\d or more images cannot be used:(.|\n)*and (99\d|1,0\d\d) more"):
        decoding.decode(files, 64)


def test_no_thread_reads_on_after_an_interrupt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading is slow and is interrupted: what was begun is not read to its end, nor what was to come."""
    file = str(tmp_path / "x.png")
    Image.new("RGB", (32, 32)).save(file)
    read: list[str] = []
    decode = decoding.decode_one

    def interrupted(file: str, size: int) -> np.ndarray:
        read.append(file)
        if len(read) == 10:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        time.sleep(0.02)
        return decode(file, size)

    monkeypatch.setattr(decoding, "decode_one", interrupted)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background has none
    try:
        with pytest.raises(KeyboardInterrupt):
            decoding.decode([file] * 2000, 64)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert len(read) < 100
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ThreadPoolExecutor")]


def test_a_jpeg_with_previews_is_the_photograph(tmp_path: Path) -> None:
    """Many phones write such files, which are no animations."""
    first, other = (Image.new("RGB", (64, 64), colour) for colour in ((200, 0, 0), (0, 0, 200)))
    first.save(tmp_path / "phone.jpg", "MPO", save_all=True, append_images=[other])
    assert decoding.decode_one(str(tmp_path / "phone.jpg"), 32)[16, 16, 0] > 190


@pytest.mark.parametrize(
    "chunk",
    [
        (b"tEXt", b"Raw profile type exif\0\n\n\nno hexadecimal number"),  # Pillow raises on it, and
        (b"acTL", bytes(8)),  # warns of this: an animation of no frames
    ],
)
def test_damaged_metadata_does_not_cost_a_sound_picture(tmp_path: Path, chunk: tuple[bytes, bytes]) -> None:
    file = tmp_path / "x.png"
    Image.new("RGB", (32, 32), (200, 0, 0)).save(file)
    content = file.read_bytes()
    at = 8 + 25  # behind the signature and the header
    file.write_bytes(content[:at] + png_chunk(*chunk) + content[at:])
    assert decoding.decode([str(file)], 32)[0, :, 5, 5].tolist() == [200, 0, 0]
