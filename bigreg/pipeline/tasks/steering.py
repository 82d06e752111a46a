"""Pairs of landmarks that steer a registration.

Before a level each pair is followed to mid-space from both of its ends, m_f = e_fixed(p) and m_m = e_moving(q), as the
coarser levels have it. Where they differ the level's velocity ought to be v = (m_f - m_m) / 2 halfway between them,
since exp(v) moves each of them by it. The blend of the patches takes that in as one more proposal, of a window around
the pair and a weight of its own (see stitch.py), so it is bounded, verified and antisymmetric like the rest.

A pair's weight is `landmarks.weight` times
- how well the images agree with it: of two small patches around its ends, which it says are the same tissue, against
  the two at the middle, which the run says are;
- how well the other pairs do (see transforms/agreement.py);
- how much it has to say: two voxels of the level are left to the images, which know better.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch

from ... import storage
from ...config import Config
from ...errors import InputError
from ...geometry import Lattice, Shape
from ...transforms.affine import apply_affine
from ...transforms.agreement import agreement
from ...transforms.landmarks import LEAST_AFFINE, read_pairs, spans_volume
from ...transforms.maps import Field
from ...transforms.positions import Positions
from ..context.context import IMAGES, Context, field_reader
from ..context.images import looked_up
from ..context.ladder import LevelPlan
from ..context.outline import Outlined
from ..context.pairing import sought
from ..labels import label
from ..schedule.flow import ONE, Need, Stage
from ..store.store import RunStore, Status

PLACE = "landmarks/steering"
METRICS = ("used", "distance")
WINDOW_CELLS = 2.0
"""How far the window around a pair reaches, in cells of the level: as far as a cubic B-spline."""
SILENT_VOXELS = 2.0
"""Of the level: a pair whose ends are nearer leaves it to the images."""
PATCH, PATCH_WINDOW = 4, 2.0
"""Voxels of the level on each side of a pair that are compared, and the standard deviation of their weights: small, as
what a pair is to put right may be."""
DOUBT = 0.5
"""A pair whose patches are less than so much as alike (squared correlation) as those of the run loses weight."""
CHANCE = 0.05
"""Squared correlation of patches that have nothing to do with one another."""
MOST = 5000


def given_pairs(config: Config, volumes: dict[str, Any]) -> tuple[Config, np.ndarray | None]:
    """The pairs (N, 6) um, fixed and moving, that `landmarks.path` names, and the configuration with that absolute.

    None: there are none, or the run looks for them.

    Raises InputError where the file is missing or its points do not lie in the images.
    """
    if config.landmarks.path is None or sought(config):
        return config, None
    local = storage.local_path(config.landmarks.path)
    if local is None:
        raise InputError(f"landmarks '{config.landmarks.path}' are not on this machine; copy them here")
    found = read_pairs(local)
    if not 1 <= len(found[0]) <= MOST:
        raise InputError(f"landmarks '{local}' hold {len(found[0])} pairs; give 1 to {MOST}")
    for which, points in zip(IMAGES, found, strict=True):
        grid = volumes[which].grid()
        inside = grid.contains(points)
        if 2 * inside.sum() < len(points):
            low, high = grid.bounds(faces=True)
            raise InputError(
                f"landmarks '{local}': {len(points) - inside.sum()} of {len(points)} {which} points lie outside the "
                f"{which} image, from {low} to {high} µm; give them in µm of its world"
            )
        if config.landmarks.spline and not spans_volume(points):
            raise InputError(
                f"landmarks '{local}': a spline needs {LEAST_AFFINE} pairs that do not lie in one plane, the "
                f"{len(points)} {which} points do; add some, or leave landmarks.spline false"
            )
    config = config.model_copy(update={"landmarks": config.landmarks.model_copy(update={"path": str(local)})})
    return config, np.concatenate(found, axis=1)


def identity(pairs: np.ndarray | None) -> dict[str, Any] | None:
    """What a run remembers of its pairs, as JSON."""
    return None if pairs is None else {"pairs": len(pairs), "digest": hashlib.sha256(pairs.tobytes()).hexdigest()}


def keep(store: RunStore, pairs: np.ndarray) -> None:
    """Write the pairs into the run, which then needs the file no more."""
    store.groups("landmarks")
    storage.create_array(
        store.path(PLACE), shape=pairs.shape, dtype="float64", chunks=pairs.shape, exist_ok=True
    ).write((0, 0), pairs)


def create(context: Context, level: LevelPlan) -> None:
    """The array of a level: for each pair, place (um, mid-space), velocity (um), how far it is to be
    believed, and its weight."""
    if context.steered:
        context.store.groups(f"levels/{level.index}/landmarks")
        shape = (context.array(*PLACE.split("/")).shape[0], 8)
        url = context.store.path("levels", level.index, "landmarks", "pulls")
        storage.create_array(url, shape=shape, dtype="float32", chunks=shape, exist_ok=True)


def needs_of(level: LevelPlan, coarser: LevelPlan | None, coarser_stage: str | None) -> tuple[Need, ...]:
    """All maps of the level before."""
    if coarser is None or coarser_stage is None:
        return ()
    return (Need(coarser_stage, lambda index: ((0, 0, 0), coarser.blocks.counts)),)


def stage_name(level_index: int) -> str:
    return f"levels/{level_index}/landmarks"


def everywhere(level: LevelPlan) -> Need:
    """What the blend of every block needs."""
    return Need(stage_name(level.index), lambda index: ((0, 0, 0), ONE))


def stages(outline: Outlined, level: LevelPlan, coarser_stage: str | None) -> list[Stage]:
    """Landmarks: some points of both images a level, which is nothing beside its blocks; but all wait for it."""
    if not outline.steered:
        return []
    needs = needs_of(level, outline.levels.get(level.index + 1), coarser_stage)
    name, title = stage_name(level.index), label("landmarks", level=level.index)
    return [Stage(name, title, ONE, steer, (level.index,), METRICS, needs)]


def steer(context: Context, level_index: int, index: Shape) -> tuple[Status, dict[str, float]]:
    """Task: what all pairs ask of a level."""
    level = context.levels[level_index]
    pairs = context.array(*PLACE.split("/"))[...]
    voxel = float(np.mean(level.spacing))
    ends = [
        _in_mid_space(context, level, which, pairs[:, s]) for which, s in zip(IMAGES, (_FIXED, _MOVING), strict=True)
    ]
    apart = ends[0] - ends[1]
    middle = (ends[0] + ends[1]) / 2
    known = np.isfinite(apart).all(1)
    weights = np.zeros(len(pairs))
    seen = np.array([_seen(context, level, *each) for each in zip(middle[known], apart[known], strict=True)])
    noise = max(accuracy_um(context), voxel)
    weights[known] = agreement(middle[known], apart[known], noise, seen)
    distance = np.where(known, np.linalg.norm(np.where(known[:, None], apart, 0), axis=1), 0)
    silent = (distance / (SILENT_VOXELS * noise)) ** 4
    loud = context.config.landmarks.weight * weights * silent / (1 + silent)
    pulls = np.concatenate([middle, apart / 2, weights[:, None], loud[:, None]], axis=1)
    pulls[~known] = 0
    context.array("levels", level_index, "landmarks", "pulls", write=True).write((0, 0), pulls.astype(np.float32))
    used = weights > 0.5
    return Status.DONE, {
        "used": float(used.sum()),
        "distance": float(np.median(distance[used])) if used.any() else float("nan"),
    }


def accuracy_um(context: Context) -> float:
    """How exactly the ends of pairs are known: as given; of those that the run found, a voxel of where it looked."""
    given = context.config.landmarks.accuracy_um or 0.0
    return max(given, float(np.mean(context.pair_grid.spacing))) if sought(context.config) else given


_FIXED, _MOVING = slice(0, 3), slice(3, 6)


def _in_mid_space(context: Context, level: LevelPlan, which: str, points: np.ndarray) -> np.ndarray:
    """(N, 3) points of an image's world to mid-space through the inverse of its map so far; NaN where there is none."""
    target = apply_affine(context.frames.to_mid(which), points)
    coarser = context.half_map(level.index + 1, which)
    return target if coarser is None else before(target, Field(field_reader(coarser[0]), coarser[1]))


