"""Every claim the four documents make, the rule that judges it, and the evidence the runs give.

A notebook ends with `table(level, evidence)`. The claims stand here in the order of the documents, each with the
function that judges it; `judging` has the evidence, the policy of the verdicts and the judges that claims share.
The thresholds in the rules are ours where the documents state none.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from cifarlib import documented, evaluation, recipes
from cifarlib.evaluation import Estimate
from cifarlib.judging import (
    ABOVE_0,
    ACCURACY,
    ALIKE,
    ALPHA,
    AMONG_ANIMALS,
    ANIMALS,
    BELOW_0,
    BETTER,
    BETTER_THAN_BOTH,
    CLUTTERED,
    CONFIDENT,
    CONFIGURED,
    CONTAINS_0,
    DEEPER,
    FROM_LAYER4,
    GAIN,
    LAST_EPOCH,
    MAPS,
    MATCHES,
    MEMBERS,
    MIN_IMAGES,
    NO_DIVERGENCE,
    NO_OVERFITTING,
    NOT_ADJUSTED,
    NOT_SIGNIFICANT,
    OCCLUDED,
    ONE_CONTAINS_0,
    ONE_NOT_SIGNIFICANT,
    OWN_SETTING,
    PRETRAINED,
    SEEDS_AGREE,
    SMALL,
    SMOOTH,
    TOO_FEW,
    UNJUDGEABLE,
    VEHICLES,
    VERDICTS,
    Evidence,
    Judge,
    Missing,
    Scored,
    Verdict,
    about_figure,
    above,
    all_harder,
    also,
    among_animals,
    at_epochs,
    at_most,
    below,
    better,
    cam_difference,
    cam_measures,
    class_names,
    class_recalls,
    compare,
    configured,
    confused_images,
    consistent,
    contains,
    curves,
    decided,
    falling,
    first_of,
    from_layer4,
    gap_rule,
    gap_within,
    harder_rule,
    last_epoch,
    level_accuracy,
    matches,
    mean_over,
    more_often,
    narrower_gap,
    narrower_rule,
    no_divergence,
    no_overfitting,
    number,
    one_contains,
    p_words,
    percent,
    points,
    pretrained,
    robust,
    robust_rule,
    score,
    seeds_agree,
    smooth,
    stated_accuracy,
    stated_gain,
    too_coarse,
    wider_gap,
    wilson,
)


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
    return [_row(claim, evidence) for claim in CLAIMS if claim.level == level]


def _row(claim: Claim, evidence: Evidence) -> dict[str, str]:
    try:
        text, holds = claim.judge(evidence)
    except Missing as missing:
        text, holds = str(missing), None
    if claim.note:
        text += f" The documents themselves: {claim.note}"
    return {
        "claim": claim.text,
        "section": claim.section,
        "evidence": text,
        "verdict": VERDICTS[2 if holds is None else 0 if holds else 1],
        "rule": claim.rule,
    }


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


# ---------------------------------------------------------------------------------------- the claims: level 1

_not_judged(
    "level1",
    1,
    "CIFAR-10 has 60,000 colour images of 32 x 32 pixels in ten categories.",
    "A fact about the data set, which the checksum of its archive settles.",
)
_not_judged("level1", 1, "It is a strong baseline.", "The document states no threshold for strong.")


@_claim(
    "level1",
    2,
    "The images are split 80 % / 10 % / 10 % into training, validation and test.",
    "Each part's share of all images is within half a point of the stated one. Sizes that are neither so nor the "
    "document's are the run's own setting, by which nothing is measured.",
    note=_found("level1", 2, "split"),
)
def _split(evidence: Evidence) -> Verdict:
    total = sum(evidence.split_sizes)
    shares = [size / total for size in evidence.split_sizes]
    sizes = " / ".join(f"{size:,}" for size in evidence.split_sizes)
    text = f"{sizes} of {total:,} images is {' / '.join(f'{100 * share:.1f} %' for share in shares)}."
    stated, images = documented.SPLIT["stated"].values(), tuple(documented.SPLIT["images"].values())
    as_stated = all(at_most(abs(share - s), 0.005) for share, s in zip(shares, stated, strict=True))
    if evidence.split_sizes != images and not (as_stated and evidence.split_sizes[2] == images[2]):
        return f"{text} These sizes: {OWN_SETTING}.", None
    return text, as_stated


_not_judged(
    "level1",
    2,
    "The split is fair: the official test set stays the test set.",
    "A property of the code, not of a run's numbers: training is given no test images, and the tests check "
    "the split.",
)


@_claim(
    "level1",
    3,
    "Pretrained ImageNet models expect larger inputs.",
    "Level 1, with ImageNet's weights and larger images, is right on more test images than the same training on "
    f"images of 32 pixels (level1_32px), exact McNemar {NOT_ADJUSTED}",
)
def _larger_inputs(evidence: Evidence) -> Verdict:
    size = evidence.run("level1").recipe.image_size
    if size <= evidence.run("level1_32px").recipe.image_size:
        return f"Level 1 itself has images of {size} pixels: {OWN_SETTING}.", None
    text, holds = better("level1", "level1_32px")(evidence)
    if not evidence.run("level1").recipe.weights.startswith("imagenet1k"):
        return f"{text} Weights other than ImageNet's: {OWN_SETTING}.", None
    return text, holds


@_claim(
    "level1",
    3,
    "Images are resized to 224 x 224 pixels and normalised with ImageNet's mean and standard deviation.",
    "The trained recipe's image size is 224 (every recipe normalises so). Another size is the run's own "
    "setting, by which nothing is measured.",
)
def _resized(evidence: Evidence) -> Verdict:
    size = evidence.run("level1").recipe.image_size
    text = f"Resized to {size} x {size} pixels"
    return (f"{text}.", True) if size == documented.DATASET["image_size"] else (f"{text}: {OWN_SETTING}.", None)


@_claim("level1", 3, "No data augmentation is applied at this level.", "The trained recipe has augmentation off.")
def _no_augmentation(evidence: Evidence) -> Verdict:
    recipe = evidence.run("level1").recipe
    return f"Augmentation {'on' if recipe.augment else 'off'}.", not recipe.augment


_claim("level1", 4, "The base model is ResNet-50, pretrained on ImageNet.", PRETRAINED)(
    pretrained("level1", "resnet50")
)


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


_claim("level1", 5, "Training takes Adam at 1e-3, batches of 64 and 5 epochs.", CONFIGURED)(configured("level1"))
_claim("level1", 6, "Accuracy ends at 81.06 % in training and 82.23 % in validation.", LAST_EPOCH)(
    last_epoch("level1", "level1")
)


@_claim(
    "level1",
    6,
    "Accuracy improves steadily across epochs.",
    "Neither training nor validation accuracy ever falls from one epoch to the next.",
    note=_found("level1", 6, "steadily"),
)
def _steady(evidence: Evidence) -> Verdict:
    c = curves(evidence, "level1")
    falls = [c.where(np.diff(series) < 0) for series in (c.train, c.val)]
    return f"Training accuracy falls {at_epochs(falls[0])}, validation accuracy {at_epochs(falls[1])}.", not any(
        falls
    )


@_claim(
    "level1",
    6,
    "Validation accuracy is consistently higher than training accuracy.",
    "It is higher at every epoch, training accuracy being the running one of the epoch.",
    note=_found("level1", 6, "consistently"),
)
def _validation_above_training(evidence: Evidence) -> Verdict:
    c = curves(evidence, "level1")
    higher = int((c.val > c.train).sum())
    text = (
        f"Higher at {higher} of {len(c.val)} epochs. Measured after training, the training images are "
        f"{percent(c.measured_train)} right, validation {percent(c.val[-1])}."
    )
    return text, higher == len(c.val)


_claim("level1", 6, "There is no overfitting.", NO_OVERFITTING)(no_overfitting("level1"))


@_claim(
    "level1",
    6,
    "Training converges within five epochs.",
    "There are at most five epochs, and the last changes validation accuracy by less than the half-width of "
    f"its 95 % interval; {TOO_FEW}",
)
def _converged(evidence: Evidence) -> Verdict:
    c = curves(evidence, "level1")
    change = c.val[-1] - c.val[-2]
    text = (
        f"Epoch {c.epochs[-1]} changes validation accuracy by {100 * change:+.2f} points; the half-width is "
        f"{100 * c.half_width:.2f}."
    )
    still = bool(abs(change) < c.half_width)
    return decided(text, len(c.val) <= 5, still, None if c.too_few else True, unclear=c.too_few)


@_claim(
    "level1",
    7,
    "Training and validation loss both fall smoothly.",
    "Both losses fall at every epoch.",
)
def _both_losses_fall(evidence: Evidence) -> Verdict:
    c = curves(evidence, "level1")
    rises = [c.where(np.diff(series) >= 0) for series in (c.train_loss, c.val_loss)]
    text = (
        f"Training loss {c.train_loss[0]:.4f} to {c.train_loss[-1]:.4f}, {falling(rises[0])}; "
        f"validation loss {c.val_loss[0]:.4f} to {c.val_loss[-1]:.4f}, {falling(rises[1])}."
    )
    return text, not any(rises)


@_claim(
    "level1",
    7,
    "The accuracy curve shows generalisation improving consistently.",
    "Validation accuracy never falls and ends above its first value by more than the half-width of its 95 % "
    "interval.",
    note="validation accuracy falls at epoch 3 (section 6).",
)
def _generalisation_improves(evidence: Evidence) -> Verdict:
    c = curves(evidence, "level1")
    falls = c.where(np.diff(c.val) < 0)
    text = f"Validation accuracy {percent(c.val[0])} to {percent(c.val[-1])}, falling {at_epochs(falls)}."
    return text, not falls and c.val[-1] - c.val[0] > c.half_width


_claim("level1", 7, "The plots confirm stable and correct training.", NO_DIVERGENCE)(no_divergence("level1"))


@_claim("level1", 8, "Test accuracy is 82.06 %.", ACCURACY)
def _baseline_accuracy(evidence: Evidence) -> Verdict:
    text, holds = level_accuracy(evidence, "level1")
    if "level1_batchnorm" in evidence.runs:  # the arm that tests one explanation of the documents' figure
        arm, ours = (score(evidence, name).right for name in ("level1_batchnorm", "level1"))
        text += (
            f" With BatchNorm left in training mode (level1_batchnorm) {percent(arm.mean())}, "
            f"{points(evaluation.paired_difference(arm, ours))}"
        )
        if evidence.documented_setting:
            stated = documented.LEVEL1.test_accuracy
            assert stated is not None
            nearer = abs(arm.mean() - stated) < abs(ours.mean() - stated)
            text += f", {'nearer to' if nearer else 'no nearer to'} the stated {percent(stated)}"
        text += "."
    return about_figure(evidence, text, holds)


_not_judged(
    "level1",
    8,
    "The performance is reasonable for a strict baseline.",
    "The document states no threshold for reasonable.",
)


@_claim(
    "level1",
    8,
    "Neither augmentation nor deep fine-tuning is applied.",
    "The trained recipe has augmentation off and trains the classifier alone.",
)
def _strict_baseline(evidence: Evidence) -> Verdict:
    recipe = evidence.run("level1").recipe
    text = f"Augmentation {'on' if recipe.augment else 'off'}, trains {recipe.trainable}."
    return text, not recipe.augment and recipe.trainable == "head"


_not_judged(
    "level1",
    8,
    "It is a solid foundation for Level 2 onwards.",
    f"{UNJUDGEABLE} What the later levels gain is judged in theirs.",
)
_not_judged(
    "level1",
    9,
    "Resizing such small images introduces interpolation artifacts that limit accuracy.",
    "Section 3 compares with images that are not resized; of those that are, there are no sharper ones to compare "
    "with.",
)
_claim("level1", 9, "Having no augmentation limits generalisation.", BETTER)(
    better("level2_frozen", "level2_noaug_frozen")
)
_claim("level1", 9, "The fully frozen backbone limits adaptation to the dataset.", BETTER)(
    better("level2_noaug", "level2_noaug_frozen")
)


@_claim(
    "level1",
    9,
    "Level 2 and above address these limitations: interpolation, no augmentation, frozen backbone.",
    "Level 2's recipe differs from level 1's in each: image size or interpolation, augmentation, trained layers.",
    note=_found("level1", 9, "limitations"),
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
    "Dataset handling and transfer learning are correct, and the pipeline is clean.",
    "A property of code, not of a run's numbers; of this library's the tests check it.",
)
_claim("level1", 10, "The results are reproducible.", SEEDS_AGREE)(seeds_agree("level1"))
_not_judged("level1", 10, "The results are interpretable.", UNJUDGEABLE)
_not_judged(
    "level1",
    10,
    "The baseline satisfies the requirements of Level 1.",
    "The document does not state the requirements.",
)
_claim("level1", 10, "It is a stable reference point for the next levels.", SEEDS_AGREE)(seeds_agree("level1"))

# ---------------------------------------------------------------------------------------- the claims: level 2

_STRONG = "The document gives no scale for strong, and no strength of any of its transforms."

_claim("level2", 1, "Level 2 improves significantly on the baseline.", BETTER)(better("level2", "level1"))


@_claim(
    "level2",
    2,
    "Against level 1 it adds augmentation, partial fine-tuning, AdamW, a cosine schedule and weight decay.",
    "The two trained recipes differ so in all five rows of the table. Another optimizer, schedule or weight decay "
    "is the run's own setting, by which nothing is measured.",
    note="the table leaves out the learning rate (1e-3, then 3e-4) and the epochs (5, then 10), which change too.",
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
    text = f"Level 1: {words[0]}. Level 2: {words[1]}."
    if any(row[:2] != stated[:2] for row, stated in zip(rows, expected, strict=True)):
        return text, False
    return (text, True) if rows == expected else (f"{text} Of the optimisation: {OWN_SETTING}.", None)


_not_judged("level2", 2, "The data augmentation is strong.", _STRONG)
_claim("level2", 3, "Augmentation improves generalisation.", BETTER)(better("level2", "level2_noaug"))
_claim(
    "level2",
    3,
    "Augmentation improves robustness, by simulating real-world variance.",
    f"{robust_rule('without augmentation')} Photographs from elsewhere are not tried.",
)(robust("level2", "level2_noaug"))
_not_judged("level2", 3, "The augmentation of the training images is strong.", _STRONG)
_not_judged(
    "level2",
    3,
    "Augmentation is applied to the training images only; validation and test images stay unaltered.",
    "A property of the code, not of a run's numbers, which the tests check.",
    note=_found("level2", 3, "normalization"),
)


@_claim(
    "level2",
    3,
    "The training images are cropped with padding, flipped and colour-jittered at random.",
    "The trained recipe's augmentation is on, with each of these above zero.",
)
def _augmentations(evidence: Evidence) -> Verdict:
    r = evidence.run("level2").recipe
    text = (
        f"Augmentation {'on' if r.augment else 'off'}: padding {r.crop_padding} px, flip "
        f"{'on' if r.flip else 'off'}, brightness {r.brightness}, contrast {r.contrast}, saturation "
        f"{r.saturation}, hue {r.hue}."
    )
    return text, all((r.augment, r.crop_padding, r.flip, r.brightness, r.contrast, r.saturation, r.hue))


_claim(
    "level2",
    3,
    "Augmentation reduces overfitting to the training data.",
    narrower_rule("with augmentation than without (level2_noaug)"),
)(narrower_gap("level2", "level2_noaug"))
_claim("level2", 4, "The base model is ResNet-50, pretrained on ImageNet.", PRETRAINED)(
    pretrained("level2", "resnet50")
)
_claim("level2", 4, "Early layers are frozen; layer4 and the classifier are trained.", FROM_LAYER4)(
    from_layer4("level2")
)
_claim("level2", 4, "Unfreezing layer4 lets the network learn features specific to the dataset.", BETTER)(
    better("level2", "level2_frozen")
)
_not_judged(
    "level2",
    4,
    "Freezing the early layers retains strong pretrained representations.",
    "That they are retained is a matter of code, which the tests check; how strong they are is not measured.",
)
_claim(
    "level2",
    5,
    "Training takes AdamW at 3e-4, weight decay 1e-4, a cosine schedule, batches of 64 and 10 epochs.",
    CONFIGURED,
)(configured("level2"))
_claim("level2", 6, "Accuracy ends at 98.76 % in training and 94.34 % in validation.", LAST_EPOCH)(
    last_epoch("level2", "level2")
)


@_claim(
    "level2",
    6,
    "Convergence is rapid, within the early epochs.",
    "After the first third of the epochs (rounded up), validation accuracy is at least 95 % of its last value.",
)
def _rapid(evidence: Evidence) -> Verdict:
    c = curves(evidence, "level2")
    early = -(-len(c.val) // 3)
    share = c.val[early - 1] / c.val[-1]
    reached = percent(c.val[early - 1])
    text = f"Epoch {early} of {len(c.val)}: {reached}, {100 * share:.1f} % of the last epoch's."
    return text, share >= 0.95


_claim(
    "level2",
    6,
    "The gap between training and validation accuracy is slight towards the last epochs.",
    gap_rule("4.42"),
)(gap_within("level2"))
_claim("level2", 6, "Such a gap is to be expected with strong fine-tuning.", DEEPER)(
    wider_gap("level2", "level2_frozen")
)
_claim("level2", 6, "There is no instability or divergence.", NO_DIVERGENCE)(no_divergence("level2"))


@_claim("level2", 7, "Training loss decreases monotonically.", "Training loss falls at every epoch.")
def _monotone(evidence: Evidence) -> Verdict:
    c = curves(evidence, "level2")
    rises = c.where(np.diff(c.train_loss) >= 0)
    return f"{c.train_loss[0]:.4f} to {c.train_loss[-1]:.4f}, {falling(rises)}.", not rises


@_claim(
    "level2",
    7,
    "Validation loss stabilises, which shows that regularisation works.",
    "The last epoch changes validation loss by less than 5 %; that regularisation is the cause is not judged.",
)
def _val_loss_stabilises(evidence: Evidence) -> Verdict:
    before, last = curves(evidence, "level2").val_loss[-2:]
    text = f"{before:.4f} to {last:.4f} in the last epoch, {100 * (last / before - 1):+z.1f} %."
    return text, abs(last / before - 1) < 0.05


@_claim(
    "level2",
    7,
    "Accuracy is consistently and substantially above level 1's.",
    "At every epoch that both have, validation accuracy is above level 1's by more than the half-width of the 95 "
    "% interval of either's last.",
)
def _above_level_1(evidence: Evidence) -> Verdict:
    two, one = curves(evidence, "level2"), curves(evidence, "level1")
    common = min(len(one.val), len(two.val))
    ahead = two.val[:common] - one.val[:common]
    half_width = max(one.half_width, two.half_width)
    text = (
        f"Ahead by {100 * ahead.min():+.2f} to {100 * ahead.max():+.2f} points over {common} epochs; the "
        f"half-width is {100 * half_width:.2f}."
    )
    return text, bool((ahead > half_width).all())


@_claim(
    "level2",
    7,
    "The validation curve closely tracks the training curve, which confirms generalisation.",
    "At no epoch do the two accuracies differ by more than 5 points.",
)
def _tracks(evidence: Evidence) -> Verdict:
    c = curves(evidence, "level2")
    apart = np.abs(c.train - c.val)
    worst = int(apart.argmax())
    return (
        f"At most {100 * apart[worst]:.2f} points apart, {at_epochs([int(c.epochs[worst])])}.",
        at_most(apart.max(), 0.05),
    )


_claim("level2", 8, "Test accuracy is 94.64 %.", ACCURACY)(stated_accuracy("level2"))
_claim("level2", 8, "The gain over the baseline is 12.5 %.", GAIN, note=_found("level2", 8, "12.5"))(
    stated_gain("level2", "level1")
)
_not_judged(
    "level2",
    8,
    "It meets and exceeds Level 2's performance expectations.",
    "The expectations are never stated.",
)


def _arm_effects(evidence: Evidence) -> evaluation.Effects:
    """The main effects of augmentation and of fine-tuning in the four arms of the ablation."""
    arms = {name: recipes.documented_recipe(name) for name in recipes.ARMS}
    right = {name: score(evidence, name).right for name in arms}
    if (n := len(right["level2"])) < MIN_IMAGES:
        raise Missing(f"Needs at least {MIN_IMAGES} images, and there are {n}.")
    return evaluation.factorial(
        {(arm.augment, arm.trainable != "head"): right[name] for name, arm in arms.items()}
    )


@_claim(
    "level2",
    8,
    "It shows that augmentation and fine-tuning are used effectively.",
    "Both main effects in the four arms, each over both settings of the other, are above 0 on the test images: "
    "95 % bootstrap intervals wholly above 0; not measurable where one contains 0.",
)
def _used_effectively(evidence: Evidence) -> Verdict:
    effects = _arm_effects(evidence)
    text = f"Augmentation {points(effects.first)}, fine-tuning {points(effects.second)}."
    return decided(text, above(effects.first), above(effects.second), unclear=ONE_CONTAINS_0)


@_claim(
    "level2",
    9,
    "The ablation finds 82.06 % without augmentation and fine-tuning, and 94.64 % with both.",
    "The 95 % Wilson intervals of both measured accuracies contain the stated ones (are consistent with them) "
    "and are at most 2 points wide; not measurable where one is wider.",
)
def _ablation_table(evidence: Evidence) -> Verdict:
    (one, first), (two, second) = (level_accuracy(evidence, level) for level in ("level1", "level2"))
    return about_figure(evidence, f"Level 1 {one} Level 2 {two}", first, second)


@_claim(
    "level2",
    9,
    "Augmentation and fine-tuning are directly responsible for the gain.",
    "Above 0 are the gain over level 1, both main effects in the four arms, and what the two bring (level2 less "
    "level2_noaug_frozen) less the rest (level2_noaug_frozen less level1): at least half of the gain. 95 % "
    "intervals; not measurable where one contains 0.",
    note=_found("level2", 9, "responsible"),
)
def _main_effects(evidence: Evidence) -> Verdict:
    effects = _arm_effects(evidence)
    right = {name: score(evidence, name).right for name in ("level2", "level2_noaug_frozen", "level1")}
    gain, brought, rest = (
        evaluation.paired_difference(right[a], right[b])
        for a, b in (("level2", "level1"), ("level2", "level2_noaug_frozen"), ("level2_noaug_frozen", "level1"))
    )
    # Half of the gain is the two's where their part is no smaller than the rest.
    whole, neither, baseline = (right[name].astype(int) for name in ("level2", "level2_noaug_frozen", "level1"))
    excess = mean_over((whole - neither) - (neither - baseline))
    told = [
        "{:+z.2f} ({:+z.2f} to {:+z.2f})".format(*(100 * part for part in estimate))
        for estimate in (effects.first, effects.second, gain, brought, rest, excess)
    ]
    text = (
        f"Points, with 95 % intervals: augmentation {told[0]}, fine-tuning {told[1]}. Gain over level1 "
        f"{told[2]}: the two {told[3]}, optimizer, rate, schedule, decay and epochs {told[4]}; the two less "
        f"these {told[5]}."
    )
    return decided(text, *map(above, (gain, effects.first, effects.second, excess)), unclear=ONE_CONTAINS_0)


@_claim(
    "level2",
    10,
    "Visually similar classes are confused less than at level 1.",
    f"Fewer of the same cats and dogs are taken for one another than at level 1, exact McNemar {NOT_ADJUSTED}",
)
def _similar_classes(evidence: Evidence) -> Verdict:
    two, one = (confused_images(evidence, name, "cat", "dog") for name in ("level2", "level1"))
    test = evaluation.mcnemar_marks(one, two)
    text = f"Cat and dog confused {two.sum():,} times, {one.sum():,} at level 1, McNemar {p_words(test.p)}."
    return decided(text, more_often(test), unclear=NOT_SIGNIFICANT)


_claim(
    "level2",
    10,
    "It is more robust to variations in colour and illumination.",
    robust_rule("level 1"),
)(robust("level2", "level1"))
_claim(
    "level2",
    10,
    "Confusion persists for small or cluttered objects.",
    "Error is more frequent in the third of smallest objects than in the rest, and in the most cluttered "
    "third too, Fisher's exact p < 0.05 each; not measurable where one p is larger.",
)(all_harder("level2", SMALL, CLUTTERED))


@_claim(
    "level2",
    10,
    "Some hard samples are predicted with too much confidence.",
    f"Of predictions with a confidence above {CONFIDENT}, the mean confidence less the share that is right: "
    f"{ABOVE_0}",
)
def _overconfident(evidence: Evidence) -> Verdict:
    scored = score(evidence, "level2")
    sure = scored.confidence > CONFIDENT
    text = f"{sure.sum():,} predictions have a confidence above {CONFIDENT}"
    if sure.sum() < MIN_IMAGES:
        raise Missing(f"Needs at least {MIN_IMAGES} such predictions: {text}.")
    confidence, right = scored.confidence[sure].astype(np.float64), scored.right[sure]
    excess = mean_over(confidence - right)
    text += (
        f", {percent(confidence.mean())} on average; {percent(right.mean())} of them are right, "
        f"{(~right).sum():,} wrong: {points(excess)} too much."
    )
    return decided(text, above(excess))


@_claim(
    "level2",
    10,
    "Level 3 addresses that overconfidence.",
    f"Level 3 makes fewer mistakes with a confidence above {CONFIDENT} on the same images, exact McNemar "
    f"{NOT_ADJUSTED}",
    note=_found("level2", 10, "overconfidence"),
)
def _overconfidence_addressed(evidence: Evidence) -> Verdict:
    three, two = (score(evidence, name).confident_mistakes for name in ("level3", "level2"))
    test = evaluation.mcnemar_marks(two, three)
    text = f"{three.sum():,} such mistakes at level 3, {two.sum():,} at level 2, McNemar {p_words(test.p)}."
    return decided(text, more_often(test), unclear=NOT_SIGNIFICANT)


_claim(
    "level2",
    11,
    "Modern optimisation strategies improve on the baseline.",
    "With neither augmentation nor fine-tuning, level 2's optimizer, rate, schedule, weight decay and epochs as "
    "one bundle (level2_noaug_frozen) are right on more test images than level1's, exact McNemar p < 0.05; not "
    "measurable where p is larger.",
)(better("level2_noaug_frozen", "level1"))
_not_judged(
    "level2",
    11,
    "It comfortably surpasses the Level 2 threshold.",
    "The threshold is never stated.",
)
_not_judged(
    "level2",
    11,
    "It is a strong foundation for Level 3.",
    f"{UNJUDGEABLE} What level 3 gains is judged in its own document.",
)

# ---------------------------------------------------------------------------------------- the claims: level 3

_not_judged(
    "level3",
    1,
    "Level 3 demonstrates advanced design, interpretability and deep analytical understanding.",
    UNJUDGEABLE,
)
_claim(
    "level3",
    2,
    "The model is a pretrained ResNet-50 with an SE block after its last convolutional block.",
    PRETRAINED,
)(pretrained("level3", "se_resnet50"))
_claim(
    "level3",
    2,
    "SE attention improves discriminative feature learning and representational power.",
    "With the SE block more test images are right than without it in the same training (level3_plain), exact "
    f"McNemar {NOT_ADJUSTED}",
    note="level 3 trains for 12 epochs and level 2 for 10, so that the block is not all they differ in.",
)(better("level3", "level3_plain"))
_not_judged(
    "level3",
    2,
    "CIFAR-10's objects are small and often embedded in cluttered backgrounds.",
    "CIFAR-10 has no masks or bounding boxes to measure size and clutter by.",
)


@_claim(
    "level3",
    2,
    "SE attention emphasises informative feature maps and suppresses background responses.",
    f"After the gates the share of the last feature maps {MAPS} that lies on the object is larger by 1 point: 95 "
    "% bootstrap interval wholly above +1; wholly below refutes it, not measurable where it contains +1.",
)
def _gates(evidence: Evidence) -> Verdict:
    before, after = evidence.images(("gates", "before"), ("gates", "after"))
    change = mean_over(after - before)
    text = (
        f"{percent(before.mean(), 3)} of the maps' mass on the object before the gates, "
        f"{percent(after.mean(), 3)} after: {points(change, digits=3)} on {len(before):,} images."
    )
    coarse = too_coarse(evidence, "level3")
    return decided(text, None if coarse else above(change, 0.01), unclear=coarse or contains("+1 point"))


@_claim(
    "level3",
    2,
    "The SE block adds minimal computational overhead.",
    "It adds less than 5 % to the parameters of level 2's model and to the multiply-adds of predicting an image.",
)
def _se_overhead(evidence: Evidence) -> Verdict:
    metrics = [evidence.run(name).metrics for name in ("level3", "level2")]
    three, two = (each["parameters"] for each in metrics)
    text = f"{three:,} parameters, {two:,} without it: {100 * (three / two - 1):+.2f} %."
    few = three / two - 1 < 0.05
    if any("multiply_adds" not in each for each in metrics):
        return f"{text} Multiply-adds were not counted in both runs.", None if few else False
    work = [each["multiply_adds"] for each in metrics]
    more = work[0] / work[1] - 1
    text += f" Multiply-adds an image: {work[0]:,}, {work[1]:,} without it: {100 * more:+.2f} %."
    return text, few and more < 0.05


_claim("level3", 3, "Early layers are frozen; layer4, the SE block and the classifier are trained.", FROM_LAYER4)(
    from_layer4("level3")
)
_not_judged(
    "level3",
    3,
    "Training only these parts balances general feature reuse and adaptation to the task.",
    "A balance is no quantity; the next two claims compare with training the whole network.",
)
_claim(
    "level3",
    3,
    "That reduces overfitting.",
    narrower_rule("than with the whole network trained (level3_full)"),
    note="training minus validation accuracy ends at 5.00 points at level 3 and at 4.42 at level 2, which trains "
    "the same layers; nothing is printed of a whole network trained.",
)(narrower_gap("level3", "level3_full"))


@_claim(
    "level3",
    3,
    "That enables better class separation.",
    "The margin, the probability of the true class less the largest other, is larger than with the whole network "
    f"trained (level3_full): {ABOVE_0}",
)
def _separation(evidence: Evidence) -> Verdict:
    margins = []
    for scored in (score(evidence, "level3"), score(evidence, "level3_full")):
        others = scored.probs.copy()
        others[np.arange(len(others)), scored.labels] = 0
        margins.append(scored.of_truth - others.max(axis=1))
    difference = mean_over(margins[0] - margins[1])
    text = (
        f"Mean margin {margins[0].mean():.4f}, {margins[1].mean():.4f} with the whole network trained: difference "
        f"{number(difference, 4)}."
    )
    return decided(text, above(difference))


_claim(
    "level3",
    4,
    "Training takes AdamW at 3e-4, weight decay 1e-4, a cosine schedule, batches of 64 and 12 epochs.",
    CONFIGURED,
)(configured("level3"))
_claim("level3", 5, "Accuracy ends at 99.09 % in training and 94.09 % in validation.", LAST_EPOCH)(
    last_epoch("level3", "level3")
)
_claim("level3", 5, "Convergence is smooth, with no instability.", SMOOTH)(smooth("level3"))


@_claim(
    "level3",
    5,
    "The gap between training and validation accuracy increases.",
    "Training minus validation accuracy is larger at the last epoch than at the first.",
)
def _gap_increases(evidence: Evidence) -> Verdict:
    c = curves(evidence, "level3")
    gap = 100 * (c.train - c.val)
    text = (
        f"{gap[0]:+.2f} points at epoch {c.epochs[0]}, {gap[-1]:+.2f} at epoch {c.epochs[-1]} "
        f"({100 * (c.measured_train - c.val[-1]):+.2f} measured after training, without augmentation)."
    )
    return text, gap[-1] > gap[0]


_claim(
    "level3",
    5,
    "Deeper fine-tuning is what makes the gap grow.",
    "The gap from validation up to training accuracy, measured after training, is larger with the whole network "
    "trained (level3_full) than from layer4 on: 95 % interval over the paired validation images wholly above 0; "
    "not measurable where it contains 0.",
    note=_found("level3", 5, "deeper"),
)(wider_gap("level3_full", "level3"))


@_claim(
    "level3",
    5,
    "Validation accuracy stabilises.",
    "Over the last three epochs it stays within 1 point; not measurable where its 95 % interval reaches more "
    "than 2 points either way: too few validation images.",
)
def _val_stabilises(evidence: Evidence) -> Verdict:
    c = curves(evidence, "level3")
    last = c.val[-3:]
    text = f"{percent(last.min())} to {percent(last.max())} over the last {len(last)} epochs."
    return decided(text, None if c.too_few else at_most(np.ptp(last), 0.01), unclear=c.too_few)


@_claim(
    "level3",
    5,
    "Validation accuracy settles around 94 %.",
    "The last epoch's validation accuracy rounds to 94 %.",
)
def _around_94(evidence: Evidence) -> Verdict:
    last = float(curves(evidence, "level3").val[-1])
    return about_figure(evidence, f"{percent(last)} at the last epoch.", round(100 * last) == 94)


_claim("level3", 6, "Test accuracy is 94.55 %.", ACCURACY)(stated_accuracy("level3"))
_claim(
    "level3",
    6,
    "It matches level 2's accuracy.",
    MATCHES,
    note="94.55 % against 94.64 % is nine of 10,000 images, fewer than the about 50 labelled wrongly "
    "(Northcutt et al. 2021) or the about 300 that nearly repeat training images (Barz and Denzler 2020).",
)(matches("level3", "level2"))
_not_judged(
    "level3",
    6,
    "Interpretability improves on level 2.",
    "Interpretability is not defined as a quantity; section 9 judges what can be measured of the maps.",
)


def _truth_gained(evidence: Evidence) -> np.ndarray:
    """Probability of each test image's true class at level 3 less that at level 2."""
    three, two = (score(evidence, name).of_truth.astype(np.float64) for name in ("level3", "level2"))
    return three - two


