"""What pairs of landmarks say of a finished run, and what the run says of them.

The pairs are those of the run's last evaluation, and those that steered it. Pairs that contradict the images are read
in the other ways in which such files are mistaken: fixed and moving exchanged, indices of voxels for micrometres, x y z
for z y x. Where one of these brings them far nearer to the map, it is named.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np

from ...quality.evaluation import Evaluation
from ...quality.verdict import PairsOutcome
from ...transforms.affine import apply_affine
from ...transforms.maps import Affine, Field, Map
from ..context.context import Context, field_reader
from ..context.pairing import sought
from ..tasks import steering
from ..tasks.fields import field_grids

LEAST_PAIRS = 4
"""Fewer may fit another reading by chance."""
FAR_VOXELS = 3.0
"""Of the finest level: pairs nearer to the map than that (median) do not contradict it."""
FITS_BETTER = 3.0
"""By how much another reading has to be nearer."""
BELIEVED = 0.5
"""Weight from which on a pair that steers counts as one that images and neighbours agree with."""


def outcomes(context: Context, evaluation: Evaluation | None) -> tuple[PairsOutcome, ...]:
    """Of the pairs of an evaluation that the run has not seen, and of those that steered it."""
    found = []
    array, grid = context.array("transforms", "fixed_to_moving", "0"), field_grids(context, "fixed_to_moving")[0]
    through = Map((Field(field_reader(array), grid, context.frames.fixed), Affine(context.frames.affine)))
    if evaluation is not None and evaluation.landmarks:
        rows = evaluation.landmarks
        fixed, moving = (
            np.array([[row[f"{which}_{axis}"] for axis in "zyx"] for row in rows], float)
            for which in ("fixed", "moving")
        )
        held_out = np.array([not row["seen"] for row in rows])
        if held_out.any():
            found.append(outcome(context, through, fixed[held_out], moving[held_out]))
    if context.steered:
        pairs = context.array(*steering.PLACE.split("/"))[...]
        weights = context.array("levels", 0, "landmarks", "pulls")[...][:, 6]
        read = not sought(context.config)  # what the run has found itself nobody can have written down wrongly
        found.append(outcome(context, through, pairs[:, :3], pairs[:, 3:], weights, read=read))
    return tuple(found)


def outcome(
    context: Context,
    through: Map,
    fixed: np.ndarray,
    moving: np.ndarray,
    weights: np.ndarray | None = None,
    *,
    read: bool = True,
) -> PairsOutcome:
    """Of pairs (N, 3) each, um, and the map from fixed to moving.

    weights   (N,) 0 .. 1, of pairs that steered the run: how far they were believed
    read      whether they may have been read wrongly from a file
    """
    frames = context.frames
    voxel = float(np.mean(context.levels[0].spacing))
    before, affine = (
        np.linalg.norm(apply_affine(matrix, fixed) - moving, axis=1) for matrix in (frames.before, frames.affine)
    )
    after = distances(through, fixed, moving)
    known = np.isfinite(after)
    medians = [float(np.median(d[known])) if known.any() else float("nan") for d in (before, affine, after)]
    growth = (after - before)[known]
    sure = float(growth.std(ddof=1) / np.sqrt(len(growth))) if len(growth) > 1 else float("nan")
    name, nearer = None, float("nan")
    if read and len(fixed) >= LEAST_PAIRS and not medians[2] <= FAR_VOXELS * voxel:
        name, nearer = better_reading(context, through, fixed, moving, medians[2])
    doubted = np.zeros(len(fixed), bool) if weights is None else (weights < BELIEVED) & ~(after <= FAR_VOXELS * voxel)
    return PairsOutcome(
        pairs=len(fixed), own=weights is not None, voxel=voxel,
        before=medians[0], affine=medians[1], after=medians[2],
        grew=float(growth.mean()) if len(growth) else float("nan"), sure=sure, reading=name, reading_um=nearer,
        doubted=tuple(int(i) + 1 for i in np.flatnonzero(doubted)),
        doubted_um=float(np.nanmedian(after[doubted])) if (doubted & known).any() else float("nan"),
    )  # fmt: skip


def distances(through: Map, fixed: np.ndarray, moving: np.ndarray) -> np.ndarray:
    """(N,) um from where the map takes a fixed point to its partner; NaN for points outside of the fixed image."""
    return np.linalg.norm(through.points(fixed) - moving, axis=1)


def better_reading(
    context: Context, through: Map, fixed: np.ndarray, moving: np.ndarray, given: float
) -> tuple[str | None, float]:
    """The other reading of pairs that brings them nearest to the map, and its median distance; (None, NaN) where none
    is much nearer than `given` (um; NaN: none of them lies in the fixed image)."""
    best: tuple[str | None, float] = None, float("nan")
    for name, first, second in readings(context, fixed, moving):
        found = distances(through, first, second)
        if np.isfinite(found).mean() < 0.5:
            continue
        median = float(np.nanmedian(found))
        if not median >= given / FITS_BETTER and not median >= best[1]:
            best = name, median
    return best


def readings(context: Context, fixed: np.ndarray, moving: np.ndarray) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """(in words, fixed, moving) of every other way to read the pairs."""
    frames = context.frames
    for exchanged, voxels, reversed_ in product((False, True), repeat=3):
        ways = [
            *(["with fixed and moving exchanged"] if exchanged else []),
            *(["in voxels"] if voxels else []),
            *(["in the order x y z"] if reversed_ else []),
        ]
        if not ways:
            continue
        ends = (moving, fixed) if exchanged else (fixed, moving)
        if reversed_:
            ends = ends[0][:, ::-1], ends[1][:, ::-1]
        if voxels:
            ends = frames.fixed.index_to_world(ends[0]), frames.moving.index_to_world(ends[1])
        yield "read " + " and ".join(ways), *ends
