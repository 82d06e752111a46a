"""The search over all shifts against the definition, and the figure by which starts are compared."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import signal

from bigreg.engines.judge import evidence
from bigreg.engines.shifts import LEAST_STRUCTURE, ShiftSearch


def by_definition(fixed, mask_f, moving, mask_m, shift):
    """(cosine, voxels) of fixed voxel i on moving voxel i + shift; arrays (C, z, y, x)."""
    pairs = []
    for i in np.ndindex(fixed.shape[1:]):
        j = tuple(np.add(i, shift))
        if min(j) >= 0 and (np.array(j) < moving.shape[1:]).all() and mask_f[i] and mask_m[j]:
            pairs.append((fixed[(slice(None), *i)], moving[(slice(None), *j)]))
    a, b = (np.array(side).ravel() for side in zip(*pairs, strict=True)) if pairs else (np.zeros(1), np.zeros(1))
    least = [LEAST_STRUCTURE * ((x * m) ** 2).sum() for x, m in ((fixed, mask_f), (moving, mask_m))]
    return a @ b / np.sqrt(max(a @ a, least[0]) * max(b @ b, least[1])), len(pairs)


@given(seed=st.integers(0, 2**32 - 1), masked=st.booleans(), channels=st.sampled_from([1, 3]))
def test_every_shift_scores_what_its_overlap_scores(seed, masked, channels):
    rng = np.random.default_rng(seed)
    fixed, moving = rng.normal(size=(channels, 4, 3, 5)), 3 * rng.normal(size=(channels, 3, 5, 4))
    mask_f, mask_m = (rng.random(x.shape[1:]) > (0.3 if masked else -1) for x in (fixed, moving))
    mask_f[0, 0, 0] = mask_m[0, 0, 0] = True
    least = 5 if masked else 25
    search = ShiftSearch(list(torch.as_tensor(fixed)), torch.as_tensor(mask_f), least)
    lowest, correlation, voxels = search(list(torch.as_tensor(moving)), torch.as_tensor(mask_m))
    # No shift that leaves `least` voxels in common is beyond the ends, and of two boxes none that does not is within.
    beyond = signal.correlate(mask_m.astype(float), mask_f.astype(float), method="direct")
    first = lowest + np.subtract(mask_f.shape, 1)
    beyond[tuple(slice(a, a + n) for a, n in zip(first, correlation.shape, strict=True))] = 0
    assert beyond.max() < least - 0.5
    assert masked or tuple(correlation.shape) == (2, 3, 4)
    for k in [tuple(rng.integers(0, correlation.shape)) for _ in range(12)]:
        right, count = by_definition(fixed, mask_f, moving, mask_m, lowest + k)
        assert abs(float(voxels[k]) - count) < 1e-6
        assert abs(float(correlation[k]) - (right if count >= least else -1.0)) < 1e-4


def test_image_without_structure_never_correlates():
    mask = torch.ones(4, 4, 4)
    flat, rough = torch.zeros(4, 4, 4), torch.randn(4, 4, 4, generator=torch.Generator().manual_seed(0))
    assert float(ShiftSearch([rough], mask, 2)([flat], mask)[1].max()) <= 1e-6


def test_small_overlap_needs_a_much_better_match():
    assert evidence(0.5, 1.0) > evidence(0.6, 0.2)
    assert evidence(0.95, 0.3) > evidence(0.3, 1.0)
