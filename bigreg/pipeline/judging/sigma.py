"""Task: how far the map may be off at every tile of the fixed image: SD along z, y and x, from what the engine says.

The engine tells the SD of the finest velocity's control points. Fixed moves by exp(v) and moving by exp(-v), so the
map between them is off by twice as much. A point of the fixed image and where it is mapped to lie one velocity on
either side of the place half way, which is their middle in mid-space, to second order in the velocity.
"""

from __future__ import annotations

import numpy as np
import torch

from ... import storage
from ...errors import InputError
from ...geometry import BlockGrid, Grid, Shape, triple
from ...transforms.positions import Positions
from ...volumes import create_image
from ..context.context import Context, field_reader
from ..context.engines import gives_sigma
from ..context.ladder import LevelPlan
from ..labels import label
from ..schedule.flow import Stage
from ..store.store import Status
from ..tasks import estimate, stitch
from ..tasks.fields import Followed
from .confidence import CHUNK, tiles_of

METRICS = ("tiles", "mean_square")
"""Tiles of which something is known, and their mean square distance from where they should be, um^2."""
PLACE = "sigma"
CORE = 16
"""Tiles along an axis of a block: the field is read at full resolution around them."""


def blocks_of(tiles: Grid) -> BlockGrid:
    return BlockGrid(tiles.shape, triple(min(CORE, n) for n in tiles.shape), (0, 0, 0))


def stage(tiles: Grid) -> Stage:
    return Stage("stages/sigma", label("sigma"), blocks_of(tiles).counts, measure, metrics=METRICS)


def kept(context: Context) -> bool:
    """Whether a run has what it is made of."""
    finest = context.levels[0]
    return gives_sigma(context.config, finest, len(context.levels)) and estimate.sigma_kept(context, finest)


def require_given(context: Context) -> None:
    """Raise InputError where a run will never have it, with the reason."""
    finest, where = context.levels[0], f"'{context.store.url}' has no sigma"
    if not context.config.deformation:
        raise InputError(f"{where}: it has no deformation, whose error sigma estimates")
    if not context.config.output.sigma:
        raise InputError(f"{where}: output.sigma is false in its configuration")
    if not gives_sigma(context.config, finest, len(context.levels)):
        raise InputError(
            f"{where}: engine {context.config.engine[-1]!r} gives none; only `optimise`, as the last engine, does"
        )
    begun = storage.exists(context.store.path("levels", 0, "patches"))
    earlier = "sigma" not in context.attributes["config"].get("output", {})
    if earlier or (begun and not estimate.sigma_kept(context, finest)):
        raise InputError(f"{where}: an earlier version of bigreg began it; register again")


def create(context: Context) -> None:
    """An empty image (3, z, y, x) of SDs; it gets its metadata when it is finished."""
    create_image(
        context.store.path(PLACE), [tiles_of(context)], "float32", name="SD of the map along z, y, x, µm",
        chunks=(CHUNK,) * 3, shards=None, channels=3, orientation=context.volumes["fixed"].orientation, finished=False,
    )  # fmt: skip


def points_grid(level: LevelPlan) -> Grid:
    """Where the control points of a level stand in mid-space."""
    lattice = level.lattice
    return Grid.from_spacing(
        lattice.points, lattice.spacing, np.subtract(lattice.origin, 1.5 * np.array(lattice.spacing))
    )


def measured(context: Context, start: Shape, stop: Shape) -> np.ndarray:
    """(3, z, y, x) SD of a box of tiles along the axes of the fixed world, um; NaN where nothing is known."""
    part = tiles_of(context).cropped(start, stop)
    here = Positions.of_grid(part, context.device)
    there = Followed.of(context, "fixed_to_moving", part)(here)
    known = there.inside(context.frames.moving)
    a, b = here.through(context.frames.to_mid("fixed")), there.through(context.frames.to_mid("moving"))
    middle = Positions((a.anchor + b.anchor) / 2, (a.offset + b.offset) / 2)
    found = middle.sample(field_reader(context.array("levels", 0, stitch.SIGMA)), points_grid(context.levels[0]))
    known &= torch.isfinite(found).all(0)
    back = squared(context.frames.mid_to("fixed"), found.device)
    sigma = 2.0 * torch.einsum("ij,jzyx->izyx", back, found.square()).sqrt()
    return torch.where(known, sigma, torch.nan).cpu().numpy()


def squared(matrix: np.ndarray, device: torch.device | str = "cpu") -> torch.Tensor:
    """(3, 3) what takes variances along axes through a 4 x 4 affine, where errors along them are independent."""
    return torch.as_tensor(np.square(matrix[:3, :3]), dtype=torch.float32, device=device)


def measure(context: Context, index: Shape) -> tuple[Status, dict[str, float]]:
    """Compute and store the SDs of one block of tiles."""
    block = blocks_of(tiles_of(context))[index]
    values = measured(context, block.start, block.stop)
    storage.open_array(context.store.path(PLACE, "0"), write=True).write((0, *block.start), values)
    square = np.square(values, dtype=np.float64).sum(0)
    known = np.isfinite(square)
    if not known.any():
        return Status.BLANK, {"tiles": 0.0}
    return Status.DONE, {"tiles": float(known.sum()), "mean_square": float(square[known].mean())}
