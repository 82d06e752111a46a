"""Sigma of a patch: larger where the images say less, along each axis, in um."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from bigreg.engines import PatchPair, load_engine
from bigreg.engines.chain import chained, load_engines
from bigreg.geometry import Lattice
from bigreg.transforms import evaluate

SHAPE = (32, 32, 32)
CELLS = (8, 8, 8)


def lattice(voxel=(1.0, 1.0, 1.0)):
    return Lattice(CELLS, tuple(4 * v for v in voxel), (0.0, 0.0, 0.0), (4, 4, 4))


def smooth(seed, shape=SHAPE):
    """Texture of a scale of two voxels, SD 0.2."""
    g = torch.Generator().manual_seed(seed)
    values = torch.nn.functional.avg_pool3d(torch.randn(1, 1, *(n + 2 for n in shape), generator=g), 3, 1)[0, 0]
    return 0.5 + 0.2 * values / values.std()


def pair(image, noise=0.02, voxel=(1.0, 1.0, 1.0), seed=5):
    """One image twice, each with noise of its own."""
    g = torch.Generator().manual_seed(seed)
    fixed, moving = (image + noise * torch.randn(SHAPE, generator=g) for _ in range(2))
    one = torch.ones(SHAPE)
    return PatchPair(fixed[None], moving[None], one, one, lattice(voxel), sigma=True)


def sigma(images, similarity="lncc", **options):
    """(3, z, y, x) of the control points whose neighbours all lie in the patch, um."""
    found = load_engine("optimise", {"similarity": similarity, **options}, iterations=8).estimate(images).sigma
    return found[:, 3:-3, 3:-3, 3:-3]


@pytest.mark.parametrize("similarity", ["lncc", "mi", "mind"])
def test_it_is_larger_where_there_is_no_texture(similarity):
    image = smooth(1)
    image[:, :, 16:] = 0.5
    found = sigma(pair(image), similarity)
    assert float(found[..., -2:].mean()) > 3 * float(found[..., :2].mean())


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("similarity", ["lncc", "mi"])
def test_it_is_larger_along_fibres_than_across(axis, similarity):
    image = smooth(2).narrow(axis, 10, 1).expand(SHAPE)  # nothing changes along this axis
    along, *across = (
        float(sigma(pair(image, 0.01), similarity)[a].mean()) for a in (axis, (axis + 1) % 3, (axis + 2) % 3)
    )
    assert along > 3 * max(across)
    assert max(across) < 1.5 * min(across)


def test_it_grows_as_the_noise_does():
    quiet, loud = (float(sigma(pair(smooth(3), noise)).mean()) for noise in (0.04, 0.08))
    assert 1.6 < loud / quiet < 2.4


def test_it_is_in_um_along_each_axis():
    image = smooth(4)
    cubic, tall = (sigma(pair(image, voxel=v), regularisation=0.02) for v in ((1.0, 1.0, 1.0), (3.0, 1.0, 1.0)))
    ratio = (tall / cubic).mean((1, 2, 3))
    # Where texture decides the same noise is as many voxels.
    torch.testing.assert_close(ratio, torch.tensor([3.0, 1.0, 1.0]), rtol=0.1, atol=0)


@pytest.mark.parametrize("regulariser", ["membrane", "bending"])
def test_it_is_what_the_error_is(regulariser):
    """Of images of the kind that the factors were measured on, within a factor of two."""
    error, told = [], []
    for seed in range(3):
        images = pair(smooth(seed), 0.1, seed=seed)
        found = load_engine("optimise", {"regulariser": regulariser}, iterations=20).estimate(images)
        # Nothing moved. The SD is that of the motion at the control points, which stand between two voxels an axis.
        moved = evaluate(found.coefficients, (4, 4, 4)).unflatten(3, (8, 4)).unflatten(2, (8, 4)).unflatten(1, (8, 4))
        error.append(moved[:, 1:-1, 1:3, 1:-1, 1:3, 1:-1, 1:3].mean((2, 4, 6)))
        told.append(found.sigma[:, 3:-3, 3:-3, 3:-3])
    ratio = torch.stack(error).square().mean().sqrt() / torch.stack(told).square().mean().sqrt()
    assert 0.5 < float(ratio) < 2


@pytest.mark.parametrize("similarity", ["lncc", "mi"])
def test_swapping_the_images_changes_nothing(similarity):
    images = pair(smooth(6))
    there, back = sigma(images, similarity), sigma(images.swapped(), similarity)
    torch.testing.assert_close(there, back, rtol=1e-3, atol=0)


def test_nothing_is_known_where_no_voxel_is_shown_by_both():
    images = pair(smooth(7))
    mask = torch.ones(SHAPE)
    mask[:, :, 16:] = 0
    found = load_engine("optimise", {}, iterations=4).estimate(replace(images, moving_mask=mask)).sigma[:, 2:-2, 2:-2]
    assert bool(torch.isnan(found[..., 9:]).all()) and bool(torch.isfinite(found[..., 2:6]).all())


def test_it_is_given_where_it_is_asked_for_by_the_last_engine_alone():
    images = pair(smooth(8))
    assert load_engine("optimise", {}, iterations=2).estimate(replace(images, sigma=False)).sigma is None
    assert load_engine("discrete", {}).estimate(images).sigma is None
    both = chained(load_engines(["discrete", "optimise"], {}, iterations=2))
    assert both.estimate(images).sigma is not None