def before(target: np.ndarray, field: Field) -> np.ndarray:
    """(N, 3) points that a map takes to `target`; NaN where none is found."""
    found = target.copy()
    missed = target - field.points(found)[0]
    step = np.ones((len(found), 1))
    tolerance = 0.01 * min(field.grid.spacing)
    for _ in range(60):
        if np.abs(missed).max() < tolerance:
            break
        trial = found + step * missed
        left = target - field.points(trial)[0]
        better = (np.linalg.norm(left, axis=1) < np.linalg.norm(missed, axis=1))[:, None]
        found, missed = np.where(better, trial, found), np.where(better, left, missed)
        step = np.where(better, np.minimum(1.5 * step, 1.0), 0.5 * step)
    found[np.abs(missed).max(1) > 0.5 * min(field.grid.spacing)] = np.nan
    return found


def _seen(context: Context, level: LevelPlan, middle: np.ndarray, apart: np.ndarray) -> float:
    """How far the images agree with a pair, 0 .. 1."""
    as_paired = _likeness(context, level, middle + apart / 2, middle - apart / 2)
    as_now = _likeness(context, level, middle, middle)
    if as_paired is None or as_now is None:
        return 1.0
    return min(1.0, (as_paired + CHANCE) / (DOUBT * as_now + CHANCE)) ** 2


