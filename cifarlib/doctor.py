"""What stands between this machine and a study: versions, device, memory, disk, images, weights and time.

Every check is one line, ok, a note or a problem, and what is not ok names its remedy. Nothing is downloaded, and
nothing left behind.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

import psutil
import torch

from cifarlib import data, models, progress, recipes, runs, training
from cifarlib.recipes import Profile, Recipe

ROOT = Path(__file__).resolve().parents[1]

# Images in a timed batch of large ones on a CPU: speed an image hardly depends on it there, and waiting does.
_CPU_BATCH, _LARGE = 8, 100
# Peak memory on a CPU: 8 GiB were measured at 224 px in batches of 64, 1.5 GiB in the demo; here rounded up.
_MEMORY = {"full": 9 * 2**30, "demo": 3 * 2**30}
_HOST_MEMORY, _GPU_MEMORY = 4 * 2**30, 6 * 2**30  # beside a GPU, and on it: assumed, not measured
_CIFAR10_IMAGES = (40_000, 10_000, 10_000)  # training, validation, test
_TIMEOUT = 5.0  # seconds for a mirror to answer


@dataclass(frozen=True)
class Check:
    """One line: what was looked at, `ok`, `note` or `problem`, what was found, and what to do about it."""

    name: str
    state: str
    found: str
    remedy: str = ""


def examine(
    profile: str = "auto",
    *,
    run_root: str | Path = "runs",
    data_root: str | Path = "data",
    network: bool = False,
    timing: bool = True,
) -> Iterator[Check]:
    """Look at this machine; yields the checks one by one, as they are made.

    Args:
        profile: `full`, `demo`, or `auto`: what a study would take here. A problem is what would stop that one.
        run_root: Where training runs are to be kept.
        data_root: Where images are, or go.
        network: Ask every mirror whether it has its file; without, nothing leaves the machine.
        timing: Time a few batches of training, some seconds on a GPU and up to a minute on a CPU.

    Raises:
        ValueError: an unknown profile.
    """
    device = training.choose_device()
    if profile == "auto":
        profile = "full" if device.type == "cuda" else "demo"
    chosen, by_name = recipes.resolve(profile)
    yield Check("profile", "ok", f"{profile}, of which the checks below speak")
    yield _python()
    yield from _packages()
    yield _device(device)
    yield _precision(by_name, device)
    yield _memory(profile, device)
    weights = _weights_files(by_name)
    missing = [file for file in weights if not file.path.is_file()]
    source = _images(chosen, Path(data_root))
    yield source
    yield from _weights(chosen, weights)
    yield _disk("run_root", Path(run_root), _room_for_runs(by_name))
    downloads_images = profile == "full" and "downloaded" in source.found
    yield _disk("data_root", Path(data_root), data.CIFAR10.size if downloads_images else 0)
    if missing:
        yield _disk("torch's cache", missing[0].path.parent, round(sum(file.mib for file in missing) * 2**20))
    if network:
        yield from _network(weights)
    if timing:
        yield from _times(device)


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
            shown = f"; torch {torch.__version__}" if not extra else ""
            yield Check(name, "ok", f"all {count} of them as new as needed{shown}")


def _declared() -> dict[str, list[str]]:
    """Return the declared lower bounds, `name>=version`, by extra ("" for none), and of Python."""
    try:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
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
    """Return a version's numbers, without what stands after them: 2.13.0+cpu is (2, 13, 0)."""
    match = re.match(r"\d+(\.\d+)*", text)
    return tuple(map(int, match[0].split("."))) if match else ()


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
    chosen = training.choose_precision(by_name["level1"], device)
    follows = {
        "bf16-mixed": "bf16, which is native here",
        "16-mixed": "fp16 with loss scaling, since bf16 is not native here (a T4, for instance)",
        "32-true": "fp32, since there are no bf16 units here: slower, and bit-identical from run to run",
    }
    others = training.choose_precision(by_name["efficientnet"], device)
    rest = "" if others == chosen else f"; EfficientNet-B0 trains in {others}"
    return Check("precision", "ok", f"{chosen}: {follows[chosen]}{rest}")


def _memory(profile: str, device: torch.device) -> Check:
    free = psutil.virtual_memory().available
    need = _MEMORY[profile] if device.type == "cpu" else _HOST_MEMORY
    found = f"{_gib(free)} are free of {_gib(psutil.virtual_memory().total)}"
    if device.type == "cuda":
        gpu_free, gpu_total = torch.cuda.mem_get_info(device)
        found += f"; on the GPU {_gib(gpu_free)} of {_gib(gpu_total)}"
        if gpu_free < _GPU_MEMORY and profile == "full":
            remedy = "close what holds the GPU, or lower --set batch_size=32"
            return Check("memory", "note", f"{found}, and training may want {_gib(_GPU_MEMORY)}", remedy)
    if free < need:
        remedy = "close other programs, or lower --set batch_size=32 (or image_size)"
        return Check("memory", "note", f"{found}, and training may want {_gib(need)}", remedy)
    return Check("memory", "ok", found)


def _room_for_runs(by_name: Mapping[str, Recipe]) -> int:
    """Return the bytes that the runs of all four levels keep, and the checkpoints at work."""
    names = dict.fromkeys(name for level in recipes.LEVELS.values() for name in level)
    rooms = [models.room(by_name[name]) for name in (*names, *recipes.LEVEL1_ARMS, *recipes.ARMS)]
    return sum(kept for kept, _ in rooms) + max(at_work for _, at_work in rooms)


