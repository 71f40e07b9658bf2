"""What a model's predictions are worth: measures, intervals, paired tests, effects and ensembles.

Every function is pure, and means the same by the same name:

    probs          class probabilities [N, C], floats, each row summing to one; rivals' and members' are of the
                   same images in the same order
    labels         true classes [N], integers 0..C-1; `classes` are the C names
    right, marks   booleans [N]: whether an image is predicted right, or another mark holds of it
    values         one finite number an image [N]
    confidence     what an interval is to cover, between 0 and 1; resampled ones draw `resamples` times from `seed`

The predicted class is the most probable one, the lowest index where several tie; its probability is the image's
confidence. Accuracies, shares and their differences are fractions. What is not as described is refused with a
ValueError that says what and where: nothing guesses whether an array holds logits. An interval covers the choice
of test images, not of training seeds; several seeds' accuracies are what `seed_spread` is for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.optimize import minimize
from scipy.special import log_softmax, logsumexp, softmax
from scipy.stats import binomtest, chi2, norm, rankdata
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

Array = npt.NDArray[np.floating]
Ints = npt.NDArray[np.integer]
Bools = npt.NDArray[np.bool_]

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


def _checked_values(values: npt.ArrayLike) -> Array:
    """`values` as a float64 `[N]` array of finite numbers, one per image."""
    checked = np.asarray(values, dtype=np.float64)
    if checked.ndim != 1 or not len(checked):
        raise ValueError(f"values must have shape [N] with N >= 1, not {list(checked.shape)}")
    if not np.isfinite(checked).all():
        at = int(np.flatnonzero(~np.isfinite(checked))[0])
        raise ValueError(f"values must be finite: number {at} is {checked[at]}. Leave such images out first")
    return checked


def _checked_right(right: npt.ArrayLike, name: str = "right") -> Bools:
    """`right` as a boolean `[N]` array."""
    checked = np.asarray(right)
    if checked.ndim != 1 or not len(checked):
        raise ValueError(f"{name} must have shape [N] with N >= 1, not {list(checked.shape)}")
    if checked.dtype != np.bool_:
        raise ValueError(f"{name} must be booleans (predictions == labels), not {checked.dtype}")
    return checked


def _checked_marks(marks_a: npt.ArrayLike, marks_b: npt.ArrayLike, name: str) -> tuple[Bools, Bools]:
    """`{name}_a` and `{name}_b` as boolean `[N]` arrays of the same images."""
    a, b = _checked_right(marks_a, f"{name}_a"), _checked_right(marks_b, f"{name}_b")
    if len(a) != len(b):
        raise ValueError(f"{name}_a and {name}_b must be of the same images, not {len(a)} and {len(b)}")
    return a, b


def _equal_groups(values: Array, groups: int) -> Ints:
    """The group `[N]`, 0 to groups - 1 by rising value, of each image: groups as equal in size as ties allow.

    Equal values share the group of their middle rank, so that the order of the images does not matter.
    """
    twice_the_middle = (2 * rankdata(values) - 1).astype(np.int64)  # ranks of ties are averaged: halves occur
    return twice_the_middle * groups // (2 * len(values))


# --------------------------------------------------------------------------------------------------- accuracy


def accuracy(probs: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Share of images whose most probable class is the true one.

    `(1/N) sum_i [argmax_c probs[i, c] = labels[i]]`

    Example:
        >>> accuracy([[0.9, 0.1], [0.4, 0.6], [0.3, 0.7]], [0, 1, 0])
        0.6666666666666666
    """
    probs, labels = _checked_pair(probs, labels)
    return float((probs.argmax(axis=1) == labels).mean())


