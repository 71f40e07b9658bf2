"""The study: what a notebook talks to. It turns a level's name into data, recipe and run."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cifarlib import (
    claims,
    data,
    documented,
    evaluation,
    models,
    parallel,
    progress,
    recipes,
    robustness,
    synthetic,
    training,
)
from cifarlib import runs as runs_module
from cifarlib.recipes import Recipe
from cifarlib.runs import Run, RunError, RunFolder
from cifarlib.text import code_span, printable

_DRIVE = Path("/content/drive")  # where Colab's own examples mount it
_PIECE = 512  # images that are altered and predicted at a time
_CURVES = ("epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy")  # of a history, in the results


class Study:
    """The four levels on one set of images, under one seed: `study.run("level2")` trains, resumes or loads.

    Args:
        profile: `full` (CIFAR-10 or your own image folder, ImageNet weights, 224 px), `demo` (built-in images,
            no download, minutes on a CPU), or `auto`: full where CUDA is available, else demo.
        seed: Decides the initial values of new layers, the order of images, augmentation and dropout.
        run_root: Folder that keeps the runs; a finished run found there is loaded, not trained again.
        data_root: Folder of images, or the folder that CIFAR-10 is downloaded to.
        overrides: Recipe or profile fields to change, as `recipes.resolve` describes.
        drive: In Colab, mount Google Drive and keep runs and images there, below `MyDrive/cifarlib`, so that they
            outlive the session. Absolute paths stay what they are.
        checkpoint_seconds: How long an epoch runs between checkpoints within it; there is one after every epoch.

    Raises:
        ValueError: an unknown profile or override, a value out of range, or one that this machine has no use for.
        FileNotFoundError: weights that are no file.
        NotADirectoryError: `run_root` is a file.
    """

    def __init__(
        self,
        profile: str = "auto",
        *,
        seed: int = 0,
        run_root: str | Path = "runs",
        data_root: str | Path = "data",
        overrides: Mapping[str, Any] | None = None,
        drive: bool = False,
        checkpoint_seconds: float = training.CHECKPOINT_SECONDS,
    ) -> None:
        recipes.expect(bool, drive=drive)
        if drive:
            run_root, data_root = _on_drive(run_root, data_root)
        elif "google.colab" in sys.modules and not (Path(run_root).is_absolute() or parallel.rank()):
            print("drive is False: what is trained here is gone when this Colab session ends.")
        self.device = training.choose_device()
        chosen = profile
        if profile == "auto":
            chosen = "full" if self.device.type == "cuda" else "demo"
        if profile == "auto" and chosen == "demo":
            data.check_demo(data_root)
        self.profile, self.recipes = recipes.resolve(chosen, seed=seed, overrides=overrides)
        self.seed, self.run_root, self.data_root = seed, Path(run_root), Path(data_root)
        if self.run_root.exists() and not self.run_root.is_dir():
            raise NotADirectoryError(f"run_root={str(run_root)!r} is a file: give a folder for the runs")
        for recipe in self.recipes.values():  # said now, not when a notebook comes to it
            training.choose_precision(recipe, self.device)
            if recipe.weights not in recipes.NAMED_WEIGHTS:
                models._weights_file(recipe)
        self.checkpoint_seconds = checkpoint_seconds
        self._runs: dict[tuple[str, int], Run] = {}
        self._stand_ins: dict[str, Run] = {}
        self._features = training.Features()
        self._told: set[str] = set()
        self._outline: data.Split | None = None
        if profile == "auto":
            found = "a CUDA device" if chosen == "full" else "no CUDA device"
            print(f"profile auto: {found} found, so this is the {chosen.upper()} profile.")
        print(f"Device: {self._device_words()}")
        if profile == "full" and self.device.type == "cpu":
            print(
                "No CUDA device: a training of the full profile may take hours here, and says beforehand how many."
            )
        if profile != "demo" and self.device.type == "cpu" and "google.colab" in sys.modules:
            print(
                "For CIFAR-10 with ImageNet weights choose Runtime > Change runtime type > T4 GPU, and run all "
                f"cells again; as it is, this goes on with the {chosen} profile on the CPU."
            )

    def _device_words(self) -> str:
        """Say what trains, and in which precision: it follows from the device, and can differ between networks."""
        if self.device.type == "cuda":
            memory = torch.cuda.get_device_properties(self.device).total_memory
            found = f"{torch.cuda.get_device_name(self.device)}, {memory / 2**30:.1f} GiB"
        else:
            found = f"CPU, {torch.get_num_threads()} threads"
        words = {"bf16-mixed": "bf16", "16-mixed": "fp16 with loss scaling", "32-true": "fp32"}
        resnet, efficientnet = (
            words[training.choose_precision(self.recipes[name], self.device)]
            for name in ("level1", "efficientnet")
        )
        return f"{found}; trains in {resnet}" + (f", EfficientNet-B0 in {efficientnet}" * (efficientnet != resnet))

    @property
    def builtin(self) -> bool:
        """Whether the images are the built-in ones (the demo profile)."""
        return self.profile.name == "demo"

    @cached_property
    def split(self) -> data.Split:
        """Training, validation and test images; loaded, drawn or downloaded at the first use."""
        sizes = [recipe.image_size for name, recipe in self.recipes.items() if name != "pretrain"]
        split = data.load(self.profile, self.data_root, image_size=max(sizes))
        if split.source == "folder":
            _warn_of_repeated(split.test, split, "test images")
        self._outline = None  # of earlier images, perhaps
        return split

    @property
    def outline(self) -> data.Split:
        """The split without its pixels: labels, classes, sizes and fingerprints.

        They stay known when the images are let go of, so that finding runs reads no image a second time.
        """
        if self._outline is None:
            self._outline = self.split.outline()
        return self._outline

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names, in the order of the labels."""
        return self.outline.classes

    def recipe(self, name: str) -> Recipe:
        """Return a recipe by its name; an unknown one raises ValueError and lists the known ones."""
        if name not in self.recipes or name == "pretrain":
            known = ", ".join(key for key in self.recipes if key != "pretrain")
            raise ValueError(f"unknown run {name!r}: known are {known}")
        return self.recipes[name]

    @property
    def seeds(self) -> range:
        """The training seeds of every level: the study's own, and with the override `seeds` those after it."""
        return range(self.seed, self.seed + self.profile.seeds)

    def run(self, name: str, *, seed: int | None = None) -> Run:
        """Return the run of a recipe: loaded if it is finished, resumed if it was interrupted, else trained.

        Names: `level1`, `level2`, `level3`, the arms in `recipes.LEVEL1_ARMS`, `recipes.ARMS` and
        `recipes.LEVEL3_ARMS`, and level 4's members `efficientnet` and `convnext` (its other member is `level3`).
        `seed` trains it under another seed than the study's; images, split and pretrained weights stay.
        """
        run = self._obtain(name, seed, train=True)
        assert run is not None  # train=True always ends in a run, or raises
        return run

    def runs(self, name: str) -> dict[int, Run]:
        """Return the run of a recipe under each of the study's seeds."""
        return {seed: self.run(name, seed=seed) for seed in self.seeds}

    def find(self, name: str, *, seed: int | None = None) -> Run | None:
        """Return the run of a recipe if it is finished on disk, else None; never trains.

        A run that cannot be had, because its weights do not exist or its folder is damaged, is none: it is said
        why, once. An unknown name raises ValueError, as in `run`.
        """
        self.recipe(name)  # a wrong name is a mistake, not a run that cannot be had
        try:
            return self._obtain(name, seed, train=False)
        except (ValueError, FileNotFoundError, RunError) as error:
            said = f"{name}: not used. {error}"
            if said not in self._told:  # who asks again has heard it
                self._told.add(said)
                print(said)
            return None

    def model(self, name: str) -> models.Classifier:
        """Return the trained model of `run(name)`, in eval mode on the study's device in fp32."""
        run = self.run(name)
        return models.restore(run.recipe, len(run.classes), run.weights()).to(self.device)

    def _obtain(self, name: str, seed: int | None, *, train: bool) -> Run | None:
        recipe = self.recipe(name)
        if seed is not None:
            recipe = replace(recipe, seed=seed)
        key = (recipe.name, recipe.seed)  # the level's name where settings make an arm the level
        if key in self._runs:
            return self._runs[key]
        weights = recipe.weights
        if weights == "pretrain":
            stand_in = self._pretrained(recipe.model.removeprefix("se_"), train=train)
            if stand_in is None:
                return None
            weights = str(stand_in.path / "model.safetensors")
        parts = (self.outline.train, self.outline.val, self.outline.test)
        fingerprint = "-".join(part.fingerprint for part in parts)

        def images() -> tuple[data.ImageSet, ...]:
            return self.split.train, self.split.val, self.split.test

        run = self._trained(recipe, weights, fingerprint, self.classes, images if train else None)
        if run is not None:
            self._runs[key] = run
        return run

    def expectations(self, *levels: str, runs: Sequence[str] = ()) -> str:
        """Say what the levels' trainings take: downloads, room on disk and time. Reads and starts nothing.

        It is what they take at most: whether a run is finished is known only from the images, which may have to
        be downloaded first.

        Args:
            levels: As for `check`.
            runs: As for `check`.

        Raises:
            ValueError: an unknown level or run, or torchvision has no such weights for a model.
        """
        chosen = self._needed(levels, runs)
        downloads = {}
        if not self.builtin and not data.holds_images(self.data_root):
            downloads["CIFAR-10"] = data.CIFAR10.size / 2**20
        for recipe in chosen:
            size = models.download_size(recipe)
            if size is not None:
                downloads[f"{recipe.weights} weights of {recipe.model.removeprefix('se_')}"] = size
        kept, at_work = self._room({recipe: len(seeds) for recipe, seeds in chosen.items()})
        items = ", ".join(f"{what} {size:.0f} MiB" for what, size in downloads.items())
        if "CIFAR-10" in downloads:  # said, lest it was meant to hold images of one's own
            items += f" (data_root {printable(self.data_root)} holds no class folders)"
        most = (kept + at_work) / 2**30 + sum(downloads.values()) / 2**10
        time = "on a GPU minutes to hours"
        if self.builtin or self.device.type == "cpu":
            time = "minutes on two cores" if self.builtin else "with many images hours on a CPU"
        return (
            f"To train, unless finished: {', '.join(recipe.name for recipe in chosen)}\n"
            f"To download, unless there: {items or 'nothing'}\n"
            f"On disk: up to {most:.1f} GiB, of which the runs keep {kept / 2**30:.1f} GiB\n"
            f"Time: {time}; a training that takes long says beforehand how long"
        )

    def _needed(self, levels: Sequence[str], runs: Sequence[str]) -> dict[Recipe, range]:
        """Return what is to be trained, and under which seeds: as for `check`; a notebook trains its arms once."""
        asked = [self.recipe(name) for level in levels for name in recipes.LEVELS.get(level, (level,))]
        once = range(self.seed, self.seed + 1)
        needed = {recipe: once if recipe.name in recipes.COMPARED else self.seeds for recipe in asked}
        return needed | {self.recipe(name): self.seeds for name in runs}

    def _room(self, times: Mapping[Recipe, int]) -> tuple[int, int]:
        """Return the bytes that so many runs of each recipe keep, stand-ins included, and those of checkpoints."""
        return models.room_of({**times, **dict.fromkeys(recipes.stand_ins(self.recipes, times), 1)})

    def check(self, *levels: str, runs: Sequence[str] = (), maps: Sequence[str] = ()) -> None:
        """Say what the levels' trainings take, and refuse now what they would refuse later; trains nothing.

        It reads images and weights, and downloads them where need be.

        Args:
            levels: `level1` to `level4`, or runs as for `run`, such as the arms that a notebook trains besides.
                Level 3 includes level 2, with which it is compared.
            runs: Runs alone, without what they are compared with, each under all of the study's seeds.
            maps: Runs whose class activation maps will be asked for.

        Raises:
            ValueError: images or weights that cannot be used, or maps that would have a single pixel.
            OSError: what cannot be read, downloaded or written, or a disk without room for the runs.
            MemoryError: the images do not fit into memory.
            RunError: a run that is there is damaged.
        """
        for recipe in map(self.recipe, maps):
            if models.map_size(recipe) < 2:
                raise ValueError(
                    f"image_size={recipe.image_size} of {recipe.name} leaves class activation maps of one pixel, "
                    "which say nothing about where: take image_size 33 or more, or dilation=true"
                )
        print(self.expectations(*levels, runs=runs), flush=True)
        needed = self._needed(levels, runs)
        for recipe in needed:  # what lies here is looked at before anything is downloaded
            if recipe.weights not in recipes.NAMED_WEIGHTS:
                models.room(recipe, models.load_weights(recipe))
        if self.builtin:
            data.check_sizes(self.profile)
        else:
            _ = self.split
        # Of a finished run nothing is needed but that it is whole. The demo's need pretraining to be told apart.
        missing = Counter(
            recipe
            for recipe, seeds in needed.items()
            for seed in seeds
            if recipe.weights == "pretrain" or self._obtain(recipe.name, seed, train=False) is None
        )
        runs_module.check_disk(self.run_root, sum(self._room(missing)))
        for recipe in missing:
            if recipe.weights in ("imagenet1k_v1", "imagenet1k_v2"):
                models.room(recipe, models.load_weights(recipe))

    def release_images(self) -> None:
        """Let go of the images; `outline` stays, and the next use of `split` reads them again."""
        if "split" in self.__dict__:
            _ = self.outline
            del self.__dict__["split"]

    def _pretrained(self, model: str, *, train: bool) -> Run | None:
        """Return the run that makes the demo's stand-in for ImageNet weights: a run like any other."""
        if model not in self._stand_ins:
            recipe = recipes.stand_in(self.recipes, model)
            drawn = (self.profile.pretrain_size, self.profile.split_seed)

            def images() -> tuple[data.ImageSet, ...]:
                return data.pretrain_set(*drawn)

            fingerprint = data.pretrain_fingerprint(*drawn)
            classes = synthetic.PRETRAIN_CLASSES
            run = self._trained(recipe, recipe.weights, fingerprint, classes, images if train else None)
            if run is None:
                return None
            self._stand_ins[model] = run
        return self._stand_ins[model]

    def _trained(
        self,
        recipe: Recipe,
        weights: str,
        fingerprint: str,
        classes: tuple[str, ...],
        images: Callable[[], tuple[data.ImageSet, ...]] | None,
    ) -> Run | None:
        """Load, resume or train one recipe.

        Args:
            recipe: What is trained.
            weights: What the recipe's weights stand for.
            fingerprint: Identifies the images.
            classes: What they show.
            images: Gives training, validation and, where there are some, test images; None never trains.
        """
        with_weights = replace(recipe, weights=weights)
        folder = RunFolder(
            self.run_root,
            recipe,
            data=fingerprint,
            weights=models.weights_fingerprint(with_weights),
            classes=classes,
        )
        if images is None:
            return folder.load() if folder.finished() else None
        called = recipe.name if recipe.seed == self.seed else f"{recipe.name}, seed {recipe.seed}"
        if parallel.agree(folder.finished()):
            run = folder.load()
            if recipe.name in self.recipes:  # a stand-in is no run of the study
                print(f"{called}: found finished, loaded")
            return run
        first = parallel.rank() == 0
        with folder.lock() if first else contextlib.nullcontext():
            if parallel.agree(folder.finished()):  # another process trained it while this one waited
                return folder.load()
            if first and called != recipe.name:
                print(f"{called}:")
            train_images, val_images, *rest = images()
            model = models.build(recipe, len(classes), models.load_weights(with_weights))
            engine = training.Engine(model, recipe, self.device, shared=self._features)
            fitted = training.fit(
                engine,
                train_images,
                val_images,
                folder=folder,
                judge_train=bool(rest),  # nobody asks how well a stand-in fits its own images
                checkpoint_seconds=self.checkpoint_seconds,
            )
            # From here on the test set is read, once; nothing is decided after it.
            probs = {"val": fitted.val_probs}
            labels = {"val": val_images.labels.cpu().numpy()}
            metrics: dict[str, Any] = {
                "train_accuracy": fitted.train_accuracy,
                "source": train_images.source,
                "stored_size": train_images.images.shape[-1],
                "multiply_adds": models.multiply_adds(model, recipe.image_size),
            }
            for test_images in rest:
                probs["test"] = engine.probs(test_images.images, engine.shared_features(test_images))
                labels["test"] = test_images.labels.cpu().numpy()
            for part in probs:
                metrics[f"{part}_accuracy"] = evaluation.accuracy(probs[part], labels[part])
                metrics[f"{part}_nll"] = evaluation.nll(probs[part], labels[part])
            if first:
                folder.finish(
                    weights=model.torchvision_state(),
                    history=fitted.history,
                    predictions={f"{part}_probs": p for part, p in probs.items()}
                    | {f"{part}_labels": y for part, y in labels.items()},
                    metrics=metrics | fitted.cost,
                    environment=runs_module.environment(self.device) | {"precision": engine.precision},
                )
            parallel.wait()
            return folder.load()

    @property
    def documented_setting(self) -> bool:
        """Whether this is what the documents describe: all of CIFAR-10, and every recipe as the study has it."""
        parts = (self.outline.train, self.outline.val, self.outline.test)
        whole = self.outline.source == "cifar10" and [*map(len, parts)] == [*documented.SPLIT["images"].values()]
        names = ("level1", "level2", "level3", "efficientnet")
        return whole and all(
            replace(self.recipes[name], seed=0, precision="auto") == recipes.documented_recipe(name)
            for name in names
        )

    def claims(self, level: str, measures: Mapping[str, Any] | None = None) -> list[dict[str, str]]:
        """Judge the claims of a level's document by the runs on disk; see `claims.table`.

        The documents speak of CIFAR-10's classes: of other classes only those claims are returned that the runs
        decide, and it is said how many.

        Args:
            level: `level1` to `level4`.
            measures: What the notebook measured besides, as `claims.Evidence` describes.
        """
        names = [name for name in self.recipes if name != "pretrain"]
        found = {name: run for name in names if (run := self.find(name)) is not None}
        # Another seed of a recipe counts whether `seeds` asked for it or a notebook trained it by itself.
        others = range(self.seed + 1, self.seed + max(2, self.profile.seeds))
        repeats = {name: [run for seed in others if (run := self.find(name, seed=seed))] for name in found}
        evidence = claims.Evidence(
            runs=found,
            split_sizes=(len(self.outline.train), len(self.outline.val), len(self.outline.test)),
            documented_setting=self.documented_setting,
            measures=dict(measures or {}) | {"attributes": self._attributes()},
            repeats={name: runs for name, runs in repeats.items() if runs},
        )
        rows = claims.table(level, evidence)
        if documented.of_its_classes(self.classes):
            return rows
        decided = [row for row in rows if row["verdict"] != claims.VERDICTS[2]]
        print(
            f"The document speaks of CIFAR-10: of its {len(rows)} claims the {len(decided)} are listed that "
            "can be judged on these classes."
        )
        return decided

    def _attributes(self) -> dict[str, np.ndarray]:
        return {name: values.cpu().numpy() for name, values in self.outline.test.attributes.items()}

    def notice(self) -> str:
        """Say in one Markdown sentence or two what these images and weights are, and what they cannot show."""
        recipe = self.recipes["level1"]
        sizes = f"{len(self.outline.train):,} training and {len(self.outline.test):,} test images"
        if self.builtin:
            return (
                f"**Built-in images, not CIFAR-10.** These numbers come from drawings that cifarlib makes itself "
                f"({sizes}, {recipe.image_size} px), with {self._weights_words()}. Drawings and rates were chosen "
                "so that effects show in minutes; their directions prove nothing about CIFAR-10, and the "
                "documented figures beside them are for orientation only."
            )
        if self.documented_setting:
            return (
                f"CIFAR-10 ({sizes}) with {self._weights_words()} at 224 px, as the documents have it (which of "
                "torchvision's two sets of weights they took is not said; V1 is assumed)."
            )
        folder = self.data_root.name or self.data_root.resolve().name  # "." has no name of its own
        source = "CIFAR-10" if self.outline.source == "cifar10" else f"Images from the folder {code_span(folder)}"
        return (
            f"**{source}** ({sizes}, {recipe.image_size} px) with {self._weights_words()}: not the documents' "
            + (
                "setting, so their figures stand beside these for orientation only."
                if documented.of_its_classes(self.classes)
                else "classes, so their figures are left out. Where the text speaks of CIFAR-10, it means theirs."
            )
        )

    def _weights_words(self) -> str:
        named = {
            "imagenet1k_v1": "ImageNet weights (V1)",
            "imagenet1k_v2": "ImageNet weights (V2)",
            "none": "no pretrained weights",
            "pretrain": "weights pretrained on the spot, on other built-in drawings instead of ImageNet",
        }
        resnet, efficientnet = (self.recipes[name].weights for name in ("level1", "efficientnet"))
        words = named.get(resnet, f"the weights {code_span(Path(resnet).name)}")
        if efficientnet != resnet:
            words += f" (EfficientNet-B0: {named.get(efficientnet, code_span(Path(efficientnet).name))})"
        return words

    def predictions(self, level: str, part: str = "test", *, seed: int | None = None) -> np.ndarray | None:
        """Return a level's probabilities [N, C] on the test or `val` images if it is on disk; never trains.

        Level 4's are the soft vote of its two members.
        """
        names = recipes.members(level)
        runs = [run for name in names if (run := self.find(name, seed=seed)) is not None]
        if len(runs) < len(names):
            return None
        return evaluation.soft_vote([run.predictions[f"{part}_probs"] for run in runs])

    def results(self) -> dict[str, dict[str, Any]]:
        """Collect what is on disk of the four levels, without training: accuracies are fractions.

        A level that has not been run is missing. Level 4 is the soft vote of its two members; its seconds are
        those of both, its memory and its stall ratio the worse of the two. Calibration is given before and after
        one temperature fitted on the validation images, `balanced_accuracy` where the classes differ in size,
        `seeds` where there are several. `history` has the epochs of each of its runs, `recall` every class's
        recall with its Wilson interval.
        """
        found: dict[str, dict[str, Any]] = {}
        for level in documented.LEVELS:
            probs, val_probs = self.predictions(level), self.predictions(level, "val")
            if probs is None or val_probs is None:
                continue
            runs = [self.run(name) for name in recipes.members(level)]
            labels, val_labels = (runs[0].predictions[f"{part}_labels"] for part in ("test", "val"))
            entry: dict[str, Any] = {"model": " + ".join(run.recipe.model for run in runs)}
            if level == "level4":
                entry |= {"members": {run.recipe.name: run.metrics for run in runs}} | _sum_of_costs(runs)
                for part, p, y in (("val", val_probs, val_labels), ("test", probs, labels)):
                    entry |= {f"{part}_accuracy": evaluation.accuracy(p, y), f"{part}_nll": evaluation.nll(p, y)}
            else:
                entry |= runs[0].metrics
            correct = round(entry["test_accuracy"] * len(labels))
            if evaluation.unbalanced(labels):
                entry["balanced_accuracy"] = evaluation.balanced_accuracy(probs, labels)
            entry["test_interval"] = list(evaluation.wilson_interval(correct, len(labels)))
            t, scaled = evaluation.calibrate(probs, val_probs, val_labels)
            entry["calibration"] = {"temperature": t} | {
                name: {"ece": evaluation.ece(p, labels), "nll": evaluation.nll(p, labels)}
                | {"brier": evaluation.brier(p, labels)}
                for name, p in (("before", probs), ("after", scaled))
            }
            entry["history"] = {run.recipe.name: run.history[list(_CURVES)].to_dict("list") for run in runs}
            entry["recall"] = evaluation.recall_intervals(probs, labels, self.classes).to_dict("index")
            if len(self.seeds) > 1:
                entry["seeds"] = self._seed_spread(level, labels)
            found[level] = entry
        return found

    def _seed_spread(self, level: str, labels: np.ndarray) -> dict[str, Any]:
        tried = [self.predictions(level, seed=seed) for seed in self.seeds]
        accuracies = [evaluation.accuracy(probs, labels) for probs in tried if probs is not None]
        return {"accuracies": accuracies} | evaluation.seed_spread(accuracies, len(labels))._asdict()

    def comparisons(self) -> list[dict[str, Any]]:
        """Compare every pair of the levels on disk on the same test images; see `evaluation.compare`."""
        probs = {level: p for level in documented.LEVELS if (p := self.predictions(level)) is not None}
        if len(probs) < 2:
            return []
        return evaluation.compare(probs, self.outline.test.labels.cpu().numpy()).to_dict("records")

    def sample(self, n: int) -> data.ImageSet:
        """Return `n` test images, or all there are, with the classes in their shares; always the same ones."""
        return data.sample(self.split.test, n, self.profile.split_seed)

    def robustness(
        self,
        names: Sequence[str],
        *,
        kinds: Sequence[str] = robustness.COLOUR,
        strengths: Sequence[int] = (robustness.DEFAULT_STRENGTH,),
        images: int = 300,
    ) -> dict[str, dict[str, np.ndarray]]:
        """Predict altered test images with trained runs; see `robustness.shifted`.

        Args:
            names: Runs, as for `run`, or `level4` for the soft vote of its members.
            kinds: Shifts, of `robustness.STRENGTHS`.
            strengths: 1 to 3; a shift of another than the medium strength, 2, has it in its name.
            images: So many of the test images, as `sample` takes them.

        Returns:
            By run and shift, "none" first: `[M]`, 1 where the image is predicted right and 0 where not, averaged
            over a shift's directions.
        """
        sample = self.sample(images)
        shifts: list[tuple[str, str, int]] = [("none", "", 0)]
        for strength in strengths:
            words = {1: ", mild", 2: "", 3: ", strong"}.get(strength, "")
            shifts += [(f"{kind}{words}", kind, strength) for kind in kinds]
        votes = {name: recipes.members(name) for name in names}
        shared = training.Features()
        probs: dict[str, list[list[np.ndarray]]] = {}
        for member in dict.fromkeys(member for of in votes.values() for member in of):  # one in memory at a time
            engine = training.Engine(self.model(member), self.recipe(member), self.device, shared=shared)
            bar = progress.bar(shifts, what=f"altered images, {member}", unit="shift")
            probs[member] = [_altered_probs(engine, sample, kind, strength) for _, kind, strength in bar]
        found: dict[str, dict[str, np.ndarray]] = {name: {} for name in names}
        labels = sample.labels.cpu().numpy()
        for name, members in votes.items():
            for number, (label, *_) in enumerate(shifts):
                directions = zip(*(probs[member][number] for member in members), strict=True)
                right = [evaluation.soft_vote(each).argmax(axis=1) == labels for each in directions]
                found[name][label] = np.mean(right, axis=0)
        return found

    def load_test(self, path: str | Path) -> data.ImageSet:
        """Read a second test set, stored as the study's images are; see `data.load_test`."""
        images = data.load_test(path, self.classes, self.outline.test.images.shape[-1])
        _warn_of_repeated(images, self.split, f"images of {printable(Path(path).name)}")
        return images

    def evaluate(self, images: data.ImageSet, name: str = "second test set") -> dict[str, Any]:
        """Test every level that is on disk on another set of images of the same classes; never trains.

        Args:
            images: As `load_test` reads them.
            name: What to call them.

        Returns:
            `name`, `images` (how many), `classes` (images of each), and `levels`: by level `test_accuracy` and
            `test_interval` on these images, `own` and `own_interval` on the study's test images of the classes
            that occur among them, and `difference`, the former less the latter with its interval. Where classes
            differ in size, `balanced_accuracy` on these images too.

        Raises:
            ValueError: no level has been run.
        """
        labels, own_labels = (part.labels.cpu().numpy() for part in (images, self.outline.test))
        probs: dict[str, np.ndarray] = {}
        for level in (*recipes.LEVELS, "efficientnet"):
            if level != "level4" and self.find(level) is not None:
                engine = training.Engine(self.model(level), self.recipe(level), self.device)
                probs[level] = engine.probs(images.images)
        members = recipes.LEVELS["level4"]
        if all(member in probs for member in members):
            probs["level4"] = evaluation.soft_vote([probs[member] for member in members])
        same_classes = np.isin(own_labels, labels)
        levels = {}
        for level in documented.LEVELS:
            own_probs = self.predictions(level)
            if level not in probs or own_probs is None:
                continue
            right = probs[level].argmax(axis=1) == labels
            own = (own_probs.argmax(axis=1) == own_labels)[same_classes]
            counts = int(right.sum()), len(right), int(own.sum()), len(own)
            levels[level] = {
                "test_accuracy": right.mean().item(),
                "test_interval": list(evaluation.wilson_interval(*counts[:2])),
                "own": own.mean().item(),
                "own_interval": list(evaluation.wilson_interval(*counts[2:])),
                "difference": list(evaluation.independent_difference(*counts)),
            }
            if evaluation.unbalanced(labels):
                levels[level]["balanced_accuracy"] = evaluation.balanced_accuracy(probs[level], labels)
        if not levels:
            raise ValueError(
                f"no level has been run under {self.run_root} with these images and settings: train one first "
                "(cifarlib report), or give --profile, --seed and --set as they were (cifarlib runs lists them)"
            )
        images_of = np.bincount(labels, minlength=len(self.classes)).tolist()
        return {
            "name": Path(name).name,
            "images": len(labels),
            "classes": dict(zip(self.classes, images_of, strict=True)),
            "levels": levels,
        }


