"""Arrays that napari slices and that read no more than the slice; no Qt, no napari.

napari takes the factor between the levels of a multiscale layer from their shapes. Levels of block means leave out a
remainder, so shapes of odd sizes would say 2.01 where the factor is 2, and a level would lie half a voxel wrong at its
far side. So all levels are padded to what the coarsest one covers.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from copy import copy
from typing import Any

import numpy as np

from bigreg.errors import BigregError
from bigreg.geometry import Integers, triple
from bigreg.volumes.slicing import box_of_key

Tell = Callable[[str], Any]


def warn(message: str) -> None:
    """How napari hears of a problem: it shows warnings as notifications."""
    warnings.warn(message, stacklevel=3)


class LazyArray:
    """One level, (z, y, x), as `samples` and `fill` beyond their edges; basic slicing with integers and slices.

    A part of it that is 3-D still is a view that has read nothing: napari cuts out what the canvas shows before it
    takes the plane. `np.asarray`, or an integer among the indices, reads. What cannot be read is `fill` too, and said
    once by `tell`.
    """

    def __init__(self, samples: Any, shape: Sequence[int] | None = None, tell: Tell = warn, fill: float = 0) -> None:
        self.samples = samples
        self.shape = tuple(int(n) for n in (samples.grid.shape if shape is None else shape))
        self.dtype = np.dtype(samples.dtype)
        self.ndim = 3
        self.tell = tell
        self.fill = fill
        self._first = (0, 0, 0)
        self._told: set[str] = set()

    def __repr__(self) -> str:
        return f"LazyArray({self.shape}, {self.dtype})"

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self._read(self._first, np.add(self._first, self.shape)).astype(dtype or self.dtype, copy=False)

    def __getitem__(self, key: Any) -> LazyArray | np.ndarray:
        start, stop, rest = box_of_key(self.shape, key)
        if all(isinstance(part, slice) and part.step == 1 for part in rest):
            view = copy(self)
            view.shape = tuple(b - a for a, b in zip(start, stop, strict=True))
            view._first = triple(int(a + o) for a, o in zip(start, self._first, strict=True))
            return view
        return self._read(np.add(start, self._first), np.add(stop, self._first))[rest]

    def _read(self, start: Integers, stop: Integers) -> np.ndarray:
        first, last = (tuple(int(v) for v in corner) for corner in (start, stop))
        out = np.full(np.subtract(last, first), self.fill, self.dtype)
        inner = tuple(min(b, n) for b, n in zip(last, self.samples.grid.shape, strict=True))
        if out.size == 0 or any(a >= b for a, b in zip(first, inner, strict=True)):
            return out
        try:
            values = self.samples.read(first, inner)
        except BigregError as error:
            if str(error) not in self._told:
                self._told.add(str(error))
                self.tell(str(error))
            return out
        out[tuple(slice(0, n) for n in values.shape)] = values
        return out


def levels_of(pyramid: Sequence[Any], tell: Tell = warn, fill: float = 0) -> list[LazyArray]:
    """The levels of a pyramid as napari wants them: factors between shapes are those between spacings."""
    finest = np.asarray(pyramid[0].grid.spacing)
    factors = [np.asarray(level.grid.spacing) / finest for level in pyramid]
    whole = [np.rint(f).astype(int) for f in factors]
    kept = [
        (level, f)
        for level, f, exact in zip(pyramid, whole, factors, strict=True)
        if np.allclose(f, exact, rtol=1e-3) and not (whole[-1] % np.maximum(f, 1)).any()
    ]
    if len(kept) < len(pyramid):  # a foreign pyramid of uneven steps: its shapes are all that can be said
        return [LazyArray(level, tell=tell, fill=fill) for level in pyramid]
    last = kept[-1][1]
    covered = np.max([-(-np.multiply(level.grid.shape, f) // last) * last for level, f in kept], axis=0)
    return [LazyArray(level, covered // f, tell, fill) for level, f in kept]
