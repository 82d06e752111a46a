"""Neighbouring patches that disagree as much as they can: what is stitched from velocities must not fold."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bigreg import register
from bigreg.geometry import BlockGrid
from bigreg.pipeline.run import open_run
from bigreg.pipeline.tasks import stitch
from bigreg.quality.metrics import min_jacobian
from bigreg.transforms import evaluate, ngff
from bigreg.transforms.bspline import BOUND_CELLS


def hostile_patches(blocks: BlockGrid, spacing, seed: int, kind: str):
    """For each block, (4, control points): coefficients at the bound, opposite in neighbouring blocks; confidence 1."""
    rng = np.random.default_rng(seed)
    patches = {}
    for block in blocks:
        shape = tuple(n + 4 for n in block.halo_shape)
        sign = 1.0 if sum(block.index) % 2 else -1.0
        bound = BOUND_CELLS * np.reshape(spacing, (3, 1, 1, 1))
        if kind == "random":
            c = rng.uniform(-1, 1, (3, *shape)) * bound
        elif kind == "opposed":
            c = np.broadcast_to(sign * bound, (3, *shape))
        else:  # opposed, with a random direction of its own
            c = np.broadcast_to(rng.choice([-1.0, 1.0], (3, 1, 1, 1)) * sign * bound, (3, *shape))
        patches[block.index] = np.concatenate([c, np.ones((1, *shape))]).astype(np.float32)
    return patches


@pytest.mark.parametrize("kind", ["random", "opposed", "directions"])
def test_blended_displacements_fold_and_blended_velocities_stay_bounded(kind):
    """The comparison that shows why: the same patches, blended as displacements of many cells, fold."""
    blocks = BlockGrid((16, 16, 16), (8, 8, 8), (2, 2, 2))
    spacing = np.array([3.0, 1.5, 2.0])
    patches = hostile_patches(blocks, spacing, 0, kind)
    velocity = np.zeros((3, 20, 20, 20))
    for block in blocks:
        part, _ = stitch.blend(blocks, block.index, patches.get, BOUND_CELLS * spacing)
        low, high = stitch.owned(block, blocks)
        velocity[(slice(None), *(slice(a, b) for a, b in zip(low, high, strict=True)))] = part
    assert (np.abs(velocity) <= BOUND_CELLS * spacing.reshape(3, 1, 1, 1) + 1e-9).all()
    # Three cells of motion, as a large deformation needs, handed over as displacements.
    displacement = evaluate(torch.from_numpy(velocity * 4), (4, 4, 4))
    assert float(min_jacobian(displacement.numpy(), spacing / 4).min()) < 0


def test_the_blend_does_not_depend_on_who_asks_first():
    blocks = BlockGrid((9, 7, 12), (4, 4, 4), (2, 2, 2))
    spacing = np.array([1.0, 2.0, 3.0])
    patches = hostile_patches(blocks, spacing, 1, "random")
    there = [stitch.blend(blocks, b.index, patches.get, spacing)[0] for b in blocks]
    back = [stitch.blend(blocks, b.index, patches.get, spacing)[0] for b in reversed(list(blocks))]
    assert all(np.array_equal(a, b) for a, b in zip(there, reversed(back), strict=True))


def test_patches_that_agree_are_kept():
    blocks = BlockGrid((9, 7, 12), (4, 4, 4), (2, 2, 2))
    patches = {b.index: np.ones((4, *(n + 4 for n in b.halo_shape)), np.float32) for b in blocks}
    for block in blocks:
        blended, disagreement = stitch.blend(blocks, block.index, patches.get, np.full(3, 4.0))
        np.testing.assert_allclose(blended, 1.0, atol=2e-3)
        assert disagreement < 1e-3


def test_a_blank_block_inherits_its_neighbours_and_then_rests():
    blocks = BlockGrid((16, 8, 8), (8, 8, 8), (4, 4, 4))
    patch = np.ones((4, *(n + 4 for n in blocks[0].halo_shape)), np.float32)
    blended, _ = stitch.blend(blocks, (1, 0, 0), {(0, 0, 0): patch}.get, np.full(3, 4.0))
    assert blended[0, 0].min() > 0.9  # next to the neighbour
    assert np.abs(blended[0, -3:]).max() < 1e-6  # far from it


class Hostile:
    """Listens to a run and, when the patches of a level are estimated, writes hostile ones in their place."""

    def __init__(self, out: str, kind: str) -> None:
        self.out, self.kind = out, kind

    def plan(self, stages):
        pass

    def stage(self, name, title, blocks, done):
        pass

    def block(self, name, status, index):
        pass

    def finish(self, name):
        if not name.startswith("levels/") or name.count("/") != 1:
            return
        context = open_run(self.out)._context()
        level = context.levels[int(name.split("/")[1])]
        array = context.store.array(name, "patches", write=True)
        patches = hostile_patches(level.blocks, level.lattice.spacing, level.index, self.kind)
        for index, patch in patches.items():
            data = np.zeros(array.shape[3:], np.float32)
            data[tuple(slice(0, n) for n in patch.shape)] = patch
            array.write((*index, 0, 0, 0, 0), data[None, None, None])


@pytest.mark.parametrize("kind", ["random", "directions"])
def test_a_run_of_hostile_patches_ends_without_a_fold(kind, registered, small_config, thread_client, tmp_path):
    """Every level's patches are replaced by hostile ones; everything after them is done by the pipeline as it is."""
    out = str(tmp_path / "hostile.zarr")
    run = register(
        registered.fixed,
        registered.moving,
        out=out,
        config=small_config("ladder.repeats=[2]", "ladder.iterations=[1]"),
        client=thread_client,
        progress=Hostile(out, kind),
    )
    for direction in ("fixed_to_moving", "moving_to_fixed"):
        reader = ngff.FieldReader(run.store.path("transforms", direction))
        field = reader.read(0, (0, 0, 0), reader.grids[0].shape)
        assert float(min_jacobian(field, reader.grids[0].spacing).min()) > 0
        assert np.abs(field).max() > min(reader.grids[0].spacing)  # it did move
