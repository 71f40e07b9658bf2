"""Figures: arrays in, `matplotlib.figure.Figure` out.

Every function draws one figure of the study, gives it alternative text that says what it shows
(`figure.get_label()`) and returns it; `show` displays it. No pyplot: nothing is displayed twice, nothing stays
open and no global setting changes. Tensors are taken like arrays, from any device. Nothing given is modified, and
what has the wrong shape raises ValueError with the shape it must have.

Colours: M. Okabe and K. Ito, "Color Universal Design" (2008), which all common kinds of colour vision tell apart;
vermilion is darkened a little, so that text in it can be read on white.
"""

from __future__ import annotations

import base64
import io
import re
import textwrap
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, wraps
from itertools import cycle
from typing import Any, ParamSpec, Protocol

import matplotlib
import numpy as np
import pandas as pd
import seaborn as sns
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap, PowerNorm, to_rgb
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.textpath import TextPath
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, MaxNLocator, NullLocator
from matplotlib.transforms import Bbox
from PIL import Image
from sklearn.isotonic import isotonic_regression

COLOURS: dict[str, str] = {
    "train": "#0072B2",
    "val": "#C05400",
    "test": "#222222",
    "level1": "#E69F00",
    "level2": "#009E73",
    "level3": "#CC79A7",
    "level4": "#0072B2",
    "efficientnet": "#56B4E9",
    "convnext": "#8C6D31",
    "documented": "#767676",
}
"""What has a colour of its own; the same in every figure."""

_INK, _GREY, _RIGHT, _WRONG = "#222222", COLOURS["documented"], "#009E73", "#C05400"
_CYCLE = ("#0072B2", "#C05400", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_BETTER, _WORSE = "#0072B2", "#C05400"
_BETTER_WORSE = LinearSegmentedColormap.from_list("better_worse", (_WORSE, "#FFFFFF", _BETTER))
_STYLE: Any = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same figure on every machine
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 10,
    "axes.facecolor": "white",
    "axes.edgecolor": "#999999",
    "axes.labelcolor": _INK,
    "axes.titlecolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.8,
    "grid.linestyle": "-",
    "text.color": _INK,
    "text.parse_math": False,  # a class named "$x$" is no formula
    "xtick.color": _INK,
    "ytick.color": _INK,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "lines.linewidth": 2.0,
    "lines.markersize": 5,
    "figure.facecolor": "white",
    "legend.frameon": False,
    "legend.fontsize": 10,
}
_WIDTH = 6.8  # inches: text of 10 points stays readable when a phone shows the figure at half its size
_SHOWN = 110  # pixels of a page an inch takes
_RENDERED = 160  # pixels an inch is rendered at, so that it is sharp on dense screens

_PLACES = (  # of a name beside a point: offset in points and alignment, the best first
    (8, 0, "left", "center"),
    (-8, 0, "right", "center"),
    (0, 8, "center", "bottom"),
    (0, -8, "center", "top"),
    (5, 6, "left", "bottom"),
    (5, -6, "left", "top"),
    (-5, 6, "right", "bottom"),
    (-5, -6, "right", "top"),
    (0, 22, "center", "bottom"),
    (0, -22, "center", "top"),
)

# Line breaks, control characters and changes of the reading direction.
_UNSEEN = re.compile(r"\s*[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]+\s*")

P = ParamSpec("P")


class DocumentedCurves(Protocol):
    """What `curves` needs of a documented level: `(epoch, accuracy)` pairs."""

    @property
    def train_accuracy(self) -> Sequence[tuple[int, float]]:
        """The training accuracy at each epoch that is given."""

    @property
    def val_accuracy(self) -> Sequence[tuple[int, float]]:
        """The validation accuracy."""


class ReliabilityBins(Protocol):
    """What `reliability` needs of a model's B bins of confidence, of equal width over [0, 1]."""

    @property
    def confidence(self) -> np.ndarray:
        """Mean confidence in each bin `[B]`."""

    @property
    def accuracy(self) -> np.ndarray:
        """Share predicted right in each bin `[B]`."""

    @property
    def counts(self) -> np.ndarray:
        """Images in each bin `[B]`."""


class FactorialEffects(Protocol):
    """What `ablation` needs of a two-by-two design: `(value, low, high)` of each effect, fractions."""

    @property
    def first(self) -> tuple[float, float, float]:
        """Main effect of augmentation: its mean gain over frozen and fine-tuned."""

    @property
    def second(self) -> tuple[float, float, float]:
        """Main effect of fine-tuning."""

    @property
    def interaction(self) -> tuple[float, float, float]:
        """Gain of augmentation when fine-tuned less its gain when frozen."""


class RiskCoverageCurve(Protocol):
    """What `risk_coverage` needs of a model, for K rising shares of the images, the most confident first."""

    @property
    def coverage(self) -> np.ndarray:
        """Share of the images that is answered `[K]`."""

    @property
    def risk(self) -> np.ndarray:
        """Share of these that is predicted wrong `[K]`."""

    @property
    def area(self) -> float:
        """Area under the curve."""


# --- What all figures share --------------------------------------------------------------------------------


def png(figure: Figure) -> bytes:
    """Render a figure as a PNG file of 160 pixels an inch; the same figure gives the same bytes."""
    canvas = FigureCanvasAgg(figure)
    dpi, figure.dpi = figure.dpi, _RENDERED
    canvas.draw()
    figure.dpi = dpi
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    if not any(ax.images for ax in figure.axes):
        picture = picture.quantize(256)  # lines and text lose nothing by it, and the file is a third
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


def show(figure: Figure) -> None:
    """Display a figure with its alternative text, as a PNG in a cell's output.

    The bundle holds `image/png` and, for readers without pictures, `text/plain` with the alternative text; the
    metadata of `image/png` hold `alt` and the `width` in pixels at which a page shows it.
    """
    alt = str(figure.get_label())
    display(
        {"image/png": base64.b64encode(png(figure)).decode("ascii"), "text/plain": alt},
        raw=True,
        metadata={"image/png": {"alt": alt, "width": round(figure.get_figwidth() * _SHOWN)}},
    )


def _styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw in the study's style and leave the user's settings alone."""

    @wraps(draw)
    def styled(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with matplotlib.rc_context(_STYLE):
            figure = draw(*args, **kwargs)
            for ax in figure.axes:  # names of ticks are made only when asked for, and keep the settings of then
                ax.get_xticklabels(), ax.get_yticklabels()
        figure.set_label(_UNSEEN.sub(" ", str(figure.get_label())))
        return figure

    return styled


def _array(values: Any, name: str, shape: tuple[int | None, ...], meaning: str) -> np.ndarray:
    """Return a tensor or sequence as an array of `shape`, None being any size; `meaning` words the shape."""
    array = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
    if array.ndim != len(shape) or any(n not in (None, m) for n, m in zip(shape, array.shape, strict=True)):
        raise ValueError(f"{name} must be {meaning}, and has shape {list(array.shape)}")
    return array


def _pictures(values: Any, name: str) -> np.ndarray:
    """Return images as `[N, h, w, 3]`, uint8 or float in [0, 1], from `[N, 3, h, w]`."""
    images = _array(values, name, (None, 3, None, None), "images [N,3,s,s]")
    if len(images) == 0:
        raise ValueError(f"{name} holds no images: shape {list(images.shape)}")
    if images.dtype != np.uint8:
        if not (np.isfinite(images).all() and images.min() >= 0 and images.max() <= 1):
            raise ValueError(f"{name} must be uint8, or float from 0 to 1: {images.min():g} to {images.max():g}")
        images = images.astype(np.float32)
    return images.transpose(0, 2, 3, 1)


def _columns(table: pd.DataFrame, name: str, columns: Sequence[str]) -> None:
    missing = [column for column in columns if column not in table]
    if missing:
        raise ValueError(f"{name} lacks {', '.join(missing)}; it has {', '.join(map(str, table.columns))}")
    if len(table) == 0:
        raise ValueError(f"{name} has no rows")


def _finite(values: Any, name: str, shape: tuple[int | None, ...], meaning: str) -> np.ndarray:
    """Return numbers as an array of `shape`, of which none is NaN or infinite."""
    array = _array(values, name, shape, meaning).astype(float)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite numbers, and are {array.tolist()}")
    return array


def _bounds(estimate: Any, name: str) -> np.ndarray:
    return _finite(estimate, name, (3,), "three numbers, a value and its interval")


def _percent(fraction: float, digits: int = 1) -> str:
    return f"{100 * fraction:.{digits}f} %"


def _signed(value: float, digits: int = 0) -> str:
    """Write a number with its sign and a true minus; what rounds to zero has no sign."""
    value = round(value, digits)
    return f"{value:+,.{digits}f}".replace("-", "\N{MINUS SIGN}") if value else f"{0:.{digits}f}"


def _points(fraction: float) -> str:
    """Write a difference of fractions in percentage points."""
    return _signed(100 * fraction, 2)


def _p_value(p: float) -> str:
    """Write a p-value with three decimals, or four where three would hide on which side of 0.05 it lies."""
    text = f"{p:.4f}" if 0.0495 <= p < 0.0505 else f"{p:.3f}"
    return "< 0.001" if p < 0.001 else text


def _listed(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


@cache
def _drawable() -> frozenset[int]:
    """Return the characters that the figures' font has."""
    font = matplotlib.font_manager.findfont("DejaVu Sans")
    return frozenset(matplotlib.font_manager.get_font(font).get_charmap())


