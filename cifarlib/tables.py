"""The notebooks' tables: pandas frames whose cells are finished text, and how they are shown."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from IPython.display import display
from torch import Tensor, nn

from cifarlib import documented, evaluation, models, progress
from cifarlib.data import Split
from cifarlib.judging import CONFIDENT
from cifarlib.recipes import Recipe, documented_recipe, origin
from cifarlib.runs import Run

# Fields that say how a run is named or seeded, not what it is.
_SILENT = ("name", "seed")


CLAIMS_MIME = "application/vnd.cifarlib.claims"
"""Under which a claims table's rows lie in a notebook's output, beside the table: JSON that reports read there."""


def show(frame: pd.DataFrame, **bundle: Any) -> None:
    """Display a table whole: no cut columns, no cut text; cells are escaped, the index is a row's name."""
    # A name with two dollar signs is no formula; a notebook would typeset it.
    with pd.option_context("display.html.use_mathjax", "$" not in frame.to_csv()):
        html = frame.to_html(border=0, escape=True, na_rep="", index_names=False)
    text = frame.to_string(na_rep="", index_names=False)
    display({"text/html": html, "text/plain": text, **bundle}, raw=True)


def percent(fraction: float, digits: int = 2) -> str:
    """Write a fraction as a percentage: 0.8206 -> "82.06 %"."""
    return f"{100 * fraction:.{digits}f} %"


def interval(accuracy: float, n: int) -> str:
    """Write an accuracy over n images with its 95 % Wilson interval."""
    return with_interval(accuracy, *evaluation.wilson_interval(round(accuracy * n), n))


def with_interval(value: float, low: float, high: float) -> str:
    """Write a fraction with its interval as percentages: "82.06 % (81.30 to 82.80)"."""
    return f"{percent(value)} ({100 * low:.2f} to {100 * high:.2f})"


def points(value: float, low: float, high: float) -> str:
    """Write a difference of fractions with its interval in points: "+1.20 (-0.40 to +2.80)"."""
    return f"{100 * value:+.2f} ({100 * low:+.2f} to {100 * high:+.2f})"


def p_value(p: float) -> str:
    """Write a p-value with three digits, "< 0.001" below that."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def split(split: Split) -> pd.DataFrame:
    """List the three parts: images, share of all, images of the smallest and the largest class.

    What the documents state of CIFAR-10's parts stands beside it where the classes are theirs.
    """
    parts = {"train": split.train, "validation": split.val, "test": split.test}
    total = sum(map(len, parts.values()))
    rows = {}
    for name, images in parts.items():
        counts = torch.bincount(images.labels, minlength=len(split.classes))
        rows[name] = {
            "images": f"{len(images):,}",
            "share": percent(len(images) / total, 1),
            "stated in the documents": percent(documented.SPLIT["stated"][name], 0),
            "images per class": f"{counts.min():,}"
            if counts.min() == counts.max()
            else f"{counts.min():,} to {counts.max():,}",
        }
    frame = pd.DataFrame.from_dict(rows, orient="index")
    return frame if documented.of_its_classes(split.classes) else frame.drop(columns="stated in the documents")


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
    """List loss and accuracy by epoch, of many about 20; `level` puts the documents' accuracies beside them."""
    rows = {}
    for row in history.to_dict("records"):
        epoch = int(row["epoch"])
        if not progress.worth_a_line(epoch, len(history)):
            continue
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
    """Compare runs, by a name of the caller's: training, validation and test accuracy and NLL.

    Where some classes have more test images than others, the accuracy in which every class counts alike is added.
    """
    rows = {}
    for name, run in runs.items():
        probs, labels = run.predictions["test_probs"], run.predictions["test_labels"]
        rows[name] = {
            "train accuracy": percent(run.metrics["train_accuracy"]),
            "val accuracy": percent(run.metrics["val_accuracy"]),
            "test accuracy (95 % interval)": interval(run.metrics["test_accuracy"], len(labels)),
        }
        if evaluation.unbalanced(labels):
            rows[name]["balanced test accuracy"] = percent(evaluation.balanced_accuracy(probs, labels))
        rows[name]["test NLL"] = f"{run.metrics['test_nll']:.4f}"
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
            "test accuracy (95 % interval)": with_interval(*bounds(run)),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def right_by_arm(runs: Iterable[Run]) -> dict[tuple[bool, bool], np.ndarray]:
    """Return which test images `[N]` each arm gets right, by (augmentation, fine-tuning): `factorial`'s input."""
    return {
        (run.recipe.augment, run.recipe.trainable != "head"): run.predictions["test_probs"].argmax(axis=1)
        == run.predictions["test_labels"]
        for run in runs
    }


