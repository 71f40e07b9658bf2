"""The run folder: one trained recipe on disk, enough to plot, compare, ensemble and predict from.

    <root>/<recipe's name>-<identity>/
        recipe.json environment.json history.csv metrics.json predictions.npz model.safetensors
        checkpoints/            while it trains: the two newest, <epochs done>-<steps into the next>.pt
        manifest.json           identity, state, the sha256 of every file above, and its own

The folder's name ends in a digest of its identity: the recipe's fields that differ from their defaults, the
fingerprint of the images and that of the pretrained weights. Another recipe, other images or other weights are
another folder, and a folder whose manifest says otherwise is refused. Files are written to a temporary name in the
same folder and renamed, the manifest first and last: what it does not name was never finished, and files without
one are damage.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib.metadata
import io
import json
import os
import platform
import re
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import safetensors.torch
import torch

from cifarlib import locks
from cifarlib.recipes import Recipe

# Part of every run's identity. Raise it when the code gives other results than before, keeps them in another form,
# or when a recipe's field gets another default: else runs of the old code would be taken for runs of the new.
SCHEMA = 4
# Number 3 wrote every field that a recipe had into the identity, these.
_SCHEMA_3 = (
    *("name", "model", "weights", "trainable", "batchnorm", "dilation", "se_ratio", "se_init", "image_size"),
    *("interpolation", "augment", "crop_padding", "flip", "brightness", "contrast", "saturation", "hue"),
    *("optimizer", "learning_rate", "weight_decay", "schedule", "epochs", "batch_size", "precision", "seed"),
)

_RESULTS = (
    "recipe.json",
    "environment.json",
    "history.csv",
    "metrics.json",
    "predictions.npz",
    "model.safetensors",
)

_AGAIN = "delete the folder, or move it away, to train this run again"


class RunError(RuntimeError):
    """A run folder does not hold what it should; the message says what to do."""


@dataclass(frozen=True)
class Run:
    """A finished run, as read from its folder.

    `history` has one row an epoch: epoch, train_loss, train_accuracy (running, in training mode, as the documents
    have it), val_loss, val_accuracy, learning_rate, seconds. `predictions` holds val_probs and test_probs [N, C]
    float32, val_labels and test_labels [N] int64. Accuracies are fractions.
    """

    recipe: Recipe
    path: Path
    classes: tuple[str, ...]
    history: pd.DataFrame
    predictions: dict[str, np.ndarray]
    metrics: dict[str, Any]
    environment: dict[str, Any] = field(repr=False)

    def weights(self) -> dict[str, torch.Tensor]:
        """Read the trained model's state, fp32 on the CPU, under torchvision's names."""
        return safetensors.torch.load_file(self.path / "model.safetensors")


class RunFolder:
    """The folder of one run: its state, its lock, its checkpoints and its results."""

    def __init__(
        self, root: str | Path, recipe: Recipe, *, data: str, weights: str, classes: tuple[str, ...]
    ) -> None:
        self.recipe, self.classes = recipe, classes
        # A path says nothing about what it holds: the weights count by their fingerprint.
        fields, images = recipe.changed() | {"weights": weights}, {"data": data, "classes": list(classes)}
        self.identity: dict[str, Any] = {"schema": SCHEMA, "recipe": fields} | images
        self.path = _place(root, self.identity)
        if 3 in _readable() and fields.keys() <= set(_SCHEMA_3) and not self.path.exists():
            every = {name: value for name, value in recipe.to_dict().items() if name in _SCHEMA_3}
            older = {"results": 3, "recipe": every | {"weights": weights}} | images
            if (place := _place(root, older)).exists():
                self.identity, self.path = older, place
        self._held: Callable[[], bool] = lambda: True
        self._whole: dict[str, str] = {}  # checkpoints that are known to be whole, and their sha256

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder for one writer; a second one waits, and says for whom.

        Raises:
            RunError: the folder cannot be made or written to, or it belongs to something else.
        """
        with contextlib.ExitStack() as held:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                self._held = held.enter_context(locks.one_writer(self.path))
                # Whoever left these is gone: it would hold the lock.
                for left in (*self.path.glob(".*.part"), *self.path.glob("checkpoints/.*.part")):
                    left.unlink()
            except OSError as error:
                raise self._unwritable(error) from error
            if not self.manifest():
                self._write_manifest("interrupted", {})
            yield

    def manifest(self) -> dict[str, Any]:
        """Read the manifest, {} where there is none.

        Raises:
            RunError: it is damaged or missing, or the folder belongs to another recipe, images or weights.
        """
        manifest = _read_manifest(self.path)
        if not manifest:
            return {}
        if manifest["identity"] != self.identity:
            raise RunError(
                f"{self.path} holds a run of another recipe, other images or other weights: move it away, or "
                "choose another run_root"
            )
        return manifest

    def finished(self) -> bool:
        """Say whether the run is complete; what it holds is verified when it is loaded."""
        return self.manifest().get("state") == "finished"

    # --- checkpoints ---

    def save_checkpoint(self, epochs: int, steps: int, content: bytes) -> None:
        """Keep the state after `epochs` whole epochs and `steps` of the next.

        Raises:
            RunError: it could not be written, to a full disk for instance; the ones before are still there.
        """
        name = f"checkpoints/{epochs:04d}-{steps:06d}.pt"
        digest = self._write(name, content)
        # What this process has not read or written itself may be damaged, and must not push out what is whole.
        before = sorted(self._whole.keys() - {name})[-1:]
        self._whole = {kept: self._whole[kept] for kept in before} | {name: digest}
        self._write_manifest("interrupted", self._whole)
        for path in (self.path / "checkpoints").iterdir():
            if f"checkpoints/{path.name}" not in self._whole:
                with contextlib.suppress(OSError):  # the manifest does not name it any more
                    path.unlink()

    def load_checkpoint(self, load: Callable[[Path], None]) -> None:
        """Call `load` with the newest whole checkpoint, if there is one.

        Raises:
            RunError: it is the file that was written, and `load` says by a ValueError that it is no checkpoint.
        """
        files = self.manifest().get("files", {})
        checkpoints = sorted((name for name in files if name.startswith("checkpoints/")), reverse=True)
        for name in checkpoints:
            path = self.path / name
            try:
                whole = _sha256(path) == files[name]
            except OSError:  # missing, or on a disk that cannot read it
                whole = False
            if whole:
                try:
                    load(path)
                except ValueError as error:
                    raise RunError(f"{path} is no checkpoint of this run: {_AGAIN}") from error
                self._whole = {name: files[name]}
                return
            print(f"{path} is damaged or missing: not used")
        if checkpoints:
            print(f"{self.path} holds no whole checkpoint any more: the training starts again from the beginning")

    # --- results ---

    def finish(
        self,
        *,
        weights: Mapping[str, torch.Tensor],
        history: pd.DataFrame,
        predictions: Mapping[str, np.ndarray],
        metrics: Mapping[str, Any],
        environment: Mapping[str, Any],
    ) -> None:
        """Write the results, then the manifest that makes them count; checkpoints are no longer needed."""
        state = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
        contents = {
            "recipe.json": _json(self.recipe.to_dict()),
            "environment.json": _json(environment),
            "history.csv": history.to_csv(index=False).encode(),
            "metrics.json": _json(metrics),
            "predictions.npz": _npz(predictions),
            "model.safetensors": safetensors.torch.save(state),
        }
        files = {name: self._write(name, content) for name, content in contents.items()}
        self._write_manifest("finished", files)
        shutil.rmtree(self.path / "checkpoints", ignore_errors=True)

    def verify(self) -> None:
        """Compare every file of a finished run with its checksum.

        Raises:
            RunError: one is missing or differs.
        """
        files = self.manifest()["files"]
        paths = [self.path / name for name in _RESULTS]
        try:
            damaged = [path.name for path in paths if not path.is_file() or _sha256(path) != files.get(path.name)]
        except OSError as error:
            raise RunError(f"{error.filename} cannot be read: {error.strerror}") from error
        if damaged:
            raise RunError(
                f"{self.path / damaged[0]} is missing or damaged"
                + (f", and {', '.join(damaged[1:])}" if damaged[1:] else "")
                + f": {_AGAIN}"
            )

    def load(self) -> Run:
        """Read the finished run back.

        Raises:
            RunError: a file is missing, differs from its checksum or is not what its name says.
        """
        self.verify()
        if (self.path / "checkpoints").exists():  # the process that finished the run ended before this
            shutil.rmtree(self.path / "checkpoints", ignore_errors=True)
        try:
            with np.load(self.path / "predictions.npz", allow_pickle=False) as archive:
                predictions = dict(archive)
            return Run(
                recipe=Recipe.from_dict(json.loads((self.path / "recipe.json").read_text())),
                path=self.path,
                classes=self.classes,
                history=pd.read_csv(self.path / "history.csv"),
                predictions=predictions,
                metrics=json.loads((self.path / "metrics.json").read_text()),
                environment=json.loads((self.path / "environment.json").read_text()),
            )
        except (ValueError, TypeError, KeyError, zipfile.BadZipFile) as error:
            raise RunError(f"{self.path} holds no run that can be read ({error}): {_AGAIN}") from error

    # --- writing ---

    def _write(self, name: str, content: bytes) -> str:
        """Write a file under a temporary name, rename it, and return its sha256."""
        self._refuse_if_lost()
        path = self.path / name
        # Of its own, since a process that has lost the folder may still be at work.
        temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(content)
            _sync(temporary)
            self._refuse_if_lost()  # once more: a machine may have slept over the writing
            os.replace(temporary, path)
        except OSError as error:
            raise self._unwritable(error, name) from error
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
        return hashlib.sha256(content).hexdigest()

    def _refuse_if_lost(self) -> None:
        if not self._held():
            raise RunError(
                f"{self.path} is not this process's any more: its mark there is gone, or could not be renewed for "
                f"{locks.LEASE_SECONDS:.0f} s, and another machine may have taken over. This one writes no more, "
                "so that the run stays whole; the same call goes on, or waits for the other"
            )

    def _unwritable(self, error: OSError, name: str = "") -> RunError:
        """Say what could not be written, and what to do."""
        remedy = "Choose another run_root"
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            folder = next(parent for parent in (self.path, *self.path.absolute().parents) if parent.exists())
            free = shutil.disk_usage(folder).free / 2**20
            remedy = f"{free:,.0f} MiB are free there: make room, or choose another run_root"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            remedy = "Get the right to write there, or choose another run_root"
        return RunError(
            f"{self.path / name} could not be written: {error.strerror or error}. {remedy}; what was written "
            "before is whole, and the same call goes on from there"
        )

    def _write_manifest(self, state: str, files: Mapping[str, str]) -> None:
        manifest = {"identity": self.identity, "state": state, "files": dict(files)}
        manifest["sha256"] = _digest(manifest)
        self._write("manifest.json", _json(manifest))


