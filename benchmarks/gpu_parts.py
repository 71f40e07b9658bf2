"""What `gpu.sh` measures, a function for each part.

It takes the options, the device, and `keep`, which puts results on disk; it returns why it was skipped, if it was.
"""

import os
import tarfile
import tempfile
import time
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F

from benchmarks.arms import Clock, time_step, timed
from benchmarks.gpu import ROOT, said
from benchmarks.speed import measure, spread
from cifarlib import Study, data, evaluation, models, recipes, runs, training

T4 = {"device_bytes": 15 * 10**9, "host_bytes": 12 * 2**30, "cores": 2}
TRAINED = ("level1", "level1_probe", "level2", "level3", "efficientnet")
DRAWING = 30  # seconds that drawing images may take; what is missing then is repeated
TOLERANCE = 0.05  # relative: half precision on both sides, through fifty layers and back


def do(options, keep):
    """Do the part that the options name; without a GPU nothing but a rehearsal starts."""
    device = training.choose_device()
    keep(environment=runs.environment(device), rehearsal=options.tiny)
    if device.type != "cuda" and not options.tiny:
        return "skipped: torch finds no GPU here, and --tiny, which needs none, is not set"
    return PARTS[options.part](options, device, keep)


# --- 1: does it fit a T4? ----------------------------------------------------------------------------------


def t4_stand_in(options, device, keep):
    """Train every recipe for an epoch within a T4's memory, on as many processor cores as Colab gives."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: T4["cores"]])
    torch.set_num_threads(T4["cores"])
    cuda = device.type == "cuda"
    about = "no GPU: fp32, and no limit on a GPU's memory"
    if cuda:
        about = "memory, cores and fp16 as on a T4; the seconds are this machine's"
        whole = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, T4["device_bytes"] / whole), device)
        # That binds what torch takes; to whoever asks, free memory stays the whole card's.
        training.Engine._free_memory = lambda engine: (T4["device_bytes"] - torch.cuda.memory_allocated()) // 2
    train, val, drawing = _drawn(*((96, 32) if options.tiny else (40_000, 10_000)))
    keep(about=about, limits=T4, drawing=drawing)
    changes = {"weights": "none", "epochs": 1, "image_size": 32 if options.tiny else 224}
    changes["precision"] = "16-mixed" if cuda else "32-true"
    levels, shared = {}, training.Features()  # which a study keeps, too
    for name in TRAINED:
        recipe = replace(recipes.documented_recipe(name), **changes)
        try:
            levels[name] = _an_epoch(recipe, train, val, device, shared)
        except Exception as error:  # the next may fit
            levels[name] = {"fits": False if isinstance(error, MemoryError) else None, "why": said(error)}
        keep(levels=levels)


def _an_epoch(recipe, train, val, device, shared):
    engine = training.Engine(models.build(recipe, len(train.classes)), recipe, device, shared=shared)
    with Clock() as clock:
        fitted = training.fit(engine, train, val)
    host = training.peak_memory(torch.device("cpu"))
    return {
        "fits": host <= T4["host_bytes"],  # the GPU's limit has held, else it would have failed
        "seconds": clock.seconds,  # with the forecast, validation, and the accuracy on all training images
        "device_peak_bytes": fitted.cost["peak_memory_bytes"],
        "device_reserved_bytes": torch.cuda.max_memory_reserved() if device.type == "cuda" else None,
        "host_peak_bytes": host,  # since the part began
        "images_at_a_time": engine.batch_size,  # without training; fewer than 256 where memory was short
        "cost": fitted.cost,
    }


def _drawn(n, n_val):
    """Draw built-in images to train and to validate on, as many as time allows, repeated up to so many."""

    def draw(count):
        sizes = {"train_size": count, "val_size": max(10, count * n_val // n), "test_size": 10}
        started = time.monotonic()
        return data.load(replace(recipes.DEMO, store_size=32, **sizes)), time.monotonic() - started

    few = min(n, 500)
    _, seconds = draw(few)
    split, seconds = draw(min(n, max(few, int(DRAWING / seconds * few))))
    found = [part.take(torch.arange(m) % len(part)) for part, m in ((split.train, n), (split.val, n_val))]
    different = len(split.train) + len(split.val)
    return *found, {"images": n + n_val, "different": different, "seconds": seconds}


# --- 2: the tests that need a GPU --------------------------------------------------------------------------


def tests(options, device, keep):
    """Run tests/test_gpu.py; every test's outcome is kept as it ends."""
    try:
        import pytest
    except ModuleNotFoundError:
        return "skipped: pytest is missing here; bring it with --wheels"
    found = {}

    class Keeper:
        def pytest_collectreport(self, report):
            if report.failed:
                keep(collection=str(report.longrepr)[-2000:])

        def pytest_runtest_logreport(self, report):
            if report.when == "call" or not report.passed:
                why = {} if report.passed else {"why": str(report.longrepr)[-2000:]}
                name = report.nodeid.partition("::")[2]
                found[name] = {"outcome": report.outcome, "seconds": round(report.duration, 2)} | why
                keep(tests=found, counts=Counter(test["outcome"] for test in found.values()))

    arguments = ["-v", "-p", "no:cacheprovider", "--rootdir", str(ROOT), str(ROOT / "tests" / "test_gpu.py")]
    if status := pytest.main(arguments, plugins=[Keeper()]):
        raise RuntimeError(f"pytest ended with {status!r}")
    return None if any(test["outcome"] == "passed" for test in found.values()) else "skipped: no test found a GPU"


