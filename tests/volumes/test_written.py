"""Images in the formats of other programs, read back by libraries that did not write them."""

from __future__ import annotations

import json
import os

import nibabel
import numpy as np
import pytest
import SimpleITK
import tifffile
import zarr

from bigreg.endings import output_format
from bigreg.errors import ConfigError, InputError, OutputError
from bigreg.geometry import Grid
from bigreg.volumes import convert, create_image, open_volume
from bigreg.volumes.channels import channel_names, channel_number
from bigreg.volumes.image_files import write_file
from bigreg.volumes.labelled import looks_like_labels

SHAPE, SPACING, ORIGIN = (5, 7, 9), (4.0, 1.5, 0.65), (30.0, -20.0, 7.0)
NAMES = ["DAPI", "GFP", "RFP"]
WINDOW = {"min": 0, "max": 65535, "start": 100, "end": 9000}
OMERO = {"channels": [{"label": name, "color": "00FF00", "window": WINDOW} for name in NAMES]}


@pytest.fixture
def series(tmp_path):
    """An OME-Zarr of 2 time points and 3 channels; and its voxels (t, c, z, y, x)."""
    data = np.random.default_rng(0).integers(0, 60000, (2, 3, *SHAPE)).astype("u2")
    writer = create_image(
        str(tmp_path / "in.ome.zarr"), [Grid.from_spacing(SHAPE, SPACING, ORIGIN)], "u2", name="a", channels=3, times=2,
        orientation="psl", display={"omero": OMERO, "time": {"step": 30.0, "unit": "second"}},
    )  # fmt: skip
    writer.array(0).write((0,) * 5, data, partial=True)
    return tmp_path / "in.ome.zarr", data


def test_imagej_reads_a_tif_with_its_calibration(series, tmp_path):
    path, data = series
    convert(path, tmp_path / "a.tif")
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        known = file.imagej_metadata
        assert file.series[0].axes == "TZCYX" and not file.is_bigtiff
        assert np.array_equal(file.asarray(), data.transpose(0, 2, 1, 3, 4))
        resolution = [file.pages[0].tags[name].value for name in ("XResolution", "YResolution")]
    assert (known["spacing"], known["unit"], known["finterval"]) == (4.0, "um", 30.0)
    assert known["Labels"][:4] == [*NAMES, "DAPI"]
    assert [b / a for a, b in resolution] == pytest.approx([0.65, 1.5])
    again = open_volume(tmp_path / "a.tif", channel=2, time=1)
    assert again.grid().spacing == pytest.approx(SPACING) and (again.times, again.channels) == (2, 3)
    assert np.array_equal(again.read((0, 0, 0), SHAPE), data[1, 2])


def test_an_ome_tiff_is_big_and_says_everything(series, tmp_path):
    path, data = series
    convert(path, tmp_path / "a.ome.tif")
    with tifffile.TiffFile(tmp_path / "a.ome.tif") as file:
        assert file.is_bigtiff and file.series[0].axes == "TCZYX" and np.array_equal(file.asarray(), data)
        pixels = tifffile.xml2dict(file.ome_metadata)["OME"]["Image"]["Pixels"]
    assert [pixels[f"PhysicalSize{axis}"] for axis in "ZYX"] == list(SPACING)
    assert {pixels[f"PhysicalSize{axis}Unit"] for axis in "ZYX"} == {"µm"}
    assert [channel["Name"] for channel in pixels["Channel"]] == NAMES
    assert (pixels["TimeIncrement"], pixels["TimeIncrementUnit"]) == (30.0, "s")
    assert open_volume(tmp_path / "a.ome.tif", channel=1).grid().spacing == pytest.approx(SPACING)


