"""The built-in images: repeatable, balanced, truthful about their object, told apart by shape."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import binary_dilation
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cifarlib import synthetic
from cifarlib.synthetic import CLASSES, PRETRAIN_CLASSES, Drawings, draw

FIELDS = ("images", "labels", "masks", "object_size", "clutter", "occlusion")


@pytest.fixture(scope="module")
def train() -> Drawings:
    return draw(3000, seed=20)


@pytest.fixture(scope="module")
def test() -> Drawings:
    return draw(1500, seed=21)


def same(a: Drawings, b: Drawings) -> bool:
    return all(np.array_equal(getattr(a, f), getattr(b, f)) for f in FIELDS)


def test_the_class_names_are_those_of_cifar10_and_the_pretraining_ones_are_others():
    assert CLASSES == (
        "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
    )  # fmt: skip
    assert len(set(PRETRAIN_CLASSES)) == 20
    assert not set(CLASSES) & set(PRETRAIN_CLASSES)


@pytest.mark.parametrize(("classes", "size"), [(CLASSES, 32), (PRETRAIN_CLASSES, 24), (("ship", "mug"), 8)])
def test_shapes_types_and_ranges(classes: tuple[str, ...], size: int):
    d = draw(60, seed=1, classes=classes, size=size)
    assert d.classes == classes
    assert (d.images.shape, d.images.dtype) == ((60, 3, size, size), np.uint8)
    assert (d.masks.shape, d.masks.dtype) == ((60, size, size), np.bool_)
    assert (d.labels.shape, d.labels.dtype) == ((60,), np.int64)
    assert (d.object_size.dtype, d.clutter.dtype, d.occlusion.dtype) == (np.float32, np.int64, np.float32)
    assert 0 <= d.clutter.min() <= d.clutter.max() <= 2
    assert 0 <= d.occlusion.min() <= d.occlusion.max() <= 0.5
    assert d.images.min() < 60
    assert d.images.max() > 195


def test_the_same_seed_gives_the_same_bytes_whatever_the_global_generator_and_the_chunks(monkeypatch):
    first = draw(150, seed=5)
    np.random.seed(123)
    np.random.random(7)
    assert same(first, draw(150, seed=5))
    monkeypatch.setattr(synthetic, "_CHUNK", 3)
    assert same(first, draw(150, seed=5))


def test_drawing_leaves_the_global_generator_alone():
    np.random.seed(9)
    expected = np.random.random(4)
    np.random.seed(9)
    draw(20, seed=5)
    assert np.array_equal(expected, np.random.random(4))


def test_different_seeds_share_no_image():
    seen = {image.tobytes() for seed in range(4) for image in draw(100, seed=seed).images}
    assert len(seen) == 400


@pytest.mark.parametrize("n", [1, 10, 57, 203])
def test_labels_are_balanced_to_within_one_and_shuffled(n: int):
    labels = draw(n, seed=2, size=8).labels
    counts = np.bincount(labels, minlength=10)
    assert counts.max() - counts.min() <= 1
    if n > 50:
        assert not np.array_equal(labels, np.sort(labels))
        assert not np.array_equal(labels, np.arange(n) % 10)


def test_every_known_thing_can_be_drawn_on_its_own_and_is_visible():
    every = CLASSES + PRETRAIN_CLASSES
    d = draw(50 * len(every), seed=3, classes=every)
    visible = d.masks.sum((1, 2))
    assert visible.min() >= 12
    assert np.all(np.bincount(d.labels) == 50)
    middle = np.array([np.median(d.object_size[d.labels == c]) for c in range(len(every))])
    assert middle.min() > 0.05
    assert middle.max() < 0.5  # the larger part of an image is not the object


def test_the_mask_is_the_object_less_what_hides_it(train: Drawings):
    whole = train.object_size * 32**2
    visible = train.masks.sum((1, 2))
    assert np.allclose(visible, whole * (1 - train.occlusion), atol=0.01)
    hidden = train.occlusion > 0
    assert 0.1 < hidden.mean() < 0.35
    assert np.all(visible[hidden] < whole[hidden] - 0.5)
    assert np.allclose(visible[~hidden], whole[~hidden])


@pytest.mark.parametrize("name", ["ship", "horse", "key"])
def test_the_mask_marks_the_pixels_that_the_object_changed(name: str, monkeypatch: pytest.MonkeyPatch):
    """Against the same pictures with the object left off the canvas, only the object's pixels differ."""
    drawn = draw(60, seed=8, classes=(name,))
    kind = synthetic._KINDS[name]

    def ghost(view: synthetic.View) -> synthetic.View:
        return lambda pen, dice, inks: view(replace(pen, canvas=pen.canvas.copy()), dice, inks)

    monkeypatch.setitem(synthetic._KINDS, name, replace(kind, view=ghost(kind.view)))
    empty = draw(60, seed=8, classes=(name,))
    assert np.array_equal(drawn.masks, empty.masks)

    changed = np.abs(drawn.images.astype(int) - empty.images).sum(1) > 12
    hidden = drawn.occlusion > 0
    assert changed[drawn.masks].mean() > 0.9
    near = binary_dilation(drawn.masks, np.ones((1, 3, 3)))  # an edge is softer than the mask
    astray = changed & ~near
    assert astray[~hidden].sum() < 0.04 * drawn.masks[~hidden].sum()  # strokes less than half a pixel wide


