"""All images of a run, opened: channels by number, labels; and what is compared of further channels."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ... import storage
from ...config import ChannelPair, Config
from ...errors import ConfigError, InputError, named
from ...volumes import Volume, channel_number, open_volume
from .channels import IMAGES, LABELS, images, mask_of, side
from .despeckled import Image
from .label_images import LabelVolume, given_labels
from .masks import AUTO, FINITE, PADDING, GivenMask
from .padding import padding_of


def chosen_channels(config: Config, volumes: Mapping[str, Image]) -> tuple[Config, dict[str, Any]]:
    """The configuration with channels by number, and every image but labels, each opened at its channel.

    volumes   `fixed` and `moving`, and what was opened of the rest
    Raises ConfigError where a pair names no channel, InputError for a channel that is not there, and for an image that
    was opened at another one.
    """
    found: dict[str, Any] = {which: volumes[which] for which in IMAGES}
    if not config.channels:
        return config, found
    numbers = {which: _numbers(config.channels, which, volumes[which]) for which in IMAGES}
    for number in range(len(config.channels)):
        for which in IMAGES:
            name = which if number == 0 else f"{which}-{number + 1}"
            found[name] = _at(volumes[which], numbers[which][number], name)
    settled = [
        pair.model_copy(update={which: numbers[which][number] for which in IMAGES})
        for number, pair in enumerate(config.channels)
    ]
    return config.model_copy(update={"channels": settled}), found


def _numbers(pairs: list[ChannelPair], which: str, image: Image) -> list[int]:
    numbers = []
    for place, pair in enumerate(pairs):
        asked = getattr(pair, which)
        if asked is None:
            option = named(f"--{which}-channel", f"channels[{place}].{which}")
            raise ConfigError(f"channels.{place}.{which} names no channel; set it, or pass {option}")
        if isinstance(image, Volume):
            numbers.append(channel_number(image, asked))
        elif isinstance(asked, int):
            numbers.append(asked)
        else:
            raise ConfigError(f"channels.{place}.{which} = {asked!r}: hypothetical images name no channels")
    opened = image.settings.channel if isinstance(image, Volume) else None
    if opened is not None and opened != numbers[0]:
        raise InputError(
            f"{which} was opened at channel {opened}, and channels.0.{which} is {numbers[0]}: leave one of them out"
        )
    return numbers


def _at(image: Image, number: int, name: str) -> Image:
    if isinstance(image, Volume):
        return open_volume(image, channel=number, name=name)
    return dataclasses.replace(image, name=name)


def with_labels(config: Config, volumes: Mapping[str, Image]) -> tuple[Config, dict[str, LabelVolume]]:
    """The label images, and the configuration with their paths made absolute. Raises InputError."""
    if config.labels is None:
        return config, {}
    found, settled = {}, {}
    for which, name in zip(IMAGES, LABELS, strict=True):
        path, image = getattr(config.labels, which), volumes[which]
        local = storage.local_path(path)
        settled[which] = path if local is None else str(local)
        if not isinstance(image, Volume):
            raise ConfigError(f"labels.{which}: hypothetical images have no labels")
        found[name] = given_labels(path, name, image)
    return config.model_copy(update={"labels": config.labels.model_copy(update=settled)}), found


def channel_masks(
    config: Config,
    volumes: Mapping[str, Any],
    found: Mapping[str, GivenMask],
    begun: Mapping[str, Any] | None = None,
) -> dict[str, GivenMask]:
    """What is compared of further channels: what a given mask says of all, and what their own voxels say.

    config   as it was before `given_masks` settled it, which found the masks `found` of the first channels
    begun    the attributes of the run that is gone on with: padding is not looked for a second time
    """
    more = {}
    for name in images(config)[2:]:
        choice = mask_of(config, name)
        if choice in (AUTO, PADDING):
            known = None if begun is None else begun.get("masks", {}).get(name, {}).get("identity", {}).get("padding")
            padding = padding_of(volumes[name], always=choice == PADDING) if begun is None else known
            if padding is not None:
                more[name] = GivenMask(padding=padding)
        elif choice == FINITE and volumes[name].dtype.kind == "f":
            more[name] = GivenMask()
        elif side(name) in found:
            more[name] = found[side(name)]
    return more
