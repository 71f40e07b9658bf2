"""Every claim against evidence in which it is true, in which it is false, and in which nothing can be told."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from oracles import paired_bootstrap

from cifarlib import claims, documented, evaluation, judging, models, recipes, robustness
from cifarlib.claims import CLAIMS, Claim, Evidence, table
from cifarlib.evaluation import Estimate
from cifarlib.runs import Run

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
N = 1000
LABELS = np.arange(N) % 10
SECTIONS = {"level1": 10, "level2": 11, "level3": 12, "level4": 8}  # of the documents
DOCUMENTED_CLAIMS = json.loads((Path(__file__).parent / "documented_claims.json").read_text())
RECIPES = recipes.resolve("full")[1]
OTHER_CLASSES = tuple(f"kind {i}" for i in range(10))
HALF = np.arange(N) < N // 2
EARLY = np.arange(N) < N // 3
UNSURE_EARLY = {"wrong": HALF, "confidence": np.where(HALF, 0.5, 0.8)}
UNSURE_LATE = {"wrong": ~HALF, "confidence": np.where(HALF, 0.8, 0.5)}


def probabilities(predicted: np.ndarray, confidence: float | np.ndarray) -> np.ndarray:
    """`confidence` for the predicted class, the rest spread evenly."""
    confidence = np.broadcast_to(confidence, (len(predicted),))
    probs = np.repeat((1 - confidence)[:, None] / 9, 10, axis=1)
    probs[np.arange(len(predicted)), predicted] = confidence
    return probs.astype(np.float32)


def predictions(wrong: int | np.ndarray | Mapping[tuple[str, str], int]) -> np.ndarray:
    """Predicted classes: the first so many wrong, those of a mask, or so many of one class as another."""
    predicted = LABELS.copy()
    if isinstance(wrong, Mapping):
        for (true, taken), count in wrong.items():
            still_right = np.flatnonzero((CLASSES.index(true) == LABELS) & (predicted == LABELS))
            predicted[still_right[:count]] = CLASSES.index(taken)
    else:
        mask = np.arange(N) < wrong if isinstance(wrong, int) else wrong
        predicted[mask] = (LABELS[mask] + 1) % 10
    return predicted


def make(
    name: str,
    *,
    wrong: int | np.ndarray | Mapping[tuple[str, str], int] = 100,
    confidence: float | np.ndarray = 0.8,
    val_wrong: int | np.ndarray = 100,
    train: tuple[float, ...] = (0.70, 0.80, 0.85, 0.86),
    val: tuple[float, ...] = (0.75, 0.82, 0.86, 0.862),
    train_loss: tuple[float, ...] | None = None,
    val_loss: tuple[float, ...] | None = None,
    measured: float = 0.9,
    classes: tuple[str, ...] = CLASSES,
    parameters: int = 100,
    trainable: int = 10,
    multiply_adds: int = 1000,
    **recipe: Any,
) -> Run:
    history = pd.DataFrame(
        {
            "epoch": range(1, len(val) + 1),
            "train_loss": train_loss or [1 - x for x in train],
            "train_accuracy": train,
            "val_loss": val_loss or [1 - x for x in val],
            "val_accuracy": val,
        }
    )
    return Run(
        recipe=replace(RECIPES[name], **recipe),
        path=Path(name),
        classes=classes,
        history=history,
        predictions={
            "test_probs": probabilities(predictions(wrong), confidence),
            "test_labels": LABELS,
            "val_probs": probabilities(predictions(val_wrong), confidence),
            "val_labels": LABELS,
        },
        metrics={
            "train_accuracy": measured,
            "val_accuracy": val[-1],
            "parameters": parameters,
            "trainable_parameters": trainable,
            "multiply_adds": multiply_adds,
        },
        environment={},
    )


def given(
    *,
    stated: bool = False,
    split: tuple[int, int, int] = (40_000, 10_000, 10_000),
    measures: Mapping[str, Any] | None = None,
    seeds: Mapping[str, Sequence[dict[str, Any]]] | None = None,
    **runs: dict[str, Any],
) -> Evidence:
    """Evidence with these runs, and others of them under more seeds; `stated` for the documented setting."""
    repeats = {name: [make(name, **values) for values in each] for name, each in (seeds or {}).items()}
    made = {name: make(name, **values) for name, values in runs.items()}
    return Evidence(made, split, stated, measures or {}, repeats)


def many(evidence: Evidence, times: int = 10) -> Evidence:
    """The same images so many times over: the same shares, known better."""
    runs = {
        name: replace(run, predictions={key: np.concatenate([x] * times) for key, x in run.predictions.items()})
        for name, run in evidence.runs.items()
    }
    return replace(evidence, runs=runs)


def cams(name: str, **values: Any) -> dict[str, Any]:
    """One run's Grad-CAM measures on 500 images, constant but for a little noise."""
    noise = 0.01 * np.sin(np.arange(500) + len(name))
    return {key: value if key in ("map_size", "right") else value + noise for key, value in values.items()}


def favouring_background(wrong: np.ndarray) -> dict[str, Any]:
    """Of 500 maps the first 100 favour the background; the mask says which images are wrong."""
    energy = np.where(np.arange(500) < 100, 0.1, 0.5)
    return maps(energy=energy, object_share=0.2, right=1.0 - wrong)


def maps(level2: Mapping[str, Any] | None = None, **level3: Any) -> dict[str, Any]:
    """Both runs' measures, of maps of 7 cells a side if nothing else is said."""
    both = {"level3": cams("level3", **{"map_size": 7} | level3)}
    return {"cams": both | ({"level2": cams("level 2", **{"map_size": 7} | dict(level2))} if level2 else {})}


def attributes(**values: np.ndarray) -> dict[str, Any]:
    return {"attributes": values}


def shifts(**lost: int) -> dict[str, Any]:
    """By recipe, how many of 500 images every shift costs; without one all are right."""
    wrong = {name: np.arange(500) < count for name, count in lost.items()}
    return {
        "robustness": {
            name: {"none": np.ones(500)} | dict.fromkeys(robustness.COLOUR, 1.0 - mask)
            for name, mask in wrong.items()
        }
    }


def gates(before: float, after: float) -> dict[str, Any]:
    noise = 0.01 * np.sin(np.arange(500))
    return {"gates": {"before": before + noise, "after": after + 2 * noise}}


THIRD = np.arange(N) % 3 == 0  # unrelated to the class
OFTEN_WRONG = THIRD & (np.arange(N) % 2 == 0)
SELDOM_WRONG = ~THIRD & (np.arange(N) % 4 == 0)
SMALL_THIRD = attributes(
    object_size=np.where(THIRD, 0.1, 0.5) + np.arange(N) * 1e-6,
    clutter=np.where(THIRD, 4, np.arange(N) % 2),
    occlusion=np.where(THIRD, 0.3, 0.0),
)
ANIMAL_ERRORS = {("cat", "dog"): 20, ("dog", "cat"): 10, ("bird", "cat"): 8, ("deer", "horse"): 5}
VEHICLE_ERRORS = {
    ("ship", "airplane"): 20,
    ("truck", "automobile"): 20,
    ("cat", "dog"): 2,
    ("bird", "frog"): 3,
}
FALLING, RISING = (0.9, 0.5, 0.3), (0.3, 0.5, 0.9)
UP, DOWN = (0.6, 0.7, 0.8), (0.8, 0.7, 0.6)
WORSE = {"level2_noaug_frozen": {"wrong": 200}}
ARMS = {"level2": {"wrong": 50}, "level2_noaug": {"wrong": 100}, "level2_frozen": {"wrong": 150}}
SURE = np.where(np.arange(N) < 200, 0.95, 0.6)
ALTERNATING = np.where(np.arange(N) % 2 == 0, 0.7, 0.9)
OTHERS_WRONG = (np.arange(N) >= 80) & (np.arange(N) < 180)  # 80 to 109 are wrong in the first 110 too
NEAR = np.roll(np.arange(N) < 100, 30)  # 70 of the first 100, and 30 more
ONE_MORE = np.arange(N) == N - 1  # wrong where others are right: a single image tells the two apart
FROM_LAYER4 = {"parameters": judging.BEFORE_LAYER4 + 14, "trainable": 14}
# Every class loses what its documented recall leaves, and gets about as many as its precision does.
AS_DOCUMENTED = {
    ("airplane", "ship"): 3,
    ("airplane", "automobile"): 2,
    ("automobile", "truck"): 3,
    ("bird", "cat"): 2,
    ("bird", "deer"): 5,
    ("cat", "dog"): 9,
    ("cat", "frog"): 2,
    ("deer", "bird"): 3,
    ("deer", "dog"): 2,
    ("deer", "horse"): 1,
    ("dog", "cat"): 9,
    ("frog", "horse"): 2,
    ("frog", "bird"): 2,
    ("horse", "deer"): 1,
    ("horse", "frog"): 2,
    ("ship", "airplane"): 3,
    ("truck", "automobile"): 3,
    ("truck", "airplane"): 2,
}
EVEN_ERRORS = {("cat", "dog"): 12, ("ship", "truck"): 10}
RIGID_FIRST = {(animal, "truck"): 40 for animal in judging.ANIMALS}
ANIMALS_FIRST = {(vehicle, "cat"): 40 for vehicle in judging.VEHICLES}