@pytest.mark.parametrize("name", ["a.tif", "a.ome.tif"])
def test_a_tif_gives_back_the_names_of_channels_and_the_interval(series, tmp_path, name):
    path, data = series
    found = convert(path, tmp_path / name)
    assert channel_names(found) == tuple(NAMES) and found.display["time"] == {"step": 30.0, "unit": "second"}
    picked = open_volume(tmp_path / name, channel=channel_number(found, "RFP"), time=1)
    assert "RFP" in picked.understood["line"] and np.array_equal(picked.read((0, 0, 0), SHAPE), data[1, 2])
    one = convert(path, tmp_path / f"one.{name}", channel=1)
    assert channel_names(one) == ("GFP",) and one.times == 2
    back = convert(tmp_path / name, tmp_path / "back.ome.zarr").display
    assert back["time"] == found.display["time"]
    for channel, kept in enumerate(back["omero"]["channels"]):
        low, high = np.percentile(data[0, channel], (0.1, 99.9))
        assert kept["window"] == {"min": 0, "max": 65535, "start": pytest.approx(low), "end": pytest.approx(high)}
        assert kept["label"] == NAMES[channel] and len(bytes.fromhex(kept["color"])) == 3


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["DAPI", "GFP"] * 3, ("DAPI", "GFP")),
        (["a", "b", "a", "b", "a", "c"], ()),  # the planes of one channel are named apart
        (["a"] * 6, ()),
        ([f"slice {n}" for n in range(6)], ()),
    ],
)
def test_labels_of_planes_are_names_of_channels_only_where_they_agree(tmp_path, labels, names):
    metadata = {"axes": "ZCYX", "spacing": 4.0, "unit": "um", "Labels": labels}
    tifffile.imwrite(tmp_path / "a.tif", np.ones((3, 2, 8, 9), "u2"), imagej=True, metadata=metadata)
    assert channel_names(open_volume(tmp_path / "a.tif", channel=0)) == names


def test_colours_of_an_ome_tiff(tmp_path):
    metadata = {"axes": "CZYX", "Channel": {"Name": ["A", "B"], "Color": [-16776961, 16711935]}}
    tifffile.imwrite(tmp_path / "a.ome.tif", np.ones((2, 3, 8, 9), "u2"), ome=True, metadata=metadata)
    channels = open_volume(tmp_path / "a.ome.tif", channel=0, spacing=SPACING).display["omero"]["channels"]
    assert channels == [{"label": "A", "color": "FF0000"}, {"label": "B", "color": "00FF00"}]


@pytest.mark.parametrize(
    ("unit", "seconds"), [("minute", 90.0), ("millisecond", 1.5e-3), ("hour", 5400.0), (None, None), ("frame", None)]
)
def test_an_interval_is_written_in_seconds_whatever_its_unit(tmp_path, unit, seconds):
    writer = create_image(
        str(tmp_path / "in.ome.zarr"), [Grid.from_spacing(SHAPE, SPACING)], "u2", name="a", times=2,
        display={"time": {"step": 1.5, "unit": unit}},
    )  # fmt: skip
    writer.array(0).write((0,) * 4, np.ones((2, *SHAPE), "u2"), partial=True)
    convert(tmp_path / "in.ome.zarr", tmp_path / "a.tif")
    convert(tmp_path / "in.ome.zarr", tmp_path / "a.ome.tif")
    with tifffile.TiffFile(tmp_path / "a.tif") as file, tifffile.TiffFile(tmp_path / "a.ome.tif") as ome:
        pixels = tifffile.xml2dict(ome.ome_metadata)["OME"]["Image"]["Pixels"]
        assert file.imagej_metadata.get("finterval") == pixels.get("TimeIncrement") == seconds


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd"])
def test_place_and_orientation_are_those_of_itk(series, tmp_path, name):
    """psl: z runs to anterior, y to inferior, x to the right; ITK's world is (left, posterior, superior) mm."""
    path, data = series
    one = convert(path, tmp_path / name, channel=1, time=0)
    image = SimpleITK.ReadImage(str(tmp_path / name))
    assert np.array_equal(SimpleITK.GetArrayFromImage(image), data[0, 1])
    np.testing.assert_allclose(image.GetSpacing(), np.array(SPACING[::-1]) / 1e3, rtol=1e-6)
    z, y, x = 2, 3, 4
    wz, wy, wx = np.array(ORIGIN) + np.array(SPACING) * (z, y, x)
    wanted = np.array([-wx, -wz, -wy]) / 1e3  # right is -L, anterior is -P, inferior is -S
    np.testing.assert_allclose(image.TransformIndexToPhysicalPoint((x, y, z)), wanted, atol=1e-6)
    assert one.orientation == ("ipl" if "nii" in name else "iar")


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nrrd"])
def test_all_time_points_and_channels_come_back(series, tmp_path, name):
    path, data = series
    convert(path, tmp_path / name)
    for t, c in np.ndindex(2, 3):
        found = open_volume(tmp_path / name, time=t, channel=c)
        assert (found.times, found.channels) == (2, 3)
        assert np.array_equal(found.read((0, 0, 0), SHAPE), data[t, c])
    if "nii" in name:
        assert nibabel.load(tmp_path / name).shape == (*SHAPE[::-1], 2, 3)


