"""The search over all shifts against the definition, and the figure by which starts are compared."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from bigreg.engines.shifts import ShiftSearch
from bigreg.engines.starts import evidence


def by_definition(fixed, mask_f, moving, mask_m, shift):
    """(NCC, voxels) of fixed voxel i on moving voxel i + shift."""
    pairs = []
    for i in np.ndindex(fixed.shape):
        j = tuple(np.add(i, shift))
        if min(j) >= 0 and (np.array(j) < moving.shape).all() and mask_f[i] and mask_m[j]:
            pairs.append((fixed[i], moving[j]))
    a, b = np.array(pairs).T if pairs else (np.zeros(0), np.zeros(0))
    return (np.corrcoef(a, b)[0, 1] if len(pairs) > 1 else -1.0), len(pairs)


@given(seed=st.integers(0, 2**32 - 1), masked=st.booleans())
def test_every_shift_scores_what_its_overlap_scores(seed, masked):
    rng = np.random.default_rng(seed)
    fixed, moving = rng.random((4, 3, 5)), 3 + rng.random((3, 5, 4))
    mask_f, mask_m = (rng.random(x.shape) > (0.3 if masked else -1) for x in (fixed, moving))
    mask_f[0, 0, 0] = mask_m[0, 0, 0] = True
    least = 5
    search = ShiftSearch([torch.as_tensor(fixed)], torch.as_tensor(mask_f), least)
    lowest, correlation, voxels = search([torch.as_tensor(moving)], torch.as_tensor(mask_m))
    assert tuple(correlation.shape) == (6, 7, 8)
    for k in [tuple(rng.integers(0, correlation.shape)) for _ in range(12)]:
        right, count = by_definition(fixed, mask_f, moving, mask_m, lowest + k)
        assert abs(float(voxels[k]) - count) < 1e-6
        assert abs(float(correlation[k]) - (right if count >= least else -1.0)) < 1e-4


def test_channels_count_equally():
    rng = np.random.default_rng(5)
    channels = [torch.as_tensor(rng.random((4, 5, 6)) * scale) for scale in (1.0, 100.0)]
    mask = torch.ones(4, 5, 6)
    both = ShiftSearch(channels, mask, 4)(channels[::-1], mask)[1]
    single = [ShiftSearch([a], mask, 4)([b], mask)[1] for a, b in zip(channels, channels[::-1], strict=True)]
    torch.testing.assert_close(both, (single[0] + single[1]) / 2)


def test_constant_image_never_correlates():
    mask = torch.ones(4, 4, 4)
    flat, rough = torch.full((4, 4, 4), 0.7), torch.rand(4, 4, 4, generator=torch.Generator().manual_seed(0))
    assert float(ShiftSearch([rough], mask, 2)([flat], mask)[1].max()) == -1.0


def test_small_overlap_needs_a_much_better_match():
    assert evidence(0.5, 1.0) > evidence(0.6, 0.2)
    assert evidence(0.95, 0.3) > evidence(0.3, 1.0)
