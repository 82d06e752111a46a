"""How stiff a map the images ask for: the stiffness with which one half of the voxels foretells the other best.

The images pull on the control points. A pull of every second cube of voxels, and one of those between (see
MidSpacePair.halves), see the same motion through other noise. With slope s and curvature H of a half at the place c,
and R the membrane, the map of the first half under the stiffness w is c + d with

    (2 H1 + w R) d = - (2 s1 + w R c)

and the second half gains by it, as far as its own model knows, - (s2 . d + d . H2 d / 2). A map too stiff misses
motion that both have, one too soft follows noise that the second has not. Half of the voxels have twice the noise, so
all of them ask for half of that stiffness. It is a model of small motion: for levels whose images lie about right.

Cross-validation: Stone, J. R. Stat. Soc. B 36, 111 (1974). What both halves share and is no motion, as a stain that
differs, looks like motion to it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from .gauss_newton import Pull
from .regularisers import Regulariser

STEPS = 4  # factors of two up and down from where it begins
TURNS = 32  # of conjugate gradients: the stiffest maps reach far


def best_stiffness(
    halves: tuple[Pull, Pull], c: torch.Tensor, begin: float, regulariser: Callable[[float], Regulariser]
) -> float:
    """The stiffness, within 2^STEPS of `begin`; that where the images say nothing.

    halves       of the images at c, the control points (3, z, y, x) in voxels
    regulariser  what a stiffness stands for
    """
    gains: dict[int, float] = {}

    def gain(step: int) -> float:
        if step not in gains:
            stiff = regulariser(2.0 * begin * 2.0**step)
            rest = stiff.pull(c)
            gains[step] = float(_gain(*halves, stiff, rest) + _gain(*halves[::-1], stiff, rest))  # one wait for both
        return gains[step]

    best = 0
    while True:  # the gain has one summit: walk up
        around = max((best - 1, best + 1), key=gain)
        if abs(around) > STEPS or not gain(around) > gain(best):
            break
        best = around
    return begin * 2.0 ** float(np.clip(best + _summit(gain(best - 1), gain(best), gain(best + 1)), -STEPS, STEPS))


def _gain(first: Pull, second: Pull, stiff: Regulariser, rest: torch.Tensor) -> torch.Tensor:
    """What the second half gains by the map of the first; `rest`: the regulariser's pull at c."""
    assert first.matrix is not None and second.matrix is not None, "halves have curvatures"
    curvature = 2.0 * first.matrix
    curvature[:3] += 1e-6 * curvature[:3].mean() + 1e-12
    d = stiff.solve(curvature, -(2.0 * first.slope + rest), TURNS)
    z, y, x = d
    a, b, e, zy, zx, yx = second.matrix
    bent = a * z * z + b * y * y + e * x * x + 2.0 * (zy * z * y + zx * z * x + yx * y * x)
    return -((second.slope * d).sum(dtype=torch.float64) + bent.sum(dtype=torch.float64) / 2)


def _summit(low: float, middle: float, high: float) -> float:
    """Where a parabola through values at -1, 0 and 1 is highest, if the middle one is the largest; 0 if it is flat."""
    curved = low - 2.0 * middle + high
    return float(np.clip((low - high) / (2.0 * curved), -0.5, 0.5)) if curved < 0 else 0.0
