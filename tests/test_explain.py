from __future__ import annotations

import random
import warnings
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import expit
from torch import Tensor, nn

from cifarlib import explain
from cifarlib.models import Classifier, FrozenTrunk, SqueezeExcite, build
from cifarlib.recipes import EFFICIENTNET, LEVEL1, LEVEL2, LEVEL3

# isort: split
from pytorch_grad_cam.metrics.road import ROADCombined
from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget

SMALL = {"weights": "none", "image_size": 64}
RECIPES = {
    "head": replace(LEVEL1, **SMALL, dilation=True),  # the layer lies in the trunk
    "layer4": replace(LEVEL2, **SMALL, dilation=True),  # it opens the tail
    "se": replace(LEVEL3, **SMALL, dilation=True, se_init="paper"),  # it lies within the tail
    "efficientnet": replace(EFFICIENTNET, **SMALL),  # there is no trunk
}
CLASSES = 4
TARGETS = [0, 3, 1]


@pytest.fixture(scope="module")
def models() -> dict[str, Classifier]:
    return {name: build(recipe, CLASSES).train() for name, recipe in RECIPES.items()}


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(len(TARGETS), 3, 64, 64, generator=torch.Generator().manual_seed(1))


def by_hand(model: Classifier, images: Tensor, targets: list[int], weigh: Callable[..., Tensor]) -> np.ndarray:
    """The map of each image on its own, from the gradient through the whole model."""
    model.eval()
    kept: list[Tensor] = []
    handle = model.cam_layer.register_forward_hook(lambda module, inputs, output: kept.append(output))
    maps = []
    for image, target in zip(images, targets, strict=True):
        kept.clear()
        logit = model(image[None].requires_grad_())[0, target]
        (gradient,) = torch.autograd.grad(logit, kept[0])
        raw = torch.relu((weigh(gradient) * kept[0]).sum(dim=1))[0]
        maps.append((raw / raw.max() if raw.max() > 0 else raw).detach().numpy())
    handle.remove()
    model.train()
    return np.stack(maps)


def mean_weights(gradient: Tensor) -> Tensor:
    return gradient.mean(dim=(2, 3), keepdim=True)


