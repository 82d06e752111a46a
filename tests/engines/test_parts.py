"""A patch that does not fit is estimated in parts that agree with the whole."""

from __future__ import annotations

import pytest
import torch

from bigreg.device import smaller_pieces
from bigreg.engines import PatchPair, VelocityPatch
from bigreg.engines.parts import cut, estimate_fitting, joined
from bigreg.errors import ResourceError
from bigreg.geometry import Lattice
from bigreg.transforms import evaluate

LATTICE = Lattice((20, 7, 9), (8.0, 4.0, 4.0), (0.0, 0.0, 0.0), (4, 4, 4))


class Limited:
    """Reads the velocity off the image (its values at the cells' centres), and takes patches of up to `most` cells."""

    antisymmetric = True

    def __init__(self, most):
        self.most, self.sizes = most, []

    def estimate(self, pair):
        cells = pair.lattice.cells
        if cells[0] * cells[1] * cells[2] > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate much")
        self.sizes.append(cells)
        means = torch.nn.functional.avg_pool3d(pair.fixed[None], 4)[0, 0]
        c = torch.nn.functional.pad(means[None, None], (2,) * 6, mode="replicate")[0].repeat(3, 1, 1, 1)
        return VelocityPatch(c, torch.ones(c.shape[1:]), {"similarity_after": 0.5})


def pair():
    shape = LATTICE.grid.shape
    image = torch.rand(1, *shape, generator=torch.Generator().manual_seed(0))
    one = torch.ones(shape)
    return PatchPair(image, 1 - image, one, one, LATTICE, 2)


def test_parts_agree_with_the_whole_and_say_how_many_they_were():
    whole = estimate_fitting(Limited(10**6), pair())
    engine = Limited(20 * 7 * 9 // 2 + 300)
    with smaller_pieces(1):
        parts = estimate_fitting(engine, pair())
    assert len(engine.sizes) == 2 and parts.quality == {"similarity_after": 0.5, "parts": 2.0}
    assert "parts" not in whole.quality
    torch.testing.assert_close(parts.coefficients[:, 2:-2], whole.coefficients[:, 2:-2], atol=0.3, rtol=0)
    # Away from the cut, and wherever both parts see all they need, they are the same.
    for box in (slice(0, 6), slice(18, None)):
        torch.testing.assert_close(parts.coefficients[:, box], whole.coefficients[:, box])
    assert parts.confidence.shape == whole.confidence.shape and float(parts.confidence.min()) > 0.99
    assert evaluate(parts.coefficients, LATTICE.samples).shape[1:] == LATTICE.grid.shape


def test_a_part_of_a_pair_lies_where_it_was():
    whole = pair()
    part = cut(whole, 0, 5, 12)
    assert part.lattice.grid.origin[0] == whole.lattice.grid.origin[0] + 5 * 8.0
    assert torch.equal(part.fixed, whole.fixed[:, 20:48]) and part.level == 2


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_two_parts_of_one_spline_join_to_it_exactly(axis):
    c = torch.rand(3, *LATTICE.points, generator=torch.Generator().manual_seed(1))
    q = c[0].clone()
    start, stop = 2, LATTICE.cells[axis] - 1
    near = VelocityPatch(c.narrow(axis + 1, 0, stop + 4), q.narrow(axis, 0, stop + 4))
    far = VelocityPatch(
        c.narrow(axis + 1, start, c.shape[axis + 1] - start), q.narrow(axis, start, q.shape[axis] - start)
    )
    both = joined(near, far, axis, start)
    torch.testing.assert_close(both.coefficients, c)
    torch.testing.assert_close(both.confidence, q)


def test_what_cannot_be_cut_further_is_an_error_that_says_what_to_do():
    with pytest.raises(ResourceError, match="free the GPU"), smaller_pieces(1):
        estimate_fitting(Limited(1), pair())


def test_a_patch_is_first_tried_again_as_a_whole():
    """By whoever called: what else was in hand may have held the memory."""
    with pytest.raises(torch.OutOfMemoryError):
        estimate_fitting(Limited(1), pair())
