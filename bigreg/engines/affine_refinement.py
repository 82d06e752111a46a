"""Levenberg-Marquardt on the affine between two small images, symmetric in mid-space.

With A = H H, fixed is seen at H^-1 x and moving at H x. A step D moves them apart by exp(-D/2) and exp(D/2); the
new affine is H exp(D) H; D is the Levenberg-Marquardt step of the similarity's forces on the generators of the group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from ..similarity import Forces, Similarity
from ..transforms.affine import exp_affine, principal_sqrt
from .affine_cpu import pull
from .placed import Placed, lattice_within, shared_box

Kind = Literal["translation", "rigid", "similarity", "affine"]
STRETCH = 2.0  # an affine that scales an axis by more is not believed


def basis(kind: Kind) -> np.ndarray:
    """(K, 3, 4) generators of a group: linear part on coordinates scaled to about 1, translation in the last column."""
    generators = []
    for axis in range(3):
        g = np.zeros((3, 4))
        g[axis, 3] = 1.0
        generators.append(g)
    if kind in ("rigid", "similarity"):
        for i, j in ((0, 1), (0, 2), (1, 2)):
            g = np.zeros((3, 4))
            g[i, j], g[j, i] = 1.0, -1.0
            generators.append(g)
        if kind == "similarity":
            generators.append(np.eye(3, 4))
    elif kind == "affine":
        for i in range(3):
            for j in range(3):
                g = np.zeros((3, 4))
                g[i, j] = 1.0
                generators.append(g)
    return np.array(generators)


@dataclass(frozen=True, eq=False)
class _Look:
    """A map's loss, with gradient and curvature by a general generator's twelve elements (voxels of motion)."""

    loss: float
    weight: float
    voxels: float
    slope: np.ndarray
    curvature: np.ndarray
    centre: np.ndarray
    radius: float

    @property
    def mean(self) -> float:
        return self.loss / self.weight


def _upper(n: int) -> np.ndarray:
    """(n, n) where an element of a symmetric matrix stands in a list of its upper triangle, row by row."""
    place = np.zeros((n, n), dtype=int)
    place[np.triu_indices(n)] = np.arange(n * (n + 1) // 2)
    return np.maximum(place, place.T)


UPPER3, UPPER4 = _upper(3), _upper(4)


@dataclass(frozen=True, eq=False)
class Compared:
    """A pair of channels, or of labels (one a pair), that an affine brings onto each other."""

    fixed: Placed
    moving: Placed
    similarity: Similarity
    weight: float = 1.0

    def swapped(self) -> Compared:
        return Compared(self.moving, self.fixed, self.similarity, self.weight)

    def turned(self, turn: np.ndarray) -> Compared:
        """The same, moving seen in turned axes."""
        return Compared(self.fixed, self.moving.turned(turn), self.similarity, self.weight)

    def at(self, spacing: np.ndarray) -> Compared:
        return Compared(self.fixed.at(spacing), self.moving.at(spacing), self.similarity, self.weight)


class Refinement:
    """Levenberg-Marquardt on one pair of images at one spacing (um, z y x).

    pairs   what is compared, in place of the two images, which then say where both are known
    """

    TOLERANCE = 0.01  # voxels
    SHARE = 3e-4  # a step that gains less than this share of the gain so far is not worth its cost
    TRUST = 2.0  # voxels that a step moves the image's ends at most

    def __init__(
        self, fixed: Placed, moving: Placed, spacing: np.ndarray, similarity: Similarity, min_overlap: float,
        pairs: Sequence[Compared] = (),
    ) -> None:  # fmt: skip
        self.fixed, self.moving = fixed.at(spacing), moving.at(spacing)
        self.similarity = similarity
        self.pairs = [pair.at(spacing) for pair in pairs]
        self.spacing = spacing
        self.unit = float(np.prod(spacing)) ** (1 / 3)
        self.smaller = min(fixed.volume, moving.volume) / float(np.prod(spacing))
        self.least = min_overlap * self.smaller

    def staged(
        self, matrix: np.ndarray, stages: tuple[Kind, ...], warnings: list[str]
    ) -> list[tuple[np.ndarray, float, float]]:
        """(matrix, similarity, overlap) after one group after another, as far as the overlap was large enough.

        A stage that stretches an axis beyond belief is dropped, and `warnings` says so.
        """
        results = []
        for stage in stages:
            refined = self._run(matrix, stage)
            if refined is None:
                break
            stretch = np.linalg.svd(refined[0][:3, :3], compute_uv=False)
            if stretch.max() > STRETCH or stretch.min() < 1 / STRETCH:
                warnings.append(
                    f"the {stage} step at {self.unit:.3g} µm scaled axes by {stretch.min():.2f} to {stretch.max():.2f} "
                    "and was dropped; check the spacings"
                )
                continue
            results.append(refined)
            matrix = refined[0]
        return results

    def _run(self, matrix: np.ndarray, kind: Kind, iterations: int = 20) -> tuple[np.ndarray, float, float] | None:
        generators = basis(kind)
        directions = generators.reshape(len(generators), 12)
        damping = 1e-3
        here = self._look(matrix)
        if here is None:
            return None
        before = here.mean
        for _ in range(iterations):
            slope, curvature = directions @ here.slope, directions @ here.curvature @ directions.T
            scale = np.diag(curvature) + 1e-6 * max(float(np.diag(curvature).max()), 1e-30)
            moved = 0.0
            while not moved:
                theta = np.linalg.solve(curvature + damping * np.diag(scale), -slope)
                theta *= min(1.0, self.TRUST / max(float(np.abs(theta).max()), 1e-12))
                promised = -(slope @ theta + 0.5 * theta @ curvature @ theta) / here.weight
                if float(np.abs(theta).max()) < self.TOLERANCE or promised <= self.SHARE * (before - here.mean):
                    break
                step = np.tensordot(theta, generators, 1)
                new = self._stepped(matrix, step, here)
                there = self._look(new)
                if there is not None and there.mean < here.mean:
                    moved = here.mean - there.mean
                    matrix, here = new, there
                    damping = max(damping / 8, 1e-3)
                else:
                    damping = max(damping * 8, 1.0)
            if moved <= self.SHARE * (before - here.mean):
                break
        return matrix, 1.0 - here.mean, min(1.0, here.voxels / self.smaller)

    def _stepped(self, matrix: np.ndarray, step: np.ndarray, here: _Look) -> np.ndarray:
        generator = np.zeros((4, 4))
        generator[:3, :3] = step[:, :3] * self.unit / here.radius
        generator[:3, 3] = step[:, 3] * self.unit - generator[:3, :3] @ here.centre
        half = principal_sqrt(matrix)
        return half @ exp_affine(generator) @ half

    def _look(self, matrix: np.ndarray) -> _Look | None:
        """The images in mid-space through `matrix`; None where too little of them overlaps."""
        try:
            half = principal_sqrt(matrix)
        except ValueError:
            return None  # a half turn away: no mid-space
        back = np.linalg.inv(half)
        low, high = shared_box(self.fixed.grid, self.moving.grid, half)
        grid = lattice_within(low, high, self.spacing)
        if grid is None:
            return None
        f, mask_f = self.fixed.on(grid, back)
        m, mask_m = self.moving.on(grid, half)
        both = mask_f * mask_m
        alone = not self.pairs
        forces = self.similarity(f, m, both) if alone else None
        voxels = forces.weight if forces is not None else float(both.sum(dtype=torch.float64))
        if voxels < max(self.least, 1.0):
            return None
        centre = (low + high) / 2
        radius = float(np.linalg.norm(high - low) / 2)
        slope, matrix = np.zeros((3, 4)), np.zeros((6, 10))

        def add(f: torch.Tensor, m: torch.Tensor, forces: Forces, slope: np.ndarray, matrix: np.ndarray) -> None:
            pulls = (forces.fixed, forces.moving, forces.fixed_scale, forces.moving_scale)
            pull(
                f.numpy(), m.numpy(), *(t.expand_as(f).contiguous().numpy() for t in pulls),
                # Per voxel of each axis to per voxel of equal edges.
                (self.unit / self.spacing).astype(np.float32), (grid.origin - centre) / radius, self.spacing / radius,
                slope, matrix,
            )  # fmt: skip

        loss = weight = 0.0
        if forces is not None:
            loss, weight = forces.loss, forces.weight
            add(f, m, forces, slope, matrix)
        for pair in self.pairs:
            f, mask_f = pair.fixed.on(grid, back)
            m, mask_m = pair.moving.on(grid, half)
            forces = pair.similarity(f, m, mask_f * mask_m)
            own_slope, own_matrix = np.zeros_like(slope), np.zeros_like(matrix)
            add(f, m, forces, own_slope, own_matrix)
            loss, weight = loss + pair.weight * forces.loss, weight + pair.weight * forces.weight
            slope += pair.weight * own_slope
            matrix += pair.weight * own_matrix
        if not weight:
            return None
        # v = -(1/2) D x: the moving image goes forth by half a step, the fixed one back. Sums over voxels are made once
        # for the twelve elements of a general D; a group's generators combine them.
        slope = -0.5 * slope.reshape(12)
        curvature = 0.25 * matrix[UPPER3][:, :, UPPER4].transpose(0, 2, 1, 3).reshape(12, 12)
        return _Look(loss, weight, voxels, slope, curvature, centre, radius)