def same(maps: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(maps, expected, rtol=1e-3, atol=1e-3)


# --------------------------------------------------------------------------------------------------- Grad-CAM


@pytest.mark.parametrize("name", RECIPES)
def test_grad_cam_agrees_with_the_formula(name: str, models: dict[str, Classifier], images: Tensor) -> None:
    side = 2 if name == "efficientnet" else 4
    maps = explain.grad_cam(models[name], images, TARGETS)
    assert maps.shape == (len(images), side, side)
    assert maps.dtype == np.float32
    assert maps.min() >= 0
    assert (maps.max(axis=(1, 2)) == 1).sum() >= 1  # random weights leave some maps empty
    same(maps, by_hand(models[name], images, TARGETS, mean_weights))


def test_without_targets_the_predicted_class_is_explained(models: dict[str, Classifier], images: Tensor) -> None:
    model = models["layer4"]
    with torch.no_grad():
        predicted = model.eval()(images).argmax(dim=1)
    maps = explain.grad_cam(model, images)
    same(maps, explain.grad_cam(model, images, predicted))
    others = explain.grad_cam(model, images, (predicted + 1) % CLASSES)
    assert not np.allclose(maps, others)


def test_the_batch_size_does_not_change_the_maps(models: dict[str, Classifier], images: Tensor) -> None:
    whole = explain.grad_cam(models["se"], images, TARGETS, batch_size=64)
    same(explain.grad_cam(models["se"], images, TARGETS, batch_size=2), whole)


def test_the_callers_gradient_mode_does_not_matter(models: dict[str, Classifier], images: Tensor) -> None:
    model = models["layer4"]
    expected = explain.grad_cam(model, images, TARGETS)
    with torch.inference_mode():
        targets = torch.tensor(TARGETS)
        same(explain.grad_cam(model, images.clone(), targets), expected)
        assert torch.is_inference_mode_enabled()
        assert not torch.is_grad_enabled()


# ------------------------------------------------------------------------------------- a model with an answer


class NoWayBack(torch.autograd.Function):
    """The identity; a backward pass that comes through it is a fault."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        raise AssertionError("backward entered what lies before the CAM layer")


class Gate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return NoWayBack.apply(x * self.weight)


def planted(gate: nn.Module | None = None) -> Classifier:
    """Logits [mean of red, mean of green, -mean of green]; the CAM layer shows the channels as they are."""
    layer = nn.Conv2d(3, 3, 1, bias=False)
    fc = nn.Linear(3, 3, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(3)[:, :, None, None])
        fc.weight.copy_(torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, -1, 0]]))
    tail = nn.Sequential(
        OrderedDict(gate=gate or Gate(), layer=layer, pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten(), fc=fc)
    )
    return Classifier(FrozenTrunk({}), tail, layer)


def spots() -> Tensor:
    """One 4x4 image: red at (1, 2) and, half as bright, at (3, 3); green at (3, 0)."""
    image = torch.zeros(1, 3, 4, 4)
    image[0, 0, 1, 2] = 4
    image[0, 0, 3, 3] = 2
    image[0, 1, 3, 0] = 1
    return image


def test_a_map_shows_where_the_class_is() -> None:
    maps = explain.grad_cam(planted(), spots().expand(3, -1, -1, -1), [0, 1, 2])
    red, green = np.zeros((4, 4)), np.zeros((4, 4))
    red[1, 2], red[3, 3], green[3, 0] = 1, 0.5, 1
    # Nothing speaks for class 2: its map stays zero. Backward never came through the gate.
    np.testing.assert_array_equal(maps, [red, green, np.zeros((4, 4))])

    mask = np.zeros((3, 32, 32), bool)
    mask[:, 8:16, 16:24] = True  # the cell (1, 2)
    assert explain.pointing_game(maps, mask).tolist() == [True, False, False]
    assert explain.pointing_game(maps, ~mask).tolist() == [False, True, False]
    inside = explain.energy_inside(maps, mask)
    # All but what bilinear resizing spreads into the neighbours: a quarter of each axis leaves a cell.
    assert inside[0] == pytest.approx(0.75**2 * 2 / 3, rel=0.05)
    assert inside[1] == 0
    assert np.isnan(inside[2])


def test_a_module_that_overrides_train_is_evaluated_too() -> None:
    class Stubborn(nn.Module):
        def train(self, mode: bool = True) -> Stubborn:
            return self

        def forward(self, x: Tensor) -> Tensor:
            return x * (5 if self.training else 1)

    stubborn = Stubborn()
    seen: list[bool] = []
    stubborn.register_forward_pre_hook(lambda module, inputs: seen.append(module.training))
    explain.grad_cam(planted(stubborn), spots(), [0])
    assert seen == [False]
    assert stubborn.training


# ---------------------------------------------------------------------------------------- nothing left behind


def state(model: nn.Module) -> dict[str, Any]:
    """Everything about a model and the random numbers that an explanation must not change."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return {
        "modes": [module.training for module in model.modules()],
        "hooks": [list(getattr(module, kind).items()) for module in model.modules() for kind in hooks],
        "flags": [parameter.requires_grad for parameter in model.parameters()],
        "parameter hooks": [parameter._backward_hooks for parameter in model.parameters()],
        "gradient objects": [id(parameter.grad) for parameter in model.parameters()],
        "gradients": [None if p.grad is None else p.grad.numpy().tobytes() for p in model.parameters()],
        "weights": {name: value.numpy().tobytes() for name, value in model.state_dict().items()},
        "random": (
            torch.random.get_rng_state().numpy().tobytes(),
            repr(np.random.get_state()),
            random.getstate(),
        ),
    }


def unsettle(model: Classifier) -> None:
    """Put a model into a state that no simple reset would give back."""
    model.train()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.training = True
    norms[0].training = norms[-1].training = False
    parameters = list(model.tail.parameters())
    for parameter in model.parameters():
        parameter.grad = None
    parameters[0].requires_grad_(False)
    parameters[-1].grad = torch.full_like(parameters[-1], 3.0)
    model.cam_layer.register_forward_hook(lambda module, inputs, output: None)


