"""What was tried for speed: each candidate with and without, on one image size, its gain predicted first."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F

from benchmarks.arms import Worker, timed
from benchmarks.speed import spread
from cifarlib import data, models, recipes, training

BATCH = 64


@dataclass(frozen=True)
class Candidate:
    """One idea: what it was expected to gain, on what, and the two ways of doing it, made when they are timed.

    `make(bench)` returns the callables without and with it; `kept_on` are the devices where we do it, and `half`
    names the recipe whose `precision="auto"` decides, where the idea is half precision.
    """

    name: str
    on: str
    predicted: str
    make: Callable[..., tuple[Callable[[], object], Callable[[], object]]]
    kept_on: tuple[str, ...] = ("cpu", "cuda")
    half: recipes.Recipe | None = None

    def kept(self, device):
        """Say whether we do it on this device."""
        if self.half is not None:
            return training.choose_precision(self.half, device) != "32-true"
        return device.type in self.kept_on


class Bench:
    """Images, models and steps that the candidates share."""

    def __init__(self, image_size, device):
        self.device = torch.device(device)
        split = data.load(replace(recipes.DEMO, store_size=32, train_size=2 * BATCH, val_size=BATCH, test_size=10))
        self.train, self.val = split.train.to(self.device), split.val.to(self.device)
        self.changes = {"image_size": image_size, "weights": "none"}

    def engine(self, base, **changes):
        recipe = replace(base, **self.changes, **changes)
        return training.Engine(models.build(recipe, 10), recipe, self.device)

    def inputs(self, engine):
        return engine.inputs(self.train.images[:BATCH])

    def step(self, engine, optimizer=None):
        """A training step on one resident batch."""
        trainer = training.Trainer(engine, self.train)
        if optimizer is not None:
            tail = engine.model.tail
            trainer.optimizer = engine.fabric.setup_optimizers(optimizer(tail.parameters()))
        x, y = engine.features(self.train.images[:BATCH]), self.train.labels[:BATCH]
        return lambda: trainer.step(x, y, 1e-5)

    def trunk(self, trunk, x):
        def run():
            with torch.no_grad():
                return trunk(x)

        return run


def _cache(bench):
    engine = bench.engine(recipes.LEVEL1)

    def run(cache):
        return training.fit(engine, bench.train, bench.val, cache=cache, say=lambda line: None)

    return lambda: run(False), lambda: run(True)


def _fold(bench):
    engine = bench.engine(recipes.LEVEL1)
    x = bench.inputs(engine)
    plain = models._channels_last(engine.model.trunk.to(engine._dtype))
    return bench.trunk(plain, x), bench.trunk(engine._trunk, x)


def _channels_last(bench):
    engine = bench.engine(recipes.LEVEL1)
    x = bench.inputs(engine)
    plain = models.fold(engine.model.trunk, engine._dtype).to(memory_format=torch.contiguous_format)
    return bench.trunk(plain, x.contiguous()), bench.trunk(engine._trunk, x)


def _full_and_half(bench, base):
    half = "bf16-mixed" if bench.device.type == "cpu" else "auto"
    return bench.engine(base, precision="32-true"), bench.engine(base, precision=half)


def _half(base):
    def make(bench):
        full, half = _full_and_half(bench, base)
        return bench.step(full), bench.step(half)

    return make


def _half_trunk(bench):
    full, half = _full_and_half(bench, recipes.LEVEL1)
    return bench.trunk(full._trunk, bench.inputs(full)), bench.trunk(half._trunk, bench.inputs(half))


def _resize(bench):
    engine = bench.engine(recipes.LEVEL2)
    images, size = bench.train.images[:BATCH], (engine.recipe.image_size,) * 2

    def interpolate():
        mean, std = data._statistics(bench.device)
        x = (images.to(torch.float32, memory_format=torch.channels_last) - 255 * mean) / (255 * std)
        return F.interpolate(x, size, mode="bilinear", align_corners=False).to(engine._dtype)

    return interpolate, lambda: engine.inputs(images)


def _augment_small(bench):
    recipe = replace(recipes.LEVEL2, **bench.changes)
    images = bench.train.images[:BATCH]
    size = (recipe.image_size,) * 2
    large = F.interpolate(images.float(), size, mode="bilinear").round().to(torch.uint8)
    return lambda: data.augment(large, recipe), lambda: data.augment(images, recipe)


def _fused(bench):
    def plain(parameters):
        return torch.optim.AdamW(parameters, lr=1e-5, weight_decay=1e-4)

    return bench.step(bench.engine(recipes.LEVEL2), plain), bench.step(bench.engine(recipes.LEVEL2))


def _no_sync(bench):
    engine = bench.engine(recipes.LEVEL1)
    step = bench.step(engine)
    return lambda: [step()[1].item() for _ in range(50)], lambda: [step()[1] for _ in range(50)]


def _large_batches(bench):
    engine = bench.engine(recipes.LEVEL1)
    x = torch.cat([bench.inputs(engine)] * 4)
    parts = [bench.trunk(engine._trunk, part) for part in x.split(BATCH)]
    return lambda: [run() for run in parts], bench.trunk(engine._trunk, x)


def _compile(bench):
    engine = bench.engine(recipes.LEVEL1)
    x = bench.inputs(engine)
    return bench.trunk(engine._trunk, x), bench.trunk(torch.compile(engine._trunk), x)


def _graph(bench):
    engine = bench.engine(recipes.LEVEL1)
    x = bench.inputs(engine)
    run, own = bench.trunk(engine._trunk, x), x.clone()
    into = bench.trunk(engine._trunk, own)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # what is captured must have run before, on a stream of its own
        for _ in range(3):
            into()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = into()

    def replay():
        own.copy_(x)
        graph.replay()
        return out

    torch.testing.assert_close(replay(), run())
    return run, replay


def _bias_and_relu(bench):
    """The folded trunk with bias, addition and ReLU inside cuDNN's convolutions, not in passes of their own."""
    engine = bench.engine(recipes.LEVEL1)
    x, trunk = bench.inputs(engine), engine._trunk

    def shape(conv):
        return conv.stride, conv.padding, conv.dilation, conv.groups

    def conv_relu(conv, x):
        return torch.cudnn_convolution_relu(x, conv.weight, conv.bias, *shape(conv))

    def forward(x):
        x = trunk.maxpool(conv_relu(trunk.conv1, x))
        for block in [*trunk.layer1, *trunk.layer2, *trunk.layer3, *trunk.layer4]:
            before = x if block.downsample is None else block.downsample(x)
            y, last = conv_relu(block.conv2, conv_relu(block.conv1, x)), block.conv3
            x = torch.cudnn_convolution_add_relu(y, last.weight, before, 1.0, last.bias, *shape(last))
        return trunk.avgpool(x).flatten(1)

    plain, fused = bench.trunk(trunk, x), bench.trunk(forward, x)
    torch.testing.assert_close(fused(), plain(), rtol=0.05, atol=0.05)
    return plain, fused


