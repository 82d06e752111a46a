"""Warping: every plane of every kind of image, onto every grid, and whole or not at all."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr

from bigreg import chain, open_volume
from bigreg.cluster import local_client
from bigreg.config import Cluster
from bigreg.errors import ConfigError, CorruptDataError, InputError, OutputError
from bigreg.geometry import Grid
from bigreg.pipeline.results.target import target_grid
from bigreg.pipeline.tasks.averaging import averaging_factors
from bigreg.pipeline.tasks.estimate import peak_memory
from bigreg.transforms.affine import about
from bigreg.volumes import convert, create_image
from bigreg.volumes.channels import channel_names
from bigreg.volumes.pyramid import block_mean, block_mode

SHAPE, SPACING, ORIGIN = (21, 37, 45), (4.0, 2.6, 2.6), (50.0, -20.0, 7.0)
TURN = about(
    np.array([[1.0, 0.05, -0.03], [-0.04, 1.0, 0.1], [0.02, -0.1, 1.0]]), np.array([90.0, 28.0, 65.0]),
    np.array([92.0, 27.0, 66.0]),
)  # fmt: skip
WINDOW = {"min": 0, "max": 65535, "start": 100, "end": 9000}
OMERO = {
    "channels": [{"label": name, "color": "00FF00", "window": WINDOW} for name in ("DAPI", "GFP", "RFP")],
    "rdefs": {"defaultZ": 3},
}


@pytest.fixture
def through(tmp_path):
    """A transform file as a map, on a grid."""

    def make(matrix=None, grid=None):
        matrix = np.eye(4) if matrix is None else matrix
        np.savetxt(tmp_path / "matrix.csv", matrix, delimiter=",", fmt="%.17g")
        grid = grid or Grid.from_spacing(SHAPE, SPACING, ORIGIN)
        frame = open_volume(np.zeros(grid.shape, np.uint8), spacing=grid.spacing, origin=grid.origin)
        return chain(str(tmp_path / "matrix.csv"), fixed=frame, moving=frame)

    return make


def noise(*shape, dtype="uint16", seed=0):
    return np.random.default_rng(seed).integers(1, 1000, shape).astype(dtype)


def whole(volume, level=0):
    return volume.read((0, 0, 0), volume.grid(level).shape, level)


def series(path, times=2, channels=3):
    """An image of several time points and channels, written by this package; and its voxels."""
    data = noise(times, channels, *SHAPE)
    grid = Grid.from_spacing(SHAPE, SPACING, ORIGIN)
    writer = create_image(
        str(path), [grid], "uint16", name="series", chunks=(16, 16, 16), shards=(32, 32, 32), channels=channels,
        times=times, display={"omero": OMERO, "time": {"step": 30.0, "unit": "second"}},
    )  # fmt: skip
    writer.array(0).write((0,) * 5, data, partial=True)
    return str(path), data


def old_series(path, times=2, channels=3):
    """The same as OME-Zarr 0.4."""
    data = noise(times, channels, *SHAPE)
    group = zarr.create_group(path, zarr_format=2)
    names = [("t", "time", "second"), ("c", "channel", None), *((n, "space", "micrometer") for n in "zyx")]
    steps = [
        {"type": "scale", "scale": [30.0, 1.0, *SPACING]}, {"type": "translation", "translation": [0.0, 0.0, *ORIGIN]}
    ]  # fmt: skip
    group.attrs["multiscales"] = [
        {
            "version": "0.4",
            "axes": [{"name": n, "type": t} | ({"unit": u} if u else {}) for n, t, u in names],
            "datasets": [{"path": "0", "coordinateTransformations": steps}],
        }
    ]
    group.attrs["omero"] = OMERO
    group.create_array("0", shape=data.shape, chunks=(1, 1, 16, 16, 16), dtype="uint16")[:] = data
    return str(path), data


# ------------------------------------------------------------------------------------------------- planes


@pytest.mark.parametrize("make", [series, old_series])
def test_all_channels_and_time_points_come_with_their_names(tmp_path, through, make):
    path, data = make(tmp_path / "in.ome.zarr")
    out = through().warp(path, out=str(tmp_path / "out.ome.zarr"))
    assert (out.times, out.channels, out.shape) == (2, 3, SHAPE)
    for t, c in product(range(2), range(3)):
        assert np.array_equal(whole(out.plane(t, c)), data[t, c])
    ome = zarr.open_group(tmp_path / "out.ome.zarr", mode="r").attrs["ome"]
    assert ome["omero"] == OMERO
    assert ome["multiscales"][0]["axes"][0] == {"name": "t", "type": "time", "unit": "second"}
    assert ome["multiscales"][0]["datasets"][0]["coordinateTransformations"][0]["scale"] == [30.0, 1.0, *SPACING]


@pytest.mark.parametrize("name", ["out.tif", "out.ome.tif"])
def test_a_tif_has_the_names_of_channels_and_the_interval(tmp_path, through, name):
    path, data = series(tmp_path / "in.ome.zarr")
    out = through().warp(path, out=str(tmp_path / name))
    assert channel_names(out) == ("DAPI", "GFP", "RFP") and out.display["time"] == {"step": 30.0, "unit": "second"}
    with tifffile.TiffFile(tmp_path / name) as file:
        known = file.imagej_metadata
        if name == "out.tif":
            assert known is not None and known["Labels"][:3] == ["DAPI", "GFP", "RFP"] and known["finterval"] == 30.0
            assert np.array_equal(file.asarray(), data.swapaxes(1, 2))
        else:
            pixels = tifffile.xml2dict(file.ome_metadata)["OME"]["Image"]["Pixels"]
            assert [channel["Name"] for channel in pixels["Channel"]] == ["DAPI", "GFP", "RFP"]
            assert pixels["TimeIncrement"] == 30.0 and np.array_equal(file.asarray(), data)


def test_chosen_channels_and_a_chosen_time_point(tmp_path, through):
    path, data = series(tmp_path / "in.ome.zarr")
    out = through().warp(path, out=str(tmp_path / "two.ome.zarr"), channels=[2, 0])
    assert (out.times, out.channels) == (2, 2)
    assert np.array_equal(whole(out.plane(1, 1)), data[1, 2])
    named = zarr.open_group(tmp_path / "two.ome.zarr", mode="r").attrs["ome"]["omero"]["channels"]
    assert [channel["label"] for channel in named] == ["DAPI", "RFP"]
    one = through().warp(open_volume(path, time=1, channel=1), out=str(tmp_path / "one.ome.zarr"))
    assert (one.times, one.channels) == (1, 1) and np.array_equal(whole(one), data[1, 1])
    with pytest.raises(InputError, match="0 to 2"):
        through().warp(path, out=str(tmp_path / "none.ome.zarr"), channels=[3])


def test_converting_keeps_the_names_of_channels(tmp_path):
    path, _ = series(tmp_path / "in.ome.zarr", times=1)
    convert(path, tmp_path / "all.ome.zarr")
    assert open_volume(tmp_path / "all.ome.zarr").display["omero"] == OMERO
    convert(path, tmp_path / "one.ome.zarr", channel=1)
    assert open_volume(tmp_path / "one.ome.zarr").display["omero"]["channels"][0]["label"] == "GFP"


# ------------------------------------------------------------------------------------------------- labels, masks


def test_labels_keep_exactly_their_ids_on_every_level(tmp_path, through):
    ids = np.array([0, 7, 2**24 + 1, 2**24 + 2, 2**32 - 5], np.uint32)
    data = ids[noise(9, 9, 11, dtype=int) % 5].repeat(12, 0).repeat(12, 1).repeat(12, 2)
    convert(data, tmp_path / "labels.ome.zarr", spacing=SPACING, labels=True)
    frame = Grid.from_spacing(data.shape, SPACING)
    out = through(TURN, frame).warp(tmp_path / "labels.ome.zarr", out=str(tmp_path / "o"), interpolation="nearest")
    assert out.dtype == np.uint32 and len(out.levels) == 3
    assert set(np.unique(whole(out))) == set(ids)
    assert set(np.unique(whole(out, 1))) == set(ids)
    assert "image-label" in zarr.open_group(tmp_path / "o", mode="r").attrs["ome"]


def test_a_mask_stays_a_mask(tmp_path, through):
    data = np.zeros(SHAPE, bool)
    data[5:15, 10:20, 10:30] = True
    shift = np.eye(4)
    shift[2, 3] = 0.3 * SPACING[2]
    image = open_volume(data, spacing=SPACING, origin=ORIGIN)
    out = whole(through(shift).warp(image, out=str(tmp_path / "m")))
    assert out.dtype == bool and np.array_equal(out[:, :, :-1], data[:, :, :-1])


# ------------------------------------------------------------------------------------------------- grids


def test_a_coarse_output_shows_means_of_images_and_the_commonest_labels(tmp_path, through):
    data = noise(48, 64, 80)
    grid = Grid.from_spacing(data.shape, SPACING, ORIGIN)
    coarse = grid.downsampled((4, 4, 4))
    image = open_volume(data, spacing=SPACING, origin=ORIGIN)
    out = through(grid=grid).warp(image, out=str(tmp_path / "image"), onto=coarse)
    assert np.array_equal(whole(out), block_mean(data, (4, 4, 4)))
    few = open_volume(data % 5, spacing=SPACING, origin=ORIGIN)
    out = through(grid=grid).warp(few, out=str(tmp_path / "labels"), onto=coarse, interpolation="nearest")
    assert np.array_equal(whole(out), block_mode(data % 5, (4, 4, 4)))


def test_means_come_of_the_images_own_pyramid_where_it_has_them(tmp_path, through):
    data = noise(100, 120, 140)
    convert(data, tmp_path / "in.ome.zarr", spacing=SPACING, chunks=(16,) * 3, shards=(32,) * 3)
    level = zarr.open_array(tmp_path / "in.ome.zarr" / "1", mode="r+")
    level[:] = 77  # so that it shows which one was read
    grid = Grid.from_spacing(data.shape, SPACING)
    through = through(grid=grid)
    out = through.warp(tmp_path / "in.ome.zarr", out=str(tmp_path / "o"), onto=grid.downsampled((1, 2, 2)))
    assert (whole(out) == 77).all()


@pytest.mark.parametrize(("step", "factor"), [(1.0, 1), (1.5, 1), (2.0, 2), (3.0, 2), (4.0, 4), (8.0, 8)])
def test_an_image_is_averaged_by_as_much_as_it_is_finer(step, factor):
    image = Grid.from_spacing((64, 64, 64), (1.0, 1.0, 1.0))
    output = Grid.from_spacing((8, 8, 8), (step, 1.0, 1.0))
    assert averaging_factors(image, output, np.eye(4)) == (factor, 1, 1)
    turned = np.eye(4)[[2, 0, 1, 3]]
    assert averaging_factors(image, output, turned)[1] == factor


def test_another_spacing_a_level_and_a_box_cover_what_they_say(tmp_path):
    base = Grid.from_spacing((40, 100, 130), SPACING, ORIGIN)
    other = target_grid(base, spacing=(8.0, 5.2, 5.2))
    np.testing.assert_allclose(other.bounds(faces=True), base.bounds(faces=True))
    assert other.shape == (20, 50, 65)
    own = convert(noise(40, 100, 130), tmp_path / "a.ome.zarr", spacing=SPACING, origin=ORIGIN)
    assert target_grid(own, level=1) == own.grid(1)
    assert target_grid(base, level=1) == base.downsampled((1, 2, 2))
    part = target_grid(base, box=((60.0, 101.0), (None, 30.0), (100.0, None)))
    low, high = part.bounds()
    assert (low >= (60, -20, 100)).all() and (high <= (101, 30, 343)).all()
    assert part.shape == (10, 20, 94)


def test_a_grid_that_cannot_be_is_refused_by_name():
    base = Grid.from_spacing(SHAPE, SPACING, ORIGIN)
    for given, text in (
        ({"spacing": (1, 1, 1), "level": 1}, "choose one"),
        ({"spacing": (1, 1, 0)}, "positive"),
        ({"level": 9}, "out of range"),
        ({"box": ((3, 2), (0, 1), (0, 1))}, "empty"),
    ):
        with pytest.raises(ConfigError, match=text):
            target_grid(base, **given)
    with pytest.raises(InputError, match="no voxel"):
        target_grid(base, box=((9e3, 9.1e3), (None, None), (None, None)))


def test_a_box_of_the_output_is_that_part_of_the_whole(tmp_path, through):
    image = open_volume(noise(*SHAPE), spacing=SPACING, origin=ORIGIN)
    full = through(TURN).warp(image, out=str(tmp_path / "full"))
    part = through(TURN).warp(image, out=str(tmp_path / "part"), box=((70, 100), (0, 50), (20, None)))
    at = np.rint(full.grid().world_to_index(np.array([part.grid().origin]))[0]).astype(int)
    box = tuple(slice(a, a + n) for a, n in zip(at, part.shape, strict=True))
    assert np.abs(whole(full)[box].astype(int) - whole(part)).max() <= 1


# ------------------------------------------------------------------------------------------------- whole or not at all


@pytest.fixture
def interrupted(tmp_path, through):
    """A warp that ended in the middle, since its source was damaged: how to call it again, and the damaged file."""
    data = noise(40, 60, 270)
    convert(data, tmp_path / "in.ome.zarr", spacing=SPACING, chunks=(64,) * 3, shards=(64,) * 3)
    last = tmp_path / "in.ome.zarr" / "0" / "c" / "0" / "0" / "4"
    content = last.read_bytes()
    last.write_bytes(content[:-40])
    map_ = through(grid=Grid.from_spacing(data.shape, SPACING))
    call = lambda **more: map_.warp(tmp_path / "in.ome.zarr", out=str(tmp_path / "o.ome.zarr"), **more)  # noqa: E731
    with pytest.raises(CorruptDataError):
        call()
    return call, lambda: last.write_bytes(content), data, tmp_path / "o.ome.zarr"


def test_an_unfinished_output_is_no_image_and_is_gone_on_with(interrupted):
    call, mend, data, out = interrupted
    with pytest.raises(InputError, match="not an image"):
        open_volume(out)
    before = {p: p.stat().st_mtime_ns for p in Path(out, "0").rglob("c/*/*/*")}
    assert len(before) == 2
    mend()
    assert np.array_equal(whole(call()), data)
    assert all(p.stat().st_mtime_ns == t for p, t in before.items())
    assert not (out / "unfinished").exists()


def test_another_command_does_not_go_on_with_it_nor_overwrite(interrupted):
    call, mend, _, _ = interrupted
    mend()
    with pytest.raises(OutputError, match="another command"):
        call(interpolation="cubic")
    call()
    with pytest.raises(OutputError, match="exists already"):
        call()


# ------------------------------------------------------------------------------------------------- workers


def test_workers_write_the_same_bits_as_one_process(tmp_path, through, thread_client):
    path, _ = series(tmp_path / "in.ome.zarr")
    seen = []
    one = through(TURN).warp(path, out=str(tmp_path / "one"), spacing=(2.0, 1.3, 1.3))
    through(TURN).warp(
        path, out=str(tmp_path / "many"), spacing=(2.0, 1.3, 1.3), client=thread_client,
        progress=lambda done, total, what: seen.append((done, total)),
    )  # fmt: skip
    assert len(one.levels) == 2
    for level in range(2):
        names = ("one", "many")
        a, b = (zarr.open_array(tmp_path / name / str(level), mode="r")[:] for name in names)
        assert np.array_equal(a, b) and a.any()
    assert seen[-1][0] == seen[-1][1] == 2 * 3 * 2


def test_an_array_in_memory_is_not_sent_to_workers(tmp_path, through, thread_client):
    with pytest.raises(InputError, match="convert"):
        through().warp((noise(*SHAPE), SPACING), out=str(tmp_path / "o"), client=thread_client)


def test_the_memory_of_a_worker_does_not_grow_with_the_image(tmp_path, through):
    with local_client(Cluster(workers=1)) as client:
        peaks = []
        # The first already fills the cache of decoded chunks and what the allocator keeps.
        for number, shape in enumerate([(256, 512, 512), (256, 512, 1024)]):
            source = convert(noise(*shape), tmp_path / f"{number}.ome.zarr", spacing=SPACING, shards=(128,) * 3)
            through(TURN, source.grid()).warp(source, out=str(tmp_path / f"out{number}"), client=client)
            peaks.append(max(client.run(peak_memory).values()))
    assert peaks[1] <= 1.1 * peaks[0]


# ------------------------------------------------------------------------------------------------- what is written


def test_ids_stay_ids_where_nobody_says_how_to_interpolate(tmp_path, through, caplog):
    ids = np.array([0, 3, 7, 40, 99, 120, 201, 250], np.uint8)
    data = ids[noise(4, 6, 8, dtype=int) % 8].repeat(6, 0).repeat(7, 1).repeat(6, 2)
    image = open_volume(data, spacing=SPACING, origin=ORIGIN)
    caplog.set_level("INFO")
    found = whole(through(TURN).warp(image, out=str(tmp_path / "a")))
    assert set(np.unique(found)) <= set(ids) and "interpolation: nearest" in caplog.text
    assert not set(np.unique(whole(through(TURN).warp(image, out=str(tmp_path / "b"), interpolation="linear")))) <= set(
        ids
    )


@pytest.mark.parametrize("name", ["o.tif", "o.ome.tif", "o.nii.gz", "o.nrrd"])
def test_a_warped_image_is_what_its_name_says(tmp_path, through, name):
    path, data = series(tmp_path / "in.ome.zarr")
    out = through().warp(path, out=str(tmp_path / name))
    assert (tmp_path / name).is_file() and (out.times, out.channels, out.shape) == (2, 3, SHAPE)
    for t, c in product(range(2), range(3)):
        assert np.array_equal(whole(out.plane(t, c)), data[t, c])
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["in.ome.zarr", "matrix.csv", name])
    with pytest.raises(OutputError, match="exists already"):
        through().warp(path, out=str(tmp_path / name))


def test_dtype_levels_and_version_of_a_warped_image(tmp_path, through):
    data = noise(40, 70, 150)
    frame = Grid.from_spacing(data.shape, SPACING)
    image = open_volume(data, spacing=SPACING)
    one = through(grid=frame).warp(image, out=str(tmp_path / "a"), dtype="uint8", levels=1)
    assert one.dtype == np.uint8 and len(one.levels) == 1 and whole(one).max() == 255
    old = through(grid=frame).warp(image, out=str(tmp_path / "old.ome.zarr"), ome_version="0.4")
    assert (
        zarr.open_group(tmp_path / "old.ome.zarr", mode="r", zarr_format=2).attrs["multiscales"][0]["version"] == "0.4"
    )
    assert len(old.levels) > 1 and np.array_equal(whole(old), data)
    for keywords, message in (({"dtype": "voxel"}, "not a type"), ({"ome_version": "3"}, "0.4 or 0.5")):
        with pytest.raises(ConfigError, match=message):
            through(grid=frame).warp(image, out=str(tmp_path / "b.ome.zarr"), **keywords)
    with pytest.raises(ConfigError, match=r"\.png"):
        through(grid=frame).warp(image, out=str(tmp_path / "b.png"))
    assert not list(tmp_path.glob("*b.*"))


def test_a_file_that_was_stopped_is_made_by_the_same_call(tmp_path, through):
    path, data = series(tmp_path / "in.ome.zarr")

    def stop(done, total, what):
        if what == "write":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        through().warp(path, out=str(tmp_path / "o.tif"), progress=stop)
    assert not (tmp_path / "o.tif").exists()
    out = through().warp(path, out=str(tmp_path / "o.tif"))
    assert np.array_equal(whole(out.plane(1, 2)), data[1, 2])


def test_one_of_several_channels_is_asked_for_where_it_matters(tmp_path):
    from bigreg import doctor, plan, register

    path, _ = series(tmp_path / "in.ome.zarr", times=1)
    other = open_volume(noise(*SHAPE), spacing=SPACING)
    for call in (plan, doctor, lambda f, m: register(f, m, out=str(tmp_path / "run.zarr"), config="rounds")):
        with pytest.raises(InputError, match=r"3 channels \(DAPI, GFP, RFP\), .* pass open_volume's channel N"):
            call(other, path)
    assert not (tmp_path / "run.zarr").exists()
    assert plan(other, open_volume(path, channel=1), config="rounds").stages


def test_a_dtype_that_the_format_does_not_hold_is_refused_before_anything_is_resampled(tmp_path, through):
    image = open_volume(noise(*SHAPE).astype("i8"), spacing=SPACING)
    with pytest.raises(InputError, match=r"o\.tif' \(TIFF\) holds no int64; pass dtype"):
        through().warp(image, out=str(tmp_path / "o.tif"))
    assert not list(tmp_path.glob("*o.tif*"))
