"""Similarity of two images on one grid, with what a symmetric Gauss-Newton step needs of it.

lncc           local correlation over a window: one contrast, shading that varies
lncc_squared   its square: contrast that is inverted here and there
ncc, mse       one linear change of contrast; none
mi, nmi        mutual information: any relation of the intensities of a patch
mind, ngf      self-similarity descriptors, gradient directions: any relation that holds in a neighbourhood
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from ..errors import ConfigError
from .features import DIRECTIONS_UNIT, MIND_UNIT, gradient_directions, mind
from .forces import Forces
from .information import mi, mutual_information, nmi
from .lncc import lncc, local_correlation
from .mse import mse
from .ncc import ncc


def _image(image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return image[None]


@dataclass(frozen=True)
class Similarity:
    """A similarity by name.

    forces     (fixed, moving, mask), each (z, y, x) -> Forces; mask is 0 or 1 in the image's dtype
    features   (image, mask), each (z, y, x) -> (C, z, y, x): what `forces` compares, channel by channel; made once a
               patch and moved with it; `channels` is C
    """

    name: str
    forces: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], Forces]
    features: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = _image
    channels: int = 1

    def __call__(self, fixed: torch.Tensor, moving: torch.Tensor, mask: torch.Tensor) -> Forces:
        """`forces` of two channels that are features already."""
        return self.forces(fixed, moving, mask)


def _similarities(radius: int, noise: float) -> list[Similarity]:
    return [
        Similarity("lncc", partial(lncc, radius=radius, noise=noise)),
        Similarity("lncc_squared", partial(lncc, radius=radius, noise=noise, squared=True)),
        Similarity("ncc", ncc),
        Similarity("mse", mse),
        Similarity("mi", mi),
        Similarity("nmi", nmi),
        Similarity("mind", mse, partial(mind, noise=noise, unit=MIND_UNIT), 12),
        Similarity("ngf", mse, partial(gradient_directions, noise=noise, unit=DIRECTIONS_UNIT), 6),
    ]


NAMES = tuple(s.name for s in _similarities(1, 0.0))


def by_name(name: str, *, radius: int = 3, noise: float = 0.01) -> Similarity:
    """The similarity called `name`. `radius` (voxels) is LNCC's window, `noise` the intensity SD that means nothing.

    Raises ConfigError for a name that does not exist.
    """
    for similarity in _similarities(radius, noise):
        if similarity.name == name:
            return similarity
    raise ConfigError(f"similarity {name!r} does not exist; choose one of {', '.join(NAMES)}")


__all__ = [
    "NAMES",
    "Forces",
    "Similarity",
    "by_name",
    "gradient_directions",
    "lncc",
    "local_correlation",
    "mi",
    "mind",
    "mse",
    "mutual_information",
    "ncc",
    "nmi",
]