CANDIDATES = (
    Candidate("trunk outputs kept", "level 1, 5 epochs", "4 to 5: five passes become one", _cache),
    Candidate("convolution and BatchNorm folded", "trunk forward", "1.2: less memory traffic", _fold),
    Candidate("channels_last", "trunk forward", "1.3 on a CPU, 1.5 on a GPU", _channels_last),
    Candidate(
        "half precision, frozen trunk",
        "trunk forward",
        "2 with units for it: twice the arithmetic a cycle",
        _half_trunk,
        half=recipes.LEVEL1,
    ),
    Candidate(
        "half precision, trained tail",
        "layer4 step",
        "1.5 with units for it: optimiser and BatchNorm stay fp32",
        _half(recipes.LEVEL2),
        half=recipes.LEVEL2,
    ),
    Candidate(
        "half precision, EfficientNet-B0",
        "its step",
        "1.5 with units for it",
        _half(recipes.EFFICIENTNET),
        half=recipes.EFFICIENTNET,
    ),
    Candidate("resize as two matrix products", "a batch's inputs", "2: one write instead of three", _resize),
    Candidate("augment before enlarging", "augmentation", "as the pixels: 49 at 224 px", _augment_small),
    Candidate("fused AdamW", "layer4 step", "1.05 on a CPU: 15 million of its parameters", _fused),
    Candidate(
        "no host sync per step", "50 steps of level 1's head", "1.0 on a CPU, where nothing waits", _no_sync
    ),
    Candidate(
        "inference in batches of 256, not 64", "trunk forward", "1.05: fewer calls", _large_batches, ("cuda",)
    ),
    Candidate("torch.compile of the trunk, warm", "trunk forward", "1.2", _compile, ()),
    Candidate(
        "bias, addition and ReLU within the convolution",
        "trunk forward",
        "1.4 on a GPU: a pass over every activation less, and a third of the kernels",
        _bias_and_relu,
        (),
    ),
    Candidate("CUDA graph of the trunk", "trunk forward", "1.2 on a fast GPU: no launches", _graph, ()),
)


