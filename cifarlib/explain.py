"""Where a model looks: class activation maps, and what can be measured about them.

`grad_cam` gives one map an image; the measures are pure functions of maps. A map shows where evidence for a class
lies; it does not show that the model would be wrong without it: `road` removes pixels and asks the model. An
all-zero map means that no location speaks for the class: measures of it are NaN, and it points nowhere. `gates`
and `gated_energy` look at what a squeeze-excite block does to the last feature maps. The same name means the same:

    model        a `models.Classifier`, or any module with a submodule `cam_layer` of output [B, C, h, w] that each
                 forward pass runs once; for `gates` one with a single squeeze-excite block
    images       prepared ones [N, 3, H, W]: normalised floats, as the model takes them, on its device
    maps         [N, h, w], non-negative, finite, more than one pixel each
    masks        the objects, bool [N, s, s], s no smaller than h and w
    targets      the class that each map explains, N integers; None takes the predicted classes
    batch_size   images at a time: decides memory, and no result

What is not as described is refused with a ValueError that says what and where. Whatever takes a model leaves it as
it was found, also after an error: modes, `grad`, `requires_grad`, hooks, weights, buffers and random state.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy.special import entr
from torch import Tensor, nn

import cifarlib._torchvision  # noqa: F401  mends torchvision, which the package of the last imports needs
from cifarlib import progress

# isort: split
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.base_cam import BaseCAM
from pytorch_grad_cam.metrics.perturbation_confidence import RemoveLeastRelevantFirst, RemoveMostRelevantFirst
from pytorch_grad_cam.metrics.road import NoisyLinearImputer

Array = npt.NDArray[np.floating]

# ----------------------------------------------------------------------------------------------------- maps


def grad_cam(
    model: nn.Module,
    images: Tensor,
    targets: Sequence[int] | npt.ArrayLike | Tensor | None = None,
    *,
    batch_size: int = 32,
) -> npt.NDArray[np.float32]:
    """Compute one class activation map an image, at the resolution of the model's last spatial layer.

    With A_k channel k of that layer's output and y the logit of the class, Grad-CAM (Selvaraju et al. 2017, arXiv
    1610.02391) is `relu(sum_k mean_ij(dy/dA_k) A_k)`. Each map is then divided by its maximum.

    The graph is cut at that layer: what lies before it runs as inference, and backward starts at the logit and
    ends there, so that it never enters the trunk and no parameter gets a gradient. Evaluation mode is used
    throughout, and no random number is drawn.

    Returns:
        Maps `[N, h, w]` in [0, 1], each with maximum 1 or, where nothing speaks for the class, all zero.
    """
    layer = getattr(model, "cam_layer", None)
    if not isinstance(layer, nn.Module):
        raise ValueError(
            f"{type(model).__name__} has no submodule `cam_layer` to look at: give a models.Classifier"
        )
    _check_images(images, batch_size)
    if targets is not None:
        targets = _checked_targets(targets, len(images))

    maps = []
    with _recording(model, layer) as cam:
        recorded = cam.activations_and_grads
        for start in _starts(len(images), batch_size, "Grad-CAM"):
            batch = images[start : start + batch_size]
            logits = recorded(batch)
            if len(recorded.activations) != 1:
                raise ValueError(
                    f"cam_layer must run once in a forward pass, and ran {len(recorded.activations)} times"
                )
            _check_output(logits, start, start + len(batch) - 1)
            if targets is None:
                chosen = logits.argmax(dim=1)
            else:
                _check_classes(targets, logits.shape[1])
                of_batch = targets[start : start + batch_size]
                chosen = torch.tensor(of_batch, dtype=torch.int64, device=logits.device)
            # In evaluation mode the images of a batch do not meet: the sum's gradient is each logit's own.
            logits.gather(1, chosen[:, None]).sum().backward()
            activations, gradients = recorded.activations[0].float(), recorded.gradients[0].float()
            # The library's own way on from here subtracts each map's minimum and resizes it to the image.
            raw = cam.get_cam_image(batch, layer, None, activations.numpy(), gradients.numpy(), eigen_smooth=False)
            maps.append(np.maximum(raw, 0).astype(np.float32))
    found: npt.NDArray[np.float32] = np.concatenate(maps)
    peaks = found.max(axis=(1, 2), keepdims=True)
    return np.divide(found, peaks, out=found, where=peaks > 0)


def _starts(n: int, batch_size: int, what: str) -> Iterator[int]:
    """Yield where each batch of `n` images starts, under a bar."""
    yield from progress.bar(range(0, n, batch_size), what=what, unit="batch")


def _check_images(images: Tensor, batch_size: int = 1) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be at least 1")
    if images.ndim != 4 or len(images) == 0 or not images.is_floating_point():
        raise ValueError(
            f"images must be prepared floats [N, 3, H, W] with N >= 1, not {images.dtype} "
            f"{list(images.shape)}: pass them through data.prepare"
        )
    finite = images.isfinite().flatten(1).all(dim=1)
    if not finite.all():
        raise ValueError(f"images must be finite: image {int(finite.int().argmin())} holds NaN or infinity")


def _checked_targets(targets: Sequence[int] | npt.ArrayLike | Tensor, n: int) -> npt.NDArray[np.integer]:
    """`targets` as an array of `n` integers; whether they are classes only the model's output tells."""
    checked = torch.as_tensor(targets).numpy(force=True)
    if checked.shape != (n,) or not np.issubdtype(checked.dtype, np.integer):
        raise ValueError(f"targets must be {n} integers, one an image, not {checked.dtype} {list(checked.shape)}")
    return checked