def _line(name: str) -> str:
    """Return a name as one line that the font can draw; a character that it lacks becomes its number, U+732B.

    Boxes in its place would make names alike, and another font would make figures differ between machines.
    """
    drawn = []
    for char in re.sub(r"[^\S\xa0]+", " ", unicodedata.normalize("NFC", name)):
        if char == "\xa0" or (char.isprintable() and ord(char) in _drawable()):
            drawn.append(char)
        elif unicodedata.category(char) not in ("Cc", "Cf") and not "\ufe00" <= char <= "\ufe0f":
            drawn.append(f"U+{ord(char):04X} ")  # what is left out shows nothing by itself
    return re.sub(" +", " ", "".join(drawn)).strip()


def _short(name: str, limit: int = 20) -> str:
    """Return a name as a line to be drawn, shortened in its middle: similar names often differ at the end."""
    name, end = _line(name), limit // 2 - 1
    return name if len(name) <= limit else f"{name[: limit - 1 - end]}…{name[-end:]}"


def _colour(name: str, default: str = _INK) -> str:
    """Return the colour of what `name` begins with ("Level 2, augmented" is level2's)."""
    key = "".join(c for c in name.lower() if c.isalnum())
    return next((colour for known, colour in COLOURS.items() if key.startswith(known)), default)


def _colours(names: Iterable[str]) -> list[str]:
    """Return a colour for each name: its own, or where it has none or another has it, one that is free."""
    names = list(names)
    own = [_colour(name, "") for name in names]
    own = [colour if colour not in own[:i] else "" for i, colour in enumerate(own)]
    palette = dict.fromkeys([*_CYCLE, *COLOURS.values()])
    free = cycle([colour for colour in palette if colour not in own] or palette)
    return [colour or next(free) for colour in own]


def _legible(colour: str) -> np.ndarray:
    """Darken a colour as far as text in it needs on white: a contrast of 4.5 to 1 (WCAG 2.1)."""
    rgb = np.array(to_rgb(colour))
    luminance = float(rgb**2.2 @ (0.2126, 0.7152, 0.0722))
    return rgb * min(1.0, (0.18 / luminance) ** (1 / 2.2)) if luminance else rgb


def _text_width(text: str, size: float, weight: str = "normal") -> float:
    """Return the width in inches of the widest line of `text` at `size` points."""
    prop = matplotlib.font_manager.FontProperties(family="DejaVu Sans", weight=weight)
    lines = [line for line in text.split("\n") if line.strip()]
    return max((TextPath((0, 0), line, size=size, prop=prop).get_extents().x1 for line in lines), default=0) / 72


def _spread(centres: Sequence[float] | np.ndarray, sizes: Sequence[float], low: float, high: float) -> np.ndarray:
    """Move labels of `sizes` as little as possible from `centres` so that none overlap, within [low, high].

    Least squares under order and distance is isotonic regression of the centres less the room before them.
    """
    order = np.argsort(centres, kind="stable")
    half = np.asarray(sizes, dtype=float)[order] / 2
    room = np.concatenate([[0.0], np.cumsum(half[:-1] + half[1:])])
    free = max(low + half[0], high - half[-1] - room[-1])
    placed = isotonic_regression(np.asarray(centres, float)[order] - room, y_min=low + half[0], y_max=free)
    out = np.empty(len(order))
    out[order] = placed + room
    return out


def _end_labels(
    ax: Axes, ends: Sequence[tuple[float, float, str, str]], *, at: float = 1.04, align: str = "left"
) -> None:
    """Label the ends of lines, `(x, y, text, colour)`, at `at` widths of `ax`, whose limits must be set."""
    (x0, x1), (y0, y1) = ax.get_xlim(), ax.get_ylim()
    line = 0.19 / (ax.figure.bbox.height / ax.figure.dpi - 1.0)  # a line's height in heights of `ax`, about
    ends = sorted(ends, key=lambda end: end[1])
    heights = [(y - y0) / (y1 - y0) for _, y, _, _ in ends]
    places = _spread(heights, [line * (1 + text.count("\n")) for _, _, text, _ in ends], 0.01, 1.06)
    for (x, _, text, colour), height, place in zip(ends, heights, places, strict=True):
        ax.plot(
            [(x - x0) / (x1 - x0), at],
            [height, place],
            color=colour,
            lw=0.8,
            alpha=0.5,
            transform=ax.transAxes,
            clip_on=False,
        )
        gap = 0.01 if align == "left" else -0.01
        ax.text(at + gap, place, text, color=_legible(colour), transform=ax.transAxes, va="center", ha=align)


def _percent_axis(axis: Axis, ticks: int = 6) -> None:
    """Label an axis of fractions in per cent, at round values."""
    axis.set_major_locator(MaxNLocator(ticks, steps=[1, 2, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.6g} %"))


def _signed_axis(axis: Axis, times: float = 1) -> None:
    """Label an axis with signed numbers, `times` its values, at round values."""
    axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda v, _: _signed(times * v, 6).rstrip("0").rstrip(".")))


def _accuracy_limits(
    values: Sequence[float] | np.ndarray, margin: float = 0.08, least: float = 0.02
) -> tuple[float, float]:
    """Return axis limits around accuracies: some room on both sides, never past what an accuracy can be."""
    low, high = min(values), max(values)
    room = max((high - low) * margin, (least - (high - low)) / 2, 0.002)
    return max(low - room, -0.02), min(high + room, 1 + room / 2)


def _interval(
    ax: Axes, y: float, bounds: Sequence[float] | np.ndarray, colour: str, *, filled: bool = True, **marker: Any
) -> None:
    """Draw a value and its interval, `(value, low, high)`, as a dot on a line at height `y`."""
    value, low, high = bounds
    ax.hlines(y, low, high, color=colour, lw=3, alpha=0.55)
    look: dict[str, Any] = {"marker": "o", "ms": 8, "mew": 1.6, "mfc": colour if filled else "white"} | marker
    ax.plot([value], [y], ls="none", color=colour, **look)


def _column(
    ax: Axes, inches: float, header: str, texts: Sequence[str], bold: Sequence[bool] | None = None
) -> None:
    """Write a column right of `ax`, a text for each row y = 0, 1, …, that ends `inches` from its edge.

    What is not bold is grey.
    """
    place: Any = {"textcoords": "offset points", "ha": "right"}
    ax.annotate(
        header, (1, 1), (72 * inches, 6), xycoords="axes fraction", va="baseline", color=_GREY, size=9.5, **place
    )
    for y, (text, strong) in enumerate(zip(texts, bold or [True] * len(texts), strict=True)):
        look: Any = {"weight": "bold"} if strong else {"color": _GREY}
        side = ax.get_yaxis_transform()
        ax.annotate(text, (1, y), (72 * inches, 0), xycoords=side, va="center_baseline", **look, **place)


def _difference_rows(ax: Axes, names: Sequence[str], bounds: np.ndarray, real: Sequence[bool]) -> None:
    """Draw differences `[R,3]` of fractions as dots on a scale of points with a line at zero.

    What is real is filled, blue above zero and orange below; the rest is hollow and grey.
    """
    low, high = min(bounds.min(), 0.0), max(bounds.max(), 0.0)
    room = max(0.05 * (high - low), 0.001)
    ax.set_xlim(low - room, high + room)
    ax.axvline(0, color=_INK, lw=1.2, zorder=1)
    for y, (row, filled) in enumerate(zip(bounds, real, strict=True)):
        colour = _GREY if not filled else _BETTER if row[0] > 0 else _WORSE
        _interval(ax, y, row, colour, filled=filled, ms=5.5)  # small: an interval must show on both sides of it
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.45, -0.55)
    ax.grid(axis="y", visible=False)
    _signed_axis(ax.xaxis, 100)


# --- Images ------------------------------------------------------------------------------------------------


def _page(width: float, height: float) -> tuple[Figure, Axes]:
    """Return a figure that is one blank sheet, measured in inches from its upper left corner."""
    figure = Figure(figsize=(width, height))
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, width), ylim=(height, 0))
    ax.axis("off")
    return figure, ax


def _put(ax: Axes, picture: np.ndarray, x: float, y: float, side: float, **options: Any) -> None:
    options = {"interpolation": "nearest"} | options
    ax.imshow(picture, extent=(x, x + side, y + side, y), aspect="auto", **options)


