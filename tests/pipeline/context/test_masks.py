"""Masks: what they hide does not pull, however loud it is; found tissue is tissue."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from scipy import ndimage

from bigreg import load_config, open_run, open_volume, register
from bigreg.errors import InputError, OutputError
from bigreg.pipeline.context.context import Context
from bigreg.pipeline.context.images import LevelImage, create_level, fill_level, preparation
from bigreg.pipeline.context.masks import SourceMask, find_tissue, given_masks, require_some
from bigreg.pipeline.planning.plan import make_plan, plan
from bigreg.pipeline.store.damage import _owner
from bigreg.pipeline.store.store import RunStore
from bigreg.pipeline.tasks.start import THICKER, counted, percentiles, thickened
from bigreg.quality.metrics import target_registration_error
from bigreg.volumes import convert

from ...volumes.ramps import write_n5


def brain(noise=0.01, seed=0):
    """A bright ellipsoid with holes and texture on a dim ground, a speck of dirt beside it, and where it truly is."""
    rng = np.random.default_rng(seed)
    z, y, x = np.indices((40, 56, 64))
    inside = ((z - 20) / 15) ** 2 + ((y - 28) / 20) ** 2 + ((x - 30) / 24) ** 2 < 1
    image = 0.05 + inside * (0.5 + 0.3 * ndimage.gaussian_filter(rng.standard_normal(inside.shape), 2) * 5)
    image[18:22, 26:30, 28:32] = 0.05  # a ventricle
    image[2:4, 2:4, 60:62] = 0.9
    return (image + noise * rng.standard_normal(image.shape)).astype(np.float32), inside


def test_tissue_is_found_without_dirt_and_holes():
    image, inside = brain()
    found = find_tissue(image)
    assert found[inside].mean() > 0.99 and found[20, 28, 30]
    assert not found[2, 2, 60]
    assert found.sum() < 1.6 * inside.sum()  # the margin of two voxels is in it


@pytest.mark.parametrize("kind", ["noise", "ramp"])
def test_an_image_without_background_is_all_tissue(kind):
    rng = np.random.default_rng(0)
    image = {"noise": rng.random((20, 20, 20)), "ramp": np.indices((20, 20, 20)).sum(0) / 57}[kind]
    assert find_tissue(image.astype(np.float32)).all()


def test_what_masks_hide_does_not_pull(pair, registered, thread_client, small_config, tmp_path):
    """A loud pattern in a third of both images that says something else: hidden, it is as if it were not there."""
    rng = np.random.default_rng(1)
    loud = (pair.moving.max() * ndimage.gaussian_filter(rng.random(pair.fixed.shape), 1.5) * 4).astype(
        pair.moving.dtype
    )
    fixed, moving = pair.fixed.copy(), pair.moving.copy()
    fixed[:, :18], moving[:, :18] = loud[:, :18], np.roll(loud, 4, axis=2)[:, :18]
    mask = np.ones(fixed.shape, np.uint8)
    mask[:, :22] = 0
    convert(mask, tmp_path / "mask.ome.zarr", spacing=pair.spacing, labels=True)
    masks = [f"masks.{which}={tmp_path / 'mask.ome.zarr'}" for which in ("fixed", "moving")]
    run = register((fixed, pair.spacing), (moving, pair.spacing), out=str(tmp_path / "r.zarr"),
                   config=small_config(*masks), client=thread_client)  # fmt: skip

    index = np.argwhere(pair.mask & (np.indices(fixed.shape)[1] >= 26))[::7]
    points, truth = index * np.asarray(pair.spacing), pair.truth[:, *index.T].T.astype(float)
    with_loud, without = (target_registration_error(r.map_points(points), truth).mean for r in (run, registered.run))
    assert with_loud < 0.6 * min(pair.spacing)
    assert with_loud < 1.1 * without


def test_masks_that_cannot_be_used_are_refused_before_any_work(pair, tmp_path):
    def start(mask):
        config = load_config(preset="demo", overrides=[f"masks.moving={mask}"])
        register((pair.fixed, pair.spacing), (pair.moving, pair.spacing), out=str(tmp_path / "r.zarr"), config=config)

    with pytest.raises(InputError, match=r"nothing\.tif"):
        start(tmp_path / "nothing.tif")
    convert(np.ones((8, 8, 8), np.uint8), tmp_path / "far.ome.zarr", spacing=(1, 1, 1), origin=(1e5, 0, 0))
    with pytest.raises(InputError, match="do not overlap"):
        start(tmp_path / "far.ome.zarr")
    assert not (tmp_path / "r.zarr").exists()


def test_a_mask_that_hides_everything_is_refused(pair, thread_client, small_config, tmp_path):
    convert(np.zeros(pair.fixed.shape, np.uint8), tmp_path / "empty.ome.zarr", spacing=pair.spacing)
    with pytest.raises(Exception, match="mask is empty"):
        register((pair.fixed, pair.spacing), (pair.moving, pair.spacing), out=str(tmp_path / "r.zarr"),
                 config=small_config(f"masks.fixed={tmp_path / 'empty.ome.zarr'}"), client=thread_client)  # fmt: skip


def test_found_tissue_serves_a_run(pair, registered, thread_client, small_config, tmp_path):
    settings = small_config("masks.fixed=tissue", "masks.moving=tissue")
    run = register(registered.fixed, registered.moving, out=str(tmp_path / "r.zarr"), config=settings,
                   client=thread_client)  # fmt: skip
    index = np.argwhere(pair.mask)[::29]
    points, truth = index * np.asarray(pair.spacing), pair.truth[:, *index.T].T.astype(float)
    assert target_registration_error(run.map_points(points), truth).mean < 0.6 * min(pair.spacing)
    assert 0.05 < run.store.array("masks", "fixed")[...].mean() < 0.95


# --------------------------------------------------------------------------------------------- what is a mask of what

SHAPE, SPACING = (20, 24, 28), (4.0, 2.0, 2.0)


def image_of(folder, **keywords):
    convert(np.zeros(SHAPE, np.uint16), folder / "fixed.ome.zarr", spacing=SPACING)
    return open_volume(folder / "fixed.ome.zarr", name="fixed", **keywords)


def given(choice, image):
    config = load_config(preset="demo", overrides=[f"masks.fixed={choice}"])
    return given_masks(config, {"fixed": image, "moving": image})[1]["fixed"]


def written_tiff(folder, mask):
    tifffile.imwrite(folder / "m.tif", mask)
    return folder / "m.tif"


def written_slices(folder, mask):
    (folder / "slices").mkdir()
    for number, plane in enumerate(mask):
        tifffile.imwrite(folder / f"slices/{number}.tif", plane)
    return folder / "slices"


def written_nrrd(folder, mask):
    nrrd = pytest.importorskip("nrrd")
    nrrd.write(str(folder / "m.nrrd"), mask.transpose(2, 1, 0), {"spacings": [2.0, 2.0, 4.0]})
    return folder / "m.nrrd"


def written_nifti(folder, mask):
    nibabel = pytest.importorskip("nibabel")
    image = nibabel.Nifti1Image(mask.transpose(2, 1, 0), np.diag([0.002, 0.002, 0.004, 1.0]))
    image.header.set_xyzt_units("mm")
    nibabel.save(image, folder / "m.nii.gz")
    return folder / "m.nii.gz"


def written_n5(folder, mask):
    write_n5(folder / "m.n5/tissue/s0", mask, {"pixelResolution": [2.0, 2.0, 4.0]})
    write_n5(folder / "m.n5/other/s0", mask[:10], {"pixelResolution": [2.0, 2.0, 4.0]})
    return folder / "m.n5/tissue"


def written_hdf5(folder, mask):
    h5py = pytest.importorskip("h5py")
    with h5py.File(folder / "m.h5", "w") as file:
        file["volumes/mask"] = mask
        file["volumes/raw"] = mask
    return folder / "m.h5/volumes/mask"


def written_zarr(folder, mask):
    convert(mask, folder / "m.ome.zarr", spacing=SPACING, labels=True)
    return folder / "m.ome.zarr"


FORMATS = [written_tiff, written_slices, written_nrrd, written_nifti, written_n5, written_hdf5, written_zarr]


@pytest.mark.parametrize("written", FORMATS, ids=[f.__name__.removeprefix("written_") for f in FORMATS])
def test_any_readable_image_is_a_mask_with_or_without_a_spacing(written, tmp_path):
    mask = np.ones(SHAPE, np.uint8)
    mask[4:9, 3:5, 10:20] = 0
    image = image_of(tmp_path)
    found = given(written(tmp_path, mask), image)
    covered = SourceMask("fixed", found.to_json((1, 1, 1))).covers(image.grid())
    assert np.array_equal(covered, mask > 0)


@pytest.mark.parametrize(
    ("spacing", "origin", "message"),
    [
        ((4.0, 2.5, 2.0), (0, 0, 0), r"they differ by up to \(0, 11.\d+, 0\) µm"),
        ((4.0, 2.0, 2.0), (0, 0, 9.0), r"they differ by up to \(0, 0, 9\) µm"),
        ((0.004, 0.002, 0.002), (0, 0, 0), r"spans .* \(shape \(20, 24, 28\), spacing \(0.004, 0.002, 0.002\)\)"),
        ((4.0, 2.0, 2.0), (1e5, 0, 0), "do not overlap"),
    ],
    ids=["spacing", "origin", "mm for um", "elsewhere"],
)
def test_a_mask_that_lies_elsewhere_is_refused_with_the_numbers(spacing, origin, message, tmp_path):
    convert(np.ones(SHAPE, np.uint8), tmp_path / "m.ome.zarr", spacing=spacing, origin=origin)
    with pytest.raises(InputError, match=message):
        given(tmp_path / "m.ome.zarr", image_of(tmp_path))


def test_a_mask_on_coarser_voxels_may_end_a_voxel_early(tmp_path):
    convert(np.ones((10, 11, 13), np.uint8), tmp_path / "m.ome.zarr", spacing=(8.0, 4.0, 4.0), origin=(2, 1, 1))
    assert given(tmp_path / "m.ome.zarr", image_of(tmp_path)) is not None


def test_a_mask_of_another_shape_without_a_spacing_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"states no spacing, and its shape \(20, 24, 17\) .* \(20, 24, 28\)"):
        given(written_tiff(tmp_path, np.ones((20, 24, 17), np.uint8)), image_of(tmp_path))


def test_a_mask_follows_its_image_where_the_spacing_of_both_files_is_overruled(tmp_path):
    mask = written_zarr(tmp_path, np.ones(SHAPE, np.uint8))
    image = image_of(tmp_path, spacing=(5.0, 1.0, 1.0))
    assert given(mask, image).grid == image.grid()


def test_several_datasets_are_told_apart_by_the_path(tmp_path):
    written_hdf5(tmp_path, np.ones(SHAPE, np.uint8))
    with pytest.raises(InputError, match="pass PATH/DATASET as its path with one of volumes/mask, volumes/raw"):
        given(tmp_path / "m.h5", image_of(tmp_path))


def test_a_mask_painted_anew_is_another_mask(tmp_path):
    image, mask = image_of(tmp_path), np.ones(SHAPE, np.uint8)
    before = given(written_tiff(tmp_path, mask), image).identity
    assert given(written_tiff(tmp_path, mask), image).identity == before
    mask[3, 4, 5] = 0
    assert given(written_tiff(tmp_path, mask), image).identity != before


def test_a_mask_that_leaves_next_to_nothing_is_refused():
    require_some("fixed", "m.tif", 0.02)
    with pytest.raises(InputError, match=r"'m.tif' leaves 0.40% of fixed"):
        require_some("fixed", "m.tif", 0.004)


def test_intensities_are_scaled_by_what_is_inside_the_mask():
    values = np.linspace(0, 100, 1000).reshape(10, 10, 10)
    inside = values < 60
    values[~inside] = 65535
    assert percentiles("fixed", values, 0, 100, inside) == pytest.approx((0, 60), abs=0.1)


# ------------------------------------------------------------------------------------------------------ through a run


CORE = "blocks.core=24"


def bubble(shape, centre, radius):
    return sum((a - c) ** 2 for a, c in zip(np.indices(shape), centre, strict=True)) < radius**2


@pytest.fixture(scope="module")
def masked(pair, thread_client, small_config, tmp_path_factory):
    """Runs of the small pair whose fixed image holds `value` in a ball and at a border: made once for each."""
    folder, kept = tmp_path_factory.mktemp("masked"), {}
    out = bubble(pair.fixed.shape, (18, 24, 30), 7)
    out[:, :5] = True
    _, y, x = np.indices(out.shape)
    out |= np.abs(x - 0.4 * y - 30) < 1  # a sheet of two voxels, on the blocks of no level
    tifffile.imwrite(folder / "mask.tif", (~out).astype(np.uint8))

    def run(value, choice="given", *, swapped=False):
        key = f"{value}-{choice}-{swapped}"
        if key not in kept:
            fixed, name = pair.fixed.astype(np.float32), "moving" if swapped else "fixed"
            fixed[out] = value
            path = folder / "mask.tif" if choice == "given" else choice
            images = ((fixed, pair.spacing), (pair.moving.astype(np.float32), pair.spacing))
            kept[key] = register(*(images[::-1] if swapped else images), out=str(folder / f"{key}.zarr"),
                                 config=small_config(CORE, f"masks.{name}={path}"), client=thread_client)  # fmt: skip
        return kept[key]

    return run


def test_what_stands_under_a_mask_changes_no_bit(masked, same_bits):
    assert same_bits(masked(1e6), masked(-5.0))


@pytest.mark.parametrize("choice", ["given", "finite"])
def test_nan_under_a_mask_runs_to_the_end_and_changes_no_bit(choice, masked, same_bits):
    run = masked(np.nan, choice)
    assert same_bits(masked(1e6), run)
    assert np.isfinite([value for _, _, value, _, _ in run.summary()]).all()
    assert (open_volume(f"{run.url}/warped").read((0, 0, 0), (8, 8, 8)) >= 0).all() and run.report()


def test_swapping_the_images_inverts_the_result_under_a_mask(masked):
    there, back = masked(np.nan), masked(np.nan, swapped=True)
    np.testing.assert_allclose(back.affine @ there.affine, np.eye(4), atol=1e-6)
    for ours, theirs in (("fixed_to_moving", "moving_to_fixed"), ("moving_to_fixed", "fixed_to_moving")):
        a, b = there.store.array("transforms", ours, "0")[...], back.store.array("transforms", theirs, "0")[...]
        np.testing.assert_allclose(a, b, atol=1e-3)


def test_a_run_is_gone_on_with_under_the_same_mask_alone(masked, pair, small_config, thread_client):
    run = masked(1e6)
    path = run.config.masks.fixed
    mask = tifffile.imread(path)
    fixed = np.where(mask > 0, pair.fixed, 1e6).astype(np.float32)

    def again():
        images = (fixed, pair.spacing), (pair.moving.astype(np.float32), pair.spacing)
        return register(*images, out=run.url, config=small_config(CORE, f"masks.fixed={path}"), client=thread_client)

    again()
    painted = mask.copy()
    painted[3:6, 30:33, 30:33] = 0
    tifffile.imwrite(path, painted)
    try:
        with pytest.raises(OutputError, match="another fixed mask"):
            again()
    finally:
        tifffile.imwrite(path, mask)


def test_a_damaged_chunk_of_a_mask_sets_its_block_back(masked):
    owner = _owner(masked(1e6).store, ["masks", "fixed", "1x2x2"], np.array([0, 128, 0]), np.full(3, 128))
    assert owner == ("stages/prepare/fixed-1x2x2", (0, 1, 0))


def test_a_plan_refuses_a_mask_that_does_not_fit(pair, tmp_path):
    convert(np.ones(pair.fixed.shape, np.uint8), tmp_path / "m.ome.zarr", spacing=(1, 1, 1))
    with pytest.raises(InputError, match="fixed mask .* they differ by up to"):
        plan((pair.fixed, pair.spacing), (pair.moving, pair.spacing),
             config=load_config(preset="demo", overrides=[f"masks.fixed={tmp_path / 'm.ome.zarr'}"]))  # fmt: skip


def test_a_mask_that_is_thin_everywhere_serves_the_start(pair, small_config, tmp_path):
    """Sheets of one voxel in five: no voxel of the start's small image is half inside."""
    mask = np.zeros(pair.fixed.shape, np.uint8)
    mask[:, :, ::5] = 1
    tifffile.imwrite(tmp_path / "mask.tif", mask)
    volumes = {w: open_volume(getattr(pair, w), spacing=pair.spacing, name=w) for w in ("fixed", "moving")}
    store = RunStore(str(tmp_path / "r.zarr"))
    config, found = given_masks(small_config(f"masks.fixed={tmp_path / 'mask.tif'}"), volumes)
    store.create({"config": config.model_dump(mode="json"), "masks": {"fixed": found["fixed"].to_json((1, 1, 1))}})
    mask = SourceMask("fixed", found["fixed"].to_json((1, 1, 1)))
    for step in preparation(volumes["fixed"], [(2, 4, 4)], mask):
        for index in np.ndindex(*create_level(store, volumes["fixed"], step, mask)):
            fill_level(store, volumes["fixed"], step, index, mask)
    image = LevelImage(store, volumes["fixed"], (2, 4, 4), mask)
    assert not (image.weights.shares((0, 0, 0), image.grid.shape) > 0.5).any()
    assert counted(Context(store.url, "test"), "fixed", image).mean() > 0.5


