"""Moving a landmark to where the images agree best: a search of its surroundings, refined below a voxel.

The surroundings of the fixed point, bent as the current transform bends them, are compared by normalised correlation
with those of the moving point at every shift of whole voxels; a parabola through the best one and its neighbours gives
the rest. Where the search is wide it begins on a coarser level of the moving image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage, signal

from bigreg.errors import InputError
from bigreg.volumes import Volume

RADIUS = 7
"""Voxels of the compared surroundings, of an axis whose spacing is the middle one."""
SEARCH = 6
"""Voxels to either side that are searched on one level, if the image has one that is coarse enough."""
MOST = 24
"""Voxels to either side that are searched at all."""
FLAT = 1e-6


@dataclass(frozen=True)
class Snapped:
    """`point` (3,) um in the moving world; correlation there, and `before` where the point was; `shift` um between."""

    point: np.ndarray
    correlation: float
    before: float
    shift: float


def snap(
    fixed: Volume,
    moving: Volume,
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
        spacing = np.asarray(moving.grid(index).spacing)
        search = np.maximum(np.ceil(reach / spacing - 1e-9), 1).astype(int)
        scores, corner = _scores(fixed, moving, index, np.asarray(point, float), place, back, search)
        best = np.unravel_index(int(np.argmax(scores)), scores.shape)
        if any(b in (0, n - 1) for b, n in zip(best, scores.shape, strict=True)):
            raise InputError(
                f"no local optimum within {within:g} um of {_say(start)} um: the best match lies at the border of the "
                "search; widen it, or place the point nearer"
            )
        grid = moving.grid(index)
        if index == level:
            before = _at(scores, grid.world_to_index(start[None])[0] - corner)
        best_score = float(scores[best])
        place = grid.index_to_world((corner + np.asarray(best) + _between(scores, best))[None])[0]
        # The next finer level has only to make up for this one's rounding.
        reach = 1.5 * float(spacing.max())
    return Snapped(place, best_score, before, float(np.linalg.norm(place - start)))


def _first_level(moving: Volume, within: float) -> int:
    """The finest level on which the search is short."""
    for index, level in enumerate(moving.levels):
        if within <= SEARCH * min(level.grid.spacing):
            return index
    last = len(moving.levels) - 1
    most = MOST * min(moving.grid(last).spacing)
    if within > most:
        raise InputError(f"a search of {within:g} um is too wide for this image; search within {most:g} um at most")
    return last


def _scores(
    fixed: Volume, moving: Volume, level: int, point: np.ndarray, place: np.ndarray, back: np.ndarray, search: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Correlation at each shift of voxels (-inf outside of the image), and the index of the first one's middle."""
    grid = moving.grid(level)
    spacing = np.asarray(grid.spacing)
    radius = np.maximum(np.round(RADIUS * np.median(spacing) / spacing), 2).astype(int)
    template = _bent(fixed, point, grid.affine[:3, :3], back, radius)
    template = template - template.mean()
    size = np.sqrt((template**2).sum())
    if not size > FLAT * max(1.0, np.abs(template).max()):
        raise InputError(f"nothing to hold on to: the fixed image is uniform around {_say(point)} um")
    middle = np.round(grid.world_to_index(place[None])[0]).astype(int)
    window = 2 * radius + 1
    first, last = middle - search - radius, middle + search + radius + 1
    begin, end = np.clip(first, 0, grid.shape), np.clip(last, 0, grid.shape)
    if (end - begin < window).any():
        raise InputError(f"{_say(place)} um is too near to the border of the moving image, or outside of it")
    box = moving.read(begin, end, level).astype(np.float64)
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


def _bent(fixed: Volume, point: np.ndarray, steps: np.ndarray, back: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """The surroundings of a fixed point, sampled at steps of the moving image's voxels taken back to the fixed one."""
    offsets = np.stack(np.meshgrid(*(np.arange(-r, r + 1) for r in radius), indexing="ij"))
    world = point + offsets.reshape(3, -1).T @ (back @ steps).T
    wanted = np.linalg.norm(back @ steps, axis=0).min()
    level = max((i for i, at in enumerate(fixed.levels) if min(at.grid.spacing) <= wanted * 1.01), default=0)
    grid = fixed.grid(level)
    index = grid.world_to_index(world)
    inside = np.mean(((index >= -0.5) & (index <= np.asarray(grid.shape) - 0.5)).all(1))
    if inside < 0.5:
        raise InputError(f"{_say(point)} um is too near to the border of the fixed image, or outside of it")
    begin = np.clip(np.floor(index.min(0)).astype(int) - 2, 0, np.asarray(grid.shape) - 1)
    end = np.clip(np.ceil(index.max(0)).astype(int) + 3, begin + 1, grid.shape)
    box = fixed.read(begin, end, level).astype(np.float64)
    values = ndimage.map_coordinates(box, (index - begin).T, order=3, mode="nearest")
    return values.reshape(offsets.shape[1:])


def _between(scores: np.ndarray, best: tuple[int, ...]) -> np.ndarray:
    """Where the parabola through the best score and its neighbours is highest, along each axis, in voxels."""
    out = np.zeros(3)
    for axis in range(3):
        low, high = (scores[tuple(b + s * (a == axis) for a, b in enumerate(best))] for s in (-1, 1))
        bend = low - 2 * scores[best] + high
        if np.isfinite(bend) and bend < 0:
            out[axis] = np.clip(0.5 * (low - high) / bend, -0.5, 0.5)
    return out


def _at(scores: np.ndarray, index: np.ndarray) -> float:
    index = np.round(index).astype(int)
    if (index < 0).any() or (index >= scores.shape).any():
        return float("nan")
    return float(scores[tuple(index)])


def _say(point: np.ndarray) -> str:
    return "(" + ", ".join(f"{v:.1f}" for v in point) + ")"