def _check_output(logits: Tensor, first: int, last: int) -> None:
    if not logits.isfinite().all():
        raise ValueError(
            f"the model's output for images {first} to {last} is not finite: "
            "its weights or its activations hold NaN or infinity"
        )


def _check_classes(targets: npt.NDArray[np.integer], classes: int) -> None:
    wrong = targets[(targets < 0) | (targets >= classes)]
    if len(wrong):
        raise ValueError(f"targets must lie in 0..{classes - 1}, the model's classes: found {int(wrong[0])}")


def _cut(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """Replace the layer's output by a leaf of the graph, so that backward ends there."""
    if output.ndim != 4:
        raise ValueError(f"cam_layer must give feature maps [B, C, h, w], not {list(output.shape)}")
    _check_spatial(output)
    return output.detach().requires_grad_()


def _check_spatial(features: Tensor) -> None:
    if features.shape[-2:] == (1, 1):
        raise ValueError(
            "the class activation map is 1x1 at this image size, which says nothing about where: "
            "use a larger image_size, or dilation=True for a ResNet"
        )


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Put every module into evaluation mode; afterwards each has the mode it had."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in modes:
            module.training = False  # not eval(): a module may override it
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def _recording(model: nn.Module, layer: nn.Module) -> Iterator[BaseCAM]:
    """Record the layer's output and its gradient, in evaluation mode; afterwards all is as before."""
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    handle = layer.register_forward_hook(_cut)  # before the library's hooks, which then see the leaf
    recorded = None
    try:
        with _evaluating(model), torch.inference_mode(False), torch.enable_grad():
            for parameter, _ in flags:
                parameter.requires_grad_(False)
            cam = GradCAM(model, [layer])
            recorded = cam.activations_and_grads
            yield cam
    finally:
        if recorded is not None:
            recorded.release()
        handle.remove()
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def upsample(maps: npt.ArrayLike, size: int) -> npt.NDArray[np.float32]:
    """Resize maps bilinearly, for overlays and beside masks.

    The centres of cells keep their place (`align_corners=False`), as where `data.prepare` resizes images.

    Returns:
        Maps `[N, size, size]`.

    Example:
        >>> upsample([[[0, 1], [0, 1]]], 4)[0, 0].tolist()
        [0.0, 0.25, 0.75, 1.0]
    """
    checked = _checked(maps)
    if size < max(checked.shape[1:]):
        raise ValueError(f"size={size} must be no smaller than the maps, {checked.shape[1]}x{checked.shape[2]}")
    resized = F.interpolate(torch.from_numpy(checked)[:, None], (size, size), mode="bilinear", align_corners=False)
    return resized[:, 0].float().numpy()


# ------------------------------------------------------------------------------------------------- measures


def compactness(maps: npt.ArrayLike) -> Array:
    """Smallest share of a map's pixels that holds half of its mass; less is more compact.

    `min |S| / (h w)` over the sets of pixels S with `sum_S map >= 1/2 sum map`: the size of the 50 % highest
    density region (Hyndman 1996, The American Statistician 50(2)). It moves in steps of `1 / (h w)`, so compare
    maps of one resolution only.

    Returns:
        `[N]`, from `1 / (h w)` for a single point to about 1/2 for a uniform map; NaN for an all-zero map.

    Example:
        >>> compactness([[[3, 1], [1, 0]], [[1, 1], [1, 1]]]).tolist()
        [0.25, 0.5]
    """
    mass = _mass(maps)
    held = np.sort(mass, axis=1)[:, ::-1].cumsum(axis=1)
    # The tolerance keeps rounding from asking for one pixel more where exactly half is held.
    needed = 1 + (held < 0.5 - 1e-9).sum(axis=1)
    return np.where(np.isnan(mass[:, 0]), np.nan, needed / mass.shape[1])


def entropy(maps: npt.ArrayLike) -> Array:
    """Entropy of a map's mass over its pixels, as a share of the largest possible.

    `-sum p log p / log(h w)` with `p = map / sum map`: the complexity of Bhatt et al. (2020, arXiv 2005.00631),
    normalised.

    Returns:
        `[N]`, from 0 for a single point to 1 for a uniform map; NaN for an all-zero map.

    Example:
        >>> entropy([[[1, 1], [0, 0]]]).tolist()
        [0.5]
    """
    mass = _mass(maps)
    return entr(mass).sum(axis=1) / np.log(mass.shape[1])


def pointing_game(maps: npt.ArrayLike, masks: npt.ArrayLike | Tensor) -> npt.NDArray[np.bool_]:
    """Say of each map whether its maximum lies inside the object (Zhang et al. 2016, arXiv 1608.00507).

    The maximum of a bilinearly resized map lies at the centre of its largest cell: the mask is read there, without
    the paper's tolerance of 15 pixels. Where several cells tie, the first in reading order counts.

    Returns:
        bool `[N]`; False for an all-zero map. `object_share` is the rate of blind guesses.

    Example:
        >>> pointing_game([[[0, 1], [0, 0]]], [[[False, True], [False, False]]]).tolist()
        [True]
    """
    checked = _checked(maps)
    objects = _checked_masks(masks, len(checked))
    n, height, width = checked.shape
    row, column = np.unravel_index(checked.reshape(n, -1).argmax(axis=1), (height, width))
    size = objects.shape[1]
    # The centre of cell i of h is (i + 1/2) s / h, in integers.
    hit = objects[np.arange(n), (2 * row + 1) * size // (2 * height), (2 * column + 1) * size // (2 * width)]
    return hit & (checked.max(axis=(1, 2)) > 0)


def energy_inside(maps: npt.ArrayLike, masks: npt.ArrayLike | Tensor) -> Array:
    """Share of a map's mass that lies inside the object: the energy-based pointing game.

    `sum_(pixels of the object) map / sum map`, the map resized to the mask (Wang et al. 2020, Score-CAM, arXiv
    1910.01279).

    Returns:
        `[N]` in [0, 1]; NaN for an all-zero map. `object_share` is what a uniform map gets.

    Example:
        >>> energy_inside([[[3, 1], [0, 0]]], [[[True, False], [True, False]]]).tolist()
        [0.75]
    """
    checked = _checked(maps)
    objects = _checked_masks(masks, len(checked))
    mass = _mass(upsample(checked, objects.shape[1]))
    return (mass * objects.reshape(mass.shape)).sum(axis=1)


def object_share(masks: npt.ArrayLike | Tensor) -> Array:
    """Share of the image that the object covers: the chance level of both pointing games.

    A pixel drawn at random hits the object with this probability, and a uniform map has this share of its mass
    inside.

    Returns:
        `[N]` in [0, 1].

    Example:
        >>> object_share([[[True, False], [False, False]]]).tolist()
        [0.25]
    """
    return _checked_masks(masks).mean(axis=(1, 2))


def measure(
    model: nn.Module,
    images: Tensor,
    masks: npt.ArrayLike | Tensor | None = None,
    labels: npt.ArrayLike | Tensor | None = None,
) -> dict[str, npt.NDArray[Any] | int]:
    """Compute the Grad-CAM maps of the predicted classes and everything measured about them.

    Returns:
        `maps` `[N, h, w]`, `map_size` (cells a side), `compactness` and `entropy` `[N]`. With masks also
        `pointing` `[N]`, `energy` `[N]`, `object_share` `[N]` (what a map spread evenly would put on the
        object), and `centre_pointing` and `centre_energy` `[N]`: the same measures of one fixed map, a Gaussian
        in the middle with a fifth of the image's side as its deviation. Objects lie near the middle, so a map
        must do better than that one. With labels also `right` `[N]`, whether the predicted class is the true one.
    """
    maps = grad_cam(model, images)
    found: dict[str, npt.NDArray[Any] | int] = {
        "maps": maps,
        "map_size": maps.shape[-1],
        "compactness": compactness(maps),
        "entropy": entropy(maps),
    }
    if masks is not None:
        objects = _checked_masks(masks)
        side = objects.shape[-1]
        profile = np.exp(-0.5 * ((np.arange(side) + 0.5 - side / 2) / (side / 5)) ** 2)
        centre = np.broadcast_to(np.outer(profile, profile), objects.shape)
        found["pointing"], found["centre_pointing"] = pointing_game(maps, objects), pointing_game(centre, objects)
        found["energy"], found["centre_energy"] = energy_inside(maps, objects), energy_inside(centre, objects)
        found["object_share"] = object_share(objects)
    if labels is not None:
        with _evaluating(model), torch.no_grad():
            predicted = torch.cat([model(batch).argmax(dim=1) for batch in images.split(64)])
        found["right"] = predicted.cpu().numpy() == torch.as_tensor(labels).numpy(force=True)
    return found


# --------------------------------------------------------------------------------------- removal and gates


def road(
    model: nn.Module,
    images: Tensor,
    maps: npt.ArrayLike,
    targets: Sequence[int] | npt.ArrayLike | Tensor | None = None,
    *,
    percentiles: Sequence[float] = (20, 40, 60, 80),
    seed: int = 0,
) -> Array:
    """Remove pixels and ask the model: the score ROAD, remove and debias (Rong et al. 2022, arXiv 2202.00449).

    For each percentile q all but q % of an image's pixels are removed, once the least relevant and once the most
    relevant first. A removed pixel becomes the weighted mean of its neighbours, by a system of linear equations,
    plus a little noise, so that the shape of the hole tells the model next to nothing. With P the probability of
    the class, the score is

        mean over q of (P without the least relevant - P without the most relevant) / 2,

    which is how the grad-cam package joins the paper's two curves. Only the order of a map's pixels counts. Pixels
    of equal relevance are ordered at random: whole plateaus, a map's zeros say, would otherwise go at once, and a
    different number of pixels in each of the two orders.

    An image at a time is imputed on the CPU, in single precision, which takes most of the time and grows faster
    than the number of pixels: score a sample. `percentiles` are percentages of pixels kept. `seed` decides the
    noise and the order of equal pixels: two models, or two kinds of map, scored with one seed get the same noise.

    Returns:
        `[N]` in [-1/2, 1/2]. Above 0 the map's pixels matter more to the class than the others; a map without
        a meaning scores about 0, and an inverted map minus what the map does. NaN for an all-zero map.

    Example:
        A model whose first logit is how red the left half of the image is:

        >>> model = nn.Sequential(nn.AvgPool2d((8, 4)), nn.Flatten())
        >>> image = torch.zeros(1, 3, 8, 8)
        >>> image[:, 0, :, :4] = 9
        >>> left = [[[1, 0], [1, 0]]]
        >>> right = [[[0, 1], [0, 1]]]
        >>> bool(road(model, image, left, [0])[0] > 0 > road(model, image, right, [0])[0])
        True
    """
    checked = _checked(maps)
    _check_images(images)
    if images.shape[2] != images.shape[3]:
        raise ValueError(f"images must be square [N, 3, s, s], not {list(images.shape)}")
    if len(checked) != len(images):
        raise ValueError(f"maps must be of the images: {len(checked)} maps, {len(images)} images")
    if not len(percentiles) or not all(0 < kept < 100 for kept in percentiles):
        raise ValueError(
            f"percentiles={tuple(percentiles)} must be percentages of pixels kept, each above 0 and below 100"
        )
    if targets is not None:
        targets = _checked_targets(targets, len(images))
    resized = upsample(checked, images.shape[2])

    scores = np.full(len(images), np.nan)
    with (
        _evaluating(model),
        torch.no_grad(),
        torch.autocast(images.device.type, enabled=False),
        torch.random.fork_rng(devices=[]),
    ):
        for i in progress.bar(range(len(images)), what="ROAD", unit="image"):
            if not checked[i].any():
                continue
            # Seeded anew for each image: a score does not depend on how many images before it were scored.
            # torch.manual_seed would seed the GPU too, whose state is not restored here and is not used.
            torch.default_generator.manual_seed(seed + i)
            ties = np.random.default_rng(seed + i).permutation(resized[i].size)
            ranks = np.lexsort((ties, resized[i].ravel())).argsort().reshape(resized[i].shape)
            image = images[i].detach().float().cpu()  # the imputer knows neither bfloat16 nor the GPU
            removed = _removed(image, torch.from_numpy(ranks.astype(np.float32)), percentiles)
            logits = model(torch.stack([image, *removed]).to(images)).float()
            _check_output(logits, i, i)
            if targets is None:
                target = int(logits[0].argmax())
            else:
                _check_classes(targets, logits.shape[1])
                target = int(targets[i])
            least, most = logits[1:].softmax(dim=1)[:, target].reshape(2, -1).mean(dim=1).tolist()
            scores[i] = (least - most) / 2
    return scores


def _removed(image: Tensor, ranks: Tensor, percentiles: Sequence[float]) -> list[Tensor]:
    """The image without its least relevant pixels, at each percentile, then without its most relevant ones.

    The ranks differ from pixel to pixel. The package keeps what lies below a percentile: of a map with many zeros
    it would keep nothing, nothing would be left to fill the image in from, and the equations would be singular.
    """
    imputer = NoisyLinearImputer()
    with warnings.catch_warnings():
        # The package calls NumPy on torch's tensors, whose way of wrapping the result NumPy 2 deprecates.
        warnings.filterwarnings("ignore", "__array_wrap__", DeprecationWarning)
        return [
            order(kept, imputer)(image, ranks)
            for order in (RemoveLeastRelevantFirst, RemoveMostRelevantFirst)
            for kept in percentiles
        ]


def gates(model: nn.Module, images: Tensor, *, batch_size: int = 64) -> npt.NDArray[np.float32]:
    """Read the channel gates of the model's squeeze-excite block, in evaluation mode.

    The block (Hu et al. 2018, arXiv 1709.01507) multiplies each of the last feature maps by its gate: 1 leaves a
    channel as it is, 0 silences it. A gate is one number for the whole map: it says which channels count in an
    image, never where.

    Returns:
        `[N, K]`, from 0 to the block's scale (1, or 2 where it started as the identity).

    Example:
        >>> from cifarlib.models import SqueezeExcite
        >>> gates(SqueezeExcite(16, init="identity"), torch.ones(1, 16, 4, 4))[0, :3].tolist()
        [1.0, 1.0, 1.0]
    """
    return _gated(model, images, batch_size)[0].numpy()


def gated_energy(
    model: nn.Module, images: Tensor, masks: npt.ArrayLike | Tensor, *, batch_size: int = 64
) -> tuple[Array, Array]:
    """Say how much of the last feature maps lies inside the object, before and after the channel gates.

    `energy_inside` of `sum_k relu(A_k)`, with A the feature maps that enter the squeeze-excite block, and of the
    same sum of what leaves it. A block that favours the channels that respond to the object, and holds back those
    that respond to the background, raises the share. No class enters: this is about features, not about evidence.

    Returns:
        The shares before and after, each `[N]` in [0, 1]; NaN where no feature is positive. `object_share` is
        what maps spread evenly get.

    Example:
        >>> from cifarlib.models import SqueezeExcite
        >>> image = torch.tensor([[3.0, 1.0], [0.0, 0.0]]).expand(1, 16, 2, 2)
        >>> before, after = gated_energy(SqueezeExcite(16), image, [[[True, False], [True, False]]])
        >>> before.tolist(), after.tolist()
        ([0.75], [0.75])
    """
    objects = _checked_masks(masks, len(images))
    _, before, after = _gated(model, images, batch_size)
    _check_spatial(before)
    return energy_inside(before.numpy(), objects), energy_inside(after.numpy(), objects)


def _gated(model: nn.Module, images: Tensor, batch_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Gates `[N, K]`, and the positive part of the feature maps summed over channels `[N, h, w]`: in, out."""
    _check_images(images, batch_size)
    blocks = [module for module in model.modules() if callable(getattr(module, "gates", None))]
    if len(blocks) != 1:
        raise ValueError(
            f"{type(model).__name__} has {len(blocks)} squeeze-excite blocks with a method `gates`, not one: "
            "give a model whose recipe has model='se_resnet50', as level 3's"
        )
    seen = []

    def look(block: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        # Only sums are kept: the feature maps of all images would not fit into memory.
        found = (block.gates(inputs[0]), inputs[0].relu().sum(dim=1), output.relu().sum(dim=1))
        seen.append([part.float().cpu() for part in found])

    handle = blocks[0].register_forward_hook(look)
    try:
        with _evaluating(model), torch.no_grad():
            for start in _starts(len(images), batch_size, "channel gates"):
                model(images[start : start + batch_size])
    finally:
        handle.remove()
    channel_gates, before, after = (torch.cat(parts) for parts in zip(*seen, strict=True))
    return channel_gates, before, after


# ------------------------------------------------------------------------------------------------- checking


def _checked(maps: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """`maps` as a float64 array `[N, h, w]`; ValueError saying what is wrong and where."""
    checked = np.array(maps, dtype=np.float64)
    if checked.ndim != 3 or len(checked) == 0 or checked[0].size < 2:
        raise ValueError(
            f"maps must have shape [N, h, w] with N >= 1 and more than one pixel, not {list(checked.shape)}"
        )
    wrong = ~np.isfinite(checked) | (checked < 0)
    if wrong.any():
        at = int(wrong.any(axis=(1, 2)).argmax())
        raise ValueError(f"maps must be finite and not negative: map {at} holds {checked[at][wrong[at]][0]:.4g}")
    return checked


def _checked_masks(masks: npt.ArrayLike | Tensor, n: int | None = None) -> npt.NDArray[np.bool_]:
    """`masks` as a bool array `[N, s, s]`, of `n` images where given."""
    checked = np.asarray(masks.cpu() if isinstance(masks, Tensor) else masks)
    if checked.dtype != np.bool_:
        raise ValueError(f"masks must be bool, True inside the object, not {checked.dtype}")
    if checked.ndim != 3 or checked.shape[1] != checked.shape[2] or 0 in checked.shape:
        raise ValueError(f"masks must have shape [N, s, s] with N, s >= 1, not {list(checked.shape)}")
    if n is not None and len(checked) != n:
        raise ValueError(f"maps and masks must be of the same images: {n} maps, {len(checked)} masks")
    return checked


def _mass(maps: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Maps flattened to `[N, h w]` and scaled to sum 1; an all-zero map becomes NaN."""
    checked = _checked(maps)
    flat = checked.reshape(len(checked), -1)
    total = flat.sum(axis=1, keepdims=True)
    return flat / np.where(total > 0, total, np.nan)
