"""Regularisers of `optimise`: quadratic energies of the control points, and the linear system of a step with each.

All are sums over the lattice of squared differences in um, so that neither spacing nor anisotropy changes what they
mean. With u the velocity in um at the control points, h an edge of the lattice in um and W = strength:

membrane   W/2 sum |grad u|^2. Costs nothing: shifts.
elastic    W/2 sum (2 mu |e|^2 + lambda tr(e)^2), e the symmetric part of grad u. Costs nothing: shifts and
           infinitesimal rotations.
bending    W/2 sum L^2 |Hessian u|^2, mixed terms included. Costs nothing: affine motions.

One strength means about one stiffness for a smooth motion. For a wave of wave vector k the membrane's energy is |k|^2
whatever its direction; the elastic energy is mu |k|^2 for shear and (2 mu + lambda) |k|^2 for a change of volume, whose
mean over the three directions of motion is the membrane's where 4 mu + lambda = 3; the bending energy is L^2 |k|^4,
which is the membrane's at a wavelength of 2 pi L, and L is the edge of a lattice cell (geometric mean of the axes).

Each has a `pull`, the gradient of its energy c . pull(c) / 2, and the own block of each point, which is the true
diagonal of `pull`. All are linear, so swapping the images negates what a step finds.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Protocol

import torch

from ..kernels import usable
from .gauss_newton import PAIRS
from .membrane import TURNS, conjugate_gradients, membrane, solve

KINDS = ("membrane", "elastic", "bending")


class Regulariser(Protocol):
    """A quadratic energy c . pull(c) / 2 of control points (3, z, y, x) in voxels."""

    def pull(self, c: torch.Tensor) -> torch.Tensor:
        """(3, z, y, x) gradient of the energy."""
        ...

    def solve(self, matrix: torch.Tensor, right: torch.Tensor, turns: int = TURNS) -> torch.Tensor:
        """x of (matrix + pull) x = right; see membrane.solve."""
        ...


def regulariser(
    kind: str, points: Sequence[int], voxel: torch.Tensor, samples: Sequence[int], strength: float, volume: float = 1.0
) -> Regulariser:
    """The regulariser `kind` of KINDS for lattices of so many points (z, y, x).

    voxel      (3,) um; its type and device are those of the control points
    samples    voxels a lattice cell
    strength   W: the weight of a squared strain at a control point
    volume     of the elastic: lambda / mu
    """
    if kind == "membrane":
        return Membrane(voxel, samples, strength)
    if kind == "elastic":
        return Elastic(points, voxel, samples, strength, volume)
    if kind == "bending":
        return Bending(points, voxel, samples, strength)
    raise ValueError(f"regulariser {kind!r} does not exist; there are {', '.join(KINDS)}")


class Membrane:
    """The squared gradient. On a CPU and a GPU its system has kernels of its own."""

    def __init__(self, voxel: torch.Tensor, samples: Sequence[int], strength: float) -> None:
        self.weights = strength * edge_weights(voxel, samples)

    def pull(self, c: torch.Tensor) -> torch.Tensor:
        return membrane(c, self.weights)

    def solve(self, matrix: torch.Tensor, right: torch.Tensor, turns: int = TURNS) -> torch.Tensor:
        return solve(matrix, self.weights, right, turns)


class Elastic:
    """Linear elasticity: mu weighs shear, lambda a change of volume.

    At each of its eight corners a cell has a strain, of the three edges that meet there, and an eighth of the cell's
    energy; so an edge at the border of the lattice belongs to fewer cells and weighs less, and no rigid motion costs
    anything. What has a single point along an axis does not change along it.
    """

    def __init__(
        self, points: Sequence[int], voxel: torch.Tensor, samples: Sequence[int], strength: float, volume: float
    ) -> None:
        mu = 3 * strength / (4 + volume)
        first = volume * mu
        edge = _edges(voxel, samples)
        share = [_along(_shares(n), axis, voxel) for axis, n in enumerate(points)]
        diagonal = torch.full((3, 3), mu, dtype=voxel.dtype, device=voxel.device)
        diagonal.fill_diagonal_(2 * mu + first)
        weights = diagonal * edge_weights(voxel, samples)
        self.edges = [weights[:, a].reshape(3, 1, 1, 1) * share[a - 2] * share[a - 1] for a in range(3)]
        self.faces = []
        for a, b in combinations(range(3), 2):
            scale = voxel[a] * voxel[b] / (edge[a] * edge[b]) / 4 * share[3 - a - b]
            self.faces.append((a, b, (first + mu) * scale[0], (first - mu) * scale[0]))
        ends = [_along(_ends(n), axis, voxel) for axis, n in enumerate(points)]
        self.own = voxel.new_zeros(6, *points)
        for a, n in enumerate(points):
            self.own[:3] += self.edges[a] * _along(_firsts(n), a, voxel)
        for a, b, both, _ in self.faces:
            self.own[PAIRS.index((a, b))] = (both * ends[a] * ends[b])[0]

    def pull(self, c: torch.Tensor) -> torch.Tensor:
        out = torch.zeros_like(c)
        for axis, weights in enumerate(self.edges):
            d = torch.diff(c, dim=axis + 1) * weights
            out.narrow(axis + 1, 1, d.shape[axis + 1]).add_(d)
            out.narrow(axis + 1, 0, d.shape[axis + 1]).sub_(d)
        # On a face of the lattice the mean slope along a is half the sum of the differences along its two diagonals,
        # that along b half of what they differ: lambda ties each component's own slopes, mu each other's.
        for a, b, both, odd in self.faces:
            rise_a, fall_a = _diagonals(c[a], a, b)
            rise_b, fall_b = _diagonals(c[b], a, b)
            _add_diagonals(out[a], a, b, both * rise_b - odd * fall_b, odd * rise_b - both * fall_b)
            _add_diagonals(out[b], a, b, both * rise_a + odd * fall_a, -odd * rise_a - both * fall_a)
        return out

    def solve(self, matrix: torch.Tensor, right: torch.Tensor, turns: int = TURNS) -> torch.Tensor:
        return conjugate_gradients(matrix, matrix + self.own, self.pull, right, turns)


class Bending:
    """The squared second derivatives, free at the border. Its system has kernels of its own, on a CPU the pull too."""

    def __init__(self, points: Sequence[int], voxel: torch.Tensor, samples: Sequence[int], strength: float) -> None:
        edge = _edges(voxel, samples)
        length = edge.log().mean().exp()
        # (3 components, 3 axes, 3 axes) of second differences in voxels
        self.stiffness = strength * (length * voxel[:, None, None] / (edge[:, None] * edge)).square()
        self.weights = self.stiffness.reshape(3, 3, 3, 1, 1, 1)
        self.own = voxel.new_zeros(6, *points)
        firsts = [_along(_firsts(n), axis, voxel) for axis, n in enumerate(points)]
        for a, n in enumerate(points):
            self.own[:3] += self.weights[:, a, a] * _along(_seconds(n), a, voxel)
        for a, b in combinations(range(3), 2):
            self.own[:3] += 2 * self.weights[:, a, b] * firsts[a] * firsts[b]

    def pull(self, c: torch.Tensor) -> torch.Tensor:
        if _swept(c):
            from .bending_cpu import pull

            out = torch.empty_like(c, memory_format=torch.contiguous_format)
            pull(self.stiffness.numpy(), c.contiguous().numpy(), out.numpy())
            return out
        return self.by_tensors(c)

    def by_tensors(self, c: torch.Tensor) -> torch.Tensor:
        """The pull, by tensor operations."""
        out = torch.zeros_like(c)
        for a in range(3):
            n = c.shape[a + 1]
            if n < 3:
                continue
            bent = torch.diff(c, n=2, dim=a + 1) * self.weights[:, a, a]
            for start, factor in ((0, 1.0), (1, -2.0), (2, 1.0)):
                out.narrow(a + 1, start, n - 2).add_(bent, alpha=factor)
        for a, b in combinations(range(3), 2):
            d = torch.diff(torch.diff(c, dim=a + 1), dim=b + 1) * (2 * self.weights[:, a, b])
            for p in range(2):
                for q in range(2):
                    part = out.narrow(a + 1, p, d.shape[a + 1]).narrow(b + 1, q, d.shape[b + 1])
                    part.add_(d, alpha=1.0 if p == q else -1.0)
        return out

    def solve(self, matrix: torch.Tensor, right: torch.Tensor, turns: int = TURNS) -> torch.Tensor:
        if usable(matrix, self.stiffness, right):
            from .bending_cuda import solve as kernels

            return kernels(matrix, self.own, self.stiffness, right, turns)
        own = matrix + self.own
        if _swept(right):
            from .bending_cpu import solve as sweeps

            out = torch.empty_like(right, memory_format=torch.contiguous_format)
            arrays = (t.contiguous().numpy() for t in (matrix, own, self.stiffness, right))
            sweeps(*arrays, turns, out.numpy())
            return out
        return conjugate_gradients(matrix, own, self.by_tensors, right, turns)


def _swept(c: torch.Tensor) -> bool:
    """Whether a sweep of the CPU computes what is made of this."""
    return c.device.type == "cpu" and c.dtype == torch.float32


def edge_weights(voxel: torch.Tensor, samples: Sequence[int]) -> torch.Tensor:
    """(3 components, 3 axes) what turns a squared difference along a lattice edge, in voxels, into a squared strain."""
    return (voxel[:, None] / _edges(voxel, samples)[None, :]).square()


def _edges(voxel: torch.Tensor, samples: Sequence[int]) -> torch.Tensor:
    """(3,) edge of a lattice cell, um."""
    return voxel * torch.tensor(samples, dtype=voxel.dtype, device=voxel.device)


def _along(values: Sequence[float], axis: int, like: torch.Tensor) -> torch.Tensor:
    """Numbers along a spatial axis of (C, z, y, x)."""
    return torch.tensor(values, dtype=like.dtype, device=like.device).reshape(
        [-1 if a == axis else 1 for a in range(-1, 3)]
    )


def _shares(n: int) -> list[float]:
    """How many half cells hang on each of n points, halved; 1 where there is no cell."""
    return [1.0] if n == 1 else [0.5, *[1.0] * (n - 2), 0.5]


def _firsts(n: int) -> list[float]:
    """Sum of the squared weights with which each of n points enters first differences."""
    return [0.0] if n == 1 else [1.0, *[2.0] * (n - 2), 1.0]


def _seconds(n: int) -> list[float]:
    """The same for second differences."""
    return [sum(w * w for start, w in ((0, 1.0), (-1, -2.0), (-2, 1.0)) if 0 <= i + start < n - 2) for i in range(n)]


def _ends(n: int) -> list[float]:
    """-1 at the first of n points, 1 at the last."""
    return [0.0] if n == 1 else [-1.0, *[0.0] * (n - 2), 1.0]


def _corner(c: torch.Tensor, a: int, b: int, p: int, q: int) -> torch.Tensor:
    """A view of (z, y, x): of every face across the axes a and b the corner p, q (0 or 1)."""
    return c.narrow(a, p, c.shape[a] - 1).narrow(b, q, c.shape[b] - 1)


def _diagonals(c: torch.Tensor, a: int, b: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Differences along the diagonals of the faces: towards larger a and b; towards larger a and smaller b."""
    return _corner(c, a, b, 1, 1) - _corner(c, a, b, 0, 0), _corner(c, a, b, 1, 0) - _corner(c, a, b, 0, 1)


def _add_diagonals(out: torch.Tensor, a: int, b: int, rise: torch.Tensor, fall: torch.Tensor) -> None:
    """Adds the transpose of `_diagonals` to out."""
    _corner(out, a, b, 1, 1).add_(rise)
    _corner(out, a, b, 0, 0).sub_(rise)
    _corner(out, a, b, 1, 0).add_(fall)
    _corner(out, a, b, 0, 1).sub_(fall)
