"""The arms of the comparison: each trains in a process of its own, which waits while another one works.

A process of its own, because how memory is kept is a matter of the whole process, and ours changes it.
"""

import contextlib
import gc
import multiprocessing
import os
import sys
import tempfile
import time
from dataclasses import replace

import numpy as np
import torch

FROZEN_EPOCHS = 5
PIPELINE_IMAGES = 2048  # at least: with fewer, the start of a DataLoader's workers would be most of its time
WHOLE = 40_000  # CIFAR-10's training images, after the split


class PeerArm:
    """The plain peer; `tuned` with autocast and channels_last."""

    def __init__(self, settings, tuned):
        from benchmarks import peer
        from benchmarks.parity import pictures

        self.settings, self.peer, self.tuned = settings, peer, tuned
        split = images(settings)
        self.train, self.val, self.classes = pictures(split.train), pictures(split.val), len(split.classes)

    def _peer(self, arch, trainable, rate, decay=None):
        device = self.settings["device"]
        options = {"trainable": trainable, "rate": rate, "decay": decay, "device": device, "tuned": self.tuned}
        return self.peer.Peer(arch, self.classes, **options)

    def _loader(self, part, *, augment=False, shuffle=True):
        return self.peer.loader(*part, size=self.settings["image_size"], augment=augment, shuffle=shuffle)

    def frozen_phase(self):
        """Five epochs of a frozen network's classifier, each with validation."""
        model = self._peer("resnet50", "head", 1e-3)
        train, val = self._loader(self.train), self._loader(self.val, shuffle=False)
        with Clock() as clock:
            for _ in range(FROZEN_EPOCHS):
                model.train_epoch(train)
                model.accuracy(val)
        return clock.seconds

    def _epoch(self, model):
        with Clock() as clock:
            model.train_epoch(self._loader(self.train, augment=True))
        return clock.seconds

    def layer4_epoch(self):
        """One epoch of layer4 and the classifier, with augmentation."""
        return self._epoch(self._peer("resnet50", "layer4", 3e-4, 1e-4))

    def efficientnet_epoch(self):
        """One epoch of the whole EfficientNet-B0, with augmentation."""
        return self._epoch(self._peer("efficientnet_b0", "all", 3e-4, 1e-4))

    def input_pipeline(self):
        """Level 2's inputs, with nothing that uses them, over the training images as often as it takes."""
        times = -(-PIPELINE_IMAGES // len(self.train[0]))
        with Clock() as clock:
            for x, _ in self._loader([part * times for part in self.train], augment=True):
                x.to(self.settings["device"])
        return clock.seconds


class OurArm:
    """cifarlib; `compiled` with torch.compile around the trunk, `precision` other than the hardware's choice."""

    def __init__(self, settings, compiled=False, precision="auto"):
        from cifarlib import models, recipes, training

        if compiled:  # what an earlier run left on disk would make the cold call warm
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = tempfile.mkdtemp()
        self.settings, self.compiled, self.engines = settings, compiled, {}
        self.models, self.training = models, training
        self.device = torch.device(settings["device"])
        split = images(settings)
        self.train, self.val = split.train.to(self.device), split.val.to(self.device)
        changes = {"image_size": settings["image_size"], "weights": settings["weights"], "precision": precision}
        bases = (recipes.LEVEL1, recipes.LEVEL2, recipes.LEVEL3, recipes.EFFICIENTNET)
        self.recipes = {base.name: replace(base, **changes) for base in bases}
        self.recipes["efficientnet"] = replace(self.recipes["efficientnet"], weights="none")

    def _engine(self, name):
        if name in self.engines:
            return self.engines[name]
        recipe = self.recipes[name]
        model = self.models.build(recipe, len(self.train.classes), self.models.load_weights(recipe))
        engine = self.training.Engine(model, recipe, self.device)
        if self.compiled and len(model.trunk):
            engine._trunk = torch.compile(engine._trunk)
            self.engines[name] = engine
        return engine

    def frozen_phase(self):
        """Level 1 as `fit` runs it: five epochs, each with validation, and the forecast before them."""
        engine = self._engine("level1")
        with Clock() as clock:
            self.training.fit(engine, self.train, self.val, say=lambda line: None)
        self.level1 = engine
        return clock.seconds

    def _epoch(self, name):
        trainer = self.training.Trainer(self._engine(name), self.train)
        with Clock() as clock:
            trainer.epoch(0)
        return clock.seconds

    def layer4_epoch(self):
        """One epoch of level 2."""
        return self._epoch("level2")

    def efficientnet_epoch(self):
        """One epoch of level 4's EfficientNet-B0."""
        return self._epoch("efficientnet")

    def input_pipeline(self):
        """Level 2's inputs, with nothing that uses them, over the training images as often as it takes."""
        engine = self._engine("level2")
        times = -(-PIPELINE_IMAGES // len(self.train))
        order = torch.randperm(len(self.train) * times).to(self.device) % len(self.train)
        with Clock() as clock:
            for index in order.split(engine.recipe.batch_size):
                engine.inputs(self.train.images[index], augment=True)
        return clock.seconds

    def stall(self):
        """Return the stall ratios of levels 2 to 4 and images/s, several of each."""
        found = {}
        for name in ("level2", "level3", "efficientnet"):
            engine = self._engine(name)
            paces = [self.training.measure_pace(engine, self.train) for _ in range(self.settings["repeats"])]
            found[name] = {
                "ratios": [pace.stall_ratio for pace in paces],
                "images_per_second": float(np.median([1 / pace.real for pace in paces])),
                "trunk_images_per_second": float(np.median([1 / pace.forward for pace in paces])),
            }
        return found

    def gpu(self):
        """Return what a GPU is judged by: the frozen network's pace, a level 2 epoch, and what binds a step."""
        engine, images = self._engine("level1"), self.train.images
        batch = images[torch.arange(engine.batch_size, device=self.device) % len(images)]
        pace = len(batch) / timed(lambda: engine.features(batch), 20, warm=5)
        steps = {name: self._step(name) for name in ("level2", "level3", "efficientnet")}
        whole = self.train.take(torch.arange(WHOLE) % len(images))
        trainer = self.training.Trainer(self._engine("level2"), whole)
        with Clock() as clock:
            trainer.epoch(0)
        return {"frozen_images_per_second": pace, "steps": steps, "epoch_of_40000_seconds": clock.seconds}

    def _step(self, name):
        """Time a training step on new images."""
        trainer = self.training.Trainer(self._engine(name), self.train)
        trainer.tail.train()
        index = torch.arange(trainer.recipe.batch_size, device=self.device) % len(self.train)

        def step():
            return trainer.step(*trainer.batch(index), 1e-5)

        return time_step(step)

    def agreement(self):
        """Compare level 1's trained model with the plain network of the same weights (gates 1 and 2)."""
        from benchmarks import parity

        if not hasattr(self, "level1"):  # where only other measures were asked for
            self.frozen_phase()
        return parity.agreement(self.level1, self.val.to("cpu"))


class Clock:
    """Seconds between entry and exit, with the device's work done."""

    def __enter__(self):
        self._wait()
        self.started = time.perf_counter()
        return self

    def __exit__(self, *error):
        self._wait()
        self.seconds = time.perf_counter() - self.started

    @staticmethod
    def _wait():
        if torch.cuda.is_available():
            torch.cuda.synchronize()


def timed(run, times=1, *, warm=0):
    """Return the seconds of a call, the mean of several, after some that do not count."""
    for _ in range(warm):
        run()
    with Clock() as clock:
        for _ in range(times):
            run()
    return clock.seconds / times


def time_step(step):
    """Time a step on a GPU: whole, until the host has asked for it, and the GPU's work alone."""
    wall = timed(step, 30, warm=5)
    host = []
    for _ in range(9):
        torch.cuda.synchronize()  # else the host waits in a full queue, and its time is the GPU's
        started = time.perf_counter()
        step()
        host.append(time.perf_counter() - started)
    count = 5
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        timed(step, count)
    on_device = [e for e in profile.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    busy = sum(event.time_range.elapsed_us() for event in on_device) / 1e6 / count
    longest = sorted(profile.key_averages(), key=lambda e: -e.self_device_time_total)[:8]
    return {
        "seconds": wall,
        "host_seconds": float(np.median(host)),
        "gpu_busy_seconds": busy,
        "kernels": len(on_device) // count,
        "longest": [
            {
                "name": e.key[:300],
                "kernels": e.count // count,
                "seconds": e.self_device_time_total / 1e6 / count,
            }
            for e in longest
        ],
    }


def images(settings):
    """Return the images of the settings, split."""
    from cifarlib import data, recipes

    n = settings["images"]
    sizes = {"train_size": n, "val_size": n // 4, "test_size": 10}
    if settings["data_root"]:
        profile = replace(recipes.FULL, **sizes)
        split = data.load(profile, settings["data_root"], image_size=settings["image_size"])
        if len(split.train) < n:
            raise SystemExit(
                f"{settings['data_root']} has {len(split.train)} training images: give --images as many"
            )
        return split
    return data.load(replace(recipes.DEMO, store_size=32, **sizes))


def fork_workers():
    """Start a DataLoader's workers as in a notebook on Linux: in no time."""
    if sys.platform == "linux":
        multiprocessing.set_start_method("fork", force=True)


def _serve(connection, kind, options):
    fork_workers()
    from cifarlib.training import choose_device, peak_memory

    def memory():
        """The device's and the host's peak, in bytes."""
        return {"device": peak_memory(choose_device()), "host": peak_memory(torch.device("cpu"))}

    arm = kind(**options)
    connection.send("ready")
    while (method := connection.recv()) is not None:
        connection.send(getattr(arm, method)() if method != "memory" else memory())
        if torch.cuda.is_available():  # a process that waits leaves the GPU's memory to the others
            gc.collect()
            torch.cuda.empty_cache()


class Worker:
    """An arm in a process of its own: `ask` names a method and waits for what it returns.

    It starts at once, and whoever first asks it waits until it has: several start together.
    """

    def __init__(self, kind, **options):
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, kind, options))
        self.process.start()
        theirs.close()
        self.ready = False

    def wait(self):
        """Wait until the arm has started."""
        if not self.ready:
            self.ready = self._receive("its start") == "ready"

    def ask(self, method):
        """Run a method of the arm; an arm that failed has printed why, and ends the benchmark."""
        self.wait()
        with contextlib.suppress(BrokenPipeError):  # what it says next is why
            self.connection.send(method)
        return self._receive(method)

    def _receive(self, what):
        try:
            return self.connection.recv()
        except EOFError:
            raise SystemExit(f"the process that measures failed in {what}; what it printed says why") from None

    def __enter__(self):
        return self

    def __exit__(self, *error):
        with contextlib.suppress(BrokenPipeError):
            self.connection.send(None)
        self.process.join(10)
        self.process.terminate()