class Tries:
    """Runs the candidates in a process of its own, for those that change the whole of one."""

    def __init__(self, settings, keep_memory=True, try_algorithms=False):
        if not keep_memory:
            training._keep_freed_memory = lambda: None
        torch.backends.cudnn.benchmark = try_algorithms
        self.bench, self.made = Bench(settings["image_size"], settings["device"]), {}

    def efficientnet_step(self):
        if "step" not in self.made:
            self.made["step"] = self.bench.step(self.bench.engine(recipes.EFFICIENTNET))
        return self._warm(self.made["step"])

    def trunk(self):
        if "trunk" not in self.made:
            engine = self.bench.engine(recipes.LEVEL1)
            self.made["trunk"] = self.bench.trunk(engine._trunk, self.bench.inputs(engine))
        return self._warm(self.made["trunk"])

    def _warm(self, run):
        run()
        return timed(run)

    def all(self):
        """Time every candidate, without and with it in turn, after one cold call of each."""
        rows = []
        for candidate in CANDIDATES:
            try:
                without, with_it = candidate.make(self.bench)
                timed(without)
                cold = timed(with_it)
            except Exception as error:  # torch.compile needs a compiler, a CUDA graph CUDA
                what = "GIVES ANOTHER RESULT" if isinstance(error, AssertionError) else "not available here"
                reason = str(error).strip().partition("\n")[0][:200]  # torch appends a page of its backends
                print(f"{candidate.name}: {what} ({type(error).__name__}: {reason})", flush=True)
                continue
            times = 10 if self.bench.device.type == "cuda" else 1  # milliseconds each: the host's jitter counts
            pairs = _gains(partial(timed, without, times), partial(timed, with_it, times))
            kept = candidate.kept(self.bench.device)
            rows.append(
                _row(candidate.name, candidate.on, candidate.predicted, pairs, kept) | {"cold_seconds": cold}
            )
            print(f"{candidate.name}: {rows[-1]['gain']['median']:.2f} ({time.strftime('%X')})", flush=True)
        return rows


def _gains(without, with_it):
    """Take four pairs in turn; both return their seconds, and a gain is those without over those with."""
    gains = []
    for repeat in range(4):
        both = [(0, without), (1, with_it)]
        seconds = {k: run() for k, run in (both if repeat % 2 == 0 else both[::-1])}
        gains.append(seconds[0] / seconds[1])
    return gains


def _row(name, on, predicted, gains, kept):
    return {"name": name, "on": on, "predicted": predicted, "gain": spread(gains), "kept": kept}


def measure(settings):
    """Measure every candidate; returns one row each."""
    with Worker(Tries, settings=settings) as worker:
        rows = worker.ask("all")
    if settings["device"] == "cpu":
        name, without, with_it, kept = "freed memory kept (mallopt)", {"keep_memory": False}, {}, True
        predicted = {"trunk": "1.1: fewer page faults", "efficientnet_step": "1.3: its activations are large"}
    else:
        name, without, with_it, kept = "cuDNN tries algorithms first", {}, {"try_algorithms": True}, False
        predicted = {"trunk": "1.1: better ones than its rules choose", "efficientnet_step": "1.1"}
    on = {"trunk": "trunk forward", "efficientnet_step": "EfficientNet-B0's step"}
    with Worker(Tries, settings=settings, **without) as one, Worker(Tries, settings=settings, **with_it) as other:
        for worker in (one, other):  # else the second one's start would disturb the first one's work
            worker.wait()
        for task, expected in predicted.items():
            gains = _gains(partial(one.ask, task), partial(other.ask, task))
            rows.append(_row(name, on[task], expected, gains, kept))
    return rows
