"""What a model's predictions are worth: measures, intervals, paired tests and ensembles.

Every function is pure. `probs` is a float array `[N, C]` of class probabilities, each row summing to one, and
`labels` an integer array `[N]` of true classes `0..C-1`. Nothing guesses whether an array holds logits: they
are refused with a ValueError, like anything else that is not a table of probabilities, save where a
function's argument is named `scores`. The predicted class is the most probable one, the lowest index where
several tie.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

Array = npt.NDArray[np.floating]
Ints = npt.NDArray[np.integer]

# ------------------------------------------------------------------------------------------------- validation


def _checked(probs: npt.ArrayLike, name: str = "probs") -> Array:
    """`probs` as a float64 `[N, C]` array of probabilities; ValueError saying what is wrong and where."""
    probs = np.asarray(probs, dtype=np.float64)
    if probs.ndim != 2 or 0 in probs.shape:
        raise ValueError(f"{name} must have shape [N, C] with N, C >= 1, not {list(probs.shape)}")
    with np.errstate(invalid="ignore"):  # inf - inf: reported below, by row
        sums = probs.sum(axis=1)
    if not np.isfinite(sums).all():
        row = int(np.flatnonzero(~np.isfinite(sums))[0])
        raise ValueError(f"{name} must be finite: row {row} holds NaN or infinity")
    if probs.min() < 0:
        row = int(np.flatnonzero((probs < 0).any(axis=1))[0])
        raise ValueError(
            f"{name} must not be negative: row {row} holds {probs[row].min():.4g}. "
            "Logits need a softmax first, log-probabilities an exponential"
        )
    off = np.abs(sums - 1)
    if off.max() > 1e-3:
        row = int(off.argmax())
        raise ValueError(
            f"each row of {name} must sum to 1 within 0.001: row {row} sums to {sums[row]:.6g}. "
            "Logits need a softmax first"
        )
    return probs


def _checked_labels(labels: npt.ArrayLike, shape: tuple[int, ...]) -> Ints:
    """`labels` as an integer `[N]` array of classes for predictions of this shape `[N, C]`."""
    labels = np.asarray(labels)
    n, classes = shape
    if labels.shape != (n,):
        raise ValueError(f"labels must have shape [{n}], one per row of probs, not {list(labels.shape)}")
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels must be integers, not {labels.dtype}")
    if labels.min() < 0 or labels.max() >= classes:
        bad = int(labels[(labels < 0) | (labels >= classes)][0])
        raise ValueError(f"labels must lie in 0..{classes - 1}, the columns of probs: found {bad}")
    return labels


def _checked_pair(probs: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[Array, Ints]:
    checked = _checked(probs)
    return checked, _checked_labels(labels, checked.shape)


def _checked_members(members: Sequence[npt.ArrayLike]) -> Array:
    """The members' probabilities as one `[M, N, C]` array."""
    if len(members) == 0:
        raise ValueError("an ensemble needs at least one member's probabilities")
    checked = [_checked(member, f"member {i}'s probs") for i, member in enumerate(members)]
    if len({member.shape for member in checked}) > 1:
        shapes = ", ".join(str(list(member.shape)) for member in checked)
        raise ValueError(f"the members' probabilities must share one shape [N, C], not {shapes}")
    return np.stack(checked)


def _checked_classes(classes: Sequence[str], n: int) -> list[str]:
    if len(classes) != n:
        raise ValueError(f"classes must name the {n} classes, not {len(classes)}")
    return list(classes)


# --------------------------------------------------------------------------------------------------- accuracy


