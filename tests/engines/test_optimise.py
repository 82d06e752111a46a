"""The engine `optimise` on one patch whose velocity is known."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from bigreg.engines import PatchPair, load_engine
from bigreg.errors import ConfigError
from bigreg.geometry import Lattice
from bigreg.transforms import evaluate
from bigreg.transforms.bspline import BOUND_CELLS
from bigreg.transforms.field import identity, sample

LATTICE = Lattice((7, 8, 6), (8.0, 4.0, 4.0), (0.0, 0.0, 0.0), (4, 4, 4))
VOXEL = torch.tensor([2.0, 1.0, 1.0]).reshape(3, 1, 1, 1)
ENGINE = {"iterations": 40, "regularisation": 0.32, "radius": 2}


def pair(seed=0):
    """Smooth random texture moved apart by a known velocity (um); returns the pair and the velocity."""
    g = torch.Generator().manual_seed(seed)
    shape = LATTICE.grid.shape
    texture = torch.rand(1, 1, *(n // 2 + 8 for n in shape), generator=g)
    texture = torch.nn.functional.interpolate(texture, scale_factor=2, mode="trilinear")[0]
    c = torch.nn.functional.avg_pool3d(torch.randn(3, *(n + 2 for n in LATTICE.points), generator=g), 3, 1) * 4
    velocity = evaluate(c * 0.8, LATTICE.samples)  # voxels
    index = identity(shape) + 8.0
    # fixed at x + v and moving at x - v are to be equal, so fixed shows the texture at -v and moving at +v.
    fixed, moving = sample(texture, index - velocity), sample(texture, index + velocity)
    one = torch.ones(shape)
    return PatchPair(fixed, moving, one, one, LATTICE), velocity * VOXEL


def test_a_known_velocity_is_found():
    images, truth = pair()
    found = evaluate(load_engine("optimise", ENGINE).estimate(images).coefficients, LATTICE.samples)
    core = (slice(None), *(slice(4, -4),) * 3)
    error = ((found - truth) / VOXEL)[core].square().sum(0).sqrt()
    assert float((truth / VOXEL)[core].square().sum(0).sqrt().mean()) > 0.5
    assert float(error.mean()) < 0.3


def test_swapping_the_images_negates_the_velocity():
    images, _ = pair(1)
    engine = load_engine("optimise", ENGINE)
    there, back = engine.estimate(images), engine.estimate(images.swapped())
    torch.testing.assert_close(there.coefficients, -back.coefficients, atol=1e-5, rtol=0)
    torch.testing.assert_close(there.confidence, back.confidence, atol=1e-5, rtol=1e-4)


def test_images_of_noise_stay_within_the_bound():
    g = torch.Generator().manual_seed(2)
    shape = LATTICE.grid.shape
    one = torch.ones(shape)
    images = PatchPair(torch.rand(1, *shape, generator=g), torch.rand(1, *shape, generator=g), one, one, LATTICE)
    patch = load_engine("optimise", {**ENGINE, "regularisation": 0.016}).estimate(images)
    cells = patch.coefficients / torch.tensor(LATTICE.spacing).reshape(3, 1, 1, 1)
    assert float(cells.abs().max()) <= BOUND_CELLS + 1e-6


def test_equal_images_do_not_move_and_an_empty_mask_is_not_trusted():
    images, _ = pair(3)
    engine = load_engine("optimise", ENGINE)
    same = engine.estimate(PatchPair(images.fixed, images.fixed, images.fixed_mask, images.moving_mask, LATTICE))
    assert float(same.coefficients.abs().max()) < 0.05
    nothing = torch.zeros_like(images.fixed_mask)
    empty = engine.estimate(PatchPair(images.fixed, images.moving, nothing, nothing, LATTICE))
    assert float(empty.coefficients.abs().max()) == 0 and float(empty.confidence.max()) == 0


def test_noise_is_in_units_of_the_images_and_silences_what_is_fainter():
    images, truth = pair(4)
    faint = PatchPair(images.fixed / 8, images.moving / 8, images.fixed_mask, images.moving_mask, LATTICE)

    def found(of, noise):
        coefficients = load_engine("optimise", {**ENGINE, "noise": noise}).estimate(of).coefficients
        return evaluate(coefficients, LATTICE.samples)

    torch.testing.assert_close(found(faint, 0.02), found(images, 0.16), atol=1e-3, rtol=0)

    def error(noise):
        return float(((found(faint, noise) - truth) / VOXEL).square().sum(0).sqrt().mean())

    assert error(0.002) < 0.8 * error(0.1)  # SD of the faint texture: 0.015


def test_a_stiff_map_arrives_in_a_few_steps():
    """A shift is what no stiffness resists, so it is found at once, in the half without texture too."""
    g = torch.Generator().manual_seed(5)
    shape = LATTICE.grid.shape
    texture = torch.nn.functional.interpolate(
        torch.rand(1, 1, *(n // 2 + 8 for n in shape), generator=g), scale_factor=2
    )[0]
    texture[:, :, shape[1] // 2 + 8 :] = 0.5
    index = identity(shape) + 8.0
    shift = torch.tensor([0.0, 0.0, 0.4]).reshape(3, 1, 1, 1)
    one = torch.ones(shape)
    images = PatchPair(sample(texture, index - shift), sample(texture, index + shift), one, one, LATTICE)
    patch = load_engine("optimise", {**ENGINE, "regularisation": 30.0, "iterations": 6}).estimate(images)
    found = evaluate(patch.coefficients, LATTICE.samples) / VOXEL
    assert float((found - shift).abs().max()) < 0.1


def test_a_curvature_that_promises_too_much_does_not_make_it_worse():
    images, _ = pair(6)
    engine = load_engine("optimise", {**ENGINE, "similarity": "ncc", "regularisation": 0.016})
    honest = engine.similarity

    class Bold:
        """The same similarity, whose steps by its curvature are sixteen times as long as they should be."""

        channels, features = honest.channels, staticmethod(honest.features)

        def __call__(self, *given):
            forces = honest(*given)
            return replace(forces, fixed_scale=forces.fixed_scale / 4, moving_scale=forces.moving_scale / 4)

        forces = None

    best = engine.estimate(images).quality["similarity_after"]
    engine.similarity = Bold()
    bold = engine.estimate(images).quality
    assert bold["similarity_after"] > bold["similarity_before"]
    assert bold["similarity_after"] > best - 0.02


def test_an_unknown_engine_is_refused_with_the_names_of_those_there_are():
    with pytest.raises(ConfigError, match="optimise"):
        load_engine("magic", {})
