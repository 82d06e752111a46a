"""What files state in their rarer ways, and what they leave open, written by tifffile, pynrrd and nibabel."""

from __future__ import annotations

import nibabel
import nrrd
import numpy as np
import pytest
import tifffile

from bigreg import open_volume

DATA = (np.arange(6 * 7 * 8) % 251).reshape(6, 7, 8).astype("u2")
SPACING = (3.0, 1.5, 0.7)


def imagej(path, **known):
    resolution = (1 / SPACING[2], 1 / SPACING[1])
    metadata = {"axes": "ZYX", "spacing": SPACING[0], "unit": "um", **known}
    tifffile.imwrite(path, DATA, imagej=True, resolution=resolution, metadata=metadata)
    return open_volume(path)


def test_the_origin_of_imagej_is_the_voxel_at_zero(tmp_path):
    volume = imagej(tmp_path / "a.tif", xorigin=10, yorigin=-4, zorigin=2.5)
    assert np.allclose(volume.grid().index_to_world(np.array([[2.5, -4, 10]])), 0, atol=1e-5)
    assert np.allclose(volume.spacing, SPACING, rtol=1e-5)
    assert imagej(tmp_path / "b.tif", xorigin="left").grid().origin == (0, 0, 0)


@pytest.mark.parametrize(("centering", "shift"), [("cell", 0.5), ("node", 0.0), (None, 0.0)])
def test_axis_mins_of_an_nrrd_are_its_position(tmp_path, centering, shift):
    header = {"spacings": SPACING[::-1], "units": ["um"] * 3, "axis mins": [10, 20, 30]}
    if centering is not None:
        header["centerings"] = [centering] * 3
    nrrd.write(str(tmp_path / "a.nrrd"), DATA.T, header)
    expected = np.array([30, 20, 10]) + shift * np.array(SPACING)
    assert np.allclose(open_volume(tmp_path / "a.nrrd").grid().origin, expected)


def test_axis_mins_are_in_the_units_of_their_axes(tmp_path):
    header = {"spacings": [0.0007, 1.5, 3000], "units": ["mm", "um", "nm"], "axis mins": [0.01, 20, 30000]}
    nrrd.write(str(tmp_path / "a.nrrd"), DATA.T, header)
    volume = open_volume(tmp_path / "a.nrrd")
    assert np.allclose(volume.grid().origin, (30, 20, 10)) and np.allclose(volume.spacing, SPACING)


@pytest.mark.parametrize(("by", "unit"), [(1.0, "µm"), (0.001, "mm")])
@pytest.mark.parametrize("directions", [True, False])
def test_an_nrrd_without_a_unit_says_what_it_is_taken_for(tmp_path, by, unit, directions):
    steps = np.array([2.0, 3.0, 4.0]) * by
    known = {"space": "LPS", "space directions": np.diag(steps)} if directions else {"spacings": steps}
    nrrd.write(str(tmp_path / "a.nrrd"), DATA.T, known)
    volume = open_volume(tmp_path / "a.nrrd")
    assert np.allclose(volume.spacing, (4, 3, 2))
    assert f"; its unit is not stated, taken as {unit})" in volume.understood["line"]


@pytest.mark.parametrize("unit", ["unknown", "mm"])
def test_a_nifti_without_a_unit_says_so(tmp_path, unit):
    image = nibabel.Nifti1Image(DATA.T, np.diag([0.002, 0.003, 0.004, 1]))
    image.header.set_xyzt_units(unit)
    nibabel.save(image, tmp_path / "a.nii")
    told = open_volume(tmp_path / "a.nii").understood["line"]
    assert ("unit is not stated, mm by the standard" in told) is (unit == "unknown") and "4 x 3 x 2 µm" in told


def test_planes_that_were_written_one_by_one_are_a_stack_and_told(tmp_path, caplog):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for plane in DATA:
            file.write(plane, contiguous=False)
    assert len(tifffile.TiffFile(tmp_path / "a.tif").series) == len(DATA)
    volume = open_volume(tmp_path / "a.tif", spacing=SPACING)
    assert np.array_equal(np.asarray(volume), DATA)
    assert "6 images of one plane each are taken as the planes" in caplog.text


def test_images_of_several_sizes_are_no_stack(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for plane in (*DATA, DATA[0, :4]):
            file.write(plane, contiguous=False)
    with pytest.raises(Exception, match="2-D"):
        open_volume(tmp_path / "a.tif", spacing=SPACING)


def test_a_tiff_whose_white_is_zero_is_told(tmp_path, caplog):
    tifffile.imwrite(tmp_path / "a.tif", DATA, photometric="miniswhite")
    assert np.array_equal(np.asarray(open_volume(tmp_path / "a.tif", spacing=SPACING)), DATA)
    assert "MinIsWhite" in caplog.text
