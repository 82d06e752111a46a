"""The linear system of a step on a CPU core: conjugate gradients on the lattice, in sweeps without temporaries."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..jit import compiled


@compiled
def _product(matrix: Any, edges: Any, at: Any, out: Any) -> Any:
    """out = (matrix + membrane) at, (3, z, y, x); returns the sum of at * out."""
    _, depth, height, width = at.shape
    total = 0.0
    for z in range(depth):
        for y in range(height):
            for x in range(width):
                p, q, r = at[0, z, y, x], at[1, z, y, x], at[2, z, y, x]
                a, b, c = matrix[0, z, y, x], matrix[1, z, y, x], matrix[2, z, y, x]
                d, e, f = matrix[3, z, y, x], matrix[4, z, y, x], matrix[5, z, y, x]
                out[0, z, y, x] = a * p + d * q + e * r
                out[1, z, y, x] = d * p + b * q + f * r
                out[2, z, y, x] = e * p + f * q + c * r
            for k in range(3):
                here, row = at[k, z, y], out[k, z, y]
                if z > 0:
                    for x in range(width):
                        row[x] += edges[k, 0] * (here[x] - at[k, z - 1, y, x])
                if z < depth - 1:
                    for x in range(width):
                        row[x] += edges[k, 0] * (here[x] - at[k, z + 1, y, x])
                if y > 0:
                    for x in range(width):
                        row[x] += edges[k, 1] * (here[x] - at[k, z, y - 1, x])
                if y < height - 1:
                    for x in range(width):
                        row[x] += edges[k, 1] * (here[x] - at[k, z, y + 1, x])
                for x in range(width - 1):
                    step = edges[k, 2] * (here[x] - here[x + 1])
                    row[x] += step
                    row[x + 1] -= step
                for x in range(width):
                    total += here[x] * row[x]
    return total


@compiled
def _inverses(matrix: Any, edges: Any, out: Any) -> None:
    """The inverse of each point's own 3 x 3 block, the membrane's diagonal included; (6, z, y, x)."""
    _, depth, height, width = matrix.shape
    for z in range(depth):
        nz = (z > 0) + (z < depth - 1)
        for y in range(height):
            ny = (y > 0) + (y < height - 1)
            for x in range(width):
                nx = (x > 0) + (x < width - 1)
                a = matrix[0, z, y, x] + edges[0, 0] * nz + edges[0, 1] * ny + edges[0, 2] * nx
                b = matrix[1, z, y, x] + edges[1, 0] * nz + edges[1, 1] * ny + edges[1, 2] * nx
                c = matrix[2, z, y, x] + edges[2, 0] * nz + edges[2, 1] * ny + edges[2, 2] * nx
                d, e, f = matrix[3, z, y, x], matrix[4, z, y, x], matrix[5, z, y, x]
                c0, c1, c2 = b * c - f * f, e * f - d * c, d * f - e * b
                scale = np.float32(1.0) / (a * c0 + d * c1 + e * c2)
                out[0, z, y, x] = c0 * scale
                out[1, z, y, x] = (a * c - e * e) * scale
                out[2, z, y, x] = (a * b - d * d) * scale
                out[3, z, y, x] = c1 * scale
                out[4, z, y, x] = c2 * scale
                out[5, z, y, x] = (d * e - a * f) * scale


@compiled
def solve(matrix: Any, edges: Any, right: Any, turns: int, out: Any) -> None:
    """out = x of (matrix + membrane) x = right by so many turns of conjugate gradients, from zero.

    matrix   (6, z, y, x) symmetric positive definite 3 x 3 blocks, in the order of PAIRS
    edges    (3, 3) stiffness of an edge, per component and axis
    right    (3, z, y, x)
    """
    inverse = np.empty_like(matrix)
    _inverses(matrix, edges, inverse)
    n = right[0].size
    left = right.copy()
    ahead, turned = np.zeros_like(right), np.empty_like(right)
    flat, there, rest = out.reshape(3, n), ahead.reshape(3, n), left.reshape(3, n)
    pushed, own = turned.reshape(3, n), inverse.reshape(6, n)
    flat[:] = 0
    before = 0.0
    for turn in range(turns + 1):
        now = 0.0
        for i in range(n):
            x, y, z = rest[0, i], rest[1, i], rest[2, i]
            u = own[0, i] * x + own[3, i] * y + own[4, i] * z
            v = own[3, i] * x + own[1, i] * y + own[5, i] * z
            w = own[4, i] * x + own[5, i] * y + own[2, i] * z
            pushed[0, i], pushed[1, i], pushed[2, i] = u, v, w
            now += x * u + y * v + z * w
        if turn == turns or not now > 0.0:
            break
        keep = np.float32(now / before if turn else 0.0)
        for k in range(3):
            for i in range(n):
                there[k, i] = pushed[k, i] + keep * there[k, i]
        length = _product(matrix, edges, ahead, turned)
        if not length > 0.0:
            break  # what is left is below float32
        step = np.float32(now / length)
        for k in range(3):
            for i in range(n):
                flat[k, i] += step * there[k, i]
            for i in range(n):
                rest[k, i] -= step * pushed[k, i]
        before = now
