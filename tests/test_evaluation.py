"""The measures against hand arithmetic, scikit-learn, scipy, and what must hold whatever the predictions."""

from __future__ import annotations

import math
import statistics
import sys

import numpy as np
import pandas as pd
import pytest
from oracles import paired_bootstrap
from scipy.optimize import minimize, minimize_scalar
from scipy.special import log_softmax, softmax
from scipy.stats import binom, chi2, multinomial, norm
from sklearn.calibration import calibration_curve
from sklearn.metrics import (
    balanced_accuracy_score,
    brier_score_loss,
    classification_report,
    log_loss,
    recall_score,
)

from cifarlib import evaluation as ev

CLASSES = ["cat", "dog", "ship", "truck"]


@pytest.fixture
def logits() -> np.ndarray:
    return 2 * np.random.default_rng(1).normal(size=(300, 4))


@pytest.fixture
def probs(logits) -> np.ndarray:
    return softmax(logits, axis=1)


@pytest.fixture
def labels(probs) -> np.ndarray:
    """Labels drawn from the predictions themselves: by construction they are calibrated."""
    return (np.random.default_rng(2).random(300)[:, None] > probs.cumsum(axis=1)).sum(axis=1)


ARMS = [(False, False), (True, False), (False, True), (True, True)]


def marks(b: int, c: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Whether two models are right on `n` images: on `b` only the first, on `c` only the second."""
    image = np.arange(n)
    return image < b, (b <= image) & (image < b + c)


def rows(right: np.ndarray | list[bool]) -> np.ndarray:
    """Two-class predictions that are right or wrong as told, where every label is 0."""
    return np.where(np.asarray(right, dtype=bool)[:, None], [0.9, 0.1], [0.1, 0.9])


# -------------------------------------------------------------------------------------------- what is refused

MEASURES = {
    "accuracy": ev.accuracy,
    "confusion": ev.confusion,
    "per_class_report": lambda p, y: ev.per_class_report(p, y, CLASSES),
    "recall_intervals": lambda p, y: ev.recall_intervals(p, y, CLASSES),
    "recall_differences": lambda p, y: ev.recall_differences(p, p, y, CLASSES, resamples=2),
    "nll": ev.nll,
    "nll_each": ev.nll_each,
    "brier": ev.brier,
    "ece": ev.ece,
    "ece_adaptive": lambda p, y: ev.ece(p, y, adaptive=True),
    "ece_if_calibrated": lambda p, y: ev.ece_if_calibrated(p, draws=2),
    "reliability": ev.reliability,
    "risk_coverage": ev.risk_coverage,
    "top_mistakes": lambda p, y: ev.top_mistakes(p, y, 3),
    "agreement": lambda p, y: ev.agreement(p, p, y),
    "compare": lambda p, y: ev.compare({"a": p, "b": p}, y),
    "vote_weights": lambda p, y: ev.vote_weights([p, p], y),
    "soft_vote": lambda p, y: ev.soft_vote([p]),
    "hard_vote": lambda p, y: ev.hard_vote([p, p]),
    "log_probs": lambda p, y: ev.log_probs(p),
    "apply_temperature": lambda p, y: ev.apply_temperature(p, 2.0),
}
WITHOUT_LABELS = {"soft_vote", "hard_vote", "log_probs", "apply_temperature", "ece_if_calibrated"}


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
def test_what_is_not_a_table_of_probabilities_is_refused(measure, logits, probs, labels):
    with pytest.raises(ValueError, match=r"negative: row 0 holds -.*Logits need a softmax"):
        measure(logits, labels)
    with pytest.raises(ValueError, match=r"sum to 1 within 0.001: row \d+ sums to .*Logits need a softmax"):
        measure(np.abs(logits), labels)
    with pytest.raises(ValueError, match=r"shape \[N, C\].* not \[4\]"):
        measure(probs[0], labels)
    with pytest.raises(ValueError, match=r"shape \[N, C\].* not \[0, 4\]"):
        measure(probs[:0], labels[:0])
    for bad in (np.nan, np.inf):
        broken = probs.copy()
        broken[7, :2] = bad, -bad
        with pytest.raises(ValueError, match="finite: row 7 holds NaN or infinity"):
            measure(broken, labels)


@pytest.mark.parametrize(
    "measure",
    [measure for name, measure in MEASURES.items() if name not in WITHOUT_LABELS] + [ev.temperature],
    ids=[*(name for name in MEASURES if name not in WITHOUT_LABELS), "temperature"],
)
def test_labels_that_do_not_belong_to_the_predictions_are_refused(measure, probs, labels):
    table = np.log(probs) if measure is ev.temperature else probs
    with pytest.raises(ValueError, match=r"labels must have shape \[300\].* not \[299\]"):
        measure(table, labels[1:])
    with pytest.raises(ValueError, match=r"labels must be integers, not float64"):
        measure(table, labels.astype(float))
    for bad in (-1, 4):
        with pytest.raises(ValueError, match=rf"labels must lie in 0\.\.3.* found {bad}"):
            measure(table, np.where(np.arange(300) == 5, bad, labels))


def test_rows_may_be_off_by_rounding_but_no_more():
    assert ev.accuracy([[0.6004, 0.4005]], [0]) == 1
    half = softmax(np.random.default_rng(0).normal(size=(500, 10)), axis=1).astype(np.float16)
    assert ev.soft_vote([half]).shape == (500, 10)
    with pytest.raises(ValueError, match=r"row 1 sums to 1\.002"):
        ev.accuracy([[0.6, 0.4], [0.602, 0.4]], [0, 0])


def test_options_outside_their_range_are_refused(probs, labels):
    refused = {
        "successes must lie in 0..n.* not 11 of 10": lambda: ev.wilson_interval(11, 10),
        "successes must lie in 0..n.* not 0 of 0": lambda: ev.wilson_interval(0, 0),
        "confidence must lie between 0 and 1.* not 95": lambda: ev.wilson_interval(5, 10, confidence=95),
        "successes must lie in 0..n.* not -1 of 5": lambda: ev.independent_difference(-1, 5, 1, 5),
        "successes must lie in 0..n.* not 6 of 5": lambda: ev.independent_difference(1, 5, 6, 5),
        "confidence must lie between 0 and 1.* not 2": lambda: ev.independent_difference(1, 5, 1, 5, 2),
        "right_a must be booleans .* not int64": lambda: ev.paired_difference(
            np.ones(2, dtype=np.int64), [True] * 2
        ),
        r"right_b must have shape \[N\] .* not \[0\]": lambda: ev.paired_difference([True], []),
        "right_a and right_b must be of the same images, not 2 and 1": lambda: ev.paired_difference(
            [True] * 2, [True]
        ),
        "confidence must lie between 0 and 1.* not 1": lambda: ev.paired_difference([True], [True], 1),
        "marks_b must be booleans .* not float64": lambda: ev.mcnemar_marks([True], [1.0]),
        "marks_a and marks_b must be of the same images, not 1 and 3": lambda: ev.mcnemar_marks(
            [True], [True] * 3
        ),
        "classes must name the 4 classes, not 2": lambda: ev.per_class_report(probs, labels, CLASSES[:2]),
        r"confusion must have shape \[C, C\], not \[2, 3\]": lambda: ev.most_confused(np.ones((2, 3)), "ab", 1),
        "classes must name the 2 classes, not 4": lambda: ev.most_confused(np.ones((2, 2)), CLASSES, 1),
        "k must not be negative, not -1": lambda: ev.top_mistakes(probs, labels, -1),
        "bins must be at least 1, not 0": lambda: ev.ece(probs, labels, bins=0),
        "resamples must be at least 1, not 0": lambda: ev.recall_differences(
            probs, probs, labels, CLASSES, resamples=0
        ),
        r"one shape \[N, C\], not \[300, 4\] and \[299, 4\]": lambda: ev.agreement(probs, probs[1:], labels),
        "t must be a positive number, not 0": lambda: ev.apply_temperature(probs, 0),
        "t must be a positive number, not nan": lambda: ev.apply_temperature(probs, math.nan),
        "at least one member": lambda: ev.soft_vote([]),
        r"share one shape \[N, C\], not \[300, 4\], \[2, 4\]": lambda: ev.hard_vote([probs, probs[:2]]),
        "member 1's probs must not be negative": lambda: ev.soft_vote([probs, -probs]),
        r"weights must be 2 numbers.*not \[1, -1\]": lambda: ev.soft_vote([probs, probs], weights=[1, -1]),
        r"weights must be 2 numbers.*not \[0, 0\]": lambda: ev.soft_vote([probs, probs], weights=[0, 0]),
        r"weights must be 2 numbers.*not \[1\]": lambda: ev.soft_vote([probs, probs], weights=[1]),
        r"numbers in \[0, 1\], not \[0.5, 1.5\]": lambda: ev.holm([0.5, 1.5]),
        r"numbers in \[0, 1\], not \[nan\]": lambda: ev.holm([math.nan]),
        r"scores look like probabilities: pass logits, or log_probs": lambda: ev.temperature(probs, labels),
        "scores must be finite: .* with log_probs": lambda: ev.temperature([[0.0, -np.inf]], [0]),
        r"values must have shape \[N\] with N >= 1, not \[0\]": lambda: ev.mean_interval([]),
        r"values must have shape \[N\].* not \[2, 1\]": lambda: ev.mean_interval([[1], [2]]),
        "values must be finite: number 1 is nan. Leave such": lambda: ev.mean_interval([1, math.nan]),
        "resamples must be at least 1, not -1": lambda: ev.mean_interval([1, 2], resamples=-1),
        "confidence must lie between 0 and 1.* not 90": lambda: ev.mean_interval([1, 2], confidence=90),
        "classes must name the 4 classes, not 3": lambda: ev.recall_intervals(probs, labels, CLASSES[:3]),
        "confidence must lie between 0 and 1.* not 0": lambda: ev.recall_intervals(probs, labels, CLASSES, 0),
        "classes must name the 4 classes, not 1": lambda: ev.recall_differences(probs, probs, labels, ["cat"]),
        r"probs_a and probs_b .* not \[300, 4\] and \[1, 4\]": lambda: ev.recall_differences(
            probs, probs[:1], labels, CLASSES
        ),
        "bins must be at least 1, not -2": lambda: ev.ece(probs, labels, bins=-2, adaptive=True),
        "draws must be at least 1, not 0": lambda: ev.ece_if_calibrated(probs, draws=0),
        "level 2's probs must not be negative": lambda: ev.compare({"level 1": probs, "level 2": -probs}, labels),
        r"models' .* one shape .*'level 2': \[7, 4\]": lambda: ev.compare(
            {"level 1": probs, "level 2": probs[:7]}, labels
        ),
        r"right needs the four arms .* not \[\(True, True\)\]": lambda: ev.factorial({(True, True): [True]}),
        r"right\[\(False, False\)\] must be booleans .* not int64": lambda: ev.factorial(
            dict.fromkeys(ARMS, np.ones(3, dtype=np.int64))
        ),
        r"same images, not on so many each: .*\(True, True\): 2": lambda: ev.factorial(
            {arm: [True] * (2 if all(arm) else 3) for arm in ARMS}
        ),
        r"accuracies must .* at least one, not \[\]": lambda: ev.seed_spread([], 10),
        r"accuracies must .* not \[94.6\]. Divide percentages by 100": lambda: ev.seed_spread([94.6], 10),
        "n_images must be at least 1, not 0": lambda: ev.seed_spread([0.9], 0),
        "right must be booleans .* not float64": lambda: ev.by_attribute([0.0, 1.0], [1, 2]),
        r"right must have shape \[N\] .* not \[0\]": lambda: ev.by_attribute([], []),
        "right and values must be of the same images, not 2 and 3": lambda: ev.by_attribute([True] * 2, [1, 2, 3]),
        "groups must be at least 1, not 0": lambda: ev.by_attribute([True] * 2, [1, 2], groups=0),
    }
    for message, call in refused.items():
        with pytest.raises(ValueError, match=message):
            call()


# ------------------------------------------------------------------------------------------ against an oracle


def test_measures_agree_with_scikit_learn(probs, labels):
    onehot = np.eye(4)[labels]
    assert ev.nll(probs, labels) == pytest.approx(log_loss(labels, probs, labels=range(4)))
    assert ev.brier(probs, labels) == pytest.approx(4 * np.square(probs - onehot).mean())
    two = softmax(np.log(probs[:, :2]), axis=1)
    binary = (labels > 0).astype(int)
    assert ev.brier(two, binary) == pytest.approx(2 * brier_score_loss(binary, two[:, 1]))
    theirs = classification_report(labels, probs.argmax(axis=1), target_names=CLASSES, output_dict=True)
    ours = ev.per_class_report(probs, labels, CLASSES)
    assert ev.accuracy(probs, labels) == pytest.approx(theirs["accuracy"])
    assert list(ours.index) == [*CLASSES, "macro average"]
    for ours_name, theirs_name in zip(ours.index, [*CLASSES, "macro avg"], strict=True):
        expected = theirs[theirs_name]
        assert ours.loc[ours_name, ["precision", "recall", "f1"]].tolist() == pytest.approx(
            [expected["precision"], expected["recall"], expected["f1-score"]]
        )
        assert ours.loc[ours_name, "support"] == expected["support"]


@pytest.mark.parametrize(("successes", "n", "confidence"), [(0, 7, 0.95), (7, 7, 0.95), (9464, 10_000, 0.9)])
def test_wilson_agrees_with_its_formula(successes, n, confidence):
    z, p = norm.ppf((1 + confidence) / 2), successes / n
    centre, half = p + z**2 / (2 * n), z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    low, high = ev.wilson_interval(successes, n, confidence)
    assert low == pytest.approx((centre - half) / (1 + z**2 / n), abs=1e-12)
    assert high == pytest.approx((centre + half) / (1 + z**2 / n), abs=1e-12)
    assert 0 <= low <= p <= high <= 1


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        # Newcombe (1998), "Interval estimation for the difference between independent proportions", table II.
        ((56, 70, 48, 80), (0.2, 0.0524, 0.3339)),
        ((5, 56, 0, 29), (0.0893, -0.0381, 0.1926)),
        # Where Wilson's interval of 0 of n is 0 to z²/(n + z²), both ends are known by hand.
        ((0, 10, 0, 20), (0, -(1.959964**2) / (20 + 1.959964**2), 1.959964**2 / (10 + 1.959964**2))),
        ((10, 10, 0, 10), (1, 1 - math.sqrt(2) * 1.959964**2 / (10 + 1.959964**2), 1)),
    ],
)
def test_the_difference_of_independent_proportions_agrees_with_its_author(counts, expected):
    assert ev.independent_difference(*counts) == pytest.approx(expected, abs=5e-5)
    value, low, high = ev.independent_difference(*counts[2:], *counts[:2])
    assert (-value, -high, -low) == pytest.approx(expected, abs=5e-5)


def test_the_paired_interval_agrees_with_a_published_example():
    """Fagerland, Lydersen and Laake (2014): complete response before and after therapy in 161 patients."""
    assert ev.paired_difference(*marks(6, 16, 161)) == pytest.approx((-0.0621, -0.1240, -0.0054), abs=5e-5)


def likeliest_scores(b: int, c: int, n: int, differences: np.ndarray) -> np.ndarray:
    """The score statistic at each difference in accuracy, its chances found by trying ten thousand of them."""
    scores = []
    for d in differences:
        q = np.linspace(max(0.0, -d), (1 - d) / 2, 10_001)[1:-1]  # only the second right; q + d: only the first
        likelihood = b * np.log(q + d) + c * np.log(q) + (n - b - c) * np.log1p(-2 * q - d)
        scores.append((b - c - n * d) / math.sqrt(n * (2 * q[likelihood.argmax()] + d - d**2)))
    return np.array(scores)


@pytest.mark.parametrize(
    ("b", "c", "n"), [(5, 0, 20), (0, 5, 20), (1, 7, 21), (9, 3, 32), (12, 0, 12), (0, 0, 20), (30, 45, 1000)]
)
def test_the_paired_interval_holds_what_the_score_test_does_not_reject(b, c, n):
    """The score test by brute force, on a grid of differences."""
    grid = np.linspace(-0.995, 0.995, 398)
    scores = likeliest_scores(b, c, n, grid)
    for confidence in (0.95, 0.8):
        value, low, high = ev.paired_difference(*marks(b, c, n), confidence=confidence)
        assert value == (b - c) / n
        assert -1 <= low <= value <= high <= 1
        held = np.abs(scores) <= norm.ppf((1 + confidence) / 2)
        near = np.minimum(np.abs(grid - low), np.abs(grid - high)) < 1e-3  # too near an end for ten thousand
        assert (held == ((low <= grid) & (grid <= high)))[~near].all()


def test_the_paired_interval_excludes_0_exactly_where_mcnemars_score_test_rejects():
    for b in range(26):
        for c in range(26):
            _, low, high = ev.paired_difference(*marks(b, c, 60))
            assert (low > 0 or high < 0) == (abs(b - c) > norm.ppf(0.975) * math.sqrt(b + c)), (b, c)
            if low > 0 or high < 0:  # and the exact test, the more cautious, rejects only where it does
                continue
            assert ev.mcnemar_marks(*marks(b, c, 60)).p > 0.05, (b, c)
    assert ev.paired_difference(*marks(5, 0, 60)).low > 0
    assert ev.mcnemar_marks(*marks(5, 0, 60)).p == pytest.approx(0.0625)


@pytest.mark.parametrize("n", [1, 20, 10_000])
def test_models_that_never_differ_are_not_thereby_proved_alike(n):
    alike = np.arange(n) < 0.9 * n
    z = norm.ppf(0.975)
    # 0 of n with Wilson's limit, on either side.
    assert ev.paired_difference(alike, alike) == pytest.approx((0, -(z**2) / (n + z**2), z**2 / (n + z**2)))
    assert ev.mean_interval(np.zeros(n), resamples=10) == (0, 0, 0)  # as the bootstrap would have it
    # One model always right, the other never.
    assert ev.paired_difference([True] * n, [False] * n) == pytest.approx((1, (n - z**2) / (n + z**2), 1))


def test_the_paired_interval_changes_sign_with_the_order_and_narrows_with_more_images():
    a, b = np.random.default_rng(21).random((2, 200)) < [[0.9], [0.8]]
    value, low, high = ev.paired_difference(a, b)
    assert ev.paired_difference(b, a) == pytest.approx((-value, -high, -low))
    assert value == pytest.approx(a.mean() - b.mean())
    ours = ev.paired_difference(np.tile(a, 100), np.tile(b, 100))
    # Among many images it is the interval that the standard error of the difference gives.
    error = (a.astype(float) - b).std() / math.sqrt(20_000)
    assert ours == pytest.approx((value, value - 1.96 * error, value + 1.96 * error), abs=0.01 * error)
    wide, narrow = (ev.paired_difference(a, b, confidence) for confidence in (0.99, 0.5))
    assert wide.low < low < narrow.low < value < narrow.high < high < wide.high


def test_the_interval_of_a_mean_agrees_with_the_paired_bootstrap_and_with_theory(probs, labels):
    """Many distinct values: one by one the same draws as `paired_bootstrap`. Few: the binomial's quantiles."""
    worse = ev.apply_temperature(probs, 3)
    each = ev.nll_each(worse, labels) - ev.nll_each(probs, labels)
    slow = paired_bootstrap(ev.nll, labels, worse, probs, resamples=200, seed=3, confidence=0.9)
    assert ev.mean_interval(each, resamples=200, seed=3, confidence=0.9) == pytest.approx(slow)
    ours, error = ev.mean_interval(each), each.std() / math.sqrt(300)
    low, high = each.mean() + norm.ppf([0.025, 0.975]) * error
    assert ours == pytest.approx((each.mean(), low, high), abs=0.3 * error)
    value, low, high = ev.mean_interval(np.arange(1000) < 900)
    assert value == 0.9
    # 2,000 resamples place a quantile to within about a tenth of the standard deviation.
    assert (low, high) == pytest.approx(binom.ppf([0.025, 0.975], 1000, 0.9) / 1000, abs=0.0015)
    assert ev.mean_interval([0.7]) == (0.7, 0.7, 0.7)


def test_few_and_many_distinct_values_give_one_interval():
    """The same numbers with a grain of noise take the other way through `mean_interval`."""
    few = np.repeat([-1.0, 0.0, 2.0], [20, 250, 30])
    many = few + 1e-9 * np.arange(300)
    a, b = ev.mean_interval(few), ev.mean_interval(many)
    assert a == pytest.approx(b, abs=0.05 * (a.high - a.low))
    assert ev.mean_interval(few) == a
    assert ev.mean_interval(few, seed=1) != a
    assert ev.mean_interval(few, confidence=0.5).high < a.high


def test_recall_and_its_intervals_against_scikit_learn_and_the_formula(probs, labels):
    ours = ev.recall_intervals(probs, labels, CLASSES, confidence=0.9)
    assert list(ours.columns) == ["recall", "low", "high", "support"]
    assert list(ours.index) == CLASSES
    assert ours["recall"].tolist() == pytest.approx(recall_score(labels, probs.argmax(axis=1), average=None))
    assert ours["support"].tolist() == np.bincount(labels).tolist()
    n, p, z = ours["support"], ours["recall"], norm.ppf(0.95)
    half = z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    assert (ours["high"] - ours["low"]).tolist() == pytest.approx((2 * half).tolist())
    assert ((ours["low"] + ours["high"]) / 2).tolist() == pytest.approx(
        ((p + z**2 / (2 * n)) / (1 + z**2 / n)).tolist()
    )
    assert np.issubdtype(ours["support"].dtype, np.integer)


def test_recall_differences_against_scikit_learn_and_the_paired_bootstrap(probs, labels):
    other = softmax(np.log(probs) + np.random.default_rng(9).normal(size=probs.shape), axis=1)
    ours = ev.recall_differences(other, probs, labels, CLASSES)
    theirs = [recall_score(labels, p.argmax(axis=1), average=None) for p in (other, probs)]
    assert ours["difference"].tolist() == pytest.approx(theirs[0] - theirs[1])
    assert ours["support"].tolist() == np.bincount(labels).tolist()
    assert ours["images"].tolist() == pytest.approx((ours["difference"] * ours["support"]).tolist())
    for c, name in enumerate(CLASSES):
        of_class = labels == c
        slow = paired_bootstrap(
            ev.accuracy, labels[of_class], other[of_class], probs[of_class], resamples=1000, seed=1
        )
        # Quantiles of whole numbers of images: one off either way.
        assert ours.loc[name, ["low", "high"]].tolist() == pytest.approx(slow[1:], abs=1.01 / of_class.sum())
    mirrored = ev.recall_differences(probs, other, labels, CLASSES)
    assert mirrored["images"].tolist() == (-ours["images"]).tolist()
    assert mirrored["high"].tolist() == pytest.approx((-ours["low"]).tolist(), abs=0.03)


def test_a_class_without_images_has_no_recall():
    table = ev.recall_intervals(HAND, [0, 1, 0, 1], ["a", "b", "c"])
    assert table.loc["c", ["recall", "low", "high"]].isna().all()
    assert table["support"].tolist() == [2, 2, 0]
    table = ev.recall_differences(HAND, HAND[::-1], [0, 1, 0, 1], ["a", "b", "c"], resamples=10)
    assert table.loc["c", ["difference", "low", "high"]].isna().all()
    assert table[["images", "support"]].to_numpy().tolist() == [[2, 2], [1, 2], [0, 0]]
    assert all(np.issubdtype(table[name].dtype, np.integer) for name in ("images", "support"))


@pytest.mark.parametrize(("adaptive", "strategy"), [(False, "uniform"), (True, "quantile")])
def test_bins_agree_with_scikit_learn(adaptive, strategy, probs, labels):
    right = probs.argmax(axis=1) == labels
    accuracy, confidence = calibration_curve(right, probs.max(axis=1), n_bins=15, strategy=strategy)
    ours = ev.reliability(probs, labels, adaptive=adaptive)
    filled = ours.counts > 0
    assert ours.accuracy[filled] == pytest.approx(accuracy)
    assert ours.confidence[filled] == pytest.approx(confidence)
    assert len(ours.counts) == 15 and ours.counts.sum() == 300
    if adaptive:
        assert (ours.counts == 20).all()


def test_risk_and_coverage_against_one_image_after_another(probs, labels):
    curve = ev.risk_coverage(probs, labels)
    order = np.argsort(-probs.max(axis=1))
    wrong = (probs.argmax(axis=1) != labels)[order]
    risk = [wrong[: k + 1].mean() for k in range(300)]
    assert curve.coverage == pytest.approx(np.arange(1, 301) / 300)
    assert curve.risk == pytest.approx(risk)
    assert curve.area == pytest.approx(np.mean(risk))
    assert curve.risk[-1] == pytest.approx(1 - ev.accuracy(probs, labels))
    # Where confidence says something, the area is below what an uninformed ranking gives, the error rate.
    assert curve.area < curve.risk[-1]


def test_factorial_effects_are_the_regressions():
    """Least squares on the two changes coded ±1/2 and their product gives the same three numbers."""
    rng = np.random.default_rng(10)
    difficulty = rng.random(400)
    right = {arm: difficulty + 0.1 * rng.random(400) < 0.6 + 0.1 * arm[0] + 0.2 * all(arm) for arm in ARMS}
    first, second = np.repeat(np.array(ARMS) - 0.5, 400, axis=0).T
    design = np.column_stack([np.ones(1600), first, second, first * second])
    outcome = np.concatenate([right[arm] for arm in ARMS]).astype(float)
    expected = np.linalg.lstsq(design, outcome, rcond=None)[0][1:]
    found = ev.factorial(right)
    assert [effect.value for effect in found] == pytest.approx(expected)
    neither, a, b, both = (right[arm].astype(float) for arm in ARMS)
    for effect, each in zip(found, [(a - neither + both - b) / 2, (b - neither + both - a) / 2], strict=False):
        assert (effect.high - effect.low) / 2 == pytest.approx(1.96 * each.std() / 20, rel=0.1)
        assert effect.low < effect.value < effect.high
    swapped = ev.factorial({(j, i): values for (i, j), values in right.items()})
    assert (swapped.first.value, swapped.second.value) == pytest.approx((found.second.value, found.first.value))
    assert swapped.interaction == found.interaction


def test_vote_weights_agree_with_other_searches(probs, labels):
    rng = np.random.default_rng(11)
    a, b, c = (softmax(np.log(probs) * t + rng.normal(size=probs.shape), axis=1) for t in (1, 0.7, 0.4))
    oracle = minimize_scalar(
        lambda w: ev.nll(w * a + (1 - w) * b, labels), bounds=(0, 1), method="bounded", options={"xatol": 1e-9}
    )
    assert ev.vote_weights([a, b], labels) == pytest.approx([oracle.x, 1 - oracle.x], abs=1e-4)
    assert ev.vote_weights([b, a], labels) == pytest.approx([1 - oracle.x, oracle.x], abs=1e-4)
    three = minimize(
        lambda w: ev.nll(ev.soft_vote([a, b, c], w), labels),
        x0=np.full(3, 1 / 3),
        bounds=[(0, 1)] * 3,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
        method="SLSQP",
        options={"ftol": 1e-14},
    )
    found = ev.vote_weights([a, b, c], labels)
    assert found == pytest.approx(three.x, abs=1e-3)
    assert ev.nll(ev.soft_vote([a, b, c], found), labels) <= three.fun + 1e-12


@pytest.mark.parametrize("true_t", [0.2, 1.0, 2.5, 30.0])
def test_temperature_agrees_with_a_scalar_search_and_undoes_what_was_done(logits, labels, true_t):
    """Labels are drawn at temperature 1; scores stretched by `true_t` must be shrunk by about that much."""
    scores = logits * true_t
    oracle = minimize_scalar(
        lambda log_t: -log_softmax(scores / math.exp(log_t), axis=1)[range(300), labels].mean(),
        bounds=(math.log(0.01), math.log(100)),
        method="bounded",
        options={"xatol": 1e-10},
    )
    fitted = ev.temperature(scores, labels)
    assert fitted == pytest.approx(math.exp(oracle.x), rel=1e-4)
    assert fitted == pytest.approx(true_t, rel=0.2)


def test_mcnemar_agrees_with_the_binomial_tail():
    a, b = np.zeros(30, dtype=bool), np.zeros(30, dtype=bool)
    a[:9], b[9:11], a[20:], b[20:] = True, True, True, True
    test = ev.mcnemar_marks(a, b)
    # 11 images decide, 9 to 2: p = 2 (C(11,0) + C(11,1) + C(11,2)) / 2^11 = 2 x 67 / 2048.
    assert (test.b, test.c) == (9, 2)
    assert test.p == pytest.approx(134 / 2048)
    assert ev.mcnemar_marks(b, a) == (2, 9, test.p)
    assert ev.mcnemar_marks(a, a) == (0, 0, 1.0)
    assert ev.mcnemar_marks(~a, ~b) == (2, 9, test.p)


# -------------------------------------------------------------------------------------------- hand arithmetic

HAND = np.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.5, 0.1, 0.4], [0.2, 0.3, 0.5]])
HAND_LABELS = np.array([0, 1, 2, 1])  # predicted 0, 1, 0, 2: right, right, wrong, wrong


