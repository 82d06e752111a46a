"""What pictures of planes are made of: a figure, its axes, an image with its label and scale bar, PNG bytes.

Volumes are (z, y, x) on one grid of `spacing` um; a picture keeps its physical proportions. Only matplotlib's object
interface is used, so that pictures may be made in any thread and leave no state behind. Text outside of images is a
grey that can be read on white and on black, on a transparent ground: a page may be light or dark.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

_DPI = 100
LONGEST = 760
"""Pixels along the longer side of the images in a picture."""
FONT = 15
"""Points; pictures are shown at half their size, three in a row."""
BAR = 84
"""Pixels under a picture for its colour bar."""
INK = "#7f858e"
"""Text outside of images."""
_OUTLINE = [patheffects.withStroke(linewidth=2.5, foreground="black")]
UNKNOWN = (0.35, 0.37, 0.40)
"""RGB of what is not known, or not in both images."""
_RATIOS = (
    (0.8, 0.87, 0.91, 0.95, 1, 1.05, 1.1, 1.15, 1.25),
    (0.5, 0.67, 0.8, 0.9, 1, 1.11, 1.25, 1.5, 2),
    (0.5, 0.67, 0.8, 1, 1.25, 1.5, 2),
    (0.1, 0.2, 0.5, 1, 2, 5, 10),
    (0.01, 0.1, 1, 10, 100),
)
"""Ticks of a bar of ratios: of these the first that has few enough not to collide."""
VIEWS = ((0, 1, 2), (1, 0, 2), (2, 1, 0))
"""Of the plane across each axis: the axis, the one drawn downwards, the one to the right."""
AXES = "zyx"

Vector = Sequence[float]
Painter = Callable[[Axes, int], object]
Bar = Callable[[Figure, Vector], None]


def new_figure(size: Sequence[float]) -> Figure:
    """An empty figure of (width, height) pixels on a transparent ground."""
    figure = Figure(figsize=(size[0] / _DPI, size[1] / _DPI), dpi=_DPI)
    figure.patch.set_alpha(0)
    return figure


def new_axes(figure: Figure, size: Sequence[float], box: Sequence[float]) -> Axes:
    """Axes at (left, top, width, height) in pixels from the upper left corner, without ticks or frame."""
    left, top, width, height = box
    ax = figure.add_axes((left / size[0], 1 - (top + height) / size[1], width / size[0], height / size[1]))
    ax.set_axis_off()
    return ax


def three_planes(shape: Sequence[int], spacing: Vector, paint: Painter, bar: Bar | None = None) -> bytes:
    """(y, x) above (z, x), and (y, z) to the right of the first: all to one scale, edges that meet share an axis."""
    extent = [n * s for n, s in zip(shape, spacing, strict=True)]
    gap = 6
    scale = (LONGEST - gap) / max(extent[2] + extent[0], extent[1] + extent[0])
    depth, height, width = (max(e * scale, 1.0) for e in extent)
    size = (width + gap + depth, height + gap + depth + (BAR if bar else 0))
    figure = new_figure(size)
    boxes = (0, 0, width, height), (0, height + gap, width, depth), (width + gap, 0, depth, height)
    for axis, box in enumerate(boxes):
        ax = new_axes(figure, size, box)
        paint(ax, axis)
        draw_label(ax, axis, spacing, shape[axis] // 2, narrow=box[2] < 190)
        _cut_marks(ax, axis, shape, spacing)
        if axis == 0:
            draw_scale_bar(ax, extent[2])
    if bar:
        bar(figure, size)
    return png(figure)


def one_plane(shape: Sequence[int], spacing: Vector, z: int, paint: Painter) -> bytes:
    """(y, x) at the index `z` alone."""
    extent = [n * s for n, s in zip(shape, spacing, strict=True)]
    scale = 0.8 * LONGEST / max(extent[1:])
    size = (extent[2] * scale, extent[1] * scale)
    figure = new_figure(size)
    ax = new_axes(figure, size, (0, 0, *size))
    paint(ax, 0)
    draw_label(ax, 0, spacing, z)
    draw_scale_bar(ax, extent[2])
    return png(figure)


def plane_of(volume: np.ndarray, axis: int, index: int | None = None) -> np.ndarray:
    """The plane across an axis (default through the centre), its rows along the axis that is drawn downwards."""
    plane = np.take(volume, volume.shape[axis] // 2 if index is None else index, axis=axis)
    return plane.T if axis == 2 else plane


def mix(fixed: np.ndarray, moving: np.ndarray, axis: int, index: int | None = None) -> np.ndarray:
    """A plane of two volumes (0 .. 1) as RGB: fixed in magenta, moving in green; grey = they agree."""
    a, b = plane_of(fixed, axis, index), plane_of(moving, axis, index)
    return np.stack([a, b, a], axis=-1)


def draw_image(ax: Axes, plane: np.ndarray, axis: int, spacing: Vector, **style) -> ScalarMappable:
    """Draw a plane in um; a voxel centre lies at index times spacing."""
    _, down, right = VIEWS[axis]
    rows, columns = plane.shape[:2]
    h, v = spacing[right], spacing[down]
    box = (-h / 2, (columns - 0.5) * h, (rows - 0.5) * v, -v / 2)
    shown = ax.imshow(plane, extent=box, interpolation=style.pop("interpolation", "bilinear"), aspect="auto", **style)
    ax.set_xlim(box[:2])
    ax.set_ylim(box[2:])
    return shown


def draw_label(ax: Axes, axis: int, spacing: Vector, index: int, narrow: bool = False) -> None:
    """The plane's axes in the upper left corner and, unless it is narrow, where it lies."""
    _, down, right = VIEWS[axis]
    text = f"{AXES[down]}{AXES[right]}" + ("" if narrow else f"   {AXES[axis]} = {index * spacing[axis]:.0f} µm")
    ax.annotate(text, (0, 1), (7, -7), xycoords="axes fraction", textcoords="offset pixels", va="top",
                color="white", fontsize=FONT, path_effects=_OUTLINE)  # fmt: skip


