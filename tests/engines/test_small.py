"""Two small images are bent onto each other in memory."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from bigreg.engines.small import bend, seen_through, strain

SHAPE = (30, 38, 45)  # no multiple of the cells


def pair():
    """An image, the same seen through a displacement, and that displacement (voxels), from the first to the second."""
    grain = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal(SHAPE), 1.5)
    moving = (0.5 + 0.15 * grain / grain.std()).astype(np.float32)
    z, y, x = np.indices(SHAPE)
    move = np.stack([1.5 * np.sin(y / 9), 1.8 * np.sin(x / 10), 1.2 * np.cos(z / 8)]).astype(np.float32)
    return seen_through(moving, np.ones(SHAPE, bool), move)[0], moving, move


def test_a_known_bend_is_found_inside():
    fixed, moving, move = pair()
    inner = (slice(None), *(slice(6, -6),) * 3)
    found = bend(fixed, moving, np.ones(SHAPE, bool), similarity="lncc_squared", regularisation=0.4)
    assert found.shape == (3, *SHAPE)
    error = np.linalg.norm(found - move, axis=0)[inner[1:]]
    assert error.mean() < 0.25 * np.linalg.norm(move, axis=0)[inner[1:]].mean()


def test_equal_images_are_not_bent():
    fixed = pair()[0]
    assert np.abs(bend(fixed, fixed, np.ones(SHAPE, bool), similarity="lncc_squared", regularisation=1.6)).max() < 0.05


def test_the_strain_of_a_known_displacement():
    """Of u_z = a sin(k x), e_zx = e_xz = a k cos(k x) / 2: the norm is a k |cos(k x)| / sqrt(2), a k / 2 on average."""
    z, y, x = np.indices((24, 20, 40)).astype(float)
    waves = np.stack([2.0 * np.sin(2 * np.pi * x / 20), 0 * z, 0 * z])
    where = np.ones(z.shape, bool)
    where[..., :5] = where[..., 25:] = False  # one whole wave, away from the ends
    assert abs(strain(waves, where) - 2.0 * 2 * np.pi / 20 / 2) < 0.03
    matrix = np.array([[0.1, -0.3, 0.0], [0.2, 0.05, 0.1], [0.0, 0.4, -0.2]])
    affine = np.einsum("ij,jzyx->izyx", matrix, np.stack([z, y, x])) + 3.0
    assert strain(affine, where) < 1e-9
    assert abs(strain(waves + affine, where) - strain(waves, where)) < 1e-9
