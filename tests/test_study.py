"""The study: from a level's name to a run that is trained, resumed or loaded."""

from __future__ import annotations

import contextlib
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from cifarlib import Study, data, evaluation, models, recipes, robustness, tables, training
from cifarlib.runs import RunError

# The whole study in seconds: few small images, one epoch, no pretraining.
SMALL = {
    "weights": "none",
    "image_size": 32,
    "train_size": 40,
    "val_size": 20,
    "test_size": 30,
    "epochs": 1,
    "batch_size": 20,
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


def study(root: Path, **overrides: object) -> Study:
    return Study("demo", run_root=root, overrides=SMALL | overrides)


def test_a_run_is_trained_once_and_then_loaded(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert study(root).find("level1") is None
    run = study(root).run("level1")
    assert "level1 epoch  1/1" in capsys.readouterr().out
    again = study(root).run("level1")
    assert "epoch" not in capsys.readouterr().out
    assert again.path == run.path
    np.testing.assert_array_equal(again.predictions["test_probs"], run.predictions["test_probs"])
    assert study(root).find("level1") is not None
    assert study(root, epochs=2).find("level1") is None  # another recipe is another run
    assert study(root, test_size=29).find("level1") is None  # and so are other images


def test_metrics_agree_with_the_predictions_and_the_saved_model(root: Path) -> None:
    here = study(root)
    run = here.run("level1")
    labels = here.split.test.labels.numpy()
    np.testing.assert_array_equal(run.predictions["test_labels"], labels)
    assert run.metrics["test_accuracy"] == evaluation.accuracy(run.predictions["test_probs"], labels)
    assert run.metrics["val_accuracy"] == pytest.approx(run.history["val_accuracy"].iloc[-1])
    model = here.model("level1")
    with torch.no_grad():
        probs = model(data.prepare(here.split.test.images, run.recipe)).softmax(dim=1).numpy()
    # The saved model is fp32 and not folded; the run's predictions may be bf16's.
    np.testing.assert_allclose(run.predictions["test_probs"], probs, atol=0.02)
    assert not model.training


def test_the_test_set_is_not_touched_before_the_last_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`fit` is given training and validation images; the test images are read after it, once."""
    here = study(tmp_path)
    events: list[str] = []
    fit, probs = training.fit, training.Engine.probs

    def watched_fit(engine: object, train: data.ImageSet, val: data.ImageSet, **options: object) -> object:
        events.append("fit")
        assert {train.fingerprint, val.fingerprint}.isdisjoint({here.split.test.fingerprint})
        return fit(engine, train, val, **options)  # type: ignore[arg-type]

    def watched_probs(engine: training.Engine, images: torch.Tensor, *features: torch.Tensor) -> np.ndarray:
        events.append("test" if images is here.split.test.images else "val")
        return probs(engine, images, *features)

    monkeypatch.setattr(training, "fit", watched_fit)
    monkeypatch.setattr(training.Engine, "probs", watched_probs)
    here.run("level1")
    assert events == ["fit", "test"]  # the validation set was predicted by `fit`


def test_level_4_is_the_vote_of_its_two_members(tmp_path: Path) -> None:
    here = study(tmp_path)
    members = [here.run(name).predictions["test_probs"] for name in ("level3", "efficientnet")]
    probs = evaluation.soft_vote(members)
    assert sorted(path.name.rpartition("-")[0] for path in tmp_path.iterdir()) == ["efficientnet", "level3"]
    results = here.results()
    assert list(results) == ["level3", "level4"]  # levels that were not run are missing
    labels = here.split.test.labels.numpy()
    assert results["level4"]["test_accuracy"] == evaluation.accuracy(probs, labels)
    assert results["level4"]["seconds"] == pytest.approx(
        sum(here.run(name).metrics["seconds"] for name in ("level3", "efficientnet"))
    )
    low, high = results["level4"]["test_interval"]
    assert low <= results["level4"]["test_accuracy"] <= high


def test_the_demo_pretrains_a_stand_in_once_per_backbone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = SMALL | {"weights": "pretrain", "pretrain_size": 40, "pretrain.epochs": 1}
    here = Study("demo", run_root=tmp_path, overrides=small)
    assert here.find("level1") is None
    first = here.run("level1")
    assert "pretrain_resnet50 epoch" in capsys.readouterr().out
    here.run("level2")
    assert "pretrain" not in capsys.readouterr().out
    assert "not CIFAR-10" in here.notice() and "pretrained on the spot" in here.notice()

    # The frozen trunk of level 1 is the pretrained one, bit for bit.
    (stand_in,) = tmp_path.glob("pretrain_resnet50-*")
    from safetensors.torch import load_file

    pretrained, trunk = load_file(stand_in / "model.safetensors"), here.model("level1").trunk
    for name, value in trunk.state_dict().items():
        assert torch.equal(value, pretrained[name]), name
    # Nothing is drawn to find them again, and other arguments are other runs.
    monkeypatch.setattr(data, "pretrain_set", lambda *_: pytest.fail("drawn again"))
    assert Study("demo", run_root=tmp_path, overrides=small).run("level1").path == first.path
    for changes in ({"pretrain_size": 41}, {"split_seed": 1}):
        assert Study("demo", run_root=tmp_path, overrides=small | changes).find("level1") is None


def test_auto_says_loudly_what_it_chose(capsys: pytest.CaptureFixture[str]) -> None:
    chosen = Study("auto").profile.name
    out = capsys.readouterr().out
    assert chosen == ("full" if torch.cuda.is_available() else "demo")
    assert f"{chosen.upper()} profile" in out


@pytest.mark.skipif(torch.cuda.is_available(), reason="auto means the full profile where CUDA is")
def test_auto_does_not_pass_over_images_of_ones_own(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(b"")
    with pytest.raises(ValueError, match="use them with profile='full'"):
        Study("auto", data_root=tmp_path)


def test_a_run_that_cannot_be_had_is_none_and_the_reason_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here = study(tmp_path, weights="imagenet1k_v2")  # which EfficientNet-B0 does not have
    assert here.find("efficientnet") is None
    assert "efficientnet: not used. torchvision has no imagenet1k_v2 weights" in capsys.readouterr().out
    assert here.find("efficientnet") is None and here.results() == {}
    assert "not used" not in capsys.readouterr().out, "said again"


def test_finding_runs_reads_no_image_a_second_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = study(tmp_path)
    run = here.run("level1")
    known = here.split
    here.release_images()

    def load(*arguments: object, **options: object) -> None:
        raise AssertionError("the images were read again")

    monkeypatch.setattr(data, "load", load)
    again = study(tmp_path)
    again._outline = here.outline
    assert (found := again.find("level1")) is not None and found.path == run.path
    assert again.results()["level1"]["test_accuracy"] == run.metrics["test_accuracy"]
    assert here.notice() == again.notice() and here.outline.fingerprint == known.fingerprint
    assert here.outline.test.images.shape == known.test.images.shape
    assert here.outline.test.labels.equal(known.test.labels)
    with pytest.raises(AssertionError, match="read again"):
        _ = here.split


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown profile 'quick'"):
        Study("quick")
    with pytest.raises(ValueError, match="did you mean 'epochs'"):
        study(tmp_path, epoch=3)
    with pytest.raises(ValueError, match="unknown run 'level5': known are level1"):
        study(tmp_path).run("level5")
    with pytest.raises(FileNotFoundError, match=r"weights='missing\.pth' is no file"):
        study(tmp_path, **{"efficientnet.weights": "missing.pth"})  # before level 3 has been trained for hours
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="needs a GPU"):
            study(tmp_path, precision="16-mixed")
    with pytest.raises(ValueError, match="drive='true' is text: write True or False"):
        Study("demo", drive="true")  # type: ignore[arg-type]  # as papermill's -p drive true has it
    assert not list(tmp_path.iterdir())
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(NotADirectoryError, match=r"run_root=.*runs' is a file"):
        study(tmp_path / "runs")


def test_drive_is_mounted_in_colab_and_refused_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match="only Colab can: leave it False, and let run_root and data_root name"):
        Study("demo", drive=True)
    # Colab's module, as far as it is used: `mount` makes the folder appear.
    drive = ModuleType("google.colab.drive")
    drive.mount = lambda place: (Path(place) / "MyDrive").mkdir(parents=True)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "google.colab.drive", drive)
    monkeypatch.setattr("cifarlib.study._DRIVE", tmp_path / "drive")
    here = Study("demo", overrides=SMALL, drive=True, data_root=tmp_path / "photos")
    assert f"kept on Google Drive, below {tmp_path}/drive/MyDrive/cifarlib" in capsys.readouterr().out
    assert here.run("level1").path.parent == tmp_path / "drive" / "MyDrive" / "cifarlib" / "runs"
    assert here.data_root == tmp_path / "photos"  # an absolute path is what it says


def test_check_refuses_before_anything_is_trained(tmp_path: Path) -> None:
    study(tmp_path).check("level1", "level4")
    resnet = models.build(recipes.LEVEL1, 2).torchvision_state()
    torch.save(resnet, tmp_path / "resnet.pth")
    weights = str(tmp_path / "resnet.pth")
    study(tmp_path / "runs", weights=weights).check("level2", "level3")
    here = study(tmp_path / "runs", weights=weights)
    with pytest.raises(ValueError, match=r"do not fit efficientnet_b0: .*missing .*weights='none'"):
        here.check("level4")
    with pytest.raises(ValueError, match=r"torchvision has no imagenet1k_v2 weights for efficientnet_b0"):
        study(tmp_path / "runs", **{"efficientnet.weights": "imagenet1k_v2"}).check("level4")
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    (tmp_path / "photos" / "cat" / "1.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="two or more classes"):
        Study("full", run_root=tmp_path / "runs", data_root=tmp_path / "photos", overrides=SMALL).check("level1")
    assert not (tmp_path / "runs").exists()


def test_room_is_asked_for_under_every_seed_and_for_stand_ins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that has room for what the first seed takes, and no more, is refused before anything is trained."""
    seeds, demo = study(tmp_path, seeds=3), study(tmp_path, weights="pretrain", pretrain_size=20)
    kept, at_work = models.room(seeds.recipe("level1"))
    pretrained, pretraining = models.room(demo.recipes["pretrain"])
    for here, need in ((seeds, 3 * kept + at_work), (demo, kept + pretrained + max(at_work, pretraining))):
        for free in (need, need - 1):
            usage = SimpleNamespace(free=free)
            monkeypatch.setattr("cifarlib.runs.shutil.disk_usage", lambda place, usage=usage: usage)
            refused = pytest.raises(OSError, match=r"needs up to .* are free there: make room")
            with refused if free < need else contextlib.nullcontext():
                here.check("level1")
    assert not list(tmp_path.iterdir())


def test_what_is_finished_under_every_seed_needs_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A level has a run under each seed, the arm that its notebook trains besides has one."""
    here = study(tmp_path, seeds=2)
    both = ("level1", "level1_batchnorm")
    here.runs("level1")
    here.run("level1_batchnorm")
    own, _ = models.room(here.recipe("level1"))
    monkeypatch.setattr("cifarlib.runs.shutil.disk_usage", lambda place: SimpleNamespace(free=0))
    study(tmp_path, seeds=2).check(*both)
    with pytest.raises(OSError, match="needs up to"):
        study(tmp_path, seeds=3).check(*both)
    with pytest.raises(OSError, match="needs up to"):  # asked for by its name, it is trained under every seed
        study(tmp_path, seeds=2).check(runs=["level1_batchnorm"])
    kept = re.findall(r"keep ([\d.]+) GiB", study(tmp_path, seeds=39).expectations(*both))
    assert float(kept[0]) == pytest.approx((39 + 1) * own / 2**30, abs=0.05)


def test_an_arm_that_is_a_level_is_found_as_that_level(tmp_path: Path) -> None:
    here = study(tmp_path, **{"level3.epochs": 1, "level2.epochs": 1})
    run = here.run("level3_plain")
    assert run.recipe.name == "level2" and here.find("level2") is run is here.run("level2")
    assert [path.name.partition("-")[0] for path in tmp_path.iterdir()] == ["level2"]


def test_what_trainings_take_is_said_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    full = Study("full", run_root=tmp_path / "runs", data_root=tmp_path / "data")
    said = full.expectations("level3")
    assert "CIFAR-10 163 MiB, imagenet1k_v1 weights of resnet50 98 MiB (data_root " in said
    assert f"{tmp_path / 'data'} holds no class folders)\n" in said  # a typing error is seen before the download
    assert "imagenet1k_v1 weights of efficientnet_b0 20 MiB" in full.expectations("level4")
    assert "To train, unless finished: level1, level1_batchnorm\n" in full.expectations(
        "level1", "level1_batchnorm"
    )
    assert "To train, unless finished: level2, level3\n" in full.expectations("level3")
    assert "To train, unless finished: level3\n" in full.expectations(runs=["level3"])
    assert "unless finished: level2, level3, level3_plain\n" in full.expectations("level3", "level3_plain")
    as_long = Study("full", run_root=tmp_path / "runs", overrides={"level3.epochs": 10, "seeds": 2})
    assert "unless finished: level2, level3\n" in as_long.expectations("level3", "level3_plain")
    assert as_long.expectations("level3", "level3_plain") == as_long.expectations("level3")  # two seeds of each
    with pytest.raises(ValueError, match="unknown run 'level5'"):
        full.expectations("level5")
    with pytest.raises(ValueError, match="unknown run 'levle1'"):
        full.find("levle1")
    assert list(tmp_path.iterdir()) == []

    here = study(tmp_path / "runs")
    assert "To download, unless there: nothing\n" in here.expectations("level1", "level4")
    own, _ = models.room(here.recipe("level1"))
    weights = (here.run("level1").path / "model.safetensors").stat().st_size
    assert own == pytest.approx(weights, rel=0.01)  # buffers, and a header
    kept = {
        seeds: float(re.findall(r"keep ([\d.]+) GiB", study(tmp_path, seeds=seeds).expectations("level2"))[0])
        for seeds in (1, 20)
    }
    assert kept[1] == pytest.approx(own / 2**30, abs=0.05)
    assert kept[20] == pytest.approx(20 * own / 2**30, abs=0.05)

    (tmp_path / "photos" / "cat").mkdir(parents=True)
    (tmp_path / "photos" / "cat" / "1.png").write_bytes(b"no image")
    own_images = Study("full", data_root=tmp_path / "photos", overrides=SMALL)
    capsys.readouterr()
    with pytest.raises(ValueError, match="two or more classes"):
        own_images.check("level1")
    assert "To download, unless there: nothing\n" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_in_colab_without_a_gpu_it_says_how_to_get_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Study("auto")
    said = capsys.readouterr().out
    assert "Runtime" not in said and "drive" not in said
    monkeypatch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))
    Study("auto")
    said = capsys.readouterr().out
    assert "Change runtime type > T4 GPU" in said
    assert "drive is False: what is trained here is gone when this Colab session ends.\n" in said
    Study("auto", run_root="/content/drive/MyDrive/runs")
    assert "drive is False" not in capsys.readouterr().out
    Study("demo")  # was asked for
    assert "Runtime" not in capsys.readouterr().out


def test_the_device_is_named_with_the_precision_that_follows(capsys: pytest.CaptureFixture[str]) -> None:
    Study("demo", overrides={"precision": "32-true"})
    assert re.fullmatch(r"Device: .+; trains in fp32\n", capsys.readouterr().out)
    Study("demo", overrides={"precision": "bf16-mixed", "efficientnet.precision": "32-true"})
    assert capsys.readouterr().out.endswith("; trains in bf16, EfficientNet-B0 in fp32\n")


def test_a_finished_run_needs_no_weights_to_be_checked(tmp_path: Path) -> None:
    """None is downloaded for it, even where torchvision's are meant; that it is whole is looked at."""
    asked: list[str] = []
    weights = {"weights": "imagenet1k_v1"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "load_weights", lambda recipe: asked.append(recipe.name))  # as if there were none
        run = study(tmp_path, **weights).run("level1")
        asked.clear()
        study(tmp_path, **weights).check("level1")
        assert asked == []
        study(tmp_path, **weights, epochs=2).check("level1")
        assert asked == ["level1"]
        (run.path / "history.csv").write_text("damaged")
        with pytest.raises(RunError, match=r"history\.csv is missing or damaged"):
            study(tmp_path, **weights).check("level1")


def test_check_counts_built_in_images_before_they_are_drawn(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="train_size=None"):
        study(tmp_path, train_size=None).check("level1")
    with pytest.raises(MemoryError, match="lower train_size=1000000000000"):
        study(tmp_path, train_size=10**12).check("level1")


def test_a_damaged_run_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = study(tmp_path).run("level1").path
    (path / "metrics.json").write_text("{}")
    with pytest.raises(RunError, match="damaged"):
        study(tmp_path).run("level1")
    assert (path / "model.safetensors").exists()


def test_of_other_classes_only_the_claims_that_are_decided_are_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    for name in ("beech", "maple", "oak"):
        (tmp_path / "leaves" / name).mkdir(parents=True)
        for i in range(6):
            pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "leaves" / name / f"{i}.png")
    sizes = {"train_size": None, "val_size": None, "test_size": None}
    here = Study(
        "full",
        run_root=tmp_path / "runs",
        data_root=tmp_path / "leaves",
        overrides=SMALL | sizes | {"weights": "none"},
    )
    here.run("level1")
    capsys.readouterr()
    rows = here.claims("level1")
    assert 0 < len(rows) < 31 and {row["verdict"] for row in rows} <= {"holds", "does not hold"}
    assert f"of its 31 claims the {len(rows)} are listed that can be judged" in capsys.readouterr().out
    assert list(tables.claims([]).columns) == list(tables.claims(rows).columns)  # none at all is a table too


def test_maps_of_one_pixel_are_refused_before_anything_is_trained(tmp_path: Path) -> None:
    study(tmp_path).check("level3")  # without maps 32 px do
    with pytest.raises(ValueError, match=r"image_size=32 of level3 leaves .* maps of one pixel.*33 or more"):
        study(tmp_path, dilation=False).check("level3", maps=["level3"])
    study(tmp_path, dilation=True).check("level3", maps=["level3"])
    assert not list(tmp_path.iterdir())


def test_test_images_that_are_training_images_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    root = tmp_path / "photos"
    for name in ("cat", "dog"):
        for part in ("train", "test", "more"):
            (root / part / name).mkdir(parents=True)
        for i in range(10):
            photo = Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8))
            photo.save(root / "train" / name / f"{i}.png")
            if i < 4:  # under another name, as another file
                photo.save(root / "test" / name / f"copy {i}.png", optimize=True)
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(root / "test" / name / "new.png")
    (root / "more").rename(tmp_path / "more")
    sizes = {"train_size": None, "val_size": None, "test_size": None, "weights": "none"}
    here = Study("full", run_root=tmp_path / "runs", data_root=root, overrides=SMALL | sizes)
    capsys.readouterr()
    assert len(here.split.test) == 10
    assert "8 of the 10 test images are training or validation images too" in capsys.readouterr().out
    here.load_test(root / "train")
    assert "20 of the 20 images of train are training or validation images too" in capsys.readouterr().out


