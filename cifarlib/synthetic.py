"""Built-in images: small drawings of CIFAR-10's ten classes, each with the mask of its object.

They stand in for CIFAR-10 where there is no network, and they are the only images of the study whose object
is known pixel by pixel, which is what a measure of an explanation needs. Nothing is downloaded and nothing
but numpy draws: a picture is a scene, some clutter, one object made of signed distance functions (negative
inside, positive outside, in the object's own coordinates) under a random pose, now and then an occluder,
then light and sensor noise.

They were made so that a small training learns something in minutes, and so that a map of where it looks can be
told from one that always points at the middle. Objects stand near a crossing of the thirds, as photographers
place them; colours are strong on the object and pale around it. Colours and scenes are preferred by a class and
shared with others, so colour alone goes part of the way and shape is needed for the rest: the tests hold that
colour alone names between 22 and 45 % of them (chance is 10 %). Cat and dog share a body, and are meant to be the
hardest pair.

The distance of a point to a disc, stroke, box and convex polygon is textbook geometry; that to an ellipse is
the first-order approximation f / |grad f|, exact enough for edges one pixel wide.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from itertools import pairwise
from typing import TypeAlias

import numpy as np

from cifarlib import progress

Field: TypeAlias = np.ndarray  # float32 [B, size, size], a value per pixel
Scalar: TypeAlias = "np.ndarray | float"  # float32 [B, 1, 1], a value per image, or one for all
Point: TypeAlias = "tuple[Scalar, Scalar]"
Colour: TypeAlias = np.ndarray  # float32 [B, 3, 1, 1], 0 to 1


@dataclass(frozen=True, eq=False)
class Drawings:
    """Pictures with everything that is known about them.

    Attributes:
        images: uint8 `[N, 3, size, size]`, RGB.
        labels: int64 `[N]`, indices into `classes`.
        masks: bool `[N, size, size]`, the pixels of which the labelled object, less what hides it, covers at
            least half; never empty, and at 32 pixels the smallest of 20,000 had 29 of them.
        object_size: float32 `[N]`, share of the image that the object covers before occlusion, 0 to 1.
        clutter: int64 `[N]`, number of distractor shapes drawn before the object, 0 to 2.
        occlusion: float32 `[N]`, share of the object that an occluder hides, 0 to 0.5.
        classes: the class names, in the order of the labels.
    """

    images: np.ndarray
    labels: np.ndarray
    masks: np.ndarray
    object_size: np.ndarray
    clutter: np.ndarray
    occlusion: np.ndarray
    classes: tuple[str, ...]


# ---------------------------------------------------------------- dice and pen


class _Dice:
    """Hands out each image's own random numbers in turn, so that no image depends on its neighbours."""

    def __init__(self, rows: np.ndarray) -> None:
        self.rows, self.used = rows, 0

    def flat(self) -> np.ndarray:
        """The next uniform number of every image, float32 `[B]`."""
        self.used += 1
        return self.rows[:, self.used - 1]

    def __call__(self, low: float = 0.0, high: float = 1.0) -> np.ndarray:
        """Uniform between `low` and `high`, float32 `[B, 1, 1]`."""
        return (low + (high - low) * self.flat())[:, None, None]

    def below(self, count: int) -> np.ndarray:
        """A whole number from 0 to `count - 1`, int64 `[B]`."""
        return (self.flat() * count).astype(np.int64)

    def among(self, names: Sequence[str], everything: Sequence[str], stray: float) -> np.ndarray:
        """Indices `[B]` into `everything`: one of `names`, or with probability `stray` any at all."""
        wanted = np.array([everything.index(name) for name in names])[self.below(len(names))]
        return np.where(self.flat() < stray, self.below(len(everything)), wanted)


def _union(*distances: Field) -> Field:
    return reduce(np.minimum, distances)


def _cut(a: Field, b: Field) -> Field:
    return np.maximum(a, -b)


def _melt(a: Field, b: Field, k: float = 0.12) -> Field:
    """A union whose seam is rounded over about `k`, for flesh."""
    h = np.maximum(k - np.abs(a - b), 0)
    return np.minimum(a, b) - h * h * (0.25 / k)


@dataclass(frozen=True, eq=False)
class _Pen:
    """Draws the parts of one kind of object on the canvases of a batch of images.

    Coordinates are the object's: x to the right (it faces right, the pose mirrors it), y down, both about
    -1 to 1. Shapes return signed distances; `paint` puts them on the canvas, later ones over earlier ones.
    """

    canvas: np.ndarray  # float32 [B, 3, size, size]
    cover: Field  # how much of each pixel is painted so far
    x: Field
    y: Field
    edge: Scalar  # one unit of length in edge widths
    shade: Scalar = 1.0  # light and texture over all parts, [B, 1, size, size]

    def at(self, cx: Scalar = 0.0, cy: Scalar = 0.0, unit: Scalar = 1.0, turn: Scalar = 0.0) -> _Pen:
        """A pen for a part around `(cx, cy)`, `unit` long, turned by `turn` radians."""
        x, y = (self.x - cx) / unit, (self.y - cy) / unit
        c, s = np.cos(np.float32(turn)), np.sin(np.float32(turn))  # a bare float would make all of it float64
        return replace(self, x=c * x + s * y, y=c * y - s * x, edge=self.edge * unit)

    def twin(self) -> _Pen:
        """A pen that draws on both sides of x = 0 what it is told about the right one."""
        return replace(self, x=np.abs(self.x))

    def paint(self, colour: Colour, *distances: Field) -> None:
        alpha = np.clip(0.5 - _union(*distances) * self.edge, 0, 1)
        np.maximum(self.cover, alpha, out=self.cover)
        np.add(self.canvas, (colour * self.shade - self.canvas) * alpha[:, None], out=self.canvas)

    def disc(self, cx: Scalar, cy: Scalar, r: Scalar) -> Field:
        x, y = self.x - cx, self.y - cy
        return np.sqrt(x * x + y * y) - r

    def ring(self, cx: Scalar, cy: Scalar, r: Scalar, half: Scalar) -> Field:
        return np.abs(self.disc(cx, cy, r)) - half

    def ellipse(self, cx: Scalar, cy: Scalar, rx: Scalar, ry: Scalar, turn: Scalar = 0.0) -> Field:
        pen = self.at(cx, cy, turn=turn)
        x, y = pen.x / rx, pen.y / ry
        k = np.sqrt(x * x + y * y)
        return k * (k - 1) / (np.sqrt((x / rx) ** 2 + (y / ry) ** 2) + 1e-3)

    def line(self, start: Point, end: Point, r0: Scalar, r1: Scalar | None = None) -> Field:
        """A stroke with round ends whose half-width goes from `r0` to `r1`."""
        x, y, dx, dy = self.x - start[0], self.y - start[1], end[0] - start[0], end[1] - start[1]
        t = np.clip((x * dx + y * dy) / (dx * dx + dy * dy), 0, 1)
        x, y = x - t * dx, y - t * dy
        return np.sqrt(x * x + y * y) - (r0 if r1 is None else r0 + t * (r1 - r0))

    def path(self, *points: Point, r0: float, r1: float | None = None) -> Field:
        """Strokes end to end, tapering evenly from `r0` to `r1`."""
        radii = np.linspace(r0, r0 if r1 is None else r1, len(points)).tolist()
        ends = list(zip(points, radii, strict=True))
        return _union(*(self.line(a, b, ra, rb) for (a, ra), (b, rb) in pairwise(ends)))

    def box(self, x0: Scalar, y0: Scalar, x1: Scalar, y1: Scalar, corner: float = 0.0) -> Field:
        x = np.abs(self.x - (x0 + x1) / 2) - ((x1 - x0) / 2 - corner)
        y = np.abs(self.y - (y0 + y1) / 2) - ((y1 - y0) / 2 - corner)
        if not corner:
            return np.maximum(x, y)
        return np.hypot(np.maximum(x, 0), np.maximum(y, 0)) + np.minimum(np.maximum(x, y), 0) - corner

    def poly(self, *points: Point) -> Field:
        """A convex polygon, its corners in order, either way round."""
        edges = list(zip(points, (*points[1:], points[0]), strict=True))
        around = np.sign(np.float32(sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in edges)))
        sides = []
        for (x0, y0), (x1, y1) in edges:
            unit = around / np.hypot(np.float32(x1 - x0), np.float32(y1 - y0))
            sides.append((self.x - x0) * ((y1 - y0) * unit) - (self.y - y0) * ((x1 - x0) * unit))
        return reduce(np.maximum, sides)