@_claim(
    "level3",
    6,
    "Class confidence improves on level 2.",
    f"The mean probability of the true class, over all images alike, is higher than at level 2: {ABOVE_0}",
)
def _confidence(evidence: Evidence) -> Verdict:
    difference = mean_over(_truth_gained(evidence))
    text = f"Mean over the images of the true class's probability: {points(difference)} against level 2."
    return decided(text, above(difference))


@_claim(
    "level3",
    6,
    "Its merit is better feature attribution rather than accuracy.",
    "Accuracy is less than one point above level 2's (Tango's interval), not significantly (McNemar), and the "
    f"object's share of the map's energy is higher {MAPS}; not measurable where an interval contains its limit, "
    "1 point or 0.",
)
def _attribution_not_accuracy(evidence: Evidence) -> Verdict:
    result = compare(evidence, "level3", "level2")
    text, energy = cam_difference(evidence, "energy")
    no_gain = False if more_often(result.test) else below(result.difference, ALIKE)
    accuracy = f"Accuracy {points(result.difference)}, McNemar {p_words(result.test.p)}."
    text = f"{accuracy} {text}{also(evidence, 'road')}"
    coarse = too_coarse(evidence, "level3", "level2")
    unclear = coarse or one_contains("1 point or 0")
    return decided(text, no_gain, None if coarse else above(energy), unclear=unclear)