# The claim's level and beginning: evidence in which it holds, in which it does not, and, where the rule knows
# that chance alone may decide, in which these images cannot tell. What holds or is the run's own has one alone.
CASES: dict[tuple[str, str], tuple[Evidence, ...]] = {
    # --- level 1 ---
    ("level1", "The images are split 80 %"): (
        given(split=(80_000, 10_000, 10_000)),
        given(split=(40_000, 10_000, 10_000)),
    ),
    ("level1", "Pretrained ImageNet models expect"): (
        given(level1={"wrong": 100}, level1_32px={"wrong": 200}),
        given(level1={"wrong": 200}, level1_32px={"wrong": 100}),
        given(level1={"wrong": 100}, level1_32px={"wrong": 101}),
    ),
    ("level1", "Images are resized"): (given(level1={}),),
    ("level1", "No data augmentation"): (given(level1={}), given(level1={"augment": True})),
    ("level1", "The base model is ResNet-50"): (
        given(level1={}),
        given(level1={"model": "efficientnet_b0", "weights": "none"}),
    ),
    ("level1", "The backbone is frozen"): (
        given(level1={"trainable": 20_490}),
        given(level1={"trainable": 14_985_226}),
    ),
    ("level1", "Training takes Adam"): (given(level1={}),),
    ("level1", "Accuracy ends at 81.06 %"): (
        many(given(stated=True, level1={"train": (0.6, 0.7, 0.81), "val": (0.7, 0.8, 0.82)})),
        many(given(stated=True, level1={"train": (0.6, 0.7, 0.81), "val": (0.7, 0.8, 0.84)})),
        given(stated=True, level1={"train": (0.6, 0.7, 0.81), "val": (0.7, 0.8, 0.82)}),
    ),
    ("level1", "Accuracy improves steadily"): (
        given(level1={"train": UP, "val": UP}),
        given(level1={"train": UP, "val": (0.6, 0.7, 0.69)}),
    ),
    ("level1", "Validation accuracy is consistently higher"): (
        given(level1={"train": (0.5, 0.6, 0.7), "val": UP}),
        given(level1={"train": (0.5, 0.7, 0.7), "val": UP}),  # equal once, as in the document
    ),
    ("level1", "There is no overfitting"): (
        given(level1={"val_loss": (0.9, 0.5, 0.505, 0.5)}),
        given(level1={"val_loss": (0.9, 0.5, 0.5, 0.6)}),
    ),
    ("level1", "Training converges within five"): (
        many(given(level1={"val": (0.6, 0.80, 0.805), "train": UP})),
        many(given(level1={"val": UP, "train": UP})),
        given(level1={"val": (0.6, 0.80, 0.805), "train": UP}),
    ),
    ("level1", "Training and validation loss both"): (
        given(level1={"train": UP, "val": UP, "train_loss": FALLING, "val_loss": FALLING}),
        given(level1={"train": UP, "val": UP, "train_loss": FALLING, "val_loss": (0.9, 0.5, 0.5)}),
    ),
    ("level1", "The accuracy curve shows"): (
        given(level1={"val": UP, "train": UP}),
        given(level1={"val": (0.80, 0.801, 0.802), "train": UP}),
    ),
    ("level1", "The plots confirm stable"): (
        given(level1={"train": UP, "val": UP, "train_loss": FALLING, "val_loss": (0.9, 0.5, 0.6)}),
        given(level1={"train": UP, "val": UP, "train_loss": FALLING, "val_loss": (0.9, 1.5, 0.6)}),
    ),
    ("level1", "Test accuracy is 82.06 %"): (
        many(given(stated=True, level1={"wrong": 180})),
        given(stated=True, level1={"wrong": 90}),
        given(stated=True, level1={"wrong": 180}),
    ),
    ("level1", "Neither augmentation nor deep"): (
        given(level1={}),
        given(level1={"trainable": 10, "augment": True}),
    ),
    ("level1", "Having no augmentation"): (
        given(level2_frozen={"wrong": 100}, **WORSE),
        given(level2_frozen={"wrong": 300}, **WORSE),
        given(level2_frozen={"wrong": 199}, **WORSE),
    ),
    ("level1", "The fully frozen backbone"): (
        given(level2_noaug={"wrong": 100}, **WORSE),
        given(level2_noaug={"wrong": 300}, **WORSE),
        given(level2_noaug={"wrong": 200}, **WORSE),
    ),
    ("level1", "Level 2 and above address"): (
        given(level1={}, level2={"interpolation": "bicubic"}),
        given(level1={}, level2={}),
    ),
    ("level1", "The results are reproducible"): (
        given(level1={"wrong": 100}, seeds={"level1": [{"wrong": 101}, {"wrong": 99}]}),
        given(level1={"wrong": 100}, seeds={"level1": [{"wrong": 101}, {"wrong": 200}]}),
        given(level1={"wrong": 100}, seeds={"level1": [{"wrong": 110}]}),
    ),
    ("level1", "It is a stable reference point"): (
        given(level1={"wrong": 100}, seeds={"level1": [{"wrong": 101}]}),
        given(level1={"wrong": 100}, seeds={"level1": [{"wrong": 200}]}),
        given(level1={"wrong": 100}, seeds={"level1": [{"wrong": 100}, {"wrong": 90}]}),
    ),
    # --- level 2 ---
    ("level2", "Level 2 improves significantly"): (
        given(level2={"wrong": 100}, level1={"wrong": 200}),
        given(level2={"wrong": 100}, level1={"wrong": 50}),
        given(level2={"wrong": 100}, level1={"wrong": 103}),
    ),
    ("level2", "Against level 1 it adds"): (
        given(level1={}, level2={}),
        given(level1={}, level2={"augment": False, "schedule": "constant"}),
    ),
    ("level2", "Augmentation improves generalisation"): (
        given(level2={"wrong": 50}, level2_noaug={"wrong": 100}),
        given(level2={"wrong": 150}, level2_noaug={"wrong": 100}),
        given(level2={"wrong": 99}, level2_noaug={"wrong": 100}),
    ),
    ("level2", "Augmentation improves robustness"): (
        given(level2={}, level2_noaug={}, measures=shifts(level2=20, level2_noaug=60)),
        given(level2={}, level2_noaug={}, measures=shifts(level2=60, level2_noaug=20)),
        given(level2={}, level2_noaug={}, measures=shifts(level2=20, level2_noaug=21)),
    ),
    ("level2", "The training images are cropped"): (given(level2={}), given(level2={"hue": 0.0})),
    ("level2", "Augmentation reduces overfitting"): (
        given(level2={"measured": 0.9}, level2_noaug={"measured": 0.99}),
        given(level2={"measured": 0.99}, level2_noaug={"measured": 0.9}),
        # 1 point less, give or take 2.4
        given(
            level2={"measured": 0.9, "val_wrong": 110}, level2_noaug={"measured": 0.92, "val_wrong": OTHERS_WRONG}
        ),
    ),
    ("level2", "The base model is ResNet-50"): (
        given(level2={"weights": "imagenet1k_v2"}),
        given(level2={"model": "se_resnet50"}),
    ),
    ("level2", "Early layers are frozen"): (given(level2=FROM_LAYER4), given(level2={})),
    ("level2", "Unfreezing layer4"): (
        given(level2={"wrong": 50}, level2_frozen={"wrong": 100}),
        given(level2={"wrong": 150}, level2_frozen={"wrong": 100}),
        given(level2={"wrong": 100}, level2_frozen={"wrong": 100}),
    ),
    ("level2", "Training takes AdamW"): (given(level2={}),),
    ("level2", "Accuracy ends at 98.76 %"): (
        many(given(stated=True, level2={"train": (0.6, 0.7, 0.99), "val": (0.7, 0.8, 0.94)})),
        many(given(stated=True, level2={"train": (0.6, 0.7, 0.99), "val": (0.7, 0.8, 0.93)})),
        given(stated=True, level2={"train": (0.6, 0.7, 0.99), "val": (0.7, 0.8, 0.94)}),
    ),
    ("level2", "Convergence is rapid"): (
        given(level2={"train": UP, "val": (0.79, 0.8, 0.8)}),
        given(level2={"train": UP, "val": UP}),
    ),
    ("level2", "The gap between training and validation accuracy is slight"): (
        many(given(level2={"train": (0.5, 0.90), "val": (0.5, 0.86)})),
        given(level2={"train": (0.5, 0.95), "val": (0.5, 0.86)}),
        given(level2={"train": (0.5, 0.90), "val": (0.5, 0.86)}),
    ),
    ("level2", "Such a gap is to be expected"): (
        given(level2={"measured": 0.95}, level2_frozen={"measured": 0.9}),
        given(level2={"measured": 0.9}, level2_frozen={"measured": 0.95}),
        given(level2={}, level2_frozen={}),
    ),
    ("level2", "There is no instability"): (
        given(level2={"train": UP, "val": UP, "train_loss": FALLING, "val_loss": (0.9, 0.5, 0.6)}),
        given(level2={"train": UP, "val": UP, "train_loss": FALLING, "val_loss": (0.9, 1.5, 0.6)}),
    ),
    ("level2", "Training loss decreases"): (
        given(level2={"train": UP, "val": UP, "train_loss": FALLING}),
        given(level2={"train": UP, "val": UP, "train_loss": (0.9, 0.3, 0.31)}),
    ),
    ("level2", "Validation loss stabilises"): (
        given(level2={"train": UP, "val": UP, "val_loss": (0.9, 0.5, 0.49)}),
        given(level2={"train": UP, "val": UP, "val_loss": FALLING}),
    ),
    ("level2", "Accuracy is consistently and substantially"): (
        given(level2={"val": (0.8, 0.9), "train": (0.8, 0.9)}, level1={"train": UP, "val": UP}),
        # ahead, but by one point where the interval reaches 2.5 either way
        given(level2={"val": (0.61, 0.9), "train": (0.8, 0.9)}, level1={"train": UP, "val": UP}),
    ),
    ("level2", "The validation curve closely tracks"): (
        given(level2={"train": (0.80, 0.90), "val": (0.84, 0.86)}),
        given(level2={"train": (0.70, 0.90), "val": (0.84, 0.86)}),
    ),
    ("level2", "Test accuracy is 94.64 %"): (
        many(given(stated=True, level2={"wrong": 54})),
        given(stated=True, level2={"wrong": 180}),
        given(stated=True, level2={"wrong": 54}),
    ),
    ("level2", "The gain over the baseline is 12.5 %"): (
        many(given(stated=True, level2={"wrong": 54}, level1={"wrong": 180})),
        given(stated=True, level2={"wrong": 54}, level1={"wrong": 80}),
        given(stated=True, level2={"wrong": 54}, level1={"wrong": 180}),
    ),
    ("level2", "It shows that augmentation and fine-tuning"): (
        given(**ARMS, **WORSE),
        # better together than neither, and yet augmentation costs 5 points either way
        given(level2={"wrong": 100}, level2_noaug={"wrong": 50}, level2_frozen={"wrong": 250}, **WORSE),
        # and neither costs nor gains any
        given(level2={"wrong": 100}, level2_noaug={"wrong": 100}, level2_frozen={"wrong": 200}, **WORSE),
    ),
    ("level2", "The ablation finds"): (
        many(given(stated=True, level2={"wrong": 54}, level1={"wrong": 180})),
        given(stated=True, level2={"wrong": 54}, level1={"wrong": 80}),
        given(stated=True, level2={"wrong": 54}, level1={"wrong": 180}),
    ),
    ("level2", "Augmentation and fine-tuning are directly"): (
        given(**ARMS, level1={"wrong": 210}, **WORSE),
        # augmentation costs 5 points either way
        given(
            level2={"wrong": 100},
            level2_noaug={"wrong": 50},
            level2_frozen={"wrong": 250},
            level1={"wrong": 210},
            **WORSE,
        ),
        # and neither costs nor gains any
        given(
            level2={"wrong": 100},
            level2_noaug={"wrong": 100},
            level2_frozen={"wrong": 200},
            level1={"wrong": 210},
            **WORSE,
        ),
    ),
    ("level2", "Visually similar classes"): (
        given(level2={"wrong": {("cat", "dog"): 5}}, level1={"wrong": {("dog", "cat"): 40}}),
        given(level2={"wrong": {("cat", "dog"): 40}}, level1={"wrong": {("dog", "cat"): 5}}),
        given(level2={"wrong": {("cat", "dog"): 5}}, level1={"wrong": {("dog", "cat"): 9}}),
    ),
    ("level2", "It is more robust"): (
        given(level2={}, level1={}, measures=shifts(level2=20, level1=60)),
        given(level2={}, level1={}, measures=shifts(level2=60, level1=20)),
        given(level2={}, level1={}, measures=shifts(level2=20, level1=20)),
    ),
    ("level2", "Confusion persists for small or cluttered"): (
        given(level2={"wrong": OFTEN_WRONG}, measures=SMALL_THIRD),
        given(level2={"wrong": SELDOM_WRONG}, measures=SMALL_THIRD),
        given(level2={"wrong": np.arange(N) % 7 == 0}, measures=SMALL_THIRD),
    ),
    ("level2", "Some hard samples"): (
        given(level2={"wrong": 50, "confidence": SURE}),
        given(level2={"wrong": 0, "confidence": SURE}),
        given(level2={"wrong": 10, "confidence": SURE}),  # 95 % claimed of 200, and kept
    ),
    ("level2", "Level 3 addresses that overconfidence"): (
        given(level2={"wrong": 20, "confidence": SURE}, level3={"wrong": 5, "confidence": SURE}),
        given(level2={"wrong": 5, "confidence": SURE}, level3={"wrong": 20, "confidence": SURE}),
        # five images that only level 2 is sure and wrong about: p = 2 / 2^5
        given(level2={"wrong": 10, "confidence": SURE}, level3={"wrong": 5, "confidence": SURE}),
    ),
    ("level2", "Modern optimisation strategies"): (
        given(level1={"wrong": 300}, **WORSE),
        given(level1={"wrong": 100}, **WORSE),
        given(level1={"wrong": 201}, **WORSE),
    ),
    # --- level 3 ---
    ("level3", "The model is a pretrained ResNet-50 with"): (
        given(level3={}),
        given(level3={"model": "resnet50"}),
    ),
    ("level3", "SE attention improves discriminative"): (
        given(level3={"wrong": 50}, level3_plain={"wrong": 80}),
        given(level3={"wrong": 80}, level3_plain={"wrong": 50}),
        given(level3={"wrong": 54}, level3_plain={"wrong": 53}),
    ),
    ("level3", "SE attention emphasises"): (
        given(measures=gates(0.3, 0.35) | maps()),
        given(measures=gates(0.3, 0.305) | maps()),  # more, but by half a point
        given(measures=gates(0.3, 0.31) | maps()),
    ),
    ("level3", "The SE block adds minimal"): (
        given(level3={"parameters": 104, "multiply_adds": 1020}, level2={"parameters": 100}),
        given(level3={"parameters": 104, "multiply_adds": 1200}, level2={"parameters": 100}),
    ),
    ("level3", "Early layers are frozen"): (given(level3=FROM_LAYER4), given(level3={})),
    ("level3", "That reduces overfitting"): (
        given(level3={"measured": 0.9}, level3_full={"measured": 0.99}),
        given(level3={"measured": 0.99}, level3_full={"measured": 0.9}),
        given(level3={}, level3_full={"val_wrong": ONE_MORE | (np.arange(N) < 99)}),
    ),
    ("level3", "That enables better class separation"): (
        given(level3={"confidence": 0.9}, level3_full={"confidence": 0.8}),
        given(level3={"confidence": 0.7}, level3_full={"confidence": 0.8}),
        given(level3={"confidence": ALTERNATING}, level3_full={"confidence": 1.6 - ALTERNATING}),
    ),
    ("level3", "Training takes AdamW"): (given(level3={}),),
    ("level3", "Accuracy ends at 99.09 %"): (
        many(given(stated=True, level3={"train": (0.6, 0.7, 0.985), "val": (0.7, 0.8, 0.9409)})),
        many(given(stated=True, level3={"train": (0.6, 0.7, 0.985), "val": (0.7, 0.8, 0.95)})),
        given(stated=True, level3={"train": (0.6, 0.7, 0.985), "val": (0.7, 0.8, 0.9409)}),
    ),
    ("level3", "Convergence is smooth"): (
        many(given(level3={"train": UP, "val": (0.7, 0.8, 0.799)})),
        many(given(level3={"train": UP, "val": (0.7, 0.8, 0.7)})),
        given(level3={"train": UP, "val": (0.7, 0.8, 0.799)}),
    ),
    ("level3", "The gap between training and validation accuracy increases"): (
        given(level3={"train": UP, "val": (0.7, 0.7, 0.7)}),
        given(level3={"train": UP, "val": (0.5, 0.7, 0.8)}),
    ),
    ("level3", "Deeper fine-tuning"): (
        given(level3_full={"measured": 0.95}, level3={"measured": 0.9}),
        given(level3_full={"measured": 0.9}, level3={"measured": 0.95}),
        given(level3_full={}, level3={}),
    ),
    ("level3", "Validation accuracy stabilises"): (
        given(level3={"val": (0.7, 0.9, 0.905, 0.901)}),
        given(level3={"val": (0.7, 0.8, 0.85, 0.9)}),
        given(level3={"val": (0.7, 0.8, 0.805, 0.801)}),
    ),
    ("level3", "Validation accuracy settles around 94 %"): (
        given(stated=True, level3={"train": UP, "val": (0.8, 0.9, 0.9409)}),
        given(stated=True, level3={"train": UP, "val": (0.8, 0.9, 0.9309)}),
    ),
    ("level3", "Test accuracy is 94.55 %"): (
        many(given(stated=True, level3={"wrong": 55})),
        given(stated=True, level3={"wrong": 5}),
        given(stated=True, level3={"wrong": 55}),
    ),
    ("level3", "It matches level 2's accuracy"): (
        given(level3={"wrong": 60}, level2={"wrong": 60}),
        given(level3={"wrong": 100}, level2={"wrong": 60}),
        given(level3={"wrong": 60}, level2={"wrong": np.roll(np.arange(N) < 60, 60)}),
    ),
    ("level3", "Class confidence improves"): (
        given(level3={"confidence": 0.9}, level2={"confidence": 0.8}),
        given(level3={"confidence": 0.7}, level2={"confidence": 0.8}),
        given(level3={"confidence": ALTERNATING}, level2={"confidence": 1.6 - ALTERNATING}),
    ),
    ("level3", "Its merit is better feature attribution"): (
        given(level3={}, level2={}, measures=maps({"energy": 0.4}, energy=0.6)),
        given(level3={}, level2={}, measures=maps({"energy": 0.6}, energy=0.4)),
        given(level3={}, level2={}, measures=maps({"energy": 0.4}, energy=0.4)),
    ),
    ("level3", "Precision and recall per class are as in"): (
        many(given(stated=True, level3={"wrong": AS_DOCUMENTED})),
        given(stated=True, level3={"wrong": {("cat", "dog"): 40, ("ship", "truck"): 30}}),
        given(stated=True, level3={"wrong": AS_DOCUMENTED}),
    ),
    ("level3", "Vehicles and rigid objects"): (
        given(level3={"wrong": RIGID_FIRST}),
        given(level3={"wrong": VEHICLE_ERRORS}),
        given(level3={"wrong": EVEN_ERRORS}),
    ),
    ("level3", "Confusion persists between cat and dog"): (
        given(level3={"wrong": ANIMAL_ERRORS}),
        given(level3={"wrong": 600}),  # none of them between cat and dog
        given(level3={"wrong": VEHICLE_ERRORS}),
    ),
    # Of 300 cats, dogs and birds the first 30 cats are taken for dogs.
    ("level3", "These errors come with small objects"): (
        given(level3={"wrong": {("cat", "dog"): 30}}, measures=attributes(object_size=np.where(EARLY, 0.1, 0.5))),
        given(level3={"wrong": {("cat", "dog"): 30}}, measures=attributes(object_size=np.where(EARLY, 0.5, 0.1))),
        given(level3={"wrong": {("cat", "dog"): 30}}, measures=SMALL_THIRD),
    ),
    ("level3", "These errors come with cluttered"): (
        given(level3={"wrong": {("cat", "dog"): 30}}, measures=attributes(clutter=np.where(EARLY, 4, 1))),
        given(level3={"wrong": {("cat", "dog"): 30}}, measures=attributes(clutter=np.where(EARLY, 1, 4))),
        given(level3={"wrong": {("cat", "dog"): 30}}, measures=SMALL_THIRD),
    ),
    ("level3", "The confusion matrix is dominated"): (
        given(level3={"wrong": {("cat", "dog"): 39}}),
        given(level3={"wrong": {("cat", "dog"): 61}}),
        given(level3={"wrong": {("cat", "dog"): 49}}),
    ),
    ("level3", "The remaining errors are mostly among animals"): (
        given(level3={"wrong": ANIMAL_ERRORS}),
        given(level3={"wrong": VEHICLE_ERRORS}),
        given(level3={"wrong": EVEN_ERRORS}),
    ),
    ("level3", "SE attention slightly reduces confusion"): (
        given(level3={"wrong": 50}, level2={"wrong": 80}),
        given(level3={"wrong": 80}, level2={"wrong": 50}),
        given(level3={"wrong": 54}, level2={"wrong": 53}),
    ),
    ("level3", "Performance is balanced"): (
        many(given(level3={"wrong": {("cat", "dog"): 2}})),
        given(level3={"wrong": {("cat", "dog"): 30}}),
        given(level3={"wrong": {("cat", "dog"): 10}}),
    ),
    ("level3", "The model focuses on regions"): (
        given(measures=maps(energy=0.5, object_share=0.2, centre_energy=0.4, pointing=0.7)),
        given(measures=maps(energy=0.3, object_share=0.2, centre_energy=0.4, pointing=0.7)),
        given(measures=maps(energy=0.5, object_share=0.2, centre_energy=0.5, pointing=0.7)),
    ),
    ("level3", "Background regions receive"): (
        given(measures=maps(energy=0.5, object_share=0.2)),
        given(measures=maps(energy=0.25, object_share=0.2)),
        # exactly half, 2 x 0.25 / 1.25, but for the noise
        given(measures=maps(energy=0.4, object_share=0.25)),
    ),
    ("level3", "Attention maps are more compact"): (
        given(measures=maps({"compactness": 0.3, "map_size": 7}, compactness=0.1, map_size=7)),
        given(measures=maps({"compactness": 0.1, "map_size": 7}, compactness=0.3, map_size=7)),
        given(measures=maps({"compactness": 0.2, "map_size": 7}, compactness=0.2, map_size=7)),
    ),
    ("level3", "Attention maps are more object-centric"): (
        given(measures=maps({"energy": 0.4}, energy=0.5)),
        given(measures=maps({"energy": 0.5}, energy=0.4)),
        given(measures=maps({"energy": 0.4}, energy=0.4)),
    ),
    ("level3", "Failures happen where objects"): (
        given(level3={"wrong": OFTEN_WRONG}, measures=SMALL_THIRD),
        given(level3={"wrong": SELDOM_WRONG}, measures=SMALL_THIRD),
        given(level3={"wrong": np.arange(N) % 7 == 0}, measures=SMALL_THIRD),
    ),
    ("level3", "Background patterns can still distract"): (
        given(measures=favouring_background(np.arange(500) < 30)),
        given(measures=favouring_background(np.arange(500) >= 300)),
        given(measures=favouring_background(np.arange(500) % 10 == 0)),
    ),
    ("level3", "Attention improves where"): (
        given(measures=maps({"pointing": 0.4}, pointing=0.5)),
        given(measures=maps({"pointing": 0.5}, pointing=0.4)),
        given(measures=maps({"pointing": 0.5}, pointing=0.5)),
    ),
    ("level3", "Overall accuracy is similar"): (
        given(level3={"wrong": 60}, level2={"wrong": 60}),
        given(level3={"wrong": 60}, level2={"wrong": 100}),
        given(level3={"wrong": 60}, level2={"wrong": np.roll(np.arange(N) < 60, 60)}),
    ),
    ("level3", "Class-wise confidence improves"): (
        given(level3={"confidence": 0.9}, level2={"confidence": 0.8}),
        given(level3={"confidence": 0.7}, level2={"confidence": 0.8}),
        given(level3={"confidence": 0.8}, level2={"confidence": 0.8}),
    ),
    ("level3", "Accuracy gains over level 2 are marginal"): (
        many(given(level3={"wrong": 96}, level2={"wrong": 100})),
        given(level3={"wrong": 40}, level2={"wrong": 100}),
        given(level3={"wrong": 101}, level2={"wrong": 100}),
    ),
    ("level3", "Some fine-grained animal classes"): (
        given(level3={"wrong": RIGID_FIRST}),
        given(level3={"wrong": ANIMALS_FIRST}),
        given(level3={"wrong": {("cat", "dog"): 10, ("ship", "truck"): 9}}),
    ),
    # --- level 4 ---
    ("level4", "Ensembling improves robustness"): (
        given(level3={}, efficientnet={}, measures=shifts(level4=20, level3=60, efficientnet=70)),
        given(level3={}, efficientnet={}, measures=shifts(level4=60, level3=20, efficientnet=100)),
        given(level3={}, efficientnet={}, measures=shifts(level4=20, level3=20, efficientnet=60)),
    ),
    ("level4", "Ensembling improves generalisation"): (
        given(
            level3={"wrong": 100, "confidence": 1.55 - SURE},
            efficientnet={"wrong": np.arange(N) > 900, "confidence": SURE},
        ),
        given(level3={"wrong": 100, "confidence": 0.8}, efficientnet={"wrong": 20, "confidence": 0.6}),
        given(level3={"wrong": 100}, efficientnet={"wrong": 100}),
    ),
    ("level4", "Combining complementary models reduces variance"): (
        # Each member moves by as much from one seed to the next, the two in opposite directions.
        given(
            level3={"confidence": 0.9, "wrong": 0},
            efficientnet={"confidence": 0.7, "wrong": 0},
            seeds={
                "level3": [{"confidence": 0.7, "wrong": 0}, {"confidence": 0.9, "wrong": 0}],
                "efficientnet": [{"confidence": 0.9, "wrong": 0}, {"confidence": 0.7, "wrong": 0}],
            },
        ),
        # EfficientNet-B0 does not move at all, so that any other member adds to its variance.
        given(
            level3={"confidence": 0.9, "wrong": 0},
            efficientnet={"confidence": 0.7, "wrong": 0},
            seeds={
                "level3": [{"confidence": 0.7, "wrong": 0}, {"confidence": 0.9, "wrong": 0}],
                "efficientnet": [{"confidence": 0.7, "wrong": 0}] * 2,
            },
        ),
        given(
            level3={"confidence": 0.9},
            efficientnet={"confidence": 0.7},
            seeds={"level3": [{"confidence": 0.9}] * 2, "efficientnet": [{"confidence": 0.7}] * 2},
        ),
    ),
    ("level4", "Combining complementary models mitigates"): (
        given(level3={"wrong": HALF, "confidence": 0.6}, efficientnet={"wrong": ~HALF, "confidence": 0.6}),
        given(level3={"confidence": 0.6, "wrong": 0}, efficientnet={"confidence": 0.8, "wrong": 0}),
        given(level3={"confidence": 0.8}, efficientnet={"confidence": 0.8}),
    ),
    ("level4", "EfficientNet-B0 is parameter-efficient"): (
        given(efficientnet={"parameters": 40}, level3={"parameters": 100}),
        given(efficientnet={"parameters": 60}, level3={"parameters": 100}),
    ),
    ("level4", "Another architecture brings diversity"): (
        given(
            level3={"wrong": 100},
            efficientnet={"wrong": np.roll(HALF, 300)},
            seeds={"level3": [{"wrong": 101}]},
        ),
        given(
            level3={"wrong": 100},
            efficientnet={"wrong": 101},
            seeds={"level3": [{"wrong": np.roll(HALF, 300)}]},
        ),
        given(
            level3={"wrong": 100},
            efficientnet={"wrong": NEAR},
            seeds={"level3": [{"wrong": np.roll(NEAR, 1)}]},
        ),
    ),
    # Each architecture, and each seed, is wrong where it is unsure, or both are wrong on the same images.
    ("level4", "Diversity is key"): (
        given(level3=UNSURE_LATE, efficientnet=UNSURE_EARLY, seeds={"level3": [UNSURE_LATE]}),
        given(level3=UNSURE_LATE, efficientnet=UNSURE_LATE, seeds={"level3": [UNSURE_EARLY]}),
        # The second architecture is far the better one: its vote is right more often, and gains nothing.
        given(
            level3={"wrong": 100, "confidence": 0.6},
            efficientnet={"wrong": 0, "confidence": 0.8},
            seeds={"level3": [{"wrong": 100}]},
        ),
    ),
    ("level4", "EfficientNet-B0 ends at 92.93 %"): (
        many(given(stated=True, efficientnet={"train": (0.6, 0.7, 0.93), "val": (0.7, 0.8, 0.8972)})),
        many(given(stated=True, efficientnet={"train": (0.6, 0.7, 0.93), "val": (0.7, 0.8, 0.91)})),
        given(stated=True, efficientnet={"train": (0.6, 0.7, 0.93), "val": (0.7, 0.8, 0.8972)}),
    ),
    ("level4", "EfficientNet-B0 converges smoothly"): (
        many(given(efficientnet={"train": UP, "val": UP})),
        given(efficientnet={"train": UP, "val": UP, "train_loss": RISING}),
        given(efficientnet={"train": UP, "val": UP}),
    ),
    ("level4", "EfficientNet-B0's generalisation gap"): (
        many(given(efficientnet={"train": (0.5, 0.9293), "val": (0.5, 0.8972)})),
        given(efficientnet={"train": (0.5, 0.9893), "val": (0.5, 0.8972)}),
        given(efficientnet={"train": (0.5, 0.9293), "val": (0.5, 0.8972)}),
    ),
    ("level4", "EfficientNet-B0 shows no sign of overfitting"): (
        given(efficientnet={"train": UP, "val": UP, "val_loss": FALLING}),
        given(efficientnet={"train": UP, "val": UP, "val_loss": (0.9, 0.3, 0.4)}),
    ),
    ("level4", "The members' error patterns are complementary"): (
        given(level3={"wrong": 100}, efficientnet={"wrong": np.roll(np.arange(N) < 100, 50)}),
        given(level3={"wrong": 100}, efficientnet={"wrong": 120}),
        given(level3={"wrong": 100}, efficientnet={"wrong": NEAR}),
    ),
    ("level4", "Its architectures are complementary"): (
        given(level3={"wrong": 100}, efficientnet={"wrong": np.roll(np.arange(N) < 100, 50)}),
        given(level3={"wrong": 100}, efficientnet={"wrong": 120}),
        given(level3={"wrong": 100}, efficientnet={"wrong": NEAR}),
    ),
    ("level4", "Soft voting preserves confidence"): (
        given(level3={"confidence": 1.55 - SURE}, efficientnet={"confidence": 1.55 - SURE}),
        given(level3={"confidence": SURE}, efficientnet={"confidence": SURE}),
        given(level3={"confidence": ALTERNATING}, efficientnet={"confidence": ALTERNATING}),
    ),
    ("level4", "Soft voting reduces overconfident"): (
        given(
            level3={"wrong": 100, "confidence": SURE},
            efficientnet={"wrong": np.roll(np.arange(N) < 100, 100), "confidence": SURE},
        ),
        # The surer member is wrong and makes the vote sure, where the other had its doubts.
        given(level3={"wrong": 100, "confidence": 0.85}, efficientnet={"wrong": 100, "confidence": 0.99}),
        given(level3={"wrong": 100, "confidence": SURE}, efficientnet={"wrong": 100, "confidence": SURE}),
    ),
    ("level4", "Soft voting handles ambiguous"): (
        # Each member is wrong where it is unsure.
        given(level3=UNSURE_EARLY, efficientnet=UNSURE_LATE),
        given(
            level3={"wrong": 200, "confidence": 0.8},
            efficientnet={"wrong": 100, "confidence": 0.6},
        ),
        # The surer member is right on half of the images on which they differ, as a coin is.
        given(
            level3={"wrong": 100, "confidence": 0.8},
            efficientnet={"wrong": np.roll(np.arange(N) < 100, 100), "confidence": 0.6},
        ),
    ),
    ("level4", "Test accuracy of the ensemble is 95.11 %"): (
        many(given(stated=True, level3={"wrong": 49}, efficientnet={"wrong": 49})),
        given(stated=True, level3={"wrong": 149}, efficientnet={"wrong": 149}),
        given(stated=True, level3={"wrong": 49}, efficientnet={"wrong": 49}),
    ),
    ("level4", "The ensemble is more accurate than level 3"): (
        given(
            level3={"wrong": 100, "confidence": 1.55 - SURE},
            efficientnet={"wrong": np.arange(N) > 900, "confidence": SURE},
        ),
        given(level3={"wrong": 100, "confidence": 0.6}, efficientnet={"wrong": 200, "confidence": 0.8}),
        given(level3={"wrong": 100}, efficientnet={"wrong": 100}),
    ),
    ("level4", "The gain over level 3 is 0.56 %"): (
        given(
            stated=True,
            level3={"wrong": 6, "confidence": 0.6},
            efficientnet={"wrong": 0, "confidence": 0.8},
        ),
        given(stated=True, level3={"wrong": 100}, efficientnet={"wrong": 100}),
        # 106 images to 100: six more, give or take 28
        given(
            stated=True,
            level3={"wrong": 106, "confidence": 0.6},
            efficientnet={"wrong": np.roll(np.arange(N) < 100, 300), "confidence": 0.8},
        ),
    ),
    ("level4", "The ensemble is more accurate than the baseline"): (
        given(level3={"wrong": 50}, efficientnet={"wrong": 50}, level1={"wrong": 180}),
        given(level3={"wrong": 50}, efficientnet={"wrong": 50}, level1={"wrong": 20}),
        given(level3={"wrong": 50}, efficientnet={"wrong": 50}, level1={"wrong": 50}),
    ),
    ("level4", "The gain over the baseline is 12.9 %"): (
        many(given(stated=True, level3={"wrong": 50}, efficientnet={"wrong": 50}, level1={"wrong": 180})),
        given(stated=True, level3={"wrong": 50}, efficientnet={"wrong": 50}, level1={"wrong": 90}),
        given(stated=True, level3={"wrong": 50}, efficientnet={"wrong": 50}, level1={"wrong": 180}),
    ),
    ("level4", "A third model, ConvNeXt-Tiny, gives"): (
        given(
            level3={"wrong": 50, "confidence": 0.6},
            efficientnet={"wrong": 20, "confidence": 0.8},
            convnext={"wrong": 20},
        ),
        given(
            level3={"wrong": 50, "confidence": 0.6},
            efficientnet={"wrong": 50, "confidence": 0.4},
            convnext={"wrong": 0, "confidence": 1.0},
        ),
        given(level3={"wrong": 50}, efficientnet={"wrong": 50}, convnext={"wrong": 50}),
    ),
    ("level4", "Ensemble inference costs more"): (
        given(level3={"multiply_adds": 4000}, efficientnet={"multiply_adds": 1000}),
        given(level3={"multiply_adds": 4000}, efficientnet={"multiply_adds": 100}),
    ),
    ("level4", "Minor confusion remains among fine-grained"): (
        many(given(level3={"wrong": ANIMAL_ERRORS}, efficientnet={"wrong": ANIMAL_ERRORS})),  # 43 of 600
        given(level3={"wrong": {("cat", "dog"): 80}}, efficientnet={"wrong": {("cat", "dog"): 80}}),
        given(level3={"wrong": ANIMAL_ERRORS}, efficientnet={"wrong": ANIMAL_ERRORS}),
    ),
}
SOFT_BEATS_HARD = ("level4", "Soft voting is better than hard voting")  # needs probabilities of its own
DECIDED_BY_THE_DOCUMENTS = {
    ("level3", "Ensembling and confidence-based voting"): "holds",
    ("level3", "Meta-learning is addressed in Level 4"): "does not hold",
    ("level3", "Calibration is addressed in Level 4"): "does not hold",
    ("level4", "Confidence calibration is not addressed"): "holds",
}
# What a profile or an override chose, and what of it the evidence tells.
OWN_SETTINGS = [
    (("level1", "The images are split 80 %"), given(split=(1000, 250, 1000)), "44.4 % / 11.1 % / 44.4 %"),
    (("level1", "The images are split 80 %"), given(split=(800, 100, 100)), "80.0 % / 10.0 % / 10.0 %"),
    (("level1", "Images are resized"), given(level1={"image_size": 64}), "64 x 64 pixels: this"),
    (("level1", "The base model is ResNet-50"), given(level1={"weights": "none"}), "weights none."),
    (("level1", "The base model is ResNet-50"), given(level1={"weights": "a/mine.pth"}), "weights mine.pth."),
    (("level2", "The base model is ResNet-50"), given(level2={"weights": "pretrain"}), "weights pretrain."),
    (("level3", "The model is a pretrained"), given(level3={"weights": "pretrain"}), "weights pretrain."),
    (("level1", "Training takes Adam"), given(level1={"learning_rate": 3e-4}), "learning rate 0.001. Learning"),
    (("level2", "Training takes AdamW"), given(level2={"optimizer": "adam"}), "Optimizer adam: this"),
    (("level3", "Training takes AdamW"), given(level3={"weight_decay": 0.0}), "Weight decay 0.0: this"),
    (("level2", "Against level 1 it adds"), given(level1={}, level2={"schedule": "constant"}), "adamw, constant"),
]
SPLIT_CLAIM = ("level1", "The images are split 80 %")
CANNOT_TELL = "these images cannot tell."
NOT_JUDGED = [claim for claim in CLAIMS if claim.rule.startswith("No rule")]