@_styled
def samples(images: Any, labels: Any, classes: Sequence[str], per_class: int = 8) -> Figure:
    """Show the first images of every class, a row for each.

    Args:
        images: `[N,3,s,s]`, uint8 or float from 0 to 1.
        labels: `[N]` indices into `classes`.
        classes: The names of the rows.
        per_class: Images in a row; a class that has fewer leaves the rest blank.
    """
    pictures = _pictures(images, "images")
    labels = _array(labels, "labels", (len(pictures),), f"[N] with N = {len(pictures)} as images")
    names = [_short(name) for name in classes]
    margin = max(_text_width(name, 10) for name in names) + 0.2
    side = min(0.7, (_WIDTH - margin) / per_class)
    figure, ax = _page(margin + side * per_class, side * len(names) + 0.06)
    shown = 0
    for row, name in enumerate(names):
        ax.text(margin - 0.1, (row + 0.5) * side + 0.03, name, ha="right", va="center")
        for column, index in enumerate(np.flatnonzero(labels == row)[:per_class]):
            _put(ax, pictures[index], margin + column * side, row * side + 0.03, side - 0.06)
            shown += 1
    figure.set_label(f"{shown} example images, a row for each of {len(names)} classes: {_listed(list(classes))}.")
    return figure


@_styled
def gallery(
    images: Any, titles: Sequence[str], *, columns: int = 6, correct: Sequence[bool] | None = None
) -> Figure:
    """Show images with captions beneath.

    Args:
        images: `[N,3,s,s]`, uint8 or float from 0 to 1.
        titles: N captions of one or two lines; where N is 0 the figure says that there are none.
        columns: Images in a row at most; long captions make it fewer.
        correct: N truth values; images that are not correct get a thick frame.
    """
    if len(images) == len(titles) == 0:
        figure, ax = _page(_WIDTH, 0.5)
        ax.text(0.1, 0.25, "There are none.", va="center", size=10.5)
        figure.set_label("No images: there are none to show.")
        return figure
    pictures = _pictures(images, "images")
    n = len(pictures)
    if len(titles) != n:
        raise ValueError(f"titles must be {n}, one for each image, and are {len(titles)}")
    if correct is not None:
        correct = _array(correct, "correct", (n,), f"[N] with N = {n} as images").astype(bool).tolist()
    titles = ["\n".join(_short(line, 28) for line in title.split("\n")) for title in titles]
    size = 9.5
    needed = max(_text_width(title, size) for title in titles) + 0.14
    columns = max(1, min(columns, n, int(_WIDTH / needed)))
    cell = max(min(_WIDTH / columns, 1.4), needed)
    side = min(cell - 0.14, 1.26)
    rows, lines = -(-n // columns), max(title.count("\n") + 1 for title in titles)
    height = side + 0.2 * lines + 0.14
    figure, ax = _page(cell * columns, rows * height + 0.06)
    for i, (picture, title) in enumerate(zip(pictures, titles, strict=True)):
        x, y = (i % columns) * cell + (cell - side) / 2, (i // columns) * height + 0.06
        _put(ax, picture, x, y, side)
        if correct is not None and not correct[i]:
            ax.add_patch(Rectangle((x, y), side, side, fill=False, ec=_WRONG, lw=3))
        ax.text(x + side / 2, y + side + 0.05, title, ha="center", va="top", size=size, linespacing=1.15)
    verdict = "" if correct is None else f", {int(np.sum(correct))} of them classified correctly"
    captions = "; ".join(title.replace("\n", ", ") for title in titles[:12]) + ("; …" if n > 12 else "")
    figure.set_label(f"{n} image{'s' if n > 1 else ''}{verdict}. Captions: {captions}.")
    return figure


@_styled
def augmentation(original: Any, augmented: Any) -> Figure:
    """Show one image beside what augmentation makes of it.

    Args:
        original: `[3,s,s]`, uint8 or float from 0 to 1.
        augmented: `[K,3,s,s]`, K draws.
    """
    first = _pictures(_array(original, "original", (3, None, None), "an image [3,s,s]")[None], "original")[0]
    draws = _pictures(augmented, "augmented")
    rows = 1 if len(draws) < 4 else 2
    columns = -(-len(draws) // rows)
    side = min(1.1, (_WIDTH - 0.25) / (columns + rows))
    figure, ax = _page(side * (columns + rows) + 0.25, side * rows + 0.34)
    _put(ax, first, 0.03, 0.3, side * rows - 0.06)
    ax.text(0.03, 0.24, "original", weight="bold", va="bottom")
    ax.text(side * rows + 0.25, 0.24, f"{len(draws)} draws" if side > 0.8 else "draws", weight="bold", va="bottom")
    for i, draw in enumerate(draws):
        x, y = side * (rows + i % columns) + 0.25, side * (i // columns) + 0.3
        _put(ax, draw, x, y, side - 0.06)
    figure.set_label(f"One image, and {len(draws)} random augmentations of it.")
    return figure


@_styled
def cams(
    images: Any, maps_by_model: Mapping[str, Any], captions: Sequence[str], *, masks: Any | None = None
) -> Figure:
    """Show where models look: a row for each image, then a column for each model's class activation map.

    Bright is important to the class, dark is not. Maps are interpolated to the image's size.

    Args:
        images: `[N,3,s,s]`, uint8 or float from 0 to 1.
        maps_by_model: A model's name and its maps `[N,h,w]`, from 0 to 1.
        captions: N texts, left of the rows.
        masks: bool `[N,s,s]`; the outline of the true object, drawn in white on the maps.
    """
    pictures = _pictures(images, "images")
    n = len(pictures)
    if len(captions) != n:
        raise ValueError(f"captions must be {n}, one for each image, and are {len(captions)}")
    if not maps_by_model:
        raise ValueError("maps_by_model is empty: give at least one model's maps")
    maps = {
        name: _array(m, f"maps of {name!r}", (n, None, None), f"[N,h,w] with N = {n} as images")
        for name, m in maps_by_model.items()
    }
    for name, m in maps.items():
        if not (np.isfinite(m).all() and m.min() >= 0 and m.max() <= 1):
            raise ValueError(f"maps of {name!r} must be from 0 to 1: {m.min():g} to {m.max():g}")
    if masks is not None:
        masks = _array(masks, "masks", (n, *pictures.shape[1:3]), f"{[n, *pictures.shape[1:3]]} as images")
    captions = [
        "\n".join(textwrap.fill(_short(line, 40), 20) for line in caption.split("\n")) for caption in captions
    ]
    margin = max(_text_width(caption, 10) for caption in captions) + 0.2
    names = [textwrap.fill(_line(name), 14) for name in maps]
    side = min(1.45, (_WIDTH - margin) / (1 + len(maps)))
    top = 0.12 + 0.19 * max(name.count("\n") + 1 for name in names)
    figure, ax = _page(margin + side * (1 + len(maps)), top + side * n)
    for column, name in enumerate(["image", *names]):
        x = margin + column * side + (side - 0.06) / 2
        ax.text(x, top - 0.06, name, ha="center", va="bottom", weight="bold")
    for row in range(n):
        y = top + row * side
        ax.text(margin - 0.1, y + (side - 0.06) / 2, captions[row], ha="right", va="center", linespacing=1.25)
        _put(ax, pictures[row], margin, y, side - 0.06)
        for column, m in enumerate(maps.values(), 1):
            x, inner = margin + column * side, side - 0.06
            _put(ax, pictures[row], x, y, inner)
            _put(ax, m[row], x, y, inner, interpolation="bilinear", cmap="inferno", vmin=0, vmax=1, alpha=0.6)
            if masks is not None and masks[row].any() and not masks[row].all():
                s = masks.shape[1:]
                grid = [start + inner * (np.arange(k) + 0.5) / k for start, k in ((x, s[1]), (y, s[0]))]
                outline = ax.contour(*grid, masks[row].astype(float), levels=[0.5], colors="white", linewidths=1.2)
                outline.set_path_effects([withStroke(linewidth=2.4, foreground="black", alpha=0.5)])
    outlined = "" if masks is None else ", with the outline of the object"
    look = f"where {_listed(list(maps))} look{'s' if len(maps) == 1 else ''}"
    said = "; ".join(caption.replace("\n", " ") for caption in captions)
    figure.set_label(f"{n} images and {look}, as heat maps laid over the image{outlined}: {said}.")
    return figure


# --- Training ----------------------------------------------------------------------------------------------


@_styled
def curves(history: pd.DataFrame, documented: DocumentedCurves | None = None, title: str = "") -> Figure:
    """Draw loss and accuracy over the epochs, training and validation.

    Args:
        history: A row an epoch; columns epoch, train_loss, train_accuracy, val_loss, val_accuracy.
        documented: The documents' accuracy curves, drawn in dashed grey.
        title: The figure's title.
    """
    _columns(history, "history", ["epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy"])
    epochs = history["epoch"].to_numpy()
    figure = Figure(figsize=(_WIDTH, 3.1 if title else 2.9), layout="constrained")
    loss, accuracy = figure.subplots(1, 2)
    if title:
        figure.suptitle(title, x=0.01, ha="left", size=11, weight="bold")
    theirs: dict[str, np.ndarray] = {}
    if documented is not None:
        theirs = {"train": np.array(documented.train_accuracy), "val": np.array(documented.val_accuracy)}
    drawn: dict[Axes, list[tuple[float, float, str, str]]] = {loss: [], accuracy: []}
    for part, points in theirs.items():
        x, y = points[:, 0], points[:, 1]
        accuracy.plot(x, y, color=_GREY, lw=1.3, ls="--", marker="." if len(x) < 4 else None)
        drawn[accuracy].append((x[-1], y[-1], f"doc. {part} {_percent(y[-1])}", _GREY))
    for ax, what in ((loss, "loss"), (accuracy, "accuracy")):
        for part in ("train", "val"):
            y = history[f"{part}_{what}"].to_numpy()
            ax.plot(epochs, y, color=COLOURS[part], marker="o" if len(epochs) <= 20 else None)
            value = _percent(y[-1]) if what == "accuracy" else f"{y[-1]:.3f}"
            drawn[ax].append((epochs[-1], y[-1], f"{part} {value}", COLOURS[part]))
    for ax, what in ((loss, "Loss"), (accuracy, "Accuracy")):
        ax.set_title(what)
        ax.set_xlabel("epoch")
        every = np.concatenate([line.get_xydata() for line in ax.lines])
        first, last = every[:, 0].min(), every[:, 0].max()
        pad = max((last - first) * 0.04, 0.1)
        ax.set_xlim(first - pad, last + pad)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, nbins=6))
        if what == "Accuracy":
            ax.set_ylim(_accuracy_limits(every[:, 1]))
            _percent_axis(ax.yaxis)
        else:
            ax.set_ylim(ax.get_ylim())  # keeps what follows from widening it
        _end_labels(ax, drawn[ax])
    last, plural = history.iloc[-1], "s" if len(history) > 1 else ""
    text = (
        f"{title + ': ' if title else ''}loss and accuracy over {len(history)} epoch{plural}. "
        f"Training ends at {_percent(last['train_accuracy'])} accuracy and a loss of "
        f"{last['train_loss']:.3f}, validation at {_percent(last['val_accuracy'])} and "
        f"{last['val_loss']:.3f}."
    )
    for part, points in theirs.items():
        words = "training" if part == "train" else "validation"
        text += f" The documents' {words} accuracy ends at {_percent(points[-1, 1])}, epoch {points[-1, 0]:.0f}."
    figure.set_label(text[0].upper() + text[1:])
    return figure


@_styled
def validation(histories: Mapping[str, pd.DataFrame], *, width: float = _WIDTH) -> Figure:
    """Draw the validation accuracy of several trainings over their epochs, each named at its line's end.

    Args:
        histories: Name and history of each training, a row an epoch; columns epoch and val_accuracy (a fraction).
        width: The figure's width in inches.
    """
    if not histories:
        raise ValueError("histories is empty: give at least one training")
    for name, history in histories.items():
        _columns(history, f"the history of {name!r}", ["epoch", "val_accuracy"])
    figure = Figure(figsize=(width, 3.3), layout="constrained")
    ax = figure.subplots()
    ends, said = [], []
    for (name, history), colour in zip(histories.items(), _colours(histories), strict=True):
        x, y = history["epoch"].to_numpy(), history["val_accuracy"].to_numpy()
        ax.plot(x, y, color=colour, marker="o" if len(x) <= 20 else None)
        ends.append((x[-1], y[-1], f"{_short(name)} {_percent(y[-1])}", colour))
        said.append(f"{name} from {_percent(y[0])} to {_percent(y[-1])} in {len(x)} epoch{'s' * (len(x) > 1)}")
    every = np.concatenate([line.get_xydata() for line in ax.lines])
    first, last = every[:, 0].min(), every[:, 0].max()
    pad = max((last - first) * 0.03, 0.1)
    ax.set_xlim(first - pad, last + pad)
    ax.set_ylim(_accuracy_limits(every[:, 1]))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    _percent_axis(ax.yaxis)
    ax.set(xlabel="epoch", ylabel="validation accuracy")
    _end_labels(ax, ends)
    figure.set_label(f"Validation accuracy over the epochs: {'; '.join(said)}.")
    return figure


@_styled
def ablation(
    cells: Mapping[tuple[bool, bool], tuple[float, float, float]],
    extra: tuple[str, float] | None = None,
    effects: FactorialEffects | None = None,
) -> Figure:
    """Draw a two-by-two ablation as an interaction plot: the effects add up where the lines are parallel.

    Beneath stand the main effects and their interaction, if given; hollow is one whose interval contains zero.

    Args:
        cells: `(augment, finetune)` and its `(accuracy, low, high)`, fractions; cells may be missing.
        extra: A name and an accuracy to set beside the cell that is frozen and not augmented.
        effects: Of augmentation (first) and of fine-tuning (second), with their interaction.
    """
    if not cells or not set(cells) <= {(a, f) for a in (False, True) for f in (False, True)}:
        raise ValueError(f"cells must have keys (augment, finetune), both true or false, and have {list(cells)}")
    heights = [3.4] if effects is None else [3.4, 1.95]
    figure = Figure(figsize=(_WIDTH, sum(heights)), layout="constrained")
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    ax = parts[0].subplots()
    values = [v for cell in cells.values() for v in cell] + ([extra[1]] if extra else [])
    ax.set_ylim(_accuracy_limits(values))
    ax.set_xlim(-0.5, 1.5)  # a quarter of the width on each side is for labels
    ends: dict[bool, list[tuple[float, float, str, str]]] = {False: [], True: []}
    said = []
    for augment, colour, marker, words in (
        (True, _RIGHT, "o", "augmented"),
        (False, "#5E5E5E", "s", "not augmented"),
    ):
        there = [f for f in (False, True) if (augment, f) in cells]
        x = [float(f) + (0.015 if augment else -0.015) for f in there]  # so that intervals do not hide each other
        points = np.array([cells[augment, f] for f in there], dtype=float).reshape(-1, 3)
        ax.vlines(x, points[:, 1], points[:, 2], color=colour, lw=2, alpha=0.45)
        ax.plot(x, points[:, 0], color=colour, marker=marker, markersize=6.5)
        for at, finetune, point in zip(x, there, points, strict=True):
            ends[finetune].append((at, point[0], f"{words}\n{_percent(point[0], 2)}", colour))
            said.append(
                f"{'layer4 fine-tuned' if finetune else 'frozen'} and {words} {_percent(point[0], 2)} "
                f"({_percent(point[1], 2)} to {_percent(point[2], 2)})"
            )
    if extra:
        ax.plot([0], [extra[1]], ls="none", marker="D", color=_GREY, markerfacecolor="white", markersize=7)
        ends[False].append((0, extra[1], f"{textwrap.fill(_line(extra[0]), 16)}\n{_percent(extra[1], 2)}", _GREY))
        said.append(f"{extra[0]} {_percent(extra[1], 2)}")
    for finetune, labels in ends.items():
        if labels:
            _end_labels(ax, labels, at=0.79 if finetune else 0.21, align="left" if finetune else "right")
    ax.set_xticks([0, 1], ["frozen", "layer4 fine-tuned"])
    ax.grid(axis="x", visible=False)
    ax.set_ylabel("test accuracy, 95 % interval")
    _percent_axis(ax.yaxis)
    alt = f"Test accuracy with and without augmentation and fine-tuning: {'; '.join(said)}."
    if effects is not None:
        alt += " " + _effects(parts[1].subplots(), effects)
    figure.set_label(alt)
    return figure


def _effects(ax: Axes, effects: FactorialEffects) -> str:
    """Draw the effects of a two-by-two design and return what they are."""
    names = ("augmentation", "fine-tuning", "interaction")
    three = (effects.first, effects.second, effects.interaction)
    bounds = np.array([_bounds(each, f"the effect {name}") for name, each in zip(names, three, strict=True)])
    real = [bool(low > 0 or high < 0) for _, low, high in bounds]
    _difference_rows(ax, names, bounds, real)
    ax.set_title("Main effects and interaction")
    ax.set_xlabel("points of accuracy, 95 % interval; hollow: contains 0")
    spans = [f"{_points(low)} to {_points(high)}" for _, low, high in bounds]
    _column(ax, 0.66, "points", [_points(value) for value in bounds[:, 0]], real)
    _column(ax, 2.0, "95 % interval", spans, [False] * 3)
    said = [f"{name} {_points(row[0])} ({span})" for name, row, span in zip(names, bounds, spans, strict=True)]
    return f"Main effects and interaction in points, with 95 % interval: {'; '.join(said)}."


# --- Classes -----------------------------------------------------------------------------------------------


def _heatmap(
    colour: np.ndarray, text: np.ndarray, classes: Sequence[str], title: str, legend: str, **options: Any
) -> Figure:
    """Draw a table of classes by classes; `legend` says what colour means."""
    names = [_short(name) for name in classes]
    count, longest = len(names), max(_text_width(name, 10) for name in names)
    cell = float(np.clip(5.4 / count, 0.36, 0.9))
    side = cell * count
    flat = max(_text_width(name, 10) for name in names) < cell - 0.05
    figure = Figure(
        figsize=(
            max(side + longest + 0.6, 4.2),
            side + (0.15 if flat else longest) + (1.0 if title else 0.7),
        ),
        layout="constrained",
    )
    ax = figure.subplots()
    characters = max((len(t) for t in text.flat), default=1)
    size = min(10.0, (cell * 72 - 3) / (0.62 * max(characters, 1)))
    sns.heatmap(
        colour,
        ax=ax,
        annot=text if size >= 5 else False,
        fmt="",
        annot_kws={"size": size},
        square=True,
        cbar=False,
        linewidths=0.6,
        linecolor="#F2F2F2",
        xticklabels=names,
        yticklabels=names,
        **options,
    )
    ax.tick_params(axis="x", rotation=0 if flat else 90)
    ax.tick_params(axis="y", rotation=0)
    ax.set(xlabel=f"predicted class\n{legend}", ylabel="true class")
    if title:
        figure.suptitle(title, x=0.01, ha="left", size=11, weight="bold")
    return figure


def _confusion_matrix(matrix: Any, name: str, classes: Sequence[str]) -> np.ndarray:
    n = len(classes)
    counts = _array(matrix, name, (n, n), f"[C,C] with C = {n} as classes")
    if not np.issubdtype(counts.dtype, np.integer) or counts.min() < 0:
        raise ValueError(f"{name} must hold counts, integers of at least 0: {counts.dtype}, least {counts.min()}")
    return counts


@_styled
def confusion(matrix: Any, classes: Sequence[str], title: str = "") -> Figure:
    """Draw a confusion matrix: counts printed, colour by the share of the true class on a square-root scale.

    The square root lets errors of one per cent be seen beside a diagonal of 95.

    Args:
        matrix: Integers `[C,C]`, true class by predicted class.
        classes: C names.
        title: The figure's title.
    """
    counts = _confusion_matrix(matrix, "matrix", classes)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    text = np.where(counts > 0, counts.astype(str), "")
    figure = _heatmap(
        share,
        text,
        classes,
        title,
        "darker: greater share of the true class",
        cmap="Blues",
        norm=PowerNorm(0.5, vmin=0, vmax=1),
    )
    total, right = int(counts.sum()), int(np.trace(counts))
    errors = counts - np.diag(np.diag(counts))
    worst = [divmod(int(i), len(classes)) for i in np.argsort(-errors, axis=None, kind="stable")[:3]]
    named = [f"{classes[i]} taken for {classes[j]} {errors[i, j]} times" for i, j in worst if errors[i, j]]
    figure.set_label(
        f"{title + ': c' if title else 'C'}onfusion matrix of {len(classes)} classes. {right} of {total} "
        f"images ({_percent(right / max(total, 1))}) are on the diagonal, classified correctly. "
        + (f"Most frequent errors: {_listed(named)}." if named else "There are no errors.")
    )
    return figure


@_styled
def confusion_difference(a: Any, b: Any, classes: Sequence[str], names: Sequence[str]) -> Figure:
    """Draw what changes from one model's confusion matrix to another's on the same images.

    Numbers are `b - a`. Blue is better for `b`, on the diagonal more and elsewhere fewer; orange is worse.

    Args:
        a: Integers `[C,C]`, true class by predicted class.
        b: The same for the other model.
        classes: C names.
        names: The names of the two models.
    """
    first, second = _confusion_matrix(a, "a", classes), _confusion_matrix(b, "b", classes)
    if len(names) != 2:
        raise ValueError(f"names must be two, of a and b, and are {list(names)}")
    if (first.sum(axis=1) != second.sum(axis=1)).any():
        raise ValueError(
            "a and b must count the same images: their rows add up to "
            f"{first.sum(axis=1).tolist()} and {second.sum(axis=1).tolist()}"
        )
    change = second.astype(np.int64) - first
    better = np.where(np.eye(len(classes), dtype=bool), change, -change)
    text = np.array([[f"{v:+d}".replace("-", "\N{MINUS SIGN}") if v else "" for v in row] for row in change])
    limit = max(int(np.abs(change).max()), 1)
    figure = _heatmap(
        better,
        text,
        classes,
        f"{_line(names[1])} less {_line(names[0])}",
        f"blue: better in {_line(names[1])}, orange: worse",
        cmap=_BETTER_WORSE,
        vmin=-limit,
        vmax=limit,
    )
    gained = int(np.trace(change))
    i, j = divmod(int(np.argmax(np.abs(change - np.diag(np.diag(change))))), len(classes))
    figure.set_label(
        f"Change of the confusion matrix from {names[0]} to {names[1]}: {gained:+d} images correct of "
        f"{int(first.sum())}. "
        + (
            f"Greatest change of an error: {classes[i]} taken for {classes[j]}, {change[i, j]:+d}."
            if i != j
            else ""
        )
    )
    return figure


@_styled
def per_class(
    report: pd.DataFrame,
    documented: Mapping[str, tuple[float, float, float]] | None = None,
    *,
    by_f1: bool = True,
) -> Figure:
    """Draw precision, recall and F1 of every class as dots.

    Args:
        report: Index class names; columns precision, recall, f1 (fractions) and support. The row
            "macro average" is left out.
        documented: Class name and its documented `(precision, recall, f1)`, drawn as hollow diamonds.
        by_f1: Best F1 on top; otherwise the order of the rows.
    """
    measures = ["precision", "recall", "f1"]
    _columns(report, "report", [*measures, "support"])
    table = report.drop(index="macro average", errors="ignore")
    if by_f1:
        table = table.sort_values("f1", ascending=False, kind="stable")
    names = [str(name) for name in table.index]
    theirs = {name: documented[name] for name in names if name in documented} if documented else {}
    figure = Figure(figsize=(_WIDTH, 0.27 * len(names) + 1.15), layout="constrained")
    rows = np.arange(len(names))
    every = [*table[measures].to_numpy().flat, *(v for row in theirs.values() for v in row)]
    for k, (ax, measure) in enumerate(zip(figure.subplots(1, 3, sharey=True), measures, strict=True)):
        if theirs:
            at = [names.index(name) for name in theirs]
            ax.plot(
                [row[k] for row in theirs.values()],
                at,
                ls="none",
                marker="D",
                ms=7,
                mfc="white",
                mec=_GREY,
                label="documented",
            )
        ax.plot(table[measure], rows, ls="none", marker="o", ms=6, color=COLOURS["test"], label="measured")
        ax.set_title({"f1": "F1"}.get(measure, measure.capitalize()))
        ax.set_xlim(_accuracy_limits(every))
        _percent_axis(ax.xaxis, 3)
        ax.set_ylim(len(names) - 0.4, -0.6)
    ax.set_yticks(rows, [_short(name) for name in names])
    for row, value in enumerate(table["f1"]):
        ax.text(1.04, row, _percent(value), transform=ax.get_yaxis_transform(), va="center")
    if theirs:
        figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    best, worst = table["f1"].idxmax(), table["f1"].idxmin()
    figure.set_label(
        f"Precision, recall and F1 of {len(names)} classes, {int(table['support'].sum())} images. "
        f"Highest F1: {best} {_percent(table['f1'].max())}; lowest: {worst} {_percent(table['f1'].min())}."
        + (f" The documents' F1 of {worst} is {_percent(theirs[worst][2])}." if worst in theirs else "")
    )
    return figure


# --- Models side by side -----------------------------------------------------------------------------------


def _accuracy_rows(ax: Axes, rows: Sequence[Mapping[str, Any]]) -> str:
    """Draw models' accuracies with their intervals, one below the other, and return what they say."""
    if not rows:
        raise ValueError("rows is empty: give at least one model")
    for row in rows:
        if not {"name", "accuracy", "low", "high"} <= set(row):
            raise ValueError(f"a row needs name, accuracy, low and high, and has {', '.join(row)}")
        _bounds([row["accuracy"], row["low"], row["high"]], f"accuracy, low and high of {row['name']!r}")
    values = [row[k] for row in rows for k in ("accuracy", "low", "high")]
    values += [row["documented"] for row in rows if row.get("documented") is not None]
    ax.set_xlim(_accuracy_limits(values))
    said = []
    for y, row in enumerate(rows):
        theirs, colour = row.get("documented"), _colour(row["name"])
        if theirs is not None:
            ax.plot([theirs], [y], ls="none", marker="D", ms=12, mfc="none", mec=_GREY, mew=1.3, zorder=4)
        _interval(ax, y, (row["accuracy"], row["low"], row["high"]), colour, ms=6)
        side = ax.get_yaxis_transform()
        if theirs is None:
            ax.text(1.03, y, _percent(row["accuracy"], 2), transform=side, va="center_baseline", weight="bold")
        else:
            ax.text(1.03, y - 0.02, _percent(row["accuracy"], 2), transform=side, va="bottom", weight="bold")
            ax.text(1.03, y + 0.05, f"doc. {_percent(theirs, 2)}", transform=side, va="top", color=_GREY, size=9)
        said.append(
            f"{row['name']} {_percent(row['accuracy'], 2)} "
            f"({_percent(row['low'], 2)} to {_percent(row['high'], 2)})"
            + (f", documented {_percent(theirs, 2)}" if theirs is not None else "")
        )
    ax.set_yticks(
        range(len(rows)),
        ["\n".join(textwrap.fill(_line(line), 24) for line in row["name"].split("\n")) for row in rows],
    )
    ax.set_ylim(len(rows) - 0.45, -0.55)
    ax.grid(axis="y", visible=False)
    _percent_axis(ax.xaxis)
    hollow = "; hollow: documented" if len(values) > 3 * len(rows) else ""
    ax.set_xlabel(f"test accuracy, 95 % interval{hollow}")
    return ("Test accuracy with 95 % interval: " + "; ".join(said)).replace("\n", " ") + "."


@_styled
def forest(
    rows: Sequence[Mapping[str, Any]], comparisons: Sequence[Mapping[str, Any]], *, width: float = _WIDTH
) -> Figure:
    """Draw which differences between models are real: accuracies above, their paired differences below.

    A difference is filled where its p-value, of the exact McNemar test with Holm's correction over all pairs, is
    below 0.05, and hollow where it is not. Beside it stand its points, the images gained and that p-value.

    Args:
        rows: A model each: name, accuracy, low, high (fractions; the 95 % interval) and, where there is one,
            documented, drawn as a hollow diamond.
        comparisons: Each a row of `evaluation.compare`: model, over (names), difference, low, high (fractions;
            the 95 % interval), images (net gain) and p_holm. May be empty where there is one model.
        width: The figure's width in inches.
    """
    needed = ("model", "over", "difference", "low", "high", "images", "p_holm")
    for row in comparisons:
        if not set(needed) <= set(row):
            raise ValueError(f"a comparison needs {_listed(needed)}, and has {', '.join(map(str, row))}")
    names = []
    for row in comparisons:
        model, over = _short(str(row["model"]), 24), _short(str(row["over"]), 24)
        flat = f"{model} \N{MINUS SIGN} {over}"
        names.append(flat if _text_width(flat, 10) < 1.9 else f"{model}\n\N{MINUS SIGN} {over}")
    height = 0.42 if any("\n" in name for name in names) else 0.34
    heights = [0.52 * len(rows)] + ([height * len(names)] if names else [])
    apart = ConstrainedLayoutEngine(h_pad=0.09)
    figure = Figure(figsize=(width, sum(heights) + 1.2 * len(heights)), layout=apart)
    axes = figure.subplots(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    alt = _accuracy_rows(axes[0], rows)
    axes[0].set_title("Accuracy")
    _percent_axis(axes[0].xaxis, 4 if width >= _WIDTH else 2)
    if names:
        alt += " " + _comparison_rows(axes[1], names, comparisons)
        if width < _WIDTH:
            axes[1].xaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10]))
    figure.set_label(alt)
    return figure


