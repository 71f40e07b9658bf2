"""The run folder: one trained recipe on disk, enough to plot, compare, ensemble and predict from.

    <root>/<recipe's name>-<identity>/
        recipe.json environment.json history.csv metrics.json predictions.npz model.safetensors
        checkpoints/            while it trains: the two newest, <epochs done>-<steps into the next>.pt
        manifest.json           identity, state, the sha256 of every file above, and its own

The folder's name ends in a digest of its identity: the recipe, the fingerprint of the images and that of the
pretrained weights. Another recipe, other images or other weights are another folder, and a folder whose
manifest says otherwise is refused. Files are written to a temporary name in the same folder and renamed, the
manifest first and last: what it does not name was never finished, and files without one are damage.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib.metadata
import json
import os
import pickle
import platform
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import safetensors
import safetensors.torch
import torch

from cifarlib import locks
from cifarlib.recipes import Recipe

# Part of every run's identity: raised when the code gives other results than before (the golden losses move) or
# keeps them in another form, so that runs of the old code are not taken for runs of the new.
RESULTS = 3

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

    `history` has one row an epoch: epoch, train_loss, train_accuracy (running, in training mode, as the
    documents have it), val_loss, val_accuracy, learning_rate, seconds. `predictions` holds val_probs and
    test_probs [N, C] float32, val_labels and test_labels [N] int64. Accuracies are fractions.
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
        decisive = recipe.to_dict() | {"weights": weights}
        self.identity = {"results": RESULTS, "recipe": decisive, "data": data, "classes": list(classes)}
        self.path = Path(root) / f"{recipe.name}-{_digest(self.identity)[:12]}"
        self._held: Callable[[], bool] = lambda: True

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
        path = self.path / "manifest.json"
        try:
            manifest = json.loads(path.read_bytes())
            whole = manifest.pop("sha256") == _digest(manifest)
        except FileNotFoundError:
            orphans = [name for name in (*_RESULTS, "checkpoints") if (self.path / name).exists()]
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

    def save_checkpoint(self, epochs: int, steps: int, save: Callable[[Path], None]) -> None:
        """Keep the state after `epochs` whole epochs and `steps` of the next: `save` writes it to its argument.

        Raises:
            RunError: it could not be written, to a full disk for instance; the ones before are still there.
        """
        files = self.manifest().get("files", {})
        name = f"checkpoints/{epochs:04d}-{steps:06d}.pt"
        files[name] = self._write(name, save)
        kept = sorted(name for name in files if name.startswith("checkpoints/"))[-2:]
        files = {name: digest for name, digest in files.items() if name in kept}
        self._write_manifest("interrupted", files)
        for path in (self.path / "checkpoints").iterdir():
            if f"checkpoints/{path.name}" not in kept:
                with contextlib.suppress(OSError):  # the manifest does not name it any more
                    path.unlink()

    def load_checkpoint(self, load: Callable[[Path], None]) -> None:
        """Call `load` with the newest whole checkpoint, if there is one.

        Raises:
            RunError: it is the file that was written, and `load` cannot read it.
        """
        files = self.manifest().get("files", {})
        checkpoints = sorted((name for name in files if name.startswith("checkpoints/")), reverse=True)
        for name in checkpoints:
            path = self.path / name
            if path.is_file() and _sha256(path) == files[name]:
                try:
                    load(path)
                except (pickle.UnpicklingError, RuntimeError, KeyError, TypeError, ValueError, EOFError) as error:
                    raise RunError(f"{path} is no checkpoint of this run: {_AGAIN}") from error
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
        writers: dict[str, Callable[[Path], Any]] = {
            "recipe.json": lambda path: _write_json(path, self.recipe.to_dict()),
            "environment.json": lambda path: _write_json(path, environment),
            "history.csv": lambda path: history.to_csv(path, index=False),
            "metrics.json": lambda path: _write_json(path, metrics),
            "predictions.npz": lambda path: _write_npz(path, predictions),
            "model.safetensors": lambda path: safetensors.torch.save_file(state, path),
        }
        files = {name: self._write(name, write) for name, write in writers.items()}
        self._write_manifest("finished", files)
        shutil.rmtree(self.path / "checkpoints", ignore_errors=True)

    def load(self) -> Run:
        """Read the finished run back.

        Raises:
            RunError: a file is missing, differs from its checksum or is not what its name says.
        """
        files = self.manifest()["files"]
        paths = [self.path / name for name in _RESULTS]
        damaged = [path.name for path in paths if not path.is_file() or _sha256(path) != files.get(path.name)]
        if damaged:
            raise RunError(
                f"{self.path / damaged[0]} is missing or damaged"
                + (f", and {', '.join(damaged[1:])}" if damaged[1:] else "")
                + f": {_AGAIN}"
            )
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

    def _write(self, name: str, write: Callable[[Path], Any]) -> str:
        """Write a file under a temporary name, rename it, and return its sha256."""
        self._refuse_if_lost()
        path = self.path / name
        temporary = path.with_name(f".{path.name}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write(temporary)
            _sync(temporary)
            digest = _sha256(temporary)
            self._refuse_if_lost()  # a machine may sleep for long in the midst of this
            os.replace(temporary, path)
        except RunError:
            raise
        # torch and safetensors have their own words for a disk that is full.
        except (OSError, RuntimeError, safetensors.SafetensorError) as error:
            raise self._unwritable(error, name) from error
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
        return digest

    def _refuse_if_lost(self) -> None:
        """Raise RunError where another machine holds the folder by now."""
        if not self._held():
            raise RunError(
                f"another machine has taken {self.path} over, after it saw no sign of this one for "
                f"{locks.LEASE_SECONDS:.0f} s: this one writes no more, so that the run stays whole"
            )

    def _unwritable(self, error: Exception, name: str = "") -> RunError:
        """Say what could not be written, how much room there is, and what to do."""
        reason = getattr(error, "strerror", None) or str(error).strip().partition("\n")[0]
        free = ""
        with contextlib.suppress(OSError):
            folder = next(parent for parent in (self.path, *self.path.parents) if parent.exists())
            free = f" ({shutil.disk_usage(folder).free / 2**20:,.0f} MiB are free there)"
        return RunError(
            f"{self.path / name} could not be written: {reason}{free}. Make room, or choose another run_root; "
            "what was written before is whole, and the same call goes on from there"
        )

    def _write_manifest(self, state: str, files: Mapping[str, str]) -> None:
        manifest = {"identity": self.identity, "state": state, "files": dict(files)}
        manifest["sha256"] = _digest(manifest)
        self._write("manifest.json", lambda path: _write_json(path, manifest))


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


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, allow_nan=False) + "\n")


def _write_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    assert not any(array.dtype.hasobject for array in arrays.values())  # numpy would pickle it
    with path.open("wb") as file:  # given a name, numpy would append .npz to it
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # older numpy has no other arguments


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
    """Describe what a run was computed with: versions, device, threads."""
    packages = ("torch", "torchvision", "lightning-fabric", "kornia", "numpy")
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "processor": platform.machine(),
    }
