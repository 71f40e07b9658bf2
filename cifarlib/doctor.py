"""What stands between this machine and a study: versions, device, memory, disk, images, weights and time.

Every check is one line, ok, a note or a problem, and what is not ok names its remedy. Nothing is downloaded, and
nothing left behind.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import shutil
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import torch

from cifarlib import data, downloads, models, progress, recipes, runs, training
from cifarlib.recipes import Profile, Recipe
from cifarlib.text import version

ROOT = Path(__file__).resolve().parents[1]

# Images in a timed batch of large ones on a CPU: speed an image hardly depends on it there, and waiting does.
_CPU_BATCH, _LARGE = 8, 100
# Peak memory: what a process takes anyway, and what a batch of 64 at 224 px adds, with whose pixels it grows. On a
# CPU 8 GiB were measured with such batches and 1.5 GiB in the demo, here rounded up; beside a GPU nothing was.
_BATCH_PIXELS = 64 * 224**2
_CPU_MEMORY, _GPU_MEMORY, _HOST_MEMORY = (2 * 2**30, 7 * 2**30), (2**30, 5 * 2**30), 4 * 2**30
_CIFAR10_IMAGES = (40_000, 10_000, 10_000)  # training, validation, test
_MAIN = ("level1", "level2", "level3", "efficientnet")  # what the four levels train; the rest are arms
_TIMEOUT = 5.0  # seconds for a mirror to answer


@dataclass(frozen=True)
class Check:
    """One line: what was looked at, `ok`, `note` or `problem`, what was found, and what to do about it."""

    name: str
    state: str
    found: str
    remedy: str = ""


@dataclass(frozen=True)
class _Source:
    """The images of a study: how many train, validate and test, and at which side in pixels they are stored.

    `counts` is None where they cannot be used; `download` is in bytes.
    """

    check: Check
    what: str = ""
    counts: tuple[int, int, int] | None = None
    stored: int = data.CIFAR10_SIZE
    download: int = 0


def examine(
    profile: str = "auto",
    *,
    overrides: Mapping[str, Any] | None = None,
    run_root: str | Path = "runs",
    data_root: str | Path = "data",
    network: bool = False,
    timing: bool = True,
    say: Callable[[str], None] = print,
) -> Iterator[Check]:
    """Look at this machine; yields the checks one by one, as they are made.

    Args:
        profile: `full`, `demo`, or `auto`: what a study would take here. A problem is what would stop that one.
        overrides: Fields of recipes or of the profile to change, as `recipes.resolve` describes.
        run_root: Where training runs are to be kept.
        data_root: Where images are, or go.
        network: Ask every mirror whether it has its file; without, nothing leaves the machine.
        timing: Time a few batches of training, some seconds on a GPU and up to a minute on a CPU.
        say: Takes the line that is said before a wait.

    Raises:
        ValueError: an unknown profile, or overrides that are unknown or out of range.
    """
    device = training.choose_device()
    asked = profile
    if profile == "auto":
        profile = "full" if device.type == "cuda" else "demo"
    chosen, by_name = recipes.resolve(profile, overrides=overrides)
    yield Check("profile", "ok", f"{profile}, of which the checks below speak")
    yield _python()
    yield from _packages()
    yield _device(device)
    precision = _precision(by_name, device)
    yield precision
    source = _images(asked, chosen, by_name, Path(data_root))
    yield source.check
    yield _memory(by_name, source, device)
    weights = _weights_files(by_name)
    missing = [file for file in weights if not file.path.is_file()]
    yield from _weights(by_name, weights)
    yield _disk("run_root", Path(run_root), _room_for_runs(chosen, by_name))
    if source.download:  # else nothing is written there
        yield _disk("data_root", Path(data_root), source.download)
    if missing:
        yield _disk("torch's cache", missing[0].path.parent, round(sum(file.mib for file in missing) * 2**20))
    if network:
        yield from _network(weights)
    if timing and "problem" in (precision.state, source.check.state):
        yield Check("time", "note", "nothing was timed, since no training would begin", "mend the problems first")
    elif timing:
        yield _times(chosen, by_name, source, device, say)


def _problem(name: str, error: Exception) -> Check:
    """Return what a study would refuse as a check, in the study's words; after their last colon is the remedy."""
    found, _, remedy = str(error).rpartition(": ")
    return Check(name, "problem", found or str(error), remedy if found else "mend that")