def _comparison_rows(ax: Axes, names: Sequence[str], comparisons: Sequence[Mapping[str, Any]]) -> str:
    """Draw the paired differences of `forest` and return what they are."""
    keys = ("difference", "low", "high", "p_holm")
    numbers = np.array(
        [
            _finite([row[key] for key in keys], f"the numbers of {row['model']} over {row['over']}", (4,), "four")
            for row in comparisons
        ]
    )
    real = (numbers[:, 3] < 0.05).tolist()
    _difference_rows(ax, names, numbers[:, :3], real)
    ax.set_title("Paired differences")
    ax.set_xlabel("difference in points, 95 % interval\nfilled: Holm-adjusted p < 0.05; hollow: not")
    points = [_points(row[0]) for row in numbers]
    images = [_signed(int(row["images"])) for row in comparisons]
    p_values = [_p_value(row[3]) for row in numbers]
    _column(ax, 0.68, "points", points, real)
    _column(ax, 1.32, "images", images, real)
    _column(ax, 2.02, "p (Holm)", p_values, real)
    said = [
        f"{row['model']} less {row['over']} {points[i]} ({_points(numbers[i, 1])} to {_points(numbers[i, 2])}), "
        f"{images[i]} images, p {p_values[i] if p_values[i].startswith('<') else '= ' + p_values[i]}"
        for i, row in enumerate(comparisons)
    ]
    text = (
        f"{sum(real)} of {len(real)} paired differences have a p-value below 0.05 (McNemar's test, Holm's "
        f"correction). In points, with 95 % interval: {'; '.join(said)}."
    )
    return text.replace("\n", " ")


