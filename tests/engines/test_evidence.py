"""What forces promise, on pairs whose motion is known: none at all, or a smooth one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from bigreg.engines import PatchPair, load_engine
from bigreg.engines.evidence import _overlapped, chance
from bigreg.engines.gauss_newton import MidSpacePair, solve3
from bigreg.geometry import Lattice
from bigreg.similarity import by_name
from bigreg.transforms import evaluate
from bigreg.transforms.bspline import adjoint
from bigreg.transforms.field import identity, sample

LATTICE = Lattice((12, 12, 12), (4.0, 4.0, 4.0), (0.0, 0.0, 0.0), (4, 4, 4))
ENGINE = {"iterations": 8, "similarity": "mse", "regularisation": 0.01, "least_gain": 0.0}


def smooth_noise(generator, shape, width):
    noise = torch.randn(1, 1, *(n + 2 * width for n in shape), generator=generator)
    for _ in range(2):
        noise = F.avg_pool3d(noise, width, 1, padding=width // 2)
    noise = noise[0, 0, : shape[0], : shape[1], : shape[2]]
    return (noise - noise.mean()) / noise.std()


def pair(seed, motion, stain):
    """Texture moved apart by `motion` voxels (RMS), each image with a stain of its own (SD; the texture has 0.2)."""
    g = torch.Generator().manual_seed(seed)
    shape = LATTICE.grid.shape
    texture = 0.5 + 0.2 * smooth_noise(g, tuple(n + 16 for n in shape), 3)
    c = F.avg_pool3d(torch.randn(3, *(n + 4 for n in LATTICE.points), generator=g), 5, 1)
    velocity = evaluate(c, LATTICE.samples)
    velocity = velocity * (motion / velocity.square().sum(0).mean().sqrt())
    index = identity(shape) + 8.0
    fixed, moving = (
        sample(texture[None], index + sign * velocity) + stain * smooth_noise(g, shape, 3)[None] for sign in (-1, 1)
    )
    one = torch.ones(shape)
    return PatchPair(fixed, moving, one, one, LATTICE), velocity


def error(patch, velocity):
    found = evaluate(patch.coefficients, LATTICE.samples)
    return float((found - velocity)[(slice(None), *(slice(6, -6),) * 3)].square().sum(0).sqrt().mean())


@pytest.mark.parametrize("seed", range(3))
def test_stain_that_differs_is_not_followed(seed):
    images, velocity = pair(seed, 0.02, 0.2)
    followed = load_engine("optimise", {**ENGINE, "least_gain": None}).estimate(images)
    left = load_engine("optimise", ENGINE).estimate(images)
    assert left.quality["gain"] < 0 and left.quality["left"] == 1
    assert float(left.coefficients.abs().max()) == 0
    assert error(left, velocity) < 0.2 * error(followed, velocity)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("similarity", ["lncc", "mse", "mi", "mind"])
def test_motion_between_images_that_are_alike_is_followed(seed, similarity):
    images, _ = pair(seed, 0.3, 0.01)
    options = {**ENGINE, "iterations": 2, "similarity": similarity, "regularisation": 0.05}
    asked = load_engine("optimise", options).estimate(images)
    plain = load_engine("optimise", {**options, "least_gain": None}).estimate(images)
    assert asked.quality["gain"] > 0.2 and asked.quality["left"] == 0
    torch.testing.assert_close(asked.coefficients, plain.coefficients, atol=0, rtol=0)


def test_exchanging_the_images_leaves_the_gain():
    images, _ = pair(4, 0.1, 0.1)
    engine = load_engine("optimise", ENGINE)
    there, back = (engine.estimate(p).quality["gain"] for p in (images, images.swapped()))
    assert there == pytest.approx(back, abs=1e-4)


def test_coarser_levels_are_not_asked():
    images, _ = pair(5, 0.02, 0.2)
    patch = load_engine("optimise", ENGINE).estimate(replace(images, level=1))
    assert "gain" not in patch.quality and float(patch.coefficients.abs().max()) > 0


def test_what_is_left_of_a_start_is_asked():
    images, _ = pair(6, 0.02, 0.2)
    start = torch.zeros(3, *LATTICE.points)
    start[0] = 0.5
    images = replace(images, fixed=images.fixed.roll(1, 1), start=start)  # half a voxel either way brings them together
    patch = load_engine("optimise", ENGINE).estimate(images)
    assert patch.quality["left"] == 1
    torch.testing.assert_close(patch.coefficients, start, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("similarity", "stain", "least", "most"),
    [("mse", 0.05, 0.85, 1.15), ("mse", 0.4, 0.85, 1.15), ("lncc", 0.03, 0.75, 1.2)],
)
def test_chance_is_as_strong_as_the_forces_of_images_that_do_not_move(similarity, stain, least, most):
    ratios = []
    for seed in range(4):
        images, _ = pair(seed, 0.0, stain)
        chosen = by_name(similarity, noise=0.02)
        both = MidSpacePair(images.fixed, images.moving, images.fixed_mask, images.moving_mask, chosen, LATTICE.samples)
        pull = both(None, curvature=True)
        pull.matrix[:3] += 1e-3 * pull.matrix[:3].mean()
        powers = [float((s * solve3(pull.matrix, s)).sum()) for s in (pull.slope, chance(both, None))]
        ratios.append(powers[1] / powers[0])
    assert least < sum(ratios) / len(ratios) < most


def test_the_overlap_of_splines_is_what_sampling_them_gives():
    v = torch.randn(3, *LATTICE.points, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    samples = (8, 8, 8)
    seen = adjoint(evaluate(v, samples), samples) / 8**3
    core = (slice(None), *(slice(4, -4),) * 3)
    torch.testing.assert_close(_overlapped(v)[core], seen[core], atol=2e-3, rtol=0)
