"""One training loop for every level.

The trunk of a model is frozen: it runs as inference, with BatchNorm folded away and in half precision where
the hardware has it. Where its inputs never change (no augmentation) and its outputs fit in memory, they are
computed once and every epoch trains the tail on them: the same mathematics, several times cheaper. Order,
augmentation and dropout of a step derive from (seed, epoch, step) alone, so that a resumed run sees what an
uninterrupted one would have.
"""

from __future__ import annotations

import copy
import ctypes
import functools
import hashlib
import io
import logging
import math
import os
import pickle
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning_fabric
import numpy as np
import pandas as pd
import psutil
import torch
import torch.nn.functional as F
from lightning_fabric.plugins.environments import LightningEnvironment
from torch import Tensor

from cifarlib import data, models, parallel, probe, progress
from cifarlib.data import ImageSet
from cifarlib.recipes import Recipe
from cifarlib.runs import RunFolder

_DTYPES = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it announces the precision at every start
CHECKPOINT_SECONDS = 300.0  # between checkpoints within an epoch; there is one after every epoch anyway
# Images at a time where nothing is trained: a GPU wants many, a CPU no more than its caches and memory like.
_INFERENCE_BATCH = {"cuda": 256, "cpu": 64}
_STATISTICS_BATCH = 256  # BatchNorm's, whose averages depend on it: the same everywhere
_WORTH_TIMING = 60  # steps of training from which it is said beforehand what they will take
_CHECK_EVERY = 50  # steps between looks at the loss: each look waits for the device


class DivergedError(RuntimeError):
    """The loss became NaN or infinite; the message says when and what to try."""


def choose_device() -> torch.device:
    """Return the first CUDA device (of several processes, each its own), else the CPU."""
    return torch.device("cuda", parallel.local_rank()) if torch.cuda.is_available() else torch.device("cpu")


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


@functools.cache
def _keep_freed_memory() -> None:
    """Let glibc keep the large blocks that it is given back, for the next batch.

    By default it returns every block over 32 MiB to the system, which hands it out again page by page, zeroed:
    with the activations of one batch at 224 px that takes longer than the arithmetic of EfficientNet-B0. It
    holds for the whole process; other C libraries have no such call and are left as they are.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # not glibc
        return
    trim_threshold, mmap_threshold = -1, -3  # malloc.h
    if mallopt(mmap_threshold, 1 << 30):  # before 2.35 refused: then the default, which adapts, is better
        mallopt(trim_threshold, (1 << 31) - 1)


def derive_seed(*parts: int | str) -> int:
    """Mix (seed, epoch, step) into one 63-bit seed; neighbouring steps get unrelated ones."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class Features:
    """Trunk features that engines share, so that the same images pass through the same trunk once.

    They are kept by content: by a digest of the trunk and of what it is fed, and by the images' fingerprint. Where
    another trunk begins alike, it goes on from there. What is too large to keep is not kept, and what was used
    longest ago makes room.
    """

    LIMIT = 2**30  # bytes in all; the pooled features of CIFAR-10 take a quarter of it in half precision

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], Tensor] = {}

    def find(self, digests: Sequence[str], images: str) -> tuple[int, Tensor | None]:
        """Return how many parts of a trunk the images have passed through, at most, and the features behind them.

        Args:
            digests: Of the trunk after each of its parts.
            images: Their fingerprint.
        """
        for parts in range(len(digests), 0, -1):
            found = self._kept.pop((digests[parts - 1], images), None)
            if found is not None:
                self._kept[digests[parts - 1], images] = found  # now the last one to go
                return parts, found
        return 0, None

    def keep(self, digest: str, images: str, features: Tensor) -> None:
        """Keep the features behind the part of a trunk that has the digest, if they fit."""
        if features.nbytes > self.LIMIT:
            return
        self._kept[digest, images] = features
        while sum(each.nbytes for each in self._kept.values()) > self.LIMIT:
            del self._kept[next(iter(self._kept))]