@dataclass(frozen=True, eq=False)
class _Inks:
    """The colours of one object."""

    main: Colour
    second: Colour  # a shade of `main`
    trim: Colour  # any colour
    dark: Colour
    light: Colour
    glass: Colour


View: TypeAlias = Callable[[_Pen, _Dice, _Inks], None]


# ---------------------------------------------------------------- the ten classes


def _airplane(p: _Pen, u: _Dice, ink: _Inks) -> None:
    p = p.at(turn=u(-0.8, 0.8)).twin()
    r, sweep, root, span = u(0.09, 0.15), u(0.0, 0.45), u(0.16, 0.3), u(0.85, 1.0)
    wing = p.poly((0, -0.25), (0, 2 * root - 0.25), (span, root + sweep - 0.1), (span, sweep - 0.2))
    p.paint(ink.second, wing, p.poly((0, 0.6), (0, 0.85), (0.36, 1.0), (0.36, 0.85)))
    p.paint(ink.trim, p.line((0.36, sweep / 3 - 0.05), (0.36, sweep / 3 - 0.28), 0.06))
    p.paint(ink.main, p.line((0, 0.9), (0, -0.85), 0.05, r))
    p.paint(ink.glass, p.disc(0, -0.78, 0.06))


def _wheels(p: _Pen, ink: _Inks, y: Scalar, r: Scalar, *xs: float) -> None:
    p.paint(ink.dark, *(p.disc(x, y, r) for x in xs))
    p.paint(ink.light, *(p.disc(x, y, r * 0.45) for x in xs))


def _automobile(p: _Pen, u: _Dice, ink: _Inks) -> None:
    roof, front, back = u(-0.48, -0.34), u(0.15, 0.35), u(-0.7, -0.35)
    sill, mid, top = -0.05, (front + back) / 2, roof + 0.08
    cabin = p.poly((back - 0.2, 0), (back, roof), (front, roof), (front + 0.3, 0))
    p.paint(ink.main, cabin, p.box(-0.98, -0.06, 0.98, 0.28, 0.1))
    p.paint(ink.glass, p.poly((back - 0.06, sill), (back + 0.05, top), (mid - 0.03, top), (mid - 0.03, sill)))
    p.paint(ink.glass, p.poly((mid + 0.04, sill), (mid + 0.04, top), (front, top), (front + 0.15, sill)))
    p.paint(ink.second, p.line((-0.9, 0.2), (0.9, 0.2), 0.03))
    p.paint(ink.light, p.disc(0.9, 0.05, 0.06))
    _wheels(p, ink, 0.28, u(0.18, 0.23), -0.55, 0.56)


def _bird(p: _Pen, u: _Dice, ink: _Inks) -> None:
    fat, r, x, y = u(0.3, 0.42), u(0.19, 0.26), u(0.4, 0.6), u(-0.55, -0.35)
    p.paint(ink.dark, p.line((-0.08, 0.3), (-0.05, 0.85), 0.035), p.line((0.12, 0.3), (0.18, 0.85), 0.035))
    p.paint(ink.second, p.poly((-0.3, -0.1), (-0.3, 0.22), (-1.0, u(0.2, 0.6)), (-1.0, u(-0.1, 0.15))))
    p.paint(ink.trim, p.poly((x + r * 0.6, y - 0.1), (x + r * 0.6, y + 0.13), (x + u(0.4, 0.6), y + 0.06)))
    p.paint(ink.main, _melt(p.ellipse(0, 0.02, 0.55, fat, u(-0.5, -0.1)), p.disc(x, y, r), 0.25))
    p.paint(ink.second, p.ellipse(-0.15, 0.02, 0.42, fat * 0.6, u(-0.1, 0.3)))
    p.paint(ink.dark, p.disc(x + 0.08, y - 0.04, 0.055))


def _legs(p: _Pen, u: _Dice, top: float, foot: float, r: Scalar, *xs: float) -> Field:
    """Legs at `xs` that stride: every second one goes the other way."""
    stride = u(-0.16, 0.16)
    ends = [x + stride * (-1.0) ** i for i, x in enumerate(xs)]
    return _union(*(p.line((x, top), (end, foot), r * 1.3, r) for x, end in zip(xs, ends, strict=True)))


