"""What a caller may name as an image."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from ...errors import InputError
from ...volumes import Volume, open_volume
from ...volumes.described import VolumeDescription
from ...volumes.stored import label, option

Image = Volume | VolumeDescription

INVERSE = ":inverse"
"""What stands after the path of a run or a transform file that is to be followed backwards."""


def require_depth(*images: Image) -> None:
    """Raise InputError where an image has a single voxel along an axis, as a map has to be known on both sides."""
    for image in images:
        if min(image.shape) < 2:
            raise InputError(f"{image.name} is 2-D (shape {image.shape}); give a 3-D image (z, y, x)")


def require_one_plane(*images: Image) -> None:
    """Raise InputError where an image has several channels or time points and none was chosen: one is compared."""
    require_depth(*images)
    for image in images:
        if not isinstance(image, Volume):
            continue
        settings = image.settings
        for what, count, asked in (
            ("channel", image.channels, settings.channel),
            ("time", image.times, settings.time),
        ):
            if count < 2 or asked is not None:
                continue
            names = [one.get("label") for one in image.display.get("omero", {}).get("channels", ())]
            named = f" ({', '.join(map(str, names))})" if what == "channel" and names and all(names) else ""
            told = "channels" if what == "channel" else "time points"
            raise InputError(
                f"{label(image.name, settings)} has {count} {told}{named}, of which one is compared; pass "
                f"{option(image.name, what)} N, counted from 0"
            )


def as_image(source: Any, name: str) -> Image:
    """An image argument of a plan: what `as_volume` takes, or a VolumeDescription."""
    if isinstance(source, VolumeDescription):
        return dataclasses.replace(source, name=name)
    return as_volume(source, name)


def as_volume(source: Any, name: str, channel: int | None = None) -> Volume:
    """An image argument: path, URL, ImageSpec, Volume, or a pair (array, spacing in um)."""
    if isinstance(source, tuple) and len(source) == 2 and hasattr(source[0], "shape"):
        return open_volume(source[0], spacing=source[1], channel=channel, name=name)
    return open_volume(source, channel=channel, name=name)


def as_pair(fixed: Any, moving: Any, channels: Sequence[Any] = (), *, plan: bool = False) -> dict[str, Image]:
    """Both image arguments, of arrays without names of their axes the first of the `channels` of a configuration.

    plan   they may be descriptions
    """
    found: dict[str, Image] = {}
    for which, source in (("fixed", fixed), ("moving", moving)):
        first = getattr(channels[0], which) if channels else None
        unnamed = isinstance(first, int) and isinstance(source, tuple)
        opened = as_volume(source, which, first) if unnamed else (as_image if plan else as_volume)(source, which)
        found[which] = opened
    return found