def test_accuracy_nll_and_brier_by_hand():
    assert ev.accuracy(HAND, HAND_LABELS) == 2 / 4
    assert ev.nll(HAND, HAND_LABELS) == pytest.approx(-math.log(0.7 * 0.6 * 0.4 * 0.3) / 4)
    assert ev.nll_each(HAND, HAND_LABELS) == pytest.approx(-np.log([0.7, 0.6, 0.4, 0.3]))
    # (0.09+0.04+0.01) + (0.01+0.16+0.09) + (0.25+0.01+0.36) + (0.04+0.49+0.25) = 0.14+0.26+0.62+0.78
    assert ev.brier(HAND, HAND_LABELS) == pytest.approx(1.80 / 4)


def test_balanced_accuracy_agrees_with_scikit_learn(probs, labels):
    few = np.flatnonzero((labels != 2) | (np.arange(len(labels)) % 7 == 0))  # hardly any of class 2
    assert ev.unbalanced(labels[few])
    expected = balanced_accuracy_score(labels[few], probs[few].argmax(axis=1))
    assert ev.balanced_accuracy(probs[few], labels[few]) == pytest.approx(expected)
    even = np.concatenate([np.flatnonzero(labels == label)[:20] for label in range(4)])
    assert not ev.unbalanced(labels[even])
    assert ev.balanced_accuracy(probs[even], labels[even]) == pytest.approx(ev.accuracy(probs[even], labels[even]))


