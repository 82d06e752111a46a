"""One picture of where a registration may start: a row a start, both images overlaid on three planes, its numbers."""

from __future__ import annotations

import io
from collections.abc import Sequence
from textwrap import wrap
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy import ndimage

from .figures import stretched

_DPI = 100
_HEIGHT, _WIDEST, _TEXT, _GAP, _TOP = 300, 420, 300, 10, 56  # pixels: of a row's planes, of its numbers
_FONT = 11
_PLANES = ((0, "z"), (1, "y"), (2, "x"))


class Row(NamedTuple):
    """A start: what is written beside it, moving seen through it on the fixed grid, where moving has data there."""

    lines: Sequence[str]
    moving: np.ndarray
    inside: np.ndarray


def starts_picture(title: str, fixed: np.ndarray, spacing: Sequence[float], rows: Sequence[Row]) -> bytes:
    """A PNG. fixed (z, y, x) is magenta, moving green, white or grey where they agree; `spacing` um.

    The planes are those through the middle of what both images show under a start, which is where it can be judged.
    """
    depth, height, width = (n * s for n, s in zip(fixed.shape, spacing, strict=True))
    scale = min(_HEIGHT / max(height, depth), _WIDEST / max(width, depth))
    widths = [max(round(e * scale), 24) for e in (width, width, depth)]
    row = max(round(max(height, depth) * scale), 9 * 18)
    size = _TEXT + sum(widths) + 4 * _GAP, _TOP + len(rows) * (row + 2 * _GAP)
    figure = Figure(figsize=(size[0] / _DPI, size[1] / _DPI), dpi=_DPI, facecolor="white")
    figure.text(_GAP / size[0], 1 - 8 / size[1], title, fontsize=_FONT + 2, weight="bold", va="top")
    figure.text(_GAP / size[0], 1 - 28 / size[1], "fixed magenta, moving green, white where they agree",
                fontsize=_FONT - 1, va="top", color="#555555")  # fmt: skip
    for place_of, each in enumerate(rows):
        top = _TOP + place_of * (row + 2 * _GAP)
        name, *numbers = each.lines
        first = wrap(name, 31)
        rest = [part for number in numbers for part in wrap(number, 33)]
        for line, text in enumerate([*first, *rest]):
            place = (_GAP / size[0], 1 - (top + 18 * line) / size[1])
            figure.text(*place, text, fontsize=_FONT, va="top", weight="bold" if line < len(first) else "normal")
        middle = _middle(each.inside)
        shown = zip(_evened(fixed, middle), _evened(each.moving * each.inside, middle), strict=True)
        left = _TEXT
        for (axis, name), wide, (a, b) in zip(_PLANES, widths, shown, strict=True):
            high = round((depth if axis == 1 else height) * scale)
            ax = figure.add_axes((left / size[0], 1 - (top + high) / size[1], wide / size[0], high / size[1]))
            told = f"{name} = {middle[axis] * spacing[axis] / 1000:.2f} mm"
            _overlay(ax, a, b * np.take(each.inside, middle[axis], axis), axis, told, spacing)
            left += wide + _GAP
    out = io.BytesIO()
    FigureCanvasAgg(figure).print_png(out, metadata={"Software": None}, pil_kwargs={"compress_level": 1})
    return out.getvalue()


def _evened(image: np.ndarray, middle: Sequence[int]) -> list[np.ndarray]:
    """The planes z, y, x through `middle`, structure against its surroundings, 0 .. 1: as bright in dim tissue as in
    bright, in either image.
    """
    image = np.clip(np.nan_to_num(image).astype(np.float32), 0, None)
    sigma, typical = max(image.shape) / 16, 0.5 * float(image.mean())
    planes = [np.take(image, at, axis) for axis, at in enumerate(middle)]
    planes = [plane / (ndimage.gaussian_filter(plane, sigma) + typical + 1e-12) for plane in planes]
    together = stretched(np.concatenate([plane.ravel() for plane in planes]))
    parts = np.split(together, np.cumsum([plane.size for plane in planes])[:-1])
    return [part.reshape(plane.shape) for part, plane in zip(parts, planes, strict=True)]


def _middle(inside: np.ndarray) -> list[int]:
    """The index along each axis that halves a region; the middle of the image where there is none."""
    found = []
    for axis in range(3):
        counts = inside.sum(tuple(a for a in range(3) if a != axis)).cumsum()
        found.append(int(np.searchsorted(counts, counts[-1] / 2)) if counts[-1] else inside.shape[axis] // 2)
    return found


def _overlay(ax: Axes, a: np.ndarray, b: np.ndarray, axis: int, place: str, spacing: Sequence[float]) -> None:
    """Planes of fixed and moving across an axis."""
    if axis == 2:
        a, b = a.T, b.T
    down, right = ((1, 2), (0, 2), (1, 0))[axis]
    ax.imshow(np.stack([a, b, a], -1), aspect=spacing[down] / spacing[right], interpolation="bilinear")
    ax.set_axis_off()
    ax.text(0.02, 0.97, place, transform=ax.transAxes, color="white", fontsize=_FONT - 2, va="top")