@pytest.mark.parametrize("name", ["head", "efficientnet"])
def test_nothing_is_left_behind(name: str, images: Tensor) -> None:
    model = build(RECIPES[name], CLASSES)
    unsettle(model)
    before = state(model)
    assert explain.grad_cam(model, images[:2], [0, 1], batch_size=1).any()
    assert state(model) == before


def test_nothing_is_left_behind_after_an_error(images: Tensor) -> None:
    model = build(RECIPES["se"], CLASSES)
    unsettle(model)

    calls = []

    def fail_on_the_second(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        calls.append(len(inputs[0]))
        if len(calls) == 2:
            raise RuntimeError("out of memory, say")

    model.tail.fc.register_forward_pre_hook(fail_on_the_second)
    before = state(model)
    with pytest.raises(RuntimeError, match="out of memory, say") as held:
        explain.grad_cam(model, images[:2], [0, 1], batch_size=1)
    assert state(model) == before
    del held  # till here it kept the failed call's frames, so nothing was mended by their going
    with pytest.raises(ValueError, match="targets must lie"):
        explain.grad_cam(model, images[:1], [CLASSES])
    assert state(model) == before
    with pytest.raises(ValueError, match="1x1"):
        explain.grad_cam(model, images[:1, :, :16, :16])
    assert state(model) == before


def test_state_sees_what_the_library_alone_leaves_behind() -> None:
    """The check above can fail: plain use of the library changes modes and gradients."""
    model = planted(nn.Identity()).train()
    model.tail.fc.weight.grad = torch.ones(3, 3)
    before = state(model)
    explain.GradCAM(model, [model.cam_layer])(spots(), None)
    after = state(model)
    changed = {key for key in before if before[key] != after[key]}
    assert {"modes", "gradients", "gradient objects"} <= changed


# ------------------------------------------------------------------------------------------------ wrong input


def test_a_map_of_one_pixel_is_refused_with_the_remedy(models: dict[str, Classifier]) -> None:
    with pytest.raises(ValueError, match=r"1x1 .* larger image_size, or dilation=True"):
        explain.grad_cam(models["efficientnet"], torch.zeros(1, 3, 32, 32))


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ([3], r"0\.\.2, the model's classes: found 3"),
        ([-1], r"0\.\.2, the model's classes: found -1"),
        ([0, 1], "targets must be 1 integers"),
        ([0.0], "integers"),
        ([True], "integers"),
    ],
)
def test_targets_that_are_no_classes_are_refused(targets: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        explain.grad_cam(planted(), spots(), targets)


def test_images_that_are_not_prepared_are_refused() -> None:
    broken = spots().repeat(2, 1, 1, 1)
    broken[1, 0, 0, 0] = torch.nan
    for images, message in [
        (broken, "image 1 holds NaN"),
        (spots().to(torch.uint8), "data.prepare"),
        (spots()[0], "N, 3, H, W"),
        (spots()[:0], "N >= 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            explain.grad_cam(planted(), images)


def test_a_model_that_cannot_be_explained_is_refused() -> None:
    broken = planted()
    with torch.no_grad():
        broken.tail.fc.weight.fill_(torch.nan)
    with pytest.raises(ValueError, match="output for images 0 to 0 is not finite"):
        explain.grad_cam(broken, spots())
    with pytest.raises(ValueError, match="cam_layer"):
        explain.grad_cam(nn.Flatten(), spots())
    aside = Classifier(FrozenTrunk({}), planted().tail, nn.Conv2d(3, 3, 1))
    with pytest.raises(ValueError, match="ran 0 times"):
        explain.grad_cam(aside, spots())
    flat = planted()
    with pytest.raises(ValueError, match="feature maps"):
        explain.grad_cam(Classifier(flat.trunk, flat.tail, flat.tail.fc), spots())


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="batch_size=0"):
        explain.grad_cam(planted(), spots(), batch_size=0)


# --------------------------------------------------------------------------------------------------- measures

POINT = [[0, 0, 0], [0, 0, 2], [0, 0, 0]]
UNIFORM = [[0.1] * 3] * 3
HALVES = [[4, 3, 1], [1, 1, 0], [0, 0, 0]]  # 4 of 10 is less than half, 7 of 10 is more
EMPTY = [[0] * 3] * 3
MAPS = np.array([POINT, UNIFORM, HALVES, EMPTY], np.float32)


def test_compactness_by_hand() -> None:
    np.testing.assert_allclose(explain.compactness(MAPS), [1 / 9, 5 / 9, 2 / 9, np.nan])
    # 72 of 144 equal shares are half, though their sum rounds to less.
    even = np.full((1, 12, 12), 0.1, np.float32)
    assert explain.compactness(even)[0] == 0.5


def test_entropy_by_hand() -> None:
    p = np.array([0.4, 0.3, 0.1, 0.1, 0.1])
    expected = [0, 1, -(p * np.log(p)).sum() / np.log(9), np.nan]
    np.testing.assert_allclose(explain.entropy(MAPS), expected, atol=1e-7)


@pytest.mark.parametrize("measure", [explain.compactness, explain.entropy])
def test_scale_and_place_do_not_matter(measure: Callable[[Any], np.ndarray]) -> None:
    expected = measure(MAPS)
    np.testing.assert_allclose(measure(MAPS * 7), expected, atol=1e-7)
    np.testing.assert_allclose(measure(np.roll(MAPS, 1, axis=(1, 2))[:, ::-1]), expected, atol=1e-7)


def test_energy_and_share_by_hand() -> None:
    top = np.zeros((4, 3, 3), bool)
    top[:, 0] = True
    np.testing.assert_allclose(explain.energy_inside(MAPS, top), [0, 1 / 3, 0.8, np.nan], atol=1e-7)
    np.testing.assert_allclose(explain.object_share(top), [1 / 3] * 4)
    # A map no object explains, and one that holds it all.
    np.testing.assert_allclose(explain.energy_inside(MAPS[:3], np.zeros((3, 5, 5), bool)), 0)
    np.testing.assert_allclose(explain.energy_inside(MAPS[:3], np.ones((3, 5, 5), bool)), 1)


def test_chance_is_the_objects_share() -> None:
    """A uniform map has the object's share inside; points drawn blindly hit it that often."""
    rng = np.random.default_rng(0)
    masks = np.zeros((1, 32, 32), bool)
    masks[0, 3:17, 9:30] = True
    share = explain.object_share(masks)[0]
    assert share == 14 * 21 / 32**2
    assert explain.energy_inside(np.ones((1, 4, 4)), masks)[0] == pytest.approx(share)
    hits = explain.pointing_game(rng.random((2000, 32, 32)), masks.repeat(2000, axis=0))
    assert hits.mean() == pytest.approx(share, abs=4 * (share * (1 - share) / 2000) ** 0.5)


def test_a_point_lies_at_the_centre_of_its_cell() -> None:
    """Resized, a corner cell is a plateau that reaches the image's edge; its centre is what is meant."""
    corner = np.zeros((1, 4, 4))
    corner[0, 0, 3] = 1
    mask = np.zeros((1, 32, 32), bool)
    mask[0, 2:6, 26:30] = True
    assert explain.pointing_game(corner, mask)[0]
    assert explain.upsample(corner, 32)[0, 0, 31] == 1
    edge = np.zeros((1, 32, 32), bool)
    edge[0, 0, 31] = True
    assert not explain.pointing_game(corner, edge)[0]
    # At the mask's own resolution the point is the pixel.
    assert explain.pointing_game(explain.upsample(corner, 32) * edge, edge)[0]


def test_pointing_agrees_with_the_maximum_of_the_resized_map() -> None:
    rng = np.random.default_rng(1)
    maps = rng.random((50, 3, 5))
    resized = explain.upsample(maps, 45)  # odd factors: a centre is a pixel
    for cells, pixels in zip(maps, resized, strict=True):
        mask = (pixels == pixels.max())[None]
        assert explain.pointing_game(cells[None], mask)[0]
        assert mask.sum() < 15 * 9


def test_masks_may_be_a_tensor() -> None:
    masks = torch.zeros(4, 3, 3, dtype=torch.bool)
    masks[:, 1, 2] = True
    assert explain.pointing_game(MAPS, masks).tolist() == [True, False, False, False]
    np.testing.assert_allclose(explain.energy_inside(MAPS, masks), [1, 1 / 9, 0, np.nan], atol=1e-7)


def test_upsample_keeps_centres_and_totals() -> None:
    maps = np.random.default_rng(2).random((3, 4, 4))
    np.testing.assert_allclose(explain.upsample(maps, 4), maps, rtol=1e-6)
    resized = explain.upsample(maps, 12)
    assert resized.dtype == np.float32
    np.testing.assert_allclose(resized[:, 1::3, 1::3], maps, rtol=1e-6)
    np.testing.assert_allclose(explain.upsample(maps.transpose(0, 2, 1), 12), resized.transpose(0, 2, 1))


@pytest.mark.parametrize("measure", [explain.compactness, explain.entropy, lambda m: explain.upsample(m, 9)])
@pytest.mark.parametrize(
    ("maps", "message"),
    [
        ([[[1, 2], [3, np.nan]]], "map 0 holds nan"),
        ([[[1, 2], [3, 4]], [[1, -2], [3, 4]]], "map 1 holds -2"),
        ([[1, 2]], "shape"),
        ([[[1]]], "more than one pixel"),
        (np.zeros((0, 2, 2)), "N >= 1"),
    ],
)
def test_what_is_no_map_is_refused(measure: Callable[[Any], Any], maps: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measure(maps)


@pytest.mark.parametrize("measure", [explain.pointing_game, explain.energy_inside])
def test_masks_that_do_not_belong_to_the_maps_are_refused(measure: Callable[..., Any]) -> None:
    for masks, message in [
        (np.ones((4, 3, 3)), "bool"),
        (np.ones((3, 3, 3), bool), "4 maps, 3 masks"),
        (np.ones((4, 3, 5), bool), r"\[N, s, s\]"),
    ]:
        with pytest.raises(ValueError, match=message):
            measure(MAPS, masks)
    with pytest.raises(ValueError, match="size=2"):
        explain.energy_inside(MAPS, np.ones((4, 2, 2), bool))


def test_measure_sets_a_map_that_always_points_at_the_centre_beside_the_models() -> None:
    masks = np.zeros((6, 16, 16), bool)
    masks[:, 6:10, 6:10] = True  # in the middle, where the fixed map points
    masks[3:] = np.roll(masks[3:], 6, axis=(1, 2))  # in a corner, where it does not
    found = explain.measure(planted(), spots()[:6] if len(spots()) >= 6 else spots().repeat(6, 1, 1, 1)[:6], masks)
    assert found["centre_pointing"].tolist() == [True] * 3 + [False] * 3
    assert (found["centre_energy"][:3] > 16 / 256).all() and (found["centre_energy"][3:] < 16 / 256).all()
    np.testing.assert_allclose(found["object_share"], 16 / 256)
    assert set(explain.measure(planted(), spots())) == {"maps", "map_size", "compactness", "entropy"}


def test_measure_measures_the_maps_of_the_predicted_classes() -> None:
    found = explain.measure(planted(), spots())  # red: 2/3 of the mass at one cell of 16, 1/3 at another
    assert (found["map_size"], found["compactness"].tolist()) == (4, [1 / 16])
    assert found["entropy"] == pytest.approx([-(2 / 3 * np.log(2 / 3) + 1 / 3 * np.log(1 / 3)) / np.log(16)])


# ------------------------------------------------------------------------------------------------------- ROAD


def quadrant() -> nn.Module:
    """Two classes of 16 x 16 pixels: logits [mean of red over the top left quadrant, 0]."""
    fc = nn.Linear(12, 2, bias=False)
    with torch.no_grad():
        fc.weight.zero_()
        fc.weight[0, 0] = 1
    return nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), fc)


def red(n: int = 1) -> Tensor:
    """Images that are red (2, say) in that quadrant and black elsewhere."""
    images = torch.zeros(n, 3, 16, 16)
    images[:, 0, :8, :8] = 2
    return images


RIGHT = red()[:, 0].numpy()  # the map that says where the evidence is
INVERTED = 2 - RIGHT


def of_the_package(
    model: nn.Module, images: Tensor, maps: np.ndarray, targets: list[int], percentiles: list[float], seed: int = 0
) -> np.ndarray:
    """ROAD as pytorch-grad-cam itself computes it, image by image with the seeds of `explain.road`."""
    scores = []
    for i, target in enumerate(targets):
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            torch.manual_seed(seed + i)
            wanted = [ClassifierOutputSoftmaxTarget(target)]
            scores.append(ROADCombined(percentiles)(images[i : i + 1], maps[i : i + 1], wanted, model)[0])
    return np.array(scores)


def test_road_by_hand() -> None:
    """Without the most relevant half of the pixels all red is gone; without the least relevant half none is.

    What the first class loses, the second gains.
    """
    expected = (expit(2) - 0.5) / 2
    for maps, target, sign in [(RIGHT, 0, 1), (INVERTED, 0, -1), (RIGHT, 1, -1)]:
        score = explain.road(quadrant(), red(), maps, [target], percentiles=[50])
        assert score == pytest.approx([sign * expected], abs=1e-3)  # the noise moves it a little


def test_ties_do_not_change_how_many_pixels_are_removed() -> None:
    """Three quarters of the map are zeros, of which the package would remove all or none."""
    model, seen = quadrant(), []
    model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    explain.road(model, red(), RIGHT, percentiles=[20, 40, 60, 80])
    image, *removed = seen[0]
    kept = [int((part == image).all(dim=0).sum()) for part in removed]  # what is removed gets noise
    assert kept == [51, 102, 153, 204] * 2  # of 256: the least relevant first, then the most


def test_road_of_the_right_map_is_above_that_of_the_inverted_one() -> None:
    """The maps have 2 x 2 cells and are resized to the images."""
    right = np.array([[[1.0, 0], [0, 0]]])
    good = explain.road(quadrant(), red(), right)
    bad = explain.road(quadrant(), red(), 1 - right)
    assert good > 0.1
    assert bad < -0.1
    even = explain.road(quadrant(), red(20), np.ones((20, 2, 2)))
    assert abs(even.mean()) < 0.02  # a map that says nothing
    assert (np.abs(even) < good).all()


def test_road_agrees_with_the_package() -> None:
    """On maps without ties, which the package can score."""
    rng = np.random.default_rng(3)
    images = torch.from_numpy(rng.normal(size=(4, 3, 16, 16)).astype(np.float32))
    maps = np.stack([rng.permutation(256).reshape(16, 16) for _ in images]).astype(np.float32) / 256
    model, targets, kept = quadrant(), [0, 1, 1, 0], [10, 35, 80]
    with torch.no_grad():
        model[2].weight.copy_(torch.randn(2, 12, generator=torch.Generator().manual_seed(0)))
    score = explain.road(model, images, maps, targets, percentiles=kept, seed=5)
    assert (np.abs(score) > 1e-3).all()
    np.testing.assert_allclose(score, of_the_package(model, images, maps, targets, kept, seed=5), atol=1e-6)
    # In the inverted map the two orders change places.
    np.testing.assert_allclose(explain.road(model, images, 1 - maps, targets, percentiles=kept), -score, atol=5e-3)


def test_only_the_order_of_the_pixels_counts() -> None:
    maps = np.random.default_rng(4).random((1, 16, 16)) + RIGHT
    score = explain.road(quadrant(), red(), maps)
    assert explain.road(quadrant(), red(), maps**3 * 7) == score
    assert explain.road(quadrant(), red(), maps[:, :, ::-1]) < score


def test_road_repeats_with_the_seed() -> None:
    rng = np.random.default_rng(5)
    maps = rng.random((3, 4, 4))
    first = explain.road(quadrant(), red(3), maps)
    torch.rand(7)
    np.testing.assert_array_equal(explain.road(quadrant(), red(3), maps), first)
    assert (explain.road(quadrant(), red(3), maps, seed=10) != first).all()


def test_a_blank_map_has_no_road_and_leaves_the_others_alone() -> None:
    maps = np.random.default_rng(6).random((3, 4, 4))
    whole = explain.road(quadrant(), red(3), maps)
    maps[1] = 0
    np.testing.assert_array_equal(explain.road(quadrant(), red(3), maps), [whole[0], np.nan, whole[2]])


def test_road_takes_the_predicted_class() -> None:
    images = red(2) * torch.tensor([1, -1])[:, None, None, None]  # the first class, then the second
    maps = RIGHT.repeat(2, axis=0)
    predicted = explain.road(quadrant(), images, maps)
    np.testing.assert_array_equal(predicted, explain.road(quadrant(), images, maps, [0, 1]))
    np.testing.assert_array_equal(predicted, explain.road(quadrant(), images, maps, torch.tensor([0, 1])))
    assert (predicted > 0.1).all()


def test_precision_and_gradient_mode_of_the_caller_do_not_matter_to_road() -> None:
    expected = explain.road(quadrant(), red(), RIGHT)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert explain.road(quadrant(), red(), RIGHT) == expected
    with torch.inference_mode():
        assert explain.road(quadrant(), red(), RIGHT) == expected
    assert explain.road(quadrant(), red().requires_grad_(), RIGHT) == expected
    half = explain.road(quadrant().bfloat16(), red().bfloat16(), RIGHT)
    assert half == pytest.approx(expected, abs=5e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"percentiles": [0, 50]}, r"percentiles=\(0, 50\) .* above 0 and below 100"),
        ({"percentiles": [100]}, "percentiles"),
        ({"percentiles": []}, "percentiles"),
        ({"targets": [2]}, r"0\.\.1, the model's classes: found 2"),
        ({"targets": [0, 1]}, "targets must be 1 integers"),
        ({"maps": np.ones((2, 4, 4))}, "2 maps, 1 images"),
        ({"maps": np.ones((1, 32, 32))}, "size=16"),
        ({"maps": -RIGHT}, "not negative"),
        ({"images": red()[:, :, :8]}, "square"),
        ({"images": red() * np.nan}, "image 0 holds NaN"),
        ({"model": nn.Sequential(quadrant(), nn.LogSoftmax(1), nn.Threshold(9, np.nan))}, "images 0 to 0 is not"),
    ],
)
def test_what_road_cannot_score_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        explain.road(**{"model": quadrant(), "images": red(), "maps": RIGHT} | change)


