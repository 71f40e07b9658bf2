"""The run folder: one trained recipe on disk, enough to plot, compare, ensemble and predict from.

    <root>/<recipe's name>-<identity>/
        recipe.json environment.json history.csv metrics.json predictions.npz model.safetensors
        checkpoints/            while it trains: the two newest
        manifest.json           identity, state, and the sha256 of every file above

The folder's name ends in a digest of its identity: the recipe, the fingerprint of the images and that of the
pretrained weights. Another recipe, other images or other weights are another folder, and a folder whose
manifest says otherwise is refused. Files are written to a temporary name and renamed, the manifest last: what
it does not name was never finished.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pandas as pd
import safetensors.torch
import torch

from cifarlib.recipes import Recipe

# Part of every run's identity: raised when the code gives other results than before (the golden losses move),
# so that runs of the old code are not taken for runs of the new.
RESULTS = 2

_RESULTS = (
    "recipe.json",
    "environment.json",
    "history.csv",
    "metrics.json",
    "predictions.npz",
    "model.safetensors",
)


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
        digest = hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:12]
        self.path = Path(root) / f"{recipe.name}-{digest}"

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder for one writer; a second one waits, and says for whom."""
        self.path.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(self.path / ".lock")
        try:
            lock.acquire(blocking=False)
        except filelock.Timeout:
            print(f"{self.path} is being written by another process; waiting for it to finish", flush=True)
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def manifest(self) -> dict[str, Any]:
        """Read the manifest, {} where there is none.

        Raises:
            RunError: the folder belongs to another recipe, other images or other weights.
        """
        try:
            manifest = json.loads((self.path / "manifest.json").read_text())
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise RunError(
                f"{self.path / 'manifest.json'} is damaged: delete {self.path} to train again"
            ) from error
        if manifest.get("identity") != self.identity:
            raise RunError(
                f"{self.path} holds a run of another recipe, other images or other weights: move it away, or "
                "choose another run_root"
            )
        return manifest

    def finished(self) -> bool:
        """Say whether the run is complete; what it holds is verified when it is loaded."""
        return self.manifest().get("state") == "finished"

    # --- checkpoints ---

    def save_checkpoint(self, epoch: int, save: Callable[[Path], None]) -> None:
        """Keep the state after `epoch` (counted from 1): `save` writes it to the path it is given."""
        manifest = self.manifest()
        files = manifest.get("files", {})
        name = f"checkpoints/epoch{epoch:04d}.pt"
        files[name] = self._write(name, save)
        kept = sorted(name for name in files if name.startswith("checkpoints/"))[-2:]
        files = {name: digest for name, digest in files.items() if name in kept}
        self._write_manifest("interrupted", files)
        for path in (self.path / "checkpoints").iterdir():
            if f"checkpoints/{path.name}" not in kept:
                path.unlink()

    def load_checkpoint(self, load: Callable[[Path], None]) -> None:
        """Call `load` with the newest whole checkpoint, if there is one."""
        files = self.manifest().get("files", {})
        for name in sorted((name for name in files if name.startswith("checkpoints/")), reverse=True):
            path = self.path / name
            if path.is_file() and _sha256(path) == files[name]:
                load(path)
                return
            print(f"{path} is damaged or missing: going back to the one before")

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
            RunError: a file is missing or differs from its checksum.
        """
        files = self.manifest()["files"]
        for name in _RESULTS:
            path = self.path / name
            if not path.is_file() or _sha256(path) != files[name]:
                raise RunError(f"{path} is missing or damaged: delete {self.path} to train this run again")
        with np.load(self.path / "predictions.npz") as archive:
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

    # --- writing ---

    def _write(self, name: str, write: Callable[[Path], Any]) -> str:
        """Write a file under a temporary name, rename it, and return its sha256."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.part")
        try:
            write(temporary)
            digest = _sha256(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        return digest

    def _write_manifest(self, state: str, files: Mapping[str, str]) -> None:
        manifest = {"identity": self.identity, "state": state, "files": dict(files)}
        self._write("manifest.json", lambda path: _write_json(path, manifest))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, allow_nan=False) + "\n")


def _write_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    assert not any(array.dtype.hasobject for array in arrays.values())  # numpy would pickle it
    with path.open("wb") as file:  # given a name, numpy would append .npz to it
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # older numpy has no other arguments


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
