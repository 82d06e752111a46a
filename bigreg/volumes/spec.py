"""Which image is meant: a small record that goes into the run store and lets any process open the image again."""

from __future__ import annotations

import math
import os
import unicodedata
from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator

from ..storage import local_path, scheme


def checked_orientation(code: str) -> str:
    """The code in lower case; ValueError where it is not three letters, one of each pair (p a, s i, l r)."""
    from brainglobe_space import AnatomicalSpace

    code = str(code).lower()
    try:
        AnatomicalSpace(code)
    except (AssertionError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"orientation '{code}' is not three letters, one of each pair (a p)(s i)(l r), such as 'psl': "
            "the side at which the z, y and x axes start"
        ) from error
    return code


def _existing(path: str) -> str:
    """The path as it is; where nothing is there, with its accents composed or decomposed, as macOS writes them."""
    if os.path.exists(path):
        return path
    forms = (unicodedata.normalize(form, path) for form in ("NFC", "NFD"))
    return next((form for form in forms if os.path.exists(form)), path)


IN_MEMORY = "memory://array"
"""The path of an array, which has none."""


class ImageSpec(BaseModel):
    """An image on disk or behind a URL, and what its file does not say or says wrongly.

    path         file, folder, glob of slices or URL; local paths are made absolute
    dataset      path inside a container (N5, Zarr, HDF5), or number of a TIFF series
    channel, time    which one where there are several; None is the first
    spacing      um (z, y, x) between voxel centres; replaces what the file says (all its lengths scale along)
    origin       um (z, y, x), world place of the first voxel's centre; replaces what the file says
    orientation  the anatomical sides at which the stored (z, y, x) axes start, such as "psl" (brainglobe-space); a
                 file's own directions are dropped for it
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    dataset: str | None = None
    channel: int | None = None
    time: int | None = None
    spacing: tuple[float, float, float] | None = None
    origin: tuple[float, float, float] | None = None
    orientation: str | None = None

    @field_validator("path", mode="before")
    @classmethod
    def _absolute(cls, value: Any) -> str:
        text = os.fspath(value)
        if not text:
            raise ValueError("path is empty")
        return _existing(str(local_path(text))) if scheme(text) == "file" else text.rstrip("/")

    @field_validator("dataset", mode="before")
    @classmethod
    def _text(cls, value: Any) -> str | None:
        return None if value is None or str(value).strip("/") == "" else str(value).strip("/")

    @field_validator("channel", "time")
    @classmethod
    def _counted(cls, value: int | None) -> int | None:
        if value is not None and value < 0:
            raise ValueError(f"{value} must be 0 or more")
        return value

    @field_validator("spacing")
    @classmethod
    def _positive(cls, value: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
        if value is not None and not all(math.isfinite(v) and v > 0 for v in value):
            raise ValueError(f"spacing {value} must be three positive numbers in µm (z, y, x)")
        return value

    @field_validator("origin")
    @classmethod
    def _finite(cls, value: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
        if value is not None and not all(math.isfinite(v) for v in value):
            raise ValueError(f"origin {value} must be three finite numbers in µm (z, y, x)")
        return value

    @field_validator("orientation")
    @classmethod
    def _anatomical(cls, value: str | None) -> str | None:
        return None if value is None else checked_orientation(value)
