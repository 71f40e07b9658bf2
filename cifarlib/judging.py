"""How claims are judged: the evidence a judge sees, the verdicts it may give, and the judges that claims share.

Which claims there are, `claims` lists; here are the rules they have in common. A judge takes `Evidence` and gives
a sentence and whether the claim holds, None where that cannot be told.

A claim about a difference between models, classes or images is judged by a 95 % interval or by an exact test at
the level of 0.05. Wholly on the claimed side of the border (0, or the limit that the rule names) it holds, wholly
on the other it does not, and where the interval contains the border it is "not measurable here": its evidence
ends by saying that these images cannot tell. Where a claim makes several comparisons all must hold, and one that
does not is enough to refute it. What a claim says of a curve or of a recipe is described, not tested: an epoch's
accuracy fell or it did not. A mean over fewer than 30 images decides nothing.

That one model is right more often than another is decided by McNemar's exact test, each claim by itself: p-values
are not adjusted for being many (a forest of levels adjusts by Holm and may show fewer). The interval beside it is
Tango's (1998) score interval for paired proportions, which decides whether two models are alike, as it keeps a
width where no image tells them apart; where few images differ it may exclude 0 before the exact test is sure.
Where the data pick the classes to compare, the intervals hold for all candidates at once (Bonferroni).

A documented figure is not proved by an interval of ours that contains it: it is consistent with it, which counts
where the interval is narrow enough to have said otherwise, and in the documents' setting only. Where a profile or
an override chose other sizes, weights or training values than the documents', what the documents say of these is
"not measurable here": it is this run's own setting, and refutes nothing. A claim whose run or measure is missing,
or that no run can decide, is "not measurable here" too: its evidence says why.

Intervals cover the choice of test images, not of training seeds, unless a rule says so.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import fisher_exact

from cifarlib import documented, evaluation, recipes, robustness
from cifarlib.evaluation import Estimate
from cifarlib.runs import Run

MEMBERS = recipes.LEVELS["level4"]
CONFIDENT = 0.9
"""A prediction with a larger probability than this counts as confident."""
MIN_MAP_SIZE = 7
"""Side of the smallest Grad-CAM map, in cells, that says where a model looks; 224 px give 7."""
ALIKE = 0.01
"""Accuracies that differ by no more than this, one point, count as alike."""
BEFORE_LAYER4 = 8_543_296
"""Parameters of a ResNet-50 before its last residual block: what level 2 leaves frozen."""
ANIMALS = ("bird", "cat", "deer", "dog", "frog", "horse")
VEHICLES = ("airplane", "automobile", "ship", "truck")
MIN_IMAGES = 30
"""A mean over fewer images than this decides no claim: an interval of so few is not to be trusted."""
NARROW = 0.02
"""An interval no wider than this, two points in all, says something by containing a documented figure."""

MAX_HALF_WIDTH = 0.02
"""Validation accuracies that are known no better than this, two points either way, show no small change."""

VERDICTS = ("holds", "does not hold", "not measurable here")
"""What a claim's verdict may be."""

ALPHA = 0.05
"""The level of every test; 95 % intervals are its other side."""


class Missing(Exception):
    """What a judge needs is not among the evidence; the message, a full sentence, says what."""


_ON_THE_OBJECT = ("energy", "object_share", "centre_energy", "pointing")  # of a map, where the object is known


def _not_taken(measures: Mapping[str, Any], keys: Sequence[str]) -> str:
    """Say why a measure is missing: of photographs nobody knows where the object lies, and how large it is."""
    if keys[0] in measures and (keys[0] in ("gates", "attributes") or keys[-1] in _ON_THE_OBJECT):
        return "Where the objects lie, and how large they are, is known of the built-in images alone."
    return f"Needs the measure {'/'.join(keys)}, which was not taken."


