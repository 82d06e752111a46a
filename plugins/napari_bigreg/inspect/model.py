"""What the Inspect panel shows of a result: overlays of a slice, the deformation as grid and arrows, folds, the worst
blocks. No Qt and no viewer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps

import bigreg
from bigreg.errors import BigregError, InputError
from bigreg.geometry import Grid, triple
from bigreg.pipeline.store.store import Status
from bigreg.similarity.lncc import local_correlation

from ..shared.pictures import blended, stretched
from ..shared.planes import Plane, level_for, plane_grid, sampled

BLEND, CHECKER, SWIPE, FLICKER, DIFFERENCE, CORRELATION = OVERLAYS = (
    "magenta / green", "checkerboard", "swipe", "flicker", "difference", "local correlation",
)  # fmt: skip
COMPUTED = (CHECKER, SWIPE, DIFFERENCE, CORRELATION)
"""Those that are one picture; the others are layers that are shown or hidden."""
RADIUS = 4
"""Voxels around one in which its local correlation is taken, as in a run's report."""
MAPS = {
    "confidence": ("levels/0", "confidence", "viridis", True),
    "similarity after": ("levels/0", "similarity_after", "viridis", True),
    "neighbours disagree (cells)": ("levels/0/stitch", "disagreement", "magma", False),
    "largest displacement (µm)": ("levels/0/compose/0", "max_displacement", "magma", False),
    "smallest Jacobian": ("levels/0/compose/0", "min_jacobian", "viridis", True),
    "inverse error (voxels)": ("stages/check", "inverse_error", "magma", False),
    "seconds": ("levels/0", "seconds", "magma", False),
}
"""Maps with a value a block: stage, metric, colormap, and whether it is the low values that are bad."""
MOST_FOLDS = 2000
MOST_WORST = 200


@dataclass(frozen=True, eq=False)
class Pair:
    """A slice of both images, 0 .. 1, on one grid that is one voxel thick across the plane."""

    grid: Grid
    fixed: np.ndarray
    moving: np.ndarray


