"""The images of a run by name: both first channels, further channels, and labels.

    fixed, moving               the first channel of each image; without channels, the images
    fixed-2, moving-2, ...      the second pair of channels, and so on
    fixed-labels, moving-labels     label images

An image other than the first two lies in the world of its side, and nearly everything that is known of an image is kept
under its own name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ...config import ChannelPair, Config, Intensity, Preprocess

IMAGES = ("fixed", "moving")
LABELS = ("fixed-labels", "moving-labels")


@dataclass(frozen=True)
class Pair:
    """Two images that are compared with each other.

    number       from 1
    weight       against the others
    similarity   None: that of the engine
    """

    number: int
    fixed: str
    moving: str
    weight: float
    similarity: str | None

    @property
    def images(self) -> tuple[str, str]:
        return self.fixed, self.moving


def side(which: str) -> str:
    """Whether an image is of `fixed` or `moving`."""
    return which.partition("-")[0]


def is_labels(which: str) -> bool:
    return which in LABELS


def pairs(config: Config) -> tuple[Pair, ...]:
    """Which images are compared with each other, without labels; at least one pair."""
    return tuple(
        Pair(number, _name("fixed", number), _name("moving", number), one.weight, one.similarity)
        for number, one in enumerate(config.channels or [ChannelPair()], 1)
    )


def _name(which: str, number: int) -> str:
    return which if number == 1 else f"{which}-{number}"


def images(config: Config) -> tuple[str, ...]:
    """The names of all images but labels."""
    return tuple(name for pair in pairs(config) for name in pair.images)


def everything(config: Config) -> tuple[str, ...]:
    """The names of all images of a run."""
    return images(config) + (() if config.labels is None else LABELS)


def _own(config: Config, which: str) -> ChannelPair | None:
    if not config.channels:
        return None
    number = which.partition("-")[2]
    return config.channels[int(number) - 1 if number else 0]


def intensity_of(config: Config, which: str) -> Intensity:
    """How the intensities of an image are scaled."""
    own = _own(config, which)
    return config.intensity if own is None or own.intensity is None else own.intensity


def preprocess_of(config: Config, which: str) -> Preprocess:
    """How the intensities of an image are corrected."""
    own = _own(config, which)
    chosen = config.preprocess if own is None or own.preprocess is None else own.preprocess
    found: Preprocess = getattr(chosen, side(which))
    return found


def with_preprocess(config: Config, found: Mapping[str, Preprocess]) -> Config:
    """The configuration with other corrections of some images."""
    chosen = []
    for pair, own in zip(pairs(config), config.channels or [ChannelPair()], strict=True):
        before = config.preprocess if own.preprocess is None else own.preprocess
        update = {side(name): found[name] for name in pair.images if name in found}
        chosen.append(own.model_copy(update={"preprocess": before.model_copy(update=update)}))
    if config.channels:
        return config.model_copy(update={"channels": chosen})
    return config.model_copy(update={"preprocess": chosen[0].preprocess})


def mask_of(config: Config, which: str) -> str:
    """What is compared of an image: the same of all of its channels."""
    choice: str = getattr(config.masks, side(which))
    return choice