def test_an_orientation_that_is_not_known_is_not_claimed(tmp_path, caplog):
    data = np.zeros(SHAPE, "f4")
    convert(data, tmp_path / "a.nii", spacing=SPACING, origin=ORIGIN)
    header = nibabel.load(tmp_path / "a.nii").header
    assert header["sform_code"] == header["qform_code"] == 0 and "origin" in caplog.records[0].getMessage()
    found = convert(data, tmp_path / "a.nrrd", spacing=SPACING, origin=ORIGIN)
    assert found.orientation is None and found.grid().origin == pytest.approx(ORIGIN)
    assert found.grid().spacing == pytest.approx(SPACING)


def test_an_axis_longer_than_nifti_1_has(tmp_path):
    data = np.arange(2 * 2 * 40000, dtype="u4").reshape(2, 2, 40000)
    found = convert(data, tmp_path / "a.nii", spacing=SPACING)
    assert isinstance(nibabel.load(tmp_path / "a.nii"), nibabel.Nifti2Image)
    assert np.array_equal(found.read((0, 0, 0), data.shape), data)


@pytest.mark.parametrize("name", ["a.tif", "a.ome.tif", "a.nii.gz", "a.nrrd"])
def test_masks_half_floats_and_64_bits(tmp_path, name):
    mask = np.random.default_rng(1).random(SHAPE) > 0.5
    found = convert(mask, tmp_path / name, spacing=SPACING)
    assert found.dtype == np.uint8 and np.array_equal(found.read((0, 0, 0), SHAPE), mask)
    convert(mask.astype("f2"), tmp_path / name, spacing=SPACING, overwrite=True)
    assert open_volume(tmp_path / name).dtype == np.float32
    ids = mask.astype("u8") * 312782574
    if name.endswith("tif"):
        with pytest.raises(InputError, match=r"holds no uint64; pass dtype"):
            convert(ids, tmp_path / "b.tif", spacing=SPACING)
        found = convert(ids, tmp_path / "b.tif", spacing=SPACING, dtype="uint32")
    else:
        found = convert(ids, tmp_path / f"b{name[1:]}", spacing=SPACING)
    assert np.array_equal(found.read((0, 0, 0), SHAPE), ids)
    assert sorted(p for p in os.listdir(tmp_path) if p.startswith(".")) == []


def test_what_is_not_written_is_refused_before_anything(tmp_path):
    for name, message in (("a.png", "not written as .png"), ("a.ims", ".ims"), ("a.zarr.zip", ".zip"), ("a.n5", ".n5")):
        with pytest.raises(ConfigError, match=message):
            convert(np.zeros(SHAPE), tmp_path / name, spacing=SPACING)
    for keywords in ({"levels": 2}, {"chunks": (8, 8, 8)}, {"ome_version": "0.4"}):
        with pytest.raises(ConfigError, match="leave"):
            convert(np.zeros(SHAPE), tmp_path / "a.tif", spacing=SPACING, **keywords)
    with pytest.raises(ConfigError, match="0.4 or 0.5"):
        convert(np.zeros(SHAPE), tmp_path / "a.ome.zarr", spacing=SPACING, ome_version="0.6")
    (tmp_path / "there.tif").write_text("thesis")
    with pytest.raises(OutputError, match="exists already"):
        convert(np.zeros(SHAPE), tmp_path / "there.tif", spacing=SPACING)
    assert os.listdir(tmp_path) == ["there.tif"] and (tmp_path / "there.tif").read_text() == "thesis"
    assert {output_format(n) for n in ("a", "a.zarr", "run_0.5um", "/x.tif/a.ome.zarr", "s3://b/c.ome.zarr/")} == {
        "OME-Zarr"
    }


