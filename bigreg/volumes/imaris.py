"""Imaris .ims: HDF5 with levels, channels and time points; extents are those of the volume's faces."""

from __future__ import annotations

from typing import Any

import h5py
import numpy as np

from ..errors import CorruptDataError
from ..geometry import triple
from .spec import ImageSpec
from .stored import BoxReader, StoredImage, StoredLevel, label, pick, scaling
from .units import micrometres, number


def is_imaris(file: h5py.File) -> bool:
    return "DataSet/ResolutionLevel 0" in file and "DataSetInfo/Image" in file


def _text(attributes: Any, key: str) -> str:
    """Imaris writes its values as arrays of single characters."""
    value = np.atleast_1d(attributes.get(key, b""))
    return b"".join(v if isinstance(v, bytes) else str(v).encode() for v in value.tolist()).decode("utf-8", "replace")


def open_imaris(file: h5py.File, spec: ImageSpec, name: str) -> StoredImage:
    info = file["DataSetInfo/Image"].attrs
    ends = [[number(_text(info, f"Ext{end}{axis}")) for axis in (2, 1, 0)] for end in ("Min", "Max")]  # z, y, x
    readable = None not in (*ends[0], *ends[1])
    low, high = np.array(ends, dtype=float) if readable else (np.zeros(3), np.zeros(3))
    factor = micrometres(_text(info, "Unit") or "um")
    known = factor is not None and bool((high > low).all())
    why = "" if known else f"its unit is '{_text(info, 'Unit')}'" if factor is None else "its extents cannot be read"
    first = file["DataSet/ResolutionLevel 0"]
    times, channels = len(first), len(first["TimePoint 0"])
    pick(name, spec, "tczyx", (times, channels, 2, 2, 2))
    place = f"TimePoint {spec.time or 0}/Channel {spec.channel or 0}"
    levels: list[StoredLevel] = []
    for index in range(len(file["DataSet"])):
        group = file.get(f"DataSet/ResolutionLevel {index}/{place}")
        sizes = [number(_text(group.attrs, f"ImageSize{axis}")) for axis in "ZYX"] if group is not None else [None]
        lengths = [int(size) for size in sizes if size is not None]
        if group is None or len(lengths) != 3 or "Data" not in group:
            raise CorruptDataError(f"{label(name, spec)} has no readable level {index} of {place}; restore it")
        # The stored array may be padded to whole chunks; the image is what the sizes say.
        shape = triple(lengths)
        if levels and shape == levels[-1].shape:
            continue
        spacing = (
            (high - low) / shape * factor
            if known and factor
            else np.asarray(levels[0].shape if levels else shape) / shape
        )
        origin = low * factor + spacing / 2 if known and factor else (spacing - 1) / 2
        data = group["Data"]
        levels.append(StoredLevel(shape, scaling(spacing, origin), data.chunks or shape, BoxReader(data, "zyx")))
    return StoredImage(
        levels=tuple(levels),
        dtype=file[f"DataSet/ResolutionLevel 0/{place}/Data"].dtype,
        compression=str(file[f"DataSet/ResolutionLevel 0/{place}/Data"].compression or "not compressed"),
        metadata={"info": {key: str(value) for key, value in info.items()}, "shapes": [v.shape for v in levels]},
        channels=channels,
        times=times,
        spacing_known=known,
        spacing_from="Imaris extents",
        unstated=why,
    )
