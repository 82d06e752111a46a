"""Pictures of a registration as PNG bytes: overlays, checkerboards, grids, maps of a field, maps of blocks.

Volumes are (z, y, x) on one display grid of `spacing` um; a picture keeps its physical proportions. Only matplotlib's
object interface is used, so that pictures may be made in any thread and leave no state behind. Text outside of images
is a grey that can be read on white and on black, on a transparent ground: a page may be light or dark.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps, patheffects
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, ListedColormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

# What an element of a run's status array says, in the order of its values, and the colour of each.
STATUS = {"todo": "#9aa3ad", "running": "#e0a526", "done": "#3f9b62", "blank": "#6d8fc4", "failed": "#d0453e"}

_DPI = 100
_LONGEST = 760  # pixels along the longer side of the images in a picture
_FONT = 15  # points; pictures are shown at half their size, three in a row
_BAR = 84  # pixels under a picture for its colour bar
_INK = "#7f858e"
_OUTLINE = [patheffects.withStroke(linewidth=2.5, foreground="black")]
_FOLD = "#ffe600"
_UNKNOWN = (0.35, 0.37, 0.40)
_RATIOS = (
    (0.8, 0.87, 0.91, 0.95, 1, 1.05, 1.1, 1.15, 1.25),
    (0.5, 0.67, 0.8, 0.9, 1, 1.11, 1.25, 1.5, 2),
    (0.5, 0.67, 0.8, 1, 1.25, 1.5, 2),
    (0.1, 0.2, 0.5, 1, 2, 5, 10),
    (0.01, 0.1, 1, 10, 100),
)
"""Ticks of a bar of ratios: of these the first that has few enough not to collide."""
_RISK = colormaps["YlOrRd"]
_VIEWS = (
    (0, 1, 2),
    (1, 0, 2),
    (2, 1, 0),
)  # plane across an axis: (axis, the one drawn downwards, the one to the right)
_AXES = "zyx"

Vector = Sequence[float]
Painter = Callable[[Axes, int], object]
Bar = Callable[[Figure, Vector], None]


def stretched(image: np.ndarray, low: float = 2.0, high: float = 99.8) -> np.ndarray:
    """Intensities scaled to 0 .. 1 between two percentiles of what is not 0 (0 is where there is no image), float32."""
    image = np.nan_to_num(np.asarray(image, dtype=np.float32))
    seen = image[image != 0]
    if seen.size == 0:
        return np.zeros_like(image)
    dark, bright = np.percentile(seen, [low, high])
    # A mild gamma: fluorescence has few very bright voxels, and the tissue between them must be seen as well.
    return np.clip((image - dark) / max(bright - dark, 1e-12), 0, 1) ** 0.75


def overlay(fixed: np.ndarray, moving: np.ndarray, spacing: Vector) -> bytes:
    """Fixed in magenta, moving in green (both from `stretched`), three planes through the centre; grey = they agree."""
    return _three_planes(fixed.shape, spacing, lambda ax, axis: _image(ax, _mix(fixed, moving, axis), axis, spacing))


def overlay_slice(fixed: np.ndarray, moving: np.ndarray, spacing: Vector, z: int) -> bytes:
    """The same for the one plane at index `z`."""
    return _one_plane(fixed.shape, spacing, z, lambda ax, axis: _image(ax, _mix(fixed, moving, 0, z), 0, spacing))


def checkerboard(fixed: np.ndarray, moving: np.ndarray, spacing: Vector, tiles: int = 10) -> bytes:
    """Fixed and moving (from `stretched`) in turn on squares, `tiles` along the longest edge; three planes."""
    side = max(n * s for n, s in zip(fixed.shape, spacing, strict=True)) / tiles

    def paint(ax: Axes, axis: int) -> None:
        _, down, right = _VIEWS[axis]
        a, b = _plane(fixed, axis), _plane(moving, axis)
        row, column = (np.arange(n) * spacing[k] // side for n, k in zip(a.shape, (down, right), strict=True))
        odd = (row[:, None] + column) % 2 == 1
        # A breath of colour tells which image a square is from.
        grey = np.where(odd, b, a)[..., None] * np.where(odd[..., None], (0.88, 1.0, 0.88), (1.0, 0.88, 1.0))
        _image(ax, grey, axis, spacing)

    return _three_planes(fixed.shape, spacing, paint)


def deformed_grid(
    fixed: np.ndarray, displacement: np.ndarray, spacing: Vector, inside: np.ndarray, lines: int = 24
) -> bytes:
    """Regular lines of the fixed frame, moved by `displacement` (3, z, y, x) um in the plane, over the fixed image."""
    step = max(n * s for n, s in zip(fixed.shape, spacing, strict=True)) / lines
    return _three_planes(
        fixed.shape, spacing, lambda ax, axis: _paint_grid(ax, axis, fixed, displacement, spacing, inside, step)
    )


def displacement_map(displacement: np.ndarray, spacing: Vector, inside: np.ndarray) -> bytes:
    """Length of the displacement (3, z, y, x), um, three planes, with a colour bar; grey outside of `inside`."""
    length, norm = _lengths(displacement, inside)
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
    width = (_LONGEST - 12 * (columns - 1)) / columns
    height = min(max(width * extent_um[1] / extent_um[2], 30), 420)
    top, bar = 30, 44 if name == "status" else _BAR
    size = (_LONGEST, rows * (height + top) + bar)
    figure = _figure(size)
    cmap, norm = _block_colours(values, name, limits)
    for number, z in enumerate(layers):
        row, column = divmod(number, columns)
        box = (column * (width + 12), row * (height + top) + top, width, height)
        ax = _axes(figure, size, box)
        shown = ax.imshow(values[z], cmap=cmap, norm=norm, interpolation="nearest", aspect=cell[0] / cell[1])
        ax.set_anchor("NW")
        layer = f"layer {z + 1} of {values.shape[0]}" if values.shape[0] > 1 else "one layer of blocks"
        ax.set_title(layer, color=_INK, fontsize=_FONT, loc="left", pad=5)
        if name != "status" and values[z].size <= 24:
            _write_values(ax, values[z], cmap, norm)
    if name == "status":
        _status_legend(figure, size, values)
    else:
        _colour_bar(figure, size, shown, f"{title} / {unit}" if unit else title)
    return _png(figure)


def risk_map(
    fixed: np.ndarray, risk: np.ndarray, spacing: Vector, z: int | None = None, large: str = "2 voxels"
) -> bytes:
    """The probability of a large error (z, y, x), NaN where it is not known, over the fixed image (from `stretched`).

    Three planes through the centre, or with `z` that one plane. Fainter where the fixed image is dark: beside the
    sample nothing tells, and nothing is wanted. Grey where it is not known. `large` is what the colour bar calls so.
    """

    def paint(ax: Axes, axis: int) -> None:
        index = z if axis == 0 else None
        _image(ax, _risk_colours(_plane(fixed, axis, index), _plane(risk, axis, index)), axis, spacing)

    def bar(figure: Figure, size: Sequence[float]) -> None:
        _colour_bar(figure, size, ScalarMappable(Normalize(0, 1), _RISK), f"risk of over {large}")

    if z is not None:
        return _one_plane(fixed.shape, spacing, z, paint)
    return _three_planes(fixed.shape, spacing, paint, bar)


# ------------------------------------------------------------------------------------------------- parts of pictures


def _figure(size: Sequence[float]) -> Figure:
    figure = Figure(figsize=(size[0] / _DPI, size[1] / _DPI), dpi=_DPI)
    figure.patch.set_alpha(0)
    return figure


def _axes(figure: Figure, size: Sequence[float], box: Sequence[float]) -> Axes:
    """Axes at (left, top, width, height) in pixels from the upper left corner, without ticks or frame."""
    left, top, width, height = box
    ax = figure.add_axes((left / size[0], 1 - (top + height) / size[1], width / size[0], height / size[1]))
    ax.set_axis_off()
    return ax


def _three_planes(shape: Sequence[int], spacing: Vector, paint: Painter, bar: Bar | None = None) -> bytes:
    """(y, x) above (z, x), and (y, z) to the right of the first: all to one scale, edges that meet share an axis."""
    extent = [n * s for n, s in zip(shape, spacing, strict=True)]
    gap = 6
    scale = (_LONGEST - gap) / max(extent[2] + extent[0], extent[1] + extent[0])
    depth, height, width = (max(e * scale, 1.0) for e in extent)
    size = (width + gap + depth, height + gap + depth + (_BAR if bar else 0))
    figure = _figure(size)
    boxes = (0, 0, width, height), (0, height + gap, width, depth), (width + gap, 0, depth, height)
    for axis, box in enumerate(boxes):
        ax = _axes(figure, size, box)
        paint(ax, axis)
        _label(ax, axis, spacing, shape[axis] // 2, narrow=box[2] < 190)
        _cut_marks(ax, axis, shape, spacing)
        if axis == 0:
            _scale_bar(ax, extent[2])
    if bar:
        bar(figure, size)
    return _png(figure)


def _one_plane(shape: Sequence[int], spacing: Vector, z: int, paint: Painter) -> bytes:
    extent = [n * s for n, s in zip(shape, spacing, strict=True)]
    scale = 0.8 * _LONGEST / max(extent[1:])
    size = (extent[2] * scale, extent[1] * scale)
    figure = _figure(size)
    ax = _axes(figure, size, (0, 0, *size))
    paint(ax, 0)
    _label(ax, 0, spacing, z)
    _scale_bar(ax, extent[2])
    return _png(figure)


def _plane(volume: np.ndarray, axis: int, index: int | None = None) -> np.ndarray:
    """The plane across an axis (default through the centre), its rows along the axis that is drawn downwards."""
    plane = np.take(volume, volume.shape[axis] // 2 if index is None else index, axis=axis)
    return plane.T if axis == 2 else plane


def _mix(fixed: np.ndarray, moving: np.ndarray, axis: int, index: int | None = None) -> np.ndarray:
    a, b = _plane(fixed, axis, index), _plane(moving, axis, index)
    return np.stack([a, b, a], axis=-1)


def _image(ax: Axes, plane: np.ndarray, axis: int, spacing: Vector, **style) -> ScalarMappable:
    """Draw a plane in um; a voxel centre lies at index times spacing."""
    _, down, right = _VIEWS[axis]
    rows, columns = plane.shape[:2]
    h, v = spacing[right], spacing[down]
    box = (-h / 2, (columns - 0.5) * h, (rows - 0.5) * v, -v / 2)
    shown = ax.imshow(plane, extent=box, interpolation=style.pop("interpolation", "bilinear"), aspect="auto", **style)
    ax.set_xlim(box[:2])
    ax.set_ylim(box[2:])
    return shown


def _label(ax: Axes, axis: int, spacing: Vector, index: int, narrow: bool = False) -> None:
    _, down, right = _VIEWS[axis]
    text = f"{_AXES[down]}{_AXES[right]}" + ("" if narrow else f"   {_AXES[axis]} = {index * spacing[axis]:.0f} µm")
    ax.annotate(text, (0, 1), (7, -7), xycoords="axes fraction", textcoords="offset pixels", va="top",
                color="white", fontsize=_FONT, path_effects=_OUTLINE)  # fmt: skip


def _cut_marks(ax: Axes, axis: int, shape: Sequence[int], spacing: Vector) -> None:
    """Short ticks at the edges where the two other planes cut this one."""
    _, down, right = _VIEWS[axis]
    style: dict[str, Any] = {"color": "white", "linewidth": 1.2, "alpha": 0.8}
    h, v = shape[right] // 2 * spacing[right], shape[down] // 2 * spacing[down]
    for low, high in ((0, 0.025), (0.975, 1)):
        ax.axvline(h, low, high, **style)
        ax.axhline(v, low, high, **style)


def _paint_grid(
    ax: Axes, axis: int, fixed: np.ndarray, displacement: np.ndarray, spacing: Vector, inside: np.ndarray, step: float
) -> None:
    """Lines `step` um apart, moved by `displacement`, over the darkened fixed image."""
    _, down, right = _VIEWS[axis]
    _image(ax, np.repeat(_plane(fixed, axis)[..., None] * 0.55, 3, axis=2), axis, spacing)
    shape = fixed.shape[down], fixed.shape[right]
    v = np.arange(shape[0])[:, None] * spacing[down] + _plane(displacement[down], axis)
    h = np.arange(shape[1])[None, :] * spacing[right] + _plane(displacement[right], axis)
    seen = _plane(inside, axis)
    v, h = np.where(seen, v, np.nan), np.where(seen, h, np.nan)
    style: dict[str, Any] = {"color": "#35d0ff", "linewidth": 0.9, "solid_joinstyle": "round"}
    for i in _every(shape[0], step / spacing[down]):
        ax.plot(h[i], v[i], **style)
    for j in _every(shape[1], step / spacing[right]):
        ax.plot(h[:, j], v[:, j], **style)


def _lengths(displacement: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, Normalize]:
    """Lengths of a displacement (3, z, y, x), and their range: nearly the largest within `inside`."""
    length = np.sqrt((np.asarray(displacement, dtype=np.float32) ** 2).sum(0))
    top = float(np.percentile(length[inside], 99.9)) if inside.any() else 0.0
    return length, Normalize(0, max(top, 1e-6))


def _risk_colours(light: np.ndarray, values: np.ndarray) -> np.ndarray:
    """A plane of the risk (NaN: not known) over one of the fixed image, as RGB."""
    light = light[..., None]
    grey = np.repeat(light * 0.8, 3, axis=2)
    known = np.nan_to_num(values)
    strength = 0.75 * np.clip(known, 0, 1)[..., None] ** 0.5 * np.clip(4 * light, 0.3, 1)
    shown = grey * (1 - strength) + _RISK(Normalize(0, 1)(known))[..., :3] * strength
    return np.where(np.isnan(values)[..., None], 0.3 * grey + 0.7 * np.array(_UNKNOWN), shown)


def _scale_bar(ax: Axes, width_um: float) -> None:
    length = _round_number(width_um / 5)
    unit = f"{length / 1000:g} mm" if length >= 1000 else f"{length:g} µm"
    x, y = 0.03, 0.05
    fraction = length / width_um
    ax.plot([x, x + fraction], [y, y], transform=ax.transAxes, color="white", linewidth=4, solid_capstyle="butt",
            path_effects=[patheffects.withStroke(linewidth=6, foreground="black")])  # fmt: skip
    ax.text(x, y + 0.02, unit, transform=ax.transAxes, color="white", fontsize=_FONT, ha="left",
            va="bottom", path_effects=_OUTLINE)  # fmt: skip


def _round_number(value: float) -> float:
    """The largest of 1, 2, 5 times a power of ten that is not above value."""
    power = 10.0 ** np.floor(np.log10(value))
    return float(max(m for m in (1, 2, 5) if m * power <= value * (1 + 1e-9)) * power)


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
        plane = _plane(values, axis)
        colours = cmap(norm(plane if folds is None else np.ma.masked_less_equal(plane, 0)))
        colours[~_plane(inside, axis)] = (0.35, 0.37, 0.40, 1)
        _image(ax, colours, axis, spacing, interpolation="nearest")
        if folds is not None:
            _, down, right = _VIEWS[axis]
            v, h = np.nonzero(_plane(folds & inside, axis))
            # A marker of a fixed size: one folded voxel must not be lost in a picture of a large volume.
            style: dict[str, Any] = {"s": 14, "c": _FOLD, "marker": "s", "linewidths": 0.4, "edgecolors": "black"}
            ax.scatter(h * spacing[right], v * spacing[down], **style)

    def bar(figure: Figure, size: Sequence[float]) -> None:
        _colour_bar(figure, size, ScalarMappable(norm, cmap), label)

    return _three_planes(values.shape, spacing, paint, bar)


def _colour_bar(figure: Figure, size: Sequence[float], shown: ScalarMappable, label: str) -> None:
    width = min(420, size[0] - 60)
    ax = _axes(figure, size, (24, size[1] - _BAR + 12, width, 12))
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
    bar.ax.tick_params(color=_INK, labelcolor=_INK, labelsize=_FONT, length=3)
    bar.set_label(label, color=_INK, fontsize=_FONT, labelpad=1)


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
            ax.text(column, row, f"{value:.3g}", ha="center", va="center", fontsize=_FONT, color=colour)


def _status_legend(figure: Figure, size: Sequence[float], values: np.ndarray) -> None:
    ax = _axes(figure, size, (0, size[1] - 40, size[0], 34))
    ax.set_xlim(0, size[0])
    ax.set_ylim(34, 0)
    for number, (name, colour) in enumerate(STATUS.items()):
        x = 4 + number * size[0] / len(STATUS)
        count = int((values == number).sum())
        ax.add_patch(Rectangle((x, 10), 14, 14, color=colour))
        ax.text(x + 19, 17, f"{name} {count}", color=_INK, fontsize=_FONT, va="center")


def _png(figure: Figure) -> bytes:
    out = io.BytesIO()
    FigureCanvasAgg(figure).print_png(out, metadata={"Software": None}, pil_kwargs={"compress_level": 3})
    return out.getvalue()
