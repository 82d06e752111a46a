"""Boxes of an image as numpy's indices name them, for people at a prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import EllipsisType
from typing import Any

import numpy as np

from ..geometry import Shape, triple


def box_of_key(shape: Sequence[int], key: Any) -> tuple[Shape, Shape, tuple[int | slice, ...]]:
    """(start, stop, what is picked of that box) of `key`, whole numbers, slices and an ellipsis, in three dimensions.

    Raises IndexError for a place outside, and for what is no box.
    """
    keys = list(key) if isinstance(key, tuple) else [key]
    if sum(isinstance(one, EllipsisType) for one in keys) == 0:
        keys.append(...)
    gap = next(n for n, one in enumerate(keys) if isinstance(one, EllipsisType))
    keys[gap : gap + 1] = [slice(None)] * (3 - (len(keys) - 1))
    if len(keys) != 3:
        raise IndexError(f"{key!r} names more axes than z, y and x")
    starts: list[int] = []
    stops: list[int] = []
    picks: list[int | slice] = []
    for one, size in zip(keys, shape, strict=True):
        if isinstance(one, slice):
            start, stop, step = one.indices(size)
            if step < 1:
                raise IndexError(f"{one} runs backwards; read a box and turn it round")
            starts.append(start)
            stops.append(max(stop, start))
            picks.append(slice(None, None, step))
            continue
        if isinstance(one, bool | np.bool_) or not isinstance(one, int | np.integer):
            raise IndexError(f"{one!r} is not a box; an image is read by whole numbers and slices of z, y and x")
        place = int(one) + size if one < 0 else int(one)
        if not 0 <= place < size:
            raise IndexError(f"{one} is out of range for an axis of {size} voxels")
        starts.append(place)
        stops.append(place + 1)
        picks.append(0)
    return triple(starts), triple(stops), tuple(picks)


def sliced(read: Callable[[Shape, Shape], np.ndarray], shape: Sequence[int], key: Any) -> np.ndarray:
    """What `key` picks of an array of this shape that is read in boxes. Raises IndexError as `box_of_key` does."""
    start, stop, picks = box_of_key(shape, key)
    found: np.ndarray = read(start, stop)[picks]
    return found
