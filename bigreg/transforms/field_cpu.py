"""Linear interpolation on a CPU core: every sample reads its eight neighbours once for all components."""

from __future__ import annotations

import numba
import numpy as np

_jit = numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "nsz", "arcp"})


@_jit
def _corner(place, length):
    """(lower neighbour, fraction) of a coordinate clamped to 0 .. length - 1; NaN counts as 0."""
    zero = np.float32(0.0)
    end = np.float32(length - 1)
    place = place if place > zero else zero
    place = place if place < end else end
    lower = min(np.int64(place), max(length - 2, 0))
    return lower, place - np.float32(lower)


@_jit
def sample_linear(values, index, out):
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
