"""Sampled displacement fields: sampling, composition, exponential, inverse, Jacobian.

All fields in one call share a grid of `spacing` um (z, y, x); displacements are um; the first sample is the grid's
origin. Positions handed to `sample` are index positions (sample centres are integers).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from ..geometry import Numbers

Mode = str  # "linear" | "nearest" | "cubic"


def identity(
    shape: Sequence[int], *, dtype: torch.dtype = torch.float32, device: torch.device | None = None
) -> torch.Tensor:
    """(3, z, y, x) index positions of a grid of that shape."""
    axes = [torch.arange(n, dtype=dtype, device=device) for n in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def rounded(field: torch.Tensor, step: float) -> torch.Tensor:
    """The nearest multiples of `step`, a power of two; antisymmetric. Their last bits are zero, so they pack well."""
    return torch.round(field * (1.0 / step)) * step


def sample(values: torch.Tensor, index: torch.Tensor, mode: Mode = "linear") -> torch.Tensor:
    """(C, z, y, x) values at (3, ...) index positions; beyond the border the border's value. Returns (C, ...)."""
    if mode == "cubic":
        return _sample_cubic(values, index)
    if mode not in ("linear", "nearest"):
        raise ValueError(f"interpolation {mode!r} is unknown; use linear, nearest or cubic")
    if mode == "linear" and all(t.device.type == "cpu" and t.dtype == torch.float32 for t in (values, index)):
        from .field_cpu import sample_linear

        out = torch.empty(values.shape[0], index[0].numel())
        sample_linear(values.contiguous().numpy(), index.reshape(3, -1).contiguous().numpy(), out.numpy())
        return out.reshape(values.shape[0], *index.shape[1:])
    shape = values.shape[1:]
    # grid_sample wants (x, y, z) in [-1, 1] between the outer centres; an axis of one sample has no extent.
    flat = index.reshape(3, 1, 1, -1)
    place = torch.stack([flat[a] * (2.0 / max(shape[a] - 1, 1)) - 1.0 for a in (2, 1, 0)], dim=-1)
    kind = "bilinear" if mode == "linear" else "nearest"
    out = F.grid_sample(values[None], place[None].to(values.dtype), kind, "border", align_corners=True)
    return out.reshape(values.shape[0], *index.shape[1:])


def _sample_cubic(values: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Catmull-Rom interpolation (a = -0.5), 64 taps, border values repeated; blocks need a halo of 2."""
    shape = values.shape[1:]
    flat = index.reshape(3, -1)
    base = flat.floor()
    t = flat - base
    weights = []
    for axis in range(3):
        f = t[axis]
        weights.append(
            torch.stack(
                [
                    ((-0.5 * f + 1.0) * f - 0.5) * f,
                    (1.5 * f - 2.5) * f * f + 1.0,
                    ((-1.5 * f + 2.0) * f + 0.5) * f,
                    (0.5 * f - 0.5) * f * f,
                ]
            )
        )
    base = base.long()
    places = [torch.stack([(base[a] + k).clamp(0, shape[a] - 1) for k in (-1, 0, 1, 2)]) for a in range(3)]
    volume = values.reshape(values.shape[0], -1)
    out = torch.zeros(values.shape[0], flat.shape[1], dtype=values.dtype, device=values.device)
    for i in range(4):
        for j in range(4):
            row = (places[0][i] * shape[1] + places[1][j]) * shape[2]
            w = weights[0][i] * weights[1][j]
            for k in range(4):
                out += volume[:, row + places[2][k]] * (w * weights[2][k])
    return out.reshape(values.shape[0], *index.shape[1:])


def _column(spacing: Numbers, like: torch.Tensor) -> torch.Tensor:
    return torch.as_tensor(np.asarray(spacing, dtype=float), dtype=like.dtype, device=like.device).reshape(3, 1, 1, 1)


def sample_field(field: torch.Tensor, displacement: torch.Tensor, spacing: Numbers) -> torch.Tensor:
    """`field` at x + displacement(x) for every sample x of the shared grid."""
    index = identity(field.shape[1:], dtype=field.dtype, device=field.device)
    index += displacement / _column(spacing, field)
    return sample(field, index)


def compose(outer: torch.Tensor, inner: torch.Tensor, spacing: Numbers) -> torch.Tensor:
    """The displacement of (id + outer) after (id + inner)."""
    return inner + sample_field(outer, inner, spacing)


def exponential(velocity: torch.Tensor, spacing: Numbers, squarings: int) -> torch.Tensor:
    """exp(v) - id by scaling and squaring: (id + v / 2^N)^(2^N). `velocity` (3, z, y, x) um."""
    field = velocity * (0.5**squarings)
    for _ in range(squarings):
        field = compose(field, field, spacing)
    return field


def invert(
    field: torch.Tensor,
    spacing: Numbers,
    *,
    initial: torch.Tensor | None = None,
    tolerance: float = 1e-3,
    iterations: int = 50,
) -> torch.Tensor:
    """The displacement v with (id + field) o (id + v) = id on the same grid, by v(x) <- -field(x + v(x)).

    Stops where the largest change is under `tolerance` samples. Converges where id + field is a contraction away from
    the identity; raises ArithmeticError where it does not come under 100 x tolerance in `iterations` steps.
    """
    step = _column(spacing, field)
    inverse = -field if initial is None else initial
    change = float("inf")
    for _ in range(iterations):
        new = -sample_field(field, inverse, spacing)
        change = float(((new - inverse) / step).abs().max())
        inverse = new
        if change < tolerance:
            return inverse
    if change > 100 * tolerance:
        raise ArithmeticError(f"inversion stalled at a change of {change:.3g} samples after {iterations} steps")
    return inverse


def min_determinant(field: torch.Tensor, spacing: Numbers) -> torch.Tensor:
    """Smallest signed determinant of I + grad(field) over the eight one-sided difference stencils, (z-1, y-1, x-1).

    Element (i, j, k) belongs to the cell between samples (i, j, k) and (i+1, j+1, k+1): its eight corners, each with
    the differences along the cell's own edges at that corner. These are the eight stencils of all samples, each seen
    once, so a positive minimum over all cells is a positive determinant by every stencil at every sample.
    """
    if field.device.type == "cpu" and field.dtype == torch.float32:
        from .field_cpu import smallest_determinant

        out = torch.empty([n - 1 for n in field.shape[1:]])
        smallest_determinant(field.contiguous().numpy(), (1.0 / np.asarray(spacing)).astype(np.float32), out.numpy())
        return out
    step = _column(spacing, field)
    edges = []
    for axis in range(3):
        d = torch.diff(field, dim=axis + 1) / step[axis]
        d[axis] += 1.0
        edges.append(d)
    smallest: torch.Tensor | None = None
    for corner in range(8):
        place = [(corner >> 2) & 1, (corner >> 1) & 1, corner & 1]
        rows = []
        for axis in range(3):
            d = edges[axis]
            for other in range(3):
                if other != axis:
                    d = d.narrow(other + 1, place[other], field.shape[other + 1] - 1)
            rows.append(d)
        a, b, c = rows
        det = (
            a[0] * (b[1] * c[2] - b[2] * c[1]) - a[1] * (b[0] * c[2] - b[2] * c[0]) + a[2] * (b[0] * c[1] - b[1] * c[0])
        )
        smallest = det if smallest is None else torch.minimum(smallest, det)
    assert smallest is not None
    return smallest
