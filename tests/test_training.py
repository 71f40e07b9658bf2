"""The training loop: exactness of its short cuts, resumption, golden losses, refusals."""

from __future__ import annotations

import functools
import platform
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cifarlib import data, models, probe, progress, recipes, training
from cifarlib.data import ImageSet
from cifarlib.recipes import Recipe
from cifarlib.runs import RunFolder

CPU = torch.device("cpu")
TINY = {"weights": "none", "image_size": 32, "batch_size": 16, "epochs": 2, "precision": "32-true"}
LEVEL1 = replace(recipes.LEVEL1, **TINY)
LEVEL2 = replace(recipes.LEVEL2, **TINY)
Uninterrupted = Callable[[Recipe], tuple[training.Fitted, models.Classifier]]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def images() -> tuple[ImageSet, ImageSet]:
    split = data.load(
        replace(recipes.DEMO, store_size=32, train_size=48, val_size=20, test_size=10), image_size=32
    )
    return split.train, split.val


def train(
    recipe: Recipe, images: tuple[ImageSet, ImageSet], batch_size: int = 256, **options: object
) -> tuple[training.Fitted, models.Classifier]:
    model = models.build(recipe, 10)
    engine = training.Engine(model, recipe, CPU, batch_size=batch_size)
    fitted = training.fit(engine, *images, say=lambda line: None, **options)  # type: ignore[arg-type]
    return fitted, model


def assert_same_state(a: models.Classifier, b: models.Classifier) -> None:
    state = b.state_dict()
    assert a.state_dict().keys() == state.keys()
    for name, value in a.state_dict().items():
        assert torch.equal(value, state[name]), name


# Ten losses of level 2 on 16 images of noise, one step an epoch, in fp32 on one thread. They hold the order of
# images, augmentation, normalisation, model, initial values, optimiser and schedule together: a change that
# moves them is a change of every result, and is to be made on purpose. The learning rate is a small one: at level
# 2's own, random weights jump so far in a step that the rounding of one processor's kernels and another's, 1e-7
# at first, is 2e-2 by the tenth step. At this one, kernels for SSE and for AVX2 stay within 3e-4 of each other,
# and a rate a tenth higher moves most losses by 5e-4 to 4e-3.
GOLDEN_RATE, ROUNDING = 1e-5, 5e-4
GOLDEN = (2.69054, 2.52108, 2.61703, 2.4682, 2.6182, 2.85675, 2.65819, 2.55577, 2.67996, 2.59439)


def golden_losses(learning_rate: float) -> np.ndarray:
    pixels = np.random.default_rng(0).integers(256, size=(16, 3, 32, 32), dtype=np.uint8)
    noise = ImageSet.of(pixels, np.arange(16) % 10, tuple("abcdefghij"), "synthetic")
    fitted, _ = train(replace(LEVEL2, epochs=10, learning_rate=learning_rate), (noise, noise))
    return fitted.history["train_loss"].to_numpy()


def test_golden_losses() -> None:
    np.testing.assert_allclose(golden_losses(GOLDEN_RATE), GOLDEN, rtol=ROUNDING)


def test_another_learning_rate_breaks_the_golden_losses() -> None:
    others = golden_losses(1.1 * GOLDEN_RATE)
    assert others[0] == pytest.approx(GOLDEN[0], rel=ROUNDING)  # the first step has not moved yet
    assert (np.abs(others / np.array(GOLDEN) - 1) > ROUNDING).sum() >= 6


def test_frozen_stays_bit_identical_and_the_tail_learns(images: tuple[ImageSet, ImageSet]) -> None:
    before = models.build(LEVEL2, 10)
    _, after = train(LEVEL2, images)
    for name, value in before.trunk.state_dict().items():
        assert torch.equal(value, after.trunk.state_dict()[name]), name
    changed = [
        not torch.equal(value, after.tail.state_dict()[name]) for name, value in before.tail.state_dict().items()
    ]
    assert all(changed)


