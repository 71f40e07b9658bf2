"""Every table and figure of the study's four documents, as data, each with the section it comes from.

Nothing here was measured by this library. Accuracies are fractions of one, epochs count from 1, and sections are
those of the level's own document. The values are kept as the documents print them, slips included; `CORRECTIONS`
lists where the documents contradict their own numbers.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

Curve = tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class DocumentedLevel:
    """One level as its document describes it.

    Attributes:
        name: The level's key, "level1" to "level4".
        title: What the document's heading calls the level.
        model: The model's name in the documents' summary tables.
        epochs: Epochs of training.
        batch_size: Images per step. None, here and below, where the document gives nothing.
        optimizer: The optimizer's name.
        learning_rate: The optimizer's (initial) learning rate.
        weight_decay: The optimizer's weight decay; 0.0 where the document says there is none.
        schedule: The learning-rate schedule; "none" where the document says there is none.
        augmentation: The random transforms of the training images, in the document's order; empty where it
            says that there are none, None where it says nothing.
        trainable: The parts that are trained, the rest being frozen; None where the document says nothing.
        train_accuracy: `(epoch, accuracy)` for each epoch in the document's table.
        val_accuracy: The same for the validation images.
        test_accuracy: Accuracy on the 10,000 test images.
    """

    name: str
    title: str
    model: str
    epochs: int
    batch_size: int | None
    optimizer: str | None
    learning_rate: float | None
    weight_decay: float | None
    schedule: str | None
    augmentation: tuple[str, ...] | None
    trainable: tuple[str, ...] | None
    train_accuracy: Curve
    val_accuracy: Curve
    test_accuracy: float | None


LEVEL1 = DocumentedLevel(  # configuration: section 5, curves: 6, test accuracy: 8
    name="level1",
    title="Baseline Transfer Learning",
    model="ResNet-50 (Frozen)",
    epochs=5,
    batch_size=64,
    optimizer="Adam",
    learning_rate=1e-3,
    weight_decay=0.0,  # "None" for regularization and for scheduling: level 2, section 2
    schedule="none",
    augmentation=(),
    trainable=("classifier",),
    train_accuracy=((1, 0.7428), (2, 0.7877), (3, 0.8016), (4, 0.8101), (5, 0.8106)),
    val_accuracy=((1, 0.7894), (2, 0.8036), (3, 0.8016), (4, 0.8181), (5, 0.8223)),
    test_accuracy=0.8206,
)

LEVEL2 = DocumentedLevel(  # configuration: section 5, curves: 6, test accuracy: 8
    name="level2",
    title="Data Augmentation & Optimization",
    model="ResNet-50 + Aug",
    epochs=10,
    batch_size=64,
    optimizer="AdamW",
    learning_rate=3e-4,
    weight_decay=1e-4,
    schedule="cosine annealing",
    augmentation=(
        "random crop with padding",
        "random horizontal flip",
        "color jitter (brightness, contrast, saturation, hue)",
    ),
    trainable=("layer4", "classifier"),
    train_accuracy=(
        (1, 0.8441),
        (2, 0.9030),
        (3, 0.9219),
        (4, 0.9391),
        (5, 0.9509),
        (6, 0.9636),
        (7, 0.9721),
        (8, 0.9817),
        (9, 0.9860),
        (10, 0.9876),
    ),
    val_accuracy=(
        (1, 0.8740),
        (2, 0.9006),
        (3, 0.9170),
        (4, 0.9212),
        (5, 0.9253),
        (6, 0.9280),
        (7, 0.9393),
        (8, 0.9382),
        (9, 0.9414),
        (10, 0.9434),
    ),
    test_accuracy=0.9464,
)

LEVEL3 = DocumentedLevel(  # configuration: section 4, curves: 5, test accuracy: 6
    name="level3",
    title="Advanced Model Design & Analysis",
    model="ResNet-50 + SE Attention",
    epochs=12,
    batch_size=64,
    optimizer="AdamW",
    learning_rate=3e-4,
    weight_decay=1e-4,
    schedule="cosine annealing",
    augmentation=None,  # the document does not say whether level 2's was kept
    trainable=("layer4", "se", "classifier"),
    train_accuracy=(
        (1, 0.8443),
        (2, 0.9008),
        (3, 0.9220),
        (4, 0.9362),
        (5, 0.9483),
        (6, 0.9603),
        (7, 0.9685),
        (8, 0.9764),
        (9, 0.9815),
        (10, 0.9855),
        (11, 0.9905),
        (12, 0.9909),
    ),
    val_accuracy=(
        (1, 0.8771),
        (2, 0.9035),
        (3, 0.9007),
        (4, 0.9123),
        (5, 0.9231),
        (6, 0.9285),
        (7, 0.9305),
        (8, 0.9326),
        (9, 0.9350),
        (10, 0.9368),
        (11, 0.9421),
        (12, 0.9409),
    ),
    test_accuracy=0.9455,
)

# The curves are EfficientNet-B0's, of which the document prints three epochs; the test accuracy is the
# ensemble's. Its own test accuracy and configuration are not given.
LEVEL4 = DocumentedLevel(  # curves: section 3, test accuracy: 5
    name="level4",
    title="Ensemble Learning",
    model="Ensemble (SE-ResNet + EfficientNet)",
    epochs=10,  # the last epoch in the table
    batch_size=None,
    optimizer=None,
    learning_rate=None,
    weight_decay=None,
    schedule=None,
    augmentation=None,
    trainable=None,
    train_accuracy=((1, 0.7394), (5, 0.9052), (10, 0.9293)),
    val_accuracy=((1, 0.8234), (5, 0.8874), (10, 0.8972)),
    test_accuracy=0.9511,
)

LEVELS: dict[str, DocumentedLevel] = {level.name: level for level in (LEVEL1, LEVEL2, LEVEL3, LEVEL4)}

SPLIT: dict[str, dict[str, float]] = {
    "images": {"train": 40_000, "validation": 10_000, "test": 10_000},
    "stated": {"train": 0.80, "validation": 0.10, "test": 0.10},
    "true": {"train": 40_000 / 60_000, "validation": 10_000 / 60_000, "test": 10_000 / 60_000},
}
"""Level 1, section 2: images per part, the fractions the document states, and what those images are."""

DATASET: dict[str, int] = {
    "images": 60_000,  # level 1, sections 1 and 2
    "official_train": 50_000,  # level 1, section 2
    "official_test": 10_000,
    "classes": 10,  # level 1, section 1
    "stored_size": 32,
    "image_size": 224,  # level 1, section 3
    "features": 2048,  # level 1, section 4: the classifier's inputs
}
"""Counts and pixel sizes of level 1, sections 1 to 4."""

ENHANCEMENTS: tuple[tuple[str, str, str], ...] = (
    ("Data Augmentation", "None", "Strong"),
    ("Backbone Training", "Fully frozen", "Partially fine-tuned"),
    ("Optimizer", "Adam", "AdamW"),
    ("LR Scheduling", "None", "Cosine Annealing"),
    ("Regularization", "None", "Weight Decay"),
    ("Test Accuracy", "82.06%", "94.64%"),
)
"""Level 2, section 2: component, level 1, level 2, as printed."""


@dataclass(frozen=True)
class AblationRow:
    """One row of level 2's ablation table (section 9); `test_accuracy` is a fraction of one."""

    experiment: str
    augmentation: bool
    fine_tuning: bool
    test_accuracy: float


