"""Task: how alike the images are before registration, after the affine, and after all.

All three are measured on the same voxels at one resolution, small enough for one task whatever the size of the run,
and on the images as engines see them. What lies outside an image or a mask does not count. Both images are smoothed a
little (normalised convolution within those voxels), so that noise of the camera, and its absence where an image was
interpolated, weigh less than structure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from ... import storage
from ...geometry import Grid, Shape, triple
from ...quality.metrics import CorrelationSummary, JointHistogram, local_correlation
from ...quality.verdict import Agreement
from ...transforms.positions import Positions
from ..context.channels import IMAGES, Pair, side
from ..context.context import Context
from ..context.ladder import pooling
from ..context.outline import Outlined
from ..labels import label
from ..schedule.flow import ONE, Stage
from ..store.store import Status
from ..tasks.fields import follow
from . import confidence

PLACE = "likeness"
CHANNELS = "channels"
"""Where that group keeps what is measured of each, where there are several."""
STAGE = "stages/likeness"
DISPLAY_VOXELS = 6_000_000
"""Of each volume that is measured or shown by one task, whatever the size of the run."""
STATES = ("before", "affine", "after")
SMOOTHING = 1.0
"""Voxels, standard deviation."""
RADIUS = 4
TILE = 8
"""Voxels along an axis of a tile, over which the noise of a mean is estimated."""
SLAB = 32
"""Planes that are resampled or compared at once; a multiple of TILE."""
LEAST_SHARE = 0.5
"""Of the voxels known after registration, that must be known before it too; else before is not measured."""


def display_levels(outline: Outlined) -> dict[str, Shape]:
    """Which block means of each image are measured and shown: the finest level of at most DISPLAY_VOXELS."""
    for index in sorted(outline.levels):
        factors = {w: pooling(outline.frames, w, np.asarray(outline.levels[index].spacing)) for w in IMAGES}
        if outline.frames.fixed.downsampled(factors["fixed"]).voxels <= DISPLAY_VOXELS:
            return factors
    return factors


def display_grid(context: Context) -> Grid:
    return context.image("fixed", display_levels(context)["fixed"]).grid


def stage() -> Stage:
    return Stage(STAGE, label("likeness"), ONE, measure)


@dataclass(frozen=True, eq=False)
class Views:
    """Both images on one grid of the fixed frame, float32 (z, y, x): `fixed`, and `moving` by state.

    inside   by state, bool: where the moving image reaches
    counts   by state, bool: and neither image's mask leaves it out
    """

    grid: Grid
    fixed: np.ndarray
    moving: dict[str, np.ndarray]
    inside: dict[str, np.ndarray]
    counts: dict[str, np.ndarray]


def views(context: Context, *, seen: bool = False, names: tuple[str, str] = IMAGES) -> Views:
    """The images at display_levels; 0 where moving does not reach. `seen`: as engines compare them, else as stored.

    names   of the two images, where they are other channels
    """
    factors = display_levels(context)
    fixed, moving = ((context.seen if seen else context.image)(name, factors[side(name)]) for name in names)
    grid, frames = fixed.grid, context.frames
    tissue = {which: context.mask(name) for which, name in zip(IMAGES, names, strict=True)}
    named = dict(zip(IMAGES, names, strict=True))

    def value(which: str, values: torch.Tensor) -> torch.Tensor:
        return context.compared(named[which], values) if seen else values

    target = np.empty(grid.shape, np.float32)
    images = {state: np.zeros(grid.shape, np.float32) for state in STATES}
    inside = {state: np.zeros(grid.shape, bool) for state in STATES}
    counts = {state: np.zeros(grid.shape, bool) for state in STATES}
    for part in slabs(grid.shape):
        low, high = (part.start, 0, 0), (part.stop, *grid.shape[1:])
        here = Positions.of_grid(grid.cropped(low, high))
        target[part] = value("fixed", torch.as_tensor(fixed.read(low, high).astype(np.float32))).numpy()
        own = None if tissue["fixed"] is None else tissue["fixed"].at(here)
        places = {
            "before": here.through(frames.before),
            "affine": here.through(frames.affine),
            "after": follow(context, here, "fixed_to_moving"),
        }
        for state, there in places.items():
            known = there.inside(frames.moving)
            inside[state][part] = known.numpy()
            if not bool(known.any()):
                continue
            found = value("moving", there.sample(moving.read, moving.grid)[0])
            images[state][part] = torch.where(known, found, 0).numpy()
            if own is not None:
                known = known & own
            if tissue["moving"] is not None:
                known = known & tissue["moving"].at(there)
            counts[state][part] = known.numpy()
    return Views(grid, target, images, inside, counts)


def slabs(shape: Shape) -> list[slice]:
    """Planes that are worked on at once: whole tiles."""
    return [slice(start, min(start + SLAB, shape[0])) for start in range(0, shape[0], SLAB)]


def agreement_of(shown: Views, *, signed: bool) -> Agreement:
    """See `Agreement`; `signed`: whether bright goes with bright."""
    both = shown.counts["affine"] & shown.counts["after"]
    known = both & shown.counts["before"]
    states: tuple[str, ...] = STATES
    if known.sum() < LEAST_SHARE * both.sum() or not known.any():
        known, states = both, STATES[1:]
    if not known.any():
        return Agreement(signed=signed)
    fixed = smoothed(shown.fixed, known)
    texture = 0.25 * float(fixed[known].std())
    nan = float("nan")
    found: dict[str, dict[str, float]] = {name: dict.fromkeys(STATES, nan) for name in ("ncc", "local", "mi")}
    tiles: dict[str, np.ndarray] = {}
    weight = np.zeros(0)
    for state in states:
        moving = smoothed(shown.moving[state], known)
        whole, joint, sums, numbers = CorrelationSummary(), JointHistogram(), [], []
        for part in slabs(fixed.shape):
            a, b = fixed[part][known[part]], moving[part][known[part]]
            whole += CorrelationSummary.of(a, b)
            joint += JointHistogram.of(np.zeros(a.shape, np.int64), a, b)
            local = _local(fixed, moving, known, part, texture)
            textured = np.isfinite(local)
            sums.append(tile_sums(np.where(textured, local if signed else np.abs(local), 0.0)))
            numbers.append(tile_sums(textured.astype(float)))
        found["ncc"][state], found["mi"][state] = float(whole.ncc), float(joint.information[0])
        weight, tiles[state] = np.concatenate(numbers), np.concatenate(sums)
        if weight.any():
            found["local"][state] = float(tiles[state].sum() / weight.sum())
    noise = [error_of_mean(tiles["after"] - tiles[s], weight) if s in tiles else nan for s in STATES[:2]]
    return Agreement(
        **{name: triple(values.values()) for name, values in found.items()}, noise=(noise[0], noise[1]), signed=signed
    )


def _local(fixed: np.ndarray, moving: np.ndarray, known: np.ndarray, part: slice, texture: float) -> np.ndarray:
    """`local_correlation` of some planes."""
    around = slice(max(part.start - RADIUS, 0), part.stop + RADIUS)
    values = np.asarray(local_correlation(fixed[around], moving[around], known[around], RADIUS, texture))
    return values[part.start - around.start : part.stop - around.start]


def smoothed(image: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The image smoothed within `known`; 0 elsewhere."""
    kernel = {"sigma": SMOOTHING, "truncate": 3.0, "mode": "constant"}
    weight = ndimage.gaussian_filter(known.astype(np.float32), **kernel)
    total = ndimage.gaussian_filter(np.where(known, image, 0).astype(np.float32), **kernel)
    return np.where(known, total / np.maximum(weight, 1e-6), 0).astype(np.float32)