def test_documented_figures_count_only_in_the_documents_setting(root: Path) -> None:
    here = study(root)
    assert not here.documented_setting
    assert here.builtin
    verdicts = {row["claim"]: row["verdict"] for row in here.claims("level1")}
    assert "not measurable here" in verdicts.values()


@pytest.mark.slow
def test_photographs_run_from_start_to_result(photographs: Path, tmp_path: Path) -> None:
    """An image folder of real photographs through level 1 (a smoke run: random weights, two epochs)."""
    overrides = {"weights": "none", "image_size": 32, "epochs": 2, "batchnorm": "target"}
    here = Study("full", run_root=tmp_path, data_root=photographs, overrides=overrides)
    run = here.run("level1")
    assert here.classes[0] == "airplane" and len(here.classes) == 10
    assert run.history["train_loss"].iloc[1] < run.history["train_loss"].iloc[0]
    assert "Images from the folder" in here.notice() and not here.documented_setting


def test_other_seeds_are_runs_of_their_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here = study(tmp_path, seeds=2)
    runs = here.runs("level1")
    assert capsys.readouterr().out.count("level1, seed 1:\n") == 1
    study(tmp_path, seeds=2).runs("level1")
    said = [line for line in capsys.readouterr().out.splitlines() if "found" in line]
    assert said == ["level1: found finished, loaded", "level1, seed 1: found finished, loaded"]
    assert list(runs) == [0, 1] and [run.recipe.seed for run in runs.values()] == [0, 1]
    assert runs[0].path == here.run("level1").path != runs[1].path
    assert study(tmp_path).find("level1", seed=1) is not None  # found whether or not it was asked for
    assert study(tmp_path).find("level1", seed=2) is None
    accuracies = [run.metrics["test_accuracy"] for run in runs.values()]
    spread = here.results()["level1"]["seeds"]
    assert spread["accuracies"] == accuracies
    assert spread["seed_sd"] == pytest.approx(np.std(accuracies, ddof=1))
    assert "seeds" not in study(tmp_path).results()["level1"]