def find(key: tuple[str, str]) -> Claim:
    (claim,) = (c for c in CLAIMS if c.level == key[0] and c.text.startswith(key[1]))
    return claim


def row(key: tuple[str, str], evidence: Evidence) -> dict[str, str]:
    return claims._row(find(key), evidence)  # as `table` does it, without the level's other claims


def told(key: tuple[str, str], evidence: Evidence) -> str:
    """The evidence of the runs, without what the documents themselves say."""
    return row(key, evidence)["evidence"].split(" The documents themselves:")[0]


def verdict(key: tuple[str, str], evidence: Evidence) -> str:
    return row(key, evidence)["verdict"]


def case_id(value: object) -> str | None:
    return " ".join(value) if isinstance(value, tuple) and value and isinstance(value[0], str) else None


@pytest.mark.parametrize(("key", "true", "false"), [(k, v[0], v[1:2]) for k, v in CASES.items()], ids=case_id)
def test_the_verdict_follows_the_evidence(key, true, false):
    assert verdict(key, true) == "holds", row(key, true)["evidence"]
    for evidence in false:
        assert verdict(key, evidence) == "does not hold", row(key, evidence)["evidence"]


@pytest.mark.parametrize(("key", "evidence", "words"), OWN_SETTINGS, ids=case_id)
def test_what_a_profile_or_an_override_chose_refutes_nothing(key, evidence, words):
    found = row(key, evidence)
    assert found["verdict"] == "not measurable here"
    assert words in found["evidence"]
    assert told(key, evidence).endswith(f"{judging.OWN_SETTING}.")
    assert "own setting" in found["rule"]