class InspectModel:
    """A run that has come as far as something to compare. Raises InputError where it has no affine yet."""

    def __init__(self, url: str) -> None:
        self.run = bigreg.open_run(url)
        self.url = self.run.url
        self.fixed = self.run.pyramid("fixed")
        self.before = self.run.pyramid("affine")
        self.limits = {which: self.run.contrast(which) for which in ("fixed", "moving")}
        self.after = self._pyramid("warped")
        self.field = self._pyramid("fixed_to_moving")
        self.metrics = self.run.metrics()
        self.blocks = self.run.blocks()
        status = self.run.status()
        self.state, self.verdict = status.state, status.verdict
        # Read here, in a thread, so that the window's never waits for a store.
        self.lengths = None if self.field is None else _lengths(self.field[-1])
        stages = {MAPS[name][0] for name in self.maps()}
        self._done = {stage: self.run.block_status(stage) == Status.DONE for stage in stages}
        self._plane = lru_cache(maxsize=4)(self._read_plane)

    def _pyramid(self, what: str) -> Any | None:
        try:
            return self.run.pyramid(what)
        except BigregError:
            return None

    # ---------------------------------------------------------------------------------------------------- overlays

    def pair(self, plane: Plane, before: bool, thickness: int = 0) -> Pair:
        """Both images on a plane; moving `before` the deformation (after the affine) or after it. Reads."""
        return self._plane(plane, before or self.after is None, thickness)

    def _read_plane(self, plane: Plane, before: bool, thickness: int) -> Pair:
        grid = plane_grid(self.fixed[level_for(self.fixed, plane.pixel)].grid, plane, thickness)
        of_fixed, of_moving = self.limits["fixed"], self.limits["moving"]
        assert of_fixed is not None and of_moving is not None, (
            "where there are pictures of a run, its contrast is known"
        )
        fixed = stretched(sampled(self.fixed, grid), of_fixed)
        shown = self.before if before else self.after
        assert shown is not None, "before is shown where there is no after"
        moving = stretched(sampled(shown, grid), of_moving)
        return Pair(grid, fixed, moving)

    def overlay(
        self, mode: str, plane: Plane, *, before: bool = False, tile_um: float = 50, curtain: float = 0.5
    ) -> tuple:
        """(uint8 RGB picture (rows, columns, 3), its Grid one voxel thick).

        tile_um   edge of a checkerboard's square; curtain: where the swipe changes images, 0 .. 1 of the picture
        """
        if mode not in COMPUTED:
            raise ValueError(f"overlay {mode!r} is not a picture; pictures are {', '.join(COMPUTED)}")
        if mode == CORRELATION:
            return self._correlation(plane, before)
        pair = self.pair(plane, before)
        fixed, moving = (np.squeeze(image, plane.axis) for image in (pair.fixed, pair.moving))
        if mode == CHECKER:
            picture = checkerboard(fixed, moving, [pair.grid.spacing[a] for a in plane.shown], tile_um)
        elif mode == SWIPE:
            picture = swipe(fixed, moving, curtain)
        else:
            picture = difference(fixed, moving)
        return (np.clip(picture, 0, 1) * 255).astype(np.uint8), pair.grid

    def _correlation(self, plane: Plane, before: bool) -> tuple:
        pair = self.pair(plane, before, RADIUS)
        seen = (pair.moving > 0) & (pair.fixed > 0)
        both = [torch.as_tensor(np.ascontiguousarray(image, np.float32)) for image in (pair.fixed, pair.moving, seen)]
        found = local_correlation(*both, radius=RADIUS).numpy()
        first = pair.grid.world_to_index(_on(plane, pair.grid)[None])[0]
        middle = int(np.clip(np.rint(first[plane.axis]), 0, pair.grid.shape[plane.axis] - 1))
        start, stop = np.zeros(3, int), np.asarray(pair.grid.shape)
        start[plane.axis], stop[plane.axis] = middle, middle + 1
        values, grey = (np.take(image, middle, plane.axis) for image in (found, pair.fixed))
        picture = colormaps["viridis"](np.clip(values, 0, 1))[..., :3]
        # Where there is nothing to compare, the image itself, dimmed.
        nothing = np.take(~seen, middle, plane.axis) | (values == 0)
        picture[nothing] = 0.4 * grey[nothing][:, None]
        return (picture * 255).astype(np.uint8), pair.grid.cropped(start, stop)

    # ---------------------------------------------------------------------------------------------------- deformation

    def arrows(self, plane: Plane, count: int) -> np.ndarray:
        """Arrows of fixed_to_moving on a plane, `count` along its longer edge: (N, 2, 3) start and move, um."""
        starts, moves = self._moves(plane, count, 1)
        return np.stack([starts.reshape(-1, 3), moves.reshape(-1, 3)], axis=1)

    def deformed_grid(self, plane: Plane, count: int, longer: float = 1.0) -> np.ndarray:
        """Lines of the fixed frame, `count` along the longer edge, moved within the plane: (N, 2, 3) start and move um.

        longer   by how much displacements are exaggerated
        """
        each = 4  # pieces from one line to the next
        starts, moves = self._moves(plane, count, each)
        ends = starts + longer * moves
        ends[..., plane.axis] = starts[..., plane.axis]
        pieces = []
        for axis in (0, 1):
            lines = ends[::each] if axis == 1 else ends[:, ::each]
            before, after = (lines[:-1], lines[1:]) if axis == 0 else (lines[:, :-1], lines[:, 1:])
            pieces.append(np.stack([before, after - before], axis=-2).reshape(-1, 2, 3))
        return np.concatenate(pieces)

    def _moves(self, plane: Plane, count: int, each: int) -> tuple[np.ndarray, np.ndarray]:
        """World points on a regular grid of a plane and where fixed_to_moving moves them, (rows, columns, 3) um."""
        if self.field is None:
            raise InputError(f"'{self.url}' has no fields yet; `bigreg resume` it first")
        seen = plane_grid(self.fixed[level_for(self.fixed, plane.pixel)].grid, plane)
        low, high = seen.bounds(faces=True)
        down, right = plane.shown
        step = max(high[down] - low[down], high[right] - low[right]) / (count * each)
        numbers = [max(int((high[a] - low[a]) / step), 2) for a in (down, right)]
        shape, spacing, origin = np.ones(3, int), np.full(3, step), (low + high) / 2
        for axis, n in zip((down, right), numbers, strict=True):
            shape[axis] = n
            origin[axis] = (low[axis] + high[axis]) / 2 - (n - 1) / 2 * step
        grid = Grid.from_spacing(shape, spacing, origin)
        moves = np.moveaxis(sampled(self.field, grid), 0, -1)
        index = np.moveaxis(np.indices(grid.shape), 0, -1)
        return np.squeeze(grid.index_to_world(index), plane.axis), np.squeeze(moves, plane.axis).astype(float)

    def folds(self) -> np.ndarray:
        """(N, 3) um: samples at which fixed_to_moving folds, the first MOST_FOLDS. Reads only blocks that have some."""
        stage = next((s for s in reversed(list(self.metrics)) if "folds" in self.metrics[s] and "fixed_to" in s), None)
        if stage is None or self.field is None:
            return np.empty((0, 3))
        jacobian = self.run.pyramid("jacobian")[0]
        blocks = self.blocks["stages/fixed_to_moving"].grid
        core = np.rint(np.asarray(blocks.spacing) / jacobian.grid.spacing).astype(int)
        found: list[np.ndarray] = []
        for block in np.argwhere(self.metrics[stage]["folds"] > 0):
            start = block * core
            stop = np.minimum(start + core, jacobian.grid.shape)
            index = np.argwhere(jacobian.read(tuple(start.tolist()), tuple(stop.tolist())) <= 0) + start
            found.append(jacobian.grid.index_to_world(index))
            if sum(map(len, found)) >= MOST_FOLDS:
                break
        return np.concatenate(found)[:MOST_FOLDS] if found else np.empty((0, 3))

    # ---------------------------------------------------------------------------------------------------- blocks

    def maps(self) -> list[str]:
        """Names of the maps of blocks that this run has."""
        return [name for name, (stage, metric, _, _) in MAPS.items() if metric in self.metrics.get(stage, {})]

    def block_map(self, name: str) -> tuple[np.ndarray, Any, str]:
        """A value a block (z, y, x), how the blocks lie, and the colormap."""
        stage, metric, colormap, _ = MAPS[name]
        return self.metrics[stage][metric], self.blocks[stage], colormap

    def worst(self, name: str) -> list[tuple[tuple[int, int, int], float]]:
        """The blocks by one of `maps`, the worst first: index and value; at most MOST_WORST, none that is blank."""
        values, blocks, _ = self.block_map(name)
        compared = np.isfinite(values) & self._done[blocks.stage]
        index = np.argwhere(compared)
        order = np.argsort(values[compared] * (1 if MAPS[name][3] else -1), kind="stable")[:MOST_WORST]
        return [(triple(int(i) for i in index[n]), float(values[triple(index[n])])) for n in order]

    def box(self, name: str, index: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper corner (um) of what a block of a map has of the fixed image."""
        grid = self.blocks[MAPS[name][0]].grid
        low, high = Grid((1, 1, 1), grid.cropped(index, np.add(index, 1)).matrix).bounds(faces=True)
        first, last = self.fixed[0].grid.bounds(faces=True)
        return np.clip(low, first, last), np.clip(high, first, last)

    # ---------------------------------------------------------------------------------------------------- a figure

    def export_figure(self, path: str, plane: Plane, report: Callable[[int, int, str], None]) -> str:
        """Write the plane as a figure (.png, .pdf, .svg): both images, before and after, with a scale bar."""
        from .figure import write_figure

        pairs = []
        for number, before in enumerate((True, False)):
            report(number, 3, "reading")
            pairs.append(self.pair(plane, before))
        report(2, 3, "drawing")
        correlation = [self.overlay(CORRELATION, plane, before=before)[0] for before in (True, False)]
        write_figure(path, plane, pairs, correlation)
        return path


def checkerboard(fixed: np.ndarray, moving: np.ndarray, spacing: Any, tile_um: float) -> np.ndarray:
    """Squares of either image in turn, with a breath of its colour."""
    row, column = (np.arange(n) * s // tile_um for n, s in zip(fixed.shape, spacing, strict=True))
    odd = ((row[:, None] + column) % 2 == 1)[..., None]
    grey = np.where(odd, moving[..., None], fixed[..., None])
    return grey * np.where(odd, (0.8, 1.0, 0.8), (1.0, 0.8, 1.0))


def swipe(fixed: np.ndarray, moving: np.ndarray, curtain: float) -> np.ndarray:
    """Fixed on the left of the curtain, moving on its right, in the colours of both."""
    edge = round(curtain * fixed.shape[1])
    picture = np.repeat(fixed[..., None], 3, axis=-1) * (1.0, 0.8, 1.0)
    picture[:, edge:] = moving[:, edge:, None] * (0.8, 1.0, 0.8)
    picture[:, max(edge - 1, 0) : edge] = 1.0
    return picture


def difference(fixed: np.ndarray, moving: np.ndarray) -> np.ndarray:
    """moving - fixed: magenta where fixed alone is bright, green where moving alone is, black where they agree."""
    change = moving - fixed
    return blended(np.clip(-change, 0, 1), np.clip(change, 0, 1))


def _lengths(field: Any) -> np.ndarray:
    """How far each sample moves, um."""
    return np.linalg.norm(field.read((0, 0, 0), field.grid.shape).reshape(3, -1), axis=0)


def _on(plane: Plane, grid: Grid) -> np.ndarray:
    point = np.asarray(plane.centre, dtype=float)
    point[plane.axis] = plane.at
    return point