def test_an_older_ome_zarr_is_zarr_2_with_every_level(series, tmp_path):
    path, data = series
    convert(path, tmp_path / "old.ome.zarr", ome_version="0.4")
    with open(tmp_path / "old.ome.zarr" / ".zattrs") as file:
        attributes = json.load(file)
    multiscale = attributes["multiscales"][0]
    assert multiscale["version"] == "0.4" and [a["name"] for a in multiscale["axes"]] == list("tczyx")
    assert attributes["omero"] == OMERO and "ome" not in attributes
    array = zarr.open_array(tmp_path / "old.ome.zarr" / "0", mode="r", zarr_format=2)
    assert np.array_equal(array[...], data)
    large = np.random.default_rng(0).integers(0, 99, (70, 80, 150)).astype("u1")
    new, old = (
        convert(large, tmp_path / f"{v}.ome.zarr", spacing=SPACING, ome_version=v, chunks=(32,) * 3, shards=(64,) * 3)
        for v in ("0.5", "0.4")
    )
    assert len(old.levels) == len(new.levels) > 1
    for level, each in enumerate(new.levels):
        assert old.grid(level) == each.grid
        box = (0, 0, 0), each.grid.shape
        assert np.array_equal(old.read(*box, level), new.read(*box, level))
    assert sorted(p for p in os.listdir(tmp_path) if "partial" in p) == []


def test_converting_keeps_every_time_point(series, tmp_path):
    path, data = series
    found = convert(path, tmp_path / "b.ome.zarr")
    assert (found.times, found.channels) == (2, 3) and found.display["omero"] == OMERO
    for t, c in np.ndindex(2, 3):
        assert np.array_equal(found.plane(t, c).read((0, 0, 0), SHAPE), data[t, c])
    one = convert(path, tmp_path / "c.ome.zarr", time=1)
    assert (one.times, one.channels) == (1, 3)
    assert np.array_equal(one.with_channel(2).read((0, 0, 0), SHAPE), data[1, 2])


def test_a_file_is_whole_or_not_there(series, tmp_path):
    path, _ = series

    def stop(done, total, what):
        if done == 7:
            raise KeyboardInterrupt

    for name in ("a.tif", "a.nii.gz", "a.nrrd"):
        with pytest.raises(KeyboardInterrupt):
            write_file(open_volume(path), tmp_path / name, progress=stop)
    assert os.listdir(tmp_path) == ["in.ome.zarr"]


def regions(ids, dtype):
    """Blocks of 6 voxels, one number each."""
    picked = np.random.default_rng(2).integers(0, len(ids), (6, 12, 12))
    return np.array(ids, dtype)[picked].repeat(6, 0).repeat(6, 1).repeat(6, 2)


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (regions([0, 1, 2, 7, 9, 11, 40, 200], "u1"), True),
        (regions([0, 997, 3127], "u2"), True),
        (regions([0, 997, 312782574], "u4"), True),
        (regions([0, 1], "bool"), False),
        (regions([0, 1, 2], "f4"), False),
        (np.random.default_rng(0).poisson(3, (40, 60, 60)).astype("u1"), False),
        (np.random.default_rng(0).normal(900, 30, (40, 60, 60)).astype("u2"), False),
        (np.zeros((20, 20, 20), "u1"), False),
        ((90 + 40 * np.sin(np.indices((40, 90, 90)).sum(0) / 60)).astype("u1"), False),
        (np.indices((20, 40, 40)).sum(0).astype("u2"), False),
    ],
)
def test_labels_are_told_from_images(data, found):
    assert (looks_like_labels(open_volume(data, spacing=SPACING)) is not None) == found


def test_ome_zarr_labels_are_labels(tmp_path):
    noise = np.random.default_rng(0).poisson(3, (20, 30, 30)).astype("u1")
    convert(noise, tmp_path / "a.ome.zarr", spacing=SPACING, labels=True)
    assert "metadata" in (looks_like_labels(open_volume(tmp_path / "a.ome.zarr")) or "")
