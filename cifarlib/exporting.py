"""A finished run as an ONNX model that needs nothing of cifarlib, with a card that says what it is.

The graph takes stored pictures, uint8 [N, s, s, 3] as image readers give them, normalises and resizes them, and
returns calibrated probabilities and the raw logits. It computes in fp32, BatchNorm folded into the convolutions.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import io
import json
import os
import warnings
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cifarlib import data, evaluation, models, predicting, recipes, runs
from cifarlib.runs import Run
from cifarlib.text import code_span, printable, version

MODEL, CARD = "model.onnx", "MODEL_CARD.md"
TOLERANCE = 1e-3  # what `_compare` may find for an export to be kept

_SOURCES = {
    "cifar10": "CIFAR-10 (Krizhevsky 2009)",
    "folder": "an image folder of the user's",
    "synthetic": "**cifarlib's built-in drawings, not photographs**: its accuracy says nothing about real images",
}


class Deployed(nn.Module):
    """A run's model from stored pictures to probabilities: everything that `data.prepare` does is inside.

    Shapes: uint8 [N, s, s, 3] -> probabilities [N, C] at the run's temperature, logits [N, C].

    Args:
        run: The finished run.
        t: Temperature that the logits are divided by before the softmax.
    """

    scale: Tensor
    shift: Tensor
    rows: Tensor
    columns: Tensor

    def __init__(self, run: Run, t: float) -> None:
        super().__init__()
        self.model = models.fold(models.restore(run.recipe, len(run.classes), run.weights()))
        self.t, size = t, predicting.stored_size(run)
        self.resizes = size != run.recipe.image_size
        cpu = torch.device("cpu")
        mean, std = (each.reshape(3) for each in data._statistics(cpu))
        self.register_buffer("scale", 1 / (255 * std))
        self.register_buffer("shift", -mean / std)
        if self.resizes:
            recipe = run.recipe
            rows, columns = data._resizing(size, recipe.image_size, recipe.interpolation, torch.float32, cpu)
            self.register_buffer("rows", rows)
            self.register_buffer("columns", columns)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map pictures uint8 [N, s, s, 3] to probabilities and logits [N, C]."""
        x = images.float() * self.scale + self.shift
        if self.resizes:
            size, target = images.shape[1], self.rows.shape[0]
            wide = x.reshape(-1, size, size * 3) @ self.columns
            x = (self.rows @ wide).reshape(-1, target, target, 3)
        logits = self.model(x.permute(0, 3, 1, 2))
        return torch.softmax(logits / self.t, dim=1), logits


def export(path: str | Path, out: str | Path | None = None, *, say: Callable[[str], None] = print) -> Path:
    """Write a finished run as `model.onnx`, with `MODEL_CARD.md` beside it; returns their folder.

    The model is compared with the original on random pictures in onnxruntime before it gets its name. What was
    exported there before is replaced, and it is said.

    Args:
        path: The run's folder.
        out: Where to write; None for `exports/<name of the run's folder>`.
        say: Takes what there is to say.

    Raises:
        RunError: there is no finished run, or it is damaged.
        ModuleNotFoundError: onnx, onnxscript or onnxruntime is missing; the message names the extra.
        OSError: nothing can be written there.
        ValueError: the exported model computes something else than the original.
    """
    require()
    run = predicting.opened(path)
    folder = Path(out) if out is not None else Path("exports") / run.path.name
    if folder.resolve() == run.path.resolve():
        raise ValueError(f"--out {folder} is the run's own folder, whose files are counted: choose another")
    runs.check_disk(folder, 2 * (run.path / "model.safetensors").stat().st_size)
    t, _ = _calibration(run)
    deployed = Deployed(run, t).eval()
    size = predicting.stored_size(run)
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (3, size, size, 3), generator=generator, dtype=torch.uint8)
    say(f"Exporting {run.path}: translating the model, a minute or less")
    program = _convert(deployed, pictures[:2])
    model = program.model_proto
    for key, value in _properties(run, t).items():
        model.metadata_props.add(key=key, value=value)
    content = model.SerializeToString()
    say(f"Checking it against the original in onnxruntime: {len(content) / 2**20:.0f} MiB")
    difference = _compare(content, run, t, pictures)
    if not difference <= TOLERANCE:
        raise ValueError(
            f"the exported model's outputs differ from {run.path}'s by up to {difference:.2g}, and "
            f"{TOLERANCE:g} is allowed: nothing was written. Try other versions of torch, onnxscript, onnxruntime"
        )
    folder.mkdir(parents=True, exist_ok=True)
    if replaced := [name for name in (MODEL, CARD) if (folder / name).exists()]:
        say(f"Replacing {' and '.join(replaced)} in {folder}")
    _write(folder / MODEL, content)
    _write(folder / CARD, card(run, hashlib.sha256(content).hexdigest(), len(content), difference).encode())
    return folder


