"""The laws that an engine has to keep, each checked on a pair of patches with a smooth motion between them."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ..engines.base import Engine, PatchPair, VelocityPatch, estimate_antisymmetric
from ..geometry import Lattice
from ..transforms.bspline import BOUND_CELLS


def patch_pair(
    cells: tuple[int, int, int] = (5, 6, 7), *, samples: int = 4, seed: int = 0, level: int = 1, holes: bool = False
) -> PatchPair:
    """A patch of `cells` (z, y, x) lattice cells of `samples` voxels, 2 x 1.5 x 1.5 um; moving is shifted by a voxel.

    holes   whether the mask of fixed has holes
    """
    lattice = Lattice(cells, (2.0 * samples, 1.5 * samples, 1.5 * samples), (0.0, 0.0, 0.0), (samples,) * 3)
    shape = tuple(n * samples for n in cells)
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 1, *(n // 2 + 2 for n in shape), generator=generator)
    image = F.interpolate(coarse, size=[n + 2 for n in shape], mode="trilinear")[0]
    fixed = image[:, 1:-1, 1:-1, 1:-1].contiguous()
    moving = image[:, 2:, 1:-1, :-2].contiguous() ** 1.2
    one = torch.ones(shape)
    mask = (torch.rand(shape, generator=generator) > 0.02).float() if holes else one
    return PatchPair(fixed, moving, mask, one, lattice, level)


def check_engine(engine: Engine, pair: PatchPair | None = None, *, tolerance: float = 1e-4) -> VelocityPatch:
    """Check every law below on a pair (None: `patch_pair()`); returns what the engine found.

    tolerance   lattice cells by which the velocity of the exchanged pair may differ from the negative

    Raises AssertionError that names the law that is broken and by how much.
    """
    pair = patch_pair() if pair is None else pair
    found = check_bounds(engine, pair)
    check_same_bits(engine, pair)
    check_antisymmetry(engine, pair, tolerance)
    return found


def check_bounds(engine: Engine, pair: PatchPair) -> VelocityPatch:
    """One control point per lattice point, finite, no longer than the bound that keeps a patch invertible."""
    found = estimate_antisymmetric(engine, pair)
    wanted = (3, *pair.lattice.points)
    assert tuple(found.coefficients.shape) == wanted, f"control points {tuple(found.coefficients.shape)}, not {wanted}"
    assert bool(torch.isfinite(found.coefficients).all()), "a control point is not finite"
    assert bool((found.confidence >= 0).all()), "a confidence is negative"
    longest = float(in_cells(found, pair).abs().max())
    assert longest <= BOUND_CELLS + 1e-5, f"a control point moves {longest:.3f} cells, the bound is {BOUND_CELLS}"
    return found


def check_same_bits(engine: Engine, pair: PatchPair) -> None:
    """The same pair gives bit-identical results: a run may compute a block again."""
    a, b = (engine.estimate(pair) for _ in range(2))
    same = torch.equal(a.coefficients, b.coefficients) and torch.equal(a.confidence, b.confidence)
    assert same, "the same pair gives other bits each time"


def check_antisymmetry(engine: Engine, pair: PatchPair, tolerance: float = 1e-4) -> None:
    """The exchanged pair has the negative velocity, by the engine itself where it says so (`antisymmetric`)."""
    there, back = (estimate_antisymmetric(engine, p) for p in (pair, pair.swapped()))
    off = float((in_cells(there, pair) + in_cells(back, pair)).abs().max())
    assert off <= tolerance, f"the exchanged pair differs from the negative by {off:.3g} cells, allowed is {tolerance}"


def in_cells(patch: VelocityPatch, pair: PatchPair) -> torch.Tensor:
    """(3, z, y, x) control points in lattice cells."""
    spacing = torch.as_tensor(pair.lattice.spacing, dtype=patch.coefficients.dtype, device=patch.coefficients.device)
    return patch.coefficients / spacing.reshape(3, 1, 1, 1)
