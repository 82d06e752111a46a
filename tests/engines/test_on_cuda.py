"""Every engine on a simulated GPU: the result of the CPU, no sum in an open order, and few waits of the host."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from bigreg.device import smaller_pieces
from bigreg.engines import PatchPair, load_engine
from bigreg.engines.gauss_newton import PAIRS, MidSpacePair
from bigreg.engines.parts import estimate_fitting
from bigreg.engines.regularisers import regulariser
from bigreg.geometry import Lattice
from bigreg.similarity import by_name, mutual_information
from bigreg.similarity.information import _Tensors
from bigreg.similarity.lncc import box_sum
from bigreg.testing import patch_pair, simulated_cuda
from bigreg.transforms import evaluate

CELLS = (5, 6, 7)
ENGINES = {
    **{f"optimise {name}": ("optimise", {"similarity": name}) for name in
       ("lncc", "lncc_squared", "ncc", "mse", "mi", "nmi", "mind", "ngf")},
    "optimise native": ("optimise", {"least_agreement": 0.99}),
    "optimise auto": ("optimise", {"regularisation": "auto"}),
    **{f"optimise {name}": ("optimise", {"regulariser": name}) for name in ("elastic", "bending")},
    "discrete": ("discrete", {}),
    **{name: (name, {"weights": "random", "any_spacing": True}) for name in
       ("sitreg", "invgan", "voxelmorph", "transmorph")},
}  # fmt: skip
WAITS = {
    "lncc": 4, "lncc_squared": 4, "ncc": 8, "mse": 4, "mi": 21, "nmi": 21, "mind": 26, "ngf": 14,
}  # fmt: skip
"""Waits of the host per look at most, the two of the step included: its energy; its direction and length at once."""
LOOK_KERNELS = 360
SOLVE_KERNELS = {"membrane": 760, "elastic": 2000, "bending": 1250}


def pair(holes: bool = False) -> PatchPair:
    return replace(patch_pair(CELLS, holes=holes), native=True)


def there(p: PatchPair) -> PatchPair:
    tensors = ("fixed", "moving", "fixed_mask", "moving_mask")
    return replace(p, **{name: getattr(p, name).cuda() for name in tensors})


@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_finds_there_what_it_finds_here(name, holes, one_thread):
    kind, options = ENGINES[name]
    p = pair(holes)
    here = load_engine(kind, options, iterations=3).estimate(p)
    with simulated_cuda() as device:
        found = load_engine(kind, options, iterations=3).estimate(there(p))
        assert found.coefficients.is_cuda and found.confidence.is_cuda
        coefficients, confidence = found.coefficients.cpu(), found.confidence.cpu()
    assert not device.counts.unordered
    # Voxels of 2 x 1.5 x 1.5 um: a hundredth of a voxel. Histograms of float32 and sweeps bin edges differently.
    torch.testing.assert_close(coefficients, here.coefficients, atol=0.02, rtol=0.01)
    torch.testing.assert_close(confidence, here.confidence, atol=0.02, rtol=0.02)
    for key, value in here.quality.items():
        assert found.quality[key] == pytest.approx(value, abs=2e-3), key


@pytest.mark.parametrize("name", WAITS)
def test_how_often_a_look_waits_for_the_device(name, one_thread):
    """One look more is this much more, whatever else a patch takes."""
    with simulated_cuda() as device:
        p = there(pair())
        counts = []
        for iterations in (2, 3):
            with device.measured() as counted:
                load_engine("optimise", {"similarity": name, "tolerance": 0.0}, iterations=iterations).estimate(p)
            counts.append(counted)
    assert 1 <= counts[1].waits - counts[0].waits <= WAITS[name]


@pytest.mark.parametrize("kind", SOLVE_KERNELS)
def test_a_step_is_solved_without_a_wait(kind, one_thread):
    """The lattice's linear system: all turns are sent to the device at once, and find what the CPU finds."""
    g = torch.Generator().manual_seed(0)
    j = torch.randn(3, 9, 10, 11, generator=g) * (torch.rand(9, 10, 11, generator=g) > 0.5)
    matrix = torch.stack([j[a] * j[b] for a, b in PAIRS])
    matrix[:3] += 1e-2
    right, voxel = torch.randn(3, 9, 10, 11, generator=g), torch.tensor([2.0, 1.0, 1.5])
    here = regulariser(kind, right.shape[1:], voxel, (4, 4, 4), 20.0).solve(matrix, right)
    with simulated_cuda() as device:
        there = regulariser(kind, right.shape[1:], voxel.cuda(), (4, 4, 4), 20.0)
        arguments = [t.cuda() for t in (matrix, right)]
        with device.measured() as counts:
            found = there.solve(*arguments)
        assert counts.waits == 0 and counts.to_device == 0 and not counts.unordered
        assert 100 < counts.launches <= SOLVE_KERNELS[kind]
        torch.testing.assert_close(found.cpu(), here, atol=1e-4, rtol=1e-4)


