"""Local normalised cross-correlation over cubic windows, masked, with its analytic gradient in ten box sums.

With window sums over the mask, mu and sigma^2 the local means and variances, s^2 = sigma^2 + noise^2,

    cc = cov / (s_f s_m)        loss = sum over the mask of (1 - cc)

    d loss / d m(y) = - sum over windows x that hold y of [ (f(y) - mu_f(x)) A(x) - (m(y) - mu_m(x)) B(x) ]
    with A = 1 / (n s_f s_m), B = cc / (n s_m^2), and the same with the images exchanged.

Expanding the products leaves plain box sums of A, B, A mu and B mu, so the cost does not depend on the window.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from ..kernels import usable
from .forces import Forces


def box_sum(values: torch.Tensor, radius: int) -> torch.Tensor:
    """Sum over the (2 radius + 1)^3 window around each voxel; nothing lies beyond the border. (..., z, y, x)."""
    if values.device.type == "cuda":
        return _pooled_sum(values, radius)
    width = 2 * radius + 1
    out = F.pad(values, (radius,) * 6)
    for axis in (-3, -2, -1):
        # Doubling sums: log2(width) additions an axis instead of width.
        length = out.shape[axis] - width + 1
        power, covered = out, 0
        total: torch.Tensor | None = None
        span = 1
        while True:
            if width & span:
                piece = power.narrow(axis, covered, length)
                total = piece if total is None else total + piece
                covered += span
            if covered == width:
                break
            power = power.narrow(axis, 0, power.shape[axis] - span) + power.narrow(axis, span, power.shape[axis] - span)
            span *= 2
        assert total is not None, "a width has at least one binary digit"
        out = total
    return out


def _pooled_sum(values: torch.Tensor, radius: int) -> torch.Tensor:
    """The same in three kernels, each of which reads and writes the array once."""
    width = 2 * radius + 1
    out = values.reshape(-1, *values.shape[-3:])
    if min(values.shape[-3:]) < width:  # which the pooling refuses, padded or not
        out = F.pad(out, (radius,) * 6)
    inside = out.shape[-3:] == values.shape[-3:]
    for axis in range(3):
        size, pad = ([n if a == axis else rest for a in range(3)] for n, rest in ((width, 1), (radius * inside, 0)))
        out = F.avg_pool3d(out, size, 1, pad, divisor_override=1)
    return out.reshape(values.shape)


def local_moments(
    fixed: torch.Tensor, moving: torch.Tensor, mask: torch.Tensor, radius: int, noise: float
) -> tuple[torch.Tensor, ...]:
    """Of the window around each voxel, each (z, y, x): voxels in the mask (at least 1), means of fixed and of moving,
    their variances with that of the noise, and their covariance."""
    f, m = fixed * mask, moving * mask
    # One array at a time: the temporaries then stay small enough for the allocator and the caches.
    n, sum_f, sum_m, sum_ff, sum_mm, sum_fm = (box_sum(t, radius) for t in (mask, f, m, f * f, m * m, f * m))
    n = n.clamp_min(1.0)
    mu_f, mu_m = sum_f / n, sum_m / n
    floor = noise * noise
    var_f = (sum_ff / n - mu_f * mu_f).clamp_min(0.0) + floor
    var_m = (sum_mm / n - mu_m * mu_m).clamp_min(0.0) + floor
    cov = sum_fm / n - mu_f * mu_m
    return n, mu_f, mu_m, var_f, var_m, cov


def local_correlation(
    fixed: torch.Tensor, moving: torch.Tensor, mask: torch.Tensor, *, radius: int = 3, noise: float = 0.01
) -> torch.Tensor:
    """(z, y, x) local correlation coefficient, 0 outside the mask and where neither image has texture above `noise`."""
    if fixed.device.type == "cpu" and fixed.dtype == moving.dtype == torch.float32:
        from .lncc_cpu import correlation

        images = [t.to(torch.float32).contiguous().numpy() for t in (fixed, moving, mask)]
        out = torch.empty(fixed.shape)
        correlation(*images, (0,) * (2 * radius + 1), np.float32(noise * noise), out.numpy())
        return out
    _, _, _, var_f, var_m, cov = local_moments(fixed, moving, mask, radius, noise)
    return cov * torch.rsqrt(var_f * var_m) * mask


def lncc(
    fixed: torch.Tensor,
    moving: torch.Tensor,
    mask: torch.Tensor,
    *,
    radius: int = 3,
    noise: float = 0.01,
    squared: bool = False,
) -> Forces:
    """1 - local correlation (or its square), summed over the mask.

    Tensors (z, y, x); `radius` in voxels; `noise` in image units.
    """
    if fixed.device.type == "cpu" and fixed.dtype == moving.dtype == torch.float32:
        return _lncc_by_sweep(fixed, moving, mask, radius, noise, squared)
    if usable(fixed, moving, mask):
        from .lncc_cuda import sweep

        total, weight, out = sweep(fixed, moving, mask, radius, noise, squared)
        return Forces(weight - total, weight, *out)
    n, mu_f, mu_m, var_f, var_m, cov = local_moments(fixed, moving, mask, radius, noise)
    a = torch.rsqrt(var_f * var_m)
    cc = cov * a
    weight = float(mask.sum(dtype=torch.float64))
    loss = weight - float(((cc * cc if squared else cc) * mask).sum(dtype=torch.float64))
    # d cc^2 = 2 cc d cc: the same sums, each window weighted.
    per = mask / n * (2.0 * cc if squared else 1.0)
    a = a * per
    b_f = cc / var_f * per
    b_m = cc / var_m * per
    c_m, c_f = b_m * mu_m - a * mu_f, b_f * mu_f - a * mu_m
    a, b_f, b_m, c_m, c_f = (box_sum(t, radius) for t in (a, b_f, b_m, c_m, c_f))
    by_moving = -(fixed * a - moving * b_m + c_m) * mask
    by_fixed = -(moving * a - fixed * b_f + c_f) * mask
    # Gauss-Newton of 1 - cc = 1/2 mean (f / s_f - m / s_m)^2; sqrt of the ratio of the SDs puts both on one scale.
    # Where the squared correlation is of an inverted contrast, the images' slopes count against each other.
    root = (a.abs() if squared else a.clamp_min(0.0)).sqrt() * mask
    sign = torch.sign(a) if squared else 1.0
    ratio = (var_m / var_f) ** 0.25
    return Forces(loss, weight, by_fixed, by_moving, root * ratio, root / ratio * sign)


def _lncc_by_sweep(
    fixed: torch.Tensor, moving: torch.Tensor, mask: torch.Tensor, radius: int, noise: float, squared: bool
) -> Forces:
    from .lncc_cpu import sweep

    fixed, moving, mask = (t.to(torch.float32).contiguous() for t in (fixed, moving, mask))
    out = [torch.empty_like(fixed) for _ in range(4)]
    total = sweep(
        fixed.numpy(),
        moving.numpy(),
        mask.numpy(),
        (0,) * (2 * radius + 1),
        np.float32(noise * noise),
        squared,
        *(t.numpy() for t in out),
    )
    weight = float(mask.sum(dtype=torch.float64))
    return Forces(weight - total, weight, *out)
