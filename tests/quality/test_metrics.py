"""Figures of merit: right on fields with a known answer, and the same in blocks as in one piece."""

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from bigreg.geometry import BlockGrid
from bigreg.quality.metrics import (
    CorrelationSummary,
    ErrorHistogram,
    JacobianSummary,
    central_jacobian,
    local_correlation,
    local_ncc,
    min_jacobian,
    ncc,
    regularity,
    seam_ratio,
    target_registration_error,
)

SHAPE, SPACING = (7, 9, 11), (4.0, 1.5, 2.5)


def places(shape=SHAPE, spacing=SPACING):
    return np.stack(np.meshgrid(*[np.arange(n) * s for n, s in zip(shape, spacing, strict=True)], indexing="ij"))


def linear(matrix, shape=SHAPE):
    return np.tensordot(np.asarray(matrix, float) - np.eye(3), places(shape), 1)


def rough(shape, seed=0, sigma=1.0, size=3.0):
    """Smooth random displacement whose components have a standard deviation of `size` um."""
    noise = np.random.default_rng(seed).standard_normal((3, *shape))
    noise = ndimage.gaussian_filter(noise, (0, sigma, sigma, sigma))
    return size * noise / noise.std()


def brute_force(field, spacing):
    """The definition, sample by sample, stencil by stencil."""
    shape = field.shape[1:]
    out = np.full(shape, np.inf)
    for index in np.ndindex(*shape):
        for sides in product((-1, 1), repeat=3):
            matrix = np.eye(3)
            for axis, side in enumerate(sides):
                other = list(index)
                other[axis] += side
                if not 0 <= other[axis] < shape[axis]:
                    break
                step = (field[(slice(None), *other)] - field[(slice(None), *index)]) / (side * spacing[axis])
                matrix[:, axis] += step
            else:
                out[index] = min(out[index], np.linalg.det(matrix))
    return out


ROTATION = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]])


@pytest.mark.parametrize("jacobian", [min_jacobian, central_jacobian])
@pytest.mark.parametrize(
    "matrix, determinant",
    [
        (np.eye(3), 1.0),
        (np.diag([1.2, 0.5, 0.9]), 0.54),
        ([[1, 0.7, 0], [0, 1, -0.4], [0, 0, 1]], 1.0),
        (ROTATION, 1.0),
        (np.diag([1, 1, -1]), -1.0),
    ],
    ids=["identity", "scaling", "shear", "rotation", "mirror"],
)
def test_determinant_of_a_linear_map_is_the_matrix_determinant(jacobian, matrix, determinant):
    assert np.allclose(jacobian(linear(matrix), SPACING), determinant, atol=1e-12)


def test_min_jacobian_is_the_smallest_of_all_stencils():
    field = rough(SHAPE)
    expected = brute_force(field, SPACING)
    assert (expected <= 0).any() and (expected > 0).any()
    assert np.allclose(min_jacobian(field, SPACING), expected, atol=1e-10)


def test_slabs_do_not_change_the_determinants(monkeypatch):
    field = rough(SHAPE)
    whole = min_jacobian(field, SPACING), central_jacobian(field, SPACING)
    monkeypatch.setattr(regularity, "_SLAB_SAMPLES", 1)
    assert np.array_equal(min_jacobian(field, SPACING), whole[0])
    assert np.array_equal(central_jacobian(field, SPACING), whole[1])


def test_a_fold_between_samples_is_seen_by_one_sided_stencils_only():
    """One sample pushed past its neighbour: the central difference spans two cells and does not notice."""
    field = np.zeros((3, *SHAPE))
    field[2, 3, 4, 5] = 1.2 * SPACING[2]
    assert central_jacobian(field, SPACING).min() > 0
    assert min_jacobian(field, SPACING).min() == pytest.approx(-0.2)
    assert JacobianSummary.of(field, SPACING).folds == (min_jacobian(field, SPACING) <= 0).sum() > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_torch_and_numpy_give_the_same_determinants(dtype):
    field = torch.from_numpy(rough(SHAPE)).to(dtype)
    result = min_jacobian(field, SPACING)
    assert isinstance(result, torch.Tensor) and result.dtype == dtype
    assert np.array_equal(result.numpy(), min_jacobian(field.numpy(), SPACING))


