"""Task: how alike the images are before registration, after the affine, and after all.

All three are measured on the same voxels at one resolution, small enough for one task whatever the size of the run,
and on the images as engines see them. What lies outside an image or a mask does not count. Both images are smoothed a
little (normalised convolution within those voxels), so that noise of the camera, and its absence where an image was
interpolated, weigh less than structure.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage

from .. import storage
from ..geometry import Grid, Shape
from ..quality.metrics import JointHistogram, local_correlation, ncc
from ..quality.verdict import Agreement
from ..transforms.positions import Positions
from . import confidence
from .context import IMAGES, Context
from .fields import follow
from .ladder import pooling
from .store import Status

PLACE = "likeness"
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
"""Planes that are compared at once."""
LEAST_SHARE = 0.5
"""Of the voxels known after registration, that must be known before it too; else before is not measured."""


def display_levels(context: Context) -> dict[str, Shape]:
    """Which block means of each image are measured and shown: the finest level of at most DISPLAY_VOXELS."""
    for index in sorted(context.levels):
        factors = {w: pooling(context.frames, w, np.asarray(context.levels[index].spacing)) for w in IMAGES}
        if context.frames.fixed.downsampled(factors["fixed"]).voxels <= DISPLAY_VOXELS:
            return factors
    return factors


def display_grid(context: Context) -> Grid:
    return context.image("fixed", display_levels(context)["fixed"]).grid


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


def views(context: Context, *, seen: bool = False) -> Views:
    """The images at display_levels; 0 where moving does not reach. `seen`: as engines compare them, else as stored."""
    factors = display_levels(context)
    open_image = context.seen if seen else context.image
    fixed, moving = (open_image(which, factors[which]) for which in IMAGES)
    here, frames = Positions.of_grid(fixed.grid), context.frames

    def value(which: str, values: torch.Tensor) -> torch.Tensor:
        return context.compared(which, values) if seen else values

    tissue = {which: context.mask(which) for which in IMAGES}
    own = torch.ones(fixed.grid.shape, dtype=torch.bool) if tissue["fixed"] is None else tissue["fixed"].at(here)
    images, inside, counts = {}, {}, {}
    places = {
        "before": lambda: here.through(frames.canonical),
        "affine": lambda: here.through(frames.affine),
        "after": lambda: follow(context, here, "fixed_to_moving"),
    }
    for state, place in places.items():
        there = place()
        reached = there.inside(frames.moving)
        known = reached & own
        if tissue["moving"] is not None:
            known = known & tissue["moving"].at(there)
        if bool(reached.any()):
            values = value("moving", there.sample(moving.read, moving.grid)[0]) * reached
        else:
            values = torch.zeros(fixed.grid.shape)
        images[state], inside[state], counts[state] = values.numpy(), reached.numpy(), known.numpy()
    target = torch.as_tensor(fixed.read((0, 0, 0), fixed.grid.shape).astype(np.float32))
    return Views(fixed.grid, value("fixed", target).numpy(), images, inside, counts)


def agreement_of(shown: Views, *, signed: bool) -> Agreement:
    """See `Agreement`; `signed`: whether bright goes with bright."""
    both = shown.counts["affine"] & shown.counts["after"]
    known = both & shown.counts["before"]
    states = STATES
    if known.sum() < LEAST_SHARE * both.sum() or not known.any():
        known, states = both, STATES[1:]
    if not known.any():
        return Agreement(signed=signed)
    fixed = smoothed(shown.fixed, known)
    nan = float("nan")
    found: dict[str, dict[str, float]] = {name: dict.fromkeys(STATES, nan) for name in ("ncc", "local", "mi")}
    tiles: dict[str, np.ndarray] = {}
    weight = np.zeros(0)
    for state in states:
        moving = smoothed(shown.moving[state], known)
        found["ncc"][state] = float(ncc(fixed, moving, known))
        joint = JointHistogram.of(np.zeros(int(known.sum()), np.int64), fixed[known], moving[known])
        found["mi"][state] = float(joint.information[0])
        local = _local(fixed, moving, known)
        textured = np.isfinite(local)
        if textured.any():
            local = np.where(textured, local if signed else np.abs(local), 0.0)
            found["local"][state] = float(local.sum() / textured.sum())
            weight = tile_sums(textured.astype(float))
            tiles[state] = tile_sums(local)
    noise = [error_of_mean(tiles["after"] - tiles[s], weight) if s in tiles else nan for s in STATES[:2]]
    return Agreement(
        **{name: tuple(values.values()) for name, values in found.items()}, noise=tuple(noise), signed=signed
    )


def _local(fixed: np.ndarray, moving: np.ndarray, known: np.ndarray) -> np.ndarray:
    """`local_correlation`, a few planes at a time."""
    texture, out = 0.25 * float(fixed[known].std()), np.empty(fixed.shape)
    for start in range(0, len(fixed), SLAB):
        low, stop = max(start - RADIUS, 0), min(start + SLAB, len(fixed))
        part = slice(low, stop + RADIUS)
        found = local_correlation(fixed[part], moving[part], known[part], RADIUS, texture)
        out[start:stop] = found[start - low : stop - low]
    return out


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
    """Measure and store it in the group `likeness` of the run."""
    found = agreement_of(views(context, seen=True), signed=confidence.same_contrast(context))
    storage.create_group(context.store.path(PLACE), {"bigreg": found.to_json()}, exist_ok=True)
    return Status.DONE, {}


def read(context: Context) -> Agreement:
    """What was measured; measured now in a run of before it was kept."""
    url = context.store.path(PLACE)
    known = storage.read_attributes(url).get("bigreg") if storage.exists(url) else None
    if known is None:
        return agreement_of(views(context, seen=True), signed=confidence.same_contrast(context))
    return Agreement.from_json(known)
