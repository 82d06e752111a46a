"""What a warped image is written as: an OME-Zarr where it is to be, or one beside it of which a file is made."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ... import storage
from ...endings import OME_ZARR, check_version, output_format
from ...errors import ConfigError, OutputError
from ...volumes import Volume, open_volume
from ...volumes.convert import voxel_dtype
from ...volumes.labelled import looks_like_labels
from .resample import PLACE

Progress = Callable[[int, int, str], None]


def chosen_interpolation(volume: Volume) -> tuple[str, str]:
    """How an image is interpolated where nobody says, and one line of why; empty where that is linear."""
    why = looks_like_labels(volume)
    return ("linear", "") if why is None else ("nearest", f"interpolation: nearest, as {why}")


@dataclass(frozen=True)
class Output:
    """An output: `made_at` is where the OME-Zarr is resampled into, which is `url` itself where nothing else is made.

    dtype, levels   None is the image's, and all of a pyramid
    """

    url: str
    made_at: str
    dtype: str | None
    levels: int | None
    older: bool = False

    @classmethod
    def of(cls, out: str, dtype: Any, levels: int | None, ome_version: str | None) -> Output:
        """Raises ConfigError for what is not written, OutputError where something is at `out` already."""
        older = check_version(out, ome_version)
        kind = output_format(out)
        local = storage.local_path(out)
        name = None if dtype is None else voxel_dtype(dtype).name
        url = out if local is None else str(local)
        if kind == OME_ZARR and not older:
            return cls(url, url, name, levels)
        if kind != OME_ZARR and levels is not None:
            raise ConfigError(f"'{out}' is one image without levels; leave levels out, or write .ome.zarr")
        if local is None:
            raise OutputError(f"'{out}' is written to disks of this machine; choose one, or write .ome.zarr")
        if storage.exists(url):
            raise OutputError(f"'{out}' exists already; choose another output or remove it")
        place = Path(os.path.realpath(url))
        made_at = str(place.with_name(f".{place.name}.warping.ome.zarr"))
        if storage.exists(made_at) and not storage.exists(storage.join(made_at, PLACE)):
            storage.remove(made_at)  # finished, by whatever command, but the file of it was not
        return cls(str(place), made_at, name, levels if older else 1, older)

    def require_dtype(self, volume: Volume) -> None:
        """Raise InputError where the format does not hold what is resampled: at the end it would be hours too late."""
        if output_format(self.url) != OME_ZARR:
            from ...volumes.image_files import dtype_in

            dtype_in(self.url, self.dtype or volume.dtype)

    def finished(self, made: Volume, progress: Progress | None) -> Volume:
        """The output of what was resampled."""
        if self.url == self.made_at:
            return made
        if self.older:
            from ...volumes.ome_zarr_04 import write_04

            part = f"{self.made_at}.04"
            storage.remove(part)
            write_04(self.made_at, Path(part), progress=progress)
            os.rename(part, self.url)
        else:
            from ...volumes.image_files import write_file

            write_file(made, self.url, progress=progress)
        storage.remove(self.made_at)
        return open_volume(self.url)
