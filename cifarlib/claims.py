"""Every claim the four documents make, the rule that judges it, and the evidence the runs give.

A notebook ends with `table(level, evidence)`. The claims stand here in the order of the documents, each
with the function that judges it; the thresholds in the rules are ours where the documents state none. A claim
whose run or measure is missing, or that no run can decide, is "not measurable here": its evidence says why.
Intervals cover the choice of test images, not of training seeds; p-values are not adjusted for being many.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import fisher_exact

from cifarlib import documented, evaluation, recipes
from cifarlib.runs import Run

MEMBERS = recipes.LEVELS["level4"]
CONFIDENT = 0.9
"""A prediction with a larger probability than this counts as confident."""
MIN_MAP_SIZE = 7
"""Side of the smallest Grad-CAM map, in cells, on which compactness says anything; 224 px give 7."""
ANIMALS = ("bird", "cat", "deer", "dog", "frog", "horse")
VEHICLES = ("airplane", "automobile", "ship", "truck")

_VERDICTS = {True: "holds", False: "does not hold", None: "not measurable here"}
_ALPHA = 0.05
_RESAMPLES = 1000


class _Missing(Exception):
    """What a judge needs is not among the evidence; the message, a full sentence, says what."""


@dataclass(frozen=True)
class Evidence:
    """What a level's claims are judged by.

    Args:
        runs: Finished runs by recipe name (level1, level2, level3, efficientnet, convnext and level 2's
            arms), those that exist, all on the same test images.
        split_sizes: Training, validation and test images.
        documented_setting: Whether this is CIFAR-10 in full with ImageNet weights at 224 px; only then are
            the documents' figures comparable.
        measures: What the notebook measured besides. "cams": by recipe name, `compactness` [N] (share of the
            map that holds half of its mass: less is more compact), `map_size` (cells a side), and where the
            object is known `pointing` [N] (peak on the object, 0 or 1), `energy`, `centre_energy` and
            `object_share` [N] (shares of the map and of the image, 0 to 1). "attributes":
            `object_size`, `occlusion`, `clutter`, each [N] of the test images.

    Raises:
        ValueError: Two runs do not predict the same test images.
    """

    runs: Mapping[str, Run]
    split_sizes: tuple[int, int, int]
    documented_setting: bool
    measures: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check that the runs can be compared."""
        for first, second in pairwise(self.runs):
            a, b = (self.runs[name].predictions["test_labels"] for name in (first, second))
            if not np.array_equal(a, b):
                raise ValueError(f"runs {first!r} and {second!r} predict different test images: use one split")

    def run(self, name: str) -> Run:
        """Return the run of that name; a claim that asks for one that is missing is not measurable."""
        if name not in self.runs:
            raise _Missing(f"Needs the run {name}, which is not here.")
        return self.runs[name]

    def predictions(self, name: str, part: str = "test") -> tuple[np.ndarray, np.ndarray]:
        """Return probs [N, C] and labels [N] of a run, or of "level4", the soft vote of its members."""
        runs = [self.run(member) for member in (MEMBERS if name == "level4" else (name,))]
        probs = [run.predictions[f"{part}_probs"] for run in runs]
        return evaluation.soft_vote(probs), runs[0].predictions[f"{part}_labels"]

    def measure(self, *keys: str) -> np.ndarray:
        """Return an extra measure by its keys, as float64."""
        value: Any = self.measures
        for key in keys:
            if not isinstance(value, Mapping) or key not in value:
                raise _Missing(f"Needs the measure {'/'.join(keys)}, which was not taken.")
            value = value[key]
        return np.asarray(value, dtype=np.float64)


Verdict = tuple[str, bool | None]
Judge = Callable[[Evidence], Verdict]


@dataclass(frozen=True)
class Claim:
    """One claim: where its document makes it, what it says in our words, and how it is judged.

    `note` says where the document's own numbers contradict or qualify the claim, "" where they do not.
    `judge` returns the evidence as a sentence and whether the claim holds, None where that cannot be told.
    """

    level: str
    section: str
    text: str
    rule: str
    judge: Judge
    note: str = ""


def table(level: str, evidence: Evidence) -> list[dict[str, str]]:
    """Judge every claim of one level's document.

    Args:
        level: "level1" to "level4".
        evidence: The runs and measures to judge by.

    Returns:
        One row a claim, in the document's order: claim, section, evidence, verdict and rule, plain strings.

    Raises:
        ValueError: An unknown level.
    """
    if level not in documented.LEVELS:
        raise ValueError(f"unknown level {level!r}: use one of {', '.join(documented.LEVELS)}")
    rows = []
    for claim in CLAIMS:
        if claim.level != level:
            continue
        try:
            text, holds = claim.judge(evidence)
        except _Missing as missing:
            text, holds = str(missing), None
        if claim.note:
            text += f" The documents themselves: {claim.note}"
        rows.append(
            {
                "claim": claim.text,
                "section": claim.section,
                "evidence": text,
                "verdict": _VERDICTS[None if holds is None else bool(holds)],
                "rule": claim.rule,
            }
        )
    return rows


# ---------------------------------------------------------------------------------------- writing claims down

_claims: list[Claim] = []


def _claim(level: str, section: int, text: str, rule: str, *, note: str = "") -> Callable[[Judge], Judge]:
    """Register the function below as the judge of a claim."""

    def register(judge: Judge) -> Judge:
        _claims.append(Claim(level, str(section), text, rule, judge, note))
        return judge

    return register


def _not_judged(level: str, section: int, text: str, why: str, *, note: str = "") -> None:
    """Register a claim that no run can decide, and why."""
    _claim(level, section, text, "No rule: a run cannot decide it.", note=note)(lambda evidence: (why, None))


def _found(level: str, section: int, word: str) -> str:
    """What the documents' own numbers give instead of the statement of that section that holds `word`."""
    (found,) = (
        c.found
        for c in documented.CORRECTIONS
        if (c.level, c.section) == (level, section) and word in c.stated.lower()
    )
    return found


# ----------------------------------------------------------------------------------- numbers, and their words


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2f} %"


