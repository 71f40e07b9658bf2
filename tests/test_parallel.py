"""Several processes on one training give what one gives: two real ones, over gloo."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
import torch

from cifarlib import parallel

# 45 images in batches of 16 leave 13 over, of which the processes take 6 and 7.
SMALL = {
    "weights": "none",
    "image_size": 32,
    "train_size": 45,
    "val_size": 21,
    "test_size": 31,
    "epochs": 2,
    "batch_size": 16,
    "precision": "32-true",
    "level2.learning_rate": 1e-5,
}

# A study of trainings whose BatchNorm stays in eval mode, since each process would take the statistics of its own
# share.
SCRIPT = f"""
    import os, sys
    import torch
    torch.set_num_threads(1)
    from cifarlib import Study, models, parallel, training

    init = training.Trainer.__init__
    def without_statistics(self, engine, train, features=None):
        init(self, engine, train, features)
        for norm in models.batchnorms(self.tail):
            norm.eval()
            norm.train = lambda mode=True: None
    training.Trainer.__init__ = without_statistics

    study = Study("demo", run_root=sys.argv[1], overrides={SMALL}, checkpoint_seconds=0)
    for name in sys.argv[2:]:
        run = study.run(name)
    # All write to one pipe: the first process is done before the others, and a line is written at once.
    sys.stdout.flush()
    parallel.wait()
    os.write(1, f"process {{parallel.rank()}} of {{parallel.world()}}\\n".encode())
"""

# What the parts of a model see while the pace is measured in batches of 13, and what `together` takes of memory.
MEASURED = """
    import json, os
    from dataclasses import replace
    import torch
    torch.set_num_threads(1)
    from cifarlib import data, models, parallel, recipes, training

    recipe = replace(recipes.LEVEL1, weights="none", image_size=32, batch_size=13, precision="32-true")
    split = data.load(replace(recipes.DEMO, store_size=32, train_size=20, val_size=10, test_size=10))
    engine = training.Engine(models.build(recipe, 10), recipe, torch.device("cpu"))
    seen = {"trunk": [], "tail": []}
    for name, part in (("trunk", engine._trunk), ("tail", engine.model.tail)):
        part.register_forward_pre_hook(lambda module, args, name=name: seen[name].append(len(args[0])))
    training.measure_pace(engine, split.train)
    found = {name: sorted(set(sizes)) for name, sizes in seen.items()}

    expected = torch.arange(13 * 8 * 16 * 16.0).reshape(13, 8, 16, 16)
    part = expected[parallel.share(13)]
    with torch.profiler.profile(profile_memory=True) as profile:
        whole = parallel.together(part, 13)
    found["right"] = torch.equal(whole, expected) and whole.is_contiguous(memory_format=torch.channels_last)
    taken = sum(max(0, event.self_cpu_memory_usage) for event in profile.key_averages())
    found["buffers"] = taken / whole.nbytes
    os.write(1, (json.dumps(found | {"rank": parallel.rank()}) + "\\n").encode())
"""


def finished(command: list[str]) -> str:
    """Run it to its end and return what it printed."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def train(root: Path, *names: str, processes: int) -> str:
    return started(SCRIPT, root, *names, processes=processes)


def started(source: str, root: Path, *names: str, processes: int) -> str:
    script = root / "script.py"
    script.write_text(textwrap.dedent(source))
    command = [sys.executable, str(script), str(root), *names]
    if processes > 1:
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--log-dir={os.devnull}"]
        command = [*torchrun, f"--nproc-per-node={processes}", *command[1:]]
    return finished(command)


def runs(root: Path) -> dict[str, Path]:
    return {path.name.partition("-")[0]: path for path in root.iterdir() if path.is_dir()}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    one, two = (tmp_path_factory.mktemp(name) for name in ("one", "two"))
    train(one, "level1", "level2", processes=1)
    return one, two, train(two, "level1", "level2", processes=2)


@pytest.mark.parametrize("name", ["level1", "level2"])
def test_two_processes_give_what_one_gives(both: tuple[Path, Path, str], name: str) -> None:
    one, two, _ = both
    a, b = runs(one)[name], runs(two)[name]
    assert a.name == b.name  # one run, however it was trained
    with np.load(a / "predictions.npz") as expected, np.load(b / "predictions.npz") as found:
        for key in expected.files:
            np.testing.assert_allclose(found[key], expected[key], rtol=2e-3, atol=2e-5, err_msg=key)
    histories = [pd.read_csv(path / "history.csv") for path in (a, b)]
    for column in ("train_loss", "val_loss", "train_accuracy", "val_accuracy"):
        np.testing.assert_allclose(histories[1][column], histories[0][column], rtol=1e-4, err_msg=column)
    assert sorted(path.name for path in b.iterdir()) == sorted(path.name for path in a.iterdir())


