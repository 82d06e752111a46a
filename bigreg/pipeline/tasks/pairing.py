"""Tasks: pairs of points that a run finds by itself, `landmarks.path: auto`, for the spline and the steering.

In each block of a coarse grid points with texture are matched, of either image in the other one (engines/keypoints.py).
The pairs of all blocks are brought together: of each cell the one that is least like any other place, and of these
those that agree with one another (transforms/agreement.py). A spline through them then brings the images nearer, and
they are looked for again where it is now less far: matches become right, since nothing is stretched any more, and
exact. What the last pass keeps steers the run as given pairs do. Where few agree in the first pass, the affine is
wrong or the images have no texture in common: then none are used, and the run says so.

Exchanging the images exchanges the ends of each pair.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from ... import storage
from ...config import Config
from ...engines.keypoints import keypoints, matches, texture
from ...errors import InputError
from ...geometry import Block, Shape, triple
from ...similarity.features import mind
from ...transforms.affine import apply_affine
from ...transforms.agreement import agreement
from ...transforms.landmarks import bigwarp_text, landmarks, spans_volume
from ...transforms.positions import Positions
from ..context.channels import IMAGES, Pair, pairs, side
from ..context.context import Context, field_reader
from ..context.images import LevelImage
from ..context.outline import Outlined
from ..context.pairing import FOUND_FILE, REACHES, PairGrid
from ..context.seen import SeenImage
from ..labels import label
from ..schedule.flow import ONE, Stage
from ..store.store import RunStore, Status
from . import steering
from .estimate import compared_at
from .spline import BELIEVED, Maps, create_maps, through

logger = logging.getLogger(__name__)

PASSES = len(REACHES)
FIND_METRICS = ("points", "matched")
KEEP_METRICS = ("found", "used", "distance", "largest")
NOISE = 0.02
"""Intensity SD (of images scaled to about 0 .. 1) that counts as no texture of the features."""
LEAST_PAIRS, LEAST_SHARE = 20, 0.6
"""Fewer pairs than that, or a smaller part of those found, that agree: none are used."""
EXACT = 0.7
STRICT: dict[str, Any] = {"strain": 0.1, "reach": 2.0, "cut": 3.0, "trend": True}
"""How pairs are judged that nobody has set: part of the noise that they have, and see `agreement`. What is usual for
given ones keeps matches that are wrong by many voxels (tests/benchmarks/RESULTS.md)."""
NEIGHBOURS, SPREAD = 6, 4.0
"""How far pairs may be from the median of those around them (median), of their noise. Measured: 0.6 to 1.3 where most
are right, 10 to 15 of images that have nothing in common."""
COLUMNS = 13


@dataclass(frozen=True, eq=False)
class Found:
    """N pairs; lengths in um, mid-space.

    here    (2, N, 3) the ends of fixed and of moving as the pass saw them
    ends    (2, N, 3) the same as the affine alone has them
    ratio   (N,) how like they are, over the next best place: 0 .. 1
    """

    here: np.ndarray
    ends: np.ndarray
    ratio: np.ndarray

    def rows(self) -> np.ndarray:
        """(N, COLUMNS)"""
        return np.concatenate([*self.here, *self.ends, self.ratio[:, None]], axis=1)

    @classmethod
    def of_rows(cls, rows: np.ndarray) -> Found:
        parts = np.moveaxis(rows[:, :12].reshape(-1, 4, 3), 1, 0)
        return cls(parts[:2], parts[2:], rows[:, 12])

    def only(self, use: np.ndarray) -> Found:
        return Found(self.here[:, use], self.ends[:, use], self.ratio[use])

    @property
    def middle(self) -> np.ndarray:
        return (self.here[0] + self.here[1]) / 2


def find_name(number: int) -> str:
    return f"landmarks/found/{number}"


def keep_name(number: int) -> str:
    return f"landmarks/kept/{number}"


def create(context: Context, number: int) -> None:
    """The arrays of a pass: what each block found, one chunk a block, NaN where there is no more; and the maps."""
    grid, store = context.pair_grid, context.store
    store.groups(find_name(number))
    store.groups(keep_name(number))
    storage.create_array(
        store.path(find_name(number), "pairs"), shape=(*grid.blocks[number].counts, slots(context, grid), COLUMNS),
        dtype="float64", chunks=(1, 1, 1, slots(context, grid), COLUMNS), fill_value=float("nan"), exist_ok=True,
    )  # fmt: skip
    if number < PASSES - 1:
        create_maps(store, keep_name(number), context.coarsest)


def slots(context: Outlined, grid: PairGrid) -> int:
    """Pairs that a block can find at the most: in each pair of channels as many."""
    return grid.slots * len(pairs(context.config))


def stages(grid: PairGrid, number: int) -> tuple[Stage, Stage]:
    """A block each, then all of them."""
    find_title, keep_title = (label(kind, number=number + 1) for kind in ("find pairs", "keep pairs"))
    return (
        Stage(find_name(number), find_title, grid.blocks[number].counts, find, (number,), FIND_METRICS),
        Stage(keep_name(number), keep_title, ONE, keep, (number,), KEEP_METRICS),
    )


def _image(context: Context, which: str) -> LevelImage | SeenImage:
    return context.seen(which, context.pooling(which, context.pair_grid.spacing))


def _moved(context: Context, number: int, which: str, places: Positions) -> Positions:
    """Places of mid-space as the spline of the pass before takes them to where the affine has `which`."""
    if number == 0:
        return places
    array = context.array(*keep_name(number - 1).split("/"), which)
    return places.moved(places.sample(field_reader(array), context.coarsest.lattice.grid))


def find(context: Context, number: int, index: Shape) -> tuple[Status, dict[str, float]]:
    """Task: the pairs of one block, from points of either image in its core, of every pair of channels."""
    grid = context.pair_grid
    found = [_found(context, number, grid.blocks[number][index], pair) for pair in context.pairs]
    rows = [part for parts, _ in found for part in parts]
    data = np.full((slots(context, grid), COLUMNS), np.nan)
    if rows:
        data[: sum(map(len, rows))] = np.concatenate(rows)
    array = context.array(*find_name(number).split("/"), "pairs", write=True)
    array.write((*index, 0, 0), data[None, None, None])
    looked = sum(number for _, number in found)
    return Status.DONE, {"points": float(looked), "matched": float(sum(map(len, rows)))}


def _found(context: Context, number: int, block: Block, pair: Pair) -> tuple[list[np.ndarray], int]:
    """What a block of a pass finds in one pair of channels, as rows; and how many points were looked for."""
    grid = context.pair_grid
    part = grid.lattice.part(block.halo_start, block.halo_stop).grid
    features, masks, responses = [], [], []
    for which in pair.images:
        here_places = _moved(context, number, side(which), Positions.of_grid(part))
        places = here_places.through(context.frames.mid_to(which))
        values, mask = compared_at(context, which, _image(context, which), places)
        responses.append(texture(values[0].numpy(), mask.numpy()))
        features.append(mind(values[0], mask, noise=NOISE).numpy())
        masks.append(mask.numpy())
    first = triple((a - h) * grid.cell for a, h in zip(block.start, block.halo_start, strict=True))
    rows, looked = [], 0
    for one in (0, 1):
        points = keypoints(responses[one], first, block.shape, grid.cell)
        looked += len(points)
        order = (one, 1 - one)
        found = matches(
            (features[order[0]], features[order[1]]), (masks[order[0]], masks[order[1]]), points, REACHES[number]
        )
        if not len(found.ratio):
            continue
        here = [part.index_to_world(found.points.astype(float)), part.index_to_world(found.found)]
        here = [here[i] for i in order]
        ends = [
            _moved(context, number, name, Positions.of_points(p)).points() for name, p in zip(IMAGES, here, strict=True)
        ]
        rows.append(Found(np.stack(here), np.stack(ends), found.ratio).rows())
    return rows, looked


def gathered(context: Context, number: int) -> Found:
    """What all blocks of a pass have found."""
    rows = context.array(*find_name(number).split("/"), "pairs")[...].reshape(-1, COLUMNS)
    return Found.of_rows(rows[np.isfinite(rows[:, 0])])


def thinned(found: Found, cell: np.ndarray) -> Found:
    """Of each cell (3,) um of the middles of pairs the one that is least like any other place, in the cells' order."""
    cells = np.floor(found.middle / cell).astype(np.int64)
    order = np.lexsort((*found.middle.T, found.ratio, *cells.T))
    _, kept = np.unique(cells[order], axis=0, return_index=True)
    return found.only(order[kept])


