"""The formats that can be read: one row each, and which row a path belongs to."""

from __future__ import annotations

import glob
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from ..errors import InputError
from ..storage import children, find_node, join, local_path, zip_parts
from .bdv import bdv_container
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
        image: StoredImage = getattr(import_module(f".{self.module}", __package__), self.opener)(spec, name)
        return image


ZIPPED = (".ozx", ".zip")
OME_ZARR = Format("OME-Zarr", (".ome.zarr", *ZIPPED), "ome_zarr", "open_ome_zarr")
ZARR = Format("Zarr array", (".zarr",), "zarr", "open_zarr")
N5 = Format("N5", (".n5",), "n5", "open_n5")
TIFF = Format("TIFF (file, folder or glob of slices)", (".tif", ".tiff", ".btf", ".tf8"), "tiff", "open_tiff")
FORMATS = (
    OME_ZARR,
    ZARR,
    N5,
    TIFF,
    Format("NRRD", (".nrrd", ".nhdr"), "nrrd", "open_nrrd"),
    Format("NIfTI", (".nii", ".nii.gz", ".hdr", ".hdr.gz", ".img", ".img.gz"), "nifti", "open_nifti"),
    Format("HDF5, Imaris", (".h5", ".hdf5", ".hdf", ".ims"), "hdf5", "open_hdf5"),
)
_CONTAINERS = (OME_ZARR, ZARR, N5)


def find_format(spec: ImageSpec, name: str) -> Format:
    """The format of spec.path: by suffix for files, by what is stored there for folders and containers.

    Raises InputError where nothing is there or nothing is known about it.
    """
    local = local_path(spec.path)
    if local is not None and not local.exists():
        if glob.has_magic(str(local)):
            return TIFF
        archive = zip_parts(spec.path)
        inside = f"; pass {archive[0]} with {option(name, 'dataset')} {archive[1]}" if archive else "; check the path"
        raise InputError(f"{label(name, spec)} does not exist{inside}")
    lower = (spec.path if local is not None else spec.path.partition("?")[0]).lower()
    by_suffix = next((f for f in FORMATS if lower.endswith(f.suffixes)), None)
    zipped = lower.endswith(ZIPPED)
    folder = local if local is not None and local.is_dir() else None
    if by_suffix is not None and by_suffix not in _CONTAINERS and folder is None:
        return by_suffix
    if local is None or folder is not None or zipped:
        found = _container(spec, name, by_suffix, zipped)
        if found is not None:
            return found
    if folder is not None:
        return _folder(spec, name, folder)
    if local is not None and lower.endswith(".xml") and (container := bdv_container(local)):
        raise InputError(f"{label(name, spec)} describes images for BigDataViewer; give their container '{container}'")
    known = "; ".join(f"{f.name} ({' '.join(f.suffixes)})" for f in FORMATS)
    raise InputError(f"{label(name, spec)} is of unknown format; known are {known}")


def _container(spec: ImageSpec, name: str, by_suffix: Format | None, zipped: bool) -> Format | None:
    from .ome_metadata import is_image, ome_attributes
    from .ome_zarr import no_image

    node = find_node(spec.path)
    inner = find_node(join(spec.path, spec.dataset)) if spec.dataset else node
    if is_image(node) or is_image(inner):
        return OME_ZARR
    if node is not None and not spec.dataset and "bioformats2raw.layout" in ome_attributes(node):
        return OME_ZARR
    if inner is not None and inner.format.startswith("zarr") and inner.is_array:
        return ZARR
    if inner is not None and inner.format.startswith("zarr"):
        raise no_image(join(spec.path, spec.dataset or ""), inner, spec, name)
    either = inner or node
    if either is not None and either.format == "n5":
        return N5
    if zipped and node is None:
        tops = [top for top in children(spec.path) if not top.startswith((".", "__MACOSX"))]
        if not spec.dataset and len(tops) == 1 and find_node(join(spec.path, tops[0])) is not None:
            raise InputError(
                f"{label(name, spec)}: the archive holds the folder '{tops[0]}'; pass "
                f"{option(name, 'dataset')} '{tops[0]}'"
            )
        raise InputError(f"{label(name, spec)}: the archive holds no Zarr image; pass {option(name, 'dataset')}")
    if node is not None or by_suffix in (OME_ZARR, ZARR):
        what = "nothing is stored there"
        raise InputError(
            f"{label(name, spec)} is not an image: {what}; pass {option(name, 'dataset')} or check the path"
        )
    return by_suffix  # an N5 container without attributes


def _folder(spec: ImageSpec, name: str, folder: Path) -> Format:
    """A folder that is no container: slices, or an N5 container that was named otherwise."""
    seen = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    if spec.dataset is None and any(entry.name.lower().endswith(TIFF.suffixes) for entry in seen):
        return TIFF
    from .n5 import find_datasets

    if find_datasets(join(spec.path, spec.dataset or "")):
        return N5
    images = [
        entry.name for entry in seen if entry.name.lower().endswith(tuple(s for f in FORMATS for s in f.suffixes))
    ]
    if images:
        shown = ", ".join(sorted(images)[:5])
        raise InputError(f"{label(name, spec)} is a folder without TIFF slices; it holds {shown}: give one of them")
    if spec.dataset is not None:
        raise InputError(f"{label(name, spec)} does not exist; check {option(name, 'dataset')}")
    if seen:
        shown = ", ".join(sorted(entry.name for entry in seen)[:3])
        raise InputError(
            f"{label(name, spec)} holds no TIFF slices; it holds {shown}{', ...' if len(seen) > 3 else ''}; save "
            "planes as TIFF, or give the folder or glob that holds them"
        )
    return TIFF
