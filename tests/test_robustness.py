"""Altered test images: against torchvision's and Pillow's own, by hand arithmetic, and what must not change."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance

from cifarlib import robustness
from cifarlib.robustness import COLOUR, OTHER, STRENGTHS, shifted


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """Six smooth pictures: noise would hide what a blur or JPEG does."""
    generator = torch.Generator().manual_seed(0)
    coarse = 255 * torch.rand((6, 3, 4, 4), generator=generator)
    return torch.nn.functional.interpolate(coarse, (32, 32), mode="bicubic").clamp(0, 255).round().to(torch.uint8)


def picture(image: torch.Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def pixels(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


@pytest.mark.parametrize("kind", [*COLOUR, *OTHER])
def test_a_stronger_shift_moves_images_further_and_repeats(kind: str, images: torch.Tensor) -> None:
    kept = images.clone()
    moved = []
    for strength in (1, 2, 3):
        versions = shifted(images, kind, strength)
        assert len(versions) == (2 if kind in COLOUR else 1)
        for version in versions:
            assert version.dtype == torch.uint8 and version.shape == images.shape
        again = shifted(images, kind, strength)
        assert all(torch.equal(a, b) for a, b in zip(versions, again, strict=True))
        moved.append(float(torch.stack([(v.float() - images.float()).abs().mean() for v in versions]).mean()))
    assert 0 < moved[0] < moved[1] < moved[2]
    assert torch.equal(images, kept)


@pytest.mark.parametrize(
    ("kind", "enhance"),
    [
        ("brightness", ImageEnhance.Brightness),
        ("contrast", ImageEnhance.Contrast),
        ("saturation", ImageEnhance.Color),
    ],
)
def test_light_and_colour_agree_with_pillow(kind: str, enhance: type, images: torch.Tensor) -> None:
    x = STRENGTHS[kind][1]
    for factor, version in zip((1 - x, 1 + x), shifted(images, kind), strict=True):
        expected = torch.stack([pixels(enhance(picture(image)).enhance(factor)) for image in images])
        # Pillow rounds the grey value that it blends with; the difference is one value, times the factor.
        assert (version.int() - expected.int()).abs().max() <= 2


def test_a_turned_hue_turns_red_towards_green_and_leaves_grey() -> None:
    red = torch.tensor([255, 0, 0], dtype=torch.uint8)[None, :, None, None].expand(1, 3, 8, 8)
    back, on = shifted(red, "hue", 1)  # a twentieth of the circle: 18 degrees of the 60 from red to yellow
    assert on[0, :, 0, 0].tolist() == [255, 76, 0]
    assert back[0, :, 0, 0].tolist() == [255, 0, 76]
    grey = torch.full((1, 3, 8, 8), 90, dtype=torch.uint8)
    assert all(torch.equal(version, grey) for version in shifted(grey, "hue", 3))


def test_blur_is_gaussian_and_keeps_a_flat_image() -> None:
    flat = torch.full((1, 3, 16, 16), 77, dtype=torch.uint8)
    assert torch.equal(shifted(flat, "blur", 3)[0], flat)
    sigma = STRENGTHS["blur"][2]
    point = torch.zeros((1, 3, 15, 15), dtype=torch.uint8)
    point[..., 7, 7] = 255
    spread = shifted(point, "blur", 3)[0][0, 0].double()
    offset = torch.arange(15.0) - 7
    weights = torch.exp(-0.5 * (offset / sigma) ** 2) * (offset.abs() <= round(3 * sigma))
    weights /= weights.sum()
    assert (spread - 255 * weights.outer(weights)).abs().max() <= 0.51


def test_noise_has_the_deviation_it_says_and_its_own_generator() -> None:
    grey = torch.full((40, 3, 32, 32), 128, dtype=torch.uint8)
    state = torch.get_rng_state()
    (noisy,) = shifted(grey, "noise", 2)
    assert torch.equal(torch.get_rng_state(), state)
    difference = (noisy.float() - 128) / 255
    assert float(difference.std()) == pytest.approx(0.05, rel=0.02)
    assert abs(float(difference.mean())) < 0.001


def test_jpeg_is_pillows(images: torch.Tensor, tmp_path: Path) -> None:
    picture(images[0]).save(tmp_path / "a.jpg", quality=30)
    with Image.open(tmp_path / "a.jpg") as decoded:
        assert torch.equal(shifted(images, "jpeg", 2)[0][0], pixels(decoded))


def test_mistakes_are_named(images: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="unknown shift 'brightnes': did you mean 'brightness'"):
        shifted(images, "brightnes")
    with pytest.raises(ValueError, match="strength=4 of a shift must be 1, 2 or 3"):
        shifted(images, "hue", 4)
    with pytest.raises(ValueError, match="uint8"):
        shifted(images.float(), "hue")


def test_what_the_study_trains_within_is_the_mild_strength() -> None:
    from cifarlib.recipes import LEVEL2

    for kind in COLOUR:
        mild, medium, _ = STRENGTHS[kind]
        assert mild <= getattr(LEVEL2, kind)
        assert medium >= getattr(LEVEL2, kind)
    assert robustness.DEFAULT_STRENGTH == 2