def test_the_ends_of_the_scales():
    certain = np.eye(3)
    assert ev.brier(certain, [0, 1, 2]) == 0
    assert ev.nll(certain, [0, 1, 2]) == 0
    assert ev.ece(certain, [0, 1, 2]) == 0
    assert ev.brier(certain, [1, 2, 0]) == 2
    assert ev.ece(certain, [1, 2, 0]) == 1
    assert ev.nll(np.full((2, 10), 0.1), [3, 4]) == pytest.approx(math.log(10))


def test_confusion_and_its_pairs_by_hand():
    counts = ev.confusion(HAND, HAND_LABELS)
    assert counts.tolist() == [[1, 0, 0], [0, 1, 1], [1, 0, 0]]
    assert np.issubdtype(counts.dtype, np.integer)
    pairs = ev.most_confused([[5, 2, 4], [3, 5, 0], [1, 0, 5]], ["a", "b", "c"], k=5)
    # a-b 2 + 3 and a-c 4 + 1 tie at 5 and stay in class order; b-c is never confused.
    assert pairs.to_numpy().tolist() == [["a", "b", 2, 3, 5], ["a", "c", 4, 1, 5]]
    assert list(pairs.columns) == ["first", "second", "first_as_second", "second_as_first", "total"]
    assert len(ev.most_confused(counts, ["a", "b", "c"], k=1)) == 1
    assert ev.most_confused(np.eye(3, dtype=int), ["a", "b", "c"], k=1).empty