def _pet_head(p: _Pen, u: _Dice, ink: _Inks, dog: bool) -> None:
    """A head of radius 1 from the front. Ears and muzzle are what tells a cat from a dog."""
    p, patch = p.twin(), np.where(u()[:, None] < 0.5, ink.light, ink.second)
    p.paint(ink.main, p.ellipse(0, 0, 1.03, 0.95))
    if dog:
        pricked = (u() < 0.2).astype(np.float32)
        tip = u(1.0, 1.3) * (1 - pricked) + 0.75 * pricked, u(-0.1, 0.7) * (1 - pricked) - 1.35 * pricked
        p.paint(ink.second, p.line((0.7, -0.6), tip, 0.27, 0.24 - 0.1 * pricked))
        p.paint(patch, p.ellipse(0, 0.42, u(0.4, 0.52), 0.5))
        p.paint(ink.dark, p.ellipse(0, 0.2, 0.22, 0.15), p.disc(0.42, -0.15, 0.14))
    else:
        p.paint(ink.main, p.poly((0.95, -0.1), (0.1, -0.75), (u(0.75, 0.95), u(-1.6, -1.15))))
        p.paint(patch, p.ellipse(0, 0.42, u(0.25, 0.4), 0.26))
        p.paint(ink.dark, p.ellipse(0, 0.28, 0.13, 0.1), p.disc(0.42, -0.12, 0.15))


def _pet_tail(p: _Pen, u: _Dice, x: float, y: float, dog: bool) -> Field:
    """A dog's is short and straight, a cat's long and curled."""
    if dog:
        return p.line((x, y), (x - 0.35, y - u(0.0, 0.5)), 0.08, 0.05)
    tip = y - u(0.3, 0.7)
    return p.path((x, y), (x - 0.3, y - 0.05), (x - 0.35, tip), (x - 0.15, tip - 0.2), r0=0.075, r1=0.05)


def _pet(p: _Pen, u: _Dice, ink: _Inks, dog: bool) -> None:
    p.paint(ink.main, _pet_tail(p, u, -0.35, 0.78, dog))
    body = _melt(p.ellipse(0, 0.5, u(0.34, 0.46), 0.45), p.line((0, -0.1), (0, 0.3), 0.3), 0.1)
    p.paint(ink.main, body)
    p.paint(ink.second, p.line((0, 0.15), (0, 0.5), 0.15, 0.08), p.line((0, 0.6), (0, 0.9), 0.08))
    p.paint(ink.main, p.twin().line((0.17, 0.5), (0.19, 0.9), 0.09))
    _pet_head(p.at(u(-0.08, 0.08), u(-0.42, -0.3), u(0.38, 0.48)), u, ink, dog)


def _deer(p: _Pen, u: _Dice, ink: _Inks) -> None:
    fat, x, y, tall = u(0.17, 0.23), u(0.5, 0.72), u(-0.55, -0.38), u(0.1, 0.35)
    p.paint(ink.second, _legs(p, u, 0.15, 0.92, 0.035, -0.36, 0.34))
    for s in (-1.0, 0.9):
        bend = x + s * 0.2
        beam = p.path((x - 0.03, y - 0.08), (bend, y - 0.28), (bend + 0.04, y - 0.3 - tall), r0=0.035)
        p.paint(ink.second, beam, p.line((bend, y - 0.29), (bend + s * 0.17, y - 0.32 - tall / 3), 0.03))
    body = _melt(p.line((-0.42, 0.05), (0.34, 0.05), fat), p.line((0.38, 0), (x - 0.04, y), 0.13, 0.08))
    head = p.line((x - 0.04, y), (x + 0.24, y + 0.12), 0.1, 0.055)
    p.paint(ink.main, body, head, _legs(p, u, 0.15, 0.94, 0.04, -0.52, 0.24))
    p.paint(ink.light, p.ellipse(-0.64, -0.02, 0.09, 0.12))
    p.paint(ink.second, p.line((x - 0.07, y - 0.04), (x - 0.26, y - 0.1), 0.05, 0.03))
    p.paint(ink.dark, p.disc(x + 0.04, y, 0.035))


def _horse(p: _Pen, u: _Dice, ink: _Inks) -> None:
    fat, x, y = u(0.23, 0.3), u(0.6, 0.8), u(-0.68, -0.4)
    p.paint(ink.second, _legs(p, u, 0.15, 0.92, 0.055, -0.34, 0.34))
    p.paint(ink.dark, p.path((-0.58, -0.08), (-0.86, 0.05), (-0.9, u(0.45, 0.7)), r0=0.09, r1=0.05))
    body = _melt(p.line((-0.42, 0.02), (0.32, 0.02), fat), p.line((0.36, -0.05), (x - 0.06, y), 0.22, 0.13))
    head = p.line((x - 0.04, y), (x + 0.18, y + 0.3), 0.13, 0.085)
    ear = p.poly((x - 0.12, y - 0.08), (x + 0.02, y - 0.08), (x - 0.05, y - 0.3))
    p.paint(ink.main, body, head, ear, _legs(p, u, 0.15, 0.94, 0.06, -0.52, 0.24))
    p.paint(ink.dark, p.line((x - 0.16, y - 0.1), (0.2, -0.18), 0.07), p.disc(x + 0.04, y + 0.02, 0.035))


def _frog(p: _Pen, u: _Dice, ink: _Inks) -> None:
    wide, eye, p = u(0.5, 0.65), u(0.15, 0.2), p.twin()
    p.paint(ink.second, p.ellipse(0.66, 0.35, 0.26, 0.36, -0.4), p.line((0.6, 0.68), (0.95, 0.72), 0.06))
    p.paint(ink.main, p.ellipse(0, 0.2, wide, 0.5), p.ellipse(0, -0.12, wide, 0.32))
    p.paint(ink.main, p.disc(0.36, -0.4, eye + 0.04))
    p.paint(ink.light, p.ellipse(0, 0.42, wide * 0.6, 0.28), p.disc(0.36, -0.42, eye * 0.8))
    p.paint(ink.main, p.path((0.3, 0.3), (0.36, 0.68), (0.5, 0.74), r0=0.08, r1=0.06))
    p.paint(ink.dark, p.disc(0.36, -0.41, eye * 0.4), p.line((0, 0.04), (0.42, -0.08), 0.03))


def _ship(p: _Pen, u: _Dice, ink: _Inks) -> None:
    deck, rake, x = u(0.05, 0.2), u(0.1, 0.3), u(-0.35, 0.1)
    p.paint(ink.dark, p.line((0.45, deck), (0.45, u(-0.9, -0.6)), 0.025))
    p.paint(ink.trim, p.box(x, -0.62, x + 0.2, deck))
    p.paint(ink.dark, p.box(x, -0.62, x + 0.2, -0.52))
    p.paint(ink.light, p.box(-0.62, -0.15, 0.38, deck + 0.02), p.box(-0.45, -0.35, 0.2, 0.0))
    p.paint(ink.dark, p.line((-0.5, -0.06), (0.28, -0.06), 0.03))
    p.paint(ink.main, p.poly((-0.95, deck), (1.0, deck - 0.05), (1.0 - rake, 0.55), (-0.85, 0.55)))
    p.paint(ink.second, p.poly((-0.9, 0.42), (1.0 - rake * 0.75, 0.42), (1.0 - rake, 0.55), (-0.85, 0.55)))


