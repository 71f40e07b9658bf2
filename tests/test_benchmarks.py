"""The comparison with the plain script: it is plain, the gates can fail, the tables are the files'."""

from __future__ import annotations

import ast
import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.optim.optimizer import register_optimizer_step_pre_hook

from benchmarks import __main__ as command
from benchmarks import gpu, gpu_parts, parity, peer, report, speed
from cifarlib import data, models, recipes, training
from cifarlib.data import ImageSet, Split

ROOT = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")
LEVEL1 = replace(recipes.LEVEL1, weights="none", image_size=32, precision="32-true")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def split() -> Split:
    return data.load(replace(recipes.DEMO, store_size=32, train_size=48, val_size=20, test_size=30))


def test_the_peer_has_none_of_our_code() -> None:
    tree = ast.parse((ROOT / "benchmarks" / "peer.py").read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "." for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in imported} == {"contextlib", "torch", "torchvision"}


def test_the_peers_inputs_are_ours_up_to_its_rounding(split: Split) -> None:
    recipe = replace(LEVEL1, image_size=96)
    batches = peer.loader(*parity.pictures(split.val), size=96, batch_size=20)
    batches.num_workers = 0
    theirs, labels = next(iter(batches))
    assert labels.tolist() == split.val.labels.tolist()
    # PIL enlarges rows, rounds to whole values, enlarges columns and rounds again: half a value each time.
    value = 1 / 255 / 0.224  # at ImageNet's smallest deviation
    difference = (data.prepare(split.val.images, recipe) - theirs).abs()
    assert difference.max() <= 1.01 * value
    assert difference.mean() < value / 2


@pytest.mark.parametrize("tuned", [False, True])
def test_the_peer_learns_its_classifier_and_nothing_else(split: Split, tuned: bool) -> None:
    torch.manual_seed(0)
    model = peer.Peer("resnet50", 10, trainable="head", rate=1e-3, tuned=tuned)
    before = {name: value.clone() for name, value in model.net.state_dict().items()}
    batches = peer.loader(*parity.pictures(split.train), size=32, shuffle=True, batch_size=16)
    batches.num_workers = 0
    losses = [model.train_epoch(batches)[0] for _ in range(3)]
    assert losses[-1] < losses[0]
    changed = {name for name, value in model.net.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"fc.weight", "fc.bias"}


def test_the_peers_squeeze_excite_is_ours() -> None:
    recipe = replace(recipes.LEVEL3, weights="none", image_size=32)
    ours = models.build(recipe, 10).eval()
    torch.manual_seed(recipe.seed)
    theirs = peer.Peer("se_resnet50", 10, trainable="layer4", rate=1e-3)
    gate = theirs.net.avgpool[0]
    assert torch.equal(gate(torch.ones(2, 2048, 1, 1)), torch.ones(2, 2048, 1, 1))  # it starts as the identity
    names = {"se.squeeze.weight": "avgpool.0.squeeze.weight", "se.excite.weight": "avgpool.0.excite.weight"}
    start = {names.get(name, name): value for name, value in ours.torchvision_state().items()}
    assert all(torch.equal(value, start[name]) for name, value in theirs.net.state_dict().items())
    torch.nn.init.normal_(ours.tail.se.excite.weight)  # type: ignore[union-attr,arg-type]
    theirs.net.load_state_dict({names.get(k, k): v for k, v in ours.torchvision_state().items()})
    x = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(theirs.net.eval()(x), ours(x), atol=1e-5)
    trained = {name for name, value in theirs.net.named_parameters() if value.requires_grad}
    assert {name.partition(".")[0] for name in trained} == {"layer4", "avgpool", "fc"}
    assert len(trained) == sum(value.requires_grad for value in ours.parameters())


