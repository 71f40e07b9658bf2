from __future__ import annotations

import base64
import copy
import io
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection, QuadMesh
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from PIL import Image

from cifarlib import documented, plotting

TEN = tuple(documented.PER_CLASS)
TWENTY = tuple(
    f"{kind} {bird}"
    for kind in ("Greater spotted", "Common", "Red-throated", "Mountain")
    for bird in ("woodpecker", "kingfisher", "cormorant", "nightingale", "owl")
)


def pictures(n: int, s: int = 8) -> np.ndarray:
    return np.random.default_rng(n).integers(0, 256, (n, 3, s, s), dtype=np.uint8)


def history(epochs: int) -> pd.DataFrame:
    e = np.arange(1, epochs + 1)
    train, val = 0.982 - 0.1 * (epochs - e) / 10, 0.941 - 0.05 * (epochs - e) / 10
    columns = {"epoch": e, "train_loss": 1 - train, "train_accuracy": train}
    return pd.DataFrame(columns | {"val_loss": 1.1 - val, "val_accuracy": val})


def matrix(classes: int, right: int = 930) -> np.ndarray:
    counts = np.random.default_rng(classes).multinomial(1000 - right, np.full(classes, 1 / classes), classes)
    return counts + right * np.eye(classes, dtype=np.int64)


def report(classes: tuple[str, ...]) -> pd.DataFrame:
    values = np.random.default_rng(0).uniform(0.89, 0.97, (len(classes), 3))
    return pd.DataFrame(values, index=list(classes), columns=["precision", "recall", "f1"]).assign(support=100)


def some_bins(accuracy: tuple[float, ...] = (np.nan, 0.5, 0.9)) -> SimpleNamespace:
    confidence = np.array([np.nan, 0.6, 0.95])
    return SimpleNamespace(confidence=confidence, accuracy=np.array(accuracy), counts=np.array([0, 100, 300]))


def rows(*accuracies: float, documents: float | None = None) -> list[dict[str, Any]]:
    return [
        {"name": f"Level {i}\nits model", "accuracy": a, "low": a - 0.004, "high": min(a + 0.004, 1.0)}
        | ({"documented": documents} if documents else {})
        for i, a in enumerate(accuracies, 1)
    ]


def costs(kind: str, *values: tuple[float, float]) -> list[dict[str, Any]]:
    return [{"name": f"Model number {i}", "accuracy": a, kind: c} for i, (a, c) in enumerate(values)]


def cells(*values: float) -> dict[tuple[bool, bool], tuple[float, float, float]]:
    keys = [(False, False), (True, False), (False, True), (True, True)]
    return {key: (v, v - 0.004, min(v + 0.004, 1.0)) for key, v in zip(keys, values, strict=False)}


def compared(*differences: tuple[str, str, float, float]) -> list[dict[str, Any]]:
    """Rows as of `evaluation.compare` on 10,000 images: model, over, difference and adjusted p-value."""
    return [
        {"model": a, "over": b, "difference": d, "low": d - 0.004, "high": d + 0.004, "p_holm": p}
        | {"images": round(10_000 * d), "only_model": 300, "only_over": 300 - round(10_000 * d), "p": p}
        for a, b, d, p in differences
    ]


LEVELS = compared(
    ("Level 2", "Level 1", 0.1258, 1e-200),
    ("Level 3", "Level 1", 0.1267, 1e-200),
    ("Level 3", "Level 2", 0.0009, 0.714),
    ("Level 4", "Level 1", 0.1305, 1e-200),
    ("Level 4", "Level 2", 0.0047, 0.0213),
    ("Level 2, seed 1", "Level 4", -0.0052, 0.0104),
)


def some_effects(*values: float, half: float = 0.004) -> SimpleNamespace:
    three = [(v, v - half, v + half) for v in values]
    return SimpleNamespace(first=three[0], second=three[1], interaction=three[2])


def curve(errors: float, n: int = 1000, noise: int = 0) -> SimpleNamespace:
    coverage = np.arange(1, n + 1) / n
    risk = errors * coverage**4
    risk[:noise] = 1.0
    return SimpleNamespace(coverage=coverage, risk=risk, area=risk.sum() / max(n, 1))


def shifted(*names: str, shifts: int = 5, start: float = 0.95) -> dict[str, dict[str, tuple[float, float, float]]]:
    every = ("none", "brightness", "contrast", "saturation", "hue", "blur", "noise", "jpeg")[:shifts]
    out = {}
    for i, name in enumerate(names):
        values = [start - 0.01 * i - 0.02 * row for row in range(shifts)]
        out[name] = {shift: (v, v - 0.004, v + 0.004) for shift, v in zip(every, values, strict=True)}
    return out


def grouped(*accuracies: float, low: float = 0.1, step: float = 0.05) -> pd.DataFrame:
    a = np.array(accuracies)
    starts = low + step * np.arange(len(a))
    columns = {"value_low": starts, "value_high": starts + step, "images": 667}
    return pd.DataFrame(columns | {"accuracy": a, "low": a - 0.02, "high": a + 0.02})


def gate_means(classes: int, channels: int = 512) -> np.ndarray:
    return np.random.default_rng(channels).normal(1, 0.05, (classes, channels))


def heat(n: int, h: int = 4) -> np.ndarray:
    return np.random.default_rng(h).random((n, h, h))


def discs(n: int, s: int = 8) -> np.ndarray:
    y, x = np.mgrid[:s, :s]
    return np.stack([(y - s / 2) ** 2 + (x - s / 2) ** 2 < 2 + i for i in range(n)])