def _truck(p: _Pen, u: _Dice, ink: _Inks) -> None:
    gap, cab = u(0.22, 0.4), u(-0.4, -0.2)
    p.paint(ink.dark, p.box(-0.95, 0.25, 0.95, 0.42))
    p.paint(ink.trim, p.box(-1.0, u(-0.68, -0.45), gap, 0.32))
    p.paint(ink.main, p.poly((gap + 0.06, cab), (0.72, cab), (0.98, 0), (0.98, 0.4), (gap + 0.06, 0.4)))
    p.paint(ink.glass, p.poly((gap + 0.2, cab + 0.1), (0.68, cab + 0.1), (0.82, 0.05), (gap + 0.2, 0.05)))
    _wheels(p, ink, 0.44, u(0.16, 0.2), -0.72, -0.3, 0.66)


# ---------------------------------------------------------------- other things, to pretrain on


def _mug(p: _Pen, u: _Dice, ink: _Inks) -> None:
    p.paint(ink.main, p.ring(0.5, u(-0.05, 0.1), u(0.25, 0.35), 0.075))
    p.paint(ink.main, p.poly((-0.55, -0.5), (0.5, -0.5), (0.42, 0.65), (-0.47, 0.65)))
    p.paint(ink.second, p.ellipse(-0.02, -0.5, 0.53, 0.15))
    p.paint(ink.dark, p.ellipse(-0.02, -0.48, 0.43, 0.1))
    p.paint(ink.trim, p.line((-0.45, 0.2), (0.4, 0.2), u(0.03, 0.12)))


def _tree(p: _Pen, u: _Dice, ink: _Inks) -> None:
    p.paint(ink.dark, p.line((0, 0.95), (0, 0), u(0.08, 0.14), 0.06))
    p.paint(ink.main, p.disc(0, -0.55, 0.38), p.twin().disc(0.4, u(-0.3, 0.0), u(0.3, 0.42)))
    p.paint(ink.second, p.disc(u(-0.2, 0.2), -0.3, 0.25))


def _house(p: _Pen, u: _Dice, ink: _Inks) -> None:
    p.paint(ink.second, p.box(0.35, -0.85, 0.55, -0.2))
    p.paint(ink.main, p.box(-0.65, -0.15, 0.65, 0.75))
    p.paint(ink.trim, p.poly((-0.85, -0.12), (0, u(-0.9, -0.6)), (0.85, -0.12)))
    p.paint(ink.dark, p.box(-0.15, 0.25, 0.15, 0.75))
    p.paint(ink.glass, p.twin().box(0.27, 0.1, 0.5, 0.38))


def _fish(p: _Pen, u: _Dice, ink: _Inks) -> None:
    fat = u(0.28, 0.45)
    tail = p.poly((-0.4, 0), (-1.0, -0.42), (-0.8, 0), (-1.0, 0.42))
    p.paint(ink.second, tail, p.poly((-0.3, -0.15), (-0.15, -fat - 0.25), (0.25, -0.2)))
    p.paint(ink.main, p.ellipse(0.15, 0, 0.72, fat))
    p.paint(ink.trim, p.line((0.3, -0.2), (0.3, 0.2), 0.05))
    p.paint(ink.light, p.disc(0.58, -0.08, 0.09))
    p.paint(ink.dark, p.disc(0.6, -0.08, 0.05))


def _key(p: _Pen, u: _Dice, ink: _Inks) -> None:
    end = u(0.75, 0.95)
    teeth = p.box(end - 0.12, 0, end, u(0.25, 0.4)), p.box(end - 0.38, 0, end - 0.26, u(0.2, 0.35))
    p.paint(ink.main, p.ring(-0.55, 0, u(0.24, 0.32), 0.1), p.line((-0.25, 0), (end, 0), 0.075), *teeth)


def _star(p: _Pen, u: _Dice, ink: _Inks) -> None:
    inner, step = u(0.32, 0.45), math.pi / 5
    for i in range(5):
        ray = p.at(turn=2 * step * i)
        notch = inner * math.sin(step), -inner * math.cos(step)
        p.paint(ink.main, ray.poly((0, 0), (-notch[0], notch[1]), (0, -1), notch))
    p.paint(ink.second, p.disc(0, 0, inner * 0.5))


def _umbrella(p: _Pen, u: _Dice, ink: _Inks) -> None:
    top = u(-0.85, -0.7)
    p.paint(ink.dark, p.path((0, top), (0, 0.75), (0.1, 0.88), (0.25, 0.75), r0=0.045))
    gap = _union(p.box(-2, 0, 2, 2), p.ellipse(0, 0, 0.2, 0.14), p.twin().ellipse(0.63, 0, 0.2, 0.14))
    p.paint(ink.main, _cut(p.ellipse(0, 0, 0.95, -top), gap))
    p.paint(ink.trim, _cut(p.ellipse(0, 0, 0.32, -top), gap))


def _bicycle(p: _Pen, u: _Dice, ink: _Inks) -> None:
    hub, seat, pedal = (-0.55, 0.35), (-0.22, -0.3), (-0.05, 0.35)
    p.paint(ink.dark, p.twin().ring(0.55, 0.35, u(0.32, 0.4), 0.05))
    p.paint(ink.main, p.path(pedal, hub, seat, pedal, (0.4, -0.2), (-0.2, -0.2), r0=0.05))
    p.paint(ink.main, p.path((0.55, 0.35), (0.38, -0.45), (0.58, -0.5), r0=0.05))
    p.paint(ink.main, p.line((-0.36, -0.38), (-0.1, -0.38), 0.06))


def _flower(p: _Pen, u: _Dice, ink: _Inks) -> None:
    p.paint(ink.second, p.line((0, -0.2), (u(-0.15, 0.15), 0.95), 0.05), p.ellipse(0.2, 0.5, 0.24, 0.1, -0.5))
    far, petal, spin = u(0.3, 0.38), u(0.17, 0.24), u(0.0, 1.0)
    angles = [spin + np.pi / 3 * i for i in range(6)]
    p.paint(ink.main, *(p.disc(far * np.cos(a), far * np.sin(a) - 0.35, petal) for a in angles))
    p.paint(ink.trim, p.disc(0, -0.35, 0.2))