def accuracy(probs: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Share of images whose most probable class is the true one.

    `(1/N) sum_i [argmax_c probs[i, c] = labels[i]]`

    Args:
        probs: Class probabilities `[N, C]`.
        labels: True classes `[N]`, integers.

    Returns:
        A fraction in [0, 1].

    Raises:
        ValueError: `probs` are not probabilities, or `labels` do not belong to them.

    Example:
        >>> accuracy([[0.9, 0.1], [0.4, 0.6], [0.3, 0.7]], [0, 1, 0])
        0.6666666666666666
    """
    probs, labels = _checked_pair(probs, labels)
    return float((probs.argmax(axis=1) == labels).mean())


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Confidence interval of a proportion, by Wilson's score method.

    `(p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n)` with `p = successes / n` and z the normal quantile
    of `(1 + confidence) / 2`. Unlike `p ± z sqrt(p(1-p)/n)` it stays within [0, 1] and keeps a
    width at both ends. Source: Wilson (1927), "Probable inference, the law of succession, and statistical
    inference".

    Args:
        successes: How many succeeded (images predicted right), 0 to n.
        n: How many were tried, at least 1.
        confidence: Coverage aimed at, between 0 and 1.

    Returns:
        `(low, high)`, fractions in [0, 1].

    Raises:
        ValueError: An argument is outside its range.

    Example:
        >>> low, high = wilson_interval(9464, 10_000)
        >>> f"{low:.4f} to {high:.4f}"
        '0.9418 to 0.9506'
    """
    if not 0 <= successes <= n or n < 1:
        raise ValueError(f"successes must lie in 0..n with n >= 1, not {successes} of {n}")
    _check_confidence(confidence)
    interval = binomtest(int(successes), int(n)).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1 (0.95 for 95 %), not {confidence}")


# -------------------------------------------------------------------------------------------------- per class


def confusion(probs: npt.ArrayLike, labels: npt.ArrayLike) -> Ints:
    """Counts of images by true class (row) and predicted class (column).

    Args:
        probs: Class probabilities `[N, C]`.
        labels: True classes `[N]`, integers.

    Returns:
        Integers `[C, C]` that add up to N; a class that never occurs has a row or column of zeros.

    Raises:
        ValueError: `probs` are not probabilities, or `labels` do not belong to them.

    Example:
        >>> confusion([[0.9, 0.1], [0.4, 0.6], [0.3, 0.7]], [0, 1, 0])
        array([[1, 1],
               [0, 1]])
    """
    probs, labels = _checked_pair(probs, labels)
    return confusion_matrix(labels, probs.argmax(axis=1), labels=np.arange(probs.shape[1]))


def per_class_report(probs: npt.ArrayLike, labels: npt.ArrayLike, classes: Sequence[str]) -> pd.DataFrame:
    """Precision, recall, F1 and support of every class, and their unweighted mean.

    Precision: of the images predicted as the class, the share that are. Recall: of the class's images, the
    share predicted so. `F1 = 2 precision recall / (precision + recall)`. Where a denominator is 0 the measure
    counts as 0, scikit-learn's convention.

    Args:
        probs: Class probabilities `[N, C]`.
        labels: True classes `[N]`, integers.
        classes: The C class names.

    Returns:
        One row per class, in order, then "macro average". Columns precision, recall and f1, fractions in
        [0, 1], and support, the images of the class (in the last row N).

    Raises:
        ValueError: `probs` are not probabilities, `labels` do not belong to them, or there are not C names.

    Example:
        >>> print(per_class_report([[0.9, 0.1], [0.4, 0.6], [0.3, 0.7]], [0, 1, 0], ["cat", "dog"]).round(2))
                       precision  recall    f1  support
        cat                 1.00    0.50  0.67        2
        dog                 0.50    1.00  0.67        1
        macro average       0.75    0.75  0.67        3
    """
    probs, labels = _checked_pair(probs, labels)
    columns = precision_recall_fscore_support(
        labels, probs.argmax(axis=1), labels=np.arange(probs.shape[1]), zero_division=0
    )
    names = ("precision", "recall", "f1", "support")
    report = pd.DataFrame(dict(zip(names, columns, strict=True)), index=_checked_classes(classes, probs.shape[1]))
    macro = report.mean().to_frame("macro average").T.assign(support=len(labels))
    return pd.concat([report, macro]).astype({"support": int})


def most_confused(confusion: npt.ArrayLike, classes: Sequence[str], k: int) -> pd.DataFrame:
    """The pairs of classes most often taken for one another.

    Args:
        confusion: Counts `[C, C]`, rows true, as `confusion` gives them.
        classes: The C class names.
        k: At most so many pairs; a pair that is never confused is left out.

    Returns:
        Columns first, second (class names), first_as_second (images of the first class predicted as the
        second), second_as_first, and total, their sum; largest total first, ties in class order.

    Raises:
        ValueError: `confusion` is not square, there are not C names, or k is negative.

    Example:
        >>> print(most_confused([[8, 2, 0], [1, 9, 0], [1, 0, 9]], ["cat", "dog", "ship"], k=2))
          first second  first_as_second  second_as_first  total
        0   cat    dog                2                1      3
        1   cat   ship                0                1      1
    """
    counts = np.asarray(confusion)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1]:
        raise ValueError(f"confusion must have shape [C, C], not {list(counts.shape)}")
    _check_k(k)
    names = np.array(_checked_classes(classes, len(counts)), dtype=object)
    first, second = np.triu_indices(len(counts), k=1)
    pairs = pd.DataFrame(
        {
            "first": names[first],
            "second": names[second],
            "first_as_second": counts[first, second],
            "second_as_first": counts[second, first],
        }
    )
    pairs["total"] = pairs["first_as_second"] + pairs["second_as_first"]
    pairs = pairs[pairs["total"] > 0].sort_values("total", ascending=False, kind="stable")
    return pairs.head(k).reset_index(drop=True)


