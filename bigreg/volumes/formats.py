"""The formats that can be read: one row each, and which row a path belongs to."""

from __future__ import annotations

import glob
from dataclasses import dataclass
from importlib import import_module

from ..errors import InputError
from ..storage import find_node, join, local_path
from .spec import ImageSpec
from .stored import StoredImage, label, option


@dataclass(frozen=True)
class Format:
    """A format: its suffixes, and the function `opener` of `module` (imported on first use)."""

    name: str
    suffixes: tuple[str, ...]
    module: str
    opener: str

    def open(self, spec: ImageSpec, name: str) -> StoredImage:
        return getattr(import_module(f".{self.module}", __package__), self.opener)(spec, name)


OME_ZARR = Format("OME-Zarr", (".ome.zarr",), "ome_zarr", "open_ome_zarr")
ZARR = Format("Zarr array", (".zarr",), "zarr", "open_zarr")
N5 = Format("N5", (".n5",), "n5", "open_n5")
TIFF = Format("TIFF (file, folder or glob of slices)", (".tif", ".tiff", ".btf", ".tf8"), "tiff", "open_tiff")
FORMATS = (
    OME_ZARR,
    ZARR,
    N5,
    TIFF,
    Format("NRRD", (".nrrd", ".nhdr"), "nrrd", "open_nrrd"),
    Format("NIfTI", (".nii", ".nii.gz"), "nifti", "open_nifti"),
    Format("HDF5, Imaris", (".h5", ".hdf5", ".hdf", ".ims"), "hdf5", "open_hdf5"),
)
_CONTAINERS = (OME_ZARR, ZARR, N5)


def find_format(spec: ImageSpec, name: str) -> Format:
    """The format of spec.path: by suffix for files, by what is stored there for folders and containers.

    Raises InputError where nothing is there or nothing is known about it.
    """
    local = local_path(spec.path)
    if local is not None and glob.has_magic(str(local)) and not local.exists():
        return TIFF
    if local is not None and not local.exists():
        raise InputError(f"{label(name, spec)} does not exist; check the path")
    lower = spec.path.lower().partition("?")[0]
    by_suffix = next((f for f in FORMATS if lower.endswith(f.suffixes)), None)
    if by_suffix is not None and by_suffix not in _CONTAINERS and not (local is not None and local.is_dir()):
        return by_suffix
    if local is None or local.is_dir():
        found = _container(spec, name, by_suffix)
        if found is not None:
            return found
    if local is not None and local.is_dir():
        return TIFF
    known = "; ".join(f"{f.name} ({' '.join(f.suffixes)})" for f in FORMATS)
    raise InputError(f"{label(name, spec)} is of no known format; known are {known}")


def _container(spec: ImageSpec, name: str, by_suffix: Format | None) -> Format | None:
    from .ome_zarr import is_image, ome_attributes

    node = find_node(spec.path)
    inner = find_node(join(spec.path, spec.dataset)) if spec.dataset else node
    if is_image(node) or is_image(inner):
        return OME_ZARR
    if node is not None and not spec.dataset and "bioformats2raw.layout" in ome_attributes(node):
        return OME_ZARR
    if inner is not None and inner.format.startswith("zarr") and inner.is_array:
        return ZARR
    if (inner or node) is not None and (inner or node).format == "n5":
        return N5
    if node is not None or by_suffix in (OME_ZARR, ZARR):
        what = "nothing is stored there" if inner is None else "a group is stored there, not an image"
        raise InputError(f"{label(name, spec)} is no image: {what}; pass {option(name, 'dataset')} or check the path")
    return by_suffix  # an N5 container without attributes