@_styled
def reliability(bins: Mapping[str, ReliabilityBins]) -> Figure:
    """Draw accuracy against confidence, and how many images have that confidence.

    On the diagonal a model is right as often as it says; below, it is overconfident. ECE, the expected calibration
    error, is the mean distance from the diagonal over the images (Guo et al. 2017).

    Args:
        bins: A model's name and its bins; those that hold no images are left out.
    """
    if not bins:
        raise ValueError("bins is empty: give at least one model's bins")
    figure = Figure(figsize=(5.2, 5.0), layout="constrained")
    top, below = figure.subplots(2, 1, sharex=True, height_ratios=(3.4, 1))
    top.plot([0, 1], [0, 1], color=_GREY, lw=1.2, ls="--")
    said = []
    for i, ((name, each), colour) in enumerate(zip(bins.items(), _colours(bins), strict=True)):
        counts = _array(each.counts, f"counts of {name!r}", (None,), "[B]")
        wanted = (len(counts),), f"[B] with B = {len(counts)} as counts"
        confidence = _array(each.confidence, f"confidence of {name!r}", *wanted)[counts > 0]
        right = _array(each.accuracy, f"accuracy of {name!r}", *wanted)[counts > 0]
        if not counts.any():
            raise ValueError(f"the bins of {name!r} hold no images")
        error = float(np.average(np.abs(right - confidence), weights=counts[counts > 0]))
        label = f"{_line(name)}, ECE {_percent(error)}"
        top.plot(confidence, right, color=colour, marker="os^Dv<"[i % 6], label=label)
        edges = np.linspace(0, 1, len(counts) + 1)
        below.stairs(counts, edges, color=colour, lw=1.6, fill=len(bins) == 1)
        said.append(f"{name} has an expected calibration error of {_percent(error)}")
    top.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="accuracy")
    top.legend(loc="upper left")
    below.set(xlabel="confidence", ylabel="images")
    below.yaxis.set_major_locator(MaxNLocator(3, integer=True, prune="lower"))
    _percent_axis(top.yaxis)
    _percent_axis(below.xaxis)
    figure.set_label(f"Accuracy against confidence; on the diagonal the two agree. {'; '.join(said)}.")
    return figure