def _lamp(p: _Pen, u: _Dice, ink: _Inks) -> None:
    neck = u(0.25, 0.5)
    p.paint(ink.dark, p.line((0, -0.2), (0, 0.8), 0.06), p.ellipse(0, 0.82, 0.42, 0.12))
    p.paint(ink.main, p.poly((-neck, -0.85), (neck, -0.85), (0.72, 0.0), (-0.72, 0.0)))
    p.paint(ink.trim, p.line((-0.68, -0.04), (0.68, -0.04), 0.05))


def _chair(p: _Pen, u: _Dice, ink: _Inks) -> None:
    p.paint(ink.dark, *(p.line((x, 0.1), (x * 1.1, 0.92), 0.06) for x in (-0.42, -0.2, 0.28, 0.5)))
    back = u(-0.95, -0.7)
    p.paint(ink.main, p.poly((-0.52, back), (-0.34, back), (-0.3, 0.1), (-0.5, 0.1)))
    p.paint(ink.second, p.poly((-0.5, 0.0), (0.35, 0.0), (0.58, 0.2), (-0.5, 0.2)))


def _guitar(p: _Pen, u: _Dice, ink: _Inks) -> None:
    p.paint(ink.dark, p.line((0, 0), (0, -0.85), 0.07))
    p.paint(ink.second, p.box(-0.12, -1.0, 0.12, -0.76, 0.03))
    p.paint(ink.main, _melt(p.disc(0, 0.52, u(0.4, 0.46)), p.disc(0, 0, u(0.28, 0.34)), 0.1))
    p.paint(ink.dark, p.disc(0, 0.22, 0.15))
    p.paint(ink.trim, p.box(-0.18, 0.6, 0.18, 0.69))


def _butterfly(p: _Pen, u: _Dice, ink: _Inks) -> None:
    rx, ry, turn, p = u(0.4, 0.48), u(0.28, 0.4), u(0.3, 0.7), p.twin()
    p.paint(ink.main, p.ellipse(0.46, -0.3, rx, ry, -turn))
    p.paint(ink.second, p.ellipse(0.36, 0.4, rx * 0.75, ry * 0.8, turn))
    p.paint(ink.trim, p.disc(0.55, -0.34, 0.13))
    p.paint(ink.dark, p.line((0, -0.4), (0, 0.6), 0.09, 0.05), p.line((0, -0.4), (0.25, -0.85), 0.03))


def _mushroom(p: _Pen, u: _Dice, ink: _Inks) -> None:
    p.paint(ink.light, p.line((0, -0.1), (0, 0.75), u(0.14, 0.22), u(0.18, 0.28)))
    p.paint(ink.main, _cut(p.ellipse(0, 0.05, u(0.75, 0.95), u(0.7, 0.9)), p.box(-2, 0.05, 2, 2)))
    p.paint(ink.trim, p.disc(-0.4, -0.2, 0.13), p.disc(0.05, -0.45, 0.14), p.disc(0.45, -0.15, 0.12))


def _clock(p: _Pen, u: _Dice, ink: _Inks) -> None:
    p.paint(ink.main, p.disc(0, 0, 0.85))
    p.paint(ink.light, p.disc(0, 0, 0.68))
    p.paint(ink.dark, *(p.disc(x, y, 0.06) for x, y in ((0.56, 0), (-0.56, 0), (0, 0.56), (0, -0.56))))
    hours, minutes = p.at(turn=u(-3.1, 3.1)), p.at(turn=u(-3.1, 3.1))
    p.paint(ink.dark, hours.line((0, 0), (0, -0.4), 0.06), minutes.line((0, 0), (0, -0.58), 0.04))


def _bottle(p: _Pen, u: _Dice, ink: _Inks) -> None:
    wide = u(0.28, 0.4)
    belly, neck = p.box(-wide, u(-0.35, -0.1), wide, 0.95, 0.1), p.box(-0.12, -0.85, 0.12, 0.2)
    p.paint(ink.main, _melt(belly, neck, 0.3))
    p.paint(ink.dark, p.box(-0.14, -0.98, 0.14, -0.82))
    p.paint(ink.trim, p.box(-wide, 0.25, wide, u(0.5, 0.7)))


def _heart(p: _Pen, u: _Dice, ink: _Inks) -> None:
    p.paint(ink.main, p.twin().disc(0.4, -0.25, 0.43))
    p.paint(ink.main, p.poly((-0.76, 0.0), (-0.3, -0.35), (0.3, -0.35), (0.76, 0.0), (0, u(0.75, 0.95))))
    p.paint(ink.second, p.ellipse(-0.45, -0.35, 0.14, 0.1, -0.6))


def _elephant(p: _Pen, u: _Dice, ink: _Inks) -> None:
    p.paint(ink.second, _legs(p, u, 0.2, 0.8, 0.12, -0.38, 0.24), p.line((-0.7, -0.1), (-0.9, 0.35), 0.05))
    trunk = p.path((0.7, -0.2), (0.88, 0.2), (u(0.75, 0.95), 0.65), r0=0.14, r1=0.07)
    body = _union(p.ellipse(-0.2, 0, 0.58, 0.45), p.disc(0.55, -0.25, 0.3))
    p.paint(ink.main, body, trunk, _legs(p, u, 0.25, 0.82, 0.13, -0.52, 0.1))
    p.paint(ink.second, p.ellipse(0.36, -0.22, 0.2, u(0.26, 0.34)))
    p.paint(ink.dark, p.disc(0.68, -0.3, 0.045))
    p.paint(ink.light, p.line((0.7, 0.0), (0.98, 0.1), 0.05, 0.02))


def _rabbit(p: _Pen, u: _Dice, ink: _Inks) -> None:
    tilt = u(-0.25, 0.15)
    p.paint(ink.second, *(p.line((0.4, -0.3), (x + tilt, -0.94), 0.1, 0.08) for x in (0.22, 0.5)))
    p.paint(ink.light, p.disc(-0.68, 0.4, 0.16))
    body = _melt(p.ellipse(-0.15, 0.35, 0.52, u(0.36, 0.46)), p.disc(0.45, -0.12, 0.28), 0.15)
    p.paint(ink.main, body, p.line((0.25, 0.6), (0.45, 0.78), 0.09), p.line((-0.4, 0.75), (-0.05, 0.78), 0.1))
    p.paint(ink.dark, p.disc(0.55, -0.18, 0.055), p.disc(0.71, -0.08, 0.04))


