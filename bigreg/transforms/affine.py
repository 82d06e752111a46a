"""Affine maps as 4 x 4 float64 matrices on world points (z, y, x), um."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
from scipy.linalg import expm, logm, sqrtm


def apply_affine(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(..., 3) points through a 4 x 4 affine."""
    moved: np.ndarray = np.asarray(points, dtype=float) @ matrix[:3, :3].T + matrix[:3, 3]
    return moved


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


def polar_rotation(matrix: np.ndarray) -> np.ndarray:
    """(3, 3) orthogonal: the one that is nearest to an affine's linear part (3 x 3 or 4 x 4), its polar factor."""
    u, _, vt = np.linalg.svd(np.asarray(matrix, dtype=float)[:3, :3])
    rotation: np.ndarray = u @ vt
    return rotation


def angle_deg(rotation: np.ndarray) -> float:
    """The angle of a rotation (3 x 3), degrees: of its skew part and its trace, so exact near 0 and 180 too."""
    skew = rotation - rotation.T
    sine = np.linalg.norm([skew[2, 1], skew[0, 2], skew[1, 0]])
    return float(np.rad2deg(np.arctan2(sine, np.trace(rotation) - 1.0)))


def nearest_axis_turn(matrix: np.ndarray) -> np.ndarray:
    """(3, 3) signed permutation: the turn of axes that is nearest to an affine's linear part (3 x 3 or 4 x 4).

    It is one of the 24 rotations that take axes to axes, or one of the 24 reflections where the affine mirrors; the
    earliest of equals, the identity first. A rotation is at most 62.8 degrees from the nearest, so what is left has
    a principal square root whatever positive stretch comes with it.
    """
    turn = polar_rotation(matrix)
    mirrored = np.linalg.det(turn) < 0
    found, best = np.eye(3), -np.inf
    for order in permutations(range(3)):
        for signs in product((1.0, -1.0), repeat=3):
            candidate = np.zeros((3, 3))
            candidate[range(3), order] = signs
            alike = float((candidate * turn).sum())  # 1 + 2 cos of the angle between them
            if (np.linalg.det(candidate) < 0) == mirrored and alike > best + 1e-9:
                found, best = candidate, alike
    return found


def log_affine(matrix: np.ndarray) -> np.ndarray:
    """Principal logarithm of an affine, 4 x 4 with a zero last row."""
    return np.real(logm(matrix))


def exp_affine(generator: np.ndarray) -> np.ndarray:
    """exp of a 4 x 4 generator (last row zero): an affine, and exp(-g) is its inverse."""
    matrix: np.ndarray = expm(generator)
    return matrix


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
