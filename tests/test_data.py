from __future__ import annotations

import colorsys
import hashlib
import importlib
import io
import os
import pickle
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mirrors import Mirrors, serving
from PIL import Image

from cifarlib import data, decoding, downloads
from cifarlib._torchvision import torchvision
from cifarlib.data import ImageSet, augment, load, prepare, pretrain_set
from cifarlib.recipes import DEMO, FULL, LEVEL1, LEVEL2, resolve

tv = importlib.import_module("torchvision.transforms.v2.functional")  # once cifarlib has mended torchvision
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def random_images(n: int, size: int = 32, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=generator)


def rows_of(images: ImageSet) -> set[bytes]:
    return {image.numpy().tobytes() for image in images.images}


# --- An archive as the official one is, only smaller -------------------------------------------------------


class Python2Pickler(pickle._Pickler):  # type: ignore[misc]
    """Writes bytes as Python 2 wrote its strings, which is how the official batches were made."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_string(self, text: bytes) -> None:
        short = len(text) < 256
        self.write((b"U" + bytes([len(text)]) if short else b"T" + struct.pack("<i", len(text))) + text)
        self.memoize(text)

    dispatch[bytes] = save_string


def python2_pickle(value: object) -> bytes:
    out = io.BytesIO()
    Python2Pickler(out, protocol=2).dump(value)
    # numpy's old module name, and its old flags, integers instead of False and True.
    old = out.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
    return old.replace(b"\x89\x88\x87", b"K\x00K\x01\x87")


def write_archive(path: Path, per_class: int = 20, **replaced: bytes | None) -> data._Archive:
    """Write five training batches, `per_class` images of each class in all, and half as many test images."""
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat(np.arange(10), per_class))
    members = {"batches.meta": python2_pickle({b"label_names": [name.encode() for name in CLASSES]})}
    parts = [*np.array_split(labels, 5), np.repeat(np.arange(10), per_class // 2)]
    for name, part in zip([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"], parts, strict=True):
        pixels = rng.integers(0, 256, (len(part), 3072), dtype=np.uint8)
        pixels[:, 0] = part  # so that a test can see which label an image belongs to
        members[name] = python2_pickle({b"data": pixels, b"labels": part.tolist()})
    members |= replaced
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            if content is not None:
                info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    md5 = hashlib.md5(path.read_bytes()).hexdigest()
    return data._Archive(name="cifar-10-python.tar.gz", md5=md5, size=path.stat().st_size, mirrors=())


@pytest.fixture
def mirrors() -> Iterator[Mirrors]:
    with serving() as server:
        yield server


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, data._Archive]:
    path = tmp_path_factory.mktemp("archive") / "small.tar.gz"
    return path, write_archive(path)


@pytest.fixture
def official(
    small: tuple[Path, data._Archive], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., data.Split]:
    path, archive = small
    monkeypatch.setattr(data, "CIFAR10", archive)
    (tmp_path / archive.name).write_bytes(path.read_bytes())
    return lambda **changes: load(replace(FULL, **changes), tmp_path)


def test_the_archive_is_the_published_one() -> None:
    assert data.CIFAR10.md5 == "c58f30108f718f92721af3b95e74349a"
    assert data.CIFAR10.size == 170_498_071
    assert len(data.CIFAR10.mirrors) == 4
    assert all(url.startswith("https://") and url.endswith(data.CIFAR10.name) for url in data.CIFAR10.mirrors)


def test_first_good_mirror_wins_over_missing_silent_cut_and_wrong_ones(
    small: tuple[Path, data._Archive],
    mirrors: Mirrors,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(downloads, "STALL_SECONDS", 1.0)
    path, archive = small
    body = path.read_bytes()
    urls = (
        mirrors.url("gone"),
        mirrors.serve("silent", body, stop=0, stall=True),
        mirrors.serve("cut", body, stop=1000, ranges=False),
        mirrors.serve("wrong", body[:-1] + b"!"),
        mirrors.serve("good", body),
        mirrors.serve("unasked", body),
    )
    found = data._fetch(replace(archive, mirrors=urls), tmp_path / "new" / "folder")
    assert found.read_bytes() == body
    # What was cut came from the start a second time, and that was no further; what was wrong is begun anew.
    assert mirrors.asked == ["/gone", "/silent", "/cut", "/cut", "/wrong", "/wrong", "/good"]
    assert os.listdir(found.parent) == [archive.name]  # nothing half-finished is left beside it
    said = capsys.readouterr().err
    places = [said.index(f"/{name}: ") for name in ("gone", "silent", "cut", "wrong")]
    assert said.startswith(f"Downloading {archive.name} (")
    assert places == sorted(places)
    assert said.count("Trying the next mirror.") == 4
    assert data._fetch(replace(archive, mirrors=urls), found.parent) == found
    assert len(mirrors.asked) == 7  # a verified file is not fetched again


def test_when_no_mirror_answers_one_error_names_all_and_the_way_by_hand(
    small: tuple[Path, data._Archive], mirrors: Mirrors, tmp_path: Path
) -> None:
    _, archive = small
    urls = (mirrors.url("gone"), mirrors.serve("wrong", b"no archive"), "http://127.0.0.1:9/refused")
    with pytest.raises(FileNotFoundError) as error:
        data._fetch(replace(archive, mirrors=urls), tmp_path)
    message = str(error.value)
    assert all(url in message for url in urls)
    assert archive.md5 in message
    assert str(tmp_path / archive.name) in message
    assert "CIFARLIB_MIRROR" in message
    assert os.listdir(tmp_path) == []


def test_a_file_with_another_md5_is_replaced_or_refused_and_never_opened(
    small: tuple[Path, data._Archive],
    mirrors: Mirrors,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path, archive = small
    bad = tmp_path / archive.name
    write_archive(bad, data_batch_1=pickle.dumps(Malicious(tmp_path / "hit")))
    content = bad.read_bytes()
    monkeypatch.setattr(data, "CIFAR10", replace(archive, mirrors=(mirrors.url("gone"),)))
    with pytest.raises(FileNotFoundError, match="it was not opened"):
        load(FULL, tmp_path)
    assert bad.read_bytes() == content
    assert not (tmp_path / "hit").exists()
    capsys.readouterr()
    monkeypatch.setattr(data, "CIFAR10", replace(archive, mirrors=(mirrors.serve("good", path.read_bytes()),)))
    assert len(load(FULL, tmp_path).test) == 100
    assert "its md5 is" in capsys.readouterr().err
    assert bad.read_bytes() == path.read_bytes()


def test_the_users_mirror_comes_first(
    small: tuple[Path, data._Archive], mirrors: Mirrors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, archive = small
    monkeypatch.setenv("CIFARLIB_MIRROR", mirrors.serve("own", path.read_bytes()))
    data._fetch(replace(archive, mirrors=(mirrors.url("other"),)), tmp_path)
    assert mirrors.asked == ["/own"]


def test_a_mirror_of_the_users_that_is_no_web_address_is_refused_with_the_way_to_do_it(
    small: tuple[Path, data._Archive], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CIFARLIB_MIRROR", "file:///etc/passwd")
    with pytest.raises(ValueError, match="CIFARLIB_MIRROR='file:///etc/passwd' is no address of a file") as error:
        data._fetch(small[1], tmp_path)
    assert f"a file that is on this machine belongs at {tmp_path / small[1].name}" in str(error.value)
    assert os.listdir(tmp_path) == []


class Malicious:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("member", ["data_batch_3", "batches.meta"])
def test_a_pickle_that_wants_more_than_arrays_is_refused(tmp_path: Path, member: str) -> None:
    path = tmp_path / "bad.tar.gz"
    archive = write_archive(path, **{member: pickle.dumps(Malicious(tmp_path / "hit"), protocol=2)})
    with pytest.raises(pickle.UnpicklingError, match="no business"):
        data._read_archive(path, archive.md5)
    assert not (tmp_path / "hit").exists()


def test_a_missing_member_is_named(tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "bad.tar.gz", data_batch_4=None)
    with pytest.raises(ValueError, match="lacks cifar-10-batches-py/data_batch_4"):
        data._read_archive(tmp_path / "bad.tar.gz", archive.md5)


def test_an_archive_exchanged_after_it_was_verified_is_not_opened(
    small: tuple[Path, data._Archive], tmp_path: Path
) -> None:
    path = tmp_path / small[1].name
    write_archive(path, data_batch_1=pickle.dumps(Malicious(tmp_path / "hit"), protocol=2))
    with pytest.raises(ValueError, match="was changed while it was being read; it was not opened"):
        data._read_archive(path, small[1].md5)
    assert not (tmp_path / "hit").exists()


# --- Splits ------------------------------------------------------------------------------------------------


def test_the_official_split_is_exact_stratified_and_disjoint(official: Callable[..., data.Split]) -> None:
    split = official()
    assert split.classes == CLASSES
    assert split.source == "cifar10"
    for part, per_class in ((split.train, 16), (split.val, 4), (split.test, 10)):
        assert part.images.dtype == torch.uint8
        assert part.images.shape == (10 * per_class, 3, 32, 32)
        assert part.labels.bincount().tolist() == [per_class] * 10
        assert torch.equal(part.images[:, 0, 0, 0].long(), part.labels)  # images and labels still belong together
    assert len(rows_of(split.train) | rows_of(split.val) | rows_of(split.test)) == 300
    assert split.test.labels.tolist() == sorted(split.test.labels.tolist())  # the source's order


def test_the_split_of_50000_is_4000_and_1000_a_class() -> None:
    labels = np.random.default_rng(1).permutation(np.repeat(np.arange(10), 5000))
    train, val = np.split(data._stratified(labels, 0), [40_000])
    assert np.bincount(labels[train]).tolist() == [4000] * 10
    assert np.bincount(labels[val]).tolist() == [1000] * 10
    assert len(np.union1d(train, val)) == 50_000


def test_every_cut_is_stratified_when_classes_differ_in_size() -> None:
    labels = np.repeat([0, 1, 2], [600, 300, 60])
    order = data._stratified(labels, 3)
    for cut in (16, 100, 333, 640, 959):
        expected = np.array([600, 300, 60]) * cut / 960
        assert np.abs(np.bincount(labels[order[:cut]], minlength=3) - expected).max() <= 1


def test_caps_keep_the_stratification_and_the_parts(official: Callable[..., data.Split]) -> None:
    whole, capped = official(), official(train_size=50, val_size=20, test_size=30)
    for name, per_class in (("train", 5), ("val", 2), ("test", 3)):
        part = getattr(capped, name)
        assert part.labels.bincount().tolist() == [per_class] * 10
        assert rows_of(part) < rows_of(getattr(whole, name))  # a cap moves no image to another part


def test_the_split_depends_on_its_own_seed_alone(official: Callable[..., data.Split]) -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    first = official()
    torch.manual_seed(2)
    np.random.seed(2)
    assert official().fingerprint == first.fingerprint
    other = official(split_seed=1)
    assert rows_of(other.train) != rows_of(first.train)
    assert other.test.fingerprint == first.test.fingerprint
    for seed in (0, 1):  # the training seed reaches the recipes and not the profile
        assert resolve("full", seed=seed)[0] == FULL


def test_ones_own_folder_comes_before_the_archive_and_a_loose_picture_does_not(
    official: Callable[..., data.Split], tmp_path: Path
) -> None:
    write_folder(tmp_path, {".": 1})
    assert official().source == "cifar10"
    write_folder(tmp_path, TWELVE)
    with pytest.raises(ValueError, match=r"image 000\.png lies in .* beside the class folders: move it"):
        official()
    (tmp_path / "000.png").unlink()
    assert official().source == "folder"


def test_cifar10_is_stored_as_it_is(official: Callable[..., data.Split]) -> None:
    with pytest.raises(ValueError, match="store_size=64"):
        official(store_size=64)


# --- Built-in images ---------------------------------------------------------------------------------------


def small_demo(**changes: object) -> data.Split:
    return load(replace(DEMO, **({"store_size": 32, "train_size": 60, "val_size": 20, "test_size": 80} | changes)))


def test_builtin_images_come_with_all_that_is_known_of_them() -> None:
    split = small_demo()
    assert split.source == "synthetic"
    assert len(split.classes) == 10
    for part, n in ((split.train, 60), (split.val, 20), (split.test, 80)):
        assert part.images.shape == (n, 3, 32, 32)
        assert part.labels.bincount().tolist() == [n // 10] * 10
        assert part.masks is not None
        assert part.masks.shape == (n, 32, 32)
        assert part.masks.dtype == torch.bool
        assert set(part.attributes) == {"object_size", "clutter", "occlusion"}
        assert all(v.dtype == torch.float32 and v.shape == (n,) for v in part.attributes.values())
        # What is seen of an object is no more than all of it.
        assert (part.masks.float().mean((1, 2)) <= part.attributes["object_size"] + 0.02).all()
    assert len(rows_of(split.train) | rows_of(split.val) | rows_of(split.test)) == 160
    assert small_demo().fingerprint == split.fingerprint
    assert small_demo(split_seed=1).fingerprint != split.fingerprint
    assert small_demo(store_size=48).train.images.shape[-1] == 48


def test_the_demo_needs_sizes() -> None:
    with pytest.raises(ValueError, match="val_size=None"):
        small_demo(val_size=None)


def test_pretraining_images_are_of_other_classes() -> None:
    train, val = pretrain_set(80, seed=0, n_val=40)
    assert (len(train), len(val)) == (80, 40)
    assert train.source == "synthetic-pretrain"
    assert not set(train.classes) & set(small_demo().classes)
    assert not rows_of(train) & rows_of(val)
    assert val.labels.bincount(minlength=len(val.classes)).unique().numel() <= 2


# --- Image folders -----------------------------------------------------------------------------------------


def write_folder(
    root: Path, classes: dict[str, int], *, size: tuple[int, int] = (32, 32), suffix: str = "png"
) -> None:
    rng = np.random.default_rng(len(str(root)))
    for label, (name, n) in enumerate(classes.items()):
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(n):
            pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
            pixels[0, 0] = label
            Image.fromarray(pixels).save(root / name / f"{i:03}.{suffix}")


TWELVE = {"cat": 12, "dog": 12}


def test_a_folder_without_test_is_split_four_one_one(tmp_path: Path) -> None:
    write_folder(tmp_path, {"zebra": 12, "Ant": 24, "moth": 6})
    split = load(FULL, tmp_path)
    assert split.classes == ("Ant", "moth", "zebra")
    assert split.source == "folder"
    assert [part.labels.bincount().tolist() for part in (split.train, split.val, split.test)] == [
        [16, 4, 8],
        [4, 1, 2],
        [4, 1, 2],
    ]
    images = torch.cat([split.train.images, split.val.images, split.test.images])
    labels = torch.cat([split.train.labels, split.val.labels, split.test.labels])
    assert len({image.numpy().tobytes() for image in images}) == 42
    # zebra was written first, with 0 in its corner, then Ant, then moth; PNG of the stored size is exact.
    assert torch.equal(torch.tensor([1, 2, 0])[labels], images[:, 0, 0, 0].long())
    assert load(FULL, tmp_path).fingerprint == split.fingerprint


@pytest.mark.parametrize("with_test", [False, True])
def test_a_folder_with_train(tmp_path: Path, with_test: bool) -> None:
    write_folder(tmp_path / "train", {"cat": 30, "dog": 30})
    if with_test:
        write_folder(tmp_path / "test", {"cat": 7, "dog": 3})
    split = load(FULL, tmp_path)
    expected = [[24, 24], [6, 6], [7, 3]] if with_test else [[20, 20], [5, 5], [5, 5]]
    assert [p.labels.bincount().tolist() for p in (split.train, split.val, split.test)] == expected


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
@pytest.mark.parametrize("with_test", [False, True])
def test_a_folder_with_validation_images_of_its_own(tmp_path: Path, name: str, with_test: bool) -> None:
    """They validate, and nothing else does; what has no folder is split off the training images."""
    root = tmp_path / "root"
    write_folder(root / "train", {"cat": 30, "dog": 15})
    write_folder(root / name, {"cat": 4, "dog": 2}, size=(40, 32))
    if with_test:
        write_folder(root / "test", {"cat": 7, "dog": 3})
    split = load(replace(FULL, store_size=32), root)
    own = {"train": [30, 15], "val": [4, 2], "test": [7, 3]}
    expected = own if with_test else {"train": [24, 12], "val": [4, 2], "test": [6, 3]}
    parts = {"train": split.train, "val": split.val, "test": split.test}
    assert {at: part.labels.bincount().tolist() for at, part in parts.items()} == expected
    # The same images as a folder of their own, in whatever order.
    alone = load(replace(FULL, store_size=32), write_alone(tmp_path / "alone", root / name))
    wanted = torch.cat([alone.train.images, alone.val.images, alone.test.images])
    found = {image.numpy().tobytes() for image in split.val.images}
    assert found == {image.numpy().tobytes() for image in wanted}


def write_alone(root: Path, part: Path) -> Path:
    """Copy a part often enough that it can be split; doubled images are single in a set of bytes."""
    for file in part.rglob("*.png"):
        folder = root / file.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        for copy in range(6):
            (folder / f"{copy}-{file.name}").write_bytes(file.read_bytes())
    return root


@pytest.mark.parametrize("names", [("val", "key"), ("train", "car"), ("Test", "exam", "train")])
def test_a_class_may_have_a_part_s_name(tmp_path: Path, names: tuple[str, ...]) -> None:
    """Images of its own, and other classes beside it, tell."""
    write_folder(tmp_path, dict.fromkeys(names, 6))
    split = load(FULL, tmp_path)
    assert split.classes == tuple(sorted(names)) and len(split.train) == 4 * len(names)


def test_parts_are_known_in_any_capitals_and_spelled_out(tmp_path: Path) -> None:
    for name in ("Training", "VALIDATION", "Testing"):
        write_folder(tmp_path / name, {"cat": 8, "dog": 6})
    split = load(FULL, tmp_path)
    assert split.classes == ("cat", "dog")
    assert [len(part) for part in (split.train, split.val, split.test)] == [14, 14, 14]


def test_a_capped_folder_decodes_only_what_it_keeps(tmp_path: Path) -> None:
    write_folder(tmp_path, {"cat": 60, "dog": 60})
    kept = load(replace(FULL, train_size=20, val_size=10, test_size=10), tmp_path)
    assert [len(p) for p in (kept.train, kept.val, kept.test)] == [20, 10, 10]
    for file in sorted(tmp_path.rglob("*.png")):
        content = file.read_bytes()
        file.write_bytes(b"damaged")
        try:
            load(replace(FULL, train_size=2, val_size=1, test_size=1), tmp_path)
        except ValueError:
            file.write_bytes(content)
    assert sum(file.read_bytes() == b"damaged" for file in tmp_path.rglob("*.png")) == 116


@pytest.mark.parametrize(
    ("suffix", "tolerance"), [("png", 0), ("webp", 40), ("JPEG", 40), ("jpg", 40), ("jfif", 40), ("jpe", 40)]
)
def test_formats(tmp_path: Path, suffix: str, tolerance: float) -> None:
    ramp = np.linspace(0, 255, 32, dtype=np.uint8)
    picture = np.stack(np.broadcast_arrays(ramp[:, None], ramp[None, :], np.uint8(90)), -1)
    write_folder(tmp_path, {"cat": 6, "dog": 6})
    for file in tmp_path.rglob("*.png"):
        file.unlink()
        Image.fromarray(picture).save(file.with_suffix(f".{suffix}"))
    images = load(FULL, tmp_path).train.images.int()
    assert (images - torch.as_tensor(picture).permute(2, 0, 1).int()).abs().max() <= tolerance


def test_larger_pictures_are_resized_and_cut_to_the_middle(tmp_path: Path) -> None:
    write_folder(tmp_path, TWELVE)
    left, middle, right = [255, 0, 0], [0, 255, 0], [0, 0, 255]
    wide = np.repeat([[left, middle, middle, right]], 20, 0).repeat([20] * 4, 1).astype(np.uint8)[:40]
    wide = np.repeat(wide, 2, 0)  # 40 high, 80 wide; the middle square is all green
    for file in tmp_path.rglob("*.png"):
        Image.fromarray(wide).save(file)
    images = load(FULL, tmp_path, image_size=40).train.images
    assert images.shape[1:] == (3, 40, 40)
    assert (images == torch.tensor([0, 255, 0], dtype=torch.uint8)[:, None, None]).all()
    assert load(replace(FULL, store_size=16), tmp_path, image_size=40).train.images.shape[-1] == 16
    assert load(FULL, tmp_path, image_size=96).train.images.shape[-1] == 96


def test_a_large_jpeg_is_shrunk_faithfully(tmp_path: Path) -> None:
    write_folder(tmp_path, TWELVE)
    y, x = np.mgrid[:600, :600]
    smooth = np.stack([x * 0.42, y * 0.42, 128 + 100 * np.sin(x / 60)], -1).astype(np.uint8)
    for file in tmp_path.rglob("*.png"):
        file.unlink()
        Image.fromarray(smooth).save(file.with_suffix(".jpg"), quality=95)
    images = load(replace(FULL, store_size=48), tmp_path).train.images[0]
    plain = tv.resize(torch.as_tensor(smooth).permute(2, 0, 1), [48, 48], antialias=True)
    assert (images.float() - plain.float()).abs().mean() < 1.5


def test_modes_and_orientation(tmp_path: Path) -> None:
    write_folder(tmp_path, {"cat": 6, "dog": 6})
    grey = Image.fromarray(np.arange(1024, dtype=np.uint8).reshape(32, 32))
    palette = Image.new("RGB", (32, 32), (10, 200, 30)).quantize(4)
    palette.info["transparency"] = bytes([128] * 4)
    turned = Image.fromarray(np.repeat([[[250, 0, 0]], [[0, 0, 250]]], 16, 0).repeat(32, 1).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned a quarter clockwise
    for i, (image, options) in enumerate(
        [(grey, {}), (palette, {}), (turned, {"exif": exif}), (turned.convert("RGBA"), {})]
    ):
        for name in ("cat", "dog"):
            image.save(tmp_path / name / f"{i:03}.png", **options)
    upright = decoding.decode_one(str(tmp_path / "cat" / "002.png"), 32)
    assert upright[0, 0].tolist() == [0, 0, 250]
    assert upright[0, -1].tolist() == [250, 0, 0]
    assert decoding.decode_one(str(tmp_path / "cat" / "000.png"), 32)[3, 5].tolist() == [101] * 3
    assert decoding.decode_one(str(tmp_path / "cat" / "001.png"), 32)[0, 0].tolist() == [10, 200, 30]
    assert decoding.decode_one(str(tmp_path / "cat" / "003.png"), 32)[0, 0].tolist() == [250, 0, 0]
    assert len(load(FULL, tmp_path).train) == 8


def test_hidden_and_foreign_files_are_passed_over(tmp_path: Path) -> None:
    write_folder(tmp_path, TWELVE)
    before = load(FULL, tmp_path).fingerprint
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "x.png").write_bytes(b"")
    (tmp_path / "cat" / "._000.png").write_bytes(b"")
    (tmp_path / "cat" / "Thumbs.db").write_bytes(b"")
    (tmp_path / "labels.csv").write_text("a,b")
    assert load(FULL, tmp_path).fingerprint == before


def break_single_class(root: Path) -> None:
    write_folder(root / "train", {"cat": 12})


def break_no_class(root: Path) -> None:
    (root / "train").mkdir()


def break_no_class_folder(root: Path) -> None:
    write_folder(root, {".": 3})


def break_loose(root: Path) -> None:
    write_folder(root / "train", TWELVE | {".": 1})


def break_empty_class(root: Path) -> None:
    write_folder(root, TWELVE)
    (root / "emu").mkdir()


def break_too_few(root: Path) -> None:
    write_folder(root, {"cat": 12, "dog": 5})


def break_test_only(root: Path) -> None:
    write_folder(root / "test", TWELVE)


def break_classes_differ(root: Path) -> None:
    write_folder(root / "train", TWELVE)
    write_folder(root / "test", {"cat": 2, "fox": 2})


def break_val_classes_differ(root: Path) -> None:
    write_folder(root / "train", TWELVE)
    write_folder(root / "valid", {"cat": 2, "fox": 2})


def break_two_vals(root: Path) -> None:
    write_folder(root / "train", TWELVE)
    for name in ("val", "validation"):
        write_folder(root / name, TWELVE)


def break_val_only(root: Path) -> None:
    write_folder(root / "Valid", TWELVE)


def break_unused_folder(root: Path) -> None:
    write_folder(root / "train", TWELVE)
    write_folder(root / "more", {"cat": 2})


def break_unused_image(root: Path) -> None:
    write_folder(root / "train", TWELVE)
    (root / "x.jfif").write_bytes(b"")


def break_not_an_image(root: Path) -> None:
    write_folder(root, TWELVE)
    (root / "cat" / "003.png").write_text("no image")


def break_empty_file(root: Path) -> None:
    write_folder(root, TWELVE)
    (root / "dog" / "003.png").write_bytes(b"")


def break_renamed(root: Path) -> None:
    write_folder(root, TWELVE)
    Image.new("RGB", (32, 32)).save(root / "dog" / "003.png", "GIF")


def break_truncated(root: Path) -> None:
    write_folder(root, TWELVE)
    file = root / "dog" / "003.png"
    file.write_bytes(file.read_bytes()[:900])


def break_sixteen_bits(root: Path) -> None:
    write_folder(root, TWELVE)
    Image.fromarray(np.full((32, 32), 9000, np.uint16)).save(root / "dog" / "003.png")


def break_sixteen_bits_of_colour(root: Path) -> None:
    """Pillow opens such a file as if it had 8 bits."""
    write_folder(root, TWELVE)
    header = struct.pack(">IIBBBBB", 32, 32, 16, 2, 0, 0, 0)
    pixels = zlib.compress(bytes((1 + 32 * 6) * 32))
    parts = [png_chunk(b"IHDR", header), png_chunk(b"IDAT", pixels), png_chunk(b"IEND", b"")]
    (root / "dog" / "003.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def break_cmyk(root: Path) -> None:
    write_folder(root, TWELVE)
    Image.new("CMYK", (32, 32)).save(root / "dog" / "photo.jpg")


def break_tiny(root: Path) -> None:
    write_folder(root, TWELVE)
    Image.new("RGB", (1, 1)).save(root / "dog" / "spacer.png")


def break_narrow(root: Path) -> None:
    write_folder(root, TWELVE)
    Image.new("RGB", (400, 7)).save(root / "dog" / "rule.webp")


def break_animated_png(root: Path) -> None:
    write_folder(root, TWELVE)
    frames = [Image.new("RGB", (32, 32), (i, 0, 0)) for i in (0, 200)]
    frames[0].save(root / "dog" / "003.png", save_all=True, append_images=frames[1:])


def break_animated_webp(root: Path) -> None:
    write_folder(root, TWELVE)
    frames = [Image.new("RGB", (32, 32), (i, 0, 0)) for i in (0, 200)]
    frames[0].save(root / "dog" / "x.webp", save_all=True, append_images=frames[1:])


def break_huge_file(root: Path) -> None:
    write_folder(root, TWELVE)
    with (root / "dog" / "003.png").open("r+b") as file:
        file.truncate(2**29)


def break_by_case(root: Path) -> None:
    write_folder(root, TWELVE | {"Cat": 12})


def break_by_composition(root: Path) -> None:
    write_folder(root, {"caf\xe9": 12, "cafe\u0301": 12})


def break_not_utf8(root: Path) -> None:
    write_folder(root, TWELVE | {os.fsdecode(b"caf\xe9"): 12})


def break_by_pipe(root: Path) -> None:
    write_folder(root, TWELVE)
    os.mkfifo(root / "dog" / "live.jpg")


def break_by_device(root: Path) -> None:
    write_folder(root, TWELVE)
    (root / "dog" / "endless.png").symlink_to("/dev/zero")


def outside(root: Path) -> Path:
    """Images beside the data root, for links to lead to."""
    place = root.parent / "elsewhere"
    write_folder(place, {"emu": 12})
    return place / "emu"


def break_by_class_elsewhere(root: Path) -> None:
    write_folder(root, TWELVE)
    (root / "emu").symlink_to(outside(root))


def break_by_image_elsewhere(root: Path) -> None:
    write_folder(root, TWELVE)
    (root / "dog" / "x.png").symlink_to(outside(root) / "000.png")


def break_by_test_elsewhere(root: Path) -> None:
    write_folder(root / "train", TWELVE)
    (root / "test").symlink_to(outside(root).parent)


def break_by_nested_link(root: Path) -> None:
    write_folder(root, TWELVE | {"emu/old": 12})
    (root / "dog" / "more").symlink_to(root / "emu" / "old")


def break_by_nothing(root: Path) -> None:
    write_folder(root, TWELVE)
    (root / "dog" / "x.png").symlink_to("gone.png")


def break_by_class_gone(root: Path) -> None:
    for name in ("cat", "dog"):
        (root / name).symlink_to("/not/mounted")


def break_by_loop(root: Path) -> None:
    write_folder(root, TWELVE)
    (root / "emu").symlink_to("emu")


def break_by_double(root: Path) -> None:
    write_folder(root, TWELVE)
    (root / "emu").symlink_to("dog")


def break_by_test_that_is_train(root: Path) -> None:
    write_folder(root / "train", TWELVE)
    (root / "test").symlink_to("train")


def break_by_length(root: Path) -> None:
    """A path that is too long to be listed: unreadable for everyone, also for root."""
    write_folder(root, TWELVE)
    place = os.open(root / "dog", os.O_RDONLY)
    for _ in range(20):
        os.mkdir("d" * 250, dir_fd=place)
        above, place = place, os.open("d" * 250, os.O_RDONLY, dir_fd=place)
        os.close(above)
    os.close(place)


def break_unread_format(root: Path) -> None:
    write_folder(root, TWELVE)
    (root / "dog" / "x.heic").write_bytes(b"")


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_of(width: int, height: int) -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(b"")) + png_chunk(b"IEND", b"")


def break_too_large(root: Path) -> None:
    write_folder(root, TWELVE)
    (root / "cat" / "003.png").write_bytes(png_of(8000, 7000))


def break_bomb(root: Path) -> None:
    write_folder(root, TWELVE)
    (root / "cat" / "003.png").write_bytes(png_of(20000, 20000))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (break_single_class, r"two or more classes, and there is only one, 'cat'"),
        (break_no_class, r"two or more classes, and there is none"),
        (break_no_class_folder, r"two or more classes, and there is none; 000\.png and perhaps others lie in it"),
        (break_loose, r"image 000\.png lies in .*train beside the class folders: move it"),
        (break_empty_class, r"emu holds no PNG, JPEG or WebP image"),
        (break_too_few, r"class 'dog' of .* has 5 images: to be split, each class needs 6 or more"),
        (break_test_only, r"test/ without train/"),
        (break_classes_differ, r"only train/ has dog; only test/ has fox"),
        (
            break_val_classes_differ,
            r"train/ and valid/ must have the same classes, and only train/ has dog; only val",
        ),
        (break_two_vals, r"holds val/ and validation/, which mean the same: keep one"),
        (break_val_only, r"holds Valid/ without train/"),
        (
            break_unused_folder,
            r"folder more of .* lies beside train/, and its images are not used: move",
        ),
        (break_unused_image, r"image x\.jfif lies in .* beside train/, and is not used"),
        (break_not_an_image, r"cat.003\.png cannot be read as PNG, JPEG or WebP: replace or remove it"),
        (break_renamed, r"dog.003\.png cannot be read as PNG, JPEG or WebP: replace or remove it"),
        (break_empty_file, r"dog.003\.png cannot be read, it is empty: replace or remove it"),
        (break_truncated, r"dog.003\.png is damaged \(.+\): replace or remove it"),
        (break_sixteen_bits, r"dog.003\.png has more than 8 bits"),
        (break_unread_format, r"x\.heic: \.heic images are not read, save it as PNG"),
        (break_too_large, r"003\.png has 8000 x 7000 pixels"),
        (break_bomb, r"003\.png has over 50,000,000 pixels: shrink or remove it"),
        (break_huge_file, r"dog.003\.png has 512 MiB, which no photograph needs"),
        (break_sixteen_bits_of_colour, r"dog.003\.png has more than 8 bits"),
        (break_cmyk, r"photo\.jpg is CMYK: save it as RGB"),
        (break_tiny, r"spacer\.png has 1 x 1 pixels, under 8 on a side: replace or remove it"),
        (break_narrow, r"rule\.webp has 400 x 7 pixels"),
        (break_animated_png, r"003\.png is animated: save one frame"),
        (break_animated_webp, r"x\.webp is animated: save one frame"),
        (break_by_case, r"'Cat' and 'cat' of .* differ only in capitals"),
        (break_by_composition, r"'cafe\\u0301' and 'caf\\xe9' of .* differ only .* Unicode"),
        (break_not_utf8, r"class folder .*caf\\udce9 is not UTF-8: rename it"),
        (break_by_pipe, r"live\.jpg is no regular file"),
        (break_by_device, r"endless\.png links to /dev/zero, outside of"),
        (break_by_class_elsewhere, r"emu links to .*elsewhere.emu, outside of .*: copy .* give .*emu as data_"),
        (break_by_image_elsewhere, r"x\.png links to .*000\.png, outside of .*: copy .* give .*emu as data_root"),
        (break_by_test_elsewhere, r"test links to .*elsewhere, outside of .*: copy the images there"),
        (break_by_nested_link, r"dog.more links to the folder .*old, and links below a class folder are not foll"),
        (break_by_nothing, r"dog.x\.png is a link that leads nowhere \(No such file"),
        (break_by_class_gone, r"cat is a link that leads nowhere \(No such file"),
        (break_by_loop, r"emu is a link that leads nowhere \(Too many levels"),
        (break_by_double, r"dog.000\.png and .*emu.000\.png are the same file"),
        (break_by_test_that_is_train, r"train.cat.000\.png and .*test.cat.000\.png are the same file"),
        (break_by_length, r"d cannot be listed \(File name too long\)"),
    ],
)
def test_faults_of_a_folder_are_named(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    damage(root)
    before = list(os.walk(tmp_path))
    with pytest.raises(ValueError, match=message) as raised:
        load(FULL, root)
    str(raised.value).encode()  # whatever is in a name, the message can be printed
    assert list(os.walk(tmp_path)) == before


def test_links_within_the_root_are_followed(tmp_path: Path) -> None:
    """Of folders and of files; the root itself may be a link, and where it leads to is the root."""
    root = tmp_path / "root"
    write_folder(root / ".store", {"a": 12, "b": 1})
    write_folder(root / "images", {"dog": 12})
    (root / "images" / "cat").symlink_to("../.store/a")
    (root / "images" / "dog" / "x.png").symlink_to(root / ".store" / "b" / "000.png")
    (root / "images" / "dog" / "notes.txt").symlink_to("/etc/hostname")  # no image: passed over
    (root / "train").symlink_to("images")
    (tmp_path / "link").symlink_to("root")
    (root / "images").rename(root / ".images")
    (root / "train").unlink()
    (root / "train").symlink_to(".images")
    split = load(FULL, tmp_path / "link")
    assert split.classes == ("cat", "dog")
    assert sum(len(part) for part in (split.train, split.val, split.test)) == 25
    assert load(FULL, root).fingerprint == split.fingerprint


def test_damaged_images_are_named_together(tmp_path: Path) -> None:
    """Of all parts, in the order of the files; a name that is not UTF-8 or has two lines is shown with escapes."""
    write_folder(tmp_path, {"cat": 12, "dog": 12})
    odd = [os.fsdecode(b"\xff.png"), "two\nlines.png"]
    for name in odd:
        (tmp_path / "cat" / name).write_bytes(b"damaged")
    for i in range(8):
        (tmp_path / "dog" / f"{i:03}.png").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="10 images cannot be used") as raised:
        load(FULL, tmp_path)
    first, *lines, last = str(raised.value).splitlines()
    assert first == "10 images cannot be used:" and last == "  and 5 more"
    names = ["cat/two\\nlines.png", "cat/\\udcff.png", "dog/000.png", "dog/001.png", "dog/002.png"]
    assert [line.split(" cannot be read")[0] for line in lines] == [f"  {tmp_path / name}" for name in names]
    str(raised.value).encode()


def test_an_unreadable_folder_or_image_is_named(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root reads everything; break_by_length shows the same path of the code")
    write_folder(tmp_path, TWELVE)
    (tmp_path / "cat" / "003.png").chmod(0)
    with pytest.raises(ValueError, match=r"003\.png cannot be read .*\(Permission denied\): make it readable"):
        load(FULL, tmp_path)
    (tmp_path / "cat").chmod(0)
    try:
        assert data.holds_images(tmp_path)
        with pytest.raises(ValueError, match=r"cat cannot be listed \(Permission denied\)"):
            load(FULL, tmp_path)
    finally:
        (tmp_path / "cat").chmod(0o700)


def test_a_file_is_no_data_root(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    with pytest.raises(NotADirectoryError, match="give the folder"):
        load(FULL, tmp_path / "data")


def test_memory_is_asked_for_before_decoding(tmp_path: Path) -> None:
    write_folder(tmp_path, TWELVE)
    (tmp_path / "cat" / "003.png").write_bytes(b"never decoded")
    with pytest.raises(MemoryError, match=r"24 images .* need \d+\.\d GiB .* lower store_size=2000000"):
        load(replace(FULL, store_size=2_000_000), tmp_path)


def test_real_photographs(photographs: Path) -> None:
    split = load(FULL, photographs)
    assert split.classes == CLASSES
    for part, per_class in ((split.train, 32), (split.val, 8), (split.test, 10)):
        assert part.images.shape == (10 * per_class, 3, 32, 32)
        assert part.labels.bincount().tolist() == [per_class] * 10
    # The channels are in their places: behind aeroplanes there is sky, bluer than it is red.
    mean = split.train.images[split.train.labels == 0].float().mean((0, 2, 3))
    assert mean[2] > mean[0] + 5
    first = sorted((photographs / "test" / "airplane").iterdir())[0]
    assert np.array_equal(split.test.images[0].permute(1, 2, 0).numpy(), np.asarray(Image.open(first)))


# --- Sets --------------------------------------------------------------------------------------------------


def test_fingerprints_follow_the_content() -> None:
    images, labels = random_images(6, 8), torch.arange(6) % 2
    whole = ImageSet.of(images, labels, ("a", "b"), "folder")
    pixel, label = images.clone(), labels.clone()
    pixel[3, 1, 2, 2] ^= 1
    label[5] = 0
    others = [
        ImageSet.of(pixel, labels, ("a", "b"), "folder"),
        ImageSet.of(images, label, ("a", "b"), "folder"),
        ImageSet.of(images, labels, ("a", "c"), "folder"),
        ImageSet.of(images.view(6, 3, 4, 16), labels, ("a", "b"), "folder"),
        whole.take([1, 0, 2, 3, 4, 5]),
    ]
    assert len({whole.fingerprint, *(other.fingerprint for other in others)}) == 6
    assert whole.take(range(6)).fingerprint == whole.fingerprint == whole.to("cpu").fingerprint
    assert len(whole.fingerprint) == 16
    split = data.Split(whole, others[0], others[1])
    assert split.fingerprint != data.Split(whole, others[1], others[0]).fingerprint


@pytest.mark.parametrize("as_index", [list, np.array, torch.tensor])
def test_take_keeps_what_belongs_together(as_index: Callable[[list[int]], object]) -> None:
    test = small_demo().test
    taken = test.take(as_index([7, 2, 2]))
    for got, all_of_it in (
        (taken.images, test.images),
        (taken.labels, test.labels),
        (taken.masks, test.masks),
        (taken.attributes["object_size"], test.attributes["object_size"]),
    ):
        assert torch.equal(got, all_of_it[[7, 2, 2]])
    assert len(taken) == 3
    assert len(test.take(test.labels == 3)) == 8
    assert len(test.take([])) == 0


# --- Augmentation ------------------------------------------------------------------------------------------

PLAIN = replace(LEVEL2, crop_padding=0, flip=False, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0)


def test_without_strength_nothing_changes() -> None:
    images = random_images(5)
    assert torch.equal(augment(images, PLAIN), images.float() / 255)


@pytest.mark.parametrize("flip", [False, True])
def test_crop_and_flip_against_pad_and_slice(flip: bool) -> None:
    images = random_images(400, 8)
    torch.manual_seed(0)
    out = (augment(images, replace(PLAIN, crop_padding=2, flip=flip)) * 255).round().to(torch.uint8)
    windows = {}
    for top in range(5):
        for left in range(5):
            window = F.pad(images, (2, 2, 2, 2))[:, :, top : top + 8, left : left + 8]
            windows[top, left, False], windows[top, left, True] = window, window.flip(3)
    seen = []
    for i in range(len(images)):
        matches = [place for place, window in windows.items() if torch.equal(out[i], window[i])]
        assert len(matches) == 1  # each image is exactly one window of itself
        seen += matches
    assert len(set(seen)) == (50 if flip else 25)  # every place comes up, each image having its own
    mirrored = sum(place[2] for place in seen)
    assert 160 < mirrored < 240 if flip else mirrored == 0  # 4 standard deviations about a half


def grey_of(image: torch.Tensor) -> torch.Tensor:
    return tv.rgb_to_grayscale(image, num_output_channels=3)


def slope(out: torch.Tensor, base: torch.Tensor, image: torch.Tensor) -> float:
    """The factor f in out = base + f (image - base), from the values that were not cut off at 0 or 1."""
    inside = (out > 0.001) & (out < 0.999)
    x, y = (image - base)[inside].double(), (out - base)[inside].double()
    return float((x @ y) / (x @ x))


def hue_shift(out: torch.Tensor, image: torch.Tensor) -> float:
    """The turn between two images, from their most colourful pixel."""
    spread = (image.amax(0) - image.amin(0)).flatten().argmax()
    before, after = (colorsys.rgb_to_hsv(*x.flatten(1)[:, spread].tolist())[0] for x in (image, out))
    return (after - before + 0.5) % 1 - 0.5


JITTER = {
    "brightness": (tv.adjust_brightness, lambda out, x: slope(out, torch.zeros_like(x), x), (0.7, 1.3)),
    "contrast": (
        tv.adjust_contrast,
        lambda out, x: slope(out, grey_of(x).mean().expand_as(x), x),
        (0.7, 1.3),
    ),
    "saturation": (tv.adjust_saturation, lambda out, x: slope(out, grey_of(x), x), (0.7, 1.3)),
    "hue": (tv.adjust_hue, hue_shift, (-0.3, 0.3)),
}


@pytest.mark.parametrize("name", JITTER)
def test_each_colour_step_is_torchvisions_with_a_factor_for_each_image(name: str) -> None:
    oracle, measure, (low, high) = JITTER[name]
    images = random_images(64, 16)
    torch.manual_seed(0)
    out = augment(images, replace(PLAIN, **{name: 0.3}))
    factors = []
    for before, after in zip(images.float() / 255, out, strict=True):
        factor = measure(after, before)
        assert low - 1e-3 <= factor <= high + 1e-3
        torch.testing.assert_close(after, oracle(before, factor), atol=2e-3, rtol=0)
        factors.append(factor)
    assert len({round(factor, 4) for factor in factors}) > 55  # not one for the batch
    middle, reach = (low + high) / 2, (high - low) / 2
    assert min(factors) < middle - 0.8 * reach
    assert max(factors) > middle + 0.8 * reach
    assert abs(np.mean(factors) - middle) < 0.3 * reach  # 4 standard errors of a uniform draw


def test_augmentation_repeats_with_the_seed_and_stays_in_range() -> None:
    images = random_images(32)
    original = images.clone()
    outs = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        outs.append(augment(images, replace(LEVEL2, brightness=0.9, contrast=0.9)))
    assert torch.equal(outs[0], outs[1])
    assert not torch.equal(outs[0], outs[2])
    assert outs[0].dtype == torch.float32
    assert outs[0].shape == images.shape
    assert outs[0].min() >= 0
    assert outs[0].max() <= 1
    assert torch.equal(images, original)


# --- Preparation -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [32, 64, 224])
@pytest.mark.parametrize("stored", [32, 96])
def test_prepare_is_torchvisions_resize_and_normalize(interpolation: str, size: int, stored: int) -> None:
    images = random_images(3, stored)
    recipe = replace(LEVEL1, image_size=size, interpolation=interpolation)
    kind = torchvision.transforms.InterpolationMode(interpolation)
    resized = tv.resize(images.double() / 255, [size, size], interpolation=kind, antialias=True)
    expected = tv.normalize(resized, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]).float()
    for given in (images, images.float() / 255):
        before = given.clone()
        out = prepare(given, recipe)
        torch.testing.assert_close(out, expected, atol=1e-4, rtol=0)  # a grey level is 0.017
        assert out.dtype == torch.float32
        assert out.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(given, before)


@pytest.mark.parametrize(("dtype", "error"), [(torch.bfloat16, 2**-7), (torch.float16, 2**-10)])
def test_prepare_in_half_precision_differs_by_its_rounding(dtype: torch.dtype, error: float) -> None:
    """Rounded three times (value, weight, first product): each time by half a unit in the last place."""
    images = random_images(4, 32)
    exact, out = prepare(images, LEVEL1), prepare(images, LEVEL1, dtype)
    assert out.dtype == dtype
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert (out.float() - exact).abs().max() <= 2 * error * exact.abs().max()
    assert (out.float() - exact).abs().mean() <= error * exact.abs().mean()


def test_prepare_lets_gradients_through_after_a_call_in_inference_mode() -> None:
    data._statistics.cache_clear()
    data._resizing.cache_clear()
    with torch.inference_mode():
        prepare(random_images(1), LEVEL1)
    x = torch.rand(1, 3, 32, 32, requires_grad=True)
    prepare(x, LEVEL1).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().min() > 0


# --- A second test set -------------------------------------------------------------------------------------

NAMES = data.CIFAR10_CLASSES


def save_arrays(folder: Path, images: np.ndarray, labels: np.ndarray, name: str = "cifar10.1_v6") -> Path:
    folder.mkdir(exist_ok=True)
    np.save(folder / f"{name}_data.npy", images)
    np.save(folder / f"{name}_labels.npy", labels)
    return folder / f"{name}_data.npy"


def test_a_second_test_set_is_read_from_class_folders(tmp_path: Path) -> None:
    """Some of the classes, in any sizes, with or without a test/ above them; labels are the study's."""
    for place in (tmp_path / "plain", tmp_path / "nested" / "test"):
        for number, name in enumerate(("truck", "cat")):
            (place / name).mkdir(parents=True)
            for i in range(2 + number):
                Image.new("RGB", (40, 50), (200 * number, 10 * i, 0)).save(place / name / f"{i}.png")
        (place / "dog").mkdir()  # no images of that one
    plain = data.load_test(tmp_path / "plain", NAMES, 32)
    assert plain.images.shape == (5, 3, 32, 32)
    assert plain.labels.tolist() == [3, 3, 3, 9, 9]
    assert plain.classes == NAMES and plain.source == "folder"
    assert plain.images[:, 0, 16, 16].tolist() == [200, 200, 200, 0, 0]
    assert data.load_test(tmp_path / "nested", NAMES, 32).fingerprint == plain.fingerprint


