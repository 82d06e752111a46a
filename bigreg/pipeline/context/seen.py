"""An image as engines see it: corrected as it is read, from estimates that the run keeps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ... import storage
from ...config import Preprocess, Stripes
from ...geometry import Grid, Shape, triple
from ...intensity import Bins, Corrections, Tiles, corrections
from ...transforms.positions import Positions
from ...volumes import block_mean
from ..store.store import RunStore
from .images import LevelImage

PLACE = "preprocess"
FLOOR = 10.0  # times the scale of the bins: a hundredth of the image's range


@dataclass(frozen=True)
class Measured:
    """On which level of an image its corrections are estimated, and with which bins."""

    factors: Shape
    bins: Bins

    def to_json(self) -> dict:
        return {"factors": list(self.factors), "low": self.bins.low, "scale": self.bins.scale}

    @classmethod
    def read(cls, store: RunStore, which: str) -> Measured | None:
        """What a run has; None before."""
        url = store.path(PLACE, which)
        known = storage.read_attributes(url).get("bigreg") if storage.exists(url) else None
        return known and cls(tuple(known["factors"]), Bins(known["low"], known["scale"]))

    @classmethod
    def known(cls, store: RunStore, which: str) -> Measured:
        """The same where it is known to be there."""
        found = cls.read(store, which)
        assert found is not None, f"{which} is measured before it is corrected"
        return found


def tiles_of(settings: Preprocess, grid: Grid) -> Tiles:
    """Tiles fine enough for all that is wanted."""
    lengths = [v for v in (settings.background_um, settings.bias_um, settings.contrast_um) if v is not None]
    return Tiles.of(grid, min(lengths, default=0.0) / 3)


def stripe_segment(settings: Stripes, grid: Grid) -> Shape:
    """Voxels of a segment of the stripes' profile along each axis."""
    length = settings.length_um
    return triple(
        1 if axis not in settings.along else n if length is None else int(np.clip(round(length / s), 1, n))
        for axis, n, s in zip("zyx", grid.shape, grid.spacing, strict=True)
    )


class StripeGain:
    """The stored profile of an image's stripes, for any of its levels."""

    def __init__(self, store: RunStore, which: str, settings: Stripes, grid: Grid) -> None:
        segment = stripe_segment(settings, grid)
        matrix = grid.affine.copy()
        matrix[:3, 3] = grid.index_to_world((np.asarray(segment) - 1) / 2)
        matrix[:3, :3] = grid.affine[:3, :3] * segment
        self._array = store.array(PLACE, which, "stripes", constant=True)
        self._grid = Grid(triple(self._array.shape), tuple(map(tuple, matrix[:3])))
        self._along = [axis in settings.along for axis in "zyx"]
        self._spacing = np.asarray(grid.spacing)

    def over(self, grid: Grid, start: Shape, stop: Shape) -> np.ndarray:
        """(z, y, x) by how much stripes dim a box of a level: the mean over each voxel."""
        ratio = np.maximum(np.rint(np.asarray(grid.spacing) / self._spacing), 1).astype(int)
        ratio[self._along] = 1
        part = grid.cropped(start, stop)
        fine = part.resampled(np.asarray(grid.spacing) / ratio)
        return block_mean(np.exp(Positions.of_grid(fine).sample(self._array.read, self._grid)[0].numpy()), ratio)


class SeenImage:
    """A level of an image with its corrections; `read` gives float32."""

    def __init__(
        self, image: LevelImage, floor: float, low: float, stripes: StripeGain | None, rest: Corrections | None
    ) -> None:
        self.image, self.grid, self.volume, self.weights = image, image.grid, image.volume, image.weights
        self.dtype = np.dtype("float32")
        self._floor, self._low, self._stripes, self._rest = floor, low, stripes, rest

    def read(self, start: Shape, stop: Shape) -> np.ndarray:
        """Voxels (z, y, x) as they are compared. Raises what LevelImage.read raises."""
        values = self.image.read(start, stop).astype(np.float32)
        if self._stripes is not None:
            base = self._low - self._floor
            values = (values - base) / self._stripes.over(self.grid, start, stop) + base
        return values if self._rest is None else self._rest.apply(values, self.grid, start)


def seen_image(
    store: RunStore, which: str, settings: Preprocess, image: LevelImage, measured: LevelImage, *, tiles: bool = True
) -> SeenImage:
    """A level of an image as engines see it; `measured` is the level that the estimates are of.

    tiles   False: without what is estimated of tiles, as those estimates themselves see it
    """
    known = Measured.known(store, which)
    stripes = None if settings.stripes is None else StripeGain(store, which, settings.stripes, measured.grid)
    rest = None
    if tiles and settings.by_tiles:
        rest = corrections(
            store.array(PLACE, which, "histograms")[...],
            known.bins,
            tiles_of(settings, measured.grid),
            background_um=settings.background_um,
            bias_um=settings.bias_um,
            clip=settings.clip,
            contrast_um=settings.contrast_um,
            contrast_limit=settings.contrast_limit,
        )
    return SeenImage(image, FLOOR * known.bins.scale, known.bins.low, stripes, rest)