def _turtle(p: _Pen, u: _Dice, ink: _Inks) -> None:
    p.paint(ink.second, p.line((0.5, 0.2), (0.8, u(-0.15, 0.15)), 0.12, 0.15))
    p.paint(ink.second, _legs(p, u, 0.3, 0.6, 0.11, -0.48, 0.42), p.line((-0.7, 0.3), (-0.95, 0.38), 0.05))
    p.paint(ink.main, _cut(p.ellipse(-0.05, 0.3, 0.72, u(0.6, 0.8)), p.box(-2, 0.36, 2, 3)))
    p.paint(ink.trim, p.line((-0.7, 0.34), (0.62, 0.34), 0.06))
    p.paint(ink.dark, p.line((-0.35, -0.1), (-0.25, 0.25), 0.035), p.line((0.12, -0.15), (0.05, 0.25), 0.035))


# ---------------------------------------------------------------- colours, scenes, kinds

_COLOURS = {
    "white": (0.92, 0.92, 0.9), "silver": (0.7, 0.72, 0.75), "grey": (0.47, 0.47, 0.48),
    "black": (0.13, 0.13, 0.15), "red": (0.75, 0.15, 0.13), "blue": (0.16, 0.3, 0.65),
    "sky": (0.42, 0.64, 0.85), "green": (0.25, 0.5, 0.2), "olive": (0.45, 0.45, 0.2),
    "yellow": (0.88, 0.74, 0.2), "orange": (0.85, 0.48, 0.15), "ginger": (0.72, 0.45, 0.24),
    "brown": (0.45, 0.29, 0.17), "tan": (0.72, 0.58, 0.42), "cream": (0.88, 0.8, 0.66),
    "pink": (0.82, 0.5, 0.58), "violet": (0.45, 0.3, 0.6), "teal": (0.15, 0.5, 0.5),
}  # fmt: skip


@dataclass(frozen=True)
class _Scene:
    """A background: an upper and a lower gradient, the line between them, and what runs across them."""

    upper: tuple[str, str]
    lower: tuple[str, str]
    horizon: tuple[float, float]  # -1 is the top of the image, 1 the bottom
    mottle: float
    waves: tuple[float, float, float] = (0.0, 0.0, 0.0)  # half cycles across, half cycles down, strength


_SCENES = {
    "sky": _Scene(("sky", "white"), ("sky", "silver"), (0.9, 1.6), 0.08),
    "sea": _Scene(("sky", "white"), ("blue", "teal"), (-0.5, 0.3), 0.05, (0.5, 7.0, 0.05)),
    "grass": _Scene(("sky", "cream"), ("green", "olive"), (-0.9, 0.2), 0.1),
    "road": _Scene(("silver", "sky"), ("grey", "silver"), (-0.4, 0.4), 0.05, (0.3, 2.0, 0.03)),
    "forest": _Scene(("green", "black"), ("olive", "brown"), (0.0, 0.8), 0.12, (6.0, 0.3, 0.07)),
    "indoor": _Scene(("cream", "tan"), ("brown", "tan"), (0.0, 0.8), 0.03, (2.0, 0.0, 0.03)),
    "desert": _Scene(("sky", "cream"), ("tan", "ginger"), (-0.4, 0.4), 0.05, (0.6, 3.0, 0.03)),
    "snow": _Scene(("silver", "white"), ("white", "silver"), (-0.6, 0.4), 0.04),
    "studio": _Scene(("white", "white"), ("silver", "white"), (0.2, 1.2), 0.01),
    "dusk": _Scene(("violet", "orange"), ("black", "brown"), (0.0, 0.7), 0.06),
    "pond": _Scene(("green", "olive"), ("teal", "green"), (-0.8, 0.0), 0.08, (1.0, 5.0, 0.06)),
    "wall": _Scene(("ginger", "brown"), ("grey", "black"), (0.3, 1.0), 0.05, (4.0, 6.0, 0.05)),
}
_EVERY_COLOUR, _EVERY_SCENE = tuple(_COLOURS), tuple(_SCENES)


@dataclass(frozen=True)
class _Kind:
    """A class: how it is drawn, what it is coloured and where it is met.

    A name that stands twice is twice as likely.
    """

    view: View
    colours: tuple[str, ...]
    scenes: tuple[str, ...] = _EVERY_SCENE
    lean: float = 0.09  # largest rotation either way, radians
    size: tuple[float, float] = (0.6, 0.76)  # the object's reach; 1 fills the image


_LARGE = partial(
    _Kind, lean=0.18, size=(0.78, 1.0)
)  # fills the image: at 32 px as many pixels as the study's objects have
_KINDS = {
    "airplane": _Kind(
        _airplane,
        ("white", "silver", "white", "grey"),
        ("sky", "sky", "sky", "sea", "dusk"),
        lean=0.3,
    ),
    "automobile": _Kind(
        _automobile,
        ("red", "red", "blue"),
        ("road", "road", "wall", "studio", "grass"),
    ),
    "bird": _Kind(
        _bird,
        ("sky", "teal", "yellow"),
        ("sky", "grass", "forest", "sea", "snow"),
        lean=0.18,
    ),
    "cat": _Kind(
        partial(_pet, dog=False),
        ("ginger", "grey", "cream"),
        ("indoor", "indoor", "wall", "grass", "studio"),
    ),
    "deer": _Kind(_deer, ("brown", "tan"), ("forest", "forest", "grass", "snow")),
    "dog": _Kind(
        partial(_pet, dog=True),
        ("tan", "black", "cream", "brown"),
        ("indoor", "indoor", "grass", "snow", "studio"),
    ),
    "frog": _Kind(_frog, ("green", "olive"), ("pond", "pond", "forest", "grass", "studio"), lean=0.18),
    "horse": _Kind(_horse, ("black", "brown", "white"), ("grass", "grass", "desert", "dusk")),
    "ship": _Kind(
        _ship,
        ("blue", "white", "blue"),
        ("sea", "sea", "sea", "dusk", "pond"),
    ),
    "truck": _Kind(
        _truck,
        ("orange", "yellow", "orange"),
        ("road", "road", "desert", "wall", "sky"),
    ),
    "mug": _LARGE(_mug, ("red", "white", "teal")),
    "tree": _LARGE(_tree, ("green", "olive")),
    "house": _LARGE(_house, ("ginger", "cream")),
    "fish": _LARGE(_fish, ("orange", "teal")),
    "key": _LARGE(_key, ("yellow", "silver")),
    "star": _LARGE(_star, ("yellow",)),
    "umbrella": _LARGE(_umbrella, ("violet", "red")),
    "bicycle": _LARGE(_bicycle, ("black", "blue")),
    "flower": _LARGE(_flower, ("pink", "violet")),
    "lamp": _LARGE(_lamp, ("cream", "yellow")),
    "chair": _LARGE(_chair, ("brown", "blue")),
    "guitar": _LARGE(_guitar, ("ginger", "brown")),
    "butterfly": _LARGE(_butterfly, ("violet", "orange")),
    "mushroom": _LARGE(_mushroom, ("cream", "red")),
    "clock": _LARGE(_clock, ("white", "black")),
    "bottle": _LARGE(_bottle, ("teal", "green")),
    "heart": _LARGE(_heart, ("red", "pink")),
    "elephant": _LARGE(_elephant, ("grey",)),
    "rabbit": _LARGE(_rabbit, ("white", "tan")),
    "turtle": _LARGE(_turtle, ("olive", "green")),
}