def balanced_accuracy(probs: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Mean recall of the classes that occur: every class counts alike, however many images it has.

    Where all have as many, it is the accuracy. Source: Brodersen et al. (2010), "The balanced accuracy and its
    posterior distribution".

    Example:
        >>> balanced_accuracy([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]], [0, 0, 0, 1])  # recalls 1 and 0
        0.5
    """
    probs, labels = _checked_pair(probs, labels)
    right = probs.argmax(axis=1) == labels
    return float(np.mean([right[labels == label].mean() for label in np.unique(labels)]))


def unbalanced(labels: npt.ArrayLike) -> bool:
    """Say whether the classes that occur differ in their number of images by more than one in ten.

    Example:
        >>> unbalanced([0, 0, 1, 1]), unbalanced([0, 0, 0, 1])
        (False, True)
    """
    counts = np.unique(np.asarray(labels), return_counts=True)[1]
    return bool(counts.max() > 1.1 * counts.min())


# -------------------------------------------------------------------------------------------------- intervals


class Estimate(NamedTuple):
    """A number with its interval, which holds the true one 95 times in 100 unless told otherwise."""

    value: float
    low: float
    high: float


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Confidence interval of a proportion, `successes` of n, by Wilson's score method.

    `(p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n)` with `p = successes / n` and z the normal quantile of
    `(1 + confidence) / 2`. Unlike `p ± z sqrt(p(1-p)/n)` it stays within [0, 1] and keeps a width at both ends.
    Source: Wilson (1927), "Probable inference, the law of succession, and statistical inference".

    Returns:
        `(low, high)`, fractions in [0, 1].

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


def independent_difference(
    successes_a: int, n_a: int, successes_b: int, n_b: int, confidence: float = 0.95
) -> Estimate:
    """Difference between two proportions of different images, by Newcombe's hybrid score method.

    With `d = p_a - p_b` and (l, u) the Wilson interval of each, from `d - sqrt((p_a - l_a)² + (u_b - p_b)²)` to `d
    + sqrt((u_a - p_a)² + (p_b - l_b)²)`. Like Wilson's it keeps a width where all or none succeed. Two models on
    the same images are not independent: `paired_difference` is for them. Source: Newcombe (1998), "Interval
    estimation for the difference between independent proportions: comparison of eleven methods", method 10.

    Returns:
        `(value, low, high)`: the first proportion less the second, fractions in [-1, 1].

    Example:
        >>> d = independent_difference(56, 70, 48, 80)  # Newcombe's own example: 0.8 against 0.6
        >>> f"{d.value:.4f}, {d.low:.4f} to {d.high:.4f}"
        '0.2000, 0.0524 to 0.3339'
    """
    low_a, high_a = wilson_interval(successes_a, n_a, confidence)
    low_b, high_b = wilson_interval(successes_b, n_b, confidence)
    a, b = successes_a / n_a, successes_b / n_b
    low = a - b - math.hypot(a - low_a, high_b - b)
    high = a - b + math.hypot(high_a - a, b - low_b)
    return Estimate(float(a - b), float(low), float(high))


def mean_interval(
    values: npt.ArrayLike, *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Estimate:
    """Mean of a number per image, with a bootstrap interval.

    Each resample draws N images with replacement; the interval runs between the percentiles of the resampled
    means. Of a difference per image between two models (`nll_each` of one less that of the other) it is the paired
    bootstrap's. It is too narrow where a handful of images decide (of an overconfident model's NLL, simulated, a
    95 % interval held the truth in 93 % of test sets of 300 images, in 91 % of 100), and of no width where all
    values are equal: of right and wrong, `wilson_interval` and `paired_difference` keep one. Source: Efron and
    Tibshirani (1993), "An introduction to the bootstrap", chapter 13.

    Returns:
        `(value, low, high)` in the unit of the values.

    Example:
        >>> mean, low, high = mean_interval([0.0] * 50 + [1.0] * 50)  # 0.5 ± 1.96 sqrt(0.25 / 100)
        >>> f"{mean:.2f}, {low:.1f} to {high:.1f}"
        '0.50, 0.4 to 0.6'
    """
    values = _checked_values(values)
    _check_resampling(resamples, confidence)
    n = len(values)
    means: Array
    distinct, counts = np.unique(values, return_counts=True)
    if 10 * len(distinct) <= n:
        # A resampled mean depends on nothing but how often each distinct value is drawn: where those are few
        # (right or wrong; better, worse or the same) all resamples are one draw.
        means = np.random.default_rng(seed).multinomial(n, counts / n, size=resamples) @ distinct / n
    else:
        means = _resampled_means(values, resamples, seed)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(float(values.mean()), float(low), float(high))


def _resampled_means(values: Array, resamples: int, seed: int) -> Array:
    """Means over the images of `values`, `[N]` or `[N, K]`: `[resamples]` or `[resamples, K]`."""
    rng = np.random.default_rng(seed)
    n = len(values)
    # How often each image is drawn, times its values: one drawing serves all K.
    return np.array([np.bincount(rng.integers(n, size=n), minlength=n) @ values / n for _ in range(resamples)])


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1 (0.95 for 95 %), not {confidence}")


def _check_resampling(resamples: int, confidence: float) -> None:
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, not {resamples}")
    _check_confidence(confidence)


# -------------------------------------------------------------------------------------------------- per class


def confusion(probs: npt.ArrayLike, labels: npt.ArrayLike) -> Ints:
    """Counts of images by true class (row) and predicted class (column).

    Returns:
        Integers `[C, C]` that add up to N; a class that never occurs has a row or column of zeros.

    Example:
        >>> confusion([[0.9, 0.1], [0.4, 0.6], [0.3, 0.7]], [0, 1, 0])
        array([[1, 1],
               [0, 1]])
    """
    probs, labels = _checked_pair(probs, labels)
    return confusion_matrix(labels, probs.argmax(axis=1), labels=np.arange(probs.shape[1]))


def per_class_report(probs: npt.ArrayLike, labels: npt.ArrayLike, classes: Sequence[str]) -> pd.DataFrame:
    """Precision, recall, F1 and support of every class, and their unweighted mean.

    Precision: of the images predicted as the class, the share that are. Recall: of the class's images, the share
    predicted so. `F1 = 2 precision recall / (precision + recall)`. Where a denominator is 0 the measure counts as
    0, scikit-learn's convention.

    Returns:
        One row per class, in order, then "macro average". Columns precision, recall and f1, fractions in
        [0, 1], and support, the images of the class (in the last row N).

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


def recall_intervals(
    probs: npt.ArrayLike, labels: npt.ArrayLike, classes: Sequence[str], confidence: float = 0.95
) -> pd.DataFrame:
    """Recall of every class with its Wilson interval.

    Returns:
        One row per class, in order. Columns recall, low and high, fractions in [0, 1], NaN where the class has
        no image, and support, the images of the class.

    Example:
        >>> print(recall_intervals([[0.9, 0.1], [0.4, 0.6], [0.3, 0.7]], [0, 1, 0], ["cat", "dog"]).round(2))
             recall   low  high  support
        cat     0.5  0.09  0.91        2
        dog     1.0  0.21  1.00        1
    """
    probs, labels = _checked_pair(probs, labels)
    names = _checked_classes(classes, probs.shape[1])
    _check_confidence(confidence)
    right = probs.argmax(axis=1) == labels
    rows = []
    for c in range(len(names)):
        of_class = right[labels == c]
        k, n = int(of_class.sum()), len(of_class)
        low, high = wilson_interval(k, n, confidence) if n else (np.nan, np.nan)
        rows.append({"recall": k / n if n else np.nan, "low": low, "high": high, "support": n})
    return pd.DataFrame(rows, index=names)