def first_right(probs: npt.ArrayLike, labels: npt.ArrayLike, k: int) -> Ints:
    """Indices of the first correct prediction of each of the first classes that have one.

    Args:
        probs: Class probabilities `[N, C]`.
        labels: True classes `[N]`, integers.
        k: At most so many classes.

    Returns:
        Integers `[<= k]` into the images, in the order of their classes.

    Raises:
        ValueError: `probs` are not probabilities, `labels` do not belong to them, or k is negative.

    Example:
        >>> first_right([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]], [0, 0, 1], k=2)
        array([0, 2])
    """
    probs, labels = _checked_pair(probs, labels)
    _check_k(k)
    right = np.flatnonzero(probs.argmax(axis=1) == labels)
    return right[np.unique(labels[right], return_index=True)[1]][:k]


def top_mistakes(probs: npt.ArrayLike, labels: npt.ArrayLike, k: int) -> Ints:
    """Indices of the wrong predictions made with the highest confidence.

    Args:
        probs: Class probabilities `[N, C]`.
        labels: True classes `[N]`, integers.
        k: At most so many; fewer where there are fewer mistakes.

    Returns:
        Integers `[<= k]` into the images, the most confident first, ties by index.

    Raises:
        ValueError: `probs` are not probabilities, `labels` do not belong to them, or k is negative.

    Example:
        >>> top_mistakes([[0.9, 0.1], [0.4, 0.6], [0.3, 0.7]], [1, 1, 0], k=2)
        array([0, 2])
    """
    probs, labels = _checked_pair(probs, labels)
    _check_k(k)
    wrong = np.flatnonzero(probs.argmax(axis=1) != labels)
    return wrong[np.argsort(-probs[wrong].max(axis=1), kind="stable")][:k]


def _check_k(k: int) -> None:
    if k < 0:
        raise ValueError(f"k must not be negative, not {k}")


# ------------------------------------------------------------------------------------------------ calibration