def test_cifar_10_1_is_read_from_its_arrays(tmp_path: Path) -> None:
    images = random_images(7).permute(0, 2, 3, 1).numpy()
    labels = np.array([0, 9, 3, 3, 5, 1, 2], dtype=np.int32)
    path = save_arrays(tmp_path, images, labels)
    for given in (path, tmp_path):
        found = data.load_test(given, NAMES, 32)
        assert np.array_equal(found.images.permute(0, 2, 3, 1).numpy(), images)
        assert found.labels.tolist() == labels.tolist() and found.labels.dtype == torch.int64
        assert found.source == "cifar10.1"


def test_a_second_test_set_is_held_to_the_same_rules(tmp_path: Path) -> None:
    write_folder(tmp_path / "a", {"cat": 2})
    write_folder(tmp_path / "b", {"dog": 7})
    (tmp_path / "a" / "dog").symlink_to(tmp_path / "b" / "dog")
    with pytest.raises(ValueError, match=r"dog links to .*, outside of"):
        data.load_test(tmp_path / "a", NAMES, 32)
    write_folder(tmp_path / "b", {".": 1})
    with pytest.raises(ValueError, match=r"holds images outside of a class folder \(000\.png\): put them into"):
        data.load_test(tmp_path / "b", NAMES, 32)
    (tmp_path / "b" / "000.png").unlink()
    for i in range(7):
        (tmp_path / "b" / "dog" / f"{i:03}.png").write_bytes(b"damaged")
    several = r"7 images cannot be used:\n.*dog/000\.png cannot.*(\n.*){4}\n  and 2 more"
    with pytest.raises(ValueError, match=several):
        data.load_test(tmp_path / "b", NAMES, 32)


