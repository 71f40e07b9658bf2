"""The tables' cells, worked out by hand from small inputs."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from scipy.stats import binomtest

from cifarlib import documented, evaluation, models, tables
from cifarlib.data import ImageSet, Split
from cifarlib.recipes import LEVEL1, LEVEL2, LEVEL3, Recipe, documented_recipe
from cifarlib.runs import Run


def cells(frame: pd.DataFrame) -> dict[str, dict[str, Any]]:
    return frame.to_dict("index")


def run(recipe: Recipe, *, right: int = 3, n: int = 4, **metrics: Any) -> Run:
    """A run with `right` of `n` test images predicted correctly; `metrics` adds to or replaces its figures."""
    labels = np.arange(n) % 2
    predicted = np.where(np.arange(n) < right, labels, 1 - labels)
    probs = np.where(np.arange(2) == predicted[:, None], 0.8, 0.2).astype(np.float32)
    return Run(
        recipe=recipe,
        path=Path("runs/one"),
        classes=("cat", "dog"),
        history=history(3),
        predictions={"val_probs": probs, "val_labels": labels, "test_probs": probs, "test_labels": labels},
        metrics={
            "train_accuracy": 0.98765,
            "val_accuracy": 0.5,
            "test_accuracy": right / n,
            "test_nll": 0.43216,
            "parameters": 23_528_522,
            "trainable_parameters": 20_490,
            "images_per_second": 1234.5678,
            "seconds_per_epoch": 3.0,
            "stall_ratio": None,
            "peak_memory_bytes": 3 * 2**29,
            "precision": "32-true",
            "cached_features": True,
        }
        | metrics,
        environment={},
    )


def history(n: int) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "epoch": range(1, n + 1),
            "train_loss": [1 / e for e in range(1, n + 1)],
            "train_accuracy": [0.7 + e / 100 for e in range(1, n + 1)],
            "val_loss": [2 / e for e in range(1, n + 1)],
            "val_accuracy": [0.71111] * n,
            "learning_rate": [1e-3] * n,
            "seconds": [10.04, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0][:n],
        }
    )


def wilson(right: int, n: int) -> tuple[float, float]:
    found = binomtest(right, n).proportion_ci(0.95, method="wilson")
    return float(found.low), float(found.high)


# --- Numbers as text ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fraction", "digits", "text"),
    [
        (0.8206, 2, "82.06 %"),
        (1.0, 2, "100.00 %"),
        (0.0, 1, "0.0 %"),
        (2 / 3, 1, "66.7 %"),
        (-0.0009, 2, "-0.09 %"),
    ],
)
def test_percent(fraction: float, digits: int, text: str) -> None:
    assert tables.percent(fraction, digits) == text


@pytest.mark.parametrize(("right", "n"), [(8206, 10_000), (9464, 10_000), (0, 50), (50, 50), (3, 4)])
def test_an_interval_is_wilsons(right: int, n: int) -> None:
    low, high = wilson(right, n)
    assert tables.interval(right / n, n) == f"{100 * right / n:.2f} % ({100 * low:.2f} to {100 * high:.2f})"


def test_the_documents_baseline_with_its_interval() -> None:
    # By hand, z = 1.96: centre (8206 + 1.92) / 10003.84 = 0.82048, half-width 0.00752.
    assert tables.interval(0.8206, 10_000) == "82.06 % (81.30 to 82.80)"


def test_bounds_are_the_same_interval_as_fractions() -> None:
    accuracy, low, high = tables.bounds(run(LEVEL1, right=3, n=4))
    assert accuracy == 0.75
    assert (low, high) == pytest.approx(wilson(3, 4))


# --- The split ---------------------------------------------------------------------------------------------


def image_set(counts: tuple[int, ...], classes: tuple[str, ...] = ()) -> ImageSet:
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    classes = classes or tuple("abc"[: len(counts)])
    return ImageSet(torch.zeros(len(labels), 3, 8, 8, dtype=torch.uint8), labels, classes, "folder", "0" * 16)


def test_the_split_gives_true_shares_beside_the_stated_ones() -> None:
    ten = tuple(documented.PER_CLASS)
    train = image_set((2000, 1986, *(2,) * 7, 0), ten)
    test = image_set((300, *(75,) * 8, 100), ten)
    split = Split(train=train, val=image_set((500, 500), ten), test=test)
    assert cells(tables.split(split)) == {
        "train": {
            "images": "4,000",
            "share": "66.7 %",
            "stated in the documents": "80 %",
            "images per class": "0 to 2,000",
        },
        "validation": {
            "images": "1,000",
            "share": "16.7 %",
            "stated in the documents": "10 %",
            "images per class": "0 to 500",
        },
        "test": {
            "images": "1,000",
            "share": "16.7 %",
            "stated in the documents": "10 %",
            "images per class": "75 to 300",
        },
    }


def test_a_balanced_part_states_one_number_per_class() -> None:
    split = Split(train=image_set((4, 4)), val=image_set((1, 1)), test=image_set((1, 1)))
    assert list(tables.split(split)["images per class"]) == ["4", "1", "1"]
    assert "stated in the documents" not in tables.split(split)  # they speak of other classes


# --- Recipes -----------------------------------------------------------------------------------------------


def test_a_configuration_marks_what_is_changed_here() -> None:
    table = cells(tables.configuration(replace(LEVEL2, epochs=4, hue=0.0, seed=7)))
    assert table["epochs"] == {"here": "4", "the study's": "10", "origin": "documented, changed here"}
    assert table["hue"] == {"here": "0", "the study's": "0.1", "origin": "assumed, changed here"}
    assert table["learning_rate"] == {"here": "0.0003", "the study's": "0.0003", "origin": "documented"}
    assert table["weight_decay"] == {"here": "0.0001", "the study's": "0.0001", "origin": "documented"}
    assert table["augment"] == {"here": "yes", "the study's": "yes", "origin": "documented"}
    assert table["dilation"] == {"here": "no", "the study's": "no", "origin": "assumed"}
    assert table["model"] == {"here": "resnet50", "the study's": "resnet50", "origin": "documented"}
    assert sum("changed here" in row["origin"] for row in table.values()) == 2


def test_a_configuration_leaves_out_what_has_no_effect() -> None:
    silent, augmentation = (
        {"name", "seed"},
        {"crop_padding", "flip", "brightness", "contrast", "saturation", "hue"},
    )
    se = {"se_ratio", "se_init"}
    every = set(Recipe.__dataclass_fields__)
    assert set(tables.configuration(LEVEL1).index) == every - silent - augmentation - se
    assert set(tables.configuration(LEVEL2).index) == every - silent - se
    assert set(tables.configuration(LEVEL3).index) == every - silent


def test_an_arms_configuration_is_held_against_the_arm() -> None:
    arm = replace(documented_recipe("level2_noaug_frozen"), epochs=3)
    table = cells(tables.configuration(arm))
    assert table["trainable"] == {"here": "head", "the study's": "head", "origin": "documented"}
    assert [name for name, row in table.items() if "changed" in row["origin"]] == ["epochs"]


def test_a_difference_lists_the_fields_that_differ_and_no_others() -> None:
    table = tables.difference(LEVEL1, LEVEL2)
    assert cells(table) == {
        "trainable": {"level1": "head", "level2": "layer4"},
        "augment": {"level1": "no", "level2": "yes"},
        "optimizer": {"level1": "adam", "level2": "adamw"},
        "learning_rate": {"level1": "0.001", "level2": "0.0003"},
        "weight_decay": {"level1": "0", "level2": "0.0001"},
        "schedule": {"level1": "constant", "level2": "cosine"},
        "epochs": {"level1": "5", "level2": "10"},
    }
    assert len(tables.difference(LEVEL1, replace(LEVEL1, name="other", seed=3))) == 0


# --- Architecture ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model() -> models.Classifier:
    return models.build(replace(LEVEL3, weights="none"), 10)


def test_the_architecture_is_listed_in_order_with_its_totals(model: models.Classifier) -> None:
    table = tables.architecture(model, 64)
    trunk = ["conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3"]
    assert list(table.index) == [*trunk, "layer4", "se", "avgpool", "flatten", "fc", "all"]
    rows = cells(table)
    assert rows["conv1"] == {"output": "64 x 32 x 32", "parameters": "9,408", "state": "frozen"}
    assert rows["relu"] == {"output": "64 x 32 x 32", "parameters": "", "state": ""}
    assert rows["layer3"] == {"output": "1024 x 4 x 4", "parameters": "7,098,368", "state": "frozen"}
    assert rows["layer4"] == {"output": "2048 x 2 x 2", "parameters": "14,964,736", "state": "trained"}
    assert rows["se"] == {"output": "2048 x 2 x 2", "parameters": "524,288", "state": "trained"}
    assert rows["flatten"] == {"output": "2048", "parameters": "", "state": ""}
    assert rows["fc"] == {"output": "10", "parameters": "20,490", "state": "trained"}
    assert rows["all"] == {"output": "", "parameters": "24,052,810", "state": "15,509,514 trained"}
    listed = [int(row["parameters"].replace(",", "")) for row in rows.values() if row["parameters"]]
    assert sum(listed[:-1]) == listed[-1]


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(training: bool, model: models.Classifier) -> None:
    model = copy.deepcopy(model).train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    tables.architecture(model, 64)
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_the_model_is_left_as_it_was_when_it_cannot_run(model: models.Classifier) -> None:
    model = copy.deepcopy(model).train()
    modes = [module.training for module in model.modules()]
    with pytest.raises(RuntimeError):
        tables.architecture(model, 0)
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_hooks for module in model.modules())


# --- Results -----------------------------------------------------------------------------------------------


def test_epochs_stand_beside_the_documented_ones() -> None:
    table = tables.epochs(history(6), documented.LEVEL1)
    assert list(table.index) == [f"epoch {e}" for e in range(1, 7)]
    rows = cells(table)
    assert rows["epoch 1"] == {
        "train loss": "1.0000",
        "val loss": "2.0000",
        "train accuracy": "71.00 %",
        "val accuracy": "71.11 %",
        "documented train": "74.28 %",
        "documented val": "78.94 %",
        "time": "10.0 s",
    }
    assert rows["epoch 3"]["train loss"] == "0.3333"
    assert (rows["epoch 5"]["documented train"], rows["epoch 5"]["documented val"]) == ("81.06 %", "82.23 %")
    assert (rows["epoch 6"]["documented train"], rows["epoch 6"]["documented val"]) == ("", "")


def test_epochs_without_a_level_name_no_document() -> None:
    table = tables.epochs(history(2))
    assert list(table) == ["train loss", "val loss", "train accuracy", "val accuracy", "time"]


def test_accuracies_compare_runs_by_the_callers_names() -> None:
    table = tables.accuracies({"level 1": run(LEVEL1, right=3), "other": run(LEVEL2, right=4, test_nll=0.1)})
    low, high = wilson(3, 4)
    assert cells(table)["level 1"] == {
        "train accuracy": "98.77 %",
        "val accuracy": "50.00 %",
        "test accuracy (95 % interval)": f"75.00 % ({100 * low:.2f} to {100 * high:.2f})",
        "test NLL": "0.4322",
    }
    assert cells(table)["other"]["test accuracy (95 % interval)"].startswith("100.00 % (")
    assert cells(table)["other"]["test NLL"] == "0.1000"


def test_where_classes_differ_in_size_each_counts_alike_too() -> None:
    table = tables.accuracies({"one": run(LEVEL1, right=2, n=3)})  # two cats, one of them right, and a dog
    assert list(table.columns)[2:] == ["test accuracy (95 % interval)", "balanced test accuracy", "test NLL"]
    assert cells(table)["one"]["balanced test accuracy"] == "75.00 %"


def test_arms_are_listed_by_their_factors() -> None:
    runs = {name: run(documented_recipe(name)) for name in ("level2_noaug_frozen", "level2_noaug", "level2")}
    table = tables.arms(runs)
    assert list(table["augmentation"]) == ["no", "no", "yes"]
    assert list(table["fine-tuning"]) == ["no", "yes", "yes"]
    assert set(table["train accuracy"]) == {"98.77 %"}
    assert table["test accuracy (95 % interval)"].iloc[0] == tables.interval(0.75, 4)


def test_per_class_formats_the_report() -> None:
    probs = [[0.9, 0.1], [0.4, 0.6], [0.3, 0.7]]
    report = evaluation.per_class_report(probs, [0, 1, 0], ["cat", "<dog>"])
    assert cells(tables.per_class(report)) == {
        "cat": {"precision": "1.000", "recall": "0.500", "f1": "0.667", "images": "2"},
        "<dog>": {"precision": "0.500", "recall": "1.000", "f1": "0.667", "images": "1"},
        "macro average": {"precision": "0.750", "recall": "0.750", "f1": "0.667", "images": "3"},
    }


def test_votes_count_confident_mistakes() -> None:
    labels = np.array([0, 0, 1, 1])
    sure = np.array([[0.95, 0.05], [0.05, 0.95], [0.05, 0.95], [0.8, 0.2]])
    table = cells(tables.votes({"sure": sure, "right": np.eye(2)[labels]}, labels))
    # Two of four right; true classes have 0.95, 0.05, 0.95, 0.2; of the two mistakes one is above 0.9.
    nll = -np.log([0.95, 0.05, 0.95, 0.2]).mean()
    # Two bins hold images: three of confidence 0.95 of which two are right, one of 0.8 that is wrong.
    ece = 0.75 * abs(2 / 3 - 0.95) + 0.25 * 0.8
    assert table["sure"] == {
        "test accuracy (95 % interval)": tables.interval(0.5, 4),
        "test NLL": f"{nll:.4f}",
        "ECE": f"{ece:.4f}",
        "confident mistakes": "1",
    }
    assert table["right"]["confident mistakes"] == "0"
    assert table["right"]["test accuracy (95 % interval)"].startswith("100.00 % (")


def test_cams_average_what_was_measurable() -> None:
    nan = float("nan")
    measured = {
        "map_size": 4,
        "compactness": np.array([0.2, nan, 0.4]),
        "entropy": np.array([0.7, nan, 0.9]),
        "pointing": np.array([True, False, True]),
        "energy": np.array([0.5, nan, 0.25]),
        "centre_pointing": np.array([True, True, False]),
        "centre_energy": np.array([0.2, 0.2, 0.35]),
        "object_share": np.array([0.1, 0.2, 0.3]),
    }
    blank = {"map_size": 2, "compactness": np.array([0.5]), "entropy": np.array([1.0])}
    road = {"road": np.array([0.25, nan, 0.25])}
    table = cells(tables.cams({"a": measured, "b": blank, "c": blank | road}).T)
    assert table["a"] == {
        "map": "4 x 4",
        "compactness": "0.300",
        "entropy": "0.800",
        "ROAD (95 % interval)": table["a"]["ROAD (95 % interval)"],
        "on the object": "66.7 %",
        "centre, on it": "66.7 %",
        "energy inside": "37.5 %",
        "centre, inside": "25.0 %",
        "object's share": "20.0 %",
    }
    assert (table["b"]["map"], table["b"]["compactness"]) == ("2 x 2", "0.500")
    assert pd.isna(table["b"]["on the object"]) and pd.isna(table["a"]["ROAD (95 % interval)"])
    assert table["c"]["ROAD (95 % interval)"] == "+0.250 (+0.250 to +0.250)"


def test_cam_differences_are_paired_and_leave_blank_maps_out() -> None:
    nan = float("nan")
    first = {"compactness": np.array([0.5, 0.5, nan]), "entropy": np.array([0.9, 0.9, 0.9]), "map_size": 4}
    second = {"compactness": np.array([0.25, 0.25, 0.25]), "entropy": np.array([1.0, 1.0, 1.0]), "map_size": 4}
    table = cells(tables.cam_differences(first | {"energy": np.array([1.0])}, second))
    assert list(table) == ["compactness", "entropy"]
    assert table["compactness"]["difference (95 % interval)"] == "+0.250 (+0.250 to +0.250)"
    assert (table["compactness"]["images"], table["entropy"]["images"]) == ("2", "3")
    assert table["entropy"]["difference (95 % interval)"] == "-0.100 (-0.100 to -0.100)"


def test_nothing_but_blank_maps_is_not_measurable() -> None:
    nan = np.array([float("nan")])
    blank = {"compactness": nan, "entropy": nan, "road": nan}
    table = cells(tables.cam_differences(blank, blank))
    assert {row["difference (95 % interval)"] for row in table.values()} == {"not measurable"}
    assert cells(tables.gate_shares(nan, nan)) == {
        "gates": {"on the object": "not measurable: the maps are blank"}
    }
    known = tables.gate_shares(np.array([0.25, 0.25, float("nan")]), np.array([0.5, 0.5, 0.5]))
    assert cells(known)["on the object"] == {
        "before": "25.00 %",
        "after": "50.00 %",
        "difference in points (95 % interval)": "+25.00 (+25.00 to +25.00)",
    }


def test_effects_of_four_arms_by_hand() -> None:
    arms = {
        "level2_noaug_frozen": 4,
        "level2_frozen": 6,
        "level2_noaug": 7,
        "level2": 10,
    }
    runs = {name: run(documented_recipe(name), right=right, n=20) for name, right in arms.items()}
    right = tables.right_by_arm(runs.values())
    assert {key: int(value.sum()) for key, value in right.items()} == {
        (False, False): 4,
        (True, False): 6,
        (False, True): 7,
        (True, True): 10,
    }
    table = tables.effects(evaluation.factorial(right))
    # Augmentation: (2 + 3) / 2 of 20; fine-tuning: (3 + 4) / 2; one image more with both.
    starts = [text.split(" (")[0] for text in table["points (95 % interval)"]]
    assert dict(zip(table.index, starts, strict=True)) == {
        "augmentation": "+12.50",
        "fine-tuning": "+17.50",
        "interaction": "+5.00",
    }


def test_seeds_stand_beside_the_choice_of_test_images() -> None:
    table = cells(tables.seeds({"several": [0.8, 0.82, 0.81], "one": [0.5]}, 100))
    assert table["several"] == {
        "seeds": "3",
        "mean test accuracy": "81.00 %",
        "deviation between seeds (95 % interval)": "1.00 points (0.52 to 6.28)",  # sqrt(2 / chi2_2), two quantiles
        "deviation from the choice of test images": f"{100 * np.sqrt(0.81 * 0.19 / 100):.2f} points",
    }
    assert table["one"]["deviation between seeds (95 % interval)"] == "one seed"
    assert table["one"]["deviation from the choice of test images"] == "5.00 points"


def test_comparisons_name_both_and_count_images() -> None:
    labels = np.zeros(100, dtype=int)
    right = {"a": np.arange(100) < 40, "b": np.arange(100) < 60}
    probs = {name: np.where(r[:, None], [0.9, 0.1], [0.1, 0.9]) for name, r in right.items()}
    table = cells(tables.comparisons(evaluation.compare(probs, labels)))
    assert list(table) == ["b - a"]
    row = table["b - a"]
    assert row["accuracy, points (95 % interval)"].startswith("+20.00 (+")
    # Where only b is right: log 9 nats better, a fifth of the images.
    assert row["NLL (95 % interval)"].startswith(f"{-0.2 * np.log(9):+.3f} (")
    assert (row["images"], row["only the first right"], row["only the second right"]) == ("+20", "20", "0")
    assert row["p (McNemar)"] == "< 0.001"
    assert "p (Holm)" not in row  # one pair: nothing to adjust for
    three = tables.comparisons(evaluation.compare(probs | {"c": probs["b"]}, labels))
    assert list(three.index) == ["b - a", "c - a", "c - b"]
    assert list(three["p (Holm)"]) == ["< 0.001", "< 0.001", "1.000"]
    assert tables.p_value(0.0321) == "0.032"


def test_calibration_before_and_after_one_temperature() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(400, 3))
    labels = (rng.random(400)[:, None] > (np.exp(logits) / np.exp(logits).sum(1, keepdims=True)).cumsum(1)).sum(1)
    sharp = np.exp(3 * logits) / np.exp(3 * logits).sum(1, keepdims=True)
    of = {"val_probs": sharp, "val_labels": labels, "test_probs": sharp}
    t = evaluation.temperature(evaluation.log_probs(sharp), labels)
    assert 2 < t < 4  # it was sharpened three times
    scaled = tables.with_temperature({"m": of})
    assert list(scaled) == ["m", f"m, T = {t:.2f}"]
    np.testing.assert_array_equal(scaled["m"], sharp)
    np.testing.assert_array_equal(scaled[f"m, T = {t:.2f}"], evaluation.apply_temperature(sharp, t))
    before, after = cells(tables.calibration(scaled, labels)).values()
    assert before["NLL (95 % interval)"].startswith(f"{evaluation.nll(sharp, labels):.3f} (")
    assert float(after["NLL (95 % interval)"].split()[0]) < float(before["NLL (95 % interval)"].split()[0])
    assert before["ECE"] == tables.percent(evaluation.ece(sharp, labels))
    assert before["if calibrated"] == tables.percent(evaluation.ece_if_calibrated(sharp))


def test_robustness_compares_what_two_runs_lose() -> None:
    ones = np.ones(8)
    right = {
        "level2": {"none": ones, "hue": np.array([1, 1, 1, 1, 1, 1, 0.5, 0.5])},
        "level2_noaug": {"none": ones, "hue": np.array([1, 1, 1, 1, 0, 0, 0, 0])},
    }
    table = cells(tables.robustness(right))
    assert table["none"]["kept more by the first, points"] == ""
    assert table["hue"]["level2"].startswith("87.50 % (")
    # Lost by the first an eighth, by the second a half.
    assert table["hue"]["kept more by the first, points"].startswith("+37.50 (")
    assert list(tables.robustness({"level2": right["level2"]})) == ["level2"]
    accuracies = tables.shift_accuracies(right)["level2"]
    assert accuracies["none"] == pytest.approx((1.0, *wilson(8, 8)))  # rights and wrongs: Wilson's
    assert accuracies["hue"] == tuple(evaluation.mean_interval(right["level2"]["hue"]))


def test_recall_differences_and_pairs_of_classes() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1])
    a = np.eye(2)[[0, 0, 0, 1, 1, 1]]
    b = np.eye(2)[[0, 1, 1, 1, 1, 1]]
    table = cells(tables.recall_differences(evaluation.recall_differences(a, b, labels, ["cat", "dog"])))
    assert table["cat"]["recall, points (95 % interval)"].startswith("+50.00 (")
    assert (table["cat"]["images"], table["cat"]["of"], table["dog"]["images"]) == ("+2", "4", "+0")

    classes = ("bird", "cat", "dog")
    first = np.array([[5, 2, 0], [1, 4, 3], [0, 6, 2]])
    counted = cells(tables.pair_counts({"one": first, "two": first.T}, classes))
    assert counted == {
        "cat and dog": {"one": "9", "two": "9"},
        "bird and cat": {"one": "3", "two": "3"},
        "all errors": {"one": "12", "two": "12"},
    }
    other = tables.pair_counts({"one": first}, ("x", "y", "z"))
    assert list(other.index) == ["y and z", "all errors"]  # the worst pair, where the documents' are not there


def test_diversity_of_pairs() -> None:
    labels = np.zeros(10, dtype=int)
    a, b = (np.eye(2)[np.isin(np.arange(10), wrong).astype(int)] for wrong in ([0, 1, 2], [2, 3]))
    table = cells(tables.diversity({"pair": evaluation.agreement(a, b, labels)}))
    # Both right 6, only a 1, only b 2, both wrong 1: Q = (6 - 2) / (6 + 2).
    assert table["pair"] == {
        "exactly one right": "30.00 %",
        "both wrong": "10.00 %",
        "Q statistic": "0.500",
        "at least one right": "90.00 %",
    }


def test_members_list_gain_and_cost() -> None:
    one = run(LEVEL3, right=10, n=20, parameters=2_000_000, seconds=60.0)
    two = run(documented_recipe("efficientnet"), right=20, n=20, parameters=4_000_000, seconds=30.0)
    object.__setattr__(two, "predictions", two.predictions | {"test_probs": np.eye(2)[np.arange(20) % 2]})
    table = cells(tables.members([one, two]))
    assert list(table) == ["level3", "+ efficientnet"]
    assert table["level3"]["test accuracy (95 % interval)"] == tables.interval(0.5, 20)
    # Where the first is wrong it says 0.8 against the second's 1: the vote is always right.
    assert table["+ efficientnet"]["gain in points"].startswith("+50.00 (")
    assert table["+ efficientnet"]["points a million parameters"] == "+12.500"
    assert table["+ efficientnet"]["points a minute of training"] == "+100.00 a min"


def test_a_second_test_set_is_a_column() -> None:
    found = {"test_accuracy": 0.7, "test_interval": [0.6, 0.8], "own": 0.75, "own_interval": [0.5, 0.9]}
    found |= {"difference": [-0.05, -0.3, 0.2]}
    second = {"name": "photos", "images": 50, "classes": {}, "levels": {"level2": found}}
    title = "on photos, 50 images (95 % interval)"
    assert cells(tables.second_test(second)) == {
        "Level 2": {
            "the study's test images of these classes (95 % interval)": "75.00 % (50.00 to 90.00)",
            title: "70.00 % (60.00 to 80.00)",
            "difference in points (95 % interval)": "-5.00 (-30.00 to +20.00)",
        }
    }
    found["balanced_accuracy"] = 0.655
    assert cells(tables.second_test(second))["Level 2"]["balanced"] == "65.50 %"
    summary = cells(tables.summary(RESULTS, 40, second))
    assert summary["Level 2"][title] == "70.00 % (60.00 to 80.00)"
    assert pd.isna(summary["Level 1"][title])


def test_costs() -> None:
    runs = {
        "cached": run(LEVEL1),
        "not": run(LEVEL2, cached_features=False, trainable_parameters=14_985_226, stall_ratio=0.968),
    }
    assert cells(tables.costs(runs)) == {
        "cached": {
            "parameters": "23,528,522",
            "trained": "20,490",
            "an epoch": "3.0 s",
            "training speed": "1,235 images/s",
            "stall ratio": "",
            "peak memory": "1.50 GiB",
            "precision": "32-true",
            "trunk computed": "once",
        },
        "not": {
            "parameters": "23,528,522",
            "trained": "14,985,226",
            "an epoch": "3.0 s",
            "training speed": "1,235 images/s",
            "stall ratio": "0.97 of resident",
            "peak memory": "1.50 GiB",
            "precision": "32-true",
            "trunk computed": "every epoch",
        },
    }


RESULTS: Mapping[str, Mapping[str, Any]] = {
    "level2": {
        "test_accuracy": 0.75,
        "test_nll": 0.5,
        "epochs": 10,
        "trainable_parameters": 14_985_226,
        "seconds": 61.26,
        "test_interval": [0.5, 0.9],
    }
}


def test_a_summary_says_which_levels_were_not_run() -> None:
    table = tables.summary(RESULTS, 40)
    assert list(table.index) == ["Level 1", "Level 2", "Level 3", "Level 4"]
    assert list(table["documented"]) == ["82.06 %", "94.64 %", "94.55 %", "95.11 %"]
    measured = "test accuracy (95 % interval)"
    assert list(table[measured]) == ["not run", tables.interval(0.75, 40), "not run", "not run"]
    assert cells(table)["Level 2"] == {
        "model": "ResNet-50 + Aug",
        "documented": "94.64 %",
        measured: tables.interval(0.75, 40),
        "test NLL": "0.5000",
        "epochs": "10",
        "trained parameters": "14,985,226",
        "training time": "61.3 s",
    }
    assert set(tables.summary({}, 40)[measured]) == {"not run"}


@pytest.mark.parametrize(("setting", "stated"), [(True, 0.9464), (False, None)])
def test_a_staircase_compares_only_in_the_documents_setting(setting: bool, stated: float | None) -> None:
    row = {"name": "Level 2", "accuracy": 0.75, "low": 0.5, "high": 0.9, "documented": stated}
    assert tables.staircase(RESULTS, setting) == [row]


def test_claims_are_numbered_in_order() -> None:
    rows = [
        {
            "verdict": "holds",
            "section": "6",
            "claim": "first",
            "evidence": "1 > 0",
            "rule": "r",
            "level": "level1",
        },
        {"verdict": "does not hold", "section": "8", "claim": "second", "evidence": "", "rule": "s", "level": "x"},
    ]
    table = tables.claims(iter(rows))
    assert list(table) == ["section", "claim", "verdict", "evidence", "rule"]
    assert list(table.index) == ["1", "2"]
    assert list(table["verdict"]) == ["holds", "does not hold"]


# --- Showing -----------------------------------------------------------------------------------------------


class Text(HTMLParser):
    """Collects the cells' text and the tags of a piece of HTML."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.rows: list[list[str]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data.strip()


