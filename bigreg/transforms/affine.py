"""Affine maps as 4 x 4 float64 matrices on world points (z, y, x), um."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
from scipy.linalg import expm, logm, sqrtm


def apply_affine(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(..., 3) points through a 4 x 4 affine."""
    return np.asarray(points, dtype=float) @ matrix[:3, :3].T + matrix[:3, 3]


def translation(offset: np.ndarray) -> np.ndarray:
    """The 4 x 4 affine x -> x + offset."""
    matrix = np.eye(4)
    matrix[:3, 3] = offset
    return matrix


def about(linear: np.ndarray, centre: np.ndarray, target: np.ndarray | None = None) -> np.ndarray:
    """The affine with linear part `linear` (3 x 3) that takes `centre` to `target` (by default to itself)."""
    matrix = np.eye(4)
    matrix[:3, :3] = linear
    matrix[:3, 3] = (centre if target is None else target) - linear @ np.asarray(centre, dtype=float)
    return matrix


def principal_sqrt(matrix: np.ndarray) -> np.ndarray:
    """The affine H with H H = `matrix` whose eigenvalues have positive real part; half of the way.

    Raises ValueError where none exists: reflections and half turns must be taken out first (orientation codes).
    """
    matrix = np.asarray(matrix, dtype=float)
    eigenvalues = np.linalg.eigvals(matrix[:3, :3])
    if (np.abs(eigenvalues.imag) < 1e-9 * np.abs(eigenvalues)).astype(bool)[eigenvalues.real <= 0].any():
        raise ValueError(f"affine with eigenvalues {eigenvalues} has no principal square root; pass orientation codes")
    root = np.real_if_close(sqrtm(matrix), tol=1e6)
    # One Newton step each way removes the last rounding, so that root @ root is `matrix` to machine precision.
    root = 0.5 * (root + np.linalg.solve(root, matrix))
    root[3] = (0.0, 0.0, 0.0, 1.0)
    if not np.allclose(root @ root, matrix, rtol=1e-9, atol=1e-9 * max(1.0, np.abs(matrix).max())):
        raise ValueError(f"affine {matrix.tolist()} has no principal square root; pass orientation codes")
    return root


def log_affine(matrix: np.ndarray) -> np.ndarray:
    """Principal logarithm of an affine, 4 x 4 with a zero last row."""
    return np.real(logm(matrix))


def exp_affine(generator: np.ndarray) -> np.ndarray:
    """exp of a 4 x 4 generator (last row zero): an affine, and exp(-g) is its inverse."""
    return expm(generator)


def signed_permutation(moving: str, fixed: str, centre: np.ndarray) -> np.ndarray:
    """The affine from canonical moving coordinates, whose axes run like `fixed`'s, to the moving world.

    `moving` and `fixed` are orientation codes in brainglobe-space's convention: for each world axis (z, y, x) the
    anatomical side at which it starts. `centre` is the middle of the moving image in its own world (um); the canonical
    frame puts it at the same distances along the axes that it has there.
    """
    from brainglobe_space import AnatomicalSpace

    canonical = AnatomicalSpace(fixed).axes_description
    linear = np.zeros((3, 3))
    for axis, side in enumerate(AnatomicalSpace(moving).axes_description):
        # Each description is a pair such as ("p", "a"): the axis starts posterior and ends anterior.
        same = next(i for i, own in enumerate(canonical) if set(own) == set(side))
        linear[axis, same] = 1.0 if canonical[same] == side else -1.0
    return about(linear, np.abs(linear).T @ np.asarray(centre, dtype=float), centre)


def nearest_axis_turn(matrix: np.ndarray) -> np.ndarray:
    """The signed permutation (3 x 3) nearest to an affine's linear part: one of 24 turns, or of 24 mirrored ones.

    What is left after it turns by less than 63 degrees, so it has a principal square root.
    """
    u, _, vt = np.linalg.svd(np.asarray(matrix, dtype=float)[:3, :3])
    rotation = u @ vt
    best, found = -np.inf, np.eye(3)
    for order in permutations(range(3)):
        for signs in product((1.0, -1.0), repeat=3):
            turn = np.zeros((3, 3))
            turn[range(3), order] = signs
            fit = float((turn * rotation).sum())
            # Of turns that are equally near the first counts, whatever the last bit says; no turn comes first.
            if np.linalg.det(turn) * np.linalg.det(rotation) > 0 and fit > best + 1e-6:
                best, found = fit, turn
    return found
