"""Similarity of two images on one grid, with what a symmetric Gauss-Newton step needs of it.

Every similarity is a function (fixed, moving, mask) -> Forces on tensors (z, y, x); mask is 0 or 1 in the image's
dtype. A similarity is chosen by name with `by_name`.
"""

from collections.abc import Callable
from functools import partial

import torch

from ..errors import ConfigError
from .forces import Forces
from .lncc import lncc, local_correlation
from .mse import mse
from .ncc import ncc

Similarity = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], Forces]

NAMES = ("lncc", "ncc", "mse")


def by_name(name: str, *, radius: int = 3, noise: float = 0.01) -> Similarity:
    """The similarity called `name`. `radius` (voxels) is LNCC's window, `noise` the intensity SD that means nothing.

    Raises ConfigError for a name that does not exist.
    """
    if name == "lncc":
        return partial(lncc, radius=radius, noise=noise)
    if name == "ncc":
        return ncc
    if name == "mse":
        return mse
    raise ConfigError(f"similarity {name!r} does not exist; choose one of {', '.join(NAMES)}")


__all__ = ["NAMES", "Forces", "Similarity", "by_name", "lncc", "local_correlation", "mse", "ncc"]
