"""NIfTI: affine and units (RAS+, millimetres where the file does not say, as the standard has it) to (z, y, x) um.

The world's axes run to superior, anterior, right, so they start at "ipl". With neither sform nor qform (codes 0) only
the voxel sizes are stated, no orientation; so it is with Analyze, which has neither. A .nii or .img is mapped; what is
compressed is loaded whole, once a process.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from ..errors import CorruptDataError, InputError
from ..storage import local_path
from .spec import ImageSpec
from .stored import BoxReader, LoadedOnce, StoredImage, StoredLevel, counts, label, open_binary, pick
from .units import figures, micrometres, numbers

WORLD = "ipl"
HEADER_SIZES = {348, 540}
"""Bytes of a header of Analyze and NIfTI-1, and of NIfTI-2, with which it begins."""
_PAIR = (".hdr", ".img", ".hdr.gz", ".img.gz")  # header and voxels in a file each, beside each other
_ERRORS = (
    nibabel.filebasedimages.ImageFileError,
    nibabel.wrapstruct.WrapStructError,
    nibabel.spatialimages.HeaderDataError,
    OSError,
    ValueError,
    EOFError,
    zlib.error,
)


def open_nifti(spec: ImageSpec, name: str) -> StoredImage:
    if spec.path.lower().endswith(_PAIR):
        _check_pair(spec, name)
    try:
        image = _load(spec.path)
        pixdim = _pixdim(spec.path, type(image.header))
        affine, stated = _stated_affine(image.header, pixdim)
    except _ERRORS as error:
        raise CorruptDataError(f"{label(name, spec)} cannot be read as NIfTI: {error}; restore it") from error
    # File axes are x, y, z, t, then the values of a vector.
    axes = "xyztc"[: len(image.shape)] if len(image.shape) <= 5 else "?" * len(image.shape)
    picked = pick(name, spec, axes, image.shape)
    whole = spec.path.endswith(".gz") or local_path(spec.path) is None
    array: Any = LoadedOnce(spec.path, _Whole(spec.path)) if whole else _Proxy(image.dataobj)
    read = BoxReader(array, axes, picked)
    unit, said = _unit(image.header)
    flip = np.eye(4)[[2, 1, 0, 3]]  # (x, y, z) to (z, y, x), on both sides
    level_affine = np.eye(4) if affine is None else flip @ np.diag([unit, unit, unit, 1.0]) @ affine @ flip
    shape = read.per_axis(image.shape)
    return StoredImage(
        levels=(StoredLevel(shape, level_affine, shape, read),),
        dtype=_dtype(image.dataobj),
        metadata={"header": {key: str(image.header[key]) for key in image.header}},
        **counts(axes, image.shape),
        spacing_known=affine is not None,
        has_directions=stated,
        orientation=WORLD if stated else None,
        spacing_from=f"{'its affine' if stated else 'pixdim'}{said}",
        compression="gzip" if spec.path.endswith(".gz") else "not compressed",
        unstated="" if affine is not None else f"pixdim {figures(pixdim)} (x, y, z) is no voxel size",
    )


def _pair(path: Path) -> tuple[Path, Path]:
    """Header and voxels of a pair, by the path of either."""
    files = nibabel.Nifti1Pair.filespec_to_file_map(str(path))
    return Path(str(files["header"].filename)), Path(str(files["image"].filename))


def _check_pair(spec: ImageSpec, name: str) -> None:
    """Raise InputError where one of both files is not there, or the header is that of another format."""
    local = local_path(spec.path)
    if local is None:
        raise InputError(f"{label(name, spec)} is one of two files, which are read from local disks only; copy both")
    header, voxels = _pair(local)
    if header.exists():
        with nibabel.openers.ImageOpener(str(header)) as file:
            start = file.read(4)
        if not {int.from_bytes(start, "little"), int.from_bytes(start, "big")} & HEADER_SIZES:
            raise InputError(
                f"{label(name, spec)}: '{header.name}' is no header of NIfTI or Analyze; convert the image to TIFF or "
                "NIfTI"
            )
    for each in (header, voxels):
        if not each.exists():
            raise InputError(f"{label(name, spec)}: '{each.name}' is not beside it; copy it there")


def _stated_affine(header: Any, pixdim: list[float]) -> tuple[np.ndarray | None, bool]:
    """The sform, else the qform, where their codes say that they mean something; else pixdim alone, without directions.

    None where no voxel size can be read. The second value is whether the file states how the axes lie.
    """
    analyze = not isinstance(header, nibabel.Nifti1Header)
    reads: tuple[Callable[..., Any], ...] = () if analyze else (header.get_sform, header.get_qform)
    for read in reads:
        try:
            affine, code = read(coded=True)
        except (ValueError, nibabel.spatialimages.HeaderDataError):
            continue
        if code and affine is not None and np.isfinite(affine).all() and abs(np.linalg.det(affine[:3, :3])) > 1e-30:
            return np.asarray(affine, dtype=float), True
    sizes = numbers([abs(v) for v in pixdim], 3, positive=True)
    return (None if sizes is None else np.diag([*sizes, 1.0])), False


def _pixdim(path: str, kind: Any) -> list[float]:
    """The voxel size (x, y, z) as the file has it: nibabel takes 1 for 0."""
    local = local_path(path)
    if local is not None and path.lower().endswith(_PAIR):
        local = _pair(local)[0]
    with nibabel.openers.ImageOpener(str(local)) if local is not None else open_binary(path) as file:
        packed = local is None and path.endswith(".gz")
        header = kind.from_fileobj(gzip.GzipFile(fileobj=file) if packed else file, check=False)
        return [float(v) for v in header["pixdim"][1:4]]


def _unit(header: Any) -> tuple[float, str]:
    """The header's unit in um, and what a person should know of it: millimetres where it states none."""
    if not isinstance(header, nibabel.Nifti1Header):
        return 1000.0, "; taken as mm, as is usual in Analyze"
    try:
        unit = micrometres(header.get_xyzt_units()[0])
    except KeyError:  # a code that does not exist
        unit = None
    return (1000.0, "; its unit is not stated, mm by the standard") if unit is None else (unit, "")


def _load(path: str) -> Any:
    local = local_path(path)
    if local is not None:
        return nibabel.load(local)
    with open_binary(path) as file:
        data = file.read()
    if path.endswith(".gz"):
        data = gzip.decompress(data)
    return nibabel.Nifti1Image.from_bytes(data)


def _dtype(proxy: Any) -> np.dtype:
    """What is stored, or float32 where the header scales it."""
    return np.dtype(proxy.dtype) if (proxy.slope, proxy.inter) == (1.0, 0.0) else np.dtype("float32")


@dataclass(frozen=True)
class _Proxy:
    """Slices of a file that nibabel maps, in the dtype that is announced."""

    proxy: Any

    def __getitem__(self, key: tuple[Any, ...]) -> np.ndarray:
        return np.asarray(self.proxy[key]).astype(_dtype(self.proxy), copy=False)


@dataclass(frozen=True)
class _Whole:
    path: str

    def __call__(self) -> np.ndarray:
        proxy = _load(self.path).dataobj
        return np.asarray(proxy).astype(_dtype(proxy), copy=False)