@dataclass(frozen=True)
class Evidence:
    """What a level's claims are judged by.

    Args:
        runs: Finished runs by recipe name (level1, level2, level3, efficientnet, convnext and the levels'
            arms), those that exist, all on the same validation and test images.
        split_sizes: Training, validation and test images.
        documented_setting: Whether this is CIFAR-10 in full with ImageNet weights at 224 px; only then are
            the documents' figures comparable.
        measures: What the notebook measured besides. "cams": by recipe name, `compactness` [N] (share of the
            map that holds half of its mass: less is more compact), `entropy` [N] (0 for a point to 1 for a map
            spread evenly), `map_size` (cells a side), `right` [N] (1 where the image is predicted right, 0 where
            not), `road` [M] of the first M of these images (above 0 where
            the map's pixels matter to the model), and where the object is known `pointing` [N] (peak on the
            object, 0 or 1), `energy`, `centre_energy` and `object_share` [N] (shares of the map and of the
            image, 0 to 1). "attributes": `object_size`, `occlusion`, `clutter`, each [N] of the test images.
            "robustness": by recipe name and shift, "none" among them, [M] of the same test images: 1 where the
            altered image is predicted right and 0 where not, averaged over the shift's directions. "gates":
            `before` and `after` [N], the share of the last feature maps that lies on the object before and
            after level 3's gates.
        repeats: Finished runs of the same recipes under other seeds, by recipe name.

    Raises:
        ValueError: Two runs do not predict the same validation or test images.
    """

    runs: Mapping[str, Run]
    split_sizes: tuple[int, int, int]
    documented_setting: bool
    measures: Mapping[str, Any] = field(default_factory=dict)
    repeats: Mapping[str, Sequence[Run]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check that the runs can be compared."""
        named = [*self.runs.items(), *((name, run) for name, runs in self.repeats.items() for run in runs)]
        for (first, a), (second, b) in pairwise(named):
            for part, word in (("test", "test"), ("val", "validation")):
                if not np.array_equal(a.predictions[f"{part}_labels"], b.predictions[f"{part}_labels"]):
                    raise ValueError(
                        f"runs {first!r} and {second!r} predict different {word} images: use one split"
                    )

    def run(self, name: str) -> Run:
        """Return the run of that name; a claim that asks for one that is missing is not measurable."""
        if name not in self.runs:
            raise Missing(
                f"Needs the run {name}, which is not here: {_trained_by(name)} trains it; run this notebook again "
                "afterwards."
            )
        return self.runs[name]

    def seeds(self, name: str, parameter: str = "") -> list[Run]:
        """Return the runs of a recipe under at least two seeds, the study's own first.

        `parameter` names the notebook's parameter that trains a second one, where there is such.
        """
        runs = [self.run(name), *self.repeats.get(name, ())]
        if len(runs) < 2:
            raise Missing(
                f"Needs a second seed of {name}, which is not here: set "
                + (f"the parameter {parameter} to True, or " if parameter else "")
                + "the override seeds to 3, and run this notebook again."
            )
        return runs

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
                raise Missing(_not_taken(self.measures, keys))
            value = value[key]
        return np.asarray(value, dtype=np.float64)

    def images(self, *paths: tuple[str, ...], least: int = MIN_IMAGES) -> list[np.ndarray]:
        """Return extra measures of the same images, of those on which none is NaN, as a blank map's are."""
        arrays = [self.measure(*path) for path in paths]
        if len({len(array) for array in arrays}) > 1:
            raise Missing(f"Needs measures of the same images: {' and '.join('/'.join(path) for path in paths)}.")
        known = np.isfinite(arrays).all(axis=0)
        if known.sum() < least:
            blank = "" if known.all() else " whose maps are not blank"
            raise Missing(f"Needs at least {least} images{blank}, and there are {known.sum()}.")
        return [array[known] for array in arrays]


def _trained_by(name: str) -> str:
    """Where a recipe is trained, in words."""
    for level, names in recipes.LEVELS.items():
        if name in names:
            return f"level {level[-1]}'s notebook"
    level, parameter = next(
        (level, parameter)
        for level, asked in recipes.ASKED_FOR.items()
        for parameter, arms in asked.items()
        if name in arms
    )
    return f"level {level[-1]}'s notebook (parameter {parameter})"


Holds = bool | None
Verdict = tuple[str, Holds]
Judge = Callable[[Evidence], Verdict]


# ----------------------------------------------------------------------------------- verdicts under uncertainty

ABOVE_0 = "95 % bootstrap interval wholly above 0; not measurable where it contains 0."
BELOW_0 = "95 % bootstrap interval wholly below 0; not measurable where it contains 0."
CONTAINS_0 = "The interval contains 0: these images cannot tell."
ONE_CONTAINS_0 = "One interval contains 0: these images cannot tell."
OWN_SETTING = "this run's own setting, not the document's"
NOT_SIGNIFICANT = "p is not below 0.05: these images cannot tell."
ONE_NOT_SIGNIFICANT = "One p is not below 0.05: these images cannot tell."


def contains(limit: str) -> str:
    """Say that the interval contains a limit other than 0, which is named."""
    return f"The interval contains the limit, {limit}: these images cannot tell."


def one_contains(limit: str) -> str:
    """Say that one of several intervals contains its limit, which is named."""
    return f"One interval contains its limit, {limit}: these images cannot tell."


def above(estimate: Estimate, limit: float = 0.0) -> Holds:
    """Whether the interval lies above the limit (True) or below it (False); None where it contains it."""
    if estimate.low > limit:
        return True
    return False if estimate.high < limit else None


def below(estimate: Estimate, limit: float = 0.0) -> Holds:
    """Whether the interval lies below the limit (True) or above it (False); None where it contains it."""
    if estimate.high < limit:
        return True
    return False if estimate.low > limit else None


def alike(estimate: Estimate) -> Holds:
    """Whether a difference in accuracy lies within a point either way (True) or beyond (False)."""
    return all_hold(above(estimate, -ALIKE), below(estimate, ALIKE))


def more_often(test: evaluation.McNemar) -> Holds:
    """Whether the first has the mark more often than the second (True) or less (False), beyond chance."""
    return test.b > test.c if test.p < ALPHA else None


def all_hold(*parts: Holds) -> Holds:
    """Several parts of one claim: one that does not hold refutes it, one that is open leaves it open."""
    if any(part is False for part in parts):
        return False
    return None if any(part is None for part in parts) else True


def decided(text: str, *parts: Holds, unclear: str = CONTAINS_0) -> Verdict:
    """Conclude from the parts of a claim; where they leave it open the evidence ends by saying so."""
    holds = all_hold(*parts)
    return (f"{text} {unclear}" if holds is None else text), holds


def mean_over(values: np.ndarray, confidence: float = 0.95) -> Estimate:
    """Mean over images [N] with its bootstrap interval; of fewer than 30 images, nothing is concluded."""
    if len(values) < MIN_IMAGES:
        raise Missing(f"Needs at least {MIN_IMAGES} images, and there are {len(values)}.")
    return evaluation.mean_interval(values, confidence=confidence)


def wilson(k: int, n: int) -> Estimate:
    """A share of n images with its 95 % Wilson interval."""
    return Estimate(k / n, *evaluation.wilson_interval(k, n))


# ----------------------------------------------------------------------------------- numbers, and their words


def percent(fraction: float, digits: int = 2) -> str:
    """A fraction as a percentage, to two decimals unless more are asked for."""
    return f"{100 * fraction:.{digits}f} %"


def p_words(p: float) -> str:
    """A p-value as text."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def at_epochs(epochs: list[int]) -> str:
    """Name epochs: "at no epoch", "at epoch 3", "at epochs 3 and 5"."""
    if not epochs:
        return "at no epoch"
    *first, last = map(str, epochs)
    return f"at epochs {', '.join(first)} and {last}" if first else f"at epoch {last}"


def falling(exceptions: list[int]) -> str:
    """Whether a curve falls at every epoch, given those at which it does not."""
    return f"not falling {at_epochs(exceptions)}" if exceptions else "falling at every epoch"


def at_most(value: float, limit: float) -> bool:
    """Whether value <= limit, forgiving the rounding of a difference of two fractions."""
    return bool(value <= limit + 1e-9)


def points(estimate: Estimate, interval: str = "95 % interval", digits: int = 2) -> str:
    """A difference of fractions in points; `interval` says what kind it has."""
    value, low, high = (f"{100 * part:+z.{digits}f}" for part in estimate)
    return f"{value} points ({interval} {low} to {high})"


def number(estimate: Estimate, digits: int = 3) -> str:
    """A difference with its interval."""
    value, low, high = (f"{part:+z.{digits}f}" for part in estimate)
    return f"{value} (95 % interval {low} to {high})"


# --------------------------------------------------------------------------------------------- judges: accuracy


class Scored(NamedTuple):
    """One model's test predictions."""

    probs: np.ndarray
    labels: np.ndarray
    predicted: np.ndarray
    right: np.ndarray
    confidence: np.ndarray

    @classmethod
    def of(cls, probs: np.ndarray, labels: np.ndarray) -> Scored:
        """Score probabilities [N, C] by labels [N]."""
        predicted = probs.argmax(axis=1)
        return cls(probs, labels, predicted, predicted == labels, probs.max(axis=1))

    @property
    def of_truth(self) -> np.ndarray:
        """The probability of each image's true class."""
        return self.probs[np.arange(len(self.labels)), self.labels]

    @property
    def confident_mistakes(self) -> np.ndarray:
        """Which images are predicted wrong with much confidence."""
        return ~self.right & (self.confidence > CONFIDENT)


def score(evidence: Evidence, name: str) -> Scored:
    """The test predictions of a run, or of "level4"."""
    return Scored.of(*evidence.predictions(name))


class Comparison(NamedTuple):
    """Test accuracy of one model less that of another, as a fraction."""

    text: str
    difference: Estimate
    test: evaluation.McNemar


def compare(evidence: Evidence, a: str, b: str) -> Comparison:
    """Compare two runs, either of which may be "level4"."""
    first, second = score(evidence, a), score(evidence, b)
    difference = evaluation.paired_difference(first.right, second.right)
    test = evaluation.mcnemar_marks(first.right, second.right)
    text = (
        f"{a} {percent(first.right.mean())}, {b} {percent(second.right.mean())}: {points(difference)}, "
        f"{test.b - test.c:+,d} of {len(first.right):,} images, McNemar {p_words(test.p)}."
    )
    return Comparison(text, difference, test)


def better(a: str, *others: str) -> Judge:
    """Judge: a is right on more test images than each of the others, by more than chance."""

    def judge(evidence: Evidence) -> Verdict:
        results = [compare(evidence, a, b) for b in others]
        text = " ".join(result.text for result in results)
        unclear = NOT_SIGNIFICANT if len(results) == 1 else ONE_NOT_SIGNIFICANT
        return decided(text, *(more_often(result.test) for result in results), unclear=unclear)

    return judge


NOT_ADJUSTED = "p < 0.05, not adjusted for other comparisons; not measurable where p is larger."
BETTER = f"The first model in the evidence is right on more test images, exact McNemar {NOT_ADJUSTED}"
BETTER_THAN_BOTH = (
    "It is right on more test images than either member, exact McNemar p < 0.05 each, not adjusted for other "
    "comparisons; not measurable where one p is larger."
)
ELSEWHERE = (
    "The document's figure is comparable only on CIFAR-10 in full with every recipe as the study has it (ImageNet "
    "weights, 224 px), which this is not."
)


def matches(a: str, b: str) -> Judge:
    """Judge: the accuracies of a and b are alike."""

    def judge(evidence: Evidence) -> Verdict:
        result = compare(evidence, a, b)
        return decided(result.text, alike(result.difference), unclear=contains("1 point either way"))

    return judge


MATCHES = (
    "The difference's 95 % interval (Tango's score interval for paired images) lies within one point either way; "
    "not measurable where it crosses that limit: too few images to show that two models are alike."
)


def consistent(estimate: Estimate, stated: float, width: float = NARROW) -> Holds:
    """Whether a documented figure lies in the interval (True) or outside (False); None in one wider than width."""
    if not estimate.low <= stated <= estimate.high:
        return False
    return True if at_most(estimate.high - estimate.low, width) else None


def about_figure(evidence: Evidence, text: str, *parts: Holds) -> Verdict:
    """Conclude about documented figures, in the documents' setting only."""
    if not evidence.documented_setting:
        return f"{text} {ELSEWHERE}", None
    holds = all_hold(*parts)
    words = {True: "That is consistent with the document.", False: "That is not consistent with the document."}
    return f"{text} {TOO_WIDE if holds is None else words[holds]}", holds


TOO_WIDE = "The interval is too wide to speak for the document's figure: these images cannot tell."
CONSISTENT = (
    "contains the stated one (is consistent with it) and is at most 2 points wide; not measurable where wider."
)


def level_accuracy(evidence: Evidence, level: str) -> tuple[str, Holds]:
    """A level's test accuracy, and whether it is consistent with the documented one."""
    right = score(evidence, level).right
    share = wilson(int(right.sum()), len(right))
    text = (
        f"{percent(share.value)} ({right.sum():,} of {len(right):,} test images), 95 % interval "
        f"{percent(share.low)} to {percent(share.high)}."
    )
    stated = documented.LEVELS[level].test_accuracy
    assert stated is not None
    return text, consistent(share, stated)


def stated_accuracy(level: str) -> Judge:
    """Judge: the level's test accuracy is consistent with the documented one."""

    def judge(evidence: Evidence) -> Verdict:
        text, holds = level_accuracy(evidence, level)
        return about_figure(evidence, text, holds)

    return judge


ACCURACY = f"The measured accuracy's 95 % Wilson interval {CONSISTENT}"


def stated_gain(level: str, over: str) -> Judge:
    """Judge: the level's gain is consistent with the documented one."""
    (stated,) = (g.points / 100 for g in documented.GAINS if (g.level, g.over) == (level, over))

    def judge(evidence: Evidence) -> Verdict:
        result = compare(evidence, level, over)
        return about_figure(evidence, result.text, consistent(result.difference, stated))

    return judge


GAIN = f"The measured gain's 95 % interval (Tango's, paired) {CONSISTENT}"


def seeds_agree(name: str) -> Judge:
    """Judge: other seeds give test accuracies like that of the first."""

    def judge(evidence: Evidence) -> Verdict:
        runs = evidence.seeds(name)
        right = [Scored.of(run.predictions["test_probs"], run.predictions["test_labels"]).right for run in runs]
        spread = evaluation.seed_spread([float(each.mean()) for each in right], len(right[0]))
        text = (
            f"Test accuracy under {spread.seeds} seeds: {', '.join(percent(each.mean()) for each in right)}, "
            f"standard deviation {100 * spread.seed_sd:.2f} points between seeds (95 % interval "
            f"{100 * spread.seed_sd_low:.2f} to {100 * spread.seed_sd_high:.2f}); the choice of test images "
            f"leaves {100 * spread.test_sd:.2f}."
        )
        differences = [evaluation.paired_difference(each, right[0]) for each in right[1:]]
        return decided(text, *map(alike, differences), unclear=one_contains("1 point either way"))

    return judge


SEEDS_AGREE = (
    "Under other seeds, test accuracy stays within one point of this run's, 95 % intervals (Tango's, paired) "
    "included; not measurable where one crosses that limit. That one seed gives one result is for the tests."
)

# ------------------------------------------------------------------------------ judges: recipes, and curves


def pretrained(name: str, model: str) -> Judge:
    """Judge: the recipe has that architecture and starts from ImageNet weights."""

    def judge(evidence: Evidence) -> Verdict:
        recipe = evidence.run(name).recipe
        text = f"{recipe.model}, weights {Path(recipe.weights).name}."
        if recipe.model == model and not recipe.weights.startswith("imagenet1k"):
            return f"{text} Weights other than ImageNet's: {OWN_SETTING}.", None
        return text, recipe.model == model

    return judge


PRETRAINED = (
    "The trained recipe has this architecture and torchvision's ImageNet weights. Other weights are the run's own "
    "setting, by which nothing is measured; another architecture refutes it."
)


def configured(level: str) -> Judge:
    """Judge: the run was trained with the values of the document's table; other values are its own setting."""
    stated = documented.LEVELS[level]
    schedules = {"none": "constant", "cosine annealing": "cosine"}

    def judge(evidence: Evidence) -> Verdict:
        r = evidence.run(level).recipe
        pairs: dict[str, tuple[Any, Any]] = {
            "optimizer": (r.optimizer, str(stated.optimizer).lower()),
            "learning rate": (r.learning_rate, stated.learning_rate),
            "weight decay": (r.weight_decay, stated.weight_decay),
            "schedule": (r.schedule, schedules[str(stated.schedule)]),
            "batch size": (r.batch_size, stated.batch_size),
            "epochs": (r.epochs, stated.epochs),
        }
        text = "; ".join(f"{name} {ours}" for name, (ours, _) in pairs.items())
        other = {name: values for name, values in pairs.items() if values[0] != values[1]}
        if not other:
            return f"This run: {text}.", True
        ours, theirs = (", ".join(f"{name} {values[i]}" for name, values in other.items()) for i in (0, 1))
        return f"This run: {text}. The document's: {theirs}. {ours.capitalize()}: {OWN_SETTING}.", None

    return judge


CONFIGURED = (
    "The trained recipe has all these values (the hardware aside). Other values are the run's own setting, by "
    "which nothing is measured."
)


def from_layer4(name: str) -> Judge:
    """Judge: of a ResNet, exactly what lies before layer4 is frozen."""

    def judge(evidence: Evidence) -> Verdict:
        metrics = evidence.run(name).metrics
        frozen = metrics["parameters"] - metrics["trainable_parameters"]
        text = (
            f"{frozen:,} of {metrics['parameters']:,} parameters frozen; a ResNet-50 has {BEFORE_LAYER4:,} before "
            "layer4."
        )
        return text, frozen == BEFORE_LAYER4

    return judge


FROM_LAYER4 = "The frozen parameters are exactly as many as a ResNet-50 has before layer4."


class Curves(NamedTuple):
    """A run's history as arrays `[epochs]`, at least two of them; accuracies as fractions."""

    epochs: np.ndarray
    train_loss: np.ndarray
    val_loss: np.ndarray
    train: np.ndarray
    val: np.ndarray
    last_val: Estimate  # the last validation accuracy with its 95 % interval
    measured_train: float  # after training, in eval mode, without augmentation

    @property
    def half_width(self) -> float:
        """Half the width of the 95 % interval of the last validation accuracy."""
        return (self.last_val.high - self.last_val.low) / 2

    @property
    def too_few(self) -> str:
        """What to say where the validation images are too few to show a small change, "" where they are not."""
        if self.half_width <= MAX_HALF_WIDTH:
            return ""
        return (
            "Too few validation images to see a change this small (95 % interval "
            f"{100 * self.half_width:.2f} points either way): these images cannot tell."
        )

    def where(self, rises: np.ndarray) -> list[int]:
        """Epochs, from the second, at which the mask of steps `[epochs - 1]` is set."""
        return [int(epoch) for epoch in self.epochs[1:][rises]]


def curves(evidence: Evidence, name: str) -> Curves:
    """A run's curves; one epoch makes none."""
    run = evidence.run(name)
    history = run.history
    if len(history) < 2:
        raise Missing(f"Needs at least two epochs, and {name} was trained for {len(history)}.")
    n = len(run.predictions["val_labels"])
    return Curves(
        epochs=history["epoch"].to_numpy(),
        train_loss=history["train_loss"].to_numpy(),
        val_loss=history["val_loss"].to_numpy(),
        train=history["train_accuracy"].to_numpy(),
        val=history["val_accuracy"].to_numpy(),
        last_val=wilson(round(float(history["val_accuracy"].iloc[-1]) * n), n),
        measured_train=run.metrics["train_accuracy"],
    )


def last_epoch(level: str, name: str) -> Judge:
    """Judge: the last epoch's accuracies are consistent with the documented ones."""
    (_, train), (_, val) = documented.LEVELS[level].train_accuracy[-1], documented.LEVELS[level].val_accuracy[-1]

    def judge(evidence: Evidence) -> Verdict:
        c = curves(evidence, name)
        text = (
            f"{percent(c.train[-1])} in training ({percent(train)} stated), {percent(c.val[-1])} in "
            f"validation, 95 % interval {percent(c.last_val.low)} to {percent(c.last_val.high)}."
        )
        near = at_most(abs(c.train[-1] - train), ALIKE)
        return about_figure(evidence, text, near, consistent(c.last_val, val))

    return judge


LAST_EPOCH = (
    "At the last epoch, running training accuracy is within 1 point of the stated one, and validation "
    f"accuracy's 95 % Wilson interval {CONSISTENT}"
)


def smooth(name: str) -> Judge:
    """Judge: the training loss falls at every epoch, the validation accuracy never by more than its noise."""

    def judge(evidence: Evidence) -> Verdict:
        c = curves(evidence, name)
        rises = c.where(np.diff(c.train_loss) >= 0)
        drops = c.where(np.diff(c.val) < -c.half_width)
        text = (
            f"Training loss {c.train_loss[0]:.4f} to {c.train_loss[-1]:.4f}, {falling(rises)}; "
            f"validation accuracy {percent(c.val[0])} to {percent(c.val[-1])}, falling by more than "
            f"{100 * c.half_width:.2f} points {at_epochs(drops)}."
        )
        return decided(text, not rises, not drops, None if c.too_few else True, unclear=c.too_few)

    return judge


TOO_FEW = "not measurable where that half-width is above 2 points: too few validation images."
SMOOTH = (
    "Training loss falls at every epoch, and validation accuracy never falls by more than the half-width of "
    f"its 95 % interval; {TOO_FEW}"
)


def no_overfitting(name: str) -> Judge:
    """Judge: the validation loss has not turned upwards."""

    def judge(evidence: Evidence) -> Verdict:
        c = curves(evidence, name)
        text = (
            f"Validation loss ends at {c.val_loss[-1]:.4f}, lowest {c.val_loss.min():.4f} "
            f"{at_epochs([int(c.epochs[c.val_loss.argmin()])])}. After training, the training images without "
            f"augmentation are {percent(c.measured_train)} right, validation {percent(c.val[-1])}."
        )
        return text, c.val_loss[-1] <= 1.02 * c.val_loss.min()

    return judge


NO_OVERFITTING = "The last validation loss is at most 2 % above the lowest: judged by the loss alone."


def no_divergence(name: str) -> Judge:
    """Judge: no loss is ever above the first epoch's."""

    def judge(evidence: Evidence) -> Verdict:
        c = curves(evidence, name)
        worst = [float(np.max(series[1:])) for series in (c.train_loss, c.val_loss)]
        text = (
            f"Training loss {c.train_loss[0]:.4f} at the first epoch, later at most {worst[0]:.4f}; validation "
            f"loss {c.val_loss[0]:.4f}, later at most {worst[1]:.4f}."
        )
        return text, worst[0] <= c.train_loss[0] and worst[1] <= c.val_loss[0]

    return judge


NO_DIVERGENCE = "No epoch's training or validation loss is above the first epoch's."


def gap_within(name: str) -> Judge:
    """Judge: training accuracy, running and measured, ends less than 5 points above validation accuracy."""

    def judge(evidence: Evidence) -> Verdict:
        c = curves(evidence, name)
        val = c.val[-1], c.last_val.high, c.last_val.low
        running, measured = (
            Estimate(*(train - part for part in val)) for train in (c.train[-1], c.measured_train)
        )
        text = (
            f"Last epoch: training {percent(c.train[-1])}, validation {percent(c.val[-1])}, a gap of "
            f"{points(running)}; with training accuracy measured after training, without augmentation, "
            f"{points(measured)}."
        )
        return decided(text, below(running, 0.05), below(measured, 0.05), unclear=one_contains("5 points"))

    return judge


def gap_rule(stated: str) -> str:
    """The rule of `gap_within`, with the gap that the document has."""
    return (
        f"Training accuracy ends less than 5 points above validation accuracy (the document's: {stated}), both as "
        "it runs during the epoch and as measured afterwards, by the Wilson interval of validation accuracy; not "
        "measurable where a gap's contains 5."
    )


def gap_difference(evidence: Evidence, a: str, b: str) -> tuple[str, Estimate, Estimate]:
    """The gap from validation up to training accuracy, a's less b's; then validation accuracy, likewise.

    Both are measured after training. Only the validation images are a sample of others; the training images are
    those trained on, all of them.
    """
    train = [float(evidence.run(name).metrics["train_accuracy"]) for name in (a, b)]
    right = [Scored.of(*evidence.predictions(name, "val")).right for name in (a, b)]
    gaps = [t - r.mean() for t, r in zip(train, right, strict=True)]
    val = evaluation.paired_difference(right[0], right[1])
    difference = Estimate(*(train[0] - train[1] - part for part in (val.value, val.high, val.low)))
    text = f"{a} {100 * gaps[0]:+.2f} points, {b} {100 * gaps[1]:+.2f}: {points(difference)}."
    return text, difference, val


def narrower_gap(a: str, b: str) -> Judge:
    """Judge: a's training accuracy is less far above its validation accuracy than b's, without fitting less."""

    def judge(evidence: Evidence) -> Verdict:
        text, difference, val = gap_difference(evidence, a, b)
        text += f" Validation accuracy of {a} less {b}: {points(val)}."
        if below(difference) and below(val):
            return f"{text} It fits less, in validation too: the gap alone cannot tell.", None
        return decided(text, below(difference))

    return judge


def narrower_rule(gap: str) -> str:
    """The rule of `narrower_gap`, of which gap in words."""
    return (
        "The gap from validation up to training accuracy, measured after training without augmentation, is "
        f"smaller {gap}: 95 % interval wholly below 0; not measurable where it contains 0, or where validation "
        "accuracy is lower as well."
    )


def wider_gap(a: str, b: str) -> Judge:
    """Judge: a's training accuracy is further above its validation accuracy than b's."""

    def judge(evidence: Evidence) -> Verdict:
        text, difference, _ = gap_difference(evidence, a, b)
        return decided(text, above(difference))

    return judge


DEEPER = (
    "The gap from validation up to training accuracy, measured after training, is larger with layer4 trained "
    "(level2) than with the classifier alone (level2_frozen): 95 % interval over the validation images wholly "
    "above 0; not measurable where it contains 0."
)

# ------------------------------------------------------------------------- judges: classes, images and maps


def class_names(evidence: Evidence, name: str, *needed: str) -> list[str]:
    """A run's class names, all of those `needed` among them."""
    names = list(evidence.run(MEMBERS[0] if name == "level4" else name).classes)
    if unknown := [c for c in needed if c not in names]:
        raise Missing(f"Needs CIFAR-10's classes: these images have no {', '.join(unknown)}.")
    return names


def class_recalls(evidence: Evidence, name: str, *needed: str) -> dict[str, tuple[int, int]]:
    """Of every class that has test images, how many are predicted right and how many there are, lowest first."""
    names = class_names(evidence, name, *needed)
    scored = score(evidence, name)
    found = {}
    for i, c in enumerate(names):
        of_class = scored.right[scored.labels == i]
        if len(of_class):
            found[c] = (int(of_class.sum()), len(of_class))
    if unseen := [c for c in needed if c not in found]:
        raise Missing(f"Needs test images of {', '.join(unseen)}.")
    return dict(sorted(found.items(), key=lambda item: item[1][0] / item[1][1]))


def first_of(recalls: Mapping[str, tuple[int, int]], k: int) -> str:
    """The first k classes with their recall."""
    return ", ".join(f"{name} {percent(right / n)}" for name, (right, n) in list(recalls.items())[:k])


def confused_images(evidence: Evidence, name: str, first: str, second: str) -> np.ndarray:
    """Which test images of either class are taken for the other."""
    names = class_names(evidence, name, first, second)
    i, j = names.index(first), names.index(second)
    scored = score(evidence, name)
    taken = [(scored.labels == true) & (scored.predicted == other) for true, other in ((i, j), (j, i))]
    return taken[0] | taken[1]


def among_animals(name: str) -> Judge:
    """Judge: most errors take one animal for another."""

    def judge(evidence: Evidence) -> Verdict:
        names = class_names(evidence, name, *ANIMALS)
        counts = evaluation.confusion(*evidence.predictions(name))
        errors = counts - np.diag(np.diag(counts))
        at = [names.index(animal) for animal in ANIMALS]
        among, total = int(errors[np.ix_(at, at)].sum()), int(errors.sum())
        if not total:
            raise Missing("Needs errors, and there are none.")
        share = wilson(among, total)
        text = (
            f"{among:,} of {total:,} errors take one animal for another: 95 % interval {percent(share.low)} to "
            f"{percent(share.high)}."
        )
        return decided(text, above(share, 0.5), unclear=contains("50 %"))

    return judge


AMONG_ANIMALS = (
    "More than half of the errors take one of the six animals for another: 95 % Wilson interval wholly above one "
    "half; not measurable where it contains it."
)


def harder(
    evidence: Evidence,
    name: str,
    attribute: str,
    sign: int,
    pairs: Sequence[tuple[str, str]] = (),
) -> tuple[str, Holds]:
    """Whether images with a large (sign 1) or small (sign -1) attribute are more often wrong than the rest.

    The large are a third of the images, or as near to a third as ties allow. With `pairs` of classes, only images
    of these classes count, and only taking one of a pair for the other is wrong.
    """
    values = sign * evidence.measure("attributes", attribute)
    scored, word = score(evidence, name), "wrong"
    wrong = ~scored.right
    if pairs:
        wrong = np.any([confused_images(evidence, name, *pair) for pair in pairs], axis=0)
        known = class_names(evidence, name)
        among = np.isin(scored.labels, [known.index(each) for pair in pairs for each in pair])
        values, wrong, word = values[among], wrong[among], "confused"
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) < 2:
        raise Missing(f"Needs images that differ in {attribute}.")
    share_above = 1 - counts.cumsum()[:-1] / len(values)
    hard = values > distinct[np.abs(share_above - 1 / 3).argmin()]
    outcomes = [[int((wrong & part).sum()), int((~wrong & part).sum())] for part in (hard, ~hard)]
    p = float(fisher_exact(outcomes).pvalue)
    rates = [errors / (errors + others) for errors, others in outcomes]
    which = "largest" if sign > 0 else "smallest"
    untied = "" if abs(hard.mean() - 1 / 3) < 0.02 else " (ties allow no third)"
    text = (
        f"The {hard.sum():,} images of {which} {attribute.replace('_', ' ')}{untied}: {percent(rates[0])} {word}, "
        f"the rest {percent(rates[1])}, Fisher's exact {p_words(p)}."
    )
    return text, rates[0] > rates[1] if p < ALPHA else None