def agreeing(found: Found, noise: float) -> Found | None:
    """The pairs that agree with one another; None where they are too few to go by."""
    use = alike(found.middle, found.here[0] - found.here[1], noise)
    return found.only(use) if use is not None and spans_volume(found.ends[0][use]) else None


def alike(points: np.ndarray, moved: np.ndarray, noise: float) -> np.ndarray | None:
    """(N,) bool: which displacements (N, 3) at points (N, 3) agree; None where they are too few to go by."""
    if len(points) < LEAST_PAIRS:
        return None
    use = agreement(points, moved, EXACT * noise, **STRICT) > BELIEVED
    if use.sum() < max(LEAST_PAIRS, LEAST_SHARE * len(use)):
        return None
    # Where nothing agrees nothing is foretold, and then nothing contradicts either.
    near = cKDTree(points[use]).query(points[use], k=NEIGHBOURS + 1)[1][:, 1:]
    spread = np.linalg.norm(moved[use] - np.median(moved[use][near], axis=1), axis=1)
    return use if np.median(spread) <= SPREAD * noise else None


def keep(context: Context, number: int, index: Shape) -> tuple[Status, dict[str, float]]:
    """Task: of all pairs of a pass those that agree, and the maps through them; those of the last steer the run."""
    grid = context.pair_grid
    noise = max(steering.accuracy_um(context), float(np.mean(context.coarsest.spacing)))
    found = thinned(gathered(context, number), np.asarray(grid.lattice.spacing))
    kept, maps = splined(context, found, noise)
    if kept is None and number > 0:  # what the pass before kept was nearer to the truth
        found = thinned(gathered(context, number - 1), np.asarray(grid.lattice.spacing))
        kept, maps = splined(context, found, noise)
    if number < PASSES - 1:
        for which in IMAGES:
            values = np.zeros((3, *context.coarsest.lattice.grid.shape)) if maps is None else maps[which].numpy()
            context.array(*keep_name(number).split("/"), which, write=True).write((0, 0, 0, 0), values)
    else:
        storage.remove(context.store.path(*steering.PLACE.split("/")))  # what a task that was killed began to write
        if kept is not None:
            ends = worlds(context, kept.ends)
            steering.keep(context.store, ends)
            text = bigwarp_text(landmarks(ends[:, :3], ends[:, 3:]))
            storage.write_file(context.store.path("landmarks"), FOUND_FILE, text.encode())
    metrics = {"found": float(len(found.ratio)), "used": 0.0}
    if kept is not None:
        apart = np.linalg.norm(kept.ends[0] - kept.ends[1], axis=1)
        metrics |= {"used": float(len(apart)), "distance": float(np.median(apart)), "largest": float(apart.max())}
    return Status.DONE, metrics