@_styled
def risk_coverage(curves: Mapping[str, RiskCoverageCurve]) -> Figure:
    """Draw the error rate among the images a model is most confident of, against their share of all.

    A model that knows when it is wrong has a curve that stays low and rises late. AURC is the area beneath
    (Geifman and El-Yaniv 2017). The axis ends at the highest risk beyond a coverage of 10 %: among fewer images a
    single error makes a spike.

    Args:
        curves: A model's name and its curve.
    """
    if not curves:
        raise ValueError("curves is empty: give at least one model's")
    figure = Figure(figsize=(_WIDTH, max(3.4, 0.42 * len(curves) + 1.0)), layout="constrained")
    ax = figure.subplots()
    highest, ends, said = 0.0, [], []
    for (name, curve), colour in zip(curves.items(), _colours(curves), strict=True):
        coverage = _finite(curve.coverage, f"coverage of {name!r}", (None,), "[K]")
        wanted = (len(coverage),), f"[K] with K = {len(coverage)} as coverage"
        risk = _finite(curve.risk, f"risk of {name!r}", *wanted)
        if len(coverage) == 0:
            raise ValueError(f"the curve of {name!r} has no points")
        ax.plot(coverage, risk, color=colour, lw=1.8, marker="o" if len(coverage) == 1 else None)
        highest = max(highest, risk[coverage >= min(0.1, coverage[-1])].max())
        ends.append((coverage[-1], risk[-1], f"{_short(name, 24)}\nAURC {curve.area:.4f}", colour))
        said.append(f"{name} {_percent(risk[-1])} of all images, AURC {curve.area:.4f}")
    ax.set(xlim=(0, 1), ylim=(-0.02 * max(highest, 0.01), 1.05 * max(highest, 0.01)))
    ax.set(xlabel="coverage: the most confident share of the images", ylabel="risk: error rate among them")
    _percent_axis(ax.xaxis)
    _percent_axis(ax.yaxis)
    _end_labels(ax, ends)
    figure.set_label(f"Error rate against coverage, the most confident images first: {'; '.join(said)}.")
    return figure