def test_whatever_only_a_setting_can_change_is_never_refuted():
    assert {k for k, v in CASES.items() if len(v) == 1} < {key for key, _, _ in OWN_SETTINGS}


@pytest.mark.parametrize(("key", "unclear"), [(k, v[2]) for k, v in CASES.items() if len(v) > 2], ids=case_id)
def test_what_chance_may_have_decided_is_not_measurable_and_says_so(key, unclear):
    found = row(key, unclear)
    assert found["verdict"] == "not measurable here", found["evidence"]
    assert told(key, unclear).endswith(CANNOT_TELL)


def test_a_rule_that_chance_may_decide_has_a_case_for_it():
    """What the rule itself calls not measurable, and nothing else."""
    uncertain = {find(key).text for key, cases in CASES.items() if len(cases) > 2}
    ruled = {c.text for c in CLAIMS if "not measurable where" in c.rule}
    assert ruled - uncertain == {find(SOFT_BEATS_HARD).text}
    assert uncertain <= ruled


@pytest.mark.parametrize(("key", "true"), [(k, v[0]) for k, v in CASES.items()], ids=case_id)
def test_a_missing_run_is_named_and_makes_the_claim_not_measurable(key, true):
    for name in true.runs:
        rest = {other: run for other, run in true.runs.items() if other != name}
        found = row(key, replace(true, runs=rest))
        assert found["verdict"] == "not measurable here"
        assert f"the run {name}," in found["evidence"]
    for name in true.repeats:
        rest = {other: runs for other, runs in true.repeats.items() if other != name}
        found = row(key, replace(true, repeats=rest))
        assert found["verdict"] == "not measurable here"
        assert f"a second seed of {name}," in found["evidence"]
    if true.measures:
        found = row(key, replace(true, measures={}))
        assert found["verdict"] == "not measurable here"
        assert f"the measure {next(iter(true.measures))}/" in found["evidence"]