# ------------------------------------------------------------------------------------------------------ gates


def test_a_block_that_starts_as_the_identity_has_gates_of_one(images: Tensor) -> None:
    model = build(replace(LEVEL3, **SMALL, dilation=True), CLASSES).train()
    found = explain.gates(model, images, batch_size=2)
    assert found.shape == (len(images), 2048)
    assert found.dtype == np.float32
    assert (found == 1).all()
    masks = np.zeros((len(images), 32, 32), bool)
    masks[:, 4:20, 6:30] = True
    before, after = explain.gated_energy(model, images, masks)
    assert ((before > 0) & (before < 1)).all()
    np.testing.assert_array_equal(before, after)


def test_gates_and_energy_are_those_of_the_blocks_input(models: dict[str, Classifier], images: Tensor) -> None:
    model = models["se"]
    kept: list[Tensor] = []
    block = model.tail.se
    handle = block.register_forward_pre_hook(lambda module, inputs: kept.append(inputs[0]))
    model.eval()
    with torch.no_grad():
        model(images)
        expected = block.gates(kept[0]).numpy()
    handle.remove()
    model.train()
    found = explain.gates(model, images, batch_size=2)
    np.testing.assert_allclose(found, expected, rtol=1e-3)
    assert found.std() > 1e-4

    masks = np.zeros((len(images), 4, 4), bool)
    masks[:, 1:3, :2] = True
    features = np.maximum(kept[0].numpy(), 0)
    for energy, maps in zip(
        explain.gated_energy(model, images, masks, batch_size=2),
        (features.sum(axis=1), (features * expected[:, :, None, None]).sum(axis=1)),
        strict=True,
    ):
        np.testing.assert_allclose(energy, (maps * masks).sum(axis=(1, 2)) / maps.sum(axis=(1, 2)), rtol=1e-3)


