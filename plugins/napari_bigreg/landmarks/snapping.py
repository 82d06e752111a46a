"""Moving a landmark to where the images agree best: a search of its surroundings, refined below a voxel.

The surroundings of the fixed point, bent as the current transform bends them, are compared by normalised correlation
with those of the moving point at every shift of whole voxels; a parabola through the best one and its neighbours gives
the rest. Where the search is wide it begins on a coarser level of the moving image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage, signal

from bigreg.errors import InputError
from bigreg.geometry import Shape, triple
from bigreg.pipeline.looking.pyramids import Samples

RADIUS = 7
"""Voxels of the compared surroundings, of an axis whose spacing is the middle one."""
SEARCH = 6
"""Voxels to either side that are searched on one level, if the image has one that is coarse enough."""
MOST = 24
"""Voxels to either side that are searched at all."""
FLAT = 1e-6


Levels = Sequence[Samples]
"""An image at several resolutions, finest first."""


@dataclass(frozen=True)
class Snapped:
    """`point` (3,) um in the moving world; correlation there, and `before` where the point was; `shift` um between."""

    point: np.ndarray
    correlation: float
    before: float
    shift: float


def snap(
    fixed: Levels,
    moving: Levels,
    point: np.ndarray,
    start: np.ndarray,
    *,
    derivative: np.ndarray | None = None,
    within: float = 15.0,
) -> Snapped:
    """The place near `start` (moving world) whose surroundings look most like those of `point` (fixed world), um.

    derivative   3 x 3 of the map from fixed to moving at the point; None: the images lie alike
    within       um to either side
    Raises InputError where nothing is to be compared, or nothing fits within the search.
    """
    start = np.asarray(start, dtype=float)
    back = np.eye(3) if derivative is None else np.linalg.inv(derivative)
    level = _first_level(moving, within)
    place, reach, before, best_score = start, within, float("nan"), float("nan")
    for index in range(level, -1, -1):
        spacing = np.asarray(moving[index].grid.spacing)
        search = np.maximum(np.ceil(reach / spacing - 1e-9), 1).astype(int)
        scores, corner = _scores(fixed, moving, index, np.asarray(point, float), place, back, search)
        best = np.unravel_index(int(np.argmax(scores)), scores.shape)
        if any(b in (0, n - 1) for b, n in zip(best, scores.shape, strict=True)):
            raise InputError(
                f"no local optimum within {within:g} µm of {_say(start)} µm: the best match is at the border of the "
                "search; widen it, or place the point nearer"
            )
        grid = moving[index].grid
        if index == level:
            before = _at(scores, grid.world_to_index(start[None])[0] - corner)
        best_score = float(scores[best])
        place = grid.index_to_world((corner + np.asarray(best) + _between(scores, tuple(map(int, best))))[None])[0]
        if index == 0:
            # A paraboloid is best trusted at its top: the surroundings are sampled anew, so that it lies on a voxel.
            for _ in range(2):
                part = grid.world_to_index(place[None])[0]
                part -= np.round(part)
                scores, corner = _scores(fixed, moving, 0, np.asarray(point, float), place, back, np.full(3, 1), part)
                place = grid.index_to_world((corner + 1 + part + _between(scores, (1, 1, 1)))[None])[0]
        # The next finer level has only to make up for this one's rounding.
        reach = 1.5 * float(spacing.max())
    return Snapped(place, best_score, before, float(np.linalg.norm(place - start)))


def _first_level(moving: Levels, within: float) -> int:
    """The finest level on which the search is short."""
    for index, level in enumerate(moving):
        if within <= SEARCH * min(level.grid.spacing):
            return index
    last = len(moving) - 1
    most = MOST * min(moving[last].grid.spacing)
    if within > most:
        raise InputError(f"a search of {within:g} µm is too wide for this image; search within {most:g} µm at most")
    return last


def _scores(
    fixed: Levels,
    moving: Levels,
    level: int,
    point: np.ndarray,
    place: np.ndarray,
    back: np.ndarray,
    search: np.ndarray,
    part: np.ndarray | float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Correlation at each shift of voxels (-inf outside of the image), and the index of the first one's middle.

    part   voxels: where between the moving image's voxels the point's surroundings are laid
    """
    grid = moving[level].grid
    spacing = np.asarray(grid.spacing)
    radius = np.maximum(np.round(RADIUS * np.median(spacing) / spacing), 2).astype(int)
    template = _bent(fixed, point, grid.affine[:3, :3], back, radius, part)
    template = template - template.mean()
    size = np.sqrt((template**2).sum())
    if not size > FLAT * max(1.0, np.abs(template).max()):
        raise InputError(f"cannot snap: the fixed image is uniform around {_say(point)} µm")
    middle = np.round(grid.world_to_index(place[None])[0]).astype(int)
    window = 2 * radius + 1
    first, last = middle - search - radius, middle + search + radius + 1
    begin, end = np.clip(first, 0, grid.shape), np.clip(last, 0, grid.shape)
    if (end - begin < window).any():
        raise InputError(f"{_say(place)} µm is too close to the border of the moving image, or outside of it")
    box = moving[level].read(_box(begin), _box(end)).astype(np.float64)
    box -= box.mean()
    product = signal.correlate(box, template, mode="valid", method="fft")
    inner = tuple(slice(r, n - r) for r, n in zip(radius, box.shape, strict=True))
    mean, square = (ndimage.uniform_filter(v, window, mode="nearest")[inner] for v in (box, box**2))
    spread = np.sqrt(np.maximum(square - mean**2, 0) * window.prod())
    valid = np.where(spread > FLAT * spread.max(), product / np.maximum(spread * size, 1e-300), 0.0)
    scores = np.full(tuple(2 * search + 1), -np.inf)
    offset = begin - first
    scores[tuple(slice(o, o + n) for o, n in zip(offset, valid.shape, strict=True))] = valid
    return scores, middle - search