def shown(frame: pd.DataFrame) -> dict[str, str]:
    return bundle(lambda: tables.show(frame))


def bundle(display: Callable[[], None]) -> dict[str, Any]:
    InteractiveShell.instance()
    try:
        with capture_output() as captured:
            display()
    finally:
        InteractiveShell.clear_instance()
    (output,) = captured.outputs
    return dict(output.data)


def test_show_gives_a_page_and_a_terminal_the_whole_table() -> None:
    long = "The ablation confirms that " + "the applied techniques are " * 20 + "responsible."
    wide = {f"column {i}": [long if i == 0 else f"cell {i}"] * 90 for i in range(30)}
    frame = pd.DataFrame(wide, index=[f"row {i} {'x' * 120}" for i in range(90)])
    data = shown(frame)
    assert set(data) == {"text/html", "text/plain"}
    header, *rows = Text(data["text/html"]).rows
    assert header == ["", *frame.columns]
    assert rows == [[name, *row] for name, row in zip(frame.index, frame.to_numpy().tolist(), strict=True)]
    lines = data["text/plain"].splitlines()
    assert len(lines) == 91
    for name, line in zip(frame.index, lines[1:], strict=True):
        assert line.startswith(name)
        assert line.count(long) == 1
        assert line.endswith("cell 29")


