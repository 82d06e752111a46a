"""BigDataViewer's HDF5: setups and time points of levels, with the voxel sizes in the XML beside.

It keeps unsigned 16-bit numbers as signed ones, because Java has no others.
"""

from __future__ import annotations

import re

import h5py
import numpy as np

from ..errors import InputError
from .bdv import bdv_size
from .hdf5_data import check_readable, data_of, read_as, unsigned
from .levels import block_means
from .spec import ImageSpec
from .stored import BoxReader, StoredImage, StoredLevel, label, option, pick, scaling
from .units import numbers


def is_bdv(file: h5py.File) -> bool:
    return bool(_setups(file)) and bool(_times(file))


def _setups(file: h5py.File) -> list[str]:
    return sorted(key for key in file if re.fullmatch(r"s\d+", key) and "resolutions" in file[key])


def _times(file: h5py.File) -> list[str]:
    return sorted(key for key in file if re.fullmatch(r"t\d+", key))


def open_bdv(file: h5py.File, spec: ImageSpec, name: str) -> StoredImage:
    """Opens a setup, the only one or the one that spec.dataset names: s00, t00000/s00, or one of its levels."""
    setups, times = _setups(file), _times(file)
    place = spec.dataset or (setups[0] if len(setups) == 1 else "")
    asked = re.fullmatch(r"(?:(t\d+)/)?(s\d+)(?:/(\d+))?(?:/cells)?", place)
    if asked is None or asked[2] not in setups or (asked[1] and asked[1] not in times):
        many = "does not exist" if spec.dataset else f"holds {len(setups)} setups of BigDataViewer"
        raise InputError(f"{label(name, spec)} {many}; pass {option(name, 'dataset')} with one of {', '.join(setups)}")
    setup, start = asked[2], int(asked[3] or 0)
    at = [asked[1]] if asked[1] else times
    pick(name, spec, "tczyx", (len(at), 1, 2, 2, 2))
    time = at[spec.time or 0]
    factors = np.asarray(file[setup]["resolutions"], dtype=float)
    size = bdv_size(spec.path, int(setup[1:]))
    levels: list[StoredLevel] = []
    dtype: np.dtype | None = None
    for number in range(start, len(factors)):
        data = data_of(file, f"{time}/{setup}/{number}/cells", spec, name)
        check_readable(data, spec, name)
        stored = unsigned(data.dtype)
        dtype = dtype or stored
        zyx = numbers(factors[number][::-1], 3, positive=True)
        affine = None if zyx is None else scaling(size.spacing or (1, 1, 1)) @ block_means(zyx)
        read = BoxReader(read_as(data, stored), "zyx")
        levels.append(StoredLevel(data.shape, affine, data.chunks or data.shape, read))
    if not levels or dtype is None:
        raise InputError(f"{label(name, spec)} does not exist; {setup} has {len(factors)} levels")
    return StoredImage(
        levels=tuple(levels),
        dtype=dtype,
        metadata={"place": f"{time}/{setup}", "resolutions": factors.tolist(), "shapes": [v.shape for v in levels]},
        times=len(at),
        spacing_known=size.spacing is not None,
        spacing_from="the XML beside",
        unstated=size.unstated,
        likely=size.likely,
    )
