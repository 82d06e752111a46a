"""Weights: what a mask leaves out is in no voxel that is compared, at any resolution, however the mask lies."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
import torch
import zarr

from bigreg.config import load_config
from bigreg.errors import InputError
from bigreg.geometry import Grid
from bigreg.pipeline.context.images import LevelImage, create_level, fill_level, looked_up, preparation
from bigreg.pipeline.context.masks import PIECE, SourceMask, given_mask, given_masks, labels_of
from bigreg.pipeline.context.weights import WHOLE
from bigreg.pipeline.store.store import RunStore
from bigreg.transforms.positions import Positions
from bigreg.volumes import block_mean, convert, open_volume, weighted_block_mean

SHAPE, SPACING = (40, 48, 56), (2.0, 1.0, 1.0)
LEVELS = [(1, 1, 1), (1, 2, 2), (2, 4, 4)]


def ball(centre=(20, 24, 28), radius=8):
    return sum((a - c) ** 2 for a, c in zip(np.indices(SHAPE), centre, strict=True)) < radius**2


def opened(values, folder, *, pyramid=True):
    """An image `fixed` with its own pyramid, or an array in memory without one."""
    if not pyramid:
        return open_volume(values, spacing=SPACING, name="fixed")
    return open_volume(convert(values, folder / "fixed.ome.zarr", spacing=SPACING).spec, name="fixed")


def given(choice, volume, base=(1, 1, 1)):
    config = load_config(preset="demo", overrides=[f"masks.fixed={choice}"])
    _, found = given_masks(config, {"fixed": volume, "moving": volume})
    return SourceMask("fixed", found["fixed"].to_json(base))


def made(volume, mask, folder, levels=LEVELS):
    """A store with the levels that a run would make."""
    store = RunStore(str(folder / "run.zarr"))
    store.create({})
    for step in preparation(volume, levels, mask):
        for index in np.ndindex(*create_level(store, volume, step, mask)):
            fill_level(store, volume, step, index, mask)
    return store


def whole(image):
    box = (0, 0, 0), image.grid.shape
    return image.read(*box), image.weights.read(*box)


def test_weighted_means_with_equal_weights_are_the_plain_means():
    values = np.random.default_rng(0).integers(0, 65535, (9, 8, 10)).astype(np.uint16)
    means, weights = weighted_block_mean(values, np.full(values.shape, WHOLE, np.uint8), (2, 2, 2))
    assert np.array_equal(means, block_mean(values, (2, 2, 2))) and (weights == WHOLE).all()


def test_weighted_means_leave_out_what_has_no_weight():
    values = np.array([[[10.0, 20.0, 1e9, 1e9]]], np.float32)
    means, weights = weighted_block_mean(values, np.array([[[128, 64, 0, 0]]], np.uint8), (1, 1, 4))
    assert means[0, 0, 0] == pytest.approx((2 * 10 + 20) / 3) and weights[0, 0, 0] == 48


@pytest.mark.parametrize("pyramid", [True, False])
def test_nothing_of_a_bubble_is_in_a_voxel_that_counts(pyramid, tmp_path):
    values = np.full(SHAPE, 100, np.uint16)
    values[ball()] = 60000
    volume = opened(values, tmp_path, pyramid=pyramid)
    tifffile.imwrite(tmp_path / "mask.tif", (~ball()).astype(np.uint8))
    mask = given(tmp_path / "mask.tif", volume)
    store = made(volume, mask, tmp_path)
    for factors in LEVELS:
        seen, weights = whole(LevelImage(store, volume, factors, mask))
        assert (seen[weights > 0] == 100).all() and 0.97 < (weights / WHOLE).mean() < 0.99


def test_a_level_of_the_images_own_counts_only_where_the_mask_holds_all_of_a_voxel(tmp_path):
    """Where the finest level that is compared is one of the image's own, its voxels mix what the mask tells apart."""
    values = np.full(SHAPE, 100, np.uint16)
    values[ball()] = 60000
    volume = opened(np.pad(values, 20, mode="edge"), tmp_path)
    tifffile.imwrite(tmp_path / "mask.tif", np.pad((~ball()).astype(np.uint8), 20, mode="edge"))
    assert len(volume.levels) > 1 and volume.levels[1].factors == (1.0, 2.0, 2.0)
    mask = given(tmp_path / "mask.tif", volume, base=(1, 2, 2))
    store = made(volume, mask, tmp_path, LEVELS[1:])
    for factors in LEVELS[1:]:
        seen, weights = whole(LevelImage(store, volume, factors, mask))
        assert (seen[weights > 0] == 100).all() and (weights > 0).mean() > 0.98


