"""Fitting a spline to samples."""

from __future__ import annotations

import pytest
import torch

from bigreg.transforms.bspline import evaluate, fit


def smooth(cells=(9, 7, 11), seed=0) -> torch.Tensor:
    """Control points with detail of a few cells; the outermost like the next."""
    g = torch.Generator().manual_seed(seed)
    rough = torch.randn(1, 3, *(n + 4 for n in cells), generator=g)
    points = torch.nn.functional.avg_pool3d(rough, 3)
    points = torch.nn.functional.interpolate(points, [n + 2 for n in cells], mode="trilinear", align_corners=True)
    return torch.nn.functional.pad(points, (1,) * 6, mode="replicate")[0]


@pytest.mark.parametrize("samples", [(4, 4, 4), (2, 3, 5)])
def test_a_fit_finds_a_known_spline_again(samples):
    points = smooth()
    values = evaluate(points, samples)
    found = fit(values, samples)
    size = float(values.abs().max())
    assert float((evaluate(found, samples) - values).abs().max()) < 0.02 * size
    inner = (slice(None), *[slice(2, -2)] * 3)
    assert float((found - points)[inner].abs().max()) < 0.05 * size
    assert float((found - points).abs().max()) < 0.15 * size


def test_a_fit_is_linear_and_odd():
    a, b = torch.randn(2, 3, 16, 12, 20, generator=torch.Generator().manual_seed(1))
    both = fit(a, (4, 4, 4)) + 2 * fit(b, (4, 4, 4))
    torch.testing.assert_close(fit(a + 2 * b, (4, 4, 4)), both, atol=1e-4, rtol=0)
    assert torch.equal(fit(-a, (4, 4, 4)), -fit(a, (4, 4, 4)))


def test_what_is_constant_stays_so_and_noise_is_not_blown_up():
    ones = torch.ones(1, 8, 12, 16)
    torch.testing.assert_close(fit(ones, (4, 4, 4)), torch.ones(1, 6, 7, 8), atol=1e-4, rtol=0)
    noise = torch.rand(1, 32, 32, 32, generator=torch.Generator().manual_seed(2)) - 0.5
    assert float(fit(noise, (4, 4, 4))[:, 2:-2, 2:-2, 2:-2].abs().max()) < 3 * float(noise.abs().max())


def test_a_voxel_matters_only_nearby():
    """Two patches that share a part fit the same spline there."""
    values = torch.randn(1, 24, 24, 96, generator=torch.Generator().manual_seed(3))
    whole, part = fit(values, (4, 4, 4)), fit(values[..., 32:], (4, 4, 4))
    assert float((whole[..., 8 + 10 :] - part[..., 10:]).abs().max()) < 1e-3 * float(whole.abs().max())