def test_every_claim_has_its_case():
    judged = [find(key) for key in (*CASES, SOFT_BEATS_HARD, *DECIDED_BY_THE_DOCUMENTS)]
    assert len(set(map(id, judged))) == len(judged)
    assert set(map(id, (*judged, *NOT_JUDGED))) == set(map(id, CLAIMS))
    assert len(judged) + len(NOT_JUDGED) == len(CLAIMS)


@pytest.fixture(scope="module")
def everything() -> Evidence:
    """Every run and every measure, in the documents' setting."""
    rng = np.random.default_rng(0)
    runs = {
        name: {"wrong": rng.random(N) < 0.2, "confidence": rng.uniform(0.5, 1, N)}
        for name in RECIPES
        if name != "pretrain"
    }
    more = {
        name: [{"wrong": rng.random(N) < 0.2, "confidence": rng.uniform(0.5, 1, N)} for _ in range(2)]
        for name in runs
    }
    values = {"energy": 0.5, "object_share": 0.2, "pointing": 0.6, "compactness": 0.2, "map_size": 7}
    values |= {"centre_energy": 0.3, "entropy": 0.7, "road": 0.1}
    measures = favouring_background(np.arange(500) < 30)
    values |= {"right": measures["cams"]["level3"]["right"]}
    measures = (
        maps(values, **values | {"energy": np.where(np.arange(500) < 100, 0.1, 0.6)})
        | SMALL_THIRD
        | gates(0.3, 0.4)
    )
    measures |= shifts(level1=30, level2=20, level2_noaug=30, level3=20, efficientnet=30, level4=20)
    return given(stated=True, measures=measures, seeds=more, **runs)


def test_what_no_run_can_decide_says_why(everything):
    assert NOT_JUDGED
    for claim in NOT_JUDGED:
        text, holds = claim.judge(everything)
        assert holds is None
        assert text.endswith(".")


def test_everything_else_is_decided_where_everything_is_there(everything):
    undecided = [
        r["claim"]
        for level in documented.LEVELS
        for r in table(level, everything)
        if r["verdict"].startswith("not") and CANNOT_TELL not in r["evidence"]
    ]
    assert undecided == [claim.text for claim in NOT_JUDGED]


def test_tables_are_strings_in_the_documents_order_and_repeat_exactly(everything):
    for level in documented.LEVELS:
        rows = table(level, everything)
        assert rows == table(level, everything)
        sections = [int(r["section"]) for r in rows]
        assert sections == sorted(sections)
        for r in rows:
            assert list(r) == ["claim", "section", "evidence", "verdict", "rule"]
            assert all(type(value) is str and value for value in r.values())
            assert "nan" not in r["evidence"].split()


def test_with_nothing_run_nothing_is_claimed_but_what_needs_no_run():
    nothing = given()
    decided = {
        (level, r["claim"])
        for level in documented.LEVELS
        for r in table(level, nothing)
        if r["verdict"] != "not measurable here"
    }
    assert decided == {(k[0], find(k).text) for k in (SPLIT_CLAIM, *DECIDED_BY_THE_DOCUMENTS)}


@pytest.mark.parametrize(("key", "expected"), DECIDED_BY_THE_DOCUMENTS.items(), ids=case_id)
def test_some_claims_the_documents_decide_among_themselves(key, expected):
    assert verdict(key, given()) == expected


def test_the_claims_are_those_of_the_checked_in_list_one_by_one():
    """The list was written from the documents, section by section, apart from the judges."""
    assert [(c["level"], c["section"], c["gist"]) for c in DOCUMENTED_CLAIMS] == [
        (c.level, c.section, c.text) for c in CLAIMS
    ]


def test_each_level_has_its_claims_in_sections_that_exist():
    counts = Counter(claim.level for claim in CLAIMS)
    minimum = {"level1": 8, "level2": 10, "level3": 12, "level4": 10}
    assert counts.keys() == minimum.keys()
    assert all(counts[level] >= least for level, least in minimum.items())
    for claim in CLAIMS:
        assert 1 <= int(claim.section) <= SECTIONS[claim.level]
        assert claim.rule.endswith(".")
        assert claim.text.endswith(".")
    assert len({(claim.level, claim.text) for claim in CLAIMS}) == len(CLAIMS)