@_claim(
    "level3",
    7,
    "Precision and recall per class are as in the document's table.",
    "In at least nine of ten classes each is consistent with the table: its 95 % Wilson interval contains the "
    "stated figure, give or take its rounding, and is at most 5 points wide (F1 follows); not measurable where "
    "wider intervals leave it open.",
)
def _per_class(evidence: Evidence) -> Verdict:
    names = class_names(evidence, "level3", *documented.PER_CLASS)
    counts = evaluation.confusion(*evidence.predictions("level3"))
    told, parts = [], []
    for i, (word, totals) in enumerate((("precision", counts.sum(axis=0)), ("recall", counts.sum(axis=1)))):
        agree = []
        for name, k, n in zip(names, np.diag(counts), totals, strict=True):
            value, low, high = wilson(int(k), max(int(n), 1))
            rounded = Estimate(value, low - 0.005, high + 0.005)  # the table's figures have two decimals
            agree.append(consistent(rounded, documented.PER_CLASS[name][i], 0.06))
        told.append(f"{word} in {agree.count(True)}")
        parts.append(True if agree.count(True) >= 9 else False if agree.count(False) > 1 else None)
    recalls = first_of(class_recalls(evidence, "level3"), len(names))
    text = f"Recall {recalls}. Consistent: {' and '.join(told)} classes."
    return about_figure(evidence, text, *parts)


