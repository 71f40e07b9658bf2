"""Predictions for single pictures, from finished runs: one, or several that vote.

A run folder holds all that is needed: the recipe, the class names, the weights, the size at which pictures are
stored, and the probabilities of the validation images, from which one temperature is fitted. Pictures are decoded
as those of an image folder are, and nothing is trained.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cifarlib import data, decoding, evaluation, models, recipes, runs, training
from cifarlib.runs import Found, Run, RunError
from cifarlib.text import printable

# A calibrated probability says how often such predictions are right: below one half they are more often wrong.
CONFIDENT = 0.5
OVERLAY = ".cam.png"  # how the names of overlays end; among images they are passed over
PIECE = 256  # pictures that are best decoded and predicted at a time: so many fit into memory

_STUDIED = ("level1", "level2", "level3", "convnext", "efficientnet")  # what may be chosen, if nothing is named
_SOURCES = {"cifar10": "CIFAR-10", "folder": "images from a folder", "synthetic": "built-in drawings"}
_NAMED = 3  # classes that are named of many


@dataclass(frozen=True)
class Prediction:
    """What is predicted for one picture: calibrated probabilities [C], and the classes that lead them.

    `picture` is the picture as the model's data are stored, uint8 [3, s, s].
    """

    file: str
    probs: np.ndarray
    label: int
    runner_up: int
    picture: Tensor

    @property
    def probability(self) -> float:
        """The probability of the predicted class."""
        return float(self.probs[self.label])

    @property
    def low(self) -> bool:
        """Whether the prediction is more likely wrong than right."""
        return self.probability < CONFIDENT


@dataclass(frozen=True)
class Threshold:
    """What the validation images say about `CONFIDENT`; an accuracy is None where there are no such images."""

    images: int
    below: int
    accuracy_below: float | None
    accuracy_above: float | None

    def __str__(self) -> str:
        """Say it in one sentence."""
        if not self.below:
            return f"None of the {self.images:,} validation images is below it."
        of_those = f"{100 * self.accuracy_below:.0f} %" if self.accuracy_below is not None else "none"
        rest = "" if self.accuracy_above is None else f", and {100 * self.accuracy_above:.0f} % of the others"
        return (
            f"Of the {self.images:,} validation images {self.below:,} are below it: {of_those} of these are "
            f"right{rest}."
        )


def opened(path: str | Path) -> Run:
    """Read a finished run that was named; where its folder holds no run, it is said where to look.

    Raises:
        RunError: as `runs.open_run` says.
    """
    try:
        return runs.open_run(path)
    except runs._ForeignError as error:
        if (Path(path) / "manifest.json").exists():  # a run of another version, of which the error says more
            raise
        raise RunError(f"{error}: give the folder of one run (cifarlib runs lists them)") from None


def choose(root: str | Path, say: Callable[[str], None] = print) -> list[Run]:
    """Return the best finished run in a run root: both members of level 4, else the highest level's.

    Only runs on the images of the newest one are compared. Members have the same images and the same seed. Of
    several the newest counts; a damaged one is named and passed over.

    Args:
        root: A study's run_root.
        say: Takes the line that says which was chosen and what it was trained on, or why one was not.

    Raises:
        RunError: there is no finished run, or the folder cannot be listed.
        NotADirectoryError: `root` is a file.
        FileNotFoundError: there is no such folder.
    """
    if not Path(root).is_dir():
        if Path(root).exists():
            raise NotADirectoryError(f"{root} is a file: give the folder of the runs as --run-root")
        raise FileNotFoundError(
            f"there is no folder {root}: give that of the runs as --run-root, name one run with --run, or train "
            "one first (cifarlib train level2)"
        )
    found = [
        each
        for each in runs.survey(root, verify=False)
        if each.state == "finished" and each.recipe is not None and each.recipe.name in _STUDIED
    ]
    # A run root may hold a demonstration's drawings beside the user's own images: a higher level of the ones knows
    # nothing of the others.
    by_images: dict[tuple[str, tuple[str, ...]], list[Found]] = {}
    for each in found:
        by_images.setdefault((each.data, each.classes), []).append(each)
    for members in (members for group in by_images.values() for members in _candidates(group)):
        try:
            opened = [runs.open_run(each.path) for each in members]
        except RunError as error:
            say(f"not used: {error}")
            continue
        what = "the ensemble of " if len(opened) > 1 else ""
        paths = " and ".join(str(run.path) for run in opened)
        say(f"Predicting with {what}{paths}, trained on {_images(opened[0])}")
        return opened
    raise RunError(
        f"no finished run of a level under {root}: train one first (cifarlib train level2), or name one with --run"
    )


def _candidates(found: Sequence[Found]) -> list[list[Found]]:
    """Return which runs on the same images may predict, together or alone, the best first."""
    by_name = {name: [each for each in found if each.recipe and each.recipe.name == name] for name in _STUDIED}
    first, second = recipes.LEVELS["level4"]
    candidates = [
        [a, b]
        for a in by_name[first]
        for b in by_name[second]
        if a.recipe and b.recipe and a.recipe.seed == b.recipe.seed
    ]
    for name in ("level3", "level2", "level1", "convnext", "efficientnet"):
        candidates += [[each] for each in by_name[name]]
    return candidates


def _images(run: Run) -> str:
    """Say in short what a run was trained on: built-in drawings: airplane, automobile, bird, ... (10 classes)."""
    names = [printable(name) for name in run.classes]
    if len(names) > _NAMED + 1:
        names = [*names[:_NAMED], f"... ({len(names)} classes)"]
    return f"{_SOURCES.get(str(run.metrics.get('source')), 'images')}: {', '.join(names)}"


class Predictor:
    """Finished runs, ready to predict pictures.

    Several runs vote: their probabilities are averaged, and the vote is calibrated on the validation images that
    they share. Where they do not share them, each is calibrated on its own before the vote.

    Args:
        members: The runs; their classes must be the same.
        device: Where to compute; None for the first CUDA device, else the CPU.

    Raises:
        ValueError: no runs, or runs of different classes.
        RunError: a run holds no validation images' probabilities.
    """

    def __init__(self, members: Sequence[Run], device: torch.device | None = None) -> None:
        if not members:
            raise ValueError("a prediction needs at least one run")
        for run in members[1:]:
            if run.classes != members[0].classes:
                own, others = (", ".join(map(printable, each.classes)) for each in (run, members[0]))
                raise ValueError(
                    f"{run.path} knows the classes {own}, and {members[0].path} {others}: runs that vote must "
                    "have the same, in the same order"
                )
        self.members, self.classes = tuple(members), members[0].classes
        self.device = device or training.choose_device()
        self.engines = []
        for run in members:
            model = models.restore(run.recipe, len(run.classes), run.weights())
            self.engines.append(training.Engine(model, run.recipe, self.device))
        self.sizes = [stored_size(run) for run in members]
        val = [run.predictions["val_probs"] for run in members]
        labels = [run.predictions["val_labels"] for run in members]
        self.shared = len({runs.images_of(run) for run in members}) == 1
        self.threshold: Threshold | None = None
        if self.shared:
            vote = evaluation.soft_vote(val)
            self.temperatures = [evaluation.temperature(evaluation.log_probs(vote), labels[0])]
            self.threshold = threshold(evaluation.apply_temperature(vote, self.temperatures[0]), labels[0])
        else:
            self.temperatures = [
                evaluation.temperature(evaluation.log_probs(probs), true)
                for probs, true in zip(val, labels, strict=True)
            ]

    def probs(self, files: Iterable[str]) -> tuple[list[Prediction], dict[str, str]]:
        """Predict pictures; returns the predictions in the order of `files`, and what is wrong with the others.

        Args:
            files: PNG, JPEG or WebP files, `PIECE` of them or fewer; one is taken as the last one is decoded, so
                that a bar over them shows how far it is.
        """
        pictures: dict[int, list[Tensor]] = {size: [] for size in self.sizes}
        good, faults = [], {}
        with decoding.quiet():
            for file in files:
                try:
                    decoded = {size: decoding.decode_one(file, size) for size in pictures}
                except ValueError as error:
                    faults[file] = str(error)
                    continue
                good.append(file)
                for size, picture in decoded.items():
                    pictures[size].append(torch.from_numpy(picture.transpose(2, 0, 1).copy()))
        if not good:
            return [], faults
        stacked = {size: torch.stack(each) for size, each in pictures.items()}
        votes = self._calibrated(
            [engine.probs(stacked[size]) for engine, size in zip(self.engines, self.sizes, strict=True)]
        )
        order = np.argsort(-votes, axis=1, kind="stable")
        shown = stacked[max(stacked)]
        return [
            Prediction(file, probs, int(first[0]), int(first[1]), picture)
            for file, probs, first, picture in zip(good, votes, order, shown, strict=True)
        ], faults

    def _calibrated(self, probs: Sequence[np.ndarray]) -> np.ndarray:
        """Return the calibrated vote over the members' probabilities [N, C]."""
        if self.shared:
            return evaluation.apply_temperature(evaluation.soft_vote(probs), self.temperatures[0])
        scaled = [evaluation.apply_temperature(p, t) for p, t in zip(probs, self.temperatures, strict=True)]
        return evaluation.soft_vote(scaled)

    def check_maps(self) -> None:
        """Refuse runs of which `overlay` could show nothing.

        Raises:
            ValueError: a run's class activation maps have one pixel at its image size.
        """
        for run in self.members:
            if models.map_size(run.recipe) < 2:
                raise ValueError(
                    f"{run.path} was trained with image_size={run.recipe.image_size}, and its class activation "
                    "maps have one pixel, which says nothing about where: leave out --cam, or name a run that was "
                    "trained with a larger image_size or with dilation=true"
                )

    def overlay(self, prediction: Prediction) -> bytes:
        """Return a PNG of the picture and, for each member, where it sees the predicted class (Grad-CAM).

        Raises:
            ValueError: a member's map has one pixel at its image size, see `check_maps`.
        """
        from cifarlib import explain, plotting

        maps: dict[str, Any] = {}
        for run, engine, size in zip(self.members, self.engines, self.sizes, strict=True):
            picture = prediction.picture
            if size != picture.shape[-1]:
                with decoding.quiet():
                    decoded = decoding.decode_one(prediction.file, size)
                picture = torch.from_numpy(decoded.transpose(2, 0, 1).copy())
            x = data.prepare(picture[None].to(self.device), run.recipe)
            name = run.recipe.name if run.recipe.name not in maps else run.path.name
            maps[name] = explain.grad_cam(engine.model, x, [prediction.label])
        caption = f"{self.classes[prediction.label]}\n{100 * prediction.probability:.1f} %"
        return plotting.png(plotting.cams(prediction.picture[None], maps, [caption]))


