"""One picture of a registration, to be shown to others: overlays of the plane through the middle, motion, risk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..errors import ConfigError
from ..storage import new_file
from . import figures as draw
from . import planes
from .report import ReportData
from .verdict import judge

SUFFIXES = (".png", ".svg", ".pdf")
DPI = 200
LINES = 24
"""Of the grid, along the longer side of the plane."""
_DATES = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}, ".png": {"Software": None}}
"""Left out, so that the same run makes the same PNG and PDF; an SVG has random names inside."""
# Inches.
_WIDEST, _HIGHEST, _NARROWEST = 4.1, 3.5, 2.9
_GAP, _HEAD, _CAPTION, _BAR = 0.2, 1.0, 0.34, 1.25
_SIZES = {"title": 20, "text": 13}


@contextmanager
def new_picture(target: str) -> Iterator[Path]:
    """`new_file` for a picture. Raises ConfigError for an ending that is none of SUFFIXES."""
    if not target.lower().endswith(SUFFIXES):
        raise ConfigError(f"'{target}' is no picture that can be written; end it with {', '.join(SUFFIXES)}")
    with new_file(target) as path:
        yield path


def write_overview(data: ReportData, path: Path) -> None:
    """Write the picture as the ending of `path` says; at DPI what is made of pixels."""
    drawn = overview(data)
    drawn.savefig(path, dpi=DPI, format=path.suffix[1:].lower(), metadata=_DATES[path.suffix.lower()])


def overview(data: ReportData) -> Figure:
    """Two rows of panels, all of one plane to one scale: across the axis along which the images are thinnest.

    Above: fixed (magenta) and moving (green) before, after the affine, after all. Below: the deformed grid, the length
    of the displacement and, where it is known, the risk.
    """
    spacing = tuple(float(s) for s in data.spacing_um)
    extent = np.array(data.fixed.shape) * spacing
    axis = int(np.argmin(extent))
    _, down, right = planes.VIEWS[axis]
    scale = min(_WIDEST / extent[right], _HIGHEST / extent[down])  # inches per um
    size = extent[right] * scale, extent[down] * scale
    above, below = _overlays(data, axis, spacing), _maps(data, axis, spacing)
    column = max(size[0], _NARROWEST)
    width = 3 * column + 4 * _GAP
    height = _HEAD + 2 * (_CAPTION + size[1]) + _GAP + _BAR
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    _head(figure, data, axis, spacing)
    for row, panels in enumerate((above, below)):
        top = _HEAD + row * (_CAPTION + size[1] + _GAP) + _CAPTION
        for number, (caption, paint, bar) in enumerate(panels):
            left = _GAP + number * (column + _GAP) + (column - size[0]) / 2
            ax = _axes(figure, left, top, *size)
            paint(ax)
            ax.set_title(caption, fontsize=_SIZES["text"], loc="left", pad=5)
            if row == 0 and number == 0:
                planes.draw_scale_bar(ax, extent[right])
            if bar is not None:
                wide = max(0.85 * size[0], 0.7 * column)
                place = left + (size[0] - wide) / 2, top + size[1] + 0.12
                _colour_bar(figure, _axes(figure, *place, wide, 0.13), *bar)
    return figure


Panel = tuple[str, Callable[[Axes], object], tuple[ScalarMappable, str] | None]


def _overlays(data: ReportData, axis: int, spacing: Sequence[float]) -> list[Panel]:
    fixed, warped = draw.stretched(data.fixed), draw.stretched(data.warped)
    power = draw.likened(fixed, warped, np.asarray(data.inside, dtype=bool))

    def panel(caption: str, moving: np.ndarray) -> Panel:
        mixed = planes.mix(fixed, draw.stretched(moving) ** power, axis)
        return caption, lambda ax: planes.draw_image(ax, mixed, axis, spacing), None

    return [
        panel("Before", data.moving_before),
        panel("After linear alignment", data.moving_affine),
        panel("After registration", data.warped),
    ]


def _maps(data: ReportData, axis: int, spacing: Sequence[float]) -> list[Panel]:
    fixed, inside = draw.stretched(data.fixed), np.asarray(data.inside, dtype=bool)
    _, down, right = planes.VIEWS[axis]
    step = max(data.fixed.shape[k] * spacing[k] for k in (down, right)) / LINES
    shown = planes.plane_of(inside, axis)
    length, norm = draw.lengths(np.stack([planes.plane_of(d, axis) for d in data.displacement]), shown)
    colours = colormaps["magma"](norm(length))
    colours[~shown] = (*planes.UNKNOWN, 1)
    panels: list[Panel] = [
        (
            "Deformation",
            lambda ax: draw.paint_grid(ax, axis, fixed, data.displacement, spacing, inside, step),
            None,
        ),
        (
            "Motion after linear alignment",
            lambda ax: planes.draw_image(ax, colours, axis, spacing, interpolation="nearest"),
            (ScalarMappable(norm, colormaps["magma"]), "distance / µm\n(grey: not in the moving image)"),
        ),
    ]
    if data.risk is not None and np.isfinite(data.risk).any():
        label = f"risk of an error above\n{data.large}\n(flat grey: unknown)"
        risk = draw.risk_colours(planes.plane_of(fixed, axis), planes.plane_of(data.risk, axis))
        panels.append(
            (
                "Where not to trust it",
                lambda ax: planes.draw_image(ax, risk, axis, spacing),
                (ScalarMappable(Normalize(0, 1), draw.RISK), label),
            )
        )
    return panels


def _head(figure: Figure, data: ReportData, axis: int, spacing: Sequence[float]) -> None:
    """What is shown, and in which colours."""
    fixed, moving = data.names
    _, down, right = planes.VIEWS[axis]
    names = planes.AXES
    place = data.fixed.shape[axis] // 2 * spacing[axis]
    width, height = figure.get_size_inches()
    title = [(data.title, "black")]
    legend = [
        (f"■ {fixed}", "#c000c0"),
        (f"   ■ {moving}", "#008a00"),
        ("   white: both", "black"),
        (f"   Plane {names[down]}{names[right]} at {names[axis]} = {place:.0f} µm", "black"),
        (f"   {judge(data.outcome).headline}", "black"),
    ]
    for top, size, weight, parts in (
        (0.16, _SIZES["title"], "bold", title),
        (0.62, _SIZES["text"], "normal", legend),
    ):
        _line(figure, parts, width - 2 * _GAP, _GAP / width, 1 - top / height, size, weight)


def _line(
    figure: Figure, parts: Sequence[tuple[str, str]], room: float, x: float, y: float, size: float, weight: str
) -> None:
    """Texts in their colours one after the other from (x, y), made smaller where they need more than `room` inches."""
    # A name may have a $, which is not meant as the begin of a formula.
    drawn = [
        figure.text(0, y, text, color=colour, fontsize=size, weight=weight, ha="left", va="top", parse_math=False)
        for text, colour in parts
    ]
    pixels = figure.bbox.width

    def widths() -> list[float]:
        return [text.get_window_extent().width / pixels for text in drawn]

    share = room / figure.get_figwidth()
    if sum(widths()) > share:
        smaller = size * share / sum(widths())
        for text in drawn:
            text.set_fontsize(smaller)
    for text, wide in zip(drawn, widths(), strict=True):
        text.set_x(x)
        x += wide


def _axes(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes in inches from the upper left corner, without ticks or frame."""
    wide, high = figure.get_size_inches()
    ax = figure.add_axes((left / wide, 1 - (top + height) / high, width / wide, height / high))
    ax.set_axis_off()
    return ax


def _colour_bar(figure: Figure, ax: Axes, shown: ScalarMappable, label: str) -> None:
    ax.set_axis_on()
    bar = figure.colorbar(shown, cax=ax, orientation="horizontal")
    bar.outline.set_visible(False)
    bar.ax.xaxis.set_major_locator(MaxNLocator(5))
    bar.ax.tick_params(labelsize=_SIZES["text"] - 2, length=3)
    bar.set_label(label, fontsize=_SIZES["text"], labelpad=1)
