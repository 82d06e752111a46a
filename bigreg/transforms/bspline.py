"""Uniform cubic B-spline fields on a lattice: evaluation, its adjoint, and the bound that makes them invertible.

Coefficient tensors are (C, nz + 4, ny + 4, nx + 4) for n cells an axis (see geometry.Lattice); sampled tensors are
(C, nz * s, ny * s, nx * s) for s samples a cell, which tile the cell around its control point. No prefilter:
coefficients are control points, so a field never exceeds its largest one, and convex combinations keep every bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch

from ..geometry import triple

BOUND_CELLS = 0.8
"""Largest coefficient of one level, in lattice cells. Larger motion is what coarser and repeated levels are for."""


def cubic(t: np.ndarray) -> np.ndarray:
    """The centred cubic B-spline, support (-2, 2)."""
    t = np.abs(t)
    near = 2.0 / 3.0 - t**2 + t**3 / 2.0
    far = np.clip(2.0 - t, 0.0, None) ** 3 / 6.0
    return np.where(t < 1.0, near, far)


@lru_cache(maxsize=256)
def _matrix(cells: int, samples: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """(cells * samples, cells + 4): control points to samples along one axis."""
    position = (np.arange(cells * samples) + 0.5) / samples
    points = np.arange(cells + 4) - 1.5
    return torch.as_tensor(cubic(position[:, None] - points[None, :]), dtype=dtype, device=device)


@lru_cache(maxsize=16)
def taps(samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights (samples, 4) float32 of the four control points around each sample of a cell, and (samples,) the first.

    Sample p of cell k is the sum over i of weights[p, i] * control point k + first[p] + i.
    """
    dense = cubic((np.arange(samples) + 0.5)[:, None] / samples - (np.arange(5) - 1.5))
    first = (np.arange(samples) + 0.5 > samples / 2).astype(np.int64)
    return np.stack([row[o : o + 4] for row, o in zip(dense, first, strict=True)]).astype(np.float32), first


def evaluate(coefficients: torch.Tensor, samples: Sequence[int]) -> torch.Tensor:
    """Sample a spline: (C, n + 4 per axis) coefficients to (C, n * samples per axis) values of the same unit."""
    out = coefficients
    for axis in range(3):  # the cheapest first
        out = evaluate_axis(out, samples, axis)
    return out


def evaluate_axis(coefficients: torch.Tensor, samples: Sequence[int], axis: int) -> torch.Tensor:
    """`evaluate` along one axis alone: a product with a narrow band matrix, which is one GEMM on every device."""
    n = coefficients.shape[axis + 1] - 4
    matrix = _matrix(n, int(samples[axis]), coefficients.dtype, coefficients.device)
    return _along(matrix, coefficients, axis + 1)


def adjoint(values: torch.Tensor, samples: Sequence[int]) -> torch.Tensor:
    """Transpose of `evaluate`: (C, n * samples per axis) to (C, n + 4 per axis)."""
    out = values
    for axis in (2, 1, 0):
        s = int(samples[axis])
        matrix = _matrix(out.shape[axis + 1] // s, s, out.dtype, out.device)
        out = _along(matrix.T, out, axis + 1)
    return out


STIFFNESS = 1e-3
"""Of `fit`: weight of squared second differences of the control points against squared errors of the samples."""


@lru_cache(maxsize=256)
def _fitting(cells: int, samples: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """(cells + 4, cells * samples): samples to control points along one axis."""
    # The outermost control points hardly touch a sample: they are what the next ones are.
    inner = np.eye(cells + 4)[:, 1:-1]
    inner[0, 0] = inner[-1, -1] = 1.0
    spread = _matrix(cells, samples, torch.float64, torch.device("cpu")).numpy() @ inner
    bend = np.diff(inner, 2, axis=0)
    found = inner @ np.linalg.solve(spread.T @ spread + STIFFNESS * samples * bend.T @ bend, spread.T)
    return torch.as_tensor(found, dtype=dtype, device=device)


def fit(values: torch.Tensor, samples: Sequence[int]) -> torch.Tensor:
    """The spline nearest to sampled values in least squares: (C, n * samples per axis) to coefficients (C, n + 4).

    Detail of a period of two cells, which is noise more often than motion, is damped a little. Linear in the values.
    """
    out = values
    for axis in range(3):
        s = int(samples[axis])
        out = _along(_fitting(out.shape[axis + 1] // s, s, out.dtype, out.device), out, axis + 1)
    return out


def _along(matrix: torch.Tensor, values: torch.Tensor, axis: int) -> torch.Tensor:
    if axis == 3:
        return values @ matrix.T
    if axis == 2:
        return matrix @ values
    flat = values.reshape(values.shape[0], values.shape[1], -1)
    return (matrix @ flat).reshape(values.shape[0], matrix.shape[0], *values.shape[2:])


@lru_cache(maxsize=64)
def contraction_bound(samples: tuple[int, int, int]) -> float:
    """gamma: below this largest coefficient (cells) the *sampled* id + spline is a contraction away from the identity.

    1 / gamma is the largest, over the sample phases p, of sum_a | sum_j s_j (B(p + e_j / s_j - a) - B(p - a)) |: the
    Lipschitz constant in the maximum norm of the linearly interpolated samples per unit of coefficient. Source: SITReg
    (arXiv 2303.10211), stated here for any sampling per axis.
    """
    samples = triple(int(s) for s in samples)
    points = np.arange(-3, 5, dtype=float)
    value, slope = [], []
    for s in samples:
        phase = (np.arange(s) + 0.5) / s - 0.5
        here = cubic(phase[:, None] - points)
        value.append(here)
        slope.append(s * (cubic(phase[:, None] + 1.0 / s - points) - here))
    largest = 0.0
    for pz in range(samples[0]):  # one slab of phases at a time keeps 64 samples a cell within memory
        terms = (
            np.einsum("a,pb,qc->pqabc", slope[0][pz], value[1], value[2])
            + np.einsum("a,pb,qc->pqabc", value[0][pz], slope[1], value[2])
            + np.einsum("a,pb,qc->pqabc", value[0][pz], value[1], slope[2])
        )
        largest = max(largest, float(np.abs(terms).sum((2, 3, 4)).max()))
    return 1.0 / largest


def squarings(largest: float, samples: tuple[int, int, int], *, accuracy: int = 2) -> int:
    """N of exp(v) = (id + v / 2^N)^(2^N) for a largest coefficient in cells.

    The smallest N that puts v / 2^N under the contraction bound, and `accuracy` more, since the error of one Euler step
    of the flow falls with 2^-N. Zero for a velocity that is zero.
    """
    if not np.isfinite(largest) or largest < 0:
        raise ValueError(f"largest coefficient {largest} must be a finite number of cells")
    if largest == 0:
        return 0
    bound = 0.99 * contraction_bound(tuple(int(s) for s in samples))
    return max(0, int(np.ceil(np.log2(largest / bound)))) + accuracy


def soft_bound(coefficients: torch.Tensor, bound: torch.Tensor | float) -> torch.Tensor:
    """Coefficients kept under `bound` (same unit): untouched up to half of it, then bent like tanh. Odd, monotone."""
    half = torch.as_tensor(bound, dtype=coefficients.dtype, device=coefficients.device) * 0.5
    size = coefficients.abs()
    bent = half * (1.0 + torch.tanh((size - half) / half))
    return torch.where(size <= half, coefficients, torch.sign(coefficients) * bent)