class Engine:
    """A model on a device at a precision: it turns stored images into trunk features and logits.

    `shared` holds features for several engines; without it they are computed anew.
    """

    def __init__(
        self,
        model: models.Classifier,
        recipe: Recipe,
        device: torch.device,
        *,
        batch_size: int | None = None,
        shared: Features | None = None,
    ) -> None:
        if device.type == "cpu":
            _keep_freed_memory()
        self.recipe, self.device, self.shared = recipe, device, shared
        self.batch_size = batch_size or _INFERENCE_BATCH[device.type]
        self.precision = choose_precision(recipe, device)
        self._dtype = _DTYPES[self.precision]
        alone = parallel.world() == 1
        local = int(os.environ.get("LOCAL_WORLD_SIZE", parallel.world()))
        self.fabric = lightning_fabric.Fabric(
            accelerator=device.type,
            strategy="auto" if alone else "ddp",
            devices=([device.index or 0] if device.type == "cuda" else 1) if alone else local,
            num_nodes=parallel.world() // local,
            precision=self.precision,  # type: ignore[arg-type]
            # Alone in a SLURM job, it would count the job's tasks and refuse to start.
            plugins=[LightningEnvironment()] if alone else None,
        )
        parallel.join()
        self.fabric.launch()
        self.model = model.to(device)
        # The frozen trunk's running statistics, with every batch; a solved head has no batches.
        self.drifts = recipe.batchnorm == "train" and recipe.optimizer != "lbfgs"
        self.fold()

    def fold(self) -> None:
        """Make the inference copy of the trunk; to be called again when its statistics have changed."""
        self._trunk = models.fold(self.model.trunk, self._dtype)
        self._digests: list[str] = []
        self._like: Tensor | None = None

    @property
    def digests(self) -> list[str]:
        """After each part of the trunk, what engines share that give the same features of the same images."""
        if not self._digests:
            recipe = self.recipe
            fed = (recipe.model.removeprefix("se_"), recipe.image_size, recipe.interpolation, recipe.dilation)
            digest = hashlib.blake2b(repr((fed, self.precision)).encode(), digest_size=16)
            for part, module in self._trunk.named_children():
                digest.update(part.encode())
                for name, value in module.state_dict().items():
                    digest.update(name.encode())
                    digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
                self._digests.append(digest.hexdigest())
        return self._digests

    def inputs(self, images: Tensor, *, augment: bool = False) -> Tensor:
        """Turn stored images uint8 [B, 3, s, s] into the model's inputs [B, 3, S, S], in the trunk's precision.

        With `augment`, crop, flip and jitter are drawn from torch's global random state.
        """
        return data.prepare(data.augment(images, self.recipe) if augment else images, self.recipe, self._dtype)

    @torch.no_grad()
    def features(self, images: Tensor, *, augment: bool = False, training: bool = False) -> Tensor:
        """Run stored images uint8 [B, 3, s, s] through the trunk; returns the tail's inputs [B, ...].

        `training` says that they are a training batch, which counts where `batchnorm="train"`.
        """
        return self.through_trunk(self.inputs(images, augment=augment), training=training)

    @torch.no_grad()
    def through_trunk(self, x: Tensor, *, training: bool = False) -> Tensor:
        """Run the model's inputs [B, 3, S, S] through the trunk; see `features`."""
        if not (training and self.drifts):
            return self._trunk(x)
        norms = models.batchnorms(self.model.trunk)
        for norm in norms:
            norm.train()
        try:
            with self.fabric.autocast():
                return self.model.trunk(x.float())
        finally:
            for norm in norms:
                norm.eval()

    def fits(self, n: int, like: Tensor) -> bool:
        """Say whether the trunk features of `n` images fit in memory, from those of a few [B, ...]."""
        return n * like[0].numel() * like.element_size() <= self._free_memory()

    def like(self, images: Tensor) -> Tensor:
        """Return the trunk features of a few stored images: those of all have their type, layout and size."""
        if self._like is None:
            self._like = self.features(images[:2])
        return self._like

    def cached(self, images: Tensor, what: str, begun: Tensor | None = None, parts: int = 0) -> Tensor:
        """Run all images through the trunk once, or on from what its first parts have made of them: `begun`."""
        first = self.like(images)
        run = self.features if begun is None else torch.no_grad()(self._trunk[parts:])
        layout = torch.channels_last if first.ndim == 4 else torch.contiguous_format
        share = parallel.share(len(images))
        mine = images[share] if begun is None else begun[share]
        out = torch.empty(
            (len(mine), *first.shape[1:]), dtype=first.dtype, device=self.device, memory_format=layout
        )

        def compute(rows: slice) -> None:
            out[rows] = run(mine[rows])

        total = math.ceil(len(mine) / self.batch_size)
        for rows in progress.bar(self._slices(len(mine)), what=what, total=total, unit="batch"):
            self._within_memory(rows, compute)
        return parallel.together(out, len(images))

    def features_of(self, images: ImageSet, what: str) -> Tensor:
        """Return the trunk features of a whole set [N, ...]; an engine with the same trunk may have them."""
        if self.shared is None:
            return self.cached(images.images.to(self.device), what)
        parts, found = self.shared.find(self.digests, images.fingerprint)
        if found is None or parts < len(self.digests):
            found = self.cached(images.images.to(self.device), what, found, parts)
            self.shared.keep(self.digests[-1], images.fingerprint, found)
        return found

    def shared_features(self, images: ImageSet) -> Tensor | None:
        """Return `features_of` a set where they are small enough to be shared, else None."""
        if self.shared is None or self.drifts or not len(self.model.trunk):
            return None
        like = self.like(images.images[:2].to(self.device))
        small = len(images) * like[0].nbytes <= self.shared.LIMIT and self.fits(len(images), like)
        return self.features_of(images, "trunk") if parallel.agree(small) else None

    def _slices(self, n: int) -> Iterator[slice]:
        """Cut `n` images into batches for inference."""
        start = 0
        while start < n:
            rows = slice(start, min(n, start + self.batch_size))
            yield rows
            start = rows.stop

    def _within_memory(self, rows: slice, compute: Callable[[slice], None]) -> None:
        """Call `compute` on rows, in halves where the GPU has no memory for them at once."""
        size = rows.stop - rows.start
        try:
            compute(rows)
            return
        except torch.OutOfMemoryError as error:
            if size == 1:
                raise MemoryError(
                    f"the GPU has no memory for one image of {self.recipe.image_size} px: other processes may "
                    "hold it; free it, or try a smaller image_size"
                ) from error
        # Only here, where the failed attempt's tensors are no longer held by its traceback.
        torch.cuda.empty_cache()
        self.batch_size = min(self.batch_size, size // 2)
        for half in (slice(rows.start, rows.start + size // 2), slice(rows.start + size // 2, rows.stop)):
            self._within_memory(half, compute)

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
        share = parallel.share(len(images))
        mine = self.own_logits(images[share], None if features is None else features[share])
        return parallel.together(mine, len(images))

    @torch.no_grad()
    def own_logits(self, images: Tensor, features: Tensor | None = None) -> Tensor:
        """Return `logits` of images that are all this process's, which shares them with no other."""
        tail = self.model.tail
        was_training = tail.training
        tail.eval()
        out: list[Tensor] = []

        def compute(rows: slice) -> None:
            x = self.features(images[rows].to(self.device)) if features is None else features[rows]
            out.append(tail(x).float())

        with self.fabric.autocast():
            for rows in self._slices(len(images)):
                self._within_memory(rows, compute)
        tail.train(was_training)
        return torch.cat(out)

    def probs(self, images: Tensor, features: Tensor | None = None) -> np.ndarray:
        """Return class probabilities [N, C] float32 of stored images; `features` as for `logits`."""
        return self.logits(images, features).softmax(dim=1).cpu().numpy()


@dataclass
class Progress:
    """How far an epoch has come: steps taken, their losses [steps of the epoch], and how many images were right.

    Of several processes each has its part, and a checkpoint their sum. `seconds` is what it took, in processes
    that were interrupted too.
    """

    steps: int
    losses: Tensor
    correct: Tensor
    seconds: float = 0.0


class Trainer:
    """The tail of an engine's model at work on its training images: batches, steps and epochs.

    Args:
        engine: The model; its tail is trained in place.
        train: Training images, on the engine's device.
        features: The images' trunk features [N, ...], where they are kept; else every batch runs the trunk.
    """

    def __init__(self, engine: Engine, train: ImageSet, features: Tensor | None = None) -> None:
        self.engine, self.recipe, self.train, self.features = engine, engine.recipe, train, features
        tail = engine.model.tail
        if parallel.world() > 1 and engine.device.type == "cuda":
            torch.nn.SyncBatchNorm.convert_sync_batchnorm(tail)  # in place; there is none for the CPU
        build = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[self.recipe.optimizer]
        optimizer = build(
            [p for p in tail.parameters() if p.requires_grad],
            lr=self.recipe.learning_rate,
            weight_decay=self.recipe.weight_decay,
            fused=True,
        )
        self.tail, self.optimizer = engine.fabric.setup(tail, optimizer)
        self.steps = len(_chunks(torch.arange(len(train)), self.recipe.batch_size))

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return the tail's inputs [B, ...] and the labels [B] of this process's share of a batch at `index`."""
        share = parallel.share(len(index))
        y = self.train.labels[index[share]]
        if self.features is not None:
            return self.features[index[share]], y
        images = self.train.images[index]
        if self.recipe.augment:  # all of them, so that what is drawn does not depend on who takes which
            images = data.augment(images, self.recipe)
        return self.engine.features(images[share], training=True), y

    def step(self, x: Tensor, y: Tensor, rate: float, whole: int | None = None) -> tuple[Tensor, Tensor]:
        """Take one step on this process's inputs [B, ...] and labels [B].

        Args:
            x: The tail's inputs.
            y: Their labels.
            rate: The learning rate.
            whole: Images in the shares of all processes; by default as many in each.

        Returns:
            Logits [B, C], and this process's part of the mean loss of all.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        logits = self.tail(x)
        processes = parallel.world()
        if processes == 1:
            loss = F.cross_entropy(logits, y)
        else:  # whose gradients are averaged, and whose shares may differ by one
            loss = F.cross_entropy(logits, y, reduction="sum") * (processes / (whole or len(y) * processes))
        self.engine.fabric.backward(loss)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return logits.detach(), loss.detach() / processes

    def start(self) -> Progress:
        """Return the progress of an epoch that has not begun."""
        losses = torch.zeros(self.steps, device=self.engine.device)
        return Progress(0, losses, torch.zeros((), dtype=torch.int64, device=self.engine.device))

    def epoch(
        self, epoch: int, done: Progress | None = None, keep: Callable[[Progress], None] | None = None
    ) -> tuple[float, float]:
        """Train on every image once, as epoch counted from 0; returns the running loss and accuracy.

        Draws from torch's global random state, which it seeds by (seed, epoch, step).

        Args:
            epoch: Decides the order of the images, augmentation, dropout and the learning rate.
            done: What an interrupted call has done of this epoch; it is brought up to date.
            keep: Called after every step but the last with what is done.

        Raises:
            DivergedError: the loss is not finite.
        """
        recipe, device = self.recipe, self.engine.device
        done = done or self.start()
        started = time.perf_counter() - done.seconds
        self.tail.train()
        order = torch.Generator().manual_seed(derive_seed(recipe.seed, epoch, "order"))
        shuffled = torch.randperm(len(self.train), generator=order).to(device)
        batches = _chunks(shuffled, recipe.batch_size)
        what = f"{recipe.name}, epoch {epoch + 1}/{recipe.epochs}"
        for index in progress.bar(batches[done.steps :], what=what, unit="step"):
            step = done.steps
            torch.manual_seed(derive_seed(recipe.seed, epoch, step))
            x, y = self.batch(index)
            if parallel.rank():  # dropout of its own
                torch.manual_seed(derive_seed(recipe.seed, epoch, step, "process", parallel.rank()))
            rate = learning_rate(recipe, epoch * self.steps + step, recipe.epochs * self.steps)
            logits, done.losses[step] = self.step(x, y, rate, len(index))
            done.correct += (logits.argmax(dim=1) == y).sum()
            done.steps += 1
            if done.steps % _CHECK_EVERY == 0 or done.steps == self.steps:
                _refuse_divergence(done.losses[: done.steps], recipe, epoch)
            done.seconds = time.perf_counter() - started
            if keep is not None and done.steps < self.steps:
                keep(done)
        sizes = torch.tensor([len(index) for index in batches], device=device)
        losses, correct = parallel.total(done.losses), parallel.total(done.correct)
        return ((losses * sizes).sum() / len(self.train)).item(), correct.item() / len(self.train)


@dataclass(frozen=True)
class Pace:
    """Seconds an image, from a few timed batches, of which each of several processes takes its share.

    `forward` is the trunk on stored images, `judge` the tail without training, `step` the tail's training step,
    `resident` trunk and step on one prepared batch, `real` the same on new images, augmented and prepared.
    `stall_ratio` is the speed with new images over that on the resident batch: what is missing to 1 is the time
    that the arithmetic waits for its inputs (timer noise may put it a little above). Not measured, it is NaN.
    """

    forward: float
    judge: float
    step: float
    resident: float
    real: float
    stall_ratio: float


def measure_pace(engine: Engine, train: ImageSet, *, repeats: int | None = None) -> Pace:
    """Time a few batches of a recipe's training on a copy of the tail; neither model nor random state change.

    Steps with new images and steps on a resident batch are taken in turn, A B B A, and medians compared, so that
    a machine that slows down slows both.

    Args:
        engine: What will be trained.
        train: Training images, on the engine's device.
        repeats: Pairs of timed blocks; by default 2 of one step on a CPU, and 4 of 8 steps on a GPU, whose host
            runs ahead of it. 0 leaves `real`, `resident` and `stall_ratio` out.
    """
    device, recipe = engine.device, engine.recipe
    cuda = device.type == "cuda"
    block = 8 if cuda else 1
    count = min(len(train), recipe.batch_size)
    index = torch.arange(count, device=device)
    scaler = engine.fabric.strategy.precision.state_dict()
    trunk, tail = engine.model.trunk, engine.model.tail
    engine.model.tail = copy.deepcopy(tail)
    if engine.drifts:
        engine.model.trunk = copy.deepcopy(trunk)
    try:
        with torch.random.fork_rng(devices=[device] if cuda else []):
            trial = Trainer(engine, train)
            trial.tail.train()
            mine = index[parallel.share(count)]
            resident = engine.inputs(train.images[mine], augment=recipe.augment)
            y = train.labels[mine]

            kept = engine.through_trunk(resident)
            tasks: dict[str, Callable[[], Any]] = {
                "real": lambda: trial.step(*trial.batch(index), 0.0, count),
                "resident": lambda: trial.step(engine.through_trunk(resident, training=True), y, 0.0, count),
                "step": lambda: trial.step(kept, y, 0.0, count),
                "forward": lambda: engine.features(train.images[mine]),
                "judge": lambda: engine.own_logits(train.images[mine], kept),
            }

            def seconds(name: str, times: int = block) -> float:
                if cuda:
                    torch.cuda.synchronize(device)
                started = time.perf_counter()
                for _ in range(times):
                    tasks[name]()
                if cuda:
                    torch.cuda.synchronize(device)
                return (time.perf_counter() - started) / times / count

            for name in ("step", "judge"):  # the first of a kind is slower
                seconds(name)
            pairs = []
            count_pairs = (4 if cuda else 2) if repeats is None else repeats
            if count_pairs:
                seconds("real")
            for number in range(count_pairs):
                first, second = ("real", "resident") if number % 2 == 0 else ("resident", "real")
                pair = {first: seconds(first), second: seconds(second)}
                pairs.append(pair)
            paired = {"real": math.nan, "resident": math.nan, "stall_ratio": math.nan}
            if pairs:
                paired = {name: float(np.median([pair[name] for pair in pairs])) for name in ("real", "resident")}
                paired["stall_ratio"] = float(np.median([pair["resident"] / pair["real"] for pair in pairs]))
            return Pace(**{name: seconds(name) for name in ("forward", "judge", "step")}, **paired)
    finally:
        engine.model.trunk, engine.model.tail = trunk, tail
        engine.fabric.strategy.precision.load_state_dict(scaler)


@dataclass(frozen=True)
class Fitted:
    """What `fit` returns: the history by epoch, and what the training took.

    `train_accuracy` is measured after training in eval mode without augmentation, as a fraction, if it was asked
    for; `val_probs` [N, C] float32 are the trained model's.
    """

    history: pd.DataFrame
    train_accuracy: float | None
    val_probs: np.ndarray
    cost: dict[str, Any]


def fit(
    engine: Engine,
    train: ImageSet,
    val: ImageSet,
    *,
    folder: RunFolder | None = None,
    cache: bool = True,
    judge_train: bool = True,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    say: Callable[[str], None] = print,
) -> Fitted:
    """Train the engine's model by its recipe; the last epoch's weights are the result.

    Args:
        engine: The model; its tail is trained in place, its trunk stays bit-identical (save the statistics of
            its BatchNorm where the recipe lets them drift).
        train: Training images. The test set never comes near this function.
        val: Validation images: they are reported every epoch, and nothing is chosen by them.
        folder: Where checkpoints are kept, after every epoch and within longer ones, and found by a later call.
        cache: Whether trunk features may be computed once and kept (see the module's docstring).
        judge_train: Whether the accuracy on the training images is measured after training.
        checkpoint_seconds: How long an epoch runs between checkpoints within it.
        say: Takes one finished line an epoch (of a long training about 20), and one before a longer training: what
            it will take.

    Raises:
        DivergedError: the loss is not finite.
        MemoryError: the GPU has no memory for a batch; the message says what to try.
        RunError: a checkpoint cannot be written or read.
    """
    try:
        return _fit(engine, train, val, folder, cache, judge_train, checkpoint_seconds, say)
    except RuntimeError as error:  # torch.OutOfMemoryError is one
        if not _is_shortage(error):
            raise
        # What failed would stay in memory as long as the error does, in a notebook until the next one.
        traceback.clear_frames(error.__traceback__)
    if engine.device.type == "cuda":
        torch.cuda.empty_cache()
    raise _no_memory(engine.recipe, engine.device)


def _fit(
    engine: Engine,
    train: ImageSet,
    val: ImageSet,
    folder: RunFolder | None,
    cache: bool,
    judge_train: bool,
    checkpoint_seconds: float,
    say: Callable[[str], None],
) -> Fitted:
    recipe, fabric, device = engine.recipe, engine.fabric, engine.device
    if engine.drifts and parallel.world() > 1:
        raise ValueError("batchnorm='train' is for one process: statistics of several would drift apart")
    if parallel.rank():
        say = _silent
    started = time.perf_counter()
    train, val = train.to(device), val.to(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)

    if recipe.batchnorm == "target":
        chunks = _chunks(torch.arange(len(train), device=device), _STATISTICS_BATCH)
        prepared = (data.prepare(train.images[chunk], recipe) for chunk in chunks)
        models.recalibrate(
            engine.model.trunk, progress.bar(prepared, what="BatchNorm statistics", total=len(chunks))
        )
        engine.fold()

    if recipe.optimizer == "lbfgs":
        return _solve(engine, train, val, say, started)
    trainer = Trainer(engine, train)
    # Of a training that reads kept features the stall ratio stays None: there is no input pipeline to wait for.
    state: dict[str, Any] = {"epoch": 0, "history": [], "stall_ratio": None, "scaler": {}, **vars(trainer.start())}
    state |= {"precision": engine.precision, "cached_train": None, "cached_val": None}
    parts = {"tail": engine.model.tail, "optimizer": trainer.optimizer}
    if engine.drifts:
        parts["trunk"] = engine.model.trunk

    def save(epochs: int, done: Progress) -> None:
        """Keep where the training stands after whole epochs and some steps of the next."""
        state.update({"epoch": epochs, "scaler": fabric.strategy.precision.state_dict()} | vars(done))
        if folder is not None and parallel.rank() == 0:
            content = io.BytesIO()
            torch.save(state | {name: part.state_dict() for name, part in parts.items()}, content)
            folder.save_checkpoint(epochs, done.steps, content.getvalue())

    def keep(done: Progress) -> None:
        if parallel.world() > 1 and done.steps % _CHECK_EVERY:
            return  # to agree on the time takes as long as a small step
        if parallel.agree(done.seconds - state["seconds"] >= checkpoint_seconds):
            _refuse_divergence(done.losses[: done.steps], recipe, state["epoch"])
            losses, correct = parallel.total(done.losses), parallel.total(done.correct)
            save(state["epoch"], replace(done, losses=losses, correct=correct))

    def load(path: Path) -> None:
        kept = _read_checkpoint(path, {*state, *parts})
        try:
            for name, part in parts.items():
                part.load_state_dict(kept.pop(name))
        except RuntimeError as error:
            if _is_shortage(error):
                raise
            raise ValueError("it is of another model") from error
        state.update(kept)
        within = f" and {state['steps']} of {trainer.steps} steps of the next" if state["steps"] else ""
        say(f"{recipe.name}: resumed after epoch {state['epoch']} of {recipe.epochs}{within}")
        if state["precision"].split(", ")[-1] == engine.precision:
            fabric.strategy.precision.load_state_dict(state["scaler"])
        else:  # another machine: the loss scale belongs to the old precision alone
            say(f"{recipe.name}: was trained in {state['precision']} so far, goes on in {engine.precision}")
            state["precision"] += f", from epoch {state['epoch'] + 1} on, {engine.precision}"

    if folder is not None:
        folder.load_checkpoint(load)
        if engine.drifts:
            engine.fold()
    history: list[dict[str, float]] = state["history"]

    state |= _kept_features(engine, train, len(val), cache, state)

    remaining = recipe.epochs - state["epoch"]
    if remaining * trainer.steps >= _WORTH_TIMING:
        pace = measure_pace(engine, train, repeats=0 if state["cached_train"] else None)
        say(f"{recipe.name}: {_forecast(pace, recipe, len(train), len(val), remaining, state, judge_train)}")
        if not state["cached_train"]:
            state["stall_ratio"] = pace.stall_ratio
    val_features = None
    if state["cached_train"]:
        trainer.features = engine.features_of(train, "trunk, training images")
    if state["cached_val"]:
        val_features = engine.features_of(val, "trunk, validation images")
    cache_seconds = time.perf_counter() - started

    val_logits = torch.empty(0)
    done = Progress(**{name: state[name] for name in vars(trainer.start())})
    done.losses, done.correct = done.losses.to(device), done.correct.to(device)
    if parallel.rank():  # the sum that a checkpoint holds counts once
        done.losses, done.correct = torch.zeros_like(done.losses), torch.zeros_like(done.correct)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        for epoch in range(state["epoch"], recipe.epochs):
            train_loss, train_accuracy = trainer.epoch(epoch, done, keep)
            validation_started = time.perf_counter()
            if engine.drifts:
                engine.fold()
            val_logits = engine.logits(val.images, val_features)
            val_loss = F.cross_entropy(val_logits, val.labels).item()
            if not math.isfinite(val_loss):  # the last step's weights, which no training loss has seen
                raise _diverged(recipe, f"the validation loss became {val_loss} after epoch {epoch + 1}")
            val_accuracy = _accuracy(val_logits, val.labels)
            seconds = done.seconds + time.perf_counter() - validation_started
            history.append(
                {
                    "epoch": epoch + 1,
                    "train_loss": train_loss,
                    "train_accuracy": train_accuracy,
                    "val_loss": val_loss,
                    "val_accuracy": val_accuracy,
                    "learning_rate": trainer.optimizer.param_groups[0]["lr"],
                    "seconds": seconds,
                    "images_per_second": len(train) / done.seconds,
                }
            )
            if progress.worth_a_line(epoch + 1, recipe.epochs):
                say(
                    f"{recipe.name} epoch {epoch + 1:2d}/{recipe.epochs}: "
                    f"train loss {train_loss:.4f} accuracy {100 * train_accuracy:.2f} %, "
                    f"val loss {val_loss:.4f} accuracy {100 * val_accuracy:.2f} % ({seconds:.1f} s)"
                )
            # After the last epoch there is less to do than this long, mostly.
            worth_keeping = epoch + 1 < recipe.epochs or done.seconds >= checkpoint_seconds
            done = trainer.start()
            if worth_keeping:
                save(epoch + 1, done)

    engine.model.eval()
    if not len(val_logits):  # interrupted after the last epoch
        val_logits = engine.logits(val.images, val_features)
    judged: float | None = None
    if judge_train:
        features = trainer.features if trainer.features is not None else engine.shared_features(train)
        judged = _accuracy(engine.logits(train.images, features), train.labels)
    cost = _cost(engine, pd.DataFrame(history), cache_seconds)
    cost |= {"stall_ratio": state["stall_ratio"], "cached_features": state["cached_train"]}
    cost |= {"precision": state["precision"]}
    return Fitted(pd.DataFrame(history), judged, val_logits.softmax(dim=1).cpu().numpy(), cost)


def _solve(engine: Engine, train: ImageSet, val: ImageSet, say: Callable[[str], None], started: float) -> Fitted:
    """Solve the head of a frozen trunk to convergence (see `probe`): there are no epochs to tell apart."""
    recipe = engine.recipe
    like = engine.like(train.images).double()  # in which the head is solved
    if not parallel.agree(engine.fits(len(train) + len(val), like)):
        raise MemoryError(
            f"{recipe.name}: the features of {len(train) + len(val):,} images do not fit into memory, and a head "
            f"is solved on all of them at once: lower train_size (it is {len(train)})"
        )
    features = engine.features_of(train, "trunk, training images")
    val_features = engine.features_of(val, "trunk, validation images")
    cache_seconds = time.perf_counter() - started
    found = probe.solve(features, train.labels, val_features, val.labels, len(train.classes), what=recipe.name)
    head = models.head(engine.model)
    with torch.no_grad():
        head.weight.copy_(found.weight)
        head.bias.copy_(found.bias)
    engine.model.eval()
    seconds = time.perf_counter() - started - cache_seconds
    logits, val_logits = engine.logits(train.images, features), engine.logits(val.images, val_features)
    row = {
        "epoch": 1,
        "train_loss": F.cross_entropy(logits, train.labels).item(),
        "train_accuracy": _accuracy(logits, train.labels),
        "val_loss": F.cross_entropy(val_logits, val.labels).item(),
        "val_accuracy": _accuracy(val_logits, val.labels),
        "learning_rate": 0.0,
        "seconds": seconds,
        "images_per_second": len(train) / seconds,
    }
    say(
        f"{recipe.name}: solved, L2 strength {found.strength:.1e} of {len(found.tried)} tried; "
        f"train loss {row['train_loss']:.4f} accuracy {100 * row['train_accuracy']:.2f} %, "
        f"val loss {row['val_loss']:.4f} accuracy {100 * row['val_accuracy']:.2f} % ({seconds:.1f} s)"
    )
    cost = _cost(engine, pd.DataFrame([row]), cache_seconds)
    cost |= {"stall_ratio": None, "cached_features": True, "precision": engine.precision}
    cost |= {"strength": found.strength, "strengths": found.tried}
    return Fitted(pd.DataFrame([row]), row["train_accuracy"], val_logits.softmax(dim=1).cpu().numpy(), cost)


def _cost(engine: Engine, history: pd.DataFrame, cache_seconds: float) -> dict[str, Any]:
    """Return what a training took, as far as its history and the model tell."""
    total, trainable = models.count_parameters(engine.model)
    return {
        "epochs": engine.recipe.epochs,
        "seconds": float(history["seconds"].sum() + cache_seconds),
        "cache_seconds": cache_seconds,
        "seconds_per_epoch": float(history["seconds"].median()),
        "images_per_second": float(history["images_per_second"].median()),
        "peak_memory_bytes": peak_memory(engine.device),
        "parameters": total,
        "trainable_parameters": trainable,
    }


def _kept_features(
    engine: Engine, train: ImageSet, n_val: int, cache: bool, state: dict[str, Any]
) -> dict[str, bool]:
    """Say of which images the trunk's features are kept: `cached_train` and `cached_val`.

    It is decided once in a run's life: batches of another size round differently, and a resumed run is to be the
    same to the last bit. Only what does not fit in a GPU's memory is given up later.
    """
    keep_train, keep_val = state["cached_train"], state["cached_val"]
    if keep_train is None:
        keep_val = cache and len(engine.model.trunk) > 0 and not engine.drifts
        keep_train = keep_val and not engine.recipe.augment
    elif engine.device.type != "cuda":  # else kept by a GPU with more memory, perhaps
        return {"cached_train": keep_train, "cached_val": keep_val}
    if keep_train or keep_val:
        like = engine.like(train.images)
        keep_train = parallel.agree(keep_train and engine.fits(len(train), like))
        rest = n_val + (len(train) if keep_train else 0)
        keep_val = parallel.agree(keep_val and engine.fits(rest, like))
    return {"cached_train": keep_train, "cached_val": keep_val}


def _forecast(
    pace: Pace, recipe: Recipe, n: int, n_val: int, epochs: int, state: dict[str, Any], judge_train: bool = True
) -> str:
    """Say what a training will take, from the seconds an image."""
    kept_val = pace.judge if state["cached_val"] else pace.forward + pace.judge
    once = n_val * pace.forward if state["cached_val"] else 0.0
    if judge_train or state["cached_train"]:  # where nothing is kept, for the accuracy on these images at the end
        once += n * (pace.forward + pace.judge)
    if state["cached_train"]:
        epoch = n * pace.step + n_val * kept_val
        how = "the frozen trunk computed once"
    else:
        epoch = n * pace.real + n_val * kept_val
        how = f"{progress.duration(epoch)} each"
    return f"expected to take {progress.duration(epochs * epoch + once)} ({epochs} epochs, {how})"


def _chunks(index: Tensor, size: int) -> list[Tensor]:
    """Split an order of images into batches; too few for BatchNorm, or for all processes, join the last."""
    chunks = list(index.split(size))
    if len(chunks) > 1 and len(chunks[-1]) < max(2, parallel.world()):
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
    raise _diverged(recipe, f"the loss became {losses[step].item()} at epoch {epoch + 1}, step {step + 1}")


def _diverged(recipe: Recipe, what: str) -> DivergedError:
    return DivergedError(
        f"{recipe.name}: {what}. Try a lower learning_rate (it is {recipe.learning_rate:g}; a third of it is a "
        "start)" + ("" if recipe.precision == "32-true" else ", or precision='32-true'")
    )


def _read_checkpoint(path: Path, names: set[str]) -> dict[str, Any]:
    """Read a checkpoint to the CPU, tensors and plain values alone; ValueError where it is none."""
    try:
        kept = torch.load(path, map_location="cpu", weights_only=True)
    except (
        pickle.UnpicklingError,
        RuntimeError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        EOFError,
    ) as error:
        raise ValueError("torch cannot read it") from error
    if not isinstance(kept, dict) or kept.keys() != names:
        raise ValueError("it holds something else")
    return kept


def _is_shortage(error: RuntimeError) -> bool:
    """Say whether an error means that the GPU's memory does not suffice; CUDA's libraries have their own words."""
    words = ("CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error) for word in words)


def _silent(line: str) -> None:
    """Say nothing: the first process does."""


def _no_memory(recipe: Recipe, device: torch.device) -> MemoryError:
    free, total = torch.cuda.mem_get_info(device) if device.type == "cuda" else (0, 0)
    smaller = f"batch_size={recipe.batch_size // 2}, or a smaller image_size"
    return MemoryError(
        f"{recipe.name}: the GPU has no memory to train on {recipe.batch_size} images of {recipe.image_size} px "
        f"at once ({free / 2**30:.1f} of {total / 2**30:.1f} GiB are free; other processes may hold the rest). "
        f"Try {smaller if recipe.batch_size > 3 else 'a smaller image_size'}"
    )


def _accuracy(logits: Tensor, labels: Tensor) -> float:
    return (logits.argmax(dim=1) == labels).sum().item() / len(labels)


def peak_memory(device: torch.device) -> int:
    """Peak memory in bytes: what torch took of a GPU, or the whole process's on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    import resource  # POSIX only

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS, KiB elsewhere
    return peak if sys.platform == "darwin" else peak * 1024