ORDINARY: dict[str, tuple[Callable[..., Figure], tuple, dict[str, Any]]] = {
    "samples": (plotting.samples, (pictures(40), np.arange(40) % 10, TEN), {}),
    "gallery": (
        plotting.gallery,
        (pictures(9), ["cat, 93 %\nis dog"] * 9),
        {"correct": [True] * 8 + [False]},
    ),
    "augmentation": (plotting.augmentation, (pictures(1)[0], pictures(14)), {}),
    "cams": (
        plotting.cams,
        (pictures(3), {"Level 2": heat(3), "Level 3 (SE)": heat(3, 7)}, ["cat, 93 %\nis dog"] * 3),
        {"masks": discs(3)},
    ),
    "curves": (plotting.curves, (history(10), documented.LEVEL2, "Level 2"), {}),
    "validation": (plotting.validation, ({"Level 1": history(5), "Level 2": history(10)},), {}),
    "ablation": (plotting.ablation, (cells(0.83, 0.82, 0.93, 0.946), ("Level 1", 0.8206)), {}),
    "ablation with effects": (
        plotting.ablation,
        (cells(0.83, 0.82, 0.93, 0.946), ("Level 1", 0.8206), some_effects(0.003, 0.113, 0.026)),
        {},
    ),
    "confusion": (plotting.confusion, (matrix(10), TEN, "Level 3"), {}),
    "confusion_difference": (
        plotting.confusion_difference,
        (matrix(10, 930), matrix(10, 940), TEN, ("Level 2", "Level 3")),
        {},
    ),
    "per_class": (plotting.per_class, (report(TEN), documented.PER_CLASS), {}),
    "reliability": (plotting.reliability, ({"Level 2": some_bins(), "after scaling": some_bins()},), {}),
    "cost": (
        plotting.cost,
        (costs("seconds", (0.82, 310), (0.946, 1500), (0.945, 1800), (0.951, 4200)),),
        {},
    ),
    "who_corrects": (plotting.who_corrects, (9120, 245, 198, 437, ("ResNet-50 + SE", "EfficientNet-B0")), {}),
    "forest": (plotting.forest, (rows(0.8206, 0.9464, 0.9473, 0.9511, documents=0.9464), LEVELS), {}),
    "risk_coverage": (plotting.risk_coverage, ({"Level 2": curve(0.054), "Level 4": curve(0.049)},), {}),
    "vote_weights": (
        plotting.vote_weights,
        (np.linspace(0, 1, 21), 0.18 + 0.1 * (np.linspace(0, 1, 21) - 0.62) ** 2, 0.62),
        {},
    ),
    "robustness": (plotting.robustness, (shifted("Level 2", "Level 2, not augmented"),), {}),
    "by_attribute": (
        plotting.by_attribute,
        ({"size": grouped(0.52, 0.6, 0.66), "clutter": grouped(0.63, 0.6, 0.58, low=1, step=2)},),
        {},
    ),
    "gates": (plotting.gates, (gate_means(10), TEN), {}),
}
EXTREME: dict[str, tuple[Callable[..., Figure], tuple, dict[str, Any]]] = {
    "samples of two classes": (plotting.samples, (pictures(3), [0, 1, 1], ("cat", "dog")), {"per_class": 12}),
    "samples of twenty": (plotting.samples, (pictures(20), np.arange(20), TWENTY), {}),
    "gallery of one": (plotting.gallery, (pictures(1), ["cat"]), {}),
    "gallery, long names": (plotting.gallery, (pictures(4), [f"{n}, 93 %\nis {n}" for n in TWENTY[:4]]), {}),
    "augmentation, one draw": (plotting.augmentation, (pictures(1)[0], pictures(1) / 255), {}),
    "cams, a map of one pixel": (plotting.cams, (pictures(1), {"Level 1": np.ones((1, 1, 1))}, ["cat"]), {}),
    "cams, three models": (
        plotting.cams,
        (pictures(2), {n: heat(2) for n in ("Level 2", "Level 3", "EfficientNet-B0")}, TWENTY[:2]),
        {"masks": np.zeros((2, 8, 8), dtype=bool)},
    ),
    "curves, one epoch": (plotting.curves, (history(1),), {}),
    "validation, narrow": (
        plotting.validation,
        ({"Level 1": history(1), "EfficientNet-B0": history(50)},),
        {"width": 5.3},
    ),
    "forest, narrow": (plotting.forest, (rows(0.8206, 0.9464, 0.9473, 0.9511), LEVELS), {"width": 5.3}),
    "curves, fewer than documented": (plotting.curves, (history(2), documented.LEVEL4), {}),
    "curves, fifty epochs": (plotting.curves, (history(50),), {}),
    "ablation, all alike": (plotting.ablation, (cells(0.991, 0.991, 0.991, 0.991), ("Level 1", 0.991)), {}),
    "ablation, two cells": (
        plotting.ablation,
        ({(False, False): (0.1, 0.08, 0.12), (True, True): (1, 1, 1)},),
        {},
    ),
    "confusion of two": (plotting.confusion, ([[990, 10], [0, 0]], ("cat", "dog")), {}),
    "confusion of twenty": (plotting.confusion, (matrix(20), TWENTY, "20 species"), {}),
    "difference of none": (
        plotting.confusion_difference,
        (matrix(2), matrix(2), ("cat", "dog"), ("Level 2", "Level 3")),
        {},
    ),
    "per class, two": (plotting.per_class, (report(("cat", "dog")),), {}),
    "per class, twenty": (plotting.per_class, (report(TWENTY),), {"by_f1": False}),
    "accuracies, one": (plotting.forest, (rows(0.1), []), {}),
    "accuracies at the top": (plotting.forest, (rows(0.99, 0.991, 1.0), []), {}),
    "reliability, one bin": (
        plotting.reliability,
        ({"m": SimpleNamespace(confidence=np.array([0.7]), accuracy=np.array([0.6]), counts=np.array([5]))},),
        {},
    ),
    "cost, all alike": (
        plotting.cost,
        (costs("parameters", *[(0.99, 2e7 + 1e4 * i) for i in range(5)]),),
        {},
    ),
    "ablation, wide effects": (
        plotting.ablation,
        (cells(0.4, 0.5, 0.6, 0.58), None, some_effects(-0.02, 0.14, -0.12, half=0.2)),
        {},
    ),
    "forest of one": (plotting.forest, (rows(0.42), []), {}),
    "forest, wide intervals": (
        plotting.forest,
        (
            rows(0.422, 0.6085),
            [
                {"model": "Level 2", "over": "Level 1", "difference": 0.1865, "low": -0.3, "high": 0.6}
                | {"images": 373, "p_holm": 0.0501},
                {"model": "Level 3", "over": "Level 2", "difference": 0, "low": 0, "high": 0}
                | {"images": 0, "p_holm": 1.0},
            ],
        ),
        {},
    ),
    "forest, long names": (
        plotting.forest,
        (
            rows(0.94, 0.95),
            compared(*[(f"SE-ResNet-50, augmented, {i}", "EfficientNet-B0", 0.001 * i, 0.2) for i in range(9)]),
        ),
        {},
    ),
    "risk coverage, many": (
        plotting.risk_coverage,
        ({f"Level 2, seed number {i} of nine": curve(0.05, noise=i) for i in range(9)},),
        {},
    ),
    "risk coverage, one image": (
        plotting.risk_coverage,
        ({"m": SimpleNamespace(coverage=[1.0], risk=[0.0], area=0.0)},),
        {},
    ),
    "vote weights, equal": (plotting.vote_weights, (np.linspace(0, 1, 101), np.full(101, 0.3), 0.5), {}),
    "vote weights, at an end": (plotting.vote_weights, ([0, 0.5, 1], [0.1, 0.2, 0.9], 0.0), {}),
    "robustness of one": (plotting.robustness, (shifted("Level 2", shifts=1),), {}),
    "robustness, seven shifts": (
        plotting.robustness,
        (shifted(*[f"Level 2, {a}, {f}" for a in "ab" for f in "cd"], *TWENTY[:3], shifts=8),),
        {},
    ),
    "by attribute, one group": (plotting.by_attribute, ({"size": grouped(0.98)},), {}),
    "by attribute, none there": (
        plotting.by_attribute,
        ({"share of the object that is hidden": grouped(1.0, np.nan, 0.97, low=1e-4, step=0)},),
        {},
    ),
    "gates of two classes": (plotting.gates, (gate_means(2, 3), ("cat", "dog")), {}),
    "gates, long names": (plotting.gates, (gate_means(5, 2048), TWENTY[:5]), {"k": 96}),
    "gates of many classes": (plotting.gates, (gate_means(40), [f"class {i}" for i in range(40)]), {"k": 12}),
    "gates, a class without images": (
        plotting.gates,
        (np.vstack([gate_means(2), np.full((1, 512), np.nan)]), ("cat", "dog", "frog")),
        {},
    ),
    "corrects, nothing": (
        plotting.who_corrects,
        (0, 0, 0, 9, ("a model of a long name", "another model of one")),
        {},
    ),
}
ALL = ORDINARY | EXTREME