def _arms(by_name: Mapping[str, Recipe]) -> list[Recipe]:
    """Return what the notebooks train besides the levels by default; the rest has to be asked for."""
    asked = recipes.ASKED_FOR.values()
    names = [arm for parameters in asked for name in recipes.BY_DEFAULT for arm in parameters.get(name, ())]
    arms = dict.fromkeys(by_name[name] for name in names)
    return [arm for arm in arms if arm.name not in _MAIN]


def _stand_ins(by_name: Mapping[str, Recipe]) -> list[Recipe]:
    """Return the trainings that make the stand-ins for ImageNet weights, an architecture each."""
    return recipes.stand_ins(by_name, (by_name[name] for name in _MAIN))


# --- Software ----------------------------------------------------------------------------------------------


def _python() -> Check:
    least = _declared()["requires-python"][0]
    found = platform.python_version()
    if _version(found) < _version(least):
        return Check("Python", "problem", f"{found}, and {least} is needed", f"install Python {least} or newer")
    return Check("Python", "ok", f"{found} on {platform.system()} {platform.machine()}")


def _packages() -> Iterator[Check]:
    """Compare what is installed with the lower bounds that the package declares."""
    wanted = _declared()
    kinds = {
        "": ("packages", "problem", "pip install -U"),
        "notebooks": ("packages of reports", "note", "only cifarlib report needs them: pip install"),
        "export": ("packages of export", "note", "only cifarlib export needs them: pip install"),
    }
    for extra, (name, state, remedy) in kinds.items():
        lacking, count = [], 0
        for line in wanted.get(extra, []):
            package, least = line.split(">=")
            count += 1
            try:
                found = metadata.version(package)
            except metadata.PackageNotFoundError:
                lacking.append(f"{package} is missing")
                continue
            if _version(found) < _version(least):
                lacking.append(f"{package} is {found}, and {least} is needed")
        if lacking:
            target = f"'cifarlib[{extra}]'" if extra else "cifarlib"
            yield Check(name, state, "; ".join(lacking), f"{remedy} {target}")
        else:
            shown = f"; cifarlib {version()}, torch {torch.__version__}" if not extra else ""
            yield Check(name, "ok", f"all {count} of them as new as needed{shown}")


def _declared() -> dict[str, list[str]]:
    """Return the declared lower bounds, `name>=version`, by extra ("" for none), and of Python."""
    try:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        if project["name"] != "cifarlib":  # another's, beside an installed package
            raise KeyError("cifarlib")
        groups = {"": project["dependencies"], **project["optional-dependencies"]}
        python = project["requires-python"]
    except (OSError, ValueError, KeyError):  # installed without the repository
        python = metadata.metadata("cifarlib")["Requires-Python"] or ">=3.11"
        groups = {}
        for line in metadata.requires("cifarlib") or []:
            extra = re.search(r"extra == ['\"](\w+)['\"]", line)
            groups.setdefault(extra[1] if extra else "", []).append(line)
    bounds: dict[str, list[str]] = {"requires-python": [python.removeprefix(">=")]}
    for extra, lines in groups.items():
        found = [re.match(r"([A-Za-z0-9._-]+)\s*\(?>=\s*([0-9.]+)", line) for line in lines]
        bounds[extra] = [f"{match[1]}>={match[2]}" for match in found if match]
    return bounds


def _version(text: str) -> tuple[int, ...]:
    """Return a version's numbers, without what stands after them and zeros at the end: 2.13.0+cpu is (2, 13)."""
    match = re.match(r"\d+(\.\d+)*", text)
    return tuple(map(int, re.sub(r"(\.0+)+$", "", match[0]).split("."))) if match else ()


# --- Hardware ----------------------------------------------------------------------------------------------


def _device(device: torch.device) -> Check:
    threads = f"{torch.get_num_threads()} threads on {os.cpu_count()} processors"
    if device.type == "cuda":
        name, total = torch.cuda.get_device_name(device), torch.cuda.get_device_properties(device).total_memory
        return Check("device", "ok", f"{name}, {_gib(total)}; {threads}")
    if shutil.which("nvidia-smi"):
        remedy = "a torch built for CUDA, and a driver that fits it, would be many times faster"
        return Check("device", "note", f"CPU, {threads}; torch {torch.__version__} does not see the GPU", remedy)
    if torch.backends.mps.is_available():
        remedy = "nothing to do: Apple's GPUs are not used, and what runs on the CPU runs to the same bits"
        return Check("device", "note", f"CPU, {threads}", remedy)
    return Check("device", "ok", f"CPU, {threads}; no CUDA device")


