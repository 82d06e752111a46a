"""Masks: where an image shows tissue that is to be compared. Given as an image, or found.

A run keeps each mask on the grid of the small image that the affine sees, so it costs no memory however large the
volume; its border is as fine as that grid (about 1/128 of the longest axis).
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage

from .. import storage
from ..errors import InputError
from ..geometry import Grid
from ..transforms.positions import Positions
from ..volumes import Volume, open_volume
from .store import RunStore

NONE, TISSUE = "none", "tissue"
SMALLEST_PIECE = 0.02  # of the largest piece of tissue; less is dirt
KNEE = 0.002  # share of the range from which on ratios count and not differences
MARGIN = 2  # voxels around what is found: the border itself is structure


def given_mask(choice: str, which: str, image: Volume) -> Volume | None:
    """The volume that a mask is given as. Raises InputError where it is missing or lies elsewhere than its image."""
    if choice in (NONE, TISSUE):
        return None
    mask = open_volume(choice, name=f"{which} mask", spacing=None)
    low, high = mask.grid().bounds(faces=True)
    first, last = image.grid().bounds(faces=True)
    if (np.minimum(high, last) <= np.maximum(low, first)).any():
        raise InputError(
            f"{which} mask '{choice}' spans {low} to {high} um and {which} {first} to {last}: they do not overlap; "
            "write the mask with the spacing and origin of its image"
        )
    return mask


def find_tissue(image: np.ndarray) -> np.ndarray:
    """(z, y, x) bool: what is brighter than background, without dirt and holes, and a small margin.

    image (z, y, x) of intensities about 0..1. The threshold is Otsu's (1979) on the logarithm of the smoothed
    intensities: light falls off within cleared tissue, and the dimmest of it is much nearer to the background than to
    the brightest. All true where there is no background.
    """
    smooth = np.log1p(ndimage.gaussian_filter(np.clip(image, 0.0, 1.0), 1.0) / KNEE)
    counts, edges = np.histogram(smooth, 256)
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    total, mass = below[-1], np.cumsum(counts * centres)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (mass[-1] * below / total - mass) ** 2 / (below * (total - below))
    # The means of the two sides must lie apart, or there is but one kind of voxel.
    cut = int(np.nanargmax(between[:-1]))
    dark, bright = mass[cut] / below[cut], (mass[-1] - mass[cut]) / (total - below[cut])
    if bright - dark < 3.0 * smooth[smooth <= centres[cut]].std():
        return np.ones(image.shape, bool)
    found = ndimage.binary_opening(smooth > centres[cut])
    pieces, number = ndimage.label(found)
    if number == 0:
        return np.ones(image.shape, bool)
    sizes = np.bincount(pieces.ravel())[1:]
    found = np.isin(pieces, 1 + np.flatnonzero(sizes >= SMALLEST_PIECE * sizes.max()))
    return ndimage.binary_dilation(ndimage.binary_fill_holes(found), iterations=MARGIN)


def make(store: RunStore, choice: str, which: str, image: np.ndarray, grid: Grid, volume: Volume) -> np.ndarray | None:
    """Make and store the mask of an image on the grid of its small copy (z, y, x); None where none is wanted."""
    if choice == NONE:
        return None
    if choice == TISSUE:
        found = find_tissue(image)
    else:
        mask = given_mask(choice, which, volume)
        level = max((k for k, each in enumerate(mask.levels) if max(each.grid.spacing) <= max(grid.spacing)), default=0)
        here = Positions.of_grid(grid)
        inside = here.inside(mask.grid(level))
        values = here.sample(lambda a, b: (mask.read(a, b, level) != 0).astype(np.float32), mask.grid(level))[0]
        found = ((values > 0.5) & inside).numpy()
    if not found.any():
        raise InputError(f"{which} mask is empty on its image; check '{choice}', its spacing and its origin")
    store.groups("masks")
    url = store.path("masks", which)
    storage.create_array(url, shape=found.shape, dtype="uint8", chunks=found.shape, exist_ok=True).write(
        (0, 0, 0), found.astype(np.uint8)
    )
    storage.write_attributes(url, {"bigreg": {"grid": grid.to_json()}})
    return found


class Mask:
    """A stored mask."""

    def __init__(self, store: RunStore, which: str) -> None:
        url = store.path("masks", which)
        self.grid = Grid.from_json(storage.read_attributes(url)["bigreg"]["grid"])
        self.values = storage.open_array(url)[...].astype(np.float32)

    def at(self, positions: Positions) -> torch.Tensor:
        """(...) bool: whether points of the image's own world show tissue. Beyond the grid its border counts."""
        box = self.values
        read = lambda a, b: box[tuple(slice(x, y) for x, y in zip(a, b, strict=True))]  # noqa: E731
        return positions.sample(read, self.grid)[0] > 0.5