def splined(context: Context, found: Found, noise: float) -> tuple[Found | None, Maps | None]:
    """The pairs that agree, and maps under which they meet; None where they do not carry a spline."""
    kept = agreeing(found, noise)
    if kept is None:
        return None, None
    try:
        maps, _, _ = through(list(kept.ends), context.coarsest, noise, context.config.guarantee.min_determinant)
    except InputError:  # no spline without folds leads through them, so they are wrong: `told` says that none are used
        return None, None
    return kept, maps


def worlds(context: Context, ends: np.ndarray) -> np.ndarray:
    """(N, 6) um, fixed and moving world, of the ends (2, N, 3) as the affine has them in mid-space."""
    return np.concatenate(
        [apply_affine(context.frames.mid_to(w), e) for w, e in zip(IMAGES, ends, strict=True)], axis=1
    )


def told(store: RunStore, config: Config) -> dict[str, object]:
    """What came of the last pass, for the run's attributes: `found`, `used`, `median_um`, `largest_um`, `line`."""
    array = {name: float(store.array(keep_name(PASSES - 1), "metrics", name)[0, 0, 0]) for name in KEEP_METRICS}
    found, used = int(array["found"]), int(array["used"])
    facts: dict[str, object] = {"found": found, "used": used}
    if not used:
        least = f"{LEAST_PAIRS} and {LEAST_SHARE:.0%} of them must agree"
        line = f"pairs of points: {found} found, too few of which agree ({least}); the run continues without them"
        return {**facts, "line": line}
    facts |= {"median_um": array["distance"], "largest_um": array["largest"]}
    role = "the run begins with a spline through them, and they guide" if config.landmarks.spline else "they guide"
    line = (
        f"pairs of points: {found} found, {used} agree; the affine leaves {array['distance']:.3g} µm between them "
        f"(median; at most {array['largest']:.3g} µm); {role} the levels"
    )
    return {**facts, "line": line}