@_claim(
    "level3",
    7,
    "Vehicles and rigid objects achieve the highest accuracy.",
    "The four vehicles' recall together is above the animals' (Newcombe's 95 % interval) and no animal's above "
    "the lowest vehicle's: refuted where one is beyond chance (24 differences, simultaneous by Bonferroni); not "
    "measurable where the interval contains 0 or chance explains the overlap.",
    note=_found("level3", 7, "vehicles"),
)
def _vehicles_first(evidence: Evidence) -> Verdict:
    recalls = class_recalls(evidence, "level3", *VEHICLES, *ANIMALS)
    vehicles, animals = ([recalls[name] for name in recalls if name in group] for group in (VEHICLES, ANIMALS))
    totals = [[sum(column) for column in zip(*group, strict=True)] for group in (vehicles, animals)]
    difference = evaluation.independent_difference(*totals[0], *totals[1])
    lowest = next(name for name in recalls if name in VEHICLES)
    highest = [name for name in recalls if name in ANIMALS][-1]
    shares = [percent(right / n) for right, n in (*totals, recalls[lowest], recalls[highest])]
    text = (
        f"Vehicles {shares[0]}, animals {shares[1]}: {points(difference)}. The lowest vehicle is {lowest} with "
        f"{shares[2]}, the highest animal {highest} with {shares[3]}."
    )
    if any(map(above, _simultaneous([(animal, vehicle) for animal in animals for vehicle in vehicles]))):
        return f"{text} An animal's recall is above a vehicle's beyond chance.", False
    first = above(difference)
    if first and np.divide(*recalls[highest]) > np.divide(*recalls[lowest]):
        return f"{text} The groups differ, but their classes overlap.", None
    return decided(text, first)


