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
def invert(a: Any, b: Any, c: Any, d: Any, e: Any, f: Any) -> Any:
    """The inverse of a symmetric 3 x 3 block, both in the order of gauss_newton.PAIRS."""
    c0, c1, c2 = b * c - f * f, e * f - d * c, d * f - e * b
    scale = np.float32(1.0) / (a * c0 + d * c1 + e * c2)
    return c0 * scale, (a * c - e * e) * scale, (a * b - d * d) * scale, c1 * scale, c2 * scale, (d * e - a * f) * scale


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
                i0, i1, i2, i3, i4, i5 = invert(a, b, c, d, e, f)
                out[0, z, y, x], out[1, z, y, x], out[2, z, y, x] = i0, i1, i2
                out[3, z, y, x], out[4, z, y, x], out[5, z, y, x] = i3, i4, i5


@compiled
def push(inverse: Any, rest: Any, pushed: Any) -> Any:
    """pushed = inverse rest, (3, points); returns the sum of rest * pushed."""
    now = 0.0
    for i in range(rest.shape[1]):
        x, y, z = rest[0, i], rest[1, i], rest[2, i]
        u = inverse[0, i] * x + inverse[3, i] * y + inverse[4, i] * z
        v = inverse[3, i] * x + inverse[1, i] * y + inverse[5, i] * z
        w = inverse[4, i] * x + inverse[5, i] * y + inverse[2, i] * z
        pushed[0, i], pushed[1, i], pushed[2, i] = u, v, w
        now += x * u + y * v + z * w
    return now


@compiled
def follow(pushed: Any, keep: Any, ahead: Any) -> None:
    """ahead = pushed + keep * ahead, (3, points)."""
    for k in range(3):
        for i in range(ahead.shape[1]):
            ahead[k, i] = pushed[k, i] + keep * ahead[k, i]


@compiled
def advance(step: Any, ahead: Any, product: Any, x: Any, rest: Any) -> None:
    """x += step * ahead, rest -= step * product, (3, points)."""
    for k in range(3):
        for i in range(x.shape[1]):
            x[k, i] += step * ahead[k, i]
        for i in range(x.shape[1]):
            rest[k, i] -= step * product[k, i]


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
        now = push(own, rest, pushed)
        if turn == turns or not now > 0.0:
            break
        follow(pushed, np.float32(now / before if turn else 0.0), there)
        length = _product(matrix, edges, ahead, turned)
        if not length > 0.0:
            break  # what is left is below float32
        advance(np.float32(now / length), there, pushed, flat, rest)
        before = now
