"""The global affine on two imaging rounds of one expanded tissue, which overlap in part."""

import numpy as np
import pytest
import tensorstore
import torch

from bigreg.engines.affine import register_affine
from bigreg.engines.placed import Placed
from bigreg.geometry import Grid
from bigreg.similarity import by_name

SPACING = (1.68, 1.84, 1.84)  # um, z y x


def downsampled(data, factor):
    """Block means and their grid."""
    grid = Grid.from_spacing(data.shape, SPACING).downsampled((factor,) * 3)
    z, y, x = grid.shape
    cut = data[: z * factor, : y * factor, : x * factor]
    return torch.as_tensor(cut.reshape(z, factor, y, factor, x, factor).mean((1, 3, 5))), grid


@pytest.fixture(scope="module")
def rounds(data_folder):
    images = []
    for name in ("fix", "mov"):
        folder = data_folder / "easifish" / f"{name}.n5" / "lowres"
        if not folder.is_dir():
            pytest.skip(f"no {folder}")
        store = {"driver": "n5", "kvstore": {"driver": "file", "path": str(folder)}}
        data = tensorstore.open(store, read=True).result().read().result().T.astype(np.float32)
        low, high = np.percentile(data, [1, 99.9])
        images.append((data - low) / (high - low))
    return images


def test_easifish_rounds_are_aligned(rounds):
    torch.set_num_threads(1)
    (fixed, fixed_grid), (moving, moving_grid) = (downsampled(image, 4) for image in rounds)
    result = register_affine(fixed, moving, fixed_grid, moving_grid, similarity=by_name("lncc"))
    (fixed, fixed_grid), (moving, moving_grid) = (downsampled(image, 2) for image in rounds)
    warped, mask = Placed(moving, moving_grid).on(fixed_grid, result.matrix)
    inside = mask > 0
    assert np.corrcoef(fixed[inside], warped[inside])[0, 1] > 0.83
    assert 0.8 < float(mask.mean()) < 0.9
    assert not result.ambiguous and not result.warnings