def test_a_run_that_may_look_at_thin_sheets_alone_is_right_in_them(pair, small_config, thread_client, tmp_path):
    """Two voxels in eight: on coarser levels no voxel is half inside, and no place between voxels in the start."""
    fixed, sheets = pair.fixed.copy(), np.zeros(pair.fixed.shape, bool)
    sheets[..., ::8] = sheets[..., 1::8] = True
    fixed[~sheets] = np.random.default_rng(0).integers(0, 60000, int((~sheets).sum()))
    tifffile.imwrite(tmp_path / "mask.tif", sheets.astype(np.uint8))
    run = register((fixed, pair.spacing), (pair.moving, pair.spacing), out=str(tmp_path / "r.zarr"),
                   config=small_config(f"masks.fixed={tmp_path / 'mask.tif'}"), client=thread_client)  # fmt: skip
    index = np.argwhere(pair.mask & sheets)[::5]
    points, truth = index * np.asarray(pair.spacing), pair.truth[:, *index.T].T.astype(float)
    assert target_registration_error(run.map_points(points), truth).mean < 0.6 * min(pair.spacing)


@pytest.mark.parametrize("thick", [3, 12])
def test_a_thin_mask_is_thicker_in_the_start_and_nothing_else_is_seen_there(thick):
    inside = np.zeros((24, 30, 32), bool)
    inside[:, 8 : 8 + thick] = True
    image = np.where(inside, np.indices(inside.shape).sum(0), 1e9).astype(np.float32)
    values, counted = thickened(image, inside)
    if thick == 12:
        assert values is image and counted is inside
    else:
        assert counted.sum() == (thick + 2 * THICKER) * 24 * 32
        assert values[counted].max() < 100 and np.array_equal(values[inside], image[inside])


