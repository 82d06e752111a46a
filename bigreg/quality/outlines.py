"""Pictures of regions' outlines over an image, as PNG bytes, in the manner of `figures`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

from .planes import (
    LONGEST,
    VIEWS,
    draw_image,
    draw_label,
    draw_scale_bar,
    new_axes,
    new_figure,
    plane_of,
    png,
    three_planes,
)

_LINE = "#ffd23f"


def outlines(image: np.ndarray, labels: np.ndarray, spacing: Sequence[float]) -> bytes:
    """An image (from `stretched`) and, over it, where labels (z, y, x) change; three planes through the centre."""
    return three_planes(image.shape, spacing, lambda ax, axis: _paint(ax, image, labels, spacing, axis, None))


def outlines_slice(image: np.ndarray, labels: np.ndarray, spacing: Sequence[float], axis: int, index: int) -> bytes:
    """The same for the one plane at an index of an axis."""
    _, down, right = VIEWS[axis]
    extent = [n * s for n, s in zip(image.shape, spacing, strict=True)]
    scale = LONGEST / max(extent[down], extent[right])
    size = (extent[right] * scale, extent[down] * scale)
    figure = new_figure(size)
    ax = new_axes(figure, size, (0, 0, *size))
    _paint(ax, image, labels, spacing, axis, index)
    draw_label(ax, axis, spacing, index)
    draw_scale_bar(ax, extent[right])
    return png(figure)


def outline_segments(labels: np.ndarray) -> np.ndarray:
    """(N, 2, 2) lines (column, row) in pixels between pixels of a plane whose labels differ; pixel 0 is -0.5 .. 0.5."""
    row, column = np.nonzero(labels[1:] != labels[:-1])
    level = np.stack([np.stack([column - 0.5, row + 0.5], -1), np.stack([column + 0.5, row + 0.5], -1)], 1)
    row, column = np.nonzero(labels[:, 1:] != labels[:, :-1])
    upright = np.stack([np.stack([column + 0.5, row - 0.5], -1), np.stack([column + 0.5, row + 0.5], -1)], 1)
    return np.concatenate([level, upright])


def _paint(
    ax: Axes, image: np.ndarray, labels: np.ndarray, spacing: Sequence[float], axis: int, index: int | None
) -> None:
    _, down, right = VIEWS[axis]
    draw_image(ax, np.repeat(plane_of(image, axis, index)[..., None], 3, axis=2), axis, spacing)
    lines = outline_segments(plane_of(labels, axis, index)) * (spacing[right], spacing[down])
    ax.add_collection(LineCollection(list(lines), colors=_LINE, linewidths=0.6, alpha=0.85, capstyle="projecting"))
