"""One training loop for every level.

The trunk of a model is frozen: it runs as inference, with BatchNorm folded away and in half precision where
the hardware has it. Where its inputs never change (no augmentation) and its outputs fit in memory, they are
computed once and every epoch trains the tail on them: the same mathematics, several times cheaper. Order,
augmentation and dropout of a step derive from (seed, epoch, step) alone, so that a resumed run sees what an
uninterrupted one would have.
"""

from __future__ import annotations

import hashlib
import logging
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning_fabric
import numpy as np
import pandas as pd
import psutil
import torch
import torch.nn.functional as F
from torch import Tensor

from cifarlib import data, models, progress
from cifarlib.data import ImageSet
from cifarlib.recipes import Recipe
from cifarlib.runs import RunFolder

_DTYPES = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it announces the precision at every start
_CHECK_EVERY = 50  # steps between looks at the loss: each look waits for the device


class DivergedError(RuntimeError):
    """The loss became NaN or infinite; the message says when and what to try."""


def choose_device() -> torch.device:
    """Return the first CUDA device, else the CPU."""
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def choose_precision(recipe: Recipe, device: torch.device) -> str:
    """Resolve `precision="auto"`: bf16 where it is native, fp16 with a scaler on older GPUs, else fp32.

    Emulated bf16 counts as missing (`is_bf16_supported` alone says yes on a T4). On CPUs with bf16 units only
    the ResNets gain: EfficientNet's and ConvNeXt's depthwise convolutions train slower in bf16 than in fp32.
    """
    if recipe.precision == "16-mixed" and device.type == "cpu":
        raise ValueError("precision='16-mixed' needs a GPU: use 'auto', 'bf16-mixed' or '32-true' on a CPU")
    if recipe.precision != "auto":
        return recipe.precision
    if device.type == "cuda":
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    units = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    native = any(getattr(torch.cpu, unit, lambda: False)() for unit in units)
    return "bf16-mixed" if native and recipe.model in models.RESNETS else "32-true"


def derive_seed(*parts: int | str) -> int:
    """Mix (seed, epoch, step) into one 63-bit seed; neighbouring steps get unrelated ones."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class Engine:
    """A model on a device at a precision: it turns stored images into trunk features and logits."""

    def __init__(
        self, model: models.Classifier, recipe: Recipe, device: torch.device, *, batch_size: int = 256
    ) -> None:
        self.recipe, self.device, self.batch_size = recipe, device, batch_size
        self.precision = choose_precision(recipe, device)
        self.fabric = lightning_fabric.Fabric(
            accelerator=device.type,
            devices=[device.index or 0] if device.type == "cuda" else 1,
            precision=self.precision,  # type: ignore[arg-type]
        )
        self.model = model.to(device)
        self.fold()

    def fold(self) -> None:
        """Make the inference copy of the trunk; to be called again when the trunk's statistics change."""
        self._trunk = models.fold(self.model.trunk, _DTYPES[self.precision])

    @torch.no_grad()
    def features(self, images: Tensor, *, augment: bool = False) -> Tensor:
        """Run stored images uint8 [B, 3, s, s] through the trunk; returns the tail's inputs [B, ...].

        With `augment`, crop, flip and jitter are drawn from torch's global random state.
        """
        x = data.prepare(data.augment(images, self.recipe) if augment else images, self.recipe)
        return self._trunk(x.to(_DTYPES[self.precision])) if len(self.model.trunk) else x

    def cached(self, images: Tensor, what: str, *, force: bool = False) -> Tensor | None:
        """Run all images through the trunk once; None where the result would not fit in memory, unless forced."""
        first = self.features(images[:2])
        size = first[0].numel() * first.element_size() * len(images)
        if not force and size > self._free_memory():
            return None
        layout = torch.channels_last if first.ndim == 4 else torch.contiguous_format
        out = torch.empty(
            (len(images), *first.shape[1:]), dtype=first.dtype, device=self.device, memory_format=layout
        )
        starts = range(0, len(images), self.batch_size)
        for start in progress.bar(starts, what=what, unit="batch"):
            out[start : start + self.batch_size] = self.features(images[start : start + self.batch_size])
        return out

    def _free_memory(self) -> int:
        """What a cache may take, in bytes: half of a GPU's free memory, a quarter of the host's."""
        if self.device.type == "cuda":
            reserved = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
            return (torch.cuda.mem_get_info(self.device)[0] + reserved) // 2
        return psutil.virtual_memory().available // 4

    @torch.no_grad()
    def logits(self, images: Tensor, features: Tensor | None = None) -> Tensor:
        """Return fp32 logits [N, C] of stored images, in eval mode, on the engine's device.

        `features` are the images' trunk features, where they have been computed before.
        """
        tail = self.model.tail
        was_training = tail.training
        tail.eval()
        out = []
        with self.fabric.autocast():
            for start in range(0, len(images), self.batch_size):
                rows = slice(start, start + self.batch_size)
                x = self.features(images[rows].to(self.device)) if features is None else features[rows]
                out.append(tail(x).float())
        tail.train(was_training)
        return torch.cat(out)

    def probs(self, images: Tensor) -> np.ndarray:
        """Return class probabilities [N, C] float32 of stored images."""
        return self.logits(images).softmax(dim=1).cpu().numpy()