def _warn_of_repeated(images: data.ImageSet, split: data.Split, what: str) -> None:
    if repeated := data.repeated(images, split.train, split.val):
        print(
            f"{repeated} of the {len(images)} {what} are training or validation images too, to the last pixel: "
            "accuracy on them is no test. Remove them on one side.",
            flush=True,
        )


def _on_drive(*paths: str | Path) -> tuple[Path, ...]:
    """Mount Google Drive, and return relative paths as paths on it."""
    try:
        drive = importlib.import_module("google.colab.drive")  # Colab's own
    except ImportError:
        raise ValueError(
            "drive=True mounts Google Drive, and only Colab can: leave it False, and let run_root and data_root "
            "name folders that stay"
        ) from None
    drive.mount(str(_DRIVE))
    base = _DRIVE / "MyDrive" / "cifarlib"
    print(f"Runs and images are kept on Google Drive, below {base}")
    return tuple(base / path for path in paths)


def _altered_probs(engine: training.Engine, images: data.ImageSet, kind: str, strength: int) -> list[np.ndarray]:
    """Predict images altered in one way: probabilities [N, C], once for each direction; "" alters nothing."""
    pieces = []
    # In pieces: at 224 px the features of thousands of images would not fit.
    for piece, labels in zip(images.images.split(_PIECE), images.labels.split(_PIECE), strict=True):
        versions = robustness.shifted(piece, kind, strength) if kind else [piece]
        sets = [data.ImageSet.of(version, labels, images.classes, kind) for version in versions]
        pieces.append([engine.probs(each.images, engine.shared_features(each)) for each in sets])
    return [np.concatenate(direction) for direction in zip(*pieces, strict=True)]


def _sum_of_costs(runs: Sequence[Run]) -> dict[str, Any]:
    """Add up what an ensemble's members took."""
    stalls = [run.metrics["stall_ratio"] for run in runs]
    return {
        **{key: sum(run.metrics[key] for run in runs) for key in ("epochs", "seconds")},
        **{
            key: sum(run.metrics[key] for run in runs)
            for key in ("parameters", "trainable_parameters", "multiply_adds")
            if all(key in run.metrics for run in runs)
        },
        "peak_memory_bytes": max(run.metrics["peak_memory_bytes"] for run in runs),
        "stall_ratio": None if None in stalls else min(stalls),
    }