def test_a_class_that_is_never_predicted_has_precision_0():
    report = ev.per_class_report([[0.9, 0.1], [0.8, 0.2]], [0, 1], ["a", "b"])
    assert report.loc["b"].tolist() == [0, 0, 0, 1]
    assert report.loc["macro average", "precision"] == 0.25  # (1/2 + 0) / 2
    assert report.loc["macro average", "support"] == 2


def test_top_mistakes_are_wrong_sorted_and_stable():
    assert ev.top_mistakes(HAND, HAND_LABELS, 5).tolist() == [2, 3]  # both at 0.5: by index
    probs = np.array([[0.2, 0.8], [0.9, 0.1], [0.3, 0.7], [0.2, 0.8], [0.4, 0.6]])
    assert ev.top_mistakes(probs, np.zeros(5, dtype=int), 3).tolist() == [0, 3, 2]
    assert ev.top_mistakes(probs, [1, 0, 1, 1, 1], 3).tolist() == []


def test_reliability_and_ece_by_hand():
    per_bin = ev.reliability(HAND, HAND_LABELS, bins=5)
    # Confidences 0.7, 0.6, 0.5, 0.5; bins (0.4, 0.6] and (0.6, 0.8]: 0.6 belongs to the lower one.
    assert per_bin.counts.tolist() == [0, 0, 3, 1, 0]
    assert per_bin.confidence[2:4].tolist() == pytest.approx([1.6 / 3, 0.7])
    assert per_bin.accuracy[2:4].tolist() == pytest.approx([1 / 3, 1])
    assert np.isnan(per_bin.accuracy[[0, 1, 4]]).all()
    assert np.isnan(per_bin.confidence[[0, 1, 4]]).all()
    assert ev.ece(HAND, HAND_LABELS, bins=5) == pytest.approx((3 * (1.6 - 1) / 3 + 1 * 0.3) / 4)