def test_the_first_process_alone_speaks_and_all_finish(both: tuple[Path, Path, str]) -> None:
    printed = both[2]
    assert printed.count("level2 epoch  2/2") == 1
    assert sorted(line for line in printed.splitlines() if line.startswith("process")) == [
        "process 0 of 2",
        "process 1 of 2",
    ]


@pytest.mark.slow
def test_each_process_times_its_share_and_gathers_into_one_buffer(tmp_path: Path) -> None:
    """A process that timed the whole batch would take its arithmetic for twice as slow as training is."""
    printed = started(MEASURED, tmp_path, processes=2)
    found = sorted((json.loads(line) for line in printed.splitlines()), key=lambda each: each["rank"])
    assert [(each["trunk"], each["tail"]) for each in found] == [([6], [6]), ([7], [7])]
    assert all(each["right"] for each in found)
    assert all(each["buffers"] < 1.5 for each in found)


@pytest.mark.slow
def test_what_one_process_began_two_of_the_command_line_finish(
    tmp_path: Path, both: tuple[Path, Path, str]
) -> None:
    """And the checkpoint within an epoch, which holds the sum of the processes' parts, counts once."""
    from cifarlib import Study
    from cifarlib.runs import RunFolder

    class Stop(RunFolder):
        def save_checkpoint(self, epochs: int, steps: int, content: bytes) -> None:
            super().save_checkpoint(epochs, steps, content)
            if (epochs, steps) == (1, 1):
                raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cifarlib.study.RunFolder", Stop)
        with pytest.raises(KeyboardInterrupt):
            Study("demo", run_root=tmp_path, overrides=SMALL, checkpoint_seconds=0).run("level1")
    command = [sys.executable, "-m", "cifarlib", "train", "1", "--devices", "2", "--profile", "demo"]
    command += ["--run-root", str(tmp_path), *(f"--set={name}={value}" for name, value in SMALL.items())]
    printed = finished(command)
    assert "Training in 2 processes" in printed
    assert "level1: resumed after epoch 1 of 2 and 1 of 3 steps of the next" in printed
    assert printed.count("level1: test accuracy") == 1
    expected, found = (pd.read_csv(runs(root)["level1"] / "history.csv") for root in (both[0], tmp_path))
    for column in ("train_loss", "val_loss", "train_accuracy", "val_accuracy"):
        np.testing.assert_allclose(found[column], expected[column], rtol=1e-4, err_msg=column)


@pytest.mark.slow
def test_an_interrupt_leaves_no_process_at_work(tmp_path: Path) -> None:
    """Control-C reaches the command and torchrun; what torchrun started, in sessions of its own, it ends."""
    command = [sys.executable, "-m", "cifarlib", "train", "1", "--devices", "2", "--profile", "demo"]
    command += ["--run-root", str(tmp_path), *(f"--set={name}={value}" for name, value in SMALL.items())]
    pipes: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    # Run in the background of a shell without job control, tests have SIGINT ignored, and a child inherits it.
    own = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731
    with subprocess.Popen(command, **pipes, start_new_session=True, preexec_fn=own) as process:
        try:
            trainings: list[psutil.Process] = []
            while process.poll() is None and len(trainings) < 2:
                time.sleep(0.1)
                below = [child.children() for child in psutil.Process(process.pid).children()]
                trainings = [child for each in below for child in each if "cifarlib" in child.cmdline()]
            os.killpg(process.pid, signal.SIGINT)
            _, said = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130, said
    assert said.rstrip().endswith("cifarlib: interrupted; the same command goes on where it stopped")
    assert len(trainings) == 2 and not any(each.is_running() for each in trainings)


def test_shares_are_all_of_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for world in (1, 2, 3, 7):
        monkeypatch.setenv("WORLD_SIZE", str(world))
        for n in (7, 8, 64, 65):
            taken: list[int] = []
            for rank in range(world):
                monkeypatch.setenv("RANK", str(rank))
                taken += range(n)[parallel.share(n)]
            assert taken == list(range(n))
    with pytest.raises(ValueError, match="6 images are too few to be shared by 7 processes"):
        parallel.share(6)


def test_alone_nothing_is_asked_of_anyone() -> None:
    part = torch.arange(6.0).reshape(3, 2)
    assert parallel.together(part, 3) is part and parallel.total(part) is part
    assert parallel.agree(True) is True
    parallel.wait()
    assert not torch.distributed.is_initialized()