def _cut_marks(ax: Axes, axis: int, shape: Sequence[int], spacing: Vector) -> None:
    """Short ticks at the edges where the two other planes cut this one."""
    _, down, right = VIEWS[axis]
    style: dict[str, Any] = {"color": "white", "linewidth": 1.2, "alpha": 0.8}
    h, v = shape[right] // 2 * spacing[right], shape[down] // 2 * spacing[down]
    for low, high in ((0, 0.025), (0.975, 1)):
        ax.axvline(h, low, high, **style)
        ax.axhline(v, low, high, **style)


def draw_scale_bar(ax: Axes, width_um: float) -> None:
    """A bar of a round length, about a fifth of the plane's width (um), in the lower left corner."""
    length = _round_number(width_um / 5)
    unit = f"{length / 1000:g} mm" if length >= 1000 else f"{length:g} µm"
    x, y = 0.03, 0.05
    fraction = length / width_um
    ax.plot([x, x + fraction], [y, y], transform=ax.transAxes, color="white", linewidth=4, solid_capstyle="butt",
            path_effects=[patheffects.withStroke(linewidth=6, foreground="black")])  # fmt: skip
    ax.text(x, y + 0.02, unit, transform=ax.transAxes, color="white", fontsize=FONT, ha="left",
            va="bottom", path_effects=_OUTLINE)  # fmt: skip


def _round_number(value: float) -> float:
    """The largest of 1, 2, 5 times a power of ten that is not above value."""
    power = 10.0 ** np.floor(np.log10(value))
    return float(max(m for m in (1, 2, 5) if m * power <= value * (1 + 1e-9)) * power)


def draw_colour_bar(figure: Figure, size: Sequence[float], shown: ScalarMappable, label: str) -> None:
    """The colours of what is shown, in the lowest BAR pixels of a figure of `size` pixels."""
    width = min(420, size[0] - 60)
    ax = new_axes(figure, size, (24, size[1] - BAR + 12, width, 12))
    ax.set_axis_on()
    bar = figure.colorbar(shown, cax=ax, orientation="horizontal")
    bar.outline.set_visible(False)
    if isinstance(shown.norm, LogNorm):
        low, high = float(shown.norm.vmin or 0), float(shown.norm.vmax or 0)
        sets = ([t for t in every if low <= t <= high] for every in _RATIOS)
        ticks = next((ticks for ticks in sets if len(ticks) <= 5), [1])
        bar.ax.xaxis.set_minor_locator(NullLocator())
        bar.set_ticks(ticks)
        bar.ax.xaxis.set_major_formatter(FuncFormatter(lambda t, _: f"{t:g}"))
    else:
        bar.ax.xaxis.set_major_locator(MaxNLocator(5))
    bar.ax.tick_params(color=INK, labelcolor=INK, labelsize=FONT, length=3)
    bar.set_label(label, color=INK, fontsize=FONT, labelpad=1, loc="left")  # a long one is wider than the bar


def png(figure: Figure) -> bytes:
    """The figure as a PNG; the same figure gives the same bytes."""
    out = io.BytesIO()
    FigureCanvasAgg(figure).print_png(out, metadata={"Software": None}, pil_kwargs={"compress_level": 1})
    return out.getvalue()
