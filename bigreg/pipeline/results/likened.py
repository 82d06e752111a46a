"""An image beside the one that was registered in its frame: what it lacks is that one's, what differs is told."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np

from ...errors import SpacingError, named
from ...geometry import Grid
from ...volumes import Volume, open_volume
from ...volumes.stored import label
from ..store.inputs import as_volume

logger = logging.getLogger(__name__)
TOLERANCE = 0.05
"""By what part the extents of two images of one specimen may differ."""


def opened_like(image: Any, like: Callable[[], Volume | None], which: str, **settings: Any) -> Volume:
    """An image as `open_volume` takes it, with that function's `settings`.

    like   the registered image of its frame, asked for where the image states no voxel size: if the two have one shape,
           it lies as that one
    """
    given = {key: value for key, value in settings.items() if value is not None}
    try:
        return open_volume(image, **given) if given else as_volume(image, "image")
    except SpacingError as error:
        known = like()
        if known is None or known.shape != error.shape:
            raise
        own = {"spacing": known.grid().spacing, "origin": known.settings.origin, "orientation": known.orientation}
        volume = open_volume(image, **{**own, **given})
        volume.spacing_from = f"the {which} image, which has this shape"
        return volume


def warn_of_extent(volume: Volume, frame: Grid | None, which: str) -> None:
    """Say so where an image is not as large as the frame that it is said to lie in, or lies elsewhere."""
    if frame is None:
        return
    grid = volume.grid()
    own, its = (np.asarray(g.shape) * g.spacing for g in (grid, frame))
    slack = np.maximum(TOLERANCE * its, np.maximum(grid.spacing, frame.spacing))
    low, high = grid.bounds(faces=True)
    first, last = frame.bounds(faces=True)
    if (np.abs(own - its) > slack).any():
        same = ", though both have the same shape" if grid.shape == frame.shape else ""
        logger.warning(
            "%s: it spans %s µm (z, y, x) and the %s image %s%s; is its voxel size right? Pass %s (µm) otherwise",
            _called(volume), _lengths(own), which, _lengths(its), same,
            named("--spacing Z Y X", "open_volume's spacing"),
        )  # fmt: skip
    elif (low >= last).any() or (high <= first).any():
        logger.warning(
            "%s: it spans %s to %s µm (z, y, x), outside the %s image, which spans %s to %s; see %s",
            _called(volume), _lengths(low), _lengths(high), which, _lengths(first), _lengths(last),
            named("--origin", "open_volume's origin"),
        )  # fmt: skip


def _called(volume: Volume) -> str:
    return volume.name if volume.spec is None else label(volume.name, volume.spec)


def _lengths(values: np.ndarray) -> str:
    return " x ".join(f"{value:.4g}" for value in values)
