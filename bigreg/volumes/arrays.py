"""numpy and dask arrays in memory, as images."""

from __future__ import annotations

from typing import Any

import numpy as np

from .spec import ImageSpec
from .stored import BoxReader, StoredImage, StoredLevel, counts, pick, scaling, unnamed_axes


def open_in_memory(array: Any, spec: ImageSpec, name: str) -> StoredImage:
    """`array` is anything with shape, dtype and slicing; a dask array is computed box by box."""
    axes = unnamed_axes(name, spec, array.shape)
    read = BoxReader(array, axes, pick(name, spec, axes, array.shape))
    # dask calls them chunksize; `chunks` is there a tuple of tuples.
    chunks = read.per_axis(getattr(array, "chunksize", array.shape))
    level = StoredLevel(read.per_axis(array.shape), scaling((1, 1, 1)), chunks, read)
    return StoredImage(
        levels=(level,),
        dtype=np.dtype(array.dtype),
        metadata={"shape": list(array.shape), "dtype": str(array.dtype)},
        **counts(axes, array.shape),
        spacing_known=False,
    )
