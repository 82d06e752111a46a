"""What was understood of an image, as one line that a person can check."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .volume import Volume

_UNITS = ((1e6, "m"), (1e3, "mm"), (1.0, "µm"), (0.0, "nm"))  # from so many um on


def understood(volume: Volume, *, every: bool = False) -> dict[str, Any]:
    """What was understood, as JSON, and all of it in one `line`. Lengths in um, axes (z, y, x); counts from 0.

    every   all channels and time points are used, unless one was named when the image was opened
    """
    spacing = [float(s) for s in volume.grid().spacing]
    channel, time = volume.settings.channel or 0, volume.settings.time or 0
    known = {
        "shape": list(volume.shape),
        "spacing_um": spacing,
        "spacing_from": volume.spacing_from,
        "extent_um": [n * s for n, s in zip(volume.shape, spacing, strict=True)],
        "orientation": volume.orientation,
        "orientation_from": volume.orientation_from,
        "dtype": volume.dtype.name,
        "channel": channel,
        "channels": volume.channels,
        "channel_name": _channel_name(volume, channel),
        "time": time,
        "times": volume.times,
        "levels": len(volume.levels),
        "compression": volume.compression,
    }
    asked = volume.settings.channel, volume.settings.time
    return {**known, "line": _line(known, [every and one is None for one in asked])}


def _line(known: dict[str, Any], every: list[bool]) -> str:
    """264 x 160 x 228 voxels of 50 x 50 x 50 um (from coordinateTransformations), ..."""
    came = _source(known["spacing_from"])
    lies = f"orientation {known['orientation']}{_source(known['orientation_from'])}"
    parts = [
        f"{_times(known['shape'])} voxels of {_times(known['spacing_um'])} µm{came}",
        _length(known["extent_um"]),
        lies if known["orientation"] else "orientation not stated",
        known["dtype"],
    ]
    for what, all_of_them in zip(("channel", "time"), every, strict=True):
        number, one = known[f"{what}s"], "channel" if what == "channel" else "time point"
        if number > 1 and all_of_them:
            parts.append(f"{number} {one}s")
        elif number > 1:
            name = known.get(f"{what}_name")
            parts.append(f"{one} {known[what]} (of {number}, counted from 0{f'; {name}' if name else ''})")
        elif what == "channel":
            parts.append("1 channel")
    parts.append(f"{known['levels']} level{'s' if known['levels'] > 1 else ''}")
    return ", ".join([*parts, *([known["compression"]] if known["compression"] else [])])


def _source(known: str) -> str:
    return f" ({known if known == 'given' else f'from {known}'})" if known else ""


def _channel_name(volume: Volume, channel: int) -> str:
    named = volume.display.get("omero", {}).get("channels")
    if not isinstance(named, list) or channel >= len(named) or not isinstance(named[channel], dict):
        return ""
    return str(named[channel].get("label") or "")


def _times(values: list[float]) -> str:
    return " x ".join(f"{value:.6g}" for value in values)


def _length(extent: list[float]) -> str:
    least, unit = next((least, unit) for least, unit in _UNITS if max(extent) >= least)
    return " x ".join(f"{value / (least or 1e-3):.3g}" for value in extent) + f" {unit}"
