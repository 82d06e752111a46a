"""An image that need not exist: its shape, type and place are enough to plan with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np

from ..errors import InputError, named
from ..geometry import Grid, Shape, Vector, triple
from .multiscale import CHUNKS
from .pyramid import pyramid_factors
from .volume import Level, Volume


@dataclass(frozen=True)
class VolumeDescription:
    """What a plan needs to know about an image.

    shape     voxels (z, y, x)
    spacing   um (z, y, x)
    dtype     of a voxel
    name      what it is called in messages: fixed, moving
    pyramid   whether it brings coarser levels, as `bigreg convert` writes them; without, a run makes its own
    chunks    what is decoded at once (z, y, x)

    Raises InputError for a shape, spacing or dtype that no image has.
    """

    shape: Shape
    spacing: Vector
    dtype: np.dtype | str | type = "uint16"
    name: str = "image"
    origin: Vector = (0.0, 0.0, 0.0)
    orientation: str | None = None
    pyramid: bool = False
    chunks: Shape = CHUNKS

    def __post_init__(self) -> None:
        try:
            shape, chunks = (tuple(int(n) for n in v) for v in (self.shape, self.chunks))
            if len(shape) != 3 or min(shape) < 2 or len(chunks) != 3 or min(chunks) < 1:
                raise ValueError
        except (TypeError, ValueError) as error:
            raise InputError(
                f"{self.name}: shape {self.shape} in chunks of {self.chunks} is no 3-D image; "
                "give three numbers of voxels (z, y, x), each at least 2"
            ) from error
        try:
            dtype = np.dtype(self.dtype)
        except TypeError as error:
            raise InputError(
                f"{self.name}: dtype {self.dtype!r} does not exist; give uint8, uint16, float32"
            ) from error
        if dtype.kind not in "biuf":
            raise InputError(f"{self.name}: dtype {dtype} is not plain numbers; give integers or floats")
        try:
            Grid.from_spacing(shape, self.spacing, self.origin)
        except (TypeError, ValueError) as error:
            raise InputError(f"{self.name}: {error}") from error
        for key, value in (("shape", shape), ("chunks", chunks), ("dtype", dtype)):
            object.__setattr__(self, key, value)

    @classmethod
    def as_kept(cls, volume: Volume) -> VolumeDescription:
        """How an array in memory lies in the run that keeps it."""
        grid = volume.grid()
        return cls(volume.shape, grid.spacing, volume.dtype, volume.name, grid.origin, volume.orientation, pyramid=True)

    @cached_property
    def levels(self) -> tuple[Level, ...]:
        base = Grid.from_spacing(self.shape, self.spacing, self.origin)
        factors = pyramid_factors(base) if self.pyramid else [(1, 1, 1)]
        return tuple(Level(base.downsampled(f), triple(map(float, f))) for f in factors)

    def grid(self, level: int = 0) -> Grid:
        return self.levels[level].grid


def described(
    *,
    shape: Sequence[int] | None,
    spacing: Sequence[float] | None,
    dtype: Any = None,
    moving_shape: Sequence[int] | None = None,
    moving_spacing: Sequence[float] | None = None,
    pyramid: bool | None = None,
) -> list[VolumeDescription]:
    """Two images that need not exist: voxels (z, y, x), um (z, y, x), dtype (default uint16).

    pyramid: they bring coarser levels. What is not said of moving is as of fixed. Raises InputError.
    """
    if shape is None or spacing is None:
        missing = [name for name, value in (("shape", shape), ("spacing", spacing)) if value is None]
        raise InputError(
            f"no images, and {' and '.join(missing)} missing; "
            + named("give FIXED and MOVING, or --shape and --spacing", "give fixed and moving, or shape and spacing")
        )
    more: dict[str, Any] = {"dtype": dtype or "uint16", "pyramid": bool(pyramid)}
    return [
        VolumeDescription(cast(Shape, shape), cast(Vector, spacing), name="fixed", **more),
        VolumeDescription(
            cast(Shape, moving_shape or shape), cast(Vector, moving_spacing or spacing), name="moving", **more
        ),
    ]