@_claim(
    "level3",
    7,
    "Confusion persists between cat and dog and between bird and cat.",
    "Each of the two pairs makes more of the errors than the average pair of classes: 95 % Wilson intervals of "
    "the shares wholly above that of the average; not measurable where one contains it.",
)
def _persistent_pairs(evidence: Evidence) -> Verdict:
    pairs = documented.CONFUSED_PAIRS
    names = class_names(evidence, "level3", *(name for pair in pairs for name in pair))
    counts = evaluation.confusion(*evidence.predictions("level3"))
    total = int(counts.sum() - np.trace(counts))
    if not total:
        raise Missing("Needs errors, and there are none.")
    average = 2 / (len(names) * (len(names) - 1))
    confused = [int(confused_images(evidence, "level3", a, b).sum()) for a, b in pairs]
    shares = [wilson(count, total) for count in confused]
    told = "; ".join(
        f"{a} and {b} {count:,} ({percent(share.value)}, 95 % interval {percent(share.low)} to "
        f"{percent(share.high)})"
        for (a, b), count, share in zip(pairs, confused, shares, strict=True)
    )
    worst = evaluation.most_confused(counts, names, k=3)
    listed = "; ".join(f"{row.first} and {row.second} {row.total:,}" for row in worst.itertuples())
    text = f"Of {total:,} errors {told}; an average pair makes {percent(average)}. Most often {listed}."
    return decided(text, *(above(share, average) for share in shares), unclear=one_contains(percent(average)))


_not_judged(
    "level3",
    7,
    "These errors come with similar textures.",
    "How alike two textures are is not measured.",
)
_claim("level3", 7, "These errors come with small objects.", harder_rule("the smallest objects"))(
    all_harder("level3", SMALL, pairs=documented.CONFUSED_PAIRS)
)
_claim("level3", 7, "These errors come with cluttered backgrounds.", harder_rule("the most clutter"))(
    all_harder("level3", CLUTTERED, pairs=documented.CONFUSED_PAIRS)
)


@_claim(
    "level3",
    8,
    "The confusion matrix is dominated by its diagonal.",
    "In every class more than half of the images are predicted right: 95 % Wilson intervals wholly above one "
    "half; not measurable where one contains it.",
)
def _diagonal(evidence: Evidence) -> Verdict:
    recalls = class_recalls(evidence, "level3")
    shares = [wilson(right, n) for right, n in recalls.values()]
    low, high = map(percent, shares[0][1:])
    text = f"Lowest recall: {first_of(recalls, 1)}, 95 % interval {low} to {high}."
    return decided(text, *(above(share, 0.5) for share in shares), unclear=one_contains("50 %"))


_claim("level3", 8, "The remaining errors are mostly among animals.", AMONG_ANIMALS)(among_animals("level3"))


@_claim(
    "level3",
    8,
    "SE attention slightly reduces confusion compared to level 2.",
    f"The confusion matrix has fewer errors off its diagonal, exact McNemar {NOT_ADJUSTED}",
    note=_found("level3", 8, "confusion"),
)
def _less_confusion(evidence: Evidence) -> Verdict:
    errors = [int((~score(evidence, name).right).sum()) for name in ("level3", "level2")]
    test = compare(evidence, "level3", "level2").test
    text = f"{errors[0]:,} errors, {errors[1]:,} at level 2, McNemar {p_words(test.p)}."
    return decided(text, more_often(test), unclear=NOT_SIGNIFICANT)


_AT_ONCE = "simultaneous 95 % interval"


def _simultaneous(pairs: Sequence[tuple[tuple[int, int], tuple[int, int]]]) -> list[Estimate]:
    """Differences of shares of different images, each (successes, n); their intervals hold all at once."""
    confidence = 1 - ALPHA / len(pairs)
    return [evaluation.independent_difference(*a, *b, confidence=confidence) for a, b in pairs]


@_claim(
    "level3",
    8,
    "Performance is balanced across classes.",
    "No two classes' recalls are more than 10 points apart (the document's: 8): Newcombe's intervals of all "
    "pairs' differences, simultaneous by Bonferroni as the data pick the extremes, wholly below 10; not "
    "measurable where one contains 10.",
    note="recall runs from 0.89 to 0.97 (section 7), cat's errors being nearly four times automobile's.",
)
def _balanced(evidence: Evidence) -> Verdict:
    recalls = class_recalls(evidence, "level3")
    if len(recalls) < 2:
        raise Missing("Needs test images of two classes.")
    pairs = [(high, low) for low, high in combinations(recalls, 2)]
    found = _simultaneous([(recalls[high], recalls[low]) for high, low in pairs])
    differences = dict(zip(pairs, found, strict=True))
    worst, *_, best = recalls
    text = (
        f"Recall from {first_of(recalls, 1)} to {best} {percent(np.divide(*recalls[best]))}: "
        f"{points(differences[best, worst], _AT_ONCE)}."
    )
    return decided(text, *(below(difference, 0.1) for difference in found), unclear=one_contains("10 points"))


@_claim(
    "level3",
    9,
    "The model focuses on regions of the object, such as body, wheels and wings.",
    f"The object's share of the energy {MAPS} is above its share of the image and a centred map's: 95 % bootstrap "
    "intervals wholly above 0; one wholly below refutes it, not measurable where one contains 0.",
)
def _focus(evidence: Evidence) -> Verdict:
    energy, share, centre, pointing = cam_measures(
        evidence, *(("level3", key) for key in ("energy", "object_share", "centre_energy", "pointing"))
    )
    above_share, above_centre = mean_over(energy - share), mean_over(energy - centre)
    text = (
        f"{percent(energy.mean(), 3)} of the energy on {percent(share.mean(), 3)} of the image: "
        f"{points(above_share, digits=3)} against an even map, {points(above_centre, digits=3)} against one that "
        f"points at the centre; the peak is on the object in {percent(pointing.mean())} of {len(pointing):,} "
        "images."
    )
    coarse = too_coarse(evidence, "level3")
    parts = [None if coarse else above(part) for part in (above_share, above_centre)]
    return decided(text, *parts, unclear=coarse or ONE_CONTAINS_0)


@_claim(
    "level3",
    9,
    "Background regions receive low activation.",
    "The object gets more of the map's energy than if the background had half the energy of the object per unit "
    f"of area {MAPS}: {ABOVE_0}",
)
def _background_low(evidence: Evidence) -> Verdict:
    energy, share = cam_measures(evidence, ("level3", "energy"), ("level3", "object_share"))
    on, off = energy.mean() / share.mean(), (1 - energy.mean()) / (1 - share.mean())
    # An object of density 1 in a background of density 1/2 holds share / (share + (1 - share) / 2) of all.
    spare = mean_over(energy - 2 * share / (1 + share))
    text = (
        f"Energy per unit of area (1 if spread evenly): {on:.3f} on the object, {off:.3f} on the background. The "
        f"object's share of it less the limit: {points(spare, digits=3)}."
    )
    coarse = too_coarse(evidence, "level3")
    return decided(text, None if coarse else above(spare), unclear=coarse or CONTAINS_0)


@_claim(
    "level3",
    9,
    "Attention maps are more compact than at level 2.",
    f"Half of the map's mass lies on a smaller share of it {MAPS}: {BELOW_0}",
)
def _compact(evidence: Evidence) -> Verdict:
    text, difference = cam_difference(evidence, "compactness")
    text += also(evidence, "entropy")
    coarse = too_coarse(evidence, "level3", "level2")
    return decided(text, None if coarse else below(difference), unclear=coarse or CONTAINS_0)


@_claim(
    "level3",
    9,
    "Attention maps are more object-centric than at level 2.",
    f"The object's share of the map's energy is higher {MAPS}: {ABOVE_0}",
)
def _object_centric(evidence: Evidence) -> Verdict:
    text, difference = cam_difference(evidence, "energy")
    coarse = too_coarse(evidence, "level3", "level2")
    return decided(text, None if coarse else above(difference), unclear=coarse or CONTAINS_0)


_claim(
    "level3",
    9,
    "Failures happen where objects are small or partially occluded.",
    "Error is more frequent in the third of smallest objects than in the rest, and in the most occluded "
    "third too, Fisher's exact p < 0.05 each; not measurable where one p is larger.",
)(all_harder("level3", SMALL, OCCLUDED))


