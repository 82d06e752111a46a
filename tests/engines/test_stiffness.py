"""The stiffness that a patch asks for, by what one half of its voxels foretells of the other."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from bigreg.engines import PatchPair, load_engine
from bigreg.engines.channels import mid_space_pairs, named
from bigreg.engines.gauss_newton import sum_of
from bigreg.engines.optimise import COARSE
from bigreg.errors import ConfigError
from bigreg.geometry import Lattice
from bigreg.pipeline.tasks.estimate import METRICS
from bigreg.similarity import by_name
from bigreg.transforms import evaluate
from bigreg.transforms.field import identity, sample

LATTICE = Lattice((12, 12, 12), (8.0, 4.0, 4.0), (0.0, 0.0, 0.0), (4, 4, 4))
VOXEL = torch.tensor([2.0, 1.0, 1.0]).reshape(3, 1, 1, 1)
ENGINE = {"iterations": 20, "regularisation": "auto", "least_agreement": None}
CORE = (slice(None), *(slice(6, -6),) * 3)


def pair(seed, noise, coarse, large=0.4):
    """Texture moved apart by a known velocity (um) as fine as so many cells; each image has noise of its own."""
    g = torch.Generator().manual_seed(seed)
    shape = LATTICE.grid.shape
    texture = torch.rand(1, 1, *(n // 2 + 8 for n in shape), generator=g)
    texture = torch.nn.functional.interpolate(texture, scale_factor=2, mode="trilinear")[0]
    c = torch.randn(3, *(n // coarse + 2 for n in LATTICE.points), generator=g)
    c = torch.nn.functional.interpolate(c[None], size=LATTICE.points, mode="trilinear")[0]
    c = large * c / c.square().sum(0).mean().sqrt()
    velocity = evaluate(c, LATTICE.samples)
    index = identity(shape) + 8.0
    images = (sample(texture, index + sign * velocity) for sign in (-1, 1))
    fixed, moving = (i + noise * torch.randn(i.shape, generator=g) for i in images)
    one = torch.ones(shape)
    return PatchPair(fixed, moving, one, one, LATTICE, native=True), velocity * VOXEL


def chosen(images):
    return load_engine("optimise", ENGINE).estimate(images).quality["regularisation"]


def error(patch, truth):
    found = evaluate(patch.coefficients, LATTICE.samples)
    return float(((found - truth) / VOXEL)[CORE].square().sum(0).sqrt().mean())


@pytest.mark.parametrize("seed", range(2))
def test_noise_asks_for_a_stiffer_map_and_more_motion_for_a_softer_one(seed):
    assert chosen(pair(seed, 0.1, 4)[0]) > 2 * chosen(pair(seed, 0.02, 4)[0])
    assert chosen(pair(seed, 0.05, 4, 0.1)[0]) > 2 * chosen(pair(seed, 0.05, 4)[0])


@pytest.mark.parametrize(("noise", "coarse", "gain"), [(0.02, 1, 0.9), (0.02, 4, 0.8), (0.05, 4, 1.02)])
def test_it_gains_where_the_fixed_one_is_wrong_and_loses_nothing_where_it_is_right(noise, coarse, gain):
    images, truth = pair(5, noise, coarse)
    auto, fixed = (
        error(load_engine("optimise", {**ENGINE, "regularisation": w}).estimate(images), truth)
        for w in ("auto", COARSE)
    )
    assert auto < gain * fixed


def test_exchanged_images_choose_the_same():
    images, _ = pair(1, 0.05, 1)
    engine = load_engine("optimise", ENGINE)
    there, back = engine.estimate(images), engine.estimate(images.swapped())
    assert back.quality["regularisation"] == pytest.approx(there.quality["regularisation"], rel=1e-3)
    torch.testing.assert_close(there.coefficients, -back.coefficients, atol=2e-5, rtol=0)


@pytest.mark.parametrize("similarity", ["lncc", "mse", "mi"])
def test_both_halves_are_the_whole(similarity):
    images = pair(2, 0.05, 1)[0]
    masked = replace(images, fixed_mask=images.fixed_mask.clone())
    masked.fixed_mask[:20] = 0
    c = 0.1 * torch.randn(3, *LATTICE.points, generator=torch.Generator().manual_seed(0))
    found = {}
    for kind in (torch.float32, torch.float64):  # the CPU's sweeps, and tensor operations
        cast = replace(
            masked, **{n: getattr(masked, n).to(kind) for n in ("fixed", "moving", "fixed_mask", "moving_mask")}
        )
        pairs = mid_space_pairs(cast, named(by_name(similarity, radius=2, noise=0.02), 2, 0.02), LATTICE.samples)
        whole, halves = pairs(c.to(kind), curvature=True), pairs.halves(c.to(kind))
        for name in ("slope", "matrix"):
            large = float(getattr(whole, name).abs().max())
            torch.testing.assert_close(getattr(sum_of(*halves), name), getattr(whole, name), atol=1e-5 * large, rtol=0)
            assert float((getattr(halves[0], name) - getattr(halves[1], name)).abs().max()) > 0.05 * large
        assert halves[0].mean == pytest.approx(whole.mean) and halves[0].weight == whole.weight
        found[kind] = halves
    first, same = found[torch.float32][0].slope.double(), found[torch.float64][0].slope
    assert float((first - same).abs().max()) < 2e-3 * float(same.abs().max())


def test_coarser_levels_and_patches_that_disagree_are_not_asked():
    images = pair(3, 0.02, 1)[0]
    fixed = {**ENGINE, "regularisation": COARSE}
    coarse = replace(images, native=False)
    auto, by_number = (load_engine("optimise", e).estimate(coarse) for e in (ENGINE, fixed))
    assert "regularisation" not in auto.quality
    torch.testing.assert_close(auto.coefficients, by_number.coefficients, atol=0, rtol=0)
    by_mi = load_engine("optimise", {**ENGINE, "similarity": "mi"}).estimate(images)
    assert "regularisation" not in by_mi.quality
    noisy = pair(3, 0.3, 1)[0]
    auto, by_number = (load_engine("optimise", {**e, "least_agreement": 0.99}).estimate(noisy) for e in (ENGINE, fixed))
    assert auto.quality["smoothed"] == 1 and "regularisation" not in auto.quality
    torch.testing.assert_close(auto.coefficients, by_number.coefficients, atol=1e-6, rtol=0)


def test_blank_images_and_another_word():
    images = pair(4, 0.0, 1)[0]
    flat = replace(images, fixed=torch.full_like(images.fixed, 0.3), moving=torch.full_like(images.moving, 0.3))
    patch = load_engine("optimise", ENGINE).estimate(flat)
    assert float(patch.coefficients.abs().max()) == 0 and set(patch.quality) <= set(METRICS)
    assert patch.quality["regularisation"] == pytest.approx(COARSE)
    with pytest.raises(ConfigError, match="regularisation 'automatic' must be a number above 0, or auto"):
        load_engine("optimise", {"regularisation": "automatic"})
