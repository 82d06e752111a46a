"""The determinants that decide whether a field folds: swept, by tensors in float64, and by the plain rule."""

import itertools

import numpy as np
import pytest
import torch

from bigreg.quality.metrics import min_jacobian
from bigreg.transforms.field import min_determinant

SPACING = (3.0, 1.5, 0.7)


@pytest.mark.parametrize("shape", [(6, 7, 8), (2, 2, 2), (2, 9, 3)])
@pytest.mark.parametrize("size", [0.1, 2.0])
def test_a_sweep_in_float32_is_the_tensors_in_float64(shape, size):
    field = torch.randn(3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * size
    exact = min_determinant(field, SPACING)
    assert (exact <= 0).any() == (size > 1)
    torch.testing.assert_close(min_determinant(field.float(), SPACING).double(), exact, rtol=1e-4, atol=1e-4)


def test_a_cell_is_the_smallest_of_its_corners():
    field = np.random.default_rng(0).standard_normal((3, 4, 5, 6))
    cells = min_determinant(torch.as_tensor(field), SPACING).numpy()
    for cell in np.ndindex(cells.shape):
        values = []
        for corner in itertools.product((0, 1), repeat=3):
            at = np.add(cell, corner)
            columns = []
            for axis in range(3):
                low, high = at.copy(), at.copy()
                low[axis], high[axis] = cell[axis], cell[axis] + 1
                edge = (field[(slice(None), *high)] - field[(slice(None), *low)]) / SPACING[axis]
                edge[axis] += 1
                columns.append(edge)
            values.append(np.linalg.det(np.stack(columns, axis=1)))
        assert cells[cell] == pytest.approx(min(values))
    assert min_jacobian(field, SPACING).min() == pytest.approx(cells.min())
