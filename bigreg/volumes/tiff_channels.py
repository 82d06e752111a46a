"""What a TIFF file states beside its voxels: names and colours of channels, the interval between time points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tifffile

from .tiff_calibration import ome_pixels, tag_of
from .units import number, seconds


def display_of(tiff: tifffile.TiffFile, series: int, channels: int, times: int) -> dict[str, Any]:
    """OME's "omero" where every channel has a name, and "time" (s) where several points have an interval."""
    pixels = ome_pixels(tiff, series)
    imagej = tiff.imagej_metadata or {}
    if pixels is not None:
        own = [element for element in pixels if tag_of(element) == "Channel"]
        names = [element.get("Name", "") for element in own]
        colours = [_of_ome(element.get("Color")) for element in own]
        step, unit = pixels.get("TimeIncrement"), pixels.get("TimeIncrementUnit", "s")  # the schema's default
    else:
        names = _names(imagej.get("Labels"), channels)
        colours = [_of_lut(lut) for lut in _each(imagej.get("LUTs"), channels)]
        step, unit = imagej.get("finterval"), imagej.get("tunit", "s")
    found: dict[str, Any] = {}
    if len(names) == channels and all(names):
        listed: list[dict[str, Any]] = [{"label": name} for name in names]
        for one, colour in zip(listed, colours, strict=False):
            one |= {"color": colour} if colour else {}
        found["omero"] = {"channels": listed}
    interval, length = number(step), seconds(unit)
    if times > 1 and interval and interval > 0 and length:
        found["time"] = {"step": interval * length, "unit": "second"}
    return found


def _names(labels: Any, channels: int) -> list[str]:
    """ImageJ labels each plane, channels fastest: those of a channel where all its planes agree and others differ."""
    if not isinstance(labels, Sequence) or isinstance(labels, str) or len(labels) < channels or len(labels) < 2:
        return []
    found = [set(labels[channel::channels]) for channel in range(channels)]
    if any(len(one) != 1 for one in found) or len(set.union(*found)) < channels:
        return []
    return [str(one.pop()).strip() for one in found]


def _each(values: Any, count: int) -> list[Any]:
    return list(values) if isinstance(values, Sequence) and len(values) == count else []


def _of_lut(lut: Any) -> str | None:
    """RRGGBB of the brightest value in ImageJ's look-up table, (3, 256)."""
    table = np.asarray(lut)
    return "".join(f"{int(v):02X}" for v in table[:, -1]) if table.shape == (3, 256) else None


def _of_ome(colour: str | None) -> str | None:
    """RRGGBB of OME's signed 32-bit number, red in its highest byte."""
    value = number(colour)
    return None if value is None else f"{(int(value) >> 8) & 0xFFFFFF:06X}"