def test_levels_are_compared_on_the_same_images(tmp_path: Path) -> None:
    here = study(tmp_path)
    assert here.comparisons() == []
    labels = here.split.test.labels.numpy()
    probs = {name: here.run(name).predictions["test_probs"] for name in ("level1", "level2")}
    (row,) = here.comparisons()
    assert (row["model"], row["over"]) == ("level2", "level1")
    test = evaluation.mcnemar_marks(*(probs[name].argmax(axis=1) == labels for name in ("level2", "level1")))
    assert (row["only_model"], row["only_over"], row["p"]) == test
    assert here.predictions("level4") is None


def test_calibration_in_the_results_is_fitted_on_validation(tmp_path: Path) -> None:
    here = study(tmp_path)
    run = here.run("level1")
    found = here.results()["level1"]["calibration"]
    val, test = (run.predictions[f"{part}_probs"] for part in ("val", "test"))
    t = evaluation.temperature(evaluation.log_probs(val), run.predictions["val_labels"])
    assert found["temperature"] == t
    labels = run.predictions["test_labels"]
    assert found["before"]["ece"] == evaluation.ece(test, labels)
    assert found["after"]["nll"] == evaluation.nll(evaluation.apply_temperature(test, t), labels)


def test_results_hold_the_curves_of_every_run_and_the_recall_of_every_class(tmp_path: Path) -> None:
    here = study(tmp_path, epochs=2)
    runs = {name: here.run(name) for name in ("level3", "efficientnet")}
    results = here.results()
    assert {level: list(values["history"]) for level, values in results.items()} == {
        "level3": ["level3"],
        "level4": ["level3", "efficientnet"],
    }
    for name, run in runs.items():
        history = results["level4"]["history"][name]
        assert history["epoch"] == [1, 2]
        assert history["val_accuracy"] == run.history["val_accuracy"].tolist()
    labels = here.split.test.labels.numpy()
    recall = results["level3"]["recall"]
    assert tuple(recall) == here.classes
    right = runs["level3"].predictions["test_probs"].argmax(1) == labels
    for label, name in enumerate(here.classes):
        found = recall[name]
        assert found["recall"] == right[labels == label].mean() and found["support"] == 3
        assert found["low"] <= found["recall"] <= found["high"]


