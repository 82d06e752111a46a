"""What somebody who looks at a run is told."""

from __future__ import annotations

import numpy as np
import pytest

from bigreg.errors import InputError
from bigreg.pipeline.looking.pyramids import PYRAMIDS
from bigreg.pipeline.store.store import Status


def whole(level) -> np.ndarray:
    return level.read((0, 0, 0), level.grid.shape)


def test_a_box_of_anything_is_that_part_of_the_whole(registered):
    for what in PYRAMIDS:
        level = registered.run.pyramid(what)[0]
        stop = tuple(min(3 + length, n) for length, n in zip((4, 6, 5), level.grid.shape, strict=True))
        box = tuple(slice(3, b) for b in stop)
        part = level.read((3, 3, 3), stop)
        assert part.size and np.allclose(part, whole(level)[..., *box], atol=1e-5, equal_nan=what == "risk"), what
        assert whole(level).shape == level.shape and part.dtype == level.dtype, what


def test_coarser_levels_cover_the_same_place(registered):
    for what in PYRAMIDS:
        levels = registered.run.pyramid(what)
        for level in levels[1:]:  # the risk has one
            (low, high), (first, last) = (g.bounds(faces=True) for g in (level.grid, levels[0].grid))
            assert np.allclose(low, first) and (np.abs(high - last) < level.grid.spacing).all(), what


def test_moving_after_the_affine_is_moving_where_the_affine_leads(registered):
    fixed, moving = registered.run.pyramid("fixed")[0], registered.run.pyramid("moving")[0]
    image = whole(registered.run.pyramid("affine")[0])
    index = np.array([[20, 30, 31]])
    affine = registered.run.affine
    there = moving.grid.world_to_index(fixed.grid.index_to_world(index) @ affine[:3, :3].T + affine[:3, 3])[0]
    low = np.floor(there).astype(int)
    corners = moving.read(tuple(low.tolist()), tuple((low + 2).tolist())).astype(float)
    for weight in there - low:
        corners = corners[0] * (1 - weight) + corners[1] * weight
    assert abs(image[tuple(index[0])] - corners) < 1


def test_a_determinant_says_of_a_fold_at_all_its_samples(registered):
    determinant = registered.run.pyramid("jacobian")[0]
    assert whole(determinant).min() > 0
    figures = {(group, name): value for group, name, value, _, _ in registered.run.summary()}
    assert whole(determinant).min() >= figures["regularity", "smallest Jacobian, fixed_to_moving"] - 1e-4


def test_each_stage_says_how_its_blocks_fared(registered):
    run = registered.run
    for stage, blocks in run.blocks().items():
        status = run.block_status(stage)
        assert status.shape == blocks.grid.shape and set(np.unique(status)) <= {Status.DONE, Status.BLANK}, stage
        report = run.block(stage, (0, 0, 0))
        assert report.status in (Status.DONE, Status.BLANK) and report.worker, stage
    assert run.contrast("fixed")[0] < run.contrast("fixed")[1]


def test_what_there_is_not_is_refused_by_name(registered):
    run = registered.run
    with pytest.raises(InputError, match="'colour' is unknown; a run shows fixed"):
        run.pyramid("colour")
    with pytest.raises(InputError, match="no stage 'levels/77' with blocks in space"):
        run.block_status("levels/77")
    with pytest.raises(InputError, match="no stage 'stages/affine' with blocks"):
        run.patches("stages/affine", (0, 0, 0))
    with pytest.raises(InputError, match=r"levels/0 has no block \(0, 0, 99\)"):
        run.patches("levels/0", (0, 0, 99))
