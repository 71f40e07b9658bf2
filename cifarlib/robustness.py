"""Altered test images: shifts of light and colour as the augmentation has them, and blur, noise and JPEG.

The corruptions follow the idea of Hendrycks and Dietterich 2019 (arXiv 1903.12261): kinds at three strengths. The
four colour shifts are those that level 2's document claims robustness to; each goes in both directions.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import torch
from PIL import Image
from torch import Tensor

from cifarlib._torchvision import torchvision
from cifarlib.recipes import nearest

COLOUR = ("brightness", "contrast", "saturation", "hue")
"""What level 2's augmentation varies, and its document claims robustness to (section 10)."""
OTHER = ("blur", "noise", "jpeg")
"""What no level trains on."""
STRENGTHS: dict[str, tuple[float, float, float]] = {
    "brightness": (0.2, 0.4, 0.6),  # factors 1 - x and 1 + x; the study trains within 0.2
    "contrast": (0.2, 0.4, 0.6),
    "saturation": (0.2, 0.4, 0.6),
    "hue": (0.05, 0.15, 0.25),  # turns by -x and x, in shares of the circle; the study trains within 0.1
    "blur": (0.5, 0.8, 1.2),  # standard deviation in stored pixels
    "noise": (0.02, 0.05, 0.1),  # standard deviation, of values in [0, 1]
    "jpeg": (60, 30, 15),  # quality
}
"""What mild, medium and strong mean for each kind."""
DEFAULT_STRENGTH = 2


def shifted(images: Tensor, kind: str, strength: int = DEFAULT_STRENGTH) -> list[Tensor]:
    """Alter stored images in one way; the same images give the same result.

    Brightness, contrast and saturation are scaled and the hue is turned as torchvision's `ColorJitter` does it.

    Args:
        images: uint8 `[N, 3, s, s]`.
        kind: One of `COLOUR` and `OTHER`.
        strength: 1 mild, 2 medium, 3 strong, as `STRENGTHS` lists.

    Returns:
        uint8 `[N, 3, s, s]`, once for each direction: two for the colour shifts (less and more), else one.

    Raises:
        ValueError: an unknown kind or strength, or images that are not uint8.
    """
    if kind not in STRENGTHS:
        raise ValueError(f"unknown shift {kind!r}{nearest(kind, STRENGTHS)}")
    if strength not in (1, 2, 3):
        raise ValueError(f"strength={strength!r} of a shift must be 1, 2 or 3")
    if images.dtype != torch.uint8:
        raise ValueError(f"images must be stored ones, uint8 [N, 3, s, s], not {images.dtype}")
    x = STRENGTHS[kind][strength - 1]
    functional = torchvision.transforms.functional
    if kind == "hue":
        return [functional.adjust_hue(images, turn) for turn in (-x, x)]
    if kind in COLOUR:
        adjust: Callable[[Tensor, float], Tensor] = getattr(functional, f"adjust_{kind}")
        return [adjust(images, factor) for factor in (1 - x, 1 + x)]
    if kind == "blur":
        return [functional.gaussian_blur(images, [2 * round(3 * x) + 1] * 2, [x, x])]
    if kind == "noise":
        drawn = torch.randn(images.shape, generator=torch.Generator().manual_seed(0)).to(images.device)
        return [(images + 255 * x * drawn).round().clamp(0, 255).to(torch.uint8)]
    return [torch.stack([_jpeg(image, round(x)) for image in images.cpu()]).to(images.device)]


def _jpeg(image: Tensor, quality: int) -> Tensor:
    """Pass an image uint8 [3, s, s] through a JPEG file."""
    file = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, format="JPEG", quality=quality)
    with Image.open(file) as decoded:
        pixels = torch.frombuffer(bytearray(decoded.tobytes()), dtype=torch.uint8)
    return pixels.view(*image.shape[1:], 3).permute(2, 0, 1)
