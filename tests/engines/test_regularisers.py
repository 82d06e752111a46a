"""Regularisers: their energies written down anew, autograd, dense matrices, and the engine with each of them."""

from __future__ import annotations

from itertools import pairwise, product

import pytest
import torch

from bigreg.engines import load_engine
from bigreg.engines.gauss_newton import PAIRS
from bigreg.engines.regularisers import KINDS, Elastic, regulariser
from bigreg.errors import ConfigError
from bigreg.testing import patch_pair
from bigreg.transforms import evaluate

VOXEL, SAMPLES, STRENGTH, VOLUME = (2.0, 0.5, 0.8), (3, 4, 5), 1.7, 2.5
"""Edges of 6, 2 and 4 um."""
POINTS = [(4, 5, 3), (2, 2, 2), (2, 5, 4), (1, 4, 5), (5, 1, 3), (1, 6, 1), (1, 1, 1)]


def made(kind, points, dtype=torch.float64, voxel=VOXEL, strength=STRENGTH, volume=VOLUME):
    return regulariser(kind, points, torch.tensor(voxel, dtype=dtype), SAMPLES, strength, volume)


def physical(c, voxel=VOXEL):
    """Velocity in um, and the edges of the lattice in um."""
    voxel = torch.tensor(voxel, dtype=c.dtype)
    return c * voxel.reshape(3, 1, 1, 1), [float(v) * s for v, s in zip(voxel, SAMPLES, strict=True)]


def strain_energy(c):
    """Sum over the cells' corners, or those of the faces or edges that a flat lattice has, of the elastic density."""
    u, edge = physical(c)
    mu = 3 * STRENGTH / (4 + VOLUME)
    axes = [a for a in range(3) if c.shape[a + 1] > 1]
    total = c.new_zeros(())
    for corner in product((0, 1), repeat=len(axes)):
        slopes = c.new_zeros(3, 3, *(n - (n > 1) for n in c.shape[1:]))
        for a in axes:
            d = torch.diff(u, dim=a + 1) / edge[a]
            for b, end in zip(axes, corner, strict=True):
                if b != a:
                    d = d.narrow(b + 1, end, d.shape[b + 1] - 1)
            slopes[:, a] = d
        e = (slopes + slopes.transpose(0, 1)) / 2
        trace = e[0, 0] + e[1, 1] + e[2, 2]
        total = total + (2 * mu * e.square().sum() + VOLUME * mu * trace.square().sum()) / 2 / 2 ** len(axes)
    return total


def bending_energy(c):
    u, edge = physical(c)
    length = (edge[0] * edge[1] * edge[2]) ** (1 / 3)
    total = c.new_zeros(())
    for a in range(3):
        for b in range(3):
            second = torch.diff(torch.diff(u, dim=a + 1), dim=b + 1) / (edge[a] * edge[b])
            total = total + STRENGTH / 2 * length**2 * second.square().sum()
    return total


def membrane_energy(c):
    u, edge = physical(c)
    return sum(STRENGTH / 2 * (torch.diff(u, dim=a + 1) / edge[a]).square().sum() for a in range(3))


ENERGIES = {"membrane": membrane_energy, "elastic": strain_energy, "bending": bending_energy}


def dense(kind, points):
    """(N, N) matrix of `pull`."""
    shape = (3, *points)
    pull = made(kind, points).pull
    units = torch.eye(int(torch.tensor(shape).prod()), dtype=torch.float64)
    return torch.stack([pull(unit.reshape(shape)).flatten() for unit in units], 1)


def system(points, seed=0):
    """Blocks of texture at half of the points, next to nothing at the others; a right side."""
    g = torch.Generator().manual_seed(seed)
    j = torch.randn(3, *points, generator=g, dtype=torch.float64) * (torch.rand(points, generator=g) > 0.5)
    matrix = torch.stack([j[a] * j[b] for a, b in PAIRS])
    matrix[:3] += 1e-2
    return matrix, torch.randn(3, *points, generator=g, dtype=torch.float64)


