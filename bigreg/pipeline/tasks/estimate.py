"""Task: read one patch pair in mid-space, hand it to the engine, store what it returns."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from ... import storage
from ...engines.base import ChannelPair, PatchPair, VelocityPatch
from ...engines.noncorrespondence import estimate_matching
from ...engines.parts import estimate_fitting
from ...geometry import Block, Grid, Shape, triple
from ...intensity import keep_out_bright
from ...transforms.positions import Positions
from ..context.channels import IMAGES, LABELS, intensity_of, side
from ..context.context import Context, compressed
from ..context.engines import gives_sigma
from ..context.images import LevelImage, looked_up
from ..context.label_images import UNIT
from ..context.ladder import LevelPlan
from ..context.outline import Outlined
from ..context.seen import SeenImage
from ..labels import label
from ..schedule.flow import Need, Stage
from ..store.store import Status
from . import compose

METRICS = (
    "similarity_before",
    "similarity_after",
    "iterations",
    "parts",
    "agreement",
    "smoothed",
    "regularisation",
    "seconds",
    "overlap",
    "unmatched",
    "confidence",
    "patch_velocity",
    "peak_memory",
    "card_memory",
)
SIGMA = "patch_sigma"
"""The array of the finest level that holds what its engine says of how far the patches may be off."""
UNMATCHED = "noncorrespondence"
"""The array of the finest level, uint8 (z, y, x) at its voxels of mid-space: 1 where an image has no counterpart."""
LEAST_OVERLAP = 0.002  # of a patch; below this it is blank


def patch_points(level: LevelPlan) -> Shape:
    """Control points of the largest patch of a level."""
    return triple(
        min(c + 2 * h, n) + 4 for c, h, n in zip(level.blocks.core, level.blocks.halo, level.blocks.cells, strict=True)
    )


def create(context: Context, level: LevelPlan) -> None:
    """The array of patches: (block z, y, x, 3 components + confidence, control points z, y, x), one chunk a block.

    NaN where a block is blank or not done. On the finest level another such array of 3 components has the SD of the
    control points (um), where the engine gives it, and one of its voxels says what has no counterpart; a run of before
    these were kept does without.
    """
    points = patch_points(level)
    place = context.store.path("levels", level.index, "patches")
    if keeps_sigma(context, level) and not storage.exists(place):
        storage.create_array(
            context.store.path("levels", level.index, SIGMA),
            shape=(*level.blocks.counts, 3, *points),
            dtype="float32",
            chunks=(1, 1, 1, 3, *points),
            fill_value=float("nan"),
            exist_ok=True,
        )
    if keeps_unmatched(context, level):
        storage.create_array(
            context.store.path("levels", level.index, UNMATCHED),
            shape=voxel_grid(level).shape,
            dtype="uint8",
            chunks=unmatched_chunk(level),
            dimension_names=("z", "y", "x"),
            exist_ok=True,
        )
    storage.create_array(
        place,
        shape=(*level.blocks.counts, 4, *points),
        dtype="float32",
        chunks=(1, 1, 1, 4, *points),
        fill_value=float("nan"),
        exist_ok=True,
    )


def keeps_unmatched(context: Outlined, level: LevelPlan) -> bool:
    """Whether a level writes down what has no counterpart: the finest."""
    return level.index == 0 and context.matched_by(level) is not None


def keeps_sigma(context: Outlined, level: LevelPlan) -> bool:
    """Whether the engine of a level says how far its velocities may be off: on the finest alone, by its engine."""
    return level.index == 0 and gives_sigma(context.config, level, len(context.levels))


def needs(levels: dict[int, LevelPlan], level: LevelPlan, coarser_stage: str | None) -> tuple[Need, ...]:
    """A patch sees the images through the maps of the level before."""
    coarser = levels.get(level.index + 1)
    if coarser is None or coarser_stage is None:
        return ()

    def maps(index: Shape) -> tuple[Shape, Shape]:
        block = level.blocks[index]
        bounds = level.patch(block.halo_start, block.halo_stop).grid.bounds()
        return compose.blocks_of_maps(coarser, *bounds)

    return (Need(coarser_stage, maps),)


def stage(levels: dict[int, LevelPlan], level: LevelPlan, coarser_stage: str | None) -> Stage:
    """Where the estimate of a block fails, its neighbours and coarser levels may decide."""
    return Stage(
        f"levels/{level.index}", label("estimate", level=level.index), level.blocks.counts, estimate, (level.index,),
        METRICS, needs(levels, level, coarser_stage), optional=True,
    )  # fmt: skip


def read_pair(context: Context, level: LevelPlan, block: Block) -> PatchPair:
    """Both images of a block, halo included, as the coarser levels bring them to mid-space."""
    lattice = level.patch(block.halo_start, block.halo_stop)
    positions = {
        which: context.half_way(Positions.of_grid(lattice.grid, context.device), level.index + 1, which)
        for which in IMAGES
    }
    found = []
    for pair in context.pairs:
        seen = [compared_at(context, w, context.level_image(w, level), positions[side(w)]) for w in pair.images]
        (fixed, moving), (fixed_mask, moving_mask) = zip(*seen, strict=True)
        found.append(ChannelPair(fixed, moving, fixed_mask, moving_mask, pair.similarity, pair.weight))
    if context.config.labels is not None:
        found.append(label_pair(context, level, positions))
    first = found[0]
    # Without a coarser level there is no map that a patch could keep.
    native = level.downsample == 1 and any(plan.downsample > 1 for plan in context.levels.values())
    asked = sigma_kept(context, level)
    return PatchPair(
        first.fixed, first.moving, first.fixed_mask, first.moving_mask, lattice, level.index, native=native,
        sigma=asked, similarity=first.similarity, weight=first.weight, others=tuple(found[1:]),
    )  # fmt: skip


def label_pair(context: Context, level: LevelPlan, positions: Mapping[str, Positions]) -> ChannelPair:
    """Both label images at a patch, as one-hots."""
    labels, common = context.config.labels, context.common_labels
    assert labels is not None and common is not None, "there are labels"
    values, masks = [], []
    for name in LABELS:
        places, image = positions[side(name)], context.one_hots(name, level)
        values.append(places.sample(image.read, image.grid))
        known = places.inside(image.grid) & places.inside(context.frames.grid(name))
        masks.append(known.to(values[-1].dtype))
    # The loss of a pair is the mean over its channels; that of labels is to be their sum.
    weight = UNIT * labels.weight * len(common.values)
    return ChannelPair(values[0], values[1], masks[0], masks[1], "mse", weight, labels=True)


def compared_at(
    context: Context, which: str, image: LevelImage | SeenImage, positions: Positions
) -> tuple[torch.Tensor, torch.Tensor]:
    """An image at positions (3, z, y, x) of its world as engines compare it: (1, z, y, x), and where it is known."""
    mask = positions.inside(image.grid)
    tissue = context.tissue(which)
    if tissue is not None:
        mask &= tissue.at(positions)
    if not bool(mask.any()):
        values = torch.zeros(1, *mask.shape, device=mask.device)
        return values, mask.to(values.dtype)
    values, seen = looked_up(image, positions)
    values = context.scaled(which, values)
    mask = mask if seen is None else mask & seen
    mask = keep_out_bright(values[0], mask.to(values.dtype), context.bright(which))
    return compressed(values, intensity_of(context.config, which).knee), mask.to(values.dtype)


def voxel_grid(level: LevelPlan) -> Grid:
    """The voxels of a level, in mid-space."""
    return level.patch((0, 0, 0), level.blocks.cells).grid


def unmatched_chunk(level: LevelPlan) -> Shape:
    """Voxels of a chunk of UNMATCHED: a block."""
    return triple(c * level.cell_voxels for c in level.blocks.core)


def store_unmatched(context: Context, level: LevelPlan, block: Block, where: torch.Tensor) -> None:
    """Write what of a block has no counterpart; `where` (z, y, x) holds its halo too."""
    n = level.cell_voxels
    own = tuple(
        slice((a - o) * n, (b - o) * n) for a, b, o in zip(block.start, block.stop, block.halo_start, strict=True)
    )
    array = context.array("levels", level.index, UNMATCHED, write=True)
    array.write(triple(a * n for a in block.start), where[own].cpu().numpy().astype(np.uint8))


def without_counterpart(context: Context, here: Positions, there: Positions) -> torch.Tensor:
    """Bool (z, y, x): where places of the fixed world, mapped to `there` in moving, have no counterpart.

    A level keeps it in mid-space (see `keeps_unmatched`). A place and where it is mapped to lie about as far on either
    side of the place half way, hence that is near to their middle.
    """
    a, b = here.through(context.frames.to_mid("fixed")), there.through(context.frames.to_mid("moving"))
    middle = Positions((a.anchor + b.anchor) / 2, (a.offset + b.offset) / 2)
    level = context.levels[0]
    return middle.sample(context.array("levels", level.index, UNMATCHED).read, voxel_grid(level))[0] > 0.5


def textured(image: torch.Tensor, mask: torch.Tensor, least: float = 1e-6) -> bool:
    """Whether an image is anything but one value inside the mask."""
    known = mask > 0
    return any(_spread(channel[known]) > least for channel in image)


def _spread(values: torch.Tensor) -> float:
    return float(values.max() - values.min()) if values.numel() > 1 else 0.0


def estimate(context: Context, level_index: int, index: Shape) -> tuple[Status, dict[str, float]]:
    """Compute and store the patch of one block; where nothing is deformed it is blank, unseen."""
    begin = time.perf_counter()
    if context.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    level = context.levels[level_index]
    if not context.config.deformation:
        store_patch(context, level, index, None)
        return Status.BLANK, {}
    block = level.blocks[index]
    pair = read_pair(context, level, block)
    both = [one.fixed_mask * one.moving_mask for one in pair.channels]
    overlap = float(torch.stack(both).amax(0).mean())
    metrics = {"overlap": overlap, "confidence": 0.0, "patch_velocity": 0.0}
    blank = overlap < LEAST_OVERLAP or not any(
        textured(one.fixed, mask) and textured(one.moving, mask) for one, mask in zip(pair.channels, both, strict=True)
    )
    if blank:
        store_patch(context, level, index, None)
    else:
        engine = context.engine(level)
        similarity = context.matched_by(level)
        if similarity is not None:
            patch, found = estimate_matching(engine, pair, similarity)
            metrics["unmatched"] = found.share
            if level.index == 0:
                store_unmatched(context, level, block, found.where)
        else:
            patch = estimate_fitting(engine, pair)
        store_patch(context, level, index, patch)
        cells = patch.coefficients.cpu().numpy() / np.asarray(level.lattice.spacing).reshape(3, 1, 1, 1)
        metrics["patch_velocity"] = float(np.abs(cells).max())
        metrics["confidence"] = float(patch.confidence.mean())
        metrics |= {k: v for k, v in patch.quality.items() if k in METRICS}
        metrics = {k: v for k, v in metrics.items() if np.isfinite(v)}
    metrics["seconds"] = time.perf_counter() - begin
    metrics["peak_memory"] = peak_memory()
    if context.device.type == "cuda":
        metrics["card_memory"] = torch.cuda.max_memory_allocated() / 2**30
    return (Status.BLANK if blank else Status.DONE), metrics


def peak_memory() -> float:
    """GiB that this process has held at the most; NaN where the system does not say.

    Not what getrusage counts, which on Linux goes on from the memory of the process that started this one.
    """
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 2**20
    return float("nan")


def store_patch(context: Context, level: LevelPlan, index: Shape, patch: VelocityPatch | None) -> None:
    """Write what an engine found, None for a blank block."""
    array = context.array("levels", level.index, "patches", write=True)
    data = np.full((4, *patch_points(level)), np.nan, np.float32)
    if patch is not None:
        box = tuple(slice(0, n) for n in patch.confidence.shape)
        data[:3][(slice(None), *box)] = patch.coefficients.cpu().numpy()
        data[3][box] = patch.confidence.cpu().numpy()
    array.write((*index, 0, 0, 0, 0), data[None, None, None])
    if patch is None or patch.sigma is None or not sigma_kept(context, level):
        return
    sigma = np.full((3, *patch_points(level)), np.nan, np.float32)
    sigma[(slice(None), *box)] = patch.sigma.cpu().numpy()
    context.array("levels", level.index, SIGMA, write=True).write((*index, 0, 0, 0, 0), sigma[None, None, None])


def sigma_kept(context: Context, level: LevelPlan) -> bool:
    """Whether a run has the array of them: one that an earlier version began has not."""
    return level.index == 0 and storage.exists(context.store.path("levels", level.index, SIGMA))