def all_harder(name: str, *attributes: tuple[str, int], pairs: Sequence[tuple[str, str]] = ()) -> Judge:
    """Judge: errors, or confusions within pairs of classes, are more frequent on every attribute's hard side."""

    def judge(evidence: Evidence) -> Verdict:
        results = [harder(evidence, name, attribute, sign, pairs) for attribute, sign in attributes]
        text = " ".join(text for text, _ in results)
        unclear = NOT_SIGNIFICANT if len(results) == 1 else ONE_NOT_SIGNIFICANT
        return decided(text, *(holds for _, holds in results), unclear=unclear)

    return judge


SMALL, CLUTTERED, OCCLUDED = ("object_size", -1), ("clutter", 1), ("occlusion", 1)


def harder_rule(what: str) -> str:
    """The rule of `all_harder` for the documents' confused pairs, with the hard third in words."""
    return (
        "Cats and dogs, and birds and cats, are taken for one another more often in the third of these images "
        f"with {what} (as near as ties allow) than in the rest, Fisher's exact p < 0.05; not measurable where p "
        "is larger."
    )


def robust(name: str, *others: str) -> Judge:
    """Judge: altered light and colour cost one model less accuracy than each other, and it stays as accurate."""

    def judge(evidence: Evidence) -> Verdict:
        results = [_withstands(evidence, name, other) for other in others]
        text = " ".join(text for text, _ in results)
        return decided(text, *(holds for _, holds in results), unclear=ONE_CONTAINS_0)

    return judge