def blocks(matrix):
    """(N, N) matrix of 3 x 3 blocks (6, z, y, x)."""
    n = matrix[0].numel()
    out = torch.zeros(3, n, 3, n, dtype=matrix.dtype)
    for k, (a, b) in enumerate(PAIRS):
        out[a, range(n), b, range(n)] = out[b, range(n), a, range(n)] = matrix[k].flatten()
    return out.reshape(3 * n, 3 * n)


@pytest.mark.parametrize("points", POINTS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_pull_is_the_derivative_of_the_energy(kind, points):
    c = torch.randn(3, *points, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    at = c.clone().requires_grad_()
    energy = ENERGIES[kind](at) + 0 * at.sum()  # of a single point it is a constant
    (expected,) = torch.autograd.grad(energy, at)
    pull = made(kind, points).pull(c)
    torch.testing.assert_close(pull, expected, rtol=1e-10, atol=1e-10)
    assert float((c * pull).sum()) / 2 == pytest.approx(energy.item(), rel=1e-10)


def free_motions(kind, points):
    """The motions that are to cost nothing, um, as rows; what is flat does not change along that axis."""
    edge = [v * s for v, s in zip(VOXEL, SAMPLES, strict=True)]
    places = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) * h for n, h in zip(points, edge, strict=True)),
                            indexing="ij")  # fmt: skip
    axes = [a for a in range(3) if points[a] > 1]
    motions = []
    for k in range(3):
        motions.append(torch.zeros(3, *points, dtype=torch.float64))
        motions[-1][k] = 1
    for a in axes:
        for k in range(3) if kind == "bending" else ():
            motions.append(torch.zeros(3, *points, dtype=torch.float64))
            motions[-1][k] = places[a]
        for b in axes if kind == "elastic" else ():
            if b > a:
                motions.append(torch.zeros(3, *points, dtype=torch.float64))
                motions[-1][a], motions[-1][b] = places[b], -places[a]
    return torch.stack(motions)


