"""Datasets of HDF5 files: what has to be there and known before they are read, and numbers kept in other types."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np

from ..errors import InputError
from .spec import ImageSpec
from .stored import label

# The registered filters that microscopes use, by their numbers.
_FILTERS = {
    307: "bzip2",
    32000: "lzf",
    32001: "blosc",
    32004: "lz4",
    32008: "bitshuffle",
    32013: "zfp",
    32015: "zstd",
    32016: "b3d",
    32019: "jpeg",
    32024: "jpeg-ls or klb",
    32026: "blosc2",
    32028: "jpegxl",
}


def data_of(file: h5py.File, path: str, spec: ImageSpec, name: str) -> h5py.Dataset:
    """The dataset at `path`; InputError naming the file that it lies in where that one is not there."""
    missing = _missing_link(file, path)
    if missing:
        raise InputError(f"{label(name, spec)}: '{path}' is in the file '{missing}', which is missing; copy it too")
    data = file.get(path)
    if not isinstance(data, h5py.Dataset):
        raise InputError(f"{label(name, spec)}: no dataset '{path}'; the file is not complete")
    return data


def _missing_link(file: h5py.File, path: str) -> str | None:
    place = ""
    for part in path.strip("/").split("/"):
        place = f"{place}/{part}"
        link = file.get(place, getlink=True)
        if isinstance(link, h5py.ExternalLink) and file.get(place) is None:
            return str(link.filename)
        if link is None:
            return None
    return None


def check_readable(data: h5py.Dataset, spec: ImageSpec, name: str) -> None:
    """Raises InputError for a filter that is not installed and for other files that are missing.

    HDF5 would read what lies in a missing file as black.
    """
    folder = os.path.dirname(data.file.filename) if isinstance(data.file.filename, str) else ""
    named = [source.file_name for source in data.virtual_sources()] if data.is_virtual else []
    named += [entry[0] for entry in data.external or []]
    missing = sorted({n for n in named if n != "." and not os.path.exists(os.path.join(folder, n)) and "%" not in n})
    if missing:
        raise InputError(
            f"{label(name, spec)}: parts of it are in missing files: {', '.join(missing[:5])}; copy them too"
        )
    properties = data.id.get_create_plist()
    for index in range(properties.get_nfilters()):
        number, _, _, described = properties.get_filter(index)
        if not _available(number):
            word = _FILTERS.get(number) or described.decode(errors="replace") or "unknown"
            raise InputError(
                f"{label(name, spec)}: its HDF5 filter {word} (number {number}) is not supported here; "
                "pip install hdf5plugin, or write the file again with gzip"
            )


def _available(number: int) -> bool:
    if h5py.h5z.filter_avail(number):
        return True
    try:
        import hdf5plugin  # noqa: F401  registers its filters
    except ImportError:
        return False
    return bool(h5py.h5z.filter_avail(number))


def unsigned(dtype: np.dtype) -> np.dtype:
    """The unsigned type of the same width as a signed one."""
    return np.dtype(f"u{dtype.itemsize}") if dtype.kind == "i" else dtype


@dataclass(frozen=True)
class _As:
    data: h5py.Dataset
    dtype: np.dtype

    def __getitem__(self, key: Any) -> np.ndarray:
        found = np.asarray(self.data[key])
        return found.astype(found.dtype.newbyteorder("="), copy=False).view(self.dtype)


def read_as(data: h5py.Dataset, dtype: np.dtype) -> Any:
    """The dataset with its bits taken as numbers of another type of the same width."""
    return data if data.dtype == dtype else _As(data, dtype)