def test_the_script_is_trained_by_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps an epoch, the last one short: rates, decay, and how often the validation images are looked at."""
    recipe = replace(recipes.LEVEL2, weights="none", image_size=32, epochs=2)
    split = data.load(replace(recipes.DEMO, store_size=32, train_size=70, val_size=20, test_size=30))
    sizes, rates = [], []

    def in_this_process(*photos: object, **options: object) -> object:
        batches = peer.loader(*photos, **options)
        batches.num_workers = 0
        sizes.append(len(batches.dataset))
        return batches

    def record(optimizer: torch.optim.Optimizer, *rest: object) -> None:
        assert isinstance(optimizer, torch.optim.AdamW)
        (group,) = optimizer.param_groups
        assert group["weight_decay"] == recipe.weight_decay
        rates.append(group["lr"])

    monkeypatch.setattr(parity, "loader", in_this_process)
    hook = register_optimizer_step_pre_hook(record)
    try:
        probs, seconds = parity.train_peer(recipe, split, CPU, validate=True)
    finally:
        hook.remove()
    assert rates == pytest.approx([training.learning_rate(recipe, step, 4) for step in range(4)])
    assert sizes == [70, 20, 20, 30]  # validated after each epoch
    assert probs.shape == (30, 10) and np.allclose(probs.sum(1), 1) and seconds > 0


def _two_classes(root: Path) -> None:
    for part in ("train", "test"):
        for name in ("a", "b"):
            folder = root / part / name
            folder.mkdir(parents=True)
            for i in range(5):
                shade = (i * 20, 100 if name == "a" else 0, 50 if part == "test" else 0)
                Image.new("RGB", (32, 32), shade).save(folder / f"{i}.png")


STUDY = {"epochs": {"level1": 5, "level2": 10, "level3": 12, "efficientnet": 10}, "image_size": 32}


def test_the_study_both_ways_ends_with_the_votes_of_each_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two classes of five test images, worked by hand; the trainings themselves are not run."""
    _two_classes(tmp_path)
    labels = np.repeat([0, 1], 5)
    # The chance of class a that each gives to every image: of the script's members one is right about all a,
    # the other, surer of itself, about all b; of ours one is right about everything.
    of_a = {
        ("_peer", "level3"): np.full(10, 0.6),
        ("_peer", "efficientnet"): np.full(10, 0.1),
        ("_ours", "level3"): np.where(labels == 0, 0.9, 0.1),
        ("_ours", "efficientnet"): np.full(10, 0.6),
    }
    asked = []

    def trained(work: Callable[..., object], recipe: recipes.Recipe, *rest: object) -> tuple[object, ...]:
        side = work.__name__
        asked.append((side, recipe.name, recipe.epochs, rest[-1]))
        a = of_a.get((side, recipe.name), np.full(10, 0.7))
        result = np.stack([a, 1 - a], axis=1), 6.0 if side == "_peer" else 2.0
        return result if side == "_peer" else (*result, None)

    monkeypatch.setattr(parity, "_alone", trained)
    profile = replace(recipes.FULL, val_size=2)
    weights = {"resnet50": "none", "efficientnet_b0": "none"}
    done = [len(found["rows"]) for found in parity.study(profile, tmp_path, weights, CPU, **STUDY)]
    assert done == [1, 2, 3, 4, 5]  # each training is kept when it is done
    # The script validates, and the gates are the parity's.
    each = [[("_peer", name, n, True), ("_ours", name, n, False)] for name, n in STUDY["epochs"].items()]
    assert asked == [one for both in each for one in both]
    *_, found = parity.study(profile, tmp_path, weights, CPU, **STUDY)
    vote = found["rows"][-1]
    assert vote["level"] == "level4"
    assert (vote["peer_accuracy"], vote["our_accuracy"]) == (0.5, 1.0)
    assert (vote["only_ours_right"], vote["only_peer_right"]) == (5, 0)
    assert vote["p"] == 2 / 2**5 and vote["difference"][0] == 0.5
    table = report.study_table({"device": "CPU", "study": found | {"note": "drawn", "versions": {}}}).splitlines()
    row = next(line for line in table if line.startswith("| Level 4"))
    _, epochs, theirs, ours, difference, *rest = (cell.strip() for cell in row.strip("|").split("|"))
    assert [epochs, theirs, ours, *rest] == ["", "50.00 %", "100.00 %", "0.062", "", "", ""]
    assert difference.startswith("+50.00 (")
    assert table[-1] == "| All of it | | | | | | 24 s | 8.0 s | 3.0× |"
    assert len({line.count("|") for line in table[2:]}) == 1


def test_the_study_refuses_weights_that_do_not_fit_before_it_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _two_classes(tmp_path)
    monkeypatch.setattr(parity, "_alone", lambda *arguments: pytest.fail("something was trained"))
    other = tmp_path / "resnet.safetensors"
    state = models.build(LEVEL1, 2).torchvision_state()
    save_file({name: value.contiguous() for name, value in state.items()}, other)
    profile = replace(recipes.FULL, val_size=2)
    weights = {"resnet50": "none", "efficientnet_b0": str(other)}
    with pytest.raises(ValueError, match="efficientnet"):
        next(parity.study(profile, tmp_path, weights, CPU, **STUDY))
    with pytest.raises(FileNotFoundError, match="missing"):
        next(parity.study(profile, tmp_path, weights | {"efficientnet_b0": "missing"}, CPU, **STUDY))