def require() -> None:
    """Refuse where the packages of the extra are missing; ModuleNotFoundError names it."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"an export needs {error.name}, which is not installed: pip install 'cifarlib[export]'"
            ) from None


def _convert(deployed: Deployed, pictures: Tensor) -> Any:
    """Return torch's ONNX program of the model, for any number of pictures."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # torch's exporter warns of its own insides
        return torch.onnx.export(
            deployed,
            (pictures,),
            dynamo=True,  # the exporter that is kept, on torch.export; before torch 2.9 not the default
            input_names=["images"],
            output_names=["probabilities", "logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            external_data=False,
            verbose=False,
        )


def _compare(content: bytes, run: Run, t: float, pictures: Tensor) -> float:
    """Return how far onnxruntime's outputs are from those of the run's model as it was trained, at most.

    In a probability, or in a logit as a share of the largest: a high temperature makes all probabilities alike.
    """
    import onnxruntime  # type: ignore[import-untyped]

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    probs, found = session.run(["probabilities", "logits"], {"images": pictures.numpy()})
    model = models.restore(run.recipe, len(run.classes), run.weights())
    with torch.no_grad():
        logits = model(data.prepare(pictures.permute(0, 3, 1, 2), run.recipe))
    of_probs = np.abs(probs - (logits / t).softmax(dim=1).numpy()).max()
    return float(max(of_probs, np.abs(found - logits.numpy()).max() / logits.abs().max().item()))


def _calibration(run: Run) -> tuple[float, dict[str, tuple[float, float]]]:
    """Return the run's temperature, and ECE and NLL on the test images without and with it."""
    val_probs, val_labels = run.predictions["val_probs"], run.predictions["val_labels"]
    if "test_probs" not in run.predictions:
        return evaluation.temperature(evaluation.log_probs(val_probs), val_labels), {}
    probs, labels = run.predictions["test_probs"], run.predictions["test_labels"]
    t, scaled = evaluation.calibrate(probs, val_probs, val_labels)
    return t, {
        name: (measure(probs, labels), measure(scaled, labels))
        for name, measure in (("ECE", evaluation.ece), ("NLL", evaluation.nll))
    }


def _properties(run: Run, t: float) -> dict[str, str]:
    """Return what is kept within the ONNX file: it may be parted from its card."""
    return {
        "run": run.path.name,
        "cifarlib": version(),
        "classes": json.dumps(list(run.classes)),
        "temperature": repr(t),
        "image_size": str(predicting.stored_size(run)),
        "layout": "uint8 [N, height, width, 3], RGB",
        "low_confidence_below": str(predicting.CONFIDENT),
    }


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.part")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


# --- The card ----------------------------------------------------------------------------------------------


def card(run: Run, sha256: str, size: int, difference: float) -> str:
    """Write a model card in Markdown: data, recipe, measures with intervals, limits.

    Args:
        run: The finished run.
        sha256: Of `model.onnx`.
        size: Of `model.onnx`, in bytes.
        difference: The largest that was found between the two models' outputs, see `_compare`.
    """
    stored, recipe = predicting.stored_size(run), run.recipe
    t, calibration = _calibration(run)
    classes = ", ".join(f"{number} {code_span(name)}" for number, name in enumerate(run.classes))
    val_probs, val_labels = run.predictions["val_probs"], run.predictions["val_labels"]
    below = predicting.threshold(evaluation.apply_temperature(val_probs, t), val_labels)
    weights = hashlib.sha256((run.path / "model.safetensors").read_bytes()).hexdigest()
    return f"""# {recipe.name}: {recipe.model}, {len(run.classes)} classes

Exported by cifarlib {version()} from the run {code_span(run.path.name)}. This card is made from that run's files.

## Use

```python
import json
import numpy as np, onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession("{MODEL}")
classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])
upright = ImageOps.exif_transpose(Image.open("picture.jpg"))  # as the camera was held
picture = ImageOps.fit(upright.convert("RGB"), ({stored}, {stored}), Image.Resampling.BICUBIC)
probabilities, logits = session.run(None, {{"images": np.asarray(picture)[None]}})
print(classes[probabilities[0].argmax()], probabilities[0].max())
```

- Input `images`: uint8 [N, {stored}, {stored}, 3], RGB, any N. Inside the graph they are normalised and resized to
  {recipe.image_size} px ({recipe.interpolation}).
- Output `probabilities`: [N, {len(run.classes)}], calibrated: the softmax of the logits divided by the temperature
  {t:.4f}, fitted on the validation images.
- Output `logits`: [N, {len(run.classes)}], as trained, without the temperature.
- Classes, by index: {classes}.
- A predicted class under {predicting.CONFIDENT:g} is more likely wrong than right: treat it as *low confidence*.

## Data

{_data(run)}

## Recipe

| field | value |
|---|---|
{_rows({f.name: getattr(recipe, f.name) for f in fields(recipe) if f.name != "weights"})}
| weights | {_weights(run)} |

The last epoch's weights are the result; nothing was selected on the test images.

## Measures

| measure | value |
|---|---|
{_rows(_measures(run, calibration))}

An interval says what the choice of test images leaves open, not what another training seed would give.
Low confidence: a probability under {predicting.CONFIDENT:g}. {below}

## Limits

- It knows its {len(run.classes)} classes and nothing else: a picture of anything else gets one of them, perhaps
  with high confidence.
- Pictures are resized to {stored} x {stored} pixels first, and what is outside of their central square is lost.
- Calibration and accuracy hold for pictures like the test images. Other cameras, light or framing change both.
- It was not tested for fairness, safety or adversarial pictures: no decision about people should rest on it.

## Licence

cifarlib's code is MIT. The weights come from images, and often from pretrained weights, with terms of their own:
ImageNet's terms of access speak of non-commercial research, and CIFAR-10 is published without a licence. Whether
they allow what you want to do is yours to judge.

## Files

- `{MODEL}`: {size:,} bytes, sha256 `{sha256}`
- made from `model.safetensors`, sha256 `{weights}`
- Checked: on random pictures its outputs in onnxruntime differ from the original's in PyTorch (fp32) by at most
  {difference:.1e}: probabilities as they are, logits as a share of the largest one.
- Trained with {_environment(run)}
"""


def _data(run: Run) -> str:
    source = run.metrics.get("source")
    words = _SOURCES.get(str(source), "not recorded in the run; its images are known by their fingerprints alone")
    counts = [
        f"{len(run.predictions[f'{part}_labels']):,} {name} images"
        for part, name in (("val", "validation"), ("test", "test"))
        if f"{part}_labels" in run.predictions
    ]
    return (
        f"Source: {words}.\n{' and '.join(counts)}, stored at {predicting.stored_size(run)} px; fingerprints of "
        f"training, validation and test images: `{runs.images_of(run)}`."
    )


def _weights(run: Run) -> str:
    if run.recipe.weights in recipes.NAMED_WEIGHTS:
        return run.recipe.weights
    return code_span(Path(run.recipe.weights).name).replace("|", "\\|")


def _measures(run: Run, calibration: dict[str, tuple[float, float]]) -> dict[str, str]:
    rows = {}
    for part, name in (("test", "test accuracy"), ("val", "validation accuracy")):
        if f"{part}_labels" not in run.predictions:
            continue
        n = len(run.predictions[f"{part}_labels"])
        correct = round(run.metrics[f"{part}_accuracy"] * n)
        low, high = evaluation.wilson_interval(correct, n)
        probs, labels = run.predictions[f"{part}_probs"], run.predictions[f"{part}_labels"]
        rows[f"{name} (95 % Wilson interval)"] = (
            f"{100 * correct / n:.2f} % ({100 * low:.2f} to {100 * high:.2f}), {correct:,} of {n:,}"
        )
        if evaluation.unbalanced(labels):
            balanced = evaluation.balanced_accuracy(probs, labels)
            rows[f"balanced {name}, the mean of the classes' recalls"] = f"{100 * balanced:.2f} %"
    for measure, (before, after) in calibration.items():
        rows[f"test {measure}, as trained and with the temperature"] = f"{before:.4f}, {after:.4f}"
    rows["parameters"] = f"{run.metrics['parameters']:,}"
    if "multiply_adds" in run.metrics:
        rows["multiply-adds an image"] = f"{run.metrics['multiply_adds']:,}"
    return rows


def _environment(run: Run) -> str:
    return ", ".join(f"{name} {printable(str(value))}" for name, value in run.environment.items())


def _rows(values: dict[str, Any]) -> str:
    return "\n".join(f"| {name} | {value} |" for name, value in values.items())