def _precision(by_name: Mapping[str, Recipe], device: torch.device) -> Check:
    try:
        chosen, others = (training.choose_precision(by_name[name], device) for name in ("level1", "efficientnet"))
        for recipe in by_name.values():
            training.choose_precision(recipe, device)
    except ValueError as error:
        return _problem("precision", error)
    follows = {
        "bf16-mixed": "bf16, which is native here",
        "16-mixed": "fp16 with loss scaling, since bf16 is not native here (a T4, for instance)",
        "32-true": "fp32, since there are no bf16 units here: slower, and bit-identical from run to run",
    }
    why = follows[chosen] if by_name["level1"].precision == "auto" else "as it was set"
    rest = "" if others == chosen else f"; EfficientNet-B0 trains in {others}"
    return Check("precision", "ok", f"{chosen}: {why}{rest}")


def _memory(by_name: Mapping[str, Recipe], source: _Source, device: torch.device) -> Check:
    pixels, largest = max(
        ((each.batch_size * each.image_size**2, each) for each in (by_name[name] for name in _MAIN)),
        key=lambda pair: pair[0],
    )
    images = sum(source.counts or ()) * 3 * source.stored**2

    def wanted(base: int, batch: int) -> int:
        return base + round(batch * pixels / _BATCH_PIXELS) + images

    free = psutil.virtual_memory().available
    need = wanted(*_CPU_MEMORY) if device.type == "cpu" else _HOST_MEMORY + images
    found = f"{_gib(free)} are free of {_gib(psutil.virtual_memory().total)}"
    smaller = f"train in smaller batches: --set batch_size={max(2, largest.batch_size // 2)}"
    if device.type == "cuda":
        gpu_free, gpu_total = torch.cuda.mem_get_info(device)
        found += f"; on the GPU {_gib(gpu_free)} of {_gib(gpu_total)}"
        if gpu_free < (gpu_need := wanted(*_GPU_MEMORY)):
            remedy = f"close what holds the GPU, or {smaller}"
            return Check("memory", "note", f"{found}, and training may want {_gib(gpu_need)}", remedy)
    if free < need:
        remedy = f"close other programs, or {smaller} (or a smaller image_size than {largest.image_size})"
        return Check("memory", "note", f"{found}, and training may want {_gib(need)}", remedy)
    return Check("memory", "ok", f"{found}; training may want {_gib(need)}")


def _room_for_runs(chosen: Profile, by_name: Mapping[str, Recipe]) -> int:
    """Return the bytes that the runs of all four levels and of their arms keep, and the checkpoints at work."""
    times = {by_name[name]: chosen.seeds for name in _MAIN}
    return sum(models.room_of(times | dict.fromkeys((*_arms(by_name), *_stand_ins(by_name)), 1)))


def _disk(name: str, folder: Path, need: int) -> Check:
    try:
        runs.check_disk(folder, need)
    except OSError as error:
        return _problem(name, error)
    place = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(place).free
    return Check(name, "ok", f"{folder}: {_gib(free)} are free" + (f", {_gib(need)} needed" if need else ""))


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"


def _mib(size: float) -> str:
    return f"{size / 2**20:.0f} MiB"


# --- Images and weights ------------------------------------------------------------------------------------


def _images(asked: str, profile: Profile, by_name: Mapping[str, Recipe], root: Path) -> _Source:
    """Look at the images as a study does before it begins; nothing is decoded."""
    try:
        if profile.name == "demo":
            if asked == "auto":
                data.check_demo(root)
            found = Check("images", "ok", "built-in ones, drawn where they are needed: nothing is downloaded")
            stored = profile.store_size or data.CIFAR10_SIZE
            return _Source(found, "built-in images", data.check_sizes(profile), stored)
        if root.exists() and not root.is_dir():
            raise NotADirectoryError(f"data_root={str(root)!r} is a file: give the folder that holds the images")
        if data.holds_images(root):
            return _folder(profile, root, max(r.image_size for name, r in by_name.items() if name != "pretrain"))
        data.check_official(profile)
    except (ValueError, OSError, MemoryError) as error:
        return _Source(_problem("images", error))
    archive, size, remedy = root / data.CIFAR10.name, data.CIFAR10.size, "nothing to do, if there is a network"
    found = Check("images", "ok", f"CIFAR-10, {archive}: its checksum is right")
    if not archive.is_file():
        found = Check("images", "note", f"CIFAR-10 will be downloaded to {root}, {_mib(size)}", remedy)
    elif not _matches(archive, "md5", data.CIFAR10.md5):
        remedy += "; otherwise copy it there again"
        found = Check("images", "note", f"{archive} is damaged and will be downloaded again", remedy)
    return _Source(found, "CIFAR-10", _capped(profile, _CIFAR10_IMAGES), download=size * (found.state != "ok"))