def test_every_contradiction_in_the_documents_stands_beside_its_claim(everything):
    for level in documented.LEVELS:
        rows = table(level, everything)
        for c in documented.CORRECTIONS:
            if c.level == level:
                (found,) = (r for r in rows if c.found in r["evidence"])
                assert found["section"] == str(c.section)


def test_a_contradiction_is_told_even_where_the_claim_is_not_measurable():
    found = row(("level2", "The gain over the baseline is 12.5 %"), given())
    assert found["verdict"] == "not measurable here"
    assert "12.58 percentage points" in found["evidence"]
    assert "nine of 10,000" in row(("level3", "It matches level 2's accuracy"), given())["evidence"]


@pytest.mark.parametrize(
    ("key", "true"), [(k, v[0]) for k, v in CASES.items() if v[0].documented_setting], ids=case_id
)
def test_documented_figures_are_compared_only_in_the_documents_setting(key, true):
    found = row(key, replace(true, documented_setting=False))
    assert found["verdict"] == "not measurable here"
    assert "%" in found["evidence"].split("The document's figure")[0]  # what was measured is still told


def test_figures_without_the_documents_setting_are_the_only_ones_that_need_it():
    figures = [c for c in CLAIMS if c.rule in (judging.ACCURACY, judging.GAIN, judging.LAST_EPOCH)]
    assert len(figures) == 11  # four accuracies, three gains, four last epochs
    keys = [k for k, v in CASES.items() if v[0].documented_setting]
    assert {c.text for c in figures} < {find(k).text for k in keys}


NAMES_CLASSES = [
    ("level2", "Visually similar classes"),
    ("level3", "Precision and recall per class"),
    ("level3", "Vehicles and rigid objects"),
    ("level3", "Confusion persists between cat and dog"),
    ("level3", "The remaining errors are mostly among animals"),
    ("level3", "Some fine-grained animal classes"),
    ("level4", "Minor confusion remains among fine-grained"),
]


@pytest.mark.parametrize("key", NAMES_CLASSES, ids=case_id)
def test_claims_about_named_classes_need_those_classes(key):
    runs = {name: {"classes": OTHER_CLASSES} for name in ("level1", "level2", "level3", "efficientnet")}
    found = row(key, given(stated=True, **runs))
    assert found["verdict"] == "not measurable here"
    assert "Needs CIFAR-10's classes" in found["evidence"]


def test_classes_of_any_name_have_a_diagonal_and_a_balance():
    evidence = given(level3={"classes": OTHER_CLASSES, "wrong": 100})
    assert "kind 0" in row(("level3", "The confusion matrix is dominated"), evidence)["evidence"]
    assert (
        verdict(("level3", "Performance is balanced"), given(level3={"classes": OTHER_CLASSES, "wrong": 0}))
        == "holds"
    )


OF_MAPS = [key for key, v in CASES.items() if "cams" in v[0].measures]


@pytest.mark.parametrize("key", OF_MAPS, ids=case_id)
def test_small_maps_cannot_tell_where_a_model_looks(key):
    for evidence in CASES[key]:
        measures = {name: dict(values) | {"map_size": 4} for name, values in evidence.measures["cams"].items()}
        found = row(key, replace(evidence, measures={**evidence.measures, "cams": measures}))
        assert found["verdict"] == "not measurable here"
        assert found["evidence"].endswith("The maps have 4 x 4 cells, too few to tell.")
        assert "7 cells a side" in found["rule"]


def test_small_maps_do_not_hide_a_gain_in_accuracy():
    key = ("level3", "Its merit is better feature attribution")
    measures = maps({"energy": 0.4, "map_size": 4}, energy=0.6, map_size=4)
    assert verdict(key, given(level3={"wrong": 40}, level2={"wrong": 100}, measures=measures)) == "does not hold"


def test_maps_that_all_favour_the_object_leave_nothing_to_compare():
    measures = maps(energy=0.5, object_share=0.2, right=np.ones(500))
    found = row(("level3", "Background patterns can still distract"), given(measures=measures))
    assert found["verdict"] == "not measurable here"
    assert "0 of 500 maps favour the background" in found["evidence"]


def test_classes_that_overlap_leave_open_which_group_is_first():
    key = ("level3", "Vehicles and rigid objects")
    wrong = {("cat", "dog"): 40, ("dog", "cat"): 40, ("truck", "ship"): 5}
    found = row(key, given(level3={"wrong": wrong}))
    assert found["verdict"] == "not measurable here"
    assert told(key, given(level3={"wrong": wrong})).endswith("their classes overlap.")


def test_an_animal_that_is_above_a_vehicle_beyond_chance_refutes_their_order():
    key = ("level3", "Vehicles and rigid objects")
    wrong = {("cat", "dog"): 80, ("dog", "cat"): 80, ("bird", "cat"): 60, ("ship", "truck"): 40}
    found = row(key, given(level3={"wrong": wrong}))
    assert found["verdict"] == "does not hold"
    assert "beyond chance" in found["evidence"]
    alike = {("cat", "dog"): 80, ("ship", "truck"): 53}  # the groups together cannot be told apart
    found = row(key, given(level3={"wrong": alike}))
    assert found["verdict"] == "does not hold" and "beyond chance" in found["evidence"]


def test_a_gain_whose_interval_alone_is_above_0_is_no_marginal_gain():
    """Tango's interval and McNemar's exact test can differ at the edge: all claims of a gain ask the test."""
    key = ("level3", "Accuracy gains over level 2 are marginal")
    better = many(given(level3={"wrong": 96}, level2={"wrong": 100}))
    assert verdict(key, better) == "holds"
    edge = given(level3={"wrong": 95}, level2={"wrong": 100})  # five images of 1,000, all one way: p = 0.0625
    difference = judging.compare(edge, "level3", "level2").difference
    assert difference.low > 0 and "McNemar p = 0.062" in row(key, edge)["evidence"]
    assert verdict(key, edge) == "not measurable here"


def test_where_the_object_lies_is_not_known_of_photographs():
    measures = maps({"entropy": 0.5}, entropy=0.5) | {"gates": {}, "attributes": {}}
    for values in measures["cams"].values():
        values.pop("energy", None)
    for key in (
        ("level3", "SE attention emphasises"),
        ("level3", "The model focuses on regions"),
        ("level3", "These errors come with small objects"),
    ):
        found = row(key, given(level3={}, level2={}, measures=measures))
        assert found["verdict"] == "not measurable here"
        assert "known of the built-in images alone" in found["evidence"]


def test_a_block_of_many_parameters_is_refuted_without_timings_and_of_few_is_open():
    key = ("level3", "The SE block adds minimal")
    for parameters, expected in ((104, "not measurable here"), (140, "does not hold")):
        evidence = given(level3={"parameters": parameters}, level2={"parameters": 100})
        assert "+0.00 %" in row(key, evidence)["evidence"]
        del evidence.runs["level2"].metrics["multiply_adds"]
        assert row(key, evidence)["verdict"] == expected
        assert "not counted" in row(key, evidence)["evidence"]
    assert verdict(key, given(level3={"parameters": 140}, level2={"parameters": 100})) == "does not hold"


@pytest.mark.parametrize(
    ("key", "name"),
    [
        (("level2", "The gap between training and validation accuracy is slight"), "level2"),
        (("level4", "EfficientNet-B0's generalisation gap"), "efficientnet"),
    ],
    ids=case_id,
)
def test_a_gap_that_only_the_measurement_without_augmentation_shows_is_a_gap(key, name):
    curves = {"train": (0.5, 0.90), "val": (0.5, 0.89)}
    assert verdict(key, many(given(**{name: curves | {"measured": 0.93}}))) == "holds"
    assert verdict(key, many(given(**{name: curves | {"measured": 0.97}}))) == "does not hold"


def test_a_gap_that_is_narrower_for_fitting_less_tells_nothing_of_overfitting():
    key = ("level2", "Augmentation reduces overfitting")
    found = row(key, given(level2={"measured": 0.7, "val_wrong": 300}, level2_noaug={"measured": 0.99}))
    assert "level2 +0.00 points, level2_noaug +9.00: -9.00 points" in found["evidence"]
    assert "Validation accuracy of level2 less level2_noaug: -20.00 points" in found["evidence"]
    assert found["verdict"] == "not measurable here"
    assert found["evidence"].endswith("the gap alone cannot tell.")


def test_arms_that_are_the_level_itself_have_nothing_to_say_of_it():
    key = ("level1", "Pretrained ImageNet models expect")
    found = row(key, given(level1={"image_size": 32}, level1_32px={}))
    assert found["verdict"] == "not measurable here"
    assert found["evidence"].startswith("Level 1 itself has images of 32 pixels: this run's own setting")
    found = row(key, given(level1={"wrong": 100, "weights": "pretrain"}, level1_32px={"wrong": 200}))
    assert found["verdict"] == "not measurable here"  # what ImageNet's weights expect, others do not say
    assert "+10.00 points" in found["evidence"]


def test_where_ties_allow_no_third_the_images_are_counted():
    key = ("level2", "Confusion persists for small or cluttered")
    assert "The 333 images of smallest object size: " in row(key, CASES[key][0])["evidence"]
    measures = attributes(object_size=np.where(np.arange(N) < 192, 0.1, 0.5), clutter=np.arange(N))
    found = row(key, given(level2={"wrong": 50}, measures=measures))
    assert "The 192 images of smallest object size (ties allow no third): 26.04 % wrong" in found["evidence"]


def test_these_errors_are_confusions_of_the_named_pairs_among_their_classes():
    """Of 300 birds, cats and dogs a third is early; 30 early cats are taken for dogs, 5 early dogs for frogs."""
    key = ("level3", "These errors come with small objects")
    wrong = {("cat", "dog"): 30, ("dog", "frog"): 5, ("ship", "truck"): 30}
    measures = attributes(object_size=np.where(EARLY, 0.1, 0.5))
    found = row(key, given(level3={"wrong": wrong}, measures=measures))
    early = int((EARLY & np.isin(LABELS, [CLASSES.index(name) for name in ("bird", "cat", "dog")])).sum())
    assert f"The {early} images of smallest object size: {100 * 30 / early:.2f} % confused" in found["evidence"]
    assert "the rest 0.00 %" in found["evidence"]


@pytest.mark.parametrize(
    ("key", "limit"),
    [
        (("level3", "It matches level 2's accuracy"), "1 point either way"),
        (("level3", "SE attention emphasises"), "+1 point"),
        (("level2", "The gap between training and validation accuracy is slight"), "5 points"),
        (("level3", "Performance is balanced"), "10 points"),
        (("level4", "Its architectures are complementary"), "a third"),
    ],
    ids=case_id,
)
def test_a_limit_other_than_0_is_named(key, limit):
    assert told(key, CASES[key][2]).endswith(f"limit, {limit}: {CANNOT_TELL}")


def test_what_a_temperature_would_change_is_told_beside_the_documents_verdict():
    key = ("level4", "Confidence calibration is not addressed")
    found = row(key, given(level3={"confidence": 0.6}, efficientnet={"confidence": 0.6}))
    assert found["verdict"] == "holds"
    assert "negative log-likelihood" in found["evidence"] and "at temperature" in found["evidence"]