def _bent(
    fixed: Levels, point: np.ndarray, steps: np.ndarray, back: np.ndarray, radius: np.ndarray, part: np.ndarray | float
) -> np.ndarray:
    """The surroundings of a fixed point, sampled at steps of the moving image's voxels taken back to the fixed one."""
    offsets = np.stack(np.meshgrid(*(np.arange(-r, r + 1) for r in radius), indexing="ij"))
    world = point + (offsets.reshape(3, -1).T - part) @ (back @ steps).T
    wanted = np.linalg.norm(back @ steps, axis=0).min()
    level = max((i for i, at in enumerate(fixed) if min(at.grid.spacing) <= wanted * 1.01), default=0)
    grid = fixed[level].grid
    index = grid.world_to_index(world)
    inside = np.mean(((index >= -0.5) & (index <= np.asarray(grid.shape) - 0.5)).all(1))
    if inside < 0.5:
        raise InputError(f"{_say(point)} µm is too close to the border of the fixed image, or outside of it")
    begin = np.clip(np.floor(index.min(0)).astype(int) - 2, 0, np.asarray(grid.shape) - 1)
    end = np.clip(np.ceil(index.max(0)).astype(int) + 3, begin + 1, grid.shape)
    box = fixed[level].read(_box(begin), _box(end)).astype(np.float64)
    values = ndimage.map_coordinates(box, (index - begin).T, order=3, mode="nearest")
    return values.reshape(offsets.shape[1:])


def _between(scores: np.ndarray, best: tuple[int, ...]) -> np.ndarray:
    """Where the paraboloid through the best score and its neighbours is highest, in voxels, at most one away."""
    around = scores[tuple(slice(b - 1, b + 2) for b in best)]
    if around.shape != (3, 3, 3) or not np.isfinite(around).all():
        return np.zeros(3)
    slope, bend = np.zeros(3), np.zeros((3, 3))
    for i in range(3):
        line = np.moveaxis(around, i, 0)[:, 1, 1]
        slope[i], bend[i, i] = (line[2] - line[0]) / 2, line[0] - 2 * line[1] + line[2]
        for j in range(i):
            plane = np.moveaxis(around, (i, j), (0, 1))[:, :, 1]
            bend[i, j] = bend[j, i] = (plane[2, 2] - plane[2, 0] - plane[0, 2] + plane[0, 0]) / 4
    if np.linalg.eigvalsh(bend).max() >= 0:  # a ridge: each axis by itself
        bend = np.diag(np.minimum(np.diag(bend), -1e-12))
    return np.clip(np.linalg.solve(bend, -slope), -1, 1)


def _at(scores: np.ndarray, index: np.ndarray) -> float:
    index = np.round(index).astype(int)
    if (index < 0).any() or (index >= scores.shape).any():
        return float("nan")
    return float(scores[tuple(index)])


def _box(index: np.ndarray) -> Shape:
    return triple(int(i) for i in index)


def _say(point: np.ndarray) -> str:
    return "(" + ", ".join(f"{v:.1f}" for v in point) + ")"