def test_a_map_that_always_points_at_the_middle_misses_most_objects(train: Drawings):
    assert train.masks[:, 15:17, 15:17].any((1, 2)).mean() < 0.5


def test_objects_stand_out_from_what_is_behind_them(train: Drawings):
    pixels = train.images.astype(np.float32)
    inside = train.masks[:, None]
    mean_in = (pixels * inside).sum((2, 3)) / inside.sum((2, 3))
    mean_out = (pixels * ~inside).sum((2, 3)) / (~inside).sum((2, 3))
    distance = np.linalg.norm(mean_in - mean_out, axis=1)
    assert np.median(distance) > 30
    assert np.mean(distance < 8) < 0.1


def test_shapes_tell_the_classes_apart(train: Drawings, test: Drawings):
    """The nearest mean silhouette, wherever it stands and whatever its size, is right far more often than chance,
    and no two classes share one."""

    def silhouettes(d: Drawings) -> np.ndarray:
        found = []
        for mask in d.masks:
            rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
            box = Image.fromarray(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
            found.append(np.asarray(box.convert("L").resize((16, 16))).ravel() / 255)
        return np.stack(found)

    means = np.stack([silhouettes(train)[train.labels == c].mean(0) for c in range(10)])
    nearest = ((silhouettes(test)[:, None] - means) ** 2).sum(-1).argmin(1)
    assert np.mean(nearest == test.labels) > 0.22
    gaps = np.linalg.norm(means[:, None] - means, axis=-1)[np.triu_indices(10, 1)]
    again = np.stack([silhouettes(test)[test.labels == c].mean(0) for c in range(10)])
    assert gaps.min() > 0.5 * np.linalg.norm(means - again, axis=-1).mean()


def test_colour_alone_goes_part_of_the_way(train: Drawings, test: Drawings):
    """Logistic regression on histograms and quadrant means: above chance (10 %), below half."""

    def colours(images: np.ndarray) -> np.ndarray:
        n = len(images)
        quadrants = images.reshape(n, 3, 2, 16, 2, 16).mean((3, 5)).reshape(n, -1) / 255
        histogram = [(images // 32 == level).mean((2, 3)) for level in range(8)]
        return np.concatenate([quadrants, *histogram], axis=1)

    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500))
    score = model.fit(colours(train.images), train.labels).score(colours(test.images), test.labels)
    assert 0.22 < score < 0.45


@pytest.mark.parametrize("n", [0, -3])
def test_too_few_images_are_refused(n: int):
    with pytest.raises(ValueError, match=f"at least 1, got {n}"):
        draw(n, seed=0)


def test_too_small_a_size_is_refused():
    with pytest.raises(ValueError, match="at least 8 pixels, got 7"):
        draw(4, seed=0, size=7)


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"\['zebra'\]; known are airplane, .*turtle"):
        draw(4, seed=0, classes=("cat", "zebra"))


@pytest.mark.parametrize("classes", [(), ("cat", "cat")])
def test_missing_and_repeated_names_are_refused(classes: tuple[str, ...]):
    with pytest.raises(ValueError, match="one or more different names"):
        draw(4, seed=0, classes=classes)