def test_the_gates_pass_an_exact_engine_and_stop_a_wrong_one(split: Split) -> None:
    engine = training.Engine(models.build(LEVEL1, 10), LEVEL1, CPU)
    training.fit(engine, split.train, split.val, say=lambda line: None)
    found = parity.agreement(engine, split.test)
    assert found["features_agree"] and found["flips_are_toss_ups"] and found["images"] == 30
    with torch.no_grad():  # the engine's folded copy no longer is the model
        engine._trunk.layer4[2].conv3.weight.mul_(-2)  # type: ignore[union-attr,operator,index]
    wrong = parity.agreement(engine, split.test)
    assert not wrong["features_agree"]
    assert wrong["flips"] > 0 and not wrong["flips_are_toss_ups"]


def test_ratios_pair_the_repeats_and_keep_the_cold_one_apart() -> None:
    seconds = {"peer": [90.0, 10.0, 20.0, 60.0], "ours": [9.0, 2.0, 2.0, 3.0]}
    samples = [
        {"arm": arm, "measure": "layer4_epoch", "repeat": i, "cold": i == 0, "seconds": s}
        for arm, values in seconds.items()
        for i, s in enumerate(values)
    ]
    assert speed.ratio(samples, "layer4_epoch", "peer") == {"median": 10, "low": 5, "high": 20, "cold": 10}


class Tiny:
    """An arm whose work takes so many seconds, it says."""

    def __init__(self, settings: dict[str, object], seconds: float) -> None:
        self.seconds = seconds

    def frozen_phase(self) -> float:
        return self.seconds


@pytest.mark.slow
def test_the_comparison_gives_what_it_has_measured_and_takes_its_arms_in_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arms = {name: (Tiny, {"seconds": seconds}) for name, seconds in (("peer", 4.0), ("left", 9.0), ("ours", 2.0))}
    monkeypatch.setattr(speed, "arms", lambda settings: arms)
    settings, some = {"device": "cpu", "repeats": 2}, ("frozen_phase",)
    parts = speed.measure(settings, say=lambda line: None, measures=some, without=("left",))
    found = next(parts)
    assert found["ratios"] == {"frozen_phase": {"peer/ours": {"median": 2, "low": 2, "high": 2, "cold": 2}}}
    assert [sample["arm"] for sample in found["samples"]] == ["peer", "ours", "ours", "peer", "peer", "ours"]
    assert [sample["cold"] for sample in found["samples"]] == [True, True, False, False, False, False]
    parts.close()  # as an interrupt does
    assert not multiprocessing.active_children()


def test_a_speed_run_that_is_stopped_keeps_its_part_beside_what_was_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*arguments: object, **options: object) -> Iterator[dict[str, object]]:
        yield {"ratios": {"frozen_phase": 3}}
        raise KeyboardInterrupt

    out = tmp_path / "results.json"
    whole = {"device": "CPU", "earlier": "measured"}
    out.write_text(json.dumps(whole))
    monkeypatch.setattr(speed, "measure", stopped)
    monkeypatch.setattr("sys.argv", ["benchmarks", "--images", "64", "--out", str(out)])
    with pytest.raises(KeyboardInterrupt):
        command.main()
    assert json.loads(out.read_text()) == whole
    partial = tmp_path / "results.json.speed.partial"
    assert json.loads(partial.read_text())["ratios"] == {"frozen_phase": 3}