@_styled
def vote_weights(weights: Any, val_nll: Any, chosen: float, equal: float = 0.5) -> Figure:
    """Draw how the validation NLL of two members' soft vote depends on their weights.

    Args:
        weights: `[W]` weights of the first member, rising, from 0 to 1; the second has the rest.
        val_nll: `[W]` mean NLL of the vote on the validation images.
        chosen: The weight that was fitted there.
        equal: The weight to compare it with.
    """
    x = _finite(weights, "weights", (None,), "[W]")
    y = _finite(val_nll, "val_nll", (len(x),), f"[W] with W = {len(x)} as weights")
    if len(x) < 2 or (np.diff(x) <= 0).any() or x[0] < 0 or x[-1] > 1:
        raise ValueError(f"weights must be at least two, rise, and be from 0 to 1: {x.tolist()}")
    for name, weight in (("chosen", chosen), ("equal", equal)):
        if not x[0] <= weight <= x[-1]:
            raise ValueError(f"{name} must lie among the weights, {x[0]:g} to {x[-1]:g}, and is {weight}")
    figure = Figure(figsize=(_WIDTH, 3.3), layout="constrained")
    ax = figure.subplots()
    ax.plot(x, y, color=COLOURS["val"], marker="o" if len(x) <= 25 else None)
    room = max(0.06 * (x[-1] - x[0]), 0.01)
    ax.set_xlim(x[0] - room, x[-1] + room)
    pad = max(0.08 * (y.max() - y.min()), 5e-4)
    ax.set_ylim(y.min() - pad, y.max() + pad)
    ax.yaxis.set_major_locator(MaxNLocator(5))
    marks = {"chosen": (chosen, _RIGHT), "equal": (equal, _GREY)}
    heights = [float(np.interp(weight, x, y)) for weight, _ in marks.values()]
    labels = [
        f"{name} {weight:.2f}\nNLL {height:.4f}"
        for (name, (weight, _)), height in zip(marks.items(), heights, strict=True)
    ]
    across = [(weight - x[0] + room) / (x[-1] - x[0] + 2 * room) for weight, _ in marks.values()]
    wide = _WIDTH - 1.0  # inches of `ax`, about
    places = _spread(across, [(_text_width(label, 10, "bold") + 0.2) / wide for label in labels], 0, 1)
    for i, (weight, colour) in enumerate(marks.values()):
        ax.axvline(weight, color=colour, lw=1.4, ls="--", zorder=1)
        ax.plot([across[i], places[i]], [1, 1.05], color=colour, lw=1.4, transform=ax.transAxes, clip_on=False)
        ax.plot([weight], [heights[i]], marker="D", ms=8, color=colour, mec="white", zorder=4)
        look: Any = {"color": _legible(colour), "weight": "bold", "ha": "center", "va": "bottom"}
        ax.text(places[i], 1.06, labels[i], transform=ax.transAxes, **look)
    ax.set(xlabel="weight of the first member (0: the second alone, 1: the first alone)", ylabel="validation NLL")
    figure.set_label(
        f"Validation NLL of the soft vote against the first member's weight: {y[0]:.4f} at {x[0]:g}, {y[-1]:.4f} "
        f"at {x[-1]:g}. The chosen weight is {chosen:.2f} with {heights[0]:.4f}; equal weights ({equal:g}) have "
        f"{heights[1]:.4f}."
    )
    return figure


