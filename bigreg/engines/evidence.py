"""Whether a level's forces are more than chance: what would following them gain?

A force on a control point is a sum of products: what is left between the images times the slope of the images. Where
what is left is noise, or stain that differs between rounds, such sums still are not zero. How large they are by chance
is seen when what is left is moved away from the slopes that it belongs to: its strength stays where it is, its pattern
comes from some voxels further on, along each axis. These chance forces e' have the covariance of the noise e in the
true ones, g = H u + e, also where the noise is correlated, and with them Stein's estimate tells the gain of the
velocity v = S g, S = (H + stiffness)^-1, without knowing the motion u:

    |u|^2 - |v - u|^2 = 2 u.H v - v.H v,  expected as  2 g.S g - 2 e'.S e' - v.H v        (norms in H)

H is the Gauss-Newton matrix, written as C G C^T: C C^T is the lumped 3 x 3 curvature of a control point and G the
overlap of cubic B-splines, so all of it happens on the lattice. Exchanging the images negates every force and leaves
the gain as it is.

Measured on images that do not move, chance forces have 0.93 to 1.03 of the power of the true ones with a squared
difference, whatever the noise; with LNCC 0.9 where the images are alike, 0.6 at a local correlation of 0.5, and 0.5
where they have nothing in common. There the gain is told too high, so a level is rather followed than left.

It tells whether a stiffness does more good than harm, not which is best: noise that keeps together over a whole cell
body is more than chance to it, and the stiffness that gains most by it did worse on known maps than a fixed one.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..similarity import Forces
from ..similarity.lncc import box_sum
from .gauss_newton import MidSpacePair, solve3

SHIFT = 11  # voxels: further than what is left is correlated, and than windows of local similarities reach
STRENGTH_RADIUS = 4  # voxels, of the window in which the strength of what is left is taken
STEPS = 20  # of conjugate gradients, at most
OVERLAP = tuple(n / 5040 for n in (1, 120, 1191, 2416, 1191, 120, 1))  # of cubic B-splines 0 to 3 cells apart
ENOUGH = 1e-4  # of the first squared residual; gradients stop there


def chance(pair: MidSpacePair, coefficients: torch.Tensor | None) -> torch.Tensor:
    """(3, z, y, x) a slope as `Pull.slope` is, of images that show no motion but leave as much between them.

    coefficients   where the pair is, as it is called with
    """
    fixed, moving, mask = pair.warped(coefficients)
    shifts = [min(SHIFT, n // 2) for n in mask.shape]
    axes = [axis for axis, shift in enumerate(shifts) if shift]
    there = [mask * torch.roll(mask, shifts[axis], axis) for axis in axes]
    kept = sum(float(t.sum(dtype=torch.float64)) for t in there) / max(float(mask.sum(dtype=torch.float64)), 1.0)
    found = None
    for f, m in zip(fixed, moving, strict=True):
        forces = pair.similarity(f, m, mask)
        parts = []
        for force in (forces.fixed, forces.moving):
            strength = _strength(force, mask)
            pattern = force / strength
            moved = sum(torch.roll(pattern, shifts[a], a) * t for a, t in zip(axes, there, strict=True))
            parts.append((moved * strength).contiguous())
        slope = pair.pulled(f, m, Forces(forces.loss, forces.weight, *parts, *parts))
        found = slope if found is None else found + slope
    return found / (len(fixed) * max(kept, 1e-6) ** 0.5)


def _strength(force: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    around = box_sum(mask, STRENGTH_RADIUS).clamp_min(1.0)
    return (box_sum(force * force, STRENGTH_RADIUS).clamp_min(0.0) / around).sqrt() + 1e-12


def gain(
    slope: torch.Tensor,
    matrix: torch.Tensor,
    by_chance: torch.Tensor,
    membrane: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    stiffness: torch.Tensor,
) -> float:
    """What the velocity that these forces ask for is expected to gain: of 1, all of it; below 0 it loses.

    slope, by_chance   (3, z, y, x), of a Pull and of `chance`
    matrix             (6, z, y, x), of the same Pull
    membrane           (v, stiffness) -> the gradient of the membrane's energy
    stiffness          (3 components, 3 axes)
    """
    matrix = matrix.clone()
    matrix[:3] += 1e-4 * matrix[:3].mean() + 1e-12
    root = _cholesky(matrix)
    v, null = (_solved(root, matrix, -force, stiffness, membrane) for force in (slope, by_chance))
    ours, theirs, cost = (_dot(-slope, v), _dot(-by_chance, null), _dot(v, _times(root, v)))
    return (2 * ours - 2 * theirs - cost) / ours if ours > 0 else 0.0


def _dot(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a * b).sum(dtype=torch.float64))


def _cholesky(matrix: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The lower triangle of 3 x 3 matrices in the order of PAIRS, row by row."""
    a, b, c, d, e, f = matrix
    l11 = a.sqrt()
    l21, l31 = d / l11, e / l11
    l22 = (b - l21 * l21).clamp_min(1e-12).sqrt()
    l32 = (f - l31 * l21) / l22
    l33 = (c - l31 * l31 - l32 * l32).clamp_min(1e-12).sqrt()
    return l11, l21, l22, l31, l32, l33


def _times(root: tuple[torch.Tensor, ...], v: torch.Tensor) -> torch.Tensor:
    """C G C^T v."""
    l11, l21, l22, l31, l32, l33 = root
    x, y, z = v
    w = _overlapped(torch.stack([l11 * x + l21 * y + l31 * z, l22 * y + l32 * z, l33 * z]))
    return torch.stack([l11 * w[0], l21 * w[0] + l22 * w[1], l31 * w[0] + l32 * w[1] + l33 * w[2]])


def _overlapped(v: torch.Tensor) -> torch.Tensor:
    for axis in (1, 2, 3):
        n = v.shape[axis]
        out = OVERLAP[3] * v
        for far in range(1, min(4, n)):
            w = OVERLAP[3 - far]
            out.narrow(axis, far, n - far).add_(v.narrow(axis, 0, n - far), alpha=w)
            out.narrow(axis, 0, n - far).add_(v.narrow(axis, far, n - far), alpha=w)
        v = out
    return v


def _solved(root, matrix, force, stiffness, membrane) -> torch.Tensor:
    """v of (C G C^T + membrane) v = force, by conjugate gradients; each 3 x 3 block is its preconditioner."""
    block = matrix.clone()
    block[:3] += 2 * stiffness.sum(1).reshape(3, 1, 1, 1)
    v, rest = torch.zeros_like(force), force.clone()
    eased = solve3(block, rest)
    way, size = eased.clone(), _dot(rest, eased)
    enough = ENOUGH * size
    for _ in range(STEPS):
        if size <= enough:
            break
        along = _times(root, way) + membrane(way, stiffness)
        step = size / _dot(way, along)
        v += step * way
        rest -= step * along
        eased = solve3(block, rest)
        new = _dot(rest, eased)
        way = eased + (new / size) * way
        size = new
    return v
