"""The figure that the Inspect panel exports: a slice before and after the deformation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import patheffects
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..shared.pictures import blended
from ..shared.planes import Plane

WIDTH = 11.0
"""Inches."""


def write_figure(path: str, plane: Plane, pairs: Sequence[Any], correlations: Sequence[np.ndarray]) -> None:
    """Two rows, before and after: fixed, moving, both (magenta, green), local correlation; the suffix is the format."""
    down, right = plane.shown
    grid = pairs[0].grid
    extent = [grid.shape[a] * grid.spacing[a] for a in (down, right)]
    height = 2 * (WIDTH / 4 * extent[0] / extent[1] + 0.35)
    figure = Figure(figsize=(WIDTH, height), dpi=200, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 4)
    for row, (pair, correlation, when) in enumerate(zip(pairs, correlations, ("affine", "deformed"), strict=True)):
        fixed, moving = (np.squeeze(image, plane.axis) for image in (pair.fixed, pair.moving))
        shown = ((fixed, "fixed"), (moving, f"moving, {when}"), (blended(fixed, moving), "both"),
                 (correlation, "local correlation 0 to 1"))  # fmt: skip
        for ax, (image, title) in zip(axes[row], shown, strict=True):
            ax.imshow(image, cmap="gray", vmin=0, vmax=1, extent=(0, extent[1], extent[0], 0), interpolation="nearest")
            ax.set_title(title, fontsize=9, loc="left", pad=3)
            ax.set_axis_off()
    _scale_bar(axes[0, 0], extent)
    figure.savefig(path)


def _scale_bar(ax: Any, extent: Sequence[float]) -> None:
    power = 10.0 ** np.floor(np.log10(extent[1] / 4))
    length = max(m * power for m in (1, 2, 5) if m * power <= extent[1] / 4)
    outline = [patheffects.withStroke(linewidth=4, foreground="black")]
    y = 0.94 * extent[0]
    x = 0.04 * extent[1]
    ax.plot([x, x + length], [y, y], color="white", linewidth=2.5, path_effects=outline, solid_capstyle="butt")
    ax.text(x, y - 0.02 * extent[0], f"{length:g} µm", color="white", fontsize=8, va="bottom", path_effects=outline)