@pytest.mark.parametrize("path", ["README.md", "benchmarks/README.md"])
def test_the_tables_are_those_of_the_results_files(path: str, tmp_path: Path) -> None:
    """`make bench` writes them; a figure changed by hand, or a file without its table, is found here."""
    (tmp_path / "benchmarks").mkdir()
    for name in ("README.md", "benchmarks/README.md"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    report.write(tmp_path)
    assert (tmp_path / path).read_text() == (ROOT / path).read_text()


def test_every_results_file_holds_what_the_comparison_promises() -> None:
    measures = {"frozen_phase", "layer4_epoch", "efficientnet_epoch", "input_pipeline", "stall"}
    files = report.load()
    assert files
    for found in files:
        rows = found.get("study", {}).get("rows", [])
        assert [row["level"] for row in rows] in ([], [*STUDY["epochs"], "level4"])
        assert {"device", "versions", "settings", "precision", "ratios", "samples"} <= set(found)
        whole = set(found["ratios"]) == measures and "agreement" in found
        assert whole or (set(found["ratios"]) < measures and "remark" in found)  # one that was stopped says so
        for measure in set(found["ratios"]) - {"stall"}:
            assert found["ratios"][measure]["peer/ours"] == speed.ratio(found["samples"], measure, "peer")
        for gate in [*found.get("agreement", {}).values(), *found.get("parity", {}).get("gates", [])]:
            assert gate["features_agree"] and gate["flips_are_toss_ups"]
        for interval in found.get("parity", {}).get("intervals", {}).values():
            assert interval["contains_0"]
        assert found["settings"]["images"] >= 128 and found["settings"]["image_size"] == 224


def test_the_table_of_a_run_that_was_stopped_says_what_is_missing() -> None:
    whole = next(found for found in report.load() if "speeds" in found)
    first = {"frozen_phase": whole["ratios"]["frozen_phase"]}
    stopped = {key: whole[key] for key in ("device", "versions", "settings", "precision")} | {"ratios": first}
    table, expected = report.speed_table(stopped), report.speed_table(whole)
    assert "Not measured: " in table and table.count(";") == 3 and "stall ratios." in table
    assert "Not measured" not in expected
    row = next(line for line in expected.splitlines() if line.startswith("| Level 1"))
    assert row in table.splitlines()


def test_images_that_are_compared_are_the_same(split: Split) -> None:
    few: ImageSet = split.val.take(torch.arange(3))
    pictures, labels = parity.pictures(few)
    assert labels == few.labels.tolist()
    for picture, stored in zip(pictures, few.images, strict=True):
        assert picture.getpixel((5, 7)) == tuple(stored[:, 7, 5].tolist())


# --- Ten minutes of a GPU ----------------------------------------------------------------------------------


def _part(name: str, out: Path, body: str) -> list[str]:
    """Make a part's command, of Python's own modules as the watching process is."""
    start = f"import sys; sys.path.insert(0, {str(ROOT / 'benchmarks')!r}); import gpu, os, subprocess, time\n"
    record = f"record = gpu.Record(gpu.Path({str(out / name)!r} + '.json'))\n"
    return [sys.executable, "-c", start + record + body]


def _found(out: Path) -> dict[str, dict[str, object]]:
    return {path.stem: json.loads(path.read_text()) for path in sorted(out.iterdir())}


def test_a_gpu_part_that_fails_says_why_keeps_what_it_had_and_the_next_one_runs(tmp_path: Path) -> None:
    failing = """
def part(options, keep):
    keep(half=1)
    raise ValueError("no such thing\\nand a page more")
sys.exit(gpu.work(part, None, record))
"""
    bodies = {
        "1-fails": failing,
        "2-dies": "record.keep(half=2)\nos._exit(7)",
        "3-skips": "sys.exit(gpu.work(lambda options, keep: 'skipped: no photographs', None, record))",
        "4-works": "sys.exit(gpu.work(lambda options, keep: keep(all=4), None, record))",
    }
    commands = {name: (_part(name, tmp_path, body), 30) for name, body in bodies.items()}
    outcomes = gpu.attend(commands, tmp_path, time.monotonic() + 100)
    assert outcomes == {
        "1-fails": "failed: ValueError: no such thing",
        "2-dies": "failed: ended with status 7",
        "3-skips": "skipped: no photographs",
        "4-works": "done",
    }
    found = _found(tmp_path)
    assert {name: part["outcome"] for name, part in found.items()} == outcomes
    assert (found["1-fails"]["half"], found["2-dies"]["half"], found["4-works"]["all"]) == (1, 2, 4)


def test_a_gpu_part_ends_with_its_time_and_all_with_the_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "SPARE", 1)
    monkeypatch.setattr(gpu, "LEAST", 1)
    endless = """
child = subprocess.Popen(["sleep", "600"])
for n in range(10**9):
    record.keep(child=child.pid, n=n)
"""
    commands = {
        "1-slow": (_part("1-slow", tmp_path, endless), 1.0),
        "2-slow": (_part("2-slow", tmp_path, endless), 600),
        "3-late": (_part("3-late", tmp_path, "record.keep(began=True)"), 600),
    }
    deadline = time.monotonic() + 4.5
    outcomes = gpu.attend(commands, tmp_path, deadline)
    assert time.monotonic() < deadline
    assert outcomes["1-slow"] == "cut off after 1 s"
    assert outcomes["2-slow"].startswith("cut off after ")
    assert outcomes["3-late"].startswith("not started: only ")
    found = _found(tmp_path)
    assert {name: part["outcome"] for name, part in found.items()} == outcomes
    assert "began" not in found["3-late"]
    for name in ("1-slow", "2-slow"):
        assert found[name]["n"] > 0  # type: ignore[operator]
        assert _gone(found[name]["child"])  # type: ignore[arg-type]