@_claim(
    "level3",
    9,
    "Background patterns can still distract the model.",
    "Images whose map favours the background (less energy on the object than its share of the image) are more "
    f"often wrong {MAPS}: Newcombe's 95 % interval of the difference wholly above 0; not measurable where it "
    "contains 0.",
)
def _distracted(evidence: Evidence) -> Verdict:
    energy, share, right = cam_measures(
        evidence, *(("level3", key) for key in ("energy", "object_share", "right"))
    )
    off, wrong = energy < share, right < 0.5
    text = f"{off.sum():,} of {len(off):,} maps favour the background"
    if off.all() or not off.any():
        raise Missing(f"{text}: needs both such images and others.")
    counts = [(int((wrong & part).sum()), int(part.sum())) for part in (off, ~off)]
    difference = evaluation.independent_difference(*counts[0], *counts[1])
    rates = [percent(k / n) for k, n in counts]
    text += f": {rates[0]} of them are wrong, {rates[1]} of the rest, {points(difference)}."
    coarse = too_coarse(evidence, "level3")
    return decided(text, None if coarse else above(difference), unclear=coarse or CONTAINS_0)


@_claim(
    "level3",
    9,
    "Attention improves where the model looks, not just what it predicts.",
    f"The map's peak is on the object more often than at level 2 {MAPS}: {ABOVE_0}",
)
def _where_not_what(evidence: Evidence) -> Verdict:
    text, difference = cam_difference(evidence, "pointing")
    coarse = too_coarse(evidence, "level3", "level2")
    return decided(text, None if coarse else above(difference), unclear=coarse or CONTAINS_0)


_claim("level3", 10, "Overall accuracy is similar to level 2's.", MATCHES)(matches("level3", "level2"))
_not_judged(
    "level3",
    10,
    "It is more interpretable than level 2.",
    "Interpretability is not defined as a quantity; section 9 judges what can be measured of the maps.",
)


@_claim(
    "level3",
    10,
    "Class-wise confidence improves on level 2.",
    "The true class's mean probability rises in more than half of the classes and falls in none, by 95 % "
    "bootstrap intervals per class, simultaneous by Bonferroni. One class that falls refutes it; not measurable "
    "where none falls and fewer rise.",
)
def _class_confidence(evidence: Evidence) -> Verdict:
    names, labels = class_names(evidence, "level3"), score(evidence, "level3").labels
    gained = _truth_gained(evidence)
    present, counts = np.unique(labels, return_counts=True)
    if counts.min() < MIN_IMAGES:
        raise Missing(f"Needs at least {MIN_IMAGES} test images of every class.")
    changes = {names[c]: mean_over(gained[labels == c], 1 - ALPHA / len(present)) for c in present}
    told = []
    for word, way in (("rises", True), ("falls", False)):
        found = [f"{name} {100 * change.value:+.2f}" for name, change in changes.items() if above(change) is way]
        told.append(f"{word} in {len(found)}" + (f" ({', '.join(found)})" if found else ""))
    ways = [above(change) for change in changes.values()]
    text = f"In points, the true class's probability {' and '.join(told)} of {len(changes)} classes."
    holds = False if False in ways else True if 2 * ways.count(True) > len(ways) else None
    return decided(text, holds, unclear="In the others the intervals contain 0: these images cannot tell.")


_not_judged("level3", 10, "It has the stronger architectural justification.", UNJUDGEABLE)


@_claim(
    "level3",
    11,
    "Accuracy gains over level 2 are marginal.",
    "Level 3 is right on more test images, exact McNemar p < 0.05, and the difference's 95 % interval (Tango's, "
    "paired) lies below 1 point; not measurable where p is larger or the interval contains 1.",
    note=_found("level3", 11, "marginal"),
)
def _marginal(evidence: Evidence) -> Verdict:
    result = compare(evidence, "level3", "level2")
    parts = more_often(result.test), below(result.difference, ALIKE)
    return decided(result.text, *parts, unclear=NOT_SIGNIFICANT if parts[0] is None else contains("1 point"))


@_claim(
    "level3",
    11,
    "Some fine-grained animal classes remain challenging.",
    "Some animal's recall is below every vehicle's: Newcombe's intervals of all 24 differences, simultaneous by "
    "Bonferroni as the data pick the classes, wholly below 0. Refuted where some vehicle's is so below every "
    "animal's; not measurable where neither is.",
)
def _hardest_class(evidence: Evidence) -> Verdict:
    recalls = class_recalls(evidence, "level3", *ANIMALS, *VEHICLES)
    pairs = [(animal, vehicle) for animal in ANIMALS for vehicle in VEHICLES]
    found = _simultaneous([(recalls[animal], recalls[vehicle]) for animal, vehicle in pairs])
    differences = dict(zip(pairs, found, strict=True))
    animal, vehicle = (next(name for name in recalls if name in group) for group in (ANIMALS, VEHICLES))
    below_all = any(all(below(differences[a, v]) for v in VEHICLES) for a in ANIMALS)
    above_all = any(all(above(differences[a, v]) for a in ANIMALS) for v in VEHICLES)
    text = (
        f"Lowest recall: {first_of(recalls, 3)}. {animal.capitalize()} less {vehicle}: "
        f"{points(differences[animal, vehicle], _AT_ONCE)}."
    )
    return decided(text, True if below_all else False if above_all else None, unclear=_NEITHER)


_NEITHER = "Neither is clear of the other: these images cannot tell."
_BY_THE_DOCUMENTS = "Decided by the documents alone: it holds unless Level 4's own text contradicts it."


def _handed_to_level_4(word: str) -> Judge:
    """Judge: what the document leaves to level 4 is there, by the documents' own text."""
    contradicted = any(
        c.level == "level3" and c.section == 11 and word in c.stated.lower() for c in documented.CORRECTIONS
    )
    if contradicted:
        return lambda evidence: ("It is not.", False)
    members = " and ".join(f"{name} with weight {weight}" for name, _, _, weight in documented.ENSEMBLE)
    return lambda evidence: (f"Level 4, section 4, averages the probabilities of {members}.", True)


_claim("level3", 11, "Ensembling and confidence-based voting are addressed in Level 4.", _BY_THE_DOCUMENTS)(
    _handed_to_level_4("ensembling")
)
_claim(
    "level3",
    11,
    "Meta-learning is addressed in Level 4.",
    _BY_THE_DOCUMENTS,
    note=_found("level3", 11, "meta-learning"),
)(_handed_to_level_4("meta-learning"))
_claim(
    "level3",
    11,
    "Calibration is addressed in Level 4.",
    _BY_THE_DOCUMENTS,
    note=_found("level3", 11, "calibration"),
)(_handed_to_level_4("calibration"))
_not_judged(
    "level3",
    12,
    "It delivers an attention-enhanced architecture, Grad-CAM and a per-class analysis.",
    "A list of what the document contains; what each shows is judged in sections 2, 7 and 9.",
)
_not_judged(
    "level3",
    12,
    "The test accuracy meets Level 3's requirements.",
    "The requirements are never stated.",
)
_not_judged("level3", 12, "It shows research-oriented thinking and explainability.", UNJUDGEABLE)

# ---------------------------------------------------------------------------------------- the claims: level 4

_claim(
    "level4",
    1,
    "Ensembling improves robustness.",
    robust_rule("either member"),
)(robust("level4", *MEMBERS))
_claim("level4", 1, "Ensembling improves generalisation.", BETTER_THAN_BOTH)(better("level4", *MEMBERS))
_not_judged(
    "level4",
    1,
    "It combines models rather than making one more complex.",
    "A description; what the second model costs is judged in section 7.",
)


def _losses(evidence: Evidence) -> tuple[str, dict[str, np.ndarray]]:
    """Negative log-likelihood of each test image under the soft vote and under its members."""
    each = {name: evaluation.nll_each(*evidence.predictions(name)) for name in ("level4", *MEMBERS)}
    means = ", ".join(f"{name} {loss.mean():.4f}" for name, loss in each.items())
    return f"Test negative log-likelihood: {means}.", each


_FEWEST_SEEDS = 3


@_claim(
    "level4",
    1,
    "Combining complementary models reduces variance.",
    "Variance over training seeds of the true class's probability, averaged over test images, is smaller in the "
    "soft vote than in either member: 95 % bootstrap intervals over images wholly below 0; not measurable where "
    "one contains 0, or below three seeds (few, even so).",
)
def _reduces_variance(evidence: Evidence) -> Verdict:
    losses, _ = _losses(evidence)
    try:
        runs = [evidence.seeds(name) for name in MEMBERS]
    except Missing as missing:
        raise Missing(f"{missing} {losses}") from missing
    seeds = min(map(len, runs))
    probs = [
        np.array(
            [Scored.of(run.predictions["test_probs"], run.predictions["test_labels"]).of_truth for run in each]
        )
        for each in (member[:seeds] for member in runs)
    ]
    variances = [p.astype(np.float64).var(axis=0, ddof=1) for p in ((probs[0] + probs[1]) / 2, *probs)]
    differences = [mean_over(1000 * (variances[0] - member)) for member in variances[1:]]
    text = (
        f"Variance over {seeds} seeds, in thousandths: level4 {1000 * variances[0].mean():.3f}; "
        + "; ".join(
            f"{name} {1000 * variance.mean():.3f}, difference {number(difference)}"
            for name, variance, difference in zip(MEMBERS, variances[1:], differences, strict=True)
        )
        + "."
    )
    if seeds < _FEWEST_SEEDS:
        return (
            f"{text} Two seeds give no verdict, as an average of two varies less unless one varies three times as "
            f"much as the other: train {_FEWEST_SEEDS}."
        ), None
    return decided(text, *map(below, differences), unclear=ONE_CONTAINS_0)