def test_a_claims_table_leaves_its_rows_for_the_report() -> None:
    row = {"section": "6", "claim": "a < b", "verdict": "holds", "evidence": "1 > 0", "rule": "r"}
    data = bundle(lambda: tables.show_claims([row]))
    assert json.loads(data[tables.CLAIMS_MIME]) == [row]
    assert Text(data["text/html"]).rows[1] == ["1", "6", "a < b", "holds", "1 > 0", "r"]


def test_show_escapes_names_and_cells() -> None:
    evil = "<script>alert('x')</script> & <b>"
    frame = pd.DataFrame({evil: [evil]}, index=[evil])
    data = shown(frame)
    page = Text(data["text/html"])
    assert page.tags == {"table", "thead", "tbody", "tr", "th", "td"}
    assert page.rows == [["", evil], [evil, evil]]
    assert data["text/plain"].count(evil) == 3


def test_show_leaves_missing_cells_and_the_indexs_name_empty() -> None:
    frame = pd.DataFrame({"a": ["1", None], "b": [np.nan, "2"]}, index=pd.Index(["x", "y"], name="hidden"))
    data = shown(frame)
    assert Text(data["text/html"]).rows == [["", "a", "b"], ["x", "1", ""], ["y", "", "2"]]
    for text in data.values():
        assert not re.search("nan|none|hidden", text, flags=re.IGNORECASE)


def test_confused_pairs() -> None:
    confusion = np.array([[5, 2, 0], [1, 4, 0], [0, 3, 2]])
    assert cells(tables.confused_pairs(confusion, ("cat", "dog", "ship"))) == {
        "cat and dog": {"first taken for second": "2", "second taken for first": "1", "both": "3"},
        "dog and ship": {"first taken for second": "0", "second taken for first": "3", "both": "3"},
    }


def test_the_gain_over_the_converged_head_is_told_apart_from_its_own() -> None:
    """Of 10 images level 1 gets 5 right, the frozen arm 4, the converged head 6 and level 2 all but one."""
    labels = np.arange(10) % 2
    probs = {}
    for name, right in {"Level 1": 5, "frozen arm": 4, "converged head": 6, "Level 2": 9}.items():
        answers = np.where(np.arange(10) < right, labels, 1 - labels)
        probs[name] = np.eye(2)[answers]
    said = tables.gain_over_head(probs, labels)
    gains = re.findall(r"([+-]\d+\.\d+) \(", said)
    assert gains == ["+40.00", "+10.00", "+30.00", "+20.00"]
    assert said.startswith("Level 2 less Level 1: +40.00")
    assert "The converged head less the frozen arm, on the same features: +20.00" in said
