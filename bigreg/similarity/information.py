"""Mutual information of two images by a joint histogram with cubic B-spline Parzen windows, and its gradient.

    MI = sum p log(p / (p_f p_m))      d MI / d m(x) = 1/n sum over bins a, b of w_a(f(x)) w'_b(m(x)) log(p_ab / p_b)

As a similarity it is reported as Linfoot's informational correlation R = sqrt(1 - exp(-2 MI)), which for Gaussian
intensities is their correlation, so that a step and a regularisation mean the same as with NCC; NMI as (H_f + H_m) / H
- 1, in 0 .. 1. Bins lie between three standard deviations of each image around its mean (within its range).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np
import torch

from .forces import Forces

BINS = 32
_TINY = 1e-12
_ONE = float(2**31)
"""A weight of 1 as the histogram counts it: 2^32 voxels of it are still a whole number of 64 bits."""


@dataclass(frozen=True)
class _Axis:
    """An image's place among the bins: first tap (n,), weights and their derivatives by intensity (4, n)."""

    first: torch.Tensor
    weights: torch.Tensor
    slopes: torch.Tensor


def _axis(values: torch.Tensor, sd: float, bins: int) -> _Axis:
    mean = float(values.mean(dtype=torch.float64))
    low, high = max(float(values.min()), mean - 3 * sd), min(float(values.max()), mean + 3 * sd)
    scale = (bins - 4) / max(high - low, _TINY)
    inside = (values > low) & (values < high)
    place = ((values - low) * scale).clamp(0, bins - 4)
    first = place.floor()
    t = place - first
    s = 1 - t
    weights = torch.stack([s**3 / 6, 2 / 3 - t**2 + t**3 / 2, 2 / 3 - s**2 + s**3 / 2, t**3 / 6])
    slopes = torch.stack([-(s**2) / 2, -2 * t + 1.5 * t**2, 2 * s - 1.5 * s**2, t**2 / 2]) * (inside * scale)
    return _Axis(first.long(), weights, slopes)


