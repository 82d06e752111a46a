"""Whether the images moved further than a registration from the affine alone would follow.

Points of the fixed image are looked for in the moving one all around (engines/keypoints.py). Where those that agree
with one another lie elsewhere than a quick bending of the images takes them, the bending has missed the motion.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage

from ...engines.keypoints import keypoints, matches, texture
from ...similarity.features import mind
from ..context.pairing import REACHES
from ..tasks.pairing import NOISE, alike

CELL = 6  # voxels, each of which gives one point
SHARE = 0.75


@dataclass(frozen=True)
class Motion:
    """What pairs of points say, on a grid of about 64 voxels along the longest axis.

    found, used   how many, and how many of them agree with one another
    size          voxels that three quarters of these moved at the most after the affine; None: too few agree
    missed        the same of how far they lie from where the bending took them
    """

    found: int
    used: int
    size: float | None = None
    missed: float | None = None


UNKNOWN = Motion(0, 0)


def motion(fixed: np.ndarray, moving: np.ndarray, known: tuple[np.ndarray, np.ndarray], move: np.ndarray) -> Motion:
    """Of two images (z, y, x) of about 0..1 on one grid, where each is known, and what bending found, (3, z, y, x)."""
    padding = [(0, -n % CELL) for n in fixed.shape]
    images = [np.pad(np.ascontiguousarray(i, dtype=np.float32), padding, mode="edge") for i in (fixed, moving)]
    one, other = (np.pad(np.asarray(k, dtype=np.float32), padding) for k in known)
    cells = (images[0].shape[0] // CELL, images[0].shape[1] // CELL, images[0].shape[2] // CELL)
    points = keypoints(texture(images[0], one), (0, 0, 0), cells, CELL)
    here, there = (
        mind(torch.from_numpy(i), torch.from_numpy(k), noise=NOISE).numpy()
        for i, k in zip(images, (one, other), strict=True)
    )
    pairs = matches((here, there), (one, other), points, REACHES[0])
    count = len(pairs.ratio)
    moved = pairs.found - pairs.points
    use = alike((pairs.points + pairs.found) / 2, -moved, 1.0)
    if use is None:
        return Motion(count, 0)
    bent = np.stack([ndimage.map_coordinates(m, pairs.points[use].T, order=1, mode="nearest") for m in move], 1)
    size, missed = (float(np.quantile(np.linalg.norm(v, axis=1), SHARE)) for v in (moved[use], moved[use] - bent))
    return Motion(count, int(use.sum()), size, missed)