# --- 3: speed against the plain script ---------------------------------------------------------------------


def speed(options, device, keep):
    """Measure what results/nvidia-h200.json lacks, with its images and repeats."""
    settings = {"device": device.type, "data_root": "", "weights": "none"}
    if options.tiny:
        settings |= {"images": 64, "image_size": 32, "repeats": 1}
    else:
        settings |= {"images": 640, "image_size": 224, "repeats": 3}
    keep(settings=settings, precision=training.choose_precision(recipes.LEVEL1, device))
    rows = ("efficientnet_epoch", "input_pipeline")
    for found in measure(settings, measures=rows, without=("ours_compiled",)):
        keep(**found)


# --- 4: fewer launches -------------------------------------------------------------------------------------


def graphs(options, device, keep):
    """Try CUDA graphs, torch.compile and cuDNN's larger kernels, each checked against the plain result.

    A step's `host_seconds` and `gpu_busy_seconds` say which of both it waits for.
    """
    cuda = device.type == "cuda"
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = tempfile.mkdtemp()  # else what is there would be ready at once
    bench = Bench(32 if options.tiny else 224, device.type)
    of_trunk = {f"trunk: {name}": partial(_trunks, change) for name, change in OF_TRUNK.items()}
    of_step = {f"step: {name}": partial(_steps, change) for name, change in OF_STEP.items()}
    tries = of_step | of_trunk
    names = sorted(tries, key=lambda name: "compiled" in name)  # last, since it takes longest
    rows = {}
    for name in names:
        if cuda or name == "step: tail compiled":  # once through the compiler is rehearsal enough
            try:
                rows[name] = _compared(partial(tries[name], bench), cuda)
            except Exception as error:  # a compiler may be missing, and a graph may refuse what it meets
                rows[name] = {"failed": said(error)}
        else:
            rows[name] = {"skipped": "needs a GPU"}
        summary = {key: value for key, value in rows[name].items() if key not in ("without", "with")}
        print(f"{name}: {summary}", flush=True)
        keep(tries=rows)


class Bench:
    """Images and models that the tries share."""

    def __init__(self, image_size, device):
        self.device = torch.device(device)
        split = data.load(replace(recipes.DEMO, store_size=32, train_size=128, val_size=10, test_size=10))
        self.train = split.train.to(self.device)
        self.changes = {"image_size": image_size, "weights": "none"}

    def engine(self, base):
        recipe = replace(base, **self.changes)
        return training.Engine(models.build(recipe, 10), recipe, self.device)


def _compared(make, cuda):
    with Clock() as clock:
        without, with_it, difference = make()
        error = difference()
    times = 30 if cuda else 1
    gain = spread(_gains(partial(timed, without, times), partial(timed, with_it, times)))
    row = {"gain": gain, "relative_error": error, "agrees": error < TOLERANCE, "ready_in_seconds": clock.seconds}
    return row | ({"without": time_step(without), "with": time_step(with_it)} if cuda else {})


def _gains(without, with_it):
    """Take four pairs in turn; both return their seconds, and a gain is those without over those with."""
    gains = []
    for repeat in range(4):
        both = [(0, without), (1, with_it)]
        seconds = {k: run() for k, run in (both if repeat % 2 == 0 else both[::-1])}
        gains.append(seconds[0] / seconds[1])
    return gains


def _trunks(change, bench):
    """Return level 1's trunk without and with a change, and what tells how far their outputs differ."""
    engine = bench.engine(recipes.LEVEL1)
    x = engine.inputs(bench.train.images[: recipes.LEVEL1.batch_size])
    with torch.no_grad():
        changed = change(engine._trunk, x)
    without, with_it = (torch.no_grad()(partial(run, x)) for run in (engine._trunk, changed))
    return without, with_it, lambda: _relative(with_it(), without())


