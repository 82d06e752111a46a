"""The inversion layer: right, and with the right gradient."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bigreg.networks.inverse import invert, solve3
from bigreg.networks.maps import compose, warp
from bigreg.networks.spline import bounded


def contraction(shape=(7, 8, 9), seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    return bounded(torch.randn(2, 3, *shape, generator=g, dtype=dtype))


def unrolled(u: torch.Tensor, steps: int = 50) -> torch.Tensor:
    v = torch.zeros_like(u)
    for _ in range(steps):
        v = -warp(u, v)
    return v


def gradient(function, u: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    u = u.clone().requires_grad_()
    return torch.autograd.grad((function(u) * weights).sum(), u)[0]


def test_the_inverse_undoes_the_map():
    u = contraction((12, 14, 10))
    for tolerance in (1e-2, 1e-6):
        assert float(compose(u, invert(u, tolerance=tolerance)).abs().max()) < tolerance


def test_looking_less_often_changes_nothing_but_the_number_of_steps():
    u = contraction()
    assert float(compose(u, invert(u, tolerance=1e-4, check_every=4)).abs().max()) < 1e-4


def test_acceleration_needs_fewer_steps_than_iteration(monkeypatch):
    from bigreg.networks import inverse

    # One sign along an axis alternating from voxel to voxel: as strong a contraction constant as the bound allows.
    u = contraction((12, 12, 12), dtype=torch.float64) * 1.5
    calls = []
    monkeypatch.setattr(inverse, "warp", lambda a, b: calls.append(1) or warp(a, b))
    invert(u, tolerance=1e-8)
    v, plain = -u, 0
    while True:
        new, plain = -warp(u, v), plain + 1
        if float((new - v).abs().max()) < 1e-8:
            break
        v = new
    assert len(calls) < plain


def test_the_gradient_is_that_of_fifty_unrolled_steps():
    u = contraction(seed=1)
    weights = torch.randn(u.shape, dtype=u.dtype, generator=torch.Generator().manual_seed(2))
    ours = gradient(lambda u: invert(u, tolerance=1e-12, iterations=100), u, weights)
    theirs = gradient(unrolled, u, weights)
    torch.testing.assert_close(ours, theirs, atol=1e-7, rtol=1e-6)


def test_value_and_gradient_are_those_of_the_deformation_inversion_layer():
    peer = pytest.importorskip("deformation_inversion_layer", reason="needs the extra 'test'")
    solvers = {"forward_solver": _solver(1e-10), "backward_solver": _solver(1e-10)}
    arguments = peer.DeformationInversionArguments(**solvers)
    layer = lambda u: peer.fixed_point_invert_deformation(u, arguments)  # noqa: E731
    u = contraction((9, 9, 9), seed=3)
    weights = torch.randn(u.shape, dtype=u.dtype, generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(invert(u, tolerance=1e-10), layer(u), atol=1e-7, rtol=1e-6)
    ours = gradient(lambda u: invert(u, tolerance=1e-12, iterations=100), u, weights)
    torch.testing.assert_close(ours, gradient(layer, u, weights), atol=1e-6, rtol=1e-5)


def _solver(tolerance: float):
    from deformation_inversion_layer.fixed_point_iteration import (
        AndersonSolver,
        AndersonSolverArguments,
        MaxElementWiseAbsStopCriterion,
    )

    return AndersonSolver(
        MaxElementWiseAbsStopCriterion(min_iterations=2, max_iterations=200, threshold=tolerance),
        AndersonSolverArguments(memory_length=4),
    )


def test_a_batch_is_solved_one_by_one():
    u = contraction(seed=5)
    assert torch.allclose(invert(u, tolerance=1e-8)[1:], invert(u[1:], tolerance=1e-8), atol=1e-7)


def test_small_systems_are_solved():
    m = torch.randn(3, 3, 50, dtype=torch.float64) + 3 * torch.eye(3, dtype=torch.float64)[..., None]
    x = torch.randn(3, 50, dtype=torch.float64)
    right = torch.einsum("ijn,jn->in", m, x)
    found = solve3([[m[i, j] for j in range(3)] for i in range(3)], list(right))
    torch.testing.assert_close(found.T, x, atol=1e-8, rtol=1e-8)


def test_training_through_the_layer_works_in_half_precision():
    conv = nn.Conv3d(1, 3, 3, padding=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = invert(bounded(conv(torch.rand(1, 1, 8, 8, 8))))
    assert out.dtype == torch.float32
    out.square().mean().backward()
    assert torch.isfinite(conv.weight.grad).all() and float(conv.weight.grad.abs().max()) > 0