@pytest.mark.parametrize("shape", [(3, 1, 5, 5), (2, 5, 5, 5), (5, 5, 5)])
def test_a_field_of_a_wrong_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"need .3, z, y, x."):
        min_jacobian(np.zeros(shape), SPACING)


@settings(deadline=None, max_examples=25)
@given(cells=st.tuples(*[st.integers(2, 9)] * 3), core=st.tuples(*[st.integers(1, 5)] * 3), seed=st.integers(0, 2**16))
def test_jacobian_summary_of_blocks_is_that_of_the_whole(cells, core, seed):
    field = rough(cells, seed)
    inside = np.random.default_rng(seed).uniform(size=cells) < 0.8
    whole = JacobianSummary.of(field, SPACING, inside=inside)
    total = JacobianSummary()
    for block in BlockGrid(cells, core, (1, 1, 1)):
        halo = tuple(slice(a, b) for a, b in zip(block.halo_start, block.halo_stop, strict=True))
        own = tuple(slice(a - h, b - h) for a, b, h in zip(block.start, block.stop, block.halo_start, strict=True))
        if min(block.halo_shape) >= 2:
            total += JacobianSummary.of(field[(slice(None), *halo)], SPACING, core=own, inside=inside[halo])
    assert (total.samples, total.folds, total.clipped) == (whole.samples, whole.folds, whole.clipped)
    assert total.samples == inside.sum()
    assert total.minimum == pytest.approx(whole.minimum, rel=1e-12)
    if total.samples:
        assert (total.mean_log, total.sd_log) == pytest.approx((whole.mean_log, whole.sd_log), rel=1e-9, abs=1e-12)


def test_log_jacobian_is_the_clipped_central_one():
    field = rough(SHAPE)
    summary = JacobianSummary.of(field, SPACING)
    central = central_jacobian(field, SPACING)
    assert summary.clipped == (central < 1e-3).sum() > 0
    assert summary.sd_log == pytest.approx(np.log(central.clip(1e-3)).std(), rel=1e-12)
    assert summary.mean_log == pytest.approx(np.log(central.clip(1e-3)).mean(), rel=1e-12)


def test_a_field_that_is_not_finite_is_refused_unless_masked():
    field = np.zeros((3, *SHAPE))
    field[:, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        JacobianSummary.of(field, SPACING)
    inside = np.ones(SHAPE, bool)
    inside[:2, :2, :2] = False
    assert JacobianSummary.of(field, SPACING, inside=inside).samples == inside.sum()


def test_seam_ratio_is_one_for_a_field_without_seams():
    ratio = seam_ratio(rough((40, 40, 40), sigma=3), (1, 1, 1), [(10, 20, 30)] * 3)
    assert ratio == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("order, name", [(0, "step"), (1, "kink"), (2, "curvature")])
def test_seam_ratio_sees_a(order, name):
    z = places((40, 20, 20), SPACING)[0] / SPACING[0] - 19.5
    field = rough((40, 20, 20), sigma=4, size=1.0)
    field[1] += 0.2 * np.where(z > 0, z**order, 0)
    assert seam_ratio(field, SPACING, [(20,), (), ()]) > 2
    assert seam_ratio(field, SPACING, [(11,), (), ()]) < 2


def test_seam_ratio_without_faces_is_nan():
    assert np.isnan(seam_ratio(rough(SHAPE), SPACING, [(), (), ()]))


def test_ncc_is_the_pearson_correlation_and_ignores_contrast():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=SHAPE), rng.normal(size=SHAPE)
    b += 0.5 * a
    mask = rng.uniform(size=SHAPE) < 0.6
    assert ncc(a, b, mask) == pytest.approx(np.corrcoef(a[mask], b[mask])[0, 1], rel=1e-12)
    assert ncc(a, 40000 - 3 * a) == pytest.approx(-1, abs=1e-12)
    assert np.isnan(ncc(a, np.zeros(SHAPE))) and np.isnan(ncc(a, b, np.zeros(SHAPE, bool)))


@pytest.mark.parametrize("cut", [0, 1, 4, 7])
def test_correlation_of_blocks_adds_up_to_the_whole(cut):
    rng = np.random.default_rng(1)
    a = (rng.normal(size=SHAPE) * 50 + 60000).astype(np.uint16)
    b = (a + rng.normal(size=SHAPE) * 20).astype(np.uint16)
    parts = CorrelationSummary.of(a[:cut], b[:cut]) + CorrelationSummary.of(a[cut:], b[cut:])
    assert parts.voxels == a.size
    assert parts.ncc == pytest.approx(ncc(a, b), rel=1e-12)