# Of random features, enough that a shift moves some predictions.
LEARNT = {"level1.epochs": 60, "level1.learning_rate": 0.01, "level1.batchnorm": "target"}


def test_robustness_asks_runs_about_altered_images(tmp_path: Path) -> None:
    here = study(tmp_path, **LEARNT)
    for name in ("level2", "level2_noaug", "level1", "level3", "efficientnet"):
        here.run(name)
    names = ["level2", "level2_noaug", "level1"]
    found = here.robustness([*names, "level4"], kinds=("contrast", "noise"), strengths=(1, 2, 3), images=24)
    shifts = ["none", "contrast, mild", "noise, mild", "contrast", "noise", "contrast, strong", "noise, strong"]
    assert {name: list(of) for name, of in found.items()} == dict.fromkeys(found, shifts)
    sample = here.sample(24)
    labels = sample.labels.numpy()
    assert set(labels.tolist()) == set(range(10))  # stratified
    at = [int(np.flatnonzero((here.split.test.images == image).all(dim=(1, 2, 3)))[0]) for image in sample.images]
    versions = robustness.shifted(sample.images, "contrast", 3)
    probs = {}
    for name in (*names, "level3", "efficientnet"):
        # Features shared between arms change nothing: every model by itself gives the same.
        engine = training.Engine(here.model(name), here.recipe(name), here.device)
        probs[name] = [engine.probs(version) for version in versions]
    for name in names:
        expected = [p.argmax(1) == labels for p in probs[name]]
        np.testing.assert_array_equal(found[name]["contrast, strong"], np.mean(expected, axis=0))
        right = here.run(name).predictions["test_probs"][at].argmax(1) == labels
        np.testing.assert_array_equal(found[name]["none"], right)
    votes = [(a + b).argmax(1) == labels for a, b in zip(probs["level3"], probs["efficientnet"], strict=True)]
    np.testing.assert_array_equal(found["level4"]["contrast, strong"], np.mean(votes, axis=0))
    assert 0.5 in found["level1"]["contrast, strong"]  # the two directions are told apart
    assert {len(of["noise"]) for of in found.values()} == {24}
    with pytest.raises(ValueError, match="sample of 0 images"):
        here.robustness(["level1"], images=0)


