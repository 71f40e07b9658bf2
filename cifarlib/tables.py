"""The notebooks' tables: pandas frames whose cells are finished text, and how they are shown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from IPython.display import display
from torch import Tensor, nn

from cifarlib import documented, evaluation, models
from cifarlib.data import Split
from cifarlib.recipes import Recipe, documented_recipe, origin
from cifarlib.runs import Run

# Fields that say how a run is named or seeded, not what it is.
_SILENT = ("name", "seed")


def show(frame: pd.DataFrame) -> None:
    """Display a table whole: no cut columns, no cut text; cells are escaped, the index is a row's name."""
    html = frame.to_html(border=0, escape=True, na_rep="", index_names=False)
    display({"text/html": html, "text/plain": frame.to_string(na_rep="", index_names=False)}, raw=True)


def percent(fraction: float, digits: int = 2) -> str:
    """Write a fraction as a percentage: 0.8206 -> "82.06 %"."""
    return f"{100 * fraction:.{digits}f} %"


def interval(accuracy: float, n: int) -> str:
    """Write an accuracy over n images with its 95 % Wilson interval."""
    low, high = evaluation.wilson_interval(round(accuracy * n), n)
    return f"{percent(accuracy)} ({100 * low:.2f} to {100 * high:.2f})"


def split(split: Split) -> pd.DataFrame:
    """List the three parts: images, share of all, images of the smallest and the largest class."""
    parts = {"train": split.train, "validation": split.val, "test": split.test}
    total = sum(map(len, parts.values()))
    rows = {}
    for name, images in parts.items():
        counts = torch.bincount(images.labels, minlength=len(split.classes))
        rows[name] = {
            "images": f"{len(images):,}",
            "share": percent(len(images) / total, 1),
            "stated in the documents": percent(documented.SPLIT["stated"][name], 0),
            "images per class": f"{counts.min()}"
            if counts.min() == counts.max()
            else f"{counts.min()} to {counts.max()}",
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def configuration(recipe: Recipe) -> pd.DataFrame:
    """List every field of a recipe: its value here, the study's value, and where that one comes from."""
    base = documented_recipe(recipe.name)
    rows = {}
    for f in fields(Recipe):
        unused = not recipe.augment and f.name in (
            "crop_padding",
            "flip",
            "brightness",
            "contrast",
            "saturation",
            "hue",
        )
        if f.name in _SILENT or unused or (f.name.startswith("se_") and recipe.model != "se_resnet50"):
            continue
        here, study = getattr(recipe, f.name), getattr(base, f.name)
        rows[f.name] = {
            "here": _text(here),
            "the study's": _text(study),
            "origin": origin(base, f.name) + (", changed here" if here != study else ""),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def difference(a: Recipe, b: Recipe) -> pd.DataFrame:
    """List the fields in which two recipes differ."""
    rows = {
        f.name: {a.name: _text(getattr(a, f.name)), b.name: _text(getattr(b, f.name))}
        for f in fields(Recipe)
        if f.name not in _SILENT and getattr(a, f.name) != getattr(b, f.name)
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return Path(value).name  # of weights given as a path, where they lie on this machine is of no interest
    return f"{value:g}" if isinstance(value, float) else str(value)


def architecture(model: models.Classifier, image_size: int) -> pd.DataFrame:
    """List the model's parts in order: output shape for one image, parameters, frozen or trained."""
    shapes: dict[str, str] = {}

    def note(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            shapes[name] = " x ".join(map(str, output.shape[1:]))

        return hook

    parts = [*model.trunk.named_children(), *model.tail.named_children()]
    handles = [part.register_forward_hook(note(name)) for name, part in parts]
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            model(torch.zeros(1, 3, image_size, image_size, device=next(model.parameters()).device))
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    rows = {}
    for name, part in parts:
        count, trainable = models.count_parameters(part)
        state = "" if not count else ("trained" if trainable else "frozen")
        rows[name] = {"output": shapes[name], "parameters": f"{count:,}" if count else "", "state": state}
    count, trainable = models.count_parameters(model)
    rows["all"] = {"output": "", "parameters": f"{count:,}", "state": f"{trainable:,} trained"}
    return pd.DataFrame.from_dict(rows, orient="index")


def epochs(history: pd.DataFrame, level: documented.DocumentedLevel | None = None) -> pd.DataFrame:
    """List loss and accuracy by epoch, beside the documents' accuracies where `level` is given."""
    rows = {}
    for row in history.to_dict("records"):
        epoch = int(row["epoch"])
        cells = {
            "train loss": f"{row['train_loss']:.4f}",
            "val loss": f"{row['val_loss']:.4f}",
            "train accuracy": percent(row["train_accuracy"]),
            "val accuracy": percent(row["val_accuracy"]),
        }
        if level is not None:
            for part, curve in (("train", level.train_accuracy), ("val", level.val_accuracy)):
                stated = dict(curve).get(epoch)
                cells[f"documented {part}"] = "" if stated is None else percent(stated)
        rows[f"epoch {epoch}"] = cells | {"time": f"{row['seconds']:.1f} s"}
    return pd.DataFrame.from_dict(rows, orient="index")


def accuracies(runs: Mapping[str, Run]) -> pd.DataFrame:
    """Compare runs, by a name of the caller's: training, validation and test accuracy and NLL."""
    rows = {}
    for name, run in runs.items():
        n = len(run.predictions["test_labels"])
        rows[name] = {
            "train accuracy": percent(run.metrics["train_accuracy"]),
            "val accuracy": percent(run.metrics["val_accuracy"]),
            "test accuracy (95 % interval)": interval(run.metrics["test_accuracy"], n),
            "test NLL": f"{run.metrics['test_nll']:.4f}",
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def bounds(run: Run) -> tuple[float, float, float]:
    """Return a run's test accuracy and its 95 % Wilson interval, as fractions."""
    n = len(run.predictions["test_labels"])
    accuracy = run.metrics["test_accuracy"]
    return (accuracy, *evaluation.wilson_interval(round(accuracy * n), n))


def arms(runs: Mapping[str, Run]) -> pd.DataFrame:
    """List the arms of level 2's ablation by their two factors."""
    rows = {}
    for name, run in runs.items():
        rows[name] = {
            "augmentation": _text(run.recipe.augment),
            "fine-tuning": _text(run.recipe.trainable != "head"),
            "train accuracy": percent(run.metrics["train_accuracy"]),
            "test accuracy (95 % interval)": interval(*_accuracy(run)),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def _accuracy(run: Run) -> tuple[float, int]:
    return run.metrics["test_accuracy"], len(run.predictions["test_labels"])


def per_class(report: pd.DataFrame) -> pd.DataFrame:
    """Format `evaluation.per_class_report`: fractions with three digits, support as a whole number."""
    measures = ["precision", "recall", "f1"]
    return pd.DataFrame(
        {name: report[name].map("{:.3f}".format) for name in measures}
        | {"images": report["support"].map("{:.0f}".format)}
    )


def confused_pairs(confusion: np.ndarray, classes: Sequence[str]) -> pd.DataFrame:
    """List the five pairs of classes that are taken for one another most often, in both directions."""
    rows = {}
    for pair in evaluation.most_confused(confusion, classes, k=5).to_dict("records"):
        first, second = pair["first"], pair["second"]
        rows[f"{first} and {second}"] = {
            "first taken for second": f"{pair['first_as_second']}",
            "second taken for first": f"{pair['second_as_first']}",
            "both": f"{pair['total']}",
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def votes(probs: Mapping[str, np.ndarray], labels: np.ndarray) -> pd.DataFrame:
    """Compare members and votes by their test probabilities [N, C]: accuracy, NLL, ECE, confident mistakes."""
    rows = {}
    for name, p in probs.items():
        wrong = p.argmax(axis=1) != labels
        rows[name] = {
            "test accuracy (95 % interval)": interval(1 - wrong.mean(), len(labels)),
            "test NLL": f"{evaluation.nll(p, labels):.4f}",
            "ECE": f"{evaluation.ece(p, labels):.4f}",
            "confident mistakes": f"{(wrong & (p.max(axis=1) > 0.9)).sum()}",
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def cams(measures: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Average what `explain.measure` returns, by model; what was not measurable is left out."""
    rows = {}
    for name, m in measures.items():
        side = m["map_size"]
        rows[name] = {"map": f"{side} x {side}", "compactness": f"{np.nanmean(m['compactness']):.3f}"}
        if "pointing" in m:
            rows[name] |= {
                "on the object": percent(np.mean(m["pointing"]), 1),
                "centre, on it": percent(np.mean(m["centre_pointing"]), 1),
                "energy inside": percent(np.nanmean(m["energy"]), 1),
                "centre, inside": percent(np.mean(m["centre_energy"]), 1),
                "object's share": percent(np.mean(m["object_share"]), 1),
            }
    return pd.DataFrame.from_dict(rows, orient="index")


def costs(runs: Mapping[str, Run]) -> pd.DataFrame:
    """Compare what runs took, by a name of the caller's: parameters, speed and memory.

    The stall ratio is the speed over that of the same step on one batch that stays on the device, as
    `training.measure_pace` found it: what is missing to 1 was spent on augmenting and preparing images.
    """
    rows = {}
    for name, run in runs.items():
        m = run.metrics
        rows[name] = {
            "parameters": f"{m['parameters']:,}",
            "trained": f"{m['trainable_parameters']:,}",
            "an epoch": f"{m['seconds_per_epoch']:.1f} s",
            "training speed": f"{m['images_per_second']:.0f} images/s",
            "stall ratio": "" if m["stall_ratio"] is None else f"{m['stall_ratio']:.2f} of resident",
            "peak memory": f"{m['peak_memory_bytes'] / 2**30:.2f} GiB",
            "precision": m["precision"],
            "trunk computed": "once" if m["cached_features"] else "every epoch",
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def summary(results: Mapping[str, Mapping[str, Any]], test_images: int) -> pd.DataFrame:
    """List the four levels with their cost; a level without a run says so.

    Args:
        results: As `Study.results` returns them.
        test_images: Number of test images, for the intervals.
    """
    rows = {}
    for name, level in documented.LEVELS.items():
        found = results.get(name)
        title = f"Level {name[-1]}"
        stated = percent(level.test_accuracy) if level.test_accuracy is not None else ""
        if found is None:
            rows[title] = {
                "model": level.model,
                "documented": stated,
                "test accuracy (95 % interval)": "not run",
            }
            continue
        rows[title] = {
            "model": level.model,
            "documented": stated,
            "test accuracy (95 % interval)": interval(found["test_accuracy"], test_images),
            "test NLL": f"{found['test_nll']:.4f}",
            "epochs": str(found["epochs"]),
            "trained parameters": f"{found['trainable_parameters']:,}",
            "training time": f"{found['seconds']:.1f} s",
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def staircase(results: Mapping[str, Mapping[str, Any]], documented_setting: bool) -> list[dict[str, Any]]:
    """Return the rows of `plotting.accuracies`: levels with intervals, documented figures if comparable."""
    return [
        {
            "name": f"Level {name[-1]}",
            "accuracy": found["test_accuracy"],
            "low": found["test_interval"][0],
            "high": found["test_interval"][1],
            "documented": documented.LEVELS[name].test_accuracy if documented_setting else None,
        }
        for name, found in results.items()
    ]


def claims(rows: Iterable[Mapping[str, str]]) -> pd.DataFrame:
    """Lay out a claims table, as `claims.table` returns it, one claim a row."""
    frame = pd.DataFrame(list(rows))
    frame.index = pd.Index([f"{i + 1}" for i in range(len(frame))])
    return frame[["section", "claim", "verdict", "evidence", "rule"]]
