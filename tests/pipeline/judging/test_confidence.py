"""The risk that a run keeps of every tile: where it lies, and that it finds what went wrong."""

from __future__ import annotations

import numpy as np

from bigreg import load_config, open_volume, register
from bigreg.phantom import make_pair
from bigreg.pipeline.judging import confidence
from bigreg.quality.confidence import LARGE, RISKY, TILE
from bigreg.quality.verdict import DOUBTFUL


def test_the_risk_is_an_image_of_the_fixed_frame(registered):
    image = open_volume(registered.run.store.path("confidence"))
    assert image.shape == tuple(-(-n // TILE) for n in registered.fixed[0].shape)
    spacing = np.asarray(registered.fixed[1])
    assert np.allclose(image.grid().spacing, spacing * TILE)
    assert np.allclose(image.grid().origin, (TILE - 1) / 2 * spacing)
    large = registered.run.store.array("confidence", "0").attributes
    assert large["large_voxels"] == LARGE and np.allclose(large["large_um"], LARGE * spacing)
    values = image.read((0, 0, 0), image.shape)
    known = np.isfinite(values)
    assert known.any() and values[known].min() >= 0 and values[known].max() <= 1
    metrics = registered.run.metrics()["stages/confidence"]
    assert metrics["tiles"].sum() == known.sum() and metrics["risky"].sum() == (values[known] >= RISKY).sum()


def test_a_good_map_is_not_doubted_for_the_empty_space_beside_the_sample(registered):
    """Noise beside the brain may lie anywhere: such tiles are at risk, but not among the places with structure."""
    totals = {name: np.nansum(values) for name, values in registered.run.metrics()["stages/confidence"].items()}
    assert totals["structured"] > 0.2 * totals["tiles"]
    assert totals["expected"] < DOUBTFUL * totals["structured"]


def test_blocks_of_tiles_tell_what_one_block_tells(registered, monkeypatch):
    context = registered.run._context()
    tiles = confidence.tiles_of(context)
    stored = context.store.array("confidence", "0")[...]
    monkeypatch.setattr(confidence, "CORE", 2)
    blocks = confidence.blocks_of(tiles)
    assert len(blocks) > 8
    for index in ((0, 0, 0), (1, 1, 2), tuple(n - 1 for n in blocks.counts)):
        block = blocks[index]
        (found,) = confidence.block_features(context, block.halo_start, block.halo_stop)
        inner = tuple(slice(a - o, b - o) for a, b, o in zip(block.start, block.stop, block.halo_start, strict=True))
        found = {name: values[inner] for name, values in found.items()}
        part = confidence.risk(found, confidence.disagreement(context, block.start, block.stop))
        assert np.allclose(part, stored[tuple(map(slice, block.start, block.stop))], atol=5e-3, equal_nan=True)


def risk_and_error(seed, client, folder):
    """(N,) of tiles that can be judged, of a pair that no affine was looked for, of which a part is missing: the risk,
    and whether they are off by more than LARGE voxels."""
    pair = make_pair((48, 72, 80), (4.0, 2.6, 2.6), seed=seed)
    moving = pair.moving.copy()
    moving[14:34, 20:44, 24:52] = np.percentile(moving, 1)
    settings = ["affine.kind=none", "blocks.core=40", "blocks.halo=12", "ladder.samples=2"]
    bare = ["output.report=false", "output.warped=false", "output.sigma=false"]
    run = register(
        (pair.fixed, pair.spacing), (moving, pair.spacing), out=str(folder / f"{seed}.zarr"),
        config=load_config(preset="rounds", overrides=[*settings, *bare]), client=client,
    )  # fmt: skip
    points = np.moveaxis(np.indices(pair.fixed.shape), 0, -1).reshape(-1, 3) * np.asarray(pair.spacing)
    truth = pair.truth.reshape(3, -1).T
    error = np.linalg.norm((run.map_points(points) - truth) / pair.spacing, axis=1)
    inside = ((truth >= 0) & (truth <= (np.array(moving.shape) - 1) * pair.spacing)).all(1)
    z, y, x = (n // TILE for n in moving.shape)
    error = np.where(inside, error, np.nan).reshape(z, TILE, y, TILE, x, TILE)
    known = np.isfinite(error).mean((1, 3, 5)) >= 0.5
    risk = run.store.array("confidence", "0")[...]
    known &= np.isfinite(risk)
    return risk[known], np.nanmean(error, (1, 3, 5))[known] > LARGE


def test_places_that_went_wrong_are_flagged(thread_client, tmp_path):
    """Of two pairs, as some fifty tiles of one at a risk of .5 are too few to count."""
    pairs = [risk_and_error(seed, thread_client, tmp_path) for seed in (41, 42)]
    risk, large = (np.concatenate(each) for each in zip(*pairs, strict=True))
    flagged = risk >= RISKY
    assert 0.05 < large.mean() < 0.7
    assert (flagged & large).sum() / large.sum() >= 0.9
    # RISKY is low so that little is missed: what is flagged is more often wrong than the rest, not mostly wrong.
    assert (flagged & large).sum() / flagged.sum() > large.mean()
    # Half of those at .5 and more are, as the risk is a probability.
    assert large[risk >= 0.5].mean() >= 0.5
    assert abs(risk.mean() - large.mean()) < 0.1