def drawn_texts(figure: Figure) -> list[tuple[str, np.ndarray]]:
    """Return every text that a reader sees, and its box in pixels."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    hidden = set()
    for ax in figure.axes:
        for axis in (ax.xaxis, ax.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in [*axis.majorTicks, *axis.minorTicks]:
                if not ax.axison or not low <= tick.get_loc() <= high:
                    hidden |= {tick.label1, tick.label2}
    texts = figure.findobj(lambda a: isinstance(a, Text) and a.get_visible() and a.get_text().strip())
    renderer = canvas.get_renderer()
    return [(t.get_text(), t.get_window_extent(renderer).extents) for t in texts if t not in hidden]


def unframed(figure: Figure) -> list[np.ndarray]:
    return [np.asarray(image.get_array()) for image in figure.axes[0].images]


@pytest.mark.parametrize("name", ALL)
def test_every_text_is_inside_and_clear_of_the_others(name: str) -> None:
    draw, args, kwargs = ALL[name]
    figure = draw(*args, **kwargs)
    texts = drawn_texts(figure)
    width, height = figure.bbox.width, figure.bbox.height
    for text, (x0, y0, x1, y1) in texts:
        over = max(-x0, -y0, x1 - width, y1 - height)
        assert over < 0.5, f"{text!r} is cut off by {over:.0f} pixels"
    for i, (text, a) in enumerate(texts):
        for other, b in texts[:i]:
            across, down = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
            assert across < 1 or down < 2, f"{text!r} lies on {other!r}"


@pytest.mark.parametrize("name", ALL)
def test_text_stays_readable(name: str) -> None:
    draw, args, kwargs = ALL[name]
    figure = draw(*args, **kwargs)
    assert figure.get_figwidth() < 9.5
    sizes = [t.get_size() for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip()]
    assert min(sizes, default=9) >= 9


@pytest.mark.parametrize("name", ORDINARY)
def test_a_figure_leaves_inputs_settings_and_pyplot_alone(name: str) -> None:
    draw, args, kwargs = ORDINARY[name]
    before = copy.deepcopy((args, kwargs))
    with matplotlib.rc_context({"font.size": 31, "axes.grid": False, "figure.facecolor": "black"}):
        settings = dict(matplotlib.rcParams)
        figure = draw(*args, **kwargs)
        assert dict(matplotlib.rcParams) == settings
    assert type(figure) is Figure
    assert figure.get_facecolor() == (1, 1, 1, 1)
    assert repr((args, kwargs)) == repr(before)
    for given, kept in zip(args, before[0], strict=True):
        if isinstance(given, np.ndarray):
            np.testing.assert_array_equal(given, kept)
        if isinstance(given, pd.DataFrame):
            pd.testing.assert_frame_equal(given, kept)
    assert plt.get_fignums() == []


@pytest.mark.parametrize(
    ("name", "said"),
    {
        "samples": ["40 example images", "10 classes", "airplane", "truck"],
        "gallery": ["9 images, 8 of them classified correctly", "cat, 93 %, is dog"],
        "augmentation": ["14 random augmentations"],
        "cams": ["3 images", "Level 2 and Level 3 (SE)", "outline"],
        "curves": ["Level 2", "10 epochs", "98.2 %", "94.1 %", "accuracy ends at 94.3 %, epoch 10", "98.8 %"],
        "ablation": ["fine-tuned and augmented 94.60 % (94.20 % to 95.00 %)", "Level 1 82.06 %"],
        "per_class": ["10 classes, 1000 images"],
        # 100 images 10 points off and 300 images 5 points off: 6.25 on average
        "reliability": ["Level 2 has an expected calibration error of 6.2 %"],
        "cost": ["Model number 3 95.10 % at 4,200 seconds"],
        "who_corrects": [
            "10000",
            "9120 (91.2 %)",
            "ResNet-50 + SE 245",
            "EfficientNet-B0 198",
            "437 (4.4 %)",
        ],
        "ablation with effects": [
            "Level 1 82.06 %",
            "augmentation +0.30 (\N{MINUS SIGN}0.10 to +0.70)",
            "fine-tuning +11.30 (+10.90 to +11.70)",
        ],
        "forest": [
            "its model 95.11 % (94.71 % to 95.51 %), documented 94.64 %",
            "5 of 6 paired differences have a p-value below 0.05",
            "Level 2 less Level 1 +12.58 (+12.18 to +12.98), +1,258 images, p < 0.001",
            "Level 3 less Level 2 +0.09 (\N{MINUS SIGN}0.31 to +0.49), +9 images, p = 0.714",
        ],
        # the mean of 0.054 x^4 over 0.001, 0.002, ..., 1 is a little above 0.054 / 5
        "risk_coverage": ["Level 2 5.4 % of all images, AURC 0.0108", "Level 4 4.9 %"],
        "vote_weights": ["chosen weight is 0.62 with 0.1801", "equal weights (0.5) have 0.1814"],
        "robustness": ["Level 2: none 95.0 %, brightness 93.0 %", "not augmented: none 94.0 %", "hue 86.0 %"],
        "by_attribute": ["size: 52.0 % at 0.1 to 0.15, 60.0 % at 0.15 to 0.2", "58.0 % at 5 to 7"],
        "gates": ["10 classes in the 24 of 512 channels"],
    }.items(),
)
def test_alternative_text_holds_the_numbers(name: str, said: list[str]) -> None:
    draw, args, kwargs = ORDINARY[name]
    alt = draw(*args, **kwargs).get_label()
    assert "\n" not in alt
    for words in said:
        assert words in alt


def test_alternative_text_of_a_confusion_matrix_by_hand() -> None:
    alt = plotting.confusion([[8, 2, 0], [0, 9, 1], [3, 0, 7]], ("cat", "dog", "frog")).get_label()
    assert "24 of 30 images (80.0 %)" in alt
    assert "frog taken for cat 3 times, cat taken for dog 2 times and dog taken for frog 1 times" in alt
    assert "no errors" in plotting.confusion([[5, 0], [0, 5]], ("cat", "dog")).get_label()


def test_samples_shows_the_first_images_of_each_class_unchanged() -> None:
    images = pictures(6)
    figure = plotting.samples(torch.from_numpy(images), torch.tensor([1, 0, 1, 0, 1, 0]), ("a", "b"), per_class=2)
    expected = images[[1, 3, 0, 2]].transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(unframed(figure), expected)
    tops = [image.get_extent()[3] for image in figure.axes[0].images]
    assert tops[0] == tops[1] < tops[2] == tops[3]


def test_gallery_frames_what_is_wrong_and_only_that() -> None:
    figure = plotting.gallery(pictures(3), ["a", "b", "c"], correct=torch.tensor([True, False, True]))
    (frame,) = figure.axes[0].patches
    left, right, bottom, top = figure.axes[0].images[1].get_extent()
    assert (frame.get_x(), frame.get_y()) == (left, top)
    assert frame.get_width() == pytest.approx(right - left)
    assert frame.get_height() == pytest.approx(bottom - top)
    assert plotting.gallery(pictures(3), ["a", "b", "c"]).axes[0].patches[:] == []


def test_cams_lays_each_map_over_its_image() -> None:
    images, maps = pictures(2), {"a": heat(2), "b": heat(2, 7)}
    figure = plotting.cams(images, maps, ["one", "two"])
    shown = figure.axes[0].images
    heats = [image for image in shown if np.asarray(image.get_array()).ndim == 2]
    wanted = [(maps[name][row], images[row]) for row in (0, 1) for name in ("a", "b")]
    for image, (expected, picture) in zip(heats, wanted, strict=True):
        np.testing.assert_array_equal(image.get_array(), expected)
        under = [i for i in shown if i is not image and i.get_extent() == image.get_extent()]
        assert len(under) == 1
        np.testing.assert_array_equal(under[0].get_array(), picture.transpose(1, 2, 0))
        assert shown.index(under[0]) < shown.index(image)
        assert image.get_clim() == (0, 1)
    assert len(shown) == 2 * (1 + 2 * 2)


def test_cams_outlines_the_mask_where_the_object_is() -> None:
    masks = np.zeros((1, 8, 8), dtype=bool)
    masks[0, :4, :4] = True  # the upper left quarter
    figure = plotting.cams(pictures(1), {"a": heat(1)}, ["one"], masks=masks)
    (outline,) = figure.axes[0].collections
    left, right, bottom, top = figure.axes[0].images[-1].get_extent()
    x, y = np.concatenate([path.vertices for path in outline.get_paths()]).T
    assert left < x.min()
    assert x.max() == pytest.approx((left + right) / 2)
    assert top < y.min()
    assert y.max() == pytest.approx((top + bottom) / 2)


def test_curves_draws_the_history_and_the_documents() -> None:
    table = history(10)
    loss, accuracy = plotting.curves(table, documented.LEVEL2).axes
    for ax, what in ((loss, "loss"), (accuracy, "accuracy")):
        drawn = {
            line.get_color(): line
            for line in ax.lines
            if len(line.get_xdata()) == 10 and line.get_linestyle() == "-"
        }
        for part in ("train", "val"):
            line = drawn[plotting.COLOURS[part]]
            np.testing.assert_array_equal(line.get_xdata(), table["epoch"])
            np.testing.assert_array_equal(line.get_ydata(), table[f"{part}_{what}"])
    dashed = [line for line in accuracy.lines if line.get_linestyle() == "--"]
    assert [tuple(map(tuple, line.get_xydata())) for line in dashed] == [
        documented.LEVEL2.train_accuracy,
        documented.LEVEL2.val_accuracy,
    ]
    assert not [line for line in loss.lines if line.get_linestyle() == "--"]


def test_one_epoch_is_visible() -> None:
    for ax in plotting.curves(history(1)).axes:
        points = [line for line in ax.lines if line.get_marker() == "o"]
        assert len(points) == 2


def test_confusion_prints_counts_and_colours_shares() -> None:
    counts = np.array([[8, 2, 0], [0, 90, 10], [0, 0, 0]])
    ax = plotting.confusion(counts, ("a", "b", "c")).axes[0]
    (mesh,) = (c for c in ax.collections if isinstance(c, QuadMesh))
    shares = np.ma.getdata(mesh.get_array()).reshape(3, 3)
    np.testing.assert_allclose(shares, [[0.8, 0.2, 0], [0, 0.9, 0.1], [0, 0, 0]])
    assert [t.get_text() for t in ax.texts if t.get_text()] == ["8", "2", "90", "10"]


def test_confusion_difference_is_blue_where_the_second_is_better() -> None:
    figure = plotting.confusion_difference([[8, 2], [4, 6]], [[9, 1], [5, 5]], ("cat", "dog"), ("old", "new"))
    ax = figure.axes[0]
    colour = np.ma.getdata(ax.collections[0].get_array()).reshape(2, 2)
    np.testing.assert_array_equal(colour, [[1, 1], [-1, -1]])
    assert [t.get_text() for t in ax.texts] == ["+1", "\N{MINUS SIGN}1", "+1", "\N{MINUS SIGN}1"]
    red, _, blue, _ = ax.collections[0].cmap(1.0)
    assert blue > red
    assert "+0 images correct of 20" in figure.get_label()


def test_per_class_sorts_by_f1_and_leaves_the_average_out() -> None:
    table = pd.DataFrame(
        {
            "precision": [0.9, 0.8, 0.85],
            "recall": [0.7, 0.9, 0.8],
            "f1": [0.79, 0.85, 0.82],
            "support": [5, 5, 10],
        },
        index=["cat", "dog", "macro average"],
    )
    figure = plotting.per_class(table, {"dog": (0.5, 0.6, 0.7)})
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["dog", "cat"]
    for ax, measure, theirs in zip(figure.axes, ("precision", "recall", "f1"), (0.5, 0.6, 0.7), strict=True):
        hollow, dots = ax.lines
        assert (hollow.get_xdata()[0], hollow.get_ydata()[0]) == (theirs, 0)
        np.testing.assert_array_equal(dots.get_xdata(), table[measure].iloc[[1, 0]])
    assert "2 classes, 10 images. Highest F1: dog 85.0 %; lowest: cat 79.0 %" in figure.get_label()


def test_a_forest_draws_points_intervals_and_the_documents() -> None:
    ax = plotting.forest(rows(0.82, 0.94, documents=0.9), []).axes[0]
    assert [float(line.get_xdata()[0]) for line in ax.lines if line.get_marker() == "o"] == [0.82, 0.94]
    assert [float(line.get_xdata()[0]) for line in ax.lines if line.get_marker() == "D"] == [0.9, 0.9]
    spans = [c.get_segments()[0][:, 0] for c in ax.collections if isinstance(c, LineCollection)]
    np.testing.assert_allclose(spans, [[0.816, 0.824], [0.936, 0.944]])
    low, high = ax.get_xlim()
    assert low < 0.816
    assert 0.944 < high < 1


def test_ablation_joins_what_differs_in_fine_tuning() -> None:
    ax = plotting.ablation(cells(0.82, 0.83, 0.92, 0.95)).axes[0]
    joined = [line.get_ydata() for line in ax.lines if line.get_marker() in ("o", "s")]
    np.testing.assert_array_equal(joined, [[0.83, 0.95], [0.82, 0.92]])


def test_forest_fills_what_is_real_and_only_that() -> None:
    levels, pairs = plotting.forest(rows(0.82, 0.95), LEVELS).axes
    assert [float(line.get_xdata()[0]) for line in levels.lines if line.get_marker() == "o"] == [0.82, 0.95]
    assert [t.get_text() for t in pairs.get_yticklabels()][2] == "Level 3 \N{MINUS SIGN} Level 2"
    dots = [line for line in pairs.lines if line.get_marker() == "o"]
    assert [float(dot.get_xdata()[0]) for dot in dots] == [row["difference"] for row in LEVELS]
    assert [int(dot.get_ydata()[0]) for dot in dots] == list(range(6))
    better, worse, grey = plotting._BETTER, plotting._WORSE, plotting.COLOURS["documented"]
    faces = [dot.get_markerfacecolor() for dot in dots]
    assert faces == [better, better, "white", better, better, worse]
    assert [dot.get_markeredgecolor() for dot in dots] == [better, better, grey, better, better, worse]
    spans = [c.get_segments()[0][:, 0] for c in pairs.collections if isinstance(c, LineCollection)]
    np.testing.assert_allclose(spans, [[row["low"], row["high"]] for row in LEVELS])
    low, high = pairs.get_xlim()
    assert low < -0.0092 and high > 0.1345


def test_forest_writes_its_columns_row_by_row() -> None:
    figure = plotting.forest(rows(0.82, 0.95), LEVELS)
    boxes = dict(drawn_texts(figure))
    minus = "\N{MINUS SIGN}"
    for name, *texts in (
        (f"Level 2 {minus} Level 1", "+12.58", "+1,258"),
        (f"Level 3 {minus} Level 2", "+0.09", "+9", "0.714"),
        (f"Level 2, seed 1 {minus} Level 4", f"{minus}0.52", f"{minus}52", "0.010"),
    ):
        middle = boxes[name][[1, 3]].mean()
        for text in texts:
            assert boxes[text][[1, 3]].mean() == pytest.approx(middle, abs=3)
    for header, texts in {"points": ("+12.58", "+0.09"), "images": ("+9", f"{minus}52")}.items():
        for text in texts:
            assert boxes[text][2] == pytest.approx(boxes[header][2], abs=2)  # flush right


def test_a_p_value_shows_on_which_side_of_the_level_it_lies() -> None:
    shown = [plotting._p_value(p) for p in (1e-200, 0.00099, 0.001, 0.0213, 0.0496, 0.0504, 0.0506, 1.0)]
    assert shown == ["< 0.001", "< 0.001", "0.001", "0.021", "0.0496", "0.0504", "0.051", "1.000"]


def test_a_difference_keeps_zero_in_sight() -> None:
    for d in (0.2, -0.2):
        low, high = plotting.forest(rows(0.8), compared(("b", "a", d, 0.001))).axes[1].get_xlim()
        assert low < 0 < high


def test_effects_are_hollow_where_the_interval_contains_zero() -> None:
    _, ax = plotting.ablation(cells(0.8, 0.8, 0.9, 0.9), effects=some_effects(0.003, 0.1, -0.02)).axes
    dots = [line for line in ax.lines if line.get_marker() == "o"]
    assert [float(dot.get_xdata()[0]) for dot in dots] == [0.003, 0.1, -0.02]
    assert [dot.get_markerfacecolor() for dot in dots] == ["white", plotting._BETTER, plotting._WORSE]


def test_risk_coverage_is_not_ruled_by_the_first_images() -> None:
    ax = plotting.risk_coverage({"m": curve(0.05, n=1000, noise=3)}).axes[0]
    line = next(line for line in ax.lines if len(line.get_xdata()) == 1000)
    assert line.get_ydata()[0] == 1
    assert ax.get_ylim()[1] == pytest.approx(0.0525)


def test_vote_weights_marks_both_weights_on_the_curve() -> None:
    x = np.array([0, 0.5, 1])
    ax = plotting.vote_weights(x, [0.4, 0.2, 0.3], 0.75).axes[0]
    marks = [(line.get_xdata()[0], line.get_ydata()[0]) for line in ax.lines if line.get_marker() == "D"]
    assert marks == [(0.75, 0.25), (0.5, 0.2)]
    np.testing.assert_array_equal(ax.lines[0].get_xydata(), np.column_stack([x, [0.4, 0.2, 0.3]]))


def test_robustness_draws_every_arm_in_every_row() -> None:
    arms = shifted("Level 2", "Level 2, not augmented", shifts=3)
    figure = plotting.robustness(arms)
    ax = figure.axes[0]
    dots = [line for line in ax.lines if line.get_marker() in ("o", "s")]
    expected = [arm[shift][0] for arm in arms.values() for shift in ("none", "brightness", "contrast")]
    assert [float(dot.get_xdata()[0]) for dot in dots] == expected
    assert [round(float(dot.get_ydata()[0])) for dot in dots] == [0, 1, 2, 0, 1, 2]
    first, second = dots[0].get_color(), dots[3].get_color()
    assert first == plotting.COLOURS["level2"] != second  # of the same level, and yet told apart
    dotted = [(line.get_xdata()[0], line.get_color()) for line in ax.lines if line.get_linestyle() == ":"]
    assert dotted == [(0.95, first), (0.94, second)]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list(arms)
    assert [handle.get_color() for handle in legend.legend_handles] == [first, second]


def test_by_attribute_has_a_panel_for_each_and_leaves_empty_groups_out() -> None:
    figure = plotting.by_attribute({"size": grouped(0.5, np.nan, 0.7), "clutter": grouped(0.6)})
    drawn = [[float(line.get_xdata()[0]) for line in ax.lines if line.get_marker() == "o"] for ax in figure.axes]
    assert drawn == [[0.5, 0.7], [0.6]]
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["size", "clutter"]
    assert figure.axes[0].get_xlim() == figure.axes[1].get_xlim()
    assert figure.axes[0].get_yticklabels()[0].get_text() == "0.1 to 0.15"
    assert "\N{EM DASH} at 0.15 to 0.2" in figure.get_label()


def test_gates_shows_the_channels_that_differ_most_by_the_class_they_open_for() -> None:
    means = np.array([[1.0, 0.9, 1.5, 1.2, 0.7], [1.0, 1.1, 0.5, 1.2, 0.9], [1.0, 1.0, 1.0, 1.2, 1.4]])
    figure = plotting.gates(torch.from_numpy(means), ("cat", "dog", "frog"), k=3)
    ax = figure.axes[1]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["2", "1", "4"]  # cat's, dog's, frog's
    (mesh,) = (c for c in ax.collections if isinstance(c, QuadMesh))
    shown = np.ma.getdata(mesh.get_array()).reshape(3, 3)
    np.testing.assert_allclose(shown, [[0.5, -0.1, -0.3], [-0.5, 0.1, -0.1], [0, 0, 0.4]], atol=1e-12)
    assert mesh.get_clim() == (-0.5, 0.5)
    assert "channel 2 for cat: 1.500, +0.500" in figure.get_label()


def test_colours_stay_apart_and_text_in_them_is_legible() -> None:
    names = ["soft vote", "Level 4", "Level 4, scaled", "hard vote", "Level 4, seed 1"]
    colours = plotting._colours(names)
    assert colours[1] == plotting.COLOURS["level4"]
    assert len(set(colours)) == len(names)
    top = plotting.reliability({"Level 4": some_bins(), "Level 4, scaled": some_bins()}).axes[0]
    assert top.lines[1].get_color() != top.lines[2].get_color()

    def channel(c: float) -> float:  # WCAG 2.1, relative luminance
        return c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4

    for colour in plotting.COLOURS.values():
        r, g, b = map(channel, plotting._legible(colour))
        assert 1.05 / (0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05) > 4.5


def test_reliability_leaves_empty_bins_out_and_counts_the_rest() -> None:
    top, below = plotting.reliability({"m": some_bins()}).axes
    np.testing.assert_array_equal(top.lines[1].get_xydata(), [[0.6, 0.5], [0.95, 0.9]])
    counts, edges, _ = below.patches[0].get_data()
    np.testing.assert_array_equal(counts, [0, 100, 300])
    np.testing.assert_allclose(edges, [0, 1 / 3, 2 / 3, 1])


def test_cost_draws_every_model() -> None:
    ax = plotting.cost(costs("parameters", (0.9, 4e6), (0.95, 2.4e7))).axes[0]
    np.testing.assert_array_equal(ax.collections[0].get_offsets(), [[4e6, 0.9], [2.4e7, 0.95]])


def test_who_corrects_has_bars_in_proportion() -> None:
    figure = plotting.who_corrects(60, 20, 15, 5, ("Level 2", "Level 3"))
    widths = np.array([p.get_width() for p in figure.axes[0].patches if isinstance(p, Rectangle)])
    np.testing.assert_allclose(widths / widths.sum(), [0.6, 0.2, 0.15, 0.05])


def test_levels_keep_their_colours_from_figure_to_figure() -> None:
    ours = plotting.forest(rows(0.8, 0.9), []).axes[0].lines[1].get_color()
    bars = plotting.who_corrects(1, 1, 1, 1, ("level2", "Level 3")).axes[0].patches
    assert ours == plotting.COLOURS["level2"] == matplotlib.colors.to_hex(bars[1].get_facecolor()).upper()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: plotting.samples(np.zeros((2, 8, 8)), [0, 1], ("a", "b")),
            r"images.*\[N,3,s,s\].*\[2, 8, 8\]",
        ),
        (lambda: plotting.samples(pictures(3), [0, 1], ("a", "b")), r"labels.*N = 3.*\[2\]"),
        (lambda: plotting.gallery(pictures(2), ["a"]), "titles must be 2"),
        (lambda: plotting.gallery(pictures(2), ["a", "b"], correct=[True]), r"correct.*\[1\]"),
        (lambda: plotting.gallery(pictures(2) * 1.0, ["a", "b"]), "from 0 to 1"),
        (lambda: plotting.augmentation(pictures(2), pictures(2)), r"original.*\[2, 3, 8, 8\]"),
        (lambda: plotting.cams(pictures(2), {"m": heat(3)}, ["a", "b"]), r"maps of 'm'.*\[3, 4, 4\]"),
        (
            lambda: plotting.cams(pictures(2), {"m": heat(2) * 2}, ["a", "b"]),
            "maps of 'm' must be from 0 to 1",
        ),
        (lambda: plotting.cams(pictures(2), {}, ["a", "b"]), "maps_by_model is empty"),
        (
            lambda: plotting.cams(pictures(2), {"m": heat(2)}, ["a", "b"], masks=discs(2, 9)),
            r"masks.*\[2, 8, 8\].*\[2, 9, 9\]",
        ),
        (lambda: plotting.curves(history(2).drop(columns="val_loss")), "lacks val_loss"),
        (lambda: plotting.curves(history(2).iloc[:0]), "no rows"),
        (lambda: plotting.confusion(matrix(3), TEN), r"matrix.*C = 10.*\[3, 3\]"),
        (lambda: plotting.confusion(matrix(2) / 7, ("a", "b")), "integers"),
        (
            lambda: plotting.confusion_difference(matrix(2), 2 * matrix(2), ("a", "b"), ("x", "y")),
            "same images",
        ),
        (lambda: plotting.per_class(report(TEN).drop(columns="f1")), "lacks f1"),
        (lambda: plotting.forest([{"name": "a", "accuracy": 0.5}], []), "low"),
        (lambda: plotting.ablation({(False, "no"): (0.1, 0.0, 0.2)}), "augment, finetune"),
        (lambda: plotting.reliability({"m": some_bins((0.5, 0.5))}), r"accuracy of 'm'.*B = 3.*\[2\]"),
        (lambda: plotting.cost([{"name": "a", "accuracy": 0.5}]), "seconds or parameters"),
        (lambda: plotting.who_corrects(0, 0, 0, 0, ("a", "b")), "not all 0"),
        (lambda: plotting.forest(rows(float("nan")), []), "accuracy, low and high of 'Level 1.*must be finite"),
        (lambda: plotting.forest([], LEVELS), "rows is empty"),
        (
            lambda: plotting.forest(rows(0.5), [{"model": "b", "over": "a"}]),
            "needs model, .* and p_holm, and has model, over",
        ),
        (
            lambda: plotting.forest(rows(0.5), compared(("b", "a", 0.1, float("nan")))),
            "numbers of b over a must be finite",
        ),
        (
            lambda: plotting.ablation(cells(0.5), effects=some_effects(0.1, float("nan"), 0.1)),
            "effect fine-tuning must be finite",
        ),
        (lambda: plotting.risk_coverage({}), "curves is empty"),
        (
            lambda: plotting.risk_coverage({"m": SimpleNamespace(coverage=[0.5, 1], risk=[0.1], area=0.1)}),
            r"risk of 'm'.*K = 2.*\[1\]",
        ),
        (lambda: plotting.risk_coverage({"m": curve(0.1, n=0)}), "'m' has no points"),
        (lambda: plotting.vote_weights([0, 1], [0.1], 0.5), r"val_nll.*W = 2.*\[1\]"),
        (lambda: plotting.vote_weights([0, 0.5, 0.5], [0.1] * 3, 0.5), "weights must .* rise"),
        (lambda: plotting.vote_weights([0, 1], [0.1, 0.2], 1.5), "chosen must lie among .* 1.5"),
        (lambda: plotting.robustness({}), "the first of them 'none'"),
        (lambda: plotting.robustness({"a": {"hue": (0.1, 0, 0.2)}}), "the first of them 'none'.*hue"),
        (
            lambda: plotting.robustness(shifted("a", shifts=2) | shifted("b", shifts=3)),
            "the same shifts.*brightness.*contrast",
        ),
        (lambda: plotting.robustness({"a": {"none": (0.1, 0.2)}}), r"'none' of 'a'.*three numbers.*\[2\]"),
        (lambda: plotting.by_attribute({}), "tables is empty"),
        (lambda: plotting.by_attribute({"size": grouped(0.5).drop(columns="low")}), "'size' lacks low"),
        (lambda: plotting.by_attribute({"size": grouped(np.nan)}), "no group of size"),
        (lambda: plotting.gates(gate_means(3), ("cat", "dog")), r"means.*C = 2.*\[3, 512\]"),
        (lambda: plotting.gates(np.full((2, 4), np.nan), ("cat", "dog")), "two classes"),
        (lambda: plotting.gates(gate_means(2), ("cat", "dog"), k=0), "k must be at least 1"),
    ],
)
def test_what_is_wrong_is_named(call: Callable[[], Figure], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("name", ["curves", "samples"])
def test_show_displays_the_picture_with_its_alternative_text(name: str) -> None:
    draw, args, kwargs = ORDINARY[name]
    figure = draw(*args, **kwargs)
    InteractiveShell.instance()
    try:
        with capture_output() as captured:
            plotting.show(figure)
    finally:
        InteractiveShell.clear_instance()
    (output,) = captured.outputs
    assert output.data["text/plain"] == figure.get_label()
    shown = output.metadata["image/png"]
    assert shown["alt"] == figure.get_label()
    file = base64.b64decode(output.data["image/png"])
    with Image.open(io.BytesIO(file)) as picture:
        assert picture.format == "PNG"
        assert picture.width > 1.4 * shown["width"]  # sharp on a dense screen
        assert picture.width / picture.height == pytest.approx(np.divide(*figure.get_size_inches()), rel=0.01)
    assert shown["width"] <= 860
    assert len(file) < 120_000
    assert file == plotting.png(draw(*args, **kwargs))