ABLATION: tuple[AblationRow, ...] = (
    AblationRow("Level-1 Baseline", augmentation=False, fine_tuning=False, test_accuracy=0.8206),
    AblationRow("Level-2 Model", augmentation=True, fine_tuning=True, test_accuracy=0.9464),
)
"""Level 2, section 9."""

PER_CLASS: dict[str, tuple[float, float, float]] = {
    "airplane": (0.95, 0.95, 0.95),
    "automobile": (0.96, 0.97, 0.97),
    "bird": (0.95, 0.93, 0.94),
    "cat": (0.90, 0.89, 0.89),
    "deer": (0.95, 0.94, 0.94),
    "dog": (0.90, 0.91, 0.90),
    "frog": (0.96, 0.96, 0.96),
    "horse": (0.96, 0.97, 0.96),
    "ship": (0.96, 0.97, 0.97),
    "truck": (0.97, 0.95, 0.96),
}
"""Level 3, section 7: precision, recall and F1 of each class, printed to two decimals."""


def of_its_classes(classes: Iterable[str]) -> bool:
    """Say whether a study is about the documents' ten classes; where nothing is known of them, it may be."""
    return set(classes) in (set(), set(PER_CLASS))


CONFUSED_PAIRS: tuple[tuple[str, str], ...] = (("cat", "dog"), ("bird", "cat"))
"""Level 3, section 7: the pairs of classes it calls persistently confused."""

ENSEMBLE: tuple[tuple[str, str, str, float], ...] = (
    ("ResNet-50 + SE", "Attention-enhanced CNN", "Strong spatial & channel focus", 0.5),
    ("EfficientNet-B0", "Parameter-efficient CNN", "Architectural diversity", 0.5),
)
"""Level 4, sections 2 and 4: member, description, role, and weight in the average of probabilities."""

SUMMARIES: dict[str, tuple[tuple[str, str, float], ...]] = {
    "level3": (
        ("level1", "ResNet-50 (Frozen)", 0.8206),
        ("level2", "ResNet-50 + Aug", 0.9464),
        ("level3", "ResNet-50 + SE Attention", 0.9455),
    ),
    "level4": (
        ("level1", "ResNet-50", 0.8206),
        ("level2", "ResNet-50 + Aug", 0.9464),
        ("level3", "ResNet-50 + SE", 0.9455),
        ("level4", "Ensemble (SE-ResNet + EfficientNet)", 0.9511),
    ),
}
"""Level 3, section 10, and level 4, section 5: level, model as named there, test accuracy."""


