"""The sweeps of the CPU against plain tensor operations in float64, and those against autograd."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bigreg.engines.gauss_newton import PAIRS, MidSpacePair, gradient, solve3
from bigreg.similarity import by_name
from bigreg.transforms import evaluate
from bigreg.transforms.bspline import taps

SHAPES = [((6, 5, 7), (4, 4, 4)), ((5, 9, 3), (2, 1, 4)), ((1, 6, 5), (1, 3, 2)), ((3, 2, 1), (8, 5, 16))]


def case(cells, samples, *, holes, size=1.5, seed=0, channels=2):
    g = torch.Generator().manual_seed(seed)
    shape = tuple(c * s for c, s in zip(cells, samples, strict=True))
    images = [torch.rand(channels, *shape, dtype=torch.float64, generator=g) for _ in range(2)]
    masks = [(torch.rand(shape, dtype=torch.float64, generator=g) > (0.02 if holes else -1)).double() for _ in range(2)]
    c = torch.randn(3, *(n + 4 for n in cells), dtype=torch.float64, generator=g) * size
    for axis in range(3):
        c[axis] *= shape[axis] > 1  # a single plane that moves is nowhere
    return images, masks, c


def both(cells, samples, similarity, **keywords):
    images, masks, c = case(cells, samples, **keywords)
    exact = MidSpacePair(*images, *masks, similarity, samples)
    swept = MidSpacePair(*(t.float() for t in (*images, *masks)), similarity, samples)
    assert swept.sweeps and not exact.sweeps
    return exact, swept, c


@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize(("cells", "samples"), SHAPES)
def test_a_sweep_warps_as_tensors_do(cells, samples, holes):
    exact, swept, c = both(cells, samples, by_name("mse"), holes=holes)
    for a, b in zip(exact.warped(c), swept.warped(c.float()), strict=True):
        # At the edge of the image or the mask, rounding may decide otherwise for a voxel in many.
        different = (a - b.double()).abs() > 1e-4
        assert float(different.double().mean()) < 0.002
    assert 0 < float(exact.warped(c)[2].mean()) < 1


@pytest.mark.parametrize("name", ["mse", "lncc", "lncc_squared", "ncc"])
@pytest.mark.parametrize(("cells", "samples"), SHAPES)
def test_a_sweep_pulls_as_tensors_do(cells, samples, name):
    exact, swept, _ = both(cells, samples, by_name(name, radius=2, noise=0.1), holes=True)
    a, b = exact(None, curvature=True), swept(None, curvature=True)
    assert a.mean == pytest.approx(b.mean, rel=1e-4) and a.weight == b.weight
    for x, y in ((a.slope, b.slope), (a.matrix, b.matrix)):
        torch.testing.assert_close(x, y.double(), rtol=1e-3, atol=1e-4 * float(x.abs().max()))
    assert swept(None, curvature=False).matrix is None


def test_the_slope_is_the_derivative_of_the_loss():
    """By autograd, to first order in v, which is all that counts at v = 0."""
    cells, samples = (3, 4, 3), (4, 4, 4)
    images, _, _ = case(cells, samples, holes=False, channels=1)
    one = torch.ones_like(images[0][0])
    pair = MidSpacePair(*images, one, one, by_name("mse"), samples)
    slope = pair(None, curvature=False).slope
    c = torch.zeros(3, *(n + 4 for n in cells), dtype=torch.float64, requires_grad=True)
    v = evaluate(c, samples)
    f, m = images[0][0], images[1][0]
    moved = [f + (gradient(f) * v).sum(0), m - (gradient(m) * v).sum(0)]
    (0.5 * (moved[0] - moved[1]) ** 2).sum().backward()
    torch.testing.assert_close(slope, c.grad)


def test_the_curvature_is_the_sum_of_outer_products():
    exact, _, _ = both((3, 3, 3), (2, 2, 2), by_name("mse"), holes=False, channels=1)
    matrix = exact(None, curvature=True).matrix
    arm = gradient(exact.images[0][0]) + gradient(exact.images[1][0])
    weights = evaluate(torch.ones(1, 7, 7, 7, dtype=torch.float64), (2, 2, 2))
    for k, (i, j) in enumerate(PAIRS):  # the splines sum to 1
        assert float(matrix[k].sum()) == pytest.approx(float((arm[i] * arm[j] * weights).sum()))


def test_a_system_is_solved_whatever_its_size():
    g = torch.Generator().manual_seed(0)
    root = torch.randn(3, 3, 50, dtype=torch.float64, generator=g)
    whole = torch.einsum("ikn,jkn->ijn", root, root) + 0.1 * torch.eye(3, dtype=torch.float64)[..., None]
    right = torch.randn(3, 50, dtype=torch.float64, generator=g)
    expected = torch.linalg.solve(whole.permute(2, 0, 1), right.T).T
    for size in (1e-13, 1.0, 1e13):  # the cube of the last is beyond float32
        matrix = size * torch.stack([whole[i, j] for i, j in PAIRS])
        found = solve3(matrix.float(), (size * right).float())
        torch.testing.assert_close(found.double(), expected, rtol=1e-2, atol=1e-2 * float(expected.abs().max()))


@pytest.mark.parametrize("samples", [1, 2, 3, 4, 7, 16])
def test_taps_are_the_spline(samples):
    weights, first = taps(samples)
    points = np.random.default_rng(0).standard_normal(9)
    dense = evaluate(torch.as_tensor(np.tile(points, (1, 5, 5, 1))), (1, 1, samples))[0, 0, 0].numpy()
    mine = [weights[p] @ points[k + first[p] : k + first[p] + 4] for k in range(5) for p in range(samples)]
    np.testing.assert_allclose(mine, dense, atol=1e-6)
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("name", ["mse", "lncc", "ncc"])
def test_a_gpu_does_what_the_cpu_does(name):
    images, masks, c = case((8, 9, 10), (4, 4, 4), holes=True)
    similarity = by_name(name, noise=0.1)
    cpu = MidSpacePair(*(t.float() for t in (*images, *masks)), similarity, (4, 4, 4))
    gpu = MidSpacePair(*(t.float().cuda() for t in (*images, *masks)), similarity, (4, 4, 4))
    for a, b in zip(cpu.warped(c.float()), gpu.warped(c.float().cuda()), strict=True):
        assert float(((a - b.cpu()).abs() > 1e-4).float().mean()) < 0.002
    a, b = cpu(None, curvature=True), gpu(None, curvature=True)
    for x, y in ((a.slope, b.slope), (a.matrix, b.matrix)):
        torch.testing.assert_close(x, y.cpu(), rtol=1e-3, atol=1e-4 * float(x.abs().max()))