def _withstands(evidence: Evidence, name: str, other: str) -> tuple[str, Holds]:
    """Whether one model loses less to shifts than another, and is no less accurate on the shifted images."""
    for member in (member for model in (name, other) for member in recipes.members(model)):
        evidence.run(member)  # if it is missing, what trains it is said
    paths = [("robustness", model, shift) for model in (name, other) for shift in ("none", *robustness.COLOUR)]
    ours, theirs = np.split(np.array(evidence.images(*paths)), 2)  # [1 + shifts, M] each
    lost = [right[0] - right[1:] for right in (ours, theirs)]
    more_lost = mean_over((lost[0] - lost[1]).mean(axis=0))
    ahead = mean_over((ours[1:] - theirs[1:]).mean(axis=0))
    text = (
        f"{name} less {other} on {ours.shape[1]:,} shifted images: lost {points(more_lost)}, accuracy there "
        f"{points(ahead)}."
    )
    return text, False if below(ahead) else below(more_lost)


def robust_rule(than: str) -> str:
    """The rule of `robust`, against the models named in words."""
    *first, last = robustness.COLOUR
    return (
        f"Shifts of {', '.join(first)} and {last} together cost it less accuracy than {than}: {BELOW_0} Less "
        "accuracy on the shifted images (likewise) refutes it."
    )


