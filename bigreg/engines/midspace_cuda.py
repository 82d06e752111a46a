"""Mid-space warps and their pull-back to the lattice on a GPU, without a velocity array or a grid of positions.

The spline is evaluated along z and y by two products with narrow matrices, on a quarter of the voxels, and along x
where it is used. The forces of a voxel become its slope and curvature in one pass; the transposed spline that sums
them to the lattice is three products, in a fixed order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl

from ..kernels import ceil_div, kernel
from ..transforms.bspline import adjoint, evaluate_axis, taps

BLOCK, WARPS = 512, 8  # two voxels a thread: more would not fit in its registers


@triton.jit
def _seen(images, mask, out, place, n, C, z, y, x, D, H, W, inside, WHOLE: tl.constexpr):
    """Each channel at a position, the border's value beyond; and whether the position is inside and known."""
    n = tl.cast(n, tl.int64)
    within = (z >= 0) & (z <= D - 1) & (y >= 0) & (y <= H - 1) & (x >= 0) & (x <= W - 1)
    z = tl.minimum(tl.maximum(z, 0.0), D - 1.0)
    y = tl.minimum(tl.maximum(y, 0.0), H - 1.0)
    x = tl.minimum(tl.maximum(x, 0.0), W - 1.0)
    fz, fy, fx = tl.floor(z), tl.floor(y), tl.floor(x)
    tz, ty, tx = z - fz, y - fy, x - fx
    z0, y0, x0 = fz.to(tl.int64), fy.to(tl.int32), fx.to(tl.int32)
    z1 = tl.minimum(z0 + 1, D - 1)
    y1, x1 = tl.minimum(y0 + 1, H - 1), tl.minimum(x0 + 1, W - 1)
    p00, p01, p10, p11 = (z0 * H + y0) * W, (z0 * H + y1) * W, (z1 * H + y0) * W, (z1 * H + y1) * W
    for c in range(C):
        base = images + c * n
        low = _between(base + p00, base + p01, x0, x1, tx, ty, inside)
        high = _between(base + p10, base + p11, x0, x1, tx, ty, inside)
        tl.store(out + c * n + place, low + tz * (high - low), mask=inside)
    if not WHOLE:
        low = _between(mask + p00, mask + p01, x0, x1, tx, ty, inside)
        high = _between(mask + p10, mask + p11, x0, x1, tx, ty, inside)
        within = within & (low + tz * (high - low) > 0.99)
    return within


@triton.jit
def _between(upper, lower, x0, x1, tx, ty, inside):
    """Bilinear, of the two rows that begin at `upper` and `lower`."""
    a = tl.load(upper + x0, mask=inside, other=0.0)
    b = tl.load(upper + x1, mask=inside, other=0.0)
    c = tl.load(lower + x0, mask=inside, other=0.0)
    d = tl.load(lower + x1, mask=inside, other=0.0)
    a += tx * (b - a)
    c += tx * (d - c)
    return a + ty * (c - a)


