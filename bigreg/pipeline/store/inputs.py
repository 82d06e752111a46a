"""What a caller may name as an image."""

from __future__ import annotations

import dataclasses
from typing import Any

from ...volumes import Volume, open_volume
from ...volumes.described import VolumeDescription

Image = Volume | VolumeDescription

INVERSE = ":inverse"
"""What stands after the path of a run or a transform file that is to be followed backwards."""


def as_image(source: Any, name: str) -> Image:
    """An image argument of a plan: what `as_volume` takes, or a VolumeDescription."""
    if isinstance(source, VolumeDescription):
        return dataclasses.replace(source, name=name)
    return as_volume(source, name)


def as_volume(source: Any, name: str) -> Volume:
    """An image argument: path, URL, ImageSpec, Volume, or a pair (array, spacing in um)."""
    if isinstance(source, tuple) and len(source) == 2 and hasattr(source[0], "shape"):
        return open_volume(source[0], spacing=source[1], name=name)
    return open_volume(source, name=name)
