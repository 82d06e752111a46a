"""Sampling and determinants on a CPU core, each in one sweep over the samples of a field."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..jit import compiled


@compiled
def _corner(place: Any, length: int) -> tuple[Any, Any]:
    """(lower neighbour, fraction) of a coordinate clamped to 0 .. length - 1; NaN counts as 0."""
    zero = np.float32(0.0)
    end = np.float32(length - 1)
    place = place if place > zero else zero
    place = place if place < end else end
    lower: Any = min(np.int64(place), max(length - 2, 0))
    return lower, place - np.float32(lower)


@compiled
def sample_linear(values: np.ndarray, index: np.ndarray, out: np.ndarray) -> None:
    """out[c, i] = values (C, z, y, x) at index (3, i), in index positions, clamped to the border."""
    _, depth, height, width = values.shape
    up_z, up_y, up_x = min(1, depth - 1), min(1, height - 1), min(1, width - 1)
    for i in range(index.shape[1]):
        z, tz = _corner(index[0, i], depth)
        y, ty = _corner(index[1, i], height)
        x, tx = _corner(index[2, i], width)
        z, y, x = np.uint64(z), np.uint64(y), np.uint64(x)
        z1, y1, x1 = z + np.uint64(up_z), y + np.uint64(up_y), x + np.uint64(up_x)
        for c in range(values.shape[0]):
            p = values[c, z, y, x]
            q = values[c, z, y1, x]
            r = values[c, z1, y, x]
            s = values[c, z1, y1, x]
            p += tx * (values[c, z, y, x1] - p)
            q += tx * (values[c, z, y1, x1] - q)
            r += tx * (values[c, z1, y, x1] - r)
            s += tx * (values[c, z1, y1, x1] - s)
            p += ty * (q - p)
            r += ty * (s - r)
            out[c, i] = p + tz * (r - p)


@compiled
def _determinant(a: Any, b: Any, c: Any) -> Any:
    return a[0] * (b[1] * c[2] - b[2] * c[1]) - a[1] * (b[0] * c[2] - b[2] * c[0]) + a[2] * (b[0] * c[1] - b[1] * c[0])


@compiled
def _edge(field: np.ndarray, z: int, y: int, x: int, axis: int, scale: Any) -> tuple[Any, Any, Any]:
    """Derivative of x + d(x) along one axis, from the sample (z, y, x) to the next."""
    z1, y1, x1 = z + (axis == 0), y + (axis == 1), x + (axis == 2)
    one = np.float32(1.0)
    return (
        (field[0, z1, y1, x1] - field[0, z, y, x]) * scale + (one if axis == 0 else np.float32(0.0)),
        (field[1, z1, y1, x1] - field[1, z, y, x]) * scale + (one if axis == 1 else np.float32(0.0)),
        (field[2, z1, y1, x1] - field[2, z, y, x]) * scale + (one if axis == 2 else np.float32(0.0)),
    )


@compiled
def smallest_determinant(field: np.ndarray, scale: np.ndarray, out: np.ndarray) -> None:
    """out (z-1, y-1, x-1): smallest determinant over the corners of each cell; scale (3,) = 1 / spacing."""
    for z in range(out.shape[0]):
        for y in range(out.shape[1]):
            for x in range(out.shape[2]):
                z00, z01 = _edge(field, z, y, x, 0, scale[0]), _edge(field, z, y, x + 1, 0, scale[0])
                z10, z11 = _edge(field, z, y + 1, x, 0, scale[0]), _edge(field, z, y + 1, x + 1, 0, scale[0])
                y00, y01 = _edge(field, z, y, x, 1, scale[1]), _edge(field, z, y, x + 1, 1, scale[1])
                y10, y11 = _edge(field, z + 1, y, x, 1, scale[1]), _edge(field, z + 1, y, x + 1, 1, scale[1])
                x00, x01 = _edge(field, z, y, x, 2, scale[2]), _edge(field, z, y + 1, x, 2, scale[2])
                x10, x11 = _edge(field, z + 1, y, x, 2, scale[2]), _edge(field, z + 1, y + 1, x, 2, scale[2])
                near = min(
                    min(_determinant(z00, y00, x00), _determinant(z01, y01, x00)),
                    min(_determinant(z10, y00, x01), _determinant(z11, y01, x01)),
                )
                far = min(
                    min(_determinant(z00, y10, x10), _determinant(z01, y11, x10)),
                    min(_determinant(z10, y10, x11), _determinant(z11, y11, x11)),
                )
                out[z, y, x] = min(near, far)