def _read_manifest(folder: Path) -> dict[str, Any]:
    """Read a folder's manifest, whatever run it is of; {} where there is neither one nor files that need one.

    Raises:
        RunError: it is damaged or missing.
    """
    path = folder / "manifest.json"
    try:
        manifest: dict[str, Any] = json.loads(path.read_bytes())
        whole = manifest.pop("sha256") == _digest(manifest)
    except FileNotFoundError:
        orphans = [name for name in (*_RESULTS, "checkpoints") if (folder / name).exists()]
        if orphans:
            raise RunError(
                f"{path} is missing, and with it what tells whether {', '.join(orphans)} are whole: {_AGAIN}"
            ) from None
        return {}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):  # no JSON, or other JSON
        whole = False
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from error
    if not whole:
        raise RunError(f"{path} is damaged: {_AGAIN}")
    return manifest


def _readable() -> tuple[int, ...]:
    """Return the numbers whose runs are this version's own: 3 and 4 differ only in what an identity holds."""
    return (3, 4) if SCHEMA == 4 else (SCHEMA,)


def _place(root: str | Path, identity: Mapping[str, Any]) -> Path:
    """Return where a run of this identity lies."""
    return Path(root) / f"{identity['recipe']['name']}-{_digest(identity)[:12]}"


def _digest(values: Mapping[str, Any]) -> str:
    """Return the sha256 of JSON-ready values, whatever their order."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    """Wait until a file's content is on the disk, so that its new name cannot get there before it."""
    with path.open("r+b") as file:
        try:
            os.fsync(file.fileno())
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):  # some mounts cannot
                raise