@dataclass(frozen=True)
class StatedGain:
    """A gain in test accuracy as a document states it: `points` of percent of `level` over `over`."""

    level: str
    section: int
    over: str
    points: float


GAINS: tuple[StatedGain, ...] = (
    StatedGain("level2", section=8, over="level1", points=12.5),
    StatedGain("level4", section=5, over="level3", points=0.56),
    StatedGain("level4", section=5, over="level1", points=12.9),
)
"""Every gain the documents put a number on. They write "%" and mean percentage points."""


@dataclass(frozen=True)
class Correction:
    """A statement that the documents' own numbers contradict.

    Attributes:
        level: The level whose document makes the statement.
        section: The section that makes it.
        stated: What it says.
        found: What the documents' numbers give instead.
    """

    level: str
    section: int
    stated: str
    found: str


CORRECTIONS: tuple[Correction, ...] = (
    Correction(
        "level1",
        2,
        "The split is 80% / 10% / 10%.",
        "40,000 / 10,000 / 10,000 of 60,000 images is 66.7% / 16.7% / 16.7%; "
        "80% is the training part's share of the 50,000 official training images alone.",
    ),
    Correction(
        "level1",
        6,
        "Validation accuracy is consistently higher than training accuracy.",
        "At epoch 3 the two are equal, 80.16% and 80.16%; it is higher in the other four epochs.",
    ),
    Correction(
        "level1",
        6,
        "Accuracy improves steadily across epochs.",
        "Validation accuracy falls by 0.20 points at epoch 3, from 80.36% to 80.16%.",
    ),
    Correction(
        "level1",
        9,
        "Level 2 and above address these limitations.",
        "They address 2 of the 3: no later level says anything about the interpolation of 32 pixels to 224.",
    ),
    Correction(
        "level2",
        3,
        "Augmentation, ImageNet normalization in its list, was applied only on the training set.",
        "Level 1, section 3, normalizes all images, and a network is tested as it was trained: of the 4 entries "
        "in the list only 3 are augmentations.",
    ),
    Correction(
        "level2",
        8,
        "Level 2 is +12.5% over the baseline.",
        "94.64 - 82.06 = 12.58 percentage points (12.6 to one decimal).",
    ),
    Correction(
        "level2",
        9,
        "The ablation confirms that the applied techniques are directly responsible for the gain.",
        "Its 2 rows change augmentation and fine-tuning together, and with them optimizer, learning rate, "
        "weight decay, schedule and epochs: no single cause can be told apart.",
    ),
    Correction(
        "level2",
        10,
        "Overconfidence is addressed in level 3, using interpretability.",
        "Level 3 prints no confidence; its section 11 leaves calibration to level 4, whose section 7 does not "
        "address it.",
    ),
    Correction(
        "level3",
        5,
        "The train-validation gap grows because of deeper fine-tuning.",
        "Fine-tuning is no deeper than level 2's: layer4 and the classifier in both, the SE block added. "
        "At epoch 10 the gap is 4.87 points against level 2's 4.42; at epoch 12 it is 5.00.",
    ),
    Correction(
        "level3",
        7,
        "Vehicles and rigid objects achieve the highest accuracy.",
        "Horse has the recall of automobile and ship, 0.97, and frog's 0.96 is above airplane's and truck's 0.95.",
    ),
    Correction(
        "level3",
        8,
        "SE attention slightly reduces confusion compared to level 2.",
        "Level 3 has more errors in all: 545 of 10,000 test images against level 2's 536.",
    ),
    Correction(
        "level3",
        11,
        "Accuracy gains are marginal over level 2.",
        "There is no gain: 94.55 - 94.64 = -0.09 points, 9 images of 10,000.",
    ),
    Correction(
        "level3",
        11,
        "Meta-learning is addressed in level 4.",
        "Level 4 learns nothing about how to combine its members: section 4 fixes both weights at 0.5.",
    ),
    Correction(
        "level3",
        11,
        "Calibration is addressed in level 4.",
        "Level 4, section 7, lists calibration among what it does not address.",
    ),
    Correction(
        "level4",
        2,
        "The SE-ResNet's role in the ensemble is a strong spatial and channel focus.",
        "Level 3, section 2, describes attention to channels alone: each of the 2048 has one weight, whatever the "
        "place.",
    ),
    Correction(
        "level4",
        3,
        "EfficientNet-B0 shows no signs of overfitting.",
        "Training accuracy minus validation accuracy goes from -8.40 points at epoch 1 "
        "to 1.78 at epoch 5 and 3.21 at epoch 10.",
    ),
    Correction(
        "level4",
        5,
        "The ensemble is +12.9% over the level 1 baseline.",
        "95.11 - 82.06 = 13.05 percentage points.",
    ),
)
"""Where the documents contradict themselves, in the documents' order."""
