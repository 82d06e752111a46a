"""Pictures of a registration as PNG bytes: overlays, checkerboards, grids, maps of a field, maps of blocks.

Volumes are (z, y, x) on one display grid of `spacing` um. What pictures are made of: see `planes`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, ListedColormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from .planes import (
    BAR,
    FONT,
    INK,
    LONGEST,
    UNKNOWN,
    VIEWS,
    Vector,
    draw_colour_bar,
    draw_image,
    mix,
    new_axes,
    new_figure,
    one_plane,
    plane_of,
    png,
    three_planes,
)

# What an element of a run's status array says, in the order of its values, and the colour of each.
STATUS = {"todo": "#9aa3ad", "running": "#e0a526", "done": "#3f9b62", "blank": "#6d8fc4", "failed": "#d0453e"}

RISK = colormaps["YlOrRd"]
_FOLD = "#ffe600"


def stretched(image: np.ndarray, low: float = 2.0, high: float = 99.8) -> np.ndarray:
    """Intensities scaled to 0 .. 1 between two percentiles of what is not 0 (0 is where there is no image), float32."""
    image = np.nan_to_num(np.asarray(image, dtype=np.float32))
    seen = image[image != 0]
    if seen.size == 0:
        return np.zeros_like(image)
    dark, bright = np.percentile(seen, [low, high])
    # A mild gamma: fluorescence has few very bright voxels, and the tissue between them must be seen as well.
    return np.clip((image - dark) / max(bright - dark, 1e-12), 0, 1) ** 0.75


def likened(fixed: np.ndarray, moving: np.ndarray, inside: np.ndarray) -> float:
    """The gamma under which moving is as bright as fixed on average, so that what agrees is white and has no tint."""
    bright = inside & (fixed > 0.1) & (moving > 0.1)
    if not bright.any():
        return 1.0
    a, b = (float(np.median(image[bright])) for image in (fixed, moving))
    return float(np.clip(np.log(min(a, 0.99)) / np.log(min(b, 0.99)), 0.5, 2.0))


def overlay(fixed: np.ndarray, moving: np.ndarray, spacing: Vector) -> bytes:
    """Fixed in magenta, moving in green (both from `stretched`), three planes through the centre; grey = they agree."""
    return three_planes(fixed.shape, spacing, lambda ax, axis: draw_image(ax, mix(fixed, moving, axis), axis, spacing))


def overlay_slice(fixed: np.ndarray, moving: np.ndarray, spacing: Vector, z: int) -> bytes:
    """The same for the one plane at index `z`."""
    return one_plane(fixed.shape, spacing, z, lambda ax, axis: draw_image(ax, mix(fixed, moving, 0, z), 0, spacing))


def checkerboard(fixed: np.ndarray, moving: np.ndarray, spacing: Vector, tiles: int = 10) -> bytes:
    """Fixed and moving (from `stretched`) in turn on squares, `tiles` along the longest edge; three planes."""
    side = max(n * s for n, s in zip(fixed.shape, spacing, strict=True)) / tiles

    def paint(ax: Axes, axis: int) -> None:
        _, down, right = VIEWS[axis]
        a, b = plane_of(fixed, axis), plane_of(moving, axis)
        row, column = (np.arange(n) * spacing[k] // side for n, k in zip(a.shape, (down, right), strict=True))
        odd = (row[:, None] + column) % 2 == 1
        # A breath of colour tells which image a square is from.
        grey = np.where(odd, b, a)[..., None] * np.where(odd[..., None], (0.88, 1.0, 0.88), (1.0, 0.88, 1.0))
        draw_image(ax, grey, axis, spacing)

    return three_planes(fixed.shape, spacing, paint)


def deformed_grid(
    fixed: np.ndarray, displacement: np.ndarray, spacing: Vector, inside: np.ndarray, lines: int = 24
) -> bytes:
    """Regular lines of the fixed frame, moved by `displacement` (3, z, y, x) um in the plane, over the fixed image."""
    step = max(n * s for n, s in zip(fixed.shape, spacing, strict=True)) / lines
    return three_planes(
        fixed.shape, spacing, lambda ax, axis: paint_grid(ax, axis, fixed, displacement, spacing, inside, step)
    )


def displacement_map(displacement: np.ndarray, spacing: Vector, inside: np.ndarray) -> bytes:
    """Length of the displacement (3, z, y, x), um, three planes, with a colour bar; grey outside of `inside`."""
    length, norm = lengths(displacement, inside)
    return _field_map(length, spacing, inside, colormaps["magma"], norm, "displacement / µm")


def jacobian_map(jacobian: np.ndarray, spacing: Vector, inside: np.ndarray) -> bytes:
    """Jacobian determinant (z, y, x), three planes: blue shrinks, red grows, white keeps its volume, yellow folds."""
    positive = jacobian[inside & (jacobian > 0)]
    # One ratio up and down, so that halving and doubling are equally strong; at least 10 %, so that noise stays pale.
    most = max(float(np.percentile(np.abs(np.log(positive)), 99.8)), np.log(1.1)) if positive.size else np.log(1.1)
    norm = LogNorm(np.exp(-most), np.exp(most))
    return _field_map(
        jacobian, spacing, inside, colormaps["RdBu_r"], norm, "Jacobian determinant (volume ratio)", folds=jacobian <= 0
    )


def block_map(
    values: np.ndarray,
    extent_um: Vector,
    name: str,
    title: str,
    unit: str = "",
    limits: tuple[float, float] | None = None,
) -> bytes:
    """One value a block (z, y, x): some layers of blocks along z side by side; grey where there is none (NaN).

    `extent_um` is the size of the whole volume, for the proportions. The name "status" makes a map of STATUS; others
    have a colour bar with `title` and `unit`, over `limits` (default: from the smallest to the largest value).
    """
    values = np.asarray(values, dtype=float)
    layers = np.unique(np.linspace(0, values.shape[0] - 1, min(values.shape[0], 4)).round().astype(int))
    cell = np.array(extent_um[1:]) / values.shape[1:]
    columns = len(layers) if extent_um[2] < 1.2 * extent_um[1] else min(len(layers), 2)
    rows = -(-len(layers) // columns)
    width = (LONGEST - 12 * (columns - 1)) / columns
    height = min(max(width * extent_um[1] / extent_um[2], 30), 420)
    top, bar = 30, 44 if name == "status" else BAR
    size = (LONGEST, rows * (height + top) + bar)
    figure = new_figure(size)
    cmap, norm = _block_colours(values, name, limits)
    for number, z in enumerate(layers):
        row, column = divmod(number, columns)
        box = (column * (width + 12), row * (height + top) + top, width, height)
        ax = new_axes(figure, size, box)
        shown = ax.imshow(values[z], cmap=cmap, norm=norm, interpolation="nearest", aspect=cell[0] / cell[1])
        ax.set_anchor("NW")
        layer = f"layer {z + 1} of {values.shape[0]}" if values.shape[0] > 1 else "one layer of blocks"
        ax.set_title(layer, color=INK, fontsize=FONT, loc="left", pad=5)
        if name != "status" and values[z].size <= 24:
            _write_values(ax, values[z], cmap, norm)
    if name == "status":
        _status_legend(figure, size, values)
    else:
        draw_colour_bar(figure, size, shown, f"{title} / {unit}" if unit else title)
    return png(figure)


def risk_map(
    fixed: np.ndarray, risk: np.ndarray, spacing: Vector, z: int | None = None, large: str = "2 voxels"
) -> bytes:
    """The probability of a large error (z, y, x), NaN where it is not known, over the fixed image (from `stretched`).

    Three planes through the centre, or with `z` that one plane. Fainter where the fixed image is dark: beside the
    sample nothing tells, and nothing is wanted. Grey where it is not known. `large` is what the colour bar calls so.
    """

    def paint(ax: Axes, axis: int) -> None:
        index = z if axis == 0 else None
        draw_image(ax, risk_colours(plane_of(fixed, axis, index), plane_of(risk, axis, index)), axis, spacing)

    def bar(figure: Figure, size: Sequence[float]) -> None:
        draw_colour_bar(figure, size, ScalarMappable(Normalize(0, 1), RISK), f"risk of over {large}")

    if z is not None:
        return one_plane(fixed.shape, spacing, z, paint)
    return three_planes(fixed.shape, spacing, paint, bar)


# ------------------------------------------------------------------------------------------------- parts of pictures


def paint_grid(
    ax: Axes, axis: int, fixed: np.ndarray, displacement: np.ndarray, spacing: Vector, inside: np.ndarray, step: float
) -> None:
    """Lines `step` um apart, moved by `displacement`, over the darkened fixed image."""
    _, down, right = VIEWS[axis]
    draw_image(ax, np.repeat(plane_of(fixed, axis)[..., None] * 0.55, 3, axis=2), axis, spacing)
    shape = fixed.shape[down], fixed.shape[right]
    v = np.arange(shape[0])[:, None] * spacing[down] + plane_of(displacement[down], axis)
    h = np.arange(shape[1])[None, :] * spacing[right] + plane_of(displacement[right], axis)
    seen = plane_of(inside, axis)
    v, h = np.where(seen, v, np.nan), np.where(seen, h, np.nan)
    style: dict[str, Any] = {"color": "#35d0ff", "linewidth": 0.9, "solid_joinstyle": "round"}
    for i in _every(shape[0], step / spacing[down]):
        ax.plot(h[i], v[i], **style)
    for j in _every(shape[1], step / spacing[right]):
        ax.plot(h[:, j], v[:, j], **style)


def lengths(displacement: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, Normalize]:
    """Lengths of a displacement (3, z, y, x), and their range: nearly the largest within `inside`."""
    length = np.sqrt((np.asarray(displacement, dtype=np.float32) ** 2).sum(0))
    top = float(np.percentile(length[inside], 99.9)) if inside.any() else 0.0
    return length, Normalize(0, max(top, 1e-6))


def risk_colours(light: np.ndarray, values: np.ndarray) -> np.ndarray:
    """A plane of the risk (NaN: not known) over one of the fixed image, as RGB."""
    light = light[..., None]
    grey = np.repeat(light * 0.8, 3, axis=2)
    known = np.nan_to_num(values)
    strength = 0.75 * np.clip(known, 0, 1)[..., None] ** 0.5 * np.clip(4 * light, 0.3, 1)
    shown = grey * (1 - strength) + RISK(Normalize(0, 1)(known))[..., :3] * strength
    return np.where(np.isnan(values)[..., None], 0.3 * grey + 0.7 * np.array(UNKNOWN), shown)


def _every(count: int, step: float) -> list[int]:
    """Indices `step` apart, in the middle of `count`."""
    number = max(int(count / step), 1)
    return sorted({int(i) for i in np.clip(((np.arange(number) + 0.5) * count / number), 0, count - 1)})


def _field_map(
    values: np.ndarray,
    spacing: Vector,
    inside: np.ndarray,
    cmap: Colormap,
    norm: Normalize,
    label: str,
    folds: np.ndarray | None = None,
) -> bytes:
    def paint(ax: Axes, axis: int) -> None:
        plane = plane_of(values, axis)
        colours = cmap(norm(plane if folds is None else np.ma.masked_less_equal(plane, 0)))
        colours[~plane_of(inside, axis)] = (*UNKNOWN, 1)
        draw_image(ax, colours, axis, spacing, interpolation="nearest")
        if folds is not None:
            _, down, right = VIEWS[axis]
            v, h = np.nonzero(plane_of(folds & inside, axis))
            # A marker of a fixed size: one folded voxel must not be lost in a picture of a large volume.
            style: dict[str, Any] = {"s": 14, "c": _FOLD, "marker": "s", "linewidths": 0.4, "edgecolors": "black"}
            ax.scatter(h * spacing[right], v * spacing[down], **style)

    def bar(figure: Figure, size: Sequence[float]) -> None:
        draw_colour_bar(figure, size, ScalarMappable(norm, cmap), label)

    return three_planes(values.shape, spacing, paint, bar)


def _block_colours(values: np.ndarray, name: str, limits: tuple[float, float] | None) -> tuple[Colormap, Normalize]:
    if name == "status":
        return ListedColormap(list(STATUS.values())), Normalize(-0.5, len(STATUS) - 0.5)
    low, high = limits or finite_range([values])
    if high - low < 1e-9 * max(abs(high), 1e-9):
        low, high = low - 0.5 * max(abs(low), 1e-9), high + 0.5 * max(abs(high), 1e-9)
    return colormaps["viridis"].with_extremes(bad="#8a8f9866"), Normalize(low, high)


def finite_range(arrays: Sequence[np.ndarray]) -> tuple[float, float]:
    """Smallest and largest finite value of some arrays; 0 and 1 where there is none."""
    known = np.concatenate([np.asarray(a, dtype=float)[np.isfinite(a)] for a in arrays])
    return (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)


def _write_values(ax: Axes, layer: np.ndarray, cmap: Colormap, norm: Normalize) -> None:
    for (row, column), value in np.ndenumerate(layer):
        if np.isfinite(value):
            luminance = np.dot(cmap(norm(value))[:3], (0.3, 0.6, 0.1))
            colour = "black" if luminance > 0.5 else "white"
            ax.text(column, row, f"{value:.3g}", ha="center", va="center", fontsize=FONT, color=colour)


def _status_legend(figure: Figure, size: Sequence[float], values: np.ndarray) -> None:
    ax = new_axes(figure, size, (0, size[1] - 40, size[0], 34))
    ax.set_xlim(0, size[0])
    ax.set_ylim(34, 0)
    for number, (name, colour) in enumerate(STATUS.items()):
        x = 4 + number * size[0] / len(STATUS)
        count = int((values == number).sum())
        ax.add_patch(Rectangle((x, 10), 14, 14, color=colour))
        ax.text(x + 19, 17, f"{name} {count}", color=INK, fontsize=FONT, va="center")