def weighing(strength: float) -> nn.Module:
    """A block of two channels with gates 1/2 and `sigmoid(-strength * mean of the second channel)`."""
    block = SqueezeExcite(2, ratio=1, init="paper")
    with torch.no_grad():
        block.squeeze.weight.copy_(torch.eye(2))
        block.excite.weight.copy_(torch.tensor([[0, 0], [0, -strength]]))
    return nn.Sequential(block, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def test_silencing_a_channel_outside_the_object_raises_the_energy() -> None:
    """Each channel has a mass of 4: the first in the object, at the left, the second beside it, with mean 1."""
    image = torch.tensor([[[4.0, -8.0], [0, 0]], [[0, 4.0], [0, 0]]])[None]  # what is negative is no mass
    mask = np.array([[[True, False], [True, False]]])
    for strength, gate in [(np.log(3), 1 / 4), (0, 1 / 2), (-np.log(3), 3 / 4)]:
        np.testing.assert_allclose(explain.gates(weighing(strength), image), [[1 / 2, gate]], rtol=1e-6)
        before, after = explain.gated_energy(weighing(strength), image, mask)
        np.testing.assert_allclose(before, [4 / 8])
        np.testing.assert_allclose(after, [2 / (2 + 4 * gate)], rtol=1e-6)  # 2/3, 1/2, 2/5
    assert np.isnan(explain.gated_energy(weighing(1), -image.abs(), mask)).all()


def test_gates_that_cannot_be_read_are_refused(models: dict[str, Classifier], images: Tensor) -> None:
    masks = np.ones((len(images), 32, 32), bool)
    for model in (models["layer4"], models["efficientnet"]):  # EfficientNet's own blocks are of another kind
        with pytest.raises(ValueError, match=r"0 squeeze-excite blocks .* model='se_resnet50'"):
            explain.gates(model, images)
        with pytest.raises(ValueError, match="0 squeeze-excite blocks"):
            explain.gated_energy(model, images, masks)
    twice = nn.Sequential(SqueezeExcite(2, ratio=1), SqueezeExcite(2, ratio=1))
    with pytest.raises(ValueError, match="2 squeeze-excite blocks"):
        explain.gates(twice, torch.ones(1, 2, 4, 4))
    with pytest.raises(ValueError, match="batch_size=0"):
        explain.gates(models["se"], images, batch_size=0)
    with pytest.raises(ValueError, match=r"data\.prepare"):
        explain.gates(models["se"], images[0])
    with pytest.raises(ValueError, match="1x1"):
        explain.gated_energy(models["se"], images[:, :, :16, :16], masks)
    with pytest.raises(ValueError, match="3 maps, 2 masks"):
        explain.gated_energy(models["se"], images, masks[:2])


# ------------------------------------------------------------------------- nothing left behind by these either

MODEL_TAKERS: list[Callable[[nn.Module, Tensor], Any]] = [
    lambda model, images: explain.road(model, images, np.eye(2)[None].repeat(2, axis=0), percentiles=[50]),
    lambda model, images: explain.gates(model, images, batch_size=1),
    lambda model, images: explain.gated_energy(model, images, np.ones((2, 4, 4), bool), batch_size=1),
]


@pytest.mark.parametrize("explanation", MODEL_TAKERS, ids=["road", "gates", "gated_energy"])
def test_the_model_and_the_random_state_stay_as_they_were(
    explanation: Callable[[nn.Module, Tensor], Any], images: Tensor
) -> None:
    model = build(RECIPES["se"], CLASSES)
    unsettle(model)
    modes: list[bool] = []
    model.tail.fc.register_forward_pre_hook(
        lambda module, inputs: modes.extend(part.training for part in model.modules())
    )
    before = state(model)
    explanation(model, images[:2, :, :32, :32])
    assert state(model) == before
    assert modes and not any(modes)  # all the while, everything was in evaluation mode

    calls = []

    def fail_on_the_second(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        calls.append(len(inputs[0]))
        if len(calls) == 2:
            raise RuntimeError("out of memory, say")

    model.tail.fc.register_forward_pre_hook(fail_on_the_second)
    before = state(model)
    with pytest.raises(RuntimeError, match="out of memory, say") as held:
        explanation(model, images[:2, :, :32, :32])
    assert state(model) == before
    del held


def test_measure_says_which_predictions_are_right() -> None:
    model, images = planted(), spots()
    with torch.no_grad():
        predicted = model(images).argmax(dim=1)
    labels = predicted.clone()
    labels[0] = (labels[0] + 1) % 2
    found = explain.measure(model, images, labels=labels)
    assert found["right"].tolist() == [False] + [True] * (len(images) - 1)
