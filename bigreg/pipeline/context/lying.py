"""How two images lie to each other before any affine is known: by their orientation codes, or as a start says."""

from __future__ import annotations

import dataclasses

import numpy as np

from ...errors import InputError, named
from ...transforms.affine import about, apply_affine, signed_permutation
from .despeckled import Image
from .frames import Frames
from .given import GivenStart


def canonical_frame(fixed: Image, moving: Image) -> np.ndarray:
    """Canonical moving coordinates (axes along the fixed image's) to the moving world, from orientation codes."""
    if (fixed.orientation is None) != (moving.orientation is None):
        known, missing = ("fixed", "moving") if moving.orientation is None else ("moving", "fixed")
        code = (fixed if known == "fixed" else moving).orientation
        raise InputError(
            f"{known} has orientation '{code}' and {missing} has none; pass "
            f"{named(f'--{missing}-orientation', 'its orientation to open_volume')}, for instance 'asr'"
        )
    if fixed.orientation == moving.orientation:
        return np.eye(4)
    assert fixed.orientation is not None and moving.orientation is not None
    centre = apply_affine(moving.grid().affine, (np.asarray(moving.shape) - 1) / 2)
    return signed_permutation(moving.orientation, fixed.orientation, centre)


def lying(fixed: Image, moving: Image) -> np.ndarray:
    """Fixed world to moving world before registration: by the orientation codes where both are known."""
    both = fixed.orientation is not None and moving.orientation is not None
    return canonical_frame(fixed, moving) if both else np.eye(4)


def provisional(fixed: Image, moving: Image, given: GivenStart | None = None) -> Frames:
    """Frames before any affine is known: as a given start says, else the images centre on centre."""
    if given is not None:
        return dataclasses.replace(given.frames(fixed.grid(), moving.grid()), before=lying(fixed, moving))
    canonical = canonical_frame(fixed, moving)
    middle = [np.mean(v.grid().bounds(), axis=0) for v in (fixed, moving)]
    target = apply_affine(np.linalg.inv(canonical), middle[1])
    return Frames.from_affine(fixed.grid(), moving.grid(), canonical, about(np.eye(3), middle[0], target))