class _Tensors:
    """Two images' intensities in the mask, and their place among the bins.

    voxels, sds   number of masked voxels, SD of each image there
    """

    def __init__(self, fixed: torch.Tensor, moving: torch.Tensor, mask: torch.Tensor, bins: int) -> None:
        self.keep, self.bins = mask > 0, bins
        self.values = fixed[self.keep], moving[self.keep]
        self.voxels = len(self.values[0])
        self.sds = tuple(float(v.std(unbiased=False)) if self.voxels else 0.0 for v in self.values)

    @cached_property
    def axes(self) -> tuple[_Axis, _Axis]:
        fixed, moving = (_axis(values, sd, self.bins) for values, sd in zip(self.values, self.sds, strict=True))
        return fixed, moving

    def joint(self) -> torch.Tensor:
        """(bins, bins) float64 probabilities."""
        f, m = self.axes
        cell = f.first * self.bins + m.first
        # Whole numbers add up to the same in any order: by float a GPU would give other bits each time.
        joint = torch.zeros(self.bins**2, dtype=torch.int64, device=cell.device)
        for i, j in product(range(4), range(4)):
            weight = (f.weights[i].double() * m.weights[j].double() * _ONE).round().long()
            joint.index_add_(0, cell + (i * self.bins + j), weight)
        shares = joint.double()
        return (shares / shares.sum()).reshape(self.bins, self.bins)

    def pull(self, table: torch.Tensor, sign: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Derivatives of the sum over voxels of table[a, b] w_a(f) w_b(m) by f and by m; and the scales, (z, y, x)."""
        f, m = self.axes
        flat = table.to(f.weights.dtype).reshape(-1)
        by_f, by_m = torch.zeros_like(f.weights[0]), torch.zeros_like(f.weights[0])
        for i, j in product(range(4), range(4)):
            value = flat[(f.first + i) * self.bins + m.first + j]
            by_f += value * f.slopes[i] * m.weights[j]
            by_m += value * f.weights[i] * m.slopes[j]
        out = tuple(torch.zeros(self.keep.shape, dtype=by_f.dtype, device=by_f.device) for _ in range(4))
        scale = sign[f.first + 1, m.first + 1].to(by_f.dtype) / self.sds[1]
        found: tuple[torch.Tensor | float, ...] = (by_f, by_m, 1.0 / self.sds[0], scale)
        for image, values in zip(out, found, strict=True):
            image[self.keep] = values
        return out


class _Sweeps:
    """The same on a CPU in float32, by the sweeps of `information_cpu`."""

    def __init__(self, fixed: torch.Tensor, moving: torch.Tensor, mask: torch.Tensor, bins: int) -> None:
        from .information_cpu import POWERS, spread

        self.images = [t.to(torch.float32).contiguous().numpy() for t in (fixed, moving, mask)]
        self.cells, self.powers = bins - 3, torch.as_tensor(POWERS)
        figures = np.empty((2, 4))
        self.voxels = int(spread(*self.images, figures))
        mean, sd, least, largest = figures.T
        self.sds = tuple(float(s) for s in sd)
        self.low = np.maximum(least, mean - 3 * sd).astype(np.float32)
        self.high = np.minimum(largest, mean + 3 * sd).astype(np.float32)
        self.scale = ((bins - 4) / np.maximum(self.high.astype(float) - self.low, _TINY)).astype(np.float32)

    def joint(self) -> torch.Tensor:
        from .information_cpu import tally

        out = torch.zeros(self.cells**2 * 16, dtype=torch.float64)
        tally(*self.images, self.low, self.scale, self.cells, out.numpy())
        weights = torch.einsum("abij,ik,jl->klab", out.view(self.cells, self.cells, 4, 4), self.powers, self.powers)
        joint = torch.zeros(self.cells + 3, self.cells + 3, dtype=torch.float64)
        for i, j in product(range(4), range(4)):
            joint[i : i + self.cells, j : j + self.cells] += weights[i, j]
        joint = joint.clamp_min(0.0)  # what rounding leaves
        return joint / joint.sum()

    def pull(self, table: torch.Tensor, sign: torch.Tensor) -> tuple[torch.Tensor, ...]:
        from .information_cpu import pull

        around = table.unfold(0, 4, 1).unfold(1, 4, 1)
        terms = torch.einsum("abkl,ik,jl->abij", around, self.powers, self.powers)
        sign = sign[1:-2, 1:-2]
        arms = torch.stack([torch.ones_like(sign) / self.sds[0], sign / self.sds[1]])
        out = tuple(torch.empty(self.images[0].shape) for _ in range(4))
        pull(
            *self.images, self.low, self.high, self.scale, self.cells, terms.float().flatten().numpy(),
            arms.float().flatten(1).numpy(), *(t.numpy() for t in out),
        )  # fmt: skip
        return out


def _pair(fixed: torch.Tensor, moving: torch.Tensor, mask: torch.Tensor, bins: int) -> _Tensors | _Sweeps:
    by_sweep = fixed.device.type == "cpu" and fixed.dtype == moving.dtype == torch.float32
    return (_Sweeps if by_sweep else _Tensors)(fixed, moving, mask, bins)


def _entropies(joint: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, float, float, float]:
    """Logarithms of the joint and marginal probabilities, and the three entropies in nats."""
    logs = [p.clamp_min(_TINY).log() for p in (joint, joint.sum(1), joint.sum(0))]
    parts = (joint, joint.sum(1), joint.sum(0))
    both, f, m = (-float((p * log).sum()) for p, log in zip(parts, logs, strict=True))
    return logs[0], logs[1], logs[2], both, f, m


def mutual_information(fixed: torch.Tensor, moving: torch.Tensor, mask: torch.Tensor, *, bins: int = BINS) -> float:
    """MI in nats over the masked voxels. Tensors (z, y, x)."""
    pair = _pair(fixed, moving, mask, bins)
    if pair.voxels < 2:
        return 0.0
    *_, joint, first, second = _entropies(pair.joint())
    return first + second - joint


def mi(fixed: torch.Tensor, moving: torch.Tensor, mask: torch.Tensor, *, bins: int = BINS) -> Forces:
    """n (1 - R) over the n masked voxels, R the informational correlation. Tensors (z, y, x)."""
    return _information(fixed, moving, mask, bins, normalised=False)


def nmi(fixed: torch.Tensor, moving: torch.Tensor, mask: torch.Tensor, *, bins: int = BINS) -> Forces:
    """n (2 - (H_f + H_m) / H) over the n masked voxels. Tensors (z, y, x)."""
    return _information(fixed, moving, mask, bins, normalised=True)


def _information(fixed: torch.Tensor, moving: torch.Tensor, mask: torch.Tensor, bins: int, normalised: bool) -> Forces:
    pair = _pair(fixed, moving, mask, bins)
    n = float(pair.voxels)
    if n < 2 or min(pair.sds) < 1e-9:
        weight, zero = (n if n >= 2 else 0.0), torch.zeros_like(fixed)
        return Forces(weight, weight, zero, zero, zero, zero)
    joint = pair.joint()
    log_joint, log_f, log_m, h, h_f, h_m = _entropies(joint)
    if normalised:
        score = (h_f + h_m) / h - 1.0
        # d NMI = (dH_f + dH_m - NMI' dH) / H, each entropy with -log p as its derivative by p.
        table = (-(log_f[:, None] + log_m[None, :]) + (score + 1.0) * log_joint) / h
    else:
        information = max(h_f + h_m - h, _TINY)
        score = math.sqrt(-math.expm1(-2.0 * information))
        table = (log_joint - log_f[:, None] - log_m[None, :]) * (math.exp(-2.0 * information) / score)
    table = torch.where(joint > _TINY, table, torch.zeros_like(table))
    # As for NCC, each image in units of its SD; the sign says whether bright goes with bright at these intensities.
    sign = torch.sign(_trend(joint.T)[:, None] + _trend(joint)[None, :])
    return Forces(n * (1.0 - score), n, *pair.pull(-table, sign))


def _trend(joint: torch.Tensor) -> torch.Tensor:
    """For each column, how the mean row changes with the column, over a quarter of the columns around it, in SDs."""
    index = torch.arange(len(joint), dtype=joint.dtype, device=joint.device)
    near = ((index[:, None] - index[None, :]).abs() <= len(joint) // 8).to(joint.dtype)
    weight = joint.sum(0)
    mean = (joint * index[:, None]).sum(0) / weight.clamp_min(_TINY)
    w = near * weight
    total = w.sum(1).clamp_min(_TINY)
    step = index[None, :] - ((w * index).sum(1) / total)[:, None]
    covariance = (w * step * mean).sum(1)
    return covariance / ((w * step * step).sum(1) + 1e-6 * total)