def tile_sums(values: np.ndarray) -> np.ndarray:
    """(tiles,) sums over cubes of TILE voxels; those at the far sides may be smaller."""
    for axis in range(3):
        values = np.add.reduceat(values, np.arange(0, values.shape[axis], TILE), axis=axis)
    return values.ravel()


def error_of_mean(sums: np.ndarray, counts: np.ndarray) -> float:
    """Standard error of sums.sum() / counts.sum(), by the scatter of independent parts; NaN for fewer than two."""
    used = counts > 0
    n, total = int(used.sum()), counts.sum()
    if n < 2:
        return float("nan")
    rest = sums[used] - counts[used] * sums.sum() / total
    return float(np.sqrt(n / (n - 1) * (rest**2).sum()) / total)


def measure(context: Context, index: Shape) -> tuple[Status, dict[str, float]]:
    """Measure and store it in the group `likeness` of the run: as one, and where there are several, of each channel."""
    found = [_of_channel(context, pair) for pair in context.pairs]
    kept = as_one(found, [pair.weight for pair in context.pairs]).to_json()
    if len(found) > 1:
        kept[CHANNELS] = [one.to_json() for one in found]
    storage.create_group(context.store.path(PLACE), {"bigreg": kept}, exist_ok=True)
    return Status.DONE, {}


def _of_channel(context: Context, pair: Pair) -> Agreement:
    signed = confidence.same_contrast(context, pair)
    return agreement_of(views(context, seen=True, names=pair.images), signed=signed)


def as_one(found: Sequence[Agreement], weights: Sequence[float]) -> Agreement:
    """The mean over channels; where bright need not go with bright in one, it is of size alone."""
    if len(found) == 1:
        return found[0]
    share = np.asarray(weights) / np.sum(weights)
    signed = all(one.signed for one in found)

    def mean(values: Sequence[tuple[float, ...]]) -> tuple[Any, ...]:
        known = np.isfinite(values) * share[:, None]
        with np.errstate(invalid="ignore"):
            return tuple((np.nan_to_num(values) * known).sum(0) / np.where(known.sum(0) > 0, known.sum(0), np.nan))

    noise = np.sqrt(np.square([np.multiply(one.noise, s) for one, s in zip(found, share, strict=True)]).sum(0))
    local = [one.local if one.signed == signed else triple(abs(v) for v in one.local) for one in found]
    return Agreement(
        mean([one.ncc for one in found]), mean(local), mean([one.mi for one in found]), (noise[0], noise[1]), signed
    )


def read(context: Context) -> Agreement:
    """What was measured, of all channels as one; measured now in a run of before it was kept."""
    url = context.store.path(PLACE)
    known = storage.read_attributes(url).get("bigreg") if storage.exists(url) else None
    if known is None:
        return _of_channel(context, context.pairs[0])
    return Agreement.from_json({k: v for k, v in known.items() if k != CHANNELS})


def of_channels(context: Context) -> list[Agreement]:
    """The same of each channel; none where there is but one."""
    url = context.store.path(PLACE)
    known = storage.read_attributes(url).get("bigreg", {}) if storage.exists(url) else {}
    return [Agreement.from_json(one) for one in known.get(CHANNELS, ())]