def test_points_next_to_a_masked_bubble_see_nothing_of_it(tmp_path):
    values = np.full(SHAPE, 100, np.uint16)
    values[ball()] = 60000
    volume = opened(values, tmp_path)
    tifffile.imwrite(tmp_path / "mask.tif", (~ball()).astype(np.uint8))
    mask = given(tmp_path / "mask.tif", volume)
    image = LevelImage(made(volume, mask, tmp_path), volume, (1, 2, 2), mask)
    places = Positions.of_grid(Grid.from_spacing((30, 40, 40), (2.3, 1.1, 1.2), (3.1, 1.7, 2.3)))
    found, seen = looked_up(image, places)
    assert 0.5 < float(seen.float().mean()) < 1.0
    assert torch.allclose(
        found, torch.tensor(100.0)
    )  # just beyond the edge the values go on, and then stand their mean


def test_masked_features_of_two_voxels_are_kept_out_at_every_level(tmp_path):
    """Vessels: far finer than the small image of the start, and not on the blocks of any level."""
    rng = np.random.default_rng(1)
    vessels = np.zeros(SHAPE, bool)
    for z, y in rng.integers(1, (SHAPE[0] - 3, SHAPE[1] - 3), (12, 2)):
        vessels[z : z + 2, y : y + 2] = True
    values = np.where(vessels, 60000, rng.integers(90, 110, SHAPE)).astype(np.uint16)
    volume = opened(values, tmp_path)
    convert((~vessels).astype(np.uint8), tmp_path / "mask.ome.zarr", spacing=SPACING, labels=True)
    mask = given(tmp_path / "mask.ome.zarr", volume)
    store = made(volume, mask, tmp_path)
    assert np.array_equal(LevelImage(store, volume, (1, 1, 1), mask).weights.counted((0, 0, 0), SHAPE), ~vessels)
    for factors in LEVELS:
        seen, weights = whole(LevelImage(store, volume, factors, mask))
        assert seen[weights > 0].max() < 110