def cam_measures(evidence: Evidence, *keys: tuple[str, str], least: int = MIN_IMAGES) -> list[np.ndarray]:
    """Grad-CAM measures by run and name, of the images on which no map is blank."""
    return evidence.images(*(("cams", *key) for key in keys), least=least)


def cam_difference(evidence: Evidence, measure: str, *, least: int = MIN_IMAGES) -> tuple[str, Estimate]:
    """A Grad-CAM measure at level 3 less the same at level 2, on the same images."""
    third, second = cam_measures(evidence, ("level3", measure), ("level2", measure), least=least)
    difference = evaluation.mean_interval(third - second)
    text = (
        f"Mean {'ROAD' if measure == 'road' else measure} {third.mean():.4f}, at level 2 "
        f"{second.mean():.4f}: difference {number(difference, 4)} on {len(third):,} images."
    )
    return text, difference


def too_coarse(evidence: Evidence, *names: str) -> str:
    """What to say where a run's maps have too few cells to tell where it looks, "" where they have enough."""
    side = int(min(evidence.measure("cams", name, "map_size") for name in names))
    return "" if side >= MIN_MAP_SIZE else f"The maps have {side} x {side} cells, too few to tell."


MAPS = f"(maps of at least {MIN_MAP_SIZE} cells a side)"


def also(evidence: Evidence, *measures: str) -> str:
    """The same comparison by other measures of the maps, where they were taken: told, no part of the rule."""
    told = ""
    for measure in measures:
        with contextlib.suppress(Missing):
            told += f" {cam_difference(evidence, measure, least=1)[0]}"
    return told


UNJUDGEABLE = "A judgement, not a quantity."
