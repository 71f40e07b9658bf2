"""Which finished runs predict, if none is named: those on the images that were trained on last."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from cifarlib import predicting, recipes, runs
from cifarlib.runs import RunFolder

DIGITS = ("one", "two", "three", "four", "five")
LEAVES = ("beech", "oak")


def fake(
    root: Path,
    name: str,
    age: float,
    *,
    images: str,
    classes: tuple[str, ...] = LEAVES,
    source: str = "folder",
    seed: int = 0,
) -> Path:
    """A whole run folder, `age` seconds old, with weights that nobody builds a model from."""
    recipe = replace(recipes.documented_recipe(name), seed=seed)
    folder = RunFolder(root, recipe, data=images, weights="imagenet", classes=classes)
    folder.finish(
        weights={"fc.weight": torch.ones(2)},
        history=pd.DataFrame({"epoch": [1]}),
        predictions={"val_probs": np.full((2, 2), 0.5, np.float32), "val_labels": np.array([0, 1])},
        metrics={"test_accuracy": 0.875, "source": source},
        environment={},
    )
    for path in (*folder.path.iterdir(), folder.path):
        os.utime(path, (1e9 - age, 1e9 - age))
    return folder.path


def chosen(root: Path) -> tuple[list[Path], list[str]]:
    said: list[str] = []
    return [run.path for run in predicting.choose(root, said.append)], said


def test_the_images_that_were_trained_on_last_are_the_ones_that_are_meant(tmp_path: Path) -> None:
    """After a demonstration, one's own level 2 predicts one's own classes, and not the ensemble the drawings'."""
    drawn = [
        fake(tmp_path, name, 100, images="drawings", classes=DIGITS, source="synthetic")
        for name in ("level3", "efficientnet")
    ]
    fake(tmp_path, "level1", 5, images="leaves")
    level2 = fake(tmp_path, "level2", 10, images="leaves")
    members, said = chosen(tmp_path)
    assert members == [level2]  # the higher level, not the newer one
    assert said == [f"Predicting with {level2}, trained on images from a folder: beech, oak"]

    later = fake(tmp_path, "level1", 1, images="drawings", classes=DIGITS, source="synthetic")
    members, said = chosen(tmp_path)
    assert members == drawn
    assert said == [
        f"Predicting with the ensemble of {drawn[0]} and {drawn[1]}, trained on built-in drawings: one, two, "
        "three, ... (5 classes)"
    ]
    assert later not in members


def test_members_of_two_seeds_are_no_ensemble(tmp_path: Path) -> None:
    level3 = fake(tmp_path, "level3", 5, images="leaves")
    fake(tmp_path, "efficientnet", 10, images="leaves", seed=1)
    assert chosen(tmp_path)[0] == [level3]
    own = fake(tmp_path, "efficientnet", 20, images="leaves")
    assert chosen(tmp_path)[0] == [level3, own]


def test_the_same_pictures_under_other_names_are_other_images(tmp_path: Path) -> None:
    fake(tmp_path, "level3", 10, images="leaves", classes=("Buche", "Eiche"))
    level1 = fake(tmp_path, "level1", 5, images="leaves", source="of an older version")
    assert chosen(tmp_path) == ([level1], [f"Predicting with {level1}, trained on images: beech, oak"])


def test_what_is_damaged_is_passed_over_and_its_images_last(tmp_path: Path) -> None:
    other = fake(tmp_path, "level3", 10, images="drawings", classes=DIGITS, source="synthetic")
    level1, level2 = (fake(tmp_path, name, 5, images="leaves") for name in ("level1", "level2"))
    (level2 / "metrics.json").write_text("{}")
    members, said = chosen(tmp_path)
    assert members == [level1]
    assert said[0].startswith(f"not used: {level2}/metrics.json is missing or damaged")
    (level1 / "metrics.json").write_text("{}")
    members, said = chosen(tmp_path)
    assert members == [other]
    assert [line.split(":")[0] for line in said[:2]] == ["not used", "not used"]
    assert said[2].endswith(", trained on built-in drawings: one, two, three, ... (5 classes)")


def test_a_name_of_a_class_stays_on_the_line(tmp_path: Path) -> None:
    fake(tmp_path, "level1", 5, images="leaves", classes=("two\nlines", "oak"))
    assert chosen(tmp_path)[1][0].endswith(": two\\nlines, oak")


def test_without_a_finished_run_it_is_said_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(runs.RunError, match=r"no finished run of a level under .*: train one first"):
        predicting.choose(tmp_path)