@kernel
def _warp(
    fixed, moving, mask_f, mask_m, lines, weights, first, out_f, out_m, out_mask, C, D, H, W, n, points, S,
    BLOCK: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """lines (3, D, H, points): the velocity (voxels) but for the spline along x, whose taps are `weights` (S, 4)."""
    n = tl.cast(n, tl.int64)
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < n
    x = (place % W).to(tl.int32)
    row = place // W
    y, z = (row % H).to(tl.int32), (row // H).to(tl.int32)
    phase = x % S
    at = lines + row * points + x // S + tl.load(first + phase, mask=inside, other=0)
    step = n // W * points
    vz = tl.zeros([BLOCK], tl.float32)
    vy = tl.zeros([BLOCK], tl.float32)
    vx = tl.zeros([BLOCK], tl.float32)
    for i in tl.static_range(4):
        w = tl.load(weights + phase * 4 + i, mask=inside, other=0.0)
        vz += w * tl.load(at + i, mask=inside, other=0.0)
        vy += w * tl.load(at + step + i, mask=inside, other=0.0)
        vx += w * tl.load(at + 2 * step + i, mask=inside, other=0.0)
    known_f = _seen(fixed, mask_f, out_f, place, n, C, z + vz, y + vy, x + vx, D, H, W, inside, WHOLE)
    known_m = _seen(moving, mask_m, out_m, place, n, C, z - vz, y - vy, x - vx, D, H, W, inside, WHOLE)
    tl.store(out_mask + place, (known_f & known_m).to(tl.float32), mask=inside)


@triton.jit
def _slope(image, place, inside, i, length, stride):
    """The central difference along an axis; one-sided at its ends, 0 on an axis of one voxel."""
    up, down = tl.where(i < length - 1, stride, 0), tl.where(i > 0, stride, 0)
    high = tl.load(image + place + up, mask=inside, other=0.0)
    low = tl.load(image + place - down, mask=inside, other=0.0)
    return (high - low) * tl.where((i > 0) & (i < length - 1), 0.5, 1.0)


@kernel
def _pull(
    fixed, moving, by_fixed, by_moving, scale_f, scale_m, slope, arms, D, H, W, n,
    BLOCK: tl.constexpr, CURVATURE: tl.constexpr, ADD: tl.constexpr, SCALARS: tl.constexpr,
):  # fmt: skip
    """A channel's slope (3, z, y, x) and products of its arm (6, z, y, x; see PAIRS); ADD to what is there."""
    n = tl.cast(n, tl.int64)
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < n
    x = (place % W).to(tl.int32)
    y, z = ((place // W) % H).to(tl.int32), (place // W // H).to(tl.int32)
    f_z, m_z = _slope(fixed, place, inside, z, D, H * W), _slope(moving, place, inside, z, D, H * W)
    f_y, m_y = _slope(fixed, place, inside, y, H, W), _slope(moving, place, inside, y, H, W)
    f_x, m_x = _slope(fixed, place, inside, x, W, 1), _slope(moving, place, inside, x, W, 1)
    b_f = tl.load(by_fixed + place, mask=inside, other=0.0)
    b_m = tl.load(by_moving + place, mask=inside, other=0.0)
    _put(slope + place, f_z * b_f - m_z * b_m, inside, ADD)
    _put(slope + n + place, f_y * b_f - m_y * b_m, inside, ADD)
    _put(slope + 2 * n + place, f_x * b_f - m_x * b_m, inside, ADD)
    if CURVATURE:
        if SCALARS:
            s_f, s_m = tl.load(scale_f), tl.load(scale_m)
        else:
            s_f = tl.load(scale_f + place, mask=inside, other=0.0)
            s_m = tl.load(scale_m + place, mask=inside, other=0.0)
        a_z, a_y, a_x = f_z * s_f + m_z * s_m, f_y * s_f + m_y * s_m, f_x * s_f + m_x * s_m
        _put(arms + place, a_z * a_z, inside, ADD)
        _put(arms + n + place, a_y * a_y, inside, ADD)
        _put(arms + 2 * n + place, a_x * a_x, inside, ADD)
        _put(arms + 3 * n + place, a_z * a_y, inside, ADD)
        _put(arms + 4 * n + place, a_z * a_x, inside, ADD)
        _put(arms + 5 * n + place, a_y * a_x, inside, ADD)


@triton.jit
def _put(place, value, inside, ADD: tl.constexpr):
    if ADD:
        value += tl.load(place, mask=inside, other=0.0)
    tl.store(place, value, mask=inside)


def warp(
    coefficients: torch.Tensor,
    samples: Sequence[int],
    images: tuple[torch.Tensor, torch.Tensor],
    masks: tuple[torch.Tensor, torch.Tensor],
    whole: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """fixed at x + v, moving at x - v (C, z, y, x), and where both are known (z, y, x); v of (3, ...) in voxels."""
    channels, depth, height, width = images[0].shape
    lines = evaluate_axis(evaluate_axis(coefficients, samples, 0), samples, 1).contiguous()
    weights, first = _taps(int(samples[2]), coefficients.device)
    out = [torch.empty_like(t) for t in (*images, masks[0])]
    n = masks[0].numel()
    _warp[(ceil_div(n, BLOCK),)](
        *images, *masks, lines, weights, first, *out, channels, depth, height, width, n, lines.shape[3],
        int(samples[2]), BLOCK=BLOCK, WHOLE=whole, num_warps=WARPS,
    )  # fmt: skip
    return out[0], out[1], out[2]


class Pulls:
    """What channels, one after the other, add to the slope (3, ...) and the curvature (6, ...) of the lattice."""

    def __init__(self, samples: Sequence[int], *, curvature: bool) -> None:
        self.samples = samples
        self.curvature = curvature
        self.sums: tuple[torch.Tensor, torch.Tensor] | None = None  # made once the forces are: they need memory too

    def add(
        self,
        fixed: torch.Tensor,
        moving: torch.Tensor,
        by_fixed: torch.Tensor,
        by_moving: torch.Tensor,
        scale_f: torch.Tensor,
        scale_m: torch.Tensor,
    ) -> None:
        """One channel (z, y, x), its forces, and their scales, (z, y, x) or 0-d."""
        scalars = scale_f.ndim == 0 and scale_m.ndim == 0
        if not scalars:
            scale_f, scale_m = (t.expand_as(fixed).contiguous() for t in (scale_f, scale_m))
        n, some = fixed.numel(), self.sums is not None
        if self.sums is None:
            slope = torch.empty(3, *fixed.shape, dtype=torch.float32, device=fixed.device)
            self.sums = slope, slope.new_empty(6, *fixed.shape) if self.curvature else slope
        shared: dict[str, Any] = {"ADD": some, "SCALARS": scalars, "BLOCK": BLOCK, "num_warps": WARPS}
        _pull[(ceil_div(n, BLOCK),)](
            fixed, moving, by_fixed.expand_as(fixed).contiguous(), by_moving.expand_as(fixed).contiguous(), scale_f,
            scale_m, *self.sums, *fixed.shape, n, CURVATURE=self.curvature, **shared,
        )  # fmt: skip

    def pulled(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The transposed spline of all of them."""
        assert self.sums is not None, "there is a channel"
        slope, arms = self.sums
        return adjoint(slope, self.samples), adjoint(arms, self.samples) if self.curvature else None


_KEPT: dict[tuple[int, torch.device], tuple[torch.Tensor, torch.Tensor]] = {}


def _taps(samples: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """`bspline.taps` on the device."""
    if (samples, device) not in _KEPT:
        weights, first = taps(samples)
        _KEPT[samples, device] = (
            torch.as_tensor(weights, device=device),
            torch.as_tensor(first.astype("int32"), device=device),
        )
    return _KEPT[samples, device]