@_claim(
    "level4",
    1,
    "Combining complementary models mitigates their individual biases.",
    "As far as the negative log-likelihood shows it: the soft vote's is below that of the better member on the "
    f"same images: {BELOW_0}",
)
def _mitigates_biases(evidence: Evidence) -> Verdict:
    text, each = _losses(evidence)
    best = min(MEMBERS, key=lambda name: each[name].mean())
    difference = mean_over(each["level4"] - each[best])
    return decided(f"{text} Difference to {best} {number(difference, 4)}.", below(difference))


_not_judged(
    "level4",
    2,
    "The members are trained independently.",
    "Each is a run of its own, as the code has it; yet both see the same training images, and the document's both "
    "start from ImageNet weights, so that their errors need not be independent: section 3 measures those.",
)
_not_judged(
    "level4",
    2,
    "Both members are high-performing.",
    "No threshold is stated; of EfficientNet-B0 the document prints only validation accuracies, the last 89.72 %.",
)
_not_judged(
    "level4",
    2,
    "The SE-ResNet brings a strong spatial and channel focus.",
    "Strong is not defined; level 3, sections 2 and 9, judge its gates and its maps.",
    note=_found("level4", 2, "spatial"),
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


def _q_difference(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> Estimate:
    """Yule's Q of one pair of models less that of another, from who is right on the same images [N].

    The interval is the bootstrap's: all that a resample decides is how often each pattern of rights is drawn.
    """
    patterns, counts = np.unique(np.array([right for pair in pairs for right in pair]), axis=1, return_counts=True)
    n = int(counts.sum())
    drawn = np.random.default_rng(0).multinomial(n, counts / n, size=2000)

    def q(weights: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        same = (weights @ (a & b)) * (weights @ (~a & ~b))
        different = (weights @ (a & ~b)) * (weights @ (~a & b))
        with np.errstate(invalid="ignore"):  # 0 / 0 where neither can be told, in a resample without such images
            return (same - different) / (same + different)

    differences = q(drawn, *patterns[:2]) - q(drawn, *patterns[2:])
    low, high = np.nanquantile(differences, [0.025, 0.975])
    return Estimate(float(q(counts, *patterns[:2]) - q(counts, *patterns[2:])), float(low), float(high))


@_claim(
    "level4",
    2,
    "Another architecture brings diversity.",
    f"Yule's Q between the members' errors is below that between two seeds of level 3: {BELOW_0} One seed decides "
    "nothing, as levels 3 and 2 start from the very same network.",
)
def _diversity(evidence: Evidence) -> Verdict:
    labels = evidence.predictions("level3")[1]
    members = [evidence.predictions(name)[0] for name in MEMBERS]
    missing = ""
    try:
        other, words = evidence.seeds("level3", "second_seed")[1].predictions["test_probs"], "two seeds of level3"
    except Missing as no_seed:
        if "level2" not in evidence.runs:
            raise
        other, words, missing = evidence.predictions("level2")[0], "level3 and level2", str(no_seed)
    pairs = {"the members": (members[0], members[1]), words: (members[0], other)}
    both = {name: evaluation.agreement(a, b, labels) for name, (a, b) in pairs.items()}
    if len(labels) < MIN_IMAGES:
        raise Missing(f"Needs at least {MIN_IMAGES} images, and there are {len(labels)}.")
    if np.isnan([found.q_statistic for found in both.values()]).any():
        raise Missing("Needs mistakes of both members: Q is not defined without.")
    right = [(a.argmax(axis=1) == labels, b.argmax(axis=1) == labels) for a, b in pairs.values()]
    difference = _q_difference(right)
    text = "; ".join(
        f"between {name} Q {found.q_statistic:.3f}, disagreement {percent(found.disagreement)}, double fault "
        f"{percent(found.double_fault)}"
        for name, found in both.items()
    )
    text = f"{text[0].upper()}{text[1:]}; difference in Q {number(difference)}."
    return decided(text, None if missing else below(difference), unclear=missing or CONTAINS_0)


@_claim(
    "level4",
    2,
    "Diversity is key for effective ensembling.",
    "Over the better of its two members the soft vote of the architectures gains more test images than that of "
    f"two seeds of level 3: {ABOVE_0}",
)
def _mixed_beats_seeds(evidence: Evidence) -> Verdict:
    mixed = score(evidence, "level4")
    twins = [run.predictions["test_probs"] for run in evidence.seeds("level3", "second_seed")[:2]]
    seeds = [Scored.of(probs, mixed.labels) for probs in twins]
    both = Scored.of(evaluation.soft_vote(twins), mixed.labels)
    members = [score(evidence, name) for name in MEMBERS]
    gains = []
    for vote, of in ((mixed, members), (both, seeds)):
        gains.append(vote.right.astype(int) - max((each.right for each in of), key=np.sum))
    difference = mean_over(gains[0] - gains[1])
    text = (
        f"level4 {percent(mixed.right.mean())}, {100 * gains[0].mean():+.2f} points over its better member; two "
        f"seeds of level3 {percent(both.right.mean())}, {100 * gains[1].mean():+.2f}: {points(difference)} more."
    )
    return decided(text, above(difference))


_claim("level4", 3, "EfficientNet-B0 ends at 92.93 % in training and 89.72 % in validation.", LAST_EPOCH)(
    last_epoch("level4", "efficientnet")
)
_claim("level4", 3, "EfficientNet-B0 converges smoothly.", SMOOTH)(smooth("efficientnet"))
_claim(
    "level4",
    3,
    "EfficientNet-B0's generalisation gap is controlled.",
    gap_rule("3.21"),
)(gap_within("efficientnet"))
_claim(
    "level4",
    3,
    "EfficientNet-B0 shows no sign of overfitting.",
    NO_OVERFITTING,
    note=_found("level4", 3, "overfitting"),
)(no_overfitting("efficientnet"))


def _complementary(evidence: Evidence) -> Verdict:
    """Judge: each member is right on at least a third of the other's mistakes."""
    a, b = (score(evidence, name) for name in MEMBERS)
    both = evaluation.agreement(a.probs, b.probs, a.labels)
    mistakes = (both.only_b + both.both_wrong, both.only_a + both.both_wrong)
    if 0 in mistakes:
        raise Missing("Needs mistakes of both members.")
    shares = wilson(both.only_b, mistakes[0]), wilson(both.only_a, mistakes[1])
    told = [f"95 % interval {percent(share.low)} to {percent(share.high)}" for share in shares]
    text = (
        f"{MEMBERS[1]} is right on {both.only_b:,} of {MEMBERS[0]}'s {mistakes[0]:,} mistakes ({told[0]}), "
        f"{MEMBERS[0]} on {both.only_a:,} of {MEMBERS[1]}'s {mistakes[1]:,} ({told[1]}); at least one is right on "
        f"{percent(both.oracle_accuracy)}."
    )
    return decided(text, *(above(share, 1 / 3) for share in shares), unclear=one_contains("a third"))


_COMPLEMENTARY = (
    "Each member is right on more than a third of the other's mistakes: 95 % Wilson intervals wholly above one "
    "third; one wholly below refutes it, not measurable where one contains it."
)
_claim("level4", 3, "The members' error patterns are complementary.", _COMPLEMENTARY)(_complementary)
_not_judged(
    "level4",
    4,
    "The ensemble averages the members' probabilities, each with weight 0.5.",
    "So it does here, by construction.",
)


def _by_coin(evidence: Evidence) -> np.ndarray:
    """How often a hard vote of the two members is right on each test image, a coin deciding ties: 0, 1/2 or 1."""
    return np.mean([score(evidence, name).right for name in MEMBERS], axis=0)


@_claim(
    "level4",
    4,
    "Soft voting is better than hard voting.",
    "The soft vote is right on more test images than a hard vote, whose ties (wherever the two members differ) a "
    f"coin decides: {ABOVE_0}",
)
def _soft_beats_hard(evidence: Evidence) -> Verdict:
    soft, hard = score(evidence, "level4"), _by_coin(evidence)
    difference = mean_over(soft.right - hard)
    summed = evaluation.hard_vote([evidence.predictions(name)[0] for name in MEMBERS])
    test = evaluation.mcnemar_marks(soft.right, summed == soft.labels)
    text = (
        f"Soft {percent(soft.right.mean())}, hard {percent(hard.mean())}: {points(difference)}. With ties to the "
        f"larger summed probability, which is half a soft vote, the two differ on "
        f"{(soft.predicted != summed).sum():,} of {len(hard):,} images, {test.b - test.c:+,d} right for the soft, "
        f"McNemar {p_words(test.p)}."
    )
    return decided(text, above(difference))


@_claim(
    "level4",
    4,
    "Soft voting preserves confidence information.",
    "Mean confidence is higher where the soft vote is right than where it is wrong (a hard vote has none): 95 % "
    "interval of the difference wholly above 0; not measurable where it contains 0.",
)
def _preserves_confidence(evidence: Evidence) -> Verdict:
    soft = score(evidence, "level4")
    if min(soft.right.sum(), (~soft.right).sum()) < MIN_IMAGES:
        raise Missing(f"Needs at least {MIN_IMAGES} right and as many wrong predictions.")
    right, wrong = mean_over(soft.confidence[soft.right]), mean_over(soft.confidence[~soft.right])
    # Two means of different images, and an interval made from theirs: Zou and Donner (2008).
    value = right.value - wrong.value
    low = value - math.hypot(right.value - right.low, wrong.high - wrong.value)
    high = value + math.hypot(right.high - right.value, wrong.value - wrong.low)
    difference = Estimate(value, low, high)
    text = f"Mean confidence {right.value:.3f} where right, {wrong.value:.3f} where wrong: {number(difference)}."
    return decided(text, above(difference))


@_claim(
    "level4",
    4,
    "Soft voting reduces overconfident mistakes.",
    f"It makes fewer mistakes with a confidence above {CONFIDENT} than either member on the same images, exact "
    "McNemar p < 0.05 each, not adjusted for other comparisons; not measurable where one p is larger.",
)
def _fewer_overconfident(evidence: Evidence) -> Verdict:
    soft, *members = (score(evidence, name) for name in ("level4", *MEMBERS))
    tests = [evaluation.mcnemar_marks(member.confident_mistakes, soft.confident_mistakes) for member in members]
    told = ", ".join(
        f"{name} {member.confident_mistakes.sum():,} (McNemar {p_words(test.p)})"
        for name, member, test in zip(MEMBERS, members, tests, strict=True)
    )
    agreed = (members[0].predicted == members[1].predicted) & ~members[0].right
    text = (
        f"Mistakes with a confidence above {CONFIDENT}: level4 {soft.confident_mistakes.sum():,}, {told}. A hard "
        f"vote that takes the share of votes for its confidence: {agreed.sum():,}, where the members agree."
    )
    return decided(text, *map(more_often, tests), unclear=ONE_NOT_SIGNIFICANT)


@_claim(
    "level4",
    4,
    "Soft voting handles ambiguous samples better.",
    "Where the members disagree, and elsewhere the two votes cannot differ, the soft vote is right more often "
    f"than a coin that picks one of the two answers: {ABOVE_0}",
)
def _ambiguous(evidence: Evidence) -> Verdict:
    a, b, soft = (score(evidence, name) for name in (*MEMBERS, "level4"))
    differ = a.predicted != b.predicted
    right = [scored.right[differ] for scored in (a, b, soft)]
    difference = mean_over(right[2] - _by_coin(evidence)[differ])
    text = (
        f"The members disagree on {differ.sum():,} images: right are {MEMBERS[0]} on {right[0].sum():,}, "
        f"{MEMBERS[1]} on {right[1].sum():,}, the soft vote on {right[2].sum():,}: {points(difference)} over the "
        "coin."
    )
    return decided(text, above(difference))


_claim("level4", 5, "Test accuracy of the ensemble is 95.11 %.", ACCURACY)(stated_accuracy("level4"))
_claim("level4", 5, "The ensemble is more accurate than level 3.", BETTER)(better("level4", "level3"))
_claim(
    "level4",
    5,
    "The gain over level 3 is 0.56 %.",
    GAIN,
    note="0.56 points are 56 of 10,000 images, about as many as are labelled wrongly (Northcutt et al. 2021), and "
    "about 300 nearly repeat training images (Barz and Denzler 2020).",
)(stated_gain("level4", "level3"))
_claim("level4", 5, "The ensemble is more accurate than the baseline.", BETTER)(better("level4", "level1"))
_claim("level4", 5, "The gain over the baseline is 12.9 %.", GAIN, note=_found("level4", 5, "12.9"))(
    stated_gain("level4", "level1")
)
_not_judged(
    "level4",
    6,
    "A third model, ConvNeXt-Tiny, was evaluated as an option.",
    "The document prints no figure of it; what it brings here is judged below.",
)
_not_judged(
    "level4",
    6,
    "The two-model ensemble already exceeds the Level 4 accuracy threshold.",
    "The threshold is never stated.",
)


@_claim(
    "level4",
    6,
    "A third model, ConvNeXt-Tiny, gives diminishing returns.",
    "Adding it to the soft vote gains fewer of the same test images than adding EfficientNet-B0 to level 3 did: "
    f"{BELOW_0}",
)
def _diminishing(evidence: Evidence) -> Verdict:
    one, two, third = (score(evidence, name) for name in (MEMBERS[0], "level4", "convnext"))
    members = [evidence.predictions(name)[0] for name in (*MEMBERS, "convnext")]
    three = Scored.of(evaluation.soft_vote(members), two.labels)
    gains = [after.right.astype(int) - before.right for before, after in ((one, two), (two, three))]
    difference = mean_over(gains[1] - gains[0])
    text = (
        f"Alone convnext has {percent(third.right.mean())}. The second model gains {gains[0].sum():+,d} images, "
        f"{points(mean_over(gains[0]))}, the third {gains[1].sum():+,d}, {points(mean_over(gains[1]))}; "
        f"the third's gain less the second's {points(difference)}."
    )
    return decided(text, below(difference))


_not_judged("level4", 6, "A simpler ensemble is easier to reproduce and to interpret.", UNJUDGEABLE)
_not_judged("level4", 6, "Leaving it out is pragmatic engineering, not over-optimisation.", UNJUDGEABLE)


@_claim(
    "level4",
    7,
    "Ensemble inference costs more.",
    "The members' multiply-adds for one image together are at least 5 % more than the larger member's.",
)
def _costs_more(evidence: Evidence) -> Verdict:
    metrics = [evidence.run(name).metrics for name in MEMBERS]
    sizes = [each["parameters"] for each in metrics]
    text = f"{sum(sizes):,} parameters, {sum(sizes) / max(sizes):.2f} times the larger member's."
    if any("multiply_adds" not in each for each in metrics):
        return f"Multiply-adds were not counted in these runs. {text}", None
    work = [each["multiply_adds"] for each in metrics]
    ratio = sum(work) / max(work)
    counts = " and ".join(f"{name} {each:,}" for name, each in zip(MEMBERS, work, strict=True))
    return f"Multiply-adds an image: {counts}, together {ratio:.2f} times the larger's. {text}", ratio >= 1.05


@_claim(
    "level4",
    7,
    "Confidence calibration is not addressed.",
    _BY_THE_DOCUMENTS,
)
def _calibration_left(evidence: Evidence) -> Verdict:
    text = "Nothing in Level 4's text calibrates a confidence."
    with contextlib.suppress(Missing):
        text += f" What one temperature, fitted on the validation images, would change: {_temperature(evidence)}"
    return text, True


def _temperature(evidence: Evidence) -> str:
    """What a temperature does to the soft vote's test loss and calibration error."""
    val_probs, val_labels = evidence.predictions("level4", "val")
    probs, labels = evidence.predictions("level4")
    t, scaled = evaluation.calibrate(probs, val_probs, val_labels)
    before, after = (evaluation.nll_each(p, labels) for p in (probs, scaled))
    difference = mean_over(after - before)
    errors = [evaluation.ece(p, labels) for p in (probs, scaled)]
    return (
        f"negative log-likelihood {before.mean():.4f}, {after.mean():.4f} at temperature {t:.2f}: difference "
        f"{number(difference, 4)}. ECE {percent(errors[0])}, then {percent(errors[1])}."
    )


_ALL_ERRORS = 489 / 6_000  # of the documented 95.11 % of 10,000 test images, 6,000 of which are animals


@_claim(
    "level4",
    7,
    "Minor confusion remains among fine-grained animal classes.",
    f"Some animals are taken for another, and at most {percent(_ALL_ERRORS)} of them, which the document's "
    "ensemble would have if all of its 489 errors were such: 95 % Wilson interval wholly below; not measurable "
    "where it contains that.",
)
def _minor_confusion(evidence: Evidence) -> Verdict:
    names, scored = class_names(evidence, "level4", *ANIMALS), score(evidence, "level4")
    animals = [names.index(animal) for animal in ANIMALS]
    of_animals = np.isin(scored.labels, animals)
    confused = of_animals & np.isin(scored.predicted, animals) & ~scored.right
    if not of_animals.any():
        raise Missing("Needs test images of animals.")
    share = wilson(int(confused.sum()), int(of_animals.sum()))
    text = (
        f"{confused.sum():,} of {of_animals.sum():,} animals are taken for another: {percent(share.value)}, 95 % "
        f"interval {percent(share.low)} to {percent(share.high)}."
    )
    return decided(text, bool(confused.any()), below(share, _ALL_ERRORS), unclear=contains(percent(_ALL_ERRORS)))


_not_judged(
    "level4",
    7,
    "Level 5 can address these by distillation and uncertainty estimation.",
    "There is no Level 5 among the documents, and none is run.",
)
_claim("level4", 8, "Its architectures are complementary.", _COMPLEMENTARY)(_complementary)
_not_judged("level4", 8, "The ensemble strategy is implemented cleanly.", UNJUDGEABLE)
_not_judged(
    "level4",
    8,
    "It balances performance, simplicity and robustness.",
    f"{UNJUDGEABLE} Its robustness by itself is judged in section 1.",
)
_not_judged(
    "level4",
    8,
    "It meets and exceeds the shortlisting threshold.",
    "The threshold is never stated.",
)
_not_judged("level4", 8, "It is a production-sensible design.", UNJUDGEABLE)

CLAIMS: tuple[Claim, ...] = tuple(_claims)
"""Every claim of the four documents, in their order."""
