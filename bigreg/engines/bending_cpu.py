"""The linear system of a step with the bending regulariser on a CPU core, in sweeps without temporaries.

With F and S the matrices D' D of the first and second differences along an axis, free at the ends, the pull on a
component is the sum over the axes a of w_aa S_a, and over the pairs a < b of 2 w_ab F_a F_b. The rows of F and S sum to
0, so that all is computed from differences to the point itself: what is constant costs exactly nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..jit import compiled
from .membrane_cpu import advance, follow, invert, push


@compiled
def _first(i: int, n: int) -> Any:
    """Weights of the points i - 1, i and i + 1 in the row i of F, for n points."""
    before, after = np.float32(i > 0), np.float32(i < n - 1)
    return -before, before + after, -after


@compiled
def _second(i: int, n: int) -> Any:
    """Weights of the points i - 2, i - 1, i + 1 and i + 2 in the row i of S, for n points."""
    before, here, after = np.float32(i > 1), np.float32((i > 0) & (i < n - 1)), np.float32(i < n - 2)
    two = np.float32(2.0)
    return before, -two * (before + here), -two * (here + after), after


@compiled
def _add_four(c: Any, p: Any, q: Any, r: Any, s: Any, w_p: Any, w_q: Any, w_r: Any, w_s: Any, out: Any) -> None:
    """out += what p, q, r and s differ by from c, weighted; no more at once, or LLVM gives up telling them apart."""
    for x in range(out.shape[0]):
        here = c[x]
        out[x] += w_p * (p[x] - here) + w_q * (q[x] - here) + w_r * (r[x] - here) + w_s * (s[x] - here)


@compiled
def _add_across(weights: Any, at: Any, z: int, across: Any, out: Any) -> None:
    """Add to out (y * x,) what S_z, S_y and F_z F_y pull in the plane z of one component `at` (z, y, x).

    weights   (3, 3) of second differences
    across    (y * x,) becomes the weighted -(F_z + F_y), of which F_x is to be taken
    """
    depth, height, width = at.shape
    # Planes and rows beyond the border weigh 0; the nearest stands for them.
    z0, z1, z3, z4 = max(z - 2, 0), max(z - 1, 0), min(z + 1, depth - 1), min(z + 2, depth - 1)
    n = height * width
    p0, p1, p2, p3, p4 = at[z0].reshape(n), at[z1].reshape(n), at[z].reshape(n), at[z3].reshape(n), at[z4].reshape(n)
    two = np.float32(2.0)
    zz, yy = weights[0, 0], weights[1, 1]
    zy, zx, yx = two * weights[0, 1], two * weights[0, 2], two * weights[1, 2]
    f0, f1, f2 = _first(z, depth)
    s0, s1, s3, s4 = _second(z, depth)
    across[:] = np.float32(0.0)
    y = 0
    while y < height:
        end = height - 2 if 2 <= y < height - 2 else y + 1  # rows that weigh the same are swept as one
        g0, g1, g2 = _first(y, height)
        t0, t1, t3, t4 = _second(y, height)
        m = (end - y) * width
        i, j0, j1 = y * width, max(y - 2, 0) * width, max(y - 1, 0) * width
        j3, j4 = min(y + 1, height - 1) * width, min(y + 2, height - 1) * width
        c, row, over = p2[i : i + m], out[i : i + m], across[i : i + m]
        before, after = p1[i : i + m], p3[i : i + m]
        above, below = p2[j1 : j1 + m], p2[j3 : j3 + m]
        _add_four(
            c, before, after, above, below,
            zz * s1 + zy * f0 * g1, zz * s3 + zy * f2 * g1, yy * t1 + zy * f1 * g0, yy * t3 + zy * f1 * g2, row,
        )  # fmt: skip
        _add_four(c, before, after, above, below, -zx * f0, -zx * f2, -yx * g0, -yx * g2, over)
        _add_four(
            c, p1[j1 : j1 + m], p1[j3 : j3 + m], p3[j1 : j1 + m], p3[j3 : j3 + m],
            zy * f0 * g0, zy * f0 * g2, zy * f2 * g0, zy * f2 * g2, row,
        )  # fmt: skip
        _add_four(
            c, p0[i : i + m], p4[i : i + m], p2[j0 : j0 + m], p2[j4 : j4 + m], zz * s0, zz * s4, yy * t0, yy * t4, row
        )
        y = end


@compiled
def _add_along(weight: Any, c: Any, across: Any, ends: Any, out: Any) -> None:
    """Add to a row out (x,) what S_x pulls of the row c, weighted, and F_x of -across; ends (x + 2,) is scratch.

    Both are second differences of a row: of one without a slope at its ends, and of the second differences, which end
    before the ends.
    """
    width = out.shape[0]
    middle = ends[1 : width + 1]
    for x in range(width):
        middle[x] = across[x]
    ends[0], ends[width + 1] = across[0], across[width - 1]
    left, centre, right, inner = c[: width - 2], c[1:], c[2:], middle[1:]
    for x in range(width - 2):
        inner[x] += weight * ((left[x] - centre[x]) + (right[x] - centre[x]))
    before, after = ends[:width], ends[2:]
    for x in range(width):
        out[x] += (before[x] - middle[x]) + (after[x] - middle[x])


@compiled
def pull(weights: Any, at: Any, out: Any) -> None:
    """out = the gradient of the bending energy, (3, z, y, x); weights (3 components, 3 axes, 3 axes)."""
    _, depth, height, width = at.shape
    across, ends = np.empty(height * width, np.float32), np.empty(width + 2, np.float32)
    out[:] = np.float32(0.0)
    for k in range(3):
        for z in range(depth):
            _add_across(weights[k], at[k], z, across, out[k, z].reshape(height * width))
            for y in range(height):
                _add_along(weights[k, 2, 2], at[k, z, y], across[y * width : (y + 1) * width], ends, out[k, z, y])


@compiled
def _times(a: Any, b: Any, c: Any, p: Any, q: Any, r: Any, out: Any) -> None:
    """out = a p + b q + c r."""
    for i in range(out.shape[0]):
        out[i] = a[i] * p[i] + b[i] * q[i] + c[i] * r[i]


@compiled
def _product(matrix: Any, weights: Any, at: Any, out: Any) -> Any:
    """out = (matrix + bending) at, (3, z, y, x); returns the sum of at * out."""
    _, depth, height, width = at.shape
    n = height * width
    across, ends = np.empty(n, np.float32), np.empty(width + 2, np.float32)
    total = np.zeros(width)  # one for each x, so that no sum waits for the one before
    m, c, product = matrix.reshape(6, depth, n), at.reshape(3, depth, n), out.reshape(3, depth, n)
    for z in range(depth):
        for k, (i, j, h) in enumerate(((0, 3, 4), (3, 1, 5), (4, 5, 2))):
            _times(m[i, z], m[j, z], m[h, z], c[0, z], c[1, z], c[2, z], product[k, z])
            _add_across(weights[k], at[k], z, across, product[k, z])
            for y in range(height):
                here, row = at[k, z, y], out[k, z, y]
                _add_along(weights[k, 2, 2], here, across[y * width : (y + 1) * width], ends, row)
                for x in range(width):
                    total[x] += here[x] * row[x]
    return total.sum()


@compiled
def solve(matrix: Any, own: Any, weights: Any, right: Any, turns: int, out: Any) -> None:
    """out = x of (matrix + bending) x = right by so many turns of conjugate gradients, from zero.

    matrix    (6, z, y, x) symmetric positive definite 3 x 3 blocks, in the order of PAIRS
    own       (6, z, y, x) the same with each point's own block of bending
    weights   (3, 3, 3) of second differences, per component and two axes
    right     (3, z, y, x)
    """
    n = right[0].size
    inverse = np.empty((6, n), np.float32)
    block = own.reshape(6, n)
    for i in range(n):
        one = invert(block[0, i], block[1, i], block[2, i], block[3, i], block[4, i], block[5, i])
        inverse[0, i], inverse[1, i], inverse[2, i] = one[0], one[1], one[2]
        inverse[3, i], inverse[4, i], inverse[5, i] = one[3], one[4], one[5]
    left = right.copy()
    ahead, turned = np.zeros_like(right), np.empty_like(right)
    flat, there, rest, pushed = out.reshape(3, n), ahead.reshape(3, n), left.reshape(3, n), turned.reshape(3, n)
    flat[:] = 0
    before = 0.0
    for turn in range(turns + 1):
        now = push(inverse, rest, pushed)
        if turn == turns or not now > 0.0:
            break
        follow(pushed, np.float32(now / before if turn else 0.0), there)
        length = _product(matrix, weights, ahead, turned)
        if not length > 0.0:
            break  # what is left is below float32
        advance(np.float32(now / length), there, pushed, flat, rest)
        before = now
