"""An engine for bigreg that asks ANTs: displacements of a patch by SyN, fitted to the patch's lattice.

`FromDisplacements` turns any program that finds displacements into an engine; `Ants` is that engine with ANTs.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch

from bigreg.engines import PatchPair, VelocityPatch
from bigreg.transforms.bspline import BOUND_CELLS, adjoint, fit, soft_bound

Spacing = tuple[float, ...]
Find = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray, Spacing], np.ndarray]
"""(fixed, moving, mask of fixed, mask of moving, each (z, y, x); spacing, um) to the displacement (3, z, y, x) um that
leads each voxel of fixed to its place in moving: fixed(x) = moving(x + displacement)."""

MARGIN = 8
"""Voxels around a patch that ANTs gets beside it."""
TINY = 1e-30
"""Less than what a corner control point weighs a voxel with, about 1e-9."""


class FromDisplacements:
    """An engine that has its displacements found by someone else.

    find    see Find; it must give the same bits for the same input
    noise   standard deviation of the intensity that counts as no texture, for the confidence
    """

    antisymmetric: ClassVar[bool] = False  # the pipeline asks in both orders and takes half of the difference

    def __init__(self, find: Find, *, noise: float = 0.02) -> None:
        if noise <= 0:
            raise ValueError(f"noise {noise} must be larger than 0")
        self.find = find
        self.noise = noise

    def estimate(self, pair: PatchPair) -> VelocityPatch:
        """See bigreg.engines.Engine. ValueError for images of several channels."""
        if pair.fixed.shape[0] != 1:
            raise ValueError(f"the engine takes one channel, the patch has {pair.fixed.shape[0]}")
        lattice, images = pair.lattice, (pair.fixed[0], pair.moving[0])
        both = (pair.fixed_mask > 0) & (pair.moving_mask > 0)
        if not bool(both.any()):
            still = images[0].new_zeros(3, *lattice.points)
            return VelocityPatch(still, still[0].clone())
        f, m, of_f, of_m = (t.float().cpu().numpy() for t in (*images, pair.fixed_mask, pair.moving_mask))
        spacing = tuple(s / n for s, n in zip(lattice.spacing, lattice.samples, strict=True))
        found = torch.from_numpy(np.array(self.find(f, m, of_f, of_m, spacing), np.float32)).to(images[0])
        # fixed(x) = moving(x + u), and fixed moves by exp(+v), moving by exp(-v): v = -u / 2.
        cell = torch.tensor(lattice.spacing).to(found).reshape(3, 1, 1, 1)
        coefficients = soft_bound(fit(-found / 2, lattice.samples) / cell, BOUND_CELLS) * cell
        return VelocityPatch(coefficients, self._confidence(images, both, lattice.samples))

    def _confidence(
        self, images: tuple[torch.Tensor, torch.Tensor], both: torch.Tensor, samples: tuple[int, int, int]
    ) -> torch.Tensor:
        """(z, y, x) 0 .. 1: the variance around each control point of the image that has less of it, against noise."""
        weight = both.to(images[0])
        seen = adjoint(weight[None], samples)[0]
        variances = []
        for image in images:
            mean, square = adjoint(torch.stack([image * weight, image**2 * weight]), samples) / seen.clamp_min(TINY)
            variances.append((square - mean**2).clamp_min(0))
        variance = torch.minimum(*variances)
        return variance / (variance + self.noise**2)


class Ants(FromDisplacements):
    """Engine `ants`: SyN of ANTs on one level, without a linear part.

    metric       "CC" (local correlation), "mattes" (faster, less exact), "meansquares" or "demons"
    iterations   of SyN; from bigreg, those of the level
    smoothing    voxels by which each update is smoothed
    noise        see FromDisplacements
    """

    bytes_a_voxel: ClassVar[int] = 700  # measured 603 on a patch of 96^3 voxels

    def __init__(
        self, *, metric: str = "CC", iterations: int = 20, smoothing: float = 3.0, noise: float = 0.02
    ) -> None:
        if metric not in ("CC", "mattes", "meansquares", "demons"):
            raise ValueError(f"metric {metric!r} must be CC, mattes, meansquares or demons")
        if iterations < 1 or smoothing < 0:
            raise ValueError(f"iterations {iterations} must be at least 1, smoothing {smoothing} at least 0")
        # Sums over several threads have no fixed order. ITK looks once, when it is loaded; workers are processes.
        os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = "1"
        import ants

        self.ants: Any = ants
        self.identity = f"antspyx {ants.__version__}"
        self.metric, self.iterations, self.smoothing = metric, iterations, smoothing
        super().__init__(self.syn, noise=noise)

    def syn(
        self, fixed: np.ndarray, moving: np.ndarray, fixed_mask: np.ndarray, moving_mask: np.ndarray, spacing: Spacing
    ) -> np.ndarray:
        """See Find."""
        # SyN holds the border of its images still; the patch's own border moves like its inside.
        padded = [np.pad(a, MARGIN, mode="edge") for a in (fixed, moving)]
        padded += [np.pad(a, MARGIN) for a in (fixed_mask, moving_mask)]
        images = [self.ants.from_numpy(a, spacing=spacing) for a in padded]
        with tempfile.TemporaryDirectory() as folder:
            found = self.ants.registration(
                *images[:2], "SyNOnly", initial_transform="Identity", outprefix=f"{folder}/", mask=images[2],
                moving_mask=images[3], syn_metric=self.metric, syn_sampling=2 if self.metric == "CC" else 32,
                reg_iterations=(self.iterations,), flow_sigma=self.smoothing,
            )  # fmt: skip
            field = np.moveaxis(self.ants.image_read(found["fwdtransforms"][0]).numpy(), -1, 0)
        inside = slice(MARGIN, -MARGIN)
        return field[:, inside, inside, inside]
