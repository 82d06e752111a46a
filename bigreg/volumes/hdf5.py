"""HDF5 with one dataset an image (spacing from `element_size_um` where it has it), and Imaris .ims."""

from __future__ import annotations

from typing import Any

import h5py
import numpy as np

from ..errors import CorruptDataError, InputError
from ..storage import local_path
from .spec import ImageSpec
from .stored import BoxReader, StoredImage, StoredLevel, counts, label, open_binary, option, pick, scaling, unnamed_axes
from .units import micrometres


def open_hdf5(spec: ImageSpec, name: str) -> StoredImage:
    """Opens spec.dataset, or the only image of the file; an Imaris file is known by its DataSetInfo."""
    local = local_path(spec.path)
    try:
        file = h5py.File(str(local) if local is not None else open_binary(spec.path), "r")
    except OSError as error:
        raise CorruptDataError(f"{label(name, spec)} cannot be read as HDF5: {error}; restore it") from error
    if spec.dataset is None and "DataSet/ResolutionLevel 0" in file and "DataSetInfo/Image" in file:
        return _open_imaris(file, spec, name)
    data = file[_only_dataset(file, spec, name)]
    axes = unnamed_axes(name, spec, data.shape)
    read = BoxReader(data, axes, pick(name, spec, axes, data.shape))
    element = data.attrs.get("element_size_um")
    known = element is not None and len(element) == 3 and bool((np.asarray(element) > 0).all())
    level = StoredLevel(
        read.per_axis(data.shape),
        scaling(element if known else (1, 1, 1)),
        read.per_axis(data.chunks or data.shape),
        read,
    )
    return StoredImage(
        levels=(level,),
        dtype=data.dtype,
        metadata={"shape": data.shape, "dtype": str(data.dtype), "attributes": _text(data.attrs)},
        **counts(axes, data.shape),
        spacing_known=known,
    )


def _only_dataset(file: h5py.File, spec: ImageSpec, name: str) -> str:
    if spec.dataset is not None:
        if not isinstance(file.get(spec.dataset), h5py.Dataset):
            raise InputError(f"{label(name, spec)} does not exist; there are {', '.join(_images(file)) or 'none'}")
        return spec.dataset
    found = _images(file)
    if len(found) != 1:
        raise InputError(
            f"{label(name, spec)} holds {len(found)} datasets with three axes or more; pass {option(name, 'dataset')} "
            f"with one of {', '.join(found) or '(none)'}"
        )
    return found[0]


def _images(file: h5py.File) -> list[str]:
    found: list[str] = []
    file.visititems(lambda path, item: found.append(path) if isinstance(item, h5py.Dataset) and item.ndim > 2 else None)
    return found


def _text(attributes: Any) -> dict[str, str]:
    return {key: str(value) for key, value in attributes.items()}


def _number(attributes: Any, key: str) -> float:
    """Imaris writes its numbers as arrays of single characters."""
    return float(b"".join(np.atleast_1d(attributes[key]).astype("S1")).decode())


def _open_imaris(file: h5py.File, spec: ImageSpec, name: str) -> StoredImage:
    info = file["DataSetInfo/Image"].attrs
    try:
        # Extents are those of the volume's faces, numbered x, y, z.
        low = np.array([_number(info, f"ExtMin{axis}") for axis in (2, 1, 0)])
        high = np.array([_number(info, f"ExtMax{axis}") for axis in (2, 1, 0)])
    except (KeyError, ValueError) as error:
        raise CorruptDataError(f"{label(name, spec)} has no readable Imaris extents ({error}); restore it") from error
    unit = b"".join(np.atleast_1d(info.get("Unit", b"um")).astype("S4")).decode("utf-8", "replace")
    factor = micrometres(unit)
    known = factor is not None and bool((high > low).all())
    first = file["DataSet/ResolutionLevel 0"]
    times, channels = len(first), len(first["TimePoint 0"])
    pick(name, spec, "tczyx", (times, channels, 2, 2, 2))
    place = f"TimePoint {spec.time or 0}/Channel {spec.channel or 0}"
    levels: list[StoredLevel] = []
    for number in range(len(file["DataSet"])):
        group = file[f"DataSet/ResolutionLevel {number}/{place}"]
        # The stored array may be padded to whole chunks; the image is what the sizes say.
        shape = tuple(int(_number(group.attrs, f"ImageSize{axis}")) for axis in "ZYX")
        if levels and shape == levels[-1].shape:
            continue
        spacing = (
            (high - low) / shape * (factor or 1) if known else np.asarray(levels[0].shape if levels else shape) / shape
        )
        origin = low * factor + spacing / 2 if known else (spacing - 1) / 2
        data = group["Data"]
        levels.append(StoredLevel(shape, scaling(spacing, origin), data.chunks or shape, BoxReader(data, "zyx")))
    return StoredImage(
        levels=tuple(levels),
        dtype=file[f"DataSet/ResolutionLevel 0/{place}/Data"].dtype,
        metadata={"info": _text(info), "shapes": [level.shape for level in levels]},
        channels=channels,
        times=times,
        spacing_known=known,
    )