def _p(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def _at(epochs: list[int]) -> str:
    """Name epochs: "at no epoch", "at epoch 3", "at epochs 3 and 5"."""
    if not epochs:
        return "at no epoch"
    *first, last = map(str, epochs)
    return f"at epochs {', '.join(first)} and {last}" if first else f"at epoch {last}"


def _falling(exceptions: list[int]) -> str:
    return f"not falling {_at(exceptions)}" if exceptions else "falling at every epoch"


def _at_most(value: float, limit: float) -> bool:
    """Whether value <= limit, forgiving the rounding of a difference of two fractions."""
    return bool(value <= limit + 1e-9)


def _mean_interval(per_image: np.ndarray) -> tuple[float, float, float]:
    """Mean over the images with its 95 % bootstrap interval.

    The resampled mean depends on nothing but how often each distinct value is drawn, and there are few.
    """
    values, counts = np.unique(per_image, return_counts=True)
    n = len(per_image)
    means = np.random.default_rng(0).multinomial(n, counts / n, size=_RESAMPLES) @ values / n
    low, high = np.quantile(means, [0.025, 0.975])
    return float(np.mean(per_image)), float(low), float(high)


def _points(interval: tuple[float, float, float]) -> str:
    difference, low, high = (100 * value for value in interval)
    return f"{difference:+.2f} points (95 % interval {low:+.2f} to {high:+.2f})"


class _Scored(NamedTuple):
    """One model's test predictions."""

    probs: np.ndarray
    labels: np.ndarray
    predicted: np.ndarray
    right: np.ndarray
    confidence: np.ndarray


def _score(evidence: Evidence, name: str) -> _Scored:
    probs, labels = evidence.predictions(name)
    predicted = probs.argmax(axis=1)
    return _Scored(probs, labels, predicted, predicted == labels, probs.max(axis=1))


class _Comparison(NamedTuple):
    """Test accuracy of one model less that of another, as a fraction."""

    text: str
    difference: float
    low: float
    high: float
    p: float

    @property
    def better(self) -> bool:
        return self.difference > 0 and self.p < _ALPHA


def _compare(evidence: Evidence, a: str, b: str) -> _Comparison:
    first, second = _score(evidence, a), _score(evidence, b)
    gain = first.right.astype(int) - second.right
    interval = _mean_interval(gain)
    p = evaluation.mcnemar(first.probs, second.probs, first.labels).p
    text = (
        f"{a} {_percent(first.right.mean())}, {b} {_percent(second.right.mean())}: {_points(interval)}, "
        f"{gain.sum():+,d} of {len(gain):,} images, McNemar {_p(p)}."
    )
    return _Comparison(text, *interval, p)


def _better(a: str, b: str) -> Judge:
    """Judge: a is right on more test images than b, by more than chance."""

    def judge(evidence: Evidence) -> Verdict:
        result = _compare(evidence, a, b)
        return result.text, result.better

    return judge


_BETTER = (
    "The first model in the evidence is right on more test images, and the exact McNemar test gives p < 0.05."
)
_ELSEWHERE = (
    "The document's figure is comparable only on CIFAR-10 in full with ImageNet weights at 224 px, which "
    "this is not."
)


def _test_accuracy(level: str) -> Judge:
    """Judge: the documented test accuracy lies in the Wilson interval of ours."""

    def judge(evidence: Evidence) -> Verdict:
        right = _score(evidence, level).right
        low, high = evaluation.wilson_interval(int(right.sum()), len(right))
        text = (
            f"{_percent(right.mean())} ({right.sum():,} of {len(right):,} test images), 95 % interval "
            f"{_percent(low)} to {_percent(high)}."
        )
        if not evidence.documented_setting:
            return f"{text} {_ELSEWHERE}", None
        stated = documented.LEVELS[level].test_accuracy
        return text, stated is not None and low <= stated <= high

    return judge


_ACCURACY = "The 95 % Wilson interval of the measured accuracy contains the stated one."


def _gain(level: str, over: str) -> Judge:
    """Judge: the documented gain lies in the paired bootstrap interval of ours."""
    (stated,) = (g.points / 100 for g in documented.GAINS if (g.level, g.over) == (level, over))

    def judge(evidence: Evidence) -> Verdict:
        result = _compare(evidence, level, over)
        if not evidence.documented_setting:
            return f"{result.text} {_ELSEWHERE}", None
        return result.text, result.low <= stated <= result.high

    return judge


_GAIN = "The 95 % paired bootstrap interval of the measured gain contains the stated one."


class _Curves(NamedTuple):
    """A run's history as arrays `[epochs]`, at least two of them; accuracies as fractions."""

    epochs: np.ndarray
    train_loss: np.ndarray
    val_loss: np.ndarray
    train: np.ndarray
    val: np.ndarray
    half_width: float  # of the 95 % interval of the last validation accuracy
    measured_train: float  # after training, in eval mode, without augmentation

    def where(self, rises: np.ndarray) -> list[int]:
        """Epochs, from the second, at which the mask of steps `[epochs - 1]` is set."""
        return [int(epoch) for epoch in self.epochs[1:][rises]]


def _curves(evidence: Evidence, name: str) -> _Curves:
    run = evidence.run(name)
    history = run.history
    if len(history) < 2:
        raise _Missing(f"Needs at least two epochs, and {name} was trained for {len(history)}.")
    n = len(run.predictions["val_labels"])
    low, high = evaluation.wilson_interval(round(float(history["val_accuracy"].iloc[-1]) * n), n)
    return _Curves(
        epochs=history["epoch"].to_numpy(),
        train_loss=history["train_loss"].to_numpy(),
        val_loss=history["val_loss"].to_numpy(),
        train=history["train_accuracy"].to_numpy(),
        val=history["val_accuracy"].to_numpy(),
        half_width=(high - low) / 2,
        measured_train=run.metrics["train_accuracy"],
    )


def _smooth(name: str) -> Judge:
    """Judge: the training loss falls at every epoch, the validation accuracy never by more than its noise."""

    def judge(evidence: Evidence) -> Verdict:
        c = _curves(evidence, name)
        rises = c.where(np.diff(c.train_loss) >= 0)
        drops = c.where(np.diff(c.val) < -c.half_width)
        text = (
            f"Training loss {c.train_loss[0]:.4f} to {c.train_loss[-1]:.4f}, {_falling(rises)}; "
            f"validation accuracy {_percent(c.val[0])} to {_percent(c.val[-1])}, falling by more than "
            f"{100 * c.half_width:.2f} points {_at(drops)}."
        )
        return text, not rises and not drops

    return judge


_SMOOTH = (
    "Training loss falls at every epoch, and validation accuracy never falls by more than the half-width of "
    "its 95 % interval."
)


def _no_overfitting(name: str) -> Judge:
    """Judge: the validation loss has not turned upwards."""

    def judge(evidence: Evidence) -> Verdict:
        c = _curves(evidence, name)
        text = (
            f"Validation loss ends at {c.val_loss[-1]:.4f}, lowest {c.val_loss.min():.4f} "
            f"{_at([int(c.epochs[c.val_loss.argmin()])])}. After training, the training images without "
            f"augmentation are {_percent(c.measured_train)} right, validation {_percent(c.val[-1])}."
        )
        return text, c.val_loss[-1] <= 1.02 * c.val_loss.min()

    return judge


_NO_OVERFITTING = "The last validation loss is at most 2 % above the lowest."


def _gap(name: str) -> Judge:
    """Judge: training accuracy ends no more than 5 points above validation accuracy."""

    def judge(evidence: Evidence) -> Verdict:
        c = _curves(evidence, name)
        text = (
            f"Last epoch: training {_percent(c.train[-1])}, validation {_percent(c.val[-1])}, a gap of "
            f"{100 * (c.train[-1] - c.val[-1]):+.2f} points ({100 * (c.measured_train - c.val[-1]):+.2f} "
            "with training accuracy measured after training, without augmentation)."
        )
        return text, _at_most(c.train[-1] - c.val[-1], 0.05)

    return judge


def _confusion(evidence: Evidence, name: str, *classes: str) -> tuple[np.ndarray, list[str]]:
    """The confusion matrix of a run that knows all the `classes` named, and its class names."""
    names = list(evidence.run(MEMBERS[0] if name == "level4" else name).classes)
    if unknown := [c for c in classes if c not in names]:
        raise _Missing(f"Needs CIFAR-10's classes: these images have no {', '.join(unknown)}.")
    return evaluation.confusion(*evidence.predictions(name)), names


def _recalls(evidence: Evidence, name: str, *classes: str) -> dict[str, float]:
    """Recall of every class that has test images, lowest first."""
    counts, names = _confusion(evidence, name, *classes)
    recalls = {c: row[i] / row.sum() for i, (c, row) in enumerate(zip(names, counts, strict=True)) if row.sum()}
    if unseen := [c for c in classes if c not in recalls]:
        raise _Missing(f"Needs test images of {', '.join(unseen)}.")
    return dict(sorted(recalls.items(), key=lambda item: item[1]))


def _listed(recalls: Mapping[str, float], k: int) -> str:
    """The first k classes with their recall."""
    return ", ".join(f"{name} {_percent(recall)}" for name, recall in list(recalls.items())[:k])


def _confused(evidence: Evidence, name: str, first: str, second: str) -> int:
    """Images of either class taken for the other."""
    counts, names = _confusion(evidence, name, first, second)
    i, j = names.index(first), names.index(second)
    return int(counts[i, j] + counts[j, i])


def _among_animals(name: str) -> Judge:
    """Judge: most errors take one animal for another."""

    def judge(evidence: Evidence) -> Verdict:
        counts, names = _confusion(evidence, name, *ANIMALS)
        errors = counts - np.diag(np.diag(counts))
        at = [names.index(animal) for animal in ANIMALS]
        among, total = int(errors[np.ix_(at, at)].sum()), int(errors.sum())
        return f"{among:,} of {total:,} errors take one animal for another.", 2 * among > total

    return judge


_AMONG_ANIMALS = "More than half of the errors take one of the six animals for another."


def _harder(evidence: Evidence, name: str, attribute: str, sign: int) -> tuple[str, bool]:
    """Whether images with a large (sign 1) or small (sign -1) attribute are more often wrong than the rest.

    The large are a third of the images, or as near to a third as ties allow.
    """
    values = sign * evidence.measure("attributes", attribute)
    wrong = ~_score(evidence, name).right
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) < 2:
        raise _Missing(f"Needs images that differ in {attribute}.")
    above = 1 - counts.cumsum()[:-1] / len(values)
    hard = values > distinct[np.abs(above - 1 / 3).argmin()]
    outcomes = [[int((wrong & part).sum()), int((~wrong & part).sum())] for part in (hard, ~hard)]
    p = float(fisher_exact(outcomes, alternative="greater").pvalue)
    rates = [errors / (errors + others) for errors, others in outcomes]
    which = "Largest" if sign > 0 else "Smallest"
    text = (
        f"{which} third by {attribute.replace('_', ' ')}: {_percent(rates[0])} wrong ({hard.sum():,} "
        f"images), the rest {_percent(rates[1])}, Fisher's exact {_p(p)}."
    )
    return text, p < _ALPHA


