"""Mutual information of two images by a joint histogram with cubic B-spline Parzen windows, and its gradient.

    MI = sum p log(p / (p_f p_m))      d MI / d m(x) = 1/n sum over bins a, b of w_a(f(x)) w'_b(m(x)) log(p_ab / p_b)

As a similarity it is reported as Linfoot's informational correlation R = sqrt(1 - exp(-2 MI)), which for Gaussian
intensities is their correlation, so that a step and a regularisation mean the same as with NCC; NMI as (H_f + H_m) / H
- 1, in 0 .. 1. Bins lie between three standard deviations of each image around its mean (within its range).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from .forces import Forces

BINS = 32
_TINY = 1e-12


@dataclass(frozen=True)
class _Axis:
    """An image's place among the bins: first tap (n,), weights and their derivatives by intensity (4, n)."""

    first: torch.Tensor
    weights: torch.Tensor
    slopes: torch.Tensor
    sd: float


def _axis(values: torch.Tensor, bins: int) -> _Axis:
    mean, sd = float(values.mean(dtype=torch.float64)), float(values.std(unbiased=False))
    low, high = max(float(values.min()), mean - 3 * sd), min(float(values.max()), mean + 3 * sd)
    scale = (bins - 4) / max(high - low, _TINY)
    place = (values - low) * scale
    inside = (place > 0) & (place < bins - 4)
    place = place.clamp(0, bins - 4) + 1.0
    first = place.floor().clamp(max=bins - 3)
    t = place - first
    s = 1 - t
    weights = torch.stack([s**3 / 6, 2 / 3 - t**2 + t**3 / 2, 2 / 3 - s**2 + s**3 / 2, t**3 / 6])
    slopes = torch.stack([-(s**2) / 2, -2 * t + 1.5 * t**2, 2 * s - 1.5 * s**2, t**2 / 2]) * (inside * scale)
    return _Axis(first.long() - 1, weights, slopes, sd)


def _joint(f: _Axis, m: _Axis, bins: int) -> torch.Tensor:
    """(bins, bins) float64 probabilities."""
    joint = torch.zeros(bins * bins, dtype=torch.float64, device=f.first.device)
    for i in range(4):
        for j in range(4):
            weight = (f.weights[i] * m.weights[j]).double()
            joint += torch.bincount((f.first + i) * bins + m.first + j, weight, minlength=bins * bins)
    return (joint / joint.sum()).reshape(bins, bins)


def _pull(f: _Axis, m: _Axis, table: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Derivatives of the sum over voxels of table[a, b] w_a(f) w_b(m) by f and by m, (n,) each."""
    bins = table.shape[0]
    flat = table.to(f.weights.dtype).reshape(-1)
    by_f, by_m = torch.zeros_like(f.weights[0]), torch.zeros_like(f.weights[0])
    for i in range(4):
        for j in range(4):
            value = flat[(f.first + i) * bins + m.first + j]
            by_f += value * f.slopes[i] * m.weights[j]
            by_m += value * f.weights[i] * m.slopes[j]
    return by_f, by_m


def _entropies(joint: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, float, float, float]:
    """Logarithms of the joint and marginal probabilities, and the three entropies in nats."""
    logs = [p.clamp_min(_TINY).log() for p in (joint, joint.sum(1), joint.sum(0))]
    parts = (joint, joint.sum(1), joint.sum(0))
    return *logs, *(-float((p * log).sum()) for p, log in zip(parts, logs, strict=True))


def mutual_information(fixed: torch.Tensor, moving: torch.Tensor, mask: torch.Tensor, *, bins: int = BINS) -> float:
    """MI in nats over the masked voxels. Tensors of one shape."""
    keep = mask > 0
    if int(keep.sum()) < 2:
        return 0.0
    *_, joint, first, second = _entropies(_joint(_axis(fixed[keep], bins), _axis(moving[keep], bins), bins))
    return first + second - joint


def mi(fixed: torch.Tensor, moving: torch.Tensor, mask: torch.Tensor, *, bins: int = BINS) -> Forces:
    """n (1 - R) over the n masked voxels, R the informational correlation. Tensors (z, y, x)."""
    return _information(fixed, moving, mask, bins, normalised=False)


def nmi(fixed: torch.Tensor, moving: torch.Tensor, mask: torch.Tensor, *, bins: int = BINS) -> Forces:
    """n (2 - (H_f + H_m) / H) over the n masked voxels. Tensors (z, y, x)."""
    return _information(fixed, moving, mask, bins, normalised=True)


def _information(fixed: torch.Tensor, moving: torch.Tensor, mask: torch.Tensor, bins: int, normalised: bool) -> Forces:
    keep = mask > 0
    n = float(keep.sum())
    zero = torch.zeros_like(fixed)
    if n < 2:
        return Forces(0.0, 0.0, zero, zero, zero, zero)
    f, m = _axis(fixed[keep], bins), _axis(moving[keep], bins)
    if min(f.sd, m.sd) < 1e-9:
        return Forces(n, n, zero, zero, zero, zero)
    joint = _joint(f, m, bins)
    log_joint, log_f, log_m, h, h_f, h_m = _entropies(joint)
    if normalised:
        score = (h_f + h_m) / h - 1.0
        # d NMI = (dH_f + dH_m - NMI' dH) / H, each entropy with -log p as its derivative by p.
        table = (-(log_f[:, None] + log_m[None, :]) + (score + 1.0) * log_joint) / h
    else:
        information = max(h_f + h_m - h, _TINY)
        score = math.sqrt(-math.expm1(-2.0 * information))
        table = (log_joint - log_f[:, None] - log_m[None, :]) * (math.exp(-2.0 * information) / score)
    by_f, by_m = _pull(f, m, torch.where(joint > _TINY, table, torch.zeros_like(table)))
    by_fixed, by_moving = zero.clone(), zero.clone()
    by_fixed[keep], by_moving[keep] = -by_f, -by_m
    # As for NCC, each image in units of its SD; the sign says whether bright goes with bright at these intensities.
    sign = torch.sign(_trend(joint.T)[f.first + 1] + _trend(joint)[m.first + 1])
    scale_f, scale_m = zero.clone(), zero.clone()
    scale_f[keep], scale_m[keep] = 1.0 / f.sd, sign.to(f.weights.dtype) / m.sd
    return Forces(n * (1.0 - score), n, by_fixed, by_moving, scale_f, scale_m)


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