def effects(effects: evaluation.Effects) -> pd.DataFrame:
    """List the main effects of level 2's two factors and their interaction, in points of test accuracy."""
    meanings = {
        "augmentation": "mean gain by augmentation, over both trainings",
        "fine-tuning": "mean gain by fine-tuning, with and without augmentation",
        "interaction": "what fine-tuning adds to augmentation's gain",
    }
    return pd.DataFrame(
        {
            "points (95 % interval)": [points(*effect) for effect in effects],
            "what it is": list(meanings.values()),
        },
        index=list(meanings),
    )


def seeds(accuracies: Mapping[str, Sequence[float]], n: int) -> pd.DataFrame:
    """List test accuracies under several training seeds beside the uncertainty of n test images.

    Args:
        accuracies: By model, the accuracy under each seed, as fractions.
        n: Number of test images.
    """
    rows = {}
    for name, values in accuracies.items():
        spread = evaluation.seed_spread(values, n)
        low, high = 100 * spread.seed_sd_low, 100 * spread.seed_sd_high
        between = f"{100 * spread.seed_sd:.2f} points ({low:.2f} to {high:.2f})"
        rows[name] = {
            "seeds": str(spread.seeds),
            "mean test accuracy": percent(spread.mean),
            "deviation between seeds (95 % interval)": between if spread.seeds > 1 else "one seed",
            "deviation from the choice of test images": f"{100 * spread.test_sd:.2f} points",
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def comparisons(rows: pd.DataFrame) -> pd.DataFrame:
    """Format `evaluation.compare`: paired differences with interval, images and p-values."""
    frame = pd.DataFrame(
        {
            "accuracy, points (95 % interval)": [
                points(row.difference, row.low, row.high) for row in rows.itertuples()
            ],
            "images": rows["images"].map("{:+,d}".format),
            "only the first right": rows["only_model"].map("{:,}".format),
            "only the second right": rows["only_over"].map("{:,}".format),
            "p (McNemar)": rows["p"].map(p_value),
            "p (Holm)": rows["p_holm"].map(p_value),
            "NLL (95 % interval)": [
                f"{row.nll_difference:+.3f} ({row.nll_low:+.3f} to {row.nll_high:+.3f})"
                for row in rows.itertuples()
            ],
        }
    )
    if len(frame) == 1:  # nothing to adjust for
        del frame["p (Holm)"]
    frame.index = pd.Index([f"{row.model} - {row.over}" for row in rows.itertuples()])
    return frame


def gain_over_head(probs: Mapping[str, np.ndarray], labels: np.ndarray) -> str:
    """Say how much of a gain over level 1 a converged head brings by itself, and what is left for fine-tuning.

    Args:
        probs: Test probabilities [N, C] of level 1, of the ablation's arm that trains a head on the same features,
            of the converged head on them and of the model that is judged, by name and in this order.
        labels: The true classes [N].
    """
    one, arm, head, last = probs
    before, frozen, solved, after = (p.argmax(axis=1) == labels for p in probs.values())
    gains = [
        points(*evaluation.paired_difference(*pair))
        for pair in ((after, before), (solved, before), (after, solved), (solved, frozen))
    ]
    return (
        f"{last} less {one}: {gains[0]} points. The {head} alone brings {gains[1]}; "
        f"what {last} adds to that is {gains[2]}.\n"
        f"The {head} less the {arm}, on the same features: {gains[3]} points. What is above 0 there is, in the "
        "ablation's effect of fine-tuning, a head that has not converged.\n"
        "(95 % intervals, these models.)"
    )


def with_temperature(models: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return models' test probabilities [N, C] as trained and at one temperature fitted on the validation images.

    Args:
        models: By name, the arrays of `Run.predictions`: val_probs, val_labels, test_probs. For a vote they are
            the averaged ones: its temperature is fitted after averaging.
    """
    found: dict[str, np.ndarray] = {}
    for name, of in models.items():
        t, scaled = evaluation.calibrate(of["test_probs"], of["val_probs"], of["val_labels"])
        found |= {name: of["test_probs"], f"{name}, T = {t:.2f}": scaled}
    return found


def calibration(probs: Mapping[str, np.ndarray], labels: np.ndarray) -> pd.DataFrame:
    """Compare how far models' confidence can be believed, by their test probabilities [N, C].

    ECE has no interval (its bootstrap does not cover); beside it stands what a perfectly calibrated model would
    show on as many images.
    """
    rows = {}
    for name, p in probs.items():
        loss = evaluation.mean_interval(evaluation.nll_each(p, labels))
        rows[name] = {
            "NLL (95 % interval)": f"{loss.value:.3f} ({loss.low:.3f} to {loss.high:.3f})",
            "Brier": f"{evaluation.brier(p, labels):.4f}",
            "ECE": percent(evaluation.ece(p, labels)),
            "if calibrated": percent(evaluation.ece_if_calibrated(p)),
            "ECE, bins of equal counts": percent(evaluation.ece(p, labels, adaptive=True)),
            "area under risk-coverage": f"{evaluation.risk_coverage(p, labels).area:.4f}",
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def robustness(right: Mapping[str, Mapping[str, np.ndarray]]) -> pd.DataFrame:
    """Compare accuracies on altered images, as `Study.robustness` returns them, a shift a row.

    Where there are two runs or more, the last column says how much more the first keeps than the second: the
    paired difference of what each loses to the shift.
    """
    shifts = list(next(iter(right.values())))
    found = shift_accuracies(right)
    columns = {name: [with_interval(*of[shift]) for shift in shifts] for name, of in found.items()}
    frame = pd.DataFrame(columns, index=shifts)
    if len(right) > 1:
        first, second = list(right.values())[:2]
        kept = [(first[s] - first["none"]) - (second[s] - second["none"]) for s in shifts]
        frame["kept more by the first, points"] = [
            "" if s == "none" else points(*evaluation.mean_interval(k)) for s, k in zip(shifts, kept, strict=True)
        ]
    return frame


def shift_accuracies(
    right: Mapping[str, Mapping[str, np.ndarray]],
) -> dict[str, dict[str, tuple[float, float, float]]]:
    """Return accuracies with intervals by run and shift, for `plotting.robustness`."""
    return {name: {shift: _share(values) for shift, values in of.items()} for name, of in right.items()}


def _share(right: np.ndarray) -> tuple[float, float, float]:
    """The mean of rights and wrongs with its interval: Wilson's, or a bootstrap where directions were averaged."""
    if np.isin(right, (0, 1)).all():
        return (float(right.mean()), *evaluation.wilson_interval(int(right.sum()), len(right)))
    value, low, high = evaluation.mean_interval(right)
    return value, low, high


def per_class(report: pd.DataFrame) -> pd.DataFrame:
    """Format `evaluation.per_class_report`: fractions with three digits, support as a whole number."""
    measures = ["precision", "recall", "f1"]
    return pd.DataFrame(
        {name: report[name].map("{:.3f}".format) for name in measures}
        | {"images": report["support"].map("{:,.0f}".format)}
    )


def recall_differences(differences: pd.DataFrame) -> pd.DataFrame:
    """Format `evaluation.recall_differences`: by class, in points, with the interval and the net images."""
    return pd.DataFrame(
        {
            "recall, points (95 % interval)": [
                points(row.difference, row.low, row.high) if row.support else "no images"
                for row in differences.itertuples()
            ],
            "images": differences["images"].map("{:+,d}".format),
            "of": differences["support"].map("{:,}".format),
        },
        index=differences.index,
    )


def pair_counts(confusions: Mapping[str, np.ndarray], classes: Sequence[str]) -> pd.DataFrame:
    """Count how often the pairs that the documents name, or else the worst one, are confused, by model."""
    pairs = [pair for pair in documented.CONFUSED_PAIRS if set(pair) <= set(classes)]
    if not pairs:
        worst = evaluation.most_confused(sum(confusions.values()), classes, k=1)
        pairs = [(row.first, row.second) for row in worst.itertuples()]
    rows = {}
    for first, second in pairs:
        i, j = classes.index(first), classes.index(second)
        rows[f"{first} and {second}"] = {name: f"{m[i, j] + m[j, i]:,}" for name, m in confusions.items()}
    rows["all errors"] = {name: f"{m.sum() - np.trace(m):,}" for name, m in confusions.items()}
    return pd.DataFrame.from_dict(rows, orient="index")


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
            "confident mistakes": f"{(wrong & (p.max(axis=1) > CONFIDENT)).sum()}",
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def cams(measures: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Average what `explain.measure` returns, a model a column; what was not measurable is left out."""
    rows = {}
    for name, m in measures.items():
        side = m["map_size"]
        rows[name] = {
            "map": f"{side} x {side}",
            "compactness": f"{np.nanmean(m['compactness']):.3f}",
            "entropy": f"{np.nanmean(m['entropy']):.3f}",
        }
        if "road" in m:
            rows[name]["ROAD (95 % interval)"] = _estimate(m["road"])
        if "pointing" in m:
            rows[name] |= {
                "on the object": percent(np.mean(m["pointing"]), 1),
                "centre, on it": percent(np.mean(m["centre_pointing"]), 1),
                "energy inside": percent(np.nanmean(m["energy"]), 1),
                "centre, inside": percent(np.mean(m["centre_energy"]), 1),
                "object's share": percent(np.mean(m["object_share"]), 1),
            }
    return pd.DataFrame(rows)  # a measure a row: beside one another they would be wider than a page


def _estimate(values: np.ndarray) -> str:
    values = values[np.isfinite(values)]
    if not len(values):
        return "not measurable"
    value, low, high = evaluation.mean_interval(values)
    return f"{value:+.3f} ({low:+.3f} to {high:+.3f})"


def cam_differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> pd.DataFrame:
    """Compare two models' Grad-CAM measures on the same images: the mean paired difference, first minus second."""
    better = {
        "compactness": "less is more compact",
        "entropy": "less is more concentrated",
        "road": "more: the map's pixels matter more",
        "energy": "more is on the object",
        "pointing": "more peaks on the object",
    }
    rows = {}
    for measure, reading in better.items():
        if measure not in first or measure not in second:
            continue
        paired = np.asarray(first[measure], float) - np.asarray(second[measure], float)
        known = np.isfinite(paired)
        rows[measure] = {
            "difference (95 % interval)": _estimate(paired),
            "images": f"{known.sum():,}",
            "": reading,
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def gate_shares(before: np.ndarray, after: np.ndarray) -> pd.DataFrame:
    """Compare the share of the feature maps' mass that lies on the object before and after the gates, [N] each."""
    known = np.isfinite(before) & np.isfinite(after)
    if not known.any():
        return pd.DataFrame({"on the object": ["not measurable: the maps are blank"]}, index=["gates"])
    gain = evaluation.mean_interval((after - before)[known])
    cells = {"before": percent(before[known].mean()), "after": percent(after[known].mean())}
    return pd.DataFrame(cells | {"difference in points (95 % interval)": points(*gain)}, index=["on the object"])


def diversity(pairs: Mapping[str, evaluation.Agreement]) -> pd.DataFrame:
    """Compare how alike the errors of several pairs of models are."""
    rows = {}
    for name, pair in pairs.items():
        rows[name] = {
            "exactly one right": percent(pair.disagreement),
            "both wrong": percent(pair.double_fault),
            "Q statistic": f"{pair.q_statistic:.3f}",
            "at least one right": percent(pair.oracle_accuracy),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def members(runs: Sequence[Run]) -> pd.DataFrame:
    """List what each further member adds to a soft vote of equal weights, and at what cost."""
    rows: dict[str, dict[str, str]] = {}
    labels = runs[0].predictions["test_labels"]
    before = np.zeros(len(labels), dtype=bool)
    for count, run in enumerate(runs, 1):
        probs = evaluation.soft_vote([r.predictions["test_probs"] for r in runs[:count]])
        right = probs.argmax(axis=1) == labels
        cells = {"test accuracy (95 % interval)": interval(right.mean(), len(labels))}
        if count > 1:
            gain = evaluation.paired_difference(right, before)
            cells["gain in points"] = points(*gain)
            cells["points a million parameters"] = f"{100 * gain.value / (run.metrics['parameters'] / 1e6):+.3f}"
            cells["points a minute of training"] = f"{100 * gain.value / (run.metrics['seconds'] / 60):+.2f} a min"
        rows[("+ " if count > 1 else "") + run.recipe.name] = cells
        before = right
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
            "training speed": f"{m['images_per_second']:,.0f} images/s",
            "stall ratio": "" if m["stall_ratio"] is None else f"{m['stall_ratio']:.2f} of resident",
            "peak memory": f"{m['peak_memory_bytes'] / 2**30:.2f} GiB",
            "precision": m["precision"],
            "trunk computed": "once" if m["cached_features"] else "every epoch",
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def summary(
    results: Mapping[str, Mapping[str, Any]], test_images: int, second: Mapping[str, Any] | None = None
) -> pd.DataFrame:
    """List the four levels with their cost; a level without a run says so.

    What the documents state stands beside them, unless these are images of other classes.

    Args:
        results: As `Study.results` returns them.
        test_images: Number of test images, for the intervals.
        second: What `Study.evaluate` found on another test set, which becomes one more column.
    """
    rows = {}
    classes = [name for found in results.values() for name in found.get("recall", ())]
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
            **_balanced(found),
            **_second(name, second),
            "test NLL": f"{found['test_nll']:.4f}",
            "epochs": str(found["epochs"]),
            "trained parameters": f"{found['trainable_parameters']:,}",
            "training time": f"{found['seconds']:.1f} s",
        }
    frame = pd.DataFrame.from_dict(rows, orient="index")
    return frame if documented.of_its_classes(classes) else frame.drop(columns="documented")


def _balanced(found: Mapping[str, Any]) -> dict[str, str]:
    """Return the cell of the balanced accuracy, where the classes' sizes make it another than the accuracy."""
    return {"balanced": percent(found["balanced_accuracy"])} if "balanced_accuracy" in found else {}


def _second(level: str, second: Mapping[str, Any] | None) -> dict[str, str]:
    if second is None or level not in second["levels"]:
        return {}
    found = second["levels"][level]
    title = f"on {second['name']}, {second['images']:,} images (95 % interval)"
    return {title: with_interval(found["test_accuracy"], *found["test_interval"])}


def second_test(second: Mapping[str, Any]) -> pd.DataFrame:
    """Compare accuracies on another test set, as `Study.evaluate` returns them, with those on the study's."""
    rows = {}
    for name, found in second["levels"].items():
        rows[f"Level {name[-1]}"] = {
            "the study's test images of these classes (95 % interval)": with_interval(
                found["own"], *found["own_interval"]
            ),
            **_second(name, second),
            **_balanced(found),
            "difference in points (95 % interval)": points(*found["difference"]),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def staircase(results: Mapping[str, Mapping[str, Any]], documented_setting: bool) -> list[dict[str, Any]]:
    """Return the rows of `plotting.forest`: levels with intervals, documented figures if comparable."""
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
    frame = pd.DataFrame(list(rows), columns=["section", "claim", "verdict", "evidence", "rule"])
    return frame.set_index(pd.Index([f"{i + 1}" for i in range(len(frame))]))


def show_claims(rows: Sequence[Mapping[str, str]]) -> None:
    """Display a claims table, and leave its rows in the output for the report's `results.json`."""
    show(claims(rows), **{CLAIMS_MIME: json.dumps([dict(row) for row in rows])})