def test_blank_maps_are_left_out_and_maps_of_other_images_refused():
    key = ("level3", "Attention maps are more object-centric")
    measures = maps({"energy": 0.4}, energy=0.5)
    measures["cams"]["level3"]["energy"][:10] = np.nan
    assert "on 490 images" in row(key, given(measures=measures))["evidence"]
    measures["cams"]["level3"]["energy"][:] = np.nan
    assert "not blank" in row(key, given(measures=measures))["evidence"]
    measures["cams"]["level3"]["energy"] = np.ones(7)
    assert "the same images" in row(key, given(measures=measures))["evidence"]
    assert verdict(key, given(measures=measures)) == "not measurable here"


def test_objects_that_are_all_alike_cannot_tell_small_from_large():
    measures = attributes(object_size=np.full(N, 0.2))
    found = row(("level3", "These errors come with small objects"), given(level3={}, measures=measures))
    assert found["verdict"] == "not measurable here"


def test_one_epoch_makes_no_curve():
    evidence = given(level1={"train": (0.5,), "val": (0.6,)})
    found = row(("level1", "Accuracy improves steadily"), evidence)
    assert found["verdict"] == "not measurable here"
    assert "two epochs" in found["evidence"]


def test_a_difference_of_exactly_the_limit_is_within_it():
    """0.80 - 0.75 is a little more than 0.05 in binary."""
    evidence = given(level2={"train": (0.80, 0.80), "val": (0.75, 0.75)})
    assert verdict(("level2", "The validation curve closely tracks"), evidence) == "holds"


def test_six_epochs_are_not_five():
    evidence = given(level1={"train": (0.8,) * 6, "val": (0.8,) * 6})
    assert verdict(("level1", "Training converges within five"), evidence) == "does not hold"


def soft_against_hard(correct_third: bool) -> Evidence:
    """Members that always disagree, while both find the same third class nearly as likely as their own."""
    runs = {}
    for offset, name in ((1, "level3"), (2, "efficientnet")):
        probs = np.zeros((N, 10), dtype=np.float32)
        third = LABELS if correct_third else (LABELS + 3) % 10
        own = (LABELS + offset) % 10 if correct_third or offset == 2 else LABELS
        probs[np.arange(N), own] = 0.55
        probs[np.arange(N), third] = 0.45
        run = make(name)
        run.predictions["test_probs"] = probs
        runs[name] = run
    return Evidence(runs, (1, 1, 1), False)


def test_soft_voting_is_compared_with_hard_voting_where_they_differ():
    """A soft vote may name a class that neither member names; a hard vote never does."""
    assert verdict(SOFT_BEATS_HARD, soft_against_hard(True)) == "holds"
    assert verdict(SOFT_BEATS_HARD, soft_against_hard(False)) == "does not hold"
    same = given(level3={"wrong": 100}, efficientnet={"wrong": 100})
    found = row(SOFT_BEATS_HARD, same)
    assert found["verdict"] == "not measurable here"
    assert "differ on 0 of 1,000" in found["evidence"]
    assert found["evidence"].endswith(CANNOT_TELL)


def test_the_evidence_is_what_a_hand_count_gives():
    key = ("level2", "Level 2 improves significantly")
    found = row(key, given(level2={"wrong": 100}, level1={"wrong": 106}))
    # Six images that only level 2 gets right: p = 2 / 2^6.
    assert found["evidence"].startswith("level2 90.00 %, level1 89.40 %: +0.60 points")
    assert "+6 of 1,000 images, McNemar p = 0.031" in found["evidence"]
    assert found["verdict"] == "holds"
    # Five: p = 2 / 2^5, too many by chance.
    assert verdict(key, given(level2={"wrong": 100}, level1={"wrong": 105})) == "not measurable here"


def test_the_interval_of_a_gain_is_about_the_paired_bootstraps():
    rng = np.random.default_rng(1)
    wrong = [rng.random(N) < rate for rate in (0.1, 0.15)]
    evidence = given(level2={"wrong": wrong[0]}, level1={"wrong": wrong[1]})
    ours = judging.compare(evidence, "level2", "level1").difference
    a, b = (evidence.run(name).predictions["test_probs"] for name in ("level2", "level1"))
    value, low, high = paired_bootstrap(evaluation.accuracy, LABELS, a, b, resamples=400)
    assert ours.value == pytest.approx(value, abs=1e-12)
    assert ours[1:] == pytest.approx((low, high), abs=0.005)
    assert high - low > 0.04  # the tolerance is an eighth of the width


def test_the_border_belongs_to_neither_side():
    """An interval that ends at the border contains it."""
    assert judging.above(Estimate(2, 1, 3)) is True
    assert judging.above(Estimate(-2, -3, -1)) is False
    assert judging.above(Estimate(1, 0, 2)) is None
    assert judging.below(Estimate(-1, -2, 0)) is None
    assert judging.above(Estimate(2, 1, 3), 2.5) is None
    assert judging.below(Estimate(2, 1, 3), 4) is True
    assert judging.below(Estimate(0, 0, 0)) is judging.above(Estimate(0, 0, 0)) is None


def test_one_part_that_fails_refutes_a_claim_and_one_that_is_open_leaves_it_open():
    assert judging.all_hold(True, True) is True
    assert judging.all_hold(True, None) is None
    assert judging.all_hold(None, False, True) is False


def test_alike_is_within_a_point_and_unlike_is_beyond_it():
    assert judging.alike(Estimate(0, -0.009, 0.009)) is True
    assert judging.alike(Estimate(0.005, 0.001, 0.009)) is True  # a difference, but a small one
    assert judging.alike(Estimate(0.02, 0.011, 0.03)) is False
    assert judging.alike(Estimate(-0.02, -0.03, -0.011)) is False
    assert judging.alike(Estimate(0, -0.02, 0.02)) is None


def few(evidence: Evidence, n: int) -> Evidence:
    """The first n images alone, of the measures too."""

    def cut(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: cut(part) for key, part in value.items()}
        return value[:n] if isinstance(value, np.ndarray) else value

    def shorter(run: Run) -> Run:
        return replace(run, predictions=cut(run.predictions))

    return replace(
        evidence,
        runs={name: shorter(run) for name, run in evidence.runs.items()},
        repeats={name: [shorter(run) for run in runs] for name, runs in evidence.repeats.items()},
        measures=cut(evidence.measures),
    )


SAME = given(
    level1={"wrong": 100},
    level2={"wrong": 100},
    level3={"wrong": 100},
    seeds={"level1": [{"wrong": 100}]},
    measures=maps({"energy": 0.4}, energy=0.6),
)


@pytest.mark.parametrize(
    "key",
    [
        ("level3", "It matches level 2's accuracy"),
        ("level3", "Overall accuracy is similar"),
        ("level3", "Its merit is better feature attribution"),
        ("level1", "The results are reproducible"),
        ("level1", "It is a stable reference point"),
    ],
    ids=case_id,
)
def test_twenty_images_that_tell_no_models_apart_do_not_prove_them_alike(key):
    """Tango's interval of 0 of 20 reaches 0.16 either way: 1.96² / (20 + 1.96²)."""
    assert verdict(key, SAME) == "holds"
    twenty = replace(few(SAME, 20), measures=SAME.measures)
    assert verdict(key, twenty) == "not measurable here"
    assert told(key, twenty).endswith(CANNOT_TELL)
    assert key[0] == "level1" or "-16.11 to +16.11" in told(key, twenty)


@pytest.mark.parametrize(
    ("key", "true"),
    [(k, v[0]) for k, v in CASES.items() if v[0].measures and "attributes" not in v[0].measures],
    ids=case_id,
)
def test_a_measure_of_29_images_decides_nothing(key, true):
    for n in (1, 29):
        found = row(key, replace(true, measures=few(true, n).measures))
        assert found["verdict"] == "not measurable here"
        assert f"Needs at least 30 images, and there are {n}." in found["evidence"]


@pytest.mark.parametrize(
    "key", [k for k, v in CASES.items() if "bootstrap interval" in find(k).rule and not v[0].measures], ids=case_id
)
def test_a_mean_over_29_images_decides_nothing(key):
    for evidence in CASES[key]:
        found = row(key, few(evidence, 29))
        assert found["verdict"] == "not measurable here"
        assert "Needs at least 30" in found["evidence"] or "Needs mistakes" in found["evidence"]


def test_the_difference_in_q_is_that_of_the_two_qs_and_its_interval_a_bootstraps():
    rng = np.random.default_rng(2)
    shared = rng.random(N) < 0.2
    wrong = [np.where(rng.random(N) < keep, shared, rng.random(N) < 0.2) for keep in (0.9, 0.7, 0.2)]
    a, b, c = (probabilities(predictions(mask), 0.8) for mask in wrong)

    def difference(rows: np.ndarray) -> float:
        pairs = ((a[rows], c[rows]), (a[rows], b[rows]))
        q = [evaluation.agreement(*pair, LABELS[rows]).q_statistic for pair in pairs]
        return q[0] - q[1]

    right = [~mask for mask in wrong]
    found = claims._q_difference([(right[0], right[2]), (right[0], right[1])])
    assert found.value == pytest.approx(difference(np.arange(N)), abs=1e-12)
    slow = np.quantile([difference(rng.integers(N, size=N)) for _ in range(400)], [0.025, 0.975])
    assert found[1:] == pytest.approx(slow, abs=0.05)
    assert slow[1] - slow[0] > 0.2


def test_diversity_is_judged_by_a_second_seed_and_told_against_level_2_without_one():
    key = ("level4", "Another architecture brings diversity")
    runs = {"level3": {"wrong": 100}, "efficientnet": {"wrong": NEAR}, "level2": {"wrong": np.roll(HALF, 300)}}
    assert "Between the members Q" in row(key, given(**runs))["evidence"]
    assert "between level3 and level2 Q" in row(key, given(**runs))["evidence"]
    assert "a second seed of level3, which is not here: set the parameter second_seed" in told(key, given(**runs))
    assert verdict(key, given(**runs)) == "not measurable here"
    found = row(key, given(seeds={"level3": [{"wrong": 101}]}, **runs))
    assert "between two seeds of level3 Q 1.000" in found["evidence"]
    assert found["verdict"] == "holds"
    assert "double fault 7.00 %" in found["evidence"]  # images 30 to 99


def test_without_a_second_seed_the_variance_is_not_measured_and_the_loss_is_told():
    key = ("level4", "Combining complementary models reduces variance")
    found = row(key, given(level3={"confidence": 0.6}, efficientnet={"confidence": 0.8}))
    assert found["verdict"] == "not measurable here"
    assert "a second seed of level3" in found["evidence"]
    assert "negative log-likelihood: level4 0.6611" in found["evidence"]