def stored_size(run: Run) -> int:
    """Return the side in pixels at which the run's pictures were stored, before they were prepared.

    Runs from before it was recorded are taken to be of CIFAR-10's size.
    """
    return int(run.metrics.get("stored_size", data.CIFAR10_SIZE))


def threshold(probs: np.ndarray, labels: np.ndarray) -> Threshold:
    """Look at validation images below and above `CONFIDENT`.

    Args:
        probs: Their calibrated probabilities [N, C].
        labels: Their true classes [N].
    """
    right, below = probs.argmax(axis=1) == labels, probs.max(axis=1) < CONFIDENT
    mean = [float(right[part].mean()) if part.any() else None for part in (below, ~below)]
    return Threshold(len(labels), int(below.sum()), *mean)


def find_images(paths: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Return the image files that are named and those in the folders that are, and what is wrong with the others.

    Folders are searched below, too, by the files' suffixes; what is hidden and overlays of ours are passed over.
    """
    files: dict[str, None] = {}
    faults: dict[str, str] = {}
    for path in paths:
        if not os.path.isdir(path):
            if os.path.exists(path):
                files[path] = None
            else:
                faults[path] = f"{printable(path)} does not exist: give image files, or folders of them"
            continue
        unlisted: list[OSError] = []
        found = []
        for folder, inner, names in os.walk(path, onerror=unlisted.append):
            inner[:] = sorted(name for name in inner if not name.startswith("."))
            pictures = (name for name in sorted(names) if decoding.is_image(name) and not name.endswith(OVERLAY))
            found += [os.path.join(folder, name) for name in pictures]
        for error in unlisted:
            faults[str(error.filename)] = f"{printable(str(error.filename))} cannot be listed ({error.strerror})"
        if not found and not unlisted:
            faults[path] = f"{printable(path)} holds no PNG, JPEG or WebP image"
        files |= dict.fromkeys(found)
    return list(files), faults