def _capped(profile: Profile, counts: Sequence[int]) -> tuple[int, int, int]:
    """Return how many images a profile takes of those that there are to train, validate and test on."""
    caps = (profile.train_size, profile.val_size, profile.test_size)
    train, val, test = (n if cap is None else min(n, cap) for n, cap in zip(counts, caps, strict=True))
    return train, val, test


def _folder(profile: Profile, root: Path, image_size: int) -> _Source:
    """Look into an image folder; ValueError or MemoryError where `data.load` would raise it too."""
    folder = data.look_into(profile, root, image_size)
    train, val, test = (len(files) for files, _ in folder.parts)
    found = (
        f"an image folder, {root}: {len(folder.classes)} classes, {train:,} images to train on, {val:,} to "
        f"validate and {test:,} to test, stored at {folder.stored_size} px; they are decoded when the study begins"
    )
    return _Source(Check("images", "ok", found), f"the images in {root}", (train, val, test), folder.stored_size)


def _matches(path: Path, algorithm: str, digest: str) -> bool:
    """Say whether a file's checksum begins with `digest`."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, algorithm).hexdigest().startswith(digest)
    except OSError:
        return False


def _weights_files(by_name: Mapping[str, Recipe]) -> list[models.Published]:
    """Return the ImageNet weights that the levels start from, where torchvision has such."""
    found = {}
    for name in _MAIN:
        with contextlib.suppress(ValueError):  # `_weights` says it
            if models.download_size(by_name[name]) is not None:
                file = models.published(by_name[name])
                found[file.path] = file
    return list(found.values())


def _weights(by_name: Mapping[str, Recipe], files: list[models.Published]) -> Iterator[Check]:
    if _stand_ins(by_name):
        yield Check("weights", "ok", "trained on the spot, on other built-in images: nothing is downloaded")
    told: dict[str, Check] = {}  # each once
    trained = (*(by_name[name] for name in _MAIN), *_arms(by_name))
    # A file is read once for an architecture, not for every recipe.
    for recipe in {(each.weights, each.model): each for each in trained}.values():
        try:
            if recipe.weights not in recipes.NAMED_WEIGHTS:
                models.room(recipe, models.load_weights(recipe))
                told[recipe.weights] = Check("weights", "ok", f"{recipe.weights}: they fit {recipe.model}")
            else:
                models.download_size(recipe)
        except (ValueError, OSError) as error:
            told[str(error)] = _problem("weights", error)
    yield from told.values()
    for _, path, digest, mib in files:
        if not path.is_file():
            found = f"{path.name} will be downloaded to {path.parent}, {_mib(mib * 2**20)}"
            yield Check("weights", "note", found, "nothing to do, if there is a network; else --set weights=PATH")
        elif not _matches(path, "sha256", digest):
            found = f"{path} is damaged and will be downloaded again"
            yield Check("weights", "note", found, "nothing to do, if there is a network; else copy it there again")
        else:
            yield Check("weights", "ok", f"{path}: its checksum is right")


def _network(files: list[models.Published]) -> Iterator[Check]:
    """Ask every mirror for the head of its file."""
    import requests

    own = os.environ.get("CIFARLIB_MIRROR", "").strip()
    for url in (*([own] if own else []), *data.CIFAR10.mirrors, *(file.url for file in files)):
        shown = downloads.shown(url)
        shown = shown if len(shown) <= 90 else f"{shown[:87]}..."
        try:
            answer = requests.head(url, allow_redirects=True, timeout=(_TIMEOUT, _TIMEOUT))
            why = "" if answer.ok else f"answers {answer.status_code}"
        except (OSError, ValueError) as error:
            why = f"does not answer ({type(error).__name__})"
        remedy = "nothing to do while another mirror answers; CIFARLIB_MIRROR names one of your own"
        yield Check("network", "note" if why else "ok", f"{shown} {why or 'answers'}", remedy if why else "")


# --- Time --------------------------------------------------------------------------------------------------


def _times(
    chosen: Profile,
    by_name: Mapping[str, Recipe],
    source: _Source,
    device: torch.device,
    say: Callable[[str], None],
) -> Check:
    """Time a few batches, and say what the four levels take on these images at that pace."""
    assert source.counts is not None
    stand_ins = _stand_ins(by_name)
    main = [by_name[name] for name in _MAIN]
    arms = _arms(by_name)
    # Of several of a kind the first one's batches are timed. Stand-ins learn from images of their own, 32 px.
    kinds: dict[Recipe, tuple[int, int]] = {}
    for recipe in (by_name["level2"], *main, *arms):
        kinds.setdefault(_kind(recipe), (recipe.batch_size, source.stored))
    for recipe in stand_ins:
        kinds.setdefault(_kind(recipe), (recipe.batch_size, data.CIFAR10_SIZE))
    wait = "up to a minute" if device.type == "cpu" else "some seconds"
    say(f"Timing a few batches of {len(kinds)} kinds of training: {wait}.")
    paces = {
        kind: _pace(replace(kind, batch_size=batch), device, stored)
        for kind, (batch, stored) in progress.bar(kinds.items(), what="timing", unit="kind")
    }
    seconds = {each.name: training_seconds(each, paces[_kind(each)], *source.counts) for each in (*main, *arms)}
    levels = {name: chosen.seeds * seconds.pop(name) for name in _MAIN}
    for recipe in stand_ins:
        levels[recipe.name] = training_seconds(
            recipe, paces[_kind(recipe)], chosen.pretrain_size, data.STAND_IN_VAL, 0
        )
    total, long = sum(levels.values()), sum(levels.values()) > 24 * 3600
    parts = ", ".join(f"{name} {progress.duration(of)}" for name, of in levels.items())
    size = by_name["level1"].image_size
    under = f", under {chosen.seeds} seeds" if chosen.seeds > 1 else ""
    remedies = [
        *(["use a GPU (Colab's are free)"] if device.type == "cpu" else []),
        *(["fewer images (--set train_size=5000)"] if source.counts[0] > 5000 else []),
        *([f"smaller ones (--set image_size={size // 2})"] if size >= 64 else []),
    ]
    return Check(
        "time",
        "note" if long else "ok",
        f"training the four levels on {source.what}, {source.counts[0]:,} to train on, at {size} px{under}: about "
        f"{progress.duration(total)} ({parts}), and about {progress.duration(sum(seconds.values()))} more for the "
        "arms that the notebooks add by default",
        ", or ".join(remedies or ["fewer epochs"]) if long else "",
    )


def _kind(recipe: Recipe) -> Recipe:
    """Return a recipe with what an image's training time follows from, and all else alike.

    What trains the head alone is a pass through a network of which more is trained, see `training_seconds`.
    """
    model = recipe.model.removeprefix("se_")
    more = "layer4" if model in models.RESNETS else "all"
    return replace(
        recipes.LEVEL2,
        name="timed",
        weights="none",
        model=model,
        trainable=more if recipe.trainable == "head" else recipe.trainable,
        **{name: getattr(recipe, name) for name in ("dilation", "image_size", "interpolation", "precision")},
    )


def _pace(recipe: Recipe, device: torch.device, stored: int) -> training.Pace:
    """Time a few batches of a recipe on built-in images, from random weights: their speed is the same.

    Args:
        recipe: What is trained.
        device: Where.
        stored: Side in pixels at which the images are stored.
    """
    small = device.type == "cuda" or recipe.image_size < _LARGE
    size = recipe.batch_size if small else min(_CPU_BATCH, recipe.batch_size)
    recipe = replace(recipe, weights="none", batch_size=size)
    profile = replace(recipes.DEMO, train_size=size, val_size=10, test_size=10, store_size=stored)
    images = data.load(profile).train
    engine = training.Engine(models.build(recipe, len(images.classes)), recipe, device)
    return training.measure_pace(engine, images.to(device), repeats=1 if device.type == "cpu" else 2)


def training_seconds(recipe: Recipe, pace: training.Pace, n: int, n_val: int, n_test: int) -> float:
    """Return what a training takes, from the pace of its kind.

    Args:
        recipe: What is trained.
        pace: Measured on a recipe of the same backbone, of which at least layer4 is trained: what trains the head
            alone is a pass through that trunk and, without a training step, that tail.
        n: Training images.
        n_val: Validation images.
        n_test: Test images.
    """
    whole = pace.forward + pace.judge  # one image through the whole network, nothing trained
    if recipe.trainable == "head":
        kept = not recipe.augment and recipe.batchnorm != "train"
        passes = n + n_val if kept else recipe.epochs * (n + n_val) + n
        return (passes + n_test) * whole
    return recipe.epochs * (n * pace.real + n_val * whole) + (n + n_test) * whole
