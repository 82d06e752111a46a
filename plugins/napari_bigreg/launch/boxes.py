"""Boxes of both images: which voxels a block is, and what stands there, read at a level. Knows no Qt."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np

from bigreg.config import Config
from bigreg.errors import InputError
from bigreg.geometry import Grid, triple
from bigreg.pipeline.context.channels import pairs
from bigreg.pipeline.context.inputs import chosen_channels
from bigreg.volumes import Volume, block_mean, create_image

from ..shared.registration import SIDES

Report = Callable[[int, int, str], Any]
"""(done, of how many, what): told of progress; it may raise to end what it is told of."""
MARGIN = 0.15
"""Of the fixed box, by which the moving one is larger on each side: what the deformation may reach for."""
SNAP = 8
MOST_BYTES = 512 * 2**20
"""Of one image that are read to find the affine; more is no matter of seconds."""


def factors_of(grid: Grid, level: int, finest: float | None = None) -> np.ndarray:
    """Block means, a power of two an axis, that bring a grid to level `level`: `finest` um times 2^level."""
    target = (min(grid.spacing) if finest is None else finest) * 2.0**level
    ratio = np.maximum(target / np.asarray(grid.spacing), 1.0)
    factors = 2 ** np.round(np.log2(ratio)).astype(int)
    return np.maximum(np.minimum(factors, np.asarray(grid.shape) // 4), 1)


def levels_of(volume: Volume, smallest: int = 24) -> list[tuple[float, float, float]]:
    """Spacings (um) at which a block may be looked at, finest first."""
    out: list[tuple[float, float, float]] = []
    for level in range(16):
        factors = factors_of(volume.grid(), level)
        if out and (np.asarray(volume.shape) // factors).max() < smallest:
            break
        spacing = triple(float(s) for s in np.asarray(volume.grid().spacing) * factors)
        if spacing not in out:
            out.append(spacing)
    return out


def box_around(grid: Grid, config: Config, centre: np.ndarray | None, level: int) -> tuple[np.ndarray, np.ndarray]:
    """First voxel and last + 1 of the block around a point (um; None: the middle), in voxels of level 0.

    In steps of SNAP voxels of the level, so that a view that has hardly moved shows the same block. Raises InputError.
    """
    factors = factors_of(grid, level)
    shape = np.asarray(grid.shape)
    side = (config.blocks.core + 2 * config.blocks.halo) * factors
    middle = (shape - 1) / 2 if centre is None else grid.world_to_index(np.asarray(centre)[None])[0]
    if centre is not None and ((middle < -0.5).any() or (middle > shape - 0.5).any()):
        raise InputError(
            f"the middle of the view, {np.round(centre, 1).tolist()} µm, is outside the fixed image; move the view"
        )
    step = SNAP * factors
    first = np.clip(np.round((middle - side / 2) / step) * step, 0, np.maximum(shape - side, 0)).astype(int)
    return first, np.minimum(first + side, shape)


def read_boxes(
    volumes: dict[str, Volume], affine: np.ndarray, start: np.ndarray, stop: np.ndarray, level: int, report: Report
) -> dict[str, tuple[np.ndarray, Grid]]:
    """The voxels of a box of fixed and of that of moving to which the affine leads, at a level, and their grids."""
    fixed, moving = volumes["fixed"].grid(), volumes["moving"].grid()
    report(0, 1, "fixed block")
    out = {"fixed": read_box(volumes["fixed"], factors_of(fixed, level), start, stop, MOST_BYTES)}
    low, high = out["fixed"][1].bounds(affine, faces=True)
    margin = MARGIN * (high - low)
    corners = np.array(np.meshgrid(*zip(low - margin, high + margin, strict=True), indexing="ij")).reshape(3, -1).T
    index = moving.world_to_index(corners)
    first = np.clip(np.floor(index.min(0)), 0, moving.shape)
    last = np.clip(np.ceil(index.max(0)) + 1, 0, moving.shape)
    factors = factors_of(moving, 0, min(fixed.spacing) * 2.0**level)
    if (last - first < 4 * factors).any():
        raise InputError("the block is outside the moving image after the affine; choose another place")
    report(0, 1, "moving block")
    return {**out, "moving": read_box(volumes["moving"], factors, first, last, MOST_BYTES)}


def channels_of(volumes: dict[str, Volume], config: Config) -> list[dict[str, Volume]]:
    """Both images at each pair of channels that a configuration names; as they are where it names none."""
    found = chosen_channels(config, volumes)[1]
    return [dict(zip(SIDES, (found[name] for name in pair.images), strict=True)) for pair in pairs(config)]


def renumbered(config: Config) -> list[str]:
    """Overrides for images that hold only the channels of a configuration, in the order of its pairs."""
    if not config.channels:
        return []
    own = [c.model_copy(update=dict.fromkeys(SIDES, k)).model_dump(mode="json") for k, c in enumerate(config.channels)]
    return [f"channels={json.dumps(own)}"]


def write_box(path: str, channels: list[np.ndarray], grid: Grid, *, several: bool) -> None:
    """A box (z, y, x), or its channels where there are `several`, in a plain world: no origin, no directions."""
    plain = Grid.from_spacing(grid.shape, grid.spacing, (0.0, 0.0, 0.0))
    count = len(channels) if several else 0
    writer = create_image(path, [plain], channels[0].dtype, name="box", channels=count, shards=None)
    for number, data in enumerate(channels):
        writer.write(0, (0, 0, 0), data, channel=number)


def read_box(volume: Volume, factors: np.ndarray, start: Any, stop: Any, most: int) -> tuple[np.ndarray, Grid]:
    """A box, in voxels of level 0, as means over `factors`, read from the coarsest stored level that serves."""
    level = 0
    for index, stored in enumerate(volume.levels):
        rest = factors / np.asarray(stored.factors)
        if (rest > 1 - 1e-3).all() and np.allclose(rest, np.round(rest), atol=0.05):
            level = index
    grid = volume.grid(level)
    step = np.asarray(volume.levels[level].factors)
    rest = np.maximum(np.round(factors / step), 1).astype(int)
    first = (np.floor(np.asarray(start) / step / rest) * rest).astype(int)
    last = np.minimum(np.ceil(np.asarray(stop) / step), grid.shape).astype(int)
    last = np.maximum(last - (last - first) % rest, first + rest)
    size = int(np.prod(last - first, dtype=np.int64)) * volume.dtype.itemsize
    if size > most:
        raise InputError(
            f"{volume.name} has no coarse level to read ({size / 2**30:.1f} GiB would be read for the preview); "
            "write it with a pyramid first: bigreg convert IN OUT.ome.zarr"
        )
    data = volume.read(tuple(first.tolist()), tuple(last.tolist()), level)
    return block_mean(data, tuple(rest.tolist())), grid.cropped(first, last).downsampled(rest)


def from_plain(grid: Grid) -> np.ndarray:
    """4 x 4 from the world of a grid of the same spacing at the origin, to the grid's own."""
    return grid.affine @ np.diag([*(1 / np.asarray(grid.spacing)), 1.0])