CLASSES: tuple[str, ...] = tuple(_KINDS)[:10]
"""CIFAR-10's ten classes, in its order."""

PRETRAIN_CLASSES: tuple[str, ...] = tuple(_KINDS)[10:]
"""Twenty other things, none of the ten, to pretrain a trunk on."""


# ---------------------------------------------------------------- the renderer

_DRAWS = 144  # uniform numbers set aside for an image
_CHUNK = 48  # images drawn at once: few enough for their canvases to stay in a CPU's cache
_OFF = 0.9  # of the room beside it, an object is moved off the middle by this share at least, both ways
_PALE = 0.4  # how much of its colour a background keeps
_MOST_HIDDEN = 0.5  # share of the object that an occluder may hide
_LEAST_VISIBLE = 0.012  # share of the image that an occluder must leave of it: 12 pixels of 32 x 32

_RGB = np.array(list(_COLOURS.values()), np.float32)
_STOPS = np.array([[_COLOURS[c] for c in s.upper + s.lower] for s in _SCENES.values()], np.float32)
_HORIZONS = np.array([s.horizon for s in _SCENES.values()], np.float32)
_WAVES = np.array([s.waves for s in _SCENES.values()], np.float32)
_MOTTLES = np.array([s.mottle for s in _SCENES.values()], np.float32)


class _Sheet:
    """What all images of a call share: the pixel grid and two tiles of noise to cut windows from."""

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        axis = ((np.arange(size) + 0.5) * (2 / size) - 1).astype(np.float32)
        self.size, self.x, self.y = size, axis[None, None, :], axis[None, :, None]
        self.grain = rng.standard_normal(200 * size * size, np.float32)
        self.cloud = np.zeros((8 * size, 8 * size), np.float32)
        for cells, weight in ((16, 1.0), (40, 0.7), (112, 0.5)):
            at = np.arange(8 * size) * (cells / (8 * size))
            low, part = at.astype(int), (at % 1).astype(np.float32)
            knots = rng.standard_normal((cells + 1, cells + 1), np.float32)
            rows = knots[low] * (1 - part[:, None]) + knots[low + 1] * part[:, None]
            self.cloud += weight * (rows[:, low] * (1 - part) + rows[:, low + 1] * part)
        self.cloud /= self.cloud.std()

    def clouds(self, u: _Dice) -> Field:
        """A window of smooth noise for every image: mean 0, deviation about 1."""
        windows = np.lib.stride_tricks.sliding_window_view(self.cloud, (self.size, self.size))
        return windows[u.below(len(windows)), u.below(len(windows))]

    def grains(self, u: _Dice) -> np.ndarray:
        """A window of white noise for every image, `[B, 3, size, size]`: mean 0, deviation about 1."""
        windows = np.lib.stride_tricks.sliding_window_view(self.grain, 3 * self.size**2)
        return windows[u.below(len(windows))].reshape(-1, 3, self.size, self.size)


def _tint(u: _Dice, index: np.ndarray, spread: float = 0.09) -> Colour:
    """The colours of that index, each channel off by up to `spread`."""
    jitter = np.stack([u.flat(), u.flat(), u.flat()], 1) * (2 * spread) - spread
    return np.clip(_RGB[index] + jitter, 0.03, 0.97)[:, :, None, None]


def _any_tint(u: _Dice) -> Colour:
    return _tint(u, u.below(len(_EVERY_COLOUR)))


def _muted_tint(u: _Dice, behind: Colour) -> Colour:
    """A colour near that of what is behind: what is in the way must not outshine the object."""
    return 0.75 * behind + 0.25 * _any_tint(u)


def _off_centre(u: _Dice) -> np.ndarray:
    """Where an object stands on one axis, from -1 to 1 of the room that it has: not in the middle."""
    place = u(-1, 1)
    return np.sign(place) * (_OFF + (1 - _OFF) * np.abs(place))


def _background(u: _Dice, sheet: _Sheet, kind: _Kind) -> np.ndarray:
    scene = u.among(kind.scenes, _EVERY_SCENE, stray=0.6)
    cast = np.stack([u.flat(), u.flat(), u.flat()], 1)[:, None] * 0.2 - 0.1
    a, b, c, d = np.moveaxis(np.clip(_STOPS[scene] + cast, 0, 1)[..., None, None], 1, 0)
    low, high = _HORIZONS[scene].T[:, :, None, None]
    lower = np.clip((sheet.y - low - (high - low) * u() + u(-0.3, 0.3) * sheet.x) * u(3, 20) + 0.5, 0, 1)
    down = (sheet.y[:, None] + 1) / 2
    canvas = a + (b - a) * down
    canvas = canvas + (c + (d - c) * down - canvas) * lower[:, None]
    canvas = _PALE * canvas + (1 - _PALE) * (0.3 * canvas.mean(1, keepdims=True) + 0.55)
    across, along, strength = _WAVES[scene].T[:, :, None, None]
    waves = strength * np.sin(np.pi * u(0.7, 1.4) * (across * sheet.x + along * sheet.y) + u(0, 6.3))
    return canvas + (waves + _MOTTLES[scene][:, None, None] * u(0.2, 0.9) * sheet.clouds(u))[:, None]


def _blob(p: _Pen, u: _Dice, reach: float, wide: Scalar, longest: float) -> Field:
    """A disc, bar, slab or wedge somewhere, at any angle: what it is depends on the numbers drawn."""
    p = p.at(u(-reach, reach), u(-reach, reach), turn=u(0, np.pi))
    long, corner = wide * np.maximum(u(0.4, longest), 1), wide * np.minimum(u(0, 1.5), 1)
    taper = np.clip(1 - np.maximum(u(-1, 1), 0) * (p.y / long + 1) / 2, 0, 1)
    x, y = np.abs(p.x) - (wide - corner) * taper, np.abs(p.y) - (long - corner)
    outside = np.hypot(np.maximum(x, 0), np.maximum(y, 0))
    return outside + np.minimum(np.maximum(x, y), 0) - corner