def _all_harder(name: str, *attributes: tuple[str, int]) -> Judge:
    """Judge: errors are more frequent on the hard side of every attribute."""

    def judge(evidence: Evidence) -> Verdict:
        results = [_harder(evidence, name, attribute, sign) for attribute, sign in attributes]
        return " ".join(text for text, _ in results), all(holds for _, holds in results)

    return judge


_SMALL, _CLUTTERED, _OCCLUDED = ("object_size", -1), ("clutter", 1), ("occlusion", 1)


def _confident_mistakes(evidence: Evidence, name: str) -> int:
    scored = _score(evidence, name)
    return int((~scored.right & (scored.confidence > CONFIDENT)).sum())


def _cams(evidence: Evidence, *keys: tuple[str, str]) -> list[np.ndarray]:
    """Grad-CAM measures by run and name, of the images on which none is NaN, as a blank map's are."""
    arrays = [evidence.measure("cams", *key) for key in keys]
    if len({len(array) for array in arrays}) > 1:
        raise _Missing(f"Needs maps of the same images for {' and '.join('/'.join(key) for key in keys)}.")
    known = np.isfinite(arrays).all(axis=0)
    if not known.any():
        raise _Missing("Needs maps that are not blank.")
    return [array[known] for array in arrays]


def _cam_difference(evidence: Evidence, measure: str) -> tuple[str, tuple[float, float, float]]:
    """A Grad-CAM measure at level 3 less the same at level 2, on the same images."""
    third, second = _cams(evidence, ("level3", measure), ("level2", measure))
    interval = _mean_interval(third - second)
    text = (
        f"Mean {measure} {third.mean():.3f} at level 3, {second.mean():.3f} at level 2: difference "
        f"{interval[0]:+.3f} (95 % interval {interval[1]:+.3f} to {interval[2]:+.3f}) on {len(third):,} "
        "images."
    )
    return text, interval


# ---------------------------------------------------------------------------------------- the claims: level 1


@_claim(
    "level1",
    2,
    "The images are split 80 % / 10 % / 10 % into training, validation and test.",
    "Each part's share of all images is within half a point of the stated one.",
    note=_found("level1", 2, "split"),
)
def _split(evidence: Evidence) -> Verdict:
    total = sum(evidence.split_sizes)
    shares = [size / total for size in evidence.split_sizes]
    sizes = " / ".join(f"{size:,}" for size in evidence.split_sizes)
    text = f"{sizes} of {total:,} images is {' / '.join(f'{100 * share:.1f} %' for share in shares)}."
    stated = documented.SPLIT["stated"].values()
    if evidence.split_sizes[2] != documented.SPLIT["images"]["test"]:
        return f"{text} These sizes are this run's own, not the document's.", None
    return text, all(_at_most(abs(share - s), 0.005) for share, s in zip(shares, stated, strict=True))


_not_judged(
    "level1",
    2,
    "The split is fair: the official test set stays the test set.",
    "A property of the code, not of a run's numbers: training is given no test images, and the tests check "
    "the split.",
)


@_claim("level1", 3, "No data augmentation is applied at this level.", "The trained recipe has augmentation off.")
def _no_augmentation(evidence: Evidence) -> Verdict:
    recipe = evidence.run("level1").recipe
    return f"Augmentation {'on' if recipe.augment else 'off'}, {recipe.image_size} px.", not recipe.augment


@_claim(
    "level1",
    4,
    "The backbone is frozen; only the new classification layer is trained.",
    "The trained parameters are exactly those of one layer from 2048 features to the classes.",
)
def _head_only(evidence: Evidence) -> Verdict:
    run = evidence.run("level1")
    trained, expected = run.metrics["trainable_parameters"], 2049 * len(run.classes)
    text = (
        f"{trained:,} of {run.metrics['parameters']:,} parameters trained; 2048 weights and a bias for each "
        f"of {len(run.classes)} classes are {expected:,}."
    )
    return text, trained == expected


@_claim(
    "level1",
    6,
    "Accuracy improves steadily across epochs.",
    "Neither training nor validation accuracy ever falls from one epoch to the next.",
    note=_found("level1", 6, "steadily"),
)
def _steady(evidence: Evidence) -> Verdict:
    c = _curves(evidence, "level1")
    falls = [c.where(np.diff(series) < 0) for series in (c.train, c.val)]
    return f"Training accuracy falls {_at(falls[0])}, validation accuracy {_at(falls[1])}.", not any(falls)


@_claim(
    "level1",
    6,
    "Validation accuracy is consistently higher than training accuracy.",
    "It is higher at every epoch, training accuracy being the running one of the epoch.",
    note=_found("level1", 6, "consistently"),
)
def _validation_above_training(evidence: Evidence) -> Verdict:
    c = _curves(evidence, "level1")
    higher = int((c.val > c.train).sum())
    text = (
        f"Higher at {higher} of {len(c.val)} epochs. Measured after training, the training images are "
        f"{_percent(c.measured_train)} right, validation {_percent(c.val[-1])}."
    )
    return text, higher == len(c.val)