def test_a_bin_owns_its_upper_edge():
    per_bin = ev.reliability([[0.5, 0.5], [0.75, 0.25], [1.0, 0.0], [0.76, 0.24]], [0, 0, 0, 0], bins=4)
    assert per_bin.counts.tolist() == [0, 1, 1, 2]
    assert ev.reliability(HAND, HAND_LABELS, bins=1).counts.tolist() == [4]


def test_adaptive_bins_by_hand():
    """Sorted confidences 0.5, 0.5, 0.6, 0.7: the first two are wrong, the others right."""
    per_bin = ev.reliability(HAND, HAND_LABELS, bins=2, adaptive=True)
    assert per_bin.counts.tolist() == [2, 2]
    assert per_bin.confidence.tolist() == pytest.approx([0.5, 0.65])
    assert per_bin.accuracy.tolist() == [0, 1]
    assert ev.ece(HAND, HAND_LABELS, bins=2, adaptive=True) == pytest.approx((2 * 0.5 + 2 * 0.35) / 4)
    # Four bins for four images, but two of them tie: they share the bin of their middle rank.
    per_bin = ev.reliability(HAND, HAND_LABELS, bins=4, adaptive=True)
    assert per_bin.counts.tolist() == [0, 2, 1, 1]
    assert np.isnan(per_bin.accuracy[0]) and np.isnan(per_bin.confidence[0])


def test_the_ece_that_chance_explains_by_hand(probs, labels):
    # Ten images at 0.8 in one bin: E|K - 8| / 10 over K of Binomial(10, 0.8).
    expected = (binom.pmf(np.arange(11), 10, 0.8) * np.abs(np.arange(11) - 8)).sum() / 10
    assert ev.ece_if_calibrated([[0.8, 0.2]] * 10, draws=5000) == pytest.approx(expected, rel=0.04)
    assert ev.ece_if_calibrated(np.eye(3)) == 0
    again = [ev.ece_if_calibrated(probs, seed=seed) for seed in (0, 0, 1)]
    assert again[0] == again[1] != again[2]


@pytest.mark.parametrize("adaptive", [False, True])
def test_the_ece_that_chance_explains_is_that_of_drawn_labels(adaptive, probs):
    """Whole labels drawn from whole rows, and `ece` itself."""
    rng = np.random.default_rng(12)
    uniform = rng.random((300, 300, 1))
    drawn = [ev.ece(probs, (u > probs.cumsum(axis=1)).sum(axis=1), 10, adaptive=adaptive) for u in uniform]
    found = ev.ece_if_calibrated(probs, 10, adaptive=adaptive, draws=300)
    assert found == pytest.approx(np.mean(drawn), abs=4 * np.std(drawn) * math.sqrt(2 / 300))
    sharper = ev.apply_temperature(probs, 0.3)
    labels = (uniform[0] > probs.cumsum(axis=1)).sum(axis=1)
    explained = ev.ece_if_calibrated(sharper, 10, adaptive=adaptive)
    assert ev.ece(sharper, labels, 10, adaptive=adaptive) > 2 * explained


def test_risk_and_coverage_by_hand():
    # Confidences 0.7 and 0.6 right, then 0.5 and 0.5 wrong, which enter together.
    curve = ev.risk_coverage(HAND, HAND_LABELS)
    assert curve.coverage.tolist() == [0.25, 0.5, 1]
    assert curve.risk.tolist() == [0, 0, 0.5]
    assert curve.area == (0.25 * 0 + 0.25 * 0 + 0.5 * 0.5)
    flat = ev.risk_coverage([[0.6, 0.4]] * 4, [0, 1, 0, 0])
    assert (flat.coverage.tolist(), flat.risk.tolist(), flat.area) == ([1], [0.25], 0.25)
    assert ev.risk_coverage(np.eye(3), [0, 1, 2]).area == 0


def test_compare_by_hand():
    labels = np.zeros(60, dtype=int)
    right = {"one": 30, "two": 41, "three": 40}
    models = {name: rows(np.arange(60) < k) for name, k in right.items()}
    models["two"] = models["two"][np.r_[1:60, 0]]  # right on the first 40 and the last
    table = ev.compare(models, labels)
    assert table[["model", "over"]].to_numpy().tolist() == [["two", "one"], ["three", "one"], ["three", "two"]]
    assert table["images"].tolist() == [11, 10, -1]
    assert table["only_model"].tolist() == [11, 10, 0]
    assert table["only_over"].tolist() == [0, 0, 1]
    assert table["difference"].tolist() == pytest.approx([11 / 60, 10 / 60, -1 / 60])
    p = [2 / 2**11, 2 / 2**10, 1]
    assert table["p"].tolist() == pytest.approx(p)
    assert table["p_holm"].tolist() == pytest.approx([3 * p[0], 2 * p[1], 1])
    right = {name: probs.argmax(axis=1) == 0 for name, probs in models.items()}
    for _, row in table.iterrows():
        assert (row.difference, row.low, row.high) == ev.paired_difference(right[row.model], right[row.over])
    # Each image moved from wrong to right gains log(0.9 / 0.1).
    assert table["nll_difference"].tolist() == pytest.approx(-table["difference"] * math.log(9))
    for few in ({}, {"one": models["one"]}):
        assert ev.compare(few, labels).empty
        assert list(ev.compare(few, labels).columns) == list(table.columns)


def test_compare_takes_every_pair_from_the_same_resamples(probs, labels):
    models = {"a": probs, "b": ev.apply_temperature(probs, 3), "c": np.roll(probs, 1, axis=0), "d": probs}
    table = ev.compare(models, labels).set_index(["model", "over"])
    found = table[["nll_difference", "nll_low", "nll_high"]]
    for model, over in (("b", "a"), ("c", "a"), ("c", "b")):
        slow = paired_bootstrap(ev.nll, labels, models[model], models[over])
        assert found.loc[(model, over)].tolist() == pytest.approx(slow)
    assert found.loc[("d", "a")].tolist() == [0, 0, 0]
    assert table.loc[("d", "a"), "low"] < 0 < table.loc[("d", "a"), "high"]


def test_factorial_by_hand():
    # 100 images; right: 50 with neither, 60 and 70 with one change, 100 with both.
    right = {arm: np.arange(100) < k for arm, k in zip(ARMS, (50, 60, 70, 100), strict=True)}
    found = ev.factorial(right)
    assert found.first.value == pytest.approx((0.10 + 0.30) / 2)
    assert found.second.value == pytest.approx((0.20 + 0.40) / 2)
    assert found.interaction.value == pytest.approx(0.30 - 0.10)
    nothing = ev.factorial(dict.fromkeys(ARMS, np.arange(100) < 50))
    assert nothing == ((0, 0, 0),) * 3


def test_seed_spread_by_hand():
    found = ev.seed_spread([0.9, 0.92, 0.97], 400)
    sd = statistics.stdev([0.9, 0.92, 0.97])
    assert found[:4] == pytest.approx((0.93, sd, math.sqrt(0.93 * 0.07 / 400), 3))
    # Chi-square with 2 degrees of freedom is exponential: its q quantile is -2 log(1 - q).
    assert found.seed_sd_low == pytest.approx(sd / math.sqrt(-math.log(0.025)))
    assert found.seed_sd_high == pytest.approx(sd / math.sqrt(-math.log(0.975)))
    five = ev.seed_spread([0.9, 0.92, 0.97, 0.94, 0.91], 400)
    assert [4 * (five.seed_sd / end) ** 2 for end in five[4:]] == pytest.approx(chi2.ppf([0.975, 0.025], 4))
    alone = ev.seed_spread([0.9], 100)
    assert (alone.mean, alone.test_sd, alone.seeds) == pytest.approx((0.9, 0.03, 1))
    assert all(math.isnan(sd) for sd in (alone.seed_sd, alone.seed_sd_low, alone.seed_sd_high))
    assert ev.seed_spread([0.9, 0.9], 100)[1:] == pytest.approx((0, 0.03, 2, 0, 0))


