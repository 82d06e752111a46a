"""Task: half-way maps through pairs of landmarks, which a run can begin with in place of no motion.

Steering leaves a place between few pairs to the images; where these lie further off than an engine looks, a spline has
to bring them near. A thin-plate spline of displacements may fold, so what is interpolated is half the velocity that
each pair asks for, as in steering.py, on the lattice of the coarsest level: bounded there, exponentiated, composed and
verified as a level's is, and again for what is left, until the pairs meet. Pairs that contradict the others are left
out (see transforms/agreement.py); the images are not asked, as they are not where the pairs say yet.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy.interpolate import RBFInterpolator
from scipy.spatial import cKDTree

from ... import storage
from ...errors import InputError
from ...geometry import Grid, Shape
from ...transforms.affine import apply_affine
from ...transforms.agreement import STRAIN, agreement
from ...transforms.bspline import BOUND_CELLS, evaluate, soft_bound
from ...transforms.field import exponential, min_determinant
from ...transforms.landmarks import LEAST_AFFINE, spans_volume
from ...transforms.maps import Field
from ...transforms.positions import Positions
from ..context.context import IMAGES, Context
from ..context.given import PLACE
from ..context.ladder import LevelPlan
from ..labels import label
from ..schedule.flow import ONE, Stage
from ..store.store import RunStore, Status
from . import compose, steering

METRICS = ("used", "distance")
PASSES = 40
"""Most velocities that are composed; a bounded one takes the images of a pair 1.6 cells nearer at most."""
BELIEVED = 0.1
"""Weight from which on a pair counts."""
HALVINGS = 3

Maps = dict[str, torch.Tensor]


def create_maps(store: RunStore, place: str, level: LevelPlan) -> None:
    """Arrays for the maps below `place`, sampled as those of the coarsest level; one chunk each, which is small."""
    store.groups(place)
    for which in IMAGES:
        shape = (3, *level.lattice.grid.shape)
        storage.create_array(
            store.path(place, which), shape=shape, dtype="float32", chunks=shape,
            dimension_names=("c", "z", "y", "x"), exist_ok=True,
        )  # fmt: skip


def stage() -> Stage:
    return Stage("stages/start", label("spline"), ONE, begin, metrics=METRICS)


def begin(context: Context, index: Shape) -> tuple[Status, dict[str, float]]:
    """Compute and store both maps. Raises InputError where too few pairs agree with one another."""
    level = context.coarsest
    pairs = context.array(*steering.PLACE.split("/"))[...]
    targets = [
        apply_affine(context.frames.to_mid(which), pairs[:, own])
        for which, own in zip(IMAGES, (slice(0, 3), slice(3, 6)), strict=True)
    ]
    noise = max(steering.accuracy_um(context), float(np.mean(level.spacing)))
    maps, used, distance = through(targets, level, noise, context.config.guarantee.min_determinant)
    for which in IMAGES:
        context.array(PLACE, which, write=True).write((0, 0, 0, 0), maps[which].numpy())
    return Status.DONE, {"used": float(used), "distance": distance}


def through(targets: list[np.ndarray], level: LevelPlan, noise: float, floor: float) -> tuple[Maps, int, float]:
    """Both maps (um, mid-space) under which the pairs `targets` meet; how many are used, and their median distance, um.

    targets   [(N, 3), (N, 3)] um, the ends of each pair in mid-space as the affine has it: of fixed and of moving
    noise     um, accuracy of the ends
    floor     least determinant of the maps
    """
    grid = level.lattice.grid
    maps: Maps = {which: torch.zeros(3, *grid.shape) for which in IMAGES}
    use = believed(targets, noise)
    at = _control_points(level)
    limit = torch.as_tensor(BOUND_CELLS * np.asarray(level.lattice.spacing)).reshape(3, 1, 1, 1)
    left = float("inf")
    for _ in range(PASSES):
        ends = [steering.before(points[use], _field(maps[w], grid)) for w, points in zip(IMAGES, targets, strict=True)]
        known = np.isfinite(ends[0] + ends[1]).all(1)
        apart, middle = (ends[0] - ends[1])[known], ((ends[0] + ends[1]) / 2)[known]
        distance = float(np.sqrt((apart**2).sum(1).mean())) if len(apart) else 0.0
        if distance < 0.5 * noise or distance > 0.95 * left or not spans_volume(middle):
            break
        left = distance
        asked = thin_plate(middle, apart / 2, noise)(at).T.reshape(3, *level.lattice.points)
        velocity = soft_bound(torch.from_numpy(asked), limit)
        found = _composed(maps, velocity, level, floor)
        if found is None:
            break
        maps = found
    ends = [steering.before(points[use], _field(maps[w], grid)) for w, points in zip(IMAGES, targets, strict=True)]
    return maps, int(use.sum()), float(np.nanmedian(np.linalg.norm(ends[0] - ends[1], axis=1)))


def believed(targets: list[np.ndarray], noise: float) -> np.ndarray:
    """(N,) bool: the pairs that agree. Raises InputError where they are too few, or in a plane."""
    weights = agreement((targets[0] + targets[1]) / 2, targets[0] - targets[1], noise)
    use = weights > BELIEVED
    if use.sum() < LEAST_AFFINE or not spans_volume(targets[0][use]):
        raise InputError(
            f"{int(use.sum())} of {len(use)} pairs of landmarks agree with one another; a spline through them needs "
            f"{LEAST_AFFINE} that do not lie in one plane: add some, or leave landmarks.spline false"
        )
    return use


def thin_plate(points: np.ndarray, values: np.ndarray, noise: float) -> Callable[[np.ndarray], np.ndarray]:
    """The smoothing thin-plate spline of values (N, 3) um at points (N, 3) um; `noise`: their accuracy, um.

    It is smoothed by what noise is beside how much tissue moves from one point to the next (see agreement.py).
    """
    places, which = np.unique(points, axis=0, return_inverse=True)
    which = which.ravel()  # one version of numpy gives it another axis
    count = np.bincount(which)
    mean = np.stack([np.bincount(which, v) / count for v in values.T], axis=1)
    length = float(np.median(cKDTree(places).query(places, k=2)[0][:, 1]))
    found = RBFInterpolator(places / length, mean, smoothing=(noise / (STRAIN * length)) ** 2 / count)
    return lambda at: found(at / length)


def _control_points(level: LevelPlan) -> np.ndarray:
    lattice = level.lattice
    axes = [
        o + (np.arange(n) - 1.5) * s for o, n, s in zip(lattice.origin, lattice.points, lattice.spacing, strict=True)
    ]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)


def _field(values: torch.Tensor, grid: Grid) -> Field:
    array = values.numpy()
    return Field(lambda a, b: array[(slice(None), *map(slice, a, b))], grid)


def _composed(maps: Maps, velocity: torch.Tensor, level: LevelPlan, floor: float) -> Maps | None:
    """The maps with a velocity composed onto them, or less of it where the whole does not pass; None: nor that."""
    lattice, grid = level.lattice, level.lattice.grid
    spacing = np.divide(lattice.spacing, lattice.samples)
    for halving in range(HALVINGS + 1):
        field = evaluate(velocity.float() * 0.5**halving, lattice.samples)
        found = {}
        for which, sign in compose.SIGNS.items():
            own = exponential(sign * field, spacing, compose.squarings_of(level))
            moved = Positions.of_grid(grid).moved(own)
            found[which] = own + moved.sample(_field(maps[which], grid).read, grid)
        if all(float(min_determinant(m, grid.spacing).min()) >= floor for m in found.values()):
            return found
    return None