def test_a_second_test_set_may_compose_its_letters_differently(tmp_path: Path) -> None:
    write_folder(tmp_path, {"cafe\u0301": 2, "tea": 1})
    assert data.load_test(tmp_path, ("caf\xe9", "tea"), 32).labels.tolist() == [0, 0, 1]


def test_a_second_test_set_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"test set '.*nowhere' does not exist"):
        data.load_test(tmp_path / "nowhere", NAMES, 32)
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        ValueError, match="holds no images: put them into a folder for each class, such as airplane"
    ):
        data.load_test(tmp_path / "empty", NAMES, 32)
    (tmp_path / "other" / "zebra").mkdir(parents=True)
    Image.new("RGB", (32, 32)).save(tmp_path / "other" / "zebra" / "1.png")
    with pytest.raises(ValueError, match="classes that the study does not know: zebra; it knows airplane, "):
        data.load_test(tmp_path / "other", NAMES, 32)
    text = tmp_path / "notes.txt"
    text.write_text("no arrays")
    with pytest.raises(ValueError, match=r"neither a folder nor CIFAR-10\.1's arrays"):
        data.load_test(text, NAMES, 32)

    good, labels = random_images(3).permute(0, 2, 3, 1).numpy(), np.array([0, 1, 2])
    path = save_arrays(tmp_path / "arrays", good, labels)
    with pytest.raises(ValueError, match="the study's are a, b: give a folder"):
        data.load_test(path, ("a", "b"), 32)
    larger = data.load_test(path, NAMES, 64).images  # resized as photographs are
    picture = Image.fromarray(good[1]).resize((64, 64), Image.Resampling.BICUBIC)
    assert np.array_equal(larger[1].permute(1, 2, 0).numpy(), np.asarray(picture))
    for images, wrong, message in (
        (good[:, :30], labels, r"must hold uint8 \[N, 32, 32, 3\], not uint8 \[3, 30, 32, 3\]"),
        (good / 255, labels, r"must hold uint8 .* not float64"),
        (good, labels[:2], "must hold 3 labels from 0 to 9"),
        (good, labels + 8, "must hold 3 labels from 0 to 9"),
    ):
        save_arrays(tmp_path / "arrays", images, wrong)
        with pytest.raises(ValueError, match=message):
            data.load_test(path, NAMES, 32)
    save_arrays(tmp_path / "arrays", good, labels, "second")
    with pytest.raises(
        ValueError, match=r"several test sets: name one of cifar10\.1_v6_data\.npy, second_data\.npy"
    ):
        data.load_test(tmp_path / "arrays", NAMES, 32)


def test_arrays_that_would_run_code_are_not_unpickled(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    path = save_arrays(tmp_path, np.array([Evil()], dtype=object), np.array([0]))
    with pytest.raises(ValueError, match="cannot be read as arrays"):
        data.load_test(path, NAMES, 32)
    path.with_name("cifar10.1_v6_labels.npy").unlink()
    with pytest.raises(ValueError, match=r"cifar10\.1_v6_labels\.npy"):
        data.load_test(path, NAMES, 32)
    assert not (tmp_path / "ran").exists()