@dataclass(frozen=True)
class Fitted:
    """What `fit` returns: the history by epoch, and what the training took.

    `train_accuracy` is measured after training in eval mode without augmentation, as a fraction.
    """

    history: pd.DataFrame
    train_accuracy: float
    cost: dict[str, Any]


def fit(
    engine: Engine,
    train: ImageSet,
    val: ImageSet,
    *,
    folder: RunFolder | None = None,
    cache: bool = True,
    say: Callable[[str], None] = print,
) -> Fitted:
    """Train the engine's model by its recipe; the last epoch's weights are the result.

    Args:
        engine: The model; its tail is trained in place, its trunk stays bit-identical.
        train: Training images. The test set never comes near this function.
        val: Validation images: they are reported every epoch, and nothing is chosen by them.
        folder: Where a checkpoint is kept after every epoch, and found again by a later call.
        cache: Whether trunk features may be computed once and kept (see the module's docstring).
        say: Takes one finished line an epoch.

    Raises:
        DivergedError: the loss is not finite.
    """
    recipe, fabric, device = engine.recipe, engine.fabric, engine.device
    started = time.perf_counter()
    train, val = train.to(device), val.to(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)

    if recipe.batchnorm == "target":
        chunks = _chunks(torch.arange(len(train), device=device), engine.batch_size)
        prepared = (data.prepare(train.images[chunk], recipe) for chunk in chunks)
        models.recalibrate(
            engine.model.trunk, progress.bar(prepared, what="BatchNorm statistics", total=len(chunks))
        )
        engine.fold()

    parameters = [p for p in engine.model.tail.parameters() if p.requires_grad]
    build = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[recipe.optimizer]
    optimizer = build(parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)
    tail, optimizer = fabric.setup(engine.model.tail, optimizer)

    state: dict[str, Any] = {"tail": tail, "optimizer": optimizer, "epoch": 0, "history": []}
    state |= {"precision": engine.precision, "scaler": {}, "cached_train": None, "cached_val": None}

    def save(path: Path) -> None:
        fabric.save(path, state)

    def load(path: Path) -> None:
        fabric.load(path, state, weights_only=True)
        say(f"{recipe.name}: resumed after epoch {state['epoch']} of {recipe.epochs}")
        if state["precision"].split(", ")[-1] == engine.precision:
            fabric.strategy.precision.load_state_dict(state["scaler"])
        else:  # another machine: the loss scale belongs to the old precision alone
            say(f"{recipe.name}: was trained in {state['precision']} so far, goes on in {engine.precision}")
            state["precision"] += f", from epoch {state['epoch'] + 1} on, {engine.precision}"

    if folder is not None:
        folder.load_checkpoint(load)
    history: list[dict[str, float]] = state["history"]

    # Whether features are kept is decided once in a run's life: batches of another size round differently, and
    # a resumed run is to be the same to the last bit.
    train_features = val_features = None
    resumed = state["epoch"] > 0
    if cache and len(engine.model.trunk):
        if not recipe.augment and state["cached_train"] is not False:
            train_features = engine.cached(train.images, "trunk, training images", force=resumed)
        if state["cached_val"] is not False:
            val_features = engine.cached(val.images, "trunk, validation images", force=resumed)
    state |= {"cached_train": train_features is not None, "cached_val": val_features is not None}
    cache_seconds = time.perf_counter() - started

    steps = len(_chunks(torch.arange(len(train)), recipe.batch_size))
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        for epoch in range(state["epoch"], recipe.epochs):
            epoch_started = time.perf_counter()
            tail.train()
            order = torch.Generator().manual_seed(derive_seed(recipe.seed, epoch, "order"))
            shuffled = torch.randperm(len(train), generator=order).to(device)
            batches = _chunks(shuffled, recipe.batch_size)
            losses = torch.zeros(steps, device=device)
            correct = torch.zeros((), dtype=torch.int64, device=device)
            what = f"{recipe.name}, epoch {epoch + 1}/{recipe.epochs}"
            for step, index in enumerate(progress.bar(batches, what=what, unit="step")):
                torch.manual_seed(derive_seed(recipe.seed, epoch, step))
                if train_features is None:
                    x = engine.features(train.images[index], augment=recipe.augment)
                else:
                    x = train_features[index]
                y = train.labels[index]
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(recipe, epoch * steps + step, recipe.epochs * steps)
                logits = tail(x)
                loss = F.cross_entropy(logits, y)
                fabric.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
                losses[step] = loss.detach()
                correct += (logits.detach().argmax(dim=1) == y).sum()
                if step % _CHECK_EVERY == _CHECK_EVERY - 1 or step == steps - 1:
                    _refuse_divergence(losses[: step + 1], recipe, epoch)
            sizes = torch.tensor([len(index) for index in batches], device=device)
            train_loss = ((losses * sizes).sum() / len(train)).item()
            train_accuracy = correct.item() / len(train)
            train_seconds = time.perf_counter() - epoch_started
            val_logits = engine.logits(val.images, val_features)
            val_loss = F.cross_entropy(val_logits, val.labels).item()
            val_accuracy = _accuracy(val_logits, val.labels)
            seconds = time.perf_counter() - epoch_started
            history.append(
                {
                    "epoch": epoch + 1,
                    "train_loss": train_loss,
                    "train_accuracy": train_accuracy,
                    "val_loss": val_loss,
                    "val_accuracy": val_accuracy,
                    "learning_rate": optimizer.param_groups[0]["lr"],
                    "seconds": seconds,
                    "images_per_second": len(train) / train_seconds,
                }
            )
            say(
                f"{recipe.name} epoch {epoch + 1:2d}/{recipe.epochs}: "
                f"train loss {train_loss:.4f} accuracy {100 * train_accuracy:.2f} %, "
                f"val loss {val_loss:.4f} accuracy {100 * val_accuracy:.2f} % ({seconds:.1f} s)"
            )
            if folder is not None and epoch + 1 < recipe.epochs:
                state |= {"epoch": epoch + 1, "scaler": fabric.strategy.precision.state_dict()}
                folder.save_checkpoint(epoch + 1, save)

    engine.model.eval()
    train_accuracy = _accuracy(engine.logits(train.images, train_features), train.labels)
    frame = pd.DataFrame(history)
    total, trainable = models.count_parameters(engine.model)
    cost = {
        "epochs": recipe.epochs,
        "seconds": float(frame["seconds"].sum() + cache_seconds),
        "cache_seconds": cache_seconds,
        "images_per_second": float(frame["images_per_second"].median()),
        "cached_features": train_features is not None,
        "precision": state["precision"],
        "peak_memory_bytes": _peak_memory(device),
        "parameters": total,
        "trainable_parameters": trainable,
    }
    return Fitted(frame, train_accuracy, cost)