def _steps(change, bench):
    """Return level 2's training step without and with a change, and what tells how far their gradients differ."""
    index = torch.arange(recipes.LEVEL2.batch_size, device=bench.device)
    plain, changed = (training.Trainer(bench.engine(recipes.LEVEL2), bench.train) for _ in range(2))
    plain.tail.train()
    changed.tail.train()

    def without():
        return plain.step(*plain.batch(index), 1e-5)

    with_it = change(changed, index) or (lambda: changed.step(*changed.batch(index), 1e-5))

    def difference():
        gradients = []
        for step, trainer in ((with_it, changed), (without, plain)):
            torch.manual_seed(0)  # the same augmentation
            step()
            # After one step Adam's first moment is the gradient, scaled.
            states = trainer.optimizer.optimizer.state.values()
            gradients.append(torch.cat([state["exp_avg"].flatten() for state in states]))
        return _relative(*gradients)

    return without, with_it, difference


def _relative(found, expected):
    return ((found - expected).float().norm() / expected.float().norm()).item()


def _compiled_tail(trainer, index):
    trainer.engine.model.tail.compile()


def _compiled_trunk(trainer, index):
    trainer.engine._trunk.compile()


def _trunk_graph(trainer, index):
    engine = trainer.engine
    with torch.no_grad():
        engine._trunk = _captured(engine._trunk, engine.inputs(trainer.train.images[index]))


def _step_graph(trainer, index):
    """Put trunk, tail and backward pass into a graph; the augmentation, drawn anew, and the optimiser stay out."""
    engine, images, labels = trainer.engine, trainer.train.images[index], trainer.train.labels[index]

    def passes(x):
        logits = trainer.tail(engine.through_trunk(x))
        loss = F.cross_entropy(logits, labels)
        engine.fabric.backward(loss)
        return logits.detach(), loss.detach()

    # Captured where there are no gradients, the passes make them, and every replay writes them anew.
    replay = _captured(passes, engine.inputs(images), before=trainer.optimizer.zero_grad)

    def step():
        found = replay(engine.inputs(images, augment=True))
        trainer.optimizer.step()
        return found

    return step


def _captured(run, x, before=lambda: None):
    """Capture `run(x)` in a CUDA graph; returns what replays it for another x of that shape."""
    own, side = x.clone(), torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # what is captured must have run before, on a stream of its own
        for _ in range(3):
            run(own)
    torch.cuda.current_stream().wait_stream(side)
    before()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = run(own)

    def replay(x):
        own.copy_(x)
        graph.replay()
        return out

    return replay


def _fused_trunk(trunk, x):
    """The folded trunk with bias, addition and ReLU inside cuDNN's convolutions, not in passes of their own."""

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

    return forward


# --- 5: the study on photographs ---------------------------------------------------------------------------


def photographs(options, device, keep):
    """Train levels 1 to 4 on photographs at 96 px, from the weights that were brought; kept level by level."""
    if options.photos is None:
        return "skipped: no photographs were given, with --photos"
    n = options.train_images
    changes = {"train_size": n, "val_size": n // 4, "test_size": 10_000, "image_size": 96}
    if options.tiny:
        changes = {"train_size": 60, "val_size": 20, "test_size": 60, "image_size": 32, "epochs": 1}
    brought = {"weights": options.weights, "efficientnet.weights": options.efficientnet_weights}
    keep(settings=changes | {k: path.name if path else "none" for k, path in brought.items()})
    photos, scratch = options.photos, Path(tempfile.mkdtemp())
    if photos.is_file():
        photos = scratch / "photos"
        with tarfile.open(options.photos) as archive:
            archive.extractall(photos, filter="data")
    overrides = changes | {key: str(path or "none") for key, path in brought.items()}
    study = Study("full", run_root=scratch / "runs", data_root=photos, overrides=overrides)
    for name in TRAINED:
        run = study.run(name)
        if name == "level1_probe":
            of_both = [study.predictions(which) for which in (name, "level1")]
            labels = run.predictions["test_labels"]
            gain = evaluation.paired_difference(*(probs.argmax(1) == labels for probs in of_both))
            keep(level1_probe=run.metrics | {"less_level1": gain})
        keep(levels=study.results(), comparisons=study.comparisons())
    return None


OF_TRUNK = {
    "in a CUDA graph": _captured,
    "bias, addition and ReLU in the convolution": _fused_trunk,
    "compiled": lambda trunk, x: torch.compile(trunk),
}
OF_STEP = {
    "trunk in a CUDA graph": _trunk_graph,
    "all but augmentation and optimiser in a CUDA graph": _step_graph,
    "tail compiled": _compiled_tail,
    "trunk compiled": _compiled_trunk,
}
PARTS = {
    "1-t4-stand-in": t4_stand_in,
    "2-tests": tests,
    "3-speed": speed,
    "4-graphs": graphs,
    "5-photographs": photographs,
}
