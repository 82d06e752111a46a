"""The linear system of a step, against a dense solution and against itself on another path."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from bigreg.engines.gauss_newton import PAIRS
from bigreg.engines.membrane import membrane, solve

POINTS = (4, 5, 3)


def system(seed, points=POINTS, empty=0.5, dtype=torch.float64):
    """Blocks j j^T at a part of the points, edges of any stiffness, a right side."""
    g = torch.Generator().manual_seed(seed)
    j = torch.randn(3, *points, generator=g, dtype=dtype) * (torch.rand(points, generator=g) > empty)
    matrix = torch.stack([j[a] * j[b] for a, b in PAIRS])
    matrix[:3] += 1e-3
    weights = torch.rand(3, 3, generator=g, dtype=dtype) * 4
    return matrix, weights, torch.randn(3, *points, generator=g, dtype=dtype)


def dense(matrix, weights):
    """The same system as one matrix."""
    shape = (3, *matrix.shape[1:])
    size = int(torch.tensor(shape).prod())
    columns = []
    for unit in torch.eye(size, dtype=matrix.dtype):
        at = unit.reshape(shape)
        out = membrane(at, weights)
        for k, (a, b) in enumerate(PAIRS):
            out[a] += matrix[k] * at[b]
            if a != b:
                out[b] += matrix[k] * at[a]
        columns.append(out.flatten())
    return torch.stack(columns, 1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_many_turns_solve_the_system(dtype):
    matrix, weights, right = system(1)
    exact = torch.linalg.solve(dense(matrix, weights), right.flatten()).reshape(right.shape)
    found = solve(matrix.to(dtype), weights.to(dtype), right.to(dtype), turns=150)
    torch.testing.assert_close(found.double(), exact, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("turns", [1, 3, 16])
def test_the_sweeps_do_what_the_tensors_do(turns):
    matrix, weights, right = system(2, (7, 4, 9))
    by_tensors = solve(matrix, weights, right, turns=turns)
    by_sweeps = solve(matrix.float(), weights.float(), right.float(), turns=turns)
    torch.testing.assert_close(by_sweeps.double(), by_tensors, atol=1e-4, rtol=1e-4)


def test_the_energy_falls_with_every_turn():
    matrix, weights, right = system(3, (9, 8, 7), empty=0.9)
    system_matrix = None
    energies = []
    for turns in (0, 1, 2, 4, 8, 16, 32):
        x = solve(matrix, weights, right, turns=turns)
        system_matrix = dense(matrix, weights) if system_matrix is None else system_matrix
        energies.append(float(x.flatten() @ (system_matrix @ x.flatten()) / 2 - x.flatten() @ right.flatten()))
    assert energies[0] == 0
    assert all(b < a for a, b in pairwise(energies))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_solution_is_as_linear_as_the_system(dtype):
    """Swapping the images negates the right side, so it has to negate the step, bit for bit."""
    matrix, weights, right = system(4, dtype=dtype)
    assert torch.equal(solve(matrix, weights, right), -solve(matrix, weights, -right))
    assert not solve(matrix, weights, torch.zeros_like(right)).any()


@pytest.mark.parametrize("points", [(4, 4, 4), (1, 1, 1), (1, 6, 1)])
def test_a_texture_at_one_end_moves_all_that_hangs_on_it(points):
    matrix = torch.zeros(6, *points)
    matrix[:3] = 1e-6
    matrix[:3, 0, 0, 0] = 5.0
    right = torch.zeros(3, *points)
    right[:, 0, 0, 0] = 5.0
    found = solve(matrix, torch.full((3, 3), 10.0), right, turns=60)
    torch.testing.assert_close(found, torch.ones_like(found), atol=0.01, rtol=0)
