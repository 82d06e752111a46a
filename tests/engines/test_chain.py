"""Engines one after the other."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from bigreg.engines import PatchPair, load_engine
from bigreg.engines.chain import Chain, chained, load_engines
from bigreg.engines.parts import cut
from bigreg.errors import ConfigError
from bigreg.geometry import Lattice
from bigreg.transforms.bspline import evaluate

from ..small_networks import blob

pytestmark = pytest.mark.usefixtures("one_thread")
LATTICE = Lattice((6, 8, 6), (8.0, 4.0, 4.0), (0.0, 0.0, 0.0), (4, 4, 4))  # voxels of 2 x 1 x 1 um
SHIFT = torch.tensor([2.0, -2.5, 3.0])  # voxels by which moving is displaced: v = -SHIFT / 2


def pair() -> PatchPair:
    g = torch.Generator().manual_seed(1)
    shape = LATTICE.grid.shape
    images = [torch.zeros(1, 1, *shape) for _ in range(2)]
    for _ in range(12):
        place = torch.rand(3, generator=g) * torch.tensor(shape)
        images[0] += blob(place, shape)
        images[1] += blob(place + SHIFT, shape)
    mask = torch.ones(shape)
    return PatchPair(images[0][0], images[1][0], mask, mask, LATTICE)


def voxels(coefficients: torch.Tensor) -> torch.Tensor:
    """Median velocity in the middle of the patch, voxels."""
    inner = evaluate(coefficients, LATTICE.samples)[:, 6:-6, 8:-8, 6:-6].flatten(1)
    return inner.median(1).values / torch.tensor([2.0, 1.0, 1.0])


def of(velocity: torch.Tensor) -> torch.Tensor:
    """Control points of one velocity (voxels) everywhere."""
    return (velocity * torch.tensor([2.0, 1.0, 1.0])).reshape(3, 1, 1, 1).expand(3, *LATTICE.points).clone()


def test_optimise_goes_on_from_a_start():
    engine = load_engine("optimise", {"iterations": 1, "max_step": 0.1, "regularisation": 5.0})
    from_zero = engine.estimate(pair())
    from_start = engine.estimate(replace(pair(), start=of(-SHIFT / 2)))
    assert float((voxels(from_zero.coefficients) + SHIFT / 2).abs().max()) > 0.8
    assert float((voxels(from_start.coefficients) + SHIFT / 2).abs().max()) < 0.1
    assert from_start.quality["similarity_after"] > from_zero.quality["similarity_after"]
    assert from_start.quality["similarity_before"] == pytest.approx(from_zero.quality["similarity_before"], abs=1e-6)


def test_optimise_does_not_begin_where_the_images_are_less_alike():
    engine = load_engine("optimise", {"iterations": 30})
    plain, misled = engine.estimate(pair()), engine.estimate(replace(pair(), start=of(SHIFT)))
    assert torch.equal(plain.coefficients, misled.coefficients)


def test_swapping_negates_the_start_and_the_result():
    engine = load_engine("optimise", {"iterations": 3})
    one = replace(pair(), start=of(-SHIFT / 2))
    assert torch.equal(one.swapped().start, of(SHIFT / 2))
    there, back = engine.estimate(one), engine.estimate(one.swapped())
    torch.testing.assert_close(there.coefficients, -back.coefficients, atol=1e-4, rtol=0)


def test_a_part_of_a_patch_has_its_part_of_the_start():
    velocity = torch.randn(3, *LATTICE.points, generator=torch.Generator().manual_seed(0))
    part = cut(replace(pair(), start=velocity), 1, 2, 7)
    whole = evaluate(velocity, LATTICE.samples)[:, :, 8:28]
    torch.testing.assert_close(evaluate(part.start, LATTICE.samples), whole)


def test_a_start_of_another_lattice_is_refused():
    with pytest.raises(ValueError, match="control points"):
        replace(pair(), start=torch.zeros(3, 4, 4, 4))


class Guess:
    """An engine of a third party: it knows the shift, but for the order of the images."""

    antisymmetric = False

    def __init__(self, *, share: float) -> None:
        self.share = share

    def estimate(self, pair: PatchPair):
        from bigreg.engines import VelocityPatch

        rows = torch.arange(32.0)
        height = [float((image[0].sum((0, 2)) * rows).sum() / image.sum()) for image in (pair.fixed, pair.moving)]
        sign = 1 if height[1] < height[0] else -1
        return VelocityPatch(of(-sign * self.share * SHIFT), torch.ones(LATTICE.points))


def test_a_chain_starts_each_engine_from_the_one_before():
    few = {"iterations": 1, "max_step": 0.1, "regularisation": 5.0}
    chain = Chain({"guess": Guess(share=0.5), "optimise": load_engine("optimise", few)})
    alone = load_engine("optimise", few).estimate(pair())
    found = chain.estimate(pair())
    error, alone_error = (float((voxels(p.coefficients) + SHIFT / 2).abs().max()) for p in (found, alone))
    assert error < 0.1 < alone_error
    torch.testing.assert_close(found.coefficients, -chain.estimate(pair().swapped()).coefficients, atol=1e-4, rtol=0)


def test_engines_that_do_not_go_together_are_refused():
    with pytest.raises(ConfigError, match=r"'discrete' cannot continue from what 'optimise' found; put it first"):
        chained(load_engines(["optimise", "discrete"], {}))
    with pytest.raises(ConfigError, match="named twice"):
        load_engines(["optimise", "optimise"], {})


def test_iterations_are_handed_to_engines_that_take_them():
    engines = load_engines(["discrete", "optimise"], {"optimise": {"radius": 2}}, iterations=7)
    assert engines["optimise"].iterations == 7
    assert load_engine("optimise", {"iterations": 5}, iterations=7).iterations == 5
    load_engine("sitreg", {"weights": "random"}, iterations=7)
    assert chained({"only": engines["optimise"]}) is engines["optimise"]
