"""An OME-Zarr 0.5 as 0.4, which is Zarr v2: for programs that do not read the newer one yet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import zarr
from numcodecs import Blosc

from ..storage import join, open_array, read_attributes
from .convert import boxes


def write_04(source: str, target: Path, *, progress: Callable[[int, int, str], None] | None = None) -> None:
    """Copy the image of this package at `source`, every level of it, to the new folder `target`.

    Chunks are those of the source; its shards, which 0.4 has not, become files of their own.
    """
    attributes = read_attributes(source)
    ome = dict(attributes["ome"])
    ome.pop("version")
    multiscale = {**ome.pop("multiscales")[0], "version": "0.4"}
    own = {"bigreg": attributes["bigreg"]} if "bigreg" in attributes else {}
    group = zarr.create_group(target, zarr_format=2, attributes={"multiscales": [multiscale], **ome, **own})
    levels = [str(dataset["path"]) for dataset in multiscale["datasets"]]
    arrays = [open_array(join(source, level)) for level in levels]
    jobs = []
    for level, array in zip(levels, arrays, strict=True):
        blosc = Blosc(cname="zstd", clevel=3, shuffle=Blosc.SHUFFLE if array.dtype.itemsize > 1 else Blosc.NOSHUFFLE)
        copy = group.create_array(
            level, shape=array.shape, dtype=array.dtype, chunks=array.chunks, compressors=blosc, fill_value=0,
            chunk_key_encoding={"name": "v2", "separator": "/"},
        )  # fmt: skip
        unit = (array.shards or array.chunks)[-3:]
        for lead in np.ndindex(array.shape[:-3]):
            jobs += [(array, copy, lead, start, stop) for start, stop in boxes(array.shape[-3:], unit)]
    for number, (array, copy, lead, start, stop) in enumerate(jobs):
        data = array.read((*lead, *start), (*(n + 1 for n in lead), *stop))
        box = (*(slice(n, n + 1) for n in lead), *(slice(a, b) for a, b in zip(start, stop, strict=True)))
        copy[box] = data
        if progress is not None:
            progress(number + 1, len(jobs), "write")
