"""Channels of an image, by number or by name."""

from __future__ import annotations

from ..errors import InputError
from .stored import label, option
from .volume import Volume


def channel_names(volume: Volume) -> tuple[str, ...]:
    """The names of all channels, in order; none where the file does not name each."""
    named = volume.display.get("omero", {}).get("channels", ())
    names = [one.get("label") for one in named if isinstance(one, dict)]
    return tuple(map(str, names)) if len(names) == volume.channels and all(names) else ()


def channel_number(volume: Volume, asked: int | str) -> int:
    """The number, from 0, of a channel that is asked for. Raises InputError that says which there are."""
    names = channel_names(volume)
    if isinstance(asked, str) and names.count(asked) == 1:
        return names.index(asked)
    number = int(asked) if str(asked).isdecimal() else -1
    if 0 <= number < volume.channels and names.count(str(asked)) < 2:
        return number
    there = f"0 to {volume.channels - 1}" if volume.channels > 1 else "0 alone"
    told = f", by name {', '.join(names)}" if names else ", and it names none"
    what = f"has {names.count(str(asked))} channels named" if names.count(str(asked)) > 1 else "has no channel"
    raise InputError(
        f"{label(volume.name, volume.settings)} {what} {asked!r}; there are {there}{told}: pass "
        f"{option(volume.name, 'channel')}"
    )
