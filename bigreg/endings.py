"""What an output's name says: the format that it is written in."""

from __future__ import annotations

import os
import re

from .errors import ConfigError

OME_ZARR, TIFF, NIFTI, NRRD = "OME-Zarr", "TIFF", "NIfTI", "NRRD"
ENDINGS = {
    OME_ZARR: (".zarr",),
    TIFF: (".tif", ".tiff"),
    NIFTI: (".nii.gz", ".nii"),
    NRRD: (".nrrd",),
}
OME_VERSIONS = ("0.4", "0.5")
_ENDING = re.compile(r"\.[a-z][a-z0-9]{0,6}$")


def output_format(out: str | os.PathLike[str]) -> str:
    """The format that the ending of an output stands for; a name without any is an OME-Zarr.

    Raises ConfigError for an ending of something that is not written.
    """
    name = os.fspath(out).rstrip("/").rsplit("/", 1)[-1].lower()
    for known, endings in ENDINGS.items():
        if name.endswith(endings):
            return known
    ending = _ENDING.search(name)
    if ending:
        raise ConfigError(
            f"'{os.fspath(out)}': images are not written as {ending[0]}; end its name in .ome.zarr, .ome.tif, .tif, "
            ".nii.gz, .nii or .nrrd"
        )
    return OME_ZARR


def check_version(out: str | os.PathLike[str], version: str | None) -> bool:
    """Whether an output is to be an OME-Zarr of before 0.5. Raises ConfigError where the two do not go together."""
    if version is None:
        return False
    if version not in OME_VERSIONS:
        raise ConfigError(f"version {version!r} of OME-Zarr is not written; use {' or '.join(OME_VERSIONS)}")
    if output_format(out) != OME_ZARR:
        raise ConfigError(f"'{os.fspath(out)}' is not an OME-Zarr, so leave version {version} of it out")
    return version == "0.4"