def _chunks(index: Tensor, size: int) -> list[Tensor]:
    """Split an order of images into batches; a single one left over, too few for BatchNorm, joins the last."""
    chunks = list(index.split(size))
    if len(chunks) > 1 and len(chunks[-1]) == 1:
        chunks[-2:] = [torch.cat(chunks[-2:])]
    return chunks


def learning_rate(recipe: Recipe, step: int, total: int) -> float:
    """Return the rate of a step counted from 0: constant, or a cosine from the recipe's rate down to 0.

    The cosine is taken step by step (Loshchilov and Hutter 2017, arXiv 1608.03983, without restarts).
    """
    if recipe.schedule == "constant":
        return recipe.learning_rate
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * step / total))


def _refuse_divergence(losses: Tensor, recipe: Recipe, epoch: int) -> None:
    finite = losses.isfinite()
    if bool(finite.all()):
        return
    step = int(finite.int().argmin())
    raise DivergedError(
        f"{recipe.name}: the loss became {losses[step].item()} at epoch {epoch + 1}, step {step + 1}. Try a lower "
        f"learning_rate (it is {recipe.learning_rate:g}; a third of it is a start)"
        + ("" if recipe.precision == "32-true" else ", or precision='32-true'")
    )


def _accuracy(logits: Tensor, labels: Tensor) -> float:
    return (logits.argmax(dim=1) == labels).sum().item() / len(labels)


def _peak_memory(device: torch.device) -> int:
    """Peak memory in bytes: what torch took of a GPU, or the whole process's on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    import resource  # POSIX only

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS, KiB elsewhere
    return peak if sys.platform == "darwin" else peak * 1024