def log_probs(probs: npt.ArrayLike) -> Array:
    """Logarithm of probabilities, finite even where one has underflowed to zero.

    A probability below the smallest normal number of the array's own precision (2.2e-308 in float64, 1.2e-38
    in float32) is read as that number: a zero in a softmax's output means "too small to write", not
    "impossible".

    Args:
        probs: Class probabilities `[N, C]`.

    Returns:
        float64 `[N, C]`, at most 0 up to rounding, at least -709.

    Raises:
        ValueError: `probs` are not probabilities.

    Example:
        >>> log_probs([[1.0, 0.0]]).round(1).tolist()
        [[0.0, -708.4]]
    """
    dtype = np.asarray(probs).dtype
    tiny = np.finfo(dtype if np.issubdtype(dtype, np.floating) else np.float64).tiny
    return np.log(np.maximum(_checked(probs), float(tiny)))


def nll(probs: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Mean negative log-likelihood of the true class, in nats.

    `-(1/N) sum_i log probs[i, labels[i]]`, the cross-entropy loss without its softmax and the logarithmic
    score of Good (1952), "Rational decisions". A probability of zero counts as in `log_probs`.

    Args:
        probs: Class probabilities `[N, C]`.
        labels: True classes `[N]`, integers.

    Returns:
        0 (certain and right) or more; log C for a model that knows nothing.

    Raises:
        ValueError: `probs` are not probabilities, or `labels` do not belong to them.

    Example:
        >>> round(nll([[0.5, 0.5], [0.25, 0.75]], [0, 0]), 4)  # (log 2 + log 4) / 2
        1.0397
    """
    logs = log_probs(probs)
    labels = _checked_labels(labels, logs.shape)
    return float(-logs[np.arange(len(labels)), labels].mean())


def brier(probs: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Mean squared distance between the probabilities and the truth, summed over the classes.

    `(1/N) sum_i sum_c (probs[i, c] - [labels[i] = c])²`. Source: Brier (1950), "Verification of forecasts
    expressed in terms of probability".

    Args:
        probs: Class probabilities `[N, C]`.
        labels: True classes `[N]`, integers.

    Returns:
        0 (certain and right) to 2 (certain and wrong); with two classes, twice the score of the one-column
        form.

    Raises:
        ValueError: `probs` are not probabilities, or `labels` do not belong to them.

    Example:
        >>> brier([[0.5, 0.5], [0.25, 0.75]], [0, 0])  # (0.5 + 1.125) / 2
        0.8125
    """
    probs, labels = _checked_pair(probs, labels)
    errors = probs.copy()
    errors[np.arange(len(labels)), labels] -= 1
    return float(np.square(errors).sum(axis=1).mean())


class Reliability(NamedTuple):
    """What a reliability diagram draws; bin b of B holds the confidences in `(b/B, (b+1)/B]`."""

    confidence: Array
    """Mean confidence in each bin `[B]`, NaN where the bin is empty."""
    accuracy: Array
    """Share predicted right in each bin `[B]`, NaN where the bin is empty."""
    counts: Ints
    """Images in each bin `[B]`."""


def reliability(probs: npt.ArrayLike, labels: npt.ArrayLike, bins: int = 15) -> Reliability:
    """Confidence against accuracy in bins of equal width.

    An image's confidence is its largest probability. Source: Guo et al. (2017), "On calibration of modern
    neural networks", section 2.

    Args:
        probs: Class probabilities `[N, C]`.
        labels: True classes `[N]`, integers.
        bins: Number of bins B over [0, 1], at least 1.

    Returns:
        Mean confidence, accuracy and count of each bin.

    Raises:
        ValueError: `probs` are not probabilities, `labels` do not belong to them, or bins < 1.

    Example:
        >>> r = reliability([[0.9, 0.1], [0.4, 0.6], [0.3, 0.7]], [0, 1, 0], bins=4)
        >>> r.counts.tolist(), r.accuracy.tolist()
        ([0, 0, 2, 1], [nan, nan, 0.5, 1.0])
    """
    probs, labels = _checked_pair(probs, labels)
    if bins < 1:
        raise ValueError(f"bins must be at least 1, not {bins}")
    confidence = probs.max(axis=1)
    right = probs.argmax(axis=1) == labels
    inner_edges = np.linspace(0, 1, bins + 1)[1:-1]
    index = np.searchsorted(inner_edges, confidence, side="left")  # left: a bin owns its upper edge
    count = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore"):  # 0/0 in an empty bin is the NaN we promise
        return Reliability(
            confidence=np.bincount(index, weights=confidence, minlength=bins) / count,
            accuracy=np.bincount(index, weights=right, minlength=bins) / count,
            counts=count,
        )


def ece(probs: npt.ArrayLike, labels: npt.ArrayLike, bins: int = 15) -> float:
    """Expected calibration error: how far confidence lies from accuracy, on average over the images.

    `sum_b (count_b / N) |accuracy_b - confidence_b|` over the bins of `reliability`. It tends to grow
    with the number of bins and is biased upward on few images: compare at equal N and bins. Source: Guo et
    al. (2017), equation 3.

    Args:
        probs: Class probabilities `[N, C]`.
        labels: True classes `[N]`, integers.
        bins: Number of bins of equal width, at least 1.

    Returns:
        A fraction in [0, 1]; 0 where every bin's confidence equals its accuracy.

    Raises:
        ValueError: `probs` are not probabilities, `labels` do not belong to them, or bins < 1.

    Example:
        >>> round(ece([[0.9, 0.1], [0.4, 0.6], [0.3, 0.7]], [0, 1, 0], bins=4), 4)  # (2 x 0.15 + 1 x 0.1) / 3
        0.1333
    """
    per_bin = reliability(probs, labels, bins)
    gaps = np.abs(per_bin.accuracy - per_bin.confidence)
    return float(np.nansum(gaps * per_bin.counts) / per_bin.counts.sum())


def temperature(scores: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """The one number T that makes `softmax(scores / T)` most likely, fitted on held-out images.

    Minimises the mean negative log-likelihood by L-BFGS over 1/T, in which it is convex. T > 1 softens
    overconfident predictions; no prediction changes its class. Fit it on validation images, never on the test
    set. Source: Guo et al. (2017), section 4.2.

    Args:
        scores: Logits, or log-probabilities such as `log_probs` gives (the softmax cannot tell them apart),
            `[N, C]`.
        labels: True classes `[N]`, integers.

    Returns:
        T, from 0.01 to 100. Scores worse than guessing give 100. Scores that make no error have no optimum
        above 0; they give some T at which the loss has all but vanished.

    Raises:
        ValueError: `scores` are not a finite `[N, C]` table, or look like probabilities, or `labels` do not
            belong to them.

    Example:
        >>> round(temperature([[8.0, 0.0]] * 3 + [[0.0, 8.0]], [0, 0, 0, 0]), 3)  # 8 / log 3: confidence 3/4
        7.282
    """
    scores = np.asarray(scores, dtype=np.float64)
    if scores.ndim != 2 or 0 in scores.shape:
        raise ValueError(f"scores must have shape [N, C] with N, C >= 1, not {list(scores.shape)}")
    if not np.isfinite(scores).all():
        raise ValueError("scores must be finite: take the logarithm of probabilities with log_probs")
    if scores.min() >= 0 and np.allclose(scores.sum(axis=1), 1, atol=1e-3):
        raise ValueError("scores look like probabilities: pass logits, or log_probs(probs)")
    labels = _checked_labels(labels, scores.shape)
    rows = np.arange(len(labels))

    def loss_and_slope(inverse: Array) -> tuple[float, Array]:
        logs = log_softmax(scores * inverse, axis=1)
        true = scores[rows, labels]
        expected = (np.exp(logs) * scores).sum(axis=1)
        return -logs[rows, labels].mean(), np.array([(expected - true).mean()])

    fit = minimize(
        loss_and_slope,
        x0=[1.0],
        jac=True,
        method="L-BFGS-B",
        bounds=[(0.01, 100.0)],
        options={"ftol": 1e-15, "gtol": 1e-10},
    )
    return float(1 / fit.x[0])


def apply_temperature(probs: npt.ArrayLike, t: float) -> Array:
    """Probabilities sharpened (t < 1) or softened (t > 1) by a temperature: `softmax(log probs / t)`.

    Args:
        probs: Class probabilities `[N, C]`.
        t: The temperature, above 0; 1 changes nothing.

    Returns:
        Probabilities `[N, C]`, float64, each row in the same order as before.

    Raises:
        ValueError: `probs` are not probabilities, or t is not a positive number.

    Example:
        >>> apply_temperature([[0.8, 0.2]], 0.5).round(4).tolist()  # 0.64 : 0.04
        [[0.9412, 0.0588]]
    """
    if not (np.isfinite(t) and t > 0):
        raise ValueError(f"t must be a positive number, not {t}")
    return softmax(log_probs(probs) / t, axis=1)


# ----------------------------------------------------------------------------------------------- paired tests


class Difference(NamedTuple):
    """A difference between two models, with its interval."""

    difference: float
    low: float
    high: float


def paired_bootstrap(
    statistic: Callable[[Array, Ints], float],
    labels: npt.ArrayLike,
    probs_a: npt.ArrayLike,
    probs_b: npt.ArrayLike,
    *,
    resamples: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Difference:
    """The difference `statistic(a) - statistic(b)` on the same images, with a bootstrap interval.

    Each resample draws N images with replacement and takes them from both models, so that what is hard for
    both cancels; the interval runs between the percentiles of the resampled differences. It covers the choice
    of test images, not of training seeds. Source: Efron and Tibshirani (1993), "An introduction to the
    bootstrap", chapter 13.

    Args:
        statistic: Any `statistic(probs, labels) -> float`, such as `accuracy` or `ece`.
        labels: True classes `[N]`, integers.
        probs_a: The first model's class probabilities `[N, C]`.
        probs_b: The second model's, for the same images in the same order.
        resamples: Number of resamples, at least 1.
        seed: Seed of the draws.
        confidence: Coverage aimed at, between 0 and 1.

    Returns:
        `(difference, low, high)` in the statistic's unit.

    Raises:
        ValueError: Either is not a table of probabilities, the shapes differ, `labels` do not belong to them,
            or an option is outside its range.

    Example:
        >>> a = [[0.9, 0.1]] * 80 + [[0.1, 0.9]] * 20
        >>> b = [[0.9, 0.1]] * 70 + [[0.1, 0.9]] * 30
        >>> d = paired_bootstrap(accuracy, [0] * 100, a, b, resamples=500)
        >>> round(d.difference, 3), bool(0 < d.low < 0.1 < d.high < 0.2)
        (0.1, True)
    """
    a, b, labels = _checked_rivals(probs_a, probs_b, labels)
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, not {resamples}")
    _check_confidence(confidence)
    rng = np.random.default_rng(seed)
    differences = np.empty(resamples)
    for i in range(resamples):
        drawn = rng.integers(len(labels), size=len(labels))
        truth = labels[drawn]
        differences[i] = statistic(a.take(drawn, axis=0), truth) - statistic(b.take(drawn, axis=0), truth)
    low, high = np.quantile(differences, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Difference(float(statistic(a, labels) - statistic(b, labels)), float(low), float(high))


class McNemar(NamedTuple):
    """The images on which exactly one of two models is right, and what chance makes of them."""

    b: int
    """Images only the first model gets right."""
    c: int
    """Images only the second gets right."""
    p: float
    """Two-sided exact p-value of "each is as likely to be the one that is right"."""


def mcnemar(probs_a: npt.ArrayLike, probs_b: npt.ArrayLike, labels: npt.ArrayLike) -> McNemar:
    """Exact test of whether two models have the same accuracy on the same images.

    Where exactly one is right, under the null hypothesis each is so with probability 1/2: b is
    Binomial(b + c, 1/2). p is 1 where they never differ. Source: McNemar (1947), "Note on the sampling error
    of the difference between correlated proportions or percentages".

    Args:
        probs_a: The first model's class probabilities `[N, C]`.
        probs_b: The second model's, for the same images in the same order.
        labels: True classes `[N]`, integers.

    Returns:
        `(b, c, p)`; `(b - c) / N` is the difference in accuracy.

    Raises:
        ValueError: Either is not a table of probabilities, the shapes differ, or `labels` do not belong to
            them.

    Example:
        >>> a = [[0.9, 0.1]] * 10
        >>> b = [[0.9, 0.1]] * 4 + [[0.1, 0.9]] * 6
        >>> mcnemar(a, b, [0] * 10)  # p = 2 / 2**6
        McNemar(b=6, c=0, p=0.03125)
    """
    both = agreement(probs_a, probs_b, labels)
    b, c = both.only_a, both.only_b
    return McNemar(b, c, float(binomtest(b, b + c).pvalue) if b + c else 1.0)


class Agreement(NamedTuple):
    """On which images two models are right together, alone, or not at all."""

    both_right: int
    only_a: int
    only_b: int
    both_wrong: int
    disagreement: float
    """Share of images on which exactly one is right, in [0, 1]."""
    q_statistic: float
    """Yule's Q in [-1, 1]: 0 for independent errors, 1 for the same; NaN where its denominator is 0."""
    oracle_accuracy: float
    """Share on which at least one is right: no choice between the two could beat it."""


def agreement(probs_a: npt.ArrayLike, probs_b: npt.ArrayLike, labels: npt.ArrayLike) -> Agreement:
    """How alike two models' errors are, which decides what an ensemble of them can gain.

    With N11, N10, N01, N00 the images both, only a, only b and neither get right:
    `Q = (N11 N00 - N01 N10) / (N11 N00 + N01 N10)` and `disagreement = (N10 + N01) / N`. Source: Kuncheva and
    Whitaker (2003), "Measures of diversity in classifier ensembles and their relationship with the ensemble
    accuracy".

    Args:
        probs_a: The first model's class probabilities `[N, C]`.
        probs_b: The second model's, for the same images in the same order.
        labels: True classes `[N]`, integers.

    Returns:
        The four counts, which add up to N, and the three measures.

    Raises:
        ValueError: Either is not a table of probabilities, the shapes differ, or `labels` do not belong to
            them.

    Example:
        >>> a = [[0.9, 0.1]] * 3 + [[0.1, 0.9]] * 2
        >>> b = [[0.9, 0.1]] * 2 + [[0.1, 0.9]] * 2 + [[0.9, 0.1]]
        >>> agreement(a, b, [0] * 5)[:6]  # Q = (2 - 1) / (2 + 1)
        (2, 1, 1, 1, 0.4, 0.3333333333333333)
    """
    a, b, labels = _checked_rivals(probs_a, probs_b, labels)
    right_a, right_b = a.argmax(axis=1) == labels, b.argmax(axis=1) == labels
    n11, n10 = int((right_a & right_b).sum()), int((right_a & ~right_b).sum())
    n01, n00 = int((~right_a & right_b).sum()), int((~right_a & ~right_b).sum())
    same, different = n11 * n00, n01 * n10
    return Agreement(
        both_right=n11,
        only_a=n10,
        only_b=n01,
        both_wrong=n00,
        disagreement=(n10 + n01) / len(labels),
        q_statistic=(same - different) / (same + different) if same + different else float("nan"),
        oracle_accuracy=(n11 + n10 + n01) / len(labels),
    )


def _checked_rivals(
    probs_a: npt.ArrayLike, probs_b: npt.ArrayLike, labels: npt.ArrayLike
) -> tuple[Array, Array, Ints]:
    a, b = _checked(probs_a, "probs_a"), _checked(probs_b, "probs_b")
    if a.shape != b.shape:
        raise ValueError(
            f"probs_a and probs_b must have one shape [N, C], not {list(a.shape)} and {list(b.shape)}"
        )
    return a, b, _checked_labels(labels, a.shape)


def holm(p_values: npt.ArrayLike) -> Array:
    """P-values adjusted for being several, by Holm's step-down method.

    The i-th smallest of m (i from 1) is multiplied by `m - i + 1`, then raised to the largest before it and
    capped at 1. Rejecting where the result is at most alpha keeps the chance of any false rejection at alpha,
    whatever the dependence between the tests. Source: Holm (1979), "A simple sequentially rejective multiple
    test procedure".

    Args:
        p_values: `[m]`, each in [0, 1].

    Returns:
        Adjusted p-values `[m]` in [0, 1], in the order given; none is smaller than before.

    Raises:
        ValueError: `p_values` is not one-dimensional or holds something outside [0, 1].

    Example:
        >>> holm([0.01, 0.04, 0.03]).round(4).tolist()
        [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"p_values must be a list of numbers in [0, 1], not {p.tolist()}")
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1)
    return adjusted


# -------------------------------------------------------------------------------------------------- ensembles


def soft_vote(members: Sequence[npt.ArrayLike], weights: Sequence[float] | None = None) -> Array:
    """The members' average probabilities.

    `sum_m w_m probs_m` with the weights scaled to sum to one. The documents' ensemble has two members of
    weight 0.5 (level 4, section 4). Its NLL is never above the members' average NLL, by the concavity of the
    logarithm.

    Args:
        members: M arrays of class probabilities `[N, C]`, of the same images in the same order.
        weights: M weights, none negative and not all 0; equal if None.

    Returns:
        Probabilities `[N, C]`, float64.

    Raises:
        ValueError: There is no member, one is not a table of probabilities, shapes differ, or weights are
            unfit.

    Example:
        >>> soft_vote([[[0.9, 0.1]], [[0.4, 0.6]]]).round(4).tolist()
        [[0.65, 0.35]]
        >>> soft_vote([[[0.9, 0.1]], [[0.4, 0.6]]], weights=[3, 1]).round(4).tolist()
        [[0.775, 0.225]]
    """
    stacked = _checked_members(members)
    if weights is None:
        return stacked.mean(axis=0)
    w = np.asarray(weights, dtype=np.float64)
    if w.shape != (len(stacked),) or not (np.isfinite(w).all() and (w >= 0).all() and w.sum() > 0):
        raise ValueError(
            f"weights must be {len(stacked)} numbers, none negative and not all 0, not {list(weights)}"
        )
    return np.average(stacked, axis=0, weights=w)


def hard_vote(members: Sequence[npt.ArrayLike]) -> Ints:
    """The class most members predict.

    Each member has one vote for its most probable class. A tie goes to the class, among those tied, with the
    largest summed probability, and then to the lowest index. Two members that differ always tie, so that
    their vote is decided by probability between the two classes they name.

    Args:
        members: M arrays of class probabilities `[N, C]`, of the same images in the same order.

    Returns:
        Predicted classes `[N]`, integers (not probabilities: a vote has no confidence).

    Raises:
        ValueError: There is no member, one is not a table of probabilities, or shapes differ.

    Example:
        >>> hard_vote([[[0.9, 0.1]], [[0.4, 0.6]], [[0.4, 0.6]]])  # the average would say 0
        array([1])
        >>> hard_vote([[[0.9, 0.1]], [[0.4, 0.6]]])  # one vote each: 1.3 against 0.7
        array([0])
    """
    stacked = _checked_members(members)
    votes = (stacked.argmax(axis=2)[..., None] == np.arange(stacked.shape[2])).sum(axis=0)
    leading = votes == votes.max(axis=1, keepdims=True)
    return np.where(leading, stacked.sum(axis=0), -1).argmax(axis=1)