def test_the_plan_knows_what_is_read_of_a_mask(pair, small_config, tmp_path):
    """Twice as fine as the image, of 4 bytes a voxel; labels of one byte; and none, where the voxels say it."""
    fine = pair.fixed.repeat(2, 0).repeat(2, 1).repeat(2, 2) > 0
    half = tuple(s / 2 for s in pair.spacing)
    convert(fine.astype(np.float32), tmp_path / "fine.ome.zarr", spacing=half, origin=[-s / 2 for s in half])
    tifffile.imwrite(tmp_path / "labels.tif", (pair.fixed > 0).astype(np.uint8))
    read = {}
    for choice in (f"{tmp_path / 'fine.ome.zarr'}", f"{tmp_path / 'labels.tif'}:1", "finite"):
        images = [(getattr(pair, which).astype(np.float32), pair.spacing) for which in ("fixed", "moving")]
        found = plan(*images, config=small_config(f"masks.fixed={choice}")).work.stages
        (work,) = (w for w in found if w.name == "stages/prepare/fixed-1x1x1")
        read[choice] = sum(amount.total for amount in work.source) / pair.fixed.size
    assert list(read.values()) == [32.0, 1.0, 4.0]


def test_a_mask_is_kept_as_fine_as_what_is_compared(masked):
    run = masked(1e6)
    kept = run.store.array("masks", "fixed", "1x1x1")[...]
    assert np.array_equal(kept > 0, tifffile.imread(run.config.masks.fixed) > 0)
    assert open_run(run.url).store.attributes["masks"]["fixed"]["identity"]["content"]


def test_what_masks_add_to_a_run_is_foreseen(masked):
    run = masked(1e6)
    context = run._context()
    work = make_plan(context.frames, context.volumes, context.config).work
    for stored in (a for a in work.arrays if a.place.startswith(("masks/", "images/"))):
        array = run.store.array(stored.place)
        assert (array.shape, array.chunks, array.dtype.itemsize) == (stored.shape, stored.unit, stored.itemsize)
    assert {"masks/fixed/1x1x1", "masks/fixed/1x2x2"} <= {a.place for a in work.arrays}
    prepared = {f"stages/prepare/{p.name}" for p in Path(run.url, "stages/prepare").iterdir() if p.is_dir()}
    assert prepared == {w.name for w in work.stages if w.name.startswith("stages/prepare/")}