def test_the_variance_over_seeds_is_worked_by_hand():
    """True class 0.9, 0.7, 0.9: variance 0.08 / 6; 0.7 thrice: none; their mean 0.8, 0.7, 0.8: a quarter."""
    evidence = CASES["level4", "Combining complementary models reduces variance"][1]
    text = row(("level4", "Combining complementary models reduces variance"), evidence)["evidence"]
    assert "level4 3.333; level3 13.333, difference -10.000" in text
    assert "efficientnet 0.000, difference +3.333" in text


def test_two_seeds_give_the_variance_and_no_verdict():
    key = ("level4", "Combining complementary models reduces variance")
    for evidence in CASES[key]:
        two = {name: runs[:1] for name, runs in evidence.repeats.items()}
        found = row(key, replace(evidence, repeats=two))
        assert found["verdict"] == "not measurable here"
        assert "Variance over 2 seeds" in found["evidence"]
        assert found["evidence"].endswith(
            "Two seeds give no verdict, as an average of two varies less unless one "
            "varies three times as much as the other: train 3."
        )


def test_robustness_counts_what_the_shifts_cost_and_not_the_accuracy_before():
    measures = shifts(level2=10, level1=10)
    for right in measures["robustness"]["level2"].values():
        right[100:200] = 0  # wrong with and without a shift
    measures["robustness"]["level1"]["hue"] = np.zeros(500)
    found = row(("level2", "It is more robust"), given(level2={}, level1={}, measures=measures))
    assert "level2 less level1 on 500 shifted images: lost -24.50 points" in found["evidence"]  # a quarter of 98
    assert found["verdict"] == "holds"


def test_who_has_little_to_lose_is_not_robust_for_losing_little():
    """Right on nothing, it loses nothing."""
    measures = shifts(level2=0, level1=50)
    for right in measures["robustness"]["level2"].values():
        right[:] = 0
    found = row(("level2", "It is more robust"), given(level2={}, level1={}, measures=measures))
    assert "shifted images: lost -10.00 points" in found["evidence"]
    assert "accuracy there -90.00 points" in found["evidence"]
    assert found["verdict"] == "does not hold"


def test_half_right_over_a_shifts_directions_counts_as_a_half():
    measures = shifts(level2=0, level1=0)
    measures["robustness"]["level2"]["hue"] = np.full(500, 0.5)
    assert (
        "lost +12.50 points"
        in row(("level2", "It is more robust"), given(level2={}, level1={}, measures=measures))["evidence"]
    )


def test_the_batchnorm_arm_is_told_beside_level_1s_accuracy():
    key = ("level1", "Test accuracy is 82.06 %")
    without = row(key, given(stated=True, level1={"wrong": 90}))
    assert "BatchNorm" not in without["evidence"]
    found = row(key, given(stated=True, level1={"wrong": 90}, level1_batchnorm={"wrong": 170}))
    assert found["verdict"] == without["verdict"] == "does not hold"
    assert "(level1_batchnorm) 83.00 %, -8.00 points (95 % interval" in found["evidence"]
    assert ", nearer to the stated 82.06 %." in found["evidence"]
    further = row(key, given(stated=True, level1={"wrong": 90}, level1_batchnorm={"wrong": 50}))
    assert ", no nearer to the stated" in further["evidence"]
    elsewhere = row(key, given(level1={"wrong": 90}, level1_batchnorm={"wrong": 170}))
    assert "-8.00 points" in elsewhere["evidence"]
    assert "nearer" not in elsewhere["evidence"]


def test_road_and_entropy_are_told_beside_the_verdict_and_do_not_decide_it():
    key = ("level3", "Its merit is better feature attribution")
    measures = maps({"energy": 0.4}, energy=0.6)
    plain = row(key, given(level3={}, level2={}, measures=measures))
    measures["cams"]["level3"]["road"] = np.full(20, -0.2)
    measures["cams"]["level2"]["road"] = np.full(20, 0.1)
    found = row(key, given(level3={}, level2={}, measures=measures))
    assert found["verdict"] == plain["verdict"] == "holds"
    assert "Mean ROAD -0.2000, at level 2 0.1000: difference -0.3000" in found["evidence"]
    assert "on 20 images" in found["evidence"]
    compact = maps({"compactness": 0.3, "map_size": 7, "entropy": 0.5}, compactness=0.1, map_size=7, entropy=0.6)
    found = row(("level3", "Attention maps are more compact"), given(measures=compact))
    assert found["verdict"] == "holds"
    assert "Mean entropy 0.6" in found["evidence"]


def test_class_wise_confidence_is_judged_class_by_class():
    key = ("level3", "Class-wise confidence")

    def changed(*by_class: float) -> Evidence:
        return given(
            level3={"confidence": 0.7 + np.array(by_class)[LABELS], "wrong": 0},
            level2={"wrong": 0, "confidence": 0.7},
        )

    one_falls = changed(-0.1, *[0.2] * 9)
    found = row(key, one_falls)
    assert found["verdict"] == "does not hold"
    assert "rises in 9 (automobile +20.00, bird +20.00," in found["evidence"]
    assert "falls in 1 (airplane -10.00) of 10 classes" in found["evidence"]
    assert verdict(("level3", "Class confidence"), one_falls) == "holds"  # over the images together
    assert verdict(key, changed(*[0.2] * 6, 0, 0, 0, 0)) == "holds"
    found = row(key, changed(*[0.2] * 5, 0, 0, 0, 0, 0))
    assert found["verdict"] == "not measurable here"
    assert "rises in 5" in found["evidence"] and "falls in 0 of 10" in found["evidence"]
    assert found["evidence"].endswith(CANNOT_TELL)


def test_intervals_of_classes_picked_from_the_data_hold_all_at_once():
    """Of ten classes alike one looks worst: its difference to the best excludes 0 by itself, not among 45."""
    low, high = (88, 100), (96, 100)
    alone = evaluation.independent_difference(*high, *low)
    assert alone.low > 0
    (together, *_) = claims._simultaneous([(high, low)] * 45)
    assert together.low < 0
    assert together == evaluation.independent_difference(*high, *low, confidence=1 - 0.05 / 45)


def test_a_training_accuracy_off_by_more_than_a_point_is_not_the_documents():
    key = ("level1", "Accuracy ends at 81.06 %")
    train, val = (0.6, 0.7, 0.85), (0.7, 0.8, 0.8223)
    assert verdict(key, many(given(stated=True, level1={"train": train, "val": val}))) == "does not hold"


def test_a_gain_is_due_to_the_two_factors_only_where_they_bring_half_of_it():
    key = ("level2", "Augmentation and fine-tuning are directly")
    # They bring 15 points; the rest of the recipe brings 40, then 15.
    found = row(key, given(**ARMS, level1={"wrong": 600}, **WORSE))
    assert found["verdict"] == "does not hold"
    assert "Gain over level1 +55.00" in found["evidence"]
    assert "the two +15.00" in found["evidence"] and "epochs +40.00" in found["evidence"]
    assert "the two less these -25.00" in found["evidence"]
    assert verdict(key, given(**ARMS, level1={"wrong": 20}, **WORSE)) == "does not hold"  # no gain to be had
    evidence = given(**ARMS, level1={"wrong": 350}, **WORSE)
    assert verdict(key, evidence) == "not measurable here"
    assert told(key, evidence).endswith(CANNOT_TELL)


def test_inference_that_was_not_timed_costs_nobody_knows_what():
    key = ("level4", "Ensemble inference costs more")
    evidence = given(level3={"parameters": 100}, efficientnet={"parameters": 20})
    assert "level3 1,000 and efficientnet 1,000, together 2.00 times" in row(key, evidence)["evidence"]
    del evidence.runs["efficientnet"].metrics["multiply_adds"]
    found = row(key, evidence)
    assert found["verdict"] == "not measurable here"
    assert "not counted" in found["evidence"] and "1.20 times the larger" in found["evidence"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("level1", "level 1's notebook trains it"),
        ("level1_batchnorm", "level 1's notebook (parameter batchnorm) trains it"),
        ("level2", "level 2's notebook trains it"),
        ("level2_noaug", "level 2's notebook (parameter ablation) trains it"),
        ("level3", "level 3's notebook trains it"),
        ("efficientnet", "level 4's notebook trains it"),
        ("convnext", "level 4's notebook (parameter convnext) trains it"),
    ],
)
def test_a_missing_run_comes_with_what_trains_it(name, words):
    with pytest.raises(judging.Missing, match="run this notebook again afterwards") as missing:
        given().run(name)
    assert words in str(missing.value)


def test_rules_and_evidence_are_short_enough_for_a_table(everything):
    for claim in CLAIMS:
        assert len(claim.rule.split()) <= 45, claim.rule
        text = told((claim.level, claim.text), everything)
        assert len(text.split()) <= 62, text


def test_precision_counts_beside_recall():
    """Every recall is the documented one; that all errors go to one class spoils its precision alone."""
    key = ("level3", "Precision and recall per class are as in")
    found = row(key, many(given(stated=True, level3={"wrong": AS_DOCUMENTED})))
    assert "Consistent: precision in 10 and recall in 10 classes." in found["evidence"]
    lost = {name: round(100 * (1 - documented.PER_CLASS[name][1])) for name in CLASSES}
    pairs = {(name, "cat" if name != "cat" else "dog"): count for name, count in lost.items()}
    found = row(key, many(given(stated=True, level3={"wrong": pairs})))
    assert "recall in 10 classes" in found["evidence"]
    assert found["verdict"] == "does not hold"


def test_what_a_resnet_holds_before_layer4_is_what_level_2_freezes():
    parameters, trainable = models.count_parameters(models.build(replace(RECIPES["level2"], weights="none"), 10))
    assert parameters - trainable == judging.BEFORE_LAYER4


def test_differences_from_the_documents_training_are_listed():
    found = row(("level2", "Training takes AdamW"), given(level2={"epochs": 3, "batch_size": 32}))
    assert found["evidence"].endswith(
        "batch size 32; epochs 3. The document's: batch size 64, epochs 10. Batch size 32, epochs 3: "
        "this run's own setting, not the document's."
    )


def test_main_effects_are_those_of_the_four_arms():
    evidence = CASES["level2", "Augmentation and fine-tuning are directly"][0]
    text = row(("level2", "Augmentation and fine-tuning are directly"), evidence)["evidence"]
    # Errors 5, 10, 15 and 20 %: augmentation (5 + 5) / 2, fine-tuning (10 + 10) / 2 points.
    assert "augmentation +5.00 (" in text
    assert "fine-tuning +10.00 (" in text


def test_runs_of_different_test_images_are_refused():
    one, two = make("level1"), make("level2")
    two.predictions["test_labels"] = LABELS[::-1].copy()
    with pytest.raises(ValueError, match="'level1' and 'level2' predict different test images"):
        Evidence({"level1": one, "level2": two}, (1, 1, 1), False)
    three = make("level1")
    three.predictions["val_labels"] = LABELS[::-1].copy()
    with pytest.raises(ValueError, match="'level1' and 'level1' predict different validation images"):
        Evidence({"level1": one}, (1, 1, 1), False, repeats={"level1": [three]})


def test_an_unknown_level_is_refused():
    with pytest.raises(ValueError, match="unknown level 'level5'"):
        table("level5", given())