@pytest.mark.parametrize("points", POINTS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_matrix_is_symmetric_and_costs_nothing_just_where_it_should(kind, points):
    matrix = dense(kind, points)
    size = max(1.0, float(matrix.abs().max()))
    assert float((matrix - matrix.T).abs().max()) < 1e-12 * size
    values = torch.linalg.eigvalsh(matrix)
    assert float(values.min()) > -1e-11 * size
    motions = free_motions(kind, points)
    assert int((values < 1e-7 * size).sum()) == len(motions)  # a number above that of what has none is at least 1e-3
    voxel = torch.tensor(VOXEL, dtype=torch.float64).reshape(3, 1, 1, 1)
    for motion in motions:
        assert float(made(kind, points).pull(motion / voxel).abs().max()) < 1e-10 * size


@pytest.mark.parametrize("points", POINTS)
@pytest.mark.parametrize("kind", ["elastic", "bending"])
def test_each_point_knows_its_own_block(kind, points):
    own, matrix = made(kind, points).own, dense(kind, points)
    n = own[0].numel()
    whole = matrix.reshape(3, n, 3, n)
    for k, (a, b) in enumerate(PAIRS):
        torch.testing.assert_close(own[k].flatten(), whole[a, range(n), b, range(n)], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("points", [(4, 5, 3), (1, 4, 5), (1, 6, 1)])
@pytest.mark.parametrize("kind", KINDS)
def test_many_turns_solve_the_system(kind, points, dtype):
    matrix, right = system(points)
    exact = torch.linalg.solve(blocks(matrix) + dense(kind, points), right.flatten()).reshape(right.shape)
    found = made(kind, points, dtype).solve(matrix.to(dtype), right.to(dtype), 300)
    torch.testing.assert_close(found.double(), exact, atol=2e-3 * float(exact.abs().max()), rtol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_the_energy_falls_with_every_turn(kind):
    points = (6, 5, 7)
    matrix, right = system(points)
    whole = blocks(matrix) + dense(kind, points)
    found = [made(kind, points).solve(matrix, right, turns).flatten() for turns in (0, 1, 2, 4, 8, 16, 32)]
    energies = [float(x @ (whole @ x) / 2 - x @ right.flatten()) for x in found]
    assert energies[0] == 0
    assert all(b < a for a, b in pairwise(energies))


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_is_as_linear_as_the_system_and_the_same_twice(kind):
    """Bit for bit: swapping the images negates the right side."""
    points = (9, 8, 10)
    matrix, right = (t.float() for t in system(points))
    solve = made(kind, points, torch.float32).solve
    assert torch.equal(solve(matrix, right), -solve(matrix, -right))
    assert torch.equal(solve(matrix, right), solve(matrix, right))
    assert not solve(matrix, torch.zeros_like(right)).any()


@pytest.mark.parametrize("voxel", [VOXEL, (1.0, 1.0, 1.0), (9.0, 0.4, 0.7)])
@pytest.mark.parametrize("points", [*POINTS, (3, 3, 3), (3, 1, 2), (2, 3, 37), (5, 6, 2), (7, 11, 20)])
def test_the_sweeps_of_bending_do_what_its_tensors_do(points, voxel):
    exact, swept = (made("bending", points, dtype, voxel) for dtype in (torch.float64, torch.float32))
    c = torch.randn(3, *points, generator=torch.Generator().manual_seed(1))
    expected = exact.pull(c.double())
    size = float(exact.own[:3].max())
    torch.testing.assert_close(swept.pull(c).double(), expected, atol=5e-6 * size, rtol=0)
    affine = free_motions("bending", points).float() / torch.tensor(voxel).reshape(3, 1, 1, 1)
    assert not any(swept.pull(motion).any() for motion in affine[:3])  # shifts: exactly nothing
    matrix, right = system(points)
    matrix[:3] += 1
    for turns in (1, 2, 4):  # with more, of a lattice of 2 x 2 x 2 nothing but rounding is left
        x, y = exact.solve(matrix, right, turns), swept.solve(matrix.float(), right.float(), turns)
        torch.testing.assert_close(y.double(), x, atol=2e-6 * float(x.abs().max()), rtol=0)


def wave(points, voxel, direction, length):
    """(3, 3, z, y, x) a wave packet across the lattice, once along each axis; um, without anything at the border."""
    edge = [v * s for v, s in zip(voxel, SAMPLES, strict=True)]
    along, envelope = 0.0, 1.0
    for axis, (n, h) in enumerate(zip(points, edge, strict=True)):
        i = torch.arange(n, dtype=torch.float64)
        shape = [-1 if a == axis else 1 for a in range(3)]
        along = along + (i * h * direction[axis]).reshape(shape)
        envelope = envelope * torch.sin(torch.pi * i / (n - 1)).square().reshape(shape)
    one = envelope * torch.sin(2 * torch.pi * along / length)
    return torch.stack([torch.stack([one if k == a else torch.zeros_like(one) for k in range(3)]) for a in range(3)])


@pytest.mark.parametrize("volume", [0.0, 1.0, 8.0])
@pytest.mark.parametrize("direction", [(1.0, 0.0, 0.0), (0.0, 0.6, 0.8), (0.48, 0.6, 0.64)])
def test_one_strength_is_one_stiffness_for_smooth_motion(direction, volume):
    """Of voxels that are and are not isotropic: mean over the directions of motion, against the membrane."""
    for voxel in ((2.0, 1.5, 1.2), (3.0, 1.5, 1.2)):  # edges of 6, 6, 6 and 9, 6, 6 um
        points = (24, 40, 36)
        length = (voxel[0] * 3 * 6 * 6) ** (1 / 3)
        unit = torch.tensor(voxel, dtype=torch.float64).reshape(3, 1, 1, 1)

        def energy(kind, wavelength, points=points, voxel=voxel, unit=unit):
            pull = made(kind, points, voxel=voxel, volume=volume).pull
            moves = wave(points, voxel, direction, wavelength) / unit
            return sum(float((c * pull(c)).sum()) for c in moves)

        long = 8 * length
        assert energy("elastic", long) / energy("membrane", long) == pytest.approx(1, abs=0.03)
        equal = 2 * torch.pi * length
        assert energy("bending", equal) / energy("membrane", equal) == pytest.approx(1, abs=0.15)
        assert energy("bending", 2 * equal) / energy("membrane", 2 * equal) < 0.45


def test_volume_and_shear_are_weighed_apart():
    points = (6, 6, 6)
    edge = torch.tensor([v * s for v, s in zip(VOXEL, SAMPLES, strict=True)], dtype=torch.float64).reshape(3, 1, 1, 1)
    place = torch.stack(torch.meshgrid(*[torch.arange(6, dtype=torch.float64)] * 3, indexing="ij")) * edge
    voxel = torch.tensor(VOXEL, dtype=torch.float64).reshape(3, 1, 1, 1)
    growth, shear = place / voxel, place.flip(0) * torch.tensor([1.0, 0, 1.0]).reshape(3, 1, 1, 1) / voxel

    def energies(volume):
        pull = made("elastic", points, volume=volume).pull
        return [float((c * pull(c)).sum()) / 2 for c in (growth, shear)]

    cells = 5**3
    for volume in (0.0, 1.0, 4.0):
        mu = 3 * STRENGTH / (4 + volume)
        # Growth by the identity: e = 1, 2 mu 3 + lambda 9, halved; shear: e_zx = e_xz = 1, 2 mu 2, halved.
        assert energies(volume) == pytest.approx([(3 + 4.5 * volume) * mu * cells, 2 * mu * cells], rel=1e-10)


def found(options, pair):
    options = {"iterations": 30, "regularisation": 0.1, "tolerance": 0.0, **options}
    return load_engine("optimise", options).estimate(pair)


@pytest.mark.parametrize("kind", KINDS)
def test_swapping_the_images_negates_the_velocity(kind):
    pair = patch_pair((5, 6, 7))
    there, back = found({"regulariser": kind}, pair), found({"regulariser": kind}, pair.swapped())
    assert float(there.coefficients.abs().max()) > 0.1
    torch.testing.assert_close(there.coefficients, -back.coefficients, atol=1e-4, rtol=0)
    assert torch.equal(there.coefficients, found({"regulariser": kind}, pair).coefficients)


def test_a_stiffer_regulariser_leaves_what_it_costs_nothing_for():
    """Changes of volume are fewer where they cost more, and second derivatives where bending does."""
    pair = patch_pair((5, 6, 7))
    samples = pair.lattice.samples

    def growth(volume):
        c = found({"regulariser": "elastic", "elastic_volume": volume}, pair).coefficients
        v = evaluate(c, samples)
        steps = [h / s for h, s in zip(pair.lattice.spacing, samples, strict=True)]
        return float(sum(torch.gradient(v[a], spacing=steps[a], dim=a)[0] for a in range(3)).square().mean())

    assert growth(50.0) < 0.8 * growth(0.0)

    def bent(kind):
        c = found({"regulariser": kind, "regularisation": 30.0}, pair).coefficients
        return float(torch.diff(c, n=2, dim=3).square().mean() / torch.diff(c, dim=3).square().mean())

    assert bent("bending") < 0.5 * bent("membrane")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"regulariser": "elastc"}, "'elastc' does not exist; there are membrane, elastic, bending"),
        ({"elastic_volume": 2.0}, "elastic_volume belongs to the regulariser elastic, and this is membrane"),
        ({"regulariser": "elastic", "elastic_volume": -1.0}, "elastic_volume -1.0 must be 0 or more"),
    ],
)
def test_what_is_not_an_option_is_told(options, said):
    with pytest.raises(ConfigError, match=said):
        load_engine("optimise", options)


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="there are membrane, elastic, bending"):
        made("spring", (4, 4, 4))
    assert isinstance(made("elastic", (4, 4, 4)), Elastic)
