"""HDF5: one dataset an image, with the axes and voxel size it states; BigDataViewer's and Imaris' too."""

from __future__ import annotations

import json
from typing import Any

import h5py

from ..errors import CorruptDataError, InputError
from ..storage import local_path
from .bdv_hdf5 import is_bdv, open_bdv
from .hdf5_data import check_readable, data_of, read_as, unsigned
from .imaris import is_imaris, open_imaris
from .spec import ImageSpec
from .stored import BoxReader, StoredImage, StoredLevel, counts, label, open_binary, option, pick, scaling, unnamed_axes
from .units import figures, number, numbers


def open_hdf5(spec: ImageSpec, name: str) -> StoredImage:
    """Opens spec.dataset, or the only image of the file; an Imaris file is known by its DataSetInfo."""
    local = local_path(spec.path)
    try:
        file = h5py.File(str(local) if local is not None else open_binary(spec.path), "r")
    except OSError as error:
        raise CorruptDataError(f"{label(name, spec)} cannot be read as HDF5: {error}; restore it") from error
    if spec.dataset is None and is_imaris(file):
        return open_imaris(file, spec, name)
    if is_bdv(file):
        return open_bdv(file, spec, name)
    data = data_of(file, _only_dataset(file, spec, name), spec, name)
    check_readable(data, spec, name)
    tags = _axistags(data.attrs)
    axes = _axes(data, tags) or unnamed_axes(name, spec, data.shape)
    # netCDF's way to keep unsigned numbers in signed types
    keeps_unsigned = _word(data.attrs.get("_Unsigned", "")).lower() == "true"
    dtype = unsigned(data.dtype) if keeps_unsigned else data.dtype
    read = BoxReader(read_as(data, dtype), axes, pick(name, spec, axes, data.shape))
    element = numbers(data.attrs.get("element_size_um"), 3, positive=True)
    resolution = tuple(number(tags.get(axis, {}).get("resolution")) or 0.0 for axis in "zyx")
    unstated, likely, likely_in = "", None, "µm"
    if element is None and "element_size_um" in data.attrs:
        unstated = f"element_size_um is {_word(data.attrs['element_size_um'])}"
    elif element is None and min(resolution) > 0:
        unstated, likely = f"its axistags' resolution {figures(resolution)} (z, y, x) has no unit", resolution
    elif element is None and (itk := _itk_spacing(data)) is not None:
        unstated, likely = f"ITK's Spacing {figures(itk)} (z, y, x) has no unit", tuple(1000 * step for step in itk)
        likely_in = "mm"
    shape = read.per_axis(data.shape)
    level = StoredLevel(shape, scaling(element or (1, 1, 1)), read.per_axis(data.chunks or data.shape), read)
    return StoredImage(
        levels=(level,),
        dtype=dtype,
        metadata={"shape": data.shape, "dtype": str(dtype), "attributes": _text(data.attrs)},
        **counts(axes, data.shape),
        spacing_known=element is not None,
        spacing_from="element_size_um",
        compression=str(data.compression or "not compressed"),
        unstated=unstated,
        likely=likely,
        likely_in=likely_in,
    )


def _itk_spacing(data: h5py.Dataset) -> list[float] | None:
    """(z, y, x), where the dataset lies as in files that ITK writes."""
    beside = data.parent.get("Spacing") if data.name.endswith("/VoxelData") else None
    steps = numbers(beside[()], 3, positive=True) if isinstance(beside, h5py.Dataset) else None
    return None if steps is None else steps[::-1]


def _word(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _axistags(attributes: Any) -> dict[str, dict[str, Any]]:
    """ilastik's and vigra's axes by their letters, in the order of the array; empty where there are none."""
    try:
        tags = json.loads(_word(attributes["axistags"]))["axes"]
        return {str(tag["key"]).lower(): tag for tag in tags}
    except (KeyError, TypeError, ValueError):
        return {}


def _axes(data: h5py.Dataset, tags: dict[str, dict[str, Any]]) -> str | None:
    """The letters of axistags or of HDF5's own dimension labels, where they name every axis."""
    for letters in ("".join(tags), "".join(_word(data.dims[n].label).lower()[:1] for n in range(data.ndim))):
        if len(letters) == data.ndim == len(set(letters)) and set("yx") <= set(letters) <= set("tczyx"):
            return letters
    return None


def _only_dataset(file: h5py.File, spec: ImageSpec, name: str) -> str:
    if spec.dataset is not None:
        if not isinstance(file.get(spec.dataset, getlink=True), h5py.ExternalLink) and not isinstance(
            file.get(spec.dataset), h5py.Dataset
        ):
            raise InputError(f"{label(name, spec)} does not exist; available: {', '.join(_images(file)) or 'none'}")
        return spec.dataset
    found = _images(file)
    if not found:
        raise InputError(f"{label(name, spec)} holds no dataset with three axes or more; give a file with an image")
    if len(found) != 1:
        raise InputError(
            f"{label(name, spec)} holds {len(found)} datasets with three axes or more; pass {option(name, 'dataset')} "
            f"with one of {', '.join(found)}"
        )
    return found[0]


def _images(file: h5py.File) -> list[str]:
    found: list[str] = []
    file.visititems(lambda path, item: found.append(path) if isinstance(item, h5py.Dataset) and item.ndim > 2 else None)
    return found


def _text(attributes: Any) -> dict[str, str]:
    return {key: str(value) for key, value in attributes.items()}