@pytest.mark.parametrize("factors", [(2, 2, 2), (1, 3, 1)])
def test_a_coarser_mask_masks_all_of_each_of_its_voxels(factors, tmp_path):
    volume = opened(np.full(SHAPE, 100, np.uint16), tmp_path)
    coarse = np.ones([-(-n // f) for n, f in zip(SHAPE, factors, strict=True)], np.uint8)
    coarse[5:8, 6, 3:9] = 0
    tifffile.imwrite(tmp_path / "mask.tif", coarse)
    fine = coarse
    for axis, factor in enumerate(factors):
        fine = np.repeat(fine, factor, axis)
    covered = given(tmp_path / "mask.tif", volume).covers(volume.grid())
    assert np.array_equal(covered, fine[tuple(slice(0, n) for n in SHAPE)] > 0)


def test_a_mask_whose_axes_are_turned_is_read_where_it_lies(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    inside = ~ball((12, 30, 20), 7)
    turned = np.flip(inside.transpose(2, 1, 0), 0).astype(np.uint8)  # stored (x reversed, y, z), as NIfTI has it
    affine = np.diag([-1.0, 1.0, 2.0, 1.0]) / 1000
    affine[:3, 3] = ((SHAPE[2] - 1) / 1000, 0, 0)
    affine[3, 3] = 1
    image = nibabel.Nifti1Image(turned, affine)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, tmp_path / "mask.nii.gz")
    straight = nibabel.Nifti1Image(np.zeros(SHAPE[::-1], np.uint8), np.diag([1, 1, 2, 1000]) / 1000)
    straight.header.set_xyzt_units("mm")
    nibabel.save(straight, tmp_path / "fixed.nii.gz")
    volume = open_volume(tmp_path / "fixed.nii.gz", name="fixed")
    covered = given(tmp_path / "mask.nii.gz", volume).covers(volume.grid())
    assert np.array_equal(covered, inside)


HOSTILE = {
    "floats with NaN and Inf": lambda inside, rng: np.where(
        inside, 0.25, rng.choice([0.0, np.nan, np.inf, -np.inf], SHAPE)
    ),
    "negative floats": lambda inside, rng: np.where(inside, -1e-30, -0.0).astype("f4"),
    "half floats": lambda inside, rng: inside.astype("f2"),
    "big endian": lambda inside, rng: (inside * 256).astype(">u2"),
    "inverted": lambda inside, rng: ~inside,
    "8 bytes": lambda inside, rng: inside * np.uint64(2**40),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_whatever_a_mask_is_made_of_what_is_not_0_and_a_number_counts(kind, tmp_path):
    inside = ~ball()
    values = HOSTILE[kind](inside, np.random.default_rng(0))
    zarr.save_array(tmp_path / "mask.zarr", values)
    volume = opened(np.full(SHAPE, 100, np.uint16), tmp_path)
    mask = given(tmp_path / "mask.zarr", volume)
    expected = ~inside if kind == "inverted" else inside
    assert np.array_equal(mask.covers(volume.grid()), expected)


@pytest.mark.parametrize("labels", [(1,), (2, 40000)])
def test_a_mask_may_be_labels_of_a_label_image(labels, tmp_path):
    ids = np.random.default_rng(0).choice([0, 1, 2, 40000], SHAPE).astype(np.uint32)
    convert(ids, tmp_path / "ids.ome.zarr", spacing=SPACING, labels=True)
    volume = opened(np.full(SHAPE, 100, np.uint16), tmp_path)
    choice = f"{tmp_path / 'ids.ome.zarr'}:{','.join(map(str, labels))}"
    assert np.array_equal(given(choice, volume).covers(volume.grid()), np.isin(ids, labels))
    config, found = given_masks(
        load_config(preset="demo", overrides=[f"masks.fixed={choice}"]), dict.fromkeys(("fixed", "moving"), volume)
    )
    assert config.masks.fixed == choice and found["fixed"].identity["labels"] == list(labels)
    assert found["fixed"].identity != given_mask(f"{tmp_path / 'ids.ome.zarr'}:7", "fixed", volume).identity


def test_a_path_that_ends_like_labels_is_a_path_where_it_is_one(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif:1", np.ones(SHAPE, np.uint8))
    assert labels_of(str(tmp_path / "a.tif:1")) == (str(tmp_path / "a.tif:1"), ())
    assert labels_of("s3://bucket/a.ome.zarr:3,1,3") == ("s3://bucket/a.ome.zarr", (1, 3))
    assert labels_of("a.n5/labels/s0") == ("a.n5/labels/s0", ())


@pytest.mark.parametrize("spacing", [(0.5, 0.25, 0.25), (3.0, 1.5, 1.4)], ids=["much finer", "of another kind"])
def test_what_is_read_of_a_mask_does_not_grow_with_it(spacing, tmp_path, monkeypatch):
    volume = opened(np.full(SHAPE, 100, np.uint16), tmp_path)
    grid = volume.grid().resampled(spacing)
    inside = np.ones(grid.shape, np.uint8)
    inside[:, grid.shape[1] // 2 : grid.shape[1] // 2 + 2] = 0  # a sheet of two voxels
    convert(inside, tmp_path / "mask.ome.zarr", spacing=grid.spacing, origin=grid.origin, labels=True)
    mask, sizes = given(tmp_path / "mask.ome.zarr", volume), []
    read = type(volume).read
    monkeypatch.setattr(
        type(volume), "read", lambda v, a, b, *more: sizes.append(np.prod(np.subtract(b, a))) or read(v, a, b, *more)
    )
    covered = mask.covers(volume.grid())
    assert max(sizes) <= (PIECE + 2) ** 3
    gone = np.unique(np.argwhere(~covered)[:, 1])
    assert len(gone) in (1, 2, 3, 4) and abs(gone.mean() - SHAPE[1] / 2) < 2 and not covered[:, gone].any()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_is_read_as_0_where_a_mask_leaves_it_out(value, tmp_path):
    values = np.full(SHAPE, 100, np.float32)
    values[ball()] = value
    volume = opened(values, tmp_path)
    tifffile.imwrite(tmp_path / "mask.tif", (~ball()).astype(np.uint8))
    for choice in (tmp_path / "mask.tif", "finite"):
        mask = given(choice, volume)
        store = made(volume, mask, tmp_path / str(choice)[-3:])
        seen, weights = whole(LevelImage(store, volume, (1, 1, 1), mask))
        assert (seen[ball()] == 0).all() and (weights[ball()] == 0).all() and (weights[~ball()] == WHOLE).all()
        seen, weights = whole(LevelImage(store, volume, (2, 4, 4), mask))
        assert np.isfinite(seen).all() and (seen[weights > 0] == 100).all()


def test_what_is_no_number_and_not_left_out_is_named_and_the_remedy_works(tmp_path):
    values = np.full(SHAPE, 100, np.float32)
    values[3, 4, 5] = values[30, 4, 5] = np.nan
    volume = opened(values, tmp_path)
    with pytest.raises(InputError, match=r"voxel \(3, 4, 5\) .* not a finite number; .*masks\.fixed=finite"):
        LevelImage(None, volume, (1, 1, 1)).read((0, 0, 0), SHAPE)
    inside = np.ones(SHAPE, np.uint8)
    inside[:10] = 0
    tifffile.imwrite(tmp_path / "mask.tif", inside)
    mask = given(tmp_path / "mask.tif", volume)
    store = made(volume, mask, tmp_path, [(1, 1, 1)])
    with pytest.raises(InputError, match=r"voxel \(30, 4, 5\) .* and fixed's mask does not leave it out"):
        LevelImage(store, volume, (1, 1, 1), mask).read((0, 0, 0), SHAPE)
    mask = given("finite", volume)
    store = made(volume, mask, tmp_path / "finite")
    assert np.isfinite(LevelImage(store, volume, (2, 4, 4), mask).read((0, 0, 0), (20, 12, 14))).all()
