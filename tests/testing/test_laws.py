"""The laws of engines find who breaks them; a store fails when it is told to."""

from __future__ import annotations

import pytest
import torch

from bigreg import storage
from bigreg.engines import VelocityPatch, load_engine
from bigreg.errors import OutputError
from bigreg.testing import (
    at,
    check_antisymmetry,
    check_bounds,
    check_engine,
    check_same_bits,
    failing_store,
    patch_pair,
)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("optimise", {"iterations": 3}), ("optimise", {"iterations": 2, "similarity": "mi"}), ("discrete", {}),
        ("sitreg", {"weights": "random"}), ("invgan", {"weights": "random"}), ("voxelmorph", {"weights": "random"}),
        ("transmorph", {"weights": "random"}),
    ],
)  # fmt: skip
def test_the_engines_of_bigreg_keep_them(name, options, one_thread):
    for holes in (False, True):
        check_engine(load_engine(name, options), patch_pair(holes=holes))


class Constant:
    """Moves every control point by `cells`, the same whatever the images."""

    antisymmetric = True

    def __init__(self, cells, more=0.0):
        self.cells, self.more = cells, more

    def estimate(self, pair):
        spacing = torch.tensor(pair.lattice.spacing).reshape(3, 1, 1, 1)
        self.cells += self.more
        c = self.cells * spacing.expand(3, *pair.lattice.points)
        return VelocityPatch(c, torch.ones(pair.lattice.points))


def test_who_breaks_a_law_is_named():
    with pytest.raises(AssertionError, match=r"differs from the negative by 0.2 cells"):
        check_antisymmetry(Constant(0.1), patch_pair())
    with pytest.raises(AssertionError, match="moves 9.000 cells"):
        check_bounds(Constant(9.0), patch_pair())
    with pytest.raises(AssertionError, match="other bits each time"):
        check_same_bits(Constant(0.1, 1e-4), patch_pair())
    honest = Constant(0.1)
    honest.antisymmetric = False  # then bigreg takes half of the difference, which is nothing
    assert float(check_engine(honest).coefficients.abs().max()) == 0


def test_a_store_fails_from_the_operation_that_is_named_on(tmp_path):
    array = storage.create_array(str(tmp_path / "a"), shape=(4,), dtype="uint8", chunks=(1,))
    with failing_store(at(3)) as faults:
        for n in range(2):
            array.write((n,), torch.ones(1, dtype=torch.uint8).numpy())
        with pytest.raises(OutputError, match="cannot be written"):
            array.write((2,), torch.ones(1, dtype=torch.uint8).numpy())
        assert (faults.counts["write"], faults.failed) == (3, 1)
    array.write((3,), torch.ones(1, dtype=torch.uint8).numpy())
    assert array[...].tolist() == [1, 1, 0, 1]
