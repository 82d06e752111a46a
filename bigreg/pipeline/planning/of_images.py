"""What is foreseen of the images: those that are kept, impulses, levels that they lack, corrections, the affine."""

from __future__ import annotations

import math

import numpy as np

from ...geometry import BlockGrid, Shape
from ...volumes import Volume
from ...volumes.described import VolumeDescription
from ...volumes.multiscale import CHUNKS, SHARDS, clipped
from ..context import images, masks, weights
from ..context.channels import is_labels, mask_of, preprocess_of
from ..context.despeckled import DespeckledVolume
from ..schedule.flow import ONE
from ..tasks import despeckle, preprocess, start
from ..tasks import prepare as making
from .foreseen import MILLION, Foreseen
from .workload import Amount, Span, seen, spans, whole_chunks

INTENSITY_ARRAYS = 7
"""float32 arrays of what is read at once, while stripes or histograms are made of it (measured)."""


def keep_arrays(plan: Foreseen, which: str) -> None:
    """An array in memory is written into the run first."""
    volume = plan.volumes[which]
    if not isinstance(volume, Volume) or volume.spec is not None:
        return
    plan.volumes[which] = kept = VolumeDescription.as_kept(volume)
    for number, level in enumerate(kept.levels):
        _, shard = clipped(level.grid.shape, CHUNKS, SHARDS)
        plan.keeps(f"inputs/{which}.ome.zarr/{number}", level.grid.shape, shard, np.dtype(kept.dtype).itemsize)


def impulses(plan: Foreseen) -> None:
    """A look at some boxes of each image. Whether it will find impulses is not foreseen."""
    for stage in despeckle.stages(plan.config):
        (which,) = stage.arguments
        volume = plan.volumes[which]
        boxes = despeckle.boxes_of(volume.shape)
        voxels = sum(math.prod(np.subtract(stop, low).tolist()) for low, stop in boxes)
        itemsize = np.dtype(volume.dtype).itemsize
        source = (Amount.same(voxels * itemsize, ONE),)
        plan.add(stage, source=source, memory=voxels * (2 * itemsize + 8))
        plan.phase += 1


def prepare(plan: Foreseen, needs: dict[str, list[Shape]]) -> None:
    """The levels that the images do not have, and what their masks are there; each once."""
    for which, factors in needs.items():
        mask = plan.masks[which]
        steps = [(v, step) for v in plan.images_of(which)[::-1] for step in images.preparation(v, factors, mask)]
        for volume, step in steps:
            if step.factors in plan.made.setdefault(volume.name, set()):
                continue
            plan.made[volume.name].add(step.factors)
            shape, chunks = images.extent_of(volume, step, mask)
            _, _, itemsize, _ = plan.level_of(volume, step.factors, which)
            blocks = BlockGrid(shape, chunks, (0, 0, 0))
            fine, fine_chunks, fine_itemsize, own = plan.level_of(volume, step.source or step.factors, which)
            ratio = tuple(f // s for f, s in zip(step.factors, step.source or step.factors, strict=True))
            box = spans(blocks, scale=ratio)
            voxels = Amount.of(MILLION, box)
            read = [] if mask is None else [_mask_read(plan, which, step, box)]
            writes = [Amount.of(1, spans(blocks))] if mask is not None else []
            if step.source is not None:
                read.append(Amount.of(fine_itemsize, whole_chunks(box, fine_chunks, fine.shape)))
                writes.append(Amount.of(itemsize, spans(blocks)))
                plan.keeps("/".join(images.place(volume.name, step.factors)), shape, chunks, itemsize)
            if mask is not None:
                plan.keeps("/".join(weights.place(volume.name, step.factors)), shape, chunks, 1)
            plan.add(
                making.stage(volume, which, isinstance(volume, DespeckledVolume), step, mask),
                (("downsample", voxels),), writes=tuple(writes),
                memory=voxels.largest / MILLION * (fine_itemsize + (6 if mask is None else 16)),
                **{"source" if own else "reads": tuple(read)},
            )  # fmt: skip
            plan.phase += 1


def _mask_read(plan: Foreseen, which: str, step: images.Step, box: list[Span]) -> Amount:
    """What is read for the weights of boxes of an image: those of the level above, or for its own levels the mask."""
    if step.source is not None:
        return Amount.of(1, box)
    grid, chunks, itemsize, _ = plan.level_of(plan.images_of(which)[-1], step.factors, which)
    given = plan.mask_files.get(which)
    if given is not None and given.volume is not None and given.grid is not None:
        found = seen(box, grid, np.eye(4), given.grid, given.volume.chunks)
        return Amount.of(given.volume.dtype.itemsize, found)
    if getattr(plan.config.masks, which) in masks.OWN:  # the voxels themselves say it
        return Amount.of(itemsize, whole_chunks(box, chunks, grid.shape))
    return Amount.of(1, box)  # of a described image: about a byte a voxel


def corrections(plan: Foreseen) -> None:
    """What corrects the images as engines see them."""
    for which in plan.images:
        if not preprocess_of(plan.config, which).any:
            continue
        factors = preprocess.level_of(plan.frames, plan.config, which)
        prepare(plan, {which: [factors]})
        grid, chunks, itemsize, own = plan.source(which, factors)
        found = preprocess.blocks_of(plan.config, which, grid)
        for stage, (what, blocks) in zip(preprocess.stages(plan.config, which, grid), found.items(), strict=True):
            wide = spans(blocks, halo=True)
            shape, unit = preprocess.array_of(plan.config, which, grid, what)
            held = Amount.of(MILLION, wide).largest / MILLION
            plan.add(
                stage, ((what, Amount.of(MILLION, wide)),),
                writes=(Amount.same(4 * math.prod(unit), blocks.counts),),
                memory=4 * INTENSITY_ARRAYS * (held if what == "stripes" else min(held, preprocess.BLOCK**3)),
                **{"source" if own else "reads": (Amount.of(itemsize, whole_chunks(wide, chunks, grid.shape)),)},
            )  # fmt: skip
            plan.keeps(f"{preprocess.PLACE}/{which}/{what}", shape, unit, 4)
            plan.phase += 1


def affine(plan: Foreseen, small: dict[str, Shape]) -> None:
    """`small`: by how much each image is downsampled for it."""
    voxels = 0.0
    read: dict[str, list[Amount]] = {"source": [], "reads": []}
    for which, factors in small.items():
        grid, _, itemsize, own = plan.source(which, factors)
        voxels += grid.voxels
        read["source" if own else "reads"].append(Amount.same(grid.voxels * itemsize, ONE))
        if not is_labels(which) and mask_of(plan.config, which) == masks.TISSUE:
            plan.keeps(f"masks/{which}", grid.shape, grid.shape, 1)
    does = (("affine", Amount.same(voxels * MILLION, ONE)),)
    plan.add(start.stage(), does, **{k: tuple(v) for k, v in read.items()})
    plan.phase += 1
