"""The kernels of a GPU, run by Triton's interpreter, against the sweeps of the CPU and tensor operations."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bigreg.engines.gauss_newton import PAIRS, MidSpacePair
from bigreg.engines.membrane import solve
from bigreg.engines.regularisers import regulariser
from bigreg.similarity import by_name

pytest.importorskip("triton")
if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("Triton's interpreter is off: it was imported before TRITON_INTERPRET was set", allow_module_level=True)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def close(found, expected, tolerance=1e-4):
    torch.testing.assert_close(
        found.cpu(), expected, rtol=tolerance, atol=tolerance * float(expected.abs().max()), check_dtype=False
    )


def images(shape, seed=0, holes=True, channels=1):
    g = torch.Generator().manual_seed(seed)
    pair = [torch.rand(channels, *shape, generator=g) for _ in range(2)]
    pair[1] = 0.6 * pair[0] + 0.4 * pair[1]
    masks = [(torch.rand(shape, generator=g) > (0.03 if holes else -1)).float() for _ in range(2)]
    return pair, masks


@pytest.mark.parametrize(("shape", "radius"), [((3, 9, 70), 3), ((17, 5, 6), 2), ((1, 20, 9), 1), ((2, 2, 3), 4)])
@pytest.mark.parametrize("squared", [False, True])
def test_local_correlation(shape, radius, squared):
    from bigreg.similarity.lncc_cuda import sweep

    (fixed, moving), (mask, _) = images(shape)
    name = "lncc_squared" if squared else "lncc"
    expected = by_name(name, radius=radius, noise=0.05)(*(t.double() for t in (fixed[0], moving[0], mask)))
    total, weight, out = sweep(*(t.to(DEVICE) for t in (fixed[0], moving[0], mask)), radius, 0.05, squared)
    assert weight == expected.weight and weight - total == pytest.approx(expected.loss, rel=1e-5)
    for found, right in zip(
        out, (expected.fixed, expected.moving, expected.fixed_scale, expected.moving_scale), strict=True
    ):
        close(found, right, 1e-3 if squared else 3e-4)


@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize(
    ("cells", "samples", "channels"), [((3, 4, 9), (4, 4, 4), 1), ((5, 9, 3), (2, 1, 5), 3), ((3, 2, 1), (8, 5, 16), 2)]
)
def test_a_warp(cells, samples, channels, holes):
    from bigreg.engines.midspace_cuda import warp

    shape = tuple(c * s for c, s in zip(cells, samples, strict=True))
    pair, masks = images(shape, 1, holes, channels)
    c = torch.randn(3, *(n + 4 for n in cells), generator=torch.Generator().manual_seed(2))
    exact = MidSpacePair(*(t.double() for t in (*pair, *masks)), by_name("mse"), samples).warped(c.double())
    found = warp(
        c.to(DEVICE), samples, tuple(t.to(DEVICE) for t in pair), tuple(t.to(DEVICE) for t in masks), not holes
    )
    for a, b in zip(found, exact, strict=True):
        # At the edge of the image or the mask, rounding may decide otherwise for a voxel in many.
        assert float(((a.cpu() - b).abs() > 1e-4).double().mean()) < 0.003
    assert 0 < float(exact[2].mean()) < 1


@pytest.mark.parametrize("curvature", [False, True])
@pytest.mark.parametrize("name", ["lncc", "mse", "ncc"])
@pytest.mark.parametrize(("cells", "samples"), [((3, 4, 5), (4, 4, 4)), ((1, 6, 5), (1, 3, 2))])
def test_forces_pulled_to_the_lattice(cells, samples, name, curvature):
    from bigreg.engines.midspace_cuda import Pulls

    shape = tuple(c * s for c, s in zip(cells, samples, strict=True))
    pair, masks = images(shape, 3, True, 2)
    similarity = by_name(name, noise=0.05)
    exact = MidSpacePair(*(t.double() for t in (*pair, *masks)), similarity, samples)
    expected = exact(None, curvature=curvature)
    fixed, moving, mask = exact.warped(None)
    pulls = Pulls(samples, curvature=curvature)
    for f, m in zip(fixed, moving, strict=True):
        forces = similarity(f, m, mask)
        pulls.add(
            *(
                t.float().to(DEVICE)
                for t in (f, m, forces.fixed, forces.moving, forces.fixed_scale, forces.moving_scale)
            )
        )
    slope, matrix = pulls.pulled()
    close(slope / 2, expected.slope)
    if curvature:
        close(matrix / 2, expected.matrix)
    else:
        assert matrix is None


@pytest.mark.parametrize("shape", [(9, 10, 14), (1, 5, 6), (3, 1, 1)])
@pytest.mark.parametrize("size", [1.0, 1e12])
def test_a_step(shape, size):
    from bigreg.engines.membrane_cuda import solve as kernels

    g = torch.Generator().manual_seed(0)
    j = torch.randn(3, *shape, generator=g) * (torch.rand(shape, generator=g) > 0.5)
    matrix = torch.stack([j[a] * j[b] for a, b in PAIRS])
    matrix[:3] += 1e-2
    matrix *= size
    weights, right = torch.rand(3, 3, generator=g) * 4, size * torch.randn(3, *shape, generator=g)
    expected = solve(matrix.double(), weights.double(), right.double(), 8)
    close(kernels(*(t.to(DEVICE) for t in (matrix, weights, right)), 8), expected, 2e-3)


@pytest.mark.parametrize("shape", [(9, 10, 14), (1, 5, 6), (3, 1, 1), (2, 2, 3), (4, 3, 2), (1, 2, 17)])
@pytest.mark.parametrize("size", [1.0, 1e12])
def test_a_step_with_bending(shape, size):
    from bigreg.engines.bending_cuda import solve as kernels

    g = torch.Generator().manual_seed(0)
    j = torch.randn(3, *shape, generator=g) * (torch.rand(shape, generator=g) > 0.5)
    matrix = torch.stack([j[a] * j[b] for a, b in PAIRS])
    matrix[:3] += 1
    matrix *= size
    right, voxel = size * torch.randn(3, *shape, generator=g), torch.tensor([2.0, 1.0, 1.5])
    exact = regulariser("bending", shape, voxel.double(), (4, 4, 4), 20.0 * size)
    there = regulariser("bending", shape, voxel.to(DEVICE), (4, 4, 4), 20.0 * size)
    for turns in (0, 1, 4):
        expected = exact.solve(matrix.double(), right.double(), turns)
        close(kernels(matrix.to(DEVICE), there.own, there.stiffness, right.to(DEVICE), turns), expected, 1e-5)


@pytest.mark.parametrize("kind", ["elastic", "bending"])
def test_a_step_as_the_regulariser_solves_it(kind):
    g = torch.Generator().manual_seed(0)
    shape = (9, 10, 14)
    j = torch.randn(3, *shape, generator=g) * (torch.rand(shape, generator=g) > 0.5)
    matrix = torch.stack([j[a] * j[b] for a, b in PAIRS])
    matrix[:3] += 1e-2
    right, voxel = torch.randn(3, *shape, generator=g), torch.tensor([2.0, 1.0, 1.5])
    expected = regulariser(kind, shape, voxel.double(), (4, 4, 4), 20.0).solve(matrix.double(), right.double(), 8)
    there = regulariser(kind, shape, voxel.to(DEVICE), (4, 4, 4), 20.0)
    close(there.solve(matrix.to(DEVICE), right.to(DEVICE), 8), expected, 2e-3)


class Recorded:
    """A kernel, and what it is compiled for: constants, and which arrays begin at a multiple of 16 bytes."""

    def __init__(self, name, kernel, kinds):
        self.name, self.kernel, self.kinds = name, kernel, kinds

    def __getitem__(self, grid):
        def launch(*arguments, **constants):
            aligned = tuple(a.data_ptr() % 16 == 0 for a in arguments if isinstance(a, torch.Tensor))
            self.kinds.add((self.name, aligned, tuple(sorted(constants.items()))))
            return self.kernel[grid](*arguments, **constants)

        return launch


def test_kernels_are_compiled_once_for_patches_of_all_sizes(monkeypatch):
    from bigreg.engines import bending_cuda, membrane_cuda, midspace_cuda
    from bigreg.similarity import lncc_cuda

    kinds, found = set(), []
    for module, names in {
        membrane_cuda: ("_begin", "_product", "_update"),
        bending_cuda: ("_begin", "_product"),
        midspace_cuda: ("_warp", "_pull"),
        lncc_cuda: ("_products_along_z", "_along_z", "_along_y", "_coefficients", "_forces"),
    }.items():
        for name in names:
            monkeypatch.setattr(module, name, Recorded(f"{module.__name__}.{name}", getattr(module, name), kinds))
    # Long along each axis in turn: along all at once they would take the interpreter minutes.
    for cells in ((1, 2, 1), (2, 3, 4), (9, 1, 1), (1, 11, 1), (1, 1, 17)):
        shape = tuple(4 * n for n in cells)
        pair, masks = ([t.to(DEVICE) for t in each] for each in images(shape, holes=False))
        c = torch.zeros(3, *(n + 4 for n in cells), device=DEVICE)
        midspace_cuda.warp(c, (4, 4, 4), tuple(pair), tuple(masks), True)
        _, _, forces = lncc_cuda.sweep(pair[0][0], pair[1][0], masks[0], 3, 0.05, False)
        pulls = midspace_cuda.Pulls((4, 4, 4), curvature=True)
        pulls.add(pair[0][0], pair[1][0], *forces)
        slope, matrix = pulls.pulled()
        membrane_cuda.solve(matrix + 1, torch.ones(3, 3, device=DEVICE), slope, 3)
        bending_cuda.solve(matrix + 1, torch.ones_like(matrix), torch.ones(3, 3, 3, device=DEVICE), slope, 3)
        found.append(set(kinds))
    assert len(found[0]) == 12
    assert found[0] == found[-1], found[-1] - found[0]


def test_kernels_compile_and_fit_in_registers(tmp_path):
    """For a card that is not there, by the compiler that Triton brings."""
    script = Path(__file__).parent / "benchmarks" / "kernels.py"
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"TRITON_CACHE_DIR": str(tmp_path)}
    made = subprocess.run(
        [sys.executable, str(script), "--cards", "90"], env=environment, capture_output=True, text=True, check=True
    )
    found = [json.loads(line) for line in made.stdout.splitlines()]
    assert len({(k["module"], k["kernel"]) for k in found}) == 12
    assert all(k["spilled"] == 0 for k in found), [k for k in found if k["spilled"]]


def test_where_triton_does_not_work_tensors_do(monkeypatch, caplog):
    from bigreg import kernels, trial_cuda

    trial_cuda.trial(DEVICE)

    def broken() -> None:
        raise RuntimeError("Failed to find C compiler")

    monkeypatch.setattr(trial_cuda, "trial", broken)
    kernels.present.cache_clear()
    assert not kernels.present()
    assert "Failed to find C compiler" in caplog.text
    kernels.present.cache_clear()