def _name_points(figure: Figure, ax: Axes, x: Sequence[float], y: Sequence[float], names: Sequence[str]) -> None:
    """Write names beside points, each where it covers least of the points, the other names and the margin."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()  # settles the layout, which the places depend on
    inside = ax.get_window_extent(renderer)
    taken = [Bbox.from_bounds(a - 6, b - 6, 12, 12) for a, b in ax.transData.transform(np.column_stack([x, y]))]
    for a, b, name in zip(x, y, names, strict=True):
        text = ax.annotate(name, (a, b), textcoords="offset points", xytext=(0, 0), in_layout=False)
        boxes = []
        for dx, dy, ha, va in _PLACES:
            text.set(position=(dx, dy), ha=ha, va=va)
            boxes.append(text.get_window_extent(renderer))
        covered = [sum(_overlap(box, other) for other in taken) for box in boxes]
        outside = [box.width * box.height - _overlap(box, inside) for box in boxes]
        best = int(np.argmin(np.round(covered) + 3 * np.round(outside)))  # the first of equals
        dx, dy, ha, va = _PLACES[best]
        text.set(position=(dx, dy), ha=ha, va=va)
        taken.append(boxes[best])


def _overlap(a: Bbox, b: Bbox) -> float:
    """Return the area that two boxes share."""
    shared = Bbox.intersection(a, b)
    return shared.width * shared.height if shared else 0.0


@_styled
def cost(rows: Sequence[Mapping[str, Any]], *, width: float = _WIDTH) -> Figure:
    """Draw accuracy against what it costs.

    Args:
        rows: Each with name, accuracy (a fraction) and the cost: all have seconds, or all have
            parameters (the trained ones).
        width: The figure's width in inches.
    """
    kind = next((k for k in ("seconds", "parameters") if rows and all(k in row for row in rows)), None)
    if kind is None or not all({"name", "accuracy"} <= set(row) for row in rows):
        raise ValueError(
            "rows need name, accuracy and either seconds or parameters, the same for all: "
            f"{[', '.join(row) for row in rows]}"
        )
    figure = Figure(figsize=(width, 3.6), layout="constrained")
    ax = figure.subplots()
    x, y = [float(row[kind]) for row in rows], [float(row["accuracy"]) for row in rows]
    colours = [_colour(row["name"], _CYCLE[i % len(_CYCLE)]) for i, row in enumerate(rows)]
    ax.scatter(x, y, s=70, color=colours, zorder=3)
    if min(x) > 0 and max(x) > 5 * min(x):
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.xaxis.set_minor_locator(NullLocator())
    ax.margins(x=0.12)
    ax.set_ylim(_accuracy_limits(y, margin=0.18))
    _percent_axis(ax.yaxis)
    ax.set(
        ylabel="test accuracy",
        xlabel={"seconds": "training time in seconds", "parameters": "trained parameters"}[kind],
    )
    ax.xaxis.set_major_formatter(EngFormatter(sep=" ") if kind == "parameters" else FuncFormatter("{:,g}".format))
    _name_points(figure, ax, x, y, [row["name"] for row in rows])
    said = [f"{row['name']} {_percent(b, 2)} at {a:,.0f} {kind}" for row, a, b in zip(rows, x, y, strict=True)]
    figure.set_label(f"Test accuracy against {kind}: {'; '.join(said)}.")
    return figure


@_styled
def who_corrects(both_right: int, only_a: int, only_b: int, both_wrong: int, names: Sequence[str]) -> Figure:
    """Draw how two models share their errors, as one bar of all images.

    Args:
        both_right: Images that both classify correctly.
        only_a: Images that only the first classifies correctly.
        only_b: Images that only the second classifies correctly.
        both_wrong: Images that neither does.
        names: The names of the two models.
    """
    counts = np.array([both_right, only_a, only_b, both_wrong])
    if len(names) != 2:
        raise ValueError(f"names must be two and are {list(names)}")
    if counts.min() < 0 or counts.sum() == 0:
        raise ValueError(f"counts must be at least 0 and not all 0, and are {counts.tolist()}")
    total, (a, b) = int(counts.sum()), [textwrap.fill(_line(name), 16) for name in names]
    words = ["both right", f"only\n{a}\nright", f"only\n{b}\nright", "both wrong"]
    labels = [f"{n:,}\n{_percent(n / total)}\n{word}" for n, word in zip(counts, words, strict=True)]
    figure, ax = _page(_WIDTH, 0.75 + 0.2 * max(label.count("\n") + 1 for label in labels))
    width = _WIDTH - 0.2
    edges = 0.1 + width * np.concatenate([[0], np.cumsum(counts)]) / total
    centres = (edges[:-1] + edges[1:]) / 2
    places = _spread(centres, [_text_width(label, 10) + 0.15 for label in labels], 0.05, _WIDTH - 0.05)
    fills = ("#DADADA", _colour(names[0], "#CC79A7"), _colour(names[1], "#56B4E9"), "#5E5E5E")
    for i, label in enumerate(labels):
        ax.add_patch(Rectangle((edges[i], 0.08), edges[i + 1] - edges[i], 0.42, fc=fills[i], ec="white", lw=1))
        ax.plot([centres[i], places[i]], [0.5, 0.64], color=_GREY, lw=0.9)
        ax.text(places[i], 0.67, label, ha="center", va="top", linespacing=1.2)
    figure.set_label(
        f"Of {total} images both models classify {both_right} ({_percent(both_right / total)}) correctly, "
        f"only {names[0]} {only_a} ({_percent(only_a / total)}), only {names[1]} {only_b} "
        f"({_percent(only_b / total)}), and neither {both_wrong} ({_percent(both_wrong / total)})."
    )
    return figure


# --- Within the test set -----------------------------------------------------------------------------------


@_styled
def robustness(arms: Mapping[str, Mapping[str, tuple[float, float, float]]]) -> Figure:
    """Draw accuracies on shifted test images: a row for each shift, a colour for each arm.

    Dotted lines stand at the arms' accuracies on the images as they are: what lies left of its line is lost.

    Args:
        arms: An arm's name and, by shift's name, `(accuracy, low, high)`, fractions. All arms have the same
            shifts in the same order, the first of them "none".
    """
    shifts = list(next(iter(arms.values()))) if arms else []
    if not shifts or shifts[0] != "none" or any(list(arm) != shifts for arm in arms.values()):
        raise ValueError(
            "arms must all have the same shifts, the first of them 'none', and have "
            f"{ {name: list(arm) for name, arm in arms.items()} }"
        )
    bounds = {
        (name, shift): _bounds(value, f"{shift!r} of {name!r}")
        for name, arm in arms.items()
        for shift, value in arm.items()
    }
    height = max(0.42, 0.15 * len(arms) + 0.12)
    labels = [_short(name, 36) for name in arms]
    columns = max(1, min(len(arms), int(_WIDTH / (max(_text_width(label, 10) for label in labels) + 0.55))))
    figure = Figure(
        figsize=(_WIDTH, height * len(shifts) + 1.0 + 0.24 * -(-len(arms) // columns)), layout="constrained"
    )
    ax = figure.subplots()
    ax.set_xlim(_accuracy_limits(np.concatenate(list(bounds.values()))))
    step = 0.15 / height
    for i, (name, colour) in enumerate(zip(arms, _colours(arms), strict=True)):
        ax.axvline(bounds[name, "none"][0], color=colour, lw=1.2, ls=":", zorder=1)
        for row, shift in enumerate(shifts):
            y = row + (i - (len(arms) - 1) / 2) * step
            _interval(ax, y, bounds[name, shift], colour, marker="os^Dv<"[i % 6], ms=6.5)
    for row in range(1, len(shifts)):
        ax.axhline(row - 0.5, color="#E6E6E6", lw=0.8, zorder=0)
    ax.set_yticks(range(len(shifts)), [_short(shift) for shift in shifts])
    ax.set_ylim(len(shifts) - 0.5, -0.5)
    ax.grid(axis="y", visible=False)
    _percent_axis(ax.xaxis)
    ax.set_xlabel("accuracy on shifted test images, 95 % interval\ndotted: without shift")
    handles = [line for line in ax.lines if line.get_linestyle() == "None"][:: len(shifts)]
    figure.legend(handles, labels, loc="outside upper left", ncols=columns, handletextpad=0.3)
    said = [
        f"{name}: " + ", ".join(f"{shift} {_percent(bounds[name, shift][0])}" for shift in shifts) for name in arms
    ]
    figure.set_label(f"Test accuracy under shifts of the test images. {'; '.join(said)}.")
    return figure


@_styled
def by_attribute(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw accuracy by what the images show: a panel for each attribute, a row for each group of images.

    Args:
        tables: An attribute's name and its groups, as `evaluation.by_attribute` returns them: columns
            value_low, value_high, images, accuracy, low and high (fractions; the 95 % interval). The accuracy of
            a group without images is NaN and is not drawn.
    """
    if not tables:
        raise ValueError("tables is empty: give at least one attribute's")
    needed = ["value_low", "value_high", "images", "accuracy", "low", "high"]
    for name, table in tables.items():
        _columns(table, f"the table of {name!r}", needed)
    bounds = {name: table[["accuracy", "low", "high"]].to_numpy(dtype=float) for name, table in tables.items()}
    every = np.concatenate(list(bounds.values()))
    every = every[np.isfinite(every)]
    if len(every) == 0:
        raise ValueError(f"no group of {_listed(list(tables))} has an accuracy: all are NaN")
    counts = [len(table) for table in tables.values()]
    figure = Figure(figsize=(_WIDTH, 0.34 * sum(counts) + 0.42 * len(tables) + 0.6), layout="constrained")
    panels = figure.subplots(len(tables), 1, sharex=True, squeeze=False, height_ratios=counts)[:, 0]
    said = []
    for ax, (name, table) in zip(panels, tables.items(), strict=True):
        for y, row in enumerate(bounds[name]):
            if np.isfinite(row).all():
                _interval(ax, y, row, COLOURS["test"])
        ranges = [
            f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"
            for low, high in zip(table["value_low"], table["value_high"], strict=True)
        ]
        values = [_percent(row[0]) if np.isfinite(row[0]) else "\N{EM DASH}" for row in bounds[name]]
        _column(ax, 0.75, "accuracy", values)
        _column(ax, 1.35, "images", [f"{int(n):,}" for n in table["images"]], [False] * len(table))
        ax.set_title(_short(name, 40))
        ax.set_yticks(range(len(table)), ranges)
        ax.set_ylim(len(table) - 0.45, -0.55)
        ax.grid(axis="y", visible=False)
        said.append(f"{name}: " + ", ".join(f"{a} at {b}" for a, b in zip(values, ranges, strict=True)))
    ax.set_xlim(_accuracy_limits(every))
    _percent_axis(ax.xaxis)
    ax.set_xlabel("test accuracy, 95 % interval")
    figure.set_label(f"Test accuracy by attributes of the images. {'; '.join(said)}.")
    return figure


@_styled
def gates(means: Any, classes: Sequence[str], k: int = 24) -> Figure:
    """Draw how a squeeze-excite block's gates differ between classes, in the channels where they differ most.

    Colour is a class's mean gate less the channel's mean over the classes: blue lets more of the channel through,
    orange less. Channels are sorted by the class that opens them widest. Random gates differ a little too: the
    scale says how much is shown.

    Args:
        means: `[C,K]`, mean gate of each class's images in each of K channels. The row of a class without images
            is NaN, and is left grey.
        classes: C names.
        k: Channels shown: those whose means vary most over the classes.
    """
    means = _array(means, "means", (len(classes), None), f"[C,K] with C = {len(classes)} as classes").astype(float)
    there = np.isfinite(means).all(axis=1)
    if there.sum() < 2 or means.shape[1] == 0:
        raise ValueError(f"means must hold two classes with gates at least, and hold {there.sum()}: {means.shape}")
    if k < 1:
        raise ValueError(f"k must be at least 1, and is {k}")
    channels = np.argsort(-means[there].var(axis=0), kind="stable")[:k]
    shift = means - means[there].mean(axis=0)
    open_to = np.where(there[:, None], shift, -np.inf)
    channels = channels[np.lexsort((-open_to.max(axis=0)[channels], open_to.argmax(axis=0)[channels]))]
    shown = shift[:, channels]
    limit = float(np.abs(shown[there]).max()) or 1.0
    names = [_short(name) for name in classes]
    height = float(np.clip(3.0 / len(names), 0.19, 0.3)) * len(names)
    figure = Figure(figsize=(_WIDTH, height + 1.6), layout="constrained")
    bar, ax = figure.subplots(2, 1, height_ratios=(0.13, height))
    cell = (_WIDTH - max(_text_width(name, 10) for name in names) - 0.6) / len(channels)
    sns.heatmap(
        shown,
        ax=ax,
        cmap=_BETTER_WORSE,
        vmin=-limit,
        vmax=limit,
        cbar_ax=bar,
        cbar_kws={"orientation": "horizontal"},
        linewidths=0.4,
        linecolor="#F2F2F2",
        xticklabels=[str(channel) for channel in channels] if cell > 0.15 else False,
        yticklabels=names,
    )
    ax.set_facecolor("#D5D5D5")
    ax.grid(visible=False)  # it would show on what is grey
    ax.tick_params(axis="x", rotation=0 if cell > 0.45 else 90)
    ax.tick_params(axis="y", rotation=0)
    ax.set(xlabel=f"channel: the {len(channels)} of {means.shape[1]:,} that differ most between classes")
    bar.set_title("gate, less the channel's mean over the classes", weight="normal", size=10)
    _signed_axis(bar.xaxis)
    row, column = divmod(int(np.nanargmax(np.abs(shown))), len(channels))
    figure.set_label(
        f"Mean gates of {int(there.sum())} classes in the {len(channels)} of {means.shape[1]} channels that "
        f"differ most between them. All gates are from {np.nanmin(means):.3f} to {np.nanmax(means):.3f}. Furthest "
        f"from its channel's mean is channel {channels[column]} for {classes[row]}: "
        f"{means[row, channels[column]]:.3f}, {_signed(shown[row, column], 3)}."
    )
    return figure