def _disk(name: str, folder: Path, need: int) -> Check:
    try:
        runs.check_disk(folder, need)
    except OSError as error:
        found, _, remedy = str(error).rpartition(": ")
        return Check(name, "problem", found or str(error), remedy or "choose another folder")
    place = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(place).free
    return Check(name, "ok", f"{folder}: {_gib(free)} are free" + (f", {_gib(need)} needed" if need else ""))


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"


# --- Images and weights ------------------------------------------------------------------------------------


def _images(profile: Profile, root: Path) -> Check:
    if profile.name == "demo":
        return Check("images", "ok", "built-in ones, drawn where they are needed: nothing is downloaded")
    if root.exists() and not root.is_dir():
        return Check("images", "problem", f"{root} is a file", "give the folder of images as --data-root")
    try:
        if data.holds_images(root):
            return Check("images", "ok", f"an image folder, {root}: read and checked when the study begins")
    except ValueError as error:
        return Check("images", "problem", str(error), "mend that, or give another folder as --data-root")
    archive = root / data.CIFAR10.name
    if not archive.is_file():
        found = f"CIFAR-10 will be downloaded to {root}, {data.CIFAR10.size / 1e6:.0f} MB"
        return Check("images", "note", found, "nothing to do, if there is a network")
    if not _matches(archive, "md5", data.CIFAR10.md5):
        remedy = "nothing to do, if there is a network; otherwise copy it there again"
        return Check("images", "note", f"{archive} is damaged and will be downloaded again", remedy)
    return Check("images", "ok", f"CIFAR-10, {archive}: its checksum is right")


def _matches(path: Path, algorithm: str, digest: str) -> bool:
    """Say whether a file's checksum begins with `digest`."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, algorithm).hexdigest().startswith(digest)
    except OSError:
        return False


def _weights_files(by_name: Mapping[str, Recipe]) -> list[models.Published]:
    """Return the ImageNet weights that the levels start from."""
    chosen = (by_name[name] for name in ("level1", "efficientnet"))
    return [models.published(recipe) for recipe in chosen if recipe.weights.startswith("imagenet")]


def _weights(profile: Profile, files: list[models.Published]) -> Iterator[Check]:
    if profile.name == "demo":
        yield Check("weights", "ok", "trained on the spot, on other built-in images: nothing is downloaded")
    for _, path, digest, mib in files:
        if not path.is_file():
            found = f"{path.name} will be downloaded to {path.parent}, {mib:.0f} MB"
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
        shown = url if len(url) <= 90 else f"{url[:87]}..."
        try:
            answer = requests.head(url, allow_redirects=True, timeout=(_TIMEOUT, _TIMEOUT))
            why = "" if answer.ok else f"answers {answer.status_code}"
        except (OSError, ValueError) as error:
            why = f"does not answer ({type(error).__name__})"
        remedy = "nothing to do while another mirror answers; CIFARLIB_MIRROR names one of your own"
        yield Check("network", "note" if why else "ok", f"{shown} {why or 'answers'}", remedy if why else "")


# --- Time --------------------------------------------------------------------------------------------------


def _times(device: torch.device) -> Iterator[Check]:
    """Time a few batches, and say what the study and the demo take at that pace."""
    for profile in ("demo", "full"):
        chosen, by_name = recipes.resolve(profile)
        images = _CIFAR10_IMAGES
        if profile == "demo":
            images = (chosen.train_size or 0, chosen.val_size or 0, chosen.test_size or 0)
        paces = {name: _pace(by_name[name], device) for name in ("level2", "efficientnet")}
        levels = {
            name: training_seconds(recipe, paces["efficientnet" if name == "efficientnet" else "level2"], *images)
            for name, recipe in by_name.items()
            if name not in ("pretrain", "convnext")
        }
        if profile == "demo":
            pretrain = by_name["pretrain"]
            pace = _pace(pretrain, device)
            levels["pretrain"] = training_seconds(pretrain, pace, chosen.pretrain_size, 500, 0)
        main = ("level1", "level2", "level3", "efficientnet", *(["pretrain"] if profile == "demo" else []))
        four, more = sum(levels[name] for name in main), sum(levels[n] for n in levels if n not in main)
        parts = ", ".join(f"{name} {progress.duration(levels[name])}" for name in main)
        what = "the full study, CIFAR-10 at 224 px" if profile == "full" else "the demo"
        yield Check(
            "time",
            "note" if four > 24 * 3600 else "ok",
            f"training {what}: about {progress.duration(four)} ({parts}), and about "
            f"{progress.duration(more)} more for the arms that the notebooks of levels 1 and 2 add by default",
            "use a GPU (Colab's are free), or fewer images: --set train_size=5000" if four > 24 * 3600 else "",
        )


def _pace(recipe: Recipe, device: torch.device) -> training.Pace:
    """Time a few batches of a recipe on built-in images, from random weights: their speed is the same."""
    small = device.type == "cuda" or recipe.image_size < _LARGE
    size = recipe.batch_size if small else _CPU_BATCH
    recipe = replace(recipe, weights="none", batch_size=size)
    images = data.load(replace(recipes.DEMO, train_size=size, val_size=10, test_size=10)).train
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
