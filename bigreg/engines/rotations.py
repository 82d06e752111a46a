"""Rotations that cover all of them evenly, and small ones around one."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from ..transforms.affine import angle_deg


def spread(number: int) -> np.ndarray:
    """(number, 3, 3) rotations evenly over SO(3): the super-Fibonacci spiral (Alexa, CVPR 2022)."""
    step = np.arange(number) + 0.5
    near, far = np.sqrt(step / number), np.sqrt(1.0 - step / number)
    a, b = 2 * np.pi * step / np.sqrt(2.0), 2 * np.pi * step / 1.533751168755204288
    quaternions = np.stack([near * np.sin(a), near * np.cos(a), far * np.sin(b), far * np.cos(b)], axis=1)
    return Rotation.from_quat(quaternions).as_matrix()


def around(degrees: float) -> np.ndarray:
    """(12, 3, 3) rotations by one angle about the axes of an icosahedron."""
    golden = (1.0 + np.sqrt(5.0)) / 2.0
    corners = np.array([(0.0, s, t * golden) for s in (-1, 1) for t in (-1, 1)])
    axes = np.concatenate([np.roll(corners, k, axis=1) for k in range(3)])
    return Rotation.from_rotvec(np.deg2rad(degrees) * axes / np.linalg.norm(axes[0])).as_matrix()


def apart_deg(a: np.ndarray, b: np.ndarray) -> float:
    """The angle between two rotations (3 x 3)."""
    return angle_deg(a.T @ b)