def _gone(pid: int, seconds: float = 20) -> bool:
    """Whether a process that was killed has ended: the system takes a moment for it, on a busy machine."""
    for _ in range(round(10 * seconds)):
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.1)
    return False


def test_who_reads_a_gpu_record_while_it_is_written_has_the_whole_old_one(tmp_path: Path) -> None:
    record = gpu.Record(tmp_path / "1-part.json")
    record.keep(first=1)
    with record.path.open() as reader:
        record.keep(second=2)
        assert json.load(reader) == {"first": 1}
    assert json.loads(record.path.read_text()) == {"first": 1, "second": 2}
    assert [*tmp_path.iterdir()] == [record.path]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--only", "6"], "--only 6: give numbers from 1 to 5"),
        (["--only", "1,one"], "--only 1,one: give numbers from 1 to 5"),
        (["--photos", "nowhere.tar.xz"], "nowhere.tar.xz: there is no such file or folder"),
        (["--only", "2"], "holds 2-tests.json of an earlier run"),
    ],
)
def test_the_gpu_script_refuses_what_it_cannot_use(
    arguments: list[str], complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "2-tests.json").write_text("{}")
    with pytest.raises(SystemExit):
        gpu.parse([str(tmp_path), *arguments])
    assert complaint in " ".join(capsys.readouterr().err.split())
    assert gpu.parse([str(tmp_path), "--only", "3,1"]).names == ["1-t4-stand-in", "3-speed"]


@pytest.mark.slow
def test_the_gpu_script_rehearses_without_a_gpu(tmp_path: Path) -> None:
    """From the shell on, with the part that has the least to do without one."""
    script, env = (
        ROOT / "benchmarks" / "gpu.sh",
        os.environ | {"CUDA_VISIBLE_DEVICES": "", "PYTHON": sys.executable},
    )
    subprocess.run([script, "out", "--tiny", "--only", "2"], cwd=tmp_path, env=env, check=True)
    (found,) = _found(tmp_path / "out").values()
    assert found["outcome"] == "skipped: no test found a GPU"
    assert found["counts"] == {"skipped": len(found["tests"])}  # type: ignore[arg-type]
    assert found["rehearsal"] and found["environment"]["device"] == "cpu"  # type: ignore[index]


def test_a_gpu_part_that_is_no_rehearsal_does_nothing_without_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "choose_device", lambda: CPU)
    kept: dict[str, object] = {}
    for part in gpu.PARTS:
        skipped = gpu_parts.do(gpu.parse([str(tmp_path), "--part", part]), kept.update)
        assert skipped.startswith("skipped: torch finds no GPU here")
    assert set(kept) == {"environment", "rehearsal"}


def test_a_step_that_learns_something_else_is_told_from_one_that_does_not() -> None:
    bench = gpu_parts.Bench(32, "cpu")

    def wrong(trainer: training.Trainer, index: torch.Tensor) -> None:
        with torch.no_grad():  # its folded trunk no longer is the model's
            trainer.engine._trunk.conv1.weight.mul_(-1)  # type: ignore[union-attr,operator]

    differences = [gpu_parts._steps(change, bench)[2]() for change in (lambda trainer, index: None, wrong)]
    assert differences[0] < 1e-3 < gpu_parts.TOLERANCE < differences[1]


def test_what_the_gpu_parts_take_from_elsewhere_is_there() -> None:
    """No CPU runs these: a name that has changed would be found on the GPU alone, when its minutes are running."""
    assert callable(training.Engine._free_memory)
    assert set(gpu_parts.PARTS) == set(gpu.PARTS)