def test_local_correlation_is_the_correlation_in_the_window():
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=SHAPE) + 500, rng.normal(size=SHAPE)
    b += a
    mask = rng.uniform(size=SHAPE) < 0.9
    result = local_correlation(a, b, mask, radius=1)
    index = (3, 4, 5)
    assert mask[index]
    window = tuple(slice(i - 1, i + 2) for i in index)
    expected = np.corrcoef(a[window][mask[window]], b[window][mask[window]])[0, 1]
    assert result[index] == pytest.approx(expected, rel=1e-9)
    assert np.isnan(result[~mask]).all()


def test_local_ncc_forgives_local_contrast_which_ncc_does_not():
    rng = np.random.default_rng(3)
    a = rng.normal(size=(24, 24, 24))
    b = a * np.linspace(1, 4, 24) + np.linspace(0, 20, 24)
    assert local_ncc(a, b, radius=2) > 0.8 > 0.5 > ncc(a, b)


def test_local_ncc_counts_textured_voxels_only_and_blank_moving_as_zero():
    rng = np.random.default_rng(4)
    a = np.zeros((20, 20, 40))
    a[..., :20] = rng.normal(size=(20, 20, 20))
    assert np.isnan(local_correlation(a, a, radius=2)[..., 24:]).all()
    assert local_ncc(a, a, radius=2) == pytest.approx(1)
    blank = a.copy()
    blank[:10] = 7.0
    assert local_ncc(a, blank, radius=2) == pytest.approx(0.5, abs=0.1)


def test_local_correlation_of_blocks_with_halo_is_that_of_the_whole():
    rng = np.random.default_rng(5)
    a, b = rng.normal(size=(12, 13, 14)), rng.normal(size=(12, 13, 14))
    whole = local_correlation(a, b, radius=2, texture_sd=0.1)
    part = local_correlation(a[3:11], b[3:11], radius=2, texture_sd=0.1)
    assert np.allclose(part[2:-2], whole[5:9], equal_nan=True, atol=1e-12)


def test_images_of_different_shape_are_refused():
    with pytest.raises(ValueError, match="differ"):
        ncc(np.zeros((3, 3, 3)), np.zeros((3, 3, 4)))


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**16), cut=st.integers(0, 500), q=st.sampled_from([50, 95, 99.9, 100]))
def test_histogram_percentiles_merge_and_are_right_to_one_bin(seed, cut, q):
    lengths = np.random.default_rng(seed).lognormal(-3, 2, 500)
    merged = ErrorHistogram.of(lengths[:cut]) + ErrorHistogram.of(lengths[cut:])
    expected = np.percentile(lengths, q, method="inverted_cdf")
    assert expected * (1 - 1e-9) <= merged.percentile(q) <= expected * 1.0117
    assert merged.maximum == lengths.max() and merged.samples == 500
    assert merged.mean == pytest.approx(lengths.mean(), rel=1e-12)
    assert np.array_equal(merged.counts, ErrorHistogram.of(lengths).counts)


def test_histogram_of_zeros_nans_and_nothing():
    assert ErrorHistogram.of(np.zeros(5)).percentile(99) == 0
    assert ErrorHistogram.of(np.array([1.0, np.nan])).missing == 1
    assert np.isnan(ErrorHistogram().percentile(50)) and np.isnan(ErrorHistogram().mean)
    assert ErrorHistogram.of(np.array([3e7])).percentile(50) == 3e7


def test_target_registration_error_is_in_micrometres_and_counts_lost_points():
    truth = np.zeros((1001, 3))
    mapped = truth.copy()
    mapped[:, 1] = np.arange(1001) * 0.6
    mapped[:, 2] = np.arange(1001) * 0.8
    mapped[0] = np.nan
    error = target_registration_error(mapped, truth)
    assert (error.points, error.missing) == (1000, 1)
    assert error.mean == pytest.approx(500.5) and error.median == pytest.approx(500.5)
    assert error.p95 == pytest.approx(950.05) and error.maximum == pytest.approx(1000)
    with pytest.raises(ValueError, match=r"need .N, 3."):
        target_registration_error(truth.T, truth.T)
    with pytest.raises(ValueError, match="true points"):
        target_registration_error(truth, mapped)
