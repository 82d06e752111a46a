"""The engine `discrete` on patches whose velocity is known: larger than a gradient would find its way."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from bigreg.engines import PatchPair, load_engine
from bigreg.engines.discrete import _costs
from bigreg.errors import ConfigError
from bigreg.geometry import Lattice
from bigreg.transforms import evaluate
from bigreg.transforms.bspline import BOUND_CELLS
from bigreg.transforms.field import identity, sample

LATTICE = Lattice((9, 8, 10), (8.0, 4.0, 4.0), (0.0, 0.0, 0.0), (4, 4, 4))
VOXEL = torch.tensor([2.0, 1.0, 1.0]).reshape(3, 1, 1, 1)


def pair(shift, inverted=False, seed=0):
    """Fine random texture moved apart by a constant velocity (voxels): far beyond half of its wavelength."""
    g = torch.Generator().manual_seed(seed)
    shape = LATTICE.grid.shape
    texture = torch.rand(1, 1, *(n // 2 + 8 for n in shape), generator=g)
    texture = torch.nn.functional.interpolate(texture, scale_factor=2, mode="trilinear")[0]
    index = identity(shape) + 8.0
    v = torch.tensor(shift).reshape(3, 1, 1, 1)
    fixed, moving = sample(texture, index - v), sample(texture, index + v)
    one = torch.ones(shape)
    return PatchPair(fixed, (1.2 - moving) ** 1.5 if inverted else moving, one, one, LATTICE)


@pytest.mark.parametrize("similarity", ["mind", "ngf"])
@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("shift", [(3.0, -2.0, 1.0), (0.0, 3.0, -3.0)])
def test_a_large_motion_is_found_whatever_the_contrast(shift, inverted, similarity):
    patch = load_engine("discrete", {"similarity": similarity}).estimate(pair(shift, inverted))
    found = evaluate(patch.coefficients, LATTICE.samples) / VOXEL
    core = found[:, 8:-8, 8:-8, 8:-8]
    truth = torch.tensor(shift).reshape(3, 1, 1, 1)
    assert float((core - truth).square().sum(0).sqrt().mean()) < 0.5
    assert patch.quality["similarity_after"] > patch.quality["similarity_before"]


def test_swapping_the_images_negates_the_velocity():
    images, engine = pair((2.0, 1.0, -2.0), seed=1), load_engine("discrete", {})
    there, back = engine.estimate(images), engine.estimate(images.swapped())
    torch.testing.assert_close(there.coefficients, -back.coefficients, atol=1e-4, rtol=0)
    torch.testing.assert_close(there.confidence, back.confidence, atol=1e-4, rtol=0)


def test_the_velocity_stays_under_the_bound_and_blank_images_rest():
    g = torch.Generator().manual_seed(2)
    shape = LATTICE.grid.shape
    one = torch.ones(shape)
    noise = PatchPair(torch.rand(1, *shape, generator=g), torch.rand(1, *shape, generator=g), one, one, LATTICE)
    engine = load_engine("discrete", {})
    cells = engine.estimate(noise).coefficients / torch.tensor(LATTICE.spacing).reshape(3, 1, 1, 1)
    assert float(cells.abs().max()) <= BOUND_CELLS
    blank = engine.estimate(PatchPair(0 * noise.fixed, 0 * noise.fixed, one, one, LATTICE))
    assert float(blank.coefficients.abs().max()) < 1e-6 and float(blank.confidence.max()) < 1e-6


def test_the_sweep_counts_what_tensors_count():
    g = torch.Generator().manual_seed(3)
    features = [torch.rand(3, 8, 12, 8, dtype=torch.float64, generator=g) for _ in range(2)]
    masks = tuple((torch.rand(8, 12, 8, dtype=torch.float64, generator=g) > 0.1).double() for _ in range(2))
    steps = list(product((-3, 0, 2), (-1, 0, 1), (-2, 0, 3)))
    exact = _costs(features, masks, steps, (4, 2, 4))
    swept = _costs([f.float() for f in features], tuple(m.float() for m in masks), steps, (4, 2, 4))
    for a, b in zip(exact, swept, strict=True):
        torch.testing.assert_close(a, b.double(), rtol=1e-5, atol=1e-6)


def test_a_similarity_without_features_is_refused():
    with pytest.raises(ConfigError, match="lncc"):
        load_engine("discrete", {"similarity": "lncc"})