def test_how_much_a_look_launches(one_thread):
    with simulated_cuda() as device:
        p = there(pair())
        images = MidSpacePair(p.fixed, p.moving, p.fixed_mask, p.moving_mask, by_name("lncc"), (4, 4, 4))
        c = torch.zeros(3, *(n + 4 for n in CELLS), device="cuda")
        for curvature in (False, True):
            with device.measured() as counts:
                images(c, curvature=curvature)
            assert 100 < counts.launches <= LOOK_KERNELS and counts.waits == 2 and counts.to_host == 0
        voxels = p.fixed.numel()
        assert 1000 < counts.bytes / voxels < 9000 and counts.peak_bytes / voxels < 400


@pytest.mark.parametrize("name", ["lncc", "mse", "mi", "ngf", "mind"])
def test_a_patch_needs_the_memory_that_is_planned(name, one_thread):
    engine = load_engine("optimise", {"similarity": name}, iterations=1)
    with simulated_cuda() as device:
        p = there(pair())
        with device.measured() as counts:
            engine.estimate(p)
    # A small patch has more border than a planned one.
    assert 0.9 < counts.peak_bytes / p.fixed.numel() / engine.card_bytes_a_voxel < 1.15


def test_a_patch_that_does_not_fit_is_found_in_parts_to_a_tenth_of_a_voxel(one_thread):
    cells = (5, 5, 20)
    shape = tuple(4 * n for n in cells)
    g = torch.Generator().manual_seed(1)
    coarse = torch.rand(1, 1, *(n // 2 + 2 for n in shape), generator=g)
    image = torch.nn.functional.interpolate(coarse, size=tuple(n + 2 for n in shape), mode="trilinear")[0]
    one = torch.ones(shape)
    wide = PatchPair(
        image[:, 1:-1, 1:-1, 1:-1], image[:, 2:, 1:-1, :-2], one, one, Lattice(cells, (4.0,) * 3, (0.0,) * 3, (4,) * 3)
    )
    engine = load_engine("optimise", {}, iterations=8)
    with simulated_cuda() as device:
        whole = engine.estimate(there(wide)).coefficients.cpu()
    with simulated_cuda(int(0.9 * device.counts.peak_bytes)), smaller_pieces(1):
        found = estimate_fitting(engine, there(wide))
        parts = found.coefficients.cpu()
    assert found.quality["parts"] == 2
    difference = (evaluate(whole, (4, 4, 4)) - evaluate(parts, (4, 4, 4))).abs()
    assert 0 < float(difference.max()) < 0.1 < float(whole.abs().max())


def test_the_joint_histogram_is_the_same_in_any_order_of_the_voxels():
    """A GPU adds them in another order each time."""
    p = pair()
    f, m = (t.double().flatten() for t in (p.fixed, p.moving))
    order = torch.randperm(len(f), generator=torch.Generator().manual_seed(3))
    one = _Tensors(f, m, torch.ones_like(f), 32)
    other = _Tensors(f, m, torch.ones_like(f), 32)
    other.__dict__["axes"] = tuple(
        replace(a, first=a.first[order], weights=a.weights[:, order], slopes=a.slopes[:, order]) for a in one.axes
    )
    assert torch.equal(one.joint(), other.joint())
    assert mutual_information(f, m, torch.ones_like(f)) > 0.1


@pytest.mark.parametrize("shape", [(9, 12, 14), (3, 12, 2), (2, 9, 8, 11)])
@pytest.mark.parametrize("radius", [1, 3])
def test_sums_over_windows_are_those_of_the_cpu(shape, radius):
    values = torch.rand(shape, generator=torch.Generator().manual_seed(3))
    with simulated_cuda() as device:
        found = box_sum(values.cuda(), radius)
        assert device.counts.launches <= 5
        found = found.cpu()
    torch.testing.assert_close(found, box_sum(values, radius))
    assert found.shape == values.shape