def recall_differences(
    probs_a: npt.ArrayLike,
    probs_b: npt.ArrayLike,
    labels: npt.ArrayLike,
    classes: Sequence[str],
    *,
    resamples: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Recall of one model less that of another, class by class, with paired bootstrap intervals.

    Within each class the images are resampled and taken from both models, as in `mean_interval`. Every class has
    its own interval: of ten at 95 %, one that does not hold the truth is nothing to wonder at. Where no image of a
    class tells the models apart its interval is 0 to 0, which is no proof that they are alike: `paired_difference`
    of the class's images says how far apart they may still be.

    Returns:
        One row per class, in order. Columns difference, low and high, fractions in [-1, 1], NaN where the
        class has no image; images, those of the class that only a gets right less those that only b does; and
        support, the images of the class.

    Example:
        >>> a = [[0.9, 0.1]] * 90 + [[0.1, 0.9]] * 60
        >>> b = [[0.9, 0.1]] * 50 + [[0.1, 0.9]] * 100
        >>> print(recall_differences(a, b, [0] * 100 + [1] * 50, ["cat", "dog"]).round(1))
             difference  low  high  images  support
        cat         0.4  0.3   0.5      40      100
        dog         0.0  0.0   0.0       0       50
    """
    a, b, labels = _checked_rivals(probs_a, probs_b, labels)
    names = _checked_classes(classes, a.shape[1])
    _check_resampling(resamples, confidence)
    gain = _gain(a, b, labels)
    rows = []
    for c in range(len(names)):
        of_class = gain[labels == c]
        found = Estimate(np.nan, np.nan, np.nan)
        if len(of_class):
            found = mean_interval(of_class, confidence=confidence, resamples=resamples, seed=seed)
        rows.append(
            {
                "difference": found.value,
                "low": found.low,
                "high": found.high,
                "images": int(of_class.sum()),
                "support": len(of_class),
            }
        )
    return pd.DataFrame(rows, index=names)


def _gain(a: Array, b: Array, labels: Ints) -> Ints:
    """By image `[N]`: 1 where only a is right, -1 where only b is, 0 where both or neither."""
    return (a.argmax(axis=1) == labels).astype(int) - (b.argmax(axis=1) == labels)


def most_confused(confusion: npt.ArrayLike, classes: Sequence[str], k: int) -> pd.DataFrame:
    """The at most k pairs of classes most often taken for one another, from counts as `confusion` gives them.

    Returns:
        Columns first, second (class names), first_as_second (images of the first class predicted as the
        second), second_as_first, and total, their sum; largest total first, ties in class order.

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

    Returns:
        Integers `[<= k]` into the images, the most confident first, ties by index.

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

    A probability below the smallest normal number of the array's own precision (2.2e-308 in float64, 1.2e-38 in
    float32) is read as that number: a zero in a softmax's output means "too small to write", not "impossible".

    Returns:
        float64 `[N, C]`, at most 0 up to rounding, at least -709.

    Example:
        >>> log_probs([[1.0, 0.0]]).round(1).tolist()
        [[0.0, -708.4]]
    """
    dtype = np.asarray(probs).dtype
    tiny = np.finfo(dtype if np.issubdtype(dtype, np.floating) else np.float64).tiny
    return np.log(np.maximum(_checked(probs), float(tiny)))


def nll_each(probs: npt.ArrayLike, labels: npt.ArrayLike) -> Array:
    """Negative log-likelihood of the true class of each image, in nats: what `nll` is the mean of.

    `-log probs[i, labels[i]]`. With `mean_interval` it gives a model's NLL its interval; the difference between
    two models' gives theirs.

    Returns:
        float64 `[N]`, each 0 (certain and right) or more.

    Example:
        >>> nll_each([[0.5, 0.5], [0.25, 0.75]], [0, 0]).round(4).tolist()  # log 2, log 4
        [0.6931, 1.3863]
    """
    logs = log_probs(probs)
    labels = _checked_labels(labels, logs.shape)
    return -logs[np.arange(len(labels)), labels]


def nll(probs: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Mean negative log-likelihood of the true class, in nats.

    `-(1/N) sum_i log probs[i, labels[i]]`, the cross-entropy loss without its softmax and the logarithmic score of
    Good (1952), "Rational decisions". A probability of zero counts as in `log_probs`.

    Returns:
        0 (certain and right) or more; log C for a model that knows nothing.

    Example:
        >>> round(nll([[0.5, 0.5], [0.25, 0.75]], [0, 0]), 4)  # (log 2 + log 4) / 2
        1.0397
    """
    return float(nll_each(probs, labels).mean())