def test_groups_by_an_attribute_by_hand():
    right = np.array([True, False, True, True, False, True])
    values = np.array([5, 1, 3, 2, 0, 4])
    table = ev.by_attribute(right, values)
    columns = ["value_low", "value_high", "images", "accuracy"]
    assert table[columns].to_numpy().tolist() == [[0, 1, 2, 0], [2, 3, 2, 1], [4, 5, 2, 1]]
    assert table[["low", "high"]].to_numpy().tolist() == [
        list(ev.wilson_interval(0, 2)),
        *[list(ev.wilson_interval(2, 2))] * 2,
    ]
    # Most have no occluder at all: they stay together and leave two groups.
    tied = ev.by_attribute(right, np.array([0, 0, 0, 0, 0, 0.3]))
    assert tied[columns].to_numpy().tolist() == [[0, 0, 5, 0.6], [0.3, 0.3, 1, 1]]
    assert ev.by_attribute(right, np.full(6, 2.0), groups=4)["images"].tolist() == [6]
    assert ev.by_attribute(right, values, groups=1)["accuracy"].tolist() == [4 / 6]


@pytest.mark.parametrize(("n", "groups"), [(300, 3), (100, 7), (10, 10), (5, 8)])
def test_groups_are_as_equal_as_can_be(n, groups):
    values = np.random.default_rng(13).permutation(n).astype(float)
    table = ev.by_attribute(values >= 0, values, groups)
    assert table["images"].sum() == n
    assert len(table) == min(n, groups)
    assert table["images"].max() - table["images"].min() <= 1
    if n % groups == 0:
        theirs = pd.Series(values).groupby(pd.qcut(values, groups)).agg(["min", "max"])
        assert table[["value_low", "value_high"]].to_numpy().tolist() == theirs.to_numpy().tolist()


def test_ece_is_0_when_every_confidence_is_the_accuracy():
    """Of ten images at confidence 0.8 eight are right, of ten at 0.6 six."""
    probs = np.repeat([[0.8, 0.2], [0.6, 0.4]], 10, axis=0)
    labels = np.array([0] * 8 + [1] * 2 + [0] * 6 + [1] * 4)
    assert ev.ece(probs, labels) == pytest.approx(0, abs=1e-12)
    assert ev.ece(probs, 1 - labels) == pytest.approx((0.6 + 0.2) / 2)


def test_agreement_by_hand():
    a = rows([True] * 6 + [True] * 2 + [False] * 1 + [False] * 3)
    b = rows([True] * 6 + [False] * 2 + [True] * 1 + [False] * 3)
    found = ev.agreement(a, b, np.zeros(12, dtype=int))
    assert found[:4] == (6, 2, 1, 3)
    assert found.disagreement == 3 / 12
    assert found.q_statistic == (6 * 3 - 1 * 2) / (6 * 3 + 1 * 2)
    assert found.oracle_accuracy == 9 / 12
    assert found.double_fault == 3 / 12
    perfect = ev.agreement(a[:6], b[:6], np.zeros(6, dtype=int))
    assert math.isnan(perfect.q_statistic)
    assert perfect.oracle_accuracy == 1


def test_holm_by_hand():
    # Sorted 0.005, 0.01, 0.03, 0.04: x4, x3, x2, x1 gives 0.02, 0.03, 0.06, 0.04, the last raised to 0.06.
    assert ev.holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert ev.holm([0.9, 0.6]).tolist() == [1, 1]
    assert ev.holm([0.3]).tolist() == [0.3]
    assert ev.holm([]).tolist() == []


def test_votes_by_hand():
    members = np.array([[[0.6, 0.4, 0.0]], [[0.0, 0.55, 0.45]], [[0.3, 0.2, 0.5]]])
    # One vote for each class; the sums are 0.9, 1.15, 0.95.
    assert ev.hard_vote(members).tolist() == [1]
    # Class 2 has the largest sum (0.9) but no vote: only classes that lead in votes may win the tie.
    assert ev.hard_vote([[[0.55, 0.0, 0.45]], [[0.0, 0.55, 0.45]]]).tolist() == [0]
    # Two votes of 0.4 beat one of 1.0.
    assert ev.hard_vote([[[0.4, 0.3, 0.3]], [[0.4, 0.3, 0.3]], [[0.0, 1.0, 0.0]]]).tolist() == [0]
    assert ev.soft_vote(members).tolist()[0] == pytest.approx([0.3, 1.15 / 3, 0.95 / 3])
    assert ev.soft_vote(members, weights=[2, 1, 1]).tolist()[0] == pytest.approx([0.375, 0.3875, 0.2375])


# ------------------------------------------------------------------------------------------------- invariants


@pytest.mark.parametrize(
    "measure",
    [
        ev.accuracy,
        ev.nll,
        ev.brier,
        ev.ece,
        lambda p, y: ev.ece(p, y, adaptive=True),
        lambda p, y: ev.risk_coverage(p, y).area,
    ],
    ids=["accuracy", "nll", "brier", "ece", "ece_adaptive", "risk_coverage"],
)
def test_the_order_of_images_and_the_names_of_classes_do_not_matter(measure, probs, labels):
    value = measure(probs, labels)
    order = np.random.default_rng(3).permutation(300)
    assert measure(probs[order], labels[order]) == pytest.approx(value, rel=1e-12)
    renamed = np.array([2, 0, 3, 1])
    assert measure(probs[:, np.argsort(renamed)], renamed[labels]) == pytest.approx(value, rel=1e-12)


def test_permuting_the_images_changes_no_table_or_test(probs, labels):
    other = np.roll(probs, 1, axis=0)
    order = np.random.default_rng(3).permutation(300)
    assert (ev.confusion(probs, labels) == ev.confusion(probs[order], labels[order])).all()
    assert ev.agreement(probs, other, labels) == ev.agreement(probs[order], other[order], labels[order])


def test_ties_in_confidence_leave_the_order_of_images_without_a_say(labels):
    """A saturated softmax says exactly 1 of thousands of images."""
    rng = np.random.default_rng(14)
    confidence = rng.choice([0.4, 0.7, 0.9, 1.0], size=300)
    probs = np.column_stack([confidence, *[(1 - confidence) / 3] * 3])
    order = rng.permutation(300)
    before, after = ((p, y) for p, y in ((probs, labels), (probs[order], labels[order])))
    assert ev.ece(*before, adaptive=True) == pytest.approx(ev.ece(*after, adaptive=True), rel=1e-12)
    assert ev.reliability(*before, adaptive=True).counts.tolist() == (
        ev.reliability(*after, adaptive=True).counts.tolist()
    )
    first, second = ev.risk_coverage(*before), ev.risk_coverage(*after)
    assert len(first.risk) == 4
    assert first.risk.tolist() == second.risk.tolist()
    assert first.area == second.area
    assert first.coverage[0] == (confidence == 1).mean()


