"""The sweeps of the global affine against the same formulas in tensors."""

import numpy as np
import pytest
import torch

from bigreg.engines.affine_cpu import pull
from bigreg.engines.affine_refinement import UPPER3, UPPER4
from bigreg.engines.gauss_newton import gradient
from bigreg.engines.placed import sampled
from bigreg.geometry import Grid
from bigreg.transforms.affine import about
from bigreg.transforms.positions import Positions

SHAPES = [(7, 9, 12), (1, 8, 5), (6, 1, 1)]


@pytest.mark.parametrize("shape", SHAPES)
def test_forces_and_curvature_are_the_sums_over_voxels(shape):
    g = torch.Generator().manual_seed(0)
    fixed, moving, *pulls = torch.rand(6, *shape, generator=g)
    even = torch.tensor([0.5, 1.0, 1.5])
    first, step = np.array([-0.6, -0.8, 0.1]), np.array([0.2, 0.15, 0.07])
    slope, matrix = np.zeros((3, 4)), np.zeros((6, 10))
    arrays = (t.numpy() for t in (fixed, moving, *pulls, even))
    pull(*arrays, first, step, slope, matrix)
    f, m = (gradient(i.double()) * even.double().reshape(3, 1, 1, 1) for i in (fixed, moving))
    by_f, by_m, scale_f, scale_m = (p.double() for p in pulls)
    places = np.indices(shape) * step.reshape(3, 1, 1, 1) + first.reshape(3, 1, 1, 1)
    places = torch.as_tensor(np.concatenate([places, np.ones((1, *shape))]))
    force, arm = f * by_f - m * by_m, f * scale_f + m * scale_m
    np.testing.assert_allclose(slope, torch.einsum("izyx,kzyx->ik", force, places), rtol=1e-5, atol=1e-5)
    exact = torch.einsum("izyx,jzyx,kzyx,lzyx->ijkl", arm, arm, places, places)
    np.testing.assert_allclose(matrix[UPPER3][:, :, UPPER4], exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("masked", [False, True])
def test_images_seen_through_an_affine_are_those_at_its_points(shape, masked):
    g = torch.Generator().manual_seed(1)
    own = Grid.from_spacing(shape, (3.0, 2.0, 2.5), (1e5, -40.0, 20.0))
    images = torch.rand(2, *shape, generator=g)
    mask = (torch.rand(shape, generator=g) > 0.1).float() if masked else None
    grid = Grid.from_spacing((8, 9, 11), (2.0, 2.2, 2.4), (0.0, 5.0, 0.0))
    linear = np.array([[1.0, 0.1, 0.0], [-0.1, 0.9, 0.05], [0.02, 0.0, 1.1]])
    matrix = about(linear, np.mean(grid.bounds(), 0), np.mean(own.bounds(), 0))
    values, seen = sampled(images, mask, own, grid, matrix)
    there = Positions.of_grid(grid).through(matrix)
    box = images if mask is None else torch.cat([images, mask[None]])
    read = lambda a, b: box.numpy()[(slice(None), *(slice(x, y) for x, y in zip(a, b, strict=True)))]  # noqa: E731
    exact = there.sample(read, own)
    inside = there.inside(own)
    if masked:
        inside &= exact[-1] > 0.99
    torch.testing.assert_close(values, exact[:2], rtol=0, atol=1e-5)
    assert torch.equal(seen > 0, inside)
    assert 0 < float(seen.mean()) < 1