def brier(probs: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Mean squared distance between the probabilities and the truth, summed over the classes.

    `(1/N) sum_i sum_c (probs[i, c] - [labels[i] = c])²`. Source: Brier (1950), "Verification of forecasts
    expressed in terms of probability".

    Returns:
        0 (certain and right) to 2 (certain and wrong); with two classes, twice the score of the one-column
        form.

    Example:
        >>> brier([[0.5, 0.5], [0.25, 0.75]], [0, 0])  # (0.5 + 1.125) / 2
        0.8125
    """
    probs, labels = _checked_pair(probs, labels)
    errors = probs.copy()
    errors[np.arange(len(labels)), labels] -= 1
    return float(np.square(errors).sum(axis=1).mean())


class Reliability(NamedTuple):
    """What a reliability diagram draws; of B bins of equal width, b holds confidences in `(b/B, (b+1)/B]`."""

    confidence: Array
    """Mean confidence in each bin `[B]`, NaN where the bin is empty."""
    accuracy: Array
    """Share predicted right in each bin `[B]`, NaN where the bin is empty."""
    counts: Ints
    """Images in each bin `[B]`."""


def reliability(
    probs: npt.ArrayLike, labels: npt.ArrayLike, bins: int = 15, *, adaptive: bool = False
) -> Reliability:
    """Confidence against accuracy in bins of equal width, or of equal numbers of images.

    An image's confidence is its largest probability. A good model is confident of most images, so that equal
    widths crowd them into the last bin. `adaptive` bins hold as equal numbers of images as ties in confidence
    allow, lowest confidence first. Sources: Guo et al. (2017), "On calibration of modern neural networks", section
    2; for adaptive bins Nguyen and O'Connor (2015), "Posterior calibration and exploratory analysis for natural
    language processing models".

    Returns:
        Mean confidence, accuracy and count of each bin.

    Example:
        >>> r = reliability([[0.9, 0.1], [0.4, 0.6], [0.3, 0.7]], [0, 1, 0], bins=4)
        >>> r.counts.tolist(), r.accuracy.tolist()
        ([0, 0, 2, 1], [nan, nan, 0.5, 1.0])
    """
    probs, labels = _checked_pair(probs, labels)
    confidence = probs.max(axis=1)
    right = probs.argmax(axis=1) == labels
    index = _bin_of(confidence, bins, adaptive)
    count = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore"):  # 0/0 in an empty bin is the NaN we promise
        return Reliability(
            confidence=np.bincount(index, weights=confidence, minlength=bins) / count,
            accuracy=np.bincount(index, weights=right, minlength=bins) / count,
            counts=count,
        )


def _bin_of(confidence: Array, bins: int, adaptive: bool) -> Ints:
    """The bin `[N]` that each image's confidence falls into."""
    if bins < 1:
        raise ValueError(f"bins must be at least 1, not {bins}")
    if adaptive:
        return _equal_groups(confidence, bins)
    inner_edges = np.linspace(0, 1, bins + 1)[1:-1]
    return np.searchsorted(inner_edges, confidence, side="left")  # left: a bin owns its upper edge


def ece(probs: npt.ArrayLike, labels: npt.ArrayLike, bins: int = 15, *, adaptive: bool = False) -> float:
    """Expected calibration error: how far confidence lies from accuracy, on average over the images.

    `sum_b (count_b / N) |accuracy_b - confidence_b|` over the bins of `reliability`. It tends to grow with the
    number of bins and is biased upward on few images, where chance alone parts accuracy from confidence: compare
    at equal N and bins, and with `ece_if_calibrated`. It carries no interval: every resample adds the same bias
    once more, so that a bootstrap's interval lies too high: it holds the truth in about half of the cases at 300
    images and a gap of 0.03, and never where the model is calibrated. Source: Guo et al. (2017), equation 3; for
    adaptive bins see `reliability`.

    Returns:
        A fraction in [0, 1]; 0 where every bin's confidence equals its accuracy.

    Example:
        >>> round(ece([[0.9, 0.1], [0.4, 0.6], [0.3, 0.7]], [0, 1, 0], bins=4), 4)  # (2 x 0.15 + 1 x 0.1) / 3
        0.1333
    """
    per_bin = reliability(probs, labels, bins, adaptive=adaptive)
    gaps = np.abs(per_bin.accuracy - per_bin.confidence)
    return float(np.nansum(gaps * per_bin.counts) / per_bin.counts.sum())


def ece_if_calibrated(
    probs: npt.ArrayLike, bins: int = 15, *, adaptive: bool = False, draws: int = 200, seed: int = 0
) -> float:
    """The ECE that a perfectly calibrated model with these confidences would show on so few images.

    The mean ECE of labels drawn from the predictions themselves, which makes them calibrated by construction: the
    part of `ece`, with the same bins, that chance explains. It is the mean over so many draws of all N labels.
    Source: consistency resampling, Bröcker and Smith (2007), "Increasing the reliability of reliability diagrams",
    here with the predictions held fixed.

    Returns:
        A fraction in [0, 1], of the order of `sqrt(bins / N)` times the spread of right and wrong; 0 for
        certain predictions.

    Example:
        >>> probs = [[0.9, 0.1]] * 100  # one bin: E|K - 90| / 100 with K of Binomial(100, 0.9) is 0.024
        >>> round(ece_if_calibrated(probs), 2)
        0.02
    """
    probs = _checked(probs)
    if draws < 1:
        raise ValueError(f"draws must be at least 1, not {draws}")
    confidence = probs.max(axis=1)
    index = _bin_of(confidence, bins, adaptive)
    rng = np.random.default_rng(seed)
    total = 0.0
    for _ in range(draws):
        # A label drawn from the predictions is the predicted class with the probability that is its confidence.
        right = rng.random(len(confidence)) < confidence
        total += float(np.abs(np.bincount(index, weights=right - confidence)).sum())
    return total / draws / len(confidence)


def temperature(scores: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """The one number T that makes `softmax(scores / T)` most likely, fitted on held-out images.

    `scores` `[N, C]` are logits, or log-probabilities such as `log_probs` gives: the softmax cannot tell them
    apart. Minimises the mean negative log-likelihood by L-BFGS over 1/T, in which it is convex. T > 1 softens
    overconfident predictions; no prediction changes its class. Fit it on validation images, never on the test set.
    Source: Guo et al. (2017), section 4.2.

    Returns:
        T, from 0.01 to 100. Scores worse than guessing give 100. Scores that make no error (none is above the
        true class's) have no optimum above 0, and nothing to learn T from: they give 1, which changes nothing.

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
    if (scores[rows, labels] >= scores.max(axis=1)).all():
        return 1.0

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

    Returns:
        Probabilities `[N, C]`, float64, each row in the same order as before.

    Example:
        >>> apply_temperature([[0.8, 0.2]], 0.5).round(4).tolist()  # 0.64 : 0.04
        [[0.9412, 0.0588]]
    """
    if not (np.isfinite(t) and t > 0):
        raise ValueError(f"t must be a positive number, not {t}")
    return softmax(log_probs(probs) / t, axis=1)


def calibrate(probs: npt.ArrayLike, val_probs: npt.ArrayLike, val_labels: npt.ArrayLike) -> tuple[float, Array]:
    """Fit one temperature on validation images and apply it to others.

    Returns:
        The temperature, and the probabilities at it, `[N, C]`; see `temperature` and `apply_temperature`.

    Example:
        >>> t, scaled = calibrate([[0.9, 0.1]], [[0.9, 0.1]] * 3 + [[0.1, 0.9]], [0, 0, 0, 0])
        >>> round(t, 3), scaled.round(2).tolist()  # three in four are right: so should be the confidence
        (2.0, [[0.75, 0.25]])
    """
    t = temperature(log_probs(val_probs), val_labels)
    return t, apply_temperature(probs, t)


# --------------------------------------------------------------------------------------- selective prediction


class RiskCoverage(NamedTuple):
    """How many errors are left when a model answers only for the images it is most confident of."""

    coverage: Array
    """Share of the images answered for, rising to 1 `[K]`: one step per distinct confidence."""
    risk: Array
    """Share of those that are wrong `[K]`; the last is the error rate on all images."""
    area: float
    """Area under the steps (AURC), 0 to 1: 0 for a model without errors, the error rate for one that ranks at
    random."""


def risk_coverage(probs: npt.ArrayLike, labels: npt.ArrayLike) -> RiskCoverage:
    """Error rate among the images that a model is most confident of, for every share of them.

    Images of equal confidence enter together, so that their order does not matter. The area is `sum_k (coverage_k
    - coverage_(k-1)) risk_k`: the mean, over the images, of the risk once each has entered. Source: Geifman and
    El-Yaniv (2017), "Selective classification for deep neural networks"; the area: Geifman, Uziel and El-Yaniv
    (2019), "Bias-reduced uncertainty estimation for deep neural classifiers".

    Returns:
        The curve and the area under it, fractions in [0, 1].

    Example:
        >>> curve = risk_coverage([[0.9, 0.1], [0.2, 0.8], [0.8, 0.2], [0.4, 0.6]], [0, 1, 0, 0])
        >>> curve.coverage.tolist(), curve.risk.tolist(), curve.area  # 0.9; two of 0.8; 0.6, the one error
        ([0.25, 0.75, 1.0], [0.0, 0.0, 0.25], 0.0625)
    """
    probs, labels = _checked_pair(probs, labels)
    wrong = probs.argmax(axis=1) != labels
    _, step, images = np.unique(-probs.max(axis=1), return_inverse=True, return_counts=True)
    answered = np.cumsum(images)
    risk = np.cumsum(np.bincount(step, weights=wrong)) / answered
    return RiskCoverage(answered / len(labels), risk, float((images * risk).sum() / len(labels)))


# ----------------------------------------------------------------------------------------------- paired tests


def paired_difference(right_a: npt.ArrayLike, right_b: npt.ArrayLike, confidence: float = 0.95) -> Estimate:
    """Difference in accuracy between two models on the same images, with Tango's score interval.

    With b and c the images that only the first and only the second gets right, the interval holds every difference
    D that the score test does not reject: `|b - c - N D| <= z sqrt(N (2 q + D (1 - D)))`, where q, the chance that
    only the second is right, is the most likely one given D: the larger root of `2 N q² + (D (2 N - b + c) - b -
    c) q - c D (1 - D) = 0`. At D = 0 the test is McNemar's without continuity correction, so the interval excludes
    0 exactly where `|b - c| > z sqrt(b + c)`. The exact test of `mcnemar_marks` is the more cautious where few
    images differ (5 to 0: p = 0.0625, yet the interval excludes 0). Where none differ the interval runs to `± z² /
    (N + z²)`: few images prove no equality. Source: Tango (1998), "Equivalence test and confidence interval for
    the difference in proportions for the paired-sample design".

    Returns:
        `(value, low, high)`: accuracy of the first less that of the second, fractions in [-1, 1].

    Example:
        >>> alike = np.arange(20) < 16
        >>> d = paired_difference(alike, alike)  # 1.96² / (20 + 1.96²) = 0.161
        >>> f"{d.value:.3f}, {d.low:.3f} to {d.high:.3f}"
        '0.000, -0.161 to 0.161'
    """
    a, b = _checked_marks(right_a, right_b, "right")
    _check_confidence(confidence)
    n, only_a, only_b = len(a), int((a & ~b).sum()), int((b & ~a).sum())
    z = norm.ppf((1 + confidence) / 2)
    value = (only_a - only_b) / n

    def rejected(d: float) -> bool:
        linear = d * (2 * n - only_a + only_b) - only_a - only_b
        root = math.sqrt(max(linear**2 + 8 * n * only_b * d * (1 - d), 0.0))
        q = (root - linear) / (4 * n)
        # Rounding may leave a variance of 0 a hair below it.
        return abs(only_a - only_b - n * d) > z * math.sqrt(max(n * (2 * q + d * (1 - d)), 0.0))

    def limit(outside: float) -> float:
        inside = value
        for _ in range(60):  # halves: what was at most 2 is then below what a float resolves
            middle = (inside + outside) / 2
            if rejected(middle):
                outside = middle
            else:
                inside = middle
        return inside

    return Estimate(value, limit(-1.0), limit(1.0))


class McNemar(NamedTuple):
    """The images on which exactly one of two models is right, and what chance makes of them."""

    b: int
    """Images only the first model gets right."""
    c: int
    """Images only the second gets right."""
    p: float
    """Two-sided exact p-value of "each is as likely to be the one that is right"."""


def mcnemar_marks(marks_a: npt.ArrayLike, marks_b: npt.ArrayLike) -> McNemar:
    """Exact test of whether two marks are equally frequent on the same images.

    A mark is anything that holds or does not hold of an image: predicted right, recognised after a shift, the
    maximum of its map inside the object. Where exactly one holds, under the null hypothesis each is so with
    probability 1/2: b is Binomial(b + c, 1/2). p is 1 where they never differ. Source: McNemar (1947), "Note on
    the sampling error of the difference between correlated proportions or percentages".

    Returns:
        `(b, c, p)`: images of which only the first holds, only the second, and the two-sided p-value.

    Example:
        >>> mcnemar_marks(np.arange(10) < 10, np.arange(10) < 4)  # p = 2 / 2**6
        McNemar(b=6, c=0, p=0.03125)
    """
    first, second = _checked_marks(marks_a, marks_b, "marks")
    b, c = int((first & ~second).sum()), int((second & ~first).sum())
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
    double_fault: float
    """Share on which both are wrong, in [0, 1]: 1 less the oracle accuracy."""


def agreement(probs_a: npt.ArrayLike, probs_b: npt.ArrayLike, labels: npt.ArrayLike) -> Agreement:
    """How alike two models' errors are, which decides what an ensemble of them can gain.

    With N11, N10, N01, N00 the images both, only a, only b and neither get right: `Q = (N11 N00 - N01 N10) / (N11
    N00 + N01 N10)` and `disagreement = (N10 + N01) / N`. Source: Kuncheva and Whitaker (2003), "Measures of
    diversity in classifier ensembles and their relationship with the ensemble accuracy"; the double fault:
    Giacinto and Roli (2001), "Design of effective neural network ensembles for image classification purposes".

    Returns:
        The four counts, which add up to N, and the four measures.

    Example:
        >>> a = [[0.9, 0.1]] * 3 + [[0.1, 0.9]] * 2
        >>> b = [[0.9, 0.1]] * 2 + [[0.1, 0.9]] * 2 + [[0.9, 0.1]]
        >>> agreement(a, b, [0] * 5)  # Q = (2 - 1) / (2 + 1)  # doctest: +NORMALIZE_WHITESPACE
        Agreement(both_right=2, only_a=1, only_b=1, both_wrong=1, disagreement=0.4,
                  q_statistic=0.3333333333333333, oracle_accuracy=0.8, double_fault=0.2)
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
        double_fault=n00 / len(labels),
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

    The i-th smallest of m (i from 1) is multiplied by `m - i + 1`, then raised to the largest before it and capped
    at 1. Rejecting where the result is at most alpha keeps the chance of any false rejection at alpha, whatever
    the dependence between the tests. Source: Holm (1979), "A simple sequentially rejective multiple test
    procedure".

    Returns:
        Adjusted p-values `[m]` in [0, 1], in the order given; none is smaller than before.

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


def compare(models: Mapping[str, npt.ArrayLike], labels: npt.ArrayLike) -> pd.DataFrame:
    """Every pair of models on the same images: differences, their intervals, and what chance makes of them.

    `models` are class probabilities `[N, C]` by the model's name. The difference in accuracy has the interval of
    `paired_difference`, whose test of 0 is McNemar's score test. p is of the exact McNemar test, p_holm corrected
    by Holm over all the pairs. The three are of rising caution: where few images differ, or there are many pairs,
    an interval may just exclude 0 and p_holm still be above 0.05. Of the NLL, a mean over images, the difference
    has the bootstrap interval of `mean_interval`. All of it speaks of these trained models on images like these;
    it does not say that another seed's would differ likewise, so not of the methods.

    Returns:
        One row per pair, none for fewer than two models. Columns: model and over, the pair's later and
        earlier name in the order given; difference, accuracy of `model` less that of `over`, a fraction, with
        its 95 % interval low and high; only_model and only_over, images that only the one gets right, and
        images, the former less the latter; p, two-sided, and p_holm; nll_difference, the NLL of `model` less
        that of `over` in nats (below 0 where `model` is better), with its 95 % interval nll_low and nll_high.

    Example:
        >>> good, poor = ([[0.9, 0.1]] * k + [[0.1, 0.9]] * (100 - k) for k in (90, 80))
        >>> table = compare({"level 1": poor, "level 2": good, "level 3": good}, [0] * 100)
        >>> shown = ["model", "over", "difference", "images", "only_model", "only_over", "p", "p_holm"]
        >>> print(table[shown].round(4))  # p = 2 / 2**10, three times that by Holm
             model     over  difference  images  only_model  only_over      p  p_holm
        0  level 2  level 1         0.1      10          10          0  0.002  0.0059
        1  level 3  level 1         0.1      10          10          0  0.002  0.0059
        2  level 3  level 2         0.0       0           0          0  1.000  1.0000
        >>> print(table[["low", "high", "nll_difference"]].round(2))  # 0.1 log(0.1 / 0.9) = -0.22
            low  high  nll_difference
        0  0.06  0.17           -0.22
        1  0.06  0.17           -0.22
        2 -0.04  0.04            0.00
    """
    checked = {name: _checked(probs, f"{name}'s probs") for name, probs in models.items()}
    if len({probs.shape for probs in checked.values()}) > 1:
        shapes = {name: list(probs.shape) for name, probs in checked.items()}
        raise ValueError(f"the models' probabilities must share one shape [N, C], not {shapes}")
    losses = {name: nll_each(probs, labels) for name, probs in checked.items()}
    right = {name: probs.argmax(axis=1) == labels for name, probs in checked.items()}
    rows = []
    gains = []
    for over, model in combinations(checked, 2):
        difference = paired_difference(right[model], right[over])
        test = mcnemar_marks(right[model], right[over])
        rows.append(
            {
                "model": model,
                "over": over,
                "difference": difference.value,
                "low": difference.low,
                "high": difference.high,
                "images": test.b - test.c,
                "only_model": test.b,
                "only_over": test.c,
                "p": test.p,
            }
        )
        gains.append(losses[model] - losses[over])
    columns = ["model", "over", "difference", "low", "high", "images", "only_model", "only_over", "p"]
    table = pd.DataFrame(rows, columns=columns)
    table["p_holm"] = holm(table["p"])
    low, high, mean = [], [], []
    if gains:
        # All pairs on the same resamples: `mean_interval` of each would draw its own, many times slower.
        each = np.column_stack(gains)
        mean = each.mean(axis=0)
        low, high = np.quantile(_resampled_means(each, 2000, 0), [0.025, 0.975], axis=0)
    return table.assign(nll_difference=mean, nll_low=low, nll_high=high)


# ----------------------------------------------------------------------------------------- effects and spread


class Effects(NamedTuple):
    """What two changes to a recipe gain in accuracy, as fractions with 95 % intervals."""

    first: Estimate
    """Main effect of the first change: its gain, averaged over without and with the second."""
    second: Estimate
    """Main effect of the second change."""
    interaction: Estimate
    """Gain of the first with the second, less its gain without: 0 where the two simply add up."""


def factorial(right: Mapping[tuple[bool, bool], npt.ArrayLike]) -> Effects:
    """Main effects and interaction of two changes, from the four models trained with and without each.

    With r(first, second) whether an image is predicted right by the model so trained, each effect is the mean over
    the images of: for first `(r(1,0) - r(0,0) + r(1,1) - r(0,1)) / 2`, for second likewise, for the interaction
    `r(1,1) - r(0,1) - r(1,0) + r(0,0)`; the intervals are those of `mean_interval`. They cover the choice of test
    images, not of training seeds: one model stands for each arm. Source: Box, Hunter and Hunter (2005),
    "Statistics for experimenters", chapter 5.

    Returns:
        The two main effects and the interaction.

    Example:
        >>> arms = {(False, False): 60, (True, False): 70, (False, True): 80, (True, True): 84}
        >>> found = factorial({arm: np.arange(100) < k for arm, k in arms.items()})
        >>> [round(effect.value, 3) for effect in found]  # (10 + 4) / 2, (20 + 14) / 2 and 4 - 10 points
        [0.07, 0.17, -0.06]
    """
    arms = [(False, False), (True, False), (False, True), (True, True)]
    if set(right) != set(arms):
        raise ValueError(
            f"right needs the four arms (first, second) {arms}, not {list(right)}: train or load what is missing"
        )
    checked = {arm: _checked_right(right[arm], f"right[{arm}]").astype(int) for arm in arms}
    lengths = {arm: len(per_image) for arm, per_image in checked.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"the four arms must be tested on the same images, not on so many each: {lengths}")
    neither, first, second, both = checked.values()
    return Effects(
        first=mean_interval(((first - neither) + (both - second)) / 2),
        second=mean_interval(((second - neither) + (both - first)) / 2),
        interaction=mean_interval((both - second) - (first - neither)),
    )


class SeedSpread(NamedTuple):
    """How far a recipe's accuracy varies from one training to the next, beside what the test set leaves open."""

    mean: float
    """Mean accuracy over the seeds, a fraction."""
    seed_sd: float
    """Standard deviation between the seeds (n - 1 in the denominator), a fraction; NaN for one seed."""
    test_sd: float
    """Standard error that the choice of test images leaves in one seed's accuracy, a fraction."""
    seeds: int
    seed_sd_low: float
    """Lower end of seed_sd's 95 % interval; NaN for one seed."""
    seed_sd_high: float
    """Upper end of seed_sd's 95 % interval; NaN for one seed."""


def seed_spread(accuracies: Sequence[float], n_images: int) -> SeedSpread:
    """Mean and standard deviation of a recipe's accuracy over training seeds, beside the test set's uncertainty.

    `accuracies` are test accuracies `[S]`, one a seed. `test_sd = sqrt(p (1 - p) / n)` at their mean p, with n the
    number of test images. seed_sd is not the spread of the true accuracies alone: on a finite test set it holds
    the sampling noise of the images on which the seeds disagree, so that a larger test set shows a smaller one
    (Jordan 2023, arXiv 2304.01910, "Calibrated chaos: variance between runs of neural network training is harmless
    and inevitable"). The images that all seeds get right, or all wrong, add to test_sd but not to seed_sd. The two
    thus overlap without one covering the other: they are neither to be added nor to stand in for one another
    (Bouthillier et al. 2021, "Accounting for variance in machine learning benchmarks").

    The interval of seed_sd over S seeds is `seed_sd sqrt((S - 1) / chi²)` at the 97.5 % and 2.5 % quantiles of
    chi² with S - 1 degrees of freedom, exact for normally distributed accuracies: with three seeds, from about
    half of seed_sd to six times as much (Snedecor and Cochran 1989, "Statistical methods").

    Returns:
        The mean, both standard deviations, the number of seeds and the interval of the one between seeds.

    Example:
        >>> spread = seed_spread([0.94, 0.95, 0.96], n_images=10_000)
        >>> round(spread.mean, 4), round(spread.seed_sd, 4), round(spread.test_sd, 4), spread.seeds
        (0.95, 0.01, 0.0022, 3)
        >>> round(spread.seed_sd_low, 4), round(spread.seed_sd_high, 4)  # sqrt(2 / 7.38) and sqrt(2 / 0.0506)
        (0.0052, 0.0628)
    """
    values = np.asarray(accuracies, dtype=np.float64)
    if values.ndim != 1 or not len(values) or not ((values >= 0) & (values <= 1)).all():
        raise ValueError(
            f"accuracies must be one fraction in [0, 1] per seed, at least one, not {values.tolist()}. "
            "Divide percentages by 100"
        )
    if n_images < 1:
        raise ValueError(f"n_images must be at least 1, not {n_images}")
    mean = float(values.mean())
    seed_sd = low = high = float("nan")
    if len(values) > 1:
        free = len(values) - 1
        seed_sd = float(values.std(ddof=1))
        low, high = (float(seed_sd * math.sqrt(free / chi2.ppf(q, free))) for q in (0.975, 0.025))
    return SeedSpread(
        mean=mean,
        seed_sd=seed_sd,
        test_sd=float(np.sqrt(mean * (1 - mean) / n_images)),
        seeds=len(values),
        seed_sd_low=low,
        seed_sd_high=high,
    )


def by_attribute(right: npt.ArrayLike, values: npt.ArrayLike, groups: int = 3) -> pd.DataFrame:
    """Accuracy in groups of images from the lowest to the highest value of something known about them.

    The groups are as equal in size as ties allow: images of equal value stay together, in the group that the
    middle of their ranks belongs to, and a group that is left empty has no row.

    Returns:
        One row per group, of rising value. Columns value_low and value_high, the smallest and largest value in
        the group; images; accuracy, a fraction, with its 95 % Wilson interval low and high.

    Example:
        >>> right = np.arange(12) >= 3
        >>> print(by_attribute(right, np.arange(12) / 10).round(2))
           value_low  value_high  images  accuracy   low  high
        0        0.0         0.3       4      0.25  0.05   0.7
        1        0.4         0.7       4      1.00  0.51   1.0
        2        0.8         1.1       4      1.00  0.51   1.0
    """
    right, values = _checked_right(right), _checked_values(values)
    if len(right) != len(values):
        raise ValueError(f"right and values must be of the same images, not {len(right)} and {len(values)}")
    if groups < 1:
        raise ValueError(f"groups must be at least 1, not {groups}")
    group = _equal_groups(values, groups)
    rows = []
    for g in np.unique(group):
        inside, of_group = right[group == g], values[group == g]
        low, high = wilson_interval(int(inside.sum()), len(inside))
        rows.append(
            {
                "value_low": float(of_group.min()),
                "value_high": float(of_group.max()),
                "images": len(inside),
                "accuracy": float(inside.mean()),
                "low": low,
                "high": high,
            }
        )
    return pd.DataFrame(rows)


# -------------------------------------------------------------------------------------------------- ensembles


def soft_vote(members: Sequence[npt.ArrayLike], weights: Sequence[float] | None = None) -> Array:
    """The members' average probabilities.

    `sum_m w_m probs_m` with the weights scaled to sum to one, equal if None; none is negative, and not all are 0.
    The documents' ensemble has two members of weight 0.5 (level 4, section 4). Its NLL is never above the members'
    average NLL, by the concavity of the logarithm.

    Returns:
        Probabilities `[N, C]`, float64.

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
    largest summed probability, and then to the lowest index. Two members that differ always tie, so that their
    vote is decided by probability between the two classes they name.

    Returns:
        Predicted classes `[N]`, integers (not probabilities: a vote has no confidence).

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


def vote_weights(members: Sequence[npt.ArrayLike], labels: npt.ArrayLike) -> Array:
    """The weights of a soft vote that minimise its NLL, to be fitted on validation images, never on the test set.

    Minimises `-(1/N) sum_i log sum_m w_m probs_m[i, labels[i]]` over weights that are not negative and sum to one,
    by L-BFGS from equal weights. The loss is convex in them, so there is no other minimum to fall into. Members
    that are alike leave their weights undecided and near equal. Source: linear opinion pools under the logarithmic
    score, Hall and Mitchell (2007), "Combining density forecasts".

    Returns:
        Weights `[M]`, each in [0, 1], that sum to one.

    Example:
        >>> a, b = [[0.9, 0.1]] * 3 + [[0.1, 0.9]], [[0.1, 0.9]] * 3 + [[0.9, 0.1]]
        >>> vote_weights([a, b], [0] * 4).round(4).tolist()  # 3 log(0.1 + 0.8 w) + log(0.9 - 0.8 w) is largest
        [0.8125, 0.1875]
    """
    _checked_members(members)
    logs = np.stack([-nll_each(member, labels) for member in members])

    def loss_and_slope(free: Array) -> tuple[float, Array]:
        # Weights as a softmax need no constraint, and their slope is a mean of shares in [0, 1]: it stays
        # finite where a member gives the truth next to nothing.
        log_weights = log_softmax(free)
        joint = log_weights[:, None] + logs
        total = logsumexp(joint, axis=0)
        shares = np.exp(joint - total).mean(axis=1)
        return -total.mean(), np.exp(log_weights) - shares

    fit = minimize(
        loss_and_slope,
        x0=np.zeros(len(logs)),
        jac=True,
        method="L-BFGS-B",
        options={"ftol": 1e-15, "gtol": 1e-10},
    )
    return softmax(fit.x)