def test_a_sample_of_a_folder_has_every_class(tmp_path: Path) -> None:
    """A folder's images come class by class: the first of them would be of one class."""
    for number, name in enumerate(("ant", "bee", "cow")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(24):
            picture = np.full((32, 32, 3), 10 * i + number, np.uint8)
            Image.fromarray(picture).save(tmp_path / "photos" / name / f"{i}.png")
    overrides = {"weights": "none", "image_size": 32}
    here = Study("full", run_root=tmp_path / "runs", data_root=tmp_path / "photos", overrides=overrides)
    assert np.bincount(here.sample(6).labels.numpy()).tolist() == [2, 2, 2]
    assert len(here.sample(1000)) == len(here.split.test)


def test_another_test_set_is_one_more_column(tmp_path: Path) -> None:
    """The study's own test images, saved as CIFAR-10.1 is and as a folder, give the study's own accuracies."""
    here = study(tmp_path / "runs", store_size=32)
    arrays = tmp_path / "own"
    arrays.mkdir()
    np.save(arrays / "copy_data.npy", here.split.test.images.permute(0, 2, 3, 1).numpy())
    np.save(arrays / "copy_labels.npy", here.split.test.labels.numpy())
    with pytest.raises(ValueError, match=r"no level has been run under .*runs with these images"):
        here.evaluate(here.load_test(arrays))
    for name in ("level1", "level3", "efficientnet"):
        here.run(name)
    found = here.evaluate(here.load_test(arrays), "some/own")
    assert (found["name"], found["images"]) == ("own", 30)
    assert found["classes"] == dict.fromkeys(here.classes, 3)
    results = here.results()
    assert set(found["levels"]) == {"level1", "level3", "level4"}
    for level, values in found["levels"].items():
        assert values["test_accuracy"] == values["own"] == results[level]["test_accuracy"]
        assert values["test_interval"] == results[level]["test_interval"]
    folder = tmp_path / "cats"
    (folder / "cat").mkdir(parents=True)
    cats = here.split.test.labels.numpy() == here.classes.index("cat")
    for i in np.flatnonzero(cats):
        Image.fromarray(here.split.test.images[i].permute(1, 2, 0).numpy()).save(folder / "cat" / f"{i}.png")
    few = here.evaluate(here.load_test(folder))
    assert few["images"] == 3
    right = here.run("level1").predictions["test_probs"][cats].argmax(1) == here.classes.index("cat")
    level1 = few["levels"]["level1"]
    assert level1["test_accuracy"] == level1["own"] == right.mean()  # on the images of these classes alone
    difference, low, high = level1["difference"]
    assert low < difference == 0 < high
    assert "balanced_accuracy" not in level1  # one class alone
    dog = int(np.flatnonzero(here.split.test.labels.numpy() == here.classes.index("dog"))[0])
    (folder / "dog").mkdir()
    Image.fromarray(here.split.test.images[dog].permute(1, 2, 0).numpy()).save(folder / "dog" / "one.png")
    with_dog = here.evaluate(here.load_test(folder))["levels"]["level1"]
    dog_right = here.run("level1").predictions["test_probs"][dog].argmax() == here.classes.index("dog")
    assert with_dog["balanced_accuracy"] == pytest.approx((right.mean() + dog_right) / 2)