def test_risk_and_coverage_see_only_the_ranking(probs, labels):
    two = softmax(np.log(probs[:, :2]), axis=1)  # of two classes a temperature keeps the ranking of the images
    curve, cooled = (ev.risk_coverage(p, labels // 2) for p in (two, ev.apply_temperature(two, 2)))
    assert curve.risk.tolist() == cooled.risk.tolist()


def test_the_confusion_matrix_holds_the_accuracy_and_the_supports(probs, labels):
    counts = ev.confusion(probs, labels)
    assert counts.sum() == 300
    assert np.trace(counts) / 300 == ev.accuracy(probs, labels)
    assert counts.sum(axis=1).tolist() == np.bincount(labels, minlength=4).tolist()


def test_an_ensemble_of_one_model_is_that_model(probs):
    assert ev.soft_vote([probs] * 3) == pytest.approx(probs)
    assert ev.soft_vote([probs, probs[::-1]], weights=[5, 0]) == pytest.approx(probs)
    assert (ev.hard_vote([probs] * 3) == probs.argmax(axis=1)).all()


def test_two_members_vote_for_a_class_that_one_of_them_names(probs):
    other = np.roll(probs, 1, axis=0)
    voted = ev.hard_vote([probs, other])
    assert ((voted == probs.argmax(axis=1)) | (voted == other.argmax(axis=1))).all()


def test_vote_weights_lie_on_the_simplex_and_are_never_worse_than_what_they_replace(probs, labels):
    members = [probs, np.roll(probs, 1, axis=0), probs[::-1]]
    fitted = ev.vote_weights(members, labels)
    assert (fitted >= 0).all() and fitted.sum() == pytest.approx(1)
    best = ev.nll(ev.soft_vote(members, fitted), labels)
    for weights in ([1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1], *np.random.default_rng(15).random((20, 3))):
        assert best <= ev.nll(ev.soft_vote(members, weights), labels) + 1e-9
    assert ev.vote_weights([probs, probs], labels).tolist() == [0.5, 0.5]
    assert ev.vote_weights([probs], labels).tolist() == [1]
    # A member that never beats the other on any image gets nothing.
    poor = (probs + 0.5) / 3
    assert ev.vote_weights([np.eye(4)[labels], poor], labels) == pytest.approx([1, 0], abs=1e-4)
    # A member that calls the truth impossible, now and then, is neither infinitely bad nor not a number.
    sure = np.eye(4, dtype=np.float32)[np.where(np.arange(300) % 10 == 0, (labels + 1) % 4, labels)]
    # 0.9 log(w + (1 - w) / 4) + 0.1 log((1 - w) / 4) is largest at 0.9 x 0.75 (1 - w) = 0.1 (0.25 + 0.75 w).
    mixed = ev.vote_weights([sure, np.full((300, 4), 0.25)], labels)
    assert mixed == pytest.approx([0.65 / 0.75, 0.10 / 0.75], abs=1e-4)


def test_an_ensemble_is_never_worse_than_its_members_on_average(labels):
    """By convexity of -log and of the square (Jensen's inequality)."""
    rng = np.random.default_rng(4)
    for _ in range(20):
        members = [softmax(rng.normal(size=(300, 4)), axis=1) for _ in range(3)]
        together = ev.soft_vote(members, weights=[0.2, 0.3, 0.5])
        for measure in (ev.nll, ev.brier):
            average = np.average([measure(member, labels) for member in members], weights=[0.2, 0.3, 0.5])
            assert measure(together, labels) <= average + 1e-12


def test_temperature_keeps_every_prediction_and_never_raises_the_nll_it_was_fitted_on(logits, labels):
    overconfident = softmax(3 * logits, axis=1)
    t = ev.temperature(ev.log_probs(overconfident), labels)
    assert t == pytest.approx(ev.temperature(3 * logits, labels), rel=1e-4)  # log-probabilities or logits
    assert t == pytest.approx(ev.temperature(3 * logits + 50, labels), rel=1e-4)  # a shift is no information
    cooled = ev.apply_temperature(overconfident, t)
    assert (cooled.argmax(axis=1) == overconfident.argmax(axis=1)).all()
    assert ev.nll(cooled, labels) < ev.nll(overconfident, labels)
    assert ev.ece(cooled, labels) < ev.ece(overconfident, labels)
    assert ev.temperature(ev.log_probs(cooled), labels) == pytest.approx(1, rel=1e-4)


def test_applying_a_temperature_is_dividing_the_logits_by_it(logits, probs):
    assert ev.apply_temperature(probs, 1) == pytest.approx(probs)
    assert ev.apply_temperature(probs, 2.5) == pytest.approx(softmax(logits / 2.5, axis=1))


def test_temperature_where_there_is_no_optimum():
    for gap in (0.1, 0.3, 3, 30, 300):
        scores = np.array([[gap, 0.0], [0.0, gap]])
        assert ev.temperature(scores, [0, 1]) == 1  # no mistake: nothing to learn it from
        assert ev.temperature(scores, [1, 0]) == pytest.approx(100)
    assert ev.temperature([[2.0, 0.0], [1.0, 1.0]], [0, 1]) == 1  # a tie is no mistake that a temperature mends
    assert ev.temperature([[2.0, 0.0], [1.0, 1.001]], [0, 0]) != 1


def test_a_probability_that_underflowed_is_not_an_impossibility():
    zero32 = np.array([[1, 0]], dtype=np.float32)
    assert ev.nll(zero32, [1]) == pytest.approx(-math.log(np.finfo(np.float32).tiny))
    assert ev.nll([[1, 0]], [1]) == pytest.approx(-math.log(sys.float_info.min))
    assert np.isfinite(ev.apply_temperature(zero32, 0.05)).all()
    assert 1 < ev.temperature(ev.log_probs(np.repeat(zero32, 4, axis=0)), [0, 0, 0, 1]) <= 100


def test_inputs_are_left_alone(probs, labels):
    before = probs.copy(), labels.copy()
    for measure in MEASURES.values():
        measure(probs, labels)
    assert (probs == before[0]).all()
    assert (labels == before[1]).all()


# --------------------------------------------------------------------------------------- promised error rates


@pytest.mark.parametrize("p", [0.5, 0.8, 0.95])
def test_wilson_covers_as_often_as_it_says(p):
    """Exact: the chance of every count times whether its interval holds p."""
    n = 200
    intervals = np.array([ev.wilson_interval(k, n) for k in range(n + 1)])
    covers = (intervals[:, 0] <= p) & (p <= intervals[:, 1])
    assert 0.92 <= (binom.pmf(np.arange(n + 1), n, p) * covers).sum() <= 0.98


@pytest.mark.parametrize(("n", "p"), [(1000, 0.8206), (10_000, 0.9464)])
def test_wilson_covers_at_the_documents_accuracies(n, p):
    spread = math.sqrt(n * p * (1 - p))
    counts = np.arange(int(n * p - 5 * spread), int(n * p + 5 * spread))
    covers = [low <= p <= high for low, high in (ev.wilson_interval(k, n) for k in counts)]
    assert 0.92 <= (binom.pmf(counts, n, p) * covers).sum() <= 0.98


def coverage(intervals: np.ndarray, b: np.ndarray, c: np.ndarray, n: int, p: float, q: float) -> float:
    """Chance that the interval of (b, c) images holds p - q, their chances being p and q: every case added up."""
    chance = multinomial.pmf(np.column_stack([b, c, n - b - c]), n, [p, q, 1 - p - q])
    return (chance * ((intervals[:, 0] <= p - q) & (p - q <= intervals[:, 1]))).sum()


def test_the_paired_interval_covers_as_often_as_it_says():
    """Exact, on 20 images, down to where two models hardly ever differ and b + c = 0 is the likeliest case."""
    n = 20
    b, c = np.array([(b, c) for b in range(n + 1) for c in range(n + 1 - b)]).T
    cases = [marks(*case, n) for case in zip(b, c, strict=True)]
    ours = np.array([ev.paired_difference(*case)[1:] for case in cases])
    chances = [(0.01, 0.01), (0.06, 0.02), (0.1, 0.1), (0.15, 0.02), (0.2, 0.05), (0.3, 0.3), (0.5, 0.2)]
    found = [coverage(ours, b, c, n, p, q) for p, q in chances]
    assert min(found) >= 0.92
    assert (
        min(found[3:]) >= 0.92 and max(found[3:]) <= 0.98
    )  # where they differ often enough, no wider than need be
    bootstrap = np.array([ev.mean_interval(a.astype(int) - b, resamples=400)[1:] for a, b in cases])
    assert coverage(bootstrap, b, c, n, 0.06, 0.02) < 0.85  # why accuracies are not left to it


def test_the_paired_interval_covers_on_more_images():
    """2,000 test sets of 500 images: right only by the first in 8 %, only by the second in 5 %."""
    b, c, _ = np.random.default_rng(22).multinomial(500, [0.08, 0.05, 0.87], size=2000).T
    held = [
        low <= 0.03 <= high
        for _, low, high in (ev.paired_difference(*marks(*k, 500)) for k in zip(b, c, strict=True))
    ]
    assert 0.94 <= np.mean(held) <= 0.96


def test_the_interval_between_seeds_covers_as_often_as_it_says():
    """2,000 times three seeds of true standard deviation 0.01."""
    accuracies = np.random.default_rng(23).normal(0.9, 0.01, size=(2000, 3))
    found = [ev.seed_spread(seeds, 1000) for seeds in accuracies]
    assert 0.94 <= np.mean([spread.seed_sd_low <= 0.01 <= spread.seed_sd_high for spread in found]) <= 0.96


def test_the_spread_between_seeds_shrinks_as_the_test_set_grows():
    """Seeds of one true accuracy that disagree on a fifth of the images, where each has its own luck."""
    rng = np.random.default_rng(24)
    mean_sd = {}
    for n in (250, 4000):
        agreed = rng.random((300, 1, n)) < 0.8
        right = np.where(agreed, True, rng.random((300, 5, n)) < 0.5)
        mean_sd[n] = np.mean([ev.seed_spread(seeds, n).seed_sd for seeds in right.mean(axis=2)])
    assert mean_sd[250] / mean_sd[4000] == pytest.approx(4, rel=0.1)
    alone = ev.seed_spread([0.9, 0.9], 250)
    assert mean_sd[250] < alone.test_sd  # what the images all seeds agree on add is no difference between seeds


def test_recall_intervals_cover_as_often_as_they_say():
    """Three classes of true recall 0.7, 0.85 and 0.95, drawn 400 times among 600 images."""
    rng = np.random.default_rng(16)
    recall = np.array([0.7, 0.85, 0.95])
    covered = np.zeros(3)
    for _ in range(400):
        labels = rng.integers(3, size=600)
        predicted = np.where(rng.random(600) < recall[labels], labels, (labels + 1) % 3)
        found = ev.recall_intervals(np.eye(3)[predicted], labels, CLASSES[:3])
        covered += (found["low"] <= recall) & (recall <= found["high"])
    assert (covered / 400 >= 0.92).all() and (covered / 400 <= 0.98).all()


def test_recall_differences_cover_as_often_as_they_say():
    """Two models that find the same images hard; true recalls 0.75 and 0.70, 0.9 and 0.9, 0.93 and 0.97."""
    rng = np.random.default_rng(17)
    a, b = np.array([0.75, 0.9, 0.93]), np.array([0.70, 0.9, 0.97])
    covered = np.zeros(3)
    for seed in range(400):
        labels = np.repeat([0, 1, 2], 300)
        # Half of each model's luck is the image's own, half its own: right where the mean of both is small.
        shared = rng.random(900)
        first, second = (
            np.where(rng.random(900) < 0.5, shared, rng.random(900)) < recall[labels] for recall in (a, b)
        )
        votes = [np.eye(3)[np.where(right, labels, (labels + 1) % 3)] for right in (first, second)]
        found = ev.recall_differences(*votes, labels, CLASSES[:3], resamples=400, seed=seed)
        covered += (found["low"] <= a - b) & (a - b <= found["high"])
    assert (covered / 400 >= 0.92).all() and (covered / 400 <= 0.98).all()


def confident(rng, n):
    """Two overconfident models of `n` two-class images of class 0: confidences on the truth, `[2, n]`."""
    difficulty = rng.beta(0.4, 3.0, size=n)
    logit = np.log1p(-difficulty) - np.log(difficulty) + rng.normal(size=(2, n))
    return 1 / (1 + np.exp(-np.array([[1.5], [1.0]]) * logit))


@pytest.mark.slow
def test_intervals_of_the_nll_and_of_its_difference_cover_as_often_as_they_say():
    """300 test sets of 300 images; the truth from a million."""
    rng = np.random.default_rng(18)
    truth = -np.log(confident(rng, 1_000_000)).mean(axis=1)
    labels = np.zeros(300, dtype=int)
    covered = np.zeros(2)
    for seed in range(300):
        a, b = (ev.nll_each(np.column_stack([p, 1 - p]), labels) for p in confident(rng, 300))
        for i, (values, true) in enumerate([(a, truth[0]), (a - b, truth[0] - truth[1])]):
            found = ev.mean_interval(values, resamples=300, seed=seed)
            covered[i] += found.low <= true <= found.high
    assert (covered / 300 >= 0.92).all() and (covered / 300 <= 0.98).all()


@pytest.mark.slow
def test_the_bootstrap_of_the_ece_does_not_cover():
    """Why `ece` has no interval: confidences 0.55 to 0.95, each 0.03 too high, so that the true ECE is 0.03."""
    rng = np.random.default_rng(19)
    covered = above = 0
    for seed in range(40):
        confidence = rng.choice(np.arange(0.55, 1, 0.1), size=300)
        probs = np.column_stack([confidence, 1 - confidence])
        labels = (rng.random(300) >= confidence - 0.03).astype(int)
        perfect = np.eye(2)[labels]  # its ECE is 0 in every resample
        _, low, high = paired_bootstrap(ev.ece, labels, probs, perfect, resamples=100, seed=seed)
        covered += low <= 0.03 <= high
        above += low > 0.03
    assert covered / 40 < 0.8
    assert above == 40 - covered  # and where it misses, it lies above the truth


def test_the_interval_of_a_mean_covers_about_as_often_as_it_says():
    """The NLL of two models that differ in what they say of each image, 150 test sets of 200 images."""
    rng = np.random.default_rng(5)
    covered = 0
    for seed in range(150):
        gains = rng.gamma(2.0, 0.5, size=200) - rng.gamma(2.0, 0.4, size=200)  # 1.0 - 0.8 on average
        found = ev.mean_interval(gains, resamples=100, seed=seed)
        covered += found.low <= 0.2 <= found.high
    assert 0.88 <= covered / 150 <= 0.99  # 0.95 give or take what 150 trials and 100 resamples allow


def test_mcnemar_raises_false_alarms_no_oftener_than_it_says():
    """Two equally good models, drawn 400 times: p <= 0.05 in at most 5 %, and p <= 0.5 in a fair share."""
    rng = np.random.default_rng(6)
    p = np.array([ev.mcnemar_marks(a, b).p for a, b in rng.random((400, 2, 300)) < 0.9])
    assert (p <= 0.05).mean() <= 0.05
    assert (p <= 0.5).mean() > 0.3


@pytest.mark.parametrize("deciding", [6, 9, 17, 25, 40])
def test_mcnemars_false_alarms_counted_exactly(deciding):
    """Of the images on which exactly one is right, k go to the first with the binomial's chance: add them up."""
    images = np.arange(deciding)
    p = np.array([ev.mcnemar_marks(images < k, images >= k).p for k in range(deciding + 1)])
    chance = binom.pmf(np.arange(deciding + 1), deciding, 0.5)
    for alpha in (0.01, 0.05, 0.2):
        assert chance[p <= alpha].sum() <= alpha + 1e-12
    assert chance[p <= 0.05].sum() > 0.01  # nor does it never alarm


@pytest.mark.slow
def test_comparing_equal_models_raises_any_false_alarm_no_oftener_than_it_says():
    """Four equally good models whose errors are alike, 150 times: some p_holm <= 0.05 in at most 5 %."""
    rng = np.random.default_rng(20)
    labels = np.zeros(300, dtype=int)
    raw, corrected = [], []
    for _ in range(150):
        shared, own = rng.random(300), rng.random((4, 300))
        luck = np.where(rng.random((4, 300)) < 0.5, shared, own)
        table = ev.compare({str(i): rows(u < 0.85) for i, u in enumerate(luck)}, labels)
        raw.append(table["p"].min())
        corrected.append(table["p_holm"].min())
    allowed = 0.05 + 2 * math.sqrt(0.05 * 0.95 / 150)
    assert (np.array(corrected) <= 0.05).mean() <= allowed
    assert (np.array(raw) <= 0.05).mean() > allowed  # six tests uncorrected do not keep it


def test_mcnemar_finds_a_difference_that_is_there():
    rng = np.random.default_rng(7)
    p = [ev.mcnemar_marks(rng.random(300) < 0.95, rng.random(300) < 0.80).p for _ in range(50)]
    assert np.mean(np.array(p) <= 0.05) > 0.9


def test_holm_keeps_the_chance_of_any_false_alarm():
    p = np.random.default_rng(8).random((2000, 5))
    any_alarm = np.mean([ev.holm(row).min() <= 0.05 for row in p])
    assert 0.03 <= any_alarm <= 0.065  # 5 % less a little, where five raw tests would alarm in 23 %
    assert (p.min(axis=1) <= 0.05).mean() > 0.2
