"""The measures against hand arithmetic, scikit-learn, scipy, and what must hold whatever the predictions."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from scipy.stats import binom, norm
from sklearn.metrics import brier_score_loss, classification_report, log_loss

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


def rows(right: np.ndarray | list[bool]) -> np.ndarray:
    """Two-class predictions that are right or wrong as told, where every label is 0."""
    return np.where(np.asarray(right, dtype=bool)[:, None], [0.9, 0.1], [0.1, 0.9])


# -------------------------------------------------------------------------------------------- what is refused

MEASURES = {
    "accuracy": ev.accuracy,
    "confusion": ev.confusion,
    "per_class_report": lambda p, y: ev.per_class_report(p, y, CLASSES),
    "nll": ev.nll,
    "brier": ev.brier,
    "ece": ev.ece,
    "reliability": ev.reliability,
    "top_mistakes": lambda p, y: ev.top_mistakes(p, y, 3),
    "paired_bootstrap": lambda p, y: ev.paired_bootstrap(ev.accuracy, y, p, p, resamples=2),
    "mcnemar": lambda p, y: ev.mcnemar(p, p, y),
    "agreement": lambda p, y: ev.agreement(p, p, y),
    "soft_vote": lambda p, y: ev.soft_vote([p]),
    "hard_vote": lambda p, y: ev.hard_vote([p, p]),
    "log_probs": lambda p, y: ev.log_probs(p),
    "apply_temperature": lambda p, y: ev.apply_temperature(p, 2.0),
}
WITHOUT_LABELS = {"soft_vote", "hard_vote", "log_probs", "apply_temperature"}


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
        "classes must name the 4 classes, not 2": lambda: ev.per_class_report(probs, labels, CLASSES[:2]),
        r"confusion must have shape \[C, C\], not \[2, 3\]": lambda: ev.most_confused(np.ones((2, 3)), "ab", 1),
        "classes must name the 2 classes, not 4": lambda: ev.most_confused(np.ones((2, 2)), CLASSES, 1),
        "k must not be negative, not -1": lambda: ev.top_mistakes(probs, labels, -1),
        "bins must be at least 1, not 0": lambda: ev.ece(probs, labels, bins=0),
        "resamples must be at least 1, not 0": lambda: ev.paired_bootstrap(
            ev.accuracy, labels, probs, probs, resamples=0
        ),
        r"one shape \[N, C\], not \[300, 4\] and \[299, 4\]": lambda: ev.mcnemar(probs, probs[1:], labels),
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
    test = ev.mcnemar(rows(a), rows(b), np.zeros(30, dtype=int))
    # 11 images decide, 9 to 2: p = 2 (C(11,0) + C(11,1) + C(11,2)) / 2^11 = 2 x 67 / 2048.
    assert (test.b, test.c) == (9, 2)
    assert test.p == pytest.approx(134 / 2048)
    assert ev.mcnemar(rows(b), rows(a), np.zeros(30, dtype=int)) == (2, 9, test.p)
    assert ev.mcnemar(rows(a), rows(a), np.zeros(30, dtype=int)) == (0, 0, 1.0)


# -------------------------------------------------------------------------------------------- hand arithmetic

HAND = np.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.5, 0.1, 0.4], [0.2, 0.3, 0.5]])
HAND_LABELS = np.array([0, 1, 2, 1])  # predicted 0, 1, 0, 2: right, right, wrong, wrong


def test_accuracy_nll_and_brier_by_hand():
    assert ev.accuracy(HAND, HAND_LABELS) == 2 / 4
    assert ev.nll(HAND, HAND_LABELS) == pytest.approx(-math.log(0.7 * 0.6 * 0.4 * 0.3) / 4)
    # (0.09+0.04+0.01) + (0.01+0.16+0.09) + (0.25+0.01+0.36) + (0.04+0.49+0.25) = 0.14+0.26+0.62+0.78
    assert ev.brier(HAND, HAND_LABELS) == pytest.approx(1.80 / 4)


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


@pytest.mark.parametrize("measure", [ev.accuracy, ev.nll, ev.brier, ev.ece], ids=lambda f: f.__name__)
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
    assert ev.mcnemar(probs, other, labels) == ev.mcnemar(probs[order], other[order], labels[order])
    assert ev.agreement(probs, other, labels) == ev.agreement(probs[order], other[order], labels[order])


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


def test_temperature_stays_within_its_bounds_where_there_is_no_optimum():
    for gap in (0.1, 0.3, 3, 30, 300):
        scores = np.array([[gap, 0.0], [0.0, gap]])
        t = ev.temperature(scores, [0, 1])
        assert t >= 0.01
        assert ev.nll(softmax(scores / t, axis=1), [0, 1]) < 1e-4
        assert ev.temperature(scores, [1, 0]) == pytest.approx(100)


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


def test_the_bootstrap_resamples_images_jointly(probs, labels):
    same = ev.paired_bootstrap(ev.nll, labels, probs, probs, resamples=50)
    assert same == (0, 0, 0)  # two independent resamples would differ
    worse = ev.apply_temperature(probs, 3)
    found = ev.paired_bootstrap(ev.nll, labels, worse, probs, resamples=400)
    assert found.difference == pytest.approx(ev.nll(worse, labels) - ev.nll(probs, labels))
    assert found.low < found.difference < found.high
    # The difference of means has a known standard error: mean ± 1.96 se is the interval's oracle.
    logs = np.log(probs) - np.log(worse)
    half = 1.96 * logs[range(300), labels].std() / math.sqrt(300)
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.15)
    swapped = ev.paired_bootstrap(ev.nll, labels, probs, worse, resamples=400)
    assert swapped == pytest.approx((-found.difference, -found.high, -found.low))
    assert ev.paired_bootstrap(ev.nll, labels, worse, probs, resamples=400) == found
    assert ev.paired_bootstrap(ev.nll, labels, worse, probs, resamples=400, seed=1) != found
    narrow = ev.paired_bootstrap(ev.nll, labels, worse, probs, resamples=400, confidence=0.5)
    assert narrow.high - narrow.low < found.high - found.low


# --------------------------------------------------------------------------------------- promised error rates


@pytest.mark.parametrize("p", [0.5, 0.8, 0.95])
def test_wilson_covers_as_often_as_it_says(p):
    """Exact: the chance of every count times whether its interval holds p."""
    n = 200
    intervals = np.array([ev.wilson_interval(k, n) for k in range(n + 1)])
    covers = (intervals[:, 0] <= p) & (p <= intervals[:, 1])
    assert 0.92 <= (binom.pmf(np.arange(n + 1), n, p) * covers).sum() <= 0.98


def test_the_bootstrap_covers_about_as_often_as_it_says():
    """Two models with true accuracies 0.85 and 0.75, 150 test sets of 200 images."""
    rng = np.random.default_rng(5)
    labels = np.zeros(200, dtype=int)
    covered = 0
    for seed in range(150):
        a, b = rows(rng.random(200) < 0.85), rows(rng.random(200) < 0.75)
        found = ev.paired_bootstrap(ev.accuracy, labels, a, b, resamples=100, seed=seed)
        covered += found.low <= 0.10 <= found.high
    assert 0.88 <= covered / 150 <= 0.99  # 0.95 give or take what 150 trials and 100 resamples allow


def test_mcnemar_raises_false_alarms_no_oftener_than_it_says():
    """Two equally good models, drawn 400 times: p <= 0.05 in at most 5 %, and p <= 0.5 in a fair share."""
    rng = np.random.default_rng(6)
    labels = np.zeros(300, dtype=int)
    p = np.array([ev.mcnemar(rows(a), rows(b), labels).p for a, b in rng.random((400, 2, 300)) < 0.9])
    assert (p <= 0.05).mean() <= 0.05
    assert (p <= 0.5).mean() > 0.3


def test_mcnemar_finds_a_difference_that_is_there():
    rng = np.random.default_rng(7)
    labels = np.zeros(300, dtype=int)
    p = [ev.mcnemar(rows(rng.random(300) < 0.95), rows(rng.random(300) < 0.80), labels).p for _ in range(50)]
    assert np.mean(np.array(p) <= 0.05) > 0.9


def test_holm_keeps_the_chance_of_any_false_alarm():
    p = np.random.default_rng(8).random((2000, 5))
    any_alarm = np.mean([ev.holm(row).min() <= 0.05 for row in p])
    assert 0.03 <= any_alarm <= 0.065  # 5 % less a little, where five raw tests would alarm in 23 %
    assert (p.min(axis=1) <= 0.05).mean() > 0.2