_claim("level1", 6, "There is no overfitting.", _NO_OVERFITTING)(_no_overfitting("level1"))


@_claim(
    "level1",
    6,
    "Training converges within five epochs.",
    "There are at most five epochs, and the last changes validation accuracy by less than the half-width of "
    "its 95 % interval.",
)
def _converged(evidence: Evidence) -> Verdict:
    c = _curves(evidence, "level1")
    change = c.val[-1] - c.val[-2]
    text = (
        f"Epoch {c.epochs[-1]} changes validation accuracy by {100 * change:+.2f} points; the half-width is "
        f"{100 * c.half_width:.2f}."
    )
    return text, len(c.val) <= 5 and abs(change) < c.half_width


@_claim(
    "level1",
    7,
    "Training and validation loss both fall smoothly.",
    "Both losses fall at every epoch.",
)
def _both_losses_fall(evidence: Evidence) -> Verdict:
    c = _curves(evidence, "level1")
    rises = [c.where(np.diff(series) >= 0) for series in (c.train_loss, c.val_loss)]
    text = (
        f"Training loss {c.train_loss[0]:.4f} to {c.train_loss[-1]:.4f}, {_falling(rises[0])}; "
        f"validation loss {c.val_loss[0]:.4f} to {c.val_loss[-1]:.4f}, {_falling(rises[1])}."
    )
    return text, not any(rises)


@_claim(
    "level1",
    7,
    "The accuracy curve shows generalisation improving consistently.",
    "Validation accuracy never falls and ends above its first value by more than the half-width of its 95 % "
    "interval.",
)
def _generalisation_improves(evidence: Evidence) -> Verdict:
    c = _curves(evidence, "level1")
    falls = c.where(np.diff(c.val) < 0)
    text = f"Validation accuracy {_percent(c.val[0])} to {_percent(c.val[-1])}, falling {_at(falls)}."
    return text, not falls and c.val[-1] - c.val[0] > c.half_width


_claim("level1", 8, "Test accuracy is 82.06 %.", _ACCURACY)(_test_accuracy("level1"))
_not_judged(
    "level1",
    8,
    "The performance is reasonable for a strict baseline.",
    "The document states no threshold for reasonable.",
)
_not_judged(
    "level1",
    9,
    "Resizing such small images introduces interpolation artifacts that limit accuracy.",
    "Every run resizes the same way; there is none to compare with.",
)
_claim("level1", 9, "Having no augmentation limits generalisation.", _BETTER)(
    _better("level2_frozen", "level2_noaug_frozen")
)
_claim("level1", 9, "The fully frozen backbone limits adaptation to the dataset.", _BETTER)(
    _better("level2_noaug", "level2_noaug_frozen")
)


@_claim(
    "level1",
    9,
    "Level 2 and above address these limitations: interpolation, no augmentation, frozen backbone.",
    "Level 2's recipe differs from level 1's in each: image size or interpolation, augmentation, trained layers.",
)
def _limitations_addressed(evidence: Evidence) -> Verdict:
    one, two = (evidence.run(name).recipe for name in ("level1", "level2"))
    addressed = {
        "interpolation": (one.image_size, one.interpolation) != (two.image_size, two.interpolation),
        "no augmentation": two.augment and not one.augment,
        "frozen backbone": two.trainable != "head" and one.trainable == "head",
    }
    words = {True: "addressed", False: "as before"}
    text = "; ".join(f"{limitation}: {words[done]}" for limitation, done in addressed.items())
    return f"{text[0].upper()}{text[1:]}.", all(addressed.values())


_not_judged(
    "level1",
    10,
    "The results are reproducible.",
    "One run cannot show it: the tests compare repeated and resumed runs bit for bit on a CPU.",
)
_not_judged(
    "level1",
    10,
    "The baseline satisfies the requirements of Level 1 with a clean pipeline.",
    "The document does not state the requirements.",
)

# ---------------------------------------------------------------------------------------- the claims: level 2

_claim("level2", 1, "Level 2 improves significantly on the baseline.", _BETTER)(_better("level2", "level1"))


@_claim(
    "level2",
    2,
    "Against level 1 it adds augmentation, partial fine-tuning, AdamW, a cosine schedule and weight decay.",
    "The two trained recipes differ so in all five rows of the table.",
)
def _enhancements(evidence: Evidence) -> Verdict:
    rows = [
        (r.augment, r.trainable, r.optimizer, r.schedule, r.weight_decay > 0)
        for r in (evidence.run(name).recipe for name in ("level1", "level2"))
    ]
    words = [
        f"augmentation {'on' if augment else 'off'}, trains {trainable}, {optimizer}, {schedule}, "
        f"{'some' if decay else 'no'} weight decay"
        for augment, trainable, optimizer, schedule, decay in rows
    ]
    expected = [(False, "head", "adam", "constant", False), (True, "layer4", "adamw", "cosine", True)]
    return f"Level 1: {words[0]}. Level 2: {words[1]}.", rows == expected


@_claim(
    "level2",
    3,
    "Augmentation reduces overfitting to the training data.",
    "The gap from validation up to training accuracy, measured after training without augmentation, is "
    "smaller with augmentation than without, all else equal.",
)
def _augmentation_narrows_the_gap(evidence: Evidence) -> Verdict:
    gaps = [
        evidence.run(name).metrics["train_accuracy"] - evidence.run(name).metrics["val_accuracy"]
        for name in ("level2", "level2_noaug")
    ]
    text = f"{100 * gaps[0]:+.2f} points with augmentation, {100 * gaps[1]:+.2f} without (level2_noaug)."
    return text, gaps[0] < gaps[1]


_not_judged(
    "level2",
    3,
    "Augmentation simulates real-world variance; validation and test images stay unaltered.",
    "No photographs from elsewhere are tested, and that only training images are altered is a matter of "
    "code, checked by the tests.",
)
_claim("level2", 4, "Unfreezing layer4 lets the network learn features specific to the dataset.", _BETTER)(
    _better("level2", "level2_frozen")
)