def _render(kind: _Kind, u: _Dice, sheet: _Sheet) -> tuple[np.ndarray, ...]:
    """Images, masks, object sizes, clutter and occlusion of one kind, a row of dice each."""
    canvas = _background(u, sheet, kind)
    cover = np.zeros_like(canvas[:, 0])
    page = _Pen(canvas, cover.copy(), sheet.x, sheet.y, sheet.size / 2)

    # Clutter lies behind the object and belongs to no class. A shape that is not there is far away.
    clutter = np.maximum(u.below(4) - 1, 0)
    behind = canvas.mean((2, 3), keepdims=True)
    for i in range(2):
        away = np.where(clutter > i, 0, 9).astype(np.float32)[:, None, None]
        page.paint(_muted_tint(u, behind), _blob(page, u, 1.0, u(0.06, 0.2), 2.5) + away)

    # A colour close to the background's is moved away from it: camouflage leaves nothing to learn.
    behind = canvas.mean((2, 3), keepdims=True)
    main = _tint(u, u.among(kind.colours, _EVERY_COLOUR, stray=0.05))
    distance = np.sqrt(((main - behind) ** 2).sum(1, keepdims=True))
    main = np.clip(behind + (main - behind) * np.maximum(0.5 / (distance + 0.01), 1), 0.03, 0.97)
    toward = np.where(u() < 0.5, 0.1, 0.9).astype(np.float32)[:, None]
    black, white, blue = (np.full(len(canvas), _EVERY_COLOUR.index(c)) for c in ("black", "white", "blue"))
    ink = _Inks(
        main=main,
        second=main + (toward - main) * u(0.15, 0.4)[:, None],
        trim=_any_tint(u),
        dark=_tint(u, black),
        light=_tint(u, white),
        glass=_tint(u, blue, 0.15) * 0.6,
    )

    # The pose turns the image's coordinates into the object's.
    scale, stretch, soft = u(*kind.size), u(0.9, 1.12), u(0.8, 1.5)
    mirror = np.where(u() < 0.5, -1, 1).astype(np.float32)
    shift = 1.08 - scale
    at_x, at_y = _off_centre(u) * shift, _off_centre(u) * shift
    pen = page.at(at_x, at_y, scale, u(-1, 1) * kind.lean)
    x, y = pen.x * mirror / stretch + u(-0.08, 0.08) * pen.y, pen.y * stretch
    stripes = np.maximum(u(-0.6, 0.18), 0) * np.sin(u(8, 16) * (x + u(-1, 1) * y))
    light = 1 - u(-0.05, 0.3) * y + stripes + np.maximum(u(-0.1, 0.1), 0) * sheet.clouds(u)
    kind.view(replace(pen, cover=cover, x=x, y=y, edge=pen.edge / soft, shade=light[:, None]), u, ink)

    # An occluder over a minority of the objects. One that would hide too much stays away.
    whole = cover >= np.minimum(cover.max((1, 2), keepdims=True), 0.5)  # never empty, however small
    area = whole.sum((1, 2))
    bar = _blob(page.at(at_x, at_y), u, 0.4, u(0.06, 0.15), 6.0)
    hidden = (whole & (bar < 0)).sum((1, 2))
    keep = (hidden <= _MOST_HIDDEN * area) & (area - hidden >= _LEAST_VISIBLE * sheet.size**2)
    bar = np.where((keep & (u.flat() < 0.16))[:, None, None], bar, 9)
    page.paint(_muted_tint(u, canvas.mean((2, 3), keepdims=True)), bar)
    masks = whole & (bar >= 0)
    occlusion = 1 - masks.sum((1, 2)) / area

    # Light, contrast, brightness and the sensor.
    canvas *= (1 + u(-0.15, 0.15) * sheet.x + u(-0.15, 0.15) * sheet.y)[:, None]
    canvas = (canvas - 0.5) * u(0.9, 1.1)[:, None] + u(0.45, 0.55)[:, None]
    canvas += sheet.grains(u) * u(0.005, 0.02)[:, None]
    images = (np.clip(canvas, 0, 1) * 255 + 0.5).astype(np.uint8)
    return images, masks, area / sheet.size**2, clutter, occlusion


def draw(n: int, *, seed: int, classes: Sequence[str] = CLASSES, size: int = 32) -> Drawings:
    """Draws `n` images of the given classes, in shuffled order, as many of each give or take one.

    The same arguments give the same bytes on one machine with one numpy, whatever the state of any global
    random generator.

    Args:
        n: how many images, at least 1.
        seed: a whole number from 0 on; different seeds give different images.
        classes: names from `CLASSES` and `PRETRAIN_CLASSES`; a label is an index into them.
        size: side of the images in pixels, at least 8.

    Raises:
        ValueError: for `n` below 1, `size` below 8, and for missing, repeated or unknown class names.

    >>> drawings = draw(20, seed=0)
    >>> drawings.images.shape, drawings.images.dtype.name, drawings.masks.shape
    ((20, 3, 32, 32), 'uint8', (20, 32, 32))
    >>> drawings.classes[drawings.labels[0]] in CLASSES
    True
    """
    classes = tuple(classes)
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    if size < 8:
        raise ValueError(f"size must be at least 8 pixels, got {size}")
    if unknown := [name for name in classes if name not in _KINDS]:
        raise ValueError(f"unknown classes {unknown}; known are {', '.join(_KINDS)}")
    if not classes or len(set(classes)) < len(classes):
        raise ValueError(f"classes must be one or more different names, got {classes}")

    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n, dtype=np.int64) % len(classes))
    sheet = _Sheet(size, rng)
    rows = rng.random((n, _DRAWS), np.float32)
    out = Drawings(
        images=np.empty((n, 3, size, size), np.uint8),
        labels=labels,
        masks=np.empty((n, size, size), bool),
        object_size=np.empty(n, np.float32),
        clutter=np.empty(n, np.int64),
        occlusion=np.empty(n, np.float32),
        classes=classes,
    )
    for label, name in enumerate(progress.bar(classes, what="drawing images", unit="class")):
        kind = _KINDS[name]
        members = np.flatnonzero(labels == label)
        for start in range(0, len(members), _CHUNK):
            at = members[start : start + _CHUNK]
            drawn = _render(kind, _Dice(rows[at]), sheet)
            columns = out.images, out.masks, out.object_size, out.clutter, out.occlusion
            for column, values in zip(columns, drawn, strict=True):
                column[at] = values
    return out