def _json(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, indent=2, allow_nan=False) + "\n").encode()


def _npz(arrays: Mapping[str, np.ndarray]) -> bytes:
    assert not any(array.dtype.hasobject for array in arrays.values())  # numpy would pickle it
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]  # older numpy has no other arguments
    return buffer.getvalue()


def check_disk(folder: Path, need: int) -> None:
    """Refuse a folder that cannot be written, or whose disk has less room than `need` bytes.

    Raises:
        OSError: the message says what is missing.
    """
    place = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
        free = shutil.disk_usage(place).free
    except OSError as error:
        raise type(error)(f"{folder} cannot be written to: {error.strerror}. Choose another folder") from error
    if free < need:
        raise OSError(
            f"{folder} needs up to {need / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free there: make room, "
            "or choose another folder"
        )


def environment(device: torch.device) -> dict[str, Any]:
    """Describe what a run was computed with: versions, device, threads, processor.

    `cpu_capability` names the instructions that torch's own kernels use: where only that differs, so do the last
    digits of a training on a CPU.
    """
    packages = ("torch", "torchvision", "lightning-fabric", "kornia", "numpy")
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "processor": processor(),
        "machine": platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }


def processor() -> str:
    """Return the processor's model, as far as the system names it: "AMD EPYC 7B13", "Apple M1"."""
    with contextlib.suppress(OSError):  # Linux; on Arm the file is there and names no model
        found = re.search(r"^model name\s*:\s*(\S.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        if found:
            return found[1].strip()
    with contextlib.suppress(OSError, subprocess.SubprocessError):  # macOS
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        named = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
        if named:
            return named
    return platform.processor() or platform.machine()


# --- What lies in a folder of runs ---


@dataclass(frozen=True)
class Found:
    """A folder among the runs, as `survey` finds it.

    `state` is finished, training (a process of this machine holds it), interrupted, damaged, or foreign: no run of
    this version of cifarlib. `reason` says why where it is one of the last two. `epochs` have been trained in
    whole; `size` is in bytes, `modified` in seconds since 1970. `data` are the fingerprints of the images, and
    `classes` what they show.
    """

    path: Path
    state: str
    reason: str = ""
    recipe: Recipe | None = None
    data: str = ""
    classes: tuple[str, ...] = ()
    epochs: int = 0
    test_accuracy: float | None = None
    size: int = 0
    modified: float = 0.0


class _ForeignError(RunError):
    """The folder holds no run of this version of cifarlib."""


def survey(root: str | Path, *, verify: bool = True) -> list[Found]:
    """Look at every folder in `root`, the newest first; changes nothing.

    Args:
        root: A study's run_root; where there is none, nothing is found.
        verify: Compare finished runs with their checksums, which reads every byte of them.

    Raises:
        RunError: `root` is there and cannot be listed.
    """
    try:
        folders = [path for path in Path(root).iterdir() if path.is_dir() and not path.name.startswith(".")]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RunError(
            f"{root} cannot be listed ({error.strerror}): get the right to read it, or choose another run_root"
        ) from error
    return sorted((_look(path, verify) for path in folders), key=lambda found: (-found.modified, found.path.name))


def open_run(path: str | Path) -> Run:
    """Read a finished run from its folder, wherever that lies: every file is compared with its checksum.

    Raises:
        RunError: there is no finished run, or a part of it is damaged; the message says what to do.
    """
    folder = _recognise(Path(path))
    if not folder.finished():
        raise RunError(
            f"{folder.path} was interrupted after {_epochs(folder)} of {folder.recipe.epochs} epochs: the same "
            "command or notebook, with the same settings, goes on from there"
        )
    return folder.load()


def images_of(run: Run) -> str:
    """Return the fingerprints of the images that a run was trained and tested on; equal ones are equal images."""
    return str(_read_manifest(run.path)["identity"]["data"])


def _recognise(path: Path) -> RunFolder:
    """Return the run folder that lies at `path`, by what its manifest says it is."""
    if not path.is_dir():
        what = "is a file" if path.exists() else "does not exist"
        raise RunError(f"{path} {what}: give the folder of a run (cifarlib runs lists them)")
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError, RecursionError):
        found = json.loads((path / "manifest.json").read_bytes())["identity"]
        schema = found["schema"] if "schema" in found else found["results"]
        if schema not in _readable():  # before the checksum, which older manifests lack
            raise _ForeignError(
                f"{path} was written by another version of cifarlib (number {schema!a:.20} of its results, and "
                f"this is number {SCHEMA}): use that version, or {_AGAIN}"
            )
    manifest = _read_manifest(path)
    if not manifest:
        raise _ForeignError(f"{path} holds no run")
    try:
        identity = manifest["identity"]
        recipe = Recipe.from_dict(identity["recipe"])
        folder = RunFolder(
            path.parent,
            recipe,
            data=identity["data"],
            weights=recipe.weights,  # in an identity, these are their fingerprint
            classes=tuple(identity["classes"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _ForeignError(f"{path} holds a run that this version of cifarlib cannot read ({error})") from error
    folder.path, folder.identity = path, identity  # it may have been renamed, or be of number 3
    return folder


def _look(path: Path, verify: bool) -> Found:
    size, modified = 0, 0.0
    with contextlib.suppress(OSError):
        modified = path.stat().st_mtime
        for file in path.rglob("*"):
            with contextlib.suppress(OSError):  # a training removes old checkpoints meanwhile
                status = file.lstat()
                size += status.st_size if file.is_file() else 0
                modified = max(modified, status.st_mtime)
    found = Found(path, "damaged", size=size, modified=modified)
    try:
        folder = _recognise(path)
        images, epochs = str(folder.identity["data"]), _epochs(folder)
        found = replace(found, recipe=folder.recipe, data=images, classes=folder.classes, epochs=epochs)
        if not folder.finished():
            return replace(found, state="training" if _held(path) else "interrupted")
        if verify:
            folder.verify()
        metrics = json.loads((path / "metrics.json").read_text())
        return replace(found, state="finished", test_accuracy=metrics.get("test_accuracy"))
    except _ForeignError as error:
        return replace(found, state="foreign", reason=str(error))
    except RunError as error:
        return replace(found, reason=str(error))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        return replace(found, reason=f"{path} cannot be read ({error}): {_AGAIN}")


def _epochs(folder: RunFolder) -> int:
    """Return how many epochs have been trained in whole."""
    manifest = folder.manifest()
    if manifest["state"] == "finished":
        return folder.recipe.epochs
    names = [name.rpartition("/")[2] for name in manifest["files"] if name.startswith("checkpoints/")]
    return max((int(name[:4]) for name in names), default=0)


def _held(path: Path) -> bool:
    """Say whether a process that is alive holds the folder, by what it left there; changes nothing."""
    with contextlib.suppress(OSError):
        lease = path / ".lease"
        if lease.exists():
            return time.time() - lease.stat().st_mtime < locks.LEASE_SECONDS
        with (path / ".lock").open(errors="replace") as file:
            holder = re.match(r"process (\d+) on (\S+)", file.read())
            if holder is not None and holder[2] == socket.gethostname():
                return _locked(file.fileno(), int(holder[1]))
    return False


def _locked(lock: int, holder: int) -> bool:
    """Say whether the system's lock on a file is held; where that cannot be asked, whether `holder` is alive."""
    try:
        import fcntl

        # Shared, and given back as the file is closed: a training that starts this moment waits for that.
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except (ImportError, OSError):  # Windows has no flock, nor have some disks
        return psutil.pid_exists(holder)
    return False  # whoever was killed and left its name, another process may have its number by now