def _likeness(context: Context, level: LevelPlan, fixed: np.ndarray, moving: np.ndarray) -> float | None:
    """Squared correlation of the fixed image around one place of mid-space with the moving one around another.

    None where there is not enough of them.
    """
    values, inside = [], None
    line = np.arange(-PATCH, PATCH + 1)
    index = np.stack(np.meshgrid(line, line, line, indexing="ij"), -1).reshape(-1, 3)
    around = index * level.spacing
    window = torch.as_tensor(np.exp(-0.5 * (index / PATCH_WINDOW) ** 2).prod(1))
    for which, place in zip(IMAGES, (fixed, moving), strict=True):
        positions = context.half_way(Positions.of_points(place + around), level.index + 1, which)
        image = context.level_image(which, level)
        found, seen = looked_up(image, positions)
        here = positions.inside(image.grid) if seen is None else positions.inside(image.grid) & seen
        inside = here if inside is None else inside & here
        if 2 * int(inside.sum()) < inside.numel():
            return None
        values.append(context.compared(which, found)[0])
    assert inside is not None, "there are two images"
    window = window * inside
    window = window / window.sum()
    f, m = (v.double() - (window * v).sum() for v in values)
    # As in LNCC, what is but noise is alike to nothing.
    return float((window * f * m).sum() ** 2 / ((window * f * f).sum() * (window * m * m).sum() + NOISE**4))


NOISE = 0.02
"""Intensity SD (of images scaled to about 0 .. 1) that counts as no texture."""


class Pulls:
    """What the pairs ask of a level: `add` puts it to the sums of a blend."""

    def __init__(self, lattice: Lattice, pulls: np.ndarray) -> None:
        self.lattice = lattice
        self.pulls = pulls[pulls[:, 6] > 0].astype(float)  # of 8 columns, see `create`

    @classmethod
    def of(cls, context: Context, level: LevelPlan) -> Pulls | None:
        if not context.steered:
            return None
        return cls(level.lattice, context.array("levels", level.index, "landmarks", "pulls")[...])

    def add(self, total: torch.Tensor, weight: torch.Tensor, low: Shape, limit: torch.Tensor, bounded: Any) -> None:
        """Add the weighted velocity to `total` (3, z, y, x) and the weight to `weight`, of the points from `low` on.

        Where several pairs are near, their mean counts, also of those that agree with the images, with the weight of
        the loudest: many pairs of one place reach no further than one.

        limit, bounded   the largest coefficient and what bounds by it
        """
        spacing = np.asarray(self.lattice.spacing)
        mean, near, loudest = torch.zeros_like(total), torch.zeros_like(weight), torch.zeros_like(weight)
        cells = (self.pulls[:, :3] - self.lattice.origin) / spacing + 1.5 - low
        near_by = ((cells > -WINDOW_CELLS) & (cells < np.asarray(weight.shape) - 1 + WINDOW_CELLS)).all(1)
        # In the order of the file, so that sums are the same bits.
        for pull, cell in zip(self.pulls[near_by], cells[near_by], strict=True):
            z, y, x = (
                ((torch.arange(n, dtype=weight.dtype, device=weight.device) - c) / WINDOW_CELLS).square()
                for n, c in zip(weight.shape, cell.tolist(), strict=True)
            )
            window = (1 - (z[:, None, None] + y[:, None] + x)).clamp(min=0) ** 3
            velocity = bounded(torch.as_tensor(pull[3:6], device=weight.device).reshape(3, 1, 1, 1), limit)
            mean += float(pull[6]) * window * velocity
            near += float(pull[6]) * window
            loudest = torch.maximum(loudest, float(pull[7]) * window)
        total += loudest * mean / near.clamp(min=1e-12)
        weight += loudest