@pytest.mark.parametrize("trainable", ["head", "layer4"])
def test_cached_trunk_features_change_nothing(images: tuple[ImageSet, ImageSet], trainable: str) -> None:
    """At equal batching the cache is exact: same history, same weights, bit for bit."""
    recipe = replace(LEVEL2, trainable=trainable, augment=False)
    val = images[1].take(torch.arange(16))
    cached, a = train(recipe, (images[0], val), batch_size=16, cache=True)
    uncached, b = train(recipe, (images[0], val), batch_size=16, cache=False)
    assert cached.cost["cached_features"] and not uncached.cost["cached_features"]
    columns = ["train_loss", "train_accuracy", "val_loss", "val_accuracy", "learning_rate"]
    assert cached.history[columns].equals(uncached.history[columns])
    assert cached.train_accuracy == uncached.train_accuracy
    assert_same_state(a, b)


def test_augmented_images_are_never_cached(images: tuple[ImageSet, ImageSet]) -> None:
    fitted, _ = train(replace(LEVEL2, epochs=1), images)
    assert not fitted.cost["cached_features"]


def test_the_cache_is_refused_where_memory_is_short(
    images: tuple[ImageSet, ImageSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    need = (len(images[0]) + len(images[1])) * 2048 * 4
    for free, kept in ((need, True), (need - 1, False)):
        monkeypatch.setattr(training.Engine, "_free_memory", lambda engine, free=free: free)
        fitted, _ = train(replace(LEVEL1, epochs=1), images)
        assert fitted.cost["cached_features"]  # the training images alone fit in both cases
        engine = training.Engine(models.build(LEVEL1, 10), LEVEL1, CPU)
        assert engine.fits(len(images[0]) + len(images[1]), engine.features(images[0].images[:2])) is kept
    monkeypatch.setattr(training.Engine, "_free_memory", lambda engine: len(images[0]) * 2048 * 4 - 1)
    fitted, _ = train(replace(LEVEL1, epochs=1), images)
    assert not fitted.cost["cached_features"]


@pytest.mark.parametrize(
    ("kept", "free", "expected"),
    [
        ((True, True), 68, (True, True)),
        ((True, True), 67, (True, False)),
        ((True, True), 47, (False, True)),
        ((True, False), 48, (True, False)),  # what was not kept is not begun
        ((True, False), 47, (False, False)),
        ((False, True), 20, (False, True)),
        ((False, True), 19, (False, False)),
        ((False, False), 99, (False, False)),
    ],
)
def test_a_smaller_gpu_gives_up_what_does_not_fit_it(
    images: tuple[ImageSet, ImageSet], kept: tuple[bool, bool], free: int, expected: tuple[bool, bool]
) -> None:
    """Free memory is counted in images' features here; on a CPU a resumed run goes on as it was."""
    engine = training.Engine(models.build(LEVEL1, 10), LEVEL1, CPU)
    engine._free_memory = lambda: free * 2048 * 4  # type: ignore[method-assign]
    state = dict(zip(("cached_train", "cached_val"), kept, strict=True))
    for device, wanted in ((CPU, kept), (torch.device("cuda"), expected)):
        engine.device = device
        found = training._kept_features(engine, images[0], len(images[1]), True, state)
        assert (found["cached_train"], found["cached_val"]) == wanted


def test_a_process_alone_in_a_job_of_several_tasks_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a notebook or a script runs in a SLURM job without srun."""
    monkeypatch.setenv("SLURM_JOB_NAME", "train")
    monkeypatch.setenv("SLURM_NTASKS", "4")
    engine = training.Engine(models.build(LEVEL1, 10), LEVEL1, CPU)
    assert engine.fabric.world_size == 1


def test_features_logits_and_probs_agree_with_the_plain_model(images: tuple[ImageSet, ImageSet]) -> None:
    """The folded trunk and the batching of the engine give what the model itself gives."""
    model = models.build(LEVEL2, 10).eval()
    engine = training.Engine(model, LEVEL2, CPU, batch_size=7)
    with torch.no_grad():
        expected = model(data.prepare(images[0].images, LEVEL2))
    logits = engine.logits(images[0].images)
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(engine.probs(images[0].images), expected.softmax(1).numpy(), atol=1e-4)
    features = engine.features(images[0].images)
    torch.testing.assert_close(engine.logits(images[0].images, features), logits, rtol=1e-4, atol=1e-5)


def test_the_loss_of_an_epoch_is_the_mean_over_images(images: tuple[ImageSet, ImageSet]) -> None:
    """With a vanishing rate the running loss is the initial model's over all images: the short last batch
    counts by its size, and a last batch of one image is not dropped."""
    recipe = replace(LEVEL1, learning_rate=1e-30, epochs=1, batch_size=8)
    few = images[0].take(torch.arange(17))
    fitted, model = train(recipe, (few, images[1]))
    with torch.no_grad():
        logits = model.eval()(data.prepare(few.images, recipe))
    assert fitted.history["train_loss"][0] == pytest.approx(F.cross_entropy(logits, few.labels).item(), rel=1e-4)
    assert fitted.history["train_accuracy"][0] == (logits.argmax(1) == few.labels).sum().item() / 17


def test_batchnorm_trains_on_a_set_that_leaves_one_image_over(images: tuple[ImageSet, ImageSet]) -> None:
    few = images[0].take(torch.arange(17))
    fitted, model = train(replace(LEVEL2, epochs=1), (few, images[1]))
    assert np.isfinite(fitted.history["train_loss"]).all()
    assert model.tail.layer4[0].bn1.num_batches_tracked == 1  # the seventeenth joined the sixteen


def test_cosine_agrees_with_torch(images: tuple[ImageSet, ImageSet]) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=3e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=30)
    for step in range(30):
        rate = training.learning_rate(LEVEL2, step, 30)
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        schedule.step()
    assert training.learning_rate(LEVEL1, 29, 30) == 1e-3


def test_batchnorm_target_takes_the_statistics_of_the_training_images(
    images: tuple[ImageSet, ImageSet],
) -> None:
    recipe = replace(LEVEL1, batchnorm="target", epochs=1)
    _, model = train(recipe, images)
    with torch.no_grad():
        maps = model.trunk.conv1(data.prepare(images[0].images, recipe))
    torch.testing.assert_close(model.trunk.bn1.running_mean, maps.mean(dim=(0, 2, 3)), rtol=1e-3, atol=1e-5)


def test_batchnorm_left_in_training_mode_drifts_and_nothing_else_does(images: tuple[ImageSet, ImageSet]) -> None:
    """As in a script that freezes the parameters and calls `train()`: written out here with plain torch."""
    recipe = replace(LEVEL1, batchnorm="train", epochs=1)
    start = models.build(recipe, 10)
    before = {name: value.clone() for name, value in start.state_dict().items()}
    fitted, model = train(recipe, images)
    assert fitted.cost["cached_features"] is False
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert {name.rpartition(".")[2] for name in moved if name.startswith("trunk.")} == {
        "running_mean",
        "running_var",
        "num_batches_tracked",
    }
    assert {name for name in moved if name.startswith("tail.")} == {"tail.fc.weight", "tail.fc.bias"}
    assert not any(module.training for module in model.trunk.modules())

    net = torch.nn.Sequential(start.trunk, start.tail)
    optimizer = torch.optim.Adam(start.tail.parameters(), lr=recipe.learning_rate)
    order = torch.Generator().manual_seed(training.derive_seed(recipe.seed, 0, "order"))
    losses = []
    for index in torch.randperm(len(images[0]), generator=order).split(recipe.batch_size):
        for norm in models.batchnorms(start.trunk):
            norm.train()
        loss = F.cross_entropy(net(data.prepare(images[0].images[index], recipe)), images[0].labels[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert fitted.history["train_loss"][0] == pytest.approx(np.mean(losses), rel=1e-5)
    for name, value in start.trunk.state_dict().items():
        torch.testing.assert_close(model.trunk.state_dict()[name], value, rtol=1e-4, atol=1e-6)
    # Validation sees the averages as they are after the epoch.
    for norm in models.batchnorms(start.trunk):
        norm.eval()
    with torch.no_grad():
        probs = net(data.prepare(images[1].images, recipe)).softmax(dim=1).numpy()
    np.testing.assert_allclose(fitted.val_probs, probs, atol=1e-4)


def test_the_callers_random_state_is_left_alone(images: tuple[ImageSet, ImageSet]) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    train(replace(LEVEL2, epochs=1), images)
    assert torch.equal(torch.rand(3), expected)


def test_seed_decides(images: tuple[ImageSet, ImageSet]) -> None:
    few = (images[0].take(torch.arange(32)), images[1])
    first, a = train(replace(LEVEL2, epochs=1), few)
    again, b = train(replace(LEVEL2, epochs=1), few)
    other, _ = train(replace(LEVEL2, epochs=1, seed=1), few)
    assert first.history["train_loss"][0] == again.history["train_loss"][0]
    assert_same_state(a, b)
    assert first.history["train_loss"][0] != other.history["train_loss"][0]


def test_divergence_is_stopped_and_named(images: tuple[ImageSet, ImageSet]) -> None:
    recipe = replace(LEVEL1, learning_rate=1e38, optimizer="adamw")
    with pytest.raises(training.DivergedError, match=r"became (nan|inf) at epoch 1, step [23].*learning_rate"):
        train(recipe, images)


def test_weights_that_the_last_step_ruined_are_named(images: tuple[ImageSet, ImageSet]) -> None:
    """No training loss has seen them: only the validation loss does."""
    recipe = replace(LEVEL1, epochs=1)
    engine = training.Engine(models.build(recipe, 10), recipe, CPU)

    class Ruined(training.Trainer):
        def epoch(self, *args: Any, **kwargs: Any) -> tuple[float, float]:
            found = super().epoch(*args, **kwargs)
            torch.nn.init.constant_(engine.model.tail[-1].weight, float("nan"))
            return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "Trainer", Ruined)
        with pytest.raises(
            training.DivergedError, match=r"validation loss became nan after epoch 1.*lower learning"
        ):
            training.fit(engine, *images, say=lambda line: None)


def test_precision_follows_the_hardware_and_the_model() -> None:
    assert training.choose_precision(replace(LEVEL1, precision="bf16-mixed"), CPU) == "bf16-mixed"
    with pytest.raises(ValueError, match="needs a GPU"):
        training.choose_precision(replace(LEVEL1, precision="16-mixed"), CPU)
    assert training.choose_precision(recipes.EFFICIENTNET, CPU) == "32-true"
    assert training.choose_precision(recipes.LEVEL2, CPU) in ("32-true", "bf16-mixed")


def test_bf16_changes_rounding_only(images: tuple[ImageSet, ImageSet]) -> None:
    model = models.build(LEVEL2, 10)
    fp32 = training.Engine(model, LEVEL2, CPU).logits(images[0].images)
    bf16 = training.Engine(model, replace(LEVEL2, precision="bf16-mixed"), CPU).logits(images[0].images)
    # bf16 keeps 8 bits, half a per cent at worst in one rounding; the errors of fifty layers average out.
    assert 0 < (fp32 - bf16).std() / fp32.std() < 0.01


@pytest.fixture(scope="module")
def uninterrupted(images: tuple[ImageSet, ImageSet]) -> Uninterrupted:
    """Train by a recipe, once for all tests that compare with it."""
    return functools.cache(lambda recipe: train(recipe, images))


@pytest.mark.parametrize(
    "changes",
    [
        {"augment": False},  # resumed on cached features
        {"augment": False, "batchnorm": "target", "trainable": "head"},
        {"augment": False, "batchnorm": "train", "trainable": "head"},
    ],
    ids=lambda changes: "-".join(map(str, changes.values())),
)
def test_resumed_equals_uninterrupted(
    images: tuple[ImageSet, ImageSet], uninterrupted: Uninterrupted, tmp_path: Path, changes: dict[str, object]
) -> None:
    recipe = replace(LEVEL2, epochs=3, **changes)  # type: ignore[arg-type]
    expected, whole = uninterrupted(recipe)
    folder = RunFolder(tmp_path, recipe, data="d", weights="none", classes=images[0].classes)

    def stop(line: str) -> None:
        if "epoch  3/3" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        training.fit(training.Engine(models.build(recipe, 10), recipe, CPU), *images, folder=folder, say=stop)
    # What fits in memory when a run is resumed does not change how it goes on.
    engine = training.Engine(models.build(recipe, 10), recipe, CPU)
    engine._free_memory = lambda: 0  # type: ignore[method-assign]
    resumed = training.fit(engine, *images, folder=folder, say=lambda line: None)
    assert resumed.history["train_loss"].equals(expected.history["train_loss"])
    assert resumed.history["val_loss"].equals(expected.history["val_loss"])
    assert resumed.train_accuracy == expected.train_accuracy
    assert_same_state(engine.model, whole)


class Stopped(RunFolder):
    """A run folder whose process ends right after one of the checkpoints."""

    def __init__(self, *args: Any, at: tuple[int, int], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.at = at

    def save_checkpoint(self, epochs: int, steps: int, content: bytes) -> None:
        super().save_checkpoint(epochs, steps, content)
        if (epochs, steps) == self.at:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("at", "changes"),
    [
        ((1, 2), {}),
        ((1, 1), {"augment": False}),
        ((0, 1), {"trainable": "head"}),  # whose checkpoints are small
        pytest.param((0, 1), {}, marks=pytest.mark.slow),
        pytest.param((2, 0), {}, marks=pytest.mark.slow),
        pytest.param((2, 0), {"augment": False}, marks=pytest.mark.slow),
        pytest.param((0, 2), {"precision": "bf16-mixed"}, marks=pytest.mark.slow),
        pytest.param(
            (1, 2), {"augment": False, "batchnorm": "train", "trainable": "head"}, marks=pytest.mark.slow
        ),
        ((0, 2), {"precision": "bf16-mixed", "trainable": "head"}),
    ],
)
def test_resumed_within_an_epoch_equals_uninterrupted(
    images: tuple[ImageSet, ImageSet],
    uninterrupted: Uninterrupted,
    tmp_path: Path,
    at: tuple[int, int],
    changes: dict[str, object],
) -> None:
    recipe = replace(LEVEL2, epochs=2, **changes)  # type: ignore[arg-type]
    expected, whole = uninterrupted(recipe)
    about: dict[str, Any] = {"data": "d", "weights": "none", "classes": images[0].classes}

    def fit(folder: RunFolder, lines: list[str], **options: Any) -> tuple[training.Fitted, models.Classifier]:
        model = models.build(recipe, 10)
        engine = training.Engine(model, recipe, CPU)
        return training.fit(engine, *images, folder=folder, say=lines.append, **options), model

    with pytest.raises(KeyboardInterrupt):
        fit(Stopped(tmp_path, recipe, at=at, **about), [], checkpoint_seconds=0)
    lines: list[str] = []
    resumed, model = fit(RunFolder(tmp_path, recipe, **about), lines)
    within = f" and {at[1]} of 3 steps of the next" if at[1] else ""
    assert lines[0] == f"level2: resumed after epoch {at[0]} of 2{within}"
    columns = ["epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "learning_rate"]
    assert resumed.history[columns].equals(expected.history[columns])
    assert resumed.train_accuracy == expected.train_accuracy
    np.testing.assert_array_equal(resumed.val_probs, expected.val_probs)
    assert_same_state(model, whole)


def test_a_checkpoint_within_an_epoch_waits_its_time(images: tuple[ImageSet, ImageSet], tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, LEVEL2, data="d", weights="none", classes=images[0].classes)
    engine = training.Engine(models.build(LEVEL2, 10), LEVEL2, CPU)
    training.fit(engine, *images, folder=folder, say=lambda line: None)
    kept = [path.name for path in (folder.path / "checkpoints").iterdir()]
    assert all(name.endswith("-000000.pt") for name in kept)


class Hungry(torch.nn.Module):
    """A trunk that has memory for so many images at a time."""

    def __init__(self, trunk: torch.nn.Module, most: int) -> None:
        super().__init__()
        self.trunk, self.most, self.sizes = trunk, most, []  # type: ignore[var-annotated]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.sizes.append(len(x))
        return self.trunk(x)


def test_inference_takes_smaller_batches_where_memory_is_short(images: tuple[ImageSet, ImageSet]) -> None:
    engine = training.Engine(models.build(LEVEL1, 10), LEVEL1, CPU, batch_size=16)
    expected = engine.logits(images[0].images)
    plain = engine._trunk
    engine._trunk = Hungry(plain, 5)
    torch.testing.assert_close(engine.logits(images[0].images), expected, rtol=1e-4, atol=1e-5)
    assert sum(engine._trunk.sizes) == len(images[0]) and max(engine._trunk.sizes) == 4
    assert engine.batch_size == 4  # the next call does not try again what failed
    features = engine.cached(images[0].images, "trunk")
    torch.testing.assert_close(engine.logits(images[0].images, features), expected, rtol=1e-4, atol=1e-5)

    engine._trunk = Hungry(plain, 0)
    with pytest.raises(MemoryError, match=r"no memory for one image of 32 px.*smaller image_size"):
        engine.logits(images[0].images)


@pytest.mark.parametrize("epochs", [2, 30], ids=["at once", "while it is timed"])
def test_a_training_batch_without_memory_names_the_size_to_try(
    images: tuple[ImageSet, ImageSet], epochs: int
) -> None:
    recipe = replace(LEVEL2, epochs=epochs)
    engine = training.Engine(models.build(recipe, 10), recipe, CPU)
    engine._trunk = Hungry(engine._trunk, LEVEL2.batch_size - 1)
    with pytest.raises(MemoryError, match=r"level2: .* no memory to train on 16 .* Try batch_size=8"):
        training.fit(engine, *images, cache=False, say=lambda line: None)


def test_a_run_goes_on_in_another_precision_and_says_so(images: tuple[ImageSet, ImageSet], tmp_path: Path) -> None:
    """As when Colab gives another GPU: no loss scale is taken over, and the record names both."""
    first = replace(LEVEL1, epochs=2, precision="bf16-mixed")
    folder = RunFolder(tmp_path, first, data="d", weights="none", classes=images[0].classes)

    def stop(line: str) -> None:
        if "epoch  2/2" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        training.fit(training.Engine(models.build(first, 10), first, CPU), *images, folder=folder, say=stop)
    lines: list[str] = []
    engine = training.Engine(models.build(LEVEL1, 10), LEVEL1, CPU)
    fitted = training.fit(engine, *images, folder=folder, say=lines.append)
    assert "was trained in bf16-mixed so far, goes on in 32-true" in lines[1]
    assert fitted.cost["precision"] == "bf16-mixed, from epoch 2 on, 32-true"


@pytest.mark.parametrize("recipe", [LEVEL2, replace(LEVEL1, batchnorm="train")], ids=["level2", "drifting"])
def test_measuring_the_pace_changes_nothing(recipe: Recipe, images: tuple[ImageSet, ImageSet]) -> None:
    engine = training.Engine(models.build(recipe, 10), recipe, CPU)
    before = {name: value.clone() for name, value in engine.model.state_dict().items()}
    state = torch.get_rng_state()
    pace = training.measure_pace(engine, images[0])
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in engine.model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(p.grad is None for p in engine.model.parameters())
    assert min(pace.forward, pace.judge, pace.step, pace.resident, pace.real, pace.stall_ratio) > 0


def test_a_longer_training_says_what_it_will_take_and_is_the_same(
    images: tuple[ImageSet, ImageSet], uninterrupted: Uninterrupted, monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet, a = uninterrupted(LEVEL2)
    assert quiet.cost["stall_ratio"] is None  # six steps: nothing to wait for
    monkeypatch.setattr(training, "_WORTH_TIMING", 6)
    lines: list[str] = []
    model = models.build(LEVEL2, 10)
    told = training.fit(training.Engine(model, LEVEL2, CPU), *images, say=lines.append)
    assert len(lines) == 3
    assert lines[0].startswith("level2: expected to take ") and "2 epochs" in lines[0]
    assert told.history["train_loss"].equals(quiet.history["train_loss"])
    assert_same_state(a, model)
    assert 0 < told.cost["stall_ratio"] < 2  # two times of one machine, paired: near 1, never far above


def test_forecast_adds_up() -> None:
    pace = training.Pace(forward=0.1, judge=0.01, step=0.02, resident=0.5, real=0.6, stall_ratio=0.83)
    cached = training._forecast(pace, LEVEL1, 100, 20, 5, {"cached_train": True, "cached_val": True})
    # 120 images through the trunk, 100 judged at the end; five epochs of 100 steps' share and 20 judged.
    assert cached.startswith("expected to take 24 s")  # 12 + 1 + 5 * (2 + 0.2)
    every = training._forecast(pace, LEVEL2, 100, 20, 2, {"cached_train": False, "cached_val": False})
    assert every.startswith("expected to take 2 min 15 s")  # 2 * (60 + 2.2) + 11
    state = {"cached_train": False, "cached_val": False}
    unjudged = training._forecast(pace, LEVEL2, 100, 20, 2, state, judge_train=False)
    assert unjudged.startswith("expected to take 2 min 4 s")


def test_the_validation_probabilities_are_the_trained_models(
    images: tuple[ImageSet, ImageSet], uninterrupted: Uninterrupted
) -> None:
    fitted, model = uninterrupted(LEVEL2)
    engine = training.Engine(model, LEVEL2, CPU)
    np.testing.assert_array_equal(fitted.val_probs, engine.probs(images[1].images))


def test_engines_share_a_trunk_only_where_it_gives_the_same_features(images: tuple[ImageSet, ImageSet]) -> None:
    def engine(recipe: Recipe) -> training.Engine:
        return training.Engine(models.build(recipe, 10), recipe, CPU)

    first = engine(LEVEL2)
    shared = engine(replace(LEVEL2, name="arm", augment=False, learning_rate=1e-2))
    assert first.digests == shared.digests
    x = images[1].images
    assert torch.equal(first.logits(x), first.logits(x, shared.features(x)))
    for changes in (
        {"image_size": 64},
        {"interpolation": "bicubic"},
        {"dilation": True},
        {"trainable": "head"},
        {"seed": 1},  # without pretrained weights the trunk is drawn from it
        {"precision": "bf16-mixed"},
    ):
        other = engine(replace(LEVEL2, **changes))  # type: ignore[arg-type]
        assert first.digests[-1] != other.digests[-1], changes


def test_the_same_images_pass_through_the_same_trunk_once_and_change_nothing(
    images: tuple[ImageSet, ImageSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A level and the head solved on its features: one pass over training and validation images for both."""
    passed: list[int] = []
    cached = training.Engine.cached
    monkeypatch.setattr(
        training.Engine, "cached", lambda self, x, *rest: passed.append(len(x)) or cached(self, x, *rest)
    )
    recipes_ = [LEVEL1, replace(PROBE, seed=LEVEL1.seed), replace(LEVEL1, name="again", learning_rate=1e-2)]

    def trained(shared: training.Features | None) -> list[models.Classifier]:
        found = []
        for recipe in recipes_:
            engine = training.Engine(models.build(recipe, 10), recipe, CPU, shared=shared)
            training.fit(engine, *images, say=lambda line: None)
            found.append(engine.model)
        return found

    together = trained(training.Features())
    assert passed == [len(images[0]), len(images[1])]
    alone = trained(None)
    assert passed == [len(images[0]), len(images[1])] * 4
    for a, b in zip(together, alone, strict=True):
        assert_same_state(a, b)


def test_a_longer_trunk_goes_on_from_the_features_of_a_shorter_one(
    images: tuple[ImageSet, ImageSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Level 1's trunk is level 2's and layer4: it is given images only where level 2's has not seen them."""
    shared = training.Features()

    def engine(recipe: Recipe, shared: training.Features | None = None) -> training.Engine:
        return training.Engine(models.build(recipe, 10), recipe, CPU, shared=shared)

    alone = [engine(recipe).features_of(images[1], "") for recipe in (LEVEL1, LEVEL2)]
    shorter = engine(LEVEL2, shared).features_of(images[1], "")
    longer = engine(LEVEL1, shared)
    passed: list[int] = []
    features = training.Engine.features
    monkeypatch.setattr(
        training.Engine, "features", lambda self, x, **k: passed.append(len(x)) or features(self, x, **k)
    )
    assert torch.equal(longer.features_of(images[1], ""), alone[0]) and torch.equal(shorter, alone[1])
    assert passed == [2]  # for the shape
    assert len(longer.features_of(images[0], "")) == sum(passed[1:]) == len(images[0])
    with_other_weights = engine(replace(LEVEL1, seed=1), shared)
    assert not torch.equal(with_other_weights.features_of(images[1], ""), alone[0])


def test_shared_features_make_room_for_newer_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training.Features, "LIMIT", 2 * 40)
    shared = training.Features()
    for name in "abc":  # 40 bytes each
        shared.keep(name, "", torch.zeros(10))
        assert shared.find(["a"], "")[0]  # used again each time, so that it stays
    assert not shared.find(["b"], "")[0] and shared.find(["c"], "")[0]
    shared.keep("too large", "", torch.zeros(21))
    assert not shared.find(["too large"], "")[0] and shared.find(["a"], "")[0]


# --- The converged head ------------------------------------------------------------------------------------

PROBE = replace(recipes.documented_recipe("level1_probe"), **(TINY | {"epochs": 1}))


def test_a_solved_head_is_a_model_like_any_other(images: tuple[ImageSet, ImageSet]) -> None:
    said: list[str] = []
    engine = training.Engine(models.build(PROBE, 10), PROBE, CPU)
    fitted = training.fit(engine, *images, say=said.append)
    features = engine.features(images[0].images)
    found = probe.solve(features, images[0].labels, engine.features(images[1].images), images[1].labels, 10)
    assert torch.equal(models.head(engine.model).weight, found.weight)
    assert fitted.cost["strength"] == found.strength and fitted.cost["strengths"] == found.tried
    np.testing.assert_allclose(fitted.val_probs, engine.probs(images[1].images), atol=1e-6)
    assert len(said) == 1 and f"L2 strength {found.strength:.1e}" in said[0]
    assert len(fitted.history) == 1 and not engine.model.training
    # A random trunk's features fit the training images better than chance, whatever the penalty.
    assert fitted.train_accuracy > 0.2


def test_a_solved_head_does_not_depend_on_the_seed(images: tuple[ImageSet, ImageSet]) -> None:
    state = models.build(LEVEL1, 10).torchvision_state()
    heads = []
    for seed in (0, 1):
        recipe = replace(PROBE, seed=seed)
        engine = training.Engine(models.build(recipe, 10, state), recipe, CPU)
        training.fit(engine, *images, say=lambda line: None)
        heads.append(models.head(engine.model).weight)
    assert torch.equal(*heads)


def test_features_that_do_not_fit_are_said_to(
    images: tuple[ImageSet, ImageSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training.Engine, "_free_memory", lambda engine: 1000)
    with pytest.raises(
        MemoryError, match=r"level1_probe: the features of 68 images .* lower train_size \(it is 48\)"
    ):
        train(PROBE, images)


@pytest.mark.parametrize(("epochs", "lines"), [(1, 1), (20, 20), (21, 12), (100, 21)])
def test_a_long_training_is_told_in_about_twenty_lines(epochs: int, lines: int) -> None:
    told = [epoch for epoch in range(1, epochs + 1) if progress.worth_a_line(epoch, epochs)]
    assert len(told) == lines and {1, epochs} <= set(told)


FAULTS = """
    import resource
    import torch
    from cifarlib import training

    def faults():
        for repeat in range(12):
            if repeat == 4:  # the heap may take another block before it has settled
                before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            torch.zeros(2**24)  # 64 MiB
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    print(faults())
    training._keep_freed_memory()
    print(faults())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is glibc's")
def test_freed_memory_is_kept_for_the_next_batch() -> None:
    command = [sys.executable, "-c", textwrap.dedent(FAULTS)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    given_back, kept = map(int, printed.split())
    if given_back < 100 or tuple(map(int, platform.libc_ver()[1].split("."))) < (2, 35):
        pytest.skip("this C library keeps large blocks by itself, or does not let one ask for it")
    assert kept < given_back / 10