@_claim(
    "level2",
    6,
    "Convergence is rapid, within the early epochs.",
    "After the first third of the epochs (rounded up), validation accuracy is at least 95 % of its last value.",
)
def _rapid(evidence: Evidence) -> Verdict:
    c = _curves(evidence, "level2")
    early = -(-len(c.val) // 3)
    share = c.val[early - 1] / c.val[-1]
    reached = _percent(c.val[early - 1])
    text = f"Epoch {early} of {len(c.val)}: {reached}, {100 * share:.1f} % of the last epoch's."
    return text, share >= 0.95


_claim(
    "level2",
    6,
    "The gap between training and validation accuracy is slight towards the last epochs.",
    "At the last epoch, training accuracy is at most 5 points above validation accuracy (the document's: 4.42).",
)(_gap("level2"))


@_claim(
    "level2",
    6,
    "There is no instability or divergence.",
    "No epoch's training or validation loss is above the first epoch's.",
)
def _no_divergence(evidence: Evidence) -> Verdict:
    c = _curves(evidence, "level2")
    worst = [float(np.max(series[1:])) for series in (c.train_loss, c.val_loss)]
    text = (
        f"Training loss {c.train_loss[0]:.4f} at the first epoch, later at most {worst[0]:.4f}; validation "
        f"loss {c.val_loss[0]:.4f}, later at most {worst[1]:.4f}."
    )
    return text, worst[0] <= c.train_loss[0] and worst[1] <= c.val_loss[0]


@_claim("level2", 7, "Training loss decreases monotonically.", "Training loss falls at every epoch.")
def _monotone(evidence: Evidence) -> Verdict:
    c = _curves(evidence, "level2")
    rises = c.where(np.diff(c.train_loss) >= 0)
    return f"{c.train_loss[0]:.4f} to {c.train_loss[-1]:.4f}, {_falling(rises)}.", not rises


@_claim(
    "level2",
    7,
    "Validation loss stabilises, which shows that regularisation works.",
    "The last epoch changes validation loss by less than 5 %; that regularisation is the cause is not judged.",
)
def _val_loss_stabilises(evidence: Evidence) -> Verdict:
    before, last = _curves(evidence, "level2").val_loss[-2:]
    text = f"{before:.4f} to {last:.4f} in the last epoch, {100 * (last / before - 1):+.1f} %."
    return text, abs(last / before - 1) < 0.05


@_claim(
    "level2",
    7,
    "Accuracy is consistently and substantially above level 1's.",
    "Validation accuracy is above level 1's at every epoch that both have.",
)
def _above_level_1(evidence: Evidence) -> Verdict:
    two, one = _curves(evidence, "level2").val, _curves(evidence, "level1").val
    common = min(len(one), len(two))
    ahead = two[:common] - one[:common]
    text = f"Ahead by {100 * ahead.min():+.2f} to {100 * ahead.max():+.2f} points over {common} epochs."
    return text, (ahead > 0).all()


@_claim(
    "level2",
    7,
    "The validation curve closely tracks the training curve.",
    "At no epoch do the two accuracies differ by more than 5 points.",
)
def _tracks(evidence: Evidence) -> Verdict:
    c = _curves(evidence, "level2")
    apart = np.abs(c.train - c.val)
    worst = int(apart.argmax())
    return (
        f"At most {100 * apart[worst]:.2f} points apart, {_at([int(c.epochs[worst])])}.",
        _at_most(apart.max(), 0.05),
    )


_claim("level2", 8, "Test accuracy is 94.64 %.", _ACCURACY)(_test_accuracy("level2"))
_claim("level2", 8, "The gain over the baseline is 12.5 %.", _GAIN, note=_found("level2", 8, "12.5"))(
    _gain("level2", "level1")
)
_not_judged(
    "level2",
    8,
    "It exceeds Level 2's performance expectations and, comfortably, its threshold (section 11).",
    "Neither the expectations nor the threshold is ever stated.",
)


@_claim(
    "level2",
    9,
    "Augmentation and fine-tuning are directly responsible for the gain.",
    "In the four arms, which differ in nothing else, the main effect of each is above 0, bootstrap interval "
    "included.",
    note=_found("level2", 9, "responsible"),
)
def _main_effects(evidence: Evidence) -> Verdict:
    both, tuned, augmented, neither = (
        _score(evidence, name).right.astype(float)
        for name in ("level2", "level2_noaug", "level2_frozen", "level2_noaug_frozen")
    )
    augmentation = _mean_interval((both - tuned + augmented - neither) / 2)
    tuning = _mean_interval((both - augmented + tuned - neither) / 2)
    text = f"Main effect of augmentation {_points(augmentation)}, of fine-tuning {_points(tuning)}."
    return text, augmentation[1] > 0 and tuning[1] > 0


@_claim(
    "level2",
    10,
    "Visually similar classes are confused less than at level 1.",
    "Fewer cats and dogs are taken for one another than at level 1.",
)
def _similar_classes(evidence: Evidence) -> Verdict:
    two, one = (_confused(evidence, name, "cat", "dog") for name in ("level2", "level1"))
    return f"Cat and dog confused {two:,} times, {one:,} at level 1.", two < one


_not_judged(
    "level2",
    10,
    "It is more robust to variations in colour and illumination.",
    "Not measured yet: no test images with altered colour or light are predicted.",
)
_claim(
    "level2",
    10,
    "Confusion persists for small or cluttered objects.",
    "Error is more frequent in the third of smallest objects than in the rest, and in the most cluttered "
    "third too (one-sided Fisher's exact p < 0.05 each).",
)(_all_harder("level2", _SMALL, _CLUTTERED))


@_claim(
    "level2",
    10,
    "Some hard samples are predicted with too much confidence.",
    f"At least one wrong prediction has a confidence above {CONFIDENT}.",
)
def _overconfident(evidence: Evidence) -> Verdict:
    mistakes = _confident_mistakes(evidence, "level2")
    errors = int((~_score(evidence, "level2").right).sum())
    return f"{mistakes:,} of {errors:,} mistakes have a confidence above {CONFIDENT}.", mistakes > 0


@_claim(
    "level2",
    10,
    "Level 3 addresses that overconfidence.",
    f"Level 3 makes fewer mistakes with a confidence above {CONFIDENT} than level 2.",
)
def _overconfidence_addressed(evidence: Evidence) -> Verdict:
    three, two = (_confident_mistakes(evidence, name) for name in ("level3", "level2"))
    return f"{three:,} such mistakes at level 3, {two:,} at level 2.", three < two


# ---------------------------------------------------------------------------------------- the claims: level 3

_not_judged(
    "level3",
    2,
    "CIFAR-10's objects are small and often embedded in cluttered backgrounds.",
    "CIFAR-10 has no masks or bounding boxes to measure size and clutter by.",
)
_not_judged(
    "level3",
    2,
    "SE attention emphasises informative feature maps and suppresses background responses.",
    "The gates' values for object and background are not measured; section 9 judges the maps that result.",
)


@_claim(
    "level3",
    2,
    "The SE block adds minimal computational overhead.",
    "It adds less than 5 % to the parameters of level 2's model (the cost table has the time).",
)
def _se_overhead(evidence: Evidence) -> Verdict:
    three, two = (evidence.run(name).metrics["parameters"] for name in ("level3", "level2"))
    text = f"{three:,} parameters, {two:,} without it: {100 * (three / two - 1):+.2f} %."
    return text, three / two - 1 < 0.05


_not_judged(
    "level3",
    3,
    "Training only layer4, SE and classifier balances feature reuse and adaptation and reduces overfitting.",
    "No run trains the whole ResNet to compare with.",
)
_claim("level3", 5, "Convergence is smooth, with no instability.", _SMOOTH)(_smooth("level3"))


@_claim(
    "level3",
    5,
    "The gap between training and validation accuracy increases.",
    "Training minus validation accuracy is larger at the last epoch than at the first.",
)
def _gap_increases(evidence: Evidence) -> Verdict:
    c = _curves(evidence, "level3")
    gap = 100 * (c.train - c.val)
    text = (
        f"{gap[0]:+.2f} points at epoch {c.epochs[0]}, {gap[-1]:+.2f} at epoch {c.epochs[-1]} "
        f"({100 * (c.measured_train - c.val[-1]):+.2f} measured after training, without augmentation)."
    )
    return text, gap[-1] > gap[0]


@_claim(
    "level3",
    5,
    "Deeper fine-tuning is what makes the gap grow.",
    "The measured gap is larger with layer4 trained (level2) than with the classifier alone (level2_frozen).",
    note=_found("level3", 5, "deeper"),
)
def _deeper_tuning_widens_the_gap(evidence: Evidence) -> Verdict:
    deep, shallow = (
        evidence.run(name).metrics["train_accuracy"] - evidence.run(name).metrics["val_accuracy"]
        for name in ("level2", "level2_frozen")
    )
    return f"{100 * deep:+.2f} points against {100 * shallow:+.2f}.", deep > shallow


@_claim(
    "level3",
    5,
    "Validation accuracy stabilises.",
    "Over the last three epochs it stays within 1 point.",
)
def _val_stabilises(evidence: Evidence) -> Verdict:
    last = _curves(evidence, "level3").val[-3:]
    text = f"{_percent(last.min())} to {_percent(last.max())} over the last {len(last)} epochs."
    return text, _at_most(np.ptp(last), 0.01)


@_claim(
    "level3",
    5,
    "Validation accuracy settles around 94 %.",
    "The last epoch's validation accuracy rounds to 94 %.",
)
def _around_94(evidence: Evidence) -> Verdict:
    last = float(_curves(evidence, "level3").val[-1])
    if not evidence.documented_setting:
        return f"{_percent(last)} at the last epoch. {_ELSEWHERE}", None
    return f"{_percent(last)} at the last epoch.", round(100 * last) == 94


_claim("level3", 6, "Test accuracy is 94.55 %.", _ACCURACY)(_test_accuracy("level3"))


@_claim(
    "level3",
    6,
    "It matches level 2's accuracy.",
    "The 95 % paired bootstrap interval of the difference lies within one point either way; not measurable "
    "where it is wider than that allows.",
    note="94.55 % against 94.64 % is nine of 10,000 images, fewer than the about 50 labelled wrongly "
    "(Northcutt et al. 2021) or the about 300 that nearly repeat training images (Barz and Denzler 2020).",
)
def _matches_level_2(evidence: Evidence) -> Verdict:
    result = _compare(evidence, "level3", "level2")
    if result.low >= -0.01 and result.high <= 0.01:
        return result.text, True
    # Too few images to show that two models are equal do not show that they are.
    return result.text, None if result.low <= 0 <= result.high else False


@_claim(
    "level3",
    6,
    "Its merit is better feature attribution rather than accuracy.",
    "Accuracy is not significantly above level 2's (McNemar), and the maps put more of their energy on the "
    "object, bootstrap interval included.",
)
def _attribution_not_accuracy(evidence: Evidence) -> Verdict:
    result = _compare(evidence, "level3", "level2")
    text, (_, low, _) = _cam_difference(evidence, "energy")
    return f"{result.text} {text}", not result.better and low > 0


@_claim(
    "level3",
    7,
    "Recall per class is as in the document's table, cat 0.89 to automobile, horse and ship 0.97.",
    "In at least nine of the ten classes the 95 % Wilson interval contains the stated recall, give or take "
    "its rounding.",
)
def _per_class(evidence: Evidence) -> Verdict:
    counts, names = _confusion(evidence, "level3", *documented.PER_CLASS)
    within = 0
    for row, (i, name) in zip(counts, enumerate(names), strict=True):
        low, high = evaluation.wilson_interval(int(row[i]), max(int(row.sum()), 1))
        stated = documented.PER_CLASS[name][1]
        within += low - 0.005 <= stated <= high + 0.005
    text = f"Recall {_listed(_recalls(evidence, 'level3'), len(names))}."
    if not evidence.documented_setting:
        return f"{text} {_ELSEWHERE}", None
    return f"{text} The stated one lies within the interval in {within} classes.", within >= 9


@_claim(
    "level3",
    7,
    "Vehicles achieve the highest accuracy.",
    "The four classes of highest recall are the four vehicles.",
    note=_found("level3", 7, "vehicles"),
)
def _vehicles_first(evidence: Evidence) -> Verdict:
    recalls = _recalls(evidence, "level3", *VEHICLES, *ANIMALS)
    vehicles, animals = ([recalls[name] for name in group] for group in (VEHICLES, ANIMALS))
    text = (
        f"Highest recall: {_listed(dict(reversed(recalls.items())), 4)}. Mean over vehicles "
        f"{_percent(float(np.mean(vehicles)))}, over animals {_percent(float(np.mean(animals)))}."
    )
    return text, min(vehicles) > max(animals)


@_claim(
    "level3",
    7,
    "Confusion persists between cat and dog and between bird and cat.",
    "Both are among the three most confused pairs of classes.",
)
def _persistent_pairs(evidence: Evidence) -> Verdict:
    pairs = documented.CONFUSED_PAIRS
    counts, names = _confusion(evidence, "level3", *{name for pair in pairs for name in pair})
    worst = evaluation.most_confused(counts, names, k=3)
    listed = "; ".join(f"{row.first} and {row.second} {row.total:,}" for row in worst.itertuples())
    asked = "; ".join(f"{a} and {b} {_confused(evidence, 'level3', a, b):,}" for a, b in pairs)
    found = {frozenset(pair) for pair in zip(worst["first"], worst["second"], strict=True)}
    return f"Confused {asked} times; most often {listed or 'none'}.", all(frozenset(p) in found for p in pairs)


_not_judged(
    "level3",
    7,
    "These errors come with similar textures.",
    "How alike two textures are is not measured.",
)
_HARDER = (
    "Error is more frequent in that third of the test images than in the rest (one-sided Fisher's exact p < 0.05)."
)
_claim("level3", 7, "Errors come with small objects.", _HARDER)(_all_harder("level3", _SMALL))
_claim("level3", 7, "Errors come with cluttered backgrounds.", _HARDER)(_all_harder("level3", _CLUTTERED))


@_claim(
    "level3",
    8,
    "The confusion matrix is dominated by its diagonal.",
    "In every class more than half of the images are predicted right.",
)
def _diagonal(evidence: Evidence) -> Verdict:
    recalls = _recalls(evidence, "level3")
    return f"Lowest recall: {_listed(recalls, 1)}.", min(recalls.values()) > 0.5


_claim("level3", 8, "The remaining errors are mostly among animals.", _AMONG_ANIMALS)(_among_animals("level3"))


@_claim(
    "level3",
    8,
    "SE attention slightly reduces confusion compared to level 2.",
    "The confusion matrix has fewer errors off its diagonal, and the exact McNemar test gives p < 0.05.",
    note=_found("level3", 8, "confusion"),
)
def _less_confusion(evidence: Evidence) -> Verdict:
    errors = [int((~_score(evidence, name).right).sum()) for name in ("level3", "level2")]
    result = _compare(evidence, "level3", "level2")
    return f"{errors[0]:,} errors, {errors[1]:,} at level 2, McNemar {_p(result.p)}.", result.better


@_claim(
    "level3",
    8,
    "Performance is balanced across classes.",
    "The recalls of the best and the worst class are at most 10 points apart (the document's: 8).",
)
def _balanced(evidence: Evidence) -> Verdict:
    recalls = _recalls(evidence, "level3")
    (low, worst), *_, (high, best) = [(recall, name) for name, recall in recalls.items()]
    spread = f"{100 * (high - low):.2f} points apart"
    text = f"Recall {_percent(low)} ({worst}) to {_percent(high)} ({best}), {spread}."
    return text, _at_most(high - low, 0.1)


@_claim(
    "level3",
    9,
    "The model focuses on regions of the object.",
    "The object's share of the map's energy is above its share of the image and above what a map that always "
    "points at the centre puts there, bootstrap intervals included.",
)
def _focus(evidence: Evidence) -> Verdict:
    energy, share, centre, pointing = _cams(
        evidence, *(("level3", key) for key in ("energy", "object_share", "centre_energy", "pointing"))
    )
    above_share, above_centre = _mean_interval(energy - share), _mean_interval(energy - centre)
    text = (
        f"{_percent(energy.mean())} of the energy on {_percent(share.mean())} of the image: "
        f"{_points(above_share)} against a map spread evenly, {_points(above_centre)} against one that always "
        f"points at the centre; the peak is on the object in {_percent(pointing.mean())} of {len(pointing):,} "
        "images."
    )
    return text, above_share[1] > 0 and above_centre[1] > 0


@_claim(
    "level3",
    9,
    "Background regions receive low activation.",
    "Per unit of area, the background gets less than half of what the object gets.",
)
def _background_low(evidence: Evidence) -> Verdict:
    energy, share = (values.mean() for values in _cams(evidence, ("level3", "energy"), ("level3", "object_share")))
    on, off = energy / share, (1 - energy) / (1 - share)
    text = f"Energy per unit of area (1 if spread evenly): {on:.2f} on the object, {off:.2f} on the background."
    return text, 2 * off < on


@_claim(
    "level3",
    9,
    "Attention maps are more compact than at level 2.",
    "Half of the map's mass lies on a smaller share of it, bootstrap interval included, on maps of at "
    f"least {MIN_MAP_SIZE} cells a side.",
)
def _compact(evidence: Evidence) -> Verdict:
    text, (_, _, high) = _cam_difference(evidence, "compactness")
    side = int(min(evidence.measure("cams", name, "map_size") for name in ("level2", "level3")))
    if side < MIN_MAP_SIZE:
        return f"{text} The maps have {side} x {side} cells, too few to tell.", None
    return text, high < 0


@_claim(
    "level3",
    9,
    "Attention maps are more object-centric than at level 2.",
    "The object's share of the map's energy is higher, bootstrap interval included.",
)
def _object_centric(evidence: Evidence) -> Verdict:
    text, (_, low, _) = _cam_difference(evidence, "energy")
    return text, low > 0


_claim(
    "level3",
    9,
    "Failures happen where objects are small or partially occluded.",
    "Error is more frequent in the third of smallest objects than in the rest, and in the most occluded "
    "third too (one-sided Fisher's exact p < 0.05 each).",
)(_all_harder("level3", _SMALL, _OCCLUDED))


@_claim(
    "level3",
    9,
    "Background patterns can still distract the model.",
    "At least 1 % of the maps put less of their energy on the object than its share of the image.",
)
def _distracted(evidence: Evidence) -> Verdict:
    energy, share = _cams(evidence, ("level3", "energy"), ("level3", "object_share"))
    off = energy < share
    return f"{off.sum():,} of {len(off):,} maps favour the background.", off.mean() >= 0.01


@_claim(
    "level3",
    9,
    "Attention improves where the model looks, not just what it predicts.",
    "The map's peak is on the object more often than at level 2, bootstrap interval included.",
)
def _where_not_what(evidence: Evidence) -> Verdict:
    text, (_, low, _) = _cam_difference(evidence, "pointing")
    return text, low > 0


@_claim(
    "level3",
    10,
    "Class-wise confidence improves on level 2.",
    "The mean probability of the true class is higher in more than half of the classes.",
)
def _class_confidence(evidence: Evidence) -> Verdict:
    three, two = _score(evidence, "level3"), _score(evidence, "level2")
    rows = np.arange(len(three.labels))
    gain = three.probs[rows, three.labels] - two.probs[rows, two.labels]
    per_class = [gain[three.labels == c].mean() for c in np.unique(three.labels)]
    higher = sum(value > 0 for value in per_class)
    text = f"Higher in {higher} of {len(per_class)} classes, by {100 * gain.mean():+.2f} points on average."
    return text, 2 * higher > len(per_class)


_not_judged(
    "level3",
    10,
    "It is more interpretable and has the stronger architectural justification.",
    "Neither is defined as a quantity; section 9 judges what can be measured of the maps.",
)


@_claim(
    "level3",
    11,
    "Accuracy gains over level 2 are marginal.",
    "Test accuracy is above level 2's, by less than 1 point.",
    note=_found("level3", 11, "marginal"),
)
def _marginal(evidence: Evidence) -> Verdict:
    result = _compare(evidence, "level3", "level2")
    return result.text, 0 < result.difference < 0.01


@_claim(
    "level3",
    11,
    "Some fine-grained animal classes remain challenging.",
    "The class of lowest recall is an animal.",
)
def _hardest_class(evidence: Evidence) -> Verdict:
    recalls = _recalls(evidence, "level3", *ANIMALS)
    return f"Lowest recall: {_listed(recalls, 3)}.", next(iter(recalls)) in ANIMALS


@_claim(
    "level3",
    11,
    "Calibration is addressed in Level 4.",
    "Level 4's document says whether it does.",
    note=_found("level3", 11, "calibration"),
)
def _calibration_addressed(evidence: Evidence) -> Verdict:
    return "Decided by the documents alone.", False


_not_judged(
    "level3",
    12,
    "The test accuracy meets Level 3's requirements.",
    "The requirements are never stated.",
)

# ---------------------------------------------------------------------------------------- the claims: level 4


@_claim(
    "level4",
    1,
    "Combining the models reduces variance and their individual biases.",
    "The negative log-likelihood of the soft vote is below that of both members (variance over training "
    "seeds is not measured).",
)
def _reduces_variance(evidence: Evidence) -> Verdict:
    names = ("level4", *MEMBERS)
    losses = [evaluation.nll(*evidence.predictions(name)) for name in names]
    text = ", ".join(f"{name} {loss:.4f}" for name, loss in zip(names, losses, strict=True))
    return f"Test negative log-likelihood: {text}.", losses[0] < min(losses[1:])


_not_judged(
    "level4",
    2,
    "Both members are high-performing.",
    "No threshold is stated; of EfficientNet-B0 the document prints only validation accuracies, the last 89.72 %.",
)


@_claim(
    "level4",
    2,
    "EfficientNet-B0 is parameter-efficient.",
    "It has less than half the parameters of the SE-ResNet.",
)
def _parameter_efficient(evidence: Evidence) -> Verdict:
    small, large = (evidence.run(name).metrics["parameters"] for name in ("efficientnet", "level3"))
    return f"{small:,} parameters against {large:,}.", 2 * small < large


@_claim(
    "level4",
    2,
    "Another architecture brings diversity.",
    "Yule's Q between the members' errors is below that between levels 3 and 2, which share a backbone.",
)
def _diversity(evidence: Evidence) -> Verdict:
    labels = evidence.predictions("level3")[1]
    members, same = (
        evaluation.agreement(evidence.predictions(a)[0], evidence.predictions(b)[0], labels).q_statistic
        for a, b in (MEMBERS, ("level3", "level2"))
    )
    if np.isnan([members, same]).any():
        raise _Missing("Needs mistakes of both members: Q is not defined without.")
    return f"Q {members:.3f} between the members, {same:.3f} between levels 3 and 2.", members < same


_claim("level4", 3, "EfficientNet-B0 converges smoothly.", _SMOOTH)(_smooth("efficientnet"))
_claim(
    "level4",
    3,
    "EfficientNet-B0's generalisation gap is controlled.",
    "At the last epoch, training accuracy is at most 5 points above validation accuracy (the document's: 3.21).",
)(_gap("efficientnet"))
_claim(
    "level4",
    3,
    "EfficientNet-B0 shows no sign of overfitting.",
    _NO_OVERFITTING,
    note=_found("level4", 3, "overfitting"),
)(_no_overfitting("efficientnet"))


@_claim(
    "level4",
    3,
    "The members' error patterns are complementary.",
    "Each member is right on at least a third of the other's mistakes.",
)
def _complementary(evidence: Evidence) -> Verdict:
    a, b = (_score(evidence, name) for name in MEMBERS)
    both = evaluation.agreement(a.probs, b.probs, a.labels)
    mistakes = (both.only_b + both.both_wrong, both.only_a + both.both_wrong)
    if 0 in mistakes:
        raise _Missing("Needs mistakes of both members.")
    text = (
        f"{MEMBERS[1]} is right on {both.only_b:,} of {MEMBERS[0]}'s {mistakes[0]:,} mistakes, {MEMBERS[0]} "
        f"on {both.only_a:,} of {MEMBERS[1]}'s {mistakes[1]:,}; at least one is right on "
        f"{_percent(both.oracle_accuracy)}."
    )
    return text, min(both.only_b / mistakes[0], both.only_a / mistakes[1]) >= 1 / 3


@_claim(
    "level4",
    4,
    "Soft voting is better than hard voting.",
    "The soft vote is right on more test images than the hard vote, exact McNemar p < 0.05.",
)
def _soft_beats_hard(evidence: Evidence) -> Verdict:
    soft = _score(evidence, "level4")
    hard = evaluation.hard_vote([evidence.predictions(name)[0] for name in MEMBERS])
    p = evaluation.mcnemar(soft.probs, np.eye(soft.probs.shape[1])[hard], soft.labels).p
    gain = int(soft.right.sum() - (hard == soft.labels).sum())
    text = (
        f"The two differ on {(soft.predicted != hard).sum():,} of {len(hard):,} images, {gain:+,d} right "
        f"for the soft vote, McNemar {_p(p)}. A hard vote of two ties wherever they differ; probabilities "
        "decide it too."
    )
    return text, gain > 0 and p < _ALPHA


@_claim(
    "level4",
    4,
    "Soft voting preserves confidence information.",
    "Mean confidence is higher where the soft vote is right than where it is wrong; a hard vote has none.",
)
def _preserves_confidence(evidence: Evidence) -> Verdict:
    soft = _score(evidence, "level4")
    if soft.right.all() or not soft.right.any():
        raise _Missing("Needs both right and wrong predictions.")
    right, wrong = soft.confidence[soft.right].mean(), soft.confidence[~soft.right].mean()
    return f"Mean confidence {right:.3f} where right, {wrong:.3f} where wrong.", right > wrong


@_claim(
    "level4",
    4,
    "Soft voting reduces overconfident mistakes.",
    f"It makes fewer mistakes with a confidence above {CONFIDENT} than either member.",
)
def _fewer_overconfident(evidence: Evidence) -> Verdict:
    names = ("level4", *MEMBERS)
    mistakes = [_confident_mistakes(evidence, name) for name in names]
    text = ", ".join(f"{name} {count:,}" for name, count in zip(names, mistakes, strict=True))
    return f"Mistakes with a confidence above {CONFIDENT}: {text}.", mistakes[0] < min(mistakes[1:])


@_claim(
    "level4",
    4,
    "Soft voting handles ambiguous samples better.",
    "Where the members disagree, the soft vote is right more often than either member.",
)
def _ambiguous(evidence: Evidence) -> Verdict:
    a, b, soft = (_score(evidence, name) for name in (*MEMBERS, "level4"))
    differ = a.predicted != b.predicted
    right = [int(scored.right[differ].sum()) for scored in (a, b, soft)]
    text = (
        f"The members disagree on {differ.sum():,} images: right are {MEMBERS[0]} on {right[0]:,}, "
        f"{MEMBERS[1]} on {right[1]:,}, the soft vote on {right[2]:,}."
    )
    return text, right[2] > max(right[:2])


_claim("level4", 5, "Test accuracy of the ensemble is 95.11 %.", _ACCURACY)(_test_accuracy("level4"))
_claim("level4", 5, "The ensemble is more accurate than level 3.", _BETTER)(_better("level4", "level3"))
_claim(
    "level4",
    5,
    "The gain over level 3 is 0.56 %.",
    _GAIN,
)(_gain("level4", "level3"))
_claim("level4", 5, "The ensemble is more accurate than the baseline.", _BETTER)(_better("level4", "level1"))
_claim("level4", 5, "The gain over the baseline is 12.9 %.", _GAIN, note=_found("level4", 5, "12.9"))(
    _gain("level4", "level1")
)
_not_judged(
    "level4",
    6,
    "The two-model ensemble already exceeds the Level 4 threshold (section 8: the shortlisting threshold).",
    "Neither threshold is ever stated.",
)


@_claim(
    "level4",
    6,
    "A third model, ConvNeXt-Tiny, gives diminishing returns.",
    "Adding it to the soft vote gains fewer test images than adding EfficientNet-B0 to level 3 did.",
)
def _diminishing(evidence: Evidence) -> Verdict:
    one, two, third = (_score(evidence, name) for name in (MEMBERS[0], "level4", "convnext"))
    members = [evidence.predictions(name)[0] for name in (*MEMBERS, "convnext")]
    three = evaluation.soft_vote(members).argmax(axis=1) == two.labels
    second_gain = int(two.right.sum() - one.right.sum())
    third_gain = three.astype(int) - two.right
    text = (
        f"Alone convnext has {_percent(third.right.mean())}. The second model gains {second_gain:+,d} "
        f"images, the third {third_gain.sum():+,d}: {_points(_mean_interval(third_gain))}."
    )
    return text, third_gain.sum() < second_gain


_not_judged(
    "level4",
    6,
    "A simpler ensemble is easier to reproduce and to interpret.",
    "A judgement about engineering, not a quantity.",
)


@_claim(
    "level4",
    7,
    "Ensemble inference costs more.",
    "The members together have more parameters than the larger of them.",
)
def _costs_more(evidence: Evidence) -> Verdict:
    sizes = [evidence.run(name).metrics["parameters"] for name in MEMBERS]
    text = f"{sum(sizes):,} parameters, {sum(sizes) / max(sizes):.2f} times the larger member's."
    return text, sum(sizes) > max(sizes)


@_claim(
    "level4",
    7,
    "Confidence calibration is not addressed.",
    "One temperature, fitted on the validation images, lowers the ensemble's calibration error (ECE, 15 "
    "bins): something was left to address.",
)
def _calibration_left(evidence: Evidence) -> Verdict:
    val_probs, val_labels = evidence.predictions("level4", "val")
    probs, labels = evidence.predictions("level4")
    t = evaluation.temperature(evaluation.log_probs(val_probs), val_labels)
    before, after = (evaluation.ece(values, labels) for values in (probs, evaluation.apply_temperature(probs, t)))
    text = f"ECE {_percent(before)}, {_percent(after)} at temperature {t:.2f}."
    return text, after < before


_claim("level4", 7, "Minor confusion remains among fine-grained animal classes.", _AMONG_ANIMALS)(
    _among_animals("level4")
)
_not_judged(
    "level4",
    8,
    "It balances performance, simplicity and robustness: a production-sensible design.",
    "A judgement, not a quantity; robustness to altered images is not measured.",
)

CLAIMS: tuple[Claim, ...] = tuple(_claims)
"""Every claim of the four documents, in their order."""
