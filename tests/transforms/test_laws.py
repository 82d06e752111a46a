"""The laws that bigreg.transforms states, on random maps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bigreg.quality.metrics import min_jacobian
from bigreg.transforms import (
    adjoint,
    compose,
    contraction_bound,
    evaluate,
    exponential,
    invert,
    min_determinant,
    principal_sqrt,
    sample_field,
    soft_bound,
    squarings,
)

SPACING = (2.0, 1.0, 1.5)
seeds = st.integers(0, 2**31 - 1)


def coefficients(seed, cells=(5, 4, 6), largest=0.3, samples=(4, 4, 4)):
    """Random control points (um) of at most `largest` cells; the border ones zero, so that the field ends in zero."""
    g = torch.Generator().manual_seed(seed)
    c = torch.rand(3, *(n + 4 for n in cells), generator=g, dtype=torch.float64) * 2 - 1
    cell = torch.tensor(SPACING, dtype=torch.float64) * torch.tensor(samples)
    c = c * largest * cell.reshape(3, 1, 1, 1)
    inside = torch.zeros_like(c)
    inside[:, 4:-4, 4:-4, 4:-4] = 1
    return c * inside


def smooth(seed, largest=0.2):
    """A smooth displacement that vanishes towards the border."""
    return evaluate(coefficients(seed, (9, 8, 10), largest), (4, 4, 4))


def distance(a, b):
    """Largest difference in samples."""
    return float(((a - b) / torch.tensor(SPACING).reshape(3, 1, 1, 1)).abs().max())


TABLE = {
    (1, 1, 1): 0.36, (2, 2, 2): 0.385447, (4, 4, 4): 0.398031, (8, 8, 8): 0.400725, (16, 16, 16): 0.401753,
    (32, 32, 32): 0.402536, (2, 2, 1): 0.371799, (4, 4, 2): 0.390619, (4, 4, 1): 0.387183,
}  # fmt: skip


@pytest.mark.parametrize("samples", TABLE)
def test_the_contraction_bound_is_the_published_one(samples):
    assert contraction_bound(samples) == pytest.approx(TABLE[samples], abs=1e-6)


@given(seeds, st.sampled_from([(1, 1, 1), (2, 2, 2), (4, 4, 4), (4, 4, 2), (3, 2, 5)]))
def test_under_the_bound_a_sampled_spline_is_a_contraction(seed, samples):
    g = torch.Generator().manual_seed(seed)
    c = torch.randint(0, 2, (3, 8, 7, 9), generator=g).double() * 2 - 1  # the worst there is: signs
    u = evaluate(c * contraction_bound(samples), samples)
    # Cells per cell: along any diagonal of a cell the change is at most the cell's own width.
    steps = torch.tensor(samples, dtype=torch.float64)
    ends = [[slice(0, -1)] * 3 for _ in range(3)]
    for axis in range(3):
        ends[axis][axis] = slice(None)
    change = sum(torch.diff(u, dim=a + 1)[(slice(None), *ends[a])] * steps[a] for a in range(3))
    assert float(change.abs().max()) <= 1.0 + 1e-9


@given(seeds)
def test_evaluate_and_adjoint_are_transposes(seed):
    c = coefficients(seed)
    v = evaluate(c, (4, 2, 3))
    g = torch.randn(v.shape, generator=torch.Generator().manual_seed(seed), dtype=v.dtype)
    assert float((v * g).sum()) == pytest.approx(float((c * adjoint(g, (4, 2, 3))).sum()), rel=1e-9, abs=1e-9)


@given(seeds)
def test_a_spline_never_exceeds_its_largest_coefficient_and_keeps_a_constant(seed):
    c = torch.randn(3, 8, 9, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    assert float(evaluate(c, (4, 4, 4)).abs().max()) <= float(c.abs().max())
    torch.testing.assert_close(evaluate(torch.full_like(c, 2.5), (3, 4, 2)), torch.full((3, 12, 20, 6), 2.5).double())


@given(seeds)
def test_exp_of_minus_v_undoes_exp_of_v(seed):
    v = smooth(seed)
    n = squarings(0.2, (4, 4, 4), accuracy=4)
    assert distance(compose(exponential(v, SPACING, n), exponential(-v, SPACING, n), SPACING), 0 * v) < 0.06


@given(seeds)
def test_exp_of_v_twice_is_exp_of_two_v(seed):
    v = smooth(seed, 0.1)
    once = exponential(v, SPACING, 5)
    assert distance(compose(once, once, SPACING), exponential(2 * v, SPACING, 6)) < 1e-9


@given(seeds)
def test_composition_is_associative_to_sampling_error(seed):
    a, b, c = (smooth(seed + i, 0.1) for i in range(3))
    left = compose(a, compose(b, c, SPACING), SPACING)
    right = compose(compose(a, b, SPACING), c, SPACING)
    assert distance(left, right) < 0.03


@given(seeds)
def test_composition_with_the_identity_changes_nothing(seed):
    a = smooth(seed)
    assert distance(compose(a, 0 * a, SPACING), a) < 1e-9
    assert distance(compose(0 * a, a, SPACING), a) < 1e-12


@given(seeds)
def test_the_inverse_undoes_a_map(seed):
    a = smooth(seed, 0.3)
    inverse = invert(a, SPACING, tolerance=1e-6)
    assert distance(inverse + sample_field(a, inverse, SPACING), 0 * a) < 1e-5


def test_the_inverse_agrees_with_an_independent_one():
    from deformation_inversion_layer import fixed_point_invert_deformation

    a = (smooth(3, 0.25) / torch.tensor(SPACING).reshape(3, 1, 1, 1)).float()
    theirs = fixed_point_invert_deformation(a[None])[0]
    ours = invert(a, (1.0, 1.0, 1.0), tolerance=1e-4)
    assert float((theirs - ours).abs().max()) < 0.02  # it stops at 0.01 voxel


@pytest.mark.parametrize("kind", ["random", "checkerboard"])
@pytest.mark.parametrize("largest", [0.1, 0.4])
def test_every_factor_of_a_hostile_velocity_has_a_positive_determinant(kind, largest):
    """What is composed are factors under the contraction bound: none may fold, by any of the eight stencils."""
    c = torch.rand(3, 12, 12, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1
    if kind == "checkerboard":
        c = torch.tensor([(-1.0) ** (i + j + k) for i in range(12) for j in range(12) for k in range(12)]).double()
        c = c.reshape(1, 12, 12, 12).repeat(3, 1, 1, 1)
    n = squarings(largest, (4, 4, 4), accuracy=0)
    assert largest / 2**n < contraction_bound((4, 4, 4))
    spacing = (1.0, 1.0, 1.0)
    factor = evaluate(c * largest * 4, (4, 4, 4)) / 2**n
    assert float(min_determinant(factor, spacing).min()) > 0
    assert float(min_jacobian(factor.numpy(), spacing).min()) == pytest.approx(
        float(min_determinant(factor, spacing).min())
    )


@given(seeds)
def test_soft_bound_is_odd_and_never_exceeds_and_leaves_the_inner_half(seed):
    x = torch.randn(500, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2
    y = soft_bound(x, 1.0)
    assert float(y.abs().max()) <= 1.0
    torch.testing.assert_close(soft_bound(-x, 1.0), -y)
    torch.testing.assert_close(y[x.abs() <= 0.5], x[x.abs() <= 0.5])
    order = torch.argsort(x)
    assert bool((torch.diff(y[order]) >= 0).all())


@given(seeds)
def test_the_affine_root_squares_to_the_affine_and_its_inverse_is_the_root_of_the_inverse(seed):
    rng = np.random.default_rng(seed)
    matrix = np.eye(4)
    matrix[:3, :3] += rng.uniform(-0.2, 0.2, (3, 3))
    matrix[:3, 3] = rng.uniform(-1e4, 1e4, 3)
    root = principal_sqrt(matrix)
    np.testing.assert_allclose(root @ root, matrix, atol=1e-7)
    np.testing.assert_allclose(principal_sqrt(np.linalg.inv(matrix)), np.linalg.inv(root), atol=1e-6)


def test_a_reflection_has_no_root():
    with pytest.raises(ValueError, match="orientation"):
        principal_sqrt(np.diag([1.0, -1.0, 1.0, 1.0]))
